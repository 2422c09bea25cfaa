#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "logic/line.h"
#include "logic/waits.h"
#include "random.h"

static Fair fair;
static FairCosts costs;

static int fresh(void **state)
{
    (void)state;
    memset(&fair, 0, sizeof fair);
    memset(&costs, 0, sizeof costs);
    return 0;
}

static void test_use_decays(void **state)
{
    (void)state;
    uint64_t a = fair_key(STR("a"));
    assert_true(fair_used(&fair, a, 5) == 0);
    fair_charge(&fair, a, 1000, 0);
    assert_float_equal(fair_used(&fair, a, FAIR_HALF_LIFE_MS), 500, 1e-9);
    fair_charge(&fair, a, 1000, FAIR_HALF_LIFE_MS);
    assert_float_equal(fair_used(&fair, a, FAIR_HALF_LIFE_MS), 1500, 1e-9);
    assert_float_equal(fair_used(&fair, a, 0), 1500, 1e-9); /* a clock that went back */
    assert_true(fair_used(&fair, fair_key(STR("b")), 5) == 0);
    assert_true(fair_key(STR("")) != 0);
    assert_true(fair_key_pair(STR("a"), STR("b")) != fair_key_pair(STR("b"), STR("a")));
}

/* More tenants than the table has places: those that used most are kept. */
static void test_table_is_full(void **state)
{
    (void)state;
    char name[32];
    uint64_t flood = fair_key(STR("flood"));
    fair_charge(&fair, flood, 1e6, 0);
    for (int i = 0; i < 4 * FAIR_SETS * FAIR_WAYS; i++) {
        snprintf(name, sizeof name, "tenant-%d", i);
        fair_charge(&fair, fair_key(str_of(name)), 10, 1);
    }
    assert_true(fair.forgotten > 0);
    assert_true(fair_used(&fair, flood, 1) > 1e5);
}

static void test_costs(void **state)
{
    (void)state;
    uint64_t fast = fair_key(STR("fast")), slow = fair_key(STR("slow"));
    assert_true(fair_cost(&costs, fast) == FAIR_COST_FIRST_MS);
    for (int i = 0; i < 200; i++) {
        fair_cost_seen(&costs, fast, 0, i);
        fair_cost_seen(&costs, slow, 60000, i);
    }
    assert_float_equal(fair_cost(&costs, fast), 1, 1e-9);
    assert_float_equal(fair_cost(&costs, slow), 60000, 1e-6);
    double other = fair_cost(&costs, fair_key(STR("other")));
    assert_true(other > 1000 && other < 60000);
    for (int i = 0; i < 100; i++) fair_cost_seen(&costs, slow, 100, i);
    assert_float_equal(fair_cost(&costs, slow), 100, 1);
}

static void test_costs_table_is_full(void **state)
{
    (void)state;
    char name[32];
    for (int i = 0; i < 4 * FAIR_SETS * FAIR_WAYS; i++) {
        snprintf(name, sizeof name, "kind-%d", i);
        fair_cost_seen(&costs, fair_key(str_of(name)), i + 1, i);
        assert_float_equal(fair_cost(&costs, fair_key(str_of(name))), i + 1, 1e-9);
    }
}

static void test_next_line(void **state)
{
    (void)state;
    Line lines[] = {
        { .tenant = 1, .used_ms = 500, .ready_at_ms = 10, .seq = 1 },
        { .tenant = 2, .used_ms = 20, .ready_at_ms = 90, .seq = 2 },
        { .tenant = 2, .used_ms = 20, .ready_at_ms = 80, .seq = 3 },
        { .tenant = 3, .used_ms = 0, .ready_at_ms = 0, .seq = 4, .closed = true },
    };
    assert_int_equal(line_next(lines, 4), 2); /* used less; of its own the first */
    assert_int_equal(lines_waited_ms(lines, 4, 100), 90);
    line_started(lines, 4, 2, &fair, 600, 100);
    assert_true(lines[1].used_ms == 600 && lines[2].used_ms == 600);
    assert_int_equal(line_next(lines, 4), 0);
    lines[0].closed = lines[1].closed = lines[2].closed = true;
    assert_int_equal(line_next(lines, 4), 4);
    assert_int_equal(lines_waited_ms(lines, 4, 100), -1);
    assert_true(line_admits(99, 0) && line_admits(0, 1) && !line_admits(1, 1));
}

/* Quantiles are never below the true ones, and at most a bucket above. */
static void test_waits(void **state)
{
    (void)state;
    Waits waits = { 0 };
    assert_int_equal(waits_figures(&waits, 5).n, 0);
    int64_t now_ms = 1000000;
    for (int64_t i = 1; i <= 1000; i++) waits_add(&waits, i, i > 900, now_ms);
    WaitsFigures f = waits_figures(&waits, now_ms);
    assert_int_equal(f.n, 1000);
    assert_int_equal(f.late, 100);
    assert_in_range(f.p50_ms, 500, 595);
    assert_in_range(f.p99_ms, 990, 1178);
    now_ms += WAITS_WINDOW_MS;
    waits_add(&waits, INT64_MAX, true, now_ms);
    f = waits_figures(&waits, now_ms);
    assert_int_equal(f.n, 1001);
    assert_int_equal(f.late, 101);
    assert_int_equal(waits_figures(&waits, now_ms + WAITS_WINDOW_MS).n, 1);
    assert_int_equal(waits_figures(&waits, now_ms + 2 * WAITS_WINDOW_MS).n, 0);
    waits_add(&waits, 0, false, now_ms + 2 * WAITS_WINDOW_MS); /* both windows are over */
    f = waits_figures(&waits, now_ms + 2 * WAITS_WINDOW_MS);
    assert_int_equal(f.n, 1);
    assert_int_equal(f.p99_ms, 1);
    waits_add(&waits, 7, false, now_ms); /* a clock that went back */
    assert_int_equal(waits_figures(&waits, now_ms).n, 1);
}

static void test_gates(void **state)
{
    (void)state;
    assert_int_equal(gate_of(false, 7, 0), GATE_OPEN); /* it takes no part in a session */
    assert_int_equal(gate_of(true, 0, 0), GATE_LATER);
    assert_int_equal(gate_of(false, 0, 1), GATE_OPEN);
    assert_int_equal(gate_of(false, 1, 1), GATE_SESSION);
    assert_int_equal(gate_of(false, 1, 2), GATE_OPEN);
    assert_int_equal(gate_of(true, 0, 1), GATE_SCHEDULED);
    assert_int_equal(gate_of_retry(false), GATE_OPEN);
    assert_int_equal(gate_of_retry(true), GATE_LATER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_use_decays, fresh),
        cmocka_unit_test_setup(test_table_is_full, fresh),
        cmocka_unit_test_setup(test_costs, fresh),
        cmocka_unit_test_setup(test_costs_table_is_full, fresh),
        cmocka_unit_test_setup(test_next_line, fresh),
        cmocka_unit_test(test_waits),
        cmocka_unit_test(test_gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
