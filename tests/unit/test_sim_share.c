/* Workers that share a limit, in virtual time: messages late or lost, workers and the control plane
 * killed and restarted, beside a provider that counts exactly. usage: test_sim_share [SEED] replays
 * one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "logic/rate.h"
#include "logic/share.h"
#include "random.h"

/* Most runs are short. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RUNS 300
#else
#define RUNS 4000
#endif
#define CALM_MS 150000
#define CALM_SHORT_MS 12000
#define WORKERS_MAX 5
#define LIVES_MAX 32 /* a restarted worker is another one */
#define CALLS_MAX 200
#define STEP_MS 100
#define ASK_EVERY_MS 1000
#define TTL_MS 5000

static uint64_t seed_first = 1, seed_n = RUNS;

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "seed %" PRIu64 ", at %" PRId64 ": failed: %s (line %d)\n", run->seed, \
                    run->now_ms, #condition, __LINE__);                                            \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

typedef enum { COMING, WAITING, FLYING, ENDED, KILLED } CallState;

typedef struct {
    RateWaiter waiter;
    CallState state;
    size_t worker;
    int64_t comes_ms, sent_ms, ends_ms, took, actual; /* tokens */
    bool known;  /* to the control plane, from the records that it began with */
    bool orphan; /* of a worker that died before the control plane, begun anew, had heard of it */
} Call;

typedef struct {
    bool alive, told; /* told: the control plane has heard of it since it began */
    size_t life;      /* index of its holders */
    Rate rate;
    RateQueue queue;
    int64_t asks_at_ms;
    bool answering; /* an answer is on its way */
    int64_t answer_at_ms, answer_until_ms;
    int64_t answer_tokens, answer_concurrent;
} Worker;

typedef struct {
    uint64_t seed;
    Random random;
    bool brief;
    int64_t now_ms, tokens_limit, concurrent_limit;
    size_t workers_n, lives_n;
    Worker workers[WORKERS_MAX];
    ShareHolder tokens[LIVES_MAX], concurrent[LIVES_MAX];
    Call *calls;
    size_t calls_n;
    bool quiet;         /* no more kills and losses: everything must come to an end */
    int64_t grow_at_ms; /* after a restart of the control plane nobody gets more before */
} Run;

static const ShareTerms token_terms = { TTL_MS, RATE_SPAN_MS };
static const ShareTerms concurrent_terms = { TTL_MS, 0 };

/* --- workers ---------------------------------------------------------------------------------- */

static void worker_begin(Run *run, Worker *w)
{
    RateAmounts limit = { .v = { [RATE_TOKENS] = run->tokens_limit } };
    *w = (Worker){ .alive = true, .life = run->lives_n++ };
    MUST(run->lives_n <= LIVES_MAX);
    rate_init(&w->rate, &limit, run->concurrent_limit);
    w->rate.shared = true;
    rate_queue_init(&w->queue, CALLS_MAX);
    w->asks_at_ms = run->now_ms + random_range(&run->random, 0, ASK_EVERY_MS);
}

/* As kill -9 does it: what was sent was sent, the rest comes again with the next life. */
static void worker_kill(Run *run, Worker *w)
{
    for (size_t i = 0; i < run->calls_n; i++) {
        Call *call = &run->calls[i];
        if (&run->workers[call->worker] != w) continue;
        if (!w->told && (call->state == FLYING || call->state == ENDED))
            call->orphan = !call->known;
        if (call->state == FLYING) call->state = KILLED;
        if (call->state == WAITING) call->state = COMING;
    }
    w->alive = false;
}

/* Who hears nothing for so long has lost its lease too: its calls end with its tasks, and it comes
 * again as another. */
static void lease_check(Run *run, Worker *w)
{
    int64_t until_ms = w->rate.share_until_ms;
    if (until_ms == 0 || run->now_ms < until_ms || run->lives_n == LIVES_MAX) return;
    worker_kill(run, w);
    worker_begin(run, w);
}

static ShareAsk ask_tokens(const Run *run, const Worker *w)
{
    bool valid = run->now_ms < w->rate.share_until_ms;
    ShareAsk ask = { .have = valid ? w->rate.share.v[RATE_TOKENS] : 0,
                     .used = rate_own(&w->rate, RATE_TOKENS, run->now_ms) };
    for (ListNode *node = w->queue.waiting.next; node != &w->queue.waiting; node = node->next) {
        const RateWaiter *waiter = CONTAINER_OF(node, RateWaiter, node);
        if (!ask.first) {
            ask.first = waiter->need.v[RATE_TOKENS];
            ask.first_late_ms = run->now_ms - waiter->rank_ms;
        }
        ask.want[waiter->lane] += waiter->need.v[RATE_TOKENS];
    }
    return ask;
}

static ShareAsk ask_concurrent(const Run *run, const Worker *w)
{
    bool valid = run->now_ms < w->rate.share_until_ms;
    ShareAsk ask = { .have = valid ? w->rate.concurrent_share : 0, .used = w->rate.in_flight };
    for (int lane = 0; lane < LANE_N_; lane++) ask.want[lane] = (int64_t)w->queue.by_lane[lane];
    ask.first = w->queue.n > 0;
    if (ask.first)
        ask.first_late_ms = run->now_ms -
                            CONTAINER_OF(w->queue.waiting.next, RateWaiter, node)->rank_ms;
    return ask;
}

/* --- the control plane ------------------------------------------------------------------------ */

static int64_t held_sum(const Run *run, const ShareHolder *holders, const ShareTerms *terms)
{
    int64_t sum = 0;
    for (size_t i = 0; i < run->lives_n; i++) sum += share_held(&holders[i], terms, run->now_ms);
    return sum;
}

/* As kill -9 does it to the control plane. The new one knows the calls that are recorded, as if one
 * worker had left that had made them all; what workers have, they tell; and until the last share of
 * before has run out nobody gets more. Of workers that died and were not heard of since, only what
 * was recorded before is known. */
static void plane_restart(Run *run)
{
    ShareHolder recorded = { .expires_ms = 0 };
    memset(run->tokens, 0, sizeof run->tokens);
    memset(run->concurrent, 0, sizeof run->concurrent);
    for (size_t i = 0; i < run->calls_n; i++) {
        Call *call = &run->calls[i];
        call->orphan |= call->state == KILLED;
        call->known = call->state == ENDED;
        if (call->state != ENDED || call->sent_ms <= run->now_ms - RATE_SPAN_MS) continue;
        recorded.held += call->actual;
        recorded.expires_ms = MAX(recorded.expires_ms, call->sent_ms);
    }
    for (size_t i = 0; i < run->workers_n; i++) run->workers[i].told = false;
    recorded.used = recorded.held;
    run->tokens[run->lives_n++] = recorded;
    run->grow_at_ms = run->now_ms + TTL_MS;
}

/* The request and its answer: either may be lost, the answer comes late. */
static void exchange(Run *run, Worker *w)
{
    bool lossy = !run->quiet;
    w->asks_at_ms = run->now_ms + ASK_EVERY_MS;
    ShareAsk tokens = ask_tokens(run, w), concurrent = ask_concurrent(run, w);
    if (lossy && random_range(&run->random, 0, 9) == 0) return;
    w->told = true;
    int64_t t = share_ask(run->tokens, run->lives_n, w->life, run->tokens_limit, &tokens,
                          &token_terms, run->now_ms >= run->grow_at_ms, run->now_ms);
    int64_t c = share_ask(run->concurrent, run->lives_n, w->life, run->concurrent_limit,
                          &concurrent, &concurrent_terms, run->now_ms >= run->grow_at_ms,
                          run->now_ms);
    /* after a restart calls count twice, as recorded and as their worker's, for a minute */
    bool twice = run->grow_at_ms && run->now_ms < run->grow_at_ms + RATE_SPAN_MS;
    MUST(twice || held_sum(run, run->tokens, &token_terms) <= run->tokens_limit);
    MUST(held_sum(run, run->concurrent, &concurrent_terms) <= run->concurrent_limit);
    if (lossy && random_range(&run->random, 0, 9) == 0) return;
    w->answering = true; /* one asks again only after the answer, or without it */
    w->answer_at_ms = run->now_ms + random_range(&run->random, 0, ASK_EVERY_MS - STEP_MS);
    w->answer_until_ms = run->now_ms + TTL_MS;
    w->answer_tokens = t;
    w->answer_concurrent = c;
}

static void take_answer(Run *run, Worker *w)
{
    if (!w->answering || w->answer_at_ms > run->now_ms) return;
    w->answering = false;
    w->rate.share.v[RATE_TOKENS] = w->answer_tokens;
    w->rate.concurrent_share = w->answer_concurrent;
    w->rate.share_until_ms = w->answer_until_ms;
}

/* --- calls ------------------------------------------------------------------------------------ */

static void launch(Run *run, Call *call)
{
    call->state = FLYING;
    call->sent_ms = run->now_ms;
    call->ends_ms = run->now_ms + random_range(&run->random, STEP_MS, 20000);
    call->took = call->waiter.need.v[RATE_TOKENS];
    call->actual = random_range(&run->random, 0, call->took);
}

static void calls_step(Run *run)
{
    for (size_t i = 0; i < run->calls_n; i++) {
        Call *call = &run->calls[i];
        Worker *w = &run->workers[call->worker];
        if (!w->alive) continue;
        if (call->state == FLYING && call->ends_ms <= run->now_ms) {
            RateAmounts actual = rate_amounts(call->actual, 0);
            rate_waiter_settle(&call->waiter, &actual, run->now_ms);
            call->state = ENDED;
        }
        if (call->state == COMING && call->comes_ms <= run->now_ms) {
            call->waiter.rates[0] = &w->rate;
            call->waiter.rates_n = 1;
            MUST(rate_queue_join(&w->queue, &call->waiter, run->now_ms));
            call->state = WAITING;
        }
    }
}

static void admit(Run *run, Worker *w)
{
    List admitted;
    ListNode *node;
    int64_t next_ms;
    list_init(&admitted);
    rate_queue_admit(&w->queue, run->now_ms, &admitted, &next_ms);
    while ((node = list_pop_front(&admitted)))
        launch(run, CONTAINER_OF(CONTAINER_OF(node, RateWaiter, node), Call, waiter));
}

/* What the provider sees. Killed calls count by their estimate: nobody knows better. Those that two
 * deaths left unknown come on top. */
static void check_provider(const Run *run)
{
    int64_t flying = 0, minute = 0, largest = 0;
    for (size_t i = 0; i < run->calls_n; i++) {
        const Call *call = &run->calls[i];
        flying += call->state == FLYING;
        if (call->state < FLYING || call->sent_ms <= run->now_ms - RATE_WINDOW_MS) continue;
        int64_t tokens = call->state == ENDED ? call->actual : call->took;
        minute += call->orphan ? 0 : tokens;
        largest = MAX(largest, tokens);
    }
    MUST(flying <= run->concurrent_limit);
    MUST(minute <= MAX(run->tokens_limit, largest));
}

/* --- a run ------------------------------------------------------------------------------------ */

static void run_make(Run *run)
{
    Random *r = &run->random;
    run->now_ms = 1000000;
    run->tokens_limit = random_range(r, 100, 5000);
    run->concurrent_limit = random_range(r, 1, 12);
    run->workers_n = (size_t)random_range(r, 1, WORKERS_MAX);
    for (size_t i = 0; i < run->workers_n; i++) worker_begin(run, &run->workers[i]);
    run->brief = random_range(r, 0, 31) != 0;
    run->calls_n = (size_t)random_range(r, 1, run->brief ? 4 : 40);
    int64_t come_ms = run->brief ? CALM_SHORT_MS : CALM_MS * 4 / 5;
    for (size_t i = 0; i < run->calls_n; i++) {
        Call *call = &run->calls[i];
        *call = (Call){ .worker = (size_t)random_range(r, 0, (int64_t)run->workers_n - 1),
                        .comes_ms = run->now_ms + random_range(r, 0, come_ms) };
        call->waiter.lane = (Lane)random_range(r, 0, LANE_N_ - 1);
        call->waiter.need = rate_amounts(random_range(r, 1, run->tokens_limit), 0);
    }
}

static void trouble(Run *run)
{
    for (size_t i = 0; i < run->workers_n; i++) {
        Worker *w = &run->workers[i];
        if (w->alive && run->lives_n < LIVES_MAX &&
            random_range(&run->random, 0, run->brief ? 99 : 999) == 0)
            worker_kill(run, w);
        else if (!w->alive && random_range(&run->random, 0, run->brief ? 19 : 99) == 0)
            worker_begin(run, w);
    }
}

static void plane_trouble(Run *run)
{
    bool room = run->lives_n < LIVES_MAX - WORKERS_MAX;
    if (room && random_range(&run->random, 0, run->brief ? 149 : 1499) == 0) plane_restart(run);
}

static void calm_down(Run *run)
{
    run->quiet = true;
    for (size_t i = 0; i < run->workers_n; i++)
        if (!run->workers[i].alive && run->lives_n < LIVES_MAX) worker_begin(run, &run->workers[i]);
}

static bool is_over(const Run *run)
{
    for (size_t i = 0; i < run->calls_n; i++)
        if (run->calls[i].state < ENDED && run->workers[run->calls[i].worker].alive) return false;
    return true;
}

static void run_seed(uint64_t seed, Call *calls)
{
    Run storage = { .seed = seed, .random = { seed }, .calls = calls };
    Run *run = &storage;
    run_make(run);
    int64_t calm_at_ms = run->now_ms + (run->brief ? CALM_SHORT_MS : CALM_MS),
            end_ms = calm_at_ms + 70 * INT64_C(90000);
    while (!run->quiet || !is_over(run)) {
        MUST(run->now_ms < end_ms); /* nobody starves */
        run->now_ms += STEP_MS;
        if (!run->quiet) trouble(run);
        if (!run->quiet) plane_trouble(run);
        if (!run->quiet && run->now_ms >= calm_at_ms) calm_down(run);
        calls_step(run);
        for (size_t i = 0; i < run->workers_n; i++) {
            Worker *w = &run->workers[i];
            if (!w->alive) continue;
            take_answer(run, w);
            lease_check(run, w);
            admit(run, w);
            if (w->asks_at_ms <= run->now_ms && !w->answering) exchange(run, w);
        }
        check_provider(run);
    }
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
