/* What is kept for sessions, on the wire, both directions. */
#include "base/diag.h"
#include "codec/base64.h"
#include "codec/time_text.h"
#include "worker/wire.h"

static const char *const what_names[STATE_WHAT_N_] = {
    [STATE_GET] = "get", [STATE_LIST] = "list", [STATE_PUT] = "put", [STATE_DELETE] = "delete"
};
static const char *const outcome_names[STATE_OUTCOME_N_] = {
    [STATE_OK] = "ok",     [STATE_NONE] = "none",           [STATE_MISMATCH] = "mismatch",
    [STATE_FULL] = "full", [STATE_TOO_LARGE] = "too_large",
};

static int invalid(const char *name)
{
    return diag_set(-EINVAL, "`%s` is missing or not what it should be", name);
}

static int name_read(const Json *v, const char *key, const char *const *names, int n, int *ret)
{
    Str name = json_str(json_get(v, key));
    for (*ret = 0; *ret < n; (*ret)++)
        if (str_eq(name, str_of(names[*ret]))) return 0;
    return invalid(key);
}

static int value_read(Arena *arena, const Json *v, Str *ret)
{
    Str text = json_str(json_get(v, "value"));
    size_t n;
    *ret = STR("");
    if (text.len == 0) return 0;
    char *bytes = arena_alloc(arena, BASE64_BYTES_MAX(text.len) + 1);
    if (!bytes) return diag_set(-ENOMEM, "the value is too large");
    if (base64_decode(text, bytes, &n) < 0) return invalid("value");
    *ret = str_make(bytes, n);
    return 0;
}

static bool type_ok(Str type)
{
    for (size_t i = 0; i < type.len; i++)
        if (type.ptr[i] < 0x20 || type.ptr[i] > 0x7e) return false;
    return type.len <= STATE_TYPE_BYTES_MAX;
}

/* --- what is asked ---------------------------------------------------------------------------- */

void wire_state_ask_write(JsonOut *out, TaskRef task, const StateAsk *ask)
{
    json_out_object(out);
    wire_ref_write(out, task);
    json_out_kcstr(out, "what", what_names[ask->what]);
    json_out_kstr(out, "key", ask->key);
    json_out_ki64(out, "ifVersion", ask->if_version);
    if (ask->what == STATE_PUT) {
        json_out_kstr(out, "contentType", ask->content_type);
        json_out_key(out, "value");
        json_out_base64(out, ask->value);
    }
    json_out_object_end(out);
}

int wire_state_ask_read(Arena *arena, const Json *v, StateAsk *ret)
{
    int what;
    int r = name_read(v, "what", what_names, STATE_WHAT_N_, &what);
    if (r < 0) return r;
    *ret = (StateAsk){ .what = (StateWhat)what,
                       .key = json_str(json_get(v, "key")),
                       .content_type = json_str(json_get(v, "contentType")),
                       .if_version = json_i64_or(json_get(v, "ifVersion"), STATE_ANY) };
    bool keyed = what != STATE_LIST;
    if (keyed &&
        (ret->key.len == 0 || ret->key.len > STATE_KEY_BYTES_MAX || !str_is_utf8(ret->key)))
        return invalid("key");
    if (!type_ok(ret->content_type)) return invalid("contentType");
    if (ret->if_version < STATE_PRESENT) return invalid("ifVersion");
    return what == STATE_PUT ? value_read(arena, v, &ret->value) : 0;
}

/* --- what is answered ------------------------------------------------------------------------- */

static void row_write(JsonOut *out, const StateRow *row)
{
    char at[TIME_TEXT_MAX];
    json_out_kstr(out, "key", row->key);
    json_out_ki64(out, "version", row->version);
    json_out_ki64(out, "bytes", row->bytes);
    json_out_kcstr(out, "updatedAt", time_format(row->updated_at_ms, at));
    json_out_kstr(out, "contentType", row->content_type);
}

void wire_state_reply_write(JsonOut *out, const StateReply *reply)
{
    json_out_object(out);
    json_out_kcstr(out, "outcome", outcome_names[reply->outcome]);
    json_out_kbool(out, "created", reply->created);
    row_write(out, &reply->row);
    json_out_key(out, "value");
    json_out_base64(out, reply->row.value);
    json_out_key(out, "rows");
    json_out_array(out);
    for (size_t i = 0; i < reply->rows_n; i++) {
        json_out_object(out);
        row_write(out, &reply->rows[i]);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

static int row_read(const Json *v, StateRow *ret)
{
    *ret = (StateRow){ .key = json_str(json_get(v, "key")),
                       .version = json_i64_or(json_get(v, "version"), -1),
                       .bytes = json_i64_or(json_get(v, "bytes"), -1),
                       .content_type = json_str(json_get(v, "contentType")) };
    if (ret->version < 0) return invalid("version");
    if (ret->bytes < 0) return invalid("bytes");
    return time_parse(json_str(json_get(v, "updatedAt")), &ret->updated_at_ms) < 0
               ? invalid("updatedAt")
               : 0;
}

int wire_state_reply_read(Arena *arena, const Json *v, StateReply *ret)
{
    int outcome;
    const Json *list = json_get(v, "rows");
    int r = name_read(v, "outcome", outcome_names, STATE_OUTCOME_N_, &outcome);
    if (r < 0) return r;
    *ret = (StateReply){ .outcome = (StateOutcome)outcome,
                         .created = json_bool(json_get(v, "created"), false) };
    r = row_read(v, &ret->row);
    if (r == 0) r = value_read(arena, v, &ret->row.value);
    if (r < 0) return r;
    ret->rows = ARENA_ARRAY(arena, StateRow, json_len(list) + 1);
    if (!ret->rows) return diag_set(-ENOMEM, "too many keys");
    for (JsonIter it = json_iter(list); json_next(&it);)
        if ((r = row_read(it.value, &ret->rows[ret->rows_n++])) < 0) return r;
    return 0;
}
