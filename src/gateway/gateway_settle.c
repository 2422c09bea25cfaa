#include <stdarg.h>
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "gateway/gateway_call.h"

int call_problem(ModelCall *call, Problem problem, const char *param, const char *fmt, ...)
{
    char text[CALL_MESSAGE_MAX]; /* the arguments may point into the old message */
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (call->target) (void)key_mask(call->target->provider, text, strlen(text));
    str_copy(call->message, sizeof call->message, str_of(text));
    call->problem = problem;
    call->param = param;
    return CALL_E_PROBLEM;
}

void call_note_model(ModelCall *call, Str model)
{
    if (str_empty(model) || !str_empty(call->record.model_used)) return;
    call->record.model_used = arena_str(&call->arena, str_sub(model, 0, GATEWAY_MODEL_NAME_MAX));
}

void call_note_tools(ModelCall *call, const Str *names, size_t n)
{
    GatewayCall *record = &call->record;
    for (size_t i = 0; i < n && record->tool_names_n < GATEWAY_TOOL_NAMES_MAX; i++) {
        Str name = arena_str(&call->arena, str_sub(names[i], 0, GATEWAY_MODEL_NAME_MAX));
        if (name.ptr) record->tool_names[record->tool_names_n++] = name;
    }
}

static void add_usage(Usage *sum, const Usage *usage)
{
    sum->input_tokens = money_add(sum->input_tokens, usage->input_tokens);
    sum->output_tokens = money_add(sum->output_tokens, usage->output_tokens);
    sum->cached_tokens = money_add(sum->cached_tokens, usage->cached_tokens);
    sum->cache_write_5m_tokens = money_add(sum->cache_write_5m_tokens,
                                           usage->cache_write_5m_tokens);
    sum->cache_write_1h_tokens = money_add(sum->cache_write_1h_tokens,
                                           usage->cache_write_1h_tokens);
    sum->reasoning_tokens = money_add(sum->reasoning_tokens, usage->reasoning_tokens);
    for (size_t i = 0; i < SERVER_N_; i++)
        sum->server_calls[i] = money_add(sum->server_calls[i], usage->server_calls[i]);
    sum->tool_calls = money_add(sum->tool_calls, usage->tool_calls);
    sum->valid |= usage->valid;
}

/* Tool calls count even when the tokens are not known: the agent may have seen them. */
static CapHold booked(const ModelCall *call, Charge charge)
{
    const Usage *usage = &call->record.usage;
    if (charge == CHARGE_NOTHING) return (CapHold){ 0 };
    if (charge == CHARGE_HOLD) return call->verdict.hold;
    assert(usage->valid);
    PriceTerms terms = call->target->terms;
    terms.seconds = (clock_mono_us() - call->started_us + 999999) / 1000000;
    /* no call is dearer than that, whatever its provider says: sums must not overflow */
    int64_t tokens = money_add(usage->input_tokens, usage->output_tokens);
    int64_t nusd = price_cost(call->target->price, usage, &terms);
    return (CapHold){ .tokens = MIN(tokens, CAP_CALL_MAX), .nusd = MIN(nusd, CAP_CALL_MAX) };
}

/* A model that searches before each answer is paid for it, and its usage does not say so. */
static void note_searches(ModelCall *call)
{
    const RequestInfo *info = call->target->info;
    int64_t *searches = &call->record.usage.server_calls[SERVER_WEB_SEARCH];
    if (info->api != API_CHAT || !(info->server_kinds & 1u << SERVER_WEB_SEARCH)) return;
    if (call->record.usage.valid) *searches = MAX(*searches, 1);
}

/* What was held did not do. More is held for that model from now on. */
static void note_excess(const ModelCall *call)
{
    const GatewayCall *record = &call->record;
    Gateway *gateway = call->task->gateway;
    const GatewayProvider *provider = call->target->provider;
    int64_t times = excess_note(gateway, provider, call->target->model, &record->hold,
                                &record->charged);
    atomic_fetch_add(&gateway->over_hold, 1);
    LOG_WARN("model call cost more than was held: correct maxInputTokens, maxOutputTokens or the "
             "prices of the model, whose calls hold a multiple until then",
             LOG_STR("model", record->model), LOG_INT("times", times),
             LOG_INT("heldNusd", record->hold.nusd), LOG_INT("costNusd", record->charged.nusd),
             LOG_INT("heldTokens", record->hold.tokens), LOG_INT("tokens", record->charged.tokens));
}

static void settle(ModelCall *call, Charge charge)
{
    GatewayTask *task = call->task;
    GatewayCall *record = &call->record;
    assert(call->held);
    call->held = false;
    record->full_hold = charge == CHARGE_HOLD;
    note_searches(call);
    record->charged = booked(call, charge);
    purse_settle(task->gateway->purse, &call->purse, &record->charged);
    bool within = true;
    if (charge == CHARGE_NOTHING) cap_release(&task->totals.caps, &call->verdict.hold);
    else
        within = cap_settle(&task->totals.caps, &call->verdict.hold, &record->charged,
                            record->usage.tool_calls);
    if (!within) note_excess(call);
    if (record->usage.shrunk) LOG_WARN("reported usage shrank", LOG_STR("model", record->model));
    task->tools_asked = money_add(task->tools_asked, record->usage.tool_calls);
    add_usage(&task->totals.usage, &record->usage);
    task->totals.cost_nusd = money_add(task->totals.cost_nusd, record->charged.nusd);
    atomic_fetch_sub(&task->gateway->in_flight, 1);
    cond_broadcast(&task->changed);
}

static int record_failed(ModelCall *call, int r)
{
    if (r == -ESTALE) {
        gateway_task_stop(call->task, GATEWAY_STOP_STALE);
        call_problem(call, PROBLEM_STOPPED, NULL, "%s", task_stop_text(GATEWAY_STOP_STALE));
        stats_refused(call->task->gateway, call->problem);
        return r;
    }
    LOG_ERROR("model call not recorded", LOG_CSTR("call", call->record.id),
              LOG_CSTR("why", diag_text_or(r)));
    call_problem(call, PROBLEM_UNRECORDED, NULL,
                 "the call could not be recorded, so its answer is withheld");
    stats_refused(call->task->gateway, call->problem);
    return r;
}

/* Providers' own words are left out: they may quote what the agent sent. */
static void log_failure(const ModelCall *call)
{
    const GatewayCall *record = &call->record;
    bool ours = record->outcome == GATEWAY_UNREACHED || record->outcome == GATEWAY_TIMEOUT;
    if (record->outcome == GATEWAY_COMPLETE || record->outcome == GATEWAY_STOPPED) return;
    LOG_WARN("model call failed", LOG_CSTR("outcome", gateway_outcome_name(record->outcome)),
             LOG_STR("provider", record->provider), LOG_STR("model", record->model),
             LOG_INT("status", record->status), LOG_CSTR("call", record->id),
             LOG_STR("requestId", record->request_id),
             LOG_STR("upstreamRequestId", record->upstream_id),
             LOG_CSTR("why", ours ? call->message : ""));
    if (!ours || !call->task->options.sink->note) return;
    /* the task's own log says it too: who looks there sees no more than the agent's "502" */
    char text[CALL_MESSAGE_MAX + 32];
    snprintf(text, sizeof text, "model call failed: %s", call->message);
    call->task->options.sink->note(call->task->options.sink->ctx, text);
}

static int record_wait(ModelCall *call)
{
    const GatewaySink *sink = call->task->options.sink;
    Journaled journaled;
    call->record.client_gone = call_has_left(call);
    call->record.duration_us = clock_mono_us() - call->started_us;
    fiber_shield();
    call_journal_begin_wait(call, &journaled);
    diag_clear();
    int r = sink->call_record_wait(sink->ctx, &call->record);
    call_journal_done(call, &journaled, r == 0);
    fiber_unshield();
    assert(r <= 0);
    /* who follows is given call->recording, not what the cache has */
    call->answered = r == 0 && call->record.answer == &call->recording && !call->recording.overflow;
    return r < 0 ? record_failed(call, r) : 0;
}

/* A smaller model that was planned first is counted with the plan. */
static void note_stand_in(const ModelCall *call)
{
    Gateway *gateway = call->task->gateway;
    if (call_is_degraded_by(call, GATEWAY_DEGRADED_FALLBACK))
        stats_degraded(gateway, GATEWAY_DEGRADED_FALLBACK);
    if (call->target != call->targets && call_is_degraded_by(call, GATEWAY_DEGRADED_MODEL))
        stats_degraded(gateway, GATEWAY_DEGRADED_MODEL);
}

int call_close_wait(ModelCall *call, GatewayOutcome outcome, Charge charge)
{
    GatewayCall *record = &call->record;
    settle(call, charge);
    record->outcome = outcome;
    record->duration_us = clock_mono_us() - call->started_us;
    if (outcome != GATEWAY_COMPLETE) record->error = str_of(call->message);
    if (call->keep_answer && outcome == GATEWAY_COMPLETE && !call->unreadable)
        record->answer = &call->recording;
    stats_call(call->task->gateway, record);
    if (outcome == GATEWAY_COMPLETE) note_stand_in(call);
    call_permit_done(call, charge);
    log_failure(call);
    int r = record_wait(call);
    if (r == 0) call_cache_keep(call);
    call_cache_land(call);
    return r;
}

int call_close_served_wait(ModelCall *call)
{
    GatewayTask *task = call->task;
    GatewayCall *record = &call->record;
    assert(!call->held && !call->upstream && (record->cached || record->replayed));
    assert(record->charged.tokens == 0 && record->charged.nusd == 0);
    CapState *caps = &task->totals.caps;
    caps->tool_calls = money_add(caps->tool_calls, record->usage.tool_calls);
    task->tools_asked = money_add(task->tools_asked, record->usage.tool_calls);
    add_usage(&task->totals.usage, &record->usage);
    record->outcome = GATEWAY_COMPLETE;
    return record_wait(call);
}

int call_close_refused_wait(ModelCall *call)
{
    GatewayCall *record = &call->record;
    assert(!call->held && !call->upstream);
    *record = (GatewayCall){ 0 };
    call->target = call->targets;
    call_record_begin(call);
    record->hold = (CapHold){ 0 };
    record->outcome = GATEWAY_REFUSED;
    /* For want of an upstream it is an error like any, which counts against the version. */
    const char *over = gateway_degraded_name(GATEWAY_DEGRADED_REFUSE);
    record->degraded_by = call->over_budget ? over : NULL;
    record->error = str_of(call->message);
    if (!call->begun) record->status = problem_status(call->problem);
    return record_wait(call);
}

/* The problem, the outcome and the charge of a call that ended with r. */
static GatewayOutcome judge(ModelCall *call, int r, Charge *ret_charge)
{
    GatewayTask *task = call->task;
    bool sent = call->abort.sent;
    *ret_charge = sent ? CHARGE_HOLD : CHARGE_NOTHING;
    if (r == -ECONNABORTED && call->switched_off && !task->totals.stop) {
        call_problem(call, PROBLEM_SWITCHED_OFF, NULL, "a flag has switched this call off");
        return GATEWAY_STOPPED;
    }
    if (r == -ECONNABORTED || r == -ECANCELED) {
        GatewayStop stop = task->totals.stop ? task->totals.stop : GATEWAY_STOP_CANCELLED;
        call_problem(call, task_stop_problem(stop), NULL, "%s", task_stop_text(stop));
        return GATEWAY_STOPPED;
    }
    if (r == -ETIMEDOUT && task_past_deadline(task)) {
        task_note_cap(task, CAP_BY_SECONDS);
        call_problem(call, PROBLEM_CAP, NULL,
                     "the task's time is up (secondsPerTask, or its deadline)");
        return sent ? GATEWAY_TIMEOUT : GATEWAY_UNREACHED;
    }
    if (r == -ETIMEDOUT) {
        call_problem(call, PROBLEM_TIMEOUT, NULL, "%s did not answer in time: %s",
                     call->target->provider->name, diag_text_or(r));
        return sent ? GATEWAY_TIMEOUT : GATEWAY_UNREACHED;
    }
    if (call->upstream || call->abort.served) {  /* it had begun to answer */
        bool quietly = r > 0 && !diag_text()[0]; /* closed in good order, but before its end */
        call_problem(call, PROBLEM_UNREACHABLE, NULL, "the answer of %s was cut off: %s",
                     call->target->provider->name,
                     quietly ? "it ended without its last event" : diag_text_or(r));
        return GATEWAY_CUT;
    }
    /* Before any byte of an answer nothing was served, and a provider that fails does not bill. */
    *ret_charge = CHARGE_NOTHING;
    call_problem(call, PROBLEM_UNREACHABLE, NULL, "%s could not be reached: %s",
                 call->target->provider->name, diag_text_or(r));
    return GATEWAY_UNREACHED;
}

int call_fail_wait(ModelCall *call, int r)
{
    Charge charge;
    GatewayOutcome outcome = judge(call, r, &charge);
    call->record.status = call->begun ? call->record.status : problem_status(call->problem);
    return call_close_wait(call, outcome, charge);
}
