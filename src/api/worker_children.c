/* Sub-agents: the server's side of what workers ask for the tasks they run. */
#include "api/workers.h"

#include "base/diag.h"
#include "observe/task_json.h"
#include "sys/clock.h"
#include "worker/wire.h"

#define WAIT_MS_MAX 60000
#define LIST_ARENA_BYTES_MAX ((size_t)1 << 20)

static const Member child_members[] = {
    { "taskId", MEMBER_STRING, true, "The task that starts it", NULL },
    { "fence", MEMBER_INTEGER, true, "The token of its claim", NULL },
    { "key", MEMBER_STRING, true, "By which the task finds it again", NULL },
    { "fingerprint", MEMBER_STRING, true, "Of the request the key stands for", NULL },
    { "agent", MEMBER_STRING, true, "Empty: the task's own", NULL },
    { "input", MEMBER_ANY, false, "What the sub-agent gets", NULL },
    { "metadata", MEMBER_OBJECT, false, "", NULL },
    { "timeLimitMs", MEMBER_INTEGER, true, "0: none of its own", NULL },
    { "remainingMs", MEMBER_INTEGER, true, "Until the task's deadline", NULL },
    { "dueMs", MEMBER_INTEGER, false, "Until the sub-agent's own deadline", NULL },
    { "findOnly", MEMBER_BOOLEAN, false, "One that is not there is not started", NULL },
    { "offered", MEMBER_OBJECT, true, "{tokens, nusd, toolCalls} of what the task has left", NULL },
};
const BodySpec child_body = { .name = "WorkerChildRequest",
                              .members = child_members,
                              .n = ARRAY_N(child_members),
                              .required = true,
                              .large = true };

static const Member cancel_members[] = {
    { "taskId", MEMBER_STRING, true, "The task that started it", NULL },
    { "fence", MEMBER_INTEGER, true, "The token of its claim", NULL },
};
const BodySpec child_cancel_body = { .name = "WorkerChildCancelRequest",
                                     .members = cancel_members,
                                     .n = ARRAY_N(cancel_members),
                                     .required = true };

const Param worker_children_params[] = {
    { "task", "string", "The task that started them" },
    { "fence", "integer", "The token of its claim" },
    { "seen", "integer", "How many of them had ended: wait for another number" },
    { "waitMs", "integer", "How long, at most 60000" },
    { 0 },
};
const Param worker_child_params[] = {
    { "task", "string", "The task that started it" },
    { "fence", "integer", "The token of its claim" },
    { 0 },
};

static int problem_wait(ApiCall *call, int r)
{
    if (r == -ENOMEM) return api_fail_wait(call, r);
    return api_problem_wait(call, 400, "member_invalid", "%s", diag_text());
}

static int ref_read_wait(ApiCall *call, TaskRef *ret)
{
    int r = api_worker_id_wait(call, &ret->worker_id);
    if (r != 0) return r;
    if (uuid_from_text(api_param(call, "task"), &ret->id) < 0)
        return api_problem_wait(call, 400, "parameter_invalid", "`task` is no task's id");
    return api_param_i64_wait(call, "fence", 0, INT64_MAX, 0, &ret->fence);
}

static int child_id_wait(ApiCall *call, Uuid *ret)
{
    if (uuid_from_text(call->params[1], ret) == 0) return 0;
    return api_problem_wait(call, 404, "task_not_found", "that is no task's id");
}

int worker_child_run_wait(ApiCall *call)
{
    Uuid worker;
    Str text;
    const Json *body;
    TaskRef task;
    ChildNew child;
    ChildStarted started;
    int r = api_worker_id_wait(call, &worker);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    r = wire_ref_read(body, &task);
    if (r == 0) r = wire_child_new_read(&call->req->arena, body, &child);
    if (r < 0) return problem_wait(call, r);
    task.worker_id = worker;
    r = queue_child_wait(call->api->options.queue, task, &child, &started);
    if (r != 0) return api_queue_fail_wait(call, r);
    LinkChild said = link_child_from(&started, str_of(diag_text()));
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_child_write(&json.out, &said);
    return api_json_wait(call, 200, &json);
}

/* A second at a time, so that a worker that went away is not waited for. */
static int children_loop_wait(ApiCall *call, TaskRef task, int64_t seen, int64_t deadline_ms,
                              Arena *arena, FamilyRow **ret, size_t *ret_n)
{
    int r;
    do {
        r = queue_children_wait(call->api->options.queue, task, seen, api_wait_step(deadline_ms),
                                arena, ret, ret_n);
    } while (r == 0 && children_ended(*ret, *ret_n) == seen && clock_mono_ms() < deadline_ms &&
             !api_wait_over(call));
    return r;
}

int worker_children_run_wait(ApiCall *call)
{
    TaskRef task;
    int64_t seen, wait_ms;
    FamilyRow *rows;
    size_t n;
    int r = ref_read_wait(call, &task);
    if (r == 0) r = api_param_i64_wait(call, "seen", -1, INT64_MAX, -1, &seen);
    if (r == 0) r = api_param_i64_wait(call, "waitMs", 0, WAIT_MS_MAX, 0, &wait_ms);
    if (r != 0) return r;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, LIST_ARENA_BYTES_MAX);
    r = children_loop_wait(call, task, seen, deadline_after(wait_ms), &arena, &rows, &n);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_children_write(&json.out, rows, n);
    return api_json_wait(call, 200, &json);
}

int worker_child_get_run_wait(ApiCall *call)
{
    TaskRef parent;
    Uuid id;
    Task task;
    int r = ref_read_wait(call, &parent);
    if (r == 0) r = child_id_wait(call, &id);
    if (r != 0) return r;
    r = queue_child_get_wait(call->api->options.queue, parent, id, &call->req->arena, &task);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    task_json(&json.out, &task, TASK_JSON_RESULT);
    return api_json_wait(call, 200, &json);
}

int worker_child_cancel_run_wait(ApiCall *call)
{
    Uuid worker, id;
    Str text;
    const Json *body;
    TaskRef parent;
    int r = api_worker_id_wait(call, &worker);
    if (r == 0) r = child_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    if ((r = wire_ref_read(body, &parent)) < 0) return problem_wait(call, r);
    parent.worker_id = worker;
    r = queue_child_cancel_wait(call->api->options.queue, parent, id);
    return r != 0 ? api_queue_fail_wait(call, r) : api_reply_wait(call, 204, NULL, STR(""));
}
