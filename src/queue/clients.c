/* What clients ask for: submit, cancel, retry, read, wait. */
#include "base/diag.h"
#include "codec/time_text.h"
#include "logic/attempt.h"
#include "logic/flag.h"
#include "queue/queue_private.h"
#include "store/family_store.h"
#include "store/flag_store.h"
#include "store/idempotency_store.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define SMALL_ARENA_MAX 65536
#define SWITCH_ARENA_MAX (16 * FLAG_TEXT_BYTES_MAX)

/* --- submit ----------------------------------------------------------------------------------- */

static int no_agent(Str agent)
{
    return diag_set(QUEUE_E_NO_AGENT, "there is no agent \"%.*s\"", STR_ARG(agent));
}

/* The agent named, or the only one there is, into the summary. */
static int submit_agent(Db *db, SubmitJob *job, Arena *arena)
{
    Str agent = job->task->agent;
    if (str_empty(agent)) {
        int r = agent_only(db, arena, &agent);
        if (r == -ENOENT) return diag_set(QUEUE_E_NO_AGENT, "no agent is deployed");
        if (r == AGENT_E_SEVERAL)
            return diag_set(QUEUE_E_AGENT_NEEDED, "\"agent\" is needed: there are several");
        if (r != 0) return r;
    }
    bool fits = str_copy(job->summary.agent, sizeof job->summary.agent, agent);
    return fits ? 0 : no_agent(agent);
}

/* The version asked for, or the one the agent routes to, into the summary. */
static int submit_version(Db *db, SubmitJob *job, Arena *arena)
{
    Str agent = str_of(job->summary.agent), id = job->task->version_id;
    bool given = !str_empty(id);
    int r = given ? version_check(db, id, agent) : routing_get(db, agent, arena, &id);
    if (r < 0 && r != -ENOENT) return r;
    if (r == 0 && str_copy(job->summary.version_id, sizeof job->summary.version_id, id)) return 0;
    r = agent_check(db, agent);
    if (r == -ENOENT) return no_agent(agent);
    if (r != 0) return r;
    if (!given)
        return diag_set(QUEUE_E_NO_VERSION, "agent \"%s\" has no deployed version",
                        job->summary.agent);
    return diag_set(QUEUE_E_NO_VERSION, "agent \"%s\" has no version %.*s", job->summary.agent,
                    STR_ARG(id));
}

/* The task that the key led to before, into the summary. Returns 0, -ENOENT (a new key),
 * QUEUE_E_KEY_REUSED, -errno. */
static int submit_known(Db *db, SubmitJob *job, Arena *arena)
{
    const TaskNew *new = job->task;
    Task task;
    bool same = false;
    if (str_empty(new->idempotency_key)) return -ENOENT;
    int r = idempotency_get(db, new->tenant_id, new->idempotency_key, new->fingerprint,
                            &job->summary.id, &same);
    if (r != 0) return r;
    r = task_get(db, job->summary.id, 0, arena, &task);
    if (r == -ENOENT) { /* it has had its time, and the key with it */
        r = idempotency_forget(db, new->tenant_id, new->idempotency_key);
        return r == 0 ? -ENOENT : r;
    }
    if (r != 0) return r;
    if (!same)
        return diag_set(QUEUE_E_KEY_REUSED, "the idempotency key was used for another request");
    job->summary.state = task.state;
    job->summary.lane = task.lane;
    job->summary.existing = true;
    str_copy(job->summary.agent, sizeof job->summary.agent, task.agent);
    str_copy(job->summary.version_id, sizeof job->summary.version_id, task.version_id);
    return 0;
}

static Uuid new_id(Queue *queue, int64_t now_ms)
{
    uint8_t random[UUID7_RANDOM_BYTES];
    entropy_fill(random, sizeof random);
    return uuid7_next(&queue->ids, now_ms, random);
}

/* The arm of an active rollout that the task belongs to; canary: its version into the summary. */
static int submit_route(Db *db, SubmitJob *job)
{
    const TaskNew *new = job->task;
    RouteBefore before;
    job->summary.id = new_id(job->queue, job->now_ms);
    if (!str_empty(new->version_id)) return 0; /* pinned: in no statistics */
    int r = rollout_routing(db, str_of(job->summary.agent), &job->rollout);
    if (r == -ENOENT || (r == 0 && job->rollout.weight_bp == 0)) {
        job->rollout.seq = 0;
        job->plain = true;
        return 0;
    }
    if (r != 0) return r;
    RouteWho who = { .session = new->session_id,
                     .user = new->user_id,
                     .tenant = new->tenant_id,
                     .task = str_of(uuid_text(job->summary.id, job->id_text)) };
    RolloutUnit *unit = &job->unit;
    unit->unit = route_unit(&who, job->rollout.unit, &unit->kind, job->unit_text);
    r = rollout_unit_get(db, job->rollout.seq, unit->kind, unit->unit, &before);
    if (r == 0 && !before.known && unit->kind == UNIT_SESSION)
        r = rollout_session_lives(db, new->tenant_id, str_of(job->summary.agent), new->session_id,
                                  job->now_ms - ROUTE_LIVE_MS, &before.live);
    if (r != 0) return r;
    RouteRule rule = { .salt = str_of(job->rollout.id), .weight_bp = job->rollout.weight_bp };
    RouteDecision d = route_decide(&rule, unit->kind, unit->unit, &before);
    unit->arm = d.arm;
    unit->pi = d.pi;
    unit->counts = d.counts;
    job->unit_is_new = d.persist;
    if (d.arm == ARM_CANARY)
        memcpy(job->summary.version_id, job->rollout.version_id, sizeof(job->rollout.version_id));
    return 0;
}

/* What a routed task leaves in its rollout. */
static int submit_routed(Db *db, SubmitJob *job, const TaskRow *row, int64_t seq)
{
    if (!str_empty(job->task->version_id)) return rollout_mark_task(db, seq, ROLLOUT_SEQ_PINNED);
    if (job->rollout.seq == 0) return 0;
    job->unit.task_seq = seq;
    /* in order of assignment, though a clock goes back: before a cursor it would not be seen */
    job->unit.eligible_ms = MAX(row->ready_at_ms, job->rollout.seen_ms);
    int r = rollout_mark_task(db, seq, job->rollout.seq);
    if (r == 0 && job->unit_is_new) r = rollout_unit_put(db, job->rollout.seq, &job->unit);
    return r;
}

/* Tasks of a session go one after another, but for those that a task has started itself: it may
 * wait for them. */
static int submit_session(Db *db, const SubmitJob *job, int64_t *ret_max)
{
    const TaskNew *new = job->task;
    AgentConcurrency own = AGENT_CONCURRENCY_DEFAULT;
    *ret_max = 0;
    if (str_empty(new->session_id) || !uuid_is_zero(new->parent_id)) return 0;
    if (!uuid_is_zero(new->shadow_of)) return 0;
    int r = agent_concurrency(db, str_of(job->summary.agent), &own);
    int64_t max = job->queue->options.session_tasks_max;
    if (own.per_session >= 0) max = own.per_session;
    *ret_max = max == QUEUE_ANY ? 0 : max;
    return r;
}

/* What is inserted, and that it is queued into the summary. */
static TaskRow submit_row(SubmitJob *job)
{
    const TaskNew *new = job->task;
    TaskSummary *s = &job->summary;
    s->state = TASK_QUEUED;
    s->lane = new->lane;
    return (TaskRow){
        .id = s->id,
        .parent_id = new->parent_id,
        .shadow_of = new->shadow_of,
        .agent = str_of(s->agent),
        .version_id = str_of(s->version_id),
        .lane = new->lane,
        .created_at_ms = job->now_ms,
        .ready_at_ms = MAX(new->run_at_ms, job->now_ms),
        .time_limit_ms = new->time_limit_ms,
        .due_at_ms = new->due_at_ms,
        .input = new->input,
        .metadata = new->metadata,
        .limits = new->limits,
        .session_id = new->session_id,
        .user_id = new->user_id,
        .tenant_id = new->tenant_id,
        .webhook_url = new->webhook_url,
        .traceparent = new->traceparent,
    };
}

static int submit_keep_key(Db *db, const SubmitJob *job)
{
    const TaskNew *new = job->task;
    if (str_empty(new->idempotency_key)) return 0;
    int r = idempotency_insert(db, new->tenant_id, new->idempotency_key, new->fingerprint,
                               job->summary.id, job->now_ms);
    assert(r != DB_E_CONFLICT); /* it was looked for in this transaction */
    return r;
}

int submit_insert(Db *db, SubmitJob *job)
{
    TaskRow row = submit_row(job);
    int r = submit_session(db, job, &row.session_max);
    if (r == 0) r = task_insert(db, &row, &job->seq);
    if (r == 0) r = submit_routed(db, job, &row, job->seq);
    return r == 0 ? submit_keep_key(db, job) : r;
}

/* A switch that cannot be read (of a newer program) is left alone: the workers see it too. */
static int submit_switch(Db *db, SubmitJob *job)
{
    FlagRow row;
    Flag flag;
    FlagFault fault;
    const Json *definition;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, SWITCH_ARENA_MAX);
    int r = flag_get(db, STR("tasks"), &arena, &row);
    if (r == -ENOENT) return 0;
    job->plain = false;
    if (r != 0) return r;
    r = json_parse(&arena, row.definition, NULL, &definition, NULL);
    if (r == 0) r = flag_parse(&arena, row.key, definition, &flag, &fault);
    if (r != 0) return r == -ENOMEM ? r : 0;
    FlagContext context = { .agent = str_of(job->summary.agent),
                            .version_id = str_of(job->summary.version_id),
                            .tenant_id = job->task->tenant_id,
                            .user_id = job->task->user_id,
                            .session_id = job->task->session_id };
    FlagSet set = { &flag, 1 };
    if (flags_tasks_on(&set, &context)) return 0;
    return diag_set(QUEUE_E_SWITCHED_OFF, "the flag \"tasks\" has switched such tasks off");
}

int submit_choose(Db *db, SubmitJob *job, Arena *arena)
{
    int r = submit_agent(db, job, arena);
    if (r == 0) r = submit_version(db, job, arena);
    if (r == 0) r = submit_route(db, job);
    return r == 0 ? submit_switch(db, job) : r;
}

/* As submit_choose, where an earlier job of the transaction has found what this one would. */
static int submit_choose_like(Db *db, SubmitJob *job, const SubmitJob *like, Arena *arena)
{
    const TaskNew *new = job->task;
    if (!like || !like->plain || !str_empty(new->version_id) ||
        !str_eq(like->task->agent, new->agent))
        return submit_choose(db, job, arena);
    memcpy(job->summary.agent, like->summary.agent, sizeof job->summary.agent);
    memcpy(job->summary.version_id, like->summary.version_id, sizeof job->summary.version_id);
    job->summary.id = new_id(job->queue, job->now_ms);
    job->plain = true;
    return 0;
}

static int submit_in_time(const SubmitJob *job)
{
    int64_t due_ms = job->task->due_at_ms;
    char due[TIME_TEXT_MAX], now[TIME_TEXT_MAX];
    if (due_ms == 0 || due_ms > job->now_ms) return 0;
    return diag_set(QUEUE_E_LATE, "the deadline %s has passed (it is %s): give a later one",
                    time_format(due_ms, due), time_format(job->now_ms, now));
}

/* All but the task itself, unless that exists. like: an earlier job of the transaction, or NULL. */
static int submit_begin(Db *db, SubmitJob *job, const SubmitJob *like)
{
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, SMALL_ARENA_MAX);
    job->summary = (TaskSummary){ 0 };
    job->plain = job->looked = job->claimed = false;
    job->seq = 0;
    job->now_ms = queue_now_ms(
        job->queue); /* here: in the order of commits, however long it waited */
    int r = submit_known(db, job, &arena);
    if (r != -ENOENT) return r;
    if ((r = submit_in_time(job)) != 0) return r;
    return submit_choose_like(db, job, like, &arena);
}

static int submit_job(Db *db, void *arg)
{
    SubmitJob *job = arg;
    int r = submit_begin(db, job, NULL);
    return r == 0 && !job->summary.existing ? submit_insert(db, job) : r;
}

#define TOGETHER_MAX 64

/* Tasks that are inserted by one statement. */
typedef struct {
    TaskRow rows[TOGETHER_MAX];
    SubmitJob *jobs[TOGETHER_MAX];
    size_t n;
} Together;

static int together_insert(Db *db, Together *t)
{
    int64_t seqs[TOGETHER_MAX];
    int r = task_insert_many(db, t->rows, t->n, seqs);
    for (size_t i = 0; i < t->n && r == 0; i++) t->jobs[i]->seq = seqs[i];
    t->n = 0;
    return r;
}

/* At once, or later with others, where nothing but its row has to be read or written for it. In the
 * order of submission in any case. */
static int together_add(Db *db, Together *t, SubmitJob *job)
{
    const TaskNew *new = job->task;
    bool simple = job->plain && str_empty(new->session_id) && str_empty(new->idempotency_key);
    int r = simple && t->n < TOGETHER_MAX ? 0 : together_insert(db, t);
    if (r != 0) return r;
    if (!simple) return submit_insert(db, job);
    t->rows[t->n] = submit_row(job);
    t->jobs[t->n++] = job;
    return 0;
}

/* Jobs that have made tasks are in the order of these. */
static void submit_claimed(void *const *args, size_t n, const ClaimJob *claim)
{
    for (size_t i = 0; i < claim->n; i++)
        for (size_t k = 0; k < n; k++) {
            SubmitJob *job = args[k];
            if (job->seq != claim->tasks[i].seq) continue;
            job->claimed = true;
            break;
        }
}

/* Who waits for a task gets it in the transaction that makes it durable. Each look takes as many as
 * it has room for: the first that finds nothing is the last. */
static int submit_give(Db *db, void *const *args, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        SubmitJob *job = args[i];
        if (job->seq == 0 || job->claimed || job->task->run_at_ms > job->now_ms) continue;
        if (!job->claimer) job->claimer = claimer_take(job->queue, job->summary.lane);
        if (!job->claimer) continue;
        ClaimJob *claim = claimer_job(job->claimer);
        int r = claim_look(db, claim);
        if (r != 0) return r;
        job->looked = true;
        submit_claimed(args, n, claim);
    }
    return 0;
}

/* Nothing but its own row decides where it stands. */
static bool submit_is_plain(const SubmitJob *job)
{
    const TaskNew *new = job->task;
    bool own = uuid_is_zero(new->parent_id) && uuid_is_zero(new->shadow_of);
    return job->plain && own && str_empty(new->session_id) && new->run_at_ms <= job->now_ms;
}

/* A task that somebody waits for, and nothing else, is inserted as started. Returns 0 or -errno; a
 * seq of 0: it was not. */
static int submit_start(Db *db, SubmitJob *job)
{
    if (!submit_is_plain(job)) return 0;
    job->claimer = claimer_take(job->queue, job->task->lane);
    if (!job->claimer) return 0;
    TaskRow row = submit_row(job);
    int r = claim_new(db, claimer_job(job->claimer), &row, &job->seq);
    if (r != 0) return r == -ENOENT ? 0 : r;
    job->looked = job->claimed = true;
    return submit_keep_key(db, job);
}

/* Where anything is out of the ordinary all is undone, and each is submitted by itself. */
static int submit_jobs(Db *db, void *const *args, size_t n)
{
    Together together; /* on a store thread's stack, not a fiber's */
    together.n = 0;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        SubmitJob *job = args[i];
        r = submit_begin(db, job, i > 0 ? args[i - 1] : NULL);
        if (r == 0 && !job->summary.existing && n == 1) r = submit_start(db, job);
        if (r == 0 && !job->summary.existing && job->seq == 0) r = together_add(db, &together, job);
    }
    if (r == 0) r = together_insert(db, &together);
    return r == 0 ? submit_give(db, args, n) : r;
}

/* It costs the thread that commits a system call: when the disk is at work. With many jobs, commits
 * are what takes time. */
static void submit_meanwhile(void *arg)
{
    const SubmitJob *job = arg;
    if (job->claimer && job->looked) claimer_found(job->claimer);
}

/* Before the answer to who submitted: the worker is not to wait for that. */
static void submit_done(void *arg, int result)
{
    const SubmitJob *job = arg;
    if (job->claimer) claimer_give(job->claimer, result == 0 && job->looked);
}

/* Whether another task may be taken in now; a place in its lane is then taken. */
static int submit_admit_wait(Queue *queue, const TaskNew *task)
{
    int r = queue_room(queue);
    if (r == 0) r = queue_calendar_wait(queue);
    return r == 0 ? queue_reserve(queue, task->lane) : r;
}

static int known_job(Db *db, void *arg)
{
    SubmitJob *job = arg;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, SMALL_ARENA_MAX);
    job->summary = (TaskSummary){ 0 };
    return submit_known(db, job, &arena);
}

/* Where no task is taken in now: one that was before is answered all the same, for its client must
 * learn that it was. Returns what submit_known does, and the refusal for a new key. */
static int submit_refused_wait(SubmitJob *job, int refusal)
{
    Diag why = { 0 };
    if (str_empty(job->task->idempotency_key)) return refusal;
    str_copy(why.text, sizeof why.text, str_of(diag_text()));
    int r = store_call_wait(job->queue->store, known_job, job);
    return r == 0 || r == QUEUE_E_KEY_REUSED ? r : diag_set(refusal, "%s", why.text);
}

int queue_submit_wait(Queue *queue, const TaskNew *task, TaskSummary *ret)
{
    static const StoreMany many = {
        .one = submit_job, .all = submit_jobs, .meanwhile = submit_meanwhile, .done = submit_done
    };
    assert(task->lane < LANE_N_ && task->time_limit_ms >= 0 && task->due_at_ms >= 0);
    assert(task->idempotency_key.len <= IDEMPOTENCY_KEY_BYTES_MAX);
    SubmitJob job = { .queue = queue, .task = task };
    int refusal = submit_admit_wait(queue, task);
    if (refusal != 0) {
        int known = submit_refused_wait(&job, refusal);
        if (known == 0) *ret = job.summary;
        if (known == refusal) queue_refused(queue, task->lane, refusal);
        return known;
    }
    int r = store_many_wait(queue->store, &many, &job);
    if (r != 0 || job.summary.existing) queue_unreserve(queue, task->lane);
    if (r != 0) return r;
    *ret = job.summary;
    if (!job.summary.existing) queue_submitted(queue, task->lane, job.claimed);
    return 0;
}

/* What the disk has left is for tasks that are there. */
int queue_room(Queue *queue)
{
    if (!store_room_low(queue->store)) return 0;
    return diag_set(-ENOSPC, "the disk is nearly full: no new tasks");
}

/* --- cancel and retry ------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    Uuid id;
    Str by;
    int64_t now_ms;
    TaskHead head; /* as it was before */
    bool fresh;    /* retry: nothing is replayed */
    bool reserved; /* retry: a place in the lane is taken */
    Effects effects;
} ChangeJob;

static int no_task(Uuid id)
{
    char text[UUID_TEXT_MAX];
    return diag_set(QUEUE_E_NO_TASK, "there is no task %s", uuid_text(id, text));
}

static int change_head(Db *db, ChangeJob *job)
{
    int r = task_head(db, job->id, &job->head);
    return r == -ENOENT ? no_task(job->id) : r;
}

int task_cancel_for(const Queue *queue, Db *db, const TaskHead *head, Str by, int64_t now_ms,
                    Effects *effects)
{
    CancelEffect effect = task_cancel(head->state);
    if (effect == CANCEL_REFUSED)
        return diag_set(QUEUE_E_STATE, "the task has ended: %s", task_state_name(head->state));
    touch_task(effects, head->id);
    if (effect != CANCEL_MARKS)
        return task_conclude_idle(queue, db, head, TASK_CANCELED, STR("canceled"), by, now_ms,
                                  effects);
    touch_worker(effects, head->worker_id);
    int r = task_request_cancel(db, head->seq, by);
    if (r != 0 || head->children == 0) return r;
    return family_stop(queue, db, head, by, now_ms, effects);
}

static int cancel_job(Db *db, void *arg)
{
    ChangeJob *job = arg;
    job->now_ms = queue_now_ms(job->queue);
    job->effects = (Effects){ 0 };
    int r = change_head(db, job);
    if (r != 0) return r;
    return task_cancel_for(job->queue, db, &job->head, job->by, job->now_ms, &job->effects);
}

int queue_cancel_wait(Queue *queue, Uuid id, Str by, TaskState *ret_state)
{
    ChangeJob job = { .queue = queue, .id = id, .by = by };
    int r = store_call_wait(queue->store, cancel_job, &job);
    if (r != 0) return r;
    queue_apply(queue, &job.effects);
    *ret_state = job.head.state == TASK_RUNNING ? TASK_RUNNING : TASK_CANCELED;
    return 0;
}

/* One task that is queued again, inside a job. */
typedef struct {
    Queue *queue;
    int64_t now_ms;
    bool fresh;
    bool reserved; /* out: a place in its lane is taken */
    Effects *effects;
} Retry;

/* What goes on below a task that asks a person is found again, or, by a fresh one, stopped. */
static int retry_family(Db *db, const Retry *retry, const TaskHead *head)
{
    int r = 0;
    if (head->children == 0) return 0;
    if (retry->fresh)
        r = family_stop(retry->queue, db, head, STR("parent"), retry->now_ms, retry->effects);
    return r == 0 ? family_forget(db, head->seq, retry->fresh) : r;
}

/* Returns 0 or QUEUE_E_STATE with diag. */
static int retry_may(const TaskHead *head)
{
    if (!task_may_retry(head->state))
        return diag_set(QUEUE_E_STATE, "a task that is %s cannot be retried",
                        task_state_name(head->state));
    if (!uuid_is_zero(head->parent_id))
        return diag_set(QUEUE_E_STATE, "a sub-agent's task is tried again with the task that "
                                       "started it");
    if (head->shadow)
        return diag_set(QUEUE_E_STATE, "a task that repeats another beside production is not "
                                       "tried again by hand");
    return 0;
}

/* What is refused has changed nothing. */
static int retry_one(Db *db, Retry *retry, const TaskHead *head)
{
    bool moved;
    int r = retry_may(head);
    if (r == 0) r = queue_reserve(retry->queue, head->lane);
    if (r != 0) return r;
    retry->reserved = true;
    r = rollout_rebind_retried(db, head->seq, &moved);
    if (r != 0) return r;
    retry->fresh |= moved; /* another version is given nothing of what this one was answered */
    if (retry->fresh) r = journal_retire(db, head->seq);
    if (r == 0) r = rollup_news_add(db, head->seq, -1, NEWS_TASK | NEWS_SCORE);
    if (r == 0) r = score_forget(db, head->seq);
    if (r == 0) r = retry_family(db, retry, head);
    if (r == 0) r = escalation_retire(db, head->seq, retry->fresh);
    if (r == 0) r = task_restart(db, head->seq, retry->now_ms);
    if (r != 0) return r;
    retry->effects->ready[head->lane]++;
    touch_task(retry->effects, head->id);
    return 0;
}

static int retry_job(Db *db, void *arg)
{
    ChangeJob *job = arg;
    job->effects = (Effects){ 0 };
    int r = change_head(db, job);
    if (r != 0) return r;
    Retry retry = { .queue = job->queue,
                    .now_ms = queue_now_ms(job->queue),
                    .fresh = job->fresh,
                    .effects = &job->effects };
    r = retry_one(db, &retry, &job->head);
    job->reserved = retry.reserved;
    return r;
}

int queue_retry_wait(Queue *queue, Uuid id, bool fresh)
{
    ChangeJob job = { .queue = queue, .id = id, .fresh = fresh };
    int r = queue_room(queue);
    if (r == 0) r = store_call_wait(queue->store, retry_job, &job);
    if (r != 0 && job.reserved) queue_unreserve(queue, job.head.lane);
    if (r != 0) queue_refused(queue, job.head.lane, r);
    if (r == 0) queue_apply(queue, &job.effects);
    return r;
}

/* --- many of them ----------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    const RetryMany *ask;
    DeadTasks dead;
    int64_t reserved[LANE_N_];
    Effects effects;
    RetriedMany ret;
} ManyJob;

static int many_look(Db *db, void *arg)
{
    ManyJob *job = arg;
    const RetryMany *ask = job->ask;
    return task_dead(db, &ask->filter, ask->below_seq, (size_t)MIN(ask->max, DEAD_TASKS_MAX),
                     &job->dead);
}

static void many_unreserve(ManyJob *job)
{
    for (int lane = 0; lane < LANE_N_; lane++)
        for (; job->reserved[lane] > 0; job->reserved[lane]--)
            queue_unreserve(job->queue, (Lane)lane);
}

/* One that finds no place is left, and the first of them is where to look again. */
static void many_leave(ManyJob *job, const TaskHead *head)
{
    job->ret.full_lanes |= 1u << head->lane;
    job->ret.left_below_seq = MAX(job->ret.left_below_seq, head->seq + 1);
}

static int many_one(Db *db, ManyJob *job, int64_t seq)
{
    TaskHead head = { .seq = seq };
    Retry retry = { .queue = job->queue,
                    .now_ms = queue_now_ms(job->queue),
                    .fresh = job->ask->fresh,
                    .effects = &job->effects };
    int r = task_head_by_seq(db, seq, &head);
    if (r == 0) r = job->ask->dry_run ? retry_may(&head) : retry_one(db, &retry, &head);
    job->reserved[head.lane] += retry.reserved;
    job->ret.retried += r == 0;
    job->ret.skipped += r == QUEUE_E_STATE || r == -ENOENT;
    if (r == QUEUE_E_FULL) many_leave(job, &head);
    return r > 0 || r == -ENOENT ? 0 : r;
}

static int many_job(Db *db, void *arg)
{
    ManyJob *job = arg;
    int r = 0;
    many_unreserve(job); /* of a run that was undone */
    job->effects = (Effects){ 0 };
    job->ret = (RetriedMany){ .below_seq = job->dead.below_seq };
    for (size_t i = 0; i < job->dead.n && r == 0; i++) r = many_one(db, job, job->dead.seqs[i]);
    return r;
}

/* Says so, and counts it once a part and lane. */
static void many_full(ManyJob *job)
{
    for (int lane = LANE_N_ - 1; lane >= 0; lane--) {
        if (!(job->ret.full_lanes >> lane & 1)) continue;
        queue_refused(job->queue, (Lane)lane, QUEUE_E_FULL);
        (void)diag_set(QUEUE_E_FULL, "the %s lane is full", lane_name((Lane)lane));
    }
}

int queue_retry_many_wait(Queue *queue, const RetryMany *ask, RetriedMany *ret)
{
    assert(ask->max >= 1);
    ManyJob job = { .queue = queue, .ask = ask };
    int r = ask->dry_run ? 0 : queue_room(queue);
    if (r == 0) r = store_read_wait(queue->store, many_look, &job);
    if (r == 0)
        r = ask->dry_run ? store_read_wait(queue->store, many_job, &job)
                         : store_call_wait(queue->store, many_job, &job);
    if (r != 0) {
        many_unreserve(&job);
        queue_refused(queue, LANE_NORMAL, r);
        return r;
    }
    queue_apply(queue, &job.effects);
    many_full(&job);
    *ret = job.ret;
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    Uuid id;
    unsigned parts;
    Arena *arena;
    Task *ret;
    TaskHead head;
} ReadJob;

static int get_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    int r = task_get(db, job->id, job->parts, job->arena, job->ret);
    return r == -ENOENT ? no_task(job->id) : r;
}

int queue_get_wait(Queue *queue, Uuid id, unsigned parts, Arena *arena, Task *ret)
{
    ReadJob job = { .id = id, .parts = parts, .arena = arena, .ret = ret };
    return store_read_wait(queue->store, get_job, &job);
}

static int head_job(Db *db, void *arg)
{
    ReadJob *job = arg;
    int r = task_head(db, job->id, &job->head);
    return r == -ENOENT ? no_task(job->id) : r;
}

int queue_end_wait(Queue *queue, Uuid id, unsigned parts, int64_t deadline_ms, Arena *arena,
                   Task *ret)
{
    int r;
    do {
        ReadJob job = { .id = id };
        uint64_t mark = queue_watch_mark(queue, id);
        r = store_read_wait(queue->store, head_job, &job);
        if (r != 0) return r;
        if (task_state_ended(job.head.state)) break;
        r = queue_watch_wait(queue, id, mark, deadline_ms);
    } while (r == 0);
    if (r != 0 && r != -ETIMEDOUT) return r;
    return queue_get_wait(queue, id, parts, arena, ret);
}

typedef struct {
    const TaskFilter *filter;
    Arena *arena;
    TaskPage *ret;
} ListJob;

static int list_job(Db *db, void *arg)
{
    ListJob *job = arg;
    return task_list(db, job->filter, job->arena, job->ret);
}

int queue_list_wait(Queue *queue, const TaskFilter *filter, Arena *arena, TaskPage *ret)
{
    ListJob job = { filter, arena, ret };
    return store_read_wait(queue->store, list_job, &job);
}
