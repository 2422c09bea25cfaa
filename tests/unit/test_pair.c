#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/pair.h"
#include "logic/rng.h"
#include "vectors.h"

static void check_at(const Json *table, int i, const EValue *v)
{
    char key[16];
    snprintf(key, sizeof(key), "%d", i);
    const Json *want = json_get(table, key);
    if (want) assert_near(evalue_log(v), json_f64_or(want, NAN), 1e-9);
}

static void test_paired(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("shadow", "paired", "vectors")); json_next(&it);) {
        bool rollback = str_eq(json_str(json_get(it.value, "side")), STR("rollback"));
        EValue v;
        evalue_init(&v);
        for (int i = 0; i < 40; i++) {
            pair_observe(&v, rollback ? ESIDE_ROLLBACK : ESIDE_PROMOTE,
                         vectors_f64(it.value, "delta"), (7 * i % 11 - 5) / 10.0);
            check_at(json_get(it.value, "logE"), i, &v);
        }
    }
}

static void test_preference(void **state)
{
    (void)state;
    static const double y[] = { 1, .5, 0, .5, 1, 1, .5 };
    EValue v;
    evalue_init(&v);
    for (int i = 0; i < 40; i++) {
        preference_observe(&v, y[i % 7]);
        check_at(vectors("shadow", "preference", "logE"), i, &v);
    }
}

static void test_judge_sampling(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("shadow", "judgeSampling", "vectors")); json_next(&it);)
        assert_near(judge_pi(vectors_f64(it.value, "pi"), vectors_f64(it.value, "s")),
                    vectors_f64(it.value, "piPrime"), 1e-9);
}

static void test_counts(void **state)
{
    (void)state;
    PairCounts all = { 0 }, one = { 50, 19, 20, 7, 3 };
    assert_near(pair_differs(&all), 0, 0);
    assert_near(pair_self_noise(&all), 0, 0);
    pair_counts_merge(&all, &one);
    pair_counts_merge(&all, &one);
    assert_near(pair_differs(&all), 0.38, 1e-12);
    assert_near(pair_self_noise(&all), 0.35, 1e-12);
    assert_int_equal(all.diverged, 6);
}

/* --- how many pairs a decision takes --------------------------------------------------------- */

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static double draw_judged(Rng *rng, double loss, double win)
{
    double u = rng_uniform(rng);
    return u < loss ? 1 : u < loss + win ? 0 : 0.5;
}

/* The cases of the vectors, in their order; by name, so that a new one is not taken for another. */
static const char *const pair_cases[] = {
    "D ~ N(0,.15) clipped, promote delta=.02",
    "D ~ N(.03,.15) clipped, rollback delta=0",
    "judge loss .30 win .20 tie .50, H0 mean <= .5",
    "judge loss .25 win .25 tie .50, promote net loss .10",
};

static void pair_case(int which, EValue *v, Rng *rng)
{
    double d = fmax(-1, fmin(1, 0.15 * rng_normal(rng) + (which == 1 ? 0.03 : 0)));
    switch (which) {
    case 0: pair_observe(v, ESIDE_PROMOTE, 0.02, d); break;
    case 1: pair_observe(v, ESIDE_ROLLBACK, 0, d); break;
    case 2: preference_observe(v, draw_judged(rng, .30, .20)); break;
    case 3: pair_observe(v, ESIDE_PROMOTE, 0.10, 2 * draw_judged(rng, .25, .25) - 1); break;
    default: abort();
    }
}

#define RUNS 300
static void test_medians(void **state)
{
    (void)state;
    int which = 0;
    for (JsonIter it = json_iter(vectors("simulation", "shadowPairs", "vectors")); json_next(&it);
         which++) {
        int at[RUNS];
        assert_true(which < (int)ARRAY_N(pair_cases));
        assert_string_equal(json_str(json_get(it.value, "case")).ptr, pair_cases[which]);
        for (int run = 0; run < RUNS; run++) {
            Rng rng = rng_seeded((uint64_t)which << 32 | (uint64_t)run);
            EValue v;
            evalue_init(&v);
            for (at[run] = 0; at[run] < 20000 && evalue_mean(&v) < 20; at[run]++)
                pair_case(which, &v, &rng);
        }
        qsort(at, RUNS, sizeof(*at), compare_ints);
        size_t middle = RUNS / 2;
        double want = vectors_f64(it.value, "median");
        assert_near(at[middle], want, 0.25 * want);
    }
    assert_int_equal(which, 4);
}

/* Equal candidates looked at after each of many pairs: wrong in at most 5%. */
static void test_rarely_wrong(void **state)
{
    (void)state;
    int wrong[2] = { 0, 0 };
    for (uint64_t run = 0; run < 200; run++) {
        Rng rng = rng_seeded(UINT64_C(9) << 32 | run);
        EValue v[2];
        bool rejected[2] = { false, false };
        for (int side = 0; side < 2; side++) evalue_init(&v[side]);
        for (int i = 0; i < 3000; i++) {
            double d = fmax(-1, fmin(1, 0.15 * rng_normal(&rng)));
            for (int side = 0; side < 2; side++) {
                pair_observe(&v[side], (ESide)side, 0, d);
                rejected[side] |= evalue_mean(&v[side]) >= 20;
            }
        }
        for (int side = 0; side < 2; side++) wrong[side] += rejected[side];
    }
    assert_in_range(wrong[0], 0, 19);
    assert_in_range(wrong[1], 0, 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paired),         cmocka_unit_test(test_preference),
        cmocka_unit_test(test_judge_sampling), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_medians),        cmocka_unit_test(test_rarely_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
