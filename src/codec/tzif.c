#include "codec/tzif.h"

#include "base/diag.h"
#include "codec/time_text.h"

#define HEAD_BYTES 44
#define TIMES_MAX 20000
#define TYPES_MAX 256
#define HOUR_S 3600
#define DAY_S 86400
#define OFFSET_S_MAX (26 * HOUR_S) /* of RFC 9636: less than 26 hours */

static int broken(const char *what)
{
    return diag_set(-EINVAL, "no time zone file: %s", what);
}

/* --- the file --------------------------------------------------------------------------------- */

static int64_t int_at(Str s, size_t at, size_t bytes)
{
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++) v = v << 8 | (uint8_t)s.ptr[at + i];
    if (bytes == 4) return (int32_t)(uint32_t)v;
    return (int64_t)v;
}

/* A block of data, all of whose parts are there. */
typedef struct {
    size_t times_n, types_n, chars_n, leaps_n, standard_n, universal_n;
    size_t time_bytes; /* of a time: 4 or 8 */
    char version;
    Str data, rest;
} Block;

static int block_take(Str bytes, bool first, Block *ret)
{
    size_t n[6];
    if (bytes.len < HEAD_BYTES || memcmp(bytes.ptr, "TZif", 4) != 0) return broken("its head");
    for (size_t i = 0; i < ARRAY_N(n); i++) {
        int64_t v = int_at(bytes, 20 + 4 * i, 4);
        if (v < 0 || v > TIMES_MAX) return broken("too many times");
        n[i] = (size_t)v;
    }
    Block b = { .universal_n = n[0],
                .standard_n = n[1],
                .leaps_n = n[2],
                .times_n = n[3],
                .types_n = n[4],
                .chars_n = n[5],
                .version = bytes.ptr[4],
                .time_bytes = first ? 4 : 8 };
    size_t len = b.times_n * (b.time_bytes + 1) + b.types_n * 6 + b.chars_n +
                 b.leaps_n * (b.time_bytes + 4) + b.standard_n + b.universal_n;
    if (b.types_n == 0 || b.types_n > TYPES_MAX) return broken("its types");
    if (bytes.len - HEAD_BYTES < len) return broken("it is cut off");
    b.data = str_sub(bytes, HEAD_BYTES, len);
    b.rest = str_skip(bytes, HEAD_BYTES + len);
    *ret = b;
    return 0;
}

static int offset_of(const Block *b, size_t type, int32_t *ret)
{
    if (type >= b->types_n) return broken("a type that is not there");
    int64_t v = int_at(b->data, b->times_n * (b->time_bytes + 1) + type * 6, 4);
    if (v <= -OFFSET_S_MAX || v >= OFFSET_S_MAX) return broken("an offset");
    *ret = (int32_t)v;
    return 0;
}

static int times_read(Arena *arena, const Block *b, Tzif *ret)
{
    int64_t *at_s = ARENA_ARRAY(arena, int64_t, b->times_n + 1);
    int32_t *after_s = ARENA_ARRAY(arena, int32_t, b->times_n + 1);
    if (!at_s || !after_s) return -ENOMEM;
    int r = offset_of(b, 0, &ret->before_s);
    for (size_t i = 0; i < b->times_n && r == 0; i++) {
        at_s[i] = int_at(b->data, i * b->time_bytes, b->time_bytes);
        if (i > 0 && at_s[i] <= at_s[i - 1]) return broken("times out of order");
        r = offset_of(b, (uint8_t)b->data.ptr[b->times_n * b->time_bytes + i], &after_s[i]);
    }
    ret->at_s = at_s;
    ret->after_s = after_s;
    ret->n = b->times_n;
    return r;
}

/* --- the rule (POSIX, with the hours of RFC 9636) --------------------------------------------- */

static bool take(Str *s, char c)
{
    if (s->len == 0 || s->ptr[0] != c) return false;
    *s = str_skip(*s, 1);
    return true;
}

static int number_take(Str *s, int max)
{
    int v = -1;
    while (s->len > 0 && s->ptr[0] >= '0' && s->ptr[0] <= '9' && v <= max) {
        v = MAX(v, 0) * 10 + (s->ptr[0] - '0');
        *s = str_skip(*s, 1);
    }
    return v <= max ? v : -1;
}

/* [+-]h[h[h]][:mm[:ss]] */
static bool time_take(Str *s, int hours_max, int64_t *ret_s)
{
    bool minus = take(s, '-');
    if (!minus) (void)take(s, '+');
    int h = number_take(s, hours_max), m = take(s, ':') ? number_take(s, 59) : 0;
    int sec = take(s, ':') ? number_take(s, 59) : 0;
    if (h < 0 || m < 0 || sec < 0) return false;
    *ret_s = (int64_t)h * HOUR_S + m * 60 + sec;
    if (minus) *ret_s = -*ret_s;
    return true;
}

static bool is_letter(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool name_take(Str *s)
{
    size_t n = 0;
    if (take(s, '<')) {
        ptrdiff_t end = str_find_char(*s, '>');
        if (end < 0) return false;
        *s = str_skip(*s, (size_t)end + 1);
        return true;
    }
    while (n < s->len && is_letter(s->ptr[n])) n++;
    *s = str_skip(*s, n);
    return n >= 3;
}

static bool day_take(Str *s, TzifDay *ret)
{
    TzifDay d = { .kind = TZIF_DAY_ZERO, .time_s = 2 * HOUR_S };
    if (!take(s, ',')) return false;
    if (take(s, 'M')) {
        d.kind = TZIF_DAY_MONTH;
        d.month = number_take(s, 12);
        d.week = take(s, '.') ? number_take(s, 5) : -1;
        d.day = take(s, '.') ? number_take(s, 6) : -1;
        if (d.month < 1 || d.week < 1 || d.day < 0) return false;
    } else {
        if (take(s, 'J')) d.kind = TZIF_DAY_JULIAN;
        d.day = number_take(s, 365);
        if (d.day < (d.kind == TZIF_DAY_JULIAN)) return false;
    }
    if (take(s, '/') && !time_take(s, 167, &d.time_s)) return false;
    *ret = d;
    return true;
}

static bool rule_read(Str s, TzifRule *ret)
{
    TzifRule r = { .has_summer = false };
    if (!name_take(&s) || !time_take(&s, 25, &r.standard_s)) return false;
    r.standard_s = -r.standard_s; /* POSIX counts to the west */
    if (s.len == 0) {
        *ret = r;
        return true;
    }
    r.has_summer = true;
    r.summer_s = r.standard_s + HOUR_S;
    if (!name_take(&s)) return false;
    if (s.len > 0 && s.ptr[0] != ',') {
        if (!time_take(&s, 25, &r.summer_s)) return false;
        r.summer_s = -r.summer_s;
    }
    if (!day_take(&s, &r.begins) || !day_take(&s, &r.ends)) return false;
    *ret = r;
    return s.len == 0;
}

/* Between two line feeds, behind the second block; may be empty. */
static int footer_read(Str rest, Tzif *ret)
{
    if (!take(&rest, '\n')) return broken("its end");
    ptrdiff_t end = str_find_char(rest, '\n');
    if (end < 0) return broken("its end");
    ret->has_rule = end > 0;
    if (end > 0 && !rule_read(str_sub(rest, 0, (size_t)end), &ret->rule)) return broken("its rule");
    return 0;
}

int tzif_parse(Arena *arena, Str bytes, Tzif *ret)
{
    Block b;
    Tzif zone = { .n = 0 };
    int r = block_take(bytes, true, &b);
    if (r == 0 && b.version >= '2') {
        r = block_take(b.rest, false, &b);
        if (r == 0) r = footer_read(b.rest, &zone);
    }
    if (r == 0) r = times_read(arena, &b, &zone);
    if (r == 0) *ret = zone;
    return r;
}

/* --- offsets ---------------------------------------------------------------------------------- */

static int64_t day_number(int year, const TzifDay *d)
{
    int64_t first = time_days_from_date((TimeDate){ year, 1, 1 });
    if (d->kind == TZIF_DAY_ZERO) return first + d->day;
    if (d->kind == TZIF_DAY_JULIAN) {
        bool leap = time_days_from_date((TimeDate){ year, 3, 1 }) - first == 60;
        return first + d->day - 1 + (leap && d->day >= 60);
    }
    int64_t month = time_days_from_date((TimeDate){ year, d->month, 1 });
    int64_t next = d->month == 12 ? time_days_from_date((TimeDate){ year, 12, 31 }) + 1
                                  : time_days_from_date((TimeDate){ year, d->month + 1, 1 });
    int64_t weekday = ((month + 4) % 7 + 7) % 7; /* 1970-01-01 was a Thursday */
    int64_t day = month + (d->day - weekday + 7) % 7 + 7 * (int64_t)(d->week - 1);
    return day >= next ? day - 7 : day; /* week 5: the last */
}

static int64_t moment_s(int year, const TzifDay *d, int64_t offset_s)
{
    return day_number(year, d) * DAY_S + d->time_s - offset_s;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t rule_offset_s(const TzifRule *r, int64_t at_s)
{
    if (!r->has_summer) return r->standard_s;
    int64_t days = floor_div(at_s + r->standard_s, DAY_S);
    int year = time_date_from_days(days).year;
    int64_t begins_s = moment_s(year, &r->begins, r->standard_s);
    int64_t ends_s = moment_s(year, &r->ends, r->summer_s);
    bool summer = begins_s < ends_s ? at_s >= begins_s && at_s < ends_s
                                    : at_s >= begins_s || at_s < ends_s; /* across New Year */
    return summer ? r->summer_s : r->standard_s;
}

/* How many of the times have come. */
static size_t times_until(const Tzif *zone, int64_t at_s)
{
    size_t low = 0, high = zone->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (zone->at_s[mid] <= at_s) low = mid + 1;
        else high = mid;
    }
    return low;
}

int64_t tzif_offset_ms(const Tzif *zone, int64_t unix_ms)
{
    int64_t at_s = floor_div(
        MIN(MAX(unix_ms, TIME_MS_MIN + DAY_S * 2000), TIME_MS_MAX - DAY_S * 2000), 1000);
    size_t n = times_until(zone, at_s);
    if (n == zone->n && zone->has_rule) return rule_offset_s(&zone->rule, at_s) * 1000;
    return (int64_t)(n == 0 ? zone->before_s : zone->after_s[n - 1]) * 1000;
}
