/* Fibers that wait for something to happen in the queue, on whatever loop. A waiter lives on its
 * fiber's stack. Whoever takes it off its list owes it exactly one op_done: the waker by a message
 * to its loop, the canceller (which runs on that loop) directly. */
#include <limits.h>
#include <stdatomic.h>

#include "base/diag.h"
#include "queue/queue_private.h"
#include "sys/clock.h"
#include "sys/fiber.h"

typedef struct {
    ListNode node; /* linked: nobody has taken it off yet */
    LoopMsg msg;
    Op op;
    Queue *queue;
    Loop *loop;
    int result; /* of the wait, when it is woken */
} Waiter;

/* Whether an answer is sent by who gives tasks, or by who gets them. */
typedef enum {
    ANSWER_NONE,
    ANSWER_READY, /* the getter's, and what was made stays as it is from now on */
    ANSWER_LATE,  /* the giver's: it did not wait */
} AnswerStage;

struct Claimer {
    Waiter waiter;
    bool lanes[LANE_N_];
    ClaimJob *job;
    _Atomic AnswerStage answer;
    LoopMsg found_msg;
    /* its loop's */
    bool found, given;
    Op *giving; /* who found waits for */
};

static void waiter_arrived(LoopMsg *msg)
{
    Waiter *w = CONTAINER_OF(msg, Waiter, msg);
    op_done(&w->op, w->result);
}

static void waiter_cancel(Op *op, int code)
{
    Waiter *w = CONTAINER_OF(op, Waiter, op);
    pthread_mutex_lock(&w->queue->lock);
    bool taken = !list_linked(&w->node);
    list_remove(&w->node);
    pthread_mutex_unlock(&w->queue->lock);
    if (!taken) op_done(op, code); /* else its message is under way */
}

/* With the lock. The waiter may be gone once this returns. */
static void waiter_wake(Waiter *w)
{
    list_remove(&w->node);
    loop_post(w->loop, &w->msg);
}

static void waiter_init(Waiter *w, Queue *queue)
{
    *w = (Waiter){ .queue = queue, .loop = loop_here(), .msg = { .run = waiter_arrived } };
    list_init(&w->node);
    op_init(&w->op, waiter_cancel);
}

/* Parks unless *value has moved from seen. *count is kept while it waits. */
static int waiter_park(Waiter *w, List *list, const uint64_t *value, uint64_t seen, uint64_t *count,
                       int64_t deadline_ms)
{
    Queue *queue = w->queue;
    pthread_mutex_lock(&queue->lock);
    bool moved = *value != seen;
    if (!moved) {
        list_push_back(list, &w->node);
        ++*count;
    }
    pthread_mutex_unlock(&queue->lock);
    if (moved) return 0;
    int r = op_wait(&w->op, deadline_ms);
    pthread_mutex_lock(&queue->lock);
    --*count;
    pthread_mutex_unlock(&queue->lock);
    assert(!list_linked(&w->node));
    return r;
}

/* --- marks ------------------------------------------------------------------------------------ */

uint64_t mark_read(Queue *queue, const Mark *mark)
{
    pthread_mutex_lock(&queue->lock);
    uint64_t value = mark->value;
    pthread_mutex_unlock(&queue->lock);
    return value;
}

int mark_wait(Queue *queue, Mark *mark, uint64_t seen, int64_t deadline_ms)
{
    if (fiber_cancelled()) return -ECANCELED;
    Waiter w;
    waiter_init(&w, queue);
    return waiter_park(&w, &mark->waiters, &mark->value, seen, &queue->stats.watchers, deadline_ms);
}

void mark_move(Mark *mark)
{
    mark->value++;
    LIST_EACH (&mark->waiters, node) waiter_wake(CONTAINER_OF(node, Waiter, node));
}

/* Version 7 ids end in random bits. */
static size_t bucket_of(Uuid id, size_t n)
{
    return ((size_t)id.bytes[14] << 8 | id.bytes[15]) & (n - 1);
}

static Mark *task_mark(Queue *queue, Uuid id)
{
    return &queue->tasks[bucket_of(id, TASK_MARKS_N)];
}

static Mark *worker_mark(Queue *queue, Uuid id)
{
    return &queue->workers[bucket_of(id, WORKER_MARKS_N)];
}

void queue_task_changed(Queue *queue, Uuid id)
{
    pthread_mutex_lock(&queue->lock);
    mark_move(task_mark(queue, id));
    pthread_mutex_unlock(&queue->lock);
}

void queue_worker_signal(Queue *queue, Uuid id)
{
    pthread_mutex_lock(&queue->lock);
    mark_move(worker_mark(queue, id));
    pthread_mutex_unlock(&queue->lock);
}

void queue_signal_workers(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    for (size_t i = 0; i < WORKER_MARKS_N; i++) mark_move(&queue->workers[i]);
    pthread_mutex_unlock(&queue->lock);
}

uint64_t queue_watch_mark(Queue *queue, Uuid id)
{
    return mark_read(queue, task_mark(queue, id));
}

int queue_watch_wait(Queue *queue, Uuid id, uint64_t mark, int64_t deadline_ms)
{
    return mark_wait(queue, task_mark(queue, id), mark, deadline_ms);
}

bool queue_follow_begin(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    bool room = queue->stats.followers < (uint64_t)queue->options.followers_max;
    queue->stats.followers += room;
    queue->stats.followers_refused += !room;
    pthread_mutex_unlock(&queue->lock);
    return room;
}

void queue_follow_end(Queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    assert(queue->stats.followers > 0);
    queue->stats.followers--;
    pthread_mutex_unlock(&queue->lock);
}

uint64_t queue_signal_mark(Queue *queue, Uuid worker_id)
{
    return mark_read(queue, worker_mark(queue, worker_id));
}

int queue_signal_wait(Queue *queue, Uuid worker_id, uint64_t mark, int64_t deadline_ms)
{
    return mark_wait(queue, worker_mark(queue, worker_id), mark, deadline_ms);
}

uint64_t queue_webhook_mark(Queue *queue)
{
    return mark_read(queue, &queue->webhooks);
}

int queue_webhook_wait(Queue *queue, uint64_t mark, int64_t deadline_ms)
{
    return mark_wait(queue, &queue->webhooks, mark, deadline_ms);
}

/* --- claimers --------------------------------------------------------------------------------- */

static Claimer *claimer_of(ListNode *node)
{
    return CONTAINER_OF(node, Claimer, waiter.node);
}

static void claimer_arrived(LoopMsg *msg)
{
    Claimer *c = CONTAINER_OF(msg, Claimer, waiter.msg);
    c->given = true;
    if (!c->found) op_done(&c->waiter.op, c->waiter.result);
    else if (c->giving) op_done(c->giving, 0);
}

static void claimer_found_arrived(LoopMsg *msg)
{
    Claimer *c = CONTAINER_OF(msg, Claimer, found_msg);
    c->found = true;
    op_done(&c->waiter.op, 0);
}

/* Makes the answer while the tasks become durable. Cannot be abandoned: they may be its own. */
static int claimer_given_wait(Claimer *c)
{
    ClaimAnswer *answer = c->job->claim->answer;
    bool made = !c->given && answer->make(answer->ctx, c->job->tasks, c->job->n);
    AnswerStage none = ANSWER_NONE;
    if (made) atomic_compare_exchange_strong(&c->answer, &none, ANSWER_READY);
    if (!c->given) {
        Op op;
        op_init(&op, NULL);
        c->giving = &op;
        (void)op_wait(&op, DEADLINE_NONE);
        c->giving = NULL;
    }
    answer->stands = made && c->waiter.result == CLAIMER_LOOKED;
    return c->waiter.result;
}

int claimer_wait(Queue *queue, const bool lanes[LANE_N_], uint64_t seen, int64_t deadline_ms,
                 ClaimJob *job)
{
    Claimer c = { .job = job, .found_msg = { .run = claimer_found_arrived } };
    waiter_init(&c.waiter, queue);
    c.waiter.msg.run = claimer_arrived;
    memcpy(c.lanes, lanes, sizeof c.lanes);
    int r = waiter_park(&c.waiter, &queue->claimers, &queue->ready_mark, seen,
                        &queue->stats.claimers, deadline_ms);
    return c.found ? claimer_given_wait(&c) : r;
}

Claimer *claimer_take(Queue *queue, Lane lane)
{
    Claimer *found = NULL;
    pthread_mutex_lock(&queue->lock);
    LIST_EACH (&queue->claimers, node) {
        if (!claimer_of(node)->lanes[lane]) continue;
        found = claimer_of(node);
        list_remove(node);
        break;
    }
    pthread_mutex_unlock(&queue->lock);
    return found;
}

ClaimJob *claimer_job(Claimer *claimer)
{
    return claimer->job;
}

void claimer_found(Claimer *claimer)
{
    const ClaimJob *job = claimer->job;
    if (job->n > 0 && job->claim->answer) loop_post(claimer->waiter.loop, &claimer->found_msg);
}

void claimer_give(Claimer *claimer, bool looked)
{
    const ClaimAnswer *answer = claimer->job->claim->answer;
    bool ready = atomic_exchange(&claimer->answer, ANSWER_LATE) == ANSWER_READY;
    claimer->waiter.result = looked ? CLAIMER_LOOKED : 0;
    if (looked) claim_looked(claimer->job); /* first: its worker may end a task as soon as told */
    if (looked && ready) answer->send(answer->ctx);
    loop_post(claimer->waiter.loop, &claimer->waiter.msg);
}

/* With the lock. */
static void claimers_wake_locked(Queue *queue, Lane lane, unsigned n)
{
    if (n == 0) return;
    queue->ready_mark++;
    LIST_EACH (&queue->claimers, node) {
        if (n == 0) return;
        if (!claimer_of(node)->lanes[lane]) continue;
        n--;
        waiter_wake(&claimer_of(node)->waiter);
    }
}

void claimers_wake(Queue *queue, Lane lane, unsigned n)
{
    pthread_mutex_lock(&queue->lock);
    claimers_wake_locked(queue, lane, n);
    pthread_mutex_unlock(&queue->lock);
}

void claimers_wake_all(Queue *queue)
{
    for (int lane = 0; lane < LANE_N_; lane++) claimers_wake(queue, (Lane)lane, UINT_MAX);
}

/* --- effects ---------------------------------------------------------------------------------- */

static void effects_count(Queue *queue, const Effects *e, int lane)
{
    QueueLaneStats *s = &queue->stats.lane[lane];
    s->queued += e->queued[lane];
    s->running += e->running[lane];
    s->claimed += e->claimed[lane];
    s->retried += e->retried[lane];
    s->lost += e->lost[lane];
    s->released += e->released[lane];
    s->ran += e->ran[lane];
    s->ran_ms += (uint64_t)e->ran_ms[lane];
    for (int state = 0; state < TASK_STATE_N_; state++) s->ended[state] += e->ended[lane][state];
}

static size_t touched_n(size_t n)
{
    return MIN(n, (size_t)TOUCHED_MAX);
}

void touch_task(Effects *effects, Uuid id)
{
    Touched *t = &effects->touched;
    if (t->tasks_n++ < TOUCHED_MAX) t->tasks[t->tasks_n - 1] = id;
}

void touch_worker(Effects *effects, Uuid id)
{
    Touched *t = &effects->touched;
    for (size_t i = 0; i < touched_n(t->workers_n); i++)
        if (uuid_eq(t->workers[i], id)) return;
    if (t->workers_n++ < TOUCHED_MAX) t->workers[t->workers_n - 1] = id;
}

/* With the lock. */
static void touched_wake(Queue *queue, const Touched *t)
{
    for (size_t i = 0; i < touched_n(t->tasks_n); i++) mark_move(task_mark(queue, t->tasks[i]));
    for (size_t i = 0; i < touched_n(t->workers_n); i++)
        mark_move(worker_mark(queue, t->workers[i]));
    for (size_t i = 0; t->tasks_n > TOUCHED_MAX && i < TASK_MARKS_N; i++)
        mark_move(&queue->tasks[i]);
    for (size_t i = 0; t->workers_n > TOUCHED_MAX && i < WORKER_MARKS_N; i++)
        mark_move(&queue->workers[i]);
}

/* With the lock. Attempts have ended: what waited for a limit may go. */
static void limited_wake(Queue *queue, unsigned ran)
{
    for (int lane = 0; lane < LANE_N_ && ran > 0; lane++) {
        if (!queue->limited[lane]) continue;
        queue->limited[lane] = false; /* the next look says it again */
        claimers_wake_locked(queue, (Lane)lane, ran);
    }
}

void queue_apply(Queue *queue, const Effects *effects)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.stale += effects->stale;
    queue->stats.session_waits += effects->session_waits;
    unsigned ran = 0;
    for (int lane = 0; lane < LANE_N_; lane++) {
        effects_count(queue, effects, lane);
        claimers_wake_locked(queue, (Lane)lane, effects->ready[lane]);
        ran += effects->ran[lane];
    }
    limited_wake(queue, ran);
    if (effects->webhook) mark_move(&queue->webhooks);
    touched_wake(queue, &effects->touched);
    pthread_mutex_unlock(&queue->lock);
}

void queue_submitted(Queue *queue, Lane lane, bool claimed)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.lane[lane].submitted++;
    claimers_wake_locked(queue, lane, claimed ? 0 : 1);
    pthread_mutex_unlock(&queue->lock);
}

int queue_reserve(Queue *queue, Lane lane)
{
    assert(lane < LANE_N_);
    int64_t max = queue->options.queued_max[lane];
    pthread_mutex_lock(&queue->lock);
    QueueLaneStats *s = &queue->stats.lane[lane];
    bool fits = s->queued < max;
    if (fits) s->queued++;
    pthread_mutex_unlock(&queue->lock);
    if (fits) return 0;
    return diag_set(QUEUE_E_FULL, "the %s lane is full: %" PRId64 " tasks are queued",
                    lane_name(lane), max);
}

void queue_refused(Queue *queue, Lane lane, int r)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.lane[lane].refused_full += r == QUEUE_E_FULL;
    queue->stats.refused_disk += r == -ENOSPC;
    pthread_mutex_unlock(&queue->lock);
}

void queue_count(Queue *queue, uint64_t *counter)
{
    pthread_mutex_lock(&queue->lock);
    ++*counter;
    pthread_mutex_unlock(&queue->lock);
}

void queue_unreserve(Queue *queue, Lane lane)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.lane[lane].queued--;
    pthread_mutex_unlock(&queue->lock);
}
