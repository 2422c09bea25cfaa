#include "worker/door.h"

#include "base/diag.h"
#include "base/log.h"
#include "codec/url.h"
#include "sys/clock.h"
#include "worker/door_escalate.h"
#include "worker/door_state.h"
#include "worker/door_tasks.h"
#include "worker/tool.h"

#define ARGUMENTS_BYTES_MAX ((size_t)1 << 20)
#define ANSWER_BYTES_MAX ((size_t)128 << 20)
#define CALL_ID_BYTES_MAX 256
#define TOOLS_PATH "/gantry/v1/tools/"
#define SCORE_PATH "/gantry/v1/score"
#define SCORE_BYTES_MAX 16384

int door_body_wait(Run *run, HttpReq *req, size_t max, Str *ret)
{
    int r = http_body_wait(req, max, ret);
    if (run->gateway) gateway_door_read(run->gateway, req, r == 0 ? ret->len : 0);
    return r;
}

/* --- answers ---------------------------------------------------------------------------------- */

static const struct {
    int status;
    const char *code;
} refusals[TOOL_OUTCOME_N_] = {
    [TOOL_OUTCOME_UNKNOWN] = { 404, "tool_not_declared" },
    [TOOL_OUTCOME_OF_AGENT] = { 409, "tool_of_agent" },
    [TOOL_OUTCOME_ARGUMENTS] = { 422, "arguments_invalid" },
    [TOOL_OUTCOME_DENIED] = { 403, "tool_denied" },
    [TOOL_OUTCOME_OFF] = { 403, "switched_off" },
    [TOOL_OUTCOME_CHANGED] = { 403, "tool_changed" },
    [TOOL_OUTCOME_CAP] = { 402, "cap_reached" },
    [TOOL_OUTCOME_OPEN] = { 503, "breaker_open" },
};

static int refusal_wait(HttpReq *req, const ToolResult *result)
{
    if (result->outcome == TOOL_OUTCOME_OPEN) {
        int64_t ms = MAX(result->again_ms - clock_mono_ms(), 0);
        Str seconds = arena_printf(&req->arena, "%" PRId64, ms / 1000 + 1);
        if (seconds.ptr) http_header_add(req, "Retry-After", seconds);
    }
    if (result->outcome == TOOL_OUTCOME_CAP) http_header_add(req, "x-should-retry", STR("false"));
    return http_problem_wait(req, refusals[result->outcome].status, refusals[result->outcome].code,
                             "%.*s", STR_ARG(result->text));
}

/* Objects and arrays as what they are, all else as text: so that "007" stays a text. */
static void result_write(JsonOut *out, Str text)
{
    const Json *v = NULL;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 16 * text.len + 65536);
    bool container = text.len && (text.ptr[0] == '{' || text.ptr[0] == '[');
    json_out_key(out, "result");
    if (container && json_parse(&arena, text, NULL, &v, NULL) == 0) json_out_value(out, v);
    else json_out_str(out, text);
}

static int result_wait(HttpReq *req, const ToolResult *result)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, ANSWER_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    result_write(&out, result->text);
    json_out_kbool(&out, "isError", result->is_error);
    json_out_kcstr(&out, "outcome", tool_outcome_name(result->outcome));
    json_out_object_end(&out);
    if (result->replayed) http_header_add(req, "x-gantry-replayed", STR("1"));
    if (!json_out_ok(&out)) return diag_set(-ENOMEM, "the tool's result is too large");
    return http_reply_wait(req, 200, "application/json", buf_str(&body));
}

/* --- calls of tools --------------------------------------------------------------------------- */

static int tool_ask(HttpReq *req, Str body, ToolAsk *ret)
{
    Str name = STR_NULL;
    int r = url_decode(&req->arena, str_skip(req->path, STR(TOOLS_PATH).len), false, &name);
    if (r < 0) name = STR_NULL;
    *ret = (ToolAsk){ .name = name,
                      .arguments = body,
                      .call_id = http_header(req, DOOR_CALL_ID_HEADER),
                      .client = req };
    return r == -ENOMEM ? r : 0;
}

/* An id names one call of an attempt, which is made once. */
static int id_refused_wait(Run *run, HttpReq *req, int why)
{
    atomic_fetch_add(&run->host->counters.tools_clashed, 1);
    http_header_add(req, "x-should-retry", STR("false"));
    if (why == TOOL_E_OTHER)
        return http_problem_wait(req, 409, "call_id_taken",
                                 "this %s was given to a call of another tool, or with other "
                                 "arguments: the tool was not called",
                                 DOOR_CALL_ID_HEADER);
    return http_problem_wait(req, 409, "call_result_lost",
                             "the call with this %s was made already, and its result is not kept: "
                             "the tool was not called again",
                             DOOR_CALL_ID_HEADER);
}

static int tool_answer_wait(Run *run, HttpReq *req, Str body)
{
    ToolAsk ask;
    ToolResult result;
    int r = tool_ask(req, body, &ask);
    if (r < 0) return r;
    if (ask.call_id.len > CALL_ID_BYTES_MAX)
        return http_problem_wait(req, 400, "call_id_invalid", "%s has more than %d bytes",
                                 DOOR_CALL_ID_HEADER, CALL_ID_BYTES_MAX);
    r = tool_run_wait(run, &ask, &req->arena, &result);
    if (r == -ECANCELED)
        return http_problem_wait(req, 503, "task_stopped", "the task was stopped meanwhile");
    if (r == TOOL_E_OTHER || r == TOOL_E_LOST) return id_refused_wait(run, req, r);
    if (r < 0) return r;
    return refusals[result.outcome].status ? refusal_wait(req, &result) : result_wait(req, &result);
}

static int tool_wait(Run *run, HttpReq *req)
{
    Str body;
    if (!str_eq(req->method, STR("POST"))) {
        http_header_add(req, "allow", STR("POST"));
        return http_problem_wait(req, 405, "method_not_allowed", "tools are called by POST");
    }
    if (run->door_calls_n - run->door_tasks_n > DOOR_CALLS_MAX) { /* this one is counted already */
        atomic_fetch_add(&run->host->counters.tools_crowded, 1);
        return http_problem_wait(req, 429, "too_many_calls",
                                 "the task has %d tool calls under way already", DOOR_CALLS_MAX);
    }
    int r = door_body_wait(run, req, ARGUMENTS_BYTES_MAX, &body);
    if (r == HTTP_E_TOO_LARGE)
        return http_problem_wait(req, 413, "body_too_large",
                                 "the arguments have more than %zu bytes", ARGUMENTS_BYTES_MAX);
    if (r == HTTP_E_GONE) return 0;
    return r < 0 ? r : tool_answer_wait(run, req, body);
}

/* --- scores ----------------------------------------------------------------------------------- */

/* Returns what is wrong with it, NULL: nothing. Texts live in arena. */
static const char *score_read(Arena *arena, Str body, TaskScore *ret)
{
    const Json *v;
    if (json_parse(arena, body, NULL, &v, NULL) < 0 || json_type(v) != JSON_OBJECT)
        return "the body is to be a JSON object";
    for (JsonIter it = json_iter(v); json_next(&it);)
        if (!str_eq(it.key, STR("value")) && !str_eq(it.key, STR("name")) &&
            !str_eq(it.key, STR("comment")))
            return "there are no members but `value`, `name` and `comment`";
    ret->value = json_f64_or(json_get(v, "value"), -1);
    ret->name = json_str(json_get(v, "name"));
    ret->comment = json_str(json_get(v, "comment"));
    if (str_empty(ret->name)) ret->name = STR("agent");
    if (!(ret->value >= 0 && ret->value <= 1)) return "`value` is to be a number from 0 to 1";
    if (ret->name.len > TASK_SCORE_NAME_BYTES_MAX) return "`name` is too long";
    if (score_name_is_grader(ret->name)) return "`name` is a grader's";
    return ret->comment.len > TASK_SCORE_COMMENT_BYTES_MAX ? "`comment` is too long" : NULL;
}

static int score_tell_wait(Run *run, HttpReq *req, const TaskScore *score)
{
    WorkerLink *link = run->host->link;
    int r = link->ops->score_wait(link, score);
    if (r == 0) return http_reply_wait(req, 204, "", STR_NULL);
    if (r == -ECANCELED || r == LINK_E_STALE)
        return http_problem_wait(req, 503, "task_stopped", "the task was stopped meanwhile");
    if (r == LINK_E_REFUSED)
        return http_problem_wait(req, 422, "scores_full", "the task has too many scores");
    LOG_WARN("score not recorded", LOG_CSTR("why", diag_text_or(r)));
    return http_problem_wait(req, 503, "not_recorded", "the score could not be kept; try again");
}

static int score_wait(Run *run, HttpReq *req)
{
    Str body;
    TaskScore score = { .id = run->task.ref.id, .fence = run->task.ref.fence };
    if (!str_eq(req->method, STR("POST"))) {
        http_header_add(req, "allow", STR("POST"));
        return http_problem_wait(req, 405, "method_not_allowed", "scores are told by POST");
    }
    int r = door_body_wait(run, req, SCORE_BYTES_MAX, &body);
    if (r == HTTP_E_TOO_LARGE)
        return http_problem_wait(req, 413, "body_too_large", "the body has more than %d bytes",
                                 SCORE_BYTES_MAX);
    if (r == HTTP_E_GONE) return 0;
    if (r < 0) return r;
    const char *wrong = score_read(&req->arena, body, &score);
    if (wrong) return http_problem_wait(req, 400, "body_invalid", "%s", wrong);
    return score_tell_wait(run, req, &score);
}

/* --- which route ------------------------------------------------------------------------------ */

static int tasks_wait(Run *run, HttpReq *req)
{
    run->door_tasks_n++;
    int r = door_tasks_wait(run, req);
    run->door_tasks_n--;
    return r;
}

/* Requests below a path, or at it. */
static const struct {
    Str path;
    int (*run_wait)(Run *run, HttpReq *req);
} routes[] = {
    { STR("/gantry/v1/tools"), tool_wait },          { STR(SCORE_PATH), score_wait },
    { STR(DOOR_STATE_PATH), door_state_wait },       { STR(DOOR_TASKS_PATH), tasks_wait },
    { STR(DOOR_ESCALATE_PATH), door_escalate_wait },
};

static bool is_below(Str path, Str route)
{
    return str_starts_with(path, route) && (path.len == route.len || path.ptr[route.len] == '/');
}

static int unknown_wait(Run *run, HttpReq *req)
{
    (void)run;
    return http_problem_wait(req, 404, "route_not_found", "there is no such route");
}

static int route_wait(Run *run, HttpReq *req)
{
    for (size_t i = 0; i < ARRAY_N(routes); i++)
        if (is_below(req->path, routes[i].path)) return routes[i].run_wait(run, req);
    return unknown_wait(run, req);
}

/* --- life ------------------------------------------------------------------------------------- */

typedef struct {
    ListNode node; /* on run->door_calls */
    FiberRef fiber;
} DoorCall;

int door_handler(HttpReq *req, void *ctx)
{
    Run *run = ctx;
    if (run->door_closed || run->stop != RUN_GOING)
        return http_problem_wait(req, 503, "task_stopped", "the task has ended or was stopped");
    DoorCall call = { .fiber = fiber_self() };
    list_push_back(&run->door_calls, &call.node);
    run->door_calls_n++;
    int r = route_wait(run, req);
    list_remove(&call.node);
    run->door_calls_n--;
    cond_broadcast(&run->changed);
    return r;
}

void door_cancel(Run *run)
{
    LIST_EACH (&run->door_calls, node) fiber_cancel(CONTAINER_OF(node, DoorCall, node)->fiber);
}

void door_close_wait(Run *run)
{
    run->door_closed = true;
    door_cancel(run);
    fiber_shield();
    while (!list_empty(&run->door_calls)) (void)cond_wait(&run->changed, DEADLINE_NONE);
    fiber_unshield();
}
