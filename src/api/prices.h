/* What the routes of prices declare, and what others ask. */
#ifndef GANTRY_API_PRICES_H
#define GANTRY_API_PRICES_H

#include "api/route.h"

extern const Param price_list_params[];
extern const Param price_import_params[];
extern const Param spend_params[];

/* Whether there is an imported price of that model. */
bool price_is_imported_wait(ApiServer *api, Str model);

#endif
