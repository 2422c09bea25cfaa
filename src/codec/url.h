/* URLs, strictly: the absolute http and https URLs that Gantry calls, and the request paths it
 * routes.
 *
 * A host is read once, into one canonical text that serves policy, name look-up, TLS and the
 * Host field alike, so no two of them can disagree about where a call goes.
 */
#ifndef GANTRY_CODEC_URL_H
#define GANTRY_CODEC_URL_H

#include "base/arena.h"
#include "base/buf.h"
#include "codec/addr.h"

#define URL_BYTES_MAX 8192

typedef struct {
    bool https;
    Str host;          /* lower-case LDH name, dotted quad, or IPv6 in brackets; no trailing dot */
    bool host_is_addr; /* then addr is set */
    Addr addr;
    uint16_t port;     /* the scheme's default when not given */
    bool port_default; /* port is the scheme's default */
    Str path;          /* as written, starts with '/' ("/" when left out) */
    Str query;         /* without '?', may be empty */
} Url;

/* Parses into the arena. A fragment is checked and dropped: it is never sent. Returns 0,
 * -ENOMEM, or -EINVAL with diag saying what is wrong: another scheme, userinfo, an empty or
 * non-LDH host (so no percent-encoding, no '_'), a zone id, an IPv4 address in any form but four
 * decimal numbers, port 0 or beyond 65535, a byte that RFC 3986 does not allow (controls,
 * spaces, NUL, non-ASCII, '\', quotes), a '%' without two hex digits, more than URL_BYTES_MAX
 * bytes. */
MUST_CHECK int url_parse(Arena *arena, Str text, Url *ret);

/* The canonical text: scheme, host, port unless default, path, query. .ptr is NULL on
 * exhaustion. */
Str url_text(Arena *arena, const Url *url);

/* base with path (and its query) appended: "https://h/v1" or "https://h/v1/" +
 * "/chat/completions". The base's query, if any, stays behind the path. path begins with '/'.
 * Does not parse: base is to be one that url_parse accepts. .ptr is NULL on exhaustion. */
Str url_join(Arena *arena, Str base, Str path);

/* Percent-decodes into the arena; with plus, '+' becomes a space. Returns 0, -ENOMEM, -EINVAL for a
 * broken escape or one that makes a NUL. The result is not checked to be UTF-8. */
MUST_CHECK int url_decode(Arena *arena, Str text, bool plus, Str *ret);

/* Appends text with everything but unreserved characters (RFC 3986 section 2.3) percent-encoded:
 * for one path segment or one query value. False when buf is full. */
bool url_encode(Buf *buf, Str text);

/* First query parameter called name, decoded (plus too) into the arena; one without '=' is empty.
 * Returns 0, -ENOENT, -EINVAL (its value does not decode), -ENOMEM. */
MUST_CHECK int url_query_find(Arena *arena, Str query, Str name, Str *ret);

/* Next name and value of a query, undecoded; *rest starts as the query. False at the end. */
bool url_query_next(Str *rest, Str *ret_name, Str *ret_value);

/* Next segment of a path, undecoded; *rest starts as the path ("/a/b" gives "a", "b"; "/a/"
 * gives "a" and the empty segment; "/" gives the empty one). False at the end. */
bool url_path_next(Str *rest, Str *ret_segment);

/* Compares a path with a pattern such as "/api/tasks/{id}/cancel": literal segments byte by byte
 * (percent-encoding is not undone for them), each {name} one non-empty segment, a last {name...}
 * the whole rest (at least one byte). The values, undecoded, are stored in order. Returns how
 * many, or -ENOENT. A pattern has at most URL_PARAMS_MAX of them (asserted). */
#define URL_PARAMS_MAX 4
int url_path_match(const char *pattern, Str path, Str ret_params[URL_PARAMS_MAX]);

#endif
