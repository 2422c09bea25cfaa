#include "codec/url.h"

#include <stdio.h>

#include "base/diag.h"

#define HOST_BYTES_MAX 253 /* RFC 1035 section 2.3.4, without the trailing dot */
#define LABEL_BYTES_MAX 63

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* --- host ------------------------------------------------------------------------------------- */

static bool label_ok(Str label)
{
    if (label.len == 0 || label.len > LABEL_BYTES_MAX) return false;
    if (label.ptr[0] == '-' || label.ptr[label.len - 1] == '-') return false;
    for (size_t i = 0; i < label.len; i++)
        if (!is_alnum(label.ptr[i]) && label.ptr[i] != '-') return false;
    return true;
}

/* Some readers take a last label that is a number (decimal, octal or 0x...) for an IPv4 address. */
static bool label_is_number(Str label)
{
    size_t i = 0;
    if (label.len >= 2 && label.ptr[0] == '0' && lower(label.ptr[1]) == 'x') {
        for (i = 2; i < label.len && hex_digit(label.ptr[i]) >= 0;) i++;
        return i == label.len;
    }
    while (i < label.len && is_digit(label.ptr[i])) i++;
    return i == label.len;
}

static int host_name_check(Str host)
{
    Str label = STR_NULL;
    bool more = true;
    if (host.len == 0) return diag_set(-EINVAL, "the URL has no host");
    if (host.len > HOST_BYTES_MAX) return diag_set(-EINVAL, "the host name is too long");
    while (more) {
        host = str_split(host, '.', &label, &more);
        if (!label_ok(label))
            return diag_set(-EINVAL, "the host is not a name of letters, digits, '-' and '.'");
    }
    if (label_is_number(label))
        return diag_set(-EINVAL, "the host is not an IPv4 address of four decimal numbers");
    return 0;
}

/* "[...]": only the canonical text of what was read goes on. */
static int host_v6(Arena *arena, Str host, Url *ret)
{
    char text[ADDR_TEXT_MAX];
    Str inner = str_sub(host, 1, host.len - 2);
    bool v6 = str_find_char(inner, ':') >= 0;
    if (!v6 || addr_from_text(inner, &ret->addr) < 0)
        return diag_set(-EINVAL, "the host in brackets is not an IPv6 address");
    addr_text(ret->addr, text);
    ret->host_is_addr = true;
    ret->host = arena_printf(arena, "[%s]", text);
    return ret->host.ptr ? 0 : -ENOMEM;
}

static int host_read(Arena *arena, Str host, Url *ret)
{
    if (host.len > 2 && host.ptr[0] == '[') return host_v6(arena, host, ret);
    if (addr_from_text(host, &ret->addr) == 0) {
        ret->host_is_addr = true;
    } else {
        if (host.len > 1 && host.ptr[host.len - 1] == '.') host.len--;
        int r = host_name_check(host);
        if (r < 0) return r;
    }
    char *copy = arena_cstr(arena, host);
    if (!copy) return -ENOMEM;
    for (size_t i = 0; i < host.len; i++) copy[i] = lower(copy[i]);
    ret->host = str_make(copy, host.len);
    return 0;
}

/* --- the other parts -------------------------------------------------------------------------- */

static int scheme_read(Str *rest, Url *ret)
{
    static const Str schemes[] = { { "http://", 7 }, { "https://", 8 } };
    for (size_t i = 0; i < ARRAY_N(schemes); i++) {
        if (!str_eq_nocase(str_sub(*rest, 0, schemes[i].len), schemes[i])) continue;
        *rest = str_skip(*rest, schemes[i].len);
        ret->https = i == 1;
        return 0;
    }
    return diag_set(-EINVAL, "the URL does not begin with http:// or https://");
}

static int port_read(Str text, Url *ret)
{
    uint64_t port;
    bool ok = text.len > 0 && text.len <= 5 && text.ptr[0] != '0' && str_to_u64(text, &port) == 0 &&
              port <= UINT16_MAX;
    if (!ok) return diag_set(-EINVAL, "the port is not a number from 1 to 65535");
    ret->port = (uint16_t)port;
    return 0;
}

/* host[:port]. The colons of an IPv6 address stand in brackets. */
static int authority_read(Arena *arena, Str authority, Url *ret)
{
    uint16_t otherwise = ret->https ? 443 : 80;
    size_t host_n = authority.len;
    if (str_find_char(authority, '@') >= 0)
        return diag_set(-EINVAL, "the URL has a user name or password in it");
    ptrdiff_t bracket = str_find_char(authority, ']');
    size_t from = bracket >= 0 ? (size_t)bracket + 1 : 0;
    ptrdiff_t colon = str_find_char(str_skip(authority, from), ':');
    if (colon >= 0) host_n = from + (size_t)colon;
    ret->port = otherwise;
    if (host_n < authority.len) {
        int r = port_read(str_skip(authority, host_n + 1), ret);
        if (r < 0) return r;
    }
    ret->port_default = ret->port == otherwise;
    Str host = str_sub(authority, 0, host_n);
    if (bracket >= 0 && (size_t)bracket + 1 != host.len)
        return diag_set(-EINVAL, "text follows the host's bracket");
    return host_read(arena, host, ret);
}

/* RFC 3986 appendix A: pchar, '/' and '?'; brackets and '|' too, which clients write in queries. */
static const bool path_bytes[256] = {
    ['0' ... '9'] = true, ['a' ... 'z'] = true, ['A' ... 'Z'] = true, ['-'] = true, ['.'] = true,
    ['_'] = true,         ['~'] = true,         ['!'] = true,         ['$'] = true, ['&'] = true,
    ['\''] = true,        ['('] = true,         [')'] = true,         ['*'] = true, ['+'] = true,
    [','] = true,         [';'] = true,         ['='] = true,         [':'] = true, ['@'] = true,
    ['/'] = true,         ['?'] = true,         ['%'] = true,         ['['] = true, [']'] = true,
    ['|'] = true
};

static int path_check(Str text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (!path_bytes[(unsigned char)text.ptr[i]])
            return diag_set(-EINVAL, "the URL holds a byte that must be percent-encoded");
        if (text.ptr[i] != '%') continue;
        if (i + 2 >= text.len || hex_digit(text.ptr[i + 1]) < 0 || hex_digit(text.ptr[i + 2]) < 0)
            return diag_set(-EINVAL, "'%%' in the URL is not followed by two hex digits");
    }
    return 0;
}

/* Path and query, and a fragment that is checked but not kept. */
static int path_read(Arena *arena, Str text, Url *ret)
{
    Str kept;
    Str fragment = str_split(text, '#', &kept, NULL);
    if (path_check(kept) < 0 || path_check(fragment) < 0) return -EINVAL;
    bool slash = kept.len > 0 && kept.ptr[0] == '/';
    Str copy = arena_join(arena, (Str[]){ slash ? STR("") : STR("/"), kept }, 2);
    if (!copy.ptr) return -ENOMEM;
    ret->query = str_split(copy, '?', &ret->path, NULL);
    return 0;
}

int url_parse(Arena *arena, Str text, Url *ret)
{
    Url url = { 0 };
    size_t n = 0;
    if (text.len > URL_BYTES_MAX)
        return diag_set(-EINVAL, "the URL is longer than %d bytes", URL_BYTES_MAX);
    int r = scheme_read(&text, &url);
    if (r < 0) return r;
    while (n < text.len && !strchr("/?#", text.ptr[n])) n++; /* also stops at a NUL */
    r = authority_read(arena, str_sub(text, 0, n), &url);
    if (r == 0) r = path_read(arena, str_skip(text, n), &url);
    if (r < 0) return r;
    assert(url.host.len > 0 && url.path.len > 0 && url.port > 0);
    *ret = url;
    return 0;
}

Str url_text(Arena *arena, const Url *url)
{
    char port[8] = "";
    if (!url->port_default) snprintf(port, sizeof port, ":%u", url->port);
    return arena_printf(arena, "%s%.*s%s%.*s%s%.*s", url->https ? "https://" : "http://",
                        STR_ARG(url->host), port, STR_ARG(url->path), url->query.len ? "?" : "",
                        STR_ARG(url->query));
}

Str url_join(Arena *arena, Str base, Str path)
{
    Str base_path, path_path;
    assert(path.len > 0 && path.ptr[0] == '/');
    str_split(base, '#', &base, NULL);
    Str base_query = str_split(base, '?', &base_path, NULL);
    Str path_query = str_split(path, '?', &path_path, NULL);
    while (str_ends_with(base_path, STR("/"))) base_path.len--;
    bool any = base_query.len || path_query.len, both = base_query.len && path_query.len;
    Str parts[] = {
        base_path, path_path, any ? STR("?") : STR(""), base_query, both ? STR("&") : STR(""),
        path_query
    };
    return arena_join(arena, parts, ARRAY_N(parts));
}

/* --- percent-encoding ------------------------------------------------------------------------- */

/* One byte off the front of text (not empty). False for a broken escape. */
static bool decode_byte(Str *text, bool plus, char *ret)
{
    char c = text->ptr[0];
    size_t n = 1;
    if (c == '%') {
        int high = text->len > 2 ? hex_digit(text->ptr[1]) : -1;
        int low = text->len > 2 ? hex_digit(text->ptr[2]) : -1;
        if (high < 0 || low < 0) return false;
        c = (char)(high << 4 | low);
        n = 3;
    } else if (c == '+' && plus) {
        c = ' ';
    }
    *text = str_skip(*text, n);
    *ret = c;
    return true;
}

int url_decode(Arena *arena, Str text, bool plus, Str *ret)
{
    size_t len = 0;
    char *out = arena_alloc(arena, text.len + 1);
    if (!out) return -ENOMEM;
    while (text.len > 0) {
        char c;
        if (!decode_byte(&text, plus, &c)) return diag_set(-EINVAL, "broken percent-encoding");
        if (c == '\0') return diag_set(-EINVAL, "a NUL byte is not allowed here");
        out[len++] = c;
    }
    out[len] = '\0';
    *ret = str_make(out, len);
    return 0;
}

bool url_encode(Buf *buf, Str text)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        bool plain = is_alnum((char)c) || c == '-' || c == '.' || c == '_' || c == '~';
        char escape[3] = { '%', hex[c >> 4], hex[c & 15] };
        if (plain) buf_add_char(buf, (char)c);
        else buf_add(buf, str_make(escape, 3));
    }
    return !buf->failed;
}

/* --- queries ---------------------------------------------------------------------------------- */

bool url_query_next(Str *rest, Str *ret_name, Str *ret_value)
{
    Str pair = STR_NULL;
    while (rest->len > 0 && pair.len == 0) *rest = str_split(*rest, '&', &pair, NULL);
    if (pair.len == 0) return false;
    *ret_value = str_split(pair, '=', ret_name, NULL);
    return true;
}

/* Whether the encoded text stands for name. */
static bool decodes_to(Str text, Str name)
{
    size_t n = 0;
    while (text.len > 0) {
        char c;
        if (!decode_byte(&text, true, &c)) return false;
        if (n == name.len || name.ptr[n++] != c) return false;
    }
    return n == name.len;
}

int url_query_find(Arena *arena, Str query, Str name, Str *ret)
{
    Str found, value;
    while (url_query_next(&query, &found, &value))
        if (decodes_to(found, name)) return url_decode(arena, value, true, ret);
    return -ENOENT;
}

/* --- paths ------------------------------------------------------------------------------------ */

bool url_path_next(Str *rest, Str *ret_segment)
{
    if (rest->len == 0 || rest->ptr[0] != '/') return false;
    size_t n = 1;
    while (n < rest->len && rest->ptr[n] != '/') n++;
    *ret_segment = str_sub(*rest, 1, n - 1);
    *rest = str_skip(*rest, n);
    return true;
}

static bool is_param(Str segment)
{
    return segment.len > 2 && segment.ptr[0] == '{' && segment.ptr[segment.len - 1] == '}';
}

/* Nearly all patterns of a table are refused by this. */
static bool begins_like(const char *pattern, Str path)
{
    for (size_t i = 0; pattern[i] && pattern[i] != '{'; i++)
        if (i >= path.len || path.ptr[i] != pattern[i]) return false;
    return true;
}

/* And most of the rest by this: what stands behind the last parameter. */
static bool ends_like(Str pattern, Str path)
{
    for (size_t i = 1; i <= pattern.len && pattern.ptr[pattern.len - i] != '}'; i++)
        if (i > path.len || path.ptr[path.len - i] != pattern.ptr[pattern.len - i]) return false;
    return true;
}

int url_path_match(const char *pattern, Str path, Str ret_params[URL_PARAMS_MAX])
{
    Str want, have, pattern_rest = str_of(pattern);
    int n = 0;
    if (!begins_like(pattern, path) || !ends_like(pattern_rest, path)) return -ENOENT;
    while (url_path_next(&pattern_rest, &want)) {
        Str whole = path;
        if (!url_path_next(&path, &have)) return -ENOENT;
        if (!is_param(want)) {
            if (!str_eq(want, have)) return -ENOENT;
            continue;
        }
        assert(n < URL_PARAMS_MAX);
        if (str_ends_with(want, STR("...}"))) {
            ret_params[n] = str_skip(whole, 1);
            return ret_params[n].len > 0 ? n + 1 : -ENOENT;
        }
        if (have.len == 0) return -ENOENT;
        ret_params[n++] = have;
    }
    return path.len == 0 ? n : -ENOENT;
}
