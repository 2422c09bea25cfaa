#include "tests/unit/gateway_rig.h"

static const Api both[] = { API_CHAT, API_MESSAGES };

/* --- answers ---------------------------------------------------------------------------------- */

/* The text of an answer of either protocol, plain or streamed; into out. */
static Str answer_text(Arena *arena, Api api, bool stream, Str body)
{
    const Json *json = NULL;
    Str text = STR("");
    if (!stream) {
        if (json_parse(arena, body, NULL, &json, NULL) < 0) return STR("(no JSON)");
        if (api == API_MESSAGES)
            return json_str(json_get(json_at(json_get(json, "content"), 0), "text"));
        return json_str(
            json_get(json_get(json_at(json_get(json, "choices"), 0), "message"), "content"));
    }
    for (Str line; body.len;) {
        body = str_split(body, '\n', &line, NULL);
        if (!str_starts_with(line, STR("data: {"))) continue;
        if (json_parse(arena, str_skip(line, 6), NULL, &json, NULL) < 0) return STR("(no JSON)");
        const Json *delta = api == API_MESSAGES
                                ? json_get(json, "delta")
                                : json_get(json_at(json_get(json, "choices"), 0), "delta");
        Str piece = json_str(json_get(delta, api == API_MESSAGES ? "text" : "content"));
        text = arena_printf(arena, "%.*s%.*s", STR_ARG(text), STR_ARG(piece));
    }
    return text;
}

static void answers_wait(void *arg)
{
    Rig *rig = arg;
    rig->record_delay_ms = 10;
    for (size_t i = 0; i < 4; i++) {
        Api api = both[i / 2];
        bool stream = i % 2;
        Arena arena;
        arena_init(&arena, 1 << 20);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, api, "sim/echo", stream, rig_cap(api),
                                   "Grüße, how are you today?");
        CHECK_INT(reply.status, 200);
        CHECK_INT(reply.ended, HTTP_CALL_E_END);
        CHECK_STR(answer_text(&arena, api, stream, reply_str(&reply)),
                  STR("Grüße, how are you today?"));
        CHECK_STR(str_of(reply.task), rig->options.task_id);
        CHECK_STR(str_of(reply.version), rig->options.version_id);
        CHECK_STR(str_of(reply.cache), STR("off"));
        CHECK_STR(str_of(reply.simulated), STR("1"));
        CHECK_INT(reply.cost[0] != 0, !stream);

        const RigCall *last = rig_last(rig);
        CHECK_INT(rig->calls_n, i + 1);
        CHECK_INT(last->call.outcome, GATEWAY_COMPLETE);
        CHECK_INT(last->call.api, api);
        CHECK_INT(last->call.streamed, stream);
        CHECK_INT(last->call.status, 200);
        CHECK_INT(last->call.attempt, 1);
        CHECK(last->call.simulated && !last->call.full_hold && !last->call.client_gone);
        CHECK(last->call.usage.valid && last->call.usage.output_tokens == 7);
        CHECK(last->call.charged.nusd > 0 && last->call.charged.nusd <= last->call.hold.nusd);
        CHECK(last->call.ttfb_us >= 0 && last->call.duration_us >= last->call.ttfb_us);
        CHECK_STR(str_of(last->model), STR("sim/echo"));
        CHECK_STR(str_of(last->model_used), STR("sim/echo"));
        CHECK_STR(str_of(last->finish), api == API_MESSAGES ? STR("end_turn") : STR("stop"));
        CHECK_STR(str_of(last->error), STR(""));
        char cost[MONEY_TEXT_MAX];
        if (!stream)
            CHECK_STR(str_of(reply.cost), str_of(money_text(last->call.charged.nusd, cost)));
        arena_deinit(&arena);
    }
    CHECK_INT(rig->holds_n, 4);

    /* the ledger equals the upstream's bill */
    SimStats bill;
    sim_stats(rig->sim, &bill);
    GatewayTotals totals = rig_totals(rig);
    CHECK_INT(totals.calls, 4);
    CHECK_INT(totals.usage.input_tokens, bill.input_tokens);
    CHECK_INT(totals.usage.output_tokens, bill.output_tokens);
    CHECK_INT(totals.caps.settled_tokens, bill.input_tokens + bill.output_tokens);
    int64_t sum = 0;
    for (size_t i = 0; i < rig->calls_n; i++) sum += rig->calls[i].call.charged.nusd;
    CHECK_INT(totals.cost_nusd, sum);
}

static void test_answers(void **state)
{
    (void)state;
    rig_run(answers_wait);
}

static void usage_chunk_wait(void *arg)
{
    Rig *rig = arg;
    CLEANUP(reply_deinit) Reply plain = rig_say_wait(rig, API_CHAT, "sim/echo", true, "", "hi");
    CHECK(str_find(reply_str(&plain), STR("\"choices\":[]")) < 0);
    CHECK(str_ends_with(reply_str(&plain), STR("data: [DONE]\n\n")));
    CLEANUP(reply_deinit)
    Reply asked = rig_say_wait(rig, API_CHAT, "sim/echo", true,
                               "\"stream_options\":{\"include_usage\":true},", "hi");
    CHECK_HAS(reply_str(&asked), "\"choices\":[],\"usage\":{\"prompt_tokens\":");
    CLEANUP(reply_deinit)
    Reply refused = rig_say_wait(
        rig, API_CHAT, "sim/echo", true,
        "\"stream_options\":{\"include_obfuscation\":false,\"include_usage\":false},", "hi");
    CHECK(str_find(reply_str(&refused), STR("\"choices\":[]")) < 0);
    for (size_t i = 0; i < rig->calls_n; i++) CHECK(rig->calls[i].call.usage.valid);
    CHECK_INT(rig->calls_n, 3);
}

static void test_usage_chunk(void **state)
{
    (void)state;
    rig_run(usage_chunk_wait);
}

static const char openai_tools[] =
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"lookup_order\",\"description\":\"Find an "
    "order by its number\",\"parameters\":{\"type\":\"object\",\"properties\":{\"order_id\":{\"type\":"
    "\"string\"}},\"required\":[\"order_id\"]}}}],";
static const char anthropic_tools[] =
    "\"max_tokens\":300,\"tools\":[{\"name\":\"lookup_order\",\"description\":\"Find an order by its "
    "number\",\"input_schema\":{\"type\":\"object\",\"properties\":{\"order_id\":{\"type\":\"string\"}},"
    "\"required\":[\"order_id\"]}}],";

static void tools_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 4; i++) {
        Api api = both[i / 2];
        bool stream = i % 2;
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, api, "sim/assistant", stream,
                                   api == API_CHAT ? openai_tools : anthropic_tools,
                                   "Where is my order A-1234?");
        CHECK_INT(reply.status, 200);
        CHECK_HAS(reply_str(&reply), "\"name\":\"lookup_order\"");
        CHECK_HAS(reply_str(&reply), "A-1234");
        CHECK_INT(rig_last(rig)->call.usage.tool_calls, 1);
        CHECK_STR(str_of(rig_last(rig)->tools), STR("lookup_order"));
        CHECK_STR(str_of(rig_last(rig)->finish),
                  api == API_MESSAGES ? STR("tool_use") : STR("tool_calls"));
    }
    CHECK_INT(rig_totals(rig).caps.tool_calls, 4);
    bool counted = false;
    CHECK_INT(gateway_task_count_tool(rig->task, false, &counted), 0);
    CHECK(counted);
    CHECK_INT(rig_totals(rig).caps.tool_calls, 5);
}

static void test_tools(void **state)
{
    (void)state;
    rig_run(tools_wait);
}

static void embeddings_wait(void *arg)
{
    Rig *rig = arg;
    CLEANUP(reply_deinit)
    Reply reply = rig_post_wait(
        rig, API_EMBEDDINGS,
        "{\"model\":\"sim/embed\",\"input\":[\"a cat\",\"two cats\"],\"dimensions\":8}");
    CHECK_INT(reply.status, 200);
    CHECK_HAS(reply_str(&reply), "\"object\":\"embedding\",\"index\":1");
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_COMPLETE);
    CHECK(rig_last(rig)->call.usage.valid && rig_last(rig)->call.usage.output_tokens == 0);
    rig_totals(rig);
}

static void test_embeddings(void **state)
{
    (void)state;
    rig_run(embeddings_wait);
}

/* --- caps ------------------------------------------------------------------------------------- */

static void check_refusal(const Reply *reply, Api api, const char *what)
{
    CHECK_INT(reply->status, 402);
    CHECK_STR(str_of(reply->retry), STR("false"));
    CHECK_HAS(buf_str(&reply->body), what);
    if (api == API_MESSAGES)
        CHECK(str_starts_with(
            buf_str(&reply->body),
            STR("{\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":")));
    else {
        CHECK(str_starts_with(buf_str(&reply->body), STR("{\"error\":{\"message\":")));
        CHECK_HAS(buf_str(&reply->body),
                  "\"type\":\"insufficient_quota\",\"param\":null,\"code\":\"budget_exceeded\"}}");
    }
}

/* The n-th call of all was not sent, and that it was refused is told. */
static void check_told(const Rig *rig, size_t n)
{
    CHECK_INT(rig->calls_n, n);
    const GatewayCall *call = &rig->calls[n - 1].call;
    CHECK_INT(call->outcome, GATEWAY_REFUSED);
    CHECK(call->hold.tokens == 0 && call->charged.tokens == 0 && call->charged.nusd == 0);
    CHECK(!call->degraded_by); /* the task's own caps degrade nothing */
}

static void caps_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 2; i++) {
        Api api = both[i];
        size_t before = rig->calls_n;
        rig_task_wait(
            rig, (CapLimits){ 90, CAP_NONE, CAP_NONE, CAP_NONE }); /* the request alone is more */
        CLEANUP(reply_deinit)
        Reply tokens = rig_say_wait(rig, api, "sim/echo", false, rig_cap(api), "hello");
        check_refusal(&tokens, api, "tokensPerTask");
        CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_TOKENS);
        check_told(rig, before + 1);
        CLEANUP(reply_deinit)
        Reply again = rig_say_wait(rig, api, "sim/echo", false, rig_cap(api), "hello");
        check_refusal(&again, api, "tokensPerTask");
        check_told(rig, before + 1); /* once */

        rig_task_wait(rig, (CapLimits){ CAP_NONE, CAP_NONE, 1000, CAP_NONE });
        CLEANUP(reply_deinit)
        Reply money = rig_say_wait(rig, api, "sim/echo", true, rig_cap(api), "hello");
        check_refusal(&money, api, "usdPerTask");
        CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_USD);

        rig_task_wait(rig, (CapLimits){ CAP_NONE, CAP_NONE, CAP_NONE, 0 });
        CLEANUP(reply_deinit)
        Reply time = rig_say_wait(rig, api, "sim/echo", false, rig_cap(api), "hello");
        check_refusal(&time, api, "secondsPerTask");
        CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_SECONDS);
        CHECK_INT(rig_totals(rig).calls_refused, 1);
        check_told(rig, before + 3);
    }
}

static void test_caps(void **state)
{
    (void)state;
    rig_run(caps_wait);
}

/* A cap stops a task within one call; the last answer may still be given, without tools. */
static void tool_cap_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 2; i++) {
        Api api = both[i];
        const char *tools = api == API_CHAT ? openai_tools : anthropic_tools;
        rig_task_wait(rig, (CapLimits){ CAP_NONE, 2, CAP_NONE, CAP_NONE });
        for (int k = 0; k < 2; k++) {
            CLEANUP(reply_deinit)
            Reply reply = rig_say_wait(rig, api, "sim/loop", k, tools, "go on");
            CHECK_INT(reply.status, 200);
            CHECK_INT(rig_last(rig)->call.usage.tool_calls, 1);
        }
        CLEANUP(reply_deinit)
        Reply last = rig_say_wait(rig, api, "sim/loop", false, tools, "order go on");
        CHECK_INT(last.status, 200);
        CHECK_INT(rig_last(rig)->call.usage.tool_calls, 0);
        CHECK_INT(rig_totals(rig).caps.tool_calls, 2);
        CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_TOOL_CALLS); /* its tools were taken away */
        GatewayStats *stats = xcalloc(1, sizeof *stats);
        gateway_stats(rig->gateway, stats);
        CHECK_INT(stats->disarmed, i + 1);
        free(stats);
        bool counted;
        CHECK_INT(gateway_task_count_tool(rig->task, false, &counted), GATEWAY_E_CAP);
        CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_TOOL_CALLS);
    }
}

static void test_tool_cap(void **state)
{
    (void)state;
    rig_run(tool_cap_wait);
}

static void clamp_wait(void *arg)
{
    Rig *rig = arg;
    GatewayStats *stats = calloc(1, sizeof *stats);
    for (size_t i = 0; i < 4; i++) {
        Api api = both[i / 2];
        rig_task_wait(rig, (CapLimits){ 500, CAP_NONE, CAP_NONE, CAP_NONE });
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, api, "sim/ramble", i % 2, "\"max_tokens\":4000,",
                                   "tell me everything");
        CHECK_INT(reply.status, 200);
        CHECK_STR(str_of(rig_last(rig)->finish),
                  api == API_MESSAGES ? STR("max_tokens") : STR("length"));
        CHECK(rig_last(rig)->call.usage.output_tokens < 500);
        CHECK(rig_last(rig)->call.charged.tokens <= rig_last(rig)->call.hold.tokens);
        rig_totals(rig);
        /* and one that names no cap gets one */
        CLEANUP(reply_deinit)
        Reply next = rig_say_wait(rig, API_CHAT, "sim/ramble", i % 2, "", "tell me everything");
        CHECK(next.status == 200 || next.status == 402);
        rig_totals(rig);
    }
    gateway_stats(rig->gateway, stats);
    CHECK(stats->clamped >= 4);
    free(stats);
}

static void test_clamp(void **state)
{
    (void)state;
    rig_run(clamp_wait);
}

/* --- many at once ----------------------------------------------------------------------------- */

typedef struct {
    Rig *rig;
    Api api;
    bool stream;
    const char *model, *members, *text;
    int status;
    int *left;
    Cond *done;
} Agent;

static int agent_main(void *arg)
{
    Agent *a = arg;
    Reply reply = rig_say_wait(a->rig, a->api, a->model, a->stream, a->members, a->text);
    a->status = reply.status;
    reply_deinit(&reply);
    --*a->left;
    cond_signal(a->done);
    return 0;
}

static void agents_run_wait(Agent *agents, size_t n)
{
    int left = (int)n;
    Cond done;
    cond_init(&done);
    for (size_t i = 0; i < n; i++) {
        agents[i].left = &left;
        agents[i].done = &done;
        CHECK_INT(fiber_spawn("agent", agent_main, &agents[i], NULL), 0);
    }
    while (left) CHECK_INT(cond_wait(&done, DEADLINE_NONE), 0);
}

/* 200 at once, with money for a part of them: never a nano-dollar too much, and what is refused is
 * refused because it is spent, not because others were in the way. */
static void parallel_wait(void *arg)
{
    enum { N = 200 };
    Rig *rig = arg;
    static Agent agents[N];
    for (int by_money = 0; by_money < 2; by_money++) {
        sim_reset(rig->sim);
        rig_task_wait(rig, by_money ? (CapLimits){ CAP_NONE, CAP_NONE, 3000000, CAP_NONE }
                                    : (CapLimits){ 4000, CAP_NONE, CAP_NONE, CAP_NONE });
        for (size_t i = 0; i < N; i++)
            agents[i] = (Agent){ .rig = rig,
                                 .api = both[i % 2],
                                 .stream = i / 2 % 2,
                                 .model = "sim/ramble",
                                 .members = "\"max_tokens\":60,",
                                 .text = "go" };
        agents_run_wait(agents, N);
        size_t admitted = 0, refused = 0;
        for (size_t i = 0; i < N; i++) {
            admitted += agents[i].status == 200;
            refused += agents[i].status == 402;
        }
        CHECK_INT(admitted + refused, N);
        CHECK(admitted >= 20 && refused >= 20);
        GatewayTotals totals = rig_totals(rig);
        SimStats bill;
        sim_stats(rig->sim, &bill);
        CHECK_INT(totals.caps.settled_tokens, bill.input_tokens + bill.output_tokens);
        CHECK_INT(totals.stopped_by, by_money ? CAP_BY_USD : CAP_BY_TOKENS);
    }
}

static void test_parallel_at_the_cap(void **state)
{
    (void)state;
    rig_run(parallel_wait);
}

/* Room for one at a time: the second waits for the first to settle, and then goes. */
static void queue_wait(void *arg)
{
    Rig *rig = arg;
    rig_task_wait(rig, (CapLimits){ 520, CAP_NONE, CAP_NONE, CAP_NONE });
    Agent agents[2];
    for (size_t i = 0; i < 2; i++)
        agents[i] = (Agent){ .rig = rig,
                             .api = API_CHAT,
                             .model = "sim/slow",
                             .members = "\"max_tokens\":300,",
                             .text = "[[sim delay=50]] hello" };
    agents_run_wait(agents, 2);
    CHECK_INT(agents[0].status, 200);
    CHECK_INT(agents[1].status, 200);
    CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_NOTHING);
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->waited, 1);
    free(stats);
}

typedef struct {
    Rig *rig;
    const char *model;
    int result;
} Victim;

static int victim_main(void *arg)
{
    Victim *v = arg;
    char body[256];
    snprintf(
        body, sizeof body,
        "{\"model\":\"%s\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"[[sim "
        "per-token=2]] tell me a long story about it\"}]}",
        v->model);
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    GatewayReply reply = gateway_memory_reply(&memory);
    GatewayRequest request = { .api = API_CHAT, .body = str_of(body) };
    v->result = gateway_call_wait(v->rig->task, &request, &reply);
    gateway_memory_deinit(&memory);
    return 0;
}

/* Who waits too long for the others is told to come again. */
static int waiting_main(void *arg)
{
    Victim *v = arg;
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    GatewayReply reply = gateway_memory_reply(&memory);
    GatewayRequest request = {
        .api = API_CHAT,
        .body = STR("{\"model\":\"sim/echo\",\"max_tokens\":300,\"messages\":[{\"role\":\"user\","
                    "\"content\":\"hi\"}]}"),
        .timeout_ms = 40,
    };
    CHECK_INT(gateway_call_wait(v->rig->task, &request, &reply), 0);
    v->result = memory.status;
    CHECK_HAS(buf_str(&memory.body), "rate_limit_exceeded");
    gateway_memory_deinit(&memory);
    return 0;
}

static void impatient_wait(void *arg)
{
    Rig *rig = arg;
    rig_task_wait(rig, (CapLimits){ 520, CAP_NONE, CAP_NONE, CAP_NONE });
    Victim v = { .rig = rig, .model = "sim/hang" }, waiting = { .rig = rig };
    FiberRef ref, second;
    CHECK_INT(fiber_spawn("victim", victim_main, &v, &ref), 0);
    rig_sent_wait(rig, 1);
    CHECK_INT(fiber_spawn("waiting", waiting_main, &waiting, &second), 0);
    CHECK_INT(fiber_join_wait(second, NULL), 0);
    CHECK_INT(waiting.result, 429);
    fiber_cancel(ref);
    CHECK_INT(fiber_join_wait(ref, NULL), 0);
    CHECK_INT(rig_totals(rig).stopped_by, CAP_BY_NOTHING);
}

static void test_impatience(void **state)
{
    (void)state;
    rig_run(impatient_wait);
}

static void test_queue(void **state)
{
    (void)state;
    rig_run(queue_wait);
}

/* --- an agent that leaves --------------------------------------------------------------------- */

static void leave_wait(Rig *rig, Api api, const char *model, const char *text)
{
    char url[256], body[512];
    snprintf(
        body, sizeof body,
        "{\"model\":\"%s\",\"stream\":true,\"max_tokens\":600,\"messages\":[{\"role\":\"user\","
        "\"content\":\"%s\"}]}",
        model, text);
    HttpCallOptions options = {
        .url = str_make(
            url, rig_url(rig, api == API_CHAT ? "/v1/chat/completions" : "/v1/messages", url)),
        .body = str_of(body),
    };
    HttpCall *call = NULL;
    Str piece;
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    CHECK_INT(http_call_read_wait(call, DEADLINE_NONE, &piece), 0);
    http_call_free(call);
}

static void until_recorded_wait(Rig *rig, size_t n)
{
    int64_t until_ms = deadline_after(20000);
    while (rig->calls_n < n && clock_mono_ms() < until_ms) fiber_sleep_wait(5);
    CHECK_INT(rig->calls_n, n);
}

static void disconnect_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 2; i++) {
        sim_reset(rig->sim);
        rig_task_wait(rig, rig_no_limits);
        leave_wait(rig, both[i], "sim/ramble", "[[sim per-token=1]] go on and on");
        until_recorded_wait(rig, i + 1);
        const GatewayCall *call = &rig_last(rig)->call;
        CHECK(call->client_gone && !call->full_hold);
        CHECK_INT(call->outcome, GATEWAY_COMPLETE);
        SimStats bill;
        sim_stats(rig->sim, &bill);
        CHECK_INT(call->usage.output_tokens, bill.output_tokens);
        CHECK_INT(call->usage.output_tokens, 600);
        CHECK_INT(call->charged.tokens, bill.input_tokens + bill.output_tokens);
        CHECK_INT(bill.aborted, 0);
    }
    /* totals are final once settled, also when the agent has left in the middle of a call */
    rig_task_wait(rig, rig_no_limits);
    leave_wait(rig, API_CHAT, "sim/ramble", "[[sim per-token=1]] and so on and on");
    gateway_task_settle_wait(rig->task, deadline_after(20000));
    CHECK_INT(rig_totals(rig).usage.output_tokens, 600);
    CHECK_INT(rig->calls_n, 3);
    rig_task_wait(rig, rig_no_limits);

    /* one that is stopped meanwhile is charged in full */
    leave_wait(rig, API_CHAT, "sim/stall", "hello there, my friend");
    fiber_sleep_wait(20);
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    until_recorded_wait(rig, 4);
    CHECK(rig_last(rig)->call.full_hold);
    CHECK_INT(rig_last(rig)->call.charged.nusd, rig_last(rig)->call.hold.nusd);
}

static void test_disconnect_is_billed(void **state)
{
    (void)state;
    rig_run(disconnect_wait);
}

/* --- stopping --------------------------------------------------------------------------------- */

typedef struct {
    Rig *rig;
    Api api;
    bool stream;
    const char *model;
    Reply reply;
    bool done;
} Talk;

static int talk_main(void *arg)
{
    Talk *t = arg;
    t->reply = rig_say_wait(t->rig, t->api, t->model, t->stream, rig_cap(t->api),
                            "some words to be said slowly");
    t->done = true;
    return 0;
}

static void stop_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 8; i++) {
        Talk talk = { .rig = rig,
                      .api = both[i % 2],
                      .stream = i / 2 % 2,
                      .model = i < 4 ? "sim/stall" : "sim/hang" };
        FiberRef ref;
        rig_task_wait(rig, rig_no_limits);
        CHECK_INT(fiber_spawn("talk", talk_main, &talk, &ref), 0);
        rig_sent_wait(rig, 1);
        fiber_sleep_wait(200); /* for what is streamed to have begun */
        CHECK(!talk.done);
        gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
        CHECK_INT(fiber_join_wait(ref, NULL), 0);
        bool begun = talk.stream && i < 4;
        CHECK_INT(talk.reply.status, begun ? 200 : 403);
        CHECK_HAS(reply_str(&talk.reply), "the task was cancelled");
        CHECK(str_find(reply_str(&talk.reply), STR("[DONE]")) < 0);
        CHECK(str_find(reply_str(&talk.reply), STR("message_stop")) < 0);
        reply_deinit(&talk.reply);
        CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_STOPPED);
        CHECK(rig_last(rig)->call.full_hold);

        CLEANUP(reply_deinit)
        Reply after = rig_say_wait(rig, talk.api, "sim/echo", false, rig_cap(talk.api), "hi");
        CHECK_INT(after.status, 403);
        CHECK_STR(str_of(after.retry), STR("false"));
        CHECK_INT(rig_totals(rig).stop, GATEWAY_STOP_CANCELLED);
    }
}

static void test_stop(void **state)
{
    (void)state;
    rig_run(stop_wait);
}

/* A call that waits for reserved spend is let go as well. */
static void stop_waiting_wait(void *arg)
{
    Rig *rig = arg;
    rig_task_wait(rig, (CapLimits){ 700, CAP_NONE, CAP_NONE, CAP_NONE });
    Talk talks[2] = { { .rig = rig, .api = API_MESSAGES, .model = "sim/hang" },
                      { .rig = rig, .api = API_MESSAGES, .model = "sim/echo" } };
    FiberRef refs[2];
    for (size_t i = 0; i < 2; i++) {
        CHECK_INT(fiber_spawn("talk", talk_main, &talks[i], &refs[i]), 0);
        rig_sent_wait(rig, 1);
    }
    fiber_sleep_wait(150); /* for the second to wait */
    gateway_task_stop(rig->task, GATEWAY_STOP_DRAINED);
    for (size_t i = 0; i < 2; i++) {
        CHECK_INT(fiber_join_wait(refs[i], NULL), 0);
        CHECK_INT(talks[i].reply.status, 403);
        reply_deinit(&talks[i].reply);
    }
    CHECK_INT(rig->calls_n, 1); /* the second was never sent */
    rig_totals(rig);
}

static void test_stop_while_waiting(void **state)
{
    (void)state;
    rig_run(stop_waiting_wait);
}

/* Closing reads calls to their end when there is time, and ends them when there is none. */
static void close_wait(void *arg)
{
    Rig *rig = arg;
    for (int patient = 0; patient < 2; patient++) {
        Talk talk = { .rig = rig, .api = API_CHAT, .stream = true, .model = "sim/echo" };
        FiberRef ref;
        rig_task_wait(rig, rig_no_limits);
        talk.model = patient ? "sim/slow:1" : "sim/stall";
        CHECK_INT(fiber_spawn("talk", talk_main, &talk, &ref), 0);
        rig_sent_wait(rig, 1);
        gateway_task_close_wait(rig->task, deadline_after(patient ? 5000 : 50));
        rig->task = NULL;
        CHECK_INT(fiber_join_wait(ref, NULL), 0);
        reply_deinit(&talk.reply);
        CHECK_INT(rig_last(rig)->call.outcome, patient ? GATEWAY_COMPLETE : GATEWAY_STOPPED);
        CHECK_INT(rig->calls_n, patient + 1);
        CHECK_INT(gateway_task_open(rig->gateway, &rig->options, &rig->task), 0);
    }
}

static void test_close(void **state)
{
    (void)state;
    rig_run(close_wait);
}

/* --- the record ------------------------------------------------------------------------------- */

static void record_fails_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 8; i++) {
        Api api = both[i % 2];
        bool stream = i / 2 % 2, stale = i >= 4;
        rig_task_wait(rig, rig_no_limits);
        rig->record_result = stale ? -ESTALE : -ENOSPC;
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, api, "sim/echo", stream, rig_cap(api),
                                   "words that are never confirmed");
        CHECK_INT(reply.status, stream ? 200 : stale ? 403 : 500);
        if (!stream) CHECK_STR(str_of(reply.retry), STR("false")); /* it was paid for */
        CHECK_HAS(reply_str(&reply), "\"error\"");
        CHECK(str_find(reply_str(&reply), STR("[DONE]")) < 0);
        CHECK(str_find(reply_str(&reply), STR("message_stop")) < 0);
        CHECK(str_find(reply_str(&reply), STR("\"finish_reason\":\"stop\"")) < 0);
        CHECK_INT(rig_totals(rig).stop, stale ? GATEWAY_STOP_STALE : GATEWAY_STOP_NONE);
        rig->record_result = 0;
        CLEANUP(reply_deinit)
        Reply next = rig_say_wait(rig, api, "sim/echo", stream, rig_cap(api), "hi");
        CHECK_INT(next.status, stale ? 403 : 200);
    }
    /* a reservation that cannot be recorded is never sent */
    SimStats before, after;
    sim_stats(rig->sim, &before);
    rig_task_wait(rig, rig_no_limits);
    rig->hold_result = -ENOSPC;
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", "hi");
    CHECK_INT(reply.status, 500);
    CHECK_STR(str_of(reply.retry), STR("")); /* nothing was */
    sim_stats(rig->sim, &after);
    CHECK_INT(after.calls, before.calls);
    CHECK_INT(rig_totals(rig).caps.settled_tokens, 0);
    rig->hold_result = -ESTALE;
    CLEANUP(reply_deinit) Reply stale = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", "hi");
    CHECK_INT(stale.status, 403);
    CHECK_INT(rig_totals(rig).stop, GATEWAY_STOP_STALE);
}

static void test_record_fails(void **state)
{
    (void)state;
    rig_run(record_fails_wait);
}

/* --- refusals and routes ---------------------------------------------------------------------- */

static void refusals_wait(void *arg)
{
    static const struct {
        Api api;
        int status;
        const char *body, *says;
    } want[] = {
        { API_CHAT, 400, "{", "not valid JSON" },
        { API_CHAT, 400, "[1]", "not a JSON object" },
        { API_CHAT, 400, "{\"model\":\"sim/echo\",\"model\":\"sim/echo\"}", "not valid JSON" },
        { API_CHAT, 400, "{\"messages\":[]}", "\"param\":\"model\"" },
        { API_CHAT, 404,
          "{\"model\":\"nobody-1\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
          "\"code\":\"model_not_found\"" },
        { API_MESSAGES, 404,
          "{\"model\":\"nobody-1\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
          "\"type\":\"not_found_error\"" },
        { API_CHAT, 400,
          "{\"model\":\"unpriced-1\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
          "add it to `prices` in gantry.yaml" },
        { API_MESSAGES, 400,
          "{\"model\":\"unpriced-1\",\"max_tokens\":5,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
          "add it to `prices` in gantry.yaml" },
        { API_CHAT, 400,
          "{\"model\":\"sim/echo\",\"service_tier\":\"priority\",\"messages\":[{\"role\":\"user\","
          "\"content\":\"x\"}]}",
          "service tier" },
        { API_MESSAGES, 400,
          "{\"model\":\"sim/echo\",\"max_tokens\":5,\"tools\":[{\"type\":\"web_search_20250305\",\"name\":"
          "\"web_search\"}],\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
          "max_uses" },
    };
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        CLEANUP(reply_deinit) Reply reply = rig_post_wait(rig, want[i].api, want[i].body);
        CHECK_INT(reply.status, want[i].status);
        CHECK_HAS(reply_str(&reply), want[i].says);
        bool anthropic = str_starts_with(reply_str(&reply),
                                         STR("{\"type\":\"error\",\"error\":{\"type\":"));
        CHECK_INT(anthropic, want[i].api == API_MESSAGES);
    }
    CHECK_INT(rig->calls_n, 0);
    CHECK_INT(rig_totals(rig).calls_refused, ARRAY_N(want));

    char *large = calloc(1, 33u << 20);
    memset(large, ' ', 33u << 20);
    CLEANUP(reply_deinit)
    Reply reply = rig_request_wait(rig, "/v1/messages", str_make(large, 33u << 20));
    CHECK_INT(reply.status, 413);
    CHECK_HAS(reply_str(&reply), "\"type\":\"request_too_large\"");
    free(large);

    const GatewayProvider *provider;
    const Price *price;
    CHECK_INT(
        gateway_resolve(&rig->config, NULL, STR("sim/echo"), GATEWAY_ANTHROPIC, &provider, &price),
        0);
    CHECK(provider == &rig->providers[1]);
    CHECK_INT(gateway_resolve(&rig->config, NULL, STR("nobody"), GATEWAY_OPENAI, &provider, &price),
              -ENOENT);
    CHECK_INT(
        gateway_resolve(&rig->config, NULL, STR("unpriced-1"), GATEWAY_OPENAI, &provider, &price),
        -ENODATA);
    CHECK_INT(gateway_resolve(&rig->config, NULL, STR("stub-1"), GATEWAY_OPENAI, &provider, &price),
              0);
    CHECK(price == &rig->stub_price);
}

static void test_refusals(void **state)
{
    (void)state;
    rig_run(refusals_wait);
}

/* Anthropic's clients show the id of the header, and that of the body. */
static void check_request_id(const Reply *reply)
{
    char id[64] = "", want[96];
    const char *at = strstr(reply->all, "\nrequest-id: ");
    if (!CHECK(at)) return;
    str_copy(id, sizeof id, str_make(at + strlen("\nrequest-id: "), 36));
    snprintf(want, sizeof want, "\"request_id\":\"%s\"", id);
    CHECK_HAS(reply_str(reply), want);
    snprintf(want, sizeof want, "x-request-id: %s\n", id);
    CHECK_HAS(str_of(reply->all), want);
}

/* --- what is refused is counted, by its reason ------------------------------------------------ */

static uint64_t refused_n(const Rig *rig, GatewayRefused why)
{
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    uint64_t n = stats->refused[why];
    free(stats);
    return n;
}

static void check_counted(Rig *rig, GatewayRefused why, const char *path, Str body, int status)
{
    uint64_t before = refused_n(rig, why);
    CLEANUP(reply_deinit) Reply reply = rig_request_wait(rig, path, body);
    CHECK_INT(reply.status, status);
    CHECK_INT(refused_n(rig, why), before + 1);
}

#define CHAT_OF(model) \
    STR("{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}")

/* The others are reached in test_gateway_boundary (tool, off), _degrade (queued), _limits
 * (breaker). */
static void counted_wait(void *arg)
{
    static const char chat[] = "/v1/chat/completions";
    Rig *rig = arg;
    char *large = calloc(1, 33u << 20);
    memset(large, ' ', 33u << 20);
    check_counted(rig, GATEWAY_REFUSED_LARGE, chat, str_make(large, 33u << 20), 413);
    free(large);
    check_counted(rig, GATEWAY_REFUSED_INVALID, chat, STR("{"), 400);
    check_counted(rig, GATEWAY_REFUSED_INVALID, "/v1/files", STR_NULL, 404);
    check_counted(rig, GATEWAY_REFUSED_ROUTE, chat, CHAT_OF("nobody"), 404);
    check_counted(rig, GATEWAY_REFUSED_PRICE, chat, CHAT_OF("unpriced-1"), 400);
    check_counted(rig, GATEWAY_REFUSED_STATE, "/v1/responses",
                  STR("{\"model\":\"stub\",\"input\":\"x\",\"previous_response_id\":\"r\"}"), 403);
    rig->hold_result = -EAGAIN;
    check_counted(rig, GATEWAY_REFUSED_AWAY, chat, CHAT_OF("sim/echo"), 503);
    rig->hold_result = -EIO;
    check_counted(rig, GATEWAY_REFUSED_FAILED, chat, CHAT_OF("sim/echo"), 500);
    rig->hold_result = 0;
    rig->record_result = -EIO;
    check_counted(rig, GATEWAY_REFUSED_FAILED, chat, CHAT_OF("sim/echo"), 500);
    rig->record_result = 0;
    CapLimits none = rig_no_limits;
    none.tokens = 1;
    rig_task_wait(rig, none);
    check_counted(rig, GATEWAY_REFUSED_CAP, chat, CHAT_OF("sim/echo"), 402);
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    check_counted(rig, GATEWAY_REFUSED_STOPPED, chat, CHAT_OF("sim/echo"), 403);
}

static void test_refusals_are_counted(void **state)
{
    (void)state;
    rig_run(counted_wait);
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_INT(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* A task has so many connections; more are told so, and counted. */
static void crowded_wait(void *arg)
{
    enum { FDS = 256 };
    Rig *rig = arg;
    int fds[FDS];
    for (int i = 0; i < FDS; i++) {
        fds[i] = connect_to(gateway_task_port(rig->task));
        if (i % 32 == 31) fiber_sleep_wait(1); /* they are taken in */
    }
    CLEANUP(reply_deinit) Reply reply = rig_request_wait(rig, "/v1/models", STR_NULL);
    CHECK_INT(reply.status, 503);
    for (int i = 0; i < FDS; i++) close(fds[i]);
    rig_task_wait(rig, rig_no_limits);
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->listener_refused, 1);
    free(stats);
}

static void test_connections_of_a_task(void **state)
{
    (void)state;
    rig_run(crowded_wait);
}

static int door(HttpReq *req, void *ctx)
{
    (void)ctx;
    return http_reply_wait(req, 200, "text/plain", req->path);
}

/* HEAD where GET is answered, and nowhere else. */
static void heads_wait(Rig *rig)
{
    static const struct {
        const char *path;
        int status;
    } want[] = { { "/v1/models", 200 },
                 { "/v1/models/sim/assistant", 200 },
                 { "/gantry/v1/task", 200 },
                 { "/v1/messages", 405 } };
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        CLEANUP(reply_deinit) Reply head = rig_method_wait(rig, STR("HEAD"), want[i].path, STR(""));
        if (!CHECK_INT(head.status, want[i].status)) fprintf(stderr, "  for %s\n", want[i].path);
        CHECK_INT(head.body.len, 0);
    }
    CLEANUP(reply_deinit)
    Reply other = rig_method_wait(rig, STR("DELETE"), "/v1/models", STR(""));
    CHECK_INT(other.status, 405);
    CHECK_HAS(str_of(other.all), "allow: GET, HEAD\n");
}

static void routes_wait(void *arg)
{
    static const struct {
        const char *path;
        bool post;
        int status;
        const char *says;
    } want[] = {
        { "/", false, 404, "{\"error\":{\"message\":" },
        { "/v1/files", true, 404, "unknown_url" },
        { "/v1/messages/batches", true, 404, "{\"type\":\"error\"" },
        { "/v1/chat/completions", false, 405, "{\"error\":{\"message\":" },
        { "/v1/messages", false, 405, "{\"type\":\"error\"" },
        { "/messages/count_tokens", false, 405, "{\"type\":\"error\"" },
        { "/messages/count_tokens", true, 400, "`model` is missing" },
        { "/v1/messages", true, 400, "{\"type\":\"error\"" },
        { "/v1/chat/completions/", true, 404, "unknown_url" },
        { "/v1//chat/completions", true, 404, "unknown_url" },
        { "/v1/models", true, 405, "error" },
        { "/v1/models", false, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"sim/assistant\"" },
        { "/gantry/v1/task", false, 200, "\"taskId\":\"0192f3aa-0000-7000-8000-000000000001\"" },
        { "/gantry/v1/state/x", false, 200, "/gantry/v1/state/x" },
    };
    Rig *rig = arg;
    Str fallback = STR("sim/small"), tool = STR("lookup_order");
    rig->options.fallbacks = &fallback;
    rig->options.fallbacks_n = 1;
    rig->options.tools = &tool;
    rig->options.tools_n = 1;
    rig->options.door = door;
    rig_task_wait(rig, (CapLimits){ 1000, CAP_NONE, 2000000, 60000 });
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        CLEANUP(reply_deinit)
        Reply reply = rig_request_wait(rig, want[i].path, want[i].post ? STR("{}") : STR(""));
        if (!CHECK_INT(reply.status, want[i].status)) fprintf(stderr, "  for %s\n", want[i].path);
        CHECK_HAS(reply_str(&reply), want[i].says);
        if (strstr(want[i].says, "\"type\":\"error\"")) check_request_id(&reply);
    }
    CLEANUP(reply_deinit) Reply task = rig_request_wait(rig, "/gantry/v1/task", STR(""));
    CHECK_HAS(reply_str(&task), "\"limits\":{\"tokensPerTask\":1000,\"toolCallsPerTask\":null,"
                                "\"secondsPerTask\":60,\"usdPerTask\":\"0.002000000\"}");
    CHECK_HAS(reply_str(&task), "\"tools\":[\"lookup_order\"]");
    CHECK_HAS(reply_str(&task), "\"stoppedBy\":null");
    CLEANUP(reply_deinit) Reply models = rig_request_wait(rig, "/v1/models", STR(""));
    CHECK_HAS(reply_str(&models), "sim/small");
    CHECK(str_ends_with(str_of(gateway_task_openai_url(rig->task)), STR("/v1")));
    rig->options.fallbacks_n = rig->options.tools_n = 0;
    heads_wait(rig);
}

static void test_routes(void **state)
{
    (void)state;
    rig_run(routes_wait);
}

/* --- without a socket ------------------------------------------------------------------------- */

static void in_process_wait(void *arg)
{
    Rig *rig = arg;
    rig->options.listen = false;
    rig_task_wait(rig, rig_no_limits);
    CHECK_INT(gateway_task_port(rig->task), 0);
    CHECK_STR(str_of(gateway_task_openai_url(rig->task)), STR(""));
    static const char *const models[] = { "sim/echo", "sim/truncate", "sim/fail" };
    static const int results[] = { 0, GATEWAY_E_CUT, 0 }, statuses[] = { 200, 200, 500 };
    for (size_t i = 0; i < 3; i++) {
        char body[256];
        snprintf(
            body, sizeof body,
            "{\"model\":\"%s\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello "
            "from within this process\"}]}",
            models[i]);
        GatewayMemory memory;
        gateway_memory_init(&memory, 1 << 20);
        GatewayReply reply = gateway_memory_reply(&memory);
        GatewayRequest request = { .api = API_CHAT, .body = str_of(body) };
        CHECK_INT(gateway_call_wait(rig->task, &request, &reply), results[i]);
        CHECK_INT(memory.status, statuses[i]);
        CHECK(memory.ended);
        if (i == 0) CHECK(str_ends_with(buf_str(&memory.body), STR("data: [DONE]\n\n")));
        gateway_memory_deinit(&memory);
    }
    /* a reader with too little room has gone; the call is settled all the same */
    GatewayMemory small;
    gateway_memory_init(&small, 16);
    GatewayReply reply = gateway_memory_reply(&small);
    GatewayRequest request = {
        .api = API_CHAT,
        .body = STR(
            "{\"model\":\"sim/echo\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"),
    };
    CHECK_INT(gateway_call_wait(rig->task, &request, &reply), HTTP_E_GONE);
    gateway_memory_deinit(&small);
    CHECK_INT(rig->calls_n, 4);
    rig_totals(rig);
}

static void test_in_process(void **state)
{
    (void)state;
    rig_run(in_process_wait);
}

/* Cancelled at any moment: settled, recorded, nothing leaks. */
static void cancel_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const models[] = { "sim/echo", "sim/hang", "sim/stall" };
    for (size_t i = 0; i < 3; i++)
        for (int after_ms = -1; after_ms < 24; after_ms += after_ms < 4 ? 1 : 6) {
            Victim v = { .rig = rig, .model = models[i] };
            FiberRef ref;
            CHECK_INT(fiber_spawn("victim", victim_main, &v, &ref), 0);
            if (after_ms >= 0) fiber_sleep_wait(after_ms);
            fiber_cancel(ref);
            CHECK_INT(fiber_join_wait(ref, NULL), 0);
            CHECK(v.result == -ECANCELED || (i == 0 && v.result == 0));
            rig_totals(rig);
        }
    for (size_t i = 0; i < rig->calls_n; i++) {
        const GatewayCall *call = &rig->calls[i].call;
        if (call->outcome == GATEWAY_COMPLETE) continue;
        CHECK_INT(call->outcome, GATEWAY_STOPPED);
        CHECK(call->full_hold || call->charged.nusd == 0);
    }
    CHECK_INT(rig_totals(rig).calls, rig->calls_n);
}

static void test_cancel(void **state)
{
    (void)state;
    rig_run(cancel_wait);
}

/* --- counters --------------------------------------------------------------------------------- */

static void stats_wait(void *arg)
{
    Rig *rig = arg;
    GatewayStats *stats = calloc(1, sizeof *stats);
    for (int i = 0; i < 3; i++) {
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "sim/echo", i % 2, "", "hello");
        CHECK_INT(reply.status, 200);
    }
    CLEANUP(reply_deinit)
    Reply failed = rig_say_wait(rig, API_MESSAGES, "sim/fail", false, rig_cap(API_MESSAGES), "x");
    CHECK_INT(failed.status, 500);
    CLEANUP(reply_deinit) Reply refused = rig_say_wait(rig, API_CHAT, "nobody", false, "", "x");
    CHECK_INT(refused.status, 404);
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->models_n, 2);
    CHECK_STR(str_of(stats->models[0].model), STR("sim/echo"));
    CHECK_STR(str_of(stats->models[0].provider), STR("sim"));
    CHECK_INT(stats->models[0].calls[GATEWAY_COMPLETE], 3);
    CHECK_INT(stats->models[0].output_tokens, 6);
    CHECK(stats->models[0].cost_nusd > 0 && stats->models[0].duration_us > 0);
    CHECK_INT(stats->models[1].calls[GATEWAY_UPSTREAM], 1);
    CHECK_INT(stats->models[1].cost_nusd, 0);
    CHECK_INT(stats->refused[GATEWAY_REFUSED_ROUTE], 1);
    CHECK_INT(stats->in_flight, 0);
    CHECK_INT(stats->tasks_open, 1);

    /* names come from agents: there is room for so many, the rest is counted together */
    for (int i = 0; i < GATEWAY_STATS_MODELS_MAX + 5; i++) {
        char model[32];
        snprintf(model, sizeof model, "sim/echo-%d", i);
        CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, model, false, "", "hello");
        CHECK_INT(reply.status, 200);
    }
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->models_n, GATEWAY_STATS_MODELS_MAX + 1);
    CHECK_STR(str_of(stats->models[GATEWAY_STATS_MODELS_MAX].model), STR("other"));
    CHECK_INT(stats->models[GATEWAY_STATS_MODELS_MAX].calls[GATEWAY_COMPLETE], 7);
    free(stats);
}

static void test_stats(void **state)
{
    (void)state;
    rig_run(stats_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_usage_chunk),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_tool_cap),
        cmocka_unit_test(test_clamp),
        cmocka_unit_test(test_parallel_at_the_cap),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_impatience),
        cmocka_unit_test(test_disconnect_is_billed),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_stop_while_waiting),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_record_fails),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refusals_are_counted),
        cmocka_unit_test(test_connections_of_a_task),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_in_process),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_stats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
