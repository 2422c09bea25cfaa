#include "store/spend_store.h"

#include "store/row.h"

const char *spend_by_name(SpendBy by)
{
    static const char *const names[SPEND_BY_N_] = { "agent", "version",  "user", "tenant",
                                                    "model", "provider", "day" };
    assert(by < SPEND_BY_N_);
    return names[by];
}

int spend_add(Db *db, const SpendKey *key, const Spend *sum)
{
    RowIn in = row_in(db,
                      "INSERT INTO spend (hour_ms, agent, version_id, user_id, tenant_id, model,"
                      " provider, calls, input_tokens, output_tokens, cached_tokens, cost_nusd,"
                      " charged_tokens, shadow_nusd, shadow_tokens)"
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
                      " ON CONFLICT DO UPDATE SET calls = plus(calls, excluded.calls),"
                      " input_tokens = plus(input_tokens, excluded.input_tokens),"
                      " output_tokens = plus(output_tokens, excluded.output_tokens),"
                      " cached_tokens = plus(cached_tokens, excluded.cached_tokens),"
                      " cost_nusd = plus(cost_nusd, excluded.cost_nusd),"
                      " charged_tokens = plus(charged_tokens, excluded.charged_tokens),"
                      " shadow_nusd = plus(shadow_nusd, excluded.shadow_nusd),"
                      " shadow_tokens = plus(shadow_tokens, excluded.shadow_tokens)");
    assert(key->hour_ms % SPEND_HOUR_MS == 0);
    in_i64(&in, key->hour_ms);
    in_text(&in, key->agent);
    in_text(&in, key->version_id);
    in_text(&in, key->user_id);
    in_text(&in, key->tenant_id);
    in_text(&in, key->model);
    in_text(&in, key->provider);
    in_i64(&in, sum->calls);
    in_i64(&in, sum->input_tokens);
    in_i64(&in, sum->output_tokens);
    in_i64(&in, sum->cached_tokens);
    in_i64(&in, sum->cost_nusd);
    in_i64(&in, sum->charged_tokens);
    in_i64(&in, sum->shadow_nusd);
    in_i64(&in, sum->shadow_tokens);
    return row_run(in.stmt);
}

int spend_purge(Db *db, int64_t before_ms, int hours_max, int64_t *ret_n)
{
    int64_t n = 1;
    int r = 0;
    *ret_n = 0;
    for (int i = 0; i < hours_max && n > 0 && r == 0; i++) {
        RowIn in = row_in(db, "DELETE FROM spend WHERE hour_ms = (SELECT min(hour_ms) FROM spend)"
                              " AND hour_ms + ?1 <= ?2");
        in_i64(&in, SPEND_HOUR_MS);
        in_i64(&in, before_ms);
        r = db_run(in.stmt, &n);
        if (r == 0) *ret_n += n;
    }
    return r;
}

static void spend_read(RowOut *out, void *ret)
{
    Spend *spend = ret;
    spend->key = out_text(out);
    spend->calls = out_i64(out);
    spend->input_tokens = out_i64(out);
    spend->output_tokens = out_i64(out);
    spend->cached_tokens = out_i64(out);
    spend->cost_nusd = out_i64(out);
}

#define SUMS                                                                                       \
    ", total_of(calls), total_of(input_tokens), total_of(output_tokens), total_of(cached_tokens)," \
    " total_of(cost_nusd) AS cost FROM spend WHERE hour_ms >= ?1"
#define BY(column) "SELECT " column SUMS " GROUP BY 1 ORDER BY cost DESC, 1 LIMIT ?2"

static const char *list_sql(SpendBy by)
{
    static const char *const sql[SPEND_BY_N_] = {
        [SPEND_BY_AGENT] = BY("agent"),
        [SPEND_BY_VERSION] = BY("version_id"),
        [SPEND_BY_USER] = BY("user_id"),
        [SPEND_BY_TENANT] = BY("tenant_id"),
        [SPEND_BY_MODEL] = BY("model"),
        [SPEND_BY_PROVIDER] = BY("provider"),
        [SPEND_BY_DAY] = "SELECT strftime('%Y-%m-%d', hour_ms / 1000, 'unixepoch')" SUMS
                         " GROUP BY 1 ORDER BY 1 DESC LIMIT ?2",
    };
    assert(by < SPEND_BY_N_);
    return sql[by];
}

static int total_read(Db *db, int64_t from_ms, Spend *ret)
{
    RowIn in = row_in(
        db, "SELECT total_of(calls), total_of(input_tokens), total_of(output_tokens),"
            " total_of(cached_tokens), total_of(cost_nusd) FROM spend WHERE hour_ms >= ?1");
    in_i64(&in, from_ms);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = (Spend){ .calls = db_i64(in.stmt, 0),
                    .input_tokens = db_i64(in.stmt, 1),
                    .output_tokens = db_i64(in.stmt, 2),
                    .cached_tokens = db_i64(in.stmt, 3),
                    .cost_nusd = db_i64(in.stmt, 4) };
    db_reset(in.stmt);
    return 0;
}

int spend_list(Db *db, SpendBy by, int64_t from_ms, size_t max, Arena *arena, Spend **ret,
               size_t *ret_n, Spend *ret_total)
{
    assert(max <= SPEND_ROWS_MAX);
    from_ms -= from_ms % SPEND_HOUR_MS;
    int r = total_read(db, from_ms, ret_total);
    if (r != 0) return r;
    RowList list = { .arena = arena, .max = max, .size = sizeof(Spend) };
    RowIn in = row_in(db, list_sql(by));
    in_i64(&in, from_ms);
    in_i64(&in, (int64_t)max);
    r = row_list_fill(&list, in.stmt, spend_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
