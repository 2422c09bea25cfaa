#include <signal.h>

#include "base/diag.h"
#include "sys/clock.h"
#include "worker/child.h"

#define EXIT_AGAIN 75 /* EX_TEMPFAIL of sysexits.h: failed, try again */

/* The detail: what happened, and the last lines of stderr. */
static int failed(Run *run, const ChildResult *child, const char *code, Str what)
{
    Str tail = str_trim(str_make(child->tail, child->tail_len));
    return run_fail(run, TASK_OUTCOME_FAILED_FINAL, code, "%.*s%s%.*s", STR_ARG(what),
                    tail.len ? "\n" : "", STR_ARG(tail));
}

static int killed(Run *run, const ChildResult *child)
{
    int signal = child->how.signal;
    const char *name = sigabbrev_np(signal);
    Str what = arena_printf(&run->arena, "the agent was killed by signal %d (SIG%s)", signal,
                            name ? name : "?");
    return failed(run, child, "agent_killed", what);
}

static int ended(Run *run, const ChildResult *child)
{
    int code = child->how.exit_code;
    Str what = arena_printf(&run->arena, "the agent ended with exit code %d", code);
    int r = failed(run, child, "agent_failed", what);
    if (code == EXIT_AGAIN) run->end.outcome = TASK_OUTCOME_FAILED_RETRYABLE;
    return r;
}

static int too_large(Run *run)
{
    bool own = run->version->spec.resources.output_bytes > 0;
    atomic_fetch_add(&run->host->counters.outputs_too_large, 1);
    run_fail(run, TASK_OUTCOME_FAILED_FINAL, "output_too_large",
             "the agent wrote more than %zu bytes to stdout%s", run_output_max(run),
             own ? " (limits.outputBytes in agent.yaml)" : "");
    run->end.stopped_by = resource_name(RESOURCE_OUTPUT);
    return 0;
}

static int end_read_wait(Run *run, const ChildResult *child)
{
    if (child->too_large) return too_large(run);
    if (child->over)
        return run_fail_limit(run, child->over, false,
                              str_trim(str_make(child->tail, child->tail_len)));
    if (child->how.signal) return killed(run, child);
    if (child->how.exit_code) return ended(run, child);
    return run_succeed_wait(run, buf_str(&child->output), false);
}

int run_process_wait(Run *run)
{
    const Spec *spec = &run->version->spec;
    CLEANUP(child_result_freep) ChildResult *child = child_result_new(run_output_max(run));
    CLEANUP(buf_deinit) Buf input = { 0 };
    buf_init(&input, RUN_ARENA_BYTES_MAX);
    int r = run_input(run, &input);
    if (r < 0) return r;
    ChildOptions options = {
        .run = run,
        .command = spec->command,
        .command_n = spec->command_n,
        .agent = true,
        .input = buf_str(&input),
        .output_bytes_max = run_output_max(run),
        .deadline_ms = DEADLINE_NONE, /* the supervisor has the clock */
        .grace_ms = run->host->grace_ms,
    };
    r = child_run_wait(&options, child);
    if (r == -ENOENT || r == -EACCES)
        return run_fail(run, TASK_OUTCOME_FAILED_FINAL, "command_not_found", "%s", diag_text());
    return r < 0 ? r : end_read_wait(run, child);
}
