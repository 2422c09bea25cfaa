/* RolloutSpec: a rollout block as people write it, ready for the engine.
 *
 *   strategy    canary (default): steps, 5/25/50/100 without any; blue-green; immediate; shadow:
 *               as canary, but first in the shadow, until a person promotes it
 *   steps       {weight (percent), for (0s, see rollout_spec_outlast), minTasks (50), gate (its
 *               name)}
 *   rollbackOn  {metric: margin}: absolute for rates and scores, a share of the control's for
 *               costPerTask and tokensPerTask. Rolled back beyond half the margin.
 *   metrics     {metric: {rollbackMargin, promoteMargin, ratio}}: the nulls themselves, H0 canary -
 *               ratio * control <= rollbackMargin (default half the other) and >= promoteMargin
 *               (default twice) at full traffic; ratio defaults to 1. Takes the place of rollbackOn
 *               for that metric.
 *   shadow      first beside production, unseen (logic/shadow.h): {share (10 percent), control (20
 *               percent of these), tasks (50), for, parallel (2), budgetUsd (5), standsIn (its
 *               evidence stands in for the first step)}; `strategy: shadow` needs none
 *   holdFor     blue-green: how long blue stays warm (1h)
 *   tripwires   {costFactor (10), crashes (10), limits (3)}; 0 turns one off (logic/tripwire.h)
 *   evaluation  {atLeast, tasks (20)}: the mean score of the version's last scored tasks that it
 *               has to have before it gets a share
 *   onRollback  finish (default): running canary tasks end where they started; kill: they are
 *               stopped
 *   unit        session (default; else the user, else the task), user, tenant or task
 *   unitWait    a unit that has not started for so long (1h) is left out, one that lacks a score
 *               from that metric
 *   deadline    undecided for so long (a week beyond what steps last): onDeadline pause (default)
 *               or rollback; 0s: never
 *
 * Without rollbackOn and metrics: errorRate .01, escalationRate .02, costPerTask .2, costOverrun
 * .01. The margin of a step is that of full traffic divided by the share of the next one. Pure; any
 * thread.
 */
#ifndef GANTRY_LOGIC_ROLLOUT_SPEC_H
#define GANTRY_LOGIC_ROLLOUT_SPEC_H

#include "codec/json.h"
#include "logic/rollout.h"
#include "logic/route.h"
#include "logic/shadow.h"
#include "logic/tripwire.h"

#define METRIC_NAME_MAX 64
#define GATE_NAME_MAX 64
#define ROLLOUT_HOLD_MS (INT64_C(3600) * 1000) /* of blue-green */

typedef enum {
    STRATEGY_CANARY,
    STRATEGY_BLUE_GREEN,
    STRATEGY_IMMEDIATE,
    STRATEGY_SHADOW,
} Strategy;

typedef struct {
    Strategy strategy;
    bool own_steps;    /* the block says the steps itself */
    bool own_deadline; /* and the deadline */
    RouteBy unit;
    TripwirePlan tripwires;
    int64_t evaluation_tasks;   /* scored ones that the version needs before it starts; 0: none */
    double evaluation_at_least; /* their mean score */
    RolloutPlan plan;
    ShadowPlan shadow; /* when plan.shadow */
    EvidencePlan evidence;
    char names[EVIDENCE_METRICS_MAX][METRIC_NAME_MAX + 1];
    char gates[ROLLOUT_STEPS_MAX][GATE_NAME_MAX + 1]; /* by step; empty: it has none */
} RolloutSpec;

#define ROLLOUT_SPEC_E_METRICS 1 /* more than EVIDENCE_METRICS_MAX, or a name that is too long */

/* From a block that manifest_check_rollout has accepted. Returns 0 or ROLLOUT_SPEC_E_METRICS. */
MUST_CHECK int rollout_spec_read(const Json *block, RolloutSpec *ret);

/* A step that tests lasts at least as long as a task may run: what it began with is known before
 * the next exposure, also of tasks that hang. The usual deadline goes with it. limit_ms: of the
 * slower of both versions; 0: unknown. */
void rollout_spec_outlast(RolloutSpec *spec, int64_t limit_ms);

/* How long a task may run by the `limits` of a manifest, or NULL; 0: unknown. */
int64_t rollout_spec_limit_ms(const Json *limits);

/* Index of a metric, or -1. */
int rollout_spec_metric(const RolloutSpec *spec, Str name);

/* The first metric whose harm is measured from what the stable version does, if the plan compares
 * anything; else empty. */
Str rollout_spec_by_baseline(const RolloutSpec *spec);

/* Bit k: the gate of step k has that name. */
uint32_t rollout_spec_gates(const RolloutSpec *spec, Str name);

/* What Gantry measures by itself, and whether less of it is better. Scores of one's own are judged
 * and in [0,1], more is better. */
EvidenceGroup metric_group(Str name);
bool metric_is_relative(Str name);
bool metric_is_by_baseline(Str name); /* harm is measured from what the stable version does */
bool metric_lower_is_better(Str name);

/* The first required metric that is not proved at this step; empty when all are. */
Str rollout_spec_unproved(const RolloutSpec *spec, const Evidence *evidence, size_t step);

#endif
