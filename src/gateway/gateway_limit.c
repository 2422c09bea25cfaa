#include "gateway/gateway_limit.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/map.h"
#include "base/money.h"
#include "gateway/gateway_call.h"
#include "gateway/gateway_limits.h"
#include "logic/retry.h"
#include "sys/entropy.h"

#define WAITING_MAX_DEFAULT 10000
#define HEARTBEAT_AFTER_MS 5000
#define HEARTBEAT_EVERY_MS 12000
#define LOOK_MS 2000   /* whether the reader is still there, and the breaker still closed */
#define MARGIN_MS 1000 /* a refusal is to arrive before the client gives up */
#define RETRY_AFTER_MAX_S 60
#define MEDIA_INPUT_TOKENS 16384 /* a guess: media bill far less than a model could take in */
#define NAME_BYTES_MAX 96
#define KEY_BYTES_MAX (2 * NAME_BYTES_MAX)

typedef struct LimitProvider LimitProvider;

struct LimitModel {
    LimitProvider *provider;
    char key[KEY_BYTES_MAX]; /* "PROVIDER/MODEL", not terminated */
    size_t key_len, model_at;
    Rate rate;
    RateOutput output;
    int64_t throttles_in_row;
    int64_t used_at_ms;
    GatewayLimit *listed; /* while a list is made */
};

struct LimitProvider {
    Str name;
    Rate rate;
    RateQueue queue;
    int64_t next_ms; /* when to look at the queue again */
    RetryBudget retries;
    LimitModel other; /* the models that found no room */
    GatewayLimit *listed;
};

struct Limits {
    const GatewayConfig *config;
    Breakers *breakers;
    Cond lack;            /* a call lacks a share, or all are to be silent */
    pthread_mutex_t lock; /* of all that follows */
    LimitProvider *providers;
    size_t providers_n;
    Map by_key;
    LimitModel *models[LIMIT_MODELS_MAX];
    size_t models_n;
    GatewayLimitStats stats;
    bool sharing;
};

/* --- providers and models --------------------------------------------------------------------- */

static LimitProvider *provider_of(Limits *limits, const char *name)
{
    for (size_t i = 0; i < limits->providers_n; i++)
        if (str_eq(limits->providers[i].name, str_of(name))) return &limits->providers[i];
    return NULL;
}

static Str model_key(const LimitModel *model)
{
    return str_make(model->key, model->key_len);
}

static size_t key_make(char key[KEY_BYTES_MAX], Str provider, Str model)
{
    provider = str_sub(provider, 0, NAME_BYTES_MAX - 1);
    model = str_sub(model, 0, NAME_BYTES_MAX);
    memcpy(key, provider.ptr, provider.len);
    key[provider.len] = '/';
    if (model.len) memcpy(key + provider.len + 1, model.ptr, model.len);
    return provider.len + 1 + model.len;
}

static RateAmounts amounts_of(int64_t requests, int64_t tokens)
{
    return (RateAmounts){ .v = { [RATE_REQUESTS] = requests, [RATE_TOKENS] = tokens } };
}

static void model_init(LimitModel *model, LimitProvider *provider, Str key,
                       const GatewayRoute *route)
{
    RateAmounts limit = { 0 };
    if (route) limit = amounts_of(route->requests_per_minute_max, route->tokens_per_minute_max);
    *model = (LimitModel){ .provider = provider, .key_len = key.len };
    memcpy(model->key, key.ptr, key.len);
    model->model_at = MIN(provider->name.len, (size_t)NAME_BYTES_MAX - 1) + 1;
    rate_init(&model->rate, &limit, route ? route->concurrent_max : 0);
}

/* A provider that speaks two protocols is two in the configuration and one here. */
static void provider_add(Limits *limits, const GatewayProvider *from)
{
    int64_t waiting_max = limits->config->waiting_max;
    char key[KEY_BYTES_MAX];
    if (provider_of(limits, from->name)) return;
    LimitProvider *provider = &limits->providers[limits->providers_n++];
    RateAmounts limit = amounts_of(from->requests_per_minute_max, from->tokens_per_minute_max);
    provider->name = str_of(from->name);
    provider->next_ms = RATE_NEVER;
    provider->retries = RETRY_BUDGET_DEFAULT;
    if (limits->config->retry_burst)
        provider->retries.milli = provider->retries.milli_max = limits->config->retry_burst *
                                                                RETRY_BUDGET_ONE;
    rate_init(&provider->rate, &limit, from->concurrent_max);
    rate_queue_init(&provider->queue, waiting_max ? (size_t)waiting_max : WAITING_MAX_DEFAULT);
    size_t len = key_make(key, provider->name, STR("(other)"));
    model_init(&provider->other, provider, str_make(key, len), NULL);
}

Limits *limits_new(const GatewayConfig *config)
{
    Limits *limits = xcalloc(1, sizeof *limits);
    limits->config = config;
    cond_init(&limits->lack);
    limits->breakers = breakers_new("model", config->breaker.calls_min ? &config->breaker : NULL,
                                    LIMIT_MODELS_MAX);
    limits->providers = xcalloc(MAX(config->providers_n, 1), sizeof *limits->providers);
    map_init(&limits->by_key, entropy_u64());
    pthread_mutex_init(&limits->lock, NULL);
    for (size_t i = 0; i < config->providers_n; i++) provider_add(limits, &config->providers[i]);
    return limits;
}

void limits_free(Limits *limits)
{
    if (!limits) return;
    for (size_t i = 0; i < limits->models_n; i++) free(limits->models[i]);
    for (size_t i = 0; i < limits->providers_n; i++) assert(limits->providers[i].queue.n == 0);
    free(limits->providers);
    map_deinit(&limits->by_key);
    breakers_free(limits->breakers);
    pthread_mutex_destroy(&limits->lock);
    free(limits);
}

/* What it has counted is of no more use: to forget it lets nothing through. */
static bool model_is_idle(const LimitModel *model, int64_t now_ms)
{
    return model->rate.in_flight == 0 && model->rate.waiting == 0 &&
           now_ms - model->used_at_ms > RATE_SPAN_MS && now_ms >= model->rate.blocked_until_ms;
}

/* A place for one more: a new one, or that of the one idle for the longest; NULL: none. */
static LimitModel *model_room(Limits *limits, int64_t now_ms)
{
    if (limits->models_n < LIMIT_MODELS_MAX)
        return limits->models[limits->models_n++] = xcalloc(1, sizeof(LimitModel));
    LimitModel *oldest = NULL;
    for (size_t i = 0; i < limits->models_n; i++) {
        LimitModel *model = limits->models[i];
        if (!model_is_idle(model, now_ms)) continue;
        if (!oldest || model->used_at_ms < oldest->used_at_ms) oldest = model;
    }
    if (oldest) map_remove(&limits->by_key, model_key(oldest));
    return oldest;
}

/* Names come from agents, so there is an end to them. */
static LimitModel *model_of(Limits *limits, const GatewayProvider *by, Str called, int64_t now_ms)
{
    char key[KEY_BYTES_MAX];
    LimitProvider *provider = provider_of(limits, by->name);
    assert(provider);
    Str name = str_make(key, key_make(key, provider->name, called));
    LimitModel *model = map_get(&limits->by_key, name);
    if (!model && (model = model_room(limits, now_ms))) {
        model_init(model, provider, name, gateway_route(limits->config, called, by->protocol));
        model->rate.shared = limits->sharing;
        map_put(&limits->by_key, model_key(model), model);
    }
    if (!model) {
        limits->stats.models_full++;
        model = &provider->other;
    }
    model->used_at_ms = now_ms;
    return model;
}

/* --- waiting like a call ---------------------------------------------------------------------- */

int64_t call_deadline_ms(const ModelCall *call)
{
    int64_t patience_ms = call->request->timeout_ms ? call->request->timeout_ms
                                                    : GATEWAY_PATIENCE_MS;
    int64_t silence_ms = call->request->read_timeout_ms;
    if (silence_ms && !call->info.stream) patience_ms = MIN(patience_ms, silence_ms);
    patience_ms -= MIN(MARGIN_MS, patience_ms / 10);
    return MIN(call->started_us / 1000 + patience_ms, call->task->wall_deadline_ms);
}

static int64_t or_default(int64_t configured, int64_t otherwise)
{
    return configured ? configured : otherwise;
}

/* When the next heartbeat is due. The first one fixes the answer's status, so it comes late. */
static int64_t heartbeat_at_ms(const ModelCall *call)
{
    const GatewayConfig *config = call->task->gateway->config;
    int64_t after_ms = or_default(config->heartbeat_after_ms, HEARTBEAT_AFTER_MS);
    if (!call->info.stream || call->gone || call->answering) return DEADLINE_NONE;
    if (!call->heartbeat_ms) return call->started_us / 1000 + after_ms;
    return call->heartbeat_ms + or_default(config->heartbeat_every_ms, HEARTBEAT_EVERY_MS);
}

static void heartbeat_wait(ModelCall *call)
{
    Limits *limits = call->task->gateway->limits;
    call->heartbeat_ms = clock_mono_ms();
    reply_heartbeat_wait(call);
    pthread_mutex_lock(&limits->lock);
    limits->stats.heartbeats++;
    pthread_mutex_unlock(&limits->lock);
}

int call_pause_wait(ModelCall *call, Cond *cond, int64_t until_ms)
{
    for (;;) {
        int64_t heartbeat_ms = heartbeat_at_ms(call);
        int64_t step_ms = MIN(MIN(until_ms, heartbeat_ms), deadline_after(LOOK_MS));
        int r = cond_wait(cond, step_ms);
        if (r == -ECANCELED) return r;
        if (call->reply->gone && call->reply->gone(call->reply->ctx)) return HTTP_E_GONE;
        if (r == 0) return 0;
        bool beat = clock_mono_ms() >= heartbeat_ms;
        if (beat) heartbeat_wait(call);
        if (call->gone) return HTTP_E_GONE;
        if (fiber_cancelled()) return -ECANCELED;
        if (clock_mono_ms() >= until_ms) return -ETIMEDOUT;
        /* a look around: a signal may have come while the heartbeat went out */
        if (beat || step_ms < MIN(until_ms, heartbeat_ms)) return 0;
    }
}

/* --- the queue -------------------------------------------------------------------------------- */

static CallPermit *permit_of(ListNode *node)
{
    return CONTAINER_OF(CONTAINER_OF(node, RateWaiter, node), CallPermit, waiter);
}

/* Admits who may go. The first of those who stay keeps the time for all. */
static void pump(Limits *limits, LimitProvider *provider)
{
    List admitted;
    list_init(&admitted);
    pthread_mutex_lock(&limits->lock);
    rate_queue_admit(&provider->queue, clock_mono_ms(), &admitted, &provider->next_ms);
    pthread_mutex_unlock(&limits->lock);
    ListNode *node;
    while ((node = list_pop_front(&admitted))) cond_broadcast(permit_of(node)->wake);
    if (provider->queue.n) cond_broadcast(permit_of(provider->queue.waiting.next)->wake);
}

static void leave(Limits *limits, CallPermit *permit)
{
    LimitProvider *provider = permit->model->provider;
    pthread_mutex_lock(&limits->lock);
    rate_queue_leave(&provider->queue, &permit->waiter);
    pthread_mutex_unlock(&limits->lock);
    pump(limits, provider); /* those behind it may fit where it did not */
}

static bool is_media(const ModelCall *call)
{
    return call->info.has_media || call->info.hides_input;
}

/* What the call will count for: a cap that the request names counts whole, as providers do it;
 * without one, what answers of this model come to. */
static RateAmounts need_of(const ModelCall *call, const LimitModel *model)
{
    const CapVerdict *verdict = &call->verdict;
    int64_t n = call->info.n, tokens = verdict->hold.tokens;
    bool no_output = call->info.api == API_EMBEDDINGS || call->info.no_output;
    int64_t out = no_output ? 0 : MIN(n * verdict->out_cap, tokens);
    int64_t in = tokens - out;
    if (is_media(call)) in = MIN(in, MEDIA_INPUT_TOKENS);
    if (!no_output && !call->info.out_cap) out = rate_output_guess(&model->output, out);
    return rate_amounts(in, out);
}

/* With the lock. Asks for room; the permit is filled. False: too many wait already. */
static bool join(Limits *limits, CallPermit *permit, LimitModel *model, Lane lane,
                 const RateAmounts *need, int64_t now_ms)
{
    permit->model = model;
    permit->waiter = (RateWaiter){
        .lane = lane, .rates = { &model->provider->rate, &model->rate }, .rates_n = 2, .need = *need
    };
    bool joined = rate_queue_join(&model->provider->queue, &permit->waiter, now_ms);
    if (!joined) limits->stats.queue_full++;
    return joined;
}

static bool call_join(Limits *limits, ModelCall *call)
{
    int64_t now_ms = clock_mono_ms();
    call->permit.wake = &call->wake;
    pthread_mutex_lock(&limits->lock);
    LimitModel *model = model_of(limits, call->target->provider, call->target->model, now_ms);
    RateAmounts need = need_of(call, model);
    bool joined = join(limits, &call->permit, model, call->task->options.lane, &need, now_ms);
    pthread_mutex_unlock(&limits->lock);
    return joined;
}

/* --- refusals --------------------------------------------------------------------------------- */

static int retry_after_s(int64_t at_ms)
{
    int64_t seconds = (at_ms - clock_mono_ms() + 999) / 1000;
    return (int)MIN(MAX(seconds, 1), RETRY_AFTER_MAX_S);
}

static int refuse_open(ModelCall *call, int64_t next_ms)
{
    call->retry_after_s = retry_after_s(next_ms);
    return call_problem(call, PROBLEM_BREAKER, NULL,
                        "%s does not answer for \"%.*s\" just now, so it is not asked",
                        call->target->provider->name, STR_ARG(call->target->model));
}

static int refuse_overdue(Limits *limits, ModelCall *call, int64_t next_ms)
{
    pthread_mutex_lock(&limits->lock);
    limits->stats.overdue++;
    pthread_mutex_unlock(&limits->lock);
    call->retry_after_s = retry_after_s(next_ms == RATE_NEVER ? clock_mono_ms() + 5000 : next_ms);
    return call_problem(call, PROBLEM_QUEUED, NULL,
                        "the rate limit of %s left no room for \"%.*s\" in time",
                        call->target->provider->name, STR_ARG(call->target->model));
}

static int refuse_stopped(ModelCall *call)
{
    GatewayTask *task = call->task;
    if (task->totals.stop != GATEWAY_STOP_NONE)
        return call_problem(call, task_stop_problem(task->totals.stop), NULL, "%s",
                            task_stop_text(task->totals.stop));
    task_note_cap(task, CAP_BY_SECONDS);
    return call_problem(call, PROBLEM_CAP, NULL,
                        "the task's time is up (secondsPerTask, or its deadline)");
}

/* --- permits ---------------------------------------------------------------------------------- */

/* One look at what there is to wait for. Returns 0 (go on waiting, or admitted), else why not. */
static int look(Limits *limits, ModelCall *call, int64_t deadline_ms)
{
    CallPermit *permit = &call->permit;
    LimitProvider *provider = permit->model->provider;
    int64_t now_ms = clock_mono_ms(), blocked_ms = permit->model->rate.blocked_until_ms;
    if (call->task->totals.stop != GATEWAY_STOP_NONE || task_past_deadline(call->task))
        return refuse_stopped(call);
    if (call_flags_moved(call)) return CALL_E_FLAGS;
    if (permit->waiter.admitted) return 0;
    if (!breakers_would(limits->breakers, model_key(permit->model)))
        return refuse_open(call, now_ms + 1000);
    if (now_ms >= deadline_ms || blocked_ms > deadline_ms)
        return refuse_overdue(limits, call, MAX(provider->next_ms, blocked_ms));
    if (now_ms >= provider->next_ms) pump(limits, provider);
    return 0;
}

static int admitted_wait(Limits *limits, ModelCall *call)
{
    const RateWaiter *waiter = &call->permit.waiter;
    const LimitProvider *provider = call->permit.model->provider;
    int64_t deadline_ms = call_deadline_ms(call);
    for (;;) {
        int r = look(limits, call, deadline_ms);
        if (r != 0 || waiter->admitted) return r;
        bool first = provider->queue.waiting.next == &waiter->node;
        int64_t until_ms = first ? MIN(deadline_ms, provider->next_ms) : deadline_ms;
        r = call_pause_wait(call, &call->wake, until_ms);
        if (r != 0 && r != -ETIMEDOUT) return r;
    }
}

static void settle_rates(Limits *limits, CallPermit *permit, const RateAmounts *actual)
{
    LimitProvider *provider = permit->model->provider;
    pthread_mutex_lock(&limits->lock);
    rate_waiter_settle(&permit->waiter, actual, clock_mono_ms());
    pthread_mutex_unlock(&limits->lock);
    pump(limits, provider);
}

static void permit_drop(Limits *limits, CallPermit *permit)
{
    static const RateAmounts nothing;
    if (!permit->model) return;
    if (permit->waiter.admitted) settle_rates(limits, permit, &nothing);
    else leave(limits, permit);
    breakers_done(limits->breakers, &permit->ticket, BREAKER_UNTOLD, 0);
    permit->model = NULL;
}

void call_permit_drop(ModelCall *call)
{
    permit_drop(call->task->gateway->limits, &call->permit);
}

static void note_waited(Limits *limits, Lane lane, int64_t since_us)
{
    pthread_mutex_lock(&limits->lock);
    limits->stats.waited[lane]++;
    limits->stats.waited_us += (uint64_t)(clock_mono_us() - since_us);
    pthread_mutex_unlock(&limits->lock);
}

static bool lacks_share(const RateWaiter *waiter)
{
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < waiter->rates_n; i++)
        if (rate_lacks_share(waiter->rates[i], &waiter->need, now_ms)) return true;
    return false;
}

static int permit_wait(Limits *limits, ModelCall *call)
{
    CallPermit *permit = &call->permit;
    int64_t since_us = clock_mono_us(), next_ms = 0;
    if (!call_join(limits, call))
        return call_problem(call, PROBLEM_QUEUED, NULL, "too many calls wait for %s already",
                            call->target->provider->name);
    pump(limits, permit->model->provider);
    if (!permit->waiter.admitted) {
        if (lacks_share(&permit->waiter)) cond_broadcast(&limits->lack);
        int r = admitted_wait(limits, call);
        note_waited(limits, call->task->options.lane, since_us);
        if (r != 0) return r;
    }
    if (!breakers_ask(limits->breakers, model_key(permit->model), &permit->ticket, &next_ms))
        return refuse_open(call, next_ms);
    permit->granted_us = clock_mono_us();
    return 0;
}

int call_permit_wait(ModelCall *call)
{
    Limits *limits = call->task->gateway->limits;
    assert(!call->permit.model);
    int r = permit_wait(limits, call);
    if (r != 0) call_permit_drop(call);
    return r;
}

/* --- what came of it -------------------------------------------------------------------------- */

/* A provider that does not say for how long is left alone for longer every time. */
static int64_t silence_ms(const LimitModel *model, const RateReport *report)
{
    static const RetryPolicy policy = {
        .attempts_max = 1, .initial_ms = 500, .factor_milli = 2000, .max_ms = 20000
    };
    if (report->retry_after_ms > 0) return report->retry_after_ms;
    int64_t ceiling_ms = retry_ceiling_ms(&policy, model->throttles_in_row);
    return ceiling_ms / 2 + (int64_t)(entropy_u64() % (uint64_t)(ceiling_ms / 2 + 1));
}

static void take_report(Limits *limits, LimitModel *model, const RateReport *report, int status)
{
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&limits->lock);
    rate_learn(&model->rate, report, now_ms);
    if (status < 300) model->throttles_in_row = 0;
    if (status == 429) {
        model->throttles_in_row++;
        model->rate.throttled++;
        limits->stats.throttled++;
        rate_block(&model->rate, now_ms + silence_ms(model, report), now_ms);
    }
    pthread_mutex_unlock(&limits->lock);
    if (status == 429) cond_broadcast(&limits->lack); /* the others should know */
}

void call_permit_answered(ModelCall *call)
{
    RateReport report = RATE_REPORT_NONE;
    int64_t now_real_ms = clock_real_ms();
    Str name, value;
    if (!call->permit.model) return;
    for (size_t i = 0; http_call_field_at(call->upstream, i, &name, &value); i++)
        rate_report_field(&report, name, value, now_real_ms);
    call->upstream_wish_ms = report.retry_after_ms;
    take_report(call->task->gateway->limits, call->permit.model, &report,
                http_call_status(call->upstream));
}

/* What the provider will have counted. What is not known counts as it was estimated. */
static RateAmounts actual_of(const ModelCall *call, Charge charge)
{
    const GatewayCall *record = &call->record;
    const Usage *usage = &record->usage;
    if (charge == CHARGE_USAGE) {
        RateAmounts actual = rate_amounts(usage->input_tokens, usage->output_tokens);
        actual.v[RATE_INPUT] = usage->input_tokens - MIN(usage->cached_tokens, usage->input_tokens);
        return actual;
    }
    if (record->outcome == GATEWAY_UPSTREAM) return rate_amounts(0, 0);
    if (!call->abort.sent) return (RateAmounts){ 0 };
    return call->permit.waiter.need;
}

static BreakerResult result_of(const ModelCall *call)
{
    int status = call->upstream ? http_call_status(call->upstream) : 0;
    if (call->gone) return BREAKER_UNTOLD;
    switch (call->record.outcome) {
    case GATEWAY_COMPLETE: return BREAKER_GOOD;
    case GATEWAY_UPSTREAM:
        if (status == 429) return BREAKER_UNTOLD; /* the limiter's affair */
        return status >= 500 || status == 408 ? BREAKER_BAD : BREAKER_GOOD;
    case GATEWAY_STOPPED: return BREAKER_UNTOLD;
    default: return task_past_deadline(call->task) ? BREAKER_UNTOLD : BREAKER_BAD;
    }
}

/* How long the provider let us wait: for a stream's first byte, or for the whole answer. */
static int64_t answer_ms(const ModelCall *call)
{
    int64_t us = clock_mono_us() - call->permit.granted_us;
    int64_t ttfb_us = call->record.ttfb_us;
    if (call->info.stream && ttfb_us >= 0)
        us = call->started_us + ttfb_us - call->permit.granted_us;
    return MAX(us, 0) / 1000;
}

void call_permit_done(ModelCall *call, Charge charge)
{
    Limits *limits = call->task->gateway->limits;
    CallPermit *permit = &call->permit;
    if (!permit->model) return;
    breakers_done(limits->breakers, &permit->ticket, result_of(call), answer_ms(call));
    RateAmounts actual = actual_of(call, charge);
    if (charge == CHARGE_USAGE) {
        pthread_mutex_lock(&limits->lock);
        rate_output_note(&permit->model->output, actual.v[RATE_OUTPUT]);
        pthread_mutex_unlock(&limits->lock);
    }
    settle_rates(limits, permit, &actual);
    permit->model = NULL;
}

/* --- what is no call -------------------------------------------------------------------------- */

static int ask_refused(const TaskAsk *ask, const CallPermit *permit, int64_t deadline_ms,
                       Problem *ret, const char **ret_text)
{
    Limits *limits = ask->task->gateway->limits;
    *ret = PROBLEM_STOPPED;
    *ret_text = task_stop_text(ask->task->totals.stop);
    if (ask->task->totals.stop != GATEWAY_STOP_NONE) return CALL_E_PROBLEM;
    *ret = PROBLEM_BREAKER;
    *ret_text = "the provider does not answer for this model just now, so it is not asked";
    if (!permit->waiter.admitted && !breakers_would(limits->breakers, model_key(permit->model)))
        return CALL_E_PROBLEM;
    *ret = PROBLEM_QUEUED;
    *ret_text = "the provider's rate limit left no room in time";
    if (permit->waiter.admitted || clock_mono_ms() < deadline_ms) return 0;
    pthread_mutex_lock(&limits->lock);
    limits->stats.overdue++;
    pthread_mutex_unlock(&limits->lock);
    return CALL_E_PROBLEM;
}

/* As a call waits, but for heartbeats: these are short requests. */
static int ask_admitted_wait(const TaskAsk *ask, const CallPermit *permit, Problem *ret,
                             const char **ret_text)
{
    Limits *limits = ask->task->gateway->limits;
    const LimitProvider *provider = permit->model->provider;
    const GatewayReply *reply = ask->reply;
    int64_t patience_ms = ask->http->timeout_ms ? ask->http->timeout_ms : GATEWAY_PATIENCE_MS;
    patience_ms -= MIN(MARGIN_MS, patience_ms / 10);
    int64_t deadline_ms = MIN(deadline_after(patience_ms), ask->task->wall_deadline_ms);
    for (;;) {
        int r = ask_refused(ask, permit, deadline_ms, ret, ret_text);
        if (r != 0 || permit->waiter.admitted) return r;
        bool first = provider->queue.waiting.next == &permit->waiter.node;
        int64_t until_ms = MIN(deadline_ms, deadline_after(LOOK_MS));
        r = cond_wait(permit->wake, first ? MIN(until_ms, provider->next_ms) : until_ms);
        if (r == -ECANCELED) return r;
        if (reply->gone && reply->gone(reply->ctx)) return HTTP_E_GONE;
        if (clock_mono_ms() >= provider->next_ms) pump(limits, permit->model->provider);
    }
}

int limits_enter_wait(const TaskAsk *ask, const GatewayProvider *provider, Str model,
                      CallPermit *ret, Problem *ret_problem, const char **ret_text)
{
    Limits *limits = ask->task->gateway->limits;
    Lane lane = ask->task->options.lane;
    Cond wake;
    RateAmounts need = rate_amounts(0, 0);
    int64_t now_ms = clock_mono_ms(), since_us = clock_mono_us(), next_ms;
    cond_init(&wake);
    *ret = (CallPermit){ .wake = &wake };
    pthread_mutex_lock(&limits->lock);
    bool joined = join(limits, ret, model_of(limits, provider, model, now_ms), lane, &need, now_ms);
    pthread_mutex_unlock(&limits->lock);
    *ret_problem = PROBLEM_QUEUED;
    *ret_text = "too many calls wait for the provider already";
    int r = joined ? 0 : CALL_E_PROBLEM;
    if (r == 0) pump(limits, ret->model->provider);
    if (r == 0 && !ret->waiter.admitted) {
        if (lacks_share(&ret->waiter)) cond_broadcast(&limits->lack);
        r = ask_admitted_wait(ask, ret, ret_problem, ret_text);
        note_waited(limits, lane, since_us);
    }
    if (r == 0 && !breakers_ask(limits->breakers, model_key(ret->model), &ret->ticket, &next_ms)) {
        *ret_problem = PROBLEM_BREAKER;
        *ret_text = "the provider does not answer for this model just now, so it is not asked";
        r = CALL_E_PROBLEM;
    }
    if (r != 0) permit_drop(limits, ret);
    ret->wake = NULL;
    ret->granted_us = clock_mono_us();
    return r;
}

void limits_done(GatewayTask *task, CallPermit *permit, int status, Str retry_after)
{
    Limits *limits = task->gateway->limits;
    RateReport report = RATE_REPORT_NONE;
    RateAmounts actual = rate_amounts(0, 0);
    BreakerResult result = status >= 500 || status == 408 ? BREAKER_BAD : BREAKER_GOOD;
    if (status == 0) result = BREAKER_BAD;
    if (status == 429 || status < 0) result = BREAKER_UNTOLD;
    rate_report_field(&report, STR("retry-after"), retry_after, clock_real_ms());
    if (status > 0) take_report(limits, permit->model, &report, status);
    int64_t took_us = clock_mono_us() - permit->granted_us;
    breakers_done(limits->breakers, &permit->ticket, result, took_us / 1000);
    settle_rates(limits, permit, &actual);
    permit->model = NULL;
}

/* --- retries ---------------------------------------------------------------------------------- */

static Str target_key(const CallTarget *target, char key[KEY_BYTES_MAX])
{
    return str_make(key, key_make(key, str_of(target->provider->name), target->model));
}

bool call_target_open(const ModelCall *call, const CallTarget *target)
{
    char key[KEY_BYTES_MAX];
    return !breakers_would(call->task->gateway->limits->breakers, target_key(target, key));
}

void call_retry_earn(ModelCall *call)
{
    Limits *limits = call->task->gateway->limits;
    pthread_mutex_lock(&limits->lock);
    retry_budget_earn(&provider_of(limits, call->target->provider->name)->retries);
    pthread_mutex_unlock(&limits->lock);
}

bool call_retry_spend(ModelCall *call)
{
    Limits *limits = call->task->gateway->limits;
    pthread_mutex_lock(&limits->lock);
    bool yes = retry_budget_spend(&provider_of(limits, call->target->provider->name)->retries);
    limits->stats.retries += yes;
    limits->stats.retries_exhausted += !yes;
    pthread_mutex_unlock(&limits->lock);
    return yes;
}

void call_note_fallback(ModelCall *call)
{
    Limits *limits = call->task->gateway->limits;
    pthread_mutex_lock(&limits->lock);
    limits->stats.fallbacks++;
    pthread_mutex_unlock(&limits->lock);
}

int64_t call_blocked_until_ms(ModelCall *call)
{
    Limits *limits = call->task->gateway->limits;
    pthread_mutex_lock(&limits->lock);
    const CallTarget *target = call->target;
    const LimitModel *model = model_of(limits, target->provider, target->model, clock_mono_ms());
    int64_t at_ms = model->rate.blocked_until_ms;
    pthread_mutex_unlock(&limits->lock);
    return at_ms;
}

/* --- shares ----------------------------------------------------------------------------------- */

void gateway_set_sharing(Gateway *gateway, bool sharing)
{
    Limits *limits = gateway->limits;
    pthread_mutex_lock(&limits->lock);
    limits->sharing = sharing;
    for (size_t i = 0; i < limits->providers_n; i++)
        limits->providers[i].rate.shared = limits->providers[i].other.rate.shared = sharing;
    for (size_t i = 0; i < limits->models_n; i++) limits->models[i]->rate.shared = sharing;
    pthread_mutex_unlock(&limits->lock);
    for (size_t i = 0; i < limits->providers_n; i++) pump(limits, &limits->providers[i]);
}

static Rate *rate_named(Limits *limits, const GatewayShare *share)
{
    char key[KEY_BYTES_MAX];
    LimitProvider *provider = provider_of(limits, share->provider);
    if (!provider || !share->model[0]) return provider ? &provider->rate : NULL;
    Str name = str_make(key, key_make(key, provider->name, str_of(share->model)));
    if (str_eq(name, model_key(&provider->other))) return &provider->other.rate;
    LimitModel *model = map_get(&limits->by_key, name);
    return model ? &model->rate : NULL;
}

/* A model that does not answer others most likely does not answer here. */
static void hear_breaker(Limits *limits, const GatewayShare *share)
{
    char key[KEY_BYTES_MAX];
    if (!share->model[0]) return;
    size_t len = key_make(key, str_of(share->provider), str_of(share->model));
    breakers_hear(limits->breakers, str_make(key, len), share->open_ms);
}

void gateway_take_shares(Gateway *gateway, const GatewayShare *shares, size_t n, int64_t until_ms)
{
    Limits *limits = gateway->limits;
    int64_t now_ms = clock_mono_ms();
    pthread_mutex_lock(&limits->lock);
    for (size_t i = 0; i < n; i++) {
        Rate *rate = rate_named(limits, &shares[i]);
        if (!rate) continue;
        hear_breaker(limits, &shares[i]);
        memcpy(rate->share.v, shares[i].v, sizeof rate->share.v);
        rate->concurrent_share = shares[i].v[LIMIT_CONCURRENT];
        rate->share_until_ms = until_ms;
        rate_learn_heard(rate, &shares[i].learned);
        if (shares[i].silent_ms > 0) rate_block_heard(rate, now_ms + shares[i].silent_ms, now_ms);
    }
    pthread_mutex_unlock(&limits->lock);
    for (size_t i = 0; i < limits->providers_n; i++) pump(limits, &limits->providers[i]);
}

int gateway_lack_wait(Gateway *gateway, int64_t deadline_ms)
{
    return cond_wait(&gateway->limits->lack, deadline_ms);
}

/* --- what there is to see --------------------------------------------------------------------- */

Breakers *gateway_breakers(const Gateway *gateway)
{
    return gateway->limits->breakers;
}

static void asks_fill(const Rate *rate, int64_t now_ms, ShareAsk asks[LIMIT_UNITS])
{
    bool valid = now_ms < rate->share_until_ms;
    for (RateUnit unit = 0; unit < RATE_N_; unit++) {
        asks[unit].have = valid ? rate->share.v[unit] : 0;
        asks[unit].used = rate_own(rate, unit, now_ms);
    }
    asks[LIMIT_CONCURRENT].have = valid ? rate->concurrent_share : 0;
    asks[LIMIT_CONCURRENT].used = rate->in_flight;
}

static void ask_more(GatewayLimit *limit, const RateWaiter *waiter, int64_t now_ms)
{
    for (int unit = 0; unit < LIMIT_UNITS; unit++) {
        ShareAsk *ask = &limit->asks[unit];
        int64_t need = unit == LIMIT_CONCURRENT ? 1 : waiter->need.v[unit];
        if (ask->first == 0) {
            ask->first = need;
            ask->first_late_ms = now_ms - waiter->rank_ms;
        }
        ask->want[waiter->lane] = money_add(ask->want[waiter->lane], need);
    }
}

/* What those who wait need, first to last. */
static void wants_fill(LimitProvider *provider, int64_t now_ms)
{
    LIST_EACH (&provider->queue.waiting, node) {
        const CallPermit *permit = permit_of(node);
        ask_more(provider->listed, &permit->waiter, now_ms);
        if (permit->model->listed) ask_more(permit->model->listed, &permit->waiter, now_ms);
    }
}

static void limit_fill(const Rate *rate, Str provider, Str model, int64_t now_ms, GatewayLimit *ret)
{
    *ret = (GatewayLimit){ .configured = rate->limit,
                           .learned = rate->learned,
                           .concurrent_limit = rate->concurrent_limit,
                           .in_flight = rate->in_flight,
                           .waiting_all = (int64_t)rate->waiting,
                           .blocked_ms = MAX(rate->blocked_until_ms - now_ms, 0),
                           .silent_ms = MAX(rate->silent_until_ms - now_ms, 0),
                           .throttled = rate->throttled };
    str_copy(ret->provider, sizeof ret->provider, provider);
    str_copy(ret->model, sizeof ret->model, model);
    asks_fill(rate, now_ms, ret->asks);
    for (RateUnit unit = 0; unit < RATE_N_; unit++)
        ret->used.v[unit] = rate_used(rate, unit, now_ms);
}

static int limit_cmp(const void *a, const void *b)
{
    const GatewayLimit *left = a, *right = b;
    int r = strcmp(left->provider, right->provider);
    return r != 0 ? r : strcmp(left->model, right->model);
}

static void model_list(const Limits *limits, LimitModel *model, int64_t now_ms, GatewayLimit *ret)
{
    limit_fill(&model->rate, model->provider->name, str_skip(model_key(model), model->model_at),
               now_ms, ret);
    ret->open_ms = breakers_own_open_ms(limits->breakers, model_key(model));
    model->listed = ret;
}

static void provider_list(LimitProvider *provider, int64_t now_ms, GatewayLimit *ret)
{
    limit_fill(&provider->rate, provider->name, STR(""), now_ms, ret);
    for (int lane = 0; lane < LANE_N_; lane++)
        ret->waiting[lane] = (int64_t)provider->queue.by_lane[lane];
    provider->listed = ret;
}

size_t gateway_limits_list(const Gateway *gateway, GatewayLimit *ret, size_t max)
{
    Limits *limits = gateway->limits;
    int64_t now_ms = clock_mono_ms();
    size_t n = 0;
    assert(max >= limits->providers_n);
    pthread_mutex_lock(&limits->lock);
    for (size_t i = 0; i < limits->providers_n; i++) {
        LimitProvider *provider = &limits->providers[i];
        provider_list(provider, now_ms, &ret[n++]);
        provider->other.listed = NULL;
        if (provider->other.used_at_ms && n < max)
            model_list(limits, &provider->other, now_ms, &ret[n++]);
    }
    for (size_t i = 0; i < limits->models_n; i++) {
        limits->models[i]->listed = NULL;
        if (n < max) model_list(limits, limits->models[i], now_ms, &ret[n++]);
    }
    for (size_t i = 0; i < limits->providers_n; i++) wants_fill(&limits->providers[i], now_ms);
    pthread_mutex_unlock(&limits->lock);
    qsort(ret, n, sizeof *ret, limit_cmp);
    return n;
}

void gateway_limit_stats(const Gateway *gateway, GatewayLimitStats *ret)
{
    Limits *limits = gateway->limits;
    pthread_mutex_lock(&limits->lock);
    *ret = limits->stats;
    for (size_t i = 0; i < limits->providers_n; i++)
        for (int lane = 0; lane < LANE_N_; lane++)
            ret->waiting[lane] += limits->providers[i].queue.by_lane[lane];
    pthread_mutex_unlock(&limits->lock);
}
