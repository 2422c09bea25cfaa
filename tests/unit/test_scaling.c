#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/scaling.h"
#include "random.h"

static const ScalingRule rule = { .utilization_percent = 70, .workers_max = 100 };

/* Seconds of per_s arrivals that are worked off at once, 2 s each; the workers wanted then. */
static int64_t steady(Scaling *s, ScalingView *view, int64_t seconds, int64_t per_s)
{
    for (int64_t i = 0; i < seconds; i++) {
        view->now_ms += 1000;
        view->arrived += per_s;
        view->started += per_s;
        view->ran += per_s;
        view->ran_ms += 2000 * per_s;
        scaling_step(s, &rule, view);
    }
    return scaling_workers(&rule, s->slots, 4);
}

static void test_follows_the_load(void **state)
{
    (void)state;
    Scaling s = { 0 };
    ScalingView view = { .now_ms = 1 };
    scaling_step(&s, &rule, &view);
    assert_int_equal(scaling_workers(&rule, s.slots, 4), 0); /* nothing to do, nobody needed */
    /* 10 a second, 2 s each: 20 slots taken, 29 needed, 8 workers */
    assert_int_equal(steady(&s, &view, 600, 10), 8);
    assert_int_equal(scaling_service_ms(&s), 2000);
    assert_float_equal(s.starts_per_s, 10, 0.01);
    assert_int_equal(steady(&s, &view, 600, 30), 22);
}

static void test_slower_down_than_up(void **state)
{
    (void)state;
    Scaling s = { 0 };
    ScalingView view = { .now_ms = 1 };
    int64_t high = steady(&s, &view, 600, 10);
    assert_true(steady(&s, &view, 60, 20) > high); /* up within a minute */
    high = steady(&s, &view, 600, 20);
    assert_int_equal(steady(&s, &view, SCALING_DOWN_MS * 9 / 10000, 0), high);
    assert_int_equal(steady(&s, &view, 4 * SCALING_DOWN_MS / 1000, 0), 0);
}

static void test_backlog_and_work_in_hand(void **state)
{
    (void)state;
    Scaling s = { 0 };
    ScalingView view = { .now_ms = 1, .running = 1 };
    scaling_step(&s, &rule, &view);
    assert_int_equal(scaling_workers(&rule, s.slots, 40), 1);
    view.now_ms += 1000;
    view.ran = 1;
    view.ran_ms = 1000;
    view.queued = 600; /* gone in a minute with 10 */
    scaling_step(&s, &rule, &view);
    assert_int_equal(scaling_workers(&rule, s.slots, 1), 10);
    assert_int_equal(scaling_workers(&rule, s.slots, 5), 2);
    view.queued = 1000000;
    scaling_step(&s, &rule, &view);
    assert_int_equal(scaling_workers(&rule, s.slots, 1), 100);
}

/* Tasks that come rarely and take long: their arrivals are forgotten long before they end. */
static void test_what_runs_has_its_slots(void **state)
{
    (void)state;
    Scaling s = { 0 };
    ScalingView view = { .now_ms = 1, .arrived = 5, .started = 5, .running = 5 };
    for (int i = 0; i < 3600; i++) {
        scaling_step(&s, &rule, &view);
        view.now_ms += 1000;
    }
    assert_int_equal(scaling_workers(&rule, s.slots, 1), 5);
}

/* A server that has just begun does not know that there are too many workers. */
static void test_gives_nothing_up_before_it_knows(void **state)
{
    (void)state;
    Scaling s = { 0 };
    ScalingView view = { .now_ms = 1 };
    for (; view.now_ms < SCALING_DOWN_MS; view.now_ms += 1000) {
        scaling_step(&s, &rule, &view);
        assert_false(scaling_knows(&s, &rule));
    }
    view.now_ms += 1000;
    scaling_step(&s, &rule, &view);
    assert_true(scaling_knows(&s, &rule));
    assert_int_equal(scaling_keep(&rule, 2, 7, false), 7);
    assert_int_equal(scaling_keep(&rule, 9, 7, false), 9);
    assert_int_equal(scaling_keep(&rule, 2, 700, false), rule.workers_max);
    assert_int_equal(scaling_keep(&rule, 2, 7, true), 2);
}

/* Four slots, a hundred tasks of ten minutes: more workers are wanted long before one has ended. */
static void test_before_any_has_ended(void **state)
{
    (void)state;
    Scaling s = { 0 };
    ScalingView view = { .now_ms = 1, .arrived = 100, .queued = 96, .running = 4, .started = 4 };
    scaling_step(&s, &rule, &view);
    assert_int_equal(scaling_workers(&rule, s.slots, 4), 1);
    for (int i = 0; i < 30; i++) {
        view.now_ms += 1000;
        scaling_step(&s, &rule, &view);
    }
    assert_in_range(scaling_service_ms(&s), 25000, 30000); /* decays a little */
    assert_true(scaling_workers(&rule, s.slots, 4) >= 10);
    for (int i = 30; i < 600; i++) {
        view.now_ms += 1000;
        scaling_step(&s, &rule, &view);
    }
    assert_true(scaling_service_ms(&s) > 200000);
    /* they end: their mean counts */
    view.ran = 4;
    view.ran_ms = 4 * INT64_C(600000);
    view.now_ms += 1000;
    scaling_step(&s, &rule, &view);
    assert_int_equal(scaling_service_ms(&s), 600000);
}

static void test_bounds(void **state)
{
    (void)state;
    ScalingRule narrow = { .utilization_percent = 100, .workers_min = 2, .workers_max = 3 };
    for (uint64_t seed = 0; seed < 200; seed++) {
        Random r = { seed };
        Scaling s = { 0 };
        ScalingView view = { .now_ms = random_range(&r, 1, 1000) };
        for (int i = 0; i < 100; i++) {
            view.now_ms += random_range(&r, -10, 100000);
            view.arrived += random_range(&r, -5, 1000000);
            view.ran += random_range(&r, 0, 1);
            view.ran_ms += random_range(&r, 0, 1) ? random_range(&r, 0, INT64_MAX / 400) : 0;
            view.queued = random_range(&r, 0, 1000000);
            scaling_step(&s, &narrow, &view);
            assert_true(s.slots >= 0 && s.slots <= SCALING_SLOTS_MAX);
            assert_true(scaling_service_ms(&s) >= 0);
            assert_in_range(scaling_workers(&narrow, s.slots, random_range(&r, 0, 3)), 2, 3);
        }
    }
}

static int64_t all_of(double critical, double normal, double low, double own, double shared)
{
    const ScalingRule usual = SCALING_RULE_DEFAULT;
    const double slots[LANE_N_] = { critical, normal, low }, reserved[LANE_N_] = { own, own, 0 };
    return scaling_workers_all(&usual, slots, reserved, shared);
}

/* Lanes that share slots need them together. */
static void test_lanes_together(void **state)
{
    (void)state;
    assert_int_equal(all_of(0, 0, 0, 0, 4), 0);
    assert_int_equal(all_of(0, 8, 0, 0, 4), 2);
    assert_int_equal(all_of(0, 8, 8, 0, 4), 4); /* not 2, though either lane alone needs 2 */
    assert_int_equal(all_of(0, 0.1, 0.1, 0, 4), 1);
    assert_int_equal(all_of(2, 2, 0, 1, 0), 2); /* each has its own */
    assert_int_equal(all_of(4, 0, 0, 1, 1), 2);
    assert_int_equal(all_of(4, 4, 0, 1, 1), 3);
    assert_int_equal(all_of(4, 4, 3, 1, 1), 4);
    assert_int_equal(all_of(0, 0, 9, 1, 0), 0); /* nobody would serve it */
    assert_int_equal(all_of(1, 1, 1, 0, 0), 3); /* unknown */
    assert_int_equal(all_of(0, 1e9, 0, 0, 1), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_follows_the_load),
        cmocka_unit_test(test_slower_down_than_up),
        cmocka_unit_test(test_backlog_and_work_in_hand),
        cmocka_unit_test(test_what_runs_has_its_slots),
        cmocka_unit_test(test_gives_nothing_up_before_it_knows),
        cmocka_unit_test(test_before_any_has_ended),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_lanes_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
