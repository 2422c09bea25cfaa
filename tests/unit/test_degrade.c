#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/degrade.h"

static const DegradeConfig usual = DEGRADE_CONFIG_DEFAULT;

static void test_remaining(void **state)
{
    (void)state;
    assert_int_equal(degrade_remaining_ppm(100, 0), PPM_WHOLE);
    assert_int_equal(degrade_remaining_ppm(100, 75), 250000);
    assert_int_equal(degrade_remaining_ppm(3, 1), 666666); /* rounds down: rather too early */
    assert_int_equal(degrade_remaining_ppm(100, 100), 0);
    assert_int_equal(degrade_remaining_ppm(100, 101), 0);
    assert_int_equal(degrade_remaining_ppm(0, 0), 0);
    assert_int_equal(degrade_remaining_ppm(INT64_MAX, 0), PPM_WHOLE);
    assert_int_equal(degrade_remaining_ppm(INT64_MAX, INT64_MAX - 1), 0);
    assert_int_equal(degrade_tighter(3, 2), 2);
}

static void test_steps_at_the_thresholds(void **state)
{
    (void)state;
    static const struct {
        int64_t ppm;
        DegradeStep step;
    } cases[] = { { PPM_WHOLE, DEGRADE_NONE }, { 250001, DEGRADE_NONE },  { 250000, DEGRADE_CACHE },
                  { 100001, DEGRADE_CACHE },   { 100000, DEGRADE_MODEL }, { 50001, DEGRADE_MODEL },
                  { 50000, DEGRADE_HOLD },     { 0, DEGRADE_HOLD } };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        assert_int_equal(degrade_step(&usual, DEGRADE_NONE, cases[i].ppm), cases[i].step);
}

static void test_a_step_is_left_late(void **state)
{
    (void)state;
    assert_int_equal(degrade_step(&usual, DEGRADE_CACHE, 250001), DEGRADE_CACHE);
    assert_int_equal(degrade_step(&usual, DEGRADE_CACHE, 300000), DEGRADE_CACHE);
    assert_int_equal(degrade_step(&usual, DEGRADE_CACHE, 300001), DEGRADE_NONE);
    assert_int_equal(degrade_step(&usual, DEGRADE_MODEL, 120000), DEGRADE_MODEL);
    assert_int_equal(degrade_step(&usual, DEGRADE_MODEL, 120001), DEGRADE_CACHE);
    /* an earlier step has its margin too when a later one is left */
    assert_int_equal(degrade_step(&usual, DEGRADE_HOLD, 299999), DEGRADE_CACHE);
    assert_int_equal(degrade_step(&usual, DEGRADE_HOLD, 60000), DEGRADE_HOLD);
    assert_int_equal(degrade_step(&usual, DEGRADE_HOLD, 60001), DEGRADE_MODEL);
    /* a new window: everything is there again */
    assert_int_equal(degrade_step(&usual, DEGRADE_HOLD, PPM_WHOLE), DEGRADE_NONE);
    DegradeConfig high = { 990000, 0, 0, NULL };
    assert_int_equal(degrade_step(&high, DEGRADE_CACHE, PPM_WHOLE), DEGRADE_NONE);
    assert_int_equal(degrade_step(&high, DEGRADE_CACHE, PPM_WHOLE - 1), DEGRADE_CACHE);
}

static void test_steps_can_be_left_out(void **state)
{
    (void)state;
    DegradeConfig none = { 0, 0, 0, NULL }, hold = { 0, 0, 50000, NULL };
    assert_int_equal(degrade_step(&none, DEGRADE_NONE, 0), DEGRADE_NONE);
    assert_int_equal(degrade_step(&hold, DEGRADE_NONE, 60000), DEGRADE_NONE);
    assert_int_equal(degrade_step(&hold, DEGRADE_NONE, 50000), DEGRADE_HOLD);
    DegradeAction a = degrade_action(&hold, DEGRADE_HOLD, LANE_LOW);
    assert_true(a.hold);
    assert_false(a.force_cache || a.small_model);
}

static void test_models_that_do_not_answer(void **state)
{
    (void)state;
    static const DegradeStep steps[] = { DEGRADE_HOLD, DEGRADE_MODEL, DEGRADE_CACHE,
                                         DEGRADE_CACHE };
    DegradeConfig none = { 0, 0, 0, NULL }, no_model = { 1, 0, 0, NULL };
    for (int i = 0; i < 4; i++) {
        bool fallbacks = i >= 2, small = i % 2 == 1;
        assert_int_equal(degrade_step_unhealthy(&usual, true, fallbacks, small), DEGRADE_NONE);
        assert_int_equal(degrade_step_unhealthy(&usual, false, fallbacks, small), steps[i]);
        assert_int_equal(degrade_step_unhealthy(&none, false, fallbacks, small), DEGRADE_NONE);
        assert_int_equal(degrade_step_unhealthy(&no_model, false, fallbacks, small), DEGRADE_CACHE);
    }
}

static void test_actions(void **state)
{
    (void)state;
    for (Lane lane = 0; lane < LANE_N_; lane++) {
        DegradeAction a = degrade_action(&usual, DEGRADE_NONE, lane);
        assert_false(a.force_cache || a.small_model || a.hold);
        a = degrade_action(&usual, DEGRADE_CACHE, lane);
        assert_true(a.force_cache && !a.small_model && !a.hold);
        a = degrade_action(&usual, DEGRADE_MODEL, lane);
        assert_true(a.force_cache && a.small_model && !a.hold);
        a = degrade_action(&usual, DEGRADE_HOLD, lane);
        assert_true(a.force_cache && a.small_model);
        assert_int_equal(a.hold, lane == LANE_LOW);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(degrade_step_name(DEGRADE_NONE), "none");
    assert_string_equal(degrade_step_name(DEGRADE_HOLD), "hold");
}

static Price price(int64_t input, int64_t output)
{
    Price p = { .base = PRICE_RATES_UNSET };
    p.base.input = input;
    p.base.output = output;
    price_fill(&p);
    return p;
}

static void test_the_first_cheaper_model(void **state)
{
    (void)state;
    Price asked = price(1000, 4000), same = asked, small = price(100, 400),
          smallest = price(10, 40), mixed = price(10, 5000), half = price(1000, 3999);
    const Price *others[] = { NULL, &same, &mixed, &small, &smallest };
    assert_int_equal(degrade_choose(&asked, others, 5), 3); /* in the order declared */
    assert_int_equal(degrade_choose(&asked, others, 3), -1);
    assert_int_equal(degrade_choose(&asked, others, 0), -1);
    assert_int_equal(degrade_choose(NULL, others, 5), -1);
    assert_true(degrade_is_cheaper(&half, &asked));
    assert_false(degrade_is_cheaper(&asked, &half));
    assert_false(degrade_is_cheaper(&same, &asked));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_remaining),
        cmocka_unit_test(test_steps_at_the_thresholds),
        cmocka_unit_test(test_a_step_is_left_late),
        cmocka_unit_test(test_steps_can_be_left_out),
        cmocka_unit_test(test_models_that_do_not_answer),
        cmocka_unit_test(test_actions),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_the_first_cheaper_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
