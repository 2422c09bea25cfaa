#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "net/addr_guard.h"
#include "net/http_private.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define BODY_BYTES_DEFAULT (8 * 1024 * 1024)
#define REQUEST_MEMORY_FACTOR 16
#define REQUEST_MEMORY_MAX (256 * 1024 * 1024)
#define REQUEST_MEMORY_MIN (1024 * 1024) /* heads need some however small bodies are */
#define CONNECTIONS_DEFAULT 10000
#define HEADER_TIMEOUT_DEFAULT_MS 10000
#define BODY_TIMEOUT_DEFAULT_MS 30000
#define IDLE_TIMEOUT_DEFAULT_MS 75000
#define WRITE_TIMEOUT_DEFAULT_MS 30000

/* Connections beyond connections_max that are answered; more are closed without a word. */
#define REFUSING_MAX 64

static void default_size(size_t *value, size_t otherwise)
{
    if (*value == 0) *value = otherwise;
}

static void default_ms(int64_t *value, int64_t otherwise)
{
    if (*value == 0) *value = otherwise;
}

static void options_complete(HttpServerOptions *o)
{
    if (!o->address) o->address = "127.0.0.1";
    default_size(&o->body_bytes_max, BODY_BYTES_DEFAULT);
    size_t memory = MIN(o->body_bytes_max, (size_t)REQUEST_MEMORY_MAX / REQUEST_MEMORY_FACTOR);
    default_size(&o->request_memory_max, MAX(memory * REQUEST_MEMORY_FACTOR, REQUEST_MEMORY_MIN));
    default_size(&o->connections_max, CONNECTIONS_DEFAULT);
    default_ms(&o->header_timeout_ms, HEADER_TIMEOUT_DEFAULT_MS);
    default_ms(&o->body_timeout_ms, BODY_TIMEOUT_DEFAULT_MS);
    default_ms(&o->idle_timeout_ms, IDLE_TIMEOUT_DEFAULT_MS);
    default_ms(&o->write_timeout_ms, WRITE_TIMEOUT_DEFAULT_MS);
}

/* --- connections ------------------------------------------------------------------------------ */

static HttpConn *conn_new(HttpServer *server, Stream *stream)
{
    HttpConn *c = xcalloc(1, sizeof *c);
    c->server = server;
    c->stream = stream;
    c->head_from_ms = clock_mono_ms();
    c->req.conn = c;
    http1_parser_init(&c->parser, &server->options.limits);
    arena_init(&c->req.arena, server->options.request_memory_max);
    buf_init(&c->head, HTTP_HEAD_BYTES_MAX);
    buf_init(&c->fields, HTTP_FIELDS_ADDED_BYTES_MAX);
    list_init(&c->node);
    return c;
}

static void conn_free(HttpConn *c)
{
    list_remove(&c->node);
    stream_close(c->stream);
    arena_deinit(&c->req.arena);
    buf_deinit(&c->head);
    buf_deinit(&c->fields);
    free(c);
}

static int conn_main(void *arg)
{
    HttpConn *c = arg;
    HttpServer *server = c->server;
    bool refuse = c->refuse;
    int r = http_conn_main(c);
    conn_free(c);
    if (refuse) server->refusing_n--;
    else atomic_fetch_sub_explicit(&server->open_connections, 1, memory_order_relaxed);
    cond_broadcast(&server->conn_ended);
    return r;
}

static void on_connection(Stream *stream, void *ctx)
{
    HttpServer *server = ctx;
    HttpConn *c = conn_new(server, stream);
    int64_t open = atomic_load_explicit(&server->open_connections, memory_order_relaxed);
    c->refuse = open >= (int64_t)server->options.connections_max;
    http_count(c->refuse ? &server->refused_connections : &server->connections);
    bool room = !c->refuse || server->refusing_n < REFUSING_MAX;
    if (!room || fiber_spawn("http connection", conn_main, c, &c->fiber) < 0) {
        if (!c->refuse) http_count(&server->refused_connections);
        conn_free(c);
        return;
    }
    list_push_back(&server->conns, &c->node);
    if (c->refuse) server->refusing_n++;
    else atomic_fetch_add_explicit(&server->open_connections, 1, memory_order_relaxed);
}

/* --- the server ------------------------------------------------------------------------------- */

int http_server_open(const HttpServerOptions *options, HttpHandler handler, void *ctx,
                     HttpServer **ret)
{
    assert(handler);
    HttpServer *server = xcalloc(1, sizeof *server);
    server->options = *options;
    server->handler = handler;
    server->ctx = ctx;
    server->random = entropy_u64();
    options_complete(&server->options);
    list_init(&server->conns);
    cond_init(&server->conn_ended);
    const HttpServerOptions *o = &server->options;
    int r = listener_open(o->address, o->port, o->shared, on_connection, server, &server->listener);
    if (r < 0) {
        free(server);
        return r;
    }
    server->options.port = listener_port(server->listener);
    if (o->own) addr_guard_listens(o->port, true);
    *ret = server;
    return 0;
}

uint16_t http_server_port(const HttpServer *server)
{
    return server->options.port;
}

void http_server_stats(const HttpServer *server, HttpServerStats *ret)
{
#define READ(name) .name = atomic_load_explicit(&server->name, memory_order_relaxed)
    *ret = (HttpServerStats){
        READ(connections),         READ(requests),     READ(bad_requests),
        READ(refused_connections), READ(timeouts),     READ(body_too_large),
        READ(headers_too_large),   READ(write_stalls), READ(open_connections)
    };
#undef READ
}

/* Cancelling an idle connection ends it; one with bytes to read is not idle whatever its flag
 * says. */
void http_server_drain(HttpServer *server)
{
    if (server->draining) return;
    server->draining = true;
    listener_close(TAKE(server->listener));
    if (server->options.own) addr_guard_listens(server->options.port, false);
    LIST_EACH (&server->conns, node) {
        HttpConn *c = CONTAINER_OF(node, HttpConn, node);
        if (c->idle && stream_peek(c->stream).len == 0) fiber_cancel(c->fiber);
    }
}

/* The shield is for a caller that is itself cancelled: handlers use what it is about to free, so it
 * cannot leave before them. They are cancelled, so they end. */
void http_server_close_wait(HttpServer *server, int64_t deadline_ms)
{
    if (!server) return;
    int r = 0;
    http_server_drain(server);
    while (r == 0 && !list_empty(&server->conns)) r = cond_wait(&server->conn_ended, deadline_ms);
    LIST_EACH (&server->conns, node) fiber_cancel(CONTAINER_OF(node, HttpConn, node)->fiber);
    fiber_shield();
    while (!list_empty(&server->conns))
        if (cond_wait(&server->conn_ended, DEADLINE_NONE) < 0) DIE("a shielded wait was cancelled");
    fiber_unshield();
    free(server);
}
