#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/share.h"

#define T0 INT64_C(1000)
static const ShareTerms terms = { .ttl_ms = 100, .linger_ms = 1000 };

static int64_t ask(ShareHolder *h, size_t n, size_t i, ShareAsk a, int64_t now_ms)
{
    return share_ask(h, n, i, 100, &a, &terms, true, now_ms);
}

static void test_one_worker_gets_all(void **state)
{
    (void)state;
    ShareHolder h[1] = { 0 };
    assert_int_equal(ask(h, 1, 0, (ShareAsk){ 0 }, T0), 100);
    assert_int_equal(ask(h, 1, 0, (ShareAsk){ .have = 100, .used = 60 }, T0 + 50), 100);
}

static void test_a_second_one_gets_what_the_first_gives_up(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    assert_int_equal(ask(h, 2, 0, (ShareAsk){ 0 }, T0), 100);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 0, 30, 0 } }, T0), 0);
    /* of 100: 30 are wanted by the other one, the rest is for both alike */
    assert_int_equal(ask(h, 2, 0, (ShareAsk){ .have = 100 }, T0 + 10), 35);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 0, 30, 0 } }, T0 + 20),
                     0); /* not told yet */
    assert_int_equal(ask(h, 2, 0, (ShareAsk){ .have = 35 }, T0 + 30), 35);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 0, 30, 0 } }, T0 + 40), 65);
}

static void test_what_was_used_counts_until_it_wears_off(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    (void)ask(h, 2, 0, (ShareAsk){ 0 }, T0);
    (void)ask(h, 2, 1, (ShareAsk){ .want = { 100, 0, 0 } }, T0);
    assert_int_equal(ask(h, 2, 0, (ShareAsk){ .have = 100, .used = 80 }, T0 + 10), 80);
    (void)ask(h, 2, 0, (ShareAsk){ .have = 80, .used = 80 }, T0 + 20);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 100, 0, 0 } }, T0 + 30), 20);
    assert_int_equal(ask(h, 2, 0, (ShareAsk){ .have = 80, .used = 10 }, T0 + 40), 10);
    (void)ask(h, 2, 0, (ShareAsk){ .have = 10, .used = 10 }, T0 + 50);
    assert_int_equal(
        ask(h, 2, 1, (ShareAsk){ .have = 20, .used = 20, .want = { 80, 0, 0 } }, T0 + 60), 90);
}

static void test_lanes_come_first_to_last(void **state)
{
    (void)state;
    ShareHolder h[3] = { 0 };
    static const ShareAsk asks[] = { { .want = { 0, 0, 100 } },
                                     { .want = { 0, 60, 0 } },
                                     { .want = { 30, 0, 0 } } };
    for (size_t i = 0; i < 3; i++)
        (void)share_ask(h, 3, i, 100, &asks[i], &terms, false, T0); /* heard of, nothing given */
    assert_int_equal(ask(h, 3, 0, asks[0], T0), 10);
    assert_int_equal(ask(h, 3, 1, asks[1], T0), 60);
    assert_int_equal(ask(h, 3, 2, asks[2], T0), 30);
}

static void test_evenly_within_a_lane(void **state)
{
    (void)state;
    ShareHolder h[3] = { 0 };
    static const ShareAsk asks[] = { { .want = { 0, 10, 0 } },
                                     { .want = { 0, 90, 0 } },
                                     { .want = { 0, 500, 0 } } };
    for (size_t i = 0; i < 3; i++) (void)share_ask(h, 3, i, 100, &asks[i], &terms, false, T0);
    assert_int_equal(ask(h, 3, 0, asks[0], T0), 10);
    assert_int_equal(ask(h, 3, 1, asks[1], T0), 45);
    assert_int_equal(ask(h, 3, 2, asks[2], T0), 45);
}

static void test_a_lost_worker_keeps_its_share_for_a_time(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    (void)ask(h, 2, 0, (ShareAsk){ 0 }, T0);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 9, 0, 0 } }, T0 + 1099), 0);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 9, 0, 0 } }, T0 + 1100), 100);
}

static void test_one_that_leaves_gives_back_what_it_has_not_used(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    (void)ask(h, 2, 0, (ShareAsk){ 0 }, T0);
    share_leave(&h[0], 25, T0 + 10);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ 0 }, T0 + 20), 75);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .have = 75 }, T0 + 1009), 75);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .have = 75 }, T0 + 1010), 100);
    share_leave(&h[0], 99, T0 + 2000); /* already gone: nothing comes of it */
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .have = 100 }, T0 + 2001), 100);
}

static void test_after_a_restart_nobody_grows_at_first(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    ShareAsk a = { .have = 40, .want = { 100, 0, 0 } };
    assert_int_equal(share_ask(h, 2, 0, 100, &a, &terms, false, T0), 40);
    assert_int_equal(h[0].held, 40);
    assert_int_equal(share_ask(h, 2, 1, 100, &a, &terms, false, T0), 40);
    assert_int_equal(share_ask(h, 2, 0, 100, &a, &terms, true, T0 + 10), 50);
}

static void test_overuse_is_taken_from_nobody_else(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    assert_int_equal(ask(h, 2, 0, (ShareAsk){ .used = 500 }, T0), 100);
    assert_int_equal(ask(h, 2, 1, (ShareAsk){ .want = { 5, 0, 0 } }, T0), 0);
}

static void test_large_calls_come_one_after_the_other(void **state)
{
    (void)state;
    ShareHolder h[2] = { 0 };
    ShareAsk late = { .first = 60, .first_late_ms = 5, .want = { 0, 60, 0 } },
             early = { .first = 60, .first_late_ms = 9, .want = { 0, 0, 60 } };
    (void)share_ask(h, 2, 0, 100, &late, &terms, false, T0);
    (void)share_ask(h, 2, 1, 100, &early, &terms, false, T0);
    assert_int_equal(ask(h, 2, 0, late, T0), 40);
    assert_int_equal(ask(h, 2, 1, early, T0), 60);
    early = (ShareAsk){ .have = 60, .used = 60 };
    late.have = 40;
    assert_int_equal(ask(h, 2, 1, early, T0 + 1), 60);
    assert_int_equal(ask(h, 2, 0, late, T0 + 1), 40); /* until that has worn off */
    early = (ShareAsk){ .have = 60 };
    assert_int_equal(ask(h, 2, 1, early, T0 + 2), 20);
    early.have = 20;
    (void)ask(h, 2, 1, early, T0 + 3);
    assert_int_equal(ask(h, 2, 0, late, T0 + 3), 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_worker_gets_all),
        cmocka_unit_test(test_a_second_one_gets_what_the_first_gives_up),
        cmocka_unit_test(test_what_was_used_counts_until_it_wears_off),
        cmocka_unit_test(test_lanes_come_first_to_last),
        cmocka_unit_test(test_evenly_within_a_lane),
        cmocka_unit_test(test_a_lost_worker_keeps_its_share_for_a_time),
        cmocka_unit_test(test_one_that_leaves_gives_back_what_it_has_not_used),
        cmocka_unit_test(test_after_a_restart_nobody_grows_at_first),
        cmocka_unit_test(test_large_calls_come_one_after_the_other),
        cmocka_unit_test(test_overuse_is_taken_from_nobody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
