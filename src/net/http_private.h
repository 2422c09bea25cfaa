/* What the files of the HTTP server share. Not for other folders.
 *
 * http_server.c   listening, draining, counting
 * http_conn.c     a connection: heads and bodies in, one request after the other
 * http_reply.c    answers out
 * http_problem.c  the bodies of errors
 *
 * Everything is owned by the loop's thread, but the counters.
 */
#ifndef GANTRY_NET_HTTP_PRIVATE_H
#define GANTRY_NET_HTTP_PRIVATE_H

#include <stdatomic.h>

#include "base/buf.h"
#include "codec/uuid.h"
#include "net/http_server.h"

#define HTTP_FIELDS_ADDED_MAX 32
#define HTTP_FIELDS_ADDED_BYTES_MAX (32 * 1024)
#define HTTP_HEAD_BYTES_MAX (HTTP_FIELDS_ADDED_BYTES_MAX + 1024)
#define HTTP_ERROR_BYTES_MAX (64 * 1024)

/* A body nobody reads is taken in up to here, so that the connection can go on. */
#define HTTP_DRAIN_BYTES_MAX (256 * 1024)

typedef atomic_uint_fast64_t HttpCounter;

static inline void http_count(HttpCounter *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

struct HttpServer {
    HttpServerOptions options; /* zeros replaced */
    HttpHandler handler;
    void *ctx;
    Listener *listener; /* NULL once draining */
    List conns;         /* HttpConn.node */
    size_t refusing_n;  /* connections that are only told 503 */
    Cond conn_ended;
    bool draining;
    Uuid7Gen ids;
    uint64_t random; /* state of the generator for request ids: unique, not secret */

    /* any thread */
    HttpCounter connections, requests, bad_requests, refused_connections, timeouts, body_too_large,
        headers_too_large, write_stalls;
    atomic_int_fast64_t open_connections;
};

typedef enum {
    REPLY_NONE,
    REPLY_STREAMING, /* begun, more to come */
    REPLY_DONE,
} HttpReplyState;

/* A connection, with what it needs for the request in progress: reused from one to the next. */
typedef struct HttpConn {
    ListNode node; /* on the server's conns */
    HttpServer *server;
    Stream *stream;
    FiberRef fiber;
    bool refuse;          /* it came beyond connections_max: 503 */
    bool idle;            /* waits for the first byte of a request, or for the client to leave */
    bool close;           /* no request follows this one */
    int error;            /* of the first write that failed, as http_write_wait returns; 0: none */
    int64_t head_from_ms; /* when the head that is awaited was due to begin */

    Http1Parser parser;
    HttpReq req;
    bool has_head;      /* req and parser.head hold a request */
    bool body_done;     /* the body was read to its end */
    bool continue_sent; /* 100 */
    int body_status;    /* why reading the body failed (400, 408, 413, 431), or 0 */
    uint64_t body_bytes;

    HttpReplyState reply;
    int status;          /* of the answer */
    bool chunked;        /* the streamed answer is */
    bool head_only;      /* HEAD, 204, 304: the body is not sent */
    size_t sent_in_turn; /* bytes, since the fiber last gave way */
    Buf head;            /* of the answer */
    Buf fields;          /* added by http_header_add */
    unsigned fields_n;
    bool id_added; /* fields has an x-request-id, which stands for the server's own */
} HttpConn;

/* http_conn.c: a connection's fiber; arg is the HttpConn, which it frees. */
int http_conn_main(void *arg);

/* http_reply.c: forgets the answer before, for the next request. */
void http_reply_reset(HttpConn *conn);

/* http_reply.c: sends pieces as they are. Returns as http_write_wait. */
int http_send_wait(HttpConn *conn, Str head, Str body, Str tail);

/* http_problem.c: answers an error that was found outside a handler. Returns as http_reply_wait. */
int http_error_wait(HttpConn *conn, int status, const char *detail);

#endif
