#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/diag.h"
#include "sys/zone.h"
#include "tests/unit/random.h"

#define HOUR_MS INT64_C(3600000)

static void test_utc(void **state)
{
    (void)state;
    int64_t start, end;
    zone_day(1700000000123, &start, &end); /* 2023-11-14 22:13:20 */
    assert_int_equal(start, 1699920000000);
    assert_int_equal(end - start, 24 * HOUR_MS);
    zone_day(start, &start, &end);
    assert_int_equal(start, 1699920000000);
    zone_day(end - 1, &start, &end);
    assert_int_equal(start, 1699920000000);
    zone_month(1700000000123, &start, &end);
    assert_int_equal(start, 1698796800000);
    assert_int_equal(end - start, 30 * 24 * HOUR_MS);
    zone_month(1703980800000, &start, &end); /* 2023-12-31: the year ends with it */
    assert_int_equal(end, 1704067200000);
    zone_day(-1, &start, &end);
    assert_int_equal(end, 0);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const bad[] = { "", "/etc/passwd", "Europe/Nowhere", "a b", "../UTC" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(zone_set(str_of(bad[i])), -EINVAL);
    assert_int_equal(zone_set(STR("UTC")), 0);
    assert_string_equal(zone_name(), "UTC");
}

/* The days on which clocks are set are 23 and 25 hours long, and there is no gap between days. */
static void test_daylight_saving(void **state)
{
    (void)state;
    if (access("/usr/share/zoneinfo/Europe/Berlin", R_OK) != 0) skip();
    assert_int_equal(zone_set(STR("Europe/Berlin")), 0);
    int64_t start, end, short_days = 0, long_days = 0;
    zone_day(1704063600000, &start, &end); /* 2024-01-01 00:00 there */
    assert_int_equal(start, 1704063600000);
    for (int day = 0; day < 366; day++) { /* a leap year */
        int64_t next, after;
        short_days += end - start == 23 * HOUR_MS;
        long_days += end - start == 25 * HOUR_MS;
        zone_day(end - 1, &next, &after);
        assert_int_equal(next, start);
        zone_day(end, &next, &after);
        assert_int_equal(next, end);
        start = next;
        end = after;
    }
    assert_int_equal(short_days, 1);
    assert_int_equal(long_days, 1);
    assert_int_equal(start, 1735686000000);      /* 2025-01-01 there */
    zone_month(1711922400000 - 1, &start, &end); /* the end of a month of 743 hours */
    assert_int_equal(end - start, 743 * HOUR_MS);
    assert_int_equal(zone_set(STR("UTC")), 0);
}

/* Zones by name say what the C library does, of which there can be one a process. */
static void same_as_the_library(const char *name, Random *random)
{
    const Zone *zone, *again;
    assert_int_equal(zone_find(str_of(name), &zone), 0);
    assert_int_equal(zone_find(str_of(name), &again), 0);
    assert_ptr_equal(zone, again);
    assert_int_equal(zone_set(str_of(name)), 0);
    for (int i = 0; i < 20000; i++) {
        int64_t ms = (int64_t)(random_next(random) % 9000000000000) - 2000000000000; /* to 2191 */
        if (i % 2) ms = ms / 1800000 * 1800000 - (i % 4 == 1); /* when clocks are set */
        if (zone_offset_of_ms(zone, ms) != zone_offset_ms(ms))
            fail_msg("%s at %" PRId64 ": %" PRId64 ", not %" PRId64, name, ms,
                     zone_offset_of_ms(zone, ms), zone_offset_ms(ms));
    }
}

static void test_others(void **state)
{
    (void)state;
    static const char *const names[] = { "Europe/Berlin",     "America/New_York",
                                         "Asia/Kolkata",      "Australia/Lord_Howe",
                                         "America/Sao_Paulo", "Europe/Dublin",
                                         "Africa/Casablanca", "America/Nuuk",
                                         "Asia/Gaza",         "Pacific/Apia" };
    static const char *const bad[] = { "/etc/passwd", "Europe/Nowhere", "Europe//Berlin",
                                       "Europe" };
    const Zone *zone;
    Random random = { 7 };
    if (access("/usr/share/zoneinfo/Europe/Berlin", R_OK) != 0) skip();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        same_as_the_library(names[i], &random);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(zone_find(str_of(bad[i]), &zone), -EINVAL);
    assert_int_equal(zone_set(STR("UTC")), 0);
    assert_int_equal(zone_find(STR_NULL, &zone), 0); /* the process's */
    assert_int_equal(zone_offset_of_ms(zone, 1700000000000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_utc), cmocka_unit_test(test_names),
                                        cmocka_unit_test(test_daylight_saving),
                                        cmocka_unit_test(test_others) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
