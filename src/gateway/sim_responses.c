/* OpenAI Responses at the simulator: what it says there is what it says in chat, translated. */
#include <stdlib.h>

#include "base/diag.h"
#include "codec/sse.h"
#include "gateway/sim_wire.h"
#include "logic/translate.h"

#define CREATED_S 1735689600 /* 2025-01-01: the same request gets the same answer */
#define CHAT_BYTES_MAX ((size_t)64 << 20)

int sim_responses_request(Arena *arena, Str text, Str *ret)
{
    const Json *body = NULL;
    TranslateFault fault = { .param = NULL };
    int r = json_parse(arena, text, NULL, &body, NULL);
    if (r < 0) return r;
    const TranslateTarget target = { .model = json_str(json_get(body, "model")) };
    if (str_empty(target.model)) return diag_set(-EINVAL, "model: is needed");
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, CHAT_BYTES_MAX);
    r = translate_request(arena, API_RESPONSES, body, API_CHAT, &target, &out, &fault);
    if (r == TRANSLATE_E_CANNOT)
        return diag_set(-EINVAL, "The simulator cannot do that: %s", fault.text);
    if (r == 0) *ret = arena_str(arena, buf_str(&out));
    return r == 0 && !ret->ptr ? -ENOMEM : r;
}

bool sim_responses_plain(Str chat, Buf *out)
{
    CLEANUP(arena_deinit) Arena arena = { .max = CHAT_BYTES_MAX };
    const Json *body = NULL;
    Answer *answer = ARENA_NEW(&arena, Answer);
    if (!answer || json_parse(&arena, chat, NULL, &body, NULL) < 0) return false;
    answer_read(API_CHAT, body, 1, answer);
    TranslateAbout about = { .usage = &answer->usage, .created_s = CREATED_S };
    return translate_answer(&arena, API_CHAT, body, API_RESPONSES, &about, out) == 0;
}

typedef struct {
    StreamState state;
    TranslateStream translation;
    SseParser sse;
    Arena scratch;
} Through;

static int event_through(Through *t, const SsePiece *event, Buf *out)
{
    StreamNote note;
    arena_clear(&t->scratch);
    int r = stream_feed(&t->state, &t->scratch, event->event, event->data, &note);
    if (r == 0) r = translate_stream_feed(&t->translation, event->event, note.json, out);
    bool done = t->state.done_marker && !note.json;
    if (r == 0 && done && t->state.phase == STREAM_COMPLETE)
        r = translate_stream_finish(&t->translation, &t->state.usage, out);
    else if (r == 0 && done && !buf_add(out, event->raw)) r = -ENOMEM;
    return r;
}

/* One piece of the chat stream; comments stay. */
static int piece_through(Through *t, Str piece, Buf *out)
{
    SsePiece event;
    int r = 0, kind;
    while (r == 0 && (kind = sse_next(&t->sse, &piece, &event)) != SSE_MORE) {
        if (kind < 0) return kind;
        if (kind == SSE_EVENT) r = event_through(t, &event, out);
        else if (!buf_add(out, event.raw)) r = -ENOMEM;
    }
    return r;
}

size_t sim_responses_stream(Arena *arena, Str *pieces, size_t n)
{
    Through *t = calloc(1, sizeof *t);
    if (!t) return 0;
    size_t made = 0;
    bool full = false;
    arena_init(&t->scratch, CHAT_BYTES_MAX);
    sse_init(&t->sse, 0);
    stream_init(&t->state, API_CHAT, 1);
    translate_stream_init(&t->translation, API_CHAT, API_RESPONSES, false, CREATED_S);
    for (size_t i = 0; i < n && !full; i++) {
        CLEANUP(buf_deinit) Buf out;
        buf_init(&out, CHAT_BYTES_MAX);
        full = piece_through(t, pieces[i], &out) < 0;
        if (out.len == 0) continue;
        pieces[made] = arena_str(arena, buf_str(&out));
        full |= !pieces[made++].ptr;
    }
    translate_stream_deinit(&t->translation);
    sse_deinit(&t->sse);
    arena_deinit(&t->scratch);
    free(t);
    return full ? 0 : made;
}
