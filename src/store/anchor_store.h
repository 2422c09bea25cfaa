/* Anchors: the daily runs of a grader's examples, and the chart of its judge (logic/anchor.h).
 * Functions run inside a store job. Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_ANCHOR_STORE_H
#define GANTRY_STORE_ANCHOR_STORE_H

#include "logic/anchor.h"
#include "store/db.h"

#define ANCHOR_RUNS_MAX 64 /* in a list */
#define ANCHOR_RUNS_KEPT_MS (INT64_C(120) * 86400000)

typedef enum { ANCHOR_BEGUN, ANCHOR_ASKED, ANCHOR_DONE } AnchorState;

typedef struct {
    int64_t id;
    Str agent, grader;
    Str judge_version;
    uint64_t key; /* of judge and examples */
    int64_t day_ms;
    AnchorState state;
} AnchorRun;

/* The run of a day; lives in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int anchor_run_get(Db *db, Str agent, Str grader, int64_t day_ms, Arena *arena,
                              AnchorRun *ret);

/* The run of that day, begun if there is none; *ret lives in arena. Also -ENOMEM. */
MUST_CHECK int anchor_run_begin(Db *db, const AnchorRun *run, Arena *arena, AnchorRun *ret);

MUST_CHECK int anchor_run_set(Db *db, int64_t id, AnchorState state);

/* Runs that were asked and have no open judging (store/judge_store.h, of the negative id), at most
 * ANCHOR_RUNS_MAX. Also -ENOMEM. */
MUST_CHECK int anchor_runs_over(Db *db, Arena *arena, AnchorRun **ret, size_t *ret_n);

MUST_CHECK int anchor_purge(Db *db, int64_t now_ms);

/* A chart of another build, or none: zeros. */
MUST_CHECK int anchor_chart_get(Db *db, Str agent, Str grader, AnchorChart *ret);
MUST_CHECK int anchor_chart_put(Db *db, Str agent, Str grader, const AnchorChart *chart);

/* Whether any grader of the agent has a chart. */
MUST_CHECK int anchor_chart_any(Db *db, Str agent, bool *ret);

MUST_CHECK int anchor_chart_forget(Db *db, Str agent, Str grader);

#endif
