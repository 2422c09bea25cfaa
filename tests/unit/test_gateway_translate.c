/* Agents that speak one API and models that are served in the other, through the whole gateway. */
#include "tests/unit/gateway_rig.h"

typedef enum { OPENAI_ONLY, ANTHROPIC_ONLY } Served;

/* sim/ and stub models are served by one protocol only. */
static void serve(Rig *rig, Served served)
{
    rig->routes[0].match = served == OPENAI_ONLY ? "sim/*" : "nobody";
    rig->routes[1].match = served == OPENAI_ONLY ? "nobody" : "sim/*";
    rig->routes[2].match = served == OPENAI_ONLY ? "stub*" : "nobody";
    rig->routes[3].match = served == OPENAI_ONLY ? "nobody" : "stub*";
}

static Api served_api(Served served)
{
    return served == OPENAI_ONLY ? API_CHAT : API_MESSAGES;
}

/* A request of the same words in any of the APIs. */
static Reply say_wait(Rig *rig, Api api, const char *model, bool stream, const char *members,
                      const char *text)
{
    if (api != API_RESPONSES)
        return rig_say_wait(
            rig, api, model, stream,
            api == API_MESSAGES && !strstr(members, "max_tokens") ? "\"max_tokens\":400," : members,
            text);
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 1 << 20);
    buf_printf(&body, "{\"model\":\"%s\",%s\"input\":\"%s\"}", model,
               stream ? "\"stream\":true," : "", text);
    return rig_post_wait(rig, api, body.ptr);
}

/* --- what every kind of provider becomes ------------------------------------------------------ */

typedef enum { FREE, BY_USAGE, WHOLE } Charged;

typedef struct {
    const char *model;
    int status;
    GatewayOutcome outcome;
    Charged charged;
    const char *says;
} Want;

/* An answer that cannot be put in the agent's API is no answer. */
static const Want plain_modes[] = {
    { "sim/echo", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/silent", 200, GATEWAY_COMPLETE, BY_USAGE, "usage" },
    { "sim/fail", 500, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/overload", 529, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/rate-limit", 429, GATEWAY_UPSTREAM, FREE, "rate_limit" },
    { "sim/html", 502, GATEWAY_UPSTREAM, FREE, "status 502" },
    { "sim/truncate", 502, GATEWAY_CUT, WHOLE, "cut off" },
    { "sim/no-usage", 200, GATEWAY_COMPLETE, WHOLE, "ello" },
    { "sim/other-model", 200, GATEWAY_COMPLETE, BY_USAGE, "another-model" },
    { "sim/dribble", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/empty", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/garbage", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/bad-utf8", 502, GATEWAY_CUT, WHOLE, "cannot be read" },
    { "sim/error-event", 502, GATEWAY_CUT, WHOLE, "Overloaded" },
};

static const Want stream_modes[] = {
    { "sim/echo", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/silent", 200, GATEWAY_COMPLETE, BY_USAGE, "" },
    { "sim/fail", 500, GATEWAY_UPSTREAM, FREE, "asked for" },
    { "sim/html", 502, GATEWAY_UPSTREAM, FREE, "status 502" },
    { "sim/truncate", 200, GATEWAY_CUT, WHOLE, "cut off" },
    { "sim/no-finish", 200, GATEWAY_CUT, WHOLE, "cut off" },
    { "sim/done-early", 200, GATEWAY_CUT, WHOLE, "cut off" },
    { "sim/no-usage", 200, GATEWAY_COMPLETE, WHOLE, "ello" },
    { "sim/error-event", 200, GATEWAY_CUT, WHOLE, "Overloaded" },
    { "sim/keep-alives", 200, GATEWAY_COMPLETE, BY_USAGE, ": keep-alive" },
    { "sim/dribble", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/left-open", 200, GATEWAY_COMPLETE, BY_USAGE, "ello" },
    { "sim/huge", 200, GATEWAY_CUT, WHOLE, "larger than" },
};

static const char *end_mark(Api api)
{
    static const char *const marks[API_N_] = { "data: [DONE]", "event: response.completed",
                                               "event: message_stop" };
    return marks[api];
}

/* Errors have the shape that the agent's SDK knows. */
static void check_shape(Str body, Api api, bool stream)
{
    static const char *const plain[API_N_] = { "{\"error\":{\"message\":",
                                               "{\"error\":{\"message\":",
                                               "{\"type\":\"error\",\"error\":{\"type\":" };
    static const char *const event[API_N_] = { "data: {\"error\":{\"message\":", "event: error\n",
                                               "event: error\ndata: {\"type\":\"error\"" };
    CHECK_HAS(body, stream ? event[api] : plain[api]);
}

static void check_mode_wait(Rig *rig, const Want *want, Api api, bool stream, Served served)
{
    size_t before = rig->calls_n;
    CLEANUP(reply_deinit)
    Reply reply = say_wait(rig, api, want->model, stream, "",
                           "hello, this is a text of some length");
    const GatewayCall *call = &rig_last(rig)->call;
    Str body = reply_str(&reply);
    bool ok = CHECK(rig->calls_n > before) && CHECK_INT(reply.status, want->status) &&
              CHECK_INT(call->outcome, want->outcome) && CHECK_INT(call->api, served_api(served)) &&
              CHECK_INT(call->full_hold, want->charged == WHOLE) &&
              CHECK_INT(call->charged.nusd == 0, want->charged == FREE);
    CHECK_HAS(body, want->says);
    bool events = str_starts_with(str_of(reply.type), STR("text/event-stream"));
    ok &= CHECK_INT(events, stream && want->status == 200);
    if (!events) ok &= CHECK_STR(str_of(reply.type), STR("application/json"));
    if (stream)
        ok &= CHECK_INT(str_find(body, str_of(end_mark(api))) >= 0,
                        want->outcome == GATEWAY_COMPLETE);
    if (want->outcome != GATEWAY_COMPLETE) check_shape(body, api, events);
    if (!ok)
        fprintf(stderr, "  for %s, api %d, stream %d: %.*s\n", want->model, api, stream,
                (int)MIN(body.len, 2000), body.ptr);
}

static void modes_wait(void *arg)
{
    static const struct {
        Api api;
        Served served;
    } pairs[] = { { API_CHAT, ANTHROPIC_ONLY },
                  { API_MESSAGES, OPENAI_ONLY },
                  { API_RESPONSES, ANTHROPIC_ONLY } };
    Rig *rig = arg;
    for (size_t p = 0; p < ARRAY_N(pairs); p++) {
        serve(rig, pairs[p].served);
        for (size_t i = 0; i < ARRAY_N(plain_modes); i++)
            check_mode_wait(rig, &plain_modes[i], pairs[p].api, false, pairs[p].served);
        for (size_t i = 0; i < ARRAY_N(stream_modes); i++)
            check_mode_wait(rig, &stream_modes[i], pairs[p].api, true, pairs[p].served);
    }
    rig_totals(rig);
}

static void test_modes(void **state)
{
    (void)state;
    rig_run(modes_wait);
}

/* --- tools ------------------------------------------------------------------------------------ */

static const char openai_tools[] =
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"find_order\",\"parameters\":{\"type\":"
    "\"object\",\"properties\":{\"order_id\":{\"type\":\"string\"}}}}}],";
static const char anthropic_tools[] =
    "\"max_tokens\":400,\"tools\":[{\"name\":\"find_order\",\"input_schema\":{\"type\":\"object\","
    "\"properties\":{\"order_id\":{\"type\":\"string\"}}}}],";

static void tools_wait(void *arg)
{
    Rig *rig = arg;
    for (int stream = 0; stream < 2; stream++) {
        serve(rig, ANTHROPIC_ONLY);
        CLEANUP(reply_deinit)
        Reply chat = say_wait(rig, API_CHAT, "sim/assistant", stream, openai_tools,
                              "find order A-77, please");
        CHECK_HAS(reply_str(&chat), "\"finish_reason\":\"tool_calls\"");
        CHECK_HAS(reply_str(&chat), "\"name\":\"find_order\"");
        CHECK_HAS(reply_str(&chat), "A-77");
        CHECK_STR(str_of(rig_last(rig)->finish), STR("tool_use"));
        CHECK_STR(str_of(rig_last(rig)->tools), STR("find_order"));
        CHECK_INT(rig_last(rig)->call.usage.tool_calls, 1);

        serve(rig, OPENAI_ONLY);
        CLEANUP(reply_deinit)
        Reply messages = say_wait(rig, API_MESSAGES, "sim/assistant", stream, anthropic_tools,
                                  "find order A-77, please");
        CHECK_HAS(reply_str(&messages), "\"stop_reason\":\"tool_use\"");
        CHECK_HAS(reply_str(&messages), "\"type\":\"tool_use\"");
        CHECK_HAS(reply_str(&messages), "A-77");
        CHECK_STR(str_of(rig_last(rig)->finish), STR("tool_calls"));
        CHECK_STR(str_of(rig_last(rig)->tools), STR("find_order"));
    }
    rig_totals(rig);
}

static void test_tools(void **state)
{
    (void)state;
    rig_run(tools_wait);
}

/* The simulator answers from the result of the tool: it has arrived as one. */
static void results_wait(void *arg)
{
    Rig *rig = arg;
    serve(rig, ANTHROPIC_ONLY);
    CLEANUP(reply_deinit)
    Reply chat = rig_post_wait(
        rig, API_CHAT,
        "{\"model\":\"sim/assistant\",\"messages\":[{\"role\":\"system\",\"content\":\"Help.\"},"
        "{\"role\":\"user\",\"content\":\"Where is order A-77?\"},{\"role\":\"assistant\",\"content\":"
        "null,\"tool_calls\":[{\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":"
        "\"find_order\",\"arguments\":\"{\\\"order_id\\\":\\\"A-77\\\"}\"}}]},{\"role\":\"tool\","
        "\"tool_call_id\":\"call_1\",\"content\":\"it is in Rotterdam\"}]}");
    CHECK_INT(chat.status, 200);
    CHECK_HAS(reply_str(&chat), "Rotterdam");
    CHECK_HAS(reply_str(&chat), "\"object\":\"chat.completion\"");
    serve(rig, OPENAI_ONLY);
    CLEANUP(reply_deinit)
    Reply messages = rig_post_wait(
        rig, API_MESSAGES,
        "{\"model\":\"sim/assistant\",\"max_tokens\":200,\"system\":\"Help.\",\"messages\":[{\"role\":"
        "\"user\",\"content\":\"Where is order A-77?\"},{\"role\":\"assistant\",\"content\":[{\"type\":"
        "\"tool_use\",\"id\":\"toolu_1\",\"name\":\"find_order\",\"input\":{\"order_id\":\"A-77\"}}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_1\","
        "\"content\":\"it is in Rotterdam\"}]}]}");
    CHECK_INT(messages.status, 200);
    CHECK_HAS(reply_str(&messages), "Rotterdam");
    CHECK_HAS(reply_str(&messages), "\"type\":\"message\"");
}

static void test_results(void **state)
{
    (void)state;
    rig_run(results_wait);
}

/* --- plans ------------------------------------------------------------------------------------ */

/* A model of the other API stands in when the agent's own has failed; the agent sees its own API.
 */
static void fallback_wait(void *arg)
{
    Rig *rig = arg;
    Str fallback = STR("stand-in/echo");
    rig->routes[6] = (GatewayRoute){ .match = "stand-in/*", .provider = 1 };
    rig->config.routes_n = 7;
    rig->providers[1].default_price = &rig->stub_price;
    rig->options.model = STR("sim/fail");
    rig->options.fallbacks = &fallback;
    rig->options.fallbacks_n = 1;
    rig_task_wait(rig, rig_no_limits);
    for (int stream = 0; stream < 2; stream++) {
        CLEANUP(reply_deinit)
        Reply reply = say_wait(rig, API_CHAT, "sim/fail", stream, "", "hello there");
        CHECK_INT(reply.status, 200);
        CHECK_HAS(reply_str(&reply), stream ? "data: [DONE]" : "\"object\":\"chat.completion\"");
        CHECK_HAS(str_of(reply.all), "x-gantry-degraded: stand-in/echo");
        CHECK_INT(rig_last(rig)->call.api, API_MESSAGES);
        CHECK(rig_last(rig)->call.degraded);
    }
    /* what cannot be carried over is not asked of it: the agent gets what its own model said */
    size_t before = rig->calls_n;
    CLEANUP(reply_deinit)
    Reply reply = say_wait(rig, API_CHAT, "sim/fail", false, "\"n\":2,", "hello there");
    CHECK_INT(reply.status, 500);
    for (size_t i = before; i < rig->calls_n; i++) CHECK_INT(rig->calls[i].call.api, API_CHAT);
}

static void test_fallback(void **state)
{
    (void)state;
    rig_run(fallback_wait);
}

static GatewayStats *stats(const Rig *rig)
{
    static GatewayStats all;
    gateway_stats(rig->gateway, &all);
    return &all;
}

static void refused_wait(void *arg)
{
    Rig *rig = arg;
    serve(rig, ANTHROPIC_ONLY);
    CLEANUP(reply_deinit)
    Reply reply = say_wait(rig, API_CHAT, "sim/echo", false, "\"n\":2,", "hello");
    CHECK_INT(reply.status, 400);
    CHECK_HAS(reply_str(&reply), "\"param\":\"n\"");
    CHECK_HAS(reply_str(&reply), "one choice");
    CHECK_INT(rig->calls_n, 0);
    CHECK_INT(stats(rig)->untranslatable, 1);
    CHECK_INT(stats(rig)->translated, 0);
    /* embeddings have no counterpart */
    CLEANUP(reply_deinit)
    Reply embeddings = rig_post_wait(rig, API_EMBEDDINGS,
                                     "{\"model\":\"sim/echo\",\"input\":\"x\"}");
    CHECK_INT(embeddings.status, 404);
    CHECK_INT(rig->calls_n, 0);
}

static void test_refused(void **state)
{
    (void)state;
    rig_run(refused_wait);
}

/* --- money ------------------------------------------------------------------------------------ */

/* Held and clamped by what is sent upstream, settled by what the upstream says; the client's usage
 * is the same in its own terms. */
static void money_wait(void *arg)
{
    Rig *rig = arg;
    serve(rig, ANTHROPIC_ONLY);
    rig_task_wait(rig, (CapLimits){ 600, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit)
    Reply reply = say_wait(rig, API_CHAT, "sim/ramble", false, "\"max_tokens\":100000,", "go on");
    const GatewayCall *call = &rig_last(rig)->call;
    CHECK_INT(reply.status, 200);
    CHECK_HAS(reply_str(&reply), "\"finish_reason\":\"length\"");
    CHECK(call->hold.tokens <= 600);
    CHECK_INT(call->charged.tokens, call->usage.input_tokens + call->usage.output_tokens);
    Buf want;
    buf_init(&want, 256);
    buf_printf(&want, "\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64,
               call->usage.input_tokens, call->usage.output_tokens);
    CHECK_HAS(reply_str(&reply), want.ptr);
    buf_deinit(&want);
    CLEANUP(reply_deinit)
    Reply refused = say_wait(rig, API_CHAT, "sim/ramble", false, "\"max_tokens\":100000,", "go on");
    CHECK_INT(refused.status, 402);
    CHECK_HAS(reply_str(&refused), "insufficient_quota");
    rig_totals(rig);
}

static void test_money(void **state)
{
    (void)state;
    rig_run(money_wait);
}

/* --- what goes up ----------------------------------------------------------------------------- */

typedef struct {
    char path[256], head[4096], body[4096];
} Seen;

static StubEnd see(StubRequest *request, void *ctx)
{
    static const char answer[] =
        "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"stub-2\",\"content\":["
        "{\"type\":\"text\",\"text\":\"Hi\"}],\"stop_reason\":\"stop_sequence\",\"stop_sequence\":\"X\","
        "\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":7,\"output_tokens\":3}}";
    Seen *seen = ctx;
    char head[128];
    str_copy(seen->path, sizeof seen->path, request->path);
    str_copy(seen->head, sizeof seen->head, request->head);
    str_copy(seen->body, sizeof seen->body, request->body);
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
             strlen(answer));
    stub_sends(request, head);
    stub_sends(request, answer);
    return STUB_KEEP;
}

static Seen seen;

static void upstream_wait(void *arg)
{
    Rig *rig = arg;
    serve(rig, ANTHROPIC_ONLY);
    CLEANUP(reply_deinit)
    Reply reply = say_wait(rig, API_CHAT, "stub-1", false, "\"stop\":\"X\",", "hello");
    CHECK_STR(str_of(seen.path), STR("/v1/messages"));
    CHECK_HAS(str_of(seen.head), "x-api-key: " RIG_KEY);
    CHECK_HAS(str_of(seen.head), "anthropic-version: 2023-06-01");
    CHECK(str_find(str_of(seen.head), str_of(RIG_AGENT_KEY)) < 0);
    CHECK_HAS(str_of(seen.body),
              "{\"model\":\"stub-1\",\"messages\":[{\"role\":\"user\",\"content\":"
              "\"hello\"}],\"stop_sequences\":[\"X\"],\"max_tokens\":4096}");
    CHECK_HAS(reply_str(&reply), "\"id\":\"chatcmpl-1\"");
    CHECK_HAS(reply_str(&reply), "\"finish_reason\":\"stop\"");
    CHECK_HAS(reply_str(&reply), "\"prompt_tokens\":12,\"completion_tokens\":3");
    const RigCall *call = rig_last(rig);
    CHECK_INT(call->call.usage.input_tokens, 12);
    CHECK_INT(call->call.usage.cached_tokens, 7);
    CHECK_STR(str_of(call->model_used), STR("stub-2"));
    CHECK_STR(str_of(call->finish), STR("stop_sequence"));
    /* 5 at 1 micro-USD, 7 at a tenth, 3 at two */
    CHECK_INT(call->call.charged.nusd, 5000 + 700 + 6000);
}

static void test_upstream(void **state)
{
    (void)state;
    rig_run_with(upstream_wait, see, &seen);
}

/* --- answers that do not fit ------------------------------------------------------------------ */

#define DATA(rest) "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{" rest "}}]}\n\n"

/* More calls than there may be. */
static StubEnd too_many(StubRequest *request, void *ctx)
{
    (void)ctx;
    stub_sends(request, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n");
    stub_sends(request, DATA("\"content\":\"Hi\""));
    for (int i = 0; i < 200; i++) {
        char event[256];
        snprintf(event, sizeof event,
                 DATA("\"tool_calls\":[{\"index\":%d,\"id\":\"c%d\",\"function\":{\"name\":\"f\","
                      "\"arguments\":\"{}\"}}]"),
                 i, i);
        stub_sends(request, event);
    }
    stub_sends(request,
               "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n");
    return STUB_CLOSE;
}

static void too_many_wait(void *arg)
{
    Rig *rig = arg;
    serve(rig, OPENAI_ONLY);
    CLEANUP(reply_deinit) Reply reply = say_wait(rig, API_MESSAGES, "stub-1", true, "", "hello");
    CHECK_HAS(reply_str(&reply), "Hi");
    CHECK_HAS(reply_str(&reply), "event: error");
    CHECK(str_find(reply_str(&reply), STR("message_stop")) < 0);
    CHECK_INT(rig_last(rig)->call.outcome, GATEWAY_CUT);
    CHECK_INT(rig_last(rig)->call.charged.nusd, rig_last(rig)->call.hold.nusd);
    CHECK_INT(stats(rig)->untranslated, 1);
    CHECK_INT(stats(rig)->translated, 1);
}

static void test_too_many(void **state)
{
    (void)state;
    rig_run_with(too_many_wait, too_many, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes),    cmocka_unit_test(test_tools),
        cmocka_unit_test(test_results),  cmocka_unit_test(test_fallback),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_money),
        cmocka_unit_test(test_upstream), cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
