/* Shadows: tasks that repeat production's, unseen: started and stopped. */
#include "base/diag.h"
#include "base/money.h"
#include "codec/json.h"
#include "queue/queue_private.h"
#include "store/family_store.h"

#define ARENA_MAX ((size_t)64 << 20)
#define LIMITS_BYTES_MAX 65536

/* --- starting --------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    int64_t rollout_seq, now_ms;
    const ShadowNew *news;
    size_t n, started;
    Effects effects;
} StartJob;

/* Production's own limits, with what the repetition may spend at most. */
static int limits_text(Db *db, const ShadowNew *new, const Task *production, Arena *arena, Str *ret)
{
    CLEANUP(buf_deinit) Buf text, quoted;
    char usd[MONEY_TEXT_MAX];
    int64_t own_nusd;
    buf_init(&text, LIMITS_BYTES_MAX);
    buf_init(&quoted, MONEY_TEXT_MAX + 2);
    int r = shadow_allotted(db, production->seq, &own_nusd);
    if (r != 0) return r;
    int64_t nusd = own_nusd > 0 ? MIN(own_nusd, new->allotted_nusd) : new->allotted_nusd;
    JsonOut out = json_out(&quoted);
    json_out_str(&out, str_of(money_text(nusd, usd)));
    Str limits = str_empty(production->limits) ? STR("{}") : production->limits;
    if (!json_out_ok(&out) ||
        json_member_set(limits, STR("usdPerTask"), buf_str(&quoted), &text) != 0)
        return -ENOMEM;
    *ret = arena_str(arena, buf_str(&text));
    return ret->ptr ? 0 : -ENOMEM;
}

static int submit_one(Db *db, StartJob *job, const ShadowNew *new, const Task *p, Arena *arena,
                      int64_t *ret_seq)
{
    TaskNew task = { .agent = p->agent,
                     .version_id = new->version_id,
                     .shadow_of = p->id,
                     .lane = LANE_LOW,
                     .time_limit_ms = p->time_limit_ms,
                     .input = p->input,
                     .metadata = p->metadata,
                     .session_id = p->session_id,
                     .user_id = p->user_id,
                     .tenant_id = p->tenant_id };
    SubmitJob submit = { .queue = job->queue, .task = &task, .now_ms = job->now_ms };
    int r = limits_text(db, new, p, arena, &task.limits);
    if (r == 0) r = submit_choose(db, &submit, arena);
    if (r == 0) r = submit_insert(db, &submit);
    if (r == 0) *ret_seq = submit.seq;
    return r;
}

static int start_one(Db *db, StartJob *job, const ShadowNew *new)
{
    CLEANUP(arena_deinit) Arena arena;
    Task production;
    int64_t seq = 0;
    arena_init(&arena, ARENA_MAX);
    int r = task_get_by_seq(db, new->task_seq, TASK_PART_PAYLOAD, &arena, &production);
    if (r == 0) r = submit_one(db, job, new, &production, &arena, &seq);
    if (r > 0 || r == -ENOENT) /* gone, or switched off: nothing to compare */
        return shadow_settle(db, job->rollout_seq, new->task_seq, SHADOW_DROPPED, false, false,
                             job->now_ms);
    if (r == 0) r = shadow_started(db, job->rollout_seq, new->task_seq, seq);
    if (r != 0) return r;
    job->started++;
    job->effects.queued[LANE_LOW]++;
    job->effects.ready[LANE_LOW]++;
    return 0;
}

static bool is_chosen(const ShadowRow *rows, size_t n, int64_t task_seq)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i].task_seq == task_seq) return rows[i].state == SHADOW_CHOSEN;
    return false;
}

static int start_job(Db *db, void *arg)
{
    StartJob *job = arg;
    size_t n = SHADOWS_OPEN_MAX;
    CLEANUP(freep) ShadowRow *rows = xcalloc(n, sizeof(*rows));
    job->effects = (Effects){ .stale = 0 };
    job->started = 0;
    int r = shadow_open(db, job->rollout_seq, rows, &n);
    for (size_t i = 0; i < job->n && r == 0; i++)
        if (is_chosen(rows, n, job->news[i].task_seq)) r = start_one(db, job, &job->news[i]);
    return r;
}

int queue_shadows_start_wait(Queue *queue, int64_t rollout_seq, const ShadowNew *news, size_t n,
                             size_t *ret_n)
{
    assert(n <= SHADOWS_MAX);
    StartJob job = { .queue = queue,
                     .rollout_seq = rollout_seq,
                     .now_ms = queue_now_ms(queue),
                     .news = news,
                     .n = n };
    *ret_n = 0;
    int r = queue_room(queue);
    if (r == 0) r = store_call_wait(queue->store, start_job, &job);
    if (r != 0) queue_refused(queue, LANE_LOW, r);
    if (r != 0) return r;
    queue_apply(queue, &job.effects);
    *ret_n = job.started;
    return 0;
}

/* --- stopping --------------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    int64_t rollout_seq, now_ms;
    size_t n;
    Effects effects;
} StopJob;

static int stop_task(Db *db, StopJob *job, int64_t seq)
{
    TaskHead head;
    int r = task_head_by_seq(db, seq, &head);
    if (r != 0) return r == -ENOENT ? 0 : r;
    touch_task(&job->effects, head.id);
    if (head.state == TASK_RUNNING) {
        touch_worker(&job->effects, head.worker_id);
        if (head.children > 0)
            r = family_stop(job->queue, db, &head, STR("rollout"), job->now_ms, &job->effects);
        return r == 0 && !head.cancel_requested ? task_request_cancel(db, seq, STR("rollout")) : r;
    }
    if (!task_state_may(head.state, TASK_CANCELED)) return 0;
    return task_conclude_idle(job->queue, db, &head, TASK_CANCELED, STR("canceled"), STR("rollout"),
                              job->now_ms, &job->effects);
}

/* Dropped before it is stopped, so that it is not forgotten in between. */
static int stop_pair(Db *db, StopJob *job, const ShadowRow *pair)
{
    int r = 0;
    if (pair->state < SHADOW_COMPARED)
        r = shadow_settle(db, job->rollout_seq, pair->task_seq, SHADOW_DROPPED, false, false,
                          job->now_ms);
    if (r == 0 && pair->shadow_seq > 0) r = stop_task(db, job, pair->shadow_seq);
    return r == 0 ? shadow_stopped(db, job->rollout_seq, pair->task_seq) : r;
}

static int stop_job(Db *db, void *arg)
{
    StopJob *job = arg;
    ShadowRow rows[SHADOWS_MAX];
    int r;
    job->n = SHADOWS_MAX;
    job->effects = (Effects){ .stale = 0 };
    r = shadow_to_stop(db, job->rollout_seq, rows, &job->n);
    for (size_t i = 0; i < job->n && r == 0; i++) r = stop_pair(db, job, &rows[i]);
    return r;
}

int queue_shadows_stop_wait(Queue *queue, int64_t rollout_seq, size_t *ret_n)
{
    StopJob job = { .queue = queue, .rollout_seq = rollout_seq, .now_ms = queue_now_ms(queue) };
    *ret_n = 0;
    int r = store_call_wait(queue->store, stop_job, &job);
    if (r != 0) return r;
    queue_apply(queue, &job.effects);
    *ret_n = job.n;
    return 0;
}
