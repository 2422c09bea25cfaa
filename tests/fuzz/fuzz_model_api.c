/* Requests of agents and answers of providers, from anybody: the readers take whatever stands
 * there, JSON or not, their counts stay within bounds, and what has ended stays ended. The first
 * byte chooses the API and the reader; the rest is a body, or events with a line each. */
#include "logic/cap.h"
#include "logic/provider_ref.h"
#include "logic/request_info.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES ((size_t)64 << 20)

static void check_usage(const Usage *u)
{
    static const Price price = { .base = { 1000, 4000, 500, 1250, 2000, 4000, 9000, 9000, 1000,
                                           4000 } };
    assert(u->input_tokens >= 0 && u->output_tokens >= 0 && u->tool_calls >= 0);
    int64_t cost = price_cost(&price, u, &(PriceTerms){ 0 });
    assert(cost >= 0 && (u->input_tokens + u->output_tokens == 0 || cost > 0));
}

static void on_ref(void *ctx, const char *member, Str id)
{
    (void)ctx;
    assert(member[0] != '\0' && id.len > 0);
}

static void read_request(Arena *arena, Api api, const Json *body, size_t bytes)
{
    RequestInfo info;
    RequestFault fault = { 0 };
    provider_refs_named(api, body, on_ref, NULL);
    int r = request_info_read(arena, api, body, &info, &fault);
    if (r == -ENOMEM) return;
    if (r != 0) {
        assert(r == REQUEST_E_INVALID && fault.message[0] != '\0');
        return;
    }
    bool opaque = info.has_media || info.hides_input;
    int64_t bound = request_in_ub((int64_t)bytes, info.messages, info.tool_prompts, opaque, 128000);
    assert(bound >= 0 && bound <= 128000);
    for (size_t i = 0; i < info.tool_names_n; i++) (void)str_is_utf8(info.tool_names[i]);
}

static void read_answer(Api api, const Json *body, int64_t n)
{
    Answer answer;
    answer_read(api, body, n, &answer);
    provider_refs_given(api, body, on_ref, NULL);
    check_usage(&answer.usage);
    assert(answer.tool_names_n <= ANSWER_TOOLS_MAX);
    assert((int64_t)answer.tool_names_n <= answer.usage.tool_calls);
}

static void read_stream(Arena *arena, Api api, int64_t n, Str text)
{
    StreamState s;
    stream_init(&s, api, n);
    bool more = true;
    while (more) {
        Str line;
        StreamNote note;
        StreamPhase before = s.phase;
        int64_t calls = s.usage.tool_calls;
        text = str_split(text, '\n', &line, &more);
        int r = stream_feed(&s, arena, STR(""), line, &note);
        assert(r == 0 || r == -ENOMEM);
        assert(before == STREAM_OPEN || s.phase == before);
        assert(note.terminal == (before != s.phase));
        assert(!note.cut || s.phase == STREAM_OPEN);
        if (note.json) provider_refs_given(api, note.json, on_ref, NULL);
        assert(s.usage.tool_calls >= calls);
        check_usage(&s.usage);
        arena_clear(arena);
    }
    if (stream_settles(&s)) assert(s.phase != STREAM_OPEN && s.usage.valid);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    CLEANUP(arena_deinit) Arena arena = { .max = ARENA_BYTES };
    Str text = str_make((const char *)data + 1, size - 1);
    Api api = (Api)(data[0] % API_N_);
    int64_t n = 1 + (data[0] >> 6);
    if (data[0] & 0x20 && api != API_EMBEDDINGS) {
        read_stream(&arena, api, n, text);
        return 0;
    }
    const Json *body;
    if (json_parse(&arena, text, NULL, &body, NULL) != 0) return 0;
    if (data[0] & 0x10) read_answer(api, body, n);
    else read_request(&arena, api, body, text.len);
    return 0;
}
