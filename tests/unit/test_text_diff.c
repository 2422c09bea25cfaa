#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "logic/text_diff.h"
#include "random.h"

static Arena arena;
static Buf out;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 64 << 20);
    buf_init(&out, 16 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    buf_deinit(&out);
    return 0;
}

static const char *diff(Str a, Str b)
{
    buf_clear(&out);
    arena_clear(&arena);
    assert_int_equal(text_diff(&arena, STR("old"), STR("new"), a, b, &out), 0);
    return out.ptr ? out.ptr : "";
}
#define DIFF(a, b) diff(STR(a), STR(b))

static void test_equal_texts_give_nothing(void **state)
{
    (void)state;
    assert_string_equal(DIFF("", ""), "");
    assert_string_equal(DIFF("a\nb\n", "a\nb\n"), "");
}

/* Expected texts as GNU diff -u writes them. */
static void test_against_diff(void **state)
{
    (void)state;
    assert_string_equal(DIFF("a\nb\nc\n", "a\nX\nc\n"),
                        "--- old\n+++ new\n@@ -1,3 +1,3 @@\n a\n-b\n+X\n c\n");
    assert_string_equal(DIFF("", "a\nb\n"), "--- old\n+++ new\n@@ -0,0 +1,2 @@\n+a\n+b\n");
    assert_string_equal(DIFF("a\nb\n", ""), "--- old\n+++ new\n@@ -1,2 +0,0 @@\n-a\n-b\n");
    assert_string_equal(DIFF("a\n", "b\n"), "--- old\n+++ new\n@@ -1 +1 @@\n-a\n+b\n");
    assert_string_equal(DIFF("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nx\n5\n6\n7\n8\n9\n"),
                        "--- old\n+++ new\n@@ -2,6 +2,7 @@\n 2\n 3\n 4\n+x\n 5\n 6\n 7\n");
}

static void test_missing_last_newline(void **state)
{
    (void)state;
    assert_string_equal(
        DIFF("a\nb", "a\nb\n"),
        "--- old\n+++ new\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n");
    assert_string_equal(DIFF("x\nb", "y\nb"), "--- old\n+++ new\n@@ -1,2 +1,2 @@\n-x\n+y\n b\n"
                                              "\\ No newline at end of file\n");
}

static void test_near_changes_share_a_hunk(void **state)
{
    (void)state;
    /* six common lines between: one hunk; seven: two */
    const char *near = DIFF("a\n1\n2\n3\n4\n5\n6\nb\n", "A\n1\n2\n3\n4\n5\n6\nB\n");
    assert_null(strstr(strstr(near, "@@ -") + 4, "@@ -"));
    const char *far = DIFF("a\n1\n2\n3\n4\n5\n6\n7\nb\n", "A\n1\n2\n3\n4\n5\n6\n7\nB\n");
    assert_string_equal(far, "--- old\n+++ new\n@@ -1,4 +1,4 @@\n-a\n+A\n 1\n 2\n 3\n"
                             "@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n+B\n");
}

/* Applies a diff as patch(1) would: the old text must come out as the new one. */
static void apply(Str old_text, Str patch, Buf *result, int *ret_edits)
{
    *ret_edits = 0;
    Str line;
    patch = str_split(patch, '\n', &line, NULL);
    patch = str_split(patch, '\n', &line, NULL);
    size_t at = 1; /* next line of the old text */
    while (!str_empty(patch)) {
        patch = str_split(patch, '\n', &line, NULL);
        if (str_starts_with(line, STR("@@ -"))) {
            size_t from = 0, count = 1;
            int fields = sscanf(line.ptr, "@@ -%zu,%zu", &from, &count);
            assert_true(fields >= 1);
            if (count == 0) from++; /* it named the line before */
            for (; at < from; at++) {
                Str kept;
                old_text = str_split(old_text, '\n', &kept, NULL);
                buf_add(result, kept);
                buf_add_char(result, '\n');
            }
            continue;
        }
        Str body = str_skip(line, 1);
        char sign = line.ptr[0];
        if (sign != '+') {
            Str have;
            old_text = str_split(old_text, '\n', &have, NULL);
            assert_true(str_eq(have, body));
            at++;
        }
        if (sign != '-') {
            buf_add(result, body);
            buf_add_char(result, '\n');
        }
        *ret_edits += sign != ' ';
    }
    buf_add(result, old_text);
}

/* Least number of inserted and deleted lines, by dynamic programming. */
static int edits_least(const char *a, int n, const char *b, int m)
{
    static int cost[64][64];
    for (int i = 0; i <= n; i++)
        for (int j = 0; j <= m; j++) {
            if (i == 0 || j == 0) cost[i][j] = i + j;
            else if (a[i - 1] == b[j - 1]) cost[i][j] = cost[i - 1][j - 1];
            else cost[i][j] = 1 + MIN(cost[i - 1][j], cost[i][j - 1]);
        }
    return cost[n][m];
}

static void test_random_texts_apply_and_are_shortest(void **state)
{
    (void)state;
    Buf result;
    buf_init(&result, 1 << 20);
    for (uint64_t seed = 0; seed < 5000; seed++) {
        Random r = { seed };
        char a[64], b[64], at[128], bt[128];
        int n = (int)random_range(&r, 0, 40), m = (int)random_range(&r, 0, 40);
        for (int i = 0; i < n; i++) a[i] = (char)('a' + random_range(&r, 0, 4));
        for (int i = 0; i < m; i++) b[i] = (char)('a' + random_range(&r, 0, 4));
        for (int i = 0; i < n; i++) at[2 * i] = a[i], at[2 * i + 1] = '\n';
        for (int i = 0; i < m; i++) bt[2 * i] = b[i], bt[2 * i + 1] = '\n';
        Str old_text = str_make(at, (size_t)(2 * n)), new_text = str_make(bt, (size_t)(2 * m));
        (void)diff(old_text, new_text);
        if (str_eq(old_text, new_text)) continue;
        int edits;
        buf_clear(&result);
        apply(old_text, buf_str(&out), &result, &edits);
        assert_true(str_eq(buf_str(&result), new_text));
        assert_int_equal(edits, edits_least(a, n, b, m));
    }
    buf_deinit(&result);
}

static void numbered(Buf *text, int n, int step, const char *prefix)
{
    for (int i = 0; i < n; i++) buf_printf(text, "%s%d\n", prefix, i * step);
}

static void test_too_many_edits_replace_the_middle(void **state)
{
    (void)state;
    Buf a, b, result;
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    buf_init(&result, 1 << 20);
    buf_add(&a, STR("head\n"));
    buf_add(&b, STR("head\n"));
    numbered(&a, 2000, 1, "");
    numbered(&b, 2000, 3, "");
    buf_add(&a, STR("tail\n"));
    buf_add(&b, STR("tail\n"));
    (void)diff(buf_str(&a), buf_str(&b));
    int edits;
    apply(buf_str(&a), buf_str(&out), &result, &edits);
    assert_true(str_eq(buf_str(&result), buf_str(&b)));
    assert_true(edits > TEXT_DIFF_EDITS_MAX && edits <= 4000);
    buf_deinit(&a);
    buf_deinit(&b);
    buf_deinit(&result);
}

static void test_limits(void **state)
{
    (void)state;
    Buf a;
    buf_init(&a, 1 << 20);
    for (int i = 0; i <= TEXT_DIFF_LINES_MAX; i++) buf_add_char(&a, '\n');
    buf_clear(&out);
    assert_int_equal(text_diff(&arena, STR("o"), STR("n"), buf_str(&a), STR("x"), &out), -EMSGSIZE);
    assert_int_equal(out.len, 0);
    Arena tiny;
    arena_init(&tiny, 100);
    assert_int_equal(text_diff(&tiny, STR("o"), STR("n"), STR("a\nb\nc\n"), STR("x"), &out),
                     -ENOMEM);
    arena_deinit(&tiny);
    Buf small;
    buf_init(&small, 10);
    assert_int_equal(text_diff(&arena, STR("o"), STR("n"), STR("a\n"), STR("b\n"), &small),
                     -ENOMEM);
    buf_deinit(&small);
    buf_deinit(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_texts_give_nothing),
        cmocka_unit_test(test_against_diff),
        cmocka_unit_test(test_missing_last_newline),
        cmocka_unit_test(test_near_changes_share_a_hunk),
        cmocka_unit_test(test_random_texts_apply_and_are_shortest),
        cmocka_unit_test(test_too_many_edits_replace_the_middle),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
