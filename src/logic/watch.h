/* Watch: the days of one version, looked at for drift (logic/drift.h).
 *
 * Each day's rollup goes in once, in order of time. Days with few tasks are merged with the next;
 * quality waits for its own number of scores. Every metric has a self-starting CUSUM; the first
 * WATCH_BASELINE_DAYS days together are what patterns, tools and loops of later ones are held
 * against. Rates go in as arcsines, whose noise is known, and amounts as logarithms, so that a
 * chart sees shares of change. What raised an alarm raises no other until it is acknowledged, which
 * begins its chart anew: nothing is taken for normal silently. Fixed memory. Pure.
 */
#ifndef GANTRY_LOGIC_WATCH_H
#define GANTRY_LOGIC_WATCH_H

#include "logic/drift.h"
#include "logic/rollup.h"

typedef enum {
    WATCH_QUALITY,
    WATCH_ERRORS,
    WATCH_ESCALATIONS,
    WATCH_COST,
    WATCH_TOKENS,
    WATCH_LATENCY, /* 95th percentile */
    WATCH_LOOPS,   /* share of tasks with more tool calls than the baseline's p95 */
    WATCH_PATTERN, /* patternShift */
    WATCH_TOOLS,   /* toolCallDistribution: a test a day, no chart */
    WATCH_N_
} WatchMetric;

#define WATCH_CHARTS_N WATCH_TOOLS
#define WATCH_BASELINE_DAYS 20
#define WATCH_SERIES_MAX 14 /* points that the slope of an alarm is taken from */
#define WATCH_ALARMS_MAX WATCH_N_
#define WATCH_TEXT_MAX 256

const char *watch_metric_name(WatchMetric metric);            /* "qualityScore", ... */
MUST_CHECK int watch_metric_from(Str name, WatchMetric *ret); /* 0 or -EINVAL */

typedef struct {
    double h[WATCH_CHARTS_N];
    int64_t baseline_days; /* of a chart, before it may raise an alarm */
} WatchConfig;

/* All charts of a version together raise one false alarm in so many days; half of that is
 * quality's. days >= 2. Takes some ten milliseconds. */
void watch_configure(WatchConfig *config, double days, CusumWork *work);

/* About 28 KB. Zero is a version that nothing is known of. */
typedef struct {
    int64_t last_day_ms; /* start of the last day taken in */
    Rollup pending;      /* days with too few tasks so far */
    int64_t pending_days;
    struct {
        int64_t n, sum, squares; /* as in Rollup */
        int64_t days;
    } scores;
    Rollup baseline;
    int64_t baseline_days;
    Drift charts[WATCH_CHARTS_N];
    double series[WATCH_CHARTS_N][WATCH_SERIES_MAX]; /* values as people see them, oldest first */
    int64_t series_n[WATCH_CHARTS_N];
    int64_t tools_alarmed;
} Watch;

/* Whether what was asked is like before, by its length: the other thing that may have moved. */
typedef enum { WATCH_INPUTS_UNKNOWN, WATCH_INPUTS_ALIKE, WATCH_INPUTS_MOVED } WatchInputs;

typedef struct {
    WatchMetric metric;
    WatchInputs inputs;
    double inputs_distance;    /* of their lengths from the baseline's */
    double value, before;      /* of that day, of the first in the series; tools: distance, 0 */
    int days;                  /* between them, merged ones counting as one */
    double slope;              /* Theil-Sen, share of before a week; NaN: no series */
    double p;                  /* Mann-Kendall; tools: of the test */
    char text[WATCH_TEXT_MAX]; /* a plain sentence */
} WatchAlarm;

typedef struct {
    TrendWork trend;
    Rollup day;
} WatchWork;

/* Takes the day in; one that is not after the last is left out. Returns how many alarms it
 * raised. */
size_t watch_day(Watch *watch, const WatchConfig *config, int64_t day_ms, const Rollup *day,
                 WatchWork *work, WatchAlarm ret[WATCH_ALARMS_MAX]);

/* Somebody has seen the alarm: the metric begins anew with the next day, pattern, tools and loops
 * with a new baseline for all three. */
void watch_acknowledge(Watch *watch, WatchMetric metric);

/* patternShift of a rollup against the baseline; NaN before there is one. */
double watch_pattern_shift(const Watch *watch, const Rollup *rollup);

#endif
