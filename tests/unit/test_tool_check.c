#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "logic/tool_check.h"

#define SCHEMA \
    "{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"string\"}},\"required\":[\"id\"]}"
#define SHUFFLED \
    "{ \"required\": [\"id\"], \"properties\": {\"id\": {\"type\": \"string\"}}, \"type\": \"object\" }"
#define DESCRIPTION "Finds an order"

static Arena arena;
static ToolSet declared;
static ToolPolicy policy;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 64 << 20);
    Issue issues[8];
    size_t n;
    assert_int_equal(tools_parse(&arena,
                                 STR("[{\"name\":\"find\",\"description\":\"" DESCRIPTION
                                     "\",\"inputSchema\":" SCHEMA
                                     "},{\"name\":\"plain\",\"description\":\"Takes nothing\"}]"),
                                 &declared, issues, ARRAY_N(issues), &n),
                     0);
    policy = (ToolPolicy){ .declared = &declared };
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static const Json *json(const char *text)
{
    const Json *v;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static ToolReport check(Api api, const char *body)
{
    ToolReport report;
    assert_int_equal(tool_check(&arena, api, json(body), &policy, &report), 0);
    return report;
}

/* The first fault of body: its kind and what it names. */
static void expect(Api api, const char *body, ToolFault fault, const char *name)
{
    ToolReport report = check(api, body);
    const ToolFinding *first = tool_report_first(&report);
    if (fault == TOOL_FIT) {
        assert_null(first);
        assert_int_equal(report.faults_n, 0);
        return;
    }
    assert_non_null(first);
    if (first->fault != fault)
        fail_msg("%s instead of %s: %s", tool_fault_name(first->fault), tool_fault_name(fault),
                 body);
    assert_true(str_eq(first->name, str_of(name)));
    char text[TOOL_FAULT_TEXT_MAX];
    tool_fault_text(first, text);
    assert_non_null(strstr(text, name));
}

/* A body that offers one function, in the shape of each API. */
static const char *offer(Api api, const char *name, const char *description, const char *schema,
                         const char *more)
{
    static const char *const before[API_N_] = {
        "{\"tools\":[{\"type\":\"function\",\"function\":{",
        "{\"input\":\"x\",\"tools\":[{\"type\":\"function\",", "{\"tools\":[{"
    };
    Str text = arena_printf(&arena, "%s\"name\":\"%s\",\"description\":\"%s\",\"%s\":%s%s}%s]}",
                            before[api], name, description,
                            api == API_MESSAGES ? "input_schema" : "parameters", schema, more,
                            api == API_CHAT ? "}" : "");
    return text.ptr;
}

static void test_as_declared(void **state)
{
    (void)state;
    for (Api api = API_CHAT; api <= API_MESSAGES; api++) {
        expect(api, offer(api, "find", DESCRIPTION, SCHEMA, ""), TOOL_FIT, "");
        expect(api, offer(api, "find", DESCRIPTION, SHUFFLED, ",\"strict\":true"), TOOL_FIT, "");
        expect(api, offer(api, "plain", "Takes nothing", "null", ""), TOOL_FIT, "");
        expect(api, "{}", TOOL_FIT, "");
        expect(api, "{\"tools\":null}", TOOL_FIT, "");
    }
    expect(API_MESSAGES,
           offer(API_MESSAGES, "find", DESCRIPTION, SCHEMA,
                 ",\"type\":\"custom\",\"cache_control\":{\"type\":\"ephemeral\"}"),
           TOOL_FIT, "");
    expect(API_EMBEDDINGS, "{\"tools\":[{}]}", TOOL_FIT, "");
}

static void test_every_changed_byte_counts(void **state)
{
    (void)state;
    for (Api api = API_CHAT; api <= API_MESSAGES; api++) {
        expect(api, offer(api, "Find", DESCRIPTION, SCHEMA, ""), TOOL_UNDECLARED, "Find");
        expect(api, offer(api, "find", "", SCHEMA, ""), TOOL_DESCRIPTION_DIFFERS, "find");
        expect(api, offer(api, "find", DESCRIPTION, "null", ""), TOOL_SCHEMA_DIFFERS, "find");
        expect(api, offer(api, "find", DESCRIPTION, SCHEMA, ",\"input_examples\":[{}]"),
               TOOL_MEMBER_UNKNOWN, "find.input_examples");
        for (size_t i = 0; i < strlen(DESCRIPTION); i++) {
            char text[] = DESCRIPTION;
            text[i] ^= 1;
            const char *body = offer(api, "find", text, SCHEMA, "");
            expect(api, body, TOOL_DESCRIPTION_DIFFERS, "find");
            ToolReport report = check(api, body);
            assert_int_equal(report.items[0].differs_at, i);
        }
    }
}

/* One byte of the schema changed in any way that leaves it JSON. */
static void test_every_byte_of_the_schema(void **state)
{
    (void)state;
    size_t tried = 0;
    for (size_t i = 0; i < strlen(SCHEMA); i++) {
        char text[] = SCHEMA;
        const Json *v;
        text[i] ^= 2;
        if (text[i] == '"' || text[i] == '\\' || SCHEMA[i] == '"') continue;
        if (json_parse(&arena, str_of(text), NULL, &v, NULL) != 0) continue;
        expect(API_CHAT, offer(API_CHAT, "find", DESCRIPTION, text, ""), TOOL_SCHEMA_DIFFERS,
               "find");
        tried++;
    }
    assert_true(tried > 30);
    expect(API_CHAT, offer(API_CHAT, "find", DESCRIPTION, "{\"type\":1e400}", ""),
           TOOL_SCHEMA_DIFFERS, "find"); /* a number without a canonical form */
    expect(API_CHAT, offer(API_CHAT, "find", DESCRIPTION, "[]", ""), TOOL_SCHEMA_DIFFERS, "find");
}

static void test_odd_declarations(void **state)
{
    (void)state;
    expect(API_CHAT, "{\"tools\":[{}]}", TOOL_PROVIDER_UNLISTED, "");
    expect(API_CHAT, "{\"tools\":[7]}", TOOL_PROVIDER_UNLISTED, "");
    expect(API_CHAT, "{\"tools\":[{\"type\":\"function\",\"function\":{}}]}", TOOL_UNDECLARED, "");
    expect(
        API_CHAT,
        "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"find\",\"description\":7}}]}",
        TOOL_DESCRIPTION_DIFFERS, "find");
    expect(API_CHAT, "{\"tools\":[{\"type\":\"custom\",\"custom\":{\"name\":\"find\"}}]}",
           TOOL_KIND_DIFFERS, "find");
    expect(API_CHAT, "{\"functions\":[{\"name\":\"sneak\"}]}", TOOL_UNDECLARED, "sneak");
    expect(API_CHAT,
           "{\"functions\":[{\"name\":\"find\",\"description\":\"" DESCRIPTION
           "\",\"parameters\":" SCHEMA "}]}",
           TOOL_FIT, "");
    /* both members of the old and the new kind are looked at */
    expect(API_CHAT, "{\"tools\":[],\"functions\":[{\"name\":\"sneak\"}]}", TOOL_UNDECLARED,
           "sneak");
    expect(API_MESSAGES, "{\"tools\":[{\"type\":\"bash_20250124\",\"name\":\"bash\"}]}",
           TOOL_UNDECLARED, "bash");
    expect(API_RESPONSES, "{\"tools\":[{\"type\":\"local_shell\"}]}", TOOL_UNDECLARED,
           "local_shell");
}

static void test_provider_tools(void **state)
{
    (void)state;
    static const struct {
        Api api;
        const char *body, *kind;
    } cases[] = {
        { API_CHAT, "{\"web_search_options\":{}}", "web_search" },
        { API_RESPONSES, "{\"tools\":[{\"type\":\"web_search_preview\"}]}", "web_search" },
        { API_RESPONSES, "{\"tools\":[{\"type\":\"web_search_2025_08_26\"}]}", "web_search" },
        { API_RESPONSES, "{\"tools\":[{\"type\":\"web_search_preview_2025_03_11\"}]}",
          "web_search" },
        { API_RESPONSES, "{\"tools\":[{\"type\":\"mcp\",\"server_url\":\"https://x\"}]}", "mcp" },
        { API_RESPONSES, "{\"tools\":[{\"type\":\"code_interpreter\"}]}", "code_interpreter" },
        { API_MESSAGES, "{\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\"}]}",
          "web_search" },
        { API_MESSAGES, "{\"mcp_servers\":[{\"url\":\"https://x\"}]}", "mcp" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Str listed[] = { STR("other"), str_of(cases[i].kind) };
        expect(cases[i].api, cases[i].body, TOOL_PROVIDER_UNLISTED, cases[i].kind);
        policy.provider_tools = listed;
        policy.provider_tools_n = 2;
        expect(cases[i].api, cases[i].body, TOOL_FIT, "");
        policy.provider_tools_n = 0;
    }
}

static void test_hidden_tools(void **state)
{
    (void)state;
    Str mcp = STR("mcp");
    expect(API_RESPONSES, "{\"prompt\":{\"id\":\"p\"}}", TOOL_HIDDEN, "prompt");
    expect(API_RESPONSES, "{\"input\":[{\"type\":\"mcp_list_tools\",\"tools\":[]}]}", TOOL_HIDDEN,
           "mcp_list_tools");
    expect(API_RESPONSES, "{\"input\":[{\"type\":\"message\"},{\"type\":\"item_reference\"}]}",
           TOOL_FIT, "");
    policy.provider_tools = &mcp;
    policy.provider_tools_n = 1;
    expect(API_RESPONSES, "{\"input\":[{\"type\":\"mcp_list_tools\",\"tools\":[]}]}", TOOL_FIT, "");
    policy.provider_tools_n = 0;
}

static bool not_find(void *ctx, Str name)
{
    (void)ctx;
    return !str_eq(name, STR("find")) && !str_eq(name, STR("web_search"));
}

static void test_switched_off(void **state)
{
    (void)state;
    policy.is_on = not_find;
    expect(API_CHAT, offer(API_CHAT, "find", DESCRIPTION, SCHEMA, ""), TOOL_SWITCHED_OFF, "find");
    /* also for versions that declare nothing */
    policy.declared = NULL;
    expect(API_CHAT, offer(API_CHAT, "find", "any", "{}", ""), TOOL_SWITCHED_OFF, "find");
    expect(API_CHAT, offer(API_CHAT, "other", "any", "{}", ""), TOOL_FIT, "");
    expect(API_CHAT, "{\"web_search_options\":{}}", TOOL_SWITCHED_OFF, "web_search");
    expect(API_RESPONSES, "{\"tools\":[{\"type\":\"mcp\"}],\"prompt\":{}}", TOOL_FIT, "");
    policy = (ToolPolicy){ .declared = &declared };
}

/* --- taking out ------------------------------------------------------------------------------- */

#define FIND(t)                                                                          \
    "{\"type\":\"function\"," t "\"name\":\"find\",\"description\":\"" DESCRIPTION "\"," \
    "\"parameters\":" SCHEMA "}"
#define CHAT_FIND                                                                           \
    "{\"type\":\"function\",\"function\":{\"name\":\"find\",\"description\":\"" DESCRIPTION \
    "\",\"parameters\":" SCHEMA "}}"
#define CHAT_BAD "{\"type\":\"function\",\"function\":{\"name\":\"bad\"}}"
#define MESSAGES_FIND \
    "{\"name\":\"find\",\"description\":\"" DESCRIPTION "\",\"input_schema\":" SCHEMA "}"

/* The edits as text: member=value, an empty value drops it. The report's items belong to the
 * document that was checked. */
static void edits_of(Api api, const char *body, const char *expected)
{
    const Json *v = json(body);
    ToolReport report;
    ToolEdit edits[TOOL_EDITS_MAX];
    size_t n = 0;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 16);
    assert_int_equal(tool_check(&arena, api, v, &policy, &report), 0);
    assert_int_equal(tool_edits(&arena, api, v, &report, edits, &n), 0);
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "%s%s=%.*s", i ? " " : "", edits[i].member, STR_ARG(edits[i].value));
    assert_string_equal(text.ptr ? text.ptr : "", expected);
}

static void test_taken_out(void **state)
{
    (void)state;
    edits_of(API_CHAT, "{\"tools\":[" CHAT_BAD "," CHAT_FIND "," CHAT_BAD "]}",
             "tools=[" CHAT_FIND "]");
    edits_of(API_CHAT,
             "{\"tools\":[" CHAT_BAD "],\"tool_choice\":\"required\",\"parallel_tool_calls\":true}",
             "tools= tool_choice= parallel_tool_calls=");
    edits_of(API_CHAT,
             "{\"tools\":[" CHAT_FIND
             "],\"functions\":[{\"name\":\"sneak\"}],\"web_search_options\":{},"
             "\"function_call\":{\"name\":\"sneak\"}}",
             "functions= web_search_options= function_call=\"auto\"");
    edits_of(API_MESSAGES,
             "{\"tools\":[" MESSAGES_FIND ",{\"name\":\"bad\"}],\"mcp_servers\":[{}]}",
             "tools=[" MESSAGES_FIND "] mcp_servers=");
}

static void test_choices_of_what_is_gone(void **state)
{
    (void)state;
#define CHAT_TOOLS "\"tools\":[" CHAT_FIND "," CHAT_BAD "]"
#define CHAT_LEFT "tools=[" CHAT_FIND "]"
    edits_of(API_CHAT,
             "{" CHAT_TOOLS
             ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"bad\"}}}",
             CHAT_LEFT " tool_choice=\"auto\"");
    edits_of(API_CHAT,
             "{" CHAT_TOOLS
             ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"find\"}}}",
             CHAT_LEFT);
    edits_of(API_CHAT, "{" CHAT_TOOLS ",\"tool_choice\":\"required\"}", CHAT_LEFT);
    edits_of(
        API_CHAT,
        "{" CHAT_TOOLS ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{"
        "\"mode\":\"required\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"bad\"}}]}}}",
        CHAT_LEFT " tool_choice=\"required\"");
#define TOOLS "\"tools\":[" FIND("") ",{\"type\":\"web_search_preview\"}]"
#define LEFT "tools=[" FIND("") "]"
    edits_of(API_RESPONSES, "{" TOOLS ",\"tool_choice\":{\"type\":\"web_search_preview\"}}",
             LEFT " tool_choice=\"auto\"");
    edits_of(API_RESPONSES, "{" TOOLS ",\"tool_choice\":{\"type\":\"function\",\"name\":\"find\"}}",
             LEFT);
    edits_of(API_RESPONSES,
             "{" TOOLS ",\"tool_choice\":{\"type\":\"allowed_tools\",\"mode\":\"auto\","
             "\"tools\":[{\"type\":\"function\",\"name\":\"find\"}]}}",
             LEFT);
    edits_of(API_RESPONSES, "{" TOOLS ",\"tool_choice\":{\"type\":\"mcp\",\"server_label\":\"s\"}}",
             LEFT " tool_choice=\"auto\"");
    edits_of(API_MESSAGES,
             "{\"tools\":[" MESSAGES_FIND ",{\"name\":\"bad\"}],\"tool_choice\":{\"type\":\"tool\","
             "\"name\":\"bad\"}}",
             "tools=[" MESSAGES_FIND "] tool_choice={\"type\":\"auto\"}");
    edits_of(API_MESSAGES,
             "{\"tools\":[" MESSAGES_FIND
             ",{\"name\":\"bad\"}],\"tool_choice\":{\"type\":\"any\"}}",
             "tools=[" MESSAGES_FIND "]");
}

static void test_hidden_cannot_be_taken_out(void **state)
{
    (void)state;
    const Json *v = json("{\"prompt\":{\"id\":\"p\"}}");
    ToolReport report;
    ToolEdit edits[TOOL_EDITS_MAX];
    size_t n;
    assert_int_equal(tool_check(&arena, API_RESPONSES, v, &policy, &report), 0);
    assert_int_equal(tool_edits(&arena, API_RESPONSES, v, &report, edits, &n), -ENOTSUP);
}

static void test_memory(void **state)
{
    (void)state;
    const Json *v = json(offer(API_CHAT, "find", DESCRIPTION, "{}", ""));
    ToolReport report;
    Arena small;
    arena_init(&small, 0);
    assert_int_equal(tool_check(&small, API_CHAT, v, &policy, &report), -ENOMEM);
    arena_deinit(&small);
}

static void test_remote_tools(void **state)
{
    (void)state;
    ToolFault fault;
    size_t at;
    const Tool *find = tools_find(&declared, STR("find"));
    assert_int_equal(tool_compare(&arena, find, STR(DESCRIPTION), json(SHUFFLED), &fault, &at), 0);
    assert_int_equal(fault, TOOL_FIT);
    assert_int_equal(tool_compare(&arena, find, STR(DESCRIPTION " "), json(SCHEMA), &fault, &at),
                     0);
    assert_int_equal(fault, TOOL_DESCRIPTION_DIFFERS);
    assert_int_equal(at, strlen(DESCRIPTION));
    assert_int_equal(tool_compare(&arena, find, STR(DESCRIPTION), json("{}"), &fault, &at), 0);
    assert_int_equal(fault, TOOL_SCHEMA_DIFFERS);
}

/* --- tools within tools ----------------------------------------------------------------------- */

#define NAMESPACE(tools) \
    "{\"type\":\"namespace\",\"name\":\"crm\",\"description\":\"d\",\"tools\":[" tools "]}"
#define FOUND(kind, tools) "{\"input\":[{\"type\":\"" kind "\",\"tools\":[" tools "]}]}"
#define OTHER "{\"type\":\"function\",\"name\":\"other\"}"

/* Flags hold for what stands in namespaces and in what a search has found, whatever is declared. */
static void test_nested_switched_off(void **state)
{
    (void)state;
    policy = (ToolPolicy){ .is_on = not_find };
    expect(API_RESPONSES, "{\"tools\":[" NAMESPACE(OTHER) "]}", TOOL_FIT, "");
    expect(API_RESPONSES, "{\"tools\":[" NAMESPACE(OTHER "," FIND("")) "]}", TOOL_SWITCHED_OFF,
           "find");
    expect(API_RESPONSES, "{\"tools\":[" NAMESPACE(NAMESPACE(FIND(""))) "]}", TOOL_SWITCHED_OFF,
           "find");
    expect(API_RESPONSES,
           "{\"tools\":[" NAMESPACE(NAMESPACE(NAMESPACE(NAMESPACE(NAMESPACE(OTHER))))) "]}",
           TOOL_HIDDEN, "tools");
    static const char *const found[] = { FOUND("tool_search_output", FIND("")),
                                         FOUND("mcp_list_tools", "{\"name\":\"find\"}"),
                                         FOUND("additional_tools", OTHER "," FIND("")),
                                         FOUND("tool_search_output", NAMESPACE(FIND(""))) };
    for (size_t i = 0; i < ARRAY_N(found); i++) {
        expect(API_RESPONSES, found[i], TOOL_SWITCHED_OFF, "find");
        ToolReport report = check(API_RESPONSES, found[i]);
        ToolEdit edits[TOOL_EDITS_MAX];
        size_t n;
        assert_int_equal(tool_edits(&arena, API_RESPONSES, json(found[i]), &report, edits, &n),
                         -ENOTSUP);
    }
    expect(API_RESPONSES, FOUND("tool_search_output", OTHER), TOOL_FIT, "");
    /* one of them goes with all of its namespace */
    edits_of(API_RESPONSES,
             "{\"tools\":[" NAMESPACE(OTHER "," FIND(
                 "")) "," OTHER "],\"tool_choice\":{\"type\":\"function\",\"name\":\"find\"}}",
             "tools=[" OTHER "] tool_choice=\"auto\"");
    edits_of(API_RESPONSES, "{\"tools\":[" NAMESPACE(OTHER "," FIND("")) "]}", "tools=");
    policy = (ToolPolicy){ .declared = &declared };
}

/* A namespace that the operator lists still offers nothing that is not declared. */
static void test_nested_declared(void **state)
{
    (void)state;
    Str listed[] = { STR("namespace"), STR("tool_search") };
    expect(API_RESPONSES, "{\"tools\":[" NAMESPACE(FIND("")) "]}", TOOL_PROVIDER_UNLISTED,
           "namespace");
    policy.provider_tools = listed;
    policy.provider_tools_n = ARRAY_N(listed);
    expect(API_RESPONSES, "{\"tools\":[" NAMESPACE(FIND("")) "]}", TOOL_FIT, "");
    expect(API_RESPONSES, "{\"tools\":[" NAMESPACE(FIND("") "," OTHER) "]}", TOOL_UNDECLARED,
           "other");
    expect(API_RESPONSES, FOUND("tool_search_output", OTHER), TOOL_FIT, ""); /* they vouch for it */
    policy.is_on = not_find;
    expect(API_RESPONSES, FOUND("tool_search_output", FIND("")), TOOL_SWITCHED_OFF, "find");
    policy = (ToolPolicy){ .declared = &declared };
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_declared),
        cmocka_unit_test(test_every_changed_byte_counts),
        cmocka_unit_test(test_every_byte_of_the_schema),
        cmocka_unit_test(test_odd_declarations),
        cmocka_unit_test(test_provider_tools),
        cmocka_unit_test(test_hidden_tools),
        cmocka_unit_test(test_switched_off),
        cmocka_unit_test(test_taken_out),
        cmocka_unit_test(test_choices_of_what_is_gone),
        cmocka_unit_test(test_hidden_cannot_be_taken_out),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_remote_tools),
        cmocka_unit_test(test_nested_switched_off),
        cmocka_unit_test(test_nested_declared),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
