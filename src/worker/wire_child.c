#include "base/diag.h"
#include "codec/hex.h"
#include "logic/family.h"
#include "worker/wire.h"

#define CHILDREN_MAX FAMILY_LIST_MAX

static int missing(const char *name)
{
    return diag_set(-EINVAL, "`%s` is missing or not what it should be", name);
}

static void uuid_write(JsonOut *out, const char *key, Uuid id)
{
    char text[UUID_TEXT_MAX];
    json_out_kcstr(out, key, uuid_text(id, text));
}

/* --- amounts: null is no limit ---------------------------------------------------------------- */

static void limit_write(JsonOut *out, const char *key, int64_t amount)
{
    json_out_key(out, key);
    if (amount == CAP_NONE) json_out_null(out);
    else json_out_i64(out, amount);
}

static void amount_write(JsonOut *out, const char *key, const FamilyAmount *a)
{
    json_out_key(out, key);
    json_out_object(out);
    limit_write(out, "tokens", a->tokens);
    limit_write(out, "nusd", a->nusd);
    limit_write(out, "toolCalls", a->tool_calls);
    json_out_object_end(out);
}

static int limit_read(const Json *v, const char *key, int64_t *ret)
{
    const Json *member = json_get(v, key);
    *ret = CAP_NONE;
    if (json_type(member) == JSON_NULL) return 0;
    return json_i64(member, ret) == 0 && *ret >= 0 && *ret <= CAP_CALL_MAX ? 0 : missing(key);
}

static int amount_read(const Json *v, FamilyAmount *ret)
{
    int r = limit_read(v, "tokens", &ret->tokens);
    if (r == 0) r = limit_read(v, "nusd", &ret->nusd);
    return r == 0 ? limit_read(v, "toolCalls", &ret->tool_calls) : r;
}

/* --- starting one ----------------------------------------------------------------------------- */

void wire_child_new_write(JsonOut *out, TaskRef parent, const ChildNew *child)
{
    char print[HEX_TEXT_MAX(CHILD_FINGERPRINT_BYTES)];
    assert(child->fingerprint.len == CHILD_FINGERPRINT_BYTES);
    hex_encode(print, child->fingerprint.ptr, CHILD_FINGERPRINT_BYTES);
    json_out_object(out);
    wire_ref_write(out, parent);
    json_out_kstr(out, "key", child->key);
    json_out_kcstr(out, "fingerprint", print);
    json_out_kstr(out, "agent", child->agent);
    json_out_kraw(out, "input", child->input);
    json_out_kraw(out, "metadata", child->metadata.len ? child->metadata : STR("null"));
    json_out_ki64(out, "timeLimitMs", child->time_limit_ms);
    json_out_ki64(out, "remainingMs", child->remaining_ms);
    if (child->due_ms) json_out_ki64(out, "dueMs", child->due_ms);
    json_out_kbool(out, "findOnly", child->find_only);
    amount_write(out, "offered", &child->offered);
    json_out_object_end(out);
}

static int count_read(const Json *v, const char *key, int64_t *ret)
{
    return json_i64(json_get(v, key), ret) == 0 && *ret >= 0 && *ret <= INT64_MAX / 4
               ? 0
               : missing(key);
}

static int print_read(Arena *arena, const Json *v, Str *ret)
{
    char *bytes = arena_alloc(arena, CHILD_FINGERPRINT_BYTES);
    if (!bytes) return -ENOMEM;
    *ret = str_make(bytes, CHILD_FINGERPRINT_BYTES);
    return hex_decode(json_str(json_get(v, "fingerprint")), bytes, CHILD_FINGERPRINT_BYTES) == 0
               ? 0
               : missing("fingerprint");
}

int wire_child_new_read(Arena *arena, const Json *v, ChildNew *ret)
{
    ChildNew child = { .key = json_str(json_get(v, "key")),
                       .agent = json_str(json_get(v, "agent")),
                       .find_only = json_bool(json_get(v, "findOnly"), false) };
    if (!child.key.len || child.key.len > CHILD_KEY_BYTES_MAX) return missing("key");
    int r = print_read(arena, v, &child.fingerprint);
    if (r == 0) r = wire_text_of(arena, json_get(v, "input"), &child.input);
    if (r == 0) r = wire_text_of(arena, json_get(v, "metadata"), &child.metadata);
    if (r == 0) r = count_read(v, "timeLimitMs", &child.time_limit_ms);
    if (r == 0) r = count_read(v, "remainingMs", &child.remaining_ms);
    if (r == 0 && json_get(v, "dueMs")) r = count_read(v, "dueMs", &child.due_ms);
    if (r == 0) r = amount_read(json_get(v, "offered"), &child.offered);
    if (r != 0) return r;
    if (!child.input.len) child.input = STR("null");
    *ret = child;
    return 0;
}

LinkChild link_child_from(const ChildStarted *started, Str detail)
{
    if (started->refusal.status)
        return (LinkChild){ .status = started->refusal.status,
                            .code = str_of(started->refusal.code),
                            .detail = detail };
    return (LinkChild){ .id = started->task.id,
                        .state = started->task.state,
                        .existing = started->task.existing,
                        .agent = str_of(started->task.agent),
                        .version_id = str_of(started->task.version_id),
                        .allotted = started->allotted };
}

void wire_child_write(JsonOut *out, const LinkChild *child)
{
    json_out_object(out);
    if (child->status) {
        json_out_key(out, "refused");
        json_out_object(out);
        json_out_ki64(out, "status", child->status);
        json_out_kstr(out, "code", child->code);
        json_out_kstr(out, "detail", child->detail);
        json_out_object_end(out);
    } else {
        uuid_write(out, "taskId", child->id);
        json_out_kcstr(out, "status", task_state_name(child->state));
        json_out_kbool(out, "existing", child->existing);
        json_out_kstr(out, "agent", child->agent);
        json_out_kstr(out, "versionId", child->version_id);
        amount_write(out, "allotted", &child->allotted);
    }
    json_out_object_end(out);
}

static int refused_read(const Json *v, LinkChild *ret)
{
    int64_t status = json_i64_or(json_get(v, "status"), 0);
    if (status < 400 || status > 599) return missing("status");
    *ret = (LinkChild){ .status = (int)status,
                        .code = json_str(json_get(v, "code")),
                        .detail = json_str(json_get(v, "detail")) };
    return 0;
}

static int state_read(const Json *v, Uuid *ret_id, TaskState *ret_state)
{
    if (uuid_from_text(json_str(json_get(v, "taskId")), ret_id) < 0) return missing("taskId");
    return task_state_from(json_str(json_get(v, "status")), ret_state) < 0 ? missing("status") : 0;
}

int wire_child_read(const Json *v, LinkChild *ret)
{
    if (json_get(v, "refused")) return refused_read(json_get(v, "refused"), ret);
    LinkChild child = { .existing = json_bool(json_get(v, "existing"), false),
                        .agent = json_str(json_get(v, "agent")),
                        .version_id = json_str(json_get(v, "versionId")) };
    int r = state_read(v, &child.id, &child.state);
    if (r == 0) r = amount_read(json_get(v, "allotted"), &child.allotted);
    if (r == 0) *ret = child;
    return r;
}

/* --- the list --------------------------------------------------------------------------------- */

void wire_children_write(JsonOut *out, const FamilyRow *rows, size_t n)
{
    json_out_object(out);
    json_out_key(out, "children");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) {
        json_out_object(out);
        uuid_write(out, "taskId", rows[i].id);
        json_out_kcstr(out, "status", task_state_name(rows[i].state));
        json_out_kstr(out, "agent", rows[i].agent);
        amount_write(out, "allotted", &rows[i].allotted);
        amount_write(out, "charged", &rows[i].charged);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

int wire_children_read(Arena *arena, const Json *v, FamilyRow **ret, size_t *ret_n)
{
    const Json *list = json_get(v, "children");
    size_t n = 0;
    if (json_type(list) != JSON_ARRAY || json_len(list) > CHILDREN_MAX) return missing("children");
    FamilyRow *rows = ARENA_ARRAY(arena, FamilyRow, json_len(list) + 1);
    if (!rows) return -ENOMEM;
    for (JsonIter it = json_iter(list); json_next(&it); n++) {
        rows[n] = (FamilyRow){ .agent = json_str(json_get(it.value, "agent")) };
        int r = state_read(it.value, &rows[n].id, &rows[n].state);
        if (r == 0) r = amount_read(json_get(it.value, "allotted"), &rows[n].allotted);
        if (r == 0) r = amount_read(json_get(it.value, "charged"), &rows[n].charged);
        if (r != 0) return r;
    }
    *ret = rows;
    *ret_n = n;
    return 0;
}
