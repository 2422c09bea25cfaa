#include "base/diag.h"
#include "base/log.h"
#include "gateway/gateway_call.h"
#include "gateway/gateway_edit.h"
#include "sys/entropy.h"

#define FIELDS_MAX 8
#define UPSTREAM_ID_MAX 128
#define EDIT_BYTES_MAX 2048 /* that edits add to a request */

/* --- sending ---------------------------------------------------------------------------------- */

static void make_id(Gateway *gateway, char out[UUID_TEXT_MAX])
{
    uint8_t random[UUID7_RANDOM_BYTES];
    entropy_fill(random, sizeof random);
    uuid_text(uuid7_next(&gateway->ids, clock_real_ms(), random), out);
}

void call_record_begin(ModelCall *call)
{
    GatewayCall *record = &call->record;
    record->ttfb_us = -1;
    record->status = call->begun ? 200 : 0; /* a heartbeat has fixed it */
    const GatewayTaskOptions *options = &call->task->options;
    make_id(call->task->gateway, record->id);
    record->task_id = options->task_id;
    record->request_id = call->request->request_id;
    record->tries = call->tries;
    record->degraded = call->target->degraded;
    record->degraded_by = call->target->degraded_by;
    if (!record->degraded_by && call->was_held)
        record->degraded_by = gateway_degraded_name(GATEWAY_DEGRADED_HOLD);
    record->agent = options->agent;
    record->version_id = options->version_id;
    record->attempt = options->attempt;
    record->api = call->target->api;
    record->provider = str_of(call->target->provider->name);
    record->model = call->target->model;
    record->streamed = call->info.stream;
    record->simulated = call->target->provider->simulated;
    record->hold = call->verdict.hold;
    record->started_real_ms = call->held ? call->reserved_real_ms : clock_real_ms();
}

static int edit(ModelCall *call, Str *ret)
{
    const CapLimits *limits = &call->task->options.limits;
    const CapHold *most = &call->task->options.call_max;
    const CallTarget *target = call->target;
    const RequestInfo *info = target->info;
    bool named = call_is_translated(call); /* the translation names the model already */
    bool capped = limits->tokens != CAP_NONE || limits->usd_nusd != CAP_NONE || call->purse.n > 0 ||
                  most->tokens || most->nusd;
    Edits edits = {
        .model = target->degraded && !named ? target->model : STR_NULL,
        .cap_member = target->provider->cap_member,
        .no_tools = call->verdict.tools_spent && info->has_tools,
        .usual_service = call_pins_service(target),
        .include_usage = info->api == API_CHAT && info->stream && !info->include_usage,
    };
    /* without a cap to keep, a request is left to the provider's own */
    bool lower = call->verdict.clamped && (capped || info->out_cap == 0);
    if (lower || (capped && info->out_cap == 0)) edits.out_cap = call->verdict.out_cap;
    call->verdict.clamped = lower; /* what is sent as it was asked for may be kept as that */
    if (lower) atomic_fetch_add(&call->task->gateway->clamped, 1);
    if (edits.no_tools) {
        atomic_fetch_add(&call->task->gateway->disarmed, 1);
        task_note_cap(call->task, CAP_BY_TOOL_CALLS);
    }
    if (named) atomic_fetch_add(&call->task->gateway->translated, 1);
    return body_edit(target->body, info, &edits, &call->body, ret);
}

static Str upstream_url(ModelCall *call)
{
    static const char *const paths[API_N_] = {
        [API_CHAT] = "/chat/completions",
        [API_RESPONSES] = "/responses",
        [API_MESSAGES] = "/v1/messages",
        [API_EMBEDDINGS] = "/embeddings",
    };
    return url_join(&call->arena, str_of(call->target->provider->base_url),
                    str_of(paths[call->target->api]));
}

/* The head is made from nothing: what the agent sent, its keys above all, stays here. */
static size_t upstream_fields(ModelCall *call, HttpClientField fields[FIELDS_MAX])
{
    const GatewayRequest *request = call->request;
    Str key = str_of(call->target->provider->key), trace = call->task->options.traceparent;
    size_t n = 0;
    fields[n++] = (HttpClientField){ "content-type", STR("application/json") };
    fields[n++] = (HttpClientField){ "accept", call->info.stream ? STR("text/event-stream")
                                                                 : STR("application/json") };
    if (!str_empty(trace)) fields[n++] = (HttpClientField){ "traceparent", trace };
    if (call->target->provider->protocol == GATEWAY_OPENAI) {
        Str bearer = arena_join(&call->arena, (Str[]){ STR("Bearer "), key }, 2);
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
    const GatewayProvider *provider = call->target->provider;
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
    buf_init(&call->body, call->target->body.len + EDIT_BYTES_MAX);
    int r = edit(call, &options.body);
    if (r < 0) return r;
    return http_call_open_wait(call->task->gateway->client, &options, &call->upstream);
}

/* By which the provider's own log has it. */
static void note_upstream_id(ModelCall *call)
{
    static const char *const names[] = { "x-request-id", "request-id" };
    for (size_t i = 0; i < ARRAY_N(names) && str_empty(call->record.upstream_id); i++) {
        Str id = http_call_field(call->upstream, names[i]);
        if (id.len <= UPSTREAM_ID_MAX && str_is_utf8(id) && !call_quotes_key(call, id))
            call->record.upstream_id = arena_str(&call->arena, id);
    }
}

static bool is_event_stream(const HttpCall *upstream)
{
    Str type;
    str_split(http_call_field(upstream, "content-type"), ';', &type, NULL);
    return str_eq_nocase(str_trim(type), STR("text/event-stream"));
}

bool call_is_encoded(const ModelCall *call)
{
    Str encoding = http_call_field(call->upstream, "content-encoding");
    return !str_empty(encoding) && !str_eq_nocase(encoding, STR("identity"));
}

/* --- an attempt ------------------------------------------------------------------------------- */

static int send_failed_wait(ModelCall *call, int r, CallFailure *ret)
{
    int recorded = call_fail_wait(call, r);
    ret->outcome = call->record.outcome;
    if (recorded == 0) return ATTEMPT_E_FAILED;
    reply_problem_wait(call);
    return recorded;
}

static int forward_wait(ModelCall *call, CallFailure *ret)
{
    int status = http_call_status(call->upstream);
    if (status < 200 || status > 299) return call_error_wait(call, ret);
    if (call_is_encoded(call))
        return send_failed_wait(
            call, diag_set(-EPROTO, "it is compressed, which was not asked for"), ret);
    bool stream = call->info.stream && is_event_stream(call->upstream);
    int r = stream ? call_stream_wait(call) : call_plain_wait(call);
    if (r == ATTEMPT_E_FAILED) ret->outcome = call->record.outcome;
    return r;
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

static void release(ModelCall *call)
{
    call->held = false;
    cap_release(&call->task->totals.caps, &call->verdict.hold);
    purse_settle(call->task->gateway->purse, &call->purse, &(CapHold){ 0 });
    cond_broadcast(&call->task->changed);
    call_permit_drop(call);
}

/* Nothing was sent: the hold is given back, and there is no call to record. */
static int give_back_wait(ModelCall *call, int r)
{
    release(call);
    call_cache_land(call);
    if (r == -ESTALE) {
        gateway_task_stop(call->task, GATEWAY_STOP_STALE);
        call_problem(call, PROBLEM_STOPPED, NULL, "%s", task_stop_text(GATEWAY_STOP_STALE));
    } else if (r == -EAGAIN) {
        call_problem(call, PROBLEM_AWAY, NULL, "%s", diag_text_or(r));
    } else {
        LOG_ERROR("reservation not recorded", LOG_CSTR("call", call->record.id),
                  LOG_CSTR("why", diag_text_or(r)));
        call_problem(call, PROBLEM_INTERNAL, NULL, "the reservation could not be recorded");
    }
    stats_refused(call->task->gateway, call->problem);
    reply_problem_wait(call);
    return r;
}

/* It may not be sent to this target. */
static int unsent(ModelCall *call, int r, CallFailure *ret)
{
    release(call);
    if (r == CALL_E_FLAGS || r == CALL_E_FLIGHT) call->tries--;
    bool final = call->problem == PROBLEM_STOPPED || call->problem == PROBLEM_AWAY ||
                 call->problem == PROBLEM_CAP;
    if (r != CALL_E_PROBLEM || final) return r;
    *ret = (CallFailure){ .outcome = GATEWAY_UNREACHED, .unsent = true };
    return ATTEMPT_E_FAILED;
}

int call_attempt_wait(ModelCall *call, CallFailure *ret)
{
    int r = call_admit_wait(call);
    if (r != 0) return r;
    call->tries++;
    r = call_permit_wait(call);
    if (r == 0 && call_flags_moved(call)) r = CALL_E_FLAGS;
    if (r == 0) r = call_cache_fly(call);
    if (r != 0) return unsent(call, r, ret);
    call_record_begin(call);
    r = hold_wait(call);
    if (r < 0) return give_back_wait(call, r);

    call->task->totals.calls++;
    if (call->target_tries++ == 0) call_retry_earn(call);
    call->upstream_wish_ms = -1;
    atomic_fetch_add(&call->task->gateway->in_flight, 1);
    r = send_wait(call);
    if (r < 0) return send_failed_wait(call, r, ret);
    call_permit_answered(call);
    note_upstream_id(call);
    return forward_wait(call, ret);
}

void call_attempt_clear(ModelCall *call)
{
    assert(!call->held);
    http_call_free(TAKE(call->upstream)); /* which sends from body */
    buf_deinit(&call->body);
    call->abort = (HttpAbort){ 0 };
    call->switched_off = call->doubtful = call->unreadable = false;
    call->record = (GatewayCall){ 0 };
    call->verdict = (CapVerdict){ 0 };
    recording_clear(call);
}
