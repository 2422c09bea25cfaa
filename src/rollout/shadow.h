/* Shadow: what a rollout does while its candidate runs beside production, unseen (logic/shadow.h).
 *
 * Each second production's new tasks are looked at and some are chosen; those that have ended are
 * repeated as their budget and the number at a time allow; pairs that are over are compared, in the
 * rollout's own tick. All of it is durable, so a shadow goes on after a crash where it was. When
 * the rollout goes on or ends, what is left of it is stopped.
 */
#ifndef GANTRY_ROLLOUT_SHADOW_H
#define GANTRY_ROLLOUT_SHADOW_H

#include "queue/queue.h"
#include "rollout/gather.h"

/* Whether the rollout is in its shadow, or paused in it. */
bool shadow_is_on(const RolloutRow *row);

#define SHADOW_WHY_MAX 160

/* What the pairs say, for a tick. On the heap. */
typedef struct {
    ShadowEvidence evidence;
    CheckResult verdict;
    bool changed;
    char why[SHADOW_WHY_MAX]; /* what it waits for; may be empty */
} ShadowGather;

/* Inside a job, of a rollout that is in its shadow: compares what is over since. Returns 0 or
 * -errno. */
MUST_CHECK int shadow_gather(Db *db, ShadowGather *shadow, const RolloutRow *row,
                             const RolloutSpec *spec, int64_t now_ms);

/* On a fiber, once a second: chooses, starts and stops, for all rollouts. Returns 0 or -errno. */
MUST_CHECK int shadow_tick_all_wait(Queue *queue, int64_t now_ms);

#define SHADOW_REPORT_PAIRS 50 /* shown one by one */

/* Inside a read: writes the report of a rollout, whatever its state, as an object. Returns 0,
 * -ENOMEM, -errno. */
MUST_CHECK int shadow_report_write(Db *db, const RolloutRow *row, const RolloutSpec *spec,
                                   int64_t now_ms, Arena *arena, JsonOut *out);

#endif
