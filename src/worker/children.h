/* Children: the tasks that a run's agent has started, and what of the run's caps is lent to them.
 *
 * One fiber a run watches for the end of any child; what it did not spend then comes back. Children
 * outlive an attempt: the next one finds them again. While it waits for one, and for nothing else,
 * a run gives its slot back (RunHost.suspend). Private to worker/; on the worker's loop.
 */
#ifndef GANTRY_WORKER_CHILDREN_H
#define GANTRY_WORKER_CHILDREN_H

#include "worker/run.h"

void children_init(RunChildren *children);

/* Reads what earlier attempts have started, once the gateway's task is open. On a fiber. Returns 0,
 * -ECANCELED, -errno with diag (the control plane could not be asked for long). */
MUST_CHECK int children_open_wait(Run *run);

/* Gives back what is lent, before the gateway's task is closed; nothing is started or waited for
 * any more. On a fiber, even when it is cancelled. */
void children_close_wait(Run *run);

/* What the agent asks for. */
typedef struct {
    Str key;  /* Idempotency-Key; empty: the how manieth request of this body in the attempt */
    Str body; /* which the key stands for */
    Str agent, input, metadata;
    int64_t time_limit_ms; /* 0: none of its own */
    int64_t due_ms;        /* until its own deadline; 0: none */
    bool late;             /* that has passed: one that is not there is not started */
    FamilyAmount asked;    /* CAP_NONE: nothing in particular */
} ChildAsk;

/* Starts a child, or finds it again. Asks the control plane until it has answered. On a fiber.
 * Returns 0 (look at ret->status: it may be refused; texts live in arena), -ECANCELED (the run is
 * being stopped), -errno with diag: nothing was started. */
MUST_CHECK int children_start_wait(Run *run, const ChildAsk *ask, Arena *arena, LinkChild *ret);

/* What was asked for with this body has been answered otherwise: it counts as asked for. */
void children_skip(Run *run, Str body);

/* Waits for the end of a child, at most wait_ms (0: only looks, and keeps the slot; who looks again
 * gives it back for a moment, so that what it looks for can start however often it does). Returns
 * 0, -ETIMEDOUT, -ENOENT (the task has started no such task), -ECANCELED. */
MUST_CHECK int children_end_wait(Run *run, Uuid id, int64_t wait_ms);

/* The run begins (ends) to wait for children. Never waits. */
void children_waiting(Run *run, bool begins);

#endif
