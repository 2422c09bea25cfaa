#include "observe/signals.h"

#include <math.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/money.h"
#include "rollout/ingest.h"
#include "store/alarm_store.h"
#include "store/rollup_store.h"
#include "sys/entropy.h"

#define SCRATCH_BYTES_MAX ((size_t)4 << 20)

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    const SignalsQuery *query;
    Arena *arena; /* results */
    Arena scratch;
    Map by_version;
    Signals *out;
} Collector;

static void collector_deinit(Collector *c)
{
    map_deinit(&c->by_version);
    arena_deinit(&c->scratch);
}

/* The version's record, made at its first rollup; NULL when there are too many or memory is out. */
static VersionSignals *version_of(Collector *c, const RollupKey *key)
{
    VersionSignals *v = map_get(&c->by_version, key->version_id);
    if (v || c->out->n == SIGNALS_VERSIONS_MAX) return v;
    v = ARENA_NEW(c->arena, VersionSignals);
    if (!v) return NULL;
    v->agent = arena_str(c->arena, key->agent);
    v->version_id = arena_str(c->arena, key->version_id);
    v->pattern_shift = NAN;
    if (!v->agent.ptr || !v->version_id.ptr) return NULL;
    map_put(&c->by_version, v->version_id, v);
    c->out->versions[c->out->n++] = v;
    return v;
}

static int rollup_in(const RollupKey *key, const Rollup *rollup, void *ctx)
{
    Collector *c = ctx;
    VersionSignals *v = version_of(c, key);
    if (!v) {
        c->out->truncated = true;
        return 0;
    }
    rollup_merge(&v->sum, rollup);
    v->newest_ms = key->start_ms;
    return 0;
}

static int age_read(Db *db, Collector *c, VersionSignals *v)
{
    Version version;
    arena_clear(&c->scratch);
    int r = version_get(db, v->version_id, &c->scratch, &version);
    if (r == 0) v->version_created_at_ms = version.created_at_ms;
    return r == -ENOENT ? 0 : r;
}

static int shift_read(Db *db, VersionSignals *v, Watch *watch)
{
    int r = watch_get(db, v->agent, v->version_id, watch);
    if (r == 0) v->pattern_shift = watch_pattern_shift(watch, &v->sum);
    return r == -ENOENT || r == -EPROTO ? 0 : r;
}

static int anchors_read(Db *db, GraderSignals *ret)
{
    AnchorChart chart;
    int r = anchor_chart_get(db, ret->sum.agent, ret->sum.grader, &chart);
    bool any = r == 0 && chart.series_n > 0;
    ret->anchor_score = any ? chart.series[chart.series_n - 1] : NAN;
    ret->anchor_chart = any ? fmax(chart.stricter.c, chart.milder.c) : NAN;
    return r;
}

/* They come by version, so a version's are together. */
static int graders_collect(Db *db, Collector *c)
{
    GradeSum *sums;
    size_t n;
    int64_t from_ms = c->query->now_ms - c->query->window_ms;
    int r = grade_sum_list(db, c->query->agent, from_ms, c->arena, &sums, &n);
    if (r != 0) return r;
    GraderSignals *graders = ARENA_ARRAY(c->arena, GraderSignals, n + 1);
    if (!graders) return -ENOMEM;
    for (size_t i = 0; r == 0 && i < n; i++) {
        graders[i].sum = sums[i];
        r = anchors_read(db, &graders[i]);
        VersionSignals *v = map_get(&c->by_version, sums[i].version_id);
        if (!v) continue; /* its tasks came to rest before the window, in the same hour */
        if (v->graders_n++ == 0) v->graders = &graders[i];
    }
    return r;
}

static int collect_job(Db *db, void *arg)
{
    Collector *c = arg;
    const SignalsQuery *query = c->query;
    RollupTile tiles[ROLLUP_TILES_MAX];
    size_t n = rollup_cover(query->now_ms - query->window_ms, query->now_ms + 1, query->now_ms,
                            tiles);
    CLEANUP(freep) Rollup *scratch = xcalloc(1, sizeof(*scratch));
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++)
        r = rollup_each(db, &tiles[i], query->agent, scratch, rollup_in, c);
    CLEANUP(freep) Watch *watch = xcalloc(1, sizeof(*watch));
    for (size_t i = 0; r == 0 && i < c->out->n; i++) {
        r = age_read(db, c, c->out->versions[i]);
        if (r == 0) r = shift_read(db, c->out->versions[i], watch);
    }
    return r == 0 ? graders_collect(db, c) : r;
}

static int newest_first(const void *a, const void *b)
{
    const VersionSignals *x = *(VersionSignals *const *)a, *y = *(VersionSignals *const *)b;
    if (x->newest_ms != y->newest_ms) return x->newest_ms < y->newest_ms ? 1 : -1;
    return str_cmp(x->version_id, y->version_id);
}

int signals_collect_wait(Queue *queue, const SignalsQuery *query, Arena *arena, Signals *ret)
{
    *ret = (Signals){ .versions = ARENA_ARRAY(arena, VersionSignals *, SIGNALS_VERSIONS_MAX) };
    if (!ret->versions) return -ENOMEM;
    int r = ingest_wait(queue_store(queue), NULL);
    if (r != 0) return r;
    CLEANUP(collector_deinit) Collector c = { .query = query, .arena = arena, .out = ret };
    arena_init(&c.scratch, SCRATCH_BYTES_MAX);
    map_init(&c.by_version, entropy_u64());
    r = store_read_wait(queue_store(queue), collect_job, &c);
    if (r != 0) return r;
    for (size_t i = 0; i < ret->n; i++)
        ret->versions[i]->figures = rollup_signals(&ret->versions[i]->sum);
    qsort(ret->versions, ret->n, sizeof(ret->versions[0]), newest_first);
    return 0;
}

/* --- figures ---------------------------------------------------------------------------------- */

double signal_figure(SignalKind kind, const VersionSignals *v, int64_t now_ms)
{
    const RollupSignals *f = &v->figures;
    int64_t made_ms = v->version_created_at_ms;
    if (kind == SIGNAL_AGE) return made_ms == 0 ? NAN : (double)MAX(now_ms - made_ms, 0) / 1000;
    if (kind == SIGNAL_TASKS) return (double)(f->task_count + v->sum.canceled + v->sum.degraded);
    if (kind == SIGNAL_QUALITY) return f->scored > 0 ? f->quality : NAN;
    if (kind == SIGNAL_VARIANCE) return v->sum.pattern.n > 1 ? f->pattern_variance : NAN;
    if (kind == SIGNAL_SHIFT) return v->pattern_shift;
    if (f->task_count == 0) return NAN;
    switch (kind) {
    case SIGNAL_COMPLETION: return f->completion_rate;
    case SIGNAL_ERROR: return f->error_rate;
    case SIGNAL_ESCALATION: return f->escalation_rate;
    case SIGNAL_COST: return f->cost_nusd / 1e9;
    case SIGNAL_TOKENS: return f->tokens;
    case SIGNAL_LLM_CALLS: return f->llm_calls;
    case SIGNAL_TOOL_CALLS: return f->tool_calls;
    case SIGNAL_P50: return (double)f->latency_p50_ms / 1000;
    case SIGNAL_P95: return (double)f->latency_p95_ms / 1000;
    case SIGNAL_P99: return (double)f->latency_p99_ms / 1000;
    default: return NAN;
    }
}

static void kf64(JsonOut *out, const char *key, double value)
{
    json_out_key(out, key);
    json_out_f64(out, value);
}

static void cost_write(JsonOut *out, const VersionSignals *v)
{
    char usd[MONEY_TEXT_MAX];
    bool any = v->figures.task_count > 0;
    int64_t mean_nusd = any ? v->sum.cost_nusd / v->figures.task_count : 0;
    json_out_key(out, "tokenCostPerTask");
    if (any) json_out_str(out, str_of(money_text(mean_nusd, usd)));
    else json_out_null(out);
    json_out_key(out, "tokenCostPerTaskNusd");
    if (any) json_out_i64(out, mean_nusd);
    else json_out_null(out);
}

/* The share of each tool in all calls. */
static void tools_write(JsonOut *out, const Rollup *r)
{
    int64_t all = r->other_calls;
    for (int32_t i = 0; i < r->tools_n; i++) all += r->tools[i].calls;
    json_out_key(out, "toolCallDistribution");
    if (all <= 0) {
        json_out_null(out);
        return;
    }
    json_out_object(out);
    for (int32_t i = 0; i < r->tools_n; i++)
        if (r->tools[i].calls > 0)
            kf64(out, r->tools[i].name, (double)r->tools[i].calls / (double)all);
    if (r->other_calls > 0) kf64(out, "", (double)r->other_calls / (double)all);
    json_out_object_end(out);
}

static void graders_write(JsonOut *out, const VersionSignals *v)
{
    json_out_key(out, "graders");
    json_out_object(out);
    for (size_t i = 0; i < v->graders_n; i++) {
        const GraderSignals *grader = &v->graders[i];
        const GradeSum *sum = &grader->sum;
        json_out_key_str(out, sum->grader);
        json_out_object(out);
        kf64(out, "score", sum->scored > 0 ? sum->score_sum / (double)sum->scored : NAN);
        json_out_ki64(out, "scoredCount", sum->scored);
        json_out_ki64(out, "failedCount", sum->failed);
        json_out_ki64(out, "heldCount", sum->held);
        kf64(out, "anchorScore", grader->anchor_score);
        kf64(out, "anchorChart", grader->anchor_chart);
        json_out_object_end(out);
    }
    json_out_object_end(out);
}

void signals_json(JsonOut *out, const VersionSignals *v, int64_t now_ms)
{
    static const struct {
        const char *name;
        SignalKind kind;
    } rates[] = {
        { "taskCompletionRate", SIGNAL_COMPLETION },
        { "errorRate", SIGNAL_ERROR },
        { "escalationRate", SIGNAL_ESCALATION },
        { "qualityScore", SIGNAL_QUALITY },
    };
    static const struct {
        const char *name;
        SignalKind kind;
    } others[] = {
        { "tokensPerTask", SIGNAL_TOKENS },
        { "llmCallsPerTask", SIGNAL_LLM_CALLS },
        { "toolCallsPerTask", SIGNAL_TOOL_CALLS },
        { "latencyP50", SIGNAL_P50 },
        { "latencyP95", SIGNAL_P95 },
        { "latencyP99", SIGNAL_P99 },
        { "responsePatternVariance", SIGNAL_VARIANCE },
        { "patternShift", SIGNAL_SHIFT },
    };
    double age = signal_figure(SIGNAL_AGE, v, now_ms);
    json_out_object(out);
    json_out_kstr(out, "agent", v->agent);
    json_out_kstr(out, "versionId", v->version_id);
    json_out_key(out, "versionAge");
    if (isnan(age)) json_out_null(out);
    else json_out_i64(out, (int64_t)age);
    json_out_ki64(out, "taskCount", (int64_t)signal_figure(SIGNAL_TASKS, v, now_ms));
    json_out_ki64(out, "finishedCount", v->figures.task_count);
    json_out_ki64(out, "scoredCount", v->figures.scored);
    json_out_ki64(out, "degradedCount", v->sum.degraded);
    for (size_t i = 0; i < ARRAY_N(rates); i++)
        kf64(out, rates[i].name, signal_figure(rates[i].kind, v, now_ms));
    cost_write(out, v);
    for (size_t i = 0; i < ARRAY_N(others); i++)
        kf64(out, others[i].name, signal_figure(others[i].kind, v, now_ms));
    tools_write(out, &v->sum);
    graders_write(out, v);
    json_out_object_end(out);
}
