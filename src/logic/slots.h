/* Slots: which of a worker's slots are free, promised to a claim, or taken.
 *
 * A slot is promised before a claim is sent and taken when its answer names a task for it, so what
 * was claimed always has a place. Several claims may be under way, each with slots of its own: when
 * a slot comes free that the claim under way cannot fill, another claim is sent beside it.
 *
 * A task that waits for others that it has started gives its slot back and goes on at once when
 * they have ended: a free slot is taken if there is one; else it is one task too many (over) until
 * the next slot comes free, which then goes to it and to no claim.
 *
 * Invariant, for the slots of every lane and the shared ones: free + promised + taken = total.
 * Pure; belongs to one worker.
 */
#ifndef GANTRY_LOGIC_SLOTS_H
#define GANTRY_LOGIC_SLOTS_H

#include "logic/lane.h"

/* Every claim covers a lane that no other one covers. */
#define SLOTS_CLAIMS_MAX LANE_N_

typedef struct {
    LaneConfig total;
    LaneConfig free;
    LaneConfig promised[SLOTS_CLAIMS_MAX];
    bool claiming[SLOTS_CLAIMS_MAX];
    int64_t running[LANE_N_];
    int64_t in_shared[LANE_N_]; /* of running: those that sit in shared slots, */
    int64_t over[LANE_N_];      /* and those that sit in none */
    int64_t suspended;          /* not running: they wait for others */
} Slots;

void slots_init(Slots *slots, const LaneConfig *total);

/* Promises all free slots to a claim, when they include one that a lane not covered by a claim
 * under way can use. Returns the claim's number with *ret, or -1. */
int slots_promise(Slots *slots, LaneConfig *ret);

/* Takes a promised slot for a task of the lane: its own first, then a shared one. False when the
 * claim has none (more was claimed than asked for). */
MUST_CHECK bool slots_take(Slots *slots, int claim, Lane lane);

/* The claim is over: what it did not take is free again. */
void slots_promise_end(Slots *slots, int claim);

/* A task of the lane has ended. When others of its lane sit in shared slots, one of those comes
 * free. */
void slots_release(Slots *slots, Lane lane);

/* A running task of the lane begins to wait for others, or goes on. */
void slots_suspend(Slots *slots, Lane lane);
void slots_resume(Slots *slots, Lane lane);

/* Tasks that sit in no slot: suspended, or over. */
int64_t slots_beyond(const Slots *slots);

int64_t slots_running(const Slots *slots);

#endif
