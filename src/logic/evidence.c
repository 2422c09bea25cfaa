#include "logic/evidence.h"

#include <math.h>
#include <string.h>

#define MARK_UNITS 200

EvidenceMetric evidence_absolute(EvidenceGroup group, double delta)
{
    return (EvidenceMetric){ .group = group,
                             .weight = 1,
                             .required = true,
                             .rollback_rho = 1,
                             .rollback_delta = delta / 2,
                             .promote_rho = 1,
                             .promote_delta = delta };
}

EvidenceMetric evidence_relative(EvidenceGroup group, double r)
{
    return (EvidenceMetric){ .group = group,
                             .weight = 1,
                             .required = true,
                             .rollback_rho = 1 + r / 2,
                             .promote_rho = 1 + r };
}

void evidence_plan_weigh(EvidencePlan *plan)
{
    double sum = 0;
    for (size_t m = 0; m < plan->metrics_n; m++) sum += plan->metrics[m].weight;
    if (sum <= 0) return;
    for (size_t m = 0; m < plan->metrics_n; m++) plan->metrics[m].weight /= sum;
}

bool evidence_step_tests(const EvidencePlan *plan, size_t step)
{
    return step < plan->steps_n && plan->weight_bp[step] < WEIGHT_BP_ALL;
}

ENull evidence_rollback_null(const EvidencePlan *plan, size_t metric)
{
    assert(metric < plan->metrics_n);
    const EvidenceMetric *m = &plan->metrics[metric];
    return (ENull){ ESIDE_ROLLBACK, m->rollback_rho, m->rollback_delta };
}

ENull evidence_promote_null(const EvidencePlan *plan, size_t metric, size_t step)
{
    assert(metric < plan->metrics_n && step < plan->steps_n);
    const EvidenceMetric *m = &plan->metrics[metric];
    double next = step + 1 < plan->steps_n ? (double)plan->weight_bp[step + 1] / WEIGHT_BP_ALL : 1;
    assert(next > 0 && next <= 1);
    return (ENull){ ESIDE_PROMOTE, 1 + (m->promote_rho - 1) / next, m->promote_delta / next };
}

void evidence_told_init(EvidenceTold *told)
{
    *told = (EvidenceTold){ .past = { .n = { 0 } } };
    evalue_init(&told->more);
    evalue_init(&told->fewer);
}

void evidence_init(Evidence *evidence)
{
    memset(evidence, 0, sizeof(*evidence));
    srm_init(&evidence->seen);
    srm_init(&evidence->consumed);
    evidence_told_init(&evidence->told);
    for (size_t m = 0; m < EVIDENCE_METRICS_MAX; m++) {
        srm_init(&evidence->metrics[m].told);
        evalue_init(&evidence->metrics[m].rollback);
        for (size_t k = 0; k < EVIDENCE_STEPS_MAX; k++)
            evalue_init(&evidence->metrics[m].promote[k]);
    }
}

void evidence_seen(Evidence *evidence, bool canary, double pi)
{
    srm_observe(&evidence->seen, canary, pi);
}

static int64_t metric_units(const MetricEvidence *metric)
{
    return metric->past.n[0] + metric->past.n[1];
}

/* Keeps two points of the current step's curve, MARK_UNITS apart, to tell its growth from. */
static void mark_growth(MetricEvidence *metric, size_t step)
{
    int64_t n = metric_units(metric);
    if (metric->mark_step != step) { /* another curve: its growth is told from unit 0 */
        memset(metric->mark_log, 0, sizeof(metric->mark_log));
        memset(metric->mark_units, 0, sizeof(metric->mark_units));
        metric->mark_step = step;
    }
    if (n < metric->mark_units[1] + MARK_UNITS) return;
    metric->mark_log[0] = metric->mark_log[1];
    metric->mark_units[0] = metric->mark_units[1];
    metric->mark_log[1] = evalue_log(&metric->promote[step]);
    metric->mark_units[1] = n;
}

static void metric_observe(MetricEvidence *metric, const EvidencePlan *plan, size_t index,
                           size_t step, const EUnit *unit)
{
    ELook look = elook(&metric->past, unit);
    ENull null = evidence_rollback_null(plan, index);
    enull_observe(&metric->rollback, &null, &look);
    for (size_t k = step; evidence_step_tests(plan, k); k++) {
        null = evidence_promote_null(plan, index, k);
        enull_observe(&metric->promote[k], &null, &look);
        if (evalue_mean(&metric->promote[k]) >= 1 / plan->alpha_promote)
            metric->proved |= UINT32_C(1) << k;
    }
    epast_add(&metric->past, unit);
    if (evidence_step_tests(plan, step)) mark_growth(metric, step);
}

static void decide_rollback(Evidence *evidence, const EvidencePlan *plan, EvidenceGroup group)
{
    double sum = 0, most = -1;
    int culprit = -1;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        if (plan->metrics[m].group != group) continue;
        double part = plan->metrics[m].weight * evalue_mean(&evidence->metrics[m].rollback);
        sum += part;
        if (part > most) most = part, culprit = (int)m;
    }
    if (evidence->rollback || sum < 1 / plan->alpha_rollback) return;
    assert(culprit >= 0);
    evidence->rollback = true;
    evidence->rollback_group = group;
    evidence->culprit = culprit;
    evidence->group_log_e[group] = evidence_rollback_log(evidence, plan, group);
}

/* A unit came to be judged, or by a grader's fault did not, in some metrics. */
static void ratio_observe(Evidence *evidence, const EvidencePlan *plan, const EvidenceUnit *unit)
{
    double sum = 0;
    int judged = 0;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        if (plan->metrics[m].group != EVIDENCE_JUDGED) continue;
        Srm *told = &evidence->metrics[m].told;
        if ((unit->has | unit->untold) >> m & 1) srm_observe(told, unit->canary, unit->pi);
        sum += (evalue_mean(&told->more) + evalue_mean(&told->fewer)) / 2;
        judged++;
    }
    if (judged > 0 && sum / judged >= SRM_ALARM) evidence->uneven = true;
}

void evidence_observe(Evidence *evidence, const EvidencePlan *plan, size_t step,
                      EvidenceGroup group, const EvidenceUnit *unit)
{
    assert(plan->metrics_n <= EVIDENCE_METRICS_MAX && plan->steps_n <= EVIDENCE_STEPS_MAX);
    assert(group < EVIDENCE_GROUPS_N_);
    if (group == EVIDENCE_FAST) srm_observe(&evidence->consumed, unit->canary, unit->pi);
    else ratio_observe(evidence, plan, unit);
    evidence->units[group][unit->canary]++;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        if (plan->metrics[m].group != group || !(unit->has >> m & 1)) continue;
        EUnit one = { unit->canary, unit->pi, unit->harm[m] };
        metric_observe(&evidence->metrics[m], plan, m, step, &one);
    }
    decide_rollback(evidence, plan, group);
}

/* --- graders ---------------------------------------------------------------------------------- */

void evidence_judged(Evidence *evidence, bool canary, double pi, bool untold)
{
    EvidenceTold *told = &evidence->told;
    EUnit unit = { canary, pi, untold };
    ELook look = elook(&told->past, &unit);
    enull_observe(&told->more, &(ENull){ ESIDE_ROLLBACK, 1, 0 }, &look);
    enull_observe(&told->fewer, &(ENull){ ESIDE_PROMOTE, 1, 0 }, &look);
    epast_add(&told->past, &unit);
}

double evidence_untold(const EvidenceTold *told, bool canary)
{
    int64_t n = told->past.n[canary];
    return n > 0 ? told->past.sum[canary] / (double)n : (double)NAN;
}

static bool is_silent(const EvidenceTold *told, bool canary)
{
    return told->past.n[canary] >= EVIDENCE_TOLD_MIN &&
           evidence_untold(told, canary) > EVIDENCE_UNTOLD_MAX;
}

EvidenceJudges evidence_judges(const EvidenceTold *told)
{
    double e = (evalue_mean(&told->more) + evalue_mean(&told->fewer)) / 2;
    if (is_silent(told, false) || is_silent(told, true)) return JUDGES_SILENT;
    double apart = fabs(evidence_untold(told, true) - evidence_untold(told, false));
    return e >= EVIDENCE_UNTOLD_BOUND && apart > EVIDENCE_UNTOLD_FEW ? JUDGES_UNEQUAL : JUDGES_OK;
}

/* --- what follows ----------------------------------------------------------------------------- */

bool evidence_proved(const Evidence *evidence, const EvidencePlan *plan, size_t step)
{
    assert(step < plan->steps_n);
    bool any = false;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        if (!plan->metrics[m].required) continue;
        if (!(evidence->metrics[m].proved >> step & 1)) return false;
        any = true;
    }
    return any;
}

int64_t evidence_canaries(const Evidence *evidence, const EvidencePlan *plan)
{
    int64_t least = INT64_MAX;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        least = MIN(least, evidence->units[plan->metrics[m].group][1]);
        if (plan->metrics[m].required) least = MIN(least, evidence->metrics[m].past.n[1]);
    }
    return least == INT64_MAX ? 0 : least;
}

bool evidence_srm_ok(const Evidence *evidence)
{
    return !evidence->seen.alarm && !evidence->consumed.alarm;
}

bool evidence_judged_alike(const Evidence *evidence)
{
    return !evidence->uneven;
}

double evidence_rollback_log(const Evidence *evidence, const EvidencePlan *plan,
                             EvidenceGroup group)
{
    double w[EVIDENCE_METRICS_MAX] = { 0 }, log_e[EVIDENCE_METRICS_MAX] = { 0 };
    for (size_t m = 0; m < plan->metrics_n; m++) {
        if (plan->metrics[m].group != group) continue;
        w[m] = plan->metrics[m].weight;
        log_e[m] = evalue_log(&evidence->metrics[m].rollback);
    }
    return evalues_log_sum(w, log_e, plan->metrics_n);
}

static double metric_units_left(const MetricEvidence *metric, double log_bound, size_t step)
{
    if (metric->proved >> step & 1) return 0;
    double log_e = evalue_log(&metric->promote[step]);
    bool marked = metric->mark_step == step; /* else the whole curve, which starts at 0 */
    double units = (double)(metric_units(metric) - (marked ? metric->mark_units[0] : 0));
    double growth = units > 0 ? (log_e - (marked ? metric->mark_log[0] : 0)) / units : 0;
    return growth > 0 ? (log_bound - log_e) / growth : -1;
}

double evidence_units_left(const Evidence *evidence, const EvidencePlan *plan, size_t step)
{
    if (!evidence_step_tests(plan, step)) return 0;
    double most = 0;
    for (size_t m = 0; m < plan->metrics_n; m++) {
        if (!plan->metrics[m].required) continue;
        double left = metric_units_left(&evidence->metrics[m], -log(plan->alpha_promote), step);
        if (left < 0) return -1;
        most = fmax(most, left);
    }
    return most;
}
