#include "logic/degrade.h"

#define MARGIN_SHARE 5
#define MARGIN_PPM_MIN INT64_C(10000)

const char *degrade_step_name(DegradeStep step)
{
    static const char *const names[DEGRADE_N_] = { "none", "cache", "model", "hold" };
    assert(step < DEGRADE_N_);
    return names[step];
}

int64_t degrade_remaining_ppm(int64_t limit, int64_t settled)
{
    assert(limit >= 0 && settled >= 0);
    if (settled >= limit) return 0;
    return (int64_t)((__int128)(limit - settled) * PPM_WHOLE / limit);
}

int64_t degrade_tighter(int64_t a_ppm, int64_t b_ppm)
{
    return MIN(a_ppm, b_ppm);
}

static int64_t threshold(const DegradeConfig *config, DegradeStep step)
{
    switch (step) {
    case DEGRADE_CACHE: return config->cache_at_ppm;
    case DEGRADE_MODEL: return config->model_at_ppm;
    case DEGRADE_HOLD: return config->hold_at_ppm;
    default: return 0;
    }
}

/* Where a step that is in force is left again. */
static int64_t release(int64_t at_ppm)
{
    int64_t margin = MAX(at_ppm / MARGIN_SHARE, MARGIN_PPM_MIN);
    return MIN(at_ppm + margin, PPM_WHOLE - 1);
}

DegradeStep degrade_step(const DegradeConfig *config, DegradeStep was, int64_t remaining_ppm)
{
    assert(was < DEGRADE_N_ && remaining_ppm >= 0 && remaining_ppm <= PPM_WHOLE);
    for (DegradeStep step = DEGRADE_N_ - 1; step > DEGRADE_NONE; step--) {
        int64_t at_ppm = threshold(config, step);
        assert(at_ppm >= 0 && at_ppm <= PPM_WHOLE);
        if (at_ppm == 0) continue;
        if (remaining_ppm <= at_ppm) return step;
        if (step <= was && remaining_ppm <= release(at_ppm)) return step;
    }
    return DEGRADE_NONE;
}

DegradeStep degrade_step_unhealthy(const DegradeConfig *config, bool asked, bool fallbacks,
                                   bool small)
{
    DegradeStep step = asked       ? DEGRADE_NONE
                       : fallbacks ? DEGRADE_CACHE
                       : small     ? DEGRADE_MODEL
                                   : DEGRADE_HOLD;
    while (step > DEGRADE_NONE && threshold(config, step) == 0) step--;
    return step;
}

DegradeAction degrade_action(const DegradeConfig *config, DegradeStep step, Lane lane)
{
    assert(step < DEGRADE_N_ && lane < LANE_N_);
    return (DegradeAction){
        .force_cache = step >= DEGRADE_CACHE && config->cache_at_ppm > 0,
        .small_model = step >= DEGRADE_MODEL && config->model_at_ppm > 0,
        .hold = step == DEGRADE_HOLD && lane == LANE_LOW,
    };
}

bool degrade_is_cheaper(const Price *other, const Price *asked)
{
    if (!other || !asked) return false;
    const PriceRates *a = &other->base, *b = &asked->base;
    if (a->input > b->input || a->output > b->output) return false;
    return a->input < b->input || a->output < b->output;
}

int degrade_choose(const Price *asked, const Price *const *others, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (degrade_is_cheaper(others[i], asked)) return (int)i;
    return -1;
}
