/* Ledger: budgets over many tasks, and the slices of them that workers hold (logic/budget.h).
 *
 * Rules come from the configuration; those set through the API go before them and survive restarts.
 * Spend is counted in the transaction that records its call, once a call id, in the window in which
 * the call began. A rule that is new counts what the calls recorded in its window have cost.
 *
 * As in queue.h: functions ending in _wait run on a fiber of any loop; diag has the text.
 */
#ifndef GANTRY_QUEUE_LEDGER_H
#define GANTRY_QUEUE_LEDGER_H

#include "queue/queue.h"

/* A budget as it stands now. */
typedef struct {
    BudgetScope scope; /* key "*": a rule for each; start to leased are 0 */
    int64_t limit;
    bool limited;             /* false: there is spend, but no rule any more */
    bool from_api;            /* the limit was set through the API */
    int64_t start_ms, end_ms; /* the window */
    int64_t settled;          /* spent, what lost workers hold included */
    int64_t leased;           /* set aside for workers: reserved, or free in their hands */
} Budget;

#define BUDGETS_LIST_MAX 2000

/* All rules, and the scopes with spend in the current windows, in order of budget_scope_cmp, at
 * most BUDGETS_LIST_MAX of each. Texts live in arena. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int queue_budgets_wait(Queue *queue, Arena *arena, Budget **ret, size_t *ret_n);

/* One of them. Returns 0, QUEUE_E_NO_BUDGET (no rule applies to the scope; *ret is filled in all
 * the same), -errno. */
MUST_CHECK int queue_budget_get_wait(Queue *queue, const BudgetScope *scope, Budget *ret);

/* Sets the limit; BUDGET_AS_CONFIGURED removes what was set before. Holds at once for grants, at
 * workers from their next heartbeat on. Returns 0, QUEUE_E_NO_BUDGET (nothing to remove),
 * QUEUE_E_FULL (BUDGET_LIMITS_MAX), -errno. */
#define BUDGET_AS_CONFIGURED (-1)
MUST_CHECK int queue_budget_set_wait(Queue *queue, const BudgetScope *scope, int64_t limit);

/* Takes back what the worker returns and, if it asks, grants, refuses, or waits until either can be
 * said, at most until deadline_ms (clock_mono_ms): then the verdict is BUDGET_WAIT. Askers are
 * served in order of budget_turn_ms. The answer lives in arena and in ask. Returns 0,
 * QUEUE_E_NO_WORKER, -ECANCELED, -ENOMEM, -errno. */
MUST_CHECK int queue_grants_wait(Queue *queue, Uuid worker_id, const BudgetAsk *ask,
                                 int64_t deadline_ms, Arena *arena, BudgetAnswer *ret);

/* What a worker's successor knows of it (it has found its list of holds): the holds whose calls
 * were never recorded are recorded as lost and charged, everything else set aside for it comes
 * back, and its tasks are given to others now. Returns 0 (also when that was said before),
 * QUEUE_E_NO_WORKER (worker_id, who says so, is unknown, lost or stopped), -errno. */
MUST_CHECK int queue_holds_wait(Queue *queue, Uuid worker_id, Uuid dead_id, const BudgetHold *holds,
                                size_t n);

typedef struct {
    uint64_t granted, waited,
        refused;     /* answers to workers; waited: it could not be said at once */
    uint64_t asking; /* waiting now */
    uint64_t looked; /* how often those who ask have looked whether it can be said */
    uint64_t woken;  /* of that, because something had changed */
    uint64_t proven; /* dead workers whose holds became known */
    uint64_t folded; /* slices of workers that are gone, added up */
    uint64_t purged; /* hourly sums of spend, deleted */
} LedgerStats;

/* Any thread; since start. */
void queue_ledger_stats(Queue *queue, LedgerStats *ret);

#endif
