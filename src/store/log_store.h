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
    /* Not kept in the row: how many lines the worker left out just before it, and their text. */
    int64_t left_out_n, left_out_bytes;
} TaskLogLine;

/* Lines that the control plane adds are numbered by the time: above all those of workers. */
#define TASK_LOG_TOLD_SEQ (INT64_C(1) << 40)

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

/* Likewise, of those that workers told, at most max; and of those that the control plane added, up
 * to that attempt. Either grows at its end only. */
MUST_CHECK int task_log_lines_after(Db *db, int64_t task_seq, TaskLogCursor after, size_t max,
                                    Arena *arena, TaskLogLine **ret, size_t *ret_n);
MUST_CHECK int task_log_notes_after(Db *db, int64_t task_seq, TaskLogCursor after, int64_t attempt,
                                    size_t max, Arena *arena, TaskLogLine **ret, size_t *ret_n);

/* --- logs over their bound -------------------------------------------------------------------- */

/* Where the tail of a log begins that has outgrown its head (logic/log_bound.h). Once lines were
 * left out, that place is the one of a line which tells how many. */
typedef struct {
    TaskLogCursor begin;
    int64_t at_ms;          /* of the line that stood there, or would have */
    int64_t bytes;          /* of the lines after it, with LOG_LINE_BYTES_EXTRA each */
    int64_t left_out_n;     /* lines that are not kept, */
    int64_t left_out_bytes; /* and their text */
} TaskLogTail;

/* The log's tail. Returns 0, -ENOENT, -errno. */
MUST_CHECK int task_log_tail(Db *db, int64_t task_seq, TaskLogTail *ret);

/* Writes it, and the line that tells what was left out, if anything was. Returns 0, -errno. */
MUST_CHECK int task_log_tail_put(Db *db, int64_t task_seq, const TaskLogTail *tail);

/* Deletes the oldest lines of the tail, those before `end` at most, until they come to at least
 * bytes with LOG_LINE_BYTES_EXTRA each; tail and ret_text_bytes (what the texts came to) say what
 * that was. Lines that the control plane added stay. Returns 0, -errno. */
MUST_CHECK int task_log_tail_cut(Db *db, int64_t task_seq, TaskLogTail *tail, TaskLogCursor end,
                                 int64_t bytes, int64_t *ret_text_bytes);

/* The number of the attempt's last line that came from a worker; 0: there is none. Returns 0,
 * -errno. */
MUST_CHECK int task_log_last(Db *db, int64_t task_seq, int64_t attempt, int64_t *ret_seq);

/* The number of a line that the control plane adds: the time, but greater than those before it,
 * whatever clocks say. Returns 0, -errno. */
MUST_CHECK int task_log_next_note(Db *db, int64_t task_seq, int64_t attempt, int64_t now_ms,
                                  int64_t *ret_seq);

#endif
