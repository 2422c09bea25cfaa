/* What ends a rollout at once: the rules at their edges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/tripwire.h"

static const TripwirePlan usual = { TRIPWIRE_COST_FACTOR, TRIPWIRE_CRASHES, TRIPWIRE_LIMITS };

static TripwireTail attempts(TaskOutcome outcome, size_t n)
{
    TripwireTail tail = { .attempts_n = n };
    for (size_t i = 0; i < n; i++) tail.attempts[i] = outcome;
    return tail;
}

static TripwireTail costs(int64_t cost_nusd, size_t dear, size_t n)
{
    TripwireTail tail = { .tasks_n = n };
    for (size_t i = 0; i < n; i++) tail.cost_nusd[i] = i < dear ? cost_nusd : 1;
    return tail;
}

/* At a price that nothing runs away from. */
static Tripwire look(const TripwireTail *canary, const TripwireTail *control,
                     const TripwireMeanwhile *meanwhile)
{
    return tripwire_look(&usual, canary, control, meanwhile, 1);
}

static const TripwireMeanwhile fine = { 20, 0, true };

static void test_crash_loop(void **state)
{
    (void)state;
    TripwireTail good = attempts(TASK_OUTCOME_SUCCEEDED, 20);
    TripwireTail nine = attempts(TASK_OUTCOME_FAILED_FINAL, 9);
    TripwireTail ten = attempts(TASK_OUTCOME_FAILED_RETRYABLE, 10);
    assert_int_equal(tripwire_look(&usual, &nine, &good, &fine, 1), TRIPWIRE_NONE);
    assert_int_equal(tripwire_look(&usual, &ten, &good, &fine, 1), TRIPWIRE_CRASH_LOOP);
    ten.attempts[4] = TASK_OUTCOME_SUCCEEDED;
    assert_int_equal(tripwire_look(&usual, &ten, &good, &fine, 1), TRIPWIRE_NONE);
    ten.attempts[4] = TASK_OUTCOME_RELEASED; /* says nothing: nine are left */
    assert_int_equal(tripwire_look(&usual, &ten, &good, &fine, 1), TRIPWIRE_NONE);
    TripwireTail lost = attempts(TASK_OUTCOME_LOST, TRIPWIRE_ATTEMPTS);
    assert_int_equal(tripwire_look(&usual, &lost, &good, &fine, 1), TRIPWIRE_CRASH_LOOP);
    TripwirePlan off = { TRIPWIRE_COST_FACTOR, 0, 0 };
    assert_int_equal(tripwire_look(&off, &lost, &good, &fine, 1), TRIPWIRE_NONE);
}

/* Where the stable version crashes as well it is not the canary; what it did before the canary's
 * first crash says nothing of that. */
static void test_the_world_is_down(void **state)
{
    (void)state;
    TripwireTail canary = attempts(TASK_OUTCOME_TIMED_OUT, 12);
    TripwireTail control = attempts(TASK_OUTCOME_SUCCEEDED, TRIPWIRE_ATTEMPTS);
    for (size_t i = 0; i < 7; i++) control.attempts[i] = TASK_OUTCOME_FAILED_FINAL;
    TripwireMeanwhile down = { 7, 7, true }, half = { 8, 4, true };
    assert_int_equal(look(&canary, &control, &down), TRIPWIRE_NONE);
    assert_int_equal(look(&canary, &control, &half), TRIPWIRE_CRASH_LOOP);
}

/* Too little of the stable version yet: more is waited for, but not for ever. */
static void test_the_stable_one_is_awaited(void **state)
{
    (void)state;
    TripwireTail canary = attempts(TASK_OUTCOME_FAILED_FINAL, 39);
    TripwireTail control = attempts(TASK_OUTCOME_SUCCEEDED, TRIPWIRE_ATTEMPTS);
    TripwireMeanwhile few = { TRIPWIRE_CONTROL_MIN - 1, 0, true };
    assert_int_equal(look(&canary, &control, &few), TRIPWIRE_NONE);
    canary.attempts[canary.attempts_n++] = TASK_OUTCOME_FAILED_FINAL;
    assert_int_equal(look(&canary, &control, &few), TRIPWIRE_CRASH_LOOP);
    canary.attempts_n = 10;
    few.goes_on = false; /* it has no traffic any more */
    assert_int_equal(look(&canary, &control, &few), TRIPWIRE_CRASH_LOOP);
    few.goes_on = true; /* or never had any */
    control.attempts_n = TRIPWIRE_CONTROL_MIN - 1;
    assert_int_equal(look(&canary, &control, &few), TRIPWIRE_CRASH_LOOP);
}

static void test_since_when(void **state)
{
    (void)state;
    TripwireTail canary = attempts(TASK_OUTCOME_FAILED_FINAL, 30);
    for (size_t i = 0; i < 30; i++) canary.ended_ms[i] = 1000 - (int64_t)i;
    canary.attempts[12] = TASK_OUTCOME_SUCCEEDED;
    assert_int_equal(tripwire_crashes_since(&usual, &canary), 989);
    canary.attempts[10] = TASK_OUTCOME_SUCCEEDED;
    canary.attempts[3] = TASK_OUTCOME_RELEASED; /* nine are left */
    assert_int_equal(tripwire_crashes_since(&usual, &canary), INT64_MAX);
}

static void test_budget(void **state)
{
    (void)state;
    TripwireTail control = costs(0, 0, 10), two = costs(1001, 2, 10), three = costs(1001, 3, 10);
    assert_int_equal(tripwire_look(&usual, &two, &control, &fine, 100), TRIPWIRE_NONE);
    assert_int_equal(tripwire_look(&usual, &three, &control, &fine, 100), TRIPWIRE_BUDGET);
    TripwireTail edge = costs(1000, 10, 10); /* ten times, not more */
    assert_int_equal(tripwire_look(&usual, &edge, &control, &fine, 100), TRIPWIRE_NONE);
    assert_int_equal(tripwire_look(&usual, &three, &control, &fine, INT64_MAX), TRIPWIRE_NONE);
    TripwirePlan off = { 0, TRIPWIRE_CRASHES, 0 };
    assert_int_equal(tripwire_look(&off, &three, &control, &fine, 100), TRIPWIRE_NONE);
}

static void test_caps(void **state)
{
    (void)state;
    TripwireTail canary = costs(1, 0, 10), control = costs(1, 0, 10);
    canary.capped[1] = canary.capped[5] = true;
    assert_int_equal(tripwire_look(&usual, &canary, &control, &fine, 100), TRIPWIRE_NONE);
    canary.capped[9] = true;
    assert_int_equal(tripwire_look(&usual, &canary, &control, &fine, 100), TRIPWIRE_BUDGET);
    control.capped[0] = true; /* so does the stable version: statistics will tell */
    assert_int_equal(tripwire_look(&usual, &canary, &control, &fine, 100), TRIPWIRE_NONE);
}

static void test_limits(void **state)
{
    (void)state;
    TripwireTail canary = attempts(TASK_OUTCOME_SUCCEEDED, 30), control = canary;
    canary.limited[1] = canary.limited[5] = true;
    assert_int_equal(tripwire_look(&usual, &canary, &control, &fine, 1), TRIPWIRE_NONE);
    canary.limited[29] = true;
    assert_int_equal(tripwire_look(&usual, &canary, &control, &fine, 1), TRIPWIRE_SANDBOX);
    TripwirePlan off = { TRIPWIRE_COST_FACTOR, TRIPWIRE_CRASHES, 0 };
    assert_int_equal(tripwire_look(&off, &canary, &control, &fine, 1), TRIPWIRE_NONE);
    control.limited[7] = true; /* the stable version does too: the limits are too narrow */
    assert_int_equal(tripwire_look(&usual, &canary, &control, &fine, 1), TRIPWIRE_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_loop),
        cmocka_unit_test(test_the_world_is_down),
        cmocka_unit_test(test_the_stable_one_is_awaited),
        cmocka_unit_test(test_since_when),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
