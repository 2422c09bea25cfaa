#include "store/judge_store.h"

#include <math.h>

#include "store/row.h"

static void in_judging(RowIn *in, const Judging *row)
{
    in_i64(in, row->of);
    in_text(in, row->grader);
    in_i64(in, row->state);
    in_uuid(in, &row->judge_id);
    in_i64(in, row->tries);
    in_i64(in, row->asked_at_ms);
    db_bind_f64(in->stmt, in->index++, row->state == JUDGING_TOLD ? row->value : NAN);
    in_text_or_null(in, row->comment);
}

int judging_add(Db *db, const Judging *row)
{
    RowIn in = row_in(db, "INSERT INTO judging (of, grader, state, judge_id, tries, asked_at_ms,"
                          " value, comment) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    in_judging(&in, row);
    return row_run(in.stmt);
}

int judging_begin(Db *db, const Judging *rows, size_t n)
{
    assert(n > 0);
    RowIn in = row_in(db, "UPDATE grade SET judged = 1 WHERE task_seq = ?1 AND judged = 0");
    in_i64(&in, rows[0].of);
    int r = row_change(in.stmt);
    for (size_t i = 0; r == 0 && i < n; i++) r = judging_add(db, &rows[i]);
    return r;
}

int judging_count(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM judging WHERE state = 0");
    int r = row_first(s);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

static void judging_read(RowOut *out, void *ret)
{
    Judging *row = ret;
    row->of = out_i64(out);
    row->grader = out_text(out);
    row->state = (JudgingState)out_i64(out);
    row->judge_id = out_uuid(out);
    row->tries = out_i64(out);
    row->asked_at_ms = out_i64(out);
    row->value = row->state == JUDGING_TOLD ? db_f64(out->stmt, out->column) : NAN;
    out->column++;
    row->comment = out_text(out);
}

#define COLUMNS "j.of, j.grader, j.state, j.judge_id, j.tries, j.asked_at_ms, j.value, j.comment"

static void news_read(RowOut *out, void *ret)
{
    JudgingNews *news = ret;
    judging_read(out, &news->judging);
    news->state = (TaskState)out_i64(out);
    news->agent = out_text(out);
    news->version_id = out_text(out);
    news->result = out_text(out);
    news->stopped_by = out_text(out);
    news->error_code = out_text(out);
}

int judging_news(Db *db, int64_t overdue_ms, size_t max, Arena *arena, JudgingNews **ret,
                 size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(JudgingNews) };
    RowIn in = row_in(db, "SELECT " COLUMNS ", t.state, t.agent, t.version_id,"
                          " CASE WHEN length(CAST(r.result AS BLOB)) <= ?3 THEN r.result END,"
                          " t.stopped_by, t.error_code FROM judging j"
                          " CROSS JOIN task t ON t.id = j.judge_id"
                          " LEFT JOIN task_result r ON r.seq = t.seq"
                          " WHERE j.state = 0 AND (t.state >= 2 OR j.asked_at_ms < ?1)"
                          " ORDER BY j.of, j.grader LIMIT ?2");
    in_i64(&in, overdue_ms);
    in_i64(&in, (int64_t)max);
    in_i64(&in, JUDGING_RESULT_MAX);
    int r = row_list_fill(&list, in.stmt, news_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int judging_set(Db *db, const Judging *row)
{
    RowIn in = row_in(db, "UPDATE judging SET state = ?3, judge_id = ?4, tries = ?5,"
                          " asked_at_ms = ?6, value = ?7, comment = ?8"
                          " WHERE of = ?1 AND grader = ?2 AND state = 0");
    in_judging(&in, row);
    int r = row_run(in.stmt);
    if (r != 0 || row->state == JUDGING_OPEN) return r;
    in = row_in(db, "UPDATE grade SET judged = 2 WHERE task_seq = ?1 AND judged = 1 AND NOT EXISTS"
                    " (SELECT 1 FROM judging WHERE of = ?1 AND state = 0)");
    in_i64(&in, row->of);
    return row_run(in.stmt);
}

int judging_list(Db *db, int64_t of, Arena *arena, Judging **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = JUDGING_LIST_MAX, .size = sizeof(Judging) };
    RowIn in = row_in(db, "SELECT " COLUMNS " FROM judging j WHERE of = ?1 ORDER BY grader");
    in_i64(&in, of);
    int r = row_list_fill(&list, in.stmt, judging_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int judging_forget(Db *db, int64_t of)
{
    RowIn in = row_in(db, "DELETE FROM judging WHERE of = ?1");
    in_i64(&in, of);
    return row_run(in.stmt);
}
