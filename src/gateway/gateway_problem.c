#include "gateway/gateway_problem.h"

#include "codec/json.h"
#include "codec/sse.h"

typedef struct {
    int status;
    const char *openai_type;
    const char *openai_code;
    const char *anthropic_type;
    bool final;
} Shape;

static const Shape shapes[PROBLEM_N_] = {
    [PROBLEM_NONE] = { 500, "server_error", "internal_error", "api_error", false },
    [PROBLEM_INVALID] = { 400, "invalid_request_error", "invalid_request", "invalid_request_error",
                          false },
    [PROBLEM_TOO_LARGE] = { 413, "invalid_request_error", "request_too_large", "request_too_large",
                            false },
    [PROBLEM_PATH] = { 404, "invalid_request_error", "unknown_url", "not_found_error", false },
    [PROBLEM_METHOD] = { 405, "invalid_request_error", "method_not_allowed",
                         "invalid_request_error", false },
    [PROBLEM_MODEL] = { 404, "invalid_request_error", "model_not_found", "not_found_error", false },
    [PROBLEM_PRICE] = { 400, "invalid_request_error", "unknown_price", "invalid_request_error",
                        false },
    [PROBLEM_CAP] = { 402, "insufficient_quota", "budget_exceeded", "billing_error", true },
    [PROBLEM_STOPPED] = { 403, "permission_error", "task_stopped", "permission_error", true },
    [PROBLEM_TOOL] = { 403, "invalid_request_error", "tool_not_declared", "permission_error",
                       true },
    [PROBLEM_STATE] = { 403, "invalid_request_error", "provider_state_not_allowed",
                        "permission_error", true },
    [PROBLEM_SWITCHED_OFF] = { 403, "permission_error", "switched_off", "permission_error", true },
    [PROBLEM_QUEUED] = { 429, "requests", "rate_limit_exceeded", "rate_limit_error", false },
    [PROBLEM_BREAKER] = { 503, "server_error", "upstream_unavailable", "overloaded_error", true },
    [PROBLEM_UNREACHABLE] = { 502, "server_error", "upstream_error", "api_error", true },
    [PROBLEM_TIMEOUT] = { 504, "server_error", "upstream_timeout", "timeout_error", true },
    [PROBLEM_INTERNAL] = { 500, "server_error", "internal_error", "api_error", false },
    [PROBLEM_UNRECORDED] = { 500, "server_error", "internal_error", "api_error", true },
    [PROBLEM_KEY] = { 401, "invalid_request_error", "invalid_api_key", "authentication_error",
                      true },
    [PROBLEM_ROLE] = { 403, "permission_error", "key_not_allowed", "permission_error", true },
    [PROBLEM_AWAY] = { 503, "server_error", "unavailable", "overloaded_error", false },
};

static const Shape *shape_of(Problem problem)
{
    assert(problem > PROBLEM_NONE && problem < PROBLEM_N_);
    return &shapes[problem];
}

int problem_status(Problem problem)
{
    return shape_of(problem)->status;
}

bool problem_is_final(Problem problem)
{
    return shape_of(problem)->final;
}

static void openai_object(JsonOut *out, const Shape *shape, Str message, const char *param)
{
    json_out_object(out);
    json_out_key(out, "error");
    json_out_object(out);
    json_out_kstr(out, "message", message);
    json_out_kcstr(out, "type", shape->openai_type);
    json_out_key(out, "param");
    if (param) json_out_str(out, str_of(param));
    else json_out_null(out);
    json_out_kcstr(out, "code", shape->openai_code);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void anthropic_object(JsonOut *out, const Shape *shape, Str message, Str request_id)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "error");
    json_out_key(out, "error");
    json_out_object(out);
    json_out_kcstr(out, "type", shape->anthropic_type);
    json_out_kstr(out, "message", message);
    json_out_object_end(out);
    if (!str_empty(request_id)) json_out_kstr(out, "request_id", request_id);
    json_out_object_end(out);
}

static void error_member(JsonOut *out, const Shape *shape, Str message)
{
    json_out_key(out, "error");
    json_out_object(out);
    json_out_kcstr(out, "type", shape->openai_type);
    json_out_kcstr(out, "code", shape->openai_code);
    json_out_kstr(out, "message", message);
    json_out_key(out, "param");
    json_out_null(out);
    json_out_object_end(out);
}

/* As documented, and once more in an object as it is really sent: without that object the official
 * client takes the event for one of many, and the end for a good one. */
static void responses_object(JsonOut *out, const Shape *shape, Str message, int64_t sequence)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "error");
    json_out_kcstr(out, "code", shape->openai_code);
    json_out_kstr(out, "message", message);
    json_out_key(out, "param");
    json_out_null(out);
    error_member(out, shape, message);
    json_out_ki64(out, "sequence_number", sequence);
    json_out_object_end(out);
}

bool problem_body(Buf *out, Problem problem, Api api, Str message, const char *param,
                  Str request_id)
{
    JsonOut json = json_out(out);
    if (api == API_MESSAGES) anthropic_object(&json, shape_of(problem), message, request_id);
    else openai_object(&json, shape_of(problem), message, param);
    return json_out_ok(&json);
}

bool problem_event(Buf *out, Problem problem, Api api, Str message, int64_t sequence)
{
    static const char *const names[API_N_] = {
        [API_RESPONSES] = "error", [API_MESSAGES] = "error"
    };
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, 64 * 1024);
    JsonOut json = json_out(&data);
    if (api == API_MESSAGES) anthropic_object(&json, shape_of(problem), message, STR_NULL);
    else if (api == API_RESPONSES) responses_object(&json, shape_of(problem), message, sequence);
    else openai_object(&json, shape_of(problem), message, NULL);
    return json_out_ok(&json) &&
           sse_add_event(out, str_of(names[api]), STR_NULL, buf_str(&data)) == 0;
}
