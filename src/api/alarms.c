/* Alarms of drift: listed, acknowledged. */
#include "api/alarms.h"

#include "observe/task_json.h"
#include "queue/queue.h"
#include "rollout/drift_watch.h"
#include "sys/clock.h"

const Param alarms_params[] = {
    { "agent", "string", "Only of this agent" },
    { "open", "string", "true: only those that nobody has acknowledged" },
    { 0 },
};

typedef struct {
    Str agent;
    bool open_only;
    Arena *arena;
    Alarm *alarms;
    size_t n;
} ListJob;

static int list_job(Db *db, void *arg)
{
    ListJob *job = arg;
    return alarm_list(db, job->agent, job->open_only, job->arena, &job->alarms, &job->n);
}

static void kf64(JsonOut *out, const char *key, double value)
{
    json_out_key(out, key);
    json_out_f64(out, value);
}

static void alarm_write(JsonOut *out, const Alarm *alarm)
{
    json_out_object(out);
    json_out_ki64(out, "alarmId", alarm->id);
    json_out_kstr(out, "agent", alarm->agent);
    json_out_kstr(out, "versionId", alarm->version_id);
    json_out_kstr(out, "metric", alarm->metric);
    json_out_ktime(out, "day", alarm->day_ms);
    json_out_ktime(out, "raisedAt", alarm->at_ms);
    kf64(out, "value", alarm->value);
    kf64(out, "before", alarm->before);
    kf64(out, "slopePerWeek", alarm->slope);
    kf64(out, "p", alarm->p);
    json_out_kstr(out, "text", alarm->text);
    json_out_kstr_or_null(out, "cause", alarm->cause);
    json_out_ktime(out, "acknowledgedAt", alarm->acknowledged_at_ms);
    json_out_kstr_or_null(out, "acknowledgedBy", alarm->acknowledged_by);
    json_out_kstr_or_null(out, "note", alarm->note);
    json_out_object_end(out);
}

int alarm_list_run_wait(ApiCall *call)
{
    Str open = api_param(call, "open");
    if (!str_empty(open) && !str_eq(open, STR("true")) && !str_eq(open, STR("false")))
        return api_problem_wait(call, 400, "parameter_invalid", "?open is to be true or false");
    ListJob job = { .agent = api_param(call, "agent"),
                    .open_only = str_eq(open, STR("true")),
                    .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), list_job, &job);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "alarms");
    json_out_array(&json.out);
    for (size_t i = 0; i < job.n; i++) alarm_write(&json.out, &job.alarms[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

static const Member acknowledge_members[] = {
    { "by", MEMBER_STRING, false, "Who has seen it", NULL },
    { "note", MEMBER_STRING, false, "What became of it, for people", NULL },
};
const BodySpec acknowledge_body = { .name = "AcknowledgeRequest",
                                    .members = acknowledge_members,
                                    .n = ARRAY_N(acknowledge_members) };

int alarm_acknowledge_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    int64_t id = 0;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str by = json_str(json_get(body, "by")), note = json_str(json_get(body, "note"));
    if (by.len > ALARM_NOTE_BYTES_MAX || note.len > ALARM_NOTE_BYTES_MAX)
        return api_problem_wait(call, 400, "member_invalid",
                                "`by` and `note` are to be at most %d bytes", ALARM_NOTE_BYTES_MAX);
    if (str_to_i64(call->params[0], &id) < 0) id = -1;
    r = drift_acknowledge_wait(queue_store(call->api->options.queue), id, by, note,
                               clock_real_ms());
    if (r == -ENOENT)
        return api_problem_wait(call, 404, "alarm_not_found", "there is no such open alarm");
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "alarmId", id);
    json_out_kbool(&json.out, "acknowledged", true);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
