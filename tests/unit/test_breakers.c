#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "net/breakers.h"

static const BreakerPolicy policy = { .window_ms = 60000,
                                      .calls_min = 2,
                                      .error_percent = 50,
                                      .slow_percent = 0,
                                      .slow_ms = 60000,
                                      .open_ms = 3600000,
                                      .open_max_ms = 3600000,
                                      .probes = 1 };

static bool call(Breakers *b, const char *name, BreakerResult result)
{
    BreakerTicket ticket = { 0 };
    if (!breakers_ask(b, str_of(name), &ticket, NULL)) return false;
    breakers_done(b, &ticket, result, 1);
    assert_int_equal(ticket.id, 0);
    return true;
}

static void trip(Breakers *b, const char *name)
{
    assert_true(call(b, name, BREAKER_BAD));
    assert_true(call(b, name, BREAKER_BAD));
    assert_false(call(b, name, BREAKER_BAD));
}

static void test_what_others_have_seen(void **state)
{
    (void)state;
    Breakers *b = breakers_new("model", &policy, 0);
    BreakerInfo info[8];
    breakers_hear(b, STR("openai/gpt"), 0);
    assert_int_equal(breakers_list(b, info, 8), 0); /* nothing to know */
    breakers_hear(b, STR("openai/gpt"), 60000);
    assert_int_equal(breakers_own_open_ms(b, STR("openai/gpt")), 0);
    assert_int_equal(breakers_list(b, info, 8), 1);
    assert_true(info[0].heard && info[0].state == BREAKER_OPEN && info[0].trips == 0);
    BreakerTicket probe = { 0 };
    assert_true(breakers_ask(b, STR("openai/gpt"), &probe, NULL));
    assert_false(breakers_would(b, STR("openai/gpt")));
    breakers_done(b, &probe, BREAKER_GOOD, 1);
    assert_true(call(b, "openai/gpt", BREAKER_GOOD));
    assert_true(breakers_would(b, STR("openai/gpt")));
    trip(b, "openai/mini");
    assert_in_range(breakers_own_open_ms(b, STR("openai/mini")), 1, 3600000);
    assert_int_equal(breakers_own_open_ms(b, STR("never heard of")), 0);
    breakers_free(b);
}

static void test_each_name_has_its_own(void **state)
{
    (void)state;
    Breakers *b = breakers_new("model", &policy, 0);
    trip(b, "openai/gpt");
    assert_true(call(b, "openai/mini", BREAKER_GOOD));
    assert_false(breakers_would(b, STR("openai/gpt")));
    assert_true(breakers_would(b, STR("openai/mini")));
    assert_true(breakers_would(b, STR("never heard of")));
    BreakerInfo info[8];
    assert_int_equal(breakers_list(b, info, 8), 2);
    assert_string_equal(info[0].name, "openai/gpt");
    assert_string_equal(info[0].kind, "model");
    assert_int_equal(info[0].state, BREAKER_OPEN);
    assert_int_equal(info[0].trips, 1);
    assert_int_equal(info[0].refused, 1);
    assert_in_range(info[0].next_probe_ms, 1, 3600000);
    assert_int_equal(info[1].state, BREAKER_CLOSED);
    assert_int_equal(info[1].counts.calls, 1);
    assert_int_equal(breakers_list(b, info, 1), 1);
    BreakersStats stats;
    breakers_stats(b, &stats);
    assert_int_equal(stats.by_state[BREAKER_OPEN], 1);
    assert_int_equal(stats.by_state[BREAKER_CLOSED], 1);
    assert_int_equal(stats.trips, 1);
    breakers_free(b);
}

static void test_new_names_do_not_make_an_open_one_forgotten(void **state)
{
    (void)state;
    Breakers *b = breakers_new("model", &policy, 4);
    trip(b, "bad");
    BreakerTicket held = { 0 };
    assert_true(breakers_ask(b, STR("held"), &held, NULL));
    for (int i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof name, "new %d", i);
        assert_true(call(b, name, BREAKER_GOOD));
    }
    assert_false(call(b, "bad", BREAKER_GOOD));
    breakers_done(b, &held, BREAKER_BAD, 1); /* forgotten meanwhile: harmless */
    BreakersStats stats;
    breakers_stats(b, &stats);
    assert_int_equal(stats.forgotten, 98);
    assert_int_equal(stats.by_state[BREAKER_OPEN] + stats.by_state[BREAKER_CLOSED], 4);
    breakers_free(b);
}

static void test_all_open_and_full(void **state)
{
    (void)state;
    Breakers *b = breakers_new("model", &policy, 2);
    trip(b, "one");
    trip(b, "two");
    trip(b, "three");
    assert_false(call(b, "three", BREAKER_GOOD));
    BreakersStats stats;
    breakers_stats(b, &stats);
    assert_int_equal(stats.forgotten, 1);
    assert_int_equal(stats.trips, 3); /* the forgotten one's too */
    breakers_free(b);
}

static void test_odd_names(void **state)
{
    (void)state;
    Breakers *b = breakers_new("model", &policy, 4);
    char longer[400];
    memset(longer, 'x', sizeof longer);
    BreakerTicket ticket;
    assert_true(breakers_ask(b, str_make(longer, 400), &ticket, NULL));
    assert_true(breakers_ask(b, str_make(longer, 300), &ticket, NULL)); /* the same */
    for (int i = 0; i < 3; i++) assert_true(breakers_ask(b, STR("a\0b"), &ticket, NULL));
    assert_true(breakers_ask(b, STR_NULL, &ticket, NULL));
    BreakerInfo info[8];
    assert_int_equal(breakers_list(b, info, 8), 3);
    breakers_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_name_has_its_own),
        cmocka_unit_test(test_what_others_have_seen),
        cmocka_unit_test(test_new_names_do_not_make_an_open_one_forgotten),
        cmocka_unit_test(test_all_open_and_full),
        cmocka_unit_test(test_odd_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
