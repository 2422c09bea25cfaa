/* Instants as text: RFC 3339, always UTC out. Pure arithmetic on the proleptic Gregorian calendar,
 * no libc time functions, no time zone files. Any thread. */
#ifndef GANTRY_CODEC_TIME_TEXT_H
#define GANTRY_CODEC_TIME_TEXT_H

#include "base/str.h"

#define TIME_TEXT_MAX 32
#define TIME_MS_MIN INT64_C(-62167219200000) /* 0000-01-01T00:00:00.000Z */
#define TIME_MS_MAX INT64_C(253402300799999) /* 9999-12-31T23:59:59.999Z */

/* A day of the calendar: month and day count from 1. */
typedef struct {
    int year, month, day;
} TimeDate;

/* "2026-01-02T03:04:05.678Z", 24 characters and a NUL. unix_ms outside TIME_MS_MIN..MAX is taken as
 * the nearest of them. Returns out. */
char *time_format(int64_t unix_ms, char out[TIME_TEXT_MAX]);

/* "2026-01-02T03:04:05Z": the same in whole seconds, the next one for a part of one. */
char *time_format_s(int64_t unix_ms, char out[TIME_TEXT_MAX]);

/* Reads an RFC 3339 date-time (section 5.6): "T" and "Z" in either case, an offset instead of Z,
 * any number of fraction digits (those beyond milliseconds are dropped), the leap second 23:59:60Z
 * as the instant that follows it. Returns 0, or -EINVAL with diag; *ret is then untouched. */
MUST_CHECK int time_parse(Str text, int64_t *ret_unix_ms);

/* The same, or the moment that is so long after now_ms (codec/duration.h): "90s". Likewise. */
MUST_CHECK int time_parse_from(Str text, int64_t now_ms, int64_t *ret_unix_ms);

/* Days since 1970-01-01 of a date, and back. The date must exist; years 0 to 9999. */
int64_t time_days_from_date(TimeDate date);
TimeDate time_date_from_days(int64_t days);

/* "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, IMF-fixdate; its obsolete forms are sent no more),
 * from 1970 on, as Unix milliseconds. Returns 0 or -EINVAL. */
MUST_CHECK int time_parse_http(Str text, int64_t *ret);

/* What a Retry-After field asks for, from now_ms (Unix time) on: whole seconds or a date (RFC 9110,
 * 10.2.3). 0: nothing, neither, or a date that is past. */
int64_t time_retry_after_ms(Str value, int64_t now_ms);

#endif
