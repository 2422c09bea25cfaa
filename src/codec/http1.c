#include "codec/http1.h"

#include <llhttp.h>
#include <stdio.h>

#define HEAD_BYTES_DEFAULT (64 * 1024)
#define FIELDS_DEFAULT 100
#define TARGET_BYTES_DEFAULT (8 * 1024)
#define CHUNK_EXT_BYTES_DEFAULT (4 * 1024)

#define LINE_EXTRA_BYTES 32 /* of a request line beside its target: method, version, blanks */
#define TEXT_BYTES_MIN 512
#define FIELDS_MIN 16
#define CHUNK_DIGITS_MAX 16

_Static_assert(sizeof(llhttp_t) <= HTTP1_LLHTTP_BYTES, "raise HTTP1_LLHTTP_BYTES");

enum {
    STATE_LINE,       /* the request line, or an empty line before it */
    STATE_FIELDS,     /* up to the empty line behind them */
    STATE_LENGTH,     /* a body with Content-Length */
    STATE_CHUNK_LINE, /* a chunk's size and extensions */
    STATE_CHUNK_DATA,
    STATE_TRAILERS, /* behind the last chunk */
    STATE_ENDING,   /* the end is known and was not yet reported */
    STATE_DONE,
    STATE_FAILED,
};

enum { STOP_NONE, STOP_HEAD, STOP_CHUNK_HEADER, STOP_BODY, STOP_CHUNK_END, STOP_MESSAGE };

enum { SEEN_HOST = 1, SEEN_TRANSFER_ENCODING = 2, SEEN_EXPECT = 4 };

static llhttp_t *llhttp_of(Http1Parser *p)
{
    return (llhttp_t *)(void *)p->llhttp;
}

/* The only way into STATE_FAILED. The first reason stays. */
static int refuse(Http1Parser *p, int status, const char *reason)
{
    if (p->state == STATE_FAILED) return HPE_USER;
    p->state = STATE_FAILED;
    p->status = status;
    p->reason = reason;
    return HPE_USER;
}

static Http1Event refused(Http1Parser *p, int status, const char *reason)
{
    refuse(p, status, reason);
    return HTTP1_ERROR;
}

/* --- storage of names and values -------------------------------------------------------------- */

/* Appends to the item in progress. When the block is full the item moves to a new one of twice its
 * size; finished items stay where they are, so their Strs stay valid. */
static int item_add(Http1Parser *p, const char *at, size_t n)
{
    size_t have = p->text_len - p->item_at;
    if (n > p->text_cap - p->text_len) {
        size_t cap = MAX(2 * (have + n), TEXT_BYTES_MIN);
        char *text = arena_alloc(p->arena, cap);
        if (!text) return refuse(p, 500, "out of memory");
        if (have > 0) memcpy(text, p->text + p->item_at, have);
        p->text = text;
        p->text_cap = cap;
        p->item_at = 0;
        p->text_len = have;
    }
    memcpy(p->text + p->text_len, at, n);
    p->text_len += n;
    return 0;
}

/* The item in progress is complete; the next one starts behind it. */
static Str item_take(Http1Parser *p)
{
    Str item = { p->text ? p->text + p->item_at : "", p->text_len - p->item_at };
    p->item_at = p->text_len;
    return item;
}

static int field_add(Http1Parser *p, Str name, Str value)
{
    Http1Head *head = &p->head;
    if (head->fields_n == p->fields_cap) {
        size_t cap = p->fields_cap ? 2 * p->fields_cap : FIELDS_MIN, size = sizeof *head->fields;
        Http1Field *fields = arena_realloc(p->arena, head->fields, p->fields_cap * size,
                                           cap * size);
        if (!fields) return refuse(p, 500, "out of memory");
        head->fields = fields;
        p->fields_cap = cap;
    }
    head->fields[head->fields_n++] = (Http1Field){ name, value };
    return 0;
}

/* --- Host ------------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ":8080" or nothing. */
static bool port_ok(Str port)
{
    if (port.len == 0) return true;
    if (port.ptr[0] != ':' || port.len < 2 || port.len > 6) return false;
    for (size_t i = 1; i < port.len; i++)
        if (!is_digit(port.ptr[i])) return false;
    return true;
}

/* uri-host [":" port] (RFC 9110 section 7.2), of the forms that occur: a name or an address. '_' is
 * in names that container networks give. */
static bool host_ok(Str host)
{
    size_t n = 0;
    if (host.len > 0 && host.ptr[0] == '[') {
        while (n < host.len && host.ptr[n] != ']') n++;
        for (size_t i = 1; i < n; i++)
            if (!is_alnum(host.ptr[i]) && host.ptr[i] != ':' && host.ptr[i] != '.') return false;
        return n > 2 && n < host.len && port_ok(str_skip(host, n + 1));
    }
    while (n < host.len && (is_alnum(host.ptr[n]) || (host.ptr[n] && strchr("-._", host.ptr[n]))))
        n++;
    return n > 0 && port_ok(str_skip(host, n));
}

/* --- the request line ------------------------------------------------------------------------- */

static bool method_ok(Str method, bool allow_connect)
{
    static const Str methods[] = {
        { "GET", 3 },   { "POST", 4 },   { "HEAD", 4 },    { "PUT", 3 },
        { "PATCH", 5 }, { "DELETE", 6 }, { "OPTIONS", 7 },
    };
    for (size_t i = 0; i < ARRAY_N(methods); i++)
        if (str_eq(method, methods[i])) return true;
    return allow_connect && str_eq(method, STR("CONNECT"));
}

static bool target_bytes_ok(Str target)
{
    for (size_t i = 0; i < target.len; i++)
        if (target.ptr[i] <= 0x20 || target.ptr[i] >= 0x7f || target.ptr[i] == '#') return false;
    return target.len > 0;
}

/* method SP target SP version, exactly (RFC 9112 section 3). line is without its CRLF. */
static int line_read(Http1Parser *p, Str line)
{
    Str rest = str_split(line, ' ', &p->head.method, NULL);
    Str version = str_split(rest, ' ', &p->head.target, NULL);
    if (!method_ok(p->head.method, p->limits.allow_connect))
        return refuse(p, 400, "this method is not supported");
    if (p->head.target.len > p->limits.target_bytes_max)
        return refuse(p, 414, "the request target is too long");
    if (!target_bytes_ok(p->head.target)) return refuse(p, 400, "malformed request target");
    p->head.version_1_0 = str_eq(version, STR("HTTP/1.0"));
    if (!p->head.version_1_0 && !str_eq(version, STR("HTTP/1.1")))
        return refuse(p, 400, "the version is not HTTP/1.0 or HTTP/1.1");
    return 0;
}

/* What follows the scheme of a target in absolute form: the authority must be that of Host. */
static int absolute_read(Http1Parser *p, Str rest)
{
    size_t n = 0;
    while (n < rest.len && rest.ptr[n] != '/' && rest.ptr[n] != '?') n++;
    Str authority = str_sub(rest, 0, n);
    if (!host_ok(authority)) return refuse(p, 400, "malformed authority in the request target");
    if (!(p->seen & SEEN_HOST)) p->head.host = authority;
    if (!str_eq_nocase(authority, p->head.host))
        return refuse(p, 400, "the request target and Host differ");
    p->head.query = str_split(str_skip(rest, n), '?', &p->head.path, NULL);
    if (p->head.path.len == 0) p->head.path = STR("/");
    return 0;
}

/* The four forms of RFC 9112 section 3.2. */
static int target_read(Http1Parser *p)
{
    Http1Head *head = &p->head;
    Str target = head->target;
    head->path = target;
    if (str_eq(head->method, STR("CONNECT"))) {
        bool body = head->chunked || head->content_length > 0;
        return host_ok(target) && !body ? 0 : refuse(p, 400, "malformed CONNECT");
    }
    if (target.ptr[0] == '/') {
        head->query = str_split(target, '?', &head->path, NULL);
        return 0;
    }
    if (str_eq_nocase(str_sub(target, 0, 7), STR("http://")))
        return absolute_read(p, str_skip(target, 7));
    if (str_eq_nocase(str_sub(target, 0, 8), STR("https://")))
        return absolute_read(p, str_skip(target, 8));
    if (str_eq(target, STR("*")) && str_eq(head->method, STR("OPTIONS"))) return 0;
    return refuse(p, 400, "malformed request target");
}

/* --- fields ----------------------------------------------------------------------------------- */

static int host_field(Http1Parser *p, Str value)
{
    if (p->seen & SEEN_HOST) return refuse(p, 400, "more than one Host");
    if (!host_ok(value)) return refuse(p, 400, "malformed Host");
    p->seen |= SEEN_HOST;
    p->head.host = value;
    return 0;
}

static int transfer_encoding_field(Http1Parser *p, Str value)
{
    bool once = !(p->seen & SEEN_TRANSFER_ENCODING);
    p->seen |= SEEN_TRANSFER_ENCODING;
    if (p->head.version_1_0) return refuse(p, 400, "Transfer-Encoding in HTTP/1.0");
    if (!once || !str_eq_nocase(value, STR("chunked")))
        return refuse(p, 400, "Transfer-Encoding is not just \"chunked\"");
    return 0;
}

static int expect_field(Http1Parser *p, Str value)
{
    p->seen |= SEEN_EXPECT;
    if (str_eq_nocase(value, STR("100-continue"))) return 0;
    return refuse(p, 417, "the only expectation supported is 100-continue");
}

static int upgrade_field(Http1Parser *p, Str value)
{
    (void)value;
    return refuse(p, 400, "Upgrade is not supported");
}

/* Fields with rules of their own. */
static int field_check(Http1Parser *p, Str name, Str value)
{
    static const struct {
        Str name;
        int (*check)(Http1Parser *p, Str value);
    } rules[] = {
        { { "host", 4 }, host_field },
        { { "expect", 6 }, expect_field },
        { { "upgrade", 7 }, upgrade_field },
        { { "transfer-encoding", 17 }, transfer_encoding_field },
    };
    for (size_t i = 0; i < ARRAY_N(rules); i++)
        if (str_eq_nocase(name, rules[i].name)) return rules[i].check(p, value);
    return 0;
}

/* --- llhttp's callbacks: they store, and stop it where an event is due ------------------------ */

static Http1Parser *parser_of(llhttp_t *llhttp)
{
    return llhttp->data;
}

static int stop(llhttp_t *llhttp, uint8_t why)
{
    parser_of(llhttp)->stopped = why;
    return HPE_PAUSED;
}

static int on_text(llhttp_t *llhttp, const char *at, size_t n)
{
    Http1Parser *p = parser_of(llhttp);
    return p->state == STATE_TRAILERS ? 0 : item_add(p, at, n);
}

static int on_name_complete(llhttp_t *llhttp)
{
    Http1Parser *p = parser_of(llhttp);
    if (p->state == STATE_TRAILERS) return 0;
    p->name = item_take(p);
    return 0;
}

/* Servers disagree about whether '_' and '-' are the same in a name, which lets a client smuggle
 * fields past the one in front: such fields do not exist here. */
static int on_value_complete(llhttp_t *llhttp)
{
    Http1Parser *p = parser_of(llhttp);
    if (p->state == STATE_TRAILERS) return 0;
    Str value = str_trim(item_take(p));
    if (++p->fields_seen > p->limits.fields_max) return refuse(p, 431, "too many fields");
    if (str_find_char(p->name, '_') >= 0) return 0;
    int r = field_check(p, p->name, value);
    return r != 0 ? r : field_add(p, p->name, value);
}

static int on_headers_complete(llhttp_t *llhttp)
{
    return stop(llhttp, STOP_HEAD);
}

static int on_chunk_header(llhttp_t *llhttp)
{
    return stop(llhttp, STOP_CHUNK_HEADER);
}

static int on_body(llhttp_t *llhttp, const char *at, size_t n)
{
    if (n == 0) return 0;
    parser_of(llhttp)->piece = str_make(at, n);
    return stop(llhttp, STOP_BODY);
}

static int on_chunk_complete(llhttp_t *llhttp)
{
    if (parser_of(llhttp)->state == STATE_TRAILERS) return 0;
    return stop(llhttp, STOP_CHUNK_END);
}

static int on_message_complete(llhttp_t *llhttp)
{
    return stop(llhttp, STOP_MESSAGE);
}

static const llhttp_settings_t settings = {
    .on_header_field = on_text,
    .on_header_value = on_text,
    .on_header_field_complete = on_name_complete,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_chunk_header = on_chunk_header,
    .on_body = on_body,
    .on_chunk_complete = on_chunk_complete,
    .on_message_complete = on_message_complete,
};

/* Runs llhttp over s until a callback stops it. Returns the bytes used; errors are in p->state. */
static size_t llhttp_run(Http1Parser *p, Str s)
{
    llhttp_t *llhttp = llhttp_of(p);
    p->stopped = STOP_NONE;
    llhttp_errno_t err = llhttp_execute(llhttp, s.len ? s.ptr : "", s.len);
    size_t used = s.len;
    if (err == HPE_PAUSED) {
        used = s.len ? (size_t)(llhttp_get_error_pos(llhttp) - s.ptr) : 0;
        llhttp_resume(llhttp);
    } else if (err != HPE_OK) {
        refuse(p, 400, llhttp_get_error_reason(llhttp));
    }
    assert(used <= s.len);
    p->offset += used;
    return used;
}

/* --- steps: each uses some input and may produce an event ------------------------------------- */

/* The request line is kept whole: llhttp only checks it, the reading is ours. */
static Http1Event step_line(Http1Parser *p, Str *input)
{
    size_t have = p->text_len - p->item_at, max = p->limits.target_bytes_max + LINE_EXTRA_BYTES;
    if (have == max) return refused(p, 414, "the request line is too long");
    Str part = str_sub(*input, 0, max - have);
    ptrdiff_t lf = str_find_char(part, '\n');
    if (lf >= 0) part.len = (size_t)lf + 1;
    if (item_add(p, part.ptr, part.len) != 0) return HTTP1_ERROR;
    *input = str_skip(*input, llhttp_run(p, part));
    if (p->state == STATE_FAILED) return HTTP1_ERROR;
    if (lf < 0) return HTTP1_MORE;

    Str line = item_take(p);
    if (str_eq(line, STR("\r\n")) && !p->blank_line) {
        p->blank_line = true;
        return HTTP1_MORE;
    }
    if (line.len <= 2 || line.ptr[line.len - 2] != '\r')
        return refused(p, 400, "malformed request line");
    line.len -= 2;
    if (line_read(p, line) != 0) return HTTP1_ERROR;
    p->state = STATE_FIELDS;
    return HTTP1_MORE;
}

/* Everything of the head is there: what concerns it as a whole. */
static Http1Event head_finish(Http1Parser *p)
{
    Http1Head *head = &p->head;
    llhttp_t *llhttp = llhttp_of(p);
    head->chunked = (p->seen & SEEN_TRANSFER_ENCODING) != 0;
    head->content_length = llhttp->flags & F_CONTENT_LENGTH ? llhttp->content_length : 0;
    head->keep_alive = llhttp_should_keep_alive(llhttp) != 0;
    if (!head->version_1_0 && !(p->seen & SEEN_HOST)) return refused(p, 400, "Host is missing");
    if (target_read(p) != 0) return HTTP1_ERROR;
    bool body = head->chunked || head->content_length > 0;
    head->expect_continue = (p->seen & SEEN_EXPECT) && body && !head->version_1_0;
    p->body_left = head->content_length;
    p->mark = p->offset;
    p->chunk_digits_open = true;
    p->state = head->chunked ? STATE_CHUNK_LINE : body ? STATE_LENGTH : STATE_ENDING;
    return HTTP1_HEAD;
}

static Http1Event step_fields(Http1Parser *p, Str *input)
{
    if (p->offset >= p->limits.head_bytes_max) return refused(p, 431, "the head is too large");
    Str part = str_sub(*input, 0, p->limits.head_bytes_max - (size_t)p->offset);
    *input = str_skip(*input, llhttp_run(p, part));
    if (p->state == STATE_FAILED) return HTTP1_ERROR;
    return p->stopped == STOP_HEAD ? head_finish(p) : HTTP1_MORE;
}

static Http1Event step_length(Http1Parser *p, Str *input)
{
    Str piece = str_sub(*input, 0, p->body_left > SIZE_MAX ? SIZE_MAX : (size_t)p->body_left);
    if (piece.len == 0) return HTTP1_MORE;
    p->body_left -= piece.len;
    p->offset += piece.len;
    if (p->body_left == 0) p->state = STATE_ENDING;
    *input = str_skip(*input, piece.len);
    p->piece = piece;
    return HTTP1_BODY;
}

/* Counts what stands before the extensions: llhttp bounds the value, not the number of digits. */
static void count_digits(Http1Parser *p, Str part)
{
    for (size_t i = 0; i < part.len && p->chunk_digits_open; i++) {
        char c = part.ptr[i];
        bool hex = is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
        p->chunk_digits += hex;
        p->chunk_digits_open = hex;
    }
}

static Http1Event step_chunk_line(Http1Parser *p, Str *input)
{
    size_t ext_left = p->limits.chunk_ext_bytes_max - p->chunk_ext_bytes;
    size_t line_max = CHUNK_DIGITS_MAX + ext_left + 2, have = (size_t)(p->offset - p->mark);
    if (have == line_max) return refused(p, 400, "the chunk line is too long");
    Str part = str_sub(*input, 0, line_max - have);
    count_digits(p, part);
    if (p->chunk_digits > CHUNK_DIGITS_MAX) return refused(p, 400, "the chunk line is too long");
    *input = str_skip(*input, llhttp_run(p, part));
    if (p->state == STATE_FAILED) return HTTP1_ERROR;
    if (p->stopped == STOP_NONE) return HTTP1_MORE;

    assert(p->stopped == STOP_CHUNK_HEADER);
    size_t ext = (size_t)(p->offset - p->mark) - p->chunk_digits - 2;
    if (ext > ext_left) return refused(p, 400, "the chunk line is too long");
    p->chunk_ext_bytes += ext;
    p->mark = p->offset;
    p->state = llhttp_of(p)->content_length == 0 ? STATE_TRAILERS : STATE_CHUNK_DATA;
    return HTTP1_MORE;
}

static Http1Event step_chunk_data(Http1Parser *p, Str *input)
{
    *input = str_skip(*input, llhttp_run(p, *input));
    if (p->state == STATE_FAILED) return HTTP1_ERROR;
    if (p->stopped == STOP_BODY) return HTTP1_BODY;
    if (p->stopped == STOP_CHUNK_END) {
        p->mark = p->offset;
        p->chunk_digits = 0;
        p->chunk_digits_open = true;
        p->state = STATE_CHUNK_LINE;
    }
    return HTTP1_MORE;
}

static Http1Event step_trailers(Http1Parser *p, Str *input)
{
    size_t have = (size_t)(p->offset - p->mark);
    if (have >= p->limits.head_bytes_max) return refused(p, 431, "the trailers are too large");
    Str part = str_sub(*input, 0, p->limits.head_bytes_max - have);
    *input = str_skip(*input, llhttp_run(p, part));
    if (p->state == STATE_FAILED) return HTTP1_ERROR;
    if (p->stopped != STOP_MESSAGE) return HTTP1_MORE;
    p->state = STATE_DONE;
    return HTTP1_END;
}

static Http1Event step(Http1Parser *p, Str *input)
{
    switch (p->state) {
    case STATE_LINE: return step_line(p, input);
    case STATE_FIELDS: return step_fields(p, input);
    case STATE_LENGTH: return step_length(p, input);
    case STATE_CHUNK_LINE: return step_chunk_line(p, input);
    case STATE_CHUNK_DATA: return step_chunk_data(p, input);
    case STATE_TRAILERS: return step_trailers(p, input);
    case STATE_ENDING: p->state = STATE_DONE; return HTTP1_END;
    case STATE_FAILED: return HTTP1_ERROR;
    default: DIE("http1_parse after the end of a message");
    }
}

/* --- the interface ---------------------------------------------------------------------------- */

void http1_parser_init(Http1Parser *parser, const Http1Limits *limits)
{
    Http1Limits use = limits ? *limits : (Http1Limits){ 0 };
    if (use.head_bytes_max == 0) use.head_bytes_max = HEAD_BYTES_DEFAULT;
    if (use.fields_max == 0) use.fields_max = FIELDS_DEFAULT;
    if (use.target_bytes_max == 0) use.target_bytes_max = TARGET_BYTES_DEFAULT;
    if (use.chunk_ext_bytes_max == 0) use.chunk_ext_bytes_max = CHUNK_EXT_BYTES_DEFAULT;
    parser->limits = use;
    http1_parser_reset(parser);
}

void http1_parser_reset(Http1Parser *parser)
{
    *parser = (Http1Parser){ .limits = parser->limits, .state = STATE_LINE };
    llhttp_t *llhttp = llhttp_of(parser);
    llhttp_init(llhttp, HTTP_REQUEST, &settings);
    llhttp->data = parser;
}

bool http1_parser_idle(const Http1Parser *parser)
{
    return parser->state == STATE_LINE && parser->text_len == parser->item_at;
}

Http1Event http1_parse(Http1Parser *parser, Arena *arena, Str input, size_t *ret_used,
                       Str *ret_piece)
{
    Str rest = input;
    Http1Event event = HTTP1_MORE;
    parser->arena = arena;
    /* A parser may have been copied since its last use. */
    llhttp_of(parser)->data = parser;
    while (event == HTTP1_MORE && (rest.len > 0 || parser->state >= STATE_ENDING))
        event = step(parser, &rest);
    *ret_used = input.len - rest.len;
    if (event == HTTP1_BODY) *ret_piece = parser->piece;
    return event;
}

Str http1_field(const Http1Head *head, Str name, bool *ret_found)
{
    for (size_t i = 0; i < head->fields_n; i++) {
        if (!str_eq_nocase(head->fields[i].name, name)) continue;
        if (ret_found) *ret_found = true;
        return head->fields[i].value;
    }
    if (ret_found) *ret_found = false;
    return STR_NULL;
}
