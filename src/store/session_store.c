#include "store/session_store.h"

#include "codec/hex.h"
#include "codec/uuid.h"
#include "store/row.h"
#include "store/task_sql.h"

/* --- sessions --------------------------------------------------------------------------------- */

/* Who a task's session belongs to: tenant, agent, own, name. */
#define TASK_OWNER                                                                        \
    "coalesce(tenant_id, ''), agent, session_id IS NULL OR shadow_of IS NOT NULL,"        \
    " CASE WHEN session_id IS NULL OR shadow_of IS NOT NULL THEN hex(id) ELSE session_id" \
    " END"

int session_of_task(Db *db, int64_t task_seq, Session *ret)
{
    RowIn in = row_in(db, "SELECT id, keys, bytes, revision, used_at_ms FROM session"
                          " WHERE (tenant, agent, own, name) ="
                          " (SELECT " TASK_OWNER " FROM task WHERE seq = ?1)");
    in_i64(&in, task_seq);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, NULL);
    ret->id = out_i64(&out);
    ret->keys = out_i64(&out);
    ret->bytes = out_i64(&out);
    ret->revision = out_i64(&out);
    ret->used_at_ms = out_i64(&out);
    db_reset(in.stmt);
    return 0;
}

int session_add(Db *db, int64_t task_seq, int64_t now_ms, Session *ret)
{
    RowIn in = row_in(db, "INSERT INTO session (tenant, agent, own, name, used_at_ms)"
                          " SELECT " TASK_OWNER ", ?2 FROM task WHERE seq = ?1");
    in_i64(&in, task_seq);
    in_i64(&in, now_ms);
    int r = row_run(in.stmt);
    if (r == 0) *ret = (Session){ .id = db_last_insert_id(db) };
    return r;
}

int session_update(Db *db, const Session *session, int64_t now_ms)
{
    assert(session->keys >= 0 && session->bytes >= 0);
    RowIn in = row_in(db, "UPDATE session SET keys = ?2, bytes = ?3, revision = ?4,"
                          " used_at_ms = ?5 WHERE id = ?1");
    in_i64(&in, session->id);
    in_i64(&in, session->keys);
    in_i64(&in, session->bytes);
    in_i64(&in, session->revision);
    in_i64(&in, now_ms);
    return row_change(in.stmt);
}

/* --- values ----------------------------------------------------------------------------------- */

int state_get(Db *db, int64_t session_id, Str key, Arena *arena, StateRow *ret)
{
    RowIn in = row_in(db, "SELECT version, bytes, updated_at_ms, content_type, value FROM state"
                          " WHERE session_id = ?1 AND key = ?2");
    in_i64(&in, session_id);
    in_text(&in, key);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    *ret = (StateRow){ .key = key };
    ret->version = out_i64(&out);
    ret->bytes = out_i64(&out);
    ret->updated_at_ms = out_i64(&out);
    ret->content_type = out_text(&out);
    ret->value = out_text(&out);
    r = row_out_end(&out);
    db_reset(in.stmt);
    return r;
}

int state_head(Db *db, int64_t session_id, Str key, StateRow *ret)
{
    RowIn in = row_in(db, "SELECT version, bytes FROM state WHERE session_id = ?1 AND key = ?2");
    in_i64(&in, session_id);
    in_text(&in, key);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = (StateRow){ .key = key, .version = db_i64(in.stmt, 0), .bytes = db_i64(in.stmt, 1) };
    db_reset(in.stmt);
    return 0;
}

int state_put(Db *db, int64_t session_id, const StateRow *row)
{
    RowIn in = row_in(db, "INSERT INTO state (session_id, key, version, bytes, updated_at_ms,"
                          " content_type, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                          " ON CONFLICT (session_id, key) DO UPDATE SET"
                          " version = excluded.version, bytes = excluded.bytes,"
                          " updated_at_ms = excluded.updated_at_ms,"
                          " content_type = excluded.content_type, value = excluded.value");
    in_i64(&in, session_id);
    in_text(&in, row->key);
    in_i64(&in, row->version);
    in_i64(&in, (int64_t)row->value.len);
    in_i64(&in, row->updated_at_ms);
    in_text(&in, row->content_type);
    in_blob(&in, row->value);
    return row_run(in.stmt);
}

int state_delete(Db *db, int64_t session_id, Str key)
{
    RowIn in = row_in(db, "DELETE FROM state WHERE session_id = ?1 AND key = ?2");
    in_i64(&in, session_id);
    in_text(&in, key);
    return row_change(in.stmt);
}

static void state_read(RowOut *out, void *ret)
{
    StateRow *row = ret;
    row->key = out_text(out);
    row->version = out_i64(out);
    row->bytes = out_i64(out);
    row->updated_at_ms = out_i64(out);
    row->content_type = out_text(out);
}

int state_list(Db *db, int64_t session_id, size_t max, Arena *arena, StateRow **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = max, .size = sizeof(StateRow) };
    DbStmt *s = db_stmt(db, "SELECT key, version, bytes, updated_at_ms, content_type FROM state"
                            " WHERE session_id = ?1 ORDER BY key");
    db_bind_i64(s, 1, session_id);
    int r = row_list_fill(&list, s, state_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

/* --- forgetting ------------------------------------------------------------------------------- */

int session_touch(Db *db, int64_t session_id, int64_t now_ms)
{
    DbStmt *s = db_stmt(db, "UPDATE session SET used_at_ms = ?2 WHERE id = ?1");
    db_bind_i64(s, 1, session_id);
    db_bind_i64(s, 2, now_ms);
    return row_change(s);
}

typedef struct {
    int64_t id;
    bool own; /* of one task, whose id is its name */
    Uuid task_id;
} Unused;

/* The one that was not used for the longest. Returns 0, -ENOENT, -errno. */
static int oldest(Db *db, int64_t before_ms, Unused *ret)
{
    DbStmt *s = db_stmt(db, "SELECT id, own, name FROM session WHERE used_at_ms < ?1"
                            " ORDER BY used_at_ms LIMIT 1");
    db_bind_i64(s, 1, before_ms);
    int r = row_first(s);
    if (r != 0) return r;
    *ret = (Unused){ .id = db_i64(s, 0), .own = db_i64(s, 1) != 0 };
    if (ret->own && hex_decode(db_str(s, 2), ret->task_id.bytes, sizeof ret->task_id.bytes) < 0)
        ret->task_id = (Uuid){ 0 }; /* of no task */
    db_reset(s);
    return 0;
}

/* Whether a task of it is open. Returns 0, -ENOENT (none is), -errno. */
static int open_task(Db *db, const Unused *session)
{
    RowIn in = session->own
                   ? row_in(db, "SELECT 1 FROM task WHERE id = ?2 AND state NOT BETWEEN 2 AND 5"
                                " AND ?1 <> 0")
                   : row_in(db, SESSION_OPEN_SQL);
    in_i64(&in, session->id);
    in_uuid(&in, &session->task_id);
    int r = row_first(in.stmt);
    if (r == 0) db_reset(in.stmt);
    return r;
}

static int values_delete(Db *db, int64_t session_id, int64_t max, int64_t *ret_n)
{
    RowIn in = row_in(db, "DELETE FROM state WHERE id IN"
                          " (SELECT id FROM state WHERE session_id = ?1 LIMIT ?2)");
    in_i64(&in, session_id);
    in_i64(&in, max);
    return db_run(in.stmt, ret_n);
}

static int session_delete(Db *db, int64_t id)
{
    RowIn in = row_in(db, "DELETE FROM session WHERE id = ?1");
    in_i64(&in, id);
    return row_change(in.stmt);
}

int session_purge(Db *db, int64_t before_ms, int64_t now_ms, int64_t max, int64_t *ret_deleted)
{
    int64_t deleted = 0, kept = 0;
    while (deleted + kept < max) {
        Unused session;
        int64_t n = 0;
        int r = oldest(db, before_ms, &session);
        if (r == -ENOENT) break;
        if (r == 0) r = open_task(db, &session);
        if (r == 0) {
            kept++;
            if ((r = session_touch(db, session.id, now_ms)) != 0) return r;
            continue;
        }
        if (r == -ENOENT) r = values_delete(db, session.id, max - deleted - kept, &n);
        if (r != 0) return r;
        deleted += n;
        if (deleted + kept == max) break; /* there may be more of them */
        if ((r = session_delete(db, session.id)) != 0) return r;
        deleted++;
    }
    *ret_deleted = deleted;
    return 0;
}
