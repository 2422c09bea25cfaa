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
    RollupTask task = { .outcome = (Outcome)(rng_next(rng) % 5),
                        .escalated = rng_next(rng) % 8 == 0,
                        .latency_ms = (int64_t)(rng_next(rng) % 100000),
                        .cost_nusd = (int64_t)(rng_next(rng) % 1000000),
                        .tokens = (int64_t)(rng_next(rng) % 10000),
                        .llm_calls = 2,
                        .tool_calls = (int64_t)(rng_next(rng) % 10),
                        .has_input = true,
                        .input_bytes = (int64_t)(rng_next(rng) % 50000),
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

/* What is taken back was never there; a difference is merged as well as a sum. */
static void test_taking_back(void **state)
{
    (void)state;
    static Rollup r, difference;
    RollupTask task = { .outcome = OUTCOME_ESCALATED,
                        .escalated = true,
                        .latency_ms = 5,
                        .cost_nusd = 7,
                        .tool_calls = 3,
                        .has_fingerprint = true,
                        .fingerprint = 0xf0f0 };
    rollup_add_task(&r, &task);
    rollup_add_tool(&r, STR("orders"), 3);
    rollup_add_score(&r, 0.3);
    assert_int_equal(rollup_signals(&r).task_count, 1);
    rollup_remove_task(&difference, &task);
    rollup_remove_tool(&difference, STR("orders"), 3);
    rollup_remove_score(&difference, 0.3);
    task.outcome = OUTCOME_SUCCEEDED;
    rollup_add_task(&difference, &task);
    rollup_merge(&r, &difference);
    assert_int_equal(r.succeeded, 1);
    assert_int_equal(r.waiting, 0);
    assert_int_equal(r.scores, 0);
    assert_int_equal(r.score_sum, 0);
    assert_int_equal(r.cost_nusd, 7);
    assert_int_equal(r.pattern.n, 1);
    assert_int_equal(r.tools[0].calls, 0);
    assert_int_equal(histogram_count(&r.latency_ms), 1);
}

/* Tasks of a degraded moment are counted, and say nothing of the version. */
static void test_degraded_tasks_stand_apart(void **state)
{
    (void)state;
    static Rollup r;
    rollup_add_task(&r, &(RollupTask){ .outcome = OUTCOME_FAILED, .degraded = true, .tokens = 9 });
    rollup_add_task(&r, &(RollupTask){ .outcome = OUTCOME_SUCCEEDED, .tokens = 1 });
    RollupSignals s = rollup_signals(&r);
    assert_int_equal(r.degraded, 1);
    assert_int_equal(s.task_count, 1);
    assert_true(s.error_rate == 0 && s.tokens == 1);
}

static void test_bytes(void **state)
{
    (void)state;
    static Rollup r, again;
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, ROLLUP_BYTES_MAX);
    rollup_write(&r, &bytes);
    assert_int_equal(rollup_read(buf_str(&bytes), &again), 0);
    assert_memory_equal(&r, &again, sizeof(r));
    for (uint64_t i = 0; i < 500; i++) {
        Rng rng = rng_seeded(i);
        add_random(&r, &rng);
    }
    rollup_remove_tool(&r, STR("once"), 5); /* a difference: below zero */
    buf_clear(&bytes);
    rollup_write(&r, &bytes);
    assert_int_equal(rollup_read(buf_str(&bytes), &again), 0);
    assert_memory_equal(&r, &again, sizeof(r));
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(rollup_read(str_sub(buf_str(&bytes), 0, n), &again), -EPROTO);
    buf_add_char(&bytes, 0);
    assert_int_equal(rollup_read(buf_str(&bytes), &again), -EPROTO);
}

static void add_tools(Rollup *r, uint64_t seed, int n)
{
    Rng rng = rng_seeded(seed);
    for (int i = 0; i < n; i++) {
        char name[32];
        int len = snprintf(name, sizeof(name), "tool-%d", (int)(rng_next(&rng) % 150));
        rollup_add_tool(r, str_make(name, (size_t)len), 1 + (int64_t)(rng_next(&rng) % 5));
    }
}

/* More tools than there is room for, met in any order: the same ones are kept. */
static void test_tools_beyond_room(void **state)
{
    (void)state;
    static Rollup all, part[3], merged[2];
    CLEANUP(buf_deinit) Buf want, bytes;
    buf_init(&want, ROLLUP_BYTES_MAX);
    buf_init(&bytes, ROLLUP_BYTES_MAX);
    for (uint64_t i = 0; i < 3; i++) add_tools(&part[i], i + 1, 300);
    for (uint64_t i = 3; i-- > 0;) add_tools(&all, i + 1, 300);
    rollup_write(&all, &want);
    assert_int_equal(all.tools_n, ROLLUP_TOOLS_MAX);
    assert_true(all.other_calls > 0);
    static const int orders[2][3] = { { 0, 1, 2 }, { 2, 0, 1 } };
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < 3; i++) rollup_merge(&merged[m], &part[orders[m][i]]);
        buf_clear(&bytes);
        rollup_write(&merged[m], &bytes);
        assert_true(str_eq(buf_str(&bytes), buf_str(&want)));
    }
}

/* As it was written before inputs were counted, tools in any order. */
static void test_form_before(void **state)
{
    (void)state;
    static Rollup r;
    static const char tools[] = "\x04\x02"
                                "b\x02\x02\x02"
                                "a\x04\x02";
    char bytes[64] = { 2 };
    size_t sums_and_histograms = 15 + 2 + 1; /* and the patterns */
    memcpy(bytes + 1 + sums_and_histograms, tools, sizeof(tools) - 1);
    Str old = str_make(bytes, 1 + sums_and_histograms + sizeof(tools) - 1);
    assert_int_equal(rollup_read(old, &r), 0);
    assert_int_equal(r.tools_n, 2);
    assert_string_equal(r.tools[0].name, "a");
    assert_int_equal(r.tools[0].calls, 2);
    assert_int_equal(histogram_count(&r.input_bytes), 0);
}

/* The largest rollup there can be has room. */
static void test_bytes_have_room(void **state)
{
    (void)state;
    static Rollup r, again;
    memset(&r, 0x7f, sizeof(r));
    r.tools_n = ROLLUP_TOOLS_MAX;
    for (int i = 0; i < ROLLUP_TOOLS_MAX; i++) r.tools[i].name[ROLLUP_TOOL_BYTES] = '\0';
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, ROLLUP_BYTES_MAX);
    rollup_write(&r, &bytes);
    assert_false(bytes.failed);
    assert_int_equal(rollup_read(buf_str(&bytes), &again), 0);
    assert_int_equal(again.tools[63].tasks, r.tools[63].tasks);
    assert_int_equal(again.cost_nusd, r.cost_nusd);
}

#define MINUTE INT64_C(60000)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

/* Whatever the window, each moment of it is covered once, in order, by spans that are still
 * kept. */
static void test_cover(void **state)
{
    (void)state;
    Rng rng = rng_seeded(7);
    RollupTile tiles[ROLLUP_TILES_MAX];
    int64_t now = 20000 * DAY + 5 * HOUR + 7 * MINUTE + 123;
    assert_int_equal(rollup_cover(now, now, now, tiles), 0);
    assert_int_equal(rollup_cover(now - 30 * DAY, now, now, tiles), 3); /* hours, days, hours */
    for (int i = 0; i < 20000; i++) {
        static const int64_t far[] = { HOUR, 2 * DAY, 20 * DAY, 300 * DAY };
        int64_t from = now - (int64_t)(rng_next(&rng) % (uint64_t)far[i % 4]) - 1;
        int64_t to = now - (int64_t)(rng_next(&rng) % (uint64_t)(now - from));
        size_t n = rollup_cover(from, to, now, tiles);
        assert_in_range(n, 1, ROLLUP_TILES_MAX);
        RollupSpan fine = ROLLUP_DAY;
        for (size_t k = 0; k < n; k++) {
            fine = MIN(fine, tiles[k].span);
            assert_true(tiles[k].from_ms < tiles[k].to_ms);
            assert_int_equal(rollup_start_ms(tiles[k].span, tiles[k].from_ms), tiles[k].from_ms);
            assert_int_equal(rollup_start_ms(tiles[k].span, tiles[k].to_ms), tiles[k].to_ms);
            if (k > 0) assert_int_equal(tiles[k].from_ms, tiles[k - 1].to_ms);
            if (tiles[k].span == ROLLUP_MINUTE)
                assert_true(now - tiles[k].from_ms < ROLLUP_MINUTES_KEPT_MS);
            if (tiles[k].span == ROLLUP_HOUR)
                assert_true(now - tiles[k].from_ms < ROLLUP_HOURS_KEPT_MS);
        }
        int64_t first = tiles[0].from_ms, last = tiles[n - 1].to_ms;
        assert_true(first <= from && last >= to);
        assert_true(from - first < (n == 1 || fine == tiles[0].span ? DAY : HOUR));
        assert_true(last - to < DAY);
    }
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
        int n = snprintf(name, sizeof(name), "tool%03d", i);
        rollup_add_tool(&r, str_make(name, (size_t)n), 2);
    }
    assert_int_equal(r.tools_n, ROLLUP_TOOLS_MAX);
    assert_int_equal(r.other_calls, 20);
    rollup_add_tool(&r, STR("tool003"), 1);
    assert_int_equal(r.tools[3].calls, 3);
    rollup_add_tool(&r, STR("tool003"), 0);
    assert_int_equal(r.tools[3].tasks, 2);
    rollup_add_tool(&other, STR("zoom"), 7);
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
        cmocka_unit_test(test_taking_back),
        cmocka_unit_test(test_degraded_tasks_stand_apart),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_tools_beyond_room),
        cmocka_unit_test(test_form_before),
        cmocka_unit_test(test_bytes_have_room),
        cmocka_unit_test(test_cover),
        cmocka_unit_test(test_tools_beyond_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
