/* Old records: what nobody needs any more is deleted, some of it at a time.
 *
 * A walk goes over a table in the order of its numbers, which is that of time, so that no index is
 * kept for it: it ends where records are young. What is old and still needed is passed over.
 * Functions run inside a store job.
 */
#ifndef GANTRY_STORE_RETENTION_STORE_H
#define GANTRY_STORE_RETENTION_STORE_H

#include "store/db.h"

typedef enum {
    /* Tasks that have ended, with all that belongs to them. Kept: those of a rollout that goes on,
     * with a webhook that is still to be sent, in no rollup yet; a task with sub-agents that go on,
     * and a sub-agent whose parent is there; the newest task, so that no number comes twice. */
    RETENTION_TASKS,
    RETENTION_CALLS,    /* model calls without a task: their sums stay */
    RETENTION_WEBHOOKS, /* of events, sent or given up */
    RETENTION_ROLLOUTS, /* whom one that has ended assigned, and its ticks; the rollout stays */
    RETENTION_N_
} RetentionWhat;

typedef struct {
    RetentionWhat what;
    int64_t at;  /* number of the record looked at last; 0 at the start */
    bool over;   /* the walk has come to its end */
    int64_t n;   /* records deleted by this step, */
    int64_t all; /* and rows of all tables with them */
} RetentionWalk;

/* Goes on where walk stands: looks at up to a page of records and deletes those that ended before
 * before_ms, until some rows_max rows are gone; a record with more of them is finished by the steps
 * that follow. Returns 0 or -errno. */
MUST_CHECK int retention_step(Db *db, int64_t before_ms, int64_t rows_max, RetentionWalk *walk);

#endif
