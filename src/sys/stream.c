#include "sys/stream.h"

#include <arpa/inet.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "sys/loop_private.h"

#define WRITE_PIECES_MAX 8
#define LISTEN_BACKLOG 1024

struct Stream {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    char *bytes; /* the read buffer; NULL while nothing is buffered and nobody needs it */
    size_t start, len;
    size_t have; /* the reader waits for more than this */
    Op *reader;  /* pending stream_fill_wait or stream_read_wait */
    char *into;  /* while the latter is pending: where its bytes go; NULL: into the buffer */
    size_t into_n, into_max;
    Op *watcher; /* pending stream_gone_wait */
    int error;   /* -errno of a failed read, sticky */
    bool reading, eof;
    bool closing;  /* uv_close was called */
    bool closed;   /* and its callback ran */
    bool released; /* stream_close was called: free when closed */
};

struct Listener {
    uv_tcp_t tcp;
    ListenerFn fn;
    void *ctx;
    uint16_t port;
};

/* A parked reader or watcher: slot is where the stream points at op. */
typedef struct {
    Op op;
    Op **slot;
} Listening;

typedef struct {
    union {
        uv_write_t write;
        uv_shutdown_t shutdown;
    } req;
    Stream *stream;
    Op op;
    int cancel_code;
} Sending;

/* --- life ------------------------------------------------------------------------------------- */

/* Read buffers go from one stream of the loop to the next: an idle connection holds none, and
 * the heap is not grown and trimmed by every turn of a busy loop (a quarter of a small request's
 * time). */
static Loop *loop_of(Stream *s)
{
    return CONTAINER_OF(s->uv.handle.loop, Loop, uv);
}

static void read_buffer_take(Stream *s)
{
    Loop *loop = loop_of(s);
    if (s->bytes) return;
    bool spare = loop->read_spare_n > 0;
    s->bytes = spare ? loop->read_spare[--loop->read_spare_n] : xmalloc(STREAM_READ_BYTES_MAX);
}

static void read_buffer_give(Stream *s)
{
    char *bytes = TAKE(s->bytes);
    if (!bytes) return;
    Loop *loop = loop_of(s);
    if (HAVE_ASAN || loop->read_spare_n == LOOP_READ_SPARE_MAX) free(bytes);
    else loop->read_spare[loop->read_spare_n++] = bytes;
}

static void stream_dispose(Stream *s)
{
    if (!s->closed || !s->released) return;
    read_buffer_give(s);
    free(s);
}

static void on_close(uv_handle_t *handle)
{
    Stream *s = handle->data;
    s->closed = true;
    stream_dispose(s);
}

/* Closes the descriptor; libuv calls back every pending request with an error. */
static void stream_abort(Stream *s)
{
    if (s->closing) return;
    s->closing = true;
    s->reading = false;
    if (!s->error) s->error = -ECANCELED;
    uv_close(&s->uv.handle, on_close);
}

static void wake(Op **slot, int result)
{
    Op *op = *slot;
    *slot = NULL;
    if (op) op_done(op, result);
}

void stream_close(Stream *s)
{
    if (!s) return;
    assert(!s->released);
    wake(&s->reader, -ECANCELED);
    wake(&s->watcher, -ECANCELED);
    s->released = true;
    stream_abort(s);
    stream_dispose(s);
}

static Stream *stream_new(void)
{
    Stream *s = xcalloc(1, sizeof *s);
    s->uv.handle.data = s;
    return s;
}

static int stream_adopt(Stream *s, int fd)
{
    uv_loop_t *uv = loop_uv(loop_here());
    int domain;
    socklen_t len = sizeof domain;
    bool tcp = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain != AF_UNIX;
    int r = tcp ? uv_tcp_init(uv, &s->uv.tcp) : uv_pipe_init(uv, &s->uv.pipe, 0);
    if (r < 0) return uv_errno(r);
    s->uv.handle.data = s;
    r = tcp ? uv_tcp_open(&s->uv.tcp, fd) : uv_pipe_open(&s->uv.pipe, fd);
    return uv_errno(r);
}

int stream_open(int fd, Stream **ret)
{
    Stream *s = stream_new();
    int r = stream_adopt(s, fd);
    if (r < 0) {
        stream_close(s);
        return diag_set(r, "cannot use descriptor %d: %s", fd, strerror(-r));
    }
    *ret = s;
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    Stream *s = handle->data;
    (void)suggested;
    if (s->reader && s->into) {
        *buf = uv_buf_init(s->into, (unsigned)MIN(s->into_max, (size_t)INT_MAX));
        return;
    }
    read_buffer_take(s);
    if (s->start && s->start + s->len == STREAM_READ_BYTES_MAX) {
        memmove(s->bytes, s->bytes + s->start, s->len);
        s->start = 0;
    }
    size_t end = s->start + s->len;
    *buf = uv_buf_init(s->bytes + end, (unsigned)(STREAM_READ_BYTES_MAX - end));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    Stream *s = stream->data;
    if (n == 0) return;
    if (n > 0 && s->reader && s->into) { /* straight to where it belongs */
        assert(buf->base == s->into && s->len == 0);
        s->into_n = (size_t)n;
        wake(&s->reader, 0);
        return;
    }
    (void)buf;
    if (n > 0) {
        s->len += (size_t)n;
        if (s->len == STREAM_READ_BYTES_MAX) {
            uv_read_stop(stream);
            s->reading = false;
        }
        if (s->reader && s->len > s->have) wake(&s->reader, 0);
        return;
    }
    uv_read_stop(stream);
    s->reading = false;
    if (n == UV_EOF) s->eof = true;
    else s->error = uv_errno((int)n);
    wake(&s->reader, 0);
    wake(&s->watcher, 0);
}

static int start_reading(Stream *s)
{
    if (s->reading || s->eof || s->error || s->len == STREAM_READ_BYTES_MAX) return 0;
    int r = uv_read_start(&s->uv.stream, on_alloc, on_read);
    if (r < 0) return uv_errno(r);
    s->reading = true;
    return 0;
}

/* The slot is emptied now and not when the fiber runs: the stream may be closed in between. */
static void cancel_listening(Op *op, int code)
{
    *CONTAINER_OF(op, Listening, op)->slot = NULL;
    op_done(op, code);
}

static int listen_wait(Op **slot, int64_t deadline_ms)
{
    Listening listening = { .slot = slot };
    assert(!*slot);
    op_init(&listening.op, cancel_listening);
    *slot = &listening.op;
    return op_wait(&listening.op, deadline_ms);
}

Str stream_peek(const Stream *s)
{
    return str_make(s->bytes ? s->bytes + s->start : NULL, s->len);
}

static int fill_state(const Stream *s, size_t have)
{
    if (s->len > have) return 0;
    if (s->eof) return STREAM_E_EOF;
    if (s->error) return s->error;
    if (s->len == STREAM_READ_BYTES_MAX) return -ENOBUFS;
    return -EAGAIN;
}

int stream_fill_wait(Stream *s, size_t have, int64_t deadline_ms, Str *ret)
{
    assert(!s->reader && !s->released);
    s->into = NULL;
    int r = fill_state(s, have);
    if (r == -EAGAIN) {
        if ((r = start_reading(s)) < 0) return r;
        if (s->len == 0) { /* an idle connection costs no buffer */
            read_buffer_give(s);
            s->start = 0;
        }
        s->have = have;
        r = listen_wait(&s->reader, deadline_ms);
        if (r < 0) return r; /* the stream may be gone */
        r = fill_state(s, have);
        assert(r != -EAGAIN);
    }
    if (r >= 0) *ret = stream_peek(s);
    return r;
}

/* What is buffered, as much as fits. */
static size_t take_buffered(Stream *s, char *out, size_t n)
{
    n = MIN(n, s->len);
    if (n) memcpy(out, s->bytes + s->start, n);
    stream_consume(s, n);
    return n;
}

int stream_read_wait(Stream *s, char *out, size_t n, int64_t deadline_ms, size_t *ret_n)
{
    assert(!s->reader && !s->released && n > 0);
    *ret_n = take_buffered(s, out, n);
    int r = fill_state(s, 0);
    if (*ret_n) return 0;
    if (r != -EAGAIN) return r;
    if ((r = start_reading(s)) < 0) return r;
    read_buffer_give(s);
    s->into = out;
    s->into_n = 0;
    s->into_max = n;
    r = listen_wait(&s->reader, deadline_ms);
    if (r < 0) return r; /* the stream may be gone */
    s->into = NULL;
    *ret_n = s->into_n;
    return s->into_n ? 0 : fill_state(s, 0);
}

void stream_consume(Stream *s, size_t n)
{
    assert(n <= s->len);
    s->start += n;
    s->len -= n;
    if (s->len == 0) s->start = 0;
}

bool stream_peer_gone(const Stream *s)
{
    return s->eof || s->error;
}

int stream_gone_wait(Stream *s, int64_t deadline_ms)
{
    if (stream_peer_gone(s)) return 0;
    int r = start_reading(s);
    return r < 0 ? r : listen_wait(&s->watcher, deadline_ms);
}

/* --- writing ---------------------------------------------------------------------------------- */

static void cancel_sending(Op *op, int code)
{
    Sending *sending = CONTAINER_OF(op, Sending, op);
    sending->cancel_code = code;
    stream_abort(sending->stream); /* the callback follows, then nothing refers to the bytes */
}

static void sending_done(Sending *sending, int status)
{
    int r = sending->cancel_code ? sending->cancel_code : uv_errno(status);
    op_done(&sending->op, r);
}

static void on_written(uv_write_t *req, int status)
{
    sending_done(CONTAINER_OF(req, Sending, req.write), status);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    sending_done(CONTAINER_OF(req, Sending, req.shutdown), status);
}

/* Drops n bytes from the front of the pieces; returns the first piece that is left. */
static unsigned pieces_drop(uv_buf_t *bufs, unsigned n_bufs, size_t n)
{
    unsigned i = 0;
    while (i < n_bufs && n >= bufs[i].len) n -= bufs[i++].len;
    if (i < n_bufs) {
        bufs[i].base += n;
        bufs[i].len -= n;
    }
    return i;
}

int stream_write_wait(Stream *s, const Str *pieces, size_t pieces_n, int64_t deadline_ms)
{
    uv_buf_t bufs[WRITE_PIECES_MAX];
    assert(pieces_n <= WRITE_PIECES_MAX && !s->released);
    if (s->closing) return -EPIPE;
    if (fiber_cancelled()) return -ECANCELED;
    unsigned n_bufs = 0;
    for (size_t i = 0; i < pieces_n; i++)
        if (pieces[i].len)
            bufs[n_bufs++] = (uv_buf_t){ .base = (char *)pieces[i].ptr, .len = pieces[i].len };
    if (n_bufs == 0) return 0;
    int n = uv_try_write(&s->uv.stream, bufs, n_bufs);
    if (n < 0 && n != UV_EAGAIN) return uv_errno(n);
    unsigned first = pieces_drop(bufs, n_bufs, n > 0 ? (size_t)n : 0);
    if (first == n_bufs) return 0;
    Sending sending = { .stream = s };
    op_init(&sending.op, cancel_sending);
    int r = uv_write(&sending.req.write, &s->uv.stream, bufs + first, n_bufs - first, on_written);
    if (r < 0) return uv_errno(r);
    return op_wait(&sending.op, deadline_ms);
}

int stream_fd(const Stream *s)
{
    uv_os_fd_t fd = -1;
    return s->closing || uv_fileno(&s->uv.handle, &fd) < 0 ? -1 : fd;
}

size_t stream_send_now(int fd, const Str *pieces, size_t pieces_n)
{
    struct iovec parts[WRITE_PIECES_MAX];
    assert(fd >= 0 && pieces_n <= WRITE_PIECES_MAX);
    for (size_t i = 0; i < pieces_n; i++)
        parts[i] = (struct iovec){ .iov_base = (char *)pieces[i].ptr, .iov_len = pieces[i].len };
    struct msghdr msg = { .msg_iov = parts, .msg_iovlen = pieces_n };
    ssize_t n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n > 0 ? (size_t)n : 0;
}

int stream_shutdown_wait(Stream *s, int64_t deadline_ms)
{
    if (s->closing) return -EPIPE;
    Sending sending = { .stream = s };
    op_init(&sending.op, cancel_sending);
    int r = uv_shutdown(&sending.req.shutdown, &s->uv.stream, on_shutdown);
    if (r < 0) return uv_errno(r);
    return op_wait(&sending.op, deadline_ms);
}

/* --- listeners -------------------------------------------------------------------------------- */

static void on_connection(uv_stream_t *server, int status)
{
    Listener *listener = server->data;
    if (status < 0) {
        LOG_WARN("connection not accepted", LOG_CSTR("why", uv_strerror(status)));
        return;
    }
    Stream *s = stream_new();
    int r = uv_tcp_init(loop_uv(loop_here()), &s->uv.tcp);
    if (r < 0) DIE("cannot make a TCP handle: %s", uv_strerror(r));
    s->uv.handle.data = s;
    r = uv_accept(server, &s->uv.stream);
    if (r < 0) {
        stream_close(s);
        return;
    }
    uv_tcp_nodelay(&s->uv.tcp, 1);
    listener->fn(s, listener->ctx);
}

static int socket_bound(const char *address, uint16_t port, bool shared, int *ret_fd)
{
    struct sockaddr_storage at = { 0 };
    bool six = strchr(address, ':') != NULL;
    int r = six ? uv_ip6_addr(address, port, (struct sockaddr_in6 *)&at)
                : uv_ip4_addr(address, port, (struct sockaddr_in *)&at);
    if (r < 0) return -EINVAL;
    int fd = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (shared) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at,
             six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) != 0) {
        r = -errno;
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static uint16_t port_of(uv_tcp_t *tcp)
{
    struct sockaddr_storage at = { 0 };
    int len = sizeof at;
    uv_tcp_getsockname(tcp, (struct sockaddr *)&at, &len);
    return ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                          : ((struct sockaddr_in *)&at)->sin_port);
}

static void on_listener_close(uv_handle_t *handle)
{
    free(CONTAINER_OF((uv_tcp_t *)handle, Listener, tcp));
}

int listener_open(const char *address, uint16_t port, bool shared, ListenerFn fn, void *ctx,
                  Listener **ret)
{
    int fd = -1;
    int r = socket_bound(address, port, shared, &fd);
    if (r < 0) return diag_set(r, "cannot listen on %s:%u: %s", address, port, strerror(-r));
    Listener *listener = xcalloc(1, sizeof *listener);
    listener->fn = fn;
    listener->ctx = ctx;
    r = uv_tcp_init(loop_uv(loop_here()), &listener->tcp);
    if (r < 0) DIE("cannot make a TCP handle: %s", uv_strerror(r));
    listener->tcp.data = listener;
    r = uv_tcp_open(&listener->tcp, fd);
    if (r < 0) close(fd);
    if (r == 0) r = uv_listen((uv_stream_t *)&listener->tcp, LISTEN_BACKLOG, on_connection);
    if (r < 0) {
        listener_close(listener);
        return diag_set(uv_errno(r), "cannot listen on %s:%u: %s", address, port, uv_strerror(r));
    }
    listener->port = port_of(&listener->tcp);
    *ret = listener;
    return 0;
}

uint16_t listener_port(const Listener *listener)
{
    return listener->port;
}

void listener_close(Listener *listener)
{
    if (listener) uv_close((uv_handle_t *)&listener->tcp, on_listener_close);
}
