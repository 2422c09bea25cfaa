/* Where a waiting task stands, and when it may start. */
#include "queue/queue_private.h"

#define PLACE_TENANTS_MAX 100 /* that are counted; where there are more, all that waits is ahead */

const char *place_kind_name(PlaceKind kind)
{
    static const char *const names[PLACE_N_] = { "slot", "session", "time" };
    assert(kind < PLACE_N_);
    return names[kind];
}

typedef struct {
    const Task *task;
    Gate gate;
    bool queued;
    int64_t ahead, tenants;
} PlaceJob;

static int place_job(Db *db, void *arg)
{
    PlaceJob *job = arg;
    const Task *task = job->task;
    int r = gate_get(db, task->seq, &job->gate);
    job->queued = r == 0;
    if (r != 0) return r == -ENOENT ? 0 : r;
    if (job->gate == GATE_SESSION)
        return session_ahead(db, task->seq, PLACE_COUNT_MAX, &job->ahead);
    if (job->gate != GATE_OPEN) return 0;
    r = line_ahead(db, task, PLACE_COUNT_MAX, &job->ahead);
    return r != 0 ? r : lines_tenants(db, task->lane, PLACE_TENANTS_MAX, &job->tenants);
}

int queue_place_wait(Queue *queue, const Task *task, TaskPlace *ret)
{
    PlaceJob job = { .task = task };
    QueueStats stats;
    int r = store_read_wait(queue->store, place_job, &job);
    if (r != 0) return r;
    *ret = (TaskPlace){ .queued = job.queued, .kind = PLACE_TIME, .expected_ms = -1 };
    if (!job.queued) return 0;
    if (job.gate == GATE_LATER || job.gate == GATE_SCHEDULED) {
        ret->expected_ms = MAX(0, task->ready_at_ms - queue_now_ms(queue));
        return 0;
    }
    ret->kind = job.gate == GATE_SESSION ? PLACE_SESSION : PLACE_SLOT;
    ret->place = job.ahead + 1;
    queue_stats(queue, &stats);
    const QueueLaneStats *s = &stats.lane[task->lane];
    LanePace pace = { s->queued, s->running, s->service_ms, s->starts_per_s };
    if (s->ran == 0)
        return 0; /* that a first one has run for a second says nothing of the others */
    if (ret->kind == PLACE_SESSION) { /* one at a time */
        pace = (LanePace){ job.ahead, 1, s->service_ms, 0 };
        ret->expected_ms = lane_expected_wait_ms(&pace, MAX(job.ahead, 1), 1);
        return 0;
    }
    ret->expected_ms = lane_expected_wait_ms(&pace, ret->place, job.tenants);
    return 0;
}
