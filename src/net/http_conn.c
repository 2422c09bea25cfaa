#include "base/diag.h"
#include "base/log.h"
#include "net/http_private.h"
#include "sys/clock.h"

/* A body may not come slower than this on average, once its first timeout has passed. */
#define BODY_BYTES_PER_MS_MIN 1
#define BODY_FIRST_BYTES (64 * 1024)
/* A client is given this long to read the last answer before the connection is reset under it. */
#define LINGER_MS 2000

/* What reading returns beside 0, HTTP_E_GONE and negative errno. */
#define BODY_E_END 3

/* --- reading ---------------------------------------------------------------------------------- */

/* Waits for more bytes. Returns 0, HTTP_E_GONE, -ETIMEDOUT, -ECANCELED. Everything that was
 * there has been used. */
static int more_wait(HttpConn *c, int64_t deadline_ms)
{
    Str bytes;
    int r = stream_fill_wait(c->stream, 0, deadline_ms, &bytes);
    if (r == 0 || r == -ETIMEDOUT || r == -ECANCELED) return r;
    assert(r != -ENOBUFS); /* the buffer is empty */
    return HTTP_E_GONE;
}

/* Returns 0 with the next piece of the body (valid until *ret_used bytes are consumed, which the
 * caller does), BODY_E_END, HTTP_E_GONE, -EINVAL (the framing is broken), -ETIMEDOUT,
 * -ECANCELED. */
static int body_next_wait(HttpConn *c, int64_t deadline_ms, Str *ret_piece, size_t *ret_used)
{
    for (;;) {
        Http1Event event = http1_parse(&c->parser, &c->req.arena, stream_peek(c->stream), ret_used,
                                       ret_piece);
        if (event == HTTP1_BODY) return 0;
        stream_consume(c->stream, *ret_used);
        if (event == HTTP1_END) {
            c->body_done = true;
            return BODY_E_END;
        }
        if (event == HTTP1_ERROR) return diag_set(-EINVAL, "%s", c->parser.reason);
        assert(event == HTTP1_MORE);
        int r = more_wait(c, deadline_ms);
        if (r != 0) return r;
    }
}

static void body_failed(HttpConn *c, int status)
{
    HttpServer *server = c->server;
    if (c->body_status == 0) c->body_status = status;
    if (status == 408) http_count(&server->timeouts);
    if (status == 413) http_count(&server->body_too_large);
    if (status == 400 || status == 431) http_count(&server->bad_requests);
    if (status != 413) c->close = true; /* a body that is only too large can still be skipped */
}

/* The deadline for the next piece: some progress within the timeout, a least rate over all, and an
 * end. */
static int64_t body_deadline(const HttpConn *c, int64_t began_ms)
{
    int64_t timeout_ms = c->server->options.body_timeout_ms;
    int64_t rate_ms = (int64_t)(c->body_bytes / BODY_BYTES_PER_MS_MIN);
    int64_t total_ms = c->server->options.body_total_ms;
    int64_t deadline_ms = MIN(deadline_after(timeout_ms), began_ms + timeout_ms + rate_ms);
    return total_ms ? MIN(deadline_ms, began_ms + total_ms) : deadline_ms;
}

/* Tells a client that waits for it to send the body. */
static int continue_wait(HttpConn *c)
{
    bool asked = c->parser.head.expect_continue && !c->continue_sent;
    if (!asked || c->req.replied || stream_peek(c->stream).len > 0) return 0;
    c->continue_sent = true;
    return http_send_wait(c, STR("HTTP/1.1 100 Continue\r\n\r\n"), STR_NULL, STR_NULL);
}

static int body_too_large(HttpConn *c, size_t max)
{
    body_failed(c, 413);
    return diag_set(HTTP_E_TOO_LARGE, "the body is larger than %zu bytes", max);
}

typedef struct {
    char *bytes; /* in the request's arena */
    size_t len, cap, max;
} Body;

/* Room for more bytes. A known length gets its memory at once: the kernel only gives what is
 * written to. */
static int body_reserve(HttpConn *c, Body *body, size_t more)
{
    size_t need = body->len + more, known = (size_t)c->parser.head.content_length;
    if (need <= body->cap) return 0;
    size_t cap = known ? known : MAX(MAX(2 * body->cap, need), BODY_FIRST_BYTES);
    char *bytes = arena_realloc(&c->req.arena, body->bytes, body->cap, cap + 1);
    if (!bytes) return diag_set(-ENOMEM, "no memory for a body of %zu bytes", need);
    body->bytes = bytes;
    body->cap = cap;
    return 0;
}

static int body_append(HttpConn *c, Body *body, Str piece)
{
    if (piece.len > body->max - body->len) return body_too_large(c, body->max);
    int r = body_reserve(c, body, piece.len);
    if (r < 0) return r;
    assert(body->bytes);
    memcpy(body->bytes + body->len, piece.ptr, piece.len);
    body->len += piece.len;
    return 0;
}

/* Reads of a body of known length what has not come yet to where it stays. Returns as
 * body_next_wait. */
static int body_read_wait(HttpConn *c, Body *body, int64_t deadline_ms)
{
    size_t n, used, left = (size_t)c->parser.head.content_length - body->len;
    int r = body_reserve(c, body, left);
    if (r < 0) return r;
    char *at = body->bytes + body->len;
    r = stream_read_wait(c->stream, at, left, deadline_ms, &n);
    if (r == -ETIMEDOUT || r == -ECANCELED) return r;
    if (r != 0) return HTTP_E_GONE;
    Str piece = str_make(at, n);
    Http1Event event = http1_parse(&c->parser, &c->req.arena, piece, &used, &piece);
    assert(event == HTTP1_BODY && used == n);
    body->len += n;
    c->body_bytes += n;
    return 0;
}

static int body_collect_wait(HttpConn *c, size_t max, Str *ret)
{
    const Http1Head *head = &c->parser.head;
    Body body = { .max = max };
    int64_t began_ms = clock_mono_ms();
    for (;;) {
        Str piece;
        size_t used;
        bool known = !head->chunked && body.len < head->content_length;
        int r = known ? body_read_wait(c, &body, body_deadline(c, began_ms))
                      : body_next_wait(c, body_deadline(c, began_ms), &piece, &used);
        if (r == BODY_E_END) break;
        if (r != 0) return r;
        if (known) continue;
        r = body_append(c, &body, piece);
        c->body_bytes += piece.len;
        stream_consume(c->stream, used);
        if (r != 0) return r;
    }
    *ret = body.bytes ? str_make(body.bytes, body.len) : STR("");
    return 0;
}

int http_body_wait(HttpReq *req, size_t max, Str *ret)
{
    HttpConn *c = req->conn;
    size_t server_max = c->server->options.body_bytes_max;
    assert(c->has_head && c->body_bytes == 0);
    max = max ? MIN(max, server_max) : server_max;
    if (c->body_done) {
        *ret = STR("");
        return 0;
    }
    if (c->parser.head.content_length > max) return body_too_large(c, max);
    int r = continue_wait(c);
    if (r == 0) r = body_collect_wait(c, max, ret);
    if (r == -EINVAL) body_failed(c, c->parser.status);
    if (r == -ETIMEDOUT) body_failed(c, 408);
    if (r == HTTP_E_GONE || r == -ECANCELED) c->close = true;
    return r == -ETIMEDOUT ? diag_set(r, "the body did not arrive in time") : r;
}

/* --- between requests ------------------------------------------------------------------------- */

/* Takes in what the handler left of the body, up to a bound: else the connection ends. */
static void drain_wait(HttpConn *c)
{
    Str piece;
    size_t used;
    int64_t deadline_ms = deadline_after(c->server->options.body_timeout_ms);
    if (c->close || c->body_done) return;
    c->close = true;
    for (size_t n = 0; n <= HTTP_DRAIN_BYTES_MAX; n += piece.len) {
        int r = body_next_wait(c, deadline_ms, &piece, &used);
        if (r == BODY_E_END) c->close = false;
        if (r != 0) return;
        stream_consume(c->stream, used);
    }
}

/* Closing with bytes unread resets the connection, and may take the answer from a client that
 * has not read it yet. So our side is closed first, and what still comes is thrown away for a
 * while. */
static void linger_wait(HttpConn *c)
{
    size_t n = 0;
    int64_t deadline_ms = deadline_after(LINGER_MS);
    if (c->error || stream_peer_gone(c->stream)) return;
    c->idle = true; /* a draining server need not wait for this */
    if (stream_shutdown_wait(c->stream, deadline_ms) != 0) return;
    while (n < HTTP_DRAIN_BYTES_MAX) {
        size_t len = stream_peek(c->stream).len;
        n += len;
        stream_consume(c->stream, len);
        if (more_wait(c, deadline_ms) != 0) return;
    }
}

/* --- heads ------------------------------------------------------------------------------------ */

static uint64_t random_next(HttpServer *server)
{
    uint64_t z = server->random += UINT64_C(0x9e3779b97f4a7c15); /* SplitMix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void request_id_make(HttpServer *server, char out[UUID_TEXT_MAX])
{
    uint8_t bytes[UUID7_RANDOM_BYTES];
    uint64_t a = random_next(server), b = random_next(server);
    memcpy(bytes, &a, 8);
    memcpy(bytes + 8, &b, 2);
    uuid_text(uuid7_next(&server->ids, MAX(clock_real_ms(), 0), bytes), out);
}

/* Everything of the request before is forgotten. */
static void request_reset(HttpConn *c)
{
    HttpReq *req = &c->req;
    arena_clear(&req->arena);
    *req = (HttpReq){ .arena = req->arena, .conn = c };
    request_id_make(c->server, req->request_id);
    c->has_head = c->body_done = c->continue_sent = false;
    c->body_status = 0;
    c->body_bytes = 0;
    http_reply_reset(c);
    diag_clear();
    *log_context() = (LogContext){ 0 };
}

static void request_begin(HttpConn *c)
{
    const Http1Head *head = &c->parser.head;
    HttpReq *req = &c->req;
    req->method = head->method;
    req->path = head->path;
    req->query = head->query;
    req->fields = head->fields;
    req->fields_n = head->fields_n;
    req->started_us = clock_mono_us();
    c->has_head = true;
    c->head_only = str_eq(head->method, STR("HEAD"));
    c->body_done = !head->chunked && head->content_length == 0;
    if (!head->keep_alive) c->close = true;
    http_count(&c->server->requests);
}

/* Answers what is no request. The connection ends. */
static void refuse_wait(HttpConn *c, int status, const char *detail)
{
    HttpServer *server = c->server;
    c->close = true;
    if (status == 408) http_count(&server->timeouts);
    else http_count(&server->bad_requests);
    if (status == 431 || status == 414) http_count(&server->headers_too_large);
    LOG_DEBUG("request refused", LOG_INT("status", status), LOG_CSTR("why", detail),
              LOG_CSTR("requestId", c->req.request_id));
    if (http_error_wait(c, status, detail) == 0) linger_wait(c);
}

/* When the head must be complete, or its first byte here. The first head of a connection is due
 * from the beginning; later ones once they have begun. */
static int64_t head_deadline(HttpConn *c, bool first)
{
    const HttpServerOptions *o = &c->server->options;
    bool idle = http1_parser_idle(&c->parser);
    if (c->idle && !idle && !first) c->head_from_ms = clock_mono_ms();
    c->idle = idle;
    return c->head_from_ms + (idle && !first ? o->idle_timeout_ms : o->header_timeout_ms);
}

/* Waits for the next request. Returns true when its head is in req, false when the connection is to
 * end; whatever there was to answer has been answered. */
static bool head_wait(HttpConn *c, bool first)
{
    Http1Event event;
    int r = 0;
    for (;;) {
        Str piece;
        size_t used;
        event = http1_parse(&c->parser, &c->req.arena, stream_peek(c->stream), &used, &piece);
        stream_consume(c->stream, used);
        if (event != HTTP1_MORE) break;
        int64_t deadline_ms = head_deadline(c, first);
        if (c->idle && c->server->draining) return false;
        r = more_wait(c, deadline_ms);
        if (r != 0) break;
    }
    bool idle = c->idle;
    c->idle = false;
    if (r == -ETIMEDOUT && !idle) refuse_wait(c, 408, "the request did not arrive in time");
    if (event == HTTP1_ERROR) refuse_wait(c, c->parser.status, c->parser.reason);
    return event == HTTP1_HEAD;
}

/* --- requests --------------------------------------------------------------------------------- */

static const char *body_problem(int status)
{
    if (status == 408) return "the body did not arrive in time";
    if (status == 413) return "the body is too large";
    return "the body is malformed";
}

/* What the handler left undone. */
static void answer_finish_wait(HttpConn *c, int r)
{
    HttpReq *req = &c->req;
    bool ours = !c->body_status && !c->error && r != -ECANCELED; /* not what a client did */
    if (r < 0 && ours)
        LOG_WARN("request failed", LOG_STR("method", req->method), LOG_STR("path", req->path),
                 LOG_CSTR("why", diag_text_or(r)), LOG_CSTR("requestId", req->request_id));
    if (c->reply == REPLY_STREAMING || fiber_cancelled()) c->close = true; /* cut: not a success */
    if (c->reply != REPLY_NONE || c->error) return;
    int status = c->body_status;
    const char *detail = status ? body_problem(status) : "the request could not be handled";
    (void)http_error_wait(c, status ? status : 500, detail);
}

static void log_access(const HttpConn *c)
{
    const HttpReq *req = &c->req;
    LOG_DEBUG("request", LOG_STR("method", req->method), LOG_STR("path", req->path),
              LOG_INT("status", c->status), LOG_INT("us", clock_mono_us() - req->started_us),
              LOG_CSTR("requestId", req->request_id));
}

/* One request, from its first byte to the end of its answer. Returns whether another may follow. */
static bool request_wait(HttpConn *c, bool first)
{
    request_reset(c);
    if (!head_wait(c, first)) return false;
    request_begin(c);
    int r = c->server->handler(&c->req, c->server->ctx);
    answer_finish_wait(c, r);
    log_access(c);
    if (c->error) return false;
    if (c->reply == REPLY_DONE) drain_wait(c);
    if (c->close && (!c->body_done || stream_peek(c->stream).len > 0)) linger_wait(c);
    if (c->close) return false;
    http1_parser_reset(&c->parser);
    c->head_from_ms = clock_mono_ms();
    return true;
}

int http_conn_main(void *arg)
{
    HttpConn *c = arg;
    bool first = true;
    if (c->refuse) {
        request_reset(c);
        c->close = true;
        if (http_error_wait(c, 503, "too many connections") == 0) linger_wait(c);
        return 0;
    }
    while (request_wait(c, first)) first = false;
    return 0;
}

/* --- for handlers ----------------------------------------------------------------------------- */

Str http_header(const HttpReq *req, const char *name)
{
    return http1_field(&req->conn->parser.head, str_of(name), NULL);
}

int http_gone_wait(HttpReq *req, int64_t deadline_ms)
{
    return stream_gone_wait(req->conn->stream, deadline_ms);
}

bool http_gone(const HttpReq *req)
{
    return req->conn->error || stream_peer_gone(req->conn->stream);
}

void http_close_after(HttpReq *req)
{
    req->conn->close = true;
}
