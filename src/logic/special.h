/* Special functions of statistics, to 1e-9 or better. Pure; any thread. */
#ifndef GANTRY_LOGIC_SPECIAL_H
#define GANTRY_LOGIC_SPECIAL_H

#include "base/common.h"

/* P(N <= x), and x with P(N <= x) = p for 0 < p < 1. */
double normal_cdf(double x);
double normal_quantile(double p);

/* P(T <= x) for Student's t with df > 0 degrees of freedom. */
double student_t_cdf(double x, double df);

/* P(X > x) for chi-square with df > 0 degrees of freedom; 1 for x <= 0. */
double chi2_sf(double x, double df);

#endif
