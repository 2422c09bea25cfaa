/* What a request may offer its model, and switches that flags throw: with a stub as provider that
 * keeps the last request it was sent. */
#include "tests/unit/gateway_rig.h"

#include "gateway/gateway_limits.h"
#include "logic/flag.h"

#define SCHEMA "{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"string\"}}}"
#define CHAT_TOOL(name, description)                                                            \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"description\":\"" description \
    "\",\"parameters\":" SCHEMA "}}"
#define MESSAGES_TOOL(name, description) \
    "{\"name\":\"" name "\",\"description\":\"" description "\",\"input_schema\":" SCHEMA "}"
#define RESPONSES_TOOL(name, description)                                         \
    "{\"type\":\"function\",\"name\":\"" name "\",\"description\":\"" description \
    "\",\"parameters\":" SCHEMA "}"

typedef struct {
    pthread_mutex_t lock;
    char body[65536];
    atomic_int n;
    atomic_bool hang; /* after the request was read */
} Upstream;

static Upstream upstream = { .lock = PTHREAD_MUTEX_INITIALIZER };

static const char *answer_of(Str path)
{
    if (str_ends_with(path, STR("/messages")))
        return "{\"type\":\"message\",\"role\":\"assistant\",\"model\":\"stub\",\"content\":[{\"type\":"
               "\"text\",\"text\":\"hi\"}],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":5,"
               "\"output_tokens\":2}}";
    if (str_ends_with(path, STR("/responses")))
        return "{\"object\":\"response\",\"status\":\"completed\",\"model\":\"stub\",\"output\":[],"
               "\"usage\":{\"input_tokens\":5,\"output_tokens\":2,\"total_tokens\":7}}";
    return "{\"model\":\"stub\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"hi\"},"
           "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,"
           "\"total_tokens\":7}}";
}

static StubEnd provider(StubRequest *request, void *ctx)
{
    Upstream *up = ctx;
    char head[128];
    pthread_mutex_lock(&up->lock);
    str_copy(up->body, sizeof up->body, request->body);
    pthread_mutex_unlock(&up->lock);
    atomic_fetch_add(&up->n, 1);
    while (atomic_load(&up->hang) && !atomic_load(&request->stub->closing)) stub_sleep_ms(5);
    const char *answer = answer_of(request->path);
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
             strlen(answer));
    stub_sends(request, head);
    stub_sends(request, answer);
    return STUB_KEEP;
}

static void sent(const char *part, bool is_there)
{
    pthread_mutex_lock(&upstream.lock);
    bool found = strstr(upstream.body, part) != NULL;
    if (found != is_there) fprintf(stderr, "%s: %s\n", part, upstream.body);
    CHECK(found == is_there);
    pthread_mutex_unlock(&upstream.lock);
}

static ToolSet declared;

/* A task whose version declares `find`. */
static void task_wait(Rig *rig)
{
    Issue issues[4];
    size_t n;
    CHECK_INT(tools_parse(
                  &rig->arena,
                  STR("[{\"name\":\"find\",\"description\":\"Finds\",\"inputSchema\":" SCHEMA "}]"),
                  &declared, issues, ARRAY_N(issues), &n),
              0);
    rig->options.declared = &declared;
    rig->options.tenant_id = STR("acme");
    rig_task_wait(rig, rig_no_limits);
}

static Reply ask_wait(Rig *rig, Api api, const char *tools)
{
    static const char *const forms[] = {
        [API_CHAT] = "{\"model\":\"stub-1\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]",
        [API_RESPONSES] = "{\"model\":\"stub-1\",\"input\":\"x\"",
        [API_MESSAGES] =
            ("{\"model\":\"stub-1\",\"max_tokens\":50,\"messages\":[{\"role\":\"user\","
             "\"content\":\"x\"}]"),
    };
    Str body = arena_printf(&rig->arena, "%s%s}", forms[api], tools);
    return rig_post_wait(rig, api, body.ptr);
}

static void expect_refused_wait(Rig *rig, Api api, const char *tools, const char *words)
{
    int sent_before = atomic_load(&upstream.n);
    CLEANUP(reply_deinit) Reply reply = ask_wait(rig, api, tools);
    CHECK_INT(reply.status, 403);
    CHECK_STR(str_of(reply.retry), STR("false"));
    CHECK(str_find(reply_str(&reply), str_of(words)) >= 0);
    CHECK(str_find(reply_str(&reply), STR("permission_error")) >= 0 ||
          str_find(reply_str(&reply), STR("tool_not_declared")) >= 0);
    CHECK_INT(atomic_load(&upstream.n), sent_before); /* nothing reached the provider */
}

static void expect_sent_wait(Rig *rig, Api api, const char *tools)
{
    int sent_before = atomic_load(&upstream.n);
    CLEANUP(reply_deinit) Reply reply = ask_wait(rig, api, tools);
    CHECK_INT(reply.status, 200);
    CHECK_INT(atomic_load(&upstream.n), sent_before + 1);
}

static uint64_t refused_n(const Rig *rig, GatewayRefused why)
{
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    uint64_t n = stats->refused[why];
    free(stats);
    return n;
}

/* --- tools ------------------------------------------------------------------------------------ */

static void refused_wait(void *arg)
{
    Rig *rig = arg;
    task_wait(rig);
    expect_sent_wait(rig, API_CHAT, ",\"tools\":[" CHAT_TOOL("find", "Finds") "]");
    expect_sent_wait(rig, API_MESSAGES, ",\"tools\":[" MESSAGES_TOOL("find", "Finds") "]");
    expect_sent_wait(rig, API_RESPONSES, ",\"tools\":[" RESPONSES_TOOL("find", "Finds") "]");
    expect_sent_wait(rig, API_CHAT, "");
    expect_refused_wait(rig, API_CHAT, ",\"tools\":[" CHAT_TOOL("steal", "Finds") "]", "steal");
    expect_refused_wait(rig, API_MESSAGES, ",\"tools\":[" MESSAGES_TOOL("steal", "x") "]", "steal");
    expect_refused_wait(rig, API_RESPONSES, ",\"tools\":[" RESPONSES_TOOL("steal", "x") "]",
                        "steal");
    expect_refused_wait(rig, API_CHAT, ",\"tools\":[" CHAT_TOOL("find", "Findz") "]",
                        "another description");
    expect_refused_wait(rig, API_CHAT, ",\"functions\":[{\"name\":\"steal\"}]", "steal");
    expect_refused_wait(rig, API_RESPONSES, ",\"prompt\":{\"id\":\"p\"}", "prompt");
    expect_refused_wait(rig, API_MESSAGES,
                        ",\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\","
                        "\"max_uses\":1}]",
                        "providerTools");
    CHECK_INT(refused_n(rig, GATEWAY_REFUSED_TOOL), 7);
    CHECK_INT(rig_totals(rig).calls_refused, 7);
}

static void test_refused(void **state)
{
    (void)state;
    rig_run_with(refused_wait, provider, &upstream);
}

static void removed_wait(void *arg)
{
    Rig *rig = arg;
    rig->config.undeclared_tools = GATEWAY_TOOLS_REMOVE;
    task_wait(rig);
    expect_sent_wait(
        rig, API_CHAT,
        ",\"tools\":[" CHAT_TOOL("steal", "x") "," CHAT_TOOL(
            "find",
            "Finds") "],"
                     "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"steal\"}}");
    sent("steal", false);
    sent("\"tool_choice\":\"auto\"", true);
    sent("Finds", true);
    expect_sent_wait(
        rig, API_MESSAGES,
        ",\"tools\":[" MESSAGES_TOOL("find", "Findz") "],"
                                                      "\"tool_choice\":{\"type\":\"any\"}");
    sent("tool", false);
    expect_refused_wait(rig, API_RESPONSES, ",\"prompt\":{\"id\":\"p\"}", "prompt");
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->tools_removed, 2);
    free(stats);
}

static void test_removed(void **state)
{
    (void)state;
    rig_run_with(removed_wait, provider, &upstream);
}

/* Without a tools file the agent's own code says what its tools are. */
static void unchecked_wait(void *arg)
{
    Rig *rig = arg;
    rig_task_wait(rig, rig_no_limits);
    expect_sent_wait(rig, API_CHAT, ",\"tools\":[" CHAT_TOOL("anything", "x") "]");
    sent("anything", true);
}

static void test_unchecked(void **state)
{
    (void)state;
    rig_run_with(unchecked_wait, provider, &upstream);
}

/* --- switches --------------------------------------------------------------------------------- */

static FlagSet flags_of(Rig *rig, const char *text)
{
    const Json *v;
    FlagSet set = { 0 };
    CHECK_INT(json_parse(&rig->arena, str_of(text), NULL, &v, NULL), 0);
    CHECK_INT(flags_parse(&rig->arena, v, &set), 0);
    return set;
}

static void tool_off_wait(void *arg)
{
    Rig *rig = arg;
    FlagSet off = flags_of(rig, "[{\"key\":\"tool:find\",\"value\":true,\"rules\":[{\"tenants\":"
                                "[\"acme\"],\"value\":false}]}]");
    task_wait(rig);
    gateway_set_flags(rig->gateway, &off);
    CHECK(!gateway_task_tool_on(rig->task, STR("find")));
    expect_sent_wait(rig, API_CHAT, ",\"tools\":[" CHAT_TOOL("find", "Finds") "]");
    sent("find", false); /* the agent goes on without it */
    expect_refused_wait(rig, API_CHAT,
                        ",\"tools\":[" CHAT_TOOL("find", "Finds") "," CHAT_TOOL("steal", "x") "]",
                        "steal");
    gateway_set_flags(rig->gateway, NULL);
    expect_sent_wait(rig, API_CHAT, ",\"tools\":[" CHAT_TOOL("find", "Finds") "]");
    sent("find", true);
}

static void test_tool_off(void **state)
{
    (void)state;
    rig_run_with(tool_off_wait, provider, &upstream);
}

static void model_off_wait(void *arg)
{
    Rig *rig = arg;
    Str other = STR("stub-2");
    FlagSet one = flags_of(rig, "[{\"key\":\"model:stub-1\",\"value\":false}]");
    FlagSet all = flags_of(rig, "[{\"key\":\"model:*\",\"value\":false}]");
    rig->options.model = STR("stub-1");
    rig->options.fallbacks = &other;
    rig->options.fallbacks_n = 1;
    rig_task_wait(rig, rig_no_limits);
    gateway_set_flags(rig->gateway, &one);
    expect_sent_wait(rig, API_CHAT, "");
    sent("\"stub-2\"", true); /* its fallback stands in */
    gateway_set_flags(rig->gateway, &all);
    expect_refused_wait(rig, API_CHAT, "", "switched");
    CHECK_INT(refused_n(rig, GATEWAY_REFUSED_OFF), 1);
    gateway_set_flags(rig->gateway, NULL);
}

static void test_model_off(void **state)
{
    (void)state;
    rig_run_with(model_off_wait, provider, &upstream);
}

typedef struct {
    Rig *rig;
    int status;
    bool off;
} InFlight;

static int in_flight_main(void *arg)
{
    InFlight *f = arg;
    CLEANUP(reply_deinit) Reply reply = ask_wait(f->rig, API_CHAT, "");
    f->status = reply.status;
    f->off = str_find(reply_str(&reply), STR("switched_off")) >= 0;
    return 0;
}

/* A call that hangs at the provider ends when its task is switched off, and is billed in full. */
static void kill_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const kills[] = { "[{\"key\":\"tasks\",\"value\":false}]",
                                         "[{\"key\":\"model:stub-*\",\"value\":false}]" };
    rig_task_wait(rig, rig_no_limits);
    for (size_t i = 0; i < ARRAY_N(kills); i++) {
        FiberRef fiber;
        InFlight flight = { .rig = rig };
        FlagSet off = flags_of(rig, kills[i]);
        int before = atomic_load(&upstream.n);
        atomic_store(&upstream.hang, true);
        CHECK_INT(fiber_spawn("agent", in_flight_main, &flight, &fiber), 0);
        for (int k = 0; k < 2000 && atomic_load(&upstream.n) == before; k++) fiber_sleep_wait(5);
        gateway_set_flags(rig->gateway, &off);
        fiber_join_wait(fiber, NULL);
        CHECK_INT(flight.status, 403);
        CHECK(flight.off);
        const RigCall *last = rig_last(rig);
        CHECK_INT(last->call.outcome, GATEWAY_STOPPED);
        CHECK(last->call.full_hold && last->call.charged.nusd == last->call.hold.nusd);
        expect_refused_wait(rig, API_CHAT, "", "switched");
        gateway_set_flags(rig->gateway, NULL);
        atomic_store(&upstream.hang, false);
        expect_sent_wait(rig, API_CHAT, "");
    }
}

static void test_kill(void **state)
{
    (void)state;
    rig_run_with(kill_wait, provider, &upstream);
}

static int count_main(void *arg)
{
    InFlight *f = arg;
    CLEANUP(reply_deinit)
    Reply reply = rig_request_wait(f->rig, "/v1/messages/count_tokens",
                                   STR("{\"model\":\"stub-1\",\"messages\":[]}"));
    f->status = reply.status;
    f->off = str_find(reply_str(&reply), STR("permission_error")) >= 0;
    return 0;
}

/* So does what counts there, by a flag and with its task. */
static void kill_count_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const kills[] = { "[{\"key\":\"tasks\",\"value\":false}]",
                                         "[{\"key\":\"model:stub-*\",\"value\":false}]", "[]" };
    atomic_store(&upstream.hang, true);
    for (size_t i = 0; i < ARRAY_N(kills); i++) {
        FiberRef fiber;
        InFlight flight = { .rig = rig };
        FlagSet set = flags_of(rig, kills[i]);
        int before = atomic_load(&upstream.n);
        rig_task_wait(rig, rig_no_limits);
        CHECK_INT(fiber_spawn("agent", count_main, &flight, &fiber), 0);
        for (int k = 0; k < 2000 && atomic_load(&upstream.n) == before; k++) fiber_sleep_wait(5);
        gateway_set_flags(rig->gateway, &set);
        if (i == 2) gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
        fiber_join_wait(fiber, NULL);
        CHECK_INT(flight.status, 403);
        CHECK(flight.off);
        gateway_set_flags(rig->gateway, NULL);
    }
    atomic_store(&upstream.hang, false);
}

static void test_kill_count(void **state)
{
    (void)state;
    rig_run_with(kill_count_wait, provider, &upstream);
}

static uint64_t waiting_n(const Rig *rig)
{
    GatewayLimitStats stats;
    gateway_limit_stats(rig->gateway, &stats);
    return stats.waiting[LANE_CRITICAL] + stats.waiting[LANE_NORMAL] + stats.waiting[LANE_LOW];
}

static int second_main(void *arg)
{
    InFlight *f = arg;
    CLEANUP(reply_deinit)
    Reply reply = rig_post_wait(f->rig, API_CHAT,
                                "{\"model\":\"stub-2\",\"messages\":[{\"role\":\"user\","
                                "\"content\":\"x\"}],\"tools\":[" CHAT_TOOL("find", "Finds") "]}");
    f->status = reply.status;
    f->off = str_find(reply_str(&reply), STR("switched_off")) >= 0;
    return 0;
}

/* A call that waits for its provider is refused while it waits. */
static void kill_waiting_wait(void *arg)
{
    Rig *rig = arg;
    FiberRef first, second;
    InFlight one = { .rig = rig }, two = { .rig = rig };
    FlagSet off = flags_of(rig, "[{\"key\":\"model:stub-2\",\"value\":false}]");
    int before = atomic_load(&upstream.n);
    rig_task_wait(rig, rig_no_limits);
    atomic_store(&upstream.hang, true);
    CHECK_INT(fiber_spawn("first", in_flight_main, &one, &first), 0);
    for (int k = 0; k < 2000 && atomic_load(&upstream.n) == before; k++) fiber_sleep_wait(5);
    CHECK_INT(fiber_spawn("second", second_main, &two, &second), 0);
    for (int k = 0; k < 2000 && waiting_n(rig) == 0; k++) fiber_sleep_wait(5);
    CHECK_INT(waiting_n(rig), 1);
    gateway_set_flags(rig->gateway, &off);
    fiber_join_wait(second, NULL); /* the first still hangs */
    CHECK_INT(two.status, 403);
    CHECK(two.off);
    CHECK_INT(atomic_load(&upstream.n), before + 1);
    atomic_store(&upstream.hang, false);
    fiber_join_wait(first, NULL);
    CHECK_INT(one.status, 200);
    gateway_set_flags(rig->gateway, NULL);
}

/* One that is on its way when flags change is planned anew by what they are then: without the tool
 * that is off, with the model that stands in. */
static void change_waiting_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const changes[] = { "[{\"key\":\"tool:find\",\"value\":false}]",
                                           "[{\"key\":\"model:stub-2\",\"value\":false}]",
                                           "[{\"key\":\"other\",\"value\":1}]" };
    Str other = STR("stub-3");
    rig->options.model = STR("stub-2");
    rig->options.fallbacks = &other;
    rig->options.fallbacks_n = 1;
    task_wait(rig);
    for (size_t i = 0; i < ARRAY_N(changes); i++) {
        FiberRef first, second;
        InFlight one = { .rig = rig }, two = { .rig = rig };
        FlagSet set = flags_of(rig, changes[i]);
        int before = atomic_load(&upstream.n);
        atomic_store(&upstream.hang, true);
        CHECK_INT(fiber_spawn("first", in_flight_main, &one, &first), 0);
        for (int k = 0; k < 2000 && atomic_load(&upstream.n) == before; k++) fiber_sleep_wait(5);
        CHECK_INT(fiber_spawn("second", second_main, &two, &second), 0);
        for (int k = 0; k < 2000 && waiting_n(rig) == 0; k++) fiber_sleep_wait(5);
        gateway_set_flags(rig->gateway, &set);
        atomic_store(&upstream.hang, false);
        fiber_join_wait(first, NULL);
        fiber_join_wait(second, NULL);
        CHECK_INT(two.status, 200);
        CHECK_INT(atomic_load(&upstream.n), before + 2);
        CHECK_INT(rig_last(rig)->call.tries, 1);
        sent("find", i != 0);
        sent(i == 1 ? "stub-3" : "stub-2", true);
        gateway_set_flags(rig->gateway, NULL);
    }
    CHECK_INT(rig_totals(rig).caps.in_flight, 0);
}

static void one_at_a_time(void *arg)
{
    ((Rig *)arg)->providers[2].concurrent_max = 1;
}

static void test_kill_while_waiting(void **state)
{
    (void)state;
    rig_run_configured(one_at_a_time, kill_waiting_wait, provider, &upstream);
}

static void test_change_while_waiting(void **state)
{
    (void)state;
    rig_run_configured(one_at_a_time, change_waiting_wait, provider, &upstream);
}

static StubEnd always_busy(StubRequest *request, void *ctx)
{
    Upstream *up = ctx;
    atomic_fetch_add(&up->n, 1);
    stub_sends(request, "HTTP/1.1 503 No\r\nretry-after: 60\r\ncontent-length: 2\r\n\r\n{}");
    return STUB_KEEP;
}

/* A call that waits for its next try, for long, is told at once. */
static void backing_off_wait(void *arg)
{
    Rig *rig = arg;
    FiberRef fiber;
    InFlight flight = { .rig = rig };
    FlagSet off = flags_of(rig, "[{\"key\":\"model:stub-1\",\"value\":false}]");
    int before = atomic_load(&upstream.n);
    rig_task_wait(rig, rig_no_limits);
    CHECK_INT(fiber_spawn("agent", in_flight_main, &flight, &fiber), 0);
    for (int k = 0; k < 2000 && atomic_load(&upstream.n) == before; k++) fiber_sleep_wait(5);
    gateway_set_flags(rig->gateway, &off);
    fiber_join_wait(fiber, NULL);
    CHECK_INT(flight.status, 403);
    CHECK(flight.off);
    CHECK_INT(atomic_load(&upstream.n), before + 1);
    gateway_set_flags(rig->gateway, NULL);
}

static void with_retries(void *arg)
{
    ((Rig *)arg)->providers[2].retries_max = 3;
}

static void test_kill_while_backing_off(void **state)
{
    (void)state;
    rig_run_configured(with_retries, backing_off_wait, always_busy, &upstream);
}

static void read_wait(void *arg)
{
    Rig *rig = arg;
    FlagSet set = flags_of(
        rig, "[{\"key\":\"a\",\"value\":1,\"rules\":[{\"tenants\":[\"acme\"],\"value\":2}]},"
             "{\"key\":\"tool:x\",\"value\":false}]");
    task_wait(rig);
    gateway_set_flags(rig->gateway, &set);
    CLEANUP(reply_deinit) Reply reply = rig_request_wait(rig, "/gantry/v1/flags", STR(""));
    CHECK_INT(reply.status, 200);
    CHECK_STR(reply_str(&reply), STR("{\"a\":2}"));
    gateway_set_flags(rig->gateway, NULL);
}

static void test_read_by_agents(void **state)
{
    (void)state;
    rig_run_with(read_wait, provider, &upstream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_removed),
        cmocka_unit_test(test_unchecked),
        cmocka_unit_test(test_tool_off),
        cmocka_unit_test(test_model_off),
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_kill_while_waiting),
        cmocka_unit_test(test_change_while_waiting),
        cmocka_unit_test(test_kill_count),
        cmocka_unit_test(test_kill_while_backing_off),
        cmocka_unit_test(test_read_by_agents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
