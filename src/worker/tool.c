#include "worker/tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "codec/url.h"
#include "gateway/gateway_journal.h"
#include "logic/schema.h"
#include "sys/clock.h"
#include "sys/entropy.h"
#include "worker/child.h"
#include "worker/mcp.h"
#include "worker/tool_once.h"

#define ARGUMENTS_BYTES_MAX ((size_t)1 << 20)
#define MESSAGE_BYTES_MAX 2560
#define EXIT_TRY_AGAIN 75 /* as of agents: something is wrong around the tool */

static const struct {
    const char *name;
    bool ran;           /* the tool was started */
    BreakerResult says; /* of its source's health */
} outcomes[TOOL_OUTCOME_N_] = {
    [TOOL_OUTCOME_OK] = { "ok", true, BREAKER_GOOD },
    [TOOL_OUTCOME_FAILED] = { "error", true, BREAKER_GOOD },
    [TOOL_OUTCOME_TROUBLE] = { "trouble", true, BREAKER_BAD },
    [TOOL_OUTCOME_TIMEOUT] = { "timeout", true, BREAKER_BAD },
    [TOOL_OUTCOME_TOO_LARGE] = { "too_large", true, BREAKER_GOOD },
    [TOOL_OUTCOME_CHANGED] = { "changed", false, BREAKER_GOOD },
    [TOOL_OUTCOME_UNKNOWN] = { "not_declared", false, BREAKER_UNTOLD },
    [TOOL_OUTCOME_OF_AGENT] = { "of_agent", false, BREAKER_UNTOLD },
    [TOOL_OUTCOME_ARGUMENTS] = { "arguments", false, BREAKER_UNTOLD },
    [TOOL_OUTCOME_DENIED] = { "denied", false, BREAKER_UNTOLD },
    [TOOL_OUTCOME_OFF] = { "switched_off", false, BREAKER_UNTOLD },
    [TOOL_OUTCOME_CAP] = { "cap", false, BREAKER_UNTOLD },
    [TOOL_OUTCOME_OPEN] = { "breaker_open", false, BREAKER_UNTOLD },
};

const char *tool_outcome_name(ToolOutcome outcome)
{
    assert(outcome < TOOL_OUTCOME_N_);
    return outcomes[outcome].name;
}

const char *tool_mode_name(ToolMode mode)
{
    static const char *const names[TOOL_MODE_N_] = { "", "live", "production", "dry_run", "stub" };
    assert(mode < TOOL_MODE_N_);
    return names[mode];
}

bool tool_outcome_ran(ToolOutcome outcome)
{
    assert(outcome < TOOL_OUTCOME_N_);
    return outcomes[outcome].ran;
}

int tool_problem(ToolCall *call, ToolOutcome outcome, const char *fmt, ...)
{
    char text[MESSAGE_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    Str copy = arena_str(call->arena, str_trim(str_of(text)));
    if (!copy.ptr) return diag_set(-ENOMEM, "no memory for a tool's answer");
    call->result = (ToolResult){ .text = copy, .is_error = true, .outcome = outcome };
    return 0;
}

int tool_answer(ToolCall *call, Str text)
{
    Str copy = arena_str(call->arena, text);
    if (!copy.ptr) return diag_set(-ENOMEM, "no memory for a tool's answer");
    call->result = (ToolResult){ .text = copy };
    return 0;
}

static int tool_timed_out(ToolCall *call)
{
    return tool_problem(call, TOOL_OUTCOME_TIMEOUT, "the tool did not finish within %" PRId64 " ms",
                        call->tool->timeout_ms);
}

static int tool_too_large(ToolCall *call)
{
    return tool_problem(call, TOOL_OUTCOME_TOO_LARGE, "the tool gave more than %" PRId64 " bytes",
                        call->tool->output_bytes_max);
}

/* --- commands --------------------------------------------------------------------------------- */

static int command_read(ToolCall *call, int r, const ChildResult *child)
{
    int tail_bytes = (int)child->tail_len;
    if (r == -ETIMEDOUT) return tool_timed_out(call);
    if (child->too_large) return tool_too_large(call);
    if (child->over)
        return tool_problem(call, TOOL_OUTCOME_FAILED,
                            "the tool used more than limits.%s in agent.yaml allows\n%.*s",
                            resource_name(child->over), tail_bytes, child->tail);
    if (child->how.signal)
        return tool_problem(call, TOOL_OUTCOME_TROUBLE, "the tool was killed by signal %d\n%.*s",
                            child->how.signal, tail_bytes, child->tail);
    if (child->how.exit_code)
        return tool_problem(call,
                            child->how.exit_code == EXIT_TRY_AGAIN ? TOOL_OUTCOME_TROUBLE
                                                                   : TOOL_OUTCOME_FAILED,
                            "the tool ended with exit code %d\n%.*s", child->how.exit_code,
                            tail_bytes, child->tail);
    return tool_answer(call, str_trim(buf_str(&child->output)));
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
    if (r < 0 && r != -ETIMEDOUT)
        return tool_problem(call, TOOL_OUTCOME_TROUBLE, "%s", diag_text_or(r));
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

int tool_headers(ToolCall *call, HttpClientField *fields, size_t *n)
{
    const Tool *tool = call->tool;
    Str traceparent = call->run->task.traceparent;
    if (traceparent.len) fields[(*n)++] = (HttpClientField){ "traceparent", traceparent };
    for (size_t i = 0; i < tool->headers_n; i++) {
        const ToolHeader *header = &tool->headers[i];
        fields[*n].name = arena_cstr(call->arena, header->name);
        if (!fields[*n].name) return -ENOMEM;
        int r = header_value(call->arena, header, &fields[(*n)++].value);
        if (r < 0) return r;
    }
    return 0;
}

int tool_http_failed(ToolCall *call, int r)
{
    if (r == -ECANCELED) return r;
    if (r == -ETIMEDOUT) return tool_timed_out(call);
    if (r == -EMSGSIZE) return tool_too_large(call);
    return tool_problem(call, TOOL_OUTCOME_TROUBLE, "the tool could not be reached: %s",
                        diag_text_or(r));
}

static int http_read(ToolCall *call, const HttpResponse *response)
{
    int status = response->status;
    if (status >= 200 && status <= 299) return tool_answer(call, response->body);
    bool trouble = status >= 500 || status == 429 || status == 408;
    return tool_problem(call, trouble ? TOOL_OUTCOME_TROUBLE : TOOL_OUTCOME_FAILED,
                        "the tool answered HTTP %d: %.*s", status,
                        STR_ARG(str_sub(response->body, 0, 2000)));
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
    bool query = in_query(tool->method);
    if (!query)
        fields[options.fields_n++] = (HttpClientField){ "content-type", STR("application/json") };
    int r = tool_headers(call, fields, &options.fields_n);
    if (r == 0 && query) r = url_with_query(call, &options.url);
    else options.body = call->arguments;
    if (r == -EMSGSIZE) return tool_problem(call, TOOL_OUTCOME_ARGUMENTS, "%s", diag_text_or(r));
    if (r < 0) return tool_problem(call, TOOL_OUTCOME_TROUBLE, "%s", diag_text_or(r));
    r = http_fetch_wait(call->run->host->client, &options, (size_t)tool->output_bytes_max,
                        call->arena, &response);
    return r != 0 ? tool_http_failed(call, r) : http_read(call, &response);
}

/* --- any tool --------------------------------------------------------------------------------- */

/* Reads the arguments, and writes them anew: what was checked is what the tool gets. */
static int arguments_read(ToolCall *call, Str text)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    if (!str_trim(text).len) text = STR("{}");
    int r = json_parse(call->arena, text, NULL, &call->args, NULL);
    if (r == -ENOMEM) return r;
    if (r < 0)
        return tool_problem(call, TOOL_OUTCOME_ARGUMENTS, "the arguments are not JSON: %s",
                            diag_text());
    buf_init(&buf, ARGUMENTS_BYTES_MAX);
    JsonOut out = json_out(&buf);
    json_out_value(&out, call->args);
    if (!json_out_ok(&out))
        return tool_problem(call, TOOL_OUTCOME_ARGUMENTS, "the arguments are too large");
    call->arguments = arena_str(call->arena, buf_str(&buf));
    return call->arguments.ptr ? 0 : -ENOMEM;
}

static int arguments_check(ToolCall *call)
{
    SchemaError error;
    if (json_type(call->args) != JSON_OBJECT)
        return tool_problem(call, TOOL_OUTCOME_ARGUMENTS, "the arguments are not an object");
    if (schema_validate(call->tool->input_schema, call->args, &error) == SCHEMA_E_INVALID)
        return tool_problem(call, TOOL_OUTCOME_ARGUMENTS,
                            "the arguments do not fit the tool's schema: %s%s%s", error.path,
                            error.path[0] ? ": " : "", error.message);
    if (tool_may(call->tool, call->args) == TOOL_E_DENIED)
        return tool_problem(call, TOOL_OUTCOME_DENIED, "not permitted: %s", diag_text());
    return 0;
}

/* Whether the tool may be used at all, before its arguments are looked at. */
static int tool_check_use(ToolCall *call)
{
    const Run *run = call->run;
    int name_n = (int)MIN(call->ask->name.len, (size_t)100);
    call->tool = tools_find(&run->version->spec.tools, call->ask->name);
    if (!call->tool)
        return tool_problem(call, TOOL_OUTCOME_UNKNOWN, "there is no tool called `%.*s`", name_n,
                            call->ask->name.ptr ? call->ask->name.ptr : "");
    if (!gateway_task_tool_on(run->gateway, call->tool->name))
        return tool_problem(call, TOOL_OUTCOME_OFF, "the tool `%.*s` is switched off", name_n,
                            call->ask->name.ptr);
    if (call->tool->source == TOOL_BY_AGENT)
        return tool_problem(call, TOOL_OUTCOME_OF_AGENT,
                            "this tool is run by the agent's own code");
    return 0;
}

/* --- running ---------------------------------------------------------------------------------- */

static int source_wait(ToolCall *call)
{
    switch (call->tool->source) {
    case TOOL_BY_COMMAND: return command_wait(call);
    case TOOL_BY_HTTP: return http_wait(call);
    case TOOL_BY_MCP: return mcp_tool_wait(call);
    case TOOL_BY_SUBAGENT: return tool_subagent_wait(call);
    case TOOL_BY_AGENT:
    case TOOL_SOURCE_N_: break;
    }
    assert(false);
    return -EINVAL;
}

/* The tools of one server fail together. Its command may have secrets in it, so it is called by
 * the first of them. */
static const Tool *first_at_server(const ToolSet *set, const Tool *tool)
{
    for (size_t i = 0; i < set->n; i++) {
        const Tool *other = &set->items[i];
        if (other->source == TOOL_BY_MCP && mcp_same_server(other, tool)) return other;
    }
    return tool;
}

/* What fails together: a program, or a server. */
static Str source_name(const ToolCall *call, Arena *arena)
{
    const Tool *tool = call->tool;
    Url url;
    if (tool->url.len && url_parse(arena, tool->url, &url) == 0)
        return arena_printf(arena, "%.*s:%u", STR_ARG(url.host), url.port);
    /* a command is the version's own: another agent's of the same name may be another program */
    if (tool->source == TOOL_BY_MCP) tool = first_at_server(&call->run->version->spec.tools, tool);
    return arena_printf(arena, "%.*s/%.*s", STR_ARG(call->run->task.agent), STR_ARG(tool->name));
}

static int count(ToolCall *call)
{
    bool counted = false;
    int r = gateway_task_count_tool(call->run->gateway, call->ask->call_id.len > 0, &counted);
    call->counted = counted;
    if (r == 0) return 0;
    return tool_problem(call, TOOL_OUTCOME_CAP, "%s: the tool was not called", diag_text());
}

static int permit(ToolCall *call, Str source, BreakerTicket *ticket)
{
    if (!source.ptr) return -ENOMEM;
    if (breakers_ask(call->run->host->breakers, source, ticket, &call->result.again_ms)) return 0;
    int64_t again_ms = call->result.again_ms;
    int r = tool_problem(call, TOOL_OUTCOME_OPEN,
                         "the tool is not called for a while: %.*s fails too often",
                         STR_ARG(source));
    call->result.again_ms = again_ms;
    return r;
}

/* Counts, then runs. Each step that finds something wrong has set the result. */
static int guarded_wait(ToolCall *call)
{
    BreakerTicket ticket = { 0 };
    Str source = source_name(call, call->arena);
    int r = permit(call, source, &ticket);
    if (r != 0 || call->result.is_error) return r;
    r = count(call);
    call->started = r == 0 && !call->result.is_error;
    if (call->started) r = source_wait(call);
    /* what a shadow meets must close no tool to production */
    bool untold = r < 0 || call->run->task.shadow;
    BreakerResult says = untold ? BREAKER_UNTOLD : outcomes[call->result.outcome].says;
    breakers_done(call->run->host->breakers, &ticket, says, clock_mono_ms() - call->began_ms);
    return r;
}

/* --- the journal ------------------------------------------------------------------------------ */

/* What was given before, outcome and all. */
static int recorded(ToolCall *call, const ToolReplay *replay)
{
    for (int i = 0; i < TOOL_OUTCOME_N_; i++) {
        if (!str_eq(replay->content_type, str_of(outcomes[i].name))) continue;
        call->result = (ToolResult){ .text = replay->body.ptr ? replay->body : STR(""),
                                     .is_error = i != TOOL_OUTCOME_OK,
                                     .outcome = (ToolOutcome)i };
        return 0;
    }
    return diag_set(-EPROTO, "the journal has an outcome of a tool that is not known here");
}

/* An earlier attempt went on from there. */
static int replayed_wait(ToolCall *call, const ToolReplay *replay)
{
    gateway_task_tool_replayed(call->run->gateway, call->ask->call_id.len > 0);
    if (call->tool->source == TOOL_BY_SUBAGENT) tool_subagent_replayed(call);
    int r = recorded(call, replay);
    call->result.replayed = r == 0;
    if (r < 0 || !call->run->task.shadow || call->tool->effect == TOOL_READ) return r;
    r = gateway_tool_twin_wait(call->run->gateway, replay, call->arena, NULL);
    return r == GATEWAY_E_LIVE ? 0 : r;
}

/* --- in the shadow ---------------------------------------------------------------------------- */

/* The call again, with the argument by which the tool only tries. */
static int dry_run_wait(ToolCall *call)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, ARGUMENTS_BYTES_MAX);
    int r = json_member_set(call->arguments, call->tool->dry_run, STR("true"), &text);
    if (r == 0) r = arguments_read(call, buf_str(&text));
    return r == 0 && !call->result.is_error ? guarded_wait(call) : r;
}

static int stub(ToolCall *call)
{
    int r = count(call);
    if (r != 0 || call->result.is_error) return r;
    return tool_answer(call, STR("{\"stub\":true,\"note\":\"This run repeats a task that is done "
                                 "already: the tool was not called, nothing was changed.\"}"));
}

/* Nothing outside may change: what reads is called, and so is another agent, who is in the shadow
 * too. */
static int shadow_wait(ToolCall *call, const ToolReplay *key)
{
    ToolReplay twin;
    ToolMode mode = TOOL_MODE_LIVE;
    if (call->tool->effect == TOOL_READ || call->tool->source == TOOL_BY_SUBAGENT) {
        int r = guarded_wait(call);
        call->result.mode = mode;
        return r;
    }
    int r = gateway_tool_twin_wait(call->run->gateway, key, call->arena, &twin);
    if (r == GATEWAY_E_LIVE) {
        mode = call->tool->dry_run.len ? TOOL_MODE_DRY_RUN : TOOL_MODE_STUB;
        r = mode == TOOL_MODE_STUB ? stub(call) : dry_run_wait(call);
    } else if (r == 0) {
        mode = TOOL_MODE_PRODUCTION;
        r = count(call);
        if (r == 0 && !call->result.is_error) r = recorded(call, &twin);
    }
    call->result.mode = mode;
    return r;
}

/* Served from the journal, or called and recorded: a tool that has done its work for an earlier
 * attempt does not do it again. What was not run is not recorded. */
static int journaled_wait(ToolCall *call)
{
    ToolReplay replay;
    GatewayTask *task = call->run->gateway;
    Str name = call->tool->name;
    int r = gateway_tool_replay_wait(task, name, call->args, call->arguments, call->arena, &replay);
    if (r == 0) return replayed_wait(call, &replay);
    if (r != GATEWAY_E_LIVE) return r;
    r = call->run->task.shadow ? shadow_wait(call, &replay) : guarded_wait(call);
    if (r < 0 || !tool_outcome_ran(call->result.outcome)) return r;
    return gateway_tool_record_wait(
        task, &replay, name, 0, str_of(tool_outcome_name(call->result.outcome)), call->result.text);
}

static int call_wait(ToolCall *call)
{
    int r = tool_check_use(call);
    if (r == 0 && !call->result.is_error) r = arguments_read(call, call->ask->arguments);
    if (r == 0 && !call->result.is_error) r = arguments_check(call);
    if (r != 0 || call->result.is_error) return r;
    if (call->ask->client) r = tool_once_wait(call);
    if (r == 0) r = journaled_wait(call);
    return r == -ESTALE ? -ECANCELED : r;
}

/* --- telling ---------------------------------------------------------------------------------- */

static void note(const ToolCall *call, int64_t ms)
{
    RunCounters *counters = &call->run->host->counters;
    const ToolResult *result = &call->result;
    atomic_fetch_add(&counters->tool_outcomes[result->outcome], 1);
    if (tool_outcome_ran(result->outcome))
        atomic_fetch_add(&counters->tool_us, (uint64_t)ms * 1000);
    if (!call->tool) return;
    task_log_printf(&call->run->log, "tool %.*s (%s): %s, %" PRId64 " ms, %zu bytes",
                    STR_ARG(call->tool->name), tool_effect_name(call->tool->effect),
                    tool_outcome_name(result->outcome), ms, result->text.len);
}

static const char *source_kind(const Tool *tool)
{
    static const char *const names[TOOL_SOURCE_N_] = { "agent", "command", "http", "mcp",
                                                       "subagent" };
    return tool ? names[tool->source] : "none";
}

static int record_wait(const ToolCall *call, Uuid id, int64_t at_ms, int64_t ms)
{
    char text[UUID_TEXT_MAX];
    ToolRecord record = {
        .id = str_of(uuid_text(id, text)),
        .attempt = call->run->task.attempt,
        .name = call->tool ? call->tool->name : str_sub(call->ask->name, 0, TOOL_NAME_BYTES_MAX),
        .source = str_of(source_kind(call->tool)),
        .outcome = str_of(tool_outcome_name(call->result.outcome)),
        .at_ms = at_ms,
        .duration_ms = ms,
        .bytes = (int64_t)call->result.text.len,
        .replayed = call->result.replayed,
        .counted = call->counted,
        .mode = str_of(tool_mode_name(call->result.mode)),
    };
    if (!str_is_utf8(record.name) || str_empty(record.name)) record.name = STR("?");
    return run_record_tool_wait(call->run, &record);
}

static Uuid id_new(Run *run, int64_t at_ms)
{
    uint8_t random[UUID7_RANDOM_BYTES];
    entropy_fill(random, sizeof random);
    return uuid7_next(&run->tool_ids, at_ms, random);
}

int tool_run_wait(Run *run, const ToolAsk *ask, Arena *arena, ToolResult *ret)
{
    assert(run->version && run->gateway);
    int64_t at_ms = clock_real_ms();
    Uuid id = id_new(run, at_ms);
    ToolCall call = { .run = run, .ask = ask, .arena = arena, .began_ms = clock_mono_ms() };
    run->tools_n++;
    int r = call_wait(&call);
    run->tools_n--;
    if (r == 0) {
        int64_t ms = clock_mono_ms() - call.began_ms;
        note(&call, ms);
        r = record_wait(&call, id, at_ms, ms);
    }
    if (call.once) tool_once_done(&call, r);
    if (r != 0 && r != TOOL_E_AGAIN) return r;
    *ret = call.result;
    return 0;
}
