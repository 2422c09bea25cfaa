/* HTTP/1.1 server: a fiber a connection, a handler a request.
 *
 * The parser is strict (codec/http1.h); a violation is answered 400 and the connection closed.
 * Pipelined requests are answered in order, one parsed ahead at most. A server lives on one loop;
 * several loops may each have one on the same port.
 */
#ifndef GANTRY_NET_HTTP_SERVER_H
#define GANTRY_NET_HTTP_SERVER_H

#include "base/arena.h"
#include "codec/http1.h"
#include "sys/stream.h"

typedef struct HttpServer HttpServer;

/* One request, while its handler runs. Fields are read-only to handlers. */
typedef struct HttpReq {
    Arena arena; /* everything of this request */
    Str method;  /* "GET" */
    Str path;    /* raw path, starts with '/'; percent-encoding kept, no query */
    Str query;   /* after '?', may be empty */
    const Http1Field *fields;
    size_t fields_n;
    int64_t started_us; /* clock_mono_us when the head was complete */
    char request_id[37];
    bool replied;          /* an answer was begun */
    struct HttpConn *conn; /* private */
} HttpReq;

/* Runs on the connection's fiber. It must answer (http_reply_wait, or start..end). What it
 * returns is logged when negative. If it answered nothing, the server does: 400, 408 or 413 when
 * reading the body failed, else 500. What it left of the body is skipped, up to 256 KiB: else
 * the connection closes. Fibers it started that use req must have ended when it returns. */
typedef int (*HttpHandler)(HttpReq *req, void *ctx);

/* A head's time runs from its first byte, on a new connection from connecting. Beside making
 * progress a body must come at 1 byte a millisecond, counted from when body_timeout_ms has
 * passed. */
typedef struct {
    const char *address;       /* numeric; default 127.0.0.1 */
    uint16_t port;             /* 0: any */
    bool shared;               /* SO_REUSEPORT */
    bool own;                  /* no guarded call of this process may reach it (addr_guard.h) */
    Http1Limits limits;        /* zeros: defaults */
    size_t body_bytes_max;     /* 413 beyond; a handler may ask for less; 0: 8 MiB */
    size_t request_memory_max; /* arena quota a request; 0: 16 x body_bytes_max, in 1..256 MiB */
    size_t connections_max;    /* 503 and close beyond; 0: 10000 */
    int64_t header_timeout_ms; /* for a head, else 408; see below; 0: 10 s */
    int64_t body_timeout_ms;   /* without any progress, else 408; see below; 0: 30 s */
    int64_t body_total_ms;     /* for a whole body, else 408, however it comes; 0: no limit */
    int64_t idle_timeout_ms;   /* between requests; 0: 75 s */
    int64_t write_timeout_ms;  /* for each 64 KiB of an answer; 0: 30 s */
    /* Renders what the server answers by itself into body, and may set *content_type (a literal). A
     * request that was not understood has an empty path. NULL: problem+json. */
    void (*error_body)(HttpReq *req, int status, const char *detail, Buf *body,
                       const char **content_type, void *ctx);
} HttpServerOptions;

/* Counted since http_server_open: bad_requests are heads and bodies that break the rules,
 * headers_too_large (414, 431) among them; timeouts were answered 408; write_stalls are answers
 * that were not read in time. */
typedef struct {
    uint64_t connections, requests, bad_requests, refused_connections, timeouts, body_too_large,
        headers_too_large, write_stalls;
    int64_t open_connections;
} HttpServerStats;

/* Listens on this thread's loop; ctx is for the handler and error_body. options is copied, but
 * not the address in it. Returns 0 or -errno with diag. */
MUST_CHECK int http_server_open(const HttpServerOptions *options, HttpHandler handler, void *ctx,
                                HttpServer **ret);
uint16_t http_server_port(const HttpServer *server);
void http_server_stats(const HttpServer *server, HttpServerStats *ret); /* any thread */

/* Stops accepting; idle connections close now, busy ones after their answer ("Connection:
 * close"). On the loop's thread; twice is once. */
void http_server_drain(HttpServer *server);
/* Drains, waits until no connection is left, at most until deadline_ms, then cancels the fibers
 * of the rest and waits for them to end, because handlers use ctx. Frees. A cancelled caller
 * cuts at once. NULL is accepted. */
void http_server_close_wait(HttpServer *server, int64_t deadline_ms);

/* --- in a handler ----------------------------------------------------------------------------- */

/* First field of that name (case ignored), trimmed; the empty Str if absent. */
Str http_header(const HttpReq *req, const char *name);

/* Value of a query parameter, percent- and plus-decoded into the arena; ret_found may be NULL. */
Str http_query(HttpReq *req, const char *name, bool *ret_found);

/* Reads the whole body into the arena; once. A client that waits for "100 Continue" is sent it.
 * Returns 0, HTTP_E_TOO_LARGE (413 is right; max 0: the server's maximum), HTTP_E_GONE,
 * -ETIMEDOUT (408), -EINVAL (broken framing: 400, close), -ENOMEM, -ECANCELED. */
#define HTTP_E_TOO_LARGE 1
#define HTTP_E_GONE 2 /* the client left */
int http_body_wait(HttpReq *req, size_t max, Str *ret);

/* Adds a field to the answer, before it is begun. Names and values are checked (no CR, LF, NUL):
 * asserts. Values are copied. At most 32. An "x-request-id" takes the place of the server's. */
void http_header_add(HttpReq *req, const char *name, Str value);

/* Whole answer with Content-Length. content_type NULL: none. Returns 0, HTTP_E_GONE, -ETIMEDOUT,
 * -ECANCELED. HEAD gets the head only. */
int http_reply_wait(HttpReq *req, int status, const char *content_type, Str body);

/* A whole answer that is made before it may be sent, so that whoever learns first that it may, on
 * whatever thread, sends it: nothing waits for the connection's loop to wake up. */
typedef struct {
    int fd; /* private */
    Str head, body;
    size_t sent; /* bytes of both */
} HttpReady;

/* Makes the answer that http_reply_wait would send. The body is to live until it is sent. To be
 * followed by http_reply_rest_wait or http_reply_drop in any case. */
void http_reply_make(HttpReq *req, int status, const char *content_type, Str body, HttpReady *ret);

/* Sends it as far as the kernel takes it; nothing of a large one. Any thread, at most once, while
 * the fiber of req is parked on something else. */
void http_reply_send(HttpReady *ready);

/* Sends what is left of it. Returns as http_reply_wait. */
int http_reply_rest_wait(HttpReq *req, const HttpReady *ready);

/* It is not to be sent, and was not: another answer may be made. Fields added are forgotten. */
void http_reply_drop(HttpReq *req);

/* Streamed answer (chunked): start, any number of writes (each sent at once), end. A stream that is
 * not ended is cut: the client sees it as broken. Returns as above. */
int http_reply_start_wait(HttpReq *req, int status, const char *content_type);
int http_write_wait(HttpReq *req, Str bytes);
int http_end_wait(HttpReq *req);

/* RFC 9457 answer: {"type","title","status","detail","code","requestId"}. code is a stable word
 * such as "agent_not_found". */
int http_problem_wait(HttpReq *req, int status, const char *code, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* Makes the connection close after this answer. */
void http_close_after(HttpReq *req);

/* Waits until the client leaves: see stream_gone_wait. To be used by a second fiber, or with a
 * deadline. */
int http_gone_wait(HttpReq *req, int64_t deadline_ms);
bool http_gone(const HttpReq *req);

/* "Not Found" for 404, "" if unknown. */
const char *http_status_text(int status);

#endif
