/* Months of days with the real rollups: when does a decline raise an alarm, and how often nothing
 * does. A seed as argument replays one run of each kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <math.h>

#include "logic/rng.h"
#include "logic/watch.h"

#define DAY INT64_C(86400000)
#define TASKS 200 /* scored tasks a day */

static WatchConfig config;
static uint64_t seed_given;

typedef struct {
    double decline;   /* share of .8 a week, from the first day after the baseline on */
    double day_noise; /* deviation of a day's mean */
    double weekend;   /* how much worse it is then */
    int baseline_days, days;
    double h;      /* threshold of quality; 0: as configured */
    bool failures; /* errors, costs, tools and patterns too; else scores alone */
} Story;

/* Scores of a day: Beta of the mean wanted, with ten pseudo-counts. */
static void add_scores(Rollup *r, Rng *rng, double mean)
{
    mean = fmin(fmax(mean, 0.02), 0.98);
    for (int i = 0; i < TASKS; i++) rollup_add_score(r, rng_beta(rng, 10 * mean, 10 * (1 - mean)));
}

static void add_tasks(Rollup *r, Rng *rng)
{
    for (int i = 0; i < TASKS; i++) {
        int64_t calls = (int64_t)(rng_next(rng) % 4);
        uint64_t bits = rng_next(rng); /* about a quarter of them set */
        bits &= rng_next(rng);
        RollupTask task = { .outcome = rng_uniform(rng) < 0.02 ? OUTCOME_FAILED : OUTCOME_SUCCEEDED,
                            .escalated = rng_uniform(rng) < 0.05,
                            .latency_ms = (int64_t)(1000 * rng_lognormal(rng, 4, 0.7)),
                            .cost_nusd = (int64_t)(1e6 * rng_lognormal(rng, 3, 0.5)),
                            .tokens = (int64_t)(1000 * rng_lognormal(rng, 2, 0.5)),
                            .llm_calls = 1 + calls,
                            .tool_calls = calls,
                            .has_fingerprint = true,
                            .fingerprint = bits };
        rollup_add_task(r, &task);
        rollup_add_tool(r, STR("orders"), calls);
        rollup_add_tool(r, STR("refund"), rng_uniform(rng) < 0.1);
    }
}

static double mean_of(const Story *s, Rng *rng, int day)
{
    double mean = 0.8 + s->day_noise * rng_normal(rng);
    int drifting = day - s->baseline_days + 1;
    if (day % 7 >= 5) mean -= s->weekend;
    if (drifting > 0) mean -= 0.8 * s->decline / 7 * drifting;
    return mean;
}

/* The day of the first alarm of the metric (any: WATCH_N_) after the baseline, counted from 1; 0:
 * none. */
static int first_alarm(const Story *s, uint64_t seed, WatchMetric metric)
{
    static Watch watch;
    static WatchWork work;
    static Rollup day;
    static WatchAlarm alarms[WATCH_ALARMS_MAX];
    WatchConfig rule = config;
    if (s->h > 0) rule.h[WATCH_QUALITY] = s->h;
    Rng rng = rng_seeded(seed);
    memset(&watch, 0, sizeof(watch));
    rule.baseline_days = s->baseline_days;
    for (int d = 0; d < s->days; d++) {
        memset(&day, 0, sizeof(day));
        add_scores(&day, &rng, mean_of(s, &rng, d));
        if (s->failures) add_tasks(&day, &rng);
        size_t n = watch_day(&watch, &rule, (1000 + d) * DAY, &day, &work, alarms);
        for (size_t i = 0; i < n; i++) {
            if (metric != WATCH_N_ && alarms[i].metric != metric) continue;
            if (seed_given) printf("day %d: %s\n", d - s->baseline_days + 1, alarms[i].text);
            return d - s->baseline_days + 1;
        }
    }
    return 0;
}

/* A decline of 2% a week on 200 scored tasks a day, 1 point of noise a day. */
static void decline(int baseline_days, double h, double least, double most)
{
    enum { RUNS = 300 };
    Story s = {
        .decline = 0.02, .day_noise = 0.01, .baseline_days = baseline_days, .days = 120, .h = h
    };
    double sum = 0;
    int seen = 0;
    for (uint64_t i = 0; i < (seed_given ? 1 : RUNS); i++) {
        int day = first_alarm(&s, seed_given ? seed_given : i + 1, WATCH_QUALITY);
        if (day == 0) continue;
        sum += day;
        seen++;
    }
    if (seed_given) return;
    printf("threshold %.4f, baseline of %d days: alarmed in %.1f days, %d of %d runs\n",
           h > 0 ? h : config.h[WATCH_QUALITY], baseline_days, sum / seen, seen, RUNS);
    assert_int_equal(seen, RUNS);
    if (sum / seen < least || sum / seen > most) fail_msg("in %.1f days", sum / seen);
}

static void test_decline_28_days(void **state)
{
    (void)state;
    decline(28, 0, 8, 12.5);
}

static void test_decline_14_days(void **state)
{
    (void)state;
    decline(14, 0, 8, 13.5);
}

/* One chart alone that raises a false alarm a year, by the length of its baseline: 9.6 and 10.4
 * days are what charts of known deviation take for this decline. */
static void test_decline_of_one_chart(void **state)
{
    (void)state;
    decline(28, DRIFT_H_YEAR, 9.6 * 0.9, 9.6 * 1.1);
    decline(14, DRIFT_H_YEAR, 10.4 * 0.9, 10.4 * 1.1);
}

/* Nothing changes: of a year's runs, with the weekly rhythm in them, few raise a false alarm; one
 * a year for all charts together is a chance of 63% within the year, less as charts that start by
 * themselves are slow to. */
static void test_quiet_years(void **state)
{
    (void)state;
    enum { RUNS = 30 };
    Story s = {
        .day_noise = 0.01, .weekend = 0.03, .baseline_days = 28, .days = 28 + 365, .failures = true
    };
    int alarmed = 0;
    for (uint64_t i = 0; i < (seed_given ? 1 : RUNS); i++)
        alarmed += first_alarm(&s, seed_given ? seed_given : 1000 + i, WATCH_N_) > 0;
    printf("%d of %d quiet years have an alarm\n", alarmed, RUNS);
    if (!seed_given) assert_in_range(alarmed, 0, 22);
}

int main(int argc, char **argv)
{
    static CusumWork work;
    const char *seed = argc > 1 ? argv[1] : getenv("GANTRY_SEED");
    if (seed) seed_given = strtoull(seed, NULL, 10);
    watch_configure(&config, 365, &work);
    printf("thresholds %.4f, %.4f\n", config.h[WATCH_QUALITY], config.h[WATCH_ERRORS]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decline_28_days),
        cmocka_unit_test(test_decline_14_days),
        cmocka_unit_test(test_decline_of_one_chart),
        cmocka_unit_test(test_quiet_years),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
