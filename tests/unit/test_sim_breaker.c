/* The breaker among random calls, in virtual time. usage: test_sim_breaker [SEED] replays one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "logic/breaker.h"
#include "random.h"

/* Most runs are short: a fault that needs many of one kind shows in few of them too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RUNS 2000
#else
#define RUNS 20000
#endif
#define CALLS_MAX 64
#define STEPS 2000
#define STEPS_SHORT 150

static uint64_t seed_first = 1, seed_n = RUNS;

#define MUST(condition)                                                                     \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "seed %" PRIu64 ", step %d: failed: %s (line %d)\n", run->seed, \
                    run->step, #condition, __LINE__);                                       \
            fail();                                                                         \
        }                                                                                   \
    } while (0)

typedef struct {
    BreakerPermit permit;
    int64_t started_ms, ends_ms;
    BreakerResult result;
} Call;

typedef struct {
    int64_t at_ms;
    bool bad, slow;
} Result;

typedef struct {
    uint64_t seed;
    int step;
    Random random;
    BreakerPolicy policy;
    Breaker breaker;
    int64_t now_ms;
    int64_t bad_until_ms; /* the other side is broken until then */
    Call calls[CALLS_MAX];
    size_t calls_n;
    Result *results; /* of this closed period */
    size_t results_n;
} Run;

static BreakerPolicy random_policy(Random *r)
{
    int64_t open_ms = random_range(r, 1, 20000);
    return (BreakerPolicy){ .window_ms = random_range(r, BREAKER_BUCKETS, 60000),
                            .calls_min = random_range(r, 1, 20),
                            .error_percent = random_range(r, 0, 3) ? random_range(r, 1, 100) : 0,
                            .slow_percent = random_range(r, 0, 3) ? random_range(r, 1, 100) : 0,
                            .slow_ms = random_range(r, 1, 5000),
                            .open_ms = open_ms,
                            .open_max_ms = open_ms * random_range(r, 1, 64),
                            .probes = random_range(r, 1, 5) };
}

/* Counted afresh: what the newest so many milliseconds hold. */
static BreakerCounts recount(const Run *run, int64_t span_ms)
{
    BreakerCounts sum = { 0 };
    for (size_t i = run->results_n; i-- > 0;) { /* the newest are last */
        if (run->results[i].at_ms <= run->now_ms - span_ms) break;
        sum.calls++;
        sum.errors += run->results[i].bad;
        sum.slow += run->results[i].slow;
    }
    return sum;
}

/* The buckets hold at least the window less one bucket, and at most the window. */
static void check_window(const Run *run)
{
    int64_t length = run->policy.window_ms / BREAKER_BUCKETS;
    BreakerCounts counts = breaker_counts(&run->breaker, &run->policy, run->now_ms);
    BreakerCounts least = recount(run, length * (BREAKER_BUCKETS - 1));
    BreakerCounts most = recount(run, length * BREAKER_BUCKETS);
    MUST(counts.calls >= least.calls && counts.calls <= most.calls);
    MUST(counts.errors >= least.errors && counts.errors <= most.errors);
    MUST(counts.slow >= least.slow && counts.slow <= most.slow);
}

static size_t probes_recent(const Run *run)
{
    size_t n = 0;
    for (size_t i = 0; i < run->calls_n; i++)
        n += run->calls[i].permit.probe && run->calls[i].permit.epoch == run->breaker.epoch;
    return n;
}

static void begin(Run *run)
{
    if (run->calls_n == CALLS_MAX) return;
    Breaker before = run->breaker;
    bool would = breaker_would(&before, &run->policy, run->now_ms);
    int64_t next_ms = breaker_next_ms(&before, &run->policy, run->now_ms);
    bool late = run->now_ms - before.probed_at_ms >= run->policy.slow_ms;
    Call call = { .started_ms = run->now_ms };
    bool yes = breaker_ask(&run->breaker, &run->policy, run->now_ms, &call.permit);
    MUST(yes == would && yes == (next_ms <= run->now_ms));
    if (before.state == BREAKER_CLOSED) MUST(yes && !call.permit.probe);
    if (before.state == BREAKER_OPEN) MUST(yes == (run->now_ms >= before.until_ms));
    if (!yes) return;
    bool broken = run->now_ms < run->bad_until_ms;
    call.result = random_range(&run->random, 0, 19) == 0                ? BREAKER_UNTOLD
                  : random_range(&run->random, 0, 9) < (broken ? 9 : 1) ? BREAKER_BAD
                                                                        : BREAKER_GOOD;
    call.ends_ms = run->now_ms + random_range(&run->random, 0, 2 * run->policy.slow_ms);
    run->calls[run->calls_n++] = call;
    if (call.permit.probe && !late) MUST(probes_recent(run) <= (size_t)run->policy.probes);
}

static bool justified(const Run *run)
{
    int64_t length = run->policy.window_ms / BREAKER_BUCKETS;
    for (int64_t n = BREAKER_BUCKETS - 1; n <= BREAKER_BUCKETS; n++) {
        BreakerCounts c = recount(run, length * n);
        if (c.calls < run->policy.calls_min) continue;
        if (run->policy.error_percent || run->policy.slow_percent) return true;
    }
    return false;
}

static void end(Run *run, size_t i)
{
    Call call = run->calls[i];
    run->calls[i] = run->calls[--run->calls_n];
    Breaker before = run->breaker;
    int64_t took_ms = run->now_ms - call.started_ms;
    bool slow = run->policy.slow_percent > 0 && took_ms >= run->policy.slow_ms;
    bool fresh = call.permit.epoch == before.epoch;
    if (fresh && before.state == BREAKER_CLOSED && call.result != BREAKER_UNTOLD)
        run->results[run->results_n++] = (Result){ run->now_ms, call.result == BREAKER_BAD, slow };
    breaker_done(&run->breaker, &run->policy, call.permit, call.result, took_ms, run->now_ms,
                 random_next(&run->random));
    BreakerState after = run->breaker.state;
    if (!fresh || call.result == BREAKER_UNTOLD) MUST(after == before.state);
    if (after == before.state) return;
    if (before.state == BREAKER_CLOSED) MUST(justified(run));
    if (after == BREAKER_OPEN) {
        int64_t open_ms = run->breaker.until_ms - run->now_ms;
        MUST(open_ms >= run->policy.open_ms / 2 && open_ms <= run->policy.open_max_ms);
    }
    if (before.state == BREAKER_HALF_OPEN)
        MUST((after == BREAKER_CLOSED) == (call.result == BREAKER_GOOD && !slow));
    run->results_n = 0;
}

static void end_due(Run *run)
{
    for (size_t i = run->calls_n; i-- > 0;)
        if (run->calls[i].ends_ms <= run->now_ms) end(run, i);
}

/* Once the other side is well, steady demand closes it, whatever happened before. */
static void check_heals(Run *run)
{
    for (size_t i = run->calls_n; i-- > 0;) end(run, i);
    int64_t until_ms = run->now_ms + run->policy.open_max_ms +
                       2 * (run->policy.probes + 1) * (run->policy.slow_ms + 1);
    for (; run->now_ms <= until_ms && run->breaker.state != BREAKER_CLOSED;) {
        BreakerPermit permit;
        run->now_ms = MAX(run->now_ms, breaker_next_ms(&run->breaker, &run->policy, run->now_ms));
        MUST(breaker_ask(&run->breaker, &run->policy, run->now_ms, &permit));
        breaker_done(&run->breaker, &run->policy, permit, BREAKER_GOOD, 0, run->now_ms, 0);
    }
    MUST(run->breaker.state == BREAKER_CLOSED);
}

static void run_seed(uint64_t seed, Result *results)
{
    Run fresh = { .seed = seed, .random = { seed }, .now_ms = 1000, .results = results };
    Run *run = &fresh;
    run->policy = random_policy(&run->random);
    breaker_init(&run->breaker, run->now_ms);
    int steps = random_range(&run->random, 0, 9) ? STEPS_SHORT : STEPS;
    for (run->step = 0; run->step < steps; run->step++) {
        run->now_ms += random_range(&run->random, 0, random_range(&run->random, 0, 9) ? 50 : 3000);
        if (random_range(&run->random, 0, 199) == 0)
            run->bad_until_ms = run->now_ms + random_range(&run->random, 0, 30000);
        end_due(run);
        check_window(run);
        begin(run);
    }
    check_heals(run);
}

static void test_runs(void **state)
{
    (void)state;
    Result *results = calloc(STEPS + CALLS_MAX, sizeof *results);
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) run_seed(seed, results);
    print_message("%d seeds\n", (int)seed_n);
    free(results);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_runs) };
    if (argc > 1) {
        seed_first = strtoull(argv[1], NULL, 10);
        seed_n = 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
