#include "logic/translate.h"

#include <stdarg.h>
#include <stdio.h>

#include "logic/translate_private.h"

static const TalkApi *const apis[API_N_] = {
    [API_CHAT] = &talk_chat,
    [API_RESPONSES] = &talk_responses,
    [API_MESSAGES] = &talk_messages,
};

bool translate_pair(Api from, Api to)
{
    assert(from < API_N_ && to < API_N_);
    return from != to && apis[from] && apis[to];
}

/* --- reading -------------------------------------------------------------------------------- */

int talk_cannot(TalkReader *r, const char *param, const char *fmt, ...)
{
    assert(fmt);
    if (!r->fault) return TRANSLATE_E_CANNOT;
    r->fault->param = param;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(r->fault->text, sizeof r->fault->text, fmt, args);
    va_end(args);
    return TRANSLATE_E_CANNOT;
}

const Json *talk_member(const Json *v, const char *key)
{
    const Json *m = json_get(v, key);
    return json_type(m) == JSON_NULL ? NULL : m;
}

int talk_refuse_members(TalkReader *r, const Json *body, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (talk_member(body, keys[i]))
            return talk_cannot(r, keys[i], "`%s` has no counterpart in the other API", keys[i]);
    return 0;
}

Turn *talk_turn(TalkReader *r, TalkRole role)
{
    Talk *talk = r->talk;
    if (talk->last && talk->last->role == role) return talk->last;
    Turn *turn = ARENA_NEW(r->arena, Turn);
    if (!turn) return NULL;
    turn->role = role;
    if (talk->last) talk->last->next = turn;
    else talk->first = turn;
    talk->last = turn;
    return turn;
}

Part *talk_part(TalkReader *r, Parts *parts, PartKind kind)
{
    Part *part = ARENA_NEW(r->arena, Part);
    if (!part) return NULL;
    part->kind = kind;
    if (parts->last) parts->last->next = part;
    else parts->first = part;
    parts->last = part;
    parts->n++;
    return part;
}

int talk_add_text(TalkReader *r, Parts *parts, Str text)
{
    if (str_empty(text)) return 0;
    Part *part = talk_part(r, parts, PART_TEXT);
    if (!part) return -ENOMEM;
    part->text = text;
    return 0;
}

int talk_add_refusal(TalkReader *r, Parts *parts, Str text)
{
    if (str_empty(text)) return 0;
    Part *part = talk_part(r, parts, PART_REFUSAL);
    if (!part) return -ENOMEM;
    part->text = text;
    return 0;
}

int talk_add_call(TalkReader *r, Parts *parts, Str id, Str name, Str arguments)
{
    if (str_empty(name)) return talk_cannot(r, NULL, "a tool call has no name");
    Part *part = talk_part(r, parts, PART_CALL);
    if (!part) return -ENOMEM;
    part->id = id;
    part->name = name;
    part->text = arguments;
    return 0;
}

/* data:image/png;base64,iVBOR... */
static bool data_url(Str url, Str *ret_type, Str *ret_data)
{
    bool found;
    *ret_data = str_split(str_skip(url, strlen("data:")), ',', ret_type, &found);
    if (!found || !str_ends_with(*ret_type, STR(";base64"))) return false;
    *ret_type = str_sub(*ret_type, 0, ret_type->len - strlen(";base64"));
    str_split(*ret_type, ';', ret_type, NULL); /* ;charset=... and the like */
    return !str_empty(*ret_type) && !str_empty(*ret_data);
}

int talk_add_url(TalkReader *r, Parts *parts, PartKind kind, Str url, Part **ret)
{
    Str type = STR_NULL, data = url;
    bool inline_data = str_eq_nocase(str_sub(url, 0, 5), STR("data:"));
    if (inline_data && !data_url(url, &type, &data))
        return talk_cannot(r, NULL, "a data URL is not of the form data:TYPE;base64,DATA");
    bool web = str_starts_with(url, STR("https://")) || str_starts_with(url, STR("http://"));
    if (!inline_data && !web) return talk_cannot(r, NULL, "an image is neither a URL nor data");
    Part *part = talk_part(r, parts, kind);
    if (!part) return -ENOMEM;
    part->media_type = type;
    part->data = data;
    if (ret) *ret = part;
    return 0;
}

int talk_add_tool(TalkReader *r, const TalkTool *tool)
{
    if (str_empty(tool->name)) return talk_cannot(r, "tools", "a tool has no name");
    if (tool->schema && json_type(tool->schema) != JSON_OBJECT)
        return talk_cannot(r, "tools", "a tool's schema is not an object");
    TalkTool *copy = ARENA_NEW(r->arena, TalkTool);
    if (!copy) return -ENOMEM;
    *copy = *tool;
    copy->next = NULL;
    if (r->talk->tools_last) r->talk->tools_last->next = copy;
    else r->talk->tools = copy;
    r->talk->tools_last = copy;
    return 0;
}

int talk_add_stop(TalkReader *r, Str stop)
{
    Talk *talk = r->talk;
    if (str_empty(stop)) return 0;
    if (talk->stops_n == TALK_STOPS_MAX)
        return talk_cannot(r, NULL, "there are more than %d stop sequences", TALK_STOPS_MAX);
    talk->stops[talk->stops_n++] = stop;
    return 0;
}

Str talk_json_text(Arena *arena, const Json *v)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, arena->max);
    JsonOut out = json_out(&text);
    json_out_value(&out, v);
    return json_out_ok(&out) ? arena_str(arena, buf_str(&text)) : STR_NULL;
}

/* --- writing -------------------------------------------------------------------------------- */

int talk_write_cannot(TalkWriter *w, const char *param, const char *fmt, ...)
{
    if (!w->fault) return TRANSLATE_E_CANNOT;
    w->fault->param = param;
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(w->fault->text, sizeof w->fault->text, fmt, args);
    va_end(args);
    return TRANSLATE_E_CANNOT;
}

Str talk_url(Arena *arena, const Part *part)
{
    if (str_empty(part->media_type)) return part->data;
    size_t len = strlen("data:;base64,") + part->media_type.len + part->data.len;
    Buf url;
    buf_init(&url, len);
    (void)buf_add(&url, STR("data:"));
    (void)buf_add(&url, part->media_type);
    (void)buf_add(&url, STR(";base64,"));
    Str copy = buf_add(&url, part->data) ? arena_str(arena, buf_str(&url)) : STR_NULL;
    buf_deinit(&url);
    return copy;
}

void talk_out_arguments(Arena *arena, JsonOut *out, Str arguments)
{
    const Json *v = NULL;
    bool blank = talk_is_blank(arguments);
    if (!blank && json_parse(arena, arguments, NULL, &v, NULL) == 0 &&
        json_type(v) == JSON_OBJECT) {
        json_out_value(out, v);
        return;
    }
    json_out_object(out);
    if (!blank) json_out_kstr(out, "invalid_arguments", arguments);
    json_out_object_end(out);
}

static bool name_fits(Str name, size_t bytes_max)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = name.ptr[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '_' && c != '-') return false;
    }
    return name.len >= 1 && name.len <= bytes_max;
}

int talk_check_names(TalkWriter *w, size_t bytes_max)
{
    for (const TalkTool *tool = w->talk->tools; tool; tool = tool->next)
        if (!name_fits(tool->name, bytes_max))
            return talk_write_cannot(w, "tools",
                                     "the tool name \"%.*s\" is not one the other API takes",
                                     STR_ARG(str_sub(tool->name, 0, 100)));
    return 0;
}

#define CALL_ID_TAIL 17 /* "_" and 16 digits */

Str talk_call_id(Arena *arena, Str id, size_t bytes_max)
{
    assert(bytes_max > CALL_ID_TAIL && bytes_max <= 64);
    if (name_fits(id, bytes_max)) return id;
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    char text[65];
    size_t keep = MIN(id.len, bytes_max - CALL_ID_TAIL);
    for (size_t i = 0; i < id.len; i++) {
        hash = (hash ^ (unsigned char)id.ptr[i]) * UINT64_C(1099511628211);
        if (i < keep) text[i] = name_fits(str_sub(id, i, 1), 1) ? id.ptr[i] : '_';
    }
    snprintf(text + keep, sizeof text - keep, "_%016" PRIx64, hash);
    return arena_str(arena, str_of(text));
}

Str talk_answer_id(Arena *arena, const char *prefix, Str id)
{
    static const Str known[] = { STR("chatcmpl-"), STR("msg_"), STR("resp_") };
    for (size_t i = 0; i < ARRAY_N(known); i++)
        if (str_starts_with(id, known[i])) id = str_skip(id, known[i].len);
    return arena_printf(arena, "%s%.*s", prefix, STR_ARG(str_sub(id, 0, 128)));
}

bool talk_is_one_text(const Parts *parts)
{
    return parts->n == 1 && parts->first->kind == PART_TEXT;
}

bool talk_has(const Parts *parts, PartKind kind)
{
    for (const Part *part = parts->first; part; part = part->next)
        if (part->kind == kind) return true;
    return false;
}

int talk_joined_text(Arena *arena, const Parts *parts, Str *ret)
{
    *ret = STR_NULL;
    CLEANUP(buf_deinit) Buf all;
    buf_init(&all, arena->max);
    bool several = false;
    for (const Part *part = parts->first; part; part = part->next) {
        if (part->kind != PART_TEXT) continue;
        if (!several && !ret->ptr) {
            *ret = part->text;
            continue;
        }
        if (!several) (void)buf_add(&all, *ret);
        several = true;
        (void)buf_add(&all, part->text);
    }
    if (!several) return 0;
    *ret = all.failed ? STR_NULL : arena_str(arena, buf_str(&all));
    return ret->ptr ? 0 : -ENOMEM;
}

/* Some servers say "stop" where the model calls tools. */
StopReason talk_stop(const Talk *talk)
{
    bool calls = talk->first && talk_has(&talk->first->parts, PART_CALL);
    bool plain = talk->stop == STOP_END || talk->stop == STOP_UNKNOWN;
    return calls && plain ? STOP_TOOLS : talk->stop;
}

bool talk_is_blank(Str text)
{
    return str_empty(str_trim(text));
}

/* --- words ---------------------------------------------------------------------------------- */

static const struct {
    Api api;
    StopReason stop;
    const char *word; /* the first one of a reason is the one that is written */
} stop_words[] = {
    { API_CHAT, STOP_END, "stop" },
    { API_CHAT, STOP_SEQUENCE, "stop" },
    { API_CHAT, STOP_LENGTH, "length" },
    { API_CHAT, STOP_PAUSED, "length" },
    { API_CHAT, STOP_TOOLS, "tool_calls" },
    { API_CHAT, STOP_TOOLS, "function_call" },
    { API_CHAT, STOP_REFUSED, "content_filter" },
    { API_RESPONSES, STOP_LENGTH, "max_output_tokens" },
    { API_RESPONSES, STOP_PAUSED, "max_output_tokens" },
    { API_RESPONSES, STOP_REFUSED, "content_filter" },
    { API_MESSAGES, STOP_END, "end_turn" },
    { API_MESSAGES, STOP_LENGTH, "max_tokens" },
    { API_MESSAGES, STOP_LENGTH, "model_context_window_exceeded" },
    { API_MESSAGES, STOP_TOOLS, "tool_use" },
    { API_MESSAGES, STOP_SEQUENCE, "stop_sequence" },
    { API_MESSAGES, STOP_REFUSED, "refusal" },
    { API_MESSAGES, STOP_PAUSED, "pause_turn" },
};

StopReason talk_stop_of(Api api, Str word)
{
    for (size_t i = 0; i < ARRAY_N(stop_words); i++)
        if (stop_words[i].api == api && str_eq(word, str_of(stop_words[i].word)))
            return stop_words[i].stop;
    return STOP_UNKNOWN;
}

const char *talk_stop_word(Api api, StopReason stop)
{
    assert(stop < STOP_N_);
    for (size_t i = 0; i < ARRAY_N(stop_words); i++)
        if (stop_words[i].api == api && stop_words[i].stop == stop) return stop_words[i].word;
    return api == API_MESSAGES ? "end_turn" : "stop";
}

/* --- requests and answers ------------------------------------------------------------------- */

int translate_request(Arena *arena, Api from, const Json *body, Api to,
                      const TranslateTarget *target, Buf *out, TranslateFault *ret_fault)
{
    assert(translate_pair(from, to) && ret_fault && !str_empty(target->model));
    *ret_fault = (TranslateFault){ .param = NULL };
    Talk *talk = ARENA_NEW(arena, Talk);
    if (!talk) return -ENOMEM;
    TalkReader reader = { arena, talk, ret_fault };
    int r = apis[from]->read_request(&reader, body);
    if (r != 0) return r;
    TalkWriter writer = { arena, talk, target, ret_fault, json_out(out) };
    r = apis[to]->write_request(&writer);
    if (r == 0 && !json_out_ok(&writer.out)) r = -ENOMEM;
    return r;
}

int translate_answer(Arena *arena, Api from, const Json *body, Api to, const TranslateAbout *about,
                     Buf *out)
{
    assert(translate_pair(from, to) && about->usage);
    Talk *talk = ARENA_NEW(arena, Talk);
    if (!talk) return -ENOMEM;
    TalkReader reader = { arena, talk, NULL };
    int r = apis[from]->read_answer(&reader, body);
    if (r != 0) return r;
    TalkWriter writer = { arena, talk, NULL, NULL, json_out(out) };
    r = apis[to]->write_answer(&writer, about);
    if (r == 0 && !json_out_ok(&writer.out)) r = -ENOMEM;
    return r;
}

/* --- errors --------------------------------------------------------------------------------- */

static const struct {
    int status;
    const char *anthropic, *openai, *code; /* code NULL: none */
} error_kinds[] = {
    { 400, "invalid_request_error", "invalid_request_error", NULL },
    { 401, "authentication_error", "authentication_error", "invalid_api_key" },
    { 402, "billing_error", "insufficient_quota", "insufficient_quota" },
    { 403, "permission_error", "permission_error", NULL },
    { 404, "not_found_error", "invalid_request_error", "not_found" },
    { 408, "timeout_error", "timeout", NULL },
    { 413, "request_too_large", "invalid_request_error", "request_too_large" },
    { 422, "invalid_request_error", "invalid_request_error", NULL },
    { 429, "rate_limit_error", "requests", "rate_limit_exceeded" },
    { 500, "api_error", "server_error", NULL },
    { 503, "overloaded_error", "server_error", "overloaded" },
    { 504, "timeout_error", "server_error", "timeout" },
    { 529, "overloaded_error", "server_error", "overloaded" },
};

static size_t error_kind(int status)
{
    for (size_t i = 0; i < ARRAY_N(error_kinds); i++)
        if (error_kinds[i].status == status) return i;
    return status < 500 ? 0 : 9;
}

static Str error_message(Arena *arena, Str body, int status)
{
    const Json *v = NULL;
    Str text = STR_NULL;
    if (json_parse(arena, body, NULL, &v, NULL) == 0) {
        const Json *error = talk_member(v, "error");
        text = json_str(error ? error : v);
        if (str_empty(text)) text = json_str(json_get(error, "message"));
        if (str_empty(text)) text = json_str(json_get(v, "message"));
    }
    return str_empty(text) ? arena_printf(arena, "the provider answered with status %d", status)
                           : text;
}

/* 429 may mean that no money is left: retrying does not help, and OpenAI's clients look for it. */
static bool says_quota(Arena *arena, Str body)
{
    const Json *v = NULL;
    if (json_parse(arena, body, NULL, &v, NULL) != 0) return false;
    const Json *error = json_get(v, "error");
    return str_eq(json_str(json_get(error, "code")), STR("insufficient_quota")) ||
           str_eq(json_str(json_get(error, "type")), STR("insufficient_quota")) ||
           str_eq(json_str(json_get(error, "type")), STR("billing_error"));
}

static void out_openai_error(JsonOut *out, const char *type, const char *code, Str message)
{
    json_out_object(out);
    json_out_key(out, "error");
    json_out_object(out);
    json_out_kstr(out, "message", message);
    json_out_kcstr(out, "type", type);
    json_out_key(out, "param");
    json_out_null(out);
    json_out_key(out, "code");
    if (code) json_out_str(out, str_of(code));
    else json_out_null(out);
    json_out_object_end(out);
    json_out_object_end(out);
}

static void out_anthropic_error(JsonOut *out, const char *type, Str message, Str request_id)
{
    json_out_object(out);
    json_out_kcstr(out, "type", "error");
    json_out_key(out, "error");
    json_out_object(out);
    json_out_kcstr(out, "type", type);
    json_out_kstr(out, "message", message);
    json_out_object_end(out);
    if (!str_empty(request_id)) json_out_kstr(out, "request_id", request_id);
    json_out_object_end(out);
}

bool translate_error(Arena *arena, Str body, int status, Api to, Str request_id, Buf *out)
{
    Str message = error_message(arena, body, status);
    size_t kind = says_quota(arena, body) ? 2 : error_kind(status);
    JsonOut json = json_out(out);
    if (to == API_MESSAGES)
        out_anthropic_error(&json, error_kinds[kind].anthropic, message, request_id);
    else out_openai_error(&json, error_kinds[kind].openai, error_kinds[kind].code, message);
    return json_out_ok(&json);
}
