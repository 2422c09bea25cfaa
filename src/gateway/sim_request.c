#include "gateway/sim_request.h"

#include "base/diag.h"

#define DIRECTIVE_OPEN STR("[[sim ")
#define DIRECTIVE_CLOSE STR("]]")
#define TOKENS_A_MESSAGE 4

typedef struct {
    Arena *arena;
    SimRequest *to;
    SimItem *items;
    size_t cap;
    size_t bytes; /* that count as input */
    bool full;
} Reader;

int64_t sim_tokens(size_t bytes)
{
    return (int64_t)((bytes + 3) / 4);
}

/* FNV-1a, 64 bits: the answers are to be the same everywhere and for ever. */
uint64_t sim_hash(Str bytes)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < bytes.len; i++) {
        h ^= (unsigned char)bytes.ptr[i];
        h *= UINT64_C(1099511628211);
    }
    return h;
}

static void push(Reader *r, SimItemKind kind, Str text)
{
    if (r->to->items_n == r->cap) {
        size_t cap = MAX(64, r->cap * 2);
        SimItem *grown = cap > SIM_ITEMS_MAX * 2
                             ? NULL
                             : arena_realloc(r->arena, r->items, r->cap * sizeof *grown,
                                             cap * sizeof *grown);
        if (!grown) {
            r->full = true;
            return;
        }
        r->items = grown;
        r->cap = cap;
    }
    r->items[r->to->items_n++] = (SimItem){ kind, text };
    r->bytes += text.len;
}

static Str join(Reader *r, Str a, Str b)
{
    if (str_empty(a)) return b;
    if (str_empty(b)) return a;
    Str joined = arena_printf(r->arena, "%.*s\n%.*s", STR_ARG(a), STR_ARG(b));
    if (!joined.ptr) r->full = true;
    return joined;
}

/* Text of a content that is a string, or an array of parts. */
static Str content_text(Reader *r, const Json *content)
{
    if (json_type(content) == JSON_STRING) return json_str(content);
    Str text = STR_NULL;
    for (JsonIter it = json_iter(content); json_next(&it);) {
        if (json_type(content) != JSON_ARRAY) break;
        text = join(r, text, json_str(json_get(it.value, "text")));
    }
    return text;
}

static void read_calls(Reader *r, const Json *calls)
{
    for (JsonIter it = json_iter(calls); json_next(&it);) {
        const Json *function = json_get(it.value, "function");
        push(r, SIM_CALL, json_str(json_get(function, "name")));
        r->bytes += json_str(json_get(function, "arguments")).len;
    }
}

static void read_openai_message(Reader *r, const Json *message)
{
    Str role = json_str(json_get(message, "role"));
    Str text = content_text(r, json_get(message, "content"));
    if (str_eq(role, STR("system")) || str_eq(role, STR("developer"))) {
        push(r, SIM_SYSTEM, text);
        r->to->system = join(r, r->to->system, text);
    } else if (str_eq(role, STR("tool")) || str_eq(role, STR("function"))) {
        push(r, SIM_RESULT, text);
    } else if (str_eq(role, STR("assistant"))) {
        if (!str_empty(text)) push(r, SIM_ASSISTANT, text);
        read_calls(r, json_get(message, "tool_calls"));
    } else {
        push(r, SIM_USER, text);
    }
}

static void read_anthropic_part(Reader *r, bool assistant, const Json *part)
{
    Str type = json_str(json_get(part, "type"));
    if (str_eq(type, STR("tool_use"))) push(r, SIM_CALL, json_str(json_get(part, "name")));
    else if (str_eq(type, STR("tool_result")))
        push(r, SIM_RESULT, content_text(r, json_get(part, "content")));
    else if (str_eq(type, STR("text")))
        push(r, assistant ? SIM_ASSISTANT : SIM_USER, json_str(json_get(part, "text")));
}

static void read_anthropic_message(Reader *r, const Json *message)
{
    bool assistant = str_eq(json_str(json_get(message, "role")), STR("assistant"));
    const Json *content = json_get(message, "content");
    if (json_type(content) == JSON_STRING) {
        push(r, assistant ? SIM_ASSISTANT : SIM_USER, json_str(content));
        return;
    }
    for (JsonIter it = json_iter(content); json_next(&it);)
        read_anthropic_part(r, assistant, it.value);
}

static int read_messages(Reader *r, const Json *body)
{
    const Json *messages = json_get(body, "messages");
    if (json_type(messages) != JSON_ARRAY || json_len(messages) == 0)
        return diag_set(-EINVAL, "messages: at least one is needed");
    for (JsonIter it = json_iter(messages); json_next(&it);) {
        if (json_type(it.value) != JSON_OBJECT)
            return diag_set(-EINVAL, "messages: must be objects");
        if (r->to->api == API_MESSAGES) read_anthropic_message(r, it.value);
        else read_openai_message(r, it.value);
        r->bytes += 4 * TOKENS_A_MESSAGE;
    }
    return 0;
}

static void read_tools(Reader *r, const Json *body)
{
    const Json *tools = json_get(body, "tools");
    SimTool *list = ARENA_ARRAY(r->arena, SimTool, MIN(json_len(tools), SIM_TOOLS_MAX) + 1);
    if (!list) {
        r->full = true;
        return;
    }
    r->to->tools = list;
    for (JsonIter it = json_iter(tools); json_next(&it) && r->to->tools_n < SIM_TOOLS_MAX;) {
        const Json *function = json_get(it.value, "function");
        const Json *tool = function ? function : it.value;
        const Json *schema = json_get(tool, function ? "parameters" : "input_schema");
        Str name = json_str(json_get(tool, "name"));
        if (str_empty(name)) continue;
        list[r->to->tools_n++] = (SimTool){ name, json_str(json_get(tool, "description")), schema };
    }
}

/* "auto", "none", "required", {"type":"function","function":{"name"}} and Anthropic's
 * {"type":"auto"|"any"|"none"|"tool","name"}. */
static void read_tool_choice(SimRequest *to, const Json *body)
{
    const Json *choice = json_get(body, "tool_choice");
    Str word = json_type(choice) == JSON_STRING ? json_str(choice)
                                                : json_str(json_get(choice, "type"));
    const Json *function = json_get(choice, "function");
    to->tool_forced = json_str(json_get(function ? function : choice, "name"));
    to->tools_off = str_eq(word, STR("none"));
    to->tools_must = str_eq(word, STR("required")) || str_eq(word, STR("any")) ||
                     !str_empty(to->tool_forced);
}

static void read_format(SimRequest *to, const Json *body)
{
    const Json *format = json_get(body, "response_format");
    const Json *holder = json_get(format, "json_schema");
    if (to->api == API_MESSAGES)
        holder = format = json_get(json_get(body, "output_config"), "format");
    Str type = json_str(json_get(format, "type"));
    to->json_schema = json_get(holder, "schema");
    to->json = str_eq(type, STR("json_object")) || str_eq(type, STR("json_schema"));
}

static int read_numbers(SimRequest *to, const Json *body)
{
    int64_t old_cap = json_i64_or(json_get(body, "max_tokens"), 0);
    to->out_cap = json_i64_or(json_get(body, "max_completion_tokens"), old_cap);
    to->n = json_i64_or(json_get(body, "n"), 1);
    if (to->out_cap < 0 || (to->api == API_MESSAGES && to->out_cap == 0))
        return diag_set(-EINVAL, "max_tokens: a positive number is needed");
    if (to->n < 1 || to->n > SIM_CHOICES_MAX)
        return diag_set(-EINVAL, "n: must be from 1 to %d", SIM_CHOICES_MAX);
    return 0;
}

/* Takes every [[sim ...]] out of text; what stands in them is added to *directives. */
static Str take_directives(Reader *r, Str text, Str *directives)
{
    for (int i = 0; i < 16; i++) {
        ptrdiff_t open = str_find(text, DIRECTIVE_OPEN);
        if (open < 0) break;
        Str inside = str_skip(text, (size_t)open + DIRECTIVE_OPEN.len);
        ptrdiff_t close = str_find(inside, DIRECTIVE_CLOSE);
        if (close < 0) break;
        *directives = join(r, *directives, str_trim(str_sub(inside, 0, (size_t)close)));
        Str before = str_sub(text, 0, (size_t)open);
        Str after = str_skip(inside, (size_t)close + DIRECTIVE_CLOSE.len);
        text = arena_printf(r->arena, "%.*s%.*s", STR_ARG(before), STR_ARG(after));
        if (!text.ptr) r->full = true;
    }
    return str_trim(text);
}

static void find_turn(Reader *r)
{
    SimRequest *to = r->to;
    for (size_t i = to->items_n; i-- > 0;) {
        if (to->items[i].kind != SIM_USER || str_empty(to->items[i].text)) continue;
        to->turn = i + 1;
        to->user = to->items[i].text;
        break;
    }
    Str directives = STR_NULL;
    to->system = take_directives(r, to->system, &directives);
    to->user = take_directives(r, to->user, &directives);
    to->directives = directives;
}

static int read_embeddings(Reader *r, const Json *body)
{
    const Json *input = json_get(body, "input");
    if (json_type(input) == JSON_STRING) push(r, SIM_USER, json_str(input));
    else if (json_type(input) != JSON_ARRAY || json_len(input) == 0)
        return diag_set(-EINVAL, "input: a text, or several, are needed");
    for (JsonIter it = json_iter(input); json_type(input) == JSON_ARRAY && json_next(&it);)
        push(r, SIM_USER, json_str(it.value));
    return 0;
}

int sim_request_read(Arena *arena, Api api, Str text, SimRequest *ret)
{
    Reader reader = { .arena = arena, .to = ret }, *r = &reader;
    const Json *body = NULL;
    int e = json_parse(arena, text, NULL, &body, NULL);
    if (e < 0) return e;
    *ret = (SimRequest){ .api = api, .model = json_str(json_get(body, "model")) };
    if (str_empty(ret->model)) return diag_set(-EINVAL, "model: is needed");
    ret->hash = sim_hash(text);
    if (api == API_EMBEDDINGS) {
        e = read_embeddings(r, body);
    } else {
        ret->stream = json_bool(json_get(body, "stream"), false);
        ret->include_usage = json_bool(json_get(json_get(body, "stream_options"), "include_usage"),
                                       false);
        ret->system = api == API_MESSAGES ? content_text(r, json_get(body, "system")) : STR_NULL;
        r->bytes += ret->system.len;
        e = read_messages(r, body);
        if (e == 0) e = read_numbers(ret, body);
        read_tools(r, body);
        read_tool_choice(ret, body);
        read_format(ret, body);
        Str member, tools;
        if (json_member_span(text, STR("tools"), &member, &tools) == 0) r->bytes += tools.len;
    }
    if (e < 0) return e;
    ret->items = r->items;
    if (api != API_EMBEDDINGS) find_turn(r);
    ret->input_tokens = sim_tokens(r->bytes);
    return r->full ? diag_set(-ENOMEM, "the request is too large for the simulator") : 0;
}

bool sim_directive(const SimRequest *request, const char *key, Str *ret)
{
    Str rest = request->directives, word;
    bool found = false;
    while (!str_empty(rest = str_trim(rest))) {
        size_t n = 0;
        while (n < rest.len && !strchr(" \t\r\n", rest.ptr[n])) n++;
        word = str_sub(rest, 0, n);
        rest = str_skip(rest, n);
        Str name, value = str_split(word, '=', &name, NULL);
        if (!str_eq(name, str_of(key))) continue;
        *ret = value;
        found = true;
    }
    return found;
}

int64_t sim_directive_i64(const SimRequest *request, const char *key, int64_t otherwise)
{
    Str text;
    int64_t value;
    if (!sim_directive(request, key, &text) || str_to_i64(text, &value) < 0) return otherwise;
    return value;
}
