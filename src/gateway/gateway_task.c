#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "codec/digest.h"
#include "codec/hex.h"
#include "gateway/gateway_limit.h"
#include "gateway/gateway_private.h"
#include "sys/entropy.h"

#define TASK_TEXT_BYTES_MAX (1024 * 1024)

/* --- one a loop ------------------------------------------------------------------------------- */

Gateway *gateway_new(const GatewayConfig *config)
{
    assert(config && config->prices);
    Gateway *gateway = xcalloc(1, sizeof *gateway);
    gateway->config = config;
    gateway->client = http_client_new();
    cache_init(&gateway->cache, entropy_u64());
    given_init(&gateway->given, entropy_u64());
    list_init(&gateway->tasks);
    list_init(&gateway->room.waiters);
    gateway->limits = limits_new(config);
    gateway->purse = purse_new(&gateway->control);
    ModelCounters *other = &gateway->models[GATEWAY_STATS_MODELS_MAX];
    str_copy(other->provider, sizeof other->provider, STR("other"));
    str_copy(other->model, sizeof other->model, STR("other"));
    return gateway;
}

void gateway_set_control(Gateway *gateway, const GatewayControl *control)
{
    gateway->control = control;
}

void gateway_budget_beat(Gateway *gateway, uint64_t epoch, bool wanted)
{
    purse_beat(gateway->purse, epoch, wanted);
}

void gateway_budget_reset(Gateway *gateway)
{
    purse_reset(gateway->purse);
}

void gateway_budget_close_wait(Gateway *gateway)
{
    purse_close_wait(gateway->purse);
}

void gateway_free(Gateway *gateway)
{
    if (!gateway) return;
    assert(atomic_load(&gateway->tasks_open) == 0);
    cache_deinit(&gateway->cache);
    given_deinit(&gateway->given);
    limits_free(gateway->limits);
    price_list_unref(gateway->prices);
    excess_clear(gateway);
    purse_free(gateway->purse);
    http_client_free(gateway->client);
    free(gateway);
}

const char *gateway_outcome_name(GatewayOutcome outcome)
{
    static const char *const names[GATEWAY_OUTCOME_N_] = { "complete",  "cut",     "upstream_error",
                                                           "unreached", "timeout", "stopped",
                                                           "refused" };
    assert(outcome < GATEWAY_OUTCOME_N_);
    return names[outcome];
}

/* --- a task ----------------------------------------------------------------------------------- */

static bool copy_str(Arena *arena, Str *s)
{
    *s = arena_str(arena, *s);
    return s->ptr != NULL;
}

static bool copy_strs(Arena *arena, const Str **list, size_t n)
{
    Str *copy = ARENA_ARRAY(arena, Str, MAX(n, 1));
    if (!copy) return false;
    for (size_t i = 0; i < n; i++) {
        copy[i] = (*list)[i];
        if (!copy_str(arena, &copy[i])) return false;
    }
    *list = copy;
    return true;
}

static bool copy_options(GatewayTask *task, const GatewayTaskOptions *options)
{
    GatewayTaskOptions *o = &task->options;
    *o = *options;
    return copy_str(&task->arena, &o->task_id) && copy_str(&task->arena, &o->agent) &&
           copy_str(&task->arena, &o->version_id) && copy_str(&task->arena, &o->model) &&
           copy_str(&task->arena, &o->traceparent) && copy_str(&task->arena, &o->user_id) &&
           copy_str(&task->arena, &o->tenant_id) && copy_str(&task->arena, &o->session_id) &&
           copy_strs(&task->arena, &o->fallbacks, o->fallbacks_n) &&
           copy_strs(&task->arena, &o->tools, o->tools_n);
}

static int64_t wall_deadline(const GatewayTaskOptions *options)
{
    int64_t by_task = options->deadline_ms ? options->deadline_ms : DEADLINE_NONE;
    int64_t wall_ms = options->limits.wall_ms, started_ms = options->spent.started_ms;
    if (wall_ms == CAP_NONE || wall_ms > DEADLINE_NONE - started_ms) return by_task;
    return MIN(by_task, started_ms + wall_ms);
}

static void task_free(GatewayTask *task)
{
    purse_owner_unref(task->owner);
    journal_close(task);
    arena_deinit(&task->arena);
    free(task);
}

static void key_make(GatewayTask *task)
{
    uint8_t random[32];
    char *at = task->key + strlen(GATEWAY_TASK_KEY_PREFIX);
    entropy_fill(random, sizeof random);
    memcpy(task->key, GATEWAY_TASK_KEY_PREFIX, strlen(GATEWAY_TASK_KEY_PREFIX));
    hex_encode(at, random, sizeof random);
}

const char *gateway_task_key(const GatewayTask *task)
{
    return task->key;
}

/* Every key is compared to its end: the time says nothing. */
GatewayTask *gateway_task_by_key(const Gateway *gateway, Str key)
{
    GatewayTask *found = NULL;
    if (key.len != GATEWAY_TASK_KEY_MAX - 1) return NULL;
    LIST_EACH (&gateway->tasks, node) {
        GatewayTask *task = CONTAINER_OF(node, GatewayTask, node);
        if (digest_eq(str_of(task->key), key)) found = task;
    }
    return found;
}

#define OWNER(options, member) ((options)->shadow ? STR_NULL : (options)->member)

int gateway_task_open(Gateway *gateway, const GatewayTaskOptions *options, GatewayTask **ret)
{
    assert(options->sink && options->sink->call_record_wait);
    assert(options->spent.started_ms > 0 && options->spent.in_flight == 0);
    GatewayTask *task = xcalloc(1, sizeof *task);
    task->gateway = gateway;
    arena_init(&task->arena, TASK_TEXT_BYTES_MAX);
    list_init(&task->calls);
    list_init(&task->counts);
    list_init(&task->visits);
    list_init(&task->door_visits);
    cond_init(&task->changed);
    key_make(task);
    task->totals.caps = options->spent;
    task->tools_run = options->spent.tool_calls;
    task->wall_deadline_ms = wall_deadline(options);
    int r = copy_options(task, options) ? 0 : diag_set(-ENOMEM, "the task's texts are too large");
    task->owner = purse_owner_ref(gateway->purse,
                                  &(BudgetOwner){ OWNER(options, agent), OWNER(options, tenant_id),
                                                  OWNER(options, user_id) });
    if (r == 0) journal_open(task);
    if (r == 0 && options->listen) r = task_listen(task);
    if (r < 0) {
        task_free(task);
        return r;
    }
    list_push_back(&gateway->tasks, &task->node);
    atomic_fetch_add(&gateway->tasks_open, 1);
    *ret = task;
    return 0;
}

uint16_t gateway_task_port(const GatewayTask *task)
{
    return task->server ? http_server_port(task->server) : 0;
}

const char *gateway_task_openai_url(const GatewayTask *task)
{
    return task->openai_url;
}

const char *gateway_task_anthropic_url(const GatewayTask *task)
{
    return task->anthropic_url;
}

void gateway_task_totals(const GatewayTask *task, GatewayTotals *ret)
{
    *ret = task->totals;
}

static int tool_refused(GatewayTask *task, CapReason reason)
{
    task_note_cap(task, reason);
    return diag_set(GATEWAY_E_CAP, "%s is reached", cap_reason_name(reason));
}

/* An answer may ask for more calls at once than the cap has left. */
static int count_asked(GatewayTask *task)
{
    int64_t limit = task->options.limits.tool_calls;
    if (task_past_deadline(task)) return tool_refused(task, CAP_BY_SECONDS);
    if (limit != CAP_NONE && task->tools_run >= limit) return tool_refused(task, CAP_BY_TOOL_CALLS);
    task->tools_asked--;
    task->tools_run++;
    return 0;
}

int gateway_task_count_tool(GatewayTask *task, bool asked, bool *ret_counted)
{
    assert(task->tools_asked >= 0 && task->tools_run >= 0);
    *ret_counted = false;
    if (asked && task->tools_asked > 0) return count_asked(task);
    CapVerdict verdict = cap_admit_tool(&task->options.limits, &task->totals.caps, clock_mono_ms());
    if (verdict.kind != CAP_ADMIT) return tool_refused(task, verdict.reason);
    task->tools_run++;
    *ret_counted = true;
    return 0;
}

void gateway_task_tool_replayed(GatewayTask *task, bool asked)
{
    if (!asked || task->tools_asked == 0) return;
    task->tools_asked--;
    task->tools_run++;
}

void task_note_asked_again(GatewayTask *task, int64_t n)
{
    assert(n >= 0);
    task->tools_asked += n;
    task->tools_run = MAX(task->tools_run - n, 0);
}

bool task_past_deadline(const GatewayTask *task)
{
    return clock_mono_ms() >= task->wall_deadline_ms;
}

void task_note_cap(GatewayTask *task, CapReason reason)
{
    assert(reason != CAP_BY_NOTHING);
    if (task->totals.stopped_by == CAP_BY_NOTHING) task->totals.stopped_by = reason;
}

FamilyAmount gateway_task_left(const GatewayTask *task)
{
    return family_left(&task->options.limits, &task->totals.caps);
}

void gateway_task_lend(GatewayTask *task, const FamilyAmount *amount)
{
    family_lend(&task->options.limits, &task->totals.caps, amount);
    task->lent_n++;
}

void gateway_task_lend_end(GatewayTask *task, const FamilyAmount *lent, const FamilyAmount *spent)
{
    assert(task->lent_n > 0);
    family_return(&task->options.limits, &task->totals.caps, lent, spent);
    task->lent_n--;
    cond_broadcast(&task->changed);
}

void gateway_task_capped(GatewayTask *task, CapReason reason)
{
    task_note_cap(task, reason);
}

void task_lent_wait(GatewayTask *task, bool begins)
{
    if (task->options.on_lent_wait) task->options.on_lent_wait(task->options.door_ctx, begins);
}

const char *task_stop_text(GatewayStop stop)
{
    static const char *const texts[GATEWAY_STOP_N_] = {
        [GATEWAY_STOP_NONE] = "",
        [GATEWAY_STOP_CANCELLED] = "the task was cancelled",
        [GATEWAY_STOP_DRAINED] = "the worker is shutting down; the task will be run elsewhere",
        [GATEWAY_STOP_STALE] = "the task is no longer held by this worker",
        [GATEWAY_STOP_AWAY] = "the server is ending: try again in a moment",
        [GATEWAY_STOP_FINISHED] = "the task has ended",
    };
    assert(stop < GATEWAY_STOP_N_);
    return texts[stop];
}

Problem task_stop_problem(GatewayStop stop)
{
    return stop == GATEWAY_STOP_AWAY ? PROBLEM_AWAY : PROBLEM_STOPPED;
}

void gateway_task_stop(GatewayTask *task, GatewayStop reason)
{
    assert(reason > GATEWAY_STOP_NONE && reason < GATEWAY_STOP_N_);
    bool first = task->totals.stop == GATEWAY_STOP_NONE;
    if (first || task->totals.stop == GATEWAY_STOP_FINISHED) task->totals.stop = reason;
    if (reason != GATEWAY_STOP_FINISHED) calls_abort(task);
    calls_wake(task);
    cond_broadcast(&task->changed);
}

void gateway_task_settle_wait(GatewayTask *task, int64_t deadline_ms)
{
    fiber_shield();
    gateway_task_stop(task, GATEWAY_STOP_FINISHED);
    if (task->server) http_server_drain(task->server);
    while (!list_empty(&task->calls)) {
        if (cond_wait(&task->changed, deadline_ms) != -ETIMEDOUT) continue;
        calls_abort(task);
        deadline_ms = DEADLINE_NONE;
    }
    fiber_unshield();
}

/* Those that are no model calls may still wait for a provider. */
static void visits_end_wait(GatewayTask *task, int64_t deadline_ms)
{
    while (!list_empty(&task->visits)) {
        if (cond_wait(&task->changed, deadline_ms) != -ETIMEDOUT) continue;
        LIST_EACH (&task->visits, node) fiber_cancel(CONTAINER_OF(node, Visit, node)->fiber);
        deadline_ms = DEADLINE_NONE;
    }
}

static void count_listener(const GatewayTask *task)
{
    Gateway *gateway = task->gateway;
    HttpServerStats stats;
    http_server_stats(task->server, &stats);
    atomic_fetch_add(&gateway->listener_refused, stats.refused_connections);
    atomic_fetch_add(&gateway->listener_bad,
                     stats.bad_requests + stats.timeouts + stats.body_too_large);
    atomic_fetch_add(&gateway->listener_stalls, stats.write_stalls);
}

void gateway_task_close_wait(GatewayTask *task, int64_t deadline_ms)
{
    if (!task) return;
    fiber_shield();
    gateway_task_settle_wait(task, deadline_ms);
    if (task->server) count_listener(task);
    if (task->server) http_server_close_wait(task->server, deadline_ms);
    visits_end_wait(task, deadline_ms);
    assert(list_empty(&task->calls) &&
           task->totals.caps.in_flight == task->options.spent.in_flight);
    fiber_unshield();
    list_remove(&task->node);
    atomic_fetch_sub(&task->gateway->tasks_open, 1);
    task_free(task);
}
