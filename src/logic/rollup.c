#include "logic/rollup.h"

#include <math.h>

/* --- histograms ------------------------------------------------------------------------------ */

#define SUB_BITS 3
#define SUB_N (1 << SUB_BITS) /* buckets an octave; values below have one each */
#define VALUE_MAX (INT64_C(1) << 34)

static size_t bucket_of(int64_t value)
{
    if (value < SUB_N) return value < 0 ? 0 : (size_t)value;
    uint64_t v = (uint64_t)MIN(value, VALUE_MAX - 1);
    unsigned octave = 63 - (unsigned)__builtin_clzll(v) - SUB_BITS;
    return SUB_N * (octave + 1) + (size_t)(v >> octave & (SUB_N - 1));
}

static int64_t bucket_most(size_t bucket)
{
    if (bucket < SUB_N) return (int64_t)bucket;
    unsigned octave = (unsigned)(bucket / SUB_N) - 1;
    return (((int64_t)(SUB_N + bucket % SUB_N) + 1) << octave) - 1;
}

static_assert(HISTOGRAM_BUCKETS == SUB_N * (34 - SUB_BITS + 1), "the last bucket ends at 2^34 - 1");

void histogram_add(Histogram *h, int64_t value)
{
    h->n[bucket_of(value)]++;
}

void histogram_merge(Histogram *into, const Histogram *from)
{
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) into->n[i] += from->n[i];
}

int64_t histogram_count(const Histogram *h)
{
    int64_t sum = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) sum += h->n[i];
    return sum;
}

int64_t histogram_quantile(const Histogram *h, double q)
{
    assert(q > 0 && q <= 1);
    int64_t count = histogram_count(h), seen = 0;
    if (count == 0) return 0;
    int64_t rank = MAX(1, (int64_t)ceil(q * (double)count));
    size_t i = 0;
    while ((seen += h->n[i]) < rank) i++;
    return bucket_most(i);
}

int64_t histogram_above(const Histogram *h, int64_t value)
{
    int64_t sum = 0;
    for (size_t i = bucket_of(value) + 1; i < HISTOGRAM_BUCKETS; i++) sum += h->n[i];
    return sum;
}

/* --- spans ----------------------------------------------------------------------------------- */

static const int64_t span_ms[ROLLUP_SPANS_N_] = { 60000, 3600000, 86400000 };

int64_t rollup_start_ms(RollupSpan span, int64_t at_ms)
{
    assert(span < ROLLUP_SPANS_N_ && at_ms >= 0);
    return at_ms - at_ms % span_ms[span];
}

int64_t rollup_end_ms(RollupSpan span, int64_t at_ms)
{
    return rollup_start_ms(span, at_ms) + span_ms[span];
}

/* --- rollups --------------------------------------------------------------------------------- */

void rollup_add_task(Rollup *r, const RollupTask *task)
{
    if (task->outcome == OUTCOME_CANCELED) {
        r->canceled++;
        return;
    }
    r->succeeded += task->outcome == OUTCOME_SUCCEEDED;
    r->failed += task->outcome == OUTCOME_FAILED;
    r->timed_out += task->outcome == OUTCOME_TIMED_OUT;
    r->escalated += task->escalated;
    r->cost_nusd += task->cost_nusd;
    r->tokens += task->tokens;
    r->llm_calls += task->llm_calls;
    r->tool_calls += task->tool_calls;
    histogram_add(&r->latency_ms, task->latency_ms);
    histogram_add(&r->tool_calls_a_task, task->tool_calls);
    if (task->has_fingerprint) pattern_count(&r->pattern, task->fingerprint);
}

/* The tool's place, a new one if there is room, else NULL. */
static RollupTool *tool_place(Rollup *r, Str name)
{
    name = str_sub(name, 0, ROLLUP_TOOL_BYTES);
    for (int32_t i = 0; i < r->tools_n; i++)
        if (str_eq(str_of(r->tools[i].name), name)) return &r->tools[i];
    if (r->tools_n == ROLLUP_TOOLS_MAX) return NULL;
    RollupTool *tool = &r->tools[r->tools_n++];
    str_copy(tool->name, sizeof(tool->name), name);
    return tool;
}

static void count_tool(Rollup *r, Str name, int64_t calls, int64_t tasks)
{
    RollupTool *tool = tool_place(r, name);
    if (!tool) {
        r->other_calls += calls;
        return;
    }
    tool->calls += calls;
    tool->tasks += tasks;
}

void rollup_add_tool(Rollup *r, Str name, int64_t calls)
{
    if (calls > 0) count_tool(r, name, calls, 1);
}

void rollup_add_score(Rollup *r, double score)
{
    assert(score >= 0 && score <= 1);
    r->scores++;
    r->score_sum += llround(score * ROLLUP_SCORE_ONE);
    r->score_squares += llround(score * score * ROLLUP_SCORE_ONE);
}

void rollup_merge(Rollup *into, const Rollup *from)
{
    into->succeeded += from->succeeded;
    into->failed += from->failed;
    into->timed_out += from->timed_out;
    into->canceled += from->canceled;
    into->escalated += from->escalated;
    into->cost_nusd += from->cost_nusd;
    into->tokens += from->tokens;
    into->llm_calls += from->llm_calls;
    into->tool_calls += from->tool_calls;
    into->scores += from->scores;
    into->score_sum += from->score_sum;
    into->score_squares += from->score_squares;
    histogram_merge(&into->latency_ms, &from->latency_ms);
    histogram_merge(&into->tool_calls_a_task, &from->tool_calls_a_task);
    pattern_merge(&into->pattern, &from->pattern);
    for (int32_t i = 0; i < from->tools_n; i++) {
        const RollupTool *tool = &from->tools[i];
        count_tool(into, str_of(tool->name), tool->calls, tool->tasks);
    }
    into->other_calls += from->other_calls;
}

static void signal_scores(const Rollup *r, RollupSignals *ret)
{
    ret->scored = r->scores;
    if (r->scores == 0) return;
    double n = (double)r->scores, one = ROLLUP_SCORE_ONE;
    ret->quality = (double)r->score_sum / n / one;
    double variance = (double)r->score_squares / n / one - ret->quality * ret->quality;
    ret->quality_deviation = sqrt(fmax(0, variance));
}

RollupSignals rollup_signals(const Rollup *r)
{
    RollupSignals s = { .task_count = r->succeeded + r->failed + r->timed_out };
    signal_scores(r, &s);
    s.pattern_variance = pattern_variance(r->pattern.ones, r->pattern.n, PATTERN_BITS);
    if (s.task_count == 0) return s;
    double n = (double)s.task_count;
    s.completion_rate = (double)r->succeeded / n;
    s.error_rate = (double)(r->failed + r->timed_out) / n;
    s.escalation_rate = (double)r->escalated / n;
    s.cost_nusd = (double)r->cost_nusd / n;
    s.tokens = (double)r->tokens / n;
    s.llm_calls = (double)r->llm_calls / n;
    s.tool_calls = (double)r->tool_calls / n;
    s.latency_p50_ms = histogram_quantile(&r->latency_ms, 0.50);
    s.latency_p95_ms = histogram_quantile(&r->latency_ms, 0.95);
    s.latency_p99_ms = histogram_quantile(&r->latency_ms, 0.99);
    return s;
}

double rollup_tool_overuse(const Rollup *r, int64_t baseline_p95)
{
    int64_t n = histogram_count(&r->tool_calls_a_task);
    if (n == 0) return 0;
    return (double)histogram_above(&r->tool_calls_a_task, baseline_p95) / (double)n;
}
