#include "logic/usage.h"

#include "base/money.h"

#define COUNT_MAX INT64_C(1000000000000) /* no call has more: sums cannot overflow */
#define CHOICES_MAX 128

/* --- counts --------------------------------------------------------------------------------- */

typedef enum {
    RAW_INPUT,
    RAW_OUTPUT,
    RAW_TOTAL,
    RAW_CACHED,
    RAW_WRITE, /* of any duration */
    RAW_WRITE_5M,
    RAW_WRITE_1H,
    RAW_REASONING,
    RAW_SEARCHES,
    RAW_FETCHES,
    RAW_AUDIO_INPUT,
    RAW_AUDIO_OUTPUT,
    RAW_IMAGE_INPUT,
    RAW_IMAGE_OUTPUT,
    RAW_N_
} RawCount;

static_assert(RAW_N_ == USAGE_RAW_N, "UsageRaw has room for every count");

/* Where a count stands in a usage object: a member, or a member of a member. */
typedef struct {
    RawCount count;
    const char *outer; /* NULL: at the top */
    const char *key;
} UsageMember;

static const UsageMember chat_members[] = {
    { RAW_INPUT, NULL, "prompt_tokens" },
    { RAW_OUTPUT, NULL, "completion_tokens" },
    { RAW_TOTAL, NULL, "total_tokens" },
    { RAW_CACHED, "prompt_tokens_details", "cached_tokens" },
    { RAW_WRITE, "prompt_tokens_details", "cache_write_tokens" },
    { RAW_REASONING, "completion_tokens_details", "reasoning_tokens" },
    { RAW_AUDIO_INPUT, "prompt_tokens_details", "audio_tokens" },
    { RAW_AUDIO_OUTPUT, "completion_tokens_details", "audio_tokens" },
    { RAW_IMAGE_INPUT, "prompt_tokens_details", "image_tokens" },
    { RAW_IMAGE_OUTPUT, "completion_tokens_details", "image_tokens" },
};
static const UsageMember responses_members[] = {
    { RAW_INPUT, NULL, "input_tokens" },
    { RAW_OUTPUT, NULL, "output_tokens" },
    { RAW_TOTAL, NULL, "total_tokens" },
    { RAW_CACHED, "input_tokens_details", "cached_tokens" },
    { RAW_WRITE, "input_tokens_details", "cache_write_tokens" },
    { RAW_REASONING, "output_tokens_details", "reasoning_tokens" },
};
static const UsageMember messages_members[] = {
    { RAW_INPUT, NULL, "input_tokens" },
    { RAW_OUTPUT, NULL, "output_tokens" },
    { RAW_CACHED, NULL, "cache_read_input_tokens" },
    { RAW_WRITE, NULL, "cache_creation_input_tokens" },
    { RAW_WRITE_5M, "cache_creation", "ephemeral_5m_input_tokens" },
    { RAW_WRITE_1H, "cache_creation", "ephemeral_1h_input_tokens" },
    { RAW_REASONING, "output_tokens_details", "thinking_tokens" },
    { RAW_SEARCHES, "server_tool_use", "web_search_requests" },
    { RAW_FETCHES, "server_tool_use", "web_fetch_requests" },
};

static const struct {
    const UsageMember *items;
    size_t n;
} members[API_N_] = {
    [API_CHAT] = { chat_members, ARRAY_N(chat_members) },
    [API_RESPONSES] = { responses_members, ARRAY_N(responses_members) },
    [API_MESSAGES] = { messages_members, ARRAY_N(messages_members) },
    [API_EMBEDDINGS] = { chat_members, ARRAY_N(chat_members) },
};

static void raw_init(UsageRaw *raw)
{
    *raw = (UsageRaw){ 0 };
    for (size_t i = 0; i < RAW_N_; i++) raw->v[i] = -1;
}

/* Whether fewer of these cost more: they are taken off a dearer total. Anthropic's stand apart. */
static bool is_discount(Api api, RawCount count)
{
    return count == RAW_CACHED && api != API_MESSAGES;
}

static void raw_take(UsageRaw *raw, Api api, RawCount count, const Json *v)
{
    assert(count < RAW_N_ && raw->v[count] >= -1);
    JsonType type = json_type(v);
    if (type == JSON_ABSENT || type == JSON_NULL) return;
    int64_t value;
    if (json_i64(v, &value) != 0 || value < 0 || value > COUNT_MAX) {
        raw->malformed = true;
        return;
    }
    int64_t *held = &raw->v[count];
    if (value >= *held) {
        *held = value;
        return;
    }
    raw->shrunk = true;
    if (is_discount(api, count)) *held = value;
}

/* skip: counts to leave alone, as bits. */
static void raw_take_all(UsageRaw *raw, Api api, const Json *usage, unsigned skip)
{
    for (size_t i = 0; i < members[api].n; i++) {
        const UsageMember *m = &members[api].items[i];
        if (skip & (1u << m->count)) continue;
        const Json *at = m->outer ? json_get(usage, m->outer) : usage;
        raw_take(raw, api, m->count, json_get(at, m->key));
    }
}

/* --- words ---------------------------------------------------------------------------------- */

Service service_of(Str word)
{
    static const struct {
        Str word;
        Service service;
    } words[] = { { STR(""), SERVICE_UNKNOWN },
                  { STR("auto"), SERVICE_UNKNOWN },
                  { STR("default"), SERVICE_STANDARD },
                  { STR("standard"), SERVICE_STANDARD },
                  { STR("standard_only"), SERVICE_STANDARD },
                  { STR("on_demand"), SERVICE_STANDARD },
                  { STR("flex"), SERVICE_FLEX },
                  { STR("priority"), SERVICE_PRIORITY },
                  { STR("batch"), SERVICE_BATCH },
                  { STR("fast"), SERVICE_FAST } };
    for (size_t i = 0; i < ARRAY_N(words); i++)
        if (str_eq(word, words[i].word)) return words[i].service;
    return SERVICE_OTHER;
}

Region region_of(Str word)
{
    if (str_empty(word) || str_eq(word, STR("not_available"))) return REGION_UNKNOWN;
    if (str_eq(word, STR("global"))) return REGION_GLOBAL;
    if (str_eq(word, STR("us"))) return REGION_US;
    return str_eq(word, STR("eu")) ? REGION_EU : REGION_OTHER;
}

/* By how the word begins: "web_search_20250305", "web_search_preview", "web_search_call". */
ServerTool server_tool_of(Str type)
{
    if (str_starts_with(type, STR("web_search"))) return SERVER_WEB_SEARCH;
    if (str_starts_with(type, STR("file_search"))) return SERVER_FILE_SEARCH;
    if (str_starts_with(type, STR("code_interpreter"))) return SERVER_CODE;
    if (str_starts_with(type, STR("web_fetch"))) return SERVER_FETCH;
    return SERVER_OTHER;
}

/* A later word replaces an earlier one, unless it says nothing. */
static void raw_take_words(UsageRaw *raw, Api api, const Json *outer, const Json *usage)
{
    const Json *from = api == API_MESSAGES ? usage : outer;
    Service service = service_of(json_str(json_get(from, "service_tier")));
    if (api == API_MESSAGES && str_eq(json_str(json_get(usage, "speed")), STR("fast")))
        service = SERVICE_FAST;
    Region region = region_of(json_str(json_get(usage, "inference_geo")));
    if (service != SERVICE_UNKNOWN) raw->service = service;
    if (api == API_MESSAGES && region != REGION_UNKNOWN) raw->region = region;
}

/* Anthropic's input counts are disjoint; writes without a duration count as the dearer kind. */
static void usage_sum_disjoint(const UsageRaw *raw, Usage *u)
{
    int64_t writes = MAX(raw->v[RAW_WRITE], 0);
    u->cache_write_5m_tokens = MAX(raw->v[RAW_WRITE_5M], 0);
    u->cache_write_1h_tokens = MAX(raw->v[RAW_WRITE_1H], 0);
    int64_t known = u->cache_write_5m_tokens + u->cache_write_1h_tokens;
    if (writes > known) u->cache_write_1h_tokens += writes - known;
    u->input_tokens = u->input_tokens + u->cached_tokens + u->cache_write_5m_tokens +
                      u->cache_write_1h_tokens;
}

/* OpenAI's parts are inside their totals. A part larger than its total stands beside it, as some
 * compatible servers report them. */
static void usage_check_parts(const UsageRaw *raw, Usage *u)
{
    u->cache_write_5m_tokens = MAX(raw->v[RAW_WRITE], 0);
    int64_t parts = u->cached_tokens + u->cache_write_5m_tokens;
    if (parts <= u->input_tokens) return;
    u->malformed = true;
    u->input_tokens += parts;
}

/* The output, which some leave out and some report without their thinking: then the total tells. */
static int64_t output_of(Api api, const UsageRaw *raw)
{
    int64_t input = raw->v[RAW_INPUT], output = raw->v[RAW_OUTPUT], total = raw->v[RAW_TOTAL];
    if (api == API_EMBEDDINGS) return MAX(output, 0);
    return input >= 0 && total >= input ? MAX(output, total - input) : output;
}

static void usage_add_calls(Usage *u, const UsageRaw *raw, const UsageCalls *calls)
{
    u->tool_calls = calls->n;
    for (size_t i = 0; i < SERVER_N_; i++) u->server_calls[i] = calls->server[i];
    int64_t *n = u->server_calls;
    n[SERVER_WEB_SEARCH] = MAX(n[SERVER_WEB_SEARCH], raw->v[RAW_SEARCHES]);
    n[SERVER_FETCH] = MAX(n[SERVER_FETCH], raw->v[RAW_FETCHES]);
}

/* The counts in the common form. */
static Usage usage_make(Api api, const UsageRaw *raw, const UsageCalls *calls)
{
    int64_t input = raw->v[RAW_INPUT], output = output_of(api, raw);
    Usage u = {
        .input_tokens = MAX(input, 0),
        .output_tokens = MAX(output, 0),
        .cached_tokens = MAX(raw->v[RAW_CACHED], 0),
        .reasoning_tokens = MAX(raw->v[RAW_REASONING], 0),
        .audio_input_tokens = MAX(raw->v[RAW_AUDIO_INPUT], 0),
        .audio_output_tokens = MAX(raw->v[RAW_AUDIO_OUTPUT], 0),
        .image_input_tokens = MAX(raw->v[RAW_IMAGE_INPUT], 0),
        .image_output_tokens = MAX(raw->v[RAW_IMAGE_OUTPUT], 0),
        .service = raw->service,
        .region = raw->region,
        .valid = input >= 0 && output >= 0,
        .shrunk = raw->shrunk,
        .malformed = raw->malformed,
    };
    usage_add_calls(&u, raw, calls);
    if (api == API_MESSAGES) usage_sum_disjoint(raw, &u);
    else usage_check_parts(raw, &u);
    if (u.reasoning_tokens > u.output_tokens) {
        u.malformed = true;
        u.output_tokens += u.reasoning_tokens;
    }
    assert(u.cached_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens <= u.input_tokens);
    assert(u.reasoning_tokens <= u.output_tokens);
    return u;
}

/* --- tool calls ----------------------------------------------------------------------------- */

/* FNV-1a, never 0 (which stands for "no id"). */
static uint64_t id_hash(Str id)
{
    if (str_empty(id)) return 0;
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < id.len; i++)
        h = (h ^ (unsigned char)id.ptr[i]) * UINT64_C(1099511628211);
    return h ? h : 1;
}

/* Takes one mention of a call: place in the answer (choice, index), id if it has one. Fragments of
 * a stream carry the id only at first, or late, or each time. True when the call is new. */
static bool calls_take(UsageCalls *calls, uint32_t choice, uint32_t index, Str id, bool begins)
{
    assert(calls->seen_n <= USAGE_CALLS_MAX && calls->n >= (int64_t)calls->seen_n);
    uint64_t hash = id_hash(id);
    size_t nameless = SIZE_MAX;
    for (size_t i = 0; i < calls->seen_n; i++) {
        if (hash != 0 && calls->seen[i].id_hash == hash) return false;
        if (calls->seen[i].choice != choice || calls->seen[i].index != index) continue;
        if (hash == 0) return false;
        if (calls->seen[i].id_hash == 0) nameless = i;
    }
    if (nameless != SIZE_MAX) {
        calls->seen[nameless].id_hash = hash;
        return false;
    }
    if (calls->seen_n < USAGE_CALLS_MAX) {
        size_t i = calls->seen_n++;
        calls->seen[i].id_hash = hash;
        calls->seen[i].choice = choice;
        calls->seen[i].index = index;
    } else if (!begins) {
        return false;
    }
    calls->n++;
    return true;
}

/* A number that places something in an answer; nonsense is 0. */
static uint32_t place_of(const Json *v)
{
    int64_t i = json_i64_or(v, 0);
    return i >= 0 && i < UINT32_MAX ? (uint32_t)i : 0;
}

/* The name a chat call carries, and whether the call is new. */
static bool chat_call_take(UsageCalls *calls, uint32_t choice, uint32_t index, const Json *call,
                           Str *ret_name)
{
    const Json *function = json_get(call, "function");
    if (!function) function = json_get(call, "custom");
    Str id = json_str(json_get(call, "id"));
    *ret_name = json_str(json_get(function, "name"));
    return calls_take(calls, choice, index, id, !str_empty(id) || !str_empty(*ret_name));
}

/* An item of a Responses answer. Every kind of call ends in "_call"; the provider's own tools have
 * no name but their type. */
static bool response_item_take(UsageCalls *calls, uint32_t index, const Json *item, Str *ret_name)
{
    Str type = json_str(json_get(item, "type"));
    if (!str_ends_with(type, STR("_call"))) return false;
    Str id = json_str(json_get(item, "call_id"));
    if (str_empty(id)) id = json_str(json_get(item, "id"));
    *ret_name = json_str(json_get(item, "name"));
    if (str_empty(*ret_name)) *ret_name = str_sub(type, 0, type.len - strlen("_call"));
    if (!calls_take(calls, 0, index, id, true)) return false;
    calls->server[server_tool_of(type)]++;
    return true;
}

/* A content block of an Anthropic answer: tool_use, server_tool_use, mcp_tool_use. */
static bool block_take(UsageCalls *calls, uint32_t index, const Json *block, Str *ret_name)
{
    Str type = json_str(json_get(block, "type"));
    if (!str_ends_with(type, STR("tool_use"))) return false;
    *ret_name = json_str(json_get(block, "name"));
    if (!calls_take(calls, 0, index, json_str(json_get(block, "id")), true)) return false;
    if (str_starts_with(type, STR("server_"))) calls->server[server_tool_of(*ret_name)]++;
    return true;
}

/* --- errors --------------------------------------------------------------------------------- */

/* The text of an error object ({"message", ...}), an error string, or an event with a message. */
static void error_copy(char out[ANSWER_ERROR_MAX], const Json *error)
{
    Str text = json_str(error);
    if (str_empty(text)) text = json_str(json_get(error, "message"));
    if (str_empty(text)) text = json_str(json_get(error, "type"));
    if (str_empty(text)) text = STR("the provider gave no reason");
    str_copy(out, ANSWER_ERROR_MAX, text);
}

static bool is_there(const Json *v)
{
    JsonType type = json_type(v);
    return type != JSON_ABSENT && type != JSON_NULL;
}

/* --- plain answers -------------------------------------------------------------------------- */

static void answer_tool(Answer *a, Str name)
{
    assert(a->tool_names_n <= ANSWER_TOOLS_MAX);
    if (a->tool_names_n < ANSWER_TOOLS_MAX) a->tool_names[a->tool_names_n++] = name;
}

static void answer_chat(const Json *body, int64_t n, UsageCalls *calls, Answer *a)
{
    int64_t finished = 0;
    uint32_t choice = 0;
    for (JsonIter it = json_iter(json_get(body, "choices")); json_next(&it); choice++) {
        Str reason = json_str(json_get(it.value, "finish_reason"));
        finished += !str_empty(reason);
        if (choice == 0) str_copy(a->finish_reason, sizeof a->finish_reason, reason);
        const Json *message = json_get(it.value, "message");
        Str name;
        uint32_t index = 0;
        for (JsonIter c = json_iter(json_get(message, "tool_calls")); json_next(&c); index++)
            if (chat_call_take(calls, choice, index, c.value, &name)) answer_tool(a, name);
        const Json *old_style = json_get(message, "function_call");
        if (!is_there(old_style)) continue;
        calls->n++;
        answer_tool(a, json_str(json_get(old_style, "name")));
    }
    a->complete = finished >= n;
    a->empty = choice == 0;
}

/* How a Responses object ended, in one word; false while it has not. */
static bool response_reason(const Json *response, char out[ANSWER_REASON_MAX])
{
    Str status = json_str(json_get(response, "status"));
    Str why = json_str(json_get(json_get(response, "incomplete_details"), "reason"));
    bool incomplete = str_eq(status, STR("incomplete"));
    if (!incomplete && !str_eq(status, STR("completed"))) return false;
    str_copy(out, ANSWER_REASON_MAX, incomplete && !str_empty(why) ? why : status);
    return true;
}

static void answer_responses(const Json *body, UsageCalls *calls, Answer *a)
{
    Str name;
    uint32_t index = 0;
    for (JsonIter it = json_iter(json_get(body, "output")); json_next(&it); index++)
        if (response_item_take(calls, index, it.value, &name)) answer_tool(a, name);
    a->complete = response_reason(body, a->finish_reason);
    a->empty = json_type(json_get(body, "output")) != JSON_ARRAY;
}

static void answer_messages(const Json *body, UsageCalls *calls, Answer *a)
{
    Str name;
    uint32_t index = 0;
    for (JsonIter it = json_iter(json_get(body, "content")); json_next(&it); index++)
        if (block_take(calls, index, it.value, &name)) answer_tool(a, name);
    Str reason = json_str(json_get(body, "stop_reason"));
    str_copy(a->finish_reason, sizeof a->finish_reason, reason);
    a->complete = !str_empty(reason);
    a->empty = json_type(json_get(body, "content")) != JSON_ARRAY;
}

void answer_read(Api api, const Json *body, int64_t n, Answer *ret)
{
    assert(api < API_N_ && n >= 1);
    *ret = (Answer){ 0 };
    UsageCalls calls = { 0 };
    UsageRaw raw;
    raw_init(&raw);
    raw_take_all(&raw, api, json_get(body, "usage"), 0);
    switch (api) {
    case API_CHAT: answer_chat(body, n, &calls, ret); break;
    case API_RESPONSES: answer_responses(body, &calls, ret); break;
    case API_MESSAGES: answer_messages(body, &calls, ret); break;
    case API_EMBEDDINGS:
        ret->complete = json_type(json_get(body, "data")) == JSON_ARRAY;
        ret->empty = !ret->complete;
        break;
    case API_N_: break;
    }
    raw_take_words(&raw, api, body, json_get(body, "usage"));
    ret->usage = usage_make(api, &raw, &calls);
    const Json *error = json_get(body, "error");
    if (!is_there(error)) return;
    ret->error = true;
    error_copy(ret->error_text, error);
}

/* --- streams -------------------------------------------------------------------------------- */

void stream_init(StreamState *s, Api api, int64_t n)
{
    assert(api < API_N_ && api != API_EMBEDDINGS);
    assert(n >= 1 && n <= CHOICES_MAX);
    *s = (StreamState){ .api = api, .n = n };
    raw_init(&s->raw);
}

static void stream_fail(StreamState *s, const Json *error)
{
    assert(s->phase <= STREAM_FAILED);
    if (s->phase != STREAM_OPEN) return;
    s->phase = STREAM_FAILED;
    error_copy(s->error_text, error);
}

static void note_tool(StreamNote *note, Str name)
{
    if (note->tool_names_n < ARRAY_N(note->tool_names))
        note->tool_names[note->tool_names_n++] = name;
}

static void chat_finish(StreamState *s, uint32_t choice, Str reason)
{
    if (choice >= CHOICES_MAX) return;
    if (choice == 0) str_copy(s->finish_reason, sizeof s->finish_reason, reason);
    s->finished[choice / 64] |= UINT64_C(1) << (choice % 64);
    int64_t finished = __builtin_popcountll(s->finished[0]) + __builtin_popcountll(s->finished[1]);
    if (finished >= s->n && s->phase == STREAM_OPEN) s->phase = STREAM_COMPLETE;
}

/* One choice of a chunk. True when it carries anything a client would miss. */
static bool chat_choice(StreamState *s, const Json *choice, StreamNote *note)
{
    uint32_t number = place_of(json_get(choice, "index"));
    const Json *delta = json_get(choice, "delta");
    Str name;
    uint32_t nth = 0;
    for (JsonIter it = json_iter(json_get(delta, "tool_calls")); json_next(&it); nth++) {
        const Json *index = json_get(it.value, "index");
        if (chat_call_take(&s->calls, number, index ? place_of(index) : nth, it.value, &name))
            note_tool(note, name);
    }
    name = json_str(json_get(json_get(delta, "function_call"), "name"));
    if (!str_empty(name) && calls_take(&s->calls, number, UINT32_MAX, STR_NULL, true))
        note_tool(note, name);
    if (number == 0) note->text = json_str(json_get(delta, "content"));

    Str reason = json_str(json_get(choice, "finish_reason"));
    if (is_there(json_get(choice, "error"))) stream_fail(s, json_get(choice, "error"));
    else if (!str_empty(reason)) chat_finish(s, number, reason);
    return !str_empty(reason) || json_len(delta) > 0;
}

static void feed_chat(StreamState *s, const Json *data, StreamNote *note)
{
    if (is_there(json_get(data, "error"))) stream_fail(s, json_get(data, "error"));
    bool carries = false, was_complete = s->phase == STREAM_COMPLETE;
    for (JsonIter it = json_iter(json_get(data, "choices")); json_next(&it);)
        carries |= chat_choice(s, it.value, note);
    const Json *usage = json_get(data, "usage");
    raw_take_words(&s->raw, s->api, data, NULL);
    if (json_type(usage) != JSON_OBJECT) return;
    raw_take_all(&s->raw, s->api, usage, 0);
    s->usage_is_final |= s->phase == STREAM_COMPLETE;
    s->usage_is_last |= was_complete;
    note->usage_only = !carries;
}

/* How a terminal event ends a Responses stream: as its name says, unless the response in it says
 * that it has failed. */
static bool response_has_failed(const Json *response, Str type)
{
    static const Str words[] = { STR("failed"), STR("cancelled") };
    Str status = json_str(json_get(response, "status"));
    for (size_t i = 0; i < ARRAY_N(words); i++)
        if (str_ends_with(type, words[i]) || str_eq(status, words[i])) return true;
    return false;
}

static void responses_end(StreamState *s, const Json *data, Str type)
{
    const Json *response = json_get(data, "response");
    const Json *usage = json_get(response, "usage");
    raw_take_words(&s->raw, s->api, response, NULL);
    if (json_type(usage) == JSON_OBJECT) {
        raw_take_all(&s->raw, s->api, usage, 0);
        s->usage_is_final = true;
    }
    if (s->phase != STREAM_OPEN) return;
    if (response_has_failed(response, type)) {
        stream_fail(s, json_get(response, "error"));
        return;
    }
    if (json_type(response) != JSON_OBJECT) return; /* an end of nothing: clients read it there */
    s->phase = STREAM_COMPLETE;
    if (!response_reason(response, s->finish_reason))
        str_copy(s->finish_reason, sizeof s->finish_reason, str_skip(type, strlen("response.")));
}

static void feed_responses(StreamState *s, Str type, const Json *data, StreamNote *note)
{
    static const Str ends[] = { STR("response.completed"), STR("response.incomplete"),
                                STR("response.failed"), STR("response.cancelled") };
    for (size_t i = 0; i < ARRAY_N(ends); i++) {
        if (!str_eq(type, ends[i])) continue;
        responses_end(s, data, type);
        note->cut = s->phase == STREAM_OPEN;
        return;
    }
    if (str_eq(type, STR("response.output_text.delta"))) {
        note->text = json_str(json_get(data, "delta"));
    } else if (str_starts_with(type, STR("response.output_item."))) {
        Str name;
        uint32_t index = place_of(json_get(data, "output_index"));
        if (response_item_take(&s->calls, index, json_get(data, "item"), &name))
            note_tool(note, name);
    } else if (str_eq(type, STR("error")) || is_there(json_get(data, "error"))) {
        const Json *error = json_get(data, "error");
        stream_fail(s, is_there(error) ? error : data);
    }
}

static void messages_delta(StreamState *s, const Json *data)
{
    const Json *usage = json_get(data, "usage");
    raw_take_all(&s->raw, s->api, usage, 0);
    raw_take_words(&s->raw, s->api, NULL, usage);
    s->usage_is_final |= json_type(json_get(usage, "output_tokens")) == JSON_INT;
    Str reason = json_str(json_get(json_get(data, "delta"), "stop_reason"));
    if (!str_empty(reason)) str_copy(s->finish_reason, sizeof s->finish_reason, reason);
}

static void feed_messages(StreamState *s, Str type, const Json *data, StreamNote *note)
{
    if (str_eq(type, STR("message_start"))) {
        /* Its output count is a placeholder. */
        const unsigned skip = 1u << RAW_OUTPUT | 1u << RAW_REASONING;
        const Json *usage = json_get(json_get(data, "message"), "usage");
        raw_take_all(&s->raw, s->api, usage, skip);
        raw_take_words(&s->raw, s->api, NULL, usage);
    } else if (str_eq(type, STR("content_block_start"))) {
        Str name;
        uint32_t index = place_of(json_get(data, "index"));
        if (block_take(&s->calls, index, json_get(data, "content_block"), &name))
            note_tool(note, name);
    } else if (str_eq(type, STR("content_block_delta"))) {
        note->text = json_str(json_get(json_get(data, "delta"), "text"));
    } else if (str_eq(type, STR("message_delta"))) {
        messages_delta(s, data);
    } else if (str_eq(type, STR("message_stop"))) {
        note->cut = s->phase == STREAM_OPEN && !s->finish_reason[0];
        if (s->phase == STREAM_OPEN && !note->cut) s->phase = STREAM_COMPLETE;
    } else if (str_eq(type, STR("error")) || is_there(json_get(data, "error"))) {
        const Json *error = json_get(data, "error");
        stream_fail(s, is_there(error) ? error : data);
    }
}

static void feed(StreamState *s, Str event, const Json *data, StreamNote *note)
{
    Str type = json_str(json_get(data, "type"));
    if (str_empty(type)) type = event;
    switch (s->api) {
    case API_CHAT: feed_chat(s, data, note); break;
    case API_RESPONSES: feed_responses(s, type, data, note); break;
    case API_MESSAGES: feed_messages(s, type, data, note); break;
    case API_EMBEDDINGS:
    case API_N_: assert(false);
    }
    s->usage = usage_make(s->api, &s->raw, &s->calls);
}

int stream_feed(StreamState *s, Arena *scratch, Str event, Str data, StreamNote *ret_note)
{
    StreamNote local;
    StreamNote *note = ret_note ? ret_note : &local;
    *note = (StreamNote){ 0 };
    StreamPhase before = s->phase;
    assert(s->n >= 1 && s->bad_events <= s->events);
    s->events++;
    if (str_eq(str_trim(data), STR("[DONE]"))) {
        s->done_marker = true;
        note->cut = s->phase == STREAM_OPEN;
        return 0;
    }
    int r = json_parse(scratch, data, NULL, &note->json, NULL);
    if (r != 0) {
        s->bad_events++;
        note->json = NULL;
        if (str_eq(event, STR("error"))) stream_fail(s, NULL);
    } else {
        feed(s, event, note->json, note);
    }
    assert(before == STREAM_OPEN || before == s->phase);
    note->terminal = before == STREAM_OPEN && s->phase != STREAM_OPEN;
    return r == -ENOMEM ? r : 0;
}

bool stream_settles(const StreamState *s)
{
    if (!s->usage.valid || !s->usage_is_final) return false;
    if (s->cut && s->api == API_CHAT && !s->usage_is_last && !s->done_marker) return false;
    return s->phase == STREAM_COMPLETE || (s->phase == STREAM_FAILED && s->api == API_RESPONSES);
}
