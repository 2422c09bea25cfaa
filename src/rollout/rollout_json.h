/* A rollout as clients see it. */
#ifndef GANTRY_ROLLOUT_ROLLOUT_JSON_H
#define GANTRY_ROLLOUT_ROLLOUT_JSON_H

#include "rollout/control.h"

/* Writes the object. evidence may be NULL: then without units and metrics (lists). */
void rollout_write(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec,
                   const Evidence *evidence);

/* "canary", "blue-green", "immediate". */
const char *strategy_name(Strategy strategy);

#endif
