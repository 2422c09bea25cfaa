#include "logic/drift.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "logic/special.h"

/* --- self-starting CUSUM --------------------------------------------------------------------- */

/* How a value compares with the days before: t with df degrees of freedom; df < 1: no telling. */
typedef struct {
    double t, df;
} Compared;

static Compared compare(double x, double mean, double variance, double shrink, double df)
{
    double off = x - mean;
    if (variance <= 0) return (Compared){ off == 0 ? 0 : copysign(INFINITY, off), df };
    return (Compared){ shrink * off / sqrt(variance), df };
}

static Compared compare_days(const Drift *d, double least, double x)
{
    double before = (double)d->n, df = before - 1;
    if (d->n < 3) return (Compared){ 0, 0 };
    return compare(x, d->mean, fmax(d->m2 / df, least), sqrt(before / (before + 1)), df);
}

/* Those that were not merged. */
static int64_t single_days(const Drift *d)
{
    int64_t n = 0;
    for (int i = 0; i < 7; i++) n += d->day_n[i];
    return n;
}

static Compared compare_weekdays(const Drift *d, double least, double x, int weekday)
{
    int64_t seen = 0;
    for (int i = 0; i < 7; i++) seen += d->day_n[i] > 0;
    double df = (double)(single_days(d) - seen), same = (double)d->day_n[weekday];
    if (df < 1 || same < 1) return (Compared){ 0, 0 };
    double variance = fmax(d->day_m2 / df, least);
    return compare(x, d->day_mean[weekday], variance, sqrt(same / (same + 1)), df);
}

/* Welford's update of a mean and its sum of squares. */
static void learn(int64_t *n, double *mean, double *m2, double x)
{
    double off = x - *mean;
    *mean += off / (double)++*n;
    *m2 += off * (x - *mean);
}

static double normal_score(const Compared *c)
{
    double p = student_t_cdf(c->t, c->df);
    return normal_quantile(fmin(1 - 1e-12, fmax(1e-12, p)));
}

DriftDay drift_observe(Drift *d, const DriftConfig *config, double x, int weekday)
{
    assert(weekday >= DRIFT_DAYS && weekday < 7);
    assert(config->h > 0 && config->k >= 0);
    bool single = weekday != DRIFT_DAYS;
    bool by_weekday = config->weekdays && single && single_days(d) >= DRIFT_WEEKDAYS_AFTER;
    double least = config->noise * config->noise;
    Compared c = by_weekday ? compare_weekdays(d, least, x, weekday) : compare_days(d, least, x);
    DriftDay day = { 0 };
    if (c.df >= 1) {
        day.t = c.t;
        day.u = normal_score(&c);
    }
    learn(&d->n, &d->mean, &d->m2, x);
    if (single) learn(&d->day_n[weekday], &d->day_mean[weekday], &d->day_m2, x);
    if (d->n > config->baseline_days)
        d->c = fmax(0, d->c + (config->lower_is_worse ? -day.u : day.u) - config->k);
    day.c = d->c;
    day.alarm = d->c >= config->h;
    if (day.alarm && d->alarm_n == 0) d->alarm_n = d->n;
    return day;
}

bool drift_pool_add(DriftPool *pool, int64_t tasks, double sum, double *ret_mean)
{
    assert(tasks >= 0);
    pool->tasks += tasks;
    pool->sum += sum;
    if (pool->tasks < DRIFT_TASKS_MIN) return false;
    *ret_mean = pool->sum / (double)pool->tasks;
    *pool = (DriftPool){ 0 };
    return true;
}

/* --- thresholds ------------------------------------------------------------------------------ */

/* Nodes and weights on [0,h]: roots of the Legendre polynomial by Newton's method. */
static void gauss_legendre(CusumWork *w, double h)
{
    const int n = CUSUM_NODES;
    for (int i = 0; i < n; i++) {
        double x = cos(M_PI * (i + 0.75) / (n + 0.5)), slope = 1;
        for (int round = 0; round < 100; round++) {
            double p = 1, before = 0;
            for (int j = 0; j < n; j++) {
                double next = ((2 * j + 1) * x * p - j * before) / (j + 1);
                before = p;
                p = next;
            }
            slope = n * (x * p - before) / (x * x - 1);
            double step = p / slope;
            x -= step;
            if (fabs(step) < 1e-15) break;
        }
        w->node[i] = h * (x + 1) / 2;
        w->weight[i] = h / ((1 - x * x) * slope * slope);
    }
}

static double normal_density(double x)
{
    return 0.3989422804014327 * exp(-x * x / 2);
}

/* Solves a (with its right side in the last column) in place, pivoting by rows. */
static void solve(CusumWork *w)
{
    const int n = CUSUM_NODES + 1;
    for (int c = 0; c < n; c++) {
        int pivot = c;
        for (int r = c + 1; r < n; r++)
            if (fabs(w->a[r][c]) > fabs(w->a[pivot][c])) pivot = r;
        for (int j = c; j <= n && pivot != c; j++) {
            double swap = w->a[c][j];
            w->a[c][j] = w->a[pivot][j];
            w->a[pivot][j] = swap;
        }
        for (int r = 0; r < n; r++) {
            if (r == c) continue;
            double factor = w->a[r][c] / w->a[c][c];
            for (int j = c; j <= n; j++) w->a[r][j] -= factor * w->a[c][j];
        }
    }
}

/* L(z) = 1 + L(0) P(N <= k-z) + integral over (0,h) of L(y) density(y+k-z): unknown 0 is L(0), the
 * others are L at the nodes. */
double cusum_run_length(CusumWork *w, double k, double h, double shift)
{
    assert(h > 0);
    const int n = CUSUM_NODES;
    gauss_legendre(w, h);
    for (int i = 0; i <= n; i++) {
        double z = i == 0 ? 0 : w->node[i - 1];
        w->a[i][0] = -normal_cdf(k - z - shift);
        for (int j = 0; j < n; j++)
            w->a[i][j + 1] = -w->weight[j] * normal_density(w->node[j] + k - z - shift);
        w->a[i][i] += 1;
        w->a[i][n + 1] = 1;
    }
    solve(w);
    return w->a[0][n + 1] / w->a[0][0];
}

double cusum_threshold(CusumWork *work, double k, double days)
{
    assert(days >= 2);
    double low = 1e-3, high = 1;
    while (cusum_run_length(work, k, high, 0) < days && high < 64) high *= 2;
    for (int i = 0; i < 60 && high - low > 1e-9; i++) {
        double middle = (low + high) / 2;
        if (cusum_run_length(work, k, middle, 0) < days) low = middle;
        else high = middle;
    }
    return (low + high) / 2;
}

/* --- trend ----------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* n(n-1)(2n+5) without what ties take away, over 18. */
static double kendall_variance(TrendWork *work, const double *y, size_t n)
{
    memcpy(work->sorted, y, n * sizeof(*y));
    qsort(work->sorted, n, sizeof(*y), compare_doubles);
    double sum = (double)n * ((double)n - 1) * (2 * (double)n + 5);
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && work->sorted[end] == work->sorted[i]) end++;
        double t = (double)(end - i);
        sum -= t * (t - 1) * (2 * t + 5);
        i = end;
    }
    return sum / 18;
}

Trend trend_of(TrendWork *work, const double *y, size_t n)
{
    assert(n >= 2 && n <= TREND_POINTS_MAX);
    Trend trend = { 0 };
    size_t slopes_n = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            work->slopes[slopes_n++] = (y[j] - y[i]) / (double)(j - i);
            trend.s += (y[j] > y[i]) - (y[j] < y[i]);
        }
    }
    qsort(work->slopes, slopes_n, sizeof(double), compare_doubles);
    trend.slope = (work->slopes[(slopes_n - 1) / 2] + work->slopes[slopes_n / 2]) / 2;
    trend.variance = kendall_variance(work, y, n);
    int64_t corrected = trend.s > 0 ? trend.s - 1 : trend.s < 0 ? trend.s + 1 : 0;
    if (trend.variance > 0) trend.z = (double)corrected / sqrt(trend.variance);
    trend.p = erfc(fabs(trend.z) * M_SQRT1_2);
    return trend;
}

/* --- distributions --------------------------------------------------------------------------- */

typedef struct {
    double o[2][DIST_BINS_MAX]; /* observed: baseline, current */
    size_t bins;
    double n[2];
} Table;

/* Small categories go into one; when that one is small too, into the smallest of the others. */
static Table table_pooled(const int64_t *baseline, const int64_t *current, size_t bins)
{
    Table t = { 0 };
    for (size_t i = 0; i < bins; i++) {
        t.n[0] += (double)baseline[i];
        t.n[1] += (double)current[i];
    }
    double total = t.n[0] + t.n[1], smaller = fmin(t.n[0], t.n[1]), pool[2] = { 0, 0 };
    for (size_t i = 0; i < bins; i++) {
        double both = (double)baseline[i] + (double)current[i];
        bool small = total <= 0 || both * smaller / total < DIST_EXPECTED_MIN;
        double *to[2] = { small ? &pool[0] : &t.o[0][t.bins], small ? &pool[1] : &t.o[1][t.bins] };
        *to[0] += (double)baseline[i];
        *to[1] += (double)current[i];
        if (!small) t.bins++;
    }
    if (pool[0] + pool[1] <= 0) return t;
    size_t into = t.bins;
    if (t.bins > 0 && (pool[0] + pool[1]) * smaller / total < DIST_EXPECTED_MIN) {
        into = 0;
        for (size_t i = 1; i < t.bins; i++)
            if (t.o[0][i] + t.o[1][i] < t.o[0][into] + t.o[1][into]) into = i;
    } else {
        t.bins++;
    }
    t.o[0][into] += pool[0];
    t.o[1][into] += pool[1];
    return t;
}

/* p ln(p/q), 0 for p = 0. */
static double divergence(double p, double q)
{
    return p > 0 ? p * log(p / q) : 0;
}

DistTest dist_compare(const int64_t *baseline, const int64_t *current, size_t bins, double effect)
{
    assert(bins <= DIST_BINS_MAX && effect > 0);
    Table t = table_pooled(baseline, current, bins);
    DistTest test = { .p = 1 };
    if (t.n[0] <= 0 || t.n[1] <= 0) return test;
    double total = t.n[0] + t.n[1];
    for (size_t i = 0; i < t.bins; i++) {
        double p = t.o[0][i] / t.n[0], q = t.o[1][i] / t.n[1];
        double pooled = (t.o[0][i] + t.o[1][i]) / total, middle = (p + q) / 2;
        test.js_weighted += (t.n[0] * divergence(p, pooled) + t.n[1] * divergence(q, pooled)) /
                            total;
        test.js += (divergence(p, middle) + divergence(q, middle)) / 2;
        for (int arm = 0; arm < 2; arm++) {
            double expected = pooled * t.n[arm], off = t.o[arm][i] - expected;
            if (expected > 0) test.chi2 += off * off / expected;
        }
    }
    test.g = 2 * total * test.js_weighted;
    test.df = (int64_t)t.bins - 1;
    test.distance = sqrt(fmax(0, test.js));
    if (test.df > 0) test.p = chi2_sf(test.g / effect, (double)test.df);
    return test;
}

bool dist_alarm(const DistTest *test)
{
    return test->p < DIST_ALARM_P && test->distance > DIST_ALARM_DISTANCE;
}
