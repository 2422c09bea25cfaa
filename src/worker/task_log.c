#include "worker/task_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "logic/log_bound.h"
#include "sys/clock.h"

#define BATCH_LINES_MAX 256
#define BATCH_DELAY_MS 50
#define TAIL_DELAY_MS 2000 /* of lines after the head: what is logged without end costs little */
#define RETRY_MS 500

typedef struct {
    int64_t seq, at_ms;
    int64_t gap_n, gap_bytes; /* left out just before it */
    TaskLogStream stream;
    size_t len;
} PendingLine;

static PendingLine pending_at(const TaskLog *log, size_t at)
{
    PendingLine line;
    assert(at + sizeof line <= log->pending.len);
    memcpy(&line, log->pending.ptr + at, sizeof line);
    return line;
}

/* What is left out is told by the line after it: by the oldest that stays, else by the next. */
static void gap_add(TaskLog *log, size_t at, int64_t n, int64_t bytes)
{
    if (at == log->pending.len) {
        log->gap_n += n;
        log->gap_bytes += bytes;
        return;
    }
    PendingLine line = pending_at(log, at);
    line.gap_n += n;
    line.gap_bytes += bytes;
    memcpy(log->pending.ptr + at, &line, sizeof line);
}

/* Leaves the oldest lines out that may be, until those that wait are tail_max bytes. Called when
 * they are twice that, so that a line is moved once at most on the average. */
static void tail_trim(TaskLog *log)
{
    size_t at = log->pinned;
    int64_t n = 0, own = 0, bytes = 0;
    while (log->pending.len - at > log->tail_max) {
        PendingLine line = pending_at(log, at);
        at += sizeof line + line.len;
        own++;
        n += 1 + line.gap_n;
        bytes += (int64_t)line.len + line.gap_bytes;
    }
    Buf *p = &log->pending;
    size_t cut = at - log->pinned;
    memmove(p->ptr + log->pinned, p->ptr + at, p->len - at);
    p->len -= cut;
    p->ptr[p->len] = 0;
    log->dropped += (uint64_t)own;
    gap_add(log, log->pinned, n, bytes);
}

static bool line_append(TaskLog *log, TaskLogStream stream, Str text)
{
    PendingLine line = { .at_ms = clock_real_ms(),
                         .gap_n = log->gap_n,
                         .gap_bytes = log->gap_bytes,
                         .stream = stream,
                         .len = text.len };
    line.seq = ++log->seq; /* also when it is left out: a gap can be told by it */
    if (!buf_reserve(&log->pending, sizeof line + text.len)) {
        log->pending.failed = false;
        log->dropped++;
        log->gap_n++;
        log->gap_bytes += (int64_t)text.len;
        return false;
    }
    buf_add(&log->pending, str_make((const char *)&line, sizeof line));
    buf_add(&log->pending, text);
    log->gap_n = log->gap_bytes = 0;
    cond_signal(&log->changed);
    return true;
}

void task_log_add(TaskLog *log, TaskLogStream stream, Str text)
{
    if (!log->open || log->closing) return;
    text = str_sub(text, 0, LOG_LINE_BYTES_MAX);
    if (log->stale) {
        log->dropped++;
        return;
    }
    size_t cost = text.len + LOG_LINE_BYTES_EXTRA;
    if (cost <= log->head_left) {
        log->head_left -= cost;
        if (line_append(log, stream, text)) log->pinned = log->pending.len;
        return;
    }
    log->head_left = 0; /* the tail begins, also for lines that would fit */
    line_append(log, stream, str_sub(text, 0, log_tail_line_bytes(log->tail_max)));
    if (log->pending.len - log->pinned > 2 * log->tail_max) tail_trim(log);
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
                                    .left_out_n = line.gap_n,
                                    .left_out_bytes = line.gap_bytes,
                                    .text = str_make(bytes.ptr + at, line.len) };
        at += line.len;
    }
    *ret_n = n;
    return at;
}

/* Lines may be added meanwhile, which moves the buffer: a batch is sent from a copy. */
static int batch_send_wait(TaskLog *log, size_t *ret_sent)
{
    CLEANUP(freep) TaskLogLine *lines = xcalloc(BATCH_LINES_MAX, sizeof *lines);
    CLEANUP(buf_deinit) Buf copy = { 0 };
    size_t n;
    size_t used = batch_read(log, buf_str(&log->pending), lines, &n);
    buf_init(&copy, used);
    if (!buf_add(&copy, str_make(log->pending.ptr, used))) return -ENOMEM;
    batch_read(log, buf_str(&copy), lines, &n);
    log->pinned = MAX(log->pinned, used);
    int r = log->link->ops->logs_wait(log->link, log->ref, lines, n);
    if (r < 0) return r;
    *ret_sent = used;
    buf_drop(&log->pending, used);
    log->pinned -= used;
    if (r == LINK_E_REFUSED) {
        LOG_WARN("log lines refused", LOG_INT("lines", n), LOG_CSTR("why", diag_text()));
        log->dropped += n;
    } else if (r > 0) {
        log->stale = true;
        buf_clear(&log->pending);
        log->pinned = 0;
    }
    return 0;
}

/* Lets a batch gather, but not while the attempt waits for its log to be closed. */
static int batch_gather_wait(TaskLog *log)
{
    int64_t deadline_ms = deadline_after(log->pinned > 0 ? BATCH_DELAY_MS : TAIL_DELAY_MS);
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
        for (size_t due = log->pending.len, sent; r == 0 && due && log->pending.len; due -= sent) {
            r = batch_send_wait(log, &sent);
            sent = r == 0 ? MIN(sent, due) : 0;
        }
        if (r < 0 && r != -ECANCELED) r = fiber_sleep_wait(RETRY_MS);
    }
    log->ended = true;
    cond_broadcast(&log->end);
    return 0;
}

int task_log_open(TaskLog *log, WorkerLink *link, TaskRef ref, int64_t attempt, size_t bytes_max)
{
    assert(!log->open);
    size_t tail_max = log_tail_bytes(bytes_max);
    *log = (TaskLog){ .link = link,
                      .ref = ref,
                      .attempt = attempt,
                      .head_left = bytes_max - tail_max,
                      .tail_max = tail_max };
    buf_init(&log->pending, bytes_max * 2 + 4096 + LOG_LINE_BYTES_MAX);
    cond_init(&log->changed);
    cond_init(&log->end);
    int r = fiber_spawn("task log", sender_main, log, &log->sender);
    log->open = r == 0;
    return r;
}

void task_log_close_wait(TaskLog *log, int64_t deadline_ms)
{
    if (!log->open) return;
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
