#include "store/budget_store.h"

#include "base/map.h"
#include "store/row.h"
#include "store/spend_store.h"
#include "sys/entropy.h"

/* --- limits ----------------------------------------------------------------------------------- */

static void limit_read(RowOut *out, void *ret)
{
    BudgetLimit *limit = ret;
    limit->scope = out_text(out);
    limit->limit = out_i64(out);
    limit->changed_at_ms = out_i64(out);
}

int budget_limits_read(Db *db, Arena *arena, BudgetLimit **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = BUDGET_LIMITS_MAX, .size = sizeof(BudgetLimit) };
    int r = row_list_fill(
        &list, db_stmt(db, "SELECT scope, amount, changed_at_ms FROM budget_limit ORDER BY scope"),
        limit_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int budget_limit_put(Db *db, const BudgetLimit *limit)
{
    RowIn in = row_in(db, "INSERT INTO budget_limit (scope, amount, changed_at_ms)"
                          " VALUES (?1, ?2, ?3) ON CONFLICT (scope) DO UPDATE"
                          " SET amount = excluded.amount, changed_at_ms = excluded.changed_at_ms");
    in_text(&in, limit->scope);
    in_i64(&in, limit->limit);
    in_i64(&in, limit->changed_at_ms);
    return row_run(in.stmt);
}

int budget_limit_remove(Db *db, Str scope)
{
    RowIn in = row_in(db, "DELETE FROM budget_limit WHERE scope = ?1");
    in_text(&in, scope);
    return row_change(in.stmt);
}

/* --- what is counted -------------------------------------------------------------------------- */

int budget_counted(Db *db, Str scope, bool *ret)
{
    RowIn in = row_in(db, "SELECT 1 FROM budget_counted WHERE scope = ?1");
    in_text(&in, scope);
    int r = row_first(in.stmt);
    if (r == 0) db_reset(in.stmt);
    *ret = r == 0;
    return r == -ENOENT ? 0 : r;
}

int budget_counted_put(Db *db, Str scope, int64_t now_ms)
{
    RowIn in = row_in(db, "INSERT OR IGNORE INTO budget_counted (scope, since_ms) VALUES (?1, ?2)");
    in_text(&in, scope);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

static void scope_read(RowOut *out, void *ret)
{
    *(Str *)ret = out_text(out);
}

int budget_counted_keep(Db *db, const Str *scopes, size_t n)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, (size_t)BUDGET_LIMITS_MAX * 1024);
    RowList list = { .arena = &arena, .max = 2 * BUDGET_LIMITS_MAX, .size = sizeof(Str) };
    int r = row_list_fill(&list, db_stmt(db, "SELECT scope FROM budget_counted"), scope_read);
    const Str *there = list.rows;
    Map kept;
    map_init(&kept, entropy_u64());
    for (size_t i = 0; i < n; i++) map_put(&kept, scopes[i], &kept); /* a set */
    for (size_t i = 0; i < list.n && r == 0; i++) {
        if (map_get(&kept, there[i])) continue;
        RowIn in = row_in(db, "DELETE FROM budget_counted WHERE scope = ?1");
        in_text(&in, there[i]);
        r = row_run(in.stmt);
    }
    map_deinit(&kept);
    return r;
}

static void spent_read(RowOut *out, void *ret)
{
    BudgetSpent *spent = ret;
    spent->key = out_text(out);
    spent->spent = out_i64(out);
}

/* Beside whole hours the calls in the first hour that were before the window; of those recorded
 * before charges were kept, nothing. */
#define SPENT_SELECT(key, hour_amount, call_key, call_amount)                                 \
    "SELECT key, total_of(amount) FROM ("                                                     \
    "SELECT " key " AS key, " hour_amount " AS amount FROM spend WHERE hour_ms >= ?1"         \
    " UNION ALL SELECT " call_key ", -" call_amount " FROM call c"                            \
    " LEFT JOIN task t ON t.seq = c.task_seq LEFT JOIN account a ON a.seq = c.task_seq"       \
    " WHERE ?1 < ?2 AND c.at_ms >= ?1 AND c.at_ms < ?2 AND c.replayed = 0 AND c.cached = 0"   \
    ") WHERE (?3 IS NULL OR key = ?3) AND (?4 IS NULL OR key > ?4) GROUP BY key ORDER BY key" \
    " LIMIT ?5"
/* Shadows count for the budget of everything alone, as when they are booked. */
#define CALL_OF(column) \
    "CASE WHEN t.shadow_of IS NULL THEN coalesce(t." column ", a." column ", '') ELSE '' END"
#define SPENT_BY(column, nusd, tokens)                                        \
    {                                                                         \
        SPENT_SELECT(column, nusd, CALL_OF(column), "c.cost_nusd"),           \
            SPENT_SELECT(column, tokens, CALL_OF(column), "c.charged_tokens") \
    }

int budget_spent_since(Db *db, const BudgetSpentAsk *ask, Arena *arena, BudgetSpent **ret,
                       size_t *ret_n)
{
    static const char *const sql[BUDGET_KIND_N_][BUDGET_UNIT_N_] = {
        [BUDGET_ALL] = { SPENT_SELECT("''", "cost_nusd", "''", "c.cost_nusd"),
                         SPENT_SELECT("''", "charged_tokens", "''", "c.charged_tokens") },
        [BUDGET_AGENT] = SPENT_BY("agent", "cost_nusd - shadow_nusd",
                                  "charged_tokens - shadow_tokens"),
        [BUDGET_TENANT] = SPENT_BY("tenant_id", "cost_nusd", "charged_tokens"),
        [BUDGET_USER] = SPENT_BY("user_id", "cost_nusd", "charged_tokens"),
    };
    RowList list = { .arena = arena, .max = ask->max, .size = sizeof(BudgetSpent) };
    RowIn in = row_in(db, sql[ask->kind][ask->unit]);
    in_i64(&in, ask->start_ms - ask->start_ms % SPEND_HOUR_MS);
    in_i64(&in, ask->start_ms);
    in_text_or_null(&in, ask->key);
    in_text_or_null(&in, ask->after);
    in_i64(&in, (int64_t)ask->max);
    int r = row_list_fill(&list, in.stmt, spent_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

/* --- slices ----------------------------------------------------------------------------------- */

static void in_worker(RowIn *in, const Uuid *id)
{
    in_blob(in, str_make((const char *)id->bytes, sizeof id->bytes)); /* zero is a key too */
}

static void in_key(RowIn *in, const BudgetSliceKey *key)
{
    in_text(in, key->scope);
    in_i64(in, key->start_ms);
    in_worker(in, &key->worker_id);
}

int budget_slice_get(Db *db, const BudgetSliceKey *key, BudgetSlice *ret)
{
    RowIn in = row_in(db, "SELECT granted, returned, settled FROM budget_slice"
                          " WHERE scope = ?1 AND start_ms = ?2 AND worker_id = ?3");
    in_key(&in, key);
    *ret = (BudgetSlice){ 0 };
    int r = row_first(in.stmt);
    if (r != 0) return r == -ENOENT ? 0 : r;
    *ret = (BudgetSlice){ db_i64(in.stmt, 0), db_i64(in.stmt, 1), db_i64(in.stmt, 2) };
    db_reset(in.stmt);
    return 0;
}

int budget_slice_put(Db *db, const BudgetSliceKey *key, const BudgetSlice *slice)
{
    assert(slice->granted >= slice->returned);
    RowIn in = row_in(db, "INSERT INTO budget_slice (scope, start_ms, worker_id, granted, returned,"
                          " settled) VALUES (?1, ?2, ?3, ?4, ?5, 0)"
                          " ON CONFLICT (scope, start_ms, worker_id) DO UPDATE"
                          " SET granted = excluded.granted, returned = excluded.returned");
    in_key(&in, key);
    in_i64(&in, slice->granted);
    in_i64(&in, slice->returned);
    return row_run(in.stmt);
}

int budget_slice_settle(Db *db, const BudgetSliceKey *key, int64_t spent)
{
    RowIn in = row_in(db, "INSERT INTO budget_slice (scope, start_ms, worker_id, granted, returned,"
                          " settled) VALUES (?1, ?2, ?3, 0, 0, ?4)"
                          " ON CONFLICT (scope, start_ms, worker_id) DO UPDATE"
                          " SET settled = plus(settled, excluded.settled)");
    in_key(&in, key);
    in_i64(&in, spent);
    return row_run(in.stmt);
}

/* What workers have settled in the window already is part of what was found. */
#define FOUND                                                 \
    "max(0, ?4 - (SELECT total_of(settled) FROM budget_slice" \
    " WHERE scope = ?1 AND start_ms = ?2 AND worker_id != ?3))"

int budget_slice_found(Db *db, Str scope, int64_t start_ms, int64_t spent)
{
    BudgetSliceKey key = { .scope = scope, .start_ms = start_ms };
    RowIn in = row_in(db, "INSERT INTO budget_slice (scope, start_ms, worker_id, granted, returned,"
                          " settled) VALUES (?1, ?2, ?3, 0, 0, " FOUND ")"
                          " ON CONFLICT (scope, start_ms, worker_id) DO UPDATE"
                          " SET settled = max(settled, excluded.settled)");
    in_key(&in, &key);
    in_i64(&in, spent);
    return row_run(in.stmt);
}

int budget_account(Db *db, Str scope, int64_t start_ms, int64_t *ret_settled, int64_t *ret_leased)
{
    RowIn in = row_in(db, "SELECT s.granted, s.returned, s.settled, coalesce(w.state <= 1, 0)"
                          " FROM budget_slice s LEFT JOIN worker w ON w.id = s.worker_id"
                          " WHERE s.scope = ?1 AND s.start_ms = ?2");
    in_text(&in, scope);
    in_i64(&in, start_ms);
    int r;
    *ret_settled = *ret_leased = 0;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        BudgetSlice slice = { db_i64(in.stmt, 0), db_i64(in.stmt, 1), db_i64(in.stmt, 2) };
        bool lives = db_i64(in.stmt, 3) != 0;
        int64_t *slot = lives ? ret_leased : ret_settled;
        *ret_settled = money_add(*ret_settled, slice.settled);
        *slot = money_add(*slot, budget_outstanding(&slice));
    }
    return r;
}

#define OUTSTANDING "granted - returned > settled"

int budget_holders(Db *db, Str scope, int64_t start_ms, Uuid *ids, size_t *n)
{
    size_t max = *n;
    RowIn in = row_in(db, "SELECT s.worker_id FROM budget_slice s JOIN worker w"
                          " ON w.id = s.worker_id AND w.state <= 1"
                          " WHERE s.scope = ?1 AND s.start_ms = ?2"
                          " AND s." OUTSTANDING " LIMIT ?3");
    in_text(&in, scope);
    in_i64(&in, start_ms);
    in_i64(&in, (int64_t)max);
    int r;
    *n = 0;
    while ((r = db_step(in.stmt)) == DB_E_ROW && *n < max) {
        RowOut out = row_out(in.stmt, NULL);
        ids[(*n)++] = out_uuid(&out);
    }
    if (r == DB_E_ROW) db_reset(in.stmt);
    return r < 0 ? r : 0;
}

static void slice_row_read(RowOut *out, void *ret)
{
    BudgetSliceRow *row = ret;
    row->scope = out_text(out);
    row->start_ms = out_i64(out);
    row->slice.granted = out_i64(out);
    row->slice.returned = out_i64(out);
    row->slice.settled = out_i64(out);
}

int budget_slices_of(Db *db, Uuid worker_id, Arena *arena, BudgetSliceRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = BUDGET_NOTES_MAX, .size = sizeof(BudgetSliceRow) };
    RowIn in = row_in(db, "SELECT scope, start_ms, granted, returned, settled FROM budget_slice"
                          " WHERE worker_id = ?1 AND " OUTSTANDING);
    in_worker(&in, &worker_id);
    int r = row_list_fill(&list, in.stmt, slice_row_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int budget_slices_close(Db *db, Uuid worker_id)
{
    RowIn in = row_in(db, "UPDATE budget_slice SET returned = granted - settled"
                          " WHERE worker_id = ?1 AND " OUTSTANDING);
    in_worker(&in, &worker_id);
    return row_run(in.stmt);
}

int budget_scopes_since(Db *db, int64_t start_ms, size_t max, Arena *arena, Str **ret,
                        size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(Str) };
    RowIn in = row_in(db, "SELECT DISTINCT scope FROM budget_slice WHERE start_ms >= ?1"
                          " ORDER BY scope");
    in_i64(&in, start_ms);
    int r = row_list_fill(&list, in.stmt, scope_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

typedef struct {
    BudgetSliceKey key;
    int64_t settled;
} Folded;

static void folded_read(RowOut *out, void *ret)
{
    Folded *row = ret;
    row->key.scope = out_text(out);
    row->key.start_ms = out_i64(out);
    row->key.worker_id = out_uuid(out);
    row->settled = out_i64(out);
}

static int slice_remove(Db *db, const BudgetSliceKey *key)
{
    RowIn in = row_in(db, "DELETE FROM budget_slice"
                          " WHERE scope = ?1 AND start_ms = ?2 AND worker_id = ?3");
    in_key(&in, key);
    return row_change(in.stmt);
}

int budget_slices_fold(Db *db, int64_t ended_ms, int64_t max, int64_t *ret_n)
{
    CLEANUP(arena_deinit) Arena arena;
    const Uuid nobody = { 0 };
    arena_init(&arena, (size_t)max * 1024);
    RowList list = { .arena = &arena, .max = (size_t)max, .size = sizeof(Folded) };
    RowIn in = row_in(db, "SELECT s.scope, s.start_ms, s.worker_id,"
                          " max(s.settled, s.granted - s.returned)"
                          " FROM budget_slice s LEFT JOIN worker w ON w.id = s.worker_id"
                          " WHERE s.worker_id <> ?3 AND coalesce(w.state > 1, 1)"
                          " AND (s.granted - s.returned <= s.settled OR s.start_ms < ?1) LIMIT ?2");
    in_i64(&in, ended_ms);
    in_i64(&in, max);
    in_worker(&in, &nobody);
    int r = row_list_fill(&list, in.stmt, folded_read);
    const Folded *rows = list.rows;
    for (size_t i = 0; i < list.n && r == 0; i++) {
        BudgetSliceKey sum = { rows[i].key.scope, rows[i].key.start_ms, nobody };
        r = budget_slice_settle(db, &sum, rows[i].settled);
        if (r == 0) r = slice_remove(db, &rows[i].key);
    }
    *ret_n = (int64_t)list.n;
    return r;
}

int budget_slices_purge(Db *db, int64_t before_ms)
{
    RowIn in = row_in(db, "DELETE FROM budget_slice WHERE start_ms < ?1");
    in_i64(&in, before_ms);
    return row_run(in.stmt);
}
