#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/diag.h"
#include "base/list.h"
#include "base/map.h"
#include "base/money.h"

/* --- Str -------------------------------------------------------------------------------------- */

static void test_str(void **state)
{
    (void)state;
    Str head;
    bool found;
    assert_true(str_eq(STR("abc"), str_of("abc")));
    assert_true(str_eq(STR_NULL, STR("")));
    assert_true(str_eq_nocase(STR("Content-TYPE"), STR("content-type")));
    assert_false(str_eq_nocase(STR("a["), STR("A{"))); /* only letters fold */
    assert_true(str_cmp(STR("a"), STR("ab")) < 0 && str_cmp(STR("b"), STR("ab")) > 0);
    assert_int_equal(str_find(STR("haystack"), STR("st")), 3);
    assert_int_equal(str_find(STR("hay"), STR("haystack")), -1);
    assert_int_equal(str_find(STR("x"), STR("")), 0);
    assert_true(str_eq(str_trim(STR(" \t a b\r\n")), STR("a b")));
    assert_true(str_eq(str_split(STR("k=v=w"), '=', &head, &found), STR("v=w")));
    assert_true(found && str_eq(head, STR("k")));
    assert_true(str_empty(str_split(STR("none"), '=', &head, &found)) && !found);
    assert_true(str_empty(str_sub(STR("abc"), 7, 2)));
    assert_true(str_starts_with(STR("abc"), STR("ab")) && !str_starts_with(STR("a"), STR("ab")));
    assert_true(str_ends_with(STR("abc"), STR("bc")) && !str_ends_with(STR("c"), STR("bc")));
    char out[4];
    assert_false(str_copy(out, sizeof out, STR("abcd")));
    assert_string_equal(out, "abc");
}

static void test_str_numbers(void **state)
{
    (void)state;
    int64_t v = 42;
    uint64_t u;
    assert_int_equal(str_to_i64(STR("-9223372036854775808"), &v), 0);
    assert_true(v == INT64_MIN);
    assert_int_equal(str_to_i64(STR("9223372036854775808"), &v), -ERANGE);
    assert_int_equal(str_to_i64(STR("-9223372036854775809"), &v), -ERANGE);
    assert_int_equal(str_to_u64(STR("18446744073709551615"), &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(str_to_u64(STR("18446744073709551616"), &u), -ERANGE);
    static const char *const bad[] = { "", "-", "+1", " 1", "1 ", "0x1", "1.0", "--1" };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(str_to_i64(str_of(bad[i]), &v), -EINVAL);
    assert_true(v == INT64_MIN); /* untouched by failures */
}

static void test_utf8(void **state)
{
    (void)state;
    assert_true(str_is_utf8(STR("plain, \xc3\xa9, \xe2\x82\xac, \xf0\x9f\x98\x80\n")));
    assert_true(str_is_utf8(STR_NULL));
    static const char *const bad[] = { "\x80",
                                       "\xc0\xaf",
                                       "\xc1\xbf",
                                       "\xe0\x80\x80",
                                       "\xed\xa0\x80",
                                       "\xf0\x80\x80\x80",
                                       "\xf4\x90\x80\x80",
                                       "\xf5\x80\x80\x80",
                                       "\xe2\x82",
                                       "\xc3",
                                       "\x01",
                                       "a\xff" };
    for (size_t i = 0; i < ARRAY_N(bad); i++) assert_false(str_is_utf8(str_of(bad[i])));
}

/* --- Arena, Buf ------------------------------------------------------------------------------- */

static void test_arena_quota_and_alignment(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 10000);
    for (size_t size = 1; size < 100; size++) {
        char *p = arena_alloc(&arena, size);
        if (!p) break;
        assert_int_equal((uintptr_t)p % 16, 0);
        memset(p, 0xaa, size);
    }
    assert_true(arena.used <= arena.max);
    assert_null(arena_alloc(&arena, 10001));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_str(&arena, str_make("x", SIZE_MAX)).ptr);
    arena_clear(&arena);
    assert_non_null(arena_alloc(&arena, 5000));
    assert_true(str_eq(arena_printf(&arena, "%d-%s", 7, "x"), STR("7-x")));
    assert_string_equal(arena_str(&arena, STR("nul")).ptr, "nul");
}

static void test_arena_realloc(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    char *p = arena_alloc(&arena, 10);
    memset(p, 'a', 10);
    for (size_t size = 10; size < 20000; size += 777) {
        char *q = arena_realloc(&arena, p, size, size + 777);
        assert_non_null(q);
        for (int i = 0; i < 10; i++) assert_int_equal(q[i], 'a');
        p = q;
    }
    assert_ptr_equal(arena_realloc(&arena, p, 20000, 5), p);
}

static void test_buf_maximum(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 10);
    assert_true(buf_add(&buf, STR("12345")));
    assert_true(buf_printf(&buf, "%d", 678));
    assert_false(buf_add(&buf, STR("abc"))); /* 11 */
    assert_true(buf.failed);
    assert_true(str_eq(buf_str(&buf), STR("12345678")));
    buf_clear(&buf);
    assert_false(buf.failed);
    assert_true(buf_add(&buf, STR("1234567890")));
    assert_false(buf_add_char(&buf, 'x'));
    assert_false(buf_printf(&buf, "%s", "y"));
    buf_drop(&buf, 4);
    assert_string_equal(buf.ptr, "567890");
}

/* --- Map -------------------------------------------------------------------------------------- */

#define MAP_KEYS 500

/* Against a plain array, over many random puts and removes. */
static void test_map_against_array(void **state)
{
    (void)state;
    Map map;
    char keys[MAP_KEYS][16];
    void *model[MAP_KEYS] = { 0 };
    size_t live = 0;
    uint64_t x = 88172645463325252;
    map_init(&map, 12345);
    for (int i = 0; i < MAP_KEYS; i++) snprintf(keys[i], sizeof keys[i], "k%d", i);
    for (int step = 0; step < 50000; step++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        size_t i = x % MAP_KEYS;
        if (x >> 63) {
            assert_ptr_equal(map_remove(&map, str_of(keys[i])), model[i]);
            live -= model[i] != NULL;
            model[i] = NULL;
        } else {
            assert_ptr_equal(map_put(&map, str_of(keys[i]), &keys[step % MAP_KEYS]), model[i]);
            live += model[i] == NULL;
            model[i] = &keys[step % MAP_KEYS];
        }
        assert_int_equal(map.n, live);
    }
    for (int i = 0; i < MAP_KEYS; i++) assert_ptr_equal(map_get(&map, str_of(keys[i])), model[i]);
    size_t cursor = 0, seen = 0;
    while (map_next(&map, &cursor)) seen++;
    assert_int_equal(seen, live);
    map_deinit(&map);
    assert_null(map_get(&map, STR("k1")));
}

/* --- List ------------------------------------------------------------------------------------- */

static void test_list(void **state)
{
    (void)state;
    List a, b;
    ListNode n[4];
    list_init(&a), list_init(&b);
    for (int i = 0; i < 4; i++) list_init(&n[i]), list_push_back(i < 2 ? &a : &b, &n[i]);
    list_move_all(&a, &b);
    assert_true(list_empty(&b) && list_linked(&n[3]));
    list_remove(&n[1]);
    list_remove(&n[1]); /* harmless */
    assert_ptr_equal(list_pop_front(&a), &n[0]);
    LIST_EACH (&a, node) list_remove(node);
    assert_null(list_pop_front(&a));
}

/* --- money ------------------------------------------------------------------------------------ */

typedef struct {
    const char *text;
    int64_t scale;
    int r;
    int64_t value;
} MoneyCase;

static void test_money_from_text(void **state)
{
    (void)state;
    static const MoneyCase cases[] = {
        { "0", NUSD_PER_USD, 0, 0 },
        { "0.50", NUSD_PER_USD, 0, 500000000 },
        { "12", NUSD_PER_USD, 0, 12000000000 },
        { "0.000000001", NUSD_PER_USD, 0, 1 },
        { "0.0000000001", NUSD_PER_USD, 0, 1 }, /* below the unit: up */
        { "0.0000000010", NUSD_PER_USD, 0, 1 },
        { "1.0000000001", NUSD_PER_USD, 0, 1000000001 },
        { "7.5e-08", PUSD_PER_USD, 0, 75000 },
        { "1.5E-7", PUSD_PER_USD, 0, 150000 },
        { "2.5e-13", PUSD_PER_USD, 0, 1 },
        { "1e-6", PUSD_PER_USD, 0, 1000000 },
        { "1e+2", NUSD_PER_USD, 0, 100000000000 },
        { "9223372036.854775807", NUSD_PER_USD, 0, INT64_MAX },
        { "9223372036.854775808", NUSD_PER_USD, -ERANGE, 0 },
        { "9223372036.8547758071", NUSD_PER_USD, -ERANGE, 0 },
        { "1e30", NUSD_PER_USD, -ERANGE, 0 },
        { "1e99", NUSD_PER_USD, -ERANGE, 0 },
        { "", NUSD_PER_USD, -EINVAL, 0 },
        { ".", NUSD_PER_USD, -EINVAL, 0 },
        { "1.", NUSD_PER_USD, -EINVAL, 0 },
        { "-1", NUSD_PER_USD, -EINVAL, 0 },
        { "+1", NUSD_PER_USD, -EINVAL, 0 },
        { "1,5", NUSD_PER_USD, -EINVAL, 0 },
        { "1.2.3", NUSD_PER_USD, -EINVAL, 0 },
        { "1e", NUSD_PER_USD, -EINVAL, 0 },
        { "$1", NUSD_PER_USD, -EINVAL, 0 },
        { "NaN", NUSD_PER_USD, -EINVAL, 0 },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        int64_t value = 0;
        int r = money_from_text(str_of(cases[i].text), cases[i].scale, &value);
        if (r != cases[i].r || value != cases[i].value)
            fail_msg("%s gives %d, %" PRId64, cases[i].text, r, value);
    }
}

static void test_money_text_round_trip(void **state)
{
    (void)state;
    char text[MONEY_TEXT_MAX];
    assert_string_equal(money_text(4215000, text), "0.004215000");
    assert_string_equal(money_text(-1, text), "-0.000000001");
    assert_string_equal(money_text(INT64_MIN, text), "-9223372036.854775808");
    uint64_t x = 42;
    for (int i = 0; i < 10000; i++) {
        int64_t back;
        x = x * 6364136223846793005 + 1442695040888963407;
        int64_t value = (int64_t)(x >> (1 + i % 60));
        assert_int_equal(money_from_text(str_of(money_text(value, text)), NUSD_PER_USD, &back), 0);
        assert_true(back == value);
    }
}

static void test_money_sums(void **state)
{
    (void)state;
    __int128 sum = 0;
    assert_true(money_add_tokens(&sum, 1000, 150000));
    assert_true(money_add_tokens(&sum, 1, 1));
    assert_int_equal(money_nusd_from_pusd(sum), 150001);       /* 150000.001 rounded up */
    assert_true(money_add_tokens(&sum, INT64_MAX, INT64_MAX)); /* fits 128 bits */
    assert_true(money_nusd_from_pusd(sum) == INT64_MAX);
    assert_true(money_add(INT64_MAX, 1) == INT64_MAX);
}

static void test_diag(void **state)
{
    (void)state;
    assert_int_equal(diag_set(-EINVAL, "bad %s", "thing"), -EINVAL);
    assert_int_equal(diag_prefix(-EINVAL, "line %d", 3), -EINVAL);
    assert_string_equal(diag_text(), "line 3: bad thing");
    Diag other = { "" };
    Diag *before = diag_switch(&other);
    assert_string_equal(diag_text_or(-ENOENT), "No such file or directory");
    diag_set(0, "elsewhere");
    diag_switch(before);
    assert_string_equal(diag_text(), "line 3: bad thing");
    char big[2 * DIAG_BYTES_MAX];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    diag_set(0, "%s", big);
    diag_prefix(0, "%s", big);
    assert_true(strlen(diag_text()) < DIAG_BYTES_MAX);
    diag_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_str),
        cmocka_unit_test(test_str_numbers),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_arena_quota_and_alignment),
        cmocka_unit_test(test_arena_realloc),
        cmocka_unit_test(test_buf_maximum),
        cmocka_unit_test(test_map_against_array),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_money_from_text),
        cmocka_unit_test(test_money_text_round_trip),
        cmocka_unit_test(test_money_sums),
        cmocka_unit_test(test_diag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
