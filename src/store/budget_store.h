/* Budgets: limits that operators have set, and the slices of windows that workers hold. Scopes are
 * texts (logic/budget.h). Functions run inside a store job and return 0 or -errno with diag, unless
 * they say more. */
#ifndef GANTRY_STORE_BUDGET_STORE_H
#define GANTRY_STORE_BUDGET_STORE_H

#include "codec/uuid.h"
#include "logic/budget.h"
#include "store/db.h"

#define BUDGET_LIMITS_MAX 10000

/* A limit set through the API. */
typedef struct {
    Str scope;
    int64_t limit;
    int64_t changed_at_ms;
} BudgetLimit;

MUST_CHECK int budget_limits_read(Db *db, Arena *arena, BudgetLimit **ret, size_t *ret_n);
MUST_CHECK int budget_limit_put(Db *db, const BudgetLimit *limit);
/* Returns 0, -ENOENT, -errno. */
MUST_CHECK int budget_limit_remove(Db *db, Str scope);

/* Which scopes of rules have their spend counted, and in which time zone ("zone NAME"), since when:
 * a rule that is new, or in another zone, finds its spend of the current window in what was spent
 * by the hour. */
MUST_CHECK int budget_counted(Db *db, Str scope, bool *ret);
MUST_CHECK int budget_counted_put(Db *db, Str scope, int64_t now_ms);
/* Forgets all but the scopes given (those of the rules there are). */
MUST_CHECK int budget_counted_keep(Db *db, const Str *scopes, size_t n);

/* What calls begun at or after start_ms have cost, summed by the key of the kind (empty for
 * BUDGET_ALL, where there is one row or none), in the order of keys. From the sums by the hour,
 * which outlive the calls: where the window begins within an hour, what is known to have been spent
 * before in that hour is taken off, so that it is never less than what was spent. */
typedef struct {
    BudgetKind kind;
    BudgetUnit unit;
    int64_t start_ms;
    Str key;   /* this one only; null: each that has one */
    Str after; /* keys behind this one; to read on */
    size_t max;
} BudgetSpentAsk;
typedef struct {
    Str key; /* in arena */
    int64_t spent;
} BudgetSpent;
MUST_CHECK int budget_spent_since(Db *db, const BudgetSpentAsk *ask, Arena *arena,
                                  BudgetSpent **ret, size_t *ret_n);

/* --- slices ----------------------------------------------------------------------------------- */

typedef struct {
    Str scope;
    int64_t start_ms;
    Uuid worker_id; /* zero: of nobody, spend that was there before the rule */
} BudgetSliceKey;

/* All zero when there is none. */
MUST_CHECK int budget_slice_get(Db *db, const BudgetSliceKey *key, BudgetSlice *ret);
/* Sets granted and returned; settled stays. */
MUST_CHECK int budget_slice_put(Db *db, const BudgetSliceKey *key, const BudgetSlice *slice);
/* Adds to settled; spent may be negative. */
MUST_CHECK int budget_slice_settle(Db *db, const BudgetSliceKey *key, int64_t spent);
/* The window's calls have cost spent: what workers' slices do not say of that is nobody's,
 * unless more is already. */
MUST_CHECK int budget_slice_found(Db *db, Str scope, int64_t start_ms, int64_t spent);

/* All slices of a window: settled, with what is outstanding with workers that are lost or gone; and
 * what is outstanding with those that live. */
MUST_CHECK int budget_account(Db *db, Str scope, int64_t start_ms, int64_t *ret_settled,
                              int64_t *ret_leased);

/* Workers that live and have something outstanding, at most *n. */
MUST_CHECK int budget_holders(Db *db, Str scope, int64_t start_ms, Uuid *ids, size_t *n);

/* The worker's slices with something outstanding, at most BUDGET_NOTES_MAX. */
typedef struct {
    Str scope;
    int64_t start_ms;
    BudgetSlice slice;
} BudgetSliceRow;
MUST_CHECK int budget_slices_of(Db *db, Uuid worker_id, Arena *arena, BudgetSliceRow **ret,
                                size_t *ret_n);

/* The worker holds nothing any more: what was outstanding is returned. */
MUST_CHECK int budget_slices_close(Db *db, Uuid worker_id);

/* Scopes with slices in windows that began at or after start_ms, at most max. */
MUST_CHECK int budget_scopes_since(Db *db, int64_t start_ms, size_t max, Arena *arena, Str **ret,
                                   size_t *ret_n);

/* Adds up in the row of nobody what workers that are lost or gone have settled, where nothing is
 * outstanding, or where the window (begun before ended_ms) is over; there what is outstanding
 * counts as settled. At most max slices; *ret_n: how many. No account changes. */
MUST_CHECK int budget_slices_fold(Db *db, int64_t ended_ms, int64_t max, int64_t *ret_n);

/* Deletes slices of windows that began before before_ms. */
MUST_CHECK int budget_slices_purge(Db *db, int64_t before_ms);

#endif
