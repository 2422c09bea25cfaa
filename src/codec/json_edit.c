/* Changing one member of an object's text. The text is JSON that json_parse has accepted, so
 * scanning needs no validation; it still never reads past the end. */
#include "codec/json_internal.h"

typedef struct {
    Str text;
    size_t at;
} Scan;

static char peek(const Scan *s)
{
    return s->at < s->text.len ? s->text.ptr[s->at] : '\0';
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void spaces_skip(Scan *s)
{
    while (is_space(peek(s))) s->at++;
}

/* Whether an odd number of backslashes stands before the place: it is escaped. */
static bool is_escaped(const Scan *s, size_t at, size_t from)
{
    size_t n = 0;
    while (at - n > from && s->text.ptr[at - n - 1] == '\\') n++;
    return n % 2 == 1;
}

/* From the opening quote to behind the closing one. */
static void string_skip(Scan *s)
{
    assert(peek(s) == '"');
    size_t from = s->at + 1;
    ptrdiff_t n;
    do {
        s->at++;
        n = str_find_char(str_skip(s->text, s->at), '"');
        s->at += n < 0 ? s->text.len - s->at : (size_t)n;
    } while (n >= 0 && is_escaped(s, s->at, from));
    s->at = MIN(s->at + 1, s->text.len);
}

static void scalar_skip(Scan *s)
{
    while (s->at < s->text.len) {
        char c = peek(s);
        if (is_space(c) || c == ',' || c == ']' || c == '}') return;
        s->at++;
    }
}

static void value_skip(Scan *s)
{
    size_t depth = 0;
    do {
        char c = peek(s);
        if (c == '"') {
            string_skip(s);
            continue;
        }
        if (c == '{' || c == '[') depth++;
        else if (c == '}' || c == ']') depth--;
        else if (depth == 0) {
            scalar_skip(s);
            return;
        }
        s->at++;
    } while (depth > 0 && s->at < s->text.len);
}

static Str span(const Scan *s, size_t from)
{
    return str_sub(s->text, from, s->at - from);
}

/* --- keys, decoded ---------------------------------------------------------------------------- */

static unsigned hex4(Str s)
{
    unsigned value = 0;
    for (size_t i = 0; i < 4 && i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        value = value * 16 + (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static size_t utf8_encode(unsigned code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char first[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (size_t i = n; i-- > 1; code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(first[n] | code);
    return n;
}

/* Decodes the escape at the start of s (its backslash). Returns how long it was. */
static size_t escape_decode(Str s, char out[4], size_t *ret_n)
{
    static const char named[] = "b\bf\fn\nr\rt\t";
    char c = s.len > 1 ? s.ptr[1] : '\0';
    *ret_n = 1;
    if (c == 'u') {
        unsigned code = hex4(str_skip(s, 2));
        bool pair = code >= 0xd800 && code < 0xdc00;
        if (pair)
            code = 0x10000 + ((code - 0xd800) << 10) + ((hex4(str_skip(s, 8)) - 0xdc00) & 0x3ff);
        *ret_n = utf8_encode(code, out);
        return pair ? 12 : 6;
    }
    const char *hit = c ? strchr(named, c) : NULL;
    out[0] = hit ? hit[1] : c; /* the others, " \ /, stand for themselves */
    return 2;
}

/* Whether raw, the inside of a JSON string, decodes to key. */
static bool key_matches(Str raw, Str key)
{
    size_t i = 0, k = 0;
    while (i < raw.len) {
        char decoded[4] = { raw.ptr[i] };
        size_t n = 1, used = 1;
        if (raw.ptr[i] == '\\') used = escape_decode(str_skip(raw, i), decoded, &n);
        if (!str_eq(str_sub(key, k, n), str_make(decoded, n))) return false;
        i += used;
        k += n;
    }
    return k == key.len;
}

/* --- editing ---------------------------------------------------------------------------------- */

/* To the first character inside the object. */
static Scan object_enter(Str text)
{
    Scan s = { .text = text };
    spaces_skip(&s);
    assert(peek(&s) == '{');
    s.at++;
    return s;
}

int json_member_span(Str text, Str key, Str *ret_member, Str *ret_value)
{
    Scan s = object_enter(text);
    for (spaces_skip(&s); peek(&s) == '"'; spaces_skip(&s)) {
        size_t from = s.at;
        string_skip(&s);
        Str raw = str_sub(text, from + 1, s.at - from - 2);
        spaces_skip(&s);
        s.at++; /* the colon */
        spaces_skip(&s);
        size_t value_from = s.at;
        value_skip(&s);
        if (key_matches(raw, key)) {
            *ret_member = span(&s, from);
            *ret_value = span(&s, value_from);
            return 0;
        }
        spaces_skip(&s);
        if (peek(&s) == ',') s.at++;
    }
    return -ENOENT;
}

static void put_first(Str text, Str key, Str value_json, Buf *out)
{
    Scan s = object_enter(text);
    buf_add(out, str_sub(text, 0, s.at));
    json_text_add(out, key);
    buf_add_char(out, ':');
    buf_add(out, value_json);
    Str rest = str_skip(text, s.at);
    spaces_skip(&s);
    if (peek(&s) != '}') buf_add_char(out, ',');
    buf_add(out, rest);
}

int json_member_set(Str text, Str key, Str value_json, Buf *out)
{
    Str member, value;
    assert(!out->failed);
    if (json_member_span(text, key, &member, &value) == 0) {
        size_t before = (size_t)(value.ptr - text.ptr);
        buf_add(out, str_sub(text, 0, before));
        buf_add(out, value_json);
        buf_add(out, str_skip(text, before + value.len));
    } else {
        put_first(text, key, value_json, out);
    }
    return out->failed ? -ENOMEM : 0;
}

/* The comma behind it goes with it or, for the last member, the one before. */
int json_member_drop(Str text, Str key, Buf *out)
{
    Str member, value;
    assert(!out->failed);
    if (json_member_span(text, key, &member, &value) < 0) return buf_add(out, text) ? 0 : -ENOMEM;
    size_t from = (size_t)(member.ptr - text.ptr);
    Scan s = { .text = text, .at = from + member.len };
    spaces_skip(&s);
    if (peek(&s) == ',') {
        s.at++;
        spaces_skip(&s);
    } else {
        while (from > 0 && is_space(text.ptr[from - 1])) from--;
        if (from > 0 && text.ptr[from - 1] == ',') from--;
    }
    buf_add(out, str_sub(text, 0, from));
    buf_add(out, str_skip(text, s.at));
    return out->failed ? -ENOMEM : 0;
}
