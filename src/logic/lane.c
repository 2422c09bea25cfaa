#include "logic/lane.h"

static const char *const lane_names[LANE_N_] = {
    [LANE_CRITICAL] = "critical",
    [LANE_NORMAL] = "normal",
    [LANE_LOW] = "low",
};

const char *lane_name(Lane lane)
{
    assert(lane < LANE_N_);
    return lane_names[lane];
}

int lane_from(Str name, Lane *ret)
{
    if (str_empty(name)) {
        *ret = LANE_NORMAL;
        return 0;
    }
    for (int i = 0; i < LANE_N_; i++) {
        if (!str_eq(name, str_of(lane_names[i]))) continue;
        *ret = (Lane)i;
        return 0;
    }
    return -EINVAL;
}

bool lane_config_ok(const LaneConfig *config)
{
    if (config->shared < 0 || config->shared > LANE_SLOTS_MAX) return false;
    for (int i = 0; i < LANE_N_; i++) {
        int64_t own = config->reserved[i];
        if (own < 0 || own > LANE_SLOTS_MAX || own + config->shared == 0) return false;
    }
    return true;
}

int64_t lane_slots(const LaneConfig *config)
{
    assert(config->shared >= 0);
    int64_t n = config->shared;
    for (int i = 0; i < LANE_N_; i++) n += config->reserved[i];
    return n;
}

int64_t lane_shared_used(const LaneConfig *config, const LaneUse *use)
{
    int64_t used = 0;
    for (int i = 0; i < LANE_N_; i++) {
        assert(use->running[i] >= 0);
        used += MAX(0, use->running[i] - config->reserved[i]);
    }
    return used;
}

static int64_t own_free(const LaneConfig *config, const LaneUse *use, Lane lane)
{
    return MAX(0, config->reserved[lane] - use->running[lane]);
}

static int64_t shared_free(const LaneConfig *config, const LaneUse *use)
{
    return MAX(0, config->shared - lane_shared_used(config, use));
}

int64_t lane_free(const LaneConfig *config, const LaneUse *use, Lane lane)
{
    assert(lane < LANE_N_);
    return own_free(config, use, lane) + shared_free(config, use);
}

void lane_claim_plan(const LaneConfig *config, const LaneUse *use, const int64_t ready[LANE_N_],
                     int64_t ret_take[LANE_N_])
{
    int64_t shared = shared_free(config, use);
    for (int i = 0; i < LANE_N_; i++) {
        assert(ready[i] >= 0);
        int64_t own = MIN(ready[i], own_free(config, use, (Lane)i));
        int64_t more = MIN(ready[i] - own, shared);
        ret_take[i] = own + more;
        shared -= more;
    }
    assert(shared >= 0);
}
