#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/schedule.h"

#define MINUTE_MS INT64_C(60000)
#define HOUR_MS (60 * MINUTE_MS)
#define BASE_MS (INT64_C(480000) * HOUR_MS) /* a whole hour */

static int64_t utc_ms(const void *ctx, int64_t unix_ms)
{
    (void)ctx;
    (void)unix_ms;
    return 0;
}
static const CronZone utc = { utc_ms, NULL };

static Cron hourly(void)
{
    Cron cron;
    assert_int_equal(cron_parse(STR("@hourly"), &cron), 0);
    return cron;
}

static void check_step(MissedPolicy missed, int64_t due_ms, int64_t now_ms, bool fires,
                       int64_t at_ms)
{
    Cron cron = hourly();
    ScheduleStep step = schedule_step(&cron, missed, BASE_MS + due_ms, BASE_MS + now_ms, &utc);
    assert_int_equal(step.fires, fires);
    assert_int_equal(step.at_ms, BASE_MS + at_ms);
    assert_int_equal(step.next_at_ms, BASE_MS + at_ms + HOUR_MS);
}

static void test_fires_in_time(void **state)
{
    (void)state;
    for (int missed = 0; missed < MISSED_N_; missed++) {
        check_step((MissedPolicy)missed, 0, 0, true, 0);
        check_step((MissedPolicy)missed, 0, SCHEDULE_LATE_MS, true, 0);
    }
}

static void test_what_was_missed(void **state)
{
    (void)state;
    check_step(MISSED_SKIP, 0, 5 * MINUTE_MS, false, 0);
    check_step(MISSED_SKIP, 0, 5 * HOUR_MS + 5 * MINUTE_MS, false, 5 * HOUR_MS);
    check_step(MISSED_SKIP, 0, 5 * HOUR_MS, true, 5 * HOUR_MS); /* this one is of now */
    check_step(MISSED_ONCE, 0, 5 * HOUR_MS + 5 * MINUTE_MS, true, 5 * HOUR_MS);
    check_step(MISSED_ALL, 0, 5 * HOUR_MS + 5 * MINUTE_MS, true, 0);
    check_step(MISSED_ALL, 0, 100 * HOUR_MS, false, 76 * HOUR_MS); /* a day of them */
    check_step(MISSED_ALL, 77 * HOUR_MS, 100 * HOUR_MS, true, 77 * HOUR_MS);
}

static void test_set_anew(void **state)
{
    (void)state;
    Cron cron = hourly();
    assert_int_equal(schedule_first_ms(&cron, BASE_MS + 1000, &utc), BASE_MS);
    assert_int_equal(schedule_first_ms(&cron, BASE_MS + 3000, &utc), BASE_MS + HOUR_MS);
}

static void test_the_calendar_was_set_back(void **state)
{
    (void)state;
    Cron cron = hourly();
    int64_t far_ms = BASE_MS + 1000 * HOUR_MS;
    assert_int_equal(schedule_due_ms(&cron, far_ms, BASE_MS + 1, &utc), BASE_MS + HOUR_MS);
    assert_int_equal(schedule_due_ms(&cron, BASE_MS, BASE_MS + 1, &utc), BASE_MS); /* it is due */
    assert_int_equal(schedule_due_ms(&cron, BASE_MS + HOUR_MS, BASE_MS + 1, &utc),
                     BASE_MS + HOUR_MS);
    assert_int_equal(schedule_due_ms(&cron, 0, BASE_MS, &utc), 0); /* never */
}

static void test_the_last_one_goes_on(void **state)
{
    (void)state;
    for (int i = 0; i < OVERLAP_N_; i++) {
        OverlapPolicy policy = (OverlapPolicy)i;
        assert_int_equal(schedule_skips(policy, true, 1, 2), policy == OVERLAP_SKIP);
        assert_false(schedule_skips(policy, false, 1, 2));
        assert_false(schedule_skips(policy, true, 2, 2)); /* its own */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fires_in_time),
        cmocka_unit_test(test_what_was_missed),
        cmocka_unit_test(test_set_anew),
        cmocka_unit_test(test_the_last_one_goes_on),
        cmocka_unit_test(test_the_calendar_was_set_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
