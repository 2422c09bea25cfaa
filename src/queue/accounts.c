/* Calls without a task: whose they are, and their records. */
#include "base/diag.h"
#include "queue/queue_private.h"
#include "store/account_store.h"
#include "sys/entropy.h"

typedef struct {
    const BudgetOwner *owner;
    Uuid id;  /* for a new one */
    bool low; /* the disk has no room for a new one */
    int64_t now_ms;
    Uuid account;
} AccountJob;

static int account_job(Db *db, void *arg)
{
    AccountJob *job = arg;
    if (!job->low) return account_get(db, job->owner, job->id, job->now_ms, &job->account);
    int r = account_find(db, job->owner, &job->account);
    return r == -ENOENT ? diag_set(-ENOSPC, "the disk is nearly full: no new accounts") : r;
}

int queue_account_wait(Queue *queue, const BudgetOwner *owner, Uuid *ret)
{
    uint8_t random[UUID7_RANDOM_BYTES];
    AccountJob job = { .owner = owner,
                       .low = store_room_low(queue->store),
                       .now_ms = queue_now_ms(queue) };
    entropy_fill(random, sizeof random);
    job.id = uuid7_make(job.now_ms, random);
    int r = store_call_wait(queue->store, account_job, &job);
    if (r == 0) *ret = job.account;
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
