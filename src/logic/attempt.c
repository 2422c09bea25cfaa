#include "logic/attempt.h"

#define BLAMELESS_ATTEMPTS 20
#define ADVANCING_ATTEMPTS 100

AttemptStart attempt_start(bool cancel_requested, int64_t deadline_at_ms, int64_t now_ms)
{
    if (cancel_requested) return ATTEMPT_CANCELED;
    return deadline_at_ms != 0 && deadline_at_ms <= now_ms ? ATTEMPT_LATE : ATTEMPT_STARTS;
}

bool deadline_is_given(int64_t deadline_at_ms, int64_t due_at_ms)
{
    return due_at_ms != 0 && due_at_ms == deadline_at_ms;
}

int64_t attempt_deadline_ms(int64_t attempts, int64_t given_at_ms, int64_t due_at_ms,
                            int64_t time_limit_ms, int64_t started_at_ms)
{
    int64_t own_ms;
    assert(attempts >= 0 && given_at_ms >= 0 && due_at_ms >= 0 && time_limit_ms >= 0);
    bool begun = attempts > 0 && given_at_ms != 0 && !deadline_is_given(given_at_ms, due_at_ms);
    if (time_limit_ms == 0 || begun) return given_at_ms;
    if (__builtin_add_overflow(started_at_ms, time_limit_ms, &own_ms)) own_ms = INT64_MAX;
    return given_at_ms ? MIN(given_at_ms, own_ms) : own_ms;
}

void clock_sets_add(ClockSets *s, int64_t from_ms, int64_t by_ms)
{
    if (s->n == CLOCK_SETS_MAX) memmove(s->sets, s->sets + 1, --s->n * sizeof s->sets[0]);
    s->sets[s->n].from_ms = from_ms;
    s->sets[s->n++].by_ms = by_ms;
}

int64_t clock_span_ms(const ClockSets *s, int64_t from_ms, int64_t to_ms)
{
    for (size_t i = 0; i < s->n; i++) {
        int64_t set_ms = s->sets[i].from_ms, by_ms = s->sets[i].by_ms;
        bool before = by_ms > 0 ? from_ms <= set_ms : from_ms < set_ms + by_ms || from_ms > to_ms;
        if (before) from_ms += by_ms;
    }
    return MAX(0, to_ms - from_ms);
}

int64_t clock_back_since_ms(const ClockSets *s, int64_t now_ms)
{
    for (size_t i = s->n; i-- > 0;)
        if (s->sets[i].by_ms < 0 && now_ms < s->sets[i].from_ms)
            return MAX(s->sets[i].from_ms + s->sets[i].by_ms, 1);
    return 0;
}

bool attempt_goes_on(TaskState state, int64_t fence, int64_t told_fence)
{
    return state == TASK_RUNNING && fence == told_fence;
}

static int64_t arrival_ms(int64_t lease_ms)
{
    assert(lease_ms > 0);
    return MAX(lease_ms / 2, ATTEMPT_ARRIVAL_MS);
}

/* They reach back a little further than answers may be under way. */
void fence_marks_note(FenceMarks *m, int64_t lease_ms, int64_t fence, int64_t now_ms)
{
    int64_t apart_ms = arrival_ms(lease_ms) / (FENCE_MARKS_MAX - 2);
    if (m->n > 0 && now_ms - m->marks[m->n - 1].at_ms < apart_ms) return;
    if (m->n == FENCE_MARKS_MAX) memmove(m->marks, m->marks + 1, --m->n * sizeof m->marks[0]);
    m->marks[m->n].fence = fence;
    m->marks[m->n++].at_ms = now_ms;
}

int64_t fence_marks_arrived(const FenceMarks *m, int64_t lease_ms, int64_t now_ms)
{
    int64_t fence = 0;
    for (size_t i = 0; i < m->n; i++)
        if (m->marks[i].at_ms <= now_ms - arrival_ms(lease_ms))
            fence = MAX(fence, m->marks[i].fence);
    return fence;
}

bool attempt_is_orphan(int64_t fence, int64_t arrived)
{
    return fence <= arrived;
}

bool attempt_is_blameless(int64_t attempt)
{
    return attempt < BLAMELESS_ATTEMPTS;
}

bool attempt_advanced(int64_t attempt, bool recorded)
{
    return recorded && attempt < ADVANCING_ATTEMPTS;
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
