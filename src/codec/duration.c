#include "codec/duration.h"

#include <stdio.h>

#include "base/diag.h"

/* Largest first: the order parts must come in. */
static const struct {
    const char *name;
    int64_t ms;
} units[] = { { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 } };

static int malformed(Str text)
{
    return diag_set(-EINVAL, "\"%.*s\" is not a duration such as 500ms, 30s or 1h30m",
                    (int)MIN(text.len, 40), text.ptr ? text.ptr : "");
}

static size_t run_of_digits(Str s)
{
    size_t n = 0;
    while (n < s.len && s.ptr[n] >= '0' && s.ptr[n] <= '9') n++;
    return n;
}

/* The unit that the text up to the next digit names; the number of units when none does. */
static size_t unit_take(Str *rest)
{
    size_t n = 0, unit = 0;
    while (n < rest->len && (rest->ptr[n] < '0' || rest->ptr[n] > '9')) n++;
    Str name = str_sub(*rest, 0, n);
    while (unit < ARRAY_N(units) && !str_eq(name, str_of(units[unit].name))) unit++;
    *rest = str_skip(*rest, n);
    return unit;
}

int duration_parse(Str text, int64_t *ret_ms)
{
    int64_t sum = 0, value, part;
    size_t next = 0; /* the largest unit that may still come */
    Str rest = text;
    do {
        size_t n = run_of_digits(rest);
        int r = str_to_i64(str_sub(rest, 0, n), &value);
        if (r == -EINVAL) return malformed(text);
        rest = str_skip(rest, n);
        size_t unit = unit_take(&rest);
        if (unit < next || unit == ARRAY_N(units)) return malformed(text);
        next = unit + 1;
        if (r < 0 || __builtin_mul_overflow(value, units[unit].ms, &part) ||
            __builtin_add_overflow(sum, part, &sum))
            return diag_set(-ERANGE, "the duration \"%.*s\" is too long", (int)MIN(text.len, 40),
                            text.ptr);
    } while (rest.len > 0);
    *ret_ms = sum;
    return 0;
}

char *duration_format(int64_t ms, char out[DURATION_TEXT_MAX])
{
    size_t len = 0;
    assert(ms >= 0);
    for (size_t i = 0; i < ARRAY_N(units); i++) {
        int64_t value = ms / units[i].ms;
        ms %= units[i].ms;
        if (value == 0) continue;
        len += (size_t)snprintf(out + len, DURATION_TEXT_MAX - len, "%" PRId64 "%s", value,
                                units[i].name);
        assert(len < DURATION_TEXT_MAX);
    }
    if (len == 0) memcpy(out, "0s", 3);
    return out;
}
