/* What the route that retries many tasks declares. */
#ifndef GANTRY_API_REDRIVE_H
#define GANTRY_API_REDRIVE_H

#include "api/route.h"

extern const BodySpec retry_many_body;

#endif
