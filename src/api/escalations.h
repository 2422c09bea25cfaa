/* What the routes of questions to people declare. */
#ifndef GANTRY_API_ESCALATIONS_H
#define GANTRY_API_ESCALATIONS_H

#include "api/route.h"

extern const BodySpec resolve_body;
extern const BodySpec worker_escalate_body;

#endif
