#include "tests/unit/api_fixture.h"

#include "api/execute.h"
#include "api/route.h"
#include "codec/time_text.h"

static int setup(void **state)
{
    ApiFixture *f = xcalloc(1, sizeof *f);
    api_start(f);
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

/* --- every wrong request ---------------------------------------------------------------------- */

#define JSON "Content-Type: application/json\r\n"
#define SOME_ID "01920000-0000-7000-8000-000000000000"
#define EXECUTE "POST", "/agent/execute"

typedef struct {
    const char *method, *path, *fields, *body;
    int status;
    const char *code, *words; /* the detail has these */
} BadRequest;

static const BadRequest bad_requests[] = {
    /* routes and methods */
    { "GET", "/nowhere", NULL, NULL, 404, "route_not_found", "nothing at this path" },
    { "GET", "/api/tasks/", NULL, NULL, 404, "route_not_found", "" },
    { "GET", "/agent/execute", NULL, NULL, 405, "method_not_allowed", "POST" },
    { "DELETE", "/api/tasks", NULL, NULL, 405, "method_not_allowed", "GET, HEAD" },
    { "GET", "/api/agents/%zz/versions", NULL, NULL, 400, "path_invalid", "percent" },

    /* parameters */
    { "GET", "/api/tasks?colour=red", NULL, NULL, 400, "parameter_unknown", "colour" },
    { "GET", "/api/tasks?limit=1&limit=2", NULL, NULL, 400, "parameter_repeated", "limit" },
    { "GET", "/api/tasks?limit=0", NULL, NULL, 400, "parameter_invalid", "from 1 to 500" },
    { "GET", "/api/tasks?limit=501", NULL, NULL, 400, "parameter_invalid", "from 1 to 500" },
    { "GET", "/api/tasks?limit=ten", NULL, NULL, 400, "parameter_invalid", "whole number" },
    { "GET", "/api/tasks?status=done", NULL, NULL, 400, "parameter_invalid", "succeeded" },
    { "GET", "/api/tasks?priority=high", NULL, NULL, 400, "parameter_invalid", "critical" },
    { "GET", "/api/tasks?cursor=x!", NULL, NULL, 400, "parameter_invalid", "nextCursor" },
    { "GET", "/api/tasks?agent=%zz", NULL, NULL, 400, "parameter_invalid", "percent" },
    { "GET", "/agent/tasks/" SOME_ID "?wait=fast", NULL, NULL, 400, "parameter_invalid", "30s" },
    { "GET", "/api/metrics/versions?window=1x", NULL, NULL, 400, "parameter_invalid", "window" },

    /* bodies */
    { EXECUTE, JSON, "", 400, "body_invalid", "empty" },
    { EXECUTE, JSON, "{\"input\":", 400, "body_invalid", "line 1" },
    { EXECUTE, JSON, "{\"input\":1,\"input\":2}", 400, "body_invalid", "" },
    { EXECUTE, JSON, "{\"input\":1}x", 400, "body_invalid", "" },
    { EXECUTE, "Content-Type: text/plain\r\n", "{}", 415, "content_type", "text/plain" },
    { EXECUTE, "Content-Type: application/x-www-form-urlencoded\r\n", "a=b", 415, "content_type",
      "curl" },
    { EXECUTE, JSON, "{\"input\":1,\"colour\":\"red\"}", 400, "member_unknown", "colour" },
    { EXECUTE, JSON, "{\"input\":1,\"agent\":7}", 400, "member_invalid", "`agent`" },
    { EXECUTE, JSON, "{\"input\":1,\"agent\":\"\"}", 400, "member_invalid", "empty" },
    { EXECUTE, JSON, "{\"input\":1,\"agent\":\"No Such\"}", 404, "agent_not_found", "No Such" },
    { EXECUTE, JSON, "{\"input\":1,\"agent\":\"other\"}", 404, "agent_not_found", "other" },
    { EXECUTE, JSON, "{\"input\":1,\"priority\":\"high\"}", 400, "member_invalid", "critical" },
    { EXECUTE, JSON, "{\"input\":1,\"sessionId\":\"a\\nb\"}", 400, "member_invalid", "sessionId" },
    { EXECUTE, JSON, "{\"input\":1,\"userId\":\"\\u0000\"}", 400, "member_invalid", "userId" },
    { EXECUTE, JSON, "{\"input\":1,\"runAt\":\"tomorrow\"}", 400, "member_invalid", "runAt" },
    { EXECUTE, JSON, "{\"input\":1,\"runAt\":\"2999-01-01T00:00:00Z\"}", 400, "member_invalid",
      "year" },
    { EXECUTE, JSON, "{\"input\":1,\"metadata\":[]}", 400, "member_invalid", "an object" },
    { EXECUTE, JSON, "{\"input\":1,\"limits\":{\"colour\":1}}", 400, "member_unknown", "colour" },
    { EXECUTE, JSON, "{\"input\":1,\"limits\":{\"tokensPerTask\":0}}", 400, "member_invalid",
      "limits.tokensPerTask" },
    { EXECUTE, JSON, "{\"input\":1,\"limits\":{\"secondsPerTask\":1.5}}", 400, "member_invalid",
      "limits.secondsPerTask" },
    { EXECUTE, JSON, "{\"input\":1,\"limits\":{\"usdPerTask\":0.5}}", 400, "member_invalid",
      "limits.usdPerTask" },
    { EXECUTE, JSON, "{\"input\":1,\"webhookUrl\":\"ftp://x/\"}", 400, "webhook_url_invalid",
      "http or https" },
    { EXECUTE, JSON, "{\"input\":1,\"webhookUrl\":\"https://u:p@x/\"}", 400, "webhook_url_invalid",
      "" },
    { EXECUTE, JSON, "{\"input\":1,\"webhookUrl\":\"http://169.254.169.254/\"}", 400,
      "webhook_url_refused", "169.254.169.254" },
    { EXECUTE, JSON, "{\"input\":1,\"webhookUrl\":\"http://example.com/\"}", 400,
      "webhook_url_refused", "webhooks.allowHttp" },
    { EXECUTE, JSON, "{\"input\":1,\"webhookUrl\":\"https://example.com:8443/\"}", 400,
      "webhook_url_refused", "webhooks.ports" },
    { EXECUTE, JSON "Idempotency-Key: \"\"\r\n", "{\"input\":1}", 400, "key_invalid", "printable" },
    { EXECUTE, JSON "Idempotency-Key: \"a\r\n", "{\"input\":1}", 400, "key_invalid", "" },
    { EXECUTE, JSON "Idempotency-Key: \"a\"b\r\n", "{\"input\":1}", 400, "key_invalid", "" },
    { "POST", "/agent/execute?agent=other", JSON, "{\"question\":1}", 404, "agent_not_found", "" },
    { "POST", "/agent/execute?agent=support", JSON, "{\"input\":1,\"agent\":\"support\"}", 400,
      "parameter_conflict", "agent" },
    { "POST", "/agent/execute?priority=high", JSON, "[1]", 400, "member_invalid", "critical" },
    { "POST", "/agent/execute?input=1", JSON, "[1]", 400, "parameter_unknown", "input" },

    /* tasks */
    { "GET", "/agent/tasks/" SOME_ID, NULL, NULL, 404, "task_not_found", SOME_ID },
    { "GET", "/agent/tasks/7", NULL, NULL, 404, "task_not_found", "UUID" },
    { "POST", "/api/tasks/" SOME_ID "/cancel", JSON, "", 404, "task_not_found", "" },
    { "POST", "/api/tasks/" SOME_ID "/cancel", JSON, "{\"why\":1}", 400, "member_unknown", "why" },
    { "POST", "/api/tasks/" SOME_ID "/retry", JSON, "{}", 404, "task_not_found", "" },
    { "GET", "/api/tasks/" SOME_ID "/timeline", NULL, NULL, 404, "task_not_found", "" },
    { "GET", "/api/tasks/" SOME_ID "/logs", NULL, NULL, 404, "task_not_found", "" },
    { "GET", "/api/tasks/" SOME_ID "/logs?format=xml", NULL, NULL, 400, "parameter_invalid",
      "json or text" },
    { "GET", "/api/tasks/" SOME_ID "/logs?after=7", NULL, NULL, 400, "parameter_invalid", "after" },
    { "GET", "/api/tasks/" SOME_ID "/events", NULL, NULL, 404, "task_not_found", "" },
    { "POST", "/api/tasks/" SOME_ID "/score", JSON, "{\"value\":1}", 404, "task_not_found", "" },
    { "POST", "/api/tasks/" SOME_ID "/score", JSON, "{}", 400, "member_missing", "value" },
    { "POST", "/api/tasks/" SOME_ID "/score", JSON, "{\"value\":1.01}", 400, "member_invalid",
      "0 to 1" },
    { "POST", "/api/tasks/" SOME_ID "/score", JSON, "{\"value\":\"1\"}", 400, "member_invalid",
      "a number" },
    { "POST", "/api/tasks/" SOME_ID "/score", JSON, "", 400, "body_invalid", "empty" },
    { "POST", "/api/tasks/" SOME_ID "/score", JSON, "[]", 400, "body_invalid", "an object" },

    /* agents and versions */
    { "GET", "/api/agents/other/versions", NULL, NULL, 404, "agent_not_found", "other" },
    { "GET", "/api/agents/support/versions?cursor=!", NULL, NULL, 400, "parameter_invalid", "" },
    { "GET", "/api/agents/other/routing", NULL, NULL, 404, "agent_not_found", "other" },
    { "GET", "/api/versions/abc", NULL, NULL, 404, "version_not_found", "64 hexadecimal" },
    { "GET", "/api/versions/00000000", NULL, NULL, 404, "version_not_found", "00000000" },
    { "GET", "/api/versions/00000000/artifact", NULL, NULL, 404, "version_not_found", "" },
    { "GET", "/api/versions/00000000/diff/11111111", NULL, NULL, 404, "version_not_found",
      "00000000" },
    { "POST", "/api/agents/support/rollouts", JSON, "{\"versionId\":\"00000000\"}", 400,
      "member_missing", "strategy" },
    { "POST", "/api/agents/support/rollouts", JSON,
      "{\"versionId\":\"00000000\",\"strategy\":\"shadow\"}", 404, "version_not_found", "" },
    { "GET", "/api/rollouts/abc/shadow", NULL, NULL, 404, "rollout_not_found", "abc" },
    { "POST", "/api/agents/support/rollouts", JSON,
      "{\"versionId\":\"00000000\",\"strategy\":\"canary\"}", 404, "version_not_found", "" },
    { "GET", "/api/rollouts/abc", NULL, NULL, 404, "rollout_not_found", "abc" },
    { "POST", "/api/rollouts/abc/promote", JSON, "{}", 404, "rollout_not_found", "abc" },
    { "POST", "/api/rollouts/abc/abort", JSON, "{\"full\":3}", 400, "member_invalid", "full" },
    { "POST", "/api/agents/support/rollouts", JSON,
      "{\"versionId\":\"00000000\",\"strategy\":\"slowly\"}", 400, "member_invalid", "canary" },
    { "POST", "/api/agents/support/rollouts", JSON,
      "{\"versionId\":\"00000000\",\"strategy\":\"immediate\"}", 404, "version_not_found", "" },
    { "POST", "/api/agents/other/rollouts", JSON,
      "{\"versionId\":\"00000000\",\"strategy\":\"immediate\"}", 404, "agent_not_found", "" },
    { "POST", "/api/agents/support/rollback", JSON, "{}", 409, "no_previous_version", "support" },
    { "POST", "/api/agents/support/rollback", JSON, "{\"to\":\"00000000\"}", 404,
      "version_not_found", "" },

    /* workers */
    { "POST", "/api/workers", JSON, "{\"name\":\"w\"}", 400, "member_missing", "slots" },
    { "POST", "/api/workers", JSON, "{\"name\":\"w\",\"slots\":{}}", 400, "member_invalid",
      "shared" },
    { "POST", "/api/workers/" SOME_ID "/claim", JSON,
      "{\"free\":{\"critical\":0,\"normal\":0,\"low\":0,\"shared\":1}}", 404, "worker_not_found",
      "" },
    { "POST", "/api/workers/" SOME_ID "/claim", JSON,
      "{\"free\":{\"critical\":0,\"normal\":0,\"low\":0,\"shared\":0}}", 400, "member_invalid",
      "no slot" },
    { "POST", "/api/workers/" SOME_ID "/heartbeat", JSON, "{\"tasks\":[]}", 404, "worker_not_found",
      "" },
    { "POST", "/api/workers/" SOME_ID "/heartbeat", JSON, "{\"tasks\":[{}]}", 400, "member_invalid",
      "taskId" },
    { "POST", "/api/workers/" SOME_ID "/finish", JSON,
      "{\"taskId\":\"" SOME_ID "\",\"fence\":1,\"outcome\":\"lost\"}", 400, "member_invalid",
      "outcome" },
    { "POST", "/api/workers/" SOME_ID "/finish", JSON,
      "{\"taskId\":\"" SOME_ID "\",\"fence\":1,\"outcome\":\"succeeded\"}", 409, "stale", "" },
    { "POST", "/api/workers/" SOME_ID "/calls", JSON,
      "{\"taskId\":\"" SOME_ID "\",\"fence\":1,\"calls\":[{}]}", 400, "member_invalid", "model" },
    { "POST", "/api/workers/" SOME_ID "/logs", JSON,
      "{\"taskId\":\"" SOME_ID "\",\"fence\":1,\"entries\":[{\"text\":1}]}", 400, "member_invalid",
      "text" },
    { "POST", "/api/workers/" SOME_ID "/leave", JSON, "", 404, "worker_not_found", "" },
    { "POST", "/api/workers/x/drain", JSON, "", 404, "worker_not_found", "UUID" },
    { "GET", "/readyz/colour", NULL, NULL, 404, "check_not_found", "verbose" },

    /* who asks */
    { "GET", "/api/tasks", "Host: evil.example\r\n", NULL, 403, "host_refused", "evil.example" },
    { "GET", "/api/tasks", "Host: localhost.evil.example\r\n", NULL, 403, "host_refused", "" },
    { EXECUTE, JSON "Origin: https://evil.example\r\n", "{\"input\":1}", 403, "origin_refused",
      "evil.example" },
    { EXECUTE, JSON "Origin: null\r\n", "{\"input\":1}", 403, "origin_refused", "null" },
};

static void check_bad(ApiFixture *f, size_t i)
{
    const BadRequest *b = &bad_requests[i];
    Str body = b->body ? str_of(b->body) : STR_NULL;
    Reply reply = call_with(f, b->method, b->path, b->fields, body);
    bool good = reply.status == b->status && str_eq(text(&reply, "code"), str_of(b->code)) &&
                str_find(text(&reply, "detail"), str_of(b->words)) >= 0 &&
                number(&reply, "status") == b->status && text(&reply, "title").len > 0 &&
                str_eq(text(&reply, "requestId"), field(&reply, "x-request-id")) &&
                str_eq(field(&reply, "content-type"), STR("application/problem+json"));
    if (!good)
        fail_msg("%zu: %s %s %s\n%.*s%.*s", i, b->method, b->path, b->body ? b->body : "",
                 STR_ARG(reply.head), STR_ARG(reply.body));
}

static void test_bad_requests_change_nothing(void **state)
{
    ApiFixture *f = *state;
    api_close(f);
    f->guard.https_only = f->guard.ports_only = true;
    f->guard.section = "webhooks";
    f->options.webhook_guard = &f->guard;
    api_open(f);
    deploy(f, "support");
    int64_t before = rows(f);
    for (size_t i = 0; i < ARRAY_N(bad_requests); i++) check_bad(f, i);
    assert_int_equal(rows(f), before);
}

static void test_large_bodies_are_refused(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    int64_t before = rows(f);
    char *big = arena_alloc(&f->arena, API_BODY_BYTES_MAX_DEFAULT + 100);
    memset(big, ' ', API_BODY_BYTES_MAX_DEFAULT + 100);
    Str body = { big, API_BODY_BYTES_MAX_DEFAULT + 100 };
    Reply reply = call_with(f, EXECUTE, JSON, body);
    EXPECT(reply, 413);
    EXPECT_TEXT(text(&reply, "code"), "body_too_large");
    assert_int_equal(rows(f), before);
    memcpy(big, "{\"input\":1}", 11); /* exactly as much as is allowed */
    body.len = API_BODY_BYTES_MAX_DEFAULT;
    reply = call_with(f, EXECUTE, JSON, body);
    EXPECT(reply, 202);
    char *large = format(f, "{\"input\":1,\"metadata\":{\"x\":\"%*s\"}}", 6000, "");
    reply = post(f, "/agent/execute", large);
    EXPECT(reply, 202);
    Str parts[] = { STR("{\"input\":1,\"metadata\":{\"x\":\""), { big, 17000 }, STR("\"}}") };
    memset(big, 'x', 17000);
    CLEANUP(buf_deinit) Buf joined;
    buf_init(&joined, 1 << 20);
    for (size_t i = 0; i < ARRAY_N(parts); i++) buf_add(&joined, parts[i]);
    reply = call_with(f, EXECUTE, JSON, buf_str(&joined));
    EXPECT(reply, 400);
    EXPECT_HAS(text(&reply, "detail"), "metadata");
}

/* --- routes ----------------------------------------------------------------------------------- */

static void test_methods(void **state)
{
    ApiFixture *f = *state;
    Reply reply = call_with(f, "OPTIONS", "/api/agents/x/versions", NULL, STR_NULL);
    EXPECT(reply, 204);
    EXPECT_TEXT(field(&reply, "allow"), "GET, HEAD, POST, OPTIONS");
    reply = call_with(f, "PUT", "/agent/execute", NULL, STR_NULL);
    EXPECT(reply, 405);
    EXPECT_TEXT(field(&reply, "allow"), "POST, OPTIONS");
    Reply whole = get(f, "/api/tasks");
    EXPECT(whole, 200);
    reply = call_with(f, "HEAD", "/api/tasks", NULL, STR_NULL);
    EXPECT(reply, 200);
    assert_int_equal(reply.body.len, 0);
    assert_true(str_eq(field(&reply, "content-length"), field(&whole, "content-length")));
}

/* Calls every route with nonsense in its path: none crashes, none is missing. */
static void test_every_route_answers(void **state)
{
    ApiFixture *f = *state;
    for (size_t i = 0; i < api_routes_n; i++) {
        CLEANUP(buf_deinit) Buf path;
        buf_init(&path, 1024);
        Str rest = str_of(api_routes[i].pattern), part;
        while (url_path_next(&rest, &part))
            buf_printf(&path, "/%.*s",
                       STR_ARG(str_starts_with(part, STR("{")) ? STR("x.y") : part));
        Reply reply = call_with(f, api_routes[i].method, path.ptr, NULL, STR_NULL);
        bool missing = str_eq(text(&reply, "code"), STR("route_not_found"));
        if (reply.status == 405 || missing || reply.status == 500)
            fail_msg("%s %s: %d", api_routes[i].method, path.ptr, reply.status);
    }
}

static void check_operation(const Json *document, const Route *route)
{
    char method[8] = "";
    for (size_t i = 0; route->method[i]; i++) method[i] = (char)(route->method[i] | 0x20);
    const Json *path = json_get(json_get(document, "paths"), route->pattern);
    const Json *operation = json_get(path, method);
    if (!operation) fail_msg("%s %s is not in the document", route->method, route->pattern);
    EXPECT_TEXT(json_str(json_get(operation, "operationId")), route->id);
    EXPECT_TEXT(json_str(json_at(json_get(operation, "tags"), 0)), route->tag);
    char status[8];
    snprintf(status, sizeof status, "%d", route->status);
    assert_non_null(json_get(json_get(operation, "responses"), status));
    assert_non_null(json_get(json_get(operation, "responses"), "default"));
    assert_true((json_get(operation, "requestBody") != NULL) ==
                (route->body || route->upload || route->json));
    Str rest = str_of(route->pattern), part;
    size_t params = 0;
    while (url_path_next(&rest, &part)) params += str_starts_with(part, STR("{"));
    assert_true(json_len(json_get(operation, "parameters")) >= params);
}

/* Whether every $ref in v leads to a schema of the document. */
static void check_refs(const Json *document, const Json *v)
{
    const Json *schemas = json_get(json_get(document, "components"), "schemas");
    Str prefix = STR("#/components/schemas/"), ref = json_str(json_get(v, "$ref"));
    if (ref.len > 0 &&
        (!str_starts_with(ref, prefix) || !json_get_str(schemas, str_skip(ref, prefix.len))))
        fail_msg("%.*s leads nowhere", STR_ARG(ref));
    for (JsonIter it = json_iter(v); json_next(&it);) check_refs(document, it.value);
}

static void test_openapi_is_complete(void **state)
{
    ApiFixture *f = *state;
    Reply reply = get(f, "/openapi.json");
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "openapi"), "3.1.0");
    size_t operations = 0;
    for (JsonIter it = json_iter(member(&reply, "paths")); json_next(&it);)
        operations += json_len(it.value);
    assert_int_equal(operations, api_routes_n);
    for (size_t i = 0; i < api_routes_n; i++) {
        check_operation(reply.json, &api_routes[i]);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(api_routes[i].id, api_routes[j].id);
    }
    check_refs(reply.json, reply.json);
}

/* --- submitting ------------------------------------------------------------------------------- */

static void test_execute(void **state)
{
    ApiFixture *f = *state;
    Str version = deploy(f, "support");
    Reply reply = post(f, "/agent/execute",
                       "{\"agent\":\"support\",\"input\":{\"q\":1.50},\"priority\":\"critical\","
                       "\"sessionId\":\"s\",\"userId\":null,\"metadata\":{\"k\":[1]}}");
    EXPECT(reply, 202);
    Str id = text(&reply, "taskId");
    EXPECT_TEXT(text(&reply, "status"), "queued");
    EXPECT_TEXT(text(&reply, "agent"), "support");
    EXPECT_TEXT(text(&reply, "priority"), "critical");
    assert_true(str_eq(text(&reply, "versionId"), version));
    assert_true(json_type(member(&reply, "webhookUrl")) == JSON_NULL);
    assert_int_equal(json_len(reply.json), 7);
    char *url = format(f, "/agent/tasks/%.*s", STR_ARG(id));
    EXPECT_TEXT(text(&reply, "statusUrl"), url);
    EXPECT_TEXT(field(&reply, "location"), url);

    Reply task = get(f, url);
    EXPECT(task, 200);
    assert_true(str_eq(text(&task, "taskId"), id));
    EXPECT_TEXT(text(&task, "status"), "queued");
    assert_int_equal(number(&task, "attempt"), 0);
    assert_true(json_type(member(&task, "startedAt")) == JSON_NULL);
    assert_true(json_type(member(&task, "quality")) == JSON_NULL);
    assert_null(member(&task, "result"));
    EXPECT_TEXT(text(&task, "costUsd"), "0.000000000");
    EXPECT_TEXT(text(&task, "sessionId"), "s");
    assert_null(member(&task, "userId"));
    assert_int_equal(json_len(json_get(member(&task, "metadata"), "k")), 1);
}

/* The input reaches the agent byte for byte, whichever way it was sent. */
static void test_what_the_input_is(void **state)
{
    static const struct {
        const char *path, *body, *input;
    } table[] = {
        { "/agent/execute", "{\"input\":{\"b\":1.50,\"a\":[ 1 ]}}", "{\"b\":1.5,\"a\":[1]}" },
        { "/agent/execute", "{\"input\":null}", "null" },
        { "/agent/execute", "{\"\\u0069nput\":7}", "7" },
        { "/agent/execute", "{\"question\":\"hi\",\"agent\":7}",
          "{\"question\":\"hi\",\"agent\":7}" },
        { "/agent/execute?priority=normal", "[1,2]", "[1,2]" },
        { "/agent/execute", " \"text\" ", "\"text\"" },
        { "/agent/execute", "12345678901234567890123", "12345678901234567890123" },
    };
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f);
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        Reply reply = post(f, table[i].path, table[i].body);
        EXPECT(reply, 202);
        const Json *task = worker_claim(f, worker);
        CLEANUP(buf_deinit) Buf input;
        buf_init(&input, 4096);
        JsonOut out = json_out(&input);
        json_out_value(&out, json_get(task, "input"));
        EXPECT_TEXT(buf_str(&input), table[i].input);
        EXPECT(worker_finish(f, worker, task, "succeeded", ""), 204);
    }
}

static void test_agent_may_be_left_out_for_one(void **state)
{
    ApiFixture *f = *state;
    Reply reply = post(f, "/agent/execute", "{\"input\":1}");
    EXPECT(reply, 404);
    EXPECT_TEXT(text(&reply, "code"), "agent_not_found");
    deploy(f, "one");
    EXPECT(post(f, "/agent/execute", "{\"input\":1}"), 202);
    deploy(f, "two");
    reply = post(f, "/agent/execute", "{\"input\":1}");
    EXPECT(reply, 400);
    EXPECT_TEXT(text(&reply, "code"), "agent_needed");
    reply = post(f, "/agent/execute", "{\"agent\":\"one\"}");
    EXPECT(reply, 400);
    EXPECT_HAS(text(&reply, "detail"), "?agent=");
    reply = post(f, "/agent/execute?agent=two", "{\"agent\":\"one\"}");
    EXPECT(reply, 202);
    EXPECT_TEXT(text(&reply, "agent"), "two");
}

static Reply execute_keyed(ApiFixture *f, const char *key, const char *body)
{
    return call_with(f, EXECUTE, format(f, JSON "Idempotency-Key: %s\r\n", key), str_of(body));
}

static void test_idempotency(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *body = "{\"input\":1}";
    Reply first = execute_keyed(f, "abc", body);
    EXPECT(first, 202);
    assert_int_equal(field(&first, "idempotent-replayed").len, 0);
    const char *worker = worker_register(f);
    work_once(f, worker, "succeeded", ",\"result\":1");
    int64_t before = rows(f);
    Reply again = execute_keyed(f, "\"abc\"", body); /* quoted: the same key */
    EXPECT(again, 202);
    assert_true(str_eq(again.body, first.body));
    EXPECT_TEXT(field(&again, "idempotent-replayed"), "true");
    Reply other = execute_keyed(f, "abc", "{\"input\":2}");
    EXPECT(other, 422);
    EXPECT_TEXT(text(&other, "code"), "key_reused");
    assert_int_equal(rows(f), before);
    EXPECT(execute_keyed(f, "abd", body), 202);
    assert_true(rows(f) > before);
}

/* The same is what says the same, not what is the same byte for byte; numbers are never taken for
 * others. */
static void test_idempotency_of_bodies(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    EXPECT(execute_keyed(f, "k1", "{\"input\":{\"a\":1,\"b\":2},\"userId\":\"u\"}"), 202);
    EXPECT(execute_keyed(f, "k1", "{\"userId\": \"u\", \"input\": {\"b\": 2, \"a\": 1}}"), 202);
    EXPECT(execute_keyed(f, "k1", "{\"userId\":\"u\",\"input\":{\"b\":1,\"a\":2}}"), 422);
    EXPECT(execute_keyed(f, "k2", "{\"input\":[1,2]}"), 202);
    EXPECT(execute_keyed(f, "k2", "{\"input\":[2,1]}"), 422);
    EXPECT(execute_keyed(f, "k3", "{\"input\":9007199254740993}"), 202);
    EXPECT(execute_keyed(f, "k3", "{\"input\":9007199254740993}"), 202);
    EXPECT(execute_keyed(f, "k3", "{\"input\":9007199254740992}"), 422);
}

static void test_idempotency_key_forms(void **state)
{
    static const struct {
        const char *header, *key; /* NULL: refused */
    } table[] = {
        { "abc", "abc" },         { "\"abc\"", "abc" },   { " abc ", "abc" },      { "a b", "a b" },
        { "\"a\\\"b\"", "a\"b" }, { "\"a\\\\\"", "a\\" }, { "\"\"", NULL },        { "\"a", NULL },
        { "\"a\"b", NULL },       { "\"a\\", NULL },      { "caf\xc3\xa9", NULL }, { "a\tb", NULL },
    };
    ApiFixture *f = *state;
    Str key;
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        int r = idempotency_key_read(&f->arena, str_of(table[i].header), &key);
        if (!table[i].key) assert_int_equal(r, -EINVAL);
        else EXPECT_TEXT(key, table[i].key);
    }
    char longest[IDEMPOTENCY_KEY_BYTES_MAX + 1];
    memset(longest, 'k', sizeof longest);
    Str bytes = { longest, sizeof longest - 1 };
    assert_int_equal(idempotency_key_read(&f->arena, bytes, &key), 0);
    bytes.len++;
    assert_int_equal(idempotency_key_read(&f->arena, bytes, &key), -EINVAL);
    assert_int_equal(idempotency_key_read(&f->arena, STR(" "), &key), 0);
    assert_int_equal(key.len, 0);
}

static void test_full_lane(void **state)
{
    ApiFixture *f = *state;
    api_close(f);
    f->queue_options.queued_max[LANE_LOW] = 2;
    api_open(f);
    deploy(f, "support");
    for (int i = 0; i < 2; i++) submit(f, "{\"input\":1,\"priority\":\"low\"}");
    Reply reply = post(f, "/agent/execute", "{\"input\":1,\"priority\":\"low\"}");
    EXPECT(reply, 429);
    EXPECT_TEXT(text(&reply, "code"), "queue_full");
    assert_true(field(&reply, "retry-after").len > 0);
    submit(f, "{\"input\":1}"); /* other lanes go on */
}

/* Nothing is acknowledged that could not be kept, and what is kept can still be read. */
static void test_full_disk(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *first = submit(f, "{\"input\":1}");
    api_close(f);
    f->pages_max = 150;
    api_open(f);
    char *body = format(f, "{\"input\":\"%*s\"}", 8000, "");
    Reply reply;
    int accepted = 1;
    while ((reply = post(f, "/agent/execute", body)).status == 202) assert_true(++accepted < 1000);
    EXPECT(reply, 507);
    EXPECT_TEXT(text(&reply, "code"), "disk_full");
    EXPECT(get(f, format(f, "/agent/tasks/%s", first)), 200);
    reply = get(f, "/api/tasks?limit=500");
    assert_int_equal(json_len(member(&reply, "tasks")), accepted);
    EXPECT(get(f, "/readyz"), 200);
}

static void test_run_at_and_trace(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f);
    char at[TIME_TEXT_MAX];
    time_format(clock_real_ms() + 3600000, at);
    const char *later = submit(f, format(f, "{\"input\":\"later\",\"runAt\":\"%s\"}", at));
    Reply task = get(f, format(f, "/agent/tasks/%s", later));
    EXPECT_TEXT(text(&task, "readyAt"), at);

    const char *trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Reply reply = call_with(f, EXECUTE, format(f, JSON "traceparent: %s\r\n", trace),
                            STR("{\"input\":\"now\"}"));
    EXPECT(reply, 202);
    const Json *claimed = worker_claim(f, worker); /* not the one for later */
    EXPECT_TEXT(json_str(json_get(claimed, "input")), "now");
    EXPECT_TEXT(json_str(json_get(claimed, "traceparent")), trace);
    EXPECT(worker_finish(f, worker, claimed, "succeeded", ""), 204);
    submit(f, "{\"input\":1}");
    claimed = worker_claim(f, worker); /* one was made */
    assert_int_equal(json_str(json_get(claimed, "traceparent")).len, 55);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_list_pages(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "one");
    deploy(f, "two");
    const char *ids[7];
    for (int i = 0; i < 7; i++)
        ids[i] = submit(f, i % 2 ? "{\"agent\":\"one\",\"input\":1}"
                                 : "{\"agent\":\"two\",\"input\":1,\"priority\":\"low\"}");
    int seen = 0;
    Str cursor = STR("");
    do {
        Reply page = get(f, format(f, "/api/tasks?limit=3%s%.*s", cursor.len ? "&cursor=" : "",
                                   STR_ARG(cursor)));
        EXPECT(page, 200);
        for (JsonIter it = json_iter(member(&page, "tasks")); json_next(&it);)
            EXPECT_TEXT(json_str(json_get(it.value, "taskId")), ids[6 - seen++]);
        cursor = text(&page, "nextCursor");
    } while (cursor.len > 0);
    assert_int_equal(seen, 7);

    Reply page = get(f, "/api/tasks?agent=one");
    assert_int_equal(json_len(member(&page, "tasks")), 3);
    page = get(f, "/api/tasks?priority=low");
    assert_int_equal(json_len(member(&page, "tasks")), 4);
    page = get(f, "/api/tasks?status=running");
    assert_int_equal(json_len(member(&page, "tasks")), 0);
}

static void test_wait_for_the_end(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    int64_t began_ms = clock_mono_ms();
    Reply reply = get(f, format(f, "/agent/tasks/%s?wait=300ms", id));
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "status"), "queued");
    assert_true(clock_mono_ms() - began_ms >= 300);

    /* one client waits while a worker finishes */
    int fd = client_open(f);
    client_request(f, fd, "GET", format(f, "/agent/tasks/%s?wait=1h", id), NULL, STR_NULL);
    usleep(50000);
    began_ms = clock_mono_ms();
    work_once(f, worker, "succeeded", ",\"result\":{\"ok\":true}");
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, 1 << 20);
    while (client_more(fd, &bytes)) {
    }
    close(fd);
    reply = reply_parse(f, buf_str(&bytes));
    EXPECT_TEXT(text(&reply, "status"), "succeeded");
    assert_true(json_bool(json_get(member(&reply, "result"), "ok"), false));
    assert_true(clock_mono_ms() - began_ms < 20000);
}

static void test_draining_ends_waits(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *id = submit(f, "{\"input\":1}");
    Reply reply = get(f, "/readyz");
    EXPECT(reply, 200);
    int fd = client_open(f);
    client_request(f, fd, "GET", format(f, "/agent/tasks/%s?wait=60s", id), NULL, STR_NULL);
    usleep(50000);
    api_set_draining(f->api, true);
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, 1 << 20);
    while (client_more(fd, &bytes)) {
    }
    close(fd);
    reply = reply_parse(f, buf_str(&bytes));
    EXPECT(reply, 200);
    reply = get(f, "/readyz?verbose");
    EXPECT(reply, 503);
    EXPECT_HAS(reply.body, "[-]serving: draining");
    EXPECT_HAS(reply.body, "[+]store ok");
    EXPECT(get(f, "/readyz/store"), 200);
    EXPECT(get(f, "/readyz/serving"), 503);
    EXPECT(get(f, "/healthz"), 503);
    EXPECT(get(f, "/livez"), 200);
    submit(f, "{\"input\":1}"); /* what is durable is safe, draining or not */
    api_set_draining(f->api, false);
    EXPECT(get(f, "/readyz"), 200);
}

/* --- steering --------------------------------------------------------------------------------- */

static void test_cancel_and_retry(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    char *cancel = format(f, "/api/tasks/%s/cancel", id),
         *retry = format(f, "/api/tasks/%s/retry", id);
    Reply reply = post(f, retry, NULL);
    EXPECT(reply, 409);
    EXPECT_TEXT(text(&reply, "code"), "task_state");
    reply = post(f, cancel, NULL);
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "status"), "canceled");
    reply = post(f, cancel, "{}");
    EXPECT(reply, 409);
    reply = post(f, retry, NULL);
    EXPECT(reply, 202);
    EXPECT_TEXT(text(&reply, "status"), "queued");

    const Json *task = worker_claim(f, worker);
    reply = post(f, cancel, NULL);
    EXPECT(reply, 202);
    EXPECT_TEXT(text(&reply, "status"), "running");
    reply = get(f, format(f, "/agent/tasks/%s", id));
    assert_true(json_bool(member(&reply, "cancelRequested"), false));
    reply = post(f, format(f, "/api/workers/%s/heartbeat", worker),
                 format(f, "{\"tasks\":[{\"taskId\":\"%s\",\"fence\":%" PRId64 "}]}", id,
                        json_i64_or(json_get(task, "fence"), 0)));
    EXPECT(reply, 200);
    EXPECT_TEXT(json_str(json_at(member(&reply, "cancel"), 0)), id);
    EXPECT(worker_finish(f, worker, task, "canceled", ""), 204);
    reply = get(f, format(f, "/agent/tasks/%s", id));
    EXPECT_TEXT(text(&reply, "status"), "canceled");
}

static void test_score(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    work_once(f, worker, "succeeded", ",\"result\":1");
    char *path = format(f, "/api/tasks/%s/score", id);
    Reply reply = post(f, path, "{\"value\":0.25,\"name\":\"people\",\"comment\":\"meh\"}");
    EXPECT(reply, 200);
    EXPECT(post(f, path, "{\"value\":1}"), 200);
    EXPECT(post(f, path, "{\"value\":1}"), 200); /* told twice: one line in the log */
    reply = get(f, format(f, "/agent/tasks/%s", id));
    assert_true(json_f64_or(member(&reply, "quality"), -1) == 0.625);
    reply = get(f, format(f, "/api/tasks/%s/logs?format=text", id));
    EXPECT_TEXT(reply.body, "scored people=0.25: meh\nscored quality=1\n");
}

/* --- history ---------------------------------------------------------------------------------- */

static void log_lines(ApiFixture *f, const char *worker, const Json *task, const char *entries)
{
    Reply reply = post(f, format(f, "/api/workers/%s/logs", worker),
                       format(f, "{\"taskId\":\"%.*s\",\"fence\":%" PRId64 ",\"entries\":[%s]}",
                              STR_ARG(json_str(json_get(task, "taskId"))),
                              json_i64_or(json_get(task, "fence"), 0), entries));
    EXPECT(reply, 204);
}

static void test_logs_and_timeline(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    const Json *task = worker_claim(f, worker);
    log_lines(f, worker, task,
              "{\"seq\":1,\"at\":\"2030-01-01T00:00:00Z\",\"stream\":\"stderr\",\"text\":\"one\"},"
              "{\"seq\":2,\"at\":\"2030-01-01T00:00:01Z\",\"stream\":\"stderr\",\"text\":\"two\"}");
    Reply reply = post(
        f, format(f, "/api/workers/%s/calls", worker),
        format(
            f,
            "{\"taskId\":\"%s\",\"fence\":%" PRId64 ",\"calls\":[{\"attempt\":1,"
            "\"provider\":\"sim\",\"model\":\"sim/echo\",\"protocol\":\"openai\","
            "\"outcome\":\"ok\",\"status\":200,\"inputTokens\":10,\"outputTokens\":5,"
            "\"costNusd\":4215000,\"durationUs\":2000,\"startedAt\":\"2030-01-01T00:00:00.5Z\"}]}",
            id, json_i64_or(json_get(task, "fence"), 0)));
    EXPECT(reply, 204);
    EXPECT(worker_finish(f, worker, task, "failed_final",
                         ",\"error\":{\"code\":\"exit_1\",\"detail\":\"it broke\"}"),
           204);

    reply = get(f, format(f, "/agent/tasks/%s", id));
    EXPECT_TEXT(text(&reply, "status"), "failed");
    EXPECT_TEXT(json_str(json_get(member(&reply, "error"), "code")), "exit_1");
    EXPECT_TEXT(text(&reply, "costUsd"), "0.004215000");
    assert_int_equal(number(&reply, "costNusd"), 4215000);
    assert_int_equal(json_i64_or(json_get(member(&reply, "usage"), "inputTokens"), 0), 10);
    assert_int_equal(json_i64_or(json_get(member(&reply, "usage"), "llmCalls"), 0), 1);

    reply = get(f, format(f, "/api/tasks/%s/logs", id));
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "entries")), 2);
    EXPECT_TEXT(json_str(json_get(json_at(member(&reply, "entries"), 1), "text")), "two");
    assert_true(json_type(member(&reply, "nextAfter")) == JSON_NULL);
    reply = get(f, format(f, "/api/tasks/%s/logs?after=1.1", id));
    assert_int_equal(json_len(member(&reply, "entries")), 1);
    reply = call_with(f, "GET", format(f, "/api/tasks/%s/logs", id), "Accept: text/plain\r\n",
                      STR_NULL);
    EXPECT_TEXT(reply.body, "one\ntwo\n");

    reply = get(f, format(f, "/api/tasks/%s/timeline", id));
    EXPECT(reply, 200);
    static const char *const kinds[] = {
        "submitted", "attempt_started", "attempt_finished", "finished", "log", "llm_call", "log"
    };
    size_t n = 0;
    for (JsonIter it = json_iter(member(&reply, "events")); json_next(&it); n++)
        EXPECT_TEXT(json_str(json_get(it.value, "type")), kinds[MIN(n, ARRAY_N(kinds) - 1)]);
    assert_int_equal(n, ARRAY_N(kinds));
}

static void test_events(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f), *id = submit(f, "{\"input\":1}");
    char *path = format(f, "/api/tasks/%s/events", id);
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, 1 << 20);
    int fd = client_open(f);
    client_request(f, fd, "GET", path, NULL, STR_NULL);
    while (str_find(buf_str(&bytes), STR("id: 0-queued")) < 0) assert_true(client_more(fd, &bytes));
    const Json *task = worker_claim(f, worker);
    while (str_find(buf_str(&bytes), STR("id: 1-running")) < 0)
        assert_true(client_more(fd, &bytes));
    /* a call that has begun is told once, without an id */
    const char *held = format(f, "\"taskId\":\"%s\",\"fence\":%" PRId64, id,
                              json_i64_or(json_get(task, "fence"), 0));
    const char *beat = format(f,
                              "{\"tasks\":[{%s}],\"holds\":[{%s,\"callId\":\"c-1\",\"attempt\":1,"
                              "\"atMs\":1700000000000,\"provider\":\"p\",\"model\":\"m\","
                              "\"charge\":{\"nusd\":1,\"tokens\":1}}]}",
                              held, held);
    for (int i = 0; i < 2; i++)
        EXPECT(post(f, format(f, "/api/workers/%s/heartbeat", worker), beat), 200);
    while (str_find(buf_str(&bytes), STR("llm_call_started")) < 0)
        assert_true(client_more(fd, &bytes));
    EXPECT(worker_finish(f, worker, task, "succeeded", ",\"result\":1"), 204);
    while (client_more(fd, &bytes)) {
    }
    close(fd);
    EXPECT_HAS(buf_str(&bytes), "event: status");
    Str begun = str_skip(buf_str(&bytes),
                         (size_t)str_find(buf_str(&bytes), STR("event: llm_call_st")));
    assert_true(str_starts_with(
        begun, STR("event: llm_call_started\ndata: {\"at\":\"2023-11-14T22:13:20.000Z\","
                   "\"type\":\"llm_call_started\",\"attempt\":1,\"callId\":\"c-1\","
                   "\"provider\":\"p\",\"model\":\"m\"}\n\n")));
    assert_int_equal(str_find(str_skip(begun, 10), STR("event: llm_call_started")), -1);
    EXPECT_HAS(buf_str(&bytes), "id: 1-succeeded");
    EXPECT_HAS(buf_str(&bytes), "\r\n0\r\n\r\n"); /* ended, not cut */
    Str all = buf_str(&bytes);
    Reply head = reply_parse(f, all);
    EXPECT_TEXT(field(&head, "content-type"), "text/event-stream");
    EXPECT_TEXT(field(&head, "x-accel-buffering"), "no");

    /* who has seen the end gets no event again, and by 204 is told not to come back (HTML,
     * 9.2.3) */
    Str ids[8];
    size_t n = 0;
    for (ptrdiff_t at; n < 8 && (at = str_find(all, STR("\nid: "))) >= 0;) {
        all = str_skip(all, (size_t)at + 5);
        str_split(all, '\n', &ids[n++], NULL);
    }
    assert_int_equal(n, 5); /* queued, attempt started, running, attempt finished, succeeded */
    EXPECT_TEXT(ids[0], "0-queued");
    EXPECT_TEXT(ids[1], "0-queued.b1");
    EXPECT_TEXT(ids[2], "1-running.b1");
    EXPECT_TEXT(ids[3], "1-running.b1e1");
    EXPECT_TEXT(ids[4], "1-succeeded.b1e1");
    static const size_t missed[] = { 3, 2, 2, 1 }; /* states in between are not told */
    for (size_t i = 0; i < ARRAY_N(missed); i++) {
        size_t told = 0;
        char *line = format(f, "Last-Event-ID: %.*s\r\n", STR_ARG(ids[i]));
        Str body = call_with(f, "GET", path, line, STR_NULL).body;
        EXPECT_HAS(body, "event: status\nid: 1-succeeded.b1e1\n");
        for (ptrdiff_t at; (at = str_find(body, STR("event: "))) >= 0; told++)
            body = str_skip(body, (size_t)at + 7);
        assert_int_equal(told, missed[i]);
    }
    Reply end = call_with(f, "GET", path, "Last-Event-ID: 1-succeeded.b1e1\r\n", STR_NULL);
    EXPECT(end, 204);
    assert_int_equal(end.body.len, 0);
    Reply reply = call_with(f, "GET", path, "Last-Event-ID: what?\r\n", STR_NULL);
    EXPECT_HAS(reply.body, "event: attempt_started\nid: .b1\n");
    EXPECT_HAS(reply.body, "event: attempt_finished\nid: .b1e1\n");
    EXPECT_HAS(reply.body, "event: status\nid: 1-succeeded.b1e1\n");
}

/* --- who may ask ------------------------------------------------------------------------------ */

static void test_hosts_in_dev_mode(void **state)
{
    ApiFixture *f = *state;
    static const struct {
        const char *host;
        int status;
    } table[] = {
        { "localhost", 200 },    { "LOCALHOST:1", 200 }, { "app.localhost", 200 },
        { "127.0.0.1:7", 200 },  { "127.9.9.9", 200 },   { "[::1]:80", 200 },
        { "0.0.0.0", 403 },      { "10.0.0.1", 403 },    { "[::2]", 403 },
        { "notlocalhost", 403 }, { "localhost.", 403 },  { "127.0.0.1.evil.example", 403 },
    };
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        char *line = format(f, "Host: %s\r\n", table[i].host);
        Reply reply = call_with(f, "GET", "/api/tasks", line, STR_NULL);
        if (reply.status != table[i].status) fail_msg("%s: %d", table[i].host, reply.status);
        EXPECT(call_with(f, "GET", "/livez", line, STR_NULL), 200); /* probes come by address */
    }
    char *own = format(f, JSON "Origin: http://localhost:%u\r\n", f->port);
    Reply reply = call_with(f, EXECUTE, own, STR("{\"input\":1}"));
    EXPECT(reply, 404); /* not refused: there is no agent yet */
}

static void test_keys(void **state)
{
    ApiFixture *f = *state;
    uint8_t keys[2][SHA256_BYTES];
    sha256(STR("first-key"), keys[0]);
    sha256(STR("second-key"), keys[1]);
    api_close(f);
    f->options.keys = (const uint8_t(*)[SHA256_BYTES])keys;
    f->options.keys_n = 2;
    api_open(f);
    memset(keys, 0, sizeof keys); /* they were copied */
    static const struct {
        const char *fields;
        int status;
    } table[] = {
        { NULL, 401 },
        { "Authorization: Bearer wrong\r\n", 401 },
        { "Authorization: Bearer \r\n", 401 },
        { "Authorization: Basic first-key\r\n", 401 },
        { "Authorization: Bearer first-key\r\n", 200 },
        { "Authorization: bearer second-key\r\n", 200 },
        { "X-API-Key: second-key\r\n", 200 },
        { "X-API-Key: first-key2\r\n", 401 },
        { "X-API-Key: second-key\r\nHost: any.example\r\nOrigin: https://other.example\r\n", 200 },
    };
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        Reply reply = call_with(f, "GET", "/api/tasks", table[i].fields, STR_NULL);
        if (reply.status != table[i].status) fail_msg("row %zu: %d", i, reply.status);
        if (reply.status != 401) continue;
        EXPECT_TEXT(text(&reply, "code"), "not_authorised");
        EXPECT_HAS(field(&reply, "www-authenticate"), "Bearer");
    }
    /* every route is behind the keys but those that say so */
    for (size_t i = 0; i < api_routes_n; i++) {
        if (strchr(api_routes[i].pattern, '{')) continue;
        Reply reply = call_with(f, api_routes[i].method, api_routes[i].pattern, NULL, STR_NULL);
        bool refused = reply.status == 401;
        bool open = api_routes[i].open && !api_routes[i].error; /* those look at keys themselves */
        if (refused == open) fail_msg("%s: %d", api_routes[i].pattern, reply.status);
    }
    EXPECT(get(f, "/nowhere"), 401);
    f->options.keys_n = 0;
}

/* Model calls have keys of their own, and errors in the shape of the API called. */
static void test_keys_of_callers(void **state)
{
    ApiFixture *f = *state;
    uint8_t operators[1][SHA256_BYTES];
    FrontKey tenant = { .tenant = STR("acme") };
    sha256(STR("an-operators-key"), operators[0]);
    sha256(STR("a-tenants-key"), tenant.digest);
    api_close(f);
    f->options.keys = (const uint8_t(*)[SHA256_BYTES])operators;
    f->options.keys_n = 1;
    f->options.front = front_new(f->loop, &tenant, 1, 0);
    api_open(f);
    static const struct {
        const char *fields;
        int status;
        const char *code;
    } table[] = {
        { NULL, 401, "invalid_api_key" },
        { "Authorization: Bearer a-tenants-key2\r\n", 401, "invalid_api_key" },
        { "Authorization: Bearer an-operators-key\r\n", 403, "key_not_allowed" },
        { "X-API-Key: a-tenants-key\r\nx-gantry-user: \xff\r\n", 400, "invalid_request" },
    };
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        Reply reply = call_with(f, "POST", "/v1/chat/completions", table[i].fields, STR("{}"));
        if (reply.status != table[i].status) fail_msg("row %zu: %d", i, reply.status);
        EXPECT_TEXT(json_str(json_get(member(&reply, "error"), "code")), table[i].code);
    }
    Reply reply = call_with(f, "GET", "/api/tasks", "X-API-Key: a-tenants-key\r\n", STR_NULL);
    EXPECT(reply, 403);
    EXPECT_TEXT(text(&reply, "code"), "key_not_allowed");
    reply = call_with(f, "GET", "/v1/chat/completions", "X-API-Key: a-tenants-key\r\n", STR_NULL);
    EXPECT(reply, 405);
    EXPECT_TEXT(field(&reply, "allow"), "POST");
    EXPECT(call_with(f, "POST", "/v1/files", "X-API-Key: a-tenants-key\r\n", STR_NULL), 404);
    FrontStats stats;
    front_stats(f->options.front, &stats);
    assert_int_equal(stats.refused, 6);
    api_close(f);
    front_free(f->options.front);
    f->options.front = NULL;
    f->options.keys_n = 0;
    api_open(f);
    EXPECT(call_with(f, "POST", "/v1/chat/completions", NULL, STR("{}")), 401); /* none here */
}

static void test_no_keys_outside_dev_mode(void **state)
{
    ApiFixture *f = *state;
    ApiOptions options = { .queue = f->queue, .metrics = f->metrics };
    ApiServer *api;
    assert_int_equal(api_new(&options, &api), -EINVAL);
    options.dev = true;
    options.public_url = STR("not a url");
    assert_int_equal(api_new(&options, &api), -EINVAL);
    EXPECT_HAS(str_of(diag_text()), "public URL");
}

/* --- state ------------------------------------------------------------------------------------ */

static void test_queue_workers_and_root(void **state)
{
    ApiFixture *f = *state;
    deploy(f, "support");
    const char *worker = worker_register(f);
    submit(f, "{\"input\":1}");
    submit(f, "{\"input\":1}");
    worker_claim(f, worker);
    Reply reply = get(f, "/api/queue");
    EXPECT(reply, 200);
    const Json *normal = json_at(member(&reply, "lanes"), LANE_NORMAL);
    EXPECT_TEXT(json_str(json_get(normal, "lane")), "normal");
    assert_int_equal(json_i64_or(json_get(normal, "queued"), -1), 1);
    assert_int_equal(json_i64_or(json_get(normal, "running"), -1), 1);
    assert_int_equal(json_i64_or(json_get(normal, "capacity"), -1), 8);
    assert_true(json_f64_or(json_get(normal, "workerUtilization"), 0) == 1.0 / 8);
    reply = get(f, "/api/workers");
    const Json *row = json_at(member(&reply, "workers"), 0);
    EXPECT_TEXT(json_str(json_get(row, "workerId")), worker);
    EXPECT_TEXT(json_str(json_get(row, "kind")), "remote");
    EXPECT_TEXT(json_str(json_get(row, "state")), "active");
    assert_int_equal(json_i64_or(json_get(row, "running"), -1), 1);
    reply = get(f, "/");
    EXPECT(reply, 200);
    EXPECT_HAS(reply.body, "openapi.json");
    assert_true(str_find(reply.body, STR(":7070/")) < 0); /* the port that was asked is shown */
    EXPECT_HAS(field(&reply, "content-security-policy"), "default-src 'none'");
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_bad_requests_change_nothing),
        CASE(test_large_bodies_are_refused),
        CASE(test_methods),
        CASE(test_every_route_answers),
        CASE(test_openapi_is_complete),
        CASE(test_execute),
        CASE(test_what_the_input_is),
        CASE(test_agent_may_be_left_out_for_one),
        CASE(test_idempotency),
        CASE(test_idempotency_of_bodies),
        CASE(test_idempotency_key_forms),
        CASE(test_full_lane),
        CASE(test_full_disk),
        CASE(test_run_at_and_trace),
        CASE(test_list_pages),
        CASE(test_wait_for_the_end),
        CASE(test_draining_ends_waits),
        CASE(test_cancel_and_retry),
        CASE(test_score),
        CASE(test_logs_and_timeline),
        CASE(test_events),
        CASE(test_hosts_in_dev_mode),
        CASE(test_keys),
        CASE(test_keys_of_callers),
        CASE(test_no_keys_outside_dev_mode),
        CASE(test_queue_workers_and_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
