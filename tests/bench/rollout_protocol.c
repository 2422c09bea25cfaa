/* The whole statistical protocol of rollouts: type I, power, policy and sample ratio of the group
 * "simulation" of the vectors. Prints each figure beside what is expected; exits 1 when one lies
 * outside its tolerance. Two minutes of one core. tests/unit/test_rollout_protocol.c is its short
 * form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>

#include "../unit/rollout_protocol.h"

static int failures;

static const char *verdict(bool ok)
{
    failures += !ok;
    return ok ? "ok" : "FAILED";
}

static void protocol_typei(void)
{
    const int64_t streams = 1000, units = 20000, limit = typei_limit(streams);
    printf("type I: %d streams of %d units, limit %d; e-process rollback/promote (z-test)\n",
           (int)streams, (int)units, (int)limit);
    for (size_t i = 0; i < ARRAY_N(scenarios); i++) {
        TypeI r = typei_run(i, 0, streams, units);
        bool ok = r.wrong[0] <= limit && r.wrong[1] <= limit && r.z_wrong[0] > limit &&
                  r.z_wrong[1] > limit;
        double wrong[2], z_wrong[2];
        scenario_shares(scenario_vector(i), wrong, z_wrong);
        for (int side = 0; side < 2; side++)
            ok &= as_often(r.wrong[side], streams, wrong[side]) &&
                  as_often(r.z_wrong[side], streams, z_wrong[side]);
        printf("  %-22.22s %4d %4d  (%4d %4d)  %s\n", scenarios[i].name, (int)r.wrong[0],
               (int)r.wrong[1], (int)r.z_wrong[0], (int)r.z_wrong[1], verdict(ok));
    }
}

#define POWER_STREAMS 400
static void protocol_power(void)
{
    static int64_t units[POWER_STREAMS];
    printf("median canary units to a decision\n");
    uint64_t seed = 100;
    for (JsonIter it = json_iter(vectors("simulation", "power", "vectors")); json_next(&it);) {
        PowerCase c = power_case(it.value);
        power_run(&c, seed++, 20000, units, POWER_STREAMS);
        Str metric = json_str(json_get(it.value, "metric"));
        printf("  %-8s %-24.*s pi %.2f delta %.2f: ",
               c.null.side == ESIDE_ROLLBACK ? "rollback" : "promote", STR_ARG(metric), c.pi,
               c.null.delta);
        const Json *share = json_get(it.value, "shareBy3000CanaryUnits");
        if (share) {
            double by = 0;
            for (size_t i = 0; i < POWER_STREAMS; i++) by += units[i] <= 3000;
            by /= POWER_STREAMS;
            double want = json_f64_or(share, NAN);
            printf("%.3f by 3000 (%.3f)  %s\n", by, want,
                   verdict(fabs(by - want) <= vectors_f64(it.value, "tolerance")));
            continue;
        }
        int64_t got = median_i64(units, POWER_STREAMS);
        double want = vectors_f64(it.value, "median");
        printf("%d (%.0f)  %s\n", (int)got, want,
               verdict(within((double)got, want, power_tolerance())));
    }
}

static void protocol_policy(void)
{
    printf("policy: rollback/promote/hold, median tasks (canary)\n");
    static PolicyRun runs[POLICY_RUNS_MAX];
    Str last = STR_NULL;
    uint64_t seed = 200;
    for (JsonIter it = json_iter(vectors("simulation", "policy", "vectors")); json_next(&it);) {
        Str truth = json_str(json_get(it.value, "truth"));
        int64_t tasks = json_i64_or(json_get(it.value, "horizonTasks"), 100000);
        if (!str_eq(truth, last)) policy_runs(truth, seed++, 100000, runs, POLICY_RUNS_MAX);
        last = truth; /* horizons of one truth share their runs */
        PolicyResult r = policy_result(runs, POLICY_RUNS_MAX, tasks);
        bool ok = fabs(r.share[END_ROLLBACK] - vectors_f64(it.value, "rollback")) <= .03 &&
                  fabs(r.share[END_PROMOTE] - vectors_f64(it.value, "promote")) <= .03 &&
                  fabs(r.share[END_HOLD] - vectors_f64(it.value, "hold")) <= .06;
        if (json_get(it.value, "medianTasks"))
            ok &= within((double)r.tasks_median, vectors_f64(it.value, "medianTasks"), .25) &&
                  within((double)r.canary_median, vectors_f64(it.value, "medianCanary"), .25);
        printf("  %-12.*s %6d: %.3f/%.3f/%.3f  %d (%d)  %s\n", STR_ARG(truth), (int)tasks,
               r.share[END_ROLLBACK], r.share[END_PROMOTE], r.share[END_HOLD], (int)r.tasks_median,
               (int)r.canary_median, verdict(ok));
    }
}

#define SRM_STREAMS 400
static void protocol_srm(void)
{
    static int64_t at[SRM_STREAMS];
    printf("sample ratio: share of alarms, median units\n");
    uint64_t seed = 300;
    for (JsonIter it = json_iter(vectors("simulation", "srm", "vectors")); json_next(&it);) {
        double planned = vectors_f64(it.value, "planned"), actual = vectors_f64(it.value, "actual");
        double alarms = 0;
        for (uint64_t i = 0; i < SRM_STREAMS; i++) {
            Rng rng = rng_seeded(seed << 32 | i);
            at[i] = srm_stream(planned, actual, (int64_t)vectors_f64(it.value, "units"), &rng);
            alarms += at[i] != NEVER;
        }
        seed++;
        int64_t median = median_i64(at, SRM_STREAMS);
        bool ok = fabs(alarms / SRM_STREAMS - vectors_f64(it.value, "alarm")) <= .01;
        if (json_get(it.value, "median"))
            ok &= within((double)median, vectors_f64(it.value, "median"), .25);
        printf("  planned %.2f actual %.3f: %.3f, %d  %s\n", planned, actual, alarms / SRM_STREAMS,
               median == NEVER ? -1 : (int)median, verdict(ok));
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* CPU of one unit of four metrics over four steps: 4 rollback and 12 promote nulls, sample
 * ratio. */
static void protocol_cost(void)
{
    static Evidence evidence;
    EvidencePlan plan = policy_plan();
    Rng rng = rng_seeded(1);
    EvidenceUnit units[1024];
    for (size_t i = 0; i < ARRAY_N(units); i++) {
        units[i] = (EvidenceUnit){ .pi = .05, .canary = rng_uniform(&rng) < .05, .has = 15 };
        for (int m = 0; m < POLICY_N; m++) units[i].harm[m] = rng_uniform(&rng) < .1;
    }
    evidence_init(&evidence);
    const int n = 1000000;
    double start = seconds();
    for (int i = 0; i < n; i++)
        evidence_observe(&evidence, &plan, 0, EVIDENCE_FAST, &units[(size_t)i % ARRAY_N(units)]);
    double ns = (seconds() - start) / n * 1e9;
    printf("one unit, 4 metrics, 16 nulls, sample ratio: %.0f ns  %s\n", ns, verdict(ns < 5000));
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    protocol_cost();
    protocol_typei();
    protocol_power();
    protocol_policy();
    protocol_srm();
    printf("%.0f s of CPU, %d failed\n", seconds(), failures);
    return failures != 0;
}
