/* Tasks that a rollback stops and that do not run: they wait for another attempt, or for a person.
 * They are marked in the rollback's commit, which keeps them from starting; here they end. */
#include "queue/queue_private.h"
#include "store/rollout_store.h"

#define KILLED_MAX 64

typedef struct {
    const Queue *queue;
    int64_t after_seq, now_ms;
    int64_t seqs[KILLED_MAX];
    size_t n;
    Effects effects;
} KilledJob;

static int list_job(Db *db, void *arg)
{
    KilledJob *job = arg;
    job->n = KILLED_MAX;
    return rollout_killed(db, job->after_seq, job->seqs, &job->n);
}

static int end_job(Db *db, void *arg)
{
    KilledJob *job = arg;
    int r = 0;
    job->effects = (Effects){ .stale = 0 };
    for (size_t i = 0; r == 0 && i < job->n; i++) {
        TaskHead head;
        r = task_head_by_seq(db, job->seqs[i], &head);
        if (r == -ENOENT) r = 0;
        else if (r == 0 && head.cancel_requested && head.state != TASK_RUNNING &&
                 task_state_may(head.state, TASK_CANCELED)) {
            touch_task(&job->effects, head.id);
            r = task_conclude_idle(job->queue, db, &head, TASK_CANCELED, STR("canceled"),
                                   STR("rollback"), job->now_ms, &job->effects);
        }
    }
    return r;
}

int queue_end_killed_wait(Queue *queue)
{
    CLEANUP(freep) KilledJob *job = xcalloc(1, sizeof *job);
    job->queue = queue;
    job->now_ms = queue_now_ms(queue);
    do {
        int r = store_read_wait(queue->store, list_job, job);
        if (r == 0 && job->n > 0) r = store_call_wait(queue->store, end_job, job);
        if (r != 0) return r;
        if (job->n == 0) break;
        queue_apply(queue, &job->effects);
        job->after_seq = job->seqs[job->n - 1];
    } while (job->n == KILLED_MAX);
    return 0;
}
