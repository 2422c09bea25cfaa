/* Questions to people: answered by them, asked by workers (worker/wire.h). */
#include "api/escalations.h"

#include "base/diag.h"
#include "base/log.h"
#include "observe/task_json.h"
#include "worker/wire.h"

#define BY_BYTES_MAX 200
#define ANSWER_BYTES_MAX ((size_t)1 << 20)

static const Member resolve_members[] = {
    { "answer", MEMBER_ANY, true, "What the agent gets: any JSON but null", NULL },
    { "by", MEMBER_STRING, false, "Who answers", NULL },
};
const BodySpec resolve_body = { .name = "ResolveRequest",
                                .members = resolve_members,
                                .n = ARRAY_N(resolve_members),
                                .required = true };

int task_resolve_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    TaskState state;
    int r = api_task_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str by = json_str(json_get(body, "by"));
    if (by.len > BY_BYTES_MAX || !str_is_utf8(by))
        return api_problem_wait(call, 400, "member_invalid", "`by` has more than %d bytes of text",
                                BY_BYTES_MAX);
    CLEANUP(buf_deinit) Buf answer = { 0 };
    buf_init(&answer, ANSWER_BYTES_MAX);
    JsonOut out = json_out(&answer);
    json_out_value(&out, json_get(body, "answer"));
    if (!json_out_ok(&out))
        return api_problem_wait(call, 413, "answer_too_large", "`answer` has more than %zu bytes",
                                ANSWER_BYTES_MAX);
    r = queue_resolve_wait(call->api->options.queue, id, buf_str(&answer), by, &state);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kuuid(&json.out, "taskId", id);
    json_out_kcstr(&json.out, "status", task_state_name(state));
    json_out_object_end(&json.out);
    return api_json_wait(call, 202, &json);
}

/* --- of remote workers ------------------------------------------------------------------------ */

static const Member escalate_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "The token of its claim", NULL },
    { "key", MEMBER_STRING, true, "What tells the question from others, in hex", NULL },
    { "occurrence", MEMBER_INTEGER, true, "Of that key in the attempt", NULL },
    { "question", MEMBER_STRING, true, "", NULL },
    { "timeoutMs", MEMBER_INTEGER, true, "", NULL },
    { "context", MEMBER_ANY, false, "For the person", NULL },
    { "hasDefault", MEMBER_BOOLEAN, false, "Whether `default` is one", NULL },
    { "default", MEMBER_ANY, false, "The answer when nobody gives one", NULL },
};
const BodySpec worker_escalate_body = { .name = "WorkerEscalateRequest",
                                        .members = escalate_members,
                                        .n = ARRAY_N(escalate_members),
                                        .required = true };

int worker_escalate_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    TaskRef task;
    EscalationAsk ask;
    EscalationReply reply;
    Arena *arena = &call->req->arena;
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    r = wire_ref_read(body, &task);
    if (r == 0) r = wire_escalation_ask_read(arena, body, &ask);
    if (r == -EINVAL) return api_problem_wait(call, 400, "member_invalid", "%s", diag_text());
    task.worker_id = id;
    if (r == 0) r = queue_escalate_wait(call->api->options.queue, task, &ask, arena, &reply);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_escalation_reply_write(&json.out, &reply);
    return api_json_wait(call, 200, &json);
}
