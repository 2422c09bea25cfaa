/* The statistical protocol of rollouts: how often the engine is wrong, and how soon it is right, in
 * simulated streams. tests/bench/rollout_protocol.c runs it whole, test_rollout_protocol.c in
 * short; the expected figures are the group "simulation" of the vectors. */
#ifndef GANTRY_TESTS_ROLLOUT_PROTOCOL_H
#define GANTRY_TESTS_ROLLOUT_PROTOCOL_H

#include "logic/evidence.h"
#include "logic/rng.h"
#include "vectors.h"

#define ALPHA 0.05
#define NEVER INT64_MAX

/* --- harm of one unit ------------------------------------------------------------------------ */

typedef enum { HARM_BERNOULLI, HARM_BETA, HARM_LOGNORMAL } HarmKind;

/* Bernoulli of mean p; Beta of mean p with a + b = 10; lognormal of sigma 1 and mean p, clipped. */
typedef struct {
    HarmKind kind;
    double p[2]; /* control, canary */
} Harm;

static inline double harm_draw(const Harm *harm, bool canary, Rng *rng)
{
    double p = harm->p[canary];
    switch (harm->kind) {
    case HARM_BERNOULLI: return rng_uniform(rng) < p;
    case HARM_BETA: return rng_beta(rng, 10 * p, 10 * (1 - p));
    case HARM_LOGNORMAL: return fmin(1, rng_lognormal(rng, p, 1));
    }
    abort();
}

/* --- the naive test, for comparison ---------------------------------------------------------- */

/* One-sided z-test at 5% of mu1 - rho mu0 against delta, as people write it: sample variances,
 * a look whenever both arms have two units. */
typedef struct {
    double n[2], sum[2], squares[2];
    bool rejected[2];
} ZTest;

static inline void ztest_observe(ZTest *z, const EUnit *unit, double rho, double delta)
{
    z->n[unit->canary]++;
    z->sum[unit->canary] += unit->y;
    z->squares[unit->canary] += unit->y * unit->y;
    if (z->n[0] < 2 || z->n[1] < 2) return;
    double mean[2], variance[2];
    for (int arm = 0; arm < 2; arm++) {
        mean[arm] = z->sum[arm] / z->n[arm];
        variance[arm] = (z->squares[arm] / z->n[arm] - mean[arm] * mean[arm]) / z->n[arm];
    }
    double error = sqrt(variance[1] + rho * rho * variance[0]);
    double excess = mean[1] - rho * mean[0] - delta;
    if (error <= 0) return;
    z->rejected[ESIDE_ROLLBACK] |= excess / error > 1.6448536269514722;
    z->rejected[ESIDE_PROMOTE] |= excess / error < -1.6448536269514722;
}

/* --- type I ---------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    Harm harm;
    double rho, delta;
    double pi[3]; /* up to half, up to three quarters, to the end of the stream */
} Scenario;

/* In the order of the vectors. H0 holds exactly at its boundary, so both sides are wrong to reject.
 * Clipped at 1 the lognormal means .125 and .151401 are .122808 and .147370, 1.2 times as much. */
static const Scenario scenarios[] = {
    { "Bernoulli .02/.02", { HARM_BERNOULLI, { .02, .02 } }, 1, 0, { .05, .05, .05 } },
    { "Bernoulli .02/.03", { HARM_BERNOULLI, { .02, .03 } }, 1, .01, { .05, .05, .05 } },
    { "Bernoulli .1/.1", { HARM_BERNOULLI, { .1, .1 } }, 1, 0, { .25, .25, .25 } },
    { "harm Beta(2,8)", { HARM_BETA, { .2, .2 } }, 1, 0, { .05, .05, .05 } },
    { "harm Beta(2,8)", { HARM_BETA, { .2, .2 } }, 1, 0, { .5, .5, .5 } },
    { "lognormal sigma 1, mean .125 before clipping at 1",
      { HARM_LOGNORMAL, { .125, .125 } },
      1,
      0,
      { .25, .25, .25 } },
    { "same, canary mean .151401 before clipping (clipped means .122808, .147370)",
      { HARM_LOGNORMAL, { .125, .151401 } },
      1.2,
      0,
      { .05, .05, .05 } },
    { "Bernoulli .02/.02, pi changes after 10,000 and 15,000 units",
      { HARM_BERNOULLI, { .02, .02 } },
      1,
      0,
      { .05, .25, .5 } },
    { "Bernoulli .02/.02", { HARM_BERNOULLI, { .02, .02 } }, 1, 0, { .5, .5, .5 } },
};

/* The vector of a scenario, after a look that it is the same one. */
static inline const Json *scenario_vector(size_t i)
{
    const Scenario *s = &scenarios[i];
    const Json *all = vectors("simulation", "typeI", "scenarios"), *v = json_at(all, i);
    const Json *pi = json_get(v, "pi");
    size_t n = json_len(pi);
    bool same = json_len(all) == ARRAY_N(scenarios) && vectors_f64(v, "rho") == s->rho &&
                vectors_f64(v, "delta") == s->delta && (n == 1 || n == 3) &&
                str_eq(json_str(json_get(v, "name")), str_of(s->name));
    for (size_t k = 0; k < 3; k++) same &= json_f64_or(json_at(pi, n == 3 ? k : 0), 0) == s->pi[k];
    if (!same) {
        fprintf(stderr, "%s is not vector %zu\n", s->name, i);
        abort();
    }
    return v;
}

/* The shares of the vector: of each side of the engine, and of each of the z-test. */
static inline void scenario_shares(const Json *v, double wrong[2], double z_wrong[2])
{
    wrong[ESIDE_ROLLBACK] = vectors_f64(v, "rollback");
    wrong[ESIDE_PROMOTE] = vectors_f64(v, "promote");
    for (size_t side = 0; side < 2; side++)
        z_wrong[side] = json_f64_or(json_at(json_get(v, "z"), side), NAN);
}

typedef struct {
    int64_t wrong[2], z_wrong[2]; /* streams that a side ever rejected */
} TypeI;

static inline void typei_stream(const Scenario *s, Rng *rng, int64_t units, TypeI *ret)
{
    const ENull null[2] = { { ESIDE_ROLLBACK, s->rho, s->delta },
                            { ESIDE_PROMOTE, s->rho, s->delta } };
    EValue v[2];
    EPast past = { 0 };
    ZTest z = { 0 };
    bool rejected[2] = { false, false };
    for (int side = 0; side < 2; side++) evalue_init(&v[side]);
    for (int64_t i = 0; i < units; i++) {
        EUnit unit = { .pi = s->pi[i < units / 2 ? 0 : i < units * 3 / 4 ? 1 : 2] };
        unit.canary = rng_uniform(rng) < unit.pi;
        unit.y = harm_draw(&s->harm, unit.canary, rng);
        ELook look = elook(&past, &unit);
        for (int side = 0; side < 2; side++) {
            enull_observe(&v[side], &null[side], &look);
            rejected[side] |= evalue_mean(&v[side]) >= 1 / ALPHA;
        }
        epast_add(&past, &unit);
        ztest_observe(&z, &unit, s->rho, s->delta);
    }
    for (int side = 0; side < 2; side++) {
        ret->wrong[side] += rejected[side];
        ret->z_wrong[side] += z.rejected[side];
    }
}

static inline TypeI typei_run(size_t scenario, uint64_t seed, int64_t streams, int64_t units)
{
    TypeI result = { 0 };
    for (int64_t rep = 0; rep < streams; rep++) {
        Rng rng = rng_seeded((seed + scenario) << 32 | (uint64_t)rep);
        typei_stream(&scenarios[scenario], &rng, units, &result);
    }
    return result;
}

/* Most wrong streams that chance explains, three deviations above alpha: 71 of 1000. */
static inline int64_t typei_limit(int64_t streams)
{
    double r = (double)streams;
    return (int64_t)ceil(ALPHA * r + 3 * sqrt(ALPHA * (1 - ALPHA) * r));
}

/* --- medians --------------------------------------------------------------------------------- */

static inline int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static inline int64_t median_i64(int64_t *values, size_t n)
{
    if (n == 0) return NEVER;
    qsort(values, n, sizeof(*values), compare_i64);
    return values[n / 2];
}

/* --- power of one metric --------------------------------------------------------------------- */

typedef struct {
    Harm harm;
    ENull null;
    double pi;
} PowerCase;

static inline PowerCase power_case(const Json *v)
{
    Str metric = json_str(json_get(v, "metric"));
    bool rollback = str_eq(json_str(json_get(v, "side")), STR("rollback"));
    PowerCase c = { .null = { rollback ? ESIDE_ROLLBACK : ESIDE_PROMOTE,
                              json_f64_or(json_get(v, "rho"), 1), vectors_f64(v, "delta") },
                    .pi = vectors_f64(v, "pi") };
    if (str_starts_with(metric, STR("cost"))) {
        c.harm = (Harm){ HARM_LOGNORMAL, { .125, .125 } };
        return c;
    }
    double p[2] = { vectors_f64(v, "p0"), vectors_f64(v, "p1") };
    if (str_eq(metric, STR("error"))) c.harm = (Harm){ HARM_BERNOULLI, { p[0], p[1] } };
    else c.harm = (Harm){ HARM_BETA, { 1 - p[0], 1 - p[1] } };
    return c;
}

/* Canary units until the null is rejected, NEVER when more than most are needed. */
static inline int64_t power_stream(const PowerCase *c, Rng *rng, int64_t canaries_most)
{
    EValue v;
    EPast past = { 0 };
    evalue_init(&v);
    while (past.n[1] < canaries_most) {
        EUnit unit = { .pi = c->pi, .canary = rng_uniform(rng) < c->pi };
        unit.y = harm_draw(&c->harm, unit.canary, rng);
        ELook look = elook(&past, &unit);
        enull_observe(&v, &c->null, &look);
        epast_add(&past, &unit);
        if (evalue_mean(&v) >= 1 / ALPHA) return past.n[1];
    }
    return NEVER;
}

static inline void power_run(const PowerCase *c, uint64_t seed, int64_t most, int64_t *ret,
                             size_t streams)
{
    for (size_t i = 0; i < streams; i++) {
        Rng rng = rng_seeded(seed << 32 | i);
        ret[i] = power_stream(c, &rng, most);
    }
}

/* --- the whole policy ------------------------------------------------------------------------ */

enum { POLICY_ERROR, POLICY_ESCALATION, POLICY_QUALITY, POLICY_COST, POLICY_N };

/* Steps 5/25/50/100; error delta .01, escalation .02, quality .02, cost r .2. */
static inline EvidencePlan policy_plan(void)
{
    EvidencePlan plan = {
        .metrics = { [POLICY_ERROR] = evidence_absolute(EVIDENCE_FAST, .01),
                     [POLICY_ESCALATION] = evidence_absolute(EVIDENCE_FAST, .02),
                     [POLICY_QUALITY] = evidence_absolute(EVIDENCE_FAST, .02),
                     [POLICY_COST] = evidence_relative(EVIDENCE_FAST, .2) },
        .metrics_n = POLICY_N,
        .weight_bp = { 500, 2500, 5000, 10000 },
        .steps_n = 4,
        .alpha_rollback = ALPHA,
        .alpha_promote = ALPHA,
    };
    evidence_plan_weigh(&plan);
    return plan;
}

/* A healthy control against the canary of the vector's "truth". */
static inline void policy_truth(Str truth, Harm ret[POLICY_N])
{
    ret[POLICY_ERROR] = (Harm){ HARM_BERNOULLI, { .02, .02 } };
    ret[POLICY_ESCALATION] = (Harm){ HARM_BERNOULLI, { .05, .05 } };
    ret[POLICY_QUALITY] = (Harm){ HARM_BETA, { .2, .2 } };
    ret[POLICY_COST] = (Harm){ HARM_LOGNORMAL, { .125, .125 } };
    if (str_eq(truth, STR("errors 50%"))) ret[POLICY_ERROR].p[1] = .5;
    else if (str_eq(truth, STR("errors 6%"))) ret[POLICY_ERROR].p[1] = .06;
    else if (str_eq(truth, STR("errors 3%"))) ret[POLICY_ERROR].p[1] = .03;
    else if (str_eq(truth, STR("quality .75"))) ret[POLICY_QUALITY].p[1] = .25;
    else if (str_eq(truth, STR("cost x1.5"))) ret[POLICY_COST].p[1] = .1875;
    else if (!str_eq(truth, STR("identical"))) abort();
}

typedef enum { END_HOLD, END_PROMOTE, END_ROLLBACK } PolicyEnd;
typedef struct {
    PolicyEnd end;
    int64_t tasks, canary;
} PolicyRun;

static inline PolicyRun policy_run(const EvidencePlan *plan, const Harm harm[POLICY_N], Rng *rng,
                                   int64_t tasks_most)
{
    static Evidence evidence;
    evidence_init(&evidence);
    size_t step = 0;
    PolicyRun run = { END_HOLD, 0, 0 };
    while (run.tasks < tasks_most) {
        EvidenceUnit unit = { .pi = (double)plan->weight_bp[step] / WEIGHT_BP_ALL, .has = 15 };
        unit.canary = rng_uniform(rng) < unit.pi;
        for (int m = 0; m < POLICY_N; m++) unit.harm[m] = harm_draw(&harm[m], unit.canary, rng);
        evidence_observe(&evidence, plan, step, EVIDENCE_FAST, &unit);
        run.tasks++;
        run.canary += unit.canary;
        if (evidence.rollback) run.end = END_ROLLBACK;
        else if (evidence_proved(&evidence, plan, step) && !evidence_step_tests(plan, ++step))
            run.end = END_PROMOTE;
        if (run.end != END_HOLD) break;
    }
    return run;
}

#define POLICY_RUNS_MAX 1000
typedef struct {
    double share[3];
    int64_t tasks_median, canary_median;
} PolicyResult;

static inline void policy_runs(Str truth, uint64_t seed, int64_t tasks_most, PolicyRun *ret,
                               size_t n)
{
    EvidencePlan plan = policy_plan();
    Harm harm[POLICY_N];
    policy_truth(truth, harm);
    for (size_t i = 0; i < n; i++) {
        Rng rng = rng_seeded(seed << 32 | i);
        ret[i] = policy_run(&plan, harm, &rng, tasks_most);
    }
}

/* What the runs look like after so many tasks. */
static inline PolicyResult policy_result(const PolicyRun *runs, size_t n, int64_t horizon_tasks)
{
    static int64_t tasks[POLICY_RUNS_MAX], canary[POLICY_RUNS_MAX];
    assert(n <= POLICY_RUNS_MAX);
    PolicyResult result = { 0 };
    for (size_t i = 0; i < n; i++) {
        tasks[i] = runs[i].tasks;
        canary[i] = runs[i].canary;
        PolicyEnd end = runs[i].tasks <= horizon_tasks ? runs[i].end : END_HOLD;
        result.share[end] += 1.0 / (double)n;
    }
    result.tasks_median = median_i64(tasks, n);
    result.canary_median = median_i64(canary, n);
    return result;
}

/* --- sample ratio ---------------------------------------------------------------------------- */

/* Units until the alarm, or NEVER. */
static inline int64_t srm_stream(double planned, double actual, int64_t units, Rng *rng)
{
    Srm srm;
    srm_init(&srm);
    for (int64_t i = 1; i <= units; i++) {
        srm_observe(&srm, rng_uniform(rng) < actual, planned);
        if (srm.alarm) return i;
    }
    return NEVER;
}

/* How near medians must come, as a share of them. */
static inline double power_tolerance(void)
{
    double percent = strtod(json_str(vectors("simulation", "power", "tolerance")).ptr, NULL);
    if (percent <= 0) abort();
    return percent / 100;
}

/* Whether streams with and streams without differ from the share only as two samples may. */
static inline bool as_often(int64_t got, int64_t streams, double share)
{
    double p = fmax(share, 1.0 / (double)streams),
           deviation = sqrt(2 * p * (1 - p) / (double)streams);
    return fabs((double)got / (double)streams - share) <= 4 * deviation;
}

/* Within a share of what is expected. */
static inline bool within(double got, double want, double share)
{
    return fabs(got - want) <= share * want;
}

#endif
