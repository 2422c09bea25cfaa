#include "worker/front.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "base/map.h"
#include "sys/clock.h"
#include "sys/entropy.h"
#include "worker/run.h"

#define READY_MS 10000
#define REPORT_DELAY_MS 100
#define REPORT_DELAY_MS_MAX 2000
#define PENDING_BYTES (64u * 1024) /* of a stream on its way home; more has to wait */
#define PENDING_BYTES_MAX (128u * 1024 * 1024)
#define CLOSE_IDLE_MS 5000 /* of a caller without calls: nothing to wait for */

struct Front {
    Loop *loop;
    const FrontKey *keys;
    size_t keys_n;
    FrontKey anyone;
    size_t callers_max;

    RunHost *host; /* NULL: not open */
    void (*idle)(void *ctx);
    void *idle_ctx;
    Uuid worker_id; /* the lease there is */
    bool ready, draining, closed;
    Map callers; /* FrontTask by name */
    List used;   /* least recently used first */
    List retired;
    size_t busy; /* requests being served */
    Cond changed;

    atomic_uint_fast64_t served, refused, away, evicted;
    atomic_int_fast64_t callers_n;
};

/* What the calls of a key and a user go through. */
typedef struct {
    ListNode node; /* on front->used */
    Front *front;
    const FrontKey *key;
    Str name; /* "INDEX USER" */
    Str user; /* within name */
    char id[UUID_TEXT_MAX];
    TaskRef ref;   /* the account */
    Uuid payer_id; /* the lease under which its calls are paid */
    bool retired;  /* that was lost: who calls now finds another */
    GatewaySink sink;
    GatewayTask *task; /* NULL: being opened, */
    bool failed;       /* or it could not be, and is no caller of the front's any more */
    size_t busy;       /* requests being served, or waiting for it to be opened */
} FrontTask;

/* --- life ------------------------------------------------------------------------------------- */

Front *front_new(Loop *loop, const FrontKey *keys, size_t keys_n, size_t callers_max)
{
    Front *front = xcalloc(1, sizeof *front);
    front->loop = loop;
    front->keys = keys;
    front->keys_n = keys_n;
    front->anyone.tenant = STR("dev");
    front->anyone.lane = LANE_NORMAL;
    front->callers_max = callers_max ? callers_max : FRONT_CALLERS_MAX;
    map_init(&front->callers, entropy_u64());
    list_init(&front->used);
    list_init(&front->retired);
    cond_init(&front->changed);
    return front;
}

void front_free(Front *front)
{
    if (!front) return;
    assert(!front->host && list_empty(&front->used));
    map_deinit(&front->callers);
    free(front);
}

/* Every key is compared, whichever fits: the time says nothing. */
const FrontKey *front_key(const Front *front, Str key)
{
    const FrontKey *found = NULL;
    uint8_t digest[SHA256_BYTES];
    sha256(key, digest);
    for (size_t i = 0; i < front->keys_n; i++)
        if (digest_eq(str_make((const char *)digest, sizeof digest),
                      str_make((const char *)front->keys[i].digest, SHA256_BYTES)))
            found = &front->keys[i];
    return found;
}

size_t front_keys_n(const Front *front)
{
    return front->keys_n;
}

const FrontKey *front_anyone(const Front *front)
{
    return &front->anyone;
}

void front_stats(const Front *front, FrontStats *ret)
{
    Front *f = (Front *)front; /* atomics */
    *ret = (FrontStats){ .served = atomic_load(&f->served),
                         .refused = atomic_load(&f->refused),
                         .away = atomic_load(&f->away),
                         .callers = atomic_load(&f->callers_n),
                         .evicted = atomic_load(&f->evicted) };
}

void front_open(Front *front, RunHost *host, void (*idle)(void *ctx), void *ctx)
{
    assert(!front->host && !front->closed && loop_here() == front->loop);
    front->host = host;
    front->idle = idle;
    front->idle_ctx = ctx;
}

void front_ready(Front *front)
{
    if (front->ready) return;
    front->ready = true;
    cond_broadcast(&front->changed);
}

void front_drain(Front *front)
{
    front->draining = true;
    cond_broadcast(&front->changed);
}

bool front_idle(const Front *front)
{
    return front->busy == 0;
}

void front_stop(Front *front)
{
    front_drain(front);
    LIST_EACH (&front->used, node) {
        FrontTask *t = CONTAINER_OF(node, FrontTask, node);
        if (t->task) gateway_task_stop(t->task, GATEWAY_STOP_AWAY);
    }
    LIST_EACH (&front->retired, node) {
        FrontTask *t = CONTAINER_OF(node, FrontTask, node);
        if (t->task) gateway_task_stop(t->task, GATEWAY_STOP_AWAY);
    }
}

/* --- records ---------------------------------------------------------------------------------- */

/* Again and again until the control plane has it; a worker that is torn down with its loop tries
 * once: its list of holds says what there is to know. */
static int on_call_wait(void *ctx, const GatewayCall *call)
{
    FrontTask *t = ctx;
    RunHost *host = t->front->host;
    int64_t delay_ms = REPORT_DELAY_MS;
    int r;
    if (host->holds) holds_charge(host->holds, call);
    fiber_shield();
    while ((r = host->link->ops->calls_wait(host->link, t->ref, t->payer_id, call, 1)) < 0 &&
           !host->torn_down) {
        LOG_WARN("report not taken", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        fiber_sleep_wait(delay_ms);
        delay_ms = MIN(delay_ms * 2, REPORT_DELAY_MS_MAX);
    }
    fiber_unshield();
    if (host->holds && r == 0) holds_drop(host->holds, call);
    return r > 0 ? -EIO : r;
}

/* What a lost lease had set aside is not there for calls that begin now; those under way on it go
 * on. */
static int on_hold_wait(void *ctx, const GatewayCall *call)
{
    FrontTask *t = ctx;
    if (t->retired)
        return diag_set(-EAGAIN, "the server has just registered anew: try again in a moment");
    RunHost *host = t->front->host;
    return host->holds ? holds_put(host->holds, call, t->ref) : 0;
}

static int on_state_wait(void *ctx, const JournalAsk *ask, Arena *arena, JournalReply *ret)
{
    const FrontTask *t = ctx;
    WorkerLink *link = t->front->host->link;
    int r = link->ops->journal_wait(link, t->ref, ask, arena, ret);
    return r == LINK_E_NO_RECORDING ? -ENOENT : r > 0 ? -EIO : r;
}

/* --- callers ---------------------------------------------------------------------------------- */

static FrontTask *caller_new(Front *front, const FrontCaller *caller, Str name)
{
    FrontTask *t = xcalloc(1, sizeof *t + name.len);
    char *text = (char *)(t + 1);
    memcpy(text, name.ptr, name.len);
    t->front = front;
    t->key = caller->key;
    t->payer_id = front->worker_id;
    t->name = str_make(text, name.len);
    t->user = str_skip(t->name, name.len - caller->user.len);
    t->sink = (GatewaySink){ .call_record_wait = on_call_wait,
                             .call_hold_wait = on_hold_wait,
                             .state_wait = on_state_wait,
                             .ctx = t };
    list_push_back(&front->used, &t->node);
    map_put(&front->callers, t->name, t);
    atomic_fetch_add(&front->callers_n, 1);
    return t;
}

static void caller_forget(FrontTask *t)
{
    Front *front = t->front;
    list_remove(&t->node);
    map_remove(&front->callers, t->name);
    atomic_fetch_sub(&front->callers_n, 1);
}

/* It is forgotten, and nobody uses it. */
static void caller_free_wait(FrontTask *t)
{
    gateway_task_close_wait(t->task, deadline_after(CLOSE_IDLE_MS));
    free(t);
}

/* Makes room for another. False: all have something under way. */
static bool caller_evict_wait(Front *front)
{
    LIST_EACH (&front->used, node) {
        FrontTask *t = CONTAINER_OF(node, FrontTask, node);
        if (t->busy > 0) continue;
        caller_forget(t);
        atomic_fetch_add(&front->evicted, 1);
        caller_free_wait(t);
        return true;
    }
    return false;
}

/* Calls under way go on and are recorded; others are made under the new lease. */
void front_lease(Front *front, Uuid worker_id)
{
    front->worker_id = worker_id;
    LIST_EACH (&front->used, node) {
        FrontTask *t = CONTAINER_OF(node, FrontTask, node);
        if (t->busy == 0) {
            t->payer_id = worker_id;
            continue;
        }
        t->retired = true;
        caller_forget(t);
        list_push_back(&front->retired, &t->node);
    }
}

static int caller_open_wait(FrontTask *t)
{
    RunHost *host = t->front->host;
    const FrontKey *key = t->key;
    BudgetOwner owner = { .tenant = key->tenant, .agent = key->agent, .user = t->user };
    int r = host->link->ops->account_wait(host->link, &owner, &t->ref.id);
    if (r == LINK_E_REFUSED) return -EDQUOT;
    if (r != 0) return r > 0 ? -EIO : r;
    t->ref.fence = TASK_FENCE_ACCOUNT;
    uuid_text(t->ref.id, t->id);
    GatewayTaskOptions options = {
        .task_id = str_of(t->id),
        .agent = key->agent,
        .limits = { CAP_NONE, CAP_NONE, CAP_NONE, CAP_NONE },
        .call_max = key->call_max,
        .spent = { .started_ms = clock_mono_ms() },
        .lane = key->lane,
        .user_id = t->user,
        .tenant_id = key->tenant,
        .sink = &t->sink,
    };
    return gateway_task_open(host->gateway, &options, &t->task);
}

/* Waits for who opens it. */
static int caller_opened_wait(const FrontTask *t)
{
    while (!t->task && !t->failed) {
        int r = cond_wait(&t->front->changed, DEADLINE_NONE);
        if (r < 0) return r;
    }
    return t->task ? 0 : -EIO;
}

static void caller_leave_wait(FrontTask *t)
{
    Front *front = t->front;
    assert(t->busy > 0);
    t->busy--;
    cond_broadcast(&front->changed);
    if (t->busy > 0 || (!t->failed && !t->retired)) return;
    list_remove(&t->node);
    caller_free_wait(t);
}

/* The one there is, or a new one (then *ret_new), in use by one more. Returns 0, -EBUSY. */
static int caller_find_wait(Front *front, const FrontCaller *caller, FrontTask **ret, bool *ret_new)
{
    char text[FRONT_USER_BYTES_MAX + 24];
    ptrdiff_t i = caller->key == &front->anyone ? -1 : caller->key - front->keys;
    int n = snprintf(text, sizeof text, "%td %.*s", i, STR_ARG(caller->user));
    Str name = str_make(text, (size_t)n);
    FrontTask *t = map_get(&front->callers, name);
    bool full = !t && front->callers.n >= front->callers_max;
    if (full && !caller_evict_wait(front)) return -EBUSY;
    if (full) t = map_get(&front->callers, name); /* others may have come meanwhile */
    *ret_new = !t;
    if (!t) t = caller_new(front, caller, name);
    t->busy++;
    list_remove(&t->node);
    list_push_back(&front->used, &t->node);
    *ret = t;
    return 0;
}

/* What the caller's calls go through, until caller_leave_wait. Returns 0, -EBUSY (too many
 * callers), -EDQUOT (a new one beyond the tenant's maximum), -ECANCELED, -errno. */
static int caller_join_wait(Front *front, const FrontCaller *caller, FrontTask **ret)
{
    FrontTask *t;
    bool is_new;
    int r = caller_find_wait(front, caller, &t, &is_new);
    if (r < 0) return r;
    r = is_new ? caller_open_wait(t) : caller_opened_wait(t);
    if (r < 0 && is_new) {
        t->failed = true;
        if (!t->retired) caller_forget(t);
    }
    if (r < 0) caller_leave_wait(t);
    else cond_broadcast(&front->changed);
    *ret = t;
    return r;
}

/* --- between loops ---------------------------------------------------------------------------- */

/* A request on its way to the front's loop, on the stack of the fiber that has it. */
typedef struct {
    Front *front;
    Loop *home; /* of the request */
    const FrontCaller *caller;
    HttpReq *req;
    GatewayHttp http;
    GatewayReply reply; /* on home */
    bool streamed, written;
    atomic_bool gone;

    /* of a stream, on the front's loop: what comes while a piece is on its way goes with the
     * next */
    Buf pending, sending;
    bool flushing;
    int failed; /* what became of the last piece */
    Cond flushed;
} Crossing;

typedef struct {
    Crossing *c;
    int status;
    const GatewayField *fields;
    size_t fields_n;
    bool streamed;
    Str bytes;
} Piece;

static int start_at_home(void *arg)
{
    Piece *p = arg;
    const GatewayReply *reply = &p->c->reply;
    return reply->start_wait(reply->ctx, p->status, p->fields, p->fields_n, p->streamed);
}

static int write_at_home(void *arg)
{
    Piece *p = arg;
    return p->c->reply.write_wait(p->c->reply.ctx, p->bytes);
}

static int end_at_home(void *arg)
{
    Piece *p = arg;
    return p->c->reply.end_wait(p->c->reply.ctx);
}

/* On the loop of the request; right here when that is this one. Cannot be abandoned either way. */
static int at_home_wait(FiberFn fn, Piece *piece)
{
    Loop *home = piece->c->home;
    if (home != loop_here()) return loop_call_wait(home, "reply", fn, piece);
    fiber_shield();
    int r = fn(piece);
    fiber_unshield();
    return r;
}

static int cross_start_wait(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                            bool streamed)
{
    Crossing *c = ctx;
    Piece piece = { c, status, fields, fields_n, streamed, STR_NULL };
    c->streamed = streamed;
    return at_home_wait(start_at_home, &piece);
}

static int flush_main(void *arg)
{
    Crossing *c = arg;
    while (c->failed == 0 && c->pending.len > 0) {
        Buf taken = c->pending;
        c->pending = c->sending;
        c->sending = taken;
        Piece piece = { .c = c, .bytes = buf_str(&c->sending) };
        c->failed = at_home_wait(write_at_home, &piece);
        buf_clear(&c->sending);
        cond_broadcast(&c->flushed);
    }
    c->flushing = false;
    cond_broadcast(&c->flushed);
    return 0;
}

/* A crossing takes longer than a token: none waits for the one before it. */
static int cross_piece_wait(Crossing *c, Str bytes)
{
    Piece piece = { .c = c, .bytes = bytes };
    if (c->home == loop_here()) return at_home_wait(write_at_home, &piece);
    while (c->failed == 0 && c->flushing && c->pending.len >= PENDING_BYTES) {
        int r = cond_wait(&c->flushed, DEADLINE_NONE);
        if (r < 0) return r;
    }
    if (c->failed != 0) return c->failed;
    if (!buf_add(&c->pending, bytes)) return -ENOMEM;
    if (c->flushing) return 0;
    c->flushing = true;
    int r = fiber_spawn("flush", flush_main, c, NULL);
    if (r < 0) c->flushing = false;
    return r;
}

static void flushed_wait(Crossing *c)
{
    fiber_shield();
    while (c->flushing) cond_wait(&c->flushed, DEADLINE_NONE);
    fiber_unshield();
}

static int cross_write_wait(void *ctx, Str bytes)
{
    Crossing *c = ctx;
    Piece piece = { .c = c, .bytes = bytes };
    if (c->streamed) return cross_piece_wait(c, bytes);
    c->written = true;
    return at_home_wait(write_at_home, &piece);
}

static int cross_end_wait(void *ctx)
{
    Crossing *c = ctx;
    Piece piece = { .c = c };
    if (!c->streamed && c->written) return 0; /* it went with its one piece */
    flushed_wait(c);
    if (c->failed != 0) return c->failed;
    return at_home_wait(end_at_home, &piece);
}

static bool cross_gone(void *ctx)
{
    Crossing *c = ctx;
    return atomic_load(&c->gone);
}

/* --- serving ---------------------------------------------------------------------------------- */

static int problem_wait(Crossing *c, const GatewayReply *reply, Problem problem,
                        const char *message)
{
    Front *front = c->front;
    atomic_fetch_add(problem == PROBLEM_KEY ? &front->refused : &front->away, 1);
    return gateway_problem_wait(&c->http, reply, problem, message);
}

/* Until calls are taken. Returns 0, or -EAGAIN: not any more, or not yet. */
static int ready_wait(Front *front)
{
    int64_t deadline_ms = deadline_after(READY_MS);
    while (!front->ready && !front->draining && !front->closed)
        if (cond_wait(&front->changed, deadline_ms) < 0) return -EAGAIN;
    return front->ready && front->host && !front->draining && !front->closed ? 0 : -EAGAIN;
}

static int serve_task_wait(Crossing *c, const GatewayReply *reply)
{
    Front *front = c->front;
    GatewayTask *task = gateway_task_by_key(front->host->gateway, c->caller->task_key);
    if (!task)
        return problem_wait(c, reply, PROBLEM_KEY,
                            "no task with this key runs in this process: it has ended, or it runs "
                            "at a worker elsewhere; use the base URL in the task's environment "
                            "while it runs, or the key of a tenant (auth.keys, role: tenant)");
    atomic_fetch_add(&front->served, 1);
    return gateway_serve_wait(task, &c->http, reply);
}

static int serve_tenant_wait(Crossing *c, const GatewayReply *reply)
{
    Front *front = c->front;
    FrontTask *t;
    int r = caller_join_wait(front, c->caller, &t);
    if (r == -EBUSY)
        return problem_wait(c, reply, PROBLEM_AWAY,
                            "too many callers have calls under way: try again later");
    if (r == -EDQUOT)
        return problem_wait(c, reply, PROBLEM_CAP,
                            "the tenant has as many users as it may have "
                            "(limits.accountsPerTenant): calls of new ones are refused");
    if (r < 0)
        return problem_wait(c, reply, PROBLEM_AWAY, "the caller's account could not be read");
    atomic_fetch_add(&front->served, 1);
    r = gateway_serve_wait(t->task, &c->http, reply);
    caller_leave_wait(t);
    return r;
}

static void leave(Front *front)
{
    front->busy--;
    cond_broadcast(&front->changed);
    if (front->busy == 0 && front->idle) front->idle(front->idle_ctx);
}

static int serve_main(void *arg)
{
    Crossing *c = arg;
    Front *front = c->front;
    GatewayReply reply = { cross_start_wait, cross_write_wait, cross_end_wait, cross_gone, c };
    CLEANUP(arena_deinit) Arena arena = { 0 };
    arena_init(&arena, 64 * c->http.body.len + (1 << 20));
    c->http.arena = &arena;
    cond_init(&c->flushed);
    buf_init(&c->pending, PENDING_BYTES_MAX);
    buf_init(&c->sending, PENDING_BYTES_MAX);
    front->busy++;
    int r = ready_wait(front);
    if (r < 0)
        r = problem_wait(c, &reply, PROBLEM_AWAY,
                         "the server is starting or ending: try again in a moment");
    else r = c->caller->key ? serve_tenant_wait(c, &reply) : serve_task_wait(c, &reply);
    flushed_wait(c); /* it has the stack of the fiber at home */
    buf_deinit(&c->pending);
    buf_deinit(&c->sending);
    leave(front);
    return r;
}

static int watch_main(void *arg)
{
    Crossing *c = arg;
    if (http_gone_wait(c->req, DEADLINE_NONE) == 0) atomic_store(&c->gone, true);
    return 0;
}

int front_serve_wait(Front *front, const FrontCaller *caller, HttpReq *req, const GatewayHttp *http)
{
    GatewayHttpReply state;
    Crossing c = { .front = front,
                   .home = loop_here(),
                   .caller = caller,
                   .req = req,
                   .http = *http,
                   .reply = gateway_http_reply(&state, req) };
    FiberRef watcher;
    bool watched = fiber_spawn("watch client", watch_main, &c, &watcher) == 0;
    int r = loop_call_wait(front->loop, "model call", serve_main, &c);
    fiber_shield(); /* it has this stack */
    if (watched) {
        fiber_cancel(watcher);
        fiber_join_wait(watcher, NULL);
    }
    fiber_unshield();
    if (req->replied || r == HTTP_E_GONE) return MIN(r, 0);
    return front_refuse_wait(front, req, http, PROBLEM_AWAY, "the call was not taken");
}

int front_refuse_wait(Front *front, HttpReq *req, const GatewayHttp *http, Problem problem,
                      const char *message)
{
    GatewayHttpReply state;
    GatewayReply reply = gateway_http_reply(&state, req);
    if (front) atomic_fetch_add(problem == PROBLEM_AWAY ? &front->away : &front->refused, 1);
    return gateway_problem_wait(http, &reply, problem, message);
}

void front_close_wait(Front *front, int64_t deadline_ms)
{
    fiber_shield();
    front_drain(front);
    while (front->busy > 0) {
        if (cond_wait(&front->changed, deadline_ms) != -ETIMEDOUT) continue;
        front_stop(front);
        deadline_ms = DEADLINE_NONE;
    }
    front->closed = true;
    LIST_EACH (&front->used, node) {
        FrontTask *t = CONTAINER_OF(node, FrontTask, node);
        caller_forget(t);
        caller_free_wait(t);
    }
    front->host = NULL;
    front->idle = NULL;
    fiber_unshield();
}
