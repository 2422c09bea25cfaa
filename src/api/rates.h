/* What the routes of rate limits and breakers declare. */
#ifndef GANTRY_API_RATES_H
#define GANTRY_API_RATES_H

#include "api/route.h"

extern const BodySpec rates_body;

#endif
