/* Str: a borrowed run of bytes.
 *
 * Invariants: len bytes from ptr are readable; ptr may be NULL only when len is 0. A Str owns
 * nothing and is not NUL-terminated: whoever made it says how long the bytes live. Pass by value.
 */
#ifndef GANTRY_BASE_STR_H
#define GANTRY_BASE_STR_H

#include <string.h>

#include "base/common.h"

typedef struct {
    const char *ptr;
    size_t len;
} Str;

/* A literal as a Str; works in static initialisers. */
#define STR(literal) ((Str){ "" literal, sizeof(literal) - 1 })
#define STR_NULL ((Str){ NULL, 0 })

/* For printf: "%.*s", STR_ARG(s). */
#define STR_ARG(s) (int)(s).len, (s).ptr ? (s).ptr : ""

/* The bytes of a C string (NULL gives the empty Str); borrows. */
static inline Str str_of(const char *s)
{
    return (Str){ s, s ? strlen(s) : 0 };
}

static inline Str str_make(const char *ptr, size_t len)
{
    return (Str){ ptr, len };
}

static inline bool str_empty(Str s)
{
    return s.len == 0;
}

static inline bool str_eq(Str a, Str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* Byte order, shorter first on a tie: <0, 0, >0. */
int str_cmp(Str a, Str b);

/* Equal when ASCII letters are folded. */
bool str_eq_nocase(Str a, Str b);

bool str_starts_with(Str s, Str prefix);
bool str_ends_with(Str s, Str suffix);

/* Index of the first occurrence, or -1. An empty needle is found at 0. */
ptrdiff_t str_find(Str s, Str needle);
ptrdiff_t str_find_char(Str s, char c);

/* The part from from (clipped to the end), of at most len bytes. */
Str str_sub(Str s, size_t from, size_t len);
static inline Str str_skip(Str s, size_t n)
{
    return str_sub(s, n, SIZE_MAX);
}

/* Without leading and trailing space, tab, CR and LF. */
Str str_trim(Str s);

/* Splits at the first c: *ret_head is what stands before it, and the result what follows. Without
 * a c the head is all of s, the result empty and *ret_found (may be NULL) false. */
Str str_split(Str s, char c, Str *ret_head, bool *ret_found);

/* Whole of s as a decimal integer: optional '-', digits, nothing else. Returns 0, -EINVAL for
 * another form, -ERANGE beyond int64. *ret is written on success only. */
MUST_CHECK int str_to_i64(Str s, int64_t *ret);
MUST_CHECK int str_to_u64(Str s, uint64_t *ret);

/* Copies s with a final NUL into out, cut to fit size (at least 1). Returns false if it was cut. */
bool str_copy(char *out, size_t size, Str s);

/* True when every byte is printable ASCII or the text is valid UTF-8 without control characters
 * other than tab, CR and LF. */
bool str_is_utf8(Str s);

#endif
