#include "gateway/gateway_call.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "gateway/gateway_edit.h"
#include "sys/entropy.h"

#define TIMEOUT_DEFAULT_MS 600000
#define FIELDS_MAX 8

/* --- life ------------------------------------------------------------------------------------- */

static ModelCall *call_new(GatewayTask *task, const GatewayRequest *request,
                           const GatewayReply *reply)
{
    ModelCall *call = xcalloc(1, sizeof *call);
    call->task = task;
    call->request = request;
    call->reply = reply;
    call->started_us = clock_mono_us();
    call->record.ttfb_us = -1;
    /* the request, then its answer, as documents */
    arena_init(&call->arena, GATEWAY_JSON_FACTOR * request->body.len + 256u * 1024 * 1024);
    buf_init(&call->body, request->body.len + 1024);
    list_push_back(&task->calls, &call->node);
    return call;
}

static void call_free(ModelCall *call)
{
    assert(!call->held && !call->upstream);
    list_remove(&call->node);
    cond_broadcast(&call->task->changed); /* who closes the task may wait for this call */
    arena_deinit(&call->arena);
    buf_deinit(&call->body);
    free(call);
}

void calls_abort(GatewayTask *task)
{
    LIST_EACH (&task->calls, node) http_abort(&CONTAINER_OF(node, ModelCall, node)->abort);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void make_id(Gateway *gateway, char out[UUID_TEXT_MAX])
{
    uint8_t random[UUID7_RANDOM_BYTES];
    entropy_fill(random, sizeof random);
    uuid_text(uuid7_next(&gateway->ids, clock_real_ms(), random), out);
}

static void record_begin(ModelCall *call)
{
    GatewayCall *record = &call->record;
    const GatewayTaskOptions *options = &call->task->options;
    make_id(call->task->gateway, record->id);
    record->task_id = options->task_id;
    record->agent = options->agent;
    record->version_id = options->version_id;
    record->attempt = options->attempt;
    record->api = call->info.api;
    record->provider = str_of(call->provider->name);
    record->model = call->info.model;
    record->streamed = call->info.stream;
    record->simulated = call->provider->simulated;
    record->hold = call->verdict.hold;
    record->started_real_ms = clock_real_ms();
}

static int edit(ModelCall *call, Str *ret)
{
    const CapLimits *limits = &call->task->options.limits;
    const RequestInfo *info = &call->info;
    bool capped = limits->tokens != CAP_NONE || limits->usd_nusd != CAP_NONE;
    Edits edits = {
        .cap_member = call->provider->cap_member,
        .no_tools = call->verdict.tools_spent && info->has_tools,
        .include_usage = info->api == API_CHAT && info->stream && !info->include_usage,
    };
    /* without a cap to keep, a request that names none is left to the provider's own */
    if (call->verdict.clamped || (capped && info->out_cap == 0))
        edits.out_cap = call->verdict.out_cap;
    if (call->verdict.clamped) atomic_fetch_add(&call->task->gateway->clamped, 1);
    return body_edit(call->request->body, info, &edits, &call->body, ret);
}

static Str upstream_url(ModelCall *call)
{
    static const char *const paths[API_N_] = {
        [API_CHAT] = "/chat/completions",
        [API_RESPONSES] = "/responses",
        [API_MESSAGES] = "/v1/messages",
        [API_EMBEDDINGS] = "/embeddings",
    };
    return url_join(&call->arena, str_of(call->provider->base_url), str_of(paths[call->info.api]));
}

/* The head is made from nothing: what the agent sent, its keys above all, stays here. */
static size_t upstream_fields(ModelCall *call, HttpClientField fields[FIELDS_MAX])
{
    const GatewayRequest *request = call->request;
    Str key = str_of(call->provider->key), trace = call->task->options.traceparent;
    size_t n = 0;
    fields[n++] = (HttpClientField){ "content-type", STR("application/json") };
    fields[n++] = (HttpClientField){ "accept", call->info.stream ? STR("text/event-stream")
                                                                 : STR("application/json") };
    if (!str_empty(trace)) fields[n++] = (HttpClientField){ "traceparent", trace };
    if (call->provider->protocol == GATEWAY_OPENAI) {
        Str bearer = arena_printf(&call->arena, "Bearer %.*s", STR_ARG(key));
        if (!str_empty(key)) fields[n++] = (HttpClientField){ "authorization", bearer };
        return n;
    }
    Str version = request->anthropic_version;
    if (str_empty(version)) version = STR("2023-06-01");
    fields[n++] = (HttpClientField){ "anthropic-version", version };
    if (!str_empty(key)) fields[n++] = (HttpClientField){ "x-api-key", key };
    if (!str_empty(request->anthropic_beta))
        fields[n++] = (HttpClientField){ "anthropic-beta", request->anthropic_beta };
    assert(n <= FIELDS_MAX);
    return n;
}

/* Sends the request and waits for the answer's head. Returns 0 or a negative errno. */
static int send_wait(ModelCall *call)
{
    const GatewayProvider *provider = call->provider;
    int64_t timeout_ms = provider->timeout_ms ? provider->timeout_ms : TIMEOUT_DEFAULT_MS;
    HttpClientField fields[FIELDS_MAX];
    HttpCallOptions options = {
        .method = STR("POST"),
        .url = upstream_url(call),
        .fields = fields,
        .fields_n = upstream_fields(call, fields),
        .connect_timeout_ms = provider->connect_timeout_ms,
        .idle_timeout_ms = provider->idle_timeout_ms ? provider->idle_timeout_ms : timeout_ms,
        .deadline_ms = MIN(deadline_after(timeout_ms), call->task->wall_deadline_ms),
        .abort = &call->abort,
    };
    diag_clear();
    int r = edit(call, &options.body);
    if (r < 0) return r;
    return http_call_open_wait(call->task->gateway->client, &options, &call->upstream);
}

static bool is_event_stream(const HttpCall *upstream)
{
    Str type;
    str_split(http_call_field(upstream, "content-type"), ';', &type, NULL);
    return str_eq_nocase(str_trim(type), STR("text/event-stream"));
}

static int forward_wait(ModelCall *call)
{
    int status = http_call_status(call->upstream);
    if (status < 200 || status > 299) return call_error_wait(call);
    if (call->info.stream && is_event_stream(call->upstream)) return call_stream_wait(call);
    return call_plain_wait(call);
}

/* --- the call --------------------------------------------------------------------------------- */

static int refuse_wait(ModelCall *call, int r)
{
    if (r != CALL_E_PROBLEM) return r;
    call->task->totals.calls_refused++;
    stats_refused(call->task->gateway, call->problem);
    reply_problem_wait(call);
    return 0;
}

/* The reservation may have to be durable before money can be spent. */
static int hold_wait(ModelCall *call)
{
    const GatewaySink *sink = call->task->options.sink;
    if (!sink->call_hold_wait) return 0;
    fiber_shield();
    int r = sink->call_hold_wait(sink->ctx, &call->record);
    fiber_unshield();
    assert(r <= 0);
    return r;
}

/* Nothing was sent: the hold is given back, and there is no call to record. */
static int give_back_wait(ModelCall *call, int r)
{
    call->held = false;
    cap_release(&call->task->totals.caps, &call->verdict.hold);
    cond_broadcast(&call->task->changed);
    if (r == -ESTALE) gateway_task_stop(call->task, GATEWAY_STOP_STALE);
    else
        LOG_ERROR("reservation not recorded", LOG_CSTR("call", call->record.id),
                  LOG_CSTR("why", diag_text_or(r)));
    if (r == -ESTALE)
        call_problem(call, PROBLEM_STOPPED, NULL, "%s", task_stop_text(GATEWAY_STOP_STALE));
    else call_problem(call, PROBLEM_INTERNAL, NULL, "the reservation could not be recorded");
    reply_problem_wait(call);
    return r;
}

static int run_wait(ModelCall *call)
{
    int r = call_admit_wait(call);
    if (r != 0) return refuse_wait(call, r);
    record_begin(call);
    r = hold_wait(call);
    if (r < 0) return give_back_wait(call, r);

    call->task->totals.calls++;
    atomic_fetch_add(&call->task->gateway->in_flight, 1);
    r = send_wait(call);
    if (r == 0) return forward_wait(call);
    int recorded = call_fail_wait(call, r);
    reply_problem_wait(call);
    return recorded < 0 ? recorded : r == -ECANCELED ? r : 0;
}

int gateway_call_wait(GatewayTask *task, const GatewayRequest *request, const GatewayReply *reply)
{
    assert(request->api < API_N_ && reply->start_wait && reply->write_wait && reply->end_wait);
    ModelCall *call = call_new(task, request, reply);
    int r = run_wait(call);
    http_call_free(TAKE(call->upstream));
    if (r < 0 && r != -ESTALE && r != -ECANCELED) r = GATEWAY_E_CUT; /* the answer said why */
    if (r >= 0 && call->gone) r = fiber_cancelled() ? -ECANCELED : HTTP_E_GONE;
    call_free(call);
    return r;
}

/* --- a reply in memory ------------------------------------------------------------------------ */

static int memory_start_wait(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                             bool streamed)
{
    (void)fields, (void)fields_n, (void)streamed;
    GatewayMemory *memory = ctx;
    memory->status = status;
    return 0;
}

static int memory_write_wait(void *ctx, Str bytes)
{
    GatewayMemory *memory = ctx;
    return buf_add(&memory->body, bytes) ? 0 : -EMSGSIZE;
}

static int memory_end_wait(void *ctx)
{
    GatewayMemory *memory = ctx;
    memory->ended = true;
    return 0;
}

void gateway_memory_init(GatewayMemory *memory, size_t max)
{
    *memory = (GatewayMemory){ .status = 0 };
    buf_init(&memory->body, max);
}

void gateway_memory_deinit(GatewayMemory *memory)
{
    buf_deinit(&memory->body);
}

GatewayReply gateway_memory_reply(GatewayMemory *memory)
{
    return (GatewayReply){ .start_wait = memory_start_wait,
                           .write_wait = memory_write_wait,
                           .end_wait = memory_end_wait,
                           .ctx = memory };
}
