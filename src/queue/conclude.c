/* The end of an attempt, inside a job. */
#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "logic/attempt.h"
#include "queue/queue_private.h"
#include "store/grade_store.h"
#include "store/journal_store.h"
#include "store/webhook_store.h"

#define SETTINGS_ARENA_MAX (1 << 20)
#define WEBHOOK_ARENA_MAX (64 << 20)
#define WEBHOOK_BODY_MAX (1 << 20)

int task_stale(void)
{
    return diag_set(QUEUE_E_STALE, "the task is not held under this fence any more");
}

bool ref_is_of(TaskRef ref, Uuid worker_id)
{
    return uuid_is_zero(ref.worker_id) || uuid_eq(ref.worker_id, worker_id);
}

static bool is_held(const TaskHead *head, TaskRef ref)
{
    return uuid_eq(head->id, ref.id) && attempt_goes_on(head->state, head->fence, ref.fence) &&
           ref_is_of(ref, head->worker_id);
}

int task_held(Db *db, TaskRef ref, TaskHead *ret)
{
    int r = task_head(db, ref.id, ret);
    if (r < 0 && r != -ENOENT) return r;
    return r == 0 && is_held(ret, ref) ? 0 : task_stale();
}

/* --- webhooks --------------------------------------------------------------------------------- */

/* The task with all parts; without them when they are too long, for the news must go out. */
static int webhook_task(Db *db, int64_t seq, Arena *arena, Task *ret)
{
    const unsigned parts = TASK_PART_PAYLOAD | TASK_PART_RESULT | TASK_PART_QUESTION;
    int r = task_get_by_seq(db, seq, parts, arena, ret);
    if (r != -ENOMEM) return r;
    arena_clear(arena);
    return task_get_by_seq(db, seq, 0, arena, ret);
}

/* An empty body is left to who delivers: the end of a task is recorded in any case. */
static void webhook_write(const Queue *queue, Buf *body, const Task *task, int64_t now_ms)
{
    if (!queue->options.webhook_body) return;
    queue->options.webhook_body(body, task, now_ms);
    if (!body->failed) return;
    LOG_WARN("no body for a webhook", LOG_INT("taskSeq", task->seq));
    buf_clear(body);
}

static int webhook_put(Db *db, const Task *task, Str body, int64_t now_ms)
{
    CLEANUP(arena_deinit) Arena arena;
    char id[64], task_id[UUID_TEXT_MAX];
    bool disabled = false;
    arena_init(&arena, SETTINGS_ARENA_MAX);
    int r = webhook_is_disabled(db, task->webhook_url, &disabled);
    if (r != 0) return r;
    /* the time tells apart what befalls a task that is queued again by hand */
    snprintf(id, sizeof id, "msg_%s_%" PRIx64, uuid_text(task->id, task_id), (uint64_t)now_ms);
    Webhook row = { .webhook_id = str_of(id),
                    .task_seq = task->seq,
                    .url = task->webhook_url,
                    .host = webhook_host(&arena, task->webhook_url),
                    .body = body,
                    .state = disabled ? WEBHOOK_FAILED : WEBHOOK_PENDING,
                    .created_at_ms = now_ms,
                    .next_at_ms = disabled ? 0 : now_ms };
    if (disabled) row.last_error = STR("the endpoint is disabled: it has answered 410");
    return webhook_insert(db, &row);
}

/* Puts the news of a task that has come to rest into the outbox. */
static int webhook_add(const Queue *queue, Db *db, const TaskHead *head, int64_t now_ms,
                       Effects *effects)
{
    if (!head->has_webhook) return 0;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf body;
    Task task;
    arena_init(&arena, WEBHOOK_ARENA_MAX);
    buf_init(&body, WEBHOOK_BODY_MAX);
    int r = webhook_task(db, head->seq, &arena, &task);
    if (r != 0) return r;
    webhook_write(queue, &body, &task, now_ms);
    effects->webhook = true;
    return webhook_put(db, &task, buf_str(&body), now_ms);
}

/* What follows when a task has come to rest. */
static int at_rest(const Queue *queue, Db *db, const TaskHead *head, int64_t now_ms,
                   Effects *effects)
{
    int r = head->shadow ? grade_add_shadow(db, head->seq)
                         : rollup_news_add(db, head->seq, 1, NEWS_TASK | NEWS_SCORE);
    if (r == 0) r = webhook_add(queue, db, head, now_ms, effects);
    unsigned opened[LANE_N_] = { 0 };
    if (r == 0) r = session_advance(db, head, now_ms, opened);
    for (int lane = 0; lane < LANE_N_; lane++) {
        effects->ready[lane] += opened[lane];
        effects->session_waits += opened[lane];
    }
    return r;
}

/* --- the rule --------------------------------------------------------------------------------- */

/* The agent's; the default when its settings cannot be read, which must not keep a task from
 * ending. */
static int retry_policy(Db *db, int64_t task_seq, RetryPolicy *ret)
{
    CLEANUP(arena_deinit) Arena arena;
    const Json *json = NULL;
    Str settings = STR_NULL;
    arena_init(&arena, SETTINGS_ARENA_MAX);
    int r = agent_settings_of_task(db, task_seq, &arena, &settings);
    if (r != 0 && r != -ENOENT && r != -ENOMEM) return r;
    if (r != 0 || json_parse(&arena, settings, NULL, &json, NULL) != 0) {
        LOG_WARN("agent settings are unreadable", LOG_INT("taskSeq", task_seq));
        json = NULL;
    }
    *ret = agent_retry_read(json);
    return 0;
}

/* Somebody was faster than the attempt that has asked: it goes on like one that was given back. Or
 * its time was over before it had ended: nobody answers any more. */
static int next_if_answered(Db *db, const TaskHead *head, const TaskProgress *progress,
                            const Conclusion *c, TaskNext *ret)
{
    EscalationState last;
    int64_t all, pending = 0;
    int r = escalation_last(db, head->seq, &last);
    if (r < 0 && r != -ENOENT) return r;
    bool asked = r == 0;
    r = escalation_counts(db, head->seq, &all, &pending);
    if (r != 0) return r;
    EscalationEffect effect = escalation_at_rest(asked ? &last : NULL, pending > 0);
    if (effect == ESCALATION_CHANGES_NOTHING) return 0;
    *ret = task_after_attempt(progress, TASK_OUTCOME_RELEASED, c->now_ms, c->random);
    if (effect == ESCALATION_FAILS) {
        ret->state = TASK_FAILED;
        ret->error_code = "escalation_unanswered";
    }
    return 0;
}

static int has_advanced(Db *db, const TaskHead *head, bool *ret)
{
    int r = journal_grew(db, head->seq, head->attempt);
    if (r < 0 && r != -ENOENT) return r;
    *ret = attempt_advanced(head->attempt, r == 0);
    return 0;
}

/* What becomes of the task. */
static int next_of(Db *db, const TaskHead *head, const Conclusion *c, TaskNext *ret)
{
    TaskProgress progress = {
        .failures = head->failures,
        .losses = head->losses,
        .cancel_requested = head->cancel_requested,
        .deadline_ms = head->deadline_at_ms,
        .retry_after_ms = c->retry_after_ms,
        .retry = RETRY_POLICY_DEFAULT,
    };
    TaskOutcome outcome = c->blameless ? TASK_OUTCOME_RELEASED : c->outcome;
    if (outcome == TASK_OUTCOME_FAILED_RETRYABLE || outcome == TASK_OUTCOME_LOST) {
        int r = retry_policy(db, head->seq, &progress.retry);
        if (r == 0 && outcome == TASK_OUTCOME_LOST && head->losses > 0)
            r = has_advanced(db, head, &progress.advanced);
        if (r != 0) return r;
    }
    *ret = task_after_attempt(&progress, outcome, c->now_ms, c->random);
    if (ret->state == TASK_ESCALATED) return next_if_answered(db, head, &progress, c, ret);
    return 0;
}

/* What the worker reports says more than the rule, unless the rule had a reason of its own. */
static Str error_code_of(const TaskNext *next, const Conclusion *c)
{
    bool own = (next->state == TASK_CANCELED && c->outcome != TASK_OUTCOME_CANCELED) ||
               (next->state == TASK_TIMED_OUT && c->outcome != TASK_OUTCOME_TIMED_OUT);
    if (next->state == TASK_SUCCEEDED) return STR_NULL;
    return own || str_empty(c->error_code) ? str_of(next->error_code) : c->error_code;
}

static void effects_end(Effects *e, Lane lane, const TaskNext *next, TaskOutcome outcome)
{
    e->running[lane]--;
    e->ran[lane]++;
    e->lost[lane] += outcome == TASK_OUTCOME_LOST;
    if (next->state != TASK_QUEUED) {
        e->ended[lane][next->state]++;
        return;
    }
    e->queued[lane]++;
    e->ready[lane]++;
    e->retried[lane]++;
    e->released[lane] += outcome == TASK_OUTCOME_RELEASED;
}

/* How long it held its slot, for the turns of those that wait. */
static void ran_note(const Queue *queue, const TaskHead *head, int64_t now_ms, Effects *effects)
{
    int64_t ran_ms = clock_span_ms(&queue->sets, head->started_at_ms, now_ms);
    fair_cost_seen(&queue->turns->costs[head->lane], head->kind, ran_ms, now_ms);
    effects->ran_ms[head->lane] += ran_ms;
}

static int end_of(Db *db, const TaskHead *head, const Conclusion *c, TaskEnd *ret)
{
    *ret = (TaskEnd){
        .outcome = c->outcome,
        .now_ms = c->now_ms,
        .error_detail = c->error_detail,
        .stopped_by = c->stopped_by,
        .sandbox = c->sandbox,
        .usage = c->usage,
        .conduct = c->conduct,
        .result = c->result,
    };
    int r = next_of(db, head, c, &ret->next);
    if (r != 0) return r;
    ret->error_code = error_code_of(&ret->next, c);
    if (str_eq(ret->error_code, STR(TASK_DEADLINE_CODE)) &&
        deadline_is_given(head->deadline_at_ms, head->due_at_ms))
        ret->stopped_by = STR(TASK_BY_DEADLINE);
    if (str_empty(ret->error_code)) ret->error_detail = STR_NULL;
    return 0;
}

static int end_now(const Queue *queue, Db *db, const TaskHead *head, const TaskEnd *end,
                   Effects *effects)
{
    TaskState state = end->next.state;
    int r = task_end(db, head, end);
    if (r == 0 && state != TASK_QUEUED) r = at_rest(queue, db, head, end->now_ms, effects);
    if (r == 0 && task_state_ended(state)) r = family_ended(queue, db, head, end->now_ms, effects);
    return r;
}

static void end_note(const Queue *queue, const TaskHead *head, const TaskEnd *end, Effects *effects)
{
    ran_note(queue, head, end->now_ms, effects);
    effects_end(effects, head->lane, &end->next, end->outcome);
}

int task_conclude(const Queue *queue, Db *db, const TaskHead *head, const Conclusion *c,
                  Effects *effects, TaskState *ret_state)
{
    TaskEnd end;
    int r = end_of(db, head, c, &end);
    if (r == 0) r = end_now(queue, db, head, &end, effects);
    if (r != 0) return r;
    end_note(queue, head, &end, effects);
    *ret_state = end.next.state;
    return 0;
}

/* --- many at a time --------------------------------------------------------------------------- */

/* Nothing follows from its end but what follows from each. */
static bool ends_alone(const TaskHead *head, const TaskEnd *end)
{
    return task_state_ended(end->next.state) && end->outcome != TASK_OUTCOME_LOST &&
           !head->has_webhook && head->session_max == 0 && !head->shadow &&
           uuid_is_zero(head->parent_id) && head->children == 0;
}

int endings_write(Endings *endings, Db *db)
{
    const TaskEnding *rows = endings->rows;
    size_t n = endings->n;
    endings->n = endings->heads_n = endings->heads_at = 0;
    if (n == 0) return 0;
    int r = n == 1 ? task_end(db, &rows->head, &rows->end) : task_end_many(db, rows, n);
    if (r != 0) return r;
    return n == 1 ? rollup_news_add(db, rows->head.seq, 1, NEWS_TASK | NEWS_SCORE)
                  : rollup_news_add_many(db, rows, n);
}

/* As many as can be gathered before the next are written. */
static int endings_read(Endings *endings, Db *db, const TaskFinish *finishes, size_t n)
{
    Uuid ids[TASK_HEADS_MAX];
    size_t room = TASK_ENDINGS_MAX - endings->n;
    endings->heads_at = endings->heads_n = 0;
    n = MIN(n, room == 0 ? 1 : MIN(room, TASK_HEADS_MAX));
    for (size_t i = 0; i < n; i++) ids[i] = finishes[i].task.id;
    int r = task_heads(db, ids, n, endings->heads);
    if (r == 0) endings->heads_n = n;
    return r;
}

static bool endings_has(const Endings *endings, Uuid id)
{
    for (size_t i = 0; i < endings->n; i++)
        if (uuid_eq(endings->rows[i].head.id, id)) return true;
    return false;
}

int endings_held(Endings *endings, Db *db, const TaskFinish *finishes, size_t n, TaskHead *ret)
{
    TaskRef ref = finishes->task;
    int r = endings_has(endings, ref.id) ? endings_write(endings, db) : 0;
    if (r == 0 && endings->heads_at == endings->heads_n) r = endings_read(endings, db, finishes, n);
    if (r != 0) return r;
    *ret = endings->heads[endings->heads_at++];
    return is_held(ret, ref) ? 0 : task_stale();
}

int endings_add(Endings *endings, const Queue *queue, Db *db, const TaskHead *head,
                const Conclusion *c, Effects *effects, TaskState *ret_state)
{
    TaskEnd end;
    int r = end_of(db, head, c, &end);
    if (r != 0) return r;
    bool later = ends_alone(head, &end);
    if (!later || endings->n == TASK_ENDINGS_MAX) r = endings_write(endings, db);
    if (r == 0 && later) endings->rows[endings->n++] = (TaskEnding){ *head, end };
    else if (r == 0) r = end_now(queue, db, head, &end, effects); /* what was read is forgotten */
    if (r != 0) return r;
    end_note(queue, head, &end, effects);
    *ret_state = end.next.state;
    return 0;
}

/* --- without an attempt ----------------------------------------------------------------------- */

int task_conclude_idle(const Queue *queue, Db *db, const TaskHead *head, TaskState state,
                       Str error_code, Str by, int64_t now_ms, Effects *effects)
{
    assert(head->state != TASK_RUNNING && task_state_may(head->state, state));
    int r = rollup_news_add(db, head->seq, -1, NEWS_TASK | NEWS_SCORE); /* one that waited */
    if (r == 0) r = task_stop(db, head->seq, state, error_code, by, now_ms);
    if (r == 0 && head->state == TASK_ESCALATED) r = escalation_close(db, head->seq);
    if (r == 0) r = at_rest(queue, db, head, now_ms, effects);
    if (r == 0 && task_state_ended(state)) r = family_ended(queue, db, head, now_ms, effects);
    if (r != 0) return r;
    effects->queued[head->lane] -= head->state == TASK_QUEUED;
    effects->ended[head->lane][state]++;
    return 0;
}

int task_conclude_late(const Queue *queue, Db *db, const TaskHead *head, int64_t now_ms,
                       Effects *effects)
{
    bool asks = head->state == TASK_ESCALATED; /* a deadline of its own stands still meanwhile */
    bool given = asks || deadline_is_given(head->deadline_at_ms, head->due_at_ms);
    return task_conclude_idle(queue, db, head, TASK_TIMED_OUT, STR(TASK_DEADLINE_CODE),
                              given ? STR(TASK_BY_DEADLINE) : STR_NULL, now_ms, effects);
}

/* --- all attempts of a worker ----------------------------------------------------------------- */

uint64_t random_draw(uint64_t seed, uint64_t i)
{
    /* SplitMix64: Steele, Lea, Flood, OOPSLA 2014 */
    uint64_t z = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

int task_as_now(Db *db, TaskHead *head)
{
    return uuid_is_zero(head->parent_id) ? 0 : task_head_by_seq(db, head->seq, head);
}

int worker_end_all(Db *db, Uuid worker_id, EndAll *all)
{
    TaskHead heads[END_TASKS_MAX]; /* on a store thread's stack, not a fiber's */
    size_t n = END_TASKS_MAX;
    Conclusion c = { .outcome = all->outcome, .now_ms = all->now_ms };
    int r = task_running_of(db, worker_id, 0, heads, &n);
    for (size_t i = 0; i < n && r == 0; i++) {
        TaskState state;
        c.random = random_draw(all->random, i);
        c.blameless = all->blameless && attempt_is_blameless(heads[i].attempt);
        r = task_as_now(db, &heads[i]);
        if (r == 0) r = task_conclude(all->queue, db, &heads[i], &c, &all->effects, &state);
        all->ids[all->ids_n++] = heads[i].id;
    }
    all->more = n == END_TASKS_MAX;
    return r;
}

void queue_apply_all(Queue *queue, const EndAll *all)
{
    queue_apply(queue, &all->effects);
    for (size_t i = 0; i < all->ids_n; i++) queue_task_changed(queue, all->ids[i]);
}
