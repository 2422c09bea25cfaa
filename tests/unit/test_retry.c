#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/retry.h"
#include "random.h"

static void test_ceiling_grows_to_the_cap(void **state)
{
    (void)state;
    RetryPolicy p = RETRY_POLICY_DEFAULT;
    const int64_t expected[] = { 1000,  2000,   4000,   8000,   16000, 32000,
                                 64000, 128000, 256000, 300000, 300000 };
    for (size_t i = 0; i < ARRAY_N(expected); i++)
        assert_int_equal(retry_ceiling_ms(&p, (int64_t)i + 1), expected[i]);
    assert_int_equal(retry_ceiling_ms(&p, INT64_MAX), 300000);
}

static void test_ceiling_with_odd_policies(void **state)
{
    (void)state;
    RetryPolicy constant = { 3, 500, RETRY_FACTOR_ONE, 60000 };
    assert_int_equal(retry_ceiling_ms(&constant, INT64_MAX), 500);
    RetryPolicy half = { 3, 1000, 1500, 60000 };
    assert_int_equal(retry_ceiling_ms(&half, 3), 2250);
    RetryPolicy none = { 3, 0, 2000, 60000 };
    assert_int_equal(retry_ceiling_ms(&none, 50), 0);
    RetryPolicy low_cap = { 3, 1000, 2000, 10 };
    assert_int_equal(retry_ceiling_ms(&low_cap, 1), 10);
    RetryPolicy far = { 3, INT64_MAX / 2, 10000, INT64_MAX };
    assert_int_equal(retry_ceiling_ms(&far, 9), INT64_MAX);
    assert_int_equal(retry_delay_ms(&far, 9, UINT64_MAX, 0), INT64_MAX);
}

static void test_jitter_covers_the_whole_range_evenly(void **state)
{
    (void)state;
    RetryPolicy p = { 3, 9, 2000, 9 };
    int64_t seen[10] = { 0 };
    Random r = { 7 };
    for (int i = 0; i < 100000; i++) {
        int64_t d = retry_delay_ms(&p, 1, random_next(&r), 0);
        assert_in_range(d, 0, 9);
        seen[d]++;
    }
    for (int i = 0; i < 10; i++) assert_in_range(seen[i], 9500, 10500);
    assert_int_equal(retry_delay_ms(&p, 1, 0, 0), 0);
    assert_int_equal(retry_delay_ms(&p, 1, UINT64_MAX, 0), 9);
}

static void test_retry_after_is_the_least(void **state)
{
    (void)state;
    RetryPolicy p = RETRY_POLICY_DEFAULT;
    assert_int_equal(retry_delay_ms(&p, 1, 0, 7000), 7000);
    assert_int_equal(retry_delay_ms(&p, 4, UINT64_MAX, 7000), 8000);
    assert_int_equal(retry_delay_ms(&p, 1, 0, -5), 0);
    assert_int_equal(retry_delay_ms(&p, 1, 0, INT64_MAX), RETRY_AFTER_MAX_MS);
}

static void test_statuses(void **state)
{
    (void)state;
    const int yes[] = { 408, 409, 429, 500, 502, 503, 504, 529, 599 };
    const int no[] = { 200, 301, 400, 401, 402, 403, 404, 413, 422, 499 };
    for (size_t i = 0; i < ARRAY_N(yes); i++) assert_true(retry_status_may(yes[i]));
    for (size_t i = 0; i < ARRAY_N(no); i++) assert_false(retry_status_may(no[i]));
}

static void test_a_budget_keeps_retries_to_a_tenth(void **state)
{
    (void)state;
    RetryBudget budget = RETRY_BUDGET_DEFAULT;
    for (int i = 0; i < 10; i++) assert_true(retry_budget_spend(&budget));
    assert_false(retry_budget_spend(&budget));
    assert_int_equal(budget.exhausted, 1);
    int64_t retried = 0;
    for (int i = 0; i < 1000; i++) {
        retry_budget_earn(&budget);
        retried += retry_budget_spend(&budget);
    }
    assert_int_equal(retried, 100);
    for (int i = 0; i < 1000; i++) retry_budget_earn(&budget);
    assert_int_equal(budget.milli, budget.milli_max);
    assert_int_equal(budget.spent, 110);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ceiling_grows_to_the_cap),
        cmocka_unit_test(test_ceiling_with_odd_policies),
        cmocka_unit_test(test_jitter_covers_the_whole_range_evenly),
        cmocka_unit_test(test_retry_after_is_the_least),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_a_budget_keeps_retries_to_a_tenth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
