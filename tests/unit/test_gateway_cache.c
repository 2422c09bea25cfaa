#include "tests/unit/gateway_rig.h"

static const Api both[] = { API_CHAT, API_MESSAGES };
static const char *const everyone[] = { "*" };

/* Everybody has opted in. The rig's gateway borrows its config, so this holds at once. */
static void opt_in(Rig *rig)
{
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1 };
}

static GatewayStats *stats(const Rig *rig)
{
    static GatewayStats s;
    gateway_stats(rig->gateway, &s);
    return &s;
}

static int64_t billed(const Rig *rig)
{
    SimStats bill;
    sim_stats(rig->sim, &bill);
    return (int64_t)(bill.input_tokens + bill.output_tokens);
}

static int64_t purge(Rig *rig, const char *tenant, const char *agent)
{
    CachePurge what = {
        .by_tenant = tenant, .tenant = str_of(tenant), .by_agent = agent, .agent = str_of(agent)
    };
    return (int64_t)gateway_cache_purge(rig->gateway, &what);
}

/* Says it and checks what the answer says of the cache. */
static Reply say_wait(Rig *rig, Api api, bool stream, const char *members, const char *text,
                      const char *cache)
{
    Buf all;
    buf_init(&all, 1 << 16);
    buf_printf(&all, "%s%s", rig_cap(api), members);
    Reply reply = rig_say_wait(rig, api, "sim/echo", stream, all.ptr, text);
    CHECK_INT(reply.status, 200);
    CHECK_INT(reply.ended, HTTP_CALL_E_END);
    CHECK_STR(str_of(reply.cache), str_of(cache));
    buf_deinit(&all);
    return reply;
}

static void expect_wait(Rig *rig, const char *text, const char *cache)
{
    Reply reply = say_wait(rig, API_CHAT, false, "", text, cache);
    reply_deinit(&reply);
}

/* --- hits ------------------------------------------------------------------------------------- */

static void one_kind_wait(Rig *rig, Api api, bool stream)
{
    rig_task_wait(rig, rig_no_limits);
    CLEANUP(reply_deinit) Reply first = say_wait(rig, api, stream, "", "hello there", "miss");
    GatewayTotals before = rig_totals(rig);
    int64_t bill = billed(rig);
    CLEANUP(reply_deinit) Reply again = say_wait(rig, api, stream, "", "hello there", "hit");
    CHECK_STR(reply_str(&again), reply_str(&first));
    CHECK_STR(str_of(again.type), str_of(first.type));
    CHECK_STR(str_of(again.cost), STR("0.000000000"));
    CHECK_STR(str_of(again.simulated), STR("1"));
    CHECK_STR(str_of(again.task), rig->options.task_id);
    CHECK_INT(billed(rig), bill);

    const RigCall *last = rig_last(rig);
    CHECK(last->call.cached && !last->call.replayed && !last->call.degraded);
    CHECK_INT(last->call.outcome, GATEWAY_COMPLETE);
    CHECK_INT(last->call.status, 200);
    CHECK_INT(last->call.streamed, stream);
    CHECK_INT(last->call.charged.nusd | last->call.charged.tokens | last->call.hold.nusd, 0);
    CHECK_INT(last->call.usage.input_tokens | last->call.usage.output_tokens, 0);
    CHECK(last->call.id[0] && strcmp(last->call.id, last[-1].call.id) != 0);
    CHECK_STR(str_of(last->model_used), STR("sim/echo"));
    CHECK_STR(str_of(last->finish), api == API_MESSAGES ? STR("end_turn") : STR("stop"));
    GatewayTotals totals = rig_totals(rig);
    CHECK_INT(totals.cost_nusd, before.cost_nusd);
    CHECK_INT(totals.caps.settled_tokens, before.caps.settled_tokens);
    CHECK_INT(totals.calls, before.calls); /* nothing was sent */
}

static void hits_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    rig->record_delay_ms = 5; /* the rig checks that no end comes before the record */
    for (size_t i = 0; i < 4; i++) one_kind_wait(rig, both[i / 2], i % 2);
    CHECK_INT(rig->calls_n, 8);
    CHECK_INT(stats(rig)->cache.hits, 4);
    CHECK_INT(stats(rig)->cache.misses, 4);
    CHECK_INT(stats(rig)->cache.stored, 4);
    CHECK_INT(stats(rig)->cache.entries, 4);
    CHECK(stats(rig)->cache.bytes > 0);
    CLEANUP(reply_deinit)
    Reply embedding = rig_post_wait(rig, API_EMBEDDINGS,
                                    "{\"model\":\"sim/embed\",\"input\":\"x\"}");
    CLEANUP(reply_deinit)
    Reply again = rig_post_wait(rig, API_EMBEDDINGS,
                                "{\"input\":\"x\",\"user\":\"u\",\"model\":\"sim/embed\"}");
    CHECK_STR(str_of(embedding.cache), STR("miss"));
    CHECK_STR(str_of(again.cache), STR("hit"));
    CHECK_STR(reply_str(&again), reply_str(&embedding));
}

static void test_a_hit_costs_nothing_and_says_so(void **state)
{
    (void)state;
    rig_run(hits_wait);
}

static void off_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const others[] = { "sales", "support-*" };
    expect_wait(rig, "hi", "off");
    expect_wait(rig, "hi", "off");
    rig->config.cache = (CacheConfig){ .agents = others, .agents_n = 2 };
    expect_wait(rig, "hi", "off");
    CHECK_INT(stats(rig)->cache.misses, 0);
    CHECK_INT(stats(rig)->cache.entries, 0);
    rig->config.cache = (CacheConfig){ .agents = everyone, .agents_n = 1, .bytes_max = -1 };
    expect_wait(rig, "hi", "off");
}

static void test_off_unless_asked_for(void **state)
{
    (void)state;
    rig_run(off_wait);
}

/* --- whose it is ------------------------------------------------------------------------------ */

static void sharing_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    GatewayTaskOptions options = rig->options;
    struct {
        Str tenant, agent, version;
    } who[] = { { STR("acme"), options.agent, options.version_id },
                { STR("acme2"), options.agent, options.version_id },
                { STR(""), options.agent, options.version_id },
                { STR("acme"), STR("support2"), options.version_id },
                { STR("acme"), options.agent, STR("1c88e04aa912") } };
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < ARRAY_N(who); i++) {
            rig->options.tenant_id = who[i].tenant;
            rig->options.agent = who[i].agent;
            rig->options.version_id = who[i].version;
            rig_task_wait(rig, rig_no_limits);
            expect_wait(rig, "the same words", round == 0 ? "miss" : "hit");
        }
    rig->options = options;

    CHECK_INT(purge(rig, "acme", "support"), 2);
    CHECK_INT(purge(rig, "acme", "support"), 0);
    CHECK_INT(purge(rig, "acme", NULL), 1);
    CHECK_INT(purge(rig, NULL, "support"), 2);
    CHECK_INT(stats(rig)->cache.entries, 0);
    CHECK_INT(stats(rig)->cache.bytes, 0);
    CHECK_INT(stats(rig)->cache.purged, 5);
    rig_task_wait(rig, rig_no_limits);
    expect_wait(rig, "the same words", "miss");
    CHECK_INT(purge(rig, NULL, NULL), 1);
}

static void test_tenants_agents_and_versions_never_share(void **state)
{
    (void)state;
    rig_run(sharing_wait);
}

/* --- what is not kept ------------------------------------------------------------------------- */

/* Twice the same; the second time the provider is asked again. */
static void never_wait(Rig *rig, Api api, const char *model, bool stream, const char *members)
{
    uint64_t stored = stats(rig)->cache.stored;
    for (int i = 0; i < 2; i++) {
        CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, api, model, stream, members, "hi");
        CHECK(strcmp(reply.cache, "hit") != 0);
    }
    CHECK_INT(stats(rig)->cache.stored, stored);
}

static void unfit_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    static const char *const failing[] = { "sim/fail",     "sim/overload",  "sim/html",
                                           "sim/truncate", "sim/no-finish", "sim/error-event",
                                           "sim/garbage",  "sim/empty" };
    for (size_t i = 0; i < ARRAY_N(failing); i++) {
        never_wait(rig, API_CHAT, failing[i], true, "");
        never_wait(rig, API_MESSAGES, failing[i], true, rig_cap(API_MESSAGES));
    }
    never_wait(rig, API_CHAT, "sim/fail", false, "");
    never_wait(rig, API_CHAT, "sim/truncate", false, "");
    never_wait(rig, API_CHAT, "sim/no-finish", false, "");
    snprintf(rig->urls[2], sizeof rig->urls[2], "http://127.0.0.1:1/v1"); /* nobody there */
    never_wait(rig, API_CHAT, "stub", false, "");
    never_wait(rig, API_CHAT, "sim/echo", false, "\"store\":true,");
    never_wait(rig, API_CHAT, "sim/echo", false, "\"seed\":9007199254740993,"); /* no key */
    /* more than the model can, and nothing limits it: sent as it was asked for */
    CLEANUP(reply_deinit)
    Reply most = rig_say_wait(rig, API_CHAT, "sim/echo", false, "\"max_tokens\":900000,", "hi");
    CHECK_INT(most.status, 200);
    CHECK_INT(stats(rig)->clamped, 0);
    CHECK_INT(stats(rig)->cache.stored, 1);
    /* an answer that had to be shorter than was asked is not what was asked */
    rig_task_wait(rig, (CapLimits){ 200, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit)
    Reply clamped = rig_say_wait(rig, API_CHAT, "sim/echo", false, "\"max_tokens\":5000,", "hi");
    CHECK_INT(clamped.status, 200);
    CHECK_INT(stats(rig)->clamped, 1);
    CHECK_INT(stats(rig)->cache.stored, 1);
}

static void test_failures_and_cut_answers_are_not_kept(void **state)
{
    (void)state;
    rig_run(unfit_wait);
}

static void record_fails_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    rig->record_result = -EIO;
    CLEANUP(reply_deinit) Reply lost = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", "hi");
    CHECK_INT(lost.status, 500);
    CHECK_INT(stats(rig)->cache.stored, 0);
    rig->record_result = 0;
    expect_wait(rig, "hi", "miss");
    rig->record_result = -EIO; /* nor is a hit given away unrecorded */
    CLEANUP(reply_deinit) Reply again = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", "hi");
    CHECK_INT(again.status, 500);
    CHECK_INT(stats(rig)->cache.hits, 0);
    rig->record_result = 0;
    expect_wait(rig, "hi", "hit");
}

static void test_nothing_is_given_away_unrecorded(void **state)
{
    (void)state;
    rig_run(record_fails_wait);
}

/* --- bounds ----------------------------------------------------------------------------------- */

static void bounds_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    expect_wait(rig, "measure", "miss");
    int64_t one = stats(rig)->cache.bytes;
    CHECK(one > 0);
    CHECK_INT(purge(rig, NULL, NULL), 1);
    rig->config.cache.bytes_max = 10 * one + 200; /* ten of these, one of them at most an eighth */
    char text[32];
    for (int i = 0; i < 30; i++) {
        snprintf(text, sizeof text, "number %02d", i);
        expect_wait(rig, text, "miss");
        CHECK(stats(rig)->cache.bytes <= rig->config.cache.bytes_max);
        if (i >= 1) expect_wait(rig, "number 00", "hit"); /* what is used stays */
    }
    CHECK(stats(rig)->cache.evicted >= 20);
    CHECK_INT(stats(rig)->cache.entries, 30 - (int64_t)stats(rig)->cache.evicted);
    expect_wait(rig, "number 29", "hit");
    expect_wait(rig, "number 01", "miss");

    Buf large;
    buf_init(&large, 1 << 20);
    for (int64_t i = 0; i < rig->config.cache.bytes_max; i++) buf_add_char(&large, 'x');
    CHECK_INT(stats(rig)->cache.too_large, 0);
    expect_wait(rig, large.ptr, "miss");
    expect_wait(rig, large.ptr, "miss");
    CHECK_INT(stats(rig)->cache.too_large, 2);
    buf_deinit(&large);
}

static void test_bounded_and_least_recently_used_goes_first(void **state)
{
    (void)state;
    rig_run(bounds_wait);
}

static void ttl_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    rig->config.cache.ttl_ms = 1;
    expect_wait(rig, "hi", "miss");
    fiber_sleep_wait(5);
    rig->config.cache.ttl_ms = 3600000;
    expect_wait(rig, "hi", "miss");
    CHECK_INT(stats(rig)->cache.expired, 1);
    expect_wait(rig, "hi", "hit");
}

static void test_old_answers_are_dropped(void **state)
{
    (void)state;
    rig_run(ttl_wait);
}

/* --- what still counts ------------------------------------------------------------------------ */

static const char tools[] =
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"lookup_order\",\"description\":\"Find an "
    "order by its number\",\"parameters\":{\"type\":\"object\",\"properties\":{\"order_id\":{\"type\":"
    "\"string\"}},\"required\":[\"order_id\"]}}}],";

static void ask_tool_wait(Rig *rig, int status, const char *cache)
{
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, API_CHAT, "sim/assistant", false, tools,
                               "Where is my order A-1234?");
    CHECK_INT(reply.status, status);
    CHECK_STR(str_of(reply.cache), str_of(cache));
}

static void tool_calls_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    CapLimits limits = rig_no_limits;
    limits.tool_calls = 3;
    rig_task_wait(rig, limits);
    ask_tool_wait(rig, 200, "miss");
    ask_tool_wait(rig, 200, "hit");
    CHECK_STR(str_of(rig_last(rig)->tools), STR("lookup_order"));
    CHECK_INT(rig_last(rig)->call.usage.tool_calls, 1);
    ask_tool_wait(rig, 200, "hit");
    GatewayTotals totals = rig_totals(rig);
    CHECK_INT(totals.caps.tool_calls, 3);
    CHECK_INT(totals.usage.tool_calls, 3);
    /* none is left: a model is asked for an answer without, as if there were no cache */
    ask_tool_wait(rig, 200, "miss");
    CHECK_STR(str_of(rig_last(rig)->tools), STR(""));
    CHECK_INT(rig_totals(rig).caps.tool_calls, 3);
    CHECK_INT(stats(rig)->cache.stored, 1); /* and what it said is not what was asked */
}

static void test_tool_calls_of_hits_count_against_the_cap(void **state)
{
    (void)state;
    rig_run(tool_calls_wait);
}

static void stopped_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    expect_wait(rig, "hi", "miss");
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", "hi");
    CHECK_INT(reply.status, 403);
    CHECK_INT(stats(rig)->cache.hits, 0);
}

static void test_a_stopped_task_is_served_nothing(void **state)
{
    (void)state;
    rig_run(stopped_wait);
}

/* A task whose money is spent still gets what costs none. */
static void spent_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    expect_wait(rig, "hi", "miss");
    rig->options.spent.settled_nusd = 1000;
    rig_task_wait(rig, (CapLimits){ CAP_NONE, CAP_NONE, 1000, CAP_NONE });
    CLEANUP(reply_deinit) Reply fresh = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", "else");
    CHECK_INT(fresh.status, 402);
    expect_wait(rig, "hi", "hit");
    CHECK_INT(rig_totals(rig).caps.settled_nusd, 1000);
}

static void test_a_hit_needs_no_money(void **state)
{
    (void)state;
    rig_run(spent_wait);
}

/* --- what goes upstream ----------------------------------------------------------------------- */

static const char marked[] =
    "{\"model\":\"stub-1\",\"max_tokens\":50,\"system\":[{\"type\":\"text\",\"text\":\"long\","
    "\"cache_control\":{\"type\":\"ephemeral\",\"ttl\":\"1h\"}}],\"messages\":[{\"role\":\"user\","
    "\"content\":[{\"type\":\"text\",\"text\":\"q\",\"cache_control\":{\"type\":\"ephemeral\"}}]}]}";

static StubEnd marked_stub(StubRequest *request, void *ctx)
{
    (void)ctx;
    CHECK_STR(request->body, str_of(marked));
    static const char body[] =
        "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"stub-1\","
        "\"content\":[{\"type\":\"text\",\"text\":\"ok\"}],\"stop_reason\":\"end_turn\","
        "\"usage\":{\"input_tokens\":3,\"cache_read_input_tokens\":9,\"output_tokens\":1}}";
    char head[128];
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
             sizeof body - 1);
    stub_sends(request, head);
    stub_sends(request, body);
    return STUB_KEEP;
}

static void markers_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    CLEANUP(reply_deinit) Reply reply = rig_post_wait(rig, API_MESSAGES, marked);
    CHECK_INT(reply.status, 200);
    CHECK_STR(str_of(reply.cache), STR("miss"));
    CHECK_INT(rig_last(rig)->call.usage.cached_tokens, 9);
    CLEANUP(reply_deinit) Reply again = rig_post_wait(rig, API_MESSAGES, marked);
    CHECK_STR(str_of(again.cache), STR("hit"));
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
}

static void test_prompt_cache_markers_stay_as_they_are(void **state)
{
    (void)state;
    rig_run_with(markers_wait, marked_stub, NULL);
}

/* --- many at a time --------------------------------------------------------------------------- */

#define CROWD 40

static int crowd_fiber(void *arg)
{
    Rig *rig = arg;
    for (int i = 0; i < 6; i++) {
        char text[16];
        snprintf(text, sizeof text, "crowd %d", i);
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "sim/echo", i % 2, "", text);
        CHECK_INT(reply.status, 200);
        CHECK_HAS(reply_str(&reply), "crowd");
        if (i == 3) (void)purge(rig, NULL, NULL); /* while it is served */
    }
    return 0;
}

static int slow_record_wait(void *ctx, const GatewayCall *call)
{
    fiber_sleep_wait(1);
    return rig_record_wait(ctx, call);
}

static void crowd_wait(void *arg)
{
    Rig *rig = arg;
    opt_in(rig);
    rig->sink.call_record_wait = slow_record_wait;
    rig->config.cache.bytes_max = 40000; /* so that it is full all the time */
    FiberRef fibers[CROWD];
    for (int i = 0; i < CROWD; i++)
        CHECK_INT(fiber_spawn("crowd", crowd_fiber, rig, &fibers[i]), 0);
    for (int i = 0; i < CROWD; i++) fiber_join_wait(fibers[i], NULL);
    GatewayStats *s = stats(rig);
    CHECK_INT(s->cache.hits + s->cache.misses, CROWD * 6);
    CHECK_INT(rig->calls_n, CROWD * 6);
    rig_totals(rig);
}

static void test_dropped_while_it_is_served(void **state)
{
    (void)state;
    rig_run(crowd_wait);
}

/* --- the same call at a time ------------------------------------------------------------------ */

#define SAME 8

typedef struct {
    Rig *rig;
    const char *model;
    bool stream;
    Reply reply;
} Same;

static int same_main(void *arg)
{
    Same *s = arg;
    s->reply = rig_say_wait(s->rig, API_CHAT, s->model, s->stream, "\"temperature\":0,",
                            "the same [[sim delay=1000]]");
    return 0;
}

static void same_wait(Rig *rig, Same same[SAME], const char *model, bool stream)
{
    FiberRef fibers[SAME];
    for (int i = 0; i < SAME; i++) {
        same[i] = (Same){ .rig = rig, .model = model, .stream = stream };
        CHECK_INT(fiber_spawn("same", same_main, &same[i], &fibers[i]), 0);
    }
    for (int i = 0; i < SAME; i++) fiber_join_wait(fibers[i], NULL);
}

/* Asked at a time they are answered by one call, which is paid for once. */
static void joined_wait(void *arg)
{
    Rig *rig = arg;
    Same same[SAME];
    opt_in(rig);
    for (int stream = 0; stream < 2; stream++) {
        rig_task_wait(rig, rig_no_limits);
        same_wait(rig, same, "sim/echo", stream);
        int misses = 0;
        for (int i = 0; i < SAME; i++) {
            CHECK_INT(same[i].reply.status, 200);
            CHECK_STR(reply_str(&same[i].reply), reply_str(&same[0].reply));
            misses += strcmp(same[i].reply.cache, "miss") == 0;
        }
        CHECK_INT(misses, 1);
        CHECK_INT(rig_totals(rig).calls, 1);
        for (int i = 0; i < SAME; i++) reply_deinit(&same[i].reply);
    }
    CHECK(stats(rig)->cache_joined > 0);
    CHECK_INT(stats(rig)->cache.hits, 2 * (SAME - 1));
    CHECK_INT(stats(rig)->cache.misses, 2);
}

static void test_asked_at_a_time_once(void **state)
{
    (void)state;
    rig_run(joined_wait);
}

/* An answer that is none to keep is nobody else's: they ask for themselves, at a time. */
static void not_joined_wait(void *arg)
{
    Rig *rig = arg;
    Same same[SAME];
    opt_in(rig);
    same_wait(rig, same, "sim/fail", false);
    for (int i = 0; i < SAME; i++) {
        CHECK_INT(same[i].reply.status, 500);
        reply_deinit(&same[i].reply);
    }
    CHECK_INT(rig_totals(rig).calls, SAME);
    CHECK_INT(stats(rig)->cache_joined, 0);
    /* a task that is stopped meanwhile does not go on waiting */
    rig_task_wait(rig, rig_no_limits);
    FiberRef fibers[2];
    for (int i = 0; i < 2; i++) {
        same[i] = (Same){ .rig = rig, .model = "sim/hang" };
        CHECK_INT(fiber_spawn("same", same_main, &same[i], &fibers[i]), 0);
    }
    rig_sent_wait(rig, 1);
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    for (int i = 0; i < 2; i++) {
        fiber_join_wait(fibers[i], NULL);
        CHECK_INT(same[i].reply.status, 403);
        reply_deinit(&same[i].reply);
    }
    CHECK_INT(rig_totals(rig).calls, 1);
}

static void test_what_is_not_kept_is_not_shared(void **state)
{
    (void)state;
    rig_run(not_joined_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hit_costs_nothing_and_says_so),
        cmocka_unit_test(test_off_unless_asked_for),
        cmocka_unit_test(test_tenants_agents_and_versions_never_share),
        cmocka_unit_test(test_failures_and_cut_answers_are_not_kept),
        cmocka_unit_test(test_nothing_is_given_away_unrecorded),
        cmocka_unit_test(test_bounded_and_least_recently_used_goes_first),
        cmocka_unit_test(test_old_answers_are_dropped),
        cmocka_unit_test(test_tool_calls_of_hits_count_against_the_cap),
        cmocka_unit_test(test_a_stopped_task_is_served_nothing),
        cmocka_unit_test(test_a_hit_needs_no_money),
        cmocka_unit_test(test_prompt_cache_markers_stay_as_they_are),
        cmocka_unit_test(test_dropped_while_it_is_served),
        cmocka_unit_test(test_asked_at_a_time_once),
        cmocka_unit_test(test_what_is_not_kept_is_not_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
