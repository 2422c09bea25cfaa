/* What the routes of probes and figures declare. */
#ifndef GANTRY_API_HEALTH_H
#define GANTRY_API_HEALTH_H

#include "api/route.h"

extern const Param readyz_params[];
extern const Param signals_params[];

#endif
