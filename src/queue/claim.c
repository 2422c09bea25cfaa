#include "base/diag.h"
#include "logic/attempt.h"
#include "queue/queue_private.h"
#include "sys/clock.h"
#include "sys/fiber.h"

static int worker_may_claim(Db *db, Uuid worker_id)
{
    WorkerState state;
    int r = worker_state(db, worker_id, &state);
    if (r < 0 && r != -ENOENT) return r;
    if (r == 0 && state == WORKER_ACTIVE) return 0;
    return diag_set(QUEUE_E_NO_WORKER, "the worker is not active: it must register");
}

/* Ends a task instead: its time is over, or a rollback stops it. */
static int claim_end(Db *db, ClaimJob *job, const Task *task, AttemptStart why)
{
    TaskHead head;
    int r = task_head_by_seq(db, task->seq, &head);
    if (r != 0) return r;
    assert(job->late_n < CLAIM_TASKS_MAX);
    job->late[job->late_n++] = head.id;
    if (why == ATTEMPT_CANCELED)
        return task_conclude_idle(job->queue, db, &head, TASK_CANCELED, STR("canceled"),
                                  STR("rollback"), job->now_ms, &job->effects);
    return task_conclude_late(job->queue, db, &head, job->now_ms, &job->effects);
}

/* Starts of tasks are written together, before anything that would see them waiting. */
static int claim_write(Db *db, ClaimJob *job)
{
    size_t from = job->written;
    if (from == job->n) return 0;
    job->written = job->n;
    return task_started(db, &job->tasks[from], job->n - from);
}

static void claim_count(ClaimJob *job, Lane lane)
{
    job->effects.queued[lane]--;
    job->effects.running[lane]++;
    job->effects.claimed[lane]++;
}

/* Moves a task that was read as queued, or ends it; what was ended since it was found is left. */
static int claim_one(Db *db, ClaimJob *job, Choice *choice, Task *task, int64_t fence)
{
    size_t read = job->read;
    job->read = 0;
    if (task->state != TASK_QUEUED) return 0;
    AttemptStart start = attempt_start(task->cancel_requested, task->deadline_at_ms, job->now_ms);
    if (start != ATTEMPT_STARTS) {
        choice_forget(choice); /* others may end with it */
        int r = claim_write(db, job);
        return r == 0 ? claim_end(db, job, task, start) : r;
    }
    task_start(task, job->claim->worker_id, fence, job->now_ms);
    claim_count(job, task->lane);
    job->n++;
    job->read = read - 1;
    return 0;
}

/* Room for more tasks behind the n. -ENOMEM: the arena is full. */
static int claim_room(ClaimJob *job, size_t more)
{
    if (job->n + more <= job->room) return 0;
    size_t room = MIN(MAX(2 * job->room, job->n + more), CLAIM_TASKS_MAX);
    assert(job->n + more <= CLAIM_TASKS_MAX);
    Task *tasks = ARENA_ARRAY(job->arena, Task, room);
    if (!tasks) return diag_set(-ENOMEM, "no memory for %zu tasks", room);
    if (job->n > 0) memcpy(tasks, job->tasks, job->n * sizeof *tasks);
    job->tasks = tasks;
    job->room = room;
    return 0;
}

/* Reads the task chosen, and with it those that are likely to be chosen next, which costs less than
 * one by one. They stay true until something ends in this job. */
static int claim_read(Db *db, ClaimJob *job, const Choice *choice, int64_t seq)
{
    int64_t seqs[TASKS_TO_START_MAX] = { seq };
    if (job->read > 0 && job->tasks[job->n].seq == seq) return 0;
    size_t n = 1 + choice_ahead(choice, &seqs[1],
                                MIN(TASKS_TO_START_MAX, CLAIM_TASKS_MAX - job->n) - 1);
    job->read = 0;
    int r = claim_room(job, n);
    if (r == 0) r = tasks_to_start(db, seqs, &n, job->arena, &job->tasks[job->n]);
    if (r == 0) job->read = n;
    return r;
}

/* Fences for all free slots, once there is a first task. */
static int claim_fence(Db *db, ClaimJob *job)
{
    if (job->fences_left > 0) {
        job->fences_left--;
        job->fence++;
        return 0;
    }
    int64_t last, n = MIN(lane_slots(&job->claim->slots), CLAIM_TASKS_MAX);
    int r = fence_take(db, n, &last);
    job->fence = last - n + 1;
    job->fences_left = n - 1;
    return r;
}

/* -ENOMEM: the next task does not fit the arena. */
static int claim_chosen(Db *db, ClaimJob *job, Choice *choice)
{
    int64_t seq;
    int r = 0;
    while (r == 0 && job->n + job->late_n < CLAIM_TASKS_MAX && (seq = choice_next(choice)) != 0) {
        size_t before = job->n;
        r = claim_read(db, job, choice, seq);
        if (r == 0) r = claim_fence(db, job);
        if (r == 0) r = claim_one(db, job, choice, &job->tasks[job->n], job->fence);
        if (r == 0) r = choice_made(choice, db, job->n > before);
    }
    return r == -ENOMEM && job->n > 0 ? 0 : r; /* the rest stays queued */
}

/* What repeats production's tasks is started when nothing else could be, one a claim. */
static int claim_shadow(Db *db, ClaimJob *job, Choice *choice)
{
    int64_t seq;
    bool none = job->n == 0 && job->late_n == 0 && !choice->more;
    if (!none || lane_free(&job->claim->slots, &choice->use, LANE_LOW) == 0) return 0;
    int r = shadow_next(db, &seq);
    if (r != 0) return r == -ENOENT ? 0 : r;
    choice_forget(choice);
    r = claim_read(db, job, choice, seq);
    if (r == 0) r = claim_fence(db, job);
    return r == 0 ? claim_one(db, job, choice, &job->tasks[0], job->fence) : r;
}

/* Whoever ends a task later wakes claimers of these lanes. */
static void claim_limited(ClaimJob *job, const Choice *choice)
{
    Queue *queue = job->queue;
    pthread_mutex_lock(&queue->lock);
    for (int lane = 0; lane < LANE_N_; lane++) {
        queue->limited[lane] |= choice->limited[lane] > 0;
        queue->stats.limited += choice->limited[lane];
    }
    pthread_mutex_unlock(&queue->lock);
}

static int claim_tasks(Db *db, ClaimJob *job)
{
    Choice choice; /* on a store thread's stack, not a fiber's */
    int r = choice_init(&choice, db, job->queue, job->claim, job->now_ms);
    if (r == 0) r = claim_chosen(db, job, &choice);
    if (r == 0) r = claim_shadow(db, job, &choice);
    if (r == 0) r = claim_write(db, job);
    claim_limited(job, &choice);
    job->more = choice.more || job->late_n > 0;
    choice_deinit(&choice);
    return r;
}

#define LOOK_AGAIN_MS 25 /* when a look did not reach all lines; each costs the store some */

static int claim_next_ready(Db *db, ClaimJob *job)
{
    job->next_ready_at_ms = job->more ? job->now_ms + LOOK_AGAIN_MS : INT64_MAX;
    for (int lane = 0; lane < LANE_N_; lane++) {
        int64_t at_ms = INT64_MAX;
        if (lane_free(&job->claim->slots, &job->claim->use, (Lane)lane) == 0) continue;
        int r = gate_next(db, (Lane)lane, &at_ms);
        if (r != 0) return r;
        job->next_ready_at_ms = MIN(job->next_ready_at_ms, at_ms);
    }
    return 0;
}

static int claim_begin(Db *db, ClaimJob *job)
{
    job->now_ms = queue_now_ms(job->queue);
    job->effects = (Effects){ 0 };
    job->tasks = NULL;
    job->n = job->room = job->read = job->written = job->late_n = 0;
    job->fences_left = 0;
    return worker_may_claim(db, job->claim->worker_id);
}

#define NEW_SEQ INT64_MAX /* of a task that has no row yet */

/* The same rules as for tasks that wait, applied to the only one there is. */
static int claim_offered(Db *db, ClaimJob *job, Choice *choice, const TaskRow *row)
{
    LineHead head = { row->tenant_id, row->agent, row->ready_at_ms, NEW_SEQ };
    if (!choice_empty(choice)) return -ENOENT;
    if (attempt_start(false, row->due_at_ms, job->now_ms) != ATTEMPT_STARTS) return -ENOENT;
    int r = choice_offer(choice, db, row->lane, &head);
    if (r == 0 && choice_next(choice) != NEW_SEQ) r = -ENOENT;
    if (r == 0) r = claim_room(job, 1);
    if (r == 0) r = task_of_row(row, job->arena, &job->tasks[0]);
    return r == -ENOMEM ? -ENOENT : r; /* who looks for it is told */
}

int claim_new(Db *db, ClaimJob *job, const TaskRow *row, int64_t *ret_seq)
{
    Choice choice; /* on a store thread's stack, not a fiber's */
    int r = claim_begin(db, job);
    if (r != 0) return r;
    r = choice_init(&choice, db, job->queue, job->claim, job->now_ms);
    if (r == 0) r = claim_offered(db, job, &choice, row);
    if (r == 0) r = claim_fence(db, job);
    if (r == 0) {
        task_start(&job->tasks[0], job->claim->worker_id, job->fence, job->now_ms);
        r = task_insert_started(db, row, &job->tasks[0]);
        job->n = job->written = 1;
        claim_count(job, row->lane);
    }
    if (r == 0) r = choice_made(&choice, db, true);
    if (r == 0) *ret_seq = job->tasks[0].seq;
    choice_deinit(&choice);
    return r;
}

int claim_look(Db *db, ClaimJob *job)
{
    int r = claim_begin(db, job);
    if (r == 0) r = claim_tasks(db, job);
    if (r == 0 && job->n == 0) r = claim_next_ready(db, job);
    return r;
}

static int claim_job(Db *db, void *arg)
{
    return claim_look(db, arg);
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

void claim_looked(const ClaimJob *job)
{
    queue_apply(job->queue, &job->effects);
    for (size_t i = 0; i < job->late_n; i++) queue_task_changed(job->queue, job->late[i]);
}

/* One look into the store: job->n, or job->next_ready_at_ms. */
static int claim_look_wait(Queue *queue, ClaimJob *job)
{
    if (fiber_cancelled()) return -ECANCELED;
    int r = queue_calendar_wait(queue);
    if (r == 0) r = store_call_wait(queue->store, claim_job, job);
    if (r == 0) claim_looked(job);
    return r;
}

/* Looks, and looks again when there may be a task: by itself, or who has submitted one has looked
 * for it, in the transaction that has made the task durable: it starts one commit earlier then. */
static int claim_until(Queue *queue, const bool lanes[LANE_N_], int64_t deadline_ms, ClaimJob *job)
{
    bool woken = false;
    for (;;) {
        uint64_t mark = ready_mark(queue);
        if (job->claim->answer) job->claim->answer->stands = false;
        int r = claim_look_wait(queue, job);
        if (r != 0 && woken) wake_others(queue, lanes); /* what woke this one may be for them */
        if (r != 0 || job->n > 0) return r;
        int64_t next_ms = wake_at(queue, job->next_ready_at_ms);
        r = claimer_wait(queue, lanes, mark, MIN(deadline_ms, next_ms), job);
        if (r == CLAIMER_LOOKED && job->n > 0) return 0;
        woken = r >= 0;
        if (r < 0 && !(r == -ETIMEDOUT && next_ms < deadline_ms)) return r;
    }
}

static void waits_note(Queue *queue, const Task *tasks, size_t n)
{
    pthread_mutex_lock(&queue->lock);
    for (size_t i = 0; i < n; i++) {
        Lane lane = tasks[i].lane;
        if (!uuid_is_zero(tasks[i].shadow_of)) continue; /* nobody waits for it */
        int64_t ready_ms = MAX(tasks[i].ready_at_ms, tasks[i].created_at_ms);
        int64_t waited_ms = clock_span_ms(&queue->sets, ready_ms, tasks[i].started_at_ms);
        bool late = waited_ms > queue->options.wait_objective_ms[lane];
        waits_add(&queue->waits[lane], waited_ms, late, tasks[i].started_at_ms);
        queue->stats.lane[lane].late += late;
    }
    pthread_mutex_unlock(&queue->lock);
}

int queue_claim_wait(Queue *queue, const Claim *claim, int64_t deadline_ms, Arena *arena,
                     Task **ret, size_t *ret_n)
{
    bool lanes[LANE_N_];
    if (!lanes_wanted(claim, lanes)) return diag_set(-EINVAL, "the worker has no free slot");
    ClaimJob job = { .queue = queue, .claim = claim, .arena = arena };
    int r = claim_until(queue, lanes, deadline_ms, &job);
    if (r != 0) return r;
    waits_note(queue, job.tasks, job.n);
    for (size_t i = 0; i < job.n; i++) queue_task_changed(queue, job.tasks[i].id);
    *ret = job.tasks;
    *ret_n = job.n;
    return 0;
}
