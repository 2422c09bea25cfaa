#include "worker/worker.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "logic/flag.h"
#include "logic/lease.h"
#include "logic/slots.h"
#include "store/price_store.h"
#include "sys/clock.h"
#include "worker/allowance.h"
#include "worker/group.h"
#include "worker/log_file.h"
#include "worker/run.h"
#include "worker/servers.h"
#include "worker/tool.h"
#include "worker/wire.h"

#define GRACE_DEFAULT_MS 5000
#define OUTPUT_BYTES_MAX_DEFAULT ((size_t)8 << 20)
#define LOG_BYTES_MAX_DEFAULT ((size_t)1 << 20)
#define VERSIONS_MAX_DEFAULT 64
#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define CLAIM_WAIT_MS 20000
#define CLAIM_ARENA_BYTES_MAX (WIRE_CLAIM_BYTES_MAX * 16)
#define BEAT_ARENA_BYTES_MAX ((size_t)8 << 20)
#define FLAGS_ARENA_BYTES_MAX (48 * FLAGS_BYTES_MAX)
#define CACHE_TELL_MS 2000
#define HOLDS_ARENA_BYTES_MAX ((size_t)8 << 20)
#define RETRY_MS 200
#define SAY_AGAIN_MS 5000 /* of what fails again and again */
#define RETRY_MS_MAX 5000
#define CLAIM_RETRY_MS_MAX 2000
#define SUSPENDED_A_SLOT_MAX 16 /* runs that wait for others */
#define RATES_EVERY_MS 1000
#define FRONT_CLOSE_MS 5000 /* for calls that were stopped to settle */
#define CLAIM_END_MS 2000   /* for a claim under way when a drain begins */
#define RATES_PAUSE_MS 20   /* at least so long between two of them */

/* Sends one claim after another. */
typedef struct {
    WorkerHost *worker;
    FiberRef fiber;
    uint64_t claim; /* the one under way, of all that were made; 0: none */
} Claimer;

struct WorkerHost {
    WorkerLink *link;
    char *name, *dir, *path, *node_path;
    AddrGuard guard;
    int lock; /* descriptor of the lock file */
    int cgroup_lock;
    RunHost host;
    Front *front; /* NULL: none */
    bool front_only;

    GatewayControl control;
    LinkLease lease;
    Lease held; /* while it is registered */
    bool registered;
    uint64_t registrations; /* tells claims of an earlier registration apart */
    bool draining, killed;
    bool over;       /* heartbeats and claims are to end */
    LinkFlags flags; /* in flags_arena */
    bool flags_known;
    int64_t prices_revision; /* of the imported prices that the gateway has */
    bool prices_known;
    int64_t cache_seen; /* purges of the response cache up to there; < 0: none yet */
    int64_t cache_told_ms;
    Arena flags_arena;
    List runs;
    Slots slots;
    int64_t suspended_max; /* 0: by the number of slots */
    Cond changed;          /* slots, registration, draining, the end of a run */
    struct {               /* what the last heartbeat was told of, for who follows it */
        int64_t flags, prices, cache;
        bool unread;
        bool claims_lost; /* answers to claims: those under way may never be answered */
        Cond told;
    } news;
    FiberRef heart, sentry, reader, rates;
    Claimer claimers[SLOTS_CLAIMS_MAX];
    uint64_t claims_made;
    FiberRef drainer;
    int64_t claims_n; /* under way: tasks may be on their way here */
    bool drain_told;

    /* for worker_stats, any thread */
    pthread_mutex_t mutex;
    WorkerStats stats;
};

/* What others may read is copied when it changes. */
static void publish(WorkerHost *w)
{
    pthread_mutex_lock(&w->mutex);
    memcpy(w->stats.id, w->lease.worker_id, sizeof w->stats.id);
    memcpy(w->stats.running, w->slots.running, sizeof w->stats.running);
    w->stats.suspended = w->slots.suspended;
    w->stats.draining = w->draining;
    pthread_mutex_unlock(&w->mutex);
}

static void changed(WorkerHost *w)
{
    publish(w);
    if (w->front && w->flags_known && w->prices_known) front_ready(w->front);
    cond_broadcast(&w->changed);
}

void worker_stats(const WorkerHost *worker, WorkerStats *ret)
{
    WorkerHost *w = (WorkerHost *)worker; /* the mutex */
    const RunCounters *c = &w->host.counters;
    pthread_mutex_lock(&w->mutex);
    *ret = w->stats;
    pthread_mutex_unlock(&w->mutex);
    ret->started = atomic_load(&c->started);
    ret->stale = atomic_load(&c->stale);
    ret->stuck = atomic_load(&c->stuck);
    ret->outputs_too_large = atomic_load(&c->outputs_too_large);
    ret->log_lines_dropped = atomic_load(&c->log_lines_dropped);
    for (int i = 0; i < TOOL_OUTCOME_N_; i++) {
        uint64_t n = atomic_load(&c->tool_outcomes[i]);
        ret->tools[i] = n;
        ret->tool_calls += tool_outcome_ran((ToolOutcome)i) ? n : 0;
        ret->tool_errors += i != TOOL_OUTCOME_OK && tool_outcome_ran((ToolOutcome)i) ? n : 0;
    }
    ret->tool_us = atomic_load(&c->tool_us);
    ret->tools_crowded = atomic_load(&c->tools_crowded);
    ret->tools_repeated = atomic_load(&c->tools_repeated);
    ret->tools_clashed = atomic_load(&c->tools_clashed);
    ret->children_crowded = atomic_load(&c->children_crowded);
    ret->suspensions = atomic_load(&c->suspensions);
    ret->suspensions_refused = atomic_load(&c->suspensions_refused);
    ret->cgroups_failed = atomic_load(&c->cgroups_failed);
    ret->mcp_crowded = atomic_load(&c->mcp_crowded);
    ret->tools_not_recorded = atomic_load(&c->tools_not_recorded);
    ret->versions_fetched = versions_fetched(w->host.versions);
    ret->servers_started = atomic_load(&c->servers_started);
    ret->servers_failed = atomic_load(&c->servers_failed);
    ret->servers_crowded = atomic_load(&c->servers_crowded);
    for (int i = 0; i < RESOURCE_N_; i++) ret->limits_hit[i] = atomic_load(&c->limits_hit[i]);
    for (int i = 0; i < TASK_OUTCOME_N_; i++) ret->ended[i] = atomic_load(&c->ended[i]);
}

Breakers *worker_breakers(const WorkerHost *worker)
{
    return worker->host.breakers;
}

/* --- opening ---------------------------------------------------------------------------------- */

typedef struct {
    WorkerHost *worker;
    const WorkerOptions *options;
    char path[FS_PATH_MAX]; /* out: the directory, absolute */
} DirJob;

static int dir_lock(WorkerHost *w, const char *dir)
{
    char name[FS_PATH_MAX + 8];
    snprintf(name, sizeof name, "%s/lock", dir);
    w->lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (w->lock < 0) return diag_set(-errno, "cannot open %s: %s", name, strerror(errno));
    if (flock(w->lock, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EWOULDBLOCK)
        return diag_set(-EBUSY,
                        "another worker uses %s: give this one a directory of its own, with --data",
                        dir);
    return diag_set(-errno, "cannot lock %s: %s", name, strerror(errno));
}

static int dir_holds(WorkerHost *w, const char *dir)
{
    char name[FS_PATH_MAX + 8], boot[BOOT_ID_SIZE];
    snprintf(name, sizeof name, "%s/holds", dir);
    boot_id_read(boot);
    return holds_open(name, boot, &w->host.holds);
}

static int dir_empty(const char *dir, const char *name)
{
    char path[FS_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int r = fs_remove(path);
    return r == 0 ? fs_dir_make(path) : r;
}

/* Logs of server agents outlive the process. */
static int dir_logs(const char *dir)
{
    char path[FS_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/logs", dir);
    int r = fs_dir_make(path);
    return r == 0 ? log_files_prune(path, SERVER_LOGS_KEPT) : r;
}

static int dir_job(void *arg)
{
    DirJob *job = arg;
    int r = fs_dir_make(job->worker->dir);
    if (r < 0) return r;
    if (!realpath(job->worker->dir, job->path))
        return diag_set(-errno, "cannot find %s: %s", job->worker->dir, strerror(errno));
    r = dir_lock(job->worker, job->path);
    if (r == 0 && !job->options->front_only)
        job->worker->cgroup_lock = group_open(job->path, job->options->cgroups,
                                              job->worker->host.cgroup);
    if (r == 0) allowance_end_before(job->path);
    if (r == 0) process_adopt();
    if (r == 0) r = dir_empty(job->path, "versions");
    if (r == 0) r = dir_empty(job->path, "tasks");
    if (r == 0) r = dir_empty(job->path, "servers");
    if (r == 0) r = dir_logs(job->path);
    if (r == 0) r = dir_holds(job->worker, job->path);
    return r;
}

static int dir_take_wait(WorkerHost *w, const WorkerOptions *o)
{
    CLEANUP(freep) DirJob *job = xcalloc(1, sizeof *job);
    char versions[FS_PATH_MAX + 16];
    job->worker = w;
    job->options = o;
    int r = work_wait(dir_job, job);
    if (r < 0) return r;
    free(w->dir);
    w->dir = xstrdup(job->path);
    snprintf(versions, sizeof versions, "%s/versions", w->dir);
    w->host.versions = versions_new(w->link, versions,
                                    o->versions_max ? o->versions_max : VERSIONS_MAX_DEFAULT);
    w->host.dir = w->dir;
    return 0;
}

static char *host_name(void)
{
    char name[256];
    if (gethostname(name, sizeof name) != 0) return xstrdup("worker");
    name[sizeof name - 1] = '\0';
    return xstrdup(name);
}

static void on_flags_doubted_wait(void *ctx);
static void on_suspend(void *ctx, Run *run);
static void on_resume(void *ctx, Run *run);
static bool may_suspend(void *ctx);

static void options_copy(WorkerHost *w, const WorkerOptions *o)
{
    w->link = o->link;
    w->front = o->front;
    w->front_only = o->front_only;
    w->name = o->name ? xstrdup(o->name) : host_name();
    w->dir = xstrdup(o->dir);
    w->path = xstrdup(o->path ? o->path : PATH_DEFAULT);
    w->node_path = o->node_path ? xstrdup(o->node_path) : NULL;
    if (o->guard) w->guard = *o->guard;
    Breakers *breakers = breakers_new("tool", NULL, 0);
    w->host = (RunHost){
        .link = o->link,
        .gateway = o->gateway,
        .models = o->models,
        .client = o->client,
        .guard = &w->guard,
        .breakers = breakers,
        .flags_doubted_wait = on_flags_doubted_wait,
        .suspend = on_suspend,
        .resume = on_resume,
        .may_suspend = may_suspend,
        .ctx = w,
        .path = w->path,
        .node_path = w->node_path,
        .grace_ms = o->grace_ms ? o->grace_ms : GRACE_DEFAULT_MS,
        .stuck_ms = o->stuck_ms,
        .output_bytes_max = o->output_bytes_max ? o->output_bytes_max : OUTPUT_BYTES_MAX_DEFAULT,
        .log_bytes_max = o->log_bytes_max ? o->log_bytes_max : LOG_BYTES_MAX_DEFAULT,
    };
}

int worker_open_wait(const WorkerOptions *o, WorkerHost **ret)
{
    assert(o->link && o->gateway && o->models && o->client && o->dir);
    assert(!o->front || o->link->ops->account_wait); /* calls of others need accounts */
    if (!o->front_only && !lane_config_ok(&o->slots))
        return diag_set(-EINVAL, "a lane of the worker has no slot");
    if (lane_slots(&o->slots) > HEARTBEAT_TASKS_MAX)
        return diag_set(-EINVAL, "a worker has at most %d slots", HEARTBEAT_TASKS_MAX);
    CLEANUP(worker_freep) WorkerHost *w = xcalloc(1, sizeof *w);
    w->lock = w->cgroup_lock = -1;
    w->cache_seen = -1;
    pthread_mutex_init(&w->mutex, NULL);
    list_init(&w->runs);
    cond_init(&w->changed);
    cond_init(&w->news.told);
    if (!o->front_only) slots_init(&w->slots, &o->slots);
    options_copy(w, o);
    w->suspended_max = o->suspended_max;
    w->stats.slots = w->slots.total;
    int r = dir_take_wait(w, o);
    if (r < 0) return r;
    w->host.servers = servers_new(&w->host, &o->servers);
    *ret = TAKE(w);
    return 0;
}

void worker_free(WorkerHost *w)
{
    if (!w) return;
    assert(list_empty(&w->runs));
    arena_deinit(&w->flags_arena);
    servers_close_wait(TAKE(w->host.servers)); /* none runs */
    versions_free(w->host.versions);
    holds_close(w->host.holds);
    breakers_free(w->host.breakers);
    if (w->host.cgroup[0]) cgroup_end(w->host.cgroup);
    if (w->cgroup_lock >= 0) close(w->cgroup_lock);
    if (w->lock >= 0) close(w->lock);
    pthread_mutex_destroy(&w->mutex);
    free(w->name);
    free(w->dir);
    free(w->path);
    free(w->node_path);
    free(w);
}

/* --- runs ------------------------------------------------------------------------------------- */

static int64_t suspended_max(const WorkerHost *w)
{
    int64_t slots = lane_slots(&w->slots.total);
    int64_t wish = w->suspended_max ? w->suspended_max : SUSPENDED_A_SLOT_MAX * slots;
    return MIN(wish, HEARTBEAT_TASKS_MAX - slots);
}

static void on_run_end(Run *run, void *ctx)
{
    WorkerHost *w = ctx;
    assert(list_linked(&run->node));
    assert(!run->suspended);
    list_remove(&run->node);
    slots_release(&w->slots, run->task.lane);
    changed(w);
}

static bool may_suspend(void *ctx)
{
    const WorkerHost *w = ctx;
    return !w->draining && slots_beyond(&w->slots) < suspended_max(w);
}

/* Beyond the bound a run that waits is given back whole, and what it waits for comes before it when
 * it is claimed again. If it kept its slot, those that wait could fill all slots, for ever. So with
 * a worker that drains: what it waits for may be run by another worker only. */
static void on_suspend(void *ctx, Run *run)
{
    WorkerHost *w = ctx;
    assert(!run->suspended);
    if (slots_beyond(&w->slots) >= suspended_max(w)) {
        atomic_fetch_add(&w->host.counters.suspensions_refused, 1);
        run_stop(run, RUN_CROWDED);
        return;
    }
    atomic_fetch_add(&w->host.counters.suspensions, 1);
    run->suspended = true;
    slots_suspend(&w->slots, run->task.lane);
    changed(w);
    if (w->draining) run_stop(run, RUN_KILLED);
}

static void on_resume(void *ctx, Run *run)
{
    WorkerHost *w = ctx;
    if (!run->suspended) return;
    run->suspended = false;
    slots_resume(&w->slots, run->task.lane);
    changed(w);
}

static void stop_all(WorkerHost *w, RunStop why)
{
    LIST_EACH (&w->runs, node) run_stop(CONTAINER_OF(node, Run, node), why);
}

static Run *run_find(WorkerHost *w, TaskRef ref)
{
    LIST_EACH (&w->runs, node) {
        Run *run = CONTAINER_OF(node, Run, node);
        if (uuid_eq(run->task.ref.id, ref.id) && run->task.ref.fence == ref.fence) return run;
    }
    return NULL;
}

/* What cannot be started (memory, too many fibers) is not held, so the next heartbeats leave it out
 * and the control plane gives it to someone else. */
static void run_begin(WorkerHost *w, int claim, const LinkTask *task)
{
    Run *run;
    if (!slots_take(&w->slots, claim, task->lane)) {
        LOG_ERROR("more tasks claimed than there are slots");
        return;
    }
    int r = run_start(&w->host, task, on_run_end, w, &run);
    if (r < 0) {
        LOG_ERROR("task not started", LOG_CSTR("why", diag_text_or(r)));
        slots_release(&w->slots, task->lane);
        return;
    }
    list_push_back(&w->runs, &run->node);
    if (w->killed) run_stop(run, RUN_KILLED);
}

/* --- claiming --------------------------------------------------------------------------------- */

static bool may_claim(const WorkerHost *w)
{
    return w->registered && w->flags_known && w->prices_known && !w->draining && !w->over;
}

/* A claim and the start of what it brought. Returns 0 or what went wrong. */
static int claim_once_wait(WorkerHost *w, int claim, const LaneConfig *free_slots)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    uint64_t registration = w->registrations;
    LinkTask *tasks;
    size_t n = 0;
    arena_init(&arena, CLAIM_ARENA_BYTES_MAX);
    int r = w->link->ops->claim_wait(w->link, free_slots, CLAIM_WAIT_MS, &arena, &tasks, &n);
    if (r != 0) return r;
    /* they were taken back with the old lease */
    if (!w->registered || registration != w->registrations) return 0;
    for (size_t i = 0; i < n; i++) run_begin(w, claim, &tasks[i]);
    return 0;
}

static int claimer_main(void *arg)
{
    Claimer *c = arg;
    WorkerHost *w = c->worker;
    int64_t delay_ms = RETRY_MS;
    while (!w->draining && !w->over) {
        LaneConfig free_slots;
        int claim = may_claim(w) ? slots_promise(&w->slots, &free_slots) : -1;
        if (claim < 0) {
            if (cond_wait(&w->changed, DEADLINE_NONE) < 0) break;
            continue;
        }
        w->claims_n++;
        c->claim = ++w->claims_made;
        int r = claim_once_wait(w, claim, &free_slots);
        c->claim = 0;
        w->claims_n--;
        slots_promise_end(&w->slots, claim);
        changed(w);
        if (r == -ECANCELED) break;
        if (r == 0) {
            delay_ms = RETRY_MS;
            continue;
        }
        if (r != LINK_E_NO_WORKER) LOG_WARN("cannot claim", LOG_CSTR("why", diag_text_or(r)));
        if (fiber_sleep_wait(delay_ms) < 0) break;
        delay_ms = MIN(delay_ms * 2, CLAIM_RETRY_MS_MAX);
    }
    return 0;
}

/* --- heartbeats ------------------------------------------------------------------------------- */

static int register_once_wait(WorkerHost *w)
{
    LinkWorker self = { .name = w->name, .slots = w->slots.total };
    int64_t asked_ms = clock_mono_ms();
    int r = w->link->ops->register_wait(w->link, &self, &w->lease);
    if (r != 0) return r;
    assert(w->lease.lease_ms > 0 && w->lease.worker_id[0]);
    if (uuid_from_text(str_of(w->lease.worker_id), &w->host.worker_id) < 0)
        return diag_set(-EPROTO, "the server gave no proper workerId");
    holds_begin(w->host.holds, w->host.worker_id);
    gateway_budget_reset(w->host.gateway);
    if (w->front) front_lease(w->front, w->host.worker_id);
    w->held = lease_begin(w->lease.lease_ms, w->lease.heartbeat_ms, asked_ms);
    w->registered = true;
    w->drain_told = false;
    w->registrations++;
    LOG_INFO("worker registered", LOG_CSTR("worker", w->lease.worker_id),
             LOG_INT("leaseMs", w->lease.lease_ms));
    changed(w);
    return 0;
}

/* Nothing runs or is on its way here, and no call of others is under way. */
static bool is_idle(const WorkerHost *w)
{
    return w->claims_n == 0 && list_empty(&w->runs) && (!w->front || front_idle(w->front));
}

static bool may_end(const WorkerHost *w)
{
    return w->over || (w->draining && is_idle(w));
}

/* Sleeps, but not on when the worker may end. */
static int register_delay_wait(WorkerHost *w, int64_t delay_ms)
{
    int64_t deadline_ms = deadline_after(delay_ms);
    int r = 0;
    while (r == 0 && !may_end(w)) r = cond_wait(&w->changed, deadline_ms);
    return r == -ETIMEDOUT ? 0 : r;
}

/* Asks until it is registered or the worker is to end. */
static int register_wait(WorkerHost *w)
{
    int64_t delay_ms = RETRY_MS;
    while (!may_end(w)) {
        int r = register_once_wait(w);
        if (r == 0 || r == -ECANCELED) return r;
        if (r == -EACCES && w->registrations == 0) return r;
        LOG_WARN("cannot register", LOG_CSTR("why", diag_text_or(r)), LOG_INT("againMs", delay_ms));
        r = register_delay_wait(w, delay_ms);
        if (r < 0) return r;
        delay_ms = MIN(delay_ms * 2, RETRY_MS_MAX);
    }
    return 0;
}

static void lease_lost(WorkerHost *w, const char *why)
{
    assert(w->registered);
    LOG_ERROR("lease lost: tasks stopped", LOG_CSTR("why", why),
              LOG_INT("tasks", slots_running(&w->slots)));
    w->registered = false;
    pthread_mutex_lock(&w->mutex);
    w->stats.leases_lost++;
    pthread_mutex_unlock(&w->mutex);
    stop_all(w, RUN_STALE);
}

/* What is lost already is left out: the same task may have been claimed again since, and answers
 * over HTTP tell tasks apart, not attempts. */
static int held_list(WorkerHost *w, Arena *arena, Heartbeat *ret)
{
    size_t n = 0, max = (size_t)(slots_running(&w->slots) + w->slots.suspended);
    TaskRef *held = ARENA_ARRAY(arena, TaskRef, max + 1);
    if (!held) return -ENOMEM;
    LIST_EACH (&w->runs, node) {
        const Run *run = CONTAINER_OF(node, Run, node);
        if (run->stop != RUN_STALE) held[n++] = run->task.ref;
    }
    assert(n <= max && n <= HEARTBEAT_TASKS_MAX);
    ret->held = held;
    ret->held_n = n;
    return 0;
}

static int calls_list(WorkerHost *w, Arena *arena, Heartbeat *ret)
{
    BudgetHold *calls;
    int r = holds_of(w->host.holds, w->host.worker_id, arena, &calls, &ret->calls_n);
    ret->calls = calls;
    return r;
}

static void beat_obey(WorkerHost *w, const HeartbeatReply *beat)
{
    for (size_t i = 0; i < beat->stops_n; i++) {
        Run *run = run_find(w, beat->stops[i].task);
        if (run) run_stop(run, beat->stops[i].reason == HOLD_CANCEL ? RUN_CANCELED : RUN_STALE);
    }
    w->drain_told |= beat->draining;
    if (beat->draining && !w->draining) worker_drain(w);
}

/* Runs that the flags do not let go on are stopped. */
static void flags_obey(WorkerHost *w)
{
    gateway_set_flags(w->host.gateway, w->flags.set);
    LIST_EACH (&w->runs, node) {
        Run *run = CONTAINER_OF(node, Run, node);
        if (run->gateway && !gateway_task_on(run->gateway)) run_stop(run, RUN_SWITCHED_OFF);
    }
}

/* Reads the flags and takes them over, unless newer ones have come meanwhile. What fails is tried
 * again with the next heartbeat; until then the old ones hold. */
static void flags_read_wait(WorkerHost *w)
{
    Arena arena;
    LinkFlags flags = { .set = NULL };
    arena_init(&arena, FLAGS_ARENA_BYTES_MAX);
    int r = w->link->ops->flags_wait(w->link, &arena, &flags);
    if (r != 0 && r != -ECANCELED) LOG_WARN("cannot read flags", LOG_CSTR("why", diag_text_or(r)));
    if (r != 0 || (w->flags_known && flags.revision < w->flags.revision)) {
        arena_deinit(&arena);
        return;
    }
    w->flags = flags;
    w->flags_known = true;
    flags_obey(w);
    arena_deinit(&w->flags_arena); /* of the old ones: nobody has them any more */
    w->flags_arena = arena;
    changed(w);
}

/* As with flags, for imported prices. */
static void prices_follow_wait(WorkerHost *w, int64_t revision)
{
    CLEANUP(buf_deinit) Buf entries = { 0 };
    if (w->prices_known && w->prices_revision == revision) return;
    buf_init(&entries, 2 * PRICE_LIST_BYTES_MAX);
    int r = revision ? w->link->ops->prices_wait(w->link, &entries) : 0;
    if (r == 0 && revision) r = gateway_set_prices_wait(w->host.gateway, buf_str(&entries));
    if (r != 0) {
        if (r != -ECANCELED) LOG_WARN("cannot read prices", LOG_CSTR("why", diag_text_or(r)));
        return;
    }
    w->prices_revision = revision;
    w->prices_known = true;
    changed(w);
}

static void flags_follow_wait(WorkerHost *w, int64_t revision)
{
    if (w->flags_known && w->flags.revision == revision) return;
    if (revision != 0) {
        flags_read_wait(w);
    } else if (!w->flags_known) { /* none was ever set */
        w->flags_known = true;
        changed(w);
    }
}

/* For a task that has just come: the control plane took it knowing the flags, perhaps newer
 * ones. */
static void on_flags_doubted_wait(void *ctx)
{
    flags_read_wait(ctx);
}

/* Forgets what the control plane says is to be forgotten, and tells it now and then how the cache
 * does. A worker that just came has nothing to forget: it begins with what is seen now. */
static void cache_follow_wait(WorkerHost *w, int64_t revision, Arena *arena)
{
    CacheNews news;
    bool moved = w->cache_seen != revision;
    if (!moved && clock_mono_ms() - w->cache_told_ms < CACHE_TELL_MS) return;
    CacheFigures figures = gateway_cache_figures(w->host.gateway);
    int64_t seen = w->cache_seen < 0 && figures.entries == 0 ? revision : MAX(w->cache_seen, 0);
    int r = w->link->ops->cache_wait(w->link, &figures, seen, arena, &news);
    if (r != 0) {
        if (r < 0 && r != -ECANCELED)
            LOG_WARN("cannot read what is to be forgotten", LOG_CSTR("why", diag_text_or(r)));
        return;
    }
    for (size_t i = 0; i < news.n; i++) (void)gateway_cache_purge(w->host.gateway, &news.purges[i]);
    w->cache_seen = news.revision;
    w->cache_told_ms = clock_mono_ms();
}

/* Tells what workers before this one had in flight. What fails is tried again with the next
 * heartbeat. */
static void holds_prove_wait(WorkerHost *w)
{
    Uuid dead;
    int r = 0;
    while (r == 0 && holds_dead(w->host.holds, &dead)) {
        CLEANUP(arena_deinit) Arena arena = { 0 };
        BudgetHold *holds;
        size_t n;
        arena_init(&arena, HOLDS_ARENA_BYTES_MAX);
        r = holds_of(w->host.holds, dead, &arena, &holds, &n);
        if (r == 0) r = w->link->ops->holds_wait(w->link, dead, holds, n);
        if (r != 0) LOG_WARN("holds not told", LOG_CSTR("why", diag_text_or(r)));
        if (r != 0 && r != LINK_E_REFUSED) return;
        if (r == 0) LOG_INFO("holds of an earlier worker told", LOG_INT("holds", n));
        holds_forget(w->host.holds, dead);
        r = 0;
    }
}

/* Tells the control plane that the worker drains, unless it knows. What fails is tried again with
 * the next heartbeat. */
static void drain_tell_wait(WorkerHost *w)
{
    if (w->drain_told || !w->registered) return;
    int r = w->link->ops->drain_wait(w->link);
    if (r == 0) w->drain_told = true;
    else if (r < 0 && r != -ECANCELED) LOG_WARN("drain not told", LOG_CSTR("why", diag_text_or(r)));
}

static WorkerCounts counts_of(const WorkerHost *w)
{
    WorkerStats s;
    worker_stats(w, &s);
    return (
        WorkerCounts){ .v = {
                           [WORKER_COUNT_ATTEMPTS] = (int64_t)s.started,
                           [WORKER_COUNT_SUSPENDED] = s.suspended,
                           [WORKER_COUNT_SUSPENSIONS] = (int64_t)s.suspensions,
                           [WORKER_COUNT_SUSPENSIONS_REFUSED] = (int64_t)s.suspensions_refused,
                           [WORKER_COUNT_STUCK] = (int64_t)s.stuck,
                           [WORKER_COUNT_STALE] = (int64_t)s.stale,
                           [WORKER_COUNT_LEASES_LOST] = (int64_t)s.leases_lost,
                           [WORKER_COUNT_HEARTBEATS_FAILED] = (int64_t)s.heartbeats_failed,
                           [WORKER_COUNT_CLAIMS_RENEWED] = (int64_t)s.claims_renewed,
                           [WORKER_COUNT_LIMIT_MEMORY] = (int64_t)s.limits_hit[RESOURCE_MEMORY],
                           [WORKER_COUNT_LIMIT_CPU] = (int64_t)s.limits_hit[RESOURCE_CPU],
                           [WORKER_COUNT_LIMIT_PROCESSES] = (int64_t)
                                                                s.limits_hit[RESOURCE_PROCESSES],
                           [WORKER_COUNT_LIMIT_FILES] = (int64_t)s.limits_hit[RESOURCE_FILES],
                           [WORKER_COUNT_LIMIT_SCRATCH] = (int64_t)s.limits_hit[RESOURCE_SCRATCH],
                           [WORKER_COUNT_LIMIT_OUTPUT] = (int64_t)s.outputs_too_large,
                           [WORKER_COUNT_SERVERS_STARTED] = (int64_t)s.servers_started,
                           [WORKER_COUNT_SERVERS_FAILED] = (int64_t)s.servers_failed,
                           [WORKER_COUNT_SERVERS_CROWDED] = (int64_t)s.servers_crowded,
                           [WORKER_COUNT_TOOL_CALLS] = (int64_t)s.tool_calls,
                           [WORKER_COUNT_TOOL_ERRORS] = (int64_t)s.tool_errors,
                           [WORKER_COUNT_TOOLS_CROWDED] = (int64_t)s.tools_crowded,
                           [WORKER_COUNT_TOOLS_REPEATED] = (int64_t)s.tools_repeated,
                           [WORKER_COUNT_TOOLS_CLASHED] = (int64_t)s.tools_clashed,
                           [WORKER_COUNT_CHILDREN_CROWDED] = (int64_t)s.children_crowded,
                           [WORKER_COUNT_CGROUPS_FAILED] = (int64_t)s.cgroups_failed,
                           [WORKER_COUNT_MCP_CROWDED] = (int64_t)s.mcp_crowded,
                           [WORKER_COUNT_VERSIONS_FETCHED] = (int64_t)s.versions_fetched,
                           [WORKER_COUNT_LOG_LINES_DROPPED] = (int64_t)s.log_lines_dropped,
                       } };
}

/* *ret_mark is set on success. */
static int beat_once_wait(WorkerHost *w, uint64_t *ret_mark)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    WorkerCounts counts = counts_of(w);
    Heartbeat told = { .counts = &counts };
    HeartbeatReply beat;
    arena_init(&arena, BEAT_ARENA_BYTES_MAX);
    int r = held_list(w, &arena, &told);
    if (r == 0) r = calls_list(w, &arena, &told);
    if (r < 0) return r;
    r = w->link->ops->heartbeat_wait(w->link, &told, &arena, &beat);
    if (r != 0) return r;
    beat_obey(w, &beat);
    gateway_budget_beat(w->host.gateway, beat.budget_epoch, beat.budget_wanted);
    w->news.flags = beat.flags_revision;
    w->news.prices = beat.prices_revision;
    w->news.cache = beat.cache_revision;
    w->news.claims_lost |= beat.released > 0;
    w->news.unread = true;
    cond_signal(&w->news.told);
    *ret_mark = beat.mark;
    return 0;
}

static int claimer_start(WorkerHost *w, Claimer *c)
{
    c->worker = w;
    return fiber_spawn("claim", claimer_main, c, &c->fiber);
}

static int claimers_start(WorkerHost *w)
{
    int r = 0;
    for (size_t i = 0; r == 0 && !w->front_only && i < ARRAY_N(w->claimers); i++)
        r = claimer_start(w, &w->claimers[i]);
    return r;
}

static void claimers_cancel(WorkerHost *w)
{
    for (size_t i = 0; i < ARRAY_N(w->claimers); i++) fiber_cancel(w->claimers[i].fiber);
}

static bool claim_is_old(const Claimer *c, uint64_t made)
{
    return c->claim != 0 && c->claim <= made;
}

static bool claims_old(const WorkerHost *w, uint64_t made)
{
    bool any = false;
    for (size_t i = 0; i < ARRAY_N(w->claimers); i++) any |= claim_is_old(&w->claimers[i], made);
    return any && !w->draining && !w->over;
}

/* Ends the claim that is under way, and goes on. */
static int claimer_renew_wait(WorkerHost *w, Claimer *c)
{
    fiber_cancel(c->fiber);
    int r = fiber_join_wait(c->fiber, NULL);
    return r < 0 || w->draining || w->over ? r : claimer_start(w, c);
}

/* Slots that are promised to a claim whose answer was lost serve nobody until it is given up. The
 * others of that time are about to bring what was released just now, perhaps: given up with it,
 * they would lose it again, and so on. They are given the time to end. */
static void claims_renew_wait(WorkerHost *w)
{
    uint64_t made = w->claims_made;
    int64_t deadline_ms = deadline_after(MIN(CLAIM_END_MS, w->lease.lease_ms / 4));
    int r = 0;
    w->news.claims_lost = false;
    while (r == 0 && claims_old(w, made)) r = cond_wait(&w->changed, deadline_ms);
    if (r != -ETIMEDOUT || !claims_old(w, made)) return;
    LOG_WARN("tasks were claimed and never came: claims begin anew");
    pthread_mutex_lock(&w->mutex);
    w->stats.claims_renewed++;
    pthread_mutex_unlock(&w->mutex);
    r = 0;
    for (size_t i = 0; r == 0 && i < ARRAY_N(w->claimers); i++)
        if (claim_is_old(&w->claimers[i], made)) r = claimer_renew_wait(w, &w->claimers[i]);
    w->news.claims_lost = r < 0; /* again with the next heartbeat */
    if (r < 0 && r != -ECANCELED) LOG_WARN("cannot claim", LOG_CSTR("why", diag_text_or(r)));
}

static void news_follow_wait(WorkerHost *w)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    arena_init(&arena, BEAT_ARENA_BYTES_MAX);
    if (w->draining) drain_tell_wait(w);
    if (w->news.claims_lost) claims_renew_wait(w);
    flags_follow_wait(w, w->news.flags);
    if (w->registered) holds_prove_wait(w);
    prices_follow_wait(w, w->news.prices);
    cache_follow_wait(w, w->news.cache, &arena);
}

/* Follows what heartbeats bring, apart from them: however long it takes, the lease does not lapse
 * meanwhile. */
static int reader_main(void *arg)
{
    WorkerHost *w = arg;
    while (!w->over && !fiber_cancelled()) {
        if (!w->news.unread && cond_wait(&w->news.told, DEADLINE_NONE) < 0) break;
        if (!w->news.unread) continue;
        w->news.unread = false;
        if (w->registered) news_follow_wait(w);
    }
    return 0;
}

/* Heartbeats under one registration; returns when it is over. */
static void beat_wait(WorkerHost *w)
{
    int64_t every_ms = w->held.every_ms, say_ms = 0;
    while (!w->over && w->registered) {
        uint64_t mark = 0;
        int64_t sent_ms = clock_mono_ms();
        if (lease_is_over(&w->held, sent_ms)) {
            lease_lost(w, "no heartbeat went through");
            return;
        }
        int r = beat_once_wait(w, &mark);
        if (!w->registered) return; /* it ended meanwhile */
        if (r == LINK_E_NO_WORKER) {
            lease_lost(w, "the control plane does not know this worker");
            return;
        }
        if (r == 0) {
            lease_renew(&w->held, sent_ms);
            r = w->link->ops->signal_wait(w->link, mark, sent_ms + every_ms);
        } else if (r != -ECANCELED) {
            if (clock_mono_ms() >= say_ms) {
                LOG_WARN("heartbeat failed", LOG_CSTR("why", diag_text_or(r)));
                say_ms = deadline_after(SAY_AGAIN_MS);
            }
            pthread_mutex_lock(&w->mutex);
            w->stats.heartbeats_failed++;
            pthread_mutex_unlock(&w->mutex);
            r = fiber_sleep_wait(MIN(every_ms, RETRY_MS));
        }
        if (r == -ECANCELED) return;
    }
}

/* Ends the lease when its time is over, though a heartbeat hangs just then: its tasks are given to
 * others from that moment on. */
static int sentry_main(void *arg)
{
    WorkerHost *w = arg;
    int r = 0;
    while (r >= 0 && !w->over) {
        int64_t left_ms = w->held.until_ms - clock_mono_ms();
        if (!w->registered) r = cond_wait(&w->changed, DEADLINE_NONE);
        else if (left_ms > 0) r = fiber_sleep_wait(left_ms);
        else lease_lost(w, "no heartbeat went through");
    }
    return 0;
}

static int heart_main(void *arg)
{
    WorkerHost *w = arg;
    while (!w->over) {
        if (!w->registered && register_wait(w) < 0) break;
        if (!w->registered) break; /* it drains, and nothing runs */
        beat_wait(w);
        if (fiber_cancelled()) break;
    }
    return 0;
}

/* --- rate limits ------------------------------------------------------------------------------ */

/* What is told once; on the heap, for it is large. */
typedef struct {
    GatewayLimit limits[GATEWAY_LIMITS_MAX];
    GatewayShare shares[GATEWAY_LIMITS_MAX];
    BreakerInfo breakers[BOARD_BREAKERS_MAX];
} Told;

/* Tells what there is to tell, takes the shares that come back. They count from when they were
 * asked for: that is the earliest the control plane can count from. */
static int rates_tell_wait(WorkerHost *w, Told *told)
{
    Gateway *gateway = w->host.gateway;
    int64_t asked_ms = clock_mono_ms(), ttl_ms = 0;
    RateTelling telling = { .limits = told->limits, .breakers = told->breakers };
    telling.limits_n = gateway_limits_list(gateway, told->limits, GATEWAY_LIMITS_MAX);
    telling.breakers_n = breakers_list(gateway_breakers(gateway), told->breakers,
                                       BREAKERS_MAX_DEFAULT);
    telling.breakers_n += breakers_list(w->host.breakers, told->breakers + telling.breakers_n,
                                        BOARD_BREAKERS_MAX - telling.breakers_n);
    gateway_limit_stats(gateway, &telling.stats);
    int r = w->link->ops->rates_wait(w->link, &telling, told->shares, &ttl_ms);
    if (r != 0) return r;
    gateway_set_sharing(gateway, ttl_ms > 0);
    gateway_take_shares(gateway, told->shares, telling.limits_n, asked_ms + ttl_ms);
    return 0;
}

/* Every second, and as soon as a call lacks a share. */
static int rates_main(void *arg)
{
    WorkerHost *w = arg;
    Told *told = xcalloc(1, sizeof *told);
    while (!w->over && !fiber_cancelled()) {
        int r = w->registered ? rates_tell_wait(w, told) : 0;
        if (r < 0 && r != -ECANCELED)
            LOG_WARN("cannot tell of rate limits", LOG_CSTR("why", diag_text_or(r)));
        if (fiber_sleep_wait(r == 0 ? RATES_PAUSE_MS : RETRY_MS) < 0) break;
        (void)gateway_lack_wait(w->host.gateway, deadline_after(RATES_EVERY_MS));
    }
    free(told);
    return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

/* A claim that was cut off could have taken a task already, which nobody would run until this
 * worker has left. So the control plane is asked to end it, and what it still brings is run. */
static int drainer_main(void *arg)
{
    WorkerHost *w = arg;
    drain_tell_wait(w);
    LOG_INFO("worker drains", LOG_INT("running", slots_running(&w->slots)));
    int64_t deadline_ms = deadline_after(CLAIM_END_MS);
    while (w->claims_n > 0 && cond_wait(&w->changed, deadline_ms) == 0) continue;
    claimers_cancel(w);
    return 0;
}

void worker_drain(WorkerHost *w)
{
    if (w->draining) return;
    w->draining = true;
    if (w->front) front_drain(w->front);
    if (fiber_spawn("drain", drainer_main, w, &w->drainer) < 0) claimers_cancel(w);
    LIST_EACH (&w->runs, node) {
        Run *run = CONTAINER_OF(node, Run, node);
        if (run->suspended) run_stop(run, RUN_KILLED);
    }
    changed(w);
}

void worker_kill(WorkerHost *w)
{
    worker_drain(w);
    claimers_cancel(w);
    w->killed = true;
    if (w->front) front_stop(w->front);
    stop_all(w, RUN_KILLED);
}

static int grants_wait(void *ctx, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                       BudgetAnswer *ret)
{
    WorkerHost *w = ctx;
    if (!w->registered) return diag_set(-EAGAIN, "the worker has no lease");
    return w->link->ops->grants_wait(w->link, ask, wait_ms, arena, ret);
}

static void on_front_idle(void *ctx)
{
    changed(ctx);
}

static int fibers_start(WorkerHost *w)
{
    w->control = (GatewayControl){ .ctx = w, .grants_wait = grants_wait };
    gateway_set_control(w->host.gateway, &w->control);
    if (w->front) front_open(w->front, &w->host, on_front_idle, w);
    int r = fiber_spawn("heartbeat", heart_main, w, &w->heart);
    if (r == 0) r = fiber_spawn("lease", sentry_main, w, &w->sentry);
    if (r == 0) r = fiber_spawn("news", reader_main, w, &w->reader);
    gateway_set_sharing(w->host.gateway, true); /* until it is known that nothing is shared */
    if (r == 0) r = fiber_spawn("rates", rates_main, w, &w->rates);
    if (r == 0) r = claimers_start(w);
    return r < 0 ? diag_set(r, "no fibers for the worker") : 0;
}

/* Claims that are being given up may still bring tasks: they are waited for first. */
static void drained_wait(WorkerHost *w)
{
    fiber_cancel(w->drainer);
    fiber_join_wait(w->drainer, NULL);
    for (size_t i = 0; i < ARRAY_N(w->claimers); i++) fiber_join_wait(w->claimers[i].fiber, NULL);
    while (!list_empty(&w->runs)) cond_wait(&w->changed, DEADLINE_NONE);
}

/* The last word: what of its shares the worker has used. */
static void rates_end_wait(WorkerHost *w)
{
    fiber_cancel(w->rates);
    fiber_join_wait(w->rates, NULL);
    Told *told = xcalloc(1, sizeof *told);
    int r = w->registered ? rates_tell_wait(w, told) : 0;
    if (r != 0) LOG_WARN("cannot tell of rate limits", LOG_CSTR("why", diag_text_or(r)));
    free(told);
    gateway_set_sharing(w->host.gateway, false);
}

/* It has said goodbye: its successor need not speak for it, unless it could not report a call. */
static void holds_left(WorkerHost *w)
{
    Uuid id = w->host.worker_id;
    if (!holds_any(w->host.holds, id)) holds_forget(w->host.holds, id);
}

/* As for a worker that was told to go: nothing may refer to it afterwards. */
static void end_wait(WorkerHost *w)
{
    fiber_shield();
    worker_kill(w);
    drained_wait(w);
    servers_close_wait(TAKE(w->host.servers));
    if (w->front) front_close_wait(w->front, deadline_after(FRONT_CLOSE_MS));
    w->over = true;
    fiber_cancel(w->heart);
    fiber_cancel(w->sentry);
    fiber_cancel(w->reader);
    fiber_join_wait(w->heart, NULL);
    fiber_join_wait(w->sentry, NULL);
    fiber_join_wait(w->reader, NULL);
    rates_end_wait(w);
    gateway_set_flags(w->host.gateway, NULL);
    gateway_budget_close_wait(w->host.gateway);
    gateway_set_control(w->host.gateway, NULL);
    int r = w->registered ? w->link->ops->leave_wait(w->link) : 0;
    if (r != 0) LOG_WARN("could not say goodbye", LOG_CSTR("why", diag_text_or(r)));
    else if (w->registered) holds_left(w);
    w->registered = false;
    fiber_unshield();
}

int worker_run_wait(WorkerHost *w)
{
    assert(!w->over && w->registrations == 0);
    int r = register_wait(w);
    bool started = r == 0 && w->registered;
    if (started) r = fibers_start(w);
    while (r == 0 && started && !(w->draining && is_idle(w)))
        r = cond_wait(&w->changed, DEADLINE_NONE);
    if (r == -ECANCELED) w->host.torn_down = true;
    end_wait(w);
    LOG_INFO("worker ends", LOG_INT("tasks", atomic_load(&w->host.counters.started)));
    return r;
}
