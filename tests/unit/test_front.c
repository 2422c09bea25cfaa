/* The front: requests that come in on the loop of a server are answered by the gateway of another,
 * on accounts that are kept for keys and users. */
#include "tests/unit/gateway_rig.h"

#include "gateway/gateway_limits.h"
#include "worker/front.h"
#include "worker/run.h"

#define RECORDS_MAX 64

typedef struct {
    TaskRef task;
    Uuid payer_id;
    GatewayOutcome outcome;
    int64_t nusd;
    bool full_hold;
} Record;

/* A control plane that gives accounts numbers and keeps records. */
typedef struct {
    WorkerLink link;
    Rig *rig;
    Front *front;
    FrontKey keys[2];
    RunHost host;
    Loop *api;
    HttpServer *server;
    uint16_t port;
    Record records[RECORDS_MAX];
    size_t records_n;
    uint8_t accounts;
    int account_error; /* of account_wait */
    int64_t account_delay_ms;
    int record_errors;      /* of calls_wait, so many times */
    bool leases_on_failure; /* once, while the record of a failed call is taken */
    size_t idle_n;
} Port;

static Uuid id_of(uint8_t n)
{
    return (Uuid){ { 5, [15] = n } };
}

static int on_account(WorkerLink *link, const BudgetOwner *owner, Uuid *ret)
{
    Port *port = CONTAINER_OF(link, Port, link);
    CHECK_STR(owner->tenant, STR("acme"));
    if (port->account_delay_ms) fiber_sleep_wait(port->account_delay_ms);
    if (port->account_error) return port->account_error;
    *ret = id_of(++port->accounts);
    return 0;
}

static int on_calls(WorkerLink *link, TaskRef task, Uuid payer_id, const GatewayCall *calls,
                    size_t n)
{
    Port *port = CONTAINER_OF(link, Port, link);
    if (port->record_errors > 0) {
        port->record_errors--;
        return diag_set(-EIO, "not now");
    }
    CHECK(n == 1 && port->records_n < RECORDS_MAX);
    port->records[port->records_n++] = (Record){ .task = task,
                                                 .payer_id = payer_id,
                                                 .outcome = calls->outcome,
                                                 .nusd = calls->charged.nusd,
                                                 .full_hold = calls->full_hold };
    if (port->leases_on_failure && calls->outcome != GATEWAY_COMPLETE) {
        port->leases_on_failure = false;
        front_lease(port->front, id_of(101));
    }
    return 0;
}

static const WorkerLinkOps ops = { .account_wait = on_account, .calls_wait = on_calls };

static void on_idle(void *ctx)
{
    ((Port *)ctx)->idle_n++;
}

/* --- the server ------------------------------------------------------------------------------- */

static int on_request(HttpReq *req, void *ctx)
{
    Port *port = ctx;
    GatewayHttp http;
    gateway_http_read(req, &http);
    Str key = http_header(req, "x-key");
    FrontCaller caller = { .user = http_header(req, "x-gantry-user") };
    if (str_starts_with(key, STR(GATEWAY_TASK_KEY_PREFIX))) caller.task_key = key;
    else caller.key = front_key(port->front, key);
    if (!caller.key && str_empty(caller.task_key))
        return front_refuse_wait(port->front, req, &http, PROBLEM_KEY, "no such key");
    int r = http_body_wait(req, GATEWAY_REQUEST_BYTES_MAX, &http.body);
    return r == 0 ? front_serve_wait(port->front, &caller, req, &http) : r;
}

static int server_open(void *arg)
{
    Port *port = arg;
    HttpServerOptions options = { .address = "127.0.0.1" };
    int r = http_server_open(&options, on_request, port, &port->server);
    if (r == 0) port->port = http_server_port(port->server);
    return r;
}

static int server_close(void *arg)
{
    Port *port = arg;
    http_server_close_wait(port->server, deadline_after(5000));
    return 0;
}

static void port_open_wait(Port *port, Rig *rig)
{
    *port = (Port){
        .link.ops = &ops,
        .rig = rig,
        .keys = { { .tenant = STR("acme") },
                  { .tenant = STR("acme"), .call_max = { .tokens = 300 }, .lane = LANE_LOW } }
    };
    sha256(STR("one"), port->keys[0].digest);
    sha256(STR("two"), port->keys[1].digest);
    port->host = (RunHost){ .link = &port->link, .gateway = rig->gateway };
    port->front = front_new(loop_here(), port->keys, 2, 2);
    port->api = loop_new("api");
    loop_start_thread(port->api);
    CHECK_INT(loop_call_wait(port->api, "open", server_open, port), 0);
}

static void port_begin(Port *port)
{
    front_lease(port->front, id_of(100));
    front_open(port->front, &port->host, on_idle, port);
    front_ready(port->front);
}

static void port_close_wait(Port *port)
{
    front_close_wait(port->front, deadline_after(5000));
    CHECK_INT(loop_call_wait(port->api, "close", server_close, port), 0);
    loop_stop(port->api);
    loop_join(port->api);
    loop_free(port->api);
    front_free(port->front);
}

/* --- callers ---------------------------------------------------------------------------------- */

typedef struct {
    Port *port;
    const char *key, *user, *text;
    const char *model; /* NULL: sim/echo */
    int tokens;        /* 0: 50 */
    uint16_t at;       /* another port; 0: the front's */
    int64_t pause_ms;  /* before it reads on */
    bool stream;
    bool leaves; /* after the head */
    FiberRef fiber;
    bool done;
    int status, ended;
    Buf body;
    char retry[16], task[64];
} Ask;

static void ask_read_wait(Ask *ask, HttpCall *call)
{
    Str piece;
    ask->status = http_call_status(call);
    str_copy(ask->retry, sizeof ask->retry, http_call_field(call, "retry-after"));
    str_copy(ask->task, sizeof ask->task, http_call_field(call, "x-gantry-task"));
    if (ask->leaves) return;
    if (ask->pause_ms) fiber_sleep_wait(ask->pause_ms);
    while ((ask->ended = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0)
        buf_add(&ask->body, piece);
}

static int ask_main(void *arg)
{
    Ask *ask = arg;
    char url[64], body[512];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/chat/completions",
             ask->at ? ask->at : ask->port->port);
    snprintf(body, sizeof body,
             "{\"model\":\"%s\",%s\"max_tokens\":%d,\"messages\":[{\"role\":\"user\","
             "\"content\":\"%s\"}]}",
             ask->model ? ask->model : "sim/echo", ask->stream ? "\"stream\":true," : "",
             ask->tokens ? ask->tokens : 50, ask->text);
    HttpClientField fields[] = { { "content-type", STR("application/json") },
                                 { "x-key", str_of(ask->key) },
                                 { "x-gantry-user", str_of(ask->user) } };
    HttpCallOptions options = { .url = str_of(url),
                                .fields = fields,
                                .fields_n = *ask->user ? 3 : 2,
                                .body = str_of(body),
                                .idle_timeout_ms = 20000 };
    HttpCall *call = NULL;
    int r = http_call_open_wait(ask->port->rig->client, &options, &call);
    if (r == 0) ask_read_wait(ask, call);
    if (r == 0) http_call_free(call);
    ask->done = true;
    return r;
}

static void ask_start(Ask *ask)
{
    buf_init(&ask->body, 64 << 20);
    CHECK_INT(fiber_spawn("ask", ask_main, ask, &ask->fiber), 0);
}

static void ask_end_wait(Ask *ask)
{
    fiber_join_wait(ask->fiber, NULL);
    CHECK(ask->done);
}

static Ask ask_wait(Port *port, const char *key, const char *user, const char *text, bool stream)
{
    Ask ask = { .port = port, .key = key, .user = user, .text = text, .stream = stream };
    ask_start(&ask);
    ask_end_wait(&ask);
    return ask;
}

static int status_wait(Port *port, const char *key, const char *user)
{
    Ask ask = ask_wait(port, key, user, "hi", false);
    buf_deinit(&ask.body);
    return ask.status;
}

static FrontStats stats(const Port *port)
{
    FrontStats ret;
    front_stats(port->front, &ret);
    return ret;
}

static void busy_until(const Port *port, size_t n)
{
    GatewayStats *s = xcalloc(1, sizeof *s);
    for (int i = 0; i < 4000; i++) {
        gateway_stats(port->rig->gateway, s);
        if (s->in_flight == (int64_t)n) break;
        fiber_sleep_wait(5);
    }
    CHECK_INT(s->in_flight, n);
    free(s);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void serves_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    port_open_wait(port, arg);
    /* what comes early waits until calls are taken */
    Ask early = { .port = port, .key = "one", .user = "u1", .text = "good morning" };
    ask_start(&early);
    fiber_sleep_wait(20);
    CHECK(!early.done);
    port_begin(port);
    ask_end_wait(&early);
    CHECK_INT(early.status, 200);
    CHECK_HAS(buf_str(&early.body), "good morning");
    CHECK_INT(port->records_n, 1);
    CHECK(uuid_eq(port->records[0].task.id, id_of(1)));
    CHECK_INT(port->records[0].task.fence, TASK_FENCE_ACCOUNT);
    CHECK(uuid_eq(port->records[0].payer_id, id_of(100)));
    CHECK(port->records[0].nusd > 0);

    Ask stream = ask_wait(port, "one", "u1", "piece by piece", true);
    CHECK_INT(stream.status, 200);
    CHECK_HAS(buf_str(&stream.body), "data: [DONE]");
    CHECK(strcmp(stream.task, early.task) == 0); /* the account is kept */
    CHECK_INT(status_wait(port, "two", "u1"), 200);
    CHECK_INT(status_wait(port, "three", "u1"), 401);
    CHECK_INT(status_wait(port, gateway_task_key(port->rig->task), ""), 200);
    CHECK_INT(status_wait(port, "gantry-task-0", ""), 401);
    CHECK_INT(port->records_n, 3);
    CHECK_INT(port->rig->calls_n, 1); /* that of the task */
    CHECK_INT(stats(port).served, 4);
    CHECK_INT(stats(port).refused, 2);
    CHECK(port->idle_n > 0);
    buf_deinit(&early.body);
    buf_deinit(&stream.body);
    port_close_wait(port);
    free(port);
}

static void test_serves(void **state)
{
    (void)state;
    rig_run(serves_wait);
}

/* There is room for two: one without calls makes room, those with calls do not. */
static void crowd_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    port_open_wait(port, arg);
    port_begin(port);
    for (int i = 0; i < 2; i++) { /* those forgotten come back */
        CHECK_INT(status_wait(port, "one", "u1"), 200);
        CHECK_INT(status_wait(port, "one", "u2"), 200);
        CHECK_INT(status_wait(port, "one", "u3"), 200);
    }
    CHECK_INT(stats(port).callers, 2);
    CHECK_INT(stats(port).evicted, 4);
    Ask slow[2] = { { .port = port, .key = "one", .user = "u1", .text = "[[sim mode=hang]]" },
                    { .port = port, .key = "one", .user = "u2", .text = "[[sim mode=hang]]" } };
    ask_start(&slow[0]);
    ask_start(&slow[1]);
    busy_until(port, 2);
    Ask third = ask_wait(port, "one", "u3", "hi", false);
    CHECK_INT(third.status, 503);
    CHECK_STR(str_of(third.retry), STR("1"));
    CHECK_INT(stats(port).away, 1);
    size_t before = port->records_n;

    /* ending: no others are taken, those under way are stopped, charged and recorded */
    front_drain(port->front);
    CHECK(!front_idle(port->front));
    CHECK_INT(status_wait(port, "one", "u1"), 503);
    front_stop(port->front);
    ask_end_wait(&slow[0]);
    ask_end_wait(&slow[1]);
    CHECK_INT(slow[0].status, 503); /* they may come again */
    port_close_wait(port);
    CHECK_INT(port->records_n, before + 2);
    for (size_t i = before; i < port->records_n; i++) {
        CHECK_INT(port->records[i].outcome, GATEWAY_STOPPED);
        CHECK(port->records[i].full_hold && port->records[i].nusd > 0);
    }
    for (int i = 0; i < 2; i++) buf_deinit(&slow[i].body);
    buf_deinit(&third.body);
    free(port);
}

static void test_crowd(void **state)
{
    (void)state;
    rig_run(crowd_wait);
}

/* A call that is to be tried again when the lease is lost is sent away: its caller's others go on,
 * also those of the lease before. */
static void late_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    port_open_wait(port, arg);
    port_begin(port);
    Ask slow = {
        .port = port, .key = "one", .user = "u1", .text = "[[sim mode=slow delay=2000]] x"
    };
    slow.stream = true;
    ask_start(&slow);
    busy_until(port, 1);
    port->leases_on_failure = true;
    Ask late = ask_wait(port, "one", "u1", "[[sim mode=fail]]", false);
    CHECK(!port->leases_on_failure);
    CHECK_INT(late.status, 503);
    CHECK(late.retry[0] != 0);
    CHECK_HAS(buf_str(&late.body), "registered anew");
    CHECK_INT(status_wait(port, "one", "u1"), 200);
    ask_end_wait(&slow);
    CHECK_INT(slow.status, 200);
    CHECK_HAS(buf_str(&slow.body), "data: [DONE]");
    CHECK_INT(port->records_n, 3);
    CHECK_INT(port->records[2].outcome, GATEWAY_COMPLETE);
    buf_deinit(&slow.body);
    buf_deinit(&late.body);
    port_close_wait(port);
    free(port);
}

static void with_retries(void *arg)
{
    Rig *rig = arg;
    for (size_t i = 0; i < 4; i++) rig->providers[i].retries_max = 2;
    rig->config.retry_initial_ms = 10;
}

static void test_late(void **state)
{
    (void)state;
    rig_run_configured(with_retries, late_wait, rig_no_stub, NULL);
}

/* A call of the lease before is recorded as paid under that one; one that begins is not. */
static void lease_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    port_open_wait(port, arg);
    port_begin(port);
    Ask slow = {
        .port = port, .key = "one", .user = "u1", .text = "[[sim mode=slow delay=2000]] x"
    };
    ask_start(&slow);
    busy_until(port, 1);
    front_lease(port->front, id_of(101));
    CHECK_INT(status_wait(port, "one", "u1"), 200);
    ask_end_wait(&slow);
    CHECK_INT(slow.status, 200);
    CHECK_INT(port->records_n, 2);
    for (size_t i = 0; i < 2; i++) {
        bool old = uuid_eq(port->records[i].task.id, id_of(1));
        CHECK(uuid_eq(port->records[i].payer_id, id_of(old ? 100 : 101)));
    }
    CHECK_INT(stats(port).callers, 1);

    /* one who leaves is billed all the same, and so is a call whose record is taken late */
    port->record_errors = 2;
    Ask leaver = { .port = port,
                   .key = "one",
                   .user = "u1",
                   .text = "one two three [[sim per-token=20]]",
                   .stream = true,
                   .leaves = true };
    ask_start(&leaver);
    ask_end_wait(&leaver);
    CHECK_INT(leaver.status, 200);
    for (int i = 0; i < 4000 && port->records_n < 3; i++) fiber_sleep_wait(5);
    CHECK_INT(port->records_n, 3);
    CHECK_INT(port->records[2].outcome, GATEWAY_COMPLETE);
    CHECK_INT(port->record_errors, 0);
    buf_deinit(&slow.body);
    buf_deinit(&leaver.body);
    port_close_wait(port);
    free(port);
}

static void test_lease(void **state)
{
    (void)state;
    rig_run(lease_wait);
}

/* Each key has its lane. */
static void lanes_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    GatewayLimitStats limits = { 0 };
    port_open_wait(port, arg);
    port_begin(port);
    Ask first = { .port = port, .key = "one", .user = "", .text = "[[sim mode=hang]]" },
        second = { .port = port, .key = "two", .user = "", .text = "hi" };
    ask_start(&first);
    busy_until(port, 1);
    ask_start(&second);
    for (int i = 0; i < 4000 && limits.waiting[LANE_LOW] == 0; i++) {
        fiber_sleep_wait(5);
        gateway_limit_stats(port->rig->gateway, &limits);
    }
    CHECK_INT(limits.waiting[LANE_LOW], 1);
    front_stop(port->front);
    ask_end_wait(&first);
    ask_end_wait(&second);
    CHECK_INT(second.status, 503);
    buf_deinit(&first.body);
    buf_deinit(&second.body);
    port_close_wait(port);
    free(port);
}

static void one_at_a_time(void *arg)
{
    ((Rig *)arg)->providers[0].concurrent_max = 1;
}

static void test_lanes(void **state)
{
    (void)state;
    rig_run_configured(one_at_a_time, lanes_wait, rig_no_stub, NULL);
}

/* A long stream, to one who does not read at once: whole and in order, as from a listener. */
static void stream_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    port_open_wait(port, arg);
    port_begin(port);
    Ask here = { .port = port,
                 .key = "one",
                 .user = "",
                 .text = "go on",
                 .model = "sim/ramble",
                 .tokens = 60000,
                 .stream = true,
                 .pause_ms = 100 };
    Ask there = here;
    there.at = gateway_task_port(port->rig->task);
    ask_start(&here);
    ask_start(&there);
    ask_end_wait(&here);
    ask_end_wait(&there);
    CHECK_INT(here.status, 200);
    CHECK_INT(here.ended, HTTP_CALL_E_END);
    CHECK(here.body.len > 200000);
    CHECK(str_eq(buf_str(&here.body), buf_str(&there.body)));
    CHECK_INT(port->records_n, 1);
    buf_deinit(&here.body);
    buf_deinit(&there.body);
    port_close_wait(port);
    free(port);
}

static void test_stream(void **state)
{
    (void)state;
    rig_run(stream_wait);
}

/* Many wait for an account that cannot be read: each is told, and the next one asks again. */
static void no_account_wait(void *arg)
{
    Port *port = xcalloc(1, sizeof *port);
    Ask asks[4];
    port_open_wait(port, arg);
    port_begin(port);
    port->account_error = -EIO;
    port->account_delay_ms = 30;
    for (size_t i = 0; i < ARRAY_N(asks); i++) {
        asks[i] = (Ask){ .port = port, .key = "one", .user = "u1", .text = "hi" };
        ask_start(&asks[i]);
    }
    for (size_t i = 0; i < ARRAY_N(asks); i++) {
        ask_end_wait(&asks[i]);
        CHECK_INT(asks[i].status, 503);
        buf_deinit(&asks[i].body);
    }
    CHECK_INT(stats(port).callers, 0);
    port->account_error = LINK_E_REFUSED; /* the tenant has as many as it may have */
    CHECK_INT(status_wait(port, "one", "u1"), 402);
    port->account_error = 0;
    CHECK_INT(status_wait(port, "one", "u1"), 200);
    port_close_wait(port);
    CHECK_INT(port->records_n, 1);
    free(port);
}

static void test_no_account(void **state)
{
    (void)state;
    rig_run(no_account_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_serves),     cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_lease),      cmocka_unit_test(test_late),
        cmocka_unit_test(test_lanes),      cmocka_unit_test(test_stream),
        cmocka_unit_test(test_no_account),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
