/* What time does: leases and deadlines that pass, tasks that become ready. */
#include "base/diag.h"
#include "base/log.h"
#include "logic/attempt.h"
#include "queue/queue_private.h"
#include "store/escalation_store.h"
#include "store/grade_store.h"
#include "store/idempotency_store.h"
#include "store/shadow_store.h"
#include "store/webhook_store.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define EXPIRED_WORKERS_MAX 8 /* a tick */
#define PURGE_EVERY_MS 60000
#define PURGE_KEYS_MAX 512       /* a job: a few milliseconds, what others wait for at most */
#define PURGE_RECORDINGS_MAX 256 /* a job */
#define TIDY_MS 200              /* of each second, when there is so much to tidy */
#define GONE_WORKERS_KEPT_MS (INT64_C(24) * 3600 * 1000)

/* The worker ends a task at its deadline; this is for one that lives but does not. */
#define OVERDUE_GRACE_MS 60000

/* --- leases ----------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    int64_t steady_ms;
    bool found;
    Uuid worker_id;
    EndAll all;
} ExpireJob;

static int expire_job(Db *db, void *arg)
{
    ExpireJob *job = arg;
    job->all.now_ms = queue_now_ms(job->queue);
    int r = worker_next_expired(db, job->steady_ms, &job->worker_id);
    job->found = r == 0;
    if (r != 0) return r == -ENOENT ? 0 : r;
    r = in_flight_lose(job->queue, db, job->worker_id);
    if (r == 0) r = worker_end_all(db, job->worker_id, &job->all);
    return r != 0 || job->all.more ? r : worker_set_state(db, job->worker_id, WORKER_LOST);
}

static int expire_one(Queue *queue, bool *ret_found)
{
    ExpireJob job = { .queue = queue,
                      .steady_ms = queue_steady_ms(queue),
                      .all = {
                          .queue = queue, .outcome = TASK_OUTCOME_LOST, .random = entropy_u64() } };
    int r = store_call_wait(queue->store, expire_job, &job);
    if (r != 0) return r;
    *ret_found = job.found;
    if (!job.found) return 0;
    char id[UUID_TEXT_MAX];
    LOG_WARN("worker lost", LOG_CSTR("worker", uuid_text(job.worker_id, id)),
             LOG_INT("tasks", job.all.ids_n));
    queue_apply_all(queue, &job.all);
    queue_worker_signal(queue, job.worker_id);
    ledger_changed(queue); /* what it held counts as spent now */
    return 0;
}

/* --- a calendar that is set ------------------------------------------------------------------- */

#define CALENDAR_SET_MS 1000                /* what it is off by then; less is drift, and adds up */
#define CALENDAR_AHEAD_MS INT64_C(86400000) /* set so far ahead it is not believed at once: */
#define CALENDAR_DOUBT_MS INT64_C(21600000) /* for so long nothing is deleted for its age */

typedef struct {
    Queue *queue;
    int64_t calendar_ms, moved_ms;
} CalendarJob;

/* The job may be undone, and run again. */
static void calendar_undo(CalendarJob *job)
{
    job->queue->calendar_ms -= job->moved_ms;
    job->moved_ms = 0;
}

static int calendar_job(Db *db, void *arg)
{
    CalendarJob *job = arg;
    calendar_undo(job);
    int64_t off_ms = job->calendar_ms - job->queue->calendar_ms;
    if (off_ms == 0) return 0; /* another was faster */
    int r = task_move_deadlines(db, off_ms);
    if (r == 0) r = escalation_move(db, off_ms);
    if (r == 0) r = webhook_move(db, off_ms);
    if (r == 0) r = rollout_move(db, off_ms);
    if (r == 0) r = shadow_move(db, off_ms);
    if (r != 0) return r;
    job->moved_ms = off_ms;
    if (off_ms >= CALENDAR_AHEAD_MS)
        job->queue->aged_at_ms = queue_steady_ms(job->queue) + CALENDAR_DOUBT_MS;
    /* where this is undone: things only seem to have taken less time */
    pthread_mutex_lock(&job->queue->lock);
    clock_sets_add(&job->queue->sets, queue_now_ms(job->queue), off_ms);
    pthread_mutex_unlock(&job->queue->lock);
    job->queue->calendar_ms += off_ms; /* here: for jobs of the same batch */
    return 0;
}

bool queue_ages(const Queue *queue)
{
    return queue_steady_ms(queue) >= queue->aged_at_ms;
}

int queue_calendar_wait(Queue *queue)
{
    CalendarJob job = { .queue = queue, .calendar_ms = queue_calendar_ms(queue) };
    int64_t off_ms = job.calendar_ms - queue->calendar_ms;
    if (off_ms > -CALENDAR_SET_MS && off_ms < CALENDAR_SET_MS) return 0;
    int r = store_call_wait(queue->store, calendar_job, &job);
    if (r != 0) calendar_undo(&job);
    else if (job.moved_ms != 0)
        LOG_WARN("the clock was set: deadlines of tasks and rollouts move along",
                 LOG_INT("ms", job.moved_ms));
    return r;
}

/* --- deadlines, old keys and workers ---------------------------------------------------------- */

typedef struct {
    Queue *queue;
    int64_t now_ms;
    bool purge; /* old keys, sessions and workers too */
    bool first; /* of this tick; sums and workers too, then */
    bool more;  /* of keys and sessions */
    bool more_journals, more_overdue;
    int64_t recordings; /* deleted */
    int64_t states;     /* likewise */
    EndAll overdue;
} TidyJob;

static int tidy_overdue(Db *db, TidyJob *job)
{
    TaskHead heads[END_TASKS_MAX];
    size_t n = END_TASKS_MAX;
    Conclusion c = { .outcome = TASK_OUTCOME_TIMED_OUT, .now_ms = job->now_ms };
    int r = task_overdue(db, job->now_ms - OVERDUE_GRACE_MS, heads, &n);
    for (size_t i = 0; i < n && r == 0; i++) {
        TaskState state;
        bool given = deadline_is_given(heads[i].deadline_at_ms, heads[i].due_at_ms);
        c.error_code = given ? STR(TASK_DEADLINE_CODE) : STR_NULL;
        r = task_conclude(job->queue, db, &heads[i], &c, &job->overdue.effects, &state);
        job->overdue.ids[job->overdue.ids_n++] = heads[i].id;
    }
    return r;
}

/* As it is now: with its parent, whose time is over as well, it may have ended before its turn. */
static int late_end(Db *db, TidyJob *job, int64_t seq)
{
    TaskHead head;
    int r = task_head_by_seq(db, seq, &head);
    if (r != 0 || task_state_ended(head.state)) return r;
    job->overdue.ids[job->overdue.ids_n++] = head.id;
    return task_conclude_late(job->queue, db, &head, job->now_ms, &job->overdue.effects);
}

/* Of those that wait: nobody may ever want to start them, or answer what they ask. */
static int tidy_late(Db *db, TidyJob *job)
{
    int64_t seqs[END_TASKS_MAX];
    size_t room = END_TASKS_MAX - job->overdue.ids_n, n = room;
    int r = task_late(db, job->now_ms, seqs, &n);
    for (size_t i = 0; i < n && r == 0; i++) r = late_end(db, job, seqs[i]);
    job->more_overdue = n == room;
    return r;
}

/* Of these there may be very many. */
static int tidy_keys(Db *db, TidyJob *job)
{
    const QueueOptions *o = &job->queue->options;
    int64_t purged = 0;
    int r = idempotency_purge(db, job->now_ms - o->key_kept_ms, PURGE_KEYS_MAX, &purged);
    if (r == 0)
        r = session_purge(db, job->now_ms - o->state_kept_ms, job->now_ms, PURGE_KEYS_MAX,
                          &job->states);
    job->more = purged >= PURGE_KEYS_MAX || job->states >= PURGE_KEYS_MAX;
    return r;
}

static int tidy_rest(Db *db, TidyJob *job)
{
    int r = ledger_purge(job->queue, db, job->now_ms);
    if (r == 0) r = rollup_purge(db, job->now_ms);
    if (r == 0) r = grade_sum_purge(db, job->now_ms);
    if (r == 0) r = in_flight_purge(job->queue, db);
    return r != 0 ? r : worker_purge(db, job->now_ms - GONE_WORKERS_KEPT_MS);
}

static int tidy_job(Db *db, void *arg)
{
    TidyJob *job = arg;
    job->now_ms = queue_now_ms(job->queue);
    int64_t journals_before_ms = job->now_ms - job->queue->options.journal_kept_ms;
    bool ages = queue_ages(job->queue);
    job->purge = job->purge && ages;
    int r = tidy_overdue(db, job);
    if (r == 0) r = tidy_late(db, job);
    if (r == 0 && ages)
        r = journal_purge(db, journals_before_ms, job->now_ms, PURGE_RECORDINGS_MAX,
                          &job->recordings, &job->more_journals);
    if (r == 0 && job->purge) r = tidy_keys(db, job);
    return r == 0 && job->purge && job->first ? tidy_rest(db, job) : r;
}

/* One small job. *ret_more: there is more to do. */
static int tidy_some(Queue *queue, bool first, bool *ret_more)
{
    TidyJob job = { .queue = queue, .first = first };
    int64_t steady_ms = queue_steady_ms(queue);
    job.purge = steady_ms >= queue->purge_at_ms;
    int r = store_call_wait(queue->store, tidy_job, &job);
    if (r != 0) return r;
    if (job.purge && !job.more) queue->purge_at_ms = steady_ms + PURGE_EVERY_MS;
    queue_apply_all(queue, &job.overdue);
    journal_purged(queue, job.recordings);
    states_purged(queue, job.states);
    *ret_more = job.more || job.more_journals || job.more_overdue;
    return 0;
}

/* As fast as they may come, beside the jobs of everybody else. */
static int tidy(Queue *queue)
{
    int64_t until_ms = clock_mono_ms() + TIDY_MS;
    bool more = true;
    int r = 0;
    for (bool first = true; r == 0 && more && (first || clock_mono_ms() < until_ms); first = false)
        r = tidy_some(queue, first, &more);
    return r;
}

/* --- tasks that became ready ------------------------------------------------------------------ */

/* Claimers wake by themselves for the earliest task they saw; this is for those that did not see
 * it, and for a calendar that was set. */
static int wake_ready(Queue *queue)
{
    QueueStats stats;
    queue_stats(queue, &stats);
    if (stats.claimers == 0) return 0;
    int r = queue_stats_wait(queue, &stats);
    if (r != 0) return r;
    int64_t now_ms = queue_now_ms(queue);
    for (int lane = 0; lane < LANE_N_; lane++)
        if (stats.lane[lane].oldest_ready_at_ms <= now_ms) claimers_wake(queue, (Lane)lane, 1);
    return 0;
}

#define WAITING_COUNT_MAX 10000 /* of a kind, in a lane: a millisecond or two */

typedef struct {
    const Queue *queue;
    LinesWaiting lanes[LANE_N_];
} WaitingJob;

static int waiting_job(Db *db, void *arg)
{
    WaitingJob *job = arg;
    int64_t now_ms = queue_now_ms(job->queue);
    int r = 0;
    for (int lane = 0; lane < LANE_N_ && r == 0; lane++)
        r = lines_waiting(db, (Lane)lane, now_ms, WAITING_COUNT_MAX, &job->lanes[lane]);
    return r;
}

/* No worker helps those whose time has not come, or who wait for another of their session. */
static int64_t waits_for_slot(const LinesWaiting *waiting, int64_t queued)
{
    return waiting->whole ? waiting->waiting : MAX(waiting->waiting, queued - waiting->later);
}

/* How fast tasks come, start and end. What comes has started or waits, whenever it was submitted:
 * its time has come, or its turn in its session. */
static void rates_note(Queue *queue)
{
    int64_t now_ms = queue_steady_ms(queue);
    pthread_mutex_lock(&queue->lock);
    for (int lane = 0; lane < LANE_N_; lane++) {
        QueueLaneStats *s = &queue->stats.lane[lane];
        int64_t waiting = waits_for_slot(&queue->waiting[lane], s->queued);
        ScalingView view = { .now_ms = now_ms,
                             .arrived = (int64_t)s->claimed + waiting,
                             .started = (int64_t)s->claimed,
                             .ran = (int64_t)s->ran,
                             .ran_ms = (int64_t)s->ran_ms,
                             .queued = waiting,
                             .running = MAX(s->running, 0) };
        Scaling *scaling = &queue->scaling[lane];
        scaling_step(scaling, &queue->options.scaling, &view);
        s->arrivals_per_s = scaling->arrivals_per_s;
        s->starts_per_s = scaling->starts_per_s;
        s->service_ms = scaling_service_ms(scaling);
        s->slots_wanted = scaling->slots;
        s->slots_known = scaling_knows(scaling, &queue->options.scaling);
    }
    pthread_mutex_unlock(&queue->lock);
}

/* Without an answer the last one holds. */
static void waiting_note(Queue *queue, const WaitingJob *job, int r)
{
    pthread_mutex_lock(&queue->lock);
    if (r == 0) memcpy(queue->waiting, job->lanes, sizeof queue->waiting);
    pthread_mutex_unlock(&queue->lock);
    rates_note(queue);
}

int rates_begin(Queue *queue)
{
    WaitingJob job = { .queue = queue };
    int r = store_read(queue->store, waiting_job, &job);
    waiting_note(queue, &job, r);
    return r;
}

static void rates_tick_wait(Queue *queue)
{
    WaitingJob job = { .queue = queue };
    waiting_note(queue, &job, store_read_wait(queue->store, waiting_job, &job));
}

int queue_tick_wait(Queue *queue)
{
    rates_tick_wait(queue);
    bool found = true;
    int r = queue_calendar_wait(queue);
    for (int i = 0; i < EXPIRED_WORKERS_MAX && found && r == 0; i++) r = expire_one(queue, &found);
    if (r == 0) r = tidy(queue);
    if (r == 0) r = escalations_tick_wait(queue);
    int fired = r == 0 ? schedules_tick_wait(queue) : 0;
    if (r == 0) r = wake_ready(queue); /* whatever became of schedules */
    if (r == 0) r = retention_tick_wait(queue);
    return r == 0 ? fired : r;
}
