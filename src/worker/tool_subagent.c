/* A tool that is another agent: its arguments are the input of a task, its result is the task's. */
#include "base/diag.h"
#include "sys/clock.h"
#include "worker/children.h"
#include "worker/tool_call.h"

#define TASK_BYTES_MAX ((size_t)64 << 20)

/* What tells one call from another: the tool and its arguments. */
static int body_make(ToolCall *call, Str *ret)
{
    *ret = arena_printf(call->arena, "tool %.*s\n%.*s", STR_ARG(call->tool->name),
                        STR_ARG(call->arguments));
    return ret->ptr ? 0 : -ENOMEM;
}

void tool_subagent_replayed(ToolCall *call)
{
    Str body;
    if (body_make(call, &body) == 0) children_skip(call->run, body);
}

/* The task as clients see it, into the result. */
static int result_read(ToolCall *call, Str text)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    const Json *task;
    Str member, result = STR_NULL;
    arena_init(&arena, 16 * text.len + 65536);
    int r = json_parse(&arena, text, NULL, &task, NULL);
    if (r < 0) return r;
    Str status = json_str(json_get(task, "status"));
    if (!str_eq(status, STR("succeeded"))) {
        const Json *error = json_get(task, "error");
        Str detail = json_str(json_get(error, "detail"));
        return tool_problem(
            call, TOOL_OUTCOME_FAILED, "the agent %.*s has not succeeded: %.*s %.*s",
            STR_ARG(call->tool->agent), STR_ARG(status), STR_ARG(str_sub(detail, 0, 1000)));
    }
    r = json_member_span(text, STR("result"), &member, &result);
    if (json_type(json_get(task, "result")) == JSON_STRING)
        result = json_str(json_get(task, "result"));
    if (r < 0 || json_type(json_get(task, "result")) == JSON_NULL) result = STR("");
    if (result.len > (size_t)call->tool->output_bytes_max)
        return tool_problem(call, TOOL_OUTCOME_TOO_LARGE,
                            "the agent's result has more than %" PRId64 " bytes",
                            call->tool->output_bytes_max);
    return tool_answer(call, result);
}

static int result_wait(ToolCall *call, Uuid id)
{
    Run *run = call->run;
    WorkerLink *link = run->host->link;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    Str text;
    arena_init(&arena, TASK_BYTES_MAX);
    int r = link->ops->child_wait(link, run->task.ref, id, &arena, &text);
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) {
        run_stop(run, RUN_STALE);
        return -ECANCELED;
    }
    if (r == 0) r = result_read(call, text);
    if (r == 0 || r == -ECANCELED || r == -ENOMEM) return r;
    return tool_problem(call, TOOL_OUTCOME_TROUBLE, "the agent's result could not be read: %s",
                        diag_text());
}

/* Over its time: it is not waited for any longer, so it need not go on. */
static int timed_out_wait(ToolCall *call, Uuid id)
{
    WorkerLink *link = call->run->host->link;
    if (link->ops->child_cancel_wait(link, call->run->task.ref, id) == -ECANCELED)
        return -ECANCELED;
    return tool_problem(call, TOOL_OUTCOME_TIMEOUT,
                        "the agent did not finish within %" PRId64 " ms", call->tool->timeout_ms);
}

int tool_subagent_wait(ToolCall *call)
{
    Run *run = call->run;
    LinkChild child;
    ChildAsk ask = { .agent = call->tool->agent,
                     .input = call->arguments,
                     .asked = FAMILY_UNLIMITED };
    int64_t deadline_ms = deadline_after(call->tool->timeout_ms);
    int r = body_make(call, &ask.body);
    if (r == 0) r = children_start_wait(run, &ask, call->arena, &child);
    if (r == -ECANCELED || r == -ENOMEM) return r;
    if (r < 0)
        return tool_problem(call, TOOL_OUTCOME_TROUBLE, "the agent was not started: %s",
                            diag_text());
    if (child.status)
        return tool_problem(call, TOOL_OUTCOME_FAILED, "the agent was not started: %.*s",
                            STR_ARG(child.detail));
    r = children_end_wait(run, child.id, MAX(deadline_ms - clock_mono_ms(), 0));
    if (r == -ETIMEDOUT) return timed_out_wait(call, child.id);
    return r == 0 ? result_wait(call, child.id) : r;
}
