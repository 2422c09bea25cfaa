#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/eprocess.h"
#include "vectors.h"

#define TOLERANCE 1e-9
#define LOG20 2.995732273553991

/* --- the streams of the vectors -------------------------------------------------------------- */

#define STREAM_MAX 2000
typedef struct {
    EUnit unit[STREAM_MAX];
    int n;
} Stream;

static double fourth(double u)
{
    return u * u * u * u;
}

static EUnit stream_unit(Str name, Lcg *lcg, int i)
{
    EUnit unit = { .pi = str_eq(name, STR("bern_equal_half")) ? 0.5 : 0.05 };
    bool ramp = str_eq(name, STR("power_ramp"));
    if (ramp && i >= 1000) unit.pi = i < 1500 ? 0.25 : 0.5;
    unit.canary = lcg_next(lcg) < unit.pi;
    double u = lcg_next(lcg);
    double bad = str_eq(name, STR("bern_2v6")) ? 0.06 : 0.5;
    if (str_eq(name, STR("bern_equal_half"))) bad = 0.02;
    if (ramp) unit.y = unit.canary ? u * u * u : fourth(u);
    else unit.y = u < (unit.canary ? bad : 0.02);
    return unit;
}

static const Json *stream_vector(const char *name)
{
    for (JsonIter it = json_iter(vectors("engine", "streams")); json_next(&it);)
        if (str_eq(json_str(json_get(it.value, "name")), str_of(name))) return it.value;
    fail_msg("no stream %s", name);
    return NULL;
}

static void stream_make(const Json *vector, Stream *ret)
{
    const Json *generate = json_get(vector, "generate");
    Str name = json_str(json_get(vector, "name"));
    Lcg lcg = { (uint64_t)json_i64_or(json_get(generate, "seed"), 0) };
    ret->n = (int)json_i64_or(json_get(generate, "n"), 0);
    assert_in_range(ret->n, 1, STREAM_MAX);
    for (int i = 0; i < ret->n; i++) ret->unit[i] = stream_unit(name, &lcg, i);
}

static ENull vector_null(const Json *v)
{
    bool rollback = str_eq(json_str(json_get(v, "side")), STR("rollback"));
    return (ENull){ rollback ? ESIDE_ROLLBACK : ESIDE_PROMOTE, vectors_f64(v, "rho"),
                    vectors_f64(v, "delta") };
}

/* The number that a table of checkpoints holds for this count, if any. */
static bool checkpoint(const Json *table, int at, double *ret)
{
    char key[16];
    snprintf(key, sizeof(key), "%d", at);
    const Json *v = json_get(table, key);
    if (v) *ret = json_f64_or(v, NAN);
    return v != NULL;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_generator(void **state)
{
    (void)state;
    Lcg lcg = { (uint64_t)json_i64_or(vectors("generator", "check", "seed"), 0) };
    for (JsonIter it = json_iter(vectors("generator", "check", "first")); json_next(&it);) {
        assert_near(lcg_next(&lcg), vectors_f64(it.value, "u"), 0);
        assert_int_equal(lcg.x, strtoull(json_str(json_get(it.value, "x")).ptr, NULL, 16));
    }
}

static void test_grid(void **state)
{
    (void)state;
    int k = 0;
    for (JsonIter it = json_iter(vectors("engine", "constants", "c")); json_next(&it); k++)
        assert_near(egrid_bet[k], json_f64_or(it.value, NAN), 1e-15);
    assert_int_equal(k, EGRID_N);
    assert_near(LOG20, vectors_f64(vectors("engine", "constants"), "log20"), 1e-15);
    for (k = 0; k < EGRID_N; k++) {
        assert_near(egrid_bet[k], 0.9 * pow(2, -0.75 * k), 1e-15);
        assert_near(egrid_ratio[k], exp(0.1 * pow(1.45, k)), 1e-13);
    }
}

static void test_fixed40(void **state)
{
    (void)state;
    int checks = 0;
    for (JsonIter it = json_iter(vectors("engine", "fixed40", "nulls")); json_next(&it);) {
        ENull null = vector_null(it.value);
        EPast past = { 0 };
        EValue v;
        evalue_init(&v);
        for (int i = 0; i < 40; i++) {
            EUnit unit = { .pi = i < 20 ? 0.25 : 0.5, .canary = i < 20 ? i % 4 == 3 : i % 2 == 1 };
            unit.y = (unit.canary ? 3 * i : 7 * i) % 10 / 10.0;
            ELook look = elook(&past, &unit);
            enull_observe(&v, &null, &look);
            epast_add(&past, &unit);
            double want;
            if (!checkpoint(json_get(it.value, "logE"), i, &want)) continue;
            assert_near(evalue_log(&v), want, TOLERANCE);
            checks++;
        }
    }
    assert_int_equal(checks, 16);
}

/* Runs one null over a stream and compares all that the vector says about it. */
static void check_stream_null(const Stream *stream, const Json *vector)
{
    ENull null = vector_null(vector);
    EPast past = { 0 };
    EValue v;
    evalue_init(&v);
    double sup = -INFINITY;
    int sup_at = 0, cross = 0;
    for (int i = 1; i <= stream->n; i++) {
        ELook look = elook(&past, &stream->unit[i - 1]);
        enull_observe(&v, &null, &look);
        epast_add(&past, &stream->unit[i - 1]);
        double log_e = evalue_log(&v), want;
        if (log_e > sup + 1e-12) sup = log_e, sup_at = i;
        if (!cross && log_e >= LOG20) cross = i;
        assert_near(log(evalue_mean(&v)), log_e, 1e-11);
        if (checkpoint(json_get(vector, "logE"), i, &want)) assert_near(log_e, want, TOLERANCE);
    }
    assert_near(sup, vectors_f64(vector, "supLogE"), TOLERANCE);
    assert_int_equal(sup_at, json_i64_or(json_get(vector, "supAt"), -1));
    assert_int_equal(cross, json_i64_or(json_get(vector, "firstCross20"), 0));
}

static void check_counts(const Stream *stream, const Json *counts)
{
    EPast past = { 0 };
    for (int i = 1; i <= stream->n; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%d", i);
        epast_add(&past, &stream->unit[i - 1]);
        const Json *want = json_get(counts, key);
        if (!want) continue;
        assert_int_equal(past.n[0], json_i64_or(json_get(want, "n0"), -1));
        assert_int_equal(past.n[1], json_i64_or(json_get(want, "n1"), -1));
        assert_near(past.sum[0], vectors_f64(want, "sum0"), TOLERANCE);
        assert_near(past.sum[1], vectors_f64(want, "sum1"), TOLERANCE);
    }
}

static void test_streams(void **state)
{
    (void)state;
    static Stream stream;
    int nulls = 0;
    for (JsonIter it = json_iter(vectors("engine", "streams")); json_next(&it);) {
        stream_make(it.value, &stream);
        check_counts(&stream, json_get(it.value, "counts"));
        for (JsonIter n = json_iter(json_get(it.value, "nulls")); json_next(&n); nulls++)
            check_stream_null(&stream, n.value);
    }
    assert_int_equal(nulls, 13);
}

static void test_interval(void **state)
{
    (void)state;
    static Stream stream;
    static EInterval interval;
    for (JsonIter it = json_iter(vectors("engine", "interval")); json_next(&it);) {
        stream_make(stream_vector(json_str(json_get(it.value, "stream")).ptr), &stream);
        einterval_init(&interval, 1, vectors_f64(it.value, "delta"), 0.05);
        EPast past = { 0 };
        for (int i = 0; i < stream.n; i++) {
            ELook look = elook(&past, &stream.unit[i]);
            einterval_observe(&interval, &look);
            epast_add(&past, &stream.unit[i]);
        }
        int from, to;
        assert_true(einterval_read(&interval, &from, &to));
        assert_int_equal(from, json_i64_or(json_get(it.value, "keepFrom"), -99));
        assert_int_equal(to, json_i64_or(json_get(it.value, "keepTo"), -99));
    }
    einterval_init_ratios(&interval, 0.2, 0.05); /* from -80% to +80% */
    EPast past = { 0 };
    for (int i = 0; i < 20000; i++) { /* both cost the same, often */
        EUnit unit = { i % 2, 0.5, i % 3 ? 0.2 : 0.3 };
        ELook look = elook(&past, &unit);
        einterval_observe(&interval, &look);
        epast_add(&past, &unit);
    }
    int low, high;
    assert_true(einterval_read(&interval, &low, &high));
    assert_true(low <= 0 && low >= -5 && high >= 0 && high <= 5);
    einterval_init_ratios(&interval, 0.5, 0.05); /* no ratio is below nothing */
    assert_true(einterval_read(&interval, &low, &high));
    assert_int_equal(low, -20);
    einterval_init(&interval, 1, 0.05, 0.05);
    past = (EPast){ 0 };
    for (int i = 0; i < 2000; i++) { /* what was as good, and then is not */
        EUnit unit = { i % 2, 0.5, i < 1000 ? 0.2 : i % 2 };
        ELook look = elook(&past, &unit);
        einterval_observe(&interval, &look);
        epast_add(&past, &unit);
    }
    assert_false(einterval_read(&interval, &low, &high));
}

static void test_skip(void **state)
{
    (void)state;
    const Json *vector = vectors("engine", "skip");
    const Json *o = json_get(vector, "observation");
    EUnit unit = { json_i64_or(json_get(o, "A"), 0) == 1, vectors_f64(o, "pi"),
                   vectors_f64(o, "Y") };
    ENull null = vector_null(vector);
    EPast past = { 0 };
    EValue v;
    evalue_init(&v);
    ELook look = elook(&past, &unit);
    assert_near(enull_bound(&null, &look), vectors_f64(vector, "a"), TOLERANCE);
    enull_observe(&v, &null, &look);
    epast_add(&past, &unit);
    assert_near(evalue_log(&v), vectors_f64(vector, "logE"), 1e-15);
    assert_int_equal(past.n[1], 1);
    assert_near(past.sum[1], 0.3, 0);
}

static void test_combine(void **state)
{
    (void)state;
    const Json *vector = vectors("engine", "combine");
    double w[4], log_e[4];
    for (size_t i = 0; i < 4; i++) {
        w[i] = json_f64_or(json_at(json_get(vector, "weights"), i), NAN);
        log_e[i] = json_f64_or(json_at(json_get(vector, "logE"), i), NAN);
    }
    assert_near(evalues_log_sum(w, log_e, 4), vectors_f64(vector, "log"), TOLERANCE);
    assert_int_equal(evalues_log_sum(w, log_e, 4) >= LOG20,
                     json_bool(json_get(vector, "rollbackAt05"), true));
    assert_true(isinf(evalues_log_sum((double[]){ 0 }, log_e, 1)));
    double far[] = { 4000, 4000 }; /* no overflow on the way */
    assert_near(evalues_log_sum((double[]){ .5, .5 }, far, 2), 4000, TOLERANCE);
}

static void test_ratio(void **state)
{
    (void)state;
    static Stream stream;
    stream_make(stream_vector("bern_2v6"), &stream);
    for (JsonIter it = json_iter(vectors("ratio", "vectors")); json_next(&it);) {
        ESide side = str_eq(json_str(json_get(it.value, "side")), STR("rollback")) ? ESIDE_ROLLBACK
                                                                                   : ESIDE_PROMOTE;
        EValue v;
        evalue_init(&v);
        int events = 0, cross = 0;
        for (int i = 1; i <= stream.n; i++) {
            const EUnit *unit = &stream.unit[i - 1];
            if (unit->y == 1) {
                eratio_event(&v, side, vectors_f64(it.value, "r"), unit->canary, unit->pi);
                events++;
            }
            double want, log_e = evalue_log(&v);
            if (!cross && log_e >= LOG20) cross = i;
            if (checkpoint(json_get(it.value, "logE"), i, &want))
                assert_near(log_e, want, TOLERANCE);
        }
        assert_int_equal(events, json_i64_or(json_get(it.value, "events"), -1));
        assert_int_equal(cross, json_i64_or(json_get(it.value, "firstCross20"), 0));
    }
}

static void test_srm(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("srm", "vectors")); json_next(&it);) {
        Lcg lcg = { (uint64_t)json_i64_or(json_get(it.value, "seed"), 0) };
        double actual = vectors_f64(it.value, "actual"), planned = vectors_f64(it.value, "planned");
        Srm srm;
        srm_init(&srm);
        int canaries = 0, alarm = 0;
        for (int i = 1; i <= 2000; i++) {
            bool canary = lcg_next(&lcg) < actual;
            canaries += canary;
            srm_observe(&srm, canary, planned);
            if (srm.alarm && !alarm) alarm = i;
            char key[16];
            snprintf(key, sizeof(key), "%d", i);
            const Json *at = json_get(json_get(it.value, "checkpoints"), key);
            if (!at) continue;
            assert_int_equal(canaries, json_i64_or(json_get(at, "canary"), -1));
            assert_near(srm_log(&srm), vectors_f64(at, "logE"), TOLERANCE);
        }
        assert_int_equal(alarm, json_i64_or(json_get(it.value, "firstAlarm"), 0));
    }
}

/* Products far beyond a double, up and down and back, agree with a sum of logarithms. */
static void test_products_beyond_a_double(void **state)
{
    (void)state;
    EValue v;
    evalue_init(&v);
    double sum[EGRID_N] = { 0 };
    for (int i = 0; i < 9000; i++) {
        double share = i < 3000 ? -0.9 : 3.0; /* down to about e^-5000, then up to e^7000 */
        evalue_bet(&v, share, 1);
        for (int k = 0; k < EGRID_N; k++) sum[k] += log1p(egrid_bet[k] * share);
    }
    double got[EGRID_N];
    evalue_save(&v, got);
    for (int k = 0; k < EGRID_N; k++) assert_near(got[k], sum[k], 1e-7);
    assert_true(isinf(evalue_mean(&v)));
    assert_true(evalue_log(&v) > 2000 && isfinite(evalue_log(&v)));
}

static void test_saved_and_loaded(void **state)
{
    (void)state;
    const double log_p[EGRID_N] = { 0, -1, 2.5, -700, 900, -5000, 1e-9, -1e-9, 177, -178 };
    EValue v;
    evalue_load(&v, log_p);
    double got[EGRID_N];
    evalue_save(&v, got);
    for (int k = 0; k < EGRID_N; k++) assert_near(got[k], log_p[k], 1e-11);
    EValue fresh, again;
    evalue_init(&fresh);
    evalue_save(&fresh, got);
    evalue_load(&again, got);
    assert_memory_equal(&fresh, &again, sizeof(fresh));
}

/* x >= -a for every past, arm and harm, at the extremes too: so no factor goes below 0.1. */
static void test_bets_never_ruin(void **state)
{
    (void)state;
    Lcg lcg = { 99 };
    for (int run = 0; run < 3000; run++) {
        EPast past = { 0 };
        double pi = run % 3 == 0 ? 0.0001 : run % 3 == 1 ? 0.9999 : lcg_next(&lcg) * 0.98 + 0.01;
        ENull null = { run % 2 ? ESIDE_ROLLBACK : ESIDE_PROMOTE, lcg_next(&lcg) * 3,
                       lcg_next(&lcg) * 0.2 - 0.1 };
        for (int i = 0; i < 50; i++) {
            EUnit unit = { lcg_next(&lcg) < 0.5, pi, lcg_next(&lcg) };
            if (lcg_next(&lcg) < 0.6) unit.y = unit.y < 0.5 ? 0 : 1;
            ELook look = elook(&past, &unit);
            double a = enull_bound(&null, &look);
            double z = look.m1 - null.rho * look.m0 + look.canary - null.rho * look.control;
            double x = null.side == ESIDE_ROLLBACK ? z - null.delta : null.delta - z;
            assert_true(x >= -a - 1e-9);
            EValue v;
            evalue_init(&v);
            enull_observe(&v, &null, &look);
            for (int k = 0; k < EGRID_N; k++) assert_true(v.p[k] >= 0.0999);
            epast_add(&past, &unit);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generator),
        cmocka_unit_test(test_grid),
        cmocka_unit_test(test_fixed40),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_interval),
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_combine),
        cmocka_unit_test(test_ratio),
        cmocka_unit_test(test_srm),
        cmocka_unit_test(test_products_beyond_a_double),
        cmocka_unit_test(test_saved_and_loaded),
        cmocka_unit_test(test_bets_never_ruin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
