#include "worker/children.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "codec/hex.h"
#include "sys/clock.h"

#define WATCH_MS 20000
#define WATCH_ARENA_BYTES_MAX ((size_t)8 << 20)
#define AGAIN_MS 100
#define AGAIN_MS_MAX 2000
#define OPEN_PATIENCE_MS 30000
#define LOOK_MS 10 /* a slot that is free so long is claimed for */

typedef struct {
    ListNode node;
    Uuid id;
    FamilyAmount allotted;
    bool ended, looked; /* the agent has asked before whether it has */
} Child;

/* How often a body was sent in this attempt. */
struct ChildCount {
    uint8_t print[CHILD_FINGERPRINT_BYTES];
    int64_t n;
};

void children_init(RunChildren *c)
{
    list_init(&c->list);
}

static Child *child_find(const RunChildren *c, Uuid id)
{
    LIST_EACH (&c->list, node) {
        Child *child = CONTAINER_OF(node, Child, node);
        if (uuid_eq(child->id, id)) return child;
    }
    return NULL;
}

/* --- what is known of them -------------------------------------------------------------------- */

static Child *child_add(Run *run, Uuid id, const FamilyAmount *allotted)
{
    Child *child = xcalloc(1, sizeof *child);
    child->id = id;
    child->allotted = *allotted;
    list_push_back(&run->children.list, &child->node);
    run->children.open_n++;
    gateway_task_lend(run->gateway, allotted);
    return child;
}

static void child_ended(Run *run, Child *child, const FamilyAmount *spent)
{
    assert(!child->ended && run->children.open_n > 0);
    child->ended = true;
    run->children.open_n--;
    run->children.ended_n++;
    gateway_task_lend_end(run->gateway, &child->allotted, spent);
}

/* Who is being started stands among what is held until that is answered: start_done adds it. */
static void children_take(Run *run, const FamilyRow *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Child *child = child_find(&run->children, rows[i].id);
        if (!child && run->children.starts > 0) continue;
        if (!child) child = child_add(run, rows[i].id, &rows[i].allotted);
        if (!child->ended && task_state_ended(rows[i].state))
            child_ended(run, child, &rows[i].charged);
    }
    cond_broadcast(&run->changed);
}

/* Returns 0, -ECANCELED (stale: the run is being stopped), -errno. */
static int children_ask_wait(Run *run, int64_t seen, int64_t wait_ms)
{
    WorkerLink *link = run->host->link;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    FamilyRow *rows;
    size_t n;
    arena_init(&arena, WATCH_ARENA_BYTES_MAX);
    int r = link->ops->children_wait(link, run->task.ref, seen, wait_ms, &arena, &rows, &n);
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) {
        run_stop(run, RUN_STALE);
        return -ECANCELED;
    }
    if (r == 0) children_take(run, rows, n);
    return r > 0 ? -EIO : r;
}

int children_open_wait(Run *run)
{
    int64_t delay_ms = AGAIN_MS, until_ms = deadline_after(OPEN_PATIENCE_MS);
    int r;
    if (run->task.attempt <= 1) return 0;
    while ((r = children_ask_wait(run, -1, 0)) < 0) {
        if (r == -ECANCELED || clock_mono_ms() + delay_ms > until_ms) return r;
        LOG_WARN("sub-agents not read", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        if (fiber_sleep_wait(delay_ms) < 0) return -ECANCELED;
        delay_ms = MIN(delay_ms * 2, AGAIN_MS_MAX);
    }
    return 0;
}

static int watcher_main(void *arg)
{
    Run *run = arg;
    RunChildren *c = &run->children;
    while (!c->closed && !fiber_cancelled()) {
        if (c->open_n == 0) {
            if (cond_wait(&run->changed, DEADLINE_NONE) < 0) break;
            continue;
        }
        int64_t seen = c->ended_n;
        int r = children_ask_wait(run, seen, WATCH_MS);
        if (r == -ECANCELED) break;
        if (r < 0) LOG_WARN("sub-agents not read", LOG_CSTR("why", diag_text_or(r)));
        /* a server that drains answers at once */
        int64_t pause_ms = r < 0 ? AGAIN_MS_MAX : c->ended_n == seen ? AGAIN_MS : 0;
        if (pause_ms && fiber_sleep_wait(pause_ms) < 0) break;
    }
    return 0;
}

static int watcher_start(Run *run)
{
    RunChildren *c = &run->children;
    if (c->watching) return 0;
    int r = fiber_spawn("children", watcher_main, run, &c->watcher);
    if (r < 0) return diag_set(r, "no fiber to watch sub-agents");
    c->watching = true;
    return 0;
}

void children_close_wait(Run *run)
{
    RunChildren *c = &run->children;
    c->closed = true;
    if (c->watching) {
        fiber_cancel(c->watcher);
        fiber_shield();
        (void)fiber_join_wait(c->watcher, NULL);
        fiber_unshield();
        c->watching = false;
    }
    LIST_EACH (&c->list, node) {
        Child *child = CONTAINER_OF(node, Child, node);
        FamilyAmount nothing = { 0 };
        if (!child->ended) child_ended(run, child, &nothing);
        list_remove(&child->node);
        free(child);
    }
    free(TAKE(c->counts));
    c->counts_n = 0;
}

/* --- keys ------------------------------------------------------------------------------------- */

/* By its content, not by its order alone: agents start several from threads, in any order. */
static struct ChildCount *count_of(RunChildren *c, const uint8_t print[CHILD_FINGERPRINT_BYTES])
{
    for (size_t i = 0; i < c->counts_n; i++)
        if (memcmp(c->counts[i].print, print, CHILD_FINGERPRINT_BYTES) == 0) return &c->counts[i];
    c->counts = xrealloc(c->counts, (c->counts_n + 1) * sizeof *c->counts);
    struct ChildCount *count = &c->counts[c->counts_n++];
    *count = (struct ChildCount){ .n = 0 };
    memcpy(count->print, print, CHILD_FINGERPRINT_BYTES);
    return count;
}

typedef struct {
    uint8_t print[CHILD_FINGERPRINT_BYTES];
    char text[CHILD_KEY_BYTES_MAX + 1];
    bool counted;
    int64_t number; /* of this body, from 0; counted only */
} ChildKey;

static void key_make(Run *run, const ChildAsk *ask, ChildKey *ret)
{
    char hex[HEX_TEXT_MAX(CHILD_FINGERPRINT_BYTES)];
    sha256(ask->body, ret->print);
    ret->counted = ask->key.len == 0;
    if (!ret->counted) {
        snprintf(ret->text, sizeof ret->text, "key:%.*s", STR_ARG(ask->key));
        return;
    }
    struct ChildCount *count = count_of(&run->children, ret->print);
    hex_encode(hex, ret->print, CHILD_FINGERPRINT_BYTES);
    ret->number = count->n++;
    snprintf(ret->text, sizeof ret->text, "body:%s:%" PRId64, hex, ret->number);
}

/* A request that started nothing does not count, unless another of the same body was made
 * meanwhile: that has the next number, which must not be given twice. */
static void key_undo(Run *run, const ChildKey *key)
{
    RunChildren *c = &run->children;
    if (!key->counted || c->closed) return;
    struct ChildCount *count = count_of(c, key->print);
    if (count->n != key->number + 1) return;
    if (--count->n == 0) *count = c->counts[--c->counts_n];
}

void children_skip(Run *run, Str body)
{
    uint8_t print[CHILD_FINGERPRINT_BYTES];
    sha256(body, print);
    count_of(&run->children, print)->n++;
}

/* --- starting --------------------------------------------------------------------------------- */

/* Nobody knows whether there is a child until the control plane has said so: the key makes it safe
 * to ask again. */
static int ask_until_known_wait(Run *run, const ChildNew *child, Arena *arena, LinkChild *ret)
{
    WorkerLink *link = run->host->link;
    int64_t delay_ms = AGAIN_MS;
    int r;
    while ((r = link->ops->child_start_wait(link, run->task.ref, child, arena, ret)) < 0) {
        if (r == -ECANCELED || run->children.closed) return -ECANCELED;
        LOG_WARN("sub-agent not started", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        if (fiber_sleep_wait(delay_ms) < 0) return -ECANCELED;
        delay_ms = MIN(delay_ms * 2, AGAIN_MS_MAX);
    }
    if (r != LINK_E_STALE && r != LINK_E_NO_WORKER) return r > 0 ? -EINVAL : 0;
    run_stop(run, RUN_STALE);
    return -ECANCELED;
}

static int refuse_cap(Run *run, CapReason reason, Arena *arena, LinkChild *ret)
{
    gateway_task_capped(run->gateway, reason);
    *ret = (LinkChild){ .status = 402, .code = STR("cap_reached") };
    ret->detail = arena_printf(arena, "nothing of %s is left for a sub-agent",
                               cap_reason_name(reason));
    return ret->detail.ptr ? 0 : -ENOMEM;
}

/* What was held for it meanwhile is given back; what it has been allotted is lent instead. */
static void start_done(Run *run, const FamilyAmount *offered, const LinkChild *child)
{
    FamilyAmount nothing = { 0 };
    gateway_task_lend_end(run->gateway, offered, &nothing);
    run->children.starts--;
    if (!child || child->status || child_find(&run->children, child->id)) return;
    FamilyAmount hold = family_hold(&child->allotted);
    child_add(run, child->id, &hold);
    cond_broadcast(&run->changed);
}

int children_start_wait(Run *run, const ChildAsk *ask, Arena *arena, LinkChild *ret)
{
    ChildKey key;
    FamilyAmount left = gateway_task_left(run->gateway), offered;
    int64_t remaining_ms = run->deadline_ms == DEADLINE_NONE ? 0
                                                             : run->deadline_ms - clock_mono_ms();
    if (remaining_ms < 0) return refuse_cap(run, CAP_BY_SECONDS, arena, ret);
    int r = watcher_start(run);
    if (r < 0) return r;
    key_make(run, ask, &key);
    /* with nothing left an earlier child may still be found */
    CapReason reason = family_allot(&left, &ask->asked, &offered);
    gateway_task_lend(run->gateway, &offered);
    run->children.starts++;
    ChildNew child = { .key = str_of(key.text),
                       .fingerprint = str_make((const char *)key.print, sizeof key.print),
                       .agent = ask->agent,
                       .input = ask->input,
                       .metadata = ask->metadata,
                       .time_limit_ms = ask->time_limit_ms,
                       .remaining_ms = MAX(remaining_ms, 1),
                       .due_ms = ask->due_ms,
                       .offered = offered,
                       .find_only = ask->late || reason != CAP_BY_NOTHING };
    r = ask_until_known_wait(run, &child, arena, ret);
    start_done(run, &offered, r == 0 ? ret : NULL);
    if (r != 0 || ret->status) key_undo(run, &key);
    if (r == 0 && ret->status == CHILD_NONE_STATUS && ask->late) {
        *ret = (LinkChild){ .status = 422,
                            .code = STR(TASK_DEADLINE_CODE),
                            .detail = STR("`deadline` has passed: give a later one") };
        return 0;
    }
    if (r == 0 && ret->status == CHILD_NONE_STATUS) return refuse_cap(run, reason, arena, ret);
    return r;
}

/* --- waiting ---------------------------------------------------------------------------------- */

void children_waiting(Run *run, bool begins)
{
    RunChildren *c = &run->children;
    assert(begins || c->waits > 0);
    if (begins && c->waits++ == 0) run->host->suspend(run->host->ctx, run);
    if (!begins && --c->waits == 0) run->host->resume(run->host->ctx, run);
}

int children_end_wait(Run *run, Uuid id, int64_t wait_ms)
{
    Child *child = child_find(&run->children, id);
    int r = 0;
    if (!child) return -ENOENT;
    if (child->ended) return 0;
    if (wait_ms == 0 && child->looked && run->host->may_suspend(run->host->ctx)) wait_ms = LOOK_MS;
    child->looked = true;
    if (wait_ms == 0) return -ETIMEDOUT;
    int64_t deadline_ms = deadline_after(wait_ms);
    children_waiting(run, true);
    while (r == 0 && !child->ended && !run->children.closed)
        r = cond_wait(&run->changed, deadline_ms);
    children_waiting(run, false);
    return r;
}
