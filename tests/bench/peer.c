/* Both ends of a gateway for benchmarks: a model API that answers from a script, and a client that
 * measures. One thread, epoll, nothing but libc, so that what is between them is what is measured.
 *
 *   peer stub PORT
 *       POST anything: the model's name in the body says what to answer, in parts joined by "-":
 *         d60    60 ms before the answer begins
 *         t200   200 tokens, each an event of its own when the body has "stream":true
 *         i20    20 ms between events (0: all at once)
 *       GET /stats: {"requests":N,"tokens":N,"open":N}
 *       GET /ping: {"status":"Healthy"}, as a server agent; any answer will do for its invocations
 *
 *   peer load PORT[,PORT...] PATH CONNECTIONS SECONDS WARMUP BODY [HEADER...]
 *       sends BODY (@FILE: what it holds) again and again on each connection, spread over the
 *       ports; prints "counting" after the warm-up, and at the end a JSON line: requests, errors
 *       (not 200, or an answer without its end), events ("data:" lines), latency p50 and p99 in us
 *       (whole answers; of streams to the first event), seconds
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_BYTES (512 * 1024)
#define CONNECTIONS_MAX 20000
#define LATENCIES_MAX 4000000
#define WAVE_US 200 /* how late a timer may be */

typedef struct {
    int fd;
    char *in;
    size_t in_len;
    /* stub */
    int64_t due_us; /* of the next event; 0: nothing to come */
    int64_t interval_us;
    int tokens_left, tokens;
    bool stream;
    bool head_sent;
    /* load */
    int64_t began_us, first_us;
    size_t body_at, want; /* of the answer; want: whole bytes, 0: chunked */
    size_t scanned;       /* of a chunked answer: bytes looked at */
} Conn;

static int epoll_fd;
static Conn *conns[CONNECTIONS_MAX];
static Conn *timed[CONNECTIONS_MAX]; /* stub: those with something to come */
static size_t timed_n;
static int64_t requests, tokens, errors, events, opened;

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* Appends; what does not fit is a mistake of this program. */
typedef struct {
    char *bytes;
    size_t len, max;
} Text;

__attribute__((format(printf, 2, 3))) static void put(Text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text->bytes + text->len, text->max - text->len, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < text->max - text->len);
    text->len += (size_t)n;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static Conn *conn_add(int fd)
{
    assert(fd < CONNECTIONS_MAX);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    Conn *c = conns[fd] = calloc(1, sizeof *c);
    c->fd = fd;
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    opened++;
    return c;
}

static void conn_drop(Conn *c)
{
    for (size_t i = 0; i < timed_n; i++)
        if (timed[i] == c) timed[i--] = timed[--timed_n];
    close(c->fd);
    conns[c->fd] = NULL;
    free(c->in);
    free(c);
    opened--;
}

/* Small answers on loopback: what does not go out at once is waited for. */
static bool send_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            usleep(50);
            continue;
        }
        if (sent <= 0) return false;
        bytes += sent;
        n -= (size_t)sent;
    }
    return true;
}

/* Returns 0 at the end or on an error. */
static ssize_t fill(Conn *c)
{
    if (!c->in) c->in = malloc(IN_BYTES + 1);
    assert(c->in_len < IN_BYTES);
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_BYTES - c->in_len, 0);
    if (n < 0 && errno == EAGAIN) return -1;
    if (n <= 0) return 0;
    c->in_len += (size_t)n;
    c->in[c->in_len] = '\0';
    return n;
}

/* --- the stub --------------------------------------------------------------------------------- */

static int number_after(const char *model, char letter, int otherwise)
{
    for (const char *p = model; *p && *p != '"'; p++)
        if (*p == letter && p[-1] == '-' && p[1] >= '0' && p[1] <= '9')
            return (int)strtol(p + 1, NULL, 10);
    return otherwise;
}

static bool send_plain(Conn *c)
{
    static char body_bytes[1 << 20], head_bytes[256];
    Text body = { body_bytes, 0, sizeof body_bytes }, head = { head_bytes, 0, sizeof head_bytes };
    put(&body, "{\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion\",\"created\":1700000000,"
               "\"model\":\"stub\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
               "\"content\":\"");
    for (int i = 0; i < c->tokens; i++) put(&body, "word ");
    put(&body,
        "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,"
        "\"completion_tokens\":%d,\"total_tokens\":%d}}",
        c->tokens, c->tokens + 10);
    put(&head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
        body.len);
    memmove(body.bytes + head.len, body.bytes, body.len);
    memcpy(body.bytes, head.bytes, head.len);
    tokens += c->tokens;
    return send_all(c->fd, body.bytes, head.len + body.len);
}

#define CHUNK_BEGIN                                                                                \
    "data: {\"id\":\"chatcmpl-stub\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
    "\"model\":\"stub\",\"choices\":["

static void put_chunk(Text *out, const char *event)
{
    put(out, "%zx\r\n%s\r\n", strlen(event), event);
}

static void put_end(Text *out, int tokens_n)
{
    char bytes[512];
    Text event = { bytes, 0, sizeof bytes };
    put_chunk(out, CHUNK_BEGIN "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
    put(&event,
        CHUNK_BEGIN "],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%d,"
                    "\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
        tokens_n, tokens_n + 10);
    put_chunk(out, bytes);
    put(out, "0\r\n\r\n");
}

/* The next event; the last one comes with the end. */
static bool send_event(Conn *c)
{
    char bytes[2048];
    Text out = { bytes, 0, sizeof bytes };
    if (!c->head_sent)
        put(&out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                  "Transfer-Encoding: chunked\r\n\r\n");
    c->head_sent = true;
    put_chunk(&out, CHUNK_BEGIN "{\"index\":0,\"delta\":{\"content\":\"word \"},"
                                "\"finish_reason\":null}]}\n\n");
    tokens++;
    if (--c->tokens_left == 0) put_end(&out, c->tokens);
    return send_all(c->fd, out.bytes, out.len);
}

/* Answers as far as it is time; false when the connection is lost. */
static bool answer(Conn *c, int64_t now)
{
    while (c->due_us && c->due_us <= now) {
        bool ok = c->stream ? send_event(c) : send_plain(c);
        if (!ok) return false;
        if (!c->stream || c->tokens_left == 0) c->due_us = 0;
        else c->due_us += c->interval_us;
    }
    return true;
}

static void timed_set(Conn *c)
{
    for (size_t i = 0; i < timed_n; i++)
        if (timed[i] == c) return;
    timed[timed_n++] = c;
}

static void serve(Conn *c)
{
    for (;;) {
        char *end = c->in_len ? strstr(c->in, "\r\n\r\n") : NULL;
        if (!end) return;
        char *length = strcasestr(c->in, "\r\ncontent-length:");
        size_t head = (size_t)(end + 4 - c->in),
               body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
        if (c->in_len < head + body) return;
        if (strncmp(c->in, "GET /stats", 10) == 0) {
            char bytes[512];
            Text out = { bytes, 0, sizeof bytes };
            put(&out,
                "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"requests\":%lld,"
                "\"tokens\":%lld,\"open\":%lld}",
                (long long)requests, (long long)tokens, (long long)opened);
            send_all(c->fd, out.bytes, out.len);
            shutdown(c->fd, SHUT_WR);
        } else if (strncmp(c->in, "GET /ping", 9) == 0) {
            static const char healthy[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                          "Content-Length: 20\r\n\r\n{\"status\":\"Healthy\"}";
            send_all(c->fd, healthy, sizeof healthy - 1);
        } else {
            char *model = strstr(c->in + head, "\"model\"");
            model = model ? strchr(model + 7, '"') + 1 : "";
            requests++;
            c->stream = strstr(c->in + head, "\"stream\":true") ||
                        strstr(c->in + head, "\"stream\": true");
            c->tokens = c->tokens_left = number_after(model, 't', 80);
            c->interval_us = number_after(model, 'i', 0) * 1000LL;
            c->head_sent = false;
            c->due_us = now_us() + number_after(model, 'd', 0) * 1000LL;
        }
        memmove(c->in, c->in + head + body, c->in_len - head - body + 1);
        c->in_len -= head + body;
        if (!c->due_us) continue;
        if (!answer(c, now_us())) return;
        if (c->due_us) timed_set(c);
    }
}

static void stub_timers(void)
{
    int64_t now = now_us();
    for (size_t i = 0; i < timed_n;) {
        Conn *c = timed[i];
        if (c->due_us > now) i++;
        else if (!answer(c, now)) conn_drop(c);
        else if (!c->due_us) timed[i] = timed[--timed_n];
        else i++;
    }
}

static int listen_on(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 4096) < 0) die("listen");
    return fd;
}

static int stub_main(int port)
{
    int listener = listen_on(port);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }, ready[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec wait = { .tv_nsec = WAVE_US * 1000 };
        int n = epoll_pwait2(epoll_fd, ready, 256, timed_n ? &wait : NULL, NULL);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;)
                    conn_add(fd);
                continue;
            }
            ssize_t got = fill(c);
            if (got == 0) conn_drop(c);
            else if (got > 0) serve(c);
        }
        stub_timers();
    }
    return 0;
}

/* --- the client ------------------------------------------------------------------------------- */

static char *request;
static size_t request_len;
static int32_t *latencies;
static size_t latencies_n;
static bool counting;

static int ports[1024], ports_n, ports_next;

static void ports_read(char *text)
{
    for (char *p = text; *p && ports_n < 1024; p += *p == ',')
        ports[ports_n++] = (int)strtol(p, &p, 10);
    if (ports_n == 0) die("ports");
}

static const char *body_read(const char *text)
{
    if (text[0] != '@') return text;
    FILE *f = fopen(text + 1, "r");
    char *body = calloc(1, IN_BYTES);
    if (!f || fread(body, 1, IN_BYTES - 1, f) == 0) die(text);
    fclose(f);
    return body;
}

static int dial(void)
{
    int port = ports[ports_next++ % ports_n];
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) < 0) die("connect");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void ask(Conn *c)
{
    c->in_len = c->body_at = c->want = c->scanned = 0;
    c->first_us = 0;
    c->began_us = now_us();
    send_all(c->fd, request, request_len);
}

static void done(Conn *c, bool ok)
{
    int64_t took = (c->first_us ? c->first_us : now_us()) - c->began_us;
    if (counting) {
        requests++;
        errors += !ok;
        if (latencies_n < LATENCIES_MAX) latencies[latencies_n++] = (int32_t)took;
    }
    ask(c);
}

/* Events of a chunked answer are counted as they come, and what was counted is dropped. */
static void scan(Conn *c)
{
    char *at = c->in + c->body_at;
    for (char *p; (p = strstr(at, "data:")); at = p + 5) {
        if (!c->first_us) c->first_us = now_us();
        events += counting;
    }
    bool ended = c->in_len >= c->body_at + 5 && memcmp(c->in + c->in_len - 5, "0\r\n\r\n", 5) == 0;
    if (ended) {
        done(c, memcmp(c->in, "HTTP/1.1 200", 12) == 0);
        return;
    }
    size_t left = (size_t)(c->in + c->in_len - at),
           keep = left < 8 ? left : 8; /* "data:" or the end may be cut here */
    memmove(c->in + c->body_at, c->in + c->in_len - keep, keep);
    c->in_len = c->body_at + keep;
    c->in[c->in_len] = '\0';
}

static void take(Conn *c)
{
    if (!c->body_at) {
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return;
        c->body_at = (size_t)(end + 4 - c->in);
        char *length = strcasestr(c->in, "\r\ncontent-length:");
        if (length && length < end) c->want = c->body_at + strtoul(length + 17, NULL, 10);
    }
    if (!c->want) scan(c);
    else if (c->in_len >= c->want) done(c, memcmp(c->in, "HTTP/1.1 200", 12) == 0);
}

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void report(double seconds)
{
    qsort(latencies, latencies_n, sizeof *latencies, compare);
    int32_t p50 = latencies_n ? latencies[latencies_n / 2] : 0;
    int32_t p99 = latencies_n ? latencies[latencies_n * 99 / 100] : 0;
    printf(
        "{\"requests\":%lld,\"errors\":%lld,\"events\":%lld,\"p50_us\":%d,\"p99_us\":%d,\"seconds\":%.3f}\n",
        (long long)requests, (long long)errors, (long long)events, p50, p99, seconds);
}

static int load_main(int argc, char **argv)
{
    int connections = (int)strtol(argv[2], NULL, 10);
    double seconds = strtod(argv[3], NULL), warmup = strtod(argv[4], NULL);
    const char *body = body_read(argv[5]);
    ports_read(argv[0]);
    Text head = { malloc(strlen(body) + 8192), 0, strlen(body) + 8192 };
    put(&head,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n",
        argv[1], strlen(body));
    for (int i = 6; i < argc; i++) put(&head, "%s\r\n", argv[i]);
    put(&head, "\r\n%s", body);
    request = head.bytes;
    request_len = head.len;
    latencies = malloc(LATENCIES_MAX * sizeof *latencies);
    for (int i = 0; i < connections; i++) ask(conn_add(dial()));
    int64_t began = now_us(), count_from = began + (int64_t)(warmup * 1e6),
            until = count_from + (int64_t)(seconds * 1e6);
    struct epoll_event ready[256];
    for (int64_t now = began; now < until; now = now_us()) {
        if (!counting && now >= count_from) {
            counting = true;
            printf("counting\n");
            fflush(stdout);
        }
        int n = epoll_wait(epoll_fd, ready, 256, 10);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            ssize_t got = fill(c);
            if (got > 0) {
                take(c);
                continue;
            }
            if (got < 0) continue;
            errors += counting; /* closed within an answer, or after it: begin again */
            conn_drop(c);
            ask(conn_add(dial()));
        }
    }
    report(seconds);
    return 0;
}

int main(int argc, char **argv)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(0);
    if (argc == 3 && strcmp(argv[1], "stub") == 0) return stub_main((int)strtol(argv[2], NULL, 10));
    if (argc >= 8 && strcmp(argv[1], "load") == 0) return load_main(argc - 2, argv + 2);
    fprintf(
        stderr,
        "usage: peer stub PORT | peer load PORTS PATH CONNECTIONS SECONDS WARMUP BODY [HEADER...]\n");
    return 2;
}
