#include "tests/unit/api_fixture.h"

#include "codec/gzip.h"

static int setup(void **state)
{
    ApiFixture *f = xcalloc(1, sizeof *f);
    f->options.unpacked_bytes_max = (size_t)1 << 20;
    f->options.upload_bytes_max = (size_t)1 << 19;
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

static void test_upload(void **state)
{
    ApiFixture *f = *state;
    Reply reply = call_with(f, "POST",
                            "/api/agents/support/versions?description=a%20first&commit=0123456789",
                            "Content-Type: application/x-tar\r\n", agent_tar(f, "support", "Hi."));
    EXPECT(reply, 201);
    Str id = text(&reply, "versionId");
    assert_int_equal(id.len, 64);
    assert_true(json_bool(member(&reply, "routed"), false)); /* the first one is */
    char *url = format(f, "/api/versions/%.*s", STR_ARG(id));
    EXPECT_TEXT(field(&reply, "location"), url);

    Reply version = get(f, url);
    EXPECT(version, 200);
    EXPECT_TEXT(text(&version, "agent"), "support");
    EXPECT_TEXT(text(&version, "description"), "a first");
    EXPECT_TEXT(text(&version, "commit"), "0123456789");
    EXPECT_TEXT(text(&version, "model"), "sim/echo-1");
    EXPECT_TEXT(json_str(json_get(json_get(member(&version, "components"), "prompt"), "text")),
                "Hi.");
    EXPECT_TEXT(json_str(json_get(json_get(member(&version, "manifest"), "metadata"), "name")),
                "support");
    version = get(f, format(f, "/api/versions/%.8s", id.ptr));
    assert_true(str_eq(text(&version, "versionId"), id));

    /* the same content again, packed otherwise */
    CLEANUP(buf_deinit) Buf gz;
    buf_init(&gz, 1 << 20);
    assert_int_equal(gzip_compress(agent_tar(f, "support", "Hi."), &gz), 0);
    int64_t before = rows(f);
    reply = call_with(f, "POST", "/api/agents/support/versions?description=second",
                      "Content-Type: application/gzip\r\n", buf_str(&gz));
    EXPECT(reply, 200);
    assert_true(str_eq(text(&reply, "versionId"), id));
    EXPECT_TEXT(text(&reply, "description"), "a first"); /* a version never changes */
    assert_int_equal(rows(f), before);
}

static void test_lists(void **state)
{
    ApiFixture *f = *state;
    Str first = deploy(f, "support");
    Reply reply = upload(f, "support", agent_tar(f, "support", "Other."));
    EXPECT(reply, 201);
    assert_false(json_bool(member(&reply, "routed"), true)); /* only the first is at once */
    Str second = text(&reply, "versionId");

    reply = get(f, "/api/agents/support/versions?limit=1");
    EXPECT(reply, 200);
    const Json *row = json_at(member(&reply, "versions"), 0);
    assert_true(str_eq(json_str(json_get(row, "versionId")), second));
    EXPECT_TEXT(json_str(json_get(row, "model")), "sim/echo-1");
    assert_false(json_bool(json_get(row, "routed"), true));
    reply = get(f, format(f, "/api/agents/support/versions?cursor=%.*s",
                          STR_ARG(text(&reply, "nextCursor"))));
    row = json_at(member(&reply, "versions"), 0);
    assert_true(str_eq(json_str(json_get(row, "versionId")), first));
    assert_true(json_bool(json_get(row, "routed"), false));
    assert_true(json_type(member(&reply, "nextCursor")) == JSON_NULL);

    reply = get(f, "/api/agents");
    row = json_at(member(&reply, "agents"), 0);
    EXPECT_TEXT(json_str(json_get(row, "agent")), "support");
    assert_int_equal(json_i64_or(json_get(row, "versions"), 0), 2);
    assert_true(str_eq(json_str(json_get(row, "versionId")), first));
}

static void test_diff(void **state)
{
    ApiFixture *f = *state;
    Str a = deploy(f, "support");
    Reply reply = upload(f, "support", agent_tar(f, "support", "You help.\nA lot."));
    Str b = text(&reply, "versionId");
    reply = get(f, format(f, "/api/versions/%.*s/diff/%.12s", STR_ARG(a), b.ptr));
    EXPECT(reply, 200);
    assert_true(str_eq(text(&reply, "from"), a) && str_eq(text(&reply, "to"), b));
    assert_int_equal(json_len(member(&reply, "changes")), 1);
    const Json *change = json_at(member(&reply, "changes"), 0);
    EXPECT_TEXT(json_str(json_get(change, "component")), "prompt");
    EXPECT_HAS(json_str(json_get(change, "diff")), "+A lot.");
    EXPECT_TEXT(json_str(json_get(json_get(change, "old"), "text")), "You help.");
    reply = get(f, format(f, "/api/versions/%.*s/diff/%.*s", STR_ARG(a), STR_ARG(a)));
    assert_int_equal(json_len(member(&reply, "changes")), 0);
}

static void test_artifact(void **state)
{
    ApiFixture *f = *state;
    Str id = deploy(f, "support");
    Reply version = get(f, format(f, "/api/versions/%.*s", STR_ARG(id)));
    Reply reply = get(f, format(f, "/api/versions/%.*s/artifact", STR_ARG(id)));
    EXPECT(reply, 200);
    EXPECT_TEXT(field(&reply, "content-type"), "application/x-tar");
    char hex[SHA256_HEX_MAX];
    EXPECT_TEXT(text(&version, "artifact"), sha256_hex(reply.body, hex));
    EXPECT_TEXT(field(&reply, "x-gantry-digest"), format(f, "sha256:%s", hex));
    assert_int_equal(str_find(reply.body, STR("You help.")), -1); /* the prompt is apart */
    EXPECT_HAS(reply.body, "print(1)");
}

static void test_routing(void **state)
{
    ApiFixture *f = *state;
    Str a = deploy(f, "support");
    Reply reply = upload(f, "support", agent_tar(f, "support", "Other."));
    Str b = text(&reply, "versionId");
    const char *rollouts = "/api/agents/support/rollouts",
               *rollback = "/api/agents/support/rollback";
    const char *old_task = submit(f, "{\"input\":1}");

    reply = post(f, rollouts,
                 format(f, "{\"versionId\":\"%.10s\",\"strategy\":\"immediate\"}", b.ptr));
    EXPECT(reply, 200);
    assert_true(str_eq(text(&reply, "versionId"), b));
    assert_true(str_eq(text(&reply, "previousVersionId"), a));
    reply = post(f, "/agent/execute", "{\"input\":1}");
    assert_true(str_eq(text(&reply, "versionId"), b));
    reply = get(f, format(f, "/agent/tasks/%s", old_task));
    assert_true(str_eq(text(&reply, "versionId"), a)); /* a task stays on its version */

    EXPECT(post(f, rollback, NULL), 200);
    reply = get(f, "/api/agents/support/routing");
    assert_true(str_eq(text(&reply, "versionId"), a));
    const Json *arm = json_at(member(&reply, "arms"), 0);
    assert_true(str_eq(json_str(json_get(arm, "versionId")), a));
    assert_int_equal(json_i64_or(json_get(arm, "weight"), 0), 100);
    reply = post(f, rollback, NULL); /* not forward again */
    EXPECT(reply, 409);
    EXPECT_TEXT(text(&reply, "code"), "no_previous_version");
    EXPECT(post(f, rollback, format(f, "{\"to\":\"%.*s\"}", STR_ARG(b))), 200);
    reply = get(f, "/api/agents/support/routing");
    assert_true(str_eq(text(&reply, "versionId"), b));

    Str other = deploy(f, "other");
    reply = post(f, rollback, format(f, "{\"to\":\"%.*s\"}", STR_ARG(other)));
    EXPECT(reply, 409);
    EXPECT_TEXT(text(&reply, "code"), "version_of_other_agent");
}

/* A version's retry settings come into force with it. */
static void test_settings_follow_routing(void **state)
{
    ApiFixture *f = *state;
    AgentFile files[] = { { "a.py", "" }, { "agent.yaml", NULL } };
    Str ids[2];
    for (int i = 0; i < 2; i++) {
        files[1].text = format(f,
                               "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: x}\nspec:\n"
                               "  command: [python3, a.py]\n"
                               "  retry: {maxAttempts: %d, backoff: {initial: 0s}}\n",
                               i == 0 ? 1 : 2);
        Reply reply = upload(f, "x", tar_of(f, files, ARRAY_N(files)));
        EXPECT(reply, 201);
        ids[i] = text(&reply, "versionId");
    }
    const char *worker = worker_register(f);
    for (int i = 0; i < 2; i++) {
        Reply reply = post(
            f, "/api/agents/x/rollouts",
            format(f, "{\"versionId\":\"%.*s\",\"strategy\":\"immediate\"}", STR_ARG(ids[i])));
        EXPECT(reply, 200);
        const char *task = submit(f, "{\"input\":1}");
        work_once(f, worker, "failed_retryable", "");
        reply = get(f, format(f, "/agent/tasks/%s", task));
        EXPECT_TEXT(text(&reply, "status"), i == 0 ? "failed" : "queued");
        if (i == 1) work_once(f, worker, "succeeded", "");
    }
}

/* --- what is refused -------------------------------------------------------------------------- */

static void refuse(ApiFixture *f, Reply reply, int status, const char *code, const char *words)
{
    if (reply.status == status && str_eq(text(&reply, "code"), str_of(code)) &&
        str_find(reply.body, str_of(words)) >= 0)
        return;
    fail_msg("%d %s: %.*s%.*s", status, code, STR_ARG(reply.head), STR_ARG(reply.body));
    (void)f;
}

static void test_invalid_agents(void **state)
{
    ApiFixture *f = *state;
    int64_t before = rows(f);
    AgentFile bad[] = { { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: x}\n"
                                        "spec:\n  command: []\n  colour: red\n  tools: t.json\n" },
                        { "t.json", "[{\"name\":\"a b\"}]" } };
    Reply reply = upload(f, "x", tar_of(f, bad, ARRAY_N(bad)));
    refuse(f, reply, 422, "agent_invalid", "`errors`");
    const Json *errors = member(&reply, "errors");
    assert_true(json_len(errors) >= 2);
    EXPECT_TEXT(json_str(json_get(json_at(errors, 0), "file")), "agent.yaml");
    assert_int_equal(json_i64_or(json_get(json_at(errors, 0), "line"), 0), 5);
    EXPECT_TEXT(json_str(json_get(json_at(errors, 0), "member")), "spec.command");
    assert_int_equal(json_i64_or(json_get(json_at(errors, 1), "line"), 0), 6);

    AgentFile none[] = { { "readme", "x" } };
    refuse(f, upload(f, "x", tar_of(f, none, 1)), 422, "agent_invalid", "no agent.yaml");
    refuse(f, upload(f, "x", STR("not a tar")), 422, "agent_invalid", "errors");
    refuse(f, upload(f, "x", STR("\x1f\x8b\x08\x00")), 422, "agent_invalid", "errors");
    refuse(f, upload(f, "y", agent_tar(f, "x", "p")), 422, "agent_mismatch", "\\\"y\\\"");
    refuse(f, upload(f, "Y", agent_tar(f, "Y", "p")), 400, "agent_invalid", "lower-case");
    refuse(f, upload(f, "x", STR("")), 400, "body_invalid", "empty");
    refuse(f,
           call_with(f, "POST", "/api/agents/x/versions", "Content-Type: text/html\r\n",
                     agent_tar(f, "x", "p")),
           415, "content_type", "application/gzip");
    refuse(f,
           call_with(f, "POST", "/api/agents/x/versions?commit=HEAD", NULL, agent_tar(f, "x", "p")),
           400, "parameter_invalid", "commit");
    assert_int_equal(rows(f), before);
    EXPECT(upload(f, "x", agent_tar(f, "x", "p")), 201);
}

static Str zeros(ApiFixture *f, size_t n)
{
    char *bytes = arena_zalloc(&f->arena, n);
    assert_non_null(bytes);
    return str_make(bytes, n);
}

/* One entry, made by hand where the writer would refuse it. */
static Str raw_tar(ApiFixture *f, const char *name, char type, const char *link)
{
    char *tar = arena_zalloc(&f->arena, 1536 + 512);
    snprintf(tar, 100, "%s", name);
    memcpy(tar + 100, "0000644", 7);
    memcpy(tar + 124, "00000000000", 11);
    memcpy(tar + 136, "00000000000", 11);
    memset(tar + 148, ' ', 8);
    tar[156] = type;
    snprintf(tar + 157, 100, "%s", link);
    memcpy(tar + 257, "ustar\00000", 8);
    unsigned sum = 0;
    for (int i = 0; i < 512; i++) sum += (unsigned char)tar[i];
    snprintf(tar + 148, 8, "%06o", sum);
    return str_make(tar, 1536);
}

static void test_hostile_archives(void **state)
{
    ApiFixture *f = *state;
    int64_t before = rows(f);
    static const struct {
        const char *name;
        char type;
        const char *link;
    } entries[] = {
        { "../evil", '0', "" },
        { "/etc/passwd", '0', "" },
        { "a/../../b", '0', "" },
        { "link", '2', "/etc" },
        { "link", '2', "../../secret" },
        { "hard", '1', "agent.yaml" },
        { "dev", '3', "" },
        { "fifo", '6', "" },
        { "a//b", '0', "" },
    };
    for (size_t i = 0; i < ARRAY_N(entries); i++) {
        Reply reply = upload(f, "x", raw_tar(f, entries[i].name, entries[i].type, entries[i].link));
        refuse(f, reply, 422, "agent_invalid", "message");
    }
    Str whole = agent_tar(f, "x", "p");
    refuse(f, upload(f, "x", str_sub(whole, 0, whole.len - 1024)), 422, "agent_invalid", "");
    refuse(f, upload(f, "x", str_sub(whole, 0, 700)), 422, "agent_invalid", "");

    /* a bomb: small when sent, over the limit when unpacked */
    CLEANUP(buf_deinit) Buf gz, tar;
    buf_init(&gz, 1 << 20);
    buf_init(&tar, (size_t)256 << 20);
    TarOut out;
    tar_out_init(&out, &tar);
    assert_int_equal(
        tar_out_file(&out, &(TarEntry){ .path = STR("big") }, zeros(f, (size_t)100 << 20)), 0);
    assert_int_equal(tar_out_end(&out), 0);
    assert_int_equal(gzip_compress(buf_str(&tar), &gz), 0);
    assert_true(gz.len < f->options.upload_bytes_max);
    refuse(f, upload(f, "x", buf_str(&gz)), 422, "archive_too_large", "");
    refuse(f, upload(f, "x", zeros(f, f->options.upload_bytes_max + 1)), 413, "body_too_large", "");
    assert_int_equal(rows(f), before);
}

static void test_code_that_leaves_the_archive(void **state)
{
    ApiFixture *f = *state;
    CLEANUP(buf_deinit) Buf tar;
    buf_init(&tar, 1 << 20);
    TarOut out;
    tar_out_init(&out, &tar);
    static const char yaml[] = "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: x}\n"
                               "spec: {command: [./run], code: src}\n";
    assert_int_equal(tar_out_file(&out, &(TarEntry){ .path = STR("agent.yaml") }, str_of(yaml)), 0);
    assert_int_equal(
        tar_out_file(&out, &(TarEntry){ .path = STR("src/run"), .mode = 0755 }, STR("")), 0);
    TarEntry link = { .path = STR("src/up"), .link = STR("../agent.yaml"), .type = TAR_SYMLINK };
    assert_int_equal(tar_out_entry(&out, &link), 0);
    assert_int_equal(tar_out_end(&out), 0);
    refuse(f, upload(f, "x", buf_str(&tar)), 422, "agent_invalid", "up");
}

/* More archives at a time than there may be. */
static void test_uploads_are_bounded(void **state)
{
    ApiFixture *f = *state;
    api_close(f);
    f->options.uploads_max = 1;
    api_open(f);
    int held = client_open(f); /* sends its head and no body */
    client_send(held, str_of(format(f, "POST /api/agents/x/versions HTTP/1.1\r\nHost: localhost\r\n"
                                       "Content-Length: 5000\r\n\r\n")));
    Str tar = agent_tar(f, "x", "p");
    Reply reply;
    int64_t until_ms = clock_mono_ms() + CLIENT_LIMIT_MS;
    do reply = upload(f, "x", tar);
    while (reply.status != 503 && clock_mono_ms() < until_ms);
    refuse(f, reply, 503, "uploads_busy", "");
    assert_true(field(&reply, "retry-after").len > 0);
    close(held);
    do reply = upload(f, "x", tar);
    while (reply.status == 503 && clock_mono_ms() < until_ms);
    assert_int_equal(reply.status / 100, 2);
}

/* A model that nobody sells: the version is made, with a warning. */
static void test_model_without_a_price(void **state)
{
    ApiFixture *f = *state;
    GatewayProvider provider = { .name = "p",
                                 .protocol = GATEWAY_OPENAI,
                                 .base_url = "http://x/v1" };
    GatewayRoute route = { .match = "known-*" };
    PriceTable prices;
    price_table_init(&prices, &f->arena);
    GatewayConfig config = {
        .providers = &provider, .providers_n = 1, .routes = &route, .routes_n = 1, .prices = &prices
    };
    api_close(f);
    f->options.gateway = &config;
    api_open(f);
    Reply reply = upload(f, "support", agent_tar(f, "support", "p"));
    EXPECT(reply, 201);
    const Json *warning = json_at(member(&reply, "warnings"), 0);
    EXPECT_TEXT(json_str(json_get(warning, "member")), "spec.model");
    EXPECT_HAS(json_str(json_get(warning, "message")), "sim/echo-1");
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_upload),
        CASE(test_lists),
        CASE(test_diff),
        CASE(test_artifact),
        CASE(test_routing),
        CASE(test_settings_follow_routing),
        CASE(test_invalid_agents),
        CASE(test_hostile_archives),
        CASE(test_code_that_leaves_the_archive),
        CASE(test_uploads_are_bounded),
        CASE(test_model_without_a_price),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
