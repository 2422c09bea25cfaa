/* One test for each class of mistakes that gateways in the field have shipped; each is named by
 * what must hold. What needs processes is in tests/e2e/field-bugs.test. */
#include "tests/unit/gateway_rig.h"

#include "gateway/gateway_limits.h"
#include "logic/rate.h"

/* --- a provider that is told what to answer --------------------------------------------------- */

typedef struct {
    atomic_int in, out, cached, delay_ms, status, retry_after;
    atomic_int requests, open, open_max;
    pthread_mutex_t lock;
    char path[512], host[128], body[4096];
} Provider;

static Provider provider = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void provider_set(int in, int out, int delay_ms)
{
    atomic_store(&provider.in, in);
    atomic_store(&provider.out, out);
    atomic_store(&provider.cached, 0);
    atomic_store(&provider.delay_ms, delay_ms);
    atomic_store(&provider.status, 200);
    atomic_store(&provider.retry_after, 0);
    atomic_store(&provider.requests, 0);
    atomic_store(&provider.open_max, 0);
}

static StubEnd provider_answer(StubRequest *request, void *ctx)
{
    (void)ctx;
    char body[512], head[512];
    int open = atomic_fetch_add(&provider.open, 1) + 1, status = atomic_load(&provider.status);
    if (open > atomic_load(&provider.open_max)) atomic_store(&provider.open_max, open);
    pthread_mutex_lock(&provider.lock);
    str_copy(provider.path, sizeof provider.path, request->path);
    str_copy(provider.host, sizeof provider.host, stub_field(request, "host"));
    str_copy(provider.body, sizeof provider.body, request->body);
    pthread_mutex_unlock(&provider.lock);
    if (atomic_load(&provider.delay_ms)) stub_sleep_ms(atomic_load(&provider.delay_ms));
    int in = atomic_load(&provider.in), out = atomic_load(&provider.out);
    snprintf(
        body, sizeof body,
        "{\"model\":\"stub-1\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{"
        "\"content\":\"fine\"}}],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"
        "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d}}}",
        in, out, in + out, atomic_load(&provider.cached));
    snprintf(head, sizeof head,
             "HTTP/1.1 %d OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n"
             "connection: close\r\n\r\n",
             status, strlen(body));
    atomic_fetch_sub(&provider.open, 1);
    atomic_fetch_add(&provider.requests, 1);
    stub_sends(request, head);
    stub_sends(request, body);
    return STUB_CLOSE;
}

static void run(void (*body_wait)(void *rig))
{
    rig_run_with(body_wait, provider_answer, NULL);
}

/* A call of a fixed size: at worst 1 micro-USD for each byte of in_ub and 2 for each of 100
 * tokens out. */
#define CALL \
    "{\"model\":\"stub-1\",\"max_tokens\":100,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"
#define CALL_IN ((int64_t)sizeof CALL - 1 + 16)
#define CALL_HOLD_NUSD ((CALL_IN + 200) * 1000)

static CapLimits money(int64_t nusd)
{
    return (CapLimits){ CAP_NONE, CAP_NONE, nusd, CAP_NONE };
}

typedef struct {
    Rig *rig;
    int status;
    int64_t timeout_ms;
    const char *body;
} Caller;

/* Without a socket, as a builtin agent calls. */
static int caller_main(void *arg)
{
    Caller *caller = arg;
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    GatewayReply reply = gateway_memory_reply(&memory);
    GatewayRequest request = { .api = API_CHAT,
                               .body = str_of(caller->body ? caller->body : CALL),
                               .timeout_ms = caller->timeout_ms };
    (void)!gateway_call_wait(caller->rig->task, &request, &reply);
    caller->status = memory.status;
    gateway_memory_deinit(&memory);
    return 0;
}

/* n at once; how many were answered with status. */
static int crowd_wait(Rig *rig, int n, int status)
{
    Caller *callers = calloc((size_t)n, sizeof *callers);
    FiberRef *fibers = calloc((size_t)n, sizeof *fibers);
    int found = 0;
    for (int i = 0; i < n; i++) {
        callers[i] = (Caller){ .rig = rig, .timeout_ms = 20000 };
        CHECK_INT(fiber_spawn("caller", caller_main, &callers[i], &fibers[i]), 0);
    }
    for (int i = 0; i < n; i++) {
        fiber_join_wait(fibers[i], NULL);
        found += callers[i].status == status;
    }
    free(callers);
    free(fibers);
    return found;
}

static int one_wait(Rig *rig)
{
    Caller caller = { .rig = rig, .timeout_ms = 20000 };
    caller_main(&caller);
    return caller.status;
}

/* --- check, then add -------------------------------------------------------------------------- */

static void one_fits_wait(void *arg)
{
    Rig *rig = arg;
    static const int crowds[] = { 8, 64 };
    for (size_t i = 0; i < ARRAY_N(crowds); i++) {
        provider_set((int)CALL_IN, 100, 20); /* costs all that is held */
        rig_task_wait(rig,
                      money(CALL_HOLD_NUSD)); /* the task's first calls: nothing is known yet */
        CHECK_INT(crowd_wait(rig, crowds[i], 200), 1);
        CHECK_INT(atomic_load(&provider.requests), 1);
        CHECK_INT(atomic_load(&provider.open_max), 1);
        CHECK_INT(rig_totals(rig).caps.settled_nusd, CALL_HOLD_NUSD);
        CHECK_INT(one_wait(rig), 402);
    }
}

static void test_of_many_at_once_with_room_for_one_one_is_admitted(void **state)
{
    (void)state;
    run(one_fits_wait);
}

/* --- reservations that are skipped, or too small ---------------------------------------------- */

static void skipped_wait(void *arg)
{
    Rig *rig = arg;
    provider_set(1, 1, 0);
    rig_task_wait(rig, money(NUSD_PER_USD));
    CLEANUP(reply_deinit)
    Reply unknown = rig_say_wait(rig, API_CHAT, "unpriced-model", false, "", "hi");
    CHECK_INT(unknown.status, 400);
    CHECK_HAS(reply_str(&unknown), "unknown_price");
    CLEANUP(reply_deinit)
    Reply tier = rig_say_wait(rig, API_CHAT, "stub-1", false, "\"service_tier\":\"priority\",",
                              "hi");
    CHECK_INT(tier.status, 400);
    /* $0.60 at worst, $0.45 left, and nothing to cut off: an embedding of 600,000 bytes */
    rig_task_wait(rig, money(450000000));
    Buf body;
    buf_init(&body, 1 << 20);
    buf_add(&body, STR("{\"model\":\"stub-1\",\"input\":\""));
    while (body.len < 600000) buf_add_char(&body, 'x');
    buf_add(&body, STR("\"}"));
    CLEANUP(reply_deinit) Reply large = rig_post_wait(rig, API_EMBEDDINGS, body.ptr);
    CHECK_INT(large.status, 402);
    buf_deinit(&body);
    CHECK_INT(atomic_load(&provider.requests), 0);
    CHECK_INT(rig->calls_n, 1);
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_REFUSED);
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 0);
}

static void test_what_cannot_be_reserved_in_full_is_not_sent(void **state)
{
    (void)state;
    run(skipped_wait);
}

/* --- refusals for no reason ------------------------------------------------------------------- */

static void falsely_wait(void *arg)
{
    Rig *rig = arg;
    /* eight at once, money for the worst case of one, and each costs next to nothing */
    provider_set(1, 1, 5);
    rig_task_wait(rig, money(CALL_HOLD_NUSD + 8 * 3000));
    CHECK_INT(crowd_wait(rig, 8, 200), 8);
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 8 * 3000);

    /* tenths add up to one: the tenth call spends the last nano-dollar, the next finds none */
    provider_set((int)CALL_IN, 100, 0);
    rig_task_wait(rig, money(10 * CALL_HOLD_NUSD));
    for (int i = 0; i < 10; i++) CHECK_INT(one_wait(rig), 200);
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 10 * CALL_HOLD_NUSD);
    CHECK_INT(one_wait(rig), 402);

    /* fourteen cents of two thousand dollars */
    provider_set(1, 1, 0);
    rig->options.spent.settled_nusd = 144000000;
    rig_task_wait(rig, money(2000 * NUSD_PER_USD));
    CHECK_INT(one_wait(rig), 200);
    rig->options.spent.settled_nusd = 0;
}

static void test_what_is_only_reserved_makes_calls_wait_and_never_refuses_them(void **state)
{
    (void)state;
    run(falsely_wait);
}

/* --- ways around ------------------------------------------------------------------------------ */

static void bypass_wait(void *arg)
{
    Rig *rig = arg;
    provider_set(1, 1, 0);
    rig->options.spent.settled_nusd = 1000;
    rig_task_wait(rig, money(1000)); /* nothing is left */
    /* (counting tokens, /v1/messages/count_tokens, is free at the provider's) */
    static const char *const paths[] = {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/completions",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/V1/chat/completions",
        "/v1/chat/completions?api_base=http://127.0.0.1:1",
        "/v1/./chat/completions",
        "/v1/chat/../chat/completions",
        "/v1/chat%2fcompletions",
        "/v1%2Fchat/completions",
        "/openai/v1/chat/completions",
        "/anthropic/v1/messages",
        "/passthrough/v1/messages",
        "/v1/messages/count_tokens/x",
        "/v1/messages/batches",
        "/v1/batches",
        "/v1/files",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/realtime",
        "/chat/completions",
        "/gantry/v1/../../v1/chat/completions",
        "/sim/reset",
        "/v1/chat/completions;x",
    };
    static const char body[] =
        "{\"model\":\"stub-1\",\"max_tokens\":100,\"input\":\"hi\",\"messages\":[{"
        "\"role\":\"user\",\"content\":\"hi\"}]}";
    for (size_t i = 0; i < ARRAY_N(paths); i++) {
        CLEANUP(reply_deinit) Reply reply = rig_request_wait(rig, paths[i], str_of(body));
        if (i < 4) CHECK_INT(reply.status, 402);
        else if (!CHECK(reply.status >= 400 && reply.status < 500))
            fprintf(stderr, "%s\n", paths[i]);
    }
    CHECK_INT(atomic_load(&provider.requests), 0);
    CHECK_INT(rig->calls_n, 1); /* the first refusal is told */
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_REFUSED);
    SimStats bill;
    sim_stats(rig->sim, &bill);
    CHECK_INT(bill.input_tokens, 0);
    rig->options.spent.settled_nusd = 0;
}

static void test_no_path_leads_past_admission(void **state)
{
    (void)state;
    run(bypass_wait);
}

/* --- the account against the bill ------------------------------------------------------------- */

static void ledger_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const models[] = { "sim/echo", "sim/assistant", "sim/fail", "sim/usage-each",
                                          "sim/usage-twice" };
    for (int i = 0; i < 110; i++) {
        Api api = i % 3 == 0 ? API_MESSAGES : API_CHAT;
        char text[64];
        snprintf(text, sizeof text, "question number %d", i);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, api, models[i % 5], i % 2, rig_cap(api), text);
        CHECK(reply.status == 200 || reply.status == 500);
    }
    SimStats bill;
    sim_stats(rig->sim, &bill);
    int64_t tokens = 0, nusd = 0;
    for (size_t i = 0; i < rig->calls_n; i++) {
        tokens += rig->calls[i].call.charged.tokens;
        nusd += rig->calls[i].call.charged.nusd;
    }
    GatewayTotals totals = rig_totals(rig);
    CHECK(rig->calls_n >= 110 && bill.input_tokens > 0);
    CHECK_INT(tokens, bill.input_tokens + bill.output_tokens);
    CHECK_INT(totals.caps.settled_tokens, tokens);
    CHECK_INT(totals.caps.settled_nusd, nusd);
    CHECK_INT(totals.cost_nusd, nusd);
}

static void test_the_ledger_is_the_providers_bill_over_110_requests(void **state)
{
    (void)state;
    run(ledger_wait);
}

/* --- what was spent too much ------------------------------------------------------------------ */

static void overshoot_wait(void *arg)
{
    Rig *rig = arg;
    provider_set((int)CALL_IN * 3, 300, 0); /* thrice what can be */
    rig_task_wait(rig, money(2 * CALL_HOLD_NUSD));
    CHECK_INT(one_wait(rig), 200);
    GatewayTotals totals;
    gateway_task_totals(rig->task, &totals);
    CHECK_INT(totals.caps.settled_nusd, 3 * CALL_HOLD_NUSD);
    CHECK_INT(one_wait(rig), 402);
    /* nor is it forgotten by the task's next attempt */
    rig->options.spent.settled_nusd = totals.caps.settled_nusd;
    rig_task_wait(rig, money(2 * CALL_HOLD_NUSD));
    CHECK_INT(one_wait(rig), 402);
    CHECK_INT(atomic_load(&provider.requests), 1);
    rig->options.spent.settled_nusd = 0;
}

static void test_an_overshoot_stays_booked(void **state)
{
    (void)state;
    run(overshoot_wait);
}

/* --- one cap for all of a task ---------------------------------------------------------------- */

static void one_cap_wait(void *arg)
{
    Rig *rig = arg;
    provider_set((int)CALL_IN, 100, 10);
    rig_task_wait(rig, money(3 * CALL_HOLD_NUSD));
    Caller inside = { .rig = rig, .timeout_ms = 20000 };
    FiberRef fibers[4];
    for (size_t i = 0; i < ARRAY_N(fibers); i++)
        CHECK_INT(fiber_spawn("inside", caller_main, &inside, &fibers[i]), 0);
    int good = 0;
    for (int i = 0; i < 4; i++) { /* beside those without a socket: the agent and its helpers */
        CLEANUP(reply_deinit) Reply reply = rig_post_wait(rig, API_CHAT, CALL);
        good += reply.status == 200;
    }
    for (size_t i = 0; i < ARRAY_N(fibers); i++) fiber_join_wait(fibers[i], NULL);
    CHECK(good <= 3);
    CHECK_INT(atomic_load(&provider.requests), 3);
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 3 * CALL_HOLD_NUSD);
}

static void test_whoever_calls_for_a_task_spends_from_its_one_cap(void **state)
{
    (void)state;
    run(one_cap_wait);
}

/* --- stopping --------------------------------------------------------------------------------- */

typedef struct {
    Rig *rig;
    Reply reply;
} Talk;

static int talk_main(void *arg)
{
    Talk *talk = arg;
    talk->reply = rig_say_wait(talk->rig, API_CHAT, "sim/ramble", true, "\"max_tokens\":600,",
                               "[[sim per-token=50]] go on and on");
    return 0;
}

static void kill_wait(void *arg)
{
    Rig *rig = arg;
    enum { TALKS = 12 };
    provider_set(1, 1, 0);
    Talk talks[TALKS];
    FiberRef fibers[TALKS];
    for (int i = 0; i < TALKS; i++) {
        talks[i] = (Talk){ .rig = rig };
        CHECK_INT(fiber_spawn("talk", talk_main, &talks[i], &fibers[i]), 0);
    }
    rig_sent_wait(rig, TALKS);
    SimStats began = { .open = 0 };
    for (int i = 0; i < 2000 && began.open < TALKS; i++) { /* sent, and there */
        fiber_sleep_wait(5);
        sim_stats(rig->sim, &began);
    }
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    for (int i = 0; i < TALKS; i++) { /* each would go on for half a minute */
        fiber_join_wait(fibers[i], NULL);
        CHECK(str_find(reply_str(&talks[i].reply), STR("[DONE]")) < 0);
        reply_deinit(&talks[i].reply);
    }
    SimStats bill;
    sim_stats(rig->sim, &bill);
    CHECK_INT(rig->calls_n, TALKS);
    CHECK(rig_totals(rig).caps.settled_tokens >= (int64_t)(bill.input_tokens + bill.output_tokens));
    for (size_t i = 0; i < rig->calls_n; i++) {
        CHECK_INT(rig->calls[i].call.outcome, GATEWAY_STOPPED);
        CHECK_INT(rig->calls[i].call.charged.nusd, rig->calls[i].call.hold.nusd);
    }
    CHECK_INT(one_wait(rig), 403);
    CHECK_INT(atomic_load(&provider.requests), 0);
}

static void test_a_kill_ends_live_streams_and_they_are_paid_for(void **state)
{
    (void)state;
    run(kill_wait);
}

/* --- agents that leave ------------------------------------------------------------------------ */

static void leaves_wait(void *arg)
{
    Rig *rig = arg;
    static const char body[] =
        "{\"model\":\"sim/ramble\",\"stream\":true,\"max_tokens\":200,\"messages\":[{"
        "\"role\":\"user\",\"content\":\"[[sim per-token=1]] and on\"}]}";
    char url[256];
    HttpCallOptions options = { .url = str_make(url, rig_url(rig, "/v1/chat/completions", url)),
                                .body = str_of(body) };
    HttpCall *call = NULL;
    Str piece;
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    CHECK_INT(http_call_read_wait(call, DEADLINE_NONE, &piece), 0);
    http_call_free(call);
    for (int i = 0; i < 4000 && rig->calls_n == 0; i++) fiber_sleep_wait(5);
    SimStats bill;
    sim_stats(rig->sim, &bill);
    CHECK_INT(rig->calls_n, 1);
    CHECK(rig_last(rig)->call.client_gone && bill.output_tokens == 200);
    CHECK_INT(rig_last(rig)->call.charged.tokens, bill.input_tokens + bill.output_tokens);
    CHECK_INT(rig_totals(rig).caps.settled_tokens, bill.input_tokens + bill.output_tokens);
}

static void test_a_client_that_leaves_is_billed(void **state)
{
    (void)state;
    run(leaves_wait);
}

/* --- prices of prompt caches ------------------------------------------------------------------ */

static const struct {
    Api api;
    const char *usage;
    int64_t nusd; /* by hand, at the rates of golden_price() */
} golden[] = {
    /* 1000 in, of which 800 cached; 100 out: 200*1 + 800*0.1 + 100*2 micro-USD */
    { API_CHAT,
      "{\"prompt_tokens\":1000,\"completion_tokens\":100,\"prompt_tokens_details\":{"
      "\"cached_tokens\":800}}",
      480000 },
    /* 300 of them written: 200*1 + 500*0.1 + 300*1.25 + 200 */
    { API_CHAT,
      "{\"prompt_tokens\":1000,\"completion_tokens\":100,\"prompt_tokens_details\":{"
      "\"cached_tokens\":500,\"cache_write_tokens\":300}}",
      825000 },
    /* reasoning is part of the output: 1000 + 60*2 + 40*2 */
    { API_CHAT,
      "{\"prompt_tokens\":1000,\"completion_tokens\":100,\"completion_tokens_details\":{"
      "\"reasoning_tokens\":40}}",
      1200000 },
    { API_RESPONSES,
      "{\"input_tokens\":1000,\"output_tokens\":100,\"input_tokens_details\":{"
      "\"cached_tokens\":800}}",
      480000 },
    /* disjoint counts: 200*1 + 500*0.1 + 300*1.25 + 100*2 */
    { API_MESSAGES,
      "{\"input_tokens\":200,\"cache_read_input_tokens\":500,"
      "\"cache_creation_input_tokens\":300,\"cache_creation\":{"
      "\"ephemeral_5m_input_tokens\":300,\"ephemeral_1h_input_tokens\":0},"
      "\"output_tokens\":100}",
      825000 },
    /* an hour's writes are 2.0; without a breakdown they are taken for those */
    { API_MESSAGES,
      "{\"input_tokens\":200,\"cache_read_input_tokens\":500,"
      "\"cache_creation_input_tokens\":300,\"output_tokens\":100}",
      1050000 },
};

static size_t golden_i;

static StubEnd golden_answer(StubRequest *request, void *ctx)
{
    (void)ctx;
    char body[1024], head[256];
    const char *usage = golden[golden_i].usage;
    switch (golden[golden_i].api) { /* formats are literals */
    case API_RESPONSES:
        snprintf(
            body, sizeof body,
            "{\"model\":\"stub-1\",\"object\":\"response\",\"status\":\"completed\",\"output\":[],\"usage\":%s}",
            usage);
        break;
    case API_MESSAGES:
        snprintf(
            body, sizeof body,
            "{\"type\":\"message\",\"model\":\"stub-1\",\"content\":[],\"stop_reason\":\"end_turn\",\"usage\":%s}",
            usage);
        break;
    default:
        snprintf(
            body, sizeof body,
            "{\"model\":\"stub-1\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"content\":\"x\"}}],\"usage\":%s}",
            usage);
        break;
    }
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n"
             "connection: close\r\n\r\n",
             strlen(body));
    stub_sends(request, head);
    stub_sends(request, body);
    return STUB_CLOSE;
}

static void golden_wait(void *arg)
{
    Rig *rig = arg;
    rig->stub_price.base.write_5m = 1250000;
    rig->stub_price.base.write_1h = 2000000;
    for (golden_i = 0; golden_i < ARRAY_N(golden); golden_i++) {
        Api api = golden[golden_i].api;
        CLEANUP(reply_deinit)
        Reply reply = rig_post_wait(
            rig, api,
            api == API_RESPONSES
                ? "{\"model\":\"stub-1\",\"max_output_tokens\":4000,\"input\":\"hi\"}"
                : "{\"model\":\"stub-1\",\"max_tokens\":4000,\"messages\":[{\"role\":\"user\","
                  "\"content\":\"hi\"}]}");
        CHECK_INT(reply.status, 200);
        if (!CHECK_INT(rig_last(rig)->call.charged.nusd, golden[golden_i].nusd))
            fprintf(stderr, "golden usage %zu\n", golden_i);
    }
}

static void test_cached_tokens_cost_what_each_provider_says(void **state)
{
    (void)state;
    rig_run_with(golden_wait, golden_answer, NULL);
}

/* --- limiters --------------------------------------------------------------------------------- */

/* 100 tokens a minute, calls of 17 as fast as they are let: no minute holds more, wherever it
 * begins; what is turned away uses nothing up; and a provider's silence is kept. */
static void test_a_limiter_counts_what_was_sent_and_nothing_else(void **state)
{
    (void)state;
    enum { CALLS = 60, NEED = 17 };
    Rate *rate = calloc(1, sizeof *rate);
    int64_t sent_ms[CALLS], now_ms = 1000000;
    RateAmounts limit = { .v = { [RATE_TOKENS] = 100 } }, need = rate_amounts(NEED, 0);
    rate_init(rate, &limit, 0);
    for (int n = 0; n < CALLS;) {
        int64_t at_ms = rate_fits_at_ms(rate, &need, now_ms);
        for (int i = 0; i < 1000; i++) /* asking in vain is free */
            assert_int_equal(rate_fits_at_ms(rate, &need, now_ms), at_ms);
        if (at_ms > now_ms) {
            now_ms = at_ms;
            continue;
        }
        rate_take(rate, &need, now_ms);
        rate_settle(rate, &need, now_ms, &need, now_ms);
        sent_ms[n++] = now_ms;
    }
    for (int i = 0; i < CALLS; i++) {
        int64_t in_minute = 0;
        for (int k = i; k < CALLS && sent_ms[k] < sent_ms[i] + 60000; k++) in_minute += NEED;
        assert_true(in_minute <= 100);
    }
    assert_true(sent_ms[CALLS - 1] - sent_ms[0] < (CALLS / 5 + 1) * 62000); /* nor does it idle */

    RateReport report = RATE_REPORT_NONE;
    rate_report_field(&report, STR("retry-after"), STR("7"), 0);
    assert_int_equal(report.retry_after_ms, 7000);
    now_ms += 200000;
    assert_int_equal(rate_fits_at_ms(rate, &need, now_ms), now_ms);
    rate_block(rate, now_ms + report.retry_after_ms, now_ms);
    assert_true(rate_fits_at_ms(rate, &need, now_ms) >= now_ms + 7000);
    free(rate);
}

/* --- retries of retries ----------------------------------------------------------------------- */

static void retries_wait(void *arg)
{
    Rig *rig = arg;
    provider_set(1, 1, 0);
    atomic_store(&provider.status, 500);
    CLEANUP(reply_deinit) Reply reply = rig_post_wait(rig, API_CHAT, CALL);
    int attempts = atomic_load(&provider.requests);
    CHECK_INT(reply.status, 500);
    CHECK_STR(str_of(reply.retry), STR("false")); /* so that the SDK makes none of its own */
    CHECK(attempts >= 1 && attempts <= 3);
    CHECK_INT(rig->calls_n, attempts);
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 0);
}

static void test_attempts_upstream_stay_within_the_policy(void **state)
{
    (void)state;
    run(retries_wait);
}

/* --- memory ----------------------------------------------------------------------------------- */

static int64_t rss_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(f);
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
}

static int forget_record_wait(void *ctx, const GatewayCall *call)
{
    (void)ctx, (void)call;
    return 0;
}

static void calls_wait(Rig *rig, int from, int to)
{
    for (int i = from; i < to; i++) {
        char text[64];
        snprintf(text, sizeof text, "call number %d", i);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, i % 50 ? "sim/echo" : "sim/truncate", i % 2, "",
                                   text);
        CHECK(reply.status == 200 || reply.status == 502);
    }
}

static void memory_wait(void *arg)
{
    static const char *const everyone[] = { "*" };
    Rig *rig = arg;
    rig->sink.call_record_wait = forget_record_wait;
    rig->sink.call_hold_wait = NULL;
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1, .bytes_max = 200000 };
    calls_wait(rig, 0, 1000); /* pools, caches and the allocator have their size */
    int64_t before = rss_bytes();
    calls_wait(rig, 1000, 4000);
    int64_t grown = rss_bytes() - before;
    if (!CHECK(grown < 4 << 20)) fprintf(stderr, "grown by %lld bytes\n", (long long)grown);
    CHECK(gateway_cache_figures(rig->gateway).bytes <= 200000);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEPS_WHAT_IS_FREED true /* in quarantine */
#else
#define KEEPS_WHAT_IS_FREED false
#endif

static void test_memory_stays_flat_over_thousands_of_calls(void **state)
{
    (void)state;
    if (KEEPS_WHAT_IS_FREED) skip();
    run(memory_wait);
}

/* --- a store that is busy --------------------------------------------------------------------- */

static int busy_n;

static int busy_record_wait(void *ctx, const GatewayCall *call)
{
    if (++busy_n % 3 == 0) return diag_set(-EBUSY, "deadlock"); /* of three one is lost */
    return rig_record_wait(ctx, call);
}

static void busy_wait(void *arg)
{
    Rig *rig = arg;
    provider_set((int)CALL_IN, 100, 0);
    busy_n = 0;
    rig->sink.call_record_wait = busy_record_wait;
    rig_task_wait(rig, money(9 * CALL_HOLD_NUSD));
    int good = 0, failed = 0, refused = 0;
    for (int i = 0; i < 12; i++) {
        int status = one_wait(rig);
        good += status == 200;
        failed += status == 500; /* its answer is withheld, */
        refused += status == 402;
    }
    CHECK_INT(good, 6);
    CHECK_INT(failed, 3);
    CHECK_INT(refused, 3); /* and what it cost is not forgotten */
    CHECK_INT(atomic_load(&provider.requests), 9);
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 9 * CALL_HOLD_NUSD);
}

static void test_spend_that_the_store_did_not_take_is_still_spent(void **state)
{
    (void)state;
    run(busy_wait);
}

/* --- tenants ---------------------------------------------------------------------------------- */

static void tenants_wait(void *arg)
{
    static const char *const everyone[] = { "*" };
    static const char *const tenants[] = { "acme", "acme ", "ACME", "", "acme\0", "acme/support" };
    Rig *rig = arg;
    provider_set(1, 1, 0);
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1 };
    for (size_t i = 0; i < ARRAY_N(tenants); i++) { /* the same words to the same address */
        rig->options.tenant_id = str_make(tenants[i], i == 4 ? 5 : strlen(tenants[i]));
        rig_task_wait(rig, rig_no_limits);
        CLEANUP(reply_deinit) Reply first = rig_post_wait(rig, API_CHAT, CALL);
        CHECK_STR(str_of(first.cache), STR("miss"));
        CLEANUP(reply_deinit) Reply again = rig_post_wait(rig, API_CHAT, CALL);
        CHECK_STR(str_of(again.cache), STR("hit"));
    }
    CHECK_INT(atomic_load(&provider.requests), ARRAY_N(tenants));
}

static void test_two_tenants_never_share_an_answer(void **state)
{
    (void)state;
    run(tenants_wait);
}

/* --- once ------------------------------------------------------------------------------------- */

/* Whatever becomes of a call (another try, another model, the cache, a shadow's), it is charged
 * once. */
static void once_wait(void *arg)
{
    static const char *const everyone[] = { "*" };
    static const Str fallbacks[] = { STR("sim/echo") };
    Rig *rig = arg;
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1 };
    rig->options.model = STR("sim/overload");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = 1;
    for (int shadow = 0; shadow < 2; shadow++) {
        rig->options.shadow = shadow;
        rig_task_wait(rig, rig_no_limits);
        sim_reset(rig->sim);
        rig->calls_n = 0;
        for (int i = 0; i < 3; i++) {
            CLEANUP(reply_deinit)
            Reply reply = rig_say_wait(rig, API_CHAT, "sim/overload", false, "",
                                       shadow ? "what a shadow says" : "the same words");
            CHECK_INT(reply.status, 200);
        }
        SimStats bill;
        sim_stats(rig->sim, &bill);
        int64_t tokens = 0;
        for (size_t i = 0; i < rig->calls_n; i++) {
            const GatewayCall *call = &rig->calls[i].call;
            tokens += call->charged.tokens;
            CHECK(call->outcome == GATEWAY_COMPLETE || call->charged.nusd == 0);
        }
        CHECK(tokens > 0);
        CHECK_INT(tokens, bill.input_tokens + bill.output_tokens);
        CHECK_INT(rig_totals(rig).caps.settled_tokens, tokens);
    }
}

static void test_one_call_is_one_charge(void **state)
{
    (void)state;
    run(once_wait);
}

/* --- hostile words ---------------------------------------------------------------------------- */

static void hostile_wait(void *arg)
{
    Rig *rig = arg;
    provider_set(1, 1, 0);
    static const char *const models[] = {
        "stub#/../../admin",
        "stub?x=1",
        "stub' OR 1=1; DROP TABLE call; --",
        "stub%2f..%2f..",
        "stub/../../../etc/passwd",
        "stub@127.0.0.1:1",
        "stub http://127.0.0.1:1/",
        "stub\\u0000x",
        "stub\\r\\nx-injected: 1",
        "stub\\u202e",
    };
    for (size_t i = 0; i < ARRAY_N(models); i++) {
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(
            rig, API_CHAT, models[i], false,
            "\"api_base\":\"http://127.0.0.1:1/v1\",\"base_url\":"
            "\"http://127.0.0.1:1\",\"api_key\":\"sk-agent\",\"max_tokens\":50,",
            "hi");
        CHECK(reply.status == 200 || (reply.status >= 400 && reply.status < 500));
        if (reply.status != 200) continue;
        char host[32];
        snprintf(host, sizeof host, "127.0.0.1:%u", rig->stub.port);
        CHECK_STR(str_of(provider.path), STR("/v1/chat/completions")); /* where the operator said */
        CHECK_STR(str_of(provider.host), str_of(host));
        CHECK(str_find(str_of(reply.all), STR("x-injected")) < 0);
    }
    char url[256];
    static const char *const hosts[] = { "evil.example", "127.0.0.1:1", "localhost", "" };
    for (size_t i = 0; i < ARRAY_N(hosts); i++) {
        HttpClientField fields[] = { { "content-type", STR("application/json") },
                                     { "host", str_of(hosts[i]) },
                                     { "x-forwarded-host", str_of(hosts[i]) } };
        HttpCallOptions options = { .url = str_make(url, rig_url(rig, "/v1/chat/completions", url)),
                                    .fields = fields,
                                    .fields_n = hosts[i][0] ? 3 : 1,
                                    .body = STR(CALL) };
        HttpCall *call = NULL;
        if (http_call_open_wait(rig->client, &options, &call) == 0) http_call_free(call);
    }
    CHECK(atomic_load(&provider.requests) > 0);
    CHECK_STR(str_of(provider.path), STR("/v1/chat/completions"));
}

static void test_names_paths_and_hosts_lead_nowhere_else(void **state)
{
    (void)state;
    run(hostile_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_many_at_once_with_room_for_one_one_is_admitted),
        cmocka_unit_test(test_what_cannot_be_reserved_in_full_is_not_sent),
        cmocka_unit_test(test_what_is_only_reserved_makes_calls_wait_and_never_refuses_them),
        cmocka_unit_test(test_no_path_leads_past_admission),
        cmocka_unit_test(test_the_ledger_is_the_providers_bill_over_110_requests),
        cmocka_unit_test(test_an_overshoot_stays_booked),
        cmocka_unit_test(test_whoever_calls_for_a_task_spends_from_its_one_cap),
        cmocka_unit_test(test_a_kill_ends_live_streams_and_they_are_paid_for),
        cmocka_unit_test(test_a_client_that_leaves_is_billed),
        cmocka_unit_test(test_cached_tokens_cost_what_each_provider_says),
        cmocka_unit_test(test_a_limiter_counts_what_was_sent_and_nothing_else),
        cmocka_unit_test(test_attempts_upstream_stay_within_the_policy),
        cmocka_unit_test(test_memory_stays_flat_over_thousands_of_calls),
        cmocka_unit_test(test_spend_that_the_store_did_not_take_is_still_spent),
        cmocka_unit_test(test_two_tenants_never_share_an_answer),
        cmocka_unit_test(test_one_call_is_one_charge),
        cmocka_unit_test(test_names_paths_and_hosts_lead_nowhere_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
