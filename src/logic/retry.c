#include "logic/retry.h"

int64_t retry_ceiling_ms(const RetryPolicy *policy, int64_t failures)
{
    assert(policy->initial_ms >= 0 && policy->max_ms >= 0);
    assert(policy->factor_milli >= RETRY_FACTOR_ONE && failures >= 1);
    __int128 wait = policy->initial_ms;
    for (int64_t i = 1; i < failures && wait < policy->max_ms; i++) {
        __int128 next = wait * policy->factor_milli / RETRY_FACTOR_ONE;
        if (next == wait) break; /* factor 1, or too small to grow by whole milliseconds */
        wait = next;
    }
    return (int64_t)MIN(wait, (__int128)policy->max_ms);
}

int64_t retry_delay_ms(const RetryPolicy *policy, int64_t failures, uint64_t random,
                       int64_t retry_after_ms)
{
    int64_t ceiling = retry_ceiling_ms(policy, failures);
    unsigned __int128 wide = (unsigned __int128)random * ((uint64_t)ceiling + 1);
    int64_t delay = (int64_t)(wide >> 64);
    assert(delay >= 0 && delay <= ceiling);
    return MAX(delay, MIN(retry_after_ms, RETRY_AFTER_MAX_MS));
}

bool retry_status_may(int status)
{
    return status == 408 || status == 409 || status == 429 || status >= 500;
}

void retry_budget_earn(RetryBudget *budget)
{
    assert(budget->earn_milli >= 0 && budget->milli_max >= 0);
    budget->milli = MIN(budget->milli + budget->earn_milli, budget->milli_max);
}

bool retry_budget_spend(RetryBudget *budget)
{
    bool enough = budget->milli >= RETRY_BUDGET_ONE;
    if (enough) budget->milli -= RETRY_BUDGET_ONE;
    budget->spent += enough;
    budget->exhausted += !enough;
    return enough;
}
