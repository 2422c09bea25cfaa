/* TaskLog: the log lines of one attempt on their way to the control plane.
 *
 * Adding a line never waits: lines gather in memory and a fiber sends them in batches. What one
 * attempt may log is limited, and so is a line. The first lines (the head) are sent as they come;
 * once they have used up their part of the limit (logic/log_bound.h), lines wait for up to two
 * seconds, and of those that wait the last are kept: the oldest are left out and counted, and the
 * line that follows them tells how many they were. So an attempt that writes without end costs a
 * bounded memory and a bounded rate, and its last lines are sent all the same. Belongs to the
 * attempt's loop.
 */
#ifndef GANTRY_WORKER_TASK_LOG_H
#define GANTRY_WORKER_TASK_LOG_H

#include "worker/link.h"

#define LOG_LINE_BYTES_MAX 8192 /* a longer line is cut */

/* Zeroed before task_log_open. */
typedef struct {
    WorkerLink *link;
    TaskRef ref;
    int64_t attempt;
    size_t head_left;         /* bytes of the head that are left */
    size_t tail_max;          /* bytes of lines after it that may wait */
    Buf pending;              /* entries not yet sent: PendingLine and text, each */
    size_t pinned;            /* of these, at the front: of the head, or being sent */
    int64_t seq;              /* of the last line */
    int64_t gap_n, gap_bytes; /* left out since the last pending line */
    uint64_t dropped;         /* left out, or refused */
    bool open, closing, stale, ended;
    Cond changed, end;
    FiberRef sender;
} TaskLog;

/* Starts the sender. Returns 0 or -errno. */
MUST_CHECK int task_log_open(TaskLog *log, WorkerLink *link, TaskRef ref, int64_t attempt,
                             size_t bytes_max);

void task_log_add(TaskLog *log, TaskLogStream stream, Str text);
void task_log_printf(TaskLog *log, const char *fmt, ...) PRINTF_LIKE(2, 3); /* TASK_LOG_SYSTEM */

/* Sends what is left, at most until deadline_ms, and ends the sender. Waits even for a cancelled
 * caller. Harmless when it is not open. */
void task_log_close_wait(TaskLog *log, int64_t deadline_ms);

#endif
