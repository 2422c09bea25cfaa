/* The whole control plane in one process: store, queue, metrics, webhooks, API and HTTP server on a
 * loop of its own thread; and a client of raw sockets for the test's thread. */
#ifndef GANTRY_TESTS_API_FIXTURE_H
#define GANTRY_TESTS_API_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/api.h"
#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "codec/tar.h"
#include "store/artifact_store.h"
#include "sys/clock.h"
#include "tests/unit/temp_dir.h"

#define CLIENT_LIMIT_MS 30000
#define SECRET "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

typedef struct {
    /* set before api_start */
    ApiOptions options;
    QueueOptions queue_options;
    int64_t pages_max; /* of the store; 0: no limit */
    bool webhooks_on;
    size_t webhooks_max; /* attempts at a time; 0: as many as a program makes */
    AddrGuard guard;
    int64_t stop_ms;       /* what webhooks under way get at the end; 0: 3 s */
    size_t body_bytes_max; /* of the server; 0: what the API wants */

    TempDir dir;
    Store *store;
    Queue *queue;
    Metrics *metrics;
    ApiServer *api;
    Webhooks *webhooks;
    WebhookSecrets *secrets;
    bool secret_in_file; /* in the data directory, instead of SECRET */
    Breakers *breakers;  /* of webhook hosts: three failures open one for half a second */
    RateBoard *board;
    HttpServer *server;
    Loop *loop;
    uint16_t port;
    sem_t ready;
    LoopMsg stop;
    Cond stopped;
    bool stopping;
    Arena arena; /* of the test: parsed answers */
} ApiFixture;

static inline void api_fixture_stop(LoopMsg *msg)
{
    ApiFixture *f = CONTAINER_OF(msg, ApiFixture, stop);
    f->stopping = true;
    cond_broadcast(&f->stopped);
}

static inline int api_fixture_main(void *arg)
{
    ApiFixture *f = arg;
    f->stopping = false;
    cond_init(&f->stopped);
    HttpServerOptions options = { .body_bytes_max = api_body_bytes_max(f->api) };
    int r = http_server_open(&options, api_handler, f->api, &f->server);
    if (r < 0) DIE("cannot listen: %s", diag_text());
    f->port = http_server_port(f->server);
    metrics_add_loop(f->metrics, f->loop);
    metrics_add_server(f->metrics, f->server);
    WebhookOptions webhooks = {
        .queue = f->queue,
        .secrets = f->secrets,
        .guard = &f->guard,
        .breakers = f->breakers,
        .concurrent_max = f->webhooks_max,
        .timeout_ms = 2000,
    };
    if (f->webhooks_on) {
        if (webhooks_start(&webhooks, &f->webhooks) < 0) DIE("no webhooks: %s", diag_text());
        metrics_add_webhooks(f->metrics, f->webhooks);
    }
    sem_post(&f->ready);
    while (!f->stopping) (void)cond_wait(&f->stopped, DEADLINE_NONE);
    if (f->webhooks) metrics_remove(f->metrics, f->webhooks);
    webhooks_stop_wait(f->webhooks, deadline_after(f->stop_ms ? f->stop_ms : 3000));
    metrics_remove(f->metrics, f->server);
    metrics_remove(f->metrics, f->loop);
    http_server_close_wait(f->server, deadline_after(1000));
    f->webhooks = NULL;
    loop_stop(f->loop);
    return 0;
}

/* Opens everything on the directory there is. */
static inline void api_open(ApiFixture *f)
{
    StoreOptions store = { .path = f->dir.path, .pages_max = f->pages_max };
    if (store_open(&store, &f->store) < 0) DIE("no store: %s", diag_text());
    if (artifact_store_init(f->dir.path) < 0) DIE("no artifacts: %s", diag_text());
    if (!f->queue_options.webhook_body) f->queue_options.webhook_body = webhook_body;
    if (queue_open(f->store, &f->queue_options, &f->queue) < 0) DIE("no queue: %s", diag_text());
    f->metrics = metrics_new(f->queue);
    f->options.queue = f->queue;
    f->options.metrics = f->metrics;
    f->options.dev = f->options.keys_n == 0;
    BreakerPolicy policy = BREAKER_POLICY_DEFAULT;
    policy.calls_min = 3;
    policy.open_ms = policy.open_max_ms = 500;
    policy.probes = 1;
    f->breakers = breakers_new("webhook", &policy, 0);
    f->board = rate_board_new(f->options.lease_ms ? f->options.lease_ms : 10000, true);
    rate_board_add_breakers(f->board, f->breakers);
    metrics_add_board(f->metrics, f->board);
    f->options.board = f->board;
    WebhookSecretOptions secrets = { .secret = STR(SECRET), .data_dir = f->dir.path };
    if (f->secret_in_file) secrets.secret = STR_NULL;
    if (webhook_secrets_open(&secrets, &f->secrets) < 0) DIE("no secret: %s", diag_text());
    f->options.webhook_secrets = f->secrets;
    if (api_new(&f->options, &f->api) < 0) DIE("no API: %s", diag_text());
    sem_init(&f->ready, 0, 0);
    f->loop = loop_new("server");
    fiber_spawn_on(f->loop, "main", api_fixture_main, f);
    loop_start_thread(f->loop);
    sem_wait(&f->ready);
}

static inline void api_close(ApiFixture *f)
{
    api_set_draining(f->api, true);
    f->stop.run = api_fixture_stop;
    loop_post(f->loop, &f->stop);
    loop_join(f->loop);
    loop_free(f->loop);
    sem_destroy(&f->ready);
    api_free(TAKE(f->api));
    webhook_secrets_free(TAKE(f->secrets));
    metrics_free(TAKE(f->metrics));
    rate_board_free(TAKE(f->board));
    breakers_free(TAKE(f->breakers));
    queue_close(TAKE(f->queue));
    store_close(TAKE(f->store));
}

static inline void api_start(ApiFixture *f)
{
    signal(SIGPIPE, SIG_IGN);
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    temp_dir_init(&f->dir);
    arena_init(&f->arena, (size_t)512 << 20);
    api_open(f);
}

static inline void api_stop(ApiFixture *f)
{
    api_close(f);
    arena_deinit(&f->arena);
    temp_dir_deinit(&f->dir);
}

/* --- the client ------------------------------------------------------------------------------- */

typedef struct {
    int status;
    Str head, body;   /* in the fixture's arena; a chunked body keeps its chunks */
    const Json *json; /* NULL when the body is not JSON */
} Reply;

static inline int client_open(const ApiFixture *f)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(f->port) };
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) != 0) fail_msg("cannot connect");
    return fd;
}

static inline void client_send(int fd, Str bytes)
{
    while (bytes.len > 0) {
        ssize_t n = send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (n <= 0) return;
        bytes = str_skip(bytes, (size_t)n);
    }
}

/* Adds what arrives within the limit; false at the end. */
static inline bool client_more(int fd, Buf *into)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char chunk[65536];
    if (poll(&p, 1, CLIENT_LIMIT_MS) <= 0) fail_msg("no answer in %d ms", CLIENT_LIMIT_MS);
    ssize_t n = recv(fd, chunk, sizeof chunk, 0);
    return n > 0 && buf_add(into, str_make(chunk, (size_t)n));
}

/* fields: whole lines, each ended with CRLF; NULL: none. */
static inline void client_request(const ApiFixture *f, int fd, const char *method, const char *path,
                                  const char *fields, Str body)
{
    char head[8192];
    bool has_host = fields && str_find(str_of(fields), STR("Host:")) >= 0;
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nConnection: close\r\n", method, path);
    if (!has_host)
        n += snprintf(head + n, sizeof head - (size_t)n, "Host: localhost:%u\r\n", f->port);
    if (body.ptr)
        n += snprintf(head + n, sizeof head - (size_t)n, "Content-Length: %zu\r\n", body.len);
    n += snprintf(head + n, sizeof head - (size_t)n, "%s\r\n", fields ? fields : "");
    assert_true(n < (int)sizeof head);
    client_send(fd, str_make(head, (size_t)n));
    client_send(fd, body);
}

static inline Reply reply_parse(ApiFixture *f, Str bytes)
{
    Reply reply = { 0 };
    ptrdiff_t end = str_find(bytes, STR("\r\n\r\n"));
    if (end < 0) fail_msg("no answer, but \"%.*s\"", STR_ARG(bytes));
    Str all = arena_str(&f->arena, bytes);
    reply.head = str_sub(all, 0, (size_t)end + 2);
    reply.body = str_skip(all, (size_t)end + 4);
    int64_t status;
    assert_int_equal(str_to_i64(str_sub(bytes, 9, 3), &status), 0);
    reply.status = (int)status;
    if (json_parse(&f->arena, reply.body, NULL, &reply.json, NULL) < 0) reply.json = NULL;
    return reply;
}

static inline Reply call_with(ApiFixture *f, const char *method, const char *path,
                              const char *fields, Str body)
{
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, (size_t)256 << 20);
    int fd = client_open(f);
    client_request(f, fd, method, path, fields, body);
    while (client_more(fd, &bytes)) {
    }
    close(fd);
    return reply_parse(f, buf_str(&bytes));
}

static inline Reply get(ApiFixture *f, const char *path)
{
    return call_with(f, "GET", path, NULL, STR_NULL);
}

static inline Reply post(ApiFixture *f, const char *path, const char *body)
{
    return call_with(f, "POST", path, "Content-Type: application/json\r\n",
                     body ? str_of(body) : STR(""));
}

/* Value of a field of the answer, or the empty Str. */
static inline Str field(const Reply *reply, const char *name)
{
    Str rest = reply->head, line;
    while (rest.len > 0) {
        rest = str_split(rest, '\n', &line, NULL);
        Str key, value = str_split(line, ':', &key, NULL);
        if (str_eq_nocase(key, str_of(name))) return str_trim(value);
    }
    return STR_NULL;
}

static inline const Json *member(const Reply *reply, const char *name)
{
    return json_get(reply->json, name);
}

static inline Str text(const Reply *reply, const char *name)
{
    return json_str(member(reply, name));
}

static inline int64_t number(const Reply *reply, const char *name)
{
    return json_i64_or(member(reply, name), INT64_MIN);
}

static inline void expect_at(Reply reply, int status, const char *file, int line)
{
    if (reply.status == status) return;
    fprintf(stderr, "status %d, not %d: %.*s\n", reply.status, status, STR_ARG(reply.body));
    _fail(file, line);
}
#define EXPECT(reply, status_) expect_at((reply), (status_), __FILE__, __LINE__)

static inline void expect_text_at(Str got, const char *want, const char *file, int line)
{
    if (str_eq(got, str_of(want))) return;
    fprintf(stderr, "\"%.*s\" is not \"%s\"\n", STR_ARG(got), want);
    _fail(file, line);
}
#define EXPECT_TEXT(got, want) expect_text_at((got), (want), __FILE__, __LINE__)

static inline void expect_has_at(Str got, const char *part, const char *file, int line)
{
    if (str_find(got, str_of(part)) >= 0) return;
    fprintf(stderr, "no \"%s\" in \"%.*s\"\n", part, STR_ARG(got));
    _fail(file, line);
}
#define EXPECT_HAS(got, part) expect_has_at((got), (part), __FILE__, __LINE__)

static inline char *format(ApiFixture *f, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline char *format(ApiFixture *f, const char *fmt, ...)
{
    char out[8192];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(out, sizeof out, fmt, args);
    va_end(args);
    assert_true(n >= 0 && n < (int)sizeof out);
    return arena_cstr(&f->arena, str_of(out));
}

/* --- agents and tasks ------------------------------------------------------------------------- */

typedef struct {
    const char *path, *text;
} AgentFile;

/* A tar of files, which stand in order of their paths. */
static inline Str tar_of(ApiFixture *f, const AgentFile *files, size_t n)
{
    CLEANUP(buf_deinit) Buf tar;
    buf_init(&tar, (size_t)64 << 20);
    TarOut out;
    tar_out_init(&out, &tar);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(
            tar_out_file(&out, &(TarEntry){ .path = str_of(files[i].path) }, str_of(files[i].text)),
            0);
    assert_int_equal(tar_out_end(&out), 0);
    return arena_str(&f->arena, buf_str(&tar));
}

static inline Str agent_tar(ApiFixture *f, const char *name, const char *prompt)
{
    AgentFile files[] = {
        { "agent.py", "print(1)\n" },
        { "agent.yaml", format(f,
                               "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: %s}\n"
                               "spec: {command: [python3, agent.py], prompt: p.md, "
                               "model: sim/echo-1}\n",
                               name) },
        { "p.md", prompt },
    };
    return tar_of(f, files, ARRAY_N(files));
}

static inline Reply upload(ApiFixture *f, const char *agent, Str tar)
{
    return call_with(f, "POST", format(f, "/api/agents/%s/versions", agent),
                     "Content-Type: application/x-tar\r\n", tar);
}

/* Deploys an agent and returns its version's id. */
static inline Str deploy(ApiFixture *f, const char *name)
{
    Reply reply = upload(f, name, agent_tar(f, name, "You help."));
    EXPECT(reply, 201);
    return text(&reply, "versionId");
}

/* Submits a task and returns its id. */
static inline const char *submit(ApiFixture *f, const char *body)
{
    Reply reply = post(f, "/agent/execute", body);
    EXPECT(reply, 202);
    return arena_cstr(&f->arena, text(&reply, "taskId"));
}

#define ALL_SLOTS "{\"critical\":4,\"normal\":4,\"low\":4,\"shared\":4}"

static inline const char *worker_register(ApiFixture *f)
{
    Reply reply = post(f, "/api/workers", "{\"name\":\"w\",\"slots\":" ALL_SLOTS "}");
    EXPECT(reply, 201);
    return arena_cstr(&f->arena, text(&reply, "workerId"));
}

/* Claims one task at once; fails when there is none. */
static inline const Json *worker_claim(ApiFixture *f, const char *worker)
{
    Reply reply = post(
        f, format(f, "/api/workers/%s/claim", worker),
        "{\"free\":{\"critical\":0,\"normal\":0,\"low\":0,\"shared\":1},\"waitMs\":5000}");
    EXPECT(reply, 200);
    assert_int_equal(json_len(member(&reply, "tasks")), 1);
    return json_at(member(&reply, "tasks"), 0);
}

/* members: the rest of the body, beginning with a comma. */
static inline Reply worker_finish(ApiFixture *f, const char *worker, const Json *task,
                                  const char *outcome, const char *members)
{
    return post(f, format(f, "/api/workers/%s/finish", worker),
                format(f, "{\"taskId\":\"%.*s\",\"fence\":%" PRId64 ",\"outcome\":\"%s\"%s}",
                       STR_ARG(json_str(json_get(task, "taskId"))),
                       json_i64_or(json_get(task, "fence"), 0), outcome, members));
}

/* Runs the next task to its end. */
static inline void work_once(ApiFixture *f, const char *worker, const char *outcome,
                             const char *members)
{
    Reply reply = worker_finish(f, worker, worker_claim(f, worker), outcome, members);
    EXPECT(reply, 204);
}

/* --- rows ------------------------------------------------------------------------------------- */

static inline int rows_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "SELECT (SELECT count(*) FROM task) + (SELECT count(*) FROM agent) +"
                            " (SELECT count(*) FROM version) + (SELECT count(*) FROM idempotency) +"
                            " (SELECT count(*) FROM webhook) + (SELECT count(*) FROM worker)");
    int r = db_step(s);
    if (r == DB_E_ROW) *(int64_t *)arg = db_i64(s, 0);
    db_reset(s);
    return r == DB_E_ROW ? 0 : -EIO;
}

/* How many rows there are in all: what a refused request must not change. */
static inline int64_t rows(ApiFixture *f)
{
    int64_t n = 0;
    assert_int_equal(store_read(f->store, rows_job, &n), 0);
    return n;
}

#endif
