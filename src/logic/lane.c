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

/* Slots beyond its own that a lane holds. */
static int64_t shared_held(const LaneConfig *config, const LaneUse *use, Lane lane)
{
    return MAX(0, use->running[lane] - config->reserved[lane]);
}

static bool turn_due(const LaneConfig *config, const LaneUse *use, const LaneHead *head, Lane lane,
                     int64_t aging_ms, const LaneTurns *turns)
{
    return head->ready && head->waited_ms >= aging_ms && turns->passed[lane] >= LANE_TURN_AFTER &&
           shared_held(config, use, lane) < MAX(1, config->shared / LANE_TURN_PART);
}

Lane lane_next(const LaneConfig *config, const LaneUse *use, const LaneHead heads[LANE_N_],
               int64_t aging_ms, const LaneTurns *turns)
{
    Lane highest = LANE_N_, turn = LANE_N_;
    for (int i = LANE_N_ - 1; i >= 0; i--)
        if (heads[i].ready) highest = (Lane)i;
    for (int i = 0; i < LANE_N_; i++)
        if (heads[i].ready && own_free(config, use, (Lane)i) > 0) return (Lane)i;
    if (shared_free(config, use) == 0) return LANE_N_;
    for (int i = 0; i < LANE_N_; i++) {
        if (!turn_due(config, use, &heads[i], (Lane)i, aging_ms, turns)) continue;
        if (turn == LANE_N_ || turns->passed[i] > turns->passed[turn]) turn = (Lane)i;
    }
    return turn == LANE_N_ ? highest : turn;
}

void lane_started(const LaneConfig *config, const LaneUse *use, const LaneHead heads[LANE_N_],
                  Lane lane, LaneTurns *turns)
{
    assert(lane < LANE_N_);
    if (own_free(config, use, lane) > 0) return;
    turns->passed[lane] = 0;
    for (int i = (int)lane + 1; i < LANE_N_; i++) turns->passed[i] += heads[i].ready;
}

int64_t lane_expected_wait_ms(const LanePace *pace, int64_t place, int64_t lines)
{
    assert(place >= 1);
    double per_s = pace->starts_per_s;
    if (pace->service_ms <= 0) return -1;
    if (pace->running > 0) per_s = (double)pace->running * 1000 / (double)pace->service_ms;
    if (!(per_s > 0)) return -1;
    int64_t ahead = MIN(place * MAX(lines, 1), MAX(pace->queued, place));
    double ms = (double)ahead * 1000 / per_s;
    return ms < 1e15 ? (int64_t)ms : -1;
}

int64_t lane_retry_after_s(int64_t queued, double per_s)
{
    if (!(per_s > 0)) return 60;
    double s = (double)MAX(queued, 1) / 100 / per_s;
    return s >= 60 ? 60 : MAX(1, (int64_t)s);
}
