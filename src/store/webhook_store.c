#include "store/webhook_store.h"

#include "store/row.h"

static const char *const state_names[WEBHOOK_STATE_N_] = {
    [WEBHOOK_PENDING] = "pending",
    [WEBHOOK_DELIVERED] = "delivered",
    [WEBHOOK_FAILED] = "failed",
};

const char *webhook_state_name(WebhookState state)
{
    assert(state < WEBHOOK_STATE_N_);
    return state_names[state];
}

int webhook_insert(Db *db, const Webhook *w)
{
    RowIn in = row_in(db, "INSERT INTO webhook (webhook_id, task_seq, url, body, created_at_ms,"
                          " next_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
    in_text(&in, w->webhook_id);
    in_i64(&in, w->task_seq);
    in_text(&in, w->url);
    in_text(&in, w->body);
    in_i64(&in, w->created_at_ms);
    in_i64(&in, w->next_at_ms);
    return row_run(in.stmt);
}

static void webhook_read(RowOut *out, void *ret)
{
    Webhook *w = ret;
    w->id = out_i64(out);
    w->webhook_id = out_text(out);
    w->task_seq = out_i64(out);
    w->url = out_text(out);
    w->state = (WebhookState)out_i64(out);
    w->attempts = out_i64(out);
    w->created_at_ms = out_i64(out);
    w->next_at_ms = out_i64(out);
    w->last_status = out_i64(out);
    w->last_error = out_text(out);
    w->body = out_text(out);
}

#define WEBHOOK_COLUMNS                                                          \
    "id, webhook_id, task_seq, url, state, attempts, created_at_ms, next_at_ms," \
    " last_status, last_error"

int webhook_due(Db *db, int64_t now_ms, size_t limit, Arena *arena, Webhook **ret, size_t *ret_n,
                int64_t *ret_next_at_ms)
{
    assert(limit > 0);
    RowList list = { .arena = arena, .max = limit, .size = sizeof(Webhook) };
    DbStmt *s = db_stmt(db, "SELECT " WEBHOOK_COLUMNS ", body FROM webhook"
                            " WHERE state = 0 AND next_at_ms <= ?1 ORDER BY next_at_ms, id");
    db_bind_i64(s, 1, now_ms);
    int r = row_list_fill(&list, s, webhook_read);
    if (r != 0) return r;
    s = db_stmt(db, "SELECT next_at_ms FROM webhook WHERE state = 0"
                    " ORDER BY next_at_ms, id LIMIT 1 OFFSET ?1");
    db_bind_i64(s, 1, (int64_t)list.n);
    r = row_first(s);
    if (r < 0 && r != -ENOENT) return r;
    *ret_next_at_ms = r == 0 ? db_i64(s, 0) : INT64_MAX;
    db_reset(s);
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int webhook_postpone(Db *db, int64_t id, int64_t next_at_ms)
{
    RowIn in = row_in(db, "UPDATE webhook SET next_at_ms = ?1 WHERE id = ?2 AND state = 0");
    in_i64(&in, next_at_ms);
    in_i64(&in, id);
    return row_change(in.stmt);
}

int webhook_record(Db *db, int64_t id, WebhookState state, int64_t next_at_ms, int64_t status,
                   Str error)
{
    assert(state < WEBHOOK_STATE_N_);
    RowIn in = row_in(db, "UPDATE webhook SET state = ?1, next_at_ms = ?2, last_status = ?3,"
                          " last_error = ?4, attempts = attempts + 1 WHERE id = ?5 AND state = 0");
    in_i64(&in, (int64_t)state);
    in_i64(&in, next_at_ms);
    in_i64(&in, status);
    in_text_or_null(&in, error);
    in_i64(&in, id);
    return row_change(in.stmt);
}

int webhook_again(Db *db, int64_t id, int64_t now_ms)
{
    DbStmt *s = db_stmt(db, "UPDATE webhook SET state = 0, attempts = 0, next_at_ms = ?1"
                            " WHERE id = ?2 AND state = 2");
    db_bind_i64(s, 1, now_ms);
    db_bind_i64(s, 2, id);
    return row_change(s);
}

int webhook_list(Db *db, int64_t task_seq, Arena *arena, Webhook **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = WEBHOOK_LIST_MAX, .size = sizeof(Webhook) };
    DbStmt *s = db_stmt(db, "SELECT " WEBHOOK_COLUMNS ", NULL FROM webhook"
                            " WHERE task_seq = ?1 ORDER BY id");
    db_bind_i64(s, 1, task_seq);
    int r = row_list_fill(&list, s, webhook_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
