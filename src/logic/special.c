#include "logic/special.h"

#include <float.h>
#include <math.h>

#define TERMS_MAX 10000
#define TINY 1e-300 /* keeps Lentz's method from dividing by 0 */

double normal_cdf(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static double polynomial(const double *c, size_t n, double x)
{
    double sum = 0;
    for (size_t i = n; i-- > 0;) sum = sum * x + c[i];
    return sum;
}

/* Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND16: relative error about 1e-16. */
static double quantile_center(double q)
{
    static const double a[] = { 3.3871328727963666080e0,  1.3314166789178437745e+2,
                                1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                3.3430575583588128105e+4, 2.5090809287301226727e+3 };
    static const double b[] = { 1.0,
                                4.2313330701600911252e+1,
                                6.8718700749205790830e+2,
                                5.3941960214247511077e+3,
                                2.1213794301586595867e+4,
                                3.9307895800092710610e+4,
                                2.8729085735721942674e+4,
                                5.2264952788528545610e+3 };
    double r = 0.180625 - q * q;
    return q * polynomial(a, ARRAY_N(a), r) / polynomial(b, ARRAY_N(b), r);
}

static double quantile_near_tail(double r)
{
    static const double c[] = { 1.42343711074968357734e0,  4.63033784615654529590e0,
                                5.76949722146069140550e0,  3.64784832476320460504e0,
                                1.27045825245236838258e0,  2.41780725177450611770e-1,
                                2.27238449892691845833e-2, 7.74545014278341407640e-4 };
    static const double d[] = { 1.0,
                                2.05319162663775882187e0,
                                1.67638483018380384940e0,
                                6.89767334985100004550e-1,
                                1.48103976427480074590e-1,
                                1.51986665636164571966e-2,
                                5.47593808499534494600e-4,
                                1.05075007164441684324e-9 };
    return polynomial(c, ARRAY_N(c), r - 1.6) / polynomial(d, ARRAY_N(d), r - 1.6);
}

static double quantile_far_tail(double r)
{
    static const double e[] = { 6.65790464350110377720e0,  5.46378491116411436990e0,
                                1.78482653991729133580e0,  2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                2.71155556874348757815e-5, 2.01033439929228813265e-7 };
    static const double f[] = { 1.0,
                                5.99832206555887937690e-1,
                                1.36929880922735805310e-1,
                                1.48753612908506148525e-2,
                                7.86869131145613259100e-4,
                                1.84631831751005468180e-5,
                                1.42151175831644588870e-7,
                                2.04426310338993978564e-15 };
    return polynomial(e, ARRAY_N(e), r - 5) / polynomial(f, ARRAY_N(f), r - 5);
}

double normal_quantile(double p)
{
    assert(p > 0 && p < 1);
    double q = p - 0.5;
    if (fabs(q) <= 0.425) return quantile_center(q);
    double r = sqrt(-log(q < 0 ? p : 1 - p));
    double z = r <= 5 ? quantile_near_tail(r) : quantile_far_tail(r);
    return q < 0 ? -z : z;
}

static double log_gamma(double x)
{
    int sign;
    return lgamma_r(x, &sign);
}

static double away_from_zero(double x)
{
    return fabs(x) < TINY ? TINY : x;
}

/* The continued fraction of the incomplete beta function (DLMF 8.17.22) by Lentz's method; fast for
 * x < (a+1)/(a+b+2). */
static double beta_fraction(double a, double b, double x)
{
    double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), f = d;
    for (int m = 1; m < TERMS_MAX; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        d = 1 / away_from_zero(1 + even * d);
        c = away_from_zero(1 + even / c);
        f *= c * d;
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 / away_from_zero(1 + odd * d);
        c = away_from_zero(1 + odd / c);
        f *= c * d;
        if (fabs(c * d - 1) < 4 * DBL_EPSILON) break;
    }
    return f;
}

/* I_x(a, b); y is 1 - x, given apart because the caller knows it without cancellation. */
static double beta_regularized(double a, double b, double x, double y)
{
    if (x <= 0) return 0;
    if (y <= 0) return 1;
    double front = exp(log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * log(x) + b * log(y));
    if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, y) / b;
}

double student_t_cdf(double x, double df)
{
    assert(df > 0);
    if (isinf(x)) return x > 0;
    double square = x * x, sum = df + square;
    double tail = 0.5 * beta_regularized(df / 2, 0.5, df / sum, square / sum);
    return x > 0 ? 1 - tail : tail;
}

/* 1 - P(a, x) by the series of P (DLMF 8.11.4), for x < a + 1. */
static double gamma_upper_series(double a, double x, double front)
{
    double term = 1 / a, sum = term;
    for (int n = 1; n < TERMS_MAX && term > sum * DBL_EPSILON; n++) {
        term *= x / (a + n);
        sum += term;
    }
    return 1 - front * sum;
}

/* Q(a, x) by its continued fraction (DLMF 8.9.2) with Lentz's method, for x >= a + 1. */
static double gamma_upper_fraction(double a, double x, double front)
{
    double b = x + 1 - a, c = 1 / TINY, d = 1 / b, f = d;
    for (int n = 1; n < TERMS_MAX; n++) {
        double an = -n * (n - a);
        b += 2;
        d = 1 / away_from_zero(an * d + b);
        c = away_from_zero(b + an / c);
        f *= c * d;
        if (fabs(c * d - 1) < 4 * DBL_EPSILON) break;
    }
    return front * f;
}

double chi2_sf(double x, double df)
{
    assert(df > 0);
    if (x <= 0) return 1;
    double a = df / 2, half = x / 2;
    double front = exp(a * log(half) - half - log_gamma(a));
    return half < a + 1 ? gamma_upper_series(a, half, front) : gamma_upper_fraction(a, half, front);
}
