#include "worker/run.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/time_text.h"
#include "sys/clock.h"
#include "worker/child.h"
#include "worker/children.h"
#include "worker/door.h"
#include "worker/group.h"
#include "worker/mcp.h"
#include "worker/tool_once.h"

#define REPORT_DELAY_MS 100
#define REPORT_DELAY_MS_MAX 2000
#define SETTLE_MS 15000 /* for model calls under way when the agent has ended */
#define LOG_CLOSE_MS 3000
#define JOURNAL_PATIENCE_MS 30000
#define PARSE_ON_POOL_BYTES 65536
#define CROWDED_MS INT64_C(250) /* until a task that was given back may wait again */
#define CROWDED_MS_MAX 10000

/* --- ends ------------------------------------------------------------------------------------- */

int run_fail(Run *run, TaskOutcome outcome, const char *code, const char *fmt, ...)
{
    char text[RUN_DETAIL_BYTES_MAX];
    va_list args;
    assert(outcome != TASK_OUTCOME_SUCCEEDED && code);
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    Str detail = arena_str(&run->arena, str_of(text));
    run->end = (RunEnd){ .outcome = outcome, .code = code, .detail = detail };
    return 0;
}

/* As with other caps of a task, another attempt of its own would only reach it again. */
int run_fail_limit(Run *run, Resource over, bool crowd, Str last_words)
{
    const char *name = resource_name(over);
    int64_t limit = resource_limit(&run->version->spec.resources, over);
    run_fail(run, crowd ? TASK_OUTCOME_FAILED_RETRYABLE : TASK_OUTCOME_CAPPED, "resource_limit",
             "the agent used more than limits.%s in agent.yaml allows (%" PRId64 ")%s: "
             "raise it there, or let the agent use less%s%.*s",
             name, limit, crowd ? ", together with other tasks of its server" : "",
             last_words.len ? "\n" : "", STR_ARG(last_words));
    run->end.stopped_by = name;
    return 0;
}

typedef struct {
    Str text;
    bool objects_only;
    bool is_json;
} ParseJob;

/* The document takes up to 13 times the text; the pages are given back at once. */
static int parse_job(void *arg)
{
    ParseJob *job = arg;
    const Json *v;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    arena_init(&arena, job->text.len * 14 + 65536);
    if (json_parse(&arena, job->text, NULL, &v, NULL) < 0) return 0;
    JsonType type = json_type(v);
    job->is_json = !job->objects_only || type == JSON_OBJECT || type == JSON_ARRAY;
    return 0;
}

static Str text_quote(Arena *arena, Str text)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, text.len * 6 + 2);
    JsonOut out = json_out(&buf);
    json_out_str(&out, text);
    return json_out_ok(&out) ? arena_str(arena, buf_str(&buf)) : STR_NULL;
}

int run_succeed_wait(Run *run, Str text, bool objects_only)
{
    ParseJob job = { .text = str_trim(text), .objects_only = objects_only };
    RunEnd end = { .outcome = TASK_OUTCOME_SUCCEEDED };
    assert(!run->runner_ended);
    if (job.text.len) {
        if (job.text.len < PARSE_ON_POOL_BYTES) parse_job(&job);
        else work_wait(parse_job, &job);
        end.result = job.is_json ? arena_str(&run->arena, job.text)
                                 : text_quote(&run->arena, job.text);
        if (!end.result.ptr) return diag_set(-ENOMEM, "no memory for the result");
        conduct_text(&run->conduct, job.text);
    }
    run->end = end;
    return 0;
}

/* --- what an agent is given ------------------------------------------------------------------- */

static void limits_write(JsonOut *out, const CapLimits *limits)
{
    char usd[MONEY_TEXT_MAX];
    json_out_key(out, "limits");
    json_out_object(out);
    json_out_ki64(out, "tokensPerTask", limits->tokens);
    json_out_ki64(out, "toolCallsPerTask", limits->tool_calls);
    json_out_ki64(out, "secondsPerTask", limits->wall_ms / 1000);
    json_out_kcstr(out, "usdPerTask", money_text(limits->usd_nusd, usd));
    json_out_object_end(out);
}

int run_input(Run *run, Buf *buf)
{
    char at[TIME_TEXT_MAX];
    JsonOut out = json_out(buf);
    assert(run->version && run->deadline_at_ms);
    json_out_object(&out);
    json_out_kcstr(&out, "taskId", run->id);
    json_out_kstr(&out, "agent", run->task.agent);
    json_out_kstr(&out, "versionId", run->task.version_id);
    json_out_ki64(&out, "attempt", run->task.attempt);
    json_out_kraw(&out, "input", run->task.input.len ? run->task.input : STR("null"));
    json_out_kstr_or_null(&out, "sessionId", run->task.session_id);
    json_out_kstr_or_null(&out, "userId", run->task.user_id);
    json_out_key(&out, "flags");
    gateway_task_flags(run->gateway, &out);
    limits_write(&out, &run->limits);
    json_out_kcstr(&out, "deadline", time_format(run->deadline_at_ms, at));
    if (run->task.shadow) json_out_kbool(&out, "shadow", true);
    json_out_object_end(&out);
    return json_out_ok(&out) ? 0 : diag_set(-ENOMEM, "the input is too large");
}

typedef struct {
    Arena *arena;
    const char *items[24]; /* with the final NULL */
    size_t n;
    bool failed;
} Env;

static void env_add(Env *env, const char *name, const char *value)
{
    Str item = arena_printf(env->arena, "%s=%s", name, value);
    assert(env->n + 1 < ARRAY_N(env->items));
    env->failed |= !item.ptr;
    env->items[env->n++] = item.ptr;
}

static void env_add_str(Env *env, const char *name, Str value)
{
    char *text = value.len ? arena_cstr(env->arena, value) : NULL;
    if (text) env_add(env, name, text);
    env->failed |= value.len && !text;
}

static void env_add_models(Env *env, const Run *run)
{
    const Spec *spec = &run->version->spec;
    const char *anthropic = gateway_task_anthropic_url(run->gateway);
    env_add(env, "OPENAI_BASE_URL", gateway_task_openai_url(run->gateway));
    /* SDKs insist on a key; here it is dropped, at the server's port it names the task */
    const char *key = gateway_task_key(run->gateway);
    env_add(env, "OPENAI_API_KEY", key);
    env_add(env, "ANTHROPIC_BASE_URL", anthropic);
    env_add(env, "ANTHROPIC_API_KEY", key);
    env_add(env, "GANTRY_URL", anthropic);
    env_add_str(env, "GANTRY_MODEL", spec->model);
    if (spec->prompt_path.len) {
        Str path = arena_printf(env->arena, "%s/%.*s", run->version->dir,
                                STR_ARG(spec->prompt_path));
        env_add_str(env, "GANTRY_PROMPT_FILE", path);
    }
}

int run_env(const Run *run, Arena *arena, bool models, const char *const **ret)
{
    Env env = { .arena = arena };
    char dir[FS_PATH_MAX + 8];
    assert(run->scratch[0] == '/' && (!models || run->gateway));
    env_add(&env, "PATH", run->host->path);
    env_add(&env, "LANG", "C.UTF-8");
    snprintf(dir, sizeof dir, "%s/home", run->scratch);
    env_add(&env, "HOME", dir);
    snprintf(dir, sizeof dir, "%s/tmp", run->scratch);
    env_add(&env, "TMPDIR", dir);
    env_add(&env, "GANTRY_TASK_ID", run->id);
    if (run->task.shadow) env_add(&env, "GANTRY_SHADOW", "1");
    env_add_str(&env, "TRACEPARENT", run->task.traceparent);
    if (run->host->node_path) env_add(&env, "NODE_PATH", run->host->node_path);
    if (models) env_add_models(&env, run);
    const char **items = ARENA_ARRAY(arena, const char *, env.n + 1);
    if (env.failed || !items) return diag_set(-ENOMEM, "no memory for the environment");
    memcpy(items, env.items, env.n * sizeof *items);
    *ret = items;
    return 0;
}

/* --- stopping --------------------------------------------------------------------------------- */

static GatewayStop gateway_stop_of(RunStop why)
{
    switch (why) {
    case RUN_STALE: return GATEWAY_STOP_STALE;
    case RUN_CROWDED:
    case RUN_KILLED: return GATEWAY_STOP_DRAINED;
    default: return GATEWAY_STOP_CANCELLED;
    }
}

void run_stop(Run *run, RunStop why)
{
    assert(why != RUN_GOING);
    bool first = run->stop == RUN_GOING && !run->runner_ended;
    if (first || why == RUN_STALE) run->stop = why;
    if (run->gateway) gateway_task_stop(run->gateway, gateway_stop_of(why));
    if (why >= RUN_KILLED) child_stop_now(run);
    if (!run->runner_ended) fiber_cancel(run->runner);
    door_cancel(run);
}

/* --- reporting -------------------------------------------------------------------------------- */

typedef int (*ReportFn)(Run *run, const void *arg);

/* Again and again until the control plane has taken it or the lease is lost. Waits even for a
 * cancelled fiber; a worker that is torn down with its loop tries once. */
static int report_wait(Run *run, ReportFn send_wait, const void *arg)
{
    int64_t delay_ms = REPORT_DELAY_MS;
    int r;
    fiber_shield();
    while ((r = send_wait(run, arg)) < 0 && run->stop != RUN_STALE && !run->host->torn_down) {
        LOG_WARN("report not taken", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        fiber_sleep_wait(delay_ms);
        delay_ms = MIN(delay_ms * 2, REPORT_DELAY_MS_MAX);
    }
    fiber_unshield();
    return r < 0 && run->stop == RUN_STALE ? LINK_E_STALE : r;
}

/* A call to report, and what the control plane said to it last. */
typedef struct {
    const GatewayCall *call;
    int *said;
} CallReport;

static int call_send_wait(Run *run, const void *arg)
{
    const CallReport *report = arg;
    WorkerLink *link = run->host->link;
    return *report->said = link->ops->calls_wait(link, run->task.ref, run->worker_id, report->call,
                                                 1);
}

/* The link's outcome in the gateway's words. */
static int reported(Run *run, int r)
{
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) {
        run_stop(run, RUN_STALE);
        return -ESTALE;
    }
    return r > 0 ? -EIO : r;
}

/* What the call has cost is in the list until the control plane has it: also that of an attempt
 * that is not ours any more, which is recorded all the same. */
static int on_call_wait(void *ctx, const GatewayCall *call)
{
    Run *run = ctx;
    if (run->host->holds) holds_charge(run->host->holds, call);
    int said = 0;
    CallReport report = { call, &said };
    int r = report_wait(run, call_send_wait, &report);
    if (run->host->holds && (said == 0 || said == LINK_E_STALE)) holds_drop(run->host->holds, call);
    if (r == 0) conduct_model(&run->conduct, call);
    return reported(run, r);
}

/* What a lost lease had set aside is not there for calls that begin now. */
static int on_hold_wait(void *ctx, const GatewayCall *call)
{
    Run *run = ctx;
    if (run->stop == RUN_STALE) return -ESTALE;
    return run->host->holds ? holds_put(run->host->holds, call, run->task.ref) : 0;
}

static int journal_send_wait(Run *run, const void *arg)
{
    WorkerLink *link = run->host->link;
    return link->ops->journal_add_wait(link, run->task.ref, arg);
}

static int on_journal_add_wait(void *ctx, const JournalNew *recording)
{
    Run *run = ctx;
    return reported(run, report_wait(run, journal_send_wait, recording));
}

/* An agent that is retried waits for what it was answered before rather than pay for it again. */
static int on_journal_wait(void *ctx, const JournalAsk *ask, Arena *arena, JournalReply *ret)
{
    Run *run = ctx;
    WorkerLink *link = run->host->link;
    int64_t delay_ms = REPORT_DELAY_MS, until_ms = deadline_after(JOURNAL_PATIENCE_MS);
    int r;
    while ((r = link->ops->journal_wait(link, run->task.ref, ask, arena, ret)) < 0) {
        if (r == -ECANCELED || clock_mono_ms() + delay_ms > until_ms) return r;
        LOG_WARN("journal not read", LOG_CSTR("why", diag_text_or(r)),
                 LOG_INT("againMs", delay_ms));
        if (fiber_sleep_wait(delay_ms) < 0) return -ECANCELED;
        delay_ms = MIN(delay_ms * 2, REPORT_DELAY_MS_MAX);
    }
    return r == LINK_E_NO_RECORDING ? -ENOENT : reported(run, r);
}

static void on_note(void *ctx, const char *text)
{
    Run *run = ctx;
    task_log_printf(&run->log, "%s", text);
}

static int tool_send_wait(Run *run, const void *arg)
{
    WorkerLink *link = run->host->link;
    return link->ops->tools_wait(link, run->task.ref, arg, 1);
}

int run_record_tool_wait(Run *run, const ToolRecord *record)
{
    conduct_tool(&run->conduct, record);
    if (run->tool_records >= RUN_TOOL_RECORDS_MAX && !record->counted) {
        atomic_fetch_add(&run->host->counters.tools_not_recorded, 1);
        return 0;
    }
    run->tool_records++;
    int r = report_wait(run, tool_send_wait, record);
    if (r == 0) run->tools_counted += record->counted;
    if (r == LINK_E_STALE || r == LINK_E_NO_WORKER) {
        run_stop(run, RUN_STALE);
        return -ECANCELED;
    }
    if (r != 0) LOG_WARN("tool call not recorded", LOG_CSTR("why", diag_text()));
    return 0;
}

static int finish_send_wait(Run *run, const void *arg)
{
    WorkerLink *link = run->host->link;
    return link->ops->finish_wait(link, arg);
}

static TaskFinish finish_of(const Run *run, const GatewayTotals *totals)
{
    const RunEnd *end = &run->end;
    assert(end->outcome < TASK_OUTCOME_N_ && end->outcome != TASK_OUTCOME_LOST);
    assert(end->outcome == TASK_OUTCOME_SUCCEEDED || !end->result.len);
    /* tokens, money and the tool calls of answers came with the calls */
    int64_t told = run->task.spent.tool_calls + totals->usage.tool_calls + run->tools_counted;
    return (TaskFinish){
        .task = run->task.ref,
        .outcome = end->outcome,
        .result = end->result,
        .error_code = str_of(end->code),
        .error_detail = end->detail,
        .stopped_by = str_of(end->stopped_by),
        .sandbox = STR("none"),
        .retry_after_ms = end->retry_after_ms,
        .usage = { .tool_calls = MAX(totals->caps.tool_calls - told, 0) },
        .conduct = run->conducted,
    };
}

static int finish_wait(Run *run, const GatewayTotals *totals)
{
    TaskFinish finish = finish_of(run, totals);
    int r = report_wait(run, finish_send_wait, &finish);
    if (r != LINK_E_REFUSED) return r;
    LOG_WARN("result refused", LOG_CSTR("why", diag_text()));
    run_fail(run, TASK_OUTCOME_FAILED_FINAL, "result_refused", "%s", diag_text());
    finish = finish_of(run, totals);
    return report_wait(run, finish_send_wait, &finish);
}

/* --- the end of an attempt -------------------------------------------------------------------- */

static int switched_off(Run *run)
{
    return run_fail(run, TASK_OUTCOME_CANCELED, "switched_off",
                    "the flag \"tasks\" has switched such tasks off");
}

/* Ever longer, so that many that wait long do not keep the worker busy with beginning anew. */
static RunEnd end_crowded(const Run *run)
{
    int64_t times = MIN(MAX(run->task.attempt - 1, 0), 10);
    return (RunEnd){ .outcome = TASK_OUTCOME_RELEASED,
                     .retry_after_ms = MIN(CROWDED_MS << times, CROWDED_MS_MAX) };
}

static void end_late(Run *run)
{
    char at[TIME_TEXT_MAX];
    if (run->deadline_given) {
        run_fail(run, TASK_OUTCOME_TIMED_OUT, TASK_DEADLINE_CODE,
                 "the task's deadline, %s, passed while it ran",
                 time_format(run->deadline_at_ms, at));
        run->end.stopped_by = TASK_BY_DEADLINE;
        return;
    }
    run_fail(run, TASK_OUTCOME_TIMED_OUT, "time_limit",
             "the task ran longer than %" PRId64 " seconds", run->limits.wall_ms / 1000);
    run->end.stopped_by = cap_reason_name(CAP_BY_SECONDS);
}

/* A stop decides, unless the result was there before it. */
static void end_by_stop(Run *run)
{
    if (run->end.outcome == TASK_OUTCOME_SUCCEEDED) return;
    switch (run->stop) {
    case RUN_GOING:
    case RUN_STALE: break;
    case RUN_CANCELED:
        run->end = (RunEnd){ .outcome = TASK_OUTCOME_CANCELED, .code = "canceled" };
        break;
    case RUN_ESCALATED: run->end = (RunEnd){ .outcome = TASK_OUTCOME_ESCALATED }; break;
    case RUN_CROWDED: run->end = end_crowded(run); break;
    case RUN_SWITCHED_OFF: switched_off(run); break;
    case RUN_STUCK:
        atomic_fetch_add(&run->host->counters.stuck, 1);
        run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "stuck",
                 "no model call, tool call, log line or CPU time for %" PRId64 " ms",
                 run->host->stuck_ms);
        break;
    case RUN_TIMED_OUT: end_late(run); break;
    case RUN_KILLED: run->end = (RunEnd){ .outcome = TASK_OUTCOME_RELEASED }; break;
    }
}

/* A cap that refused a call is named whatever became of the task: an agent may succeed all the
 * same. When it failed, the cap is why. */
static void end_by_cap(Run *run, const GatewayTotals *totals)
{
    bool failed = run->end.outcome == TASK_OUTCOME_FAILED_FINAL ||
                  run->end.outcome == TASK_OUTCOME_FAILED_RETRYABLE;
    bool limit = run->end.outcome == TASK_OUTCOME_CAPPED && run->end.stopped_by;
    if (totals->stopped_by == CAP_BY_NOTHING || run->stop != RUN_GOING || limit) return;
    bool seconds = totals->stopped_by == CAP_BY_SECONDS, late = seconds && run->deadline_given;
    run->end.stopped_by = late ? TASK_BY_DEADLINE : cap_reason_name(totals->stopped_by);
    if (totals->stopped_by == CAP_BY_BUDGET) {
        const char *name = arena_cstr(&run->arena, str_of(totals->stopped_by_budget));
        if (name) run->end.stopped_by = name;
    }
    if (!failed) return;
    run->end.outcome = seconds ? TASK_OUTCOME_TIMED_OUT : TASK_OUTCOME_CAPPED;
    run->end.code = late ? TASK_DEADLINE_CODE : seconds ? "time_limit" : "cap_exceeded";
}

static int remove_job(void *arg)
{
    return fs_remove(arg);
}

/* What programs of tools have left behind ends with the attempt: its home, which stands in their
 * environment, is no other attempt's. */
static void scratch_remove_wait(Run *run)
{
    char mark[FS_PATH_MAX + 16];
    if (!run->scratch_used) return;
    snprintf(mark, sizeof mark, "HOME=%s/home", run->scratch);
    if (run->tools_started) {
        group_end_run_wait(run);
        allowance_end_wait("", 0, mark, run->host->dir);
    }
    int r = work_wait(remove_job, run->scratch);
    if (r < 0) LOG_WARN("cannot remove scratch space", LOG_CSTR("why", diag_text_or(r)));
}

static void gateway_settle_wait(Run *run, GatewayTotals *ret)
{
    *ret = (GatewayTotals){ .caps.tool_calls = run->task.spent.tool_calls };
    if (!run->gateway) return;
    gateway_task_settle_wait(run->gateway, deadline_after(SETTLE_MS));
    gateway_task_totals(run->gateway, ret); /* final: calls the agent left behind are in them */
    gateway_task_close_wait(TAKE(run->gateway), deadline_after(SETTLE_MS));
}

static void log_close_wait(Run *run)
{
    Str detail;
    str_split(run->end.detail, '\n', &detail, NULL); /* what follows are lines of this very log */
    if (run->end.code && run->stop != RUN_STALE)
        task_log_printf(&run->log, "%s%s%.*s", run->end.code, detail.len ? ": " : "",
                        STR_ARG(detail));
    task_log_close_wait(&run->log, deadline_after(LOG_CLOSE_MS));
    atomic_fetch_add(&run->host->counters.log_lines_dropped, run->log.dropped);
}

static void run_report(Run *run, int r)
{
    RunCounters *counters = &run->host->counters;
    int64_t ms = clock_mono_ms() - run->started_ms;
    if (r == 0) {
        atomic_fetch_add(&counters->ended[run->end.outcome], 1);
        LOG_INFO("task ended", LOG_CSTR("outcome", task_outcome_name(run->end.outcome)),
                 LOG_CSTR("code", run->end.code), LOG_INT("ms", ms));
        return;
    }
    atomic_fetch_add(&counters->stale, 1);
    if (r < 0) LOG_ERROR("end of task not reported", LOG_CSTR("why", diag_text_or(r)));
    else LOG_WARN("end of task not wanted any more", LOG_INT("fence", run->task.ref.fence));
}

static void run_end_wait(Run *run)
{
    GatewayTotals totals;
    assert(run->runner_ended && !run->process);
    door_close_wait(run);
    children_close_wait(run);
    mcp_close_wait(run);
    gateway_settle_wait(run, &totals);
    end_by_stop(run);
    end_by_cap(run, &totals);
    log_close_wait(run);
    run->conducted = conduct_end(&run->conduct, task_outcome_name(run->end.outcome), &run->arena);
    run_report(run, run->stop == RUN_STALE ? LINK_E_STALE : finish_wait(run, &totals));
    scratch_remove_wait(run);
    if (run->version) version_unref(run->host->versions, TAKE(run->version));
}

/* --- the runner ------------------------------------------------------------------------------- */

static int scratch_job(void *arg)
{
    const Run *run = arg;
    char dir[FS_PATH_MAX + 8];
    snprintf(dir, sizeof dir, "%s/home", run->scratch);
    int r = fs_dir_make(dir);
    snprintf(dir, sizeof dir, "%s/tmp", run->scratch);
    return r == 0 ? fs_dir_make(dir) : r;
}

int run_scratch_wait(Run *run)
{
    if (run->scratch_made) return 0;
    run->scratch_used = true; /* what is half made is removed, too */
    int r = work_wait(scratch_job, run);
    run->scratch_made |= r == 0;
    if (r == -ENOENT || r == -EACCES) return -EIO;
    return r == 0 && fiber_cancelled() ? -ECANCELED : r;
}

static void on_lent_wait(void *ctx, bool begins)
{
    children_waiting(ctx, begins);
}

static int gateway_open(Run *run)
{
    const Spec *spec = &run->version->spec;
    Str *tools = ARENA_ARRAY(&run->arena, Str, spec->tools.n + 1);
    if (!tools) return -ENOMEM;
    for (size_t i = 0; i < spec->tools.n; i++) tools[i] = spec->tools.items[i].name;
    run->sink = (GatewaySink){ .call_record_wait = on_call_wait,
                               .call_hold_wait = on_hold_wait,
                               .journal_wait = on_journal_wait,
                               .state_wait = on_journal_wait,
                               .journal_add_wait = on_journal_add_wait,
                               .note = on_note,
                               .ctx = run };
    const TaskUsage *spent = &run->task.spent;
    GatewayTaskOptions options = {
        .task_id = str_of(run->id),
        .agent = run->task.agent,
        .version_id = run->task.version_id,
        .attempt = run->task.attempt,
        .model = spec->model,
        .fallbacks = spec->fallbacks,
        .fallbacks_n = spec->fallbacks_n,
        .limits = run->limits,
        .spent = { .started_ms = run->started_ms,
                   .settled_tokens = spent->charged_tokens,
                   .settled_nusd = spent->cost_nusd,
                   .tool_calls = spent->tool_calls },
        .deadline_ms = run->deadline_ms,
        .traceparent = run->task.traceparent,
        .lane = run->task.lane,
        .user_id = run->task.user_id,
        .tenant_id = run->task.tenant_id,
        .session_id = run->task.session_id,
        .tools = tools,
        .tools_n = spec->tools.n,
        .declared = spec->tools_path.len ? &spec->tools : NULL,
        .sink = &run->sink,
        .listen = spec->runtime == RUNTIME_PROCESS ||
                  (spec->runtime == RUNTIME_SERVER && spec->command_n > 0),
        .door = door_handler,
        .door_ctx = run,
        .shadow = run->task.shadow,
        .on_lent_wait = on_lent_wait,
    };
    return gateway_task_open(run->host->gateway, &options, &run->gateway);
}

size_t run_output_max(const Run *run)
{
    size_t most = run->host->output_bytes_max;
    int64_t own = run->version->spec.resources.output_bytes;
    return own > 0 ? MIN((size_t)own, most) : most;
}

static void deadline_set(Run *run)
{
    assert(run->limits.wall_ms >= 0 && run->deadline_ms == DEADLINE_NONE);
    run->deadline_ms = run->started_ms + MIN(run->limits.wall_ms, INT64_MAX / 4);
    run->deadline_at_ms = clock_real_ms() + MIN(run->limits.wall_ms, TIME_MS_MAX / 2);
    run->deadline_given = run->task.given && run->limits.wall_ms >= run->task.remaining_ms;
    cond_broadcast(&run->changed);
}

static int prepare_wait(Run *run)
{
    RunHost *host = run->host;
    int r = task_log_open(&run->log, host->link, run->task.ref, run->task.attempt,
                          host->log_bytes_max);
    if (r == 0) r = version_ref_wait(host->versions, run->task.version_id, &run->version);
    if (r != 0) return r;
    r = spec_task_limits(&run->version->spec, run->task.limits, run->task.ran_ms,
                         run->task.remaining_ms, &run->limits);
    if (r < 0) return r;
    deadline_set(run);
    snprintf(run->scratch, sizeof run->scratch, "%s/tasks/%s-%" PRId64, host->dir, run->id,
             run->task.ref.fence);
    r = gateway_open(run);
    return r == 0 ? children_open_wait(run) : r;
}

static int runtime_wait(Run *run)
{
    if (fiber_cancelled()) return -ECANCELED; /* what cannot be abandoned has hidden it so far */
    if (!gateway_task_on(run->gateway)) run->host->flags_doubted_wait(run->host->ctx);
    if (!gateway_task_on(run->gateway)) return switched_off(run);
    switch (run->version->spec.runtime) {
    case RUNTIME_PROCESS: return run_process_wait(run);
    case RUNTIME_BUILTIN: return run_builtin_wait(run);
    case RUNTIME_SERVER: return run_server_wait(run);
    case RUNTIME_N_: break;
    }
    return diag_set(-EINVAL, "unknown runtime");
}

static void log_context_fill(const Run *run)
{
    LogContext *context = log_context();
    str_copy(context->task_id, sizeof context->task_id, str_of(run->id));
    /* 00-TRACE-PARENT-FLAGS */
    str_copy(context->trace_id, sizeof context->trace_id, str_sub(run->task.traceparent, 3, 32));
}

static int runner_main(void *arg)
{
    Run *run = arg;
    log_context_fill(run);
    int r = prepare_wait(run);
    if (r == 0) r = runtime_wait(run);
    if (r == LINK_E_NO_VERSION || r == -EBADMSG || r == -EINVAL)
        run_fail(run, TASK_OUTCOME_FAILED_FINAL, "version_unusable", "%s", diag_text_or(r));
    else if (r != 0 && r != -ECANCELED)
        run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "worker_trouble", "%s", diag_text_or(r));
    if (r == -ECANCELED && run->stop == RUN_GOING) run->stop = RUN_KILLED; /* the loop ends */
    run->runner_ended = true;
    cond_broadcast(&run->changed);
    return r;
}

/* --- the supervisor --------------------------------------------------------------------------- */

/* The task's time is over, or it is time to see whether the agent does anything. */
static void clock_look_wait(Run *run)
{
    if (clock_mono_ms() >= run->deadline_ms) run_stop(run, RUN_TIMED_OUT);
    else if (stuck_look_wait(run) && run->stop == RUN_GOING && !run->runner_ended)
        run_stop(run, RUN_STUCK);
}

/* Until the runner has ended. Only the loop's end cancels a supervisor. */
static void supervise_wait(Run *run)
{
    bool shielded = false;
    while (!run->runner_ended) {
        bool going = run->stop == RUN_GOING;
        int64_t look_at_ms = run->stuck.look_at_ms;
        int r = cond_wait(&run->changed, going ? MIN(run->deadline_ms, look_at_ms) : DEADLINE_NONE);
        if (r == -ETIMEDOUT) clock_look_wait(run);
        if (r == -ECANCELED) {
            run->host->torn_down = true;
            run_stop(run, RUN_KILLED);
            fiber_shield();
            shielded = true;
        }
    }
    if (shielded) fiber_unshield();
}

static void run_free(Run *run)
{
    assert(!run->gateway && !run->process && !run->version && !run->log.open);
    tool_once_close(run);
    conduct_deinit(&run->conduct);
    arena_deinit(&run->arena);
    free(run);
}

static int run_main(void *arg)
{
    Run *run = arg;
    log_context_fill(run);
    LOG_INFO("task started", LOG_STR("agent", run->task.agent),
             LOG_STR("version", str_sub(run->task.version_id, 0, 12)),
             LOG_INT("attempt", run->task.attempt));
    stuck_begin(run);
    if (run->stop == RUN_GOING && fiber_spawn("agent", runner_main, run, &run->runner) == 0)
        supervise_wait(run);
    run->runner_ended = true;
    run_end_wait(run);
    run->on_end(run, run->on_end_ctx);
    run_free(run);
    return 0;
}

/* --- starting --------------------------------------------------------------------------------- */

static int task_copy(Arena *arena, const LinkTask *from, LinkTask *to)
{
    Str *texts[] = { &to->agent,   &to->version_id, &to->input,
                     &to->limits,  &to->metadata,   &to->session_id,
                     &to->user_id, &to->tenant_id,  &to->traceparent };
    *to = *from;
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        *texts[i] = arena_str(arena, *texts[i]);
        if (!texts[i]->ptr) return -ENOMEM;
    }
    return 0;
}

int run_start(RunHost *host, const LinkTask *task, void (*on_end)(Run *, void *), void *ctx,
              Run **ret)
{
    Run *run = xcalloc(1, sizeof *run);
    assert(task->lane < LANE_N_ && task->ref.fence > 0 && on_end);
    run->host = host;
    run->worker_id = host->worker_id;
    run->on_end = on_end;
    run->on_end_ctx = ctx;
    run->started_ms = clock_mono_ms();
    run->deadline_ms = DEADLINE_NONE;
    uuid_text(task->ref.id, run->id);
    list_init(&run->node);
    list_init(&run->tools_once);
    list_init(&run->door_calls);
    list_init(&run->mcp_sessions);
    children_init(&run->children);
    cond_init(&run->changed);
    arena_init(&run->arena, RUN_ARENA_BYTES_MAX);
    conduct_init(&run->conduct);
    run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "worker_trouble", "the agent was not started");
    int r = task_copy(&run->arena, task, &run->task);
    if (r == 0) r = fiber_spawn("task", run_main, run, &run->supervisor);
    if (r < 0) {
        run_free(run);
        return r;
    }
    atomic_fetch_add(&host->counters.started, 1);
    *ret = run;
    return 0;
}
