/* What the routes of flags declare. */
#ifndef GANTRY_API_FLAGS_H
#define GANTRY_API_FLAGS_H

#include "api/route.h"

extern const BodySpec flag_body;
extern const BodySpec ofrep_body;

#endif
