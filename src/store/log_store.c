#include "store/log_store.h"

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
}

int task_log_list(Db *db, int64_t task_seq, TaskLogCursor after, Arena *arena, TaskLogLine **ret,
                  size_t *ret_n)
{
    RowList list = { .arena = arena, .max = TASK_LOG_LIST_MAX, .size = sizeof(TaskLogLine) };
    DbStmt *s = db_stmt(db, "SELECT attempt, seq, at_ms, stream, text FROM task_log"
                            " WHERE task_seq = ?1 AND (attempt, seq) > (?2, ?3)"
                            " ORDER BY attempt, seq");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after.attempt);
    db_bind_i64(s, 3, after.seq);
    int r = row_list_fill(&list, s, line_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
