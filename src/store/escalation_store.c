#include "store/escalation_store.h"

#include "store/row.h"
#include "store/task_sql.h"

static const char *const state_names[ESCALATION_STATE_N_] = {
    [ESCALATION_PENDING] = "pending",     [ESCALATION_ANSWERED] = "answered",
    [ESCALATION_DEFAULTED] = "defaulted", [ESCALATION_EXPIRED] = "expired",
    [ESCALATION_CLOSED] = "closed",
};

const char *escalation_state_name(EscalationState state)
{
    assert(state < ESCALATION_STATE_N_);
    return state_names[state];
}

int escalation_insert(Db *db, const Escalation *e)
{
    RowIn in = row_in(db, "INSERT INTO escalation (task_seq, key, occurrence, question, context,"
                          " fallback, asked_at_ms, expires_at_ms)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    in_i64(&in, e->task_seq);
    in_blob(&in, str_make((const char *)e->key, sizeof e->key));
    in_i64(&in, e->occurrence);
    in_text(&in, e->question);
    in_text_or_null(&in, e->context);
    in_text_or_null(&in, e->fallback);
    in_i64(&in, e->asked_at_ms);
    in_i64(&in, e->expires_at_ms);
    return row_run(in.stmt);
}

/* --- reading ---------------------------------------------------------------------------------- */

#define ESCALATION_COLUMNS                                                            \
    "id, task_seq, key, occurrence, state, question, context, fallback, asked_at_ms," \
    " expires_at_ms, answered_at_ms, answer, answered_by"

static void escalation_read(RowOut *out, void *ret)
{
    Escalation *e = ret;
    e->id = out_i64(out);
    e->task_seq = out_i64(out);
    Str key = db_str(out->stmt, out->column++);
    assert(key.len == sizeof e->key);
    memcpy(e->key, key.ptr, sizeof e->key);
    e->occurrence = out_i64(out);
    e->state = (EscalationState)out_i64(out);
    e->question = out_text(out);
    e->context = out_text(out);
    e->fallback = out_text(out);
    e->asked_at_ms = out_i64(out);
    e->expires_at_ms = out_i64(out);
    e->answered_at_ms = out_i64(out);
    e->answer = out_text(out);
    e->answered_by = out_text(out);
}

static int escalation_first(DbStmt *stmt, Arena *arena, Escalation *ret)
{
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, arena);
    escalation_read(&out, ret);
    r = row_out_end(&out);
    db_reset(stmt);
    return r;
}

int escalation_find(Db *db, int64_t task_seq, const uint8_t key[SHA256_BYTES], int64_t occurrence,
                    Arena *arena, Escalation *ret)
{
    RowIn in = row_in(db, "SELECT " ESCALATION_COLUMNS " FROM escalation"
                          " WHERE task_seq = ?1 AND key = ?2 AND occurrence = ?3 AND live = 1");
    in_i64(&in, task_seq);
    in_blob(&in, str_make((const char *)key, SHA256_BYTES));
    in_i64(&in, occurrence);
    return escalation_first(in.stmt, arena, ret);
}

int escalation_pending(Db *db, int64_t task_seq, Arena *arena, Escalation *ret)
{
    RowIn in = row_in(db, "SELECT " ESCALATION_COLUMNS " FROM escalation"
                          " WHERE task_seq = ?1 AND state = 0 ORDER BY id LIMIT 1");
    in_i64(&in, task_seq);
    return escalation_first(in.stmt, arena, ret);
}

int escalation_overdue(Db *db, int64_t now_ms, Arena *arena, Escalation *ret)
{
    RowIn in = row_in(db,
                      "SELECT " ESCALATION_COLUMNS " FROM escalation"
                      " WHERE state = 0 AND expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT 1");
    in_i64(&in, now_ms);
    return escalation_first(in.stmt, arena, ret);
}

int escalation_counts(Db *db, int64_t task_seq, int64_t *ret_all, int64_t *ret_pending)
{
    DbStmt *s = db_stmt(db, "SELECT count(*), coalesce(sum(state = 0), 0) FROM escalation"
                            " WHERE task_seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret_all = db_i64(s, 0);
    *ret_pending = db_i64(s, 1);
    db_reset(s);
    return 0;
}

int escalation_last(Db *db, int64_t task_seq, EscalationState *ret)
{
    DbStmt *s = db_stmt(db, "SELECT state FROM escalation WHERE task_seq = ?1"
                            " AND live = 1 ORDER BY id DESC LIMIT 1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    *ret = (EscalationState)db_i64(s, 0);
    db_reset(s);
    return 0;
}

int escalation_list_after(Db *db, int64_t task_seq, int64_t after_id, size_t max, Arena *arena,
                          Escalation **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(Escalation) };
    DbStmt *s = db_stmt(db, "SELECT " ESCALATION_COLUMNS " FROM escalation WHERE task_seq = ?1"
                            " AND id > ?2 ORDER BY id");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after_id);
    int r = row_list_fill(&list, s, escalation_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int escalation_list(Db *db, int64_t task_seq, Arena *arena, Escalation **ret, size_t *ret_n)
{
    return escalation_list_after(db, task_seq, 0, ESCALATIONS_MAX, arena, ret, ret_n);
}

/* --- ends ------------------------------------------------------------------------------------- */

int escalation_settle(Db *db, int64_t id, EscalationState state, Str answer, Str by, int64_t now_ms)
{
    assert(state != ESCALATION_PENDING && state < ESCALATION_STATE_N_);
    RowIn in = row_in(db, "UPDATE escalation SET state = ?2, answer = ?3, answered_by = ?4,"
                          " answered_at_ms = ?5 WHERE id = ?1 AND state = 0");
    in_i64(&in, id);
    in_i64(&in, (int64_t)state);
    in_text_or_null(&in, answer);
    in_text_or_null(&in, by);
    in_i64(&in, now_ms);
    return row_change(in.stmt);
}

int escalation_retire(Db *db, int64_t task_seq, bool all)
{
    RowIn in = row_in(db, "UPDATE escalation SET live = 0,"
                          " state = CASE state WHEN 0 THEN 4 ELSE state END"
                          " WHERE task_seq = ?1 AND (?2 OR state IN (0, 3, 4))");
    in_i64(&in, task_seq);
    in_i64(&in, all);
    return row_run(in.stmt);
}

int escalation_close(Db *db, int64_t task_seq)
{
    RowIn in = row_in(db, "UPDATE escalation SET state = 4 WHERE task_seq = ?1 AND state = 0");
    in_i64(&in, task_seq);
    return row_run(in.stmt);
}

int escalation_move(Db *db, int64_t ms)
{
    DbStmt *s = db_stmt(db, ESCALATION_MOVE_SQL);
    db_bind_i64(s, 1, ms);
    return row_run(s);
}
