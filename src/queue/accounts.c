/* Calls without a task: whose they are, and their records. */
#include <inttypes.h>

#include "base/diag.h"
#include "base/log.h"
#include "queue/queue_private.h"
#include "store/account_store.h"
#include "sys/entropy.h"

typedef struct {
    const BudgetOwner *owner;
    Uuid id;     /* for a new one */
    bool low;    /* the disk has no room for a new one */
    int64_t max; /* of a tenant */
    int64_t now_ms;
    Uuid account;
} AccountJob;

static int account_or_new(Db *db, AccountJob *job)
{
    int r = account_get(db, job->owner, job->id, job->max, job->now_ms, &job->account);
    if (r != ACCOUNT_E_FULL) return r;
    return diag_set(QUEUE_E_ACCOUNTS,
                    "tenant %.*s has %" PRId64
                    " accounts, one for each agent and user: no more are "
                    "made (limits.accountsPerTenant)",
                    STR_ARG(job->owner->tenant), job->max);
}

static int account_job(Db *db, void *arg)
{
    AccountJob *job = arg;
    if (!job->low) return account_or_new(db, job);
    int r = account_find(db, job->owner, &job->account);
    return r == -ENOENT ? diag_set(-ENOSPC, "the disk is nearly full: no new accounts") : r;
}

int queue_account_wait(Queue *queue, const BudgetOwner *owner, Uuid *ret)
{
    uint8_t random[UUID7_RANDOM_BYTES];
    AccountJob job = { .owner = owner,
                       .low = store_room_low(queue->store),
                       .max = queue->options.accounts_max,
                       .now_ms = queue_now_ms(queue) };
    entropy_fill(random, sizeof random);
    job.id = uuid7_make(job.now_ms, random);
    int r = store_call_wait(queue->store, account_job, &job);
    if (r == 0) *ret = job.account;
    if (r != QUEUE_E_ACCOUNTS) return r;
    pthread_mutex_lock(&queue->lock);
    bool first = queue->stats.accounts_refused++ == 0;
    pthread_mutex_unlock(&queue->lock);
    if (first) LOG_WARN("calls of new users are refused", LOG_CSTR("detail", diag_text()));
    return r;
}

typedef struct {
    Str tenant;
    size_t max;
    Arena *arena;
    Account *list;
    size_t n;
} ListJob;

static int list_job(Db *db, void *arg)
{
    ListJob *job = arg;
    return account_list(db, job->tenant, job->max, job->arena, &job->list, &job->n);
}

int queue_accounts_wait(Queue *queue, Str tenant, size_t max, Arena *arena, Account **ret,
                        size_t *ret_n)
{
    ListJob job = { .tenant = tenant, .max = max, .arena = arena };
    int r = store_read_wait(queue->store, list_job, &job);
    if (r != 0) return r;
    *ret = job.list;
    *ret_n = job.n;
    return 0;
}
