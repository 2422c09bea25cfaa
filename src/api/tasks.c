/* Tasks: reading, listing, cancelling, retrying, scoring. */
#include "api/tasks.h"

#include "base/diag.h"
#include "observe/task_json.h"
#include "sys/clock.h"

#define SCRATCH_BYTES_MAX ((size_t)1 << 20)

/* --- one task --------------------------------------------------------------------------------- */

const Param task_get_params[] = {
    { "wait", "string", "Hold the answer until the task has ended, at most so long (up to 60s)" },
    { 0 },
};

/* Until the task has ended, the deadline has passed or nobody needs the answer any more. What is
 * read meanwhile is dropped again: a task that logs a lot moves its mark a lot. */
static int end_await(ApiCall *call, Uuid id, int64_t deadline_ms)
{
    Queue *queue = call->api->options.queue;
    CLEANUP(arena_deinit) Arena scratch;
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    while (clock_mono_ms() < deadline_ms && !api_wait_over(call)) {
        Task task;
        arena_clear(&scratch);
        uint64_t mark = queue_watch_mark(queue, id);
        int r = queue_get_wait(queue, id, 0, &scratch, &task);
        if (r != 0 || task_state_ended(task.state)) return r;
        r = queue_watch_wait(queue, id, mark, api_wait_step(deadline_ms));
        if (r < 0 && r != -ETIMEDOUT) return r;
    }
    return 0;
}

typedef struct {
    int64_t seq;
    Arena *arena;
    FamilyRow *rows;
    size_t n;
    FamilyTotals totals;
} FamilyRead;

static int family_job(Db *db, void *arg)
{
    FamilyRead *read = arg;
    int r = family_list(db, read->seq, read->arena, &read->rows, &read->n);
    return r == 0 ? family_totals(db, read->seq, &read->totals) : r;
}

/* What the task has started, if anything. */
static int task_reply_wait(ApiCall *call, const Task *task)
{
    FamilyRead read = { .seq = task->seq, .arena = &call->req->arena };
    int r = 0;
    if (task->children)
        r = store_read_wait(queue_store(call->api->options.queue), family_job, &read);
    TaskPlace place = { 0 };
    if (r == 0 && task->state == TASK_QUEUED)
        r = queue_place_wait(call->api->options.queue, task, &place);
    if (r < 0) return api_fail_wait(call, r);
    TaskAround around = { read.rows, read.n, task->children ? &read.totals : NULL, &place };
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    task_json_with(&json.out, task, TASK_JSON_RESULT, &around);
    return api_json_wait(call, 200, &json);
}

int task_get_run_wait(ApiCall *call)
{
    Uuid id;
    int64_t wait_ms;
    int r = api_task_id_wait(call, &id);
    if (r == 0) r = api_param_duration_wait(call, "wait", API_WAIT_MS_MAX, 0, &wait_ms);
    if (r != 0) return r;
    if (wait_ms > 0) r = end_await(call, id, deadline_after(wait_ms));
    Task task;
    if (r == 0)
        r = queue_get_wait(call->api->options.queue, id,
                           TASK_PART_PAYLOAD | TASK_PART_RESULT | TASK_PART_QUESTION,
                           &call->req->arena, &task);
    return r != 0 ? api_queue_fail_wait(call, r) : task_reply_wait(call, &task);
}

/* --- lists ------------------------------------------------------------------------------------ */

const Param task_list_params[] = {
    { "status", "string", "Only tasks of this status" },
    { "agent", "string", "Only tasks of this agent" },
    { "versionId", "string", "Only tasks of this version (its whole id)" },
    { "priority", "string", "Only tasks of this lane" },
    { "shadow", "boolean", "true: only those that repeat a production task beside it; else none" },
    { "limit", "integer", "Tasks a page, 1 to 500; 50 when left out" },
    { "cursor", "string", "nextCursor of the page before" },
    { 0 },
};

static int filter_read_wait(ApiCall *call, TaskFilter *ret)
{
    Str status = api_param(call, "status"), priority = api_param(call, "priority");
    TaskState state = TASK_QUEUED;
    Lane lane = LANE_NORMAL;
    int64_t limit;
    if (!str_empty(status) && task_state_from(status, &state) < 0)
        return api_problem_wait(call, 400, "parameter_invalid",
                                "?status is to be one of queued, running, succeeded, failed, "
                                "timed_out, canceled, escalated");
    if (!str_empty(priority) && lane_from(priority, &lane) < 0)
        return api_problem_wait(call, 400, "parameter_invalid",
                                "?priority is to be one of critical, normal, low");
    int r = api_param_i64_wait(call, "limit", 1, PAGE_ROWS_MAX, PAGE_ROWS_DEFAULT, &limit);
    if (r != 0) return r;
    *ret = (TaskFilter){
        .state = str_empty(status) ? -1 : (int)state,
        .lane = str_empty(priority) ? -1 : (int)lane,
        .agent = api_param(call, "agent"),
        .version_id = api_param(call, "versionId"),
        .shadows = str_eq(api_param(call, "shadow"), STR("true")),
        .cursor = api_param(call, "cursor"),
        .limit = (size_t)limit,
    };
    return 0;
}

int api_cursor_problem_wait(ApiCall *call)
{
    return api_problem_wait(call, 400, "parameter_invalid",
                            "?cursor is to be the nextCursor of an earlier page");
}

void api_cursor_write(JsonOut *out, PageCursor next)
{
    json_out_key(out, "nextCursor");
    if (next.text[0]) json_out_str(out, str_of(next.text));
    else json_out_null(out);
}

int task_list_run_wait(ApiCall *call)
{
    TaskFilter filter;
    TaskPage page;
    int r = filter_read_wait(call, &filter);
    if (r != 0) return r;
    r = queue_list_wait(call->api->options.queue, &filter, &call->req->arena, &page);
    if (r == -EINVAL) return api_cursor_problem_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "tasks");
    json_out_array(&json.out);
    for (size_t i = 0; i < page.n; i++) task_json(&json.out, &page.tasks[i], 0);
    json_out_array_end(&json.out);
    api_cursor_write(&json.out, page.next);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- cancel, retry ---------------------------------------------------------------------------- */

const BodySpec empty_body = { .name = "Empty" };

static int state_reply_wait(ApiCall *call, Uuid id, TaskState state, int status)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kuuid(&json.out, "taskId", id);
    json_out_kcstr(&json.out, "status", task_state_name(state));
    json_out_object_end(&json.out);
    return api_json_wait(call, status, &json);
}

int task_cancel_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    TaskState state;
    int r = api_task_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    r = queue_cancel_wait(call->api->options.queue, id, STR("user"), &state);
    if (r != 0) return api_queue_fail_wait(call, r);
    /* a running task ends when its worker has stopped it */
    return state_reply_wait(call, id, state, task_state_ended(state) ? 200 : 202);
}

static const Member retry_members[] = {
    { "fresh", MEMBER_BOOLEAN, false, "Ask models and tools anew: replay nothing", NULL },
};
const BodySpec retry_body = { .name = "RetryRequest",
                              .members = retry_members,
                              .n = ARRAY_N(retry_members) };

/* The diag of the refusal stays. */
static int retry_full_wait(ApiCall *call, Uuid id)
{
    Task task = { .lane = LANE_NORMAL };
    int r = queue_get_wait(call->api->options.queue, id, 0, &call->req->arena, &task);
    return r < 0 ? api_fail_wait(call, r) : api_lane_fail_wait(call, QUEUE_E_FULL, task.lane);
}

int task_retry_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    int r = api_task_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    bool fresh = json_bool(json_get(body, "fresh"), false);
    r = queue_retry_wait(call->api->options.queue, id, fresh);
    if (r == QUEUE_E_FULL) return retry_full_wait(call, id);
    return r == 0 ? state_reply_wait(call, id, TASK_QUEUED, 202) : api_queue_fail_wait(call, r);
}

/* --- score ------------------------------------------------------------------------------------ */

static const Member score_members[] = {
    { "value", MEMBER_NUMBER, true, "0 (useless) to 1 (perfect)", NULL },
    { "name", MEMBER_STRING, false, "Who or what judged; quality when left out", NULL },
    { "comment", MEMBER_STRING, false, "Kept in the task's log", NULL },
};

const BodySpec score_body = {
    .name = "ScoreRequest", .members = score_members, .n = ARRAY_N(score_members), .required = true
};

static int score_read_wait(ApiCall *call, TaskScore *ret)
{
    Str text;
    const Json *body;
    int r = api_task_id_wait(call, &ret->id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    ret->value = json_f64_or(json_get(body, "value"), -1);
    ret->name = json_str(json_get(body, "name"));
    ret->comment = json_str(json_get(body, "comment"));
    if (str_empty(ret->name)) ret->name = STR("quality");
    if (!(ret->value >= 0 && ret->value <= 1))
        return api_problem_wait(call, 400, "member_invalid", "`value` is to be from 0 to 1");
    if (ret->name.len > TASK_SCORE_NAME_BYTES_MAX || !str_is_utf8(ret->name))
        return api_problem_wait(call, 400, "member_invalid",
                                "`name` is to be at most %d bytes of text",
                                TASK_SCORE_NAME_BYTES_MAX);
    if (score_name_is_grader(ret->name))
        return api_problem_wait(call, 400, "member_invalid",
                                "`name`: \"" SCORE_OF_GRADER "…\" are the scores of graders");
    if (ret->comment.len > TASK_SCORE_COMMENT_BYTES_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`comment` has more than %d bytes",
                                TASK_SCORE_COMMENT_BYTES_MAX);
    return 0;
}

int task_score_run_wait(ApiCall *call)
{
    TaskScore score = { .fence = 0 };
    double quality = 0;
    int r = score_read_wait(call, &score);
    if (r != 0) return r;
    r = queue_score_wait(call->api->options.queue, &score, &quality);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kuuid(&json.out, "taskId", score.id);
    json_out_key(&json.out, "quality");
    json_out_f64(&json.out, quality);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
