/* Rollouts, and the units that were assigned in them. Functions run inside a store job. Unless they
 * say more, they return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_ROLLOUT_STORE_H
#define GANTRY_STORE_ROLLOUT_STORE_H

#include "logic/rollout.h"
#include "logic/route.h"
#include "logic/task.h"
#include "logic/tripwire.h"
#include "logic/watermark.h"
#include "store/db.h"

#define ROLLOUT_LIST_MAX 200
#define ROLLOUT_ID_MAX 37 /* UUID text and a NUL */
#define ROLLOUT_VERSION_MAX 65

/* Where harm is measured from: the stable version as it was when the rollout began, or, where that
 * had hardly a task then, once it had some. */
typedef struct {
    int64_t cost_cap_nusd, tokens_cap;      /* 99.5th percentiles, or twice the mean */
    int64_t latency_p95_ms, tool_calls_p95; /* of a task */
    int64_t tasks;    /* it was measured from so many; 0: there is none yet, only caps */
    int64_t since_ms; /* units that were eligible before are not measured from it */
} RolloutBaseline;

/* How far a group's units are consumed: those up to this one. */
typedef struct {
    int64_t eligible_ms, task_seq;
} RolloutCursor;

typedef struct {
    int64_t seq;
    Str id; /* UUID text: also the salt of its buckets */
    Str agent, version_id, control_id;
    Str block;    /* rollout block, JSON as it was checked */
    Str settings; /* what the agent takes over from the version when it is completed, JSON */
    RouteBy unit;
    int64_t limit_ms; /* how long a task of either version may run; 0: unknown */
    CheckResult preflight;
    Str checks;        /* of the preflight, JSON array; "[]" until they have run */
    Str preflight_why; /* of a failed one, while that is acted on; not stored */
    Rollout state;
    RolloutBaseline baseline;
    RolloutCursor cursors[EVIDENCE_GROUPS_N_];
    RolloutCursor seen;     /* units counted for the sample ratio, resolved or not */
    RolloutVerdict verdict; /* of the last tick */
    Str why;
    int64_t created_at_ms, changed_at_ms; /* created; state or step changed */
} RolloutRow;

/* Adds row (its seq is not looked at). DB_E_CONFLICT: the agent has an active one. */
MUST_CHECK int rollout_insert(Db *db, const RolloutRow *row, int64_t *ret_seq);

/* Stores state, cursors, verdict, why and changed_at_ms of the row. */
MUST_CHECK int rollout_update(Db *db, const RolloutRow *row);

/* Stores the baseline of the row. */
MUST_CHECK int rollout_set_baseline(Db *db, const RolloutRow *row);

/* The calendar was set forth by ms (back if negative): holds and deadlines of active ones are spans
 * of time, and move along. */
MUST_CHECK int rollout_move(Db *db, int64_t ms);

/* Stores preflight and checks of the row. */
MUST_CHECK int rollout_set_checks(Db *db, const RolloutRow *row);

/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int rollout_get(Db *db, Str id, Arena *arena, RolloutRow *ret);
MUST_CHECK int rollout_active(Db *db, Str agent, Arena *arena, RolloutRow *ret);

/* What routing needs of the agent's active rollout. Returns 0, -ENOENT, -errno. */
typedef struct {
    int64_t seq;
    char id[ROLLOUT_ID_MAX], version_id[ROLLOUT_VERSION_MAX];
    int32_t weight_bp;
    RouteBy unit;
    int64_t seen_ms; /* a new unit is not before it: units up to there have been seen, or are
                      * measured by no baseline */
} RolloutRouting;
MUST_CHECK int rollout_routing(Db *db, Str agent, RolloutRouting *ret);

/* The active ones after that number, in order, at most ROLLOUT_LIST_MAX. */
MUST_CHECK int rollout_list_active(Db *db, int64_t after_seq, Arena *arena, RolloutRow **ret,
                                   size_t *ret_n);

/* Newest first, of one agent or all (empty); or the active ones only. At most ROLLOUT_LIST_MAX. */
MUST_CHECK int rollout_list(Db *db, Str agent, bool active_only, Arena *arena, RolloutRow **ret,
                            size_t *ret_n);

/* What the evidence is, in a form that this program alone reads. An unknown form: -EPROTO. No
 * evidence yet: -ENOENT. metrics_n: of the plan. */
MUST_CHECK int rollout_evidence_put(Db *db, int64_t seq, const Evidence *evidence,
                                    size_t metrics_n);
MUST_CHECK int rollout_evidence_get(Db *db, int64_t seq, size_t metrics_n, Evidence *ret);

/* --- what was consumed ------------------------------------------------------------------------ */

/* Whether the graders of a unit's task have told, where they were asked. */
typedef enum { TOLD_NOTHING, TOLD_ALL, TOLD_NOT } RolloutTold;

/* What a group of metrics was told of a unit when it consumed it. What becomes of the task after
 * that, or of its scores, does not change it. */
typedef struct {
    RolloutCursor at;
    EvidenceGroup group;
    size_t step; /* then */
    Fate fate;   /* not FATE_OPEN */
    RolloutTold told;
    EvidenceUnit unit; /* harm in metrics of the group alone; in none of a dropped one */
} RolloutConsumed;

/* Keeps it, as long as the units are kept. Each unit once a group. */
MUST_CHECK int rollout_consumed_put(Db *db, int64_t rollout_seq, const RolloutConsumed *consumed);

/* Those that follow the cursor's unit and that group of it (EVIDENCE_GROUPS_N_: all of it), in
 * eligible order, the groups of a unit one after the other; at most *n, which becomes their number.
 */
MUST_CHECK int rollout_consumed_list(Db *db, int64_t rollout_seq, RolloutCursor after,
                                     EvidenceGroup group, RolloutConsumed *ret, size_t *n);

/* Those of one group after a unit, up to another. */
MUST_CHECK int rollout_consumed_of(Db *db, int64_t rollout_seq, EvidenceGroup group,
                                   RolloutCursor after, RolloutCursor until, RolloutConsumed *ret,
                                   size_t *n);

/* How far the intervals that are shown reach, and when that was written; -ENOENT: there are none.
 * bytes: of the program alone, in arena. */
typedef struct {
    int64_t at_ms;
    RolloutCursor cursors[EVIDENCE_GROUPS_N_];
    Str bytes;
} RolloutIntervals;
MUST_CHECK int rollout_intervals_head(Db *db, int64_t rollout_seq, RolloutIntervals *ret);
MUST_CHECK int rollout_intervals_get(Db *db, int64_t rollout_seq, Arena *arena,
                                     RolloutIntervals *ret);
MUST_CHECK int rollout_intervals_put(Db *db, int64_t rollout_seq, const RolloutIntervals *in);

/* Whether the group has consumed anything that is kept. */
MUST_CHECK int rollout_consumed_any(Db *db, int64_t rollout_seq, EvidenceGroup group, bool *ret);

/* Whether any rollout has not ended. */
MUST_CHECK int rollout_any_active(Db *db, bool *ret);

/* --- ticks ------------------------------------------------------------------------------------ */

#define ROLLOUT_TICKS_KEPT 1000 /* of a rollout; older ones are forgotten */

/* What one tick was told, and what it decided; and so did those that followed it. */
typedef struct {
    int64_t n; /* counts from 1 */
    int64_t at_ms;
    int64_t again;      /* ticks that followed, and were told and decided the very same */
    int64_t last_ms;    /* the last of them; at_ms without any */
    RolloutState state; /* after it */
    int64_t step;
    RolloutVerdict verdict;
    Str why;
    Str inputs; /* JSON object */
} RolloutTick;

/* Adds the next one (of n, again and last_ms nothing is looked at). */
MUST_CHECK int rollout_tick_add(Db *db, int64_t rollout_seq, const RolloutTick *tick);

/* Counts it on the last one, if that was told and decided the same; else *ret_same is false. */
MUST_CHECK int rollout_tick_again(Db *db, int64_t rollout_seq, const RolloutTick *tick,
                                  bool *ret_same);

/* The last ones, newest first, at most max. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int rollout_ticks(Db *db, int64_t rollout_seq, size_t max, Arena *arena,
                             RolloutTick **ret, size_t *ret_n);

/* --- units ------------------------------------------------------------------------------------ */

typedef struct {
    RouteUnit kind;
    Str unit;
    Arm arm;
    double pi;
    bool counts;
    int64_t eligible_ms, task_seq; /* of its first task */
} RolloutUnit;

/* What the unit was given before; *ret unknown when nothing. */
MUST_CHECK int rollout_unit_get(Db *db, int64_t rollout_seq, RouteUnit kind, Str unit,
                                RouteBefore *ret);

/* Whether a session of the agent is in the middle of something: it has a task that has not ended
 * (of those that go one after another), or has kept state since then. */
MUST_CHECK int rollout_session_lives(Db *db, Str tenant, Str agent, Str session, int64_t since_ms,
                                     bool *ret);

/* Adds the unit, or changes the arm of one that is there. */
MUST_CHECK int rollout_unit_put(Db *db, int64_t rollout_seq, const RolloutUnit *unit);

/* A counted unit with its first task, in the arm that it was given for that: a user who has gone
 * over to the canary since was not there. */
typedef struct {
    RolloutCursor at;
    bool canary;
    double pi;
    TaskState state; /* when it was first resolved, and so are the figures: ESCALATED once it has
                      * waited for a person, and what it was before a retry by hand */
    TaskState now;   /* whatever followed: what is scored is the result */
    int64_t started_at_ms, finished_at_ms, cost_nusd, tokens, tool_calls;
    int64_t ran_ms;         /* all of its attempts that have ended, together */
    double quality;         /* NaN: not scored */
    bool degraded;          /* the gateway answered with less than was asked for */
    int64_t deadline_at_ms; /* 0: none */
    bool escalated;         /* a person was asked, whatever came of it */
    bool unjudged;          /* a grader that counts could not tell: it has no quality */
    bool untold;            /* any grader could not */
} RolloutOutcome;

/* Counted units after the cursor whose tasks were eligible before until_ms, in eligible order; at
 * most *n, which becomes their number. */
MUST_CHECK int rollout_outcomes(Db *db, int64_t rollout_seq, RolloutCursor after, int64_t until_ms,
                                RolloutOutcome *ret, size_t *n);

/* How fast units come: those counted that were eligible within the last ten minutes, at most
 * ROLLOUT_PACE_UNITS of them, and in what time. */
#define ROLLOUT_PACE_UNITS 2000
typedef struct {
    int64_t now_ms;
    int64_t units, span_ms;
} RolloutPace;
MUST_CHECK int rollout_pace(Db *db, int64_t rollout_seq, int64_t now_ms, RolloutPace *ret);

/* The figures of a version's last ended tasks, newest first; at most *n. Not of those that say
 * nothing about it: canceled, or answered by a stand-in model. */
MUST_CHECK int rollout_history(Db *db, Str version_id, RolloutOutcome *ret, size_t *n);

/* Figures of the version's tasks after that one, in the order in which they were submitted,
 * whatever became of them; `at` is when they were eligible, and their number. At most *n. */
MUST_CHECK int rollout_tasks(Db *db, Str version_id, int64_t after_seq, RolloutOutcome *ret,
                             size_t *n);

/* The last started tasks of the version that the rollout routed (0: whatever routed them), and
 * their ended attempts. Reads TRIPWIRE_TASKS rows whatever there has been, or waits; where workers
 * died and nothing succeeded, TRIPWIRE_DEEP_TASKS. */
MUST_CHECK int rollout_tail(Db *db, Str version_id, int64_t rollout_seq, TripwireTail *ret);

/* What ended of the version since then, of its last TRIPWIRE_DEEP_TASKS started tasks; goes_on
 * stays as it is. */
MUST_CHECK int rollout_meanwhile(Db *db, Str version_id, int64_t since_ms, TripwireMeanwhile *ret);

/* Users or tenants (by) among the version's last tasks, and how many tasks these are; 0 by anything
 * else. */
#define ROLLOUT_LATELY_TASKS 2000
MUST_CHECK int rollout_units_lately(Db *db, Str version_id, RouteBy by, int64_t *ret_units,
                                    int64_t *ret_tasks);

/* Mean quality of the version's last scored tasks, at most *n, which becomes their number. NaN
 * without any. */
MUST_CHECK int rollout_scores(Db *db, Str version_id, int64_t *n, double *ret_mean);

/* --- tasks ------------------------------------------------------------------------------------ */

/* The task was routed by the rollout, or ROLLOUT_SEQ_PINNED. */
MUST_CHECK int rollout_mark_task(Db *db, int64_t task_seq, int64_t rollout_seq);

/* The task's version was named by its caller: nothing but that reroutes it. */
#define ROLLOUT_SEQ_PINNED 0

/* Queued tasks of one version go to the other, those aside whose callers named it and those that
 * have done something already that is recorded (a call, a question, a task of their own): that is
 * given only to attempts of the same version. One that somebody has tried again, and that has not
 * begun since, goes as well, unless what it has started still goes on, and is given nothing of it
 * any more. How many went. Reads what is queued, whatever there has ever been. */
MUST_CHECK int rollout_rebind(Db *db, Str from, Str to, int64_t *ret_n);

/* An ended task that is tried again by hand goes to the version that is stable now, if its own is
 * neither that nor of a rollout under way, and its caller did not name it. */
MUST_CHECK int rollout_rebind_retried(Db *db, int64_t task_seq, bool *ret_moved);

/* Running tasks of the version are asked to stop ("stoppedBy": "rollback"), those aside whose
 * callers named it, and those that are queued again or ask a person are marked so; how many were.
 * The workers still have to be told, and the marked ones ended (rollout_killed); none of these
 * starts meanwhile. */
MUST_CHECK int rollout_kill(Db *db, Str version_id, int64_t *ret_n);

/* Marked tasks that do not run, after that seq; at most *n, which becomes their number. */
MUST_CHECK int rollout_killed(Db *db, int64_t after_seq, int64_t *ret_seqs, size_t *n);

#endif
