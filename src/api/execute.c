/* Submitting a task.
 *
 * A body that is an object with the member `input` is an envelope, and its other members are those
 * listed in execute_members. Any other body, an object or not, is itself the input; what the
 * envelope would say may then be given as query parameters of the same names (except limits and
 * metadata). So no member of a caller's own input is ever mistaken for one of ours.
 */
#include "api/execute.h"

#include "api/versions.h"
#include "base/diag.h"
#include "base/money.h"
#include "codec/digest.h"
#include "codec/time_text.h"
#include "logic/manifest.h"
#include "observe/trace_context.h"
#include "queue/queue.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define VERSION_HEADER "x-gantry-version"
#define ID_BYTES_MAX 255 /* sessionId, userId, tenantId */
#define METADATA_BYTES_MAX (16 << 10)
#define WEBHOOK_URL_BYTES_MAX 2048
#define RUN_AT_AHEAD_MAX_MS (INT64_C(366) * 24 * 60 * 60 * 1000)
#define DEADLINE_AHEAD_MAX_MS (2 * RUN_AT_AHEAD_MAX_MS)

static const Member execute_members[] = {
    { "input", MEMBER_ANY, false, "What the agent gets: any JSON value", NULL },
    { "agent", MEMBER_STRING, false, "May be left out where one agent exists", NULL },
    { "priority", MEMBER_STRING, false, "The lane; normal when left out", "critical|normal|low" },
    { "webhookUrl", MEMBER_STRING, false, "Gets a signed POST when the task has ended", NULL },
    { "sessionId", MEMBER_STRING, false, "Whose state the agent sees", NULL },
    { "userId", MEMBER_STRING, false, "On whose behalf", NULL },
    { "tenantId", MEMBER_STRING, false, "Whose budget; idempotency keys are kept apart by it",
      NULL },
    { "versionId", MEMBER_STRING, false,
      "This version (id or prefix), whatever the agent routes to; also X-Gantry-Version", NULL },
    { "runAt", MEMBER_STRING, false, "Not before this moment (RFC 3339)", NULL },
    { "deadline", MEMBER_STRING, false,
      "Ends it at this moment, whatever it does then: RFC 3339, or a duration from now (90s)",
      NULL },
    { "limits", MEMBER_OBJECT, false,
      "Limits of this task: tokensPerTask, toolCallsPerTask, secondsPerTask, usdPerTask", NULL },
    { "metadata", MEMBER_OBJECT, false, "Kept with the task and given back, up to 16 KiB", NULL },
};

const BodySpec execute_body = { .name = "ExecuteRequest",
                                .members = execute_members,
                                .n = ARRAY_N(execute_members),
                                .required = true,
                                .whole_else = true };

const Param execute_params[] = {
    { "agent", "string", "As the member, for a body that is itself the input" },
    { "priority", "string", "As the member" },
    { "webhookUrl", "string", "As the member" },
    { "sessionId", "string", "As the member" },
    { "userId", "string", "As the member" },
    { "tenantId", "string", "As the member" },
    { "versionId", "string", "As the member" },
    { "runAt", "string", "As the member" },
    { "deadline", "string", "As the member" },
    { 0 },
};

/* --- idempotency key -------------------------------------------------------------------------- */

/* The content of a quoted string (RFC 8941 section 3.3.3). */
static int key_unquote(Str quoted, char *out, size_t *ret_len)
{
    size_t n = 0, i = 1;
    for (; i < quoted.len && quoted.ptr[i] != '"'; i++) {
        if (quoted.ptr[i] == '\\' && ++i == quoted.len) return -EINVAL;
        out[n++] = quoted.ptr[i];
    }
    *ret_len = n;
    return i + 1 == quoted.len ? 0 : -EINVAL;
}

int idempotency_key_read(Arena *arena, Str header, Str *ret)
{
    *ret = STR_NULL;
    Str text = str_trim(header);
    if (str_empty(text)) return 0;
    char *key = arena_alloc(arena, text.len + 1);
    if (!key) return -ENOMEM;
    size_t len = text.len;
    if (text.ptr[0] != '"') memcpy(key, text.ptr, len);
    else if (key_unquote(text, key, &len) < 0) return -EINVAL;
    if (len == 0 || len > IDEMPOTENCY_KEY_BYTES_MAX) return -EINVAL;
    for (size_t i = 0; i < len; i++)
        if (key[i] < 0x20 || key[i] > 0x7e) return -EINVAL;
    *ret = str_make(key, len);
    return 0;
}

/* --- members ---------------------------------------------------------------------------------- */

typedef struct {
    ApiCall *call;
    const Json *body;
    const Json *envelope; /* the same; NULL: all of the body is the input */
    Str text;             /* of the body */
    TaskNew task;
} Submission;

/* A text from the envelope or the query, not from both. */
static int text_read_wait(Submission *s, const char *name, Str *ret)
{
    const Json *v = json_get(s->envelope, name);
    bool in_body = json_type(v) == JSON_STRING, in_query;
    Str asked = http_query(s->call->req, name, &in_query);
    *ret = in_body ? json_str(v) : asked;
    if (in_body && in_query)
        return api_problem_wait(s->call, 400, "parameter_conflict",
                                "`%s` is given in the body and in the query", name);
    if ((in_body || in_query) && str_empty(*ret))
        return api_problem_wait(s->call, 400, "member_invalid", "`%s` must not be empty", name);
    return 0;
}

static int id_read_wait(Submission *s, const char *name, Str *ret)
{
    int r = text_read_wait(s, name, ret);
    if (r != 0) return r;
    if (ret->len <= ID_BYTES_MAX && str_is_utf8(*ret) && str_find_char(*ret, '\n') < 0) return 0;
    return api_problem_wait(s->call, 400, "member_invalid",
                            "`%s` is to be at most %d bytes of text on one line", name,
                            ID_BYTES_MAX);
}

static int agent_read_wait(Submission *s)
{
    int r = text_read_wait(s, "agent", &s->task.agent);
    if (r != 0 || str_empty(s->task.agent) || agent_name_ok(s->task.agent)) return r;
    return api_problem_wait(s->call, 404, "agent_not_found",
                            "\"%.*s\" is no name of an agent (lower-case letters, digits, '-')",
                            (int)MIN(s->task.agent.len, (size_t)64), s->task.agent.ptr);
}

static int priority_read_wait(Submission *s)
{
    Str name;
    int r = text_read_wait(s, "priority", &name);
    if (r != 0 || lane_from(name, &s->task.lane) == 0) return r;
    return api_problem_wait(s->call, 400, "member_invalid",
                            "`priority` is to be one of critical|normal|low");
}

static int webhook_read_wait(Submission *s)
{
    Str *url = &s->task.webhook_url;
    int r = text_read_wait(s, "webhookUrl", url);
    if (r != 0 || str_empty(*url)) return r;
    Url parsed;
    if (url->len > WEBHOOK_URL_BYTES_MAX)
        return api_problem_wait(s->call, 400, "webhook_url_invalid",
                                "`webhookUrl` has more than %d bytes", WEBHOOK_URL_BYTES_MAX);
    r = url_parse(&s->call->req->arena, *url, &parsed);
    if (r == -ENOMEM) return api_fail_wait(s->call, r);
    if (r < 0)
        return api_problem_wait(s->call, 400, "webhook_url_invalid",
                                "`webhookUrl` is not an http or https URL: %s", diag_text());
    const AddrGuard *guard = s->call->api->options.webhook_guard;
    if (!guard || addr_guard_check_url(guard, &parsed) == 0) return 0;
    return api_problem_wait(s->call, 400, "webhook_url_refused",
                            "`webhookUrl` may not be called: %s", diag_text());
}

static int run_at_read_wait(Submission *s)
{
    Str text;
    int r = text_read_wait(s, "runAt", &text);
    if (r != 0 || str_empty(text)) return r;
    if (time_parse(text, &s->task.run_at_ms) < 0)
        return api_problem_wait(s->call, 400, "member_invalid",
                                "`runAt` is to be a time such as 2026-01-02T03:04:05Z");
    if (s->task.run_at_ms - clock_real_ms() > RUN_AT_AHEAD_MAX_MS)
        return api_problem_wait(s->call, 400, "member_invalid",
                                "`runAt` is more than a year ahead");
    return 0;
}

/* Whether it has passed is for who knows whether the task is there already. */
static int deadline_read_wait(Submission *s)
{
    Str text;
    TaskNew *task = &s->task;
    int r = text_read_wait(s, "deadline", &text);
    if (r != 0 || str_empty(text)) return r;
    int64_t now_ms = queue_now_ms(s->call->api->options.queue);
    if (time_parse_from(text, now_ms, &task->due_at_ms) < 0)
        return api_problem_wait(s->call, 400, "member_invalid",
                                "`deadline` is to be a time such as 2026-01-02T03:04:05Z, or a "
                                "duration such as 90s");
    task->due_at_ms = MAX(task->due_at_ms, 1);
    if (task->due_at_ms - now_ms > DEADLINE_AHEAD_MAX_MS)
        return api_problem_wait(s->call, 400, "member_invalid",
                                "`deadline` is more than two years ahead");
    if (task->run_at_ms < task->due_at_ms) return 0;
    return api_problem_wait(s->call, 400, "member_invalid", "`deadline` is to be after `runAt`");
}

/* By the member, the parameter or the header; not by several that differ. */
static int version_read_wait(Submission *s)
{
    Str id, header = http_header(s->call->req, VERSION_HEADER);
    int r = text_read_wait(s, "versionId", &id);
    if (r != 0) return r;
    if (!str_empty(id) && !str_empty(header) && !str_eq(id, header))
        return api_problem_wait(s->call, 400, "parameter_conflict",
                                "`versionId` and the header " VERSION_HEADER " differ");
    if (str_empty(id)) id = header;
    if (str_empty(id)) return 0;
    Version version;
    r = version_find_wait(s->call, id, &version);
    if (r != 0) return r;
    if (str_empty(s->task.agent)) s->task.agent = version.agent;
    if (!str_eq(s->task.agent, version.agent))
        return api_problem_wait(s->call, 409, "version_of_other_agent",
                                "version %.12s is of agent \"%.*s\"", version.id.ptr,
                                STR_ARG(version.agent));
    s->task.version_id = version.id;
    return 0;
}

/* --- limits and metadata ---------------------------------------------------------------------- */

static const struct {
    const char *name;
    int64_t min, max;
} limit_ranges[] = {
    { "tokensPerTask", 1, INT64_C(1000000000000) },
    { "toolCallsPerTask", 0, 1000000 },
    { "secondsPerTask", 1, 604800 },
};

static int limit_check_wait(ApiCall *call, Str name, const Json *v)
{
    for (size_t i = 0; i < ARRAY_N(limit_ranges); i++) {
        int64_t value;
        if (!str_eq(name, str_of(limit_ranges[i].name))) continue;
        if (json_i64(v, &value) == 0 && value >= limit_ranges[i].min &&
            value <= limit_ranges[i].max)
            return 0;
        return api_problem_wait(call, 400, "member_invalid",
                                "`limits.%s` is to be a whole number from %" PRId64 " to %" PRId64,
                                limit_ranges[i].name, limit_ranges[i].min, limit_ranges[i].max);
    }
    int64_t nusd;
    if (!str_eq(name, STR("usdPerTask")))
        return api_problem_wait(call, 400, "member_unknown", "`limits` has no member \"%.*s\"",
                                (int)MIN(name.len, (size_t)64), name.ptr);
    if (money_from_text(json_str(v), NUSD_PER_USD, &nusd) == 0 && nusd > 0) return 0;
    return api_problem_wait(call, 400, "member_invalid",
                            "`limits.usdPerTask` is to be an amount as text, such as \"0.50\"");
}

static int limits_read_wait(Submission *s)
{
    const Json *limits = json_get(s->envelope, "limits");
    for (JsonIter it = json_iter(limits); json_next(&it);) {
        int r = limit_check_wait(s->call, it.key, it.value);
        if (r != 0) return r;
    }
    s->task.time_limit_ms = json_i64_or(json_get(limits, "secondsPerTask"), 0) * 1000;
    return 0;
}

/* The text of a member as it was written: no number is read and written again. */
static Str member_text(const Submission *s, const char *name)
{
    Str member, value;
    const Json *there = json_get(s->envelope, name);
    if (!there || json_type(there) == JSON_NULL) return STR_NULL;
    if (json_member_span(s->text, str_of(name), &member, &value) < 0) return STR_NULL;
    return value;
}

static int payload_read_wait(Submission *s)
{
    s->task.input = s->text;
    if (!s->envelope) return 0;
    Str member;
    int r = json_member_span(s->text, STR("input"), &member, &s->task.input);
    assert(r == 0);
    s->task.limits = member_text(s, "limits");
    s->task.metadata = member_text(s, "metadata");
    if (s->task.metadata.len <= METADATA_BYTES_MAX) return 0;
    return api_problem_wait(s->call, 400, "member_invalid", "`metadata` has more than %d bytes",
                            METADATA_BYTES_MAX);
}

/* --- headers ---------------------------------------------------------------------------------- */

/* The same whatever the order of members and the spaces between them: a client that makes the body
 * anew need not write it as it did before. As it was sent where numbers could lose by that. */
static void body_digest(const Submission *s, Sha256 *sha)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, 2 * s->text.len + 1024);
    bool canonical = json_canonical(s->body, &text) == 0;
    sha256_add(sha, canonical ? buf_str(&text) : s->text);
}

/* What the key stands for. */
static int fingerprint_make(Submission *s)
{
    CLEANUP(sha256_deinit) Sha256 sha;
    uint8_t digest[SHA256_BYTES];
    sha256_init(&sha);
    sha256_add(&sha, s->call->req->query);
    sha256_add(&sha, STR("\n"));
    body_digest(s, &sha);
    sha256_add(&sha, http_header(s->call->req, VERSION_HEADER));
    sha256_end(&sha, digest);
    s->task.fingerprint = arena_str(&s->call->req->arena, str_make((char *)digest, sizeof digest));
    return s->task.fingerprint.ptr ? 0 : -ENOMEM;
}

static int headers_read_wait(Submission *s)
{
    HttpReq *req = s->call->req;
    int r = idempotency_key_read(&req->arena, http_header(req, "idempotency-key"),
                                 &s->task.idempotency_key);
    if (r == -EINVAL)
        return api_problem_wait(s->call, 400, "key_invalid",
                                "Idempotency-Key is to be 1 to %d printable characters, quoted or "
                                "bare",
                                IDEMPOTENCY_KEY_BYTES_MAX);
    if (r == 0 && !str_empty(s->task.idempotency_key)) r = fingerprint_make(s);
    if (r < 0) return api_fail_wait(s->call, r);

    uint8_t random[TRACEPARENT_RANDOM_BYTES];
    char trace[TRACEPARENT_MAX];
    entropy_fill(random, sizeof random);
    traceparent_continue(http_header(req, "traceparent"), random, trace);
    s->task.traceparent = arena_str(&req->arena, str_of(trace));
    return s->task.traceparent.ptr ? 0 : api_fail_wait(s->call, -ENOMEM);
}

/* --- together --------------------------------------------------------------------------------- */

static int submission_read_wait(Submission *s)
{
    int (*const steps[])(
        Submission *) = { agent_read_wait,   version_read_wait, priority_read_wait,
                          webhook_read_wait, run_at_read_wait,  deadline_read_wait,
                          limits_read_wait,  payload_read_wait, headers_read_wait };
    int r = id_read_wait(s, "sessionId", &s->task.session_id);
    if (r == 0) r = id_read_wait(s, "userId", &s->task.user_id);
    if (r == 0) r = id_read_wait(s, "tenantId", &s->task.tenant_id);
    for (size_t i = 0; r == 0 && i < ARRAY_N(steps); i++) r = steps[i](s);
    return r;
}

/* The answer to a repeated request is the one to the first, so it says "queued" whatever has
 * happened to the task since. */
static int accepted_wait(const Submission *s, const TaskSummary *summary)
{
    char id[UUID_TEXT_MAX];
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    uuid_text(summary->id, id);
    const Str path[] = { STR("/agent/tasks/"), str_of(id) };
    Str url = arena_join(&s->call->req->arena, path, ARRAY_N(path));
    if (!url.ptr) return api_fail_wait(s->call, -ENOMEM);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kcstr(out, "taskId", id);
    json_out_kcstr(out, "status", task_state_name(TASK_QUEUED));
    json_out_kstr(out, "statusUrl", url);
    json_out_key(out, "webhookUrl");
    if (str_empty(s->task.webhook_url)) json_out_null(out);
    else json_out_str(out, s->task.webhook_url);
    json_out_kcstr(out, "agent", summary->agent);
    json_out_kcstr(out, "versionId", summary->version_id);
    json_out_kcstr(out, "priority", lane_name(summary->lane));
    json_out_object_end(out);
    http_header_add(s->call->req, "Location", url);
    if (summary->existing) http_header_add(s->call->req, "Idempotent-Replayed", STR("true"));
    return api_json_wait(s->call, 202, &json);
}

static int agent_needed_wait(const Submission *s)
{
    return api_problem_wait(s->call, 400, "agent_needed", "%s%s", diag_text(),
                            s->envelope ? ""
                                        : " (the body has no member `input`, so all of it is the "
                                          "input; name the agent with ?agent=)");
}

int execute_run_wait(ApiCall *call)
{
    Submission s = { .call = call };
    int r = api_body_wait(call, &s.text, &s.body);
    if (r != 0) return r;
    if (json_get(s.body, "input")) s.envelope = s.body;
    if ((r = submission_read_wait(&s)) != 0) return r;
    TaskSummary summary;
    r = queue_submit_wait(call->api->options.queue, &s.task, &summary);
    if (r == QUEUE_E_AGENT_NEEDED) return agent_needed_wait(&s);
    return r == 0 ? accepted_wait(&s, &summary) : api_lane_fail_wait(call, r, s.task.lane);
}
