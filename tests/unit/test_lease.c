#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/lease.h"

static const Lease sample = { .token = 7, .renewed_at_ms = 1000, .ttl_ms = 15000 };

static void test_lost_exactly_at_the_end(void **state)
{
    (void)state;
    assert_int_equal(lease_state(&sample, 1000), LEASE_HELD);
    assert_int_equal(lease_state(&sample, 15999), LEASE_HELD);
    assert_int_equal(lease_state(&sample, 16000), LEASE_LOST);
    assert_int_equal(lease_state(&sample, INT64_MAX), LEASE_LOST);
    assert_int_equal(lease_check_at_ms(&sample), 16000);
    assert_int_equal(lease_renew_at_ms(&sample), 6000);
}

static void test_limit(void **state)
{
    (void)state;
    Lease l = sample;
    l.limit_at_ms = 5000;
    assert_int_equal(lease_state(&l, 4999), LEASE_HELD);
    assert_int_equal(lease_state(&l, 5000), LEASE_RUN_OUT);
    assert_int_equal(lease_check_at_ms(&l), 5000);
    assert_int_equal(lease_state(&l, 16000), LEASE_LOST); /* nobody is there to be stopped */
    l.limit_at_ms = 90000;
    assert_int_equal(lease_check_at_ms(&l), 16000);
}

static void test_renewing(void **state)
{
    (void)state;
    Lease l = sample;
    assert_int_equal(lease_renew(&l, 7, 9000), 0);
    assert_int_equal(l.renewed_at_ms, 9000);
    assert_int_equal(lease_state(&l, 23999), LEASE_HELD);
    assert_int_equal(lease_renew(&l, 7, 8000), 0); /* overtaken on the way */
    assert_int_equal(l.renewed_at_ms, 9000);
}

static void test_a_zombie_is_fenced(void **state)
{
    (void)state;
    Lease l = sample;
    assert_int_equal(lease_renew(&l, 6, 2000), LEASE_E_STALE);
    assert_int_equal(lease_renew(&l, 8, 2000), LEASE_E_STALE);
    assert_int_equal(lease_renew(&l, 7, 16000), LEASE_E_STALE); /* too late, though nobody took it
                                                                 */
    assert_memory_equal(&l, &sample, sizeof l);
}

static void test_far_ends(void **state)
{
    (void)state;
    Lease l = { .token = 1, .renewed_at_ms = INT64_MAX - 10, .ttl_ms = 15000 };
    assert_int_equal(lease_state(&l, INT64_MAX - 5), LEASE_HELD);
    assert_int_equal(lease_check_at_ms(&l), INT64_MAX);
    assert_int_equal(lease_renew_at_ms(&l), INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lost_exactly_at_the_end),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_renewing),
        cmocka_unit_test(test_a_zombie_is_fenced),
        cmocka_unit_test(test_far_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
