/* What the route of events declares. */
#ifndef GANTRY_API_EVENTS_H
#define GANTRY_API_EVENTS_H

#include "api/route.h"

extern const Param events_params[];

#endif
