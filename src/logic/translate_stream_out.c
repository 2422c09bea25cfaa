/* Items, written as events of the three APIs. */
#include "codec/sse.h"
#include "logic/translate_private.h"

static JsonOut event_begin(TranslateStream *t)
{
    buf_clear(&t->data);
    JsonOut out = json_out(&t->data);
    json_out_object(&out);
    return out;
}

static bool event_end(TranslateStream *t, JsonOut *event, const char *name, Buf *out)
{
    json_out_object_end(event);
    return json_out_ok(event) && sse_add_event(out, str_of(name), STR_NULL, buf_str(&t->data)) == 0;
}

/* --- chat ----------------------------------------------------------------------------------- */

static JsonOut chunk_begin(TranslateStream *t)
{
    JsonOut e = event_begin(t);
    json_out_kstr(&e, "id", t->answer_id);
    json_out_kcstr(&e, "object", "chat.completion.chunk");
    json_out_ki64(&e, "created", t->created_s);
    json_out_kstr(&e, "model", t->model);
    json_out_key(&e, "choices");
    json_out_array(&e);
    return e;
}

static JsonOut choice_begin(TranslateStream *t)
{
    JsonOut e = chunk_begin(t);
    json_out_object(&e);
    json_out_ki64(&e, "index", 0);
    json_out_key(&e, "delta");
    json_out_object(&e);
    return e;
}

static bool choice_end(TranslateStream *t, JsonOut *e, const char *finish, Buf *out)
{
    json_out_object_end(e);
    json_out_key(e, "finish_reason");
    if (finish) json_out_str(e, str_of(finish));
    else json_out_null(e);
    json_out_object_end(e);
    json_out_array_end(e);
    if (t->include_usage) {
        json_out_key(e, "usage");
        json_out_null(e);
    }
    return event_end(t, e, NULL, out);
}

static bool chat_begin(TranslateStream *t, Buf *out)
{
    JsonOut e = choice_begin(t);
    json_out_kcstr(&e, "role", "assistant");
    json_out_kcstr(&e, "content", "");
    return choice_end(t, &e, NULL, out);
}

static bool chat_call(TranslateStream *t, const TranslateItem *item, bool first, Str arguments,
                      Buf *out)
{
    JsonOut e = choice_begin(t);
    json_out_key(&e, "tool_calls");
    json_out_array(&e);
    json_out_object(&e);
    json_out_ki64(&e, "index", item->number);
    if (first) json_out_kstr(&e, "id", item->id);
    if (first) json_out_kcstr(&e, "type", "function");
    json_out_key(&e, "function");
    json_out_object(&e);
    if (first) json_out_kstr(&e, "name", item->name);
    json_out_kstr(&e, "arguments", arguments);
    json_out_object_end(&e);
    json_out_object_end(&e);
    json_out_array_end(&e);
    return choice_end(t, &e, NULL, out);
}

static bool chat_open(TranslateStream *t, const TranslateItem *item, Buf *out)
{
    return item->kind != ITEM_CALL || chat_call(t, item, true, STR(""), out);
}

static bool chat_add(TranslateStream *t, const TranslateItem *item, Str bytes, Buf *out)
{
    if (item->kind == ITEM_CALL) return chat_call(t, item, false, bytes, out);
    JsonOut e = choice_begin(t);
    json_out_kstr(&e, item->kind == ITEM_TEXT ? "content" : "refusal", bytes);
    return choice_end(t, &e, NULL, out);
}

/* A call without arguments has an empty object of them. */
static bool chat_close(TranslateStream *t, const TranslateItem *item, Buf *out)
{
    return item->kind != ITEM_CALL || item->any || chat_call(t, item, false, STR("{}"), out);
}

static bool chat_end(TranslateStream *t, const Usage *usage, Buf *out)
{
    JsonOut e = choice_begin(t);
    if (!choice_end(t, &e, talk_stop_word(API_CHAT, stream_stop(t)), out)) return false;
    if (t->include_usage && usage->valid) {
        e = chunk_begin(t);
        json_out_array_end(&e);
        json_out_key(&e, "usage");
        chat_out_usage(&e, usage);
        if (!event_end(t, &e, NULL, out)) return false;
    }
    return sse_add_event(out, STR_NULL, STR_NULL, STR("[DONE]")) == 0;
}

/* --- messages ------------------------------------------------------------------------------- */

static JsonOut messages_event(TranslateStream *t, const char *type)
{
    JsonOut e = event_begin(t);
    json_out_kcstr(&e, "type", type);
    return e;
}

/* Counts come with the end; these stand in for them. */
static bool messages_begin(TranslateStream *t, Buf *out)
{
    static const Usage none;
    JsonOut e = messages_event(t, "message_start");
    json_out_key(&e, "message");
    json_out_object(&e);
    json_out_kstr(&e, "id", t->answer_id);
    json_out_kcstr(&e, "type", "message");
    json_out_kcstr(&e, "role", "assistant");
    json_out_kstr(&e, "model", t->model);
    json_out_key(&e, "content");
    json_out_array(&e);
    json_out_array_end(&e);
    json_out_key(&e, "stop_reason");
    json_out_null(&e);
    json_out_key(&e, "stop_sequence");
    json_out_null(&e);
    json_out_key(&e, "usage");
    messages_out_usage(&e, &none);
    json_out_object_end(&e);
    return event_end(t, &e, "message_start", out);
}

static bool messages_open(TranslateStream *t, const TranslateItem *item, Buf *out)
{
    bool call = item->kind == ITEM_CALL;
    JsonOut e = messages_event(t, "content_block_start");
    json_out_ki64(&e, "index", item->number);
    json_out_key(&e, "content_block");
    json_out_object(&e);
    json_out_kcstr(&e, "type", call ? "tool_use" : "text");
    if (call) {
        json_out_kstr(&e, "id", item->id);
        json_out_kstr(&e, "name", item->name);
        json_out_key(&e, "input");
        json_out_object(&e);
        json_out_object_end(&e);
    } else {
        json_out_kcstr(&e, "text", "");
    }
    json_out_object_end(&e);
    return event_end(t, &e, "content_block_start", out);
}

static bool messages_add(TranslateStream *t, const TranslateItem *item, Str bytes, Buf *out)
{
    bool call = item->kind == ITEM_CALL;
    JsonOut e = messages_event(t, "content_block_delta");
    json_out_ki64(&e, "index", item->number);
    json_out_key(&e, "delta");
    json_out_object(&e);
    json_out_kcstr(&e, "type", call ? "input_json_delta" : "text_delta");
    json_out_kstr(&e, call ? "partial_json" : "text", bytes);
    json_out_object_end(&e);
    return event_end(t, &e, "content_block_delta", out);
}

static bool messages_close(TranslateStream *t, const TranslateItem *item, Buf *out)
{
    JsonOut e = messages_event(t, "content_block_stop");
    json_out_ki64(&e, "index", item->number);
    return event_end(t, &e, "content_block_stop", out);
}

static bool messages_end(TranslateStream *t, const Usage *usage, Buf *out)
{
    JsonOut e = messages_event(t, "message_delta");
    json_out_key(&e, "delta");
    json_out_object(&e);
    json_out_kcstr(&e, "stop_reason", talk_stop_word(API_MESSAGES, stream_stop(t)));
    json_out_key(&e, "stop_sequence");
    if (t->stop_sequence.ptr) json_out_str(&e, t->stop_sequence);
    else json_out_null(&e);
    json_out_object_end(&e);
    json_out_key(&e, "usage");
    messages_out_usage(&e, usage);
    if (!event_end(t, &e, "message_delta", out)) return false;
    e = messages_event(t, "message_stop");
    return event_end(t, &e, "message_stop", out);
}

/* --- Responses ------------------------------------------------------------------------------ */

static JsonOut responses_event(TranslateStream *t, const char *type)
{
    JsonOut e = event_begin(t);
    json_out_kcstr(&e, "type", type);
    json_out_ki64(&e, "sequence_number", t->sequence++);
    return e;
}

static JsonOut item_event(TranslateStream *t, const char *type, const TranslateItem *item)
{
    JsonOut e = responses_event(t, type);
    json_out_ki64(&e, "output_index", item->number);
    return e;
}

/* With the place in the item, which for calls is the item. */
static JsonOut part_event(TranslateStream *t, const char *type, const TranslateItem *item)
{
    JsonOut e = item_event(t, type, item);
    json_out_kstr(&e, "item_id", item->wire_id);
    if (item->kind != ITEM_CALL) json_out_ki64(&e, "content_index", 0);
    return e;
}

static void out_item(JsonOut *e, const TranslateItem *item, bool whole)
{
    Str text = whole ? buf_str(&item->held) : STR("");
    const char *status = whole ? "completed" : "in_progress";
    if (item->kind != ITEM_CALL) {
        responses_out_message(e, item->wire_id, status, item->kind == ITEM_REFUSAL, text, whole);
        return;
    }
    if (whole && str_empty(text)) text = STR("{}");
    responses_out_call(e, item->wire_id, status, item->id, item->name, text);
}

static bool response_event(TranslateStream *t, const char *type, const char *status,
                           const Usage *usage, Buf *out)
{
    JsonOut e = responses_event(t, type);
    json_out_key(&e, "response");
    json_out_object(&e);
    responses_out_head(&e, t->answer_id, t->created_s, status, t->model, stream_stop(t));
    json_out_key(&e, "output");
    json_out_array(&e);
    for (size_t i = 0; usage && i < t->items_n; i++)
        if (t->items[i].opened) out_item(&e, &t->items[i], true);
    json_out_array_end(&e);
    json_out_key(&e, "usage");
    if (usage && usage->valid) responses_out_usage(&e, usage);
    else json_out_null(&e);
    json_out_object_end(&e);
    return event_end(t, &e, type, out);
}

static bool responses_begin(TranslateStream *t, Buf *out)
{
    return response_event(t, "response.created", "in_progress", NULL, out) &&
           response_event(t, "response.in_progress", "in_progress", NULL, out);
}

static bool responses_open(TranslateStream *t, const TranslateItem *item, Buf *out)
{
    JsonOut e = item_event(t, "response.output_item.added", item);
    json_out_key(&e, "item");
    out_item(&e, item, false);
    if (!event_end(t, &e, "response.output_item.added", out)) return false;
    if (item->kind == ITEM_CALL) return true;
    e = part_event(t, "response.content_part.added", item);
    json_out_key(&e, "part");
    responses_out_content(&e, item->kind == ITEM_REFUSAL, STR(""));
    return event_end(t, &e, "response.content_part.added", out);
}

static const char *delta_name(TranslateItemKind kind, bool done)
{
    switch (kind) {
    case ITEM_TEXT: return done ? "response.output_text.done" : "response.output_text.delta";
    case ITEM_REFUSAL: return done ? "response.refusal.done" : "response.refusal.delta";
    case ITEM_CALL: break;
    }
    return done ? "response.function_call_arguments.done"
                : "response.function_call_arguments.delta";
}

static void out_no_logprobs(JsonOut *e, const TranslateItem *item)
{
    if (item->kind != ITEM_TEXT) return;
    json_out_key(e, "logprobs");
    json_out_array(e);
    json_out_array_end(e);
}

static bool responses_add(TranslateStream *t, const TranslateItem *item, Str bytes, Buf *out)
{
    const char *name = delta_name(item->kind, false);
    JsonOut e = part_event(t, name, item);
    json_out_kstr(&e, "delta", bytes);
    out_no_logprobs(&e, item);
    return event_end(t, &e, name, out);
}

static bool responses_close(TranslateStream *t, const TranslateItem *item, Buf *out)
{
    static const char *const whole_key[] = {
        [ITEM_TEXT] = "text", [ITEM_REFUSAL] = "refusal", [ITEM_CALL] = "arguments"
    };
    const char *name = delta_name(item->kind, true);
    Str text = buf_str(&item->held);
    JsonOut e = part_event(t, name, item);
    if (item->kind == ITEM_CALL && str_empty(text)) text = STR("{}");
    json_out_kstr(&e, whole_key[item->kind], text);
    out_no_logprobs(&e, item);
    if (!event_end(t, &e, name, out)) return false;
    if (item->kind != ITEM_CALL) {
        e = part_event(t, "response.content_part.done", item);
        json_out_key(&e, "part");
        responses_out_content(&e, item->kind == ITEM_REFUSAL, text);
        if (!event_end(t, &e, "response.content_part.done", out)) return false;
    }
    e = item_event(t, "response.output_item.done", item);
    json_out_key(&e, "item");
    out_item(&e, item, true);
    return event_end(t, &e, "response.output_item.done", out);
}

static bool responses_end(TranslateStream *t, const Usage *usage, Buf *out)
{
    bool refusal = false;
    for (size_t i = 0; i < t->items_n; i++) refusal |= t->items[i].kind == ITEM_REFUSAL;
    const char *status = responses_status(stream_stop(t), refusal);
    bool complete = strcmp(status, "completed") == 0;
    return response_event(t, complete ? "response.completed" : "response.incomplete", status, usage,
                          out);
}

const StreamWriter stream_writers[API_N_] = {
    [API_CHAT] = { .interleaved = true,
                   .begin = chat_begin,
                   .open = chat_open,
                   .add = chat_add,
                   .close = chat_close,
                   .end = chat_end },
    [API_RESPONSES] = { .keeps = true,
                        .begin = responses_begin,
                        .open = responses_open,
                        .add = responses_add,
                        .close = responses_close,
                        .end = responses_end },
    [API_MESSAGES] = { .begin = messages_begin,
                       .open = messages_open,
                       .add = messages_add,
                       .close = messages_close,
                       .end = messages_end },
};
