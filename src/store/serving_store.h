/* Serving: whether a version gets new tasks, and what is left of it when it does not any more.
 *
 *   serving   new tasks go there: it is stable, or has a share in a rollout
 *   draining  none do; it still has tasks, queued, running or waiting for a person
 *   warm      it has none; an active rollout may still return to it
 *   decommissioned
 *
 * A version that has never been routed to has no row. Functions run inside a store job. Unless they
 * say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_SERVING_STORE_H
#define GANTRY_STORE_SERVING_STORE_H

#include "base/arena.h"
#include "store/db.h"

#define SERVING_LIST_MAX 200

typedef enum { SERVING_TAKES, SERVING_DRAINS, SERVING_WARM, SERVING_GONE, SERVING_N_ } ServingState;

const char *serving_state_name(ServingState state); /* "serving", "draining", ... */

typedef struct {
    Str version_id, agent;
    ServingState state;
    int64_t since_ms;
    int64_t witness; /* a task of it that had not ended when it was looked for; 0: none */
} Serving;

/* Every version that new tasks of the agent go to, as routing and rollout are now, serves. */
MUST_CHECK int serving_mark(Db *db, Str agent, int64_t now_ms);

/* Those that are marked so and get none any more. At most SERVING_LIST_MAX. */
MUST_CHECK int serving_left(Db *db, Str agent, Arena *arena, Serving **ret, size_t *ret_n);

/* Draining and warm ones: of an agent, or (empty) all after that version in order of their ids. At
 * most SERVING_LIST_MAX. */
MUST_CHECK int serving_leaving(Db *db, Str agent, Str after_version_id, Arena *arena, Serving **ret,
                               size_t *ret_n);

/* Returns 0, -ENOENT (never routed to), -ENOMEM, -errno. */
MUST_CHECK int serving_get(Db *db, Str version_id, Arena *arena, Serving *ret);

/* Stores state, since_ms and witness. */
MUST_CHECK int serving_set(Db *db, const Serving *serving);

/* A task of the version that has not ended, 0: none. As long as the witness has not this reads one
 * row; else it looks at what is queued and running, whatever there has ever been. */
MUST_CHECK int serving_find_open(Db *db, const Serving *serving, int64_t *ret_seq);

/* Whether an active rollout may return to the version. */
MUST_CHECK int serving_is_target(Db *db, const Serving *serving, bool *ret);

/* Its tasks. Reads what is queued. */
MUST_CHECK int serving_count(Db *db, Str version_id, int64_t *ret_queued, int64_t *ret_running);

#endif
