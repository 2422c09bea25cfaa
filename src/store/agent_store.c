#include "store/agent_store.h"

#include "store/row.h"
#include "store/version_store.h"

#define SETTINGS_ARENA_MAX (1 << 20)

#define AGENT_SELECT                                                  \
    "SELECT a.name, a.settings, r.version_id, r.previous_version_id," \
    " a.created_at_ms, coalesce(r.changed_at_ms, 0)"                  \
    " FROM agent a LEFT JOIN routing r ON r.agent = a.name"

/* --- settings --------------------------------------------------------------------------------- */

void agent_retry_write(JsonOut *out, const RetryPolicy *policy)
{
    json_out_object(out);
    json_out_ki64(out, "maxAttempts", policy->attempts_max);
    json_out_ki64(out, "initialMs", policy->initial_ms);
    json_out_ki64(out, "factorMilli", policy->factor_milli);
    json_out_ki64(out, "maxMs", policy->max_ms);
    json_out_object_end(out);
}

RetryPolicy agent_retry_read(const Json *settings)
{
    const Json *retry = json_get(settings, "retry");
    RetryPolicy p = RETRY_POLICY_DEFAULT;
    p.attempts_max = json_i64_or(json_get(retry, "maxAttempts"), p.attempts_max);
    p.initial_ms = json_i64_or(json_get(retry, "initialMs"), p.initial_ms);
    p.factor_milli = json_i64_or(json_get(retry, "factorMilli"), p.factor_milli);
    p.max_ms = json_i64_or(json_get(retry, "maxMs"), p.max_ms);
    return p;
}

void agent_concurrency_write(JsonOut *out, const AgentConcurrency *concurrency)
{
    json_out_object(out);
    if (concurrency->tasks >= 0) json_out_ki64(out, "tasks", concurrency->tasks);
    if (concurrency->per_session >= 0) json_out_ki64(out, "perSession", concurrency->per_session);
    json_out_object_end(out);
}

static AgentConcurrency concurrency_read(const Json *settings)
{
    const Json *json = json_get(settings, "concurrency");
    return (AgentConcurrency){ MAX(json_i64_or(json_get(json, "tasks"), -1), -1),
                               MAX(json_i64_or(json_get(json, "perSession"), -1), -1) };
}

static int64_t judges_of(const Json *settings)
{
    int64_t n = 0;
    for (JsonIter it = json_iter(json_get(settings, "graders")); json_next(&it);)
        n += str_eq(json_str(json_get(it.value, "type")), STR("judge"));
    return n;
}

/* --- agents ----------------------------------------------------------------------------------- */

int agent_ensure(Db *db, Str name, int64_t now_ms)
{
    assert(name.len > 0 && name.len <= AGENT_NAME_BYTES_MAX);
    RowIn in = row_in(db, "INSERT INTO agent (name, settings, created_at_ms) VALUES (?1, '{}', ?2)"
                          " ON CONFLICT (name) DO NOTHING");
    in_text(&in, name);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

int agent_set_settings(Db *db, Str name, Str settings)
{
    CLEANUP(arena_deinit) Arena arena;
    const Json *json = NULL;
    arena_init(&arena, SETTINGS_ARENA_MAX);
    if (json_parse(&arena, settings, NULL, &json, NULL) != 0) json = NULL;
    AgentConcurrency concurrency = concurrency_read(json);
    /* columns of what is looked at for every task */
    RowIn in = row_in(db, "UPDATE agent SET settings = ?1, tasks_max = ?3, session_max = ?4,"
                          " graders = ?5, judges = ?6 WHERE name = ?2");
    in_text(&in, settings);
    in_text(&in, name);
    in_i64(&in, concurrency.tasks);
    in_i64(&in, concurrency.per_session);
    in_i64(&in, (int64_t)json_len(json_get(json, "graders")));
    in_i64(&in, judges_of(json));
    return row_change(in.stmt);
}

int agent_judges(Db *db, Str name, int64_t *ret)
{
    RowIn in = row_in(db, "SELECT judges FROM agent WHERE name = ?1");
    in_text(&in, name);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = db_i64(in.stmt, 0);
    db_reset(in.stmt);
    return 0;
}

int agent_concurrency(Db *db, Str name, AgentConcurrency *ret)
{
    RowIn in = row_in(db, "SELECT coalesce(tasks_max, -1), coalesce(session_max, -1) FROM agent"
                          " WHERE name = ?1");
    in_text(&in, name);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    *ret = (AgentConcurrency){ db_i64(in.stmt, 0), db_i64(in.stmt, 1) };
    db_reset(in.stmt);
    return 0;
}

static void agent_read(RowOut *out, void *ret)
{
    Agent *a = ret;
    a->name = out_text(out);
    a->settings = out_text(out);
    a->version_id = out_text(out);
    a->previous_version_id = out_text(out);
    a->created_at_ms = out_i64(out);
    a->routing_changed_at_ms = out_i64(out);
}

int agent_get(Db *db, Str name, Arena *arena, Agent *ret)
{
    RowIn in = row_in(db, AGENT_SELECT " WHERE a.name = ?1");
    in_text(&in, name);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    Agent agent;
    agent_read(&out, &agent);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(in.stmt);
    *ret = agent;
    return 0;
}

int agent_check(Db *db, Str name)
{
    RowIn in = row_in(db, "SELECT 1 FROM agent WHERE name = ?1");
    in_text(&in, name);
    int r = row_first(in.stmt);
    db_reset(in.stmt);
    return r;
}

int agent_settings_of_task(Db *db, int64_t task_seq, Arena *arena, Str *ret)
{
    DbStmt *s = db_stmt(db, "SELECT a.settings FROM task t JOIN agent a ON a.name = t.agent"
                            " WHERE t.seq = ?1");
    db_bind_i64(s, 1, task_seq);
    int r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, arena);
    Str settings = out_text(&out);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(s);
    *ret = settings;
    return 0;
}

int agent_only(Db *db, Arena *arena, Str *ret)
{
    DbStmt *s = db_stmt(db, "SELECT name FROM agent LIMIT 2");
    int r = row_first(s);
    if (r != 0) return r;
    RowOut out = row_out(s, arena);
    Str name = out_text(&out);
    r = row_out_end(&out);
    if (r != 0) return r;
    r = db_step(s);
    if (r < 0) return r;
    db_reset(s);
    if (r == DB_E_ROW) return AGENT_E_SEVERAL;
    *ret = name;
    return 0;
}

int agent_list(Db *db, Arena *arena, Agent **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = AGENT_LIST_MAX, .size = sizeof(Agent) };
    int r = row_list_fill(&list, db_stmt(db, AGENT_SELECT " ORDER BY a.name"), agent_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

int agent_list_judging(Db *db, Arena *arena, Agent **ret, size_t *ret_n)
{
    RowList list = { .arena = arena, .max = AGENT_LIST_MAX, .size = sizeof(Agent) };
    DbStmt *s = db_stmt(db, AGENT_SELECT " WHERE a.judges > 0 ORDER BY a.name");
    int r = row_list_fill(&list, s, agent_read);
    if (r != 0) return r;
    *ret = list.rows;
    *ret_n = list.n;
    return 0;
}

/* --- routing ---------------------------------------------------------------------------------- */

int routing_set(Db *db, Str agent, Str version_id, int64_t now_ms)
{
    int r = version_check(db, version_id, agent);
    if (r != 0) return r;
    RowIn in = row_in(db, "INSERT INTO routing (agent, version_id, changed_at_ms)"
                          " VALUES (?1, ?2, ?3)"
                          " ON CONFLICT (agent) DO UPDATE SET version_id = excluded.version_id,"
                          " previous_version_id = routing.version_id,"
                          " changed_at_ms = excluded.changed_at_ms"
                          " WHERE routing.version_id <> excluded.version_id");
    in_text(&in, agent);
    in_text(&in, version_id);
    in_i64(&in, now_ms);
    return row_run(in.stmt);
}

int routing_forget_previous(Db *db, Str agent)
{
    RowIn in = row_in(db, "UPDATE routing SET previous_version_id = NULL WHERE agent = ?1");
    in_text(&in, agent);
    return row_change(in.stmt);
}

int routing_get(Db *db, Str agent, Arena *arena, Str *ret_version_id)
{
    RowIn in = row_in(db, "SELECT version_id FROM routing WHERE agent = ?1");
    in_text(&in, agent);
    int r = row_first(in.stmt);
    if (r != 0) return r;
    RowOut out = row_out(in.stmt, arena);
    Str id = out_text(&out);
    r = row_out_end(&out);
    if (r != 0) return r;
    db_reset(in.stmt);
    *ret_version_id = id;
    return 0;
}
