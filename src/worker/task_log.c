#include "worker/task_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "sys/clock.h"

#define BATCH_LINES_MAX 256
#define BATCH_DELAY_MS 50
#define RETRY_MS 500
#define LINE_BYTES_EXTRA 64 /* what a line costs beside its text */

typedef struct {
    int64_t seq, at_ms;
    TaskLogStream stream;
    size_t len;
} PendingLine;

static void line_append(TaskLog *log, TaskLogStream stream, Str text)
{
    PendingLine line = { .at_ms = clock_real_ms(), .stream = stream, .len = text.len };
    line.seq = ++log->seq;
    if (!buf_reserve(&log->pending, sizeof line + text.len)) {
        log->pending.failed = false;
        log->seq--;
        log->dropped++;
        return;
    }
    buf_add(&log->pending, str_make((const char *)&line, sizeof line));
    buf_add(&log->pending, text);
    cond_signal(&log->changed);
}

void task_log_add(TaskLog *log, TaskLogStream stream, Str text)
{
    if (!log->open || log->closing) return;
    text = str_sub(text, 0, LOG_LINE_BYTES_MAX);
    size_t cost = text.len + LINE_BYTES_EXTRA;
    if (log->stale || cost > log->bytes_left) {
        log->dropped++;
        return;
    }
    log->bytes_left -= cost;
    line_append(log, stream, text);
}

void task_log_printf(TaskLog *log, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n > 0) task_log_add(log, TASK_LOG_SYSTEM, str_of(text));
}

/* --- sending ---------------------------------------------------------------------------------- */

/* Reads lines from the front of bytes; returns how many bytes they take. */
static size_t batch_read(const TaskLog *log, Str bytes, TaskLogLine *lines, size_t *ret_n)
{
    size_t at = 0, n = 0;
    assert(bytes.len >= sizeof(PendingLine));
    while (n < BATCH_LINES_MAX && at < bytes.len) {
        PendingLine line;
        memcpy(&line, bytes.ptr + at, sizeof line);
        at += sizeof line;
        assert(line.len <= bytes.len - at && line.seq <= log->seq);
        lines[n++] = (TaskLogLine){ .attempt = log->attempt,
                                    .seq = line.seq,
                                    .at_ms = line.at_ms,
                                    .stream = line.stream,
                                    .text = str_make(bytes.ptr + at, line.len) };
        at += line.len;
    }
    *ret_n = n;
    return at;
}

/* Lines may be added meanwhile, which moves the buffer: a batch is sent from a copy. */
static int batch_send_wait(TaskLog *log)
{
    CLEANUP(freep) TaskLogLine *lines = xcalloc(BATCH_LINES_MAX, sizeof *lines);
    CLEANUP(buf_deinit) Buf copy = { 0 };
    size_t n;
    size_t used = batch_read(log, buf_str(&log->pending), lines, &n);
    buf_init(&copy, used);
    if (!buf_add(&copy, str_make(log->pending.ptr, used))) return -ENOMEM;
    batch_read(log, buf_str(&copy), lines, &n);
    int r = log->link->ops->logs_wait(log->link, log->ref, lines, n);
    if (r < 0) return r;
    buf_drop(&log->pending, used);
    if (r == LINK_E_REFUSED) {
        LOG_WARN("log lines refused", LOG_INT("lines", n), LOG_CSTR("why", diag_text()));
        log->dropped += n;
    } else if (r > 0) {
        log->stale = true;
        buf_clear(&log->pending);
    }
    return 0;
}

/* Lets a batch gather, but not while the attempt waits for its log to be closed. */
static int batch_gather_wait(TaskLog *log)
{
    int64_t deadline_ms = deadline_after(BATCH_DELAY_MS);
    int r = 0;
    while (!log->closing && r == 0) r = cond_wait(&log->changed, deadline_ms);
    return r == -ETIMEDOUT ? 0 : r;
}

static int sender_main(void *arg)
{
    TaskLog *log = arg;
    int r = 0;
    while (r != -ECANCELED && !(log->closing && log->pending.len == 0)) {
        if (log->pending.len == 0) {
            r = cond_wait(&log->changed, DEADLINE_NONE);
            continue;
        }
        r = batch_gather_wait(log);
        if (r == 0) r = batch_send_wait(log);
        if (r < 0 && r != -ECANCELED) r = fiber_sleep_wait(RETRY_MS);
    }
    log->ended = true;
    cond_broadcast(&log->end);
    return 0;
}

int task_log_open(TaskLog *log, WorkerLink *link, TaskRef ref, int64_t attempt, size_t bytes_max)
{
    assert(!log->open);
    *log = (TaskLog){ .link = link, .ref = ref, .attempt = attempt, .bytes_left = bytes_max };
    buf_init(&log->pending, bytes_max * 2 + 4096);
    cond_init(&log->changed);
    cond_init(&log->end);
    int r = fiber_spawn("task log", sender_main, log, &log->sender);
    log->open = r == 0;
    return r;
}

void task_log_close_wait(TaskLog *log, int64_t deadline_ms)
{
    if (!log->open) return;
    if (log->dropped)
        line_append(log, TASK_LOG_SYSTEM, STR("log limit reached: further lines were dropped"));
    log->closing = true;
    cond_signal(&log->changed);
    fiber_shield();
    while (!log->ended && cond_wait(&log->end, deadline_ms) == 0) continue;
    fiber_cancel(log->sender);
    fiber_join_wait(log->sender, NULL);
    fiber_unshield();
    buf_deinit(&log->pending);
    log->open = false;
}
