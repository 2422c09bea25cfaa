#include "observe/signals.h"

#include <math.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/money.h"
#include "sys/entropy.h"

#define PAGE_MEMORY_MAX ((size_t)32 << 20)

/* One collection; the page's memory is emptied between pages. */
typedef struct {
    const SignalsQuery *query;
    Arena *arena; /* results */
    Arena page_arena;
    TaskFilter filter;
    char cursor[sizeof(PageCursor)];
    TaskPage page;
    Map by_version;
    Signals *out;
    size_t seen;
} Collector;

static void collector_deinit(Collector *c)
{
    map_deinit(&c->by_version);
    arena_deinit(&c->page_arena);
}

/* --- folding tasks ---------------------------------------------------------------------------- */

static bool is_judged(TaskState state)
{
    return state == TASK_SUCCEEDED || state == TASK_FAILED || state == TASK_TIMED_OUT ||
           state == TASK_ESCALATED;
}

static int run_add(Arena *arena, VersionSignals *v, int64_t ms)
{
    if (v->run_n == v->run_cap) {
        size_t cap = v->run_cap ? 2 * v->run_cap : 64;
        int64_t *bigger = arena_realloc(arena, v->run_ms, v->run_cap * sizeof *bigger,
                                        cap * sizeof *bigger);
        if (!bigger) return -ENOMEM;
        v->run_ms = bigger;
        v->run_cap = cap;
    }
    v->run_ms[v->run_n++] = MAX(ms, 0);
    return 0;
}

/* The version's record, made at its first task; NULL when there are too many or memory is out. */
static VersionSignals *version_of(Collector *c, const Task *task)
{
    VersionSignals *v = map_get(&c->by_version, task->version_id);
    if (v || c->out->n == SIGNALS_VERSIONS_MAX) return v;
    v = ARENA_NEW(c->arena, VersionSignals);
    if (!v) return NULL;
    v->agent = arena_str(c->arena, task->agent);
    v->version_id = arena_str(c->arena, task->version_id);
    if (!v->agent.ptr || !v->version_id.ptr) return NULL;
    map_put(&c->by_version, v->version_id, v);
    c->out->versions[c->out->n++] = v;
    return v;
}

static int task_fold(Collector *c, const Task *task)
{
    VersionSignals *v = version_of(c, task);
    if (!v) {
        c->out->truncated = true;
        return 0;
    }
    v->tasks++;
    v->by_state[task->state]++;
    if (!isnan(task->quality)) {
        v->scored++;
        v->quality_sum += task->quality;
    }
    if (!is_judged(task->state)) return 0;
    v->judged++;
    v->cost_nusd += task->usage.cost_nusd;
    v->tokens += task->usage.input_tokens + task->usage.output_tokens;
    v->llm_calls += task->usage.llm_calls;
    v->tool_calls += task->usage.tool_calls;
    if (task->started_at_ms == 0 || task->finished_at_ms == 0) return 0;
    return run_add(c->arena, v, task->finished_at_ms - task->started_at_ms);
}

/* Folds the page in. *ret_more: whether the next one may hold tasks of the window. */
static int page_fold(Collector *c, bool *ret_more)
{
    int64_t since_ms = c->query->now_ms - c->query->window_ms;
    *ret_more = false;
    for (size_t i = 0; i < c->page.n; i++) {
        if (c->page.tasks[i].created_at_ms < since_ms) return 0;
        if (++c->seen > SIGNALS_TASKS_MAX) {
            c->out->truncated = true;
            return 0;
        }
        int r = task_fold(c, &c->page.tasks[i]);
        if (r < 0) return r;
    }
    *ret_more = c->page.next.text[0] != '\0';
    return 0;
}

/* --- finishing -------------------------------------------------------------------------------- */

static int ms_cmp(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int ages_load(Db *db, void *arg)
{
    Collector *c = arg;
    for (size_t i = 0; i < c->out->n; i++) {
        Version version;
        arena_clear(&c->page_arena);
        int r = version_get(db, c->out->versions[i]->version_id, &c->page_arena, &version);
        if (r < 0 && r != -ENOENT) return r;
        if (r == 0) c->out->versions[i]->version_created_at_ms = version.created_at_ms;
    }
    return 0;
}

int signals_collect_wait(Queue *queue, const SignalsQuery *query, Arena *arena, Signals *ret)
{
    *ret = (Signals){ .versions = ARENA_ARRAY(arena, VersionSignals *, SIGNALS_VERSIONS_MAX) };
    if (!ret->versions) return -ENOMEM;
    CLEANUP(collector_deinit) Collector c = { .query = query, .arena = arena, .out = ret };
    arena_init(&c.page_arena, PAGE_MEMORY_MAX);
    map_init(&c.by_version, entropy_u64());
    c.filter = (TaskFilter){
        .state = -1, .lane = -1, .agent = query->agent, .limit = PAGE_ROWS_MAX
    };
    for (bool more = true; more;) {
        arena_clear(&c.page_arena);
        int r = queue_list_wait(queue, &c.filter, &c.page_arena, &c.page);
        if (r == 0) r = page_fold(&c, &more);
        if (r < 0) return r;
        str_copy(c.cursor, sizeof c.cursor, str_of(c.page.next.text));
        c.filter.cursor = str_of(c.cursor);
    }
    for (size_t i = 0; i < ret->n; i++)
        if (ret->versions[i]->run_n > 0)
            qsort(ret->versions[i]->run_ms, ret->versions[i]->run_n, sizeof(int64_t), ms_cmp);
    return store_read_wait(queue_store(queue), ages_load, &c);
}

/* --- figures ---------------------------------------------------------------------------------- */

double signals_rate(const VersionSignals *v, int64_t part)
{
    return v->judged ? (double)part / (double)v->judged : NAN;
}

double signals_error_rate(const VersionSignals *v)
{
    return signals_rate(v, v->by_state[TASK_FAILED] + v->by_state[TASK_TIMED_OUT]);
}

double signals_mean(const VersionSignals *v, int64_t total)
{
    return signals_rate(v, total);
}

double signals_quality(const VersionSignals *v)
{
    return v->scored ? v->quality_sum / (double)v->scored : NAN;
}

double signals_run_seconds(const VersionSignals *v, double quantile)
{
    assert(quantile > 0 && quantile <= 1);
    if (v->run_n == 0) return NAN;
    size_t rank = (size_t)ceil(quantile * (double)v->run_n);
    return (double)v->run_ms[MAX(rank, (size_t)1) - 1] / 1000;
}

static void kf64(JsonOut *out, const char *key, double value)
{
    json_out_key(out, key);
    json_out_f64(out, value);
}

static void cost_write(JsonOut *out, const VersionSignals *v)
{
    char usd[MONEY_TEXT_MAX];
    int64_t mean_nusd = v->judged ? v->cost_nusd / v->judged : 0;
    json_out_key(out, "tokenCostPerTask");
    if (v->judged == 0) json_out_null(out);
    else json_out_str(out, str_of(money_text(mean_nusd, usd)));
    json_out_key(out, "tokenCostPerTaskNusd");
    if (v->judged == 0) json_out_null(out);
    else json_out_i64(out, mean_nusd);
}

void signals_json(JsonOut *out, const VersionSignals *v, int64_t now_ms)
{
    json_out_object(out);
    json_out_kstr(out, "agent", v->agent);
    json_out_kstr(out, "versionId", v->version_id);
    json_out_key(out, "versionAge");
    if (v->version_created_at_ms == 0) json_out_null(out);
    else json_out_i64(out, MAX(now_ms - v->version_created_at_ms, 0) / 1000);
    json_out_ki64(out, "taskCount", v->tasks);
    json_out_ki64(out, "finishedCount", v->judged);
    kf64(out, "taskCompletionRate", signals_rate(v, v->by_state[TASK_SUCCEEDED]));
    kf64(out, "errorRate", signals_error_rate(v));
    kf64(out, "escalationRate", signals_rate(v, v->by_state[TASK_ESCALATED]));
    kf64(out, "qualityScore", signals_quality(v));
    cost_write(out, v);
    kf64(out, "tokensPerTask", signals_mean(v, v->tokens));
    kf64(out, "llmCallsPerTask", signals_mean(v, v->llm_calls));
    kf64(out, "toolCallsPerTask", signals_mean(v, v->tool_calls));
    kf64(out, "latencyP50", signals_run_seconds(v, 0.50));
    kf64(out, "latencyP95", signals_run_seconds(v, 0.95));
    kf64(out, "latencyP99", signals_run_seconds(v, 0.99));
    kf64(out, "responsePatternVariance", NAN);
    kf64(out, "patternShift", NAN);
    json_out_kraw(out, "toolCallDistribution", STR("null"));
    json_out_object_end(out);
}
