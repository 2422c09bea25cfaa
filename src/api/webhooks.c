/* Webhooks for people: what was not delivered, sending it again, endpoints, the secret. */
#include "api/webhooks.h"

#include "api/tasks.h"
#include "base/diag.h"
#include "base/log.h"
#include "codec/duration.h"
#include "codec/time_text.h"
#include "observe/task_json.h"
#include "store/webhook_store.h"
#include "sys/clock.h"

#define OVERLAP_DEFAULT_MS (INT64_C(24) * 3600 * 1000)
#define OVERLAP_MAX_MS (INT64_C(30) * 24 * 3600 * 1000)

/* --- list ------------------------------------------------------------------------------------- */

const Param webhook_list_params[] = {
    { "state", "string", "Only those that are failed, pending or delivered" },
    { "url", "string", "Only those for this URL" },
    { "limit", "integer", "Webhooks a page, 1 to 500; 50 when left out" },
    { "cursor", "string", "nextCursor of the page before" },
    { 0 },
};

static int filter_read_wait(ApiCall *call, WebhookFilter *ret)
{
    Str state = api_param(call, "state");
    int64_t limit;
    *ret = (WebhookFilter){ .state = -1,
                            .url = api_param(call, "url"),
                            .cursor = api_param(call, "cursor") };
    for (int i = 0; i < WEBHOOK_STATE_N_; i++)
        if (str_eq(state, str_of(webhook_state_name((WebhookState)i)))) ret->state = i;
    if (!str_empty(state) && ret->state < 0)
        return api_problem_wait(call, 400, "parameter_invalid",
                                "?state is to be one of failed, pending, delivered");
    int r = api_param_i64_wait(call, "limit", 1, PAGE_ROWS_MAX, PAGE_ROWS_DEFAULT, &limit);
    if (r == 0) ret->limit = (size_t)limit;
    return r;
}

static void row_write(JsonOut *out, const Webhook *row)
{
    json_out_object(out);
    json_out_kstr(out, "webhookId", row->webhook_id);
    json_out_kuuid(out, "taskId", row->task_id);
    json_out_kstr(out, "url", row->url);
    json_out_kcstr(out, "state", webhook_state_name(row->state));
    json_out_ki64(out, "attempts", row->attempts);
    json_out_ki64(out, "status", row->last_status);
    json_out_kstr(out, "error", row->last_error);
    json_out_ktime(out, "createdAt", row->created_at_ms);
    if (row->state == WEBHOOK_PENDING) json_out_ktime(out, "nextAt", row->next_at_ms);
    json_out_object_end(out);
}

typedef struct {
    const WebhookFilter *filter;
    Arena *arena;
    WebhookPage page;
} PageRead;

static int page_job(Db *db, void *arg)
{
    PageRead *read = arg;
    return webhook_page(db, read->filter, read->arena, &read->page);
}

int webhook_list_run_wait(ApiCall *call)
{
    WebhookFilter filter;
    PageRead read = { .filter = &filter, .arena = &call->req->arena };
    int r = filter_read_wait(call, &filter);
    if (r != 0) return r;
    r = store_read_wait(queue_store(call->api->options.queue), page_job, &read);
    if (r == -EINVAL) return api_cursor_problem_wait(call);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "webhooks");
    json_out_array(&json.out);
    for (size_t i = 0; i < read.page.n; i++) row_write(&json.out, &read.page.rows[i]);
    json_out_array_end(&json.out);
    api_cursor_write(&json.out, read.page.next);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- again ------------------------------------------------------------------------------------ */

int webhook_replay_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    r = queue_webhook_again_wait(call->api->options.queue, call->params[0]);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kstr(&json.out, "webhookId", call->params[0]);
    json_out_kcstr(&json.out, "state", webhook_state_name(WEBHOOK_PENDING));
    json_out_object_end(&json.out);
    return api_json_wait(call, 202, &json);
}

static const Member replay_members[] = {
    { "url", MEMBER_STRING, false, "Only those for this URL", NULL },
    { "since", MEMBER_STRING, false, "Only those made from then on (RFC 3339)", NULL },
    { "all", MEMBER_BOOLEAN, false, "Everything; needed when neither of the others is given",
      NULL },
};
const BodySpec webhooks_replay_body = { .name = "WebhooksReplayRequest",
                                        .members = replay_members,
                                        .n = ARRAY_N(replay_members),
                                        .required = true };

int webhooks_replay_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    int64_t since_ms = 0, n = 0;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str url = json_str(json_get(body, "url")), since = json_str(json_get(body, "since"));
    bool all = json_bool(json_get(body, "all"), false);
    if (all == (url.len || since.len))
        return api_problem_wait(call, 400, "member_missing",
                                "say what to send again: `url`, `since` or both, or `all`");
    if (since.len && time_parse(since, &since_ms) < 0)
        return api_problem_wait(call, 400, "member_invalid", "`since` is no RFC 3339 time");
    r = queue_webhooks_again_wait(call->api->options.queue, url, since_ms, &n);
    if (r != 0) return api_queue_fail_wait(call, r);
    LOG_INFO("webhooks are sent again", LOG_INT("number", n), LOG_STR("url", url));
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_ki64(&json.out, "replayed", n);
    json_out_object_end(&json.out);
    return api_json_wait(call, 202, &json);
}

/* --- endpoints -------------------------------------------------------------------------------- */

typedef struct {
    Arena *arena;
    WebhookDisabled *list;
    size_t n;
} EndpointsRead;

static int endpoints_job(Db *db, void *arg)
{
    EndpointsRead *read = arg;
    return webhook_disabled_list(db, read->arena, &read->list, &read->n);
}

int webhook_endpoints_run_wait(ApiCall *call)
{
    EndpointsRead read = { .arena = &call->req->arena };
    int r = store_read_wait(queue_store(call->api->options.queue), endpoints_job, &read);
    if (r < 0) return api_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "endpoints");
    json_out_array(&json.out);
    for (size_t i = 0; i < read.n; i++) {
        json_out_object(&json.out);
        json_out_kstr(&json.out, "url", read.list[i].url);
        json_out_ktime(&json.out, "disabledAt", read.list[i].at_ms);
        json_out_kstr(&json.out, "webhookId", read.list[i].webhook_id);
        json_out_object_end(&json.out);
    }
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

static const Member enable_members[] = {
    { "url", MEMBER_STRING, true, "The endpoint, as it is listed", NULL },
};
const BodySpec webhook_enable_body = { .name = "WebhookEnableRequest",
                                       .members = enable_members,
                                       .n = ARRAY_N(enable_members),
                                       .required = true };

int webhook_enable_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str url = json_str(json_get(body, "url"));
    r = queue_webhook_enable_wait(call->api->options.queue, url);
    if (r != 0) return api_queue_fail_wait(call, r);
    LOG_INFO("webhook endpoint enabled", LOG_STR("url", url));
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kstr(&json.out, "url", url);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- the secret ------------------------------------------------------------------------------- */

static const Member rotate_members[] = {
    { "overlap", MEMBER_STRING, false, "How long the secret before signs too; 24h when left out",
      NULL },
};
const BodySpec webhook_rotate_body = { .name = "WebhookRotateRequest",
                                       .members = rotate_members,
                                       .n = ARRAY_N(rotate_members) };

typedef struct {
    WebhookSecrets *secrets;
    int64_t overlap_ms, now_ms;
    char secret[WEBHOOK_SECRET_TEXT_MAX];
} Rotation;

static int rotate_job(void *arg)
{
    Rotation *rotation = arg;
    return webhook_secrets_rotate(rotation->secrets, rotation->overlap_ms, rotation->now_ms,
                                  rotation->secret);
}

static int rotated_wait(ApiCall *call, const Rotation *rotation)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kcstr(&json.out, "secret", rotation->secret);
    json_out_ktime(&json.out, "previousUntil", rotation->now_ms + rotation->overlap_ms);
    json_out_object_end(&json.out);
    int r = api_json_wait(call, 200, &json);
    if (json.buf.ptr) explicit_bzero(json.buf.ptr, json.buf.len);
    return r;
}

int webhook_rotate_run_wait(ApiCall *call)
{
    Str text;
    const Json *body;
    Rotation rotation = { .secrets = call->api->options.webhook_secrets,
                          .overlap_ms = OVERLAP_DEFAULT_MS,
                          .now_ms = clock_real_ms() };
    int r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    Str overlap = json_str(json_get(body, "overlap"));
    if (overlap.len &&
        (duration_parse(overlap, &rotation.overlap_ms) < 0 || rotation.overlap_ms > OVERLAP_MAX_MS))
        return api_problem_wait(call, 400, "member_invalid",
                                "`overlap` is to be a duration such as 24h, at most 30d");
    r = rotation.secrets ? work_wait(rotate_job, &rotation) : WEBHOOK_E_CONFIGURED;
    if (r == WEBHOOK_E_CONFIGURED)
        return api_problem_wait(call, 409, "secret_configured",
                                "the secret is configured: change webhooks.secret, and name the "
                                "one before in webhooks.previousSecret");
    if (r < 0) return api_fail_wait(call, r);
    LOG_INFO("webhook secret rotated", LOG_INT("overlapMs", rotation.overlap_ms));
    r = rotated_wait(call, &rotation);
    explicit_bzero(rotation.secret, sizeof rotation.secret);
    return r;
}
