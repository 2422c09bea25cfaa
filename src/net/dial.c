#include "net/dial.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <curl/curl.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <uv.h>

#include "base/arena.h"
#include "base/diag.h"

/* A socket that libcurl wants watched while it connects. */
typedef struct {
    uv_poll_t poll;
    DialConn *conn;
    curl_socket_t fd;
} Watch;

/* One multi handle a connection: libcurl forgets, in the middle of their use, connections of a
 * shared one that have been quiet for two minutes. It goes with the easy handle: at once when a
 * plain connection is open, at the end when libcurl does its TLS. */
struct DialConn {
    CURLM *multi;
    CURL *easy;
    uv_timer_t *timer; /* libcurl's; freed in its close callback */
    uv_poll_t *poll;   /* ours, once open; likewise */
    int fd;            /* of a plain connection: ours to close; else libcurl's */
    bool tls;
    DialState state;
    int watched;   /* events of poll */
    bool may_read; /* the last read did not empty what there was */
    CURLcode result;
    bool refused; /* by the guard */
    const AddrGuard *guard;
    void (*on_event)(void *ctx);
    void *ctx;
    char error[CURL_ERROR_SIZE];
    char refusal[DIAG_BYTES_MAX];
};

static void tell(DialConn *conn)
{
    if (conn->on_event) conn->on_event(conn->ctx);
}

static void on_handle_closed(uv_handle_t *handle)
{
    free(handle);
}

/* --- libcurl's end ---------------------------------------------------------------------------- */

static void curl_drop(DialConn *conn)
{
    if (conn->easy && conn->multi) curl_multi_remove_handle(conn->multi, conn->easy);
    curl_easy_cleanup(conn->easy);
    curl_multi_cleanup(conn->multi); /* gives its sockets back through on_socket */
    conn->easy = NULL;
    conn->multi = NULL;
    if (conn->timer) uv_close((uv_handle_t *)conn->timer, on_handle_closed);
    conn->timer = NULL;
}

/* The watch of the time after. */
static int poll_begin(DialConn *conn, int fd)
{
    conn->fd = fd;
    conn->poll = xcalloc(1, sizeof *conn->poll);
    conn->poll->data = conn;
    if (uv_poll_init_socket(loop_uv(loop_here()), conn->poll, fd) == 0) return 0;
    free(conn->poll);
    conn->poll = NULL;
    return -EIO;
}

static void no_delay(int fd)
{
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* No agent that is started at this moment must inherit it. ThreadSanitizer knows a socket, and what
 * its bytes say of the order of things, only by dup(). */
static int duplicate(int fd)
{
#if defined(__SANITIZE_THREAD__)
    int copy = dup(fd);
    if (copy >= 0) (void)fcntl(copy, F_SETFD, FD_CLOEXEC);
    return copy;
#else
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
#endif
}

/* The socket outlives libcurl's handle, which a plain connection needs no more. */
static int take_plain(DialConn *conn, curl_socket_t theirs)
{
    int fd = duplicate(theirs);
    if (fd < 0) return -errno;
    curl_drop(conn);
    no_delay(fd);
    int r = poll_begin(conn, fd);
    if (r < 0) {
        close(fd);
        conn->fd = -1;
    }
    return r;
}

static void opened(DialConn *conn)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    curl_easy_getinfo(conn->easy, CURLINFO_ACTIVESOCKET, &fd);
    int r = fd == CURL_SOCKET_BAD ? -EIO : conn->tls ? poll_begin(conn, fd) : take_plain(conn, fd);
    if (r == 0) {
        conn->state = DIAL_OPEN;
        return;
    }
    conn->state = DIAL_FAILED;
    conn->result = CURLE_OUT_OF_MEMORY; /* of descriptors, which is all that can be missing here */
}

/* To be called last: conn may be without its libcurl handle afterwards. */
static void collect(DialConn *conn)
{
    int left;
    CURLMsg *msg = curl_multi_info_read(conn->multi, &left);
    if (!msg || msg->msg != CURLMSG_DONE) return;
    assert(conn->state == DIAL_CONNECTING);
    conn->result = msg->data.result;
    if (conn->result == CURLE_OK) opened(conn);
    else conn->state = DIAL_FAILED;
    tell(conn);
}

/* --- libcurl on the loop, while it connects --------------------------------------------------- */

static void on_curl_poll(uv_poll_t *poll, int status, int events)
{
    Watch *watch = CONTAINER_OF(poll, Watch, poll);
    DialConn *conn = watch->conn; /* watch may be closed by the call below */
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
    int running;
    curl_multi_socket_action(conn->multi, watch->fd, flags, &running);
    collect(conn);
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(CONTAINER_OF((uv_poll_t *)(void *)handle, Watch, poll));
}

static Watch *watch_new(DialConn *conn, curl_socket_t fd)
{
    Watch *watch = xmalloc(sizeof *watch);
    watch->conn = conn;
    watch->fd = fd;
    if (uv_poll_init_socket(loop_uv(loop_here()), &watch->poll, fd) == 0) return watch;
    free(watch);
    return NULL;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    DialConn *conn = ctx;
    Watch *watch = socket_ctx;
    if (what == CURL_POLL_REMOVE) {
        if (watch) uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        curl_multi_assign(conn->multi, fd, NULL);
        return 0;
    }
    if (!watch) {
        watch = watch_new(conn, fd);
        if (!watch) return -1;
        curl_multi_assign(conn->multi, fd, watch);
    }
    int events = 0;
    if (what & CURL_POLL_IN) events |= UV_READABLE;
    if (what & CURL_POLL_OUT) events |= UV_WRITABLE;
    return uv_poll_start(&watch->poll, events, on_curl_poll) == 0 ? 0 : -1;
}

static void on_timeout(uv_timer_t *timer)
{
    DialConn *conn = timer->data;
    int running;
    curl_multi_socket_action(conn->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(conn);
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *ctx)
{
    (void)multi;
    DialConn *conn = ctx;
    if (timeout_ms < 0) uv_timer_stop(conn->timer);
    else uv_timer_start(conn->timer, on_timeout, (uint64_t)timeout_ms, 0);
    return 0;
}

/* The last word on where a connection goes: the address is the one that is connected to. After one
 * refusal no other answer of the same name is tried. */
static curl_socket_t on_open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)purpose;
    DialConn *conn = ctx;
    if (conn->refused || (address->family != AF_INET && address->family != AF_INET6))
        return CURL_SOCKET_BAD;
    const struct sockaddr *to = &address->addr;
    if (conn->guard && addr_guard_check_port(conn->guard, addr_from_sockaddr(to),
                                             port_from_sockaddr(to), conn->tls) < 0) {
        conn->refused = true;
        str_copy(conn->refusal, sizeof conn->refusal, str_of(diag_text()));
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* --- beginning -------------------------------------------------------------------------------- */

static void curl_start(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) DIE("libcurl cannot be initialised");
}

/* Everything that must hold for every connection, whoever makes it. */
static unsigned set_policy(CURL *easy)
{
    unsigned bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
    bad |= curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
#if LIBCURL_VERSION_NUM >= 0x075500
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    bad |= curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    /* as OpenSSL's own programs do: where a private authority signs what is called */
    const char *authorities = getenv("SSL_CERT_FILE");
    if (authorities && authorities[0]) bad |= curl_easy_setopt(easy, CURLOPT_CAINFO, authorities);
    bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* a call dropped during its look-up must not wait for the resolver's thread */
    bad |= curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
    return bad;
}

/* The URL that libcurl gets is the canonical text of what was checked. */
static unsigned set_place(DialConn *conn, const DialOptions *options)
{
    Arena arena;
    Url place = *options->url;
    place.path = STR("/");
    place.query = STR_NULL;
    arena_init(&arena, 4 * URL_BYTES_MAX);
    const char *text = arena_cstr(&arena, url_text(&arena, &place));
    unsigned bad = text ? 0 : 1;
    if (text) bad |= curl_easy_setopt(conn->easy, CURLOPT_URL, text);
    arena_deinit(&arena);
    bad |= curl_easy_setopt(conn->easy, CURLOPT_CONNECTTIMEOUT_MS,
                            (long)options->connect_timeout_ms);
    bad |= curl_easy_setopt(conn->easy, CURLOPT_ERRORBUFFER, conn->error);
    bad |= curl_easy_setopt(conn->easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    bad |= curl_easy_setopt(conn->easy, CURLOPT_OPENSOCKETDATA, conn);
    return bad;
}

static unsigned set_multi(DialConn *conn)
{
    unsigned bad = 0;
    bad |= (unsigned)curl_multi_setopt(conn->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    bad |= (unsigned)curl_multi_setopt(conn->multi, CURLMOPT_SOCKETDATA, conn);
    bad |= (unsigned)curl_multi_setopt(conn->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    bad |= (unsigned)curl_multi_setopt(conn->multi, CURLMOPT_TIMERDATA, conn);
    return bad;
}

DialConn *dial_new(const DialOptions *options)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, curl_start);
    CLEANUP(dial_freep) DialConn *conn = xcalloc(1, sizeof *conn);
    conn->fd = -1;
    conn->tls = options->url->https;
    conn->guard = options->guard;
    conn->timer = xcalloc(1, sizeof *conn->timer);
    uv_timer_init(loop_uv(loop_here()), conn->timer);
    conn->timer->data = conn;
    conn->multi = curl_multi_init();
    conn->easy = curl_easy_init();
    if (!conn->multi || !conn->easy) return NULL;
    if (set_policy(conn->easy) | set_place(conn, options) | set_multi(conn)) return NULL;
    if (curl_multi_add_handle(conn->multi, conn->easy) != CURLM_OK) return NULL;
    return TAKE(conn);
}

void dial_notify(DialConn *conn, void (*on_event)(void *ctx), void *ctx)
{
    conn->on_event = on_event;
    conn->ctx = ctx;
}

void dial_free(DialConn *conn)
{
    if (!conn) return;
    if (conn->poll) uv_close((uv_handle_t *)conn->poll, on_handle_closed);
    curl_drop(conn);
    if (!conn->tls && conn->fd >= 0) close(conn->fd);
    free(conn);
}

/* --- state ------------------------------------------------------------------------------------ */

DialState dial_state(const DialConn *conn)
{
    return conn->state;
}

static const char *result_text(const DialConn *conn)
{
    return conn->error[0] ? conn->error : curl_easy_strerror(conn->result);
}

static int not_connected(const DialConn *conn)
{
    long os_errno = 0;
    curl_easy_getinfo(conn->easy, CURLINFO_OS_ERRNO, &os_errno);
    if (conn->refused) return diag_set(-EACCES, "%s", conn->refusal);
    return diag_set(os_errno == ECONNREFUSED ? -ECONNREFUSED : -EHOSTUNREACH, "%s",
                    result_text(conn));
}

int dial_result(const DialConn *conn)
{
    assert(conn->state == DIAL_FAILED);
    switch (conn->result) {
    case CURLE_COULDNT_CONNECT: return not_connected(conn);
    case CURLE_COULDNT_RESOLVE_HOST: return diag_set(-EHOSTUNREACH, "%s", result_text(conn));
    case CURLE_OPERATION_TIMEDOUT: return diag_set(-ETIMEDOUT, "%s", result_text(conn));
    case CURLE_OUT_OF_MEMORY: return diag_set(-ENOMEM, "no memory or descriptor to connect with");
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR: return diag_set(-ECONNRESET, "%s", result_text(conn));
    default: return diag_set(-EPROTO, "%s", result_text(conn));
    }
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)events;
    DialConn *conn = poll->data;
    if (status < 0) conn->watched = 0; /* libuv has stopped it: the socket has an error to read */
    conn->may_read = true;
    tell(conn);
}

static void watch(DialConn *conn, int events)
{
    assert(conn->state == DIAL_OPEN);
    if (conn->watched == events) return;
    conn->watched = events;
    if (events) uv_poll_start(conn->poll, events, on_poll);
    else uv_poll_stop(conn->poll);
}

void dial_watch(DialConn *conn, bool write_too)
{
    watch(conn, UV_READABLE | (write_too ? UV_WRITABLE : 0));
}

void dial_unwatch(DialConn *conn)
{
    watch(conn, 0);
}

bool dial_may_read(const DialConn *conn)
{
    return conn->may_read;
}

static int io_failed(void)
{
    if (errno == EAGAIN || errno == EINTR) return -EAGAIN;
    return errno == EPIPE ? -ECONNRESET : -errno;
}

static int tls_failed(CURLcode code)
{
    return code == CURLE_AGAIN ? -EAGAIN : -ECONNRESET;
}

ssize_t dial_read(DialConn *conn, char *into, size_t n)
{
    assert(conn->state == DIAL_OPEN && n > 0);
    if (conn->tls) { /* a record that was decrypted in part makes no event: read until -EAGAIN */
        size_t got = 0;
        CURLcode code = curl_easy_recv(conn->easy, into, n, &got);
        conn->may_read = code == CURLE_OK;
        return code == CURLE_OK ? (ssize_t)got : tls_failed(code);
    }
    ssize_t got = recv(conn->fd, into, n, 0);
    conn->may_read = got == (ssize_t)n;
    return got >= 0 ? got : io_failed();
}

ssize_t dial_write(DialConn *conn, Str head, Str body)
{
    assert(conn->state == DIAL_OPEN && head.len + body.len > 0);
    if (conn->tls) {
        Str piece = head.len ? head : body;
        size_t sent = 0;
        CURLcode code = curl_easy_send(conn->easy, piece.ptr, piece.len, &sent);
        return code == CURLE_OK ? (ssize_t)sent : tls_failed(code);
    }
    struct iovec iov[2] = { { (void *)(uintptr_t)head.ptr, head.len },
                            { (void *)(uintptr_t)body.ptr, body.len } };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    ssize_t sent = sendmsg(conn->fd, &msg, MSG_NOSIGNAL);
    return sent >= 0 ? sent : io_failed();
}
