/* An HTTP server on a loop of its own thread, and a client of raw sockets for the test's thread:
 * it sends what it likes and reads answers strictly. Every wait has a limit, so that a test
 * fails instead of hanging. */
#ifndef GANTRY_TESTS_HTTP_FIXTURE_H
#define GANTRY_TESTS_HTTP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "net/http_server.h"
#include "sys/clock.h"

#define CLIENT_LIMIT_MS 20000

typedef struct {
    HttpServerOptions options;
    HttpHandler handler;
    Loop *loop;
    HttpServer *server; /* NULL once closed */
    sem_t ready, closed;
    uint16_t port;
    /* for handlers */
    atomic_int result; /* of what the handler waited for; INT32_MIN: not yet */
    atomic_size_t written;
    atomic_bool entered, release;
} Fixture;

#define RESULT_NONE INT32_MIN

static inline int fixture_main(void *arg)
{
    Fixture *fx = arg;
    HttpServer *server;
    int r = http_server_open(&fx->options, fx->handler, fx, &server);
    assert(r == 0);
    fx->server = server;
    fx->port = http_server_port(server);
    sem_post(&fx->ready);
    while (fiber_sleep_wait(60000) == 0) {
    }
    http_server_close_wait(server, DEADLINE_NONE);
    sem_post(&fx->closed);
    return 0;
}

static inline void fixture_start(Fixture *fx, HttpHandler handler)
{
    signal(SIGPIPE, SIG_IGN);
    fx->handler = handler;
    atomic_store(&fx->result, RESULT_NONE);
    sem_init(&fx->ready, 0, 0);
    sem_init(&fx->closed, 0, 0);
    fx->loop = loop_new("server");
    fiber_spawn_on(fx->loop, "main", fixture_main, fx);
    loop_start_thread(fx->loop);
    sem_wait(&fx->ready);
}

static inline void fixture_stop(Fixture *fx)
{
    loop_stop(fx->loop);
    loop_join(fx->loop);
    loop_free(fx->loop);
    sem_destroy(&fx->ready);
    sem_destroy(&fx->closed);
}

typedef struct {
    LoopMsg msg;
    Fixture *fx;
    sem_t done;
} DrainMsg;

static inline void drain_run(LoopMsg *msg)
{
    DrainMsg *drain = CONTAINER_OF(msg, DrainMsg, msg);
    http_server_drain(drain->fx->server);
    sem_post(&drain->done);
}

static inline void fixture_drain(Fixture *fx)
{
    DrainMsg drain = { .msg.run = drain_run, .fx = fx };
    sem_init(&drain.done, 0, 0);
    loop_post(fx->loop, &drain.msg);
    sem_wait(&drain.done);
    sem_destroy(&drain.done);
}

static inline HttpServerStats fixture_stats(const Fixture *fx)
{
    HttpServerStats stats;
    http_server_stats(fx->server, &stats);
    return stats;
}

/* Waits until the handler has stored a result; returns it. */
static inline int fixture_result(Fixture *fx)
{
    int64_t until_ms = clock_mono_ms() + CLIENT_LIMIT_MS;
    while (atomic_load(&fx->result) == RESULT_NONE && clock_mono_ms() < until_ms) usleep(1000);
    return atomic_exchange(&fx->result, RESULT_NONE);
}

/* --- the client ------------------------------------------------------------------------------- */

static inline int client_open(const Fixture *fx)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(fx->port) };
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static inline void client_closep(int *fd)
{
    if (*fd >= 0) close(*fd);
}
#define CLIENT CLEANUP(client_closep) int

/* Sends what the peer takes; stops quietly when it has closed. */
static inline void client_send(int fd, Str bytes)
{
    while (bytes.len > 0) {
        ssize_t n = send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n <= 0) return;
        bytes = str_skip(bytes, (size_t)n);
    }
}

/* Bytes that are there within the limit; 0 at the end of the connection, -1 for a reset, -2 when
 * nothing came. */
static inline ssize_t client_read(int fd, char *out, size_t size, int limit_ms)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    if (poll(&p, 1, limit_ms) <= 0) return -2;
    return recv(fd, out, size, 0);
}

/* Whether the server closes the connection without another byte. */
static inline bool client_closed(int fd)
{
    char c;
    return client_read(fd, &c, 1, CLIENT_LIMIT_MS) == 0;
}

/* An answer. bytes keeps what was read beyond it for the next. */
typedef struct {
    Buf bytes;
    size_t used; /* of bytes, by answers before */
    int status;
    Str head;
    char body[4096]; /* cut to fit */
    size_t body_len;
    bool complete; /* as its framing says */
} Answer;

static inline void answer_deinit(Answer *a)
{
    buf_deinit(&a->bytes);
}
#define ANSWER CLEANUP(answer_deinit) Answer

static inline Str answer_rest(const Answer *a)
{
    return str_skip(buf_str(&a->bytes), a->used);
}

/* Reads more bytes; false at the end. */
static inline bool answer_more(Answer *a, int fd)
{
    char chunk[16384];
    if (!a->bytes.max) buf_init(&a->bytes, 1 << 26);
    ssize_t n = client_read(fd, chunk, sizeof chunk, CLIENT_LIMIT_MS);
    if (n <= 0) return false;
    return buf_add(&a->bytes, str_make(chunk, (size_t)n));
}

static inline Str answer_field(const Answer *a, const char *name)
{
    Str rest = a->head, line;
    while (rest.len > 0) {
        rest = str_split(rest, '\n', &line, NULL);
        Str key, value = str_split(line, ':', &key, NULL);
        if (str_eq_nocase(key, str_of(name))) return str_trim(value);
    }
    return STR_NULL;
}

/* Waits for n bytes of rest; false when the connection ends before. */
static inline bool answer_need(Answer *a, int fd, size_t n)
{
    while (answer_rest(a).len < n)
        if (!answer_more(a, fd)) return false;
    return true;
}

static inline bool answer_line(Answer *a, int fd, Str *ret)
{
    ptrdiff_t at;
    while ((at = str_find(answer_rest(a), STR("\r\n"))) < 0)
        if (!answer_more(a, fd)) return false;
    *ret = str_sub(answer_rest(a), 0, (size_t)at);
    a->used += (size_t)at + 2;
    return true;
}

static inline bool answer_take(Answer *a, int fd, size_t n)
{
    if (!answer_need(a, fd, n)) return false;
    size_t keep = MIN(n, sizeof a->body - MIN(a->body_len, sizeof a->body));
    memcpy(a->body + MIN(a->body_len, sizeof a->body), answer_rest(a).ptr, keep);
    a->body_len += n;
    a->used += n;
    return true;
}

static inline bool answer_chunked(Answer *a, int fd)
{
    Str line;
    while (answer_line(a, fd, &line)) {
        char digits[32];
        if (!str_copy(digits, sizeof digits, line)) return false;
        size_t n = strtoul(digits, NULL, 16);
        if (n > 0 && !answer_take(a, fd, n)) return false;
        if (!answer_line(a, fd, &line) || line.len > 0) return false;
        if (n == 0) return true;
    }
    return false;
}

/* Takes the next answer off the connection; for_head: to HEAD. Its head is valid until the next. */
static inline void answer_read(Answer *a, int fd, bool for_head)
{
    ptrdiff_t at;
    char digits[32];
    a->status = 0;
    a->body_len = 0;
    a->complete = false;
    while ((at = str_find(answer_rest(a), STR("\r\n\r\n"))) < 0)
        if (!answer_more(a, fd)) return;
    Str head = str_sub(answer_rest(a), 0, (size_t)at + 2);
    size_t head_at = a->used;
    a->used += (size_t)at + 4;
    assert_true(str_starts_with(head, STR("HTTP/1.1 ")));
    str_copy(digits, sizeof digits, str_sub(head, 9, 3));
    a->status = (int)strtol(digits, NULL, 10);
    a->head = head;
    Str length = answer_field(a, "Content-Length"), encoding = answer_field(a, "Transfer-Encoding");
    assert_false(length.len > 0 && encoding.len > 0);
    str_copy(digits, sizeof digits, length);
    bool none = for_head || a->status < 200 || a->status == 204 || a->status == 304;
    if (none) a->complete = true;
    else if (length.len > 0) a->complete = answer_take(a, fd, strtoul(digits, NULL, 10));
    else if (encoding.len > 0) a->complete = answer_chunked(a, fd);
    else
        while (answer_take(a, fd, MAX(1, answer_rest(a).len))) {
        }
    a->head = str_sub(buf_str(&a->bytes), head_at, head.len); /* the buffer may have moved */
}

static inline Str answer_body(const Answer *a)
{
    assert_true(a->body_len <= sizeof a->body);
    return str_make(a->body, a->body_len);
}

/* A request on a connection of its own, and its answer. */
static inline void client_ask(const Fixture *fx, const char *request, Answer *a)
{
    CLIENT fd = client_open(fx);
    client_send(fd, str_of(request));
    answer_read(a, fd, false);
}

#define assert_str_equal(got, want)                                              \
    do {                                                                         \
        Str got_ = (got), want_ = (want);                                        \
        if (!str_eq(got_, want_))                                                \
            fail_msg("\"%.*s\" is not \"%.*s\"", STR_ARG(got_), STR_ARG(want_)); \
    } while (0)

#endif
