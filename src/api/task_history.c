/* What happened to a task: its events as they come, its log, its timeline. */
#include <stdio.h>
#include <stdlib.h>

#include "api/tasks.h"
#include "base/diag.h"
#include "base/money.h"
#include "codec/sse.h"
#include "observe/task_json.h"
#include "store/call_store.h"
#include "store/family_store.h"
#include "store/log_store.h"
#include "store/webhook_store.h"
#include "sys/clock.h"

#define EVENT_BYTES_MAX ((size_t)64 << 10)
#define EVENT_ID_SIZE 64
#define SCRATCH_BYTES_MAX ((size_t)1 << 20)
#define HEARTBEAT_MS 15000
#define LOG_LINES_MAX 100000 /* of a whole log as text */
#define PAGE_MEMORY_MAX ((size_t)32 << 20)

/* --- events ----------------------------------------------------------------------------------- */

typedef struct {
    ApiCall *call;
    Uuid id;
    char last[EVENT_ID_SIZE]; /* id of the event sent last */
    int64_t beat_ms;
    Arena scratch;
    Buf text;
} EventStream;

static void events_deinit(EventStream *s)
{
    arena_deinit(&s->scratch);
    buf_deinit(&s->text);
}

static int events_send_wait(EventStream *s)
{
    s->beat_ms = clock_mono_ms();
    return http_write_wait(s->call->req, buf_str(&s->text));
}

static void event_id(const Task *task, char ret[EVENT_ID_SIZE])
{
    snprintf(ret, EVENT_ID_SIZE, "%" PRId64 "-%s%s", task->attempt, task_state_name(task->state),
             task->cancel_requested ? "-cancel" : "");
}

/* Whether nothing is left to say: 204 then, or an EventSource would connect again for ever. */
static bool task_is_told(const EventStream *s, const Task *task)
{
    char id[EVENT_ID_SIZE];
    event_id(task, id);
    return task_state_ended(task->state) && strcmp(id, s->last) == 0;
}

/* Sends the task as it is now, unless the client has seen it so. An event's id names a state, so a
 * client that comes back is told what has changed since. */
static int task_send_wait(EventStream *s, const Task *task)
{
    char id[EVENT_ID_SIZE];
    event_id(task, id);
    if (strcmp(id, s->last) == 0) return 0;
    str_copy(s->last, sizeof s->last, str_of(id));
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, EVENT_BYTES_MAX);
    JsonOut out = json_out(&data);
    task_json(&out, task, 0);
    buf_clear(&s->text);
    int r = sse_add_event(&s->text, STR("status"), str_of(id), buf_str(&data));
    return r < 0 ? r : events_send_wait(s);
}

static int beat_send_wait(EventStream *s)
{
    if (clock_mono_ms() - s->beat_ms < HEARTBEAT_MS) return 0;
    buf_clear(&s->text);
    sse_add_comment(&s->text, STR("heartbeat"));
    return events_send_wait(s);
}

/* Until the task has ended or the client has left. Returns 0, HTTP_E_GONE or -errno. */
static int events_follow_wait(EventStream *s)
{
    Queue *queue = s->call->api->options.queue;
    while (!api_wait_over(s->call)) {
        Task task;
        arena_clear(&s->scratch);
        uint64_t mark = queue_watch_mark(queue, s->id);
        int r = queue_get_wait(queue, s->id, 0, &s->scratch, &task);
        if (r == 0) r = task_send_wait(s, &task);
        if (r != 0 || task_state_ended(task.state)) return r;
        do {
            if ((r = beat_send_wait(s)) != 0) return r;
            r = queue_watch_wait(queue, s->id, mark, api_wait_step(DEADLINE_NONE));
        } while (r == -ETIMEDOUT && !api_wait_over(s->call));
        if (r < 0 && r != -ETIMEDOUT) return r;
    }
    return 0;
}

int task_events_run_wait(ApiCall *call)
{
    HttpReq *req = call->req;
    CLEANUP(events_deinit) EventStream s = { .call = call, .beat_ms = clock_mono_ms() };
    arena_init(&s.scratch, SCRATCH_BYTES_MAX);
    buf_init(&s.text, 2 * EVENT_BYTES_MAX);
    int r = api_task_id_wait(call, &s.id);
    if (r != 0) return r;
    Task task;
    r = queue_get_wait(call->api->options.queue, s.id, 0, &s.scratch, &task);
    if (r != 0) return api_queue_fail_wait(call, r);
    str_copy(s.last, sizeof s.last, http_header(req, "last-event-id"));
    if (task_is_told(&s, &task)) return api_reply_wait(call, 204, NULL, STR(""));
    http_header_add(req, "Cache-Control", STR("no-store"));
    http_header_add(req, "X-Accel-Buffering", STR("no"));
    r = http_reply_start_wait(req, 200, "text/event-stream");
    if (r == 0 && !str_eq(req->method, STR("HEAD"))) r = events_follow_wait(&s);
    return r == 0 ? http_end_wait(req) : r;
}

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

typedef enum {
    MOMENT_SUBMITTED,
    MOMENT_ATTEMPT_STARTED,
    MOMENT_CALL,
    MOMENT_TOOL,
    MOMENT_CHILD_STARTED,
    MOMENT_CHILD_FINISHED,
    MOMENT_LOG,
    MOMENT_ASKED,
    MOMENT_ATTEMPT_FINISHED,
    MOMENT_ANSWERED,
    MOMENT_FINISHED,
    MOMENT_WEBHOOK,
    MOMENT_N_
} MomentKind;

static const char *const moment_names[MOMENT_N_] = {
    [MOMENT_SUBMITTED] = "submitted",
    [MOMENT_ATTEMPT_STARTED] = "attempt_started",
    [MOMENT_CALL] = "llm_call",
    [MOMENT_TOOL] = "tool_call",
    [MOMENT_CHILD_STARTED] = "subagent_started",
    [MOMENT_CHILD_FINISHED] = "subagent_finished",
    [MOMENT_LOG] = "log",
    [MOMENT_ASKED] = "escalation_asked",
    [MOMENT_ATTEMPT_FINISHED] = "attempt_finished",
    [MOMENT_ANSWERED] = "escalation_ended",
    [MOMENT_FINISHED] = "finished",
    [MOMENT_WEBHOOK] = "webhook",
};

/* A moment of the timeline: what it is about stands at index in the list of its kind. */
typedef struct {
    int64_t at_ms;
    MomentKind kind;
    size_t index;
} Moment;

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

/* By time; what happened in one millisecond in the order of the kinds, then as recorded. */
static int moment_cmp(const void *a, const void *b)
{
    const Moment *x = a, *y = b;
    if (x->at_ms != y->at_ms) return x->at_ms < y->at_ms ? -1 : 1;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static Moment *moments_make(const Timeline *t, size_t *ret_n)
{
    size_t max = 2 + 2 * t->attempts_n + t->calls_n + t->lines_n + t->webhooks_n + t->tools_n +
                 2 * t->children_n + 2 * t->questions_n,
           n = 0;
    Moment *m = ARENA_ARRAY(t->arena, Moment, max);
    if (!m) return NULL;
    m[n++] = (Moment){ t->task.created_at_ms, MOMENT_SUBMITTED, 0 };
    for (size_t i = 0; i < t->attempts_n; i++) {
        m[n++] = (Moment){ t->attempts[i].started_at_ms, MOMENT_ATTEMPT_STARTED, i };
        if (t->attempts[i].finished_at_ms)
            m[n++] = (Moment){ t->attempts[i].finished_at_ms, MOMENT_ATTEMPT_FINISHED, i };
    }
    for (size_t i = 0; i < t->calls_n; i++) m[n++] = (Moment){ t->calls[i].at_ms, MOMENT_CALL, i };
    for (size_t i = 0; i < t->tools_n; i++) m[n++] = (Moment){ t->tools[i].at_ms, MOMENT_TOOL, i };
    for (size_t i = 0; i < t->children_n; i++) {
        m[n++] = (Moment){ t->children[i].created_at_ms, MOMENT_CHILD_STARTED, i };
        if (t->children[i].finished_at_ms)
            m[n++] = (Moment){ t->children[i].finished_at_ms, MOMENT_CHILD_FINISHED, i };
    }
    for (size_t i = 0; i < t->questions_n; i++) {
        m[n++] = (Moment){ t->questions[i].asked_at_ms, MOMENT_ASKED, i };
        if (t->questions[i].answered_at_ms)
            m[n++] = (Moment){ t->questions[i].answered_at_ms, MOMENT_ANSWERED, i };
    }
    for (size_t i = 0; i < t->lines_n; i++) m[n++] = (Moment){ t->lines[i].at_ms, MOMENT_LOG, i };
    for (size_t i = 0; i < t->webhooks_n; i++)
        m[n++] = (Moment){ t->webhooks[i].created_at_ms, MOMENT_WEBHOOK, i };
    if (t->task.finished_at_ms) m[n++] = (Moment){ t->task.finished_at_ms, MOMENT_FINISHED, 0 };
    qsort(m, n, sizeof *m, moment_cmp);
    *ret_n = n;
    return m;
}

static void kstr_if(JsonOut *out, const char *key, Str value)
{
    if (!str_empty(value)) json_out_kstr(out, key, value);
}

static void attempt_write(JsonOut *out, const Attempt *a, bool ended)
{
    json_out_ki64(out, "attempt", a->attempt);
    json_out_kuuid(out, "workerId", a->worker_id);
    if (!ended) return;
    json_out_ki64(out, "durationMs", MAX(a->finished_at_ms - a->started_at_ms, 0));
    kstr_if(out, "outcome", a->outcome);
    kstr_if(out, "errorCode", a->error_code);
    kstr_if(out, "errorDetail", a->error_detail);
    kstr_if(out, "sandbox", a->sandbox);
}

static void call_write(JsonOut *out, const Call *c)
{
    char usd[MONEY_TEXT_MAX];
    json_out_ki64(out, "attempt", c->attempt);
    json_out_ki64(out, "durationMs", c->duration_ms);
    json_out_kstr(out, "provider", c->provider);
    json_out_kstr(out, "model", c->model);
    json_out_kstr(out, "outcome", c->outcome);
    json_out_ki64(out, "status", c->status);
    json_out_kbool(out, "streamed", c->streamed);
    json_out_kbool(out, "replayed", c->replayed);
    json_out_kbool(out, "cached", c->cached);
    kstr_if(out, "degraded", c->degraded);
    kstr_if(out, "callId", c->call_id);
    kstr_if(out, "requestId", c->request_id);
    kstr_if(out, "upstreamRequestId", c->upstream_id);
    json_out_ki64(out, "inputTokens", c->input_tokens);
    json_out_ki64(out, "outputTokens", c->output_tokens);
    json_out_ki64(out, "cachedTokens", c->cached_tokens);
    json_out_ki64(out, "reasoningTokens", c->reasoning_tokens);
    json_out_kcstr(out, "costUsd", money_text(c->cost_nusd, usd));
    json_out_ki64(out, "costNusd", c->cost_nusd);
}

static void tool_write(JsonOut *out, const ToolRecord *r)
{
    json_out_ki64(out, "attempt", r->attempt);
    json_out_ki64(out, "durationMs", r->duration_ms);
    json_out_kstr(out, "tool", r->name);
    json_out_kstr(out, "source", r->source);
    json_out_kstr(out, "outcome", r->outcome);
    json_out_kbool(out, "replayed", r->replayed);
    if (!str_empty(r->mode)) json_out_kstr(out, "mode", r->mode);
    json_out_ki64(out, "bytes", r->bytes);
}

static void webhook_write(JsonOut *out, const Webhook *w)
{
    json_out_kstr(out, "webhookId", w->webhook_id);
    json_out_kstr(out, "url", w->url);
    json_out_kcstr(out, "state", webhook_state_name(w->state));
    json_out_ki64(out, "attempts", w->attempts);
    json_out_ki64(out, "status", w->last_status);
    kstr_if(out, "error", w->last_error);
    if (w->state == WEBHOOK_PENDING) json_out_ktime(out, "nextAt", w->next_at_ms);
}

static void question_write(JsonOut *out, const Escalation *e, bool ended)
{
    if (!ended) {
        json_out_kstr(out, "question", e->question);
        return;
    }
    json_out_kcstr(out, "state", escalation_state_name(e->state));
    Str answer = e->state == ESCALATION_DEFAULTED ? e->fallback : e->answer;
    if (!str_empty(answer)) json_out_kraw(out, "answer", answer);
    kstr_if(out, "by", e->answered_by);
}

static void log_write(JsonOut *out, const TaskLogLine *line)
{
    json_out_ki64(out, "attempt", line->attempt);
    json_out_ki64(out, "seq", line->seq);
    json_out_kcstr(out, "stream", task_log_stream_name(line->stream));
    json_out_kstr(out, "text", line->text);
}

static void child_write(JsonOut *out, const FamilyRow *c, bool ended)
{
    char usd[MONEY_TEXT_MAX];
    json_out_kuuid(out, "subagentTaskId", c->id);
    json_out_kstr(out, "agent", c->agent);
    if (!ended) return;
    json_out_ki64(out, "durationMs", MAX(c->finished_at_ms - c->created_at_ms, 0));
    json_out_kcstr(out, "status", task_state_name(c->state));
    kstr_if(out, "errorCode", c->error_code);
    json_out_kcstr(out, "costUsd", money_text(c->charged.nusd, usd));
    json_out_ki64(out, "costNusd", c->charged.nusd);
}

static void moment_write(JsonOut *out, const Timeline *t, const Moment *m)
{
    json_out_object(out);
    json_out_ktime(out, "at", m->at_ms);
    json_out_kcstr(out, "type", moment_names[m->kind]);
    switch (m->kind) {
    case MOMENT_ATTEMPT_STARTED: attempt_write(out, &t->attempts[m->index], false); break;
    case MOMENT_ATTEMPT_FINISHED: attempt_write(out, &t->attempts[m->index], true); break;
    case MOMENT_CALL: call_write(out, &t->calls[m->index]); break;
    case MOMENT_TOOL: tool_write(out, &t->tools[m->index]); break;
    case MOMENT_CHILD_STARTED: child_write(out, &t->children[m->index], false); break;
    case MOMENT_CHILD_FINISHED: child_write(out, &t->children[m->index], true); break;
    case MOMENT_LOG: log_write(out, &t->lines[m->index]); break;
    case MOMENT_ASKED:
    case MOMENT_ANSWERED:
        question_write(out, &t->questions[m->index], m->kind == MOMENT_ANSWERED);
        break;
    case MOMENT_WEBHOOK: webhook_write(out, &t->webhooks[m->index]); break;
    case MOMENT_FINISHED:
        json_out_kcstr(out, "status", task_state_name(t->task.state));
        kstr_if(out, "errorCode", t->task.error_code);
        kstr_if(out, "errorDetail", t->task.error_detail);
        break;
    default: break;
    }
    json_out_object_end(out);
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
    for (size_t i = 0; i < n; i++) moment_write(&json.out, &t, &moments[i]);
    json_out_array_end(&json.out);
    json_out_kbool(&json.out, "truncated",
                   t.lines_n == TASK_LOG_LIST_MAX || t.calls_n == CALL_LIST_MAX ||
                       t.tools_n == TOOL_RECORD_LIST_MAX);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}
