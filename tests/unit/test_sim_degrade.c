/* The ladder beside budgets that are spent, raised, lowered and begun anew, over many seeds:
 *   - while money is only spent, nothing that was given up comes back;
 *   - a step always does at least what the thresholds ask for, and goes down no further;
 *   - when everything is there again, everything is as usual again;
 *   - what remains going up and down around a threshold by less than the margin changes nothing.
 * A seed that fails is printed; replay it with GANTRY_SEED or as argument. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "logic/degrade.h"
#include "random.h"

#define SEEDS 20000
#define STEPS 60

static uint64_t only_seed;

/* Two budgets apply, as day and month do. */
typedef struct {
    int64_t limit[2], settled[2];
} World;

static int64_t remaining(const World *w)
{
    return degrade_tighter(degrade_remaining_ppm(w->limit[0], w->settled[0]),
                           degrade_remaining_ppm(w->limit[1], w->settled[1]));
}

static DegradeConfig config_make(Random *random)
{
    DegradeConfig config = { .cache_at_ppm = random_range(random, 0, PPM_WHOLE - 1) };
    config.model_at_ppm = random_range(random, 0, config.cache_at_ppm);
    config.hold_at_ppm = random_range(random, 0, config.model_at_ppm);
    return config;
}

static void spend(World *w, Random *random)
{
    int64_t cost = random_range(random, 0, w->limit[0] / 10 + 1);
    w->settled[0] += cost;
    w->settled[1] += cost;
}

/* Something happens; returns whether money was only spent. */
static bool happen(World *w, Random *random)
{
    switch (random_range(random, 0, 9)) {
    case 0: w->settled[0] = 0; return false; /* a new day */
    case 1: w->settled[0] = w->settled[1] = 0; return false;
    case 2:
        w->limit[random_range(random, 0, 1)] = random_range(random, 1, INT64_C(1) << 40);
        return false;
    default: spend(w, random); return true;
    }
}

static bool run(uint64_t seed)
{
    Random random = { seed };
    DegradeConfig config = config_make(&random);
    World w = { .limit = { random_range(&random, 1, INT64_C(1) << 40),
                           random_range(&random, 1, INT64_C(1) << 45) } };
    DegradeStep step = DEGRADE_NONE;
    for (int i = 0; i < STEPS; i++) {
        bool only_spent = happen(&w, &random);
        int64_t left = remaining(&w);
        DegradeStep next = degrade_step(&config, step, left);
        if (only_spent && next < step) return false;
        if (next < degrade_step(&config, DEGRADE_NONE, left)) return false; /* too little is done */
        if (next > step && next != degrade_step(&config, DEGRADE_NONE, left)) return false;
        if (left == PPM_WHOLE && next != DEGRADE_NONE) return false;
        /* the same again changes nothing */
        if (degrade_step(&config, next, left) != next) return false;
        step = next;
    }
    return true;
}

static void test_seeds(void **state)
{
    (void)state;
    uint64_t first = only_seed ? only_seed : 1, last = only_seed ? only_seed : SEEDS;
    for (uint64_t seed = first; seed <= last; seed++)
        if (!run(seed)) fail_msg("seed %llu", (unsigned long long)seed);
}

/* One threshold, and what remains wanders around it by less than the margin: at most one change. */
static void test_no_flapping(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        Random random = { seed };
        DegradeConfig config = { .model_at_ppm = random_range(&random, 1000, 800000) };
        int64_t at = config.model_at_ppm, margin = MAX(at / 5, 10000);
        DegradeStep step = DEGRADE_NONE;
        int changes = 0;
        for (int i = 0; i < 100; i++) {
            int64_t low = MAX(at - margin, 0), high = MIN(at + margin, PPM_WHOLE - 1);
            DegradeStep next = degrade_step(&config, step, random_range(&random, low, high));
            changes += next != step;
            step = next;
        }
        if (changes > 1) fail_msg("seed %llu: %d changes", (unsigned long long)seed, changes);
    }
}

int main(int argc, char **argv)
{
    const char *seed = argc > 1 ? argv[1] : getenv("GANTRY_SEED");
    if (seed) only_seed = strtoull(seed, NULL, 10);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_seeds),
                                        cmocka_unit_test(test_no_flapping) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
