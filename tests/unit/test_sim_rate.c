/* The rate limiter among random calls, in virtual time, beside a provider that counts exactly.
 * usage: test_sim_rate [SEED] replays one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "logic/rate.h"
#include "random.h"

/* Most runs are short: a fault that needs many of one kind shows in few of them too. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RUNS 1500
#else
#define RUNS 20000
#endif
#define CALLS_MAX 400
#define MODELS_MAX 3

static uint64_t seed_first = 1, seed_n = RUNS;

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "seed %" PRIu64 ", at %" PRId64 ": failed: %s (line %d)\n", run->seed, \
                    run->now_ms, #condition, __LINE__);                                            \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

typedef enum { COMING, WAITING, FLYING, ENDED, LEFT } CallState;

typedef struct {
    RateWaiter waiter;
    CallState state;
    size_t model;
    int64_t comes_ms, leaves_ms, sent_ms, arrives_ms, ends_ms;
    RateAmounts actual;
} Call;

typedef struct {
    uint64_t seed;
    Random random;
    int64_t now_ms, next_ms;
    Rate shared, models[MODELS_MAX];
    size_t models_n;
    RateQueue queue;
    Call *calls;
    size_t calls_n;
    bool exact; /* estimates are upper bounds */
} Run;

static RateAmounts random_limit(Random *r)
{
    RateAmounts limit = { 0 };
    if (random_range(r, 0, 2)) limit.v[RATE_REQUESTS] = random_range(r, 1, 60);
    if (random_range(r, 0, 2)) limit.v[RATE_TOKENS] = random_range(r, 100, 20000);
    if (random_range(r, 0, 5) == 0) limit.v[RATE_INPUT] = random_range(r, 100, 20000);
    if (random_range(r, 0, 5) == 0) limit.v[RATE_OUTPUT] = random_range(r, 100, 20000);
    return limit;
}

static int64_t random_concurrent(Random *r)
{
    return random_range(r, 0, 1) ? random_range(r, 1, 10) : 0;
}

static void call_make(Run *run, Call *call, int64_t comes_ms)
{
    Random *r = &run->random;
    int64_t input = random_range(r, 1, 400), output = random_range(r, 1, 400);
    *call = (Call){ .comes_ms = comes_ms,
                    .model = (size_t)random_range(r, 0, (int64_t)run->models_n - 1) };
    call->waiter.lane = (Lane)random_range(r, 0, LANE_N_ - 1);
    call->waiter.rates[0] = &run->shared;
    call->waiter.rates[1] = &run->models[call->model];
    call->waiter.rates_n = 2;
    call->waiter.need = rate_amounts(input, output);
    int64_t most = run->exact ? output : 3 * output;
    call->actual = rate_amounts(random_range(r, 0, input), random_range(r, 0, most));
    call->leaves_ms = random_range(r, 0, 3) ? INT64_MAX : comes_ms + random_range(r, 0, 120000);
}

static void run_make(Run *run)
{
    Random *r = &run->random;
    run->exact = random_range(r, 0, 3) != 0;
    run->models_n = (size_t)random_range(r, 1, MODELS_MAX);
    RateAmounts limit = random_limit(r);
    rate_init(&run->shared, &limit, random_concurrent(r));
    for (size_t i = 0; i < run->models_n; i++) {
        limit = random_limit(r);
        rate_init(&run->models[i], &limit, random_concurrent(r));
    }
    rate_queue_init(&run->queue, CALLS_MAX);
    run->calls_n = (size_t)random_range(r, 1, random_range(r, 0, 23) ? 20 : 120);
    int64_t at_ms = 1000000, gap_ms = random_range(r, 0, 5000);
    for (size_t i = 0; i < run->calls_n; i++) {
        at_ms += random_range(r, 0, gap_ms);
        call_make(run, &run->calls[i], at_ms);
    }
    run->now_ms = run->calls[0].comes_ms;
    run->next_ms = RATE_NEVER;
}

/* --- the provider, which counts what arrives -------------------------------------------------- */

/* What one minute holds, and the largest call in it. */
static int64_t provider_count(const Run *run, int model, RateUnit unit, int64_t from_ms,
                              int64_t *ret_largest)
{
    int64_t sum = 0;
    *ret_largest = 0;
    for (size_t i = 0; i < run->calls_n; i++) {
        const Call *call = &run->calls[i];
        bool counts = call->state == FLYING || call->state == ENDED;
        if (!counts || (model >= 0 && call->model != (size_t)model)) continue;
        if (call->arrives_ms < from_ms || call->arrives_ms >= from_ms + RATE_WINDOW_MS) continue;
        sum += call->actual.v[unit];
        *ret_largest = MAX(*ret_largest, call->actual.v[unit]);
    }
    return sum;
}

/* No minute that begins with an arrival holds more than the limit; a call larger than the limit is
 * alone in its minute. */
static void check_rate(const Run *run, const Rate *rate, int model)
{
    for (size_t i = 0; i < run->calls_n; i++) {
        const Call *call = &run->calls[i];
        if (call->state != ENDED || (model >= 0 && call->model != (size_t)model)) continue;
        for (RateUnit unit = 0; unit < RATE_N_; unit++) {
            int64_t limit = rate->limit.v[unit];
            if (limit == 0) continue;
            int64_t largest, n = provider_count(run, model, unit, call->arrives_ms, &largest);
            MUST(n <= MAX(limit, largest));
        }
    }
}

/* --- the run ---------------------------------------------------------------------------------- */

static void launch(Run *run, Call *call)
{
    MUST(call->state == WAITING);
    MUST(run->now_ms < call->leaves_ms);
    call->state = FLYING;
    call->sent_ms = run->now_ms;
    call->arrives_ms = run->now_ms + random_range(&run->random, 0, 400);
    call->ends_ms = call->arrives_ms + random_range(&run->random, 0, 40000);
    for (size_t i = 0; i < 2; i++) {
        const Rate *rate = call->waiter.rates[i];
        MUST(rate->concurrent_limit == 0 || rate->in_flight <= rate->concurrent_limit);
        for (RateUnit unit = 0; unit < RATE_N_ && run->exact; unit++) {
            int64_t limit = rate_limit(rate, unit);
            if (limit)
                MUST(rate_used(rate, unit, run->now_ms) <= MAX(limit, call->waiter.need.v[unit]));
        }
    }
}

static bool fits_now(const Run *run, const Call *call)
{
    for (size_t i = 0; i < 2; i++)
        if (rate_fits_at_ms(call->waiter.rates[i], &call->waiter.need, run->now_ms) > run->now_ms)
            return false;
    return true;
}

static bool shares_a_full_rate(const Run *run, const Call *a, const Call *b)
{
    for (size_t i = 0; i < 2; i++) {
        Rate *rate = a->waiter.rates[i];
        bool full = rate_fits_at_ms(rate, &a->waiter.need, run->now_ms) > run->now_ms;
        if (full && (i == 0 || rate == b->waiter.rates[1])) return true;
    }
    return false;
}

/* Who still waits does not fit, or one before it waits for the same. */
static void check_nobody_waits_in_vain(const Run *run)
{
    for (size_t i = 0; i < run->calls_n; i++) {
        const Call *call = &run->calls[i];
        if (call->state != WAITING || !fits_now(run, call)) continue;
        bool behind = false;
        for (size_t j = 0; j < run->calls_n && !behind; j++) {
            const Call *before = &run->calls[j];
            behind = before->state == WAITING && before != call &&
                     before->waiter.rank_ms <= call->waiter.rank_ms &&
                     shares_a_full_rate(run, before, call);
        }
        MUST(behind);
    }
}

static void admit_all(Run *run)
{
    List admitted;
    list_init(&admitted);
    rate_queue_admit(&run->queue, run->now_ms, &admitted, &run->next_ms);
    MUST(run->next_ms > run->now_ms);
    ListNode *node;
    while ((node = list_pop_front(&admitted)))
        launch(run, CONTAINER_OF(CONTAINER_OF(node, RateWaiter, node), Call, waiter));
    check_nobody_waits_in_vain(run);
}

static void call_step(Run *run, Call *call)
{
    if (call->state == COMING && call->comes_ms <= run->now_ms) {
        MUST(rate_queue_join(&run->queue, &call->waiter, run->now_ms));
        call->state = WAITING;
    }
    if (call->state == WAITING && call->leaves_ms <= run->now_ms) {
        rate_queue_leave(&run->queue, &call->waiter);
        call->state = LEFT;
    }
    if (call->state == FLYING && call->ends_ms <= run->now_ms) {
        rate_waiter_settle(&call->waiter, &call->actual, run->now_ms);
        call->state = ENDED;
    }
}

/* The next moment at which anything happens; INT64_MAX: it is all over. */
static int64_t next_event_ms(const Run *run)
{
    int64_t at_ms = run->next_ms;
    for (size_t i = 0; i < run->calls_n; i++) {
        const Call *call = &run->calls[i];
        if (call->state == COMING) at_ms = MIN(at_ms, call->comes_ms);
        if (call->state == WAITING) at_ms = MIN(at_ms, call->leaves_ms);
        if (call->state == FLYING) at_ms = MIN(at_ms, call->ends_ms);
    }
    return at_ms;
}

/* Nobody starves: whoever stays is served, in the order of lanes and arrival within its model. */
static void check_end(const Run *run)
{
    for (size_t i = 0; i < run->calls_n; i++) {
        const Call *call = &run->calls[i];
        MUST(call->state == ENDED || call->state == LEFT);
        if (call->state == LEFT) MUST(call->leaves_ms != INT64_MAX);
        for (size_t j = 0; j < run->calls_n; j++) {
            const Call *other = &run->calls[j];
            bool rivals = call->state == ENDED && other->state == ENDED &&
                          call->model == other->model &&
                          call->waiter.rank_ms < other->waiter.rank_ms &&
                          call->comes_ms <= other->sent_ms;
            if (rivals) MUST(call->sent_ms <= other->sent_ms);
        }
    }
    MUST(run->queue.n == 0 && run->shared.in_flight == 0 && run->shared.waiting == 0);
    for (int64_t lane = 0; lane < LANE_N_; lane++) MUST(run->queue.by_lane[lane] == 0);
}

static void run_seed(uint64_t seed, Call *calls)
{
    Run fresh = { .seed = seed, .random = { seed }, .calls = calls };
    Run *run = &fresh;
    run_make(run);
    for (int steps = 0; run->now_ms != INT64_MAX; steps++) {
        for (size_t i = 0; i < run->calls_n; i++) call_step(run, &run->calls[i]);
        admit_all(run);
        int64_t next_ms = next_event_ms(run);
        MUST(next_ms > run->now_ms && steps < 100000);
        if (next_ms == INT64_MAX) break;
        run->now_ms = next_ms;
    }
    check_end(run);
    if (!run->exact) return;
    check_rate(run, &run->shared, -1);
    for (size_t i = 0; i < run->models_n; i++) check_rate(run, &run->models[i], (int)i);
}

static void test_runs(void **state)
{
    (void)state;
    Call *calls = calloc(CALLS_MAX, sizeof *calls);
    for (uint64_t seed = seed_first; seed < seed_first + seed_n; seed++) run_seed(seed, calls);
    print_message("%d seeds\n", (int)seed_n);
    free(calls);
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
