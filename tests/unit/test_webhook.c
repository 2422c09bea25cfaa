#include "tests/unit/api_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>

#include "tests/unit/stub_server.h"

/* What a receiver does. */
typedef struct {
    int statuses[4]; /* of the first answers; 0: the last one again, and 200 before any */
    const char *fields;
    int delay_ms, delayed; /* so many requests, the first; 0: all */
    size_t answer_bytes;
} Behaviour;

/* What it has got. */
typedef struct {
    int requests, now, peak, bad_signatures;
    char ids[64][128];
    char timestamps[64][32];
    char body[32768];
    char traceparent[64];
    char signatures[160];
    char method[8];
} Seen;

typedef struct {
    pthread_mutex_t lock;
    Behaviour does;
    Seen seen;
} Receiver;

typedef struct {
    ApiFixture api;
    Receiver receiver;
    Seen copy; /* the test's own */
    Stub stub;
    char url[64];
    const char *worker;
} Fixture;

/* From now on, with everything forgotten. */
static void behave(Fixture *f, Behaviour does)
{
    pthread_mutex_lock(&f->receiver.lock);
    f->receiver.does = does;
    f->receiver.seen = (Seen){ .now = f->receiver.seen.now };
    pthread_mutex_unlock(&f->receiver.lock);
}

/* A copy of what was got so far. */
static const Seen *seen(Fixture *f)
{
    pthread_mutex_lock(&f->receiver.lock);
    f->copy = f->receiver.seen;
    pthread_mutex_unlock(&f->receiver.lock);
    return &f->copy;
}

static int64_t timestamp_of(const Seen *s)
{
    int64_t at_s = 0;
    assert_int_equal(str_to_i64(str_of(s->timestamps[0]), &at_s), 0);
    return at_s;
}

static int status_of(const Behaviour *does, int requests)
{
    int n = MIN(requests - 1, (int)ARRAY_N(does->statuses) - 1), status = 200;
    for (int i = 0; i <= n; i++)
        if (does->statuses[i]) status = does->statuses[i];
    return status;
}

static bool signature_ok(const StubRequest *request)
{
    int64_t timestamp_s;
    if (str_to_i64(stub_field(request, "webhook-timestamp"), &timestamp_s) < 0) return false;
    return webhook_verify(STR(SECRET), stub_field(request, "webhook-id"), timestamp_s,
                          request->body, stub_field(request, "webhook-signature"),
                          clock_real_ms() / 1000) == 0;
}

static void note(Seen *to, const StubRequest *request)
{
    int n = to->requests++;
    to->now++;
    to->peak = MAX(to->peak, to->now);
    if (!signature_ok(request)) to->bad_signatures++;
    if (n < 64) str_copy(to->ids[n], sizeof to->ids[n], stub_field(request, "webhook-id"));
    if (n < 64)
        str_copy(to->timestamps[n], sizeof to->timestamps[n],
                 stub_field(request, "webhook-timestamp"));
    str_copy(to->body, sizeof to->body, request->body);
    str_copy(to->signatures, sizeof to->signatures, stub_field(request, "webhook-signature"));
    str_copy(to->traceparent, sizeof to->traceparent, stub_field(request, "traceparent"));
    str_copy(to->method, sizeof to->method, str_sub(request->line, 0, 4));
}

/* Or until nobody waits for the answer any more. */
static void delay(const StubRequest *request, int delay_ms)
{
    struct pollfd closed = { .fd = request->fd, .events = POLLRDHUP };
    (void)poll(&closed, 1, delay_ms);
}

static StubEnd receive(StubRequest *request, void *ctx)
{
    Receiver *r = ctx;
    char head[256];
    pthread_mutex_lock(&r->lock);
    note(&r->seen, request);
    Behaviour does = r->does;
    int status = status_of(&does, r->seen.requests);
    if (does.delayed && r->seen.requests > does.delayed) does.delay_ms = 0;
    pthread_mutex_unlock(&r->lock);
    if (does.delay_ms) delay(request, does.delay_ms);
    pthread_mutex_lock(&r->lock);
    r->seen.now--;
    pthread_mutex_unlock(&r->lock);
    snprintf(head, sizeof head,
             "HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n", status,
             does.answer_bytes, does.fields ? does.fields : "");
    stub_sends(request, head);
    for (size_t i = 0; i < does.answer_bytes / 64; i++)
        stub_sends(request, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n");
    return STUB_CLOSE;
}

static int setup(void **state)
{
    Fixture *f = xcalloc(1, sizeof *f);
    pthread_mutex_init(&f->receiver.lock, NULL);
    stub_open(&f->stub, receive, &f->receiver);
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/hook", f->stub.port);
    if (addr_guard_allow(&f->api.guard, STR("127.0.0.0/8")) < 0) return -1;
    f->api.webhooks_on = true;
    api_start(&f->api);
    deploy(&f->api, "support");
    f->worker = worker_register(&f->api);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;
    api_stop(&f->api);
    stub_close(&f->stub);
    pthread_mutex_destroy(&f->receiver.lock);
    free(f);
    return 0;
}

/* Runs a task that has a webhook to its end; returns its id. */
static const char *run_task(Fixture *f, const char *outcome, const char *members)
{
    const char *id = submit(&f->api, format(&f->api,
                                            "{\"input\":1,\"metadata\":{\"k\":1},"
                                            "\"webhookUrl\":\"%s\"}",
                                            f->url));
    work_once(&f->api, f->worker, outcome, members);
    return id;
}

/* The n-th webhook in the task's timeline, or NULL. */
static const Json *webhook_of(Fixture *f, const char *id, size_t n)
{
    Reply reply = get(&f->api, format(&f->api, "/api/tasks/%s/timeline", id));
    for (JsonIter it = json_iter(member(&reply, "events")); json_next(&it);)
        if (str_eq(json_str(json_get(it.value, "type")), STR("webhook")) && n-- == 0)
            return it.value;
    return NULL;
}

static void await_requests(Fixture *f, int n)
{
    int64_t until_ms = clock_mono_ms() + CLIENT_LIMIT_MS;
    while (seen(f)->requests < n && clock_mono_ms() < until_ms) usleep(1000);
    assert_true(seen(f)->requests >= n);
}

/* Waits until the webhook is in this state after so many attempts. */
static const Json *await(Fixture *f, const char *id, const char *state, int64_t attempts)
{
    int64_t until_ms = clock_mono_ms() + CLIENT_LIMIT_MS;
    const Json *row;
    do {
        row = webhook_of(f, id, 0);
        if (str_eq(json_str(json_get(row, "state")), str_of(state)) &&
            json_i64_or(json_get(row, "attempts"), -1) == attempts)
            return row;
        usleep(10000);
    } while (clock_mono_ms() < until_ms);
    fail_msg("not %s after %d: %.*s, %d", state, (int)attempts,
             STR_ARG(json_str(json_get(row, "state"))),
             (int)json_i64_or(json_get(row, "attempts"), -1));
    return NULL;
}

static int due_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "UPDATE webhook SET next_at_ms = 0 WHERE state = 0"), NULL);
}

/* --- delivering ------------------------------------------------------------------------------- */

static void test_delivered_and_signed(void **state)
{
    Fixture *f = *state;
    const char *id = run_task(f, "succeeded", ",\"result\":{\"answer\":42}");
    const Json *row = await(f, id, "delivered", 1);
    assert_int_equal(json_i64_or(json_get(row, "status"), 0), 200);
    const Seen *r = seen(f);
    assert_int_equal(r->requests, 1);
    assert_int_equal(r->bad_signatures, 0);
    assert_string_equal(r->method, "POST");
    assert_int_equal(strlen(r->traceparent), 55);
    EXPECT_TEXT(json_str(json_get(row, "webhookId")), r->ids[0]);

    const Json *body, *data;
    assert_int_equal(json_parse(&f->api.arena, str_of(r->body), NULL, &body, NULL), 0);
    EXPECT_TEXT(json_str(json_get(body, "type")), "task.succeeded");
    assert_int_equal(json_str(json_get(body, "timestamp")).len, 24);
    assert_int_equal(json_len(body), 3);
    data = json_get(body, "data");
    EXPECT_TEXT(json_str(json_get(data, "taskId")), id);
    assert_int_equal(json_i64_or(json_get(json_get(data, "result"), "answer"), 0), 42);
    assert_int_equal(json_i64_or(json_get(json_get(data, "metadata"), "k"), 0), 1);
    assert_null(json_get(data, "resultTruncated"));
}

static void test_failed_task_and_retry_by_hand(void **state)
{
    Fixture *f = *state;
    const char *id = run_task(f, "failed_final", ",\"error\":{\"code\":\"c\",\"detail\":\"d\"}");
    await(f, id, "delivered", 1);
    EXPECT_HAS(str_of(seen(f)->body), "\"type\":\"task.failed\"");
    EXPECT_HAS(str_of(seen(f)->body), "\"error\":{\"code\":\"c\",\"detail\":\"d\"}");
    EXPECT(post(&f->api, format(&f->api, "/api/tasks/%s/retry", id), NULL), 202);
    work_once(&f->api, f->worker, "succeeded", "");
    int64_t until_ms = clock_mono_ms() + CLIENT_LIMIT_MS;
    while (!webhook_of(f, id, 1) && clock_mono_ms() < until_ms) usleep(10000);
    while (seen(f)->requests < 2 && clock_mono_ms() < until_ms) usleep(10000);
    EXPECT_HAS(str_of(seen(f)->body), "\"type\":\"task.succeeded\"");
    assert_string_not_equal(seen(f)->ids[0], seen(f)->ids[1]); /* another event */
}

static void test_large_result_is_left_out(void **state)
{
    Fixture *f = *state;
    const char *id = run_task(f, "succeeded", format(&f->api, ",\"result\":\"%*s\"", 7000, ""));
    await(f, id, "delivered", 1);
    EXPECT_HAS(str_of(seen(f)->body), "\"result\":\"   ");
    char *large = arena_alloc(&f->api.arena, 30000);
    memset(large, 'x', 30000);
    Task task = { .state = TASK_SUCCEEDED, .result = { large, 30000 } };
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 1 << 20);
    webhook_body(&body, &task, 1);
    assert_true(body.len < WEBHOOK_BODY_BYTES_MAX && body.len > 0);
    EXPECT_HAS(buf_str(&body), "\"resultTruncated\":true");
    task.error_code = STR("c");
    task.error_detail = task.result;
    buf_clear(&body);
    webhook_body(&body, &task, 1);
    assert_true(body.len < WEBHOOK_BODY_BYTES_MAX && !body.failed);
}

/* --- trying again ----------------------------------------------------------------------------- */

static void test_tried_again(void **state)
{
    Fixture *f = *state;
    behave(f, (Behaviour){ .statuses = { 500, 200 } });
    const char *id = run_task(f, "succeeded", "");
    const Json *row = await(f, id, "pending", 1);
    EXPECT_HAS(json_str(json_get(row, "error")), "500");
    assert_true(json_str(json_get(row, "nextAt")).len > 0);
    usleep(1100000);                        /* another second on the receiver's clock */
    assert_int_equal(seen(f)->requests, 1); /* not before its time */
    assert_int_equal(store_call(f->api.store, due_job, NULL), 0);
    await(f, id, "delivered", 2);
    const Seen *r = seen(f);
    assert_string_equal(r->ids[0], r->ids[1]);
    assert_string_not_equal(r->timestamps[0], r->timestamps[1]);
    assert_int_equal(r->bad_signatures, 0);
}

static void test_answers_that_are_no_success(void **state)
{
    static const struct {
        int status;
        const char *fields, *end;
    } table[] = {
        { 302, "Location: http://127.0.0.1:1/\r\n", "pending" },
        { 400, NULL, "pending" },
        { 410, NULL, "failed" },
    };
    Fixture *f = *state;
    for (size_t i = 0; i < ARRAY_N(table); i++) {
        behave(f, (Behaviour){ .statuses = { table[i].status }, .fields = table[i].fields });
        const Json *row = await(f, run_task(f, "succeeded", ""), table[i].end, 1);
        assert_int_equal(json_i64_or(json_get(row, "status"), 0), table[i].status);
        assert_int_equal(seen(f)->requests, 1); /* no redirect was followed */
    }
}

/* What a busy host asks for holds for everything that is on its way to it. */
static void test_a_busy_host_is_left_alone(void **state)
{
    Fixture *f = *state;
    behave(f, (Behaviour){ .statuses = { 503 }, .fields = "Retry-After: 60\r\n" });
    const Json *row = await(f, run_task(f, "succeeded", ""), "pending", 1);
    assert_int_equal(json_i64_or(json_get(row, "status"), 0), 503);
    const char *other = run_task(f, "succeeded", "");
    usleep(300000);
    await(f, other, "pending", 0);
    assert_int_equal(seen(f)->requests, 1);
}

/* Also when an attempt that was under way before comes to its end after. */
static void test_a_busy_host_stays_left_alone(void **state)
{
    Fixture *f = *state;
    behave(f, (Behaviour){ .statuses = { 200, 503 },
                           .fields = "Retry-After: 60\r\n",
                           .delay_ms = 500,
                           .delayed = 1 });
    const char *slow = run_task(f, "succeeded", "");
    await_requests(f, 1);
    await(f, run_task(f, "succeeded", ""), "pending", 1);
    await(f, slow, "delivered", 1);
    const char *other = run_task(f, "succeeded", "");
    usleep(300000);
    await(f, other, "pending", 0);
    assert_int_equal(seen(f)->requests, 2);
}

static int records_refuse_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "CREATE TRIGGER refuse BEFORE UPDATE OF attempts ON webhook"
                              " BEGIN SELECT RAISE (ABORT, 'refused'); END"),
                  NULL);
}

static int records_take_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "DROP TRIGGER refuse"), NULL);
}

/* What was sent is not sent again because the store does not take that it was. */
static void test_sent_once_though_not_recorded(void **state)
{
    Fixture *f = *state;
    assert_int_equal(store_call(f->api.store, records_refuse_job, NULL), 0);
    const char *id = run_task(f, "succeeded", "");
    await_requests(f, 1);
    usleep(500000);
    await(f, id, "pending", 0);
    assert_int_equal(seen(f)->requests, 1);
    assert_int_equal(store_call(f->api.store, records_take_job, NULL), 0);
    await(f, id, "delivered", 1);
    assert_int_equal(seen(f)->requests, 1);
}

/* --- what was given up ------------------------------------------------------------------------ */

static Str dead_id(Fixture *f)
{
    Reply reply = get(&f->api, "/api/webhooks?state=failed&limit=1");
    EXPECT(reply, 200);
    const Json *row = json_at(member(&reply, "webhooks"), 0);
    assert_non_null(row);
    return json_str(json_get(row, "webhookId"));
}

static void test_replayed_by_hand(void **state)
{
    Fixture *f = *state;
    EXPECT(get(&f->api, "/api/webhooks?state=dead"), 400);
    EXPECT(get(&f->api, "/api/webhooks?cursor=x"), 400);
    behave(f, (Behaviour){ .statuses = { 410 } });
    const char *id = run_task(f, "succeeded", "");
    await(f, id, "failed", 1);
    const char *path = format(&f->api, "/api/webhooks/%.*s/replay", STR_ARG(dead_id(f)));
    Reply reply = post(&f->api, path, NULL);
    EXPECT(reply, 409); /* disabled */

    /* what comes for it now is given up at once, and said so */
    const char *other = run_task(f, "succeeded", "");
    const Json *row = await(f, other, "failed", 0);
    EXPECT_HAS(json_str(json_get(row, "error")), "disabled");
    assert_int_equal(seen(f)->requests, 1);
    reply = get(&f->api, "/api/webhooks/endpoints");
    EXPECT(reply, 200);
    EXPECT_TEXT(json_str(json_get(json_at(member(&reply, "endpoints"), 0), "url")), f->url);
    EXPECT(post(&f->api, "/api/webhooks/replay", "{\"all\":true}"), 202);
    assert_int_equal(seen(f)->requests, 1);

    behave(f, (Behaviour){ 0 });
    const char *enable = format(&f->api, "{\"url\":\"%s\"}", f->url);
    EXPECT(post(&f->api, "/api/webhooks/endpoints/enable", enable), 200);
    EXPECT(post(&f->api, "/api/webhooks/endpoints/enable", enable), 404);
    EXPECT(post(&f->api, path, NULL), 202);
    await(f, id, "delivered", 1);
    EXPECT(post(&f->api, "/api/webhooks/replay", "{}"), 400);
    EXPECT(post(&f->api, "/api/webhooks/replay", "{\"since\":\"now\"}"), 400);
    reply = post(&f->api, "/api/webhooks/replay", enable);
    EXPECT(reply, 202);
    assert_int_equal(number(&reply, "replayed"), 1);
    await(f, other, "delivered", 1);
    EXPECT(post(&f->api, path, NULL), 202); /* delivered ones too, by name */
    EXPECT(post(&f->api, "/api/webhooks/msg_x/replay", NULL), 404);
    EXPECT(post(&f->api, format(&f->api, "/api/webhooks/msg_%s_0/replay", id), NULL), 404);
    WebhookStats stats;
    webhooks_stats(f->api.webhooks, &stats);
    assert_int_equal(stats.disabled, 1);
}

static void test_secret_rotated(void **state)
{
    Fixture *f = *state;
    EXPECT(post(&f->api, "/api/webhooks/secret/rotate", NULL), 409); /* configured */
    api_close(&f->api);
    f->api.secret_in_file = true;
    api_open(&f->api);
    EXPECT(post(&f->api, "/api/webhooks/secret/rotate", "{\"overlap\":\"31d\"}"), 400);
    Reply reply = post(&f->api, "/api/webhooks/secret/rotate", "{\"overlap\":\"1h\"}");
    EXPECT(reply, 200);
    Str secret = text(&reply, "secret");
    assert_true(str_starts_with(secret, STR("whsec_")));
    await(f, run_task(f, "succeeded", ""), "delivered", 1);
    Str header = str_of(seen(f)->signatures);
    assert_true(str_find_char(header, ' ') > 0);
    assert_int_equal(webhook_verify(secret, str_of(f->copy.ids[0]), timestamp_of(&f->copy),
                                    str_of(f->copy.body), header, timestamp_of(&f->copy)),
                     0);
}

static void test_one_host_does_not_hold_up_others(void **state)
{
    Fixture *f = *state;
    const char *ids[12];
    api_close(&f->api);
    f->api.webhooks_on = false;
    api_open(&f->api);
    for (size_t i = 0; i < ARRAY_N(ids); i++) ids[i] = run_task(f, "succeeded", "");
    api_close(&f->api);
    f->api.webhooks_on = true;
    behave(f, (Behaviour){ .delay_ms = 50 });
    api_open(&f->api); /* all are due at once */
    for (size_t i = 0; i < ARRAY_N(ids); i++) await(f, ids[i], "delivered", 1);
    const Seen *r = seen(f);
    assert_true(r->peak >= 1 && r->peak <= 4); /* of eight in all */
    WebhookStats stats;
    webhooks_stats(f->api.webhooks, &stats);
    assert_true(stats.host_full >= 1);
}

/* --- silence ---------------------------------------------------------------------------------- */

static void test_silence_and_long_answers(void **state)
{
    Fixture *f = *state;
    behave(f,
           (Behaviour){ .answer_bytes = (size_t)1 << 20 }); /* nobody reads all that: it counts */
    await(f, run_task(f, "succeeded", ""), "delivered", 1);
    behave(f, (Behaviour){ .delay_ms = 4000 }); /* the fixture allows 2 s */
    const Json *row = await(f, run_task(f, "succeeded", ""), "pending", 1);
    assert_int_equal(json_i64_or(json_get(row, "status"), -1), 0);
    assert_true(json_str(json_get(row, "error")).len > 0);
}

/* --- addresses -------------------------------------------------------------------------------- */

static void test_guarded_address(void **state)
{
    Fixture *f = *state;
    api_close(&f->api);
    f->api.guard = (AddrGuard){ 0 };
    api_open(&f->api);
    const Json *row = await(f, run_task(f, "succeeded", ""), "failed", 1);
    EXPECT_HAS(json_str(json_get(row, "error")), "127.0.0.1");
    assert_int_equal(seen(f)->requests, 0);
}

/* --- restarts and crowds ---------------------------------------------------------------------- */

static void test_pending_rows_of_an_earlier_process(void **state)
{
    Fixture *f = *state;
    api_close(&f->api);
    f->api.webhooks_on = false;
    api_open(&f->api);
    const char *id = run_task(f, "succeeded", "");
    await(f, id, "pending", 0);
    api_close(&f->api);
    f->api.webhooks_on = true;
    api_open(&f->api);
    await(f, id, "delivered", 1);
    assert_int_equal(seen(f)->requests, 1);
}

static void test_bounded_and_once_each(void **state)
{
    Fixture *f = *state;
    behave(f, (Behaviour){ .delay_ms = 100 });
    const char *ids[30];
    for (size_t i = 0; i < ARRAY_N(ids); i++) ids[i] = run_task(f, "succeeded", "");
    for (size_t i = 0; i < ARRAY_N(ids); i++) await(f, ids[i], "delivered", 1);
    const Seen *r = seen(f);
    assert_int_equal(r->requests, ARRAY_N(ids));
    assert_true(r->peak > 1 && r->peak <= 4);
    for (int i = 0; i < r->requests; i++)
        for (int j = 0; j < i; j++) assert_string_not_equal(r->ids[i], r->ids[j]);
}

/* All attempts there may be are under way: the rest of what is due is seen to wait. */
static void test_all_attempts_are_taken(void **state)
{
    Fixture *f = *state;
    const char *ids[6];
    api_close(&f->api);
    f->api.webhooks_on = false;
    api_open(&f->api);
    for (size_t i = 0; i < ARRAY_N(ids); i++) ids[i] = run_task(f, "succeeded", "");
    api_close(&f->api);
    f->api.webhooks_on = true;
    f->api.webhooks_max = 2;
    behave(f, (Behaviour){ .delay_ms = 20 });
    api_open(&f->api);
    for (size_t i = 0; i < ARRAY_N(ids); i++) await(f, ids[i], "delivered", 1);
    assert_true(seen(f)->peak <= 2);
    WebhookStats stats;
    webhooks_stats(f->api.webhooks, &stats);
    assert_true(stats.full >= 1);
}

/* Stops while an attempt is under way, starts again, and returns how many requests that made. */
static int stop_in_the_middle(Fixture *f, int64_t stop_ms)
{
    behave(f, (Behaviour){ .delay_ms = 1500 });
    f->api.stop_ms = stop_ms;
    const char *id = run_task(f, "succeeded", "");
    int64_t until_ms = clock_mono_ms() + CLIENT_LIMIT_MS;
    while (seen(f)->requests == 0 && clock_mono_ms() < until_ms) usleep(1000);
    int before = seen(f)->requests;
    api_close(&f->api);
    behave(f, (Behaviour){ 0 });
    api_open(&f->api);
    await(f, id, "delivered", 1);
    return before + seen(f)->requests;
}

/* The end of the process waits for an attempt, or cuts it short: then it is as good as not made. */
static void test_stopped_in_the_middle(void **state)
{
    Fixture *f = *state;
    assert_int_equal(stop_in_the_middle(f, 5000), 1);
    assert_int_equal(stop_in_the_middle(f, 50), 2);
}

/* --- pure ------------------------------------------------------------------------------------- */

static void test_delays(void **state)
{
    (void)state;
    static const int64_t least_s[] = { 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400 };
    for (int n = 1; n <= (int)ARRAY_N(least_s); n++) {
        int64_t least = least_s[n - 1] * 1000;
        assert_int_equal(webhook_retry_delay_ms(n, 0, 0), least);
        for (uint64_t random = 1; random < UINT64_MAX / 3; random *= 3) {
            int64_t delay = webhook_retry_delay_ms(n, random, 0);
            assert_true(delay >= least && delay <= least + least / 10);
        }
    }
    assert_int_equal(webhook_retry_delay_ms(WEBHOOK_ATTEMPTS_MAX, 0, 0), -1);
    assert_int_equal(webhook_retry_delay_ms(1, 0, 60000), 60000);        /* as asked */
    assert_int_equal(webhook_retry_delay_ms(2, 0, 60000), 300000);       /* ours is longer */
    assert_int_equal(webhook_retry_delay_ms(1, 0, INT64_MAX), 86400000); /* within reason */
    assert_int_equal(webhook_retry_delay_ms(1, 0, -5), 5000);
}

static int secrets_open(const char *dir, WebhookSecrets **ret)
{
    return webhook_secrets_open(&(WebhookSecretOptions){ .data_dir = dir }, ret);
}

static int signatures_of(WebhookSecrets *secrets, int64_t at_s)
{
    char header[WEBHOOK_SIGNATURES_MAX];
    assert_int_equal(webhook_secrets_sign(secrets, STR("msg_1"), at_s, STR("{}"), header), 0);
    return str_find_char(str_of(header), ' ') < 0 ? 1 : 2;
}

static bool signs(WebhookSecrets *secrets, const char *with, int64_t at_s)
{
    char header[WEBHOOK_SIGNATURES_MAX];
    assert_int_equal(webhook_secrets_sign(secrets, STR("msg_1"), at_s, STR("{}"), header), 0);
    return webhook_verify(str_of(with), STR("msg_1"), at_s, STR("{}"), str_of(header), at_s) == 0;
}

static void secret_read(const char *path, char out[WEBHOOK_SECRET_TEXT_MAX])
{
    char text[512] = "";
    int fd = open(path, O_RDONLY);
    assert_true(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    Str first;
    str_split(str_of(text), '\n', &first, NULL);
    str_copy(out, WEBHOOK_SECRET_TEXT_MAX, first);
}

static void test_secret_file(void **state)
{
    (void)state;
    TempDir dir;
    WebhookSecrets *secrets = NULL;
    char first[WEBHOOK_SECRET_TEXT_MAX], second[WEBHOOK_SECRET_TEXT_MAX], path[512];
    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/webhook-secret", dir.path);
    assert_int_equal(secrets_open(dir.path, &secrets), 0);
    webhook_secrets_free(secrets);
    secret_read(path, first);
    assert_int_equal(strlen(first), 6 + 44);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(secrets_open(dir.path, &secrets), 0);
    secret_read(path, second);
    assert_string_equal(first, second);
    assert_true(signs(secrets, first, 1000));
    webhook_secrets_free(secrets);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "hello\n", 6), 6);
    close(fd);
    assert_int_equal(secrets_open(dir.path, &secrets), -EINVAL);
    EXPECT_HAS(str_of(diag_text()), "remove it");
    assert_int_equal(secrets_open("/nonexistent/x", &secrets), -ENOENT);
    temp_dir_deinit(&dir);
}

static void test_secret_rotation(void **state)
{
    (void)state;
    TempDir dir;
    WebhookSecrets *secrets = NULL;
    char one[WEBHOOK_SECRET_TEXT_MAX], two[WEBHOOK_SECRET_TEXT_MAX], three[WEBHOOK_SECRET_TEXT_MAX],
        path[512];
    temp_dir_init(&dir);
    snprintf(path, sizeof path, "%s/webhook-secret", dir.path);
    assert_int_equal(secrets_open(dir.path, &secrets), 0);
    secret_read(path, one);
    assert_int_equal(webhook_secrets_rotate(secrets, 60000, 1000000, two), 0);
    for (int pass = 0; pass < 2; pass++) { /* as it is in memory, and as it is in the file */
        assert_int_equal(signatures_of(secrets, 1000), 2);
        assert_true(signs(secrets, one, 1059) && signs(secrets, two, 1059));
        assert_int_equal(signatures_of(secrets, 1060), 1);
        assert_true(signs(secrets, two, 1060));
        webhook_secrets_free(secrets);
        assert_int_equal(secrets_open(dir.path, &secrets), 0);
    }
    /* rotated again: two secrets at most; without overlap, one */
    assert_int_equal(webhook_secrets_rotate(secrets, 60000, 1000000, three), 0);
    assert_true(signs(secrets, two, 1001) && signs(secrets, three, 1001));
    assert_false(signs(secrets, one, 1001));
    assert_int_equal(webhook_secrets_rotate(secrets, 0, 1000000, one), 0);
    assert_int_equal(signatures_of(secrets, 1000), 1);
    webhook_secrets_free(secrets);

    WebhookSecretOptions configured = { .secret = str_of(one), .previous = str_of(two) };
    assert_int_equal(webhook_secrets_open(&configured, &secrets), 0);
    assert_true(signs(secrets, one, 5) && signs(secrets, two, 5));
    assert_int_equal(webhook_secrets_rotate(secrets, 0, 0, three), WEBHOOK_E_CONFIGURED);
    webhook_secrets_free(secrets);
    configured.previous = STR("whsec_short");
    assert_int_equal(webhook_secrets_open(&configured, &secrets), -EINVAL);
    temp_dir_deinit(&dir);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

/* A host that fails is left alone: what is due for it waits, and that is no attempt. */
static void test_a_failing_host_is_left_alone(void **state)
{
    Fixture *f = *state;
    behave(f, (Behaviour){ .statuses = { 500 } });
    for (int i = 0; i < 3; i++) await(f, run_task(f, "succeeded", ""), "pending", 1);
    const char *id = run_task(f, "succeeded", "");
    WebhookStats stats = { 0 };
    for (int i = 0; i < 2000 && stats.postponed == 0; i++) {
        usleep(5000);
        webhooks_stats(f->api.webhooks, &stats);
    }
    assert_true(stats.postponed >= 1);
    assert_int_equal(stats.attempts, 3);
    assert_int_equal(seen(f)->requests, 3);
    BreakerInfo info[2];
    assert_int_equal(breakers_list(f->api.breakers, info, 2), 1);
    assert_int_equal(info[0].state, BREAKER_OPEN);
    assert_true(strncmp(info[0].name, "127.0.0.1:", 10) == 0);
    behave(f, (Behaviour){ .statuses = { 200 } });
    await(f, id, "delivered", 1); /* the probe */
    for (int i = 0; i < 2000 && info[0].state != BREAKER_CLOSED; i++) {
        usleep(5000);
        breakers_list(f->api.breakers, info, 2);
    }
    assert_int_equal(info[0].state, BREAKER_CLOSED);
}

/* What the breaker says after an answer of that status to one more webhook. */
static BreakerState answered(Fixture *f, int status)
{
    BreakerInfo info[2];
    behave(f, (Behaviour){ .statuses = { status } });
    await(f, run_task(f, "succeeded", ""), status == 200 ? "delivered" : "pending", 1);
    assert_int_equal(breakers_list(f->api.breakers, info, 2), 1);
    return info[0].state;
}

/* Answers that say nothing of a host do not hide those that say that it cannot. */
static void test_what_answers_say_of_a_host(void **state)
{
    Fixture *f = *state;
    static const int nothing[] = { 400, 404, 302 };
    for (size_t i = 0; i < ARRAY_N(nothing); i++)
        assert_int_equal(answered(f, nothing[i]), BREAKER_CLOSED);
    answered(f, 429);
    answered(f, 408);
    assert_int_not_equal(answered(f, 503), BREAKER_CLOSED);
}

/* A probe that is answered so leaves it half-open: the next one may tell. */
static void test_a_probe_that_says_nothing(void **state)
{
    Fixture *f = *state;
    for (int i = 0; i < 3; i++) answered(f, 500);
    assert_int_equal(answered(f, 404), BREAKER_HALF_OPEN);
    assert_int_equal(answered(f, 200), BREAKER_CLOSED);
}

static int backlog_job(Db *db, void *arg)
{
    (void)arg;
    return db_run(db_stmt(db, "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i"
                              " WHERE n < 1000) INSERT INTO webhook (webhook_id, task_seq, url,"
                              " host, body, state, created_at_ms, next_at_ms)"
                              " SELECT 'msg_' || n, task_seq, url, host, body, 0, created_at_ms, 1"
                              " FROM i, (SELECT * FROM webhook LIMIT 1)"),
                  NULL);
}

static int untouched_job(Db *db, void *arg)
{
    DbStmt *s = db_stmt(db, "SELECT count(*) FROM webhook WHERE next_at_ms = 1");
    int r = db_step(s);
    *(int64_t *)arg = db_i64(s, 0);
    db_reset(s);
    return MIN(r, 0);
}

/* However much is due for it: no row is written but those of attempts. */
static void test_a_dead_host_costs_nothing(void **state)
{
    Fixture *f = *state;
    behave(f, (Behaviour){ .statuses = { 500 } });
    for (int i = 0; i < 3; i++) await(f, run_task(f, "succeeded", ""), "pending", 1);
    assert_int_equal(store_call(f->api.store, backlog_job, NULL), 0);
    int64_t untouched = 0;
    WebhookStats stats = { 0 };
    for (int i = 0; i < 4000 && stats.attempts < 5; i++) {
        usleep(5000);
        webhooks_stats(f->api.webhooks, &stats);
    }
    assert_int_equal(store_call(f->api.store, untouched_job, &untouched), 0);
    assert_true(stats.attempts >= 5 && stats.attempts < 20);
    assert_true(untouched + (int64_t)stats.attempts >= 1000);
    assert_true(stats.postponed < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_delivered_and_signed),
        CASE(test_failed_task_and_retry_by_hand),
        CASE(test_large_result_is_left_out),
        CASE(test_tried_again),
        CASE(test_answers_that_are_no_success),
        CASE(test_a_busy_host_is_left_alone),
        CASE(test_a_busy_host_stays_left_alone),
        CASE(test_sent_once_though_not_recorded),
        CASE(test_replayed_by_hand),
        CASE(test_secret_rotated),
        CASE(test_one_host_does_not_hold_up_others),
        CASE(test_silence_and_long_answers),
        CASE(test_a_failing_host_is_left_alone),
        CASE(test_what_answers_say_of_a_host),
        CASE(test_a_probe_that_says_nothing),
        CASE(test_a_dead_host_costs_nothing),
        CASE(test_guarded_address),
        CASE(test_pending_rows_of_an_earlier_process),
        CASE(test_bounded_and_once_each),
        CASE(test_all_attempts_are_taken),
        CASE(test_stopped_in_the_middle),
        cmocka_unit_test(test_delays),
        cmocka_unit_test(test_secret_file),
        cmocka_unit_test(test_secret_rotation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
