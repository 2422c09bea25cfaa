/* What the heads of answers say about rate limits. */
#include "codec/time_text.h"
#include "logic/rate.h"

#define NUMBER_DIGITS_MAX 15
#define UNIX_S_MIN 1000000000             /* a greater number of seconds is a date */
#define UNIX_MS_MIN INT64_C(100000000000) /* and a greater one than that one in milliseconds */

/* --- numbers and times ------------------------------------------------------------------------ */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* A decimal of at most three places (further ones are dropped), as thousandths, from the front of
 * *text. */
static bool take_milli(Str *text, int64_t *ret)
{
    int64_t whole = 0, milli = 0, place = 100;
    size_t i = 0;
    for (; i < text->len && is_digit(text->ptr[i]); i++) {
        if (i >= NUMBER_DIGITS_MAX) return false;
        whole = whole * 10 + (text->ptr[i] - '0');
    }
    if (i == 0) return false;
    if (i < text->len && text->ptr[i] == '.')
        for (i++; i < text->len && is_digit(text->ptr[i]); i++, place /= 10)
            milli += place * (text->ptr[i] - '0');
    *ret = whole * 1000 + milli;
    *text = str_skip(*text, i);
    return true;
}

static int64_t bounded(int64_t ms)
{
    return MIN(MAX(ms, 0), RATE_BLOCK_MAX_MS);
}

/* The unit at the front of *text, in nanoseconds; 0: none. */
static int64_t take_unit_ns(Str *text)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = { { "ms", 1000000 },
                  { "us", 1000 },
                  { "\xc2\xb5s", 1000 },
                  { "ns", 1 },
                  { "s", 1000000000 },
                  { "m", INT64_C(60000000000) },
                  { "h", INT64_C(3600000000000) },
                  { "d", INT64_C(86400000000000) } };
    for (size_t i = 0; i < ARRAY_N(units); i++) {
        if (!str_starts_with(*text, str_of(units[i].name))) continue;
        *text = str_skip(*text, strlen(units[i].name));
        return units[i].ns;
    }
    return 0;
}

/* "6m0s", "1.5s", "12ms": milliseconds, rounded up; -1: it is not that. */
static int64_t duration_ms(Str text)
{
    __int128 ns = 0;
    if (str_empty(text)) return -1;
    while (!str_empty(text)) {
        int64_t milli, unit_ns;
        if (!take_milli(&text, &milli) || !(unit_ns = take_unit_ns(&text))) return -1;
        ns += (__int128)milli * unit_ns / 1000;
    }
    __int128 ms = (ns + 999999) / 1000000;
    return bounded((int64_t)MIN(ms, (__int128)RATE_BLOCK_MAX_MS));
}

/* A plain number: seconds from now, or a moment in Unix time; -1: it is not that. */
static int64_t number_ms(Str text, int64_t now_real_ms)
{
    int64_t milli;
    if (!take_milli(&text, &milli) || !str_empty(text)) return -1;
    int64_t seconds = milli / 1000;
    if (seconds >= UNIX_MS_MIN) return bounded(seconds - now_real_ms);
    if (seconds >= UNIX_S_MIN) return bounded(milli - now_real_ms);
    return bounded(milli);
}

static int64_t reset_ms(Str text, int64_t now_real_ms)
{
    int64_t at_ms;
    int64_t ms = number_ms(text, now_real_ms);
    if (ms < 0) ms = duration_ms(text);
    if (ms < 0 && time_parse(text, &at_ms) == 0) ms = bounded(at_ms - now_real_ms);
    return ms;
}

static int64_t retry_after_ms(Str text, int64_t now_real_ms)
{
    int64_t milli, at_ms;
    if (time_parse_http(text, &at_ms) == 0) return bounded(at_ms - now_real_ms);
    if (!take_milli(&text, &milli) || !str_empty(text)) return -1;
    return bounded(milli);
}

/* --- fields ----------------------------------------------------------------------------------- */

static bool starts_with_nocase(Str s, Str prefix, Str *ret_rest)
{
    if (!str_eq_nocase(str_sub(s, 0, prefix.len), prefix)) return false;
    *ret_rest = str_skip(s, prefix.len);
    return true;
}

static int unit_of(Str name)
{
    static const char *const names[RATE_N_] = { "requests", "tokens", "input-tokens",
                                                "output-tokens" };
    for (int i = 0; i < RATE_N_; i++)
        if (str_eq_nocase(name, str_of(names[i]))) return i;
    return -1;
}

static void set_count(int64_t *slot, Str value)
{
    int64_t n;
    if (str_to_i64(value, &n) == 0 && n >= 0) *slot = MIN(n, INT64_C(1000000000000));
}

static void set_kind(RateReport *report, Str kind, int unit, Str value, int64_t now_real_ms)
{
    if (unit < 0) return;
    if (str_eq_nocase(kind, STR("limit"))) set_count(&report->limit[unit], value);
    if (str_eq_nocase(kind, STR("remaining"))) set_count(&report->remaining[unit], value);
    if (str_eq_nocase(kind, STR("reset"))) report->reset_ms[unit] = reset_ms(value, now_real_ms);
}

/* "requests-limit", "input-tokens-reset": the kind stands last. */
static void anthropic_field(RateReport *report, Str name, Str value, int64_t now_real_ms)
{
    size_t dash = name.len;
    while (dash > 0 && name.ptr[dash - 1] != '-') dash--;
    if (dash == 0) return;
    int unit = unit_of(str_sub(name, 0, dash - 1));
    set_kind(report, str_skip(name, dash), unit, value, now_real_ms);
}

/* "limit-requests", "reset-tokens": the kind stands first. */
static void openai_field(RateReport *report, Str name, Str value, int64_t now_real_ms)
{
    Str kind, unit = str_split(name, '-', &kind, NULL);
    set_kind(report, kind, unit_of(unit), value, now_real_ms);
}

void rate_report_field(RateReport *report, Str name, Str value, int64_t now_real_ms)
{
    Str rest;
    int64_t milli;
    value = str_trim(value);
    if (starts_with_nocase(name, STR("x-ratelimit-"), &rest))
        openai_field(report, rest, value, now_real_ms);
    else if (starts_with_nocase(name, STR("anthropic-ratelimit-"), &rest))
        anthropic_field(report, rest, value, now_real_ms);
    else if (str_eq_nocase(name, STR("retry-after-ms"))) {
        if (!take_milli(&value, &milli) || !str_empty(value)) return;
        report->retry_after_ms = bounded(milli / 1000);
        report->retry_after_exact = true;
    } else if (str_eq_nocase(name, STR("retry-after")) && !report->retry_after_exact)
        report->retry_after_ms = retry_after_ms(value, now_real_ms);
}
