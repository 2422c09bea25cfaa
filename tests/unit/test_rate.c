#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/rate.h"

#define T0 INT64_C(1000000)

static Rate rate_of(int64_t requests, int64_t tokens, int64_t concurrent)
{
    Rate rate;
    RateAmounts limit = { .v = { [RATE_REQUESTS] = requests, [RATE_TOKENS] = tokens } };
    rate_init(&rate, &limit, concurrent);
    return rate;
}

static bool fits(const Rate *rate, int64_t tokens, int64_t now_ms)
{
    RateAmounts need = rate_amounts(tokens, 0);
    return rate_fits_at_ms(rate, &need, now_ms) == now_ms;
}

static void take(Rate *rate, int64_t tokens, int64_t now_ms)
{
    RateAmounts need = rate_amounts(tokens, 0);
    rate_take(rate, &need, now_ms);
}

static void settle(Rate *rate, int64_t taken, int64_t taken_at_ms, int64_t actual, int64_t now_ms)
{
    RateAmounts was = rate_amounts(taken, 0), is = rate_amounts(actual, 0);
    rate_settle(rate, &was, taken_at_ms, &is, now_ms);
}

/* --- windows ---------------------------------------------------------------------------------- */

static void test_requests_a_minute(void **state)
{
    (void)state;
    Rate rate = rate_of(3, 0, 0);
    RateAmounts one = rate_amounts(1, 1);
    for (int i = 0; i < 3; i++) {
        assert_true(fits(&rate, 1, T0 + i));
        take(&rate, 1, T0 + i);
    }
    assert_false(fits(&rate, 1, T0 + 3));
    int64_t at_ms = rate_fits_at_ms(&rate, &one, T0 + 3);
    assert_true(at_ms > T0 + RATE_WINDOW_MS && at_ms <= T0 + RATE_SPAN_MS);
    assert_false(fits(&rate, 1, at_ms - 1));
    assert_true(fits(&rate, 1, at_ms));
}

static void test_never_more_than_the_limit_in_any_minute(void **state)
{
    (void)state;
    /* 663 tokens went through a limit of 100 elsewhere: calls of 60, one a second, never ending */
    Rate rate = rate_of(0, 100, 0);
    int64_t last_ms = -RATE_SPAN_MS, n = 0;
    for (int64_t now_ms = T0; now_ms < T0 + 600000; now_ms += 1000) {
        if (!fits(&rate, 60, now_ms)) continue;
        assert_true(now_ms - last_ms > RATE_WINDOW_MS);
        take(&rate, 60, now_ms);
        last_ms = now_ms;
        n++;
    }
    assert_int_equal(n, 10);
}

static void test_larger_than_the_limit_goes_alone(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 100, 0);
    take(&rate, 1, T0);
    assert_false(fits(&rate, 5000, T0 + 30000));
    assert_true(fits(&rate, 5000, T0 + RATE_SPAN_MS));
    take(&rate, 5000, T0 + RATE_SPAN_MS);
    assert_false(fits(&rate, 1, T0 + RATE_SPAN_MS + RATE_WINDOW_MS));
    assert_true(fits(&rate, 1, T0 + 2 * RATE_SPAN_MS));
}

static void test_over_estimates_come_free(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 1000, 0);
    take(&rate, 900, T0);
    assert_false(fits(&rate, 200, T0 + 1000));
    settle(&rate, 900, T0, 300, T0 + 1000);
    assert_int_equal(rate_used(&rate, RATE_TOKENS, T0 + 1000), 300);
    assert_int_equal(rate_used(&rate, RATE_REQUESTS, T0 + 1000), 1);
    assert_true(fits(&rate, 700, T0 + 1000));
    assert_false(fits(&rate, 701, T0 + 1000));
}

static void test_overshoot_stays_booked(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 100, 0);
    take(&rate, 50, T0);
    settle(&rate, 50, T0, 500, T0 + 90000); /* long after its reservation has left the window */
    assert_int_equal(rate_used(&rate, RATE_TOKENS, T0 + 90000), 450);
    assert_false(fits(&rate, 1, T0 + 90000 + RATE_WINDOW_MS));
    assert_true(fits(&rate, 1, T0 + 90000 + RATE_SPAN_MS));
}

static void test_a_late_return_gives_nothing_twice(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 100, 0);
    take(&rate, 50, T0);
    take(&rate, 40, T0 + RATE_SPAN_MS); /* in the bucket that the first one was in */
    settle(&rate, 50, T0, 0, T0 + RATE_SPAN_MS);
    assert_int_equal(rate_used(&rate, RATE_TOKENS, T0 + RATE_SPAN_MS), 40);
}

static void test_concurrency(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 0, 2);
    RateAmounts one = rate_amounts(1, 1);
    take(&rate, 1, T0);
    take(&rate, 1, T0);
    assert_int_equal(rate_fits_at_ms(&rate, &one, T0 + 999999), RATE_NEVER);
    settle(&rate, 1, T0, 1, T0 + 5);
    assert_true(fits(&rate, 1, T0 + 5));
}

static void test_huge_amounts_do_not_overflow(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 100, 0);
    for (int i = 0; i < 100; i++) take(&rate, INT64_MAX, T0 + i * 1000);
    assert_true(rate_used(&rate, RATE_TOKENS, T0 + 99000) > 0);
    for (int i = 0; i < 100; i++) settle(&rate, INT64_MAX, T0 + i * 1000, 1, T0 + 99000);
    assert_true(rate_used(&rate, RATE_TOKENS, T0 + 99000) >= 0);
    assert_true(fits(&rate, 100, T0 + 99000 + 2 * RATE_SPAN_MS));
}

static void test_shares(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 100, 4);
    RateAmounts ten = rate_amounts(10, 0), sixty = rate_amounts(60, 0);
    rate.shared = true;
    assert_int_equal(rate_fits_at_ms(&rate, &ten, T0), RATE_NEVER); /* none yet */
    assert_true(rate_lacks_share(&rate, &ten, T0));
    rate.share = (RateAmounts){ .v = { [RATE_TOKENS] = 50 } };
    rate.concurrent_share = 1;
    rate.share_until_ms = T0 + 1000;
    assert_true(fits(&rate, 10, T0));
    assert_int_equal(rate_fits_at_ms(&rate, &sixty, T0), RATE_NEVER);
    assert_true(rate_lacks_share(&rate, &sixty, T0));
    assert_false(rate_lacks_share(&rate, &ten, T0));
    take(&rate, 45, T0);
    assert_true(rate_lacks_share(&rate, &ten, T0)); /* of both */
    assert_int_equal(rate_fits_at_ms(&rate, &ten, T0), RATE_NEVER);
    settle(&rate, 45, T0, 45, T0);
    assert_true(rate_fits_at_ms(&rate, &ten, T0) > T0 + RATE_WINDOW_MS);
    assert_int_equal(rate_fits_at_ms(&rate, &ten, T0 + 1000), RATE_NEVER); /* its time is over */
    rate.share.v[RATE_TOKENS] = 100; /* all of it: what is used stands in the way, not the share */
    rate.concurrent_share = 4;
    rate.share_until_ms = T0 + 100000;
    take(&rate, 50, T0);
    assert_false(rate_lacks_share(&rate, &ten, T0));
    rate.shared = false;
    assert_false(rate_lacks_share(&rate, &sixty, T0));
}

/* --- what providers tell ---------------------------------------------------------------------- */

#define NOW_REAL INT64_C(1767225600000) /* 2026-01-01T00:00:00Z */

static RateReport report_of(const char *name, const char *value)
{
    RateReport report = RATE_REPORT_NONE;
    rate_report_field(&report, str_of(name), str_of(value), NOW_REAL);
    return report;
}

static void test_openai_fields(void **state)
{
    (void)state;
    assert_int_equal(report_of("x-ratelimit-limit-requests", "500").limit[RATE_REQUESTS], 500);
    assert_int_equal(report_of("X-RateLimit-Limit-Tokens", "30000").limit[RATE_TOKENS], 30000);
    assert_int_equal(report_of("x-ratelimit-remaining-requests", "0").remaining[RATE_REQUESTS], 0);
    static const struct {
        const char *text;
        int64_t ms;
    } resets[] = {
        { "1s", 1000 },
        { "6m0s", 360000 },
        { "12ms", 12 },
        { "8.64s", 8640 },
        { "1m0.5s", 60500 },
        { "0s", 0 },
        { "250us", 1 },
        { "59", 59000 },
        { "0.5", 500 },
        { "1767225603", 3000 },
        { "1767225600250", 250 },
        { "24h0m0s", RATE_BLOCK_MAX_MS },
        { "2026-01-01T00:00:07Z", 7000 },
        { "", -1 },
        { "soon", -1 },
        { "-5s", -1 },
        { "5x", -1 },
        { "1s ", 1000 },
        { "99999999999999999999s", -1 },
    };
    for (size_t i = 0; i < ARRAY_N(resets); i++)
        assert_int_equal(
            report_of("x-ratelimit-reset-tokens", resets[i].text).reset_ms[RATE_TOKENS],
            resets[i].ms);
}

static void test_anthropic_fields(void **state)
{
    (void)state;
    assert_int_equal(report_of("anthropic-ratelimit-requests-limit", "50").limit[RATE_REQUESTS],
                     50);
    assert_int_equal(
        report_of("anthropic-ratelimit-input-tokens-remaining", "7").remaining[RATE_INPUT], 7);
    assert_int_equal(report_of("anthropic-ratelimit-output-tokens-reset", "2026-01-01T00:00:30Z")
                         .reset_ms[RATE_OUTPUT],
                     30000);
    assert_int_equal(
        report_of("anthropic-ratelimit-tokens-reset", "2025-12-31T23:59:00Z").reset_ms[RATE_TOKENS],
        0);
    assert_int_equal(report_of("anthropic-ratelimit-unified-status", "ok").limit[RATE_TOKENS], -1);
    assert_int_equal(report_of("anthropic-ratelimit-", "1").limit[RATE_TOKENS], -1);
    assert_int_equal(report_of("x-ratelimit-limit-", "1").limit[RATE_TOKENS], -1);
    assert_int_equal(report_of("x-ratelimit-limit-tokens", "-1").limit[RATE_TOKENS], -1);
}

static void test_retry_after(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
        int64_t ms;
    } cases[] = {
        { "retry-after", "20", 20000 },
        { "Retry-After", "0", 0 },
        { "retry-after", "1.5", 1500 },
        { "retry-after", "-10", -1 }, /* as if nothing had been said */
        { "retry-after", "99999999", RATE_BLOCK_MAX_MS },
        { "retry-after", "99999999999999999999999", -1 },
        { "retry-after", "Thu, 01 Jan 2026 00:00:42 GMT", 42000 },
        { "retry-after", "Thu, 01 Jan 2020 00:00:00 GMT", 0 },
        { "retry-after", "Thu, 01 Jan 2099 00:00:00 GMT", RATE_BLOCK_MAX_MS },
        { "retry-after", "Thu, 99 Foo 2026 00:00:42 GMT", -1 },
        { "retry-after", "later", -1 },
        { "retry-after-ms", "1250", 1250 },
        { "retry-after-ms", "12.7", 12 },
        { "retry-after-ms", "x", -1 },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        assert_int_equal(report_of(cases[i].name, cases[i].text).retry_after_ms, cases[i].ms);
    RateReport both = RATE_REPORT_NONE;
    rate_report_field(&both, STR("retry-after-ms"), STR("300"), NOW_REAL);
    rate_report_field(&both, STR("retry-after"), STR("9"), NOW_REAL);
    assert_int_equal(both.retry_after_ms, 300);
}

static void test_limits_are_learned(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 500, 0);
    RateReport report = RATE_REPORT_NONE;
    report.limit[RATE_REQUESTS] = 2;
    report.limit[RATE_TOKENS] = 10000;
    rate_learn(&rate, &report, T0);
    assert_int_equal(rate_limit(&rate, RATE_REQUESTS), 2);
    assert_int_equal(rate_limit(&rate, RATE_TOKENS), 500); /* the operator's is lower */
    take(&rate, 1, T0);
    take(&rate, 1, T0);
    assert_false(fits(&rate, 1, T0));
}

static void test_what_others_use_counts_and_wears_off(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 0, 0);
    RateReport report = RATE_REPORT_NONE;
    take(&rate, 100, T0);
    report.limit[RATE_TOKENS] = 1000;
    report.remaining[RATE_TOKENS] = 300; /* 700 are used, 600 of them not by us */
    report.reset_ms[RATE_TOKENS] = 10000;
    rate_learn(&rate, &report, T0);
    assert_true(fits(&rate, 300, T0));
    assert_false(fits(&rate, 301, T0));
    assert_true(fits(&rate, 600, T0 + 5000));
    assert_false(fits(&rate, 601, T0 + 5000));
    assert_true(fits(&rate, 900, T0 + 10000));
    RateAmounts need = rate_amounts(600, 0);
    assert_int_equal(rate_fits_at_ms(&rate, &need, T0), T0 + 5000);
    report.remaining[RATE_TOKENS] = 950; /* the newest report holds */
    rate_learn(&rate, &report, T0);
    assert_true(fits(&rate, 900, T0));
}

static void test_a_block_is_bounded(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 0, 0);
    RateAmounts one = rate_amounts(1, 0);
    rate_block(&rate, T0 + 5000, T0);
    rate_block(&rate, T0 + 1000, T0); /* never shortened */
    assert_int_equal(rate_fits_at_ms(&rate, &one, T0), T0 + 5000);
    assert_true(fits(&rate, 1, T0 + 5000));
    rate_block(&rate, INT64_MAX, T0);
    assert_int_equal(rate_fits_at_ms(&rate, &one, T0), T0 + RATE_BLOCK_MAX_MS);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static RateWaiter waiter_of(Rate *shared, Rate *own, Lane lane, int64_t tokens)
{
    RateWaiter w = { .lane = lane, .rates = { shared, own }, .rates_n = own ? 2 : 1 };
    w.need = rate_amounts(tokens, 0);
    return w;
}

static void join(RateQueue *queue, RateWaiter *w, int64_t now_ms)
{
    assert_true(rate_queue_join(queue, w, now_ms));
}

/* Admits; returns how many, and when to look again. */
static size_t admit(RateQueue *queue, int64_t now_ms, int64_t *ret_next_ms)
{
    List admitted;
    size_t n = 0;
    list_init(&admitted);
    rate_queue_admit(queue, now_ms, &admitted, ret_next_ms);
    while (list_pop_front(&admitted)) n++;
    return n;
}

static void test_lanes_go_in_order(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 0, 1);
    RateQueue queue;
    int64_t next_ms;
    rate_queue_init(&queue, 10);
    RateWaiter low = waiter_of(&rate, NULL, LANE_LOW, 1),
               normal = waiter_of(&rate, NULL, LANE_NORMAL, 1),
               critical = waiter_of(&rate, NULL, LANE_CRITICAL, 1);
    join(&queue, &low, T0);
    join(&queue, &normal, T0 + 1);
    join(&queue, &critical, T0 + 2);
    assert_int_equal(queue.by_lane[LANE_LOW], 1);
    RateWaiter *const order[] = { &critical, &normal, &low };
    RateAmounts used = rate_amounts(1, 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(admit(&queue, T0 + 2, &next_ms), 1);
        assert_int_equal(next_ms, RATE_NEVER); /* a call must end first */
        assert_true(order[i]->admitted);
        rate_waiter_settle(order[i], &used, T0 + 2);
    }
    assert_int_equal(queue.n, 0);
    assert_int_equal(rate.in_flight, 0);
    assert_int_equal(rate.waiting, 0);
}

static void test_who_waits_long_enough_is_first(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 0, 1);
    RateQueue queue;
    int64_t next_ms;
    rate_queue_init(&queue, 10);
    RateWaiter low = waiter_of(&rate, NULL, LANE_LOW, 1),
               early = waiter_of(&rate, NULL, LANE_CRITICAL, 1),
               late = waiter_of(&rate, NULL, LANE_CRITICAL, 1);
    join(&queue, &low, T0);
    join(&queue, &early, T0 + RATE_HANDICAP_LOW_MS - 1);
    join(&queue, &late, T0 + RATE_HANDICAP_LOW_MS);
    RateAmounts used = rate_amounts(1, 0);
    assert_int_equal(admit(&queue, T0 + 60000, &next_ms), 1);
    assert_true(early.admitted);
    rate_waiter_settle(&early, &used, T0 + 60000);
    assert_int_equal(admit(&queue, T0 + 60000, &next_ms), 1);
    assert_true(low.admitted && !late.admitted);
    rate_queue_leave(&queue, &late);
}

static void test_a_large_call_is_not_overtaken_in_what_it_waits_for(void **state)
{
    (void)state;
    Rate shared = rate_of(0, 0, 0), own = rate_of(0, 1000, 0), other = rate_of(0, 1000, 0);
    RateQueue queue;
    int64_t next_ms;
    rate_queue_init(&queue, 10);
    take(&own, 500, T0);
    RateWaiter large = waiter_of(&shared, &own, LANE_NORMAL, 900),
               small = waiter_of(&shared, &own, LANE_NORMAL, 10),
               elsewhere = waiter_of(&shared, &other, LANE_LOW, 10);
    join(&queue, &large, T0);
    join(&queue, &small, T0);
    join(&queue, &elsewhere, T0);
    assert_int_equal(admit(&queue, T0 + 1, &next_ms), 1);
    assert_true(elsewhere.admitted);
    assert_true(next_ms > T0 + RATE_WINDOW_MS && next_ms <= T0 + RATE_SPAN_MS);
    assert_int_equal(admit(&queue, next_ms, &next_ms), 2);
    assert_true(large.admitted && small.admitted);
}

static void test_the_queue_is_bounded(void **state)
{
    (void)state;
    Rate rate = rate_of(0, 0, 1);
    RateQueue queue;
    rate_queue_init(&queue, 2);
    RateWaiter w[3];
    for (int i = 0; i < 3; i++) w[i] = waiter_of(&rate, NULL, LANE_CRITICAL, 1);
    join(&queue, &w[0], T0);
    join(&queue, &w[1], T0);
    assert_false(rate_queue_join(&queue, &w[2], T0));
    assert_int_equal(queue.refused_full, 1);
    rate_queue_leave(&queue, &w[2]); /* harmless */
    rate_queue_leave(&queue, &w[0]);
    rate_queue_leave(&queue, &w[0]);
    assert_int_equal(queue.n, 1);
    join(&queue, &w[2], T0);
}

static void test_waiting_costs_nothing(void **state)
{
    (void)state;
    /* elsewhere, refused calls burned the quota they were refused for */
    Rate rate = rate_of(5, 0, 0);
    RateQueue queue;
    int64_t next_ms;
    rate_queue_init(&queue, 100);
    for (int i = 0; i < 5; i++) take(&rate, 1, T0);
    for (int i = 0; i < 50; i++) {
        RateWaiter w = waiter_of(&rate, NULL, LANE_CRITICAL, 1);
        join(&queue, &w, T0 + 10 + i);
        assert_int_equal(admit(&queue, T0 + 10 + i, &next_ms), 0);
        rate_queue_leave(&queue, &w);
    }
    assert_int_equal(rate_used(&rate, RATE_REQUESTS, T0 + 100), 5);
}

/* --- how long answers get --------------------------------------------------------------------- */

static void test_output_is_learned(void **state)
{
    (void)state;
    RateOutput output = { 0 };
    for (int i = 0; i < RATE_OUTPUT_SEEN_MIN; i++) {
        assert_int_equal(rate_output_guess(&output, 16384), 16384);
        rate_output_note(&output, 400);
    }
    assert_int_equal(rate_output_guess(&output, 16384), 516);
    assert_int_equal(rate_output_guess(&output, 100), 100);
    rate_output_note(&output, 4000);
    assert_int_equal(rate_output_guess(&output, 16384), 5016);
    for (int i = 0; i < 200; i++) rate_output_note(&output, 10);
    assert_true(rate_output_guess(&output, 16384) < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_a_minute),
        cmocka_unit_test(test_never_more_than_the_limit_in_any_minute),
        cmocka_unit_test(test_larger_than_the_limit_goes_alone),
        cmocka_unit_test(test_over_estimates_come_free),
        cmocka_unit_test(test_overshoot_stays_booked),
        cmocka_unit_test(test_a_late_return_gives_nothing_twice),
        cmocka_unit_test(test_concurrency),
        cmocka_unit_test(test_huge_amounts_do_not_overflow),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_openai_fields),
        cmocka_unit_test(test_anthropic_fields),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_limits_are_learned),
        cmocka_unit_test(test_what_others_use_counts_and_wears_off),
        cmocka_unit_test(test_a_block_is_bounded),
        cmocka_unit_test(test_lanes_go_in_order),
        cmocka_unit_test(test_who_waits_long_enough_is_first),
        cmocka_unit_test(test_a_large_call_is_not_overtaken_in_what_it_waits_for),
        cmocka_unit_test(test_the_queue_is_bounded),
        cmocka_unit_test(test_waiting_costs_nothing),
        cmocka_unit_test(test_output_is_learned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
