#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/diag.h"
#include "logic/regex.h"

/* 1: matches, 0: does not, -EINVAL, -ENOMEM. */
static int try(Str pattern, Str text)
{
    CLEANUP(arena_deinit) Arena arena;
    Regex *regex;
    arena_init(&arena, 1 << 20);
    int r = regex_compile(&arena, pattern, &regex);
    return r == 0 ? regex_matches(regex, text) : r;
}

static void test_matches(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool matches;
    } cases[] = {
        { "", "", true },
        { "", "anything", true },
        { "b", "abc", true },
        { "d", "abc", false },
        { "^b", "abc", false },
        { "c$", "abc", true },
        { "^abc$", "abc", true },
        { "^abc$", "abcd", false },
        { "^abc$", "abc\n", false },
        { "a.c", "abc", true },
        { "a.c", "a\nc", false },
        { "(?s)a.c", "a\nc", true },
        { "^b$", "a\nb\nc", false },
        { "(?m)^b$", "a\nb\nc", true },
        { "ABC", "abc", false },
        { "(?i)ABC", "xabcx", true },
        { "(?i)^[a-c]+$", "AbC", true },
        { "(?i)^[^a]$", "A", false },
        { "(?im)^b$", "A\nB", true },
        { "^a*$", "", true },
        { "^a+$", "", false },
        { "^ab?c$", "ac", true },
        { "^ab?c$", "abbc", false },
        { "^a{3}$", "aaa", true },
        { "^a{3}$", "aaaa", false },
        { "^a{2,}$", "a", false },
        { "^a{2,}$", "aaaaa", true },
        { "^a{2,3}$", "aaaa", false },
        { "^(ab){2}$", "abab", true },
        { "^(ab){0,1}c$", "c", true },
        { "a{,3}", "a{,3}", true },
        { "x{", "x{", true },
        { "^(cat|dog|)$", "dog", true },
        { "^(cat|dog|)$", "", true },
        { "^(cat|dog|)$", "cow", false },
        { "^(?:a|b)+c$", "ababc", true },
        { "cat|dog", "hotdog", true },
        { "^cat|dog$", "a dog", true },
        { "^((a|b)(c|d))*$", "acbd", true },
        { "^((a|b)(c|d))*$", "acb", false },
        { "(a*)*b", "aaab", true },
        { "(a*)*b", "aaa", false },
        { "^(a?){5}$", "aaa", true },
        { "^.*?x$", "aaax", true },
        { "^a+?$", "aaa", true },
        { "[abc]", "xxb", true },
        { "[^abc]", "abc", false },
        { "^[a-f0-9]+$", "09af", true },
        { "^[a-f0-9]+$", "09ag", false },
        { "^[]a]+$", "a]", true },
        { "^[a-]+$", "a-", true },
        { "^[\\]\\-]+$", "]-", true },
        { "^[^]]$", "]", false },
        { "^[\\d.]+$", "1.5", true },
        { "^[\\D]+$", "ab", true },
        { "^[\\D]+$", "a1", false },
        { "^\\d{3}-\\d{4}$", "555-1234", true },
        { "^\\w+$", "a_1", true },
        { "^\\W$", "a", false },
        { "^\\W$", "-", true },
        { "^\\s\\S$", "\ta", true },
        { "\\bcat\\b", "a cat.", true },
        { "\\bcat\\b", "concat", false },
        { "\\Bcat", "concat", true },
        { "a\\.b", "axb", false },
        { "a\\.b", "a.b", true },
        { "\\(\\)\\[\\]\\{\\}\\*\\+\\?\\|\\^\\$\\\\", "()[]{}*+?|^$\\", true },
        { "^\\t\\n$", "\t\n", true },
        { "^.$", "é", true },
        { "^[à-ü]{2}$", "éè", true },
        { "^€{2}$", "€€", true },
        { "^[^a]$", "😀", true },
        { "T-[0-9]{6}", "see T-123456.", true },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        int r = try(str_of(cases[i].pattern), str_of(cases[i].text));
        if (r != cases[i].matches)
            fail_msg("%s on %s: %d %s", cases[i].pattern, cases[i].text, r, diag_text());
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *why;
    } cases[] = {
        { "(a", "has a ( without its ), at byte 2" },
        { "a)", "has a ) without its (, at byte 1" },
        { "[a", "has a [ without its ], at byte 2" },
        { "[", "has a [ without its ], at byte 1" },
        { "*a", "repeats nothing, at byte 1" },
        { "a|*", "repeats nothing, at byte 3" },
        { "a**", "repeats a repetition, at byte 2" },
        { "a\\", "ends in a backslash, at byte 2" },
        { "[a\\", "ends in a backslash, at byte 3" },
        { "(a)\\1", "has an escape that is not supported, at byte 5" },
        { "\\p{L}", "has an escape that is not supported, at byte 2" },
        { "a(?=b)", "has a group that is not supported, at byte 2" },
        { "(?<n>b)", "has a group that is not supported, at byte 1" },
        { "(?x)b", "has a group that is not supported, at byte 1" },
        { "[b-a]", "has a range backwards, at byte 4" },
        { "[a-\\d]", "has a range backwards, at byte 5" },
        { "a{3,2}", "has a repetition backwards, at byte 6" },
        { "a{1001}", "repeats too often, at byte 7" },
        { "[a-cx-z0-468]{999}", "repeats long sets too often, at byte 18" },
        { "(a{100}){100}", "is too long once its repetitions are written out, at byte 13" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        assert_int_equal(try(str_of(cases[i].pattern), STR("a")), -EINVAL);
        assert_string_equal(diag_text(), cases[i].why);
    }
}

static void test_limits(void **state)
{
    (void)state;
    char text[REGEX_PATTERN_BYTES_MAX + 1];
    memset(text, 'a', sizeof(text));
    assert_int_equal(try(str_make(text, sizeof(text)), STR("a")), -EINVAL);
    assert_int_equal(try(str_make(text, REGEX_SIZE_MAX - 1), STR("a")), 0);
    assert_int_equal(try(str_make(text, REGEX_SIZE_MAX), STR("a")), -EINVAL);
    memset(text, '|', sizeof(text));
    assert_int_equal(try(str_make(text, 400), STR("a")), 1);
    memset(text, '(', sizeof(text));
    assert_int_equal(try(str_make(text, 500), STR("a")), -EINVAL);
    assert_string_equal(diag_text(), "has too many groups within one another, at byte 33");
    CLEANUP(arena_deinit) Arena small;
    Regex *regex;
    arena_init(&small, 64);
    assert_int_equal(regex_compile(&small, STR("a"), &regex), -ENOMEM);
}

/* What takes others longer than anybody waits. */
static void test_it_does_not_explode(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 16);
    for (int i = 0; i < 20000; i++) buf_add_char(&text, 'a');
    static const char *const patterns[] = { "^(a+)+$x", "(a|a)*b", "(a|aa)+$b", "(.*a){20}b",
                                            "^(([a-z])+.)+[A-Z]([a-z])+$" };
    for (size_t i = 0; i < ARRAY_N(patterns); i++)
        assert_int_equal(try(str_of(patterns[i]), buf_str(&text)), 0);
}

/* Repetitions of what writes no instruction: 10^12 rounds, were they gone through. */
static void test_repeats_of_nothing(void **state)
{
    (void)state;
    assert_int_equal(try(STR("^((((){1000}){1000}){1000}){1000}$"), STR("")), 1);
    assert_int_equal(try(STR("^((((a{0}){1000}){1000}){1000}){1000}b$"), STR("b")), 1);
    assert_int_equal(try(STR("((((){0,1000}){1000}){1000}){1000}"), STR("")), -EINVAL);
    assert_int_equal(try(STR("^(a()()){3}$"), STR("aaa")), 1);
}

/* \w has four ranges. */
static void test_weight(void **state)
{
    (void)state;
    assert_int_equal(try(STR("\\w{999}"), STR("a")), 0);
    assert_int_equal(try(STR("[\\w-]{999}"), STR("a")), -EINVAL);
    assert_int_equal(try(STR("[\\w-]{700}"), STR("a")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),  cmocka_unit_test(test_repeats_of_nothing),
        cmocka_unit_test(test_weight),  cmocka_unit_test(test_it_does_not_explode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
