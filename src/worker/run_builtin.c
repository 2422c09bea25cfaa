#include "base/diag.h"
#include "sys/clock.h"
#include "worker/dialogue.h"
#include "worker/memory.h"
#include "worker/tool.h"

#define REQUEST_BYTES_MAX ((size_t)32 << 20)
#define ANSWER_BYTES_MAX ((size_t)16 << 20)
#define SCRATCH_BYTES_MAX ((size_t)256 << 20)

/* What the dialogue is held in: Claude models speak their own protocol, when a provider of theirs
 * is there; everything else speaks OpenAI's, which most servers do. */
static Api api_of(const Run *run, const GatewayProvider **ret_provider)
{
    Str model = run->version->spec.model;
    GatewayProtocol first = str_find(model, STR("claude")) >= 0 ? GATEWAY_ANTHROPIC
                                                                : GATEWAY_OPENAI;
    GatewayProtocol other = first == GATEWAY_OPENAI ? GATEWAY_ANTHROPIC : GATEWAY_OPENAI;
    int r = gateway_resolve(run->host->models, gateway_prices(run->host->gateway), model, first,
                            ret_provider, NULL);
    if (r == -ENOENT) {
        r = gateway_resolve(run->host->models, gateway_prices(run->host->gateway), model, other,
                            ret_provider, NULL);
        if (r != -ENOENT) first = other;
    }
    return first == GATEWAY_ANTHROPIC ? API_MESSAGES : API_CHAT;
}

/* Strings are said as they are, everything else as JSON. */
static int input_text(Run *run, Str *ret)
{
    const Json *v;
    int r = json_parse(&run->arena, run->task.input, NULL, &v, NULL);
    if (r < 0) return r;
    *ret = json_type(v) == JSON_STRING ? json_str(v) : run->task.input;
    return 0;
}

/* --- one answer ------------------------------------------------------------------------------- */

static int call_failed(Run *run, int status, Str body)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    arena_init(&arena, SCRATCH_BYTES_MAX);
    Str text = dialogue_error(&arena, body);
    bool again = status == 408 || status == 409 || status == 429 || status >= 500;
    return run_fail(run, again ? TASK_OUTCOME_FAILED_RETRYABLE : TASK_OUTCOME_FAILED_FINAL,
                    "model_failed", "the model answered HTTP %d: %.*s", status,
                    STR_ARG(str_sub(text.len ? text : body, 0, 1000)));
}

static int call_error(Run *run, int r)
{
    if (r == GATEWAY_E_CUT)
        return run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "model_cut",
                        "the model's answer was cut off");
    if (r > 0) r = -EIO;
    return r == -ESTALE ? -ECANCELED : r; /* stale: the run is being stopped for it */
}

/* Asks the model. *ret stays NULL when run->end was set instead. */
static int ask_wait(Run *run, Dialogue *dialogue, Api api, DialogueTurn **ret)
{
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    CLEANUP(buf_deinit) Buf request = { 0 };
    CLEANUP(gateway_memory_deinit) GatewayMemory memory;
    int64_t began_ms = clock_mono_ms();
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    buf_init(&request, REQUEST_BYTES_MAX);
    gateway_memory_init(&memory, ANSWER_BYTES_MAX);
    int r = dialogue_request(dialogue, api, &request);
    if (r < 0) return r;
    GatewayRequest call = { .api = api, .body = buf_str(&request) };
    GatewayReply reply = gateway_memory_reply(&memory);
    r = gateway_call_wait(run->gateway, &call, &reply);
    if (r != 0) return call_error(run, r);
    task_log_printf(&run->log, "model: HTTP %d, %" PRId64 " ms, %zu bytes", memory.status,
                    clock_mono_ms() - began_ms, memory.body.len);
    if (memory.status != 200) return call_failed(run, memory.status, buf_str(&memory.body));
    r = dialogue_answer(dialogue, api, &run->arena, &scratch, buf_str(&memory.body), ret);
    if (r == -EINVAL)
        return run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "model_failed", "%s", diag_text());
    return r;
}

/* --- the loop --------------------------------------------------------------------------------- */

/* One after the other, in the model's order: tools may depend on what an earlier one did. */
static int tools_wait(Run *run, DialogueTurn *turn)
{
    for (size_t i = 0; i < turn->calls_n; i++) {
        DialogueCall *call = &turn->calls[i];
        CLEANUP(arena_deinit) Arena scratch = { 0 };
        ToolResult result;
        arena_init(&scratch, SCRATCH_BYTES_MAX);
        ToolAsk ask = { call->name, call->arguments, call->id.len ? call->id : call->name, NULL };
        int r = tool_run_wait(run, &ask, &scratch, &result);
        if (r < 0) return r;
        call->result = arena_str(&run->arena, result.text);
        call->is_error = result.is_error;
        if (!call->result.ptr) return diag_set(-ENOMEM, "the dialogue is too long");
    }
    return 0;
}

/* Every round calls a tool at least, so the cap of tool calls bounds the rounds; the gateway, which
 * counts the calls, has refused or disarmed the request before that. */
static int rounds_wait(Run *run, Dialogue *dialogue, Api api)
{
    int64_t left = run->limits.tool_calls - MIN(run->task.spent.tool_calls, run->limits.tool_calls);
    for (int64_t round = 0; round <= left + 1; round++) {
        DialogueTurn *turn = NULL;
        int r = ask_wait(run, dialogue, api, &turn);
        if (r < 0 || !turn) return r;
        if (turn->cut) task_log_printf(&run->log, "the model's answer reached its output limit");
        if (turn->calls_n == 0) {
            r = memory_save_wait(run, dialogue, turn->text);
            return r == 0 ? run_succeed_wait(run, turn->text, true) : r;
        }
        r = tools_wait(run, turn);
        if (r < 0) return r;
    }
    run_fail(run, TASK_OUTCOME_CAPPED, "cap_exceeded", "the model did not stop calling tools");
    run->end.stopped_by = cap_reason_name(CAP_BY_TOOL_CALLS);
    return 0;
}

int run_builtin_wait(Run *run)
{
    const GatewayProvider *provider = NULL;
    Api api = api_of(run, &provider);
    Dialogue dialogue = { .spec = &run->version->spec, .cap_member = "max_completion_tokens" };
    if (provider && provider->cap_member) dialogue.cap_member = provider->cap_member;
    int r = input_text(run, &dialogue.input);
    if (r == 0) r = memory_load_wait(run, &dialogue);
    return r < 0 ? r : rounds_wait(run, &dialogue, api);
}
