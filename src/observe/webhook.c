#include "observe/webhook.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "codec/time_text.h"
#include "codec/url.h"
#include "net/http_client.h"
#include "observe/task_json.h"
#include "store/webhook_store.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define CONCURRENT_DEFAULT 8
#define CONCURRENT_MAX 256
#define HOST_CONCURRENT_DEFAULT 4
#define TIMEOUT_DEFAULT_MS 15000
#define POLL_DEFAULT_MS 1000
#define MORE_HOSTS_MS 100 /* between two parts of the hosts, when there are so many */
#define LISTEN_MS 30000
#define POSTPONED_MS_MIN 100
#define RECORD_AGAIN_MS 1000
#define ANSWER_BYTES_MAX (64 << 10)
#define ATTEMPT_MEMORY_MAX ((size_t)64 << 20) /* a task with its result, and the body */
#define BATCH_MEMORY_MAX ((size_t)16 << 20)

/* A host whose breaker is open: what is due for it is left out of the search, so that however much
 * that is costs nothing. */
typedef struct {
    char host[WEBHOOK_HOST_MAX];
    int64_t until_ms; /* monotonic; 0: none */
    bool asked;       /* by the host itself: what others of its attempts came to changes nothing */
} HostOpen;

#define QUIET_MS_MAX INT64_C(3600000) /* of a host that asks for more */
#define HOSTS_OPEN_MAX 256            /* what is due for more than that is postponed, row by row */

struct Webhooks {
    Queue *queue;
    HttpClient *http;
    AddrGuard guard;
    WebhookSecrets *secrets;
    Breakers *breakers; /* by host; NULL: none */
    size_t concurrent_max, host_concurrent_max;
    int64_t timeout_ms, poll_ms;

    char last_host[WEBHOOK_HOST_MAX]; /* who had its turn last */
    HostOpen open[HOSTS_OPEN_MAX];
    List attempts; /* under way */
    size_t attempts_n;
    Cond changed;   /* something is due, an attempt ended, or stopping */
    bool dirty;     /* the outbox may hold something new */
    uint64_t ended; /* attempts that are over */
    bool stopping;
    FiberRef listener, dispatcher;

    _Atomic uint64_t tried, delivered, retried, failed, postponed, host_full, full, disabled;
    _Atomic int64_t in_flight;
};

/* One attempt; lives on the heap while its fiber runs. */
typedef struct {
    ListNode node;
    Webhooks *owner;
    FiberRef fiber;
    Arena arena; /* row, body, answer */
    Webhook row;
    Task task;
    Str body;
    int status;             /* of the answer, 0: none came */
    int64_t retry_after_ms; /* 0: not asked for */
    bool final;             /* no further attempt makes sense */
    bool disabled;          /* the endpoint wanted no more before: it was not made */
    int64_t postponed_ms;   /* not made: the breaker is open for so long; 0: it was made */
} WebhookAttempt;

/* --- schedule --------------------------------------------------------------------------------- */

#define MINUTE_MS INT64_C(60000)
#define HOUR_MS INT64_C(3600000)

static const int64_t delays_ms[WEBHOOK_ATTEMPTS_MAX - 1] = {
    5000,         5 * MINUTE_MS, 30 * MINUTE_MS, 2 * HOUR_MS,  5 * HOUR_MS,
    10 * HOUR_MS, 14 * HOUR_MS,  20 * HOUR_MS,   24 * HOUR_MS,
};

int64_t webhook_retry_delay_ms(int64_t attempts, uint64_t random, int64_t retry_after_ms)
{
    assert(attempts >= 1);
    if (attempts > (int64_t)ARRAY_N(delays_ms)) return -1;
    int64_t delay = delays_ms[attempts - 1];
    delay += (int64_t)(random % (uint64_t)(delay / 10 + 1));
    return MAX(delay, MIN(MAX(retry_after_ms, 0), 24 * HOUR_MS));
}

/* --- one attempt ------------------------------------------------------------------------------ */

static void body_write(Buf *out, const Task *task, int64_t now_ms, unsigned flags)
{
    char type[32];
    snprintf(type, sizeof type, "task.%s", task_state_name(task->state));
    JsonOut json = json_out(out);
    json_out_object(&json);
    json_out_kcstr(&json, "type", type);
    json_out_ktime(&json, "timestamp", now_ms);
    json_out_key(&json, "data");
    task_json(&json, task, flags);
    json_out_object_end(&json);
}

void webhook_body(Buf *out, const Task *task, int64_t now_ms)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, WEBHOOK_BODY_BYTES_MAX - 1);
    body_write(&body, task, now_ms, TASK_JSON_RESULT);
    if (body.failed) {
        buf_clear(&body);
        body_write(&body, task, now_ms, TASK_JSON_BRIEF);
    }
    if (body.failed) out->failed = true;
    else buf_add(out, buf_str(&body));
}

/* The body that is sent: the row's own, which shows the task as it was then; else as it is now. */
static int body_make(WebhookAttempt *a)
{
    a->body = a->row.body;
    if (!str_empty(a->body)) return 0;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, WEBHOOK_BODY_BYTES_MAX);
    webhook_body(&body, &a->task, a->row.created_at_ms);
    if (body.failed) return diag_set(-EMSGSIZE, "the task is too large for a webhook");
    a->body = arena_str(&a->arena, buf_str(&body));
    return a->body.ptr ? 0 : -ENOMEM;
}

static int task_load(Db *db, void *arg)
{
    WebhookAttempt *a = arg;
    int r = webhook_is_disabled(db, a->row.url, &a->disabled);
    bool alone = a->row.task_seq == 0; /* an event: it has its body */
    return r != 0 || a->disabled || alone
               ? r
               : task_get_by_seq(db, a->row.task_seq, TASK_PART_PAYLOAD | TASK_PART_RESULT,
                                 &a->arena, &a->task);
}

/* Sends it and reads the answer: the status decides, the body is read only so that the receiver can
 * finish. Returns 0 when a head came. */
static int exchange_wait(WebhookAttempt *a, const HttpCallOptions *options)
{
    CLEANUP(http_call_freep) HttpCall *call = NULL;
    int r = http_call_open_wait(a->owner->http, options, &call);
    if (r < 0) return r;
    a->status = http_call_status(call);
    Str asked = http_call_field(call, "retry-after");
    a->retry_after_ms = time_retry_after_ms(asked, clock_real_ms());
    size_t seen = 0;
    Str chunk;
    while (seen <= ANSWER_BYTES_MAX && http_call_read_wait(call, options->deadline_ms, &chunk) == 0)
        seen += chunk.len;
    return 0;
}

static int send_wait(WebhookAttempt *a)
{
    Webhooks *w = a->owner;
    char signature[WEBHOOK_SIGNATURES_MAX];
    int64_t now_s = clock_real_ms() / 1000;
    int r = webhook_secrets_sign(w->secrets, a->row.webhook_id, now_s, a->body, signature);
    if (r < 0) return r;
    Str timestamp = arena_printf(&a->arena, "%" PRId64, now_s);
    if (!timestamp.ptr) return -ENOMEM;
    HttpClientField fields[] = {
        { "content-type", STR("application/json") },
        { "user-agent", STR("gantry/" GANTRY_VERSION) },
        { "webhook-id", a->row.webhook_id },
        { "webhook-timestamp", timestamp },
        { "webhook-signature", str_of(signature) },
        { "traceparent", a->task.traceparent },
    };
    HttpCallOptions options = {
        .method = STR("POST"),
        .url = a->row.url,
        .fields = fields,
        .fields_n = ARRAY_N(fields) - (str_empty(a->task.traceparent) ? 1 : 0),
        .body = a->body,
        .connect_timeout_ms = w->timeout_ms,
        .idle_timeout_ms = w->timeout_ms,
        .deadline_ms = deadline_after(w->timeout_ms),
        .guard = &w->guard,
    };
    return exchange_wait(a, &options);
}

/* What the answer says of the host. That it does not take what is sent, at this URL or so signed,
 * is neither: it is no sign of health, and another URL of it may be well. */
static BreakerResult result_of(const WebhookAttempt *a, int r)
{
    if (r == -ECANCELED) return BREAKER_UNTOLD;
    if (r < 0 || a->status >= 500 || a->status == 408 || a->status == 429) return BREAKER_BAD;
    return a->status / 100 == 2 ? BREAKER_GOOD : BREAKER_UNTOLD;
}

/* Sends it if the breaker of its host lets it. */
static int send_guarded_wait(WebhookAttempt *a, const Url *url)
{
    Webhooks *w = a->owner;
    BreakerTicket ticket = { 0 };
    int64_t next_ms = 0, began_ms = clock_mono_ms();
    Str host = arena_printf(&a->arena, "%.*s:%u", STR_ARG(url->host), url->port);
    if (w->breakers && !breakers_ask(w->breakers, host, &ticket, &next_ms)) {
        a->postponed_ms = MAX(next_ms - began_ms, POSTPONED_MS_MIN);
        return 0;
    }
    int r = send_wait(a);
    if (w->breakers)
        breakers_done(w->breakers, &ticket, result_of(a, r), clock_mono_ms() - began_ms);
    return r;
}

/* Returns 0 when the receiver took it (or it was put off), -errno with diag otherwise. */
static int deliver_wait(WebhookAttempt *a)
{
    Webhooks *w = a->owner;
    int r = store_read_wait(queue_store(w->queue), task_load, a);
    if (r == 0 && a->disabled) {
        a->final = true;
        return diag_set(-EACCES, "the endpoint is disabled: it has answered 410");
    }
    if (r == 0 && a->row.task_seq != 0) uuid_text(a->task.id, log_context()->task_id);
    if (r == 0) r = body_make(a);
    Url url;
    if (r == 0 && (r = url_parse(&a->arena, a->row.url, &url)) == -EINVAL) a->final = true;
    if (r == 0) r = addr_guard_check_url(&w->guard, &url);
    if (r == 0) r = send_guarded_wait(a, &url);
    if (a->postponed_ms) return 0;
    if (r == -EACCES) a->final = true; /* the guard's word; asking again would not change it */
    if (r < 0) return r;
    if (a->status / 100 == 2) return 0;
    if (a->status == 410) a->final = true; /* Standard Webhooks: the receiver wants no more */
    return diag_set(-EREMOTEIO, "the receiver answered %d", a->status);
}

/* --- the outcome ------------------------------------------------------------------------------ */

typedef struct {
    const Queue *queue;
    const Webhook *row;
    WebhookState state;
    int64_t delay_ms; /* WEBHOOK_PENDING: until the next attempt */
    int64_t status;
    Str error;
} Verdict;

static int verdict_store(Db *db, void *arg)
{
    Verdict *v = arg;
    int64_t now_ms = queue_now_ms(v->queue);
    int64_t next_at_ms = v->state == WEBHOOK_PENDING ? now_ms + v->delay_ms : 0;
    if (v->status == 410) {
        WebhookDisabled endpoint = { v->row->url, now_ms, v->row->webhook_id };
        int r = webhook_disable(db, &endpoint);
        if (r != 0) return r;
    }
    return webhook_record(db, v->row->id, v->state, next_at_ms, v->status, v->error);
}

static Verdict judge(WebhookAttempt *a, int r)
{
    Verdict v = {
        .queue = a->owner->queue, .row = &a->row, .state = WEBHOOK_DELIVERED, .status = a->status
    };
    if (r == 0) return v;
    v.error = arena_str(&a->arena, str_of(diag_text_or(r)));
    v.delay_ms = webhook_retry_delay_ms(a->row.attempts + 1, entropy_u64(), a->retry_after_ms);
    v.state = a->final || v.delay_ms < 0 ? WEBHOOK_FAILED : WEBHOOK_PENDING;
    return v;
}

/* Until it is taken, or the process ends: what is not known to have been sent is due, and would be
 * sent again at once, and again, for as long as the disk is full. */
static void record_wait(WebhookAttempt *a, const Verdict *v)
{
    Store *store = queue_store(a->owner->queue);
    int r;
    while ((r = store_call_wait(store, verdict_store, (void *)v)) < 0 && r != -ENOENT) {
        LOG_ERROR("webhook attempt not recorded", LOG_STR("webhookId", a->row.webhook_id),
                  LOG_CSTR("reason", diag_text_or(r)), LOG_INT("againMs", RECORD_AGAIN_MS));
        if (fiber_sleep_wait(RECORD_AGAIN_MS) < 0) return;
    }
}

static void report_wait(WebhookAttempt *a, const Verdict *v)
{
    Webhooks *w = a->owner;
    _Atomic uint64_t *counter = v->state == WEBHOOK_DELIVERED ? &w->delivered
                                : v->state == WEBHOOK_FAILED  ? &w->failed
                                                              : &w->retried;
    atomic_fetch_add(counter, 1);
    if (v->status == 410) atomic_fetch_add(&w->disabled, 1);
    if (v->state != WEBHOOK_DELIVERED)
        LOG_WARN("webhook not delivered", LOG_STR("webhookId", a->row.webhook_id),
                 LOG_CSTR("state", webhook_state_name(v->state)), LOG_INT("status", v->status),
                 LOG_INT("attempt", a->row.attempts + 1), LOG_STR("reason", v->error));
    record_wait(a, v);
}

typedef struct {
    const Queue *queue;
    int64_t id, delay_ms;
} PostponeJob;

static int postpone_store(Db *db, void *arg)
{
    PostponeJob *job = arg;
    return webhook_postpone(db, job->id, queue_now_ms(job->queue) + job->delay_ms);
}

/* ms 0: not any longer. Whether there was room for it. */
static bool host_open_set(Webhooks *w, Str host, int64_t ms, bool asked)
{
    int64_t now_ms = clock_mono_ms();
    HostOpen *place = NULL;
    for (size_t i = 0; i < HOSTS_OPEN_MAX; i++) {
        HostOpen *open = &w->open[i];
        bool same = str_eq(str_of(open->host), host);
        if (same || (!place && open->until_ms <= now_ms)) place = open;
        if (same) break;
    }
    bool known = place && str_eq(str_of(place->host), host);
    if (known && place->asked && !asked && place->until_ms > now_ms) return true;
    if (!place || (ms == 0 && !known)) return false;
    str_copy(place->host, sizeof place->host, host);
    place->until_ms = ms ? now_ms + ms : 0;
    place->asked = asked;
    return true;
}

static void postpone_wait(WebhookAttempt *a)
{
    PostponeJob job = { a->owner->queue, a->row.id, a->postponed_ms };
    atomic_fetch_add(&a->owner->postponed, 1);
    if (host_open_set(a->owner, a->row.host, a->postponed_ms, false)) return;
    fiber_shield();
    int r = store_call_wait(queue_store(a->owner->queue), postpone_store, &job);
    fiber_unshield();
    if (r < 0) LOG_WARN("webhook not put off", LOG_CSTR("reason", diag_text_or(r)));
}

/* How long the host wants nothing: what holds for one message holds for all. */
static int64_t quiet_ms(const WebhookAttempt *a)
{
    bool busy = a->status == 429 || a->status == 502 || a->status == 503 || a->status == 504;
    return busy ? MIN(a->retry_after_ms, QUIET_MS_MAX) : 0;
}

static int attempt_main(void *arg)
{
    WebhookAttempt *a = arg;
    Webhooks *w = a->owner;
    int r = deliver_wait(a);
    /* one that was cut short by the end of the process is as good as not made */
    if (!a->postponed_ms && !a->disabled) atomic_fetch_add(&w->tried, 1);
    if (a->postponed_ms) {
        postpone_wait(a);
    } else if (r != -ECANCELED) {
        Verdict v = judge(a, r);
        /* 0: perhaps a probe, for whose end others were put off: to be asked again */
        int64_t ms = quiet_ms(a);
        (void)host_open_set(w, a->row.host, ms, ms > 0);
        report_wait(a, &v);
    }
    list_remove(&a->node);
    w->attempts_n--;
    w->ended++;
    atomic_fetch_sub(&w->in_flight, 1);
    w->dirty = true;
    cond_broadcast(&w->changed);
    arena_deinit(&a->arena);
    free(a);
    return 0;
}

static bool row_copy(Arena *arena, const Webhook *from, Webhook *to)
{
    *to = *from;
    to->webhook_id = arena_str(arena, from->webhook_id);
    to->url = arena_str(arena, from->url);
    to->body = arena_str(arena, from->body);
    to->host = arena_str(arena, from->host);
    to->last_error = STR_NULL;
    return to->webhook_id.ptr && to->url.ptr && to->host.ptr && to->body.ptr;
}

static void attempt_start(Webhooks *w, const Webhook *row)
{
    WebhookAttempt *a = xcalloc(1, sizeof *a);
    a->owner = w;
    arena_init(&a->arena, ATTEMPT_MEMORY_MAX);
    list_push_back(&w->attempts, &a->node);
    if (!row_copy(&a->arena, row, &a->row) ||
        fiber_spawn("webhook attempt", attempt_main, a, &a->fiber) < 0) {
        list_remove(&a->node);
        arena_deinit(&a->arena);
        free(a);
        return; /* still due: the next round finds it again */
    }
    w->attempts_n++;
    atomic_fetch_add(&w->in_flight, 1);
}

/* --- what is due ------------------------------------------------------------------------------ */

typedef struct {
    Arena arena;
    WebhookSearch search;
    WebhookDue due;
} Batch;

static void batch_deinit(Batch *batch)
{
    arena_deinit(&batch->arena);
}

static int batch_load(Db *db, void *arg)
{
    Batch *b = arg;
    return webhook_due(db, &b->search, &b->arena, &b->due);
}

static WebhookHostUse *use_add(WebhookHostUse *use, size_t *n, Str host)
{
    size_t i = 0;
    while (i < *n && !str_eq(use[i].host, host)) i++;
    if (i == *n) use[(*n)++] = (WebhookHostUse){ .host = host };
    use[i].n++;
    return &use[i];
}

/* What is under way, which the store still has as pending. In the batch's arena: attempts may end
 * while it is read. */
static int batch_fill(const Webhooks *w, Batch *b)
{
    WebhookHostUse *use = ARENA_ARRAY(&b->arena, WebhookHostUse, w->attempts_n + HOSTS_OPEN_MAX);
    int64_t *skip = ARENA_ARRAY(&b->arena, int64_t, w->attempts_n + 1);
    size_t use_n = 0, skip_n = 0;
    if (!use || !skip) return -ENOMEM;
    LIST_EACH (&w->attempts, node) {
        const Webhook *row = &CONTAINER_OF(node, WebhookAttempt, node)->row;
        Str host = arena_str(&b->arena, row->host);
        if (!host.ptr) return -ENOMEM;
        (void)use_add(use, &use_n, host);
        skip[skip_n++] = row->id;
    }
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < HOSTS_OPEN_MAX; i++) {
        if (w->open[i].until_ms <= now_ms) continue;
        Str host = arena_str(&b->arena, str_of(w->open[i].host));
        if (!host.ptr) return -ENOMEM;
        use_add(use, &use_n, host)->left_out = true;
    }
    b->search = (WebhookSearch){ .now_ms = queue_now_ms(w->queue),
                                 .limit = w->concurrent_max - w->attempts_n,
                                 .host_max = w->host_concurrent_max,
                                 .after_host = arena_str(&b->arena, str_of(w->last_host)),
                                 .use = use,
                                 .use_n = use_n,
                                 .skip = skip,
                                 .skip_n = skip_n };
    return b->search.after_host.ptr ? 0 : -ENOMEM;
}

/* How long until one of them may be tried again. */
static int64_t hosts_open_ms(const Webhooks *w)
{
    int64_t now_ms = clock_mono_ms(), first_ms = INT64_MAX;
    for (size_t i = 0; i < HOSTS_OPEN_MAX; i++)
        if (w->open[i].until_ms > now_ms) first_ms = MIN(first_ms, w->open[i].until_ms - now_ms);
    return first_ms;
}

/* Starts what is due and not under way, as far as there is room. *ret_sleep_ms: how long until the
 * next one is due. */
static int dispatch_wait(Webhooks *w, int64_t *ret_sleep_ms)
{
    CLEANUP(batch_deinit) Batch batch = { 0 };
    arena_init(&batch.arena, BATCH_MEMORY_MAX);
    w->dirty = false;
    if (w->attempts_n >= w->concurrent_max) return 0;
    uint64_t ended = w->ended;
    int r = batch_fill(w, &batch);
    if (r == 0) r = store_read_wait(queue_store(w->queue), batch_load, &batch);
    if (r < 0) return r;
    /* what was read may show a row as pending whose attempt ended meanwhile: read again */
    if (w->ended != ended) return 0;
    const WebhookDue *due = &batch.due;
    if (due->hosts_full) atomic_fetch_add(&w->host_full, 1);
    for (size_t i = 0; i < due->n; i++) {
        attempt_start(w, &due->rows[i]);
        str_copy(w->last_host, sizeof w->last_host, due->rows[i].host);
    }
    if (due->more && w->attempts_n >= w->concurrent_max) atomic_fetch_add(&w->full, 1);
    if (due->more && due->n > 0) w->dirty = true; /* go on where it ended */
    if (!str_empty(due->last_host)) {
        str_copy(w->last_host, sizeof w->last_host, due->last_host);
        *ret_sleep_ms = MIN(*ret_sleep_ms, MORE_HOSTS_MS);
    }
    *ret_sleep_ms = MIN(*ret_sleep_ms, hosts_open_ms(w));
    if (due->next_at_ms != INT64_MAX)
        *ret_sleep_ms = MIN(*ret_sleep_ms, MAX(due->next_at_ms - queue_now_ms(w->queue), 0));
    return 0;
}

/* Tells the dispatcher about commits that put something into the outbox. */
static int listener_main(void *arg)
{
    Webhooks *w = arg;
    for (;;) {
        uint64_t mark = queue_webhook_mark(w->queue);
        w->dirty = true;
        cond_broadcast(&w->changed);
        int r = queue_webhook_wait(w->queue, mark, deadline_after(LISTEN_MS));
        if (r == -ECANCELED || w->stopping) return 0;
    }
}

static int dispatcher_main(void *arg)
{
    Webhooks *w = arg;
    int spawned = fiber_spawn("webhook listener", listener_main, w, &w->listener);
    if (spawned < 0)
        LOG_WARN("webhooks are noticed late", LOG_CSTR("reason", diag_text_or(spawned)));
    while (!w->stopping && !fiber_cancelled()) {
        int64_t sleep_ms = w->poll_ms;
        int r = dispatch_wait(w, &sleep_ms);
        if (r < 0 && r != -ECANCELED)
            LOG_ERROR("webhooks cannot be read", LOG_CSTR("reason", diag_text_or(r)));
        bool full = w->attempts_n >= w->concurrent_max;
        /* a wake-up that came meanwhile is not lost; an attempt that ends wakes too */
        if (w->dirty && !full && r == 0) continue;
        int64_t deadline_ms = deadline_after(full ? w->poll_ms : MAX(sleep_ms, 10));
        if (!w->stopping && cond_wait(&w->changed, deadline_ms) == -ECANCELED) break;
    }
    return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

static void webhooks_free(Webhooks *w)
{
    http_client_free(w->http);
    free(w);
}

int webhooks_start(const WebhookOptions *options, Webhooks **ret)
{
    Webhooks *w = xcalloc(1, sizeof *w);
    w->queue = options->queue;
    w->guard = *options->guard;
    w->secrets = options->secrets;
    w->concurrent_max = options->concurrent_max ? options->concurrent_max : CONCURRENT_DEFAULT;
    w->concurrent_max = MIN(w->concurrent_max, (size_t)CONCURRENT_MAX);
    w->host_concurrent_max = options->host_concurrent_max ? options->host_concurrent_max
                                                          : HOST_CONCURRENT_DEFAULT;
    w->breakers = options->breakers;
    w->timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_DEFAULT_MS;
    w->poll_ms = options->poll_ms ? options->poll_ms : POLL_DEFAULT_MS;
    w->http = http_client_new();
    list_init(&w->attempts);
    cond_init(&w->changed);
    int r = fiber_spawn("webhooks", dispatcher_main, w, &w->dispatcher);
    if (r < 0) webhooks_free(w);
    else *ret = w;
    return r;
}

static void attempts_end_wait(Webhooks *w, int64_t deadline_ms)
{
    while (w->attempts_n > 0)
        if (cond_wait(&w->changed, deadline_ms) != 0) break;
    LIST_EACH (&w->attempts, node) fiber_cancel(CONTAINER_OF(node, WebhookAttempt, node)->fiber);
    while (w->attempts_n > 0) (void)cond_wait(&w->changed, DEADLINE_NONE);
}

void webhooks_stop_wait(Webhooks *w, int64_t deadline_ms)
{
    if (!w) return;
    fiber_shield();
    w->stopping = true;
    fiber_cancel(w->dispatcher);
    (void)fiber_join_wait(w->dispatcher, NULL);
    if (w->listener.fiber) {
        fiber_cancel(w->listener);
        (void)fiber_join_wait(w->listener, NULL);
    }
    attempts_end_wait(w, deadline_ms);
    fiber_unshield();
    webhooks_free(w);
}

void webhooks_stats(const Webhooks *w, WebhookStats *ret)
{
    *ret = (WebhookStats){
        .attempts = atomic_load(&w->tried),
        .delivered = atomic_load(&w->delivered),
        .retried = atomic_load(&w->retried),
        .failed = atomic_load(&w->failed),
        .postponed = atomic_load(&w->postponed),
        .host_full = atomic_load(&w->host_full),
        .full = atomic_load(&w->full),
        .disabled = atomic_load(&w->disabled),
        .in_flight = atomic_load(&w->in_flight),
    };
}
