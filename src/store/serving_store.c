#include "store/serving_store.h"

#include "store/row.h"
#include "store/task_sql.h"

const char *serving_state_name(ServingState state)
{
    static const char *const names[SERVING_N_] = { "serving", "draining", "warm",
                                                   "decommissioned" };
    assert(state < SERVING_N_);
    return names[state];
}

/* What new tasks of the agent ?1 go to. */
#define ROUTED_SQL                                                              \
    "SELECT version_id FROM routing WHERE agent = ?1 AND NOT EXISTS (SELECT 1"  \
    " FROM rollout WHERE agent = ?1 AND state < 5 AND weight_bp = 10000) UNION" \
    " SELECT version_id FROM rollout WHERE agent = ?1 AND state < 5 AND weight_bp > 0"

#define SERVING_SELECT "SELECT version_id, agent, state, since_ms, witness FROM serving"

int serving_mark(Db *db, Str agent, int64_t now_ms)
{
    RowIn in = row_in(db, "INSERT INTO serving (version_id, agent, state, since_ms)"
                          " SELECT version_id, ?1, 0, ?2 FROM (" ROUTED_SQL ") WHERE true"
                          " ON CONFLICT (version_id) DO UPDATE SET state = 0, witness = 0,"
                          " since_ms = excluded.since_ms WHERE state <> 0");
    in_text(&in, agent);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

static void serving_read(RowOut *out, void *ret)
{
    Serving *s = ret;
    s->version_id = out_text(out);
    s->agent = out_text(out);
    s->state = (ServingState)out_i64(out);
    s->since_ms = out_i64(out);
    s->witness = out_i64(out);
}

static int serving_list(DbStmt *stmt, Arena *arena, Serving **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = SERVING_LIST_MAX, .size = sizeof(Serving) };
    int r = row_list_fill(&list, stmt, serving_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int serving_left(Db *db, Str agent, Arena *arena, Serving **ret, size_t *ret_n)
{
    RowIn in = row_in(db, SERVING_SELECT " WHERE agent = ?1 AND state = 0"
                                         " AND version_id NOT IN (" ROUTED_SQL ")");
    in_text(&in, agent);
    return serving_list(in.stmt, arena, ret, ret_n);
}

int serving_leaving(Db *db, Str agent, Str after_version_id, Arena *arena, Serving **ret,
                    size_t *ret_n)
{
    RowIn in = row_in(db, SERVING_SELECT " INDEXED BY serving_leaving WHERE state IN (1, 2)"
                                         " AND (?1 = '' OR agent = ?1) AND version_id > ?2"
                                         " ORDER BY version_id");
    in_text(&in, agent.ptr ? agent : STR(""));
    in_text(&in, after_version_id.ptr ? after_version_id : STR(""));
    return serving_list(in.stmt, arena, ret, ret_n);
}

int serving_get(Db *db, Str version_id, Arena *arena, Serving *ret)
{
    RowIn in = row_in(db, SERVING_SELECT " WHERE version_id = ?1");
    in_text(&in, version_id);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    serving_read(&out, ret);
    r = row_out_end(&out);
    if (r == 0) db_reset(in.stmt);
    return r;
}

int serving_set(Db *db, const Serving *serving)
{
    RowIn in = row_in(db, "UPDATE serving SET state = ?1, since_ms = ?2, witness = ?3"
                          " WHERE version_id = ?4");
    in_i64(&in, serving->state);
    in_i64(&in, serving->since_ms);
    in_i64(&in, serving->witness);
    in_text(&in, serving->version_id);
    return row_change(in.stmt);
}

/* --- tasks ------------------------------------------------------------------------------------ */

/* The first number, 0 without a row. */
static int first_i64(DbStmt *stmt, int64_t *ret)
{
    int r = db_step(stmt);
    *ret = 0;
    if (r != DB_E_ROW) return r;
    *ret = db_i64(stmt, 0);
    db_reset(stmt);
    return 0;
}

/* Each stops at the first that it finds. */
#define OPEN_RUNNING                                                                  \
    RUNNING_WORKERS "SELECT seq FROM running CROSS JOIN task INDEXED BY task_running" \
                    " ON worker_id = running.id WHERE state = 1"                      \
                    " AND agent = ?1 AND version_id = ?2 LIMIT 1"
#define OPEN_QUEUED                                                                \
    "SELECT q.seq FROM (" TASK_QUEUED_SQL ") q CROSS JOIN task t ON t.seq = q.seq" \
    " WHERE t.agent = ?1 AND t.version_id = ?2 LIMIT 1"
#define OPEN_ASKING                                                                  \
    "SELECT t.seq FROM escalation e INDEXED BY escalation_pending CROSS JOIN task t" \
    " ON t.seq = e.task_seq WHERE e.state = 0 AND t.state = 6 AND t.agent = ?1"      \
    " AND t.version_id = ?2 LIMIT 1"

int serving_find_open(Db *db, const Serving *serving, int64_t *ret_seq)
{
    static const char *const looks[] = { OPEN_RUNNING, OPEN_QUEUED, OPEN_ASKING };
    RowIn in = row_in(db, "SELECT seq FROM task WHERE seq = ?1 AND version_id = ?2"
                          " AND state NOT BETWEEN 2 AND 5");
    in_i64(&in, serving->witness);
    in_text(&in, serving->version_id);
    int r = first_i64(in.stmt, ret_seq);
    for (size_t i = 0; r == 0 && *ret_seq == 0 && i < ARRAY_N(looks); i++) {
        in = row_in(db, looks[i]);
        in_text(&in, serving->agent);
        in_text(&in, serving->version_id);
        r = first_i64(in.stmt, ret_seq);
    }
    return r;
}

int serving_is_target(Db *db, const Serving *serving, bool *ret)
{
    int64_t n;
    RowIn in = row_in(db, "SELECT count(*) FROM rollout WHERE agent = ?1 AND state < 5"
                          " AND control_id = ?2");
    in_text(&in, serving->agent);
    in_text(&in, serving->version_id);
    int r = first_i64(in.stmt, &n);
    *ret = n > 0;
    return r;
}

int serving_count(Db *db, Str version_id, int64_t *ret_queued, int64_t *ret_running)
{
    RowIn in = row_in(db, "SELECT count(*) FROM (" TASK_QUEUED_SQL ") q CROSS JOIN task t"
                          " ON t.seq = q.seq WHERE t.version_id = ?1");
    in_text(&in, version_id);
    int r = first_i64(in.stmt, ret_queued);
    if (r != 0) return r;
    in = row_in(db, "SELECT count(*) FROM task INDEXED BY task_running WHERE state = 1"
                    " AND version_id = ?1");
    in_text(&in, version_id);
    return first_i64(in.stmt, ret_running);
}
