/* What the routes of webhooks declare. */
#ifndef GANTRY_API_WEBHOOKS_H
#define GANTRY_API_WEBHOOKS_H

#include "api/route.h"

extern const Param webhook_list_params[];
extern const BodySpec webhooks_replay_body;
extern const BodySpec webhook_enable_body;
extern const BodySpec webhook_rotate_body;

#endif
