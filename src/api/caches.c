/* Response caches: how the workers' are doing, and what they are to forget. */
#include "api/caches.h"

#include "base/diag.h"
#include "base/log.h"
#include "observe/capacity.h"
#include "observe/task_json.h"
#include "worker/wire.h"

static const Member purge_members[] = {
    { "agent", MEMBER_STRING, false, "Only responses to this agent", NULL },
    { "tenantId", MEMBER_STRING, false, "Only responses to tasks of this tenant; \"\": of none",
      NULL },
    { "all", MEMBER_BOOLEAN, false, "Everything; needed when neither of the others is given",
      NULL },
};
const BodySpec cache_purge_body = { .name = "CachePurgeRequest",
                                    .members = purge_members,
                                    .n = ARRAY_N(purge_members),
                                    .required = true };

/* --- figures ---------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    WorkerRoster roster;
} RosterRead;

static int roster_job(Db *db, void *arg)
{
    RosterRead *read = arg;
    return capacity_read(db, read->arena, &read->roster);
}

static void figures_add(CacheFigures *sum, const CacheFigures *f)
{
    sum->hits += f->hits;
    sum->misses += f->misses;
    sum->stored += f->stored;
    sum->evicted += f->evicted;
    sum->expired += f->expired;
    sum->purged += f->purged;
    sum->too_large += f->too_large;
    sum->bytes += f->bytes;
    sum->entries += f->entries;
}

int cache_get_run_wait(ApiCall *call)
{
    Queue *queue = call->api->options.queue;
    RosterRead read = { .arena = &call->req->arena };
    CacheFigures sum = { 0 };
    int r = store_read_wait(queue_store(queue), roster_job, &read);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "workers");
    json_out_array(&json.out);
    for (size_t i = 0; i < read.roster.n; i++) {
        const Worker *worker = &read.roster.workers[i];
        CacheFigures figures;
        if (!queue_cache_figures(queue, worker->id, &figures)) continue;
        figures_add(&sum, &figures);
        json_out_object(&json.out);
        json_out_kuuid(&json.out, "workerId", worker->id);
        json_out_kstr(&json.out, "name", worker->name);
        wire_figures_write(&json.out, &figures);
        json_out_object_end(&json.out);
    }
    json_out_array_end(&json.out);
    wire_figures_write(&json.out, &sum);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- forgetting ------------------------------------------------------------------------------- */

int cache_purge_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    int64_t revision;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    const Json *agent = json_get(body, "agent"), *tenant = json_get(body, "tenantId");
    CachePurge purge = { .by_agent = agent != NULL,
                         .agent = json_str(agent),
                         .by_tenant = tenant != NULL,
                         .tenant = json_str(tenant) };
    bool all = json_bool(json_get(body, "all"), false);
    if (all == (purge.by_agent || purge.by_tenant))
        return api_problem_wait(call, 400, "member_missing",
                                "say what to forget: `agent`, `tenantId` or both, or `all`");
    r = queue_cache_purge_wait(call->api->options.queue, &purge, &revision);
    if (r < 0) return api_fail_wait(call, r);
    LOG_INFO("response caches are purged", LOG_STR("agent", purge.agent),
             LOG_STR("tenant", purge.tenant), LOG_INT("revision", revision));
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "revision", revision);
    json_out_object_end(&json.out);
    return api_json_wait(call, 202, &json);
}
