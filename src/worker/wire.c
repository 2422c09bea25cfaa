#include "worker/wire.h"

#include <stdio.h>

#include "base/diag.h"
#include "codec/hex.h"
#include "codec/time_text.h"
#include "logic/attempt.h"
#include "logic/provider_ref.h"
#include "logic/rollup.h"

#define WIRE_TASKS_MAX 4096
#define WORD_BYTES_MAX 32
#define REQUEST_ID_MAX 128

static int missing(const char *name)
{
    return diag_set(-EINVAL, "`%s` is missing or not what it should be", name);
}

int wire_text_of(Arena *arena, const Json *v, Str *ret)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    *ret = STR_NULL;
    if (json_type(v) == JSON_ABSENT || json_type(v) == JSON_NULL) return 0;
    buf_init(&buf, arena->max);
    JsonOut out = json_out(&buf);
    json_out_value(&out, v);
    if (!json_out_ok(&out)) return diag_set(-ENOMEM, "a value is too large");
    *ret = arena_str(arena, buf_str(&buf));
    return ret->ptr ? 0 : diag_set(-ENOMEM, "a value is too large");
}

static int64_t count_of(const Json *v, const char *key)
{
    return MIN(MAX(json_i64_or(json_get(v, key), 0), 0), CAP_CALL_MAX);
}

/* --- slots, references ------------------------------------------------------------------------ */

void wire_slots_write(JsonOut *out, const LaneConfig *slots)
{
    json_out_object(out);
    for (int l = 0; l < LANE_N_; l++) json_out_ki64(out, lane_name((Lane)l), slots->reserved[l]);
    json_out_ki64(out, "shared", slots->shared);
    json_out_object_end(out);
}

static int slots_member(const Json *v, const char *key, int64_t *ret)
{
    if (json_i64(json_get(v, key), ret) < 0 || *ret < 0 || *ret > LANE_SLOTS_MAX)
        return missing(key);
    return 0;
}

int wire_slots_read(const Json *v, LaneConfig *ret)
{
    LaneConfig slots;
    int r = slots_member(v, "shared", &slots.shared);
    for (int l = 0; r == 0 && l < LANE_N_; l++)
        r = slots_member(v, lane_name((Lane)l), &slots.reserved[l]);
    if (r == 0) *ret = slots;
    return r;
}

void wire_ref_write(JsonOut *out, TaskRef ref)
{
    char id[UUID_TEXT_MAX];
    json_out_kcstr(out, "taskId", uuid_text(ref.id, id));
    json_out_ki64(out, "fence", ref.fence);
}

int wire_ref_read(const Json *v, TaskRef *ret)
{
    TaskRef ref = { .fence = 0 };
    if (uuid_from_text(json_str(json_get(v, "taskId")), &ref.id) < 0) return missing("taskId");
    if (json_i64(json_get(v, "fence"), &ref.fence) < 0) return missing("fence");
    *ret = ref;
    return 0;
}

static void usage_write(JsonOut *out, const char *key, const TaskUsage *usage)
{
    json_out_key(out, key);
    json_out_object(out);
    json_out_ki64(out, "inputTokens", usage->input_tokens);
    json_out_ki64(out, "outputTokens", usage->output_tokens);
    json_out_ki64(out, "cachedTokens", usage->cached_tokens);
    json_out_ki64(out, "chargedTokens", usage->charged_tokens);
    json_out_ki64(out, "llmCalls", usage->llm_calls);
    json_out_ki64(out, "toolCalls", usage->tool_calls);
    json_out_ki64(out, "costNusd", usage->cost_nusd);
    json_out_object_end(out);
}

static TaskUsage usage_read(const Json *v)
{
    return (TaskUsage){
        .input_tokens = count_of(v, "inputTokens"),
        .output_tokens = count_of(v, "outputTokens"),
        .cached_tokens = count_of(v, "cachedTokens"),
        .charged_tokens = count_of(v, "chargedTokens"),
        .llm_calls = count_of(v, "llmCalls"),
        .tool_calls = count_of(v, "toolCalls"),
        .cost_nusd = count_of(v, "costNusd"),
    };
}

/* --- claimed tasks ---------------------------------------------------------------------------- */

LinkTask link_task_from(const Task *task)
{
    int64_t deadline_ms = task->deadline_at_ms;
    return (LinkTask){
        .ref = { task->id, task->fence },
        .attempt = task->attempt,
        .agent = task->agent,
        .version_id = task->version_id,
        .lane = task->lane,
        .input = task->input,
        .limits = task->limits,
        .metadata = task->metadata,
        .session_id = task->session_id,
        .user_id = task->user_id,
        .tenant_id = task->tenant_id,
        .traceparent = task->traceparent,
        .remaining_ms = deadline_ms ? deadline_ms - task->started_at_ms : LINK_NO_DEADLINE,
        .given = deadline_is_given(deadline_ms, task->due_at_ms),
        .spent = task->usage,
        .ran_ms = task->ran_ms,
        .shadow = !uuid_is_zero(task->shadow_of),
    };
}

void wire_task_write(JsonOut *out, const LinkTask *task)
{
    json_out_object(out);
    wire_ref_write(out, task->ref);
    json_out_ki64(out, "attempt", task->attempt);
    json_out_kstr(out, "agent", task->agent);
    json_out_kstr(out, "versionId", task->version_id);
    json_out_kcstr(out, "lane", lane_name(task->lane));
    json_out_kraw_or_null(out, "input", task->input);
    json_out_kraw_or_null(out, "limits", task->limits);
    json_out_kraw_or_null(out, "metadata", task->metadata);
    json_out_kstr_or_null(out, "sessionId", task->session_id);
    json_out_kstr_or_null(out, "userId", task->user_id);
    json_out_kstr_or_null(out, "tenantId", task->tenant_id);
    json_out_kstr_or_null(out, "traceparent", task->traceparent);
    json_out_key(out, "remainingMs");
    if (task->remaining_ms == LINK_NO_DEADLINE) json_out_null(out);
    else json_out_i64(out, task->remaining_ms);
    if (task->given) json_out_kbool(out, "deadlineGiven", true);
    usage_write(out, "spent", &task->spent);
    json_out_ki64(out, "ranMs", task->ran_ms);
    if (task->shadow) json_out_kbool(out, "shadow", true);
    json_out_object_end(out);
}

int wire_task_read(Arena *arena, const Json *v, LinkTask *ret)
{
    LinkTask task = { 0 };
    int r = wire_ref_read(v, &task.ref);
    if (r < 0) return r;
    if (lane_from(json_str(json_get(v, "lane")), &task.lane) < 0) return missing("lane");
    task.agent = json_str(json_get(v, "agent"));
    if (!task.agent.len) return missing("agent");
    task.version_id = json_str(json_get(v, "versionId"));
    if (!task.version_id.len) return missing("versionId");
    task.attempt = json_i64_or(json_get(v, "attempt"), 1);
    task.remaining_ms = json_i64_or(json_get(v, "remainingMs"), LINK_NO_DEADLINE);
    task.given = json_bool(json_get(v, "deadlineGiven"), false);
    task.session_id = json_str(json_get(v, "sessionId"));
    task.user_id = json_str(json_get(v, "userId"));
    task.tenant_id = json_str(json_get(v, "tenantId"));
    task.traceparent = json_str(json_get(v, "traceparent"));
    task.spent = usage_read(json_get(v, "spent"));
    task.ran_ms = MAX(json_i64_or(json_get(v, "ranMs"), 0), 0);
    task.shadow = json_bool(json_get(v, "shadow"), false);
    if ((r = wire_text_of(arena, json_get(v, "input"), &task.input)) < 0) return r;
    if ((r = wire_text_of(arena, json_get(v, "limits"), &task.limits)) < 0) return r;
    if ((r = wire_text_of(arena, json_get(v, "metadata"), &task.metadata)) < 0) return r;
    if (!task.input.len) task.input = STR("null");
    *ret = task;
    return 0;
}

/* --- heartbeats ------------------------------------------------------------------------------- */

static void stops_write(JsonOut *out, const char *key, const HeartbeatReply *beat,
                        HoldReason reason)
{
    char id[UUID_TEXT_MAX];
    json_out_key(out, key);
    json_out_array(out);
    for (size_t i = 0; i < beat->stops_n; i++)
        if (beat->stops[i].reason == reason)
            json_out_str(out, str_of(uuid_text(beat->stops[i].task.id, id)));
    json_out_array_end(out);
}

void wire_beat_write(JsonOut *out, const HeartbeatReply *beat)
{
    json_out_object(out);
    stops_write(out, "cancel", beat, HOLD_CANCEL);
    stops_write(out, "lost", beat, HOLD_STALE);
    json_out_kbool(out, "draining", beat->draining);
    json_out_ki64(out, "flagsRevision", beat->flags_revision);
    json_out_ki64(out, "pricesRevision", beat->prices_revision);
    json_out_ki64(out, "cacheRevision", beat->cache_revision);
    json_out_ki64(out, "budgetEpoch", (int64_t)beat->budget_epoch);
    json_out_kbool(out, "budgetWanted", beat->budget_wanted);
    json_out_ki64(out, "released", (int64_t)beat->released);
    json_out_ki64(out, "mark", (int64_t)beat->mark);
    json_out_object_end(out);
}

/* The answer names tasks only: they are the ones this request held. */
static int stops_read(const Json *ids, HoldReason reason, const TaskRef *held, size_t held_n,
                      HeartbeatReply *beat)
{
    for (JsonIter it = json_iter(ids); json_next(&it);) {
        Uuid id;
        if (uuid_from_text(json_str(it.value), &id) < 0) return missing("cancel, lost");
        for (size_t i = 0; i < held_n && beat->stops_n < 2 * held_n; i++)
            if (uuid_eq(held[i].id, id))
                beat->stops[beat->stops_n++] = (HoldStop){ .task = held[i], .reason = reason };
    }
    return 0;
}

int wire_beat_read(Arena *arena, const Json *v, const TaskRef *held, size_t held_n,
                   HeartbeatReply *ret)
{
    HeartbeatReply beat = { .draining = json_bool(json_get(v, "draining"), false),
                            .flags_revision = json_i64_or(json_get(v, "flagsRevision"), 0),
                            .prices_revision = json_i64_or(json_get(v, "pricesRevision"), 0),
                            .cache_revision = json_i64_or(json_get(v, "cacheRevision"), 0),
                            .budget_epoch = (uint64_t)json_i64_or(json_get(v, "budgetEpoch"), 0),
                            .budget_wanted = json_bool(json_get(v, "budgetWanted"), false),
                            .released = (size_t)MAX(json_i64_or(json_get(v, "released"), 0), 0),
                            .mark = (uint64_t)json_i64_or(json_get(v, "mark"), -1) };
    if (json_type(v) != JSON_OBJECT) return missing("heartbeat");
    beat.stops = ARENA_ARRAY(arena, HoldStop, 2 * held_n + 1);
    if (!beat.stops) return diag_set(-ENOMEM, "too many tasks");
    int r = stops_read(json_get(v, "cancel"), HOLD_CANCEL, held, held_n, &beat);
    if (r == 0) r = stops_read(json_get(v, "lost"), HOLD_STALE, held, held_n, &beat);
    if (r == 0) *ret = beat;
    return r;
}

/* --- response caches -------------------------------------------------------------------------- */

void wire_figures_write(JsonOut *out, const CacheFigures *f)
{
    json_out_ki64(out, "hits", (int64_t)f->hits);
    json_out_ki64(out, "misses", (int64_t)f->misses);
    json_out_ki64(out, "stored", (int64_t)f->stored);
    json_out_ki64(out, "evicted", (int64_t)f->evicted);
    json_out_ki64(out, "expired", (int64_t)f->expired);
    json_out_ki64(out, "purged", (int64_t)f->purged);
    json_out_ki64(out, "tooLarge", (int64_t)f->too_large);
    json_out_ki64(out, "bytes", f->bytes);
    json_out_ki64(out, "entries", f->entries);
}

void wire_cache_write(JsonOut *out, const CacheFigures *figures, int64_t seen)
{
    json_out_object(out);
    json_out_ki64(out, "seen", seen);
    wire_figures_write(out, figures);
    json_out_object_end(out);
}

void wire_cache_read(const Json *v, CacheFigures *ret_figures, int64_t *ret_seen)
{
    *ret_seen = count_of(v, "seen");
    *ret_figures = (CacheFigures){ .hits = (uint64_t)count_of(v, "hits"),
                                   .misses = (uint64_t)count_of(v, "misses"),
                                   .stored = (uint64_t)count_of(v, "stored"),
                                   .evicted = (uint64_t)count_of(v, "evicted"),
                                   .expired = (uint64_t)count_of(v, "expired"),
                                   .purged = (uint64_t)count_of(v, "purged"),
                                   .too_large = (uint64_t)count_of(v, "tooLarge"),
                                   .bytes = count_of(v, "bytes"),
                                   .entries = count_of(v, "entries") };
}

static void part_write(JsonOut *out, const char *key, bool given, Str text)
{
    json_out_key(out, key);
    if (given) json_out_str(out, text);
    else json_out_null(out);
}

void wire_news_write(JsonOut *out, const CacheNews *news)
{
    json_out_object(out);
    json_out_ki64(out, "revision", news->revision);
    json_out_key(out, "purges");
    json_out_array(out);
    for (size_t i = 0; i < news->n; i++) {
        const CachePurge *purge = &news->purges[i];
        json_out_object(out);
        part_write(out, "tenant", purge->by_tenant, purge->tenant);
        part_write(out, "agent", purge->by_agent, purge->agent);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

int wire_news_read(Arena *arena, const Json *v, CacheNews *ret)
{
    const Json *purges = json_get(v, "purges");
    CacheNews news = { .n = 0 };
    if (json_i64(json_get(v, "revision"), &news.revision) < 0) return missing("revision");
    if (json_type(purges) != JSON_ARRAY) return missing("purges");
    news.purges = ARENA_ARRAY(arena, CachePurge, json_len(purges) + 1);
    if (!news.purges) return diag_set(-ENOMEM, "too many purges");
    for (JsonIter it = json_iter(purges); json_next(&it);) {
        const Json *tenant = json_get(it.value, "tenant"), *agent = json_get(it.value, "agent");
        news.purges[news.n++] = (CachePurge){ .by_tenant = json_type(tenant) == JSON_STRING,
                                              .by_agent = json_type(agent) == JSON_STRING,
                                              .tenant = json_str(tenant),
                                              .agent = json_str(agent) };
    }
    *ret = news;
    return 0;
}

/* --- the end of an attempt -------------------------------------------------------------------- */

static void error_write(JsonOut *out, const TaskFinish *finish)
{
    json_out_key(out, "error");
    if (!finish->error_code.len) {
        json_out_null(out);
        return;
    }
    json_out_object(out);
    json_out_kstr(out, "code", finish->error_code);
    json_out_kstr(out, "detail", finish->error_detail);
    json_out_object_end(out);
}

static void conduct_write(JsonOut *out, const TaskConduct *conduct)
{
    char hex[17];
    Str name, rest = conduct->tools;
    int64_t calls;
    json_out_key(out, "conduct");
    if (!conduct->known) {
        json_out_null(out);
        return;
    }
    snprintf(hex, sizeof hex, "%016" PRIx64, conduct->fingerprint);
    json_out_object(out);
    json_out_kcstr(out, "fingerprint", hex);
    json_out_key(out, "tools");
    json_out_array(out);
    while (tool_use_next(&rest, &name, &calls)) {
        json_out_object(out);
        json_out_kstr(out, "name", name);
        json_out_ki64(out, "calls", calls);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

/* Sixteen hex digits. */
static int fingerprint_read(Str hex, uint64_t *ret)
{
    uint8_t bytes[8];
    if (hex_decode(hex, bytes, sizeof bytes) < 0) return missing("fingerprint");
    *ret = 0;
    for (size_t i = 0; i < sizeof bytes; i++) *ret = *ret << 8 | bytes[i];
    return 0;
}

/* Tools beyond ROLLUP_TOOLS_MAX are left out. */
static int conduct_read(Arena *arena, const Json *v, TaskConduct *ret)
{
    CLEANUP(buf_deinit) Buf tools = { 0 };
    size_t n = 0;
    *ret = (TaskConduct){ 0 };
    if (json_type(v) != JSON_OBJECT) return 0;
    int r = fingerprint_read(json_str(json_get(v, "fingerprint")), &ret->fingerprint);
    if (r < 0) return r;
    ret->known = true;
    buf_init(&tools, TASK_CONDUCT_TOOLS_MAX);
    for (JsonIter it = json_iter(json_get(v, "tools")); json_next(&it) && n < ROLLUP_TOOLS_MAX; n++)
        tool_use_add(&tools, json_str(json_get(it.value, "name")), count_of(it.value, "calls"));
    ret->tools = arena_str(arena, buf_str(&tools));
    return ret->tools.ptr ? 0 : diag_set(-ENOMEM, "no memory for the tools of an attempt");
}

void wire_finish_write(JsonOut *out, const TaskFinish *finish)
{
    json_out_object(out);
    wire_ref_write(out, finish->task);
    json_out_kcstr(out, "outcome", task_outcome_name(finish->outcome));
    json_out_kraw_or_null(out, "result", finish->result);
    error_write(out, finish);
    json_out_kstr_or_null(out, "stoppedBy", finish->stopped_by);
    json_out_kstr_or_null(out, "sandbox", finish->sandbox);
    json_out_ki64(out, "retryAfterMs", finish->retry_after_ms);
    usage_write(out, "usage", &finish->usage);
    conduct_write(out, &finish->conduct);
    json_out_object_end(out);
}

int wire_finish_read(Arena *arena, const Json *v, TaskFinish *ret)
{
    TaskFinish finish = { .retry_after_ms = count_of(v, "retryAfterMs") };
    const Json *error = json_get(v, "error");
    int r = wire_ref_read(v, &finish.task);
    if (r < 0) return r;
    if (task_outcome_from(json_str(json_get(v, "outcome")), &finish.outcome) < 0 ||
        finish.outcome == TASK_OUTCOME_LOST)
        return missing("outcome");
    finish.error_code = json_str(json_get(error, "code"));
    finish.error_detail = json_str(json_get(error, "detail"));
    finish.stopped_by = json_str(json_get(v, "stoppedBy"));
    finish.sandbox = json_str(json_get(v, "sandbox"));
    finish.usage = usage_read(json_get(v, "usage"));
    if ((r = wire_text_of(arena, json_get(v, "result"), &finish.result)) < 0) return r;
    if ((r = conduct_read(arena, json_get(v, "conduct"), &finish.conduct)) < 0) return r;
    *ret = finish;
    return 0;
}

void wire_finishes_write(JsonOut *out, const TaskFinish *const *list, size_t n)
{
    json_out_object(out);
    json_out_key(out, "tasks");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) wire_finish_write(out, list[i]);
    json_out_array_end(out);
    json_out_object_end(out);
}

void wire_finished_write(JsonOut *out, const int *statuses, size_t n)
{
    json_out_object(out);
    json_out_key(out, "tasks");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) {
        json_out_object(out);
        json_out_ki64(out, "status", statuses[i]);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

int wire_finished_read(const Json *v, int *ret, size_t n)
{
    const Json *tasks = json_get(v, "tasks");
    size_t i = 0;
    if (json_type(tasks) != JSON_ARRAY || json_len(tasks) != n) return missing("tasks");
    for (JsonIter it = json_iter(tasks); json_next(&it); i++) {
        int64_t status = json_i64_or(json_get(it.value, "status"), 0);
        if (status < 100 || status > 599) return missing("status");
        ret[i] = (int)status;
    }
    return 0;
}

/* --- scores ----------------------------------------------------------------------------------- */

void wire_score_write(JsonOut *out, const TaskScore *score)
{
    json_out_object(out);
    wire_ref_write(out, (TaskRef){ .id = score->id, .fence = score->fence });
    json_out_kstr(out, "name", score->name);
    json_out_key(out, "value");
    json_out_f64(out, score->value);
    json_out_kstr_or_null(out, "comment", score->comment);
    json_out_object_end(out);
}

int wire_score_read(const Json *v, TaskScore *ret)
{
    TaskRef task;
    int r = wire_ref_read(v, &task);
    if (r < 0) return r;
    *ret = (TaskScore){ .id = task.id,
                        .fence = task.fence,
                        .name = json_str(json_get(v, "name")),
                        .value = json_f64_or(json_get(v, "value"), -1),
                        .comment = json_str(json_get(v, "comment")) };
    if (task.fence <= 0) return missing("fence");
    if (str_empty(ret->name) || ret->name.len > TASK_SCORE_NAME_BYTES_MAX) return missing("name");
    if (!(ret->value >= 0 && ret->value <= 1)) return missing("value");
    return ret->comment.len <= TASK_SCORE_COMMENT_BYTES_MAX ? 0 : missing("comment");
}

/* --- calls of tools --------------------------------------------------------------------------- */

void wire_tool_write(JsonOut *out, const ToolRecord *record)
{
    char at[TIME_TEXT_MAX];
    json_out_object(out);
    json_out_kstr(out, "id", record->id);
    json_out_kstr(out, "name", record->name);
    json_out_kstr(out, "source", record->source);
    json_out_kstr(out, "outcome", record->outcome);
    json_out_kcstr(out, "at", time_format(record->at_ms, at));
    json_out_ki64(out, "durationMs", record->duration_ms);
    json_out_ki64(out, "bytes", record->bytes);
    json_out_kbool(out, "replayed", record->replayed);
    json_out_kbool(out, "counted", record->counted);
    if (!str_empty(record->mode)) json_out_kstr(out, "mode", record->mode);
    json_out_object_end(out);
}

int wire_tool_read(const Json *v, ToolRecord *ret)
{
    ToolRecord record = {
        .id = json_str(json_get(v, "id")),
        .name = json_str(json_get(v, "name")),
        .source = json_str(json_get(v, "source")),
        .outcome = json_str(json_get(v, "outcome")),
        .duration_ms = count_of(v, "durationMs"),
        .bytes = count_of(v, "bytes"),
        .replayed = json_bool(json_get(v, "replayed"), false),
        .counted = json_bool(json_get(v, "counted"), false),
        .mode = json_str(json_get(v, "mode")),
    };
    Uuid id;
    if (uuid_from_text(record.id, &id) < 0) return missing("id");
    if (!record.name.len) return missing("name");
    if (!record.outcome.len) return missing("outcome");
    if (time_parse(json_str(json_get(v, "at")), &record.at_ms) < 0) return missing("at");
    *ret = record;
    return 0;
}

/* --- log lines -------------------------------------------------------------------------------- */

void wire_line_write(JsonOut *out, const TaskLogLine *line)
{
    char at[TIME_TEXT_MAX];
    json_out_object(out);
    json_out_ki64(out, "seq", line->seq);
    json_out_kcstr(out, "at", time_format(line->at_ms, at));
    json_out_kcstr(out, "stream", task_log_stream_name(line->stream));
    json_out_kstr(out, "text", line->text);
    if (line->left_out_n > 0) {
        json_out_ki64(out, "leftOutLines", line->left_out_n);
        json_out_ki64(out, "leftOutBytes", line->left_out_bytes);
    }
    json_out_object_end(out);
}

static int stream_from(Str name, TaskLogStream *ret)
{
    for (int i = 0; i < TASK_LOG_STREAM_N_; i++) {
        if (!str_eq(name, str_of(task_log_stream_name((TaskLogStream)i)))) continue;
        *ret = (TaskLogStream)i;
        return 0;
    }
    return missing("stream");
}

int wire_line_read(const Json *v, TaskLogLine *ret)
{
    TaskLogLine line = { .seq = count_of(v, "seq"),
                         .text = json_str(json_get(v, "text")),
                         .left_out_n = count_of(v, "leftOutLines"),
                         .left_out_bytes = count_of(v, "leftOutBytes") };
    if (json_type(json_get(v, "text")) != JSON_STRING) return missing("text");
    if (time_parse(json_str(json_get(v, "at")), &line.at_ms) < 0) return missing("at");
    int r = stream_from(json_str(json_get(v, "stream")), &line.stream);
    if (r == 0) *ret = line;
    return r;
}

/* --- model calls ------------------------------------------------------------------------------ */

static Str call_outcome(const GatewayCall *call)
{
    return call->outcome == GATEWAY_COMPLETE ? STR("ok")
                                             : str_of(gateway_outcome_name(call->outcome));
}

static Str call_protocol(const GatewayCall *call)
{
    return str_of(gateway_protocol_name(gateway_api_protocol(call->api)));
}

Call call_from_gateway(const GatewayCall *call)
{
    return (Call){
        .call_id = str_of(call->id),
        .response_id = call->response_id,
        .request_id = call->request_id,
        .upstream_id = call->upstream_id,
        .attempt = call->attempt,
        .at_ms = call->started_real_ms,
        .duration_ms = call->duration_us / 1000,
        .provider = call->provider,
        .model = call->model,
        .protocol = call_protocol(call),
        .outcome = call_outcome(call),
        .streamed = call->streamed,
        .cached = call->cached,
        .degraded = str_of(call->degraded_by),
        .status = call->status,
        .input_tokens = call->usage.input_tokens,
        .output_tokens = call->usage.output_tokens,
        .cached_tokens = call->usage.cached_tokens,
        .reasoning_tokens = call->usage.reasoning_tokens,
        .cost_nusd = call->charged.nusd,
        .charged_tokens = call->charged.tokens,
        .tool_calls = call->usage.tool_calls,
        .replayed = call->replayed,
        .recording = call->recording,
        .replay_missed = call->replay_missed,
    };
}

static void call_tools_write(JsonOut *out, const GatewayCall *call)
{
    json_out_key(out, "toolNames");
    json_out_array(out);
    for (size_t i = 0; i < call->tool_names_n; i++) json_out_str(out, call->tool_names[i]);
    json_out_array_end(out);
}

static void call_usage_write(JsonOut *out, const GatewayCall *call)
{
    const Usage *u = &call->usage;
    json_out_kbool(out, "usageKnown", u->valid);
    json_out_kbool(out, "fullHold", call->full_hold);
    json_out_ki64(out, "inputTokens", u->input_tokens);
    json_out_ki64(out, "outputTokens", u->output_tokens);
    json_out_ki64(out, "cachedTokens", u->cached_tokens);
    json_out_ki64(out, "cacheWrite5mTokens", u->cache_write_5m_tokens);
    json_out_ki64(out, "cacheWrite1hTokens", u->cache_write_1h_tokens);
    json_out_ki64(out, "reasoningTokens", u->reasoning_tokens);
    json_out_ki64(out, "webSearches", u->server_calls[SERVER_WEB_SEARCH]);
    json_out_ki64(out, "toolCalls", u->tool_calls);
    json_out_ki64(out, "holdTokens", call->hold.tokens);
    json_out_ki64(out, "holdNusd", call->hold.nusd);
    json_out_ki64(out, "chargedTokens", call->charged.tokens);
    json_out_ki64(out, "costNusd", call->charged.nusd);
}

void wire_call_write(JsonOut *out, const GatewayCall *call)
{
    char at[TIME_TEXT_MAX];
    json_out_object(out);
    json_out_kcstr(out, "callId", call->id);
    json_out_kstr_or_null(out, "responseId", call->response_id);
    json_out_kstr_or_null(out, "requestId", call->request_id);
    json_out_kstr_or_null(out, "upstreamRequestId", call->upstream_id);
    json_out_ki64(out, "attempt", call->attempt);
    json_out_kcstr(out, "api", gateway_api_name(call->api));
    json_out_kstr(out, "protocol", call_protocol(call));
    json_out_kstr(out, "provider", call->provider);
    json_out_kstr(out, "model", call->model);
    json_out_kstr(out, "modelUsed", call->model_used);
    json_out_kstr(out, "finish", call->finish);
    json_out_kbool(out, "streamed", call->streamed);
    json_out_kbool(out, "simulated", call->simulated);
    json_out_kbool(out, "cached", call->cached);
    json_out_kstr_or_null(out, "degradedBy", str_of(call->degraded_by));
    json_out_kbool(out, "clientGone", call->client_gone);
    json_out_ki64(out, "status", call->status);
    json_out_kstr(out, "outcome", call_outcome(call));
    call_usage_write(out, call);
    call_tools_write(out, call);
    json_out_kcstr(out, "startedAt", time_format(call->started_real_ms, at));
    json_out_ki64(out, "ttfbUs", call->ttfb_us);
    json_out_ki64(out, "durationUs", call->duration_us);
    json_out_kstr_or_null(out, "error", call->error);
    json_out_kbool(out, "replayed", call->replayed);
    json_out_kbool(out, "replayMissed", call->replay_missed);
    json_out_key(out, "recording");
    if (call->recording) wire_recording_write(out, call->recording);
    else json_out_null(out);
    json_out_object_end(out);
}

static int call_recording_read(Arena *arena, const Json *v, Call *call)
{
    if (json_type(v) == JSON_ABSENT || json_type(v) == JSON_NULL) return 0;
    JournalNew *recording = ARENA_NEW(arena, JournalNew);
    if (!recording) return diag_set(-ENOMEM, "a recording is too large");
    call->recording = recording;
    return wire_recording_read(arena, v, recording);
}

int wire_call_read(Arena *arena, const Json *v, Call *ret)
{
    Call call = {
        .call_id = json_str(json_get(v, "callId")),
        .response_id = str_sub(json_str(json_get(v, "responseId")), 0, PROVIDER_REF_BYTES_MAX),
        .request_id = str_sub(json_str(json_get(v, "requestId")), 0, REQUEST_ID_MAX),
        .upstream_id = str_sub(json_str(json_get(v, "upstreamRequestId")), 0, REQUEST_ID_MAX),
        .attempt = count_of(v, "attempt"),
        .duration_ms = count_of(v, "durationUs") / 1000,
        .provider = json_str(json_get(v, "provider")),
        .model = json_str(json_get(v, "model")),
        .protocol = json_str(json_get(v, "protocol")),
        .outcome = json_str(json_get(v, "outcome")),
        .streamed = json_bool(json_get(v, "streamed"), false),
        .cached = json_bool(json_get(v, "cached"), false),
        .degraded = str_sub(json_str(json_get(v, "degradedBy")), 0, WORD_BYTES_MAX),
        .status = count_of(v, "status"),
        .input_tokens = count_of(v, "inputTokens"),
        .output_tokens = count_of(v, "outputTokens"),
        .cached_tokens = count_of(v, "cachedTokens"),
        .reasoning_tokens = count_of(v, "reasoningTokens"),
        .cost_nusd = count_of(v, "costNusd"),
        .charged_tokens = count_of(v, "chargedTokens"),
        .tool_calls = count_of(v, "toolCalls"),
        .replayed = json_bool(json_get(v, "replayed"), false),
        .replay_missed = json_bool(json_get(v, "replayMissed"), false),
    };
    if (!call.model.len) return missing("model");
    if (!call.outcome.len) return missing("outcome");
    if (json_type(json_get(v, "costNusd")) != JSON_INT) return missing("costNusd");
    if (time_parse(json_str(json_get(v, "startedAt")), &call.at_ms) < 0)
        return missing("startedAt");
    int r = call_recording_read(arena, json_get(v, "recording"), &call);
    if (r == 0) *ret = call;
    return r;
}

/* --- rate limits, breakers -------------------------------------------------------------------- */

#define KNOWN_MEMBERS (1 + RATE_N_)
#define ASK_MEMBERS (4 + LANE_N_)
#define STATS_MEMBERS (sizeof(GatewayLimitStats) / sizeof(uint64_t))
#define TTL_MS_MAX INT64_C(86400000)

static void out_numbers(JsonOut *out, const char *key, const int64_t *list, size_t n)
{
    if (key) json_out_key(out, key);
    json_out_array(out);
    for (size_t i = 0; i < n; i++) json_out_i64(out, list[i]);
    json_out_array_end(out);
}

/* Exactly n whole numbers; negative ones count as 0. */
static int numbers_read(const Json *v, const char *key, int64_t *ret, size_t n)
{
    size_t i = 0;
    if (json_type(v) != JSON_ARRAY || json_len(v) != n) return missing(key);
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        if (json_i64(it.value, &ret[i]) < 0) return missing(key);
        ret[i] = MIN(MAX(ret[i], 0), INT64_MAX / 4);
    }
    return 0;
}

static void ask_write(JsonOut *out, const ShareAsk *ask)
{
    int64_t list[ASK_MEMBERS] = { ask->have, ask->used, ask->first, MAX(ask->first_late_ms, 0) };
    for (int lane = 0; lane < LANE_N_; lane++) list[4 + lane] = ask->want[lane];
    out_numbers(out, NULL, list, ASK_MEMBERS);
}

static int ask_read(const Json *v, ShareAsk *ret)
{
    int64_t list[ASK_MEMBERS];
    int r = numbers_read(v, "asks", list, ASK_MEMBERS);
    if (r < 0) return r;
    *ret = (ShareAsk){
        .have = list[0], .used = list[1], .first = list[2], .first_late_ms = list[3]
    };
    for (int lane = 0; lane < LANE_N_; lane++) ret->want[lane] = list[4 + lane];
    return 0;
}

static void limit_write(JsonOut *out, const GatewayLimit *limit)
{
    json_out_object(out);
    json_out_kcstr(out, "provider", limit->provider);
    json_out_kcstr(out, "model", limit->model);
    out_numbers(out, "configured", limit->configured.v, RATE_N_);
    out_numbers(out, "learned", limit->learned.v, RATE_N_);
    out_numbers(out, "used", limit->used.v, RATE_N_);
    json_out_ki64(out, "concurrent", limit->concurrent_limit);
    json_out_ki64(out, "inFlight", limit->in_flight);
    out_numbers(out, "waiting", limit->waiting, LANE_N_);
    json_out_ki64(out, "waitingAll", limit->waiting_all);
    json_out_ki64(out, "blockedMs", limit->blocked_ms);
    json_out_ki64(out, "silentMs", limit->silent_ms);
    json_out_ki64(out, "openMs", limit->open_ms);
    json_out_ki64(out, "throttled", (int64_t)limit->throttled);
    json_out_key(out, "asks");
    json_out_array(out);
    for (int unit = 0; unit < LIMIT_UNITS; unit++) ask_write(out, &limit->asks[unit]);
    json_out_array_end(out);
    json_out_object_end(out);
}

/* Names go into arrays and are shown; a NUL would make two of one. */
static int name_read(const Json *v, const char *key, char *ret, size_t size)
{
    Str name = json_str(json_get(v, key));
    if (name.len >= size || (name.len && memchr(name.ptr, 0, name.len))) return missing(key);
    str_copy(ret, size, name);
    return 0;
}

static int asks_read(const Json *v, ShareAsk asks[LIMIT_UNITS])
{
    size_t unit = 0;
    if (json_len(v) != LIMIT_UNITS) return missing("asks");
    for (JsonIter it = json_iter(v); json_next(&it);) {
        int r = ask_read(it.value, &asks[unit++]);
        if (r < 0) return r;
    }
    return 0;
}

static int limit_read(const Json *v, GatewayLimit *ret)
{
    *ret = (GatewayLimit){ .concurrent_limit = count_of(v, "concurrent"),
                           .in_flight = count_of(v, "inFlight"),
                           .waiting_all = count_of(v, "waitingAll"),
                           .blocked_ms = count_of(v, "blockedMs"),
                           .silent_ms = count_of(v, "silentMs"),
                           .open_ms = MIN(count_of(v, "openMs"), TTL_MS_MAX),
                           .throttled = (uint64_t)count_of(v, "throttled") };
    int r = name_read(v, "provider", ret->provider, sizeof ret->provider);
    if (r == 0) r = name_read(v, "model", ret->model, sizeof ret->model);
    if (r == 0)
        r = numbers_read(json_get(v, "configured"), "configured", ret->configured.v, RATE_N_);
    if (r == 0) r = numbers_read(json_get(v, "learned"), "learned", ret->learned.v, RATE_N_);
    if (r == 0) r = numbers_read(json_get(v, "used"), "used", ret->used.v, RATE_N_);
    if (r == 0) r = numbers_read(json_get(v, "waiting"), "waiting", ret->waiting, LANE_N_);
    return r == 0 ? asks_read(json_get(v, "asks"), ret->asks) : r;
}

static void breaker_write(JsonOut *out, const BreakerInfo *info)
{
    json_out_object(out);
    json_out_kcstr(out, "kind", info->kind);
    json_out_kcstr(out, "name", info->name);
    json_out_kcstr(out, "state", breaker_state_name(info->state));
    json_out_kbool(out, "heard", info->heard);
    json_out_ki64(out, "calls", info->counts.calls);
    json_out_ki64(out, "errors", info->counts.errors);
    json_out_ki64(out, "slow", info->counts.slow);
    json_out_ki64(out, "since", info->since_real_ms);
    json_out_ki64(out, "nextProbeMs", info->next_probe_ms);
    json_out_ki64(out, "probes", info->probes_out);
    json_out_ki64(out, "trips", (int64_t)info->trips);
    json_out_ki64(out, "refused", (int64_t)info->refused);
    json_out_object_end(out);
}

static int breaker_read(const Json *v, BreakerInfo *ret)
{
    static const char *const kinds[] = { "model", "tool", "webhook" };
    Str kind = json_str(json_get(v, "kind")), state = json_str(json_get(v, "state"));
    *ret = (BreakerInfo){ .heard = json_bool(json_get(v, "heard"), false),
                          .counts = { count_of(v, "calls"), count_of(v, "errors"),
                                      count_of(v, "slow") },
                          .since_real_ms = count_of(v, "since"),
                          .next_probe_ms = count_of(v, "nextProbeMs"),
                          .probes_out = count_of(v, "probes"),
                          .trips = (uint64_t)count_of(v, "trips"),
                          .refused = (uint64_t)count_of(v, "refused") };
    for (size_t i = 0; i < ARRAY_N(kinds); i++)
        if (str_eq(kind, str_of(kinds[i]))) ret->kind = kinds[i];
    while (ret->state < BREAKER_N_ && !str_eq(state, str_of(breaker_state_name(ret->state))))
        ret->state++;
    if (!ret->kind) return missing("kind");
    if (ret->state == BREAKER_N_) return missing("state");
    return name_read(v, "name", ret->name, sizeof ret->name);
}

void wire_telling_write(JsonOut *out, const RateTelling *telling)
{
    int64_t stats[STATS_MEMBERS];
    memcpy(stats, &telling->stats, sizeof stats);
    json_out_object(out);
    json_out_key(out, "limits");
    json_out_array(out);
    for (size_t i = 0; i < telling->limits_n; i++) limit_write(out, &telling->limits[i]);
    json_out_array_end(out);
    json_out_key(out, "breakers");
    json_out_array(out);
    for (size_t i = 0; i < telling->breakers_n; i++) breaker_write(out, &telling->breakers[i]);
    json_out_array_end(out);
    out_numbers(out, "stats", stats, STATS_MEMBERS);
    json_out_object_end(out);
}

/* A later worker may count more than we know of. */
static int stats_read(const Json *v, GatewayLimitStats *ret)
{
    int64_t stats[STATS_MEMBERS];
    int r = numbers_read(v, "stats", stats, STATS_MEMBERS);
    if (r == 0) memcpy(ret, stats, sizeof *ret);
    return r;
}

int wire_telling_read(Arena *arena, const Json *v, RateTelling *ret)
{
    const Json *limits = json_get(v, "limits"), *breakers = json_get(v, "breakers");
    if (json_type(limits) != JSON_ARRAY || json_len(limits) > GATEWAY_LIMITS_MAX)
        return missing("limits");
    if (json_type(breakers) != JSON_ARRAY || json_len(breakers) > BOARD_BREAKERS_MAX)
        return missing("breakers");
    RateTelling telling = { .limits = ARENA_ARRAY(arena, GatewayLimit, json_len(limits) + 1),
                            .breakers = ARENA_ARRAY(arena, BreakerInfo, json_len(breakers) + 1) };
    if (!telling.limits || !telling.breakers) return -ENOMEM;
    int r = stats_read(json_get(v, "stats"), &telling.stats);
    for (JsonIter it = json_iter(limits); r == 0 && json_next(&it);)
        r = limit_read(it.value, &telling.limits[telling.limits_n++]);
    for (JsonIter it = json_iter(breakers); r == 0 && json_next(&it);)
        r = breaker_read(it.value, &telling.breakers[telling.breakers_n++]);
    if (r == 0) *ret = telling;
    return r;
}

/* What the others were told: for how long to be silent, and limits. */
static void known_write(JsonOut *out, const GatewayShare *share)
{
    int64_t list[KNOWN_MEMBERS] = { share->silent_ms };
    memcpy(list + 1, share->learned.v, sizeof share->learned.v);
    out_numbers(out, NULL, list, KNOWN_MEMBERS);
}

static int known_read(const Json *v, GatewayShare *ret)
{
    int64_t list[KNOWN_MEMBERS] = { 0 };
    int r = numbers_read(v, "known", list, KNOWN_MEMBERS);
    if (r < 0) return r;
    ret->silent_ms = list[0];
    memcpy(ret->learned.v, list + 1, sizeof ret->learned.v);
    return 0;
}

void wire_shares_write(JsonOut *out, int64_t ttl_ms, const GatewayShare *shares, size_t n)
{
    json_out_object(out);
    json_out_ki64(out, "ttlMs", ttl_ms);
    json_out_key(out, "shares");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) out_numbers(out, NULL, shares[i].v, LIMIT_UNITS);
    json_out_array_end(out);
    json_out_key(out, "known");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) known_write(out, &shares[i]);
    json_out_array_end(out);
    json_out_key(out, "openMs");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) json_out_i64(out, shares[i].open_ms);
    json_out_array_end(out);
    json_out_object_end(out);
}

int wire_shares_read(const Json *v, const RateTelling *telling, GatewayShare *ret,
                     int64_t *ret_ttl_ms)
{
    const Json *shares = json_get(v, "shares");
    int64_t ttl_ms;
    size_t i = 0;
    if (json_i64(json_get(v, "ttlMs"), &ttl_ms) < 0 || ttl_ms < 0 || ttl_ms > TTL_MS_MAX)
        return missing("ttlMs");
    if (json_type(shares) != JSON_ARRAY || json_len(shares) != telling->limits_n)
        return missing("shares");
    for (JsonIter it = json_iter(shares); json_next(&it); i++) {
        ret[i] = (GatewayShare){ .v = { 0 } };
        memcpy(ret[i].provider, telling->limits[i].provider, sizeof ret[i].provider);
        memcpy(ret[i].model, telling->limits[i].model, sizeof ret[i].model);
        int r = numbers_read(it.value, "shares", ret[i].v, LIMIT_UNITS);
        if (r < 0) return r;
    }
    i = 0;
    for (JsonIter it = json_iter(json_get(v, "known")); i < telling->limits_n && json_next(&it);) {
        int r = known_read(it.value, &ret[i++]);
        if (r < 0) return r;
    }
    i = 0;
    for (JsonIter it = json_iter(json_get(v, "openMs")); i < telling->limits_n && json_next(&it);)
        if (json_i64(it.value, &ret[i++].open_ms) < 0 || ret[i - 1].open_ms < 0)
            return missing("openMs");
    *ret_ttl_ms = ttl_ms;
    return 0;
}
