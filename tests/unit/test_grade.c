#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "base/diag.h"
#include "logic/grade.h"

static Arena arena;

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

static const Json *json_of(const char *text)
{
    const Json *v;
    if (json_parse(&arena, str_of(text), NULL, &v, NULL) != 0)
        fail_msg("%s: %s", text, diag_text());
    return v;
}

/* The text of all errors. */
static const char *wrong(const char *graders)
{
    static char text[2048];
    Issue items[16];
    IssueList issues;
    CLEANUP(buf_deinit) Buf out = { 0 };
    IssuePath path = ISSUE_KEY(NULL, STR("graders"));
    buf_init(&out, sizeof(text) - 1);
    issue_list_init(&issues, &arena, items, ARRAY_N(items), NULL, NULL);
    graders_check(&issues, &path, json_of(graders));
    for (size_t i = 0; i < issues.n; i++)
        buf_printf(&out, "%s%.*s: %.*s", i > 0 ? "; " : "", STR_ARG(items[i].path),
                   STR_ARG(items[i].message));
    str_copy(text, sizeof(text), buf_str(&out));
    return text;
}

static void test_good_graders(void **state)
{
    (void)state;
    const char *text =
        "[{\"name\":\"a\",\"type\":\"contains\",\"value\":\"x\",\"weight\":2.5},"
        "{\"name\":\"b\",\"type\":\"not-regex\",\"value\":\"a|b\"},"
        "{\"name\":\"c\",\"type\":\"is-json\"},"
        "{\"name\":\"d\",\"type\":\"is-json\",\"value\":{\"type\":\"object\"}},"
        "{\"name\":\"e\",\"type\":\"cost\",\"threshold\":\"0.02\"},"
        "{\"name\":\"f\",\"type\":\"latency\",\"threshold\":\"10s\"},"
        "{\"name\":\"g\",\"type\":\"not-trajectory:tool-used\",\"value\":[\"pay\"]},"
        "{\"name\":\"h\",\"type\":\"trajectory:tool-used\",\"value\":\"find\"},"
        "{\"name\":\"i\",\"type\":\"trajectory:tool-sequence\",\"value\":[\"find\",\"pay\"]},"
        "{\"name\":\"j\",\"type\":\"trajectory:step-count\",\"threshold\":5},"
        "{\"name\":\"k\",\"type\":\"judge\",\"agent\":\"critic\",\"share\":0.25,"
        "\"anchors\":[{\"input\":\"q\",\"output\":\"a\"}]}]";
    assert_string_equal(wrong(text), "");
    Grader graders[GRADERS_MAX];
    assert_int_equal(graders_read(&arena, json_of(text), graders), 11);
    assert_true(str_eq(graders[0].text, STR("x")) && graders[0].weight == 2.5);
    assert_true(graders[1].kind == GRADER_REGEX && graders[1].negated);
    assert_true(!graders[2].value && graders[3].value && !graders[3].negated);
    assert_int_equal(graders[4].threshold, 20000000);
    assert_int_equal(graders[5].threshold, 10000);
    assert_true(graders[6].kind == GRADER_TOOL_USED && graders[6].negated);
    assert_int_equal(graders[9].threshold, 5);
    assert_true(graders[10].kind == GRADER_JUDGE && graders[10].share == 0.25);
    assert_int_equal(json_len(graders[10].anchors), 1);
    assert_true(str_eq(graders[10].agent, STR("critic")) && graders[10].weight == 1);
}

static void test_bad_graders(void **state)
{
    (void)state;
    static const struct {
        const char *graders, *errors;
    } cases[] = {
        { "{}", "graders: expected an array of graders, found an object" },
        { "[1]", "graders[0]: expected an object, found the number 1" },
        { "[{\"name\":\"a\",\"type\":\"contians\",\"value\":1}]", NULL },
        { "[{\"type\":\"contains\",\"value\":\"x\"}]",
          "graders[0].name: missing: expected a string" },
        { "[{\"name\":\"a\",\"type\":\"contains\"}]",
          "graders[0].value: missing: expected a string" },
        { "[{\"name\":\"a\",\"type\":\"contains\",\"value\":\"\"}]",
          "graders[0].value: must not be empty" },
        { "[{\"name\":\"a\",\"type\":\"contains\",\"value\":\"x\",\"threshold\":1}]",
          "graders[0].threshold: unknown member `threshold`: known are name, type, weight, value" },
        { "[{\"name\":\"A\",\"type\":\"is-json\"}]",
          "graders[0].name: expected lower-case letters, digits and dashes, not beginning with a "
          "dash, found `A`" },
        { "[{\"name\":\"a\",\"type\":\"is-json\",\"value\":{\"type\":\"objekt\"}}]", NULL },
        { "[{\"name\":\"a\",\"type\":\"regex\",\"value\":\"(a\"}]",
          "graders[0].value: the regular expression has a ( without its ), at byte 2" },
        { "[{\"name\":\"a\",\"type\":\"cost\",\"threshold\":\"x\"}]",
          "graders[0].threshold: expected an amount in USD such as \"0.50\", found `x`" },
        { "[{\"name\":\"a\",\"type\":\"latency\",\"threshold\":5}]",
          "graders[0].threshold: expected a duration such as 500ms, 30s or 1h30m, found the "
          "number 5" },
        { "[{\"name\":\"a\",\"type\":\"trajectory:tool-used\",\"value\":[]}]",
          "graders[0].value: must have 1 to 32 elements, found 0" },
        { "[{\"name\":\"a\",\"type\":\"trajectory:tool-used\",\"value\":[1]}]",
          "graders[0].value[0]: expected the name of a tool, found the number 1" },
        { "[{\"name\":\"a\",\"type\":\"trajectory:tool-sequence\",\"value\":[\"b\"]}]",
          "graders[0].value: must have 2 to 32 elements, found 1" },
        { "[{\"name\":\"a\",\"type\":\"trajectory:tool-sequence\",\"value\":\"b\"}]",
          "graders[0].value: expected an array of tools, found `b`" },
        { "[{\"name\":\"a\",\"type\":\"judge\",\"agent\":\"b\",\"share\":0}]",
          "graders[0].share: must be above 0" },
        { "[{\"name\":\"a\",\"type\":\"judge\",\"agent\":\"b\",\"anchors\":[{\"input\":1}]}]",
          "graders[0].anchors[0].output: missing: expected a value" },
        { "[{\"name\":\"a\",\"type\":\"is-json\"},{\"name\":\"a\",\"type\":\"is-json\"}]",
          "graders[1].name: there are two graders `a`" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        const char *errors = wrong(cases[i].graders);
        if (cases[i].errors) assert_string_equal(errors, cases[i].errors);
        else assert_true(errors[0]);
        Grader graders[GRADERS_MAX];
        bool twice = i + 1 == ARRAY_N(cases);
        assert_int_equal(graders_read(&arena, json_of(cases[i].graders), graders), twice ? 2 : 0);
    }
    CLEANUP(buf_deinit) Buf many = { 0 };
    buf_init(&many, 4096);
    for (int i = 0; i <= GRADERS_MAX; i++)
        buf_printf(&many, "%s{\"name\":\"g%d\",\"type\":\"is-json\"}", i > 0 ? "," : "[", i);
    buf_printf(&many, "]");
    assert_string_equal(wrong(many.ptr), "graders: must have at most 16 elements, found 17");
}

static double score(const char *grader, const GradeInput *input)
{
    Grader graders[GRADERS_MAX];
    char text[512];
    snprintf(text, sizeof(text), "[{\"name\":\"g\",%s}]", grader);
    if (graders_read(&arena, json_of(text), graders) != 1) fail_msg("%s: %s", grader, wrong(text));
    return grade_rule(&graders[0], input, &arena);
}

static void test_results(void **state)
{
    (void)state;
    static const struct {
        const char *grader, *result;
        double score;
    } cases[] = {
        { "\"type\":\"contains\",\"value\":\"order\"", "\"your order\"", 1 },
        { "\"type\":\"contains\",\"value\":\"Order\"", "\"your order\"", 0 },
        { "\"type\":\"contains\",\"value\":\"\\\"a\\\":1\"", "{\"a\":1}", 1 },
        { "\"type\":\"contains\",\"value\":\"\\n\"", "\"a\\nb\"", 1 },
        { "\"type\":\"not-contains\",\"value\":\"order\"", "\"your order\"", 0 },
        { "\"type\":\"icontains\",\"value\":\"ORDER\"", "\"your order\"", 1 },
        { "\"type\":\"icontains\",\"value\":\"orders\"", "\"order\"", 0 },
        { "\"type\":\"not-icontains\",\"value\":\"As an AI\"", "\"as an ai, I\"", 0 },
        { "\"type\":\"equals\",\"value\":\"billing\"", "\" billing\\n\"", 1 },
        { "\"type\":\"equals\",\"value\":\"7\"", "7", 1 },
        { "\"type\":\"equals\",\"value\":\"billing\"", "\"billings\"", 0 },
        { "\"type\":\"starts-with\",\"value\":\"Dear\"", "\"Dear Ada\"", 1 },
        { "\"type\":\"regex\",\"value\":\"T-[0-9]{6}$\"", "\"see T-123456\"", 1 },
        { "\"type\":\"not-regex\",\"value\":\"sorry|cannot\"", "\"I cannot\"", 0 },
        { "\"type\":\"is-json\"", "{\"a\":1}", 1 },
        { "\"type\":\"is-json\"", "\"{\\\"a\\\":1}\"", 1 },
        { "\"type\":\"is-json\"", "\"Sure: {}\"", 0 },
        { "\"type\":\"not-is-json\"", "\"Sure: {}\"", 1 },
        { "\"type\":\"is-json\",\"value\":{\"required\":[\"a\"]}", "\"{\\\"a\\\":1}\"", 1 },
        { "\"type\":\"is-json\",\"value\":{\"required\":[\"b\"]}", "{\"a\":1}", 0 },
        { "\"type\":\"contains\",\"value\":\"x\"", "", NAN },
        { "\"type\":\"not-is-json\"", "", NAN },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        double got = score(cases[i].grader, &(GradeInput){ .result = str_of(cases[i].result) });
        bool same = isnan(cases[i].score) ? isnan(got) : got == cases[i].score;
        if (!same) fail_msg("%s on %s: %g", cases[i].grader, cases[i].result, got);
    }
}

static void test_what_it_did(void **state)
{
    (void)state;
    GradeInput input = {
        .tools = STR("2 find\n1 pay\n"), .cost_nusd = 20000000, .latency_ms = 2000, .tool_calls = 3
    };
    static const struct {
        const char *grader;
        double score;
    } cases[] = {
        { "\"type\":\"cost\",\"threshold\":\"0.02\"", 1 },
        { "\"type\":\"cost\",\"threshold\":\"0.019\"", 0 },
        { "\"type\":\"latency\",\"threshold\":\"2s\"", 1 },
        { "\"type\":\"latency\",\"threshold\":\"1999ms\"", 0 },
        { "\"type\":\"trajectory:step-count\",\"threshold\":3", 1 },
        { "\"type\":\"trajectory:step-count\",\"threshold\":2", 0 },
        { "\"type\":\"trajectory:tool-used\",\"value\":\"pay\"", 1 },
        { "\"type\":\"trajectory:tool-used\",\"value\":[\"pay\",\"find\"]", 1 },
        { "\"type\":\"trajectory:tool-used\",\"value\":[\"pay\",\"mail\"]", 0 },
        { "\"type\":\"not-trajectory:tool-used\",\"value\":[\"pay\",\"mail\"]", 0 },
        { "\"type\":\"not-trajectory:tool-used\",\"value\":\"mail\"", 1 },
        { "\"type\":\"trajectory:tool-sequence\",\"value\":[\"find\",\"pay\"]", 1 },
        { "\"type\":\"trajectory:tool-sequence\",\"value\":[\"pay\",\"find\"]", 0 },
        { "\"type\":\"trajectory:tool-sequence\",\"value\":[\"find\",\"mail\"]", 0 },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        if (score(cases[i].grader, &input) != cases[i].score) fail_msg("%s", cases[i].grader);
}

/* A share of all tasks, the same ones each time, others for each grader. */
static void test_share(void **state)
{
    (void)state;
    int judged = 0, both = 0;
    for (int i = 0; i < 10000; i++) {
        char id[32];
        snprintf(id, sizeof(id), "task-%d", i);
        bool a = grade_is_judged(STR("a"), str_of(id), 0.2);
        judged += a;
        both += a && grade_is_judged(STR("b"), str_of(id), 0.2);
        assert_int_equal(a, grade_is_judged(STR("a"), str_of(id), 0.2));
        assert_true(grade_is_judged(STR("a"), str_of(id), 1));
    }
    assert_in_range(judged, 1800, 2200);
    assert_in_range(both, 300, 500);
}

static void test_verdicts(void **state)
{
    (void)state;
    static const struct {
        const char *result, *reason;
        double score;
    } cases[] = {
        { "{\"score\":0.5,\"reason\":\"half\"}", "half", 0.5 },
        { "\" {\\\"reason\\\":\\\"all\\\",\\\"score\\\":1}\\n\"", "all", 1 },
        { "{\"score\":0}", "", 0 },
    };
    static const char *const bad[] = { "",
                                       "1",
                                       "\"good\"",
                                       "\"Score: {\\\"score\\\":1}\"",
                                       "{\"score\":\"1\"}",
                                       "{\"score\":1.01}",
                                       "{\"score\":-1}",
                                       "{\"score\":null}",
                                       "{\"Score\":1}",
                                       "[1]" };
    double value;
    Str reason;
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        assert_int_equal(grade_read_verdict(str_of(cases[i].result), &arena, &value, &reason), 0);
        assert_true(value == cases[i].score && str_eq(reason, str_of(cases[i].reason)));
    }
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        if (grade_read_verdict(str_of(bad[i]), &arena, &value, &reason) != -EINVAL)
            fail_msg("%s", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good_graders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_graders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_results, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_it_did, setup, teardown),
        cmocka_unit_test_setup_teardown(test_share, setup, teardown),
        cmocka_unit_test_setup_teardown(test_verdicts, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
