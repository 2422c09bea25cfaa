/* A client of the task API and of the worker protocol for benchmarks, cheap so that the server is
 * what is measured: one thread, epoll, nothing but libc; a request at a time on each connection.
 *
 *   queue_client PORT KEY SUBMIT_CONNS WORK_CONNS WORKER BATCH COUNT GAP_MS BODY [STEPS]
 *
 * SUBMIT_CONNS connections submit COUNT tasks with BODY; WORK_CONNS claim as WORKER, up to BATCH
 * tasks a claim, and report them as succeeded, several in one request, until COUNT have ended. One
 * of both may be 0. With a
 * GAP_MS a task is submitted so long after the one before has ended (low load). With STEPS, and a
 * BATCH of 1, so many results of tools are recorded before a task is reported, one after the other,
 * each when the one before is kept.
 *
 * At the end a line of JSON: tasks, errors, seconds, submit_p50_us and submit_p99_us (request to
 * 202), start_p50_us and start_p99_us (request to the claim's answer that holds the task),
 * end_p50_us and end_p99_us (request to the answer that its end is kept); the last four with GAP_MS
 * only.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_BYTES (1 << 20)
#define OUT_BYTES (64 << 10)
#define BATCH_MAX 256 /* as many as a claim gives, and a report takes */
#define CONNS_MAX 1024
#define ID_BYTES 64

typedef enum { SUBMIT, CLAIM, STEP, FINISH, FINISH_MANY } Doing;

typedef struct {
    int fd;
    Doing doing;
    bool submits;
    int64_t began_us;
    char *in;
    size_t in_len;
    char ids[BATCH_MAX][ID_BYTES];
    long long fences[BATCH_MAX];
    int asked, held, step;
} Conn;

static struct {
    int port, batch, gap_ms, steps, submit_conns, work_conns;
    const char *key, *worker, *body;
    long count;
} args;

static int epoll_fd;
static Conn *conns[CONNS_MAX];
static Conn *submitter; /* with a gap: who submits next, and when */
static int64_t submit_at_us, submitted_us;
static long submitted, accepted, claimed, asked, ended, errors;
static int32_t *submit_us, *start_us, *end_us;
static char step_result[272]; /* in base64 */

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "queue_client: %s: %.400s\n", what, detail);
    exit(1);
}

/* Small requests on loopback: what does not go out at once is waited for. */
static void send_all(Conn *c, const char *bytes, size_t n)
{
    while (n) {
        ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) continue;
        if (sent <= 0) die("send", strerror(errno));
        bytes += sent;
        n -= (size_t)sent;
    }
}

static void post(Conn *c, Doing doing, const char *path, const char *body)
{
    char out[OUT_BYTES];
    int n = snprintf(out, sizeof out,
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
                     "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     path, args.key, strlen(body), body);
    assert(n > 0 && n < OUT_BYTES);
    c->doing = doing;
    c->in_len = 0;
    c->began_us = now_us();
    send_all(c, out, (size_t)n);
}

static void submit(Conn *c)
{
    if (submitted == args.count) return;
    submitted++;
    post(c, SUBMIT, "/agent/execute", args.body);
    submitted_us = c->began_us;
}

/* Asks for no more than are still to come: none stays claimed when this program ends. */
static void claim(Conn *c)
{
    char path[256], body[256];
    long left = args.count - claimed - asked;
    c->held = 0;
    c->asked = (int)(left < args.batch ? left : args.batch);
    if (c->asked <= 0) return;
    asked += c->asked;
    snprintf(path, sizeof path, "/api/workers/%s/claim", args.worker);
    snprintf(body, sizeof body,
             "{\"free\":{\"critical\":0,\"normal\":0,\"low\":0,\"shared\":%d},\"waitMs\":10000}",
             c->asked);
    post(c, CLAIM, path, body);
}

/* 200 bytes, as a worker records what a tool has returned. */
static void step(Conn *c)
{
    static const char nothing[] = "{\"bytes\":0,\"gzip\":false,\"data\":\"\"}";
    char path[256], body[2048];
    snprintf(path, sizeof path, "/api/workers/%s/journal", args.worker);
    snprintf(
        body, sizeof body,
        "{\"taskId\":\"%s\",\"fence\":%lld,\"recordings\":[{\"kind\":\"tool\",\"name\":\"step\","
        "\"callId\":\"step-%d\",\"key\":\"%064x\",\"at\":\"2030-01-01T00:00:00Z\",\"status\":200,"
        "\"contentType\":\"text/plain\",\"streamed\":false,\"complete\":true,"
        "\"answer\":{\"bytes\":200,\"gzip\":false,\"data\":\"%s\"},\"request\":{\"bytes\":0,"
        "\"base\":\"\",\"prefix\":0,\"suffix\":0,\"rest\":%s}}]}",
        c->ids[0], c->fences[0], c->step, (unsigned)c->step, step_result, nothing);
    post(c, STEP, path, body);
}

static int report(const Conn *c, int i, char *out, size_t size)
{
    return snprintf(out, size,
                    "{\"taskId\":\"%s\",\"fence\":%lld,\"outcome\":\"succeeded\","
                    "\"result\":{\"ok\":true}}",
                    c->ids[i], c->fences[i]);
}

static void step_result_make(void)
{
    for (int i = 0; i < 66; i++) memcpy(step_result + i * 4, "eHh4", 4); /* "xxx" */
    memcpy(step_result + 264, "eHg=", 5);
}

static void finish(Conn *c)
{
    static char body[OUT_BYTES - 1024];
    char path[256];
    size_t n = 0;
    bool many = c->held > 1;
    snprintf(path, sizeof path, "/api/workers/%s/finish%s", args.worker, many ? "-many" : "");
    if (many) n += (size_t)snprintf(body, sizeof body, "{\"tasks\":[");
    for (int i = 0; i < c->held; i++) {
        if (i > 0) body[n++] = ',';
        n += (size_t)report(c, i, body + n, sizeof body - n - 4);
    }
    if (many) snprintf(body + n, sizeof body - n, "]}");
    post(c, many ? FINISH_MANY : FINISH, path, body);
}

static int taken(const char *body)
{
    int n = 0;
    while ((body = strstr(body, "\"status\":204")) != NULL) {
        body++;
        n++;
    }
    return n;
}

static void take_tasks(Conn *c, const char *body)
{
    for (const char *at = body; (at = strstr(at, "\"taskId\":\"")) != NULL;) {
        at += strlen("\"taskId\":\"");
        const char *fence = strstr(at, "\"fence\":");
        if (!fence || c->held == BATCH_MAX) die("claim", body);
        snprintf(c->ids[c->held], ID_BYTES, "%.36s", at);
        c->fences[c->held++] = strtoll(fence + strlen("\"fence\":"), NULL, 10);
        if (args.gap_ms) start_us[claimed] = (int32_t)(now_us() - submitted_us);
        claimed++;
    }
}

static void go_on(Conn *c, int status, const char *body)
{
    switch (c->doing) {
    case SUBMIT:
        if (status != 202) die("submit", c->in);
        submit_us[accepted++] = (int32_t)(now_us() - c->began_us);
        if (!args.gap_ms) submit(c);
        return;
    case CLAIM:
        if (status != 200) die("claim", c->in);
        asked -= c->asked;
        take_tasks(c, body);
        c->step = 0;
        break;
    case STEP:
        if (status != 204) die("step", c->in);
        c->step++;
        break;
    case FINISH:
    case FINISH_MANY:
        errors += c->doing == FINISH ? status != 204 : c->held - taken(body);
        if (args.gap_ms) end_us[ended] = (int32_t)(now_us() - submitted_us);
        ended += c->held;
        c->held = 0;
        if (args.gap_ms) submit_at_us = now_us() + args.gap_ms * 1000LL;
        break;
    }
    if (!c->held) claim(c);
    else if (c->step < args.steps) step(c);
    else finish(c);
}

static void arrived(Conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_len, IN_BYTES - 1 - c->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("the server closed", "a connection");
    c->in_len += (size_t)n;
    c->in[c->in_len] = '\0';
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    size_t want = (size_t)(end + 4 - c->in);
    if (length && length < end) want += strtoul(length + 17, NULL, 10);
    if (c->in_len >= want) go_on(c, (int)strtol(c->in + 9, NULL, 10), end + 4);
}

static void dial(bool submits)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)args.port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || fd >= CONNS_MAX || connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
        die("connect", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    Conn *c = conns[fd] = calloc(1, sizeof *c);
    c->fd = fd;
    c->in = malloc(IN_BYTES);
    c->submits = submits;
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    if (!submits) claim(c);
    else if (!args.gap_ms) submit(c);
    else submitter = c;
}

static bool over(void)
{
    return accepted >= (args.submit_conns ? args.count : 0) &&
           ended >= (args.work_conns ? args.count : 0);
}

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void figures(const char *name, int32_t *us, long n)
{
    if (n == 0) return;
    qsort(us, (size_t)n, sizeof *us, compare);
    printf(",\"%s_p50_us\":%d,\"%s_p99_us\":%d", name, us[n / 2], name, us[n * 99 / 100]);
}

static void serve(void)
{
    struct epoll_event ready[256];
    while (!over()) {
        int wait_ms = -1;
        if (submitter && submit_at_us) {
            int64_t left_us = submit_at_us - now_us();
            wait_ms = left_us <= 0 ? 0 : (int)(left_us / 1000);
        }
        int n = epoll_wait(epoll_fd, ready, 256, wait_ms);
        for (int i = 0; i < n; i++) arrived(ready[i].data.ptr);
        if (!submitter || !submit_at_us || now_us() < submit_at_us) continue;
        submit_at_us = 0;
        submit(submitter);
    }
}

int main(int argc, char **argv)
{
    if (argc != 10 && argc != 11) die("usage", "see queue_client.c");
    args.port = (int)strtol(argv[1], NULL, 10);
    args.key = argv[2];
    args.submit_conns = (int)strtol(argv[3], NULL, 10);
    args.work_conns = (int)strtol(argv[4], NULL, 10);
    args.worker = argv[5];
    args.batch = (int)strtol(argv[6], NULL, 10);
    args.count = strtol(argv[7], NULL, 10);
    args.gap_ms = (int)strtol(argv[8], NULL, 10);
    args.body = argv[9];
    args.steps = argc > 10 ? (int)strtol(argv[10], NULL, 10) : 0;
    if (args.count <= 0 || args.batch < 1 || args.batch > BATCH_MAX ||
        (args.steps > 0 && args.batch > 1))
        die("arguments", argv[6]);
    step_result_make();
    submit_us = calloc((size_t)args.count + BATCH_MAX, sizeof *submit_us);
    start_us = calloc((size_t)args.count + BATCH_MAX, sizeof *start_us);
    end_us = calloc((size_t)args.count + BATCH_MAX, sizeof *end_us);
    epoll_fd = epoll_create1(0);
    int64_t began_us = now_us();
    submit_at_us = began_us + args.gap_ms * 1000LL;
    for (int i = 0; i < args.submit_conns; i++) dial(true);
    for (int i = 0; i < args.work_conns; i++) dial(false);
    serve();
    printf("{\"tasks\":%ld,\"errors\":%ld,\"seconds\":%.6f", args.count, errors,
           (double)(now_us() - began_us) / 1e6);
    figures("submit", submit_us, accepted);
    figures("start", start_us, args.gap_ms ? claimed : 0);
    figures("end", end_us, args.gap_ms ? ended : 0);
    printf("}\n");
    return 0;
}
