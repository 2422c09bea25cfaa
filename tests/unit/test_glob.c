#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/glob.h"
#include "random.h"

static void test_examples(void **state)
{
    (void)state;
    static const struct {
        Str pattern, text;
        bool fits;
    } cases[] = {
        { STR(""), STR(""), true },
        { STR(""), STR("a"), false },
        { STR("*"), STR(""), true },
        { STR("*"), STR("anything"), true },
        { STR("**"), STR(""), true },
        { STR("gpt-*"), STR("gpt-4o-mini"), true },
        { STR("gpt-*"), STR("gpt-"), true },
        { STR("gpt-*"), STR("gpt"), false },
        { STR("gpt-*"), STR("xgpt-4"), false },
        { STR("*-latest"), STR("a-latest"), true },
        { STR("*-latest"), STR("a-latest-b"), false },
        { STR("a*b*c"), STR("aXbXbc"), true },
        { STR("a*b*c"), STR("acb"), false },
        { STR("GPT-*"), STR("gpt-4"), false },
        { STR("a?c"), STR("abc"), false },
        { STR("a?c"), STR("a?c"), true },
        { STR("[ab]"), STR("a"), false },
        { STR("abc"), STR("abcd"), false },
        { STR("abcd"), STR("abc"), false },
        { STR("*a\0b"), STR("x\0a\0b"), true },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        assert_int_equal(glob_match(cases[i].pattern, cases[i].text), cases[i].fits);
}

/* Says the same by trying every length for every star. */
static bool match_slow(Str p, Str t)
{
    if (p.len == 0) return t.len == 0;
    if (p.ptr[0] == '*') {
        for (size_t i = 0; i <= t.len; i++)
            if (match_slow(str_skip(p, 1), str_skip(t, i))) return true;
        return false;
    }
    return t.len > 0 && t.ptr[0] == p.ptr[0] && match_slow(str_skip(p, 1), str_skip(t, 1));
}

static void test_agrees_with_definition(void **state)
{
    (void)state;
    int fits = 0;
    for (uint64_t seed = 0; seed < 20000; seed++) {
        Random r = { seed };
        char p[8], t[12];
        size_t pn = (size_t)random_range(&r, 0, 7), tn = (size_t)random_range(&r, 0, 11);
        for (size_t i = 0; i < pn; i++) p[i] = "ab*"[random_range(&r, 0, 2)];
        for (size_t i = 0; i < tn; i++) t[i] = "ab"[random_range(&r, 0, 1)];
        Str pattern = str_make(p, pn), text = str_make(t, tn);
        bool expected = match_slow(pattern, text);
        fits += expected;
        assert_int_equal(glob_match(pattern, text), expected);
    }
    assert_in_range(fits, 1000, 19000);
}

static void test_stays_quick(void **state)
{
    (void)state;
    static char text[20000];
    memset(text, 'a', sizeof text);
    char pattern[64];
    for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = i % 2 ? 'a' : '*';
    pattern[63] = 'b';
    assert_false(glob_match(str_make(pattern, 64), str_make(text, sizeof text)));
}

static void test_find_takes_the_first(void **state)
{
    (void)state;
    const Str patterns[] = { STR("claude-*"), STR("gpt-4o*"), STR("gpt-*") };
    assert_int_equal(glob_find(patterns, 3, STR("gpt-4o-mini")), 1);
    assert_int_equal(glob_find(patterns, 3, STR("gpt-5")), 2);
    assert_int_equal(glob_find(patterns, 3, STR("llama")), -1);
    assert_int_equal(glob_find(NULL, 0, STR("llama")), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_agrees_with_definition),
        cmocka_unit_test(test_stays_quick),
        cmocka_unit_test(test_find_takes_the_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
