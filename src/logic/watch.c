#include "logic/watch.h"

#include <math.h>
#include <stdio.h>

#define SCORE_NOISE 0.05   /* scores differ by this at least, whatever they did so far */
#define AMOUNT_NOISE 0.02  /* costs and tokens of a day, likewise, as a share */
#define LATENCY_NOISE 0.06 /* a bucket of the histogram */
#define PATTERN_NOISE 0.05 /* of patternShift, for one task */
#define PATTERN_BASELINE_DAYS 14
#define BASELINE_WEIGHT 3 /* days, where tools are compared */

static const struct {
    const char *name, *what;
    bool lower_is_worse;
} metrics[WATCH_N_] = {
    [WATCH_QUALITY] = { "qualityScore", "quality", true },
    [WATCH_ERRORS] = { "errorRate", "errors", false },
    [WATCH_ESCALATIONS] = { "escalationRate", "escalations", false },
    [WATCH_COST] = { "tokenCostPerTask", "cost a task", false },
    [WATCH_TOKENS] = { "tokensPerTask", "tokens a task", false },
    [WATCH_LATENCY] = { "latencyP95", "time a task (p95)", false },
    [WATCH_LOOPS] = { "toolOveruse", "tasks with unusually many tool calls", false },
    [WATCH_PATTERN] = { "patternShift", "patterns of answers", false },
    [WATCH_TOOLS] = { "toolCallDistribution", "tools called", false },
};

const char *watch_metric_name(WatchMetric metric)
{
    assert(metric < WATCH_N_);
    return metrics[metric].name;
}

int watch_metric_from(Str name, WatchMetric *ret)
{
    for (WatchMetric m = 0; m < WATCH_N_; m++) {
        if (!str_eq(name, str_of(metrics[m].name))) continue;
        *ret = m;
        return 0;
    }
    return -EINVAL;
}

/* Rates of false alarms add up: half is quality's, the rest is shared. */
void watch_configure(WatchConfig *config, double days, CusumWork *work)
{
    double rest = cusum_threshold(work, DRIFT_K, 2 * days * (WATCH_CHARTS_N - 1));
    for (WatchMetric m = 0; m < WATCH_CHARTS_N; m++) config->h[m] = rest;
    config->h[WATCH_QUALITY] = cusum_threshold(work, DRIFT_K, 2 * days);
    config->baseline_days = DRIFT_BASELINE_DAYS;
}

/* --- values ----------------------------------------------------------------------------------- */

/* What goes into a chart. */
typedef struct {
    double shown; /* as people see it */
    double x;     /* as the chart sees it */
    double noise; /* that x has at least */
    bool any;
    bool merged; /* of several days */
} Value;

/* Of n tasks, part did. Freeman & Tukey's variance is 1 over n whatever the rate. */
static Value rate_value(int64_t part, int64_t n)
{
    double all = (double)n, some = (double)part;
    return (Value){ .shown = some / all,
                    .x = asin(sqrt(some / (all + 1))) + asin(sqrt((some + 1) / (all + 1))),
                    .noise = 1 / sqrt(all + 0.5),
                    .any = true };
}

static Value amount_value(double amount, double noise)
{
    return (Value){ .shown = amount, .x = log1p(amount), .noise = noise, .any = true };
}

static Value pattern_value(const Watch *w, const Rollup *day)
{
    double shift = watch_pattern_shift(w, day);
    if (isnan(shift)) return (Value){ .any = false };
    return (Value){ shift, shift, PATTERN_NOISE / (double)day->pattern.n, true, false };
}

static Value loops_value(const Watch *w, const Rollup *day, int64_t tasks)
{
    if (w->baseline_days < WATCH_BASELINE_DAYS) return (Value){ .any = false };
    int64_t usual = histogram_quantile(&w->baseline.tool_calls_a_task, 0.95);
    return rate_value(histogram_above(&day->tool_calls_a_task, usual), tasks);
}

static Value value_of(const Watch *w, WatchMetric metric, const Rollup *day, const RollupSignals *s)
{
    switch (metric) {
    case WATCH_ERRORS: return rate_value(day->failed + day->timed_out, s->task_count);
    case WATCH_ESCALATIONS: return rate_value(day->escalated, s->task_count);
    case WATCH_COST: return amount_value(s->cost_nusd, AMOUNT_NOISE);
    case WATCH_TOKENS: return amount_value(s->tokens, AMOUNT_NOISE);
    case WATCH_LATENCY: return amount_value((double)s->latency_p95_ms, LATENCY_NOISE);
    case WATCH_LOOPS: return loops_value(w, day, s->task_count);
    case WATCH_PATTERN: return pattern_value(w, day);
    default: return (Value){ .any = false };
    }
}

/* Once there are scores enough. */
static Value quality_value(Watch *w, const Rollup *day)
{
    w->scores.days += day->scores > 0;
    w->scores.n += day->scores;
    w->scores.sum += day->score_sum;
    w->scores.squares += day->score_squares;
    if (w->scores.n < DRIFT_TASKS_MIN) return (Value){ .any = false };
    double n = (double)w->scores.n, mean = (double)w->scores.sum / n / ROLLUP_SCORE_ONE;
    double square = (double)w->scores.squares / n / ROLLUP_SCORE_ONE;
    double deviation = fmax(sqrt(fmax(0, square - mean * mean)), SCORE_NOISE);
    bool merged = w->scores.days > 1;
    memset(&w->scores, 0, sizeof(w->scores));
    return (Value){ mean, mean, deviation / sqrt(n), true, merged };
}

double watch_pattern_shift(const Watch *w, const Rollup *r)
{
    double q[PATTERN_BITS];
    if (w->baseline_days < WATCH_BASELINE_DAYS) return NAN;
    if (w->baseline.pattern.n < 1 || r->pattern.n < 1) return NAN;
    pattern_shares(&w->baseline.pattern, q);
    return pattern_shift(r->pattern.ones, r->pattern.n, q, PATTERN_BITS);
}

/* --- alarms ----------------------------------------------------------------------------------- */

static void series_add(Watch *w, WatchMetric metric, double shown)
{
    double *series = w->series[metric];
    if (w->series_n[metric] == WATCH_SERIES_MAX) {
        memmove(series, series + 1, (WATCH_SERIES_MAX - 1) * sizeof(*series));
        w->series_n[metric]--;
    }
    series[w->series_n[metric]++] = shown;
}

/* How a value is written: rates in percent, money in USD, times in seconds. */
static void value_text(WatchMetric metric, double value, char out[32])
{
    switch (metric) {
    case WATCH_ERRORS:
    case WATCH_ESCALATIONS:
    case WATCH_LOOPS: snprintf(out, 32, "%.1f%%", 100 * value); break;
    case WATCH_COST: snprintf(out, 32, "%.6f USD", value / 1e9); break;
    case WATCH_LATENCY: snprintf(out, 32, "%.1f s", value / 1000); break;
    case WATCH_TOKENS: snprintf(out, 32, "%.0f", value); break;
    default: snprintf(out, 32, "%.3f", value); break;
    }
}

static void alarm_tell(WatchAlarm *alarm)
{
    char value[32], before[32], slope[48] = "";
    value_text(alarm->metric, alarm->value, value);
    value_text(alarm->metric, alarm->before, before);
    if (!isnan(alarm->slope))
        snprintf(slope, sizeof(slope), ", %+.1f%% a week (p %.3f)", 100 * alarm->slope, alarm->p);
    snprintf(alarm->text, sizeof(alarm->text), "Drift of %s: %s that day, %s %d days before%s.",
             metrics[alarm->metric].what, value, before, alarm->days, slope);
}

static void alarm_raise(const Watch *w, WatchMetric metric, WatchWork *work, WatchAlarm *ret)
{
    size_t n = (size_t)w->series_n[metric];
    const double *series = w->series[metric];
    *ret = (WatchAlarm){ .metric = metric,
                         .value = series[n - 1],
                         .before = series[0],
                         .days = (int)n - 1,
                         .slope = NAN,
                         .p = 1 };
    Trend trend = n >= 2 ? trend_of(&work->trend, series, n) : (Trend){ .p = 1 };
    ret->p = trend.p;
    if (n >= 2 && series[0] != 0) ret->slope = 7 * trend.slope / fabs(series[0]);
    alarm_tell(ret);
}

/* Puts the value into its chart. Returns whether that raised an alarm. */
static bool observe(Watch *w, const WatchConfig *config, WatchMetric metric, const Value *value,
                    int64_t day_ms)
{
    Drift *chart = &w->charts[metric];
    bool raised = chart->alarm_n > 0;
    DriftConfig rule = { .k = DRIFT_K,
                         .h = config->h[metric],
                         .baseline_days = metric == WATCH_PATTERN || metric == WATCH_LOOPS
                                              ? MIN(config->baseline_days, PATTERN_BASELINE_DAYS)
                                              : config->baseline_days,
                         .lower_is_worse = metrics[metric].lower_is_worse,
                         .weekdays = true,
                         .noise = value->noise };
    int weekday = value->merged ? DRIFT_DAYS : (int)(day_ms / 86400000 % 7);
    DriftDay day = drift_observe(chart, &rule, value->x, weekday);
    series_add(w, metric, value->shown);
    return day.alarm && !raised;
}

/* --- tools ------------------------------------------------------------------------------------ */

static size_t tool_bin(const Rollup *baseline, const char *name)
{
    for (int32_t i = 0; i < baseline->tools_n; i++)
        if (strcmp(baseline->tools[i].name, name) == 0) return (size_t)i;
    return DIST_BINS_MAX - 1;
}

/* A baseline much larger than a day would have what is new on that day pooled away as expected too
 * rarely: it weighs as much as BASELINE_WEIGHT days. */
static void bins_scale(int64_t before[DIST_BINS_MAX], int64_t uses)
{
    int64_t all = 0, most = BASELINE_WEIGHT * uses;
    for (size_t i = 0; i < DIST_BINS_MAX; i++) all += before[i];
    for (size_t i = 0; all > most && i < DIST_BINS_MAX; i++)
        before[i] = llround((double)before[i] * (double)most / (double)all);
}

/* Tasks that called each tool: calls of one task go together. */
static bool tools_drifted(const Watch *w, const Rollup *day, int64_t tasks, WatchAlarm *ret)
{
    int64_t before[DIST_BINS_MAX] = { 0 }, now[DIST_BINS_MAX] = { 0 }, uses = 0;
    for (int32_t i = 0; i < w->baseline.tools_n; i++)
        before[i] = MAX(w->baseline.tools[i].tasks, 0);
    for (int32_t i = 0; i < day->tools_n; i++) {
        now[tool_bin(&w->baseline, day->tools[i].name)] += MAX(day->tools[i].tasks, 0);
        uses += MAX(day->tools[i].tasks, 0);
    }
    bins_scale(before, uses);
    double effect = fmax(1, (double)uses / (double)tasks);
    DistTest test = dist_compare(before, now, DIST_BINS_MAX, effect);
    if (!dist_alarm(&test)) return false;
    *ret = (WatchAlarm){ .metric = WATCH_TOOLS, .value = test.distance, .slope = NAN, .p = test.p };
    snprintf(ret->text, sizeof(ret->text),
             "The tools called have changed: distance %.2f from the first %d days (p %.1e).",
             test.distance, WATCH_BASELINE_DAYS, test.p);
    return true;
}

static_assert(ROLLUP_TOOLS_MAX < DIST_BINS_MAX, "there is a bin for other tools");

/* --- inputs ----------------------------------------------------------------------------------- */

#define INPUT_BIN 4 /* buckets: half an octave */
static_assert(HISTOGRAM_BUCKETS / INPUT_BIN <= DIST_BINS_MAX, "there is a bin for each length");

static int64_t input_bins(const Histogram *h, int64_t ret[DIST_BINS_MAX])
{
    int64_t all = 0;
    memset(ret, 0, DIST_BINS_MAX * sizeof(*ret));
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        ret[i / INPUT_BIN] += MAX(h->n[i], 0);
        all += MAX(h->n[i], 0);
    }
    return all;
}

/* Whether the inputs are like those of the baseline. */
static void inputs_look(const Watch *w, const Rollup *recent, WatchAlarm *ret)
{
    int64_t before[DIST_BINS_MAX], now[DIST_BINS_MAX];
    int64_t known = input_bins(&w->baseline.input_bytes, before);
    int64_t n = input_bins(&recent->input_bytes, now);
    if (known < DRIFT_TASKS_MIN || n < DRIFT_TASKS_MIN) return;
    bins_scale(before, n);
    DistTest test = dist_compare(before, now, DIST_BINS_MAX, 1);
    ret->inputs = dist_alarm(&test) ? WATCH_INPUTS_MOVED : WATCH_INPUTS_ALIKE;
    ret->inputs_distance = test.distance;
}

/* --- days ------------------------------------------------------------------------------------- */

/* Enough tasks are together, of one day or several. */
static size_t take_tasks(Watch *w, const WatchConfig *config, int64_t day_ms, bool merged,
                         WatchWork *work, WatchAlarm *ret)
{
    const Rollup *day = &work->day;
    RollupSignals s = rollup_signals(day);
    size_t n = 0;
    for (WatchMetric m = WATCH_QUALITY + 1; m < WATCH_CHARTS_N; m++) {
        Value value = value_of(w, m, day, &s);
        value.merged = merged;
        if (value.any && observe(w, config, m, &value, day_ms)) alarm_raise(w, m, work, &ret[n++]);
    }
    if (w->baseline_days < WATCH_BASELINE_DAYS) {
        rollup_merge(&w->baseline, day);
        w->baseline_days++;
    } else if (!w->tools_alarmed && tools_drifted(w, day, s.task_count, &ret[n])) {
        w->tools_alarmed = 1;
        n++;
    }
    return n;
}

size_t watch_day(Watch *w, const WatchConfig *config, int64_t day_ms, const Rollup *day,
                 WatchWork *work, WatchAlarm ret[WATCH_ALARMS_MAX])
{
    size_t n = 0;
    assert(day_ms >= 0);
    if (w->last_day_ms > 0 && day_ms <= w->last_day_ms) return 0;
    w->last_day_ms = day_ms;
    Value quality = quality_value(w, day);
    if (quality.any && observe(w, config, WATCH_QUALITY, &quality, day_ms))
        alarm_raise(w, WATCH_QUALITY, work, &ret[n++]);
    rollup_merge(&w->pending, day);
    w->pending_days++;
    work->day = w->pending;
    if (rollup_signals(&work->day).task_count >= DRIFT_TASKS_MIN) {
        bool merged = w->pending_days > 1;
        memset(&w->pending, 0, sizeof(w->pending));
        w->pending_days = 0;
        n += take_tasks(w, config, day_ms, merged, work, ret + n);
    }
    for (size_t i = 0; i < n; i++) inputs_look(w, &work->day, &ret[i]);
    return n;
}

static void begin_anew(Watch *w, WatchMetric metric)
{
    memset(&w->charts[metric], 0, sizeof(w->charts[metric]));
    w->series_n[metric] = 0;
}

void watch_acknowledge(Watch *w, WatchMetric metric)
{
    if (metric != WATCH_LOOPS && metric != WATCH_PATTERN && metric != WATCH_TOOLS) {
        begin_anew(w, metric);
        return;
    }
    begin_anew(w, WATCH_LOOPS);
    begin_anew(w, WATCH_PATTERN);
    w->tools_alarmed = 0;
    memset(&w->baseline, 0, sizeof(w->baseline));
    w->baseline_days = 0;
}
