/* Record: what a tick leaves behind: a row with its inputs, evidence, verdict and sentence; and an
 * event when the rollout moved or needs a person. Functions run inside a store job unless they say
 * otherwise.
 */
#ifndef GANTRY_ROLLOUT_RECORD_H
#define GANTRY_ROLLOUT_RECORD_H

#include "rollout/gather.h"

/* After the tick: *row is what is stored, from what it was before. Adds an event if there is
 * something to tell, and the tick; one that was told and decided the same as the one before is
 * counted there. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int record_tick(Db *db, const RolloutRow *row, const RolloutRow *from, const Gather *g,
                           const RolloutInput *input, const RolloutMove *move);

/* What ticks of this process have done. Any thread. */
typedef struct {
    uint64_t ticks;
    uint64_t fates[FATE_N_]; /* of units, a group at a time */
    uint64_t entered[ROLLOUT_N_];
    uint64_t verdicts[VERDICT_N_];
    uint64_t tripped[TRIPWIRE_N_];
    uint64_t paged;
    uint64_t shadows[SHADOW_STATE_N_]; /* pairs: chosen, and what became of them */
    uint64_t judge_holds;              /* ticks at which what is judged could prove nothing */
    uint64_t shadows_left_out;         /* for SHADOWS_OPEN_MAX */
} RecordStats;
void record_stats(RecordStats *ret);

/* Counts a pair of a shadow that was chosen, or whose fate is known; or one left out. */
void record_shadow(ShadowState state);
void record_shadow_left_out(void);

const char *tripwire_name(Tripwire tripwire); /* "budget", "sandbox", "crash_loop"; "none" */

#endif
