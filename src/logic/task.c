#include "logic/task.h"

#define TO(state) (1u << (state))

static const char *const state_names[TASK_STATE_N_] = {
    [TASK_QUEUED] = "queued",       [TASK_RUNNING] = "running",     [TASK_SUCCEEDED] = "succeeded",
    [TASK_FAILED] = "failed",       [TASK_TIMED_OUT] = "timed_out", [TASK_CANCELED] = "canceled",
    [TASK_ESCALATED] = "escalated",
};

static const char *const outcome_names[TASK_OUTCOME_N_] = {
    [TASK_OUTCOME_SUCCEEDED] = "succeeded",
    [TASK_OUTCOME_FAILED_FINAL] = "failed_final",
    [TASK_OUTCOME_FAILED_RETRYABLE] = "failed_retryable",
    [TASK_OUTCOME_TIMED_OUT] = "timed_out",
    [TASK_OUTCOME_CAPPED] = "capped",
    [TASK_OUTCOME_CANCELED] = "canceled",
    [TASK_OUTCOME_RELEASED] = "released",
    [TASK_OUTCOME_LOST] = "lost",
    [TASK_OUTCOME_ESCALATED] = "escalated",
};

/* A queued task ends without running when it is cancelled, passes its deadline, or can no longer
 * run (its agent is gone). An end is left only by a person's retry; success never is. */
static const uint8_t task_may[TASK_STATE_N_] = {
    [TASK_QUEUED] = TO(TASK_RUNNING) | TO(TASK_FAILED) | TO(TASK_TIMED_OUT) | TO(TASK_CANCELED),
    [TASK_RUNNING] = TO(TASK_QUEUED) | TO(TASK_SUCCEEDED) | TO(TASK_FAILED) | TO(TASK_TIMED_OUT) |
                     TO(TASK_CANCELED) | TO(TASK_ESCALATED),
    [TASK_FAILED] = TO(TASK_QUEUED),
    [TASK_TIMED_OUT] = TO(TASK_QUEUED),
    [TASK_CANCELED] = TO(TASK_QUEUED),
    [TASK_ESCALATED] = TO(TASK_QUEUED) | TO(TASK_SUCCEEDED) | TO(TASK_FAILED) | TO(TASK_TIMED_OUT) |
                       TO(TASK_CANCELED),
};

/* Index of name among n names, or -1. */
static int name_index(Str name, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (str_eq(name, str_of(names[i]))) return i;
    return -1;
}

const char *task_state_name(TaskState state)
{
    assert(state < TASK_STATE_N_);
    return state_names[state];
}

int task_state_from(Str name, TaskState *ret)
{
    int i = name_index(name, state_names, TASK_STATE_N_);
    if (i < 0) return -EINVAL;
    *ret = (TaskState)i;
    return 0;
}

const char *task_outcome_name(TaskOutcome outcome)
{
    assert(outcome < TASK_OUTCOME_N_);
    return outcome_names[outcome];
}

int task_outcome_from(Str name, TaskOutcome *ret)
{
    int i = name_index(name, outcome_names, TASK_OUTCOME_N_);
    if (i < 0) return -EINVAL;
    *ret = (TaskOutcome)i;
    return 0;
}

bool task_state_ended(TaskState state)
{
    assert(state < TASK_STATE_N_);
    return state == TASK_SUCCEEDED || state == TASK_FAILED || state == TASK_TIMED_OUT ||
           state == TASK_CANCELED;
}

bool task_state_may(TaskState from, TaskState to)
{
    assert(from < TASK_STATE_N_ && to < TASK_STATE_N_);
    return (task_may[from] & TO(to)) != 0;
}

static TaskNext next_end(TaskNext next, TaskState state, const char *error_code)
{
    assert(task_state_may(TASK_RUNNING, state));
    next.state = state;
    next.error_code = error_code;
    return next;
}

/* Back to the queue, unless the deadline would have passed by the time it may start. */
static TaskNext next_queue(TaskNext next, const TaskProgress *p, int64_t now_ms, int64_t delay_ms)
{
    int64_t ready_at_ms;
    assert(delay_ms >= 0);
    if (__builtin_add_overflow(now_ms, delay_ms, &ready_at_ms)) ready_at_ms = INT64_MAX;
    if (p->deadline_ms != 0 && ready_at_ms >= p->deadline_ms)
        return next_end(next, TASK_TIMED_OUT, TASK_DEADLINE_CODE);
    next.state = TASK_QUEUED;
    next.ready_at_ms = ready_at_ms;
    return next;
}

static TaskNext after_failure(TaskNext next, const TaskProgress *p, int64_t now_ms, uint64_t random)
{
    assert(p->retry.attempts_max >= 1);
    next.failures++;
    if (next.failures >= p->retry.attempts_max)
        return next_end(next, TASK_FAILED, "attempts_exhausted");
    int64_t delay = retry_delay_ms(&p->retry, next.failures, random, p->retry_after_ms);
    return next_queue(next, p, now_ms, delay);
}

/* The first loss is likely the machine's fault, and the journal makes a new run cheap: at once. A
 * task that keeps losing workers waits ever longer and then fails. */
static TaskNext after_loss(TaskNext next, const TaskProgress *p, int64_t now_ms, uint64_t random)
{
    next.losses = p->advanced ? 1 : next.losses + 1;
    if (next.losses >= TASK_LOSSES_MAX) return next_end(next, TASK_FAILED, "worker_lost");
    int64_t delay = next.losses > 1 ? retry_delay_ms(&p->retry, next.losses - 1, random, 0) : 0;
    return next_queue(next, p, now_ms, delay);
}

/* What it asks for must not cost it the time that is left before its deadline. */
static TaskNext after_release(TaskNext next, const TaskProgress *p, int64_t now_ms)
{
    int64_t delay_ms = MAX(0, MIN(p->retry_after_ms, RETRY_AFTER_MAX_MS));
    if (p->deadline_ms != 0 && delay_ms >= p->deadline_ms - now_ms) delay_ms = 0;
    return next_queue(next, p, now_ms, delay_ms);
}

TaskNext task_after_attempt(const TaskProgress *progress, TaskOutcome outcome, int64_t now_ms,
                            uint64_t random)
{
    assert(outcome < TASK_OUTCOME_N_);
    assert(progress->failures >= 0 && progress->losses >= 0);
    TaskNext next = { .failures = progress->failures, .losses = progress->losses };
    if (progress->cancel_requested && outcome != TASK_OUTCOME_SUCCEEDED)
        outcome = TASK_OUTCOME_CANCELED;

    switch (outcome) {
    case TASK_OUTCOME_SUCCEEDED: return next_end(next, TASK_SUCCEEDED, NULL);
    case TASK_OUTCOME_FAILED_FINAL: return next_end(next, TASK_FAILED, "agent_failed");
    case TASK_OUTCOME_FAILED_RETRYABLE: return after_failure(next, progress, now_ms, random);
    case TASK_OUTCOME_TIMED_OUT: return next_end(next, TASK_TIMED_OUT, "time_limit");
    case TASK_OUTCOME_CAPPED: return next_end(next, TASK_FAILED, "cap_exceeded");
    case TASK_OUTCOME_CANCELED: return next_end(next, TASK_CANCELED, "canceled");
    case TASK_OUTCOME_RELEASED: return after_release(next, progress, now_ms);
    case TASK_OUTCOME_LOST: return after_loss(next, progress, now_ms, random);
    case TASK_OUTCOME_ESCALATED: return next_end(next, TASK_ESCALATED, NULL);
    case TASK_OUTCOME_N_: break;
    }
    assert(false);
    return next;
}
