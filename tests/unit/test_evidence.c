#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/evidence.h"
#include "logic/rng.h"
#include "vectors.h"

static Evidence evidence;

static EvidencePlan plan_of(EvidenceMetric a, EvidenceMetric b)
{
    EvidencePlan plan = { .metrics = { a, b },
                          .metrics_n = 2,
                          .weight_bp = { 500, 2500, 5000, 10000 },
                          .steps_n = 4,
                          .alpha_rollback = 0.05,
                          .alpha_promote = 0.05 };
    evidence_plan_weigh(&plan);
    return plan;
}

static void test_margins(void **state)
{
    (void)state;
    const Json *v = vectors("engine", "margins");
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .01),
                                evidence_relative(EVIDENCE_FAST, .2));
    for (size_t k = 0; k < 4; k++)
        assert_int_equal(plan.weight_bp[k],
                         lround(1e4 * json_f64_or(json_at(json_get(v, "steps"), k), NAN)));
    for (size_t k = 0; k < 3; k++) {
        assert_true(evidence_step_tests(&plan, k));
        ENull null = evidence_promote_null(&plan, 0, k);
        assert_near(null.delta, json_f64_or(json_at(json_get(v, "promoteDelta"), k), NAN), 1e-12);
        assert_near(null.rho, 1, 0);
        null = evidence_promote_null(&plan, 1, k);
        assert_near(null.rho, json_f64_or(json_at(json_get(v, "promoteRho"), k), NAN), 1e-12);
        assert_near(null.delta, 0, 0);
    }
    assert_false(evidence_step_tests(&plan, 3));
    assert_near(evidence_rollback_null(&plan, 0).delta, vectors_f64(v, "rollbackDelta"), 1e-15);
    assert_near(evidence_rollback_null(&plan, 1).rho, vectors_f64(v, "rollbackRho"), 1e-15);
    assert_near(plan.metrics[0].weight + plan.metrics[1].weight, 1, 1e-15);
}

/* n units at pi 1/2, alternating; the canary's and the control's harm in both metrics. */
static void feed(const EvidencePlan *plan, size_t step, EvidenceGroup group, int n, uint32_t has,
                 double canary, double control)
{
    for (int i = 0; i < n; i++) {
        EvidenceUnit unit = { .canary = i % 2, .pi = 0.5, .has = has };
        unit.harm[0] = unit.harm[1] = unit.canary ? canary : control;
        evidence_observe(&evidence, plan, step, group, &unit);
    }
}

static void test_nothing_proves_nothing(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .05),
                                evidence_absolute(EVIDENCE_JUDGED, .05));
    evidence_init(&evidence);
    assert_false(evidence_proved(&evidence, &plan, 0));
    feed(&plan, 0, EVIDENCE_FAST, 4000, 0, 0, 0); /* units, none of which has a value */
    feed(&plan, 0, EVIDENCE_JUDGED, 4000, 0, 0, 0);
    assert_false(evidence_proved(&evidence, &plan, 0));
    assert_false(evidence.rollback);
    assert_int_equal(evidence_canaries(&evidence, &plan), 0); /* none says what has to be proved */
    feed(&plan, 0, EVIDENCE_FAST, 4000, 1, 0.1, 0.1);
    feed(&plan, 0, EVIDENCE_JUDGED, 400, 2, 0.1, 0.1);
    assert_int_equal(evidence_canaries(&evidence, &plan), 200);
    plan.metrics[1].required = false;
    assert_int_equal(evidence_canaries(&evidence, &plan), 2000);
    plan.metrics[1].required = true;
    evidence_init(&evidence);
    assert_near(evidence_units_left(&evidence, &plan, 0), -1, 0);
    plan.metrics_n = 0; /* no metric at all: never an advance */
    assert_false(evidence_proved(&evidence, &plan, 0));
    assert_int_equal(evidence_canaries(&evidence, &plan), 0);
    assert_true(isinf(evidence_rollback_log(&evidence, &plan, EVIDENCE_FAST)));
}

static void test_every_required_metric_is_needed(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .05),
                                evidence_absolute(EVIDENCE_JUDGED, .05));
    evidence_init(&evidence);
    feed(&plan, 0, EVIDENCE_FAST, 2000, 3, 0.1, 0.1);
    assert_true(evidence.metrics[0].proved & 1);
    assert_false(evidence_proved(&evidence, &plan, 0));
    assert_int_equal(evidence_canaries(&evidence, &plan), 0); /* the judged group has none */
    plan.metrics[1].required = false;
    assert_true(evidence_proved(&evidence, &plan, 0));
    plan.metrics[1].required = true;
    feed(&plan, 0, EVIDENCE_JUDGED, 2000, 3, 0.1, 0.1);
    assert_true(evidence_proved(&evidence, &plan, 0));
    assert_near(evidence_units_left(&evidence, &plan, 0), 0, 0);
    assert_false(evidence.rollback);
}

/* Proofs of later steps grow from the first unit on, those of earlier ones rest. */
static void test_later_steps_run_from_the_start(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .01),
                                evidence_absolute(EVIDENCE_FAST, .01));
    evidence_init(&evidence);
    feed(&plan, 0, EVIDENCE_FAST, 400, 3, 0.1, 0.1);
    double log_e[3], before = evalue_log(&evidence.metrics[0].promote[0]);
    for (size_t k = 0; k < 3; k++) log_e[k] = evalue_log(&evidence.metrics[0].promote[k]);
    assert_true(log_e[0] > log_e[1] && log_e[1] > log_e[2] && log_e[2] > 0);
    double left = evidence_units_left(&evidence, &plan, 2);
    assert_true(left > 0 && left < 100000);
    feed(&plan, 1, EVIDENCE_FAST, 400, 3, 0.1, 0.1);
    assert_near(evalue_log(&evidence.metrics[0].promote[0]), before, 0);
    assert_true(evalue_log(&evidence.metrics[0].promote[2]) > log_e[2]);
}

static void test_rollback_names_its_culprit_and_stays(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .05),
                                evidence_absolute(EVIDENCE_JUDGED, .05));
    evidence_init(&evidence);
    feed(&plan, 0, EVIDENCE_FAST, 100, 3, 0.1, 0.1);
    assert_false(evidence.rollback);
    feed(&plan, 0, EVIDENCE_JUDGED, 100, 3, 0.9, 0.1);
    assert_true(evidence.rollback);
    assert_int_equal(evidence.rollback_group, EVIDENCE_JUDGED);
    assert_int_equal(evidence.culprit, 1);
    assert_true(evidence.group_log_e[EVIDENCE_JUDGED] >= log(20));
    feed(&plan, 0, EVIDENCE_JUDGED, 4000, 3, 0.0, 0.9); /* later good news do not unlatch it */
    feed(&plan, 0, EVIDENCE_FAST, 4000, 3, 0.0, 0.9);
    assert_true(evidence.rollback);
    assert_int_equal(evidence.culprit, 1);
}

/* One group's evidence weighs what its metrics weigh: half the weight needs twice the E. */
static void test_groups_are_not_added(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .05),
                                evidence_absolute(EVIDENCE_JUDGED, .05));
    evidence_init(&evidence);
    while (!evidence.rollback) feed(&plan, 0, EVIDENCE_FAST, 2, 3, 0.6, 0.1);
    double log_e = evalue_log(&evidence.metrics[0].rollback);
    assert_true(log_e >= log(40));
    assert_near(evidence.group_log_e[EVIDENCE_FAST], log_e - log(2), 1e-9);
}

static void test_dropping_one_arm_is_noticed(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_FAST, .05),
                                evidence_absolute(EVIDENCE_FAST, .05));
    evidence_init(&evidence);
    for (int i = 0; i < 400; i++) {
        EvidenceUnit unit = { .canary = i % 2, .pi = 0.5, .has = 3 };
        evidence_seen(&evidence, unit.canary, unit.pi);
        if (i % 2 && i % 4 != 1) continue; /* half of the canary's tasks never count */
        evidence_observe(&evidence, &plan, 0, EVIDENCE_FAST, &unit);
    }
    assert_false(evidence.seen.alarm);
    assert_true(evidence.consumed.alarm);
    assert_false(evidence_srm_ok(&evidence));
}

/* Of every 4th canary unit one score is missing, of every 4th untold by a grader, or nothing. */
static void feed_scores(const EvidencePlan *plan, uint32_t has, uint32_t untold)
{
    evidence_init(&evidence);
    for (int i = 0; i < 2000; i++) {
        EvidenceUnit unit = { .canary = i % 2, .pi = 0.5, .has = 3 };
        if (i % 4 == 1) unit.has = has, unit.untold = untold;
        evidence_seen(&evidence, unit.canary, unit.pi);
        evidence_observe(&evidence, plan, 0, EVIDENCE_FAST, &unit);
        evidence_observe(&evidence, plan, 0, EVIDENCE_JUDGED, &unit);
    }
}

static void test_a_score_that_one_arm_lacks_is_noticed(void **state)
{
    (void)state;
    EvidencePlan plan = plan_of(evidence_absolute(EVIDENCE_JUDGED, .05),
                                evidence_absolute(EVIDENCE_JUDGED, .05));
    feed_scores(&plan, 3, 0);
    assert_true(evidence_judged_alike(&evidence));
    feed_scores(&plan, 1, 2); /* another check sees to that */
    assert_true(evidence_judged_alike(&evidence));
    feed_scores(&plan, 1, 0);
    assert_false(evidence_judged_alike(&evidence));
    assert_true(evidence_srm_ok(&evidence)); /* nothing is wrong with what ends */
}

/* Units until the graders' silence is told, at most n. */
static int silence(uint64_t seed, double control, double canary, double pi, int n,
                   EvidenceJudges *ret)
{
    Rng rng = rng_seeded(seed);
    evidence_init(&evidence);
    for (int i = 1; i <= n; i++) {
        bool is_canary = rng_uniform(&rng) < pi;
        bool untold = rng_uniform(&rng) < (is_canary ? canary : control);
        evidence_judged(&evidence, is_canary, pi, untold);
        *ret = evidence_judges(&evidence.told);
        if (*ret != JUDGES_OK) return i;
    }
    return n;
}

static void test_graders_that_cannot_tell(void **state)
{
    (void)state;
    EvidenceJudges judges;
    evidence_init(&evidence);
    assert_int_equal(evidence_judges(&evidence.told), JUDGES_OK);
    assert_true(isnan(evidence_untold(&evidence.told, true)));
    for (int i = 0; i < 2 * EVIDENCE_TOLD_MIN; i++) {
        if (i < 2 * EVIDENCE_TOLD_MIN - 1) /* too few to tell */
            assert_int_equal(evidence_judges(&evidence.told), JUDGES_OK);
        evidence_judged(&evidence, i % 2, 0.5, i % 8 == 1 || i % 8 == 0);
    }
    assert_near(evidence_untold(&evidence.told, true), 0.25, 0);
    assert_int_equal(evidence_judges(&evidence.told), JUDGES_SILENT);
    for (int i = 0; i < 20; i++) evidence_judged(&evidence, i % 2, 0.5, false);
    assert_int_equal(evidence_judges(&evidence.told), JUDGES_OK); /* they have recovered */
    int alarms = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        if (silence(seed, 0.05, 0.05, 0.05, 4000, &judges) < 4000) alarms++;
        assert_in_range(silence(seed, 0.02, 0.15, 0.5, 4000, &judges), 1, 1500);
        assert_in_range(silence(seed, 0.15, 0.02, 0.5, 4000, &judges), 1, 1500);
    }
    assert_in_range(alarms, 0, 3);
    int n = 0; /* left is the last of these, which goes on without a fault */
    for (; n < 40000 && evidence_judges(&evidence.told) == JUDGES_UNEQUAL; n++)
        evidence_judged(&evidence, n % 2, 0.5, false);
    assert_in_range(n, 1, 40000 - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_margins),
        cmocka_unit_test(test_nothing_proves_nothing),
        cmocka_unit_test(test_every_required_metric_is_needed),
        cmocka_unit_test(test_later_steps_run_from_the_start),
        cmocka_unit_test(test_rollback_names_its_culprit_and_stays),
        cmocka_unit_test(test_groups_are_not_added),
        cmocka_unit_test(test_dropping_one_arm_is_noticed),
        cmocka_unit_test(test_a_score_that_one_arm_lacks_is_noticed),
        cmocka_unit_test(test_graders_that_cannot_tell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
