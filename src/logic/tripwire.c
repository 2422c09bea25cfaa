#include "logic/tripwire.h"

static size_t capped_n(const TripwireTail *tail)
{
    size_t n = 0;
    for (size_t i = 0; i < tail->tasks_n; i++) n += tail->capped[i];
    return n;
}

static bool runs_away(const TripwirePlan *plan, const TripwireTail *canary,
                      const TripwireTail *control, int64_t cost_cap_nusd)
{
    size_t dear = 0;
    if (plan->cost_factor <= 0) return false;
    int64_t most = cost_cap_nusd > INT64_MAX / plan->cost_factor
                       ? INT64_MAX
                       : cost_cap_nusd * plan->cost_factor;
    for (size_t i = 0; i < canary->tasks_n; i++) dear += canary->cost_nusd[i] > most;
    if (dear >= TRIPWIRE_RUNAWAYS) return true;
    return capped_n(canary) >= TRIPWIRE_RUNAWAYS && capped_n(control) == 0;
}

static bool is_crash(TaskOutcome outcome)
{
    return outcome == TASK_OUTCOME_FAILED_FINAL || outcome == TASK_OUTCOME_FAILED_RETRYABLE ||
           outcome == TASK_OUTCOME_TIMED_OUT || outcome == TASK_OUTCOME_LOST;
}

/* Given back or canceled: nothing is known of how it would have ended. */
static bool is_silent(TaskOutcome outcome)
{
    return outcome == TASK_OUTCOME_RELEASED || outcome == TASK_OUTCOME_CANCELED;
}

/* Crashes among the newest attempts that say anything, at most max of these. */
static size_t crashes_of(const TripwireTail *tail, size_t max, size_t *ret_n)
{
    size_t n = 0, crashes = 0;
    for (size_t i = 0; i < tail->attempts_n && n < max; i++) {
        if (is_silent(tail->attempts[i])) continue;
        n++;
        crashes += is_crash(tail->attempts[i]);
    }
    *ret_n = n;
    return crashes;
}

static bool crashes_on(const TripwirePlan *plan, const TripwireTail *canary,
                       const TripwireTail *control)
{
    size_t n, wanted = (size_t)MIN(MAX(plan->crashes, 0), TRIPWIRE_ATTEMPTS);
    if (wanted == 0 || crashes_of(canary, wanted, &n) < wanted) return false;
    size_t crashes = crashes_of(control, TRIPWIRE_ATTEMPTS, &n);
    return n < TRIPWIRE_CONTROL_MIN || 2 * crashes <= n;
}

static size_t limited_n(const TripwireTail *tail)
{
    size_t n = 0;
    for (size_t i = 0; i < tail->attempts_n; i++) n += tail->limited[i];
    return n;
}

static bool breaks_out(const TripwirePlan *plan, const TripwireTail *canary,
                       const TripwireTail *control)
{
    if (plan->limits <= 0) return false;
    return (int64_t)limited_n(canary) >= plan->limits && limited_n(control) == 0;
}

Tripwire tripwire_look(const TripwirePlan *plan, const TripwireTail *canary,
                       const TripwireTail *control, int64_t cost_cap_nusd)
{
    assert(cost_cap_nusd >= 0);
    if (runs_away(plan, canary, control, cost_cap_nusd)) return TRIPWIRE_BUDGET;
    if (breaks_out(plan, canary, control)) return TRIPWIRE_SANDBOX;
    return crashes_on(plan, canary, control) ? TRIPWIRE_CRASH_LOOP : TRIPWIRE_NONE;
}
