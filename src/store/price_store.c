#include "store/price_store.h"

#include "logic/price.h"
#include "store/row.h"

int price_revision(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT value FROM counter WHERE name = 'prices'");
    int r = row_first(s);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

static int check_room(Db *db)
{
    DbStmt *s = db_stmt(db, "SELECT count(*), coalesce(sum(length(model) + length(entry)), 0)"
                            " FROM price");
    int r = row_first(s);
    if (r != 0) return r;
    int64_t n = db_i64(s, 0), bytes = db_i64(s, 1);
    db_reset(s);
    return n <= PRICE_ENTRIES_MAX && bytes <= (int64_t)PRICE_LIST_BYTES_MAX ? 0 : PRICE_E_FULL;
}

static int put_one(Db *db, const PriceEntry *entry, int64_t now_ms)
{
    RowIn in = row_in(db, "INSERT INTO price (model, entry, updated_at_ms) VALUES (?1, ?2, ?3)"
                          " ON CONFLICT (model) DO UPDATE SET entry = excluded.entry,"
                          " updated_at_ms = excluded.updated_at_ms");
    in_text(&in, entry->model);
    in_text(&in, entry->entry);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

int price_put(Db *db, const PriceEntry *entries, size_t n, bool replace, int64_t now_ms,
              int64_t *ret_revision)
{
    int r = replace ? row_run(db_stmt(db, "DELETE FROM price")) : 0;
    for (size_t i = 0; i < n && r == 0; i++) r = put_one(db, &entries[i], now_ms);
    if (r == 0) r = check_room(db);
    if (r == 0)
        r = row_change(db_stmt(db, "UPDATE counter SET value = value + 1 WHERE name = 'prices'"));
    return r == 0 ? price_revision(db, ret_revision) : r;
}

int price_entries_write(Db *db, Buf *out)
{
    DbStmt *s = db_stmt(db, "SELECT model, entry FROM price ORDER BY model");
    JsonOut json = json_out(out);
    json_out_object(&json);
    int r;
    while ((r = db_step(s)) == DB_E_ROW) {
        json_out_key_str(&json, db_str(s, 0));
        json_out_raw(&json, db_str(s, 1));
    }
    if (r != 0) return r;
    json_out_object_end(&json);
    return json_out_ok(&json) ? 0 : -ENOMEM;
}

int price_exists(Db *db, Str model)
{
    RowIn in = row_in(db, "SELECT 1 FROM price WHERE model = ?1");
    in_text(&in, model);
    int r = row_first(in.stmt);
    if (r == 0) db_reset(in.stmt);
    return r;
}
