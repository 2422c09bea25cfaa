/* Schedules: tasks that come by themselves. */
#include "api/schedules.h"

#include "base/diag.h"
#include "base/log.h"
#include "codec/duration.h"
#include "logic/cron.h"
#include "logic/manifest.h"
#include "observe/task_json.h"
#include "sys/zone.h"

#define INPUT_BYTES_MAX ((size_t)256 << 10)
#define DEADLINE_MAX_MS (INT64_C(366) * 24 * 3600 * 1000)

static const Member schedule_members[] = {
    { "agent", MEMBER_STRING, true, "Whose task it is", NULL },
    { "cron", MEMBER_STRING, true, "Five fields, or @hourly, @daily, @weekly, @monthly, @yearly",
      NULL },
    { "timeZone", MEMBER_STRING, false,
      "In which cron is read, such as Europe/Berlin; the server's (budgets.timeZone) when left out",
      NULL },
    { "input", MEMBER_ANY, false, "Of each task; null when left out", NULL },
    { "priority", MEMBER_STRING, false, "normal when left out", "critical|normal|low" },
    { "missed", MEMBER_STRING, false,
      "What becomes of times that passed while no server ran: skip (when left out), once, all",
      "skip|once|all" },
    { "overlap", MEMBER_STRING, false,
      "What becomes of a time that comes while the task of the last one has not ended: allow (when "
      "left out) another, skip it, replace that one, which is canceled",
      "allow|skip|replace" },
    { "deadline", MEMBER_STRING, false,
      "Of each task, as a duration from when it is submitted, such as 10m", NULL },
    { "paused", MEMBER_BOOLEAN, false, "Do not fire", NULL },
};
const BodySpec schedule_body = { .name = "ScheduleRequest",
                                 .members = schedule_members,
                                 .n = ARRAY_N(schedule_members),
                                 .required = true };

/* --- answers ---------------------------------------------------------------------------------- */

static void schedule_write(JsonOut *out, const Schedule *s)
{
    char deadline[DURATION_TEXT_MAX];
    json_out_object(out);
    json_out_kstr(out, "name", s->name);
    json_out_kstr(out, "agent", s->agent);
    json_out_kstr(out, "cron", s->cron);
    json_out_kstr(out, "timeZone", s->time_zone.len ? s->time_zone : str_of(zone_name()));
    if (!str_empty(s->input)) json_out_kraw(out, "input", s->input);
    json_out_kcstr(out, "priority", lane_name(s->lane));
    json_out_kcstr(out, "missed", missed_policy_name(s->missed));
    json_out_kcstr(out, "overlap", overlap_policy_name(s->overlap));
    if (s->task_ms) json_out_kcstr(out, "deadline", duration_format(s->task_ms, deadline));
    json_out_kbool(out, "paused", s->paused);
    json_out_ki64(out, "skipped", s->skipped);
    json_out_ktime(out, "nextAt", s->next_at_ms);
    json_out_ktime(out, "lastAt", s->last_at_ms);
    json_out_kuuid(out, "lastTaskId", s->last_task_id);
    if (!str_empty(s->last_error)) json_out_kstr(out, "lastError", s->last_error);
    json_out_object_end(out);
}

static int schedule_reply_wait(ApiCall *call, const Schedule *s)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    schedule_write(&json.out, s);
    return api_json_wait(call, 200, &json);
}

static int missing_wait(ApiCall *call)
{
    return api_problem_wait(call, 404, "schedule_not_found", "there is no such schedule");
}

typedef struct {
    Str name;
    Arena *arena;
    Schedule one, *list;
    size_t n;
} Read;

static int get_job(Db *db, void *arg)
{
    Read *read = arg;
    return schedule_get(db, read->name, read->arena, &read->one);
}

static int list_job(Db *db, void *arg)
{
    Read *read = arg;
    return schedule_list(db, read->arena, &read->list, &read->n);
}

int schedule_get_run_wait(ApiCall *call)
{
    Read read = { .name = call->params[0], .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), get_job, &read);
    if (r == -ENOENT) return missing_wait(call);
    return r < 0 ? api_fail_wait(call, r) : schedule_reply_wait(call, &read.one);
}

int schedule_list_run_wait(ApiCall *call)
{
    Read read = { .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), list_job, &read);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "schedules");
    json_out_array(&json.out);
    for (size_t i = 0; i < read.n; i++) schedule_write(&json.out, &read.list[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- changes ---------------------------------------------------------------------------------- */

static int delete_job(Db *db, void *arg)
{
    const Read *read = arg;
    return schedule_delete(db, read->name);
}

int schedule_delete_run_wait(ApiCall *call)
{
    Read read = { .name = call->params[0] };
    int r = store_call_wait(queue_store(call->api->options.queue), delete_job, &read);
    if (r == -ENOENT) return missing_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    LOG_INFO("schedule deleted", LOG_STR("schedule", read.name));
    return api_reply_wait(call, 204, NULL, STR(""));
}

static int deadline_read_wait(ApiCall *call, const Json *v, int64_t *ret_ms)
{
    if (json_type(v) != JSON_STRING) return 0;
    if (duration_parse(json_str(v), ret_ms) == 0 && *ret_ms > 0 && *ret_ms <= DEADLINE_MAX_MS)
        return 0;
    return api_problem_wait(call, 400, "member_invalid",
                            "`deadline` is to be a duration such as 10m, at most a year");
}

/* input has room for the text. */
static int schedule_read_wait(ApiCall *call, Buf *input, Schedule *ret)
{
    Str text;
    const Json *body;
    Cron cron;
    const Zone *zone;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str priority = json_str(json_get(body, "priority")),
        missed = json_str(json_get(body, "missed")), overlap = json_str(json_get(body, "overlap"));
    *ret = (Schedule){ .name = call->params[0],
                       .agent = json_str(json_get(body, "agent")),
                       .cron = json_str(json_get(body, "cron")),
                       .time_zone = json_str(json_get(body, "timeZone")),
                       .lane = LANE_NORMAL,
                       .paused = json_bool(json_get(body, "paused"), false) };
    if (priority.len && lane_from(priority, &ret->lane) < 0) ret->lane = LANE_NORMAL;
    if (missed.len && missed_policy_from(missed, &ret->missed) < 0) ret->missed = MISSED_SKIP;
    if (overlap.len && overlap_policy_from(overlap, &ret->overlap) < 0)
        ret->overlap = OVERLAP_ALLOW;
    if (ret->name.len > SCHEDULE_NAME_BYTES_MAX || !agent_name_ok(ret->name))
        return api_problem_wait(call, 400, "name_invalid",
                                "a schedule's name has lower-case letters, digits and '-'");
    if (zone_find(ret->time_zone, &zone) < 0)
        return api_problem_wait(call, 400, "member_invalid", "`timeZone`: %s", diag_text());
    if (cron_parse(ret->cron, &cron) < 0)
        return api_problem_wait(call, 400, "cron_invalid", "`cron`: %s", diag_text());
    if ((r = deadline_read_wait(call, json_get(body, "deadline"), &ret->task_ms)) != 0) return r;
    JsonOut out = json_out(input);
    if (json_get(body, "input")) json_out_value(&out, json_get(body, "input"));
    else json_out_null(&out);
    if (!json_out_ok(&out))
        return api_problem_wait(call, 413, "input_too_large", "`input` has more than %zu bytes",
                                INPUT_BYTES_MAX);
    ret->input = buf_str(input);
    return 0;
}

int schedule_put_run_wait(ApiCall *call)
{
    Schedule schedule, made;
    CLEANUP(buf_deinit) Buf input;
    buf_init(&input, INPUT_BYTES_MAX);
    int r = schedule_read_wait(call, &input, &schedule);
    if (r != 0) return r;
    r = queue_schedule_put_wait(call->api->options.queue, &schedule, &call->req->arena, &made);
    if (r != 0) return api_queue_fail_wait(call, r);
    LOG_INFO("schedule set", LOG_STR("schedule", made.name), LOG_STR("cron", made.cron));
    return schedule_reply_wait(call, &made);
}
