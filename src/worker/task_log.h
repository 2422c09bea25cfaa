/* TaskLog: the log lines of one attempt on their way to the control plane.
 *
 * Adding a line never waits: lines gather in memory and a fiber sends them in batches. What one
 * attempt may log is limited, and so is a line; beyond that lines are dropped and counted, and the
 * last line says how many. Belongs to the attempt's loop.
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
    size_t bytes_left; /* until lines are dropped */
    Buf pending;       /* entries not yet sent: PendingLine and text, each */
    int64_t seq;       /* of the last line */
    uint64_t dropped;
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
