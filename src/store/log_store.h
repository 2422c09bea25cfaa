/* Log lines of tasks. Functions run inside a store job. */
#ifndef GANTRY_STORE_LOG_STORE_H
#define GANTRY_STORE_LOG_STORE_H

#include "store/db.h"

#define TASK_LOG_LIST_MAX 1000
#define TASK_LOG_LINE_BYTES_MAX (16 * 1024)

typedef enum {
    TASK_LOG_STDERR,
    TASK_LOG_STDOUT,
    TASK_LOG_SYSTEM,
    TASK_LOG_STREAM_N_
} TaskLogStream;
const char *task_log_stream_name(TaskLogStream stream);

typedef struct {
    int64_t attempt;
    int64_t seq; /* within the attempt, rising from 1; given by the worker */
    int64_t at_ms;
    TaskLogStream stream;
    Str text; /* longer than TASK_LOG_LINE_BYTES_MAX is cut */
} TaskLogLine;

/* Appends a line to the task. Returns 0, DB_E_CONFLICT (that line of the attempt is there already:
 * nothing was changed), -errno. */
MUST_CHECK int task_log_insert(Db *db, int64_t task_seq, const TaskLogLine *line);

/* Where a list goes on: after this line. Zeros: from the start. */
typedef struct {
    int64_t attempt, seq;
} TaskLogCursor;

/* Lines after the cursor in order, at most TASK_LOG_LIST_MAX; texts live in arena. Returns 0,
 * -ENOMEM, -errno. */
MUST_CHECK int task_log_list(Db *db, int64_t task_seq, TaskLogCursor after, Arena *arena,
                             TaskLogLine **ret, size_t *ret_n);

#endif
