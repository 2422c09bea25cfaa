#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "gateway/gateway_private.h"

#define CONNECTIONS_MAX 256
#define TIMEOUT_HEADER_MAX_S 86400

/* --- the answer on a connection --------------------------------------------------------------- */

typedef struct {
    HttpReq *req;
    int status;
    const char *content_type;
    bool streamed;
    bool written;
} HttpReplyState;

static int start_wait(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                      bool streamed)
{
    HttpReplyState *state = ctx;
    state->status = status;
    state->streamed = streamed;
    for (size_t i = 0; i < fields_n; i++) {
        if (str_eq_nocase(str_of(fields[i].name), STR("content-type")))
            state->content_type = arena_cstr(&state->req->arena, fields[i].value);
        else http_header_add(state->req, fields[i].name, fields[i].value);
    }
    return streamed ? http_reply_start_wait(state->req, status, state->content_type) : 0;
}

static int write_wait(void *ctx, Str bytes)
{
    HttpReplyState *state = ctx;
    if (state->streamed) return http_write_wait(state->req, bytes);
    assert(!state->written);
    state->written = true;
    return http_reply_wait(state->req, state->status, state->content_type, bytes);
}

static int end_wait(void *ctx)
{
    HttpReplyState *state = ctx;
    if (state->streamed) return http_end_wait(state->req);
    if (state->written) return 0;
    return http_reply_wait(state->req, state->status, state->content_type, STR_NULL);
}

static bool gone(void *ctx)
{
    return http_gone(((HttpReplyState *)ctx)->req);
}

/* --- errors before a call --------------------------------------------------------------------- */

/* Which API a path belongs to, for the shape of its errors. */
static Api path_api(Str path)
{
    bool messages = str_starts_with(path, STR("/v1/messages")) || str_eq(path, STR("/messages"));
    return messages ? API_MESSAGES : API_CHAT;
}

int task_problem_wait(GatewayTask *task, HttpReq *req, Problem problem, const char *message)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 64 * 1024);
    stats_refused(task->gateway, problem);
    task->totals.calls_refused++;
    (void)problem_body(&body, problem, path_api(req->path), str_of(message), NULL,
                       str_of(req->request_id));
    if (problem_is_final(problem)) http_header_add(req, "x-should-retry", STR("false"));
    return http_reply_wait(req, problem_status(problem), "application/json", buf_str(&body));
}

/* What the server refuses before a handler sees it has the same shapes. */
static void server_error_body(HttpReq *req, int status, const char *detail, Buf *body,
                              const char **content_type, void *ctx)
{
    (void)ctx;
    Problem problem = status == 413  ? PROBLEM_TOO_LARGE
                      : status < 500 ? PROBLEM_INVALID
                                     : PROBLEM_INTERNAL;
    *content_type = "application/json";
    (void)problem_body(body, problem, path_api(req->path), str_of(detail), NULL,
                       str_of(req->request_id));
}

int task_json_wait(HttpReq *req, JsonOut *out, Buf *body)
{
    if (!json_out_ok(out)) return diag_set(-ENOMEM, "the answer is too large");
    return http_reply_wait(req, 200, "application/json", buf_str(body));
}

/* --- model calls ------------------------------------------------------------------------------ */

/* SDKs say in seconds how long they wait, some with a fraction, which is dropped. */
static int64_t client_timeout_ms(const HttpReq *req, const char *name)
{
    int64_t seconds;
    Str text;
    str_split(http_header(req, name), '.', &text, NULL);
    if (str_to_i64(text, &seconds) < 0 || seconds <= 0 || seconds > TIMEOUT_HEADER_MAX_S) return 0;
    return seconds * 1000;
}

int task_body_failed_wait(GatewayTask *task, HttpReq *req, int r)
{
    if (r == HTTP_E_TOO_LARGE || r == -ENOMEM)
        return task_problem_wait(task, req, PROBLEM_TOO_LARGE, "the request is too large");
    http_close_after(req);
    if (r == -ETIMEDOUT || r == -EINVAL)
        return task_problem_wait(task, req, PROBLEM_INVALID,
                                 "the request's body did not arrive whole");
    return r == HTTP_E_GONE ? 0 : r;
}

static int model_call_wait(GatewayTask *task, HttpReq *req, Api api)
{
    GatewayRequest request = { .api = api };
    int r = http_body_wait(req, GATEWAY_REQUEST_BYTES_MAX, &request.body);
    if (r != 0) return task_body_failed_wait(task, req, r);
    request.anthropic_version = http_header(req, "anthropic-version");
    request.anthropic_beta = http_header(req, "anthropic-beta");
    request.timeout_ms = client_timeout_ms(req, "x-stainless-timeout");
    request.read_timeout_ms = client_timeout_ms(req, "x-stainless-read-timeout");
    HttpReplyState state = { .req = req };
    GatewayReply reply = { start_wait, write_wait, end_wait, gone, &state };
    r = gateway_call_wait(task, &request, &reply);
    return r > 0 || r == -ESTALE ? 0 : r; /* answered, or nobody there to answer */
}

static int chat_wait(GatewayTask *task, HttpReq *req)
{
    return model_call_wait(task, req, API_CHAT);
}

static int responses_wait(GatewayTask *task, HttpReq *req)
{
    return model_call_wait(task, req, API_RESPONSES);
}

static int messages_wait(GatewayTask *task, HttpReq *req)
{
    return model_call_wait(task, req, API_MESSAGES);
}

static int embeddings_wait(GatewayTask *task, HttpReq *req)
{
    return model_call_wait(task, req, API_EMBEDDINGS);
}

/* --- what there is to know -------------------------------------------------------------------- */

static void out_limit(JsonOut *out, const char *key, int64_t limit)
{
    json_out_key(out, key);
    if (limit == CAP_NONE) json_out_null(out);
    else json_out_i64(out, limit);
}

static void out_money(JsonOut *out, const char *key, int64_t nusd)
{
    char text[MONEY_TEXT_MAX];
    json_out_kcstr(out, key, money_text(nusd, text));
}

static void out_limits(JsonOut *out, const CapLimits *limits)
{
    json_out_key(out, "limits");
    json_out_object(out);
    out_limit(out, "tokensPerTask", limits->tokens);
    out_limit(out, "toolCallsPerTask", limits->tool_calls);
    out_limit(out, "secondsPerTask",
              limits->wall_ms == CAP_NONE ? CAP_NONE : limits->wall_ms / 1000);
    if (limits->usd_nusd == CAP_NONE) out_limit(out, "usdPerTask", CAP_NONE);
    else out_money(out, "usdPerTask", limits->usd_nusd);
    json_out_object_end(out);
}

static void out_totals(JsonOut *out, const GatewayTask *task)
{
    const GatewayTotals *totals = &task->totals;
    json_out_key(out, "spent"); /* over all attempts, as the limits count it */
    json_out_object(out);
    json_out_ki64(out, "tokens", totals->caps.settled_tokens);
    json_out_ki64(out, "toolCalls", totals->caps.tool_calls);
    out_money(out, "costUsd", totals->caps.settled_nusd);
    json_out_ki64(out, "costNusd", totals->caps.settled_nusd);
    json_out_object_end(out);
    json_out_key(out, "reserved");
    json_out_object(out);
    json_out_ki64(out, "tokens", totals->caps.reserved_tokens);
    json_out_ki64(out, "costNusd", totals->caps.reserved_nusd);
    json_out_ki64(out, "calls", totals->caps.in_flight);
    json_out_object_end(out);
    json_out_key(out, "usage"); /* of this attempt */
    json_out_object(out);
    json_out_ki64(out, "inputTokens", totals->usage.input_tokens);
    json_out_ki64(out, "outputTokens", totals->usage.output_tokens);
    json_out_ki64(out, "cachedTokens", totals->usage.cached_tokens);
    json_out_ki64(out, "llmCalls", totals->calls);
    json_out_ki64(out, "toolCalls", totals->usage.tool_calls);
    json_out_object_end(out);
    json_out_key(out, "stoppedBy");
    if (totals->stopped_by == CAP_BY_NOTHING) json_out_null(out);
    else if (totals->stopped_by == CAP_BY_BUDGET)
        json_out_str(out, str_of(totals->stopped_by_budget));
    else json_out_str(out, str_of(cap_reason_name(totals->stopped_by)));
}

static int task_wait(GatewayTask *task, HttpReq *req)
{
    const GatewayTaskOptions *options = &task->options;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 256 * 1024);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kstr(&out, "taskId", options->task_id);
    json_out_kstr(&out, "agent", options->agent);
    json_out_kstr(&out, "versionId", options->version_id);
    json_out_ki64(&out, "attempt", options->attempt);
    json_out_kstr(&out, "model", options->model);
    json_out_key(&out, "tools");
    json_out_array(&out);
    for (size_t i = 0; i < options->tools_n; i++) json_out_str(&out, options->tools[i]);
    json_out_array_end(&out);
    out_limits(&out, &options->limits);
    out_totals(&out, task);
    json_out_object_end(&out);
    return task_json_wait(req, &out, &body);
}

static int flags_wait(GatewayTask *task, HttpReq *req)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, FLAGS_BYTES_MAX);
    JsonOut out = json_out(&body);
    gateway_task_flags(task, &out);
    return task_json_wait(req, &out, &body);
}

/* --- routing ---------------------------------------------------------------------------------- */

typedef struct {
    const char *method, *path;
    int (*handle_wait)(GatewayTask *task, HttpReq *req);
} Route;

static const Route routes[] = {
    { "POST", "/v1/chat/completions", chat_wait },
    { "POST", "/v1/responses", responses_wait },
    { "POST", "/v1/messages", messages_wait },
    { "POST", "/v1/embeddings", embeddings_wait },
    { "POST", "/v1/messages/count_tokens", task_count_tokens_wait },
    { "POST", "/messages",
      messages_wait }, /* clients that expect ANTHROPIC_BASE_URL to end in /v1 */
    { "GET", "/v1/models", task_models_wait },
    { "GET", "/gantry/v1/task", task_wait },
    { "GET", "/gantry/v1/flags", flags_wait },
};

/* A page in a browser, led here by a name of its own, is not the agent. */
static bool host_is_ours(const HttpReq *req)
{
    static const Str names[] = { STR("127.0.0.1"), STR("localhost"), STR("") };
    Str name;
    str_split(http_header(req, "host"), ':', &name, NULL);
    for (size_t i = 0; i < ARRAY_N(names); i++)
        if (str_eq_nocase(name, names[i])) return true;
    return false;
}

/* Paths below those of the table. */
static int other_path_wait(GatewayTask *task, HttpReq *req)
{
    if (str_starts_with(req->path, STR("/v1/models/"))) {
        if (str_eq(req->method, STR("GET"))) return task_model_wait(task, req);
        http_header_add(req, "allow", STR("GET"));
        return task_problem_wait(task, req, PROBLEM_METHOD, "models can only be looked at");
    }
    if (str_starts_with(req->path, STR("/v1/responses/")))
        return task_problem_wait(
            task, req, PROBLEM_PATH,
            "what a provider has stored cannot be reached through the gateway: "
            "it belongs to all who use the provider's key");
    return task_problem_wait(task, req, PROBLEM_PATH, "there is no such route in the gateway");
}

static int on_request(HttpReq *req, void *ctx)
{
    GatewayTask *task = ctx;
    str_copy(log_context()->task_id, sizeof log_context()->task_id, task->options.task_id);
    if (!host_is_ours(req))
        return task_problem_wait(task, req, PROBLEM_INVALID, "this gateway has another name");
    for (size_t i = 0; i < ARRAY_N(routes); i++) {
        if (!str_eq(req->path, str_of(routes[i].path))) continue;
        if (str_eq(req->method, str_of(routes[i].method))) return routes[i].handle_wait(task, req);
        http_header_add(req, "allow", str_of(routes[i].method));
        return task_problem_wait(task, req, PROBLEM_METHOD, "this route has another method");
    }
    if (task->options.door && str_starts_with(req->path, STR("/gantry/v1/")))
        return task->options.door(req, task->options.door_ctx);
    return other_path_wait(task, req);
}

int task_listen(GatewayTask *task)
{
    HttpServerOptions options = {
        .address = "127.0.0.1",
        .body_bytes_max = GATEWAY_REQUEST_BYTES_MAX,
        .connections_max = CONNECTIONS_MAX,
        .error_body = server_error_body,
    };
    int r = http_server_open(&options, on_request, task, &task->server);
    if (r < 0) return r;
    unsigned port = http_server_port(task->server);
    snprintf(task->openai_url, sizeof task->openai_url, "http://127.0.0.1:%u/v1", port);
    snprintf(task->anthropic_url, sizeof task->anthropic_url, "http://127.0.0.1:%u", port);
    return 0;
}
