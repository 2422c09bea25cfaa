/* Events of the three APIs, read into items. */
#include "logic/translate_private.h"

#define SOURCE_TEXT (-1) /* chat: texts have no number */
#define SOURCE_REFUSAL (-2)
#define PARTS_MAX 1024 /* Responses: of an output item */

static int64_t number_of(const Json *v)
{
    int64_t n = json_i64_or(v, 0);
    return n >= 0 && n < INT32_MAX ? n : 0;
}

/* --- chat ----------------------------------------------------------------------------------- */

/* Texts are not interleaved: what follows a call is a new one. */
static int chat_text(TranslateStream *t, TranslateItemKind kind, int64_t source, Str text)
{
    if (str_empty(text)) return 0;
    TranslateItem *item = t->items_n ? &t->items[t->items_n - 1] : NULL;
    if (!item || item->source != source) {
        if (item && item->kind != ITEM_CALL) item->closed = true;
        int r = stream_item(t, kind, source, &item);
        if (r != 0) return r;
    }
    return stream_add(t, item, text);
}

/* Some servers give all calls the same number, or none. */
static bool is_another(const TranslateItem *item, Str id, Str name)
{
    return item->said_id.ptr && !str_empty(id) && !str_empty(name) && !str_eq(item->said_id, id);
}

/* Fragments of several calls may alternate, so a call ends with the answer only. */
static int chat_call(TranslateStream *t, const Json *call, int64_t nth)
{
    const Json *index = json_get(call, "index"), *function = json_get(call, "function");
    int64_t source = index ? number_of(index) : nth;
    Str id = json_str(json_get(call, "id")), name = json_str(json_get(function, "name"));
    TranslateItem *item = stream_find(t, source);
    if (!item || is_another(item, id, name)) {
        TranslateItem *before = t->items_n ? &t->items[t->items_n - 1] : NULL;
        if (before && before->kind != ITEM_CALL) before->closed = true;
        int r = stream_item(t, ITEM_CALL, source, &item);
        if (r != 0) return r;
    }
    int r = stream_name(t, item, id, name);
    return r == 0 ? stream_add(t, item, json_str(json_get(function, "arguments"))) : r;
}

static int read_chat(TranslateStream *t, const Json *data)
{
    int r = stream_head(t, data);
    for (JsonIter it = json_iter(json_get(data, "choices")); r == 0 && json_next(&it);) {
        if (number_of(json_get(it.value, "index")) != 0) continue;
        const Json *delta = json_get(it.value, "delta");
        r = chat_text(t, ITEM_TEXT, SOURCE_TEXT, json_str(json_get(delta, "content")));
        if (r == 0)
            r = chat_text(t, ITEM_REFUSAL, SOURCE_REFUSAL, json_str(json_get(delta, "refusal")));
        int64_t nth = 0;
        JsonIter call = json_iter(json_get(delta, "tool_calls"));
        for (; r == 0 && json_next(&call); nth++) r = chat_call(t, call.value, nth);
        Str reason = json_str(json_get(it.value, "finish_reason"));
        if (!str_empty(reason)) t->stop = talk_stop_of(API_CHAT, reason);
    }
    return r;
}

/* --- messages ------------------------------------------------------------------------------- */

static int messages_block(TranslateStream *t, const Json *data)
{
    const Json *block = json_get(data, "content_block");
    Str type = json_str(json_get(block, "type"));
    int64_t source = number_of(json_get(data, "index"));
    bool call = str_eq(type, STR("tool_use"));
    if (!call && !str_eq(type, STR("text"))) return 0; /* thoughts */
    TranslateItem *item;
    int r = stream_item(t, call ? ITEM_CALL : ITEM_TEXT, source, &item);
    if (r != 0) return r;
    if (!call) return stream_add(t, item, json_str(json_get(block, "text")));
    return stream_name(t, item, json_str(json_get(block, "id")), json_str(json_get(block, "name")));
}

static int messages_delta(TranslateStream *t, const Json *data)
{
    const Json *delta = json_get(data, "delta");
    TranslateItem *item = stream_find(t, number_of(json_get(data, "index")));
    if (!item) return 0;
    const char *key = item->kind == ITEM_CALL ? "partial_json" : "text";
    return stream_add(t, item, json_str(json_get(delta, key)));
}

static int messages_stop(TranslateStream *t, const Json *delta)
{
    Str reason = json_str(json_get(delta, "stop_reason"));
    Str sequence = json_str(json_get(delta, "stop_sequence"));
    if (!str_empty(reason)) t->stop = talk_stop_of(API_MESSAGES, reason);
    if (str_empty(sequence) || t->stop_sequence.ptr) return 0;
    t->stop_sequence = arena_str(&t->arena, sequence);
    return t->stop_sequence.ptr ? 0 : -ENOMEM;
}

static int read_messages(TranslateStream *t, Str type, const Json *data)
{
    if (str_eq(type, STR("message_start"))) return stream_head(t, json_get(data, "message"));
    if (str_eq(type, STR("content_block_start"))) return messages_block(t, data);
    if (str_eq(type, STR("content_block_delta"))) return messages_delta(t, data);
    if (str_eq(type, STR("message_delta"))) return messages_stop(t, json_get(data, "delta"));
    if (!str_eq(type, STR("content_block_stop"))) return 0;
    TranslateItem *item = stream_find(t, number_of(json_get(data, "index")));
    if (item) item->closed = true;
    return 0;
}

/* --- Responses ------------------------------------------------------------------------------ */

static int64_t responses_source(const Json *data)
{
    int64_t part = number_of(json_get(data, "content_index")) % PARTS_MAX;
    return number_of(json_get(data, "output_index")) * PARTS_MAX + part;
}

/* The text's or call's item, made when this event is the first of it. */
static int responses_item(TranslateStream *t, TranslateItemKind kind, const Json *data,
                          TranslateItem **ret)
{
    int64_t source = responses_source(data);
    *ret = stream_find(t, source);
    return *ret ? 0 : stream_item(t, kind, source, ret);
}

static int responses_delta(TranslateStream *t, TranslateItemKind kind, const Json *data)
{
    TranslateItem *item;
    int r = responses_item(t, kind, data, &item);
    return r == 0 ? stream_add(t, item, json_str(json_get(data, "delta"))) : r;
}

/* What was never sent in pieces comes with the end. */
static int responses_done(TranslateStream *t, TranslateItemKind kind, const Json *data, Str whole)
{
    TranslateItem *item;
    int r = responses_item(t, kind, data, &item);
    if (r == 0 && !item->any && item->held.len == 0) r = stream_add(t, item, whole);
    if (r == 0) item->closed = true;
    return r;
}

static int responses_call(TranslateStream *t, const Json *data, bool done)
{
    const Json *call = json_get(data, "item");
    if (!str_eq(json_str(json_get(call, "type")), STR("function_call"))) return 0;
    TranslateItem *item;
    int r = responses_item(t, ITEM_CALL, data, &item);
    if (r == 0)
        r = stream_name(t, item, json_str(json_get(call, "call_id")),
                        json_str(json_get(call, "name")));
    if (r != 0 || !done) return r;
    return responses_done(t, ITEM_CALL, data, json_str(json_get(call, "arguments")));
}

static void responses_end(TranslateStream *t, Str type, const Json *response)
{
    Str why = json_str(json_get(json_get(response, "incomplete_details"), "reason"));
    t->stop = talk_stop_of(API_RESPONSES, why);
    if (t->stop == STOP_UNKNOWN)
        t->stop = str_eq(type, STR("response.incomplete")) ? STOP_LENGTH : STOP_END;
}

static int read_responses(TranslateStream *t, Str type, const Json *data)
{
    const Json *response = json_get(data, "response");
    if (response) {
        int r = stream_head(t, response);
        if (r != 0) return r;
    }
    if (str_eq(type, STR("response.output_text.delta"))) return responses_delta(t, ITEM_TEXT, data);
    if (str_eq(type, STR("response.output_text.done")))
        return responses_done(t, ITEM_TEXT, data, json_str(json_get(data, "text")));
    if (str_eq(type, STR("response.refusal.delta"))) return responses_delta(t, ITEM_REFUSAL, data);
    if (str_eq(type, STR("response.refusal.done")))
        return responses_done(t, ITEM_REFUSAL, data, json_str(json_get(data, "refusal")));
    if (str_eq(type, STR("response.output_item.added"))) return responses_call(t, data, false);
    if (str_eq(type, STR("response.function_call_arguments.delta")))
        return responses_delta(t, ITEM_CALL, data);
    if (str_eq(type, STR("response.output_item.done"))) return responses_call(t, data, true);
    if (str_eq(type, STR("response.completed")) || str_eq(type, STR("response.incomplete")))
        responses_end(t, type, response);
    return 0;
}

int stream_read(TranslateStream *t, Str event, const Json *data)
{
    Str type = json_str(json_get(data, "type"));
    if (str_empty(type)) type = event;
    switch (t->from) {
    case API_CHAT: return read_chat(t, data);
    case API_RESPONSES: return read_responses(t, type, data);
    case API_MESSAGES: return read_messages(t, type, data);
    case API_EMBEDDINGS:
    case API_N_: break;
    }
    return 0;
}
