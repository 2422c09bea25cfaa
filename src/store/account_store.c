#include "store/account_store.h"

#include "store/row.h"

int account_find(Db *db, const BudgetOwner *owner, Uuid *ret)
{
    RowIn in = row_in(db, "SELECT id FROM account"
                          " WHERE tenant_id = ?1 AND agent = ?2 AND user_id = ?3");
    in_text(&in, owner->tenant);
    in_text(&in, owner->agent);
    in_text(&in, owner->user);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, NULL);
    *ret = out_uuid(&out);
    db_reset(in.stmt);
    return 0;
}

/* Of the tenant, counted up to max. */
static int account_count(Db *db, Str tenant, int64_t max, int64_t *ret)
{
    RowIn in = row_in(db, "SELECT count(*) FROM"
                          " (SELECT 1 FROM account WHERE tenant_id = ?1 LIMIT ?2)");
    in_text(&in, tenant);
    in_i64(&in, max);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, NULL);
    *ret = out_i64(&out);
    db_reset(in.stmt);
    return 0;
}

int account_get(Db *db, const BudgetOwner *owner, Uuid id, int64_t max, int64_t now_ms, Uuid *ret)
{
    int64_t n = 0;
    assert(!uuid_is_zero(id));
    int r = account_find(db, owner, ret);
    if (r != -ENOENT) return r;
    r = account_count(db, owner->tenant, max, &n);
    if (r == 0 && n >= max) r = ACCOUNT_E_FULL;
    if (r != 0) return r;
    RowIn in = row_in(db, "INSERT INTO account (seq, id, tenant_id, agent, user_id, created_at_ms,"
                          " used_at_ms) SELECT coalesce(min(seq), 0) - 1, ?1, ?2, ?3, ?4, ?5, ?5"
                          " FROM account");
    in_uuid(&in, &id);
    in_text(&in, owner->tenant);
    in_text(&in, owner->agent);
    in_text(&in, owner->user);
    in_i64(&in, now_ms);
    r = row_run(in.stmt);
    if (r == 0) *ret = id;
    return r;
}

int account_facts(Db *db, Uuid id, Arena *arena, TaskFacts *ret)
{
    RowIn in = row_in(db, "SELECT seq, agent, tenant_id, user_id FROM account WHERE id = ?1");
    in_uuid(&in, &id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    *ret = (TaskFacts){ .seq = out_i64(&out), .version_id = STR("") };
    ret->agent = out_text(&out);
    ret->tenant_id = out_text(&out);
    ret->user_id = out_text(&out);
    db_reset(in.stmt);
    return out.full ? -ENOMEM : 0;
}

int account_add(Db *db, int64_t seq, const Spend *sum, int64_t used_at_ms)
{
    RowIn in = row_in(db, "UPDATE account SET calls = calls + ?7,"
                          " input_tokens = plus(input_tokens, ?2),"
                          " output_tokens = plus(output_tokens, ?3),"
                          " cached_tokens = plus(cached_tokens, ?4),"
                          " cost_nusd = plus(cost_nusd, ?5), used_at_ms = max(used_at_ms, ?6)"
                          " WHERE seq = ?1");
    in_i64(&in, seq);
    in_i64(&in, sum->input_tokens);
    in_i64(&in, sum->output_tokens);
    in_i64(&in, sum->cached_tokens);
    in_i64(&in, sum->cost_nusd);
    in_i64(&in, used_at_ms);
    in_i64(&in, sum->calls);
    return row_change(in.stmt);
}

int account_refund(Db *db, int64_t seq, int64_t cost_nusd)
{
    RowIn in = row_in(db, "UPDATE account SET calls = calls - 1, cost_nusd = plus(cost_nusd, -?2)"
                          " WHERE seq = ?1");
    in_i64(&in, seq);
    in_i64(&in, cost_nusd);
    return row_change(in.stmt);
}

static void account_read(RowOut *out, void *ret)
{
    Account *a = ret;
    a->id = out_uuid(out);
    a->tenant = out_text(out);
    a->agent = out_text(out);
    a->user = out_text(out);
    a->created_at_ms = out_i64(out);
    a->used_at_ms = out_i64(out);
    a->calls = out_i64(out);
    a->input_tokens = out_i64(out);
    a->output_tokens = out_i64(out);
    a->cached_tokens = out_i64(out);
    a->cost_nusd = out_i64(out);
}

int account_list(Db *db, Str tenant, size_t max, Arena *arena, Account **ret, size_t *ret_n)
{
    assert(max <= ACCOUNT_LIST_MAX);
    RowList list = { .arena = arena, .max = max, .size = sizeof(Account) };
    RowIn in = row_in(db, "SELECT id, tenant_id, agent, user_id, created_at_ms, used_at_ms, calls,"
                          " input_tokens, output_tokens, cached_tokens, cost_nusd FROM account"
                          " WHERE ?1 IS NULL OR tenant_id = ?1"
                          " ORDER BY used_at_ms DESC, seq LIMIT ?2");
    in_text_or_null(&in, tenant);
    in_i64(&in, (int64_t)max);
    int r = row_list_fill(&list, in.stmt, account_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
