#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/task.h"
#include "random.h"

static const TaskProgress fresh = { .retry = { 3, 1000, 2000, 300000 } };

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < TASK_STATE_N_; i++) {
        TaskState s;
        assert_int_equal(task_state_from(str_of(task_state_name((TaskState)i)), &s), 0);
        assert_int_equal(s, i);
    }
    for (int i = 0; i < TASK_OUTCOME_N_; i++) {
        TaskOutcome o;
        assert_int_equal(task_outcome_from(str_of(task_outcome_name((TaskOutcome)i)), &o), 0);
        assert_int_equal(o, i);
    }
    TaskState s;
    assert_int_equal(task_state_from(STR("cancelled"), &s), -EINVAL);
    assert_int_equal(task_state_from(STR(""), &s), -EINVAL);
    TaskOutcome o;
    assert_int_equal(task_outcome_from(STR("failed"), &o), -EINVAL);
    assert_string_equal(task_state_name(TASK_TIMED_OUT), "timed_out");
}

/* Every pair of states, written out: rows are from, columns to, in the order of TaskState. */
static void test_every_transition(void **state)
{
    (void)state;
    static const char *const may[TASK_STATE_N_] = {
        /* queued running succeeded failed timed_out canceled escalated */
        [TASK_QUEUED] = ".R.FTC.",    [TASK_RUNNING] = "Q.SFTCE",   [TASK_SUCCEEDED] = ".......",
        [TASK_FAILED] = "Q......",    [TASK_TIMED_OUT] = "Q......", [TASK_CANCELED] = "Q......",
        [TASK_ESCALATED] = "Q.SFTC.",
    };
    for (int from = 0; from < TASK_STATE_N_; from++)
        for (int to = 0; to < TASK_STATE_N_; to++)
            assert_int_equal(task_state_may((TaskState)from, (TaskState)to), may[from][to] != '.');
}

static void test_ends(void **state)
{
    (void)state;
    assert_false(task_state_ended(TASK_QUEUED));
    assert_false(task_state_ended(TASK_RUNNING));
    assert_false(task_state_ended(TASK_ESCALATED));
    assert_true(task_state_ended(TASK_SUCCEEDED));
    assert_true(task_state_ended(TASK_FAILED));
    assert_true(task_state_ended(TASK_TIMED_OUT));
    assert_true(task_state_ended(TASK_CANCELED));
}

static void expect_end(const TaskProgress *p, TaskOutcome outcome, TaskState state,
                       const char *code)
{
    TaskNext next = task_after_attempt(p, outcome, 5000, 1);
    assert_int_equal(next.state, state);
    assert_int_equal(next.ready_at_ms, 0);
    if (code) assert_string_equal(next.error_code, code);
    else assert_null(next.error_code);
}

static void test_final_outcomes(void **state)
{
    (void)state;
    expect_end(&fresh, TASK_OUTCOME_SUCCEEDED, TASK_SUCCEEDED, NULL);
    expect_end(&fresh, TASK_OUTCOME_FAILED_FINAL, TASK_FAILED, "agent_failed");
    expect_end(&fresh, TASK_OUTCOME_TIMED_OUT, TASK_TIMED_OUT, "time_limit");
    expect_end(&fresh, TASK_OUTCOME_CAPPED, TASK_FAILED, "cap_exceeded");
    expect_end(&fresh, TASK_OUTCOME_CANCELED, TASK_CANCELED, "canceled");
    expect_end(&fresh, TASK_OUTCOME_ESCALATED, TASK_ESCALATED, NULL);
}

static void test_cancelling_wins_over_all_but_a_result(void **state)
{
    (void)state;
    TaskProgress p = fresh;
    p.cancel_requested = true;
    expect_end(&p, TASK_OUTCOME_SUCCEEDED, TASK_SUCCEEDED, NULL);
    for (int o = TASK_OUTCOME_FAILED_FINAL; o < TASK_OUTCOME_N_; o++)
        expect_end(&p, (TaskOutcome)o, TASK_CANCELED, "canceled");
}

static void test_failures_are_tried_again_until_they_are_too_many(void **state)
{
    (void)state;
    TaskProgress p = fresh;
    TaskNext next = task_after_attempt(&p, TASK_OUTCOME_FAILED_RETRYABLE, 5000, UINT64_MAX);
    assert_int_equal(next.state, TASK_QUEUED);
    assert_int_equal(next.ready_at_ms, 6000);
    assert_int_equal(next.failures, 1);
    p.failures = 1;
    next = task_after_attempt(&p, TASK_OUTCOME_FAILED_RETRYABLE, 5000, UINT64_MAX);
    assert_int_equal(next.ready_at_ms, 7000);
    p.failures = 2;
    next = task_after_attempt(&p, TASK_OUTCOME_FAILED_RETRYABLE, 5000, UINT64_MAX);
    assert_int_equal(next.state, TASK_FAILED);
    assert_int_equal(next.failures, 3);
    assert_string_equal(next.error_code, "attempts_exhausted");
    p = fresh;
    p.retry_after_ms = 30000;
    next = task_after_attempt(&p, TASK_OUTCOME_FAILED_RETRYABLE, 5000, 0);
    assert_int_equal(next.ready_at_ms, 35000);
}

static void test_release_costs_nothing(void **state)
{
    (void)state;
    TaskProgress p = fresh;
    p.failures = 2;
    p.losses = 4;
    TaskNext next = task_after_attempt(&p, TASK_OUTCOME_RELEASED, 5000, UINT64_MAX);
    assert_int_equal(next.state, TASK_QUEUED);
    assert_int_equal(next.ready_at_ms, 5000);
    assert_int_equal(next.failures, 2);
    assert_int_equal(next.losses, 4);
    assert_null(next.error_code);
}

static void test_a_release_may_ask_for_time(void **state)
{
    (void)state;
    TaskProgress p = fresh;
    p.retry_after_ms = 700;
    assert_int_equal(task_after_attempt(&p, TASK_OUTCOME_RELEASED, 5000, 0).ready_at_ms, 5700);
    p.deadline_ms = 5700; /* no longer than there is time */
    TaskNext next = task_after_attempt(&p, TASK_OUTCOME_RELEASED, 5000, 0);
    assert_int_equal(next.state, TASK_QUEUED);
    assert_int_equal(next.ready_at_ms, 5000);
    p.deadline_ms = 0;
    p.retry_after_ms = INT64_MAX;
    next = task_after_attempt(&p, TASK_OUTCOME_RELEASED, 5000, 0);
    assert_int_equal(next.ready_at_ms, 5000 + RETRY_AFTER_MAX_MS);
    p.retry_after_ms = -1;
    assert_int_equal(task_after_attempt(&p, TASK_OUTCOME_RELEASED, 5000, 0).ready_at_ms, 5000);
}

static void test_losses(void **state)
{
    (void)state;
    TaskProgress p = fresh;
    TaskNext next = task_after_attempt(&p, TASK_OUTCOME_LOST, 5000, UINT64_MAX);
    assert_int_equal(next.state, TASK_QUEUED);
    assert_int_equal(next.ready_at_ms, 5000);
    assert_int_equal(next.failures, 0);
    assert_int_equal(next.losses, 1);
    p.losses = 2;
    next = task_after_attempt(&p, TASK_OUTCOME_LOST, 5000, UINT64_MAX);
    assert_int_equal(next.ready_at_ms, 7000);
    p.losses = TASK_LOSSES_MAX - 1;
    p.advanced = true;
    next = task_after_attempt(&p, TASK_OUTCOME_LOST, 5000, UINT64_MAX);
    assert_int_equal(next.losses, 1);
    assert_int_equal(next.ready_at_ms, 5000);
    p.advanced = false;
    next = task_after_attempt(&p, TASK_OUTCOME_LOST, 5000, UINT64_MAX);
    assert_int_equal(next.state, TASK_FAILED);
    assert_string_equal(next.error_code, "worker_lost");
}

static void test_deadline(void **state)
{
    (void)state;
    TaskProgress p = fresh;
    p.deadline_ms = 6000;
    TaskNext next = task_after_attempt(&p, TASK_OUTCOME_FAILED_RETRYABLE, 5000, UINT64_MAX);
    assert_int_equal(next.state, TASK_TIMED_OUT);
    assert_string_equal(next.error_code, "deadline_passed");
    next = task_after_attempt(&p, TASK_OUTCOME_FAILED_RETRYABLE, 5000, 0);
    assert_int_equal(next.state, TASK_QUEUED);
    next = task_after_attempt(&p, TASK_OUTCOME_RELEASED, 6000, 0);
    assert_int_equal(next.state, TASK_TIMED_OUT);
    expect_end(&p, TASK_OUTCOME_SUCCEEDED, TASK_SUCCEEDED, NULL);
}

/* Whatever happens, a task ends after a bounded number of attempts, by allowed steps. */
static void test_every_life_ends(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        Random r = { seed };
        TaskProgress p = { .retry = { random_range(&r, 1, 10), 10, 2000, 1000 } };
        int64_t now = 0, attempts = 0;
        TaskNext next = { .state = TASK_QUEUED };
        while (next.state == TASK_QUEUED) {
            now = MAX(now, next.ready_at_ms) + random_range(&r, 0, 100);
            TaskOutcome o = random_range(&r, 0, 1) ? TASK_OUTCOME_LOST
                                                   : TASK_OUTCOME_FAILED_RETRYABLE;
            next = task_after_attempt(&p, o, now, random_next(&r));
            assert_true(task_state_may(TASK_RUNNING, next.state));
            assert_true(next.state != TASK_QUEUED || next.ready_at_ms >= now);
            p.failures = next.failures;
            p.losses = next.losses;
            attempts++;
            assert_true(attempts <= p.retry.attempts_max + TASK_LOSSES_MAX);
        }
        assert_int_equal(next.state, TASK_FAILED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_every_transition),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_final_outcomes),
        cmocka_unit_test(test_cancelling_wins_over_all_but_a_result),
        cmocka_unit_test(test_failures_are_tried_again_until_they_are_too_many),
        cmocka_unit_test(test_release_costs_nothing),
        cmocka_unit_test(test_a_release_may_ask_for_time),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_every_life_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
