/* What the routes of running rollouts declare, and what routing needs of them. */
#ifndef GANTRY_API_ROLLOUTS_H
#define GANTRY_API_ROLLOUTS_H

#include "api/route.h"
#include "rollout/control.h"
#include "rollout/interval.h"
#include "rollout/serving.h"
#include "store/version_store.h"

extern const Param rollouts_params[];
extern const Param rollout_ticks_params[];
extern const Param rollout_observations_params[];
extern const BodySpec rollout_command_body;
extern const BodySpec rollout_gate_body;

/* Begins a rollout of the version by a strategy other than immediate. block: the request's own, or
 * NULL; by: who asks, may be empty. Answers what is wrong; 0: it has begun, nothing is answered
 * yet. */
MUST_CHECK int rollout_begin_wait(ApiCall *call, const Version *version, Str strategy,
                                  const Json *block, Str by);

/* Who asks, from the member `by`; may be empty. Answers 400. */
MUST_CHECK int rollout_actor_wait(ApiCall *call, const Json *body, Str *ret);

/* Writes a rollout with its evidence, read in a job of its own. Returns 0 or -errno. */
typedef struct {
    RolloutRow row;
    RolloutSpec spec;
    Evidence evidence;
    IntervalShown intervals[EVIDENCE_METRICS_MAX];
    RolloutPace pace;
    ServingLoad stable; /* what it leaves; no version id: it was never routed to */
} RolloutWhole;
MUST_CHECK int rollout_whole_read(Db *db, const RolloutRow *row, Arena *arena, RolloutWhole *ret);

#endif
