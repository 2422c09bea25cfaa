#include "worker/tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "codec/url.h"
#include "logic/schema.h"
#include "sys/clock.h"
#include "worker/child.h"

#define ARGUMENTS_BYTES_MAX ((size_t)1 << 20)
#define MESSAGE_BYTES_MAX 2560

/* One call. */
typedef struct {
    Run *run;
    const Tool *tool;
    Arena *arena;
    Str arguments; /* compact JSON */
    const Json *args;
    ToolResult result;
} ToolCall;

static int problem(ToolCall *call, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int problem(ToolCall *call, const char *fmt, ...)
{
    char text[MESSAGE_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    Str copy = arena_str(call->arena, str_of(text));
    if (!copy.ptr) return diag_set(-ENOMEM, "no memory for a tool's answer");
    call->result = (ToolResult){ .text = copy, .is_error = true };
    return 0;
}

static int answer(ToolCall *call, Str text)
{
    Str copy = arena_str(call->arena, text);
    if (!copy.ptr) return diag_set(-ENOMEM, "no memory for a tool's answer");
    call->result = (ToolResult){ .text = copy };
    return 0;
}

/* --- commands --------------------------------------------------------------------------------- */

static int command_read(ToolCall *call, int r, const ChildResult *child)
{
    int tail_bytes = (int)child->tail_len;
    if (r == -ETIMEDOUT)
        return problem(call, "the tool did not finish within %" PRId64 " ms",
                       call->tool->timeout_ms);
    if (child->too_large)
        return problem(call, "the tool wrote more than %" PRId64 " bytes",
                       call->tool->output_bytes_max);
    if (child->how.signal)
        return problem(call, "the tool was killed by signal %d\n%.*s", child->how.signal,
                       tail_bytes, child->tail);
    if (child->how.exit_code)
        return problem(call, "the tool ended with exit code %d\n%.*s", child->how.exit_code,
                       tail_bytes, child->tail);
    return answer(call, str_trim(buf_str(&child->output)));
}

static int command_wait(ToolCall *call)
{
    const Tool *tool = call->tool;
    size_t output_max = (size_t)tool->output_bytes_max;
    CLEANUP(child_result_freep) ChildResult *child = child_result_new(output_max);
    ChildOptions options = {
        .run = call->run,
        .command = tool->command,
        .command_n = tool->command_n,
        .input = call->arguments,
        .output_bytes_max = output_max,
        .deadline_ms = deadline_after(tool->timeout_ms),
        .grace_ms = TOOL_GRACE_MS,
    };
    int r = child_run_wait(&options, child);
    if (r == -ECANCELED) return r;
    if (r < 0 && r != -ETIMEDOUT) return problem(call, "%s", diag_text_or(r));
    return command_read(call, r, child);
}

/* --- HTTP ------------------------------------------------------------------------------------- */

static bool in_query(Str method)
{
    return str_eq(method, STR("GET")) || str_eq(method, STR("HEAD")) ||
           str_eq(method, STR("DELETE"));
}

static bool query_value_add(Buf *buf, const Json *v)
{
    CLEANUP(buf_deinit) Buf text = { 0 };
    if (json_type(v) == JSON_STRING) return url_encode(buf, json_str(v));
    buf_init(&text, ARGUMENTS_BYTES_MAX);
    JsonOut out = json_out(&text);
    json_out_value(&out, v);
    return json_out_ok(&out) && url_encode(buf, buf_str(&text));
}

static int url_with_query(ToolCall *call, Str *ret)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    char mark = str_find_char(call->tool->url, '?') < 0 ? '?' : '&';
    buf_init(&buf, URL_BYTES_MAX);
    bool ok = buf_add(&buf, call->tool->url);
    for (JsonIter it = json_iter(call->args); json_next(&it); mark = '&')
        ok = ok && buf_add_char(&buf, mark) && url_encode(&buf, it.key) &&
             buf_add_char(&buf, '=') && query_value_add(&buf, it.value);
    if (!ok) return diag_set(-EMSGSIZE, "the arguments are too long for a query");
    *ret = arena_str(call->arena, buf_str(&buf));
    return ret->ptr ? 0 : -ENOMEM;
}

static int header_value(Arena *arena, const ToolHeader *header, Str *ret)
{
    *ret = header->value;
    if (!header->from_env) return 0;
    if (!str_starts_with(header->value, STR(TOOL_ENV_PREFIX)))
        return diag_set(-EACCES, "a tool's header may only use variables that begin with %s",
                        TOOL_ENV_PREFIX);
    const char *name = arena_cstr(arena, header->value);
    if (!name) return -ENOMEM;
    *ret = str_of(getenv(name));
    return ret->ptr ? 0 : diag_set(-ENOENT, "the worker's environment has no %s", name);
}

static int headers_make(ToolCall *call, HttpClientField *fields, size_t *ret_n)
{
    const Tool *tool = call->tool;
    size_t n = 0;
    Str traceparent = call->run->task.traceparent;
    if (!in_query(tool->method))
        fields[n++] = (HttpClientField){ "content-type", STR("application/json") };
    if (traceparent.len) fields[n++] = (HttpClientField){ "traceparent", traceparent };
    for (size_t i = 0; i < tool->headers_n; i++) {
        const ToolHeader *header = &tool->headers[i];
        fields[n].name = arena_cstr(call->arena, header->name);
        if (!fields[n].name) return -ENOMEM;
        int r = header_value(call->arena, header, &fields[n++].value);
        if (r < 0) return r;
    }
    *ret_n = n;
    return 0;
}

static int http_read(ToolCall *call, int r, const HttpResponse *response)
{
    if (r == -ECANCELED) return r;
    if (r == -ETIMEDOUT)
        return problem(call, "the tool did not answer within %" PRId64 " ms",
                       call->tool->timeout_ms);
    if (r == -EMSGSIZE)
        return problem(call, "the tool answered more than %" PRId64 " bytes",
                       call->tool->output_bytes_max);
    if (r != 0) return problem(call, "the tool could not be reached: %s", diag_text_or(r));
    if (response->status < 200 || response->status > 299)
        return problem(call, "the tool answered HTTP %d: %.*s", response->status,
                       STR_ARG(str_sub(response->body, 0, 2000)));
    return answer(call, response->body);
}

static int http_wait(ToolCall *call)
{
    const Tool *tool = call->tool;
    HttpClientField fields[TOOL_HEADERS_MAX + 2];
    HttpResponse response = { 0 };
    HttpCallOptions options = {
        .method = tool->method,
        .url = tool->url,
        .fields = fields,
        .deadline_ms = deadline_after(tool->timeout_ms),
        .guard = call->run->host->guard,
    };
    int r = headers_make(call, fields, &options.fields_n);
    if (r == 0 && in_query(tool->method)) r = url_with_query(call, &options.url);
    else options.body = call->arguments;
    if (r < 0) return problem(call, "%s", diag_text_or(r));
    r = http_fetch_wait(call->run->host->client, &options, (size_t)tool->output_bytes_max,
                        call->arena, &response);
    return http_read(call, r, &response);
}

/* --- any tool --------------------------------------------------------------------------------- */

/* Reads the arguments, and writes them anew: what was checked is what the tool gets. */
static int arguments_read(ToolCall *call, Str text)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    if (!str_trim(text).len) text = STR("{}");
    int r = json_parse(call->arena, text, NULL, &call->args, NULL);
    if (r == -ENOMEM) return r;
    if (r < 0) return problem(call, "the arguments are not JSON: %s", diag_text());
    buf_init(&buf, ARGUMENTS_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_value(&out, call->args);
    if (!json_out_ok(&out)) return problem(call, "the arguments are too large");
    call->arguments = arena_str(call->arena, buf_str(&buf));
    return call->arguments.ptr ? 0 : -ENOMEM;
}

static int arguments_check(ToolCall *call)
{
    SchemaError error;
    if (json_type(call->args) != JSON_OBJECT)
        return problem(call, "the arguments are not an object");
    if (schema_validate(call->tool->input_schema, call->args, &error) == SCHEMA_E_INVALID)
        return problem(call, "the arguments do not fit the tool's schema: %s%s%s", error.path,
                       error.path[0] ? ": " : "", error.message);
    if (tool_may(call->tool, call->args) == TOOL_E_DENIED)
        return problem(call, "not permitted: %s", diag_text());
    return 0;
}

static int source_wait(ToolCall *call)
{
    switch (call->tool->source) {
    case TOOL_BY_COMMAND: return command_wait(call);
    case TOOL_BY_HTTP: return http_wait(call);
    case TOOL_BY_AGENT: return problem(call, "this tool is run by the agent's own code");
    case TOOL_BY_MCP: return problem(call, "tools of MCP servers are not supported yet");
    case TOOL_SOURCE_N_: break;
    }
    assert(false);
    return -EINVAL;
}

static int call_wait(ToolCall *call, Str arguments)
{
    int r = arguments_read(call, arguments);
    if (r == 0 && !call->result.is_error) r = arguments_check(call);
    if (r == 0 && !call->result.is_error) r = source_wait(call);
    return r;
}

static void call_note(const ToolCall *call, int64_t ms)
{
    RunCounters *counters = &call->run->host->counters;
    atomic_fetch_add(&counters->tool_calls, 1);
    if (call->result.is_error) atomic_fetch_add(&counters->tool_errors, 1);
    task_log_printf(&call->run->log, "tool %.*s (%s): %s, %" PRId64 " ms, %zu bytes",
                    STR_ARG(call->tool->name), tool_effect_name(call->tool->effect),
                    call->result.is_error ? "error" : "ok", ms, call->result.text.len);
}

int tool_run_wait(Run *run, Str name, Str arguments, Arena *arena, ToolResult *ret)
{
    int64_t began_ms = clock_mono_ms();
    assert(run->version);
    ToolCall call = { .run = run, .tool = tools_find(&run->version->spec.tools, name) };
    call.arena = arena;
    int r;
    if (call.tool) {
        r = call_wait(&call, arguments);
        if (r == 0) call_note(&call, clock_mono_ms() - began_ms);
    } else {
        r = problem(&call, "there is no tool called `%.*s`", STR_ARG(str_sub(name, 0, 100)));
    }
    if (r == 0) *ret = call.result;
    return r;
}
