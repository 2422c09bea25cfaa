#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/sse.h"
#include "gateway/gateway_call.h"
#include "logic/translate.h"

#define STREAM_E_FINISHED 101
#define LAST_CHUNK_MS 100

/* A streamed answer on its way. On the heap: it is too large for a fiber's stack. */
typedef struct {
    ModelCall *call;
    SseParser sse;
    StreamState state;
    Arena scratch; /* one event, parsed */
    Buf tail;      /* from the terminal event on: given away only once the record is durable */
    int64_t tail_until_ms;
    bool drop_usage;              /* the agent did not ask for usage: Gantry did */
    TranslateStream *translation; /* NULL: the agent speaks the provider's API */
    Buf translated;               /* one event */
    bool lost;                    /* it could not be translated to its end */
} Streaming;

static void translation_begin(Streaming *s)
{
    const ModelCall *call = s->call;
    s->translation = xcalloc(1, sizeof *s->translation);
    s->drop_usage = false;
    translate_stream_init(s->translation, call->target->api, call->info.api,
                          call->info.include_usage, clock_real_ms() / 1000);
    buf_init(&s->translated, 2 * GATEWAY_EVENT_BYTES_MAX);
}

static Streaming *streaming_new(ModelCall *call)
{
    Streaming *s = xcalloc(1, sizeof *s);
    s->call = call;
    s->drop_usage = call->info.api == API_CHAT && !call->info.include_usage;
    s->tail_until_ms = DEADLINE_NONE;
    sse_init(&s->sse, GATEWAY_EVENT_BYTES_MAX);
    stream_init(&s->state, call->target->api, call->target->info->n);
    arena_init(&s->scratch, GATEWAY_JSON_FACTOR * GATEWAY_EVENT_BYTES_MAX);
    buf_init(&s->tail, 2 * GATEWAY_EVENT_BYTES_MAX);
    if (call_is_translated(call)) translation_begin(s);
    return s;
}

static void streaming_free(Streaming *s)
{
    sse_deinit(&s->sse);
    arena_deinit(&s->scratch);
    buf_deinit(&s->tail);
    if (s->translation) translate_stream_deinit(s->translation);
    buf_deinit(&s->translated);
    free(s->translation);
    free(s);
}

static void note_event(ModelCall *call, const StreamNote *note)
{
    call_note_tools(call, note->tool_names, note->tool_names_n);
    if (note->json) call_note_state(call, call->target->api, note->json);
    call_note_model(call, json_str(json_get(note->json, "model")));
    call_note_model(call, json_str(json_get(json_get(note->json, "message"), "model")));
    call_note_model(call, json_str(json_get(json_get(note->json, "response"), "model")));
}

/* Chat goes on to [DONE], because usage may follow the finish reasons; the others end with their
 * terminal event. */
static bool is_finished(const Streaming *s)
{
    if (s->state.phase == STREAM_OPEN) return false;
    return s->call->target->api != API_CHAT || s->state.phase == STREAM_FAILED ||
           s->state.done_marker;
}

/* Before the terminal event on to the agent, then into the tail. */
static int give_wait(Streaming *s, Str bytes)
{
    if (s->state.phase == STREAM_OPEN) reply_stream_wait(s->call, bytes);
    else if (!buf_add(&s->tail, bytes))
        return diag_set(-EMSGSIZE, "the end of the answer is too large");
    return 0;
}

static int lose(Streaming *s, int r)
{
    s->lost = true;
    atomic_fetch_add(&s->call->task->gateway->untranslated, 1);
    return diag_set(r, "the answer cannot be translated");
}

/* An event that cannot be read would leave a hole in a translation, and nobody would see it. */
static bool is_unreadable(const Streaming *s, const SsePiece *piece, const StreamNote *note)
{
    Str data = str_trim(piece->data);
    return s->state.phase == STREAM_OPEN && !note->json && !str_empty(data);
}

static int translate_wait(Streaming *s, const SsePiece *piece, const StreamNote *note)
{
    buf_clear(&s->translated);
    int r = translate_stream_feed(s->translation, piece->event, note->json, &s->translated);
    if (r < 0) return lose(s, r);
    return s->translated.len ? give_wait(s, buf_str(&s->translated)) : 0;
}

/* What only the translation knows to write. */
static int translate_end(Streaming *s)
{
    ModelCall *call = s->call;
    if (s->state.phase == STREAM_COMPLETE) {
        int r = translate_stream_finish(s->translation, &s->state.usage, &s->tail);
        return r < 0 ? lose(s, r) : 0;
    }
    return problem_event(&s->tail, call->problem, call->info.api, str_of(call->message),
                         translate_stream_sequence(s->translation))
               ? 0
               : lose(s, -EMSGSIZE);
}

static int64_t next_sequence(const Streaming *s)
{
    return s->translation ? translate_stream_sequence(s->translation) : (int64_t)s->state.events;
}

static size_t spaces_n(Str text)
{
    size_t n = 0;
    while (n < text.len && (text.ptr[n] == ' ' || text.ptr[n] == '\t')) n++;
    return n;
}

/* Where `, "usage": null` stands in raw, as the provider sends it in each chunk because Gantry
 * asked for usage. Within a string its quotes would have backslashes, so it is a member; of which
 * object is only certain when there is no other. */
static bool find_usage_null(Str raw, size_t *ret_from, size_t *ret_to)
{
    Str key = STR("\"usage\"");
    ptrdiff_t at = str_find(raw, key);
    if (at <= 0 || str_find(str_skip(raw, (size_t)at + key.len), key) >= 0) return false;
    size_t from = (size_t)at, to = from + key.len;
    while (from > 0 && raw.ptr[from - 1] == ' ') from--;
    to += spaces_n(str_skip(raw, to));
    if (from == 0 || raw.ptr[from - 1] != ',' || to == raw.len || raw.ptr[to] != ':') return false;
    to++;
    to += spaces_n(str_skip(raw, to));
    if (!str_starts_with(str_skip(raw, to), STR("null"))) return false;
    *ret_from = from - 1;
    *ret_to = to + strlen("null");
    return true;
}

/* The event as the agent would have been sent it, had Gantry not asked for usage. */
static Str without_usage_null(Streaming *s, const SsePiece *piece, const StreamNote *note)
{
    size_t from, to;
    Str raw = piece->raw;
    if (!s->drop_usage || json_type(json_get(note->json, "usage")) != JSON_NULL) return raw;
    if (!find_usage_null(raw, &from, &to)) return raw;
    Str cut = arena_join(&s->scratch, (Str[]){ str_sub(raw, 0, from), str_skip(raw, to) }, 2);
    return cut.ptr ? cut : raw;
}

static int take_event_wait(Streaming *s, const SsePiece *piece)
{
    ModelCall *call = s->call;
    StreamNote note = { 0 };
    arena_clear(&s->scratch);
    if (stream_feed(&s->state, &s->scratch, piece->event, piece->data, &note) < 0)
        LOG_WARN("event of a model's answer is too large to read",
                 LOG_INT("bytes", piece->data.len));
    diag_clear(); /* an event that is no JSON is not what ends the stream later */
    /* Clients stop at [DONE], message_stop, response.completed, and take for whole what came: an
     * error event after it would never be seen. */
    if (note.cut) return HTTP_CALL_E_END;
    note_event(call, &note);
    if (s->state.phase != STREAM_OPEN && s->tail_until_ms == DEADLINE_NONE)
        s->tail_until_ms = deadline_after(GATEWAY_TAIL_MS);
    if (note.usage_only && s->drop_usage) return 0;
    if (s->translation && is_unreadable(s, piece, &note)) return lose(s, -EPROTO);
    int r = s->translation ? translate_wait(s, piece, &note)
                           : give_wait(s, without_usage_null(s, piece, &note));
    if (r != 0) return r;
    return is_finished(s) ? STREAM_E_FINISHED : 0;
}

/* Of a translated stream only comments: they keep connections alive. */
static int take_other_wait(Streaming *s, const SsePiece *piece)
{
    if (s->translation && !str_starts_with(piece->raw, STR(":"))) return 0;
    return give_wait(s, piece->raw);
}

/* Everything complete in the input is forwarded. Returns 0, STREAM_E_FINISHED, HTTP_CALL_E_END (it
 * says that it has ended, and has not finished) or -errno. */
static int take_wait(Streaming *s, Str input)
{
    SsePiece piece;
    for (;;) {
        int kind = sse_next(&s->sse, &input, &piece);
        int r = 0;
        if (kind == SSE_EVENT) r = take_event_wait(s, &piece);
        else if (kind == SSE_OTHER) r = take_other_wait(s, &piece);
        else if (kind == -EMSGSIZE)
            return diag_set(kind, "an event is larger than %u bytes", GATEWAY_EVENT_BYTES_MAX);
        else if (kind < 0) return kind;
        else if (kind == SSE_CUT && s->state.phase != STREAM_OPEN) {
            /* a last line without its end: nothing is lost */
            if (!s->translation) (void)buf_add(&s->tail, piece.raw);
            return 0;
        } else return 0; /* SSE_MORE, SSE_END, SSE_CUT */
        if (r != 0) return r;
    }
}

/* An agent that has left is not waited for for ever: its call is read on within bounds. */
static bool drained(const ModelCall *call)
{
    size_t max = call->journaled ? GATEWAY_RECORDING_BYTES_MAX : GATEWAY_DRAIN_BYTES;
    return call->gone && call->drained_bytes > max;
}

/* Forwards until the stream is finished (0), ends (HTTP_CALL_E_END, HTTP_CALL_E_CUT) or fails. */
static int pump_wait(Streaming *s)
{
    ModelCall *call = s->call;
    for (;;) {
        Str chunk;
        int64_t until_ms = MIN(call->gone ? call->drain_until_ms : DEADLINE_NONE, s->tail_until_ms);
        int r = http_call_read_wait(call->upstream, until_ms, &chunk);
        if (r < 0) return r;
        if (r > 0) {
            sse_end(&s->sse);
            int last = take_wait(s, STR_NULL);
            return last == STREAM_E_FINISHED ? 0 : last != 0 ? last : r;
        }
        if (call->record.ttfb_us < 0) call->record.ttfb_us = clock_mono_us() - call->started_us;
        if (call->gone) call->drained_bytes += chunk.len;
        r = take_wait(s, chunk);
        if (r != 0) return r == STREAM_E_FINISHED ? 0 : r;
        if (drained(call)) return diag_set(-EMSGSIZE, "the agent left and the answer went on");
    }
}

static int cut_wait(Streaming *s, int r)
{
    ModelCall *call = s->call;
    int recorded = call_fail_wait(call, r);
    if (recorded == 0 && !call->answering) return ATTEMPT_E_FAILED;
    if (call->begun) reply_stream_fail_wait(call, next_sequence(s));
    else reply_problem_wait(call);
    return recorded < 0 ? recorded : r < 0 ? r : GATEWAY_E_CUT;
}

/* The provider said that it is finished, one way or the other. */
static int end_wait(Streaming *s)
{
    ModelCall *call = s->call;
    bool complete = s->state.phase == STREAM_COMPLETE;
    if (!complete)
        call_problem(call, PROBLEM_UNREACHABLE, NULL, "%s: %s", call->target->provider->name,
                     s->state.error_text);
    if (!complete) (void)key_mask(call->target->provider, s->tail.ptr, s->tail.len);
    int e = s->translation ? translate_end(s) : 0;
    if (e < 0) return cut_wait(s, e);
    bool sent = complete || call->answering; /* else another attempt, or a status, says it better */
    call->record.status = sent ? http_call_status(call->upstream) : problem_status(call->problem);
    if (sent) {
        recording_begin(call, call->record.status, true);
        recording_add(call, buf_str(&s->tail));
    }
    int r = call_close_wait(call, complete ? GATEWAY_COMPLETE : GATEWAY_CUT,
                            stream_settles(&s->state) ? CHARGE_USAGE : CHARGE_HOLD);
    if (r == 0 && !sent) return ATTEMPT_E_FAILED;
    if (r < 0 && !call->begun) {
        reply_problem_wait(call);
    } else if (r < 0) {
        reply_stream_fail_wait(call, next_sequence(s));
    } else {
        reply_stream_end_wait(call, buf_str(&s->tail));
    }
    return r < 0 ? r : complete ? 0 : GATEWAY_E_CUT;
}

/* The framing's end mostly came along with the last event; with it the connection can be kept. */
static void keep_connection_wait(ModelCall *call)
{
    Str rest;
    int64_t until_ms = deadline_after(LAST_CHUNK_MS);
    for (int i = 0; i < 4; i++)
        if (http_call_read_wait(call->upstream, until_ms, &rest) != 0) return;
}

int call_stream_wait(ModelCall *call)
{
    Streaming *s = streaming_new(call);
    int r = pump_wait(s);
    s->state.cut = r < 0 ? r != -ETIMEDOUT : r == HTTP_CALL_E_CUT;
    call->record.usage = s->state.usage;
    call->record.finish = arena_str(&call->arena, str_of(s->state.finish_reason));
    if (s->state.phase == STREAM_OPEN || s->lost) r = cut_wait(s, r);
    else r = end_wait(s);
    if (r == 0) keep_connection_wait(call);
    streaming_free(s);
    return r;
}
