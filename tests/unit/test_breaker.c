#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/breaker.h"

static const BreakerPolicy policy = { .window_ms = 1000,
                                      .calls_min = 4,
                                      .error_percent = 50,
                                      .slow_percent = 75,
                                      .slow_ms = 300,
                                      .open_ms = 100,
                                      .open_max_ms = 800,
                                      .probes = 2 };

static BreakerPermit ask(Breaker *b, int64_t now_ms)
{
    BreakerPermit permit = { 0 };
    assert_true(breaker_ask(b, &policy, now_ms, &permit));
    return permit;
}

static void call(Breaker *b, BreakerResult result, int64_t duration_ms, int64_t now_ms)
{
    breaker_done(b, &policy, ask(b, now_ms), result, duration_ms, now_ms, 0);
}

static bool refused(Breaker *b, int64_t now_ms)
{
    BreakerPermit permit;
    return !breaker_ask(b, &policy, now_ms, &permit);
}

static Breaker fresh(void)
{
    Breaker b;
    breaker_init(&b, 5000);
    return b;
}

/* Trips at now_ms; with random 0 the open time is whole. */
static Breaker tripped(int64_t now_ms)
{
    Breaker b = fresh();
    for (int i = 0; i < 4; i++) call(&b, BREAKER_BAD, 1, now_ms);
    assert_int_equal(b.state, BREAKER_OPEN);
    return b;
}

static void test_trips_on_errors_once_there_are_enough_calls(void **state)
{
    (void)state;
    Breaker b = fresh();
    call(&b, BREAKER_BAD, 1, 5000);
    call(&b, BREAKER_BAD, 1, 5001);
    call(&b, BREAKER_BAD, 1, 5002);
    assert_int_equal(b.state, BREAKER_CLOSED); /* three calls say nothing */
    call(&b, BREAKER_GOOD, 1, 5003);           /* three of four failed */
    assert_int_equal(b.state, BREAKER_OPEN);
    assert_int_equal(b.trips, 1);
    assert_int_equal(b.until_ms, 5103);
    assert_true(refused(&b, 5102));
    assert_int_equal(b.refused, 1);
    assert_int_equal(breaker_next_ms(&b, &policy, 5050), 5103);
    assert_int_equal(breaker_next_ms(&b, &policy, 5103), 5103);
}

static void test_stays_closed_below_the_rate(void **state)
{
    (void)state;
    Breaker b = fresh();
    for (int i = 0; i < 100; i++) {
        call(&b, BREAKER_GOOD, 1, 5000 + i);
        call(&b, BREAKER_GOOD, 1, 5000 + i);
        call(&b, BREAKER_BAD, 1, 5000 + i);
    }
    assert_int_equal(b.state, BREAKER_CLOSED);
    BreakerCounts counts = breaker_counts(&b, &policy, 5099);
    assert_int_equal(counts.calls, 300);
    assert_int_equal(counts.errors, 100);
}

static void test_trips_on_slow_calls(void **state)
{
    (void)state;
    Breaker b = fresh();
    call(&b, BREAKER_GOOD, 299, 5000);
    call(&b, BREAKER_GOOD, 300, 5000);
    call(&b, BREAKER_GOOD, 300, 5000);
    call(&b, BREAKER_GOOD, 299, 5000);
    assert_int_equal(b.state, BREAKER_CLOSED); /* half of them */
    for (int i = 0; i < 4; i++) call(&b, BREAKER_GOOD, 900, 5000);
    assert_int_equal(b.state, BREAKER_OPEN); /* six of eight */
}

static void test_old_calls_are_forgotten(void **state)
{
    (void)state;
    Breaker b = fresh();
    for (int i = 0; i < 3; i++) call(&b, BREAKER_BAD, 1, 5000);
    assert_int_equal(breaker_counts(&b, &policy, 5999).calls, 3);
    assert_int_equal(breaker_counts(&b, &policy, 6000).calls, 0);
    call(&b, BREAKER_BAD, 1, 6000); /* would be the fourth */
    assert_int_equal(b.state, BREAKER_CLOSED);
    call(&b, BREAKER_BAD, 1, 1000000);
    assert_int_equal(breaker_counts(&b, &policy, 1000000).calls, 1);
}

static void test_probes_close_it(void **state)
{
    (void)state;
    Breaker b = tripped(5000);
    BreakerPermit first = ask(&b, 5100), second = ask(&b, 5100);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_true(first.probe && second.probe);
    assert_true(refused(&b, 5100)); /* two at a time */
    breaker_done(&b, &policy, first, BREAKER_GOOD, 1, 5110, 0);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    breaker_done(&b, &policy, second, BREAKER_GOOD, 1, 5120, 0);
    assert_int_equal(b.state, BREAKER_CLOSED);
    assert_int_equal(breaker_counts(&b, &policy, 5120).calls, 0);
}

static void test_a_bad_or_slow_probe_opens_it_for_longer(void **state)
{
    (void)state;
    Breaker b = tripped(5000);
    call(&b, BREAKER_BAD, 1, 5100);
    assert_int_equal(b.state, BREAKER_OPEN);
    assert_int_equal(b.until_ms, 5300); /* 200 */
    call(&b, BREAKER_GOOD, 300, 5300);
    assert_int_equal(b.until_ms, 5700); /* 400 */
    call(&b, BREAKER_BAD, 1, 5700);
    assert_int_equal(b.until_ms, 6500); /* 800 */
    call(&b, BREAKER_BAD, 1, 6500);
    assert_int_equal(b.until_ms, 7300); /* that is the most */
    assert_int_equal(b.trips, 5);
}

static void test_back_off_is_remembered_until_it_held(void **state)
{
    (void)state;
    Breaker b = tripped(5000);
    call(&b, BREAKER_GOOD, 1, 5100);
    call(&b, BREAKER_GOOD, 1, 5100); /* closed again */
    Breaker soon = b, late = b;
    for (int i = 0; i < 4; i++) call(&soon, BREAKER_BAD, 1, 5200);
    assert_int_equal(soon.until_ms, 5400);
    for (int i = 0; i < 4; i++) call(&late, BREAKER_BAD, 1, 5900);
    assert_int_equal(late.until_ms, 6000);
}

static void test_jitter_takes_at_most_half(void **state)
{
    (void)state;
    for (uint64_t random = 0; random < 500; random++) {
        Breaker b = fresh();
        for (int i = 0; i < 3; i++) call(&b, BREAKER_BAD, 1, 5000);
        breaker_done(&b, &policy, ask(&b, 5000), BREAKER_BAD, 1, 5000, random);
        assert_in_range(b.until_ms, 5050, 5100);
    }
}

static void test_results_of_another_state_are_ignored(void **state)
{
    (void)state;
    Breaker b = fresh();
    BreakerPermit early = ask(&b, 5000);
    for (int i = 0; i < 4; i++) call(&b, BREAKER_BAD, 1, 5000);
    breaker_done(&b, &policy, early, BREAKER_GOOD, 1, 5050, 0);
    assert_int_equal(b.state, BREAKER_OPEN);
    BreakerPermit probe = ask(&b, 5100);
    breaker_done(&b, &policy, early, BREAKER_BAD, 1, 5100, 0); /* again, in half-open */
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_int_equal(b.probes_out, 1);
    breaker_done(&b, &policy, probe, BREAKER_UNTOLD, 0, 5100, 0);
    assert_int_equal(b.state, BREAKER_HALF_OPEN);
    assert_int_equal(b.probes_out, 0);
    assert_int_equal(b.probes_ok, 0);
}

static void test_a_lost_probe_does_not_close_the_door(void **state)
{
    (void)state;
    Breaker b = tripped(5000);
    (void)ask(&b, 5100);
    (void)ask(&b, 5100); /* nothing is heard of either */
    assert_true(refused(&b, 5399));
    assert_int_equal(breaker_next_ms(&b, &policy, 5399), 5400);
    call(&b, BREAKER_GOOD, 1, 5400);
    call(&b, BREAKER_GOOD, 1, 5700);
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void test_untold_calls_do_not_count(void **state)
{
    (void)state;
    Breaker b = fresh();
    for (int i = 0; i < 20; i++) call(&b, BREAKER_UNTOLD, 5000, 5000);
    assert_int_equal(breaker_counts(&b, &policy, 5000).calls, 0);
}

/* It lets probes through, and no more. */
static void test_hears_of_another(void **state)
{
    (void)state;
    Breaker b = fresh();
    breaker_hear(&b, &policy, 100, 5000);
    assert_true(b.state == BREAKER_OPEN && b.heard && b.trips == 0);
    assert_int_equal(breaker_own_open_ms(&b, 5000), 0);
    BreakerPermit one = ask(&b, 5000), two = ask(&b, 5000);
    assert_true(one.probe && two.probe && refused(&b, 5000));
    breaker_done(&b, &policy, one, BREAKER_GOOD, 1, 5001, 0);
    breaker_done(&b, &policy, two, BREAKER_GOOD, 1, 5001, 0);
    assert_int_equal(b.state, BREAKER_CLOSED);

    b = fresh();
    breaker_hear(&b, &policy, 100, 5000);
    call(&b, BREAKER_BAD, 1, 5000);
    assert_true(b.state == BREAKER_OPEN && !b.heard && b.trips == 1);
    assert_int_equal(breaker_own_open_ms(&b, 5050), 50);
    breaker_hear(&b, &policy, 0, 5050); /* its own is not over with the other's */
    assert_true(refused(&b, 5099));
}

/* Where it answers it is asked on, but not for as long as usual. */
static void test_hears_of_another_and_knows_better(void **state)
{
    (void)state;
    Breaker b = fresh();
    for (int i = 0; i < 20; i++) call(&b, BREAKER_GOOD, 1, 5000);
    breaker_hear(&b, &policy, 100, 5000);
    assert_int_equal(b.state, BREAKER_CLOSED);
    call(&b, BREAKER_BAD, 1, 5010);
    call(&b, BREAKER_BAD, 1, 5010);
    breaker_hear(&b, &policy, 100, 5020); /* the same news again */
    assert_int_equal(b.state, BREAKER_CLOSED);
    call(&b, BREAKER_BAD, 1, 5030);
    assert_true(b.state == BREAKER_OPEN && !b.heard);

    b = fresh(); /* one failure in many is none */
    for (int i = 0; i < 20; i++) call(&b, BREAKER_GOOD, 1, 5000);
    breaker_hear(&b, &policy, 100, 5000);
    for (int i = 0; i < 50; i++) call(&b, i % 10 ? BREAKER_GOOD : BREAKER_BAD, 1, 5050);
    assert_int_equal(b.state, BREAKER_CLOSED);

    b = fresh(); /* it was long ago */
    for (int i = 0; i < 20; i++) call(&b, BREAKER_GOOD, 1, 5000);
    breaker_hear(&b, &policy, 100, 5000);
    for (int i = 0; i < 3; i++) call(&b, BREAKER_BAD, 1, 5100);
    assert_int_equal(b.state, BREAKER_CLOSED);

    BreakerPolicy never = policy;
    never.error_percent = 0;
    b = fresh();
    breaker_hear(&b, &never, 100, 5000);
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void test_percent_zero_never_trips(void **state)
{
    (void)state;
    Breaker b = fresh();
    BreakerPolicy never = policy;
    never.error_percent = never.slow_percent = 0;
    for (int i = 0; i < 50; i++) {
        BreakerPermit permit;
        assert_true(breaker_ask(&b, &never, 5000, &permit));
        breaker_done(&b, &never, permit, BREAKER_BAD, 10000, 5000, 0);
    }
    assert_int_equal(b.state, BREAKER_CLOSED);
}

static void test_policies(void **state)
{
    (void)state;
    BreakerPolicy p = BREAKER_POLICY_DEFAULT;
    assert_true(breaker_policy_ok(&p));
    assert_true(breaker_policy_ok(&policy));
    p.probes = 0;
    assert_false(breaker_policy_ok(&p));
    p = BREAKER_POLICY_DEFAULT;
    p.error_percent = 101;
    assert_false(breaker_policy_ok(&p));
    p = BREAKER_POLICY_DEFAULT;
    p.open_max_ms = p.open_ms - 1;
    assert_false(breaker_policy_ok(&p));
    p = BREAKER_POLICY_DEFAULT;
    p.window_ms = BREAKER_BUCKETS - 1;
    assert_false(breaker_policy_ok(&p));
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(breaker_state_name(BREAKER_CLOSED), "closed");
    assert_string_equal(breaker_state_name(BREAKER_OPEN), "open");
    assert_string_equal(breaker_state_name(BREAKER_HALF_OPEN), "half-open");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trips_on_errors_once_there_are_enough_calls),
        cmocka_unit_test(test_stays_closed_below_the_rate),
        cmocka_unit_test(test_trips_on_slow_calls),
        cmocka_unit_test(test_old_calls_are_forgotten),
        cmocka_unit_test(test_probes_close_it),
        cmocka_unit_test(test_a_bad_or_slow_probe_opens_it_for_longer),
        cmocka_unit_test(test_back_off_is_remembered_until_it_held),
        cmocka_unit_test(test_jitter_takes_at_most_half),
        cmocka_unit_test(test_results_of_another_state_are_ignored),
        cmocka_unit_test(test_a_lost_probe_does_not_close_the_door),
        cmocka_unit_test(test_untold_calls_do_not_count),
        cmocka_unit_test(test_hears_of_another),
        cmocka_unit_test(test_hears_of_another_and_knows_better),
        cmocka_unit_test(test_percent_zero_never_trips),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
