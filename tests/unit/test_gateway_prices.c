/* What imported prices make of calls: taken over while calls go on, and everything that makes a
 * call dearer, from the request to the settlement. */
#include "tests/unit/gateway_rig.h"

static struct {
    pthread_mutex_t lock;
    const char *body; /* of the answer */
    bool hold;        /* wait until it is false */
    int asked;
    char seen[4096]; /* the last request's body */
} shared = { .lock = PTHREAD_MUTEX_INITIALIZER };

static bool held(void)
{
    pthread_mutex_lock(&shared.lock);
    bool hold = shared.hold;
    pthread_mutex_unlock(&shared.lock);
    return hold;
}

static StubEnd answer(StubRequest *request, void *ctx)
{
    (void)ctx;
    char text[8192];
    pthread_mutex_lock(&shared.lock);
    str_copy(shared.seen, sizeof shared.seen, request->body);
    shared.asked++;
    const char *body = shared.body;
    pthread_mutex_unlock(&shared.lock);
    while (held()) stub_sleep_ms(2);
    snprintf(text, sizeof text,
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    stub_sends(request, text);
    return STUB_KEEP;
}

static void script(const char *body, bool hold)
{
    pthread_mutex_lock(&shared.lock);
    shared.body = body;
    shared.hold = hold;
    pthread_mutex_unlock(&shared.lock);
}

static int asked(void)
{
    pthread_mutex_lock(&shared.lock);
    int n = shared.asked;
    pthread_mutex_unlock(&shared.lock);
    return n;
}

static bool sent_has(const char *part)
{
    pthread_mutex_lock(&shared.lock);
    bool has = strstr(shared.seen, part) != NULL;
    pthread_mutex_unlock(&shared.lock);
    return has;
}

static uint64_t over_hold(const Rig *rig)
{
    static GatewayStats s;
    gateway_stats(rig->gateway, &s);
    return s.over_hold;
}

#define CHAT(more)                                                                      \
    "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]," more \
    "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}"
/* a nano-USD a token in, two out: 20 a call; priority four times that */
#define ENTRY(more)                                                                            \
    "{\"stub-1\":{\"mode\":\"chat\",\"max_input_tokens\":1000,\"input_cost_per_token\":1e-09," \
    "\"output_cost_per_token\":2e-09" more "}}"

static void import(Rig *rig, const char *entries)
{
    CHECK_INT(gateway_set_prices_wait(rig->gateway, str_of(entries)), 0);
}

/* What a call with these members is charged. */
static int64_t say_wait(Rig *rig, const char *members)
{
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", false, members, "hi");
    CHECK_INT(reply.status, 200);
    return rig_last(rig)->call.charged.nusd;
}

/* --- taken over ------------------------------------------------------------------------------- */

static int one_call(void *arg)
{
    (void)say_wait(arg, "");
    return 0;
}

static void swap_wait(void *arg)
{
    Rig *rig = arg;
    script(CHAT(""), false);
    CHECK_INT(say_wait(rig, ""), 20000); /* the provider's own price */
    import(rig, ENTRY(""));
    CHECK_INT(say_wait(rig, ""), 20);
    CHECK_INT(gateway_set_prices_wait(rig->gateway, STR("[1]")), -EINVAL);
    CHECK_INT(say_wait(rig, ""), 20); /* the old ones stay */

    /* a call under way keeps the price it was held at, its list too */
    int before = asked();
    script(CHAT(""), true);
    FiberRef fiber;
    CHECK_INT(fiber_spawn("call", one_call, rig, &fiber), 0);
    while (asked() == before) fiber_sleep_wait(2);
    import(rig, "{\"stub-1\":{\"mode\":\"chat\",\"input_cost_per_token\":9e-09,"
                "\"output_cost_per_token\":9e-09}}");
    import(rig, "{}");
    script(CHAT(""), false);
    CHECK_INT(fiber_join_wait(fiber, NULL), 0);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 20);
    CHECK_INT(say_wait(rig, ""), 20000); /* forgotten */
}

static void test_swap(void **state)
{
    (void)state;
    rig_run_with(swap_wait, answer, NULL);
}

/* --- what is dearer --------------------------------------------------------------------------- */

static void services_wait(void *arg)
{
    Rig *rig = arg;
    script(CHAT(""), false);
    import(rig, ENTRY(""));
    CHECK_INT(say_wait(rig, ""), 20);
    CHECK(!sent_has("service_tier")); /* nothing dearer is known: the body stays as it is */

    import(rig, ENTRY(",\"input_cost_per_token_priority\":4e-09,"
                      "\"output_cost_per_token_priority\":8e-09"));
    CHECK_INT(say_wait(rig, ""), 20);
    CHECK(sent_has("\"service_tier\":\"default\"")); /* whatever the account is set to */
    int64_t usual = rig_last(rig)->call.hold.nusd;
    script(CHAT("\"service_tier\":\"priority\","), false);
    CHECK_INT(say_wait(rig, "\"service_tier\":\"priority\","), 80);
    CHECK(sent_has("\"service_tier\":\"priority\""));
    CHECK(rig_last(rig)->call.hold.nusd > 3 * usual);
    script(CHAT("\"service_tier\":\"default\","), false); /* it had no room */
    CHECK_INT(say_wait(rig, "\"service_tier\":\"priority\","), 20);
    CLEANUP(reply_deinit)
    Reply scale = rig_say_wait(rig, API_CHAT, "stub-1", false, "\"service_tier\":\"scale\",", "hi");
    CHECK_INT(scale.status, 400);
    CHECK_HAS(reply_str(&scale), "service tier");
}

static void test_services(void **state)
{
    (void)state;
    rig_run_with(services_wait, answer, NULL);
}

#define IMAGE "{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://a/b.png\"}}"
#define WITH_IMAGE                                                     \
    "{\"model\":\"stub-1\",\"max_tokens\":10,\"messages\":[{\"role\":" \
    "\"user\",\"content\":[" IMAGE "]}]}"

static void images_wait(void *arg)
{
    Rig *rig = arg;
    script(CHAT(""), false);
    import(rig, ENTRY(""));
    int before = asked();
    CLEANUP(reply_deinit) Reply unknown = rig_post_wait(rig, API_CHAT, WITH_IMAGE);
    CHECK_INT(unknown.status, 400);
    CHECK_HAS(reply_str(&unknown), "imageTokensMax");
    CHECK_INT(asked(), before); /* not sent */

    rig->stub_price.image_tokens_max = 5000;
    rig->providers[2].default_price = &rig->stub_price;
    import(rig, "{}");
    CLEANUP(reply_deinit) Reply known = rig_post_wait(rig, API_CHAT, WITH_IMAGE);
    CHECK_INT(known.status, 200);
    CHECK(rig_last(rig)->call.hold.tokens > 5000); /* and not all that fits the model */
    CHECK(rig_last(rig)->call.hold.tokens < 5500);
}

static void test_images(void **state)
{
    (void)state;
    rig_run_with(images_wait, answer, NULL);
}

#define SEARCH(members)                                                      \
    "{\"model\":\"stub-1\",\"input\":\"x\",\"max_output_tokens\":5," members \
    "\"tools\":[{\"type\":"                                                  \
    "\"web_search\",\"search_context_size\":\"low\"}]}"

static void searches_wait(void *arg)
{
    Rig *rig = arg;
    script(
        "{\"status\":\"completed\",\"output\":[{\"type\":\"web_search_call\",\"id\":\"a\"},{\"type\":"
        "\"web_search_call\",\"id\":\"b\"}],\"usage\":{\"input_tokens\":10,\"output_tokens\":5}}",
        false);
    import(rig, ENTRY(",\"search_context_cost_per_query\":{\"search_context_size_low\":0.000001,"
                      "\"search_context_size_medium\":0.000002}"));
    CLEANUP(reply_deinit) Reply unbound = rig_post_wait(rig, API_RESPONSES, SEARCH(""));
    CHECK_INT(unbound.status, 400);
    CHECK_HAS(reply_str(&unbound), "max_tool_calls");
    CLEANUP(reply_deinit)
    Reply bound = rig_post_wait(rig, API_RESPONSES, SEARCH("\"max_tool_calls\":3,"));
    CHECK_INT(bound.status, 200);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 2 * 1000 + 20);
    CHECK_INT(rig_last(rig)->call.hold.nusd, 3 * 1000 + 1000 + 5 * 2);
}

static void test_searches(void **state)
{
    (void)state;
    rig_run_with(searches_wait, answer, NULL);
}

#define SEARCHES(model)                                                                           \
    "{\"" model "\":{\"mode\":\"chat\",\"max_input_tokens\":1000,\"input_cost_per_token\":1e-09," \
    "\"output_cost_per_token\":2e-09,\"search_context_cost_per_query\":"                          \
    "{\"search_context_size_medium\":0.000003}}}"

/* Its usage has no word of the search. */
static void always_searches_wait(void *arg)
{
    Rig *rig = arg;
    script(CHAT(""), false);
    import(rig, SEARCHES("stub-search-preview"));
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, API_CHAT, "stub-search-preview", false, "\"max_tokens\":5,",
                               "hi");
    CHECK_INT(reply.status, 200);
    CHECK_INT(rig_last(rig)->call.charged.nusd, 3000 + 20);
    CHECK_INT(rig_last(rig)->call.hold.nusd, 3000 + 1000 + 5 * 2);
}

static void test_models_that_always_search(void **state)
{
    (void)state;
    rig_run_with(always_searches_wait, answer, NULL);
}

/* --- what a list says of a model's bounds ----------------------------------------------------- */

#define BOUNDED(in, out)                                                                      \
    "{\"stub-1\":{\"mode\":\"chat\",\"max_input_tokens\":" #in ",\"max_output_tokens\":" #out \
    ",\"input_cost_per_token\":1e-09,\"output_cost_per_token\":2e-09}}"

static void limit_usd(Rig *rig, int64_t nusd)
{
    rig_task_wait(rig, (CapLimits){ CAP_NONE, CAP_NONE, nusd, CAP_NONE });
}

/* What is held is what may be generated, so that is what is asked for. */
static void output_max_wait(void *arg)
{
    Rig *rig = arg;
    script(CHAT(""), false);
    import(rig, BOUNDED(1000, 50));
    (void)say_wait(rig, "\"max_tokens\":100000,");
    CHECK(sent_has("\"max_tokens\":100000")); /* nothing is limited: the provider's business */
    limit_usd(rig, 1000000);
    (void)say_wait(rig, "\"max_tokens\":100000,");
    CHECK(sent_has("\"max_tokens\":50"));
    CHECK(!sent_has("100000"));
    (void)say_wait(rig, "\"max_tokens\":40,");
    CHECK(sent_has("\"max_tokens\":40"));
}

static void test_output_max(void **state)
{
    (void)state;
    rig_run_with(output_max_wait, answer, NULL);
}

#define USED_10K                                                                              \
    "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}],\"usage\":{" \
    "\"prompt_tokens\":10000,\"completion_tokens\":5}}"

/* A window that did not hold once is not trusted again. */
static void excess_wait(void *arg)
{
    Rig *rig = arg;
    script(USED_10K, false);
    import(rig, BOUNDED(10, 50));
    limit_usd(rig, 100000);
    (void)say_wait(rig, "\"max_tokens\":5,");
    CHECK_INT(rig_last(rig)->call.hold.tokens, 15);
    CHECK_INT(over_hold(rig), 1);
    (void)say_wait(rig, "\"max_tokens\":5,");
    CHECK_INT(rig_last(rig)->call.hold.tokens, 667 * 15); /* 10,005 and up */
    CHECK_INT(over_hold(rig), 1);
    limit_usd(rig, 10000); /* the next one could cost more than is left */
    CLEANUP(reply_deinit)
    Reply reply = rig_say_wait(rig, API_CHAT, "stub-1", false, "\"max_tokens\":5,", "hi");
    CHECK_INT(reply.status, 402);
    import(rig, BOUNDED(20000, 50)); /* corrected */
    (void)say_wait(rig, "\"max_tokens\":5,");
}

static void test_excess(void **state)
{
    (void)state;
    rig_run_with(excess_wait, answer, NULL);
}

/* A provider refuses a cap that its model's thinking does not fit in: better none than that. */
static void thinking_wait(void *arg)
{
    Rig *rig = arg;
    const char *thinks =
        "\"max_tokens\":8000,\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":4000},";
    rig_task_wait(rig, (CapLimits){ 3000, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit)
    Reply none = rig_say_wait(rig, API_MESSAGES, "sim/echo", false, thinks, "hi");
    CHECK_INT(none.status, 402);
    rig_task_wait(rig, (CapLimits){ 5000, CAP_NONE, CAP_NONE, CAP_NONE });
    CLEANUP(reply_deinit)
    Reply some = rig_say_wait(rig, API_MESSAGES, "sim/echo", false, thinks, "hi");
    CHECK_INT(some.status, 200);
    CHECK(rig_last(rig)->call.hold.tokens > 4001);
}

static void test_thinking(void **state)
{
    (void)state;
    rig_run_with(thinking_wait, answer, NULL);
}

#define BY_ID                                                                                 \
    "{\"model\":\"stub-1\",\"input\":\"x\",\"max_output_tokens\":5,\"previous_response_id\":" \
    "\"resp_1\"}"

static void unknown_window_wait(void *arg)
{
    static const Str all[] = { STR("*") };
    Rig *rig = arg;
    script(CHAT(""), false);
    rig->config.provider_state = all;
    rig->config.provider_state_n = 1;
    import(rig, "{\"stub-1\":{\"mode\":\"chat\",\"input_cost_per_token\":1e-09,"
                "\"output_cost_per_token\":2e-09}}");
    int before = asked();
    CLEANUP(reply_deinit) Reply reply = rig_post_wait(rig, API_RESPONSES, BY_ID);
    CHECK_INT(reply.status, 400);
    CHECK_HAS(reply_str(&reply), "maxInputTokens");
    CHECK_INT(asked(), before);
    GatewayTotals totals;
    gateway_task_totals(rig->task, &totals);
    CHECK_INT(totals.stopped_by, CAP_BY_NOTHING);
}

static void test_unknown_window(void **state)
{
    (void)state;
    rig_run_with(unknown_window_wait, answer, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swap),
        cmocka_unit_test(test_services),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_searches),
        cmocka_unit_test(test_models_that_always_search),
        cmocka_unit_test(test_output_max),
        cmocka_unit_test(test_excess),
        cmocka_unit_test(test_thinking),
        cmocka_unit_test(test_unknown_window),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
