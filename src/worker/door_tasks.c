#include "worker/door_tasks.h"

#include "base/diag.h"
#include "codec/duration.h"
#include "codec/time_text.h"
#include "logic/manifest.h"
#include "sys/clock.h"
#include "worker/children.h"
#include "worker/door.h"

#define BODY_BYTES_MAX ((size_t)4 << 20)
#define METADATA_BYTES_MAX ((size_t)16 << 10)
#define TASK_BYTES_MAX ((size_t)64 << 20)
#define WAIT_MS_MAX 60000
#define SECONDS_MAX 604800
#define DUE_MAX_MS (INT64_C(731) * 24 * 3600 * 1000)

static int invalid_wait(HttpReq *req, const char *text)
{
    return http_problem_wait(req, 400, "member_invalid", "%s", text);
}

/* --- what is asked for ------------------------------------------------------------------------ */

/* DOOR_REPLIED: it was answered with a problem. */
#define DOOR_REPLIED 100

static int replied(int r)
{
    return r < 0 ? r : DOOR_REPLIED;
}

static int count_read(const Json *v, int64_t min, int64_t *ret)
{
    JsonType type = json_type(v);
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    return json_i64(v, ret) == 0 && *ret >= min && *ret < CAP_CALL_MAX ? 0 : -EINVAL;
}

static int money_read(const Json *v, int64_t *ret)
{
    JsonType type = json_type(v);
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    if (type != JSON_STRING) return -EINVAL;
    int r = money_from_text(json_str(v), NUSD_PER_USD, ret);
    return r == 0 && *ret > 0 ? 0 : -EINVAL;
}

/* The name of a member that is none of these, or NULL. */
static bool unknown_member(const Json *object, const char *const *names, size_t n, Str *ret)
{
    for (JsonIter it = json_iter(object); json_next(&it);) {
        size_t i = 0;
        while (i < n && !str_eq(it.key, str_of(names[i]))) i++;
        *ret = it.key;
        if (i == n) return true;
    }
    return false;
}

static int unknown_wait(HttpReq *req, Str name)
{
    return replied(http_problem_wait(req, 400, "member_unknown", "there is no member \"%.*s\"",
                                     (int)MIN(name.len, (size_t)64), name.ptr));
}

static int limits_read_wait(HttpReq *req, const Json *limits, ChildAsk *ask)
{
    static const char *const names[] = { "tokensPerTask", "toolCallsPerTask", "secondsPerTask",
                                         "usdPerTask" };
    Str name;
    int64_t seconds = 0;
    JsonType type = json_type(limits);
    ask->asked = FAMILY_UNLIMITED;
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    if (type != JSON_OBJECT) return replied(invalid_wait(req, "`limits` is to be an object"));
    if (unknown_member(limits, names, ARRAY_N(names), &name)) return unknown_wait(req, name);
    int r = count_read(json_get(limits, names[0]), 1, &ask->asked.tokens);
    if (r == 0) r = count_read(json_get(limits, names[1]), 0, &ask->asked.tool_calls);
    if (r == 0) r = count_read(json_get(limits, names[2]), 1, &seconds);
    if (r == 0) r = money_read(json_get(limits, names[3]), &ask->asked.nusd);
    ask->time_limit_ms = MIN(seconds, SECONDS_MAX) * 1000;
    if (r == 0) return 0;
    return replied(invalid_wait(req, "`limits` are to be whole numbers above 0, money as text "
                                     "(\"0.50\")"));
}

static Str text_of(Str body, const Json *object, const char *key)
{
    Str member, value;
    if (json_type(json_get(object, key)) == JSON_NULL) return STR_NULL;
    return json_member_span(body, str_of(key), &member, &value) == 0 ? value : STR_NULL;
}

static int agent_read_wait(HttpReq *req, const Json *v, ChildAsk *ask)
{
    JsonType type = json_type(v);
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    ask->agent = json_str(v);
    if (type == JSON_STRING && agent_name_ok(ask->agent)) return 0;
    return replied(invalid_wait(req, "`agent` is to be the name of an agent"));
}

static int deadline_read_wait(HttpReq *req, const Json *v, ChildAsk *ask)
{
    JsonType type = json_type(v);
    int64_t at_ms, now_ms = clock_real_ms();
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    if (type != JSON_STRING || time_parse_from(json_str(v), now_ms, &at_ms) < 0)
        return replied(invalid_wait(req, "`deadline` is to be a time such as "
                                         "2026-01-02T03:04:05Z, or a duration such as 90s"));
    ask->late = at_ms <= now_ms;
    ask->due_ms = MIN(MAX(at_ms - now_ms, 1), DUE_MAX_MS);
    return 0;
}

static int ask_read_wait(HttpReq *req, Str body, ChildAsk *ask)
{
    static const char *const names[] = { "input", "agent", "limits", "metadata", "deadline" };
    const Json *v;
    Str name;
    int r = json_parse(&req->arena, body, NULL, &v, NULL);
    if (r == -ENOMEM) return r;
    if (r < 0 || json_type(v) != JSON_OBJECT || !json_get(v, "input"))
        return replied(http_problem_wait(req, 400, "body_invalid",
                                         "the body is to be a JSON object with `input`"));
    if (unknown_member(v, names, ARRAY_N(names), &name)) return unknown_wait(req, name);
    const Json *metadata = json_get(v, "metadata");
    JsonType type = json_type(metadata);
    if (type != JSON_ABSENT && type != JSON_NULL && type != JSON_OBJECT)
        return replied(invalid_wait(req, "`metadata` is to be an object"));
    ask->input = text_of(body, v, "input");
    if (!ask->input.len) ask->input = STR("null");
    ask->metadata = text_of(body, v, "metadata");
    if (ask->metadata.len > METADATA_BYTES_MAX)
        return replied(invalid_wait(req, "`metadata` is larger than 16 KiB"));
    r = agent_read_wait(req, json_get(v, "agent"), ask);
    if (r == 0) r = deadline_read_wait(req, json_get(v, "deadline"), ask);
    return r == 0 ? limits_read_wait(req, json_get(v, "limits"), ask) : r;
}

static int key_read_wait(HttpReq *req, ChildAsk *ask)
{
    ask->key = str_trim(http_header(req, "idempotency-key"));
    if (ask->key.len <= IDEMPOTENCY_KEY_BYTES_MAX) return 0;
    return replied(http_problem_wait(req, 400, "key_invalid",
                                     "Idempotency-Key has more than %d bytes",
                                     IDEMPOTENCY_KEY_BYTES_MAX));
}

/* --- what is answered ------------------------------------------------------------------------- */

static void limits_write(JsonOut *out, const FamilyAmount *a)
{
    char usd[MONEY_TEXT_MAX];
    json_out_key(out, "limits");
    json_out_object(out);
    if (a->tokens != CAP_NONE) json_out_ki64(out, "tokensPerTask", a->tokens);
    if (a->tool_calls != CAP_NONE) json_out_ki64(out, "toolCallsPerTask", a->tool_calls);
    if (a->nusd != CAP_NONE) json_out_kcstr(out, "usdPerTask", money_text(a->nusd, usd));
    json_out_object_end(out);
}

static int started_wait(Run *run, HttpReq *req, const LinkChild *child)
{
    CLEANUP(buf_deinit) Buf body;
    char id[UUID_TEXT_MAX];
    uuid_text(child->id, id);
    Str url = arena_printf(&req->arena, DOOR_TASKS_PATH "/%s", id);
    buf_init(&body, 16384);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "taskId", id);
    json_out_kcstr(&out, "status", task_state_name(child->state));
    json_out_kstr(&out, "agent", child->agent);
    json_out_kstr(&out, "versionId", child->version_id);
    json_out_kcstr(&out, "priority", lane_name(run->task.lane));
    json_out_kcstr(&out, "parentTaskId", run->id);
    json_out_kstr(&out, "statusUrl", url);
    limits_write(&out, &child->allotted);
    json_out_object_end(&out);
    if (!url.ptr || !json_out_ok(&out)) return -ENOMEM;
    http_header_add(req, "Location", url);
    if (child->existing) http_header_add(req, "Idempotent-Replayed", STR("true"));
    return http_reply_wait(req, 202, "application/json", buf_str(&body));
}

static int refused_wait(HttpReq *req, const LinkChild *child)
{
    const char *code = arena_cstr(&req->arena, child->code);
    if (!code) return -ENOMEM;
    if (child->status == 402) http_header_add(req, "x-should-retry", STR("false"));
    if (child->status == 429) http_header_add(req, "Retry-After", STR("1"));
    return http_problem_wait(req, child->status, code, "%.*s", STR_ARG(child->detail));
}

static int stopped_wait(HttpReq *req)
{
    return http_problem_wait(req, 503, "task_stopped", "the task was stopped meanwhile");
}

static int failed_wait(HttpReq *req, int r)
{
    if (r == -ECANCELED) return stopped_wait(req);
    if (r == -ENOMEM || r == HTTP_E_GONE) return r;
    return http_problem_wait(req, 503, "subagents_unavailable", "%s", diag_text_or(r));
}

static int start_wait(Run *run, HttpReq *req)
{
    ChildAsk ask = { .key = STR_NULL };
    LinkChild child;
    int r = door_body_wait(run, req, BODY_BYTES_MAX, &ask.body);
    if (r == HTTP_E_TOO_LARGE)
        return http_problem_wait(req, 413, "body_too_large", "the body has more than %zu bytes",
                                 BODY_BYTES_MAX);
    if (r == HTTP_E_GONE) return 0;
    if (r == 0) r = key_read_wait(req, &ask);
    if (r == 0) r = ask_read_wait(req, ask.body, &ask);
    if (r != 0) return r == DOOR_REPLIED ? 0 : r;
    r = children_start_wait(run, &ask, &req->arena, &child);
    if (r != 0) return failed_wait(req, r);
    return child.status ? refused_wait(req, &child) : started_wait(run, req, &child);
}

/* --- one of them ------------------------------------------------------------------------------ */

static int none_wait(HttpReq *req)
{
    return http_problem_wait(req, 404, "task_not_found", "this task has started no such task");
}

static int duration_read_wait(HttpReq *req, int64_t *ret_ms)
{
    bool given;
    Str text = http_query(req, "wait", &given);
    *ret_ms = 0;
    if (!given || duration_parse(text, ret_ms) == 0) {
        *ret_ms = MIN(*ret_ms, WAIT_MS_MAX);
        return 0;
    }
    return replied(
        http_problem_wait(req, 400, "parameter_invalid", "?wait is to be a duration such as 30s"));
}

/* Of what else is asked about sub-agents at the same time, nothing takes long. */
static int crowded_wait(Run *run, HttpReq *req)
{
    atomic_fetch_add(&run->host->counters.children_crowded, 1);
    return http_problem_wait(req, 429, "too_many_waits",
                             "the task waits for sub-agents %d times already", DOOR_WAITS_MAX);
}

static int get_wait(Run *run, HttpReq *req, Uuid id)
{
    WorkerLink *link = run->host->link;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    int64_t wait_ms;
    Str text;
    int r = duration_read_wait(req, &wait_ms);
    if (r != 0) return r == DOOR_REPLIED ? 0 : r;
    if (wait_ms > 0 && run->door_tasks_n > DOOR_WAITS_MAX) return crowded_wait(run, req);
    r = children_end_wait(run, id, wait_ms);
    if (r == -ENOENT) return none_wait(req);
    if (r != 0 && r != -ETIMEDOUT) return failed_wait(req, r);
    arena_init(&arena, TASK_BYTES_MAX);
    r = link->ops->child_wait(link, run->task.ref, id, &arena, &text);
    if (r == LINK_E_NO_CHILD) return none_wait(req);
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) return stopped_wait(req);
    if (r != 0) return failed_wait(req, r > 0 ? -EIO : r);
    return http_reply_wait(req, 200, "application/json", text);
}

static int cancel_wait(Run *run, HttpReq *req, Uuid id)
{
    WorkerLink *link = run->host->link;
    int r = link->ops->child_cancel_wait(link, run->task.ref, id);
    if (r == LINK_E_NO_CHILD) return none_wait(req);
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) return stopped_wait(req);
    if (r != 0) return failed_wait(req, r > 0 ? -EIO : r);
    return http_reply_wait(req, 202, "application/json", STR("{}"));
}

static int method_wait(HttpReq *req, const char *allow)
{
    http_header_add(req, "allow", str_of(allow));
    return http_problem_wait(req, 405, "method_not_allowed", "this takes %s only", allow);
}

int door_tasks_wait(Run *run, HttpReq *req)
{
    bool get = str_eq(req->method, STR("GET")), post = str_eq(req->method, STR("POST"));
    Str rest = str_skip(req->path, STR(DOOR_TASKS_PATH).len), name;
    Uuid id;
    if (rest.len == 0) return post ? start_wait(run, req) : method_wait(req, "POST");
    Str verb = str_split(str_skip(rest, 1), '/', &name, NULL);
    bool whole = rest.ptr[0] == '/' && uuid_from_text(name, &id) == 0;
    if (whole && verb.len == 0) return get ? get_wait(run, req, id) : method_wait(req, "GET");
    if (whole && str_eq(verb, STR("cancel")))
        return post ? cancel_wait(run, req, id) : method_wait(req, "POST");
    return http_problem_wait(req, 404, "route_not_found", "there is no such route");
}
