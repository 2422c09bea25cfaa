/* Requests, answers and streams of anybody, translated: whatever stands there, the result is JSON
 * of the other API or a refusal, a request translated there and back is accepted again and stays
 * what it then is, and a stream has no end that nobody called for. The first byte chooses the APIs
 * and the reader; the rest is a body, or events with a line each. */
#include "logic/request_info.h"
#include "logic/translate.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES ((size_t)64 << 20)
#define OUT_BYTES ((size_t)16 << 20)

static const TranslateTarget target = { .model = { "m", 1 }, .out_max = 4000 };

static const Json *must_parse(Arena *arena, const Buf *text)
{
    const Json *v = NULL;
    int r = json_parse(arena, buf_str(text), NULL, &v, NULL);
    assert(r == 0 || r == -ENOMEM);
    return r == 0 ? v : NULL;
}

/* Returns whether there is a translation. */
static bool translate(Arena *arena, Api from, const Json *body, Api to, Buf *out)
{
    TranslateFault fault;
    buf_init(out, OUT_BYTES);
    int r = translate_request(arena, from, body, to, &target, out, &fault);
    assert(r == 0 || r == -ENOMEM || (r == TRANSLATE_E_CANNOT && fault.text[0]));
    return r == 0;
}

/* Twice through the other API gives the same as once: what got lost was lost the first time. */
static void read_request(Arena *arena, Api from, const Json *body, Api to)
{
    CLEANUP(buf_deinit) Buf there, back, again;
    buf_init(&back, 0);
    buf_init(&again, 0);
    if (!translate(arena, from, body, to, &there)) return;
    const Json *v = must_parse(arena, &there);
    RequestInfo info;
    RequestFault fault;
    if (!v || request_info_read(arena, to, v, &info, &fault) != 0) return;
    if (!translate(arena, to, v, from, &back)) return;
    v = must_parse(arena, &back);
    if (!v || !translate(arena, from, v, to, &again)) return;
    const Json *first = must_parse(arena, &there), *second = must_parse(arena, &again);
    if (!first || !second) return;
    assert(json_len(json_get(first, "tools")) == json_len(json_get(second, "tools")));
}

static void read_answer(Arena *arena, Api from, const Json *body, Api to)
{
    Answer *answer = ARENA_NEW(arena, Answer);
    if (!answer) return;
    answer_read(from, body, 1, answer);
    TranslateAbout about = { .usage = &answer->usage };
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, OUT_BYTES);
    int r = translate_answer(arena, from, body, to, &about, &out);
    assert(r == 0 || r == -ENOMEM || r == TRANSLATE_E_CANNOT);
    if (r == 0) (void)must_parse(arena, &out);
}

/* Lines, as what is said inside of events never is. */
static bool has_end(Str text)
{
    return str_find(text, STR("\ndata: [DONE]\n")) >= 0 ||
           str_find(text, STR("\nevent: message_stop\n")) >= 0 ||
           str_find(text, STR("\nevent: response.completed\n")) >= 0;
}

static void read_stream(Arena *arena, Api from, Api to, Str text)
{
    static TranslateStream t;
    StreamState s;
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, OUT_BYTES);
    stream_init(&s, from, 1);
    translate_stream_init(&t, from, to, true, 0);
    int r = 0;
    for (bool more = true; more && r == 0;) {
        Str line;
        StreamNote note;
        text = str_split(text, '\n', &line, &more);
        if (stream_feed(&s, arena, STR(""), line, &note) < 0) break;
        r = translate_stream_feed(&t, STR(""), note.json, &out);
        assert(r == 0 || r == -EMSGSIZE || r == -ENOMEM);
        arena_clear(arena);
    }
    assert(!has_end(buf_str(&out)));
    if (r == 0 && s.phase == STREAM_COMPLETE) {
        r = translate_stream_finish(&t, &s.usage, &out);
        assert(r == -ENOMEM || r == -EMSGSIZE || (r == 0 && out.len > 0));
    }
    translate_stream_deinit(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    CLEANUP(arena_deinit) Arena arena = { .max = ARENA_BYTES };
    Str text = str_make((const char *)data + 1, size - 1);
    Api from = (Api)(data[0] % API_EMBEDDINGS);
    Api to = (Api)((from + 1 + ((data[0] >> 2) & 1)) % API_EMBEDDINGS);
    if (data[0] & 0x20) {
        read_stream(&arena, from, to, text);
        return 0;
    }
    const Json *body;
    if (json_parse(&arena, text, NULL, &body, NULL) != 0) return 0;
    if (data[0] & 0x10) read_answer(&arena, from, body, to);
    else read_request(&arena, from, body, to);
    return 0;
}
