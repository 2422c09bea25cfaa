/* What graders think of tasks: all that is said of one at once. */
#include <math.h>

#include "base/diag.h"
#include "queue/queue_private.h"
#include "store/grade_store.h"

#define SCRATCH_ARENA_MAX 65536

typedef struct {
    const Queue *queue;
    const TaskGrades *tasks;
    size_t n;
    int64_t now_ms;
    int64_t graded, failed, held;
    unsigned untold; /* of the task at hand: score_store.h */
} GradeJob;

static int sum_add(Db *db, const TaskGrades *task, const Grade *grade)
{
    bool told = !isnan(grade->value);
    return grade_sum_add(db, task->finished_at_ms,
                         &(GradeSum){ .agent = task->agent,
                                      .version_id = task->version_id,
                                      .grader = grade->grader,
                                      .scored = told,
                                      .score_sum = told ? grade->value : 0,
                                      .failed = !told && !grade->held,
                                      .held = grade->held });
}

/* A task that has been scored by very many names has no room for more. */
static int grade_one(GradeJob *job, Db *db, const TaskGrades *task, const Grade *grade, bool shadow,
                     Arena *arena, Buf *log)
{
    int r = shadow ? 0 : sum_add(db, task, grade);
    job->failed += isnan(grade->value) && !grade->held;
    job->held += grade->held;
    unsigned untold = grade->weight > 0 ? SCORE_UNTOLD_COUNTS : SCORE_UNTOLD_OTHER;
    if (isnan(grade->value)) job->untold |= untold;
    if (r != 0 || isnan(grade->value)) return r;
    Str name = arena_printf(arena, SCORE_OF_GRADER "%.*s", STR_ARG(grade->grader));
    if (!name.ptr) return -ENOMEM;
    r = score_put(db, task->seq,
                  &(Score){ .name = name,
                            .value = grade->value,
                            .weight = grade->weight,
                            .comment = grade->comment,
                            .at_ms = job->now_ms });
    buf_printf(log, " %.*s=%g", STR_ARG(grade->grader), grade->value);
    if (!str_empty(grade->comment)) buf_printf(log, " (%.*s)", STR_ARG(grade->comment));
    if (r == SCORE_E_FULL) job->untold |= untold;
    return r > 0 ? 0 : r;
}

static int grade_all(GradeJob *job, Db *db, const TaskGrades *task)
{
    TaskHead head;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf log;
    arena_init(&arena, SCRATCH_ARENA_MAX);
    buf_init(&log, SCRATCH_ARENA_MAX);
    int r = grade_drop(db, task->seq);
    if (r != 0) return r == -ENOENT ? 0 : r; /* somebody was faster */
    r = task_head_by_seq(db, task->seq, &head);
    if (r != 0) return r;
    job->untold = 0;
    buf_printf(&log, "graded:");
    for (size_t i = 0; r == 0 && i < task->n; i++)
        r = grade_one(job, db, task, &task->grades[i], head.shadow, &arena, &log);
    if (r == 0) r = score_set_untold(db, task->seq, job->untold);
    if (r == 0) r = score_changed(db, &head);
    if (r == 0 && task->n > 0) r = score_log(job->queue, db, &head, buf_str(&log), job->now_ms);
    job->graded++;
    return r;
}

static int grade_job(Db *db, void *arg)
{
    GradeJob *job = arg;
    int r = 0;
    job->graded = job->failed = job->held = 0;
    for (size_t i = 0; r == 0 && i < job->n; i++) r = grade_all(job, db, &job->tasks[i]);
    return r;
}

int queue_grade_wait(Queue *queue, const TaskGrades *tasks, size_t n)
{
    GradeJob job = { .queue = queue, .tasks = tasks, .n = n, .now_ms = queue_now_ms(queue) };
    int r = store_call_wait(queue->store, grade_job, &job);
    if (r != 0) return r;
    pthread_mutex_lock(&queue->lock);
    queue->stats.graded += (uint64_t)job.graded;
    queue->stats.grades_failed += (uint64_t)job.failed;
    queue->stats.grades_held += (uint64_t)job.held;
    pthread_mutex_unlock(&queue->lock);
    for (size_t i = 0; i < n; i++) queue_task_changed(queue, tasks[i].id);
    return 0;
}
