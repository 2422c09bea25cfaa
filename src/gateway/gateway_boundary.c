/* The boundary: which tools a request may offer its model, and what flags have switched off. */
#include "base/diag.h"
#include "base/log.h"
#include "codec/sse.h"
#include "gateway/gateway_call.h"
#include "logic/tool_check.h"

/* --- switches --------------------------------------------------------------------------------- */

static FlagContext flag_context(const GatewayTask *task)
{
    const GatewayTaskOptions *o = &task->options;
    return (FlagContext){ .agent = o->agent,
                          .version_id = o->version_id,
                          .tenant_id = o->tenant_id,
                          .user_id = o->user_id,
                          .session_id = o->session_id,
                          .task_id = o->task_id };
}

bool gateway_task_tool_on(const GatewayTask *task, Str tool)
{
    FlagContext context = flag_context(task);
    return flags_tool_on(task->gateway->flags, &context, tool);
}

bool gateway_task_on(const GatewayTask *task)
{
    FlagContext context = flag_context(task);
    return flags_tasks_on(task->gateway->flags, &context);
}

bool task_model_on(const GatewayTask *task, Str model)
{
    FlagContext context = flag_context(task);
    return flags_model_on(task->gateway->flags, &context, model);
}

void gateway_task_flags(const GatewayTask *task, JsonOut *out)
{
    FlagContext context = flag_context(task);
    flags_write(out, task->gateway->flags, &context);
}

int call_check_switches(ModelCall *call)
{
    if (!gateway_task_on(call->task))
        return call_problem(call, PROBLEM_SWITCHED_OFF, NULL,
                            "the flag \"tasks\" has switched this task off");
    Str model = call->target ? call->target->model : STR_NULL;
    if (!call->target || task_model_on(call->task, model)) return 0;
    return call_problem(call, PROBLEM_SWITCHED_OFF, "model",
                        "a flag has switched the model \"%.*s\" off", STR_ARG(model));
}

bool call_flags_moved(const ModelCall *call)
{
    return call->flags_seen != call->task->gateway->flags_n;
}

/* What was looked up in the cache belongs to another plan. */
int call_replan(ModelCall *call)
{
    assert(!call->held && !call->permit.model);
    call->target = NULL;
    call->targets_n = 0;
    call->target_tries = 0;
    call->cache = CALL_CACHE_OFF;
    int r = call_check_tools(call);
    return r == 0 ? call_plan(call) : r;
}

/* Calls that are on their way to what was switched off end now; those that wait find out. */
static void task_obey(GatewayTask *task)
{
    bool on = gateway_task_on(task);
    LIST_EACH (&task->calls, node) {
        ModelCall *call = CONTAINER_OF(node, ModelCall, node);
        cond_broadcast(&call->wake);
        if (on && (!call->target || task_model_on(task, call->target->model))) continue;
        call->switched_off = true;
        http_abort(&call->abort);
    }
    LIST_EACH (&task->counts, node) {
        CountFlight *count = CONTAINER_OF(node, CountFlight, node);
        if (!on || !task_model_on(task, count->model)) http_abort(&count->abort);
    }
    cond_broadcast(&task->changed);
}

void gateway_set_flags(Gateway *gateway, const FlagSet *flags)
{
    gateway->flags = flags;
    gateway->flags_n++;
    LIST_EACH (&gateway->tasks, node) task_obey(CONTAINER_OF(node, GatewayTask, node));
}

/* --- tools ------------------------------------------------------------------------------------ */

static bool tool_is_on(void *ctx, Str name)
{
    return gateway_task_tool_on(ctx, name);
}

static int refuse(ModelCall *call, const ToolFinding *finding)
{
    char text[TOOL_FAULT_TEXT_MAX];
    bool off = finding->fault == TOOL_SWITCHED_OFF;
    tool_fault_text(finding, text);
    LOG_INFO("tool refused", LOG_STR("tool", finding->name),
             LOG_CSTR("why", tool_fault_name(finding->fault)));
    return call_problem(call, off ? PROBLEM_SWITCHED_OFF : PROBLEM_TOOL, finding->list, "%s", text);
}

static int edit_apply(const ToolEdit *edit, Buf *text)
{
    Buf out;
    buf_init(&out, text->max);
    Str key = str_of(edit->member);
    int r = str_empty(edit->value) ? json_member_drop(buf_str(text), key, &out)
                                   : json_member_set(buf_str(text), key, edit->value, &out);
    buf_deinit(text);
    *text = out;
    return r;
}

/* The request without the faulty tools takes the place of what the agent sent. */
static int edits_apply(ModelCall *call, const ToolEdit *edits, size_t n)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 2 * call->request->body.len + 1024);
    int r = buf_add(&text, call->request->body) ? 0 : -ENOMEM;
    for (size_t i = 0; i < n && r == 0; i++) r = edit_apply(&edits[i], &text);
    if (r < 0) return r;
    call->checked = *call->request;
    call->checked.body = arena_str(&call->arena, buf_str(&text));
    if (!call->checked.body.ptr) return -ENOMEM;
    call->request = &call->checked;
    return call_read(call);
}

/* Whether what is wrong is taken out rather than refused. A tool that was switched off always is:
 * an agent should go on without it. */
static bool is_removed(const ModelCall *call, const ToolReport *report)
{
    if (call->task->gateway->config->undeclared_tools == GATEWAY_TOOLS_REMOVE) return true;
    for (size_t i = 0; i < report->n; i++) {
        ToolFault fault = report->items[i].fault;
        if (fault != TOOL_FIT && fault != TOOL_SWITCHED_OFF) return false;
    }
    return true;
}

static const ToolFinding *first_not_off(const ToolReport *report)
{
    for (size_t i = 0; i < report->n; i++) {
        ToolFault fault = report->items[i].fault;
        if (fault != TOOL_FIT && fault != TOOL_SWITCHED_OFF) return &report->items[i];
    }
    return tool_report_first(report);
}

static int remove_tools(ModelCall *call, const ToolReport *report)
{
    ToolEdit edits[TOOL_EDITS_MAX];
    size_t n = 0;
    int r = tool_edits(&call->arena, call->info.api, call->json, report, edits, &n);
    if (r == -ENOTSUP) return refuse(call, first_not_off(report));
    if (r == 0) r = edits_apply(call, edits, n);
    if (r != 0) return r;
    atomic_fetch_add(&call->task->gateway->tools_removed, report->faults_n);
    return 0;
}

static void note_finish(ModelCall *call, const char *reason)
{
    if (reason[0]) call->record.finish = arena_str(&call->arena, str_of(reason));
}

static int64_t stream_note(ModelCall *call, Str body, Arena *scratch)
{
    CLEANUP(sse_deinit) SseParser parser;
    StreamState state;
    StreamNote note;
    SsePiece piece;
    int r;
    sse_init(&parser, GATEWAY_EVENT_BYTES_MAX);
    stream_init(&state, call->info.api, call->info.n);
    while ((r = sse_next(&parser, &body, &piece)) == SSE_EVENT || r == SSE_OTHER) {
        if (r == SSE_OTHER) continue;
        if (stream_feed(&state, scratch, piece.event, piece.data, &note) < 0) break;
        call_note_tools(call, note.tool_names, note.tool_names_n);
        arena_clear(scratch);
    }
    note_finish(call, state.finish_reason);
    return state.usage.tool_calls;
}

int64_t recording_note(ModelCall *call, const Recording *recording)
{
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    const Json *body;
    Answer answer;
    Str text = buf_str(&recording->body);
    if (!call->info.has_tools) return 0;
    arena_init(&scratch, GATEWAY_JSON_FACTOR * text.len + 65536);
    if (recording->streamed) return stream_note(call, text, &scratch);
    if (json_parse(&scratch, text, NULL, &body, NULL) < 0) return 0;
    answer_read(call->info.api, body, call->info.n, &answer);
    call_note_tools(call, answer.tool_names, answer.tool_names_n);
    note_finish(call, answer.finish_reason);
    return answer.usage.tool_calls;
}

int call_check_tools(ModelCall *call)
{
    const GatewayTask *task = call->task;
    const GatewayConfig *config = task->gateway->config;
    ToolPolicy policy = { .declared = task->options.declared,
                          .provider_tools = config->provider_tools,
                          .provider_tools_n = config->provider_tools_n };
    if (task->gateway->flags) {
        policy.is_on = tool_is_on;
        policy.ctx = call->task;
    }
    ToolReport report;
    call->flags_seen = task->gateway->flags_n;
    int r = call_check_switches(call);
    if (r != 0 || (!policy.declared && !policy.is_on)) return r;
    r = tool_check(&call->arena, call->info.api, call->json, &policy, &report);
    if (r == 0 && report.faults_n > 0)
        r = is_removed(call, &report) ? remove_tools(call, &report)
                                      : refuse(call, first_not_off(&report));
    if (r < 0)
        return call_problem(call, PROBLEM_TOO_LARGE, NULL, "the tools are too large to check");
    return r;
}
