#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/diag.h"
#include "logic/version.h"
#include "worker/spec.h"

static int setup(void **state)
{
    Arena *arena = xcalloc(1, sizeof *arena);
    arena_init(arena, 16 << 20);
    *state = arena;
    return 0;
}

static int teardown(void **state)
{
    arena_deinit(*state);
    free(*state);
    return 0;
}

#define DIGEST STR("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")

/* The components of an agent.yaml, as a version is made of them. */
static Str components(Arena *arena, const char *yaml, Str prompt, const ToolSet *tools)
{
    AgentSpec agent;
    ManifestError errors[8];
    size_t errors_n;
    CLEANUP(buf_deinit) Buf out = { 0 };
    buf_init(&out, 1 << 20);
    assert_int_equal(manifest_parse(arena, str_of(yaml), &agent, errors, 8, &errors_n), 0);
    Str digest = agent.runtime == RUNTIME_PROCESS ? DIGEST : STR_NULL;
    assert_int_equal(version_components(arena, &agent, prompt, tools, digest, &out), 0);
    return arena_str(arena, buf_str(&out));
}

static void assert_str(Str got, const char *want)
{
    assert_string_equal(got.ptr, want);
    assert_int_equal(got.len, strlen(want));
}

static void test_process(void **state)
{
    Arena *arena = *state;
    Spec spec;
    Str text = components(arena,
                          "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: bot}\nspec:\n"
                          "  command: [python3, main.py, --fast]\n  model: m-1\n"
                          "  fallbacks: [m-2, m-3]\n  memory: {window: 7}\n"
                          "  limits: {tokensPerTask: 5, toolCallsPerTask: 6, secondsPerTask: 7,"
                          " usdPerTask: \"0.08\"}\n",
                          STR_NULL, NULL);
    assert_int_equal(spec_read(arena, text, &spec), 0);
    assert_str(spec.agent, "bot");
    assert_int_equal(spec.runtime, RUNTIME_PROCESS);
    assert_int_equal(spec.command_n, 3);
    assert_str(spec.command[2], "--fast");
    assert_str(spec.model, "m-1");
    assert_int_equal(spec.fallbacks_n, 2);
    assert_str(spec.fallbacks[1], "m-3");
    assert_int_equal(spec.memory_window, 7);
    assert_int_equal(spec.limits.tokens, 5);
    assert_int_equal(spec.limits.tool_calls, 6);
    assert_int_equal(spec.limits.wall_ms, 7000);
    assert_int_equal(spec.limits.usd_nusd, 80000000);
    assert_int_equal(spec.prompt_path.len + spec.tools_path.len + spec.url.len, 0);
    assert_int_equal(spec.tools.n, 0);
}

static void test_builtin(void **state)
{
    Arena *arena = *state;
    Spec spec;
    ToolSet tools;
    Issue issue;
    size_t issues_n;
    Str definitions = STR("[{\"name\":\"look\",\"timeout\":\"1m30s\",\"outputBytesMax\":99,"
                          "\"source\":{\"command\":[\"x\"]}}]");
    assert_int_equal(tools_parse(arena, definitions, &tools, &issue, 1, &issues_n), 0);
    Str text = components(arena,
                          "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: bot}\nspec:\n"
                          "  {runtime: builtin, prompt: p/s.md, tools: t.json, model: m-1,"
                          " sampling: {temperature: 0.5}}\n",
                          STR("Be kind."), &tools);
    assert_int_equal(spec_read(arena, text, &spec), 0);
    assert_int_equal(spec.runtime, RUNTIME_BUILTIN);
    assert_str(spec.prompt_path, "p/s.md");
    assert_str(spec.prompt_text, "Be kind.");
    assert_str(spec.tools_path, "t.json");
    assert_int_equal(spec.tools.n, 1);
    assert_int_equal(spec.tools.items[0].timeout_ms, 90000); /* nothing is lost on the way */
    assert_int_equal(spec.tools.items[0].output_bytes_max, 99);
    assert_true(json_f64_or(json_get(spec.sampling, "temperature"), 0) == 0.5);
}

static void test_server(void **state)
{
    Arena *arena = *state;
    Spec spec;
    Str text = components(arena,
                          "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: bot}\n"
                          "spec: {runtime: server, url: \"http://agents.example/x\"}\n",
                          STR_NULL, NULL);
    assert_int_equal(spec_read(arena, text, &spec), 0);
    assert_int_equal(spec.runtime, RUNTIME_SERVER);
    assert_str(spec.url, "http://agents.example/x");
}

static void test_unreadable(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"schema\":2}",
        "{\"schema\":1}",
        "{\"schema\":1,\"code\":{\"runtime\":\"magic\"}}",
        "{\"schema\":1,\"code\":{\"runtime\":\"process\"},\"limits\":{\"tokensPerTask\":1}}",
    };
    Arena *arena = *state;
    Spec spec;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        assert_int_equal(spec_read(arena, str_of(bad[i]), &spec), -EINVAL);
        assert_true(diag_text()[0] != '\0');
    }
    CLEANUP(arena_deinit) Arena small = { 0 };
    arena_init(&small, 10);
    assert_int_equal(spec_read(&small, STR("{\"schema\":1}"), &spec), -ENOMEM);
}

/* A version's files are written where its components say: never outside. */
static void test_paths_stay_inside(void **state)
{
    Arena *arena = *state;
    Spec spec;
    Str text = components(arena,
                          "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: bot}\n"
                          "spec: {command: [x], prompt: inside.md}\n",
                          STR("x"), NULL);
    char *evil = arena_cstr(arena, text);
    memcpy(strstr(evil, "inside.md"), "../out.md", 9);
    assert_int_equal(spec_read(arena, str_of(evil), &spec), -EINVAL);
    assert_non_null(strstr(diag_text(), "prompt.path"));
}

static void test_task_limits(void **state)
{
    (void)state;
    Spec spec = { .limits = {
                      .tokens = 100, .tool_calls = 10, .usd_nusd = 500, .wall_ms = 60000 } };
    CapLimits got;
    assert_int_equal(spec_task_limits(&spec, STR_NULL, 0, INT64_MAX, &got), 0);
    assert_memory_equal(&got, &spec.limits, sizeof got);
    Str lower = STR("{\"tokensPerTask\":50,\"toolCallsPerTask\":0,\"secondsPerTask\":5,"
                    "\"usdPerTask\":\"0.0000001\"}");
    assert_int_equal(spec_task_limits(&spec, lower, 0, INT64_MAX, &got), 0);
    assert_int_equal(got.tokens, 50);
    assert_int_equal(got.tool_calls, 0);
    assert_int_equal(got.wall_ms, 5000);
    assert_int_equal(got.usd_nusd, 100);
    Str higher = STR("{\"tokensPerTask\":9000,\"secondsPerTask\":9223372036854775807,"
                     "\"usdPerTask\":1.5,\"toolCallsPerTask\":null}");
    assert_int_equal(spec_task_limits(&spec, higher, 0, INT64_MAX, &got), 0);
    assert_memory_equal(&got, &spec.limits, sizeof got);
    Str number = STR("{\"usdPerTask\":0.0000001}"); /* money as a number is read by its digits */
    assert_int_equal(spec_task_limits(&spec, number, 0, INT64_MAX, &got), 0);
    assert_int_equal(got.usd_nusd, 100);
}

static void test_the_deadline_is_a_limit(void **state)
{
    (void)state;
    Spec spec = { .limits = { .wall_ms = 60000 } };
    CapLimits got;
    assert_int_equal(spec_task_limits(&spec, STR_NULL, 0, 1234, &got), 0);
    assert_int_equal(got.wall_ms, 1234);
    assert_int_equal(spec_task_limits(&spec, STR_NULL, 0, -5, &got), 0);
    assert_int_equal(got.wall_ms, 0);
    /* less what earlier attempts have used */
    assert_int_equal(spec_task_limits(&spec, STR_NULL, 59000, INT64_MAX, &got), 0);
    assert_int_equal(got.wall_ms, 1000);
    assert_int_equal(spec_task_limits(&spec, STR_NULL, 60001, INT64_MAX, &got), 0);
    assert_int_equal(got.wall_ms, 0);
    Spec none = { .limits = { .wall_ms = CAP_NONE } };
    assert_int_equal(spec_task_limits(&none, STR_NULL, 60001, INT64_MAX, &got), 0);
    assert_true(got.wall_ms == CAP_NONE);
}

static void test_limits_that_say_nothing(void **state)
{
    static const char *const bad[] = {
        "{\"tokensPerTask\":-1}",     "{\"tokensPerTask\":1.5}", "{\"tokensPerTask\":true}",
        "{\"usdPerTask\":\"cheap\"}", "{\"usdPerTask\":-0.1}",   "[",
    };
    (void)state;
    Spec spec = { .limits = { .tokens = 100, .usd_nusd = 5 } };
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        CapLimits got;
        assert_int_equal(spec_task_limits(&spec, str_of(bad[i]), 0, 0, &got), -EINVAL);
    }
}

#define SPEC_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SPEC_TEST(test_process),
        SPEC_TEST(test_builtin),
        SPEC_TEST(test_server),
        SPEC_TEST(test_unreadable),
        SPEC_TEST(test_paths_stay_inside),
        SPEC_TEST(test_task_limits),
        SPEC_TEST(test_the_deadline_is_a_limit),
        SPEC_TEST(test_limits_that_say_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
