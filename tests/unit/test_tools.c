#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/diag.h"
#include "logic/tools.h"

static Arena arena;
static Issue issues[32];
static size_t issues_n;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 64 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static ToolSet parse_ok(const char *text)
{
    ToolSet set;
    arena_clear(&arena);
    int r = tools_parse(&arena, str_of(text), &set, issues, ARRAY_N(issues), &issues_n);
    if (r != 0)
        fail_msg("%d: %s: %s", r, issues_n ? issues[0].path.ptr : "",
                 issues_n ? issues[0].message.ptr : "");
    return set;
}

static void expect_errors(const char *text, const char *expected)
{
    ToolSet set = { .n = 77 };
    arena_clear(&arena);
    assert_int_equal(tools_parse(&arena, str_of(text), &set, issues, ARRAY_N(issues), &issues_n),
                     TOOLS_E_INVALID);
    assert_int_equal(set.n, 77);
    Buf out;
    buf_init(&out, 1 << 16);
    for (size_t i = 0; i < issues_n; i++) {
        if (issues[i].warning) continue;
        issue_text(&issues[i], STR(""), &out);
        buf_add_char(&out, '\n');
    }
    assert_string_equal(out.ptr, expected);
    buf_deinit(&out);
}

#define FULL                                                                                     \
    "[{\"name\":\"find_order\",\"description\":\"Finds an order\",\"inputSchema\":{\"type\":"    \
    "\"object\",\"properties\":{\"id\":{\"type\":\"string\"}},\"required\":[\"id\"]},"           \
    "\"effect\":\"read\",\"source\":{\"command\":[\"python3\",\"find.py\"]},"                    \
    "\"timeout\":\"5s\",\"outputBytesMax\":1000},"                                               \
    "{\"name\":\"pay\",\"description\":\"Pays\",\"source\":{\"http\":{\"method\":\"PUT\","       \
    "\"url\":\"https://pay.example/x\",\"headers\":{\"X-Key\":{\"env\":\"PAY_KEY\"},"            \
    "\"Accept\":\"*/*\"}}}},"                                                                    \
    "{\"name\":\"ask\",\"description\":\"Asks\",\"source\":{\"mcp\":{\"url\":"                   \
    "\"http://m.example/\",\"tool\":\"query\"}}},"                                               \
    "{\"name\":\"run\",\"description\":\"Runs\",\"source\":{\"mcp\":{\"command\":[\"srv\"]}}},"  \
    "{\"name\":\"delegate\",\"description\":\"Has it done\",\"source\":{\"agent\":\"helper\"}}," \
    "{\"name\":\"own\",\"description\":\"The agent's own\"}]"

static void test_everything(void **state)
{
    (void)state;
    ToolSet set = parse_ok(FULL);
    assert_int_equal(issues_n, 0);
    assert_int_equal(set.n, 6);
    const Tool *t = tools_find(&set, STR("find_order"));
    assert_int_equal(t->effect, TOOL_READ);
    assert_int_equal(t->source, TOOL_BY_COMMAND);
    assert_int_equal(t->command_n, 2);
    assert_int_equal(t->timeout_ms, 5000);
    assert_int_equal(t->output_bytes_max, 1000);
    t = tools_find(&set, STR("pay"));
    assert_int_equal(t->effect, TOOL_WRITE); /* what is not said to be harmless is not */
    assert_int_equal(t->source, TOOL_BY_HTTP);
    assert_true(str_eq(t->method, STR("PUT")));
    assert_true(str_eq(t->url, STR("https://pay.example/x")));
    assert_int_equal(t->headers_n, 2);
    assert_true(t->headers[0].from_env && str_eq(t->headers[0].value, STR("PAY_KEY")));
    assert_true(!t->headers[1].from_env && str_eq(t->headers[1].name, STR("Accept")));
    assert_int_equal(t->timeout_ms, 30000);
    assert_int_equal(t->output_bytes_max, 65536);
    t = tools_find(&set, STR("ask"));
    assert_int_equal(t->source, TOOL_BY_MCP);
    assert_true(str_eq(t->remote_name, STR("query")));
    t = tools_find(&set, STR("run"));
    assert_true(str_eq(t->remote_name, STR("run")) && t->command_n == 1 && str_empty(t->url));
    t = tools_find(&set, STR("delegate"));
    assert_int_equal(t->source, TOOL_BY_SUBAGENT);
    assert_true(str_eq(t->agent, STR("helper")));
    assert_int_equal(t->timeout_ms, 3600000); /* its task has a limit of its own */
    t = tools_find(&set, STR("own"));
    assert_int_equal(t->source, TOOL_BY_AGENT);
    assert_true(str_eq(json_str(json_get(t->input_schema, "type")), STR("object")));
    assert_ptr_equal(tools_without_source(&set), t);
    assert_null(tools_find(&set, STR("nobody")));
}

static void test_both_forms_of_the_file(void **state)
{
    (void)state;
    assert_int_equal(parse_ok("{\"tools\":[{\"name\":\"a\",\"description\":\"x\"}]}").n, 1);
    ToolSet none = parse_ok("[]");
    assert_int_equal(none.n, 0);
    assert_null(tools_without_source(&none));
    expect_errors("{\"tool\":[]}", ":1:1: tools: missing: expected a value\n"
                                   ":1:2: tool: unknown member `tool`: did you mean `tools`?\n");
    expect_errors("5", ":1:1: expected an array of at most 256 tools, found the number 5\n");
    expect_errors("{\"tools\":{}}",
                  ":1:2: tools: expected an array of at most 256 tools, found an object\n");
}

static void test_not_json(void **state)
{
    (void)state;
    ToolSet set;
    assert_int_equal(tools_parse(&arena, STR("[\n  {]"), &set, issues, 32, &issues_n),
                     TOOLS_E_INVALID);
    assert_int_equal(issues_n, 1);
    assert_int_equal(issues[0].line, 2);
    assert_int_equal(tools_parse(&arena, STR("[{\"a\":1,\"a\":2}]"), &set, issues, 32, &issues_n),
                     TOOLS_E_INVALID);
}

static void test_errors_with_their_places(void **state)
{
    (void)state;
    expect_errors(
        "[\n"
        " {\"name\": \"a b\", \"effect\": \"raed\"},\n"
        " {\"description\": 5, \"inputSchema\": {\"type\": \"object\", \"properties\": {\"x\": {\"type\": \"int\"}}}},\n"
        " {\"name\": \"c\", \"source\": {\"http\": {\"url\": \"nowhere\"}}, \"timeout\": \"5\"},\n"
        " {\"name\": \"c\", \"inputSchema\": {\"type\": \"array\"}, \"outputBytesMax\": 0}\n"
        "]\n",
        ":2:3: [0].name: expected letters, digits, `_` and `-` only, found `a b`\n"
        ":2:18: [0].effect: expected one of write, read, found `raed`: did you mean `read`?\n"
        ":3:2: [1].name: missing: expected a string\n"
        ":3:3: [1].description: expected a string, found the number 5 (put it in quotes)\n"
        ":3:76: [1].inputSchema.properties.x.type: expected null, boolean, integer, number, string, array or "
        "object\n"
        ":4:36: [2].source.http.url: expected an http or https URL: the URL does not begin with http:// or "
        "https://\n"
        ":4:56: [2].timeout: expected a duration such as 500ms, 30s or 1h30m, found `5`\n"
        ":5:3: [3].name: `c` is the name of an earlier tool too\n"
        ":5:32: [3].inputSchema.type: the arguments of a tool are an object: expected \"object\"\n"
        ":5:50: [3].outputBytesMax: must be between 1 and 16777216\n");
}

#define TOOL(more) "[{\"name\":\"t\",\"description\":\"d\"," more "}]"

static void test_sources(void **state)
{
    (void)state;
    expect_errors(TOOL("\"source\":{\"agent\":\"No Body\"}"),
                  ":1:42: [0].source.agent: expected the name of an agent\n");
    expect_errors(
        TOOL("\"source\":{}"),
        ":1:32: [0].source: expected exactly one of command, http, mcp and agent, found 0 members\n");
    expect_errors(
        TOOL("\"source\":{\"command\":[\"a\"],\"http\":{\"url\":\"http://x\"}}"),
        ":1:32: [0].source: expected exactly one of command, http, mcp and agent, found 2 members\n");
    expect_errors(TOOL("\"source\":{\"mcp\":{}}"),
                  ":1:42: [0].source.mcp: expected either a url or a command\n");
    expect_errors(TOOL("\"source\":{\"mcp\":{\"url\":\"http://x\",\"command\":[\"a\"]}}"),
                  ":1:42: [0].source.mcp: expected either a url or a command\n");
    expect_errors(TOOL("\"source\":{\"http\":{}}"),
                  ":1:42: [0].source.http.url: missing: expected a string\n");
    expect_errors(
        TOOL("\"source\":{\"http\":{\"url\":\"http://x\",\"method\":\"get\"}}"),
        ":1:67: [0].source.http.method: expected one of POST, GET, PUT, PATCH, DELETE, found `get`: did you "
        "mean `GET`?\n");
    expect_errors(TOOL("\"source\":\"cmd\""),
                  ":1:32: [0].source: expected an object, found `cmd`\n");
}

#define DRY(more)                                                                                  \
    "[{\"name\":\"a\",\"description\":\"b\",\"inputSchema\":{\"type\":\"object\",\"properties\":{" \
    "\"only\":{\"type\":\"boolean\"},\"text\":{\"type\":\"string\"}}}" more "}]"

static void test_dry_run(void **state)
{
    (void)state;
    ToolSet set = parse_ok(DRY(",\"dryRun\":\"only\""));
    assert_true(str_eq(set.items[0].dry_run, STR("only")));
    Buf text;
    buf_init(&text, 1 << 16);
    assert_int_equal(tools_normalize(&set, &text), 0);
    assert_non_null(strstr(text.ptr, "\"dryRun\":\"only\""));
    buf_deinit(&text);
    assert_true(tools_write_without_source(&set) == &set.items[0]);
    expect_errors(DRY(",\"dryRun\":\"text\""),
                  ":1:130: [0].dryRun: expected a boolean argument that `inputSchema` declares\n");
    set = parse_ok(DRY(",\"effect\":\"read\""));
    assert_null(tools_write_without_source(&set));
    assert_true(str_empty(set.items[0].dry_run));
}

static void test_headers(void **state)
{
    (void)state;
#define HEADERS(h) TOOL("\"source\":{\"http\":{\"url\":\"http://x\",\"headers\":" h "}}")
    expect_errors(
        HEADERS("{\"Host\":\"x\"}"),
        ":1:78: [0].source.http.headers.Host: is not a header field that a tool may set\n");
    expect_errors(
        HEADERS("{\"a b\":\"x\"}"),
        ":1:78: [0].source.http.headers.a b: is not a header field that a tool may set\n");
    expect_errors(HEADERS("{\"A\":\"x\\r\\nB: y\"}"),
                  ":1:78: [0].source.http.headers.A: must not contain control characters\n");
    expect_errors(
        HEADERS("{\"A\":{\"env\":5}}"),
        ":1:78: [0].source.http.headers.A: expected text or {\"env\": \"NAME\"}, found an object\n");
    expect_errors(
        HEADERS("[]"),
        ":1:67: [0].source.http.headers: expected an object of at most 32 header fields, found an array\n");
}

static void test_numbers_need_a_canonical_form(void **state)
{
    (void)state;
    parse_ok(TOOL("\"inputSchema\":{\"type\":\"object\",\"default\":{\"n\":9007199254740991}}"));
    expect_errors(
        TOOL("\"inputSchema\":{\"type\":\"object\",\"default\":{\"n\":[9007199254740992]}}"),
        ":1:79: [0].inputSchema.default.n[0]: a whole number must be within 2^53 - 1 of 0\n");
    expect_errors(TOOL("\"inputSchema\":{\"type\":\"object\",\"default\":1e999}"),
                  ":1:63: [0].inputSchema.default: a whole number must be within 2^53 - 1 of 0\n");
}

static void test_rules(void **state)
{
    (void)state;
    expect_errors(TOOL("\"allow\":{}"),
                  ":1:32: [0].allow: expected an array of at most 32 rules, found an object\n");
    expect_errors(
        TOOL("\"deny\":[{}]"),
        ":1:40: [0].deny[0]: expected an object such as {\"path\": \"/tmp/*\"}, found an object\n");
    expect_errors(
        TOOL("\"deny\":[{\"a\":5}]"),
        ":1:41: [0].deny[0].a: expected a pattern or an array of patterns, found the number 5\n");
    expect_errors(TOOL("\"deny\":[{\"a\":[1]}]"),
                  ":1:46: [0].deny[0].a[0]: expected a pattern, found the number 1\n");
    ToolSet set = parse_ok(TOOL("\"allow\":[]"));
    assert_null(set.items[0].allow);
}

static int may(const char *tools, const char *args)
{
    ToolSet set = parse_ok(tools);
    const Json *v;
    assert_int_equal(json_parse(&arena, str_of(args), NULL, &v, NULL), 0);
    return tool_may(&set.items[0], v);
}

static void test_what_a_tool_may(void **state)
{
    (void)state;
    assert_int_equal(may(TOOL("\"effect\":\"read\""), "{\"path\":\"/etc/passwd\"}"), 0);
#define DENY \
    TOOL("\"deny\":[{\"path\":[\"/etc/*\",\"/root/*\"]},{\"mode\":\"w\",\"path\":\"/data/*\"}]")
    assert_int_equal(may(DENY, "{\"path\":\"/etc/passwd\"}"), TOOL_E_DENIED);
    assert_non_null(strstr(diag_text(), "rule 0 of `deny`"));
    assert_int_equal(may(DENY, "{\"path\":\"/root/x\"}"), TOOL_E_DENIED);
    assert_int_equal(may(DENY, "{\"path\":\"/data/x\",\"mode\":\"w\"}"), TOOL_E_DENIED);
    assert_int_equal(may(DENY, "{\"path\":\"/data/x\",\"mode\":\"r\"}"), 0);
    assert_int_equal(may(DENY, "{\"path\":\"/data/x\"}"), 0);
    assert_int_equal(may(DENY, "{\"path\":[\"/etc/passwd\"]}"),
                     TOOL_E_DENIED); /* not text: not trusted */
    assert_int_equal(may(DENY, "{}"), 0);
#define ALLOW \
    TOOL(     \
        "\"allow\":[{\"path\":\"/tmp/*\"},{\"n\":[\"5\",\"true\"]}],\"deny\":[{\"path\":\"*..*\"}]")
    assert_int_equal(may(ALLOW, "{\"path\":\"/tmp/x\"}"), 0);
    assert_int_equal(may(ALLOW, "{\"path\":\"/tmp/../x\"}"), TOOL_E_DENIED); /* deny wins */
    assert_int_equal(may(ALLOW, "{\"path\":\"/x\"}"), TOOL_E_DENIED);
    assert_non_null(strstr(diag_text(), "no rule of `allow`"));
    assert_int_equal(may(ALLOW, "{\"path\":[\"/tmp/x\"]}"), TOOL_E_DENIED);
    assert_int_equal(may(ALLOW, "{\"n\":5}"), 0);
    assert_int_equal(may(ALLOW, "{\"n\":true}"), 0);
    assert_int_equal(may(ALLOW, "{\"n\":5.5}"), TOOL_E_DENIED);
    assert_int_equal(may(ALLOW, "{}"), TOOL_E_DENIED);
    assert_int_equal(may(ALLOW, "[\"/tmp/x\"]"), TOOL_E_DENIED);
    assert_int_equal(may(DENY, "null"), 0);
}

static void test_normal_form_writes_defaults_out_and_is_stable(void **state)
{
    (void)state;
    ToolSet set = parse_ok("[{\"name\":\"a\"}]");
    assert_int_equal(issues_n, 1); /* a tool without a description is worth a warning */
    assert_true(issues[0].warning);
    Buf once, twice;
    buf_init(&once, 1 << 16);
    buf_init(&twice, 1 << 16);
    assert_int_equal(tools_normalize(&set, &once), 0);
    assert_string_equal(
        once.ptr, "[{\"name\":\"a\",\"description\":\"\",\"inputSchema\":{\"type\":\"object\"},"
                  "\"effect\":\"write\",\"allow\":[],\"deny\":[],\"timeout\":\"30s\","
                  "\"outputBytesMax\":65536}]");
    buf_clear(&once);
    set = parse_ok(FULL);
    assert_int_equal(tools_normalize(&set, &once), 0);
    set = parse_ok(once.ptr);
    assert_int_equal(tools_normalize(&set, &twice), 0);
    assert_string_equal(once.ptr, twice.ptr);
    Buf small;
    buf_init(&small, 20);
    assert_int_equal(tools_normalize(&set, &small), -ENOMEM);
    buf_deinit(&small);
    buf_deinit(&once);
    buf_deinit(&twice);
}

static void test_limits(void **state)
{
    (void)state;
    Buf b;
    buf_init(&b, 4 << 20);
    for (int n = TOOLS_N_MAX; n <= TOOLS_N_MAX + 1; n++) {
        buf_clear(&b);
        buf_add_char(&b, '[');
        for (int i = 0; i < n; i++)
            buf_printf(&b, "%s{\"name\":\"t%d\",\"description\":\"d\"}", i ? "," : "", i);
        buf_add_char(&b, ']');
        ToolSet set;
        arena_clear(&arena);
        assert_int_equal(tools_parse(&arena, buf_str(&b), &set, issues, 32, &issues_n),
                         n > TOOLS_N_MAX ? TOOLS_E_INVALID : 0);
    }
    buf_clear(&b);
    while (b.len <= TOOLS_BYTES_MAX) buf_add(&b, STR("          "));
    ToolSet set;
    assert_int_equal(tools_parse(&arena, buf_str(&b), &set, issues, 32, &issues_n),
                     TOOLS_E_INVALID);
    assert_string_equal(issues[0].message.ptr, "is larger than 1048576 bytes");
    buf_deinit(&b);
}

static void test_every_size_of_arena(void **state)
{
    (void)state;
    int r = -ENOMEM;
    for (size_t size = 0; size < (1 << 20) && r == -ENOMEM; size += 256) {
        Arena small;
        arena_init(&small, size);
        ToolSet set;
        r = tools_parse(&small, STR(FULL), &set, issues, 32, &issues_n);
        assert_true(r == 0 || r == -ENOMEM);
        arena_deinit(&small);
        if (r == 0) assert_true(size <= 40 * strlen(FULL) + 65536);
    }
    assert_int_equal(r, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_both_forms_of_the_file),
        cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_errors_with_their_places),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_dry_run),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_numbers_need_a_canonical_form),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_what_a_tool_may),
        cmocka_unit_test(test_normal_form_writes_defaults_out_and_is_stable),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_every_size_of_arena),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
