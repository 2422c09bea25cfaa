/* What the routes of schedules declare. */
#ifndef GANTRY_API_SCHEDULES_H
#define GANTRY_API_SCHEDULES_H

#include "api/route.h"

extern const BodySpec schedule_body;

#endif
