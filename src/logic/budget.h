/* Budgets: limits on what many tasks spend together in a day or a month, in USD or tokens.
 *
 * A rule limits a scope: everything, an agent, a tenant or a user. Spend counts in the window (the
 * day or month) in which its call was reserved. Workers spend from slices: amounts that the control
 * plane has durably set aside for them. All counters of a slice only grow, and messages carry them
 * whole, so that a lost, repeated or late message does no harm.
 *
 * Invariant, at every grant: settled + outstanding of all slices <= limit, where
 * outstanding = granted - returned - settled. What is settled refuses; what is only set aside makes
 * callers wait. A worker that is lost has its slices counted as settled until it is known better.
 *
 * Pure; a struct belongs to whoever holds it.
 */
#ifndef GANTRY_LOGIC_BUDGET_H
#define GANTRY_LOGIC_BUDGET_H

#include "logic/cap.h"
#include "logic/lane.h"

/* --- scopes ----------------------------------------------------------------------------------- */

typedef enum { BUDGET_ALL, BUDGET_AGENT, BUDGET_TENANT, BUDGET_USER, BUDGET_KIND_N_ } BudgetKind;
typedef enum { BUDGET_DAY, BUDGET_MONTH, BUDGET_PERIOD_N_ } BudgetPeriod;
typedef enum { BUDGET_USD, BUDGET_TOKENS, BUDGET_UNIT_N_ } BudgetUnit;

typedef struct {
    BudgetKind kind;
    BudgetPeriod period;
    BudgetUnit unit; /* nano-USD or tokens */
    Str key;         /* the agent, tenant or user; "*": each that has no rule of its own; empty for
                        BUDGET_ALL */
} BudgetScope;

#define BUDGET_KEY_BYTES_MAX 255
#define BUDGET_SCOPE_TEXT_MAX (BUDGET_KEY_BYTES_MAX + 32)
#define BUDGET_SCOPES_MAX (BUDGET_KIND_N_ * BUDGET_PERIOD_N_ * BUDGET_UNIT_N_) /* of one call */

/* "day", "month-tokens", "agent:support:day", "user:*:day-tokens": NUL-terminated into out. The key
 * may hold anything, also colons. Returns out. */
char *budget_scope_text(const BudgetScope *scope, char out[BUDGET_SCOPE_TEXT_MAX]);

/* The reverse; the key borrows from text. Returns 0 or -EINVAL with diag. */
MUST_CHECK int budget_scope_from(Str text, BudgetScope *ret);

/* By kind, period, unit, key: <0, 0, >0. */
int budget_scope_cmp(const BudgetScope *a, const BudgetScope *b);

/* --- rules ------------------------------------------------------------------------------------ */

typedef struct {
    BudgetScope scope;
    int64_t limit; /* >= 0, nano-USD or tokens */
} BudgetRule;

/* Whose spend a call is. Empty: nobody's in particular. */
typedef struct {
    Str agent, tenant, user;
} BudgetOwner;

/* The scopes that limit the owner's calls, in order of budget_scope_cmp, with the owner's own key
 * in place of "*", and their limits. rules: sorted by budget_scope_cmp. Returns how many. */
size_t budget_rules_of(const BudgetRule *rules, size_t n, const BudgetOwner *owner,
                       BudgetRule ret[BUDGET_SCOPES_MAX]);

/* --- slices ----------------------------------------------------------------------------------- */

/* A worker's part of a scope's window, as the control plane or as the worker knows it. */
typedef struct {
    int64_t granted, returned, settled; /* totals; they never shrink */
} BudgetSlice;

/* Set aside and not spent; 0 when more was spent than was granted. */
int64_t budget_outstanding(const BudgetSlice *slice);

/* --- the control plane's side ----------------------------------------------------------------- */

/* What a call needs: the least that is of use, the least worth sending while waiting could bring
 * more, all it asks for; and what others behind it ask for in all. */
typedef struct {
    CapHold min, good, want, more;
} BudgetNeed;

/* A scope's window when a worker asks. */
typedef struct {
    BudgetUnit unit;
    int64_t limit;
    int64_t settled; /* spent, what lost workers hold included */
    int64_t leased;  /* outstanding with workers that live, the asker included */
    int64_t ahead;   /* asked for by those whose turn is before the asker's */
    int64_t unseen;  /* of leased: granted to the asker, who has not heard of it */
} BudgetAccount;

typedef enum { BUDGET_GRANT, BUDGET_WAIT, BUDGET_EXHAUSTED, BUDGET_VERDICT_N_ } BudgetVerdict;

/* Grants in every scope or in none. BUDGET_GRANT: ret_grants[i] >= 0 is to be added to the asker's
 * slice of scope i; with what was unseen it has at least need->min then, and everything it wants
 * unless the rest is scarce. BUDGET_EXHAUSTED: beside what is settled in scope *ret_by not even min
 * fits. BUDGET_WAIT: only what is set aside stands in the way, in scope *ret_by. */
BudgetVerdict budget_decide(const BudgetAccount *accounts, size_t n, const BudgetNeed *need,
                            int64_t ret_grants[], size_t *ret_by);

/* Who is served first: the smaller. A lane waits behind a better one for so long and no longer, so
 * that nobody starves. since_ms: when it began to wait. */
int64_t budget_turn_ms(Lane lane, int64_t since_ms);

/* --- the worker's side ------------------------------------------------------------------------ */

/* A slice with what is reserved of it by calls in flight. */
typedef struct {
    BudgetUnit unit;
    BudgetSlice slice; /* settled: by this worker's own count */
    int64_t reserved;
    int64_t limit, settled_all; /* of the scope's window, when the control plane last told */
} BudgetPurse;

/* What may be reserved or returned; negative after calls that cost more than was held. */
int64_t budget_free(const BudgetPurse *purse);

/* The most one call could reserve in all of them at once, never negative. */
CapHold budget_room(BudgetPurse *const *purses, size_t n);

/* Reserves in all or in none: false when it does not fit. */
MUST_CHECK bool budget_reserve(BudgetPurse *const *purses, size_t n, const CapHold *hold);

/* Ends a reservation with what was really used; nothing: released. Once a reservation. */
void budget_settle(BudgetPurse *const *purses, size_t n, const CapHold *hold,
                   const CapHold *actual);

/* Gives up what is free: slice.returned grows, and is to be told. Returns how much. */
int64_t budget_give_back(BudgetPurse *purse);

/* Takes in an answer; an older one changes nothing. */
void budget_hear(BudgetPurse *purse, int64_t granted, int64_t limit, int64_t settled_all);

/* Whether not even min fits beside what was told to be settled; *ret_by is the scope. */
bool budget_exhausted(BudgetPurse *const *purses, size_t n, const CapHold *min, size_t *ret_by);

/* Whether a call that needs so much may go ahead, when the last answer to its own question was
 * answer (BUDGET_WAIT: none yet). BUDGET_GRANT: *ret_room is what it may reserve, at least
 * need->min. BUDGET_WAIT: the control plane is to be asked, again. BUDGET_EXHAUSTED: *ret_by. */
BudgetVerdict budget_try(BudgetPurse *const *purses, size_t n, const BudgetNeed *need,
                         BudgetVerdict answer, CapHold *ret_room, size_t *ret_by);

/* The tightest settled share of the limits, in millionths; 0 without scopes. */
int64_t budget_settled_ppm(BudgetPurse *const *purses, size_t n);

/* --- what they tell each other ---------------------------------------------------------------- */

/* What a worker says of a slice it has. */
typedef struct {
    BudgetScope scope;
    int64_t start_ms; /* of the window */
    int64_t granted;  /* as far as it knows */
    int64_t returned;
} BudgetNote;

#define BUDGET_NOTES_MAX 1024 /* of one message */

typedef struct {
    bool asks; /* false: it only gives back; owner, lane, need are empty */
    BudgetOwner owner;
    Lane lane;
    int64_t waited_ms; /* so far */
    BudgetNeed need;
    const BudgetNote *notes; /* of the owner's scopes at least */
    size_t notes_n;
} BudgetAsk;

/* What it is told of a slice. */
typedef struct {
    BudgetScope scope;
    int64_t start_ms, end_ms; /* the window, calendar time */
    int64_t limit, settled;   /* 0 unless it applies */
    int64_t granted;
    int64_t returned, spent; /* of it, for a worker that has forgotten */
    bool applies;            /* to the owner's calls, now */
} BudgetTold;

typedef struct {
    BudgetVerdict verdict; /* BUDGET_GRANT when nothing was asked, or nothing applies */
    size_t by;             /* told[by] stands in the way */
    uint64_t epoch;        /* of the rules: when it moves, ask anew what applies */
    int64_t now_ms;        /* by the control plane's calendar */
    BudgetTold *told;      /* those that apply first, in order; then what else the worker has */
    size_t told_n;
} BudgetAnswer;

#endif
