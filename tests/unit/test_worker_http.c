/* The worker's link over HTTP: what it sends, how it reads answers, and a worker at the end of
 * it. */
#include "worker_bench.h"

#include "stub_server.h"
#include "worker/wire.h"

/* --- answers by script ------------------------------------------------------------------------ */

typedef struct {
    Stub stub;
    Arena arena;                  /* of the answers: they outlive the stub's threads */
    _Atomic(const char *) answer; /* whole, as sent */
    char seen[8192];              /* the last request: line, authorization, body */
} Script;

static StubEnd play(StubRequest *request, void *ctx)
{
    Script *script = ctx;
    snprintf(script->seen, sizeof script->seen, "%.*s\n%.*s\n%.*s", STR_ARG(request->line),
             STR_ARG(stub_field(request, "authorization")), STR_ARG(request->body));
    stub_sends(request, atomic_load(&script->answer));
    return STUB_CLOSE;
}

typedef int (*LinkFn)(Script *script, WorkerLink *link, Arena *arena);

typedef struct {
    Script *script;
    LinkFn fn;
} LinkTest;

static int link_main(void *arg)
{
    LinkTest *t = arg;
    char url[64];
    HttpClient *client = http_client_new();
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", t->script->stub.port);
    WorkerLink *link = link_http_new(
        &(LinkHttpOptions){ .client = client, .url = url, .key = "gk_1", .timeout_ms = 5000 });
    t->fn(t->script, link, &t->script->arena);
    link_free(link);
    http_client_free(client);
    return 0;
}

static void with_script(LinkFn fn)
{
    Script *script = xcalloc(1, sizeof *script);
    LinkTest t = { script, fn };
    signal(SIGPIPE, SIG_IGN);
    arena_init(&script->arena, 1 << 20);
    stub_open(&script->stub, play, script);
    harness_run(link_main, &t);
    stub_close(&script->stub);
    arena_deinit(&script->arena);
    free(script);
    check_none();
}

static const char *json_answer(Arena *arena, const char *status, const char *body)
{
    return arena_printf(arena,
                        "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                        "Connection: close\r\n\r\n%s",
                        status, strlen(body), body)
        .ptr;
}

static int do_register(Script *s, WorkerLink *link, Arena *arena, LinkLease *ret)
{
    s->answer = json_answer(
        arena, "201 Created",
        "{\"workerId\":\"0192f300-0000-7000-8000-00000000000a\",\"leaseMs\":9000,"
        "\"heartbeatMs\":3000}");
    LinkWorker self = { .name = "w \"1\"", .slots = { .reserved = { 1, 2, 3 }, .shared = 4 } };
    return link->ops->register_wait(link, &self, ret);
}

static int registering(Script *s, WorkerLink *link, Arena *arena)
{
    LinkLease lease = { 0 };
    CHECK_INT(do_register(s, link, arena, &lease), 0);
    CHECK_STR(str_of(lease.worker_id), STR("0192f300-0000-7000-8000-00000000000a"));
    CHECK_INT(lease.lease_ms, 9000);
    CHECK_INT(lease.heartbeat_ms, 800); /* more often than it asks: for cancels */
    CHECK_STR(str_of(s->seen),
              STR("POST /api/workers HTTP/1.1\nBearer gk_1\n{\"name\":\"w \\\"1\\\"\","
                  "\"slots\":{\"critical\":1,\"normal\":2,\"low\":3,\"shared\":4}}"));
    LinkWorker self = { .name = "w" };
    static const char *const bad[] = {
        "{}",
        "{\"workerId\":\"../x\",\"leaseMs\":9000}",
        "{\"workerId\":\"aa\",\"leaseMs\":1}",
        "nope",
        "{\"workerId\":\"0123456789012345678901234567890123456789\",\"leaseMs\":9000}",
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        s->answer = json_answer(arena, "201 Created", bad[i]);
        CHECK_INT(link->ops->register_wait(link, &self, &lease), -EPROTO);
    }
    s->answer = json_answer(arena, "401 Unauthorized", "{\"detail\":\"unknown key\"}");
    CHECK_INT(link->ops->register_wait(link, &self, &lease), -EACCES);
    CHECK_HAS(str_of(diag_text()), "unknown key");
    return 0;
}

static void test_register(void **state)
{
    (void)state;
    with_script(registering);
}

static int claiming(Script *s, WorkerLink *link, Arena *arena)
{
    LinkLease lease;
    LinkTask *tasks;
    size_t n = 9;
    LaneConfig slots = { .reserved = { 0, 1, 0 }, .shared = 2 };
    CHECK_INT(do_register(s, link, arena, &lease), 0);
    s->answer = json_answer(
        arena, "200 OK",
        "{\"tasks\":[{\"taskId\":\"0192f300-0000-7000-8000-000000000001\",\"fence\":41,"
        "\"attempt\":2,"
        "\"agent\":\"a\",\"versionId\":\"v\",\"lane\":\"critical\",\"input\":{\"x\": [1]},"
        "\"sessionId\":null,\"userId\":\"u\",\"tenantId\":null,\"limits\":null,"
        "\"remainingMs\":5000,"
        "\"traceparent\":null,\"metadata\":{}}]}");
    CHECK_INT(link->ops->claim_wait(link, &slots, 250, arena, &tasks, &n), 0);
    CHECK_STR(
        str_of(s->seen),
        STR("POST /api/workers/0192f300-0000-7000-8000-00000000000a/claim HTTP/1.1\nBearer gk_1\n"
            "{\"free\":{\"critical\":0,\"normal\":1,\"low\":0,\"shared\":2},\"waitMs\":250}"));
    if (!CHECK_INT(n, 1)) return 0;
    CHECK_INT(tasks[0].ref.fence, 41);
    CHECK_INT(tasks[0].attempt, 2);
    CHECK_INT(tasks[0].lane, LANE_CRITICAL);
    CHECK_STR(tasks[0].input, STR("{\"x\":[1]}"));
    CHECK_STR(tasks[0].user_id, STR("u"));
    CHECK_INT(tasks[0].remaining_ms, 5000);
    s->answer = json_answer(arena, "200 OK", "{\"tasks\":[]}");
    CHECK_INT(link->ops->claim_wait(link, &slots, 0, arena, &tasks, &n), 0);
    CHECK_INT(n, 0);
    s->answer = json_answer(arena, "404 Not Found", "{\"detail\":\"who are you\"}");
    CHECK_INT(link->ops->claim_wait(link, &slots, 0, arena, &tasks, &n), LINK_E_NO_WORKER);
    s->answer = json_answer(arena, "503 Service Unavailable", "{}");
    CHECK_INT(link->ops->claim_wait(link, &slots, 0, arena, &tasks, &n), -EAGAIN);
    s->answer = json_answer(arena, "200 OK", "{\"tasks\":[{}]}");
    CHECK_INT(link->ops->claim_wait(link, &slots, 0, arena, &tasks, &n), -EPROTO);
    return 0;
}

static void test_claim(void **state)
{
    (void)state;
    with_script(claiming);
}

static int reporting(Script *s, WorkerLink *link, Arena *arena)
{
    LinkLease lease;
    TaskFinish finish = { .task = { .fence = 3 }, .outcome = TASK_OUTCOME_SUCCEEDED };
    TaskLogLine line = { .seq = 1, .at_ms = 0, .text = STR("hi") };
    GatewayCall call = { .model = STR("m"), .outcome = GATEWAY_COMPLETE };
    finish.result = STR("{\"ok\":true}");
    CHECK_INT(do_register(s, link, arena, &lease), 0);
    s->answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    CHECK_INT(link->ops->finish_wait(link, &finish), 0);
    CHECK_HAS(str_of(s->seen),
              "/finish HTTP/1.1\nBearer gk_1\n{\"taskId\":\"00000000-0000-0000-0000-"
              "000000000000\",\"fence\":3,\"outcome\":\"succeeded\",\"result\":{\"ok\":true},"
              "\"error\":null,");
    CHECK_INT(link->ops->logs_wait(link, finish.task, &line, 1), 0);
    CHECK_HAS(str_of(s->seen),
              "\"fence\":3,\"entries\":[{\"seq\":1,\"at\":\"1970-01-01T00:00:00.000Z\","
              "\"stream\":\"stderr\",\"text\":\"hi\"}]}");
    CHECK_INT(link->ops->calls_wait(link, finish.task, (Uuid){ 0 }, &call, 1), 0);
    CHECK_HAS(str_of(s->seen), "\"fence\":3,\"calls\":[{");
    CHECK_INT(link->ops->calls_wait(link, finish.task, (Uuid){ { 7 } }, &call, 1), 0);
    CHECK_HAS(str_of(s->seen),
              "\"fence\":3,\"payerId\":\"07000000-0000-0000-0000-000000000000\",\"calls\":[{");
    CHECK_INT(link->ops->leave_wait(link), 0);
    CHECK_HAS(str_of(s->seen), "/leave HTTP/1.1");

    static const struct {
        const char *status;
        int want;
    } cases[] = { { "409 Conflict", LINK_E_STALE },  { "404 Not Found", LINK_E_STALE },
                  { "413 Too Big", LINK_E_REFUSED }, { "422 No", LINK_E_REFUSED },
                  { "400 Bad", LINK_E_REFUSED },     { "429 Slow", -EAGAIN },
                  { "500 Oops", -EAGAIN },           { "507 Full", -EAGAIN },
                  { "403 Forbidden", -EACCES } };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        s->answer = json_answer(arena, cases[i].status, "{\"title\":\"because\"}");
        CHECK_INT(link->ops->finish_wait(link, &finish), cases[i].want);
        CHECK_HAS(str_of(diag_text()), "because");
    }
    s->answer = ""; /* closed without a word */
    CHECK_INT(link->ops->finish_wait(link, &finish), -ECONNRESET);
    return 0;
}

static void test_reports(void **state)
{
    (void)state;
    with_script(reporting);
}

static int versions(Script *s, WorkerLink *link, Arena *arena)
{
    static const char id[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    LinkVersion version = { 0 };
    CLEANUP(buf_deinit) Buf out = { 0 };
    buf_init(&out, 8);
    s->answer = json_answer(
        arena, "200 OK",
        "{\"versionId\":\"x\",\"components\":{\"schema\":1,\"code\":{\"digest\":"
        "\"sha256:abc\"}}}");
    CHECK_INT(link->ops->version_wait(link, str_of(id), arena, &version), 0);
    CHECK_STR(version.components, STR("{\"schema\":1,\"code\":{\"digest\":\"sha256:abc\"}}"));
    CHECK_STR(version.artifact, STR("abc"));
    CHECK_HAS(str_of(s->seen), "GET /api/versions/0123456789abcdef");
    CHECK_INT(link->ops->version_wait(link, STR("../../etc"), arena, &version), LINK_E_NO_VERSION);
    s->answer = json_answer(arena, "200 OK", "12345678");
    CHECK_INT(link->ops->artifact_wait(link, &version, &out), 0);
    CHECK_STR(buf_str(&out), STR("12345678"));
    CHECK_INT(link->ops->artifact_wait(link, &version, &out), -EFBIG);
    buf_clear(&out);
    s->answer = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n1234"; /* cut */
    CHECK(link->ops->artifact_wait(link, &version, &out) < 0);
    s->answer = json_answer(arena, "404 Not Found", "{}");
    CHECK_INT(link->ops->artifact_wait(link, &version, &out), LINK_E_NO_VERSION);
    CHECK_INT(link->ops->version_wait(link, str_of(id), arena, &version), LINK_E_NO_VERSION);
    return 0;
}

static void test_versions(void **state)
{
    (void)state;
    with_script(versions);
}

/* --- a control plane made of the wire functions and the queue --------------------------------- */

typedef struct {
    Bench *bench;
    HttpServer *server;
    HttpClient *client;
    atomic_int swallow;  /* so many answers that give tasks are not sent */
    atomic_int down;     /* so many requests are answered 503 first */
    atomic_int finishes; /* seen, 503 ones included */
} Plane;

static int plane_json(HttpReq *req, int status, Buf *buf)
{
    return http_reply_wait(req, status, "application/json", buf_str(buf));
}

static int plane_done(HttpReq *req, int r)
{
    int status = r == 0 ? 204 : r == QUEUE_E_STALE ? 409 : r == QUEUE_E_NO_WORKER ? 404 : 500;
    return http_reply_wait(req, status, NULL, STR_NULL);
}

static int plane_register(Plane *p, HttpReq *req, const Json *body, Buf *buf)
{
    char id[UUID_TEXT_MAX];
    uint8_t random[UUID7_RANDOM_BYTES] = { 7 };
    WorkerNew worker = { .id = uuid7_make(clock_real_ms(), random),
                         .name = json_str(json_get(body, "name")),
                         .kind = WORKER_REMOTE,
                         .slots = STR("{}") };
    CHECK_INT(queue_register_wait(p->bench->queue, &worker), 0);
    JsonOut out = json_out(buf);
    json_out_object(&out);
    json_out_kcstr(&out, "workerId", uuid_text(worker.id, id));
    json_out_ki64(&out, "leaseMs", p->bench->lease_ms);
    json_out_ki64(&out, "heartbeatMs", 100);
    json_out_object_end(&out);
    return plane_json(req, 201, buf);
}

static int plane_claim(Plane *p, HttpReq *req, Uuid id, const Json *body, Buf *buf)
{
    Claim claim = { .worker_id = id };
    Task *tasks;
    size_t n = 0;
    CHECK_INT(wire_slots_read(json_get(body, "free"), &claim.slots), 0);
    int64_t wait_ms = json_i64_or(json_get(body, "waitMs"), 0);
    int r = queue_claim_wait(p->bench->queue, &claim, deadline_after(wait_ms), &req->arena, &tasks,
                             &n);
    if (r != 0 && r != -ETIMEDOUT) return plane_done(req, r);
    if (n > 0 && atomic_load(&p->swallow) > 0) {
        atomic_fetch_sub(&p->swallow, 1);
        while (fiber_sleep_wait(10) == 0) continue; /* until nobody wants it any more */
    }
    JsonOut out = json_out(buf);
    json_out_object(&out);
    json_out_key(&out, "tasks");
    json_out_array(&out);
    for (size_t i = 0; i < n; i++) {
        LinkTask task = link_task_from(&tasks[i]);
        wire_task_write(&out, &task);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
    return plane_json(req, 200, buf);
}

static int plane_heartbeat(Plane *p, HttpReq *req, Uuid id, const Json *body, Buf *buf)
{
    TaskRef held[64];
    size_t n = 0;
    HeartbeatReply beat;
    for (JsonIter it = json_iter(json_get(body, "tasks")); json_next(&it) && n < 64; n++)
        CHECK_INT(wire_ref_read(it.value, &held[n]), 0);
    Heartbeat told = { .held = held, .held_n = n };
    int r = queue_heartbeat_wait(p->bench->queue, id, &told, &req->arena, &beat);
    if (r != 0) return plane_done(req, r);
    JsonOut out = json_out(buf);
    wire_beat_write(&out, &beat);
    return plane_json(req, 200, buf);
}

static int plane_finish(Plane *p, HttpReq *req, const Json *body)
{
    TaskFinish finish;
    CHECK_INT(wire_finish_read(&req->arena, body, &finish), 0);
    return plane_done(req, queue_finish_wait(p->bench->queue, &finish, NULL));
}

static int plane_lines(Plane *p, HttpReq *req, const Json *body)
{
    TaskLogLine lines[256];
    TaskRef ref;
    size_t n = 0;
    CHECK_INT(wire_ref_read(body, &ref), 0);
    for (JsonIter it = json_iter(json_get(body, "entries")); json_next(&it) && n < 256; n++)
        CHECK_INT(wire_line_read(it.value, &lines[n]), 0);
    return plane_done(req, queue_logs_append_wait(p->bench->queue, ref, lines, n, NULL));
}

static int plane_signal(Plane *p, HttpReq *req, Uuid id, const Json *body, Buf *buf)
{
    uint64_t mark = (uint64_t)json_i64_or(json_get(body, "mark"), 0);
    int64_t wait_ms = json_i64_or(json_get(body, "waitMs"), 0);
    int r = queue_signal_wait(p->bench->queue, id, mark, deadline_after(wait_ms));
    JsonOut out = json_out(buf);
    json_out_object(&out);
    json_out_kbool(&out, "signalled", r == 0);
    json_out_object_end(&out);
    return r == -ECANCELED ? r : plane_json(req, 200, buf);
}

static int plane_worker(Plane *p, HttpReq *req, Str params[], const Json *body, Buf *buf)
{
    Uuid id;
    if (!CHECK_INT(uuid_from_text(params[0], &id), 0)) return plane_done(req, -EINVAL);
    if (str_eq(params[1], STR("claim"))) return plane_claim(p, req, id, body, buf);
    if (str_eq(params[1], STR("heartbeat"))) return plane_heartbeat(p, req, id, body, buf);
    if (str_eq(params[1], STR("signal"))) return plane_signal(p, req, id, body, buf);
    if (str_eq(params[1], STR("finish"))) return plane_finish(p, req, body);
    if (str_eq(params[1], STR("logs"))) return plane_lines(p, req, body);
    if (str_eq(params[1], STR("children")))
        return http_reply_wait(req, 200, "application/json", STR("{\"children\":[]}"));
    if (str_eq(params[1], STR("leave")))
        return plane_done(req, queue_leave_wait(p->bench->queue, id));
    return plane_done(req, 0);
}

typedef struct {
    Str id;
    Arena *arena;
    Version version;
} PlaneVersion;

static int plane_version_job(Db *db, void *arg)
{
    PlaneVersion *job = arg;
    return version_get(db, job->id, job->arena, &job->version);
}

static int plane_version(Plane *p, HttpReq *req, Str id, bool artifact, Buf *buf)
{
    PlaneVersion job = { .id = id, .arena = &req->arena };
    CHECK_INT(store_read_wait(p->bench->store, plane_version_job, &job), 0);
    if (artifact) {
        CHECK_INT(artifact_get(p->bench->dir.path, job.version.artifact, buf), 0);
        return http_reply_wait(req, 200, "application/x-tar", buf_str(buf));
    }
    JsonOut out = json_out(buf);
    json_out_object(&out);
    json_out_kraw(&out, "components", job.version.components);
    json_out_object_end(&out);
    return plane_json(req, 200, buf);
}

static int plane_handler(HttpReq *req, void *ctx)
{
    Plane *p = ctx;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    Str text, params[URL_PARAMS_MAX];
    const Json *body = NULL;
    buf_init(&buf, 1 << 20);
    if (http_body_wait(req, 0, &text) != 0) return -EIO;
    if (str_ends_with(req->path, STR("/finish"))) atomic_fetch_add(&p->finishes, 1);
    if (atomic_load(&p->down) > 0) {
        atomic_fetch_sub(&p->down, 1);
        return http_problem_wait(req, 503, "down", "gone for a walk");
    }
    if (text.len) CHECK_INT(json_parse(&req->arena, text, NULL, &body, NULL), 0);
    if (str_eq(req->path, STR("/api/workers"))) return plane_register(p, req, body, &buf);
    if (url_path_match("/api/workers/{id}/{verb}", req->path, params) == 2)
        return plane_worker(p, req, params, body, &buf);
    if (url_path_match("/api/versions/{id}", req->path, params) == 1)
        return plane_version(p, req, params[0], false, &buf);
    if (url_path_match("/api/versions/{id}/artifact", req->path, params) == 1)
        return plane_version(p, req, params[0], true, &buf);
    return http_problem_wait(req, 404, "no_route", "no such route");
}

/* Puts the bench's worker at the far end of HTTP. */
static Plane *plane_open(Bench *b)
{
    char url[64];
    Plane *p = xcalloc(1, sizeof *p);
    p->bench = b;
    bench_worker_stop(b);
    link_free(b->link);
    CHECK_INT(http_server_open(&(HttpServerOptions){ .body_bytes_max = 1 << 20 }, plane_handler, p,
                               &p->server),
              0);
    p->client = http_client_new();
    snprintf(url, sizeof url, "http://127.0.0.1:%u", http_server_port(p->server));
    b->link = link_http_new(
        &(LinkHttpOptions){ .client = p->client, .url = url, .timeout_ms = 2000 });
    bench_worker_start(b);
    return p;
}

static void plane_close(Plane *p)
{
    bench_worker_stop(p->bench);
    link_free(TAKE(p->bench->link));
    http_client_free(p->client);
    http_server_close_wait(p->server, deadline_after(1000));
    free(p);
}

static int remote(Bench *b)
{
    Plane *p = plane_open(b);
    bench_deploy(b, "sh", "echo heard >&2; cat > /dev/null; echo '{\"far\":true}'", "");
    Uuid id = bench_submit(b, "null", NULL);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("{\"far\":true}"));
    CHECK_HAS(bench_log(b, id), "heard\n");

    bench_deploy(b, "sh", "echo ready >&2; sleep 1000", "");
    id = bench_submit(b, "null", NULL);
    bench_log_until(b, id, "ready");
    TaskState now;
    CHECK_INT(queue_cancel_wait(b->queue, id, STR("user"), &now), 0);
    CHECK_INT(bench_end(b, id).state, TASK_CANCELED); /* told by the heartbeat */

    worker_drain(b->worker);
    fiber_join_wait(b->runner, NULL);
    CHECK_INT(b->worker_result, 0);
    plane_close(p);
    return 0;
}

static void test_a_worker_over_http(void **state)
{
    (void)state;
    bench(remote);
}

static int outage(Bench *b)
{
    Plane *p = plane_open(b);
    bench_deploy(b, "sh", "echo ready >&2; sleep 0.2; echo kept", "");
    Uuid id = bench_submit(b, "null", NULL);
    bench_log_until(b, id, "ready");
    atomic_store(&p->down, 8); /* shorter than the lease: the result gets through afterwards */
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.attempt, 1);
    CHECK_STR(task.result, STR("\"kept\""));
    CHECK(atomic_load(&p->finishes) >= 1);
    plane_close(p);
    return 0;
}

static void test_a_short_outage(void **state)
{
    (void)state;
    bench(outage);
}

/* The control plane has given it the task, and the answer never comes: its only slot waits for it,
 * far longer than this test. */
static int swallowed(Bench *b)
{
    Plane *p = plane_open(b);
    bench_deploy(b, "sh", "echo '\"there\"'", "");
    atomic_store(&p->swallow, 1);
    Uuid id = bench_submit(b, "null", NULL);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK(task.attempt >= 2);
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK(stats.claims_renewed >= 1);
    plane_close(p);
    return 0;
}

static void swallowed_options(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->slots = (LaneConfig){ .shared = 1 };
}

static void test_an_answer_that_never_comes(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = swallowed, .configure = swallowed_options, .lease_ms = 2000 });
}

/* --- ends that are reported together ---------------------------------------------------------- */

/* A server that holds requests back while it is told to, and answers a report by its fence. */
typedef struct {
    HttpServer *server;
    int held;                     /* requests that wait */
    bool hold;                    /* do they */
    bool old;                     /* it takes one report at a time */
    int broken;                   /* so many requests are answered 503 */
    int alone, together, reports; /* requests of either kind, reports that were answered */
} Desk;

static int desk_status(int64_t fence)
{
    return fence % 10 == 1 ? 409 : fence % 10 == 2 ? 422 : 204;
}

static void desk_hold_wait(Desk *d)
{
    d->held++;
    while (d->hold) (void)fiber_sleep_wait(1);
    d->held--;
}

static int desk_many_wait(Desk *d, HttpReq *req, const Json *body, Buf *buf)
{
    int statuses[FINISH_TASKS_MAX];
    size_t n = 0;
    TaskRef ref;
    for (JsonIter it = json_iter(json_get(body, "tasks")); json_next(&it);) {
        CHECK_INT(wire_ref_read(it.value, &ref), 0);
        statuses[n++] = desk_status(ref.fence);
    }
    d->together++;
    d->reports += (int)n;
    JsonOut out = json_out(buf);
    wire_finished_write(&out, statuses, n);
    return plane_json(req, 200, buf);
}

static int desk_handler(HttpReq *req, void *ctx)
{
    Desk *d = ctx;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    Str text;
    const Json *body;
    TaskRef ref;
    buf_init(&buf, 1 << 20);
    if (http_body_wait(req, 0, &text) != 0) return -EIO;
    CHECK_INT(json_parse(&req->arena, text, NULL, &body, NULL), 0);
    if (str_eq(req->path, STR("/api/workers"))) {
        buf_printf(&buf, "{\"workerId\":\"%s\",\"leaseMs\":9000%s}",
                   "0192f300-0000-7000-8000-00000000000a", d->old ? "" : ",\"finishMax\":16");
        return plane_json(req, 201, &buf);
    }
    desk_hold_wait(d);
    if (d->broken > 0) {
        d->broken--;
        return http_problem_wait(req, 503, "down", "gone for a walk");
    }
    if (str_ends_with(req->path, STR("/finish-many"))) return desk_many_wait(d, req, body, &buf);
    CHECK_INT(wire_ref_read(body, &ref), 0);
    d->alone++;
    d->reports++;
    return http_problem_wait(req, desk_status(ref.fence), "said", "because");
}

typedef struct {
    WorkerLink *link;
    TaskFinish finish;
    int result;
    char why[256];
    FiberRef fiber;
} Report;

static int report_main(void *arg)
{
    Report *r = arg;
    r->result = r->link->ops->finish_wait(r->link, &r->finish);
    str_copy(r->why, sizeof r->why, str_of(diag_text()));
    return 0;
}

#define REPORTS_N 28

static void reports_start(WorkerLink *link, Report reports[REPORTS_N], Str result)
{
    for (int i = 0; i < REPORTS_N; i++) {
        reports[i] = (Report){ .link = link,
                               .finish = { .task = { .fence = i }, .result = result } };
        CHECK_INT(fiber_spawn("report", report_main, &reports[i], &reports[i].fiber), 0);
    }
}

static void reports_end(Desk *d, Report reports[REPORTS_N])
{
    d->hold = false;
    for (int i = 0; i < REPORTS_N; i++) CHECK_INT(fiber_join_wait(reports[i].fiber, NULL), 0);
}

/* The first go at once, one by one; the others when those are back, as many as one request takes.
 * What is refused comes again by itself, for the reason. */
static void ends_together(Desk *d, WorkerLink *link)
{
    Report reports[REPORTS_N];
    d->hold = true;
    reports_start(link, reports, STR("1"));
    while (d->held < 4) (void)fiber_sleep_wait(1);
    CHECK_INT(d->held, 4);
    reports_end(d, reports);
    for (int i = 0; i < REPORTS_N; i++) {
        int want = i % 10 == 1 ? LINK_E_STALE : i % 10 == 2 ? LINK_E_REFUSED : 0;
        CHECK_INT(reports[i].result, want);
        if (want != 0) CHECK(reports[i].why[0]);
        if (want == LINK_E_REFUSED) CHECK_HAS(str_of(reports[i].why), "because");
    }
    CHECK_INT(d->together, 2); /* 24 reports, 16 at a time */
    CHECK_INT(d->alone, 4 + 2);
}

/* A whole request fails: so does each of its reports, to be sent again. */
static void ends_in_trouble(Desk *d, WorkerLink *link)
{
    Report reports[REPORTS_N];
    int failed = 0;
    d->hold = true;
    d->broken = 4 + 2;
    reports_start(link, reports, STR("1"));
    while (d->held < 4) (void)fiber_sleep_wait(1);
    reports_end(d, reports);
    for (int i = 0; i < REPORTS_N; i++) failed += reports[i].result == -EAGAIN;
    CHECK_INT(failed, REPORTS_N);
    CHECK_INT(d->reports, 0);
}

/* Results that are too large to go together go one by one. */
static void ends_large(Desk *d, WorkerLink *link)
{
    Report reports[REPORTS_N];
    CLEANUP(buf_deinit) Buf large = { 0 };
    buf_init(&large, 1 << 20);
    memset(buf_reserve(&large, 700 << 10), '1', 700 << 10);
    buf_added(&large, 700 << 10);
    d->hold = true;
    reports_start(link, reports, buf_str(&large));
    while (d->held < 4) (void)fiber_sleep_wait(1);
    reports_end(d, reports);
    CHECK_INT(d->together, 0);
    CHECK(d->alone >= REPORTS_N);
}

/* A report that waits can be given up; one that is being sent is not. */
static void ends_canceled(Desk *d, WorkerLink *link)
{
    Report reports[REPORTS_N];
    d->hold = true;
    reports_start(link, reports, STR("1"));
    while (d->held < 4) (void)fiber_sleep_wait(1);
    fiber_cancel(reports[REPORTS_N - 1].fiber);
    CHECK_INT(fiber_join_wait(reports[REPORTS_N - 1].fiber, NULL), 0);
    CHECK_INT(reports[REPORTS_N - 1].result, -ECANCELED);
    d->hold = false;
    for (int i = 0; i < REPORTS_N - 1; i++) CHECK_INT(fiber_join_wait(reports[i].fiber, NULL), 0);
    CHECK_INT(d->together, 2);
}

static void ends_to_an_old_server(Desk *d, WorkerLink *link)
{
    Report reports[REPORTS_N];
    reports_start(link, reports, STR("1"));
    reports_end(d, reports);
    CHECK_INT(d->together, 0);
    CHECK_INT(d->alone, REPORTS_N);
}

static void with_desk(void (*fn)(Desk *d, WorkerLink *link), bool old)
{
    Desk d = { .old = old };
    LinkLease lease;
    char url[64];
    HttpServerOptions options = { .body_bytes_max = 1 << 20 };
    CHECK_INT(http_server_open(&options, desk_handler, &d, &d.server), 0);
    HttpClient *client = http_client_new();
    snprintf(url, sizeof url, "http://127.0.0.1:%u", http_server_port(d.server));
    WorkerLink *link = link_http_new(
        &(LinkHttpOptions){ .client = client, .url = url, .timeout_ms = 60000 });
    CHECK_INT(link->ops->register_wait(link, &(LinkWorker){ .name = "w" }, &lease), 0);
    fn(&d, link);
    link_free(link);
    http_client_free(client);
    http_server_close_wait(d.server, deadline_after(1000));
}

static int desk_main(void *arg)
{
    (void)arg;
    with_desk(ends_together, false);
    with_desk(ends_in_trouble, false);
    with_desk(ends_large, false);
    with_desk(ends_canceled, false);
    with_desk(ends_to_an_old_server, true);
    return 0;
}

static void test_ends_together(void **state)
{
    (void)state;
    harness_run(desk_main, NULL);
    check_none();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_claim),
        cmocka_unit_test(test_reports),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_a_worker_over_http),
        cmocka_unit_test(test_a_short_outage),
        cmocka_unit_test(test_an_answer_that_never_comes),
        cmocka_unit_test(test_ends_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
