#include "worker/mcp.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/base64.h"
#include "codec/mcp.h"
#include "codec/sse.h"
#include "logic/tool_check.h"
#include "sys/clock.h"
#include "worker/child.h"

#define MESSAGE_BYTES_MAX ((size_t)4 << 20)
#define REQUEST_BYTES_MAX ((size_t)2 << 20)
#define PAGES_MAX 64
#define SESSION_ID_BYTES_MAX 512
#define NOTICE_MS 500 /* for what is only polite */
#define FIELDS_MAX (TOOL_HEADERS_MAX + 8)
#define SHOWN_BYTES_MAX 4000

/* Outcomes inside this file, beside 0 and -errno with diag. */
#define MCP_E_SET 1  /* the call's result is set */
#define MCP_E_GONE 2 /* the server has forgotten the session: begin another */

typedef struct {
    ListNode node; /* on run->mcp_sessions; not linked: dropped, and freed by the last user */
    Run *run;
    const Tool *tool; /* whose server it is; of the version */
    size_t users;
    bool ready, taken; /* greeted; a fiber greets it, or has its pipes */
    Cond changed;
    bool stateless;
    char id[SESSION_ID_BYTES_MAX + 1]; /* "": none */
    char version[16];
    int64_t last_id;

    /* of a command */
    Process *process;
    Buf held; /* of its stdout, from the start of a line */
    FiberRef err_reader;
} McpSession;

/* One call of a tool in its session. */
typedef struct {
    ToolCall *call;
    McpSession *session;
    int64_t deadline_ms;
    bool took; /* it had its turn: what it left behind may spoil the session */
} Talk;

/* --- over HTTP -------------------------------------------------------------------------------- */

/* Header values that are not plain ASCII are written in base64. */
static Str header_text(Arena *arena, Str text)
{
    bool plain = true;
    for (size_t i = 0; i < text.len; i++) plain &= text.ptr[i] > 0x20 && text.ptr[i] < 0x7f;
    if (plain) return text;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 4096);
    buf_add(&buf, STR("=?base64?"));
    (void)!base64_add(&buf, text); /* .failed says so */
    buf_add(&buf, STR("?="));
    return buf.failed ? STR_NULL : arena_str(arena, buf_str(&buf));
}

static int fields_make(Talk *t, const McpRequest *request, HttpClientField *fields, size_t *n)
{
    const McpSession *s = t->session;
    fields[(*n)++] = (HttpClientField){ "content-type", STR("application/json") };
    fields[(*n)++] = (HttpClientField){ "accept", STR("application/json, text/event-stream") };
    if (s->version[0])
        fields[(*n)++] = (HttpClientField){ "mcp-protocol-version", str_of(s->version) };
    if (s->id[0]) fields[(*n)++] = (HttpClientField){ "mcp-session-id", str_of(s->id) };
    if (s->stateless && request) {
        Str name = header_text(t->call->arena, request->name);
        if (request->name.len && !name.ptr) return -ENOMEM;
        fields[(*n)++] = (HttpClientField){ "mcp-method",
                                            str_of(mcp_method_name(request->method)) };
        if (name.len) fields[(*n)++] = (HttpClientField){ "mcp-name", name };
    }
    return tool_headers(t->call, fields, n);
}

/* request NULL: a notice, or an answer. */
static int post_wait(Talk *t, const McpRequest *request, Str body, int64_t deadline_ms,
                     HttpCall **ret)
{
    HttpClientField fields[FIELDS_MAX];
    HttpCallOptions options = { .method = STR("POST"),
                                .url = t->session->tool->url,
                                .fields = fields,
                                .body = body,
                                .deadline_ms = deadline_ms,
                                .guard = t->call->run->host->guard };
    int r = fields_make(t, request, fields, &options.fields_n);
    return r < 0 ? r : http_call_open_wait(t->call->run->host->client, &options, ret);
}

static void http_notice_wait(Talk *t, Str body)
{
    HttpCall *answer = NULL;
    int r = post_wait(t, NULL, body, MIN(deadline_after(NOTICE_MS), t->deadline_ms), &answer);
    http_call_free(answer);
    if (r < 0) LOG_DEBUG("an MCP server did not take a notice", LOG_CSTR("why", diag_text_or(r)));
}

static size_t bytes_max(const Talk *t)
{
    return MAX(MESSAGE_BYTES_MAX, 2 * (size_t)t->call->tool->output_bytes_max + 65536);
}

static int all_read_wait(Talk *t, HttpCall *answer, Buf *out)
{
    for (;;) {
        Str piece;
        int r = http_call_read_wait(answer, t->deadline_ms, &piece);
        if (r == HTTP_CALL_E_END) return 0;
        if (r == HTTP_CALL_E_CUT) return diag_set(-ECONNRESET, "the answer was cut off");
        if (r < 0) return r;
        if (!buf_add(out, piece)) return -EMSGSIZE;
    }
}

static int message_parse(Arena *arena, Str text, McpMessage *ret)
{
    const Json *v;
    Str copy = arena_str(arena, text); /* values borrow from it */
    if (!copy.ptr) return -ENOMEM;
    int r = json_parse(arena, copy, NULL, &v, NULL);
    if (r == -EINVAL) return diag_set(-EPROTO, "the server's answer is not JSON");
    if (r == 0) r = mcp_message_read(v, ret);
    return r == -EINVAL ? -EPROTO : r;
}

static int plain_read_wait(Talk *t, HttpCall *answer, int64_t id, McpMessage *ret)
{
    CLEANUP(buf_deinit) Buf body;
    int status = http_call_status(answer);
    buf_init(&body, bytes_max(t));
    int r = all_read_wait(t, answer, &body);
    if (r < 0) return r;
    r = message_parse(t->call->arena, buf_str(&body), ret);
    if (status >= 400 && (r < 0 || ret->kind != MCP_ERROR))
        return diag_set(-EPROTO, "the server answered HTTP %d: %.*s", status,
                        STR_ARG(str_sub(buf_str(&body), 0, 500)));
    if (r < 0) return r;
    bool ours = mcp_message_answers(ret, id) || (status >= 400 && ret->kind == MCP_ERROR);
    return ours ? 0 : diag_set(-EPROTO, "the server answered another request");
}

static void asked_wait(Talk *t, const McpMessage *message)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 65536);
    JsonOut out = json_out(&body);
    mcp_answer_write(&out, message->id, message->method);
    if (json_out_ok(&out)) http_notice_wait(t, buf_str(&body));
}

/* The pieces of one chunk. Returns 0 with *ret_done when the answer was among them. */
static int events_take_wait(Talk *t, SseParser *parser, Str chunk, int64_t id, McpMessage *ret,
                            bool *ret_done)
{
    SsePiece piece;
    int r;
    while ((r = sse_next(parser, &chunk, &piece)) == SSE_EVENT || r == SSE_OTHER) {
        if (r == SSE_OTHER || str_empty(str_trim(piece.data))) continue;
        int e = message_parse(t->call->arena, piece.data, ret);
        if (e < 0) return e;
        if (mcp_message_answers(ret, id)) {
            *ret_done = true;
            return 0;
        }
        if (ret->kind == MCP_ASKED) asked_wait(t, ret);
    }
    return r < 0 ? r : 0;
}

static int events_read_wait(Talk *t, HttpCall *answer, int64_t id, McpMessage *ret)
{
    CLEANUP(sse_deinit) SseParser parser;
    size_t left = 4 * bytes_max(t);
    bool done = false;
    sse_init(&parser, bytes_max(t));
    while (!done) {
        Str chunk;
        int r = http_call_read_wait(answer, t->deadline_ms, &chunk);
        if (r > 0) return diag_set(-ECONNRESET, "the server ended its answer too early");
        if (r < 0) return r;
        if (chunk.len > left) return -EMSGSIZE;
        left -= chunk.len;
        r = events_take_wait(t, &parser, chunk, id, ret, &done);
        if (r < 0) return r;
    }
    return 0;
}

static void session_note(McpSession *s, const HttpCall *answer)
{
    Str id = http_call_field(answer, "mcp-session-id");
    if (!s->ready && id.len <= SESSION_ID_BYTES_MAX) str_copy(s->id, sizeof s->id, id);
}

static int http_ask_wait(Talk *t, const McpRequest *request, Str body, McpMessage *ret)
{
    CLEANUP(http_call_freep) HttpCall *answer = NULL;
    Str type;
    int r = post_wait(t, request, body, t->deadline_ms, &answer);
    if (r < 0) return r;
    int status = http_call_status(answer);
    if (status == 404 && t->session->id[0]) return MCP_E_GONE;
    session_note(t->session, answer);
    str_split(http_call_field(answer, "content-type"), ';', &type, NULL);
    if (status == 200 && str_eq_nocase(str_trim(type), STR("text/event-stream")))
        return events_read_wait(t, answer, request->id, ret);
    return plain_read_wait(t, answer, request->id, ret);
}

/* --- over pipes ------------------------------------------------------------------------------- */

/* Lines of stderr go to the task's log. */
static int err_main(void *arg)
{
    McpSession *s = arg;
    Stream *stream = process_stderr(s->process);
    size_t have = 0;
    Str got;
    int r;
    while ((r = stream_fill_wait(stream, have, DEADLINE_NONE, &got)) == 0 || r == -ENOBUFS) {
        ptrdiff_t end = str_find_char(got, '\n');
        bool cut = end < 0 && r == -ENOBUFS; /* longer than any line should be */
        have = end < 0 && !cut ? got.len : 0;
        if (have) continue;
        Str line = str_sub(got, 0, end < 0 ? got.len : (size_t)end);
        task_log_add(&s->run->log, TASK_LOG_STDERR, str_sub(line, 0, LOG_LINE_BYTES_MAX));
        stream_consume(stream, end < 0 ? got.len : (size_t)end + 1);
        if (fiber_yield_wait() < 0) break;
    }
    return 0;
}

static int pipe_open_wait(McpSession *s)
{
    char group[CGROUP_PATH_MAX]; /* ends with the run */
    int r = child_start_wait(s->run, s->tool->command, s->tool->command_n, false, group,
                             &s->process);
    if (r < 0) return r;
    buf_init(&s->held, 4 * MESSAGE_BYTES_MAX);
    return fiber_spawn("mcp stderr", err_main, s, &s->err_reader);
}

static int pipe_write_wait(McpSession *s, Str body, int64_t deadline_ms)
{
    Str pieces[] = { body, STR("\n") };
    return stream_write_wait(process_stdin(s->process), pieces, 2, deadline_ms);
}

/* The next line of stdout. */
static int line_read_wait(Talk *t, Arena *arena, Str *ret)
{
    McpSession *s = t->session;
    Stream *stream = process_stdout(s->process);
    ptrdiff_t end;
    while ((end = str_find_char(buf_str(&s->held), '\n')) < 0) {
        Str got;
        if (s->held.len > bytes_max(t)) return -EMSGSIZE;
        int r = stream_fill_wait(stream, 0, t->deadline_ms, &got);
        if (r == STREAM_E_EOF) return diag_set(-ECONNRESET, "the server has ended");
        if (r < 0) return r;
        if (!buf_add(&s->held, got)) return -EMSGSIZE;
        stream_consume(stream, got.len);
    }
    *ret = arena_str(arena, str_sub(buf_str(&s->held), 0, (size_t)end));
    buf_drop(&s->held, (size_t)end + 1);
    return ret->ptr ? 0 : -ENOMEM;
}

static int pipe_answer_wait(Talk *t, const McpMessage *message)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 65536);
    JsonOut out = json_out(&body);
    mcp_answer_write(&out, message->id, message->method);
    return json_out_ok(&out) ? pipe_write_wait(t->session, buf_str(&body), t->deadline_ms) : 0;
}

/* One line. What a server writes to stdout beside messages is passed over: some log there. However
 * much it is, only the answer is kept. */
static int pipe_line_wait(Talk *t, int64_t id, McpMessage *ret, bool *ret_done)
{
    CLEANUP(arena_deinit) Arena scratch;
    McpMessage message;
    Str line;
    arena_init(&scratch, 20 * bytes_max(t));
    int r = line_read_wait(t, &scratch, &line);
    if (r < 0) return r;
    r = message_parse(&scratch, line, &message);
    if (r == -EPROTO) return 0;
    *ret_done = r == 0 && mcp_message_answers(&message, id);
    if (*ret_done) return message_parse(t->call->arena, line, ret);
    return r == 0 && message.kind == MCP_ASKED ? pipe_answer_wait(t, &message) : r;
}

static int pipe_ask_wait(Talk *t, const McpRequest *request, Str body, McpMessage *ret)
{
    bool done = false;
    int r = pipe_write_wait(t->session, body, t->deadline_ms);
    while (r == 0 && !done) r = pipe_line_wait(t, request->id, ret, &done);
    return r;
}

/* --- either way ------------------------------------------------------------------------------- */

static void notice_wait(Talk *t, void (*write)(JsonOut *out, int64_t id), int64_t id)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 4096);
    JsonOut out = json_out(&body);
    write(&out, id);
    if (!t->session->process) http_notice_wait(t, buf_str(&body));
    else if (pipe_write_wait(t->session, buf_str(&body), deadline_after(NOTICE_MS)) < 0)
        LOG_DEBUG("an MCP server did not take a notice");
}

static void initialized_write(JsonOut *out, int64_t id)
{
    (void)id;
    mcp_initialized_write(out);
}

/* Asks, and waits for the answer: a result or an error. Returns 0, MCP_E_GONE or -errno. */
static int ask_wait(Talk *t, McpRequest *request, McpMessage *ret)
{
    CLEANUP(buf_deinit) Buf body;
    McpSession *s = t->session;
    buf_init(&body, REQUEST_BYTES_MAX);
    JsonOut out = json_out(&body);
    request->id = ++s->last_id;
    request->stateless = s->stateless;
    mcp_request_write(&out, request);
    if (!json_out_ok(&out)) return diag_set(-EMSGSIZE, "the arguments are too large");
    int r = s->process ? pipe_ask_wait(t, request, buf_str(&body), ret)
                       : http_ask_wait(t, request, buf_str(&body), ret);
    /* leaving is not enough to end a call, says the revision with sessions */
    if (r == -ETIMEDOUT && s->ready && !s->stateless) {
        t->deadline_ms = deadline_after(NOTICE_MS);
        notice_wait(t, mcp_cancelled_write, request->id);
    }
    return r;
}

static int error_set(Talk *t, const McpMessage *message)
{
    int r = tool_problem(t->call, TOOL_OUTCOME_FAILED,
                         "the server answered error %" PRId64 ": %.*s", message->error_code,
                         STR_ARG(str_sub(message->error_message, 0, 2000)));
    return r < 0 ? r : MCP_E_SET;
}

/* --- sessions --------------------------------------------------------------------------------- */

static bool same_header(const ToolHeader *a, const ToolHeader *b)
{
    return str_eq(a->name, b->name) && str_eq(a->value, b->value) && a->from_env == b->from_env;
}

bool mcp_same_server(const Tool *a, const Tool *b)
{
    bool same = str_eq(a->url, b->url) && a->command_n == b->command_n &&
                a->headers_n == b->headers_n;
    for (size_t i = 0; same && i < a->command_n; i++) same = str_eq(a->command[i], b->command[i]);
    for (size_t i = 0; same && i < a->headers_n; i++)
        same = same_header(&a->headers[i], &b->headers[i]);
    return same;
}

static void process_end_wait(McpSession *s)
{
    ProcessExit how;
    if (!s->process) return;
    process_close_stdin(s->process);
    process_signal(s->process, s->run->stop >= RUN_KILLED ? SIGKILL : SIGTERM);
    (void)!process_exit_wait(s->process, deadline_after(NOTICE_MS), &how);
    process_signal(s->process, SIGKILL);
    fiber_cancel(s->err_reader);
    fiber_join_wait(s->err_reader, NULL);
    process_free(TAKE(s->process));
}

static void session_free_wait(McpSession *s)
{
    assert(s->users == 0 && !list_linked(&s->node));
    fiber_shield();
    process_end_wait(s);
    fiber_unshield();
    buf_deinit(&s->held);
    s->run->host->mcp_sessions_n--;
    s->run->mcp_sessions_n--;
    free(s);
}

/* No new call joins it. */
static void session_drop(McpSession *s)
{
    if (list_linked(&s->node)) list_remove(&s->node);
}

static void session_leave_wait(McpSession *s)
{
    assert(s->users > 0);
    s->users--;
    if (s->users == 0 && !list_linked(&s->node)) session_free_wait(s);
}

static McpSession *session_find(Run *run, const Tool *tool)
{
    LIST_EACH (&run->mcp_sessions, node) {
        McpSession *s = CONTAINER_OF(node, McpSession, node);
        if (mcp_same_server(s->tool, tool)) return s;
    }
    return NULL;
}

static McpSession *session_new(Run *run, const Tool *tool)
{
    McpSession *s = xcalloc(1, sizeof *s);
    s->run = run;
    s->tool = tool;
    cond_init(&s->changed);
    list_push_back(&run->mcp_sessions, &s->node);
    run->mcp_sessions_n++;
    run->host->mcp_sessions_n++;
    return s;
}

/* The session of the tool's server, perhaps a new one; joined. NULL: there are too many. */
static McpSession *session_join(Run *run, const Tool *tool)
{
    McpSession *s = session_find(run, tool);
    if (!s && (run->mcp_sessions_n >= MCP_RUN_SESSIONS_MAX ||
               run->host->mcp_sessions_n >= MCP_SESSIONS_MAX))
        return NULL;
    if (!s) s = session_new(run, tool);
    s->users++;
    return s;
}

static int take_wait(Talk *t)
{
    McpSession *s = t->session;
    while (s->taken) {
        int r = cond_wait(&s->changed, t->deadline_ms);
        if (r < 0) return r;
    }
    s->taken = true;
    return 0;
}

static void give_back(McpSession *s)
{
    s->taken = false;
    cond_broadcast(&s->changed);
}

static int greeted_wait(Talk *t, const McpMessage *answer)
{
    McpSession *s = t->session;
    Str version;
    bool unknown = answer->kind == MCP_ERROR && (answer->error_code == MCP_ERROR_METHOD ||
                                                 answer->error_code == MCP_ERROR_VERSION);
    if (unknown) {
        s->stateless = s->ready = true;
        s->id[0] = '\0';
        str_copy(s->version, sizeof s->version, STR(MCP_VERSION_STATELESS));
        return 0;
    }
    if (answer->kind == MCP_ERROR) return error_set(t, answer);
    int r = mcp_initialize_read(answer->result, &version);
    if (r < 0) return r;
    str_copy(s->version, sizeof s->version, version);
    s->ready = true;
    notice_wait(t, initialized_write, 0);
    return 0;
}

static int greet_wait(Talk *t)
{
    McpSession *s = t->session;
    McpRequest hello = { .method = MCP_INITIALIZE };
    McpMessage answer;
    int r = s->tool->command_n && !s->process ? pipe_open_wait(s) : 0;
    if (r == 0) r = ask_wait(t, &hello, &answer);
    return r == 0 ? greeted_wait(t, &answer) : r;
}

/* --- one call --------------------------------------------------------------------------------- */

/* A tool is what its version says, or it is not called. */
static int changed(Talk *t, const McpTool *found, const char *what)
{
    const Tool *tool = t->call->tool;
    CLEANUP(buf_deinit) Buf shown;
    buf_init(&shown, MESSAGE_BYTES_MAX);
    JsonOut out = json_out(&shown);
    json_out_object(&out);
    json_out_kstr(&out, "description", found->description);
    if (found->input_schema) json_out_kval(&out, "inputSchema", found->input_schema);
    json_out_object_end(&out);
    if (json_out_ok(&out)) /* for whoever makes the next version */
        task_log_printf(&t->call->run->log, "the server describes %.*s as %.*s",
                        STR_ARG(tool->name), STR_ARG(str_sub(buf_str(&shown), 0, SHOWN_BYTES_MAX)));
    int r = tool_problem(t->call, TOOL_OUTCOME_CHANGED,
                         "the tool has changed since the version was made, and was not called: %s",
                         what);
    return r < 0 ? r : MCP_E_SET;
}

static int verify(Talk *t, const McpTool *found, size_t found_n)
{
    ToolFault fault;
    size_t at;
    char what[128];
    if (found_n == 0) return changed(t, found, "the server does not have it any more");
    if (found_n > 1) return changed(t, found, "the server has several of that name");
    int r = tool_compare(t->call->arena, t->call->tool, found->description, found->input_schema,
                         &fault, &at);
    if (r < 0 || fault == TOOL_FIT) return r;
    snprintf(what, sizeof what, "its %s differs from byte %zu on",
             fault == TOOL_DESCRIPTION_DIFFERS ? "description" : "input schema", at);
    return changed(t, found, what);
}

static int verify_wait(Talk *t)
{
    McpRequest list = { .method = MCP_TOOLS_LIST };
    McpTool found = { 0 };
    size_t found_n = 0;
    for (int page_no = 0; page_no < PAGES_MAX; page_no++) {
        McpMessage answer;
        McpPage page;
        int r = ask_wait(t, &list, &answer);
        if (r != 0) return r;
        if (answer.kind == MCP_ERROR) return error_set(t, &answer);
        r = mcp_tools_read(answer.result, t->call->tool->remote_name, &page);
        if (r < 0) return -EPROTO;
        if (page.found_n) found = page.found;
        found_n += page.found_n;
        if (str_empty(page.next)) return verify(t, &found, found_n);
        list.cursor = page.next;
    }
    return diag_set(-EPROTO, "the server's list of tools has more than %d pages", PAGES_MAX);
}

static int result_set(Talk *t, const Json *result)
{
    CLEANUP(buf_deinit) Buf text;
    bool is_error;
    buf_init(&text, (size_t)t->call->tool->output_bytes_max);
    int r = mcp_call_read(result, &text, &is_error);
    if (r == -EINVAL) return -EPROTO;
    if (r == -ENOMEM) return -EMSGSIZE;
    r = is_error ? tool_problem(t->call, TOOL_OUTCOME_FAILED, "%.*s", STR_ARG(buf_str(&text)))
                 : tool_answer(t->call, text.len ? buf_str(&text) : STR(""));
    return r < 0 ? r : MCP_E_SET;
}

static int call_wait(Talk *t)
{
    McpRequest request = { .method = MCP_TOOLS_CALL,
                           .name = t->call->tool->remote_name,
                           .arguments = t->call->arguments };
    McpMessage answer;
    int r = ask_wait(t, &request, &answer);
    if (r != 0) return r;
    return answer.kind == MCP_ERROR ? error_set(t, &answer) : result_set(t, answer.result);
}

/* Over pipes one call after the other; over HTTP only the greeting keeps others waiting. */
static int talk_wait(Talk *t)
{
    McpSession *s = t->session;
    bool pipes = s->tool->command_n > 0;
    int r = take_wait(t);
    if (r < 0) return r;
    t->took = true;
    if (!s->ready) r = greet_wait(t);
    if (!pipes) give_back(s);
    if (r == 0) r = verify_wait(t);
    if (r == 0) r = call_wait(t);
    if (pipes) give_back(s);
    return r;
}

/* Returns as talk_wait; a session that is of no more use is not used again. */
static int attempt_wait(ToolCall *call, int64_t deadline_ms)
{
    McpSession *s = session_join(call->run, call->tool);
    if (!s) {
        atomic_fetch_add(&call->run->host->counters.mcp_crowded, 1);
        return diag_set(-EMFILE, "there are too many connections to MCP servers");
    }
    Talk t = { .call = call, .session = s, .deadline_ms = deadline_ms };
    int r = talk_wait(&t);
    bool usable = r == MCP_E_SET && s->ready;
    /* one call over HTTP that did not go well says nothing about the others */
    if (!usable && t.took && (s->process || r == MCP_E_GONE || !s->ready)) session_drop(s);
    session_leave_wait(s);
    return r;
}

int mcp_tool_wait(ToolCall *call)
{
    int64_t deadline_ms = deadline_after(call->tool->timeout_ms);
    diag_clear();
    int r = attempt_wait(call, deadline_ms);
    if (r == MCP_E_GONE) r = attempt_wait(call, deadline_ms); /* nothing was called yet */
    if (r == MCP_E_SET) return 0;
    if (r == MCP_E_GONE) r = diag_set(-EPROTO, "the server forgets its sessions");
    assert(r < 0);
    return tool_http_failed(call, r);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void goodbye_wait(McpSession *s)
{
    HttpResponse response;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 1 << 20);
    ToolCall call = { .run = s->run, .tool = s->tool, .arena = &arena };
    HttpClientField fields[FIELDS_MAX] = { { "mcp-session-id", str_of(s->id) },
                                           { "mcp-protocol-version", str_of(s->version) } };
    HttpCallOptions options = { .method = STR("DELETE"),
                                .url = s->tool->url,
                                .fields = fields,
                                .fields_n = 2,
                                .deadline_ms = deadline_after(NOTICE_MS),
                                .guard = s->run->host->guard };
    if (!s->ready || !s->id[0] || tool_headers(&call, fields, &options.fields_n) < 0) return;
    int r = http_fetch_wait(s->run->host->client, &options, 65536, &arena, &response);
    if (r != 0) LOG_DEBUG("an MCP server was not told goodbye", LOG_CSTR("why", diag_text_or(r)));
}

void mcp_close_wait(Run *run)
{
    fiber_shield();
    LIST_EACH (&run->mcp_sessions, node) {
        McpSession *s = CONTAINER_OF(node, McpSession, node);
        assert(s->users == 0);
        session_drop(s);
        if (run->stop < RUN_KILLED) goodbye_wait(s);
        session_free_wait(s);
    }
    fiber_unshield();
    assert(run->mcp_sessions_n == 0);
}
