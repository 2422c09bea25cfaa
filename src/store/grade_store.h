/* Grades: tasks that wait for the graders of their agent (logic/grade.h), and what graders said of
 * versions, hour by hour.
 *
 * A task that succeeded and was not degraded, of an agent that has graders, gets a row when its end
 * goes into the rollups, in that transaction. Whoever keeps its scores deletes the row in the same
 * transaction: each is graded once, whatever dies in between. Functions run inside a store job.
 * Unless they say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_GRADE_STORE_H
#define GANTRY_STORE_GRADE_STORE_H

#include "store/judge_store.h"

/* Of tasks that are due for the rollups (store/rollup_store.h) up to that number: those to be
 * graded. What has been graded before is not again. */
MUST_CHECK int grade_add_due(Db *db, int64_t last_seq);

/* A shadow, which no rollup tells of, likewise: its pair may wait for that. */
MUST_CHECK int grade_add_shadow(Db *db, int64_t task_seq);

/* A task that waits, as rules see it. */
typedef struct {
    int64_t seq;
    Uuid id;
    Str agent, version_id;
    int64_t finished_at_ms, latency_ms, cost_nusd, tool_calls;
    Str tools;    /* for tool_use_next */
    Str result;   /* JSON; empty: it is longer than result_max */
    Str settings; /* of its agent */
    Str input;    /* JSON; empty: as for result */
    bool judged;  /* its judges have answered: judging_list */
} GradeTask;

/* Those after after_seq in order that do not wait for judges, at most max; live in arena. Also
 * -ENOMEM. */
MUST_CHECK int grade_next(Db *db, int64_t after_seq, size_t max, size_t result_max, Arena *arena,
                          GradeTask **ret, size_t *ret_n);

/* It waits no longer, and its judgings are forgotten. Returns 0, -ENOENT (it does not wait),
 * -errno. */
MUST_CHECK int grade_drop(Db *db, int64_t task_seq);

/* Whether the task waits for its graders, or will as soon as its end is in the rollups. */
MUST_CHECK int grade_waits(Db *db, int64_t task_seq, bool *ret);

/* What the task's quality is: the mean of its scores, once all graders that count are heard; NaN
 * before, and when one of them could not tell. */
MUST_CHECK int grade_quality(Db *db, int64_t task_seq, double *ret);

/* For tasks that are due for the rollups, at most max: puts down what is known of the quality of
 * those that somebody has scored already although their agents have graders. */
MUST_CHECK int grade_settle_due(Db *db, size_t max);

/* How many wait. */
MUST_CHECK int grade_count(Db *db, int64_t *ret);

/* --- sums ------------------------------------------------------------------------------------- */

#define GRADE_HOUR_MS INT64_C(3600000)
#define GRADE_SUMS_KEPT_MS (INT64_C(400) * 86400000)
#define GRADE_SUMS_MAX 4000 /* in one answer */

typedef struct {
    Str agent, version_id, grader;
    int64_t scored; /* tasks */
    double score_sum;
    int64_t failed; /* tasks of which it could not tell */
    int64_t held;   /* of which it was not asked, for want of money or room */
} GradeSum;

/* Adds to the hour that at_ms lies in: when the task came to rest. */
MUST_CHECK int grade_sum_add(Db *db, int64_t at_ms, const GradeSum *sum);

/* From the hour of from_ms on, of one agent or of all (empty), by version and grader; live in
 * arena. Also -ENOMEM. */
MUST_CHECK int grade_sum_list(Db *db, Str agent, int64_t from_ms, Arena *arena, GradeSum **ret,
                              size_t *ret_n);

MUST_CHECK int grade_sum_purge(Db *db, int64_t now_ms);

#endif
