/* Attempt: how one begins, who may speak for it, and when nobody does.
 *
 * Each claim gives the task a token (fence) greater than any before. Whatever a worker tells of an
 * attempt carries it, and changes something only while that very attempt goes on: an answer that
 * was lost may be asked for again, a message may come twice or late, a worker may have been stopped
 * for an hour; what it says then is stale. What becomes of the task afterwards: logic/task.h. Pure;
 * any thread.
 */
#ifndef GANTRY_LOGIC_ATTEMPT_H
#define GANTRY_LOGIC_ATTEMPT_H

#include "logic/task.h"

/* What a claim makes of a queued task that it has chosen. */
typedef enum {
    ATTEMPT_STARTS,
    ATTEMPT_CANCELED, /* it ends instead: it was stopped while it waited */
    ATTEMPT_LATE,     /* it ends instead: its time is over */
} AttemptStart;

/* deadline_at_ms: 0: none. */
AttemptStart attempt_start(bool cancel_requested, int64_t deadline_at_ms, int64_t now_ms);

/* Whether a task's deadline is the one that its client gave: due_at_ms, 0: none. Such a one stands
 * still for nothing, not for a person who is asked either, and is what ends the task. */
bool deadline_is_given(int64_t deadline_at_ms, int64_t due_at_ms);

/* The deadline of a task whose attempt starts at started_at_ms, the first one when attempts (before
 * it) is 0. It counts from the first start, whatever is tried again; one that is given before that
 * (by its client, due_at_ms, or its parent) holds if it is earlier. One that is its client's alone
 * says nothing of a start: the task may have been begun anew by hand. 0: none. */
int64_t attempt_deadline_ms(int64_t attempts, int64_t given_at_ms, int64_t due_at_ms,
                            int64_t time_limit_ms, int64_t started_at_ms);

/* When the calendar was set of late: what it showed then, and by how much. Starts zeroed. */
#define CLOCK_SETS_MAX 4
typedef struct {
    struct {
        int64_t from_ms, by_ms;
    } sets[CLOCK_SETS_MAX]; /* oldest first */
    size_t n;
} ClockSets;

/* The oldest is forgotten where there are too many. */
void clock_sets_add(ClockSets *sets, int64_t from_ms, int64_t by_ms);

/* How long it is from one reading of the calendar to another. A first one that may be from before
 * or after the calendar was set back is taken for one after; so it may be less than it was, never
 * negative. */
int64_t clock_span_ms(const ClockSets *sets, int64_t from_ms, int64_t to_ms);

/* Since when the calendar, which was set back, shows what it has shown before; 0: it does not. */
int64_t clock_back_since_ms(const ClockSets *sets, int64_t now_ms);

/* Whether what is told under the fence is of the attempt that goes on. */
bool attempt_goes_on(TaskState state, int64_t fence, int64_t told_fence);

/* How far fences had gone at which (monotonic) time: the age of every claim, for fences only grow.
 * Zero when nothing is known. */
#define FENCE_MARKS_MAX 10
typedef struct {
    struct {
        int64_t fence, at_ms;
    } marks[FENCE_MARKS_MAX]; /* oldest first */
    size_t n;
} FenceMarks;

/* All claims up to the fence are durable by now_ms. */
void fence_marks_note(FenceMarks *marks, int64_t lease_ms, int64_t fence, int64_t now_ms);

/* The greatest fence whose claim must have been answered: it was durable half a lease, and at least
 * ATTEMPT_ARRIVAL_MS, before now_ms; 0: none. With the next heartbeat and the distance of marks
 * that is less than a lease. */
#define ATTEMPT_ARRIVAL_MS 1000
int64_t fence_marks_arrived(const FenceMarks *marks, int64_t lease_ms, int64_t now_ms);

/* Whether nobody runs an attempt that its worker, which lives, does not name among those it has:
 * the answer that gave it has been lost. arrived: fence_marks_arrived when the worker said so; a
 * later claim may still be on its way. */
bool attempt_is_orphan(int64_t fence, int64_t arrived);

/* Whether an attempt that ended with the server's own process is not to be counted against the
 * task: who has been there so often when it ended may be why it did. */
bool attempt_is_blameless(int64_t attempt);

/* Whether a lost attempt got further than those before it: it has recorded answers of models or
 * tools that were not there. A long task on machines that come and go is not what kills them; but
 * it is not believed for ever. */
bool attempt_advanced(int64_t attempt, bool recorded);

/* What a request to cancel makes of a task. */
typedef enum {
    CANCEL_MARKS,  /* it runs: its worker is told */
    CANCEL_ENDS,   /* it waits: it is over */
    CANCEL_REFUSED /* it has ended */
} CancelEffect;
CancelEffect task_cancel(TaskState state);

/* Whether a person may have it tried again. */
bool task_may_retry(TaskState state);

#endif
