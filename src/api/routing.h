/* What the routes of rollouts declare. */
#ifndef GANTRY_API_ROUTING_H
#define GANTRY_API_ROUTING_H

#include "api/route.h"

extern const BodySpec rollout_body;
extern const BodySpec rollback_body;

#endif
