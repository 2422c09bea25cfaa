/* Retry: how long to wait before the next attempt.
 *
 * Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS
 * Architecture Blog, 2015): a uniform draw from 0..min(max, initial * factor^(n-1)). What the other
 * side asked for (Retry-After) is the least that is waited.
 *
 * A budget keeps retries from multiplying the load of a provider that fails anyway: every call puts
 * a tenth of a retry into it, up to a small store, and every retry takes a whole one out.
 *
 * Pure; any thread.
 */
#ifndef GANTRY_LOGIC_RETRY_H
#define GANTRY_LOGIC_RETRY_H

#include "base/str.h"

#define RETRY_FACTOR_ONE 1000
#define RETRY_AFTER_MAX_MS 3600000 /* a longer Retry-After counts as this */

typedef struct {
    int64_t attempts_max;
    int64_t initial_ms;
    int64_t factor_milli; /* RETRY_FACTOR_ONE is 1.0 */
    int64_t max_ms;
} RetryPolicy;

/* 3 attempts, 1 s, factor 2, 5 min. */
#define RETRY_POLICY_DEFAULT \
    ((RetryPolicy){ .attempts_max = 3, .initial_ms = 1000, .factor_milli = 2000, .max_ms = 300000 })

/* Upper end of the wait after the n-th failure (n >= 1). */
int64_t retry_ceiling_ms(const RetryPolicy *policy, int64_t failures);

/* The wait after the n-th failure. random: 64 uniform bits. retry_after_ms: 0 when nothing was
 * asked; negative counts as 0. */
int64_t retry_delay_ms(const RetryPolicy *policy, int64_t failures, uint64_t random,
                       int64_t retry_after_ms);

/* Whether a call that got this HTTP status is worth another attempt: 408, 409, 429 and >= 500. */
bool retry_status_may(int status);

#define RETRY_BUDGET_ONE 1000
typedef struct {
    int64_t milli;      /* what is there */
    int64_t milli_max;  /* and can be */
    int64_t earn_milli; /* a call brings */
    uint64_t spent, exhausted;
} RetryBudget;

/* One retry in ten calls, ten at once. */
#define RETRY_BUDGET_DEFAULT \
    ((RetryBudget){ .milli = 10000, .milli_max = 10000, .earn_milli = 100 })

/* A call was made for the first time. */
void retry_budget_earn(RetryBudget *budget);
/* Whether it may be made again; takes that out, or counts that there was none. */
MUST_CHECK bool retry_budget_spend(RetryBudget *budget);

#endif
