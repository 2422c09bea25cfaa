#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/manifest.h"

static Arena arena;
static Issue issues[64];
static size_t issues_n;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 16 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static int parse(const char *text, AgentSpec *ret)
{
    arena_clear(&arena);
    issues_n = 999;
    return manifest_parse(&arena, str_of(text), ret, issues, ARRAY_N(issues), &issues_n);
}

static AgentSpec parse_ok(const char *text)
{
    AgentSpec spec = { 0 };
    int r = parse(text, &spec);
    if (r != 0)
        fail_msg("%d: %s: %s", r, issues_n ? issues[0].path.ptr : "",
                 issues_n ? issues[0].message.ptr : "");
    return spec;
}

/* The findings as lines "LINE:COLUMN PATH: MESSAGE". */
static void expect_errors(const char *text, const char *expected)
{
    AgentSpec spec = { .memory_window = -7 };
    assert_int_equal(parse(text, &spec), MANIFEST_E_INVALID);
    assert_int_equal(spec.memory_window, -7); /* untouched */
    Buf out;
    buf_init(&out, 1 << 16);
    for (size_t i = 0; i < issues_n; i++) {
        issue_text(&issues[i], STR(""), &out);
        buf_add_char(&out, '\n');
    }
    assert_string_equal(out.ptr, expected);
    buf_deinit(&out);
}

#define HEAD "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: support}\nspec:\n"
#define PROCESS HEAD "  command: [python3, agent.py]\n"

static void test_everything(void **state)
{
    (void)state;
    AgentSpec s = parse_ok(
        "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: support, description: Answers mail}\n"
        "spec:\n  runtime: process\n  command: [python3, agent.py]\n  code: src\n"
        "  prompt: prompts/system.md\n  tools: tools.json\n  model: gpt-4o-mini-2024-07-18\n"
        "  fallbacks: [claude-haiku-4-5-20251001]\n"
        "  sampling: {temperature: 0.2, topP: 0.9, maxOutputTokens: 1024, seed: -5, topK: 40,\n"
        "    stop: [END], presencePenalty: -1.5, reasoningEffort: low}\n"
        "  memory: {window: 5}\n"
        "  limits: {tokensPerTask: 1000, toolCallsPerTask: 0, secondsPerTask: 60, usdPerTask: \"0.25\"}\n"
        "  retry: {maxAttempts: 5, backoff: {initial: 500ms, factor: 1.5, max: 1h}}\n"
        "  rollout: {strategy: canary, steps: [{weight: 5, for: 30m, minTasks: 200}, {weight: 100}],\n"
        "    rollbackOn: {errorRate: 0.01, costPerTask: 0.20}}\n");
    assert_int_equal(issues_n, 0);
    assert_true(str_eq(s.name, STR("support")));
    assert_true(str_eq(s.description, STR("Answers mail")));
    assert_int_equal(s.runtime, RUNTIME_PROCESS);
    assert_int_equal(s.command_n, 2);
    assert_true(str_eq(s.command[1], STR("agent.py")));
    assert_true(str_eq(s.code, STR("src")));
    assert_true(str_eq(s.prompt, STR("prompts/system.md")));
    assert_true(str_eq(s.tools, STR("tools.json")));
    assert_true(str_eq(s.model, STR("gpt-4o-mini-2024-07-18")));
    assert_int_equal(s.fallbacks_n, 1);
    assert_true(s.sampling.has_temperature && s.sampling.temperature == 0.2);
    assert_true(s.sampling.has_top_p && s.sampling.top_p == 0.9);
    assert_true(s.sampling.has_seed && s.sampling.seed == -5);
    assert_int_equal(s.sampling.max_output_tokens, 1024);
    assert_int_equal(s.sampling.top_k, 40);
    assert_int_equal(s.sampling.stop_n, 1);
    assert_true(str_eq(s.sampling.stop[0], STR("END")));
    assert_int_equal(json_len(s.sampling.json), 8);
    assert_int_equal(s.memory_window, 5);
    assert_int_equal(s.limits.tokens, 1000);
    assert_int_equal(s.limits.tool_calls, 0);
    assert_int_equal(s.limits.seconds, 60);
    assert_int_equal(s.limits.usd_nusd, 250000000);
    assert_int_equal(s.retry.attempts_max, 5);
    assert_int_equal(s.retry.initial_ms, 500);
    assert_int_equal(s.retry.factor_milli, 1500);
    assert_int_equal(s.retry.max_ms, 3600000);
    assert_int_equal(json_len(json_get(s.rollout, "steps")), 2);
}

static void test_defaults(void **state)
{
    (void)state;
    AgentSpec s = parse_ok(PROCESS);
    assert_int_equal(s.runtime, RUNTIME_PROCESS);
    assert_true(str_eq(s.code, STR(".")));
    assert_true(str_empty(s.prompt) && str_empty(s.tools) && str_empty(s.model) &&
                str_empty(s.url));
    assert_int_equal(s.fallbacks_n, 0);
    assert_false(s.sampling.has_temperature || s.sampling.has_top_p || s.sampling.has_seed);
    assert_int_equal(s.sampling.max_output_tokens, 0);
    assert_int_equal(json_type(s.sampling.json), JSON_OBJECT);
    assert_int_equal(s.memory_window, 20);
    assert_int_equal(s.limits.tokens, 200000);
    assert_int_equal(s.limits.tool_calls, 40);
    assert_int_equal(s.limits.seconds, 600);
    assert_int_equal(s.limits.usd_nusd, 500000000);
    assert_int_equal(s.retry.attempts_max, 3);
    assert_int_equal(s.retry.initial_ms, 1000);
    assert_int_equal(s.retry.factor_milli, 2000);
    assert_int_equal(s.retry.max_ms, 300000);
    assert_null(s.rollout);
}

static void test_runtimes(void **state)
{
    (void)state;
    AgentSpec s = parse_ok(HEAD "  runtime: server\n  command: [./serve]\n");
    assert_true(str_eq(s.code, STR(".")));
    s = parse_ok(HEAD "  runtime: server\n  url: http://agents.example:9000/\n");
    assert_true(str_eq(s.url, STR("http://agents.example:9000/")));
    assert_true(str_empty(s.code)); /* nothing to pack */
    s = parse_ok(HEAD "  runtime: builtin\n  prompt: p.md\n  model: sim/echo\n");
    assert_true(str_empty(s.code));
    assert_string_equal(runtime_name(s.runtime), "builtin");
    s = parse_ok(HEAD "  runtime: builtin\n  prompt: p.md\n  model: sim/echo\n  code: tools\n");
    assert_true(str_eq(s.code, STR("tools"))); /* what its tools run */
    expect_errors(HEAD "  runtime: process\n",
                  ":4:1: spec.command: missing: runtime process runs a command for every task\n");
    expect_errors(PROCESS "  url: http://x\n", ":6:3: spec.url: belongs to runtime server\n");
    expect_errors(
        HEAD "  runtime: server\n",
        ":4:1: spec.command: missing: runtime server needs a command to start, or a url\n");
    expect_errors(HEAD "  runtime: server\n  url: http://x\n  command: [a]\n  code: .\n",
                  ":7:3: spec.command: cannot stand beside `url`: the agent runs elsewhere\n"
                  ":8:3: spec.code: cannot stand beside `url`: nothing is packed\n");
    expect_errors(HEAD "  runtime: builtin\n  command: [a]\n",
                  ":4:1: spec.prompt: missing: runtime builtin is a prompt and a model\n"
                  ":4:1: spec.model: missing: runtime builtin is a prompt and a model\n"
                  ":6:3: spec.command: runtime builtin has no code of its own to run\n");
}

static void test_all_errors_at_once_in_the_order_of_the_file(void **state)
{
    (void)state;
    expect_errors(
        "apiVersion: gantry/v2\n"
        "kind: Agnet\n"
        "metadata: {name: Support, naem: x}\n"
        "spec:\n"
        "  runtime: proces\n"
        "  command: [python3, 8080]\n"
        "  modle: gpt-4o\n"
        "  prompt: ../secrets\n"
        "  sampling: {temperature: 3, seed: 1.5, stop: END}\n"
        "  memory: 20\n"
        "  limits: {usdPerTask: free, secondsPerTask: 0, tokensPerTask: true}\n"
        "  retry: {maxAttempts: 1000, backoff: {initial: 1 minute, factor: 1.23456}}\n",
        ":1:1: apiVersion: expected gantry/v1, found `gantry/v2`: did you mean `gantry/v1`?\n"
        ":2:1: kind: expected Agent, found `Agnet`: did you mean `Agent`?\n"
        ":3:12: metadata.name: expected lower-case letters, digits and dashes, not beginning with a dash, found "
        "`Support`\n"
        ":3:27: metadata.naem: unknown member `naem`: did you mean `name`?\n"
        ":5:3: spec.runtime: expected one of process, server, builtin, found `proces`: did you mean `process`?\n"
        ":6:22: spec.command[1]: expected a string, found the number 8080 (put it in quotes)\n"
        ":7:3: spec.modle: unknown member `modle`: did you mean `model`?\n"
        ":8:3: spec.prompt: expected a relative path that stays inside the agent's directory, found `../secrets`\n"
        ":9:14: spec.sampling.temperature: must be between 0 and 2\n"
        ":9:30: spec.sampling.seed: expected a whole number, found the number 1.5\n"
        ":9:41: spec.sampling.stop: expected an array of strings, found `END`\n"
        ":10:3: spec.memory: expected an object, found the number 20\n"
        ":11:12: spec.limits.usdPerTask: expected an amount in USD such as \"0.50\", found `free`\n"
        ":11:30: spec.limits.secondsPerTask: must be between 1 and 604800\n"
        ":11:49: spec.limits.tokensPerTask: expected a whole number, found true\n"
        ":12:11: spec.retry.maxAttempts: must be between 1 and 100\n"
        ":12:40: spec.retry.backoff.initial: expected a duration such as 500ms, 30s or 1h30m, found `1 minute`\n"
        ":12:59: spec.retry.backoff.factor: must have at most three decimals\n");
}

static void test_missing_parts(void **state)
{
    (void)state;
    expect_errors("{}", ":1:1: apiVersion: missing: expected gantry/v1\n"
                        ":1:1: kind: missing: expected Agent\n"
                        ":1:1: metadata: missing: expected an object\n"
                        ":1:1: spec: missing: expected an object\n");
    expect_errors("", ":1:1: expected an object, found null\n");
    expect_errors("- a\n", ":1:1: expected an object, found an array\n");
    expect_errors("apiVersion: gantry/v1\nkind: Agent\nmetadata:\nspec:\n",
                  ":3:1: metadata: expected an object, found null\n"
                  ":4:1: spec: expected an object, found null\n");
    expect_errors("apiVersion: gantry/v1\nkind: Agent\nmetadata: {}\nspec: {command: [a]}\n",
                  ":3:1: metadata.name: missing: expected a string\n");
}

static void test_not_yaml(void **state)
{
    (void)state;
    AgentSpec spec;
    assert_int_equal(parse("a: [1,\n", &spec), MANIFEST_E_INVALID);
    assert_int_equal(issues_n, 1);
    assert_true(issues[0].line > 0 && str_empty(issues[0].path));
    assert_null(strstr(issues[0].message.ptr, "line "));
    assert_int_equal(parse("a: 1\na: 2\n", &spec), MANIFEST_E_INVALID);
    assert_int_equal(issues[0].line, 2);
    assert_int_equal(parse("a: 1\n---\nb: 2\n", &spec), MANIFEST_E_INVALID);
    char *big = xmalloc(MANIFEST_BYTES_MAX + 2);
    memset(big, '#', MANIFEST_BYTES_MAX + 1);
    big[MANIFEST_BYTES_MAX + 1] = '\0';
    assert_int_equal(parse(big, &spec), MANIFEST_E_INVALID);
    assert_string_equal(issues[0].message.ptr, "is larger than 65536 bytes");
    freep(&big);
}

static void test_unknown_member_without_a_near_one(void **state)
{
    (void)state;
    expect_errors(PROCESS "  memory: {depth: 5}\n",
                  ":6:12: spec.memory.depth: unknown member `depth`: known are window\n");
}

static void test_money(void **state)
{
    (void)state;
    assert_int_equal(parse_ok(PROCESS "  limits: {usdPerTask: 0.50}\n").limits.usd_nusd, 500000000);
    assert_int_equal(parse_ok(PROCESS "  limits: {usdPerTask: 2}\n").limits.usd_nusd, 2000000000);
    assert_int_equal(parse_ok(PROCESS "  limits: {usdPerTask: \"0.000000001\"}\n").limits.usd_nusd,
                     1);
    expect_errors(
        PROCESS "  limits: {usdPerTask: \"0\"}\n",
        ":6:12: spec.limits.usdPerTask: must be above 0 and at most 1000000.000000000 USD\n");
    expect_errors(
        PROCESS "  limits: {usdPerTask: -1}\n",
        ":6:12: spec.limits.usdPerTask: expected an amount in USD such as \"0.50\", found the number -1\n");
    expect_errors(
        PROCESS "  limits: {usdPerTask: $5}\n",
        ":6:12: spec.limits.usdPerTask: expected an amount in USD such as \"0.50\", found `$5`\n");
}

static void test_backoff(void **state)
{
    (void)state;
    expect_errors(PROCESS "  retry: {backoff: {initial: 10m}}\n",
                  ":6:11: spec.retry.backoff.max: must not be shorter than `initial`\n");
    expect_errors(PROCESS "  retry: {backoff: {max: 25h}}\n",
                  ":6:21: spec.retry.backoff.max: must be between 0s and 1d\n");
    assert_int_equal(parse_ok(PROCESS "  retry: {backoff: {factor: 1.001}}\n").retry.factor_milli,
                     1001);
}

static void test_models(void **state)
{
    (void)state;
    AgentSpec spec;
    assert_int_equal(parse(PROCESS "  model: gpt-4o-latest\n  fallbacks: [o3, sim/small]\n", &spec),
                     0);
    assert_int_equal(issues_n, 2); /* warnings: the manifest is valid */
    assert_true(issues[0].warning && issues[1].warning);
    assert_true(str_eq(issues[0].path, STR("spec.model")));
    assert_int_equal(issues[0].line, 6);
    assert_true(str_eq(issues[1].path, STR("spec.fallbacks[0]")));
    expect_errors(
        PROCESS "  model: my model\n",
        ":6:3: spec.model: expected a model id such as gpt-4o-mini-2024-07-18, found `my model`\n");

    static const char *const floating[] = {
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4o-latest",
        "chatgpt-4o-latest",
        "o3",
        "o4-mini",
        "gpt-5",
        "openai/gpt-4o",
        "claude-3-5-sonnet-latest",
        "claude-sonnet-4-5",
        "anthropic/claude-haiku-4-5",
        "llama3:latest",
        "latest",
        "gpt-4.1-nano",
    };
    static const char *const fixed[] = {
        "gpt-4o-2024-08-06",
        "gpt-4o-mini-2024-07-18",
        "gpt-3.5-turbo-0125",
        "gpt-4-0613",
        "o3-2025-04-16",
        "o1-2024-12-17",
        "claude-sonnet-4-5-20250929",
        "claude-opus-4-6",
        "sim/gpt-4o",
        "sim/latest",
        "gpt-oss-120b",
        "llama3.1:8b",
        "tiny-1",
        "openai/gpt-4o-2024-08-06",
        "olmo-2",
        "mistral-large-2411",
    };
    for (size_t i = 0; i < ARRAY_N(floating); i++)
        if (!model_is_floating(str_of(floating[i]))) fail_msg("%s", floating[i]);
    for (size_t i = 0; i < ARRAY_N(fixed); i++)
        if (model_is_floating(str_of(fixed[i]))) fail_msg("%s", fixed[i]);
    assert_true(model_id_ok(STR("meta-llama/Llama-3.1-8B:free@v1+x_y")));
    assert_false(model_id_ok(STR("")) || model_id_ok(STR("-a")) || model_id_ok(STR("/a")));
    assert_false(model_id_ok(STR("a b")) || model_id_ok(STR("a\nb")) || model_id_ok(STR("a#b")));
    assert_false(model_id_ok(STR("a\0b")));
    char name[129];
    memset(name, 'a', sizeof name);
    assert_true(model_id_ok(str_make(name, 128)));
    assert_false(model_id_ok(str_make(name, 129)));
}

static void test_names(void **state)
{
    (void)state;
    assert_true(agent_name_ok(STR("a")) && agent_name_ok(STR("0")) && agent_name_ok(STR("a-b-9")));
    assert_false(agent_name_ok(STR("")) || agent_name_ok(STR("-a")) || agent_name_ok(STR("A")));
    assert_false(agent_name_ok(STR("a_b")) || agent_name_ok(STR("a.b")) ||
                 agent_name_ok(STR("a\0")));
    char name[64];
    memset(name, 'a', sizeof name);
    assert_true(agent_name_ok(str_make(name, 63)));
    assert_false(agent_name_ok(str_make(name, 64)));
}

static void test_paths(void **state)
{
    (void)state;
    static const Str good[] = { STR("."),         STR("a"),    STR("a/b.c"),
                                STR(".hidden/x"), STR("a..b"), STR("...") };
    static const Str bad[] = {
        STR(""),    STR("/a"),   STR("a/"),   STR("a//b"), STR(".."),   STR("a/../b"), STR("./a"),
        STR("a/."), STR("a\\b"), STR("a\0b"), STR("a\nb"), STR("../a"), STR("a/.."),
    };
    for (size_t i = 0; i < ARRAY_N(good); i++) assert_true(agent_path_ok(good[i]));
    for (size_t i = 0; i < ARRAY_N(bad); i++) assert_false(agent_path_ok(bad[i]));
    char path[256];
    memset(path, 'a', sizeof path);
    assert_true(agent_path_ok(str_make(path, 255)));
    assert_false(agent_path_ok(str_make(path, 256)));
    expect_errors(PROCESS "  prompt: .\n", ":6:3: spec.prompt: expected a file, found `.`\n");
    expect_errors(PROCESS "  tools: \"a\\0b\"\n", ":6:3: spec.tools: must not contain NUL\n");
    expect_errors(HEAD "  command: [\"\"]\n", ":5:13: spec.command[0]: must not be empty\n");
    expect_errors(HEAD "  command: []\n",
                  ":5:3: spec.command: must have 1 to 64 elements, found 0\n");
    expect_errors(
        HEAD "  runtime: server\n  url: ftp://x\n",
        ":6:3: spec.url: expected an http or https URL: the URL does not begin with http:// or https://\n");
}

static void test_rollout(void **state)
{
    (void)state;
    parse_ok(PROCESS "  rollout: {strategy: blue-green, holdFor: 1h}\n");
    parse_ok(PROCESS "  rollout: {strategy: immediate}\n");
    parse_ok(PROCESS
             "  rollout: {steps: [{weight: 0.5, for: 10m, gate: manual}, {weight: 100}]}\n");
    /* weights count in basis points: these two are the same */
    expect_errors(
        PROCESS
        "  rollout:\n    steps:\n    - {weight: 5}\n    - {weight: 5.001}\n    - {weight: 100}\n",
        ":9:8: spec.rollout.steps[1].weight: weights must rise: 5 does not follow 5\n");
    expect_errors(
        PROCESS
        "  rollout:\n    steps:\n    - {weight: 25}\n    - {weight: 5}\n    - {wieght: 50}\n",
        ":9:8: spec.rollout.steps[1].weight: weights must rise: 5 does not follow 25\n"
        ":10:7: spec.rollout.steps[2].weight: missing: expected a number\n"
        ":10:7: spec.rollout.steps[2].weight: weights must rise: 5 does not follow 5\n"
        ":10:7: spec.rollout.steps[2].weight: the last step must have weight 100, found 5\n"
        ":10:8: spec.rollout.steps[2].wieght: unknown member `wieght`: did you mean `weight`?\n");
    expect_errors(
        PROCESS "  rollout: {strategy: immediate, steps: [{weight: 100}]}\n",
        ":6:34: spec.rollout.steps: belongs to the strategy canary, not to `immediate`\n");
    expect_errors(PROCESS "  rollout: {steps: [{weight: 100}]}\n",
                  ":6:13: spec.rollout.steps: a canary that begins with all traffic is compared "
                  "with nothing: begin below 100, as [{weight: 5}, {weight: 100}], put a shadow "
                  "before it, or take the strategy blue-green\n");
    parse_ok(PROCESS "  rollout: {shadow: {share: 100}, steps: [{weight: 100}]}\n");
    expect_errors(PROCESS "  rollout: {steps: []}\n",
                  ":6:13: spec.rollout.steps: must have 1 to 20 elements, found 0\n");
    expect_errors(PROCESS "  rollout: {rollbackOn: {errorRate: 0, quality: bad}}\n",
                  ":6:26: spec.rollout.rollbackOn.errorRate: must be above 0\n"
                  ":6:40: spec.rollout.rollbackOn.quality: expected a number, found `bad`\n");
    AgentSpec spec;
    assert_int_equal(
        parse(PROCESS "  rollout: {rollbackOn: {errorRat: 0.1, politeness: 0.1}}\n", &spec), 0);
    assert_int_equal(issues_n, 1);
    assert_true(issues[0].warning);
    assert_true(str_eq(issues[0].path, STR("spec.rollout.rollbackOn.errorRat")));
}

static void test_rollout_on_its_own(void **state)
{
    (void)state;
    const Json *v;
    IssueList list;
    issue_list_init(&list, &arena, issues, ARRAY_N(issues), NULL, NULL);
    assert_int_equal(
        json_parse(&arena,
                   STR("{\"steps\":[{\"weight\":5},{\"weight\":100}],\"metrics\":{\"errorRate\":"
                       "{\"rollbackMargin\":0.005,\"promoteMargin\":0.01,\"ratio\":1}}}"),
                   NULL, &v, NULL),
        0);
    assert_int_equal(manifest_check_rollout(v, NULL, &list), 0);
    assert_int_equal(
        json_parse(&arena, STR("{\"steps\":5,\"metrics\":{\"x\":{\"ratio\":0}}}"), NULL, &v, NULL),
        0);
    IssuePath at = ISSUE_KEY(NULL, STR("rollout"));
    assert_int_equal(manifest_check_rollout(v, &at, &list), MANIFEST_E_INVALID);
    assert_int_equal(list.n, 2);
    assert_true(str_eq(issues[0].path, STR("rollout.steps")));
    assert_true(str_eq(issues[1].path, STR("rollout.metrics.x.ratio")));
    assert_int_equal(manifest_check_rollout(NULL, &at, &list), MANIFEST_E_INVALID);
}

static void test_few_slots_for_errors(void **state)
{
    (void)state;
    Issue one;
    size_t n;
    AgentSpec spec;
    arena_clear(&arena);
    assert_int_equal(manifest_parse(&arena, STR("a: 1\nb: 2\n"), &spec, &one, 1, &n),
                     MANIFEST_E_INVALID);
    assert_int_equal(n, 1);
    assert_int_equal(manifest_parse(&arena, STR("a: 1\nb: 2\n"), &spec, NULL, 0, &n),
                     MANIFEST_E_INVALID);
    assert_int_equal(n, 0);
}

static void test_every_size_of_arena(void **state)
{
    (void)state;
    const char *text = PROCESS
        "  model: gpt-4o\n  sampling: {stop: [a, b]}\n  fallbacks: [sim/a]\n";
    int r = -ENOMEM;
    for (size_t size = 0; size < (1 << 20) && r == -ENOMEM; size += 512) {
        Arena small;
        arena_init(&small, size);
        AgentSpec spec;
        size_t n;
        r = manifest_parse(&small, str_of(text), &spec, issues, ARRAY_N(issues), &n);
        assert_true(r == 0 || r == -ENOMEM);
        arena_deinit(&small);
        if (r == 0) assert_true(size <= 16 * strlen(text) + 65536);
    }
    assert_int_equal(r, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_runtimes),
        cmocka_unit_test(test_all_errors_at_once_in_the_order_of_the_file),
        cmocka_unit_test(test_missing_parts),
        cmocka_unit_test(test_not_yaml),
        cmocka_unit_test(test_unknown_member_without_a_near_one),
        cmocka_unit_test(test_money),
        cmocka_unit_test(test_backoff),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_rollout),
        cmocka_unit_test(test_rollout_on_its_own),
        cmocka_unit_test(test_few_slots_for_errors),
        cmocka_unit_test(test_every_size_of_arena),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
