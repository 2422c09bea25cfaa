#include "gateway/sim_wire.h"

#include <math.h>
#include <stdio.h>

#include "codec/base64.h"
#include "codec/sse.h"
#include "gateway/sim_text.h"

#define CREATED_S 1735689600 /* 2025-01-01: the same request gets the same answer */
#define RAMBLE_TOKENS 2048
#define CALL_TOKENS 8 /* around a tool call */
#define PIECES_MAX 2000
#define PIECE_BYTES_MIN 8
#define EVENT_BYTES_MAX (1024 * 1024)
#define DIMENSIONS_DEFAULT 64
#define DIMENSIONS_MAX 3072

/* --- the answer ------------------------------------------------------------------------------- */

static int think(Arena *arena, const SimRequest *request, SimAnswer *answer)
{
    SimThought *thought = &answer->thought;
    *thought = (SimThought){ .text = STR("") };
    switch (answer->mode.content) {
    case SIM_BY_ECHO: thought->text = request->user; return 0;
    case SIM_BY_RAMBLE:
        thought->text = sim_ramble(arena, request->out_cap ? request->out_cap + 1 : RAMBLE_TOKENS);
        return thought->text.ptr ? 0 : -ENOMEM;
    case SIM_BY_NOTHING: return 0;
    case SIM_BY_LOOP:
        if (sim_think_tool(arena, request, thought) < 0) return -ENOMEM;
        if (thought->calls_n) return 0;
        break;
    default: break;
    }
    return sim_think(arena, request, thought);
}

static int pad(Arena *arena, SimAnswer *answer)
{
    int64_t tokens = sim_directive_i64(answer->request, "pad", 0);
    if (tokens <= 0 || answer->thought.calls_n) return 0;
    Str filler = sim_ramble(arena, MIN(tokens, 100000));
    Str text = arena_printf(arena, "%.*s %.*s", STR_ARG(answer->thought.text), STR_ARG(filler));
    answer->thought.text = text;
    return text.ptr ? 0 : -ENOMEM;
}

static int64_t call_tokens(const SimCall *call)
{
    return CALL_TOKENS + sim_tokens(call->name.len + call->arguments.len);
}

/* As a model does that reaches its cap: the last words, or arguments, are missing. */
static void fit(SimAnswer *answer)
{
    SimThought *thought = &answer->thought;
    int64_t left = answer->request->out_cap ? answer->request->out_cap : INT64_MAX / 8;
    left -= answer->reasoning_tokens;
    for (size_t i = 0; i < thought->calls_n; i++) {
        int64_t need = call_tokens(&thought->calls[i]);
        if (need > left) {
            int64_t bytes = MAX(0, (left - CALL_TOKENS) * 4 - (int64_t)thought->calls[i].name.len);
            thought->calls[i].arguments = sim_cut(thought->calls[i].arguments, (size_t)bytes);
            thought->calls_n = i + 1;
            answer->cut_short = true;
        }
        left -= MIN(need, left);
    }
    if (sim_tokens(thought->text.len) <= left) return;
    thought->text = sim_cut(thought->text, (size_t)MAX(left, 0) * 4);
    answer->cut_short = true;
}

static void count(SimAnswer *answer)
{
    const SimRequest *request = answer->request;
    int64_t tokens = sim_tokens(answer->thought.text.len) + answer->reasoning_tokens;
    for (size_t i = 0; i < answer->thought.calls_n; i++)
        tokens += call_tokens(&answer->thought.calls[i]);
    if (request->out_cap) tokens = MIN(tokens, request->out_cap);
    answer->input_tokens = request->input_tokens;
    answer->output_tokens = tokens * request->n;
    answer->cached_tokens = MIN(sim_directive_i64(request, "cached", 0), answer->input_tokens);
    answer->reasoning_tokens *= request->n;
}

int sim_answer(Arena *arena, const SimRequest *request, SimAnswer *ret)
{
    *ret = (SimAnswer){ .request = request, .mode = sim_mode(request) };
    bool messages = request->api == API_MESSAGES;
    snprintf(ret->id, sizeof ret->id, "%s%016" PRIx64, messages ? "msg_sim" : "chatcmpl-sim",
             request->hash);
    ret->model = ret->mode.faults & SIM_OTHER_MODEL ? STR("sim/another-model") : request->model;
    int64_t reasoning = MAX(0, sim_directive_i64(request, "reasoning", 0));
    ret->reasoning_tokens = request->out_cap ? MIN(reasoning, request->out_cap) : reasoning;
    if (think(arena, request, ret) < 0 || pad(arena, ret) < 0) return -ENOMEM;
    fit(ret);
    count(ret);
    return 0;
}

/* --- pieces of both forms --------------------------------------------------------------------- */

static const char *finish_word(const SimAnswer *answer)
{
    bool messages = answer->request->api == API_MESSAGES;
    if (answer->cut_short) return messages ? "max_tokens" : "length";
    if (answer->thought.calls_n) return messages ? "tool_use" : "tool_calls";
    return messages ? "end_turn" : "stop";
}

static void call_id(const SimAnswer *answer, size_t choice, size_t i, char out[SIM_ID_MAX])
{
    bool messages = answer->request->api == API_MESSAGES;
    snprintf(out, SIM_ID_MAX, "%s%016" PRIx64 "%zu%zu", messages ? "toolu_sim" : "call_sim",
             answer->request->hash, choice, i);
}

static void openai_usage(JsonOut *out, const SimAnswer *answer, bool zero)
{
    int64_t in = zero ? 0 : answer->input_tokens, done = zero ? 0 : answer->output_tokens;
    json_out_key(out, "usage");
    json_out_object(out);
    json_out_ki64(out, "prompt_tokens", in);
    json_out_ki64(out, "completion_tokens", done);
    json_out_ki64(out, "total_tokens", in + done);
    json_out_key(out, "prompt_tokens_details");
    json_out_object(out);
    json_out_ki64(out, "cached_tokens", zero ? 0 : answer->cached_tokens);
    json_out_object_end(out);
    json_out_key(out, "completion_tokens_details");
    json_out_object(out);
    json_out_ki64(out, "reasoning_tokens", zero ? 0 : answer->reasoning_tokens);
    json_out_object_end(out);
    json_out_object_end(out);
}

/* Anthropic counts what came from the cache apart from the rest of the input. */
static void anthropic_usage(JsonOut *out, const SimAnswer *answer, int64_t output_tokens)
{
    json_out_key(out, "usage");
    json_out_object(out);
    json_out_ki64(out, "input_tokens", answer->input_tokens - answer->cached_tokens);
    json_out_ki64(out, "cache_creation_input_tokens", 0);
    json_out_ki64(out, "cache_read_input_tokens", answer->cached_tokens);
    json_out_ki64(out, "output_tokens", output_tokens);
    json_out_object_end(out);
}

static void openai_call(JsonOut *out, const SimAnswer *answer, size_t choice, size_t i, bool stream)
{
    char id[SIM_ID_MAX];
    call_id(answer, choice, i, id);
    json_out_object(out);
    if (stream) json_out_ki64(out, "index", (int64_t)i);
    json_out_kcstr(out, "id", id);
    json_out_kcstr(out, "type", "function");
    json_out_key(out, "function");
    json_out_object(out);
    json_out_kstr(out, "name", answer->thought.calls[i].name);
    json_out_kstr(out, "arguments", stream ? STR("") : answer->thought.calls[i].arguments);
    json_out_object_end(out);
    json_out_object_end(out);
}

/* --- plain ------------------------------------------------------------------------------------ */

static void openai_choice(JsonOut *out, const SimAnswer *answer, size_t choice)
{
    json_out_object(out);
    json_out_ki64(out, "index", (int64_t)choice);
    json_out_key(out, "message");
    json_out_object(out);
    json_out_kcstr(out, "role", "assistant");
    json_out_key(out, "content");
    if (answer->thought.calls_n) json_out_null(out);
    else json_out_str(out, answer->thought.text);
    json_out_key(out, "refusal");
    json_out_null(out);
    if (answer->thought.calls_n) {
        json_out_key(out, "tool_calls");
        json_out_array(out);
        for (size_t i = 0; i < answer->thought.calls_n; i++)
            openai_call(out, answer, choice, i, false);
        json_out_array_end(out);
    }
    json_out_object_end(out);
    json_out_key(out, "logprobs");
    json_out_null(out);
    json_out_key(out, "finish_reason");
    if (answer->mode.faults & SIM_NO_FINISH) json_out_null(out);
    else json_out_str(out, str_of(finish_word(answer)));
    json_out_object_end(out);
}

static void openai_head(JsonOut *out, const SimAnswer *answer, const char *object)
{
    json_out_kcstr(out, "id", answer->id);
    json_out_kcstr(out, "object", object);
    json_out_ki64(out, "created", CREATED_S);
    json_out_kstr(out, "model", answer->model);
    json_out_kcstr(out, "system_fingerprint", "sim");
}

static void openai_plain(JsonOut *out, const SimAnswer *answer)
{
    json_out_object(out);
    openai_head(out, answer, "chat.completion");
    json_out_key(out, "choices");
    json_out_array(out);
    for (int64_t c = 0; c < answer->request->n; c++) openai_choice(out, answer, (size_t)c);
    json_out_array_end(out);
    if (!(answer->mode.faults & SIM_NO_USAGE)) openai_usage(out, answer, false);
    json_out_object_end(out);
}

static void anthropic_call(JsonOut *out, const SimAnswer *answer, size_t i, Str input)
{
    char id[SIM_ID_MAX];
    call_id(answer, 0, i, id);
    json_out_object(out);
    json_out_kcstr(out, "type", "tool_use");
    json_out_kcstr(out, "id", id);
    json_out_kstr(out, "name", answer->thought.calls[i].name);
    /* arguments cut by the cap are no JSON: the provider would leave the input empty */
    json_out_kraw(out, "input", answer->cut_short ? STR("{}") : input);
    json_out_object_end(out);
}

static void anthropic_head(JsonOut *out, const SimAnswer *answer)
{
    json_out_kcstr(out, "id", answer->id);
    json_out_kcstr(out, "type", "message");
    json_out_kcstr(out, "role", "assistant");
    json_out_kstr(out, "model", answer->model);
}

static void anthropic_plain(JsonOut *out, const SimAnswer *answer)
{
    const SimThought *thought = &answer->thought;
    json_out_object(out);
    anthropic_head(out, answer);
    json_out_key(out, "content");
    json_out_array(out);
    if (thought->text.len) {
        json_out_object(out);
        json_out_kcstr(out, "type", "text");
        json_out_kstr(out, "text", thought->text);
        json_out_object_end(out);
    }
    for (size_t i = 0; i < thought->calls_n; i++)
        anthropic_call(out, answer, i, thought->calls[i].arguments);
    json_out_array_end(out);
    json_out_key(out, "stop_reason");
    if (answer->mode.faults & SIM_NO_FINISH) json_out_null(out);
    else json_out_str(out, str_of(finish_word(answer)));
    json_out_key(out, "stop_sequence");
    json_out_null(out);
    if (!(answer->mode.faults & SIM_NO_USAGE)) anthropic_usage(out, answer, answer->output_tokens);
    json_out_object_end(out);
}

void sim_wire_plain(const SimAnswer *answer, Buf *out)
{
    CLEANUP(buf_deinit) Buf chat;
    bool responses = answer->request->api == API_RESPONSES;
    buf_init(&chat, out->max);
    JsonOut json = json_out(responses ? &chat : out);
    if (answer->request->api == API_MESSAGES) anthropic_plain(&json, answer);
    else openai_plain(&json, answer);
    if (responses && !sim_responses_plain(buf_str(&chat), out)) out->failed = true;
}

/* --- streams ---------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    const SimAnswer *answer;
    Str *list;
    size_t n, cap;
    Buf json;
    bool full;
} Pieces;

static void push(Pieces *p, Str bytes)
{
    if (p->n == p->cap) {
        size_t cap = MAX(64, p->cap * 2);
        Str *grown = arena_realloc(p->arena, p->list, p->cap * sizeof *grown, cap * sizeof *grown);
        if (!grown) {
            p->full = true;
            return;
        }
        p->list = grown;
        p->cap = cap;
    }
    Str copy = arena_str(p->arena, bytes);
    if (copy.ptr) p->list[p->n++] = copy;
    else p->full = true;
}

/* The JSON in p->json becomes an event; some modes put a comment before it. */
static void push_event(Pieces *p, const char *name)
{
    CLEANUP(buf_deinit) Buf event;
    buf_init(&event, EVENT_BYTES_MAX);
    if (p->answer->mode.faults & SIM_KEEP_ALIVES) (void)sse_add_comment(&event, STR("keep-alive"));
    if (p->json.failed || sse_add_event(&event, str_of(name), STR_NULL, buf_str(&p->json)) < 0)
        p->full = true;
    else push(p, buf_str(&event));
    buf_clear(&p->json);
}

/* The next piece of a text: some words; for long texts more at a time. */
static Str next_words(Str *rest, size_t total)
{
    size_t least = MAX(PIECE_BYTES_MIN, total / PIECES_MAX), n = MIN(least, rest->len);
    while (n < rest->len && rest->ptr[n] != ' ' && n < least + 32) n++;
    Str piece = sim_cut(*rest, n);
    if (piece.len == 0) piece = *rest; /* one long character: never an empty piece */
    *rest = str_skip(*rest, piece.len);
    return piece;
}

static JsonOut chunk_begin(Pieces *p, size_t choice)
{
    JsonOut out = json_out(&p->json);
    json_out_object(&out);
    openai_head(&out, p->answer, "chat.completion.chunk");
    json_out_key(&out, "choices");
    json_out_array(&out);
    json_out_object(&out);
    json_out_ki64(&out, "index", (int64_t)choice);
    json_out_key(&out, "delta");
    json_out_object(&out);
    return out;
}

static void chunk_end(Pieces *p, JsonOut *out, const char *finish)
{
    unsigned faults = p->answer->mode.faults;
    json_out_object_end(out);
    json_out_key(out, "logprobs");
    json_out_null(out);
    json_out_key(out, "finish_reason");
    if (finish) json_out_str(out, str_of(finish));
    else json_out_null(out);
    json_out_object_end(out);
    json_out_array_end(out);
    if (faults & SIM_USAGE_EACH) openai_usage(out, p->answer, !finish);
    else if ((faults & SIM_USAGE_TWICE) && finish) openai_usage(out, p->answer, false);
    else if (p->answer->request->include_usage) {
        json_out_key(out, "usage");
        json_out_null(out);
    }
    json_out_object_end(out);
    push_event(p, "");
}

static void chunk_call_arguments(Pieces *p, size_t choice, size_t i)
{
    Str rest = p->answer->thought.calls[i].arguments;
    size_t total = rest.len;
    while (rest.len) {
        JsonOut out = chunk_begin(p, choice);
        json_out_key(&out, "tool_calls");
        json_out_array(&out);
        json_out_object(&out);
        json_out_ki64(&out, "index", (int64_t)i);
        json_out_key(&out, "function");
        json_out_object(&out);
        json_out_kstr(&out, "arguments", next_words(&rest, total));
        json_out_object_end(&out);
        json_out_object_end(&out);
        json_out_array_end(&out);
        chunk_end(p, &out, NULL);
    }
}

static void openai_stream_choice(Pieces *p, size_t choice)
{
    const SimThought *thought = &p->answer->thought;
    JsonOut out = chunk_begin(p, choice);
    json_out_kcstr(&out, "role", "assistant");
    if (thought->calls_n) json_out_kraw(&out, "content", STR("null"));
    else json_out_kcstr(&out, "content", "");
    chunk_end(p, &out, NULL);
    for (Str rest = thought->text; rest.len;) {
        out = chunk_begin(p, choice);
        json_out_kstr(&out, "content", next_words(&rest, thought->text.len));
        chunk_end(p, &out, NULL);
    }
    for (size_t i = 0; i < thought->calls_n; i++) {
        out = chunk_begin(p, choice);
        json_out_key(&out, "tool_calls");
        json_out_array(&out);
        openai_call(&out, p->answer, choice, i, true);
        json_out_array_end(&out);
        chunk_end(p, &out, NULL);
        chunk_call_arguments(p, choice, i);
    }
    if (p->answer->mode.faults & SIM_NO_FINISH) return;
    out = chunk_begin(p, choice);
    chunk_end(p, &out, finish_word(p->answer));
}

static void openai_stream(Pieces *p)
{
    const SimAnswer *answer = p->answer;
    unsigned faults = answer->mode.faults;
    for (int64_t c = 0; c < answer->request->n; c++) openai_stream_choice(p, (size_t)c);
    if (answer->request->include_usage &&
        !(faults & (SIM_NO_USAGE | SIM_NO_FINISH | SIM_USAGE_EACH))) {
        JsonOut out = json_out(&p->json);
        json_out_object(&out);
        openai_head(&out, answer, "chat.completion.chunk");
        json_out_kraw(&out, "choices", STR("[]"));
        openai_usage(&out, answer, false);
        json_out_object_end(&out);
        push_event(p, "");
    }
    bool done = !(faults & (SIM_NO_DONE | SIM_NO_FINISH)) || faults & SIM_DONE_EARLY;
    if (done) push(p, STR("data: [DONE]\n\n"));
}

static JsonOut event_begin(Pieces *p, const char *type)
{
    JsonOut out = json_out(&p->json);
    json_out_object(&out);
    json_out_kcstr(&out, "type", type);
    return out;
}

static void event_end(Pieces *p, JsonOut *out, const char *type)
{
    json_out_object_end(out);
    push_event(p, type);
}

static void block_delta(Pieces *p, int64_t index, const char *type, const char *key, Str piece)
{
    JsonOut out = event_begin(p, "content_block_delta");
    json_out_ki64(&out, "index", index);
    json_out_key(&out, "delta");
    json_out_object(&out);
    json_out_kcstr(&out, "type", type);
    json_out_kstr(&out, key, piece);
    json_out_object_end(&out);
    event_end(p, &out, "content_block_delta");
}

static void block_stop(Pieces *p, int64_t index)
{
    JsonOut out = event_begin(p, "content_block_stop");
    json_out_ki64(&out, "index", index);
    event_end(p, &out, "content_block_stop");
}

static void text_block(Pieces *p, int64_t index)
{
    Str text = p->answer->thought.text;
    JsonOut out = event_begin(p, "content_block_start");
    json_out_ki64(&out, "index", index);
    json_out_kraw(&out, "content_block", STR("{\"type\":\"text\",\"text\":\"\"}"));
    event_end(p, &out, "content_block_start");
    for (Str rest = text; rest.len;)
        block_delta(p, index, "text_delta", "text", next_words(&rest, text.len));
    block_stop(p, index);
}

static void call_block(Pieces *p, int64_t index, size_t i)
{
    Str arguments = p->answer->thought.calls[i].arguments;
    JsonOut out = event_begin(p, "content_block_start");
    json_out_ki64(&out, "index", index);
    json_out_key(&out, "content_block");
    anthropic_call(&out, p->answer, i, STR("{}"));
    event_end(p, &out, "content_block_start");
    for (Str rest = arguments; rest.len;)
        block_delta(p, index, "input_json_delta", "partial_json", next_words(&rest, arguments.len));
    block_stop(p, index);
}

static void message_start(Pieces *p)
{
    JsonOut out = event_begin(p, "message_start");
    json_out_key(&out, "message");
    json_out_object(&out);
    anthropic_head(&out, p->answer);
    json_out_kraw(&out, "content", STR("[]"));
    json_out_kraw(&out, "stop_reason", STR("null"));
    json_out_kraw(&out, "stop_sequence", STR("null"));
    if (!(p->answer->mode.faults & SIM_NO_USAGE)) anthropic_usage(&out, p->answer, 1);
    json_out_object_end(&out);
    event_end(p, &out, "message_start");
    push(p, STR("event: ping\ndata: {\"type\":\"ping\"}\n\n"));
}

static void anthropic_stream(Pieces *p)
{
    const SimAnswer *answer = p->answer;
    int64_t index = 0;
    message_start(p);
    if (answer->thought.text.len) text_block(p, index++);
    for (size_t i = 0; i < answer->thought.calls_n; i++) call_block(p, index++, i);
    if (answer->mode.faults & SIM_DONE_EARLY) push(p, STR("data: [DONE]\n\n"));
    if (answer->mode.faults & SIM_NO_FINISH) return;
    JsonOut out = event_begin(p, "message_delta");
    json_out_key(&out, "delta");
    json_out_object(&out);
    json_out_kcstr(&out, "stop_reason", finish_word(answer));
    json_out_kraw(&out, "stop_sequence", STR("null"));
    json_out_object_end(&out);
    if (!(answer->mode.faults & SIM_NO_USAGE)) {
        json_out_key(&out, "usage");
        json_out_object(&out);
        json_out_ki64(&out, "output_tokens", answer->output_tokens);
        json_out_object_end(&out);
    }
    event_end(p, &out, "message_delta");
    out = event_begin(p, "message_stop");
    event_end(p, &out, "message_stop");
}

size_t sim_wire_stream(Arena *arena, const SimAnswer *answer, Str **ret)
{
    Pieces pieces = { .arena = arena, .answer = answer };
    buf_init(&pieces.json, EVENT_BYTES_MAX);
    if (answer->request->api == API_MESSAGES) anthropic_stream(&pieces);
    else openai_stream(&pieces);
    buf_deinit(&pieces.json);
    *ret = pieces.list;
    if (pieces.full) return 0;
    if (answer->request->api != API_RESPONSES) return pieces.n;
    return sim_responses_stream(arena, pieces.list, pieces.n);
}

/* --- errors ----------------------------------------------------------------------------------- */

static const struct {
    int status;
    const char *openai_type, *openai_code, *anthropic_type;
} errors[] = {
    { 400, "invalid_request_error", "invalid_request", "invalid_request_error" },
    { 401, "invalid_request_error", "invalid_api_key", "authentication_error" },
    { 403, "permission_error", "forbidden", "permission_error" },
    { 404, "invalid_request_error", "not_found", "not_found_error" },
    { 408, "timeout", "timeout", "timeout_error" },
    { 429, "requests", "rate_limit_exceeded", "rate_limit_error" },
    { 500, "server_error", "server_error", "api_error" },
    { 503, "server_error", "overloaded", "overloaded_error" },
    { 529, "server_error", "overloaded", "overloaded_error" },
};

void sim_wire_error(Api api, int status, bool quota, Str message, Buf *out)
{
    size_t at = 0;
    while (at + 1 < ARRAY_N(errors) && errors[at].status < status) at++;
    JsonOut json = json_out(out);
    json_out_object(&json);
    if (api == API_MESSAGES) json_out_kcstr(&json, "type", "error");
    json_out_key(&json, "error");
    json_out_object(&json);
    if (api == API_MESSAGES) {
        json_out_kcstr(&json, "type", errors[at].anthropic_type);
        json_out_kstr(&json, "message", message);
    } else {
        json_out_kstr(&json, "message", message);
        json_out_kcstr(&json, "type", quota ? "insufficient_quota" : errors[at].openai_type);
        json_out_kraw(&json, "param", STR("null"));
        json_out_kcstr(&json, "code", quota ? "insufficient_quota" : errors[at].openai_code);
    }
    json_out_object_end(&json);
    if (api == API_MESSAGES) json_out_kcstr(&json, "request_id", "req_sim");
    json_out_object_end(&json);
}

/* --- embeddings ------------------------------------------------------------------------------- */

/* A bag of words, hashed into the dimensions: texts that share words are near each other. */
static void embed(Str text, float *v, size_t dimensions)
{
    memset(v, 0, dimensions * sizeof *v);
    double squares = 0;
    Str word;
    for (Str rest = text; sim_word_next(&rest, &word);) {
        uint64_t hash = sim_word_hash(word);
        if (hash) v[hash % dimensions] += hash >> 32 & 1 ? 1.0f : -1.0f;
    }
    for (size_t i = 0; i < dimensions; i++) squares += (double)v[i] * (double)v[i];
    if (squares == 0) v[0] = 1, squares = 1;
    for (size_t i = 0; i < dimensions; i++) v[i] = (float)((double)v[i] / sqrt(squares));
}

static void out_vector(JsonOut *out, Str text, float *v, size_t dimensions, bool base64)
{
    embed(text, v, dimensions);
    json_out_key(out, "embedding");
    if (base64) {
        CLEANUP(buf_deinit) Buf encoded;
        buf_init(&encoded, BASE64_TEXT_MAX(DIMENSIONS_MAX * sizeof *v));
        (void)!base64_add(&encoded, str_make((const char *)v, dimensions * sizeof *v));
        json_out_str(out, buf_str(&encoded));
        return;
    }
    json_out_array(out);
    for (size_t i = 0; i < dimensions; i++) json_out_f64(out, (double)v[i]);
    json_out_array_end(out);
}

void sim_wire_embeddings(const SimAnswer *answer, const Json *body, Buf *out)
{
    static _Thread_local float v[DIMENSIONS_MAX]; /* too large for a fiber's stack */
    const SimRequest *request = answer->request;
    int64_t wanted = json_i64_or(json_get(body, "dimensions"), DIMENSIONS_DEFAULT);
    size_t dimensions = wanted < 1 || wanted > DIMENSIONS_MAX ? DIMENSIONS_DEFAULT : (size_t)wanted;
    bool base64 = str_eq(json_str(json_get(body, "encoding_format")), STR("base64"));
    JsonOut json = json_out(out);
    json_out_object(&json);
    json_out_kcstr(&json, "object", "list");
    json_out_key(&json, "data");
    json_out_array(&json);
    for (size_t i = 0; i < request->items_n; i++) {
        json_out_object(&json);
        json_out_kcstr(&json, "object", "embedding");
        json_out_ki64(&json, "index", (int64_t)i);
        out_vector(&json, request->items[i].text, v, dimensions, base64);
        json_out_object_end(&json);
    }
    json_out_array_end(&json);
    json_out_kstr(&json, "model", request->model);
    json_out_key(&json, "usage");
    json_out_object(&json);
    json_out_ki64(&json, "prompt_tokens", answer->input_tokens);
    json_out_ki64(&json, "total_tokens", answer->input_tokens);
    json_out_object_end(&json);
    json_out_object_end(&json);
}
