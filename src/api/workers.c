/* Lanes and workers for people, and the server's side of the worker protocol (worker/wire.h). */
#include "api/workers.h"

#include "api/tasks.h"
#include "base/diag.h"
#include "base/log.h"
#include "observe/capacity.h"
#include "observe/task_json.h"
#include "sys/clock.h"
#include "sys/entropy.h"
#include "worker/wire.h"

#define NAME_BYTES_MAX 100
#define VERSION_ARENA_BYTES_MAX ((size_t)64 << 20)
#define WALL_SECONDS_MAX 604800 /* as the manifest allows */
#define CLAIM_WAIT_MAX_MS 60000
#define HEARTBEATS_A_LEASE 3
#define CALLS_MAX 64
#define LINES_MAX 1000
#define RECORDINGS_MAX 16

static const Member register_members[] = {
    { "name", MEMBER_STRING, true, "For people", NULL },
    { "slots", MEMBER_OBJECT, true, "{critical, normal, low, shared}", NULL },
};
const BodySpec register_body = { .name = "WorkerRegisterRequest",
                                 .members = register_members,
                                 .n = ARRAY_N(register_members),
                                 .required = true };

static const Member signal_members[] = {
    { "mark", MEMBER_INTEGER, true, "As the last heartbeat was told", NULL },
    { "waitMs", MEMBER_INTEGER, false, "How long to wait for a reason, at most 60000", NULL },
};
const BodySpec signal_body = { .name = "WorkerSignalRequest",
                               .members = signal_members,
                               .n = ARRAY_N(signal_members),
                               .required = true };

static const Member claim_members[] = {
    { "free", MEMBER_OBJECT, true, "Free slots: {critical, normal, low, shared}", NULL },
    { "waitMs", MEMBER_INTEGER, false, "How long to wait for a first task, at most 60000", NULL },
};
const BodySpec claim_body = { .name = "WorkerClaimRequest",
                              .members = claim_members,
                              .n = ARRAY_N(claim_members),
                              .required = true };

static const Member heartbeat_members[] = {
    { "tasks", MEMBER_ARRAY, true, "What the worker holds: [{taskId, fence}]", NULL },
    { "holds", MEMBER_ARRAY, false, "Its model calls in flight, as in WorkerHoldsRequest", NULL },
    { "counts", MEMBER_OBJECT, false, "What it has counted since its start, for /metrics", NULL },
};
const BodySpec heartbeat_body = { .name = "WorkerHeartbeatRequest",
                                  .members = heartbeat_members,
                                  .n = ARRAY_N(heartbeat_members),
                                  .required = true,
                                  .large = true };

static const Member cache_members[] = {
    { "seen", MEMBER_INTEGER, true, "The last revision of purges that was obeyed", NULL },
    { "hits", MEMBER_INTEGER, false, "Counts since the worker's start", NULL },
    { "misses", MEMBER_INTEGER, false, "", NULL },
    { "stored", MEMBER_INTEGER, false, "", NULL },
    { "evicted", MEMBER_INTEGER, false, "", NULL },
    { "expired", MEMBER_INTEGER, false, "", NULL },
    { "purged", MEMBER_INTEGER, false, "", NULL },
    { "tooLarge", MEMBER_INTEGER, false, "", NULL },
    { "bytes", MEMBER_INTEGER, false, "What is held now", NULL },
    { "entries", MEMBER_INTEGER, false, "", NULL },
};
const BodySpec worker_cache_body = { .name = "WorkerCacheRequest",
                                     .members = cache_members,
                                     .n = ARRAY_N(cache_members),
                                     .required = true };

static const Member held_score_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "The token of its claim", NULL },
    { "name", MEMBER_STRING, true, "Who or what judged", NULL },
    { "value", MEMBER_NUMBER, true, "0 (useless) to 1 (perfect)", NULL },
    { "comment", MEMBER_STRING, false, "Kept in the task's log", NULL },
};
const BodySpec worker_score_body = { .name = "WorkerScoreRequest",
                                     .members = held_score_members,
                                     .n = ARRAY_N(held_score_members),
                                     .required = true };

static const Member finish_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "The token of its claim", NULL },
    { "outcome", MEMBER_STRING, true, "How the attempt ended",
      "succeeded|failed_final|failed_retryable|timed_out|capped|canceled|released|escalated" },
    { "result", MEMBER_ANY, false, "Any JSON", NULL },
    { "error", MEMBER_OBJECT, false, "{code, detail}", NULL },
    { "stoppedBy", MEMBER_STRING, false, "", NULL },
    { "sandbox", MEMBER_STRING, false, "How the attempt was isolated", NULL },
    { "retryAfterMs", MEMBER_INTEGER, false, "", NULL },
    { "usage", MEMBER_OBJECT, false, "On top of the calls that were recorded", NULL },
    { "conduct", MEMBER_OBJECT, false, "{fingerprint, tools}: what the agent did", NULL },
};
const BodySpec finish_body = { .name = "WorkerFinishRequest",
                               .members = finish_members,
                               .n = ARRAY_N(finish_members),
                               .required = true,
                               .large = true };

static const Member finish_many_members[] = {
    { "tasks", MEMBER_ARRAY, true, "Each as in WorkerFinishRequest; at most 256", NULL },
};
const BodySpec finish_many_body = { .name = "WorkerFinishManyRequest",
                                    .members = finish_many_members,
                                    .n = ARRAY_N(finish_many_members),
                                    .required = true,
                                    .large = true };

static const Member calls_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "", NULL },
    { "payerId", MEMBER_STRING, false,
      "The worker under whose lease their money was set aside; else the one that reports", NULL },
    { "calls", MEMBER_ARRAY, true, "Model calls that ended", NULL },
};
const BodySpec calls_body = { .name = "WorkerCallsRequest",
                              .members = calls_members,
                              .n = ARRAY_N(calls_members),
                              .required = true,
                              .large = true };

static const Member tools_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "", NULL },
    { "tools", MEMBER_ARRAY, true,
      "[{id, name, source, outcome, at, durationMs, bytes, replayed, counted, mode?}]", NULL },
};
const BodySpec tools_body = { .name = "WorkerToolsRequest",
                              .members = tools_members,
                              .n = ARRAY_N(tools_members),
                              .required = true };

static const Member recordings_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "", NULL },
    { "recordings", MEMBER_ARRAY, true, "What tools returned", NULL },
};
const BodySpec recordings_body = { .name = "WorkerRecordingsRequest",
                                   .members = recordings_members,
                                   .n = ARRAY_N(recordings_members),
                                   .required = true,
                                   .large = true };

const Param worker_journal_params[] = {
    { "task", "string", "The task" },
    { "fence", "integer", "The token of its claim" },
    { "after", "integer", "List recordings numbered above this" },
    { "answer", "integer", "Or: the answer of the recording of this number" },
    { "request", "integer", "Or: its request, in canonical form" },
    { "owns", "string", "Or: 200 when the response of that id was an answer to the task's tenant" },
    { "twin", "boolean", "true: of the production task that this one repeats in the shadow" },
    { 0 },
};

static const Member logs_members[] = {
    { "taskId", MEMBER_STRING, true, "", NULL },
    { "fence", MEMBER_INTEGER, true, "", NULL },
    { "entries", MEMBER_ARRAY, true, "[{seq, at, stream, text}]", NULL },
};
const BodySpec logs_body = { .name = "WorkerLogsRequest",
                             .members = logs_members,
                             .n = ARRAY_N(logs_members),
                             .required = true,
                             .large = true };

/* --- for people ------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    WorkerRoster roster;
} RosterRead;

static int roster_job(Db *db, void *arg)
{
    RosterRead *read = arg;
    return capacity_read(db, read->arena, &read->roster);
}

static int roster_wait(ApiCall *call, RosterRead *read)
{
    read->arena = &call->req->arena;
    int r = store_read_wait(queue_store(call->api->options.queue), roster_job, read);
    return r < 0 ? api_fail_wait(call, r) : 0;
}

static void lane_waits_write(JsonOut *out, const WaitsFigures *waits, int64_t objective_ms)
{
    json_out_key(out, "waits");
    json_out_object(out);
    json_out_ki64(out, "objectiveMs", objective_ms);
    json_out_ki64(out, "p50Ms", waits->p50_ms);
    json_out_ki64(out, "p99Ms", waits->p99_ms);
    json_out_ki64(out, "started", waits->n);
    json_out_ki64(out, "late", waits->late);
    json_out_object_end(out);
}

static void lane_write(JsonOut *out, const Queue *queue, const QueueStats *stats,
                       const Capacity *capacity, Lane lane, int64_t now_ms)
{
    int64_t oldest_ms = stats->lane[lane].oldest_ready_at_ms;
    int64_t slots = capacity_lane(capacity, lane);
    bool none = oldest_ms == INT64_MAX || oldest_ms > now_ms;
    json_out_object(out);
    json_out_kcstr(out, "lane", lane_name(lane));
    json_out_ki64(out, "queued", stats->lane[lane].queued);
    json_out_ki64(out, "running", stats->lane[lane].running);
    json_out_ki64(out, "capacity", slots);
    json_out_ki64(out, "reserved", capacity->slots.reserved[lane]);
    json_out_ki64(out, "oldestQueuedMs", none ? 0 : now_ms - oldest_ms);
    json_out_key(out, "workerUtilization");
    json_out_f64(out, slots ? (double)stats->lane[lane].running / (double)slots : 0);
    json_out_ki64(out, "queuedMax", queue_options(queue)->queued_max[lane]);
    lane_waits_write(out, &stats->lane[lane].waits, queue_options(queue)->wait_objective_ms[lane]);
    json_out_object_end(out);
}

int queue_get_run_wait(ApiCall *call)
{
    QueueStats stats;
    RosterRead read;
    int r = queue_stats_wait(call->api->options.queue, &stats);
    if (r < 0) return api_fail_wait(call, r);
    if ((r = roster_wait(call, &read)) != 0) return r;
    int64_t now_ms = clock_real_ms();
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_key(out, "lanes");
    json_out_array(out);
    for (int lane = 0; lane < LANE_N_; lane++)
        lane_write(out, call->api->options.queue, &stats, &read.roster.capacity, (Lane)lane,
                   now_ms);
    json_out_array_end(out);
    json_out_ki64(out, "sharedSlots", read.roster.capacity.slots.shared);
    json_out_ki64(out, "workers", read.roster.capacity.by_state[WORKER_ACTIVE]);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

int scaling_get_run_wait(ApiCall *call)
{
    Queue *queue = call->api->options.queue;
    Lane lane;
    RosterRead read;
    QueueStats stats;
    Str name = call->params[0];
    if (str_empty(name) || lane_from(name, &lane) < 0)
        return api_problem_wait(call, 404, "lane_not_found",
                                "there are the lanes critical, normal and low");
    int r = roster_wait(call, &read);
    if (r != 0) return r;
    queue_stats(queue, &stats);
    const QueueLaneStats *s = &stats.lane[lane];
    const Capacity *capacity = &read.roster.capacity;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kcstr(out, "lane", lane_name(lane));
    json_out_ki64(out, "queued", s->queued);
    json_out_ki64(out, "running", s->running);
    json_out_ki64(out, "capacity", capacity_lane(capacity, lane));
    json_out_ki64(out, "workers", capacity->by_state[WORKER_ACTIVE]);
    json_out_ki64(out, "desiredWorkers", capacity_wanted(capacity, queue_options(queue), s, lane));
    json_out_ki64(out, "desiredWorkersAll",
                  capacity_wanted_all(capacity, queue_options(queue), stats.lane));
    json_out_key(out, "arrivalsPerSecond");
    json_out_f64(out, s->arrivals_per_s);
    json_out_ki64(out, "serviceMs", s->service_ms);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

static void worker_members(JsonOut *out, const Worker *worker)
{
    json_out_kuuid(out, "workerId", worker->id);
    json_out_kstr(out, "name", worker->name);
    json_out_kcstr(out, "kind", worker_kind_name(worker->kind));
    json_out_kcstr(out, "state", worker_state_name(worker->state));
    json_out_kraw(out, "slots", str_empty(worker->slots) ? STR("{}") : worker->slots);
    json_out_ki64(out, "running", worker->running);
    json_out_ktime(out, "registeredAt", worker->registered_at_ms);
    json_out_ktime(out, "heartbeatAt", worker->heartbeat_at_ms);
}

int worker_list_run_wait(ApiCall *call)
{
    RosterRead read;
    int r = roster_wait(call, &read);
    if (r != 0) return r;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "workers");
    json_out_array(&json.out);
    for (size_t i = 0; i < read.roster.n; i++) {
        json_out_object(&json.out);
        worker_members(&json.out, &read.roster.workers[i]);
        json_out_object_end(&json.out);
    }
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* A worker and what it runs. */
typedef struct {
    TaskHead head;
    int64_t until_ms; /* of the attempt: its own limit, or the task's deadline; 0: neither */
} WorkerTask;

typedef struct {
    Arena *arena;
    Uuid id;
    Worker worker;
    WorkerTask *tasks;
    size_t n;
    Str version_id; /* whose limit was read last */
    int64_t wall_ms;
} WorkerRead;

/* How long an attempt of the version may take; 0: unknown. */
static int wall_read(Db *db, WorkerRead *read, Str version_id)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    Version version;
    const Json *v;
    if (str_eq(read->version_id, version_id)) return 0;
    arena_init(&arena, VERSION_ARENA_BYTES_MAX);
    int r = version_get(db, version_id, &arena, &version);
    if (r != 0) return r;
    r = json_parse(&arena, version.components, NULL, &v, NULL);
    int64_t seconds = r == 0 ? json_i64_or(json_get(json_get(v, "limits"), "secondsPerTask"), 0)
                             : 0;
    read->version_id = version_id;
    read->wall_ms = MAX(0, MIN(seconds, WALL_SECONDS_MAX)) * 1000;
    return 0;
}

static int worker_task_read(Db *db, WorkerRead *read, WorkerTask *task)
{
    Task row;
    int r = task_get_by_seq(db, task->head.seq, 0, read->arena, &row);
    if (r == 0) r = wall_read(db, read, row.version_id);
    if (r != 0) return r;
    int64_t own_ms = read->wall_ms ? row.started_at_ms + read->wall_ms : INT64_MAX;
    int64_t until_ms = row.deadline_at_ms ? MIN(row.deadline_at_ms, own_ms) : own_ms;
    task->until_ms = until_ms == INT64_MAX ? 0 : until_ms;
    return 0;
}

static int worker_job(Db *db, void *arg)
{
    WorkerRead *read = arg;
    size_t n = HEARTBEAT_TASKS_MAX; /* no worker holds more */
    int r = worker_get(db, read->id, read->arena, &read->worker);
    if (r != 0) return r;
    TaskHead *heads = ARENA_ARRAY(read->arena, TaskHead, n);
    if (!heads) return -ENOMEM;
    r = task_running_of(db, read->id, 0, heads, &n);
    if (r != 0) return r;
    read->tasks = ARENA_ARRAY(read->arena, WorkerTask, n);
    if (!read->tasks) return -ENOMEM;
    for (; r == 0 && read->n < n; read->n++) {
        read->tasks[read->n].head = heads[read->n];
        r = worker_task_read(db, read, &read->tasks[read->n]);
    }
    return r;
}

static void worker_task_write(JsonOut *out, const WorkerTask *task)
{
    json_out_object(out);
    json_out_kuuid(out, "taskId", task->head.id);
    json_out_ki64(out, "attempt", task->head.attempt);
    json_out_kcstr(out, "priority", lane_name(task->head.lane));
    json_out_ktime(out, "startedAt", task->head.started_at_ms);
    json_out_ktime(out, "deadline", task->until_ms);
    json_out_object_end(out);
}

/* When the last of its tasks has run out of time; 0: nothing runs, or something without a limit. */
static int64_t worker_busy_until_ms(const WorkerRead *read)
{
    int64_t until_ms = 0;
    for (size_t i = 0; i < read->n; i++) {
        if (read->tasks[i].until_ms == 0) return 0;
        until_ms = MAX(until_ms, read->tasks[i].until_ms);
    }
    return until_ms;
}

int worker_get_run_wait(ApiCall *call)
{
    WorkerRead read = { .arena = &call->req->arena };
    int r = api_worker_id_wait(call, &read.id);
    if (r != 0) return r;
    r = store_read_wait(queue_store(call->api->options.queue), worker_job, &read);
    if (r == -ENOENT)
        return api_problem_wait(call, 404, "worker_not_found", "there is no such worker");
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    worker_members(out, &read.worker);
    json_out_ktime(out, "busyUntil", worker_busy_until_ms(&read));
    json_out_key(out, "tasks");
    json_out_array(out);
    for (size_t i = 0; i < read.n; i++) worker_task_write(out, &read.tasks[i]);
    json_out_array_end(out);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

int worker_drain_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    r = queue_drain_wait(call->api->options.queue, id);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kuuid(&json.out, "workerId", id);
    json_out_kcstr(&json.out, "state", worker_state_name(WORKER_DRAINING));
    json_out_object_end(&json.out);
    return api_json_wait(call, 202, &json);
}

/* --- for workers ------------------------------------------------------------------------------ */

static int wire_problem_wait(ApiCall *call, int r)
{
    if (r == -ENOMEM) return api_fail_wait(call, r);
    return api_problem_wait(call, 400, "member_invalid", "%s", diag_text());
}

/* An answer without a body. */
static int done_wait(ApiCall *call)
{
    return api_reply_wait(call, 204, NULL, STR(""));
}

/* The worker of the path and the body of the request. */
static int request_read_wait(ApiCall *call, Uuid *ret_id, const Json **ret_body)
{
    Str text;
    int r = api_worker_id_wait(call, ret_id);
    return r != 0 ? r : api_body_wait(call, &text, ret_body);
}

static int slots_text(Arena *arena, const LaneConfig *slots, Str *ret)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1024);
    JsonOut out = json_out(&text);
    wire_slots_write(&out, slots);
    *ret = arena_str(arena, buf_str(&text));
    return json_out_ok(&out) && ret->ptr ? 0 : -ENOMEM;
}

static int registered_wait(ApiCall *call, Uuid id)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kuuid(&json.out, "workerId", id);
    json_out_ki64(&json.out, "leaseMs", call->api->options.lease_ms);
    json_out_ki64(&json.out, "heartbeatMs", call->api->options.lease_ms / HEARTBEATS_A_LEASE);
    json_out_ki64(&json.out, "finishMax", FINISH_TASKS_MAX);
    json_out_object_end(&json.out);
    return api_json_wait(call, 201, &json);
}

int worker_register_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    LaneConfig slots;
    uint8_t random[UUID7_RANDOM_BYTES];
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    WorkerNew worker = { .name = json_str(json_get(body, "name")), .kind = WORKER_REMOTE };
    if (worker.name.len > NAME_BYTES_MAX || !str_is_utf8(worker.name))
        return api_problem_wait(call, 400, "member_invalid",
                                "`name` is to be at most %d bytes of text", NAME_BYTES_MAX);
    if (wire_slots_read(json_get(body, "slots"), &slots) < 0)
        return wire_problem_wait(call, -EINVAL);
    entropy_fill(random, sizeof random);
    worker.id = uuid7_make(clock_real_ms(), random);
    r = slots_text(&call->req->arena, &slots, &worker.slots);
    if (r == 0) r = queue_register_wait(call->api->options.queue, &worker);
    return r < 0 ? api_fail_wait(call, r) : registered_wait(call, worker.id);
}

/* --- claims ----------------------------------------------------------------------------------- */

/* Gives back what was claimed when its worker could not be told. */
static void claims_release_wait(Queue *queue, const Task *tasks, size_t n)
{
    CLEANUP(freep) TaskFinish *finishes = xcalloc(n, sizeof *finishes);
    CLEANUP(freep) TaskFinished *ends = xcalloc(n, sizeof *ends);
    for (size_t i = 0; i < n; i++)
        finishes[i] = (TaskFinish){ .task = { tasks[i].id, tasks[i].fence },
                                    .outcome = TASK_OUTCOME_RELEASED };
    fiber_shield();
    int r = queue_finish_many_wait(queue, finishes, n, ends);
    if (r < 0) LOG_WARN("claims not given back", LOG_CSTR("reason", diag_text_or(r)));
    fiber_unshield();
}

/* The answer to a claim: made while its tasks become durable, or when they are. */
typedef struct {
    ApiCall *call;
    ApiJson json;
    HttpReady ready;
    bool made;
} ClaimReply;

static void claim_reply_drop(ClaimReply *reply)
{
    if (reply->made) http_reply_drop(reply->call->req);
    reply->made = false;
}

/* ClaimAnswer.make. False: it does not fit, or nobody is there. */
static bool claim_reply_make(void *ctx, const Task *tasks, size_t n)
{
    ClaimReply *reply = ctx;
    JsonOut *out = &reply->json.out;
    claim_reply_drop(reply);
    if (http_gone(reply->call->req)) return false;
    buf_clear(&reply->json.buf);
    *out = json_out(&reply->json.buf);
    json_out_object(out);
    json_out_key(out, "tasks");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) {
        LinkTask task = link_task_from(&tasks[i]);
        wire_task_write(out, &task);
    }
    json_out_array_end(out);
    json_out_object_end(out);
    if (!json_out_ok(out)) return false;
    api_json_make(reply->call, 200, &reply->json, &reply->ready);
    return reply->made = true;
}

static void claim_reply_send(void *ctx)
{
    http_reply_send(&((ClaimReply *)ctx)->ready);
}

static int claims_reply_wait(ClaimReply *reply, bool made, const Task *tasks, size_t n)
{
    ApiCall *call = reply->call;
    made = made || claim_reply_make(reply, tasks, n);
    int r = made ? http_reply_rest_wait(call->req, &reply->ready) : HTTP_E_GONE;
    if (r != 0) claims_release_wait(call->api->options.queue, tasks, n);
    if (!made && !http_gone(call->req)) return api_fail_wait(call, -ENOMEM);
    return r < 0 ? r : API_E_REPLIED; /* a worker that drains leaves while it waits */
}

/* Waits a second at a time, so that a worker that went away is not given tasks. */
static int claim_loop_wait(ApiCall *call, const Claim *claim, int64_t deadline_ms, Arena *arena,
                           Task **ret, size_t *ret_n)
{
    *ret_n = 0;
    do {
        if (http_gone(call->req)) return 0;
        int r = queue_claim_wait(call->api->options.queue, claim, api_wait_step(deadline_ms), arena,
                                 ret, ret_n);
        if (r != -ETIMEDOUT) return r;
    } while (clock_mono_ms() < deadline_ms && !api_wait_over(call));
    return 0;
}

int worker_claim_run_wait(ApiCall *call)
{
    Claim claim = { 0 };
    const Json *body;
    int r = request_read_wait(call, &claim.worker_id, &body);
    if (r != 0) return r;
    r = wire_slots_read(json_get(body, "free"), &claim.slots); /* all free: nothing is in use */
    if (r < 0) return wire_problem_wait(call, r);
    if (lane_slots(&claim.slots) == 0)
        return api_problem_wait(call, 400, "member_invalid", "`free` has no slot");
    int64_t wait_ms = json_i64_or(json_get(body, "waitMs"), 0);
    wait_ms = MIN(MAX(wait_ms, 0), CLAIM_WAIT_MAX_MS);
    Task *tasks = NULL;
    size_t n;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, WIRE_CLAIM_BYTES_MAX);
    ClaimReply reply = { .call = call };
    api_json(&reply.json, API_JSON_BYTES_MAX);
    ClaimAnswer answer = { .ctx = &reply, .make = claim_reply_make, .send = claim_reply_send };
    claim.answer = &answer;
    r = claim_loop_wait(call, &claim, deadline_after(wait_ms), &arena, &tasks, &n);
    if (r != 0) claim_reply_drop(&reply);
    r = r != 0 ? api_queue_fail_wait(call, r) : claims_reply_wait(&reply, answer.stands, tasks, n);
    api_json_deinit(&reply.json);
    return r;
}

/* --- reports ---------------------------------------------------------------------------------- */

int worker_cache_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    CacheFigures figures;
    CacheNews news;
    int64_t seen;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    wire_cache_read(body, &figures, &seen);
    r = queue_cache_report_wait(call->api->options.queue, id, &figures, seen, &call->req->arena,
                                &news);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_news_write(&json.out, &news);
    return api_json_wait(call, 200, &json);
}

int worker_heartbeat_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    HeartbeatReply beat;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    const Json *tasks = json_get(body, "tasks");
    if (json_len(tasks) > HEARTBEAT_TASKS_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`tasks` has more than %d elements",
                                HEARTBEAT_TASKS_MAX);
    TaskRef *held = ARENA_ARRAY(&call->req->arena, TaskRef, json_len(tasks) + 1);
    if (!held) return api_fail_wait(call, -ENOMEM);
    size_t n = 0;
    for (JsonIter it = json_iter(tasks); json_next(&it);)
        if (wire_ref_read(it.value, &held[n++]) < 0) return wire_problem_wait(call, -EINVAL);
    Heartbeat told = { .held = held, .held_n = n };
    WorkerCounts counts = worker_counts_read(json_get(body, "counts"));
    if (json_get(body, "counts")) told.counts = &counts;
    r = wire_holds_read(&call->req->arena, json_get(body, "holds"), &told.calls, &told.calls_n);
    if (r < 0) return wire_problem_wait(call, r);
    r = queue_heartbeat_wait(call->api->options.queue, id, &told, &call->req->arena, &beat);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_beat_write(&json.out, &beat);
    return api_json_wait(call, 200, &json);
}

/* Held until the worker has a reason to heartbeat before its time. */
int worker_signal_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    uint64_t mark = (uint64_t)json_i64_or(json_get(body, "mark"), 0);
    int64_t wait_ms = MIN(MAX(json_i64_or(json_get(body, "waitMs"), 0), 0), CLAIM_WAIT_MAX_MS);
    int64_t deadline_ms = deadline_after(wait_ms);
    do r = queue_signal_wait(call->api->options.queue, id, mark, api_wait_step(deadline_ms));
    while (r == -ETIMEDOUT && clock_mono_ms() < deadline_ms && !api_wait_over(call));
    if (r < 0 && r != -ETIMEDOUT) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kbool(&json.out, "signalled", r == 0);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

int worker_finish_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    TaskFinish finish;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    if ((r = wire_finish_read(&call->req->arena, body, &finish)) < 0)
        return wire_problem_wait(call, r);
    finish.task.worker_id = id;
    r = queue_finish_wait(call->api->options.queue, &finish, NULL);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}

/* Several reports on their way to the queue: those that can be read, and what is said to each. */
typedef struct {
    size_t n, read_n;
    TaskFinish finishes[FINISH_TASKS_MAX];
    TaskFinished ends[FINISH_TASKS_MAX];
    int statuses[FINISH_TASKS_MAX]; /* 0: of those that were read */
} FinishMany;

/* Returns 0 or -ENOMEM. */
static int finish_many_read(Arena *arena, Uuid worker_id, const Json *tasks, FinishMany *many)
{
    for (JsonIter it = json_iter(tasks); json_next(&it); many->n++) {
        TaskFinish *finish = &many->finishes[many->read_n];
        int r = wire_finish_read(arena, it.value, finish);
        if (r == -ENOMEM) return r;
        finish->task.worker_id = worker_id;
        many->read_n += r == 0;
        many->statuses[many->n] = r == 0 ? 0 : 400;
    }
    return 0;
}

static void finish_many_say(FinishMany *many)
{
    const TaskFinished *end = many->ends;
    for (size_t i = 0; i < many->n; i++)
        if (many->statuses[i] == 0) many->statuses[i] = end++->outcome == 0 ? 204 : 409;
}

int worker_finish_many_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    const Json *tasks = json_get(body, "tasks");
    if (json_len(tasks) > FINISH_TASKS_MAX)
        return api_problem_wait(call, 400, "member_invalid",
                                "`tasks` has more than %d elements: send them in several requests",
                                FINISH_TASKS_MAX);
    FinishMany *many = ARENA_NEW(&call->req->arena, FinishMany);
    if (!many) return api_fail_wait(call, -ENOMEM);
    many->n = many->read_n = 0;
    r = finish_many_read(&call->req->arena, id, tasks, many);
    if (r == 0)
        r = queue_finish_many_wait(call->api->options.queue, many->finishes, many->read_n,
                                   many->ends);
    if (r < 0) return api_fail_wait(call, r);
    finish_many_say(many);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_finished_write(&json.out, many->statuses, many->n);
    return api_json_wait(call, 200, &json);
}

/* What the worker tells of a task, it tells of one that it holds. */
static int held_read_wait(ApiCall *call, Uuid worker_id, const Json *body, TaskRef *ret)
{
    int r = wire_ref_read(body, ret);
    if (r < 0) return wire_problem_wait(call, r);
    ret->worker_id = worker_id;
    return 0;
}

int worker_score_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    TaskScore score;
    double quality;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    if ((r = wire_score_read(body, &score)) < 0) return wire_problem_wait(call, r);
    score.worker_id = id;
    r = queue_score_wait(call->api->options.queue, &score, &quality);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}

int worker_calls_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    TaskRef task;
    int r = request_read_wait(call, &id, &body);
    if (r == 0) r = held_read_wait(call, id, body, &task);
    if (r != 0) return r;
    Uuid payer = id;
    if (json_get(body, "payerId") &&
        uuid_from_text(json_str(json_get(body, "payerId")), &payer) < 0)
        return api_problem_wait(call, 400, "member_invalid", "`payerId` is not the id of a worker");
    const Json *list = json_get(body, "calls");
    if (json_len(list) > CALLS_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`calls` has more than %d elements",
                                CALLS_MAX);
    Call *calls = ARENA_ARRAY(&call->req->arena, Call, json_len(list) + 1);
    if (!calls) return api_fail_wait(call, -ENOMEM);
    size_t n = 0;
    for (JsonIter it = json_iter(list); json_next(&it);)
        if ((r = wire_call_read(&call->req->arena, it.value, &calls[n++])) < 0)
            return wire_problem_wait(call, r);
    for (size_t i = 0; i < n; i++) {
        calls[i].fence = task.fence;
        calls[i].worker_id = payer;
    }
    r = queue_calls_add_wait(call->api->options.queue, task, calls, n);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}

int worker_tools_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    TaskRef task;
    int r = request_read_wait(call, &id, &body);
    if (r == 0) r = held_read_wait(call, id, body, &task);
    if (r != 0) return r;
    const Json *list = json_get(body, "tools");
    if (json_len(list) > CALLS_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`tools` has more than %d elements",
                                CALLS_MAX);
    ToolRecord *records = ARENA_ARRAY(&call->req->arena, ToolRecord, json_len(list) + 1);
    if (!records) return api_fail_wait(call, -ENOMEM);
    size_t n = 0;
    for (JsonIter it = json_iter(list); json_next(&it);)
        if ((r = wire_tool_read(it.value, &records[n++])) < 0) return wire_problem_wait(call, r);
    r = queue_tools_add_wait(call->api->options.queue, task, records, n);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}

int worker_recordings_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    TaskRef task;
    JournalNew recordings[RECORDINGS_MAX];
    size_t n = 0;
    int r = request_read_wait(call, &id, &body);
    if (r == 0) r = held_read_wait(call, id, body, &task);
    if (r != 0) return r;
    const Json *list = json_get(body, "recordings");
    if (json_len(list) > RECORDINGS_MAX)
        return api_problem_wait(call, 400, "member_invalid",
                                "`recordings` has more than %d elements", RECORDINGS_MAX);
    for (JsonIter it = json_iter(list); json_next(&it);)
        if ((r = wire_recording_read(&call->req->arena, it.value, &recordings[n++])) < 0)
            return wire_problem_wait(call, r);
    r = queue_journal_add_wait(call->api->options.queue, task, recordings, n);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}

/* --- the journal, for attempts that go on where another ended --------------------------------- */

static int journal_ask_wait(ApiCall *call, TaskRef *ret_task, JournalAsk *ret)
{
    static const char *const names[] = {
        [JOURNAL_LIST] = "after", [JOURNAL_ANSWER] = "answer", [JOURNAL_REQUEST] = "request"
    };
    int given = 0;
    if (uuid_from_text(api_param(call, "task"), &ret_task->id) < 0)
        return api_problem_wait(call, 400, "parameter_invalid", "`task` is no task's id");
    int r = api_param_i64_wait(call, "fence", 0, INT64_MAX, 0, &ret_task->fence);
    for (int i = 0; i < (int)ARRAY_N(names) && r == 0; i++) {
        if (str_empty(api_param(call, names[i]))) continue;
        given++;
        ret->what = (JournalWhat)i;
        r = api_param_i64_wait(call, names[i], 0, INT64_MAX, 0, &ret->n);
    }
    ret->twin = str_eq(api_param(call, "twin"), STR("true"));
    ret->id = api_param(call, "owns");
    if (!str_empty(ret->id)) {
        given++;
        ret->what = JOURNAL_OWNS;
    }
    if (r != 0 || given == 1) return r;
    return api_problem_wait(call, 400, "parameter_invalid",
                            "one of `after`, `answer`, `request` and `owns` is to be given");
}

static int journal_read_wait(ApiCall *call, TaskRef task, const JournalAsk *ask, Arena *arena,
                             Buf *request, JournalReply *ret)
{
    Queue *queue = call->api->options.queue;
    switch (ask->what) {
    case JOURNAL_LIST:
        if (ask->twin)
            return queue_twin_list_wait(queue, task, ask->n, JOURNAL_PAGE_MAX, arena, &ret->rows,
                                        &ret->rows_n);
        return queue_journal_list_wait(queue, task, ask->n, JOURNAL_PAGE_MAX, arena, &ret->rows,
                                       &ret->rows_n);
    case JOURNAL_ANSWER:
        if (ask->twin)
            return queue_twin_answer_wait(queue, task, ask->n, arena, &ret->row, &ret->answer);
        return queue_journal_answer_wait(queue, task, ask->n, arena, &ret->row, &ret->answer);
    case JOURNAL_OWNS: return queue_response_owned_wait(queue, task, ask->id);
    case JOURNAL_REQUEST: break;
    }
    int r = queue_journal_request_wait(queue, task, ask->n, request);
    ret->request = buf_str(request);
    return r;
}

int worker_journal_run_wait(ApiCall *call)
{
    Uuid id;
    TaskRef task;
    JournalAsk ask = { .n = 0 };
    JournalReply reply = { .rows_n = 0 };
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = journal_ask_wait(call, &task, &ask);
    if (r != 0) return r;
    task.worker_id = id;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf request;
    arena_init(&arena, 4 * JOURNAL_ANSWER_MAX);
    buf_init(&request, JOURNAL_REQUEST_MAX);
    r = journal_read_wait(call, task, &ask, &arena, &request, &reply);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_journal_write(&json.out, &ask, &reply);
    return api_json_wait(call, 200, &json);
}

int worker_logs_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    TaskRef task;
    int r = request_read_wait(call, &id, &body);
    if (r == 0) r = held_read_wait(call, id, body, &task);
    if (r != 0) return r;
    const Json *list = json_get(body, "entries");
    if (json_len(list) > LINES_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`entries` has more than %d elements",
                                LINES_MAX);
    TaskLogLine *lines = ARENA_ARRAY(&call->req->arena, TaskLogLine, json_len(list) + 1);
    if (!lines) return api_fail_wait(call, -ENOMEM);
    size_t n = 0;
    for (JsonIter it = json_iter(list); json_next(&it);)
        if ((r = wire_line_read(it.value, &lines[n++])) < 0) return wire_problem_wait(call, r);
    r = queue_logs_append_wait(call->api->options.queue, task, lines, n, NULL);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}

int worker_leave_run_wait(ApiCall *call)
{
    Uuid id;
    const Json *body;
    int r = request_read_wait(call, &id, &body);
    if (r != 0) return r;
    char name[UUID_TEXT_MAX];
    if (call->api->options.board)
        rate_board_leave(call->api->options.board, str_of(uuid_text(id, name)));
    r = queue_leave_wait(call->api->options.queue, id);
    return r != 0 ? api_queue_fail_wait(call, r) : done_wait(call);
}
