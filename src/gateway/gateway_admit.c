#include <stdio.h>

#include "base/diag.h"
#include "gateway/gateway_call.h"
#include "gateway/gateway_edit.h"

#define WINDOW_WIDE 1000000 /* tokens, of the beta of that name */

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
    if (r == 0) r = request_info_read(&call->arena, call->request->api, body, &call->info, &fault);
    call->json = body;
    if (!call->asked_json) call->asked_json = body;
    if (r == REQUEST_E_INVALID)
        return call_problem(call, PROBLEM_INVALID, fault.param, "%s", fault.message);
    if (r < 0)
        return call_problem(call, PROBLEM_TOO_LARGE, NULL, "the request is too large to read");
    return 0;
}

/* Where the provider computes: Anthropic is asked in the request (or its account says), OpenAI by
 * the host. A region that costs nothing more needs no factor. */
static Region region_of_call(const CallTarget *target)
{
    Str url = str_of(target->provider->base_url);
    Region region = target->info->region;
    if (target->api == API_MESSAGES) return region;
    if (str_find(url, STR("://us.api.openai.com")) >= 0) region = REGION_US;
    else if (str_find(url, STR("://eu.api.openai.com")) >= 0) region = REGION_EU;
    else return REGION_GLOBAL;
    return target->price->uplift[region] ? region : REGION_GLOBAL;
}

static PriceTerms terms_of(const CallTarget *target)
{
    const RequestInfo *info = target->info;
    int64_t timeout_ms = target->provider->timeout_ms;
    return (PriceTerms){
        .cache_write = info->cache_write,
        .media = info->other_media,
        .images = info->images,
        .server_uses = MAX(info->server_uses_max, 0),
        .server_tools = info->server_kinds,
        .search_size = info->search_size,
        .service = call_pins_service(target) ? SERVICE_STANDARD : info->service,
        .region = region_of_call(target),
        .seconds = ((timeout_ms ? timeout_ms : TIMEOUT_DEFAULT_MS) + 999) / 1000,
    };
}

bool call_pins_service(const CallTarget *target)
{
    return edit_pins_service(target->info, str_of(target->provider->base_url),
                             target->price->others[SERVICE_PRIORITY] != NULL);
}

static int refuse_price(ModelCall *call, const CallTarget *target, const char *lacks)
{
    static const struct {
        const char *lacks, *param, *what;
    } words[] = {
        { "region", "inference_geo", "what it costs in that region is not known" },
        { "media", NULL, "what audio, images or files cost it is not known" },
        { "images", NULL,
          "how many tokens an image is billed as is not known: add imageTokensMax to its entry "
          "under `prices` in gantry.yaml" },
        { "tools", "tools",
          "the price of a tool that the provider runs itself is not known: web search, file search "
          "and code interpreter can have one" },
    };
    for (size_t i = 0; i < ARRAY_N(words); i++)
        if (strcmp(lacks, words[i].lacks) == 0)
            return call_problem(call, PROBLEM_PRICE, words[i].param, "\"%.*s\": %s",
                                STR_ARG(target->model), words[i].what);
    return call_problem(call, PROBLEM_PRICE, lacks,
                        "the price of service tier \"%.*s\" is not known",
                        STR_ARG(target->info->service_tier));
}

/* Of input that is not text in the body only the model's window is a bound. An image is billed as
 * so many tokens at most, whatever its bytes. */
static bool is_opaque(const CallTarget *target)
{
    const RequestInfo *info = target->info;
    if (info->other_media || info->hides_input) return true;
    return info->images > 0 && price_image_tokens(target->price) == 0;
}

int call_check_terms(ModelCall *call, CallTarget *target)
{
    const RequestInfo *info = target->info;
    target->terms = terms_of(target);
    const char *lacks = price_lacks(target->price, &target->terms);
    if (is_opaque(target) && target->price->input_max == 0)
        return call_problem(
            call, PROBLEM_PRICE, NULL,
            "part of the input is not in the request as text, and how much \"%.*s\" "
            "takes at most is not known: add maxInputTokens to its entry under "
            "`prices` in gantry.yaml",
            STR_ARG(target->model));
    if (info->prediction)
        return call_problem(
            call, PROBLEM_PRICE, "prediction",
            "rejected predictions are billed without a bound, so no budget could hold");
    if (info->server_tools > 0 && info->server_uses_max < 0)
        return call_problem(call, PROBLEM_INVALID, "tools",
                            "a tool that the provider runs itself needs a bound (%s), or no budget "
                            "could hold",
                            info->api == API_RESPONSES ? "max_tool_calls" : "max_uses");
    return lacks ? refuse_price(call, target, lacks) : 0;
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
    default:
        return call_problem(call, PROBLEM_CAP, NULL,
                            "the task's time is up (secondsPerTask, or its deadline)");
    }
}

/* The model's window, which its caller may have asked to be wider than the list has it. */
static int64_t window_of(const ModelCall *call)
{
    int64_t listed = call->target->price->input_max;
    bool wider = str_find(call->request->anthropic_beta, STR("context-1m")) >= 0;
    return wider && listed > 0 ? MAX(listed, WINDOW_WIDE) : listed;
}

/* The most input the call can bill. */
static int64_t in_ub_of(const ModelCall *call)
{
    const CallTarget *target = call->target;
    const RequestInfo *info = target->info;
    int64_t images;
    int64_t in_ub = request_in_ub((int64_t)target->body.len, info->messages, info->tool_prompts,
                                  is_opaque(target), window_of(call));
    if (__builtin_mul_overflow(info->images, price_image_tokens(target->price), &images))
        return INT64_MAX;
    return money_add(in_ub, images);
}

static CapCall cap_question(const ModelCall *call)
{
    const RequestInfo *info = call->target->info;
    const Price *price = call->target->price;
    return (CapCall){
        .price = price,
        .in_ub = in_ub_of(call),
        .out_cap = info->out_cap,
        .out_max = price->output_max,
        .out_min = info->out_min,
        .times = excess_times(call->task->gateway, call->target->provider, call->target->model),
        .n = info->n,
        .no_output = info->api == API_EMBEDDINGS || info->no_output,
        .has_tools = info->has_tools,
        .terms = call->target->terms,
    };
}

static void amount_text(BudgetUnit unit, int64_t amount, char out[MONEY_TEXT_MAX + 8])
{
    char usd[MONEY_TEXT_MAX];
    if (unit == BUDGET_USD) snprintf(out, MONEY_TEXT_MAX + 8, "$%s", money_text(amount, usd));
    else snprintf(out, MONEY_TEXT_MAX + 8, "%" PRId64 " tokens", amount);
}

static int refuse_by_budget(ModelCall *call, const BudgetScope *scope)
{
    GatewayTotals *totals = &call->task->totals;
    char text[BUDGET_SCOPE_TEXT_MAX], limit[MONEY_TEXT_MAX + 8], used[MONEY_TEXT_MAX + 8];
    const BudgetPurse *state = purse_state(call->task->owner, scope);
    budget_scope_text(scope, text);
    if (totals->stopped_by == CAP_BY_NOTHING)
        snprintf(totals->stopped_by_budget, sizeof totals->stopped_by_budget, "budget:%s", text);
    task_note_cap(call->task, CAP_BY_BUDGET);
    call->over_budget = true;
    amount_text(scope->unit, state->limit, limit);
    amount_text(scope->unit, state->settled_all, used);
    return call_problem(call, PROBLEM_CAP, NULL,
                        "the budget %s is exhausted: %s of %s is spent, too little is left for "
                        "this call",
                        text, used, limit);
}

static CapHold hold_min(CapHold a, CapHold b)
{
    return (CapHold){ .tokens = MIN(a.tokens, b.tokens), .nusd = MIN(a.nusd, b.nusd) };
}

/* What one call may hold by itself. */
static CapHold call_max(const GatewayTask *task)
{
    const CapHold *max = &task->options.call_max;
    return (CapHold){ .tokens = max->tokens ? max->tokens : CAP_NONE,
                      .nusd = max->nusd ? max->nusd : CAP_NONE };
}

static int refuse_by_call_max(ModelCall *call, const CapHold *least)
{
    const CapHold *max = &call->task->options.call_max;
    char needs[MONEY_TEXT_MAX], may[MONEY_TEXT_MAX];
    if (max->tokens && least->tokens > max->tokens)
        return call_problem(call, PROBLEM_CAP, NULL,
                            "a call with this key may take %" PRId64
                            " tokens (tokensPerCall), this one takes up to %" PRId64,
                            max->tokens, least->tokens);
    return call_problem(call, PROBLEM_CAP, NULL,
                        "a call with this key may cost $%s (usdPerCall), this one up to $%s",
                        money_text(max->nusd, may), money_text(least->nusd, needs));
}

/* Caps of the task and budgets of many, in one step: what both allow is reserved in both. */
static int reserve(ModelCall *call, const CapCall *question, PurseWaiter *waiter)
{
    GatewayTask *task = call->task;
    CapNeed need;
    CapHold room;
    const BudgetScope *by = NULL;
    int64_t now_ms = clock_mono_ms();
    call->verdict = cap_look(&task->options.limits, &task->totals.caps, question, now_ms, &need);
    if (call->verdict.kind != CAP_ADMIT) purse_leave(task->owner, waiter);
    if (call->verdict.kind == CAP_REFUSE) return refuse_by_cap(call, call->verdict.reason);
    if (call->verdict.kind == CAP_WAIT) return 0;
    CapHold most = call_max(task);
    if (need.min.tokens > most.tokens || need.min.nusd > most.nusd) {
        purse_leave(task->owner, waiter);
        return refuse_by_call_max(call, &need.min);
    }
    BudgetNeed wish = { .min = need.min,
                        .good = hold_min(need.good, most),
                        .want = hold_min(need.want, most) };
    BudgetVerdict v = purse_try(task->owner, waiter, &wish, &room, &by);
    if (v == BUDGET_EXHAUSTED) return refuse_by_budget(call, by);
    if (v == BUDGET_WAIT) call->verdict = (CapVerdict){ .kind = CAP_WAIT, .reason = CAP_BY_BUDGET };
    if (v == BUDGET_WAIT) return 0;
    room = hold_min(room, most);
    call->verdict = cap_admit_within(&task->options.limits, &task->totals.caps, question, &room,
                                     now_ms);
    assert(call->verdict.kind == CAP_ADMIT);
    purse_take(task->owner, waiter, &call->verdict.hold, &call->purse);
    call->reserved_real_ms = purse_booked_ms(&call->purse);
    call->held = true;
    return 0;
}

static int admit_once(ModelCall *call, const CapCall *question, PurseWaiter *waiter)
{
    GatewayTask *task = call->task;
    if (task->totals.stop != GATEWAY_STOP_NONE)
        return call_problem(call, task_stop_problem(task->totals.stop), NULL, "%s",
                            task_stop_text(task->totals.stop));
    if (call_flags_moved(call)) return CALL_E_FLAGS;
    if (task_past_deadline(task)) return refuse_by_cap(call, CAP_BY_SECONDS);
    return reserve(call, question, waiter);
}

static int admit_wait(ModelCall *call, PurseWaiter *waiter)
{
    GatewayTask *task = call->task;
    CapCall question = cap_question(call);
    int64_t until_ms = call_deadline_ms(call);
    for (bool waited = false;; waited = true) {
        int r = admit_once(call, &question, waiter);
        if (r != 0 || call->held) return r;
        bool budget = call->verdict.reason == CAP_BY_BUDGET;
        if (!waited) atomic_fetch_add(&task->gateway->waited, 1);
        bool lent = !budget && task->lent_n > 0;
        if (lent) task_lent_wait(task, true);
        r = call_pause_wait(call, budget ? &call->wake : &task->changed, until_ms);
        if (lent) task_lent_wait(task, false);
        if (r == -ECANCELED || r == HTTP_E_GONE) return r;
        if (r == -ETIMEDOUT && !task_past_deadline(task))
            return call_problem(call, PROBLEM_QUEUED, NULL, "%s",
                                budget ? "other calls hold the rest of the budget"
                                       : "the task's other calls hold the rest of its budget");
    }
}

int call_admit_wait(ModelCall *call)
{
    PurseWaiter waiter;
    purse_waiter_init(&waiter, call->task->options.lane, &call->wake);
    int r = admit_wait(call, &waiter);
    purse_leave(call->task->owner, &waiter);
    return r;
}
