/* Pairs: a candidate run on the same input as production, or as another version of an evaluation
 * suite. Same grid of bets as logic/eprocess.h, so it may be looked at after every pair.
 *
 *   difference D = harm of the candidate - harm of production, in [-1,1]
 *     rollback, H0 E[D] <= delta:  x = D - delta, a = 1 + delta
 *     promote,  H0 E[D] >= delta:  x = delta - D, a = 1 - delta
 *   preference Y of a judge: loss 1, tie 1/2, win 0; H0 E[Y] <= 1/2: x = Y - 1/2, a = 1/2
 *
 * Pure; any thread; no allocation.
 */
#ifndef GANTRY_LOGIC_PAIR_H
#define GANTRY_LOGIC_PAIR_H

#include "logic/eprocess.h"

/* One pair; d in [-1,1], -1 < delta < 1. */
void pair_observe(EValue *v, ESide side, double delta, double d);
void preference_observe(EValue *v, double y);

/* The same with the ratio of a null: D = harm - rho * harm of production, both in [0,1]; rollback a
 * = rho + delta, promote a = 1 - delta: with a <= 0 there is nothing to learn, and nothing is. */
void pair_observe_null(EValue *v, const ENull *null, double harm, double production);

/* Probability of canary among judged units when all of the canary's and a random share s of the
 * control's are judged, 0 < s <= 1. */
double judge_pi(double pi, double s);

/* How often answers differ: the candidate from production, and production from itself run twice
 * (A/A), without which the first number means nothing. */
typedef struct {
    int64_t pairs, differ;
    int64_t self_pairs, self_differ;
    int64_t diverged; /* pairs whose candidate went another way at a stubbed tool: in no test */
} PairCounts;

void pair_counts_merge(PairCounts *into, const PairCounts *from);

/* Shares; 0 without pairs. */
double pair_differs(const PairCounts *counts);
double pair_self_noise(const PairCounts *counts);

#endif
