#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/issue.h"

static Arena arena;
static Issue items[4];

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static void expect_text(const Issue *issue, const char *expected)
{
    Buf out;
    buf_init(&out, 4096);
    issue_text(issue, STR("agent.yaml"), &out);
    assert_string_equal(out.ptr, expected);
    buf_deinit(&out);
}

static void test_text(void **state)
{
    (void)state;
    IssueList list;
    issue_list_init(&list, &arena, items, 4, NULL, NULL);
    IssuePath spec = ISSUE_KEY(NULL, STR("spec")), steps = ISSUE_KEY(&spec, STR("steps"));
    IssuePath third = ISSUE_INDEX(&steps, 2), weight = ISSUE_KEY(&third, STR("weight"));
    issue_error(&list, &weight, "is %d", 5);
    issue_warn(&list, NULL, "hm");
    assert_int_equal(list.n, 2);
    assert_int_equal(list.errors, 1);
    expect_text(&items[0], "agent.yaml: spec.steps[2].weight: is 5");
    expect_text(&items[1], "agent.yaml: warning: hm");
    items[0].line = 12;
    items[0].column = 5;
    expect_text(&items[0], "agent.yaml:12:5: spec.steps[2].weight: is 5");
    IssuePath first = ISSUE_INDEX(NULL, 0), name = ISSUE_KEY(&first, STR("name"));
    issue_error(&list, &name, "x");
    assert_true(str_eq(items[2].path, STR("[0].name")));
}

static void test_a_file_cannot_steer_the_terminal(void **state)
{
    (void)state;
    IssueList list;
    issue_list_init(&list, &arena, items, 4, NULL, NULL);
    IssuePath at = ISSUE_KEY(NULL, STR("a\x1b[2J"));
    issue_error(&list, &at, "found `%s`", "\x1b]0;x\a\n");
    assert_true(str_eq(items[0].path, STR("a?[2J")));
    assert_true(str_eq(items[0].message, STR("found `?]0;x??`")));
}

static void test_too_many_are_counted(void **state)
{
    (void)state;
    IssueList list;
    issue_list_init(&list, &arena, items, 2, NULL, NULL);
    for (int i = 0; i < 5; i++) issue_error(&list, NULL, "e");
    assert_int_equal(list.n, 2);
    assert_int_equal(list.dropped, 3);
    assert_int_equal(list.errors, 5);
    issue_list_init(&list, &arena, NULL, 0, NULL, NULL);
    issue_error(&list, NULL, "e");
    assert_int_equal(list.errors, 1);
}

static void test_full_arena(void **state)
{
    (void)state;
    Arena tiny;
    arena_init(&tiny, 8);
    IssueList list;
    issue_list_init(&list, &tiny, items, 4, NULL, NULL);
    issue_error(&list, NULL, "a message that does not fit anywhere");
    assert_true(list.failed);
    assert_int_equal(list.n, 1);
    arena_deinit(&tiny);
}

static void test_sorting(void **state)
{
    (void)state;
    IssueList list;
    issue_list_init(&list, &arena, items, 4, NULL, NULL);
    for (int i = 0; i < 4; i++) issue_error(&list, NULL, "%d", i);
    items[0].line = 9, items[0].column = 1;
    items[1].line = 2, items[1].column = 7;
    items[2].line = 2, items[2].column = 3;
    items[3].line = 2, items[3].column = 7;
    issue_sort(&list);
    const char *order[] = { "2", "1", "3", "0" };
    for (int i = 0; i < 4; i++) assert_string_equal(items[i].message.ptr, order[i]);
}

static void test_nearest(void **state)
{
    (void)state;
    const Str names[] = { STR("model"), STR("prompt"), STR("maxAttempts"), STR("for"),
                          STR("tools") };
    static const struct {
        Str name, near;
    } cases[] = {
        { STR("modle"), STR("model") },  /* swapped */
        { STR("modl"), STR("model") },   /* lost */
        { STR("modell"), STR("model") }, /* added */
        { STR("Model"), STR("model") },  /* case */
        { STR("promt"), STR("prompt") },
        { STR("max_attempts"), STR("maxAttempts") },
        { STR("maxattempts"), STR("maxAttempts") },
        { STR("fro"), STR("for") },
        { STR("to"), STR("") },
        { STR("timeout"), STR("") },
        { STR("x"), STR("") },
        { STR(""), STR("") },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Str near = issue_nearest(cases[i].name, names, ARRAY_N(names));
        if (!str_eq(near, cases[i].near))
            fail_msg("%s: got %.*s", cases[i].name.ptr, STR_ARG(near));
    }
    char longer[65];
    memset(longer, 'a', sizeof longer);
    const Str same = str_make(longer, sizeof longer);
    assert_true(str_empty(issue_nearest(same, &same, 1)));
    const Str fits = str_make(longer, 64);
    assert_true(str_eq(issue_nearest(fits, &fits, 1), fits));
}

static const Str document = STR("{\n"
                                "  \"a\": [1, {\"b\": \"x]}\\\"\", \"c/d\": {}},\n"
                                "    true],\n"
                                "  \"\xc3\xa9\": 1, \"e~f\": -2.5e3 ,\n"
                                "  \"g\":{\"h\":\n[]}}\n");

static void expect_place(const char *pointer, size_t line, size_t column)
{
    size_t l = 0, c = 0;
    issue_place_in_json(&document, str_of(pointer), &l, &c);
    if (l != line || c != column) fail_msg("%s: %zu:%zu", pointer, l, c);
}

static void test_places_in_json(void **state)
{
    (void)state;
    const Json *parsed;
    assert_int_equal(json_parse(&arena, document, NULL, &parsed, NULL), 0);
    expect_place("", 1, 1);
    expect_place("/a", 2, 3);
    expect_place("/a/0", 2, 9);
    expect_place("/a/1", 2, 12);
    expect_place("/a/1/b", 2, 13);
    expect_place("/a/1/c~1d", 2, 27);
    expect_place("/a/2", 3, 5);
    expect_place("/\xc3\xa9", 4, 3);
    expect_place("/e~0f", 4, 11); /* the column counts characters */
    expect_place("/g/h", 5, 8);
    /* what is not there: its nearest parent */
    expect_place("/zzz", 1, 1);
    expect_place("/a/9", 2, 3);
    expect_place("/a/1/zzz/deeper", 2, 12);
    expect_place("/a/x", 2, 3);
    expect_place("/a/0/b", 2, 9);
    expect_place("/g/h/0", 5, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_a_file_cannot_steer_the_terminal),
        cmocka_unit_test(test_too_many_are_counted),
        cmocka_unit_test(test_full_arena),
        cmocka_unit_test(test_sorting),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_places_in_json),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
