/* Usage as servers really report it, through the whole gateway: whatever the shape, the call is
 * settled once, by the same counts, and the agent sees them in its own API's terms. */
#include "tests/unit/gateway_rig.h"

#define ID "\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"stub-1\""
#define CHUNK(rest) "data: {" ID "," rest "}\n\n"
#define TEXT \
    CHUNK("\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hi\"}}]")
#define FINISH "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]"
#define USED                                                                       \
    "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,\"total_tokens\":15," \
    "\"prompt_tokens_details\":{\"cached_tokens\":7}}"
#define ZERO "\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}"
#define DONE "data: [DONE]\n\n"

typedef struct {
    const char *name, *events;
    int64_t input, cached, output;
} Shape;

static const Shape shapes[] = {
    { "choices empty", TEXT CHUNK(FINISH) CHUNK("\"choices\":[]," USED) DONE, 12, 7, 3 },
    { "an empty delta",
      TEXT CHUNK(FINISH) CHUNK("\"choices\":[{\"index\":0,\"delta\":{}}]," USED) DONE, 12, 7, 3 },
    { "a choice without delta", TEXT CHUNK(FINISH) CHUNK("\"choices\":[{\"index\":0}]," USED) DONE,
      12, 7, 3 },
    { "on the finish chunk", TEXT CHUNK(FINISH "," USED) DONE, 12, 7, 3 },
    { "after the finish, late", TEXT CHUNK(FINISH) ": ping\n\n" CHUNK("\"choices\":[]," USED) DONE,
      12, 7, 3 },
    { "on every chunk, zero until the last",
      CHUNK("\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]," ZERO)
          CHUNK(FINISH "," ZERO) CHUNK("\"choices\":[]," USED) DONE,
      12, 7, 3 },
    { "on the finish, then again", TEXT CHUNK(FINISH "," USED) CHUNK("\"choices\":[]," USED) DONE,
      12, 7, 3 },
    { "explicit zeros", TEXT CHUNK(FINISH) CHUNK("\"choices\":[]," ZERO) DONE, 0, 0, 0 },
    { "null before",
      CHUNK("\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}],\"usage\":null")
          CHUNK(FINISH ",\"usage\":null") CHUNK("\"choices\":[]," USED) DONE,
      12, 7, 3 },
    { "without a last [DONE]", TEXT CHUNK(FINISH) CHUNK("\"choices\":[]," USED), 12, 7, 3 },
};

static const char *_Atomic script; /* what the stub streams next */

static StubEnd stream(StubRequest *request, void *ctx)
{
    (void)ctx;
    stub_sends(request,
               "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n");
    stub_sends(request, script);
    return STUB_CLOSE;
}

/* 5 at 1 micro-USD, 7 at a tenth, 3 at two. */
static int64_t cost_nusd(const Shape *shape)
{
    return (shape->input - shape->cached) * 1000 + shape->cached * 100 + shape->output * 2000;
}

/* says: what else the agent must be told. */
static void check_shape_wait(Rig *rig, const Shape *shape, Api api, const char *says)
{
    size_t before = rig->calls_n;
    GatewayTotals was = rig_totals(rig);
    script = shape->events;
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, api, "stub-1", true,
                               api == API_MESSAGES ? "\"max_tokens\":50,"
                                                   : "\"stream_options\":{\"include_usage\":true},",
                               "hello");
    const GatewayCall *call = &rig_last(rig)->call;
    GatewayTotals now = rig_totals(rig);
    bool ok = CHECK_INT(rig->calls_n, before + 1) && CHECK_INT(reply.status, 200) &&
              CHECK_INT(call->outcome, GATEWAY_COMPLETE) && CHECK_INT(call->full_hold, false) &&
              CHECK_INT(call->usage.input_tokens, shape->input) &&
              CHECK_INT(call->usage.cached_tokens, shape->cached) &&
              CHECK_INT(call->usage.output_tokens, shape->output) &&
              CHECK_INT(call->charged.nusd, cost_nusd(shape)) &&
              CHECK_INT(now.cost_nusd - was.cost_nusd, cost_nusd(shape)) &&
              CHECK_INT(now.caps.settled_tokens - was.caps.settled_tokens,
                        shape->input + shape->output);
    CHECK_HAS(reply_str(&reply), "Hi");
    CHECK_HAS(reply_str(&reply), says);
    if (!ok) fprintf(stderr, "  for %s, api %d\n", shape->name, api);
}

static void shapes_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(shapes); i++)
        check_shape_wait(rig, &shapes[i], API_CHAT, "\"usage\"");
    /* only an OpenAI provider serves it: what is billed is the same, and the agent is told so */
    rig->routes[3].match = "nobody";
    for (size_t i = 0; i < ARRAY_N(shapes); i++) {
        const Shape *shape = &shapes[i];
        char says[256];
        snprintf(says, sizeof says,
                 "\"usage\":{\"input_tokens\":%" PRId64 ",\"cache_creation_input_tokens\":0,"
                 "\"cache_read_input_tokens\":%" PRId64 ",\"output_tokens\":%" PRId64 "}}",
                 shape->input - shape->cached, shape->cached, shape->output);
        check_shape_wait(rig, shape, API_MESSAGES, says);
    }
}

static void test_shapes(void **state)
{
    (void)state;
    rig_run_with(shapes_wait, stream, NULL);
}

/* --- the providers' own, priced --------------------------------------------------------------- */

typedef struct {
    Api api;
    const char *body;
    int64_t input, output, nusd;
} Golden;

/* Rates of the rig: input 1, output 2, cache read 0.1 micro-USD a token; cache writes and reasoning
 * by what price_fill makes of them (1.25 and 2 times the input, the output's). */
static const Golden goldens[] = {
    /* (1117 - 1024) in, 1024 read, 346 out of which 320 thought */
    { API_CHAT,
      "{\"id\":\"c\",\"model\":\"stub-1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
      "\"content\":\"Hi\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1117,"
      "\"completion_tokens\":346,\"total_tokens\":1463,\"prompt_tokens_details\":{\"cached_tokens\":"
      "1024,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":320}}}",
      1117, 346, 93 * 1000 + 1024 * 100 + 346 * 2000 },
    { API_RESPONSES,
      "{\"id\":\"r\",\"model\":\"stub-1\",\"status\":\"completed\",\"output\":[{\"type\":\"message\","
      "\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hi\"}]}],\"usage\":{"
      "\"input_tokens\":1117,\"input_tokens_details\":{\"cached_tokens\":1024},\"output_tokens\":346,"
      "\"output_tokens_details\":{\"reasoning_tokens\":320},\"total_tokens\":1463}}",
      1117, 346, 93 * 1000 + 1024 * 100 + 346 * 2000 },
    /* three disjoint counts: 21 in, 188086 read, 0 written, 393 out */
    { API_MESSAGES,
      "{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"stub-1\",\"content\":[{"
      "\"type\":\"text\",\"text\":\"Hi\"}],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":21,"
      "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":188086,\"output_tokens\":393}}",
      188107, 393, 21 * 1000 + 188086 * 100 + 393 * 2000 },
    { API_EMBEDDINGS,
      "{\"object\":\"list\",\"model\":\"stub-1\",\"data\":[{\"object\":\"embedding\",\"index\":0,"
      "\"embedding\":[0.5]}],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}",
      8, 0, 8 * 1000 },
};

static StubEnd plain(StubRequest *request, void *ctx)
{
    (void)ctx;
    char head[160];
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
             strlen(script));
    stub_sends(request, head);
    stub_sends(request, script);
    return STUB_KEEP;
}

static void goldens_wait(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < ARRAY_N(goldens); i++) {
        const Golden *golden = &goldens[i];
        script = golden->body;
        CLEANUP(reply_deinit)
        Reply reply = golden->api == API_EMBEDDINGS
                          ? rig_post_wait(
                                rig, API_EMBEDDINGS,
                                "{\"model\":\"stub-1\",\"input\":\"eight tokens, they say\"}")
                          : rig_say_wait(rig, golden->api, "stub-1", false, rig_cap(golden->api),
                                         "hello");
        const GatewayCall *call = &rig_last(rig)->call;
        CHECK_INT(reply.status, 200);
        CHECK_STR(reply_str(&reply), str_of(golden->body)); /* byte for byte */
        CHECK_INT(call->usage.input_tokens, golden->input);
        CHECK_INT(call->usage.output_tokens, golden->output);
        CHECK_INT(call->charged.nusd, golden->nusd);
        char cost[32];
        snprintf(cost, sizeof cost, "0.%09" PRId64, golden->nusd);
        CHECK_STR(str_of(reply.cost), str_of(cost));
    }
}

static void test_goldens(void **state)
{
    (void)state;
    rig_run_with(goldens_wait, plain, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_goldens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
