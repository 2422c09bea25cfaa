/* Grading: has the graders of their agents look at tasks that have succeeded, and judges asked
 * (rollout/judge.h).
 *
 * Tasks that wait are in the store (store/grade_store.h); each is graded once, all its scores in
 * one transaction, so what dies in between is begun anew. Results are looked at on the thread pool.
 */
#ifndef GANTRY_ROLLOUT_GRADING_H
#define GANTRY_ROLLOUT_GRADING_H

#include "queue/queue.h"

#define GRADING_TASKS_MAX 16   /* at a time: a read, a look, a write */
#define GRADING_ROUNDS_MAX 256 /* a call; what is left waits for the next */

/* On a fiber, one at a time. Takes in what judges have said, and grades the tasks that wait; of
 * those that are to be judged a part waits on, at most JUDGINGS_OF_TASKS_MAX. now_ms: calendar.
 * ret_tasks (may be NULL): how many. Returns 0 or -errno with diag. */
MUST_CHECK int grading_wait(Queue *queue, int64_t now_ms, int64_t *ret_tasks);

#endif
