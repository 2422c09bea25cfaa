#include <stdio.h>

#include "base/diag.h"
#include "gateway/gateway_call.h"

int call_read(ModelCall *call)
{
    const Json *body = NULL;
    RequestFault fault = { 0 };
    diag_clear();
    int r = json_parse(&call->arena, call->request->body, NULL, &body, NULL);
    if (r == -EINVAL)
        return call_problem(call, PROBLEM_INVALID, NULL, "the body is not valid JSON: %s",
                            diag_text());
    if (r == 0 && json_type(body) != JSON_OBJECT)
        return call_problem(call, PROBLEM_INVALID, NULL, "the body is not a JSON object");
    call->document = body;
    if (r == 0) r = request_info_read(&call->arena, call->request->api, body, &call->info, &fault);
    call->json = body;
    if (r == REQUEST_E_INVALID)
        return call_problem(call, PROBLEM_INVALID, fault.param, "%s", fault.message);
    if (r < 0)
        return call_problem(call, PROBLEM_TOO_LARGE, NULL, "the request is too large to read");
    return 0;
}

/* Tiers whose rates are those of the price table, or lower. */
static bool tier_is_priced(Str tier)
{
    static const char *const priced[] = {
        "", "auto", "default", "flex", "standard", "standard_only"
    };
    for (size_t i = 0; i < ARRAY_N(priced); i++)
        if (str_eq(tier, str_of(priced[i]))) return true;
    return false;
}

int call_check_terms(ModelCall *call, const CallTarget *target)
{
    const RequestInfo *info = &call->info;
    if (!tier_is_priced(info->service_tier))
        return call_problem(call, PROBLEM_PRICE, "service_tier",
                            "the price of service tier \"%.*s\" is not known",
                            STR_ARG(info->service_tier));
    if (info->prediction)
        return call_problem(
            call, PROBLEM_PRICE, "prediction",
            "rejected predictions are billed without a bound, so no budget could hold");
    if (info->server_tools == 0) return 0;
    if (!info->web_search_only)
        return call_problem(
            call, PROBLEM_PRICE, "tools",
            "of the tools that the provider runs itself only web search has a known "
            "price");
    if (info->server_uses_max < 0)
        return call_problem(call, PROBLEM_INVALID, "tools",
                            "web search needs a bound (max_uses), or no budget could hold");
    if (target->price->web_search == 0)
        return call_problem(
            call, PROBLEM_PRICE, "tools",
            "the price of a web search by \"%.*s\" is not known: add it to `prices` "
            "in gantry.yaml",
            STR_ARG(target->model));
    return 0;
}

static int refuse_by_cap(ModelCall *call, CapReason reason)
{
    const CapLimits *limits = &call->task->options.limits;
    const CapState *caps = &call->task->totals.caps;
    char limit[MONEY_TEXT_MAX], used[MONEY_TEXT_MAX];
    task_note_cap(call->task, reason);
    switch (reason) {
    case CAP_BY_TOKENS:
        return call_problem(call, PROBLEM_CAP, NULL,
                            "tokensPerTask is exhausted: %" PRId64 " of %" PRId64
                            " tokens are used, too few are left for this call",
                            caps->settled_tokens, limits->tokens);
    case CAP_BY_TOOL_CALLS:
        return call_problem(call, PROBLEM_CAP, NULL,
                            "toolCallsPerTask is exhausted: %" PRId64 " of %" PRId64 " are made",
                            caps->tool_calls, limits->tool_calls);
    case CAP_BY_USD:
        return call_problem(call, PROBLEM_CAP, NULL,
                            "usdPerTask is exhausted: $%s of $%s is spent, too little is left for "
                            "this call",
                            money_text(caps->settled_nusd, used),
                            money_text(limits->usd_nusd, limit));
    default: return call_problem(call, PROBLEM_CAP, NULL, "the task's time is up (secondsPerTask)");
    }
}

static CapCall cap_question(const ModelCall *call)
{
    const RequestInfo *info = &call->info;
    const Price *price = call->target->price;
    return (CapCall){
        .price = price,
        .in_ub = request_in_ub((int64_t)call->request->body.len, info->messages, info->has_tools,
                               info->has_media || info->hides_input, price->input_max),
        .out_cap = info->out_cap,
        .out_max = price->output_max,
        .n = info->n,
        .no_output = info->api == API_EMBEDDINGS,
        .has_tools = info->has_tools,
        .terms = { .cache_write = info->cache_write,
                   .audio = info->has_media,
                   .web_searches = MAX(info->server_uses_max, 0) },
    };
}

static int admit_once(ModelCall *call, const CapCall *question)
{
    GatewayTask *task = call->task;
    if (task->totals.stop != GATEWAY_STOP_NONE)
        return call_problem(call, PROBLEM_STOPPED, NULL, "%s", task_stop_text(task->totals.stop));
    int r = call_check_switches(call);
    if (r != 0) return r;
    if (task_past_deadline(task)) return refuse_by_cap(call, CAP_BY_SECONDS);
    call->verdict = cap_admit(&task->options.limits, &task->totals.caps, question, clock_mono_ms());
    if (call->verdict.kind == CAP_REFUSE) return refuse_by_cap(call, call->verdict.reason);
    call->held = call->verdict.kind == CAP_ADMIT;
    return 0;
}

int call_admit_wait(ModelCall *call)
{
    GatewayTask *task = call->task;
    CapCall question = cap_question(call);
    int64_t patience_ms = call->request->timeout_ms ? call->request->timeout_ms
                                                    : GATEWAY_PATIENCE_MS;
    int64_t until_ms = MIN(deadline_after(patience_ms), task->wall_deadline_ms);
    for (bool waited = false;; waited = true) {
        int r = admit_once(call, &question);
        if (r != 0 || call->held) return r;
        if (!waited) atomic_fetch_add(&task->gateway->waited, 1);
        r = cond_wait(&task->changed, until_ms);
        if (r == -ECANCELED) return r;
        if (call->reply->gone && call->reply->gone(call->reply->ctx)) return HTTP_E_GONE;
        if (r == -ETIMEDOUT && !task_past_deadline(task))
            return call_problem(call, PROBLEM_QUEUED, NULL,
                                "the task's other calls hold the rest of its budget");
    }
}
