#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/lane.h"
#include "random.h"

static const LaneConfig usual = { .reserved = { 2, 2, 1 }, .shared = 3 };

static void test_names(void **state)
{
    (void)state;
    for (int i = 0; i < LANE_N_; i++) {
        Lane lane;
        assert_int_equal(lane_from(str_of(lane_name((Lane)i)), &lane), 0);
        assert_int_equal(lane, i);
    }
    Lane lane = LANE_LOW;
    assert_int_equal(lane_from(STR(""), &lane), 0);
    assert_int_equal(lane, LANE_NORMAL);
    assert_int_equal(lane_from(STR("Critical"), &lane), -EINVAL);
    assert_int_equal(lane_from(STR("norma"), &lane), -EINVAL);
}

static void test_config(void **state)
{
    (void)state;
    assert_true(lane_config_ok(&usual));
    assert_int_equal(lane_slots(&usual), 8);
    LaneConfig c = { .reserved = { 1, 1, 0 }, .shared = 0 };
    assert_false(lane_config_ok(&c)); /* low could never run */
    c.shared = 1;
    assert_true(lane_config_ok(&c));
    c.reserved[0] = -1;
    assert_false(lane_config_ok(&c));
    c.reserved[0] = LANE_SLOTS_MAX + 1;
    assert_false(lane_config_ok(&c));
    c = (LaneConfig){ .reserved = { 1, 1, 1 }, .shared = -1 };
    assert_false(lane_config_ok(&c));
}

static void test_own_slots_before_shared_ones(void **state)
{
    (void)state;
    LaneUse use = { .running = { 2, 0, 0 } };
    assert_int_equal(lane_shared_used(&usual, &use), 0);
    use.running[LANE_CRITICAL] = 4;
    assert_int_equal(lane_shared_used(&usual, &use), 2);
    assert_int_equal(lane_free(&usual, &use, LANE_CRITICAL), 1);
    assert_int_equal(lane_free(&usual, &use, LANE_NORMAL), 3);
    assert_int_equal(lane_free(&usual, &use, LANE_LOW), 2);
}

/* Starts what lane_next() says until it says no more. */
static void start_all(const LaneConfig *c, LaneUse use, const int64_t ready[LANE_N_],
                      int64_t take[LANE_N_])
{
    LaneTurns turns = { 0 };
    memset(take, 0, LANE_N_ * sizeof take[0]);
    for (;;) {
        LaneHead heads[LANE_N_];
        for (int i = 0; i < LANE_N_; i++) heads[i] = (LaneHead){ .ready = ready[i] > take[i] };
        Lane lane = lane_next(c, &use, heads, INT64_MAX, &turns);
        if (lane == LANE_N_) return;
        lane_started(c, &use, heads, lane, &turns);
        use.running[lane]++;
        take[lane]++;
    }
}

static void test_shared_slots_go_to_the_highest_lane(void **state)
{
    (void)state;
    LaneUse idle = { 0 };
    int64_t take[LANE_N_];
    start_all(&usual, idle, (const int64_t[]){ 4, 9, 9 }, take);
    assert_int_equal(take[LANE_CRITICAL], 4);
    assert_int_equal(take[LANE_NORMAL], 3);
    assert_int_equal(take[LANE_LOW], 1);
}

static void test_low_always_gets_through(void **state)
{
    (void)state;
    LaneUse use = { .running = { 5, 2, 0 } };
    int64_t take[LANE_N_];
    start_all(&usual, use, (const int64_t[]){ 100, 100, 100 }, take);
    assert_int_equal(take[LANE_CRITICAL], 0);
    assert_int_equal(take[LANE_NORMAL], 0);
    assert_int_equal(take[LANE_LOW], 1);
}

static void test_shrunk_configuration_starts_nothing_new(void **state)
{
    (void)state;
    LaneConfig small = { .reserved = { 1, 1, 1 }, .shared = 0 };
    LaneUse use = { .running = { 4, 0, 1 } };
    int64_t take[LANE_N_];
    start_all(&small, use, (const int64_t[]){ 5, 5, 5 }, take);
    assert_int_equal(lane_shared_used(&small, &use), 3);
    assert_int_equal(take[LANE_CRITICAL], 0);
    assert_int_equal(take[LANE_NORMAL], 1);
    assert_int_equal(take[LANE_LOW], 0);
}

/* The rules by single slots: each is owned by a lane or shared, and holds a lane's task or nothing.
 */
#define SLOTS_MAX 64
typedef struct {
    int owner[SLOTS_MAX]; /* LANE_N_: shared */
    int task[SLOTS_MAX];  /* -1: free */
    int n;
} Model;

static Model model_make(const LaneConfig *c)
{
    Model m = { 0 };
    for (int lane = 0; lane < LANE_N_; lane++)
        for (int64_t i = 0; i < c->reserved[lane]; i++) m.owner[m.n++] = lane;
    for (int64_t i = 0; i < c->shared; i++) m.owner[m.n++] = LANE_N_;
    for (int i = 0; i < m.n; i++) m.task[i] = -1;
    return m;
}

static int model_slot(const Model *m, int owner, int task)
{
    for (int i = 0; i < m->n; i++)
        if (m->owner[i] == owner && m->task[i] == task) return i;
    return -1;
}

static bool model_start(Model *m, int lane)
{
    int slot = model_slot(m, lane, -1);
    if (slot < 0) slot = model_slot(m, LANE_N_, -1);
    if (slot < 0) return false;
    m->task[slot] = lane;
    return true;
}

/* A task of a lane ends: the lane keeps its own slots filled first, so a shared one comes free. */
static void model_finish(Model *m, int lane)
{
    int slot = model_slot(m, LANE_N_, lane);
    if (slot < 0) slot = model_slot(m, lane, lane);
    assert_true(slot >= 0);
    m->task[slot] = -1;
}

static void model_check(const Model *m, const LaneConfig *c, const LaneUse *use)
{
    int64_t shared = 0;
    for (int i = 0; i < m->n; i++) {
        if (m->task[i] >= 0 && m->owner[i] != LANE_N_) assert_int_equal(m->owner[i], m->task[i]);
        shared += m->owner[i] == LANE_N_ && m->task[i] >= 0;
    }
    assert_int_equal(shared, lane_shared_used(c, use));
    assert_true(shared <= c->shared);
}

static void one_run(uint64_t seed)
{
    Random r = { seed };
    LaneConfig c = { .shared = random_range(&r, 0, 6) };
    for (int i = 0; i < LANE_N_; i++) c.reserved[i] = random_range(&r, 0, 5);
    Model m = model_make(&c);
    LaneUse use = { 0 };
    for (int step = 0; step < 60; step++) {
        int64_t ready[LANE_N_], take[LANE_N_];
        for (int i = 0; i < LANE_N_; i++) ready[i] = random_range(&r, 0, 8);
        start_all(&c, use, ready, take);
        for (int i = 0; i < LANE_N_; i++) { /* highest lane first: what can start, starts */
            int64_t started = 0;
            while (started < ready[i] && model_start(&m, i)) started++;
            assert_int_equal(take[i], started);
            use.running[i] += take[i];
        }
        model_check(&m, &c, &use);
        for (int i = 0; i < LANE_N_; i++)
            if (ready[i] > take[i]) assert_int_equal(lane_free(&c, &use, (Lane)i), 0);
        for (int i = 0; i < LANE_N_; i++) {
            for (int64_t k = random_range(&r, 0, use.running[i]); k > 0; k--) {
                model_finish(&m, i);
                use.running[i]--;
            }
        }
        model_check(&m, &c, &use);
    }
}

static void test_agrees_with_single_slots(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5000; seed++) one_run(seed);
}

/* One shared slot that is always asked for by critical tasks, one second each. */
static void test_turns_of_lower_lanes(void **state)
{
    (void)state;
    LaneConfig c = { .reserved = { 1, 0, 0 }, .shared = 1 };
    LaneTurns turns = { 0 };
    int64_t starts[LANE_N_] = { 0 };
    for (int second = 0; second < 100; second++) {
        LaneUse use = { .running = { 1, 0, 0 } }; /* its own slot is taken, the shared one free */
        LaneHead heads[LANE_N_] = { { true, 0 }, { true, second * 1000 }, { true, 0 } };
        Lane lane = lane_next(&c, &use, heads, 30000, &turns);
        if (second < 30) assert_int_equal(lane, LANE_CRITICAL);
        lane_started(&c, &use, heads, lane, &turns);
        starts[lane]++;
    }
    assert_int_equal(starts[LANE_NORMAL], 14); /* one of five, from the 30th second on */
    assert_int_equal(starts[LANE_LOW], 0);     /* none of its tasks has waited long */
}

static void test_turns_end_at_their_part(void **state)
{
    (void)state;
    LaneConfig c = { .reserved = { 0, 0, 1 }, .shared = 8 };
    LaneUse use = { .running = { 0, 0, 3 } }; /* two shared ones: a quarter */
    LaneHead heads[LANE_N_] = { { true, 0 }, { false, 0 }, { true, 3600000 } };
    LaneTurns turns = { .passed = { 0, 0, 1000 } };
    assert_int_equal(lane_next(&c, &use, heads, 30000, &turns), LANE_CRITICAL);
    use.running[LANE_LOW] = 2;
    assert_int_equal(lane_next(&c, &use, heads, 30000, &turns), LANE_LOW);
    lane_started(&c, &use, heads, LANE_LOW, &turns);
    assert_int_equal(turns.passed[LANE_LOW], 0);
    /* without others a lane takes all */
    heads[LANE_CRITICAL].ready = false;
    use.running[LANE_LOW] = 8;
    assert_int_equal(lane_next(&c, &use, heads, 30000, &turns), LANE_LOW);
    use.running[LANE_LOW] = 9;
    assert_int_equal(lane_next(&c, &use, heads, 30000, &turns), LANE_N_);
}

static void test_expected_wait(void **state)
{
    (void)state;
    LanePace pace = { .queued = 100, .running = 0, .service_ms = 500, .starts_per_s = 2 };
    assert_int_equal(lane_expected_wait_ms(&pace, 10, 1), 5000);
    assert_int_equal(lane_expected_wait_ms(&pace, 10, 3), 15000);
    pace.queued = 12;
    assert_int_equal(lane_expected_wait_ms(&pace, 10, 3), 6000); /* others have no more than 2 */
    pace.starts_per_s = 0;
    assert_int_equal(lane_expected_wait_ms(&pace, 10, 3), -1);
    /* behind four of 40 s, after a burst of starts: the next one, and the last of 96 */
    pace = (LanePace){ .queued = 96, .running = 4, .service_ms = 40000, .starts_per_s = 3 };
    assert_int_equal(lane_expected_wait_ms(&pace, 1, 1), 10000);
    assert_int_equal(lane_expected_wait_ms(&pace, 96, 1), 960000);
    pace.service_ms = 0;
    assert_int_equal(lane_expected_wait_ms(&pace, 1, 1), -1);
    assert_int_equal(lane_retry_after_s(1000, 1), 10);
    assert_int_equal(lane_retry_after_s(1000, 1000), 1);
    assert_int_equal(lane_retry_after_s(1000000, 1), 60);
    assert_int_equal(lane_retry_after_s(1, 0), 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_own_slots_before_shared_ones),
        cmocka_unit_test(test_shared_slots_go_to_the_highest_lane),
        cmocka_unit_test(test_low_always_gets_through),
        cmocka_unit_test(test_shrunk_configuration_starts_nothing_new),
        cmocka_unit_test(test_agrees_with_single_slots),
        cmocka_unit_test(test_turns_of_lower_lanes),
        cmocka_unit_test(test_turns_end_at_their_part),
        cmocka_unit_test(test_expected_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
