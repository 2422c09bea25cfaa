/* tests/vectors/rollout.json: the numbers that rollout code must reproduce. Read once, kept. */
#ifndef GANTRY_TESTS_VECTORS_H
#define GANTRY_TESTS_VECTORS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/json.h"

#define VECTORS_BYTES_MAX (1 << 20)

/* A group by its path: vectors("engine", "fixed40"), NULL-terminated by the macro. */
#define vectors(...) vectors_at((const char *const[]){ __VA_ARGS__, NULL })

static inline const Json *vectors_root(void)
{
    static Arena arena;
    static const Json *root;
    static char text[VECTORS_BYTES_MAX];
    if (root) return root;
    FILE *f = fopen(VECTORS_DIR "/rollout.json", "r");
    size_t n = f ? fread(text, 1, sizeof(text), f) : 0;
    if (f) fclose(f);
    arena_init(&arena, 32 * VECTORS_BYTES_MAX);
    if (n == 0 || json_parse(&arena, str_make(text, n), NULL, &root, NULL) != 0) {
        fprintf(stderr, "cannot read " VECTORS_DIR "/rollout.json\n");
        abort();
    }
    return root;
}

static inline const Json *vectors_at(const char *const *path)
{
    const Json *v = vectors_root();
    for (; *path; path++) v = json_get(v, *path);
    if (!v) abort(); /* a test that reads nothing would pass */
    return v;
}

static inline double vectors_f64(const Json *v, const char *key)
{
    double x = json_f64_or(json_get(v, key), NAN);
    if (isnan(x)) {
        fprintf(stderr, "vectors: no number %s\n", key);
        abort();
    }
    return x;
}

/* The generator of the "lcg" streams. */
typedef struct {
    uint64_t x;
} Lcg;

static inline double lcg_next(Lcg *lcg)
{
    lcg->x = lcg->x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(lcg->x >> 11) * 0x1p-53;
}

/* Fails unless got is within tolerance of want; NaN never is. */
#define assert_near(got, want, tolerance) \
    assert_near_at((got), (want), (tolerance), #got, __FILE__, __LINE__)
static inline void assert_near_at(double got, double want, double tolerance, const char *what,
                                  const char *file, int line)
{
    if (fabs(got - want) <= tolerance) return;
    fprintf(stderr, "%s:%d: %s is %.15g, not %.15g\n", file, line, what, got, want);
    _fail(file, line);
}

#endif
