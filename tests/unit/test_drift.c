#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/drift.h"
#include "logic/rng.h"
#include "logic/rollup.h"
#include "vectors.h"

static CusumWork work;

static void test_run_lengths(void **state)
{
    (void)state;
    const Json *arl = vectors("cusum", "arl");
    double tolerance = vectors_f64(arl, "tolerance");
    for (JsonIter it = json_iter(json_get(arl, "arl0")); json_next(&it);)
        assert_near(
            cusum_run_length(&work, vectors_f64(it.value, "k"), vectors_f64(it.value, "h"), 0),
            vectors_f64(it.value, "arl0"), tolerance);
    for (JsonIter it = json_iter(json_get(arl, "arl1")); json_next(&it);)
        assert_near(cusum_run_length(&work, vectors_f64(it.value, "k"), vectors_f64(it.value, "h"),
                                     vectors_f64(it.value, "shift")),
                    vectors_f64(it.value, "arl1"), tolerance);
}

static void test_thresholds(void **state)
{
    (void)state;
    const Json *v = vectors("cusum", "thresholds");
    for (JsonIter it = json_iter(json_get(v, "vectors")); json_next(&it);)
        assert_near(
            cusum_threshold(&work, vectors_f64(it.value, "k"), vectors_f64(it.value, "arl0")),
            vectors_f64(it.value, "h"), vectors_f64(v, "tolerance"));
    assert_near(cusum_threshold(&work, DRIFT_K, 365), DRIFT_H_YEAR, 6e-5);
}

static void test_self_starting(void **state)
{
    (void)state;
    const Json *v = vectors("cusum", "selfStarting");
    DriftConfig config = { .k = vectors_f64(v, "k"),
                           .h = vectors_f64(v, "h"),
                           .baseline_days = (int64_t)vectors_f64(v, "baselineDays"),
                           .lower_is_worse = true };
    Drift drift = { 0 };
    double tolerance = fmin(vectors_tolerance(v), 1e-8); /* met nearer than asked for */
    JsonIter rows = json_iter(json_get(v, "rows"));
    for (JsonIter it = json_iter(json_get(v, "x")); json_next(&it);) {
        DriftDay day = drift_observe(&drift, &config, json_f64_or(it.value, NAN),
                                     (int)(drift.n % 7));
        if (drift.n < 4) {
            assert_near(day.u, 0, 0);
            continue;
        }
        assert_true(json_next(&rows));
        assert_int_equal(drift.n, json_i64_or(json_get(rows.value, "n"), -1));
        assert_near(day.t, vectors_f64(rows.value, "T"), tolerance);
        assert_near(day.u, vectors_f64(rows.value, "U"), tolerance);
        assert_near(day.c, vectors_f64(rows.value, "C"), tolerance);
        assert_int_equal(day.alarm, drift.n >= json_i64_or(json_get(v, "alarmDay"), 0));
    }
    assert_int_equal(drift.alarm_n, json_i64_or(json_get(v, "alarmDay"), -1));
}

/* A series that never varied says nothing until it does; then one day cannot be infinitely odd. */
static void test_constant_series(void **state)
{
    (void)state;
    DriftConfig config = { .k = 0.5, .h = 4, .baseline_days = 14, .weekdays = true };
    Drift drift = { 0 };
    for (int i = 0; i < 40; i++) assert_near(drift_observe(&drift, &config, 0.5, i % 7).u, 0, 0);
    DriftDay day = drift_observe(&drift, &config, 0.6, 40 % 7);
    assert_true(day.u > 7 && day.u < 7.1 && isfinite(day.c) && day.alarm);
}

static void test_pool(void **state)
{
    (void)state;
    DriftPool pool = { 0 };
    double mean = -1;
    assert_false(drift_pool_add(&pool, 0, 0, &mean));
    assert_false(drift_pool_add(&pool, 29, 29 * 0.5, &mean));
    assert_near(mean, -1, 0);
    assert_true(drift_pool_add(&pool, 1, 0.5, &mean));
    assert_near(mean, 0.5, 1e-12);
    assert_int_equal(pool.tasks, 0);
}

static void test_trend(void **state)
{
    (void)state;
    static TrendWork trend_work;
    const Json *v = vectors("cusum", "trend");
    double y[16];
    size_t n = 0;
    for (JsonIter it = json_iter(json_get(v, "y")); json_next(&it);)
        y[n++] = json_f64_or(it.value, NAN);
    Trend trend = trend_of(&trend_work, y, n);
    assert_near(trend.slope, vectors_f64(v, "theilSenPerDay"), 1e-12);
    assert_int_equal(trend.s, json_i64_or(json_get(v, "S"), 0));
    assert_near(trend.variance, vectors_f64(v, "var"), 1e-9);
    assert_near(trend.z, vectors_f64(v, "z"), 1e-9);
    assert_near(trend.p, vectors_f64(v, "p"), 1e-9);
    trend = trend_of(&trend_work, (const double[]){ 1, 1, 1 }, 3); /* nothing but ties */
    assert_near(trend.slope, 0, 0);
    assert_near(trend.p, 1, 1e-15);
}

/* The population stability index, which others alarm on. Gantry does not: the second vector, with a
 * hundred times the baseline, has the same index and twice the surprise. Undefined by empty
 * cells. */
static void check_psi(const int64_t counts[2][8], size_t bins, const Json *vector)
{
    double n[2] = { 0, 0 }, psi = 0;
    if (!json_get(vector, "psi")) return;
    for (size_t i = 0; i < bins; i++)
        for (int side = 0; side < 2; side++) n[side] += (double)counts[side][i];
    for (size_t i = 0; i < bins; i++) {
        double p = (double)counts[0][i] / n[0], q = (double)counts[1][i] / n[1];
        psi += (q - p) * log(q / p);
    }
    assert_near(psi, vectors_f64(vector, "psi"), 1e-9);
    assert_near(psi / (1 / n[0] + 1 / n[1]), vectors_f64(vector, "psiScaled"), 1e-9);
}

static void test_distributions(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("distribution", "vectors")); json_next(&it);) {
        int64_t counts[2][8];
        size_t bins = json_len(json_get(it.value, "baseline"));
        for (size_t i = 0; i < bins; i++) {
            counts[0][i] = json_i64_or(json_at(json_get(it.value, "baseline"), i), -1);
            counts[1][i] = json_i64_or(json_at(json_get(it.value, "current"), i), -1);
        }
        DistTest test = dist_compare(counts[0], counts[1], bins, 1);
        assert_near(test.g, vectors_f64(it.value, "G"), 1e-9);
        assert_int_equal(test.df, json_i64_or(json_get(it.value, "df"), -1));
        assert_near(test.p, vectors_f64(it.value, "p"), 1e-9);
        assert_near(test.chi2, vectors_f64(it.value, "chi2"), 1e-9);
        assert_near(test.js_weighted, vectors_f64(it.value, "jsWeightedNats"), 1e-9);
        assert_near(test.js, vectors_f64(it.value, "jsNats"), 1e-9);
        assert_near(test.js / M_LN2, vectors_f64(it.value, "jsBits"), 1e-9);
        assert_near(test.distance, vectors_f64(it.value, "jsDistanceNats"), 1e-9);
        check_psi(counts, bins, it.value);
    }
}

static void test_distribution_alarm(void **state)
{
    (void)state;
    /* hardly by chance, but tiny; large, but hardly any data; both */
    DistTest t = dist_compare((const int64_t[]){ 500000, 500000 },
                              (const int64_t[]){ 510000, 490000 }, 2, 1);
    assert_true(t.p < DIST_ALARM_P && !dist_alarm(&t));
    t = dist_compare((const int64_t[]){ 60, 40 }, (const int64_t[]){ 6, 14 }, 2, 1);
    assert_true(t.distance > DIST_ALARM_DISTANCE && !dist_alarm(&t));
    const int64_t before[] = { 600, 400 }, after[] = { 60, 140 };
    t = dist_compare(before, after, 2, 1);
    assert_true(dist_alarm(&t));
    t = dist_compare(before, after, 2, 1000); /* calls that all go together are few observations */
    assert_false(dist_alarm(&t));
    t = dist_compare((const int64_t[]){ 0, 0 }, after, 2, 1);
    assert_true(t.p == 1 && !dist_alarm(&t));
    t = dist_compare(before, after, 0, 1);
    assert_true(t.p == 1);
}

static void test_rare_categories_are_pooled(void **state)
{
    (void)state;
    const int64_t before[] = { 900, 80, 1, 2, 1, 0 }, now[] = { 88, 9, 0, 1, 1, 1 };
    DistTest t = dist_compare(before, now, 6, 1); /* the four rare ones, then with the second */
    assert_int_equal(t.df, 1);
    t = dist_compare((const int64_t[]){ 1, 1 }, (const int64_t[]){ 1, 1 }, 2, 1);
    assert_int_equal(t.df, 0);
    assert_true(t.p == 1);
}

/* --- simulations ----------------------------------------------------------------------------- */

/* Values N(0,1) for m days, then a ramp down. Days after the change until the alarm. */
static double ramp_delay(int64_t m, double slope, bool weekdays, Rng *rng)
{
    DriftConfig config = { .k = DRIFT_K,
                           .h = DRIFT_H_YEAR,
                           .baseline_days = m,
                           .lower_is_worse = true,
                           .weekdays = weekdays };
    Drift drift = { 0 };
    for (int64_t day = 0; day < m; day++)
        (void)drift_observe(&drift, &config, rng_normal(rng), (int)(day % 7));
    for (int days = 1; days < 400; days++) {
        double x = rng_normal(rng) - slope * days;
        if (drift_observe(&drift, &config, x, (int)((m + days) % 7)).alarm) return days;
    }
    return 400;
}

static double mean_ramp_delay(int64_t m, double slope, bool weekdays, int runs)
{
    double sum = 0;
    for (int run = 0; run < runs; run++) {
        Rng rng = rng_seeded((uint64_t)m << 40 | (uint64_t)run);
        sum += ramp_delay(m, slope, weekdays, &rng);
    }
    return sum / runs;
}

static void test_delays(void **state)
{
    (void)state;
    const Json *v = vectors("simulation", "drift", "selfStarting");
    for (JsonIter it = json_iter(v); json_next(&it);) {
        double want = vectors_f64(it.value, "days");
        double got = mean_ramp_delay((int64_t)vectors_f64(it.value, "m"),
                                     vectors_f64(it.value, "slope"), false, 2000);
        assert_near(got, want, 0.1 * want);
    }
}

/* The chart on values that are known to be N(0,1), as it is tabulated everywhere. */
static double known_delay(double slope, Rng *rng)
{
    double c = 0;
    for (int day = 1;; day++) {
        c = fmax(0, c + rng_normal(rng) + slope * day - DRIFT_K);
        if (c >= DRIFT_H_YEAR) return day;
    }
}

static void test_delays_of_a_known_baseline(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("simulation", "drift", "known")); json_next(&it);) {
        Rng rng = rng_seeded(77);
        double sum = 0, want = vectors_f64(it.value, "days");
        for (int run = 0; run < 2000; run++)
            sum += known_delay(vectors_f64(it.value, "slope"), &rng);
        assert_near(sum / 2000, want, 0.1 * want);
    }
}

/* Share of charts that alarm in 90 days although nothing changed. */
static double false_alarms(int64_t m, bool weekdays, double rhythm)
{
    int alarms = 0;
    const int runs = 2000;
    DriftConfig config = {
        .k = DRIFT_K, .h = DRIFT_H_YEAR, .baseline_days = m, .weekdays = weekdays
    };
    for (int run = 0; run < runs; run++) {
        Rng rng = rng_seeded((uint64_t)(m + 100) << 40 | (uint64_t)run);
        Drift drift = { 0 };
        for (int64_t day = 0; day < m + 90; day++) {
            double x = rng_normal(&rng) + (day % 7 < 2 ? rhythm : 0);
            (void)drift_observe(&drift, &config, x, (int)(day % 7));
        }
        alarms += drift.alarm_n != 0;
    }
    return (double)alarms / runs;
}

/* The same of charts that take the first m days for the truth, as people do: what makes the chart a
 * self-starting one. */
static double false_alarms_plugged_in(int64_t m)
{
    int alarms = 0;
    const int runs = 2000;
    for (int run = 0; run < runs; run++) {
        Rng rng = rng_seeded((uint64_t)(m + 300) << 40 | (uint64_t)run);
        double sum = 0, squares = 0, c = 0;
        for (int64_t day = 0; day < m; day++) {
            double x = rng_normal(&rng);
            sum += x, squares += x * x;
        }
        double mean = sum / (double)m, sd = sqrt((squares - sum * mean) / (double)(m - 1));
        bool alarm = false;
        for (int day = 0; day < 90 && !alarm; day++) {
            c = fmax(0, c + (rng_normal(&rng) - mean) / sd - DRIFT_K);
            alarm = c >= DRIFT_H_YEAR;
        }
        alarms += alarm;
    }
    return (double)alarms / runs;
}

static void test_false_alarms(void **state)
{
    (void)state;
    const Json *v = vectors("simulation", "drift", "falseAlarm90Days");
    double ideal = vectors_f64(v,
                               "ideal"); /* U is exactly N(0,1), whatever the baseline's length */
    const int64_t baselines[] = { 7, 14, 28 };
    for (size_t i = 0; i < ARRAY_N(baselines); i++) {
        char key[32];
        snprintf(key, sizeof(key), "selfStarting%d", (int)baselines[i]);
        double got = false_alarms(baselines[i], false, 0);
        assert_near(got, ideal, 0.03);
        assert_near(got, vectors_f64(v, key), 0.045);
        snprintf(key, sizeof(key), "plugIn%d", (int)baselines[i]);
        assert_near(false_alarms_plugged_in(baselines[i]), vectors_f64(v, key), 0.045);
    }
    /* taking weekdays out costs nothing, and with a rhythm of two deviations it changes nothing */
    assert_near(false_alarms(28, true, 0), ideal, 0.03);
    assert_near(false_alarms(28, true, 2), false_alarms(28, true, 0), 0.02);
}

/* One day of 200 scored tasks, through rollups as they come: an hour each, merged into the day. */
static double day_of_scores(double mean, Rng *rng)
{
    static Rollup day, hour;
    memset(&day, 0, sizeof(day));
    mean = fmax(0.01, fmin(0.99, mean + 0.01 * rng_normal(rng)));
    for (int h = 0; h < 20; h++) {
        memset(&hour, 0, sizeof(hour));
        for (int i = 0; i < 10; i++)
            rollup_add_score(&hour, rng_beta(rng, 10 * mean, 10 * (1 - mean)));
        rollup_merge(&day, &hour);
    }
    DriftPool pool = { 0 };
    double value;
    assert_true(
        drift_pool_add(&pool, day.scores, (double)day.score_sum / ROLLUP_SCORE_ONE, &value));
    return value;
}

/* Quality of .80 falls by 2% a week: with 200 scored tasks a day told in about ten days. */
static double decline_delay(int64_t m, bool weekdays, int runs)
{
    DriftConfig config = { .k = DRIFT_K,
                           .h = DRIFT_H_YEAR,
                           .baseline_days = m,
                           .lower_is_worse = true,
                           .weekdays = weekdays };
    double sum = 0;
    for (int run = 0; run < runs; run++) {
        Rng rng = rng_seeded((uint64_t)(m + 200) << 40 | (uint64_t)run);
        Drift drift = { 0 };
        for (int64_t day = 0; day < m; day++)
            (void)drift_observe(&drift, &config, day_of_scores(0.80, &rng), (int)(day % 7));
        int days = 0;
        bool alarm = false;
        while (!alarm && ++days < 200) {
            double mean = 0.80 * (1 - 0.02 * days / 7);
            int weekday = (int)((m + days) % 7);
            alarm = drift_observe(&drift, &config, day_of_scores(mean, &rng), weekday).alarm;
        }
        sum += days;
    }
    return sum / runs;
}

static void test_two_percent_a_week_is_told(void **state)
{
    (void)state;
    double short_baseline = decline_delay(14, false, 150), usual = decline_delay(28, false, 150);
    double with_weekdays = decline_delay(28, true, 150);
    print_message("2%% a week: %.1f days (14), %.1f (28), %.1f (28, weekdays taken out)\n",
                  short_baseline, usual, with_weekdays);
    assert_near(short_baseline, 10.4, 1.1);
    assert_near(usual, 9.6, 1.0);
    assert_near(with_weekdays, 10, 1.2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_lengths),
        cmocka_unit_test(test_thresholds),
        cmocka_unit_test(test_self_starting),
        cmocka_unit_test(test_constant_series),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_trend),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_distribution_alarm),
        cmocka_unit_test(test_rare_categories_are_pooled),
        cmocka_unit_test(test_delays),
        cmocka_unit_test(test_delays_of_a_known_baseline),
        cmocka_unit_test(test_false_alarms),
        cmocka_unit_test(test_two_percent_a_week_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
