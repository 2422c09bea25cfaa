/* The ways into the gateway: every one that can cost money meets admission, and there are no
 * others, however a path or a host is written. */
#include "tests/unit/gateway_rig.h"

/* --- raw requests ----------------------------------------------------------------------------- */

typedef struct {
    uint16_t port;
    char text[4096], answer[16384];
    atomic_bool done;
} Raw;

/* Blocking, so on a thread of its own. */
static void *raw_thread(void *arg)
{
    Raw *raw = arg;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(raw->port) };
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    size_t got = 0;
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
        send(fd, raw->text, strlen(raw->text), MSG_NOSIGNAL) > 0) {
        ssize_t n;
        while (got < sizeof raw->answer - 1 &&
               (n = recv(fd, raw->answer + got, sizeof raw->answer - 1 - got, 0)) > 0)
            got += (size_t)n;
    }
    raw->answer[got] = '\0';
    close(fd);
    atomic_store(&raw->done, true);
    return NULL;
}

/* Sends "LINE\r\nHost: HOST..." with a body of messages, and returns the status. */
static int raw_wait(const Rig *rig, const char *line, const char *host, Raw *raw)
{
    static const char body[] =
        "{\"model\":\"stub-1\",\"max_tokens\":9,\"input\":\"x\",\"messages\":[{"
        "\"role\":\"user\",\"content\":\"x\"}]}";
    *raw = (Raw){ .port = gateway_task_port(rig->task) };
    snprintf(raw->text, sizeof raw->text,
             "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             line, host, strlen(body), body);
    pthread_t thread;
    if (!CHECK(pthread_create(&thread, NULL, raw_thread, raw) == 0)) return 0;
    while (!atomic_load(&raw->done)) fiber_sleep_wait(2);
    pthread_join(thread, NULL);
    return (int)strtol(raw->answer + strlen("HTTP/1.1 "), NULL, 10);
}

static StubEnd count_only(StubRequest *request, void *ctx)
{
    (void)ctx;
    stub_sends(request, "HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}");
    return STUB_KEEP;
}

static const char own_host[] = "127.0.0.1:1";

/* --- every route meets admission -------------------------------------------------------------- */

static const char *const money_routes[] = {
    "POST /v1/chat/completions",
    "POST /v1/responses",
    "POST /v1/messages",
    "POST /v1/embeddings",
    "POST /v1/messages/count_tokens",
    "POST /v1/messages?beta=true",
    "POST /messages",
    "POST /messages/count_tokens",
};

static void admission_wait(void *arg)
{
    Rig *rig = arg;
    Raw *raw = calloc(1, sizeof *raw);
    for (size_t i = 0; i < ARRAY_N(money_routes); i++) {
        int before = atomic_load(&rig->stub.requests);
        raw_wait(rig, money_routes[i], own_host, raw);
        if (!CHECK(atomic_load(&rig->stub.requests) > before))
            fprintf(stderr, "  for %s: %s\n", money_routes[i], raw->answer);
    }
    int before = atomic_load(&rig->stub.requests);
    GatewayTotals totals;
    gateway_task_totals(rig->task, &totals);
    int64_t refused = totals.calls_refused;
    gateway_task_stop(rig->task, GATEWAY_STOP_CANCELLED);
    for (size_t i = 0; i < ARRAY_N(money_routes); i++) {
        CHECK_INT(raw_wait(rig, money_routes[i], own_host, raw), 403);
        CHECK_HAS(str_of(raw->answer), "x-should-retry: false");
        CHECK_HAS(str_of(raw->answer), "cancelled");
    }
    CHECK_INT(atomic_load(&rig->stub.requests), before);
    gateway_task_totals(rig->task, &totals);
    CHECK_INT(totals.calls_refused, refused + (int64_t)ARRAY_N(money_routes));
    free(raw);
}

static void test_admission(void **state)
{
    (void)state;
    rig_run_with(admission_wait, count_only, NULL);
}

/* Time is up on every route. */
static void wall_wait(void *arg)
{
    Rig *rig = arg;
    Raw *raw = calloc(1, sizeof *raw);
    rig_task_wait(rig, (CapLimits){ CAP_NONE, CAP_NONE, CAP_NONE, 1 });
    fiber_sleep_wait(5);
    for (size_t i = 0; i < ARRAY_N(money_routes); i++)
        CHECK_INT(raw_wait(rig, money_routes[i], own_host, raw), 402);
    CHECK_INT(atomic_load(&rig->stub.requests), 0);
    free(raw);
}

static void test_wall(void **state)
{
    (void)state;
    rig_run_with(wall_wait, count_only, NULL);
}

/* --- and there are no others ------------------------------------------------------------------ */

static const struct {
    const char *line;
    int status;
} no_routes[] = {
    { "POST //v1/chat/completions", 404 },
    { "POST /v1//chat/completions", 404 },
    { "POST /v1/chat/completions/", 404 },
    { "POST /v1/./chat/completions", 404 },
    { "POST /v1/models/../chat/completions", 405 },
    { "POST /v1/chat%2Fcompletions", 404 },
    { "POST /%761/chat/completions", 404 },
    { "POST /V1/chat/completions", 404 },
    { "POST /v1/chat/completions;x=y", 404 },
    { "POST /v1/chat/completions%20", 404 },
    { "POST /v1/chat/completions%00", 404 },
    { "POST /chat/completions", 404 },
    { "POST /v1", 404 },
    { "POST /v1/completions", 404 },
    { "POST /v1/files", 404 },
    { "POST /v1/batches", 404 },
    { "POST /v1/messages/batches", 404 },
    { "POST /v1/messages/count_tokens/", 404 },
    { "POST /v1/images/generations", 404 },
    { "POST /v1/audio/speech", 404 },
    { "POST /v1/realtime/sessions", 404 },
    { "POST /v1/responses/resp_1/cancel", 404 },
    { "GET /v1/responses/resp_1", 404 },
    { "DELETE /v1/responses/resp_1", 404 },
    { "GET /v1/responses/resp_1/input_items", 404 },
    { "GET /v1/chat/completions", 405 },
    { "GET /v1/messages/count_tokens", 405 },
    { "PUT /v1/messages", 405 },
    { "DELETE /v1/models/sim/echo", 405 },
    { "POST /gantry/v2/task", 404 },
    { "POST /v1/chat/completions#x", 400 },
    { "POST http://evil.example/v1/chat/completions", 400 },
    { "CONNECT api.openai.com:443", 400 },
    { "OPTIONS *", 404 },
};

static void no_routes_wait(void *arg)
{
    Rig *rig = arg;
    Raw *raw = calloc(1, sizeof *raw);
    for (size_t i = 0; i < ARRAY_N(no_routes); i++) {
        int status = raw_wait(rig, no_routes[i].line, own_host, raw);
        bool ok = CHECK_INT(status, no_routes[i].status);
        ok &= CHECK(strstr(raw->answer, "\"error\"") != NULL);
        if (!ok) fprintf(stderr, "  for %s: %s\n", no_routes[i].line, raw->answer);
    }
    CHECK_INT(atomic_load(&rig->stub.requests), 0);
    CHECK_INT(rig_totals(rig).calls, 0);
    free(raw);
}

static void test_no_routes(void **state)
{
    (void)state;
    rig_run_with(no_routes_wait, count_only, NULL);
}

static void hosts_wait(void *arg)
{
    static const struct {
        const char *host;
        bool ours;
    } hosts[] = {
        { "127.0.0.1", true },
        { "127.0.0.1:8080", true },
        { "localhost:9", true },
        { "LOCALHOST", true },
        { "evil.example", false },
        { "evil.example:80", false },
        { "127.0.0.1.evil.example", false },
        { "api.openai.com", false },
        { "169.254.169.254", false },
        { "localhost.", false },
    };
    Rig *rig = arg;
    Raw *raw = calloc(1, sizeof *raw);
    for (size_t i = 0; i < ARRAY_N(hosts); i++) {
        int before = atomic_load(&rig->stub.requests);
        int status = raw_wait(rig, "POST /v1/chat/completions", hosts[i].host, raw);
        bool ok = CHECK_INT(atomic_load(&rig->stub.requests) > before, hosts[i].ours);
        if (!hosts[i].ours) ok &= CHECK_INT(status, 400);
        if (!ok) fprintf(stderr, "  for %s: %s\n", hosts[i].host, raw->answer);
    }
    free(raw);
}

static void test_hosts(void **state)
{
    (void)state;
    rig_run_with(hosts_wait, count_only, NULL);
}

/* --- models ----------------------------------------------------------------------------------- */

static void models_wait(void *arg)
{
    static const struct {
        const char *line;
        int status;
        const char *says;
    } want[] = {
        { "GET /v1/models", 200, "\"id\":\"sim/assistant\"" },
        { "GET /v1/models/sim/assistant", 200, "{\"id\":\"sim/assistant\",\"object\":\"model\"" },
        { "GET /v1/models/sim%2Fassistant", 200, "\"owned_by\":\"sim\"" },
        { "GET /v1/models/stub-7", 200, "\"owned_by\":\"stub\"" },
        { "GET /v1/models/nobody", 404, "model_not_found" },
        { "GET /v1/models/", 404, "model_not_found" },
        { "GET /v1/models/%zz", 404, "model_not_found" },
        { "GET /v1/models/%ff", 404, "model_not_found" },
        { "GET /v1/models/%00", 404, "model_not_found" },
    };
    Rig *rig = arg;
    Raw *raw = calloc(1, sizeof *raw);
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        bool ok = CHECK_INT(raw_wait(rig, want[i].line, own_host, raw), want[i].status);
        CHECK_HAS(str_of(raw->answer), want[i].says);
        if (!ok) fprintf(stderr, "  for %s\n", want[i].line);
    }
    CHECK_INT(atomic_load(&rig->stub.requests), 0);
    free(raw);
}

static void test_models(void **state)
{
    (void)state;
    rig_run_with(models_wait, count_only, NULL);
}

/* --- counting --------------------------------------------------------------------------------- */

static Reply count_wait(Rig *rig, const char *model)
{
    Buf body;
    buf_init(&body, 4096);
    buf_printf(&body, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
               model, "a text of some words, to be counted");
    Reply reply = rig_request_wait(rig, "/v1/messages/count_tokens", buf_str(&body));
    buf_deinit(&body);
    return reply;
}

static int64_t counted(const Reply *reply)
{
    CLEANUP(arena_deinit) Arena arena = { .max = 1 << 20 };
    const Json *v = NULL;
    CHECK_INT(json_parse(&arena, reply_str(reply), NULL, &v, NULL), 0);
    return json_i64_or(json_get(v, "input_tokens"), -1);
}

/* A provider of that API counts; for others there is a bound that no call passes. Free of charge.
 */
static void counting_wait(void *arg)
{
    Rig *rig = arg;
    CLEANUP(reply_deinit) Reply exact = count_wait(rig, "sim/echo");
    CHECK_INT(exact.status, 200);
    int64_t tokens = counted(&exact);
    CHECK(tokens > 0);
    CLEANUP(reply_deinit)
    Reply said = rig_say_wait(rig, API_MESSAGES, "sim/echo", false, "\"max_tokens\":50,",
                              "a text of some words, to be counted");
    CHECK_INT(said.status, 200);
    CHECK_INT(rig_last(rig)->call.usage.input_tokens, tokens);
    rig->routes[1].match = "nobody";
    CLEANUP(reply_deinit) Reply bound = count_wait(rig, "sim/echo");
    CHECK_INT(bound.status, 200);
    CHECK_HAS(str_of(bound.all), "x-gantry-estimated: 1");
    CHECK(counted(&bound) >= tokens);
    CLEANUP(reply_deinit) Reply nobody = count_wait(rig, "nobody-1");
    CHECK_INT(nobody.status, 404);
    CHECK_HAS(reply_str(&nobody), "not_found_error");
    static const char *const bad[] = { "", "[]", "{", "{\"model\":\"sim/echo\"}" };
    for (size_t i = 1; i < ARRAY_N(bad); i++) {
        CLEANUP(reply_deinit)
        Reply reply = rig_request_wait(rig, "/v1/messages/count_tokens", str_of(bad[i]));
        CHECK_INT(reply.status, 400);
        CHECK_HAS(reply_str(&reply), "invalid_request_error");
    }
    GatewayTotals totals = rig_totals(rig);
    CHECK_INT(totals.calls, 1);
    CHECK_INT(rig->calls_n, 1); /* what was counted is no call */
}

static void test_counting(void **state)
{
    (void)state;
    rig_run(counting_wait);
}

/* What goes up is what was sent, with the provider's key; its errors come down. */
static StubEnd count_stub(StubRequest *request, void *ctx)
{
    (void)ctx;
    CHECK_STR(request->path, STR("/v1/messages/count_tokens"));
    CHECK_STR(stub_field(request, "x-api-key"), STR(RIG_KEY));
    CHECK_STR(stub_field(request, "anthropic-beta"), STR("some-beta,other-beta"));
    CHECK(str_find(request->body, STR("max_tokens")) < 0);
    CHECK(str_find(request->head, str_of(RIG_AGENT_KEY)) < 0);
    bool first = atomic_load(&request->stub->requests) == 1;
    stub_sends(request,
               first ? "HTTP/1.1 429 Slow\r\nretry-after-ms: 1\r\n" : "HTTP/1.1 500 Oh\r\n");
    stub_sends(request,
               "content-type: application/json\r\ncontent-length: 70\r\n"
               "\r\n{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":"
               "\"slow!\"}}");
    return STUB_KEEP;
}

static void count_errors_wait(void *arg)
{
    Rig *rig = arg;
    CLEANUP(reply_deinit) Reply reply = count_wait(rig, "stub-1");
    CHECK_INT(reply.status, 429);
    CHECK_HAS(reply_str(&reply), "rate_limit_error");
    CHECK_STR(str_of(reply.retry), STR(""));
    CLEANUP(reply_deinit) Reply failed = count_wait(rig, "stub-1");
    CHECK_INT(failed.status, 500);
    CHECK_STR(str_of(failed.retry), STR("false"));
    CHECK_INT(rig_totals(rig).calls, 0);
}

static void test_count_errors(void **state)
{
    (void)state;
    rig_run_with(count_errors_wait, count_stub, NULL);
}

/* A provider that counts byte by byte is given up in the end, and its place is free again. */
static StubEnd count_slowly(StubRequest *request, void *ctx)
{
    (void)ctx;
    stub_sends(request, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        "content-length: 118\r\n\r\n");
    for (int i = 0; i < 100; i++) {
        stub_sends(request, " ");
        stub_sleep_ms(10);
    }
    stub_sends(request, "{\"input_tokens\":7}");
    return STUB_CLOSE;
}

static void count_slowly_wait(void *arg)
{
    Rig *rig = arg;
    rig->providers[3].timeout_ms = 300;
    CLEANUP(reply_deinit) Reply reply = count_wait(rig, "stub-1");
    CHECK_INT(reply.status, 502);
    CHECK_HAS(reply_str(&reply), "could not count");
}

static void test_count_slowly(void **state)
{
    (void)state;
    rig_run_with(count_slowly_wait, count_slowly, NULL);
}

/* --- requests that came in elsewhere ---------------------------------------------------------- */

static int serve(GatewayTask *task, const char *method, const char *path, const char *body,
                 GatewayMemory *memory)
{
    Arena arena;
    arena_init(&arena, 1 << 20);
    GatewayHttp http = { .method = str_of(method),
                         .path = str_of(path),
                         .body = str_of(body),
                         .request_id = STR("r1"),
                         .arena = &arena };
    GatewayReply reply = gateway_memory_reply(memory);
    buf_clear(&memory->body);
    memory->status = 0;
    CHECK_INT(gateway_serve_wait(task, &http, &reply), 0);
    arena_deinit(&arena);
    return memory->status;
}

#define SAY(max)                                  \
    "{\"model\":\"sim/echo\",\"max_tokens\":" max \
    ",\"messages\":[{\"role\":\"user\",\"content\":\"one two three\"}]}"

static void elsewhere_wait(void *arg)
{
    Rig *rig = arg;
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    CHECK_INT(serve(rig->task, "POST", "/v1/chat/completions", SAY("20"), &memory), 200);
    CHECK_HAS(buf_str(&memory.body), "one two three");
    CHECK_INT(rig->calls_n, 1);
    CHECK_INT(serve(rig->task, "POST", "/v1/messages", SAY("20"), &memory), 200);
    CHECK_INT(serve(rig->task, "POST", "/v1/messages/count_tokens", SAY("20"), &memory), 200);
    CHECK_INT(serve(rig->task, "GET", "/v1/models", "", &memory), 200);
    CHECK_HAS(buf_str(&memory.body), "\"sim/assistant\"");
    CHECK_INT(serve(rig->task, "GET", "/v1/models/sim%2Fecho", "", &memory), 200);
    CHECK_INT(serve(rig->task, "PUT", "/v1/models", "", &memory), 405);
    CHECK_INT(serve(rig->task, "POST", "/v1/other", "", &memory), 404);
    CHECK_INT(rig->calls_n, 2);

    /* the key names the task while it is open */
    char key[GATEWAY_TASK_KEY_MAX];
    str_copy(key, sizeof key, str_of(gateway_task_key(rig->task)));
    CHECK(gateway_task_by_key(rig->gateway, str_of(key)) == rig->task);
    CHECK(gateway_task_by_key(rig->gateway, STR("gantry-task-")) == NULL);
    rig_task_wait(rig, rig_no_limits);
    CHECK(gateway_task_by_key(rig->gateway, str_of(key)) == NULL);
    gateway_memory_deinit(&memory);
}

static void test_elsewhere(void **state)
{
    (void)state;
    rig_run(elsewhere_wait);
}

static StubEnd hanging_stub(StubRequest *request, void *ctx)
{
    atomic_store((atomic_bool *)ctx, true);
    while (!atomic_load(&request->stub->closing)) stub_sleep_ms(5);
    return STUB_CLOSE;
}

static atomic_bool hangs;

static int visitor_main(void *arg)
{
    Rig *rig = arg;
    Arena arena;
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    arena_init(&arena, 1 << 20);
    GatewayHttp http = { .method = STR("POST"),
                         .path = STR("/v1/messages/count_tokens"),
                         .body = STR("{\"model\":\"stub-1\",\"messages\":[{\"role\":\"user\","
                                     "\"content\":\"x\"}]}"),
                         .arena = &arena };
    GatewayReply reply = gateway_memory_reply(&memory);
    CHECK_INT(gateway_serve_wait(rig->task, &http, &reply), -ECANCELED);
    arena_deinit(&arena);
    gateway_memory_deinit(&memory);
    return 0;
}

/* A task that is closed waits for who still uses it, and does not wait for ever. */
static void visitor_wait(void *arg)
{
    Rig *rig = arg;
    FiberRef visitor;
    CHECK_INT(fiber_spawn("visitor", visitor_main, rig, &visitor), 0);
    for (int i = 0; i < 4000 && !atomic_load(&hangs); i++) fiber_sleep_wait(5);
    gateway_task_close_wait(TAKE(rig->task), deadline_after(20));
    fiber_join_wait(visitor, NULL);
}

static void test_visitor(void **state)
{
    (void)state;
    rig_run_with(visitor_wait, hanging_stub, &hangs);
}

/* Without a task of its own: no version, all models, and a limit on each call by itself. */
static void each_call_wait(void *arg)
{
    Rig *rig = arg;
    GatewayMemory memory;
    gateway_memory_init(&memory, 1 << 20);
    rig->options.model = rig->options.version_id = STR_NULL;
    rig->options.call_max = (CapHold){ .tokens = 400 };
    rig_task_wait(rig, rig_no_limits);
    CHECK_INT(serve(rig->task, "GET", "/v1/models", "", &memory), 200);
    CHECK_HAS(buf_str(&memory.body), "\"gpt-4o-mini-2024-07-18\"");
    for (int i = 0; i < 5; i++) { /* what earlier ones have used does not count */
        CLEANUP(reply_deinit)
        Reply reply = rig_say_wait(rig, API_CHAT, "sim/ramble", false, "", "go on");
        CHECK_INT(reply.status, 200);
        CHECK_STR(str_of(reply.version), STR(""));
        CHECK(rig_last(rig)->call.hold.tokens <= 400);
        CHECK(rig_last(rig)->call.charged.tokens <= 400);
    }
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    CLEANUP(reply_deinit) Reply reply = rig_say_wait(rig, API_CHAT, "sim/echo", false, "", text);
    CHECK_INT(reply.status, 402);
    CHECK_STR(str_of(reply.retry), STR("false"));
    CHECK_HAS(reply_str(&reply), "tokensPerCall");

    rig->options.call_max = (CapHold){ .nusd = 1 };
    rig_task_wait(rig, rig_no_limits);
    CLEANUP(reply_deinit) Reply dear = rig_say_wait(rig, API_CHAT, "stub-1", false, "", "x");
    CHECK_INT(dear.status, 402);
    CHECK_HAS(reply_str(&dear), "usdPerCall");
    CHECK_INT(rig_totals(rig).calls, 0);
    gateway_memory_deinit(&memory);
}

static void test_each_call(void **state)
{
    (void)state;
    rig_run(each_call_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_admission),    cmocka_unit_test(test_wall),
        cmocka_unit_test(test_no_routes),    cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_models),       cmocka_unit_test(test_counting),
        cmocka_unit_test(test_count_slowly), cmocka_unit_test(test_count_errors),
        cmocka_unit_test(test_elsewhere),    cmocka_unit_test(test_each_call),
        cmocka_unit_test(test_visitor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
