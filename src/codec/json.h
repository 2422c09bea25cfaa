/* JSON, strictly: parse, read, write. A thin layer on yyjson, the only one that touches it.
 *
 * Parsing accepts RFC 8259 and refuses beyond that: duplicate keys (compared decoded), depth over
 * the limit, invalid UTF-8, a BOM, bytes after the value, too many members. Integers beyond 64 bits
 * and reals beyond a double keep their text (JSON_BIG), so no digit is ever lost. Values are
 * immutable, live in the arena given to json_parse, and may be read by one thread at a time.
 */
#ifndef GANTRY_CODEC_JSON_H
#define GANTRY_CODEC_JSON_H

#include "base/arena.h"
#include "base/buf.h"

/* A value: opaque. NULL stands for "absent" in every reader below. */
typedef struct yyjson_val Json;

typedef enum {
    JSON_ABSENT, /* the pointer was NULL */
    JSON_NULL,
    JSON_BOOL,
    JSON_INT,  /* fits int64 or uint64 */
    JSON_REAL, /* a finite double */
    JSON_BIG,  /* a number kept as text: json_number_text() */
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
} JsonType;

typedef struct {
    size_t depth_max;     /* containers within one another, at most and by default (0) 64 */
    size_t members_max;   /* members of one object, elements are bounded by the text; 0: default */
    bool numbers_as_text; /* every number is JSON_BIG (for prices: decimal text matters) */
} JsonLimits;

#define JSON_DEPTH_DEFAULT 64
#define JSON_MEMBERS_DEFAULT 10000

/* Where and why parsing stopped; also put into diag as "line L column C: message". */
typedef struct {
    size_t offset;       /* bytes from the start */
    size_t line, column; /* 1-based; column in bytes */
    const char *message; /* a literal */
} JsonError;

/* Parses text whole. limits and ret_error may be NULL. The document may take up to 13 times the
 * text: the arena's quota bounds it. Returns 0, -EINVAL (not JSON as defined above), -ENOMEM. */
MUST_CHECK int json_parse(Arena *arena, Str text, const JsonLimits *limits, const Json **ret,
                          JsonError *ret_error);

/* --- reading: never fail, absent and mistyped values give the default ------------------------- */

JsonType json_type(const Json *v);
const char *json_type_name(JsonType type); /* "a string", "an object", ... for messages */

/* Member of an object by key, or NULL (also when v is not an object). */
const Json *json_get(const Json *v, const char *key);
const Json *json_get_str(const Json *v, Str key);

/* The string's bytes (may contain NUL), or the empty Str. Lives as long as the document. */
Str json_str(const Json *v);
bool json_bool(const Json *v, bool otherwise);

/* An integer: JSON_INT in range, or a real that is integral within +-2^53 (1e2, 3.0). Returns 0,
 * -EINVAL (not an integer), -ERANGE. */
MUST_CHECK int json_i64(const Json *v, int64_t *ret);
int64_t json_i64_or(const Json *v, int64_t otherwise);
double json_f64_or(const Json *v, double otherwise);

/* The number's own text when it is JSON_BIG; else the empty Str. */
Str json_number_text(const Json *v);

/* Members of an object or elements of an array; 0 for anything else. */
size_t json_len(const Json *v);
const Json *json_at(const Json *array, size_t index); /* O(n): iterate instead */

/* The value at a JSON pointer (RFC 6901), "" being v itself; NULL when there is none, also for a
 * malformed pointer. Tokens of over 256 bytes are not found. */
const Json *json_pointer(const Json *v, Str pointer);

/* Iteration over an array (key stays empty) or an object, in document order:
 *     for (JsonIter it = json_iter(v); json_next(&it);) use(it.key, it.value); */
typedef struct {
    const Json *value;
    Str key;
    const Json *container; /* the rest is private */
    const Json *cursor;
    size_t left;
} JsonIter;
JsonIter json_iter(const Json *v);
bool json_next(JsonIter *it);

/* Same type and value; objects regardless of order; 1 and 1.0 differ. Iterative or depth-bounded.
 */
bool json_eq(const Json *a, const Json *b);

/* --- writing ---------------------------------------------------------------------------------- */

/* Writes JSON text into a Buf, commas and escapes included. After any failure (the Buf's maximum)
 * everything else is ignored and json_out_ok() is false. Unbalanced use is an assertion. Strings
 * with invalid UTF-8 are written with U+FFFD in place of each bad byte. */
typedef struct {
    Buf *buf;
    uint64_t is_object; /* a bit a level */
    uint64_t has_items;
    unsigned depth;
    bool after_key;
} JsonOut;

JsonOut json_out(Buf *buf);
bool json_out_ok(const JsonOut *out); /* the Buf took everything; complete when depth is 0 */
void json_out_object(JsonOut *out);   /* { */
void json_out_object_end(JsonOut *out);
void json_out_array(JsonOut *out);
void json_out_array_end(JsonOut *out);
void json_out_key(JsonOut *out, const char *key);
void json_out_key_str(JsonOut *out, Str key);
void json_out_str(JsonOut *out, Str s);
void json_out_base64(JsonOut *out, Str bytes); /* as a string */
void json_out_bool(JsonOut *out, bool b);
void json_out_null(JsonOut *out);
void json_out_i64(JsonOut *out, int64_t v);
void json_out_f64(JsonOut *out, double v);        /* shortest form; NaN and infinities as null */
void json_out_raw(JsonOut *out, Str json_text);   /* already valid JSON, copied as it is */
void json_out_value(JsonOut *out, const Json *v); /* compact; number text kept */

/* key and value in one call, for objects */
void json_out_kstr(JsonOut *out, const char *key, Str s);
void json_out_kcstr(JsonOut *out, const char *key, const char *s);
void json_out_ki64(JsonOut *out, const char *key, int64_t v);
void json_out_kbool(JsonOut *out, const char *key, bool b);
void json_out_kraw(JsonOut *out, const char *key, Str json_text);
/* null when s is empty */
void json_out_kstr_or_null(JsonOut *out, const char *key, Str s);
void json_out_kraw_or_null(JsonOut *out, const char *key, Str json_text);
void json_out_kval(JsonOut *out, const char *key, const Json *v);

/* --- canonical form (RFC 8785, JCS) ----------------------------------------------------------- */

/* Appends the canonical text of v: keys sorted by UTF-16 code unit, ECMAScript numbers, minimal
 * escapes. Returns 0, -EINVAL (JSON_BIG, or an integer beyond +-(2^53-1)), -ENOMEM (buf full). */
MUST_CHECK int json_canonical(const Json *v, Buf *buf);

/* The same as if the values of without (members with their keys, or elements; v itself not) were
 * not there. Each is compared with each value of v: for a few. */
MUST_CHECK int json_canonical_without(const Json *v, const Json *const *without, size_t without_n,
                                      Buf *buf);

/* A double as ECMAScript prints it (RFC 8785 section 3.2.2.3), NUL-terminated; v must be finite. */
#define JSON_NUMBER_TEXT_MAX 32
size_t json_number_format(double v, char out[JSON_NUMBER_TEXT_MAX]);

/* --- editing text without rewriting it -------------------------------------------------------- */

/* Span of the value of a top-level member in text that json_parse has accepted as an object: so a
 * request body can be changed in one place and stay byte-equal elsewhere. key is compared decoded.
 * Returns 0 or -ENOENT. ret_member covers key, colon and value; ret_value the value only. */
MUST_CHECK int json_member_span(Str text, Str key, Str *ret_member, Str *ret_value);

/* Appends to out the object text with top-level member key set to value_json: replaced in place
 * when it is there, else put first. text as above. Returns 0 or -ENOMEM (out full). */
MUST_CHECK int json_member_set(Str text, Str key, Str value_json, Buf *out);

/* Appends to out the object text without its top-level member key and one comma; as it is when
 * there is none. text as above. Returns 0 or -ENOMEM (out full). */
MUST_CHECK int json_member_drop(Str text, Str key, Buf *out);

#endif
