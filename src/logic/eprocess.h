/* E-processes: evidence against a null that may be looked at after every observation.
 *
 * An e-value E starts at 1 and, as long as its null is true, is a non-negative supermartingale: the
 * chance that it EVER reaches 1/alpha is at most alpha (Ville). So a decision may be taken at any
 * moment, and nothing is assumed about the data but that each lies in [0,1].
 *
 * Each unit (task, session) goes to the canary with probability pi and brings a harm Y in [0,1],
 * higher is worse. From the past alone the means are forecast, m0 = (1/2 + sum Y0)/(1 + n0) and
 * m1 = (m0 + sum Y1)/(1 + n1) (a canary is expected to be like the control until it shows), and
 *
 *     b = m1 - rho m0
 *     Z = b + A (Y-m1)/pi - rho (1-A) (Y-m0)/(1-pi)            E[Z | past] = mu1 - rho mu0
 *     rollback, H0 mu1 - rho mu0 <= delta:  x = Z - delta,  a = delta - (b - max(m1/pi,
 *                                                               rho (1-m0)/(1-pi)))
 *     promote,  H0 mu1 - rho mu0 >= delta:  x = delta - Z,  a = b + max((1-m1)/pi,
 *                                                               rho m0/(1-pi)) - delta
 *     a > 0:  P_k *= 1 + c_k x/a,   c_k = 0.9 * 2^(-0.75 k), k = 0..9,   E = mean of P_k
 *
 * x >= -a always, so no factor is below 0.1. With a <= 0 the unit is skipped: clamping a would
 * reject at once. The grid of bets c_k stands in for the best one, which nobody knows beforehand
 * (Waudby-Smith & Ramdas, arXiv 2010.09686; Howard et al., arXiv 1810.08240).
 *
 * Pure; any thread; no allocation. Never compile this with -ffast-math.
 */
#ifndef GANTRY_LOGIC_EPROCESS_H
#define GANTRY_LOGIC_EPROCESS_H

#include "base/common.h"

#define EGRID_N 10

/* The bets c_k, and the ratios exp(0.1 * 1.45^k) of the ratio test. */
extern const double egrid_bet[EGRID_N];
extern const double egrid_ratio[EGRID_N];

/* One e-value: ten products, each p * 2^(EVALUE_SCALE e), and their mean. The exponents keep a
 * product that went far down or up exact, so it can come back. */
#define EVALUE_SCALE 256
typedef struct {
    _Alignas(16) double p[EGRID_N];
    int16_t e[EGRID_N];
    bool scaled; /* some e is not 0 */
} EValue;

void evalue_init(EValue *v);

/* P_k *= f[k]; every f is in [0.01, 1e60]. */
void evalue_multiply(EValue *v, const double f[EGRID_N]);

/* P_k *= 1 + c_k x/a, or nothing when a <= 0. x >= -a. */
void evalue_bet(EValue *v, double x, double a);

/* E itself (infinite beyond 2^512), and log E by log-sum-exp, which is never infinite. */
double evalue_mean(const EValue *v);
double evalue_log(const EValue *v);

/* log P_k, as it is stored, and back. */
void evalue_save(const EValue *v, double ret_log[EGRID_N]);
void evalue_load(EValue *v, const double log_p[EGRID_N]);

/* --- the test of a difference of means ------------------------------------------------------- */

typedef enum { ESIDE_ROLLBACK, ESIDE_PROMOTE } ESide;

typedef struct {
    ESide side;
    double rho;   /* >= 0; 1: absolute margin */
    double delta; /* margin */
} ENull;

/* What has been seen, by arm: 0 control, 1 canary. */
typedef struct {
    int64_t n[2];
    double sum[2];
} EPast;

typedef struct {
    bool canary;
    double pi; /* its probability of being canary when it was assigned, 0 < pi < 1 */
    double y;  /* harm, in [0,1] */
} EUnit;

/* One unit as every null sees it, worked out once. */
typedef struct {
    double m0, m1;                  /* forecasts from the past */
    double per_canary, per_control; /* 1/pi, 1/(1-pi) */
    double canary, control;         /* A (Y-m1)/pi, (1-A)(Y-m0)/(1-pi) */
} ELook;

void epast_means(const EPast *past, double *ret_m0, double *ret_m1);
void epast_add(EPast *past, const EUnit *unit); /* after the unit's looks, never before */
ELook elook(const EPast *past, const EUnit *unit);

/* The a of a null for this unit: <= 0 means that the unit is skipped. */
double enull_bound(const ENull *null, const ELook *look);
void enull_observe(EValue *v, const ENull *null, const ELook *look);

/* --- the ratio test -------------------------------------------------------------------------- */

/* For rare events of equal weight (Y = 1): H0 ratio of rates <= r (rollback) or >= r (promote).
 * Call it for each event only; pi as above, r > 0. */
void eratio_event(EValue *v, ESide side, double r, bool canary, double pi);

/* Sample ratio: are units assigned as planned? Two-sided, call it for every unit. */
#define SRM_ALARM 1000.0
typedef struct {
    EValue more, fewer; /* canaries than planned */
    bool alarm;         /* latched: E has reached SRM_ALARM */
} Srm;

void srm_init(Srm *srm);
void srm_observe(Srm *srm, bool canary, double pi);
double srm_log(const Srm *srm);

/* --- the displayed interval ------------------------------------------------------------------ */

/* Which margins j * delta/10, j = -40..40, are still possible: neither of their nulls has ever
 * reached 1/alpha. Or which ratios 1 + j * delta/10, those below 0 left out. Censored at either
 * end. About 18 KB and 1 us a unit: for display only. */
#define EINTERVAL_HALF 40
#define EINTERVAL_N (2 * EINTERVAL_HALF + 1)
typedef struct {
    double rho, delta, bound;
    bool ratios;
    EValue above[EINTERVAL_N], below[EINTERVAL_N]; /* against "at most" and "at least" margin j */
    bool out[EINTERVAL_N];
} EInterval;

void einterval_init(EInterval *interval, double rho, double delta, double alpha);
void einterval_init_ratios(EInterval *interval, double delta, double alpha);
void einterval_observe(EInterval *interval, const ELook *look);

/* The least and greatest j that are left; false when none is (the effect lies between two, or has
 * changed). */
bool einterval_read(const EInterval *interval, int *ret_from, int *ret_to);

/* --- combining ------------------------------------------------------------------------------- */

/* log of sum of w[i] exp(log_e[i]); -infinity when every weight is 0. */
double evalues_log_sum(const double *w, const double *log_e, size_t n);

#endif
