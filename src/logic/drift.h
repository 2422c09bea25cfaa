/* Drift: has a version that is in use for long become worse than it was?
 *
 * One value a day (days with few tasks are merged) goes into a self-starting CUSUM (Hawkins 1987;
 * Hawkins & Olwell 1998): each day is compared with all days before it, so there is no baseline
 * whose error the chart would carry on for ever.
 *
 *     T_n = sqrt((n-1)/n) (x_n - mean of the days before) / s     s: deviation, divisor n-2
 *     U_n = inverse normal of P(t_{n-2} <= T_n), clipped to [1e-12, 1-1e-12]
 *     C_n = max(0, C_{n-1} + u - k)                               u = U if higher is worse, else -U
 *
 * C moves once the baseline days are over; alarm when it reaches h. With 28 days behind it each day
 * is compared with the same weekdays alone (the recursive residual of a mean a weekday, n-1-7
 * degrees of freedom), so a weekly rhythm is no drift. It learns a step that lasts: a shift of one
 * deviation that goes unseen for weeks becomes the new normal. Constant memory. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_DRIFT_H
#define GANTRY_LOGIC_DRIFT_H

#include "base/common.h"

#define DRIFT_K 0.5
#define DRIFT_H_YEAR 4.0822 /* one false alarm in 365 days at k = .5 */
#define DRIFT_BASELINE_DAYS 28
#define DRIFT_WEEKDAYS_AFTER 28
#define DRIFT_TASKS_MIN 30 /* fewer scored tasks: the day is merged with the next */

typedef struct {
    double k, h;
    int64_t baseline_days;
    bool lower_is_worse;
    bool weekdays; /* take out the weekly rhythm */
    double noise;  /* deviation that values have at least, whatever they did so far; 0: none */
} DriftConfig;

typedef struct {
    int64_t n;       /* values seen */
    double mean, m2; /* of all of them, and sum of squared deviations */
    int64_t day_n[7];
    double day_mean[7], day_m2; /* a weekday; squared deviations from the weekday's own mean */
    double c;
    int64_t alarm_n; /* n at the first alarm since the start, 0: none */
} Drift;

/* What a day did. */
typedef struct {
    double t, u, c; /* t and u are 0 while n < 4 */
    bool alarm;     /* c >= h */
} DriftDay;

/* The next value and its weekday, 0..6 with any beginning; of days that were merged: DRIFT_DAYS,
 * which has no rhythm to take out and tells none of them anything. */
#define DRIFT_DAYS (-1)
DriftDay drift_observe(Drift *drift, const DriftConfig *config, double x, int weekday);

/* Scores of one day on their way in: gives a value once DRIFT_TASKS_MIN tasks are together. */
typedef struct {
    int64_t tasks;
    double sum;
} DriftPool;

bool drift_pool_add(DriftPool *pool, int64_t tasks, double sum, double *ret_mean);

/* --- thresholds ------------------------------------------------------------------------------ */

/* Average run length of the chart from 0 for independent N(shift,1) values, by Brook & Evans'
 * integral equation with Gauss-Legendre nodes. work is scratch space, about 53 KB. */
#define CUSUM_NODES 80
typedef struct {
    double a[CUSUM_NODES + 1][CUSUM_NODES + 2];
    double node[CUSUM_NODES], weight[CUSUM_NODES];
} CusumWork;
double cusum_run_length(CusumWork *work, double k, double h, double shift);

/* The h with that run length without any drift, days >= 2. For M metrics ask for M times the days
 * that one false alarm may take. */
double cusum_threshold(CusumWork *work, double k, double days);

/* --- trend ----------------------------------------------------------------------------------- */

#define TREND_POINTS_MAX 64
typedef struct {
    double slope; /* Theil-Sen, a step of the series */
    int64_t s;    /* Mann-Kendall */
    double variance, z, p;
} Trend;

typedef struct {
    double slopes[TREND_POINTS_MAX * (TREND_POINTS_MAX - 1) / 2];
    double sorted[TREND_POINTS_MAX];
} TrendWork;

/* Of 2..TREND_POINTS_MAX values, one a step. */
Trend trend_of(TrendWork *work, const double *y, size_t n);

/* --- distributions --------------------------------------------------------------------------- */

#define DIST_BINS_MAX 65
#define DIST_EXPECTED_MIN 5.0
#define DIST_ALARM_P 0.001
#define DIST_ALARM_DISTANCE 0.1
typedef struct {
    double g, chi2, p; /* g = 2 N js_weighted; p is the upper tail of g */
    int64_t df;
    double js_weighted, js; /* nats; the second with equal weights: does not shrink with n >> m */
    double distance;        /* sqrt(js) */
} DistTest;

/* Counts by category, baseline against current, bins <= DIST_BINS_MAX. Categories of which fewer
 * than five are expected are pooled. effect: the design effect that g is divided by for p (calls
 * within a task go together), 1: none. Without anything on either side p = 1. */
DistTest dist_compare(const int64_t *baseline, const int64_t *current, size_t bins, double effect);

/* Worth telling: hardly by chance, and large. */
bool dist_alarm(const DistTest *test);

#endif
