/* The server's side of the worker protocol, as a remote worker sees it. */
#include "tests/unit/api_fixture.h"

static int setup(void **state)
{
    ApiFixture *f = xcalloc(1, sizeof *f);
    f->options.lease_ms = f->queue_options.lease_ms = 9000;
    api_start(f);
    deploy(f, "support");
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    ApiFixture *f = *state;
    api_stop(f);
    free(f);
    return 0;
}

#define KEY "abababababababababababababababababababababababababababababababab"
#define SOME_ID "01920000-0000-7000-8000-000000000000"
#define FREE(shared) "{\"critical\":0,\"normal\":0,\"low\":0,\"shared\":" #shared "}"

static const char *route(ApiFixture *f, const char *worker, const char *verb)
{
    return format(f, "/api/workers/%s/%s", worker, verb);
}

static const char *ref(ApiFixture *f, const Json *task)
{
    return format(f, "{\"taskId\":\"%.*s\",\"fence\":%" PRId64 "}",
                  STR_ARG(json_str(json_get(task, "taskId"))),
                  json_i64_or(json_get(task, "fence"), 0));
}

static Reply heartbeat(ApiFixture *f, const char *worker, const Json *task)
{
    return post(f, route(f, worker, "heartbeat"),
                format(f, "{\"tasks\":[%s]}", task ? ref(f, task) : ""));
}

static Str status_of(ApiFixture *f, const char *id)
{
    Reply reply = get(f, format(f, "/agent/tasks/%s", id));
    return text(&reply, "status");
}

static void test_registration(void **state)
{
    ApiFixture *f = *state;
    Reply reply = post(f, "/api/workers", "{\"name\":\"w\",\"slots\":" ALL_SLOTS "}");
    EXPECT(reply, 201);
    assert_int_equal(text(&reply, "workerId").len, 36);
    assert_int_equal(number(&reply, "leaseMs"), 9000);
    assert_int_equal(number(&reply, "heartbeatMs"), 3000);
}

static void test_claimed_task(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    const char *id = submit(f, "{\"input\":{\"q\":1},\"sessionId\":\"s\",\"userId\":\"u\","
                               "\"limits\":{\"secondsPerTask\":60},\"metadata\":{\"m\":1}}");
    const Json *task = worker_claim(f, worker);
    EXPECT_TEXT(json_str(json_get(task, "taskId")), id);
    EXPECT_TEXT(json_str(json_get(task, "agent")), "support");
    EXPECT_TEXT(json_str(json_get(task, "lane")), "normal");
    EXPECT_TEXT(json_str(json_get(task, "sessionId")), "s");
    EXPECT_TEXT(json_str(json_get(task, "userId")), "u");
    assert_true(json_type(json_get(task, "tenantId")) == JSON_NULL);
    assert_int_equal(json_i64_or(json_get(task, "attempt"), 0), 1);
    assert_true(json_i64_or(json_get(task, "fence"), 0) > 0);
    int64_t left_ms = json_i64_or(json_get(task, "remainingMs"), 0);
    assert_true(left_ms > 50000 && left_ms <= 60000);
    assert_int_equal(json_i64_or(json_get(json_get(task, "metadata"), "m"), 0), 1);
    assert_int_equal(json_i64_or(json_get(json_get(task, "limits"), "secondsPerTask"), 0), 60);
    EXPECT_TEXT(status_of(f, id), "running");
}

static void test_claim_waits(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    int64_t began_ms = clock_mono_ms();
    Reply reply = post(f, route(f, worker, "claim"), "{\"free\":" FREE(1) ",\"waitMs\":300}");
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "tasks")), 0);
    assert_true(clock_mono_ms() - began_ms >= 300);
    for (int i = 0; i < 3; i++) submit(f, "{\"input\":1}");
    reply = post(f, route(f, worker, "claim"), "{\"free\":" FREE(2) ",\"waitMs\":60000}");
    assert_int_equal(json_len(member(&reply, "tasks")), 2);
}

/* A worker that went away while it waited is given nothing. */
static void test_claim_of_a_worker_that_left(void **state)
{
    ApiFixture *f = *state;
    const char *gone = worker_register(f), *worker = worker_register(f);
    int fd = client_open(f);
    client_request(f, fd, "POST", route(f, gone, "claim"), "Content-Type: application/json\r\n",
                   STR("{\"free\":" FREE(1) ",\"waitMs\":60000}"));
    usleep(200000);
    close(fd);
    usleep(1500000); /* it is noticed within a second */
    const char *id = submit(f, "{\"input\":1}");
    const Json *task = worker_claim(f, worker);
    EXPECT_TEXT(json_str(json_get(task, "taskId")), id);
    assert_int_equal(json_i64_or(json_get(task, "attempt"), 0), 1);
}

static void test_finish_once(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    const Json *task = worker_claim(f, worker);
    EXPECT(worker_finish(f, worker, task, "succeeded", ",\"result\":[1]"), 204);
    Reply reply = worker_finish(f, worker, task, "failed_final", "");
    EXPECT(reply, 409);
    EXPECT_TEXT(text(&reply, "code"), "stale");
    EXPECT_TEXT(status_of(f, id), "succeeded");
    reply = post(f, route(f, worker, "logs"),
                 format(f,
                        "%.*s,\"entries\":[{\"seq\":1,\"at\":\"2030-01-01T00:00:00Z\","
                        "\"stream\":\"stderr\",\"text\":\"x\"}]}",
                        (int)strlen(ref(f, task)) - 1, ref(f, task)));
    EXPECT(reply, 409);
}

static const char *end_of(ApiFixture *f, const Json *task, const char *members)
{
    return format(f, "%.*s%s}", (int)strlen(ref(f, task)) - 1, ref(f, task), members);
}

/* Each is answered as if it had come alone. */
static void test_finish_many(void **state)
{
    ApiFixture *f = *state;
    static const int want[] = { 204, 400, 409, 204, 400 };
    const char *worker = worker_register(f);
    const char *a = submit(f, "{\"input\":1}"), *b = submit(f, "{\"input\":2}");
    const char *first = end_of(f, worker_claim(f, worker),
                               ",\"outcome\":\"succeeded\",\"result\":7");
    const Json *task = worker_claim(f, worker);
    const char *body = format(f, "{\"tasks\":[%s,%s,%s,%s,{}]}", first,
                              end_of(f, task, ",\"outcome\":\"lost\""), first,
                              end_of(f, task, ",\"outcome\":\"failed_final\""));
    Reply reply = post(f, route(f, worker, "finish-many"), body);
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "tasks")), ARRAY_N(want));
    for (size_t i = 0; i < ARRAY_N(want); i++)
        assert_int_equal(json_i64_or(json_get(json_at(member(&reply, "tasks"), i), "status"), 0),
                         want[i]);
    EXPECT_TEXT(status_of(f, a), "succeeded");
    EXPECT_TEXT(status_of(f, b), "failed");
    reply = post(f, route(f, worker, "finish-many"), body); /* again: the answer was lost */
    EXPECT(reply, 200);
    for (size_t i = 0; i < ARRAY_N(want); i++)
        assert_int_equal(json_i64_or(json_get(json_at(member(&reply, "tasks"), i), "status"), 0),
                         want[i] == 204 ? 409 : want[i]);
    reply = post(f, route(f, worker, "finish-many"), "{\"tasks\":[]}");
    EXPECT(reply, 200);
}

static void test_large_result(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    const Json *task = worker_claim(f, worker);
    size_t n = (size_t)3 << 20;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, (size_t)8 << 20);
    buf_printf(&body, "%.*s,\"outcome\":\"succeeded\",\"result\":\"", (int)strlen(ref(f, task)) - 1,
               ref(f, task));
    memset(buf_reserve(&body, n), 'x', n);
    buf_added(&body, n);
    buf_add(&body, STR("\"}"));
    Reply reply = call_with(f, "POST", route(f, worker, "finish"),
                            "Content-Type: application/json\r\n", buf_str(&body));
    EXPECT(reply, 204);
    reply = get(f, format(f, "/agent/tasks/%s", id));
    assert_int_equal(text(&reply, "result").len, n);
}

static void test_heartbeat_and_drain(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    submit(f, "{\"input\":1}");
    const Json *task = worker_claim(f, worker);
    Reply reply = heartbeat(f, worker, task);
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "cancel")), 0);
    assert_int_equal(json_len(member(&reply, "lost")), 0);
    assert_false(json_bool(member(&reply, "draining"), true));

    /* a reason to heartbeat is told to who waits for it, also when it was there before */
    char *since = format(f, "{\"mark\":%" PRId64 ",\"waitMs\":10}", number(&reply, "mark"));
    reply = post(f, route(f, worker, "signal"), since);
    EXPECT(reply, 200);
    assert_false(json_bool(member(&reply, "signalled"), true));
    reply = post(f, route(f, worker, "drain"), NULL);
    EXPECT(reply, 202);
    EXPECT_TEXT(text(&reply, "state"), "draining");
    reply = post(f, route(f, worker, "signal"), since);
    EXPECT(reply, 200);
    assert_true(json_bool(member(&reply, "signalled"), false));
    EXPECT(post(f, route(f, worker, "signal"), "{\"waitMs\":1}"), 400);
    reply = heartbeat(f, worker, task);
    assert_true(json_bool(member(&reply, "draining"), false));

    reply = get(f, format(f, "/api/workers/%s", worker)); /* how long it may take */
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "state"), "draining");
    const Json *held = json_at(member(&reply, "tasks"), 0);
    EXPECT_TEXT(json_str(json_get(held, "taskId")),
                arena_cstr(&f->arena, json_str(json_get(task, "taskId"))));
    assert_true(json_str(json_get(held, "deadline")).len > 0);
    EXPECT_TEXT(json_str(json_get(held, "deadline")),
                arena_cstr(&f->arena, text(&reply, "busyUntil")));
    submit(f, "{\"input\":1}");
    reply = post(f, route(f, worker, "claim"), "{\"free\":" FREE(1) ",\"waitMs\":1000}");
    EXPECT(reply, 404);
    EXPECT(worker_finish(f, worker, task, "succeeded", ""), 204);

    const char *other = worker_register(f);
    reply = heartbeat(f, other, task); /* it is not this worker's */
    EXPECT(reply, 200);
    EXPECT_TEXT(json_str(json_at(member(&reply, "lost"), 0)),
                arena_cstr(&f->arena, json_str(json_get(task, "taskId"))));
}

static bool metrics_have(ApiFixture *f, const char *line)
{
    Reply reply = get(f, "/metrics");
    EXPECT(reply, 200);
    return strstr(arena_cstr(&f->arena, reply.body), line) != NULL;
}

/* What a worker says of itself is shown, under a name that may be anything; what it sends beside
 * that is not. */
static void test_counts(void **state)
{
    ApiFixture *f = *state;
    Reply reply = post(f, "/api/workers", "{\"name\":\"w\\\"1\",\"slots\":" ALL_SLOTS "}");
    const char *worker = arena_cstr(&f->arena, text(&reply, "workerId"));
    EXPECT(post(f, route(f, worker, "heartbeat"),
                "{\"tasks\":[],\"counts\":{\"limitMemory\":3,\"attempts\":9007199254740993,"
                "\"stuck\":-1,\"stale\":\"many\",\"strange\":5}}"),
           200);
    EXPECT(post(f, route(f, worker, "heartbeat"), "{\"tasks\":[]}"), 200); /* as told before */
    const char *labels = format(f, "{worker=\"w\\\"1\",id=\"%s\"}", worker + 24);
    assert_true(metrics_have(f, format(f, "gantry_worker_limit_memory_total%s 3\n", labels)));
    assert_true(metrics_have(f, format(f, "gantry_worker_agents_stuck_total%s 0\n", labels)));
    assert_true(metrics_have(f, format(f, "gantry_worker_stale_total%s 0\n", labels)));
    assert_true(
        metrics_have(f, format(f, "gantry_worker_attempts_total%s 9007199254740993\n", labels)));
    assert_false(metrics_have(f, "strange"));
    EXPECT(post(f, route(f, worker, "heartbeat"), "{\"tasks\":[],\"counts\":7}"), 400);
}

/* So many workers are shown one by one, the others together. */
static void test_counts_of_many(void **state)
{
    ApiFixture *f = *state;
    for (int i = 0; i < 103; i++) {
        const char *worker = worker_register(f);
        EXPECT(post(f, route(f, worker, "heartbeat"), "{\"tasks\":[],\"counts\":{\"limitCpu\":2}}"),
               200);
    }
    assert_true(metrics_have(f, "gantry_worker_limit_cpu_total{worker=\"other\",id=\"\"} 6\n"));
}

/* What is told of a task is refused from any worker but the one that holds it, whatever it
 * knows. */
static void test_only_its_worker(void **state)
{
    static const struct {
        const char *verb, *members;
    } told[] = {
        { "finish", ",\"outcome\":\"succeeded\"" },
        { "score", ",\"name\":\"n\",\"value\":1" },
        { "calls",
          (",\"calls\":[{\"callId\":\"c\",\"attempt\":1,\"provider\":\"sim\",\"model\":\"m\","
           "\"protocol\":\"openai\",\"outcome\":\"ok\",\"status\":200,\"costNusd\":7,\"inputTokens\":1,\"outputTokens\":1,"
           "\"durationUs\":1,\"startedAt\":\"2030-01-01T00:00:00Z\"}]") },
        { "tools", (",\"tools\":[{\"id\":\"0192f3aa-0000-7000-8000-000000000001\",\"name\":\"t\","
                    "\"source\":\"command\",\"outcome\":\"ok\",\"at\":\"2030-01-01T00:00:00Z\","
                    "\"durationMs\":5,\"bytes\":7,\"replayed\":false,\"counted\":true}]") },
        { "journal", ",\"recordings\":[]" },
        { "logs", (",\"entries\":[{\"seq\":1,\"at\":\"2030-01-01T00:00:00Z\",\"stream\":\"stderr\","
                   "\"text\":\"x\"}]") },
        { "state", ",\"what\":\"list\"" },
        { "escalate",
          (",\"key\":\"" KEY "\",\"occurrence\":1,\"question\":\"q\",\"timeoutMs\":9000") },
        { "children",
          (",\"key\":\"k\",\"fingerprint\":\"" KEY "\",\"agent\":\"\",\"input\":1,"
           "\"timeLimitMs\":0,\"remainingMs\":60000,\"offered\":{\"tokens\":1,\"nusd\":1,"
           "\"toolCalls\":1}") },
        { "children/" SOME_ID "/cancel", "" },
    };
    ApiFixture *f = *state;
    const char *worker = worker_register(f), *other = worker_register(f);
    const char *id = submit(f, "{\"input\":1,\"sessionId\":\"s\"}");
    const Json *task = worker_claim(f, worker);
    for (size_t i = 0; i < ARRAY_N(told); i++) {
        const char *body = end_of(f, task, told[i].members);
        Reply reply = post(f, route(f, other, told[i].verb), body);
        if (reply.status != 409) print_error("%s\n", told[i].verb);
        EXPECT(reply, 409);
        EXPECT_TEXT(text(&reply, "code"), "stale");
    }
    Reply reply = post(f, route(f, other, "finish-many"),
                       format(f, "{\"tasks\":[%s]}", end_of(f, task, told[0].members)));
    EXPECT(reply, 200);
    assert_int_equal(json_i64_or(json_get(json_at(member(&reply, "tasks"), 0), "status"), 0), 409);
    const char *query = format(f, "task=%s&fence=%" PRId64, id,
                               json_i64_or(json_get(task, "fence"), 0));
    EXPECT(get(f, format(f, "%s?%s&after=0", route(f, other, "journal"), query)), 409);
    EXPECT(get(f, format(f, "%s?%s", route(f, other, "children"), query)), 409);
    EXPECT(get(f, format(f, "%s?%s", route(f, other, "children/" SOME_ID), query)), 409);
    reply = heartbeat(f, other, task);
    EXPECT_TEXT(json_str(json_at(member(&reply, "lost"), 0)), id);

    /* what was paid is booked, whoever says so; nothing else was done */
    reply = get(f, format(f, "/agent/tasks/%s", id));
    EXPECT_TEXT(text(&reply, "status"), "running");
    assert_int_equal(json_i64_or(json_get(member(&reply, "usage"), "llmCalls"), 0), 1);
    assert_int_equal(json_i64_or(json_get(member(&reply, "usage"), "toolCalls"), -1), 0);
    reply = heartbeat(f, worker, task);
    assert_int_equal(json_len(member(&reply, "lost")), 0);
    EXPECT(worker_finish(f, worker, task, "succeeded", ""), 204);
}

static void test_leave(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    worker_claim(f, worker);
    EXPECT(post(f, route(f, worker, "leave"), "{}"), 204);
    EXPECT_TEXT(status_of(f, id), "queued");
    EXPECT(heartbeat(f, worker, NULL), 404);
    Reply reply = get(f, "/api/workers");
    assert_int_equal(json_len(member(&reply, "workers")), 0);
}

static void test_limits_of_reports(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 8 << 20);
    buf_add(&body, STR("{\"tasks\":["));
    for (int i = 0; i < 4097; i++) buf_printf(&body, "%s{}", i ? "," : "");
    buf_add(&body, STR("]}"));
    Reply reply = post(f, route(f, worker, "heartbeat"), body.ptr);
    EXPECT(reply, 400);
    EXPECT_HAS(text(&reply, "detail"), "4096");

    buf_clear(&body);
    buf_add(&body, STR("{\"tasks\":["));
    for (int i = 0; i < 257; i++) buf_printf(&body, "%s{}", i ? "," : "");
    buf_add(&body, STR("]}"));
    reply = post(f, route(f, worker, "finish-many"), body.ptr);
    EXPECT(reply, 400);
    EXPECT_HAS(text(&reply, "detail"), "256 elements: send them in several requests");
    reply = post(f, route(f, worker, "finish-many"), "{\"tasks\":1}");
    EXPECT(reply, 400);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

/* What two workers tell of a limit of 100 requests a minute. */
static Reply tell(ApiFixture *f, const char *worker, int have, int want)
{
    const char *none = "[0,0,0,0,0,0,0]";
    return post(
        f, route(f, worker, "rates"),
        format(f,
               "{\"limits\":[{\"provider\":\"openai\",\"model\":\"gpt\",\"configured\":"
               "[100,0,0,0],\"learned\":[0,0,0,0],\"used\":[0,0,0,0],\"concurrent\":0,"
               "\"inFlight\":0,\"waiting\":[0,0,0],\"waitingAll\":0,\"blockedMs\":0,"
               "\"throttled\":0,\"asks\":[[%d,0,0,0,0,%d,0],%s,%s,%s,%s]}],"
               "\"breakers\":[{\"kind\":\"model\",\"name\":\"openai/gpt\",\"state\":\"open\","
               "\"calls\":10,\"errors\":5,\"slow\":0,\"since\":1767225600000,"
               "\"nextProbeMs\":4000,\"probes\":0,\"trips\":1,\"refused\":2}],"
               "\"stats\":[0,0,3,0,0,0,0,0,0,0,0,0,0,0,0]}",
               have, want, none, none, none, none));
}

static int64_t share_of(Reply *reply)
{
    JsonIter shares = json_iter(member(reply, "shares"));
    assert_true(json_next(&shares));
    JsonIter units = json_iter(shares.value);
    assert_true(json_next(&units));
    return json_i64_or(units.value, -1);
}

static void test_rates(void **state)
{
    ApiFixture *f = *state;
    const char *one = worker_register(f), *two = worker_register(f);
    Reply reply = tell(f, one, 0, 0);
    EXPECT(reply, 200);
    assert_int_equal(number(&reply, "ttlMs"), 9000);
    assert_int_equal(share_of(&reply), 100);
    reply = tell(f, two, 0, 30);
    assert_int_equal(share_of(&reply), 0);
    reply = tell(f, one, 100, 0);
    assert_int_equal(share_of(&reply), 35);

    reply = get(f, "/api/limits");
    EXPECT(reply, 200);
    EXPECT_HAS(reply.body, "\"provider\":\"openai\",\"model\":\"gpt\",\"workers\":2");
    EXPECT_HAS(reply.body,
               "{\"unit\":\"requests\",\"limit\":100,\"configured\":100,\"learned\":null");
    reply = get(f, "/api/breakers");
    EXPECT(reply, 200);
    EXPECT_HAS(reply.body, "\"name\":\"openai/gpt\",\"state\":\"open\"");
    EXPECT_HAS(reply.body, "\"errorRate\":0.5");
    EXPECT_HAS(reply.body, "\"openedAt\":\"2026-01-01T00:00:00.000Z\"");
    reply = get(f, "/metrics");
    EXPECT_HAS(reply.body, "gantry_gateway_waiting{lane=\"low\"} 6");
    EXPECT_HAS(reply.body, "gantry_model_breakers{outcome=\"open\"} 2");

    EXPECT(post(f, route(f, one, "leave"), "{}"), 204);
    EXPECT(tell(f, one, 0, 0), 404); /* who has left gets nothing */
    reply = tell(f, two, 0, 30);
    assert_int_equal(share_of(&reply), 100);
    EXPECT(post(f, route(f, two, "rates"), "{\"limits\":[],\"breakers\":[],\"stats\":[]}"), 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_registration),
        CASE(test_claimed_task),
        CASE(test_claim_waits),
        CASE(test_claim_of_a_worker_that_left),
        CASE(test_finish_once),
        CASE(test_large_result),
        CASE(test_heartbeat_and_drain),
        CASE(test_counts),
        CASE(test_counts_of_many),
        CASE(test_leave),
        CASE(test_only_its_worker),
        CASE(test_limits_of_reports),
        CASE(test_rates),
        CASE(test_finish_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
