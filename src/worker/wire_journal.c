/* Recordings on the wire, both directions. */
#include "base/diag.h"
#include "codec/base64.h"
#include "codec/hex.h"
#include "codec/time_text.h"
#include "worker/wire.h"

static int missing(const char *name)
{
    return diag_set(-EINVAL, "`%s` of a recording is missing or not what it should be", name);
}

/* --- bytes ------------------------------------------------------------------------------------ */

static void bytes_write(JsonOut *out, const char *key, const JournalBytes *bytes)
{
    json_out_key(out, key);
    json_out_object(out);
    json_out_ki64(out, "bytes", bytes->n);
    json_out_kbool(out, "gzip", bytes->gzip);
    json_out_key(out, "data");
    json_out_base64(out, bytes->bytes);
    json_out_object_end(out);
}

static int bytes_read(Arena *arena, const Json *v, JournalBytes *ret)
{
    Str text = json_str(json_get(v, "data"));
    size_t n;
    if (json_type(json_get(v, "data")) != JSON_STRING) return missing("data");
    if (json_i64(json_get(v, "bytes"), &ret->n) < 0 || ret->n < 0) return missing("bytes");
    char *bytes = arena_alloc(arena, BASE64_BYTES_MAX(text.len) + 1);
    if (!bytes) return diag_set(-ENOMEM, "a recording is too large");
    if (base64_decode(text, bytes, &n) < 0) return missing("data");
    ret->bytes = str_make(bytes, n);
    ret->gzip = json_bool(json_get(v, "gzip"), false);
    return 0;
}

static void key_write(JsonOut *out, const uint8_t key[SHA256_BYTES])
{
    char text[SHA256_HEX_MAX];
    hex_encode(text, key, SHA256_BYTES);
    json_out_kcstr(out, "key", text);
}

static int key_read(const Json *v, uint8_t key[SHA256_BYTES])
{
    return hex_decode(json_str(json_get(v, "key")), key, SHA256_BYTES) < 0 ? missing("key") : 0;
}

/* --- what is to be kept ----------------------------------------------------------------------- */

static void request_write(JsonOut *out, const JournalRequest *request)
{
    json_out_key(out, "request");
    json_out_object(out);
    json_out_ki64(out, "bytes", request->n);
    json_out_kstr(out, "base", request->base);
    json_out_ki64(out, "prefix", (int64_t)request->share.prefix);
    json_out_ki64(out, "suffix", (int64_t)request->share.suffix);
    bytes_write(out, "rest", &request->rest);
    json_out_object_end(out);
}

static int request_read(Arena *arena, const Json *v, JournalRequest *ret)
{
    int64_t prefix = json_i64_or(json_get(v, "prefix"), 0);
    int64_t suffix = json_i64_or(json_get(v, "suffix"), 0);
    ret->n = json_i64_or(json_get(v, "bytes"), 0);
    ret->base = json_str(json_get(v, "base"));
    if (ret->n < 0 || ret->n > (int64_t)JOURNAL_REQUEST_MAX) return missing("request");
    if (prefix < 0 || suffix < 0 || prefix > ret->n || suffix > ret->n) return missing("request");
    ret->share = (ReplayShare){ (size_t)prefix, (size_t)suffix };
    return bytes_read(arena, json_get(v, "rest"), &ret->rest);
}

void wire_recording_write(JsonOut *out, const JournalNew *rec)
{
    char at[TIME_TEXT_MAX];
    json_out_object(out);
    json_out_kcstr(out, "kind", replay_kind_name(rec->kind));
    json_out_kstr(out, "name", rec->name);
    json_out_kstr(out, "callId", rec->call_id);
    key_write(out, rec->key);
    json_out_kcstr(out, "at", time_format(rec->at_ms, at));
    json_out_ki64(out, "status", rec->status);
    json_out_kstr(out, "contentType", rec->content_type);
    json_out_kbool(out, "streamed", rec->streamed);
    json_out_kbool(out, "complete", rec->complete);
    bytes_write(out, "answer", &rec->answer);
    request_write(out, &rec->request);
    json_out_object_end(out);
}

int wire_recording_read(Arena *arena, const Json *v, JournalNew *ret)
{
    JournalNew rec = { .name = json_str(json_get(v, "name")),
                       .call_id = json_str(json_get(v, "callId")),
                       .status = json_i64_or(json_get(v, "status"), 0),
                       .content_type = json_str(json_get(v, "contentType")),
                       .streamed = json_bool(json_get(v, "streamed"), false),
                       .complete = json_bool(json_get(v, "complete"), false) };
    if (rec.name.len == 0 || rec.name.len > JOURNAL_NAME_MAX) return missing("name");
    if (replay_kind_from(json_str(json_get(v, "kind")), &rec.kind) < 0) return missing("kind");
    if (time_parse(json_str(json_get(v, "at")), &rec.at_ms) < 0) return missing("at");
    int r = key_read(v, rec.key);
    if (r == 0) r = bytes_read(arena, json_get(v, "answer"), &rec.answer);
    if (r == 0) r = request_read(arena, json_get(v, "request"), &rec.request);
    if (r == 0) *ret = rec;
    return r;
}

/* --- what is to be replayed ------------------------------------------------------------------- */

static void rows_write(JsonOut *out, const JournalReply *reply)
{
    json_out_key(out, "recordings");
    json_out_array(out);
    for (size_t i = 0; i < reply->rows_n; i++) {
        const JournalRow *row = &reply->rows[i];
        json_out_object(out);
        json_out_ki64(out, "n", row->n);
        if (!str_empty(row->call_id)) json_out_kstr(out, "callId", row->call_id);
        json_out_kcstr(out, "kind", replay_kind_name(row->kind));
        key_write(out, row->key);
        json_out_kbool(out, "complete", row->complete);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

static int rows_read(Arena *arena, const Json *rows, JournalReply *ret)
{
    if (json_type(rows) != JSON_ARRAY || json_len(rows) > JOURNAL_PAGE_MAX)
        return missing("recordings");
    ret->rows = ARENA_ARRAY(arena, JournalRow, json_len(rows) + 1);
    if (!ret->rows) return diag_set(-ENOMEM, "too many recordings");
    for (JsonIter it = json_iter(rows); json_next(&it);) {
        JournalRow *row = &ret->rows[ret->rows_n++];
        row->n = json_i64_or(json_get(it.value, "n"), 0);
        row->call_id = json_str(json_get(it.value, "callId"));
        row->complete = json_bool(json_get(it.value, "complete"), false);
        if (row->n <= 0) return missing("n");
        if (replay_kind_from(json_str(json_get(it.value, "kind")), &row->kind) < 0)
            return missing("kind");
        int r = key_read(it.value, row->key);
        if (r < 0) return r;
    }
    return 0;
}

static void kept_write(JsonOut *out, const JournalReply *reply)
{
    json_out_ki64(out, "n", reply->row.n);
    json_out_ki64(out, "status", reply->row.status);
    json_out_kstr(out, "contentType", reply->row.content_type);
    json_out_kbool(out, "streamed", reply->row.streamed);
    bytes_write(out, "answer", &reply->answer);
}

static int kept_read(Arena *arena, const Json *v, JournalReply *ret)
{
    ret->row.n = json_i64_or(json_get(v, "n"), 0);
    ret->row.status = json_i64_or(json_get(v, "status"), 0);
    ret->row.content_type = json_str(json_get(v, "contentType"));
    ret->row.streamed = json_bool(json_get(v, "streamed"), false);
    return bytes_read(arena, json_get(v, "answer"), &ret->answer);
}

void wire_journal_write(JsonOut *out, const JournalAsk *ask, const JournalReply *reply)
{
    json_out_object(out);
    switch (ask->what) {
    case JOURNAL_LIST: rows_write(out, reply); break;
    case JOURNAL_ANSWER: kept_write(out, reply); break;
    case JOURNAL_REQUEST: json_out_kstr(out, "request", reply->request); break;
    case JOURNAL_OWNS: break; /* that there is an answer says it */
    }
    json_out_object_end(out);
}

int wire_journal_read(Arena *arena, const Json *v, const JournalAsk *ask, JournalReply *ret)
{
    JournalReply reply = { .rows_n = 0 };
    int r = 0;
    switch (ask->what) {
    case JOURNAL_LIST: r = rows_read(arena, json_get(v, "recordings"), &reply); break;
    case JOURNAL_ANSWER: r = kept_read(arena, v, &reply); break;
    case JOURNAL_OWNS: break;
    case JOURNAL_REQUEST:
        reply.request = json_str(json_get(v, "request"));
        if (json_type(json_get(v, "request")) != JSON_STRING) r = missing("request");
        break;
    }
    if (r == 0) *ret = reply;
    return r;
}
