/* OpenAI chat completions to and from a Talk. */
#include "logic/translate_private.h"

#define CHAT_NAME_BYTES_MAX 64
#define CHAT_CALL_ID_BYTES_MAX 40
#define CHAT_STOPS_MAX 4

/* --- reading a request ---------------------------------------------------------------------- */

static int read_file(TalkReader *r, Parts *parts, const Json *file)
{
    Str data = json_str(json_get(file, "file_data"));
    if (str_empty(data))
        return talk_cannot(r, "messages", "a file is given by the id it has at its provider");
    Part *part;
    int e = talk_add_url(r, parts, PART_FILE, data, &part);
    if (e == 0) part->name = json_str(json_get(file, "filename"));
    return e;
}

static int read_image(TalkReader *r, Parts *parts, const Json *image)
{
    Part *part;
    int e = talk_add_url(r, parts, PART_IMAGE, json_str(json_get(image, "url")), &part);
    if (e == 0) part->detail = json_str(json_get(image, "detail"));
    return e;
}

static int read_part(TalkReader *r, Parts *parts, const Json *part)
{
    Str type = json_str(json_get(part, "type"));
    if (str_eq(type, STR("text"))) return talk_add_text(r, parts, json_str(json_get(part, "text")));
    if (str_eq(type, STR("refusal")))
        return talk_add_refusal(r, parts, json_str(json_get(part, "refusal")));
    if (str_eq(type, STR("image_url"))) return read_image(r, parts, json_get(part, "image_url"));
    if (str_eq(type, STR("file"))) return read_file(r, parts, json_get(part, "file"));
    return talk_cannot(r, "messages", "content of the kind \"%.*s\" has no counterpart",
                       STR_ARG(str_sub(type, 0, 40)));
}

static int read_content(TalkReader *r, Parts *parts, const Json *content)
{
    JsonType type = json_type(content);
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    if (type == JSON_STRING) return talk_add_text(r, parts, json_str(content));
    if (type != JSON_ARRAY) return talk_cannot(r, "messages", "a message's content is no text");
    for (JsonIter it = json_iter(content); json_next(&it);) {
        int e = read_part(r, parts, it.value);
        if (e != 0) return e;
    }
    return 0;
}

static int read_calls(TalkReader *r, Parts *parts, const Json *calls)
{
    for (JsonIter it = json_iter(calls); json_next(&it);) {
        const Json *function = talk_member(it.value, "function");
        if (!function) return talk_cannot(r, "messages", "a tool call is not one of a function");
        int e = talk_add_call(r, parts, json_str(json_get(it.value, "id")),
                              json_str(json_get(function, "name")),
                              json_str(json_get(function, "arguments")));
        if (e != 0) return e;
    }
    return 0;
}

/* Of a request or an answer. */
static int read_assistant(TalkReader *r, const Json *message)
{
    static const char *const lost[] = { "function_call", "audio" };
    int e = talk_refuse_members(r, message, lost, ARRAY_N(lost));
    if (e != 0) return e;
    Turn *turn = talk_turn(r, ROLE_ASSISTANT);
    if (!turn) return -ENOMEM;
    e = read_content(r, &turn->parts, json_get(message, "content"));
    if (e == 0) e = talk_add_refusal(r, &turn->parts, json_str(json_get(message, "refusal")));
    return e == 0 ? read_calls(r, &turn->parts, json_get(message, "tool_calls")) : e;
}

static int read_result(TalkReader *r, const Json *message)
{
    Turn *turn = talk_turn(r, ROLE_USER);
    Part *part = turn ? talk_part(r, &turn->parts, PART_RESULT) : NULL;
    if (!part) return -ENOMEM;
    part->id = json_str(json_get(message, "tool_call_id"));
    return read_content(r, &part->content, json_get(message, "content"));
}

static int read_message(TalkReader *r, const Json *message)
{
    Str role = json_str(json_get(message, "role"));
    if (str_eq(role, STR("assistant"))) return read_assistant(r, message);
    if (str_eq(role, STR("tool"))) return read_result(r, message);
    bool system = str_eq(role, STR("system")) || str_eq(role, STR("developer"));
    if (!system && !str_eq(role, STR("user")))
        return talk_cannot(r, "messages", "there is no role \"%.*s\" in the other API",
                           STR_ARG(str_sub(role, 0, 40)));
    Turn *turn = talk_turn(r, system ? ROLE_SYSTEM : ROLE_USER);
    return turn ? read_content(r, &turn->parts, json_get(message, "content")) : -ENOMEM;
}

static int read_tools(TalkReader *r, const Json *body)
{
    for (JsonIter it = json_iter(json_get(body, "tools")); json_next(&it);) {
        const Json *function = talk_member(it.value, "function");
        if (!function) return talk_cannot(r, "tools", "a tool is not a function");
        TalkTool tool = { .name = json_str(json_get(function, "name")),
                          .description = json_str(json_get(function, "description")),
                          .schema = talk_member(function, "parameters"),
                          .strict = json_bool(json_get(function, "strict"), false) };
        int e = talk_add_tool(r, &tool);
        if (e != 0) return e;
    }
    return 0;
}

static int read_choice(TalkReader *r, const Json *choice)
{
    Talk *talk = r->talk;
    Str word = json_str(choice);
    if (!choice) talk->choice = CHOICE_UNSAID;
    else if (str_eq(word, STR("auto"))) talk->choice = CHOICE_AUTO;
    else if (str_eq(word, STR("none"))) talk->choice = CHOICE_NONE;
    else if (str_eq(word, STR("required"))) talk->choice = CHOICE_ANY;
    else {
        talk->choice = CHOICE_TOOL;
        talk->choice_tool = json_str(json_get(json_get(choice, "function"), "name"));
        if (str_empty(talk->choice_tool))
            return talk_cannot(r, "tool_choice", "this `tool_choice` has no counterpart");
    }
    return 0;
}

static int read_format(TalkReader *r, const Json *format)
{
    Talk *talk = r->talk;
    Str type = json_str(json_get(format, "type"));
    if (!format || str_eq(type, STR("text"))) return 0;
    if (str_eq(type, STR("json_object"))) {
        talk->format = FORMAT_JSON;
        return 0;
    }
    const Json *schema = json_get(format, "json_schema");
    talk->format = FORMAT_SCHEMA;
    talk->format_name = json_str(json_get(schema, "name"));
    talk->format_schema = talk_member(schema, "schema");
    talk->format_strict = json_bool(json_get(schema, "strict"), false);
    if (!str_eq(type, STR("json_schema")) || json_type(talk->format_schema) != JSON_OBJECT)
        return talk_cannot(r, "response_format", "this `response_format` has no counterpart");
    return 0;
}

static int read_stops(TalkReader *r, const Json *stop)
{
    if (json_type(stop) != JSON_ARRAY) return talk_add_stop(r, json_str(stop));
    for (JsonIter it = json_iter(stop); json_next(&it);) {
        int e = talk_add_stop(r, json_str(it.value));
        if (e != 0) return e;
    }
    return 0;
}

/* What the answer would lack, or hold and not be able to say. */
static int check_members(TalkReader *r, const Json *body)
{
    static const char *const lost[] = { "functions",          "function_call", "audio",
                                        "web_search_options", "prediction",    "top_logprobs" };
    if (json_i64_or(talk_member(body, "n"), 1) > 1)
        return talk_cannot(r, "n", "the other API gives one choice");
    if (json_bool(json_get(body, "logprobs"), false))
        return talk_cannot(r, "logprobs", "the other API gives no log probabilities");
    for (JsonIter it = json_iter(json_get(body, "modalities")); json_next(&it);)
        if (!str_eq(json_str(it.value), STR("text")))
            return talk_cannot(r, "modalities", "the other API gives text only");
    return talk_refuse_members(r, body, lost, ARRAY_N(lost));
}

static int64_t read_cap(const Json *body)
{
    int64_t cap = json_i64_or(talk_member(body, "max_completion_tokens"), 0);
    return cap > 0 ? cap : MAX(json_i64_or(talk_member(body, "max_tokens"), 0), 0);
}

static void read_words(Talk *talk, const Json *body)
{
    Str tier = json_str(json_get(body, "service_tier"));
    talk->user = json_str(json_get(body, "safety_identifier"));
    if (str_empty(talk->user)) talk->user = json_str(json_get(body, "user"));
    talk->effort = json_str(json_get(body, "reasoning_effort"));
    talk->verbosity = json_str(json_get(body, "verbosity"));
    talk->cache_key = json_str(json_get(body, "prompt_cache_key"));
    talk->standard_tier = str_eq(tier, STR("default"));
}

static int read_request(TalkReader *r, const Json *body)
{
    Talk *talk = r->talk;
    int e = check_members(r, body);
    for (JsonIter it = json_iter(json_get(body, "messages")); e == 0 && json_next(&it);)
        e = read_message(r, it.value);
    if (e == 0) e = read_tools(r, body);
    if (e == 0) e = read_choice(r, talk_member(body, "tool_choice"));
    if (e == 0) e = read_format(r, talk_member(body, "response_format"));
    if (e == 0) e = read_stops(r, talk_member(body, "stop"));
    talk->stream = json_bool(json_get(body, "stream"), false);
    talk->include_usage = json_bool(json_get(json_get(body, "stream_options"), "include_usage"),
                                    false);
    talk->one_call = !json_bool(json_get(body, "parallel_tool_calls"), true);
    talk->temperature = talk_member(body, "temperature");
    talk->top_p = talk_member(body, "top_p");
    talk->out_cap = read_cap(body);
    read_words(talk, body);
    return e;
}

/* --- writing a request ---------------------------------------------------------------------- */

static void out_text_part(JsonOut *out, Str text)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "text");
    json_out_kstr(out, "text", text);
    json_out_object_end(out);
}

static int out_image(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    Str url = talk_url(w->arena, part);
    if (!url.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", "image_url");
    json_out_key(out, "image_url");
    json_out_object(out);
    json_out_kstr(out, "url", url);
    if (!str_empty(part->detail)) json_out_kstr(out, "detail", part->detail);
    json_out_object_end(out);
    json_out_object_end(out);
    return 0;
}

static int out_file(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    if (str_empty(part->media_type))
        return talk_write_cannot(w, "messages", "a document by URL has no counterpart");
    Str url = talk_url(w->arena, part);
    if (!url.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", "file");
    json_out_key(out, "file");
    json_out_object(out);
    json_out_kstr(out, "filename", str_empty(part->name) ? STR("document") : part->name);
    json_out_kstr(out, "file_data", url);
    json_out_object_end(out);
    json_out_object_end(out);
    return 0;
}

/* Calls and results stand elsewhere in a message. */
static int out_part(TalkWriter *w, const Part *part)
{
    switch (part->kind) {
    case PART_TEXT: out_text_part(&w->out, part->text); return 0;
    case PART_IMAGE: return out_image(w, part);
    case PART_FILE: return out_file(w, part);
    case PART_REFUSAL:
    case PART_CALL:
    case PART_RESULT: return 0;
    }
    return 0;
}

static bool is_content(const Part *part)
{
    return part->kind == PART_TEXT || part->kind == PART_IMAGE || part->kind == PART_FILE;
}

static size_t content_n(const Parts *parts, const Part **ret_last)
{
    size_t n = 0;
    for (const Part *part = parts->first; part; part = part->next) {
        if (!is_content(part)) continue;
        *ret_last = part;
        n++;
    }
    return n;
}

/* A lone text is a string; nothing is null. */
static int out_content(TalkWriter *w, const Parts *parts)
{
    JsonOut *out = &w->out;
    const Part *last = NULL;
    size_t n = content_n(parts, &last);
    json_out_key(out, "content");
    if (n == 0) json_out_null(out);
    if (n == 1 && last->kind == PART_TEXT) json_out_str(out, last->text);
    if (n == 0 || (n == 1 && last->kind == PART_TEXT)) return 0;
    json_out_array(out);
    for (const Part *part = parts->first; part; part = part->next) {
        int e = out_part(w, part);
        if (e != 0) return e;
    }
    json_out_array_end(out);
    return 0;
}

static void message_begin(JsonOut *out, const char *role)
{
    json_out_object(out);
    json_out_kcstr(out, "role", role);
}

static int out_calls(TalkWriter *w, const Parts *parts)
{
    JsonOut *out = &w->out;
    if (!talk_has(parts, PART_CALL)) return 0;
    json_out_key(out, "tool_calls");
    json_out_array(out);
    for (const Part *part = parts->first; part; part = part->next) {
        if (part->kind != PART_CALL) continue;
        Str id = talk_call_id(w->arena, part->id, CHAT_CALL_ID_BYTES_MAX);
        if (!id.ptr) return -ENOMEM;
        json_out_object(out);
        json_out_kstr(out, "id", id);
        json_out_kcstr(out, "type", "function");
        json_out_key(out, "function");
        json_out_object(out);
        json_out_kstr(out, "name", part->name);
        json_out_kstr(out, "arguments", talk_is_blank(part->text) ? STR("{}") : part->text);
        json_out_object_end(out);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    return 0;
}

static Str refusal_of(const Parts *parts)
{
    for (const Part *part = parts->first; part; part = part->next)
        if (part->kind == PART_REFUSAL) return part->text;
    return STR_NULL;
}

static int out_assistant(TalkWriter *w, const Parts *parts, bool answer)
{
    JsonOut *out = &w->out;
    Str refusal = refusal_of(parts), text;
    int e = talk_joined_text(w->arena, parts, &text);
    if (e != 0) return e;
    message_begin(out, "assistant");
    json_out_key(out, "content");
    if (text.ptr) json_out_str(out, text);
    else json_out_null(out);
    if (!str_empty(refusal)) {
        json_out_kstr(out, "refusal", refusal);
    } else if (answer) {
        json_out_key(out, "refusal");
        json_out_null(out);
    }
    e = out_calls(w, parts);
    if (e != 0) return e;
    json_out_object_end(out);
    return 0;
}

/* Only texts fit in a tool's message: that it is an error stands in front of them. */
static int out_result(TalkWriter *w, const Part *result)
{
    JsonOut *out = &w->out;
    Str id = talk_call_id(w->arena, result->id, CHAT_CALL_ID_BYTES_MAX);
    if (!id.ptr) return -ENOMEM;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, w->arena->max);
    if (result->is_error) (void)buf_add(&text, STR("Error: "));
    for (const Part *part = result->content.first; part; part = part->next) {
        if (part != result->content.first) (void)buf_add_char(&text, '\n');
        (void)buf_add(&text,
                      part->kind == PART_TEXT ? part->text : STR("(given in the next message)"));
    }
    if (text.failed) return -ENOMEM;
    message_begin(out, "tool");
    json_out_kstr(out, "tool_call_id", id);
    json_out_kstr(out, "content", buf_str(&text));
    json_out_object_end(out);
    return 0;
}

/* What of results does not fit in a tool's message follows in the user's. */
static int out_user_rest(TalkWriter *w, const Parts *parts)
{
    JsonOut *out = &w->out;
    const Part *last = NULL;
    bool media = false;
    for (const Part *part = parts->first; part; part = part->next)
        media |= talk_has(&part->content, PART_IMAGE) || talk_has(&part->content, PART_FILE);
    if (content_n(parts, &last) == 0 && !media) return 0;
    message_begin(out, "user");
    int e = 0;
    if (!media) {
        e = out_content(w, parts);
        if (e != 0) return e;
        json_out_object_end(out);
        return 0;
    }
    json_out_key(out, "content");
    json_out_array(out);
    for (const Part *part = parts->first; e == 0 && part; part = part->next)
        for (const Part *in = part->content.first; e == 0 && in; in = in->next)
            if (in->kind != PART_TEXT) e = out_part(w, in);
    for (const Part *part = parts->first; e == 0 && part; part = part->next) e = out_part(w, part);
    if (e != 0) return e;
    json_out_array_end(out);
    json_out_object_end(out);
    return 0;
}

static int out_user(TalkWriter *w, const Parts *parts)
{
    int e = 0;
    for (const Part *part = parts->first; e == 0 && part; part = part->next)
        if (part->kind == PART_RESULT) e = out_result(w, part);
    return e == 0 ? out_user_rest(w, parts) : e;
}

static int out_turn(TalkWriter *w, const Turn *turn)
{
    if (turn->parts.n == 0) return 0;
    if (turn->role == ROLE_ASSISTANT) return out_assistant(w, &turn->parts, false);
    if (turn->role == ROLE_USER) return out_user(w, &turn->parts);
    message_begin(&w->out, "system");
    int e = out_content(w, &turn->parts);
    if (e != 0) return e;
    json_out_object_end(&w->out);
    return 0;
}

static void out_tools(TalkWriter *w)
{
    JsonOut *out = &w->out;
    json_out_key(out, "tools");
    json_out_array(out);
    for (const TalkTool *tool = w->talk->tools; tool; tool = tool->next) {
        json_out_object(out);
        json_out_kcstr(out, "type", "function");
        json_out_key(out, "function");
        json_out_object(out);
        json_out_kstr(out, "name", tool->name);
        if (!str_empty(tool->description)) json_out_kstr(out, "description", tool->description);
        if (tool->schema) json_out_kval(out, "parameters", tool->schema);
        if (tool->strict) json_out_kbool(out, "strict", true);
        json_out_object_end(out);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

static void out_choice(TalkWriter *w)
{
    static const char *const words[] = {
        [CHOICE_AUTO] = "auto", [CHOICE_NONE] = "none", [CHOICE_ANY] = "required"
    };
    JsonOut *out = &w->out;
    TalkChoice choice = w->talk->choice;
    if (choice == CHOICE_UNSAID) return;
    if (choice != CHOICE_TOOL) {
        json_out_kcstr(out, "tool_choice", words[choice]);
        return;
    }
    json_out_key(out, "tool_choice");
    json_out_object(out);
    json_out_kcstr(out, "type", "function");
    json_out_key(out, "function");
    json_out_object(out);
    json_out_kstr(out, "name", w->talk->choice_tool);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void out_format(TalkWriter *w)
{
    JsonOut *out = &w->out;
    const Talk *talk = w->talk;
    if (talk->format == FORMAT_TEXT) return;
    json_out_key(out, "response_format");
    json_out_object(out);
    json_out_kcstr(out, "type", talk->format == FORMAT_JSON ? "json_object" : "json_schema");
    if (talk->format == FORMAT_SCHEMA) {
        json_out_key(out, "json_schema");
        json_out_object(out);
        json_out_kstr(out, "name",
                      str_empty(talk->format_name) ? STR("answer") : talk->format_name);
        json_out_kval(out, "schema", talk->format_schema);
        json_out_kbool(out, "strict", talk->format_strict);
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static void out_words(TalkWriter *w)
{
    JsonOut *out = &w->out;
    const Talk *talk = w->talk;
    if (!str_empty(talk->user)) json_out_kstr(out, "user", talk->user);
    if (!str_empty(talk->effort)) json_out_kstr(out, "reasoning_effort", talk->effort);
    if (!str_empty(talk->verbosity)) json_out_kstr(out, "verbosity", talk->verbosity);
    if (!str_empty(talk->cache_key)) json_out_kstr(out, "prompt_cache_key", talk->cache_key);
    if (talk->standard_tier) json_out_kcstr(out, "service_tier", "default");
}

static void out_settings(TalkWriter *w)
{
    JsonOut *out = &w->out;
    const Talk *talk = w->talk;
    const char *cap = w->target->cap_member ? w->target->cap_member : "max_completion_tokens";
    if (talk->out_cap > 0) json_out_ki64(out, cap, talk->out_cap);
    if (talk->temperature) json_out_kval(out, "temperature", talk->temperature);
    if (talk->top_p) json_out_kval(out, "top_p", talk->top_p);
    if (talk->stops_n > 0) {
        json_out_key(out, "stop");
        json_out_array(out);
        for (size_t i = 0; i < talk->stops_n; i++) json_out_str(out, talk->stops[i]);
        json_out_array_end(out);
    }
    out_words(w);
    if (!talk->stream) return;
    json_out_kbool(out, "stream", true);
    json_out_key(out, "stream_options");
    json_out_object(out);
    json_out_kbool(out, "include_usage", true);
    json_out_object_end(out);
}

static int write_request(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    int e = talk_check_names(w, CHAT_NAME_BYTES_MAX);
    if (e != 0) return e;
    if (talk->stops_n > CHAT_STOPS_MAX)
        return talk_write_cannot(w, "stop_sequences", "the other API takes %d stop sequences",
                                 CHAT_STOPS_MAX);
    json_out_object(out);
    json_out_kstr(out, "model", w->target->model);
    json_out_key(out, "messages");
    json_out_array(out);
    for (const Turn *turn = talk->first; turn; turn = turn->next) {
        e = out_turn(w, turn);
        if (e != 0) return e;
    }
    json_out_array_end(out);
    if (talk->tools) {
        out_tools(w);
        out_choice(w);
        if (talk->one_call) json_out_kbool(out, "parallel_tool_calls", false);
    }
    out_format(w);
    out_settings(w);
    json_out_object_end(out);
    return 0;
}

/* --- answers -------------------------------------------------------------------------------- */

/* Some servers give calls no ids, but clients answer by them. */
static int name_calls(TalkReader *r)
{
    size_t n = 0;
    for (Part *part = r->talk->last->parts.first; part; part = part->next, n++) {
        if (part->kind != PART_CALL || !str_empty(part->id)) continue;
        part->id = arena_printf(r->arena, "call_%zu_%.*s", n, STR_ARG(r->talk->id));
        if (!part->id.ptr) return -ENOMEM;
    }
    return 0;
}

static int read_answer(TalkReader *r, const Json *body)
{
    Talk *talk = r->talk;
    JsonIter it = json_iter(json_get(body, "choices"));
    if (!json_next(&it)) return TRANSLATE_E_CANNOT;
    const Json *message = json_get(it.value, "message");
    if (json_type(message) != JSON_OBJECT) return TRANSLATE_E_CANNOT;
    talk->id = json_str(json_get(body, "id"));
    talk->model = json_str(json_get(body, "model"));
    int e = read_assistant(r, message);
    if (e == 0) e = name_calls(r);
    if (e != 0) return e;
    talk->stop = talk_stop_of(API_CHAT, json_str(json_get(it.value, "finish_reason")));
    bool refused = talk->last && talk_has(&talk->last->parts, PART_REFUSAL);
    if (refused && talk->stop == STOP_END) talk->stop = STOP_REFUSED;
    return 0;
}

void chat_out_usage(JsonOut *out, const Usage *usage)
{
    json_out_object(out);
    json_out_ki64(out, "prompt_tokens", usage->input_tokens);
    json_out_ki64(out, "completion_tokens", usage->output_tokens);
    json_out_ki64(out, "total_tokens", usage->input_tokens + usage->output_tokens);
    json_out_key(out, "prompt_tokens_details");
    json_out_object(out);
    json_out_ki64(out, "cached_tokens", usage->cached_tokens);
    json_out_ki64(out, "cache_write_tokens",
                  usage->cache_write_5m_tokens + usage->cache_write_1h_tokens);
    json_out_object_end(out);
    json_out_key(out, "completion_tokens_details");
    json_out_object(out);
    json_out_ki64(out, "reasoning_tokens", usage->reasoning_tokens);
    json_out_object_end(out);
    json_out_object_end(out);
}

static int write_answer(TalkWriter *w, const TranslateAbout *about)
{
    static const Parts nothing;
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    Str id = talk_answer_id(w->arena, "chatcmpl-", talk->id);
    if (!id.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kstr(out, "id", id);
    json_out_kcstr(out, "object", "chat.completion");
    json_out_ki64(out, "created", about->created_s);
    json_out_kstr(out, "model", talk->model);
    json_out_key(out, "choices");
    json_out_array(out);
    json_out_object(out);
    json_out_ki64(out, "index", 0);
    json_out_key(out, "message");
    int e = out_assistant(w, talk->first ? &talk->first->parts : &nothing, true);
    if (e != 0) return e;
    json_out_key(out, "logprobs");
    json_out_null(out);
    json_out_kcstr(out, "finish_reason", talk_stop_word(API_CHAT, talk_stop(talk)));
    json_out_object_end(out);
    json_out_array_end(out);
    if (about->usage->valid) {
        json_out_key(out, "usage");
        chat_out_usage(out, about->usage);
    }
    json_out_object_end(out);
    return 0;
}

const TalkApi talk_chat = { read_request, write_request, read_answer, write_answer };
