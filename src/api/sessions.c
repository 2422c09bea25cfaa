/* What agents keep in their sessions, for remote workers (worker/wire.h). */
#include "api/sessions.h"

#include "base/diag.h"
#include "worker/wire.h"

#define REPLY_MEMORY_MAX ((size_t)64 << 20)

static const Member state_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "The token of its claim", NULL },
    { "what", MEMBER_STRING, true, "", "get|list|put|delete" },
    { "key", MEMBER_STRING, false, "", NULL },
    { "ifVersion", MEMBER_INTEGER, false, "Only if that is there; 0: nothing, -2: something",
      NULL },
    { "contentType", MEMBER_STRING, false, "", NULL },
    { "value", MEMBER_STRING, false, "In base64", NULL },
};
const BodySpec worker_state_body = { .name = "WorkerStateRequest",
                                     .members = state_members,
                                     .n = ARRAY_N(state_members),
                                     .required = true,
                                     .large = true };

int worker_state_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    TaskRef task;
    StateAsk ask;
    StateReply reply;
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, REPLY_MEMORY_MAX);
    r = wire_ref_read(body, &task);
    if (r == 0) r = wire_state_ask_read(&arena, body, &ask);
    if (r == -EINVAL) return api_problem_wait(call, 400, "member_invalid", "%s", diag_text());
    task.worker_id = id;
    if (r == 0) r = queue_state_wait(call->api->options.queue, task, &ask, &arena, &reply);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_state_reply_write(&json.out, &reply);
    return api_json_wait(call, 200, &json);
}
