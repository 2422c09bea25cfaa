#include "store/idempotency_store.h"

#include "store/row.h"

int idempotency_insert(Db *db, Str tenant, Str key, Str fingerprint, Uuid task_id, int64_t now_ms)
{
    assert(key.len > 0);
    RowIn in = row_in(db, "INSERT INTO idempotency (tenant, key, fingerprint, task_id,"
                          " created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)");
    in_text(&in, tenant);
    in_text(&in, key);
    in_blob(&in, fingerprint);
    in_uuid(&in, &task_id);
    in_i64(&in, now_ms);
    return db_run(in.stmt, NULL);
}

int idempotency_get(Db *db, Str tenant, Str key, Str fingerprint, Uuid *ret_task_id, bool *ret_same)
{
    RowIn in = row_in(
        db, "SELECT task_id, fingerprint FROM idempotency WHERE tenant = ?1 AND key = ?2");
    in_text(&in, tenant);
    in_text(&in, key);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, NULL);
    *ret_task_id = out_uuid(&out);
    *ret_same = str_eq(db_str(in.stmt, 1), fingerprint);
    db_reset(in.stmt);
    return 0;
}

int idempotency_forget(Db *db, Str tenant, Str key)
{
    RowIn in = row_in(db, "DELETE FROM idempotency WHERE tenant = ?1 AND key = ?2");
    in_text(&in, tenant);
    in_text(&in, key);
    return row_run(in.stmt);
}

int idempotency_purge(Db *db, int64_t before_ms, size_t limit, int64_t *ret_n)
{
    DbStmt *s = db_stmt(db, "DELETE FROM idempotency WHERE (tenant, key) IN"
                            " (SELECT tenant, key FROM idempotency WHERE created_at_ms < ?1"
                            " ORDER BY created_at_ms LIMIT ?2)");
    db_bind_i64(s, 1, before_ms);
    db_bind_i64(s, 2, (int64_t)limit);
    return db_run(s, ret_n);
}
