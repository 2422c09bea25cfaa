/* HTTP/1.1 requests, strictly, without I/O: bytes in, events out; and the heads of answers.
 *
 * A parser on llhttp with no lenient flag, and the rules llhttp does not have (RFC 9112, and what
 * request smuggling made necessary). What it accepts beyond a doubt is one reading of the bytes;
 * anything else is an error, after which the connection must be closed. The events are the same
 * however the bytes were cut into pieces.
 *
 * Refused with 400, beside what llhttp refuses: HTTP versions other than 1.0 and 1.1; no Host
 * on 1.1, two Hosts, a malformed one; Transfer-Encoding other than one field "chunked", or on 1.0;
 * more than one empty line before the request; other than one space in the request line; '#', bytes
 * outside 0x21-0x7e or userinfo in the target; an absolute target that differs from Host; "*"
 * except for OPTIONS; Upgrade; CONNECT (unless allowed) and every method but GET HEAD POST PUT
 * PATCH DELETE OPTIONS; chunk sizes of more than 16 digits. Fields with '_' in the name and
 * trailers are dropped.
 */
#ifndef GANTRY_CODEC_HTTP1_H
#define GANTRY_CODEC_HTTP1_H

#include "base/arena.h"
#include "base/buf.h"

typedef struct {
    Str name;  /* as received; compare with str_eq_nocase */
    Str value; /* without surrounding blanks; may hold bytes >= 0x80 */
} Http1Field;

/* Zeros stand for the defaults. */
typedef struct {
    size_t head_bytes_max;      /* request line and fields (431), trailers too; 0: 64 KiB */
    size_t fields_max;          /* 431; 0: 100 */
    size_t target_bytes_max;    /* 414; 0: 8 KiB */
    size_t chunk_ext_bytes_max; /* of one body, 400; 0: 4 KiB */
    bool allow_connect;         /* CONNECT with an authority target, for proxies */
} Http1Limits;

/* A request's head. Everything borrows from the arena given to http1_parse. */
typedef struct {
    Str method; /* "GET" */
    Str target; /* as received */
    Str path;   /* starts with '/', "*" for OPTIONS *, the authority for CONNECT */
    Str query;  /* what follows '?', without it; may be empty */
    Str host;   /* the value of Host; empty when a 1.0 client sent none */
    Http1Field *fields;
    size_t fields_n;
    uint64_t content_length; /* 0 when chunked or without a body */
    bool chunked;
    bool version_1_0;
    bool keep_alive;      /* the client will take another answer on this connection */
    bool expect_continue; /* it waits for "100 Continue" before it sends the body (never on 1.0) */
} Http1Head;

typedef enum {
    HTTP1_MORE,  /* all input used, nothing complete yet: call again with what follows */
    HTTP1_HEAD,  /* the head is complete: parser->head. The body is not touched yet */
    HTTP1_BODY,  /* *ret_piece is the next piece of the body, inside the input */
    HTTP1_END,   /* the message is complete; what is not used belongs to the next one */
    HTTP1_ERROR, /* parser->status and parser->reason; the connection cannot go on */
} Http1Event;

#define HTTP1_LLHTTP_BYTES 128

typedef struct {
    Http1Head head;     /* valid from HTTP1_HEAD on */
    int status;         /* of HTTP1_ERROR: 400, 414, 417, 431, 500 (arena exhausted) */
    const char *reason; /* of HTTP1_ERROR: a literal for the answer's detail */

    /* --- private --- */
    Http1Limits limits; /* zeros replaced */
    Arena *arena;
    uint64_t offset;        /* bytes of this message used so far */
    uint64_t mark;          /* offset where the chunk line or the trailers began */
    uint64_t body_left;     /* of a body with Content-Length */
    size_t chunk_ext_bytes; /* of this body */
    size_t chunk_digits;    /* of this chunk line */
    char *text;             /* storage for the line, names and values, in the arena */
    size_t text_len, text_cap;
    size_t item_at; /* where the item in progress begins in text */
    Str name;       /* of the field in progress */
    Str piece;      /* what on_body was given */
    size_t fields_cap, fields_seen;
    uint8_t state;
    uint8_t stopped; /* which callback paused llhttp */
    uint8_t seen;    /* fields that were there */
    bool blank_line; /* an empty line came before the request */
    bool chunk_digits_open;
    _Alignas(8) unsigned char llhttp[HTTP1_LLHTTP_BYTES];
} Http1Parser;

/* Prepares for the first request of a connection. limits may be NULL. */
void http1_parser_init(Http1Parser *parser, const Http1Limits *limits);

/* Prepares for the next request, after HTTP1_END (or at any time: the old one is forgotten). */
void http1_parser_reset(Http1Parser *parser);

/* Consumes from input up to and including the next event. *ret_used is how many bytes of input were
 * used (the rest is to be given again), *ret_piece is set for HTTP1_BODY. arena holds the head: the
 * same one for all calls of a message, not cleared before HTTP1_END. A HEAD event is always
 * followed by HTTP1_END, which for a message without body needs no further input (input may be
 * empty). */
Http1Event http1_parse(Http1Parser *parser, Arena *arena, Str input, size_t *ret_used,
                       Str *ret_piece);

/* True before the first byte of a request: the connection is idle. */
bool http1_parser_idle(const Http1Parser *parser);

/* First field of that name (case ignored), or the empty Str; ret_found may be NULL. */
Str http1_field(const Http1Head *head, Str name, bool *ret_found);

/* --- answers ---------------------------------------------------------------------------------- */

/* "Not Found" for 404, "" if unknown. */
const char *http1_status_text(int status);

/* A name is a token (RFC 9110 section 5.6.2), a value holds no control byte but tab. */
bool http1_name_ok(Str name);
bool http1_value_ok(Str value);

/* Appends "HTTP/1.1 200 OK\r\n". 100 <= status <= 999. All of these: false when the Buf is full. */
bool http1_add_status(Buf *buf, int status);
/* Appends "name: value\r\n"; asserts that both are as http1_name_ok and http1_value_ok want. */
bool http1_add_field(Buf *buf, Str name, Str value);
bool http1_add_port(Buf *buf, uint16_t port); /* ":80", after the name of a host */
bool http1_add_content_length(Buf *buf, uint64_t bytes);
bool http1_add_chunked(Buf *buf);
/* The empty line. */
bool http1_add_head_end(Buf *buf);

/* The line before a chunk of n > 0 bytes, into out; behind the chunk stands HTTP1_CHUNK_TAIL. */
#define HTTP1_CHUNK_LINE_MAX 20
Str http1_chunk_line(size_t n, char out[HTTP1_CHUNK_LINE_MAX]);
#define HTTP1_CHUNK_TAIL STR("\r\n")
/* The end of a chunked body. */
#define HTTP1_CHUNK_LAST STR("0\r\n\r\n")

#endif
