#include "logic/scaling.h"

#include <math.h>

#define SCALING_SLACK 0.05 /* of a worker: not worth another one */

static void rate_step(Scaling *s, const ScalingView *view)
{
    int64_t past_ms = view->now_ms - s->at_ms;
    if (past_ms <= 0) return;
    double seen = (double)MAX(0, view->arrived - s->arrived) * 1000 / (double)past_ms;
    /* a mean that starts at the first figures, not at nothing */
    double weight = s->begun ? 1 - exp(-(double)past_ms / SCALING_RATE_MS) : 1;
    s->per_s += (seen - s->per_s) * weight;
    s->begun = true;
    s->at_ms = view->now_ms;
    s->arrived = view->arrived;
}

static int64_t need_of(const Scaling *s, const ScalingRule *rule, const ScalingView *view)
{
    double service_s = (double)view->service_ms / 1000;
    double slots = s->per_s * service_s / rule->utilization;
    slots += (double)view->queued * service_s * 1000 / SCALING_DRAIN_MS;
    double workers = ceil(slots / (double)MAX(view->worker_slots, 1) - SCALING_SLACK);
    int64_t need = workers < SCALING_WORKERS_MAX ? (int64_t)workers : SCALING_WORKERS_MAX;
    bool work = view->queued > 0 || view->running > 0;
    return MAX(need, work ? 1 : 0);
}

/* Puts a need into the parts; returns the highest of them. */
static int64_t highest_step(Scaling *s, int64_t now_ms, int64_t need)
{
    int64_t part_ms = SCALING_DOWN_MS / SCALING_PARTS;
    int64_t turns = MIN((now_ms - s->part_at_ms) / part_ms, SCALING_PARTS);
    for (int64_t t = 0; t < turns; t++) {
        for (int i = SCALING_PARTS - 1; i > 0; i--) s->most[i] = s->most[i - 1];
        s->most[0] = 0;
    }
    if (turns > 0) s->part_at_ms = now_ms - (now_ms - s->part_at_ms) % part_ms;
    s->most[0] = MAX(s->most[0], need);
    int64_t highest = 0;
    for (int i = 0; i < SCALING_PARTS; i++) highest = MAX(highest, s->most[i]);
    return highest;
}

int64_t scaling_step(Scaling *s, const ScalingRule *rule, const ScalingView *view)
{
    assert(rule->utilization > 0 && rule->utilization <= 1);
    assert(rule->workers_min >= 0 && rule->workers_max >= rule->workers_min);
    if (s->at_ms == 0) {
        s->at_ms = s->part_at_ms = view->now_ms;
        s->arrived = view->arrived;
    }
    rate_step(s, view);
    int64_t wanted = highest_step(s, view->now_ms, need_of(s, rule, view));
    return MIN(MAX(wanted, rule->workers_min), rule->workers_max);
}
