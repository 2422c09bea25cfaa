#include "base/str.h"

int str_cmp(Str a, Str b)
{
    size_t n = MIN(a.len, b.len);
    int r = n ? memcmp(a.ptr, b.ptr, n) : 0;
    if (r != 0) return r;
    return (a.len > b.len) - (a.len < b.len);
}

static char fold(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool str_eq_nocase(Str a, Str b)
{
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++)
        if (fold(a.ptr[i]) != fold(b.ptr[i])) return false;
    return true;
}

bool str_starts_with(Str s, Str prefix)
{
    return s.len >= prefix.len && str_eq(str_sub(s, 0, prefix.len), prefix);
}

bool str_ends_with(Str s, Str suffix)
{
    return s.len >= suffix.len && str_eq(str_skip(s, s.len - suffix.len), suffix);
}

ptrdiff_t str_find(Str s, Str needle)
{
    if (needle.len == 0) return 0;
    if (s.len < needle.len) return -1;
    const char *hit = memmem(s.ptr, s.len, needle.ptr, needle.len);
    return hit ? hit - s.ptr : -1;
}

ptrdiff_t str_find_char(Str s, char c)
{
    const char *hit = s.len ? memchr(s.ptr, c, s.len) : NULL;
    return hit ? hit - s.ptr : -1;
}

Str str_sub(Str s, size_t from, size_t len)
{
    if (from >= s.len) return (Str){ s.ptr ? s.ptr + s.len : NULL, 0 };
    return (Str){ s.ptr + from, MIN(len, s.len - from) };
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

Str str_trim(Str s)
{
    while (s.len && is_space(s.ptr[0])) s = str_skip(s, 1);
    while (s.len && is_space(s.ptr[s.len - 1])) s.len--;
    return s;
}

Str str_split(Str s, char c, Str *ret_head, bool *ret_found)
{
    ptrdiff_t at = str_find_char(s, c);
    if (ret_found) *ret_found = at >= 0;
    if (at < 0) {
        *ret_head = s;
        return str_skip(s, s.len);
    }
    *ret_head = str_sub(s, 0, (size_t)at);
    return str_skip(s, (size_t)at + 1);
}

int str_to_u64(Str s, uint64_t *ret)
{
    uint64_t value = 0;
    if (s.len == 0) return -EINVAL;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') return -EINVAL;
        if (__builtin_mul_overflow(value, 10u, &value)) return -ERANGE;
        if (__builtin_add_overflow(value, (uint64_t)(s.ptr[i] - '0'), &value)) return -ERANGE;
    }
    *ret = value;
    return 0;
}

int str_to_i64(Str s, int64_t *ret)
{
    bool negative = s.len && s.ptr[0] == '-';
    uint64_t magnitude;
    int r = str_to_u64(negative ? str_skip(s, 1) : s, &magnitude);
    if (r < 0) return r;
    if (magnitude > (uint64_t)INT64_MAX + (negative ? 1 : 0)) return -ERANGE;
    *ret = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return 0;
}

bool str_copy(char *out, size_t size, Str s)
{
    assert(size > 0);
    size_t n = MIN(s.len, size - 1);
    if (n) memcpy(out, s.ptr, n);
    out[n] = '\0';
    return n == s.len;
}

/* Length of the UTF-8 sequence at p (end exclusive), 0 if it is not well formed (RFC 3629 §4:
 * no overlong forms, no surrogates, nothing above U+10FFFF). */
static size_t utf8_sequence(const unsigned char *p, const unsigned char *end)
{
    unsigned char lo = 0x80, hi = 0xbf;
    size_t n;
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf) n = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef) n = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4) n = 4;
    else return 0;
    if ((size_t)(end - p) < n) return 0;
    if (p[0] == 0xe0) lo = 0xa0;
    if (p[0] == 0xed) hi = 0x9f;
    if (p[0] == 0xf0) lo = 0x90;
    if (p[0] == 0xf4) hi = 0x8f;
    if (p[1] < lo || p[1] > hi) return 0;
    for (size_t i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return n;
}

bool str_is_utf8(Str s)
{
    if (s.len == 0) return true; /* ptr may be NULL, which nothing may be added to */
    const unsigned char *p = (const unsigned char *)s.ptr, *end = p + s.len;
    while (p < end) {
        if (*p < 0x20 && *p != '\t' && *p != '\n' && *p != '\r') return false;
        size_t n = utf8_sequence(p, end);
        if (n == 0) return false;
        p += n;
    }
    return true;
}
