/* What the routes of alarms declare. */
#ifndef GANTRY_API_ALARMS_H
#define GANTRY_API_ALARMS_H

#include "api/route.h"

extern const Param alarms_params[];
extern const BodySpec acknowledge_body;

#endif
