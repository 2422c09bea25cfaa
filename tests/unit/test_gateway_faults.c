/* What the gateway makes of providers that fail, lie, stall and break off. */
#include "tests/unit/gateway_rig.h"

#include "gateway/gateway_limits.h"

static bool absent(const char *text, const char *part)
{
    return str_find(str_of(text), str_of(part)) < 0;
}

/* --- the simulator's modes, both protocols, streamed and not ---------------------------------- */

typedef enum { FREE, BY_USAGE, WHOLE } Charged;

typedef struct {
    const char *model;
    int status;
    GatewayOutcome outcome;
    Charged charged;
    const char *says; /* in the body */
} Want;

/* plain answers of all three APIs */
static const Want plain_modes[] = {
    { "sim/echo", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/silent", 200, GATEWAY_COMPLETE, BY_USAGE, "usage" },
    { "sim/fail", 500, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/overload", 529, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/rate-limit", 429, GATEWAY_UPSTREAM, FREE, "rate_limit" },
    { "sim/quota", 429, GATEWAY_UPSTREAM, FREE, "quota" },
    { "sim/html", 502, GATEWAY_UPSTREAM, FREE, "<html>" },
    { "sim/truncate", 502, GATEWAY_CUT, WHOLE, "cut off" },
    { "sim/no-usage", 200, GATEWAY_COMPLETE, WHOLE, "ello" },
    { "sim/no-finish", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/other-model", 200, GATEWAY_COMPLETE, BY_USAGE, "another-model" },
    { "sim/dribble", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/empty", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/garbage", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/bad-utf8", 200, GATEWAY_COMPLETE, WHOLE, "\xc3\x28\xff" },
    { "sim/error-event", 502, GATEWAY_CUT, WHOLE, "Overloaded" },
};

/* streamed ones */
static const Want stream_modes[] = {
    { "sim/echo", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/silent", 200, GATEWAY_COMPLETE, BY_USAGE, "" },
    { "sim/fail", 500, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/overload", 529, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/rate-limit", 429, GATEWAY_UPSTREAM, FREE, "rate_limit" },
    { "sim/quota", 429, GATEWAY_UPSTREAM, FREE, "quota" },
    { "sim/html", 502, GATEWAY_UPSTREAM, FREE, "<html>" },
    { "sim/truncate", 200, GATEWAY_CUT, WHOLE, "cut off" },
    { "sim/no-finish", 200, GATEWAY_CUT, WHOLE, "cut off: it ended without its last event" },
    { "sim/done-early", 200, GATEWAY_CUT, WHOLE, "cut off: it ended without its last event" },
    { "sim/no-usage", 200, GATEWAY_COMPLETE, WHOLE, "ello" },
    { "sim/error-event", 200, GATEWAY_CUT, WHOLE, "Overloaded" },
    { "sim/keep-alives", 200, GATEWAY_COMPLETE, BY_USAGE, ": keep-alive" },
    { "sim/dribble", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/left-open", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/empty", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/garbage", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/huge", 200, GATEWAY_CUT, WHOLE, "larger than" },
};

/* What the breaker of a model has counted. */
static BreakerCounts breaker_of(const Rig *rig, const char *model)
{
    static BreakerInfo list[BREAKERS_MAX_DEFAULT];
    char name[128];
    snprintf(name, sizeof name, "sim/%s", model);
    size_t n = breakers_list(gateway_breakers(rig->gateway), list, BREAKERS_MAX_DEFAULT);
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i].name, name) == 0) return list[i].counts;
    return (BreakerCounts){ 0 };
}

/* A provider that refuses (429) says nothing of its health, one that fails or lies does. */
static bool check_breaker(const Rig *rig, const Want *want, BreakerCounts before)
{
    BreakerCounts after = breaker_of(rig, want->model);
    bool bad = want->outcome == GATEWAY_CUT ||
               (want->outcome == GATEWAY_UPSTREAM && want->status >= 500);
    bool calls = CHECK_INT(after.calls - before.calls, want->status != 429);
    bool errors = CHECK_INT(after.errors - before.errors, bad);
    return calls && errors;
}

static void check_mode_wait(Rig *rig, const Want *want, Api api, bool stream)
{
    size_t before = rig->calls_n;
    BreakerCounts counts = breaker_of(rig, want->model);
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, api, want->model, stream, rig_cap(api),
                               "hello, this is a text of some length");
    const GatewayCall *call = &rig_last(rig)->call;
    Str body = reply_str(&reply);
    bool ok = CHECK_INT(rig->calls_n, before + 1) && CHECK_INT(reply.status, want->status) &&
              CHECK_INT(reply.ended, HTTP_CALL_E_END) && CHECK_INT(call->outcome, want->outcome) &&
              CHECK_INT(call->full_hold, want->charged == WHOLE) &&
              CHECK_INT(call->charged.nusd == 0, want->charged == FREE);
    if (want->charged == WHOLE) ok &= CHECK_INT(call->charged.nusd, call->hold.nusd);
    ok &= check_breaker(rig, want, counts);
    CHECK_HAS(body, want->says);
    bool ends = str_find(body, STR("[DONE]")) >= 0 ||
                str_find(body, STR("\"message_stop\"")) >= 0 ||
                str_find(body, STR("\"response.completed\"")) >= 0;
    if (stream) ok &= CHECK_INT(ends, want->outcome == GATEWAY_COMPLETE);
    bool events = str_starts_with(str_of(reply.type), STR("text/event-stream"));
    bool error = str_find(body, STR("\"error\":{")) >= 0 ||
                 str_find(body, STR("\"type\":\"error\"")) >= 0;
    if (events) ok &= CHECK_INT(error, want->outcome == GATEWAY_CUT);
    if (want->outcome != GATEWAY_COMPLETE) ok &= CHECK(rig_last(rig)->error[0]);
    if (!ok) fprintf(stderr, "  for %s, api %d, stream %d\n", want->model, api, stream);
}

static void modes_wait(void *arg)
{
    Rig *rig = arg;
    for (Api api = API_CHAT; api <= API_MESSAGES; api++) {
        for (size_t i = 0; i < ARRAY_N(plain_modes); i++)
            check_mode_wait(rig, &plain_modes[i], api, false);
        for (size_t i = 0; i < ARRAY_N(stream_modes); i++)
            check_mode_wait(rig, &stream_modes[i], api, true);
    }
    rig_totals(rig);
}

static void test_modes(void **state)
{
    (void)state;
    rig_run(modes_wait);
}

/* --- fallbacks -------------------------------------------------------------------------------- */

static Reply fallback_wait(Rig *rig, const char *model, bool stream)
{
    static const Str fallbacks[] = { { "sim/overload", 12 },
                                     { "unpriced-none", 13 },
                                     { "sim/small-echo", 14 } };
    rig->options.model = str_of(model);
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = ARRAY_N(fallbacks);
    rig_task_wait(rig, rig_no_limits);
    return rig_say_wait(rig, API_CHAT, model, stream, "", "which way?");
}

/* Each attempt has its own record and hold; the last one answers, and says that it stands in. */
static void fallbacks_wait(void *arg)
{
    Rig *rig = arg;
    for (int stream = 0; stream < 2; stream++) {
        size_t before = rig->calls_n;
        CLEANUP(reply_deinit) Reply reply = fallback_wait(rig, "sim/fail", stream);
        CHECK_INT(reply.status, 200);
        CHECK_HAS(reply_str(&reply), "hich way");
        const RigCall *last = rig_last(rig);
        CHECK_STR(str_of(last->model), STR("sim/small-echo"));
        CHECK(last->call.degraded && last->call.tries > 1);
        CHECK_INT(rig->calls_n, before + (size_t)last->call.tries);
        CHECK_INT(rig->calls[before].call.outcome, GATEWAY_UPSTREAM);
        CHECK_INT(rig->calls[before].call.charged.nusd, 0);
        CHECK_STR(str_of(rig->calls[before].model), STR("sim/fail"));
        CHECK_INT(rig_totals(rig).cost_nusd, last->call.charged.nusd);
    }
}

static void test_fallbacks(void **state)
{
    (void)state;
    rig_run(fallbacks_wait);
}

static int no_start_wait(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                         bool streamed)
{
    (void)ctx, (void)status, (void)fields, (void)fields_n, (void)streamed;
    return HTTP_E_GONE;
}

static bool left_after_one(void *ctx)
{
    const Rig *rig = ctx;
    return rig->calls_n > 0;
}

/* Nobody pays for an answer that nobody reads. */
static void unread_wait(void *arg)
{
    Rig *rig = arg;
    static const Str fallbacks[] = { { "sim/echo", 8 } };
    static const char body[] =
        "{\"model\":\"sim/fail\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
    rig->options.model = STR("sim/fail");
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = ARRAY_N(fallbacks);
    for (int i = 0; i < 3; i++) {
        GatewayMemory memory;
        gateway_memory_init(&memory, 1 << 20);
        GatewayReply reply = gateway_memory_reply(&memory);
        GatewayRequest request = { .api = API_CHAT, .body = str_of(body) };
        GatewayReply asks = { reply.start_wait, reply.write_wait, reply.end_wait,
                              i == 1 ? left_after_one : NULL, i == 1 ? (void *)rig : reply.ctx };
        if (i == 1) asks.start_wait = no_start_wait;
        if (i == 2) { /* over by the time of the first answer */
            request.timeout_ms = 1;
            rig->record_delay_ms = 10;
        }
        rig_task_wait(rig, rig_no_limits);
        rig->calls_n = 0;
        int r = gateway_call_wait(rig->task, &request, &asks);
        CHECK_INT(r, i == 1 ? HTTP_E_GONE : 0);
        CHECK_INT(rig->calls_n, i == 0 ? 2 : 1);
        CHECK_STR(str_of(rig_last(rig)->model), i == 0 ? STR("sim/echo") : STR("sim/fail"));
        CHECK_INT(rig_totals(rig).cost_nusd, rig_last(rig)->call.charged.nusd);
        if (i == 2) CHECK_INT(memory.status, 500);
        gateway_memory_deinit(&memory);
    }
}

static bool left_already(void *ctx)
{
    (void)ctx;
    return true;
}

/* A call whose client leaves while it is under way is read to its end and billed, once. */
static void left_wait(void *arg)
{
    Rig *rig = arg;
    static const Str fallbacks[] = { { "sim/small-echo", 14 } };
    rig->options.fallbacks = fallbacks;
    rig->options.fallbacks_n = ARRAY_N(fallbacks);
    for (int stream = 0; stream < 2; stream++) {
        char body[200];
        snprintf(body, sizeof body,
                 "{\"model\":\"sim/echo\",\"stream\":%s,\"messages\":[{\"role\":\"user\","
                 "\"content\":\"some words that come back\"}]}",
                 stream ? "true" : "false");
        GatewayMemory memory;
        gateway_memory_init(&memory, 1 << 20);
        GatewayReply reply = gateway_memory_reply(&memory);
        GatewayReply asks = { no_start_wait, reply.write_wait, reply.end_wait, left_already, rig };
        GatewayRequest request = { .api = API_CHAT, .body = str_of(body) };
        sim_reset(rig->sim);
        rig_task_wait(rig, rig_no_limits);
        rig->calls_n = 0;
        CHECK_INT(gateway_call_wait(rig->task, &request, &asks), HTTP_E_GONE);
        SimStats bill;
        sim_stats(rig->sim, &bill);
        const GatewayCall *call = &rig_last(rig)->call;
        CHECK_INT(rig->calls_n, 1);
        CHECK_INT(bill.calls, 1);
        CHECK_INT(call->outcome, GATEWAY_COMPLETE);
        CHECK(!call->full_hold && bill.output_tokens > 0);
        CHECK_INT(call->charged.tokens, bill.input_tokens + bill.output_tokens);
        CHECK_INT(rig_totals(rig).caps.settled_tokens, call->charged.tokens);
        gateway_memory_deinit(&memory);
    }
}

static void test_left(void **state)
{
    (void)state;
    rig_run(left_wait);
}

static void test_unread(void **state)
{
    (void)state;
    rig_run(unread_wait);
}

/* Once a byte was given away there is no second model; an answer of the first is no failure. */
static void no_fallback_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const models[] = { "sim/truncate", "sim/echo" };
    for (size_t i = 0; i < ARRAY_N(models); i++) {
        size_t before = rig->calls_n;
        CLEANUP(reply_deinit) Reply reply = fallback_wait(rig, models[i], true);
        CHECK_INT(reply.status, 200);
        CHECK_INT(rig->calls_n, before + 1);
        CHECK(!rig_last(rig)->call.degraded);
    }
}

static void test_no_fallback(void **state)
{
    (void)state;
    rig_run(no_fallback_wait);
}

/* Tool arguments that break off are never passed for a finished call. */
static void tool_cut_wait(void *arg)
{
    Rig *rig = arg;
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(
        rig, API_CHAT, "sim/truncate", true,
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"find_order\",\"parameters\":{\"type\":"
        "\"object\",\"properties\":{\"note\":{\"type\":\"string\"},\"order_id\":{\"type\":\"string\"}}}}}],",
        "find order A-77, please, it is the one with the long note about the delivery at the back door");
    CHECK_HAS(reply_str(&reply), "find_order");
    CHECK_HAS(reply_str(&reply), "data: {\"error\":{");
    CHECK(str_find(reply_str(&reply), STR("\"finish_reason\":\"")) < 0);
    CHECK_INT(rig_last(rig)->call.usage.tool_calls, 1); /* the agent may have seen it */
    CHECK_INT(rig_totals(rig).caps.tool_calls, 1);
}

static void test_tool_cut(void **state)
{
    (void)state;
    rig_run(tool_cut_wait);
}

/* --- time ------------------------------------------------------------------------------------- */

static void time_wait(void *arg)
{
    Rig *rig = arg;
    static const Api both[] = { API_CHAT, API_MESSAGES };
    for (size_t i = 0; i < 4; i++) {
        Api api = both[i / 2];
        bool stream = i % 2;
        rig->providers[i / 2].timeout_ms = 250;
        rig_task_wait(rig, rig_no_limits);
        CLEANUP(reply_deinit)
        Reply late = rig_say_wait(rig, api, "sim/hang", stream, rig_cap(api), "hello");
        CHECK_INT(late.status, 504);
        CHECK_HAS(reply_str(&late), api == API_MESSAGES ? "timeout_error" : "upstream_timeout");
        CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_TIMEOUT);
        CHECK(rig_last(rig)->call.full_hold);
        CLEANUP(reply_deinit)
        Reply half = rig_say_wait(rig, api, "sim/stall", stream, rig_cap(api),
                                  "hello, a few more words");
        CHECK_INT(half.status, stream ? 200 : 504);
        CHECK_HAS(reply_str(&half), "in time");
        CHECK(rig_last(rig)->call.full_hold);

        /* the task's own time is up: that is a cap, not the provider's failure */
        rig->providers[i / 2].timeout_ms = 20000;
        rig_task_wait(rig, (CapLimits){ CAP_NONE, CAP_NONE, CAP_NONE, 60 });
        CLEANUP(reply_deinit)
        Reply capped = rig_say_wait(rig, api, "sim/hang", stream, rig_cap(api), "hello");
        CHECK_INT(capped.status, 402);
        CHECK_STR(str_of(capped.retry), STR("false"));
        CHECK_HAS(reply_str(&capped), "secondsPerTask");
        CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_SECONDS);
        rig_task_wait(rig, rig_no_limits);
        rig->options.deadline_ms = deadline_after(250);
        rig_task_wait(rig, rig_no_limits);
        rig->options.deadline_ms = 0;
        CLEANUP(reply_deinit)
        Reply dead = rig_say_wait(rig, api, "sim/stall", stream, rig_cap(api),
                                  "hello, a few more words");
        CHECK_INT(dead.status, stream ? 200 : 402);
        CHECK_HAS(reply_str(&dead), "secondsPerTask");
        CHECK(str_find(reply_str(&dead), STR("[DONE]")) < 0);
    }
}

static void test_time(void **state)
{
    (void)state;
    rig_run(time_wait);
}

/* --- a scripted provider ---------------------------------------------------------------------- */

typedef struct {
    const char *answer; /* all bytes, head included */
    StubEnd end;
    size_t step; /* bytes a write; 0: all at once */
} Script;

/* Between the test's fiber and the stub's threads. */
static struct {
    pthread_mutex_t lock;
    Script script;
    char answer[32768];
    char head[4096], body[8192]; /* of the last request */
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* What the test sees of the last request. */
static char seen_head[4096], seen_body[8192];

static void script_set(Script script)
{
    pthread_mutex_lock(&shared.lock);
    str_copy(shared.answer, sizeof shared.answer, str_of(script.answer));
    shared.script = script;
    pthread_mutex_unlock(&shared.lock);
}

static void seen(void)
{
    pthread_mutex_lock(&shared.lock);
    str_copy(seen_head, sizeof seen_head, str_of(shared.head));
    str_copy(seen_body, sizeof seen_body, str_of(shared.body));
    pthread_mutex_unlock(&shared.lock);
}

static StubEnd scripted(StubRequest *request, void *ctx)
{
    (void)ctx;
    char answer[sizeof shared.answer];
    pthread_mutex_lock(&shared.lock);
    str_copy(shared.head, sizeof shared.head, request->head);
    str_copy(shared.body, sizeof shared.body, request->body);
    str_copy(answer, sizeof answer, str_of(shared.answer));
    Script script = shared.script;
    pthread_mutex_unlock(&shared.lock);
    Str all = str_of(answer);
    size_t step = script.step ? script.step : all.len;
    while (all.len) {
        stub_send(request, str_sub(all, 0, step));
        all = str_skip(all, step);
        if (script.step) usleep(300);
    }
    if (script.end == STUB_RESET) stub_sleep_ms(200); /* what came before it is read first */
    return script.end;
}

#define JSON_HEAD "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#define DELTA "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n"
#define SSE_HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"

/* Sets the script to answer with head and a body of known length. */
static void script_body(const char *head, const char *body)
{
    static char answer[32768]; /* too large for a fiber */
    snprintf(answer, sizeof answer, "%sContent-Length: %zu\r\n\r\n%s", head, strlen(body), body);
    script_set((Script){ .answer = answer, .end = STUB_KEEP });
}

static void faithful_wait(void *arg)
{
    Rig *rig = arg;
    /* unknown members, odd spacing, an order nobody else uses: all of it must come through */
    static const char plain[] =
        "\n {\"zz\" : [1.50, 1e400, \"\\u0041\"], \"object\":\"chat.completion\",\t\"choices\":[{\"index\":0,"
        "\"mystery\":{\"a\":null},\"message\":{\"content\":\"h\xc3\xa9\",\"role\":\"assistant\"},"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,"
        "\"total_tokens\":5,\"new_count\":9}}\n\n";
    script_body(JSON_HEAD
                "X-Request-Id: req-7\r\nX-RateLimit-Remaining-Requests: 12\r\nRetry-After: 3\r\n"
                "OpenAI-Processing-Ms: 17\r\nOpenAI-Organization: org-secret\r\nSet-Cookie: a=b\r\n"
                "X-Internal: no\r\n",
                plain);
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", false, "", "hi");
    CHECK_STR(reply_str(&reply), str_of(plain));
    CHECK_HAS(str_of(reply.all), "x-gantry-upstream-request-id: req-7\n");
    CHECK_HAS(str_of(reply.all), "X-RateLimit-Remaining-Requests: 12\n");
    CHECK_HAS(str_of(reply.all), "OpenAI-Processing-Ms: 17\n");
    CHECK_HAS(str_of(reply.all), "Retry-After: 3\n");
    CHECK(absent(reply.all, "org-secret") && absent(reply.all, "a=b") &&
          absent(reply.all, "X-Internal"));
    CHECK_INT(rig_last(rig)->call.usage.input_tokens, 3);

    static const char events[] =
        ": hello\n\ndata: {\"id\":\"1\",\"model\":\"stub-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":"
        "\"h\xc3\xa9llo\"},\"x\":1}],\"obfuscation\":\"zzz\"}\r\n\r\nid: 4\nretry: 10\ndata:{\"choices\":[{"
        "\"index\":0,\"delta\":{\"content\":\" \"}}],\ndata: \"usage\":null}\n\ndata: {\"choices\":[{\"index\":0,"
        "\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    static const char usage[] =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":6,"
        "\"total_tokens\":10}}\n\n";
    static const char done[] = "data: [DONE]\n\n";
    for (size_t step = 1; step < 700; step += step < 20 ? 1 : 97) {
        char all[4096], answer[8192], want[4096];
        bool asked = step % 2;
        snprintf(all, sizeof all, "%s%s%s", events, usage, done);
        snprintf(answer, sizeof answer, SSE_HEAD "Content-Length: %zu\r\n\r\n%s", strlen(all), all);
        snprintf(want, sizeof want, "%s%s%s", events, asked ? usage : "", done);
        script_set((Script){ .answer = answer, .end = STUB_KEEP, .step = step });
        CLEANUP(reply_deinit)
        Reply stream = rig_say_wait(rig, API_CHAT, "stub-1", true,
                                    asked ? "\"stream_options\":{\"include_usage\":true}," : "",
                                    "hi");
        CHECK_STR(reply_str(&stream), str_of(want));
        CHECK_INT(rig_last(rig)->call.charged.nusd, 4 * 1000 + 6 * 2000);
        CHECK_STR(str_of(rig_last(rig)->model_used), STR("stub-1"));
    }
    CHECK_INT(atomic_load(&rig->stub.connections), 1); /* kept from call to call, streams too */
}

static void test_faithful(void **state)
{
    (void)state;
    rig_run_with(faithful_wait, scripted, NULL);
}

/* A provider that quotes what it was sent tells the agent its key nowhere. */
static void key_wait(void *arg)
{
    static const struct {
        const char *head, *body, *says;
        bool stream;
    } want[] = {
        { "HTTP/1.1 401 No\r\nContent-Type: application/json\r\nX-Request-Id: Bearer " RIG_KEY
          "\r\n",
          "{\"error\":{\"message\":\"bad key " RIG_KEY ", yes " RIG_KEY "\",\"type\":\"x\"}}",
          "bad key *****", false },
        { JSON_HEAD, "{\"error\":{\"message\":\"bad key " RIG_KEY "\"}}", "bad key *****", false },
        { SSE_HEAD, DELTA "data: {\"error\":{\"message\":\"bad key " RIG_KEY "\"}}\n\n",
          "bad key *****", true },
        { JSON_HEAD "Request-Id: " RIG_KEY "\r\nX-Request-Id: req-7\r\n",
          "{\"choices\":[{\"message\":{}}]}", "choices", false },
    };
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        script_body(want[i].head, want[i].body);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", want[i].stream, "", "hi");
        bool ok = CHECK(str_find(reply_str(&reply), STR(RIG_KEY)) < 0) &&
                  CHECK(absent(reply.all, RIG_KEY)) && CHECK(absent(rig_last(rig)->error, RIG_KEY));
        CHECK_HAS(reply_str(&reply), want[i].says);
        if (!ok) fprintf(stderr, "  for case %zu\n", i);
    }
}

static void test_key(void **state)
{
    (void)state;
    rig_run_with(key_wait, scripted, NULL);
}

/* Providers that were asked for usage say in every chunk that it is not known yet. An agent that
 * did not ask is not told. */
static void usage_null_wait(void *arg)
{
    static const struct {
        const char *chunk, *without;
    } want[] = {
        { "{\"id\":\"1\",\"usage\":null}", "{\"id\":\"1\"}" },
        { "{\"id\":\"1\", \"usage\" :\t null, \"x\":[]}", "{\"id\":\"1\", \"x\":[]}" },
        { "{\"id\":\"\\\"usage\\\":null\",\"usage\":null}", "{\"id\":\"\\\"usage\\\":null\"}" },
        /* as they came: whose member it is would have to be searched for */
        { "{\"usage\":null,\"id\":\"1\"}", NULL },
        { "{\"x\":{\"y\":1,\"usage\":null},\"usage\":null}", NULL },
        { "{\"x\":{\"y\":1,\"usage\":null}}", NULL },
        { "{\"id\":\"usage\",\"usage\":{\"prompt_tokens\":null}, \"choices\":[{\"delta\":{\"a\":1}}]}",
          NULL },
    };
    static const char end[] =
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    Rig *rig = arg;
    for (size_t i = 0; i < 2 * ARRAY_N(want); i++) {
        bool asked = i % 2;
        const char *chunk = want[i / 2].chunk, *without = want[i / 2].without;
        char answer[1024], told[1024];
        snprintf(answer, sizeof answer, "data: %s\n\n%s", chunk, end);
        snprintf(told, sizeof told, "data: %s\n\n%s", without && !asked ? without : chunk, end);
        script_body(SSE_HEAD, answer);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", true,
                                   asked ? "\"stream_options\":{\"include_usage\":true}," : "",
                                   "hi");
        CHECK_STR(reply_str(&reply), str_of(told));
    }
}

static void test_usage_null(void **state)
{
    (void)state;
    rig_run_with(usage_null_wait, scripted, NULL);
}

/* What goes up: our key, the body as it was but for the edits; nothing of the agent's head. */
static void upward_wait(void *arg)
{
    Rig *rig = arg;
    script_body(JSON_HEAD, "{\"choices\":[{}],\"content\":[]}");
    CLEANUP(reply_deinit)
    Reply chat = rig_post_wait(
        rig, API_CHAT,
        "{ \"model\" : \"stub-1\",  \"future\":[1.0,2e0], \"messages\":[{\"role\":"
        "\"user\",\"content\":\"hi\"}] }");
    seen();
    CHECK_HAS(str_of(seen_head), "POST /v1/chat/completions HTTP/1.1\r\n");
    CHECK_HAS(str_of(seen_head), "authorization: Bearer " RIG_KEY "\r\n");
    CHECK_HAS(str_of(seen_head),
              "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
    CHECK_STR(str_of(seen_body),
              STR("{ \"model\" : \"stub-1\",  \"future\":[1.0,2e0], \"messages\":[{\"role\":"
                  "\"user\",\"content\":\"hi\"}] }"));
    CHECK(absent(seen_head, RIG_AGENT_KEY) && absent(seen_head, "org-agent") &&
          absent(seen_head, "cookie") && absent(seen_head, "x-api-key"));
    CHECK(absent(chat.all, RIG_KEY) && str_find(reply_str(&chat), STR(RIG_KEY)) < 0);

    CLEANUP(reply_deinit)
    Reply messages = rig_say_wait(rig, API_MESSAGES, "stub-1", false, "\"max_tokens\":77,", "hi");
    seen();
    CHECK_INT(messages.status, 200);
    CHECK_HAS(str_of(seen_head), "POST /v1/messages HTTP/1.1\r\n");
    CHECK_HAS(str_of(seen_head), "x-api-key: " RIG_KEY "\r\n");
    CHECK_HAS(str_of(seen_head), "anthropic-version: 2023-06-01\r\n");
    CHECK_HAS(str_of(seen_head), "anthropic-beta: some-beta,other-beta\r\n");
    CHECK(absent(seen_head, RIG_AGENT_KEY) && absent(seen_head, "authorization"));
    CHECK_HAS(str_of(seen_body), "\"max_tokens\":77");
    /* which only fills the cache, whatever is left */
    rig_task_wait(rig, (CapLimits){ 1000, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit)
    Reply warm = rig_say_wait(rig, API_MESSAGES, "stub-1", false, "\"max_tokens\":0,", "hi");
    seen();
    CHECK_INT(warm.status, 200);
    CHECK_HAS(str_of(seen_body), "\"max_tokens\":0,");
    CHECK(rig_last(rig)->call.hold.tokens < 500);
    rig_task_wait(rig, rig_no_limits);

    /* edits */
    script_body(SSE_HEAD, "");
    CLEANUP(reply_deinit) Reply stream = rig_say_wait(rig, API_CHAT, "stub-1", true, "", "hi");
    seen();
    CHECK_INT(stream.status, 502); /* nothing came */
    CHECK_HAS(str_of(seen_body), "\"stream_options\":{\"include_usage\":true}");
    CHECK(absent(seen_body, "max_"));
    rig_task_wait(rig, (CapLimits){ 1000, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit) Reply capped = rig_say_wait(rig, API_CHAT, "stub-1", true, "", "hi");
    seen();
    CHECK_INT(capped.status, 502); /* nothing came */
    CHECK_HAS(str_of(seen_body), "\"max_completion_tokens\":");
    rig->providers[2].cap_member = "max_tokens";
    rig_task_wait(rig, (CapLimits){ 1000, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit) Reply other = rig_say_wait(rig, API_CHAT, "stub-1", true, "", "hi");
    seen();
    CHECK_INT(other.status, 502); /* nothing came */
    CHECK_HAS(str_of(seen_body), "\"max_tokens\":");

    /* no key: none is sent */
    rig->providers[2].key = NULL;
    rig_task_wait(rig, rig_no_limits);
    CLEANUP(reply_deinit) Reply open = rig_say_wait(rig, API_CHAT, "stub-1", true, "", "hi");
    seen();
    CHECK_INT(open.status, 502); /* nothing came */
    CHECK(absent(seen_head, "authorization"));
}

static void test_upward(void **state)
{
    (void)state;
    rig_run_with(upward_wait, scripted, NULL);
}

/* --- usage in every shape that was seen in the wild ------------------------------------------- */

#define FINISH "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define DONE "data: [DONE]\n\n"
#define END "}\n\n"
#define ONLY_USAGE(in, out) "data: {\"choices\":[]," USAGE(in, out) END
#define DELTA_WITH(in, out) \
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]," USAGE(in, out) END
#define FINISH_WITH(in, out) \
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]," USAGE(in, out) END
#define USAGE(in, out) "\"usage\":{\"prompt_tokens\":" #in ",\"completion_tokens\":" #out "}"

static void usage_shapes_wait(void *arg)
{
    static const struct {
        const char *events;
        int64_t nusd; /* -1: the whole hold */
        GatewayOutcome outcome;
        bool quietly; /* it just ends */
    } want[] = {
        { DELTA FINISH ONLY_USAGE(10, 5) DONE, 20000, GATEWAY_COMPLETE },
        { DELTA FINISH "data: {\"choices\":[{\"index\":0,\"delta\":{}}]," USAGE(10, 5) END DONE,
          20000, GATEWAY_COMPLETE },
        { DELTA FINISH "data: {\"choices\":[{\"index\":0}]," USAGE(10, 5) END DONE, 20000,
          GATEWAY_COMPLETE },
        { DELTA FINISH "data: {" USAGE(10, 5) END DONE, 20000, GATEWAY_COMPLETE },
        { DELTA FINISH_WITH(10, 5) DONE, 20000, GATEWAY_COMPLETE },
        { DELTA_WITH(0, 0) FINISH_WITH(10, 5) DONE, 20000, GATEWAY_COMPLETE },
        { DELTA FINISH_WITH(10, 5) ONLY_USAGE(10, 5) DONE, 20000, GATEWAY_COMPLETE },
        { DELTA FINISH ONLY_USAGE(10, 0) DONE, 10000, GATEWAY_COMPLETE },
        { DELTA FINISH
          "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,"
          "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n" DONE,
          6000 + 400 + 10000, GATEWAY_COMPLETE },
        { DELTA FINISH DONE, -1, GATEWAY_COMPLETE },
        { DELTA FINISH, -1, GATEWAY_COMPLETE },
        { DELTA FINISH "data: [DONE]", -1, GATEWAY_COMPLETE },
        { DELTA DONE, -1, GATEWAY_CUT },
        { DELTA ONLY_USAGE(10, 5) DONE, -1, GATEWAY_CUT },
        { DONE, -1, GATEWAY_CUT },
        { DELTA "data: [DONE]", -1, GATEWAY_CUT },
        { DELTA, -1, GATEWAY_CUT, true },
        { DELTA "data: not json\n\n", -1, GATEWAY_CUT, true },
        { "", -1, GATEWAY_CUT },
        { DELTA "data: {\"choices\":[{\"ind", -1, GATEWAY_CUT },
        { DELTA ONLY_USAGE(10, 5), -1, GATEWAY_CUT },
        { DELTA "data: not json\n\n" FINISH ONLY_USAGE(10, 5) DONE, 20000, GATEWAY_COMPLETE },
        { DELTA "data: {\"error\":{\"message\":\"boom\"}}\n\n", -1, GATEWAY_CUT },
        { DELTA FINISH ONLY_USAGE(-10, 5) DONE, -1, GATEWAY_COMPLETE },
    };
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        script_body(SSE_HEAD, want[i].events);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", true, "\"max_tokens\":50,", "hi");
        const GatewayCall *call = &rig_last(rig)->call;
        int64_t nusd = want[i].nusd < 0 ? call->hold.nusd : want[i].nusd;
        bool ok = CHECK_INT(call->charged.nusd, nusd) &&
                  CHECK_INT(call->outcome, want[i].outcome) &&
                  CHECK_INT(call->full_hold, want[i].nusd < 0);
        bool cut = want[i].outcome == GATEWAY_CUT;
        ok &= CHECK_INT(str_find(reply_str(&reply), STR("\"error\"")) >= 0, cut);
        if (cut) ok &= CHECK(str_find(reply_str(&reply), STR("[DONE]")) < 0);
        if (cut && want[i].quietly) CHECK_HAS(reply_str(&reply), "ended without its last event");
        if (!ok) fprintf(stderr, "  for shape %zu\n", i);
    }
    rig_totals(rig);
}

static void test_usage_shapes(void **state)
{
    (void)state;
    rig_run_with(usage_shapes_wait, scripted, NULL);
}

/* The Responses API: usage in the terminal event, errors with a sequence number. */
static void responses_wait(void *arg)
{
    Rig *rig = arg;
    static const char created[] =
        "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":"
        "{\"id\":\"r\",\"model\":\"stub-2\"}}\n\nevent: response.output_text.delta\ndata: {\"type\":"
        "\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"hi\"}\n\n";
    static const char completed[] =
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":2,"
        "\"response\":{\"status\":\"completed\",\"usage\":{\"input_tokens\":10,\"output_tokens\":5,"
        "\"total_tokens\":15}}}\n\n";
    char all[2048];
    snprintf(all, sizeof all, "%s%s", created, completed);
    script_body(SSE_HEAD, all);
    CLEANUP(reply_deinit)
    Reply whole = rig_post_wait(rig, API_RESPONSES,
                                "{\"model\":\"stub-1\",\"input\":\"x\",\"stream\":true}");
    CHECK_STR(reply_str(&whole), str_of(all));
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_COMPLETE);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 20000);
    CHECK_STR(str_of(rig_last(rig)->model_used), STR("stub-2"));

    script_body(SSE_HEAD, created);
    CLEANUP(reply_deinit)
    Reply cut = rig_post_wait(rig, API_RESPONSES,
                              "{\"model\":\"stub-1\",\"input\":\"x\",\"stream\":true}");
    CHECK(str_starts_with(reply_str(&cut), str_of(created)));
    CHECK_HAS(reply_str(&cut),
              "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_error\"");
    CHECK_HAS(reply_str(&cut), "\"sequence_number\":2}");
    CHECK(rig_last(rig)->call.full_hold);

    script_body(JSON_HEAD, "{\"status\":\"completed\",\"output\":[],\"usage\":{\"input_tokens\":3,"
                           "\"output_tokens\":4}}");
    CLEANUP(reply_deinit)
    Reply plain = rig_post_wait(rig, API_RESPONSES, "{\"model\":\"stub-1\",\"input\":\"x\"}");
    CHECK_INT(plain.status, 200);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 11000);
    seen();
    CHECK_HAS(str_of(seen_head), "POST /v1/responses HTTP/1.1\r\n");
}

static void test_responses(void **state)
{
    (void)state;
    rig_run_with(responses_wait, scripted, NULL);
}

/* More than was held: booked all the same, and said. */
static void overshoot_wait(void *arg)
{
    Rig *rig = arg;
    GatewayStats *stats = calloc(1, sizeof *stats);
    script_body(JSON_HEAD,
                "{\"choices\":[{\"index\":0,\"message\":{},\"finish_reason\":\"stop\"}]," USAGE(
                    9000, 9000) "}");
    rig_task_wait(rig, (CapLimits){ 1000, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", false, "", "hi");
    CHECK_INT(reply.status, 200);
    CHECK_INT(rig_last(rig)->call.charged.tokens, 18000);
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->over_hold, 1);
    CLEANUP(reply_deinit) Reply next = rig_say_wait(rig, API_CHAT, "stub-1", false, "", "hi");
    CHECK_INT(next.status, 402);
    free(stats);
}

static void test_overshoot(void **state)
{
    (void)state;
    rig_run_with(overshoot_wait, scripted, NULL);
}

/* --- connections that fail -------------------------------------------------------------------- */

static char note[512]; /* the last line of the task's log */

static void noted(void *ctx, const char *text)
{
    (void)ctx;
    str_copy(note, sizeof note, str_of(text));
}

#define FINISH_EARLY                                                              \
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]," \
    "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":0}}\n\n"

static void broken_wait(void *arg)
{
    static const struct {
        const char *answer;
        StubEnd end;
        int status;
        GatewayOutcome outcome;
        bool whole;
    } want[] = {
        { "", STUB_CLOSE, 502, GATEWAY_UNREACHED, false },
        { "", STUB_RESET, 502, GATEWAY_UNREACHED, false },
        { "HTTP/1.1 200 OK\r\nContent-Ty", STUB_RESET, 502, GATEWAY_CUT, true },
        { "HTTP/1.1 200 OK\r\nno field\r\n\r\n", STUB_CLOSE, 502, GATEWAY_CUT, true },
        { "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nno field\r\n\r\n", STUB_CLOSE, 502,
          GATEWAY_CUT, true },
        { "HTTP/1.1 103 Early\r\n\r\n", STUB_CLOSE, 502, GATEWAY_UNREACHED, false },
        { "HTTP/1.1 500 Oh\r\nno field\r\n\r\n", STUB_CLOSE, 502, GATEWAY_UNREACHED, false },
        { "HTTP/1.1 20", STUB_CLOSE, 502, GATEWAY_UNREACHED, false },
        { "gibberish\r\n\r\n", STUB_CLOSE, 502, GATEWAY_UNREACHED, false },
        { SSE_HEAD "Transfer-Encoding: chunked\r\n\r\n", STUB_RESET, 502, GATEWAY_CUT, true },
        { SSE_HEAD "Transfer-Encoding: chunked\r\n\r\n", STUB_CLOSE, 502, GATEWAY_CUT, true },
        { SSE_HEAD "Content-Length: 500\r\n\r\n" DELTA, STUB_CLOSE, 200, GATEWAY_CUT, true },
        { SSE_HEAD "Content-Length: 500\r\n\r\n" DELTA, STUB_RESET, 200, GATEWAY_CUT, true },
        /* some say what was used in every chunk, and in the last one how much that is */
        { SSE_HEAD "Content-Length: 5000\r\n\r\n" DELTA FINISH_EARLY, STUB_RESET, 200,
          GATEWAY_COMPLETE, true },
        { SSE_HEAD "Content-Length: 5000\r\n\r\n" DELTA FINISH_EARLY, STUB_CLOSE, 200,
          GATEWAY_COMPLETE, true },
        { SSE_HEAD "\r\n" DELTA FINISH DONE, STUB_CLOSE, 200, GATEWAY_COMPLETE, true },
        { JSON_HEAD "Content-Length: 500\r\n\r\n{\"cho", STUB_CLOSE, 502, GATEWAY_CUT, true },
        { "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
          STUB_KEEP, 502, GATEWAY_UPSTREAM, false },
        { "HTTP/1.1 503 Busy\r\nContent-Length: 50\r\n\r\nhalf", STUB_CLOSE, 502, GATEWAY_UPSTREAM,
          false },
        { "HTTP/1.1 429 Slow\r\nRetry-After: -5\r\nContent-Length: 2\r\n\r\n{}", STUB_KEEP, 429,
          GATEWAY_UPSTREAM, false },
        { "HTTP/1.1 204 No Content\r\n\r\n", STUB_KEEP, 502, GATEWAY_CUT, true },
        { SSE_HEAD "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08", STUB_CLOSE,
          502, GATEWAY_CUT, true },
    };
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        script_set((Script){ .answer = want[i].answer, .end = want[i].end });
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", true, "\"max_tokens\":50,", "hi");
        const GatewayCall *call = &rig_last(rig)->call;
        bool ok = CHECK_INT(reply.status, want[i].status) &&
                  CHECK_INT(call->outcome, want[i].outcome) &&
                  CHECK_INT(call->full_hold, want[i].whole) &&
                  CHECK_INT(call->status, want[i].status) &&
                  CHECK_INT(call->charged.nusd, want[i].whole ? call->hold.nusd : 0);
        if (!ok) fprintf(stderr, "  for case %zu: %.*s\n", i, STR_ARG(reply_str(&reply)));
    }
    rig_totals(rig);

    int fd = socket(AF_INET, SOCK_STREAM, 0); /* a port that nobody listens on */
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    CHECK(bind(fd, (struct sockaddr *)&at, size) == 0);
    getsockname(fd, (struct sockaddr *)&at, &size);
    snprintf(rig->urls[2], sizeof rig->urls[2], "http://127.0.0.1:%u/v1", ntohs(at.sin_port));
    rig->sink.note = noted;
    CLEANUP(reply_deinit) Reply refused = rig_say_wait(rig, API_CHAT, "stub-1", true, "", "hi");
    CHECK_HAS(str_of(note), "model call failed: stub could not be reached: ");
    CHECK_INT(refused.status, 502);
    CHECK_HAS(reply_str(&refused), "stub could not be reached");
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_UNREACHED);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 0);
    close(fd);
}

static void test_broken_connections(void **state)
{
    (void)state;
    rig_run_with(broken_wait, scripted, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_fallbacks),
        cmocka_unit_test(test_unread),
        cmocka_unit_test(test_left),
        cmocka_unit_test(test_no_fallback),
        cmocka_unit_test(test_tool_cut),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_faithful),
        cmocka_unit_test(test_key),
        cmocka_unit_test(test_usage_null),
        cmocka_unit_test(test_upward),
        cmocka_unit_test(test_usage_shapes),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_overshoot),
        cmocka_unit_test(test_broken_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
