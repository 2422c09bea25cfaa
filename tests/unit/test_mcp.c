#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/mcp.h"

static Arena arena;
static Buf out;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 16 << 20);
    buf_init(&out, 1 << 16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    buf_deinit(&out);
    return 0;
}

static const Json *json(const char *text)
{
    const Json *v;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static void expect_request(const McpRequest *request, const char *expected)
{
    buf_clear(&out);
    JsonOut writer = json_out(&out);
    mcp_request_write(&writer, request);
    assert_string_equal(out.ptr, expected);
}

#define CLIENT "{\"name\":\"gantry\",\"version\":\"1\"}"
#define STATELESS_META                                                       \
    "\"_meta\":{\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"," \
    "\"io.modelcontextprotocol/clientInfo\":" CLIENT                         \
    ",\"io.modelcontextprotocol/clientCapabilities\":{}}"

static void test_requests(void **state)
{
    (void)state;
    expect_request(&(McpRequest){ .method = MCP_INITIALIZE, .id = 1 },
                   "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{"
                   "\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":" CLIENT
                   "}}");
    expect_request(&(McpRequest){ .method = MCP_TOOLS_LIST, .id = 2 },
                   "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"tools/list\",\"params\":{}}");
    expect_request(&(McpRequest){ .method = MCP_TOOLS_LIST, .id = 3, .cursor = STR("n\"x") },
                   "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"tools/list\",\"params\":{\"cursor\":"
                   "\"n\\\"x\"}}");
    expect_request(&(McpRequest){ .method = MCP_TOOLS_CALL,
                                  .id = 4,
                                  .stateless = true,
                                  .name = STR("t"),
                                  .arguments = STR("{\"a\":1}") },
                   "{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"tools/call\",\"params\":{\"name\":"
                   "\"t\",\"arguments\":{\"a\":1}," STATELESS_META "}}");
}

static void test_other_messages(void **state)
{
    (void)state;
    buf_clear(&out);
    JsonOut writer = json_out(&out);
    mcp_initialized_write(&writer);
    assert_string_equal(out.ptr, "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}");
    buf_clear(&out);
    writer = json_out(&out);
    mcp_cancelled_write(&writer, 7);
    assert_non_null(strstr(out.ptr, "\"requestId\":7"));
    buf_clear(&out);
    writer = json_out(&out);
    mcp_answer_write(&writer, json("\"x\""), STR("ping"));
    assert_string_equal(out.ptr, "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}");
    buf_clear(&out);
    writer = json_out(&out);
    mcp_answer_write(&writer, json("5"), STR("sampling/createMessage"));
    assert_non_null(strstr(out.ptr, "-32601"));
}

static void test_messages(void **state)
{
    (void)state;
    McpMessage m;
    assert_int_equal(mcp_message_read(json("{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":{}}"), &m), 0);
    assert_int_equal(m.kind, MCP_RESULT);
    assert_true(mcp_message_answers(&m, 5) && !mcp_message_answers(&m, 6));
    assert_int_equal(
        mcp_message_read(json("{\"jsonrpc\":\"2.0\",\"id\":5,\"error\":{\"code\":-32601,"
                              "\"message\":\"no\"}}"),
                         &m),
        0);
    assert_int_equal(m.kind, MCP_ERROR);
    assert_int_equal(m.error_code, MCP_ERROR_METHOD);
    assert_true(mcp_message_answers(&m, 5));
    assert_int_equal(
        mcp_message_read(json("{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\"}"), &m), 0);
    assert_int_equal(m.kind, MCP_ASKED);
    assert_false(mcp_message_answers(&m, 5));
    assert_int_equal(
        mcp_message_read(json("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}"), &m), 0);
    assert_int_equal(m.kind, MCP_NOTICE);
    assert_int_equal(mcp_message_read(json("{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{}}"), &m),
                     0);
    assert_false(mcp_message_answers(&m, 0));
    static const char *const bad[] = { "[]",
                                       "{}",
                                       "7",
                                       "{\"jsonrpc\":\"1.0\",\"id\":1,\"result\":{}}",
                                       "{\"jsonrpc\":\"2.0\",\"id\":1}",
                                       "{\"jsonrpc\":\"2.0\",\"result\":{}}",
                                       "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":7}",
                                       "{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{}}" };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(mcp_message_read(json(bad[i]), &m), -EINVAL);
}

static void test_versions(void **state)
{
    (void)state;
    Str version;
    assert_int_equal(mcp_initialize_read(json("{\"protocolVersion\":\"2025-06-18\"}"), &version),
                     0);
    assert_true(str_eq(version, STR("2025-06-18")));
    assert_int_equal(mcp_initialize_read(json("{\"protocolVersion\":\"1999-01-01\"}"), &version),
                     -EPROTO);
    assert_int_equal(mcp_initialize_read(json("{}"), &version), -EPROTO);
}

static void test_pages(void **state)
{
    (void)state;
    McpPage page;
    assert_int_equal(
        mcp_tools_read(json("{\"tools\":[{\"name\":\"a\"},{\"name\":\"b\",\"description\":"
                            "\"B\",\"inputSchema\":{}}],\"nextCursor\":\"2\"}"),
                       STR("b"), &page),
        0);
    assert_int_equal(page.found_n, 1);
    assert_true(str_eq(page.found.description, STR("B")) && str_eq(page.next, STR("2")));
    assert_int_equal(json_type(page.found.input_schema), JSON_OBJECT);
    assert_int_equal(
        mcp_tools_read(json("{\"tools\":[{\"name\":\"b\"},7,{\"name\":\"b\"}]}"), STR("b"), &page),
        0);
    assert_int_equal(page.found_n, 2);
    assert_int_equal(mcp_tools_read(json("{}"), STR("b"), &page), -EINVAL);
}

static void expect_text(const char *result, const char *text, bool is_error)
{
    bool error = !is_error;
    buf_clear(&out);
    buf_add(&out, STR(""));
    assert_int_equal(mcp_call_read(json(result), &out, &error), 0);
    assert_string_equal(out.ptr ? out.ptr : "", text);
    assert_int_equal(error, is_error);
}

static void test_results(void **state)
{
    (void)state;
    bool error;
    expect_text(
        "{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}",
        "a\nb", false);
    expect_text("{\"content\":[{\"type\":\"text\",\"text\":\"no\"}],\"isError\":true}", "no", true);
    expect_text("{\"content\":[],\"structuredContent\":{\"n\":1}}", "{\"n\":1}", false);
    expect_text(
        "{\"content\":[{\"type\":\"text\",\"text\":\"t\"}],\"structuredContent\":{\"n\":1}}", "t",
        false);
    expect_text("{\"content\":[{\"type\":\"image\",\"mimeType\":\"image/png\",\"data\":\"AAAA\"},"
                "{\"type\":\"resource\",\"resource\":{\"uri\":\"file:///a\",\"text\":\"inside\"}},"
                "{\"type\":\"resource_link\",\"uri\":\"file:///b\"}]}",
                "[image image/png]\ninside\n[resource_link file:///b]", false);
    expect_text("{\"content\":[]}", "", false);
    assert_int_equal(mcp_call_read(json("{}"), &out, &error), -EINVAL);
    assert_int_equal(
        mcp_call_read(json("{\"resultType\":\"input_required\",\"content\":[]}"), &out, &error),
        -EINVAL);
    Buf small;
    buf_init(&small, 3);
    assert_int_equal(mcp_call_read(json("{\"content\":[{\"type\":\"text\",\"text\":\"abcd\"}]}"),
                                   &small, &error),
                     -ENOMEM);
    buf_deinit(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests), cmocka_unit_test(test_other_messages),
        cmocka_unit_test(test_messages), cmocka_unit_test(test_versions),
        cmocka_unit_test(test_pages),    cmocka_unit_test(test_results),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
