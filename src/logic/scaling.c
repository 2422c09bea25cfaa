#include "logic/scaling.h"

#include <math.h>

#define SLACK 0.05      /* of a worker: not worth another one */
#define RAN_LEAST 0.001 /* of an attempt, by which nothing is known any more */

static int64_t down_ms(const ScalingRule *rule)
{
    return rule->down_ms > 0 ? rule->down_ms : SCALING_DOWN_MS;
}

/* In which rates are averaged, and a backlog should be worked off. */
static double part_of(const ScalingRule *rule)
{
    return (double)down_ms(rule) / SCALING_SOON_PARTS;
}

static double rate(int64_t now, int64_t before, int64_t past_ms)
{
    return (double)MAX(0, now - before) * 1000 / (double)past_ms;
}

/* What happened since the last look. Means start at the first figures, not at nothing. */
static void rates_step(Scaling *s, const ScalingRule *rule, const ScalingView *view)
{
    int64_t past_ms = view->now_ms - s->last.now_ms;
    if (past_ms <= 0) return;
    double weight = s->begun ? 1 - exp(-(double)past_ms / part_of(rule)) : 1;
    double kept = exp(-(double)past_ms / SCALING_SERVICE_MS);
    s->arrivals_per_s += (rate(view->arrived, s->last.arrived, past_ms) - s->arrivals_per_s) *
                         weight;
    s->starts_per_s += (rate(view->started, s->last.started, past_ms) - s->starts_per_s) * weight;
    s->ran = s->ran * kept + (double)MAX(0, view->ran - s->last.ran);
    s->ran_ms = s->ran_ms * kept + (double)MAX(0, view->ran_ms - s->last.ran_ms);
    s->busy_ms = s->busy_ms * kept + (double)s->last.running * (double)past_ms;
    s->begun = true;
    s->last = *view;
}

static double need_of(const Scaling *s, const ScalingRule *rule, const ScalingView *view)
{
    double service_ms = (double)scaling_service_ms(s);
    double slots = s->arrivals_per_s * service_ms / 1000 * 100 / (double)rule->utilization_percent;
    slots += (double)view->queued * service_ms / part_of(rule);
    if (view->queued > 0) slots = MAX(slots, 1);
    slots = MAX(slots, (double)view->running);
    return MIN(slots, SCALING_SLOTS_MAX);
}

/* Puts a need into the parts; returns the highest of them. */
static double highest_step(Scaling *s, const ScalingRule *rule, int64_t now_ms, double need)
{
    int64_t part_ms = MAX(down_ms(rule) / SCALING_PARTS, 1);
    int64_t turns = MIN((now_ms - s->part_at_ms) / part_ms, SCALING_PARTS);
    for (int64_t t = 0; t < turns; t++) {
        for (int i = SCALING_PARTS - 1; i > 0; i--) s->most[i] = s->most[i - 1];
        s->most[0] = 0;
    }
    if (turns > 0) s->part_at_ms = now_ms - (now_ms - s->part_at_ms) % part_ms;
    s->most[0] = MAX(s->most[0], need);
    double highest = 0;
    for (int i = 0; i < SCALING_PARTS; i++) highest = MAX(highest, s->most[i]);
    return highest;
}

void scaling_step(Scaling *s, const ScalingRule *rule, const ScalingView *view)
{
    assert(rule->utilization_percent >= 1 && rule->utilization_percent <= 100);
    if (s->last.now_ms == 0) {
        s->last = *view;
        s->part_at_ms = s->since_ms = view->now_ms;
    }
    rates_step(s, rule, view);
    s->slots = highest_step(s, rule, view->now_ms, need_of(s, rule, view));
}

bool scaling_knows(const Scaling *s, const ScalingRule *rule)
{
    return s->last.now_ms - s->since_ms >= down_ms(rule);
}

int64_t scaling_keep(const ScalingRule *rule, int64_t wanted, int64_t there, bool knows)
{
    return knows ? wanted : MIN(MAX(wanted, there), rule->workers_max);
}

int64_t scaling_service_ms(const Scaling *s)
{
    double ended_ms = s->ran > RAN_LEAST ? s->ran_ms / s->ran : 0;
    double so_far_ms = s->busy_ms / MAX(s->ran + (double)s->last.running, 1);
    return (int64_t)MIN(round(MAX(ended_ms, so_far_ms)), 1e15);
}

int64_t scaling_workers(const ScalingRule *rule, double slots, int64_t worker_slots)
{
    assert(rule->workers_min >= 0 && rule->workers_max >= rule->workers_min);
    double workers = ceil(slots / (double)MAX(worker_slots, 1) - SLACK);
    int64_t wanted = slots <= SLACK ? 0 : (int64_t)MAX(workers, 1);
    return MIN(MAX(wanted, rule->workers_min), rule->workers_max);
}

static bool is_enough(int64_t workers, const double slots[LANE_N_], const double reserved[LANE_N_],
                      double shared)
{
    double beyond = 0;
    for (int lane = 0; lane < LANE_N_; lane++) {
        bool served = reserved[lane] > 0 || shared > 0;
        if (served) beyond += MAX(slots[lane] - (double)workers * reserved[lane], 0);
    }
    return beyond <= (double)workers * shared + SLACK;
}

int64_t scaling_workers_all(const ScalingRule *rule, const double slots[LANE_N_],
                            const double reserved[LANE_N_], double shared)
{
    assert(rule->workers_min >= 0 && rule->workers_max >= rule->workers_min);
    int64_t low = rule->workers_min, high = rule->workers_max;
    double all = shared;
    for (int lane = 0; lane < LANE_N_; lane++) all += reserved[lane];
    if (all <= 0) shared = 1;
    while (low < high) { /* the least that is enough */
        int64_t middle = low + (high - low) / 2;
        if (is_enough(middle, slots, reserved, shared)) high = middle;
        else low = middle + 1;
    }
    return low;
}
