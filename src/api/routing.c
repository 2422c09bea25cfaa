/* Routing: which version new tasks of an agent get. A switch is one transaction. */
#include "api/routing.h"

#include "api/tasks.h"
#include "api/versions.h"
#include "base/diag.h"
#include "observe/task_json.h"
#include "store/agent_store.h"
#include "sys/clock.h"

static const Member rollout_members[] = {
    { "versionId", MEMBER_STRING, true, "The version to go to: its id, or a prefix of it", NULL },
    { "strategy", MEMBER_STRING, true, "How; only immediate for now",
      "immediate|canary|blue-green|shadow" },
};
const BodySpec rollout_body = { .name = "RolloutRequest",
                                .members = rollout_members,
                                .n = ARRAY_N(rollout_members),
                                .required = true };

static const Member rollback_members[] = {
    { "to", MEMBER_STRING, false,
      "The version to go back to (id or prefix); the previous one when left out", NULL },
};
const BodySpec rollback_body = { .name = "RollbackRequest",
                                 .members = rollback_members,
                                 .n = ARRAY_N(rollback_members) };

static int agent_missing_wait(ApiCall *call)
{
    Str name = call->params[0];
    return api_problem_wait(call, 404, "agent_not_found", "there is no agent \"%.*s\"",
                            (int)MIN(name.len, (size_t)64), name.ptr);
}

typedef struct {
    Str name;
    Arena *arena;
    Agent agent;
} AgentRead;

static int agent_job(Db *db, void *arg)
{
    AgentRead *read = arg;
    return agent_get(db, read->name, read->arena, &read->agent);
}

static int agent_find_wait(ApiCall *call, Agent *ret)
{
    AgentRead read = { .name = call->params[0], .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), agent_job, &read);
    if (r == -ENOENT) return agent_missing_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    *ret = read.agent;
    return 0;
}

static void id_or_null(JsonOut *out, const char *key, Str id)
{
    json_out_key(out, key);
    if (str_empty(id)) json_out_null(out);
    else json_out_str(out, id);
}

static int routing_reply_wait(ApiCall *call, const Agent *agent)
{
    CLEANUP(api_json_deinit) ApiJson json;
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kstr(out, "agent", agent->name);
    id_or_null(out, "versionId", agent->version_id);
    id_or_null(out, "previousVersionId", agent->previous_version_id);
    json_out_ktime(out, "changedAt", agent->routing_changed_at_ms);
    json_out_key(out, "arms");
    json_out_array(out);
    if (!str_empty(agent->version_id)) {
        json_out_object(out);
        json_out_kstr(out, "versionId", agent->version_id);
        json_out_ki64(out, "weight", 100);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

int routing_get_run_wait(ApiCall *call)
{
    Agent agent;
    int r = agent_find_wait(call, &agent);
    return r != 0 ? r : routing_reply_wait(call, &agent);
}

/* --- switching -------------------------------------------------------------------------------- */

typedef struct {
    Str agent, version_id, settings;
    int64_t now_ms;
    Arena *arena;
    Agent after;
} Switch;

static int switch_job(Db *db, void *arg)
{
    Switch *s = arg;
    int r = routing_set(db, s->agent, s->version_id, s->now_ms);
    if (r == 0) r = agent_set_settings(db, s->agent, s->settings);
    return r < 0 ? r : agent_get(db, s->agent, s->arena, &s->after);
}

/* Routes all new tasks of the agent to the version; tasks that were submitted before stay where
 * they are. */
static int switch_wait(ApiCall *call, const Agent *agent, Str id)
{
    Version version;
    int r = version_find_wait(call, id, &version);
    if (r != 0) return r;
    if (!str_eq(version.agent, agent->name))
        return api_problem_wait(call, 409, "version_of_other_agent",
                                "version %.12s is of agent \"%.*s\"", version.id.ptr,
                                STR_ARG(version.agent));
    Switch s = { .agent = agent->name,
                 .version_id = version.id,
                 .now_ms = clock_real_ms(),
                 .arena = &call->req->arena };
    r = version_settings(&call->req->arena, version.manifest, &s.settings);
    if (r == 0) r = store_call_wait(queue_store(call->api->options.queue), switch_job, &s);
    return r < 0 ? api_fail_wait(call, r) : routing_reply_wait(call, &s.after);
}

int rollout_create_run_wait(ApiCall *call)
{
    Agent agent;
    Str text;
    const Json *body;
    int r = api_body_wait(call, &text, &body);
    if (r == 0) r = agent_find_wait(call, &agent);
    if (r != 0) return r;
    Str strategy = json_str(json_get(body, "strategy"));
    if (!str_eq(strategy, STR("immediate")))
        return api_problem_wait(call, 501, "strategy_not_available",
                                "%.*s rollouts are not built yet; use \"strategy\": \"immediate\"",
                                STR_ARG(strategy));
    return switch_wait(call, &agent, json_str(json_get(body, "versionId")));
}

int rollback_run_wait(ApiCall *call)
{
    Agent agent;
    Str text;
    const Json *body;
    int r = api_body_wait(call, &text, &body);
    if (r == 0) r = agent_find_wait(call, &agent);
    if (r != 0) return r;
    Str to = json_str(json_get(body, "to"));
    if (str_empty(to)) to = agent.previous_version_id;
    if (str_empty(to))
        return api_problem_wait(call, 409, "no_previous_version",
                                "\"%.*s\" has had no other version to go back to",
                                STR_ARG(agent.name));
    return switch_wait(call, &agent, to);
}
