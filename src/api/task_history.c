/* What happened to a task: its log, its timeline. */
#include <stdio.h>
#include <stdlib.h>

#include "api/moments.h"
#include "api/tasks.h"
#include "base/diag.h"
#include "observe/task_json.h"
#include "store/call_store.h"
#include "store/family_store.h"
#include "store/log_store.h"
#include "store/webhook_store.h"

#define LOG_LINES_MAX 100000 /* of a whole log as text */
#define PAGE_MEMORY_MAX ((size_t)32 << 20)

/* --- log -------------------------------------------------------------------------------------- */

const Param task_logs_params[] = {
    { "after", "string", "nextAfter of the page before: attempt.seq of its last line" },
    { "format", "string", "json (up to 1000 lines a page) or text (all of them)" },
    { 0 },
};

typedef struct {
    Uuid id;
    TaskLogCursor after;
    Arena *arena;
    TaskLogLine *lines;
    size_t n;
    int64_t dropped, dropped_bytes;
} LogPage;

static int log_job(Db *db, void *arg)
{
    LogPage *page = arg;
    TaskHead head;
    TaskLogTail tail = { 0 };
    int64_t bytes;
    int r = task_head(db, page->id, &head);
    if (r == 0) r = task_log_usage(db, head.seq, &bytes, &page->dropped);
    if (r < 0) return r;
    r = task_log_tail(db, head.seq, &tail);
    if (r < 0 && r != -ENOENT) return r;
    page->dropped_bytes = tail.left_out_bytes;
    return task_log_list(db, head.seq, page->after, page->arena, &page->lines, &page->n);
}

static int log_load_wait(ApiCall *call, LogPage *page)
{
    int r = store_read_wait(queue_store(call->api->options.queue), log_job, page);
    if (r == -ENOENT) return api_problem_wait(call, 404, "task_not_found", "there is no such task");
    return r < 0 ? api_fail_wait(call, r) : 0;
}

static void line_write(JsonOut *out, const TaskLogLine *line)
{
    json_out_object(out);
    json_out_ki64(out, "seq", line->seq);
    json_out_ki64(out, "attempt", line->attempt);
    json_out_ktime(out, "at", line->at_ms);
    json_out_kcstr(out, "stream", task_log_stream_name(line->stream));
    json_out_kstr(out, "text", line->text);
    json_out_object_end(out);
}

/* The cursor behind a full page's last line. */
static TaskLogCursor page_end(const LogPage *page)
{
    const TaskLogLine *last = &page->lines[page->n - 1];
    return (TaskLogCursor){ last->attempt, last->seq };
}

static void next_write(JsonOut *out, const LogPage *page)
{
    char text[48];
    json_out_key(out, "nextAfter");
    if (page->n < TASK_LOG_LIST_MAX) {
        json_out_null(out);
        return;
    }
    TaskLogCursor end = page_end(page);
    snprintf(text, sizeof text, "%" PRId64 ".%" PRId64, end.attempt, end.seq);
    json_out_str(out, str_of(text));
}

static int after_read_wait(ApiCall *call, TaskLogCursor *ret)
{
    Str text = api_param(call, "after"), attempt;
    *ret = (TaskLogCursor){ 0 };
    if (str_empty(text)) return 0;
    Str seq = str_split(text, '.', &attempt, NULL);
    if (str_to_i64(attempt, &ret->attempt) == 0 && str_to_i64(seq, &ret->seq) == 0) return 0;
    return api_problem_wait(call, 400, "parameter_invalid",
                            "?after is to be the nextAfter of an earlier page");
}

static int logs_json_wait(ApiCall *call, LogPage *page)
{
    int r = log_load_wait(call, page);
    if (r != 0) return r;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_kuuid(out, "taskId", page->id);
    json_out_key(out, "entries");
    json_out_array(out);
    for (size_t i = 0; i < page->n; i++) line_write(out, &page->lines[i]);
    json_out_array_end(out);
    next_write(out, page);
    json_out_ki64(out, "dropped", page->dropped);
    json_out_ki64(out, "droppedBytes", page->dropped_bytes);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

static int logs_text_wait(ApiCall *call, LogPage *page)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, API_JSON_BYTES_MAX);
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, PAGE_MEMORY_MAX);
    page->arena = &arena;
    for (size_t total = 0; total < LOG_LINES_MAX; total += page->n) {
        arena_clear(&arena);
        int r = log_load_wait(call, page);
        if (r != 0) return r;
        for (size_t i = 0; i < page->n; i++)
            buf_printf(&text, "%.*s\n", STR_ARG(page->lines[i].text));
        if (page->n < TASK_LOG_LIST_MAX) break;
        page->after = page_end(page);
    }
    if (page->dropped > 0 && page->dropped_bytes == 0) /* else a line says so in its place */
        buf_printf(&text, "(%" PRId64 " more lines were over the limit)\n", page->dropped);
    if (text.failed) return api_fail_wait(call, -ENOMEM);
    return api_reply_wait(call, 200, "text/plain; charset=utf-8", buf_str(&text));
}

int task_logs_run_wait(ApiCall *call)
{
    LogPage page = { .arena = &call->req->arena };
    int r = api_task_id_wait(call, &page.id);
    if (r == 0) r = after_read_wait(call, &page.after);
    if (r != 0) return r;
    Str format = api_param(call, "format"), accept = http_header(call->req, "accept");
    if (str_empty(format) && str_starts_with(accept, STR("text/plain"))) format = STR("text");
    if (str_eq(format, STR("text"))) return logs_text_wait(call, &page);
    if (str_empty(format) || str_eq(format, STR("json"))) return logs_json_wait(call, &page);
    return api_problem_wait(call, 400, "parameter_invalid", "?format is to be json or text");
}

/* --- timeline --------------------------------------------------------------------------------- */

typedef struct {
    Uuid id;
    Arena *arena;
    Task task;
    Attempt *attempts;
    Call *calls;
    TaskLogLine *lines;
    Webhook *webhooks;
    ToolRecord *tools;
    FamilyRow *children;
    Escalation *questions;
    size_t attempts_n, calls_n, lines_n, webhooks_n, tools_n, children_n, questions_n;
} Timeline;

static int timeline_job(Db *db, void *arg)
{
    Timeline *t = arg;
    int r = task_get(db, t->id, 0, t->arena, &t->task);
    if (r == 0) r = attempt_list(db, t->task.seq, t->arena, &t->attempts, &t->attempts_n);
    if (r == 0) r = call_list(db, t->task.seq, t->arena, &t->calls, &t->calls_n);
    if (r == 0)
        r = task_log_list(db, t->task.seq, (TaskLogCursor){ 0 }, t->arena, &t->lines, &t->lines_n);
    if (r == 0) r = tool_record_list(db, t->task.seq, t->arena, &t->tools, &t->tools_n);
    if (r == 0 && t->task.children)
        r = family_list(db, t->task.seq, t->arena, &t->children, &t->children_n);
    if (r == 0) r = webhook_list(db, t->task.seq, t->arena, &t->webhooks, &t->webhooks_n);
    if (r == 0) r = escalation_list(db, t->task.seq, t->arena, &t->questions, &t->questions_n);
    return r;
}

/* By time; what happened in one millisecond in the order of the kinds, then as recorded: rows of a
 * kind are of one array. */
static int moment_cmp(const void *a, const void *b)
{
    const Moment *x = a, *y = b;
    if (x->at_ms != y->at_ms) return x->at_ms < y->at_ms ? -1 : 1;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return ((uintptr_t)x->of > (uintptr_t)y->of) - ((uintptr_t)x->of < (uintptr_t)y->of);
}

static Moment *moments_make(const Timeline *t, size_t *ret_n)
{
    size_t max = 2 + 2 * t->attempts_n + t->calls_n + t->lines_n + t->webhooks_n + t->tools_n +
                 2 * t->children_n + 2 * t->questions_n,
           n = 0;
    Moment *m = ARENA_ARRAY(t->arena, Moment, max);
    if (!m) return NULL;
    m[n++] = (Moment){ t->task.created_at_ms, MOMENT_SUBMITTED, &t->task };
    for (size_t i = 0; i < t->attempts_n; i++) {
        m[n++] = (Moment){ t->attempts[i].started_at_ms, MOMENT_ATTEMPT_STARTED, &t->attempts[i] };
        if (t->attempts[i].finished_at_ms)
            m[n++] = (Moment){ t->attempts[i].finished_at_ms, MOMENT_ATTEMPT_FINISHED,
                               &t->attempts[i] };
    }
    for (size_t i = 0; i < t->calls_n; i++)
        m[n++] = (Moment){ t->calls[i].at_ms, MOMENT_CALL, &t->calls[i] };
    for (size_t i = 0; i < t->tools_n; i++)
        m[n++] = (Moment){ t->tools[i].at_ms, MOMENT_TOOL, &t->tools[i] };
    for (size_t i = 0; i < t->children_n; i++) {
        m[n++] = (Moment){ t->children[i].created_at_ms, MOMENT_CHILD_STARTED, &t->children[i] };
        if (t->children[i].finished_at_ms)
            m[n++] = (Moment){ t->children[i].finished_at_ms, MOMENT_CHILD_FINISHED,
                               &t->children[i] };
    }
    for (size_t i = 0; i < t->questions_n; i++) {
        m[n++] = (Moment){ t->questions[i].asked_at_ms, MOMENT_ASKED, &t->questions[i] };
        if (t->questions[i].answered_at_ms)
            m[n++] = (Moment){ t->questions[i].answered_at_ms, MOMENT_ANSWERED, &t->questions[i] };
    }
    for (size_t i = 0; i < t->lines_n; i++)
        m[n++] = (Moment){ t->lines[i].at_ms, MOMENT_LOG, &t->lines[i] };
    for (size_t i = 0; i < t->webhooks_n; i++)
        m[n++] = (Moment){ t->webhooks[i].created_at_ms, MOMENT_WEBHOOK, &t->webhooks[i] };
    if (t->task.finished_at_ms)
        m[n++] = (Moment){ t->task.finished_at_ms, MOMENT_FINISHED, &t->task };
    qsort(m, n, sizeof *m, moment_cmp);
    *ret_n = n;
    return m;
}

int task_timeline_run_wait(ApiCall *call)
{
    Timeline t = { .arena = &call->req->arena };
    int r = api_task_id_wait(call, &t.id);
    if (r != 0) return r;
    r = store_read_wait(queue_store(call->api->options.queue), timeline_job, &t);
    if (r == -ENOENT) return api_problem_wait(call, 404, "task_not_found", "there is no such task");
    size_t n = 0;
    Moment *moments = r == 0 ? moments_make(&t, &n) : NULL;
    if (!moments) return api_fail_wait(call, r < 0 ? r : -ENOMEM);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kuuid(&json.out, "taskId", t.id);
    json_out_kcstr(&json.out, "status", task_state_name(t.task.state));
    json_out_key(&json.out, "events");
    json_out_array(&json.out);
    for (size_t i = 0; i < n; i++) moment_write(&json.out, &moments[i]);
    json_out_array_end(&json.out);
    json_out_kbool(&json.out, "truncated",
                   t.lines_n == TASK_LOG_LIST_MAX || t.calls_n == CALL_LIST_MAX ||
                       t.tools_n == TOOL_RECORD_LIST_MAX);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
