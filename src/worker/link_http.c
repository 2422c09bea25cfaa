#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "logic/flag.h"
#include "logic/version.h"
#include "sys/clock.h"
#include "worker/wire.h"

#define TIMEOUT_DEFAULT_MS 10000
#define HEARTBEAT_MS_MAX 800 /* an older server pushes nothing; a cancel is to arrive in a second */
#define SIGNAL_REST_MS 20    /* after a signal: they may come in numbers */
#define SIGNAL_MARGIN_MS 10000 /* for the answer to one that did not come */
#define REQUEST_BYTES_MAX ((size_t)128 << 20)
#define REPLY_BYTES_MAX ((size_t)1 << 20)
#define JOURNAL_BYTES_MAX ((size_t)16 << 20)
#define VERSION_BYTES_MAX ((size_t)16 << 20)
#define REPLY_ARENA_BYTES_MAX (REPLY_BYTES_MAX * 16)
#define PATH_BYTES_MAX 256
#define FINISH_REQUESTS_MAX 4              /* under way; while there are so many, reports gather */
#define FINISH_BYTES_MAX ((size_t)1 << 20) /* of results that go together */

typedef struct {
    WorkerLink link;
    HttpClient *client;
    char *url;
    char *authorization; /* "Bearer KEY", or NULL */
    int64_t timeout_ms;
    LinkLease lease;   /* of the registration */
    size_t finish_max; /* reports of ends that the server takes in one request */
    int finishing;     /* requests of such under way */
    bool finish_woken; /* one that is to send the next has not run yet */
    List finishes;     /* FinishWait: for those of the next one */
} HttpLink;

static HttpLink *http_of(WorkerLink *link)
{
    return CONTAINER_OF(link, HttpLink, link);
}

/* --- requests --------------------------------------------------------------------------------- */

typedef struct {
    const char *method;
    const char *path; /* below the server's URL */
    Str body;         /* JSON, or empty */
    int64_t timeout_ms;
    size_t reply_bytes_max;
    int absent; /* what 404 means */
} Ask;

/* Puts the problem's own words into diag. */
static int refused(Arena *arena, const Ask *ask, int status, Str body, int r)
{
    const Json *v;
    Str detail = STR_NULL;
    if (body.len && json_parse(arena, body, NULL, &v, NULL) == 0) {
        detail = json_str(json_get(v, "detail"));
        if (!detail.len) detail = json_str(json_get(v, "title"));
    }
    return diag_set(r, "%s %s: HTTP %d%s%.*s", ask->method, ask->path, status,
                    detail.len ? ": " : "", STR_ARG(str_sub(detail, 0, 300)));
}

static int status_read(Arena *arena, const Ask *ask, int status, Str body)
{
    if (status >= 200 && status <= 299) return 0;
    switch (status) {
    case 401:
    case 403: return refused(arena, ask, status, body, -EACCES);
    case 404: return refused(arena, ask, status, body, ask->absent);
    case 409: return refused(arena, ask, status, body, LINK_E_STALE);
    case 400:
    case 413:
    case 422: return refused(arena, ask, status, body, LINK_E_REFUSED);
    default: return refused(arena, ask, status, body, -EAGAIN);
    }
}

static int fields_make(const HttpLink *http, HttpClientField fields[2], bool has_body)
{
    int n = 0;
    if (has_body) fields[n++] = (HttpClientField){ "content-type", STR("application/json") };
    if (http->authorization)
        fields[n++] = (HttpClientField){ "authorization", str_of(http->authorization) };
    return n;
}

static int options_make(const HttpLink *http, const Ask *ask, Arena *arena,
                        HttpClientField fields[2], HttpCallOptions *ret)
{
    Str url = arena_printf(arena, "%s%s", http->url, ask->path);
    if (!url.ptr) return -ENOMEM;
    *ret = (HttpCallOptions){
        .method = str_of(ask->method),
        .url = url,
        .fields = fields,
        .fields_n = (size_t)fields_make(http, fields, ask->body.len > 0),
        .body = ask->body,
        .deadline_ms = deadline_after(ask->timeout_ms),
    };
    return 0;
}

/* Asks once. *ret_body (may be NULL) lives in arena. */
static int ask_wait(HttpLink *http, const Ask *ask, Arena *arena, Str *ret_body)
{
    HttpClientField fields[2];
    HttpCallOptions options;
    HttpResponse response;
    int r = options_make(http, ask, arena, fields, &options);
    if (r < 0) return r;
    r = http_fetch_wait(http->client, &options, ask->reply_bytes_max, arena, &response);
    if (r == HTTP_CALL_E_CUT) r = -ECONNRESET;
    if (r < 0) return diag_prefix(r, "%s %s", ask->method, ask->path);
    r = status_read(arena, ask, response.status, response.body);
    if (r == 0 && ret_body) *ret_body = response.body;
    return r;
}

static int ask_json_wait(HttpLink *http, const Ask *ask, Arena *arena, const Json **ret)
{
    Str body;
    int r = ask_wait(http, ask, arena, &body);
    if (r != 0) return r;
    r = json_parse(arena, body, NULL, ret, NULL);
    return r == -EINVAL ? diag_prefix(-EPROTO, "%s %s", ask->method, ask->path) : r;
}

static const char *worker_path(const HttpLink *http, const char *verb, char out[PATH_BYTES_MAX])
{
    Buf path;
    buf_init(&path, PATH_BYTES_MAX - 1);
    assert(http->lease.worker_id[0]); /* registered */
    buf_printf(&path, "/api/workers/%s/%s", http->lease.worker_id, verb);
    assert(!path.failed);
    str_copy(out, PATH_BYTES_MAX, buf_str(&path));
    buf_deinit(&path);
    return out;
}

/* Asks about the worker with what out has; of ask: how long, how much, and what 404 means. */
static int question_wait(HttpLink *http, const char *verb, const JsonOut *out, Ask ask,
                         Arena *arena, const Json **ret)
{
    char path[PATH_BYTES_MAX];
    if (!json_out_ok(out)) return -ENOMEM;
    ask.method = "POST";
    ask.path = worker_path(http, verb, path);
    ask.body = buf_str(out->buf);
    return ask_json_wait(http, &ask, arena, ret);
}

/* POSTs what was written to a route of the worker; no answer is expected. */
static int post_wait(HttpLink *http, const char *verb, const JsonOut *out)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    char path[PATH_BYTES_MAX];
    if (!json_out_ok(out)) return diag_set(LINK_E_REFUSED, "the report is too large");
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    Ask ask = {
        .method = "POST",
        .path = worker_path(http, verb, path),
        .body = buf_str(out->buf),
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_STALE, /* who has no lease holds no task */
    };
    return ask_wait(http, &ask, &arena, NULL);
}

/* --- the worker ------------------------------------------------------------------------------- */

/* A server that is older takes reports of ends one by one. */
static int lease_read(const Json *v, LinkLease *ret, int64_t *ret_finish_max)
{
    Str id = json_str(json_get(v, "workerId"));
    LinkLease lease = { 0 };
    if (id.len == 0 || id.len >= sizeof lease.worker_id)
        return diag_set(-EPROTO, "the server gave no workerId");
    for (size_t i = 0; i < id.len; i++) /* it becomes part of paths */
        if (!strchr("0123456789abcdefABCDEF-", id.ptr[i]))
            return diag_set(-EPROTO, "the server gave no proper workerId");
    str_copy(lease.worker_id, sizeof lease.worker_id, id);
    lease.lease_ms = json_i64_or(json_get(v, "leaseMs"), 0);
    if (lease.lease_ms < 100 || lease.lease_ms > INT32_MAX)
        return diag_set(-EPROTO, "the server gave no proper leaseMs");
    lease.heartbeat_ms = json_i64_or(json_get(v, "heartbeatMs"), lease.lease_ms / 3);
    lease.heartbeat_ms = MIN(lease.heartbeat_ms, HEARTBEAT_MS_MAX);
    *ret_finish_max = MIN(MAX(json_i64_or(json_get(v, "finishMax"), 1), 1), FINISH_TASKS_MAX);
    *ret = lease;
    return 0;
}

static int http_register_wait(WorkerLink *link, const LinkWorker *worker, LinkLease *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    buf_init(&body, 4096);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "name", worker->name);
    json_out_key(&out, "slots");
    wire_slots_write(&out, &worker->slots);
    json_out_object_end(&out);
    Ask ask = {
        .method = "POST",
        .path = "/api/workers",
        .body = buf_str(&body),
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = -EPROTO,
    };
    int r = ask_json_wait(http, &ask, &arena, &v);
    int64_t finish_max = 1;
    if (r == 0) r = lease_read(v, &http->lease, &finish_max);
    if (r != 0) return r;
    http->finish_max = (size_t)finish_max;
    *ret = http->lease;
    return 0;
}

static int tasks_read(Arena *arena, const Json *tasks, LinkTask **ret, size_t *ret_n)
{
    size_t n = 0;
    LinkTask *list = ARENA_ARRAY(arena, LinkTask, json_len(tasks) + 1);
    if (!list) return diag_set(-ENOMEM, "too many tasks claimed at once");
    for (JsonIter it = json_iter(tasks); json_next(&it); n++) {
        int r = wire_task_read(arena, it.value, &list[n]);
        if (r < 0) return diag_prefix(r == -EINVAL ? -EPROTO : r, "claimed task");
    }
    *ret = list;
    *ret_n = n;
    return 0;
}

static int http_claim_wait(WorkerLink *link, const LaneConfig *free, int64_t wait_ms, Arena *arena,
                           LinkTask **ret, size_t *ret_n)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    buf_init(&body, 1024);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_key(&out, "free");
    wire_slots_write(&out, free);
    json_out_ki64(&out, "waitMs", wait_ms);
    json_out_object_end(&out);
    Ask ask = {
        .timeout_ms = wait_ms + http->timeout_ms,
        .reply_bytes_max = WIRE_CLAIM_BYTES_MAX,
        .absent = LINK_E_NO_WORKER,
    };
    *ret_n = 0;
    int r = question_wait(http, "claim", &out, ask, arena, &v);
    return r == 0 ? tasks_read(arena, json_get(v, "tasks"), ret, ret_n) : r;
}

static void heartbeat_write(JsonOut *out, const Heartbeat *beat)
{
    json_out_object(out);
    json_out_key(out, "tasks");
    json_out_array(out);
    for (size_t i = 0; i < beat->held_n; i++) {
        json_out_object(out);
        wire_ref_write(out, beat->held[i]);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    if (beat->calls_n) {
        json_out_key(out, "holds");
        json_out_array(out);
        for (size_t i = 0; i < beat->calls_n; i++) wire_hold_write(out, &beat->calls[i]);
        json_out_array_end(out);
    }
    if (beat->counts) {
        json_out_key(out, "counts");
        worker_counts_write(out, beat->counts);
    }
    json_out_object_end(out);
}

/* A heartbeat that hangs must not use up the lease: there has to be time for another. */
static int http_heartbeat_wait(WorkerLink *link, const Heartbeat *beat, Arena *arena,
                               HeartbeatReply *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    heartbeat_write(&out, beat);
    Ask ask = {
        .timeout_ms = MIN(http->timeout_ms, http->lease.lease_ms / 3),
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_NO_WORKER,
    };
    int r = question_wait(http, "heartbeat", &out, ask, arena, &v);
    return r == 0 ? wire_beat_read(arena, v, beat->held, beat->held_n, ret) : r;
}

static int signal_ask_wait(HttpLink *http, uint64_t mark, int64_t wait_ms, bool *ret_signalled)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_ki64(&out, "mark", (int64_t)mark);
    json_out_ki64(&out, "waitMs", wait_ms);
    json_out_object_end(&out);
    Ask ask = {
        .timeout_ms = wait_ms + MIN(SIGNAL_MARGIN_MS, http->lease.lease_ms / 3),
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_REFUSED,
    };
    int r = question_wait(http, "signal", &out, ask, &arena, &v);
    if (r == 0) *ret_signalled = json_bool(json_get(v, "signalled"), false);
    return r;
}

/* The server holds the question until there is a reason. Without an answer, and with a server that
 * is older, the heartbeat's own rhythm has to do. */
static int http_signal_wait(WorkerLink *link, uint64_t mark, int64_t deadline_ms)
{
    int64_t began_ms = clock_mono_ms(), wait_ms = deadline_ms - began_ms;
    bool signalled = false;
    int r = 0;
    if (mark != HEARTBEAT_NO_MARK && wait_ms > 0)
        r = signal_ask_wait(http_of(link), mark, wait_ms, &signalled);
    if (r == -ECANCELED) return r;
    int64_t until_ms = signalled ? began_ms + SIGNAL_REST_MS : deadline_ms;
    r = fiber_sleep_wait(until_ms - clock_mono_ms());
    return r == 0 && !signalled ? -ETIMEDOUT : r;
}

/* Read by the fiber of the heartbeats, so within their time. */
static int http_flags_wait(WorkerLink *link, Arena *arena, LinkFlags *ret)
{
    HttpLink *http = http_of(link);
    const Json *v;
    Ask ask = {
        .method = "GET",
        .path = "/api/flags",
        .timeout_ms = MIN(http->timeout_ms, http->lease.lease_ms / 3),
        .reply_bytes_max = 2 * FLAGS_BYTES_MAX,
        .absent = LINK_E_REFUSED,
    };
    FlagSet *set = ARENA_NEW(arena, FlagSet);
    if (!set) return -ENOMEM;
    int r = ask_json_wait(http, &ask, arena, &v);
    if (r != 0) return r;
    r = flags_parse(arena, json_get(v, "flags"), set);
    if (r == 0) *ret = (LinkFlags){ set, json_i64_or(json_get(v, "revision"), 0) };
    return r;
}

static int http_prices_wait(WorkerLink *link, Buf *out)
{
    HttpLink *http = http_of(link);
    CLEANUP(arena_deinit) Arena arena = { 0 };
    Str body;
    Ask ask = {
        .method = "GET",
        .path = "/api/prices/entries",
        .timeout_ms = MIN(http->timeout_ms, http->lease.lease_ms / 3),
        .reply_bytes_max = out->max,
        .absent = LINK_E_REFUSED,
    };
    arena_init(&arena, 2 * out->max);
    int r = ask_wait(http, &ask, &arena, &body);
    return r != 0 || buf_add(out, body) ? r : -ENOMEM;
}

/* Likewise. */
static int http_cache_wait(WorkerLink *link, const CacheFigures *figures, int64_t seen,
                           Arena *arena, CacheNews *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_cache_write(&out, figures, seen);
    Ask ask = {
        .timeout_ms = MIN(http->timeout_ms, http->lease.lease_ms / 3),
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_NO_WORKER,
    };
    int r = question_wait(http, "cache", &out, ask, arena, &v);
    return r == 0 ? wire_news_read(arena, v, ret) : r;
}

static int http_rates_wait(WorkerLink *link, const RateTelling *telling, GatewayShare *ret,
                           int64_t *ret_ttl_ms)
{
    HttpLink *http = http_of(link);
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_telling_write(&out, telling);
    Ask ask = {
        .timeout_ms = MIN(http->timeout_ms, http->lease.lease_ms / 3),
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_NO_WORKER,
    };
    int r = question_wait(http, "rates", &out, ask, &arena, &v);
    return r == 0 ? wire_shares_read(v, telling, ret, ret_ttl_ms) : r;
}

/* A word of the worker about itself. */
static int say_wait(HttpLink *http, const char *verb, int64_t timeout_ms)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    char path[PATH_BYTES_MAX];
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    Ask ask = {
        .method = "POST",
        .path = worker_path(http, verb, path),
        .body = STR("{}"),
        .timeout_ms = timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_NO_WORKER,
    };
    return ask_wait(http, &ask, &arena, NULL);
}

static int http_drain_wait(WorkerLink *link)
{
    HttpLink *http = http_of(link);
    return say_wait(http, "drain", MIN(http->timeout_ms, http->lease.lease_ms / 3));
}

static int http_leave_wait(WorkerLink *link)
{
    HttpLink *http = http_of(link);
    return say_wait(http, "leave", http->timeout_ms);
}

/* --- reports ---------------------------------------------------------------------------------- */

static int finish_alone_wait(HttpLink *http, const TaskFinish *finish)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_finish_write(&out, finish);
    return post_wait(http, "finish", &out);
}

/* A report that waits for others to come back, on its fiber's stack. Whoever takes it off the list
 * owes it one op_done. */
typedef struct {
    ListNode node;
    Op op;
    const TaskFinish *finish;
} FinishWait;

/* Beside the link's own words, what a FinishWait is told. */
enum {
    FINISH_LEADS = 100, /* send your own, with those that wait */
    FINISH_ALONE,       /* send it by itself: it was not taken as it was */
};

static void finish_cancel(Op *op, int code)
{
    FinishWait *w = CONTAINER_OF(op, FinishWait, op);
    if (!list_linked(&w->node)) return; /* it is being sent */
    list_remove(&w->node);
    op_done(op, code);
}

static size_t finish_bytes(const TaskFinish *finish)
{
    return finish->result.len + finish->error_detail.len + finish->conduct.tools.len;
}

/* What goes in one request: that of the leader, and those of others, who wait for it. */
typedef struct {
    size_t n;
    const TaskFinish *list[FINISH_TASKS_MAX];
    FinishWait *others[FINISH_TASKS_MAX]; /* n - 1 */
    int statuses[FINISH_TASKS_MAX];
} FinishBatch;

static void batch_fill(HttpLink *http, FinishBatch *batch, const TaskFinish *own)
{
    size_t bytes = finish_bytes(own);
    batch->n = 0;
    batch->list[batch->n++] = own;
    while (batch->n < http->finish_max && !list_empty(&http->finishes)) {
        FinishWait *w = CONTAINER_OF(http->finishes.next, FinishWait, node);
        bytes += finish_bytes(w->finish);
        if (bytes > FINISH_BYTES_MAX) return;
        list_remove(&w->node);
        batch->others[batch->n - 1] = w;
        batch->list[batch->n++] = w->finish;
    }
}

static int batch_send_wait(HttpLink *http, FinishBatch *batch)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_finishes_write(&out, batch->list, batch->n);
    Ask ask = {
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_STALE,
    };
    int r = question_wait(http, "finish-many", &out, ask, &arena, &v);
    return r == 0 ? wire_finished_read(v, batch->statuses, batch->n) : r;
}

/* What is refused goes alone then: so it is said why. */
static int finish_said(int r, int status)
{
    if (r < 0) return r;
    if (r == 0 && status == 204) return 0;
    return r == 0 && status == 409 ? LINK_E_STALE : FINISH_ALONE;
}

/* Returns as finish_said, for the leader's own. Those who wait hang on it: it is not abandoned, and
 * takes no longer than a request may. */
static int batch_wait(HttpLink *http, FinishBatch *batch)
{
    fiber_shield();
    int r = batch_send_wait(http, batch);
    fiber_unshield();
    for (size_t i = 1; i < batch->n; i++)
        op_done(&batch->others[i - 1]->op, finish_said(r, batch->statuses[i]));
    return finish_said(r, batch->statuses[0]);
}

/* Who waits first sends the next request, with the others; a second one only for what did not fit
 * into that. */
static void finish_wake(HttpLink *http)
{
    if (http->finish_woken || list_empty(&http->finishes)) return;
    if (http->finishing == FINISH_REQUESTS_MAX) return;
    ListNode *node = list_pop_front(&http->finishes);
    http->finishing++;
    http->finish_woken = true;
    op_done(&CONTAINER_OF(node, FinishWait, node)->op, FINISH_LEADS);
}

static int finish_lead_wait(HttpLink *http, const TaskFinish *finish)
{
    CLEANUP(freep) FinishBatch *batch = NULL;
    if (list_empty(&http->finishes)) return FINISH_ALONE;
    batch = xmalloc(sizeof *batch); /* too large for a fiber's stack */
    batch_fill(http, batch, finish);
    finish_wake(http);
    return batch->n > 1 ? batch_wait(http, batch) : FINISH_ALONE;
}

/* Told by who has sent it. */
static int finish_told(int r)
{
    if (r == LINK_E_STALE) return diag_set(r, "the task is not held under this fence any more");
    return r < 0 ? diag_set(r, "the report was not taken: %s", strerror(-r)) : r;
}

static int finish_led_wait(HttpLink *http, const TaskFinish *finish)
{
    int r = finish_lead_wait(http, finish);
    if (r == FINISH_ALONE) r = finish_alone_wait(http, finish);
    else r = finish_told(r);
    http->finishing--;
    finish_wake(http);
    return r;
}

/* One goes at once. Those that end while others are being reported go together, as many as there
 * are by then: the busier the worker, the fewer requests and commits a task. */
static int http_finish_wait(WorkerLink *link, const TaskFinish *finish)
{
    HttpLink *http = http_of(link);
    FinishWait w = { .finish = finish };
    if (http->finish_max == 1) return finish_alone_wait(http, finish);
    if (http->finishing < FINISH_REQUESTS_MAX) {
        http->finishing++;
        return finish_led_wait(http, finish);
    }
    list_init(&w.node);
    list_push_back(&http->finishes, &w.node);
    op_init(&w.op, finish_cancel);
    int r = op_wait(&w.op, DEADLINE_NONE);
    if (r == FINISH_LEADS) {
        http->finish_woken = false;
        return finish_led_wait(http, finish);
    }
    return r == FINISH_ALONE ? finish_alone_wait(http, finish) : finish_told(r);
}

static int http_score_wait(WorkerLink *link, const TaskScore *score)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_score_write(&out, score);
    return post_wait(http_of(link), "score", &out);
}

static int http_calls_wait(WorkerLink *link, TaskRef task, Uuid payer_id, const GatewayCall *calls,
                           size_t calls_n)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    char payer[UUID_TEXT_MAX];
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    wire_ref_write(&out, task);
    if (!uuid_is_zero(payer_id)) json_out_kcstr(&out, "payerId", uuid_text(payer_id, payer));
    json_out_key(&out, "calls");
    json_out_array(&out);
    for (size_t i = 0; i < calls_n; i++) wire_call_write(&out, &calls[i]);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return post_wait(http_of(link), "calls", &out);
}

static int http_tools_wait(WorkerLink *link, TaskRef task, const ToolRecord *records, size_t n)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    wire_ref_write(&out, task);
    json_out_key(&out, "tools");
    json_out_array(&out);
    for (size_t i = 0; i < n; i++) wire_tool_write(&out, &records[i]);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return post_wait(http_of(link), "tools", &out);
}

static int owns_path(const HttpLink *http, TaskRef task, Str owned, char out[PATH_BYTES_MAX])
{
    CLEANUP(buf_deinit) Buf text;
    char id[UUID_TEXT_MAX], path[PATH_BYTES_MAX];
    buf_init(&text, PATH_BYTES_MAX - 1);
    bool fits = buf_printf(&text,
                           "%s?task=%s&fence=%" PRId64 "&owns=", worker_path(http, "journal", path),
                           uuid_text(task.id, id), task.fence) &&
                url_encode(&text, owned);
    if (!fits) return -EINVAL;
    str_copy(out, PATH_BYTES_MAX, buf_str(&text));
    return 0;
}

static int journal_path(const HttpLink *http, TaskRef task, const JournalAsk *ask,
                        char out[PATH_BYTES_MAX])
{
    static const char *const names[] = {
        [JOURNAL_LIST] = "after", [JOURNAL_ANSWER] = "answer", [JOURNAL_REQUEST] = "request"
    };
    char id[UUID_TEXT_MAX], path[PATH_BYTES_MAX];
    if (ask->what == JOURNAL_OWNS) return owns_path(http, task, ask->id, out);
    int n = snprintf(out, PATH_BYTES_MAX, "%s?task=%s&fence=%" PRId64 "&%s=%" PRId64 "%s",
                     worker_path(http, "journal", path), uuid_text(task.id, id), task.fence,
                     names[ask->what], ask->n, ask->twin ? "&twin=true" : "");
    return n < PATH_BYTES_MAX ? 0 : -EINVAL;
}

static int http_journal_wait(WorkerLink *link, TaskRef task, const JournalAsk *ask, Arena *arena,
                             JournalReply *ret)
{
    HttpLink *http = http_of(link);
    char path[PATH_BYTES_MAX];
    const Json *v;
    int r = journal_path(http, task, ask, path);
    if (r < 0) return r;
    Ask get = {
        .method = "GET",
        .path = path,
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = JOURNAL_BYTES_MAX,
        .absent = LINK_E_NO_RECORDING,
    };
    r = ask_json_wait(http, &get, arena, &v);
    return r == 0 ? wire_journal_read(arena, v, ask, ret) : r;
}

static int http_journal_add_wait(WorkerLink *link, TaskRef task, const JournalNew *recording)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    wire_ref_write(&out, task);
    json_out_key(&out, "recordings");
    json_out_array(&out);
    wire_recording_write(&out, recording);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return post_wait(http_of(link), "journal", &out);
}

static int http_state_wait(WorkerLink *link, TaskRef task, const StateAsk *ask, Arena *arena,
                           StateReply *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_state_ask_write(&out, task, ask);
    Ask question = {
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = JOURNAL_BYTES_MAX,
        .absent = LINK_E_STALE,
    };
    int r = question_wait(http, "state", &out, question, arena, &v);
    if (r == 0) r = wire_state_reply_read(arena, v, ret);
    return r == -EINVAL ? diag_prefix(-EPROTO, "state") : r;
}

static int http_escalate_wait(WorkerLink *link, TaskRef task, const EscalationAsk *ask,
                              Arena *arena, EscalationReply *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    buf_init(&body, REPLY_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_escalation_ask_write(&out, task, ask);
    Ask question = {
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = 2 * REPLY_BYTES_MAX,
        .absent = LINK_E_STALE,
    };
    int r = question_wait(http, "escalate", &out, question, arena, &v);
    if (r == 0) r = wire_escalation_reply_read(arena, v, ret);
    return r == -EINVAL ? diag_prefix(-EPROTO, "escalate") : r;
}

static int http_grants_wait(WorkerLink *link, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                            BudgetAnswer *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    const Json *v;
    buf_init(&body, REPLY_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_ask_write(&out, ask, wait_ms);
    Ask question = {
        .timeout_ms = wait_ms + http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_NO_WORKER,
    };
    int r = question_wait(http, "grants", &out, question, arena, &v);
    if (r == 0) r = wire_answer_read(arena, v, ret);
    return r == -EINVAL ? diag_prefix(-EPROTO, "grants") : r;
}

static int http_holds_wait(WorkerLink *link, Uuid dead_id, const BudgetHold *holds, size_t n)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    char dead[UUID_TEXT_MAX];
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "workerId", uuid_text(dead_id, dead));
    json_out_key(&out, "holds");
    json_out_array(&out);
    for (size_t i = 0; i < n; i++) wire_hold_write(&out, &holds[i]);
    json_out_array_end(&out);
    json_out_object_end(&out);
    int r = post_wait(http_of(link), "holds", &out);
    return r == LINK_E_STALE ? LINK_E_NO_WORKER : r;
}

static int http_logs_wait(WorkerLink *link, TaskRef task, const TaskLogLine *lines, size_t lines_n)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    wire_ref_write(&out, task);
    json_out_key(&out, "entries");
    json_out_array(&out);
    for (size_t i = 0; i < lines_n; i++) wire_line_write(&out, &lines[i]);
    json_out_array_end(&out);
    json_out_object_end(&out);
    return post_wait(http_of(link), "logs", &out);
}

/* --- children --------------------------------------------------------------------------------- */

static int http_child_start_wait(WorkerLink *link, TaskRef task, const ChildNew *child,
                                 Arena *arena, LinkChild *ret)
{
    HttpLink *http = http_of(link);
    CLEANUP(buf_deinit) Buf body = { 0 };
    char path[PATH_BYTES_MAX];
    const Json *v;
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    wire_child_new_write(&out, task, child);
    if (!json_out_ok(&out)) return diag_set(LINK_E_REFUSED, "the input is too large");
    Ask ask = {
        .method = "POST",
        .path = worker_path(http, "children", path),
        .body = buf_str(&body),
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_STALE,
    };
    int r = ask_json_wait(http, &ask, arena, &v);
    if (r == 0) r = wire_child_read(v, ret);
    return r == -EINVAL ? diag_prefix(-EPROTO, "children") : r;
}

static void children_path(const HttpLink *http, TaskRef task, const char *more,
                          char out[PATH_BYTES_MAX])
{
    char verb[PATH_BYTES_MAX], id[UUID_TEXT_MAX];
    int n = snprintf(verb, sizeof verb, "children%s%stask=%s&fence=%" PRId64, more,
                     strchr(more, '?') ? "&" : "?", uuid_text(task.id, id), task.fence);
    assert(n < (int)sizeof verb);
    worker_path(http, verb, out);
}

static int http_children_wait(WorkerLink *link, TaskRef task, int64_t seen, int64_t wait_ms,
                              Arena *arena, FamilyRow **ret, size_t *ret_n)
{
    HttpLink *http = http_of(link);
    char path[PATH_BYTES_MAX], more[64];
    const Json *v;
    snprintf(more, sizeof more, "?seen=%" PRId64 "&waitMs=%" PRId64, seen, wait_ms);
    children_path(http, task, more, path);
    Ask ask = {
        .method = "GET",
        .path = path,
        .timeout_ms = wait_ms + http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_STALE,
    };
    int r = ask_json_wait(http, &ask, arena, &v);
    if (r == 0) r = wire_children_read(arena, v, ret, ret_n);
    return r == -EINVAL ? diag_prefix(-EPROTO, "children") : r;
}

static int http_child_wait(WorkerLink *link, TaskRef task, Uuid child, Arena *arena, Str *ret)
{
    HttpLink *http = http_of(link);
    char path[PATH_BYTES_MAX], more[64], id[UUID_TEXT_MAX];
    snprintf(more, sizeof more, "/%s", uuid_text(child, id));
    children_path(http, task, more, path);
    Ask ask = {
        .method = "GET",
        .path = path,
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = JOURNAL_BYTES_MAX,
        .absent = LINK_E_NO_CHILD,
    };
    return ask_wait(http, &ask, arena, ret);
}

static int http_child_cancel_wait(WorkerLink *link, TaskRef task, Uuid child)
{
    HttpLink *http = http_of(link);
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf body = { 0 };
    char path[PATH_BYTES_MAX], verb[64], id[UUID_TEXT_MAX];
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    buf_init(&body, 1024);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    wire_ref_write(&out, task);
    json_out_object_end(&out);
    snprintf(verb, sizeof verb, "children/%s/cancel", uuid_text(child, id));
    Ask ask = {
        .method = "POST",
        .path = worker_path(http, verb, path),
        .body = buf_str(&body),
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = REPLY_BYTES_MAX,
        .absent = LINK_E_NO_CHILD,
    };
    return ask_wait(http, &ask, &arena, NULL);
}

/* --- versions --------------------------------------------------------------------------------- */

static int version_path(Str id, const char *tail, char out[PATH_BYTES_MAX])
{
    CLEANUP(buf_deinit) Buf path = { 0 };
    buf_init(&path, PATH_BYTES_MAX - 1);
    if (!version_id_ok(id) || !buf_printf(&path, "/api/versions/%.*s%s", STR_ARG(id), tail))
        return diag_set(LINK_E_NO_VERSION, "not a version id");
    str_copy(out, PATH_BYTES_MAX, buf_str(&path));
    return 0;
}

static int version_read(Arena *arena, Str id, const Json *v, LinkVersion *ret)
{
    const Json *components = json_get(v, "components");
    CLEANUP(buf_deinit) Buf text = { 0 };
    LinkVersion version = { .id = id };
    buf_init(&text, VERSION_BYTES_MAX);
    JsonOut out = json_out(&text);
    json_out_value(&out, components);
    if (json_type(components) != JSON_OBJECT || !json_out_ok(&out))
        return diag_set(-EPROTO, "the server gave no components of version %.*s", STR_ARG(id));
    version.components = arena_str(arena, buf_str(&text));
    version.artifact = json_str(json_get(json_get(components, "code"), "digest"));
    if (str_starts_with(version.artifact, STR("sha256:")))
        version.artifact = str_skip(version.artifact, 7);
    *ret = version;
    return version.components.ptr ? 0 : -ENOMEM;
}

static int http_version_wait(WorkerLink *link, Str version_id, Arena *arena, LinkVersion *ret)
{
    HttpLink *http = http_of(link);
    char path[PATH_BYTES_MAX];
    const Json *v;
    int r = version_path(version_id, "", path);
    if (r != 0) return r;
    Ask ask = {
        .method = "GET",
        .path = path,
        .timeout_ms = http->timeout_ms,
        .reply_bytes_max = VERSION_BYTES_MAX,
        .absent = LINK_E_NO_VERSION,
    };
    r = ask_json_wait(http, &ask, arena, &v);
    return r == 0 ? version_read(arena, version_id, v, ret) : r;
}

static int body_read_wait(HttpCall *call, Buf *out)
{
    Str got;
    int r;
    while ((r = http_call_read_wait(call, DEADLINE_NONE, &got)) == 0)
        if (!buf_add(out, got)) return diag_set(-EFBIG, "the code is larger than is allowed");
    if (r == HTTP_CALL_E_CUT) return -ECONNRESET;
    return r == HTTP_CALL_E_END ? 0 : r;
}

/* The idle timeout bounds it, not its size. */
static int http_artifact_wait(WorkerLink *link, const LinkVersion *version, Buf *out)
{
    HttpLink *http = http_of(link);
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(http_call_freep) HttpCall *call = NULL;
    HttpClientField fields[2];
    HttpCallOptions options;
    char path[PATH_BYTES_MAX];
    int r = version_path(version->id, "/artifact", path);
    if (r != 0) return r;
    Ask ask = { .method = "GET", .path = path, .absent = LINK_E_NO_VERSION };
    arena_init(&arena, REPLY_ARENA_BYTES_MAX);
    r = options_make(http, &ask, &arena, fields, &options);
    if (r < 0) return r;
    options.deadline_ms = 0;
    options.idle_timeout_ms = http->timeout_ms;
    r = http_call_open_wait(http->client, &options, &call);
    if (r < 0) return diag_prefix(r, "%s %s", ask.method, ask.path);
    r = status_read(&arena, &ask, http_call_status(call), STR_NULL);
    return r == 0 ? body_read_wait(call, out) : r;
}

/* --- life ------------------------------------------------------------------------------------- */

static void http_free(WorkerLink *link)
{
    HttpLink *http = http_of(link);
    free(http->url);
    free(http->authorization);
    free(http);
}

static const WorkerLinkOps http_ops = {
    .register_wait = http_register_wait,
    .claim_wait = http_claim_wait,
    .heartbeat_wait = http_heartbeat_wait,
    .signal_wait = http_signal_wait,
    .flags_wait = http_flags_wait,
    .prices_wait = http_prices_wait,
    .cache_wait = http_cache_wait,
    .rates_wait = http_rates_wait,
    .finish_wait = http_finish_wait,
    .score_wait = http_score_wait,
    .calls_wait = http_calls_wait,
    .tools_wait = http_tools_wait,
    .journal_wait = http_journal_wait,
    .journal_add_wait = http_journal_add_wait,
    .state_wait = http_state_wait,
    .escalate_wait = http_escalate_wait,
    .grants_wait = http_grants_wait,
    .holds_wait = http_holds_wait,
    .child_start_wait = http_child_start_wait,
    .children_wait = http_children_wait,
    .child_wait = http_child_wait,
    .child_cancel_wait = http_child_cancel_wait,
    .logs_wait = http_logs_wait,
    .version_wait = http_version_wait,
    .artifact_wait = http_artifact_wait,
    .drain_wait = http_drain_wait,
    .leave_wait = http_leave_wait,
    .free = http_free,
};

static char *bearer(const char *key)
{
    Buf buf;
    if (!key || !key[0]) return NULL;
    buf_init(&buf, strlen(key) + 16);
    buf_printf(&buf, "Bearer %s", key);
    char *text = xstrdup(buf.ptr);
    buf_deinit(&buf);
    return text;
}

WorkerLink *link_http_new(const LinkHttpOptions *options)
{
    HttpLink *http = xcalloc(1, sizeof *http);
    assert(options->client && options->url);
    http->link.ops = &http_ops;
    http->finish_max = 1;
    list_init(&http->finishes);
    http->client = options->client;
    http->url = xstrdup(options->url);
    size_t n = strlen(http->url);
    if (n && http->url[n - 1] == '/') http->url[n - 1] = '\0';
    http->authorization = bearer(options->key);
    http->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_DEFAULT_MS;
    return &http->link;
}
