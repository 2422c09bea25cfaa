/* Flags: set, read, taken away; and evaluated for OpenFeature's clients (OFREP). Workers fetch the
 * whole list when a heartbeat tells them of a new revision. */
#include "api/flags.h"

#include <stdio.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "logic/flag.h"
#include "store/flag_store.h"
#include "store/version_store.h"
#include "sys/clock.h"

#define ETAG_HEX 16

static const Member flag_members[] = {
    { "value", MEMBER_BOOLEAN | MEMBER_STRING | MEMBER_NUMBER, true,
      "What the flag says where no rule fits; false turns a switch (tool:NAME, model:NAME, tasks) off",
      NULL },
    { "rules", MEMBER_ARRAY, false,
      "[{agents, users, tenants, versions, percent, by, value}]: the first that fits gives its value",
      NULL },
    { "description", MEMBER_STRING, false, "For people", NULL },
    { "key", MEMBER_STRING, false, "As in the path", NULL },
    { "revision", MEMBER_INTEGER, false, "Passed over, so that an answer can be sent back", NULL },
    { "updatedAt", MEMBER_STRING, false, "Passed over", NULL },
};
const BodySpec flag_body = {
    .name = "FlagRequest", .members = flag_members, .n = ARRAY_N(flag_members), .required = true
};

static const Member ofrep_members[] = {
    { "context", MEMBER_ANY, false,
      "{targetingKey, agent, versionId, tenantId, userId, sessionId, taskId}; the targetingKey is the "
      "user where none is named",
      NULL },
};
const BodySpec ofrep_body = { .name = "FlagEvaluationRequest",
                              .members = ofrep_members,
                              .n = ARRAY_N(ofrep_members) };

/* --- setting ---------------------------------------------------------------------------------- */

typedef struct {
    Str key, definition;
    int64_t now_ms;
    Arena *arena;
    const Flag *flag; /* as it is to be; put_job */
    FlagRow row;      /* out */
} FlagJob;

#define FLAG_E_NO_VERSION 100

/* Versions are never taken away: a rule for one that is not there is a slip of the pen. */
static int versions_check(Db *db, const Flag *flag)
{
    for (size_t i = 0; i < flag->rules_n; i++)
        for (JsonIter it = json_iter(flag->rules[i].versions); json_next(&it);) {
            Str id = json_str(it.value);
            int r = version_any(db, id);
            if (r == -ENOENT)
                return diag_set(FLAG_E_NO_VERSION,
                                "rules[%zu].versions: no version begins with \"%.*s\" (`gantry "
                                "version list AGENT` lists them)",
                                i, STR_ARG(id));
            if (r != 0) return r;
        }
    return 0;
}

static int put_job(Db *db, void *arg)
{
    FlagJob *job = arg;
    int64_t revision;
    int r = versions_check(db, job->flag);
    if (r == 0) r = flag_put(db, job->key, job->definition, job->now_ms, &revision);
    if (r == 0) job->row = (FlagRow){ job->key, job->definition, revision, job->now_ms };
    return r;
}

static int delete_job(Db *db, void *arg)
{
    FlagJob *job = arg;
    return flag_delete(db, job->key);
}

static int get_job(Db *db, void *arg)
{
    FlagJob *job = arg;
    return flag_get(db, job->key, job->arena, &job->row);
}

static int missing_wait(ApiCall *call, Str key)
{
    return api_problem_wait(call, 404, "flag_not_found", "there is no flag \"%.*s\"",
                            (int)MIN(key.len, (size_t)FLAG_KEY_BYTES_MAX), key.ptr);
}

static int flag_reply_wait(ApiCall *call, const FlagRow *row)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    flag_row_write(&json.out, row);
    return api_json_wait(call, 200, &json);
}

/* The definition in one form, checked. */
static int definition_wait(ApiCall *call, const Json *body, FlagJob *job, Flag *flag)
{
    FlagFault fault;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, FLAG_TEXT_BYTES_MAX);
    int r = flag_parse(&call->req->arena, job->key, body, flag, &fault);
    job->flag = flag;
    if (r == FLAG_E_INVALID)
        return api_problem_wait(call, 400, "flag_invalid", "%s%s%s", fault.member,
                                fault.member[0] ? ": " : "", fault.message);
    if (r < 0) return api_fail_wait(call, r);
    JsonOut out = json_out(&text);
    flag_write(&out, flag);
    if (!json_out_ok(&out))
        return api_problem_wait(call, 413, "body_too_large", "a flag has at most %d bytes",
                                FLAG_TEXT_BYTES_MAX);
    job->definition = arena_str(&call->req->arena, buf_str(&text));
    return job->definition.ptr ? 0 : api_fail_wait(call, -ENOMEM);
}

int flag_put_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    Flag flag;
    FlagJob job = { .key = call->params[0], .now_ms = clock_real_ms() };
    int r = api_body_wait(call, &text, &body);
    if (r == 0) r = definition_wait(call, body, &job, &flag);
    if (r != 0) return r;
    r = store_call_wait(queue_store(call->api->options.queue), put_job, &job);
    if (r == FLAG_E_NO_VERSION)
        return api_problem_wait(call, 400, "flag_invalid", "%s", diag_text());
    if (r == FLAG_E_FULL)
        return api_problem_wait(call, 409, "flags_full",
                                "there are %d flags, or %zu bytes of them, already", FLAGS_MAX,
                                FLAGS_BYTES_MAX);
    if (r < 0) return api_fail_wait(call, r);
    queue_signal_workers(call->api->options.queue);
    LOG_INFO("flag set", LOG_STR("key", job.key), LOG_STR("definition", job.definition));
    return flag_reply_wait(call, &job.row);
}

int flag_delete_run_wait(ApiCall *call)
{
    FlagJob job = { .key = call->params[0] };
    int r = store_call_wait(queue_store(call->api->options.queue), delete_job, &job);
    if (r == -ENOENT) return missing_wait(call, job.key);
    if (r < 0) return api_fail_wait(call, r);
    queue_signal_workers(call->api->options.queue);
    LOG_INFO("flag deleted", LOG_STR("key", job.key));
    return api_reply_wait(call, 204, NULL, STR(""));
}

/* --- reading ---------------------------------------------------------------------------------- */

int flag_get_run_wait(ApiCall *call)
{
    FlagJob job = { .key = call->params[0], .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), get_job, &job);
    if (r == -ENOENT) return missing_wait(call, job.key);
    return r < 0 ? api_fail_wait(call, r) : flag_reply_wait(call, &job.row);
}

typedef struct {
    Arena *arena;
    FlagRow *rows;
    size_t n;
    int64_t revision;
} FlagList;

static int list_job(Db *db, void *arg)
{
    FlagList *list = arg;
    int r = flag_revision(db, &list->revision);
    return r == 0 ? flag_list(db, list->arena, &list->rows, &list->n) : r;
}

static int list_wait(ApiCall *call, FlagList *list)
{
    list->arena = &call->req->arena;
    int r = store_read_wait(queue_store(call->api->options.queue), list_job, list);
    return r < 0 ? api_fail_wait(call, r) : 0;
}

int flag_list_run_wait(ApiCall *call)
{
    FlagList list = { 0 };
    int r = list_wait(call, &list);
    if (r != 0) return r;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "revision", list.revision);
    json_out_key(&json.out, "flags");
    json_out_array(&json.out);
    for (size_t i = 0; i < list.n; i++) flag_row_write(&json.out, &list.rows[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- OpenFeature Remote Evaluation Protocol --------------------------------------------------- */

/* An error as the protocol has it; key: of the flag that was asked for, empty: of all. */
static int ofrep_error_wait(ApiCall *call, int status, const char *code, const char *details)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    Str key = call->params[0];
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    if (key.len && code) json_out_kstr(&json.out, "key", key);
    if (code) json_out_kcstr(&json.out, "errorCode", code);
    json_out_kcstr(&json.out, "errorDetails", details);
    json_out_object_end(&json.out);
    return api_json_wait(call, status, &json);
}

/* What is no answer about a flag has no code. */
static int ofrep_fail_wait(ApiCall *call, int r)
{
    if (r == -ECANCELED) return r;
    LOG_ERROR("flags not read", LOG_CSTR("why", diag_text_or(r)));
    return ofrep_error_wait(call, 500, NULL, "the flags could not be read");
}

static Str context_text(const Json *context, const char *key)
{
    return json_str(json_get(context, key));
}

static FlagContext context_of(const Json *context)
{
    FlagContext c = { .agent = context_text(context, "agent"),
                      .version_id = context_text(context, "versionId"),
                      .tenant_id = context_text(context, "tenantId"),
                      .user_id = context_text(context, "userId"),
                      .session_id = context_text(context, "sessionId"),
                      .task_id = context_text(context, "taskId") };
    if (str_empty(c.user_id)) c.user_id = context_text(context, "targetingKey");
    return c;
}

/* OFREP knows no reason for "rules are there, and none fits": the value is the flag's own. */
static void evaluation_write(JsonOut *out, const Flag *flag, const FlagContext *context)
{
    char variant[32] = "default";
    FlagAnswer answer = flag_eval(flag, context);
    FlagReason reason = answer.reason == FLAG_DEFAULT ? FLAG_STATIC : answer.reason;
    if (answer.rule >= 0) snprintf(variant, sizeof variant, "rule-%td", answer.rule);
    json_out_object(out);
    json_out_kstr(out, "key", flag->key);
    json_out_kval(out, "value", answer.value);
    json_out_kcstr(out, "reason", flag_reason_name(reason));
    json_out_kcstr(out, "variant", variant);
    json_out_key(out, "metadata");
    json_out_object(out);
    json_out_object_end(out);
    json_out_object_end(out);
}

/* Clients may send more than the context: what else there is, is theirs. API_E_REPLIED when there
 * is no context. */
static int ofrep_read_wait(ApiCall *call, Str *ret_text, FlagContext *ret)
{
    const Json *body;
    int r = api_bytes_wait(call, call->api->options.body_bytes_max, ret_text);
    if (r != 0) return r;
    r = json_parse(&call->req->arena, *ret_text, NULL, &body, NULL);
    if (r == -ENOMEM) return ofrep_fail_wait(call, r);
    if (r < 0 || json_type(body) != JSON_OBJECT)
        return ofrep_error_wait(call, 400, "PARSE_ERROR", "the body is to be a JSON object");
    const Json *context = json_get(body, "context");
    if (context && json_type(context) != JSON_OBJECT)
        return ofrep_error_wait(call, 400, "INVALID_CONTEXT", "`context` is to be an object");
    *ret = context_of(context);
    return 0;
}

/* A flag of a newer program than this one is none. */
static int row_parse(Arena *arena, const FlagRow *row, Flag *ret)
{
    FlagFault fault;
    const Json *definition;
    int r = json_parse(arena, row->definition, NULL, &definition, NULL);
    return r == 0 ? flag_parse(arena, row->key, definition, ret, &fault) : r;
}

int ofrep_one_run_wait(ApiCall *call)
{
    Str text;
    FlagContext context;
    Flag flag;
    FlagJob job = { .key = call->params[0], .arena = &call->req->arena };
    int r = ofrep_read_wait(call, &text, &context);
    if (r != 0) return r;
    r = store_read_wait(queue_store(call->api->options.queue), get_job, &job);
    if (r < 0 && r != -ENOENT) return ofrep_fail_wait(call, r);
    if (r == 0) r = row_parse(job.arena, &job.row, &flag);
    if (r != 0) return ofrep_error_wait(call, 404, "FLAG_NOT_FOUND", "there is no such flag");
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    evaluation_write(&json.out, &flag, &context);
    return api_json_wait(call, 200, &json);
}

/* The same flags and the same question have the same answer. */
static Str etag_make(ApiCall *call, int64_t revision, Str text)
{
    char hex[SHA256_HEX_MAX];
    return arena_printf(&call->req->arena, "\"%" PRId64 "-%.*s\"", revision, ETAG_HEX,
                        sha256_hex(text, hex));
}

int ofrep_all_run_wait(ApiCall *call)
{
    Str text;
    FlagContext context;
    FlagList list = { .arena = &call->req->arena };
    int r = ofrep_read_wait(call, &text, &context);
    if (r != 0) return r;
    r = store_read_wait(queue_store(call->api->options.queue), list_job, &list);
    if (r < 0) return ofrep_fail_wait(call, r);
    Str etag = etag_make(call, list.revision, text);
    if (!etag.ptr) return ofrep_fail_wait(call, -ENOMEM);
    http_header_add(call->req, "ETag", etag);
    if (str_eq(http_header(call->req, "if-none-match"), etag))
        return api_reply_wait(call, 304, NULL, STR(""));
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "flags");
    json_out_array(&json.out);
    for (size_t i = 0; i < list.n; i++) {
        Flag flag;
        if (row_parse(list.arena, &list.rows[i], &flag) == 0 && flag.kind == FLAG_VALUE)
            evaluation_write(&json.out, &flag, &context);
    }
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
