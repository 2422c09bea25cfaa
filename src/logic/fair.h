/* Fairness: who of several has used least lately.
 *
 * Use is counted in milliseconds of slots and halves every FAIR_HALF_LIFE_MS. Whoever has used
 * least comes first: so those that always have work get equal parts, and one that was quiet goes
 * before one that floods until it has used as much. Nobody starves: who is not served uses nothing,
 * and comes to have used least.
 *
 * A table of fixed size. When the places of a key are taken, the one that has used least is
 * forgotten, which is as if it had used nothing. Pure; whoever holds it guards it. Starts zeroed.
 */
#ifndef GANTRY_LOGIC_FAIR_H
#define GANTRY_LOGIC_FAIR_H

#include "base/str.h"

#define FAIR_HALF_LIFE_MS 60000
#define FAIR_SETS 512
#define FAIR_WAYS 8

typedef struct {
    uint64_t key; /* 0: free */
    double used_ms;
    int64_t at_ms; /* when that was so */
} FairEntry;

typedef struct {
    FairEntry entries[FAIR_SETS][FAIR_WAYS];
    uint64_t forgotten;
} Fair;

/* The key of a name, never 0. Two names with one key share what they use. */
uint64_t fair_key(Str name);
uint64_t fair_key_pair(Str a, Str b);

/* What it has used, as of now. Time that runs backwards counts as no time. */
double fair_used(const Fair *fair, uint64_t key, int64_t now_ms);
void fair_charge(Fair *fair, uint64_t key, double cost_ms, int64_t now_ms);

/* How long tasks of a kind take: a mean in which the last ones count most. Kinds that were never
 * seen take what all took. Table as above. */
typedef struct {
    FairEntry entries[FAIR_SETS][FAIR_WAYS]; /* used_ms: the mean */
    double all_ms;                           /* of all kinds; 0: nothing is known */
} FairCosts;

#define FAIR_COST_FIRST_MS 1000 /* while nothing is known */

double fair_cost(const FairCosts *costs, uint64_t kind);
void fair_cost_seen(FairCosts *costs, uint64_t kind, int64_t took_ms, int64_t now_ms);

#endif
