/* Events: what happened that people may have to hear of. */
#include "api/events.h"

#include "api/tasks.h"
#include "observe/task_json.h"
#include "queue/queue.h"
#include "store/event_store.h"

const Param events_params[] = {
    { "agent", "string", "Only of this agent" },
    { "subject", "string", "Only about this, such as a rollout's id" },
    { "type", "string", "Only of this type, such as rollout.completed" },
    { "limit", "integer", "Events a page, 1 to 500; 50 when left out" },
    { "cursor", "string", "nextCursor of the page before" },
    { 0 },
};

typedef struct {
    EventFilter filter;
    Arena *arena;
    EventPage page;
} ListJob;

static int list_job(Db *db, void *arg)
{
    ListJob *job = arg;
    return event_list(db, &job->filter, job->arena, &job->page);
}

static void event_write(JsonOut *out, const Event *event)
{
    json_out_object(out);
    json_out_ki64(out, "seq", event->seq);
    json_out_ktime(out, "at", event->at_ms);
    json_out_kstr(out, "type", event->type);
    json_out_kstr(out, "agent", event->agent);
    json_out_kstr(out, "versionId", event->version_id);
    json_out_kstr(out, "subject", event->subject);
    json_out_kraw(out, "data", event->data);
    json_out_object_end(out);
}

int event_list_run_wait(ApiCall *call)
{
    int64_t limit;
    int r = api_param_i64_wait(call, "limit", 1, PAGE_ROWS_MAX, PAGE_ROWS_DEFAULT, &limit);
    if (r != 0) return r;
    ListJob job = { .filter = { .agent = api_param(call, "agent"),
                                .subject = api_param(call, "subject"),
                                .type = api_param(call, "type"),
                                .cursor = api_param(call, "cursor"),
                                .limit = (size_t)limit },
                    .arena = &call->req->arena };
    r = store_read_wait(queue_store(call->api->options.queue), list_job, &job);
    if (r == -EINVAL) return api_cursor_problem_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "events");
    json_out_array(&json.out);
    for (size_t i = 0; i < job.page.n; i++) event_write(&json.out, &job.page.events[i]);
    json_out_array_end(&json.out);
    api_cursor_write(&json.out, job.page.next);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
