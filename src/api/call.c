#include "api/call.h"

#include <stdarg.h>
#include <stdio.h>

#include "api/route.h"
#include "base/diag.h"
#include "base/log.h"
#include "codec/duration.h"
#include "sys/clock.h"

#define JSON_FIRST_BYTES 480
#define DETAIL_BYTES_MAX 1024
#define WAIT_STEP_MS 1000

/* --- answering -------------------------------------------------------------------------------- */

/* What an answering function of the server returned, as a handler's result. */
static int replied(int r)
{
    return r < 0 ? r : API_E_REPLIED;
}

int api_problem_wait(ApiCall *call, int status, const char *code, const char *fmt, ...)
{
    char detail[DETAIL_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(detail, sizeof detail, fmt, args);
    va_end(args);
    return replied(http_problem_wait(call->req, status, code, "%s", detail));
}

int api_fail_wait(ApiCall *call, int r)
{
    assert(r < 0);
    if (r == -ECANCELED) return r;
    if (r == -EAGAIN) {
        http_header_add(call->req, "Retry-After", STR("1"));
        return api_problem_wait(call, 503, "overloaded", "too much is waiting to be stored");
    }
    if (r == -ENOSPC)
        return api_problem_wait(call, 507, "disk_full",
                                "there is no room to store this; nothing was changed");
    LOG_ERROR("request failed", LOG_CSTR("requestId", call->req->request_id),
              LOG_CSTR("operation", call->route ? call->route->id : ""),
              LOG_CSTR("reason", diag_text_or(r)));
    if (r == -ENOMEM)
        return api_problem_wait(call, 507, "too_large",
                                "there is not enough memory set aside for a request like this");
    return api_problem_wait(call, 500, "internal",
                            "something failed here; the log has it under this request id");
}

static const struct {
    int outcome, status;
    const char *code;
} queue_problems[] = {
    { QUEUE_E_FULL, 429, "queue_full" },
    { QUEUE_E_KEY_REUSED, 422, "key_reused" },
    { QUEUE_E_NO_AGENT, 404, "agent_not_found" },
    { QUEUE_E_AGENT_NEEDED, 400, "agent_needed" },
    { QUEUE_E_NO_VERSION, 409, "version_not_found" },
    { QUEUE_E_NO_TASK, 404, "task_not_found" },
    { QUEUE_E_SCHEDULES, 409, "schedules_full" },
    { QUEUE_E_ESCALATIONS, 422, "too_many_escalations" },
    { QUEUE_E_NO_WEBHOOK, 404, "webhook_not_found" },
    { QUEUE_E_NO_RECORDING, 404, "recording_not_found" },
    { QUEUE_E_STATE, 409, "task_state" },
    { QUEUE_E_LATE, 422, "deadline_passed" },
    { QUEUE_E_STALE, 409, "stale" },
    { QUEUE_E_NO_WORKER, 404, "worker_not_found" },
    { QUEUE_E_SWITCHED_OFF, 403, "switched_off" },
    { QUEUE_E_SCORES, 422, "scores_full" },
};

int api_queue_fail_wait(ApiCall *call, int r)
{
    assert(r != 0);
    if (r < 0) return api_fail_wait(call, r);
    for (size_t i = 0; i < ARRAY_N(queue_problems); i++)
        if (queue_problems[i].outcome == r)
            return api_problem_wait(call, queue_problems[i].status, queue_problems[i].code, "%s",
                                    diag_text());
    return api_fail_wait(call, diag_set(-EPROTO, "the queue gave outcome %d", r));
}

int api_lane_fail_wait(ApiCall *call, int r, Lane lane)
{
    if (r == QUEUE_E_FULL) {
        char seconds[24];
        snprintf(seconds, sizeof seconds, "%" PRId64,
                 queue_retry_after_s(call->api->options.queue, lane));
        http_header_add(call->req, "Retry-After", str_of(seconds));
    }
    return api_queue_fail_wait(call, r);
}

int api_reply_wait(ApiCall *call, int status, const char *type, Str body)
{
    http_header_add(call->req, "Cache-Control", STR("no-store"));
    return replied(http_reply_wait(call->req, status, type, body));
}

void api_json(ApiJson *json, size_t max)
{
    buf_init(&json->buf, max);
    (void)buf_reserve(&json->buf, MIN(max, JSON_FIRST_BYTES)); /* most are no longer than that */
    json->out = json_out(&json->buf);
}

void api_json_deinit(ApiJson *json)
{
    buf_deinit(&json->buf);
}

int api_json_wait(ApiCall *call, int status, ApiJson *json)
{
    if (!json_out_ok(&json->out)) return api_fail_wait(call, -ENOMEM);
    assert(json->out.depth == 0);
    return api_reply_wait(call, status, "application/json", buf_str(&json->buf));
}

void api_json_make(ApiCall *call, int status, const ApiJson *json, HttpReady *ret)
{
    assert(!json->buf.failed && json->out.depth == 0);
    http_header_add(call->req, "Cache-Control", STR("no-store"));
    http_reply_make(call->req, status, "application/json", buf_str(&json->buf), ret);
}

/* --- bodies ----------------------------------------------------------------------------------- */

Str api_content_type(ApiCall *call)
{
    Str type;
    str_split(http_header(call->req, "content-type"), ';', &type, NULL);
    Str copy = arena_str(&call->req->arena, str_trim(type));
    char *at = (char *)copy.ptr;
    for (size_t i = 0; at && i < copy.len; i++)
        if (at[i] >= 'A' && at[i] <= 'Z') at[i] = (char)(at[i] - 'A' + 'a');
    return copy;
}

int api_bytes_wait(ApiCall *call, size_t max, Str *ret)
{
    int r = http_body_wait(call->req, max, ret);
    if (r == 0) return 0;
    bool set = max == call->api->options.body_bytes_max;
    if (r == HTTP_E_TOO_LARGE)
        return api_problem_wait(call, 413, "body_too_large", "the body has more than %zu bytes%s",
                                max,
                                set ? " (limits.bodyBytes of the server's configuration)" : "");
    if (r == HTTP_E_GONE) return API_E_REPLIED; /* nobody is there to be told */
    http_close_after(call->req);
    if (r == -ETIMEDOUT)
        return api_problem_wait(call, 408, "body_timeout", "the body did not arrive in time");
    if (r == -EINVAL)
        return api_problem_wait(call, 400, "body_invalid", "the body is framed wrongly");
    return api_fail_wait(call, r);
}

static const char *const member_types[] = { "a string",  "an integer", "a number",
                                            "a boolean", "an object",  "an array" };

static bool type_fits(MemberType type, const Json *v)
{
    int64_t number;
    switch (json_type(v)) {
    case JSON_STRING: return type & MEMBER_STRING;
    case JSON_BOOL: return type & MEMBER_BOOLEAN;
    case JSON_OBJECT: return type & MEMBER_OBJECT;
    case JSON_ARRAY: return type & MEMBER_ARRAY;
    case JSON_INT:
    case JSON_REAL:
        return (type & MEMBER_NUMBER) || ((type & MEMBER_INTEGER) && json_i64(v, &number) == 0);
    default: return false;
    }
}

static bool word_fits(const char *words, Str value)
{
    Str rest = str_of(words), word;
    for (bool more = true; more;) {
        rest = str_split(rest, '|', &word, &more);
        if (str_eq(word, value)) return true;
    }
    return false;
}

static const Member *member_find(const BodySpec *spec, Str name)
{
    for (size_t i = 0; i < spec->n; i++)
        if (str_eq(name, str_of(spec->members[i].name))) return &spec->members[i];
    return NULL;
}

static int member_check_wait(ApiCall *call, const Member *m, const Json *v)
{
    if (m->type == MEMBER_ANY) return 0;
    if (json_type(v) == JSON_NULL) {
        if (!m->required) return 0;
        return api_problem_wait(call, 400, "member_invalid", "`%s` must not be null", m->name);
    }
    if (!type_fits(m->type, v)) {
        int type = 0;
        while (!(m->type & (1 << type))) type++;
        return api_problem_wait(call, 400, "member_invalid", "`%s` is to be %s, not %s", m->name,
                                member_types[type], json_type_name(json_type(v)));
    }
    if (m->words && !word_fits(m->words, json_str(v)))
        return api_problem_wait(call, 400, "member_invalid",
                                "`%s` is to be one of %s, not \"%.*s\"", m->name, m->words,
                                (int)MIN(json_str(v).len, (size_t)64), json_str(v).ptr);
    return 0;
}

static int members_check_wait(ApiCall *call, const BodySpec *spec, const Json *v)
{
    for (JsonIter it = json_iter(v); json_next(&it);) {
        const Member *m = member_find(spec, it.key);
        if (!m)
            return api_problem_wait(call, 400, "member_unknown", "the body has no member \"%.*s\"",
                                    (int)MIN(it.key.len, (size_t)64), it.key.ptr);
        int r = member_check_wait(call, m, it.value);
        if (r != 0) return r;
    }
    for (size_t i = 0; i < spec->n; i++)
        if (spec->members[i].required && !json_get(v, spec->members[i].name))
            return api_problem_wait(call, 400, "member_missing", "`%s` is missing",
                                    spec->members[i].name);
    return 0;
}

static int type_check_wait(ApiCall *call)
{
    Str type = api_content_type(call);
    if (str_empty(type) || str_eq(type, STR("application/json"))) return 0;
    return api_problem_wait(call, 415, "content_type",
                            "the body is to be application/json, not %.*s (with curl: -H "
                            "'Content-Type: application/json')",
                            (int)MIN(type.len, (size_t)64), type.ptr);
}

int api_body_wait(ApiCall *call, Str *ret_text, const Json **ret)
{
    const BodySpec *spec = call->route->body;
    Str text;
    const ApiOptions *options = &call->api->options;
    size_t max = spec->large ? MAX(options->body_bytes_max, options->upload_bytes_max)
                             : options->body_bytes_max;
    int r = api_bytes_wait(call, max, &text);
    if (r != 0) return r;
    text = str_trim(text);
    if (str_empty(text)) {
        if (spec->required)
            return api_problem_wait(call, 400, "body_invalid", "the body is empty; send JSON");
        text = STR("{}");
    } else if ((r = type_check_wait(call)) != 0) {
        return r;
    }
    r = json_parse(&call->req->arena, text, NULL, ret, NULL);
    if (r == -EINVAL)
        return api_problem_wait(call, 400, "body_invalid", "the body is not JSON: %s", diag_text());
    if (r < 0) return api_fail_wait(call, r);
    *ret_text = text;
    if (spec->whole_else && !json_get(*ret, spec->members[0].name)) return 0;
    if (json_type(*ret) != JSON_OBJECT)
        return api_problem_wait(call, 400, "body_invalid", "the body is to be an object, not %s",
                                json_type_name(json_type(*ret)));
    return members_check_wait(call, spec, *ret);
}

/* --- parameters ------------------------------------------------------------------------------- */

Str api_param(ApiCall *call, const char *name)
{
    return http_query(call->req, name, NULL);
}

int api_param_i64_wait(ApiCall *call, const char *name, int64_t min, int64_t max, int64_t otherwise,
                       int64_t *ret)
{
    Str text = api_param(call, name);
    *ret = otherwise;
    if (str_empty(text)) return 0;
    if (str_to_i64(text, ret) == 0 && *ret >= min && *ret <= max) return 0;
    return api_problem_wait(call, 400, "parameter_invalid",
                            "?%s is to be a whole number from %" PRId64 " to %" PRId64, name, min,
                            max);
}

int api_param_duration_wait(ApiCall *call, const char *name, int64_t max_ms, int64_t otherwise,
                            int64_t *ret_ms)
{
    Str text = api_param(call, name);
    *ret_ms = otherwise;
    if (str_empty(text)) return 0;
    int r = duration_parse(text, ret_ms);
    if (r == -EINVAL)
        return api_problem_wait(call, 400, "parameter_invalid",
                                "?%s is to be a duration such as 30s or 1h30m", name);
    *ret_ms = r < 0 ? max_ms : MIN(*ret_ms, max_ms);
    return 0;
}

static int uuid_param_wait(ApiCall *call, const char *code, const char *what, Uuid *ret)
{
    Str text = call->params[0];
    if (uuid_from_text(text, ret) == 0) return 0;
    return api_problem_wait(call, 404, code, "there is no %s \"%.*s\"; an id is a UUID", what,
                            (int)MIN(text.len, (size_t)64), text.ptr);
}

int api_task_id_wait(ApiCall *call, Uuid *ret)
{
    return uuid_param_wait(call, "task_not_found", "task", ret);
}

int api_worker_id_wait(ApiCall *call, Uuid *ret)
{
    return uuid_param_wait(call, "worker_not_found", "worker", ret);
}

/* --- waiting ---------------------------------------------------------------------------------- */

bool api_wait_over(const ApiCall *call)
{
    return atomic_load_explicit(&call->api->draining, memory_order_relaxed) || http_gone(call->req);
}

int64_t api_wait_step(int64_t deadline_ms)
{
    return MIN(deadline_ms, deadline_after(WAIT_STEP_MS));
}
