#include "base/diag.h"
#include "gateway/gateway_call.h"

/* Reads the rest of the answer. Returns HTTP_CALL_E_END, HTTP_CALL_E_CUT or a negative errno. */
static int read_answer_wait(ModelCall *call, Buf *answer)
{
    Str piece;
    int r;
    while ((r = http_call_read_wait(call->upstream, DEADLINE_NONE, &piece)) == 0) {
        if (call->record.ttfb_us < 0) call->record.ttfb_us = clock_mono_us() - call->started_us;
        if (!buf_add(answer, piece))
            return diag_set(-EMSGSIZE, "the answer is larger than %zu bytes", answer->max);
    }
    return r;
}

/* What a lenient reader may still make sense of, a key that comes twice for one. Where only the
 * connection's end says that it is whole, a bracket at its end does not. */
static bool is_object_like(const ModelCall *call, Str text)
{
    text = str_trim(text);
    bool framed = !str_empty(http_call_field(call->upstream, "content-length")) ||
                  !str_empty(http_call_field(call->upstream, "transfer-encoding"));
    return framed && str_starts_with(text, STR("{")) && str_ends_with(text, STR("}"));
}

/* Broken UTF-8 hides nothing of what is read here. */
static int parse_ascii(Arena *arena, Str text, const Json **ret)
{
    char *copy = arena_alloc(arena, text.len);
    if (!copy) return -ENOMEM;
    for (size_t i = 0; i < text.len; i++) copy[i] = text.ptr[i] & 0x80 ? '?' : text.ptr[i];
    return json_parse(arena, str_make(copy, text.len), NULL, ret, NULL);
}

static int parse(ModelCall *call, Str text, const Json **ret)
{
    int r = json_parse(&call->arena, text, NULL, ret, NULL);
    if (r == -EINVAL && text.len && !call_is_translated(call) && !str_is_utf8(text))
        r = parse_ascii(&call->arena, text, ret);
    return r;
}

/* A response that failed is an answer in Responses, and says so itself. */
static bool is_failed_response(const ModelCall *call, const Json *body)
{
    return call->target->api == API_RESPONSES &&
           str_eq(json_str(json_get(body, "status")), STR("failed"));
}

static GatewayOutcome not_read(ModelCall *call, Str text)
{
    call->doubtful = call->unreadable = true;
    if (is_object_like(call, text) && !call_is_translated(call)) return GATEWAY_COMPLETE;
    call_problem(call, PROBLEM_UNREACHABLE, NULL, "the answer of %s cannot be read",
                 call->target->provider->name);
    return GATEWAY_CUT;
}

/* What the answer says of itself. An object that is not strict JSON passes unread: its usage is
 * unknown then. Anything else, one without content, and an error under a status of success, is no
 * answer: clients would take it for one. */
static GatewayOutcome read_usage(ModelCall *call, Str text, const Json **ret_body,
                                 Charge *ret_charge)
{
    const Json *body = NULL;
    Answer *answer = ARENA_NEW(&call->arena, Answer);
    *ret_charge = CHARGE_HOLD;
    if (!answer || parse(call, text, &body) < 0 || json_type(body) != JSON_OBJECT)
        return not_read(call, text);
    *ret_body = body;
    answer_read(call->target->api, body, call->target->info->n, answer);
    call->record.usage = answer->usage;
    call->record.finish = arena_str(&call->arena, str_of(answer->finish_reason));
    call_note_model(call, json_str(json_get(body, "model")));
    call_note_state(call, call->target->api, body);
    call_note_tools(call, answer->tool_names, answer->tool_names_n);
    if (answer->usage.valid) *ret_charge = CHARGE_USAGE;
    call->doubtful = !answer->complete;
    if (is_failed_response(call, body) || !(answer->error || answer->empty))
        return GATEWAY_COMPLETE;
    call_problem(call, PROBLEM_UNREACHABLE, NULL, "%s: %s", call->target->provider->name,
                 answer->error ? answer->error_text : "the answer is empty");
    return GATEWAY_CUT;
}

/* Puts the answer in the agent's API, in place. What cannot be is no answer. */
static GatewayOutcome translate(ModelCall *call, GatewayOutcome outcome, const Json *body,
                                Buf *answer)
{
    if (outcome != GATEWAY_COMPLETE) return outcome;
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, GATEWAY_ANSWER_BYTES_MAX);
    if (call_translate_answer(call, body, &out) != 0) return GATEWAY_CUT;
    Buf theirs = *answer;
    *answer = out;
    out = theirs;
    return outcome;
}

/* A client that reads a stream finds no event in it, and takes the answer for an empty one. */
static GatewayOutcome not_a_stream(ModelCall *call)
{
    call_problem(call, PROBLEM_UNREACHABLE, NULL, "%s did not answer with a stream",
                 call->target->provider->name);
    return GATEWAY_CUT;
}

int call_plain_wait(ModelCall *call)
{
    CLEANUP(buf_deinit) Buf answer;
    buf_init(&answer, GATEWAY_ANSWER_BYTES_MAX);
    int r = read_answer_wait(call, &answer);
    if (r != HTTP_CALL_E_END) {
        int recorded = call_fail_wait(call, r);
        if (recorded == 0) return ATTEMPT_E_FAILED;
        reply_problem_wait(call);
        return recorded;
    }
    Charge charge;
    const Json *body = NULL;
    GatewayOutcome outcome = read_usage(call, buf_str(&answer), &body, &charge);
    if (call_is_translated(call)) outcome = translate(call, outcome, body, &answer);
    if (call->info.stream && outcome == GATEWAY_COMPLETE) outcome = not_a_stream(call);
    bool complete = outcome == GATEWAY_COMPLETE;
    call->record.status = complete ? http_call_status(call->upstream)
                                   : problem_status(call->problem);
    if (complete) {
        recording_begin(call, call->record.status, false);
        recording_add(call, buf_str(&answer));
    }
    r = call_close_wait(call, outcome, charge);
    if (r == 0 && !complete) return ATTEMPT_E_FAILED;
    if (r < 0) reply_problem_wait(call);
    else reply_plain_wait(call, call->record.status, buf_str(&answer));
    return r;
}

/* An error of the provider's costs nothing and is passed on; a redirect would lead the agent around
 * the gateway. */
int call_error_wait(ModelCall *call, CallFailure *ret)
{
    CLEANUP(buf_deinit) Buf answer;
    buf_init(&answer, GATEWAY_ERROR_BYTES_MAX);
    int status = http_call_status(call->upstream);
    int r = read_answer_wait(call, &answer);
    bool readable = r == HTTP_CALL_E_END && status >= 400 && !call_is_encoded(call);
    (void)key_mask(call->target->provider, answer.ptr, answer.len);
    call->record.status = readable ? status : problem_status(PROBLEM_UNREACHABLE);
    call_problem(call, PROBLEM_UNREACHABLE, NULL, "%s answered with status %d",
                 call->target->provider->name, status);
    int recorded = call_close_wait(call, GATEWAY_UPSTREAM, CHARGE_NOTHING);
    if (recorded < 0) {
        reply_problem_wait(call);
        return recorded;
    }
    *ret = (CallFailure){ .outcome = GATEWAY_UPSTREAM };
    if (!readable) return ATTEMPT_E_FAILED;
    ret->status = status;
    ret->body = call_is_translated(call) ? call_translate_error(call, status, buf_str(&answer))
                                         : arena_str(&call->arena, buf_str(&answer));
    return ATTEMPT_E_FAILED;
}
