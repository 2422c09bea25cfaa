#include "base/diag.h"
#include "base/log.h"
#include "codec/url.h"
#include "net/http_private.h"
#include "sys/clock.h"

/* So much at once is given write_timeout_ms to leave; more is sent in parts, each with its own
 * time. */
#define PART_BYTES_MAX (64 * 1024)

/* A client that reads as fast as we write never makes a write wait: others get their turn after
 * this. */
#define YIELD_BYTES (512 * 1024)

void http_reply_reset(HttpConn *c)
{
    c->reply = REPLY_NONE;
    c->status = 0;
    c->chunked = c->head_only = c->id_added = false;
    buf_clear(&c->fields);
    c->fields_n = 0;
}

/* --- sending ---------------------------------------------------------------------------------- */

/* A failed write leaves the stream in pieces: every later one fails the same way. */
static int send_failed(HttpConn *c, int r)
{
    assert(r != 0);
    if (r == -ETIMEDOUT) http_count(&c->server->write_stalls);
    if (r != -ETIMEDOUT && r != -ECANCELED) r = HTTP_E_GONE;
    c->error = r;
    c->close = true;
    return diag_set(r, r == -ETIMEDOUT ? "the client does not read its answer" : "the client left");
}

static int part_send_wait(HttpConn *c, const Str *pieces, size_t pieces_n)
{
    for (size_t i = 0; i < pieces_n; i++) c->sent_in_turn += pieces[i].len;
    if (c->sent_in_turn > YIELD_BYTES) {
        c->sent_in_turn = 0;
        int r = fiber_yield_wait();
        if (r != 0) return r;
    }
    int64_t deadline_ms = deadline_after(c->server->options.write_timeout_ms);
    return stream_write_wait(c->stream, pieces, pieces_n, deadline_ms);
}

int http_send_wait(HttpConn *c, Str head, Str body, Str tail)
{
    if (c->error) return c->error;
    for (;;) {
        Str part = str_sub(body, 0, PART_BYTES_MAX);
        body = str_skip(body, part.len);
        const Str pieces[] = { head, part, body.len ? STR_NULL : tail };
        int r = part_send_wait(c, pieces, ARRAY_N(pieces));
        if (r != 0) return send_failed(c, r);
        if (body.len == 0) return 0;
        head = STR_NULL;
    }
}

/* --- heads ------------------------------------------------------------------------------------ */

static void add_connection(HttpConn *c)
{
    bool old = c->has_head && c->parser.head.version_1_0;
    if (c->close) buf_add(&c->head, STR("Connection: close\r\n"));
    else if (old) buf_add(&c->head, STR("Connection: keep-alive\r\n"));
}

static bool has_no_body(int status)
{
    return status == 204 || status == 304;
}

/* Whether the connection cannot go on after this answer: too much of the body is left to skip
 * it, or a client that waits for "100 Continue" was not sent one, and may or may not send the
 * body now. */
static bool body_in_the_way(const HttpConn *c)
{
    const Http1Head *head = &c->parser.head;
    if (!c->has_head || c->body_done) return false;
    if (head->expect_continue && !c->continue_sent) return true;
    return head->content_length > c->body_bytes + HTTP_DRAIN_BYTES_MAX;
}

/* Begins the answer: its head, into c->head. length < 0: not known. Clients of HTTP/1.0 know no
 * chunks; to them the end of the connection is the end of the body. */
static void head_make(HttpConn *c, int status, const char *content_type, int64_t length)
{
    assert(!c->req.replied && c->reply == REPLY_NONE);
    assert(status >= 200 && status <= 599);
    bool old = c->has_head && c->parser.head.version_1_0;
    if (c->server->draining || body_in_the_way(c)) c->close = true;
    if (length < 0 && old) c->close = true;
    c->req.replied = true;
    c->status = status;
    c->chunked = length < 0 && !old && !has_no_body(status);
    if (has_no_body(status)) c->head_only = true;

    Buf *head = &c->head;
    buf_clear(head);
    http1_add_status(head, status);
    if (!c->id_added) http1_add_field(head, STR("x-request-id"), str_of(c->req.request_id));
    if (content_type) http1_add_field(head, STR("Content-Type"), str_of(content_type));
    if (length >= 0 && !has_no_body(status)) http1_add_content_length(head, (uint64_t)length);
    if (c->chunked) http1_add_chunked(head);
    buf_add(head, buf_str(&c->fields));
    add_connection(c);
    http1_add_head_end(head);
    if (head->failed) DIE("no memory for the head of an answer"); /* its parts are all bounded */
}

void http_header_add(HttpReq *req, const char *name, Str value)
{
    HttpConn *c = req->conn;
    assert(!req->replied && c->fields_n < HTTP_FIELDS_ADDED_MAX);
    c->fields_n++;
    if (http1_add_field(&c->fields, str_of(name), value)) {
        c->id_added |= str_eq_nocase(str_of(name), STR("x-request-id"));
        return;
    }
    LOG_ERROR("field left out of an answer: too large", LOG_CSTR("name", name),
              LOG_INT("bytes", value.len));
    c->fields.failed = false; /* what was added before stays */
}

/* --- answers ---------------------------------------------------------------------------------- */

int http_reply_wait(HttpReq *req, int status, const char *content_type, Str body)
{
    HttpConn *c = req->conn;
    head_make(c, status, content_type, (int64_t)body.len);
    if (c->head_only) body = STR_NULL;
    int r = http_send_wait(c, buf_str(&c->head), body, STR_NULL);
    if (r == 0) c->reply = REPLY_DONE;
    return r;
}

void http_reply_make(HttpReq *req, int status, const char *content_type, Str body, HttpReady *ret)
{
    HttpConn *c = req->conn;
    head_make(c, status, content_type, (int64_t)body.len);
    if (c->head_only) body = STR_NULL;
    *ret = (HttpReady){ .fd = stream_fd(c->stream), .head = buf_str(&c->head), .body = body };
}

void http_reply_send(HttpReady *ready)
{
    const Str pieces[] = { ready->head, ready->body };
    if (ready->head.len + ready->body.len > PART_BYTES_MAX)
        return; /* other threads have to go on */
    if (ready->fd >= 0) ready->sent = stream_send_now(ready->fd, pieces, ARRAY_N(pieces));
}

int http_reply_rest_wait(HttpReq *req, const HttpReady *ready)
{
    HttpConn *c = req->conn;
    size_t of_head = MIN(ready->sent, ready->head.len), of_body = ready->sent - of_head;
    Str head = str_skip(ready->head, of_head), body = str_skip(ready->body, of_body);
    bool all = head.len + body.len == 0; /* then no cancelling undoes it */
    int r = all ? 0 : http_send_wait(c, head, body, STR_NULL);
    if (r == 0) c->reply = REPLY_DONE;
    return r;
}

void http_reply_drop(HttpReq *req)
{
    HttpConn *c = req->conn;
    assert(req->replied && c->reply == REPLY_NONE);
    http_reply_reset(c);
    c->head_only = str_eq(req->method, STR("HEAD"));
    req->replied = false;
}

int http_reply_start_wait(HttpReq *req, int status, const char *content_type)
{
    HttpConn *c = req->conn;
    head_make(c, status, content_type, -1);
    c->reply = REPLY_STREAMING;
    return http_send_wait(c, buf_str(&c->head), STR_NULL, STR_NULL);
}

/* A chunk a part, so that a slow client is given its time for each. */
int http_write_wait(HttpReq *req, Str bytes)
{
    HttpConn *c = req->conn;
    assert(c->reply == REPLY_STREAMING);
    if (c->error) return c->error;
    if (c->head_only || bytes.len == 0) return 0;
    if (!c->chunked) return http_send_wait(c, STR_NULL, bytes, STR_NULL);
    int r = 0;
    while (r == 0 && bytes.len > 0) {
        char line[HTTP1_CHUNK_LINE_MAX];
        Str part = str_sub(bytes, 0, PART_BYTES_MAX);
        r = http_send_wait(c, http1_chunk_line(part.len, line), part, HTTP1_CHUNK_TAIL);
        bytes = str_skip(bytes, part.len);
    }
    return r;
}

int http_end_wait(HttpReq *req)
{
    HttpConn *c = req->conn;
    assert(c->reply == REPLY_STREAMING);
    bool last = c->chunked && !c->head_only;
    int r = http_send_wait(c, last ? HTTP1_CHUNK_LAST : STR_NULL, STR_NULL, STR_NULL);
    if (r == 0) c->reply = REPLY_DONE;
    return r;
}

/* --- helpers for handlers --------------------------------------------------------------------- */

Str http_query(HttpReq *req, const char *name, bool *ret_found)
{
    Str value = STR_NULL;
    int r = url_query_find(&req->arena, req->query, str_of(name), &value);
    if (ret_found) *ret_found = r == 0;
    return r == 0 ? value : STR_NULL;
}

const char *http_status_text(int status)
{
    return http1_status_text(status);
}
