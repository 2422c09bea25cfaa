/* Many ended tasks queued again at a time. */
#include "api/redrive.h"

#include "base/diag.h"
#include "base/log.h"
#include "codec/time_text.h"

#define LIMIT_DEFAULT 1000
#define LIMIT_MAX 10000
#define PAGE_ARENA_MAX ((size_t)16 << 20)

static const Member retry_many_members[] = {
    { "status", MEMBER_STRING, false, "Only those; failed and timed out ones when left out",
      "failed|timed_out|canceled" },
    { "agent", MEMBER_STRING, false, "Only tasks of this agent", NULL },
    { "versionId", MEMBER_STRING, false, "Only tasks of this version (its whole id)", NULL },
    { "errorCode", MEMBER_STRING, false, "Only those that ended with this code", NULL },
    { "since", MEMBER_STRING, false, "Only those submitted from then on (RFC 3339)", NULL },
    { "all", MEMBER_BOOLEAN, false, "Needed when nothing else says which", NULL },
    { "limit", MEMBER_INTEGER, false, "At most so many, up to 10000; 1000 when left out", NULL },
    { "fresh", MEMBER_BOOLEAN, false, "Ask models and tools anew: replay nothing", NULL },
    { "dryRun", MEMBER_BOOLEAN, false, "Only count them", NULL },
};
const BodySpec retry_many_body = { .name = "RetryManyRequest",
                                   .members = retry_many_members,
                                   .n = ARRAY_N(retry_many_members),
                                   .required = true };

typedef struct {
    TaskFilter filter;
    Str error_code;
    int64_t since_ms, limit;
    bool fresh, dry_run;
    int64_t retried, skipped; /* skipped: they went on meanwhile, or are sub-agents */
    bool more;
} Redrive;

/* --- what is asked ---------------------------------------------------------------------------- */

static int redrive_read_wait(ApiCall *call, Redrive *ret)
{
    Str text;
    const Json *body;
    TaskState state = TASK_FAILED;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str status = json_str(json_get(body, "status")), since = json_str(json_get(body, "since"));
    *ret = (Redrive){ .filter = { .state = -1,
                                  .lane = -1,
                                  .agent = json_str(json_get(body, "agent")),
                                  .version_id = json_str(json_get(body, "versionId")),
                                  .limit = PAGE_ROWS_MAX },
                      .error_code = json_str(json_get(body, "errorCode")),
                      .limit = json_i64_or(json_get(body, "limit"), LIMIT_DEFAULT),
                      .fresh = json_bool(json_get(body, "fresh"), false),
                      .dry_run = json_bool(json_get(body, "dryRun"), false) };
    if (status.len && task_state_from(status, &state) == 0) ret->filter.state = (int)state;
    bool said = status.len || since.len || ret->filter.agent.len || ret->filter.version_id.len ||
                ret->error_code.len;
    if (json_bool(json_get(body, "all"), false) == said)
        return api_problem_wait(call, 400, "member_missing",
                                "say which: `status`, `agent`, `versionId`, `errorCode`, `since`, "
                                "or `all`");
    if (since.len && time_parse(since, &ret->since_ms) < 0)
        return api_problem_wait(call, 400, "member_invalid", "`since` is no RFC 3339 time");
    if (ret->limit < 1 || ret->limit > LIMIT_MAX)
        return api_problem_wait(call, 400, "member_invalid", "`limit` is to be from 1 to %d",
                                LIMIT_MAX);
    return 0;
}

static bool takes(const Redrive *redrive, const Task *task)
{
    bool dead = task->state == TASK_FAILED || task->state == TASK_TIMED_OUT;
    if (redrive->filter.state < 0 && !dead) return false;
    return str_empty(redrive->error_code) || str_eq(redrive->error_code, task->error_code);
}

/* --- doing it --------------------------------------------------------------------------------- */

/* Returns 0, QUEUE_E_FULL, -errno. */
static int retry_one_wait(ApiCall *call, Redrive *redrive, Uuid id)
{
    if (redrive->retried == redrive->limit) {
        redrive->more = true;
        return 0;
    }
    int r = redrive->dry_run ? 0 : queue_retry_wait(call->api->options.queue, id, redrive->fresh);
    redrive->retried += r == 0;
    redrive->skipped += r == QUEUE_E_STATE || r == QUEUE_E_NO_TASK;
    return r < 0 || r == QUEUE_E_FULL ? r : 0;
}

/* Newest first. *ret_end: there is nothing behind this page. */
static int page_wait(ApiCall *call, Redrive *redrive, PageCursor *cursor, bool *ret_end)
{
    CLEANUP(arena_deinit) Arena arena;
    TaskPage page = { .n = 0 };
    arena_init(&arena, PAGE_ARENA_MAX);
    redrive->filter.cursor = str_of(cursor->text);
    int r = queue_list_wait(call->api->options.queue, &redrive->filter, &arena, &page);
    bool too_old = false;
    for (size_t i = 0; i < page.n && r == 0 && !redrive->more && !too_old; i++) {
        too_old = page.tasks[i].created_at_ms < redrive->since_ms;
        if (!too_old && takes(redrive, &page.tasks[i]))
            r = retry_one_wait(call, redrive, page.tasks[i].id);
    }
    if (r != 0) return r;
    *cursor = page.next;
    *ret_end = too_old || !page.next.text[0];
    return 0;
}

static int reply_wait(ApiCall *call, const Redrive *redrive)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "retried", redrive->retried);
    json_out_ki64(&json.out, "skipped", redrive->skipped);
    json_out_kbool(&json.out, "more", redrive->more);
    json_out_object_end(&json.out);
    return api_json_wait(call, redrive->dry_run ? 200 : 202, &json);
}

int task_retry_many_run_wait(ApiCall *call)
{
    Redrive redrive;
    PageCursor cursor = { "" };
    bool end = false;
    int r = redrive_read_wait(call, &redrive);
    if (r != 0) return r;
    while (r == 0 && !end && !redrive.more) {
        r = page_wait(call, &redrive, &cursor, &end);
        redrive.more |= !end && api_wait_over(call);
    }
    if (redrive.retried > 0 && !redrive.dry_run)
        LOG_INFO("tasks are retried", LOG_INT("number", redrive.retried),
                 LOG_STR("agent", redrive.filter.agent));
    if (r == QUEUE_E_FULL && redrive.retried > 0) { /* as many as there is room for */
        redrive.more = true;
        r = 0;
    }
    return r != 0 ? api_queue_fail_wait(call, r) : reply_wait(call, &redrive);
}
