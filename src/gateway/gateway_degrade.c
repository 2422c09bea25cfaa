/* What calls give up while a budget runs low or models do not answer; the rule is logic/degrade.h.
 */
#include "gateway/gateway_call.h"

#define BUDGETS_KNOW_MS 2000 /* for the answer; without one the call goes on as usual */
#define HOLD_LOOK_MS 250     /* a held call looks at its budgets and breakers so often */

const char *gateway_degraded_name(GatewayDegraded degraded)
{
    static const char *const names[GATEWAY_DEGRADED_N_] = { "cache", "model", "hold", "fallback",
                                                            "refuse" };
    assert(degraded < GATEWAY_DEGRADED_N_);
    return names[degraded];
}

void stats_degraded(Gateway *gateway, GatewayDegraded degraded)
{
    atomic_fetch_add(&gateway->degraded[degraded], 1);
}

bool call_is_degraded_by(const ModelCall *call, GatewayDegraded reason)
{
    return call->target->degraded_by == gateway_degraded_name(reason);
}

int call_know_budgets_wait(ModelCall *call)
{
    const DegradeConfig *config = &call->task->gateway->config->degrade;
    if (config->cache_at_ppm == 0 && config->model_at_ppm == 0 && config->hold_at_ppm == 0)
        return 0;
    return purse_know_wait(call->task->owner, &call->wake, BUDGETS_KNOW_MS);
}

void call_degrade(ModelCall *call)
{
    GatewayTask *task = call->task;
    const DegradeConfig *config = &task->gateway->config->degrade;
    int64_t settled_ppm = MAX(task->settled_ppm, purse_settled_ppm(task->owner));
    settled_ppm = MIN(MAX(settled_ppm, 0), PPM_WHOLE);
    task->step = degrade_step(config, task->step, PPM_WHOLE - settled_ppm);
    call->step = task->step;
    call->degrade = degrade_action(config, task->step, task->options.lane);
}

/* What one model has embedded says nothing to another. */
static bool is_exchangeable(const ModelCall *call)
{
    return call->info.api != API_EMBEDDINGS;
}

/* Of the model asked for and those that could stand in, the first that costs less. */
static bool place_smaller(ModelCall *call, Str model)
{
    CallTarget target;
    if (call_plan_resolve(call, model, &target) != 0) return false;
    if (!degrade_is_cheaper(target.price, call->targets[0].price)) return false;
    target.degraded = true;
    target.degraded_by = gateway_degraded_name(GATEWAY_DEGRADED_MODEL);
    call->targets[1] = call->targets[0]; /* still better than none */
    call->targets[0] = target;
    call->targets_n = 2;
    return true;
}

void call_plan_smaller(ModelCall *call)
{
    const Gateway *gateway = call->task->gateway;
    const GatewayTaskOptions *options = &call->task->options;
    const GatewayRoute *route = call_route(call);
    const char *small = gateway->config->degrade.small_model;
    assert(call->targets_n == 1);
    if (!is_exchangeable(call)) return;
    if (small && place_smaller(call, str_of(small))) return;
    if (str_eq(call->info.model, options->model))
        for (size_t i = 0; i < options->fallbacks_n; i++)
            if (place_smaller(call, options->fallbacks[i])) return;
    for (size_t i = 0; route && i < route->fallbacks_n; i++)
        if (place_smaller(call, str_of(route->fallbacks[i]))) return;
}

/* --- models that do not answer ---------------------------------------------------------------- */

static bool is_planned(const ModelCall *call, Str model)
{
    for (size_t i = 0; i < call->targets_n; i++)
        if (str_eq(call->targets[i].model, model)) return true;
    return false;
}

/* As call_plan_resolve; what there is to answer so far stays. */
static int resolve_quietly(ModelCall *call, Str model, CallTarget *ret)
{
    char message[CALL_MESSAGE_MAX];
    Problem problem = call->problem;
    const char *param = call->param;
    memcpy(message, call->message, sizeof message);
    int r = call_plan_resolve(call, model, ret);
    memcpy(call->message, message, sizeof message);
    call->problem = problem;
    call->param = param;
    return r;
}

/* The small model after all others, if it may be asked. */
static bool place_last(ModelCall *call)
{
    const DegradeConfig *config = &call->task->gateway->config->degrade;
    CallTarget target;
    if (!config->small_model || config->model_at_ppm == 0 || !is_exchangeable(call)) return false;
    Str small = str_of(config->small_model);
    if (call->targets_n == CALL_TARGETS_MAX || is_planned(call, small)) return false;
    if (resolve_quietly(call, small, &target) != 0) return false;
    if (!degrade_is_cheaper(target.price, call->targets[0].price)) return false;
    if (call_target_open(call, &target)) return false;
    target.degraded = true;
    target.degraded_by = gateway_degraded_name(GATEWAY_DEGRADED_MODEL);
    call->targets[call->targets_n++] = target;
    return true;
}

static bool fallback_answers(const ModelCall *call)
{
    for (size_t i = 1; i < call->targets_n; i++)
        if (!call_target_open(call, &call->targets[i])) return true;
    return false;
}

void call_degrade_unhealthy(ModelCall *call)
{
    const DegradeConfig *config = &call->task->gateway->config->degrade;
    call->unhealthy = DEGRADE_NONE;
    if (!call_target_open(call, &call->targets[0])) return;
    bool fallbacks = fallback_answers(call);
    bool small = !fallbacks && place_last(call);
    call->unhealthy = degrade_step_unhealthy(config, false, fallbacks, small);
    if (call->unhealthy <= call->step) return;
    call->step = call->unhealthy;
    call->degrade = degrade_action(config, call->step, call->task->options.lane);
}

/* --- holding back ----------------------------------------------------------------------------- */

static bool is_over(const GatewayTask *task)
{
    return task->totals.stop != GATEWAY_STOP_NONE || task_past_deadline(task);
}

static int refuse_held(ModelCall *call)
{
    bool upstream = call->unhealthy == DEGRADE_HOLD;
    return call_problem(call, PROBLEM_QUEUED, NULL, "%s: calls of the low lane are held back",
                        upstream ? "the model does not answer just now" : "the budget runs low");
}

/* Until the budget has recovered (a new day, a higher limit), or a model may be asked again.
 * Returns 0 (or it is to be refused: is_over), CALL_E_PROBLEM, HTTP_E_GONE or -ECANCELED. */
static int held_wait(ModelCall *call)
{
    GatewayTask *task = call->task;
    int64_t until_ms = call_deadline_ms(call);
    while (!is_over(task)) {
        int r = call_flags_moved(call) ? call_replan(call) : 0;
        if (r == 0) r = call_know_budgets_wait(call); /* other rules, a new day */
        if (r != 0) return r;
        call_degrade(call);
        call_degrade_unhealthy(call);
        if (!call->degrade.hold) return 0;
        if (clock_mono_ms() >= until_ms) return refuse_held(call);
        int64_t look_ms = MIN(until_ms, deadline_after(HOLD_LOOK_MS));
        r = call_pause_wait(call, &task->changed, look_ms);
        if (r == -ECANCELED || r == HTTP_E_GONE) return r;
    }
    return 0;
}

int call_hold_wait(ModelCall *call)
{
    while (call->degrade.hold) {
        if (!call->was_held) stats_degraded(call->task->gateway, GATEWAY_DEGRADED_HOLD);
        call->was_held = true;
        int r = held_wait(call);
        /* perhaps for the model that was asked for */
        if (r == 0) r = call_replan(call);
        if (r == 0) r = call_cache_wait(call);
        if (r != 0 || is_over(call->task)) return r;
    }
    return 0;
}
