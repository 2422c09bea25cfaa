/* Many ended tasks queued again at a time. */
#include "api/redrive.h"

#include "api/tasks.h"
#include "base/diag.h"
#include "base/log.h"
#include "codec/time_text.h"
#include "sys/clock.h"

#define LIMIT_DEFAULT 1000
#define LIMIT_MAX 10000
#define REQUEST_MS_MAX 5000 /* then it answers with what it has done, and where to go on */

static const Member retry_many_members[] = {
    { "status", MEMBER_STRING, false, "Only those; failed and timed out ones when left out",
      "failed|timed_out|canceled" },
    { "agent", MEMBER_STRING, false, "Only tasks of this agent", NULL },
    { "versionId", MEMBER_STRING, false, "Only tasks of this version (its whole id)", NULL },
    { "errorCode", MEMBER_STRING, false, "Only those that ended with this code", NULL },
    { "since", MEMBER_STRING, false, "Only those submitted from then on (RFC 3339)", NULL },
    { "all", MEMBER_BOOLEAN, false, "Needed when nothing else says which", NULL },
    { "limit", MEMBER_INTEGER, false, "At most so many, up to 10000; 1000 when left out", NULL },
    { "cursor", MEMBER_STRING, false, "nextCursor of the answer before: go on where it ended",
      NULL },
    { "fresh", MEMBER_BOOLEAN, false, "Ask models and tools anew: replay nothing", NULL },
    { "dryRun", MEMBER_BOOLEAN, false, "Only count them", NULL },
};
const BodySpec retry_many_body = { .name = "RetryManyRequest",
                                   .members = retry_many_members,
                                   .n = ARRAY_N(retry_many_members),
                                   .required = true };

typedef struct {
    RetryMany ask;
    int64_t limit;
    RetriedMany done; /* so far */
} Redrive;

/* --- what is asked ---------------------------------------------------------------------------- */

static int numbers_read_wait(ApiCall *call, const Json *body, Redrive *redrive)
{
    RetryMany *ask = &redrive->ask;
    Str since = json_str(json_get(body, "since")), cursor = json_str(json_get(body, "cursor"));
    redrive->limit = json_i64_or(json_get(body, "limit"), LIMIT_DEFAULT);
    if (since.len && time_parse(since, &ask->filter.since_ms) < 0)
        return api_problem_wait(call, 400, "member_invalid", "`since` is no RFC 3339 time");
    if (redrive->limit < 1 || redrive->limit > LIMIT_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`limit` is to be from 1 to %d",
                                LIMIT_MAX);
    if (page_cursor_parse(cursor, &ask->below_seq) == 0) return 0;
    return api_problem_wait(call, 400, "member_invalid", "`cursor`: %s", diag_text());
}

static int redrive_read_wait(ApiCall *call, Redrive *ret)
{
    Str text;
    const Json *body;
    TaskState state = TASK_FAILED;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str status = json_str(json_get(body, "status")), since = json_str(json_get(body, "since"));
    *ret = (Redrive){ .ask = { .filter = { .state = -1,
                                           .agent = json_str(json_get(body, "agent")),
                                           .version_id = json_str(json_get(body, "versionId")),
                                           .error_code = json_str(json_get(body, "errorCode")) },
                               .fresh = json_bool(json_get(body, "fresh"), false),
                               .dry_run = json_bool(json_get(body, "dryRun"), false) } };
    const DeadFilter *filter = &ret->ask.filter;
    if (status.len && task_state_from(status, &state) == 0) ret->ask.filter.state = (int)state;
    bool said = status.len || since.len || filter->agent.len || filter->version_id.len ||
                filter->error_code.len;
    if (json_bool(json_get(body, "all"), false) == said)
        return api_problem_wait(call, 400, "member_missing",
                                "say which: `status`, `agent`, `versionId`, `errorCode`, `since`, "
                                "or `all`");
    return numbers_read_wait(call, body, ret);
}

/* --- doing it --------------------------------------------------------------------------------- */

#define ALL_LANES ((1u << LANE_N_) - 1)

/* Lanes that are full are left out from then on. */
static void part_add(Redrive *redrive, const RetriedMany *part)
{
    RetriedMany *done = &redrive->done;
    done->retried += part->retried;
    done->skipped += part->skipped;
    done->full_lanes |= part->full_lanes;
    done->left_below_seq = MAX(done->left_below_seq, part->left_below_seq);
    redrive->ask.below_seq = done->below_seq = part->below_seq;
    redrive->ask.filter.lanes_not = done->full_lanes;
}

/* The highest of those that are. */
static Lane full_lane(const RetriedMany *done)
{
    return done->full_lanes ? (Lane)__builtin_ctz(done->full_lanes) : LANE_NORMAL;
}

/* Part by part, each in a commit of its own: as far as limit, time and lanes allow. Returns 0,
 * QUEUE_E_FULL (there was room for none), -errno; with an error nothing more is done, but what was
 * done stays, and is not done again by who asks again. */
static int redrive_wait(ApiCall *call, Redrive *redrive)
{
    RetriedMany *done = &redrive->done;
    int64_t deadline_ms = deadline_after(REQUEST_MS_MAX);
    do {
        RetriedMany part;
        redrive->ask.max = redrive->limit - done->retried;
        int r = queue_retry_many_wait(call->api->options.queue, &redrive->ask, &part);
        if (r != 0) return r;
        part_add(redrive, &part);
    } while (done->below_seq > 0 && done->full_lanes != ALL_LANES &&
             done->retried < redrive->limit && clock_mono_ms() < deadline_ms &&
             !api_wait_over(call));
    if (done->full_lanes == 0 || done->retried > 0) return 0;
    return diag_set(QUEUE_E_FULL, "the %s lane is full", lane_name(full_lane(done)));
}

static int reply_wait(ApiCall *call, const Redrive *redrive)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    const RetriedMany *done = &redrive->done;
    int64_t below_seq = MAX(done->left_below_seq, done->below_seq); /* 0: there is no more */
    PageCursor next = { "" };
    if (below_seq > 0) next = page_cursor_make(below_seq);
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "retried", done->retried);
    json_out_ki64(&json.out, "skipped", done->skipped);
    json_out_kbool(&json.out, "more", below_seq > 0);
    json_out_kbool(&json.out, "full", done->full_lanes != 0);
    api_cursor_write(&json.out, next);
    json_out_object_end(&json.out);
    return api_json_wait(call, redrive->ask.dry_run ? 200 : 202, &json);
}

int task_retry_many_run_wait(ApiCall *call)
{
    Redrive redrive;
    int r = redrive_read_wait(call, &redrive);
    if (r != 0) return r;
    r = redrive_wait(call, &redrive);
    if (redrive.done.retried > 0 && !redrive.ask.dry_run)
        LOG_INFO("tasks are retried", LOG_INT("number", redrive.done.retried),
                 LOG_STR("agent", redrive.ask.filter.agent));
    if (r != 0) return api_lane_fail_wait(call, r, full_lane(&redrive.done));
    return reply_wait(call, &redrive);
}
