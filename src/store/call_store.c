#include "store/call_store.h"

#include "store/row.h"

/* As CALLS_OF_TASK, of those whose ids are greater than ?2. */
#define CALLS_OF_TASK_AFTER                                                             \
    "WITH RECURSIVE calls (id) AS (SELECT last_call_id FROM task WHERE seq = ?1"        \
    " AND last_call_id > ?2 UNION ALL SELECT before_id FROM calls JOIN call USING (id)" \
    " WHERE before_id > ?2) "

/* From duration_ms to cost_nusd. */
static void in_outcome(RowIn *in, const Call *c)
{
    in_i64(in, c->duration_ms);
    in_text(in, c->provider);
    in_text(in, c->model);
    in_text(in, c->protocol);
    in_text(in, c->outcome);
    in_i64(in, c->streamed);
    in_i64(in, c->replayed);
    in_i64(in, c->status);
    in_i64(in, c->input_tokens);
    in_i64(in, c->output_tokens);
    in_i64(in, c->cached_tokens);
    in_i64(in, c->reasoning_tokens);
    in_i64(in, c->cost_nusd);
}

int call_insert(Db *db, int64_t task_seq, const Call *c, int64_t *last_id)
{
    RowIn in = row_in(db,
                      "INSERT INTO call (task_seq, attempt, fence, at_ms, duration_ms, provider,"
                      " model, protocol, outcome, streamed, replayed, status, input_tokens,"
                      " output_tokens, cached_tokens, reasoning_tokens, cost_nusd, call_id,"
                      " cached, degraded, charged_tokens, before_id, request_id, upstream_id,"
                      " response_id)"
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,"
                      " ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)");
    in_i64(&in, task_seq);
    in_i64(&in, c->attempt);
    in_i64(&in, c->fence);
    in_i64(&in, c->at_ms);
    in_outcome(&in, c);
    in_text_or_null(&in, c->call_id);
    in_i64(&in, c->cached);
    in_text_or_null(&in, c->degraded);
    in_i64(&in, c->charged_tokens);
    in_i64(&in, *last_id);
    in_text_or_null(&in, c->request_id);
    in_text_or_null(&in, c->upstream_id);
    in_text_or_null(&in, c->response_id);
    int r = db_run(in.stmt, NULL);
    if (r == 0) *last_id = db_last_insert_id(db);
    return r;
}

static int lost_read(Db *db, int64_t task_seq, Str call_id, Arena *arena, Call *ret)
{
    RowIn in = row_in(db, "SELECT id, at_ms, provider, model, cost_nusd, charged_tokens FROM call"
                          " WHERE call_id = ?1 AND task_seq = ?2 AND outcome = '" CALL_LOST "'");
    in_text(&in, call_id);
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    *ret = (Call){ .call_id = call_id, .outcome = STR(CALL_LOST) };
    ret->id = out_i64(&out);
    ret->at_ms = out_i64(&out);
    ret->provider = out_text(&out);
    ret->model = out_text(&out);
    ret->cost_nusd = out_i64(&out);
    ret->charged_tokens = out_i64(&out);
    return row_out_end(&out);
}

int call_replace_lost(Db *db, int64_t task_seq, const Call *c, Arena *arena, Call *ret_lost)
{
    int r = lost_read(db, task_seq, c->call_id, arena, ret_lost);
    if (r != 0) return r;
    RowIn in = row_in(db, "UPDATE call SET duration_ms = ?2, provider = ?3, model = ?4,"
                          " protocol = ?5, outcome = ?6, streamed = ?7, replayed = ?8,"
                          " status = ?9, input_tokens = ?10, output_tokens = ?11,"
                          " cached_tokens = ?12, reasoning_tokens = ?13, cost_nusd = ?14,"
                          " cached = ?15, degraded = ?16, charged_tokens = ?17,"
                          " request_id = ?18, upstream_id = ?19, response_id = ?20 WHERE id = ?1");
    in_i64(&in, ret_lost->id);
    in_outcome(&in, c);
    in_i64(&in, c->cached);
    in_text_or_null(&in, c->degraded);
    in_i64(&in, c->charged_tokens);
    in_text_or_null(&in, c->request_id);
    in_text_or_null(&in, c->upstream_id);
    in_text_or_null(&in, c->response_id);
    return row_change(in.stmt);
}

int call_response_of(Db *db, Str response_id, Str tenant)
{
    RowIn in = row_in(db, "SELECT 1 FROM call WHERE response_id = ?1"
                          " AND COALESCE((SELECT tenant_id FROM task WHERE seq = call.task_seq),"
                          " (SELECT tenant_id FROM account WHERE seq = call.task_seq), '') = ?2"
                          " LIMIT 1");
    in_text(&in, response_id);
    in_text(&in, tenant);
    int r = row_first(in.stmt);
    db_reset(in.stmt);
    return r;
}

int call_note_last(Db *db, int64_t task_seq, int64_t last_id)
{
    DbStmt *s = db_stmt(db, "UPDATE task SET last_call_id = ?2 WHERE seq = ?1");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, last_id);
    return row_change(s);
}

static void call_read(RowOut *out, void *ret)
{
    Call *c = ret;
    c->id = out_i64(out);
    c->attempt = out_i64(out);
    c->fence = out_i64(out);
    c->at_ms = out_i64(out);
    c->duration_ms = out_i64(out);
    c->provider = out_text(out);
    c->model = out_text(out);
    c->protocol = out_text(out);
    c->outcome = out_text(out);
    c->streamed = out_i64(out) != 0;
    c->replayed = out_i64(out) != 0;
    c->status = out_i64(out);
    c->input_tokens = out_i64(out);
    c->output_tokens = out_i64(out);
    c->cached_tokens = out_i64(out);
    c->reasoning_tokens = out_i64(out);
    c->cost_nusd = out_i64(out);
    c->call_id = out_text(out);
    c->cached = out_i64(out) != 0;
    c->degraded = out_text(out);
    c->request_id = out_text(out);
    c->upstream_id = out_text(out);
    c->response_id = STR("");
    c->charged_tokens = c->tool_calls = 0;
    c->recording = NULL;
    c->replay_missed = false;
}

int call_is_recorded(Db *db, int64_t task_seq, Str call_id, bool *ret)
{
    RowIn in = row_in(db,
                      "SELECT EXISTS (SELECT 1 FROM call WHERE call_id = ?1 AND task_seq = ?2)");
    in_text(&in, call_id);
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0) != 0;
    db_reset(in.stmt);
    return 0;
}

int call_list_after(Db *db, int64_t task_seq, int64_t after_id, size_t max, Arena *arena,
                    Call **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(Call) };
    DbStmt *s = db_stmt(db, CALLS_OF_TASK_AFTER
                        "SELECT id, attempt, fence, at_ms, duration_ms, provider, model,"
                        " protocol, outcome, streamed, replayed, status, input_tokens,"
                        " output_tokens, cached_tokens, reasoning_tokens, cost_nusd, call_id,"
                        " cached, degraded, request_id, upstream_id"
                        " FROM call WHERE id IN calls ORDER BY id");
    db_bind_i64(s, 1, task_seq);
    db_bind_i64(s, 2, after_id);
    int r = row_list_fill(&list, s, call_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int call_list(Db *db, int64_t task_seq, Arena *arena, Call **ret, size_t *ret_n)
{
    return call_list_after(db, task_seq, 0, CALL_LIST_MAX, arena, ret, ret_n);
}

static void use_read(RowOut *out, void *ret_row)
{
    CallUse *use = ret_row;
    use->provider = out_text(out);
    use->model = out_text(out);
    use->newest_at_ms = out_i64(out);
    use->calls = out_i64(out);
    use->input_tokens = out_i64(out);
    use->output_tokens = out_i64(out);
    use->tokens = out_i64(out);
}

/* Ids grow with the end of calls, so what began lately stands at the end of the table. */
int call_recent(Db *db, int64_t since_ms, Arena *arena, CallUse **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = CALL_USES_MAX, .size = sizeof(CallUse) };
    DbStmt *s = db_stmt(db, "SELECT provider, model, MAX(at_ms), COUNT(*), total_of(input_tokens),"
                            " total_of(output_tokens),"
                            " total_of(MAX(plus(input_tokens, output_tokens), charged_tokens))"
                            " FROM call WHERE id > (SELECT COALESCE(MAX(id), 0) FROM call) - ?1"
                            " AND at_ms >= ?2 AND NOT replayed AND NOT cached"
                            " AND outcome NOT IN ('unreached', '" CALL_REFUSED "')"
                            " GROUP BY provider, model ORDER BY COUNT(*) DESC LIMIT ?3");
    db_bind_i64(s, 1, CALL_RECENT_MAX);
    db_bind_i64(s, 2, since_ms);
    db_bind_i64(s, 3, CALL_USES_MAX);
    int r = row_list_fill(&list, s, use_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
