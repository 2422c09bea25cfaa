#include "codec/time_text.h"

#include <stdio.h>

#include "base/diag.h"
#include "codec/duration.h"

#define MS_PER_DAY INT64_C(86400000)
#define YEAR_MAX 9999

/* Days from 0000-03-01 to 1970-01-01. Years here begin in March, so that the leap day is a year's
 * last, and 400 of them (an era, 146,097 days) repeat. */
#define DAYS_TO_1970 INT64_C(719468)
#define DAYS_PER_ERA INT64_C(146097)

int64_t time_days_from_date(TimeDate date)
{
    assert(date.year >= 0 && date.year <= YEAR_MAX);
    assert(date.month >= 1 && date.month <= 12 && date.day >= 1 && date.day <= 31);
    int64_t year = date.month <= 2 ? date.year - 1 : date.year;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t month = (date.month + 9) % 12;                      /* March is 0 */
    int64_t day_of_year = (153 * month + 2) / 5 + date.day - 1; /* five months have 153 days */
    int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970;
}

TimeDate time_date_from_days(int64_t days)
{
    int64_t day = days + DAYS_TO_1970;
    int64_t era = (day >= 0 ? day : day - (DAYS_PER_ERA - 1)) / DAYS_PER_ERA;
    int64_t day_of_era = day - era * DAYS_PER_ERA;
    /* 1460, 36524, 146096: one day short of 4, 100 and 400 years */
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 -
                           day_of_era / 146096) /
                          365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t month = (5 * day_of_year + 2) / 153;
    TimeDate date = { .day = (int)(day_of_year - (153 * month + 2) / 5 + 1),
                      .month = (int)(month < 10 ? month + 3 : month - 9) };
    date.year = (int)(year_of_era + era * 400 + (date.month <= 2));
    return date;
}

char *time_format(int64_t unix_ms, char out[TIME_TEXT_MAX])
{
    int64_t ms = MIN(MAX(unix_ms, TIME_MS_MIN), TIME_MS_MAX) - TIME_MS_MIN; /* not negative */
    TimeDate date = time_date_from_days(ms / MS_PER_DAY + TIME_MS_MIN / MS_PER_DAY);
    int of_day = (int)(ms % MS_PER_DAY);
    snprintf(out, TIME_TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", date.year, date.month,
             date.day, of_day / 3600000, of_day / 60000 % 60, of_day / 1000 % 60, of_day % 1000);
    return out;
}

char *time_format_s(int64_t unix_ms, char out[TIME_TEXT_MAX])
{
    time_format(MIN(unix_ms, TIME_MS_MAX - 999) + 999, out);
    memcpy(out + sizeof("2026-01-02T03:04:05") - 1, "Z", 2);
    return out;
}

/* --- parsing ---------------------------------------------------------------------------------- */

/* Takes n digits off the front; -1 if there are not that many. */
static int digits_take(Str *text, size_t n)
{
    int value = 0;
    if (text->len < n) return -1;
    for (size_t i = 0; i < n; i++) {
        if (text->ptr[i] < '0' || text->ptr[i] > '9') return -1;
        value = value * 10 + (text->ptr[i] - '0');
    }
    *text = str_skip(*text, n);
    return value;
}

/* Takes one of the two characters off the front. */
static bool char_take(Str *text, char c, char or_c)
{
    if (text->len == 0 || (text->ptr[0] != c && text->ptr[0] != or_c)) return false;
    *text = str_skip(*text, 1);
    return true;
}

/* A number of two digits, at most max, after separator (0: none). */
static bool field_take(Str *text, char separator, int max, int *ret)
{
    if (separator && !char_take(text, separator, separator)) return false;
    *ret = digits_take(text, 2);
    return *ret >= 0 && *ret <= max;
}

static int days_in_month(int year, int month)
{
    static const int8_t days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

static bool date_take(Str *text, int64_t *ret_days)
{
    TimeDate date = { .year = digits_take(text, 4) };
    if (date.year < 0 || !field_take(text, '-', 12, &date.month) || date.month < 1) return false;
    if (!field_take(text, '-', days_in_month(date.year, date.month), &date.day)) return false;
    if (date.day < 1) return false;
    *ret_days = time_days_from_date(date);
    return true;
}

/* ".678" in milliseconds; none is 0. */
static bool fraction_take(Str *text, int64_t *ret_ms)
{
    int64_t scale = 100;
    *ret_ms = 0;
    if (!char_take(text, '.', '.')) return true;
    if (text->len == 0 || text->ptr[0] < '0' || text->ptr[0] > '9') return false;
    for (int digit; (digit = digits_take(text, 1)) >= 0; scale /= 10) *ret_ms += scale * digit;
    return true;
}

/* "Z" or "+hh:mm", in minutes. */
static bool offset_take(Str *text, int64_t *ret_minutes)
{
    int hours, minutes;
    bool west = text->len > 0 && text->ptr[0] == '-';
    *ret_minutes = 0;
    if (char_take(text, 'Z', 'z')) return true;
    if (!char_take(text, '+', '-')) return false;
    if (!field_take(text, 0, 23, &hours) || !field_take(text, ':', 59, &minutes)) return false;
    *ret_minutes = (west ? -1 : 1) * (hours * 60 + minutes);
    return true;
}

static bool time_take(Str *text, int64_t *ret_unix_ms)
{
    int64_t days, fraction_ms, offset_min;
    int hour, minute, second;
    if (!date_take(text, &days) || !char_take(text, 'T', 't')) return false;
    if (!field_take(text, 0, 23, &hour) || !field_take(text, ':', 59, &minute)) return false;
    if (!field_take(text, ':', 60, &second) || !fraction_take(text, &fraction_ms)) return false;
    if (!offset_take(text, &offset_min)) return false;

    int64_t of_day_s = hour * 3600 + minute * 60 + second;
    int64_t unix_s = days * 86400 + of_day_s - offset_min * 60;
    if (second == 60) {
        if (unix_s % 86400 != 0) return false; /* leap seconds end a UTC day */
        fraction_ms = 0;
    }
    *ret_unix_ms = unix_s * 1000 + fraction_ms;
    return true;
}

int time_parse(Str text, int64_t *ret_unix_ms)
{
    Str rest = text;
    int64_t unix_ms;
    if (!time_take(&rest, &unix_ms) || rest.len > 0)
        return diag_set(-EINVAL, "\"%.*s\" is not a time such as 2026-01-02T03:04:05Z",
                        (int)MIN(text.len, 40), text.ptr ? text.ptr : "");
    *ret_unix_ms = unix_ms;
    return 0;
}

int time_parse_from(Str text, int64_t now_ms, int64_t *ret_unix_ms)
{
    int64_t unix_ms;
    if (time_parse(text, ret_unix_ms) == 0) return 0;
    if (duration_parse(text, &unix_ms) < 0)
        return diag_set(
            -EINVAL,
            "\"%.*s\" is neither a time such as 2026-01-02T03:04:05Z nor a duration such "
            "as 90s",
            (int)MIN(text.len, 40), text.ptr ? text.ptr : "");
    if (__builtin_add_overflow(now_ms, unix_ms, &unix_ms)) unix_ms = TIME_MS_MAX;
    *ret_unix_ms = MIN(unix_ms, TIME_MS_MAX);
    return 0;
}

/* --- of HTTP ---------------------------------------------------------------------------------- */

static int month_take(Str *text)
{
    static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    Str name = str_sub(*text, 0, 3);
    *text = str_skip(*text, 3);
    for (int i = 0; i < 12; i++)
        if (str_eq(name, str_make(names + 3 * i, 3))) return i + 1;
    return -1;
}

int time_parse_http(Str text, int64_t *ret_unix_ms)
{
    int hour, minute, second;
    if (text.len != 29 || !str_eq(str_sub(text, 3, 2), STR(", "))) return -EINVAL;
    text = str_skip(text, 5); /* the day of the week says nothing new */
    int day = digits_take(&text, 2);
    if (!char_take(&text, ' ', ' ')) return -EINVAL;
    int month = month_take(&text);
    if (!char_take(&text, ' ', ' ')) return -EINVAL;
    int year = digits_take(&text, 4);
    if (day < 1 || day > 31 || month < 1 || year < 1970) return -EINVAL;
    if (!field_take(&text, ' ', 23, &hour) || !field_take(&text, ':', 59, &minute)) return -EINVAL;
    if (!field_take(&text, ':', 60, &second) || !str_eq(text, STR(" GMT"))) return -EINVAL;
    int64_t first = time_days_from_date((TimeDate){ year, month, 1 });
    *ret_unix_ms = ((first + day - 1) * 86400 + hour * 3600 + minute * 60 + second) * 1000;
    return 0;
}

int64_t time_retry_after_ms(Str value, int64_t now_ms)
{
    int64_t seconds, at_ms;
    if (str_to_i64(value, &seconds) == 0) return MIN(MAX(seconds, 0), INT64_MAX / 1000) * 1000;
    return time_parse_http(value, &at_ms) == 0 ? MAX(at_ms - now_ms, 0) : 0;
}
