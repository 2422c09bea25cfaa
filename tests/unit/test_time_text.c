#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/time_text.h"
#include "tests/unit/random.h"

static const struct {
    int64_t ms;
    const char *text;
} instants[] = {
    { 0, "1970-01-01T00:00:00.000Z" },
    { -1, "1969-12-31T23:59:59.999Z" },
    { INT64_C(1767323045678), "2026-01-02T03:04:05.678Z" },
    { INT64_C(951782400000), "2000-02-29T00:00:00.000Z" },
    { INT64_C(951868800000), "2000-03-01T00:00:00.000Z" },
    { INT64_C(4107542399999), "2100-02-28T23:59:59.999Z" }, /* no leap year */
    { INT64_C(4107542400000), "2100-03-01T00:00:00.000Z" },
    { INT64_C(-2208988800000), "1900-01-01T00:00:00.000Z" },
    { INT64_C(253402300799999), "9999-12-31T23:59:59.999Z" },
    { INT64_C(-62167219200000), "0000-01-01T00:00:00.000Z" },
};

static void test_format_and_parse(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(instants); i++) {
        char text[TIME_TEXT_MAX];
        int64_t back;
        assert_string_equal(time_format(instants[i].ms, text), instants[i].text);
        assert_int_equal(time_parse(str_of(text), &back), 0);
        assert_int_equal(back, instants[i].ms);
    }
}

static void test_format_clips(void **state)
{
    (void)state;
    char text[TIME_TEXT_MAX];
    assert_string_equal(time_format(INT64_MAX, text), "9999-12-31T23:59:59.999Z");
    assert_string_equal(time_format(INT64_MIN, text), "0000-01-01T00:00:00.000Z");
    assert_string_equal(time_format_s(1000, text), "1970-01-01T00:00:01Z");
    assert_string_equal(time_format_s(1001, text), "1970-01-01T00:00:02Z");
    assert_string_equal(time_format_s(INT64_MAX, text), "9999-12-31T23:59:59Z");
}

/* Every day of eleven thousand years follows the day before, as the calendar says. */
static void test_every_day(void **state)
{
    (void)state;
    static const int lengths[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    TimeDate want = { 0, 1, 1 };
    for (int64_t days = TIME_MS_MIN / 86400000; days <= TIME_MS_MAX / 86400000; days++) {
        TimeDate got = time_date_from_days(days);
        assert_true(got.year == want.year && got.month == want.month && got.day == want.day);
        assert_true(time_days_from_date(got) == days);
        bool leap = (want.year % 4 == 0 && want.year % 100 != 0) || want.year % 400 == 0;
        int last = lengths[want.month - 1] + (want.month == 2 && leap);
        if (want.day++ == last) want.day = 1, want.month++;
        if (want.month == 13) want.month = 1, want.year++;
    }
    assert_int_equal(want.year, 10000);
}

static void test_parse_forms(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } forms[] = {
        { "1970-01-01T00:00:01Z", 1000 },
        { "1970-01-01t00:00:01z", 1000 },
        { "1970-01-01T00:00:00.5Z", 500 },
        { "1970-01-01T00:00:00.12345678901234567890Z", 123 },
        { "1970-01-01T00:00:00.9999Z", 999 },
        { "1970-01-01T02:30:00+02:30", 0 },
        { "1969-12-31T19:00:00-05:00", 0 },
        { "1970-01-01T00:00:00-00:00", 0 },
        { "1985-04-12T23:20:50.52Z", 482196050520 }, /* RFC 3339 section 5.8 */
        { "1996-12-19T16:39:57-08:00", 851042397000 },
        { "1990-12-31T23:59:60Z", 662688000000 }, /* a leap second */
        { "1990-12-31T15:59:60.7-08:00", 662688000000 },
        { "1937-01-01T12:00:27.87+00:20", -1041337172130 },
    };
    for (size_t i = 0; i < ARRAY_N(forms); i++) {
        int64_t ms = 0;
        assert_int_equal(time_parse(str_of(forms[i].text), &ms), 0);
        assert_int_equal(ms, forms[i].ms);
    }
}

static void test_parse_from(void **state)
{
    (void)state;
    int64_t ms = 7;
    assert_int_equal(time_parse_from(STR("2026-01-02T03:04:05.678Z"), 5, &ms), 0);
    assert_int_equal(ms, INT64_C(1767323045678));
    assert_int_equal(time_parse_from(STR("1m30s"), 1000, &ms), 0);
    assert_int_equal(ms, 91000);
    assert_int_equal(time_parse_from(STR("0s"), 1000, &ms), 0);
    assert_int_equal(ms, 1000);
    assert_int_equal(time_parse_from(STR("106751991167d"), 1000, &ms), 0);
    assert_int_equal(ms, TIME_MS_MAX);
    static const char *const bad[] = { "", "soon", "-1s", "90", "2026-01-02" };
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        ms = 7;
        assert_int_equal(time_parse_from(str_of(bad[i]), 1000, &ms), -EINVAL);
        assert_int_equal(ms, 7);
    }
}

static void test_parse_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "1970",
        "1970-01-01",
        "1970-01-01T00:00Z",
        "1970-01-01T00:00:00",
        "1970-01-01 00:00:00Z",
        "1970-1-01T00:00:00Z",
        "70-01-01T00:00:00Z",
        "1970-00-01T00:00:00Z",
        "1970-13-01T00:00:00Z",
        "1970-01-00T00:00:00Z",
        "1970-01-32T00:00:00Z",
        "1970-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "1970-04-31T00:00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z",
        "1970-01-01T00:00:61Z",
        "1970-01-01T00:00:60Z",
        "1970-01-01T23:58:60Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00,5Z",
        "1970-01-01T00:00:00+0100",
        "1970-01-01T00:00:00+24:00",
        "1970-01-01T00:00:00+01:60",
        "1970-01-01T00:00:00+01",
        "1970-01-01T00:00:00Z ",
        " 1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00ZZ",
        "+1970-01-01T00:00:00Z",
        "-970-01-01T00:00:00Z",
        "1970-01-01T-1:00:00Z",
        "19700101T000000Z",
    };
    int64_t ms = 42;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        diag_clear();
        assert_int_equal(time_parse(str_of(bad[i]), &ms), -EINVAL);
        assert_non_null(strstr(diag_text(), "is not a time"));
    }
    assert_int_equal(time_parse(STR_NULL, &ms), -EINVAL);
    assert_int_equal(time_parse(STR("1970-01-01T00:00:00\0Z"), &ms), -EINVAL);
    assert_int_equal(ms, 42);
}

static void test_round_trip(void **state)
{
    (void)state;
    Random random = { 3 };
    for (int i = 0; i < 100000; i++) {
        char text[TIME_TEXT_MAX];
        int64_t ms = random_range(&random, TIME_MS_MIN, TIME_MS_MAX), back;
        assert_int_equal(time_parse(str_of(time_format(ms, text)), &back), 0);
        assert_true(back == ms);
    }
}

static void test_http(void **state)
{
    (void)state;
    static const char *const bad[] = { "",
                                       "Sun, 06 Nov 1994 08:49:37",
                                       "Sun, 06 Nov 1994 08:49:37 UTC",
                                       "Sunday, 06-Nov-94 08:49:37 GMT",
                                       "Sun Nov  6 08:49:37 1994     ",
                                       "Sun, 06 Nov 1969 08:49:37 GMT",
                                       "Sun, 00 Nov 1994 08:49:37 GMT",
                                       "Sun, 32 Nov 1994 08:49:37 GMT",
                                       "Sun, 06 Nob 1994 08:49:37 GMT",
                                       "Sun, 06 Nov 1994 24:49:37 GMT",
                                       "Sun, 06 Nov 1994 08-49:37 GMT" };
    int64_t ms = 42;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        assert_int_equal(time_parse_http(str_of(bad[i]), &ms), -EINVAL);
        assert_int_equal(time_retry_after_ms(str_of(bad[i]), 0), 0);
    }
    assert_int_equal(ms, 42);
    Str date = STR("Sun, 06 Nov 1994 08:49:37 GMT"); /* RFC 9110, 5.6.7 */
    assert_int_equal(time_parse_http(date, &ms), 0);
    assert_int_equal(ms, 784111777000);
    assert_int_equal(time_retry_after_ms(date, ms - 60500), 60500);
    assert_int_equal(time_retry_after_ms(date, ms + 1), 0);
    assert_int_equal(time_retry_after_ms(STR("120"), ms), 120000);
    assert_int_equal(time_retry_after_ms(STR("-1"), ms), 0);
    assert_int_equal(time_retry_after_ms(STR("9223372036854775807"), ms), 9223372036854775000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_and_parse), cmocka_unit_test(test_format_clips),
        cmocka_unit_test(test_every_day),        cmocka_unit_test(test_parse_forms),
        cmocka_unit_test(test_parse_refuses),    cmocka_unit_test(test_parse_from),
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_http),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
