#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/json.h"
#include "gateway/gateway_private.h"

/* A body holds its room from its first byte: one that dribbles keeps out the other tasks. */
#define BODY_TOTAL_MS 30000
#define CONNECTIONS_MAX 256
#define TIMEOUT_HEADER_MAX_S 86400

/* --- the answer on a connection --------------------------------------------------------------- */

static int start_wait(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                      bool streamed)
{
    GatewayHttpReply *state = ctx;
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
    GatewayHttpReply *state = ctx;
    if (state->streamed) return http_write_wait(state->req, bytes);
    assert(!state->written);
    state->written = true;
    return http_reply_wait(state->req, state->status, state->content_type, bytes);
}

static int end_wait(void *ctx)
{
    GatewayHttpReply *state = ctx;
    if (state->streamed) return http_end_wait(state->req);
    if (state->written) return 0;
    return http_reply_wait(state->req, state->status, state->content_type, STR_NULL);
}

static bool gone(void *ctx)
{
    return http_gone(((GatewayHttpReply *)ctx)->req);
}

/* --- errors before a call --------------------------------------------------------------------- */

/* Which API a path belongs to, for the shape of its errors. */
static Api path_api(Str path)
{
    bool messages = str_starts_with(path, STR("/v1/messages")) ||
                    str_starts_with(path, STR("/messages"));
    return messages ? API_MESSAGES : API_CHAT;
}

int ask_answer_wait(const TaskAsk *ask, int status, const GatewayField *field, Str body)
{
    const GatewayReply *reply = ask->reply;
    GatewayField fields[3] = { { "content-type", STR("application/json") } };
    size_t n = 1;
    if (field) fields[n++] = *field;
    Str id = ask->http->request_id;
    if (path_api(ask->http->path) == API_MESSAGES &&
        !str_empty(id)) /* Anthropic's clients want it */
        fields[n++] = (GatewayField){ "request-id", id };
    int r = reply->start_wait(reply->ctx, status, fields, n, false);
    if (r == 0) r = reply->write_wait(reply->ctx, body);
    return r == 0 ? reply->end_wait(reply->ctx) : r;
}

int gateway_problem_wait(const GatewayHttp *http, const GatewayReply *reply, Problem problem,
                         const char *message)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 64 * 1024);
    TaskAsk ask = { .http = http, .reply = reply };
    GatewayField final = { "x-should-retry", STR("false") }, soon = { "retry-after", STR("1") };
    const GatewayField *field = problem_is_final(problem)                              ? &final
                                : problem == PROBLEM_AWAY || problem == PROBLEM_QUEUED ? &soon
                                                                                       : NULL;
    (void)problem_body(&body, problem, path_api(http->path), str_of(message), NULL,
                       http->request_id);
    return ask_answer_wait(&ask, problem_status(problem), field, buf_str(&body));
}

int ask_problem_wait(const TaskAsk *ask, Problem problem, const char *message)
{
    stats_refused(ask->task->gateway, problem);
    ask->task->totals.calls_refused++;
    return gateway_problem_wait(ask->http, ask->reply, problem, message);
}

/* What the server refuses before a handler sees it has the same shapes. */
static void server_error_body(HttpReq *req, int status, const char *detail, Buf *body,
                              const char **content_type, void *ctx)
{
    (void)ctx;
    Problem problem = status == 413  ? PROBLEM_TOO_LARGE
                      : status < 500 ? PROBLEM_INVALID
                                     : PROBLEM_INTERNAL;
    Api api = path_api(req->path);
    *content_type = "application/json";
    if (api == API_MESSAGES) http_header_add(req, "request-id", str_of(req->request_id));
    (void)problem_body(body, problem, api, str_of(detail), NULL, str_of(req->request_id));
}

int ask_json_wait(const TaskAsk *ask, JsonOut *out, Buf *body)
{
    if (!json_out_ok(out)) return diag_set(-ENOMEM, "the answer is too large");
    return ask_answer_wait(ask, 200, NULL, buf_str(body));
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

/* A list may come in several fields, which are one with commas between them. */
static Str header_list(HttpReq *req, const char *name)
{
    Str all = STR_NULL;
    for (size_t i = 0; i < req->fields_n; i++) {
        Str value = req->fields[i].value;
        if (!str_eq_nocase(req->fields[i].name, str_of(name)) || str_empty(value)) continue;
        all = str_empty(all) ? value : arena_join(&req->arena, (Str[]){ all, STR(","), value }, 3);
    }
    return all;
}

/* SDKs count their own retries; a first request says 0. */
static bool is_retry(Str count)
{
    int64_t n;
    return str_to_i64(count, &n) == 0 && n > 0;
}

void gateway_http_read(HttpReq *req, GatewayHttp *ret)
{
    *ret = (GatewayHttp){
        .method = req->method,
        .path = req->path,
        .request_id = str_of(req->request_id),
        .anthropic_version = http_header(req, "anthropic-version"),
        .anthropic_beta = header_list(req, "anthropic-beta"),
        .timeout_ms = client_timeout_ms(req, "x-stainless-timeout"),
        .read_timeout_ms = client_timeout_ms(req, "x-stainless-read-timeout"),
        .retry = is_retry(http_header(req, "x-stainless-retry-count")),
        .client_key = http_header(req, "idempotency-key"),
        .arena = &req->arena,
    };
}

static int body_failed_wait(const TaskAsk *ask, HttpReq *req, int r)
{
    if (r == HTTP_E_TOO_LARGE || r == -ENOMEM)
        return ask_problem_wait(ask, PROBLEM_TOO_LARGE, "the request is too large");
    http_close_after(req);
    if (r == -ETIMEDOUT)
        return ask_problem_wait(
            ask, PROBLEM_INVALID,
            "the request's body did not arrive in time: send it whole, at once");
    if (r == -EINVAL)
        return ask_problem_wait(ask, PROBLEM_INVALID, "the request's body did not arrive whole");
    return r == HTTP_E_GONE ? 0 : r;
}

static int no_room_wait(const TaskAsk *ask)
{
    GatewayStop stop = ask->task->totals.stop;
    if (stop != GATEWAY_STOP_NONE)
        return ask_problem_wait(ask, task_stop_problem(stop), task_stop_text(stop));
    return ask_problem_wait(ask, PROBLEM_QUEUED,
                            "too many bytes of requests are in the gateway at once: send fewer, or "
                            "smaller ones, at a time (waiting.bytesPerTask, waiting.bytes)");
}

static int model_call_wait(const TaskAsk *ask, Api api)
{
    const GatewayHttp *http = ask->http;
    GatewayRequest request = { .api = api,
                               .body = http->body,
                               .anthropic_version = http->anthropic_version,
                               .anthropic_beta = http->anthropic_beta,
                               .timeout_ms = http->timeout_ms,
                               .read_timeout_ms = http->read_timeout_ms,
                               .retry = http->retry,
                               .client_key = http->client_key,
                               .request_id = http->request_id };
    int r = gateway_call_wait(ask->task, &request, ask->reply);
    return r > 0 || r == -ESTALE ? 0 : r; /* answered, or nobody there to answer */
}

static int chat_wait(const TaskAsk *ask)
{
    return model_call_wait(ask, API_CHAT);
}

static int responses_wait(const TaskAsk *ask)
{
    return model_call_wait(ask, API_RESPONSES);
}

static int messages_wait(const TaskAsk *ask)
{
    return model_call_wait(ask, API_MESSAGES);
}

static int embeddings_wait(const TaskAsk *ask)
{
    return model_call_wait(ask, API_EMBEDDINGS);
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
    json_out_ki64(out, "calls", totals->caps.in_flight - task->lent_n);
    json_out_ki64(out, "subagents", task->lent_n);
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

static int task_wait(const TaskAsk *ask)
{
    const GatewayTaskOptions *options = &ask->task->options;
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
    out_totals(&out, ask->task);
    json_out_object_end(&out);
    return ask_json_wait(ask, &out, &body);
}

static int flags_wait(const TaskAsk *ask)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, FLAGS_BYTES_MAX);
    JsonOut out = json_out(&body);
    gateway_task_flags(ask->task, &out);
    return ask_json_wait(ask, &out, &body);
}

/* --- routing ---------------------------------------------------------------------------------- */

typedef struct {
    const char *method, *path;
    int (*handle_wait)(const TaskAsk *ask);
} Route;

static const Route routes[] = {
    { "POST", "/v1/chat/completions", chat_wait },
    { "POST", "/v1/responses", responses_wait },
    { "POST", "/v1/messages", messages_wait },
    { "POST", "/v1/embeddings", embeddings_wait },
    { "POST", "/v1/messages/count_tokens", task_count_tokens_wait },
    /* clients that expect ANTHROPIC_BASE_URL to end in /v1 */
    { "POST", "/messages", messages_wait },
    { "POST", "/messages/count_tokens", task_count_tokens_wait },
    { "GET", "/v1/models", task_models_wait },
    { "GET", "/gantry/v1/task", task_wait },
    { "GET", "/gantry/v1/flags", flags_wait },
};

static const Route *route_of(Str path)
{
    for (size_t i = 0; i < ARRAY_N(routes); i++)
        if (str_eq(path, str_of(routes[i].path))) return &routes[i];
    return NULL;
}

/* HEAD asks what GET would say; what answers it leaves the body out. */
static bool method_fits(Str method, const char *of_route)
{
    return str_eq(method, str_of(of_route)) ||
           (str_eq(method, STR("HEAD")) && strcmp(of_route, "GET") == 0);
}

static int other_method_wait(const TaskAsk *ask, const char *allowed, const char *message)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 4096);
    bool get = strcmp(allowed, "GET") == 0;
    GatewayField allow = { "allow", get ? STR("GET, HEAD") : str_of(allowed) };
    stats_refused(ask->task->gateway, PROBLEM_METHOD);
    ask->task->totals.calls_refused++;
    (void)problem_body(&body, PROBLEM_METHOD, path_api(ask->http->path), str_of(message), NULL,
                       ask->http->request_id);
    return ask_answer_wait(ask, problem_status(PROBLEM_METHOD), &allow, buf_str(&body));
}

/* Paths below those of the table. */
static int other_path_wait(const TaskAsk *ask)
{
    const GatewayHttp *http = ask->http;
    if (str_starts_with(http->path, STR("/v1/models/"))) {
        if (method_fits(http->method, "GET")) return task_model_wait(ask);
        return other_method_wait(ask, "GET", "models can only be looked at");
    }
    if (str_starts_with(http->path, STR("/v1/responses/")))
        return ask_problem_wait(ask, PROBLEM_PATH,
                                "what a provider has stored cannot be reached through the gateway: "
                                "it belongs to all who use the provider's key");
    return ask_problem_wait(ask, PROBLEM_PATH, "there is no such route in the gateway");
}

static int serve_wait(const TaskAsk *ask)
{
    const Route *route = route_of(ask->http->path);
    if (!route) return other_path_wait(ask);
    if (method_fits(ask->http->method, route->method)) return route->handle_wait(ask);
    return other_method_wait(ask, route->method, "this route has another method");
}

int gateway_serve_wait(GatewayTask *task, const GatewayHttp *http, const GatewayReply *reply)
{
    TaskAsk ask = { .task = task, .http = http, .reply = reply };
    Visit visit = { .fiber = fiber_self() };
    str_copy(log_context()->task_id, sizeof log_context()->task_id, task->options.task_id);
    list_push_back(&task->visits, &visit.node);
    size_t room = http->body.len;
    int r = room_take_wait(task, room, http->timeout_ms, reply);
    if (r == 0) {
        r = serve_wait(&ask);
        room_give(task, room);
    } else if (r == GATEWAY_E_NO_ROOM) r = no_room_wait(&ask);
    list_remove(&visit.node);
    cond_broadcast(&task->changed);
    return r;
}

/* --- the listener ----------------------------------------------------------------------------- */

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

GatewayReply gateway_http_reply(GatewayHttpReply *state, HttpReq *req)
{
    *state = (GatewayHttpReply){ .req = req };
    return (GatewayReply){ start_wait, write_wait, end_wait, gone, state };
}

/* A body that does not say how large it is may become as large as one may be. */
static size_t body_room(const HttpReq *req, size_t max)
{
    int64_t n;
    if (str_to_i64(http_header(req, "content-length"), &n) < 0 || n < 0) return max;
    return (size_t)MIN(n, (int64_t)max);
}

/* Room before the body, and back what it did not take. */
static int with_body_wait(const TaskAsk *ask, HttpReq *req, GatewayHttp *http)
{
    GatewayTask *task = ask->task;
    size_t room = body_room(req, GATEWAY_REQUEST_BYTES_MAX);
    int r = room_take_wait(task, room, http->timeout_ms, ask->reply);
    if (r == GATEWAY_E_NO_ROOM) return no_room_wait(ask);
    if (r != 0) return r == HTTP_E_GONE ? 0 : r;
    r = http_body_wait(req, GATEWAY_REQUEST_BYTES_MAX, &http->body);
    size_t rest = r == 0 ? room - MIN(room, http->body.len) : 0;
    room_give(task, rest);
    r = r == 0 ? serve_wait(ask) : body_failed_wait(ask, req, r);
    room_give(task, room - rest);
    return r;
}

static int door_no_room_wait(const GatewayTask *task, HttpReq *req)
{
    if (task->totals.stop != GATEWAY_STOP_NONE)
        return http_problem_wait(req, 503, "task_stopped", "the task has ended or was stopped");
    http_header_add(req, "Retry-After", STR("1"));
    return http_problem_wait(req, 429, "too_many_bytes",
                             "too many bytes of the task's requests are here at once: send fewer, "
                             "or smaller ones, at a time (waiting.bytesPerTask, waiting.bytes)");
}

void gateway_door_read(GatewayTask *task, const HttpReq *req, size_t bytes)
{
    LIST_EACH (&task->door_visits, node) {
        DoorVisit *visit = CONTAINER_OF(node, DoorVisit, node);
        if (visit->req != req || visit->room <= bytes) continue;
        size_t rest = visit->room - bytes;
        visit->room = bytes;
        room_give(task, rest);
        return;
    }
}

/* The worker reads the bodies of what is asked of it, and keeps them as long as that takes. */
static int door_wait(const TaskAsk *ask, HttpReq *req)
{
    GatewayTask *task = ask->task;
    bool body = http_header(req, "content-length").len || http_header(req, "transfer-encoding").len;
    DoorVisit visit = { .req = req, .room = body ? body_room(req, GATEWAY_DOOR_BYTES_MAX) : 0 };
    int r = room_take_wait(task, visit.room, 0, ask->reply);
    if (r == GATEWAY_E_NO_ROOM) return door_no_room_wait(task, req);
    if (r != 0) return r == HTTP_E_GONE ? 0 : r;
    list_push_back(&task->door_visits, &visit.node);
    r = task->options.door(req, task->options.door_ctx);
    list_remove(&visit.node);
    room_give(task, visit.room);
    return r;
}

static int on_request(HttpReq *req, void *ctx)
{
    GatewayTask *task = ctx;
    GatewayHttp http;
    GatewayHttpReply state;
    GatewayReply reply = gateway_http_reply(&state, req);
    TaskAsk ask = { .task = task, .http = &http, .reply = &reply };
    gateway_http_read(req, &http);
    str_copy(log_context()->task_id, sizeof log_context()->task_id, task->options.task_id);
    if (!host_is_ours(req))
        return ask_problem_wait(&ask, PROBLEM_INVALID, "this gateway has another name");
    const Route *route = route_of(req->path);
    if (!route && task->options.door && str_starts_with(req->path, STR("/gantry/v1/")))
        return door_wait(&ask, req);
    if (route && str_eq(req->method, STR("POST")) && strcmp(route->method, "POST") == 0)
        return with_body_wait(&ask, req, &http);
    return serve_wait(&ask);
}

int task_listen(GatewayTask *task)
{
    HttpServerOptions options = {
        .address = "127.0.0.1",
        .own = true,
        .body_bytes_max = GATEWAY_REQUEST_BYTES_MAX,
        .body_total_ms = BODY_TOTAL_MS,
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
