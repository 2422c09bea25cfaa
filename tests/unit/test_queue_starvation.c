/* Nobody starves, on a real store: the small form of what build/tests/unit/bench_queue_lanes
 * measures. */
#include "lanes_world.h"

static void test_a_mass_of_low_tasks(void **state)
{
    Fixture *f = *state;
    MassStory s = { .f = f, .seconds = 20 };
    world_mass(f, LANE_LOW, 3000, 3);
    harness_run(mass_story, &s);
    check_none();
    assert_true(s.critical_p99_ms >= 0 && s.critical_p99_ms <= 1000);
    assert_true(s.normal_p99_ms >= 0 && s.normal_p99_ms <= 10000);
    assert_true(s.low_ended >= 19); /* the rate of its own slot */
}

static void test_one_floods(void **state)
{
    Fixture *f = *state;
    FloodStory quiet = { .f = f, .bursts = 2, .slots = 2 }, flooded = quiet;
    harness_run(flood_story, &quiet);
    check_none();
    teardown(state);
    setup(state);
    flooded.f = *state;
    flooded.flood = true;
    harness_run(flood_story, &flooded);
    check_none();
    assert_true(quiet.p99_ms > 0);
    assert_true(flooded.p99_ms <= 2 * quiet.p99_ms);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = { TEST(test_a_mass_of_low_tasks), TEST(test_one_floods) };
    log_setup(LOG_ERROR_, LOG_LOGFMT);
    return cmocka_run_group_tests_name("queue_starvation", tests, NULL, NULL);
}
