#include "base/diag.h"
#include "queue/queue_private.h"
#include "sys/clock.h"
#include "sys/fiber.h"

typedef struct {
    const Queue *queue;
    const Claim *claim;
    Arena *arena;
    int64_t now_ms;
    Task *tasks; /* in arena */
    size_t n;
    int64_t next_ready_at_ms; /* when n is 0: the earliest task to come, INT64_MAX: none */
    Effects effects;
    Uuid late[CLAIM_TASKS_MAX]; /* tasks this look has ended: their deadline had passed */
    size_t late_n;
} ClaimJob;

static int worker_may_claim(Db *db, Uuid worker_id)
{
    WorkerState state;
    int r = worker_state(db, worker_id, &state);
    if (r < 0 && r != -ENOENT) return r;
    if (r == 0 && state == WORKER_ACTIVE) return 0;
    return diag_set(QUEUE_E_NO_WORKER, "the worker is not active: it must register");
}

/* Moves a task that was read as queued, or ends it when its time is over. */
static int claim_one(Db *db, ClaimJob *job, Task *task, int64_t fence)
{
    if (task->deadline_at_ms != 0 && task->deadline_at_ms <= job->now_ms) {
        TaskHead head;
        int r = task_head_by_seq(db, task->seq, &head);
        if (r != 0) return r;
        assert(job->late_n < CLAIM_TASKS_MAX);
        job->late[job->late_n++] = head.id;
        return task_conclude_idle(job->queue, db, &head, TASK_TIMED_OUT, STR("deadline_passed"),
                                  STR_NULL, job->now_ms, &job->effects);
    }
    int r = task_start(db, task, job->claim->worker_id, fence, job->now_ms);
    if (r != 0) return r;
    job->effects.queued[task->lane]--;
    job->effects.running[task->lane]++;
    job->effects.claimed[task->lane]++;
    job->n++;
    return 0;
}

/* The tasks of one lane. -ENOMEM: the next one does not fit the arena. */
static int claim_lane(Db *db, ClaimJob *job, const int64_t *seqs, int64_t n, int64_t *fence)
{
    for (int64_t i = 0; i < n; i++) {
        Task *task = &job->tasks[job->n];
        int r = task_get_by_seq(db, seqs[i], TASK_PART_PAYLOAD, job->arena, task);
        if (r == 0) r = claim_one(db, job, task, (*fence)++);
        if (r != 0) return r;
    }
    return 0;
}

/* How many of the ready tasks to take in each lane, CLAIM_TASKS_MAX in all. */
static int64_t claim_plan(const Claim *claim, const int64_t ready[LANE_N_], int64_t take[LANE_N_])
{
    int64_t total = 0;
    lane_claim_plan(&claim->slots, &claim->use, ready, take);
    for (int lane = 0; lane < LANE_N_; lane++) {
        take[lane] = MIN(take[lane], CLAIM_TASKS_MAX - total);
        total += take[lane];
    }
    return total;
}

static int claim_tasks(Db *db, ClaimJob *job)
{
    int64_t seqs[LANE_N_][CLAIM_TASKS_MAX], ready[LANE_N_], take[LANE_N_], last;
    for (int lane = 0; lane < LANE_N_; lane++) {
        int64_t free = lane_free(&job->claim->slots, &job->claim->use, (Lane)lane);
        size_t n = (size_t)MIN(free, CLAIM_TASKS_MAX);
        int r = n == 0 ? 0 : task_ready(db, (Lane)lane, job->now_ms, seqs[lane], &n);
        if (r != 0) return r;
        ready[lane] = (int64_t)n;
    }
    int64_t total = claim_plan(job->claim, ready, take);
    if (total == 0) return 0;
    job->tasks = ARENA_ARRAY(job->arena, Task, (size_t)total);
    if (!job->tasks) return diag_set(-ENOMEM, "no memory for %" PRId64 " tasks", total);
    int r = fence_take(db, total, &last);
    int64_t fence = last - total + 1;
    for (int lane = 0; lane < LANE_N_ && r == 0; lane++)
        r = claim_lane(db, job, seqs[lane], take[lane], &fence);
    return r == -ENOMEM && job->n > 0 ? 0 : r; /* the rest stays queued */
}

static int claim_next_ready(Db *db, ClaimJob *job)
{
    job->next_ready_at_ms = INT64_MAX;
    for (int lane = 0; lane < LANE_N_; lane++) {
        int64_t at_ms = INT64_MAX;
        if (lane_free(&job->claim->slots, &job->claim->use, (Lane)lane) == 0) continue;
        int r = task_next_ready(db, (Lane)lane, &at_ms);
        if (r != 0) return r;
        job->next_ready_at_ms = MIN(job->next_ready_at_ms, at_ms);
    }
    return 0;
}

static int claim_job(Db *db, void *arg)
{
    ClaimJob *job = arg;
    int r = worker_may_claim(db, job->claim->worker_id);
    if (r == 0) r = claim_tasks(db, job);
    if (r == 0 && job->n == 0) r = claim_next_ready(db, job);
    return r;
}

/* --- waiting for one -------------------------------------------------------------------------- */

static bool lanes_wanted(const Claim *claim, bool ret[LANE_N_])
{
    bool any = false;
    for (int lane = 0; lane < LANE_N_; lane++) {
        ret[lane] = lane_free(&claim->slots, &claim->use, (Lane)lane) > 0;
        any |= ret[lane];
    }
    return any;
}

static uint64_t ready_mark(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint64_t mark = queue->ready_mark;
    pthread_mutex_unlock(&queue->lock);
    return mark;
}

static void wake_others(Queue *queue, const bool lanes[LANE_N_])
{
    for (int lane = 0; lane < LANE_N_; lane++)
        if (lanes[lane]) claimers_wake(queue, (Lane)lane, 1);
}

/* The loop's time at which the calendar shows at_ms. */
static int64_t wake_at(const Queue *queue, int64_t at_ms)
{
    if (at_ms == INT64_MAX) return DEADLINE_NONE;
    return deadline_after(MAX(at_ms - queue_now_ms(queue), 1));
}

/* One look into the store: job->n, or job->next_ready_at_ms. */
static int claim_look(Queue *queue, ClaimJob *job)
{
    if (fiber_cancelled()) return -ECANCELED;
    job->now_ms = queue_now_ms(queue);
    job->effects = (Effects){ 0 };
    job->late_n = 0;
    int r = store_call_wait(queue->store, claim_job, job);
    if (r != 0) return r;
    queue_apply(queue, &job->effects);
    for (size_t i = 0; i < job->late_n; i++) queue_task_changed(queue, job->late[i]);
    return 0;
}

static int claim_until(Queue *queue, const bool lanes[LANE_N_], int64_t deadline_ms, ClaimJob *job)
{
    bool woken = false;
    for (;;) {
        uint64_t mark = ready_mark(queue);
        int r = claim_look(queue, job);
        if (r != 0 && woken) wake_others(queue, lanes); /* what woke this one may be for them */
        if (r != 0 || job->n > 0) return r;
        int64_t next_ms = wake_at(queue, job->next_ready_at_ms);
        r = claimer_wait(queue, lanes, mark, MIN(deadline_ms, next_ms));
        woken = r == 0;
        if (r != 0 && !(r == -ETIMEDOUT && next_ms < deadline_ms)) return r;
    }
}

int queue_claim_wait(Queue *queue, const Claim *claim, int64_t deadline_ms, Arena *arena,
                     Task **ret, size_t *ret_n)
{
    bool lanes[LANE_N_];
    if (!lanes_wanted(claim, lanes)) return diag_set(-EINVAL, "the worker has no free slot");
    ClaimJob job = { .queue = queue, .claim = claim, .arena = arena };
    int r = claim_until(queue, lanes, deadline_ms, &job);
    if (r != 0) return r;
    for (size_t i = 0; i < job.n; i++) queue_task_changed(queue, job.tasks[i].id);
    *ret = job.tasks;
    *ret_n = job.n;
    return 0;
}
