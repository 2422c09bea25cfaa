/* What the routes of response caches declare. */
#ifndef GANTRY_API_CACHES_H
#define GANTRY_API_CACHES_H

#include "api/route.h"

extern const BodySpec cache_purge_body;

#endif
