#include <math.h>

#include "codec/base64.h"
#include "codec/json_internal.h"

#define LEVELS_MAX 64 /* bits of is_object and has_items */

/* --- strings ---------------------------------------------------------------------------------- */

/* Length of the well-formed UTF-8 sequence of several bytes at p, or 0 (RFC 3629 section 4). */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
    static const struct {
        unsigned char first, last, low, high; /* range of byte one and of byte two */
        unsigned char n;
    } forms[] = {
        { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
        { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
        { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
    };
    size_t f = 0;
    while (f < ARRAY_N(forms) && !(p[0] >= forms[f].first && p[0] <= forms[f].last)) f++;
    if (f == ARRAY_N(forms) || left < forms[f].n) return 0;
    if (p[1] < forms[f].low || p[1] > forms[f].high) return 0;
    for (size_t i = 2; i < forms[f].n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return forms[f].n;
}

bool json_is_utf8(Str s)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    for (size_t i = 0, n; i < s.len; i += n) {
        n = p[i] < 0x80 ? 1 : utf8_sequence(p + i, s.len - i);
        if (n == 0) return false;
    }
    return true;
}

static void escape_add(Buf *buf, unsigned char c)
{
    static const char short_form[256] = { ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f',
                                          ['\r'] = 'r', ['"'] = '"',  ['\\'] = '\\' };
    if (short_form[c]) json_text_put(buf, str_make((char[]){ '\\', short_form[c] }, 2));
    else if (!buf->failed) buf_printf(buf, "\\u%04x", c);
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

static bool are_plain(const char *p)
{
    JsonBytes v = json_bytes(p);
    JsonBytes other = (JsonBytes)((v < 0x20) | (v >= 0x80) | (v == '"') | (v == '\\'));
    uint64_t halves[2];
    memcpy(halves, &other, sizeof halves);
    return (halves[0] | halves[1]) == 0;
}

/* Length of the run of plain ASCII that s begins with. */
static size_t plain_run(Str s)
{
    size_t n = 0;
    while (s.len - n >= 16 && are_plain(s.ptr + n)) n += 16;
    if (n > 0 && s.len - n < 16 && are_plain(s.ptr + s.len - 16)) return s.len;
    while (n < s.len && is_plain((unsigned char)s.ptr[n])) n++;
    return n;
}

/* Room for n bytes at once. NULL: there is none; a part may fit all the same. */
static char *room_for(Buf *buf, size_t n)
{
    return buf->failed || n > buf->max - buf->len ? NULL : buf_reserve(buf, n);
}

/* The string in its quotes between one byte and another, or none; at once. False: that it cannot
 * be, and nothing was added. */
static bool plain_add(Buf *buf, Str s, Str before, Str after)
{
    size_t n = before.len + 1 + s.len + 1 + after.len;
    char *p = plain_run(s) == s.len ? room_for(buf, n) : NULL;
    if (!p) return false;
    if (before.len) *p++ = before.ptr[0];
    *p++ = '"';
    if (s.len) memcpy(p, s.ptr, s.len);
    p += s.len;
    *p++ = '"';
    if (after.len) *p = after.ptr[0];
    buf_added(buf, n);
    return true;
}

static void escaped_add(Buf *buf, Str s)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    size_t i = 0, from = 0; /* from: start of what is copied as it stands */
    json_text_put(buf, STR("\""));
    while (i < s.len) {
        size_t n = plain_run(str_skip(s, i));
        if (n == 0 && p[i] >= 0x80) n = utf8_sequence(p + i, s.len - i);
        if (n > 0) {
            i += n;
            continue;
        }
        json_text_put(buf, str_sub(s, from, i - from));
        if (p[i] < 0x80) escape_add(buf, p[i]);
        else json_text_put(buf, STR("\xef\xbf\xbd"));
        from = ++i;
    }
    json_text_put(buf, str_sub(s, from, i - from));
    json_text_put(buf, STR("\""));
}

void json_text_add(Buf *buf, Str s)
{
    if (!plain_add(buf, s, STR_NULL, STR_NULL)) escaped_add(buf, s);
}

/* --- structure -------------------------------------------------------------------------------- */

JsonOut json_out(Buf *buf)
{
    return (JsonOut){ .buf = buf };
}

bool json_out_ok(const JsonOut *out)
{
    return !out->buf->failed;
}

static uint64_t level_bit(const JsonOut *out)
{
    assert(out->depth > 0);
    return UINT64_C(1) << (out->depth - 1);
}

static void put(JsonOut *out, Str text)
{
    json_text_put(out->buf, text);
}

/* Whether a comma is due before the item that begins. */
static bool item_follows(JsonOut *out)
{
    if (out->depth == 0) return false;
    bool follows = (out->has_items & level_bit(out)) != 0;
    out->has_items |= level_bit(out);
    return follows;
}

static void item_begin(JsonOut *out)
{
    if (item_follows(out)) put(out, STR(","));
}

static void value_begin(JsonOut *out)
{
    assert(out->after_key || out->depth == 0 || !(out->is_object & level_bit(out)));
    if (!out->after_key) item_begin(out);
    out->after_key = false;
}

static void container_open(JsonOut *out, bool is_object)
{
    value_begin(out);
    assert(out->depth < LEVELS_MAX);
    out->depth++;
    out->has_items &= ~level_bit(out);
    out->is_object &= ~level_bit(out);
    if (is_object) out->is_object |= level_bit(out);
    put(out, is_object ? STR("{") : STR("["));
}

static void container_close(JsonOut *out, bool is_object)
{
    assert(!out->after_key);
    assert(!!(out->is_object & level_bit(out)) == is_object);
    out->depth--;
    put(out, is_object ? STR("}") : STR("]"));
}

void json_out_object(JsonOut *out)
{
    container_open(out, true);
}

void json_out_object_end(JsonOut *out)
{
    container_close(out, true);
}

void json_out_array(JsonOut *out)
{
    container_open(out, false);
}

void json_out_array_end(JsonOut *out)
{
    container_close(out, false);
}

void json_out_key_str(JsonOut *out, Str key)
{
    assert(!out->after_key && (out->is_object & level_bit(out)));
    Str comma = item_follows(out) ? STR(",") : STR_NULL;
    out->after_key = true;
    if (plain_add(out->buf, key, comma, STR(":"))) return;
    put(out, comma);
    json_text_add(out->buf, key);
    put(out, STR(":"));
}

void json_out_key(JsonOut *out, const char *key)
{
    json_out_key_str(out, str_of(key));
}

/* --- values ----------------------------------------------------------------------------------- */

void json_out_raw(JsonOut *out, Str json_text)
{
    value_begin(out);
    put(out, json_text);
}

void json_out_str(JsonOut *out, Str s)
{
    value_begin(out);
    json_text_add(out->buf, s);
}

void json_out_base64(JsonOut *out, Str bytes)
{
    value_begin(out);
    json_text_put(out->buf, STR("\""));
    if (!out->buf->failed) (void)!base64_add(out->buf, bytes);
    json_text_put(out->buf, STR("\""));
}

void json_out_bool(JsonOut *out, bool b)
{
    json_out_raw(out, b ? STR("true") : STR("false"));
}

void json_out_null(JsonOut *out)
{
    json_out_raw(out, STR("null"));
}

#define INT_TEXT_MAX 20 /* "-9223372036854775808", "18446744073709551615" */

/* The digits and the sign, at the end of out. */
static Str int_text(uint64_t v, bool negative, char out[INT_TEXT_MAX])
{
    size_t at = INT_TEXT_MAX;
    do out[--at] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    if (negative) out[--at] = '-';
    return str_make(out + at, INT_TEXT_MAX - at);
}

static Str i64_text(int64_t v, char out[INT_TEXT_MAX])
{
    return int_text(v < 0 ? -(uint64_t)v : (uint64_t)v, v < 0, out);
}

void json_out_i64(JsonOut *out, int64_t v)
{
    char text[INT_TEXT_MAX];
    json_out_raw(out, i64_text(v, text));
}

void json_out_f64(JsonOut *out, double v)
{
    char text[JSON_NUMBER_TEXT_MAX];
    if (!isfinite(v)) json_out_null(out);
    else json_out_raw(out, str_make(text, json_number_format(v, text)));
}

static void int_out(JsonOut *out, const Json *v)
{
    char text[INT_TEXT_MAX];
    if (yyjson_is_uint(json_raw(v)))
        put(out, int_text(unsafe_yyjson_get_uint(json_raw(v)), false, text));
    else put(out, i64_text(unsafe_yyjson_get_sint(json_raw(v)), text));
}

static void scalar_out(JsonOut *out, const Json *v)
{
    char text[JSON_NUMBER_TEXT_MAX];
    switch (json_type(v)) {
    case JSON_BOOL: put(out, json_bool(v, false) ? STR("true") : STR("false")); break;
    case JSON_INT: int_out(out, v); break;
    case JSON_REAL: put(out, json_real_text(json_f64_or(v, 0), text)); break;
    case JSON_BIG: put(out, json_number_text(v)); break;
    case JSON_STRING: json_text_add(out->buf, json_raw_str(v)); break;
    default: put(out, STR("null")); break; /* also for a value that is absent */
    }
}

/* Recursion is bounded by JSON_DEPTH_DEFAULT. Levels are not counted in out, which has bits for one
 * document's depth only and may already be inside containers of its own. */
static void tree_out(JsonOut *out, const Json *v)
{
    bool is_object = yyjson_is_obj(json_raw(v));
    if (!yyjson_is_ctn(json_raw(v))) {
        scalar_out(out, v);
        return;
    }
    put(out, is_object ? STR("{") : STR("["));
    bool first = true;
    for (JsonIter it = json_iter(v); json_next(&it) && !out->buf->failed; first = false) {
        if (!first) put(out, STR(","));
        if (is_object) {
            json_text_add(out->buf, it.key);
            put(out, STR(":"));
        }
        tree_out(out, it.value);
    }
    put(out, is_object ? STR("}") : STR("]"));
}

void json_out_value(JsonOut *out, const Json *v)
{
    value_begin(out);
    tree_out(out, v);
}

void json_out_kstr(JsonOut *out, const char *key, Str s)
{
    json_out_key(out, key);
    json_out_str(out, s);
}

void json_out_kcstr(JsonOut *out, const char *key, const char *s)
{
    json_out_kstr(out, key, str_of(s));
}

void json_out_ki64(JsonOut *out, const char *key, int64_t v)
{
    json_out_key(out, key);
    json_out_i64(out, v);
}

void json_out_kbool(JsonOut *out, const char *key, bool b)
{
    json_out_key(out, key);
    json_out_bool(out, b);
}

void json_out_kraw(JsonOut *out, const char *key, Str json_text)
{
    json_out_key(out, key);
    json_out_raw(out, json_text);
}

void json_out_kstr_or_null(JsonOut *out, const char *key, Str s)
{
    json_out_key(out, key);
    if (s.len) json_out_str(out, s);
    else json_out_null(out);
}

void json_out_kraw_or_null(JsonOut *out, const char *key, Str json_text)
{
    json_out_key(out, key);
    if (json_text.len) json_out_raw(out, json_text);
    else json_out_null(out);
}

void json_out_kval(JsonOut *out, const char *key, const Json *v)
{
    json_out_key(out, key);
    json_out_value(out, v);
}
