#include "store/worker_store.h"

#include "store/row.h"

static const char *const kind_names[WORKER_KIND_N_] = {
    [WORKER_EMBEDDED] = "embedded",
    [WORKER_REMOTE] = "remote",
};

static const char *const state_names[WORKER_STATE_N_] = {
    [WORKER_ACTIVE] = "active",
    [WORKER_DRAINING] = "draining",
    [WORKER_LOST] = "lost",
    [WORKER_STOPPED] = "stopped",
};

const char *worker_kind_name(WorkerKind kind)
{
    assert(kind < WORKER_KIND_N_);
    return kind_names[kind];
}

const char *worker_state_name(WorkerState state)
{
    assert(state < WORKER_STATE_N_);
    return state_names[state];
}

int worker_put(Db *db, const Worker *w)
{
    assert(!uuid_is_zero(w->id) && w->kind < WORKER_KIND_N_);
    RowIn in = row_in(db, "INSERT INTO worker (id, name, kind, state, slots, registered_at_ms,"
                          " lease_expires_at_ms, heartbeat_at_ms)"
                          " VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7)"
                          " ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = 0,"
                          " kind = excluded.kind, slots = excluded.slots,"
                          " registered_at_ms = excluded.registered_at_ms,"
                          " lease_expires_at_ms = excluded.lease_expires_at_ms,"
                          " heartbeat_at_ms = excluded.heartbeat_at_ms");
    in_uuid(&in, &w->id);
    in_text(&in, w->name);
    in_i64(&in, (int64_t)w->kind);
    in_text(&in, w->slots);
    in_i64(&in, w->registered_at_ms);
    in_i64(&in, w->lease_expires_at_ms);
    in_i64(&in, w->heartbeat_at_ms);
    return row_run(in.stmt);
}

#define WORKER_SELECT                                                        \
    "SELECT id, name, kind, state, slots, registered_at_ms,"                 \
    " lease_expires_at_ms, heartbeat_at_ms,"                                 \
    " (SELECT count(*) FROM task WHERE state = 1 AND worker_id = worker.id)" \
    " FROM worker"

static void worker_read(RowOut *out, void *ret)
{
    Worker *w = ret;
    w->id = out_uuid(out);
    w->name = out_text(out);
    w->kind = (WorkerKind)out_i64(out);
    w->state = (WorkerState)out_i64(out);
    w->slots = out_text(out);
    w->registered_at_ms = out_i64(out);
    w->lease_expires_at_ms = out_i64(out);
    w->heartbeat_at_ms = out_i64(out);
    w->running = out_i64(out);
}

int worker_get(Db *db, Uuid id, Arena *arena, Worker *ret)
{
    RowIn in = row_in(db, WORKER_SELECT " WHERE id = ?1");
    in_uuid(&in, &id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    Worker w;
    worker_read(&out, &w);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(in.stmt);
    *ret = w;
    return 0;
}

int worker_state(Db *db, Uuid id, WorkerState *ret)
{
    RowIn in = row_in(db, "SELECT state FROM worker WHERE id = ?1");
    in_uuid(&in, &id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = (WorkerState)db_i64(in.stmt, 0);
    db_reset(in.stmt);
    return 0;
}

int worker_renew(Db *db, Uuid id, int64_t lease_expires_at_ms, int64_t now_ms)
{
    RowIn in = row_in(db, "UPDATE worker SET lease_expires_at_ms = ?1, heartbeat_at_ms = ?2"
                          " WHERE id = ?3 AND state <= 1");
    in_i64(&in, lease_expires_at_ms);
    in_i64(&in, now_ms);
    in_uuid(&in, &id);
    return row_change(in.stmt);
}

int worker_set_state(Db *db, Uuid id, WorkerState state)
{
    assert(state < WORKER_STATE_N_);
    RowIn in = row_in(db, "UPDATE worker SET state = ?1 WHERE id = ?2");
    in_i64(&in, (int64_t)state);
    in_uuid(&in, &id);
    return row_change(in.stmt);
}

static int id_first(DbStmt *stmt, Uuid *ret)
{
    int r = row_first(stmt);
    if (r != 0) return r;
    RowOut out = row_out(stmt, NULL);
    *ret = out_uuid(&out);
    db_reset(stmt);
    return 0;
}

int worker_next_expired(Db *db, int64_t steady_ms, Uuid *ret)
{
    DbStmt *s = db_stmt(db, "SELECT id FROM worker WHERE state <= 1 AND lease_expires_at_ms < ?1"
                            " ORDER BY lease_expires_at_ms LIMIT 1");
    db_bind_i64(s, 1, steady_ms);
    return id_first(s, ret);
}

int worker_next_of(Db *db, WorkerKind kind, Uuid *ret)
{
    DbStmt *s = db_stmt(db, "SELECT id FROM worker WHERE state <= 1 AND kind = ?1 LIMIT 1");
    db_bind_i64(s, 1, (int64_t)kind);
    return id_first(s, ret);
}

int worker_renew_all(Db *db, int64_t lease_expires_at_ms)
{
    DbStmt *s = db_stmt(db, "UPDATE worker SET lease_expires_at_ms = ?1 WHERE state <= 1");
    db_bind_i64(s, 1, lease_expires_at_ms);
    return row_run(s);
}

int worker_purge(Db *db, int64_t before_ms)
{
    DbStmt *s = db_stmt(db, "DELETE FROM worker WHERE state >= 2 AND heartbeat_at_ms < ?1"
                            " AND NOT EXISTS"
                            " (SELECT 1 FROM task WHERE state = 1 AND worker_id = worker.id)");
    db_bind_i64(s, 1, before_ms);
    return row_run(s);
}

int worker_list(Db *db, Arena *arena, Worker **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = WORKER_LIST_MAX, .size = sizeof(Worker) };
    DbStmt *s = db_stmt(db, WORKER_SELECT " WHERE state <> 3 ORDER BY registered_at_ms DESC, id");
    int r = row_list_fill(&list, s, worker_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}
