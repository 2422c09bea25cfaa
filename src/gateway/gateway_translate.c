/* Models that are served in another API than the agent speaks; the rules are logic/translate.h. */
#include "base/diag.h"
#include "gateway/gateway_call.h"
#include "logic/translate.h"

#define BODY_BYTES_MAX (2 * GATEWAY_REQUEST_BYTES_MAX) /* escapes may differ */

Api api_spoken(const CallTarget *target, Api asked)
{
    assert(target->provider);
    if (target->provider->protocol == gateway_api_protocol(asked)) return asked;
    return target->provider->protocol == GATEWAY_ANTHROPIC ? API_MESSAGES : API_CHAT;
}

bool call_is_translated(const ModelCall *call)
{
    return call->target && call->target->api != call->info.api;
}

static int cannot(ModelCall *call, const CallTarget *target, const TranslateFault *fault)
{
    atomic_fetch_add(&call->task->gateway->untranslatable, 1);
    return call_problem(call, PROBLEM_INVALID, fault->param,
                        "\"%.*s\" is served by %s, in another API, and this request cannot be put "
                        "in it: %s",
                        STR_ARG(target->model), target->provider->name, fault->text);
}

/* What the provider will be sent is what admission reads. */
static int read_translated(ModelCall *call, CallTarget *target)
{
    const Json *json = NULL;
    RequestFault wrong = { 0 };
    RequestInfo *info = ARENA_NEW(&call->arena, RequestInfo);
    if (!info) return -ENOMEM;
    int r = json_parse(&call->arena, target->body, NULL, &json, NULL);
    if (r == 0) r = request_info_read(&call->arena, target->api, json, info, &wrong);
    target->info = info;
    if (r != REQUEST_E_INVALID) return r;
    TranslateFault fault = { .param = wrong.param };
    str_copy(fault.text, sizeof fault.text, str_of(wrong.message));
    return cannot(call, target, &fault);
}

int call_translate_request(ModelCall *call, CallTarget *target)
{
    target->info = &call->info;
    target->body = call->request->body;
    if (target->api == call->info.api) return 0;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, BODY_BYTES_MAX);
    const TranslateTarget to = { .model = target->model,
                                 .out_max = target->price->output_max,
                                 .cap_member = target->provider->cap_member };
    TranslateFault fault;
    int r = translate_request(&call->arena, call->info.api, call->json, target->api, &to, &body,
                              &fault);
    if (r == TRANSLATE_E_CANNOT) return cannot(call, target, &fault);
    if (r == 0) target->body = arena_str(&call->arena, buf_str(&body));
    if (r == 0) r = target->body.ptr ? read_translated(call, target) : -ENOMEM;
    if (r < 0)
        return call_problem(call, PROBLEM_TOO_LARGE, NULL, "the request is too large to translate");
    return r;
}

int call_translate_answer(ModelCall *call, const Json *body, Buf *out)
{
    TranslateAbout about = { .usage = &call->record.usage, .created_s = clock_real_ms() / 1000 };
    int r = translate_answer(&call->arena, call->target->api, body, call->info.api, &about, out);
    if (r == 0) return 0;
    atomic_fetch_add(&call->task->gateway->untranslated, 1);
    return call_problem(call, PROBLEM_UNREACHABLE, NULL,
                        "the answer of %s cannot be put in the API that was called",
                        call->target->provider->name);
}

Str call_translate_error(ModelCall *call, int status, Str body)
{
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 2 * GATEWAY_ERROR_BYTES_MAX);
    if (!translate_error(&call->arena, body, status, call->info.api, str_of(call->record.id), &out))
        return STR_NULL;
    return arena_str(&call->arena, buf_str(&out));
}
