/* What workers tell: that they live, what they hold, how attempts went. */
#include "base/diag.h"
#include "logic/attempt.h"
#include "queue/queue_private.h"
#include "store/account_store.h"
#include "store/budget_store.h"
#include "store/cache_store.h"
#include "store/flag_store.h"
#include "store/price_store.h"
#include "store/spend_store.h"
#include "sys/entropy.h"

/* --- coming and going ------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    const WorkerNew *worker;
    Uuid id;
} WorkerJob;

static int no_worker(void)
{
    return diag_set(QUEUE_E_NO_WORKER, "the worker is unknown, lost or stopped");
}

static int register_job(Db *db, void *arg)
{
    WorkerJob *job = arg;
    int64_t now_ms = queue_now_ms(job->queue);
    int64_t lease_ends_ms = queue_steady_ms(job->queue) + job->queue->options.lease_ms;
    return worker_put(db, &(Worker){ .id = job->worker->id,
                                     .name = job->worker->name,
                                     .kind = job->worker->kind,
                                     .slots = job->worker->slots,
                                     .registered_at_ms = now_ms,
                                     .lease_expires_at_ms = lease_ends_ms,
                                     .heartbeat_at_ms = now_ms });
}

int queue_register_wait(Queue *queue, const WorkerNew *worker)
{
    assert(!uuid_is_zero(worker->id));
    WorkerJob job = { .queue = queue, .worker = worker };
    return store_call_wait(queue->store, register_job, &job);
}

static int drain_job(Db *db, void *arg)
{
    WorkerJob *job = arg;
    WorkerState state;
    int r = worker_state(db, job->id, &state);
    if (r == -ENOENT || (r == 0 && state > WORKER_DRAINING)) return no_worker();
    return r != 0 ? r : worker_set_state(db, job->id, WORKER_DRAINING);
}

int queue_drain_wait(Queue *queue, Uuid worker_id)
{
    WorkerJob job = { .queue = queue, .id = worker_id };
    int r = store_call_wait(queue->store, drain_job, &job);
    if (r != 0) return r;
    queue_worker_signal(queue, worker_id);
    claimers_wake_all(queue); /* its claim, if it waits in one, must end */
    return 0;
}

typedef struct {
    Uuid worker_id;
    EndAll all;
} LeaveJob;

/* Stopped only once nothing is left with it: a crash in between leaves a worker whose lease
 * ends. */
static int leave_job(Db *db, void *arg)
{
    LeaveJob *job = arg;
    WorkerState state;
    job->all.now_ms = queue_now_ms(job->all.queue);
    int r = worker_state(db, job->worker_id, &state);
    if (r == -ENOENT || (r == 0 && state > WORKER_DRAINING)) return no_worker();
    if (r == 0) r = worker_end_all(db, job->worker_id, &job->all);
    if (r == 0 && !job->all.more) r = budget_slices_close(db, job->worker_id);
    return r != 0 || job->all.more ? r : worker_set_state(db, job->worker_id, WORKER_STOPPED);
}

int queue_leave_wait(Queue *queue, Uuid worker_id)
{
    int r;
    LeaveJob job;
    do {
        job = (LeaveJob){ .worker_id = worker_id,
                          .all = { .queue = queue, .outcome = TASK_OUTCOME_RELEASED } };
        r = store_call_wait(queue->store, leave_job, &job);
        if (r == 0) queue_apply_all(queue, &job.all);
    } while (r == 0 && job.all.more);
    if (r == 0) ledger_changed(queue);
    return r;
}

/* --- heartbeats ------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    Uuid worker_id;
    const Heartbeat *beat;
    int64_t now_ms;
    int64_t arrived;    /* answers to claims up to this fence must have arrived */
    int64_t fence_last; /* out */
    HeartbeatReply *reply;
    EndAll orphans;
} HeartbeatJob;

/* The greatest fence whose claim must have been answered by now. */
static int64_t fence_arrived(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    int64_t fence = fence_marks_arrived(&queue->fences, queue->options.lease_ms,
                                        queue_steady_ms(queue));
    pthread_mutex_unlock(&queue->lock);
    return fence;
}

/* After the commit of a job that has read it. */
static void fence_note(Queue *queue, int64_t fence)
{
    pthread_mutex_lock(&queue->lock);
    fence_marks_note(&queue->fences, queue->options.lease_ms, fence, queue_steady_ms(queue));
    pthread_mutex_unlock(&queue->lock);
}

/* What the worker holds, against what the store knows. */
static int heartbeat_held(Db *db, HeartbeatJob *job)
{
    HeartbeatReply *reply = job->reply;
    for (size_t i = 0; i < job->beat->held_n; i++) {
        TaskHead head;
        TaskRef ref = job->beat->held[i];
        ref.worker_id = job->worker_id;
        int r = task_held(db, ref, &head);
        if (r < 0) return r;
        if (r == 0 && !head.cancel_requested) continue;
        reply->stops[reply->stops_n++] = (HoldStop){
            .task = job->beat->held[i],
            .reason = r == 0 ? HOLD_CANCEL : HOLD_STALE,
        };
    }
    return 0;
}

static bool held_has(const HeartbeatJob *job, const TaskHead *head)
{
    const TaskRef *held = job->beat->held;
    for (size_t i = 0; i < job->beat->held_n; i++)
        if (held[i].fence == head->fence && uuid_eq(held[i].id, head->id)) return true;
    return false;
}

/* Releases what the store gave to the worker and the worker never got. */
static int heartbeat_orphans(Db *db, HeartbeatJob *job)
{
    TaskHead heads[END_TASKS_MAX];
    int64_t after = 0;
    Conclusion c = { .outcome = TASK_OUTCOME_RELEASED, .now_ms = job->now_ms };
    size_t n;
    do {
        n = END_TASKS_MAX;
        int r = task_running_of(db, job->worker_id, after, heads, &n);
        if (r != 0) return r;
        for (size_t i = 0; i < n && job->orphans.ids_n < END_TASKS_MAX; i++) {
            TaskState state;
            after = heads[i].seq;
            if (!attempt_is_orphan(heads[i].fence, job->arrived)) continue;
            if (held_has(job, &heads[i])) continue;
            r = task_as_now(db, &heads[i]);
            if (r == 0)
                r = task_conclude(job->queue, db, &heads[i], &c, &job->orphans.effects, &state);
            if (r != 0) return r;
            job->orphans.ids[job->orphans.ids_n++] = heads[i].id;
        }
    } while (n == END_TASKS_MAX && job->orphans.ids_n < END_TASKS_MAX);
    return 0;
}

static int heartbeat_job(Db *db, void *arg)
{
    HeartbeatJob *job = arg;
    WorkerState state;
    int64_t lease_ends_ms = queue_steady_ms(job->queue) + job->queue->options.lease_ms;
    job->now_ms = queue_now_ms(job->queue);
    int r = worker_renew(db, job->worker_id, lease_ends_ms, job->now_ms);
    if (r == -ENOENT) return no_worker();
    if (r == 0) r = worker_state(db, job->worker_id, &state);
    if (r == 0) r = cache_revision(db, &job->reply->cache_revision);
    if (r == 0) r = flag_revision(db, &job->reply->flags_revision);
    if (r == 0) r = price_revision(db, &job->reply->prices_revision);
    if (r == 0) r = heartbeat_held(db, job);
    if (r == 0) r = heartbeat_orphans(db, job);
    if (r == 0) r = fence_last(db, &job->fence_last);
    if (r != 0) return r;
    in_flight_keep(job->queue, job->worker_id, job->beat->calls, job->beat->calls_n);
    job->reply->draining = state == WORKER_DRAINING;
    return 0;
}

/* The worker's place, or that of who told something longest ago. */
static WorkerReport *report_of(Queue *queue, Uuid worker_id)
{
    WorkerReport *oldest = &queue->reports[0];
    for (size_t i = 0; i < WORKER_REPORTS_MAX; i++) {
        WorkerReport *report = &queue->reports[i];
        if (uuid_eq(report->worker_id, worker_id)) return report;
        if (report->at_ms < oldest->at_ms) oldest = report;
    }
    return oldest;
}

static void orphans_apply(Queue *queue, const EndAll *orphans)
{
    if (orphans->ids_n == 0) return;
    queue_apply_all(queue, orphans);
    pthread_mutex_lock(&queue->lock);
    queue->stats.claims_lost += orphans->ids_n;
    pthread_mutex_unlock(&queue->lock);
}

static void counts_keep(Queue *queue, Uuid worker_id, const WorkerCounts *counts)
{
    pthread_mutex_lock(&queue->lock);
    *report_of(queue, worker_id) = (WorkerReport){ worker_id, queue_steady_ms(queue), *counts };
    pthread_mutex_unlock(&queue->lock);
}

bool queue_worker_counts(Queue *queue, Uuid worker_id, WorkerCounts *ret)
{
    pthread_mutex_lock(&queue->lock);
    const WorkerReport *report = report_of(queue, worker_id);
    bool found = uuid_eq(report->worker_id, worker_id);
    if (found) *ret = report->counts;
    pthread_mutex_unlock(&queue->lock);
    return found;
}

int queue_heartbeat_wait(Queue *queue, Uuid worker_id, const Heartbeat *beat, Arena *arena,
                         HeartbeatReply *ret)
{
    assert(beat->held_n <= HEARTBEAT_TASKS_MAX);
    /* the mark first: what changes from here on asks for another heartbeat */
    HeartbeatReply reply = { .mark = queue_signal_mark(queue, worker_id) };
    reply.stops = ARENA_ARRAY(arena, HoldStop, beat->held_n);
    if (!reply.stops) return diag_set(-ENOMEM, "no memory for the answer to a heartbeat");
    HeartbeatJob job = { .queue = queue,
                         .worker_id = worker_id,
                         .beat = beat,
                         .arrived = fence_arrived(queue),
                         .reply = &reply };
    int r = store_call_wait(queue->store, heartbeat_job, &job);
    if (r != 0) return r;
    fence_note(queue, job.fence_last);
    orphans_apply(queue, &job.orphans);
    reply.released = job.orphans.ids_n;
    ledger_beat(queue, worker_id, &reply);
    if (beat->counts) counts_keep(queue, worker_id, beat->counts);
    *ret = reply;
    return 0;
}

/* --- the end of an attempt -------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    const TaskFinish *finishes;
    size_t n;
    int64_t now_ms;
    uint64_t random;
    TaskFinished *ends; /* n */
    Effects effects;
} FinishJob;

static int finish_one(Db *db, FinishJob *job, size_t i, Endings *endings)
{
    const TaskFinish *finish = &job->finishes[i];
    TaskFinished *end = &job->ends[i];
    Conclusion c = { .outcome = finish->outcome,
                     .now_ms = job->now_ms,
                     .random = random_draw(job->random, i),
                     .retry_after_ms = finish->retry_after_ms,
                     .error_code = finish->error_code,
                     .error_detail = finish->error_detail,
                     .stopped_by = finish->stopped_by,
                     .sandbox = finish->sandbox,
                     .result = finish->result,
                     .usage = finish->usage,
                     .conduct = finish->conduct };
    TaskHead head;
    int r = endings_held(endings, db, finish, job->n - i, &head);
    end->outcome = MAX(r, 0);
    job->effects.stale += r == QUEUE_E_STALE;
    if (r != 0) return MIN(r, 0);
    return endings_add(endings, job->queue, db, &head, &c, &job->effects, &end->state);
}

/* What is stale changes nothing, so that there is nothing to undo for it. */
static int finish_jobs(Db *db, void *const *args, size_t n)
{
    Endings endings; /* on a store thread's stack, not a fiber's */
    int r = 0;
    endings.n = endings.heads_n = endings.heads_at = 0;
    for (size_t k = 0; k < n && r == 0; k++) {
        FinishJob *job = args[k];
        job->now_ms = queue_now_ms(job->queue);
        job->effects = (Effects){ 0 };
        endings.heads_n = endings.heads_at = 0; /* of the job before */
        for (size_t i = 0; i < job->n && r == 0; i++) r = finish_one(db, job, i, &endings);
    }
    return r == 0 ? endings_write(&endings, db) : r;
}

static int finish_job(Db *db, void *arg)
{
    return finish_jobs(db, &arg, 1);
}

int queue_finish_many_wait(Queue *queue, const TaskFinish *finishes, size_t n, TaskFinished *ret)
{
    static const StoreMany many = { .one = finish_job, .all = finish_jobs };
    assert(n <= FINISH_TASKS_MAX);
    for (size_t i = 0; i < n; i++)
        assert(finishes[i].outcome < TASK_OUTCOME_N_ && finishes[i].outcome != TASK_OUTCOME_LOST);
    FinishJob job = {
        .queue = queue, .finishes = finishes, .n = n, .random = entropy_u64(), .ends = ret
    };
    int r = queue_calendar_wait(queue);
    if (r != 0) return r;
    r = n > 0 ? store_many_wait(queue->store, &many, &job) : 0;
    if (r != 0) return r;
    queue_apply(queue, &job.effects);
    for (size_t i = 0; i < n; i++)
        if (ret[i].outcome == 0) queue_task_changed(queue, finishes[i].task.id);
    return 0;
}

int queue_finish_wait(Queue *queue, const TaskFinish *finish, TaskState *ret_state)
{
    TaskFinished end;
    int r = queue_finish_many_wait(queue, finish, 1, &end);
    if (r != 0) return r;
    if (end.outcome != 0) return task_stale();
    if (ret_state) *ret_state = end.state;
    return 0;
}

/* --- while it runs ---------------------------------------------------------------------------- */

typedef struct {
    TaskRef task;
    const ToolRecord *tools;
    size_t n;
} ToolsJob;

int queue_record_wait(Queue *queue, TaskRef task, StoreFn fn, void *job)
{
    int r = store_call_wait(queue->store, fn, job);
    if (r == 0) queue_task_changed(queue, task.id);
    if (r == QUEUE_E_STALE) queue_apply(queue, &(Effects){ .stale = 1 });
    return r;
}

static int tools_job(Db *db, void *arg)
{
    ToolsJob *job = arg;
    TaskHead head;
    TaskUsage sum = { 0 };
    int r = task_held(db, job->task, &head);
    for (size_t i = 0; i < job->n && r == 0; i++) {
        ToolRecord record = job->tools[i];
        record.attempt = head.attempt;
        r = tool_record_insert(db, head.seq, &record);
        if (r == 0) sum.tool_calls += record.counted;
        if (r == DB_E_CONFLICT) r = 0; /* sent twice: the answer was lost */
    }
    return r == 0 ? task_add_usage(db, head.seq, &sum) : r;
}

static void tools_count(Queue *queue, const ToolRecord *records, size_t n)
{
    static const Str ran[] = { STR("error"), STR("trouble"), STR("timeout"), STR("too_large") };
    pthread_mutex_lock(&queue->lock);
    for (size_t i = 0; i < n; i++) {
        bool ok = str_eq(records[i].outcome, STR("ok")), failed = false;
        for (size_t k = 0; k < ARRAY_N(ran); k++) failed |= str_eq(records[i].outcome, ran[k]);
        queue->stats.tools_ok += ok;
        queue->stats.tools_failed += failed;
        queue->stats.tools_refused += !ok && !failed;
        if (ok || failed) queue->stats.tools_ms += (uint64_t)records[i].duration_ms;
    }
    pthread_mutex_unlock(&queue->lock);
}

int queue_tools_add_wait(Queue *queue, TaskRef task, const ToolRecord *records, size_t n)
{
    ToolsJob job = { .task = task, .tools = records, .n = n };
    int r = n > 0 ? queue_record_wait(queue, task, tools_job, &job) : 0;
    if (r == 0) tools_count(queue, records, n);
    return r;
}
