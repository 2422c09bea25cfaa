#include "store/flag_store.h"

#include "codec/time_text.h"
#include "logic/flag.h"
#include "store/row.h"

#define FLAG_SELECT "SELECT key, definition, revision, updated_at_ms FROM flag"

/* The next revision, taken. */
static int revision_next(Db *db, int64_t *ret)
{
    int r = row_change(db_stmt(db, "UPDATE counter SET value = value + 1 WHERE name = 'flags'"));
    return r == 0 ? flag_revision(db, ret) : r;
}

int flag_revision(Db *db, int64_t *ret)
{
    DbStmt *s = db_stmt(db, "SELECT value FROM counter WHERE name = 'flags'");
    int r = row_first(s);
    if (r != 0) return r;
    *ret = db_i64(s, 0);
    db_reset(s);
    return 0;
}

/* Whether there is room for the flag, with what it replaces out of the way. */
static int check_room(Db *db, Str key, Str definition)
{
    RowIn in = row_in(db, "SELECT count(*), coalesce(sum(length(key) + length(definition)), 0)"
                          " FROM flag WHERE key <> ?1");
    in_text(&in, key);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    int64_t n = db_i64(in.stmt, 0), bytes = db_i64(in.stmt, 1);
    db_reset(in.stmt);
    bytes += (int64_t)(key.len + definition.len);
    return n < FLAGS_MAX && bytes <= (int64_t)FLAGS_BYTES_MAX ? 0 : FLAG_E_FULL;
}

int flag_put(Db *db, Str key, Str definition, int64_t now_ms, int64_t *ret_revision)
{
    int64_t revision;
    assert(flag_key_ok(key) && definition.len <= FLAG_TEXT_BYTES_MAX);
    int r = check_room(db, key, definition);
    if (r == 0) r = revision_next(db, &revision);
    if (r != 0) return r;
    RowIn in = row_in(db, "INSERT INTO flag (key, definition, revision, updated_at_ms)"
                          " VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET"
                          " definition = excluded.definition, revision = excluded.revision,"
                          " updated_at_ms = excluded.updated_at_ms");
    in_text(&in, key);
    in_text(&in, definition);
    in_i64(&in, revision);
    in_i64(&in, now_ms);
    r = row_run(in.stmt);
    if (r == 0) *ret_revision = revision;
    return r;
}

int flag_delete(Db *db, Str key)
{
    int64_t revision;
    RowIn in = row_in(db, "DELETE FROM flag WHERE key = ?1");
    in_text(&in, key);
    int r = row_change(in.stmt);
    return r == 0 ? revision_next(db, &revision) : r;
}

static void flag_read(RowOut *out, void *ret)
{
    FlagRow *row = ret;
    row->key = out_text(out);
    row->definition = out_text(out);
    row->revision = out_i64(out);
    row->updated_at_ms = out_i64(out);
}

int flag_get(Db *db, Str key, Arena *arena, FlagRow *ret)
{
    FlagRow row;
    RowIn in = row_in(db, FLAG_SELECT " WHERE key = ?1");
    in_text(&in, key);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    flag_read(&out, &row);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(in.stmt);
    *ret = row;
    return 0;
}

int flag_list(Db *db, Arena *arena, FlagRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = FLAGS_MAX, .size = sizeof(FlagRow) };
    int r = row_list_fill(&list, db_stmt(db, FLAG_SELECT " ORDER BY key"), flag_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

void flag_row_write(JsonOut *out, const FlagRow *row)
{
    char at[TIME_TEXT_MAX];
    CLEANUP(arena_deinit) Arena arena;
    const Json *definition = NULL;
    arena_init(&arena, 16 * FLAG_TEXT_BYTES_MAX);
    json_out_object(out);
    json_out_kstr(out, "key", row->key);
    if (json_parse(&arena, row->definition, NULL, &definition, NULL) == 0)
        for (JsonIter it = json_iter(definition); json_next(&it);) {
            json_out_key_str(out, it.key);
            json_out_value(out, it.value);
        }
    json_out_ki64(out, "revision", row->revision);
    json_out_kcstr(out, "updatedAt", time_format(row->updated_at_ms, at));
    json_out_object_end(out);
}
