#include "logic/shadow.h"

#include <stdio.h>
#include <string.h>

#include "base/money.h"
#include "logic/route.h"

#define SALT_MAX 128
#define BIAS_BOUND SRM_ALARM /* as for the ratio of units: it stops everything */
#define ALLOT_FACTOR 2
#define ALLOT_PARTS 20

/* --- choosing --------------------------------------------------------------------------------- */

static int32_t bucket(Str rollout_id, const char *what, Str unit)
{
    char salt[SALT_MAX];
    snprintf(salt, sizeof(salt), "%.*s:%s", (int)MIN(rollout_id.len, (size_t)100), rollout_id.ptr,
             what);
    return route_bucket(str_of(salt), unit);
}

ShadowChoice shadow_choose(const ShadowPlan *plan, Str rollout_id, Str unit)
{
    if (bucket(rollout_id, "shadow", unit) >= plan->share_bp) return SHADOW_NOT;
    return bucket(rollout_id, "self", unit) < plan->self_bp ? SHADOW_SELF : SHADOW_CANDIDATE;
}

int64_t shadow_allot(const ShadowPlan *plan, int64_t spent_nusd, int64_t held_nusd,
                     int64_t own_nusd, int64_t production_nusd)
{
    int64_t unspent = plan->budget_nusd - spent_nusd;
    int64_t least = MAX(plan->budget_nusd / ALLOT_PARTS, 1);
    if (production_nusd < INT64_MAX / ALLOT_FACTOR)
        least = MAX(least, ALLOT_FACTOR * production_nusd);
    int64_t part = MAX(unspent / MAX(plan->parallel, 1), least);
    int64_t allotted = MIN(part, unspent - held_nusd);
    if (allotted < MIN(least, own_nusd)) return 0;
    return MIN(allotted, own_nusd);
}

/* --- what became of a pair -------------------------------------------------------------------- */

const char *shadow_state_name(ShadowState state)
{
    static const char *const names[SHADOW_STATE_N_] = { "chosen", "started", "compared", "diverged",
                                                        "dropped" };
    assert(state < SHADOW_STATE_N_);
    return names[state];
}

static bool at_rest(const ShadowSide *side)
{
    return side->state == TASK_ESCALATED || task_state_ended(side->state);
}

/* Whether what it did may be compared, once it has come to rest. */
static bool says_something(const ShadowSide *side)
{
    return side->started && !side->degraded && side->state != TASK_CANCELED;
}

/* Only what both have brought about is judged. */
static bool waits_for_scores(const ShadowNews *news, int64_t wait_ms, int64_t now_ms)
{
    const ShadowSide *p = &news->production, *s = &news->shadow;
    if (!news->judged || (p->scored && s->scored)) return false;
    if (p->state != TASK_SUCCEEDED || s->state != TASK_SUCCEEDED) return false;
    return now_ms - MAX(p->finished_at_ms, s->finished_at_ms) < wait_ms;
}

/* One that waits to be tried again may wait for a slot; one that runs, after all that time, is
 * itself what does not come to an end, if nothing is given to it that production did not need. */
bool shadow_hangs(const ShadowNews *news)
{
    return news->shadow.state == TASK_RUNNING && says_something(&news->shadow) && !news->stubbed;
}

ShadowState shadow_fate(const ShadowNews *news, const ShadowPlan *plan, int64_t now_ms)
{
    int64_t wait_ms = plan->wait_ms;
    assert(news->state == SHADOW_CHOSEN || news->state == SHADOW_STARTED);
    bool late = now_ms - news->chosen_at_ms >= wait_ms;
    if (!at_rest(&news->production)) return late ? SHADOW_DROPPED : news->state;
    if (!says_something(&news->production)) return SHADOW_DROPPED;
    if (news->state == SHADOW_CHOSEN)
        return late || news->given_up ? SHADOW_DROPPED : SHADOW_CHOSEN;
    if (!at_rest(&news->shadow)) {
        bool stuck = late && !news->shadow.started;
        bool over = now_ms - news->chosen_at_ms >= 2 * wait_ms;
        if (over && shadow_hangs(news)) return SHADOW_COMPARED;
        return stuck || over ? SHADOW_DROPPED : SHADOW_STARTED;
    }
    if (!says_something(&news->shadow) || news->capped) return SHADOW_DROPPED;
    if (news->stubbed) return SHADOW_DIVERGED;
    return waits_for_scores(news, plan->score_wait_ms, now_ms) ? SHADOW_STARTED : SHADOW_COMPARED;
}

/* --- evidence --------------------------------------------------------------------------------- */

void shadow_init(ShadowEvidence *evidence)
{
    memset(evidence, 0, sizeof(*evidence));
    evidence_told_init(&evidence->told);
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++) {
        evalue_init(&evidence->metrics[m].rollback);
        evalue_init(&evidence->metrics[m].promote);
        evalue_init(&evidence->metrics[m].self_worse);
        evalue_init(&evidence->metrics[m].self_better);
    }
}

ENull shadow_promote_null(const EvidencePlan *metrics, const ShadowPlan *plan, size_t metric)
{
    assert(metric < metrics->metrics_n && plan->exposure_bp > 0);
    const EvidenceMetric *m = &metrics->metrics[metric];
    double next = (double)plan->exposure_bp / WEIGHT_BP_ALL;
    return (ENull){ ESIDE_PROMOTE, 1 + (m->promote_rho - 1) / next, m->promote_delta / next };
}

static void metric_observe(ShadowMetric *metric, const EvidencePlan *metrics,
                           const ShadowPlan *plan, size_t index, double shadow, double production)
{
    ENull rollback = evidence_rollback_null(metrics, index);
    ENull promote = shadow_promote_null(metrics, plan, index);
    pair_observe_null(&metric->rollback, &rollback, shadow, production);
    pair_observe_null(&metric->promote, &promote, shadow, production);
    if (promote.delta >= 1 || evalue_mean(&metric->promote) >= 1 / metrics->alpha_promote)
        metric->proved = true;
}

static void self_observe(ShadowMetric *metric, double shadow, double production)
{
    pair_observe(&metric->self_worse, ESIDE_ROLLBACK, 0, shadow - production);
    pair_observe(&metric->self_better, ESIDE_PROMOTE, 0, shadow - production);
}

static void decide(ShadowEvidence *evidence, const EvidencePlan *metrics)
{
    double sum = 0, most = -1, bias = 0;
    int culprit = 0;
    for (size_t m = 0; m < metrics->metrics_n; m++) {
        const ShadowMetric *metric = &evidence->metrics[m];
        double weight = metrics->metrics[m].weight;
        double part = weight * evalue_mean(&metric->rollback);
        sum += part;
        bias += weight * (evalue_mean(&metric->self_worse) + evalue_mean(&metric->self_better)) / 2;
        if (part > most) most = part, culprit = (int)m;
    }
    evidence->biased |= bias >= BIAS_BOUND;
    if (evidence->rollback || sum < 1 / metrics->alpha_rollback) return;
    evidence->rollback = true;
    evidence->culprit = culprit;
}

/* Pair by pair, as all else here. */
static void told_observe(EvidenceTold *told, bool production, bool shadow)
{
    double d = (double)shadow - (double)production;
    pair_observe(&told->more, ESIDE_ROLLBACK, 0, d);
    pair_observe(&told->fewer, ESIDE_PROMOTE, 0, d);
    for (int side = 0; side < 2; side++) told->past.n[side]++;
    told->past.sum[0] += production;
    told->past.sum[1] += shadow;
}

static void counts_add(PairCounts *counts, bool self, bool differs)
{
    *(self ? &counts->self_pairs : &counts->pairs) += 1;
    *(self ? &counts->self_differ : &counts->differ) += differs;
}

void shadow_observe(ShadowEvidence *evidence, const EvidencePlan *metrics, const ShadowPlan *plan,
                    const ShadowPair *pair)
{
    assert(metrics->metrics_n <= EVIDENCE_METRICS_MAX);
    int arm = pair->self;
    uint32_t has = pair->production.has & pair->shadow.has;
    counts_add(&evidence->results, pair->self, pair->differs);
    counts_add(&evidence->paths, pair->self, pair->path_differs);
    if (pair->judged && !pair->self)
        told_observe(&evidence->told, pair->production_untold, pair->untold);
    evidence->production_nusd[arm] = money_add(evidence->production_nusd[arm],
                                               pair->production_nusd);
    evidence->shadow_nusd[arm] = money_add(evidence->shadow_nusd[arm], pair->shadow_nusd);
    for (size_t m = 0; m < metrics->metrics_n; m++) {
        ShadowMetric *metric = &evidence->metrics[m];
        double production = pair->production.harm[m], shadow = pair->shadow.harm[m];
        if (!(has >> m & 1)) continue;
        if (pair->self) self_observe(metric, shadow, production);
        else metric_observe(metric, metrics, plan, m, shadow, production);
        metric->n[arm]++;
        metric->production[arm] += production;
        metric->shadow[arm] += shadow;
    }
    decide(evidence, metrics);
}

int64_t shadow_pairs(const ShadowEvidence *evidence, const EvidencePlan *metrics)
{
    int64_t least = evidence->results.pairs;
    for (size_t m = 0; m < metrics->metrics_n; m++)
        if (metrics->metrics[m].required) least = MIN(least, evidence->metrics[m].n[0]);
    return least;
}

int shadow_unproved(const ShadowEvidence *evidence, const EvidencePlan *metrics)
{
    for (size_t m = 0; m < metrics->metrics_n; m++)
        if (metrics->metrics[m].required && !evidence->metrics[m].proved) return (int)m;
    return -1;
}

CheckResult shadow_verdict(const ShadowEvidence *evidence, const EvidencePlan *metrics,
                           const ShadowPlan *plan, int64_t now_ms)
{
    if (evidence->biased) return CHECK_RUNNING; /* whichever way it points */
    if (evidence->rollback) return CHECK_FAILED;
    if (evidence->capped > 0 || metrics->metrics_n == 0) return CHECK_RUNNING;
    if (evidence_judges(&evidence->told) != JUDGES_OK) return CHECK_RUNNING;
    if (shadow_unproved(evidence, metrics) >= 0) return CHECK_RUNNING;
    if (shadow_pairs(evidence, metrics) < plan->min_pairs) return CHECK_RUNNING;
    return now_ms - evidence->began_ms >= plan->for_ms ? CHECK_PASSED : CHECK_RUNNING;
}
