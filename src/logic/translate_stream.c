/* The items of a streamed answer: in the order they began, each given away as it comes as far as
 * the client's API allows. */
#include "logic/translate_private.h"

#define NAMES_BYTES_MAX ((size_t)1 << 20)
#define EVENT_BYTES_MAX ((size_t)64 << 20)
#define CALL_ID_BYTES_MAX 64
#define CHAT_CALL_ID_BYTES_MAX 40

void translate_stream_init(TranslateStream *t, Api from, Api to, bool include_usage,
                           int64_t created_s)
{
    assert(translate_pair(from, to));
    memset(t, 0, sizeof *t);
    t->from = from;
    t->to = to;
    t->include_usage = include_usage;
    t->created_s = created_s;
    arena_init(&t->arena, NAMES_BYTES_MAX);
    buf_init(&t->data, EVENT_BYTES_MAX);
}

void translate_stream_deinit(TranslateStream *t)
{
    for (size_t i = 0; i < t->items_n; i++) buf_deinit(&t->items[i].held);
    arena_deinit(&t->arena);
    buf_deinit(&t->data);
}

int64_t translate_stream_sequence(const TranslateStream *t)
{
    return t->sequence;
}

/* --- items ---------------------------------------------------------------------------------- */

int stream_item(TranslateStream *t, TranslateItemKind kind, int64_t source, TranslateItem **ret)
{
    if (t->items_n == TRANSLATE_ITEMS_MAX) return -EMSGSIZE;
    TranslateItem *item = &t->items[t->items_n++];
    item->kind = kind;
    item->source = source;
    buf_init(&item->held, TRANSLATE_HELD_BYTES_MAX);
    *ret = item;
    return 0;
}

TranslateItem *stream_find(TranslateStream *t, int64_t source)
{
    for (size_t i = t->items_n; i-- > 0;)
        if (t->items[i].source == source) return &t->items[i];
    return NULL;
}

int stream_add(TranslateStream *t, TranslateItem *item, Str bytes)
{
    assert(t->held_bytes <= TRANSLATE_HELD_BYTES_MAX);
    if (item->closed || str_empty(bytes)) return 0;
    if (bytes.len > TRANSLATE_HELD_BYTES_MAX - t->held_bytes) return -EMSGSIZE;
    if (!buf_add(&item->held, bytes)) return -ENOMEM;
    t->held_bytes += bytes.len;
    return 0;
}

static int keep_first(TranslateStream *t, Str *kept, Str s)
{
    if (kept->ptr || str_empty(s)) return 0;
    *kept = arena_str(&t->arena, s);
    return kept->ptr ? 0 : -ENOMEM;
}

int stream_name(TranslateStream *t, TranslateItem *item, Str id, Str name)
{
    int r = item->opened ? 0 : keep_first(t, &item->id, id);
    if (r == 0) r = keep_first(t, &item->said_id, id);
    return r == 0 ? keep_first(t, &item->name, name) : r;
}

int stream_head(TranslateStream *t, const Json *head)
{
    int r = keep_first(t, &t->id, json_str(json_get(head, "id")));
    return r == 0 ? keep_first(t, &t->model, json_str(json_get(head, "model"))) : r;
}

/* Some servers say "stop" where the model calls tools or refuses. */
StopReason stream_stop(const TranslateStream *t)
{
    if (t->stop != STOP_UNKNOWN && t->stop != STOP_END) return t->stop;
    for (size_t i = 0; i < t->items_n; i++)
        if (t->items[i].kind == ITEM_CALL) return STOP_TOOLS;
    for (size_t i = 0; i < t->items_n; i++)
        if (t->items[i].kind == ITEM_REFUSAL) return STOP_REFUSED;
    return STOP_END;
}

/* --- giving away ---------------------------------------------------------------------------- */

/* A call is opened with its name, a text with its first byte. */
static bool may_open(const TranslateItem *item)
{
    if (item->kind == ITEM_CALL) return item->name.ptr || item->closed;
    return item->held.len > 0;
}

/* Some servers give calls no ids, but clients answer by them. */
static int name_item(TranslateStream *t, TranslateItem *item)
{
    bool call = item->kind == ITEM_CALL;
    size_t n = (size_t)(item - t->items);
    if (call && !item->id.ptr)
        item->id = arena_printf(&t->arena, "call_%zu_%.*s", n, STR_ARG(t->id));
    size_t id_max = t->to == API_CHAT ? CHAT_CALL_ID_BYTES_MAX : CALL_ID_BYTES_MAX;
    if (call && item->id.ptr) item->id = talk_call_id(&t->arena, item->id, id_max);
    Str bare = talk_answer_id(&t->arena, "", t->id);
    item->wire_id = arena_printf(&t->arena, "%s_%.*s_%zu", call ? "fc" : "msg", STR_ARG(bare), n);
    return item->wire_id.ptr && bare.ptr && (!call || item->id.ptr) ? 0 : -ENOMEM;
}

static int open_item(TranslateStream *t, TranslateItem *item, Buf *out)
{
    assert(!item->opened);
    int r = name_item(t, item);
    if (r != 0) return r;
    bool by_call = t->to == API_CHAT && item->kind == ITEM_CALL;
    item->number = by_call ? t->calls_n++ : t->opened_n++;
    item->opened = true;
    return stream_writers[t->to].open(t, item, out) ? 0 : -ENOMEM;
}

static int give(TranslateStream *t, TranslateItem *item, Buf *out)
{
    const StreamWriter *writer = &stream_writers[t->to];
    Str bytes = str_skip(buf_str(&item->held), item->given);
    if (str_empty(bytes)) return 0;
    if (!writer->add(t, item, bytes, out)) return -ENOMEM;
    item->any = true;
    if (writer->keeps) {
        item->given = item->held.len;
        return 0;
    }
    t->held_bytes -= bytes.len;
    buf_clear(&item->held);
    return 0;
}

/* Everything of the item that may be given now. */
static int advance(TranslateStream *t, TranslateItem *item, Buf *out)
{
    int r = 0;
    if (!item->opened && may_open(item)) r = open_item(t, item, out);
    if (r == 0 && item->opened) r = give(t, item, out);
    if (r != 0 || !item->closed) return r;
    item->ended = true;
    return !item->opened || stream_writers[t->to].close(t, item, out) ? 0 : -ENOMEM;
}

static int begin(TranslateStream *t, Buf *out)
{
    static const char *const prefixes[API_N_] = {
        [API_CHAT] = "chatcmpl-", [API_RESPONSES] = "resp_", [API_MESSAGES] = "msg_"
    };
    if (t->begun) return 0;
    t->begun = true;
    t->answer_id = talk_answer_id(&t->arena, prefixes[t->to], t->id);
    return t->answer_id.ptr && stream_writers[t->to].begin(t, out) ? 0 : -ENOMEM;
}

static int pump(TranslateStream *t, Buf *out)
{
    const StreamWriter *writer = &stream_writers[t->to];
    if (!t->id.ptr && t->items_n == 0) return 0;
    int e = begin(t, out);
    if (e != 0) return e;
    for (size_t i = t->live; i < t->items_n; i++) {
        TranslateItem *item = &t->items[i];
        e = item->ended ? 0 : advance(t, item, out);
        if (e != 0) return e;
        if (item->ended && i == t->live) t->live++;
        if (!item->ended && !writer->interleaved) break;
    }
    return 0;
}

int translate_stream_feed(TranslateStream *t, Str event, const Json *data, Buf *out)
{
    assert(!t->finished);
    int r = data ? stream_read(t, event, data) : 0;
    return r == 0 ? pump(t, out) : r;
}

int translate_stream_finish(TranslateStream *t, const Usage *usage, Buf *out)
{
    assert(!t->finished);
    t->finished = true;
    for (size_t i = 0; i < t->items_n; i++) t->items[i].closed = true;
    int r = begin(t, out);
    if (r == 0) r = pump(t, out);
    if (r != 0) return r;
    assert(t->live == t->items_n);
    return stream_writers[t->to].end(t, usage, out) ? 0 : -ENOMEM;
}
