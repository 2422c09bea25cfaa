/* What providers keep: requests may name what their own tenant was given, and nothing else. */
#include "tests/unit/gateway_rig.h"

#include "gateway/gateway_private.h"

static atomic_int answers;
static struct {
    int asked;
    int result;
    char id[64];
} plane; /* the control plane */

static int state_wait(void *ctx, const JournalAsk *ask, Arena *arena, JournalReply *ret)
{
    (void)ctx, (void)arena, (void)ret;
    CHECK_INT(ask->what, JOURNAL_OWNS);
    plane.asked++;
    str_copy(plane.id, sizeof plane.id, ask->id);
    return plane.result;
}

/* The n-th response is resp_n, with an item msg_n. */
static StubEnd responses(StubRequest *request, void *ctx)
{
    char body[600], all[1200];
    int n = atomic_fetch_add(&answers, 1) + 1;
    (void)ctx;
    snprintf(body, sizeof body,
             "{\"id\":\"resp_%d\",\"object\":\"response\",\"status\":\"completed\",\"output\":[{"
             "\"type\":\"message\",\"id\":\"msg_%d\",\"content\":[]}],"
             "\"usage\":{\"input_tokens\":5,\"output_tokens\":2,\"total_tokens\":7}}",
             n, n);
    if (str_find(request->body, STR("\"stream\":true")) < 0)
        snprintf(
            all, sizeof all,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    else
        snprintf(all, sizeof all,
                 "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                 "Connection: close\r\n\r\nevent: response.completed\n"
                 "data: {\"type\":\"response.completed\",\"response\":%s}\n\n",
                 body);
    stub_sends(request, all);
    return str_find(request->body, STR("\"stream\":true")) < 0 ? STUB_KEEP : STUB_CLOSE;
}

static void run(void (*body_wait)(void *rig))
{
    atomic_store(&answers, 0);
    memset(&plane, 0, sizeof plane);
    plane.result = -ENOENT;
    rig_run_with(body_wait, responses, NULL);
}

static void as_tenant(Rig *rig, const char *tenant)
{
    rig->stub_price.input_max = 1000; /* what is not in the request is held as that */
    rig->options.tenant_id = str_of(tenant);
    rig->sink.state_wait = state_wait;
    rig_task_wait(rig, rig_no_limits);
}

static int ask(Rig *rig, Api api, const char *members, const char *says)
{
    char body[1024];
    snprintf(body, sizeof body, "{\"model\":\"stub\",%s%s}",
             api == API_MESSAGES ? "\"max_tokens\":9," : "", members);
    CLEANUP(reply_deinit) Reply reply = rig_post_wait(rig, api, body);
    if (says) CHECK_HAS(reply_str(&reply), says);
    return reply.status;
}

static uint64_t refused(const Rig *rig)
{
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    uint64_t n = stats->refused[GATEWAY_REFUSED_STATE];
    free(stats);
    return n;
}

#define AFTER(id) "\"input\":\"x\",\"previous_response_id\":\"" id "\""

static void body_own(void *arg)
{
    Rig *rig = arg;
    as_tenant(rig, "acme");
    CHECK_INT(ask(rig, API_RESPONSES, "\"input\":\"x\"", "resp_1"), 200);
    CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_1"), "resp_2"), 200);
    CHECK_INT(ask(rig, API_RESPONSES, "\"stream\":true," AFTER("resp_2"), "resp_3"), 200);
    CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_3"), "resp_4"), 200); /* that came in a stream */
    CHECK_INT(ask(rig, API_RESPONSES, "\"input\":[{\"type\":\"item_reference\",\"id\":\"msg_3\"}]",
                  "resp_5"),
              200);
    as_tenant(rig, "acme"); /* another task of the same */
    CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_1"), "resp_6"), 200);
    CHECK_INT(plane.asked, 0);
    /* another tenant's, and nobody's */
    as_tenant(rig, "globex");
    CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_1"), "tools.providerState"), 403);
    CHECK_INT(plane.asked, 1);
    CHECK_STR(str_of(plane.id), STR("resp_1"));
    CHECK_INT(ask(rig, API_RESPONSES, "\"input\":[{\"type\":\"item_reference\",\"id\":\"msg_3\"}]",
                  "provider_state_not_allowed"),
              403);
    CHECK_INT(
        ask(rig, API_RESPONSES, "\"input\":\"x\",\"conversation\":\"conv_1\"", "conversation"),
        403);
    CHECK_INT(ask(rig, API_CHAT,
                  "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"file\",\"file\":{"
                  "\"file_id\":\"file-1\"}}]}]",
                  "`file_id` names `file-1`"),
              403);
    CHECK_INT(ask(rig, API_MESSAGES, "\"container\":\"c_1\",\"messages\":[]", "permission_error"),
              403);
    CHECK_INT(refused(rig), 5);
    CHECK_INT(atomic_load(&rig->stub.requests), 6);
    CHECK_INT(rig_totals(rig).cost_nusd, 0);
}

static void test_own(void **state)
{
    (void)state;
    run(body_own);
}

/* What this process does not know the control plane may: it has the calls of all. */
static void body_asked(void *arg)
{
    Rig *rig = arg;
    as_tenant(rig, "acme");
    plane.result = 0;
    for (int i = 0; i < 2; i++) CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_old"), "resp_"), 200);
    CHECK_INT(plane.asked, 1); /* and is remembered */
    plane.result = -EIO;
    CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_older"), "cannot be looked up"), 500);
    CHECK_INT(atomic_load(&rig->stub.requests), 2);
}

static void test_asked(void **state)
{
    (void)state;
    run(body_asked);
}

static void body_allowed(void *arg)
{
    Rig *rig = arg;
    as_tenant(rig, "acme");
    CHECK_INT(ask(rig, API_RESPONSES, "\"input\":\"x\",\"conversation\":\"conv_7\"", "resp_1"),
              200);
    CHECK_INT(ask(rig, API_RESPONSES, "\"input\":\"x\",\"conversation\":\"other_7\"", NULL), 403);
}

static void allow_some(void *arg)
{
    Rig *rig = arg;
    static const Str some[] = { STR("file-*"), STR("conv_*") };
    rig->config.provider_state = some;
    rig->config.provider_state_n = ARRAY_N(some);
}

static void test_allowed(void **state)
{
    (void)state;
    atomic_store(&answers, 0);
    rig_run_configured(allow_some, body_allowed, responses, NULL);
}

/* Counting is free, but tells of what it counts. */
static void body_count(void *arg)
{
    Rig *rig = arg;
    as_tenant(rig, "acme");
    CLEANUP(reply_deinit)
    Reply reply = rig_request_wait(
        rig, "/v1/messages/count_tokens",
        STR("{\"model\":\"stub\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"document\","
            "\"source\":{\"type\":\"file\",\"file_id\":\"f_1\"}}]}]}"));
    CHECK_INT(reply.status, 403);
    CHECK_HAS(reply_str(&reply), "f_1");
    CHECK_INT(atomic_load(&rig->stub.requests), 0);
}

static void test_count(void **state)
{
    (void)state;
    run(body_count);
}

/* An answer that gives more than are remembered. */
static StubEnd many(StubRequest *request, void *ctx)
{
    CLEANUP(buf_deinit) Buf body, all;
    (void)ctx;
    buf_init(&body, 4 << 20);
    buf_init(&all, 4 << 20);
    buf_add(&body, STR("{\"id\":\"resp_1\",\"status\":\"completed\",\"output\":[{}"));
    for (int i = 0; i < GIVEN_IDS_MAX; i++) buf_printf(&body, ",{\"id\":\"i%d\"}", i);
    buf_add(&body, STR("],\"usage\":{\"input_tokens\":5,\"output_tokens\":2,\"total_tokens\":7}}"));
    buf_printf(&all,
               "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
               body.len);
    buf_add(&all, buf_str(&body));
    stub_send(request, buf_str(&all));
    return STUB_KEEP;
}

/* Only the last are remembered; of responses the control plane knows the rest. */
static void body_bounded(void *arg)
{
    Rig *rig = arg;
    as_tenant(rig, "acme");
    CHECK_INT(ask(rig, API_RESPONSES, "\"input\":\"x\"", NULL), 200);
    GatewayStats *stats = calloc(1, sizeof *stats);
    gateway_stats(rig->gateway, stats);
    CHECK_INT(stats->state_forgotten, 1);
    free(stats);
    plane.result = 0;
    CHECK_INT(ask(rig, API_RESPONSES, AFTER("resp_1"), NULL), 200);
    CHECK_INT(plane.asked, 1);
}

static void test_bounded(void **state)
{
    (void)state;
    memset(&plane, 0, sizeof plane);
    rig_run_with(body_bounded, many, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own),     cmocka_unit_test(test_asked),
        cmocka_unit_test(test_allowed), cmocka_unit_test(test_count),
        cmocka_unit_test(test_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
