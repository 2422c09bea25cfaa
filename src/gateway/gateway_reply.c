#include <stdio.h>

#include "codec/http1.h"
#include "gateway/gateway_call.h"
#include "logic/retry.h"

#define FIELDS_MAX 32
#define FIELDS_PASSED_MAX 20

typedef struct {
    GatewayField list[FIELDS_MAX];
    size_t n;
} FieldList;

static void add(FieldList *fields, const char *name, Str value)
{
    if (fields->n == FIELDS_MAX || !http1_value_ok(value)) return;
    fields->list[fields->n++] = (GatewayField){ name, value };
}

#define SECRET_BYTES_MIN 8 /* of a key: a shorter one is no secret, and would stand in any text */

bool key_mask(const GatewayProvider *provider, char *text, size_t n)
{
    Str key = str_of(provider->key), rest = str_make(text, n);
    bool found = false;
    if (key.len < SECRET_BYTES_MIN) return false;
    for (;;) {
        ptrdiff_t at = str_find(rest, key);
        if (at < 0) return found;
        rest = str_skip(rest, (size_t)at + key.len);
        memset(text + n - rest.len - key.len, '*', key.len);
        found = true;
    }
}

/* Answers' heads are rebuilt: only these fields come down. What was translated has another type
 * than what came. */
static bool passes(const ModelCall *call, Str name)
{
    static const char *const names[] = { "content-type",      "content-encoding",
                                         "retry-after",       "retry-after-ms",
                                         "x-should-retry",    "openai-processing-ms",
                                         "x-gantry-simulated" };
    if (call_is_translated(call) && str_eq_nocase(name, STR("content-type"))) return false;
    static const char *const prefixes[] = { "x-ratelimit-", "anthropic-ratelimit-" };
    for (size_t i = 0; i < ARRAY_N(names); i++)
        if (str_eq_nocase(name, str_of(names[i]))) return true;
    for (size_t i = 0; i < ARRAY_N(prefixes); i++)
        if (str_eq_nocase(str_sub(name, 0, strlen(prefixes[i])), str_of(prefixes[i]))) return true;
    return false;
}

bool call_quotes_key(const ModelCall *call, Str value)
{
    Str key = str_of(call->target->provider->key);
    return key.len >= SECRET_BYTES_MIN && str_find(value, key) >= 0;
}

static Str answer_type(const ModelCall *call, bool streamed)
{
    if (!call_is_translated(call)) return http_call_field(call->upstream, "content-type");
    return streamed ? STR("text/event-stream") : STR("application/json");
}

static void add_upstream(FieldList *fields, ModelCall *call, bool streamed)
{
    Str name, value;
    if (call_is_translated(call)) add(fields, "content-type", answer_type(call, streamed));
    for (size_t i = 0; http_call_field_at(call->upstream, i, &name, &value); i++) {
        if (fields->n >= FIELDS_PASSED_MAX) return;
        if (!passes(call, name) || !http1_name_ok(name)) continue;
        if (call_quotes_key(call, value)) continue;
        if (call->no_retry && str_eq_nocase(name, STR("x-should-retry"))) continue; /* ours */
        const char *copy = arena_cstr(&call->arena, name);
        if (copy) add(fields, copy, value);
    }
}

/* x-request-id is the server's own, which the logs have; Anthropic's clients look for request-id.
 */
static void add_ids(FieldList *fields, const ModelCall *call)
{
    Str id = call->request->request_id;
    if (str_empty(id)) id = str_of(call->record.id);
    if (call->request->api == API_MESSAGES && !str_empty(id)) add(fields, "request-id", id);
    if (!str_empty(call->record.upstream_id))
        add(fields, "x-gantry-upstream-request-id", call->record.upstream_id);
}

static void add_ours(FieldList *fields, const ModelCall *call)
{
    static const char *const cache[] = { "off", "miss", "hit" };
    add_ids(fields, call);
    add(fields, "x-gantry-task", call->task->options.task_id);
    if (!str_empty(call->task->options.version_id))
        add(fields, "x-gantry-version", call->task->options.version_id);
    add(fields, "x-gantry-cache", str_of(cache[call->cache]));
    if (call->target && call->target->degraded)
        add(fields, "x-gantry-degraded", call->target->model);
    if (call->step == DEGRADE_NONE && !call->over_budget) return;
    bool upstream = call->unhealthy == call->step && !call->over_budget;
    const char *step = call->over_budget ? gateway_degraded_name(GATEWAY_DEGRADED_REFUSE)
                                         : degrade_step_name(call->step);
    add(fields, "x-gantry-degraded-step", str_of(step));
    add(fields, "x-gantry-degraded-reason", upstream ? STR("upstream") : STR("budget"));
}

/* --- the recording ---------------------------------------------------------------------------- */

static bool is_recorded(const ModelCall *call)
{
    return call->keep_answer || call->cache == CALL_CACHE_MISS;
}

void recording_begin(ModelCall *call, int status, bool streamed)
{
    Recording *recording = &call->recording;
    if (!is_recorded(call) || recording->status) return;
    recording->status = status;
    recording->streamed = streamed;
    str_copy(recording->content_type, sizeof recording->content_type, answer_type(call, streamed));
}

void recording_add(ModelCall *call, Str bytes)
{
    Recording *recording = &call->recording;
    if (!is_recorded(call) || recording->overflow) return;
    recording->overflow = !buf_add(&recording->body, bytes);
}

void recording_clear(ModelCall *call)
{
    buf_clear(&call->recording.body);
    call->recording.status = 0;
    call->recording.overflow = false;
}

/* --- the head --------------------------------------------------------------------------------- */

static void lost(ModelCall *call)
{
    if (call->gone) return;
    call->gone = true;
    /* what is recorded serves the agent's next try, so it is read to its end */
    call->drain_until_ms = call->journaled ? DEADLINE_NONE : deadline_after(GATEWAY_DRAIN_MS);
}

bool call_has_left(ModelCall *call)
{
    const GatewayReply *reply = call->reply;
    if (!call->over) call->left |= call->gone || (reply->gone && reply->gone(reply->ctx));
    return call->left;
}

static bool begin_wait(ModelCall *call, int status, const FieldList *fields, bool streamed)
{
    assert(!call->begun);
    if (call->gone) return false;
    call->begun = true;
    call->streamed = streamed;
    call->record.status = status;
    const GatewayReply *reply = call->reply;
    if (reply->start_wait(reply->ctx, status, fields->list, fields->n, streamed) != 0) lost(call);
    return !call->gone;
}

static void write_wait(ModelCall *call, Str bytes)
{
    if (call->gone || str_empty(bytes)) return;
    if (call->reply->write_wait(call->reply->ctx, bytes) != 0) lost(call);
}

static void end_wait(ModelCall *call)
{
    if (call->gone) return;
    if (call->reply->end_wait(call->reply->ctx) != 0) lost(call);
}

/* For those problems that time mends. */
static void add_retry_after(FieldList *fields, ModelCall *call)
{
    int seconds = call->retry_after_s ? call->retry_after_s : 5;
    if (call->problem != PROBLEM_QUEUED && call->problem != PROBLEM_BREAKER &&
        call->problem != PROBLEM_AWAY)
        return;
    add(fields, "retry-after", arena_printf(&call->arena, "%d", seconds));
}

void reply_heartbeat_wait(ModelCall *call)
{
    FieldList fields = { .n = 0 };
    if (!call->begun) {
        add(&fields, "content-type", STR("text/event-stream"));
        add_ours(&fields, call);
        if (!begin_wait(call, 200, &fields, true)) return;
    }
    write_wait(call, STR(": waiting\n\n"));
}

/* --- answers ---------------------------------------------------------------------------------- */

void reply_problem_wait(ModelCall *call)
{
    if (call->begun && call->streamed) {
        reply_stream_fail_wait(call, 0);
        return;
    }
    FieldList fields = { .n = 0 };
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 64 * 1024);
    add(&fields, "content-type", STR("application/json"));
    if (problem_is_final(call->problem)) add(&fields, "x-should-retry", STR("false"));
    add_retry_after(&fields, call);
    add_ours(&fields, call);
    Str id = call->request->request_id;
    if (str_empty(id)) id = str_of(call->record.id);
    (void)problem_body(&body, call->problem, call->request->api, str_of(call->message), call->param,
                       id);
    if (!begin_wait(call, problem_status(call->problem), &fields, false)) return;
    write_wait(call, buf_str(&body));
    end_wait(call);
}

void reply_plain_wait(ModelCall *call, int status, Str body)
{
    if (call->begun && call->streamed) { /* a stream was promised, and is not what came */
        call_problem(call, PROBLEM_UNREACHABLE, NULL, "%s did not answer with a stream",
                     call->target->provider->name);
        reply_stream_fail_wait(call, 0);
        return;
    }
    FieldList fields = { .n = 0 };
    char cost[MONEY_TEXT_MAX];
    add_upstream(&fields, call, false);
    add_ours(&fields, call);
    add(&fields, "x-gantry-cost-usd", str_of(money_text(call->record.charged.nusd, cost)));
    if (call->no_retry && retry_status_may(status)) add(&fields, "x-should-retry", STR("false"));
    (void)call_has_left(call);
    if (!begin_wait(call, status, &fields, false)) return;
    write_wait(call, body);
    end_wait(call);
}

void reply_error_wait(ModelCall *call, int status, Str body)
{
    if (call->begun && call->streamed)
        reply_problem_wait(call); /* call->problem names the status */
    else reply_plain_wait(call, status, body);
}

static void begin_stream_wait(ModelCall *call, int status)
{
    if (call->begun || call->gone) return;
    FieldList fields = { .n = 0 };
    add_upstream(&fields, call, true);
    add_ours(&fields, call);
    (void)begin_wait(call, status, &fields, true);
}

void reply_stream_wait(ModelCall *call, Str bytes)
{
    int status = http_call_status(call->upstream);
    recording_begin(call, status, true);
    recording_add(call, bytes);
    call_journal_show(call);
    begin_stream_wait(call, status);
    call->answering = true;
    write_wait(call, bytes);
}

void reply_follow_wait(ModelCall *call, const Recording *recording, Str bytes)
{
    if (!call->begun && !call->gone) {
        FieldList fields = { .n = 0 };
        add(&fields, "content-type", str_of(recording->content_type));
        add_ours(&fields, call);
        add(&fields, "x-gantry-replayed", STR("1"));
        (void)begin_wait(call, recording->status, &fields, true);
    }
    call->answering = true; /* no heartbeat within an event */
    write_wait(call, bytes);
}

void reply_follow_end_wait(ModelCall *call)
{
    (void)call_has_left(call);
    end_wait(call);
}

void reply_stream_end_wait(ModelCall *call, Str tail)
{
    begin_stream_wait(call, http_call_status(call->upstream));
    call->answering = true;
    (void)call_has_left(call);
    write_wait(call, tail);
    end_wait(call);
}

void reply_stream_fail_wait(ModelCall *call, int64_t sequence)
{
    CLEANUP(buf_deinit) Buf event;
    buf_init(&event, 64 * 1024);
    if (problem_event(&event, call->problem, call->request->api, str_of(call->message), sequence))
        write_wait(call, buf_str(&event));
    end_wait(call);
}

void reply_recording_wait(ModelCall *call, const Recording *recording, const GatewayField *field)
{
    FieldList fields = { .n = 0 };
    assert(!recording->overflow && (!call->begun || (call->streamed && recording->streamed)));
    add(&fields, "content-type", str_of(recording->content_type));
    add_ours(&fields, call);
    add(&fields, "x-gantry-cost-usd", STR("0.000000000"));
    if (call->target && call->target->provider->simulated)
        add(&fields, "x-gantry-simulated", STR("1"));
    if (field) add(&fields, field->name, field->value);
    (void)call_has_left(call);
    if (!call->begun && !begin_wait(call, recording->status, &fields, recording->streamed)) return;
    write_wait(call, buf_str(&recording->body));
    end_wait(call);
}
