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

/* The crashes that the attempts end with, and when the first of them ended. */
static size_t streak_of(const TripwireTail *tail, int64_t *ret_since_ms)
{
    size_t n = 0;
    for (size_t i = 0; i < tail->attempts_n; i++) {
        if (is_silent(tail->attempts[i])) continue;
        if (!is_crash(tail->attempts[i])) break;
        *ret_since_ms = n == 0 ? tail->ended_ms[i] : MIN(*ret_since_ms, tail->ended_ms[i]);
        n++;
    }
    return n;
}

static size_t crashes_wanted(const TripwirePlan *plan)
{
    return (size_t)MIN(MAX(plan->crashes, 0), TRIPWIRE_ATTEMPTS);
}

int64_t tripwire_crashes_since(const TripwirePlan *plan, const TripwireTail *canary)
{
    int64_t since_ms = INT64_MAX;
    size_t wanted = crashes_wanted(plan);
    return wanted > 0 && streak_of(canary, &since_ms) >= wanted ? since_ms : INT64_MAX;
}

static bool crashes_on(const TripwirePlan *plan, const TripwireTail *canary,
                       const TripwireTail *control, const TripwireMeanwhile *meanwhile)
{
    int64_t since_ms;
    size_t wanted = crashes_wanted(plan), crashes = streak_of(canary, &since_ms);
    if (wanted == 0 || crashes < wanted) return false;
    if (meanwhile->attempts >= TRIPWIRE_CONTROL_MIN)
        return 2 * meanwhile->crashes <= meanwhile->attempts;
    bool to_come = meanwhile->goes_on && control->attempts_n >= TRIPWIRE_CONTROL_MIN;
    return !to_come || crashes >= MIN(TRIPWIRE_PATIENCE * wanted, TRIPWIRE_ATTEMPTS);
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
                       const TripwireTail *control, const TripwireMeanwhile *meanwhile,
                       int64_t cost_cap_nusd)
{
    assert(cost_cap_nusd >= 0);
    if (runs_away(plan, canary, control, cost_cap_nusd)) return TRIPWIRE_BUDGET;
    if (breaks_out(plan, canary, control)) return TRIPWIRE_SANDBOX;
    return crashes_on(plan, canary, control, meanwhile) ? TRIPWIRE_CRASH_LOOP : TRIPWIRE_NONE;
}
