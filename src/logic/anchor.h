/* Anchor: has a judge changed?
 *
 * The same examples are judged every day. The mean of a day goes into two self-starting CUSUMs
 * (logic/drift.h), for a judge that becomes milder deceives as much as one that becomes stricter.
 * The judge's version and the examples are the chart's key: with other ones it begins anew, because
 * scores compare only within them. What raised an alarm raises no other until it is acknowledged.
 * Fixed memory. Pure.
 */
#ifndef GANTRY_LOGIC_ANCHOR_H
#define GANTRY_LOGIC_ANCHOR_H

#include "logic/drift.h"

#define ANCHOR_SERIES_MAX 14
#define ANCHOR_TEXT_MAX 256

/* Zero is a judge that nothing is known of. */
typedef struct {
    uint64_t key;
    int64_t last_day_ms;
    Drift stricter, milder;
    double series[ANCHOR_SERIES_MAX]; /* means, oldest first */
    int64_t series_n;
    int64_t alarmed;
} AnchorChart;

/* What a day did. */
typedef struct {
    bool alarm;
    double c;             /* of the chart that is nearer to its alarm */
    double value, before; /* the mean of that day, of the first in the series */
    double slope;         /* Theil-Sen, share of before a week; NaN: no series */
    double p;             /* Mann-Kendall */
    char text[ANCHOR_TEXT_MAX];
} AnchorDay;

/* Takes a day in: the mean of so many examples, 1 or more. One that is not after the last is left
 * out. h: of each chart, reached by chance once in twice the days of a false alarm;
 * baseline_days: before it may raise one. */
AnchorDay anchor_observe(AnchorChart *chart, double h, int64_t baseline_days, uint64_t key,
                         int64_t day_ms, double mean, int64_t examples, TrendWork *work);

#endif
