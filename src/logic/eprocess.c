#include "logic/eprocess.h"

#include <math.h>
#include <string.h>

/* Below this a bound counts as 0: what is left of it may be rounding, and x/a could then pass
 * -1. */
#define BOUND_LEAST 1e-9

#define SCALE_UP 0x1p+256
#define SCALE_DOWN 0x1p-256

_Alignas(16) const double egrid_bet[EGRID_N] = {
    0.9,       0.53514320175122443,   0.31819805153394642,  0.18920169343208576,
    0.1125,    0.066892900218903054,  0.039774756441743303, 0.02365021167901072,
    0.0140625, 0.0083616125273628817,
};

const double egrid_ratio[EGRID_N] = {
    1.1051709180756477, 1.1560395702680215, 1.2339865180273848, 1.3564384798920688,
    1.5558945055996936, 1.8983278244139938, 2.5330179034160927, 3.8483580878258747,
    7.0574764949182276, 17.00363166190245,
};

/* --- e-values -------------------------------------------------------------------------------- */

void evalue_init(EValue *v)
{
    memset(v, 0, sizeof(*v));
    for (int k = 0; k < EGRID_N; k++) v->p[k] = 1;
}

static void rescale(EValue *v)
{
    v->scaled = false;
    for (int k = 0; k < EGRID_N; k++) {
        if (v->p[k] > SCALE_UP && v->e[k] < INT16_MAX) {
            v->p[k] *= SCALE_DOWN;
            v->e[k]++;
        } else if (v->p[k] < SCALE_DOWN && v->e[k] > INT16_MIN) {
            v->p[k] *= SCALE_UP;
            v->e[k]--;
        }
        v->scaled |= v->e[k] != 0;
    }
}

/* Two products at once: every machine we build for has such registers, and gcc at -O2 does not use
 * them on its own here. */
typedef double Pair __attribute__((vector_size(16)));
typedef long long PairMask __attribute__((vector_size(16)));
#define PAIRS_N (EGRID_N / 2)

static void keep_in_range(EValue *v)
{
    const Pair *p = (const Pair *)(const void *)v->p;
    PairMask out = { 0, 0 };
    for (int k = 0; k < PAIRS_N; k++) out |= (p[k] > SCALE_UP) | (p[k] < SCALE_DOWN);
    if (out[0] | out[1]) rescale(v);
}

void evalue_multiply(EValue *v, const double f[EGRID_N])
{
    for (int k = 0; k < EGRID_N; k++) v->p[k] *= f[k];
    keep_in_range(v);
}

void evalue_bet(EValue *v, double x, double a)
{
    if (a < BOUND_LEAST) return;
    double share = x / a;
    assert(share > -1.001);
    Pair *p = (Pair *)(void *)v->p;
    const Pair *bet = (const Pair *)(const void *)egrid_bet;
    for (int k = 0; k < PAIRS_N; k++) p[k] *= 1 + bet[k] * share;
    keep_in_range(v);
}

/* p * 2^(EVALUE_SCALE e), without ldexp's cost: long runs have many products far down. */
static double product(double p, int e)
{
    static const double scale[] = { 0x1p-512, 0x1p-256, 1, 0x1p+256, 0x1p+512 };
    if (e < -2) return 0; /* below 2^-512: nothing beside the others */
    return e > 2 ? INFINITY : p * scale[e + 2];
}

double evalue_mean(const EValue *v)
{
    const Pair *p = (const Pair *)(const void *)v->p;
    Pair pair = (p[0] + p[1]) + (p[2] + p[3]) + p[4];
    if (!v->scaled) return (pair[0] + pair[1]) / EGRID_N;
    double sum = 0;
    for (int k = 0; k < EGRID_N; k++) sum += product(v->p[k], v->e[k]);
    return sum / EGRID_N;
}

void evalue_save(const EValue *v, double ret_log[EGRID_N])
{
    for (int k = 0; k < EGRID_N; k++) ret_log[k] = log(v->p[k]) + EVALUE_SCALE * M_LN2 * v->e[k];
}

void evalue_load(EValue *v, const double log_p[EGRID_N])
{
    evalue_init(v);
    for (int k = 0; k < EGRID_N; k++) {
        double scales = trunc(log_p[k] / (EVALUE_SCALE * M_LN2));
        v->e[k] = (int16_t)fmax(INT16_MIN, fmin(INT16_MAX, scales));
        v->p[k] = exp(log_p[k] - EVALUE_SCALE * M_LN2 * v->e[k]);
        v->scaled |= v->e[k] != 0;
    }
}

double evalues_log_sum(const double *w, const double *log_e, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        if (w[i] > 0) top = fmax(top, log_e[i]);
    if (isinf(top)) return top;
    for (size_t i = 0; i < n; i++)
        if (w[i] > 0) sum += w[i] * exp(log_e[i] - top);
    return top + log(sum);
}

double evalue_log(const EValue *v)
{
    static const double ones[EGRID_N] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    double log_p[EGRID_N];
    evalue_save(v, log_p);
    return evalues_log_sum(ones, log_p, EGRID_N) - log(EGRID_N);
}

/* --- difference of means --------------------------------------------------------------------- */

void epast_means(const EPast *past, double *ret_m0, double *ret_m1)
{
    *ret_m0 = (0.5 + past->sum[0]) / (1 + (double)past->n[0]);
    *ret_m1 = (*ret_m0 + past->sum[1]) / (1 + (double)past->n[1]);
}

void epast_add(EPast *past, const EUnit *unit)
{
    past->n[unit->canary]++;
    past->sum[unit->canary] += unit->y;
}

ELook elook(const EPast *past, const EUnit *unit)
{
    assert(unit->pi > 0 && unit->pi < 1);
    assert(unit->y >= 0 && unit->y <= 1);
    ELook look = { .per_canary = 1 / unit->pi, .per_control = 1 / (1 - unit->pi) };
    epast_means(past, &look.m0, &look.m1);
    if (unit->canary) look.canary = (unit->y - look.m1) * look.per_canary;
    else look.control = (unit->y - look.m0) * look.per_control;
    return look;
}

double enull_bound(const ENull *null, const ELook *look)
{
    /* rho is negative where a ratio below 1 is to be proved at a step before the last: then it is
     * the control's other extreme that moves the estimate most */
    double rho = null->rho, b = look->m1 - rho * look->m0;
    double down = fmax(rho * (1 - look->m0), -rho * look->m0) * look->per_control;
    double up = fmax(rho * look->m0, -rho * (1 - look->m0)) * look->per_control;
    if (null->side == ESIDE_ROLLBACK)
        return null->delta - (b - fmax(look->m1 * look->per_canary, down));
    return b + fmax((1 - look->m1) * look->per_canary, up) - null->delta;
}

void enull_observe(EValue *v, const ENull *null, const ELook *look)
{
    double z = look->m1 - null->rho * look->m0 + look->canary - null->rho * look->control;
    double x = null->side == ESIDE_ROLLBACK ? z - null->delta : null->delta - z;
    evalue_bet(v, x, enull_bound(null, look));
}

/* --- ratios ---------------------------------------------------------------------------------- */

/* The event fell on the canary: d/r (r pi + 1-pi)/(d pi + 1-pi), else without the d/r. */
static double ratio_factor(double d, double r, bool canary, double pi)
{
    double factor = (r * pi + 1 - pi) / (d * pi + 1 - pi);
    return canary ? factor * (d / r) : factor;
}

void eratio_event(EValue *v, ESide side, double r, bool canary, double pi)
{
    assert(r > 0 && pi > 0 && pi < 1);
    double factor[EGRID_N];
    for (int k = 0; k < EGRID_N; k++) {
        double d = side == ESIDE_ROLLBACK ? r * egrid_ratio[k] : r / egrid_ratio[k];
        factor[k] = ratio_factor(d, r, canary, pi);
    }
    evalue_multiply(v, factor);
}

void srm_init(Srm *srm)
{
    evalue_init(&srm->more);
    evalue_init(&srm->fewer);
    srm->alarm = false;
}

void srm_observe(Srm *srm, bool canary, double pi)
{
    eratio_event(&srm->more, ESIDE_ROLLBACK, 1, canary, pi);
    eratio_event(&srm->fewer, ESIDE_PROMOTE, 1, canary, pi);
    if ((evalue_mean(&srm->more) + evalue_mean(&srm->fewer)) / 2 >= SRM_ALARM) srm->alarm = true;
}

double srm_log(const Srm *srm)
{
    return evalues_log_sum((const double[]){ 0.5, 0.5 },
                           (const double[]){ evalue_log(&srm->more), evalue_log(&srm->fewer) }, 2);
}

/* --- interval -------------------------------------------------------------------------------- */

void einterval_init(EInterval *interval, double rho, double delta, double alpha)
{
    assert(delta > 0 && alpha > 0 && alpha < 1);
    memset(interval, 0, sizeof(*interval));
    interval->rho = rho;
    interval->delta = delta;
    interval->bound = 1 / alpha;
    for (int i = 0; i < EINTERVAL_N; i++) {
        evalue_init(&interval->above[i]);
        evalue_init(&interval->below[i]);
    }
}

static bool is_below_nothing(const EInterval *interval, int i)
{
    return interval->ratios && 1 + (i - EINTERVAL_HALF) * interval->delta / 10 < 0;
}

void einterval_init_ratios(EInterval *interval, double delta, double alpha)
{
    einterval_init(interval, 1, delta, alpha);
    interval->ratios = true;
    for (int i = 0; i < EINTERVAL_N; i++) interval->out[i] = is_below_nothing(interval, i);
}

void einterval_observe(EInterval *interval, const ELook *look)
{
    for (int i = 0; i < EINTERVAL_N; i++) {
        if (interval->out[i]) continue;
        double margin = (i - EINTERVAL_HALF) * interval->delta / 10;
        double rho = interval->ratios ? 1 + margin : interval->rho;
        double delta = interval->ratios ? 0 : margin;
        ENull most = { ESIDE_ROLLBACK, rho, delta };
        ENull least = { ESIDE_PROMOTE, rho, delta };
        enull_observe(&interval->above[i], &most, look);
        enull_observe(&interval->below[i], &least, look);
        interval->out[i] = evalue_mean(&interval->above[i]) >= interval->bound ||
                           evalue_mean(&interval->below[i]) >= interval->bound;
    }
}

/* More than a margin is more than any below it, which was perhaps never bet on. */
bool einterval_read(const EInterval *interval, int *ret_from, int *ret_to)
{
    int from = 0, to = EINTERVAL_N - 1;
    for (int i = 0; i < EINTERVAL_N; i++)
        if (evalue_mean(&interval->above[i]) >= interval->bound || is_below_nothing(interval, i))
            from = i + 1;
    for (int i = EINTERVAL_N - 1; i >= 0; i--)
        if (evalue_mean(&interval->below[i]) >= interval->bound) to = i - 1;
    if (from > to) return false;
    *ret_from = from - EINTERVAL_HALF;
    *ret_to = to - EINTERVAL_HALF;
    return true;
}
