/* Questions to people, on the wire, both directions. */
#include "base/diag.h"
#include "codec/hex.h"
#include "worker/wire.h"

static int invalid(const char *name)
{
    return diag_set(-EINVAL, "`%s` is missing or not what it should be", name);
}

/* A value as text; absent where the marker says so, because null is an answer too. */
static int raw_read(Arena *arena, const Json *v, const char *key, bool there, Str *ret)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    *ret = STR_NULL;
    if (!there) return 0;
    buf_init(&buf, arena->max);
    JsonOut out = json_out(&buf);
    if (json_type(json_get(v, key)) == JSON_ABSENT) json_out_null(&out);
    else json_out_value(&out, json_get(v, key));
    if (json_out_ok(&out)) *ret = arena_str(arena, buf_str(&buf));
    return ret->ptr ? 0 : diag_set(-ENOMEM, "`%s` is too large", key);
}

void wire_escalation_ask_write(JsonOut *out, TaskRef task, const EscalationAsk *ask)
{
    char key[SHA256_HEX_MAX];
    hex_encode(key, ask->key, sizeof ask->key);
    json_out_object(out);
    wire_ref_write(out, task);
    json_out_kcstr(out, "key", key);
    json_out_ki64(out, "occurrence", ask->occurrence);
    json_out_kstr(out, "question", ask->question);
    json_out_ki64(out, "timeoutMs", ask->timeout_ms);
    json_out_kraw_or_null(out, "context", ask->context);
    json_out_kbool(out, "hasDefault", ask->fallback.len > 0);
    json_out_kraw_or_null(out, "default", ask->fallback);
    json_out_object_end(out);
}

int wire_escalation_ask_read(Arena *arena, const Json *v, EscalationAsk *ret)
{
    *ret = (EscalationAsk){ .question = json_str(json_get(v, "question")),
                            .occurrence = json_i64_or(json_get(v, "occurrence"), 0),
                            .timeout_ms = json_i64_or(json_get(v, "timeoutMs"), 0) };
    const Json *context = json_get(v, "context");
    bool has_context = json_type(context) != JSON_ABSENT && json_type(context) != JSON_NULL;
    if (hex_decode(json_str(json_get(v, "key")), ret->key, sizeof ret->key) < 0)
        return invalid("key");
    if (ret->question.len == 0) return invalid("question");
    if (ret->occurrence < 1) return invalid("occurrence");
    if (ret->timeout_ms < 1 || ret->timeout_ms > ESCALATION_TIMEOUT_MS_MAX)
        return invalid("timeoutMs");
    int r = raw_read(arena, v, "context", has_context, &ret->context);
    if (r < 0) return r;
    return raw_read(arena, v, "default", json_bool(json_get(v, "hasDefault"), false),
                    &ret->fallback);
}

void wire_escalation_reply_write(JsonOut *out, const EscalationReply *reply)
{
    json_out_object(out);
    json_out_kcstr(out, "state", escalation_state_name(reply->state));
    json_out_kraw_or_null(out, "answer", reply->answer);
    json_out_kstr(out, "by", reply->by);
    json_out_object_end(out);
}

int wire_escalation_reply_read(Arena *arena, const Json *v, EscalationReply *ret)
{
    Str name = json_str(json_get(v, "state"));
    int state = 0;
    while (state < ESCALATION_STATE_N_ &&
           !str_eq(name, str_of(escalation_state_name((EscalationState)state))))
        state++;
    if (state == ESCALATION_STATE_N_) return invalid("state");
    *ret = (EscalationReply){ .state = (EscalationState)state, .by = json_str(json_get(v, "by")) };
    bool answered = state == ESCALATION_ANSWERED || state == ESCALATION_DEFAULTED;
    return raw_read(arena, v, "answer", answered, &ret->answer);
}
