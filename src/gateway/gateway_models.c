/* What an agent may ask of models but to answer: which there are, and how long a text is to them.
 * Neither costs money; both are refused to a task that may make no more calls. */
#include "base/diag.h"
#include "codec/url.h"
#include "gateway/gateway_call.h"
#include "logic/retry.h"

#define COUNT_ANSWER_BYTES_MAX ((size_t)64 * 1024)

/* The price is that of now: it may be gone after a wait. */
static int resolve(const GatewayTask *task, Str model, GatewayProtocol protocol,
                   const GatewayProvider **ret_provider, const Price **ret_price)
{
    const Gateway *gateway = task->gateway;
    return gateway_resolve(gateway->config, gateway_prices(gateway), model, protocol, ret_provider,
                           ret_price);
}

/* --- which there are -------------------------------------------------------------------------- */

#define MODELS_LISTED_MAX 1000

/* What the task may name: its own model and fallbacks, or all that there are. */
typedef struct {
    Str names[MODELS_LISTED_MAX];
    size_t n;
} Models;

static void models_add(Models *models, const GatewayTask *task, Str name)
{
    bool pattern = str_find_char(name, '*') >= 0 || str_find_char(name, '?') >= 0;
    if (models->n == MODELS_LISTED_MAX || pattern) return;
    if (resolve(task, name, GATEWAY_OPENAI, NULL, NULL) != 0 &&
        resolve(task, name, GATEWAY_ANTHROPIC, NULL, NULL) != 0)
        return;
    for (size_t i = 0; i < models->n; i++)
        if (str_eq(models->names[i], name)) return;
    models->names[models->n++] = name;
}

/* On the heap; names live until the next wait. */
static Models *models_of(const GatewayTask *task)
{
    Models *models = xcalloc(1, sizeof *models);
    const GatewayTaskOptions *o = &task->options;
    const GatewayConfig *config = task->gateway->config;
    const Price *price;
    if (!str_empty(o->model)) {
        models->names[models->n++] = o->model;
        for (size_t i = 0; i < o->fallbacks_n && models->n < MODELS_LISTED_MAX; i++)
            models->names[models->n++] = o->fallbacks[i];
        return models;
    }
    for (size_t i = 0; i < config->routes_n; i++)
        models_add(models, task, str_of(config->routes[i].match));
    for (size_t i = 0; (price = price_at(gateway_prices(task->gateway), i)); i++)
        models_add(models, task, price->model);
    return models;
}

static void model_openai(JsonOut *out, const GatewayTask *task, Str model)
{
    const GatewayProvider *provider = NULL;
    const Price *price;
    (void)!resolve(task, model, GATEWAY_OPENAI, &provider, &price);
    json_out_object(out);
    json_out_kstr(out, "id", model);
    json_out_kcstr(out, "object", "model");
    json_out_ki64(out, "created", 0);
    json_out_kcstr(out, "owned_by", provider ? provider->name : "");
    json_out_object_end(out);
}

static void model_anthropic(JsonOut *out, Str model)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "model");
    json_out_kstr(out, "id", model);
    json_out_kstr(out, "display_name", model);
    json_out_kcstr(out, "created_at", "1970-01-01T00:00:00Z");
    json_out_object_end(out);
}

static void model_or_null(JsonOut *out, const Models *models, size_t i)
{
    if (i < models->n) json_out_str(out, models->names[i]);
    else json_out_null(out);
}

/* Both APIs list models at the same path; Anthropic's clients always name their version. */
int task_models_wait(const TaskAsk *ask)
{
    const GatewayTask *task = ask->task;
    bool anthropic = !str_empty(ask->http->anthropic_version);
    CLEANUP(freep) Models *models = models_of(task);
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 256 * 1024);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (!anthropic) json_out_kcstr(&out, "object", "list");
    json_out_key(&out, "data");
    json_out_array(&out);
    for (size_t i = 0; i < models->n; i++) {
        if (anthropic) model_anthropic(&out, models->names[i]);
        else model_openai(&out, task, models->names[i]);
    }
    json_out_array_end(&out);
    if (anthropic) {
        json_out_kbool(&out, "has_more", false);
        json_out_key(&out, "first_id");
        model_or_null(&out, models, 0);
        json_out_key(&out, "last_id");
        model_or_null(&out, models, models->n - 1);
    }
    json_out_object_end(&out);
    return ask_json_wait(ask, &out, &body);
}

static bool is_known(const GatewayTask *task, Str model)
{
    const GatewayTaskOptions *o = &task->options;
    if (!str_empty(o->model) && str_eq(o->model, model)) return true;
    for (size_t i = 0; i < o->fallbacks_n; i++)
        if (str_eq(o->fallbacks[i], model)) return true;
    return resolve(task, model, GATEWAY_OPENAI, NULL, NULL) == 0 ||
           resolve(task, model, GATEWAY_ANTHROPIC, NULL, NULL) == 0;
}

/* Names of models have slashes; clients write them in either way. */
int task_model_wait(const TaskAsk *ask)
{
    const GatewayTask *task = ask->task;
    const GatewayHttp *http = ask->http;
    Str model;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 64 * 1024);
    int r = url_decode(http->arena, str_skip(http->path, strlen("/v1/models/")), false, &model);
    if (r == -ENOMEM) return r;
    if (r < 0 || !str_is_utf8(model) || !is_known(task, model))
        return ask_problem_wait(ask, PROBLEM_MODEL, "there is no such model");
    JsonOut out = json_out(&body);
    if (str_empty(http->anthropic_version)) model_openai(&out, task, model);
    else model_anthropic(&out, model);
    return ask_json_wait(ask, &out, &body);
}

/* --- how long a text is ----------------------------------------------------------------------- */

typedef struct {
    const TaskAsk *ask;
    Str body;
    RequestInfo info;
    const GatewayProvider *provider;
    const Price *price;
    const Json *json; /* the request */
} Count;

/* The body is that of messages, but for the cap, which there is none of. */
static int count_read(Count *count, RequestFault *fault)
{
    Arena *arena = count->ask->http->arena;
    const Json *json = NULL;
    CLEANUP(buf_deinit) Buf capped;
    buf_init(&capped, count->body.len + 64);
    int r = json_parse(arena, count->body, NULL, &json, NULL);
    if (r == 0 && json_type(json) != JSON_OBJECT) r = -EINVAL;
    if (r == 0) r = json_member_set(count->body, STR("max_tokens"), STR("1"), &capped);
    Str text = r == 0 ? arena_str(arena, buf_str(&capped)) : STR_NULL;
    if (r == 0) r = text.ptr ? json_parse(arena, text, NULL, &json, NULL) : -ENOMEM;
    if (r == 0) r = request_info_read(arena, API_MESSAGES, json, &count->info, fault);
    if (r == -EINVAL) str_copy(fault->message, sizeof fault->message, STR("the body is no JSON"));
    count->json = json;
    return r;
}

/* What the model of another API would take at most. */
static int estimate_wait(const Count *count)
{
    const RequestInfo *info = &count->info;
    bool opaque = info->has_media || info->hides_input;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 256);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_ki64(&out, "input_tokens",
                  request_in_ub((int64_t)count->body.len, info->messages, info->tool_prompts,
                                opaque, count->price->input_max));
    json_out_object_end(&out);
    GatewayField estimated = { "x-gantry-estimated", STR("1") };
    if (!json_out_ok(&out)) return -ENOMEM;
    return ask_answer_wait(count->ask, 200, &estimated, buf_str(&body));
}

/* The provider's own. SDKs are not to try it again, but for a rate limit: that is waited for here
 * the next time. */
static int count_error_wait(const Count *count, const HttpResponse *response)
{
    GatewayField final = { "x-should-retry", STR("false") };
    bool again = retry_status_may(response->status) && response->status != 429;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, COUNT_ANSWER_BYTES_MAX);
    (void)buf_add(&body, response->body);
    (void)key_mask(count->provider, body.ptr, body.len);
    return ask_answer_wait(count->ask, response->status, again ? &final : NULL, buf_str(&body));
}

/* As http_fetch_wait, and what stops the task or switches it off ends it: -ECONNABORTED. */
static int fetch_wait(const Count *count, const HttpCallOptions *options, HttpResponse *ret)
{
    GatewayTask *task = count->ask->task;
    CountFlight flight = { .model = count->info.model };
    HttpCallOptions stoppable = *options;
    stoppable.abort = &flight.abort;
    diag_clear();
    list_push_back(&task->counts, &flight.node);
    int r = http_fetch_wait(task->gateway->client, &stoppable, COUNT_ANSWER_BYTES_MAX,
                            count->ask->http->arena, ret);
    list_remove(&flight.node);
    return r;
}

/* The rules that do not depend on money: it costs none. The provider counts it as a request. */
static const char *count_refused(const Count *count, Problem *ret)
{
    GatewayTask *task = count->ask->task;
    *ret = task_stop_problem(task->totals.stop);
    if (task->totals.stop != GATEWAY_STOP_NONE) return task_stop_text(task->totals.stop);
    if (task_past_deadline(task)) {
        task_note_cap(task, CAP_BY_SECONDS);
        *ret = PROBLEM_CAP;
        return "the task's time is up (secondsPerTask, or its deadline)";
    }
    *ret = PROBLEM_SWITCHED_OFF;
    if (!gateway_task_on(task) || !task_model_on(task, count->info.model))
        return "a flag has switched the task or the model off";
    return NULL;
}

static int forward_wait(const Count *count)
{
    const GatewayProvider *provider = count->provider;
    GatewayTask *task = count->ask->task;
    const GatewayHttp *http = count->ask->http;
    Str version = http->anthropic_version, beta = http->anthropic_beta;
    Str key = str_of(provider->key);
    HttpClientField fields[5] = {
        { "content-type", STR("application/json") },
        { "accept", STR("application/json") },
        { "anthropic-version", str_empty(version) ? STR("2023-06-01") : version },
    };
    size_t n = 3;
    if (!str_empty(key)) fields[n++] = (HttpClientField){ "x-api-key", key };
    if (!str_empty(beta)) fields[n++] = (HttpClientField){ "anthropic-beta", beta };
    int64_t timeout_ms = provider->timeout_ms ? provider->timeout_ms : TIMEOUT_DEFAULT_MS;
    HttpCallOptions options = {
        .method = STR("POST"),
        .url = url_join(http->arena, str_of(provider->base_url), STR("/v1/messages/count_tokens")),
        .fields = fields,
        .fields_n = n,
        .body = count->body,
        .connect_timeout_ms = provider->connect_timeout_ms,
        .idle_timeout_ms = timeout_ms,
    };
    HttpResponse response = { 0 };
    CallPermit permit;
    Problem problem;
    const char *refused;
    int r = limits_enter_wait(count->ask, provider, count->info.model, &permit, &problem, &refused);
    if (r == CALL_E_PROBLEM) return ask_problem_wait(count->ask, problem, refused);
    if (r != 0) return r == HTTP_E_GONE ? 0 : r;
    options.deadline_ms = MIN(deadline_after(timeout_ms), task->wall_deadline_ms);
    r = fetch_wait(count, &options, &response);
    bool given_up = r == -ECANCELED || r == -ECONNABORTED;
    limits_done(task, &permit, given_up ? -1 : r != 0 ? 0 : response.status, response.retry_after);
    if (r == -ECANCELED) return r;
    refused = r == -ECONNABORTED ? count_refused(count, &problem) : NULL;
    if (refused) return ask_problem_wait(count->ask, problem, refused);
    if (r != 0 || response.status < 200 || (response.status > 299 && response.status < 400))
        return ask_problem_wait(count->ask, PROBLEM_UNREACHABLE,
                                "the provider could not count the tokens");
    if (response.status > 299) return count_error_wait(count, &response);
    return ask_answer_wait(count->ask, 200, NULL, response.body);
}

static int count_wait(Count *count)
{
    GatewayTask *task = count->ask->task;
    Problem problem;
    const char *refused = count_refused(count, &problem);
    if (refused) return ask_problem_wait(count->ask, problem, refused);
    StateName name;
    char text[512];
    int r = task_check_state_wait(task, API_MESSAGES, count->json, &name);
    if (r < 0) return r;
    if (name.member) state_name_text(&name, text, sizeof text);
    if (name.member) return ask_problem_wait(count->ask, PROBLEM_STATE, text);
    Str model = count->info.model;
    if (resolve(task, model, GATEWAY_ANTHROPIC, &count->provider, &count->price) == 0)
        return forward_wait(count);
    if (resolve(task, model, GATEWAY_OPENAI, &count->provider, &count->price) == 0)
        return estimate_wait(count);
    return ask_problem_wait(count->ask, PROBLEM_MODEL, "no provider serves the model");
}

int task_count_tokens_wait(const TaskAsk *ask)
{
    Count count = { .ask = ask, .body = ask->http->body };
    RequestFault fault = { .param = NULL };
    int r = count_read(&count, &fault);
    if (r == -ENOMEM) return ask_problem_wait(ask, PROBLEM_TOO_LARGE, "the request is too large");
    if (r != 0) return ask_problem_wait(ask, PROBLEM_INVALID, fault.message);
    return count_wait(&count);
}
