/* Webhooks that are to be sent again. */
#include "base/diag.h"
#include "queue/queue_private.h"
#include "store/webhook_store.h"

typedef struct {
    Str id, url;
    int64_t since_ms, now_ms;
    int64_t after_id, n;
} AgainJob;

static int no_webhook(Str id)
{
    return diag_set(QUEUE_E_NO_WEBHOOK, "there is no webhook %.*s", STR_ARG(id));
}

/* "msg_TASK_TIME": the task leads to the row; "evt_EVENT_RECEIVER": of no task. */
static int again_find(Db *db, const AgainJob *job, int64_t *ret_id, WebhookState *ret_state)
{
    Uuid task_id;
    TaskHead head;
    Str rest = str_skip(job->id, 4);
    if (str_starts_with(job->id, STR("evt_"))) {
        int found = webhook_find(db, 0, job->id, ret_id, ret_state);
        return found == -ENOENT ? no_webhook(job->id) : found;
    }
    if (!str_starts_with(job->id, STR("msg_")) || rest.len < UUID_TEXT_MAX - 1 ||
        uuid_from_text(str_sub(rest, 0, UUID_TEXT_MAX - 1), &task_id) < 0)
        return no_webhook(job->id);
    int r = task_head(db, task_id, &head);
    if (r == 0) r = webhook_find(db, head.seq, job->id, ret_id, ret_state);
    return r == -ENOENT ? no_webhook(job->id) : r;
}

static int again_endpoint(Db *db, int64_t id)
{
    bool disabled = false;
    int r = webhook_of_disabled(db, id, &disabled);
    if (r != 0 || !disabled) return r;
    return diag_set(QUEUE_E_STATE, "its endpoint is disabled: enable it first");
}

static int again_job(Db *db, void *arg)
{
    AgainJob *job = arg;
    int64_t id = 0;
    WebhookState state = WEBHOOK_PENDING;
    int r = again_find(db, job, &id, &state);
    if (r != 0) return r;
    if (state == WEBHOOK_PENDING) return diag_set(QUEUE_E_STATE, "the webhook is pending already");
    r = again_endpoint(db, id);
    return r == 0 ? webhook_again(db, id, job->now_ms) : r;
}

int queue_webhook_again_wait(Queue *queue, Str webhook_id)
{
    AgainJob job = { .id = webhook_id, .now_ms = queue_now_ms(queue) };
    int r = store_call_wait(queue->store, again_job, &job);
    if (r == 0) queue_apply(queue, &(Effects){ .webhook = true });
    return r;
}

static int many_job(Db *db, void *arg)
{
    AgainJob *job = arg;
    return webhook_again_many(db, job->url, job->since_ms, job->after_id, job->now_ms, &job->n,
                              &job->after_id);
}

int queue_webhooks_again_wait(Queue *queue, Str url, int64_t since_ms, int64_t *ret_n)
{
    AgainJob job = { .url = url, .since_ms = since_ms, .now_ms = queue_now_ms(queue) };
    int64_t n = 0;
    int r;
    do {
        r = store_call_wait(queue->store, many_job, &job);
        if (r == 0) n += job.n;
    } while (r == 0 && job.after_id != 0);
    if (n > 0) queue_apply(queue, &(Effects){ .webhook = true });
    if (r == 0) *ret_n = n;
    return r;
}

static int enable_job(Db *db, void *arg)
{
    AgainJob *job = arg;
    int r = webhook_enable(db, job->url);
    return r == -ENOENT ? diag_set(QUEUE_E_NO_WEBHOOK, "that endpoint is not disabled") : r;
}

int queue_webhook_enable_wait(Queue *queue, Str url)
{
    AgainJob job = { .url = url };
    return store_call_wait(queue->store, enable_job, &job);
}
