#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "logic/rng.h"
#include "logic/watch.h"

#define DAY INT64_C(86400000)

static WatchConfig config;
static WatchWork work;
static WatchAlarm alarms[WATCH_ALARMS_MAX];

/* What a day of a version is like. */
typedef struct {
    int tasks, scores;
    double score, errors, other_tool;
    int64_t cost_nusd, tool_calls;
    int64_t input_bytes; /* 0: not known */
} Kind;

static const Kind usual = {
    .tasks = 100, .scores = 100, .score = 0.8, .errors = 0.05, .cost_nusd = 1000, .tool_calls = 2
};

static void make_day(Rollup *r, const Kind *kind, uint64_t seed)
{
    Rng rng = rng_seeded(seed);
    memset(r, 0, sizeof(*r));
    for (int i = 0; i < kind->tasks; i++) {
        bool failed = rng_uniform(&rng) < kind->errors;
        RollupTask task = { .outcome = failed ? OUTCOME_FAILED : OUTCOME_SUCCEEDED,
                            .latency_ms = 100 + (int64_t)(rng_next(&rng) % 50),
                            .cost_nusd = kind->cost_nusd + (int64_t)(rng_next(&rng) % 100),
                            .tokens = 100,
                            .tool_calls = kind->tool_calls,
                            .has_input = kind->input_bytes > 0,
                            .input_bytes = kind->input_bytes * (i % 8 + 4) / 8,
                            .has_fingerprint = true,
                            .fingerprint = rng_next(&rng) };
        rollup_add_task(r, &task);
        bool other = rng_uniform(&rng) < kind->other_tool;
        rollup_add_tool(r, other ? STR("refund") : STR("orders"), kind->tool_calls);
    }
    for (int i = 0; i < kind->scores; i++)
        rollup_add_score(r, fmin(1, fmax(0, kind->score + 0.1 * rng_normal(&rng))));
}

/* Days from..to-1 of the kind. Returns the alarms of all of them as a set; the text of the last
 * stays in alarms[0]. */
static unsigned live(Watch *w, int from, int to, const Kind *kind)
{
    static Rollup day;
    static WatchAlarm raised[WATCH_ALARMS_MAX];
    unsigned set = 0;
    for (int d = from; d < to; d++) {
        make_day(&day, kind, (uint64_t)d);
        size_t n = watch_day(w, &config, (1000 + d) * DAY, &day, &work, raised);
        for (size_t i = 0; i < n; i++) {
            set |= 1u << raised[i].metric;
            alarms[0] = raised[i];
        }
    }
    return set;
}

static Watch *fresh(void)
{
    static Watch watch;
    memset(&watch, 0, sizeof(watch));
    return &watch;
}

static void test_names(void **state)
{
    (void)state;
    for (WatchMetric m = 0; m < WATCH_N_; m++) {
        WatchMetric again;
        assert_int_equal(watch_metric_from(str_of(watch_metric_name(m)), &again), 0);
        assert_int_equal(again, m);
    }
    WatchMetric none;
    assert_int_equal(watch_metric_from(STR("nothing"), &none), -EINVAL);
}

static void test_each_kind_of_drift(void **state)
{
    (void)state;
    static const struct {
        WatchMetric metric;
        Kind kind;
        const char *says;
    } cases[] = {
        { WATCH_QUALITY, { 100, 100, 0.6, 0.05, 0, 1000, 2 }, "quality" },
        { WATCH_ERRORS, { 100, 100, 0.8, 0.5, 0, 1000, 2 }, "errors" },
        { WATCH_COST, { 100, 100, 0.8, 0.05, 0, 2000, 2 }, "USD" },
        { WATCH_TOOLS, { 100, 100, 0.8, 0.05, 0.7, 1000, 2 }, "tools called have changed" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Watch *w = fresh();
        assert_int_equal(live(w, 0, 40, &usual), 0);
        unsigned set = live(w, 40, 46, &cases[i].kind);
        if (set != 1u << cases[i].metric) fail_msg("%zu: %x", i, set);
        assert_non_null(strstr(alarms[0].text, cases[i].says));
        assert_int_equal(live(w, 46, 50, &cases[i].kind), 0); /* told once */
        watch_acknowledge(w, cases[i].metric);
        assert_int_equal(live(w, 50, 80, &cases[i].kind), 0); /* is normal from now on */
    }
}

/* Where errors come from: what is asked has changed, or has not. */
static void test_inputs(void **state)
{
    (void)state;
    static const struct {
        int64_t before, after;
        WatchInputs want;
    } cases[] = { { 800, 800, WATCH_INPUTS_ALIKE },
                  { 800, 3000, WATCH_INPUTS_MOVED },
                  { 800, 0, WATCH_INPUTS_UNKNOWN },
                  { 0, 800, WATCH_INPUTS_UNKNOWN } };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Kind before = usual, after = usual;
        before.input_bytes = cases[i].before;
        after.input_bytes = cases[i].after;
        after.errors = 0.5;
        Watch *w = fresh();
        assert_int_equal(live(w, 0, 40, &before), 0);
        assert_int_equal(live(w, 40, 46, &after), 1u << WATCH_ERRORS);
        assert_int_equal(alarms[0].inputs, cases[i].want);
        assert_true((alarms[0].inputs_distance > 0.1) == (cases[i].want == WATCH_INPUTS_MOVED));
    }
}

/* Loops are seen against the baseline's tool calls. */
static void test_loops(void **state)
{
    (void)state;
    Kind loops = usual;
    loops.tool_calls = 20;
    Watch *w = fresh();
    assert_int_equal(live(w, 0, 50, &usual), 0);
    assert_true(live(w, 50, 55, &loops) & 1u << WATCH_LOOPS);
}

static void test_patterns(void **state)
{
    (void)state;
    static Rollup day;
    Watch *w = fresh();
    make_day(&day, &usual, 7);
    assert_true(isnan(watch_pattern_shift(w, &day)));
    live(w, 0, 20, &usual);
    assert_true(fabs(watch_pattern_shift(w, &day)) < 0.01);
    memset(&day, 0, sizeof(day));
    assert_true(isnan(watch_pattern_shift(w, &day)));
    rollup_add_task(&day, &(RollupTask){ .has_fingerprint = true, .fingerprint = 0 });
    assert_true(watch_pattern_shift(w, &day) > 0.2);
}

/* Days with few tasks are merged; a day counts once; nothing happened on most days. */
static void test_small_days(void **state)
{
    (void)state;
    Kind small = { .tasks = 10, .scores = 4, .score = 0.8, .cost_nusd = 1000 };
    static Rollup day;
    Watch *w = fresh();
    assert_int_equal(live(w, 0, 9, &small), 0);
    assert_int_equal(w->charts[WATCH_ERRORS].n, 3);
    assert_int_equal(w->charts[WATCH_QUALITY].n, 1);
    for (int d = 0; d < 7; d++) /* three days are no weekday */
        assert_int_equal(w->charts[WATCH_ERRORS].day_n[d] + w->charts[WATCH_QUALITY].day_n[d], 0);
    assert_int_equal(w->baseline_days, 3);
    make_day(&day, &usual, 1);
    assert_int_equal(watch_day(w, &config, (1000 + 8) * DAY, &day, &work, alarms), 0);
    assert_int_equal(w->charts[WATCH_ERRORS].n, 3); /* not after the last */
}

/* A version that was perfect for weeks is not alarming for its first error. */
static void test_first_error(void **state)
{
    (void)state;
    Kind perfect = usual;
    perfect.errors = 0;
    Kind once = perfect;
    once.errors = 0.02;
    Watch *w = fresh();
    assert_int_equal(live(w, 0, 40, &perfect), 0);
    assert_int_equal(live(w, 40, 41, &once), 0);
    assert_int_equal(live(w, 41, 60, &perfect), 0);
}

static void test_thresholds(void **state)
{
    (void)state;
    assert_true(fabs(config.h[WATCH_QUALITY] - 4.7604) < 1e-3); /* one in two years */
    assert_true(config.h[WATCH_COST] > config.h[WATCH_QUALITY]);
    static CusumWork cusum;
    double rate = 0;
    for (WatchMetric m = 0; m < WATCH_CHARTS_N; m++)
        rate += 1 / cusum_run_length(&cusum, DRIFT_K, config.h[m], 0);
    assert_true(fabs(rate * 365 - 1) < 1e-3);
}

int main(void)
{
    static CusumWork cusum;
    watch_configure(&config, 365, &cusum);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),      cmocka_unit_test(test_each_kind_of_drift),
        cmocka_unit_test(test_loops),      cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_small_days), cmocka_unit_test(test_first_error),
        cmocka_unit_test(test_thresholds), cmocka_unit_test(test_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
