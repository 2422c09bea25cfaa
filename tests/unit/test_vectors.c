/* That every vector has an owner, and those that no part of Gantry computes: the mixtures, bounds
 * and tests of confseq (Howard, Ramdas, McAuliffe, Sekhon), against which the engine was measured.
 * They are written here from their papers, arXiv 1810.08240 and 1906.09712, as comparators: whoever
 * puts one of them beside the engine finds it right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/special.h"
#include "vectors.h"

#define V_OPT 100
#define ALPHA 0.05

/* --- owners ----------------------------------------------------------------------------------- */

static void test_every_vector_has_an_owner(void **state)
{
    (void)state;
    static VectorsUnread nobody;
    vectors_unread(vectors_root(), &nobody);
    assert_int_equal(nobody.n, 0);
}

static void test_every_owner_reads_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(vector_owners); i++) {
        char path[512], line[256];
        bool includes = false;
        snprintf(path, sizeof(path), VECTORS_DIR "/../unit/test_%s.c", vector_owners[i].owner);
        FILE *f = fopen(path, "r");
        if (!f) fail_msg("no %s", path);
        while (f && fgets(line, sizeof(line), f))
            includes |= strstr(line, "#include \"vectors.h\"") ||
                        strstr(line, "#include \"rollout_protocol.h\"");
        if (f) fclose(f);
        if (!includes) fail_msg("%s does not include vectors.h", path);
    }
}

static void test_tolerance(void **state)
{
    (void)state;
    assert_near(vectors_tolerance(NULL), 1e-9, 0);
}

/* --- what the mixtures are made of ------------------------------------------------------------ */

static double log_gamma(double x)
{
    int sign;
    return lgamma_r(x, &sign);
}

/* Shares of the gamma function above and below x. */
static double gamma_above(double a, double x)
{
    return chi2_sf(2 * x, 2 * a);
}

static double gamma_below(double a, double x)
{
    return 1 - gamma_above(a, x);
}

static double log_beta(double a, double b)
{
    return log_gamma(a) + log_gamma(b) - log_gamma(a + b);
}

/* log of the integral of t^(a-1) (1-t)^(b-1) from 0 to x < 1, by the series in x after Gauss's
 * hypergeometric function: plain, and exact enough for x that is not next to 1. */
static double log_beta_part(double a, double b, double x)
{
    double term = 1, sum = 1;
    for (int n = 0; n < 100000 && term > 1e-18 * sum; n++) {
        term *= x * (a + b + n) / (a + 1 + n);
        sum += term;
    }
    return a * log(x) + b * log1p(-x) - log(a) + log(sum);
}

/* --- mixtures --------------------------------------------------------------------------------- */

typedef enum {
    NORMAL_TWO,
    NORMAL_ONE,
    GAMMA_EXPONENTIAL,
    GAMMA_POISSON,
    BETA_BINOMIAL_TWO,
    BETA_BINOMIAL_ONE,
    MIXTURES_N_,
} MixtureKind;

typedef struct {
    MixtureKind kind;
    double rho;
    double c;    /* gammas */
    double g, h; /* beta-binomial: what one observation deviates by, down and up, at most */
} Mixture;

static const char *const mixture_names[] = {
    [NORMAL_TWO] = "two-sided normal mixture",
    [NORMAL_ONE] = "one-sided normal mixture",
    [GAMMA_EXPONENTIAL] = "gamma-exponential mixture, c=2",
    [GAMMA_POISSON] = "gamma-Poisson mixture, c=2",
    [BETA_BINOMIAL_TWO] = "beta-binomial mixture g=.2 h=.8, two-sided",
    [BETA_BINOMIAL_ONE] = "beta-binomial mixture g=.2 h=.8, one-sided",
};

/* For which the boundary is lowest at v. */
static double best_rho(double v, double alpha)
{
    double l = 2 * log(1 / alpha);
    return v / (l + log1p(l));
}

static Mixture mixture_make(MixtureKind kind, double v_opt, double alpha, double g, double h)
{
    bool two_sided = kind == NORMAL_TWO || kind == BETA_BINOMIAL_TWO;
    Mixture m = { kind, best_rho(v_opt, two_sided ? alpha : 2 * alpha), 2, g, h };
    if (kind == BETA_BINOMIAL_TWO || kind == BETA_BINOMIAL_ONE)
        m.rho = fmax(m.rho - g * h, 1e-3 * g * h);
    return m;
}

static double log_gamma_mixture(const Mixture *m, double s, double v)
{
    bool poisson = m->kind == GAMMA_POISSON;
    double cc = m->c * m->c, k = m->rho / cc, at = (m->c * s + v) / cc, w = (v + m->rho) / cc;
    double front = k * log(k) - log_gamma(k) - log(poisson ? gamma_above(k, k) : gamma_below(k, k));
    if (poisson)
        return front + log_gamma(at + k) + log(gamma_above(at + k, w)) - (at + k) * log(w) + v / cc;
    return front + log_gamma(w) + log(gamma_below(w, at + k)) - w * log(at + k) + at;
}

static double log_beta_binomial(const Mixture *m, double s, double v)
{
    double g = m->g, h = m->h, a = g * (g + h), b = h * (g + h), log_before, log_now;
    double before[2] = { m->rho / a, m->rho / b };
    double now[2] = { (m->rho + v - g * s) / a, (m->rho + v + h * s) / b };
    if (m->kind == BETA_BINOMIAL_TWO) {
        log_before = log_beta(before[0], before[1]);
        log_now = log_beta(now[0], now[1]);
    } else {
        log_before = log_beta_part(before[0], before[1], h / (g + h));
        log_now = log_beta_part(now[0], now[1], h / (g + h));
    }
    return v / (g * h) * log(g + h) - (v + h * s) / b * log(g) - (v - g * s) / a * log(h) +
           log_now - log_before;
}

/* log of the supermartingale after deviations of sum s and of variance v. */
static double mixture_log(const Mixture *m, double s, double v)
{
    double normal = 0.5 * log(m->rho / (v + m->rho)) + s * s / (2 * (v + m->rho));
    switch (m->kind) {
    case NORMAL_TWO: return normal;
    case NORMAL_ONE: return normal + log(2) + log(normal_cdf(s / sqrt(v + m->rho)));
    case GAMMA_EXPONENTIAL:
    case GAMMA_POISSON: return log_gamma_mixture(m, s, v);
    default: return log_beta_binomial(m, s, v);
    }
}

/* The least s that is rejected at v. */
static double mixture_bound(const Mixture *m, double v, double alpha)
{
    double low = 0, high = m->kind >= BETA_BINOMIAL_TWO ? v / m->g : 100 * v;
    if (mixture_log(m, high, v) < log(1 / alpha)) return high;
    for (int i = 0; i < 80; i++) {
        double s = (low + high) / 2;
        if (mixture_log(m, s, v) < log(1 / alpha)) low = s;
        else high = s;
    }
    return low;
}

static const Json *confseq(const char *what)
{
    for (JsonIter it = json_iter(vectors("confseq", "vectors")); json_next(&it);)
        if (str_eq(json_str(json_get(it.value, "what")), str_of(what))) return it.value;
    fail_msg("no vector %s", what);
    return NULL;
}

static void test_mixtures(void **state)
{
    (void)state;
    double tolerance = vectors_tolerance(vectors("confseq"));
    for (int kind = 0; kind < MIXTURES_N_; kind++) {
        const Json *v = confseq(mixture_names[kind]);
        const Json *at = json_get(v, "logMixture"), *bound = json_get(v, "bound");
        Mixture m = mixture_make((MixtureKind)kind, V_OPT, ALPHA, .2, .8);
        if (json_get(v, "rho")) assert_near(m.rho, vectors_f64(v, "rho"), tolerance);
        assert_near(mixture_log(&m, vectors_f64(at, "s"), vectors_f64(at, "v")),
                    vectors_f64(at, "value"), tolerance);
        assert_near(mixture_bound(&m, vectors_f64(bound, "v"), ALPHA), vectors_f64(bound, "value"),
                    tolerance);
    }
}

/* --- stitching -------------------------------------------------------------------------------- */

/* Riemann's zeta: 1,000 terms, the rest by Euler and Maclaurin. */
static double zeta(double s)
{
    double sum = 0, n = 1000;
    for (int k = 1; k < (int)n; k++) sum += pow(k, -s);
    return sum + pow(n, 1 - s) / (s - 1) + pow(n, -s) / 2 + s * pow(n, -s - 1) / 12;
}

static const double stitch_s = 1.4, stitch_eta = 2;

static double stitch(double variance, double ell, double c)
{
    double root = pow(stitch_eta, .25), k1 = (root + 1 / root) / sqrt(2);
    double k2 = (sqrt(stitch_eta) + 1) / 2, slope = k2 * c * ell;
    return sqrt(k1 * k1 * variance * ell + slope * slope) + slope;
}

static double poly_stitching(double v, double v_min, double c)
{
    double ell = stitch_s * log(log(stitch_eta * fmax(v, v_min) / v_min)) +
                 log(zeta(stitch_s) / (ALPHA * pow(log(stitch_eta), stitch_s)));
    return stitch(fmax(v, v_min), ell, c);
}

/* For all quantiles at once: a grid of them, delta apart on the scale of the logit. */
static double double_stitching(double p, double t, double t_opt, double delta)
{
    double m = fmax(t, t_opt), logit = log(p / (1 - p)), z = zeta(stitch_s), r = p;
    if (p < .5) r = fmin(.5, 1 / (1 + exp(-(logit + 2 * delta * sqrt(t_opt * stitch_eta / m)))));
    double j = sqrt(m / t_opt) * fabs(logit) / (2 * delta) + 1;
    double ell = stitch_s * (log(log(stitch_eta * m / t_opt)) + log(j)) +
                 log(2 * z * (2 * z + 1) / (ALPHA * pow(log(stitch_eta), stitch_s)));
    return delta * sqrt(stitch_eta * m * r * (1 - r) / t_opt) +
           stitch(r * (1 - r) * m, ell, (1 - 2 * p) / 3);
}

static void test_stitching(void **state)
{
    (void)state;
    double tolerance = vectors_tolerance(vectors("confseq"));
    const Json *v = confseq("polynomial stitching, v=100, v_min=10, s=1.4, eta=2");
    assert_near(poly_stitching(100, 10, 3), vectors_f64(v, "c3"), tolerance);
    assert_near(poly_stitching(100, 10, -1), vectors_f64(v, "cMinus1"), tolerance);
    v = confseq("double stitching, t=1000, t_opt=100, delta=.5");
    assert_near(double_stitching(.5, 1000, 100, .5), vectors_f64(v, "p50"), tolerance);
    assert_near(double_stitching(.9, 1000, 100, .5), vectors_f64(v, "p90"), tolerance);
    assert_near(double_stitching(.1, 1000, 100, .5), vectors_f64(v, "p10"), tolerance);
}

/* --- confidence sequence of a share ----------------------------------------------------------- */

/* Whether the share p is rejected by what was seen, as too low or too high. */
static bool share_rejected(double p, double successes, double trials, double t_opt, bool too_low)
{
    double mean = too_low ? p : 1 - p, s = (too_low ? 1 : -1) * (successes - trials * p);
    double v = p * (1 - p);
    Mixture m = mixture_make(BETA_BINOMIAL_TWO, t_opt * v, ALPHA, mean, 1 - mean);
    return s >= mixture_bound(&m, trials * v, ALPHA);
}

static double share_limit(const Json *c, bool lower)
{
    double successes = vectors_f64(c, "successes"), trials = vectors_f64(c, "trials");
    double out = lower ? 1e-9 : 1 - 1e-9, in = successes / trials;
    for (int i = 0; i < 60; i++) {
        double p = (out + in) / 2;
        if (share_rejected(p, successes, trials, vectors_f64(c, "tOpt"), lower)) out = p;
        else in = p;
    }
    return in;
}

static void test_share(void **state)
{
    (void)state;
    double tolerance = vectors_tolerance(vectors("confseq"));
    const Json *v = confseq("Bernoulli confidence interval");
    for (JsonIter it = json_iter(json_get(v, "cases")); json_next(&it);) {
        assert_near(share_limit(it.value, true), vectors_f64(it.value, "lo"), tolerance);
        assert_near(share_limit(it.value, false), vectors_f64(it.value, "hi"), tolerance);
    }
}

/* --- equal quantiles of two arms -------------------------------------------------------------- */

#define ARM_N 1000

/* How odd it is that x is the quantile of the arm 1 + offset ... ARM_N + offset: least where the
 * mixture has its minimum. */
static double arm_log(const Mixture *m, double quantile, double least, double offset, double x)
{
    double most = fmax(0, fmin(ARM_N, floor(x - offset))) / ARM_N;     /* share at or below x */
    double below = fmax(0, fmin(ARM_N, ceil(x - offset) - 1)) / ARM_N; /* share below x */
    double share = fmin(fmax(least, below), most);
    return mixture_log(m, (share - quantile) * ARM_N, quantile * (1 - quantile) * ARM_N);
}

static double quantile_p(double quantile, double offset)
{
    Mixture m = mixture_make(BETA_BINOMIAL_TWO, 100 * quantile * (1 - quantile), ALPHA, quantile,
                             1 - quantile);
    double low = 0, high = 1, sum_least = INFINITY;
    for (int i = 0; i < 200; i++) { /* it is convex */
        double a = low + (high - low) / 3, b = high - (high - low) / 3;
        double v = quantile * (1 - quantile) * ARM_N;
        if (mixture_log(&m, (a - quantile) * ARM_N, v) < mixture_log(&m, (b - quantile) * ARM_N, v))
            high = b;
        else low = a;
    }
    for (int x = 1; x <= ARM_N + (int)offset; x++)
        sum_least = fmin(sum_least,
                         arm_log(&m, quantile, low, 0, x) + arm_log(&m, quantile, low, offset, x));
    return fmin(1, exp(-sum_least));
}

static void test_equal_quantiles(void **state)
{
    (void)state;
    double tolerance = vectors_tolerance(vectors("confseq"));
    const Json *v = confseq("quantile A/B p-value; a = 1..1000, b = a+offset, t_opt=100");
    for (JsonIter it = json_iter(json_get(v, "cases")); json_next(&it);)
        assert_near(quantile_p(vectors_f64(it.value, "quantile"), vectors_f64(it.value, "offset")),
                    vectors_f64(it.value, "p"), tolerance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_vector_has_an_owner),
        cmocka_unit_test(test_every_owner_reads_vectors),
        cmocka_unit_test(test_tolerance),
        cmocka_unit_test(test_mixtures),
        cmocka_unit_test(test_stitching),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_equal_quantiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
