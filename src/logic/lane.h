/* Lanes: three priorities and the slots they run in.
 *
 * A lane has slots reserved for it; what is over is shared. A running task of a lane counts against
 * its lane's reserved slots first and against the shared ones after that, so the numbers of running
 * tasks say everything. Reserved slots are never taken by another lane: a long low task must not
 * sit where a critical one belongs, and low always gets through. Shared slots go to the highest
 * lane that has work.
 *
 * Pure; any thread.
 */
#ifndef GANTRY_LOGIC_LANE_H
#define GANTRY_LOGIC_LANE_H

#include "base/str.h"

typedef enum { LANE_CRITICAL, LANE_NORMAL, LANE_LOW, LANE_N_ } Lane;

#define LANE_SLOTS_MAX 100000

typedef struct {
    int64_t reserved[LANE_N_];
    int64_t shared;
} LaneConfig;

typedef struct {
    int64_t running[LANE_N_];
} LaneUse;

/* "critical", "normal", "low". */
const char *lane_name(Lane lane);
/* By name; 0 or -EINVAL. The empty text is LANE_NORMAL. */
MUST_CHECK int lane_from(Str name, Lane *ret);

/* Every number within 0..LANE_SLOTS_MAX, and at least one slot for every lane (its own or shared).
 */
bool lane_config_ok(const LaneConfig *config);

/* All slots together. */
int64_t lane_slots(const LaneConfig *config);

/* Shared slots in use. More than config->shared only after the configuration shrank. */
int64_t lane_shared_used(const LaneConfig *config, const LaneUse *use);

/* Tasks of this lane that could start now: its free reserved slots and the free shared ones. */
int64_t lane_free(const LaneConfig *config, const LaneUse *use, Lane lane);

/* How many of ready[lane] tasks to start in each lane. Together they fit: taking them all leaves no
 * lane over its slots, no free shared slot while a lane has work, and no free reserved slot while
 * its own lane has. */
void lane_claim_plan(const LaneConfig *config, const LaneUse *use, const int64_t ready[LANE_N_],
                     int64_t ret_take[LANE_N_]);

#endif
