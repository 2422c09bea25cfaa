#include "logic/cron.h"

#include "base/diag.h"
#include "codec/time_text.h"

#define MINUTE_MS INT64_C(60000)
#define HOUR_MS INT64_C(3600000)
#define DAY_MS INT64_C(86400000)
/* From one 29 February on a certain weekday to the next, across 2100. */
#define DAYS_AHEAD (41 * 366)

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    const char *what;
    int least, most;
    const char *names; /* of three letters each, the first for least; NULL: none */
} Field;

static const Field fields[] = {
    { "minute", 0, 59, NULL },
    { "hour", 0, 23, NULL },
    { "day of month", 1, 31, NULL },
    { "month", 1, 12, "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC" },
    { "day of week", 0, 7, "SUNMONTUEWEDTHUFRISAT" },
};

static int invalid(const Field *field, Str text)
{
    return diag_set(-EINVAL, "\"%.*s\" is no %s", (int)MIN(text.len, (size_t)40), text.ptr,
                    field->what);
}

static bool number_read(const Field *field, Str text, int *ret)
{
    int64_t n;
    for (int i = 0; field->names && text.len == 3 && field->names[3 * i]; i++)
        if (str_eq_nocase(text, str_make(field->names + 3 * (size_t)i, 3))) {
            *ret = field->least + i;
            return true;
        }
    if (text.len > 2 || str_to_i64(text, &n) < 0 || n < field->least || n > field->most)
        return false;
    *ret = (int)n;
    return true;
}

/* "*", "7", "1-5", with "/n" behind a star or a range. */
static int part_read(const Field *field, Str text, uint64_t *bits)
{
    Str range, from;
    bool stepped, ranged;
    int64_t step = 1;
    int least = field->least, most = field->most;
    Str after = str_split(text, '/', &range, &stepped);
    if (stepped && (str_to_i64(after, &step) < 0 || step < 1 || step > 60))
        return invalid(field, text);
    if (!str_eq(range, STR("*"))) {
        Str to = str_split(range, '-', &from, &ranged);
        if (!number_read(field, from, &least) || (stepped && !ranged)) return invalid(field, text);
        most = least;
        if (ranged && (!number_read(field, to, &most) || most < least)) return invalid(field, text);
    } else if (field->most == 7) {
        most = 6; /* Sunday once */
    }
    for (int i = least; i <= most; i += (int)step) *bits |= UINT64_C(1) << i;
    return 0;
}

static int field_read(const Field *field, Str text, uint64_t *bits)
{
    bool more = true;
    *bits = 0;
    while (more) {
        Str part;
        text = str_split(text, ',', &part, &more);
        int r = part_read(field, part, bits);
        if (r < 0) return r;
    }
    return 0;
}

static Str spelled_out(Str text)
{
    static const char *const names[][2] = {
        { "@hourly", "0 * * * *" },   { "@daily", "0 0 * * *" },   { "@midnight", "0 0 * * *" },
        { "@weekly", "0 0 * * 0" },   { "@monthly", "0 0 1 * *" }, { "@yearly", "0 0 1 1 *" },
        { "@annually", "0 0 1 1 *" },
    };
    for (size_t i = 0; i < ARRAY_N(names); i++)
        if (str_eq(text, str_of(names[i][0]))) return str_of(names[i][1]);
    return text;
}

static int not_five(void)
{
    return diag_set(-EINVAL, "a cron expression has five fields, or is @daily or the like");
}

/* Whether some month that was asked for has one of the days asked for. */
static bool can_fire(const Cron *c)
{
    static const int days_of[] = { 0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    if (!c->any_day && !c->any_weekday) return true; /* the day of the week will do */
    for (int month = 1; month <= 12; month++)
        if ((c->months >> month & 1) && (c->days & ((UINT64_C(2) << days_of[month]) - 2)))
            return true;
    return false;
}

int cron_parse(Str text, Cron *ret)
{
    uint64_t bits[ARRAY_N(fields)] = { 0 };
    bool stars[ARRAY_N(fields)] = { 0 };
    size_t n = 0;
    for (Str rest = spelled_out(str_trim(text)); rest.len > 0; n++) {
        Str word;
        rest = str_trim(str_split(rest, ' ', &word, NULL));
        if (n == ARRAY_N(fields)) return not_five();
        int r = field_read(&fields[n], str_trim(word), &bits[n]);
        if (r < 0) return r;
        stars[n] = word.ptr[0] == '*';
    }
    if (n != ARRAY_N(fields)) return not_five();
    if (bits[4] & (1 << 7)) bits[4] |= 1;
    *ret = (Cron){ .minutes = bits[0],
                   .hours = (uint32_t)bits[1],
                   .days = (uint32_t)bits[2],
                   .months = (uint32_t)bits[3],
                   .weekdays = (uint32_t)bits[4] & 0x7f,
                   .every_hour = stars[1],
                   .any_day = stars[2],
                   .any_weekday = stars[4] };
    return can_fire(ret) ? 0 : diag_set(-EINVAL, "no month asked for has such a day");
}

/* --- when ------------------------------------------------------------------------------------- */

static bool day_fits(const Cron *c, int64_t day)
{
    TimeDate date = time_date_from_days(day);
    int weekday = (int)(((day + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
    bool by_day = (c->days >> date.day & 1) != 0, by_week = (c->weekdays >> weekday & 1) != 0;
    if ((c->months >> date.month & 1) == 0) return false;
    return c->any_day || c->any_weekday ? by_day && by_week : by_day || by_week;
}

static int64_t offset_of(const CronZone *zone, int64_t unix_ms)
{
    return zone->offset_ms(zone->ctx, unix_ms);
}

/* The first time after after_ms that local_ms stands for, as its schedule takes it; INT64_MAX:
 * none. */
static int64_t instant(const Cron *c, int64_t local_ms, int64_t after_ms, const CronZone *zone)
{
    /* a day before and after there is only one change of clocks between */
    int64_t early = local_ms - offset_of(zone, local_ms - DAY_MS),
            late = local_ms - offset_of(zone, local_ms + DAY_MS);
    int64_t first = MIN(early, late), second = MAX(early, late);
    bool first_is = first + offset_of(zone, first) == local_ms,
         second_is = second + offset_of(zone, second) == local_ms;
    if (!first_is && !second_is) /* skipped: by what was the offset before */
        return !c->every_hour && early > after_ms ? early : INT64_MAX;
    if (!first_is) first = second;
    if (first > after_ms) return first;
    return c->every_hour && second_is && second > after_ms ? second : INT64_MAX;
}

static int64_t day_first(const Cron *c, int64_t day, int64_t after_ms, const CronZone *zone)
{
    int64_t best = INT64_MAX;
    for (uint32_t hours = c->hours; hours != 0; hours &= hours - 1) {
        int64_t hour_ms = day * DAY_MS + __builtin_ctz(hours) * HOUR_MS;
        for (uint64_t minutes = c->minutes; minutes != 0; minutes &= minutes - 1) {
            int64_t local_ms = hour_ms + __builtin_ctzll(minutes) * MINUTE_MS;
            best = MIN(best, instant(c, local_ms, after_ms, zone));
        }
    }
    return best;
}

int64_t cron_next(const Cron *cron, int64_t after_ms, const CronZone *zone)
{
    int64_t local_ms = after_ms + offset_of(zone, after_ms);
    int64_t today = local_ms / DAY_MS - (local_ms % DAY_MS < 0);
    for (int64_t day = today - 1; day < today + DAYS_AHEAD; day++) {
        if (!day_fits(cron, day)) continue;
        int64_t at_ms = day_first(cron, day, after_ms, zone);
        if (at_ms != INT64_MAX) return at_ms;
    }
    return INT64_MAX;
}
