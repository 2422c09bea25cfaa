/* The statistical protocol in short: fewer and shorter streams, wider tolerances, a few seconds.
 * The seeds are fixed, so a result never changes by chance; GANTRY_SEED shifts them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rollout_protocol.h"

static uint64_t base_seed(void)
{
    const char *text = getenv("GANTRY_SEED");
    return text ? strtoull(text, NULL, 10) : 0;
}

static void test_wrong_decisions_stay_rare(void **state)
{
    (void)state;
    int64_t limit = json_i64_or(vectors("simulation", "typeI", "limitOf1000"), 0);
    assert_int_equal(typei_limit(1000), limit);
    double expected[2] = { 0 };
    int64_t wrong_n[2] = { 0 };
    for (size_t i = 0; i < ARRAY_N(scenarios); i++) {
        double wrong[2], z_wrong[2]; /* the long protocol compares; here, that they say the same */
        scenario_shares(scenario_vector(i), wrong, z_wrong);
        for (int side = 0; side < 2; side++)
            assert_true(1e3 * wrong[side] <= (double)limit && 1e3 * z_wrong[side] > (double)limit);
        TypeI r = typei_run(i, base_seed(), 60, 3000);
        for (int side = 0; side < 2; side++) {
            assert_true(r.wrong[side] <= typei_limit(60));
            expected[side] += 60 * wrong[side];
            wrong_n[side] += r.wrong[side];
        }
    }
    /* All together: no more often than whole streams are, which are longer, but for chance. */
    for (int side = 0; side < 2; side++)
        if ((double)wrong_n[side] > expected[side] + 3 * sqrt(expected[side]))
            fail_msg("side %d: %d wrong, %.1f expected at most", side, (int)wrong_n[side],
                     expected[side]);
}

/* The control of the protocol itself: what people do instead is wrong far more often, so streams of
 * this kind do tell a bad test from a good one. */
static void test_the_z_test_fails(void **state)
{
    (void)state;
    TypeI r = typei_run(0, 0, 100, 4000);
    assert_true(r.z_wrong[ESIDE_PROMOTE] > 5 * typei_limit(100) / 2);
    r = typei_run(4, 0, 100, 4000);
    assert_true(r.z_wrong[ESIDE_ROLLBACK] > typei_limit(100));
}

#define STREAMS 60

/* Some decide late: how many have by 3,000 canaries. With so few streams, with chance allowed
 * for. */
static void check_share(const PowerCase *c, const Json *vector, uint64_t seed)
{
    enum { FEW = 20 };
    int64_t units[FEW];
    double share = vectors_f64(vector, "shareBy3000CanaryUnits"), by = 0;
    double chance = 4 * sqrt(share * (1 - share) / FEW);
    power_run(c, seed, 3000, units, FEW);
    for (size_t i = 0; i < FEW; i++) by += units[i] != NEVER;
    assert_near(by / FEW, share, vectors_f64(vector, "tolerance") + chance);
}

static void test_decisions_come_in_time(void **state)
{
    (void)state;
    static int64_t units[STREAMS];
    uint64_t seed = 500 + base_seed();
    for (JsonIter it = json_iter(vectors("simulation", "power", "vectors")); json_next(&it);) {
        const Json *median = json_get(it.value, "median");
        PowerCase c = power_case(it.value);
        double want = json_f64_or(median, 0), all_units = want / c.pi;
        if (!median) check_share(&c, it.value, seed++);
        if (!median || all_units > 4000) continue; /* the long ones are for the full protocol */
        power_run(&c, seed++, (int64_t)(4 * want), units, STREAMS);
        int64_t got = median_i64(units, STREAMS);
        if (!within((double)got, want, 2 * power_tolerance()))
            fail_msg("median %d, not %g", (int)got, want);
    }
}

#define RUNS 40
static void check_shares(const PolicyResult *r, const Json *vector)
{
    assert_true(
        as_often(lround(r->share[END_ROLLBACK] * RUNS), RUNS, vectors_f64(vector, "rollback")));
    assert_true(
        as_often(lround(r->share[END_PROMOTE] * RUNS), RUNS, vectors_f64(vector, "promote")));
    assert_true(as_often(lround(r->share[END_HOLD] * RUNS), RUNS, vectors_f64(vector, "hold")));
}

static void check_policy(const char *truth, PolicyEnd end, int64_t tasks_most)
{
    static PolicyRun runs[RUNS];
    policy_runs(str_of(truth), 700 + base_seed(), tasks_most, runs, RUNS);
    PolicyResult r = policy_result(runs, RUNS, tasks_most);
    if (r.share[end] < 0.9) fail_msg("%s: only %.2f end as they should", truth, r.share[end]);
    for (JsonIter it = json_iter(vectors("simulation", "policy", "vectors")); json_next(&it);) {
        if (!str_eq(json_str(json_get(it.value, "truth")), str_of(truth))) continue;
        if (!within((double)r.tasks_median, vectors_f64(it.value, "medianTasks"), 0.5))
            fail_msg("%s: median of %d tasks", truth, (int)r.tasks_median);
        if (!within((double)r.canary_median, vectors_f64(it.value, "medianCanary"), 0.6))
            fail_msg("%s: median of %d canaries", truth, (int)r.canary_median);
        check_shares(&r, it.value);
    }
}

static void test_the_policy_ends_right(void **state)
{
    (void)state;
    check_policy("errors 50%", END_ROLLBACK, 100000);
    check_policy("errors 6%", END_ROLLBACK, 100000);
    check_policy("quality .75", END_ROLLBACK, 100000);
    check_policy("cost x1.5", END_ROLLBACK, 100000);
    check_policy("identical", END_PROMOTE, 100000);
}

/* As bad as the margin allows, and no worse: promoting it would be the error. */
static void test_a_canary_at_its_margin_is_not_promoted(void **state)
{
    (void)state;
    static PolicyRun runs[RUNS];
    policy_runs(STR("errors 3%"), 900 + base_seed(), 20000, runs, RUNS);
    double before = 0;
    for (JsonIter it = json_iter(vectors("simulation", "policy", "vectors")); json_next(&it);) {
        const Json *horizon = json_get(it.value, "horizonTasks");
        if (!horizon) continue;
        int64_t tasks = json_i64_or(horizon, 0);
        double rollback = vectors_f64(it.value, "rollback");
        assert_true(rollback >= before && vectors_f64(it.value, "promote") <= ALPHA);
        assert_near(rollback + vectors_f64(it.value, "promote") + vectors_f64(it.value, "hold"), 1,
                    2e-3);
        before = rollback;
        if (tasks > 20000) continue; /* for the full protocol */
        PolicyResult r = policy_result(runs, RUNS, tasks);
        check_shares(&r, it.value);
        assert_true(r.share[END_PROMOTE] <= 0.1);
    }
}

static void test_unequal_assignment_is_noticed(void **state)
{
    (void)state;
    enum { FEW = 15 };
    int64_t at[FEW];
    uint64_t seed = 1000 + base_seed();
    for (JsonIter it = json_iter(vectors("simulation", "srm", "vectors")); json_next(&it); seed++) {
        double planned = vectors_f64(it.value, "planned"), actual = vectors_f64(it.value, "actual");
        int64_t units = json_i64_or(json_get(it.value, "units"), 0), alarms = 0;
        for (uint64_t i = 0; i < FEW; i++) {
            Rng rng = rng_seeded(seed << 32 | i);
            at[i] = srm_stream(planned, actual, units, &rng);
            alarms += at[i] != NEVER;
        }
        assert_true(as_often(alarms, FEW, vectors_f64(it.value, "alarm")));
        const Json *median = json_get(it.value, "median");
        if (!median) continue;
        double got = (double)median_i64(at, FEW), want = json_f64_or(median, NAN);
        if (!within(got, want, 0.5)) fail_msg("median %g, not %g", got, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_decisions_stay_rare),
        cmocka_unit_test(test_the_z_test_fails),
        cmocka_unit_test(test_decisions_come_in_time),
        cmocka_unit_test(test_the_policy_ends_right),
        cmocka_unit_test(test_a_canary_at_its_margin_is_not_promoted),
        cmocka_unit_test(test_unequal_assignment_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
