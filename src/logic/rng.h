/* Seeded random numbers for simulations: the same seed gives the same run everywhere. The state is
 * an argument, so this is as pure as the rest. Not for secrets.
 *
 * xoshiro256** (Blackman & Vigna, "Scrambled linear pseudorandom number generators", 2021), seeded
 * by splitmix64.
 */
#ifndef GANTRY_LOGIC_RNG_H
#define GANTRY_LOGIC_RNG_H

#include "base/common.h"

typedef struct {
    uint64_t s[4];
} Rng;

Rng rng_seeded(uint64_t seed);
uint64_t rng_next(Rng *rng);

/* In (0,1): never an end. */
double rng_uniform(Rng *rng);

double rng_normal(Rng *rng);                   /* mean 0, deviation 1 */
double rng_gamma(Rng *rng, double shape);      /* scale 1; shape > 0 */
double rng_beta(Rng *rng, double a, double b); /* a, b > 0 */
double rng_lognormal(Rng *rng, double mean, double sigma);

#endif
