#include "rollout/rollout_json.h"

#include <math.h>

#include "codec/time_text.h"

const char *strategy_name(Strategy strategy)
{
    static const char *const names[] = { "canary", "blue-green", "immediate", "shadow" };
    assert(strategy < ARRAY_N(names));
    return names[strategy];
}

static void put_time(JsonOut *out, const char *key, int64_t at_ms)
{
    char text[TIME_TEXT_MAX];
    json_out_kcstr(out, key, time_format(at_ms, text));
}

static void put_number(JsonOut *out, const char *key, double v)
{
    json_out_key(out, key);
    json_out_f64(out, v); /* null where there is nothing to say */
}

static void put_steps(JsonOut *out, const RolloutSpec *spec)
{
    json_out_key(out, "steps");
    json_out_array(out);
    for (size_t i = 0; i < spec->plan.steps_n; i++)
        json_out_f64(out, (double)spec->plan.steps[i].weight_bp / 100);
    json_out_array_end(out);
    json_out_key(out, "stepSeconds");
    json_out_array(out);
    for (size_t i = 0; i < spec->plan.steps_n; i++)
        json_out_i64(out, spec->plan.steps[i].for_ms / 1000);
    json_out_array_end(out);
}

void rollout_write_gates(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec)
{
    const RolloutPlan *plan = &spec->plan;
    bool any = false;
    for (size_t i = 0; i < plan->steps_n; i++) any |= plan->steps[i].gate;
    if (!any) return;
    json_out_key(out, "gates");
    json_out_array(out);
    for (size_t i = 0; i < plan->steps_n; i++) {
        if (!plan->steps[i].gate) continue;
        json_out_object(out);
        json_out_ki64(out, "step", (int64_t)i);
        json_out_kcstr(out, "name", spec->gates[i]);
        json_out_kbool(out, "open", row->state.gates_open >> i & 1);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

/* Mean harm of an arm; NaN without units. */
static double mean_of(const EPast *past, int arm)
{
    return past->n[arm] ? past->sum[arm] / (double)past->n[arm] : NAN;
}

static void put_interval(JsonOut *out, const IntervalShown *shown)
{
    if (shown->kind == INTERVAL_NONE) return;
    json_out_key(out, "interval");
    json_out_object(out);
    json_out_kcstr(out, "of", shown->kind == INTERVAL_RATIO ? "ratio" : "difference");
    put_number(out, "from", shown->from);
    put_number(out, "to", shown->to);
    json_out_object_end(out);
}

static void put_metric(JsonOut *out, const RolloutSpec *spec, const MetricEvidence *metric,
                       const IntervalShown *shown, size_t m, size_t step)
{
    json_out_key(out, spec->names[m]);
    json_out_object(out);
    put_number(out, "logERollback", evalue_log(&metric->rollback));
    put_number(out, "logEPromote", evalue_log(&metric->promote[step]));
    put_number(out, "harmStable", mean_of(&metric->past, 0));
    put_number(out, "harmCanary", mean_of(&metric->past, 1));
    json_out_kbool(out, "proved", metric->proved >> step & 1);
    if (shown) put_interval(out, shown);
    json_out_object_end(out);
}

static void put_untold(JsonOut *out, const EvidenceTold *told)
{
    json_out_key(out, "untold");
    json_out_object(out);
    put_number(out, "stable", evidence_untold(told, false));
    put_number(out, "canary", evidence_untold(told, true));
    json_out_object_end(out);
}

void rollout_write_evidence(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec,
                            const Evidence *evidence, const IntervalShown *intervals)
{
    size_t step = row->state.step;
    while (step > 0 && !evidence_step_tests(&spec->evidence, step)) step--;
    json_out_key(out, "units");
    json_out_object(out);
    json_out_ki64(out, "stable", evidence->units[EVIDENCE_FAST][0]);
    json_out_ki64(out, "canary", evidence->units[EVIDENCE_FAST][1]);
    json_out_object_end(out);
    json_out_key(out, "metrics");
    json_out_object(out);
    for (size_t m = 0; m < spec->evidence.metrics_n; m++)
        put_metric(out, spec, &evidence->metrics[m], intervals ? &intervals[m] : NULL, m, step);
    json_out_object_end(out);
    double left = evidence_units_left(evidence, &spec->evidence, step);
    put_number(out, "expectedUnitsLeft", left < 0 ? NAN : ceil(left));
    json_out_kbool(out, "sampleRatioOk",
                   evidence_srm_ok(evidence) && evidence_judged_alike(evidence));
    if (evidence->told.past.n[0] + evidence->told.past.n[1] > 0) put_untold(out, &evidence->told);
}

double rollout_seconds_left(const RolloutRow *row, const RolloutSpec *spec,
                            const Evidence *evidence, const RolloutPace *pace)
{
    const Rollout *r = &row->state;
    if (r->state != ROLLOUT_STEP) return NAN;
    const RolloutStep *step = &spec->plan.steps[r->step];
    double held = (double)(step->for_ms - (pace->now_ms - r->step_since_ms)) / 1000;
    if (!evidence_step_tests(&spec->evidence, r->step)) return fmax(ceil(held), 0);
    double units = evidence_units_left(evidence, &spec->evidence, r->step);
    if (units < 0 || pace->units == 0) return NAN;
    int64_t seen = evidence_canaries(evidence, &spec->evidence) - r->step_canaries;
    double canaries = fmax((double)(step->min_tasks - seen), 0);
    double share = (double)step->weight_bp / WEIGHT_BP_ALL;
    double a_second = (double)pace->units * 1000 / (double)pace->span_ms;
    return fmax(ceil(fmax(held, fmax(units, canaries / share) / a_second)), 0);
}

void rollout_write(JsonOut *out, const RolloutRow *row, const RolloutSpec *spec,
                   const Evidence *evidence, const IntervalShown *intervals,
                   const RolloutPace *pace, const ServingLoad *stable)
{
    json_out_object(out);
    json_out_kstr(out, "rolloutId", row->id);
    json_out_kstr(out, "agent", row->agent);
    json_out_kstr(out, "versionId", row->version_id);
    json_out_kstr(out, "stableVersionId", row->control_id);
    json_out_kcstr(out, "strategy", strategy_name(spec->strategy));
    json_out_kcstr(out, "state", rollout_state_name(row->state.state));
    json_out_ki64(out, "step", (int64_t)row->state.step);
    put_steps(out, spec);
    rollout_write_gates(out, row, spec);
    put_number(out, "weight", (double)row->state.weight_bp / 100);
    json_out_kcstr(out, "verdict", rollout_verdict_name(row->verdict));
    json_out_kstr(out, "why", row->why);
    json_out_kraw(out, "preflight", row->checks);
    json_out_ki64(out, "baselineTasks", row->baseline.tasks);
    put_time(out, "createdAt", row->created_at_ms);
    put_time(out, "changedAt", row->changed_at_ms);
    if (evidence) rollout_write_evidence(out, row, spec, evidence, intervals);
    if (evidence && pace)
        put_number(out, "expectedSecondsLeft", rollout_seconds_left(row, spec, evidence, pace));
    if (stable && !str_empty(stable->serving.version_id)) {
        json_out_key(out, "stable");
        serving_write(out, stable);
    }
    json_out_object_end(out);
}
