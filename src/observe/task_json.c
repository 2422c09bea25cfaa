#include "observe/task_json.h"

#include <math.h>

#include "base/money.h"
#include "codec/time_text.h"

#define ERROR_DETAIL_BRIEF_MAX 2048

void json_out_ktime(JsonOut *out, const char *key, int64_t unix_ms)
{
    char text[TIME_TEXT_MAX];
    json_out_key(out, key);
    if (unix_ms == 0) json_out_null(out);
    else json_out_str(out, str_of(time_format(unix_ms, text)));
}

void json_out_kuuid(JsonOut *out, const char *key, Uuid id)
{
    char text[UUID_TEXT_MAX];
    json_out_key(out, key);
    if (uuid_is_zero(id)) json_out_null(out);
    else json_out_str(out, str_of(uuid_text(id, text)));
}

static void kstr_if(JsonOut *out, const char *key, Str value)
{
    if (!str_empty(value)) json_out_kstr(out, key, value);
}

static void usage_write(JsonOut *out, const TaskUsage *usage)
{
    char usd[MONEY_TEXT_MAX];
    json_out_key(out, "usage");
    json_out_object(out);
    json_out_ki64(out, "inputTokens", usage->input_tokens);
    json_out_ki64(out, "outputTokens", usage->output_tokens);
    json_out_ki64(out, "cachedTokens", usage->cached_tokens);
    json_out_ki64(out, "llmCalls", usage->llm_calls);
    json_out_ki64(out, "toolCalls", usage->tool_calls);
    json_out_ki64(out, "replayedCalls", usage->replayed_calls);
    json_out_ki64(out, "cachedCalls", usage->cached_calls);
    json_out_ki64(out, "degradedCalls", usage->degraded_calls);
    json_out_object_end(out);
    json_out_kcstr(out, "costUsd", money_text(usage->cost_nusd, usd));
    json_out_ki64(out, "costNusd", usage->cost_nusd);
}

/* One that ended while it did not run has no last words. */
static Str detail_of(const Task *task)
{
    if (!str_empty(task->error_detail) || !str_eq(task->error_code, STR(TASK_DEADLINE_CODE)))
        return task->error_detail;
    return task->attempt == 0 ? STR("the task's deadline passed before it was started")
                              : STR("the task's deadline passed while it waited");
}

/* What came of it: a result or an error, nothing while it goes on. */
static void outcome_write(JsonOut *out, const Task *task, unsigned flags)
{
    bool brief = flags & TASK_JSON_BRIEF;
    if (!str_empty(task->error_code)) {
        Str detail = detail_of(task);
        json_out_key(out, "error");
        json_out_object(out);
        json_out_kstr(out, "code", task->error_code);
        json_out_kstr(out, "detail", brief ? str_sub(detail, 0, ERROR_DETAIL_BRIEF_MAX) : detail);
        json_out_object_end(out);
    }
    if (brief) json_out_kbool(out, "resultTruncated", true);
    else if (!str_empty(task->result)) json_out_kraw(out, "result", task->result);
    else if ((flags & TASK_JSON_RESULT) && task->state == TASK_SUCCEEDED)
        json_out_kraw(out, "result", STR("null"));
}

/* What a person is asked; the context and the default too when there is room. */
static void question_write(JsonOut *out, const Escalation *e, bool brief)
{
    if (str_empty(e->question)) return;
    json_out_key(out, "escalation");
    json_out_object(out);
    json_out_kstr(out, "question",
                  brief ? str_sub(e->question, 0, ERROR_DETAIL_BRIEF_MAX) : e->question);
    if (!brief && !str_empty(e->context)) json_out_kraw(out, "context", e->context);
    if (!brief && !str_empty(e->fallback)) json_out_kraw(out, "default", e->fallback);
    json_out_ktime(out, "askedAt", e->asked_at_ms);
    json_out_ktime(out, "expiresAt", e->expires_at_ms);
    json_out_object_end(out);
}

static void origin_write(JsonOut *out, const Task *task, bool brief)
{
    if (!uuid_is_zero(task->parent_id)) json_out_kuuid(out, "parentTaskId", task->parent_id);
    if (!uuid_is_zero(task->shadow_of)) json_out_kbool(out, "shadow", true);
    if (!uuid_is_zero(task->shadow_of) && !uuid_eq(task->shadow_of, shadow_no_twin))
        json_out_kuuid(out, "shadowOf", task->shadow_of);
    kstr_if(out, "sessionId", task->session_id);
    kstr_if(out, "userId", task->user_id);
    kstr_if(out, "tenantId", task->tenant_id);
    kstr_if(out, "webhookUrl", task->webhook_url);
    if (!brief && !str_empty(task->metadata)) json_out_kraw(out, "metadata", task->metadata);
}

static void progress_write(JsonOut *out, const Task *task)
{
    json_out_ki64(out, "attempt", task->attempt);
    json_out_ktime(out, "createdAt", task->created_at_ms);
    json_out_ktime(out, "startedAt", task->started_at_ms);
    json_out_ktime(out, "finishedAt", task->finished_at_ms);
    if (task->state == TASK_QUEUED) json_out_ktime(out, "readyAt", task->ready_at_ms);
    if (task->due_at_ms) json_out_ktime(out, "deadline", task->due_at_ms);
    if (task->cancel_requested && !task_state_ended(task->state))
        json_out_kbool(out, "cancelRequested", true);
    kstr_if(out, "stoppedBy", task->stopped_by);
    if (task->usage.degraded_calls > 0) json_out_kbool(out, "degraded", true);
}

static void child_write(JsonOut *out, const FamilyRow *row)
{
    char usd[MONEY_TEXT_MAX];
    json_out_object(out);
    json_out_kuuid(out, "taskId", row->id);
    json_out_kcstr(out, "status", task_state_name(row->state));
    json_out_kstr(out, "agent", row->agent);
    json_out_ktime(out, "createdAt", row->created_at_ms);
    json_out_ktime(out, "finishedAt", row->finished_at_ms);
    kstr_if(out, "stoppedBy", row->stopped_by);
    json_out_kcstr(out, "costUsd", money_text(row->charged.nusd, usd)); /* with all below it */
    json_out_ki64(out, "costNusd", row->charged.nusd);
    json_out_object_end(out);
}

static void family_write(JsonOut *out, const FamilyRow *rows, size_t n, const FamilyTotals *totals)
{
    json_out_key(out, "children");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) child_write(out, &rows[i]);
    json_out_array_end(out);
    json_out_key(out, "descendants");
    json_out_object(out);
    json_out_ki64(out, "tasks", totals->tasks);
    json_out_ki64(out, "open", totals->open);
    usage_write(out, &totals->usage);
    json_out_object_end(out);
}

static void members_write(JsonOut *out, const Task *task, unsigned flags)
{
    bool brief = flags & TASK_JSON_BRIEF;
    json_out_kuuid(out, "taskId", task->id);
    json_out_kcstr(out, "status", task_state_name(task->state));
    json_out_kstr(out, "agent", task->agent);
    json_out_kstr(out, "versionId", task->version_id);
    json_out_kcstr(out, "priority", lane_name(task->lane));
    progress_write(out, task);
    outcome_write(out, task, flags);
    question_write(out, &task->question, brief);
    usage_write(out, &task->usage);
    json_out_key(out, "quality");
    if (isnan(task->quality)) json_out_null(out);
    else json_out_f64(out, task->quality);
    origin_write(out, task, brief);
}

void task_json(JsonOut *out, const Task *task, unsigned flags)
{
    json_out_object(out);
    members_write(out, task, flags);
    json_out_object_end(out);
}

static void place_write(JsonOut *out, const TaskPlace *place)
{
    json_out_key(out, "queue");
    json_out_object(out);
    json_out_kcstr(out, "waitsFor", place_kind_name(place->kind));
    if (place->place > 0) json_out_ki64(out, "position", place->place);
    json_out_key(out, "expectedWaitMs");
    if (place->expected_ms < 0) json_out_null(out);
    else json_out_i64(out, place->expected_ms);
    json_out_object_end(out);
}

void task_json_with(JsonOut *out, const Task *task, unsigned flags, const TaskAround *around)
{
    json_out_object(out);
    members_write(out, task, flags);
    if (around->place && around->place->queued) place_write(out, around->place);
    if (around->totals) family_write(out, around->children, around->children_n, around->totals);
    json_out_object_end(out);
}
