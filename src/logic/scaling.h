/* Scaling: how many workers a lane needs.
 *
 * Slots in use are the rate of arrivals times the time a task takes (Little's law); with a target
 * for how far slots should be taken, that is the slots needed. What waits beyond the objective is
 * to be worked off within SCALING_DRAIN_MS. Rates are smoothed. More workers are wanted at once;
 * fewer only when the need has been lower for SCALING_DOWN_MS, and then as many as the highest need
 * of that time. Pure; whoever holds it guards it. Starts zeroed.
 */
#ifndef GANTRY_LOGIC_SCALING_H
#define GANTRY_LOGIC_SCALING_H

#include "base/common.h"

#define SCALING_RATE_MS 60000  /* time constant of the rate of arrivals */
#define SCALING_DRAIN_MS 60000 /* a backlog should be gone after that */
#define SCALING_DOWN_MS 300000 /* of lower need before a worker is given up */
#define SCALING_PARTS 10       /* the time above is watched in so many parts */
#define SCALING_WORKERS_MAX 10000

typedef struct {
    double utilization; /* target, in (0, 1] */
    int64_t workers_min, workers_max;
} ScalingRule;

#define SCALING_RULE_DEFAULT ((ScalingRule){ .utilization = 0.7, .workers_max = 100 })

/* What is to be seen of a lane, every second or so. */
typedef struct {
    int64_t now_ms;     /* monotonic */
    int64_t arrived;    /* tasks since start */
    int64_t service_ms; /* what a task takes; 0: unknown */
    int64_t queued, running;
    int64_t worker_slots; /* slots a worker has for this lane; 0: unknown, taken for one */
} ScalingView;

typedef struct {
    bool begun;
    int64_t at_ms, arrived;
    double per_s; /* arrivals */
    int64_t part_at_ms;
    int64_t
        most[SCALING_PARTS]; /* highest need of each part of the time watched, the latest first */
} Scaling;

/* Workers wanted. */
int64_t scaling_step(Scaling *scaling, const ScalingRule *rule, const ScalingView *view);

#endif
