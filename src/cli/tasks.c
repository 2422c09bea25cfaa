/* run, and the verbs of `gantry task`. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "cli/client.h"
#include "cli/file.h"
#include "cli/table.h"
#include "cli/verbs.h"
#include "codec/duration.h"
#include "codec/sse.h"
#include "codec/time_text.h"
#include "sys/clock.h"

#define INPUT_BYTES_MAX ((size_t)64 << 20)
#define WAIT_STEP_S 30
#define RECONNECT_MS 500
#define AWAY_MS 60000 /* a server that is started anew is waited for */

/* What Ctrl-C prints while a task is followed; written before the handler is set. */
static char interrupted_text[512];

static void on_interrupt(int signal)
{
    (void)signal;
    if (write(STDERR_FILENO, interrupted_text, strlen(interrupted_text)) < 0) _exit(EXIT_FAILED);
    _exit(EXIT_INTERRUPTED);
}

static void explain_interrupt(Str task_id)
{
    snprintf(
        interrupted_text, sizeof interrupted_text,
        "\ngantry: the task goes on; follow it with `gantry task watch %.*s`, end it with `gantry task cancel %.*s`\n",
        STR_ARG(task_id), STR_ARG(task_id));
    signal(SIGINT, on_interrupt);
}

static Str member(const Json *v, const char *key)
{
    return json_str(json_get(v, key));
}

static bool has_ended(Str status)
{
    static const char *const ended[] = { "succeeded", "failed", "timed_out", "canceled" };
    for (size_t i = 0; i < ARRAY_N(ended); i++)
        if (str_eq(status, str_of(ended[i]))) return true;
    return false;
}

/* --- output ----------------------------------------------------------------------------------- */

static void print_result(const Json *result)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, CLIENT_ANSWER_BYTES_MAX);
    if (json_type(result) == JSON_STRING) {
        fwrite(json_str(result).ptr, 1, json_str(result).len, stdout);
        putchar('\n');
        return;
    }
    JsonOut out = json_out(&text);
    json_out_value(&out, result);
    puts(text.ptr ? text.ptr : "");
}

static void say_end(const Json *task)
{
    const Json *usage = json_get(task, "usage"), *error = json_get(task, "error");
    Str status = member(task, "status");
    int64_t calls = json_i64_or(json_get(usage, "llmCalls"), 0),
            tools = json_i64_or(json_get(usage, "toolCalls"), 0);
    fprintf(stderr,
            "%.*s  attempt %" PRId64 "  %" PRId64 " model call%s  %" PRId64 " tool call%s  %" PRId64
            "+%" PRId64 " tokens  $%.*s\n",
            STR_ARG(status), json_i64_or(json_get(task, "attempt"), 0), calls,
            calls == 1 ? "" : "s", tools, tools == 1 ? "" : "s",
            json_i64_or(json_get(usage, "inputTokens"), 0),
            json_i64_or(json_get(usage, "outputTokens"), 0), STR_ARG(member(task, "costUsd")));
    const Json *below = json_get(task, "descendants");
    int64_t tasks = json_i64_or(json_get(below, "tasks"), 0);
    if (below)
        fprintf(stderr, "sub-agents: %" PRId64 " task%s, %" PRId64 " open, $%.*s\n", tasks,
                tasks == 1 ? "" : "s", json_i64_or(json_get(below, "open"), 0),
                STR_ARG(member(below, "costUsd")));
    if (error)
        fprintf(stderr, "%.*s: %.*s\n", STR_ARG(member(error, "code")),
                STR_ARG(member(error, "detail")));
}

static int print_end(const Client *client, const ClientAnswer *answer)
{
    Str status = member(answer->json, "status");
    bool ok = str_eq(status, STR("succeeded"));
    if (client->in->output != OUTPUT_TABLE) client_print_json(answer);
    else if (ok) print_result(json_get(answer->json, "result"));
    if (client->in->output == OUTPUT_TABLE || !ok) say_end(answer->json);
    if (!has_ended(status))
        return fail(EXIT_PENDING, "the task goes on; follow it with `gantry task watch %.*s`",
                    STR_ARG(member(answer->json, "taskId")));
    return ok ? EXIT_OK : EXIT_FAILED;
}

/* --- following -------------------------------------------------------------------------------- */

/* What an event says beside its type: words of whichever members it has. */
static void event_words(Buf *text, const Json *e)
{
    static const char *const words[] = { "text",      "provider", "model",  "tool",
                                         "source",    "mode",     "agent",  "subagentTaskId",
                                         "question",  "outcome",  "status", "state",
                                         "errorCode", "url",      "error",  "degraded" };
    for (size_t i = 0; i < ARRAY_N(words); i++) {
        const Json *v = json_get(e, words[i]);
        Str word = json_type(v) == JSON_STRING ? json_str(v)
                   : json_type(v) == JSON_INT  ? json_number_text(v)
                                               : STR_NULL;
        if (word.len) buf_printf(text, "%s%.*s", text->len ? " " : "", STR_ARG(word));
    }
    if (json_get(e, "inputTokens"))
        buf_printf(text, " %" PRId64 "+%" PRId64 " tokens",
                   json_i64_or(json_get(e, "inputTokens"), 0),
                   json_i64_or(json_get(e, "outputTokens"), 0));
    if (json_bool(json_get(e, "replayed"), false)) buf_printf(text, " replayed");
    if (json_bool(json_get(e, "cached"), false)) buf_printf(text, " cached");
}

/* What of a task that is followed is shown beside its states. */
typedef enum {
    FOLLOW_STATES,
    FOLLOW_ALL,  /* all that happens, to stderr */
    FOLLOW_LOGS, /* the lines of its log, to stdout, and no states */
} FollowKind;

/* A task that is followed: what was said of it. */
typedef struct {
    Client *client;
    Str id;
    int64_t deadline_ms;
    FollowKind kind;
    char last[32];
    bool ended;       /* it has said so */
    Buf last_id;      /* of the last event */
    Arena scratch;    /* of an event */
    ClientAnswer end; /* the task as it ended, when it has said so */
} Following;

static void following_deinit(Following *f)
{
    buf_deinit(&f->last_id);
    arena_deinit(&f->scratch);
}

static void say_question_wait(const Following *f)
{
    ClientAnswer answer;
    Str path = client_printf(f->client, "/agent/tasks/%.*s", STR_ARG(f->id));
    if (client_call_wait(f->client, "GET", path, STR_NULL, NULL, &answer) != EXIT_OK) return;
    Str question = member(json_get(answer.json, "escalation"), "question");
    if (question.len == 0) return; /* somebody was faster */
    fprintf(stderr, "it asks: %.*s\nanswer with `gantry task resolve %.*s ANSWER`\n",
            STR_ARG(question), STR_ARG(f->id));
}

/* Who waits should know it when nobody is there to begin. */
static void say_unserved_wait(const Following *f, const Json *task)
{
    ClientAnswer answer;
    Str lane = member(task, "priority");
    if (client_call_wait(f->client, "GET", STR("/api/queue"), STR_NULL, NULL, &answer) != EXIT_OK)
        return;
    for (JsonIter it = json_iter(json_get(answer.json, "lanes")); json_next(&it);)
        if (str_eq(member(it.value, "lane"), lane) &&
            json_i64_or(json_get(it.value, "capacity"), 1) == 0)
            fprintf(stderr,
                    "no worker takes %.*s tasks now: `gantry worker --server %s` runs one\n",
                    STR_ARG(lane), f->client->in->server);
}

/* Prints the state when it is another. */
static void say_state_wait(Following *f, const Json *task)
{
    Str status = member(task, "status");
    if (status.len == 0 || str_eq(status, str_of(f->last)) || has_ended(status)) return;
    str_copy(f->last, sizeof f->last, status);
    fprintf(stderr, "%.*s\n", STR_ARG(status));
    if (str_eq(status, STR("escalated"))) say_question_wait(f);
    if (str_eq(status, STR("queued"))) say_unserved_wait(f, task);
}

static void print_line(const Following *f, const Json *line, Str text)
{
    if (f->client->in->output == OUTPUT_TABLE)
        printf("%.*s  %.*s\n", STR_ARG(member(line, "at")), STR_ARG(member(line, "text")));
    else printf("%.*s\n", STR_ARG(text));
    fflush(stdout);
}

static void say_moment(const Json *e, Str type)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, CLIENT_ANSWER_BYTES_MAX);
    const Json *ms = json_get(e, "durationMs");
    Str usd = member(e, "costUsd");
    event_words(&text, e);
    if (ms) buf_printf(&text, " %" PRId64 " ms", json_i64_or(ms, 0));
    if (usd.len > 3) buf_printf(&text, " $%.*s", (int)usd.len - 3, usd.ptr);
    fprintf(stderr, "%.*s  %-17.*s %.*s\n", STR_ARG(str_sub(member(e, "at"), 11, 8)), STR_ARG(type),
            STR_ARG(buf_str(&text)));
}

/* A server that drains may be gone when it has told the end; a long result is not told with it. */
static void keep_end(Following *f, Str data)
{
    Arena *arena = &f->client->arena;
    f->end = (ClientAnswer){ .status = 200, .body = arena_str(arena, data) };
    int r = json_parse(arena, f->end.body, NULL, &f->end.json, NULL);
    bool bare = r == 0 && str_eq(member(f->end.json, "status"), STR("succeeded")) &&
                !json_get(f->end.json, "result");
    if (r < 0 || bare) f->end.json = NULL;
}

static void say_event_wait(Following *f, const SsePiece *piece)
{
    const Json *v = NULL;
    if (piece->has_id) {
        buf_clear(&f->last_id);
        buf_add(&f->last_id, piece->id);
    }
    arena_clear(&f->scratch);
    if (json_parse(&f->scratch, piece->data, NULL, &v, NULL) < 0) return;
    if (!str_eq(piece->event, STR("status"))) {
        if (f->kind == FOLLOW_ALL) say_moment(v, piece->event);
        if (f->kind == FOLLOW_LOGS && str_eq(piece->event, STR("log")))
            print_line(f, v, piece->data);
        return;
    }
    f->ended = has_ended(member(v, "status"));
    if (f->ended) keep_end(f, piece->data);
    if (f->kind != FOLLOW_LOGS) say_state_wait(f, v);
}

/* Says what a stream of events tells. False: it was over before it had told anything. */
static bool stream_read_wait(Following *f, HttpCall *call)
{
    SseParser sse;
    Str chunk;
    bool told = false;
    int r = 0;
    sse_init(&sse, 0);
    while (r >= 0 && http_call_read_wait(call, f->deadline_ms, &chunk) == 0) {
        SsePiece piece;
        while ((r = sse_next(&sse, &chunk, &piece)) == SSE_EVENT || r == SSE_OTHER) {
            if (r == SSE_EVENT) say_event_wait(f, &piece);
            told |= r == SSE_EVENT;
        }
    }
    sse_deinit(&sse);
    return told;
}

/* The server was there, and has the task: when it is gone it is started anew. */
static void be_patient(Client *client)
{
    int64_t left_ms = client->in->timeout_ms;
    client->away_ms = left_ms > 0 ? MIN(left_ms, AWAY_MS) : AWAY_MS;
}

/* Prints what is told until the task has ended, of a server that is started anew from where the one
 * before was; how that ended does not matter, the answer is read by itself afterwards. Returns
 * EXIT_OK, or why there is no stream. */
static int follow_wait(Following *f)
{
    Client *client = f->client;
    Str path = client_printf(client, "/api/tasks/%.*s/events", STR_ARG(f->id));
    buf_init(&f->last_id, SSE_ID_BYTES_MAX);
    arena_init(&f->scratch, CLIENT_ANSWER_BYTES_MAX);
    while (!f->ended && clock_mono_ms() < f->deadline_ms) {
        CLEANUP(http_call_freep) HttpCall *call = NULL;
        int r = client_events_wait(client, path, buf_str(&f->last_id), &call);
        if (r != EXIT_OK) return r;
        if (!call) return EXIT_OK;
        be_patient(client);
        if (!stream_read_wait(f, call) && fiber_sleep_wait(RECONNECT_MS) < 0) return EXIT_OK;
    }
    return EXIT_OK;
}

static int end_wait(Client *client, Str id, FollowKind kind)
{
    int64_t deadline_ms = client->in->timeout_ms ? deadline_after(client->in->timeout_ms)
                                                 : DEADLINE_NONE;
    ClientAnswer answer;
    CLEANUP(following_deinit)
    Following f = { .client = client, .id = id, .deadline_ms = deadline_ms, .kind = kind };
    explain_interrupt(id);
    int r = follow_wait(
        &f); /* of a task that was taken in just now trouble with it is no failure */
    if (r != EXIT_OK && (r != EXIT_FAILED || client->away_ms == 0)) return r;
    if (f.end.json) {
        client->away_ms = 0;
        client->quiet = true;
    } else be_patient(client);
    for (;;) {
        int64_t left_s = deadline_ms == DEADLINE_NONE
                             ? WAIT_STEP_S
                             : MIN(WAIT_STEP_S, (deadline_ms - clock_mono_ms()) / 1000);
        Str path = client_printf(client, "/agent/tasks/%.*s?wait=%" PRId64 "s", STR_ARG(id),
                                 MAX(left_s, 0));
        r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
        if (r == EXIT_FAILED && f.end.json) return print_end(client, &f.end);
        if (r == EXIT_FAILED) fail(0, "the task may go on; `gantry task watch %.*s`", STR_ARG(id));
        if (r != EXIT_OK) return r;
        say_state_wait(&f, answer.json);
        if (has_ended(member(answer.json, "status")) || left_s <= 0)
            return print_end(client, &answer);
    }
}

/* --- run -------------------------------------------------------------------------------------- */

static int read_input(Client *client, Str *ret)
{
    const char *arg = client->in->args_n > 1 ? client->in->args[1] : NULL;
    if (!arg && isatty(STDIN_FILENO)) {
        *ret = STR("{}");
        return 0;
    }
    if (arg && strcmp(arg, "-") != 0) {
        *ret = str_of(arg);
        return 0;
    }
    return file_read(&client->arena, "-", INPUT_BYTES_MAX, ret);
}

/* Whether the text was meant as a JSON object and is none, with diag. */
static bool broken_json(Client *client, Str text)
{
    Str trimmed = str_trim(text);
    const Json *v = NULL;
    if (!str_starts_with(trimmed, STR("{")) || str_starts_with(trimmed, STR("{{"))) return false;
    return json_parse(&client->arena, trimmed, NULL, &v, NULL) == -EINVAL;
}

/* A value as JSON: itself when it is JSON (so true and 7 are no texts), else a string of it. */
static void write_value(Client *client, JsonOut *out, const char *key, Str text)
{
    const Json *v = NULL;
    Str trimmed = str_trim(text);
    json_out_key(out, key);
    if (trimmed.len && json_parse(&client->arena, trimmed, NULL, &v, NULL) == 0)
        json_out_raw(out, trimmed);
    else json_out_str(out, text);
}

/* The input as JSON: itself when it is an object or array, else a string of it. */
static void write_input(Client *client, JsonOut *out, Str input)
{
    const Json *v = NULL;
    Str trimmed = str_trim(input);
    bool structured = trimmed.len && (trimmed.ptr[0] == '{' || trimmed.ptr[0] == '[');
    json_out_key(out, "input");
    if (structured && json_parse(&client->arena, trimmed, NULL, &v, NULL) == 0)
        json_out_raw(out, trimmed);
    else json_out_str(out, input);
}

static int run_body(Client *client)
{
    const Invocation *in = client->in;
    CLEANUP(buf_deinit) Buf body = { 0 };
    Str input;
    ClientAnswer answer;
    if (read_input(client, &input) < 0) return fail(EXIT_FAILED, "%s", diag_text());
    if (broken_json(client, input))
        fail(0, "the input begins like a JSON object and is none, so it is sent as text: %s",
             diag_text());
    buf_init(&body, 2 * INPUT_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "agent", in->args[0]);
    write_input(client, &out, input);
    if (flag(in, "priority")) json_out_kcstr(&out, "priority", flag(in, "priority"));
    if (flag(in, "session")) json_out_kcstr(&out, "sessionId", flag(in, "session"));
    if (flag(in, "user")) json_out_kcstr(&out, "userId", flag(in, "user"));
    if (flag(in, "version-id")) json_out_kcstr(&out, "versionId", flag(in, "version-id"));
    if (flag(in, "deadline")) json_out_kcstr(&out, "deadline", flag(in, "deadline"));
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_FAILED, "the input is too large");
    ClientRequest q = { .method = "POST", .path = STR("/agent/execute"), .body = buf_str(&body) };
    if (flag(in, "key-once"))
        q.extra[q.extra_n++] = (HttpClientField){ "Idempotency-Key", str_of(flag(in, "key-once")) };
    int r = client_request_wait(client, &q, &answer);
    if (r != EXIT_OK) return r;
    Str id = member(answer.json, "taskId");
    if (flag_given(in, "detach")) {
        if (in->output != OUTPUT_TABLE) client_print_json(&answer);
        else printf("%.*s\n", STR_ARG(id));
        return EXIT_OK;
    }
    fprintf(stderr, "task %.*s  %.*s@%.12s\n", STR_ARG(id), STR_ARG(member(answer.json, "agent")),
            member(answer.json, "versionId").ptr);
    be_patient(client);
    return end_wait(client, id, flag_given(in, "follow") ? FOLLOW_ALL : FOLLOW_STATES);
}

int run_run(const Invocation *in)
{
    return client_main(in, run_body);
}

/* --- task ... --------------------------------------------------------------------------------- */

static Str cost_cell(Client *client, const Json *task)
{
    Str usd = member(task, "costUsd");
    return usd.len > 3 ? client_printf(client, "$%.*s", (int)usd.len - 3, usd.ptr) : STR("-");
}

static int task_list_body(Client *client)
{
    static const char *const names[] = { "TASK",    "AGENT",   "VERSION", "LANE", "STATUS",
                                         "ATTEMPT", "CREATED", "COST",    NULL };
    const Invocation *in = client->in;
    CLEANUP(buf_deinit) Buf path = { 0 };
    ClientAnswer answer;
    Table table;
    buf_init(&path, 4096);
    buf_printf(&path, "/api/tasks?limit=%s", flag(in, "limit") ? flag(in, "limit") : "20");
    if (flag(in, "status"))
        buf_printf(&path, "&status=%.*s", STR_ARG(client_encoded(client, flag(in, "status"))));
    if (flag(in, "agent"))
        buf_printf(&path, "&agent=%.*s", STR_ARG(client_encoded(client, flag(in, "agent"))));
    int r = client_call_wait(client, "GET", buf_str(&path), STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (in->output == OUTPUT_JSON) client_print_json(&answer);
    if (in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "tasks");
    if (in->output != OUTPUT_TABLE) return EXIT_OK;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(answer.json, "tasks")); json_next(&it);) {
        Str attempt = client_printf(client, "%" PRId64,
                                    json_i64_or(json_get(it.value, "attempt"), 0));
        table_add(&table, (Str[]){ member(it.value, "taskId"), member(it.value, "agent"),
                                   str_sub(member(it.value, "versionId"), 0, 12),
                                   member(it.value, "priority"), member(it.value, "status"),
                                   attempt, str_sub(member(it.value, "createdAt"), 0, 19),
                                   cost_cell(client, it.value) });
    }
    table_print(&table);
    return EXIT_OK;
}

static Str task_path(Client *client, const char *before, const char *after)
{
    return client_printf(client, "%s%.*s%s", before,
                         STR_ARG(client_encoded(client, client->in->args[0])), after);
}

static void print_fields(const Json *task)
{
    for (JsonIter it = json_iter(task); json_next(&it);) {
        if (json_type(it.value) == JSON_NULL) continue;
        printf("%-16.*s ", STR_ARG(it.key));
        print_result(it.value);
    }
}

static int task_get_body(Client *client)
{
    ClientAnswer answer;
    int r = client_call_wait(client, "GET", task_path(client, "/agent/tasks/", ""), STR_NULL, NULL,
                             &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_TABLE) print_fields(answer.json);
    else client_print_json(&answer);
    return EXIT_OK;
}

static int task_watch_body(Client *client)
{
    return end_wait(client, client_encoded(client, client->in->args[0]), FOLLOW_ALL);
}

static int task_post(Client *client, const char *id, const char *verb, Str body, const char *done)
{
    ClientAnswer answer;
    Str path = client_printf(client, "/api/tasks/%.*s%s", STR_ARG(client_encoded(client, id)),
                             verb);
    int r = client_call_wait(client, "POST", path, body, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_TABLE)
        printf("%s %s: %.*s\n", done, id, STR_ARG(member(answer.json, "status")));
    else client_print_json(&answer);
    return EXIT_OK;
}

static int task_cancel_body(Client *client)
{
    return task_post(client, client->in->args[0], "/cancel", STR(""), "cancel");
}

/* What says which tasks; false: nothing does. */
static bool retry_filter(const Invocation *in, JsonOut *out, int64_t ago_ms)
{
    static const char *const flags[][2] = { { "status", "status" },
                                            { "agent", "agent" },
                                            { "version", "versionId" },
                                            { "error", "errorCode" } };
    bool said = false;
    char at[TIME_TEXT_MAX];
    for (size_t i = 0; i < ARRAY_N(flags); i++) {
        const char *value = flag(in, flags[i][0]);
        if (value) json_out_kcstr(out, flags[i][1], value);
        said |= value != NULL;
    }
    if (ago_ms > 0) json_out_kcstr(out, "since", time_format(clock_real_ms() - ago_ms, at));
    if (flag_given(in, "all")) json_out_kbool(out, "all", true);
    return said || ago_ms > 0 || flag_given(in, "all");
}

/* What was done by several requests. */
typedef struct {
    int64_t ago_ms, limit; /* limit 0: all */
    int64_t retried, skipped;
    bool more, full;
    char cursor[64]; /* where to go on */
} Retrying;

#define RETRY_PART_MAX 1000

static int retry_read(const Invocation *in, Retrying *ret)
{
    const char *since = flag(in, "since"), *limit = flag(in, "limit"), *cursor = flag(in, "cursor");
    *ret = (Retrying){ .limit = 0 };
    if (since && duration_parse(str_of(since), &ret->ago_ms) < 0)
        return fail(EXIT_USAGE, "--since is a duration such as 2h");
    if (limit && (str_to_i64(str_of(limit), &ret->limit) < 0 || ret->limit < 1))
        return fail(EXIT_USAGE, "--limit is a number, at least 1");
    if (cursor && !str_copy(ret->cursor, sizeof ret->cursor, str_of(cursor)))
        return fail(EXIT_USAGE, "--cursor is what another `gantry task retry` has said");
    return EXIT_OK;
}

/* One request: as many as one may ask for. */
static int retry_part(Client *client, Retrying *done)
{
    const Invocation *in = client->in;
    CLEANUP(buf_deinit) Buf body = { 0 };
    ClientAnswer answer;
    int64_t left = done->limit ? done->limit - done->retried : RETRY_PART_MAX;
    buf_init(&body, 65536);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    if (!retry_filter(in, &out, done->ago_ms))
        return fail(EXIT_USAGE, "name tasks, or say which: --status, --agent, --version, --error, "
                                "--since, --all");
    json_out_ki64(&out, "limit", MIN(left, RETRY_PART_MAX));
    if (done->cursor[0]) json_out_kcstr(&out, "cursor", done->cursor);
    if (flag_given(in, "fresh")) json_out_kbool(&out, "fresh", true);
    if (flag_given(in, "dry-run")) json_out_kbool(&out, "dryRun", true);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_USAGE, "a name is too long");
    int r = client_call_wait(client, "POST", STR("/api/tasks/retry"), buf_str(&body), NULL,
                             &answer);
    if (r != EXIT_OK) return r;
    done->retried += json_i64_or(json_get(answer.json, "retried"), 0);
    done->skipped += json_i64_or(json_get(answer.json, "skipped"), 0);
    done->more = json_bool(json_get(answer.json, "more"), false);
    done->full = json_bool(json_get(answer.json, "full"), false);
    str_copy(done->cursor, sizeof done->cursor, json_str(json_get(answer.json, "nextCursor")));
    return EXIT_OK;
}

static void retry_print_json(const Retrying *done)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, 4096);
    JsonOut out = json_out(&text);
    json_out_object(&out);
    json_out_ki64(&out, "retried", done->retried);
    json_out_ki64(&out, "skipped", done->skipped);
    json_out_kbool(&out, "more", done->more);
    json_out_kbool(&out, "full", done->full);
    json_out_kstr_or_null(&out, "nextCursor", str_of(done->cursor));
    json_out_object_end(&out);
    printf("%.*s\n", STR_ARG(buf_str(&text)));
}

/* Until none is left or as many are retried as were asked for; what finds no place in a full lane
 * is left, and keeps nobody from going on with the other lanes. When it ends before that it says
 * where to go on: what was retried is queued, and is not found again from there. */
static int retry_many(Client *client)
{
    const Invocation *in = client->in;
    bool table = in->output == OUTPUT_TABLE;
    Retrying done;
    int64_t before;
    int r = retry_read(in, &done);
    if (r != EXIT_OK) return r;
    do {
        before = done.retried;
        r = retry_part(client, &done);
        if (r != EXIT_OK && done.cursor[0])
            return fail(r, "%" PRId64 " retried; go on with `--cursor %s`", done.retried,
                        done.cursor);
        if (r != EXIT_OK) return r;
        if (table && done.more) fprintf(stderr, "%" PRId64 " ...\n", done.retried);
    } while (done.more && (!done.full || done.retried - before == RETRY_PART_MAX) &&
             (!done.limit || done.retried < done.limit));
    if (!table) retry_print_json(&done);
    else
        printf("%" PRId64 " %s%s%s%s\n", done.retried,
               flag_given(in, "dry-run") ? "would be retried" : "retried",
               done.full ? "; a lane is full" : "",
               done.more ? "; there are more: go on with --cursor " : "", done.cursor);
    return EXIT_OK;
}

static int task_retry_body(Client *client)
{
    const Invocation *in = client->in;
    Str body = flag_given(in, "fresh") ? STR("{\"fresh\":true}") : STR("");
    int result = EXIT_OK;
    if (in->args_n == 0) return retry_many(client);
    for (size_t i = 0; i < (size_t)in->args_n; i++) {
        int r = task_post(client, in->args[i], "/retry", body, "retry");
        if (r != EXIT_OK) result = r;
    }
    return result;
}

static int task_resolve_body(Client *client)
{
    const Invocation *in = client->in;
    CLEANUP(buf_deinit) Buf body = { 0 };
    Str answer = str_of(in->args[1]);
    if (strcmp(in->args[1], "-") == 0 &&
        file_read(&client->arena, "-", INPUT_BYTES_MAX, &answer) < 0)
        return fail(EXIT_FAILED, "%s", diag_text());
    if (broken_json(client, answer))
        return fail(EXIT_USAGE, "the answer begins like a JSON object and is none: %s",
                    diag_text());
    buf_init(&body, 2 * INPUT_BYTES_MAX);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    write_value(client, &out, "answer", answer);
    client_put_actor(client, &out);
    json_out_object_end(&out);
    if (!json_out_ok(&out)) return fail(EXIT_FAILED, "the answer is too large");
    return task_post(client, in->args[0], "/resolve", buf_str(&body), "resolve");
}

static int logs_follow(Client *client)
{
    int64_t timeout_ms = client->in->timeout_ms;
    CLEANUP(following_deinit)
    Following f = { .client = client,
                    .id = client_encoded(client, client->in->args[0]),
                    .deadline_ms = timeout_ms ? deadline_after(timeout_ms) : DEADLINE_NONE,
                    .kind = FOLLOW_LOGS };
    int r = follow_wait(&f);
    return r == EXIT_OK && !f.ended ? EXIT_PENDING : r;
}

/* All pages; as JSON the first, which says where the next begins. */
static int task_logs_body(Client *client)
{
    if (flag_given(client->in, "follow")) return logs_follow(client);
    Str path = task_path(client, "/api/tasks/", "/logs"), after = STR_NULL;
    do {
        ClientAnswer answer;
        Str page = after.len
                       ? client_printf(client, "%.*s?after=%.*s", STR_ARG(path), STR_ARG(after))
                       : path;
        int r = client_call_wait(client, "GET", page, STR_NULL, NULL, &answer);
        if (r != EXIT_OK) return r;
        after = member(answer.json, "nextAfter");
        if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
        if (client->in->output == OUTPUT_JSON) return EXIT_OK;
        if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "entries");
        else
            for (JsonIter it = json_iter(json_get(answer.json, "entries")); json_next(&it);)
                printf("%.*s  %.*s\n", STR_ARG(member(it.value, "at")),
                       STR_ARG(member(it.value, "text")));
    } while (after.len);
    return EXIT_OK;
}

static Str number_cell(Client *client, const Json *v, const char *key)
{
    return client_printf(client, "%" PRId64, json_i64_or(json_get(v, key), 0));
}

static Str event_text(Client *client, const Json *e)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, CLIENT_ANSWER_BYTES_MAX);
    event_words(&text, e);
    return client_printf(client, "%.*s", (int)MIN(text.len, 300), text.ptr ? text.ptr : "");
}

static Str duration_cell(Client *client, const Json *e)
{
    const Json *ms = json_get(e, "durationMs");
    return ms ? client_printf(client, "%" PRId64 " ms", json_i64_or(ms, 0)) : STR("-");
}

static void timeline_print(Client *client, const Json *timeline)
{
    static const char *const names[] = { "AT", "ATTEMPT", "WHAT", "TOOK", "COST", "DETAIL", NULL };
    Table table;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(timeline, "events")); json_next(&it);) {
        Str attempt = json_get(it.value, "attempt") ? number_cell(client, it.value, "attempt")
                                                    : STR("-");
        table_add(&table, (Str[]){ member(it.value, "at"), attempt, member(it.value, "type"),
                                   duration_cell(client, it.value), cost_cell(client, it.value),
                                   event_text(client, it.value) });
    }
    table_print(&table);
    if (json_bool(json_get(timeline, "truncated"), false)) printf("there is more\n");
}

static int task_timeline_body(Client *client)
{
    ClientAnswer answer;
    int r = client_call_wait(client, "GET", task_path(client, "/api/tasks/", "/timeline"), STR_NULL,
                             NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSON) client_print_json(&answer);
    if (client->in->output == OUTPUT_JSONL) client_print_jsonl(&answer, "events");
    if (client->in->output == OUTPUT_TABLE) timeline_print(client, answer.json);
    return EXIT_OK;
}

static void journal_print(Client *client, const Json *journal)
{
    static const char *const names[] = { "NUMBER", "AT",     "ATTEMPT", "KIND",
                                         "NAME",   "ANSWER", "STATE",   NULL };
    Table table;
    table_init(&table, &client->arena, names);
    for (JsonIter it = json_iter(json_get(journal, "recordings")); json_next(&it);) {
        bool complete = json_bool(json_get(it.value, "complete"), false);
        table_add(&table,
                  (Str[]){ number_cell(client, it.value, "number"), member(it.value, "at"),
                           number_cell(client, it.value, "attempt"), member(it.value, "kind"),
                           member(it.value, "name"), number_cell(client, it.value, "answerBytes"),
                           complete ? STR("complete") : STR("incomplete") });
    }
    table_print(&table);
    printf("%.*s calls replayed, %.*s made anew%s\n",
           STR_ARG(number_cell(client, journal, "replayedCalls")),
           STR_ARG(number_cell(client, journal, "missedCalls")),
           json_bool(json_get(journal, "full"), false) ? "; the journal is full" : "");
}

static int task_journal_body(Client *client)
{
    ClientAnswer answer;
    const char *number = client->in->args_n > 1 ? client->in->args[1] : NULL;
    Str path = task_path(client, "/api/tasks/", "/journal");
    if (number)
        path = client_printf(client, "%.*s/%.*s", STR_ARG(path),
                             STR_ARG(client_encoded(client, number)));
    int r = client_call_wait(client, "GET", path, STR_NULL, NULL, &answer);
    if (r != EXIT_OK) return r;
    if (client->in->output == OUTPUT_JSONL && !number) client_print_jsonl(&answer, "recordings");
    else if (client->in->output != OUTPUT_TABLE) client_print_json(&answer);
    else if (number) print_fields(answer.json);
    else journal_print(client, answer.json);
    return EXIT_OK;
}

int task_list_run(const Invocation *in)
{
    return client_main(in, task_list_body);
}

int task_get_run(const Invocation *in)
{
    return client_main(in, task_get_body);
}

int task_watch_run(const Invocation *in)
{
    return client_main(in, task_watch_body);
}

int task_cancel_run(const Invocation *in)
{
    return client_main(in, task_cancel_body);
}

int task_retry_run(const Invocation *in)
{
    return client_main(in, task_retry_body);
}

int task_resolve_run(const Invocation *in)
{
    return client_main(in, task_resolve_body);
}

int task_logs_run(const Invocation *in)
{
    return client_main(in, task_logs_body);
}

int task_timeline_run(const Invocation *in)
{
    return client_main(in, task_timeline_body);
}

int task_journal_run(const Invocation *in)
{
    return client_main(in, task_journal_body);
}
