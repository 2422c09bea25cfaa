/* Calls that workers have in flight, as heartbeats tell: when a lease ends, these are lost. Changed
 * on the store thread alone and under the lock; read there without it, elsewhere under it. */
#include <stdlib.h>

#include "queue/queue_private.h"
#include "sys/entropy.h"

#define IN_FLIGHT_BYTES_MAX ((size_t)16 << 20) /* of a worker */

/* What a worker has told of last. */
typedef struct {
    Uuid worker_id;
    char key[UUID_TEXT_MAX];
    BudgetHold *holds; /* in arena */
    size_t n;
    int64_t newest_at_ms; /* when the last of them began */
    Arena arena;
} InFlight;

static InFlight *in_flight_of(Queue *queue, Uuid worker_id)
{
    char key[UUID_TEXT_MAX];
    return map_get(&queue->ledger.in_flight, str_of(uuid_text(worker_id, key)));
}

static void in_flight_remove(Queue *queue, InFlight *there)
{
    map_remove(&queue->ledger.in_flight, str_of(there->key));
    arena_deinit(&there->arena);
    free(there);
}

void in_flight_deinit(Map *workers)
{
    size_t cursor = 0;
    for (InFlight *there; (there = map_next(workers, &cursor));) {
        arena_deinit(&there->arena);
        free(there);
    }
    map_deinit(workers);
}

/* Without memory for it, it is known of no call. */
static bool hold_keep(InFlight *there, const BudgetHold *hold)
{
    BudgetHold *kept = &there->holds[there->n];
    *kept = *hold;
    kept->call_id = arena_str(&there->arena, hold->call_id);
    kept->provider = arena_str(&there->arena, hold->provider);
    kept->model = arena_str(&there->arena, hold->model);
    bool ok = kept->call_id.ptr && kept->provider.ptr && kept->model.ptr;
    there->n += ok;
    there->newest_at_ms = MAX(there->newest_at_ms, hold->at_ms);
    return ok;
}

static InFlight *in_flight_new(Uuid worker_id, const BudgetHold *holds, size_t n)
{
    InFlight *there = xcalloc(1, sizeof *there);
    there->worker_id = worker_id;
    uuid_text(worker_id, there->key);
    arena_init(&there->arena, IN_FLIGHT_BYTES_MAX);
    there->holds = ARENA_ARRAY(&there->arena, BudgetHold, n);
    for (size_t i = 0; there->holds && i < n && hold_keep(there, &holds[i]);) i++;
    return there;
}

static void begun_tell(Queue *queue, const BudgetHold *holds, size_t n, int64_t since_ms)
{
    for (size_t i = 0; i < n; i++)
        if (holds[i].at_ms > since_ms && holds[i].task.fence != TASK_FENCE_ACCOUNT)
            queue_task_changed(queue, holds[i].task.id);
}

void in_flight_keep(Queue *queue, Uuid worker_id, const BudgetHold *holds, size_t n)
{
    InFlight *old = in_flight_of(queue, worker_id);
    InFlight *there = n > 0 ? in_flight_new(worker_id, holds, n) : NULL;
    int64_t since_ms = old ? old->newest_at_ms : 0;
    assert(n <= BUDGET_HOLDS_MAX);
    pthread_mutex_lock(&queue->lock);
    if (old) in_flight_remove(queue, old);
    if (there) map_put(&queue->ledger.in_flight, str_of(there->key), there);
    pthread_mutex_unlock(&queue->lock);
    begun_tell(queue, holds, n, since_ms);
}

static bool begun_add(BegunCalls *calls, const BudgetHold *hold)
{
    BegunCall *call = &calls->calls[calls->n];
    *call = (BegunCall){ .attempt = hold->attempt, .at_ms = hold->at_ms };
    str_copy(call->id, sizeof call->id, hold->call_id);
    str_copy(call->provider, sizeof call->provider, hold->provider);
    str_copy(call->model, sizeof call->model, hold->model);
    return ++calls->n < BEGUN_CALLS_MAX;
}

void queue_calls_begun(Queue *queue, Uuid worker_id, Uuid task_id, BegunCalls *ret)
{
    ret->n = 0;
    pthread_mutex_lock(&queue->lock);
    const InFlight *there = in_flight_of(queue, worker_id);
    for (size_t i = 0; there && i < there->n; i++)
        if (uuid_eq(there->holds[i].task.id, task_id) && !begun_add(ret, &there->holds[i])) break;
    pthread_mutex_unlock(&queue->lock);
}

int in_flight_purge(Queue *queue, Db *db)
{
    size_t cursor = 0;
    int r = 0;
    for (InFlight *there; r == 0 && (there = map_next(&queue->ledger.in_flight, &cursor));) {
        r = worker_lives(db, there->worker_id);
        if (r != QUEUE_E_NO_WORKER) continue;
        pthread_mutex_lock(&queue->lock);
        in_flight_remove(queue, there);
        pthread_mutex_unlock(&queue->lock);
        r = 0;
    }
    return r;
}

int hold_lose(Queue *queue, Db *db, Uuid dead_id, const BudgetHold *hold)
{
    Call call = { .call_id = hold->call_id,
                  .attempt = hold->attempt,
                  .fence = hold->task.fence,
                  .at_ms = hold->at_ms,
                  .provider = hold->provider,
                  .model = hold->model,
                  .protocol = STR(""),
                  .outcome = STR(CALL_LOST),
                  .cost_nusd = hold->charge.nusd,
                  .charged_tokens = hold->charge.tokens,
                  .worker_id = dead_id };
    JournalKept kept = { 0 };
    bool account = hold->task.fence == TASK_FENCE_ACCOUNT;
    TaskHead head;
    int r = account ? 0 : task_head(db, hold->task.id, &head);
    /* a task at rest was counted without it */
    if (r == 0 && !account) r = rollup_news_add(db, head.seq, -1, NEWS_TASK | NEWS_SCORE);
    if (r == 0) r = calls_book(queue, db, hold->task, &call, 1, &kept);
    if (r == 0 && !account) r = rollup_news_add(db, head.seq, 1, NEWS_TASK | NEWS_SCORE);
    return r == -ENOENT ? 0 : r;
}

int in_flight_lose(Queue *queue, Db *db, Uuid worker_id)
{
    const InFlight *there = in_flight_of(queue, worker_id);
    int r = 0;
    for (size_t i = 0; there && i < there->n && r == 0; i++)
        r = hold_lose(queue, db, worker_id, &there->holds[i]);
    return r;
}
