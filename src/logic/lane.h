/* Lanes: three priorities and the slots they run in.
 *
 * A lane has slots reserved for it; what is over is shared. A running task of a lane counts against
 * its lane's reserved slots first and against the shared ones after that, so the numbers of running
 * tasks say everything. Reserved slots are never taken by another lane: a long low task must not
 * sit where a critical one belongs, and low always gets through. Shared slots go to the highest
 * lane that has work, with one exception: a lower lane whose tasks have waited long gets a turn
 * after LANE_TURN_AFTER of them, as long as it holds no more than its part of them. So no lane
 * starves that has no slots of its own, and a long backlog of old tasks never takes over.
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

/* What stands first in a lane. */
typedef struct {
    bool ready;        /* there is a task that could start */
    int64_t waited_ms; /* the longest wait of them */
} LaneHead;

/* Shared slots given to higher lanes while this one had work, since one was given to it. Starts
 * zeroed. */
typedef struct {
    int64_t passed[LANE_N_];
} LaneTurns;

#define LANE_TURN_AFTER 4 /* shared slots that pass a lane by before it gets a turn */
#define LANE_TURN_PART 4  /* a lane takes turns while it holds less than shared / 4, but one */

/* The lane whose first task is to start next; LANE_N_: none of them fits. aging_ms: tasks that
 * waited at least that long have waited long. Taking whatever it says until it says LANE_N_ leaves
 * no free shared slot while a lane has work, and no free reserved slot while its own lane has. */
Lane lane_next(const LaneConfig *config, const LaneUse *use, const LaneHead heads[LANE_N_],
               int64_t aging_ms, const LaneTurns *turns);

/* Takes note that a task of the lane starts. use: without it. */
void lane_started(const LaneConfig *config, const LaneUse *use, const LaneHead heads[LANE_N_],
                  Lane lane, LaneTurns *turns);

/* How fast a lane goes. */
typedef struct {
    int64_t queued, running;
    int64_t service_ms; /* that an attempt takes; 0: nobody knows */
    double starts_per_s;
} LanePace;

/* How long a task waits that is the place-th (from 1) of its line, where lines take turns: until so
 * many of the running attempts have ended (what starts per second says little while attempts take
 * longer than it is averaged over); where none runs just now, at the rate of starts. -1: nobody
 * knows. */
int64_t lane_expected_wait_ms(const LanePace *pace, int64_t place, int64_t lines);

/* After how many seconds (1..60) to try again when the lane is full: until a hundredth of what it
 * holds has gone, at the rate at which tasks start. */
int64_t lane_retry_after_s(int64_t queued, double per_s);

#endif
