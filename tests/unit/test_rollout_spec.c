#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/yaml.h"
#include "logic/manifest.h"
#include "logic/rollout_spec.h"
#include "vectors.h"

static Arena arena;

/* Reads a block after the check that every block goes through. */
static int read_block(const char *yaml, RolloutSpec *ret)
{
    const Json *block;
    Issue items[8];
    IssueList issues;
    arena_clear(&arena);
    assert_int_equal(yaml_parse(&arena, str_of(yaml), &block, NULL), 0);
    issue_list_init(&issues, &arena, items, 8, NULL, NULL);
    int r = manifest_check_rollout(block, NULL, &issues);
    if (r != 0) fail_msg("%.*s", STR_ARG(items[0].message));
    return rollout_spec_read(block, ret);
}

static void test_whole_block(void **state)
{
    (void)state;
    RolloutSpec spec;
    assert_int_equal(read_block("strategy: canary\n"
                                "steps: [{weight: 5, for: 30m, minTasks: 200}, {weight: 12.5},\n"
                                "        {weight: 100, gate: review}]\n"
                                "rollbackOn: {errorRate: 0.01, quality: 0.02, costPerTask: 0.20}\n"
                                "deadline: 2d\n"
                                "onDeadline: rollback\n",
                                &spec),
                     0);
    assert_true(rollout_plan_ok(&spec.plan) && spec.own_steps);
    assert_int_equal(spec.plan.steps_n, 3);
    assert_int_equal(spec.plan.steps[0].weight_bp, 500);
    assert_int_equal(spec.plan.steps[0].for_ms, 1800000);
    assert_int_equal(spec.plan.steps[0].min_tasks, 200);
    assert_int_equal(spec.plan.steps[1].weight_bp, 1250);
    assert_int_equal(spec.plan.steps[1].min_tasks, ROLLOUT_MIN_TASKS);
    assert_true(spec.plan.steps[2].gate && !spec.plan.steps[1].gate);
    assert_int_equal(rollout_spec_gates(&spec, STR("review")), 1 << 2);
    assert_int_equal(rollout_spec_gates(&spec, STR("")), 0);
    assert_int_equal(spec.plan.deadline_ms, 2 * 86400000);
    assert_true(spec.plan.deadline_rolls_back);
    assert_true(spec.unit == ROUTE_BY_SESSION && !spec.plan.kills);
    assert_int_equal(spec.plan.unit_wait_ms, 3600000);
    assert_int_equal(spec.evidence.metrics_n, 3);
    ENull null = evidence_rollback_null(&spec.evidence, 0);
    assert_near(null.delta, 0.005, 1e-15);
    null = evidence_promote_null(&spec.evidence, 0, 0);
    assert_near(null.delta, 0.01 / 0.125, 1e-15);
    assert_int_equal(spec.evidence.metrics[1].group, EVIDENCE_JUDGED);
    null = evidence_rollback_null(&spec.evidence, 2);
    assert_near(null.rho, 1.1, 1e-15);
    for (size_t m = 0; m < 3; m++) assert_near(spec.evidence.metrics[m].weight, 1.0 / 3, 1e-15);
    assert_int_equal(rollout_spec_metric(&spec, STR("quality")), 1);
    assert_int_equal(rollout_spec_metric(&spec, STR("other")), -1);
}

static void test_steps_outlast_tasks(void **state)
{
    (void)state;
    RolloutSpec spec;
    static const char block[] = "steps: [{weight: 5, for: 30m}, {weight: 25}, {weight: 100}]\n";
    assert_int_equal(read_block(block, &spec), 0);
    int64_t deadline_ms = spec.plan.deadline_ms;
    rollout_spec_outlast(&spec, 0);
    assert_int_equal(spec.plan.steps[1].for_ms, 0);
    rollout_spec_outlast(&spec, 600000);
    assert_int_equal(spec.plan.steps[0].for_ms, 1800000); /* longer by itself */
    assert_int_equal(spec.plan.steps[1].for_ms, 600000);
    assert_int_equal(spec.plan.steps[2].for_ms, 0); /* nothing is tested there */
    assert_int_equal(spec.plan.deadline_ms, deadline_ms + 600000);
    assert_int_equal(read_block("deadline: 1h\n", &spec), 0);
    rollout_spec_outlast(&spec, 7200000);
    assert_int_equal(spec.plan.deadline_ms, 3600000); /* as it was said */
}

static void test_explicit_nulls(void **state)
{
    (void)state;
    RolloutSpec spec;
    assert_int_equal(
        read_block("rollbackOn: {errorRate: 0.5}\n"
                   "metrics: {errorRate: {rollbackMargin: 0.02, promoteMargin: 0.03, ratio: 1.2},\n"
                   "          mine: {promoteMargin: 0.04}, other: {rollbackMargin: 0.01}}\n",
                   &spec),
        0);
    assert_int_equal(spec.evidence.metrics_n, 3);
    ENull null = evidence_rollback_null(&spec.evidence, 0);
    assert_near(null.delta, 0.02, 0);
    assert_near(null.rho, 1.2, 0);
    null = evidence_promote_null(&spec.evidence, 0, 2); /* to all traffic */
    assert_near(null.delta, 0.03, 1e-15);
    assert_near(null.rho, 1.2, 1e-15);
    assert_near(evidence_rollback_null(&spec.evidence, 1).delta, 0.02, 1e-15);
    assert_near(evidence_promote_null(&spec.evidence, 2, 2).delta, 0.02, 1e-15);
}

static void test_defaults(void **state)
{
    (void)state;
    RolloutSpec spec;
    assert_int_equal(read_block("{}\n", &spec), 0);
    assert_int_equal(spec.strategy, STRATEGY_CANARY);
    assert_int_equal(spec.plan.steps_n, 4);
    assert_int_equal(spec.evidence.metrics_n, 4);
    assert_true(rollout_spec_metric(&spec, STR("errorRate")) >= 0);
    int overrun = rollout_spec_metric(&spec, STR("costOverrun")); /* what a cap would hide */
    assert_true(overrun >= 0 && metric_lower_is_better(STR("costOverrun")));
    assert_int_equal(spec.evidence.metrics[overrun].group, EVIDENCE_FAST);
    assert_near(evidence_rollback_null(&spec.evidence, (size_t)overrun).delta, .005, 1e-15);
    assert_int_equal(rollout_spec_read(NULL, &spec), 0); /* an agent without a block */
    assert_int_equal(spec.plan.steps_n, 4);
    assert_int_equal(read_block("strategy: blue-green\n", &spec), 0);
    assert_int_equal(spec.plan.steps_n, 1);
    assert_int_equal(spec.plan.steps[0].for_ms, 3600000);
    assert_int_equal(read_block("strategy: blue-green\nholdFor: 0s\n", &spec), 0);
    assert_int_equal(spec.plan.steps[0].for_ms, 0); /* as one wishes */
    assert_int_equal(read_block("strategy: immediate\n", &spec), 0);
    assert_true(rollout_plan_ok(&spec.plan) && !spec.plan.preflight);
}

static void test_too_many_metrics(void **state)
{
    (void)state;
    char yaml[2000] = "rollbackOn: {";
    size_t n = strlen(yaml);
    for (int i = 0; i <= EVIDENCE_METRICS_MAX; i++)
        n += (size_t)snprintf(yaml + n, sizeof(yaml) - n, "m%d: 0.1,", i);
    snprintf(yaml + n - 1, sizeof(yaml) - n, "}");
    RolloutSpec spec;
    assert_int_equal(read_block(yaml, &spec), ROLLOUT_SPEC_E_METRICS);
    memset(yaml, 'x', sizeof(yaml));
    snprintf(yaml, sizeof(yaml), "rollbackOn: {%065d: 0.1}", 1);
    assert_int_equal(read_block(yaml, &spec), ROLLOUT_SPEC_E_METRICS);
}

static void test_unproved(void **state)
{
    (void)state;
    static Evidence evidence;
    RolloutSpec spec;
    assert_int_equal(read_block("rollbackOn: {errorRate: 0.01, quality: 0.02}\n", &spec), 0);
    evidence_init(&evidence);
    assert_string_equal(rollout_spec_unproved(&spec, &evidence, 0).ptr, "errorRate");
    evidence.metrics[0].proved = 1;
    assert_string_equal(rollout_spec_unproved(&spec, &evidence, 0).ptr, "quality");
    evidence.metrics[1].proved = 1;
    assert_true(str_empty(rollout_spec_unproved(&spec, &evidence, 0)));
    assert_false(str_empty(rollout_spec_unproved(&spec, &evidence, 1)));
}

static void test_waits_and_units(void **state)
{
    (void)state;
    RolloutSpec spec;
    assert_int_equal(
        read_block("steps: [{weight: 5, for: 2d}, {weight: 50, for: 1d}, {weight: 100}]\n"
                   "unit: tenant\n"
                   "unitWait: 5m\n"
                   "onRollback: kill\n",
                   &spec),
        0);
    assert_int_equal(spec.plan.deadline_ms, INT64_C(10) * 86400000); /* a week beyond the steps */
    assert_int_equal(spec.plan.unit_wait_ms, 300000);
    assert_true(spec.unit == ROUTE_BY_TENANT && spec.plan.kills);
    assert_int_equal(read_block("deadline: 0s\nunit: task\n", &spec), 0);
    assert_int_equal(spec.plan.deadline_ms, 0);
    assert_true(spec.unit == ROUTE_BY_TASK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waits_and_units),
        cmocka_unit_test(test_whole_block),
        cmocka_unit_test(test_steps_outlast_tasks),
        cmocka_unit_test(test_explicit_nulls),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_too_many_metrics),
        cmocka_unit_test(test_unproved),
    };
    arena_init(&arena, 1 << 22);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    arena_deinit(&arena);
    return failed;
}
