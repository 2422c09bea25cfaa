/* Shadows: production's tasks that were chosen to be repeated, and what is known of the pairs
 * (logic/shadow.h). Functions run inside a store job. Unless they say more, they return 0 or -errno
 * with diag.
 */
#ifndef GANTRY_STORE_SHADOW_STORE_H
#define GANTRY_STORE_SHADOW_STORE_H

#include "codec/uuid.h"
#include "logic/shadow.h"
#include "store/rollout_store.h"

/* A production task that may be chosen. */
typedef struct {
    int64_t seq;
    Uuid id;
    Str session_id, user_id, tenant_id;
} ShadowTask;

/* Tasks of the version above after_seq that nobody has pinned, started as a sub-agent or repeats
 * another: at most *n, in order; *n becomes their number. Texts live in arena. Also -ENOMEM. */
MUST_CHECK int shadow_tasks(Db *db, Str version_id, int64_t after_seq, Arena *arena,
                            ShadowTask *ret, size_t *n);

/* The newest task there is; 0: none. */
MUST_CHECK int shadow_newest(Db *db, int64_t *ret_seq);

/* A pair as it is kept. */
typedef struct {
    int64_t task_seq, shadow_seq; /* production's; its repetition, 0: not started yet */
    bool self;
    ShadowState state;
    int64_t chosen_at_ms;
} ShadowRow;

/* Chooses a task; nothing happens when its unit has one already: DB_E_CONFLICT. */
MUST_CHECK int shadow_add(Db *db, int64_t rollout_seq, int64_t task_seq, bool self, Str unit,
                          int64_t now_ms);

#define SHADOWS_OPEN_MAX 256 /* of a rollout; what would be chosen beyond that is left out */

/* Pairs whose fate is open, in order of their tasks: at most *n, which becomes their number. */
MUST_CHECK int shadow_open(Db *db, int64_t rollout_seq, ShadowRow *ret, size_t *n);

/* The calendar was set forth by ms (back if negative): what open ones take is a span of time. */
MUST_CHECK int shadow_move(Db *db, int64_t ms);

/* How many there are whose fate is open; and that are started, of these. */
MUST_CHECK int shadow_open_counts(Db *db, int64_t rollout_seq, int64_t *ret_open,
                                  int64_t *ret_started);

/* Rollouts with something to stop: open pairs although they have ended or are past their shadow, or
 * dropped ones whose shadows go on. At most *n rollouts. */
MUST_CHECK int shadow_leftover(Db *db, int64_t *ret_seqs, size_t *n);

/* Of such a rollout what is to be stopped: all of it when it is past its shadow. At most *n pairs,
 * which becomes their number. */
MUST_CHECK int shadow_to_stop(Db *db, int64_t rollout_seq, ShadowRow *ret, size_t *n);

/* The shadow of a dropped pair has been stopped, or asked to. */
MUST_CHECK int shadow_stopped(Db *db, int64_t rollout_seq, int64_t task_seq);

/* CHOSEN -> STARTED. */
MUST_CHECK int shadow_started(Db *db, int64_t rollout_seq, int64_t task_seq, int64_t shadow_seq);

/* Its fate is known. A shadow of a dropped pair that has not ended is then to be stopped. */
MUST_CHECK int shadow_settle(Db *db, int64_t rollout_seq, int64_t task_seq, ShadowState state,
                             bool differs, bool path_differs, int64_t now_ms);

/* Every settled pair that was started is open again, dropped ones too: their evidence is gathered
 * anew. *ret_began_ms: when the first pair was chosen; 0: none was. *ret_dropped: those that were
 * dropped before they were started, which stay so. */
MUST_CHECK int shadow_reopen(Db *db, int64_t rollout_seq, int64_t *ret_began_ms,
                             int64_t *ret_dropped);

/* The figures of a task; `at` says when it was submitted. Also -ENOENT. */
MUST_CHECK int shadow_outcome(Db *db, int64_t task_seq, RolloutOutcome *ret);

/* What a task and all it has started have cost. */
MUST_CHECK int shadow_cost(Db *db, int64_t task_seq, int64_t *ret_nusd);

/* What the shadow was allowed to spend (its limits' usdPerTask); 0: nothing is said. */
MUST_CHECK int shadow_allotted(Db *db, int64_t shadow_seq, int64_t *ret_nusd);

/* Whether the task was stopped by its cap on money. */
MUST_CHECK int shadow_capped(Db *db, int64_t shadow_seq, bool *ret);

/* Whether a tool was stubbed in the task, or in one below it. */
MUST_CHECK int shadow_stubbed(Db *db, int64_t shadow_seq, bool *ret);

/* Whether the results of two tasks differ, or the names of the tools they called, in order. */
MUST_CHECK int shadow_differ(Db *db, int64_t a_seq, int64_t b_seq, bool *ret_result,
                             bool *ret_path);

/* Only this program's build reads it: -EPROTO: another's; -ENOENT: there is none. */
MUST_CHECK int shadow_evidence_put(Db *db, int64_t rollout_seq, const ShadowEvidence *evidence);
MUST_CHECK int shadow_evidence_get(Db *db, int64_t rollout_seq, ShadowEvidence *ret);

/* For people: pairs by state (0 candidate, 1 self), and the last ones, newest first. */
typedef struct {
    int64_t n[2][SHADOW_STATE_N_];
} ShadowCounts;
MUST_CHECK int shadow_counts(Db *db, int64_t rollout_seq, ShadowCounts *ret);

typedef struct {
    Uuid task_id, shadow_id; /* shadow zero: not started */
    bool self, differs, path_differs;
    ShadowState state;
    RolloutOutcome production, shadow;
} ShadowSeen;
MUST_CHECK int shadow_last(Db *db, int64_t rollout_seq, size_t max, Arena *arena, ShadowSeen **ret,
                           size_t *ret_n);

#endif
