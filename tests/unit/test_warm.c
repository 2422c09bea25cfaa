#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/warm.h"
#include "random.h"

/* Every state and every event: what follows. Where nothing is given, nothing may happen. */
static void test_table(void **state)
{
    (void)state;
    static const struct {
        WarmState from;
        WarmEvent event;
        WarmState to;
        WarmAction action;
    } rows[] = {
        { WARM_OFF, WARM_ON_WANTED, WARM_STARTING, WARM_DO_START },
        { WARM_STARTING, WARM_ON_PING_OK, WARM_READY, WARM_DO_NOTHING },
        { WARM_STARTING, WARM_ON_LATE, WARM_ENDING, WARM_DO_END },
        { WARM_STARTING, WARM_ON_EXIT, WARM_RESTING, WARM_DO_NOTHING },
        { WARM_STARTING, WARM_ON_DRAIN, WARM_ENDING, WARM_DO_END },
        { WARM_READY, WARM_ON_PING_BAD, WARM_SICK, WARM_DO_NOTHING },
        { WARM_READY, WARM_ON_EXIT, WARM_RESTING, WARM_DO_NOTHING },
        { WARM_READY, WARM_ON_IDLE, WARM_ENDING, WARM_DO_END },
        { WARM_READY, WARM_ON_DRAIN, WARM_ENDING, WARM_DO_END },
        { WARM_SICK, WARM_ON_PING_OK, WARM_READY, WARM_DO_NOTHING },
        { WARM_SICK, WARM_ON_LATE, WARM_ENDING, WARM_DO_END },
        { WARM_SICK, WARM_ON_EXIT, WARM_RESTING, WARM_DO_NOTHING },
        { WARM_SICK, WARM_ON_IDLE, WARM_ENDING, WARM_DO_END },
        { WARM_SICK, WARM_ON_DRAIN, WARM_ENDING, WARM_DO_END },
        { WARM_ENDING, WARM_ON_EXIT, WARM_OFF, WARM_DO_NOTHING },
        { WARM_RESTING, WARM_ON_RESTED, WARM_OFF, WARM_DO_NOTHING },
        { WARM_RESTING, WARM_ON_DRAIN, WARM_OFF, WARM_DO_NOTHING },
    };
    for (int from = 0; from < WARM_STATE_N_; from++)
        for (int event = 0; event < WARM_EVENT_N_; event++) {
            Warm warm = { .state = (WarmState)from };
            WarmState to = (WarmState)from;
            WarmAction action = WARM_DO_NOTHING;
            for (size_t i = 0; i < ARRAY_N(rows); i++)
                if ((int)rows[i].from == from && (int)rows[i].event == event)
                    to = rows[i].to, action = rows[i].action;
            assert_int_equal(warm_step(&warm, (WarmEvent)event, 1000), action);
            assert_int_equal(warm.state, to);
        }
    assert_string_equal(warm_state_name(WARM_RESTING), "resting");
}

static int64_t start_fails(Warm *warm, int64_t now_ms)
{
    warm->state = WARM_OFF;
    assert_int_equal(warm_step(warm, WARM_ON_WANTED, now_ms), WARM_DO_START);
    assert_int_equal(warm_step(warm, WARM_ON_EXIT, now_ms), WARM_DO_NOTHING);
    assert_int_equal(warm->state, WARM_RESTING);
    return warm->rest_until_ms - now_ms;
}

static void test_rests_longer_each_time(void **state)
{
    (void)state;
    Warm warm = { 0 };
    int64_t now_ms = 1000;
    for (int64_t expected = WARM_REST_MS; expected < WARM_REST_MS_MAX; expected *= 2)
        assert_int_equal(start_fails(&warm, now_ms += 100), expected);
    assert_int_equal(start_fails(&warm, now_ms), WARM_REST_MS_MAX);
    assert_int_equal(start_fails(&warm, now_ms), WARM_REST_MS_MAX);

    /* once it has done well for long, it begins anew */
    warm.state = WARM_STARTING;
    assert_int_equal(warm_step(&warm, WARM_ON_PING_OK, now_ms), WARM_DO_NOTHING);
    now_ms += WARM_STABLE_MS;
    assert_int_equal(warm_step(&warm, WARM_ON_PING_OK, now_ms), WARM_DO_NOTHING);
    assert_int_equal(warm_step(&warm, WARM_ON_EXIT, now_ms), WARM_DO_NOTHING);
    assert_int_equal(warm.rest_until_ms - now_ms, WARM_REST_MS);
}

static void test_bad_pings(void **state)
{
    (void)state;
    Warm warm = { .state = WARM_READY };
    assert_int_equal(warm_step(&warm, WARM_ON_PING_BAD, 0), WARM_DO_NOTHING);
    assert_int_equal(warm_step(&warm, WARM_ON_PING_BAD, 0), WARM_DO_NOTHING);
    assert_int_equal(warm_step(&warm, WARM_ON_PING_OK, 0), WARM_DO_NOTHING);
    assert_int_equal(warm.state, WARM_READY);
    for (int i = 1; i < WARM_BAD_PINGS; i++)
        assert_int_equal(warm_step(&warm, WARM_ON_PING_BAD, 10), WARM_DO_NOTHING);
    assert_int_equal(warm_step(&warm, WARM_ON_PING_BAD, 10), WARM_DO_END);
    assert_int_equal(warm_step(&warm, WARM_ON_EXIT, 20), WARM_DO_NOTHING);
    assert_int_equal(warm.state, WARM_RESTING); /* it failed, though it was told to end */
}

/* Whatever happens: it runs only after a start, ends once a start, and never starts when
 * drained. */
static void test_walks(void **state)
{
    (void)state;
    Random random = { .state = 1 };
    for (int walk = 0; walk < 2000; walk++) {
        Warm warm = { 0 };
        bool runs = false, drained = false;
        int64_t now_ms = 0;
        for (int step = 0; step < 60; step++) {
            WarmEvent event = (WarmEvent)random_range(&random, 0, WARM_EVENT_N_ - 1);
            if (event == WARM_ON_EXIT && !runs) continue;
            now_ms += random_range(&random, 0, 2 * WARM_STABLE_MS);
            WarmAction action = warm_step(&warm, event, now_ms);
            drained |= event == WARM_ON_DRAIN;
            if (event == WARM_ON_EXIT) runs = false;
            assert_true(action != WARM_DO_START || (!runs && !drained));
            runs |= action == WARM_DO_START;
            assert_true(action != WARM_DO_END || runs);
            bool running = warm.state != WARM_OFF && warm.state != WARM_RESTING;
            assert_int_equal(running, runs);
            assert_true(!drained || !runs || warm.state == WARM_ENDING);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_rests_longer_each_time),
        cmocka_unit_test(test_bad_pings),
        cmocka_unit_test(test_walks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
