#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/duration.h"
#include "tests/unit/random.h"

/* The text, and how it is written back. */
static const struct {
    const char *text;
    int64_t ms;
    const char *shortest;
} durations[] = {
    { "0s", 0, "0s" },
    { "0ms", 0, "0s" },
    { "1ms", 1, "1ms" },
    { "500ms", 500, "500ms" },
    { "30s", 30000, "30s" },
    { "5m", 300000, "5m" },
    { "1h", 3600000, "1h" },
    { "2d", 172800000, "2d" },
    { "1h30m", 5400000, "1h30m" },
    { "1d1h1m1s1ms", 90061001, "1d1h1m1s1ms" },
    { "90m", 5400000, "1h30m" },
    { "1m0s", 60000, "1m" },
    { "1m1ms", 60001, "1m1ms" },
    { "007s", 7000, "7s" },
    { "9223372036854775807ms", INT64_MAX, "106751991167d7h12m55s807ms" },
};

static void test_parse_and_format(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(durations); i++) {
        char text[DURATION_TEXT_MAX];
        int64_t ms = -1;
        assert_int_equal(duration_parse(str_of(durations[i].text), &ms), 0);
        assert_int_equal(ms, durations[i].ms);
        assert_string_equal(duration_format(ms, text), durations[i].shortest);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",    "5",    "s",    "5 s",   " 5s",  "5s ",   "5S", "-5s", "+5s", "1.5s",  "5sec",
        "5ss", "1m1h", "1s1s", "1ms1s", "1h30", "1h-5m", "1w", "5mm", "h5",  "1h,5m", "0x5s",
    };
    int64_t ms = 42;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        diag_clear();
        assert_int_equal(duration_parse(str_of(bad[i]), &ms), -EINVAL);
        assert_non_null(strstr(diag_text(), "is not a duration"));
    }
    assert_int_equal(duration_parse(STR("5s\0"), &ms), -EINVAL);
    assert_int_equal(duration_parse(STR_NULL, &ms), -EINVAL);
    assert_int_equal(ms, 42);
}

static void test_range(void **state)
{
    (void)state;
    static const char *const large[] = { "9223372036854775808ms", "106751991168d",
                                         "106751991167d8h", "99999999999999999999s" };
    int64_t ms = 42;
    for (size_t i = 0; i < ARRAY_N(large); i++)
        assert_int_equal(duration_parse(str_of(large[i]), &ms), -ERANGE);
    assert_non_null(strstr(diag_text(), "too long"));
    assert_int_equal(ms, 42);
}

static void test_round_trip(void **state)
{
    (void)state;
    Random random = { 5 };
    for (int i = 0; i < 20000; i++) {
        char text[DURATION_TEXT_MAX];
        int64_t ms = random_range(&random, 0, INT64_MAX - 1) >> random_range(&random, 0, 62), back;
        assert_int_equal(duration_parse(str_of(duration_format(ms, text)), &back), 0);
        assert_true(back == ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse_and_format),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
