#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/rng.h"
#include "logic/rollup.h"
#include "vectors.h"

static void test_spans(void **state)
{
    (void)state;
    const int64_t at = INT64_C(1764346154321); /* 2025-11-28T16:09:14.321Z */
    assert_int_equal(rollup_start_ms(ROLLUP_MINUTE, at), INT64_C(1764346140000));
    assert_int_equal(rollup_start_ms(ROLLUP_HOUR, at), INT64_C(1764345600000));
    assert_int_equal(rollup_start_ms(ROLLUP_DAY, at), INT64_C(1764288000000));
    for (RollupSpan span = 0; span < ROLLUP_SPANS_N_; span++) {
        int64_t end = rollup_end_ms(span, at);
        assert_int_equal(rollup_start_ms(span, end), end);
        assert_int_equal(rollup_end_ms(span, end - 1), end);
    }
}

static void test_histogram(void **state)
{
    (void)state;
    Histogram h = { 0 };
    assert_int_equal(histogram_quantile(&h, 0.5), 0);
    for (int64_t v = 0; v < 100000; v++) histogram_add(&h, v);
    assert_int_equal(histogram_count(&h), 100000);
    for (int percent = 1; percent <= 100; percent++) {
        double q = percent / 100.0;
        double got = (double)histogram_quantile(&h, q), want = q * 100000 - 1;
        assert_true(got >= want - 1 && got <= want * 1.13 + 1);
    }
    assert_near((double)histogram_above(&h, 50000), 50000, 6250);
    h = (Histogram){ 0 };
    histogram_add(&h, -5);
    histogram_add(&h, INT64_MAX);
    assert_int_equal(h.n[0], 1);
    assert_int_equal(h.n[HISTOGRAM_BUCKETS - 1], 1);
    assert_int_equal(histogram_quantile(&h, 1), (INT64_C(1) << 34) - 1);
}

/* A made-up task, the same whatever rollup it goes into. */
static void add_random(Rollup *r, Rng *rng)
{
    RollupTask task = { .outcome = (Outcome)(rng_next(rng) % 4),
                        .escalated = rng_next(rng) % 8 == 0,
                        .latency_ms = (int64_t)(rng_next(rng) % 100000),
                        .cost_nusd = (int64_t)(rng_next(rng) % 1000000),
                        .tokens = (int64_t)(rng_next(rng) % 10000),
                        .llm_calls = 2,
                        .tool_calls = (int64_t)(rng_next(rng) % 10),
                        .has_fingerprint = true,
                        .fingerprint = rng_next(rng) };
    rollup_add_task(r, &task);
    rollup_add_tool(r, rng_next(rng) % 2 ? STR("orders") : STR("refund"), 3);
    rollup_add_score(r, rng_uniform(rng));
}

/* Split over three processes and merged in any order: the same signals to the last bit. */
static void test_merging_is_exact(void **state)
{
    (void)state;
    static Rollup all, part[3], merged;
    for (uint64_t i = 0; i < 3000; i++) {
        Rng rng = rng_seeded(i), again = rng;
        add_random(&all, &rng);
        add_random(&part[i % 3], &again);
    }
    rollup_merge(&merged, &part[2]);
    rollup_merge(&merged, &part[0]);
    rollup_merge(&merged, &part[1]);
    RollupSignals a = rollup_signals(&all), b = rollup_signals(&merged);
    assert_memory_equal(&a, &b, sizeof(a));
    assert_memory_equal(&all.latency_ms, &merged.latency_ms, sizeof(all.latency_ms));
    assert_memory_equal(&all.pattern, &merged.pattern, sizeof(all.pattern));
    assert_int_equal(merged.tools_n, 2);
    assert_int_equal(merged.tools[0].calls + merged.tools[1].calls, 9000);
    assert_int_equal(merged.tools[0].tasks + merged.tools[1].tasks, 3000);
}

static void test_signals(void **state)
{
    (void)state;
    static Rollup r;
    RollupSignals s = rollup_signals(&r);
    assert_true(s.task_count == 0 && s.error_rate == 0 && s.quality == 0);
    for (int i = 0; i < 100; i++) {
        RollupTask task = { .outcome = i < 90   ? OUTCOME_SUCCEEDED
                                       : i < 97 ? OUTCOME_FAILED
                                                : OUTCOME_TIMED_OUT,
                            .escalated = i % 20 == 0,
                            .latency_ms = 1000 * (i + 1),
                            .cost_nusd = 5000,
                            .tokens = 10,
                            .llm_calls = 2,
                            .tool_calls = i < 5 ? 40 : 2 };
        rollup_add_task(&r, &task);
    }
    rollup_add_task(&r, &(RollupTask){ .outcome = OUTCOME_CANCELED, .cost_nusd = 999 });
    rollup_add_score(&r, 0.5);
    rollup_add_score(&r, 1);
    s = rollup_signals(&r);
    assert_int_equal(s.task_count, 100);
    assert_near(s.completion_rate, 0.90, 1e-12);
    assert_near(s.error_rate, 0.10, 1e-12);
    assert_near(s.escalation_rate, 0.05, 1e-12);
    assert_near(s.cost_nusd, 5000, 1e-9);
    assert_near(s.quality, 0.75, 1e-9);
    assert_near(s.quality_deviation, 0.25, 1e-6);
    assert_near((double)s.latency_p95_ms, 95000, 0.13 * 95000);
    assert_int_equal(r.canceled, 1);
    assert_near(rollup_tool_overuse(&r, 10), 0.05, 1e-12);
    assert_near(rollup_tool_overuse(&(Rollup){ 0 }, 10), 0, 0);
}

static void test_tools_beyond_the_limit(void **state)
{
    (void)state;
    static Rollup r, other;
    for (int i = 0; i < ROLLUP_TOOLS_MAX + 10; i++) {
        char name[16];
        int n = snprintf(name, sizeof(name), "tool%d", i);
        rollup_add_tool(&r, str_make(name, (size_t)n), 2);
    }
    assert_int_equal(r.tools_n, ROLLUP_TOOLS_MAX);
    assert_int_equal(r.other_calls, 20);
    rollup_add_tool(&r, STR("tool3"), 1);
    assert_int_equal(r.tools[3].calls, 3);
    rollup_add_tool(&r, STR("tool3"), 0);
    assert_int_equal(r.tools[3].tasks, 2);
    rollup_add_tool(&other, STR("new"), 7);
    rollup_merge(&r, &other);
    assert_int_equal(r.other_calls, 27);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_merging_is_exact),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_tools_beyond_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
