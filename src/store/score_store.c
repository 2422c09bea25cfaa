#include "store/score_store.h"

#include <math.h>

#include "store/row.h"

static int score_value(Db *db, int64_t task_seq, Str name, double *ret)
{
    RowIn in = row_in(db, "SELECT value FROM task_score WHERE task_seq = ?1 AND name = ?2");
    in_i64(&in, task_seq);
    in_text(&in, name);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_f64(in.stmt, 0);
    db_reset(in.stmt);
    return 0;
}

static int score_figures(Db *db, int64_t task_seq, int64_t *ret_n, double *ret_mean)
{
    RowIn in = row_in(db, "SELECT count(*), total(value * weight), total(weight)"
                          " FROM task_score WHERE task_seq = ?1");
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret_n = db_i64(in.stmt, 0);
    double sum = db_f64(in.stmt, 1), weights = db_f64(in.stmt, 2);
    *ret_mean = weights > 0 ? fmin(fmax(sum / weights, 0), 1) : NAN;
    db_reset(in.stmt);
    return 0;
}

int score_put(Db *db, int64_t task_seq, const Score *score)
{
    assert(score->value >= 0 && score->value <= 1 && !str_empty(score->name));
    double mean, before = NAN;
    int64_t n = 0;
    int r = score_value(db, task_seq, score->name, &before);
    if (r == 0 && before == score->value) return SCORE_E_SAME;
    if (r == -ENOENT) r = score_figures(db, task_seq, &n, &mean);
    if (r != 0) return r;
    if (n >= SCORE_NAMES_MAX) return SCORE_E_FULL;
    RowIn in = row_in(db, "INSERT INTO task_score (task_seq, name, value, comment, at_ms,"
                          " weight) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET"
                          " value = excluded.value, comment = excluded.comment,"
                          " at_ms = excluded.at_ms, weight = excluded.weight");
    in_i64(&in, task_seq);
    in_text(&in, score->name);
    db_bind_f64(in.stmt, in.index++, score->value);
    in_text_or_null(&in, score->comment);
    in_i64(&in, score->at_ms);
    db_bind_f64(in.stmt, in.index++, score->weight);
    return row_run(in.stmt);
}

int score_get(Db *db, int64_t task_seq, Str name, double *ret)
{
    RowIn in = row_in(db, "SELECT value FROM task_score WHERE task_seq = ?1 AND name = ?2");
    in_i64(&in, task_seq);
    in_text(&in, name);
    int r = row_first(in.stmt);
    *ret = r == 0 ? db_f64(in.stmt, 0) : NAN;
    db_reset(in.stmt);
    return r == -ENOENT ? 0 : r;
}

int score_mean(Db *db, int64_t task_seq, double *ret)
{
    int64_t n;
    return score_figures(db, task_seq, &n, ret);
}

static void score_read(RowOut *out, void *ret)
{
    Score *score = ret;
    score->name = out_text(out);
    score->value = db_f64(out->stmt, out->column++);
    score->comment = out_text(out);
    score->at_ms = out_i64(out);
    score->weight = db_f64(out->stmt, out->column++);
}

int score_list(Db *db, int64_t task_seq, Arena *arena, Score **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = SCORE_NAMES_MAX, .size = sizeof(Score) };
    DbStmt *s = db_stmt(db, "SELECT name, value, comment, at_ms, weight FROM task_score"
                            " WHERE task_seq = ?1 ORDER BY name");
    db_bind_i64(s, 1, task_seq);
    int r = row_list_fill(&list, s, score_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int score_set_untold(Db *db, int64_t task_seq, unsigned untold)
{
    RowIn in = row_in(db, "UPDATE task SET unjudged = ?2 WHERE seq = ?1 AND unjudged <> ?2");
    in_i64(&in, task_seq);
    in_i64(&in, untold);
    return row_run(in.stmt);
}

int score_forget(Db *db, int64_t task_seq)
{
    int r = score_set_untold(db, task_seq, 0);
    if (r != 0) return r;
    DbStmt *s = db_stmt(db, "DELETE FROM task_score WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    return row_run(s);
}
