#include "queue/queue.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "queue/queue_private.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define QUEUED_MAX_DEFAULT 1000000
#define AGING_MS_DEFAULT 30000
#define LEASE_MS_DEFAULT 10000
#define LOG_BYTES_MAX_DEFAULT (1 << 20)
#define FOLLOWERS_MAX_DEFAULT 1000
#define KEY_KEPT_MS_DEFAULT (INT64_C(48) * 3600 * 1000)
#define JOURNAL_BYTES_MAX_DEFAULT (INT64_C(32) << 20)
#define JOURNAL_RECORDINGS_DEFAULT 2000
#define ACCOUNTS_MAX_DEFAULT 100000
#define STATE_KEYS_MAX_DEFAULT 1000
#define STATE_BYTES_MAX_DEFAULT (16 << 20)
#define STATE_VALUE_BYTES_MAX_DEFAULT (256 << 10)
#define STATE_KEPT_MS_DEFAULT (INT64_C(30) * 24 * 3600 * 1000)
#define JOURNAL_KEPT_MS_DEFAULT (INT64_C(7) * 24 * 3600 * 1000)
#define SPEND_KEPT_MS_DEFAULT (INT64_C(400) * 24 * 3600 * 1000)

/* --- time ------------------------------------------------------------------------------------- */

static int64_t real_ms(void *ctx)
{
    (void)ctx;
    return clock_real_ms();
}

static int64_t mono_ms(void *ctx)
{
    (void)ctx;
    return clock_mono_ms();
}

int64_t queue_now_ms(const Queue *queue)
{
    return queue->clock.mono_ms(queue->clock.ctx) + queue->calendar_ms;
}

int64_t queue_calendar_ms(const Queue *queue)
{
    return queue->clock.real_ms(queue->clock.ctx) - queue->clock.mono_ms(queue->clock.ctx);
}

int64_t queue_steady_ms(const Queue *queue)
{
    return queue->steady_base_ms + queue->clock.mono_ms(queue->clock.ctx);
}

/* --- recovery --------------------------------------------------------------------------------- */

/* One worker of the process that had the store before: its tasks are queued again. */
static int recover_job(Db *db, void *arg)
{
    EndAll *all = arg;
    Uuid worker_id;
    all->ids_n = 0;
    int r = worker_next_of(db, WORKER_EMBEDDED, &worker_id);
    all->more = r == 0;
    if (r != 0) return r == -ENOENT ? 0 : r;
    r = worker_end_all(db, worker_id, all);
    if (r != 0 || all->more) return r;
    all->more = true;
    return worker_set_state(db, worker_id, WORKER_LOST);
}

typedef struct {
    Queue *queue;
    int64_t queued[LANE_N_], running[LANE_N_];
} CountJob;

static int count_job(Db *db, void *arg)
{
    CountJob *job = arg;
    int64_t lease_ends_ms = queue_steady_ms(job->queue) + job->queue->options.lease_ms;
    int r = worker_renew_all(db, lease_ends_ms);
    return r != 0 ? r : task_counts(db, job->queued, job->running);
}

static int recover(Queue *queue)
{
    EndAll *all = xcalloc(1, sizeof *all);
    size_t n = 0;
    int r;
    do {
        *all = (EndAll){ .queue = queue,
                         .outcome = TASK_OUTCOME_LOST,
                         .blameless = true,
                         .now_ms = queue_now_ms(queue),
                         .random = entropy_u64() };
        r = store_call(queue->store, recover_job, all);
        n += all->ids_n;
    } while (r == 0 && all->more);
    free(all);
    if (n > 0) LOG_INFO("tasks of the previous process queued again", LOG_INT("tasks", n));
    CountJob job = { .queue = queue };
    if (r == 0) r = store_call(queue->store, count_job, &job);
    for (int lane = 0; lane < LANE_N_; lane++) {
        queue->stats.lane[lane].queued = job.queued[lane];
        queue->stats.lane[lane].running = job.running[lane];
    }
    return r;
}

/* --- opening ---------------------------------------------------------------------------------- */

static void options_fill(QueueOptions *o)
{
    for (int lane = 0; lane < LANE_N_; lane++)
        if (o->queued_max[lane] == 0) o->queued_max[lane] = QUEUED_MAX_DEFAULT;
    static const int64_t objective_ms[LANE_N_] = { 1000, 10000, 600000 };
    for (int lane = 0; lane < LANE_N_; lane++)
        if (o->wait_objective_ms[lane] == 0) o->wait_objective_ms[lane] = objective_ms[lane];
    if (o->aging_ms == 0) o->aging_ms = AGING_MS_DEFAULT;
    if (o->session_tasks_max == 0) o->session_tasks_max = 1;
    if (o->scaling.utilization_percent == 0) o->scaling = SCALING_RULE_DEFAULT;
    if (o->lease_ms == 0) o->lease_ms = LEASE_MS_DEFAULT;
    if (o->accounts_max == 0) o->accounts_max = ACCOUNTS_MAX_DEFAULT;
    if (o->log_bytes_max == 0) o->log_bytes_max = LOG_BYTES_MAX_DEFAULT;
    if (o->followers_max == 0) o->followers_max = FOLLOWERS_MAX_DEFAULT;
    if (o->key_kept_ms == 0) o->key_kept_ms = KEY_KEPT_MS_DEFAULT;
    if (o->family.depth_max == 0) o->family.depth_max = FAMILY_BOUNDS_DEFAULT.depth_max;
    if (o->family.children_max == 0) o->family.children_max = FAMILY_BOUNDS_DEFAULT.children_max;
    if (o->family.members_max == 0) o->family.members_max = FAMILY_BOUNDS_DEFAULT.members_max;
    if (o->journal_bytes_max == 0) o->journal_bytes_max = JOURNAL_BYTES_MAX_DEFAULT;
    if (o->journal_recordings_max == 0) o->journal_recordings_max = JOURNAL_RECORDINGS_DEFAULT;
    if (o->journal_kept_ms == 0) o->journal_kept_ms = JOURNAL_KEPT_MS_DEFAULT;
    if (o->spend_kept_ms == 0) o->spend_kept_ms = SPEND_KEPT_MS_DEFAULT;
    if (o->state_keys_max == 0) o->state_keys_max = STATE_KEYS_MAX_DEFAULT;
    if (o->state_bytes_max == 0) o->state_bytes_max = STATE_BYTES_MAX_DEFAULT;
    if (o->state_value_bytes_max == 0) o->state_value_bytes_max = STATE_VALUE_BYTES_MAX_DEFAULT;
    if (o->state_kept_ms == 0) o->state_kept_ms = STATE_KEPT_MS_DEFAULT;
}

static Queue *queue_new(Store *store, const QueueOptions *options)
{
    Queue *queue = xcalloc(1, sizeof *queue);
    queue->turns = xcalloc(1, sizeof *queue->turns);
    queue->store = store;
    queue->options = *options;
    options_fill(&queue->options);
    queue->clock = options->clock ? *options->clock : (QueueClock){ real_ms, mono_ms, NULL };
    queue->calendar_ms = queue->steady_base_ms = queue_calendar_ms(queue);
    queue->schedules_looked_ms = INT64_MAX; /* never */
    queue->known = known_tasks_new();
    queue->places = journal_places_new();
    pthread_mutex_init(&queue->lock, NULL);
    list_init(&queue->claimers);
    list_init(&queue->webhooks.waiters);
    list_init(&queue->ledger.askers);
    for (size_t i = 0; i < TASK_MARKS_N; i++) list_init(&queue->tasks[i].waiters);
    for (size_t i = 0; i < WORKER_MARKS_N; i++) list_init(&queue->workers[i].waiters);
    return queue;
}

int queue_open(Store *store, const QueueOptions *options, Queue **ret)
{
    CLEANUP(queue_closep) Queue *queue = queue_new(store, options);
    int r = recover(queue);
    if (r == 0) r = ledger_open(queue);
    if (r == 0) r = rates_begin(queue); /* what arrives before the first tick counts too */
    if (r != 0) return r;
    *ret = TAKE(queue);
    return 0;
}

void queue_close(Queue *queue)
{
    if (!queue) return;
    assert(list_empty(&queue->claimers) && list_empty(&queue->webhooks.waiters));
    for (size_t i = 0; i < TASK_MARKS_N; i++) assert(list_empty(&queue->tasks[i].waiters));
    for (size_t i = 0; i < WORKER_MARKS_N; i++) assert(list_empty(&queue->workers[i].waiters));
    ledger_close(queue);
    known_tasks_free(queue->known);
    journal_places_free(queue->places);
    pthread_mutex_destroy(&queue->lock);
    free(queue->turns);
    free(queue);
}

const QueueOptions *queue_options(const Queue *queue)
{
    return &queue->options;
}

Store *queue_store(const Queue *queue)
{
    return queue->store;
}

/* --- figures ---------------------------------------------------------------------------------- */

void queue_stats(Queue *queue, QueueStats *ret)
{
    pthread_mutex_lock(&queue->lock);
    *ret = queue->stats;
    for (int lane = 0; lane < LANE_N_; lane++)
        ret->lane[lane].waits = waits_figures(&queue->waits[lane], queue_now_ms(queue));
    pthread_mutex_unlock(&queue->lock);
    for (int lane = 0; lane < LANE_N_; lane++) {
        QueueLaneStats *s = &ret->lane[lane];
        /* changes arrive in another order than they were committed: below zero for a moment */
        s->queued = MAX(s->queued, 0);
        s->running = MAX(s->running, 0);
        s->oldest_ready_at_ms = INT64_MAX;
    }
}

int64_t queue_retry_after_s(Queue *queue, Lane lane)
{
    QueueStats stats;
    queue_stats(queue, &stats);
    const QueueLaneStats *s = &stats.lane[lane];
    if (s->queued < queue->options.queued_max[lane]) return 1; /* it has room meanwhile */
    return lane_retry_after_s(s->queued, s->starts_per_s);
}

static int oldest_job(Db *db, void *arg)
{
    QueueStats *stats = arg;
    for (int lane = 0; lane < LANE_N_; lane++) {
        int r = lines_oldest(db, (Lane)lane, &stats->lane[lane].oldest_ready_at_ms);
        if (r != 0) return r;
    }
    return 0;
}

int queue_stats_wait(Queue *queue, QueueStats *ret)
{
    queue_stats(queue, ret);
    return store_read_wait(queue->store, oldest_job, ret);
}
