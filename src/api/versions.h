/* What the routes of agents and versions declare, and what routing needs of versions. */
#ifndef GANTRY_API_VERSIONS_H
#define GANTRY_API_VERSIONS_H

#include "api/route.h"
#include "store/version_store.h"

extern const Param page_params[];
extern const Param version_create_params[];

/* The version of a whole id or a prefix; in the request's arena. Answers 404 when there is none,
 * 409 when several begin so. */
MUST_CHECK int version_find_wait(ApiCall *call, Str id, Version *ret);

#endif
