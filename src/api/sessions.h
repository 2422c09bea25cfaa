/* What the routes of sessions' state declare. */
#ifndef GANTRY_API_SESSIONS_H
#define GANTRY_API_SESSIONS_H

#include "api/route.h"

extern const BodySpec worker_state_body;

#endif
