#include "gateway/gateway_stats.h"

#include "gateway/gateway_private.h"

const char *gateway_refused_name(GatewayRefused refused)
{
    static const char *const names[GATEWAY_REFUSED_N_] = {
        "cap",    "price",   "route",     "invalid",        "stopped", "tool",  "switched_off",
        "queued", "breaker", "too_large", "provider_state", "away",    "failed"
    };
    assert(refused < GATEWAY_REFUSED_N_);
    return names[refused];
}

void stats_refused(Gateway *gateway, Problem problem)
{
    static const GatewayRefused by_problem[PROBLEM_N_] = {
        [PROBLEM_NONE] = GATEWAY_REFUSED_INVALID,      [PROBLEM_INVALID] = GATEWAY_REFUSED_INVALID,
        [PROBLEM_PATH] = GATEWAY_REFUSED_INVALID,      [PROBLEM_METHOD] = GATEWAY_REFUSED_INVALID,
        [PROBLEM_MODEL] = GATEWAY_REFUSED_ROUTE,       [PROBLEM_PRICE] = GATEWAY_REFUSED_PRICE,
        [PROBLEM_CAP] = GATEWAY_REFUSED_CAP,           [PROBLEM_STOPPED] = GATEWAY_REFUSED_STOPPED,
        [PROBLEM_TOOL] = GATEWAY_REFUSED_TOOL,         [PROBLEM_SWITCHED_OFF] = GATEWAY_REFUSED_OFF,
        [PROBLEM_QUEUED] = GATEWAY_REFUSED_QUEUED,     [PROBLEM_TOO_LARGE] = GATEWAY_REFUSED_LARGE,
        [PROBLEM_STATE] = GATEWAY_REFUSED_STATE,       [PROBLEM_INTERNAL] = GATEWAY_REFUSED_FAILED,
        [PROBLEM_BREAKER] = GATEWAY_REFUSED_BREAKER,   [PROBLEM_KEY] = GATEWAY_REFUSED_INVALID,
        [PROBLEM_ROLE] = GATEWAY_REFUSED_INVALID,      [PROBLEM_AWAY] = GATEWAY_REFUSED_AWAY,
        [PROBLEM_UNRECORDED] = GATEWAY_REFUSED_FAILED,
    };
    assert(problem < PROBLEM_N_);
    atomic_fetch_add(&gateway->refused[by_problem[problem]], 1);
}

/* The model's counters, or those of "other" once the table is full: names come from agents. */
static ModelCounters *counters_of(Gateway *gateway, Str provider, Str model)
{
    size_t n = atomic_load(&gateway->models_n);
    for (size_t i = 0; i < n; i++) {
        ModelCounters *counters = &gateway->models[i];
        if (str_eq(str_of(counters->model), model) && str_eq(str_of(counters->provider), provider))
            return counters;
    }
    bool full = n >= GATEWAY_STATS_MODELS_MAX || model.len >= GATEWAY_MODEL_NAME_MAX;
    if (full) return &gateway->models[GATEWAY_STATS_MODELS_MAX];
    ModelCounters *counters = &gateway->models[n];
    str_copy(counters->provider, sizeof counters->provider, provider);
    str_copy(counters->model, sizeof counters->model, model);
    atomic_store(&gateway->models_n, n + 1);
    return counters;
}

static void add(atomic_uint_fast64_t *counter, int64_t n)
{
    if (n > 0) atomic_fetch_add(counter, (uint64_t)n);
}

void stats_call(Gateway *gateway, const GatewayCall *call)
{
    assert(call->outcome < GATEWAY_OUTCOME_N_);
    ModelCounters *counters = counters_of(gateway, call->provider, call->model);
    add(&counters->calls[call->outcome], 1);
    add(&counters->input_tokens, call->usage.input_tokens);
    add(&counters->output_tokens, call->usage.output_tokens);
    add(&counters->cached_tokens, call->usage.cached_tokens);
    add(&counters->cost_nusd, call->charged.nusd);
    add(&counters->duration_us, call->duration_us);
    add(&gateway->usage_missing, call->full_hold);
}

static bool read_model(const ModelCounters *from, GatewayModelStats *to)
{
    uint64_t calls = 0;
    str_copy(to->provider, sizeof to->provider, str_of(from->provider));
    str_copy(to->model, sizeof to->model, str_of(from->model));
    for (size_t i = 0; i < GATEWAY_OUTCOME_N_; i++)
        calls += to->calls[i] = atomic_load(&from->calls[i]);
    to->input_tokens = atomic_load(&from->input_tokens);
    to->output_tokens = atomic_load(&from->output_tokens);
    to->cached_tokens = atomic_load(&from->cached_tokens);
    to->cost_nusd = atomic_load(&from->cost_nusd);
    to->duration_us = atomic_load(&from->duration_us);
    return calls > 0;
}

void gateway_stats(const Gateway *gateway, GatewayStats *ret)
{
    size_t n = atomic_load(&gateway->models_n);
    for (ret->models_n = 0; ret->models_n < n; ret->models_n++)
        (void)read_model(&gateway->models[ret->models_n], &ret->models[ret->models_n]);
    if (read_model(&gateway->models[GATEWAY_STATS_MODELS_MAX], &ret->models[n])) ret->models_n++;
    for (size_t i = 0; i < GATEWAY_REFUSED_N_; i++)
        ret->refused[i] = atomic_load(&gateway->refused[i]);
    for (size_t i = 0; i < GATEWAY_DEGRADED_N_; i++)
        ret->degraded[i] = atomic_load(&gateway->degraded[i]);
    ret->waited = atomic_load(&gateway->waited);
    ret->clamped = atomic_load(&gateway->clamped);
    ret->disarmed = atomic_load(&gateway->disarmed);
    ret->usage_missing = atomic_load(&gateway->usage_missing);
    ret->over_hold = atomic_load(&gateway->over_hold);
    ret->listener_refused = atomic_load(&gateway->listener_refused);
    ret->listener_bad = atomic_load(&gateway->listener_bad);
    ret->listener_stalls = atomic_load(&gateway->listener_stalls);
    ret->room_waited = atomic_load(&gateway->room.waited);
    ret->room_refused = atomic_load(&gateway->room.refused);
    ret->request_bytes = atomic_load(&gateway->room.bytes);
    ret->cache = gateway_cache_figures(gateway);
    ret->tools_removed = atomic_load(&gateway->tools_removed);
    ret->state_forgotten = atomic_load(&gateway->state_forgotten);
    ret->translated = atomic_load(&gateway->translated);
    ret->untranslatable = atomic_load(&gateway->untranslatable);
    ret->untranslated = atomic_load(&gateway->untranslated);
    ret->replayed = atomic_load(&gateway->replayed);
    ret->attached = atomic_load(&gateway->attached);
    ret->undelivered = atomic_load(&gateway->undelivered);
    ret->redelivered = atomic_load(&gateway->redelivered);
    ret->undelivered_dropped = atomic_load(&gateway->undelivered_dropped);
    ret->cache_joined = atomic_load(&gateway->cache.joined);
    ret->replayed_tools = atomic_load(&gateway->replayed_tools);
    ret->replay_misses = atomic_load(&gateway->replay_misses);
    ret->not_recorded = atomic_load(&gateway->not_recorded);
    ret->in_flight = atomic_load(&gateway->in_flight);
    ret->tasks_open = atomic_load(&gateway->tasks_open);
}
