/* The workers' response caches: what they are to forget, and what they say of themselves. */
#include <stdlib.h>

#include "queue/queue_private.h"
#include "store/cache_store.h"

typedef struct {
    Queue *queue;
    const CachePurge *purge;
    int64_t seen;
    Arena *arena;
    CachePurge *purges;
    size_t n;
    int64_t revision;
} PurgeJob;

static int purge_job(Db *db, void *arg)
{
    PurgeJob *job = arg;
    return cache_purge_add(db, job->purge, queue_now_ms(job->queue), &job->revision);
}

int queue_cache_purge_wait(Queue *queue, const CachePurge *purge, int64_t *ret_revision)
{
    PurgeJob job = { .queue = queue, .purge = purge };
    int r = store_call_wait(queue->store, purge_job, &job);
    if (r != 0) return r;
    queue_signal_workers(queue);
    *ret_revision = job.revision;
    return 0;
}

/* --- what workers say ------------------------------------------------------------------------- */

/* The worker's place, or that of who reported longest ago. */
static CacheReport *report_of(Queue *queue, Uuid worker_id)
{
    CacheReport *oldest = &queue->caches[0];
    for (size_t i = 0; i < CACHE_REPORTS_MAX; i++) {
        CacheReport *report = &queue->caches[i];
        if (uuid_eq(report->worker_id, worker_id)) return report;
        if (report->at_ms < oldest->at_ms) oldest = report;
    }
    return oldest;
}

static int report_job(Db *db, void *arg)
{
    PurgeJob *job = arg;
    int r = cache_revision(db, &job->revision);
    return r == 0 ? cache_purges_after(db, job->seen, job->arena, &job->purges, &job->n) : r;
}

int queue_cache_report_wait(Queue *queue, Uuid worker_id, const CacheFigures *figures, int64_t seen,
                            Arena *arena, CacheNews *ret)
{
    assert(!uuid_is_zero(worker_id));
    pthread_mutex_lock(&queue->lock);
    *report_of(queue, worker_id) = (CacheReport){ worker_id, queue_steady_ms(queue), *figures };
    pthread_mutex_unlock(&queue->lock);
    PurgeJob job = { .queue = queue, .seen = seen, .arena = arena };
    int r = store_read_wait(queue->store, report_job, &job);
    if (r == 0) *ret = (CacheNews){ job.revision, job.purges, job.n };
    return r;
}

bool queue_cache_figures(Queue *queue, Uuid worker_id, CacheFigures *ret)
{
    pthread_mutex_lock(&queue->lock);
    const CacheReport *report = report_of(queue, worker_id);
    bool found = uuid_eq(report->worker_id, worker_id);
    if (found) *ret = report->figures;
    pthread_mutex_unlock(&queue->lock);
    return found;
}
