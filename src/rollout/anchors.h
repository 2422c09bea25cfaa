/* Anchors: has each judge score the examples of its graders once a day, and raises an alarm when it
 * scores them otherwise than it used to (logic/anchor.h).
 *
 * A run is a row, asked for and closed in transactions: each counts once, whatever dies in between.
 * Alarms are those of drift, of the metric "judge:GRADER" and the judge's version. A run of which
 * the judge has answered less than half says nothing.
 */
#ifndef GANTRY_ROLLOUT_ANCHORS_H
#define GANTRY_ROLLOUT_ANCHORS_H

#include "logic/watch.h"
#include "rollout/judge.h"
#include "store/anchor_store.h"

#define ANCHOR_METRIC "judge:" /* what the metric of such alarms begins with */

/* On a fiber, one at a time with grading_wait. ret_alarms (may be NULL): how many were raised.
 * Returns 0 or -errno. */
MUST_CHECK int anchors_wait(Queue *queue, const WatchConfig *config, int64_t now_ms,
                            int64_t *ret_alarms);

#endif
