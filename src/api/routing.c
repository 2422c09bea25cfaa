/* Routing: which version new tasks of an agent get. A switch is one transaction. */
#include "api/routing.h"

#include "api/rollouts.h"
#include "api/tasks.h"
#include "api/versions.h"
#include "base/diag.h"
#include "observe/task_json.h"
#include "rollout/rollout_json.h"
#include "rollout/settings.h"
#include "store/agent_store.h"

static const Member rollout_members[] = {
    { "versionId", MEMBER_STRING, true, "The version to go to: its id, or a prefix of it", NULL },
    { "strategy", MEMBER_STRING, true,
      "How; shadow: beside production first, unseen, until somebody promotes it",
      "immediate|canary|blue-green|shadow" },
    { "rollout", MEMBER_OBJECT, false,
      "The rollout block to go by instead of the version's: steps, rollbackOn, metrics, shadow, "
      "holdFor, deadline, onDeadline",
      NULL },
    { "by", MEMBER_STRING, false, "Who asks, for the record", NULL },
};
const BodySpec rollout_body = { .name = "RolloutRequest",
                                .members = rollout_members,
                                .n = ARRAY_N(rollout_members),
                                .required = true };

static const Member rollback_members[] = {
    { "to", MEMBER_STRING, false,
      "The version to go back to (id or prefix); the previous one when left out", NULL },
    { "kill", MEMBER_BOOLEAN, false,
      "Running tasks of the version that is left are stopped; else they finish", NULL },
    { "by", MEMBER_STRING, false, "Who asks, for the record", NULL },
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
    RolloutWhole *rollout; /* filled when active; NULL: not asked for */
    bool active;
    ServingLoad *leaving; /* versions that drain, or are warm */
    size_t leaving_n;
} AgentRead;

static int leaving_read(Db *db, AgentRead *read)
{
    Serving *rows = NULL;
    int r = serving_leaving(db, read->name, STR_NULL, read->arena, &rows, &read->leaving_n);
    if (r != 0) return r;
    read->leaving = ARENA_ARRAY(read->arena, ServingLoad, read->leaving_n + 1);
    if (!read->leaving) return -ENOMEM;
    for (size_t i = 0; r == 0 && i < read->leaving_n; i++)
        r = serving_load(db, rows[i].version_id, read->arena, &read->leaving[i]);
    return r;
}

static int agent_job(Db *db, void *arg)
{
    AgentRead *read = arg;
    RolloutRow row;
    int r = agent_get(db, read->name, read->arena, &read->agent);
    if (r != 0 || !read->rollout) return r;
    r = leaving_read(db, read);
    if (r != 0) return r;
    r = rollout_active(db, read->name, read->arena, &row);
    read->active = r == 0;
    if (r != 0) return r == -ENOENT ? 0 : r;
    return rollout_whole_read(db, &row, read->arena, read->rollout);
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

static void put_arm(JsonOut *out, Str version_id, int32_t weight_bp)
{
    json_out_object(out);
    json_out_kstr(out, "versionId", version_id);
    json_out_key(out, "weight");
    json_out_f64(out, (double)weight_bp / 100);
    json_out_object_end(out);
}

static void put_routing(JsonOut *out, const AgentRead *read)
{
    const Agent *agent = &read->agent;
    const RolloutRow *row = &read->rollout->row;
    int32_t canary_bp = read->active ? row->state.weight_bp : 0;
    json_out_object(out);
    json_out_kstr(out, "agent", agent->name);
    id_or_null(out, "versionId", agent->version_id);
    id_or_null(out, "previousVersionId", agent->previous_version_id);
    json_out_ktime(out, "changedAt", agent->routing_changed_at_ms);
    json_out_key(out, "arms");
    json_out_array(out);
    if (!str_empty(agent->version_id) && canary_bp < WEIGHT_BP_ALL)
        put_arm(out, agent->version_id, WEIGHT_BP_ALL - canary_bp);
    if (canary_bp > 0) put_arm(out, row->version_id, canary_bp);
    json_out_array_end(out);
    json_out_key(out, "leaving");
    json_out_array(out);
    for (size_t i = 0; i < read->leaving_n; i++) serving_write(out, &read->leaving[i]);
    json_out_array_end(out);
    if (read->active) {
        json_out_key(out, "rollout");
        rollout_write(out, row, &read->rollout->spec, &read->rollout->evidence,
                      read->rollout->intervals, &read->rollout->pace, &read->rollout->stable);
    }
    json_out_object_end(out);
}

/* The routing as it is now. */
static int routing_reply_wait(ApiCall *call)
{
    CLEANUP(freep) RolloutWhole *rollout = xcalloc(1, sizeof(*rollout));
    AgentRead read = { .name = call->params[0], .arena = &call->req->arena, .rollout = rollout };
    int r = store_read_wait(queue_store(call->api->options.queue), agent_job, &read);
    if (r == -ENOENT) return agent_missing_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    put_routing(&json.out, &read);
    return api_json_wait(call, 200, &json);
}

int routing_get_run_wait(ApiCall *call)
{
    return routing_reply_wait(call);
}

/* --- switching -------------------------------------------------------------------------------- */

typedef struct {
    ControlSwitch to;
    Arena *arena;
    unsigned actions;
} SwitchJob;

/* A rollout that is under way ends with it: what people say now is what they want. */
static int switch_job(Db *db, void *arg)
{
    SwitchJob *job = arg;
    const ControlSwitch *to = &job->to;
    int r = control_end(db, to->agent, COMMAND_SUPERSEDE, to->actor, to->now_ms, &job->actions);
    return r == 0 ? control_switch(db, to, job->arena) : r;
}

/* The agent's own version of this id or prefix. */
static int version_of_agent_wait(ApiCall *call, const Agent *agent, Str id, Version *ret)
{
    int r = version_find_wait(call, id, ret);
    if (r != 0 || str_eq(ret->agent, agent->name)) return r;
    return api_problem_wait(call, 409, "version_of_other_agent",
                            "version %.12s is of agent \"%.*s\"", ret->id.ptr, STR_ARG(ret->agent));
}

/* Routes all new tasks of the agent to the version; tasks that were submitted before stay where
 * they are. */
static int switch_wait(ApiCall *call, const Agent *agent, Str id, Str by)
{
    Version version;
    int r = version_of_agent_wait(call, agent, id, &version);
    if (r != 0) return r;
    SwitchJob job = { .to = { .agent = agent->name,
                              .version_id = version.id,
                              .actor = by,
                              .kind = SWITCH_IMMEDIATE,
                              .now_ms = queue_now_ms(call->api->options.queue) },
                      .arena = &call->req->arena };
    r = settings_of_manifest(&call->req->arena, version.manifest, &job.to.settings);
    if (r == 0) r = store_call_wait(queue_store(call->api->options.queue), switch_job, &job);
    if (r < 0) return api_fail_wait(call, r);
    control_signal_wait(call->api->options.queue, job.actions);
    return routing_reply_wait(call);
}

int rollout_create_run_wait(ApiCall *call)
{
    Agent agent;
    Version version;
    Str text, by;
    const Json *body;
    int r = api_body_wait(call, &text, &body);
    if (r == 0) r = agent_find_wait(call, &agent);
    if (r == 0) r = rollout_actor_wait(call, body, &by);
    if (r != 0) return r;
    Str strategy = json_str(json_get(body, "strategy")), id = json_str(json_get(body, "versionId"));
    const Json *block = json_get(body, "rollout");
    if (str_eq(strategy, STR("immediate"))) return switch_wait(call, &agent, id, by);
    r = version_of_agent_wait(call, &agent, id, &version);
    if (r == 0) r = rollout_begin_wait(call, &version, strategy, block, by);
    return r != 0 ? r : routing_reply_wait(call);
}

typedef struct {
    ControlBack back;
    Arena *arena;
    unsigned actions;
} BackJob;

static int back_job(Db *db, void *arg)
{
    BackJob *job = arg;
    return control_rollback(db, &job->back, job->arena, &job->actions);
}

/* The whole id of what to go back to; empty when none is named. */
static int back_to_wait(ApiCall *call, const Agent *agent, Str to, Str *ret)
{
    Version version;
    *ret = STR_NULL;
    if (str_empty(to)) return 0;
    int r = version_of_agent_wait(call, agent, to, &version);
    if (r == 0) *ret = version.id;
    return r;
}

int rollback_run_wait(ApiCall *call)
{
    Agent agent = { 0 };
    Str text, by;
    const Json *body;
    BackJob job = { .arena = &call->req->arena };
    int r = api_body_wait(call, &text, &body);
    if (r == 0) r = agent_find_wait(call, &agent);
    if (r == 0) r = rollout_actor_wait(call, body, &by);
    if (r == 0) r = back_to_wait(call, &agent, json_str(json_get(body, "to")), &job.back.to);
    if (r != 0) return r;
    job.back.agent = agent.name;
    job.back.actor = str_empty(by) ? STR("a rollback") : by;
    job.back.kill = json_bool(json_get(body, "kill"), false);
    job.back.now_ms = queue_now_ms(call->api->options.queue);
    r = store_call_wait(queue_store(call->api->options.queue), back_job, &job);
    if (r == CONTROL_E_NO_PREVIOUS)
        return api_problem_wait(call, 409, "no_previous_version",
                                "\"%.*s\" has no version before this one, or has gone back to this "
                                "one: name the version to go to",
                                STR_ARG(agent.name));
    if (r == CONTROL_E_JUST_BACK)
        return api_problem_wait(
            call, 409, "just_rolled_back",
            "the last rollout of \"%.*s\" has just rolled back by itself: to leave "
            "the stable version as well, name the version to go to",
            STR_ARG(agent.name));
    if (r < 0) return api_fail_wait(call, r);
    control_signal_wait(call->api->options.queue, job.actions);
    return routing_reply_wait(call);
}
