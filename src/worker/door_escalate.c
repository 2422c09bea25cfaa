#include "worker/door_escalate.h"

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "codec/duration.h"
#include "sys/clock.h"
#include "worker/door.h"

#define QUESTION_BYTES_MAX 10000
#define ID_BYTES_MAX 200
#define PATIENCE_MS 30000
#define DELAY_MS 100
#define DELAY_MS_MAX 2000

/* --- the question ----------------------------------------------------------------------------- */

static int invalid_wait(HttpReq *req, const char *what)
{
    return http_problem_wait(req, 422, "escalation_invalid", "%s", what);
}

static bool member_known(Str key)
{
    static const char *const known[] = { "question", "context", "timeout", "default", "id" };
    for (size_t i = 0; i < ARRAY_N(known); i++)
        if (str_eq(key, str_of(known[i]))) return true;
    return false;
}

/* What tells questions apart: the id, or all that was said; as it was sent where numbers in it have
 * no canonical form. */
static int key_make(const Json *v, Str body, uint8_t key[SHA256_BYTES])
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    Str id = json_str(json_get(v, "id"));
    buf_init(&buf, 2 * ESCALATE_BYTES_MAX);
    int r = json_canonical(json_type(json_get(v, "id")) == JSON_STRING ? json_get(v, "id") : v,
                           &buf);
    if (r < 0 && r != -EINVAL) return r;
    sha256(r == 0 ? buf_str(&buf) : body, key);
    key[0] = (uint8_t)((key[0] & 0xfe) | (id.len > 0)); /* an id is no body */
    return 0;
}

static Str value_text(Arena *arena, const Json *v)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    if (json_type(v) == JSON_ABSENT) return STR_NULL;
    buf_init(&buf, 2 * ESCALATE_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_value(&out, v);
    return json_out_ok(&out) ? arena_str(arena, buf_str(&buf)) : STR_NULL;
}

/* How often the attempt has asked this, with this time. */
static int64_t occurrence(Run *run, const uint8_t key[SHA256_BYTES])
{
    int64_t n = 1;
    for (size_t i = 0; i < run->asked_n; i++) n += memcmp(run->asked[i], key, SHA256_BYTES) == 0;
    if (run->asked_n < ESCALATIONS_MAX) memcpy(run->asked[run->asked_n++], key, SHA256_BYTES);
    return n;
}

/* It was not put: the next one like it is in its place. */
static void occurrence_undo(Run *run, const EscalationAsk *ask)
{
    for (size_t i = run->asked_n; i-- > 0;) {
        if (memcmp(run->asked[i], ask->key, SHA256_BYTES) != 0) continue;
        memmove(run->asked[i], run->asked[--run->asked_n], SHA256_BYTES);
        return;
    }
}

/* Reads the body; answers when it is none. Returns 0, or what the answer returned. */
static int ask_read_wait(Run *run, HttpReq *req, Str body, EscalationAsk *ret)
{
    const Json *v = NULL;
    *ret = (EscalationAsk){ .timeout_ms = ESCALATE_TIMEOUT_DEFAULT_MS };
    int r = json_parse(&req->arena, body, NULL, &v, NULL);
    if (r == -ENOMEM) return r;
    if (r < 0 || json_type(v) != JSON_OBJECT)
        return invalid_wait(req, "the body is no JSON object");
    for (JsonIter it = json_iter(v); json_next(&it);)
        if (!member_known(it.key))
            return http_problem_wait(req, 422, "escalation_invalid", "unknown member `%.*s`",
                                     (int)MIN(it.key.len, (size_t)64), it.key.ptr);
    const Json *timeout = json_get(v, "timeout"), *id = json_get(v, "id");
    ret->question = json_str(json_get(v, "question"));
    if (ret->question.len == 0 || ret->question.len > QUESTION_BYTES_MAX)
        return invalid_wait(req, "`question` is to be a text of at most 10000 bytes");
    if (timeout && (duration_parse(json_str(timeout), &ret->timeout_ms) < 0 ||
                    ret->timeout_ms <= 0 || ret->timeout_ms > ESCALATION_TIMEOUT_MS_MAX))
        return invalid_wait(req, "`timeout` is to be a duration such as 24h, at most 365d");
    if (id && (json_str(id).len == 0 || json_str(id).len > ID_BYTES_MAX))
        return invalid_wait(req, "`id` is to be a text of at most 200 bytes");
    ret->context = value_text(&req->arena, json_get(v, "context"));
    ret->fallback = value_text(&req->arena, json_get(v, "default"));
    if ((json_get(v, "context") && !ret->context.ptr) ||
        (json_get(v, "default") && !ret->fallback.ptr))
        return -ENOMEM;
    r = key_make(v, body, ret->key);
    if (r < 0) return r;
    ret->occurrence = id ? 1 : occurrence(run, ret->key);
    return 0;
}

/* --- asking ----------------------------------------------------------------------------------- */

/* The question is put once, so it may be asked again and again while the control plane is away. */
static int put_wait(Run *run, const EscalationAsk *ask, Arena *arena, EscalationReply *ret)
{
    WorkerLink *link = run->host->link;
    int64_t delay_ms = DELAY_MS, until_ms = deadline_after(PATIENCE_MS);
    int r;
    while ((r = link->ops->escalate_wait(link, run->task.ref, ask, arena, ret)) < 0) {
        if (r == -ECANCELED || r == -ENOMEM || clock_mono_ms() + delay_ms > until_ms) return r;
        LOG_WARN("question not put", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        if (fiber_sleep_wait(delay_ms) < 0) return -ECANCELED;
        delay_ms = MIN(delay_ms * 2, DELAY_MS_MAX);
    }
    return r;
}

static int answered_wait(HttpReq *req, const EscalationReply *reply)
{
    CLEANUP(buf_deinit) Buf body = { 0 };
    buf_init(&body, 2 * (size_t)JSON_NUMBER_TEXT_MAX + 4 * ESCALATE_BYTES_MAX + reply->answer.len);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kraw(&out, "answer", reply->answer);
    json_out_key(&out, "by");
    if (reply->by.len) json_out_str(&out, reply->by);
    else json_out_null(&out);
    json_out_kcstr(&out, "source", reply->state == ESCALATION_DEFAULTED ? "default" : "person");
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return -ENOMEM;
    return http_reply_wait(req, 200, "application/json", buf_str(&body));
}

static int reply_wait(Run *run, HttpReq *req, const EscalationReply *reply)
{
    switch (reply->state) {
    case ESCALATION_ANSWERED:
    case ESCALATION_DEFAULTED: return answered_wait(req, reply);
    case ESCALATION_PENDING:
        task_log_printf(&run->log, "a person is asked; the task goes on with the answer");
        run_stop(run, RUN_ESCALATED); /* this fiber too */
        return -ECANCELED;
    default:
        http_header_add(req, "x-should-retry", STR("false"));
        return http_problem_wait(req, 409, "escalation_unanswered",
                                 "nobody has answered in time, and there is no default");
    }
}

int door_escalate_wait(Run *run, HttpReq *req)
{
    EscalationAsk ask;
    EscalationReply reply = { .state = ESCALATION_PENDING };
    Str body;
    if (!str_eq(req->method, STR("POST"))) {
        http_header_add(req, "allow", STR("POST"));
        return http_problem_wait(req, 405, "method_not_allowed", "people are asked by POST");
    }
    int r = door_body_wait(run, req, ESCALATE_BYTES_MAX, &body);
    if (r == HTTP_E_TOO_LARGE)
        return http_problem_wait(req, 413, "body_too_large", "the body has more than %zu bytes",
                                 ESCALATE_BYTES_MAX);
    if (r != 0) return r == HTTP_E_GONE ? 0 : r;
    r = ask_read_wait(run, req, body, &ask);
    if (r != 0 || req->replied) return r;
    r = put_wait(run, &ask, &req->arena, &reply);
    if (r == 0) return reply_wait(run, req, &reply);
    occurrence_undo(run, &ask);
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) {
        run_stop(run, RUN_STALE);
        return -ECANCELED;
    }
    if (r == LINK_E_REFUSED)
        return http_problem_wait(req, 429, "too_many_escalations", "%s", diag_text());
    if (r == -ECANCELED) return r;
    LOG_WARN("question not put", LOG_CSTR("why", diag_text_or(r)));
    return http_problem_wait(req, 503, "store_unreachable", "the control plane cannot be reached");
}
