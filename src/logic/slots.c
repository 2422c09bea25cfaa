#include "logic/slots.h"

static void slots_move(LaneConfig *to, LaneConfig *from)
{
    for (int l = 0; l < LANE_N_; l++) to->reserved[l] += from->reserved[l];
    to->shared += from->shared;
    *from = (LaneConfig){ 0 };
}

static bool slots_any_for(const LaneConfig *slots, Lane lane)
{
    return slots->reserved[lane] > 0 || slots->shared > 0;
}

static void slots_check(const Slots *s)
{
    int64_t shared = s->free.shared;
    for (int i = 0; i < SLOTS_CLAIMS_MAX; i++) shared += s->promised[i].shared;
    for (int l = 0; l < LANE_N_; l++) {
        int64_t own = s->free.reserved[l] + s->running[l] - s->in_shared[l] - s->over[l];
        for (int i = 0; i < SLOTS_CLAIMS_MAX; i++) own += s->promised[i].reserved[l];
        assert(own == s->total.reserved[l] && s->in_shared[l] >= 0 && s->over[l] >= 0);
        shared += s->in_shared[l];
    }
    assert(shared == s->total.shared);
}

void slots_init(Slots *s, const LaneConfig *total)
{
    assert(lane_config_ok(total));
    *s = (Slots){ .total = *total, .free = *total };
}

/* A task of the lane takes a slot that is there: its own first, then a shared one. */
static void slots_move_in(Slots *s, LaneConfig *from, Lane lane)
{
    if (from->reserved[lane] > 0) {
        from->reserved[lane]--;
        return;
    }
    from->shared--;
    s->in_shared[lane]++;
}

static bool lane_covered(const Slots *s, Lane lane)
{
    for (int i = 0; i < SLOTS_CLAIMS_MAX; i++)
        if (s->claiming[i] && slots_any_for(&s->promised[i], lane)) return true;
    return false;
}

int slots_promise(Slots *s, LaneConfig *ret)
{
    bool wanted = false;
    int claim = 0;
    for (int l = 0; l < LANE_N_; l++)
        wanted |= slots_any_for(&s->free, (Lane)l) && !lane_covered(s, (Lane)l);
    if (!wanted) return -1;
    while (claim < SLOTS_CLAIMS_MAX && s->claiming[claim]) claim++;
    if (claim == SLOTS_CLAIMS_MAX) return -1; /* a claim under way has used up all it had */
    s->claiming[claim] = true;
    *ret = s->free;
    slots_move(&s->promised[claim], &s->free);
    slots_check(s);
    return claim;
}

/* Slots that came free go to those that have none. */
static void slots_settle(Slots *s)
{
    for (int l = 0; l < LANE_N_; l++) {
        while (s->over[l] > 0 && slots_any_for(&s->free, (Lane)l)) {
            s->over[l]--;
            slots_move_in(s, &s->free, (Lane)l);
        }
    }
    slots_check(s);
}

bool slots_take(Slots *s, int claim, Lane lane)
{
    assert(claim >= 0 && claim < SLOTS_CLAIMS_MAX && s->claiming[claim] && lane < LANE_N_);
    LaneConfig *promised = &s->promised[claim];
    if (!slots_any_for(promised, lane)) return false;
    slots_move_in(s, promised, lane);
    s->running[lane]++;
    slots_check(s);
    return true;
}

void slots_promise_end(Slots *s, int claim)
{
    assert(claim >= 0 && claim < SLOTS_CLAIMS_MAX && s->claiming[claim]);
    slots_move(&s->free, &s->promised[claim]);
    s->claiming[claim] = false;
    slots_settle(s);
}

void slots_release(Slots *s, Lane lane)
{
    assert(lane < LANE_N_ && s->running[lane] > 0);
    s->running[lane]--;
    if (s->over[lane] > 0) {
        s->over[lane]--;
    } else if (s->in_shared[lane] > 0) {
        s->in_shared[lane]--;
        s->free.shared++;
    } else {
        s->free.reserved[lane]++;
    }
    slots_settle(s);
}

void slots_suspend(Slots *s, Lane lane)
{
    slots_release(s, lane);
    s->suspended++;
}

void slots_resume(Slots *s, Lane lane)
{
    assert(s->suspended > 0);
    s->suspended--;
    s->running[lane]++;
    s->over[lane]++;
    slots_settle(s);
}

int64_t slots_beyond(const Slots *s)
{
    int64_t n = s->suspended;
    for (int l = 0; l < LANE_N_; l++) n += s->over[l];
    return n;
}

int64_t slots_running(const Slots *s)
{
    int64_t n = 0;
    for (int l = 0; l < LANE_N_; l++) n += s->running[l];
    return n;
}
