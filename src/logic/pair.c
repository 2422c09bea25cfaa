#include "logic/pair.h"

void pair_observe(EValue *v, ESide side, double delta, double d)
{
    assert(d >= -1 && d <= 1 && delta > -1 && delta < 1);
    if (side == ESIDE_ROLLBACK) evalue_bet(v, d - delta, 1 + delta);
    else evalue_bet(v, delta - d, 1 - delta);
}

void pair_observe_null(EValue *v, const ENull *null, double harm, double production)
{
    assert(harm >= 0 && harm <= 1 && production >= 0 && production <= 1 && null->rho >= 0);
    double d = harm - null->rho * production;
    if (null->side == ESIDE_ROLLBACK) evalue_bet(v, d - null->delta, null->rho + null->delta);
    else evalue_bet(v, null->delta - d, 1 - null->delta);
}

void preference_observe(EValue *v, double y)
{
    assert(y >= 0 && y <= 1);
    evalue_bet(v, y - 0.5, 0.5);
}

double judge_pi(double pi, double s)
{
    assert(pi > 0 && pi < 1 && s > 0 && s <= 1);
    return pi / (pi + s * (1 - pi));
}

void pair_counts_merge(PairCounts *into, const PairCounts *from)
{
    into->pairs += from->pairs;
    into->differ += from->differ;
    into->self_pairs += from->self_pairs;
    into->self_differ += from->self_differ;
    into->diverged += from->diverged;
}

static double share(int64_t part, int64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

double pair_differs(const PairCounts *counts)
{
    return share(counts->differ, counts->pairs);
}

double pair_self_noise(const PairCounts *counts)
{
    return share(counts->self_differ, counts->self_pairs);
}
