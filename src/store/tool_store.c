#include "store/tool_store.h"

#include "store/row.h"

int tool_record_insert(Db *db, int64_t task_seq, const ToolRecord *record)
{
    assert(!str_empty(record->id) && !str_empty(record->name));
    RowIn in = row_in(db, "INSERT INTO tool_call (task_seq, id, attempt, name, source, outcome,"
                          " at_ms, duration_ms, bytes, replayed, counted, mode, n)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,"
                          " (SELECT COALESCE(MAX(n), 0) + 1 FROM tool_call WHERE task_seq = ?1))");
    in_i64(&in, task_seq);
    in_text(&in, record->id);
    in_i64(&in, record->attempt);
    in_text(&in, record->name);
    in_text(&in, record->source);
    in_text(&in, record->outcome);
    in_i64(&in, record->at_ms);
    in_i64(&in, record->duration_ms);
    in_i64(&in, record->bytes);
    in_i64(&in, record->replayed);
    in_i64(&in, record->counted);
    in_text_or_null(&in, record->mode);
    return db_run(in.stmt, NULL);
}

int tool_record_stubbed(Db *db, int64_t task_seq, Str agent, bool *ret)
{
    RowIn in = row_in(db, "SELECT EXISTS (SELECT 1 FROM tool_call WHERE task_seq = ?1"
                          " AND source = 'agent' AND mode = 'stub' AND name = ?2)");
    in_i64(&in, task_seq);
    in_text(&in, agent);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

static void record_read(RowOut *out, void *ret)
{
    ToolRecord *record = ret;
    record->id = out_text(out);
    record->attempt = out_i64(out);
    record->name = out_text(out);
    record->source = out_text(out);
    record->outcome = out_text(out);
    record->at_ms = out_i64(out);
    record->duration_ms = out_i64(out);
    record->bytes = out_i64(out);
    record->replayed = out_i64(out) != 0;
    record->counted = out_i64(out) != 0;
    record->mode = out_text(out);
    record->n = out_i64(out);
}

#define RECORDS_OF_TASK                                                     \
    "SELECT id, attempt, name, source, outcome, at_ms, duration_ms, bytes," \
    " replayed, counted, mode, n FROM tool_call WHERE task_seq = ?1"

int tool_record_list(Db *db, int64_t task_seq, Arena *arena, ToolRecord **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = TOOL_RECORD_LIST_MAX, .size = sizeof(ToolRecord) };
    DbStmt *s = db_stmt(db, RECORDS_OF_TASK " ORDER BY id");
    db_bind_i64(s, 1, task_seq);
    int r = row_list_fill(&list, s, record_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int tool_record_list_after(Db *db, int64_t task_seq, int64_t after_n, size_t max, Arena *arena,
                           ToolRecord **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(ToolRecord) };
    DbStmt *s = db_stmt(db, RECORDS_OF_TASK " AND n > ?2 ORDER BY n");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after_n);
    int r = row_list_fill(&list, s, record_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
