/* The report of a shadow, as clients see it. */
#include <math.h>

#include "base/money.h"
#include "rollout/shadow.h"

static void put_number(JsonOut *out, const char *key, double v)
{
    json_out_key(out, key);
    json_out_f64(out, v); /* null where there is nothing to say */
}

static void put_usd(JsonOut *out, const char *key, int64_t nusd)
{
    char text[MONEY_TEXT_MAX];
    json_out_kcstr(out, key, money_text(nusd, text));
}

static double mean(double sum, int64_t n)
{
    return n > 0 ? sum / (double)n : NAN;
}

/* --- what was found --------------------------------------------------------------------------- */

/* Mean harm of both sides of the pairs of an arm. */
static void put_arm(JsonOut *out, const char *key, const ShadowMetric *metric, int arm)
{
    double production = mean(metric->production[arm], metric->n[arm]);
    double shadow = mean(metric->shadow[arm], metric->n[arm]);
    json_out_key(out, key);
    json_out_object(out);
    json_out_ki64(out, "pairs", metric->n[arm]);
    put_number(out, "harmProduction", production);
    put_number(out, "harmShadow", shadow);
    put_number(out, "difference", shadow - production);
    json_out_object_end(out);
}

static void put_metric(JsonOut *out, const RolloutSpec *spec, const ShadowMetric *metric, size_t m)
{
    ENull rollback = evidence_rollback_null(&spec->evidence, m);
    ENull promote = shadow_promote_null(&spec->evidence, &spec->shadow, m);
    json_out_key(out, spec->names[m]);
    json_out_object(out);
    put_arm(out, "candidate", metric, 0);
    put_arm(out, "self", metric, 1);
    put_number(out, "rollbackMargin", rollback.delta);
    put_number(out, "rollbackRatio", rollback.rho);
    put_number(out, "promoteMargin", promote.delta);
    put_number(out, "promoteRatio", promote.rho);
    put_number(out, "logERollback", evalue_log(&metric->rollback));
    put_number(out, "logEPromote", evalue_log(&metric->promote));
    put_number(out, "logESelfWorse", evalue_log(&metric->self_worse));
    put_number(out, "logESelfBetter", evalue_log(&metric->self_better));
    json_out_kbool(out, "proved", metric->proved);
    json_out_object_end(out);
}

static void put_counts(JsonOut *out, const char *key, const int64_t n[SHADOW_STATE_N_])
{
    json_out_key(out, key);
    json_out_object(out);
    for (ShadowState state = 0; state < SHADOW_STATE_N_; state++)
        json_out_ki64(out, shadow_state_name(state), n[state]);
    json_out_object_end(out);
}

static void put_money(JsonOut *out, const ShadowEvidence *e, const ShadowPlan *plan)
{
    json_out_key(out, "cost");
    json_out_object(out);
    put_usd(out, "budgetUsd", plan->budget_nusd);
    put_usd(out, "spentUsd", money_add(e->spent_nusd[0], e->spent_nusd[1]));
    put_usd(out, "spentOnSelfUsd", e->spent_nusd[1]);
    put_usd(out, "productionUsd", e->production_nusd[0]);
    put_usd(out, "candidateUsd", e->shadow_nusd[0]);
    json_out_ki64(out, "stopped", e->capped);
    json_out_object_end(out);
}

static void put_evidence(JsonOut *out, const RolloutSpec *spec, const ShadowEvidence *e)
{
    put_number(out, "differs", e->results.pairs ? pair_differs(&e->results) : NAN);
    put_number(out, "selfDiffers", e->results.self_pairs ? pair_self_noise(&e->results) : NAN);
    put_number(out, "toolPathDiffers", e->paths.pairs ? pair_differs(&e->paths) : NAN);
    put_number(out, "selfToolPathDiffers", e->paths.self_pairs ? pair_self_noise(&e->paths) : NAN);
    json_out_kbool(out, "biased", e->biased);
    put_money(out, e, &spec->shadow);
    json_out_key(out, "metrics");
    json_out_object(out);
    for (size_t m = 0; m < spec->evidence.metrics_n; m++) put_metric(out, spec, &e->metrics[m], m);
    json_out_object_end(out);
}

/* --- pair by pair ----------------------------------------------------------------------------- */

static void put_side(JsonOut *out, const char *key, Uuid id, const RolloutOutcome *o)
{
    char text[UUID_TEXT_MAX];
    bool over = o->finished_at_ms > 0 && o->started_at_ms > 0;
    json_out_key(out, key);
    if (uuid_is_zero(id)) {
        json_out_null(out);
        return;
    }
    json_out_object(out);
    json_out_kcstr(out, "taskId", uuid_text(id, text));
    json_out_kcstr(out, "status", task_state_name(o->state));
    put_usd(out, "costUsd", o->cost_nusd);
    put_number(out, "seconds",
               over ? (double)(o->finished_at_ms - o->started_at_ms) / 1000 : (double)NAN);
    json_out_ki64(out, "toolCalls", o->tool_calls);
    put_number(out, "quality", o->quality);
    json_out_object_end(out);
}

static void put_pair(JsonOut *out, const ShadowSeen *pair)
{
    json_out_object(out);
    json_out_kcstr(out, "state", shadow_state_name(pair->state));
    json_out_kbool(out, "self", pair->self);
    json_out_kbool(out, "differs", pair->differs);
    json_out_kbool(out, "toolPathDiffers", pair->path_differs);
    put_side(out, "production", pair->task_id, &pair->production);
    put_side(out, "shadow", pair->shadow_id, &pair->shadow);
    json_out_object_end(out);
}

/* --- the whole -------------------------------------------------------------------------------- */

static void put_plan(JsonOut *out, const RolloutSpec *spec)
{
    const ShadowPlan *plan = &spec->shadow;
    json_out_key(out, "plan");
    json_out_object(out);
    put_number(out, "share", (double)plan->share_bp / 100);
    put_number(out, "control", (double)plan->self_bp / 100);
    json_out_ki64(out, "tasks", plan->min_pairs);
    json_out_ki64(out, "parallel", plan->parallel);
    json_out_kbool(out, "standsIn", spec->plan.shadow_is_first);
    put_number(out, "nextWeight", (double)plan->exposure_bp / 100);
    json_out_object_end(out);
}

static const char *result_name(CheckResult result)
{
    static const char *const names[] = { "running", "passed", "failed" };
    assert(result < ARRAY_N(names));
    return names[result];
}

int shadow_report_write(Db *db, const RolloutRow *row, const RolloutSpec *spec, int64_t now_ms,
                        Arena *arena, JsonOut *out)
{
    ShadowCounts counts;
    ShadowSeen *seen;
    size_t n;
    CLEANUP(freep) ShadowEvidence *e = xcalloc(1, sizeof(*e));
    int r = shadow_evidence_get(db, row->seq, e);
    if (r == -ENOENT || r == -EPROTO) {
        shadow_init(e);
        r = 0;
    }
    if (r == 0) r = shadow_counts(db, row->seq, &counts);
    if (r == 0) r = shadow_last(db, row->seq, SHADOW_REPORT_PAIRS, arena, &seen, &n);
    if (r != 0) return r;
    json_out_object(out);
    json_out_kstr(out, "rolloutId", row->id);
    json_out_kstr(out, "agent", row->agent);
    json_out_kstr(out, "versionId", row->version_id);
    json_out_kstr(out, "stableVersionId", row->control_id);
    json_out_kcstr(out, "state", rollout_state_name(row->state.state));
    json_out_kcstr(out, "result",
                   result_name(shadow_verdict(e, &spec->evidence, &spec->shadow, now_ms)));
    json_out_kstr(out, "why", row->why);
    put_plan(out, spec);
    put_counts(out, "candidatePairs", counts.n[0]);
    put_counts(out, "selfPairs", counts.n[1]);
    put_evidence(out, spec, e);
    json_out_key(out, "pairs");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) put_pair(out, &seen[i]);
    json_out_array_end(out);
    json_out_object_end(out);
    return 0;
}
