/* Questions to people: asked, answered, left unanswered. */
#include "base/diag.h"
#include "base/log.h"
#include "queue/queue_private.h"

#define ARENA_MAX ((size_t)16 << 20)
#define OVERDUE_MAX 64 /* a tick */

/* --- asking ----------------------------------------------------------------------------------- */

typedef struct {
    const Queue *queue;
    TaskRef task;
    const EscalationAsk *ask;
    int64_t now_ms;
    Arena *arena;
    EscalationReply reply;
    bool asked; /* a new question */
} AskJob;

static EscalationReply reply_of(const Escalation *e)
{
    bool fallback = e->state == ESCALATION_DEFAULTED;
    return (EscalationReply){ .state = e->state,
                              .answer = fallback ? e->fallback : e->answer,
                              .by = e->answered_by };
}

static int ask_new(Db *db, AskJob *job, int64_t task_seq)
{
    int64_t all, pending;
    int r = escalation_counts(db, task_seq, &all, &pending);
    if (r != 0) return r;
    if (all >= ESCALATIONS_MAX)
        return diag_set(QUEUE_E_ESCALATIONS, "the task has asked %d times already",
                        ESCALATIONS_MAX);
    Escalation e = { .task_seq = task_seq,
                     .occurrence = job->ask->occurrence,
                     .question = job->ask->question,
                     .context = job->ask->context,
                     .fallback = job->ask->fallback,
                     .asked_at_ms = job->now_ms };
    memcpy(e.key, job->ask->key, sizeof e.key);
    if (__builtin_add_overflow(job->now_ms, job->ask->timeout_ms, &e.expires_at_ms))
        e.expires_at_ms = INT64_MAX;
    job->reply = (EscalationReply){ .state = ESCALATION_PENDING };
    job->asked = true;
    return escalation_insert(db, &e);
}

/* No person is asked by a shadow: it gets what production's task was answered, else its own default
 * answer, else nobody's (EXPIRED). That it has asked is counted. */
static int ask_in_shadow(Db *db, AskJob *job, int64_t task_seq)
{
    Task task;
    TaskHead twin;
    Escalation e;
    job->reply = (EscalationReply){ .state = ESCALATION_EXPIRED };
    if (!str_empty(job->ask->fallback)) {
        job->reply.state = ESCALATION_DEFAULTED;
        job->reply.answer = job->ask->fallback;
    }
    int r = task_get_by_seq(db, task_seq, 0, job->arena, &task);
    if (r == 0) r = task_count_escalation(db, task_seq);
    if (r == 0) r = task_head(db, task.shadow_of, &twin);
    if (r == 0)
        r = escalation_find(db, twin.seq, job->ask->key, job->ask->occurrence, job->arena, &e);
    if (r == 0 && (e.state == ESCALATION_ANSWERED || e.state == ESCALATION_DEFAULTED))
        job->reply = reply_of(&e);
    return r == -ENOENT ? 0 : r;
}

static int ask_job(Db *db, void *arg)
{
    AskJob *job = arg;
    TaskHead head;
    Escalation e;
    job->asked = false;
    job->now_ms = queue_now_ms(job->queue);
    int r = task_held(db, job->task, &head);
    if (r == 0 && head.shadow) return ask_in_shadow(db, job, head.seq);
    if (r == 0)
        r = escalation_find(db, head.seq, job->ask->key, job->ask->occurrence, job->arena, &e);
    if (r == 0) job->reply = reply_of(&e);
    return r == -ENOENT ? ask_new(db, job, head.seq) : r;
}

static void count(Queue *queue, EscalationState state)
{
    pthread_mutex_lock(&queue->lock);
    queue->stats.escalations[state]++;
    pthread_mutex_unlock(&queue->lock);
}

int queue_escalate_wait(Queue *queue, TaskRef task, const EscalationAsk *ask, Arena *arena,
                        EscalationReply *ret)
{
    assert(ask->question.len > 0 && ask->timeout_ms > 0 && ask->occurrence > 0);
    AskJob job = { .queue = queue, .task = task, .ask = ask, .arena = arena };
    int r = store_call_wait(queue->store, ask_job, &job);
    if (r == QUEUE_E_STALE) queue_apply(queue, &(Effects){ .stale = 1 });
    if (r == QUEUE_E_ESCALATIONS) queue_count(queue, &queue->stats.escalations_refused);
    if (r != 0) return r;
    if (job.asked) count(queue, ESCALATION_PENDING);
    *ret = job.reply;
    return 0;
}

/* --- what becomes of the task ----------------------------------------------------------------- */

/* The task goes on, with the time it has left: that in which it waited is not counted. */
static int resume(Db *db, const TaskHead *head, int64_t now_ms, Effects *effects)
{
    int r = rollup_news_add(db, head->seq, -1, NEWS_TASK | NEWS_SCORE);
    if (r == 0) r = task_resume(db, head->seq, now_ms);
    if (r != 0) return r;
    effects->queued[head->lane]++;
    effects->ready[head->lane]++;
    return 0;
}

/* --- answering -------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    Uuid id;
    Str answer, by;
    int64_t now_ms;
    TaskHead head;
    Effects effects;
} ResolveJob;

static int resolve_job(Db *db, void *arg)
{
    ResolveJob *job = arg;
    CLEANUP(arena_deinit) Arena arena;
    Escalation e;
    arena_init(&arena, ARENA_MAX);
    job->effects = (Effects){ .stale = 0 };
    job->now_ms = queue_now_ms(job->queue);
    int r = task_head(db, job->id, &job->head);
    if (r == -ENOENT) return diag_set(QUEUE_E_NO_TASK, "there is no such task");
    if (r == 0) r = escalation_pending(db, job->head.seq, &arena, &e);
    if (r == -ENOENT || (r == 0 && task_state_ended(job->head.state)))
        return diag_set(QUEUE_E_STATE, "the task asks nothing: it is %s",
                        task_state_name(job->head.state));
    if (r == 0)
        r = escalation_settle(db, e.id, ESCALATION_ANSWERED, job->answer, job->by, job->now_ms);
    EscalationEffect effect = escalation_effect(job->head.state, ESCALATION_ANSWERED);
    if (r != 0 || effect != ESCALATION_RESUMES) return r; /* its attempt is about to ask */
    return resume(db, &job->head, job->now_ms, &job->effects);
}

int queue_resolve_wait(Queue *queue, Uuid id, Str answer, Str by, TaskState *ret_state)
{
    assert(answer.len > 0);
    ResolveJob job = { .queue = queue, .id = id, .answer = answer, .by = by };
    int r = store_call_wait(queue->store, resolve_job, &job);
    if (r != 0) return r;
    queue_apply(queue, &job.effects);
    queue_task_changed(queue, id);
    count(queue, ESCALATION_ANSWERED);
    *ret_state = job.head.state == TASK_ESCALATED ? TASK_QUEUED : job.head.state;
    return 0;
}

/* --- nobody answers --------------------------------------------------------------------------- */

typedef struct {
    const Queue *queue;
    int64_t now_ms;
    unsigned ended[ESCALATION_STATE_N_];
    Uuid ids[OVERDUE_MAX];
    size_t ids_n;
    Effects effects;
} OverdueJob;

static int overdue_one(Db *db, OverdueJob *job, const Escalation *e, const TaskHead *head)
{
    EscalationState state = escalation_overtime(head->state, e->fallback.len > 0);
    int r = escalation_settle(db, e->id, state, STR_NULL, STR_NULL, job->now_ms);
    if (r != 0) return r;
    job->ended[state]++;
    job->ids[job->ids_n++] = head->id;
    EscalationEffect effect = escalation_effect(head->state, state);
    if (effect == ESCALATION_CHANGES_NOTHING) return 0; /* an attempt that asks again is told */
    if (effect == ESCALATION_RESUMES) return resume(db, head, job->now_ms, &job->effects);
    return task_conclude_idle(job->queue, db, head, TASK_FAILED, STR("escalation_unanswered"),
                              STR_NULL, job->now_ms, &job->effects);
}

static int overdue_job(Db *db, void *arg)
{
    OverdueJob *job = arg;
    *job = (OverdueJob){ .queue = job->queue, .now_ms = queue_now_ms(job->queue) };
    while (job->ids_n < OVERDUE_MAX) {
        CLEANUP(arena_deinit) Arena arena;
        Escalation e;
        TaskHead head;
        arena_init(&arena, ARENA_MAX);
        int r = escalation_overdue(db, job->now_ms, &arena, &e);
        if (r == -ENOENT) return 0;
        if (r == 0) r = task_head_by_seq(db, e.task_seq, &head);
        if (r == 0) r = overdue_one(db, job, &e, &head);
        if (r != 0) return r;
    }
    return 0;
}

int escalations_tick_wait(Queue *queue)
{
    CLEANUP(freep) OverdueJob *job = xcalloc(1, sizeof *job);
    job->queue = queue;
    int r = store_call_wait(queue->store, overdue_job, job);
    if (r != 0) return r;
    queue_apply(queue, &job->effects);
    for (size_t i = 0; i < job->ids_n; i++) queue_task_changed(queue, job->ids[i]);
    pthread_mutex_lock(&queue->lock);
    for (int i = 0; i < ESCALATION_STATE_N_; i++) queue->stats.escalations[i] += job->ended[i];
    pthread_mutex_unlock(&queue->lock);
    return 0;
}
