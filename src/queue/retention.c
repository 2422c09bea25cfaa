/* Once a second: some of what is older than it is to be kept is deleted, in small jobs beside those
 * of everybody else. */
#include "queue/queue_private.h"
#include "sys/clock.h"

#define ROWS_A_JOB 512 /* a few milliseconds: what others wait for at most */
#define TICK_MS 200    /* of each second: some thousand tasks */
#define REST_MS 60000  /* after everything has been looked at */

typedef struct {
    const Queue *queue;
    int64_t before_ms;
    RetentionWalk walk;
} RetentionJob;

static int retention_job(Db *db, void *arg)
{
    RetentionJob *job = arg;
    job->walk.over = !queue_ages(job->queue);
    if (job->walk.over) return 0;
    return retention_step(db, job->before_ms, ROWS_A_JOB, &job->walk);
}

static void retention_note(Queue *queue, const RetentionWalk *walk)
{
    pthread_mutex_lock(&queue->lock);
    if (walk->what == RETENTION_TASKS) queue->stats.tasks_purged += (uint64_t)walk->n;
    queue->stats.rows_purged += (uint64_t)walk->all;
    pthread_mutex_unlock(&queue->lock);
}

/* To the next kind of records, or to a rest. */
static void retention_next(Queue *queue)
{
    RetentionWhat next = queue->retention.what + 1;
    if (next == RETENTION_N_) {
        next = RETENTION_TASKS;
        queue->retention_at_ms = queue_steady_ms(queue) + REST_MS;
    }
    queue->retention = (RetentionWalk){ .what = next };
}

int retention_tick_wait(Queue *queue)
{
    const QueueOptions *o = &queue->options;
    if (o->tasks_kept_ms == 0) return 0;
    int64_t until_ms = clock_mono_ms() + TICK_MS;
    /* a key leads to its task for as long as it is known */
    int64_t before_ms = queue_now_ms(queue) - MAX(o->tasks_kept_ms, o->key_kept_ms);
    while (queue_steady_ms(queue) >= queue->retention_at_ms && clock_mono_ms() < until_ms) {
        RetentionJob job = { .queue = queue, .before_ms = before_ms, .walk = queue->retention };
        int r = store_call_wait(queue->store, retention_job, &job);
        if (r != 0) return r;
        queue->retention = job.walk;
        retention_note(queue, &job.walk);
        if (job.walk.over) retention_next(queue);
    }
    return 0;
}
