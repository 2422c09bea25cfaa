/* Accounts: what calls without a task are recorded under, one for each tenant, agent and user that
 * made some. Functions run inside a store job. */
#ifndef GANTRY_STORE_ACCOUNT_STORE_H
#define GANTRY_STORE_ACCOUNT_STORE_H

#include "codec/uuid.h"
#include "logic/budget.h"
#include "store/spend_store.h"
#include "store/task_store.h"

/* The texts may be empty: no agent, no user. */
typedef struct {
    Uuid id;
    Str tenant, agent, user;
    int64_t created_at_ms;
    int64_t used_at_ms; /* when the last call was recorded, or it was made */
    int64_t calls, input_tokens, output_tokens, cached_tokens, cost_nusd;
} Account;

#define ACCOUNT_LIST_MAX 1000

/* Positive outcomes; each function lists the ones it gives. */
enum { ACCOUNT_E_FULL = 1 };

/* The account of the owner. Returns 0, -ENOENT, -errno. */
MUST_CHECK int account_find(Db *db, const BudgetOwner *owner, Uuid *ret);

/* The account of the owner, made with id when there is none. Returns 0, ACCOUNT_E_FULL (there is
 * none, and its tenant has max others), -errno. */
MUST_CHECK int account_get(Db *db, const BudgetOwner *owner, Uuid id, int64_t max, int64_t now_ms,
                           Uuid *ret);

/* What its calls are recorded under: seq, which is negative, is their task_seq; no version, no
 * attempt. Texts live in arena. Returns 0, -ENOENT, -ENOMEM, -errno. */
MUST_CHECK int account_facts(Db *db, Uuid id, Arena *arena, TaskFacts *ret);

/* Adds calls that call_insert has just inserted, the newest of which began at used_at_ms; the key
 * of sum is not looked at. Returns 0, -ENOENT, -errno. */
MUST_CHECK int account_add(Db *db, int64_t seq, const Spend *sum, int64_t used_at_ms);

/* Takes back one that was lost and was charged so much. Returns 0, -ENOENT, -errno. */
MUST_CHECK int account_refund(Db *db, int64_t seq, int64_t cost_nusd);

/* Accounts, those used last first, at most max of them; tenant: of that one only, unless empty.
 * Texts live in arena. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int account_list(Db *db, Str tenant, size_t max, Arena *arena, Account **ret,
                            size_t *ret_n);

#endif
