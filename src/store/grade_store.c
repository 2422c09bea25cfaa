#include "store/grade_store.h"

#include <math.h>

#include "store/outcome_sql.h"
#include "store/row.h"
#include "store/score_store.h"

/* --- tasks that wait -------------------------------------------------------------------------- */

#define IS_TO_BE_GRADED                                                    \
    "t.state = 2 AND t.degraded_calls = 0 AND a.graders > 0"               \
    " AND NOT EXISTS (SELECT 1 FROM task_score s WHERE s.task_seq = t.seq" \
    " AND s.name >= 'grader:' AND s.name < 'grader;')"

int grade_add_due(Db *db, int64_t last_seq)
{
    DbStmt *any = db_stmt(db, "SELECT 1 FROM agent WHERE graders > 0 LIMIT 1");
    int r = row_first(any);
    if (r != 0) return r == -ENOENT ? 0 : r;
    db_reset(any);
    RowIn in = row_in(db, "INSERT OR IGNORE INTO grade (task_seq) SELECT t.seq FROM rollup_due d"
                          " CROSS JOIN task t ON t.seq = d.task_seq"
                          " CROSS JOIN agent a ON a.name = t.agent"
                          " WHERE d.task_seq <= ?1 AND " IS_TO_BE_GRADED);
    in_i64(&in, last_seq);
    return row_run(in.stmt);
}

int grade_add_shadow(Db *db, int64_t task_seq)
{
    RowIn in = row_in(db, "INSERT OR IGNORE INTO grade (task_seq) SELECT t.seq FROM task t"
                          " CROSS JOIN agent a ON a.name = t.agent"
                          " WHERE t.seq = ?1 AND t.state = 2 AND a.graders > 0");
    in_i64(&in, task_seq);
    return row_run(in.stmt);
}

static void grade_read(RowOut *out, void *ret)
{
    GradeTask *task = ret;
    task->seq = out_i64(out);
    task->id = out_uuid(out);
    task->agent = out_text(out);
    task->version_id = out_text(out);
    task->finished_at_ms = out_i64(out);
    int64_t started_at_ms = out_i64(out);
    task->latency_ms = started_at_ms > 0 ? MAX(0, task->finished_at_ms - started_at_ms) : 0;
    task->cost_nusd = out_i64(out);
    task->tool_calls = out_i64(out);
    task->tools = out_text(out);
    task->result = out_text(out);
    task->settings = out_text(out);
    task->input = out_text(out);
    task->judged = out_i64(out) != 0;
}

#define BEGAN_MS BEGAN_MS_OF("t.", "t.finished_at_ms")

int grade_next(Db *db, int64_t after_seq, size_t max, size_t result_max, Arena *arena,
               GradeTask **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(GradeTask) };
    RowIn in = row_in(
        db, "SELECT t.seq, t.id, t.agent, t.version_id, t.finished_at_ms,"
            " " BEGAN_MS ", t.cost_nusd, t.tool_calls, t.tools,"
            " CASE WHEN length(CAST(r.result AS BLOB)) <= ?3 THEN r.result END, a.settings,"
            " CASE WHEN length(CAST(p.input AS BLOB)) <= ?3 THEN p.input END,"
            " g.judged"
            " FROM grade g CROSS JOIN task t ON t.seq = g.task_seq"
            " CROSS JOIN agent a ON a.name = t.agent"
            " LEFT JOIN task_result r ON r.seq = t.seq"
            " LEFT JOIN task_payload p ON p.seq = t.seq AND a.judges > 0"
            " WHERE g.task_seq > ?1 AND g.judged <> 1 ORDER BY g.task_seq LIMIT ?2");
    in_i64(&in, after_seq);
    in_i64(&in, (int64_t)max);
    in_i64(&in, (int64_t)result_max);
    int r = row_list_fill(&list, in.stmt, grade_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int grade_drop(Db *db, int64_t task_seq)
{
    RowIn in = row_in(db, "DELETE FROM grade WHERE task_seq = ?1");
    in_i64(&in, task_seq);
    int r = row_change(in.stmt);
    return r == 0 ? judging_forget(db, task_seq) : r;
}

int grade_waits(Db *db, int64_t task_seq, bool *ret)
{
    RowIn in = row_in(db, "SELECT EXISTS (SELECT 1 FROM grade WHERE task_seq = ?1)"
                          " OR EXISTS (SELECT 1 FROM rollup_due d"
                          " CROSS JOIN task t ON t.seq = d.task_seq"
                          " CROSS JOIN agent a ON a.name = t.agent"
                          " WHERE d.task_seq = ?1 AND " IS_TO_BE_GRADED ")");
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

/* A running one will be graded, unless it fails; without weight no grader keeps quality back. */
#define QUALITY_WAITS                                                          \
    "(a.graders > 0 AND (t.state < 2 OR EXISTS (SELECT 1 FROM grade g"         \
    " WHERE g.task_seq = t.seq) OR (" IS_TO_BE_GRADED " AND EXISTS (SELECT 1"  \
    " FROM rollup_due d WHERE d.task_seq = t.seq))) AND EXISTS (SELECT 1 FROM" \
    " json_each(a.settings, '$.graders') e WHERE coalesce(e.value ->> 'weight', 1) > 0))"

int grade_quality(Db *db, int64_t task_seq, double *ret)
{
    RowIn in = row_in(db, "SELECT t.unjudged & 1 OR coalesce(" QUALITY_WAITS ", 0)"
                          " FROM task t LEFT JOIN agent a ON a.name = t.agent WHERE t.seq = ?1");
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    bool unknown = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    *ret = NAN;
    return unknown ? 0 : score_mean(db, task_seq, ret);
}

static int settle_one(Db *db, int64_t task_seq)
{
    double quality;
    int r = grade_quality(db, task_seq, &quality);
    if (r != 0) return r;
    RowIn in = row_in(db, "UPDATE task SET quality = ?2 WHERE seq = ?1");
    in_i64(&in, task_seq);
    db_bind_f64(in.stmt, in.index, quality); /* NaN becomes NULL */
    return row_run(in.stmt);
}

int grade_settle_due(Db *db, size_t max)
{
    size_t n = 0;
    DbStmt *any = db_stmt(db, "SELECT 1 FROM agent WHERE graders > 0 LIMIT 1");
    int r = row_first(any);
    if (r != 0) return r == -ENOENT ? 0 : r;
    db_reset(any);
    CLEANUP(freep) int64_t *seqs = xcalloc(max, sizeof(*seqs));
    RowIn in = row_in(db, "SELECT d.task_seq FROM"
                          " (SELECT task_seq FROM rollup_due ORDER BY task_seq LIMIT ?1) d"
                          " CROSS JOIN task t ON t.seq = d.task_seq"
                          " CROSS JOIN agent a ON a.name = t.agent WHERE a.graders > 0"
                          " AND EXISTS (SELECT 1 FROM task_score s WHERE s.task_seq = t.seq)");
    in_i64(&in, (int64_t)max);
    while ((r = db_step(in.stmt)) == DB_E_ROW) seqs[n++] = db_i64(in.stmt, 0);
    for (size_t i = 0; r == 0 && i < n; i++) r = settle_one(db, seqs[i]);
    return r;
}

int grade_count(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM grade");
    int r = row_first(s);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

/* --- sums ------------------------------------------------------------------------------------- */

int grade_sum_add(Db *db, int64_t at_ms, const GradeSum *sum)
{
    RowIn in = row_in(db, "INSERT INTO grade_sum (hour_ms, agent, version_id, grader, scored,"
                          " score_sum, failed, held) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
                          " ON CONFLICT DO UPDATE SET scored = scored + excluded.scored,"
                          " score_sum = score_sum + excluded.score_sum,"
                          " failed = failed + excluded.failed, held = held + excluded.held");
    in_i64(&in, at_ms - at_ms % GRADE_HOUR_MS);
    in_text(&in, sum->agent);
    in_text(&in, sum->version_id);
    in_text(&in, sum->grader);
    in_i64(&in, sum->scored);
    db_bind_f64(in.stmt, in.index++, sum->score_sum);
    in_i64(&in, sum->failed);
    in_i64(&in, sum->held);
    return row_run(in.stmt);
}

static void sum_read(RowOut *out, void *ret)
{
    GradeSum *sum = ret;
    sum->agent = out_text(out);
    sum->version_id = out_text(out);
    sum->grader = out_text(out);
    sum->scored = out_i64(out);
    sum->score_sum = db_f64(out->stmt, out->column++);
    sum->failed = out_i64(out);
    sum->held = out_i64(out);
}

int grade_sum_list(Db *db, Str agent, int64_t from_ms, Arena *arena, GradeSum **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = GRADE_SUMS_MAX, .size = sizeof(GradeSum) };
    RowIn in = row_in(db, "SELECT agent, version_id, grader, sum(scored), total(score_sum),"
                          " sum(failed), sum(held) FROM grade_sum WHERE hour_ms >= ?1"
                          " AND (?2 IS NULL OR agent = ?2) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3");
    from_ms = MAX(from_ms, 0);
    in_i64(&in, from_ms - from_ms % GRADE_HOUR_MS);
    in_text_or_null(&in, agent);
    int r = row_list_fill(&list, in.stmt, sum_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int grade_sum_purge(Db *db, int64_t now_ms)
{
    RowIn in = row_in(db, "DELETE FROM grade_sum WHERE hour_ms < ?1");
    in_i64(&in, now_ms - GRADE_SUMS_KEPT_MS);
    return row_run(in.stmt);
}
