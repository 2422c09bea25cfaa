#include "logic/rollout_spec.h"

#include <math.h>

#include "base/money.h"
#include "codec/duration.h"
#include "logic/watermark.h"

#define LIMIT_SECONDS_MAX INT64_C(604800) /* no manifest allows more */
#define EVALUATION_TASKS 20
#define DEADLINE_USUAL_MS (INT64_C(7) * 24 * 3600 * 1000)

/* --- metrics --------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    bool relative;
    bool lower_is_better;
    bool by_baseline;
} KnownMetric;

static const KnownMetric known_metrics[] = {
    { "errorRate", false, true, false },      { "completionRate", false, false, false },
    { "escalationRate", false, true, false }, { "costPerTask", true, true, true },
    { "tokensPerTask", true, true, true },    { "latency", false, true, true },
    { "toolCalls", false, true, true },       { "costOverrun", false, true, true },
};

static const KnownMetric *known(Str name)
{
    for (size_t i = 0; i < ARRAY_N(known_metrics); i++)
        if (str_eq(name, str_of(known_metrics[i].name))) return &known_metrics[i];
    return NULL;
}

EvidenceGroup metric_group(Str name)
{
    return known(name) ? EVIDENCE_FAST : EVIDENCE_JUDGED;
}

bool metric_is_relative(Str name)
{
    return known(name) && known(name)->relative;
}

bool metric_is_by_baseline(Str name)
{
    return known(name) && known(name)->by_baseline;
}

bool metric_lower_is_better(Str name)
{
    return known(name) && known(name)->lower_is_better;
}

int rollout_spec_metric(const RolloutSpec *spec, Str name)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        if (str_eq(name, str_of(spec->names[m]))) return (int)m;
    return -1;
}

Str rollout_spec_by_baseline(const RolloutSpec *spec)
{
    bool compares = spec->plan.shadow;
    for (size_t i = 0; i < spec->plan.steps_n; i++)
        compares |= evidence_step_tests(&spec->evidence, i);
    for (size_t m = 0; compares && m < spec->evidence.metrics_n; m++)
        if (metric_is_by_baseline(str_of(spec->names[m]))) return str_of(spec->names[m]);
    return STR_NULL;
}

uint32_t rollout_spec_gates(const RolloutSpec *spec, Str name)
{
    uint32_t gates = 0;
    for (size_t i = 0; i < spec->plan.steps_n; i++)
        if (spec->plan.steps[i].gate && str_eq(name, str_of(spec->gates[i])))
            gates |= UINT32_C(1) << i;
    return gates;
}

/* The metric's place, a new one when it is not there yet; NULL: no room. */
static EvidenceMetric *metric_place(RolloutSpec *spec, Str name)
{
    int at = rollout_spec_metric(spec, name);
    if (at >= 0) return &spec->evidence.metrics[at];
    size_t n = spec->evidence.metrics_n;
    if (n == EVIDENCE_METRICS_MAX || str_empty(name)) return NULL;
    if (!str_copy(spec->names[n], sizeof(spec->names[n]), name)) return NULL;
    spec->evidence.metrics_n++;
    return &spec->evidence.metrics[n];
}

static int add_margin(RolloutSpec *spec, Str name, double margin)
{
    EvidenceMetric *metric = metric_place(spec, name);
    if (!metric) return ROLLOUT_SPEC_E_METRICS;
    *metric = metric_is_relative(name) ? evidence_relative(metric_group(name), margin)
                                       : evidence_absolute(metric_group(name), margin);
    return 0;
}

static int add_nulls(RolloutSpec *spec, Str name, const Json *v)
{
    EvidenceMetric *metric = metric_place(spec, name);
    if (!metric) return ROLLOUT_SPEC_E_METRICS;
    double rollback = json_f64_or(json_get(v, "rollbackMargin"), NAN);
    double promote = json_f64_or(json_get(v, "promoteMargin"), NAN);
    if (isnan(rollback)) rollback = isnan(promote) ? 0 : promote / 2;
    if (isnan(promote)) promote = 2 * rollback;
    double ratio = json_f64_or(json_get(v, "ratio"), 1);
    *metric = (EvidenceMetric){ .group = metric_group(name),
                                .weight = 1,
                                .required = true,
                                .rollback_rho = ratio,
                                .rollback_delta = rollback,
                                .promote_rho = ratio,
                                .promote_delta = promote };
    return 0;
}

static int read_metrics(const Json *block, RolloutSpec *spec)
{
    for (JsonIter it = json_iter(json_get(block, "rollbackOn")); json_next(&it);) {
        int r = add_margin(spec, it.key, json_f64_or(it.value, 0));
        if (r != 0) return r;
    }
    for (JsonIter it = json_iter(json_get(block, "metrics")); json_next(&it);) {
        int r = add_nulls(spec, it.key, it.value);
        if (r != 0) return r;
    }
    if (spec->evidence.metrics_n > 0) return 0;
    static const struct {
        const char *name;
        double margin;
    } usual[] = { { "errorRate", .01 },
                  { "escalationRate", .02 },
                  { "costPerTask", .2 },
                  { "costOverrun", .01 } };
    for (size_t i = 0; i < ARRAY_N(usual); i++) {
        int r = add_margin(spec, str_of(usual[i].name), usual[i].margin);
        if (r != 0) return r;
    }
    return 0;
}

/* --- steps ----------------------------------------------------------------------------------- */

/* A duration that the check has accepted; absent: 0. */
static int64_t duration_of(const Json *v)
{
    int64_t ms = 0;
    if (!v || duration_parse(json_str(v), &ms) != 0) return 0;
    return ms;
}

static void read_steps(const Json *steps, RolloutSpec *spec)
{
    RolloutPlan *plan = &spec->plan;
    plan->steps_n = 0;
    for (JsonIter it = json_iter(steps); json_next(&it) && plan->steps_n < ROLLOUT_STEPS_MAX;) {
        Str gate = json_str(json_get(it.value, "gate"));
        bool fits = str_copy(spec->gates[plan->steps_n], sizeof(spec->gates[0]), gate);
        assert(fits);
        double weight_bp = round(json_f64_or(json_get(it.value, "weight"), 0) * 100);
        plan->steps[plan->steps_n++] = (RolloutStep){
            .weight_bp = (int32_t)weight_bp,
            .for_ms = duration_of(json_get(it.value, "for")),
            .min_tasks = json_i64_or(json_get(it.value, "minTasks"), ROLLOUT_MIN_TASKS),
            .gate = !str_empty(gate),
        };
    }
}

/* Nothing waits for ever: a week beyond what its steps last at least. */
static int64_t usual_deadline(const RolloutPlan *plan)
{
    int64_t span = DEADLINE_USUAL_MS;
    for (size_t i = 0; i < plan->steps_n; i++) span += plan->steps[i].for_ms;
    return span;
}

static RouteBy read_unit(Str name)
{
    static const char *const names[ROUTE_BY_N_] = { "session", "user", "tenant", "task" };
    for (RouteBy by = 0; by < ROUTE_BY_N_; by++)
        if (str_eq(name, str_of(names[by]))) return by;
    return ROUTE_BY_SESSION;
}

static int32_t percent_bp(const Json *v, int32_t usual_bp)
{
    return v ? (int32_t)round(json_f64_or(v, 0) * 100) : usual_bp;
}

static int64_t money_of(const Json *v, int64_t usual_nusd)
{
    int64_t nusd = usual_nusd;
    if (json_type(v) != JSON_STRING) return v ? (int64_t)(json_f64_or(v, 0) * 1e9) : usual_nusd;
    return money_from_text(json_str(v), NUSD_PER_USD, &nusd) == 0 ? nusd : usual_nusd;
}

/* After the steps and unitWait. */
static void read_shadow(const Json *v, RolloutSpec *spec)
{
    RolloutPlan *plan = &spec->plan;
    plan->shadow = v || spec->strategy == STRATEGY_SHADOW;
    plan->shadow_waits = spec->strategy == STRATEGY_SHADOW;
    plan->shadow_is_first = json_bool(json_get(v, "standsIn"), false) && plan->steps_n > 1;
    spec->shadow = (ShadowPlan){
        .share_bp = percent_bp(json_get(v, "share"), SHADOW_SHARE_BP),
        .self_bp = percent_bp(json_get(v, "control"), SHADOW_SELF_BP),
        .min_pairs = json_i64_or(json_get(v, "tasks"), ROLLOUT_MIN_TASKS),
        .for_ms = duration_of(json_get(v, "for")),
        .parallel = json_i64_or(json_get(v, "parallel"), SHADOW_PARALLEL),
        .budget_nusd = money_of(json_get(v, "budgetUsd"), SHADOW_BUDGET_NUSD),
        .wait_ms = SHADOW_WAIT_MS,
        .score_wait_ms = plan->unit_wait_ms,
        .exposure_bp = plan->steps[plan->shadow_is_first].weight_bp,
    };
}

static void read_strategy(const Json *block, RolloutSpec *spec)
{
    Str strategy = json_str(json_get(block, "strategy"));
    if (str_eq(strategy, STR("blue-green"))) {
        spec->strategy = STRATEGY_BLUE_GREEN;
        const Json *hold = json_get(block, "holdFor");
        spec->plan = rollout_plan_blue_green(hold ? duration_of(hold) : ROLLOUT_HOLD_MS);
    } else if (str_eq(strategy, STR("immediate"))) {
        spec->strategy = STRATEGY_IMMEDIATE;
        spec->plan = rollout_plan_immediate();
    } else {
        spec->strategy = str_eq(strategy, STR("shadow")) ? STRATEGY_SHADOW : STRATEGY_CANARY;
        spec->plan = rollout_plan_canary();
        spec->own_steps = json_len(json_get(block, "steps")) > 0;
        if (spec->own_steps) read_steps(json_get(block, "steps"), spec);
    }
    spec->plan.unit_wait_ms = WATERMARK_WAIT_MS;
    if (json_get(block, "unitWait"))
        spec->plan.unit_wait_ms = duration_of(json_get(block, "unitWait"));
    spec->plan.deadline_ms = usual_deadline(&spec->plan);
    spec->own_deadline = json_get(block, "deadline") != NULL;
    if (spec->own_deadline) spec->plan.deadline_ms = duration_of(json_get(block, "deadline"));
    spec->plan.deadline_rolls_back = str_eq(json_str(json_get(block, "onDeadline")),
                                            STR("rollback"));
    const Json *tripwires = json_get(block, "tripwires"), *gate = json_get(block, "evaluation");
    spec->tripwires = (TripwirePlan){
        .cost_factor = json_i64_or(json_get(tripwires, "costFactor"), TRIPWIRE_COST_FACTOR),
        .crashes = json_i64_or(json_get(tripwires, "crashes"), TRIPWIRE_CRASHES),
        .limits = json_i64_or(json_get(tripwires, "limits"), TRIPWIRE_LIMITS),
    };
    if (gate) spec->evaluation_tasks = json_i64_or(json_get(gate, "tasks"), EVALUATION_TASKS);
    spec->evaluation_at_least = json_f64_or(json_get(gate, "atLeast"), 0);
    spec->unit = read_unit(json_str(json_get(block, "unit")));
    spec->plan.kills = str_eq(json_str(json_get(block, "onRollback")), STR("kill"));
    read_shadow(json_get(block, "shadow"), spec);
}

int rollout_spec_read(const Json *block, RolloutSpec *ret)
{
    *ret = (RolloutSpec){ 0 };
    read_strategy(block, ret);
    int r = read_metrics(block, ret);
    if (r != 0) return r;
    EvidencePlan *evidence = &ret->evidence;
    evidence->alpha_rollback = evidence->alpha_promote = 0.05;
    evidence->steps_n = ret->plan.steps_n;
    for (size_t i = 0; i < ret->plan.steps_n; i++)
        evidence->weight_bp[i] = ret->plan.steps[i].weight_bp;
    evidence_plan_weigh(evidence);
    return 0;
}

int64_t rollout_spec_limit_ms(const Json *limits)
{
    int64_t seconds = json_i64_or(json_get(limits, "secondsPerTask"), 0);
    return MIN(MAX(seconds, 0), LIMIT_SECONDS_MAX) * 1000;
}

void rollout_spec_outlast(RolloutSpec *spec, int64_t limit_ms)
{
    RolloutPlan *plan = &spec->plan;
    for (size_t i = 0; i < plan->steps_n; i++)
        if (plan->steps[i].weight_bp < WEIGHT_BP_ALL)
            plan->steps[i].for_ms = MAX(plan->steps[i].for_ms, limit_ms);
    if (!spec->own_deadline) plan->deadline_ms = usual_deadline(plan);
}

Str rollout_spec_unproved(const RolloutSpec *spec, const Evidence *evidence, size_t step)
{
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) {
        if (!spec->evidence.metrics[m].required) continue;
        if (!(evidence->metrics[m].proved >> step & 1)) return str_of(spec->names[m]);
    }
    return STR_NULL;
}
