#include "logic/fair.h"

#include <math.h>

#include "codec/hash.h"

#define COST_STEP 0.125 /* how far one task moves the mean */

uint64_t fair_key(Str name)
{
    uint64_t key = hash_xxh64(name);
    return key == 0 ? 1 : key;
}

uint64_t fair_key_pair(Str a, Str b)
{
    uint64_t key = fair_key(a) * UINT64_C(0x9e3779b97f4a7c15) + fair_key(b);
    return key == 0 ? 1 : key;
}

static double decayed(const FairEntry *entry, int64_t now_ms)
{
    int64_t past_ms = MAX(0, now_ms - entry->at_ms);
    return entry->used_ms * exp2(-(double)past_ms / FAIR_HALF_LIFE_MS);
}

static const FairEntry *find(const FairEntry set[FAIR_WAYS], uint64_t key)
{
    for (int i = 0; i < FAIR_WAYS; i++)
        if (set[i].key == key) return &set[i];
    return NULL;
}

static size_t set_of(uint64_t key)
{
    return (key >> 32) % FAIR_SETS;
}

double fair_used(const Fair *fair, uint64_t key, int64_t now_ms)
{
    const FairEntry *entry = find(fair->entries[set_of(key)], key);
    return entry ? decayed(entry, now_ms) : 0;
}

/* The place of a key, taken from another when all are. */
static FairEntry *place(Fair *fair, uint64_t key, int64_t now_ms)
{
    FairEntry *set = fair->entries[set_of(key)], *least = &set[0];
    for (int i = 0; i < FAIR_WAYS; i++) {
        if (set[i].key == key || set[i].key == 0) return &set[i];
        if (decayed(&set[i], now_ms) < decayed(least, now_ms)) least = &set[i];
    }
    fair->forgotten++;
    *least = (FairEntry){ 0 };
    return least;
}

void fair_charge(Fair *fair, uint64_t key, double cost_ms, int64_t now_ms)
{
    assert(key != 0 && cost_ms >= 0);
    FairEntry *entry = place(fair, key, now_ms);
    double used_ms = entry->key == 0 ? 0 : decayed(entry, now_ms);
    *entry = (FairEntry){ .key = key, .used_ms = used_ms + cost_ms, .at_ms = now_ms };
}

double fair_cost(const FairCosts *costs, uint64_t kind)
{
    const FairEntry *entry = find(costs->entries[set_of(kind)], kind);
    if (entry) return entry->used_ms;
    return costs->all_ms > 0 ? costs->all_ms : FAIR_COST_FIRST_MS;
}

static double moved(double mean_ms, double took_ms)
{
    return mean_ms + (took_ms - mean_ms) * COST_STEP;
}

void fair_cost_seen(FairCosts *costs, uint64_t kind, int64_t took_ms, int64_t now_ms)
{
    assert(kind != 0);
    double took = (double)MAX(took_ms, 1); /* a task that takes no time takes a slot all the same */
    FairEntry *set = costs->entries[set_of(kind)], *at = &set[0];
    for (int i = 0; i < FAIR_WAYS; i++) {
        if (set[i].key == kind || set[i].key == 0) {
            at = &set[i];
            break;
        }
        if (set[i].at_ms < at->at_ms) at = &set[i]; /* the one not seen for longest */
    }
    double mean = at->key == kind ? moved(at->used_ms, took) : took;
    *at = (FairEntry){ .key = kind, .used_ms = mean, .at_ms = now_ms };
    costs->all_ms = costs->all_ms > 0 ? moved(costs->all_ms, took) : took;
}
