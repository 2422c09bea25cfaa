#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/attempt.h"
#include "logic/lease.h"

static void test_a_claim_starts_what_may_start(void **state)
{
    (void)state;
    assert_int_equal(attempt_start(false, 0, 1000), ATTEMPT_STARTS);
    assert_int_equal(attempt_start(false, 1001, 1000), ATTEMPT_STARTS);
    assert_int_equal(attempt_start(false, 1000, 1000), ATTEMPT_LATE);
    assert_int_equal(attempt_start(true, 0, 1000), ATTEMPT_CANCELED);
    assert_int_equal(attempt_start(true, 1000, 1000), ATTEMPT_CANCELED);
}

static void test_a_deadline_counts_from_the_first_start(void **state)
{
    (void)state;
    assert_int_equal(attempt_deadline_ms(0, 0, 0, 0, 1000), 0);
    assert_int_equal(attempt_deadline_ms(0, 0, 0, 500, 1000), 1500);
    assert_int_equal(attempt_deadline_ms(0, 1200, 0, 500, 1000), 1200); /* its parent's */
    assert_int_equal(attempt_deadline_ms(0, 1800, 0, 500, 1000), 1500);
    assert_int_equal(attempt_deadline_ms(0, 1800, 0, 0, 1000), 1800);
    assert_int_equal(attempt_deadline_ms(1, 1500, 0, 500, 1400), 1500); /* again */
    assert_int_equal(attempt_deadline_ms(1, 0, 0, 500, 1400), 1900);    /* after a retry by hand */
    assert_int_equal(attempt_deadline_ms(0, 0, 0, INT64_MAX, 1000), INT64_MAX);
    assert_int_equal(attempt_deadline_ms(0, 1200, 1200, 500, 1000), 1200); /* its client's */
    assert_int_equal(attempt_deadline_ms(1, 1200, 1200, 500, 1100), 1200);
    assert_int_equal(attempt_deadline_ms(1, 1500, 9000, 500, 1400), 1500);
    assert_int_equal(attempt_deadline_ms(1, 9000, 9000, 500, 1400), 1900); /* after a retry */
}

static void test_only_the_attempt_that_goes_on_is_heard(void **state)
{
    (void)state;
    assert_true(attempt_goes_on(TASK_RUNNING, 7, 7));
    assert_false(attempt_goes_on(TASK_RUNNING, 7, 6));
    assert_false(attempt_goes_on(TASK_RUNNING, 7, 8));
    for (int i = 0; i < TASK_STATE_N_; i++)
        assert_true(i == TASK_RUNNING || !attempt_goes_on((TaskState)i, 7, 7));
}

static void test_an_orphan_is_one_whose_claim_was_answered(void **state)
{
    (void)state;
    FenceMarks marks = { .n = 0 };
    assert_int_equal(fence_marks_arrived(&marks, 10000, 99999), 0);
    fence_marks_note(&marks, 10000, 7, 1000);
    fence_marks_note(&marks, 10000, 8, 1624); /* too close to be kept */
    fence_marks_note(&marks, 10000, 9, 1625);
    assert_int_equal(fence_marks_arrived(&marks, 10000, 5999), 0);
    assert_int_equal(fence_marks_arrived(&marks, 10000, 6000), 7);
    assert_int_equal(fence_marks_arrived(&marks, 10000, 6625), 9);
    assert_true(attempt_is_orphan(7, 7));
    assert_false(attempt_is_orphan(8, 7));
    /* of a short lease no answer is so fast */
    assert_int_equal(fence_marks_arrived(&marks, 300, 1999), 0);
    assert_int_equal(fence_marks_arrived(&marks, 300, 2000), 7);
}

/* However often marks are made, they reach back far enough, and no further than they must. */
static void test_marks_of_fences(void **state)
{
    (void)state;
    for (int64_t every_ms = 1; every_ms < 3000; every_ms = every_ms * 3 / 2 + 1) {
        FenceMarks marks = { .n = 0 };
        for (int64_t now_ms = 0; now_ms < 40000; now_ms += every_ms) {
            int64_t arrived = fence_marks_arrived(&marks, 8000, now_ms);
            assert_true(arrived <= MAX(now_ms - 4000, 0)); /* fences are times here */
            if (now_ms > 10000) assert_true(arrived >= now_ms - 4000 - 500 - 2 * every_ms);
            fence_marks_note(&marks, 8000, now_ms, now_ms);
        }
    }
}

static void test_who_gets_further_is_believed_for_long(void **state)
{
    (void)state;
    assert_true(attempt_advanced(99, true));
    assert_false(attempt_advanced(100, true));
    assert_false(attempt_advanced(2, false));
}

static void test_who_is_always_there_is_suspected(void **state)
{
    (void)state;
    assert_true(attempt_is_blameless(1));
    assert_true(attempt_is_blameless(19));
    assert_false(attempt_is_blameless(20));
}

static void test_cancel_and_retry_follow_the_states(void **state)
{
    (void)state;
    for (int i = 0; i < TASK_STATE_N_; i++) {
        bool ended = task_state_ended((TaskState)i);
        CancelEffect want = i == TASK_RUNNING ? CANCEL_MARKS : ended ? CANCEL_REFUSED : CANCEL_ENDS;
        assert_int_equal(task_cancel((TaskState)i), want);
        assert_int_equal(task_may_retry((TaskState)i),
                         i == TASK_ESCALATED || (ended && i != TASK_SUCCEEDED));
    }
}

static void test_a_lease_counts_from_when_it_was_asked_for(void **state)
{
    (void)state;
    Lease lease = lease_begin(9000, 60000, 1000);
    assert_int_equal(lease.every_ms, 3000);
    assert_false(lease_is_over(&lease, 9999));
    assert_true(lease_is_over(&lease, 10000));
    lease_renew(&lease, 4000);
    assert_false(lease_is_over(&lease, 12999));
    lease_renew(&lease, 3000); /* an older one that comes later */
    assert_false(lease_is_over(&lease, 12999));
    assert_true(lease_is_over(&lease, 13000));
    assert_int_equal(lease_begin(9000, 1000, 0).every_ms, 1000);
    assert_int_equal(lease_begin(3, 1, 0).every_ms, LEASE_EVERY_LEAST_MS);
}

/* Set forth, back, and a little now and then. */
static void test_ran(void **state)
{
    ClockSets sets = { .n = 0 };
    (void)state;
    assert_int_equal(clock_span_ms(&sets, 1000, 3000), 2000);
    assert_int_equal(clock_span_ms(&sets, 3000, 1000), 0);
    clock_sets_add(&sets, 2000, 86400000);
    assert_int_equal(clock_span_ms(&sets, 1000, 86403000), 2000);
    assert_int_equal(clock_span_ms(&sets, 86402500, 86403000), 500);
    clock_sets_add(&sets, 86403000, -3600000);
    assert_int_equal(clock_span_ms(&sets, 1000, 86405000 - 3600000), 4000);
    assert_int_equal(clock_span_ms(&sets, 86402500, 86405000 - 3600000), 2500);
    assert_int_equal(clock_span_ms(&sets, 86403500 - 3600000, 86405000 - 3600000), 1500);
    assert_int_equal(clock_back_since_ms(&sets, 86403000), 0);
    assert_int_equal(clock_back_since_ms(&sets, 86403000 - 1), 86403000 - 3600000);
    for (int64_t i = 0; i < CLOCK_SETS_MAX; i++) clock_sets_add(&sets, 90000000 + i, 1);
    assert_int_equal(clock_span_ms(&sets, 90000000, 90001000), 1000 - CLOCK_SETS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_claim_starts_what_may_start),
        cmocka_unit_test(test_a_deadline_counts_from_the_first_start),
        cmocka_unit_test(test_only_the_attempt_that_goes_on_is_heard),
        cmocka_unit_test(test_an_orphan_is_one_whose_claim_was_answered),
        cmocka_unit_test(test_ran),
        cmocka_unit_test(test_marks_of_fences),
        cmocka_unit_test(test_who_gets_further_is_believed_for_long),
        cmocka_unit_test(test_who_is_always_there_is_suspected),
        cmocka_unit_test(test_cancel_and_retry_follow_the_states),
        cmocka_unit_test(test_a_lease_counts_from_when_it_was_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
