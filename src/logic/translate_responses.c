/* OpenAI Responses to and from a Talk. */
#include "logic/translate_private.h"

#define RESPONSES_NAME_BYTES_MAX 64
#define RESPONSES_CALL_ID_BYTES_MAX 64

/* --- reading -------------------------------------------------------------------------------- */

static int read_image(TalkReader *r, Parts *parts, const Json *image)
{
    Part *part;
    Str url = json_str(json_get(image, "image_url"));
    if (str_empty(url))
        return talk_cannot(r, "input", "an image is given by the id it has at its provider");
    int e = talk_add_url(r, parts, PART_IMAGE, url, &part);
    if (e == 0) part->detail = json_str(json_get(image, "detail"));
    return e;
}

static int read_file(TalkReader *r, Parts *parts, const Json *file)
{
    Part *part;
    Str url = json_str(json_get(file, "file_data"));
    if (str_empty(url)) url = json_str(json_get(file, "file_url"));
    if (str_empty(url))
        return talk_cannot(r, "input", "a file is given by the id it has at its provider");
    int e = talk_add_url(r, parts, PART_FILE, url, &part);
    if (e == 0) part->name = json_str(json_get(file, "filename"));
    return e;
}

static int read_part(TalkReader *r, Parts *parts, const Json *part)
{
    Str type = json_str(json_get(part, "type"));
    if (str_eq(type, STR("input_text")) || str_eq(type, STR("output_text")) ||
        str_eq(type, STR("text")))
        return talk_add_text(r, parts, json_str(json_get(part, "text")));
    if (str_eq(type, STR("refusal")))
        return talk_add_refusal(r, parts, json_str(json_get(part, "refusal")));
    if (str_eq(type, STR("input_image"))) return read_image(r, parts, part);
    if (str_eq(type, STR("input_file"))) return read_file(r, parts, part);
    return talk_cannot(r, "input", "content of the kind \"%.*s\" has no counterpart",
                       STR_ARG(str_sub(type, 0, 40)));
}

static int read_content(TalkReader *r, Parts *parts, const Json *content)
{
    JsonType type = json_type(content);
    if (type == JSON_ABSENT || type == JSON_NULL) return 0;
    if (type == JSON_STRING) return talk_add_text(r, parts, json_str(content));
    if (type != JSON_ARRAY) return talk_cannot(r, "input", "an item's content is no text");
    for (JsonIter it = json_iter(content); json_next(&it);) {
        int e = read_part(r, parts, it.value);
        if (e != 0) return e;
    }
    return 0;
}

static int read_message(TalkReader *r, const Json *item)
{
    static const struct {
        Str word;
        TalkRole role;
    } roles[] = { { STR("user"), ROLE_USER },
                  { STR("assistant"), ROLE_ASSISTANT },
                  { STR("system"), ROLE_SYSTEM },
                  { STR("developer"), ROLE_SYSTEM } };
    Str word = json_str(json_get(item, "role"));
    for (size_t i = 0; i < ARRAY_N(roles); i++) {
        if (!str_eq(word, roles[i].word)) continue;
        Turn *turn = talk_turn(r, roles[i].role);
        return turn ? read_content(r, &turn->parts, json_get(item, "content")) : -ENOMEM;
    }
    return talk_cannot(r, "input", "there is no role \"%.*s\" in the other API",
                       STR_ARG(str_sub(word, 0, 40)));
}

static int read_call(TalkReader *r, const Json *item)
{
    Turn *turn = talk_turn(r, ROLE_ASSISTANT);
    if (!turn) return -ENOMEM;
    return talk_add_call(r, &turn->parts, json_str(json_get(item, "call_id")),
                         json_str(json_get(item, "name")), json_str(json_get(item, "arguments")));
}

static int read_result(TalkReader *r, const Json *item)
{
    Turn *turn = talk_turn(r, ROLE_USER);
    Part *part = turn ? talk_part(r, &turn->parts, PART_RESULT) : NULL;
    if (!part) return -ENOMEM;
    part->id = json_str(json_get(item, "call_id"));
    return read_content(r, &part->content, json_get(item, "output"));
}

/* An item of the input or of the output. */
static int read_item(TalkReader *r, const Json *item)
{
    Str type = json_str(json_get(item, "type"));
    if (str_empty(type) || str_eq(type, STR("message"))) return read_message(r, item);
    if (str_eq(type, STR("function_call"))) return read_call(r, item);
    if (str_eq(type, STR("function_call_output"))) return read_result(r, item);
    /* Other models have no use for a model's thoughts. */
    if (str_eq(type, STR("reasoning"))) return 0;
    return talk_cannot(r, "input", "an item of the kind \"%.*s\" has no counterpart",
                       STR_ARG(str_sub(type, 0, 40)));
}

static int read_items(TalkReader *r, const Json *items)
{
    for (JsonIter it = json_iter(items); json_next(&it);) {
        int e = read_item(r, it.value);
        if (e != 0) return e;
    }
    return 0;
}

static int read_input(TalkReader *r, const Json *body)
{
    Str instructions = json_str(json_get(body, "instructions"));
    if (!str_empty(instructions)) {
        Turn *turn = talk_turn(r, ROLE_SYSTEM);
        int e = turn ? talk_add_text(r, &turn->parts, instructions) : -ENOMEM;
        if (e != 0) return e;
    }
    const Json *input = json_get(body, "input");
    if (json_type(input) != JSON_STRING) return read_items(r, input);
    Turn *turn = talk_turn(r, ROLE_USER);
    return turn ? talk_add_text(r, &turn->parts, json_str(input)) : -ENOMEM;
}

static int read_tools(TalkReader *r, const Json *body)
{
    for (JsonIter it = json_iter(json_get(body, "tools")); json_next(&it);) {
        Str type = json_str(json_get(it.value, "type"));
        TalkTool tool = { .name = json_str(json_get(it.value, "name")),
                          .description = json_str(json_get(it.value, "description")),
                          .schema = talk_member(it.value, "parameters"),
                          .strict = json_bool(json_get(it.value, "strict"), true) };
        if (!str_eq(type, STR("function")))
            return talk_cannot(r, "tools", "the tool \"%.*s\" is one only its provider knows",
                               STR_ARG(str_sub(type, 0, 40)));
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
        talk->choice_tool = json_str(json_get(choice, "name"));
        if (!str_eq(json_str(json_get(choice, "type")), STR("function")) ||
            str_empty(talk->choice_tool))
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
    talk->format = FORMAT_SCHEMA;
    talk->format_name = json_str(json_get(format, "name"));
    talk->format_schema = talk_member(format, "schema");
    talk->format_strict = json_bool(json_get(format, "strict"), false);
    if (!str_eq(type, STR("json_schema")) || json_type(talk->format_schema) != JSON_OBJECT)
        return talk_cannot(r, "text", "this `text.format` has no counterpart");
    return 0;
}

static void read_words(Talk *talk, const Json *body)
{
    talk->user = json_str(json_get(body, "safety_identifier"));
    if (str_empty(talk->user)) talk->user = json_str(json_get(body, "user"));
    talk->effort = json_str(json_get(json_get(body, "reasoning"), "effort"));
    talk->verbosity = json_str(json_get(json_get(body, "text"), "verbosity"));
    talk->cache_key = json_str(json_get(body, "prompt_cache_key"));
    talk->standard_tier = str_eq(json_str(json_get(body, "service_tier")), STR("default"));
}

static int read_request(TalkReader *r, const Json *body)
{
    static const char *const lost[] = { "previous_response_id", "conversation", "prompt",
                                        "top_logprobs" };
    Talk *talk = r->talk;
    int e = talk_refuse_members(r, body, lost, ARRAY_N(lost));
    if (e == 0 && json_bool(json_get(body, "background"), false))
        e = talk_cannot(r, "background", "the other API does not work in the background");
    if (e == 0) e = read_input(r, body);
    if (e == 0) e = read_tools(r, body);
    if (e == 0) e = read_choice(r, talk_member(body, "tool_choice"));
    if (e == 0) e = read_format(r, talk_member(json_get(body, "text"), "format"));
    talk->stream = json_bool(json_get(body, "stream"), false);
    talk->one_call = !json_bool(json_get(body, "parallel_tool_calls"), true);
    talk->temperature = talk_member(body, "temperature");
    talk->top_p = talk_member(body, "top_p");
    talk->out_cap = MAX(json_i64_or(talk_member(body, "max_output_tokens"), 0), 0);
    read_words(talk, body);
    return e;
}

static int read_answer(TalkReader *r, const Json *body)
{
    Talk *talk = r->talk;
    const Json *output = json_get(body, "output");
    if (json_type(output) != JSON_ARRAY) return TRANSLATE_E_CANNOT;
    talk->id = json_str(json_get(body, "id"));
    talk->model = json_str(json_get(body, "model"));
    Str why = json_str(json_get(json_get(body, "incomplete_details"), "reason"));
    talk->stop = talk_stop_of(API_RESPONSES, why);
    int e = read_items(r, output);
    if (e != 0) return e;
    if (talk->first && talk->first != talk->last) return TRANSLATE_E_CANNOT; /* others speak too */
    bool refused = talk->first && talk_has(&talk->first->parts, PART_REFUSAL);
    if (talk->stop == STOP_UNKNOWN) talk->stop = refused ? STOP_REFUSED : STOP_END;
    return 0;
}

/* --- writing a request ---------------------------------------------------------------------- */

static void out_typed_text(JsonOut *out, const char *type, const char *key, Str text)
{
    json_out_object(out);
    json_out_kcstr(out, "type", type);
    json_out_kstr(out, key, text);
    json_out_object_end(out);
}

static int out_media(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    bool image = part->kind == PART_IMAGE, web = str_empty(part->media_type);
    Str url = talk_url(w->arena, part);
    if (!url.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", image ? "input_image" : "input_file");
    if (image) {
        json_out_kstr(out, "detail", str_empty(part->detail) ? STR("auto") : part->detail);
        json_out_kstr(out, "image_url", url);
    } else {
        if (!web)
            json_out_kstr(out, "filename", str_empty(part->name) ? STR("document") : part->name);
        json_out_kstr(out, web ? "file_url" : "file_data", url);
    }
    json_out_object_end(out);
    return 0;
}

static int out_part(TalkWriter *w, const Part *part, bool assistant)
{
    switch (part->kind) {
    case PART_TEXT:
        out_typed_text(&w->out, assistant ? "output_text" : "input_text", "text", part->text);
        return 0;
    case PART_REFUSAL: out_typed_text(&w->out, "refusal", "refusal", part->text); return 0;
    case PART_IMAGE:
    case PART_FILE: return out_media(w, part);
    case PART_CALL:
    case PART_RESULT: return 0;
    }
    return 0;
}

static bool is_content(const Part *part)
{
    return part->kind != PART_CALL && part->kind != PART_RESULT;
}

/* A message of the content from first up to the next call or result. Returns that. */
static int out_message(TalkWriter *w, TalkRole role, const Part *first, const Part **ret_next)
{
    static const char *const words[] = {
        [ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant"
    };
    JsonOut *out = &w->out;
    const Part *end = first;
    while (end && is_content(end)) end = end->next;
    *ret_next = end;
    json_out_object(out);
    json_out_kcstr(out, "role", words[role]);
    json_out_key(out, "content");
    int e = 0;
    if (first->next == end && first->kind == PART_TEXT) {
        json_out_str(out, first->text);
    } else {
        json_out_array(out);
        for (const Part *part = first; e == 0 && part != end; part = part->next)
            e = out_part(w, part, role == ROLE_ASSISTANT);
        if (e != 0) return e;
        json_out_array_end(out);
    }
    json_out_object_end(out);
    return 0;
}

static int out_call(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    Str id = talk_call_id(w->arena, part->id, RESPONSES_CALL_ID_BYTES_MAX);
    if (!id.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", "function_call");
    json_out_kstr(out, "call_id", id);
    json_out_kstr(out, "name", part->name);
    json_out_kstr(out, "arguments", talk_is_blank(part->text) ? STR("{}") : part->text);
    json_out_object_end(out);
    return 0;
}

/* That it is an error stands in front. */
static int out_result(TalkWriter *w, const Part *part)
{
    JsonOut *out = &w->out;
    Str id = talk_call_id(w->arena, part->id, RESPONSES_CALL_ID_BYTES_MAX);
    if (!id.ptr) return -ENOMEM;
    json_out_object(out);
    json_out_kcstr(out, "type", "function_call_output");
    json_out_kstr(out, "call_id", id);
    json_out_key(out, "output");
    int e = 0;
    if (part->content.n == 0 || talk_is_one_text(&part->content)) {
        Str text = part->content.n ? part->content.first->text : STR("");
        if (part->is_error) text = arena_printf(w->arena, "Error: %.*s", STR_ARG(text));
        if (!text.ptr) return -ENOMEM;
        json_out_str(out, text);
    } else {
        json_out_array(out);
        if (part->is_error) out_typed_text(out, "input_text", "text", STR("Error: "));
        for (const Part *in = part->content.first; e == 0 && in; in = in->next)
            e = out_part(w, in, false);
        if (e != 0) return e;
        json_out_array_end(out);
    }
    json_out_object_end(out);
    return 0;
}

static int out_turn(TalkWriter *w, const Turn *turn)
{
    const Part *part = turn->parts.first;
    while (part) {
        int e;
        const Part *next = part->next;
        if (part->kind == PART_CALL) e = out_call(w, part);
        else if (part->kind == PART_RESULT) e = out_result(w, part);
        else e = out_message(w, turn->role, part, &next);
        if (e != 0) return e;
        part = next;
    }
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
        json_out_kstr(out, "name", tool->name);
        if (!str_empty(tool->description)) json_out_kstr(out, "description", tool->description);
        json_out_key(out, "parameters");
        if (tool->schema) json_out_value(out, tool->schema);
        else json_out_raw(out, STR("{\"type\":\"object\",\"properties\":{}}"));
        json_out_kbool(out, "strict", tool->strict);
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
    json_out_kstr(out, "name", w->talk->choice_tool);
    json_out_object_end(out);
}

static void out_text_settings(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    if (talk->format == FORMAT_TEXT && str_empty(talk->verbosity)) return;
    json_out_key(out, "text");
    json_out_object(out);
    if (!str_empty(talk->verbosity)) json_out_kstr(out, "verbosity", talk->verbosity);
    if (talk->format != FORMAT_TEXT) {
        json_out_key(out, "format");
        json_out_object(out);
        json_out_kcstr(out, "type", talk->format == FORMAT_JSON ? "json_object" : "json_schema");
        if (talk->format == FORMAT_SCHEMA) {
            json_out_kstr(out, "name",
                          str_empty(talk->format_name) ? STR("answer") : talk->format_name);
            json_out_kval(out, "schema", talk->format_schema);
            json_out_kbool(out, "strict", talk->format_strict);
        }
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

static void out_settings(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    if (talk->out_cap > 0) json_out_ki64(out, "max_output_tokens", talk->out_cap);
    if (talk->temperature) json_out_kval(out, "temperature", talk->temperature);
    if (talk->top_p) json_out_kval(out, "top_p", talk->top_p);
    if (!str_empty(talk->effort)) {
        json_out_key(out, "reasoning");
        json_out_object(out);
        json_out_kstr(out, "effort", talk->effort);
        json_out_object_end(out);
    }
    if (!str_empty(talk->user)) json_out_kstr(out, "user", talk->user);
    if (!str_empty(talk->cache_key)) json_out_kstr(out, "prompt_cache_key", talk->cache_key);
    if (talk->standard_tier) json_out_kcstr(out, "service_tier", "default");
    json_out_kbool(out, "store", false); /* the other APIs keep nothing either */
    if (talk->stream) json_out_kbool(out, "stream", true);
}

static int write_request(TalkWriter *w)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    int e = talk_check_names(w, RESPONSES_NAME_BYTES_MAX);
    if (e != 0) return e;
    if (talk->stops_n > 0)
        return talk_write_cannot(w, "stop", "the other API takes no stop sequences");
    json_out_object(out);
    json_out_kstr(out, "model", w->target->model);
    json_out_key(out, "input");
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
    out_text_settings(w);
    out_settings(w);
    json_out_object_end(out);
    return 0;
}

/* --- writing an answer ---------------------------------------------------------------------- */

void responses_out_usage(JsonOut *out, const Usage *usage)
{
    json_out_object(out);
    json_out_ki64(out, "input_tokens", usage->input_tokens);
    json_out_key(out, "input_tokens_details");
    json_out_object(out);
    json_out_ki64(out, "cached_tokens", usage->cached_tokens);
    json_out_ki64(out, "cache_write_tokens",
                  usage->cache_write_5m_tokens + usage->cache_write_1h_tokens);
    json_out_object_end(out);
    json_out_ki64(out, "output_tokens", usage->output_tokens);
    json_out_key(out, "output_tokens_details");
    json_out_object(out);
    json_out_ki64(out, "reasoning_tokens", usage->reasoning_tokens);
    json_out_object_end(out);
    json_out_ki64(out, "total_tokens", usage->input_tokens + usage->output_tokens);
    json_out_object_end(out);
}

void responses_out_message(JsonOut *out, Str id, const char *status, bool refusal, Str text,
                           bool with_content)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "message");
    json_out_kstr(out, "id", id);
    json_out_kcstr(out, "status", status);
    json_out_kcstr(out, "role", "assistant");
    json_out_key(out, "content");
    json_out_array(out);
    if (with_content) responses_out_content(out, refusal, text);
    json_out_array_end(out);
    json_out_object_end(out);
}

void responses_out_content(JsonOut *out, bool refusal, Str text)
{
    json_out_object(out);
    json_out_kcstr(out, "type", refusal ? "refusal" : "output_text");
    json_out_kstr(out, refusal ? "refusal" : "text", text);
    if (!refusal) {
        json_out_key(out, "annotations");
        json_out_array(out);
        json_out_array_end(out);
        json_out_key(out, "logprobs");
        json_out_array(out);
        json_out_array_end(out);
    }
    json_out_object_end(out);
}

void responses_out_call(JsonOut *out, Str id, const char *status, Str call_id, Str name,
                        Str arguments)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "function_call");
    json_out_kstr(out, "id", id);
    json_out_kcstr(out, "status", status);
    json_out_kstr(out, "call_id", call_id);
    json_out_kstr(out, "name", name);
    json_out_kstr(out, "arguments", arguments);
    json_out_object_end(out);
}

void responses_out_head(JsonOut *out, Str id, int64_t created_s, const char *status, Str model,
                        StopReason stop)
{
    json_out_kstr(out, "id", id);
    json_out_kcstr(out, "object", "response");
    json_out_ki64(out, "created_at", created_s);
    json_out_kcstr(out, "status", status);
    json_out_key(out, "error");
    json_out_null(out);
    json_out_key(out, "incomplete_details");
    if (strcmp(status, "incomplete") == 0) {
        json_out_object(out);
        json_out_kcstr(out, "reason", talk_stop_word(API_RESPONSES, stop));
        json_out_object_end(out);
    } else {
        json_out_null(out);
    }
    json_out_key(out, "instructions");
    json_out_null(out);
    json_out_key(out, "metadata");
    json_out_object(out);
    json_out_object_end(out);
    json_out_kstr(out, "model", model);
    json_out_kbool(out, "parallel_tool_calls", true);
    json_out_kcstr(out, "tool_choice", "auto");
    json_out_key(out, "tools");
    json_out_array(out);
    json_out_array_end(out);
}

/* A refusal in words is an answer; one without any is an answer that is missing. */
const char *responses_status(StopReason stop, bool refusal)
{
    bool cut = stop == STOP_LENGTH || stop == STOP_PAUSED || (stop == STOP_REFUSED && !refusal);
    return cut ? "incomplete" : "completed";
}

static int out_output(TalkWriter *w, Str id)
{
    JsonOut *out = &w->out;
    const Part *part = w->talk->first ? w->talk->first->parts.first : NULL;
    json_out_key(out, "output");
    json_out_array(out);
    for (int n = 0; part; part = part->next, n++) {
        bool call = part->kind == PART_CALL;
        Str item = arena_printf(w->arena, "%s_%.*s_%d", call ? "fc" : "msg", STR_ARG(id), n);
        Str call_id = talk_call_id(w->arena, part->id, RESPONSES_CALL_ID_BYTES_MAX);
        if (!item.ptr || (call && !call_id.ptr)) return -ENOMEM;
        if (call)
            responses_out_call(out, item, "completed", call_id, part->name,
                               talk_is_blank(part->text) ? STR("{}") : part->text);
        else
            responses_out_message(out, item, "completed", part->kind == PART_REFUSAL, part->text,
                                  true);
    }
    json_out_array_end(out);
    return 0;
}

static int write_answer(TalkWriter *w, const TranslateAbout *about)
{
    const Talk *talk = w->talk;
    JsonOut *out = &w->out;
    Str id = talk_answer_id(w->arena, "resp_", talk->id);
    if (!id.ptr) return -ENOMEM;
    bool refusal = talk->first && talk_has(&talk->first->parts, PART_REFUSAL);
    json_out_object(out);
    responses_out_head(out, id, about->created_s, responses_status(talk->stop, refusal),
                       talk->model, talk->stop);
    int e = out_output(w, str_skip(id, strlen("resp_")));
    if (e != 0) return e;
    if (about->usage->valid) {
        json_out_key(out, "usage");
        responses_out_usage(out, about->usage);
    }
    json_out_object_end(out);
    return 0;
}

const TalkApi talk_responses = { read_request, write_request, read_answer, write_answer };
