#include "worker/child.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "sys/clock.h"
#include "worker/group.h"

#define KILL_WAIT_MS 5000 /* for the kernel to end a process after SIGKILL */
#define DRAIN_MS 1000     /* for the pipes after the child's end */
#define ARGS_BYTES_MAX ((size_t)4 << 20)

/* A child that runs, and its three pipes, a fiber each. */
typedef struct {
    const ChildOptions *options;
    Run *run;
    Process *process;
    const char *group; /* its cgroup; "": none */
    Program *life;
    int64_t late_ms; /* when it is late in its state */
    bool shielded;
    ChildResult *result;
    Buf line; /* of stderr, not yet ended; what is longer is dropped */
    AllowanceWatch watch;
    int reading; /* fibers that still read */
    Cond drained;
    FiberRef feeder, out_reader, err_reader, watcher;
} Pipes;

/* For whoever may not wait: what is only found by looking for it is left to the sweep. */
static void step_now(Program *life, Process *process, ProgramEvent event)
{
    if (program_step(life, event) == PROGRAM_DO_KILL) process_signal(process, SIGKILL);
}

/* --- stdin ------------------------------------------------------------------------------------ */

/* An agent that does not read leaves this fiber waiting; it is cancelled after the agent's end. */
static int feeder_main(void *arg)
{
    Pipes *pipes = arg;
    const Str *input = &pipes->options->input;
    int r = stream_write_wait(process_stdin(pipes->process), input, 1, DEADLINE_NONE);
    if (r != -ECANCELED) process_close_stdin(pipes->process);
    return r;
}

/* --- stdout ----------------------------------------------------------------------------------- */

static int reader_end(Pipes *pipes, int r)
{
    assert(pipes->reading > 0);
    pipes->reading--;
    cond_signal(&pipes->drained);
    return r;
}

static int out_main(void *arg)
{
    Pipes *pipes = arg;
    Stream *stream = process_stdout(pipes->process);
    Str got;
    int r;
    while ((r = stream_fill_wait(stream, 0, DEADLINE_NONE, &got)) == 0) {
        if (!buf_add(&pipes->result->output, got)) {
            pipes->result->too_large = true;
            step_now(pipes->life, pipes->process, PROGRAM_ON_FLOOD);
            break;
        }
        stream_consume(stream, got.len);
    }
    return reader_end(pipes, r);
}

/* --- stderr ----------------------------------------------------------------------------------- */

/* Keeps the end of what was written, by whole lines. */
static void tail_add(ChildResult *result, Str line)
{
    line = str_sub(line, 0, CHILD_TAIL_BYTES / 2);
    size_t need = line.len + 1;
    if (result->tail_len + need > CHILD_TAIL_BYTES) {
        size_t drop = result->tail_len + need - CHILD_TAIL_BYTES;
        const char *end = memchr(result->tail + drop - 1, '\n', result->tail_len - drop + 1);
        drop = end ? (size_t)(end - result->tail) + 1 : result->tail_len;
        result->tail_len -= drop;
        memmove(result->tail, result->tail + drop, result->tail_len);
    }
    assert(result->tail_len + need <= CHILD_TAIL_BYTES);
    memcpy(result->tail + result->tail_len, line.ptr, line.len);
    result->tail_len += line.len;
    result->tail[result->tail_len++] = '\n';
}

static void line_end(Pipes *pipes)
{
    Str line = buf_str(&pipes->line);
    if (str_ends_with(line, STR("\r"))) line.len--;
    task_log_add(&pipes->run->log, TASK_LOG_STDERR, line);
    if (line.len) tail_add(pipes->result, line);
    buf_clear(&pipes->line);
}

static void line_add(Pipes *pipes, Str part)
{
    assert(pipes->line.len <= LOG_LINE_BYTES_MAX);
    size_t room = LOG_LINE_BYTES_MAX - pipes->line.len;
    buf_add(&pipes->line, str_sub(part, 0, room)); /* cut: the rest of the line is dropped */
}

static void err_split(Pipes *pipes, Str bytes)
{
    while (bytes.len) {
        bool ended;
        Str part;
        bytes = str_split(bytes, '\n', &part, &ended);
        line_add(pipes, part);
        if (ended) line_end(pipes);
    }
}

static int err_main(void *arg)
{
    Pipes *pipes = arg;
    Stream *stream = process_stderr(pipes->process);
    Str got;
    int r;
    while ((r = stream_fill_wait(stream, 0, DEADLINE_NONE, &got)) == 0) {
        err_split(pipes, got);
        stream_consume(stream, got.len);
        if (fiber_yield_wait() < 0) break; /* a flood must not hold the loop */
    }
    if (pipes->line.len) line_end(pipes);
    return reader_end(pipes, r);
}

/* --- limits ----------------------------------------------------------------------------------- */

static int watcher_main(void *arg)
{
    Pipes *pipes = arg;
    return allowance_watch_wait(&pipes->watch);
}

static int watch_start(Pipes *pipes)
{
    const ResourceLimits *limits = &pipes->run->version->spec.resources;
    pipes->watch = (AllowanceWatch){ .limits = limits,
                                     .session = process_pid(pipes->process),
                                     .scratch = pipes->run->scratch,
                                     .homes = pipes->run->host->dir,
                                     .cgroup = pipes->group };
    if (!allowance_watched(limits)) return 0;
    return fiber_spawn("limits", watcher_main, pipes, &pipes->watcher);
}

/* Whether a limit is why it failed. */
static void watch_end_wait(Pipes *pipes)
{
    ChildResult *result = pipes->result;
    fiber_cancel(pipes->watcher);
    fiber_join_wait(pipes->watcher, NULL);
    if (!result->how.signal && !result->how.exit_code) return;
    result->over = allowance_blame(&pipes->watch, result->how.signal, result->how.exit_code,
                                   str_make(result->tail, result->tail_len));
    if (result->over == RESOURCE_NONE) return;
    atomic_fetch_add(&pipes->run->host->counters.limits_hit[result->over], 1);
    LOG_WARN("limit reached", LOG_CSTR("limit", resource_name(result->over)),
             LOG_INT("memoryBytes", pipes->watch.use.memory_bytes),
             LOG_INT("processes", pipes->watch.use.processes));
}

/* --- life ------------------------------------------------------------------------------------- */

static int pipes_start(Pipes *pipes)
{
    int r = fiber_spawn("child stdin", feeder_main, pipes, &pipes->feeder);
    if (r == 0) r = fiber_spawn("child stdout", out_main, pipes, &pipes->out_reader);
    if (r == 0) pipes->reading++;
    if (r == 0) r = fiber_spawn("child stderr", err_main, pipes, &pipes->err_reader);
    if (r == 0) pipes->reading++;
    if (r == 0) r = watch_start(pipes);
    return r < 0 ? diag_set(r, "no fibers for the program's pipes") : 0;
}

static void pipes_stop_wait(Pipes *pipes)
{
    fiber_cancel(pipes->feeder);
    fiber_cancel(pipes->out_reader);
    fiber_cancel(pipes->err_reader);
    fiber_join_wait(pipes->feeder, NULL);
    fiber_join_wait(pipes->out_reader, NULL);
    fiber_join_wait(pipes->err_reader, NULL);
}

/* By what the processes of an agent are known that have moved away: their home, or the task's key
 * when tools have the same home, which are not given it. NULL: it is none. */
static const char *mark_of(const Pipes *pipes)
{
    Run *run = pipes->run;
    if (!pipes->options->agent) return NULL;
    if (!run->tools_started) return arena_printf(&run->arena, "HOME=%s/home", run->scratch).ptr;
    return arena_printf(&run->arena, "OPENAI_API_KEY=%s", gateway_task_key(run->gateway)).ptr;
}

static int64_t late_at(const ChildOptions *o, ProgramState state)
{
    switch (state) {
    case PROGRAM_RUNNING: return o->deadline_ms;
    case PROGRAM_ASKED: return deadline_after(o->grace_ms);
    case PROGRAM_KILLED: return deadline_after(KILL_WAIT_MS);
    case PROGRAM_READING: /* a process that left the group and holds the pipes is not waited for */
    case PROGRAM_EMPTYING: return deadline_after(DRAIN_MS);
    default: return DEADLINE_NONE;
    }
}

static void sweep_wait(const Pipes *pipes, ProgramAction action)
{
    const char *homes = pipes->run->host->dir;
    if (!pipes->options->agent) group_leave_wait(pipes->group);
    else if (action == PROGRAM_DO_SWEEP) allowance_sweep_wait(pipes->group, mark_of(pipes), homes);
    else allowance_end_wait(pipes->group, 0, mark_of(pipes), homes);
}

/* What follows an event, and what that leads to. */
static void step_wait(Pipes *pipes, ProgramEvent event)
{
    ProgramAction action = program_step(pipes->life, event);
    int pid = process_pid(pipes->process);
    const char *homes = pipes->run->host->dir;
    switch (action) {
    case PROGRAM_DO_NOTHING: break;
    case PROGRAM_DO_ASK: process_signal(pipes->process, SIGTERM); break;
    case PROGRAM_DO_KILL:
        allowance_end_wait(pipes->group, pid, mark_of(pipes), homes);
        process_signal(pipes->process, SIGKILL);
        break;
    case PROGRAM_DO_ABANDON:
    case PROGRAM_DO_SWEEP:
        if (action == PROGRAM_DO_ABANDON) LOG_ERROR("a process does not end", LOG_INT("pid", pid));
        sweep_wait(pipes, action);
        action = program_step(pipes->life, PROGRAM_ON_SWEPT);
        assert(action == PROGRAM_DO_NOTHING);
        break;
    }
    pipes->late_ms = late_at(pipes->options, pipes->life->state);
}

/* The next event: 0 with *ret, or what the program is made to end for, too. */
static int event_wait(Pipes *pipes, ProgramEvent *ret)
{
    int r = 0;
    if (program_lives(pipes->life)) {
        bool going = pipes->life->state == PROGRAM_RUNNING;
        r = process_exit_wait(pipes->process, pipes->late_ms, &pipes->result->how);
        *ret = r == 0 ? PROGRAM_ON_EXIT : PROGRAM_ON_LATE;
        if (r == -ECANCELED)
            *ret = pipes->run->stop >= RUN_KILLED ? PROGRAM_ON_STOP_NOW : PROGRAM_ON_STOP;
        return going || r == -ECANCELED ? r : 0;
    }
    while (r == 0 && pipes->reading > 0) r = cond_wait(&pipes->drained, pipes->late_ms);
    *ret = r == 0 ? PROGRAM_ON_READ : PROGRAM_ON_LATE;
    return 0;
}

/* A cancelled fiber is told so once; the end of its program is awaited all the same. */
static void shield_once(Pipes *pipes)
{
    if (!pipes->shielded) fiber_shield();
    pipes->shielded = true;
}

/* What an agent has started ends with it, however it ended. */
static int live_wait(Pipes *pipes)
{
    int r = pipes_start(pipes);
    step_wait(pipes, PROGRAM_ON_STARTED);
    if (r < 0) step_wait(pipes, PROGRAM_ON_STOP);
    while (pipes->life->state != PROGRAM_DONE) {
        ProgramEvent event;
        if (r < 0 || !program_lives(pipes->life)) shield_once(pipes);
        int ended = event_wait(pipes, &event);
        if (r == 0) r = ended;
        if (ended < 0) shield_once(pipes);
        step_wait(pipes, event);
    }
    shield_once(pipes);
    pipes_stop_wait(pipes);
    watch_end_wait(pipes);
    fiber_unshield();
    return r;
}

static int child_wait(const ChildOptions *o, Process *process, const char *group, Program *life,
                      ChildResult *ret)
{
    Pipes pipes = {
        .options = o, .run = o->run, .process = process, .group = group, .life = life, .result = ret
    };
    buf_init(&pipes.line, LOG_LINE_BYTES_MAX);
    cond_init(&pipes.drained);
    int r = live_wait(&pipes);
    buf_deinit(&pipes.line);
    return r;
}

void child_stop_now(Run *run)
{
    if (run->process) step_now(run->life, run->process, PROGRAM_ON_STOP_NOW);
}

static int argv_make(const Str *command, size_t command_n, Arena *arena, const char *const **ret)
{
    const char **argv = ARENA_ARRAY(arena, const char *, command_n + 1);
    if (!argv) return -ENOMEM;
    for (size_t i = 0; i < command_n; i++)
        if (!(argv[i] = arena_cstr(arena, command[i]))) return -ENOMEM;
    *ret = argv;
    return 0;
}

int child_start_wait(Run *run, const Str *command, size_t command_n, bool agent,
                     char ret_group[CGROUP_PATH_MAX], Process **ret)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    ProcessOptions options = { .cwd = run->version->dir };
    allowance_of_process(&run->version->spec.resources, &options);
    if (command_n == 0) return diag_set(-ENOENT, "no command is given");
    int r = run_scratch_wait(run);
    if (r < 0) return r;
    run->tools_started |= !agent;
    arena_init(&arena, ARGS_BYTES_MAX);
    r = argv_make(command, command_n, &arena, &options.argv);
    if (r == 0) r = run_env(run, &arena, agent, &options.env);
    if (r < 0) return diag_set(r, "the command line is too long");
    group_of_run_wait(run, ret_group);
    options.cgroup = ret_group;
    r = process_spawn(&options, ret);
    if (r < 0) group_leave_wait(ret_group);
    return r;
}

int child_run_wait(const ChildOptions *o, ChildResult *ret)
{
    CLEANUP(process_freep) Process *process = NULL;
    char group[CGROUP_PATH_MAX];
    assert(ret->output.max == o->output_bytes_max);
    int r = child_start_wait(o->run, o->command, o->command_n, o->agent, group, &process);
    if (r < 0) return r;
    Program life = { .state = PROGRAM_NEW };
    assert(!o->agent || !o->run->process);
    if (o->agent) o->run->process = process, o->run->life = &life;
    r = child_wait(o, process, group, &life, ret);
    if (o->agent) o->run->process = NULL;
    return r;
}

ChildResult *child_result_new(size_t output_bytes_max)
{
    ChildResult *result = xcalloc(1, sizeof *result);
    buf_init(&result->output, output_bytes_max);
    return result;
}

void child_result_free(ChildResult *result)
{
    if (!result) return;
    buf_deinit(&result->output);
    free(result);
}
