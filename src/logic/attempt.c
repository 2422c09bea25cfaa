#include "logic/attempt.h"

#define BLAMELESS_ATTEMPTS 20

AttemptStart attempt_start(bool cancel_requested, int64_t deadline_at_ms, int64_t now_ms)
{
    if (cancel_requested) return ATTEMPT_CANCELED;
    return deadline_at_ms != 0 && deadline_at_ms <= now_ms ? ATTEMPT_LATE : ATTEMPT_STARTS;
}

int64_t attempt_deadline_ms(int64_t attempts, int64_t given_at_ms, int64_t time_limit_ms,
                            int64_t started_at_ms)
{
    int64_t own_ms;
    assert(attempts >= 0 && given_at_ms >= 0 && time_limit_ms >= 0);
    if (time_limit_ms == 0 || (attempts > 0 && given_at_ms != 0)) return given_at_ms;
    if (__builtin_add_overflow(started_at_ms, time_limit_ms, &own_ms)) own_ms = INT64_MAX;
    return given_at_ms ? MIN(given_at_ms, own_ms) : own_ms;
}

bool attempt_goes_on(TaskState state, int64_t fence, int64_t told_fence)
{
    return state == TASK_RUNNING && fence == told_fence;
}

bool attempt_is_orphan(int64_t started_at_ms, int64_t lease_ms, int64_t now_ms)
{
    assert(lease_ms > 0);
    int64_t ago_ms = now_ms - started_at_ms;
    return ago_ms >= 2 * lease_ms || ago_ms < -lease_ms;
}

bool attempt_is_blameless(int64_t attempt)
{
    return attempt < BLAMELESS_ATTEMPTS;
}

CancelEffect task_cancel(TaskState state)
{
    if (state == TASK_RUNNING) return CANCEL_MARKS;
    return task_state_may(state, TASK_CANCELED) ? CANCEL_ENDS : CANCEL_REFUSED;
}

bool task_may_retry(TaskState state)
{
    return state != TASK_RUNNING && task_state_may(state, TASK_QUEUED);
}
