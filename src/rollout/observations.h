/* Observations: what a rollout's evidence was made of, unit by unit, for `gantry rollout
 * simulate`. */
#ifndef GANTRY_ROLLOUT_OBSERVATIONS_H
#define GANTRY_ROLLOUT_OBSERVATIONS_H

#include "rollout/gather.h"

#define OBSERVATIONS_MAX 1000

typedef struct {
    RolloutCursor at;
    EvidenceUnit unit; /* harm in the metrics that it was consumed for */
} Observation;

/* Units after the cursor that the evidence has consumed, in that order, as it consumed them, with
 * the spec they are read by. *ret and its list live in arena; *ret_next: the last one looked at,
 * zero when there are no more. Inside a store job. Returns 0, -ENOENT (no such rollout), -ENOMEM,
 * -errno. */
MUST_CHECK int observations_list(Db *db, Str rollout_id, RolloutCursor after, Arena *arena,
                                 RolloutSpec **ret_spec, Observation **ret, size_t *ret_n,
                                 RolloutCursor *ret_next);

#endif
