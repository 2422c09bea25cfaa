#include "logic/rollup.h"

#include <math.h>
#include <stdlib.h>

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

/* From where on the span's rollups lie within whole ones of the next: its start, or the end. */
static int64_t whole_from(RollupSpan span, int64_t at_ms)
{
    int64_t start = rollup_start_ms(span, at_ms);
    return start == at_ms ? at_ms : rollup_end_ms(span, at_ms);
}

static size_t tile_add(RollupTile *tiles, size_t n, RollupSpan span, int64_t from_ms, int64_t to_ms)
{
    if (from_ms >= to_ms) return n;
    tiles[n] = (RollupTile){ span, from_ms, to_ms };
    return n + 1;
}

size_t rollup_cover(int64_t from_ms, int64_t to_ms, int64_t now_ms,
                    RollupTile ret[ROLLUP_TILES_MAX])
{
    if (from_ms >= to_ms) return 0;
    from_ms = MAX(from_ms, 0);
    int64_t age = now_ms - from_ms;
    RollupSpan fine = age < ROLLUP_MINUTES_KEPT_MS - span_ms[ROLLUP_HOUR] ? ROLLUP_MINUTE
                      : age < ROLLUP_HOURS_KEPT_MS - span_ms[ROLLUP_DAY]  ? ROLLUP_HOUR
                                                                          : ROLLUP_DAY;
    from_ms = rollup_start_ms(fine, from_ms);
    to_ms = whole_from(fine, to_ms);
    /* up to the next coarser start, span by span; then down again */
    size_t n = 0;
    int64_t at = from_ms;
    for (RollupSpan span = fine; span < ROLLUP_SPANS_N_; span++) {
        int64_t next = span == ROLLUP_DAY ? rollup_start_ms(ROLLUP_DAY, to_ms)
                                          : whole_from(span + 1, at);
        next = MIN(MAX(next, at), rollup_start_ms(span, to_ms));
        n = tile_add(ret, n, span, at, next);
        at = MAX(at, next);
    }
    for (RollupSpan span = ROLLUP_DAY; span-- > fine;) {
        int64_t next = MAX(at, rollup_start_ms(span, to_ms));
        n = tile_add(ret, n, span, at, next);
        at = next;
    }
    return n;
}

/* --- sums ------------------------------------------------------------------------------------ */

/* The plain sums of a rollup, in the order in which they are written: new ones at the end. */
static const size_t sums[] = {
    offsetof(Rollup, succeeded), offsetof(Rollup, failed),        offsetof(Rollup, timed_out),
    offsetof(Rollup, canceled),  offsetof(Rollup, waiting),       offsetof(Rollup, escalated),
    offsetof(Rollup, degraded),  offsetof(Rollup, cost_nusd),     offsetof(Rollup, tokens),
    offsetof(Rollup, llm_calls), offsetof(Rollup, tool_calls),    offsetof(Rollup, scores),
    offsetof(Rollup, score_sum), offsetof(Rollup, score_squares), offsetof(Rollup, other_calls),
};
#define SUMS_N ARRAY_N(sums)

static int64_t *sum_at(Rollup *r, size_t i)
{
    return (int64_t *)(void *)((char *)r + sums[i]);
}

static const int64_t *sum_of(const Rollup *r, size_t i)
{
    return (const int64_t *)(const void *)((const char *)r + sums[i]);
}

/* --- rollups --------------------------------------------------------------------------------- */

/* sign: 1 to add it, -1 to take it back. */
static void count_task(Rollup *r, const RollupTask *task, int64_t sign)
{
    if (task->outcome == OUTCOME_CANCELED || task->degraded) {
        *(task->outcome == OUTCOME_CANCELED ? &r->canceled : &r->degraded) += sign;
        return;
    }
    r->succeeded += sign * (task->outcome == OUTCOME_SUCCEEDED);
    r->failed += sign * (task->outcome == OUTCOME_FAILED);
    r->timed_out += sign * (task->outcome == OUTCOME_TIMED_OUT);
    r->waiting += sign * (task->outcome == OUTCOME_ESCALATED);
    r->escalated += sign * task->escalated;
    r->cost_nusd += sign * task->cost_nusd;
    r->tokens += sign * task->tokens;
    r->llm_calls += sign * task->llm_calls;
    r->tool_calls += sign * task->tool_calls;
    r->latency_ms.n[bucket_of(task->latency_ms)] += sign;
    r->tool_calls_a_task.n[bucket_of(task->tool_calls)] += sign;
    if (task->has_input) r->input_bytes.n[bucket_of(task->input_bytes)] += sign;
    if (task->has_fingerprint) pattern_count(&r->pattern, task->fingerprint, sign);
}

void rollup_add_task(Rollup *r, const RollupTask *task)
{
    count_task(r, task, 1);
}

void rollup_remove_task(Rollup *r, const RollupTask *task)
{
    count_task(r, task, -1);
}

/* The tool's place, NULL when it has none: the names that come first have one, whichever came
 * earlier, so that the same tools are kept however rollups are merged. */
static RollupTool *tool_place(Rollup *r, Str name)
{
    int32_t at = 0;
    int order = 1;
    name = str_sub(name, 0, ROLLUP_TOOL_BYTES);
    while (at < r->tools_n && (order = str_cmp(str_of(r->tools[at].name), name)) < 0) at++;
    if (at < r->tools_n && order == 0) return &r->tools[at];
    if (at == ROLLUP_TOOLS_MAX) return NULL;
    if (r->tools_n == ROLLUP_TOOLS_MAX) r->other_calls += r->tools[--r->tools_n].calls;
    RollupTool *tool = &r->tools[at];
    memmove(tool + 1, tool, (size_t)(r->tools_n++ - at) * sizeof(*tool));
    *tool = (RollupTool){ .calls = 0 };
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

void rollup_remove_tool(Rollup *r, Str name, int64_t calls)
{
    if (calls > 0) count_tool(r, name, -calls, -1);
}

static void count_score(Rollup *r, double score, int64_t sign)
{
    assert(score >= 0 && score <= 1);
    r->scores += sign;
    r->score_sum += sign * llround(score * ROLLUP_SCORE_ONE);
    r->score_squares += sign * llround(score * score * ROLLUP_SCORE_ONE);
}

void rollup_add_score(Rollup *r, double score)
{
    count_score(r, score, 1);
}

void rollup_remove_score(Rollup *r, double score)
{
    count_score(r, score, -1);
}

void rollup_merge(Rollup *into, const Rollup *from)
{
    for (size_t i = 0; i < SUMS_N; i++) *sum_at(into, i) += *sum_of(from, i);
    histogram_merge(&into->latency_ms, &from->latency_ms);
    histogram_merge(&into->tool_calls_a_task, &from->tool_calls_a_task);
    histogram_merge(&into->input_bytes, &from->input_bytes);
    pattern_merge(&into->pattern, &from->pattern);
    for (int32_t i = 0; i < from->tools_n; i++) {
        const RollupTool *tool = &from->tools[i];
        count_tool(into, str_of(tool->name), tool->calls, tool->tasks);
    }
}

/* --- tools of a task ------------------------------------------------------------------------- */

void tool_use_add(Buf *out, Str name, int64_t calls)
{
    if (calls <= 0 || str_empty(name)) return;
    buf_printf(out, "%" PRId64 " ", calls);
    name = str_sub(name, 0, ROLLUP_TOOL_BYTES);
    for (size_t i = 0; i < name.len; i++)
        buf_add_char(out, (unsigned char)name.ptr[i] < ' ' ? '?' : name.ptr[i]);
    buf_add_char(out, '\n');
}

bool tool_use_next(Str *rest, Str *ret_name, int64_t *ret_calls)
{
    while (!str_empty(*rest)) {
        Str line, number;
        *rest = str_split(*rest, '\n', &line, NULL);
        *ret_name = str_split(line, ' ', &number, NULL);
        if (str_to_i64(number, ret_calls) == 0 && *ret_calls > 0 && !str_empty(*ret_name))
            return true;
    }
    return false;
}

/* --- as bytes -------------------------------------------------------------------------------- */

#define FORM 2        /* moves when the form does */
#define FORM_BEFORE 1 /* without inputs */

static void put(Buf *out, int64_t value)
{
    uint64_t v = (uint64_t)value << 1;
    if (value < 0) v = ~v; /* small negatives stay short */
    for (; v >= 0x80; v >>= 7) buf_add_char(out, (char)(v | 0x80));
    buf_add_char(out, (char)v);
}

/* Buckets in use: how many, then each as its distance from the one before and its count. */
static void put_histogram(Buf *out, const Histogram *h)
{
    int64_t used = 0;
    size_t last = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) used += h->n[i] != 0;
    put(out, used);
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        if (h->n[i] == 0) continue;
        put(out, (int64_t)(i - last));
        put(out, h->n[i]);
        last = i;
    }
}

void rollup_write(const Rollup *r, Buf *out)
{
    put(out, FORM);
    for (size_t i = 0; i < SUMS_N; i++) put(out, *sum_of(r, i));
    put_histogram(out, &r->latency_ms);
    put_histogram(out, &r->tool_calls_a_task);
    put_histogram(out, &r->input_bytes);
    put(out, r->pattern.n);
    for (int b = 0; r->pattern.n != 0 && b < PATTERN_BITS; b++) put(out, r->pattern.ones[b]);
    put(out, r->tools_n);
    for (int32_t i = 0; i < r->tools_n; i++) {
        Str name = str_of(r->tools[i].name);
        put(out, (int64_t)name.len);
        buf_add(out, name);
        put(out, r->tools[i].calls);
        put(out, r->tools[i].tasks);
    }
}

typedef struct {
    Str rest;
    bool broken;
} In;

static int64_t take(In *in)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (str_empty(in->rest)) break;
        uint8_t byte = (uint8_t)in->rest.ptr[0];
        in->rest = str_skip(in->rest, 1);
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
    }
    in->broken = true;
    return 0;
}

/* A number of 0..max; broken otherwise. */
static size_t take_n(In *in, size_t max)
{
    int64_t n = take(in);
    if (n >= 0 && (uint64_t)n <= max) return (size_t)n;
    in->broken = true;
    return 0;
}

static void take_histogram(In *in, Histogram *ret)
{
    size_t used = take_n(in, HISTOGRAM_BUCKETS), at = 0;
    for (size_t i = 0; i < used && !in->broken; i++) {
        at += take_n(in, HISTOGRAM_BUCKETS - 1 - at);
        ret->n[at] = take(in);
    }
}

static int compare_tools(const void *a, const void *b)
{
    return strcmp(((const RollupTool *)a)->name, ((const RollupTool *)b)->name);
}

static void take_tools(In *in, Rollup *ret)
{
    size_t n = take_n(in, ROLLUP_TOOLS_MAX);
    for (size_t i = 0; i < n && !in->broken; i++) {
        RollupTool *tool = &ret->tools[i];
        size_t len = take_n(in, MIN(ROLLUP_TOOL_BYTES, in->rest.len));
        str_copy(tool->name, sizeof(tool->name), str_sub(in->rest, 0, len));
        in->rest = str_skip(in->rest, len);
        tool->calls = take(in);
        tool->tasks = take(in);
    }
    ret->tools_n = (int32_t)n;
    qsort(ret->tools, n, sizeof(*ret->tools), compare_tools); /* the form before had no order */
}

int rollup_read(Str bytes, Rollup *ret)
{
    In in = { .rest = bytes };
    memset(ret, 0, sizeof(*ret));
    int64_t form = take(&in);
    if (form != FORM && form != FORM_BEFORE) return -EPROTO;
    for (size_t i = 0; i < SUMS_N; i++) *sum_at(ret, i) = take(&in);
    take_histogram(&in, &ret->latency_ms);
    take_histogram(&in, &ret->tool_calls_a_task);
    if (form == FORM) take_histogram(&in, &ret->input_bytes);
    ret->pattern.n = take(&in);
    for (int b = 0; ret->pattern.n != 0 && b < PATTERN_BITS; b++) ret->pattern.ones[b] = take(&in);
    take_tools(&in, ret);
    return in.broken || !str_empty(in.rest) ? -EPROTO : 0;
}

/* --- signals --------------------------------------------------------------------------------- */

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
    RollupSignals s = { .task_count = r->succeeded + r->failed + r->timed_out + r->waiting };
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
