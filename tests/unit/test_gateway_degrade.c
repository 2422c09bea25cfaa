#include "tests/unit/gateway_rig.h"

#include "gateway/gateway_limits.h"
#include "gateway/gateway_private.h"

/* What is left of the task's tightest budget, in percent. */
static void left(Rig *rig, int64_t percent)
{
    rig->task->settled_ppm = PPM_WHOLE - percent * (PPM_WHOLE / 100);
}

static GatewayStats *stats(const Rig *rig)
{
    static GatewayStats s;
    gateway_stats(rig->gateway, &s);
    return &s;
}

/* A field of an answer's head, as the rig has written it down. */
static Str field(const Reply *reply, const char *name)
{
    Str rest = str_of(reply->all), line;
    while (rest.len) {
        Str key, value;
        rest = str_split(rest, '\n', &line, NULL);
        value = str_split(line, ':', &key, NULL);
        if (str_eq_nocase(key, str_of(name))) return str_trim(value);
    }
    return STR_NULL;
}

static void expect_wait(Rig *rig, bool stream, const char *text, const char *step,
                        const char *model, const char *cache)
{
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, API_CHAT, "sim/large-echo", stream, "", text);
    CHECK_INT(reply.status, 200);
    CHECK_STR(field(&reply, "x-gantry-degraded-step"), str_of(step));
    CHECK_STR(field(&reply, "x-gantry-degraded"), str_of(model));
    CHECK_STR(str_of(reply.cache), str_of(cache));
    const RigCall *last = rig_last(rig);
    CHECK_STR(str_of(last->model), model[0] ? str_of(model) : STR("sim/large-echo"));
    CHECK_INT(last->call.degraded, model[0] != 0);
    if (model[0]) CHECK_STR(str_of(last->call.degraded_by), STR("model"));
}

static void ladder_setup(Rig *rig)
{
    rig->config.degrade = DEGRADE_CONFIG_DEFAULT;
    rig->config.degrade.small_model = "sim/small-echo";
}

static void ladder_wait(void *arg)
{
    Rig *rig = arg;
    ladder_setup(rig);
    expect_wait(rig, false, "a", "", "", "off");
    left(rig, 26);
    expect_wait(rig, false, "a", "", "", "off");
    left(rig, 25);
    expect_wait(rig, false, "a", "cache", "", "miss");
    CHECK(!rig_last(rig)->call.degraded_by);
    expect_wait(rig, false, "a", "cache", "", "hit");
    CHECK_STR(str_of(rig_last(rig)->call.degraded_by), STR("cache"));
    expect_wait(rig, true, "a", "cache", "", "miss");
    expect_wait(rig, true, "a", "cache", "", "hit");
    left(rig, 10);
    expect_wait(rig, false, "a", "model", "sim/small-echo", "miss"); /* another model's answer */
    expect_wait(rig, false, "a", "model", "sim/small-echo", "hit");
    expect_wait(rig, true, "b", "model", "sim/small-echo", "miss");
    left(rig, 5); /* the normal lane goes on until the budget itself refuses */
    expect_wait(rig, false, "c", "hold", "sim/small-echo", "miss");
    left(rig, 0);
    expect_wait(rig, false, "d", "hold", "sim/small-echo", "miss");

    /* not back at once, but when clearly more is there */
    left(rig, 6);
    expect_wait(rig, false, "e", "hold", "sim/small-echo", "miss");
    left(rig, 11);
    expect_wait(rig, false, "f", "model", "sim/small-echo", "miss");
    left(rig, 13);
    expect_wait(rig, false, "g", "cache", "", "miss");
    left(rig, 100);
    expect_wait(rig, false, "a", "", "", "off");

    GatewayStats *s = stats(rig);
    CHECK_INT(s->degraded[GATEWAY_DEGRADED_CACHE], 12);
    CHECK_INT(s->degraded[GATEWAY_DEGRADED_MODEL], 7 - 1); /* without the hit */
    CHECK_INT(s->degraded[GATEWAY_DEGRADED_HOLD], 0);
    CHECK_INT(s->degraded[GATEWAY_DEGRADED_FALLBACK], 0);
    rig_totals(rig);
}

static void test_the_ladder(void **state)
{
    (void)state;
    rig_run(ladder_wait);
}

/* An agent that has opted in loses nothing by the first step. */
static void opted_in_wait(void *arg)
{
    static const char *const everyone[] = { "*" };
    Rig *rig = arg;
    ladder_setup(rig);
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1 };
    left(rig, 20);
    expect_wait(rig, false, "a", "cache", "", "miss");
    expect_wait(rig, false, "a", "cache", "", "hit");
    CHECK(!rig_last(rig)->call.degraded_by);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_CACHE], 0);
}

static void test_an_agent_that_opted_in_is_not_degraded_by_the_cache(void **state)
{
    (void)state;
    rig_run(opted_in_wait);
}

/* --- which model ------------------------------------------------------------------------------ */

static void say_wait(Rig *rig, Api api, const char *model, const char *answered)
{
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, api, model, false, rig_cap(api), "hi");
    CHECK_INT(reply.status, 200);
    CHECK_STR(str_of(rig_last(rig)->model), str_of(answered));
    CHECK_STR(field(&reply, "x-gantry-degraded"),
              strcmp(model, answered) ? str_of(answered) : STR(""));
}

static void models_wait(void *arg)
{
    static const Str fallbacks[] = { STR("nowhere/x"), STR("sim/large-loop"), STR("sim/echo"),
                                     STR("sim/small-echo") };
    static const char *const of_route[] = { "sim/small-ramble" };
    Rig *rig = arg;
    rig->config.degrade = (DegradeConfig){ .model_at_ppm = 100000 };
    rig->options.model = STR("sim/large-echo");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = ARRAY_N(fallbacks);
    rig_task_wait(rig, rig_no_limits);
    left(rig, 10);
    /* the version's first fallback that is known and costs less */
    say_wait(rig, API_CHAT, "sim/large-echo", "sim/echo");
    say_wait(rig, API_MESSAGES, "sim/large-echo", "sim/echo");
    /* they stand in for the version's model only */
    say_wait(rig, API_CHAT, "sim/echo", "sim/echo");
    /* the route's stand in for all it serves */
    rig->routes[0].fallbacks = rig->routes[1].fallbacks = of_route;
    rig->routes[0].fallbacks_n = rig->routes[1].fallbacks_n = 1;
    say_wait(rig, API_CHAT, "sim/echo", "sim/small-ramble");
    /* the operator's word goes first */
    rig->config.degrade.small_model = "sim/small-echo";
    say_wait(rig, API_CHAT, "sim/large-echo", "sim/small-echo");
    say_wait(rig, API_MESSAGES, "sim/large-echo", "sim/small-echo");
    /* but not upwards, nor to what no provider serves */
    say_wait(rig, API_CHAT, "sim/small-echo", "sim/small-echo");
    rig->config.degrade.small_model = "nowhere/small";
    say_wait(rig, API_CHAT, "sim/large-echo", "sim/echo");
}

static void test_the_first_model_that_costs_less(void **state)
{
    (void)state;
    rig_run(models_wait);
}

/* Vectors of another model would be compared with those there are. */
static void embedded_wait(void *arg)
{
    Rig *rig = arg;
    ladder_setup(rig);
    left(rig, 8);
    CLEANUP(reply_deinit)
    Reply reply = rig_post_wait(rig, API_EMBEDDINGS,
                                "{\"model\":\"sim/large-echo\",\"input\":\"words\"}");
    CHECK_INT(reply.status, 200);
    CHECK_STR(field(&reply, "x-gantry-degraded"), STR(""));
    CHECK_STR(field(&reply, "x-gantry-degraded-step"), STR("model"));
    CHECK_STR(str_of(rig_last(rig)->model), STR("sim/large-echo"));
}

static void test_embeddings_are_not_exchanged(void **state)
{
    (void)state;
    rig_run(embedded_wait);
}

/* The smaller model fails: what was asked for is better than nothing. */
static void small_fails_wait(void *arg)
{
    Rig *rig = arg;
    rig->config.degrade = (DegradeConfig){ .model_at_ppm = 100000,
                                           .small_model = "sim/small-fail" };
    left(rig, 5);
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, API_CHAT, "sim/large-echo", false, "", "hi");
    CHECK_INT(reply.status, 200);
    CHECK_STR(str_of(rig_last(rig)->model), STR("sim/large-echo"));
    CHECK(!rig_last(rig)->call.degraded && !rig_last(rig)->call.degraded_by);
    CHECK_STR(field(&reply, "x-gantry-degraded"), STR(""));
}

static void test_the_model_asked_for_is_still_there(void **state)
{
    (void)state;
    rig_run(small_fails_wait);
}

/* A provider that is down is a reason of its own. */
static void fallback_wait(void *arg)
{
    static const Str fallbacks[] = { STR("sim/large-echo") };
    Rig *rig = arg;
    rig->options.model = STR("sim/fail");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = 1;
    rig_task_wait(rig, rig_no_limits);
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "sim/fail", false, "", "hi");
    CHECK_INT(reply.status, 200);
    CHECK_STR(field(&reply, "x-gantry-degraded"), STR("sim/large-echo"));
    CHECK_STR(field(&reply, "x-gantry-degraded-step"), STR(""));
    CHECK_STR(str_of(rig_last(rig)->call.degraded_by), STR("fallback"));
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_FALLBACK], 1);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_MODEL], 0);
}

static void test_a_fallback_says_so(void **state)
{
    (void)state;
    rig_run(fallback_wait);
}

/* --- the low lane ----------------------------------------------------------------------------- */

typedef struct {
    Rig *rig;
    const char *body; /* NULL: of the simulator's large model */
    GatewayMemory memory;
    int64_t timeout_ms;
    int result;
    bool ended;
} Held;

static int held_fiber(void *arg)
{
    Held *held = arg;
    GatewayReply reply = gateway_memory_reply(&held->memory);
    GatewayRequest request = {
        .api = API_CHAT,
        .body = STR(
            "{\"model\":\"sim/large-echo\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"),
        .timeout_ms = held->timeout_ms
    };
    if (held->body) request.body = str_of(held->body);
    held->result = gateway_call_wait(held->rig->task, &request, &reply);
    held->ended = true;
    return 0;
}

static void start_with(Rig *rig, Held *held, const char *body, FiberRef *fiber, int64_t timeout_ms)
{
    *held = (Held){ .rig = rig, .body = body, .timeout_ms = timeout_ms };
    gateway_memory_init(&held->memory, 1 << 20);
    uint64_t before = stats(rig)->degraded[GATEWAY_DEGRADED_HOLD];
    CHECK_INT(fiber_spawn("held", held_fiber, held, fiber), 0);
    for (int i = 0; i < 1000 && stats(rig)->degraded[GATEWAY_DEGRADED_HOLD] == before; i++)
        fiber_sleep_wait(1);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_HOLD], before + 1);
}

static void start(Rig *rig, Held *held, FiberRef *fiber, int64_t timeout_ms)
{
    start_with(rig, held, NULL, fiber, timeout_ms);
}

static void low_wait(void *arg)
{
    Rig *rig = arg;
    Held held;
    FiberRef fiber;
    ladder_setup(rig);
    rig->options.lane = LANE_LOW;
    rig_task_wait(rig, rig_no_limits);

    left(rig, 5);
    start(rig, &held, &fiber, 60000);
    CHECK(!held.ended && rig->calls_n == 0);
    left(rig, 100); /* a new day */
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 200);
    CHECK_STR(str_of(rig_last(rig)->model), STR("sim/large-echo")); /* planned anew */
    CHECK_STR(str_of(rig_last(rig)->call.degraded_by), STR("hold"));
    gateway_memory_deinit(&held.memory);

    left(rig, 0); /* a client's patience is the end */
    start(rig, &held, &fiber, 5);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 429);
    CHECK_HAS(buf_str(&held.memory.body), "low lane");
    CHECK_INT(stats(rig)->refused[GATEWAY_REFUSED_QUEUED], 1);
    gateway_memory_deinit(&held.memory);

    start(rig, &held, &fiber, 60000); /* so is the task's */
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 403);
    gateway_memory_deinit(&held.memory);
    CHECK_INT(rig->calls_n, 1);
}

static void test_the_low_lane_is_held_back(void **state)
{
    (void)state;
    rig_run(low_wait);
}

/* A held stream is kept alive, which fixes its head; what it gets then may be from the cache. */
static int held_stream_fiber(void *arg)
{
    Held *held = arg;
    GatewayReply reply = gateway_memory_reply(&held->memory);
    GatewayRequest request = {
        .api = API_CHAT,
        .body = STR(
            "{\"model\":\"sim/large-echo\",\"stream\":true,\"messages\":[{\"role\":\"user\","
            "\"content\":\"hi\"}]}"),
        .timeout_ms = 60000
    };
    held->result = gateway_call_wait(held->rig->task, &request, &reply);
    return 0;
}

static void held_stream_wait(void *arg)
{
    static const char *const everyone[] = { "*" };
    Rig *rig = arg;
    FiberRef fiber;
    Held held = { .rig = rig };
    ladder_setup(rig);
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1 };
    rig->config.heartbeat_after_ms = rig->config.heartbeat_every_ms = 1;
    expect_wait(rig, true, "hi", "", "", "miss");
    size_t before = rig->calls_n;
    rig->options.lane = LANE_LOW;
    rig_task_wait(rig, rig_no_limits);
    left(rig, 1);
    gateway_memory_init(&held.memory, 1 << 20);
    CHECK_INT(fiber_spawn("held", held_stream_fiber, &held, &fiber), 0);
    for (int i = 0; i < 4000 && held.memory.body.len == 0; i++) fiber_sleep_wait(1);
    CHECK(str_starts_with(buf_str(&held.memory.body), STR(":")));
    left(rig, 100);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 200);
    CHECK(str_ends_with(buf_str(&held.memory.body), STR("data: [DONE]\n\n")));
    CHECK_INT(rig->calls_n, before + 1);
    CHECK(rig_last(rig)->call.cached);
    gateway_memory_deinit(&held.memory);
}

static void test_a_held_stream_is_kept_alive(void **state)
{
    (void)state;
    rig_run(held_stream_wait);
}

/* What is cached is served all the same. */
static void low_hit_wait(void *arg)
{
    Rig *rig = arg;
    ladder_setup(rig);
    left(rig, 8);
    expect_wait(rig, false, "a", "model", "sim/small-echo", "miss");
    rig->options.lane = LANE_LOW;
    rig_task_wait(rig, rig_no_limits);
    left(rig, 1);
    expect_wait(rig, false, "a", "hold", "sim/small-echo", "hit");
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_HOLD], 0);
}

static void test_a_held_lane_still_has_the_cache(void **state)
{
    (void)state;
    rig_run(low_hit_wait);
}

/* --- models that do not answer ---------------------------------------------------------------- */

static atomic_bool down;
static atomic_int asked; /* requests that the stub got */

static StubEnd answer_or_fail(StubRequest *request, void *ctx)
{
    (void)ctx;
    bool fail = atomic_load(&down);
    stub_sends(request, fail ? "HTTP/1.1 500 No\r\nConnection: close\r\n\r\n"
                             : "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               "Connection: close\r\n\r\n"
                               "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\","
                               "\"message\":{\"content\":\"fine\"}}],"
                               "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}");
    atomic_fetch_add(&asked, 1);
    return STUB_CLOSE;
}

static void breaking(void *arg)
{
    Rig *rig = arg;
    ladder_setup(rig);
    rig->config.breaker = (BreakerPolicy){ .window_ms = 60000,
                                           .calls_min = 3,
                                           .error_percent = 50,
                                           .slow_ms = 60000,
                                           .open_ms = 600000,
                                           .open_max_ms = 600000,
                                           .probes = 1 };
    rig->config.retry_initial_ms = 1;
    rig->config.retry_burst = 100;
}

static void breaking_briefly(void *arg)
{
    Rig *rig = arg;
    breaking(rig);
    rig->config.breaker.open_ms = rig->config.breaker.open_max_ms = 100;
}

/* Until the model's breaker opens. */
static void trip_wait(Rig *rig, const char *model)
{
    DegradeConfig degrade = rig->config.degrade;
    rig->config.degrade = (DegradeConfig){ .small_model = NULL };
    atomic_store(&down, true);
    char name[64];
    snprintf(name, sizeof name, "stub/%s", model);
    while (breakers_would(gateway_breakers(rig->gateway), str_of(name))) {
        CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, model, false, "", "trip");
        CHECK_INT(reply.status, 500);
    }
    rig->config.degrade = degrade;
}

static void unwell_wait(Rig *rig, const char *text, int status, const char *step, const char *model,
                        const char *cache, const char *by)
{
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", false, "", text);
    CHECK_INT(reply.status, status);
    CHECK_STR(field(&reply, "x-gantry-degraded-step"), str_of(step));
    CHECK_STR(field(&reply, "x-gantry-degraded-reason"), step[0] ? STR("upstream") : STR(""));
    CHECK_STR(field(&reply, "x-gantry-degraded"), str_of(model));
    CHECK_STR(str_of(reply.cache), str_of(cache));
    const RigCall *last = rig_last(rig);
    const char *degraded_by = last->call.degraded_by;
    CHECK_STR(str_of(degraded_by ? degraded_by : ""), str_of(by));
    CHECK_STR(str_of(last->model), model[0] ? str_of(model) : STR("stub-1"));
}

/* With a fallback that answers, with one that does not either, without a small model. */
static void unhealthy_wait(void *arg)
{
    static const Str fallbacks[] = { STR("stub-2") };
    Rig *rig = arg;
    rig->options.model = STR("stub-1");
    trip_wait(rig, "stub-1");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = 1;
    rig_task_wait(rig, rig_no_limits);
    atomic_store(&down, false);
    unwell_wait(rig, "a", 200, "cache", "stub-2", "miss", "fallback");
    unwell_wait(rig, "a", 200, "cache", "stub-2", "hit", "fallback");

    trip_wait(rig, "stub-2");
    int before = atomic_load(&asked);
    unwell_wait(rig, "a", 200, "model", "stub-2", "hit", "fallback"); /* the cache goes first */
    unwell_wait(rig, "b", 200, "model", "sim/small-echo", "miss", "model");
    unwell_wait(rig, "b", 200, "model", "sim/small-echo", "hit", "model");
    rig->config.degrade.small_model = NULL;
    unwell_wait(rig, "a", 200, "hold", "stub-2", "hit", "fallback");
    size_t calls = rig->calls_n;
    unwell_wait(rig, "c", 503, "hold", "", "miss", "");
    CHECK_INT(rig->calls_n, calls + 1); /* seen, free, and no less than an error */
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_REFUSED);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 0);
    CHECK_INT(rig_last(rig)->call.hold.tokens, 0);
    CHECK_HAS(str_of(rig_last(rig)->error), "is not asked");
    CHECK_INT(atomic_load(&asked), before);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_CACHE], 7);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_FALLBACK], 1);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_MODEL], 1);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_HOLD], 0);
    CHECK_INT(stats(rig)->degraded[GATEWAY_DEGRADED_REFUSE], 1);
    rig_totals(rig);
}

static void test_models_that_do_not_answer(void **state)
{
    (void)state;
    rig_run_configured(breaking, unhealthy_wait, answer_or_fail, NULL);
}

/* Steps that are left out are left out here too. */
static void left_out_wait(void *arg)
{
    Rig *rig = arg;
    rig->config.degrade = (DegradeConfig){ .small_model = "sim/small-echo" };
    rig->options.lane = LANE_LOW;
    rig_task_wait(rig, rig_no_limits);
    trip_wait(rig, "stub-1");
    size_t calls = rig->calls_n;
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", false, "", "a");
    CHECK_INT(reply.status, 503);
    CHECK_STR(field(&reply, "x-gantry-degraded-step"), STR(""));
    CHECK_STR(str_of(reply.cache), STR("off"));
    CHECK_INT(rig->calls_n, calls);
}

static void test_steps_that_are_left_out(void **state)
{
    (void)state;
    rig_run_configured(breaking, left_out_wait, answer_or_fail, NULL);
}

#define LOW_BODY "{\"model\":\"stub-1\",\"messages\":[{\"role\":\"user\",\"content\":\"low\"}]}"

static void asked_wait(int n)
{
    for (int i = 0; i < 4000 && atomic_load(&asked) < n; i++) fiber_sleep_wait(2);
    CHECK(atomic_load(&asked) >= n);
}

static void probing_wait(void *arg)
{
    Rig *rig = arg;
    Held held;
    FiberRef fiber;
    rig->config.degrade.small_model = NULL;
    trip_wait(rig, "stub-1");
    rig->options.lane = LANE_LOW;
    rig_task_wait(rig, rig_no_limits);

    for (size_t i = 0; i < 4; i++) rig->providers[i].retries_max = 2;
    /* it probes, fails, and waits for the next probe */
    int before = atomic_load(&asked);
    start_with(rig, &held, LOW_BODY, &fiber, 60000);
    asked_wait(before + 1);
    atomic_store(&down, false);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 200);
    CHECK_STR(str_of(rig_last(rig)->call.degraded_by), STR("hold"));
    CHECK(!rig_last(rig)->call.degraded);
    CHECK_INT(rig_last(rig)->call.tries, atomic_load(&asked) - before);
    CHECK(atomic_load(&asked) - before <= 1 + 2); /* no more than retries */
    gateway_memory_deinit(&held.memory);
    rig_totals(rig);
}

static void test_the_low_lane_waits_for_a_probe(void **state)
{
    (void)state;
    rig_run_configured(breaking_briefly, probing_wait, answer_or_fail, NULL);
}

static void never_wait(void *arg)
{
    Rig *rig = arg;
    Held held;
    FiberRef fiber;
    rig->config.degrade.small_model = NULL;
    trip_wait(rig, "stub-1");
    rig->options.lane = LANE_LOW;
    rig_task_wait(rig, rig_no_limits);
    int before = atomic_load(&asked);
    start_with(rig, &held, LOW_BODY, &fiber, 5);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 429);
    CHECK_HAS(buf_str(&held.memory.body), "does not answer");
    gateway_memory_deinit(&held.memory);

    start_with(rig, &held, LOW_BODY, &fiber, 60000);
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(held.memory.status, 403);
    gateway_memory_deinit(&held.memory);
    CHECK_INT(atomic_load(&asked), before);
    rig_totals(rig);
}

static void test_the_low_lane_waits_no_longer_than_its_client(void **state)
{
    (void)state;
    rig_run_configured(breaking, never_wait, answer_or_fail, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_ladder),
        cmocka_unit_test(test_an_agent_that_opted_in_is_not_degraded_by_the_cache),
        cmocka_unit_test(test_the_first_model_that_costs_less),
        cmocka_unit_test(test_embeddings_are_not_exchanged),
        cmocka_unit_test(test_the_model_asked_for_is_still_there),
        cmocka_unit_test(test_a_fallback_says_so),
        cmocka_unit_test(test_the_low_lane_is_held_back),
        cmocka_unit_test(test_a_held_stream_is_kept_alive),
        cmocka_unit_test(test_a_held_lane_still_has_the_cache),
        cmocka_unit_test(test_models_that_do_not_answer),
        cmocka_unit_test(test_steps_that_are_left_out),
        cmocka_unit_test(test_the_low_lane_waits_for_a_probe),
        cmocka_unit_test(test_the_low_lane_waits_no_longer_than_its_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
