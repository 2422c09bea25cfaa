/* RFC 8785, the JSON Canonicalization Scheme. */
#include <math.h>
#include <stdio.h>

#include "base/diag.h"
#include "codec/json_internal.h"

#define SAFE_INT_MAX ((INT64_C(1) << 53) - 1)
#define DIGITS_MAX 17 /* that a double can need */

/* --- numbers ---------------------------------------------------------------------------------- */

Str json_real_text(double v, char out[JSON_NUMBER_TEXT_MAX])
{
    yyjson_val value = { 0 };
    char pool[512];
    yyjson_alc alc;
    size_t len = 0;
    assert(isfinite(v));
    yyjson_set_real(&value, v);
    if (!yyjson_alc_pool_init(&alc, pool, sizeof pool)) DIE("yyjson refuses a pool of 512 bytes");
    char *text = yyjson_val_write_opts(&value, YYJSON_WRITE_NOFLAG, &alc, &len, NULL);
    if (!text || len >= JSON_NUMBER_TEXT_MAX) DIE("yyjson cannot write a double");
    memcpy(out, text, len + 1);
    return (Str){ out, len };
}

/* 0.d1d2...dk times 10^point, d1 and dk not zero; zero has no digits. */
typedef struct {
    char digits[DIGITS_MAX + 1];
    int n;
    int point;
} Decimal;

/* text as yyjson writes it: digits, maybe a point and digits, maybe an exponent. */
static Decimal decimal_from(Str text)
{
    Decimal d = { .n = 0 };
    bool after_point = false;
    int zeros = 0; /* seen since the last other digit: they count only if another one follows */
    size_t i = 0;
    for (; i < text.len && text.ptr[i] != 'e' && text.ptr[i] != 'E'; i++) {
        char c = text.ptr[i];
        if (c == '.') {
            after_point = true;
        } else if (c == '0') {
            if (d.n > 0) zeros++;
            if (d.n > 0 && !after_point) d.point++;
            if (d.n == 0 && after_point) d.point--;
        } else {
            assert(d.n + zeros < DIGITS_MAX + 1);
            for (; zeros > 0; zeros--) d.digits[d.n++] = '0';
            d.digits[d.n++] = c;
            if (!after_point) d.point++;
        }
    }
    int64_t exponent = 0;
    Str rest = str_skip(text, i + 1);
    if (str_starts_with(rest, STR("+"))) rest = str_skip(rest, 1);
    if (rest.len > 0 && str_to_i64(rest, &exponent) < 0) DIE("yyjson wrote a bad exponent");
    d.point += (int)exponent;
    return d;
}

/* The four layouts of ECMAScript's Number::toString (ECMA-262 section 6.1.6.1.20). */
static int decimal_layout(const Decimal *d, char *out, size_t size)
{
    int n = d->n, point = d->point;
    if (n <= point && point <= 21)
        return snprintf(out, size, "%.*s%.*s", n, d->digits, point - n, "00000000000000000000");
    if (0 < point && point < n)
        return snprintf(out, size, "%.*s.%.*s", point, d->digits, n - point, d->digits + point);
    if (-6 < point && point <= 0)
        return snprintf(out, size, "0.%.*s%.*s", -point, "00000", n, d->digits);
    return snprintf(out, size, "%c%s%.*se%+d", d->digits[0], n > 1 ? "." : "", n - 1, d->digits + 1,
                    point - 1);
}

size_t json_number_format(double v, char out[JSON_NUMBER_TEXT_MAX])
{
    char text[JSON_NUMBER_TEXT_MAX];
    assert(isfinite(v));
    Str real = json_real_text(fabs(v), text);
    Decimal d = decimal_from(real);
    if (d.n == 0) {
        memcpy(out, "0", 2); /* also for -0 */
        return 1;
    }
    size_t sign = v < 0 ? 1 : 0;
    out[0] = '-';
    int n = decimal_layout(&d, out + sign, JSON_NUMBER_TEXT_MAX - sign);
    assert(n > 0 && (size_t)n < JSON_NUMBER_TEXT_MAX - sign);
    return sign + (size_t)n;
}

/* --- order ------------------------------------------------------------------------------------ */

/* By UTF-16 code unit (RFC 8785 section 3.2.3). UTF-8 bytes sort as code points, which differ in
 * one place: surrogates (from U+10000, first byte f0 on) come before U+E000 to U+FFFF (ee, ef). */
static int key_cmp_utf16(Str a, Str b)
{
    size_t n = MIN(a.len, b.len), i = 0;
    while (i < n && a.ptr[i] == b.ptr[i]) i++;
    if (i == n) return (a.len > b.len) - (a.len < b.len);
    unsigned char x = (unsigned char)a.ptr[i], y = (unsigned char)b.ptr[i];
    if (x >= 0xee && y >= 0xee && (x >= 0xf0) != (y >= 0xf0)) return x >= 0xf0 ? -1 : 1;
    return x < y ? -1 : 1;
}

/* --- tree: recursion is bounded by JSON_DEPTH_DEFAULT ----------------------------------------- */

typedef struct {
    Buf *out;
    Buf keys; /* a stack of sorted keys, those of every object around the current value */
    const Json *const *without;
    size_t without_n;
} Canon;

static int value_add(Canon *c, const Json *v);

static bool is_left_out(const Canon *c, const Json *v)
{
    for (size_t i = 0; i < c->without_n; i++)
        if (c->without[i] == v) return true;
    return false;
}

static int number_add(Canon *c, const Json *v)
{
    char text[JSON_NUMBER_TEXT_MAX];
    int64_t i;
    if (json_type(v) == JSON_REAL) {
        buf_add(c->out, str_make(text, json_number_format(json_f64_or(v, 0), text)));
        return 0;
    }
    if (json_i64(v, &i) < 0 || i > SAFE_INT_MAX || i < -SAFE_INT_MAX)
        return diag_set(-EINVAL, "an integer beyond 2^53 has no canonical form; use a string");
    buf_printf(c->out, "%" PRId64, i);
    return 0;
}

static int array_add(Canon *c, const Json *v)
{
    bool first = true;
    buf_add_char(c->out, '[');
    for (JsonIter it = json_iter(v); json_next(&it);) {
        if (is_left_out(c, it.value)) continue;
        if (!first) buf_add_char(c->out, ',');
        first = false;
        int r = value_add(c, it.value);
        if (r < 0) return r;
    }
    buf_add_char(c->out, ']');
    return 0;
}

/* Leaves the sorted keys of object on the stack. */
static int keys_push(Canon *c, const Json *object, size_t n)
{
    const Json **keys = (const Json **)(void *)buf_reserve(&c->keys, 2 * n * sizeof *keys);
    if (!keys) return -ENOMEM;
    const Json *key = json_first_key(object);
    for (size_t i = 0; i < n; i++, key = json_next_key(key)) keys[i] = key;
    json_keys_sort(keys, keys + n, n, key_cmp_utf16);
    buf_added(&c->keys, n * sizeof *keys);
    return 0;
}

static int object_add(Canon *c, const Json *v)
{
    size_t n = json_len(v), base = c->keys.len;
    bool first = true;
    int r = keys_push(c, v, n);
    if (r < 0) return r;
    buf_add_char(c->out, '{');
    for (size_t i = 0; i < n; i++) {
        const Json *key; /* read anew each time: the stack moves when it grows */
        memcpy(&key, c->keys.ptr + base + i * sizeof key, sizeof key);
        if (is_left_out(c, key + 1)) continue;
        if (!first) buf_add_char(c->out, ',');
        first = false;
        json_text_add(c->out, json_raw_str(key));
        buf_add_char(c->out, ':');
        r = value_add(c, key + 1);
        if (r < 0) return r;
    }
    buf_add_char(c->out, '}');
    c->keys.len = base;
    return 0;
}

static int value_add(Canon *c, const Json *v)
{
    assert(v);
    if (c->out->failed) return -ENOMEM;
    switch (json_type(v)) {
    case JSON_NULL: buf_add(c->out, STR("null")); return 0;
    case JSON_BOOL: buf_add(c->out, json_bool(v, false) ? STR("true") : STR("false")); return 0;
    case JSON_INT:
    case JSON_REAL: return number_add(c, v);
    case JSON_BIG:
        return diag_set(-EINVAL, "the number %.*s has no canonical form; use a string",
                        (int)MIN(json_number_text(v).len, 40), json_number_text(v).ptr);
    case JSON_STRING: json_text_add(c->out, json_raw_str(v)); return 0;
    case JSON_ARRAY: return array_add(c, v);
    case JSON_OBJECT: return object_add(c, v);
    case JSON_ABSENT: break;
    }
    return -EINVAL;
}

int json_canonical_without(const Json *v, const Json *const *without, size_t without_n, Buf *buf)
{
    Canon c = { .out = buf, .without = without, .without_n = without_n };
    assert(!buf->failed);
    buf_init(&c.keys, SIZE_MAX / 8);
    int r = value_add(&c, v);
    buf_deinit(&c.keys);
    if (r == 0 && buf->failed) r = -ENOMEM;
    if (r == -ENOMEM) diag_set(r, "the canonical form is over %zu bytes", buf->max);
    return r;
}

int json_canonical(const Json *v, Buf *buf)
{
    return json_canonical_without(v, NULL, 0, buf);
}
