/* When schedules fire: fields, both kinds of days, clocks that go forward and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "codec/time_text.h"
#include "logic/cron.h"
#include "tests/unit/random.h"

#define HOUR_MS INT64_C(3600000)

static int64_t at(const char *text)
{
    int64_t ms = 0;
    assert_int_equal(time_parse(str_of(text), &ms), 0);
    return ms;
}

static int64_t utc_ms(const void *ctx, int64_t unix_ms)
{
    (void)ctx;
    (void)unix_ms;
    return 0;
}

/* Berlin in 2026: forward on 29 March, back on 25 October, at 01:00 UTC. */
static int64_t berlin_ms(const void *ctx, int64_t unix_ms)
{
    (void)ctx;
    bool summer = unix_ms >= INT64_C(1774746000000) && unix_ms < INT64_C(1792890000000);
    return summer ? 2 * HOUR_MS : HOUR_MS;
}

static const CronZone utc = { utc_ms, NULL }, berlin = { berlin_ms, NULL };

static Cron parsed(const char *text)
{
    Cron cron;
    assert_int_equal(cron_parse(str_of(text), &cron), 0);
    return cron;
}

static void expect(const char *text, const CronZone *zone, const char *after, const char *want)
{
    char got[TIME_TEXT_MAX];
    Cron cron = parsed(text);
    time_format(cron_next(&cron, at(after), zone), got);
    if (strncmp(got, want, strlen(want)) != 0)
        fail_msg("%s after %s: %s, not %s", text, after, got, want);
}

static void test_fields(void **state)
{
    (void)state;
    expect("* * * * *", &utc, "2026-01-01T00:00:00Z", "2026-01-01T00:01");
    expect("* * * * *", &utc, "2026-01-01T00:00:59.999Z", "2026-01-01T00:01");
    expect("*/15 9-17 * * MON-FRI", &utc, "2026-01-02T17:45:00Z", "2026-01-05T09:00");
    expect("5,10 0 * * *", &utc, "2026-01-01T00:05:00Z", "2026-01-01T00:10");
    expect("0 0 29 2 *", &utc, "2026-01-01T00:00:00Z", "2028-02-29T00:00");
    expect("0 0 */29 2 SUN", &utc, "2088-03-01T00:00:00Z", "2093-02-01T00:00");
    expect("0 0 29 2 */7", &utc, "2088-03-01T00:00:00Z", "2128-02-29T00:00"); /* the next Sunday */
    expect("29 9 */30 9 MON", &utc, "2014-09-02T00:00:00Z", "2025-09-01T09:29");
    expect("0 0 1 1 *", &utc, "2026-01-01T00:00:00Z", "2027-01-01T00:00");
    expect("0 12 31 * *", &utc, "2026-01-31T12:00:00Z", "2026-03-31T12:00");
    expect("0 0 * * 7", &utc, "2026-01-01T00:00:00Z", "2026-01-04T00:00");
    expect("0 0 * * sun", &utc, "2026-01-01T00:00:00Z", "2026-01-04T00:00");
    expect("0 0 13 * FRI", &utc, "2026-01-03T00:00:00Z", "2026-01-09T00:00"); /* either */
    expect("0 0 13 * FRI", &utc, "2026-01-09T00:00:00Z", "2026-01-13T00:00");
    expect("0 0 * dec *", &utc, "2026-01-01T00:00:00Z", "2026-12-01T00:00");
    expect("10-20/5 0 * * *", &utc, "2026-01-01T00:10:00Z", "2026-01-01T00:15");
    expect("@daily", &utc, "2026-01-01T00:00:00Z", "2026-01-02T00:00");
    expect("@hourly", &utc, "2026-01-01T00:10:00Z", "2026-01-01T01:00");
    expect("  0   6 *  * * ", &utc, "2026-01-01T00:10:00Z", "2026-01-01T06:00");
    expect("0 0 30 2 MON", &utc, "2026-01-01T00:00:00Z", "2026-02-02T00:00"); /* either */
    expect("0 0 30,31 2,4 *", &utc, "2026-01-01T00:00:00Z", "2026-04-30T00:00");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "* * * *",
                                       "* * * * * *",
                                       "60 * * * *",
                                       "* 24 * * *",
                                       "* * 0 * *",
                                       "* * 32 * *",
                                       "* * * 13 *",
                                       "* * * * 8",
                                       "5-1 * * * *",
                                       "*/0 * * * *",
                                       "5/2 * * * *",
                                       "a * * * *",
                                       "1,,2 * * * *",
                                       "-1 * * * *",
                                       "@often",
                                       "1- * * * *",
                                       "* * * JANU *",
                                       "*/99 * * * *",
                                       "0 0 30 2 *",
                                       "0 0 31 4,6 *",
                                       "0 0 31 2 */2" };
    Cron cron;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        if (cron_parse(str_of(bad[i]), &cron) != -EINVAL) fail_msg("\"%s\" is taken", bad[i]);
}

static void test_clocks(void **state)
{
    (void)state;
    expect("30 9 * * *", &berlin, "2026-01-01T00:00:00Z", "2026-01-01T08:30");
    expect("30 9 * * *", &berlin, "2026-07-01T00:00:00Z", "2026-07-01T07:30");

    /* 02:30 is skipped on 29 March: an hour later, once */
    expect("30 2 * * *", &berlin, "2026-03-28T12:00:00Z", "2026-03-29T01:30");
    expect("30 2 * * *", &berlin, "2026-03-29T01:30:00Z", "2026-03-30T00:30");
    expect("30 * * * *", &berlin, "2026-03-29T00:30:00Z", "2026-03-29T01:30");  /* 03:30 */
    expect("0 */2 * * *", &berlin, "2026-03-28T23:00:00Z", "2026-03-29T02:00"); /* 04:00 */

    /* 02:30 comes twice on 25 October: the first one; every hour: both */
    expect("30 2 * * *", &berlin, "2026-10-24T12:00:00Z", "2026-10-25T00:30");
    expect("30 2 * * *", &berlin, "2026-10-25T00:30:00Z", "2026-10-26T01:30");
    expect("30 * * * *", &berlin, "2026-10-25T00:30:00Z", "2026-10-25T01:30");
    expect("*/30 * * * *", &berlin, "2026-10-25T00:30:00Z", "2026-10-25T01:00");
}

/* One firing after the other: they grow, each is a time of the schedule, and every hour has 24 a
 * day, or what there is of it. */
static void test_every_hour_there_is(void **state)
{
    (void)state;
    Cron cron = parsed("0 * * * *");
    int64_t now_ms = at("2026-01-01T00:00:00Z");
    for (int i = 1; i <= 24 * 365; i++) {
        int64_t next_ms = cron_next(&cron, now_ms, &berlin);
        assert_true(next_ms == now_ms + HOUR_MS);
        now_ms = next_ms;
    }
}

/* Against a walk over minutes, in a zone without changes. */
static void test_against_a_walk(void **state)
{
    (void)state;
    Random rng = { 7 };

    for (int i = 0; i < 300; i++) {
        char text[64];
        snprintf(text, sizeof text, "%d-59/%d %d %d-31 * %d", (int)(random_next(&rng) % 60),
                 (int)(random_next(&rng) % 20 + 1), (int)(random_next(&rng) % 24),
                 (int)(random_next(&rng) % 28 + 1), (int)(random_next(&rng) % 7));
        Cron cron = parsed(text);
        int64_t after = at("2026-05-01T00:00:00Z") + (int64_t)(random_next(&rng) % 1000000) * 60000;
        int64_t next = cron_next(&cron, after, &utc), walked = after;
        do {
            walked += 60000;
            int64_t minute = walked / 60000 % 60, hour = walked / HOUR_MS % 24,
                    day = walked / (24 * HOUR_MS);
            TimeDate date = time_date_from_days(day);
            bool fits = (cron.minutes >> minute & 1) && (cron.hours >> hour & 1) &&
                        ((cron.days >> date.day & 1) || (cron.weekdays >> ((day + 4) % 7) & 1));
            if (fits) break;
        } while (walked < next);
        assert_true(walked == next);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_clocks),         cmocka_unit_test(test_every_hour_there_is),
        cmocka_unit_test(test_against_a_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
