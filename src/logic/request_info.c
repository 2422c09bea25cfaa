#include "logic/request_info.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "logic/usage.h"

#define BLOCK_DEPTH_MAX 8 /* content inside content: more is taken for media */

typedef struct {
    Arena *arena;
    const Json *body;
    RequestInfo *info;
    RequestFault *fault;
} Reader;

PRINTF_LIKE(3, 4)
static int refuse(Reader *r, const char *param, const char *fmt, ...)
{
    assert(r->fault && fmt);
    r->fault->param = param;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(r->fault->message, sizeof r->fault->message, fmt, args);
    va_end(args);
    return REQUEST_E_INVALID;
}

static int refuse_type(Reader *r, const char *param, const char *expected)
{
    JsonType type = json_type(json_get(r->body, param));
    if (type == JSON_ABSENT)
        return refuse(r, param, "`%s` is missing: expected %s", param, expected);
    return refuse(r, param, "`%s` must be %s, found %s", param, expected, json_type_name(type));
}

/* --- members -------------------------------------------------------------------------------- */

/* The member, NULL when it is absent or null (which the APIs treat alike). */
static const Json *member(const Json *v, const char *key)
{
    const Json *m = json_get(v, key);
    return json_type(m) == JSON_NULL ? NULL : m;
}

static int read_bool(Reader *r, const char *key, bool *ret)
{
    const Json *v = member(r->body, key);
    if (v && json_type(v) != JSON_BOOL) return refuse_type(r, key, "a boolean");
    *ret = json_bool(v, false);
    return 0;
}

static int read_str(Reader *r, const char *key, Str *ret)
{
    const Json *v = member(r->body, key);
    if (v && json_type(v) != JSON_STRING) return refuse_type(r, key, "a string");
    *ret = json_str(v);
    return 0;
}

/* A whole number within 1..most; *ret stays as it is when the member is absent. */
static int read_count(Reader *r, const char *key, int64_t most, int64_t *ret)
{
    assert(most >= 1);
    const Json *v = member(r->body, key);
    if (!v) return 0;
    int64_t n = 0;
    int e = json_i64(v, &n);
    if (e == -EINVAL) return refuse_type(r, key, "a whole number");
    if (e != 0 || n < 1 || n > most)
        return refuse(r, key, "`%s` must be between 1 and %" PRId64, key, most);
    *ret = n;
    return 0;
}

static int read_model(Reader *r)
{
    const Json *v = json_get(r->body, "model");
    if (json_type(v) != JSON_STRING) return refuse_type(r, "model", "a string");
    Str model = json_str(v);
    if (str_empty(model)) return refuse(r, "model", "`model` is empty");
    if (model.len > REQUEST_MODEL_BYTES_MAX || str_find_char(model, '\0') >= 0)
        return refuse(r, "model", "`model` is not a model id");
    r->info->model = model;
    return 0;
}

/* Two caps at once would need two edits to be lowered, and the provider refuses them anyway. */
static int read_out_cap(Reader *r, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t cap = 0;
        int e = read_count(r, keys[i], REQUEST_OUT_CAP_MAX, &cap);
        if (e != 0) return e;
        if (cap == 0) continue;
        if (r->info->out_cap_member)
            return refuse(r, keys[i], "`%s` and `%s` cannot both be given", r->info->out_cap_member,
                          keys[i]);
        r->info->out_cap = cap;
        r->info->out_cap_member = keys[i];
    }
    return 0;
}

/* --- content -------------------------------------------------------------------------------- */

static bool is_one_of(Str type, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(type, str_of(names[i]))) return true;
    return false;
}

/* Kinds whose tokens the bytes of the body bound: they are text through and through. */
static const char *const plain_parts[] = {
    "text",         "refusal",  "input_text", "output_text",
    "summary_text", "tool_use", "thinking",   "redacted_thinking",
};
static const char *const image_parts[] = { "image_url", "input_image", "image" };
/* Kinds that hold further content in `content`. */
static const char *const nested_parts[] = { "tool_result", "search_result" };

static void scan_content(RequestInfo *info, const Json *content, int depth);

static void note_media(RequestInfo *info)
{
    info->has_media = info->other_media = true;
}

static void scan_document(RequestInfo *info, const Json *part, int depth)
{
    const Json *source = json_get(part, "source");
    Str kind = json_str(json_get(source, "type"));
    if (str_eq(kind, STR("content"))) scan_content(info, json_get(source, "content"), depth + 1);
    else if (!str_eq(kind, STR("text"))) note_media(info);
}

static void scan_part(RequestInfo *info, const Json *part, int depth)
{
    Str type = json_str(json_get(part, "type"));
    if (info->api == API_MESSAGES && member(part, "cache_control")) info->cache_write = true;
    if (is_one_of(type, plain_parts, ARRAY_N(plain_parts))) return;
    if (is_one_of(type, nested_parts, ARRAY_N(nested_parts)))
        scan_content(info, json_get(part, "content"), depth + 1);
    else if (str_eq(type, STR("document"))) scan_document(info, part, depth);
    else if (is_one_of(type, image_parts, ARRAY_N(image_parts))) {
        info->has_media = true;
        info->images++;
    } else note_media(info);
}

/* Content is a string, nothing, or a list of parts. */
static void scan_content(RequestInfo *info, const Json *content, int depth)
{
    JsonType type = json_type(content);
    if (type == JSON_STRING || type == JSON_NULL || type == JSON_ABSENT) return;
    if (type != JSON_ARRAY || depth > BLOCK_DEPTH_MAX) {
        note_media(info);
        return;
    }
    for (JsonIter it = json_iter(content); json_next(&it);) {
        if (json_type(it.value) == JSON_STRING) continue;
        scan_part(info, it.value, depth);
    }
}

/* An input item of Responses. */
static void scan_item(RequestInfo *info, const Json *item)
{
    Str type = json_str(json_get(item, "type"));
    if (str_empty(type) || str_eq(type, STR("message"))) {
        scan_content(info, json_get(item, "content"), 0);
    } else if (str_eq(type, STR("function_call_output")) ||
               str_eq(type, STR("custom_tool_call_output"))) {
        scan_content(info, json_get(item, "output"), 0);
    } else if (str_eq(type, STR("item_reference"))) {
        info->hides_input = true;
    } else if (str_eq(type, STR("reasoning"))) {
        /* Without its content it stands for what the provider has stored. */
        if (!member(item, "encrypted_content")) info->hides_input = true;
    } else if (!str_eq(type, STR("function_call")) && !str_eq(type, STR("custom_tool_call"))) {
        note_media(info);
    }
}

/* --- tools ---------------------------------------------------------------------------------- */

static void add_server_tool(RequestInfo *info, int64_t uses_max, ServerTool kind)
{
    assert(info->server_tools >= 0 && info->server_uses_max >= -1);
    bool web_search = kind == SERVER_WEB_SEARCH;
    info->web_search_only = web_search && (info->server_tools == 0 || info->web_search_only);
    info->server_kinds |= 1u << kind;
    info->server_tools++;
    info->hides_input = true; /* what the tool finds is billed as input */
    if (uses_max < 0 || info->server_uses_max < 0) info->server_uses_max = -1;
    else info->server_uses_max += uses_max;
}

/* The largest of several. */
static void note_search_size(RequestInfo *info, Str word)
{
    static const Str words[SEARCH_N_] = {
        [SEARCH_LOW] = STR("low"), [SEARCH_MEDIUM] = STR("medium"), [SEARCH_HIGH] = STR("high")
    };
    SearchSize size = SEARCH_MEDIUM; /* what is meant when nothing is said */
    for (SearchSize i = SEARCH_LOW; i < SEARCH_N_; i++)
        if (str_eq(word, words[i])) size = i;
    info->search_size = MAX(info->search_size, size);
}

/* The array at key with room for the names of its tools; *ret_array NULL when it is absent. */
static int tools_begin(Reader *r, const char *key, const Json **ret_array, Str **ret_names)
{
    *ret_array = member(r->body, key);
    *ret_names = NULL;
    if (!*ret_array) return 0;
    if (json_type(*ret_array) != JSON_ARRAY) return refuse_type(r, key, "an array");
    size_t n = json_len(*ret_array);
    if (n > REQUEST_TOOLS_MAX)
        return refuse(r, key, "`%s` has %zu elements, %d are allowed", key, n, REQUEST_TOOLS_MAX);
    *ret_names = ARENA_ARRAY(r->arena, Str, n + 1);
    if (!*ret_names) return -ENOMEM;
    r->info->tool_names = *ret_names;
    r->info->has_tools = n > 0;
    r->info->tool_prompts = n > 0;
    return 0;
}

/* Models that search before each answer, once, whether asked to or not. */
static bool always_searches(Str model)
{
    return str_find(model, STR("-search-preview")) >= 0 || str_find(model, STR("-search-api")) >= 0;
}

static int read_chat_tools(Reader *r)
{
    const char *key = member(r->body, "tools") ? "tools" : "functions";
    const Json *array;
    Str *names;
    int e = tools_begin(r, key, &array, &names);
    if (e != 0) return e;
    for (JsonIter it = json_iter(array); json_next(&it);) {
        const Json *tool = json_get(it.value, "function");
        if (!tool) tool = json_get(it.value, "custom");
        assert(names);
        names[r->info->tool_names_n++] = json_str(json_get(tool ? tool : it.value, "name"));
    }
    r->info->functions = r->info->has_tools && strcmp(key, "functions") == 0;
    const Json *search = member(r->body, "web_search_options");
    bool always = always_searches(r->info->model);
    if (!search && !always) return 0;
    add_server_tool(r->info, always ? 1 : -1, SERVER_WEB_SEARCH);
    note_search_size(r->info, json_str(json_get(search, "search_context_size")));
    return 0;
}

/* Run by the client, described by the provider. */
static const char *const trained[] = { "local_shell", "shell", "apply_patch",
                                       "computer_use_preview", "computer" };

/* A name for a list of the client's own tools. */
static bool is_own_namespace(const Json *tool)
{
    static const char *const own[] = { "", "function", "custom" };
    if (!str_eq(json_str(json_get(tool, "type")), STR("namespace"))) return false;
    for (JsonIter it = json_iter(json_get(tool, "tools")); json_next(&it);)
        if (!is_one_of(json_str(json_get(it.value, "type")), own, ARRAY_N(own))) return false;
    return true;
}

static int read_responses_tools(Reader *r)
{
    static const char *const own[] = { "function", "custom" };
    const Json *array;
    Str *names;
    int e = tools_begin(r, "tools", &array, &names);
    if (e != 0) return e;
    int64_t uses_max = -1;
    e = read_count(r, "max_tool_calls", INT32_MAX, &uses_max);
    if (e != 0) return e;
    for (JsonIter it = json_iter(array); json_next(&it);) {
        Str type = json_str(json_get(it.value, "type"));
        bool is_trained = is_one_of(type, trained, ARRAY_N(trained));
        if (is_trained || is_one_of(type, own, ARRAY_N(own)) || is_own_namespace(it.value)) {
            Str name = json_str(json_get(it.value, "name"));
            assert(names);
            names[r->info->tool_names_n++] = str_empty(name) ? type : name;
            r->info->tool_prompts += is_trained;
        } else {
            ServerTool kind = server_tool_of(type);
            add_server_tool(r->info, uses_max, kind);
            if (kind == SERVER_WEB_SEARCH)
                note_search_size(r->info, json_str(json_get(it.value, "search_context_size")));
        }
    }
    /* max_tool_calls bounds all of them together. */
    if (r->info->server_tools > 0) r->info->server_uses_max = uses_max;
    return 0;
}

static void read_messages_tool(Reader *r, const Json *tool, Str *names)
{
    static const Str own[] = { STR("bash_"), STR("text_editor_"), STR("computer_"),
                               STR("memory_") };
    Str type = json_str(json_get(tool, "type"));
    if (member(tool, "cache_control")) r->info->cache_write = true;
    bool is_own = str_empty(type) || str_eq(type, STR("custom")), is_trained = false;
    for (size_t i = 0; i < ARRAY_N(own); i++) is_trained |= str_starts_with(type, own[i]);
    if (is_own || is_trained) {
        assert(names);
        r->info->tool_prompts += is_trained;
        names[r->info->tool_names_n++] = json_str(json_get(tool, "name"));
        return;
    }
    int64_t uses = json_i64_or(json_get(tool, "max_uses"), -1);
    add_server_tool(r->info, uses <= INT32_MAX ? uses : -1, server_tool_of(type));
}

static int read_messages_tools(Reader *r)
{
    const Json *array;
    Str *names;
    int e = tools_begin(r, "tools", &array, &names);
    if (e != 0) return e;
    for (JsonIter it = json_iter(array); json_next(&it);) read_messages_tool(r, it.value, names);
    if (json_len(json_get(r->body, "mcp_servers")) > 0) add_server_tool(r->info, -1, SERVER_OTHER);
    return 0;
}

/* --- the four APIs -------------------------------------------------------------------------- */

static int read_chat(Reader *r)
{
    static const char *const caps[] = { "max_completion_tokens", "max_tokens" };
    RequestInfo *info = r->info;
    const Json *messages = json_get(r->body, "messages");
    if (json_type(messages) != JSON_ARRAY) return refuse_type(r, "messages", "an array");
    info->messages = (int64_t)json_len(messages);
    for (JsonIter it = json_iter(messages); json_next(&it);) {
        scan_content(info, json_get(it.value, "content"), 0);
        if (member(it.value, "audio")) info->hides_input = true; /* an earlier answer, by its id */
    }
    for (JsonIter it = json_iter(json_get(r->body, "modalities")); json_next(&it);)
        if (!str_eq(json_str(it.value), STR("text"))) note_media(info);

    const Json *options = member(r->body, "stream_options");
    if (options && json_type(options) != JSON_OBJECT)
        return refuse_type(r, "stream_options", "an object");
    info->include_usage = json_bool(json_get(options, "include_usage"), false);
    info->prediction = member(r->body, "prediction") != NULL;
    info->cache_write = true;
    int e = read_count(r, "n", REQUEST_N_MAX, &info->n);
    int64_t best_of = info->n;
    if (e == 0) e = read_count(r, "best_of", REQUEST_N_MAX, &best_of);
    if (e == 0 && best_of > info->n)
        return refuse(r, "best_of", "`best_of` is not served: what is thrown away is billed, too");
    if (e == 0) e = read_out_cap(r, caps, ARRAY_N(caps));
    if (e == 0) e = read_str(r, "service_tier", &info->service_tier);
    if (e == 0) e = read_str(r, "user", &info->user);
    return e == 0 ? read_chat_tools(r) : e;
}

static int read_responses_input(Reader *r)
{
    RequestInfo *info = r->info;
    const Json *input = member(r->body, "input");
    info->messages = member(r->body, "instructions") ? 1 : 0;
    if (json_type(input) == JSON_ARRAY) {
        info->messages += (int64_t)json_len(input);
        for (JsonIter it = json_iter(input); json_next(&it);) scan_item(info, it.value);
        return 0;
    }
    if (input && json_type(input) != JSON_STRING)
        return refuse_type(r, "input", "a string or an array");
    if (!input && !info->hides_input) return refuse_type(r, "input", "a string or an array");
    info->messages += input != NULL;
    return 0;
}

static int read_responses(Reader *r)
{
    static const char *const caps[] = { "max_output_tokens" };
    static const char *const hiding[] = { "previous_response_id", "conversation", "prompt" };
    RequestInfo *info = r->info;
    for (size_t i = 0; i < ARRAY_N(hiding); i++)
        if (member(r->body, hiding[i])) info->hides_input = true;
    int e = read_responses_input(r);
    if (e != 0) return e;
    bool background = false;
    e = read_bool(r, "background", &background);
    if (e == 0 && background)
        return refuse(r, "background",
                      "`background` is not served: what is answered later could neither be "
                      "fetched, nor be ended, nor be billed to its task; ask for a stream");
    info->cache_write = true;
    if (e == 0) e = read_out_cap(r, caps, ARRAY_N(caps));
    if (e == 0) e = read_str(r, "service_tier", &info->service_tier);
    if (e == 0) e = read_str(r, "user", &info->user);
    return e == 0 ? read_responses_tools(r) : e;
}

static int read_messages(Reader *r)
{
    static const char *const caps[] = { "max_tokens" };
    RequestInfo *info = r->info;
    const Json *messages = json_get(r->body, "messages");
    if (json_type(messages) != JSON_ARRAY) return refuse_type(r, "messages", "an array");
    info->messages = (int64_t)json_len(messages) + (member(r->body, "system") ? 1 : 0);
    info->cache_write = member(r->body, "cache_control") != NULL;
    scan_content(info, json_get(r->body, "system"), 0);
    for (JsonIter it = json_iter(messages); json_next(&it);)
        scan_content(info, json_get(it.value, "content"), 0);
    if (member(r->body, "container")) info->hides_input = true;
    info->user = json_str(json_get(json_get(r->body, "metadata"), "user_id"));
    int64_t thinking = json_i64_or(json_get(json_get(r->body, "thinking"), "budget_tokens"), 0);
    if (thinking > 0 && thinking < REQUEST_OUT_CAP_MAX) info->out_min = thinking + 1;
    info->no_output = json_i64_or(json_get(r->body, "max_tokens"), -1) == 0;
    int e = info->no_output ? 0 : read_out_cap(r, caps, ARRAY_N(caps));
    if (e == 0 && info->out_cap == 0 && !info->no_output)
        e = refuse_type(r, "max_tokens", "a whole number");
    Str speed = STR_NULL, geo = STR_NULL;
    if (e == 0) e = read_str(r, "service_tier", &info->service_tier);
    if (e == 0) e = read_str(r, "speed", &speed);
    if (e == 0) e = read_str(r, "inference_geo", &geo);
    if (!str_empty(speed) && !str_eq(speed, STR("standard"))) info->service_tier = speed;
    info->region = region_of(geo);
    return e == 0 ? read_messages_tools(r) : e;
}

/* One text, several, the tokens of one, or the tokens of several. */
static int read_embeddings(Reader *r)
{
    const Json *input = json_get(r->body, "input");
    JsonType type = json_type(input);
    if (type != JSON_STRING && type != JSON_ARRAY)
        return refuse_type(r, "input", "a string or an array");
    JsonIter it = json_iter(input);
    bool one = type == JSON_STRING || (json_next(&it) && json_type(it.value) == JSON_INT);
    r->info->messages = one ? 1 : (int64_t)json_len(input);
    return read_str(r, "user", &r->info->user);
}

int request_info_read(Arena *arena, Api api, const Json *body, RequestInfo *ret,
                      RequestFault *ret_fault)
{
    assert(api < API_N_);
    RequestInfo info = { .api = api, .n = 1 };
    Reader r = { .arena = arena, .body = body, .info = &info, .fault = ret_fault };
    if (json_type(body) != JSON_OBJECT)
        return refuse(&r, NULL, "the body must be a JSON object, found %s",
                      json_type_name(json_type(body)));
    int e = read_model(&r);
    if (e == 0 && api != API_EMBEDDINGS) e = read_bool(&r, "stream", &info.stream);
    if (e != 0) return e;
    switch (api) {
    case API_CHAT: e = read_chat(&r); break;
    case API_RESPONSES: e = read_responses(&r); break;
    case API_MESSAGES: e = read_messages(&r); break;
    case API_EMBEDDINGS: e = read_embeddings(&r); break;
    case API_N_: assert(false);
    }
    if (e != 0) return e;
    info.service = service_of(info.service_tier);
    assert(info.n >= 1 && info.n <= REQUEST_N_MAX && info.messages >= 0);
    assert(info.out_cap >= 0 && (info.out_cap > 0) == (info.out_cap_member != NULL));
    assert(info.tool_names_n <= REQUEST_TOOLS_MAX && info.server_uses_max >= -1);
    *ret = info;
    return 0;
}
