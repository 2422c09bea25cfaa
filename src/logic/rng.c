#include "logic/rng.h"

#include <math.h>

static uint64_t split_mix(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

Rng rng_seeded(uint64_t seed)
{
    Rng rng;
    for (int i = 0; i < 4; i++) rng.s[i] = split_mix(&seed);
    return rng;
}

static uint64_t rotate_left(uint64_t x, unsigned by)
{
    return x << by | x >> (64 - by);
}

uint64_t rng_next(Rng *rng)
{
    uint64_t *s = rng->s, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

double rng_uniform(Rng *rng)
{
    return ((double)(rng_next(rng) >> 11) + 0.5) * 0x1p-53;
}

/* Box & Muller, the cosine half: one number a call keeps the state in the Rng alone. */
double rng_normal(Rng *rng)
{
    double radius = sqrt(-2 * log(rng_uniform(rng)));
    return radius * cos(2 * M_PI * rng_uniform(rng));
}

/* Marsaglia & Tsang, "A simple method for generating gamma variables" (2000). */
double rng_gamma(Rng *rng, double shape)
{
    assert(shape > 0);
    if (shape < 1) return rng_gamma(rng, shape + 1) * pow(rng_uniform(rng), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = rng_normal(rng), t = 1 + c * x;
        if (t <= 0) continue;
        double v = t * t * t;
        if (log(rng_uniform(rng)) < x * x / 2 + d - d * v + d * log(v)) return d * v;
    }
}

double rng_beta(Rng *rng, double a, double b)
{
    double x = rng_gamma(rng, a), y = rng_gamma(rng, b);
    return x / (x + y);
}

double rng_lognormal(Rng *rng, double mean, double sigma)
{
    return mean * exp(sigma * rng_normal(rng) - sigma * sigma / 2);
}
