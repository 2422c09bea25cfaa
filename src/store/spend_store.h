/* What was spent: sums of calls by the hour in which they began and by who and what they were for,
 * kept with every call that is recorded. Functions run inside a store job. */
#ifndef GANTRY_STORE_SPEND_STORE_H
#define GANTRY_STORE_SPEND_STORE_H

#include "store/call_store.h"

#define SPEND_HOUR_MS INT64_C(3600000)
#define SPEND_ROWS_MAX 1000

typedef enum {
    SPEND_BY_AGENT,
    SPEND_BY_VERSION,
    SPEND_BY_USER,
    SPEND_BY_TENANT,
    SPEND_BY_MODEL,
    SPEND_BY_PROVIDER,
    SPEND_BY_DAY, /* UTC, "2026-11-28" */
    SPEND_BY_N_
} SpendBy;
const char *spend_by_name(SpendBy by); /* "agent", ... */

typedef struct {
    Str key; /* empty: the tasks named none */
    int64_t calls;
    int64_t input_tokens, output_tokens, cached_tokens;
    int64_t cost_nusd;
    int64_t charged_tokens; /* what token budgets count */
    int64_t shadow_nusd,
        shadow_tokens; /* of cost_nusd and charged_tokens: no budget of the agent's */
} Spend;

/* Whose and of what a sum is. */
typedef struct {
    int64_t hour_ms; /* a multiple of SPEND_HOUR_MS */
    Str agent, version_id, user_id, tenant_id, model, provider;
} SpendKey;

/* Adds to the sum; its key is not looked at. Returns 0 or -errno. */
MUST_CHECK int spend_add(Db *db, const SpendKey *key, const Spend *sum);

/* Deletes the sums of hours before before_ms, at most of so many hours; *ret_n: how many sums. */
MUST_CHECK int spend_purge(Db *db, int64_t before_ms, int hours_max, int64_t *ret_n);

/* Sums of the calls that began in whole hours from from_ms on (rounded down to the hour), the most
 * spent first (days: the newest first), at most max rows; keys live in arena. *ret_total has them
 * all. What budgets count (from charged_tokens on) is left 0. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int spend_list(Db *db, SpendBy by, int64_t from_ms, size_t max, Arena *arena,
                          Spend **ret, size_t *ret_n, Spend *ret_total);

#endif
