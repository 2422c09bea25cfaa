/* Tasks that running tasks start: begun, found again, ended, stopped. */
#include <stdio.h>

#include "base/diag.h"
#include "codec/hex.h"
#include "codec/json.h"
#include "queue/queue_private.h"
#include "store/family_store.h"
#include "store/tool_store.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define CHILD_ARENA_MAX ((size_t)1 << 20)
#define STOP_TASKS_MAX 256
#define TRACE_TEXT_MAX 64

/* --- ends ------------------------------------------------------------------------------------- */

/* Ends or marks one task. What it has started itself is in the same list. */
static int stop_one(const Queue *queue, Db *db, const TaskHead *head, Str by, int64_t now_ms,
                    Effects *effects)
{
    touch_task(effects, head->id);
    if (head->state == TASK_RUNNING) {
        touch_worker(effects, head->worker_id);
        return head->cancel_requested ? 0 : task_request_cancel(db, head->seq, by);
    }
    TaskHead alone = *head;
    alone.children = 0;
    return task_conclude_idle(queue, db, &alone, TASK_CANCELED, STR("canceled"), by, now_ms,
                              effects);
}

int family_stop(const Queue *queue, Db *db, const TaskHead *head, Str by, int64_t now_ms,
                Effects *effects)
{
    size_t n;
    int r = family_open_count(db, head->seq, &n);
    if (r != 0 || n == 0) return r;
    CLEANUP(freep) TaskHead *heads = xcalloc(n, sizeof *heads);
    r = family_open_below(db, head->seq, heads, &n);
    for (size_t i = 0; i < n && r == 0; i++)
        r = stop_one(queue, db, &heads[i], by, now_ms, effects);
    return r;
}

int family_ended(const Queue *queue, Db *db, const TaskHead *head, int64_t now_ms, Effects *effects)
{
    int r = 0;
    if (!uuid_is_zero(head->parent_id)) {
        touch_task(effects, head->parent_id);
        r = family_close(db, head->seq);
    }
    if (r != 0 || head->children == 0) return r;
    return family_stop(queue, db, head, STR("parent"), now_ms, effects);
}

int family_late(Db *db, int64_t task_seq, const TaskUsage *usage)
{
    TaskHead head;
    int r = task_head_by_seq(db, task_seq, &head);
    if (r != 0) return r;
    if (uuid_is_zero(head.parent_id) || !task_state_ended(head.state)) return 0;
    FamilyAmount more = { usage->charged_tokens, usage->cost_nusd, usage->tool_calls };
    return family_spent_late(db, task_seq, &more);
}

/* --- starting one ----------------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    TaskRef ref;
    const ChildNew *child;
    bool find_only;
    SubmitJob submit;
    TaskNew task;
    Task parent;
    Family family; /* the parent's row */
    FamilyGrowth growth;
    FamilyAmount allotted;
    Arena *arena;
    char trace[TRACE_TEXT_MAX];
} ChildJob;

/* The child that an earlier attempt has started, or this one: its answer was lost. */
static int child_found(Db *db, ChildJob *job)
{
    int64_t seq;
    bool same;
    Task task;
    Family family;
    int r = family_find(db, job->parent.seq, job->child->key, job->child->fingerprint, &seq, &same);
    if (r != 0) return r;
    if (!same)
        return diag_set(QUEUE_E_KEY_REUSED, "the idempotency key was used for another request");
    r = task_get_by_seq(db, seq, 0, job->arena, &task);
    if (r == 0) r = family_get(db, seq, &family);
    if (r != 0) return r == -ENOENT ? diag_set(-EIO, "the task of a key is gone") : r;
    TaskSummary *s = &job->submit.summary;
    *s = (TaskSummary){ .id = task.id, .state = task.state, .lane = task.lane, .existing = true };
    str_copy(s->agent, sizeof s->agent, task.agent);
    str_copy(s->version_id, sizeof s->version_id, task.version_id);
    job->allotted = family.allotted;
    r = family_limited(db, seq, &job->allotted);
    return r == -ENOENT ? diag_set(-EIO, "the limits of a task are gone") : r;
}

static int family_row(Db *db, ChildJob *job)
{
    int r = family_get(db, job->parent.seq, &job->family);
    if (r != -ENOENT) return r;
    r = family_begin(db, job->parent.seq);
    return r == 0 ? family_get(db, job->parent.seq, &job->family) : r;
}

static int child_bounds(Db *db, ChildJob *job)
{
    const FamilyBounds *bounds = &job->queue->options.family;
    Family root = { 0 };
    int r = family_get(db, job->family.root_seq, &root);
    if (r != 0) return r == -ENOENT ? diag_set(-EIO, "the first task of a family is gone") : r;
    job->growth = family_may_grow(bounds, job->family.depth, job->family.children, root.members);
    /* also of those that retries by hand have left: they are listed with the others */
    if (job->growth == FAMILY_MAY_GROW && job->parent.children >= FAMILY_LIST_MAX)
        job->growth = FAMILY_TOO_WIDE;
    switch (job->growth) {
    case FAMILY_TOO_DEEP:
        return diag_set(QUEUE_E_STATE, "sub-agents may be %" PRId64 " deep, and this one is",
                        bounds->depth_max);
    case FAMILY_TOO_WIDE:
        return diag_set(QUEUE_E_STATE, "a task may start %" PRId64 " sub-agents, and has done so",
                        job->family.children < bounds->children_max ? FAMILY_LIST_MAX
                                                                    : bounds->children_max);
    case FAMILY_TOO_LARGE:
        return diag_set(QUEUE_E_STATE,
                        "a task and all that it starts may be %" PRId64 " tasks, and are",
                        bounds->members_max);
    default: return 0;
    }
}

/* Spans of the same trace. */
static Str child_trace(ChildJob *job)
{
    uint8_t random[8];
    char span[17];
    Str parent = job->parent.traceparent;
    if (parent.len != 55) return STR_NULL; /* 00-TRACE-SPAN-FLAGS */
    entropy_fill(random, sizeof random);
    random[0] |= 1; /* a span's id is not zero */
    hex_encode(span, random, sizeof random);
    span[16] = 0;
    snprintf(job->trace, sizeof job->trace, "%.36s%.16s%.3s", parent.ptr, span, parent.ptr + 52);
    return str_of(job->trace);
}

static int limits_text(ChildJob *job, Str *ret)
{
    CLEANUP(buf_deinit) Buf text;
    char usd[MONEY_TEXT_MAX];
    const FamilyAmount *a = &job->allotted;
    buf_init(&text, 1024);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    if (a->tokens != CAP_NONE) json_out_ki64(&out, "tokensPerTask", a->tokens);
    if (a->tool_calls != CAP_NONE) json_out_ki64(&out, "toolCallsPerTask", a->tool_calls);
    if (a->nusd != CAP_NONE) json_out_kcstr(&out, "usdPerTask", money_text(a->nusd, usd));
    if (job->child->time_limit_ms)
        json_out_ki64(&out, "secondsPerTask", job->child->time_limit_ms / 1000);
    json_out_object_end(&out);
    *ret = arena_str(job->arena, buf_str(&text));
    return json_out_ok(&out) && ret->ptr ? 0 : -ENOMEM;
}

/* A shadow's child is one too, and repeats the child that production's task has started with the
 * same request. */
static int child_twin(Db *db, const ChildJob *job, Uuid *ret)
{
    TaskHead parent, twin;
    int64_t seq;
    bool same;
    *ret = job->parent.shadow_of;
    if (uuid_is_zero(*ret)) return 0;
    *ret = shadow_no_twin;
    int r = task_head(db, job->parent.shadow_of, &parent);
    if (r == 0)
        r = family_find(db, parent.seq, job->child->key, job->child->fingerprint, &seq, &same);
    if (r == 0) r = task_head_by_seq(db, seq, &twin);
    if (r == 0 && same) *ret = twin.id;
    return r == -ENOENT ? 0 : r;
}

/* Another agent's version is the routed one, as for any task; of a shadow, which takes no part in
 * that agent's rollouts, its stable one. */
static int child_version(Db *db, ChildJob *job, bool same, Str *ret)
{
    *ret = same ? job->parent.version_id : STR_NULL;
    if (same || uuid_is_zero(job->parent.shadow_of)) return 0;
    int r = routing_get(db, job->child->agent, job->arena, ret);
    return r == -ENOENT ? 0 : r; /* who submits says what is missing */
}

static int shadow_refuse(void)
{
    return diag_set(QUEUE_E_SHADOW, "its own code runs a tool that writes, which would really "
                                    "happen: a shadow does not start it");
}

/* What the agent's own code does is not held back. */
static int child_harmless(Db *db, const ChildJob *job)
{
    bool writes = false;
    if (uuid_is_zero(job->task.shadow_of)) return 0;
    int r = family_version_writes(db, str_of(job->submit.summary.version_id), &writes);
    if (r != 0 || !writes) return r;
    return shadow_refuse();
}

static int child_choose(Db *db, ChildJob *job)
{
    const ChildNew *child = job->child;
    const Task *parent = &job->parent;
    bool same = str_empty(child->agent) || str_eq(child->agent, parent->agent);
    Str version_id;
    Uuid twin;
    int r = child_twin(db, job, &twin);
    if (r == 0) r = child_version(db, job, same, &version_id);
    if (r != 0) return r;
    job->task = (TaskNew){ .agent = same ? parent->agent : child->agent,
                           .version_id = version_id,
                           .parent_id = parent->id,
                           .shadow_of = twin,
                           .lane = parent->lane,
                           .time_limit_ms = child->time_limit_ms,
                           .due_at_ms = family_deadline_ms(parent->due_at_ms, child->due_ms,
                                                           job->submit.now_ms),
                           .input = child->input,
                           .metadata = child->metadata,
                           .user_id = parent->user_id,
                           .tenant_id = parent->tenant_id,
                           .traceparent = child_trace(job) };
    FamilyAmount most;
    r = submit_choose(db, &job->submit, job->arena);
    if (r == 0) r = child_harmless(db, job);
    if (r == 0) r = family_version_limits(db, str_of(job->submit.summary.version_id), &most);
    if (r == -ENOENT) return diag_set(-EIO, "a version is gone");
    if (r == 0) job->allotted = family_least(&child->offered, &most);
    return r == 0 ? limits_text(job, &job->task.limits) : r;
}

/* Before all that came after its parent, and before its parent's brothers: a family is finished
 * before the next is begun, however few slots there are. */
static int child_insert(Db *db, ChildJob *job)
{
    const ChildNew *child = job->child;
    int64_t due_at_ms = job->task.due_at_ms;
    int64_t deadline_ms = family_deadline_ms(job->parent.deadline_at_ms, child->remaining_ms,
                                             job->submit.now_ms);
    int r = submit_insert(db, &job->submit);
    if (r != 0) return r;
    FamilyChild row = {
        .task_seq = job->submit.seq,
        .key = child->key,
        .fingerprint = child->fingerprint,
        .allotted = family_hold(&job->allotted),
        .ready_at_ms = MAX(job->parent.ready_at_ms - 1, 0),
        .deadline_at_ms = due_at_ms && deadline_ms ? MIN(due_at_ms, deadline_ms)
                                                   : MAX(due_at_ms, deadline_ms),
    };
    return family_add(db, &job->family, &row);
}

static int parent_read(Db *db, TaskRef ref, Arena *arena, Task *ret)
{
    TaskHead head;
    int r = task_held(db, ref, &head);
    return r == 0 ? task_get_by_seq(db, head.seq, 0, arena, ret) : r;
}

static int child_job(Db *db, void *arg)
{
    ChildJob *job = arg;
    job->submit = (SubmitJob){ .queue = job->queue,
                               .task = &job->task,
                               .now_ms = queue_now_ms(job->queue) };
    job->growth = FAMILY_MAY_GROW;
    arena_clear(job->arena);
    int r = parent_read(db, job->ref, job->arena, &job->parent);
    if (r == 0) r = child_found(db, job);
    if (r != -ENOENT) return r;
    if (job->find_only) return diag_set(QUEUE_E_NO_TASK, "there is no such sub-agent");
    if (job->parent.cancel_requested) return diag_set(QUEUE_E_STALE, "the task is being canceled");
    r = family_row(db, job);
    if (r == 0) r = child_bounds(db, job);
    if (r == 0) r = child_choose(db, job);
    return r == 0 ? child_insert(db, job) : r;
}

static ChildRefusal refusal_of(const ChildJob *job, int r)
{
    static const char *const bounds[FAMILY_GROWTH_N_] = {
        [FAMILY_TOO_DEEP] = "subagents_too_deep",
        [FAMILY_TOO_WIDE] = "subagents_too_many",
        [FAMILY_TOO_LARGE] = "subagents_too_many",
    };
    switch (r) {
    case QUEUE_E_STATE: return (ChildRefusal){ 422, bounds[job->growth] };
    case QUEUE_E_NO_TASK: return (ChildRefusal){ CHILD_NONE_STATUS, "subagent_none" };
    case QUEUE_E_FULL: return (ChildRefusal){ 429, "queue_full" };
    case QUEUE_E_KEY_REUSED: return (ChildRefusal){ 422, "key_reused" };
    case QUEUE_E_NO_AGENT: return (ChildRefusal){ 404, "agent_not_found" };
    case QUEUE_E_NO_VERSION: return (ChildRefusal){ 404, "version_not_found" };
    case QUEUE_E_SWITCHED_OFF: return (ChildRefusal){ 403, "switched_off" };
    case QUEUE_E_SHADOW: return (ChildRefusal){ 403, "shadow_writes" };
    default: return (ChildRefusal){ 0 };
    }
}

/* A shadow that was refused went another way than production: as a stub among its calls that says,
 * one for each agent. */
static int refused_job(Db *db, void *arg)
{
    ChildJob *job = arg;
    char id[UUID_TEXT_MAX];
    uint8_t random[UUID7_RANDOM_BYTES];
    TaskHead head;
    bool known;
    int64_t now_ms = queue_now_ms(job->queue);
    int r = task_held(db, job->ref, &head);
    if (r == 0) r = tool_record_stubbed(db, head.seq, job->task.agent, &known);
    if (r != 0 || known) return r;
    entropy_fill(random, sizeof random);
    ToolRecord record = { .id = str_of(uuid_text(uuid7_make(now_ms, random), id)),
                          .attempt = head.attempt,
                          .name = job->task.agent,
                          .source = STR("agent"),
                          .outcome = STR("denied"),
                          .at_ms = now_ms,
                          .mode = STR("stub") };
    return tool_record_insert(db, head.seq, &record);
}

static void children_count(Queue *queue, const ChildJob *job, int r)
{
    pthread_mutex_lock(&queue->lock);
    if (r == 0 && job->submit.summary.existing) queue->stats.children_found++;
    else if (r == 0) queue->stats.children_started++;
    else if (job->growth != FAMILY_MAY_GROW) queue->stats.children_refused[job->growth]++;
    pthread_mutex_unlock(&queue->lock);
}

/* The lane, for the place in it that is taken before the parent is read. */
static int lane_job(Db *db, void *arg)
{
    ChildJob *job = arg;
    TaskHead head;
    int r = task_held(db, job->ref, &head);
    job->parent.lane = head.lane;
    return r;
}

static int child_start_wait(Queue *queue, ChildJob *job, Lane *ret_lane)
{
    int r = store_read_wait(queue->store, lane_job, job);
    if (r != 0) return r;
    *ret_lane = job->parent.lane;
    bool full = queue_reserve(queue, *ret_lane) != 0;
    job->find_only = full || job->child->find_only;
    r = store_call_wait(queue->store, child_job, job);
    if (!full && (r != 0 || job->submit.summary.existing)) queue_unreserve(queue, *ret_lane);
    if (!full || job->child->find_only || r != QUEUE_E_NO_TASK) return r;
    queue_refused(queue, *ret_lane, QUEUE_E_FULL);
    return diag_set(QUEUE_E_FULL, "the %s lane is full", lane_name(*ret_lane));
}

int queue_child_wait(Queue *queue, TaskRef parent, const ChildNew *child, ChildStarted *ret)
{
    assert(child->key.len > 0 && child->key.len <= CHILD_KEY_BYTES_MAX);
    assert(child->time_limit_ms >= 0 && child->remaining_ms >= 0 && child->due_ms >= 0);
    CLEANUP(arena_deinit) Arena arena;
    Lane lane = LANE_NORMAL;
    arena_init(&arena, CHILD_ARENA_MAX);
    ChildJob job = { .queue = queue, .ref = parent, .child = child, .arena = &arena };
    int r = child_start_wait(queue, &job, &lane);
    if (r == QUEUE_E_SHADOW) {
        r = store_call_wait(queue->store, refused_job, &job);
        if (r == 0) r = shadow_refuse();
    }
    children_count(queue, &job, r);
    *ret = (ChildStarted){ .refusal = r > 0 ? refusal_of(&job, r) : (ChildRefusal){ 0 } };
    if (ret->refusal.status) return 0;
    if (r != 0) return r;
    ret->task = job.submit.summary;
    ret->allotted = job.allotted;
    if (ret->task.existing) return 0;
    queue_submitted(queue, lane, false);
    queue_task_changed(queue, parent.id);
    return 0;
}

/* --- looking at them -------------------------------------------------------------------------- */

typedef struct {
    TaskRef ref;
    Uuid id;
    Arena *arena;
    FamilyRow *rows;
    size_t n;
    Task *task;
} ChildrenJob;

static int children_job(Db *db, void *arg)
{
    ChildrenJob *job = arg;
    TaskHead head;
    arena_clear(job->arena);
    int r = task_held(db, job->ref, &head);
    return r == 0 ? family_list(db, head.seq, job->arena, &job->rows, &job->n) : r;
}

int64_t children_ended(const FamilyRow *rows, size_t n)
{
    int64_t ended = 0;
    for (size_t i = 0; i < n; i++) ended += task_state_ended(rows[i].state);
    return ended;
}

int queue_children_wait(Queue *queue, TaskRef parent, int64_t seen, int64_t deadline_ms,
                        Arena *arena, FamilyRow **ret, size_t *ret_n)
{
    ChildrenJob job = { .ref = parent, .arena = arena };
    int r;
    do {
        uint64_t mark = queue_watch_mark(queue, parent.id);
        r = store_read_wait(queue->store, children_job, &job);
        if (r != 0) return r;
        if (children_ended(job.rows, job.n) != seen) break;
        r = queue_watch_wait(queue, parent.id, mark, deadline_ms);
    } while (r == 0);
    if (r != 0 && r != -ETIMEDOUT) return r;
    *ret = job.rows;
    *ret_n = job.n;
    return 0;
}

static int no_child(void)
{
    return diag_set(QUEUE_E_NO_TASK, "the task has started no such task");
}

static int child_head(Db *db, TaskRef parent, Uuid id, TaskHead *ret)
{
    TaskHead head;
    int r = task_held(db, parent, &head);
    if (r == 0) r = task_head(db, id, ret);
    if (r == -ENOENT || (r == 0 && !uuid_eq(ret->parent_id, parent.id))) return no_child();
    return r;
}

static int child_get_job(Db *db, void *arg)
{
    ChildrenJob *job = arg;
    TaskHead head;
    int r = child_head(db, job->ref, job->id, &head);
    if (r != 0) return r;
    return task_get_by_seq(db, head.seq, TASK_PART_PAYLOAD | TASK_PART_RESULT, job->arena,
                           job->task);
}

int queue_child_get_wait(Queue *queue, TaskRef parent, Uuid id, Arena *arena, Task *ret)
{
    ChildrenJob job = { .ref = parent, .id = id, .arena = arena, .task = ret };
    return store_read_wait(queue->store, child_get_job, &job);
}

typedef struct {
    const Queue *queue;
    TaskRef parent;
    Uuid id;
    Effects effects;
} ChildCancelJob;

/* In one job with the look at the fence: whoever has lost the parent stops nothing of it any
 * more. */
static int child_cancel_job(Db *db, void *arg)
{
    ChildCancelJob *job = arg;
    TaskHead head;
    job->effects = (Effects){ 0 };
    int r = child_head(db, job->parent, job->id, &head);
    if (r != 0) return r;
    r = task_cancel_for(job->queue, db, &head, STR("parent"), queue_now_ms(job->queue),
                        &job->effects);
    return r == QUEUE_E_STATE ? 0 : r;
}

int queue_child_cancel_wait(Queue *queue, TaskRef parent, Uuid id)
{
    ChildCancelJob job = { .queue = queue, .parent = parent, .id = id };
    int r = store_call_wait(queue->store, child_cancel_job, &job);
    if (r == 0) queue_apply(queue, &job.effects);
    return r;
}
