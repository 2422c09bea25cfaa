#include "base/diag.h"
#include "gateway/gateway_call.h"

static bool is_planned(const ModelCall *call, Str model)
{
    for (size_t i = 0; i < call->targets_n; i++)
        if (str_eq(call->targets[i].model, model)) return true;
    return false;
}

static GatewayProtocol other_protocol(GatewayProtocol protocol)
{
    return protocol == GATEWAY_OPENAI ? GATEWAY_ANTHROPIC : GATEWAY_OPENAI;
}

/* A provider that speaks the agent's API is better than one that has to be translated to. Returns
 * 0, CALL_E_PROBLEM, or as gateway_resolve. */
static int resolve(ModelCall *call, Str model, CallTarget *ret)
{
    const GatewayConfig *config = call->task->gateway->config;
    GatewayProtocol own = gateway_api_protocol(call->info.api);
    const PriceTable *prices = price_list_table(call->prices, config->prices);
    *ret = (CallTarget){ .model = model };
    int r = gateway_resolve(config, prices, model, own, &ret->provider, &ret->price);
    if (r == -ENOENT && call->info.api != API_EMBEDDINGS &&
        gateway_route(config, model, other_protocol(own)))
        r = gateway_resolve(config, prices, model, other_protocol(own), &ret->provider,
                            &ret->price);
    if (r != 0) return r;
    ret->api = api_spoken(ret, call->info.api);
    return call_translate_request(call, ret);
}

const GatewayRoute *call_route(const ModelCall *call)
{
    const GatewayConfig *config = call->task->gateway->config;
    GatewayProtocol own = gateway_api_protocol(call->info.api);
    const GatewayRoute *route = gateway_route(config, call->info.model, own);
    return route ? route : gateway_route(config, call->info.model, other_protocol(own));
}

static int plan_asked(ModelCall *call)
{
    CallTarget target;
    int r = resolve(call, call->info.model, &target);
    if (r == -ENOENT) return call_problem(call, PROBLEM_MODEL, "model", "%s", diag_text());
    if (r == -ENODATA) return call_problem(call, PROBLEM_PRICE, "model", "%s", diag_text());
    if (r == 0) r = call_check_terms(call, &target);
    if (r == 0) call->targets[call->targets_n++] = target;
    return r;
}

int call_plan_resolve(ModelCall *call, Str model, CallTarget *ret)
{
    if (!task_model_on(call->task, model)) return -EACCES;
    int r = resolve(call, model, ret);
    return r == 0 ? call_check_terms(call, ret) : r;
}

/* A fallback that cannot take this call is passed over. */
static void plan_fallback(ModelCall *call, Str model)
{
    CallTarget target;
    if (call->targets_n == CALL_TARGETS_MAX || is_planned(call, model)) return;
    if (call_plan_resolve(call, model, &target) != 0) return;
    target.degraded = true;
    target.degraded_by = gateway_degraded_name(GATEWAY_DEGRADED_FALLBACK);
    call->targets[call->targets_n++] = target;
}

/* The version's own fallbacks stand in for its model, the route's for what the route serves. */
static void plan_fallbacks(ModelCall *call)
{
    const GatewayTaskOptions *options = &call->task->options;
    const GatewayRoute *route = call_route(call);
    if (str_eq(call->info.model, options->model))
        for (size_t i = 0; i < options->fallbacks_n; i++)
            plan_fallback(call, options->fallbacks[i]);
    for (size_t i = 0; route && i < route->fallbacks_n; i++)
        plan_fallback(call, str_of(route->fallbacks[i]));
}

int call_plan(ModelCall *call)
{
    assert(call->targets_n == 0);
    bool on = task_model_on(call->task, call->info.model);
    int r = on ? plan_asked(call) : 0;
    if (r != 0) return r;
    call_degrade(call);
    if (call->degrade.small_model && on) call_plan_smaller(call);
    plan_fallbacks(call);
    if (call->targets_n == 0)
        return call_problem(call, PROBLEM_SWITCHED_OFF, "model",
                            "a flag has switched the model \"%.*s\" off",
                            STR_ARG(call->info.model));
    call_degrade_unhealthy(call);
    call->problem = PROBLEM_NONE; /* of fallbacks passed over */
    call->target = &call->targets[0];
    return 0;
}
