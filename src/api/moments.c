#include "api/moments.h"

#include "base/money.h"
#include "observe/task_json.h"
#include "store/call_store.h"
#include "store/escalation_store.h"
#include "store/family_store.h"
#include "store/log_store.h"
#include "store/tool_store.h"
#include "store/webhook_store.h"

static const char *const moment_names[MOMENT_N_] = {
    [MOMENT_SUBMITTED] = "submitted",
    [MOMENT_ATTEMPT_STARTED] = "attempt_started",
    [MOMENT_CALL] = "llm_call",
    [MOMENT_TOOL] = "tool_call",
    [MOMENT_CHILD_STARTED] = "subagent_started",
    [MOMENT_CHILD_FINISHED] = "subagent_finished",
    [MOMENT_LOG] = "log",
    [MOMENT_ASKED] = "escalation_asked",
    [MOMENT_ATTEMPT_FINISHED] = "attempt_finished",
    [MOMENT_ANSWERED] = "escalation_ended",
    [MOMENT_FINISHED] = "finished",
    [MOMENT_WEBHOOK] = "webhook",
};

const char *moment_name(MomentKind kind)
{
    assert(kind < MOMENT_N_);
    return moment_names[kind];
}

static void kstr_if(JsonOut *out, const char *key, Str value)
{
    if (!str_empty(value)) json_out_kstr(out, key, value);
}

static void attempt_write(JsonOut *out, const Attempt *a, bool ended)
{
    json_out_ki64(out, "attempt", a->attempt);
    json_out_kuuid(out, "workerId", a->worker_id);
    if (!ended) return;
    json_out_ki64(out, "durationMs", MAX(a->finished_at_ms - a->started_at_ms, 0));
    kstr_if(out, "outcome", a->outcome);
    kstr_if(out, "errorCode", a->error_code);
    kstr_if(out, "errorDetail", a->error_detail);
    kstr_if(out, "sandbox", a->sandbox);
}

static void call_write(JsonOut *out, const Call *c)
{
    char usd[MONEY_TEXT_MAX];
    json_out_ki64(out, "attempt", c->attempt);
    json_out_ki64(out, "durationMs", c->duration_ms);
    json_out_kstr(out, "provider", c->provider);
    json_out_kstr(out, "model", c->model);
    json_out_kstr(out, "outcome", c->outcome);
    json_out_ki64(out, "status", c->status);
    json_out_kbool(out, "streamed", c->streamed);
    json_out_kbool(out, "replayed", c->replayed);
    json_out_kbool(out, "cached", c->cached);
    kstr_if(out, "degraded", c->degraded);
    kstr_if(out, "callId", c->call_id);
    kstr_if(out, "requestId", c->request_id);
    kstr_if(out, "upstreamRequestId", c->upstream_id);
    json_out_ki64(out, "inputTokens", c->input_tokens);
    json_out_ki64(out, "outputTokens", c->output_tokens);
    json_out_ki64(out, "cachedTokens", c->cached_tokens);
    json_out_ki64(out, "reasoningTokens", c->reasoning_tokens);
    json_out_kcstr(out, "costUsd", money_text(c->cost_nusd, usd));
    json_out_ki64(out, "costNusd", c->cost_nusd);
}

static void tool_write(JsonOut *out, const ToolRecord *r)
{
    json_out_ki64(out, "attempt", r->attempt);
    json_out_ki64(out, "durationMs", r->duration_ms);
    json_out_kstr(out, "tool", r->name);
    json_out_kstr(out, "source", r->source);
    json_out_kstr(out, "outcome", r->outcome);
    json_out_kbool(out, "replayed", r->replayed);
    if (!str_empty(r->mode)) json_out_kstr(out, "mode", r->mode);
    json_out_ki64(out, "bytes", r->bytes);
}

static void webhook_write(JsonOut *out, const Webhook *w)
{
    json_out_kstr(out, "webhookId", w->webhook_id);
    json_out_kstr(out, "url", w->url);
    json_out_kcstr(out, "state", webhook_state_name(w->state));
    json_out_ki64(out, "attempts", w->attempts);
    json_out_ki64(out, "status", w->last_status);
    kstr_if(out, "error", w->last_error);
    if (w->state == WEBHOOK_PENDING) json_out_ktime(out, "nextAt", w->next_at_ms);
}

static void question_write(JsonOut *out, const Escalation *e, bool ended)
{
    if (!ended) {
        json_out_kstr(out, "question", e->question);
        return;
    }
    json_out_kcstr(out, "state", escalation_state_name(e->state));
    Str answer = e->state == ESCALATION_DEFAULTED ? e->fallback : e->answer;
    if (!str_empty(answer)) json_out_kraw(out, "answer", answer);
    kstr_if(out, "by", e->answered_by);
}

static void log_write(JsonOut *out, const TaskLogLine *line)
{
    json_out_ki64(out, "attempt", line->attempt);
    json_out_ki64(out, "seq", line->seq);
    json_out_kcstr(out, "stream", task_log_stream_name(line->stream));
    json_out_kstr(out, "text", line->text);
}

static void child_write(JsonOut *out, const FamilyRow *c, bool ended)
{
    char usd[MONEY_TEXT_MAX];
    json_out_kuuid(out, "subagentTaskId", c->id);
    json_out_kstr(out, "agent", c->agent);
    if (!ended) return;
    json_out_ki64(out, "durationMs", MAX(c->finished_at_ms - c->created_at_ms, 0));
    json_out_kcstr(out, "status", task_state_name(c->state));
    kstr_if(out, "errorCode", c->error_code);
    json_out_kcstr(out, "costUsd", money_text(c->charged.nusd, usd));
    json_out_ki64(out, "costNusd", c->charged.nusd);
}

static void end_write(JsonOut *out, const Task *task)
{
    json_out_kcstr(out, "status", task_state_name(task->state));
    kstr_if(out, "errorCode", task->error_code);
    kstr_if(out, "errorDetail", task->error_detail);
}

void moment_write(JsonOut *out, const Moment *m)
{
    json_out_object(out);
    json_out_ktime(out, "at", m->at_ms);
    json_out_kcstr(out, "type", moment_names[m->kind]);
    switch (m->kind) {
    case MOMENT_ATTEMPT_STARTED: attempt_write(out, m->of, false); break;
    case MOMENT_ATTEMPT_FINISHED: attempt_write(out, m->of, true); break;
    case MOMENT_CALL: call_write(out, m->of); break;
    case MOMENT_TOOL: tool_write(out, m->of); break;
    case MOMENT_CHILD_STARTED: child_write(out, m->of, false); break;
    case MOMENT_CHILD_FINISHED: child_write(out, m->of, true); break;
    case MOMENT_LOG: log_write(out, m->of); break;
    case MOMENT_ASKED: question_write(out, m->of, false); break;
    case MOMENT_ANSWERED: question_write(out, m->of, true); break;
    case MOMENT_WEBHOOK: webhook_write(out, m->of); break;
    case MOMENT_FINISHED: end_write(out, m->of); break;
    default: break;
    }
    json_out_object_end(out);
}
