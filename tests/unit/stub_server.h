/* A scripted HTTP peer on raw sockets: a thread a connection, so it may stall, cut and reset as it
 * likes. The answer function is called for every request read; it writes what it wants to the
 * socket and says what becomes of the connection. */
#ifndef GANTRY_TESTS_STUB_SERVER_H
#define GANTRY_TESTS_STUB_SERVER_H

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/str.h"

typedef struct Stub Stub;

typedef struct {
    Stub *stub;
    int fd;
    char *bytes; /* the request: head and body */
    size_t len, cap;
    Str line; /* "GET /x HTTP/1.1" */
    Str path; /* "/x" */
    Str head; /* all of the head */
    Str body;
} StubRequest;

typedef enum { STUB_KEEP, STUB_CLOSE, STUB_RESET } StubEnd;
typedef StubEnd (*StubFn)(StubRequest *request, void *ctx);

struct Stub {
    StubFn fn;
    void *ctx;
    int listener;
    uint16_t port;
    pthread_t thread;
    atomic_int connections; /* accepted so far */
    atomic_int requests;    /* read whole so far */
    atomic_int open;        /* connection threads alive */
    atomic_bool closing;
};

static inline void stub_send(StubRequest *request, Str bytes)
{
    while (bytes.len) {
        ssize_t n = send(request->fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n <= 0) return;
        bytes = str_skip(bytes, (size_t)n);
    }
}

static inline void stub_sends(StubRequest *request, const char *text)
{
    stub_send(request, str_of(text));
}

static inline void stub_sleep_ms(int ms)
{
    usleep((useconds_t)ms * 1000);
}

/* Value of a request field, or the empty Str. */
static inline Str stub_field(const StubRequest *request, const char *name)
{
    Str rest = request->head, line;
    while (rest.len) {
        rest = str_split(rest, '\n', &line, NULL);
        Str field, value = str_split(line, ':', &field, NULL);
        if (str_eq_nocase(field, str_of(name))) return str_trim(value);
    }
    return STR_NULL;
}

static inline bool stub_more(StubRequest *request)
{
    if (request->len + 65536 > request->cap) {
        request->cap = request->cap * 2 + 131072;
        request->bytes = realloc(request->bytes, request->cap);
    }
    ssize_t n = recv(request->fd, request->bytes + request->len, 65536, 0);
    if (n <= 0) return false;
    request->len += (size_t)n;
    return true;
}

static inline bool stub_read(StubRequest *request)
{
    ptrdiff_t end;
    request->len = 0;
    do {
        if (!stub_more(request)) return false;
        end = str_find(str_make(request->bytes, request->len), STR("\r\n\r\n"));
    } while (end < 0);
    size_t head = (size_t)end + 4;
    request->head = str_make(request->bytes, head);
    int64_t length = 0;
    if (str_to_i64(stub_field(request, "content-length"), &length) < 0) length = 0;
    while (request->len < head + (size_t)length)
        if (!stub_more(request)) return false;
    request->head = str_make(request->bytes, head);
    request->body = str_make(request->bytes + head, (size_t)length);
    str_split(request->head, '\r', &request->line, NULL);
    Str method, rest = str_split(request->line, ' ', &method, NULL);
    str_split(rest, ' ', &request->path, NULL);
    atomic_fetch_add(&request->stub->requests, 1);
    return true;
}

static inline void *stub_connection(void *arg)
{
    StubRequest *request = arg;
    Stub *stub = request->stub;
    StubEnd end = STUB_KEEP;
    while (end == STUB_KEEP && stub_read(request)) end = stub->fn(request, stub->ctx);
    if (end == STUB_RESET) {
        struct linger abort = { .l_onoff = 1, .l_linger = 0 };
        setsockopt(request->fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    }
    close(request->fd);
    free(request->bytes);
    free(request);
    atomic_fetch_sub(&stub->open, 1);
    return NULL;
}

static inline void *stub_main(void *arg)
{
    Stub *stub = arg;
    int fd;
    while ((fd = accept(stub->listener, NULL, NULL)) >= 0 && !atomic_load(&stub->closing)) {
        atomic_fetch_add(&stub->connections, 1);
        atomic_fetch_add(&stub->open, 1);
        StubRequest *request = calloc(1, sizeof *request);
        request->stub = stub;
        request->fd = fd;
        pthread_t thread;
        if (pthread_create(&thread, NULL, stub_connection, request) != 0) abort();
        pthread_detach(thread);
    }
    if (fd >= 0) close(fd);
    return NULL;
}

static inline void stub_open(Stub *stub, StubFn fn, void *ctx)
{
    *stub = (Stub){ .fn = fn, .ctx = ctx };
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t size = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    stub->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(stub->listener, (struct sockaddr *)&at, size) != 0 || listen(stub->listener, 512) != 0)
        abort();
    getsockname(stub->listener, (struct sockaddr *)&at, &size);
    stub->port = ntohs(at.sin_port);
    if (pthread_create(&stub->thread, NULL, stub_main, stub) != 0) abort();
}

/* The clients must have closed their connections. */
static inline void stub_close(Stub *stub)
{
    atomic_store(&stub->closing, true);
    shutdown(stub->listener, SHUT_RDWR);
    pthread_join(stub->thread, NULL);
    close(stub->listener);
    while (atomic_load(&stub->open)) usleep(1000);
}

#endif
