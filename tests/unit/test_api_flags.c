/* Flags through the API: set, read, evaluated, obeyed at submission, told to workers. */
#include "tests/unit/api_fixture.h"

#include "logic/flag.h"

static int setup(void **state)
{
    ApiFixture *f = xcalloc(1, sizeof *f);
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

static Reply put(ApiFixture *f, const char *key, const char *body)
{
    return call_with(f, "PUT", format(f, "/api/flags/%s", key),
                     "Content-Type: application/json\r\n", str_of(body));
}

static Reply delete (ApiFixture *f, const char *key)
{
    return call_with(f, "DELETE", format(f, "/api/flags/%s", key), "", STR(""));
}

static int64_t beat_revision(ApiFixture *f, const char *worker)
{
    Reply reply = post(f, format(f, "/api/workers/%s/heartbeat", worker), "{\"tasks\":[]}");
    EXPECT(reply, 200);
    return number(&reply, "flagsRevision");
}

static void test_life(void **state)
{
    ApiFixture *f = *state;
    Reply reply = get(f, "/api/flags");
    EXPECT(reply, 200);
    assert_int_equal(number(&reply, "revision"), 0);
    EXPECT(get(f, "/api/flags/a"), 404);
    reply = put(f, "a", "{\"value\":\"x\",\"rules\":[{\"users\":[\"u\"],\"value\":\"y\"}]}");
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "key"), "a");
    assert_int_equal(number(&reply, "revision"), 1);
    reply = get(f, "/api/flags/a");
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "value"), "x");
    assert_int_equal(json_len(member(&reply, "rules")), 1);
    /* what was read can be sent back */
    EXPECT(put(f, "a", format(f, "%.*s", STR_ARG(reply.body))), 200);
    EXPECT(put(f, "model:sim%2F%2A", "{\"value\":false}"), 200);
    reply = get(f, "/api/flags");
    assert_int_equal(number(&reply, "revision"), 3);
    assert_int_equal(json_len(member(&reply, "flags")), 2);
    EXPECT_TEXT(json_str(json_get(json_at(member(&reply, "flags"), 1), "key")), "model:sim/*");
    EXPECT(delete (f, "a"), 204);
    EXPECT(delete (f, "a"), 404);
    reply = get(f, "/api/flags");
    assert_int_equal(number(&reply, "revision"), 4);
}

static void test_refused(void **state)
{
    ApiFixture *f = *state;
    int64_t before = rows(f);
    Reply reply = put(f, "a", "{\"value\":{}}");
    EXPECT(reply, 400);
    EXPECT_TEXT(text(&reply, "code"), "member_invalid");
    reply = put(f, "a", "{\"value\":1,\"rules\":[{\"users\":[],\"value\":2}]}");
    EXPECT(reply, 400);
    EXPECT_TEXT(text(&reply, "code"), "flag_invalid");
    EXPECT_HAS(text(&reply, "detail"), "rules[0].users");
    EXPECT(put(f, "tool:x", "{\"value\":1}"), 400);
    EXPECT(put(f, "a%20b", "{\"value\":1}"), 400);
    EXPECT(put(f, "a", "{}"), 400);
    assert_int_equal(rows(f), before);
}

static void test_full(void **state)
{
    ApiFixture *f = *state;
    for (int i = 0; i < FLAGS_MAX; i++) EXPECT(put(f, format(f, "k%d", i), "{\"value\":1}"), 200);
    Reply reply = put(f, "one-more", "{\"value\":1}");
    EXPECT(reply, 409);
    EXPECT_TEXT(text(&reply, "code"), "flags_full");
    EXPECT(put(f, "k7", "{\"value\":2}"), 200); /* those there are may change */
}

/* A rule for n users with long names. */
static const char *large(ApiFixture *f, int n)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 20);
    buf_printf(&text, "{\"value\":1,\"rules\":[{\"value\":2,\"users\":[");
    for (int i = 0; i < n; i++) buf_printf(&text, "%s\"%0200d\"", i ? "," : "", i);
    buf_printf(&text, "]}]}");
    return arena_cstr(&f->arena, buf_str(&text));
}

static void test_large(void **state)
{
    ApiFixture *f = *state;
    EXPECT(put(f, "a", large(f, FLAG_TEXT_BYTES_MAX / 203 + 1)), 413);
    const char *fits = large(f, FLAG_TEXT_BYTES_MAX / 203 - 1);
    int n = 0;
    while (n < 100 && put(f, format(f, "k%d", n), fits).status == 200) n++;
    size_t each = strlen(fits);
    assert_in_range((size_t)n, FLAGS_BYTES_MAX / (each + 40), FLAGS_BYTES_MAX / each);
    EXPECT(put(f, "one-more", fits), 409);
    EXPECT(put(f, "small", "{\"value\":1}"), 200);
}

static void test_tasks_switched_off(void **state)
{
    ApiFixture *f = *state;
    EXPECT(put(f, "tasks", "{\"value\":true,\"rules\":[{\"tenants\":[\"acme\"],\"value\":false}]}"),
           200);
    submit(f, "{\"input\":1}");
    int64_t before = rows(f);
    Reply reply = post(f, "/agent/execute", "{\"input\":1,\"tenantId\":\"acme\"}");
    EXPECT(reply, 403);
    EXPECT_TEXT(text(&reply, "code"), "switched_off");
    assert_int_equal(rows(f), before);
    EXPECT(delete (f, "tasks"), 204);
    submit(f, "{\"input\":1,\"tenantId\":\"acme\"}");
}

static void test_version_switched_off(void **state)
{
    ApiFixture *f = *state;
    Reply reply = get(f, "/api/agents/support/routing");
    Str version = text(&reply, "versionId");
    EXPECT(put(f, "tasks",
               format(f, "{\"value\":true,\"rules\":[{\"versions\":[\"%.12s\"],\"value\":false}]}",
                      version.ptr)),
           200);
    EXPECT(post(f, "/agent/execute", "{\"input\":1}"), 403);
}

static void test_workers_are_told(void **state)
{
    ApiFixture *f = *state;
    const char *worker = worker_register(f);
    assert_int_equal(beat_revision(f, worker), 0);
    EXPECT(put(f, "a", "{\"value\":1}"), 200);
    assert_int_equal(beat_revision(f, worker), 1);
    EXPECT(delete (f, "a"), 204);
    assert_int_equal(beat_revision(f, worker), 2);
}

static void test_survives_a_restart(void **state)
{
    ApiFixture *f = *state;
    EXPECT(put(f, "a", "{\"value\":1}"), 200);
    EXPECT(delete (f, "a"), 204);
    EXPECT(put(f, "b", "{\"value\":1}"), 200);
    api_close(f);
    api_open(f);
    Reply reply = get(f, "/api/flags");
    assert_int_equal(number(&reply, "revision"), 3);
    assert_int_equal(json_len(member(&reply, "flags")), 1);
}

static void test_ofrep(void **state)
{
    ApiFixture *f = *state;
    EXPECT(put(f, "a", "{\"value\":\"x\",\"rules\":[{\"users\":[\"u\"],\"value\":\"y\"}]}"), 200);
    EXPECT(put(f, "tool:t", "{\"value\":false}"), 200);
    Reply reply = post(f, "/ofrep/v1/evaluate/flags/a", "{\"context\":{\"targetingKey\":\"u\"}}");
    EXPECT(reply, 200);
    EXPECT_TEXT(text(&reply, "value"), "y");
    EXPECT_TEXT(text(&reply, "reason"), "TARGETING_MATCH");
    EXPECT_TEXT(text(&reply, "variant"), "rule-0");
    reply = post(f, "/ofrep/v1/evaluate/flags/a", "{\"context\":{\"targetingKey\":\"z\"}}");
    EXPECT_TEXT(text(&reply, "value"), "x");
    EXPECT_TEXT(text(&reply, "reason"), "STATIC");
    reply = post(f, "/ofrep/v1/evaluate/flags/none", "{\"context\":{}}");
    EXPECT(reply, 404);
    EXPECT_TEXT(text(&reply, "errorCode"), "FLAG_NOT_FOUND");
    EXPECT_TEXT(text(&reply, "key"), "none");
    assert_true(text(&reply, "errorDetails").len > 0);
    reply = post(f, "/ofrep/v1/evaluate/flags/a", "{\"context\":7}");
    EXPECT(reply, 400);
    EXPECT_TEXT(text(&reply, "errorCode"), "INVALID_CONTEXT");
    EXPECT_TEXT(text(&reply, "key"), "a");
    static const char *const broken[] = { "{\"context\":", "[]", "" };
    for (size_t i = 0; i < ARRAY_N(broken); i++) {
        reply = post(f, "/ofrep/v1/evaluate/flags/a", broken[i]);
        EXPECT(reply, 400);
        EXPECT_TEXT(text(&reply, "errorCode"), "PARSE_ERROR");
        EXPECT_TEXT(text(&reply, "key"), "a");
    }
    reply = post(f, "/ofrep/v1/evaluate/flags", "nothing");
    EXPECT(reply, 400);
    EXPECT_TEXT(text(&reply, "errorCode"), "PARSE_ERROR");
    assert_null(member(&reply, "key")); /* all were asked for */
    reply = post(f, "/ofrep/v1/evaluate/flags/a", "{\"context\":{},\"client\":\"x\"}");
    EXPECT(reply, 200);
}

static void test_ofrep_all(void **state)
{
    ApiFixture *f = *state;
    EXPECT(put(f, "a", "{\"value\":1}"), 200);
    EXPECT(put(f, "tool:t", "{\"value\":false}"), 200);
    const char *body = "{\"context\":{\"targetingKey\":\"u\"}}";
    Reply reply = post(f, "/ofrep/v1/evaluate/flags", body);
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "flags")), 1); /* switches are none of theirs */
    Str etag = field(&reply, "etag");
    assert_true(etag.len > 0);
    const char *heads = format(f, "Content-Type: application/json\r\nIf-None-Match: %.*s\r\n",
                               STR_ARG(etag));
    reply = call_with(f, "POST", "/ofrep/v1/evaluate/flags", heads, str_of(body));
    EXPECT(reply, 304);
    EXPECT(put(f, "a", "{\"value\":2}"), 200);
    reply = call_with(f, "POST", "/ofrep/v1/evaluate/flags", heads, str_of(body));
    EXPECT(reply, 200);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_life),
        CASE(test_refused),
        CASE(test_full),
        CASE(test_large),
        CASE(test_tasks_switched_off),
        CASE(test_version_switched_off),
        CASE(test_workers_are_told),
        CASE(test_survives_a_restart),
        CASE(test_ofrep),
        CASE(test_ofrep_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
