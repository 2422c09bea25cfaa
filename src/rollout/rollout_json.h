/* A rollout as clients see it. */
#ifndef GANTRY_ROLLOUT_ROLLOUT_JSON_H
#define GANTRY_ROLLOUT_ROLLOUT_JSON_H

#include "rollout/control.h"
#include "rollout/interval.h"
#include "rollout/serving.h"

/* Writes the object. evidence may be NULL: then without units and metrics (lists). pace may be
 * NULL: then without the time that is left. stable may be NULL: then without what the stable
 * version has left. intervals, by metric, may be NULL. */
void rollout_write(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec,
                   const Evidence *evidence, const IntervalShown *intervals,
                   const RolloutPace *pace, const ServingLoad *stable);

/* Seconds until the step is decided at this pace, if the evidence goes on as it does; NaN: cannot
 * be told. */
double rollout_seconds_left(const RolloutRow *row, const RolloutSpec *spec,
                            const Evidence *evidence, const RolloutPace *pace);

/* Units, metrics and what they say: members of an object that is open. */
void rollout_write_evidence(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec,
                            const Evidence *evidence, const IntervalShown *intervals);

/* Member `gates`, of a plan that has any. */
void rollout_write_gates(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec);

/* "canary", "blue-green", "immediate", "shadow". */
const char *strategy_name(Strategy strategy);

#endif
