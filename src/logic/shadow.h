/* Shadow: a share of production's tasks is run again by a candidate, unseen, and compared pair by
 * pair.
 *
 * A production task is chosen by its unit (session, user, task), the first of each only: tasks of
 * one session are no independent observations. It is repeated once it has ended, so that its
 * journal is there to answer what must not be called twice. A part of those chosen is repeated with
 * production's own version (A/A): how much that differs from itself is what any difference has to
 * be seen against, and when production seems worse or better than itself the comparison is biased,
 * so nothing is concluded from it.
 *
 *   difference of a pair, in each metric: harm of the shadow - rho * harm of production
 *     roll back  sum of w_m E_m >= 1/alpha, beyond the plan's rollback margins
 *     passed     every required metric's promote E has reached 1/alpha, at the margin of the
 *                exposure that follows
 *
 * Pairs count in the order in which production's tasks were submitted, each when the fate of all
 * before it is known; in no test: those whose shadow was given a stub (it went another way), and
 * what says nothing (see shadow_fate). O(1) state. Pure; any thread; no allocation.
 */
#ifndef GANTRY_LOGIC_SHADOW_H
#define GANTRY_LOGIC_SHADOW_H

#include "logic/evidence.h"
#include "logic/pair.h"
#include "logic/rollout.h"
#include "logic/task.h"

typedef struct {
    int32_t share_bp;      /* of production's units */
    int32_t self_bp;       /* of these, repeated with production's own version */
    int64_t min_pairs;     /* that the candidate has been compared in, at least */
    int64_t for_ms;        /* at least this long */
    int64_t parallel;      /* at a time */
    int64_t budget_nusd;   /* of all of them together */
    int64_t wait_ms;       /* that one may wait to be started */
    int64_t score_wait_ms; /* and a pair to be scored */
    int32_t exposure_bp;   /* share that the candidate gets when it has passed */
} ShadowPlan;

#define SHADOW_SHARE_BP 1000
#define SHADOW_SELF_BP 2000
#define SHADOW_PARALLEL 2
#define SHADOW_PARALLEL_MAX 32
#define SHADOW_BUDGET_NUSD INT64_C(5000000000)
#define SHADOW_WAIT_MS (INT64_C(24) * 3600 * 1000)

/* --- choosing --------------------------------------------------------------------------------- */

typedef enum { SHADOW_NOT, SHADOW_CANDIDATE, SHADOW_SELF } ShadowChoice;

/* By hash of the rollout's id and the unit: the same whenever it is asked. */
ShadowChoice shadow_choose(const ShadowPlan *plan, Str rollout_id, Str unit);

/* What the repetition may spend: its part, of those at a time, of what is not spent yet, and at
 * least what is needed to start one (a twentieth of the budget, or twice what production's task has
 * cost); but no more than its version allows (own_nusd, CAP_NONE: anything) and than is left beside
 * what those under way may still spend. Calls reserve what they may cost at most, so a small part
 * would fail what production could do. 0: too little is left to start it. */
int64_t shadow_allot(const ShadowPlan *plan, int64_t spent_nusd, int64_t held_nusd,
                     int64_t own_nusd, int64_t production_nusd);

/* --- what became of a pair -------------------------------------------------------------------- */

typedef enum {
    SHADOW_CHOSEN,   /* it is to be repeated once it has ended */
    SHADOW_STARTED,  /* its repetition was submitted */
    SHADOW_COMPARED, /* counts */
    SHADOW_DIVERGED, /* a tool that writes was stubbed: reported apart */
    SHADOW_DROPPED,  /* says nothing */
    SHADOW_STATE_N_
} ShadowState;
const char *shadow_state_name(ShadowState state); /* "chosen", "started", "compared", ... */

typedef struct {
    TaskState state;
    bool started;  /* it ran at all */
    bool degraded; /* answered by a stand-in model or a fallback */
    bool scored;   /* in every metric that is judged */
    int64_t finished_at_ms;
} ShadowSide;

typedef struct {
    ShadowState state; /* CHOSEN or STARTED */
    ShadowSide production, shadow;
    bool stubbed;
    bool capped; /* the shadow was stopped by what was allotted to it, which is not its own fault */
    bool judged; /* the plan compares what is judged */
    bool given_up; /* no more are started: a later one was capped already */
    int64_t chosen_at_ms;
} ShadowNews;

/* CHOSEN, STARTED: it is not known yet. Nothing waits for ever: a repetition that still runs after
 * twice the wait is compared as one that has timed out (shadow_hangs). */
ShadowState shadow_fate(const ShadowNews *news, const ShadowPlan *plan, int64_t now_ms);

/* Whether a repetition that has not ended is itself what does not end. */
bool shadow_hangs(const ShadowNews *news);

/* --- evidence --------------------------------------------------------------------------------- */

typedef struct {
    EValue rollback, promote;        /* of the candidate's pairs */
    EValue self_worse, self_better;  /* of production's with itself */
    int64_t n[2];                    /* pairs: 0 candidate, 1 self */
    double production[2], shadow[2]; /* sums of harm */
    bool proved;
} ShadowMetric;

typedef struct {
    ShadowMetric metrics[EVIDENCE_METRICS_MAX];
    PairCounts results, paths; /* how often answers, and the order of tool calls, differ */
    int64_t dropped;
    int64_t capped;             /* of these, by the budget: while there are any nothing is passed */
    int64_t spent_nusd[2];      /* by shadows that are over: 0 candidate, 1 self */
    int64_t production_nusd[2]; /* by production's tasks of compared pairs */
    int64_t shadow_nusd[2];
    int64_t cursor_seq; /* production tasks looked at, up to this one */
    int64_t began_ms;
    EvidenceTold told; /* of the candidate's pairs: 0 production, 1 shadow */
    bool rollback;     /* latched */
    bool biased;       /* latched: production differs from itself */
    int culprit;
} ShadowEvidence;

void shadow_init(ShadowEvidence *evidence);

/* A compared pair. has, harm: by metric, of both sides; metrics that only one has are left out. */
typedef struct {
    bool self;
    bool differs, path_differs;
    bool judged;                    /* graders were to tell of both ... */
    bool production_untold, untold; /* ... and could not, of production's or the shadow's */
    EvidenceUnit production, shadow;
    int64_t production_nusd, shadow_nusd;
} ShadowPair;

void shadow_observe(ShadowEvidence *evidence, const EvidencePlan *metrics, const ShadowPlan *plan,
                    const ShadowPair *pair);

/* The nulls of a metric. The margin of promotion is that of full traffic divided by the exposure
 * that follows; beyond 1 there is nothing to prove. */
ENull shadow_promote_null(const EvidencePlan *metrics, const ShadowPlan *plan, size_t metric);

/* Candidate's pairs compared in every required metric; whether every required metric is proved; the
 * first that is not, -1: none. */
int64_t shadow_pairs(const ShadowEvidence *evidence, const EvidencePlan *metrics);
int shadow_unproved(const ShadowEvidence *evidence, const EvidencePlan *metrics);

/* What the rollout is told: PASSED needs proof, enough pairs and time, no bias, and
 * graders that can tell. */
CheckResult shadow_verdict(const ShadowEvidence *evidence, const EvidencePlan *metrics,
                           const ShadowPlan *plan, int64_t now_ms);

#endif
