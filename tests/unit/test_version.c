#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/diag.h"
#include "logic/version.h"

#define DIGEST "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static Arena arena;

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

static AgentSpec spec_of(const char *yaml)
{
    AgentSpec spec;
    Issue issues[4];
    size_t n;
    int r = manifest_parse(&arena, str_of(yaml), &spec, issues, 4, &n);
    if (r != 0) fail_msg("%s: %s", issues[0].path.ptr, issues[0].message.ptr);
    return spec;
}

static ToolSet tools_of(const char *json)
{
    ToolSet set;
    Issue issues[4];
    size_t n;
    int r = tools_parse(&arena, str_of(json), &set, issues, 4, &n);
    if (r != 0) fail_msg("%s: %s", issues[0].path.ptr, issues[0].message.ptr);
    return set;
}

/* Components, in the arena. */
static Str components(const char *yaml, const char *prompt, const char *tools)
{
    AgentSpec spec = spec_of(yaml);
    ToolSet set = tools ? tools_of(tools) : (ToolSet){ 0 };
    Buf out;
    buf_init(&out, VERSION_COMPONENTS_BYTES_MAX);
    Str digest = str_empty(spec.code) ? STR_NULL : STR(DIGEST);
    int r = version_components(&arena, &spec, str_of(prompt), tools ? &set : NULL, digest, &out);
    if (r != 0) fail_msg("%d: %s", r, diag_text());
    Str copy = arena_str(&arena, buf_str(&out));
    buf_deinit(&out);
    return copy;
}

static const char *id_of(const char *yaml, const char *prompt, const char *tools)
{
    char *id = malloc(VERSION_ID_BYTES + 1);
    version_id(components(yaml, prompt, tools), id);
    Str copy = arena_str(&arena, str_of(id));
    free(id);
    return copy.ptr;
}

#define HEAD "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: support}\nspec:\n"
#define BASE \
    HEAD "  command: [python3, agent.py]\n  prompt: p.md\n  tools: t.json\n  model: sim/echo\n"
#define TOOLS                                                                                      \
    "[{\"name\":\"a\",\"description\":\"d\",\"inputSchema\":{\"type\":\"object\",\"properties\":{" \
    "\"x\":{\"type\":\"integer\"},\"y\":{\"type\":\"string\"}}}},{\"name\":\"b\",\"description\":\"e\"}]"

static void same(const char *a, const char *b)
{
    assert_string_equal(a, b);
}

static void differ(const char *a, const char *b)
{
    assert_string_not_equal(a, b);
}

/* A whole example, so that a change of the format cannot pass unseen: every id would change. */
static void test_the_format(void **state)
{
    (void)state;
    Str text = components(BASE "  sampling: {temperature: 0.20}\n", "Be kind.\n",
                          "[{\"name\":\"a\"}]");
    assert_string_equal(
        text.ptr,
        "{\"agent\":\"support\",\"code\":{\"command\":[\"python3\",\"agent.py\"],\"digest\":\"" DIGEST
        "\",\"runtime\":\"process\"},\"fallbacks\":[],\"limits\":{\"secondsPerTask\":600,\"tokensPerTask\":"
        "200000,\"toolCallsPerTask\":40,\"usdPerTask\":\"0.5\"},\"memory\":{\"window\":20},\"model\":\"sim/echo\","
        "\"prompt\":{\"path\":\"p.md\",\"text\":\"Be kind.\\n\"},\"retry\":{\"backoff\":{\"factor\":2,\"initialMs\":"
        "1000,\"maxMs\":300000},\"maxAttempts\":3},\"sampling\":{\"temperature\":0.2},\"schema\":1,\"tools\":{"
        "\"definitions\":[{\"allow\":[],\"deny\":[],\"description\":\"\",\"effect\":\"write\",\"inputSchema\":{"
        "\"type\":\"object\"},\"name\":\"a\",\"outputBytesMax\":65536,\"timeout\":\"30s\"}],\"path\":\"t.json\"}}");
    char id[VERSION_ID_BYTES + 1];
    version_id(STR("{}"), id); /* sha256sum of those two bytes */
    assert_string_equal(id, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
}

static void test_a_nested_parameter_makes_another_version(void **state)
{
    (void)state;
    const char *cold = id_of(BASE "  sampling: {temperature: 0}\n", "p", TOOLS);
    const char *warm = id_of(BASE "  sampling: {temperature: 2}\n", "p", TOOLS);
    differ(cold, warm);
    const char *plain = id_of(BASE, "p", TOOLS);
    differ(id_of(BASE "  retry: {backoff: {factor: 3}}\n", "p", TOOLS), plain);
    differ(
        id_of(
            BASE, "p",
            "[{\"name\":\"a\",\"inputSchema\":{\"type\":\"object\",\"properties\":{\"x\":{\"minimum\":1}}}}]"),
        id_of(
            BASE, "p",
            "[{\"name\":\"a\",\"inputSchema\":{\"type\":\"object\",\"properties\":{\"x\":{\"minimum\":2}}}}]"));
}

/* JSON.stringify(o, Object.keys(o).sort()) keeps only members, at every depth, whose names stand at
 * the top: what stands below is lost, and two temperatures share an id. */
static void test_not_the_key_list_trap(void **state)
{
    (void)state;
    Str a = components(BASE "  sampling: {temperature: 0}\n", "p", TOOLS);
    Str b = components(BASE "  sampling: {temperature: 2}\n", "p", TOOLS);
    assert_true(str_find(a, STR("\"temperature\":0")) > 0);
    assert_true(str_find(b, STR("\"temperature\":2")) > 0);
    static const char *const deep[] = { "\"window\":",    "\"usdPerTask\":", "\"initialMs\":",
                                        "\"digest\":",    "\"text\":",       "\"inputSchema\":",
                                        "\"properties\":" };
    for (size_t i = 0; i < ARRAY_N(deep); i++) assert_true(str_find(a, str_of(deep[i])) > 0);
}

static void test_how_it_is_written_changes_nothing(void **state)
{
    (void)state;
    const char *plain = id_of(BASE "  sampling: {temperature: 0.2, topP: 1}\n", "p", TOOLS);
    /* order, spaces, comments, styles of YAML and of numbers */
    same(plain,
         id_of("kind: Agent\nspec:\n    model: \"sim/echo\"   # pinned\n    sampling:\n"
               "        topP: 1.0\n        temperature: 2e-1\n    tools: t.json\n    prompt: p.md\n"
               "    command:\n    - python3\n    - 'agent.py'\nmetadata:\n    name: support\n"
               "apiVersion: gantry/v1\n",
               "p", TOOLS));
    same(
        plain,
        id_of(
            BASE "  sampling: {temperature: 0.20, topP: 1}\n", "p",
            "{ \"tools\" : [ {\"description\" : \"d\", \"inputSchema\":{\"properties\":{\"y\":{\"type\":"
            "\"string\"}, \"x\":{\"type\":\"integer\"}},\n\"type\":\"object\"}, \"name\":\"\\u0061\"},\n"
            "{\"name\":\"b\",\"description\":\"e\"} ] }"));
}

static void test_written_out_defaults_change_nothing(void **state)
{
    (void)state;
    same(
        id_of(BASE, "p", TOOLS),
        id_of(
            BASE
            "  runtime: process\n  code: .\n  fallbacks: []\n  sampling: {}\n  memory: {window: 20}\n"
            "  limits: {tokensPerTask: 200000, toolCallsPerTask: 40, secondsPerTask: 600, usdPerTask: 0.50}\n"
            "  retry: {maxAttempts: 3, backoff: {initial: 1000ms, factor: 2.0, max: 300s}}\n",
            "p", TOOLS));
    same(
        id_of(BASE, "p", "[{\"name\":\"a\"}]"),
        id_of(
            BASE, "p",
            "[{\"name\":\"a\",\"description\":\"\",\"effect\":\"write\",\"allow\":[],\"deny\":[],"
            "\"inputSchema\":{\"type\":\"object\"},\"timeout\":\"30000ms\",\"outputBytesMax\":65536}]"));
}

static void test_what_is_not_behaviour_changes_nothing(void **state)
{
    (void)state;
    const char *plain = id_of(BASE, "p", TOOLS);
    same(plain, id_of(BASE "  rollout: {strategy: immediate}\n", "p", TOOLS));
    same(
        plain,
        id_of(
            "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: support, description: New words}\nspec:\n"
            "  command: [python3, agent.py]\n  prompt: p.md\n  tools: t.json\n  model: sim/echo\n",
            "p", TOOLS));
}

static void test_every_part_of_behaviour_changes_the_id(void **state)
{
    (void)state;
    const char *ids[] = {
        id_of(BASE, "p", TOOLS),
        id_of(BASE, "q", TOOLS),
        id_of(BASE, "p\n", TOOLS),
        id_of(BASE, "p", "[]"),
        id_of(
            BASE, "p",
            "[{\"name\":\"b\",\"description\":\"e\"},{\"name\":\"a\",\"description\":\"d\",\"inputSchema\":{"
            "\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"},\"y\":{\"type\":\"string\"}}}}]"),
        id_of(BASE "  fallbacks: [sim/a, sim/b]\n", "p", TOOLS),
        id_of(BASE "  fallbacks: [sim/b, sim/a]\n", "p", TOOLS),
        id_of(BASE "  sampling: {seed: 1}\n", "p", TOOLS),
        id_of(BASE "  sampling: {stop: [a]}\n", "p", TOOLS),
        id_of(BASE "  memory: {window: 21}\n", "p", TOOLS),
        id_of(BASE "  limits: {tokensPerTask: 1}\n", "p", TOOLS),
        id_of(BASE "  limits: {usdPerTask: \"0.500000001\"}\n", "p", TOOLS),
        id_of(BASE "  retry: {maxAttempts: 4}\n", "p", TOOLS),
        id_of(
            HEAD
            "  command: [python3, agent.py, x]\n  prompt: p.md\n  tools: t.json\n  model: sim/echo\n",
            "p", TOOLS),
        id_of(
            HEAD
            "  command: [python3, agent.py]\n  prompt: p2.md\n  tools: t.json\n  model: sim/echo\n",
            "p", TOOLS),
        id_of(
            HEAD
            "  command: [python3, agent.py]\n  prompt: p.md\n  tools: t.json\n  model: sim/other\n",
            "p", TOOLS),
        id_of(
            HEAD
            "  runtime: server\n  command: [python3, agent.py]\n  prompt: p.md\n  tools: t.json\n  model: sim/echo\n",
            "p", TOOLS),
        id_of(
            HEAD
            "  runtime: server\n  url: http://h/\n  prompt: p.md\n  tools: t.json\n  model: sim/echo\n",
            "p", TOOLS),
        id_of(
            "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: support2}\nspec:\n  command: [python3, agent.py]\n"
            "  prompt: p.md\n  tools: t.json\n  model: sim/echo\n",
            "p", TOOLS),
    };
    for (size_t i = 0; i < ARRAY_N(ids); i++)
        for (size_t k = i + 1; k < ARRAY_N(ids); k++) differ(ids[i], ids[k]);
}

static void test_bad_inputs(void **state)
{
    (void)state;
    AgentSpec spec = spec_of(BASE);
    Buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(version_components(&arena, &spec, STR("\xff"), NULL, STR(DIGEST), &out),
                     -EINVAL);
    assert_int_equal(version_components(&arena, &spec, STR("a\0b"), NULL, STR(DIGEST), &out),
                     -EINVAL);
    assert_int_equal(version_components(&arena, &spec, STR("p"), NULL, STR("sha256:12"), &out),
                     -EINVAL);
    assert_int_equal(version_components(&arena, &spec, STR("p"), NULL, STR(""), &out), -EINVAL);
    spec = spec_of(HEAD "  runtime: builtin\n  prompt: p\n  model: sim/a\n");
    assert_int_equal(version_components(&arena, &spec, STR("p"), NULL, STR(DIGEST), &out), -EINVAL);
    assert_int_equal(version_components(&arena, &spec, STR("p"), NULL, STR(""), &out), 0);
    Buf small;
    buf_init(&small, 50);
    assert_int_equal(version_components(&arena, &spec, STR("p"), NULL, STR(""), &small), -ENOMEM);
    buf_deinit(&small);
    Arena tiny;
    arena_init(&tiny, 50);
    assert_int_equal(version_components(&tiny, &spec, STR("p"), NULL, STR(""), &out), -ENOMEM);
    arena_deinit(&tiny);
    buf_deinit(&out);
}

static void test_ids_and_prefixes(void **state)
{
    (void)state;
    Str id = str_of(id_of(BASE, "p", NULL));
    assert_true(version_id_ok(id) && version_prefix_ok(id));
    assert_true(version_prefix_ok(str_sub(id, 0, 8)));
    assert_false(version_prefix_ok(str_sub(id, 0, 7)));
    assert_false(version_id_ok(str_sub(id, 0, 63)));
    assert_false(version_prefix_ok(STR("0123456G")) || version_prefix_ok(STR("ABCDEF01")));
}

/* --- diff ----------------------------------------------------------------------------------- */

static VersionDiff diff(Str a, Str b)
{
    const Json *x, *y;
    VersionDiff d;
    assert_int_equal(json_parse(&arena, a, NULL, &x, NULL), 0);
    assert_int_equal(json_parse(&arena, b, NULL, &y, NULL), 0);
    assert_int_equal(version_diff(&arena, x, y, &d), 0);
    return d;
}

static void test_diff_of_the_same(void **state)
{
    (void)state;
    Str a = components(BASE, "p", TOOLS);
    assert_int_equal(diff(a, a).n, 0);
}

static void test_diff_names_what_changed(void **state)
{
    (void)state;
    Str a = components(BASE "  sampling: {temperature: 0.2}\n", "p", TOOLS);
    Str b = components(BASE "  sampling: {temperature: 0.9}\n  memory: {window: 3}\n", "p", TOOLS);
    VersionDiff d = diff(a, b);
    assert_int_equal(d.n, 2);
    assert_string_equal(version_part_name(d.changes[0].part), "sampling");
    assert_string_equal(d.changes[0].old_text.ptr, "{\"temperature\":0.2}");
    assert_string_equal(d.changes[0].new_text.ptr, "{\"temperature\":0.9}");
    assert_true(str_empty(d.changes[0].text_diff));
    assert_string_equal(version_part_name(d.changes[1].part), "memory");
}

static void test_diff_of_a_prompt_is_of_its_lines(void **state)
{
    (void)state;
    VersionDiff d = diff(components(BASE, "You help.\nBe kind.\nBe brief.\n", TOOLS),
                         components(BASE, "You help.\nBe strict.\nBe brief.\n", TOOLS));
    assert_int_equal(d.n, 1);
    assert_int_equal(d.changes[0].part, VERSION_PROMPT);
    assert_string_equal(
        d.changes[0].text_diff.ptr,
        "--- p.md\n+++ p.md\n@@ -1,3 +1,3 @@\n You help.\n-Be kind.\n+Be strict.\n Be brief.\n");
}

static void test_diff_of_tools_is_a_member_a_line(void **state)
{
    (void)state;
    VersionDiff d = diff(components(BASE, "p", "[{\"name\":\"a\",\"effect\":\"read\"}]"),
                         components(BASE, "p", "[{\"name\":\"a\",\"effect\":\"write\"}]"));
    assert_int_equal(d.n, 1);
    assert_int_equal(d.changes[0].part, VERSION_TOOLS);
    assert_non_null(strstr(d.changes[0].text_diff.ptr,
                           "\n-    \"effect\": \"read\",\n+    \"effect\": \"write\",\n"));
}

static void test_diff_of_other_things(void **state)
{
    (void)state;
    const Json *list, *object;
    VersionDiff d;
    assert_int_equal(json_parse(&arena, STR("[]"), NULL, &list, NULL), 0);
    assert_int_equal(json_parse(&arena, STR("{\"model\":\"m\"}"), NULL, &object, NULL), 0);
    assert_int_equal(version_diff(&arena, list, object, &d), -EINVAL);
    const Json *empty;
    assert_int_equal(json_parse(&arena, STR("{}"), NULL, &empty, NULL), 0);
    assert_int_equal(version_diff(&arena, empty, object, &d), 0);
    assert_int_equal(d.n, 1);
    assert_true(str_empty(d.changes[0].old_text)); /* was absent */
    assert_string_equal(d.changes[0].new_text.ptr, "\"m\"");
}

static void expect_pretty(const char *json, const char *expected)
{
    const Json *v;
    assert_int_equal(json_parse(&arena, str_of(json), NULL, &v, NULL), 0);
    Buf out;
    buf_init(&out, 1 << 16);
    assert_int_equal(version_pretty(v, &out), 0);
    assert_string_equal(out.ptr, expected);
    buf_deinit(&out);
}

static void test_pretty(void **state)
{
    (void)state;
    expect_pretty("1", "1\n");
    expect_pretty("{}", "{}\n");
    expect_pretty("[[],{}]", "[\n  [],\n  {}\n]\n");
    expect_pretty(
        "{\"b\":[1,{\"c\":null}],\"a\":\"x,{[\\\"]}:\"}",
        "{\n  \"a\": \"x,{[\\\"]}:\",\n  \"b\": [\n    1,\n    {\n      \"c\": null\n    }\n  ]\n}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_format),
        cmocka_unit_test(test_a_nested_parameter_makes_another_version),
        cmocka_unit_test(test_not_the_key_list_trap),
        cmocka_unit_test(test_how_it_is_written_changes_nothing),
        cmocka_unit_test(test_written_out_defaults_change_nothing),
        cmocka_unit_test(test_what_is_not_behaviour_changes_nothing),
        cmocka_unit_test(test_every_part_of_behaviour_changes_the_id),
        cmocka_unit_test(test_bad_inputs),
        cmocka_unit_test(test_ids_and_prefixes),
        cmocka_unit_test(test_diff_of_the_same),
        cmocka_unit_test(test_diff_names_what_changed),
        cmocka_unit_test(test_diff_of_a_prompt_is_of_its_lines),
        cmocka_unit_test(test_diff_of_tools_is_a_member_a_line),
        cmocka_unit_test(test_diff_of_other_things),
        cmocka_unit_test(test_pretty),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
