/* What the json*.c files share; nobody else includes it. */
#ifndef GANTRY_CODEC_JSON_INTERNAL_H
#define GANTRY_CODEC_JSON_INTERNAL_H

#include <yyjson.h>

#include "codec/json.h"

/* yyjson's readers take no const; they change nothing. */
static inline yyjson_val *json_raw(const Json *v)
{
    return (yyjson_val *)v;
}

/* A key or string; v must be one. */
static inline Str json_raw_str(const Json *v)
{
    return (Str){ unsafe_yyjson_get_str(json_raw(v)), unsafe_yyjson_get_len(json_raw(v)) };
}

static inline Json *json_first_key(const Json *object)
{
    return unsafe_yyjson_get_first(json_raw(object));
}

/* The key after the member of key; past the end after the last. */
static inline Json *json_next_key(const Json *key)
{
    return unsafe_yyjson_get_next(json_raw(key + 1));
}

/* Sixteen bytes at once, by the vector extension that gcc and clang share: a comparison gives 0xff
 * or 0 in each. */
typedef uint8_t JsonBytes __attribute__((vector_size(16)));

static inline JsonBytes json_bytes(const char *p)
{
    JsonBytes v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* An order of keys: <0, 0, >0. */
typedef int (*JsonKeyCmp)(Str a, Str b);

/* Some total order, the quickest to compare. */
int json_key_cmp_fast(Str a, Str b);

/* Sorts n keys in at most n log n comparisons whatever they are. scratch has room for n more. */
void json_keys_sort(const Json **keys, const Json **scratch, size_t n, JsonKeyCmp cmp);

/* Appends, unless something did not fit before: what a full Buf holds is a prefix, without gaps. */
static inline void json_text_put(Buf *buf, Str text)
{
    if (!buf->failed) buf_add(buf, text);
}

/* Appends s as a JSON string: quotes, the escapes of RFC 8785 section 3.2.2.2, U+FFFD for bytes
 * that are not UTF-8. Gapless as above. */
void json_text_add(Buf *buf, Str s);

/* Well-formed UTF-8, control characters included. */
bool json_is_utf8(Str s);

/* yyjson's text of a finite double, "1.0", "-2.5e-7": the shortest that reads back the same. */
Str json_real_text(double v, char out[JSON_NUMBER_TEXT_MAX]);

#endif
