/* Bodies of the routes of budgets. */
#ifndef GANTRY_API_BUDGETS_H
#define GANTRY_API_BUDGETS_H

#include "api/route.h"

extern const BodySpec budget_body;
extern const BodySpec grants_body;
extern const BodySpec holds_body;

#endif
