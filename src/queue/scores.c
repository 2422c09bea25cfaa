/* What people, graders and agents think of a task. */
#include <math.h>

#include "base/diag.h"
#include "queue/queue_private.h"
#include "store/grade_store.h"

#define SCRATCH_ARENA_MAX 65536

typedef struct {
    const Queue *queue;
    const TaskScore *score;
    int64_t now_ms;
    double quality;
} ScoreJob;

int score_log(const Queue *queue, Db *db, const TaskHead *head, Str text, int64_t now_ms)
{
    int64_t bytes, dropped;
    int r = task_log_usage(db, head->seq, &bytes, &dropped);
    if (r != 0) return r;
    if (!text.ptr || (int64_t)text.len > queue->options.log_bytes_max - bytes)
        return task_set_log_usage(db, head->seq, bytes, dropped + 1);
    TaskLogLine line = {
        .attempt = head->attempt, .at_ms = now_ms, .stream = TASK_LOG_SYSTEM, .text = text
    };
    r = task_log_next_note(db, head->seq, head->attempt, now_ms, &line.seq);
    if (r == 0) r = task_log_insert(db, head->seq, &line);
    assert(r != DB_E_CONFLICT);
    return r == 0 ? task_set_log_usage(db, head->seq, bytes + (int64_t)text.len, dropped) : r;
}

int score_changed(Db *db, const TaskHead *head)
{
    double quality;
    int r = grade_quality(db, head->seq, &quality);
    if (r == 0) r = rollup_news_add(db, head->seq, -1, NEWS_SCORE);
    if (r == 0) r = task_set_quality(db, head->id, quality);
    return r == 0 ? rollup_news_add(db, head->seq, 1, NEWS_SCORE) : r;
}

/* A line of the task's log says where the score came from. */
static int score_told(Db *db, const TaskHead *head, const ScoreJob *job)
{
    const TaskScore *score = job->score;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, SCRATCH_ARENA_MAX);
    Str text = arena_printf(&arena, "scored %.*s=%g%s%.*s", STR_ARG(score->name), score->value,
                            str_empty(score->comment) ? "" : ": ", STR_ARG(score->comment));
    return score_log(job->queue, db, head, text, job->now_ms);
}

static int score_job(Db *db, void *arg)
{
    ScoreJob *job = arg;
    const TaskScore *score = job->score;
    TaskHead head;
    int r = score->fence
                ? task_held(db, (TaskRef){ score->id, score->fence, score->worker_id }, &head)
                : task_head(db, score->id, &head);
    if (r == -ENOENT) return diag_set(QUEUE_E_NO_TASK, "there is no such task");
    if (r != 0) return r;
    int put = score_put(db, head.seq,
                        &(Score){ .name = score->name,
                                  .value = score->value,
                                  .weight = 1,
                                  .comment = score->comment,
                                  .at_ms = job->now_ms });
    if (put < 0) return put;
    if (put == SCORE_E_FULL)
        return diag_set(QUEUE_E_SCORES, "the task has scores by %d names already", SCORE_NAMES_MAX);
    r = grade_quality(db, head.seq, &job->quality);
    if (r != 0 || put == SCORE_E_SAME) return r;
    r = score_changed(db, &head);
    return r == 0 ? score_told(db, &head, job) : r;
}

int queue_score_wait(Queue *queue, const TaskScore *score, double *ret_quality)
{
    assert(score->value >= 0 && score->value <= 1 && !str_empty(score->name));
    assert(score->name.len <= TASK_SCORE_NAME_BYTES_MAX);
    assert(score->comment.len <= TASK_SCORE_COMMENT_BYTES_MAX);
    ScoreJob job = { .queue = queue, .score = score, .now_ms = queue_now_ms(queue) };
    int r = store_call_wait(queue->store, score_job, &job);
    if (r == QUEUE_E_SCORES) queue_count(queue, &queue->stats.scores_refused);
    if (r != 0) return r;
    queue_task_changed(queue, score->id);
    *ret_quality = job.quality;
    return 0;
}
