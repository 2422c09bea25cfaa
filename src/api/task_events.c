/* A task's events as they come: its states, and what happens to it. */
#include <stdio.h>

#include "api/moments.h"
#include "api/tasks.h"
#include "base/diag.h"
#include "codec/sse.h"
#include "observe/task_json.h"
#include "store/task_news.h"
#include "sys/clock.h"

#define NEWS_MAX 32 /* of a kind, read and sent at a time */
#define NEWS_MEMORY_MAX ((size_t)32 << 20)
#define EVENT_BYTES_MAX ((size_t)8 << 20) /* of one event's data: answers have 1 MiB */
#define RESULT_TOLD_MAX ((size_t)256 << 10)
#define SEND_BYTES ((size_t)32 << 10) /* sent when it has come to so much */
#define PING_MS 10000
#define LOOK_MS 20 /* between two looks at the store */

typedef struct {
    ApiCall *call;
    Uuid id;
    TaskCursor cursor; /* what was sent */
    int64_t looked_ms, sent_ms;
    char begun[BEGUN_CALLS_MAX][sizeof((BegunCall *)0)->id]; /* calls told to have begun, lately */
    size_t begun_n;
    Buf text; /* events to be sent */
} EventStream;

/* What is looked at at a time: the task, and what is new of it. */
typedef struct {
    Uuid id;
    const TaskCursor *after;
    Queue *queue;
    Arena arena;
    Task task;
    TaskNews news;
    BegunCalls begun; /* and have not ended */
    bool result_told; /* the task has its result, if there is one */
} Look;

/* A worker tells of a call until its record is taken, and then perhaps once more. */
static int begun_check(Db *db, Look *look)
{
    BegunCalls *begun = &look->begun;
    size_t n = 0;
    for (size_t i = 0; i < begun->n; i++) {
        bool recorded = false;
        int r = call_is_recorded(db, look->task.seq, str_of(begun->calls[i].id), &recorded);
        if (r != 0) return r;
        if (!recorded) begun->calls[n++] = begun->calls[i];
    }
    begun->n = n;
    return 0;
}

/* The end is told with what came of it, unless that is long: a server that drains may be gone when
 * it is asked for. */
static int result_get(Db *db, Look *look)
{
    Task whole;
    if (look->task.state != TASK_SUCCEEDED) return 0;
    int r = task_get(db, look->id, TASK_PART_RESULT, &look->arena, &whole);
    look->result_told = r == 0 && whole.result.len <= RESULT_TOLD_MAX;
    if (look->result_told) look->task.result = whole.result;
    return r == -ENOMEM ? 0 : r;
}

static int look_job(Db *db, void *arg)
{
    Look *look = arg;
    int r = task_get(db, look->id, 0, &look->arena, &look->task);
    if (r == 0) r = result_get(db, look);
    if (r != 0) return r;
    if (look->task.state == TASK_RUNNING)
        queue_calls_begun(look->queue, look->task.worker_id, look->id, &look->begun);
    r = task_news(db, &look->task, look->after, NEWS_MAX, &look->arena, &look->news);
    return r == 0 ? begun_check(db, look) : r;
}

static void look_deinit(Look *look)
{
    arena_deinit(&look->arena);
}

static int look_wait(EventStream *s, Look *look)
{
    look->id = s->id;
    look->after = &s->cursor;
    look->queue = s->call->api->options.queue;
    arena_init(&look->arena, NEWS_MEMORY_MAX);
    s->looked_ms = clock_mono_ms();
    return store_read_wait(queue_store(s->call->api->options.queue), look_job, look);
}

/* --- one after another ------------------------------------------------------------------------ */

/* A list of what is new. The lists are told as one, by time; each keeps its own order. */
typedef struct {
    MomentKind kind;
    TaskCursorPlace place; /* that moves with it */
    size_t n, at;
    bool cut; /* there may be more in the store */
} Source;

typedef enum {
    FROM_BEGUN,
    FROM_CALLS,
    FROM_TOOLS,
    FROM_CHILDREN,
    FROM_ENDS,
    FROM_LINES,
    FROM_NOTES,
    FROM_ASKED,
    FROM_ENDED,
    FROM_ANSWERED,
    FROM_N_
} From;

typedef struct {
    const TaskNews *news;
    Source from[FROM_N_];
} Sources;

/* What the head of a source is, and when it is told. attempt 0: of none in particular. */
typedef struct {
    Moment moment;
    int64_t attempt, told_ms;
    int64_t place, place_above; /* for the cursor; above: its attempt, where numbers are of one */
} Head;

static Head head_of_attempt(const Attempt *a, bool ended)
{
    int64_t at_ms = ended ? a->finished_at_ms : a->started_at_ms;
    MomentKind kind = ended ? MOMENT_ATTEMPT_FINISHED : MOMENT_ATTEMPT_STARTED;
    return (Head){ { at_ms, kind, a }, a->attempt, at_ms, a->attempt, 0 };
}

static Head head_of_line(const TaskLogLine *l)
{
    return (Head){ { l->at_ms, MOMENT_LOG, l }, l->attempt, l->at_ms, l->seq, l->attempt };
}

static Head head_of_question(const Escalation *e, bool ended)
{
    int64_t at_ms = ended && e->answered_at_ms ? e->answered_at_ms : e->asked_at_ms;
    return (Head){ { at_ms, ended ? MOMENT_ANSWERED : MOMENT_ASKED, e }, 0, at_ms, e->id, 0 };
}

static Head source_head(const Sources *s, From from)
{
    const TaskNews *n = s->news;
    size_t i = s->from[from].at;
    switch (from) {
    case FROM_BEGUN: return head_of_attempt(&n->attempts[i], false);
    case FROM_ENDED: return head_of_attempt(&n->attempts[i], true);
    case FROM_LINES: return head_of_line(&n->lines[i]);
    case FROM_NOTES: return head_of_line(&n->notes[i]);
    case FROM_ASKED: return head_of_question(&n->questions[i], false);
    case FROM_ANSWERED: return head_of_question(&n->questions[i], true);
    case FROM_CALLS: {
        const Call *c = &n->calls[i];
        return (
            Head){ { c->at_ms, MOMENT_CALL, c }, c->attempt, c->at_ms + c->duration_ms, c->id, 0 };
    }
    case FROM_TOOLS: {
        const ToolRecord *t = &n->tools[i];
        return (
            Head){ { t->at_ms, MOMENT_TOOL, t }, t->attempt, t->at_ms + t->duration_ms, t->n, 0 };
    }
    case FROM_CHILDREN: {
        const FamilyRow *c = &n->children[i];
        return (
            Head){ { c->created_at_ms, MOMENT_CHILD_STARTED, c }, 0, c->created_at_ms, c->seq, 0 };
    }
    default: {
        const FamilyRow *c = &n->ends[i];
        return (Head){
            { c->finished_at_ms, MOMENT_CHILD_FINISHED, c }, 0, c->finished_at_ms, c->end_n, 0
        };
    }
    }
}

/* Where in its attempt a moment belongs whatever clocks say, which are those of several
 * machines. */
static int rank_of(MomentKind kind)
{
    return kind == MOMENT_ATTEMPT_STARTED ? 0 : kind == MOMENT_ATTEMPT_FINISHED ? 2 : 1;
}

static bool comes_before(const Head *a, const Head *b)
{
    if (a->attempt && b->attempt) {
        if (a->attempt != b->attempt) return a->attempt < b->attempt;
        int x = rank_of(a->moment.kind), y = rank_of(b->moment.kind);
        if (x != y) return x < y;
    }
    if (a->told_ms != b->told_ms) return a->told_ms < b->told_ms;
    return a->moment.kind < b->moment.kind;
}

static size_t attempts_told(const TaskNews *n, int64_t begun)
{
    size_t i = 0;
    while (i < n->attempts_n && n->attempts[i].attempt <= begun) i++;
    return i;
}

static size_t attempts_ended(const TaskNews *n)
{
    size_t i = 0;
    while (i < n->attempts_n && n->attempts[i].finished_at_ms > 0) i++;
    return i;
}

static size_t questions_after(const TaskNews *n, int64_t id)
{
    size_t i = 0;
    while (i < n->questions_n && n->questions[i].id <= id) i++;
    return i;
}

/* Ends of questions are told in the order in which these were asked. */
static size_t questions_ended(const TaskNews *n, size_t i)
{
    while (i < n->questions_n && n->questions[i].state != ESCALATION_PENDING) i++;
    return i;
}

static Sources sources_of(const TaskNews *n, const TaskCursor *after)
{
    size_t answered = questions_after(n, after->at[TASK_CURSOR_ANSWERED]);
    Sources s = { .news = n };
    s.from[FROM_BEGUN] = (Source){ .place = TASK_CURSOR_BEGUN, .n = n->attempts_n };
    s.from[FROM_BEGUN].at = attempts_told(n, after->at[TASK_CURSOR_BEGUN]);
    s.from[FROM_ENDED] = (Source){ .place = TASK_CURSOR_ENDED, .n = attempts_ended(n) };
    s.from[FROM_CALLS] = (Source){ .place = TASK_CURSOR_CALL, .n = n->calls_n };
    s.from[FROM_TOOLS] = (Source){ .place = TASK_CURSOR_TOOL, .n = n->tools_n };
    s.from[FROM_CHILDREN] = (Source){ .place = TASK_CURSOR_CHILD, .n = n->children_n };
    s.from[FROM_ENDS] = (Source){ .place = TASK_CURSOR_CHILD_END, .n = n->ends_n };
    s.from[FROM_LINES] = (Source){ .place = TASK_CURSOR_LINE, .n = n->lines_n };
    s.from[FROM_NOTES] = (Source){ .place = TASK_CURSOR_NOTE, .n = n->notes_n };
    s.from[FROM_ASKED] = (Source){ .place = TASK_CURSOR_ASKED, .n = n->questions_n };
    s.from[FROM_ASKED].at = questions_after(n, after->at[TASK_CURSOR_ASKED]);
    s.from[FROM_ANSWERED] = (Source){ .place = TASK_CURSOR_ANSWERED, .at = answered };
    s.from[FROM_ANSWERED].n = questions_ended(n, answered);
    for (From i = 0; i < FROM_N_; i++) /* questions are read all */
        s.from[i].cut = i != FROM_ASKED && i != FROM_ANSWERED && s.from[i].n == n->max &&
                        s.from[i].at < s.from[i].n;
    return s;
}

/* The next moment to be told; false: there is none, or the store is to be asked for more first. */
static bool sources_next(Sources *s, Head *ret, From *ret_from)
{
    bool found = false;
    for (From i = 0; i < FROM_N_; i++) {
        const Source *source = &s->from[i];
        if (source->at >= source->n) {
            if (source->cut) return false;
            continue;
        }
        Head head = source_head(s, i);
        if (found && !comes_before(&head, ret)) continue;
        *ret = head;
        *ret_from = i;
        found = true;
    }
    if (found) s->from[*ret_from].at++;
    return found;
}

static bool sources_are_cut(const Sources *s)
{
    for (From i = 0; i < FROM_N_; i++)
        if (s->from[i].cut) return true;
    return false;
}

/* --- sending ---------------------------------------------------------------------------------- */

static int events_send_wait(EventStream *s)
{
    if (s->text.len == 0) return 0;
    s->sent_ms = clock_mono_ms();
    int r = http_write_wait(s->call->req, buf_str(&s->text));
    buf_deinit(&s->text); /* who waits holds no memory */
    buf_init(&s->text, SEND_BYTES + 2 * EVENT_BYTES_MAX);
    return r;
}

static int event_add_wait(EventStream *s, const char *name, const Buf *data)
{
    char id[TASK_CURSOR_TEXT_SIZE];
    task_cursor_text(&s->cursor, id);
    if (data->failed) return diag_set(-ENOMEM, "no memory for an event");
    int r = sse_add_event(&s->text, str_of(name), str_of(id), buf_str(data));
    return r == 0 && s->text.len >= SEND_BYTES ? events_send_wait(s) : r;
}

static void cursor_move(TaskCursor *cursor, TaskCursorPlace place, const Head *head)
{
    cursor->at[place] = head->place;
    if (place == TASK_CURSOR_LINE) cursor->at[TASK_CURSOR_LINE_ATTEMPT] = head->place_above;
    if (place == TASK_CURSOR_NOTE) cursor->at[TASK_CURSOR_NOTE_ATTEMPT] = head->place_above;
}

static int moment_add_wait(EventStream *s, const Head *head, TaskCursorPlace place)
{
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, EVENT_BYTES_MAX);
    JsonOut out = json_out(&data);
    moment_write(&out, &head->moment);
    cursor_move(&s->cursor, place, head);
    return event_add_wait(s, moment_name(head->moment.kind), &data);
}

static void state_text(const Task *task, char ret[TASK_CURSOR_STATE_SIZE])
{
    snprintf(ret, TASK_CURSOR_STATE_SIZE, "%" PRId64 "-%s%s", task->attempt,
             task_state_name(task->state), task->cancel_requested ? "-cancel" : "");
}

static bool state_is_told(const EventStream *s, const Task *task)
{
    char state[TASK_CURSOR_STATE_SIZE];
    state_text(task, state);
    return strcmp(state, s->cursor.state) == 0;
}

static int state_add_wait(EventStream *s, const Task *task, bool result_told)
{
    if (state_is_told(s, task)) return 0;
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, EVENT_BYTES_MAX);
    JsonOut out = json_out(&data);
    task_json(&out, task, result_told ? TASK_JSON_RESULT : 0);
    state_text(task, s->cursor.state);
    return event_add_wait(s, "status", &data);
}

static bool begun_is_told(const EventStream *s, const BegunCall *call)
{
    for (size_t i = 0; i < MIN(s->begun_n, BEGUN_CALLS_MAX); i++)
        if (strcmp(s->begun[i], call->id) == 0) return true;
    return false;
}

/* Not recorded, so without an id: who comes back is told again of those that go on. */
static int begun_add_wait(EventStream *s, const BegunCall *call)
{
    if (begun_is_told(s, call)) return 0;
    str_copy(s->begun[s->begun_n++ % BEGUN_CALLS_MAX], sizeof call->id, str_of(call->id));
    CLEANUP(buf_deinit) Buf data;
    buf_init(&data, EVENT_BYTES_MAX);
    JsonOut out = json_out(&data);
    json_out_object(&out);
    json_out_ktime(&out, "at", call->at_ms);
    json_out_kcstr(&out, "type", "llm_call_started");
    json_out_ki64(&out, "attempt", call->attempt);
    json_out_kcstr(&out, "callId", call->id);
    json_out_kcstr(&out, "provider", call->provider);
    json_out_kcstr(&out, "model", call->model);
    json_out_object_end(&out);
    if (data.failed) return diag_set(-ENOMEM, "no memory for an event");
    int r = sse_add_event(&s->text, STR("llm_call_started"), STR(""), buf_str(&data));
    return r == 0 && s->text.len >= SEND_BYTES ? events_send_wait(s) : r;
}

/* Sends what a look has found. The state comes after what led to it: an end is the last event.
 * *ret_more: there is more to be looked at now. */
static int news_send_wait(EventStream *s, const Look *look, bool *ret_more)
{
    Sources sources = sources_of(&look->news, &s->cursor);
    Head head = { 0 };
    From from = FROM_BEGUN;
    int r = 0;
    while (r == 0 && sources_next(&sources, &head, &from))
        r = moment_add_wait(s, &head, sources.from[from].place);
    *ret_more = sources_are_cut(&sources);
    if (r == 0 && !*ret_more) r = state_add_wait(s, &look->task, look->result_told);
    for (size_t i = 0; r == 0 && !*ret_more && i < look->begun.n; i++)
        r = begun_add_wait(s, &look->begun.calls[i]);
    return r == 0 ? events_send_wait(s) : r;
}

static int ping_wait(EventStream *s)
{
    if (clock_mono_ms() - s->sent_ms < PING_MS) return 0;
    sse_add_comment(&s->text, STR("ping"));
    return events_send_wait(s);
}

/* Until the task has changed since the mark. What changes often is looked at now and then. */
static int change_wait(EventStream *s, uint64_t mark)
{
    int r = -ETIMEDOUT;
    while (r == -ETIMEDOUT && !api_wait_over(s->call)) {
        r = queue_watch_wait(s->call->api->options.queue, s->id, mark,
                             api_wait_step(DEADLINE_NONE));
        if (r == -ETIMEDOUT && ping_wait(s) != 0) return HTTP_E_GONE;
    }
    int64_t rest_ms = s->looked_ms + LOOK_MS - clock_mono_ms();
    if (r == 0 && rest_ms > 0) return fiber_sleep_wait(rest_ms);
    return r == -ETIMEDOUT ? 0 : r;
}

/* Until the task has ended or the client has left. Returns 0, HTTP_E_GONE or -errno. */
static int events_follow_wait(EventStream *s)
{
    Queue *queue = s->call->api->options.queue;
    int r = 0;
    for (bool over = false; r == 0 && !over;) {
        over = api_wait_over(s->call); /* one look more: its end may have come meanwhile */
        uint64_t mark = queue_watch_mark(queue, s->id);
        bool more = false, ended = false;
        {
            CLEANUP(look_deinit) Look look = { 0 };
            r = look_wait(s, &look);
            if (r == 0) r = news_send_wait(s, &look, &more);
            ended = r == 0 && task_state_ended(look.task.state);
        }
        if (r == 0 && ended && !more) return 0;
        if (r == 0 && !more && !over) r = change_wait(s, mark);
    }
    return r;
}

static bool news_is_empty(const EventStream *s, const TaskNews *n)
{
    Sources sources = sources_of(n, &s->cursor);
    Head head;
    From from;
    return !sources_next(&sources, &head, &from) && !sources_are_cut(&sources);
}

/* Whether nothing is left to say: 204 then, or an EventSource would connect again for ever. */
static int first_look_wait(EventStream *s, bool *ret_told)
{
    CLEANUP(look_deinit) Look look = { 0 };
    int r = look_wait(s, &look);
    if (r == -ENOENT)
        return api_problem_wait(s->call, 404, "task_not_found", "there is no such task");
    if (r != 0) return api_fail_wait(s->call, r);
    *ret_told = task_state_ended(look.task.state) && state_is_told(s, &look.task) &&
                news_is_empty(s, &look.news);
    return 0;
}

static int events_reply_wait(EventStream *s)
{
    HttpReq *req = s->call->req;
    bool told = false;
    int r = api_task_id_wait(s->call, &s->id);
    if (r != 0) return r;
    if (task_cursor_parse(http_header(req, "last-event-id"), &s->cursor) < 0)
        s->cursor = (TaskCursor){ 0 }; /* none of ours: from the start */
    if ((r = first_look_wait(s, &told)) != 0) return r;
    if (told) return api_reply_wait(s->call, 204, NULL, STR(""));
    http_header_add(req, "Cache-Control", STR("no-store"));
    http_header_add(req, "X-Accel-Buffering", STR("no"));
    r = http_reply_start_wait(req, 200, "text/event-stream");
    if (r == 0 && !str_eq(req->method, STR("HEAD"))) r = events_follow_wait(s);
    return r == 0 ? http_end_wait(req) : r;
}

static void stream_end(EventStream *s)
{
    queue_follow_end(s->call->api->options.queue);
    buf_deinit(&s->text);
}

int task_events_run_wait(ApiCall *call)
{
    if (!queue_follow_begin(call->api->options.queue)) {
        http_header_add(call->req, "Retry-After", STR("5"));
        return api_problem_wait(call, 503, "too_many_streams",
                                "as many tasks are followed as may be (limits.eventStreams)");
    }
    CLEANUP(stream_end) EventStream s = { .call = call, .sent_ms = clock_mono_ms() };
    buf_init(&s.text, SEND_BYTES + 2 * EVENT_BYTES_MAX);
    return events_reply_wait(&s);
}
