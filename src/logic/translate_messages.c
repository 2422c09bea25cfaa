/* Anthropic messages to and from a Talk. */
#include "logic/translate_private.h"

#define MESSAGES_NAME_BYTES_MAX 128
#define MESSAGES_CALL_ID_BYTES_MAX 64
#define NAMES_MAX 64
#define CONTENT_DEPTH_MAX 4

/* --- reading -------------------------------------------------------------------------------- */

static int read_content(TalkReader *r, Parts *parts, const Json *content, int depth);

static int read_source(TalkReader *r, Parts *parts, PartKind kind, const Json *block)
{
    const Json *source = json_get(block, "source");
    Str type = json_str(json_get(source, "type"));
    bool base64 = str_eq(type, STR("base64"));
    if (!base64 && !str_eq(type, STR("url")))
        return talk_cannot(r, "messages", "content is given by the id it has at its provider");
    Part *part = talk_part(r, parts, kind);
    if (!part) return -ENOMEM;
    if (base64) part->media_type = json_str(json_get(source, "media_type"));
    part->data = json_str(json_get(source, base64 ? "data" : "url"));
    part->name = json_str(json_get(block, "title"));
    if (str_empty(part->data) || (base64 && str_empty(part->media_type)))
        return talk_cannot(r, "messages", "content has a source without data");
    return 0;
}

static int read_document(TalkReader *r, Parts *parts, const Json *block, int depth)
{
    const Json *source = json_get(block, "source");
    Str type = json_str(json_get(source, "type"));
    if (str_eq(type, STR("text")))
        return talk_add_text(r, parts, json_str(json_get(source, "data")));
    if (str_eq(type, STR("content")))
        return read_content(r, parts, json_get(source, "content"), depth + 1);
    return read_source(r, parts, PART_FILE, block);
}

static int read_result(TalkReader *r, Parts *parts, const Json *block, int depth)
{
    Part *part = talk_part(r, parts, PART_RESULT);
    if (!part) return -ENOMEM;
    part->id = json_str(json_get(block, "tool_use_id"));
    part->is_error = json_bool(json_get(block, "is_error"), false);
    return read_content(r, &part->content, json_get(block, "content"), depth + 1);
}

static int read_call(TalkReader *r, Parts *parts, const Json *block)
{
    Str arguments = talk_json_text(r->arena, json_get(block, "input"));
    if (!arguments.ptr) return -ENOMEM;
    return talk_add_call(r, parts, json_str(json_get(block, "id")),
                         json_str(json_get(block, "name")), arguments);
}

static int read_block(TalkReader *r, Parts *parts, const Json *block, int depth)
{
    Str type = json_str(json_get(block, "type"));
    if (str_eq(type, STR("text")))
        return talk_add_text(r, parts, json_str(json_get(block, "text")));
    if (str_eq(type, STR("image"))) return read_source(r, parts, PART_IMAGE, block);
    if (str_eq(type, STR("document"))) return read_document(r, parts, block, depth);
    /* Other models have no use for a model's thoughts. */
    if (str_eq(type, STR("thinking")) || str_eq(type, STR("redacted_thinking"))) return 0;
    if (depth == 0 && str_eq(type, STR("tool_use"))) return read_call(r, parts, block);
    if (depth == 0 && str_eq(type, STR("tool_result"))) return read_result(r, parts, block, depth);
    return talk_cannot(r, "messages", "content of the kind \"%.*s\" has no counterpart",
                       STR_ARG(str_sub(type, 0, 40)));
}

static int read_content(TalkReader *r, Parts *parts, const Json *content, int depth)
{
    JsonType type = json_type(content);
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    if (type == JSON_STRING) return talk_add_text(r, parts, json_str(content));
    if (type != JSON_ARRAY || depth > CONTENT_DEPTH_MAX)
        return talk_cannot(r, "messages", "a message's content is neither text nor blocks");
    for (JsonIter it = json_iter(content); json_next(&it);) {
        int e = read_block(r, parts, it.value, depth);
        if (e != 0) return e;
    }
    return 0;
}

static int read_message(TalkReader *r, const Json *message)
{
    static const struct {
        Str word;
        TalkRole role;
    } roles[] = { { STR("user"), ROLE_USER },
                  { STR("assistant"), ROLE_ASSISTANT },
                  { STR("system"), ROLE_SYSTEM } };
    Str word = json_str(json_get(message, "role"));
    for (size_t i = 0; i < ARRAY_N(roles); i++) {
        if (!str_eq(word, roles[i].word)) continue;
        Turn *turn = talk_turn(r, roles[i].role);
        return turn ? read_content(r, &turn->parts, json_get(message, "content"), 0) : -ENOMEM;
    }
    return talk_cannot(r, "messages", "there is no role \"%.*s\" in the other API",
                       STR_ARG(str_sub(word, 0, 40)));
}

static int read_system(TalkReader *r, const Json *system)
{
    if (!system) return 0;
    Turn *turn = talk_turn(r, ROLE_SYSTEM);
    return turn ? read_content(r, &turn->parts, system, 1) : -ENOMEM;
}

static int read_tools(TalkReader *r, const Json *body)
{
    for (JsonIter it = json_iter(json_get(body, "tools")); json_next(&it);) {
        Str type = json_str(json_get(it.value, "type"));
        TalkTool tool = { .name = json_str(json_get(it.value, "name")),
                          .description = json_str(json_get(it.value, "description")),
                          .schema = talk_member(it.value, "input_schema"),
                          .strict = json_bool(json_get(it.value, "strict"), false) };
        if (!str_empty(type) && !str_eq(type, STR("custom")))
            return talk_cannot(r, "tools", "the tool \"%.*s\" is one only its provider knows",
                               STR_ARG(str_sub(type, 0, 40)));
        int e = talk_add_tool(r, &tool);
        if (e != 0) return e;
    }
    return 0;
}

static int read_choice(TalkReader *r, const Json *choice)
{
    static const struct {
        Str word;
        TalkChoice choice;
    } choices[] = { { STR("auto"), CHOICE_AUTO },
                    { STR("none"), CHOICE_NONE },
                    { STR("any"), CHOICE_ANY },
                    { STR("tool"), CHOICE_TOOL } };
    if (!choice) return 0;
    Str word = json_str(json_get(choice, "type"));
    r->talk->one_call = json_bool(json_get(choice, "disable_parallel_tool_use"), false);
    r->talk->choice_tool = json_str(json_get(choice, "name"));
    for (size_t i = 0; i < ARRAY_N(choices); i++) {
        if (!str_eq(word, choices[i].word)) continue;
        r->talk->choice = choices[i].choice;
        return 0;
    }
    return talk_cannot(r, "tool_choice", "this `tool_choice` has no counterpart");
}

static int read_format(TalkReader *r, const Json *body)
{
    Talk *talk = r->talk;
    const Json *format = talk_member(json_get(body, "output_config"), "format");
    if (!format) format = talk_member(body, "output_format");
    if (!format) return 0;
    talk->format = FORMAT_SCHEMA;
    talk->format_strict = true;
    talk->format_schema = talk_member(format, "schema");
    if (!str_eq(json_str(json_get(format, "type")), STR("json_schema")) ||
        json_type(talk->format_schema) != JSON_OBJECT)
        return talk_cannot(r, "output_config", "this `output_config` has no counterpart");
    return 0;
}

static int read_stops(TalkReader *r, const Json *stops)
{
    for (JsonIter it = json_iter(stops); json_next(&it);) {
        int e = talk_add_stop(r, json_str(it.value));
        if (e != 0) return e;
    }
    return 0;
}

static int read_request(TalkReader *r, const Json *body)
{
    static const char *const lost[] = { "container" };
    Talk *talk = r->talk;
    int e = talk_refuse_members(r, body, lost, ARRAY_N(lost));
    if (e == 0 && json_len(json_get(body, "mcp_servers")) > 0)
        e = talk_cannot(r, "mcp_servers", "`mcp_servers` has no counterpart in the other API");
    if (e == 0) e = read_system(r, talk_member(body, "system"));
    for (JsonIter it = json_iter(json_get(body, "messages")); e == 0 && json_next(&it);)
        e = read_message(r, it.value);
    if (e == 0) e = read_tools(r, body);
    if (e == 0) e = read_choice(r, talk_member(body, "tool_choice"));
    if (e == 0) e = read_format(r, body);
    if (e == 0) e = read_stops(r, json_get(body, "stop_sequences"));
    talk->stream = json_bool(json_get(body, "stream"), false);
    talk->temperature = talk_member(body, "temperature");
    talk->top_p = talk_member(body, "top_p");
    talk->out_cap = MAX(json_i64_or(talk_member(body, "max_tokens"), 1), 0);
    if (e == 0 && talk->out_cap == 0)
        e = talk_cannot(r, "max_tokens", "the other API has no call that only fills the cache");
    talk->user = json_str(json_get(json_get(body, "metadata"), "user_id"));
    talk->standard_tier = str_eq(json_str(json_get(body, "service_tier")), STR("standard_only"));
    return e;
}

static int read_answer(TalkReader *r, const Json *body)
{
    Talk *talk = r->talk;
    const Json *content = json_get(body, "content");
    if (json_type(content) != JSON_ARRAY) return TRANSLATE_E_CANNOT;
    talk->id = json_str(json_get(body, "id"));
    talk->model = json_str(json_get(body, "model"));
    talk->stop = talk_stop_of(API_MESSAGES, json_str(json_get(body, "stop_reason")));
    talk->stop_sequence = json_str(json_get(body, "stop_sequence"));
    Turn *turn = talk_turn(r, ROLE_ASSISTANT);
    return turn ? read_content(r, &turn->parts, content, 0) : -ENOMEM;
}

/* --- writing a request ---------------------------------------------------------------------- */

static void out_text(JsonOut *out, Str text)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "text");
    json_out_kstr(out, "text", text);
    json_out_object_end(out);
}

static bool is_image_type(Str type)
{
    static const Str types[] = { STR("image/jpeg"), STR("image/png"), STR("image/gif"),
                                 STR("image/webp") };
    for (size_t i = 0; i < ARRAY_N(types); i++)
        if (str_eq_nocase(type, types[i])) return true;
    return false;
}

static int out_media(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    bool url = str_empty(part->media_type), image = part->kind == PART_IMAGE;
    bool known = image ? is_image_type(part->media_type)
                       : str_eq_nocase(part->media_type, STR("application/pdf"));
    if (!url && !known)
        return talk_write_cannot(w, "messages", "content of the type \"%.*s\" has no counterpart",
                                 STR_ARG(str_sub(part->media_type, 0, 40)));
    json_out_object(out);
    json_out_kcstr(out, "type", image ? "image" : "document");
    json_out_key(out, "source");
    json_out_object(out);
    json_out_kcstr(out, "type", url ? "url" : "base64");
    if (!url) json_out_kstr(out, "media_type", part->media_type);
    json_out_kstr(out, url ? "url" : "data", part->data);
    json_out_object_end(out);
    if (!image && !str_empty(part->name)) json_out_kstr(out, "title", part->name);
    json_out_object_end(out);
    return 0;
}

static int out_call(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    Str id = talk_call_id(w->arena, part->id, MESSAGES_CALL_ID_BYTES_MAX);
    if (!id.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", "tool_use");
    json_out_kstr(out, "id", id);
    json_out_kstr(out, "name", part->name);
    json_out_key(out, "input");
    talk_out_arguments(w->arena, out, part->text);
    json_out_object_end(out);
    return 0;
}

static int out_part(TalkWriter *w, const Part *part, Str text);

static int out_result(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    Str id = talk_call_id(w->arena, part->id, MESSAGES_CALL_ID_BYTES_MAX);
    if (!id.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", "tool_result");
    json_out_kstr(out, "tool_use_id", id);
    if (part->is_error) json_out_kbool(out, "is_error", true);
    json_out_key(out, "content");
    int e = 0;
    if (part->content.n == 0) {
        json_out_str(out, STR(""));
    } else if (talk_is_one_text(&part->content)) {
        json_out_str(out, part->content.first->text);
    } else {
        json_out_array(out);
        for (const Part *in = part->content.first; e == 0 && in; in = in->next)
            e = out_part(w, in, in->text);
        if (e != 0) return e;
        json_out_array_end(out);
    }
    json_out_object_end(out);
    return 0;
}

static int out_part(TalkWriter *w, const Part *part, Str text)
{
    switch (part->kind) {
    case PART_TEXT:
    case PART_REFUSAL:
        if (!talk_is_blank(text)) out_text(&w->out, text); /* the API refuses blank ones */
        return 0;
    case PART_IMAGE:
    case PART_FILE: return out_media(w, part);
    case PART_CALL: return out_call(w, part);
    case PART_RESULT: return out_result(w, part);
    }
    return 0;
}

static bool is_writable(const Part *part)
{
    bool text = part->kind == PART_TEXT || part->kind == PART_REFUSAL;
    return !text || !talk_is_blank(part->text);
}

static bool has_writable(const Turn *turn)
{
    for (const Part *part = turn->parts.first; part; part = part->next)
        if (is_writable(part)) return true;
    return false;
}

/* The API refuses a last text of the assistant's that ends in white space. */
static Str text_of(const Turn *turn, const Part *part)
{
    Str text = part->text;
    bool last = !turn->next && turn->role == ROLE_ASSISTANT && !part->next;
    while (last && text.len > 0 && strchr(" \t\r\n", text.ptr[text.len - 1])) text.len--;
    return text;
}

static int out_turn(TalkWriter *w, const Turn *turn)
{
    JsonOut *out = &w->out;
    json_out_object(out);
    json_out_kcstr(out, "role", turn->role == ROLE_ASSISTANT ? "assistant" : "user");
    json_out_key(out, "content");
    if (talk_is_one_text(&turn->parts)) {
        json_out_str(out, text_of(turn, turn->parts.first));
        json_out_object_end(out);
        return 0;
    }
    int e = 0;
    json_out_array(out);
    /* results come before anything else */
    for (const Part *part = turn->parts.first; e == 0 && part; part = part->next)
        if (part->kind == PART_RESULT) e = out_result(w, part);
    for (const Part *part = turn->parts.first; e == 0 && part; part = part->next)
        if (part->kind != PART_RESULT) e = out_part(w, part, text_of(turn, part));
    if (e != 0) return e;
    json_out_array_end(out);
    json_out_object_end(out);
    return 0;
}

static void out_user_text(JsonOut *out, Str text)
{
    json_out_object(out);
    json_out_kcstr(out, "role", "user");
    json_out_kstr(out, "content", text);
    json_out_object_end(out);
}

/* A conversation has to begin with the user. */
static int out_messages(TalkWriter *w, bool *ret_any)
{
    JsonOut *out = &w->out;
    int e = 0;
    json_out_key(out, "messages");
    json_out_array(out);
    for (const Turn *turn = w->talk->first; e == 0 && turn; turn = turn->next) {
        if (turn->role == ROLE_SYSTEM || !has_writable(turn)) continue;
        if (!*ret_any && turn->role == ROLE_ASSISTANT)
            out_user_text(out, STR("(the assistant speaks first)"));
        *ret_any = true;
        e = out_turn(w, turn);
    }
    if (e != 0) return e;
    for (const Turn *turn = w->talk->first; !*ret_any && turn; turn = turn->next) {
        if (!has_writable(turn)) continue;
        for (const Part *part = turn->parts.first; part; part = part->next)
            if (is_writable(part)) out_user_text(out, part->text);
    }
    json_out_array_end(out);
    return 0;
}

/* What the other API would see to by itself has to be asked for. */
static Str format_text(TalkWriter *w)
{
    const Talk *talk = w->talk;
    if (talk->format == FORMAT_JSON) return STR("Answer with one JSON object and nothing else.");
    Str schema = talk_json_text(w->arena, talk->format_schema);
    if (!schema.ptr) return STR_NULL;
    return arena_printf(w->arena,
                        "Answer with JSON that fits this schema, and with nothing else: %.*s",
                        STR_ARG(schema));
}

static bool format_is_asked(const Talk *talk)
{
    return talk->format == FORMAT_JSON || (talk->format == FORMAT_SCHEMA && !talk->format_strict);
}

static int out_system(TalkWriter *w, bool with_turns)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    Str asked = STR_NULL;
    size_t n = 0;
    for (const Turn *turn = talk->first; with_turns && turn; turn = turn->next)
        n += turn->role == ROLE_SYSTEM && has_writable(turn);
    if (format_is_asked(talk)) {
        asked = format_text(w);
        if (!asked.ptr) return -ENOMEM;
    }
    if (n == 0 && !asked.ptr) return 0;
    json_out_key(out, "system");
    json_out_array(out);
    for (const Turn *turn = talk->first; with_turns && turn; turn = turn->next) {
        if (turn->role != ROLE_SYSTEM) continue;
        for (const Part *part = turn->parts.first; part; part = part->next) {
            if (part->kind != PART_TEXT)
                return talk_write_cannot(w, "messages", "a system message holds more than text");
            if (is_writable(part)) out_text(out, part->text);
        }
    }
    if (asked.ptr) out_text(out, asked);
    json_out_array_end(out);
    return 0;
}

/* The API wants an object with a type. */
static void out_schema(JsonOut *out, const Json *schema)
{
    json_out_key(out, "input_schema");
    if (schema && talk_member(schema, "type")) {
        json_out_value(out, schema);
        return;
    }
    json_out_object(out);
    json_out_kcstr(out, "type", "object");
    for (JsonIter it = json_iter(schema); json_next(&it);) {
        if (str_eq(it.key, STR("type"))) continue;
        json_out_key_str(out, it.key);
        json_out_value(out, it.value);
    }
    json_out_object_end(out);
}

static void out_tool(JsonOut *out, const TalkTool *tool)
{
    json_out_object(out);
    json_out_kstr(out, "name", tool->name);
    if (!str_empty(tool->description)) json_out_kstr(out, "description", tool->description);
    out_schema(out, tool->schema);
    json_out_object_end(out);
}

static void out_choice(TalkWriter *w)
{
    static const char *const words[] = {
        [CHOICE_UNSAID] = "auto", [CHOICE_AUTO] = "auto", [CHOICE_NONE] = "none",
        [CHOICE_ANY] = "any",     [CHOICE_TOOL] = "tool",
    };
    JsonOut *out = &w->out;
    const Talk *talk = w->talk;
    if (talk->choice == CHOICE_UNSAID && !talk->one_call) return;
    json_out_key(out, "tool_choice");
    json_out_object(out);
    json_out_kcstr(out, "type", words[talk->choice]);
    if (talk->choice == CHOICE_TOOL) json_out_kstr(out, "name", talk->choice_tool);
    if (talk->one_call && talk->choice != CHOICE_NONE)
        json_out_kbool(out, "disable_parallel_tool_use", true);
    json_out_object_end(out);
}

/* Names of the tools that were called, each once. */
static size_t called_names(const Talk *talk, Str names[NAMES_MAX])
{
    size_t n = 0;
    for (const Turn *turn = talk->first; turn; turn = turn->next) {
        for (const Part *part = turn->parts.first; part; part = part->next) {
            if (part->kind != PART_CALL) continue;
            size_t i = 0;
            while (i < n && !str_eq(names[i], part->name)) i++;
            if (i == n && n < NAMES_MAX) names[n++] = part->name;
        }
    }
    return n;
}

/* The API wants the tools of earlier calls declared, though they may not be called again. */
static void out_called_tools(TalkWriter *w)
{
    Str names[NAMES_MAX];
    size_t n = called_names(w->talk, names);
    if (n == 0) return;
    JsonOut *out = &w->out;
    json_out_key(out, "tools");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) out_tool(out, &(TalkTool){ .name = names[i] });
    json_out_array_end(out);
    json_out_key(out, "tool_choice");
    json_out_object(out);
    json_out_kcstr(out, "type", "none");
    json_out_object_end(out);
}

static void out_tools(TalkWriter *w)
{
    JsonOut *out = &w->out;
    if (!w->talk->tools) {
        out_called_tools(w);
        return;
    }
    json_out_key(out, "tools");
    json_out_array(out);
    for (const TalkTool *tool = w->talk->tools; tool; tool = tool->next) out_tool(out, tool);
    json_out_array_end(out);
    out_choice(w);
}

static int out_stops(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    if (talk->stops_n == 0) return 0;
    json_out_key(out, "stop_sequences");
    json_out_array(out);
    for (size_t i = 0; i < talk->stops_n; i++) {
        if (talk_is_blank(talk->stops[i]))
            return talk_write_cannot(w, "stop", "the other API takes no white space to stop at");
        json_out_str(out, talk->stops[i]);
    }
    json_out_array_end(out);
    return 0;
}

static void out_format(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    if (talk->format != FORMAT_SCHEMA || !talk->format_strict) return;
    json_out_key(out, "output_config");
    json_out_object(out);
    json_out_key(out, "format");
    json_out_object(out);
    json_out_kcstr(out, "type", "json_schema");
    json_out_kval(out, "schema", talk->format_schema);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void out_settings(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    int64_t most = w->target->out_max;
    int64_t cap = talk->out_cap > 0 ? talk->out_cap : most > 0 ? most : TRANSLATE_OUT_DEFAULT;
    json_out_ki64(out, "max_tokens", most > 0 ? MIN(cap, most) : cap);
    if (talk->temperature) { /* 0..1 here, 0..2 there; newer models take one of the two only */
        json_out_key(out, "temperature");
        if (json_f64_or(talk->temperature, 0) > 1) json_out_i64(out, 1);
        else json_out_value(out, talk->temperature);
    } else if (talk->top_p) {
        json_out_kval(out, "top_p", talk->top_p);
    }
    if (!str_empty(talk->user)) {
        json_out_key(out, "metadata");
        json_out_object(out);
        json_out_kstr(out, "user_id", talk->user);
        json_out_object_end(out);
    }
    if (talk->standard_tier) json_out_kcstr(out, "service_tier", "standard_only");
    if (talk->stream) json_out_kbool(out, "stream", true);
}

static int write_request(TalkWriter *w)
{
    JsonOut *out = &w->out;
    int e = talk_check_names(w, MESSAGES_NAME_BYTES_MAX);
    if (e != 0) return e;
    bool any = false;
    json_out_object(out);
    json_out_kstr(out, "model", w->target->model);
    e = out_messages(w, &any);
    if (e == 0) e = out_system(w, any);
    if (e == 0) out_tools(w);
    if (e == 0) e = out_stops(w);
    if (e != 0) return e;
    out_format(w);
    out_settings(w);
    json_out_object_end(out);
    return 0;
}

/* --- writing an answer ---------------------------------------------------------------------- */

void messages_out_usage(JsonOut *out, const Usage *usage)
{
    int64_t writes = usage->cache_write_5m_tokens + usage->cache_write_1h_tokens;
    json_out_object(out);
    json_out_ki64(out, "input_tokens", MAX(usage->input_tokens - usage->cached_tokens - writes, 0));
    json_out_ki64(out, "cache_creation_input_tokens", writes);
    json_out_ki64(out, "cache_read_input_tokens", usage->cached_tokens);
    json_out_ki64(out, "output_tokens", usage->output_tokens);
    if (usage->reasoning_tokens > 0) {
        json_out_key(out, "output_tokens_details");
        json_out_object(out);
        json_out_ki64(out, "thinking_tokens", usage->reasoning_tokens);
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static int out_answer_content(TalkWriter *w)
{
    JsonOut *out = &w->out;
    int e = 0;
    json_out_key(out, "content");
    json_out_array(out);
    const Part *part = w->talk->first ? w->talk->first->parts.first : NULL;
    for (; e == 0 && part; part = part->next) {
        if (part->kind == PART_CALL) e = out_call(w, part);
        else if (!str_empty(part->text)) out_text(out, part->text);
    }
    if (e != 0) return e;
    json_out_array_end(out);
    return 0;
}

static int write_answer(TalkWriter *w, const TranslateAbout *about)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    Str id = talk_answer_id(w->arena, "msg_", talk->id);
    if (!id.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kstr(out, "id", id);
    json_out_kcstr(out, "type", "message");
    json_out_kcstr(out, "role", "assistant");
    json_out_kstr(out, "model", talk->model);
    int e = out_answer_content(w);
    if (e != 0) return e;
    json_out_kcstr(out, "stop_reason", talk_stop_word(API_MESSAGES, talk_stop(talk)));
    json_out_key(out, "stop_sequence");
    if (str_empty(talk->stop_sequence)) json_out_null(out);
    else json_out_str(out, talk->stop_sequence);
    json_out_key(out, "usage");
    messages_out_usage(out, about->usage);
    json_out_object_end(out);
    return 0;
}

const TalkApi talk_messages = { read_request, write_request, read_answer, write_answer };
