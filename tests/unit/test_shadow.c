#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "logic/shadow.h"
#include "vectors.h"

#define USD INT64_C(1000000000)

static ShadowPlan plan_of(void)
{
    return (ShadowPlan){ .share_bp = 1000,
                         .self_bp = 2000,
                         .min_pairs = 20,
                         .parallel = 2,
                         .budget_nusd = USD,
                         .wait_ms = 1000,
                         .score_wait_ms = 100,
                         .exposure_bp = 2500 };
}

static EvidencePlan metrics_of(void)
{
    EvidencePlan plan = { .metrics = { evidence_absolute(EVIDENCE_FAST, 0.05),
                                       evidence_relative(EVIDENCE_FAST, 0.2) },
                          .metrics_n = 2,
                          .weight_bp = { 500, 2500, WEIGHT_BP_ALL },
                          .steps_n = 3,
                          .alpha_rollback = 0.05,
                          .alpha_promote = 0.05 };
    evidence_plan_weigh(&plan);
    return plan;
}

static void test_choose(void **state)
{
    (void)state;
    ShadowPlan plan = plan_of(), more = plan;
    int n[3] = { 0 };
    more.share_bp = 5000;
    for (int i = 0; i < 20000; i++) {
        char unit[32];
        snprintf(unit, sizeof(unit), "unit-%d", i);
        ShadowChoice choice = shadow_choose(&plan, STR("rollout-1"), str_of(unit));
        n[choice]++;
        assert_int_equal(choice, shadow_choose(&plan, STR("rollout-1"), str_of(unit)));
        if (choice != SHADOW_NOT) /* a larger share holds the smaller one */
            assert_int_equal(choice, shadow_choose(&more, STR("rollout-1"), str_of(unit)));
    }
    assert_in_range(n[SHADOW_CANDIDATE] + n[SHADOW_SELF], 1850, 2150);
    assert_in_range(n[SHADOW_SELF], 320, 480);
}

static void test_allot(void **state)
{
    (void)state;
    ShadowPlan plan = plan_of();
    assert_int_equal(shadow_allot(&plan, 0, 0, INT64_MAX, 0), USD / 2);
    assert_int_equal(shadow_allot(&plan, 0, USD / 2, INT64_MAX, 0), USD / 2);
    assert_int_equal(shadow_allot(&plan, 0, USD, INT64_MAX, 0), 0);
    assert_int_equal(shadow_allot(&plan, 0, 0, USD / 100, 0), USD / 100);
    assert_int_equal(shadow_allot(&plan, USD * 95 / 100, 0, INT64_MAX, 0), USD / 20);
    assert_int_equal(shadow_allot(&plan, USD * 95 / 100 + 1, 0, INT64_MAX, 0), 0);
    assert_int_equal(shadow_allot(&plan, USD / 2, 0, INT64_MAX, USD / 8), USD / 4);
    assert_int_equal(shadow_allot(&plan, USD / 2, 0, INT64_MAX, USD / 5), 2 * USD / 5);
    assert_int_equal(shadow_allot(&plan, USD / 2, USD / 5, INT64_MAX, USD / 5), 0);
    assert_int_equal(shadow_allot(&plan, USD / 2, 0, INT64_MAX, USD / 4 + 1), 0);
    assert_int_equal(shadow_allot(&plan, 2 * USD, 0, INT64_MAX, INT64_MAX), 0);
}

/* Many at a time: of so small a part none would be started, so there are fewer of them. */
static void test_allot_to_many(void **state)
{
    (void)state;
    ShadowPlan plan = plan_of();
    plan.parallel = SHADOW_PARALLEL_MAX;
    for (int64_t held = 0; held < USD; held += USD / 20)
        assert_int_equal(shadow_allot(&plan, 0, held, INT64_MAX, 0), USD / 20);
    assert_int_equal(shadow_allot(&plan, 0, USD, INT64_MAX, 0), 0);
    assert_int_equal(shadow_allot(&plan, USD / 2, 0, INT64_MAX, 0), USD / 20);
}

/* However they go, all of them together never pass the budget. */
static void test_never_over_budget(void **state)
{
    (void)state;
    ShadowPlan plan = plan_of();
    int64_t spent = 0, held[2] = { 0 };
    for (int i = 0; i < 1000; i++) {
        int slot = i % 2;
        spent += held[slot] * (i % 7) / 7;
        held[slot] = 0;
        held[slot] = shadow_allot(&plan, spent, held[0] + held[1], INT64_MAX, 1000);
        assert_true(spent + held[0] + held[1] <= plan.budget_nusd);
    }
    assert_true(spent > plan.budget_nusd / 2);
}

static ShadowNews news_of(ShadowState state, TaskState production, TaskState shadow)
{
    return (
        ShadowNews){ .state = state,
                     .production = { .state = production, .started = true, .finished_at_ms = 100 },
                     .shadow = { .state = shadow, .started = true, .finished_at_ms = 200 } };
}

static void check_fate(ShadowNews news, int64_t now_ms, ShadowState want)
{
    ShadowPlan plan = plan_of();
    assert_int_equal(shadow_fate(&news, &plan, now_ms), want);
}

static void test_fate(void **state)
{
    (void)state;
    check_fate(news_of(SHADOW_CHOSEN, TASK_RUNNING, TASK_QUEUED), 10, SHADOW_CHOSEN);
    check_fate(news_of(SHADOW_CHOSEN, TASK_RUNNING, TASK_QUEUED), 1000, SHADOW_DROPPED);
    check_fate(news_of(SHADOW_CHOSEN, TASK_SUCCEEDED, TASK_QUEUED), 10, SHADOW_CHOSEN);
    check_fate(news_of(SHADOW_CHOSEN, TASK_CANCELED, TASK_QUEUED), 10, SHADOW_DROPPED);
    check_fate(news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_RUNNING), 300, SHADOW_STARTED);
    check_fate(news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_RUNNING), 2000, SHADOW_COMPARED);
    check_fate(news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_QUEUED), 2000, SHADOW_DROPPED);
    check_fate(news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_FAILED), 300, SHADOW_COMPARED);
    check_fate(news_of(SHADOW_STARTED, TASK_FAILED, TASK_TIMED_OUT), 300, SHADOW_COMPARED);
    check_fate(news_of(SHADOW_STARTED, TASK_ESCALATED, TASK_SUCCEEDED), 300, SHADOW_COMPARED);
    check_fate(news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_CANCELED), 300, SHADOW_DROPPED);
    ShadowNews news = news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_SUCCEEDED);
    news.judged = true;
    check_fate(news, 250, SHADOW_STARTED); /* for its scores, as long as that is worth it */
    check_fate(news, 300, SHADOW_COMPARED);
    news.production.scored = news.shadow.scored = true;
    check_fate(news, 250, SHADOW_COMPARED);
    news.stubbed = true;
    check_fate(news, 250, SHADOW_DIVERGED);
    news.capped = true;
    check_fate(news, 250, SHADOW_DROPPED);
    news = news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_SUCCEEDED);
    news.shadow.degraded = true;
    check_fate(news, 250, SHADOW_DROPPED);
}

/* What was chosen before the one that was capped is not waited for. */
static void test_fates_given_up(void **state)
{
    (void)state;
    ShadowNews news = news_of(SHADOW_CHOSEN, TASK_SUCCEEDED, TASK_QUEUED);
    check_fate(news, 150, SHADOW_CHOSEN);
    news.given_up = true;
    check_fate(news, 150, SHADOW_DROPPED);
    news = news_of(SHADOW_STARTED, TASK_SUCCEEDED, TASK_SUCCEEDED);
    news.given_up = true;
    check_fate(news, 250, SHADOW_COMPARED);
}

static ShadowPair pair_of(bool self, double production, double shadow)
{
    return (ShadowPair){ .self = self,
                         .differs = production < shadow,
                         .production = { .has = 3, .harm = { production, 0.5 } },
                         .shadow = { .has = 3, .harm = { shadow, 0.5 } },
                         .production_nusd = 10,
                         .shadow_nusd = 20 };
}

static void observe_many(ShadowEvidence *e, int n, bool self, double production, double shadow)
{
    ShadowPlan plan = plan_of();
    EvidencePlan metrics = metrics_of();
    ShadowPair pair = pair_of(self, production, shadow);
    for (int i = 0; i < n; i++) shadow_observe(e, &metrics, &plan, &pair);
}

/* Of pairs of which graders cannot tell the shadow's half the alarm comes soon. */
static void test_untold(void **state)
{
    (void)state;
    ShadowPlan plan = plan_of();
    EvidencePlan metrics = metrics_of();
    ShadowEvidence *e = calloc(1, sizeof(*e));
    shadow_init(e);
    ShadowPair pair = pair_of(false, 0, 0);
    pair.judged = true;
    int n = 0;
    for (; n < 400 && evidence_judges(&e->told) == JUDGES_OK; n++) {
        pair.untold = n % 6 == 0;
        shadow_observe(e, &metrics, &plan, &pair);
    }
    assert_in_range(n, 20, 300);
    assert_int_equal(e->told.past.sum[0], 0);
    pair.self = true; /* production's own say nothing of the candidate */
    shadow_observe(e, &metrics, &plan, &pair);
    assert_int_equal(e->told.past.n[1], n);
    free(e);
}

static CheckResult verdict_of(const ShadowEvidence *e, int64_t now_ms)
{
    ShadowPlan plan = plan_of();
    EvidencePlan metrics = metrics_of();
    plan.for_ms = 50;
    return shadow_verdict(e, &metrics, &plan, now_ms);
}

static void test_verdicts(void **state)
{
    (void)state;
    EvidencePlan metrics = metrics_of();
    ShadowEvidence *e = calloc(1, sizeof(*e));
    shadow_init(e);
    assert_int_equal(verdict_of(e, 100), CHECK_RUNNING); /* no data is never success */
    observe_many(e, 10, true, 0, 0);
    assert_int_equal(verdict_of(e, 100), CHECK_RUNNING);
    observe_many(e, 60, false, 0, 0);
    assert_int_equal(shadow_unproved(e, &metrics), -1);
    assert_int_equal(verdict_of(e, 49), CHECK_RUNNING);
    assert_int_equal(verdict_of(e, 100), CHECK_PASSED);
    assert_int_equal(e->production_nusd[0], 600);
    assert_int_equal(e->results.pairs + e->results.self_pairs, 70);
    e->capped = 1;
    assert_int_equal(verdict_of(e, 100), CHECK_RUNNING);
    e->capped = 0;
    e->told.past = (EPast){ .n = { 60, 60 }, .sum = { 0, 20 } }; /* graders often could not tell */
    assert_int_equal(verdict_of(e, 100), CHECK_RUNNING);
    evidence_told_init(&e->told);
    assert_int_equal(verdict_of(e, 100), CHECK_PASSED);
    observe_many(e, 40, false, 0, 1);
    assert_int_equal(verdict_of(e, 100), CHECK_FAILED);
    assert_int_equal(e->culprit, 0);
    observe_many(e, 40, true, 0, 1); /* production is worse than itself: nothing is concluded */
    assert_true(e->biased);
    assert_int_equal(verdict_of(e, 100), CHECK_RUNNING);
    free(e);
}

/* With the ratio 1 it is the test of the vectors; with another no bet is lost below zero. */
static void test_ratio(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("shadow", "paired", "vectors")); json_next(&it);) {
        bool rollback = str_eq(json_str(json_get(it.value, "side")), STR("rollback"));
        ENull null = { rollback ? ESIDE_ROLLBACK : ESIDE_PROMOTE, 1,
                       vectors_f64(it.value, "delta") };
        EValue v;
        evalue_init(&v);
        for (int i = 0; i < 40; i++) {
            double d = (7 * i % 11 - 5) / 10.0;
            pair_observe_null(&v, &null, d > 0 ? d : 0, d > 0 ? 0 : -d);
        }
        assert_near(evalue_log(&v), json_f64_or(json_get(json_get(it.value, "logE"), "39"), NAN),
                    1e-9);
    }
    for (ESide side = ESIDE_ROLLBACK; side <= ESIDE_PROMOTE; side++) {
        ENull null = { side, 1.8, 0.1 };
        EValue v;
        evalue_init(&v);
        for (int i = 0; i < 4; i++) pair_observe_null(&v, &null, i & 1, i >> 1);
        assert_true(isfinite(evalue_log(&v)));
    }
    EValue v;
    evalue_init(&v);
    pair_observe_null(&v, &(ENull){ ESIDE_PROMOTE, 1, 1.2 }, 1, 0); /* nothing to prove */
    assert_near(evalue_log(&v), 0, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),         cmocka_unit_test(test_allot),
        cmocka_unit_test(test_allot_to_many),  cmocka_unit_test(test_fate),
        cmocka_unit_test(test_fates_given_up), cmocka_unit_test(test_never_over_budget),
        cmocka_unit_test(test_verdicts),       cmocka_unit_test(test_ratio),
        cmocka_unit_test(test_untold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
