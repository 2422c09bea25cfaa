#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/rate_board.h"

#define TTL_MS 60000

/* One limit: requests a minute, and calls at the same time. */
static GatewayLimit limit_of(const char *model, int64_t requests, int64_t concurrent)
{
    GatewayLimit limit = { .provider = "openai", .concurrent_limit = concurrent };
    snprintf(limit.model, sizeof limit.model, "%s", model);
    limit.configured.v[RATE_REQUESTS] = requests;
    return limit;
}

static GatewayShare tell(RateBoard *board, const char *worker, GatewayLimit limit)
{
    GatewayShare share;
    RateTelling telling = { .limits = &limit, .limits_n = 1 };
    assert_int_equal(rate_board_tell(board, str_of(worker), &telling, &share), 0);
    assert_string_equal(share.provider, limit.provider);
    assert_string_equal(share.model, limit.model);
    return share;
}

static void test_workers_share(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    GatewayLimit limit = limit_of("gpt", 100, 10);
    GatewayShare a = tell(board, "a", limit);
    assert_int_equal(a.v[RATE_REQUESTS], 100);
    assert_int_equal(a.v[LIMIT_CONCURRENT], 10);
    assert_true(a.v[RATE_TOKENS] > INT64_C(1000000000000)); /* no limit: nothing to share */
    GatewayLimit wants = limit;
    wants.asks[RATE_REQUESTS].want[LANE_NORMAL] = 40;
    assert_int_equal(tell(board, "b", wants).v[RATE_REQUESTS], 0); /* a has it all */
    limit.asks[RATE_REQUESTS].have = 100;
    limit.asks[LIMIT_CONCURRENT].have = 10;
    a = tell(board, "a", limit);
    assert_int_equal(a.v[RATE_REQUESTS], 30);
    limit.asks[RATE_REQUESTS].have = 30;
    (void)tell(board, "a", limit);
    assert_int_equal(tell(board, "b", wants).v[RATE_REQUESTS], 70);
    rate_board_free(board);
}

/* What the provider tells one of them holds for all: also for those that have no limit yet. */
static void test_what_one_is_told_all_know(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    GatewayLimit plain = limit_of("gpt", 0, 0), told = plain;
    assert_int_equal(tell(board, "b", plain).silent_ms, 0);
    told.silent_ms = told.blocked_ms = 30000;
    told.learned.v[RATE_TOKENS] = 900;
    (void)tell(board, "a", told);
    GatewayShare share = tell(board, "b", plain);
    assert_in_range(share.silent_ms, 1, 30000);
    assert_int_equal(share.learned.v[RATE_TOKENS], 900);
    assert_int_equal(share.learned.v[RATE_REQUESTS], 0);
    assert_in_range(share.v[RATE_TOKENS], 0, 900); /* under the limit from the first moment on */
    assert_int_equal(tell(board, "b", limit_of("other", 0, 0)).silent_ms, 0);

    /* it is not told back and forth for ever: who has heard of it does not tell of it */
    plain.blocked_ms = 30000;
    for (int i = 0; i < 5; i++) assert_in_range(tell(board, "c", plain).silent_ms, 1, 30000);
    rate_board_free(board);
}

/* A breaker that is open with one of them is told to the others, while it is. */
static void test_open_breakers_are_told(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    GatewayLimit well = limit_of("gpt", 0, 0), open = well;
    open.open_ms = 5000;
    assert_int_equal(tell(board, "a", open).open_ms, 0); /* not to who said so */
    assert_in_range(tell(board, "b", well).open_ms, 1, 5000);
    assert_int_equal(tell(board, "b", limit_of("other", 0, 0)).open_ms, 0);
    assert_int_equal(tell(board, "a", open).open_ms, 0); /* nor back to it */
    assert_int_equal(tell(board, "a", well).open_ms, 0); /* it answers again */
    assert_int_equal(tell(board, "b", well).open_ms, 0);
    (void)tell(board, "a", open);
    rate_board_leave(board, STR("a"));
    assert_int_equal(tell(board, "b", well).open_ms, 0);
    rate_board_free(board);
}

static void test_the_lowest_limit_holds(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    GatewayLimit limit = limit_of("gpt", 100, 0);
    limit.learned.v[RATE_REQUESTS] = 7;
    assert_int_equal(tell(board, "a", limit).v[RATE_REQUESTS], 7);
    rate_board_free(board);
}

static void test_who_leaves_gives_back(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    GatewayLimit limit = limit_of("gpt", 100, 0);
    (void)tell(board, "a", limit);
    limit.asks[RATE_REQUESTS].have = 100;
    limit.asks[RATE_REQUESTS].used = 12;
    (void)tell(board, "a", limit);
    rate_board_leave(board, STR("a"));
    rate_board_leave(board, STR("never heard of"));
    assert_int_equal(tell(board, "b", limit_of("gpt", 100, 0)).v[RATE_REQUESTS], 88);
    BoardLimit list[4];
    assert_int_equal(rate_board_limits(board, list, 4), 1);
    assert_int_equal(list[0].workers, 1); /* the one that is there */
    rate_board_free(board);
}

static void test_after_a_restart_nobody_gets_more_than_it_has(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, false);
    GatewayLimit limit = limit_of("gpt", 100, 0);
    assert_int_equal(tell(board, "new", limit).v[RATE_REQUESTS], 0);
    limit.asks[RATE_REQUESTS].have = 30;
    assert_int_equal(tell(board, "old", limit).v[RATE_REQUESTS], 30);
    rate_board_free(board);
}

static void test_a_restart_makes_no_room(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    RateAmounts used = rate_amounts(10, 5);
    used.v[RATE_REQUESTS] = 60;
    rate_board_seed(board, STR("openai"), STR("gpt"), &used, 1000);
    rate_board_seed(board, STR("openai"), STR("mini"), &used, 1000);
    rate_board_seed(board, STR("openai"), STR("old"), &used, RATE_SPAN_MS);
    assert_int_equal(tell(board, "a", limit_of("gpt", 100, 0)).v[RATE_REQUESTS], 40);
    assert_int_equal(tell(board, "a", limit_of("old", 100, 0)).v[RATE_REQUESTS], 100);
    assert_int_equal(tell(board, "a", limit_of("", 200, 0)).v[RATE_REQUESTS], 20); /* all three */
    BoardLimit list[4];
    assert_int_equal(rate_board_limits(board, list, 4), 1); /* nobody of that name is shown */
    rate_board_free(board);
}

static void test_what_is_shown(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    Breakers *own = breakers_new("webhook", NULL, 0);
    BreakerTicket ticket;
    assert_true(breakers_ask(own, STR("example.com:443"), &ticket, NULL));
    rate_board_add_breakers(board, own);
    GatewayLimit limits[2] = { limit_of("", 0, 8), limit_of("gpt", 100, 0) };
    BreakerInfo breakers[2] = { { .kind = "model", .name = "openai/gpt", .state = BREAKER_CLOSED },
                                { .kind = "tool", .name = "mcp:x", .state = BREAKER_OPEN } };
    RateTelling telling = {
        .limits = limits, .limits_n = 2, .breakers = breakers, .breakers_n = 2
    };
    limits[1].asks[RATE_REQUESTS].used = 5;
    limits[1].in_flight = 2;
    limits[0].waiting[LANE_LOW] = 3;
    telling.stats.retries = 4;
    telling.stats.waiting[LANE_LOW] = 3;
    GatewayShare shares[2];
    assert_int_equal(rate_board_tell(board, STR("a"), &telling, shares), 0);
    assert_int_equal(rate_board_tell(board, STR("b"), &telling, shares), 0);
    BoardLimit shown[8];
    assert_int_equal(rate_board_limits(board, shown, 8), 2);
    assert_string_equal(shown[0].limit.model, "");
    assert_int_equal(shown[0].in_force[LIMIT_CONCURRENT], 8);
    assert_int_equal(shown[0].limit.waiting[LANE_LOW], 6);
    assert_int_equal(shown[1].workers, 2);
    assert_int_equal(shown[1].limit.used.v[RATE_REQUESTS], 10);
    assert_int_equal(shown[1].limit.in_flight, 4);
    assert_int_equal(shown[1].in_force[RATE_REQUESTS], 100);
    assert_int_equal(rate_board_limits(board, shown, 1), 1);
    BoardBreaker list[8];
    assert_int_equal(rate_board_breakers(board, list, 8), 5);
    assert_string_equal(list[0].breaker.name, "mcp:x"); /* open ones first */
    assert_string_equal(list[0].worker, "a");
    assert_string_equal(list[4].breaker.kind, "webhook");
    assert_string_equal(list[4].worker, "");
    assert_int_equal(rate_board_breakers(board, list, 2), 2);
    GatewayLimitStats stats;
    rate_board_stats(board, &stats);
    assert_int_equal(stats.retries, 8);
    assert_int_equal(stats.waiting[LANE_LOW], 6);
    rate_board_leave(board, STR("a"));
    rate_board_stats(board, &stats);
    assert_int_equal(stats.retries, 8); /* what was counted stays */
    assert_int_equal(stats.waiting[LANE_LOW], 3);
    rate_board_free(board);
    breakers_free(own);
}

static void test_workers_and_limits_have_an_end(void **state)
{
    (void)state;
    RateBoard *board = rate_board_new(TTL_MS, true);
    char name[32];
    GatewayShare share;
    GatewayLimit limit = limit_of("gpt", 1000, 0);
    RateTelling telling = { .limits = &limit, .limits_n = 1 };
    for (int i = 0; i < BOARD_WORKERS_MAX; i++) {
        snprintf(name, sizeof name, "w%d", i);
        (void)tell(board, name, limit);
    }
    assert_int_equal(rate_board_tell(board, STR("one more"), &telling, &share), -ENOSPC);
    assert_int_equal(share.v[RATE_REQUESTS], 0);
    for (int i = 1; i < BOARD_KEYS_MAX; i++) {
        snprintf(name, sizeof name, "m%d", i);
        (void)tell(board, "w0", limit_of(name, 10, 0));
    }
    limit = limit_of("too many", 10, 0);
    assert_int_equal(rate_board_tell(board, STR("w0"), &telling, &share), -ENOSPC);
    assert_int_equal(share.v[RATE_REQUESTS], 0);
    limit = limit_of("without a limit", 0, 0);
    assert_int_equal(rate_board_tell(board, STR("w0"), &telling, &share), 0);
    rate_board_free(board);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workers_share),
        cmocka_unit_test(test_what_one_is_told_all_know),
        cmocka_unit_test(test_open_breakers_are_told),
        cmocka_unit_test(test_the_lowest_limit_holds),
        cmocka_unit_test(test_who_leaves_gives_back),
        cmocka_unit_test(test_after_a_restart_nobody_gets_more_than_it_has),
        cmocka_unit_test(test_a_restart_makes_no_room),
        cmocka_unit_test(test_what_is_shown),
        cmocka_unit_test(test_workers_and_limits_have_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
