/* Seeded random numbers for property tests: the same seed gives the same run everywhere.
 * SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014). */
#ifndef GANTRY_TESTS_RANDOM_H
#define GANTRY_TESTS_RANDOM_H

#include "base/common.h"

typedef struct {
    uint64_t state;
} Random;

static inline uint64_t random_next(Random *r)
{
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* least..most, both included. */
static inline int64_t random_range(Random *r, int64_t least, int64_t most)
{
    assert(least <= most);
    return least + (int64_t)(random_next(r) % ((uint64_t)(most - least) + 1));
}

#endif
