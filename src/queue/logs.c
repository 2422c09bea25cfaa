/* Lines of logs that workers tell: kept up to the task's limit, which its first lines and its last
 * share. */
#include "base/diag.h"
#include "logic/log_bound.h"
#include "queue/queue_private.h"

typedef struct {
    Queue *queue;
    TaskRef task;
    const TaskLogLine *lines;
    size_t n;
    int64_t left_out_n, left_out_bytes; /* by this job */
} LogsJob;

/* A task's log while lines are added to it. */
typedef struct {
    Db *db;
    TaskHead head;
    int64_t bytes, bytes_max; /* text kept, at most */
    int64_t dropped;          /* lines, over the limit */
    int64_t tail_max;
    int64_t last_seq; /* of the attempt */
    bool has_tail;
    TaskLogTail tail;
} Log;

static int log_load(Log *log)
{
    int r = task_log_usage(log->db, log->head.seq, &log->bytes, &log->dropped);
    if (r == 0) r = task_log_last(log->db, log->head.seq, log->head.attempt, &log->last_seq);
    if (r != 0) return r;
    r = task_log_tail(log->db, log->head.seq, &log->tail);
    log->has_tail = r == 0;
    return r == -ENOENT ? 0 : r;
}

static void tail_begin(Log *log, int64_t seq, int64_t at_ms)
{
    if (log->has_tail) return;
    log->has_tail = true;
    log->tail = (TaskLogTail){ .begin = { log->head.attempt, seq }, .at_ms = at_ms };
}

/* Leaves out lines of the tail before that one, the oldest first. */
static int tail_cut(Log *log, int64_t before_seq, int64_t bytes)
{
    int64_t text_bytes;
    TaskLogCursor end = { log->head.attempt, before_seq };
    int r = task_log_tail_cut(log->db, log->head.seq, &log->tail, end, bytes, &text_bytes);
    if (r == 0) log->bytes -= text_bytes;
    return r;
}

/* The worker left lines out just before this one: the tail begins anew with it, so that what is
 * left out of a log is in one place. (It leaves lines out when it holds a whole tail.) */
static int gap_note(Log *log, const TaskLogLine *line)
{
    int64_t n = MIN(line->left_out_n, line->seq - log->last_seq - 1);
    if (n <= 0) return 0;
    tail_begin(log, line->seq - 1, line->at_ms);
    int r = tail_cut(log, line->seq, INT64_MAX);
    log->tail.left_out_n += n;
    log->tail.left_out_bytes += MIN(line->left_out_bytes, n * TASK_LOG_LINE_BYTES_MAX);
    return r;
}

static int line_insert(Log *log, const TaskLogLine *given)
{
    TaskLogLine line = *given;
    line.attempt = log->head.attempt;
    log->bytes += (int64_t)line.text.len;
    log->last_seq = line.seq;
    int r = task_log_insert(log->db, log->head.seq, &line);
    return r == DB_E_CONFLICT ? diag_set(-EIO, "a log line is there already") : r;
}

static int tail_add(Log *log, TaskLogLine *line)
{
    tail_begin(log, line->seq, line->at_ms);
    size_t text_max = log_tail_line_bytes((size_t)log->tail_max);
    line->text = str_sub(line->text, 0, text_max);
    int r = line_insert(log, line);
    log->tail.bytes += (int64_t)line->text.len + LOG_LINE_BYTES_EXTRA;
    int64_t over = MAX(log->tail.bytes - log->tail_max, log->bytes - log->bytes_max);
    return r == 0 && over > 0 ? tail_cut(log, line->seq, over) : r;
}

/* What was sent twice, because the answer was lost, is there already, or was left out since. */
static int log_add(Log *log, const TaskLogLine *given)
{
    TaskLogLine line = *given;
    if (line.seq <= log->last_seq || line.seq >= TASK_LOG_TOLD_SEQ) return 0;
    line.text = str_sub(line.text, 0, TASK_LOG_LINE_BYTES_MAX);
    int r = gap_note(log, &line);
    if (r != 0) return r;
    if (log->has_tail || (int64_t)line.text.len > log->bytes_max - log->tail_max - log->bytes)
        return tail_add(log, &line);
    return line_insert(log, &line);
}

static int logs_job(Db *db, void *arg)
{
    LogsJob *job = arg;
    int64_t max = job->queue->options.log_bytes_max;
    Log log = { .db = db, .bytes_max = max, .tail_max = (int64_t)log_tail_bytes((size_t)max) };
    int r = task_held(db, job->task, &log.head);
    if (r == 0) r = log_load(&log);
    TaskLogTail before = log.has_tail ? log.tail : (TaskLogTail){ 0 };
    for (size_t i = 0; i < job->n && r == 0; i++) r = log_add(&log, &job->lines[i]);
    if (r == 0 && log.has_tail) r = task_log_tail_put(db, log.head.seq, &log.tail);
    job->left_out_n = log.tail.left_out_n - before.left_out_n;
    job->left_out_bytes = log.tail.left_out_bytes - before.left_out_bytes;
    if (r != 0) return r;
    return task_set_log_usage(db, log.head.seq, log.bytes, log.dropped + job->left_out_n);
}

int queue_logs_append_wait(Queue *queue, TaskRef task, const TaskLogLine *lines, size_t lines_n,
                           size_t *ret_left_out)
{
    LogsJob job = { .queue = queue, .task = task, .lines = lines, .n = lines_n };
    int r = lines_n > 0 ? queue_record_wait(queue, task, logs_job, &job) : 0;
    if (r != 0) return r;
    if (ret_left_out) *ret_left_out = (size_t)job.left_out_n;
    pthread_mutex_lock(&queue->lock);
    queue->stats.log_lines_left_out += (uint64_t)job.left_out_n;
    queue->stats.log_bytes_left_out += (uint64_t)job.left_out_bytes;
    pthread_mutex_unlock(&queue->lock);
    return 0;
}
