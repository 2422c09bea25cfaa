/* The gateway at the server's port: model calls of tenants and tasks. */
#ifndef GANTRY_API_MODELS_H
#define GANTRY_API_MODELS_H

#include "api/route.h"

extern const Param accounts_params[];

/* The answer for a path below /v1/ that no route has, or none with that method. allow lists those
 * it has. */
int model_no_route_wait(ApiCall *call, Str allow);

#endif
