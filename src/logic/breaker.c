#include "logic/breaker.h"

#define WARY_CALLS_MIN 3

#include <string.h>

#define TO(state) (1u << (state))

static const uint8_t breaker_may[BREAKER_N_] = {
    [BREAKER_CLOSED] = TO(BREAKER_OPEN),
    [BREAKER_OPEN] = TO(BREAKER_HALF_OPEN),
    [BREAKER_HALF_OPEN] = TO(BREAKER_OPEN) | TO(BREAKER_CLOSED),
};

const char *breaker_state_name(BreakerState state)
{
    static const char *const names[BREAKER_N_] = { "closed", "open", "half-open" };
    assert(state < BREAKER_N_);
    return names[state];
}

static bool percent_ok(int64_t percent)
{
    return percent >= 0 && percent <= 100;
}

bool breaker_policy_ok(const BreakerPolicy *p)
{
    return p->window_ms >= BREAKER_BUCKETS && p->calls_min >= 1 && percent_ok(p->error_percent) &&
           percent_ok(p->slow_percent) && p->slow_ms >= 1 && p->open_ms >= 1 &&
           p->open_max_ms >= p->open_ms && p->probes >= 1;
}

void breaker_init(Breaker *breaker, int64_t now_ms)
{
    *breaker = (Breaker){ .state = BREAKER_CLOSED, .since_ms = now_ms };
}

/* The only function that changes the state. */
static void breaker_move(Breaker *breaker, BreakerState to, int64_t now_ms)
{
    assert(breaker->state < BREAKER_N_ && to < BREAKER_N_);
    assert(breaker_may[breaker->state] & TO(to));
    breaker->state = to;
    breaker->epoch++;
    breaker->since_ms = now_ms;
    breaker->heard = false;
    breaker->probes_out = breaker->probes_ok = 0;
    memset(breaker->buckets, 0, sizeof breaker->buckets);
}

/* Half of the time for certain, the other half by chance. */
static int64_t open_time_ms(const Breaker *breaker, const BreakerPolicy *policy, uint64_t random)
{
    int64_t open_ms = policy->open_ms;
    for (int64_t i = 1; i < breaker->trips_in_row && open_ms < policy->open_max_ms; i++)
        open_ms = MIN(open_ms * 2, policy->open_max_ms);
    uint64_t by_chance = (uint64_t)open_ms / 2 + 1;
    return open_ms - (int64_t)(random % by_chance);
}

static void trip(Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms, uint64_t random)
{
    bool held = breaker->state == BREAKER_CLOSED &&
                now_ms - breaker->since_ms >= policy->open_max_ms;
    breaker->trips_in_row = held ? 1 : breaker->trips_in_row + 1;
    breaker->trips++;
    breaker_move(breaker, BREAKER_OPEN, now_ms);
    breaker->until_ms = now_ms + open_time_ms(breaker, policy, random);
}

/* --- the window ------------------------------------------------------------------------------- */

static int64_t bucket_of(const BreakerPolicy *policy, int64_t now_ms)
{
    return now_ms / (policy->window_ms / BREAKER_BUCKETS);
}

/* Buckets that now_ms has passed by are emptied for what comes. */
static void window_turn(Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms)
{
    int64_t no = bucket_of(policy, now_ms);
    int64_t passed = MIN(no - breaker->bucket_no, BREAKER_BUCKETS);
    for (int64_t i = 0; i < passed; i++)
        breaker->buckets[(no - i) % BREAKER_BUCKETS] = (BreakerCounts){ 0 };
    breaker->bucket_no = MAX(no, breaker->bucket_no);
}

BreakerCounts breaker_counts(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms)
{
    BreakerCounts sum = { 0 };
    int64_t first = bucket_of(policy, now_ms) - BREAKER_BUCKETS + 1;
    for (int64_t no = MAX(first, breaker->bucket_no - BREAKER_BUCKETS + 1);
         no <= breaker->bucket_no; no++) {
        if (no < 0) continue;
        const BreakerCounts *bucket = &breaker->buckets[no % BREAKER_BUCKETS];
        sum.calls += bucket->calls;
        sum.errors += bucket->errors;
        sum.slow += bucket->slow;
    }
    assert(sum.errors <= sum.calls && sum.slow <= sum.calls);
    return sum;
}

static bool too_many(int64_t part, int64_t whole, int64_t percent)
{
    return percent > 0 && part * 100 >= whole * percent;
}

static bool is_bad(const BreakerCounts *counts, const BreakerPolicy *policy)
{
    if (counts->calls < policy->calls_min) return false;
    return too_many(counts->errors, counts->calls, policy->error_percent) ||
           too_many(counts->slow, counts->calls, policy->slow_percent);
}

/* --- asking ----------------------------------------------------------------------------------- */

/* A probe that is out for too long holds up no other one: it may never report. */
static bool probe_is_free(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms)
{
    return breaker->probes_out < policy->probes ||
           now_ms - breaker->probed_at_ms >= policy->slow_ms;
}

bool breaker_would(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms)
{
    if (breaker->state == BREAKER_CLOSED) return true;
    if (breaker->state == BREAKER_OPEN) return now_ms >= breaker->until_ms;
    return probe_is_free(breaker, policy, now_ms);
}

bool breaker_ask(Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms, BreakerPermit *ret)
{
    assert(breaker_policy_ok(policy));
    if (!breaker_would(breaker, policy, now_ms)) {
        breaker->refused++;
        return false;
    }
    if (breaker->state == BREAKER_OPEN) breaker_move(breaker, BREAKER_HALF_OPEN, now_ms);
    bool probe = breaker->state == BREAKER_HALF_OPEN;
    if (probe) {
        breaker->probes_out++;
        breaker->probed_at_ms = now_ms;
    }
    *ret = (BreakerPermit){ .epoch = breaker->epoch, .probe = probe };
    return true;
}

int64_t breaker_next_ms(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms)
{
    if (breaker_would(breaker, policy, now_ms)) return now_ms;
    if (breaker->state == BREAKER_OPEN) return breaker->until_ms;
    return breaker->probed_at_ms + policy->slow_ms;
}

/* --- results ---------------------------------------------------------------------------------- */

static void probe_done(Breaker *breaker, const BreakerPolicy *policy, bool good, int64_t now_ms,
                       uint64_t random)
{
    if (!good) trip(breaker, policy, now_ms, random);
    else if (++breaker->probes_ok >= policy->probes) breaker_move(breaker, BREAKER_CLOSED, now_ms);
}

/* Since another was heard of: fewer calls are enough, of those that failed as many as ever. */
static bool is_warily_bad(Breaker *breaker, const BreakerPolicy *policy, bool good, int64_t now_ms)
{
    if (now_ms >= breaker->wary_until_ms) return false;
    breaker->wary_calls++;
    breaker->wary_errors += !good;
    return breaker->wary_calls >= MIN(policy->calls_min, WARY_CALLS_MIN) &&
           too_many(breaker->wary_errors, breaker->wary_calls, policy->error_percent);
}

static void count(Breaker *breaker, const BreakerPolicy *policy, bool good, bool slow,
                  int64_t now_ms, uint64_t random)
{
    window_turn(breaker, policy, now_ms);
    BreakerCounts *bucket = &breaker->buckets[breaker->bucket_no % BREAKER_BUCKETS];
    bucket->calls++;
    bucket->errors += !good;
    bucket->slow += slow;
    BreakerCounts counts = breaker_counts(breaker, policy, now_ms);
    bool wary = is_warily_bad(breaker, policy, good, now_ms);
    if (wary || is_bad(&counts, policy)) trip(breaker, policy, now_ms, random);
}

void breaker_done(Breaker *breaker, const BreakerPolicy *policy, BreakerPermit permit,
                  BreakerResult result, int64_t duration_ms, int64_t now_ms, uint64_t random)
{
    if (permit.epoch != breaker->epoch) return;
    assert(breaker->state != BREAKER_OPEN); /* nothing is permitted in that epoch */
    bool slow = policy->slow_percent > 0 && duration_ms >= policy->slow_ms;
    if (permit.probe) {
        assert(breaker->state == BREAKER_HALF_OPEN && breaker->probes_out > 0);
        breaker->probes_out--;
    }
    if (result == BREAKER_UNTOLD) return;
    bool good = result == BREAKER_GOOD;
    if (permit.probe) probe_done(breaker, policy, good && !slow, now_ms, random);
    else count(breaker, policy, good, slow, now_ms, random);
}

/* --- what others have seen -------------------------------------------------------------------- */

void breaker_hear(Breaker *breaker, const BreakerPolicy *policy, int64_t open_ms, int64_t now_ms)
{
    if (policy->error_percent == 0) return; /* errors never trip it */
    if (now_ms >= breaker->wary_until_ms) breaker->wary_calls = breaker->wary_errors = 0;
    breaker->wary_until_ms = now_ms + MIN(MAX(open_ms, 0), policy->open_max_ms);
    if (open_ms <= 0 || breaker->state != BREAKER_CLOSED) return;
    BreakerCounts counts = breaker_counts(breaker, policy, now_ms);
    if (counts.calls > counts.errors) return; /* it answers here */
    breaker_move(breaker, BREAKER_OPEN, now_ms);
    breaker->heard = true;
    breaker->until_ms = now_ms;
}

int64_t breaker_own_open_ms(const Breaker *breaker, int64_t now_ms)
{
    if (breaker->state != BREAKER_OPEN || breaker->heard) return 0;
    return MAX(breaker->until_ms - now_ms, 0);
}
