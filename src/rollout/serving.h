/* Serving: versions that new tasks no longer go to drain: what is queued and running there ends
 * there. One that has nothing left is warm while an active rollout may return to it at once, and
 * decommissioned otherwise. Each change is an event: version.draining, version.drained,
 * version.decommissioned.
 */
#ifndef GANTRY_ROLLOUT_SERVING_H
#define GANTRY_ROLLOUT_SERVING_H

#include "codec/json.h"
#include "store/serving_store.h"
#include "store/store.h"

/* Inside a job, after routing or a rollout of the agent has changed: who serves now, who drains.
 * Returns 0, -ENOMEM, -errno. */
MUST_CHECK int serving_moved(Db *db, Str agent, int64_t now_ms);

/* On a fiber, every second: draining versions that have nothing left. Writes only what changes.
 * Returns 0 or -errno with diag. */
MUST_CHECK int serving_tick_wait(Store *store, int64_t now_ms);

/* A version with what it has left, as clients see it. */
typedef struct {
    Serving serving;
    int64_t queued, running;
} ServingLoad;

/* Inside a job. The load is read of one that leaves; of one that serves it is 0. Returns 0, -ENOENT
 * (never routed to), -ENOMEM, -errno. */
MUST_CHECK int serving_load(Db *db, Str version_id, Arena *arena, ServingLoad *ret);
void serving_write(JsonOut *out, const ServingLoad *load); /* the object */

#endif
