#include "logic/anchor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DAY_MS INT64_C(86400000)
#define SCORE_NOISE 0.05 /* a judge that never changes is believed to differ by this all the same */

static void series_add(AnchorChart *chart, double mean)
{
    if (chart->series_n == ANCHOR_SERIES_MAX) {
        memmove(chart->series, chart->series + 1, (ANCHOR_SERIES_MAX - 1) * sizeof(double));
        chart->series_n--;
    }
    chart->series[chart->series_n++] = mean;
}

static void trend_tell(const AnchorChart *chart, TrendWork *work, AnchorDay *ret)
{
    size_t n = (size_t)chart->series_n;
    Trend trend = n >= 2 ? trend_of(work, chart->series, n) : (Trend){ .p = 1 };
    ret->before = chart->series[0];
    ret->slope = n >= 2 && ret->before != 0 ? 7 * trend.slope / fabs(ret->before) : NAN;
    ret->p = trend.p;
}

AnchorDay anchor_observe(AnchorChart *chart, double h, int64_t baseline_days, uint64_t key,
                         int64_t day_ms, double mean, int64_t examples, TrendWork *work)
{
    AnchorDay ret = { .value = mean, .before = mean, .slope = NAN, .p = 1 };
    assert(examples > 0 && mean >= 0 && mean <= 1);
    if (chart->key != key) *chart = (AnchorChart){ .key = key };
    if (chart->last_day_ms > 0 && day_ms <= chart->last_day_ms) return ret;
    chart->last_day_ms = day_ms;
    DriftConfig config = { .k = DRIFT_K,
                           .h = h,
                           .baseline_days = baseline_days,
                           .lower_is_worse = true,
                           .noise = SCORE_NOISE / sqrt((double)examples) };
    int weekday = (int)(day_ms / DAY_MS % 7);
    DriftDay down = drift_observe(&chart->stricter, &config, mean, weekday);
    config.lower_is_worse = false;
    DriftDay up = drift_observe(&chart->milder, &config, mean, weekday);
    series_add(chart, mean);
    trend_tell(chart, work, &ret);
    ret.c = fmax(down.c, up.c);
    ret.alarm = (down.alarm || up.alarm) && !chart->alarmed;
    if (!ret.alarm) return ret;
    chart->alarmed = 1;
    snprintf(ret.text, sizeof(ret.text),
             "The judge has become %s: %.3f on its anchors that day, %.3f %d days before.",
             down.alarm ? "stricter" : "milder", ret.value, ret.before, (int)chart->series_n - 1);
    return ret;
}
