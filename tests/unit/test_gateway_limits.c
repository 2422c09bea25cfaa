/* What the gateway does before it sends and after it failed: rate limits, breakers, retries. */
#include "tests/unit/gateway_rig.h"

#include "logic/manifest.h"

#include "gateway/gateway_limits.h"

/* --- a provider by script --------------------------------------------------------------------- */

#define STEPS_MAX 64

typedef struct {
    const char *answer; /* NULL: none, the connection is closed */
    int delay_ms;
} Step;

/* The n-th request gets the n-th step, later ones the last one. */
typedef struct {
    Step steps[STEPS_MAX];
    int steps_n;
    atomic_int requests;
    atomic_int open, open_max; /* at the same time */
    pthread_mutex_t lock;
    char bodies[STEPS_MAX][256];
    int64_t at_ms[STEPS_MAX];
} Script;

static Script script = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void script_set(const Step *steps, int n)
{
    pthread_mutex_lock(&script.lock);
    for (int i = 0; i < n; i++) script.steps[i] = steps[i];
    script.steps_n = n;
    pthread_mutex_unlock(&script.lock);
    atomic_store(&script.requests, 0);
    atomic_store(&script.open_max, 0);
}
#define SCRIPT(...) script_set((const Step[])__VA_ARGS__, ARRAY_N(((const Step[])__VA_ARGS__)))

static StubEnd scripted(StubRequest *request, void *ctx)
{
    (void)ctx;
    int n = atomic_fetch_add(&script.requests, 1), open = atomic_fetch_add(&script.open, 1) + 1;
    if (open > atomic_load(&script.open_max)) atomic_store(&script.open_max, open);
    pthread_mutex_lock(&script.lock);
    str_copy(script.bodies[n % STEPS_MAX], 256, request->body);
    script.at_ms[n % STEPS_MAX] = clock_mono_ms();
    Step step = script.steps[MIN(n, script.steps_n - 1)];
    pthread_mutex_unlock(&script.lock);
    if (step.delay_ms) stub_sleep_ms(step.delay_ms);
    atomic_fetch_sub(&script.open, 1);
    if (!step.answer) return STUB_CLOSE;
    stub_sends(request, step.answer);
    return STUB_CLOSE;
}

#define HEAD(status, fields) \
    "HTTP/1.1 " status "\r\nContent-Type: application/json\r\nConnection: close\r\n" fields "\r\n"
#define GOOD_BODY                                                                             \
    "{\"model\":\"stub-1\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":" \
    "{\"content\":\"fine\"}}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}"
#define GOOD HEAD("200 OK", "") GOOD_BODY
#define ERROR_BODY "{\"error\":{\"message\":\"no\",\"type\":\"server_error\"}}"
#define SSE "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
#define DELTA "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"fine\"}}]}\n\n"
#define GOOD_STREAM                                                                         \
    SSE DELTA "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]," \
              "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}\n\ndata: [DONE]\n\n"

static void run(void (*configure)(void *rig), void (*body_wait)(void *rig))
{
    rig_run_configured(configure, body_wait, scripted, NULL);
}

static void two_retries(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 4; i++) rig->providers[i].retries_max = 2;
    rig->config.retry_initial_ms = 10;
    rig->config.retry_burst = 1000;
}

static Reply ask_wait(Rig *rig, bool stream)
{
    return rig_say_wait(rig, API_CHAT, "stub-1", stream, "\"max_tokens\":20,", "hi");
}

/* A call without a socket; the answer's status, and its body in out. */
static int ask_memory_wait(GatewayTask *task, const char *model, bool stream, int64_t timeout_ms,
                           char out[1024])
{
    char body[256];
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    GatewayReply reply = gateway_memory_reply(&memory);
    snprintf(body, sizeof body,
             "{\"model\":\"%s\",%s\"max_tokens\":20,\"messages\":[{\"role\":\"user\",\"content\":"
             "\"hi\"}]}",
             model, stream ? "\"stream\":true," : "");
    GatewayRequest request = { .api = API_CHAT, .body = str_of(body), .timeout_ms = timeout_ms };
    (void)!gateway_call_wait(task, &request, &reply);
    int status = memory.status;
    if (out) str_copy(out, 1024, buf_str(&memory.body));
    gateway_memory_deinit(&memory);
    return status;
}

/* --- retries ---------------------------------------------------------------------------------- */

static void retried_wait(void *arg)
{
    static const Step failures[] = {
        { HEAD("429 Slow", "Retry-After-Ms: 20\r\n") ERROR_BODY, 0 },
        { HEAD("429 Slow", "Retry-After: 0\r\n") ERROR_BODY, 0 },
        { HEAD("429 Slow", "Retry-After: -7\r\n") ERROR_BODY, 0 },
        { HEAD("429 Slow", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n") ERROR_BODY, 0 },
        { HEAD("408 Late", "") ERROR_BODY, 0 },
        { HEAD("409 Conflict", "") ERROR_BODY, 0 },
        { HEAD("500 No", "") ERROR_BODY, 0 },
        { HEAD("502 No", "") "<html>", 0 },
        { HEAD("529 Overloaded", "") ERROR_BODY, 0 },
        { NULL, 0 },                                              /* closed without a word */
        { "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", 0 }, /* cut within a plain answer */
        { SSE, 0 },                                               /* a stream without an event */
        { SSE "data: {\"error\":{\"message\":\"Overloaded\"}}\n\n", 0 },
    };
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(failures); i++)
        for (int stream = 0; stream < 2; stream++) {
            size_t before = rig->calls_n;
            script_set((const Step[]){ failures[i], { stream ? GOOD_STREAM : GOOD, 0 } }, 2);
            CLEANUP(reply_deinit) Reply reply = ask_wait(rig, stream);
            bool ok = CHECK_INT(reply.status, 200) && CHECK_INT(atomic_load(&script.requests), 2) &&
                      CHECK_INT(rig->calls_n, before + 2) &&
                      CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_COMPLETE) &&
                      CHECK_INT(rig_last(rig)->call.tries, 2) &&
                      CHECK_INT(rig->holds_n, rig->calls_n);
            CHECK_HAS(reply_str(&reply), "fine");
            if (!ok) fprintf(stderr, "  for failure %zu, stream %d\n", i, stream);
        }
    rig_totals(rig);
}

static void test_what_time_mends_is_tried_again(void **state)
{
    (void)state;
    run(two_retries, retried_wait);
}

/* Attempts are 1 + retries, and the agent's SDK is told not to add its own. */
static void attempts_wait(void *arg)
{
    Rig *rig = arg;
    for (int stream = 0; stream < 2; stream++) {
        SCRIPT(
            { { HEAD("500 No", "x-should-retry: true\r\nx-request-id: r-1\r\n") ERROR_BODY, 0 } });
        CLEANUP(reply_deinit) Reply reply = ask_wait(rig, stream);
        CHECK_INT(reply.status, 500);
        CHECK_INT(atomic_load(&script.requests), 3);
        CHECK_STR(str_of(reply.retry), STR("false"));
        CHECK(str_find(str_of(reply.all), STR("x-should-retry: true")) < 0);
        CHECK_HAS(str_of(reply.all), "x-gantry-upstream-request-id: r-1\n");
        CHECK(str_find(str_of(reply.all), STR("\nx-request-id: r-1")) < 0);
        CHECK_STR(str_of(rig_last(rig)->upstream_id), STR("r-1"));
        CHECK_HAS(reply_str(&reply), "server_error");
    }
    SCRIPT({ { NULL, 0 } });
    CLEANUP(reply_deinit) Reply gone = ask_wait(rig, true);
    CHECK_INT(gone.status, 502);
    CHECK_STR(str_of(gone.retry), STR("false"));
    CHECK_INT(atomic_load(&script.requests), 3);
    CHECK_INT(rig->calls_n, 9);
    CHECK_INT(rig_totals(rig).cost_nusd, 0);
}

static void test_attempts_are_not_multiplied(void **state)
{
    (void)state;
    run(two_retries, attempts_wait);
}

static void final_wait(void *arg)
{
    static const Step finals[] = {
        { HEAD("400 No", "") ERROR_BODY, 0 },
        { HEAD("401 No", "") ERROR_BODY, 0 },
        { HEAD("402 No", "") ERROR_BODY, 0 },
        { HEAD("403 No", "") ERROR_BODY, 0 },
        { HEAD("404 No", "") ERROR_BODY, 0 },
        { HEAD("422 No", "") ERROR_BODY, 0 },
        { HEAD("302 Found", "Location: http://elsewhere/\r\n"), 0 },
        { HEAD("500 No", "X-Should-Retry: false\r\n") ERROR_BODY, 0 },
        { HEAD("429 Slow", "") "{\"error\":{\"code\":\"insufficient_quota\"}}", 0 },
        { HEAD("429 Slow", "") "{\"error\":{\"type\":\"insufficient_quota\"}}", 0 },
        { SSE DELTA, 0 }, /* cut when the agent has seen some of it */
        /* at the end: the model is left alone for so long */
        { HEAD("429 Slow", "Retry-After: 999999999\r\n") ERROR_BODY, 0 },
    };
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(finals); i++) {
        script_set(&finals[i], 1);
        CLEANUP(reply_deinit) Reply reply = ask_wait(rig, true);
        bool ok = CHECK_INT(atomic_load(&script.requests), 1) && CHECK_INT(rig->calls_n, i + 1);
        if (i >= 7 && reply.status != 200) ok &= CHECK_STR(str_of(reply.retry), STR("false"));
        if (!ok) fprintf(stderr, "  for case %zu: %d\n", i, reply.status);
    }
    char text[1024];
    SCRIPT({ { GOOD, 0 } });
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 5000, text), 429);
    CHECK_INT(atomic_load(&script.requests), 0); /* silence was asked for */
    CHECK_INT(ask_memory_wait(rig->task, "stub-2", false, 5000, text), 200);
}

static void test_what_time_does_not_mend_is_not(void **state)
{
    (void)state;
    run(two_retries, final_wait);
}

static void one_retry(void *arg)
{
    two_retries(arg);
    ((Rig *)arg)->providers[2].retries_max = 1;
    ((Rig *)arg)->config.retry_burst = 0; /* the default */
}

static void budget_wait(void *arg)
{
    Rig *rig = arg;
    GatewayLimitStats stats;
    SCRIPT({ { HEAD("500 No", "") ERROR_BODY, 0 } });
    for (int i = 0; i < 30; i++)
        CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 500);
    /* ten at once, and one more for ten calls */
    CHECK_INT(atomic_load(&script.requests), 30 + 12);
    gateway_limit_stats(rig->gateway, &stats);
    CHECK_INT(stats.retries, 12);
    CHECK_INT(stats.retries_exhausted, 18);
}

static void test_the_retry_budget_is_a_tenth(void **state)
{
    (void)state;
    run(one_retry, budget_wait);
}

/* --- fallbacks and breakers ------------------------------------------------------------------- */

static void breaking(void *arg)
{
    Rig *rig = arg;
    rig->config.breaker = (BreakerPolicy){ .window_ms = 60000,
                                           .calls_min = 3,
                                           .error_percent = 50,
                                           .slow_percent = 0,
                                           .slow_ms = 60000,
                                           .open_ms = 400,
                                           .open_max_ms = 400,
                                           .probes = 1 };
    rig->config.retry_initial_ms = 1;
}

static void breaking_and_retrying(void *arg)
{
    breaking(arg);
    two_retries(arg);
}

static BreakerState state_of(const Rig *rig, const char *name)
{
    static BreakerInfo info[16];
    size_t n = breakers_list(gateway_breakers(rig->gateway), info, 16);
    for (size_t i = 0; i < n; i++)
        if (strcmp(info[i].name, name) == 0) return info[i].state;
    return BREAKER_N_;
}

static void with_fallback_wait(Rig *rig)
{
    static const Str fallbacks[] = { { "stub-2", 6 } };
    rig->options.model = STR("stub-1");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = 1;
    rig_task_wait(rig, rig_no_limits);
}

static void breaker_wait(void *arg)
{
    Rig *rig = arg;
    SCRIPT({ { HEAD("500 No", "") ERROR_BODY, 0 } });
    for (int i = 0; i < 3; i++)
        CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 500);
    CHECK_INT(state_of(rig, "stub/stub-1"), BREAKER_OPEN);

    CLEANUP(reply_deinit) Reply refused = ask_wait(rig, false);
    CHECK_INT(refused.status, 503);
    CHECK_STR(str_of(refused.retry), STR("false"));
    CHECK_HAS(str_of(refused.all), "retry-after: 1\n");
    CHECK_HAS(reply_str(&refused), "upstream_unavailable");
    GatewayStats *counted = calloc(1, sizeof *counted);
    gateway_stats(rig->gateway, counted);
    CHECK_INT(counted->refused[GATEWAY_REFUSED_BREAKER], 1);
    free(counted);
    CHECK_INT(atomic_load(&script.requests), 3); /* it was not asked */
    CHECK_INT(rig->calls_n, 3);
    CHECK_INT(rig_totals(rig).calls_refused, 1);

    with_fallback_wait(rig);
    SCRIPT({ { GOOD, 0 } });
    CLEANUP(reply_deinit) Reply second = ask_wait(rig, false);
    CHECK_INT(second.status, 200);
    CHECK_HAS(str_of(second.all), "x-gantry-degraded: stub-2\n");
    CHECK_INT(atomic_load(&script.requests), 1);

    fiber_sleep_wait(450);
    CLEANUP(reply_deinit) Reply probe = ask_wait(rig, false);
    CHECK_INT(probe.status, 200);
    CHECK(str_find(str_of(probe.all), STR("x-gantry-degraded")) < 0);
    CHECK_INT(state_of(rig, "stub/stub-1"), BREAKER_CLOSED);
}

static void test_a_breaker_opens_and_a_probe_closes_it(void **state)
{
    (void)state;
    run(breaking, breaker_wait);
}

/* An open breaker ends the retries of the call that opened it; the next target gets all of its
 * own. */
static void order_wait(void *arg)
{
    Rig *rig = arg;
    with_fallback_wait(rig);
    SCRIPT({ { HEAD("500 No", "") ERROR_BODY, 0 },
             { HEAD("500 No", "") ERROR_BODY, 0 },
             { HEAD("500 No", "") ERROR_BODY, 0 },
             { HEAD("500 No", "") ERROR_BODY, 0 },
             { GOOD, 0 } });
    CLEANUP(reply_deinit) Reply reply = ask_wait(rig, false);
    CHECK_INT(reply.status, 200);
    CHECK_INT(atomic_load(&script.requests), 5);
    for (int i = 0; i < 5; i++) CHECK_HAS(str_of(script.bodies[i]), i < 3 ? "stub-1" : "stub-2");
    CHECK_INT(rig_last(rig)->call.tries, 5);
    CHECK_INT(rig->calls_n, 5);
    CHECK_INT(state_of(rig, "stub/stub-1"), BREAKER_OPEN);
    CHECK_INT(state_of(rig, "stub/stub-2"), BREAKER_CLOSED);
}

static void test_fallbacks_come_in_their_order(void **state)
{
    (void)state;
    run(breaking_and_retrying, order_wait);
}

/* As many fallbacks as a version may name, and its model: the last one is asked, too. */
static void all_fallbacks_wait(void *arg)
{
    static const Str fallbacks[MANIFEST_FALLBACKS_MAX] = { STR("stub-2"), STR("stub-3"),
                                                           STR("stub-4"), STR("stub-5"),
                                                           STR("stub-6"), STR("stub-7"),
                                                           STR("stub-8"), STR("stub-9") };
    Step steps[MANIFEST_FALLBACKS_MAX + 1];
    Rig *rig = arg;
    rig->options.model = STR("stub-1");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = ARRAY_N(fallbacks);
    rig_task_wait(rig, rig_no_limits);
    for (size_t i = 0; i < ARRAY_N(steps); i++)
        steps[i] = (Step){ i < ARRAY_N(fallbacks) ? HEAD("500 No", "") ERROR_BODY : GOOD, 0 };
    script_set(steps, ARRAY_N(steps));
    CLEANUP(reply_deinit) Reply reply = ask_wait(rig, false);
    CHECK_INT(reply.status, 200);
    CHECK_INT(atomic_load(&script.requests), ARRAY_N(steps));
    CHECK_STR(str_of(rig_last(rig)->model), STR("stub-9"));
}

static void test_all_fallbacks_are_asked(void **state)
{
    (void)state;
    run(NULL, all_fallbacks_wait);
}

static void untold_wait(void *arg)
{
    Rig *rig = arg;
    static const Step steps[] = { { HEAD("400 No", "") ERROR_BODY, 0 },
                                  { HEAD("429 Slow", "Retry-After: 0\r\n") ERROR_BODY, 0 } };
    for (size_t i = 0; i < ARRAY_N(steps); i++) {
        script_set(&steps[i], 1);
        for (int k = 0; k < 4; k++) (void)ask_memory_wait(rig->task, "stub-1", false, 0, NULL);
    }
    CHECK_INT(state_of(rig, "stub/stub-1"), BREAKER_CLOSED);
}

static void test_refusals_do_not_open_a_breaker(void **state)
{
    (void)state;
    run(breaking, untold_wait);
}

/* --- waiting for room ------------------------------------------------------------------------- */

typedef struct {
    GatewayTask *task;
    const char *model;
    bool stream;
    int64_t timeout_ms;
    int status;
    char text[1024];
    int64_t done_ms;
} Asker;

static int asker_main(void *arg)
{
    Asker *a = arg;
    a->status = ask_memory_wait(a->task, a->model, a->stream, a->timeout_ms, a->text);
    a->done_ms = clock_mono_ms();
    return 0;
}

static FiberRef asker_start(Asker *a, GatewayTask *task, int64_t timeout_ms)
{
    FiberRef ref;
    a->task = task;
    if (!a->model) a->model = "stub-1";
    a->timeout_ms = timeout_ms;
    CHECK_INT(fiber_spawn("asker", asker_main, a, &ref), 0);
    return ref;
}

static uint64_t waiting(const Rig *rig)
{
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    return stats.waiting[LANE_CRITICAL] + stats.waiting[LANE_NORMAL] + stats.waiting[LANE_LOW];
}

static void waiting_wait(const Rig *rig, uint64_t n)
{
    for (int i = 0; i < 2000 && waiting(rig) != n; i++) fiber_sleep_wait(2);
    CHECK_INT(waiting(rig), n);
}

static void one_at_a_time(void *arg)
{
    Rig *rig = arg;
    rig->providers[2].concurrent_max = 1;
    rig->config.waiting_max = 8;
    rig->config.heartbeat_after_ms = 60;
    rig->config.heartbeat_every_ms = 60;
}

static GatewayTask *task_in_lane(Rig *rig, Lane lane)
{
    GatewayTask *task = NULL;
    rig->options.lane = lane;
    rig->options.spent.started_ms = clock_mono_ms();
    CHECK_INT(gateway_task_open(rig->gateway, &rig->options, &task), 0);
    return task;
}

static void lanes_wait(void *arg)
{
    Rig *rig = arg;
    SCRIPT({ { GOOD, 200 }, { GOOD, 20 } });
    static const Lane lanes[] = { LANE_CRITICAL, LANE_LOW, LANE_NORMAL, LANE_CRITICAL };
    static Asker askers[4];
    GatewayTask *tasks[4];
    FiberRef refs[4];
    for (size_t i = 0; i < 4; i++) {
        askers[i] = (Asker){ 0 };
        tasks[i] = task_in_lane(rig, lanes[i]);
        refs[i] = asker_start(&askers[i], tasks[i], 0);
        waiting_wait(rig, i); /* the first one is sent, the others wait */
    }
    for (size_t i = 0; i < 4; i++) (void)!fiber_join_wait(refs[i], NULL);
    for (size_t i = 0; i < 4; i++) CHECK_INT(askers[i].status, 200);
    CHECK_INT(atomic_load(&script.open_max), 1);
    CHECK(askers[0].done_ms <= askers[3].done_ms);
    CHECK(askers[3].done_ms <= askers[2].done_ms);
    CHECK(askers[2].done_ms <= askers[1].done_ms);
    for (size_t i = 0; i < 4; i++) gateway_task_close_wait(tasks[i], deadline_after(1000));
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    CHECK_INT(stats.waited[LANE_CRITICAL] + stats.waited[LANE_NORMAL] + stats.waited[LANE_LOW], 3);
}

static void test_who_waits_goes_by_lane(void **state)
{
    (void)state;
    run(one_at_a_time, lanes_wait);
}

/* The heartbeat has fixed the status, so what is refused later is an event of the stream. */
static void heartbeat_wait(void *arg)
{
    Rig *rig = arg;
    static Asker first, second, third;
    SCRIPT({ { GOOD, 1500 }, { GOOD_STREAM, 0 } });
    first = second = third = (Asker){ .stream = true };
    first.stream = false;
    FiberRef a = asker_start(&first, rig->task, 0);
    for (int i = 0; i < 500 && atomic_load(&script.requests) == 0; i++) fiber_sleep_wait(2);
    FiberRef b = asker_start(&second, rig->task, 400), c = asker_start(&third, rig->task, 0);
    (void)!fiber_join_wait(b, NULL);
    CHECK_INT(second.status, 200);
    CHECK(str_starts_with(str_of(second.text), STR(": waiting\n\n: waiting\n\n")));
    CHECK_HAS(str_of(second.text), "rate_limit_exceeded");
    CHECK_HAS(str_of(second.text), "data: {\"error\"");
    CHECK(str_find(str_of(second.text), STR("[DONE]")) < 0);
    (void)!fiber_join_wait(a, NULL);
    (void)!fiber_join_wait(c, NULL);
    CHECK_INT(third.status, 200);
    CHECK(str_starts_with(str_of(third.text), STR(": waiting\n\n")));
    CHECK(str_ends_with(str_of(third.text), STR("data: [DONE]\n\n")));
    CHECK_INT(rig->calls_n, 2); /* the one refused was never sent */
    CHECK_INT(rig_last(rig)->call.status, 200);
    rig_totals(rig);
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    CHECK_INT(stats.overdue, 1);
    CHECK(stats.heartbeats >= 3);
}

static void test_heartbeats_then_an_error_event(void **state)
{
    (void)state;
    run(one_at_a_time, heartbeat_wait);
}

/* The agent's SDK says how long it waits: it is answered before that. */
static void patience_wait(void *arg)
{
    Rig *rig = arg;
    static Asker first;
    first = (Asker){ 0 };
    SCRIPT({ { GOOD, 2500 } });
    FiberRef ref = asker_start(&first, rig->task, 0);
    for (int i = 0; i < 500 && atomic_load(&script.requests) == 0; i++) fiber_sleep_wait(2);
    static const char *const names[] = { "x-stainless-timeout", "x-stainless-read-timeout" };
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        char url[256];
        HttpClientField field = { names[i], STR("1.0") };
        HttpCallOptions options = {
            .url = str_make(url, rig_url(rig, "/v1/chat/completions", url)),
            .fields = &field,
            .fields_n = 1,
            .body = STR("{\"model\":\"stub-1\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\","
                        "\"content\":\"hi\"}]}"),
        };
        HttpCall *call = NULL;
        CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
        CHECK_INT(http_call_status(call), 429);
        CHECK(!str_empty(http_call_field(call, "retry-after")));
        http_call_free(call);
    }
    CHECK_INT(atomic_load(&script.requests), 1); /* the first one is still there */
    (void)!fiber_join_wait(ref, NULL);
    CHECK_INT(first.status, 200);
}

static void test_refusals_come_before_the_client_gives_up(void **state)
{
    (void)state;
    run(one_at_a_time, patience_wait);
}

static void full_wait(void *arg)
{
    Rig *rig = arg;
    static Asker askers[9];
    FiberRef refs[9];
    SCRIPT({ { GOOD, 300 }, { GOOD, 0 } });
    for (size_t i = 0; i < 9; i++) {
        askers[i] = (Asker){ 0 };
        refs[i] = asker_start(&askers[i], rig->task, 0);
    }
    waiting_wait(rig, 8);
    CLEANUP(reply_deinit) Reply refused = ask_wait(rig, false);
    CHECK_INT(refused.status, 429);
    CHECK_HAS(str_of(refused.all), "retry-after: ");
    CHECK_HAS(reply_str(&refused), "too many calls wait");
    for (size_t i = 0; i < 9; i++) (void)!fiber_join_wait(refs[i], NULL);
    for (size_t i = 0; i < 9; i++) CHECK_INT(askers[i].status, 200);
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    CHECK_INT(stats.queue_full, 1);
}

static void test_the_queue_has_an_end(void **state)
{
    (void)state;
    run(one_at_a_time, full_wait);
}

static void stopped_wait(void *arg)
{
    Rig *rig = arg;
    static Asker first, second;
    first = second = (Asker){ 0 };
    SCRIPT({ { GOOD, 300 } });
    FiberRef a = asker_start(&first, rig->task, 0);
    for (int i = 0; i < 500 && atomic_load(&script.requests) == 0; i++) fiber_sleep_wait(2);
    FiberRef b = asker_start(&second, rig->task, 0);
    waiting_wait(rig, 1);
    gateway_task_stop(rig->task, GATEWAY_STOP_FINISHED);
    (void)!fiber_join_wait(b, NULL);
    CHECK_INT(second.status, 403);
    (void)!fiber_join_wait(a, NULL);
    CHECK_INT(first.status, 200);
    CHECK_INT(atomic_load(&script.requests), 1);
    rig_totals(rig);
    rig_task_wait(rig, rig_no_limits);
}

static void test_a_stopped_task_does_not_wait(void **state)
{
    (void)state;
    run(one_at_a_time, stopped_wait);
}

static void cancelled_wait(void *arg)
{
    Rig *rig = arg;
    static Asker first, second;
    first = second = (Asker){ 0 };
    SCRIPT({ { GOOD, 200 } });
    FiberRef a = asker_start(&first, rig->task, 0);
    for (int i = 0; i < 500 && atomic_load(&script.requests) == 0; i++) fiber_sleep_wait(2);
    FiberRef b = asker_start(&second, rig->task, 0);
    waiting_wait(rig, 1);
    fiber_cancel(b);
    (void)!fiber_join_wait(b, NULL);
    CHECK_INT(waiting(rig), 0);
    (void)!fiber_join_wait(a, NULL);
    rig_totals(rig);
}

static void test_a_cancelled_call_leaves_the_queue(void **state)
{
    (void)state;
    run(one_at_a_time, cancelled_wait);
}

static void three_a_minute(void *arg)
{
    Rig *rig = arg;
    rig->routes[2].requests_per_minute_max = 3;
}

static void per_minute_wait(void *arg)
{
    Rig *rig = arg;
    SCRIPT({ { GOOD, 0 } });
    for (int i = 0; i < 3; i++)
        CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    char text[1024];
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 100, text), 429);
    CHECK_HAS(str_of(text), "rate_limit_exceeded");
    CHECK_INT(ask_memory_wait(rig->task, "stub-2", false, 100, text), 200); /* has its own */
    CHECK_INT(atomic_load(&script.requests), 4);
    static GatewayLimit list[GATEWAY_LIMITS_MAX];
    size_t n = gateway_limits_list(rig->gateway, list, GATEWAY_LIMITS_MAX);
    bool seen = false;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].model, "stub-1") != 0) continue;
        seen = true;
        CHECK_STR(str_of(list[i].provider), STR("stub"));
        CHECK_INT(list[i].configured.v[RATE_REQUESTS], 3);
        CHECK_INT(list[i].used.v[RATE_REQUESTS], 3);
        CHECK_INT(list[i].used.v[RATE_TOKENS], 45); /* as reported, not as held */
    }
    CHECK(seen);
}

static void test_requests_a_minute(void **state)
{
    (void)state;
    run(three_a_minute, per_minute_wait);
}

static int count_tokens_wait(Rig *rig)
{
    CLEANUP(reply_deinit)
    Reply reply = rig_request_wait(rig, "/v1/messages/count_tokens",
                                   STR("{\"model\":\"stub-1\",\"messages\":[{\"role\":\"user\","
                                       "\"content\":\"hi\"}]}"));
    return reply.status;
}

/* To have tokens counted costs nothing, but is a request like others. */
static void counted_wait(void *arg)
{
    Rig *rig = arg;
    char text[1024];
    SCRIPT({ { HEAD("200 OK", "") "{\"input_tokens\":7}", 0 },
             { HEAD("200 OK", "") "{\"input_tokens\":7}", 0 },
             { GOOD, 0 } });
    for (int i = 0; i < 2; i++) CHECK_INT(count_tokens_wait(rig), 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 100, text), 429);
    CHECK_INT(atomic_load(&script.requests), 3);
    CHECK_INT(rig->calls_n, 1);
    static GatewayLimit list[GATEWAY_LIMITS_MAX];
    size_t n = gateway_limits_list(rig->gateway, list, GATEWAY_LIMITS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].model, "stub-1") != 0) continue;
        CHECK_INT(list[i].used.v[RATE_REQUESTS], 3);
        CHECK_INT(list[i].used.v[RATE_TOKENS], 15); /* of the call alone */
        CHECK_INT(list[i].in_flight, 0);
    }
}

static void three_messages_a_minute(void *arg)
{
    Rig *rig = arg;
    rig->routes[2].requests_per_minute_max = rig->routes[3].requests_per_minute_max = 3;
}

static void test_counting_tokens_is_a_request(void **state)
{
    (void)state;
    run(three_messages_a_minute, counted_wait);
}

/* Nor is a provider asked that does not answer; and silence that it asks for holds for all. */
static void counted_breaker_wait(void *arg)
{
    Rig *rig = arg;
    char text[1024];
    SCRIPT({ { HEAD("429 Slow", "Retry-After: 30\r\n") ERROR_BODY, 0 } });
    CHECK_INT(count_tokens_wait(rig), 429);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 100, text), 429);
    CHECK_INT(atomic_load(&script.requests), 1);
}

static void counted_open_wait(void *arg)
{
    Rig *rig = arg;
    SCRIPT({ { HEAD("500 No", "") ERROR_BODY, 0 } });
    for (int i = 0; i < 3; i++) CHECK_INT(count_tokens_wait(rig), 500);
    CHECK_INT(state_of(rig, "stub/stub-1"), BREAKER_OPEN);
    CHECK_INT(count_tokens_wait(rig), 503);
    CHECK_INT(atomic_load(&script.requests), 3);
}

static void test_counting_tokens_heeds_breakers(void **state)
{
    (void)state;
    run(NULL, counted_breaker_wait);
    run(breaking, counted_open_wait);
}

static void learned_wait(void *arg)
{
    Rig *rig = arg;
    SCRIPT(
        { { HEAD("200 OK", "x-ratelimit-limit-requests: 2\r\nx-ratelimit-remaining-requests: 0\r\n"
                           "x-ratelimit-reset-requests: 300ms\r\n") GOOD_BODY,
            0 },
          { GOOD, 0 } });
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    /* one of the two was somebody else's; their share comes back by and by */
    CHECK(script.at_ms[1] - script.at_ms[0] >= 250);
    char text[1024];
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 200, text), 429);
    CHECK_INT(atomic_load(&script.requests), 2);
}

static void test_limits_are_learned_from_answers(void **state)
{
    (void)state;
    run(NULL, learned_wait);
}

/* One call is told to wait, and all others of the model wait with it. */
static void shared_silence_wait(void *arg)
{
    Rig *rig = arg;
    static Asker askers[5];
    FiberRef refs[5];
    SCRIPT({ { HEAD("429 Slow", "Retry-After-Ms: 300\r\n") ERROR_BODY, 0 }, { GOOD, 0 } });
    askers[0] = (Asker){ 0 };
    refs[0] = asker_start(&askers[0], rig->task, 0);
    for (int i = 0; i < 500 && rig->calls_n == 0; i++) fiber_sleep_wait(2);
    for (size_t i = 1; i < 5; i++) {
        askers[i] = (Asker){ 0 };
        refs[i] = asker_start(&askers[i], rig->task, 0);
    }
    for (size_t i = 0; i < 5; i++) (void)!fiber_join_wait(refs[i], NULL);
    for (size_t i = 0; i < 5; i++) CHECK_INT(askers[i].status, 200);
    for (int i = 1; i < 6; i++) CHECK(script.at_ms[i] - script.at_ms[0] >= 295);
    CHECK_INT(atomic_load(&script.requests), 6);
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    CHECK_INT(stats.throttled, 1);
}

static void test_silence_is_kept_by_all(void **state)
{
    (void)state;
    run(two_retries, shared_silence_wait);
}

/* Names come from agents: those beyond the table share what is left, and nothing is forgotten. */
static void many_models_wait(void *arg)
{
    Rig *rig = arg;
    char model[32];
    SCRIPT({ { GOOD, 0 } });
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    for (int i = 0; i < 300; i++) {
        snprintf(model, sizeof model, "stub-x%d", i);
        CHECK_INT(ask_memory_wait(rig->task, model, false, 0, NULL), 200);
    }
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    CHECK_INT(stats.models_full, 300 - 255);
    for (int i = 0; i < 2; i++)
        CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 100, NULL), 429);
}

static void test_new_names_do_not_make_a_limit_forgotten(void **state)
{
    (void)state;
    run(three_a_minute, many_models_wait);
}

/* --- shares ----------------------------------------------------------------------------------- */

static GatewayShare share_of(const char *model, int64_t requests)
{
    GatewayShare share = { .provider = "stub" };
    snprintf(share.model, sizeof share.model, "%s", model);
    for (int unit = 0; unit < LIMIT_UNITS; unit++) share.v[unit] = INT64_MAX / 4;
    share.v[RATE_REQUESTS] = requests;
    return share;
}

/* What has a limit needs a share; a call without one asks for it and waits. */
static void share_wait(void *arg)
{
    Rig *rig = arg;
    static Asker asker;
    asker = (Asker){ 0 };
    SCRIPT({ { GOOD, 0 } });
    gateway_set_sharing(rig->gateway, true);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 50, NULL), 429);
    FiberRef ref = asker_start(&asker, rig->task, 0);
    CHECK_INT(gateway_lack_wait(rig->gateway, deadline_after(5000)), 0);
    static GatewayLimit list[GATEWAY_LIMITS_MAX];
    size_t n = gateway_limits_list(rig->gateway, list, GATEWAY_LIMITS_MAX);
    for (size_t i = 0; i < n; i++) {
        const ShareAsk *ask = &list[i].asks[RATE_REQUESTS];
        bool asked = strcmp(list[i].provider, "stub") == 0;
        CHECK_INT(ask->first, asked);
        CHECK_INT(ask->want[LANE_CRITICAL] + ask->want[LANE_NORMAL], asked);
    }
    GatewayShare two = share_of("stub-1", 2);
    gateway_take_shares(rig->gateway, &two, 1, deadline_after(60000));
    (void)!fiber_join_wait(ref, NULL);
    CHECK_INT(asker.status, 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 50, NULL), 429); /* the share is used */
    GatewayShare more = share_of("stub-1", 50);
    gateway_take_shares(rig->gateway, &more, 1, deadline_after(60000));
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 50, NULL), 429); /* three a minute */
    gateway_take_shares(rig->gateway, &more, 1, clock_mono_ms());          /* its time is over */
    gateway_set_sharing(rig->gateway, false);
    CHECK_INT(atomic_load(&script.requests), 3);
}

/* What another worker was told: silence, and a limit. It is kept, and not told on. */
static void heard_wait(void *arg)
{
    Rig *rig = arg;
    char text[1024];
    SCRIPT({ { GOOD, 0 } });
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 200);
    GatewayShare heard = share_of("stub-1", 1000);
    heard.silent_ms = 60000;
    heard.learned.v[RATE_REQUESTS] = 7;
    gateway_take_shares(rig->gateway, &heard, 1, deadline_after(60000));
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 100, text), 429);
    CHECK_INT(ask_memory_wait(rig->task, "stub-2", false, 0, NULL), 200);
    CHECK_INT(atomic_load(&script.requests), 2);
    static GatewayLimit list[GATEWAY_LIMITS_MAX];
    size_t n = gateway_limits_list(rig->gateway, list, GATEWAY_LIMITS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(list[i].model, "stub-1") != 0) continue;
        CHECK(list[i].blocked_ms > 0);
        CHECK_INT(list[i].silent_ms, 0);
        CHECK_INT(list[i].learned.v[RATE_REQUESTS], 7);
    }
}

/* What it was told itself is to be told at once. */
static void told_wait(void *arg)
{
    Rig *rig = arg;
    SCRIPT({ { HEAD("429 Slow", "Retry-After: 30\r\n") ERROR_BODY, 0 } });
    FiberRef ref;
    static Asker asker;
    asker = (Asker){ 0 };
    ref = asker_start(&asker, rig->task, 500);
    CHECK_INT(gateway_lack_wait(rig->gateway, deadline_after(20000)), 0);
    (void)!fiber_join_wait(ref, NULL);
    static GatewayLimit list[GATEWAY_LIMITS_MAX];
    size_t n = gateway_limits_list(rig->gateway, list, GATEWAY_LIMITS_MAX);
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].model, "stub-1") == 0) CHECK(list[i].silent_ms > 10000);
}

/* What this worker tells of its own breaker of the model; -1: nothing of the model. */
static int64_t told_open_ms(const Rig *rig, const char *model)
{
    static GatewayLimit list[GATEWAY_LIMITS_MAX];
    size_t n = gateway_limits_list(rig->gateway, list, GATEWAY_LIMITS_MAX);
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].model, model) == 0) return list[i].open_ms;
    return -1;
}

static void heard_open_wait(void *arg)
{
    Rig *rig = arg;
    char text[1024];
    rig->config.breaker.open_ms = rig->config.breaker.open_max_ms = 60000;
    SCRIPT({ { HEAD("500 No", "") ERROR_BODY, 0 } });
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 500);
    CHECK_INT(told_open_ms(rig, "stub-1"), 0);
    GatewayShare heard = share_of("stub-1", 1000);
    heard.open_ms = 60000;
    gateway_take_shares(rig->gateway, &heard, 1, deadline_after(60000));
    CHECK_INT(state_of(rig, "stub/stub-1"), BREAKER_OPEN);
    CHECK_INT(told_open_ms(rig, "stub-1"), 0); /* only what was seen here is told on */
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, NULL), 500); /* a probe, */
    CHECK_INT(ask_memory_wait(rig->task, "stub-1", false, 0, text), 503); /* and no more */
    CHECK(told_open_ms(rig, "stub-1") > 0);
    CHECK_INT(atomic_load(&script.requests), 2);
}

static void test_open_breakers_are_told_and_heard(void **state)
{
    (void)state;
    run(breaking, heard_open_wait);
}

static void test_silence_is_told_and_heard(void **state)
{
    (void)state;
    run(NULL, heard_wait);
    run(NULL, told_wait);
}

static void test_limits_are_shared(void **state)
{
    (void)state;
    run(three_a_minute, share_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_time_mends_is_tried_again),
        cmocka_unit_test(test_attempts_are_not_multiplied),
        cmocka_unit_test(test_what_time_does_not_mend_is_not),
        cmocka_unit_test(test_the_retry_budget_is_a_tenth),
        cmocka_unit_test(test_a_breaker_opens_and_a_probe_closes_it),
        cmocka_unit_test(test_fallbacks_come_in_their_order),
        cmocka_unit_test(test_all_fallbacks_are_asked),
        cmocka_unit_test(test_refusals_do_not_open_a_breaker),
        cmocka_unit_test(test_who_waits_goes_by_lane),
        cmocka_unit_test(test_heartbeats_then_an_error_event),
        cmocka_unit_test(test_refusals_come_before_the_client_gives_up),
        cmocka_unit_test(test_the_queue_has_an_end),
        cmocka_unit_test(test_a_stopped_task_does_not_wait),
        cmocka_unit_test(test_a_cancelled_call_leaves_the_queue),
        cmocka_unit_test(test_requests_a_minute),
        cmocka_unit_test(test_counting_tokens_is_a_request),
        cmocka_unit_test(test_counting_tokens_heeds_breakers),
        cmocka_unit_test(test_limits_are_learned_from_answers),
        cmocka_unit_test(test_silence_is_kept_by_all),
        cmocka_unit_test(test_new_names_do_not_make_a_limit_forgotten),
        cmocka_unit_test(test_limits_are_shared),
        cmocka_unit_test(test_open_breakers_are_told_and_heard),
        cmocka_unit_test(test_silence_is_told_and_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
