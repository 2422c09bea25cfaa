/* Rollups of versions (logic/rollup.h), and the news that go into them.
 *
 * A task that came to rest is due: its number is written down in the commit that ends it, and its
 * row is read later. News are facts with a sign, for what changes after that: what is no longer
 * true is taken back with the figures it was told with. Whoever reads either puts it into rollups
 * and deletes it in one transaction, so that each counts once, whatever dies in between; in which
 * order does not matter. Functions run inside a store job. Unless they say more,
 * they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_ROLLUP_STORE_H
#define GANTRY_STORE_ROLLUP_STORE_H

#include "logic/rollup.h"
#include "logic/task.h"
#include "store/task_store.h"

/* What a piece of news is about; may be combined. */
enum {
    NEWS_TASK = 1,  /* how it came to rest, and what it used */
    NEWS_SCORE = 2, /* its quality, if it has any */
};

/* Sign 1: the task's row says something new; -1: what it says now is about to change. To be called
 * after the one and before the other, whatever was told so far. what: NEWS_SCORE, or both. A task
 * that is queued or running is no news: nothing comes of it. */
MUST_CHECK int rollup_news_add(Db *db, int64_t task_seq, int sign, unsigned what);

/* Tells of tasks that have come to rest: sign 1 and both for each. */
MUST_CHECK int rollup_news_add_many(Db *db, const TaskEnding *endings, size_t n);

/* One piece; texts live until the callback returns. */
typedef struct {
    int64_t n; /* its number: later ones are greater */
    int sign;
    unsigned what;
    Str agent, version_id;
    int64_t at_ms; /* when the task came to rest: the bucket of all its news */
    RollupTask task;
    double quality; /* NaN: none */
    Str tools;      /* for tool_use_next */
} RollupNews;

/* Called for the news in order; false ends the reading without this one. */
typedef bool (*RollupNewsFn)(const RollupNews *news, void *ctx);
MUST_CHECK int rollup_news_read(Db *db, size_t max, RollupNewsFn fn, void *ctx);

/* The same for tasks that are due; n is the task's number. */
MUST_CHECK int rollup_due_read(Db *db, size_t max, RollupNewsFn fn, void *ctx);

/* Delete what was read, up to that number. */
MUST_CHECK int rollup_news_delete(Db *db, int64_t last_n);
MUST_CHECK int rollup_due_delete(Db *db, int64_t last_n);

/* How many wait, of both. */
MUST_CHECK int rollup_news_count(Db *db, int64_t *ret);

/* --- rollups ---------------------------------------------------------------------------------- */

/* Which one. */
typedef struct {
    RollupSpan span;
    int64_t start_ms;
    Str agent, version_id;
} RollupKey;

/* Merges the difference into the rollup; it is made if need be, and anew, which is logged, if it
 * cannot be read. scratch: overwritten. */
MUST_CHECK int rollup_apply(Db *db, const RollupKey *key, const Rollup *difference,
                            Rollup *scratch);

/* Returns 0, -ENOENT, -EPROTO, -errno. */
MUST_CHECK int rollup_get(Db *db, const RollupKey *key, Rollup *ret);

/* Called with each rollup that lies in the tile, of one agent or of all (empty), in order of time;
 * a negative result ends the reading and is returned. */
typedef int (*RollupFn)(const RollupKey *key, const Rollup *rollup, void *ctx);
MUST_CHECK int rollup_each(Db *db, const RollupTile *tile, Str agent, Rollup *scratch, RollupFn fn,
                           void *ctx);

/* A version's rollups of from_ms..to_ms together, widened as rollup_cover says. For its signals:
 * rollup_signals(ret). News that wait are not in them yet (rollout/ingest.h). */
MUST_CHECK int rollup_sum(Db *db, Str agent, Str version_id, int64_t from_ms, int64_t to_ms,
                          int64_t now_ms, Rollup *ret);

/* Deletes what is older than its kind is kept. */
MUST_CHECK int rollup_purge(Db *db, int64_t now_ms);

#endif
