/* Task: its states, and what follows the end of an attempt.
 *
 *   queued ──claim──> running ──> succeeded | failed | timed_out | canceled
 *     ^                 │  └──> escalated ──(a person answers)──> queued | succeeded | failed
 *     └─ retry, release ┘
 *
 * failed, timed_out and canceled go back to queued only when a person asks for a retry. Pure; any
 * thread.
 */
#ifndef GANTRY_LOGIC_TASK_H
#define GANTRY_LOGIC_TASK_H

#include "logic/lane.h"
#include "logic/retry.h"

typedef enum {
    TASK_QUEUED,
    TASK_RUNNING,
    TASK_SUCCEEDED,
    TASK_FAILED,
    TASK_TIMED_OUT,
    TASK_CANCELED,
    TASK_ESCALATED,
    TASK_STATE_N_
} TaskState;

/* What stops a task whose client's deadline has passed: error code and stopped_by. */
#define TASK_DEADLINE_CODE "deadline_passed"
#define TASK_BY_DEADLINE "deadline"

/* How an attempt ended. */
typedef enum {
    TASK_OUTCOME_SUCCEEDED,
    TASK_OUTCOME_FAILED_FINAL,     /* the agent says another attempt is pointless */
    TASK_OUTCOME_FAILED_RETRYABLE, /* exit 75, or its server was unreachable */
    TASK_OUTCOME_TIMED_OUT,        /* over secondsPerTask */
    TASK_OUTCOME_CAPPED,           /* over another cap of the task */
    TASK_OUTCOME_CANCELED,
    TASK_OUTCOME_RELEASED,  /* given back unharmed: the worker drains; costs no attempt */
    TASK_OUTCOME_LOST,      /* the worker's lease ran out; costs no attempt, but is counted */
    TASK_OUTCOME_ESCALATED, /* waits for a person */
    TASK_OUTCOME_N_
} TaskOutcome;

/* Losses after which a task is held to be what kills its workers. */
#define TASK_LOSSES_MAX 5

const char *task_state_name(TaskState state);             /* "timed_out" */
MUST_CHECK int task_state_from(Str name, TaskState *ret); /* 0 or -EINVAL */
const char *task_outcome_name(TaskOutcome outcome);       /* "failed_retryable" */
MUST_CHECK int task_outcome_from(Str name, TaskOutcome *ret);

/* succeeded, failed, timed_out, canceled. (escalated is not an end.) */
bool task_state_ended(TaskState state);

/* Whether a task may go from one state to the other in one step. Staying is not a step. */
bool task_state_may(TaskState from, TaskState to);

/* What an attempt's end is judged by. */
typedef struct {
    int64_t failures; /* retryable failures so far, without this one */
    int64_t losses;   /* lost attempts so far, without this one */
    bool advanced;    /* a lost attempt got further than those before it: the first loss in a row */
    bool cancel_requested;
    int64_t deadline_ms;    /* no attempt may start at or after it; 0: none */
    int64_t retry_after_ms; /* what the failure or the release asked for; 0: nothing */
    RetryPolicy retry;
} TaskProgress;

typedef struct {
    TaskState state;
    int64_t ready_at_ms; /* TASK_QUEUED: not before; else 0 */
    int64_t failures;
    int64_t losses;
    const char *error_code; /* NULL when there is no error; else a literal:
                             * agent_failed, attempts_exhausted, time_limit, deadline_passed,
                             * cap_exceeded, canceled, worker_lost */
} TaskNext;

/* What becomes of a running task whose attempt ended. random: 64 uniform bits. A result that
 * arrived is kept even if the task was to be cancelled; every other outcome of such a task is
 * canceled. */
TaskNext task_after_attempt(const TaskProgress *progress, TaskOutcome outcome, int64_t now_ms,
                            uint64_t random);

#endif
