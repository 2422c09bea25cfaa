#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/request_info.h"

static Arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1 << 22);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static RequestInfo read_ok(Api api, const char *text)
{
    const Json *body = NULL;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &body, NULL), 0);
    RequestInfo info;
    RequestFault fault = { 0 };
    int r = request_info_read(&arena, api, body, &info, &fault);
    if (r != 0) fail_msg("%s: %s", text, fault.message);
    return info;
}

static void expect_fault(Api api, const char *text, const char *param, const char *message)
{
    const Json *body = NULL;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &body, NULL), 0);
    RequestInfo info = { .n = -7 };
    RequestFault fault = { 0 };
    assert_int_equal(request_info_read(&arena, api, body, &info, &fault), REQUEST_E_INVALID);
    assert_string_equal(fault.message, message);
    if (param) assert_string_equal(fault.param, param);
    else assert_null(fault.param);
    assert_int_equal(info.n, -7); /* untouched */
}

/* --- chat ----------------------------------------------------------------------------------- */

static void test_chat_least(void **state)
{
    (void)state;
    RequestInfo i = read_ok(
        API_CHAT, "{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    assert_int_equal(i.api, API_CHAT);
    assert_true(str_eq(i.model, STR("gpt-4o")));
    assert_int_equal(i.n, 1);
    assert_int_equal(i.messages, 1);
    assert_int_equal(i.out_cap, 0);
    assert_null(i.out_cap_member);
    assert_false(i.stream || i.include_usage || i.has_tools || i.has_media || i.hides_input);
    assert_false(i.prediction);
    assert_true(i.cache_write);
    assert_int_equal(i.server_tools, 0);
    assert_int_equal(i.server_uses_max, 0);
}

static void test_chat_full(void **state)
{
    (void)state;
    RequestInfo i = read_ok(
        API_CHAT,
        "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\","
        "\"content\":[{\"type\":\"text\",\"text\":\"x\"}]},{\"role\":\"assistant\",\"content\":null}],"
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_completion_tokens\":77,"
        "\"max_tokens\":null,\"n\":3,\"service_tier\":\"flex\",\"user\":\"u1\",\"prediction\":{},"
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"custom\","
        "\"custom\":{\"name\":\"g\"}}]}");
    assert_true(i.stream && i.include_usage && i.has_tools && i.prediction);
    assert_int_equal(i.out_cap, 77);
    assert_string_equal(i.out_cap_member, "max_completion_tokens");
    assert_int_equal(i.n, 3);
    assert_int_equal(i.messages, 3);
    assert_int_equal(i.tool_names_n, 2);
    assert_true(str_eq(i.tool_names[0], STR("f")));
    assert_true(str_eq(i.tool_names[1], STR("g")));
    assert_true(str_eq(i.service_tier, STR("flex")));
    assert_true(str_eq(i.user, STR("u1")));
    assert_false(i.has_media || i.hides_input);
    i = read_ok(
        API_CHAT,
        "{\"model\":\"m\",\"messages\":[],\"max_tokens\":5,\"functions\":[{\"name\":\"old\"}]}");
    assert_string_equal(i.out_cap_member, "max_tokens");
    assert_true(str_eq(i.tool_names[0], STR("old")));
}

#define CHAT_PART(part)                                               \
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[" \
    "{\"type\":\"text\",\"text\":\"x\"}," part "]}]}"

static void test_chat_media(void **state)
{
    (void)state;
    assert_true(
        read_ok(API_CHAT, CHAT_PART("{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:\"}}"))
            .has_media);
    assert_true(read_ok(API_CHAT, CHAT_PART("{\"type\":\"input_audio\"}")).has_media);
    assert_true(read_ok(API_CHAT, CHAT_PART("{\"type\":\"file\"}")).has_media);
    assert_true(read_ok(API_CHAT, CHAT_PART("{\"type\":\"tomorrow\"}")).has_media);
    assert_true(read_ok(API_CHAT, CHAT_PART("{}")).has_media);
    assert_false(read_ok(API_CHAT, CHAT_PART("{\"type\":\"refusal\"}")).has_media);
    assert_true(read_ok(API_CHAT, "{\"model\":\"m\",\"messages\":[{\"content\":{}}]}").has_media);
    assert_true(
        read_ok(API_CHAT, "{\"model\":\"m\",\"messages\":[],\"modalities\":[\"text\",\"audio\"]}")
            .has_media);
    assert_false(
        read_ok(API_CHAT, "{\"model\":\"m\",\"messages\":[],\"modalities\":[\"text\"]}").has_media);
    assert_true(read_ok(API_CHAT, "{\"model\":\"m\",\"messages\":[{\"audio\":{\"id\":\"a\"}}]}")
                    .hides_input);
}

static void test_chat_web_search(void **state)
{
    (void)state;
    RequestInfo i = read_ok(API_CHAT,
                            "{\"model\":\"m\",\"messages\":[],\"web_search_options\":{}}");
    assert_int_equal(i.server_tools, 1);
    assert_int_equal(i.server_uses_max, -1);
    assert_true(i.web_search_only && i.hides_input);
    assert_false(i.has_tools);
    /* these search once, asked or not */
    i = read_ok(API_CHAT, "{\"model\":\"gpt-4o-mini-search-preview-2025-03-11\",\"messages\":[]}");
    assert_int_equal(i.server_tools, 1);
    assert_int_equal(i.server_uses_max, 1);
    assert_true(i.web_search_only && i.hides_input);
    i = read_ok(API_CHAT,
                "{\"model\":\"gpt-5-search-api\",\"messages\":[],\"web_search_options\":{}}");
    assert_int_equal(i.server_tools, 1);
    assert_int_equal(i.server_uses_max, 1);
}

static void test_faults(void **state)
{
    (void)state;
    expect_fault(API_CHAT, "[]", NULL, "the body must be a JSON object, found an array");
    expect_fault(API_CHAT, "{}", "model", "`model` is missing: expected a string");
    expect_fault(API_CHAT, "{\"model\":5}", "model", "`model` must be a string, found an integer");
    expect_fault(API_CHAT, "{\"model\":\"\"}", "model", "`model` is empty");
    expect_fault(API_CHAT, "{\"model\":\"a\\u0000b\"}", "model", "`model` is not a model id");
    expect_fault(API_CHAT, "{\"model\":\"m\",\"stream\":\"yes\"}", "stream",
                 "`stream` must be a boolean, found a string");
    expect_fault(API_CHAT, "{\"model\":\"m\"}", "messages",
                 "`messages` is missing: expected an array");
    expect_fault(API_CHAT, "{\"model\":\"m\",\"messages\":{}}", "messages",
                 "`messages` must be an array, found an object");
#define WITH(more) "{\"model\":\"m\",\"messages\":[]," more "}"
    expect_fault(API_CHAT, WITH("\"n\":0"), "n", "`n` must be between 1 and 128");
    expect_fault(API_CHAT, WITH("\"n\":129"), "n", "`n` must be between 1 and 128");
    expect_fault(API_CHAT, WITH("\"n\":1.5"), "n", "`n` must be a whole number, found a number");
    expect_fault(API_CHAT, WITH("\"n\":true"), "n", "`n` must be a whole number, found a boolean");
    expect_fault(API_CHAT, WITH("\"n\":2,\"best_of\":3"), "best_of",
                 "`best_of` is not served: what is thrown away is billed, too");
    expect_fault(API_CHAT, WITH("\"max_tokens\":-1"), "max_tokens",
                 "`max_tokens` must be between 1 and 1000000000");
    expect_fault(API_CHAT, WITH("\"max_tokens\":18446744073709551615"), "max_tokens",
                 "`max_tokens` must be between 1 and 1000000000");
    expect_fault(API_CHAT, WITH("\"max_tokens\":1,\"max_completion_tokens\":1"), "max_tokens",
                 "`max_completion_tokens` and `max_tokens` cannot both be given");
    expect_fault(API_CHAT, WITH("\"stream_options\":1"), "stream_options",
                 "`stream_options` must be an object, found an integer");
    expect_fault(API_CHAT, WITH("\"tools\":{}"), "tools",
                 "`tools` must be an array, found an object");
    expect_fault(API_CHAT, WITH("\"user\":1"), "user", "`user` must be a string, found an integer");
    expect_fault(API_MESSAGES, WITH("\"stream\":false"), "max_tokens",
                 "`max_tokens` is missing: expected a whole number");
    expect_fault(API_RESPONSES, "{\"model\":\"m\"}", "input",
                 "`input` is missing: expected a string or an array");
    expect_fault(API_RESPONSES, "{\"model\":\"m\",\"input\":5}", "input",
                 "`input` must be a string or an array, found an integer");
    expect_fault(API_RESPONSES, "{\"model\":\"m\",\"input\":\"\",\"background\":1}", "background",
                 "`background` must be a boolean, found an integer");
    expect_fault(API_RESPONSES, "{\"model\":\"m\",\"input\":\"\",\"background\":true}",
                 "background",
                 "`background` is not served: what is answered later could neither be fetched, nor "
                 "be ended, nor be billed to its task; ask for a stream");
    read_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"\",\"background\":false}");
    expect_fault(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":{}}", "input",
                 "`input` must be a string or an array, found an object");
}

static void test_too_many_tools(void **state)
{
    (void)state;
    Buf b;
    buf_init(&b, 1 << 20);
    buf_add(&b, STR("{\"model\":\"m\",\"messages\":[],\"tools\":[{}"));
    for (int i = 0; i < REQUEST_TOOLS_MAX; i++) buf_add(&b, STR(",{}"));
    buf_add(&b, STR("]}"));
    expect_fault(API_CHAT, b.ptr, "tools", "`tools` has 513 elements, 512 are allowed");
    Arena tiny;
    arena_init(&tiny, 64);
    const Json *body = NULL;
    assert_int_equal(
        json_parse(&arena, STR("{\"model\":\"m\",\"messages\":[],\"tools\":[{},{},{},{},{},{}]}"),
                   NULL, &body, NULL),
        0);
    RequestInfo info;
    RequestFault fault;
    assert_int_equal(request_info_read(&tiny, API_CHAT, body, &info, &fault), -ENOMEM);
    arena_deinit(&tiny);
    buf_deinit(&b);
}

/* --- Responses ------------------------------------------------------------------------------ */

static void test_responses(void **state)
{
    (void)state;
    RequestInfo i = read_ok(API_RESPONSES,
                            "{\"model\":\"m\",\"input\":\"hello\",\"instructions\":\"be brief\","
                            "\"max_output_tokens\":9}");
    assert_int_equal(i.messages, 2);
    assert_int_equal(i.out_cap, 9);
    assert_string_equal(i.out_cap_member, "max_output_tokens");
    assert_false(i.hides_input || i.has_media);
    i = read_ok(
        API_RESPONSES,
        "{\"model\":\"m\",\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\"}]},"
        "{\"type\":\"function_call\",\"name\":\"f\"},{\"type\":\"function_call_output\",\"output\":\"x\"},"
        "{\"type\":\"reasoning\",\"encrypted_content\":\"zz\"}]}");
    assert_int_equal(i.messages, 4);
    assert_false(i.hides_input || i.has_media);
}

static void test_responses_hidden_input(void **state)
{
    (void)state;
    assert_true(
        read_ok(API_RESPONSES, "{\"model\":\"m\",\"previous_response_id\":\"r\"}").hides_input);
    assert_true(read_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"\",\"conversation\":\"c\"}")
                    .hides_input);
    assert_true(read_ok(API_RESPONSES, "{\"model\":\"m\",\"prompt\":{\"id\":\"p\"}}").hides_input);
    assert_false(
        read_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"\",\"previous_response_id\":null}")
            .hides_input);
#define ITEM(item) "{\"model\":\"m\",\"input\":[" item "]}"
    assert_true(
        read_ok(API_RESPONSES, ITEM("{\"type\":\"item_reference\",\"id\":\"i\"}")).hides_input);
    assert_true(read_ok(API_RESPONSES, ITEM("{\"type\":\"reasoning\",\"id\":\"i\"}")).hides_input);
    assert_true(read_ok(API_RESPONSES,
                        ITEM("{\"type\":\"message\",\"content\":[{\"type\":\"input_image\"}]}"))
                    .has_media);
    assert_true(read_ok(API_RESPONSES, ITEM("{\"type\":\"computer_call_output\"}")).has_media);
    assert_true(
        read_ok(API_RESPONSES,
                ITEM("{\"type\":\"function_call_output\",\"output\":[{\"type\":\"input_file\"}]}"))
            .has_media);
}

static void test_responses_tools(void **state)
{
    (void)state;
    RequestInfo i = read_ok(
        API_RESPONSES,
        "{\"model\":\"m\",\"input\":\"\",\"tools\":[{\"type\":\"function\",\"name\":\"f\"},"
        "{\"type\":\"local_shell\"}]}");
    assert_int_equal(i.tool_names_n, 2);
    assert_true(str_eq(i.tool_names[1], STR("local_shell")));
    assert_int_equal(i.server_tools, 0);
    assert_int_equal(i.tool_prompts, 2);
    /* the client's own in a namespace are no provider's tools, others are */
    i = read_ok(API_RESPONSES,
                "{\"model\":\"m\",\"input\":\"\",\"tools\":[{\"type\":\"computer\"},"
                "{\"type\":\"namespace\",\"name\":\"crm\",\"tools\":[{\"type\":\"function\","
                "\"name\":\"f\"}]}]}");
    assert_int_equal(i.server_tools, 0);
    assert_int_equal(i.tool_prompts, 2);
    assert_true(str_eq(i.tool_names[1], STR("crm")));
    i = read_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"\",\"tools\":[{\"type\":\"namespace\","
                               "\"name\":\"crm\",\"tools\":[{\"type\":\"web_search\"}]}]}");
    assert_int_equal(i.server_tools, 1);
    i = read_ok(API_RESPONSES,
                "{\"model\":\"m\",\"input\":\"\",\"tools\":[{\"type\":\"web_search\"}]}");
    assert_int_equal(i.server_tools, 1);
    assert_int_equal(i.server_uses_max, -1);
    assert_true(i.web_search_only && i.hides_input && i.has_tools);
    i = read_ok(
        API_RESPONSES,
        "{\"model\":\"m\",\"input\":\"\",\"max_tool_calls\":4,\"tools\":[{\"type\":\"web_search\"},"
        "{\"type\":\"code_interpreter\"}]}");
    assert_int_equal(i.server_tools, 2);
    assert_int_equal(i.server_uses_max, 4);
    assert_false(i.web_search_only);
}

/* --- Anthropic ------------------------------------------------------------------------------ */

#define M(more) "{\"model\":\"claude\",\"max_tokens\":100," more "}"

static void test_no_output(void **state)
{
    (void)state;
    RequestInfo i = read_ok(API_MESSAGES,
                            "{\"model\":\"claude\",\"max_tokens\":0,\"messages\":[]}");
    assert_true(i.no_output && i.out_cap == 0 && !i.out_cap_member);
    assert_false(read_ok(API_MESSAGES, M("\"messages\":[]")).no_output);
    expect_fault(API_MESSAGES, "{\"model\":\"claude\",\"max_tokens\":-1,\"messages\":[]}",
                 "max_tokens", "`max_tokens` must be between 1 and 1000000000");
    i = read_ok(API_MESSAGES,
                M("\"messages\":[],\"tools\":[{\"name\":\"f\"},{\"type\":\"bash_20250124\"},"
                  "{\"type\":\"text_editor_20250728\"},{\"type\":\"custom\"}]"));
    assert_int_equal(i.tool_prompts, 3); /* its own have descriptions that are not in the body */
}

static void test_thinking(void **state)
{
    (void)state;
    RequestInfo i = read_ok(API_MESSAGES, M("\"messages\":[]"));
    assert_int_equal(i.out_min, 0);
    i = read_ok(API_MESSAGES,
                M("\"messages\":[],\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":4000}"));
    assert_int_equal(i.out_min, 4001);
    i = read_ok(API_MESSAGES,
                M("\"messages\":[],\"thinking\":{\"budget_tokens\":-9223372036854775808}"));
    assert_int_equal(i.out_min, 0);
    i = read_ok(API_MESSAGES,
                M("\"messages\":[],\"thinking\":{\"budget_tokens\":9223372036854775807}"));
    assert_int_equal(i.out_min, 0);
}

static void test_messages(void **state)
{
    (void)state;
    RequestInfo i = read_ok(
        API_MESSAGES, M("\"system\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                        "\"metadata\":{\"user_id\":\"u9\"},\"stream\":true"));
    assert_int_equal(i.messages, 2);
    assert_int_equal(i.out_cap, 100);
    assert_string_equal(i.out_cap_member, "max_tokens");
    assert_true(str_eq(i.user, STR("u9")));
    assert_true(i.stream);
    assert_false(i.cache_write || i.has_media || i.hides_input);
}

#define BLOCK(block) M("\"messages\":[{\"role\":\"user\",\"content\":[" block "]}]")

static void test_messages_blocks(void **state)
{
    (void)state;
    static const char *const plain[] = {
        BLOCK("{\"type\":\"text\",\"text\":\"x\"}"),
        BLOCK("{\"type\":\"thinking\"},{\"type\":\"redacted_thinking\"},{\"type\":\"tool_use\"}"),
        BLOCK("{\"type\":\"tool_result\",\"content\":\"x\"}"),
        BLOCK("{\"type\":\"tool_result\"}"),
        BLOCK("{\"type\":\"tool_result\",\"content\":[{\"type\":\"text\"}]}"),
        BLOCK("{\"type\":\"document\",\"source\":{\"type\":\"text\",\"data\":\"x\"}}"),
        BLOCK(
            "{\"type\":\"document\",\"source\":{\"type\":\"content\",\"content\":[{\"type\":\"text\"}]}}"),
    };
    static const char *const media[] = {
        BLOCK("{\"type\":\"image\",\"source\":{\"type\":\"base64\"}}"),
        BLOCK("{\"type\":\"tool_result\",\"content\":[{\"type\":\"image\"}]}"),
        BLOCK("{\"type\":\"document\",\"source\":{\"type\":\"base64\"}}"),
        BLOCK(
            "{\"type\":\"document\",\"source\":{\"type\":\"content\",\"content\":[{\"type\":\"image\"}]}}"),
        BLOCK("{\"type\":\"container_upload\"}"),
        BLOCK("{\"type\":\"web_search_tool_result\",\"content\":[]}"),
    };
    for (size_t i = 0; i < ARRAY_N(plain); i++)
        assert_false(read_ok(API_MESSAGES, plain[i]).has_media);
    for (size_t i = 0; i < ARRAY_N(media); i++)
        assert_true(read_ok(API_MESSAGES, media[i]).has_media);
}

static void test_messages_content_too_deep_is_media(void **state)
{
    (void)state;
    Buf b;
    buf_init(&b, 1 << 16);
    for (int depth = 2; depth <= 20; depth += 18) {
        buf_clear(&b);
        buf_add(&b, STR("{\"model\":\"c\",\"max_tokens\":1,\"messages\":[{\"content\":"));
        for (int i = 0; i < depth; i++) buf_add(&b, STR("[{\"type\":\"tool_result\",\"content\":"));
        buf_add(&b, STR("\"x\""));
        for (int i = 0; i < depth; i++) buf_add(&b, STR("}]"));
        buf_add(&b, STR("}]}"));
        assert_int_equal(read_ok(API_MESSAGES, b.ptr).has_media, depth == 20);
    }
    buf_deinit(&b);
}

static void test_messages_cache(void **state)
{
    (void)state;
#define CC "\"cache_control\":{\"type\":\"ephemeral\"}"
    assert_true(read_ok(API_MESSAGES, BLOCK("{\"type\":\"text\"," CC "}")).cache_write);
    assert_true(read_ok(API_MESSAGES, M("\"messages\":[],\"system\":[{\"type\":\"text\"," CC "}]"))
                    .cache_write);
    assert_true(read_ok(API_MESSAGES, M("\"messages\":[],\"tools\":[{\"name\":\"f\"," CC "}]"))
                    .cache_write);
    assert_true(read_ok(API_MESSAGES, M("\"messages\":[]," CC)).cache_write);
    assert_true(
        read_ok(API_MESSAGES,
                BLOCK("{\"type\":\"tool_result\",\"content\":[{\"type\":\"text\"," CC "}]}"))
            .cache_write);
    assert_false(
        read_ok(API_MESSAGES, BLOCK("{\"type\":\"text\",\"cache_control\":null}")).cache_write);
}

static void test_messages_tools(void **state)
{
    (void)state;
    RequestInfo i = read_ok(
        API_MESSAGES,
        M("\"messages\":[],\"tools\":[{\"name\":\"f\",\"input_schema\":{}},"
          "{\"type\":\"bash_20250124\",\"name\":\"bash\"},"
          "{\"type\":\"web_search_20250305\",\"name\":\"web_search\",\"max_uses\":3}]"));
    assert_int_equal(i.tool_names_n, 2);
    assert_int_equal(i.server_tools, 1);
    assert_int_equal(i.server_uses_max, 3);
    assert_true(i.web_search_only && i.hides_input);
    i = read_ok(API_MESSAGES,
                M("\"messages\":[],\"tools\":[{\"type\":\"web_search_20250305\",\"max_uses\":3},"
                  "{\"type\":\"web_fetch_20250910\",\"max_uses\":2}]"));
    assert_int_equal(i.server_uses_max, 5);
    assert_false(i.web_search_only);
    i = read_ok(API_MESSAGES, M("\"messages\":[],\"tools\":[{\"type\":\"web_search_20250305\"},"
                                "{\"type\":\"web_search_20250305\",\"max_uses\":2}]"));
    assert_int_equal(i.server_uses_max, -1);
    i = read_ok(API_MESSAGES, M("\"messages\":[],\"mcp_servers\":[{\"url\":\"x\"}]"));
    assert_int_equal(i.server_tools, 1);
    assert_int_equal(i.server_uses_max, -1);
}

/* --- embeddings ----------------------------------------------------------------------------- */

static void test_embeddings(void **state)
{
    (void)state;
    assert_int_equal(read_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":\"x\"}").messages, 1);
    assert_int_equal(read_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":[\"x\",\"y\"]}").messages,
                     2);
    assert_int_equal(read_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":[1,2,3]}").messages, 1);
    assert_int_equal(read_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":[[1,2],[3]]}").messages,
                     2);
    assert_int_equal(read_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":[]}").messages, 0);
    assert_false(read_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":[],\"stream\":true}").stream);
}

/* What decides the price besides the tokens. */
static void test_terms(void **state)
{
    (void)state;
    RequestInfo i = read_ok(API_MESSAGES, M("\"messages\":[],\"speed\":\"fast\","
                                            "\"inference_geo\":\"us\""));
    assert_int_equal(i.service, SERVICE_FAST);
    assert_int_equal(i.region, REGION_US);
    i = read_ok(API_MESSAGES, M("\"messages\":[],\"speed\":\"standard\""));
    assert_int_equal(i.service, SERVICE_UNKNOWN);
    i = read_ok(API_MESSAGES,
                M("\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":"
                  "\"tool_result\",\"content\":[{\"type\":\"image\"}]}]}]"));
    assert_true(i.has_media && !i.other_media);
    assert_int_equal(i.images, 2);
    i = read_ok(API_CHAT,
                "{\"model\":\"m\",\"service_tier\":\"priority\",\"messages\":[{\"role\":\"user\","
                "\"content\":[{\"type\":\"image_url\"},{\"type\":\"input_audio\"}]}]}");
    assert_int_equal(i.service, SERVICE_PRIORITY);
    assert_int_equal(i.images, 1);
    assert_true(i.other_media);
    i = read_ok(API_RESPONSES,
                "{\"model\":\"m\",\"input\":\"\",\"max_tool_calls\":4,\"tools\":[{\"type\":"
                "\"web_search\",\"search_context_size\":\"high\"},{\"type\":\"file_search\"},"
                "{\"type\":\"code_interpreter\"}]}");
    assert_int_equal(i.server_kinds,
                     1u << SERVER_WEB_SEARCH | 1u << SERVER_FILE_SEARCH | 1u << SERVER_CODE);
    assert_int_equal(i.search_size, SEARCH_HIGH);
    assert_int_equal(i.server_uses_max, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_least),
        cmocka_unit_test(test_chat_full),
        cmocka_unit_test(test_chat_media),
        cmocka_unit_test(test_chat_web_search),
        cmocka_unit_test(test_thinking),
        cmocka_unit_test(test_no_output),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_too_many_tools),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_responses_hidden_input),
        cmocka_unit_test(test_responses_tools),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_messages_blocks),
        cmocka_unit_test(test_messages_content_too_deep_is_media),
        cmocka_unit_test(test_messages_cache),
        cmocka_unit_test(test_messages_tools),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_terms),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
