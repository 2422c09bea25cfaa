#include "store/log_store.h"

#include <stdio.h>

#include "logic/log_bound.h"
#include "store/row.h"

static const char *const stream_names[TASK_LOG_STREAM_N_] = {
    [TASK_LOG_STDERR] = "stderr",
    [TASK_LOG_STDOUT] = "stdout",
    [TASK_LOG_SYSTEM] = "system",
};

const char *task_log_stream_name(TaskLogStream stream)
{
    assert(stream < TASK_LOG_STREAM_N_);
    return stream_names[stream];
}

int task_log_insert(Db *db, int64_t task_seq, const TaskLogLine *line)
{
    assert(line->stream < TASK_LOG_STREAM_N_ && line->seq > 0);
    RowIn in = row_in(db, "INSERT INTO task_log (task_seq, seq, attempt, at_ms, stream, text)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
    in_i64(&in, task_seq);
    in_i64(&in, line->seq);
    in_i64(&in, line->attempt);
    in_i64(&in, line->at_ms);
    in_i64(&in, (int64_t)line->stream);
    in_text(&in, str_sub(line->text, 0, TASK_LOG_LINE_BYTES_MAX));
    return db_run(in.stmt, NULL);
}

static void line_read(RowOut *out, void *ret)
{
    TaskLogLine *line = ret;
    line->attempt = out_i64(out);
    line->seq = out_i64(out);
    line->at_ms = out_i64(out);
    line->stream = (TaskLogStream)out_i64(out);
    line->text = out_text(out);
    line->left_out_n = line->left_out_bytes = 0;
}

static int lines_list(DbStmt *s, int64_t task_seq, TaskLogCursor after, size_t max, Arena *arena,
                      TaskLogLine **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(TaskLogLine) };
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after.attempt);
    db_bind_i64(s, 3, after.seq);
    int r = row_list_fill(&list, s, line_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int task_log_list(Db *db, int64_t task_seq, TaskLogCursor after, Arena *arena, TaskLogLine **ret,
                  size_t *ret_n)
{
    DbStmt *s = db_stmt(db, "SELECT attempt, seq, at_ms, stream, text FROM task_log"
                            " WHERE task_seq = ?1 AND (attempt, seq) > (?2, ?3)"
                            " ORDER BY attempt, seq");
    return lines_list(s, task_seq, after, TASK_LOG_LIST_MAX, arena, ret, ret_n);
}

int task_log_lines_after(Db *db, int64_t task_seq, TaskLogCursor after, size_t max, Arena *arena,
                         TaskLogLine **ret, size_t *ret_n)
{
    DbStmt *s = db_stmt(db, "SELECT attempt, seq, at_ms, stream, text FROM task_log"
                            " WHERE task_seq = ?1 AND (attempt, seq) > (?2, ?3) AND seq < ?4"
                            " ORDER BY attempt, seq");
    db_bind_i64(s, 4, TASK_LOG_TOLD_SEQ);
    return lines_list(s, task_seq, after, max, arena, ret, ret_n);
}

/* Attempt by attempt, so that the other lines need not be passed over. */
int task_log_notes_after(Db *db, int64_t task_seq, TaskLogCursor after, int64_t attempt, size_t max,
                         Arena *arena, TaskLogLine **ret, size_t *ret_n)
{
    DbStmt *s = db_stmt(db, "WITH RECURSIVE tried (n) AS (SELECT ?2 UNION ALL SELECT n + 1"
                            " FROM tried WHERE n < ?5)"
                            " SELECT attempt, seq, at_ms, stream, text FROM tried CROSS JOIN"
                            " task_log ON task_seq = ?1 AND attempt = n AND seq >= ?4"
                            " AND (n > ?2 OR seq > ?3)");
    db_bind_i64(s, 4, TASK_LOG_TOLD_SEQ);
    db_bind_i64(s, 5, attempt);
    return lines_list(s, task_seq, after, max, arena, ret, ret_n);
}

/* --- logs over their bound -------------------------------------------------------------------- */

static int seq_max(DbStmt *s, int64_t task_seq, int64_t attempt, int64_t *ret_seq)
{
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, attempt);
    db_bind_i64(s, 3, TASK_LOG_TOLD_SEQ);
    int r = row_first(s);
    if (r != 0) return r;
    *ret_seq = db_i64(s, 0);
    db_reset(s);
    return 0;
}

int task_log_last(Db *db, int64_t task_seq, int64_t attempt, int64_t *ret_seq)
{
    DbStmt *s = db_stmt(db, "SELECT COALESCE(MAX(seq), 0) FROM task_log"
                            " WHERE task_seq = ?1 AND attempt = ?2 AND seq < ?3");
    return seq_max(s, task_seq, attempt, ret_seq);
}

int task_log_next_note(Db *db, int64_t task_seq, int64_t attempt, int64_t now_ms, int64_t *ret_seq)
{
    DbStmt *s = db_stmt(db, "SELECT COALESCE(MAX(seq) + 1, ?3) FROM task_log"
                            " WHERE task_seq = ?1 AND attempt = ?2 AND seq >= ?3");
    int r = seq_max(s, task_seq, attempt, ret_seq);
    if (r == 0) *ret_seq = MAX(*ret_seq, now_ms);
    return r;
}

int task_log_tail(Db *db, int64_t task_seq, TaskLogTail *ret)
{
    DbStmt *s = db_stmt(db, "SELECT attempt, seq, at_ms, bytes, left_out, left_out_bytes"
                            " FROM task_log_tail WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret = (TaskLogTail){ .begin = { db_i64(s, 0), db_i64(s, 1) },
                          .at_ms = db_i64(s, 2),
                          .bytes = db_i64(s, 3),
                          .left_out_n = db_i64(s, 4),
                          .left_out_bytes = db_i64(s, 5) };
    db_reset(s);
    return 0;
}

static int mark_put(Db *db, int64_t task_seq, const TaskLogTail *tail)
{
    char text[160];
    snprintf(text, sizeof text,
             "[%" PRId64 " lines, %" PRId64 " bytes, left out here: limits.logBytesPerTask]",
             tail->left_out_n, tail->left_out_bytes);
    RowIn in = row_in(db, "INSERT INTO task_log (task_seq, seq, attempt, at_ms, stream, text)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                          " ON CONFLICT DO UPDATE SET text = excluded.text");
    in_i64(&in, task_seq);
    in_i64(&in, tail->begin.seq);
    in_i64(&in, tail->begin.attempt);
    in_i64(&in, tail->at_ms);
    in_i64(&in, TASK_LOG_SYSTEM);
    in_text(&in, str_of(text));
    return row_run(in.stmt);
}

int task_log_tail_put(Db *db, int64_t task_seq, const TaskLogTail *tail)
{
    RowIn in = row_in(db, "INSERT OR REPLACE INTO task_log_tail (task_seq, attempt, seq, at_ms,"
                          " bytes, left_out, left_out_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    assert(tail->bytes >= 0 && tail->left_out_n >= 0 && tail->left_out_bytes >= 0);
    in_i64(&in, task_seq);
    in_i64(&in, tail->begin.attempt);
    in_i64(&in, tail->begin.seq);
    in_i64(&in, tail->at_ms);
    in_i64(&in, tail->bytes);
    in_i64(&in, tail->left_out_n);
    in_i64(&in, tail->left_out_bytes);
    int r = row_run(in.stmt);
    return r == 0 && tail->left_out_n > 0 ? mark_put(db, task_seq, tail) : r;
}

static void bind_span(DbStmt *s, int64_t task_seq, const TaskLogTail *tail, TaskLogCursor end)
{
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, tail->begin.attempt);
    db_bind_i64(s, 3, tail->begin.seq + (tail->left_out_n > 0)); /* behind the line that tells */
    db_bind_i64(s, 4, end.attempt);
    db_bind_i64(s, 5, end.seq);
    db_bind_i64(s, 6, TASK_LOG_TOLD_SEQ);
}

/* What is to be deleted: the end of it, and how much it is. */
static int cut_find(Db *db, int64_t task_seq, const TaskLogTail *tail, TaskLogCursor *end,
                    int64_t bytes, int64_t *ret_n, int64_t *ret_text_bytes)
{
    DbStmt *s = db_stmt(db, "SELECT attempt, seq, length(CAST(text AS BLOB)) FROM task_log"
                            " WHERE task_seq = ?1 AND (attempt, seq) >= (?2, ?3)"
                            " AND (attempt, seq) < (?4, ?5) AND seq < ?6 ORDER BY attempt, seq");
    TaskLogCursor last = { 0 };
    int64_t n = 0, text_bytes = 0;
    int r = 0;
    bind_span(s, task_seq, tail, *end);
    while (text_bytes + n * LOG_LINE_BYTES_EXTRA < bytes && (r = db_step(s)) == DB_E_ROW) {
        last = (TaskLogCursor){ db_i64(s, 0), db_i64(s, 1) + 1 };
        text_bytes += db_i64(s, 2);
        n++;
    }
    db_reset(s);
    *end = last;
    *ret_n = n;
    *ret_text_bytes = text_bytes;
    return MIN(r, 0);
}

int task_log_tail_cut(Db *db, int64_t task_seq, TaskLogTail *tail, TaskLogCursor end, int64_t bytes,
                      int64_t *ret_text_bytes)
{
    int64_t n;
    int r = cut_find(db, task_seq, tail, &end, bytes, &n, ret_text_bytes);
    if (r != 0 || n == 0) return r;
    DbStmt *s = db_stmt(db, "DELETE FROM task_log WHERE task_seq = ?1"
                            " AND (attempt, seq) >= (?2, ?3) AND (attempt, seq) < (?4, ?5)"
                            " AND seq < ?6");
    bind_span(s, task_seq, tail, end);
    r = row_run(s);
    tail->bytes -= *ret_text_bytes + n * LOG_LINE_BYTES_EXTRA;
    tail->left_out_n += n;
    tail->left_out_bytes += *ret_text_bytes;
    return r;
}
