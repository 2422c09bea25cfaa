#include "store/alarm_store.h"

#include <math.h>

#include "store/row.h"

/* --- days ------------------------------------------------------------------------------------- */

int watch_last_day(Db *db, int64_t *ret_ms)
{
    DbStmt *s = db_stmt(db, "SELECT value FROM counter WHERE name = 'drift'");
    int r = row_first(s);
    if (r != 0) return r;
    *ret_ms = db_i64(s, 0);
    db_reset(s);
    return 0;
}

int watch_set_last_day(Db *db, int64_t day_ms)
{
    DbStmt *s = db_stmt(db, "UPDATE counter SET value = ?1 WHERE name = 'drift'");
    db_bind_i64(s, 1, day_ms);
    return row_change(s);
}

int watch_next_day(Db *db, int64_t after_ms, int64_t *ret_ms)
{
    DbStmt *s = db_stmt(db, "SELECT start_ms FROM rollup WHERE span = 2 AND start_ms > ?1"
                            " ORDER BY start_ms LIMIT 1");
    db_bind_i64(s, 1, after_ms);
    int r = row_first(s);
    if (r != 0) return r;
    *ret_ms = db_i64(s, 0);
    db_reset(s);
    return 0;
}

int watch_versions(Db *db, int64_t day_ms, const WatchedVersion *after, Arena *arena,
                   WatchedVersion *ret, size_t *n)
{
    RowIn in = row_in(db, "SELECT agent, version_id FROM rollup WHERE span = 2 AND start_ms = ?1"
                          " AND (agent, version_id) > (?2, ?3)"
                          " ORDER BY agent, version_id LIMIT ?4");
    in_i64(&in, day_ms);
    in_text(&in, after->agent);
    in_text(&in, after->version_id);
    in_i64(&in, (int64_t)*n);
    RowOut out = row_out(in.stmt, arena);
    size_t found = 0;
    int r;
    while ((r = db_step(in.stmt)) == DB_E_ROW) {
        out.column = 0;
        ret[found].agent = out_text(&out);
        ret[found++].version_id = out_text(&out);
        if (out.full) return row_out_end(&out);
    }
    if (r == 0) *n = found;
    return r;
}

#define WATCH_FORM 1 /* moves when what is in a Watch means something else */

typedef struct {
    uint32_t form, size;
} WatchHead;

int watch_forget(Db *db, Str agent, Str version_id)
{
    RowIn in = row_in(db, "DELETE FROM watch WHERE agent = ?1 AND version_id = ?2");
    in_text(&in, agent);
    in_text(&in, version_id);
    return row_run(in.stmt);
}

int watch_get(Db *db, Str agent, Str version_id, Watch *ret)
{
    RowIn in = row_in(db, "SELECT bytes FROM watch WHERE agent = ?1 AND version_id = ?2");
    in_text(&in, agent);
    in_text(&in, version_id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    WatchHead head = { WATCH_FORM, sizeof(Watch) };
    Str bytes = db_str(in.stmt, 0);
    bool ours = bytes.len == sizeof(head) + sizeof(*ret) &&
                memcmp(bytes.ptr, &head, sizeof(head)) == 0;
    if (ours) memcpy(ret, bytes.ptr + sizeof(head), sizeof(*ret));
    db_reset(in.stmt);
    return ours ? 0 : -EPROTO;
}

int watch_put(Db *db, Str agent, Str version_id, const Watch *watch)
{
    WatchHead head = { WATCH_FORM, sizeof(Watch) };
    size_t size = sizeof(head) + sizeof(*watch);
    CLEANUP(freep) char *bytes = xmalloc(size);
    memcpy(bytes, &head, sizeof(head));
    memcpy(bytes + sizeof(head), watch, sizeof(*watch));
    RowIn in = row_in(db, "INSERT INTO watch (agent, version_id, day_ms, bytes)"
                          " VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET"
                          " day_ms = excluded.day_ms, bytes = excluded.bytes");
    in_text(&in, agent);
    in_text(&in, version_id);
    in_i64(&in, watch->last_day_ms);
    in_blob(&in, str_make(bytes, size));
    return row_run(in.stmt);
}

int watch_purge(Db *db, int64_t before_ms)
{
    DbStmt *s = db_stmt(db, "DELETE FROM watch WHERE day_ms < ?1");
    db_bind_i64(s, 1, before_ms);
    return row_run(s);
}

/* --- alarms ----------------------------------------------------------------------------------- */

static void in_f64(RowIn *in, double v)
{
    if (isnan(v)) db_bind_null(in->stmt, in->index++);
    else db_bind_f64(in->stmt, in->index++, v);
}

static double out_f64(RowOut *out)
{
    int column = out->column++;
    return db_is_null(out->stmt, column) ? NAN : db_f64(out->stmt, column);
}

int alarm_insert(Db *db, const Alarm *alarm, int64_t *ret_id)
{
    RowIn in = row_in(db, "INSERT INTO alarm (agent, version_id, metric, day_ms, at_ms, value,"
                          " before, slope, p, text, cause) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
                          " ?9, ?10, ?11)");
    in_text(&in, alarm->agent);
    in_text(&in, alarm->version_id);
    in_text(&in, alarm->metric);
    in_i64(&in, alarm->day_ms);
    in_i64(&in, alarm->at_ms);
    in_f64(&in, alarm->value);
    in_f64(&in, alarm->before);
    in_f64(&in, alarm->slope);
    in_f64(&in, alarm->p);
    in_text(&in, alarm->text);
    in_text_or_null(&in, alarm->cause);
    int r = row_run(in.stmt);
    if (r == 0) *ret_id = db_last_insert_id(db);
    return r;
}

#define ALARM_COLUMNS                                                              \
    "id, agent, version_id, metric, day_ms, at_ms, value, before, slope, p, text," \
    " cause, acknowledged_at_ms, acknowledged_by, note"

static void alarm_read(RowOut *out, void *ret)
{
    Alarm *alarm = ret;
    alarm->id = out_i64(out);
    alarm->agent = out_text(out);
    alarm->version_id = out_text(out);
    alarm->metric = out_text(out);
    alarm->day_ms = out_i64(out);
    alarm->at_ms = out_i64(out);
    alarm->value = out_f64(out);
    alarm->before = out_f64(out);
    alarm->slope = out_f64(out);
    alarm->p = out_f64(out);
    alarm->text = out_text(out);
    alarm->cause = out_text(out);
    alarm->acknowledged_at_ms = out_i64(out);
    alarm->acknowledged_by = out_text(out);
    alarm->note = out_text(out);
}

int alarm_list(Db *db, Str agent, bool open_only, Arena *arena, Alarm **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = ALARM_LIST_MAX, .size = sizeof(Alarm) };
    RowIn in = row_in(db, "SELECT " ALARM_COLUMNS " FROM alarm WHERE (?1 IS NULL OR agent = ?1)"
                          " AND (?2 = 0 OR acknowledged_at_ms = 0) ORDER BY id DESC");
    in_text_or_null(&in, agent);
    in_i64(&in, open_only);
    int r = row_list_fill(&list, in.stmt, alarm_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int alarm_any_open(Db *db, Str agent, Str metric_prefix, bool *ret)
{
    RowIn in = row_in(db, "SELECT 1 FROM alarm WHERE agent = ?1 AND acknowledged_at_ms = 0"
                          " AND substr(metric, 1, ?2) = ?3 LIMIT 1");
    in_text(&in, agent);
    in_i64(&in, (int64_t)metric_prefix.len);
    in_text(&in, metric_prefix);
    int r = row_first(in.stmt);
    *ret = r == 0;
    db_reset(in.stmt);
    return r == -ENOENT ? 0 : r;
}

int alarm_get(Db *db, int64_t id, Arena *arena, Alarm *ret)
{
    RowIn in = row_in(db, "SELECT " ALARM_COLUMNS " FROM alarm WHERE id = ?1");
    in_i64(&in, id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    alarm_read(&out, ret);
    r = row_out_end(&out);
    if (r == 0) db_reset(in.stmt);
    return r;
}

int alarm_acknowledge(Db *db, int64_t id, Str by, Str note, int64_t now_ms)
{
    RowIn in = row_in(db, "UPDATE alarm SET acknowledged_at_ms = ?2, acknowledged_by = ?3,"
                          " note = ?4 WHERE id = ?1 AND acknowledged_at_ms = 0");
    in_i64(&in, id);
    in_i64(&in, now_ms);
    in_text_or_null(&in, by);
    in_text_or_null(&in, note);
    return row_change(in.stmt);
}
