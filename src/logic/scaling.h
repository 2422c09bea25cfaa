/* Scaling: how many slots, and so workers, a lane needs.
 *
 * Slots in use are the rate of arrivals times the time a task takes (Little's law); with a target
 * for how far slots should be taken, that is the slots needed. What waits is to be worked off
 * soon (a fifth of ScalingRule.down_ms), and what runs has its slots, however rarely it comes.
 * Rates are smoothed. More is wanted at once; less only when the need has been lower for
 * ScalingRule.down_ms, and then as much as the highest need of that time: who has not looked for so
 * long (a server that has just begun) gives nothing up. Pure; whoever holds it guards it. Starts
 * zeroed.
 */
#ifndef GANTRY_LOGIC_SCALING_H
#define GANTRY_LOGIC_SCALING_H

#include "base/common.h"
#include "logic/lane.h"

#define SCALING_SERVICE_MS 300000 /* and of how long tasks take */
#define SCALING_DOWN_MS 300000    /* default: of lower need before a worker is given up */
#define SCALING_SOON_PARTS \
    5                    /* rates are averaged over, a backlog is gone in, one part in so many */
#define SCALING_PARTS 10 /* the time above is watched in so many parts */
#define SCALING_SLOTS_MAX 1e9

typedef struct {
    int64_t utilization_percent; /* target, 1..100 */
    int64_t workers_min, workers_max;
    int64_t down_ms; /* of lower need before a worker is given up; 0: SCALING_DOWN_MS */
} ScalingRule;

#define SCALING_RULE_DEFAULT                   \
    ((ScalingRule){ .utilization_percent = 70, \
                    .workers_min = 0,          \
                    .workers_max = 100,        \
                    .down_ms = SCALING_DOWN_MS })

/* What is to be seen of a lane, every second or so. */
typedef struct {
    int64_t now_ms;                /* monotonic */
    int64_t arrived, started, ran; /* tasks and attempts since start */
    int64_t ran_ms;                /* how long the last took together */
    int64_t queued, running;       /* now */
} ScalingView;

typedef struct {
    bool begun;
    int64_t since_ms; /* the first look */
    ScalingView last;
    double arrivals_per_s, starts_per_s;
    double ran, ran_ms; /* of late */
    double busy_ms;     /* for which slots were taken of late, together */
    double slots;       /* wanted */
    int64_t part_at_ms;
    double
        most[SCALING_PARTS]; /* highest need of each part of the time watched, the latest first */
} Scaling;

/* Takes a look in: the slots wanted are in scaling->slots. */
void scaling_step(Scaling *scaling, const ScalingRule *rule, const ScalingView *view);

/* How long an attempt takes: the mean of those that ended of late, or more when those that go on
 * have run for longer already (all the time that slots were taken, over the attempts that ended or
 * go on: no more than the truth, and known before a first one of many minutes has ended). 0:
 * nothing has run of late. */
int64_t scaling_service_ms(const Scaling *scaling);

/* Whether it has looked for long enough to say that less is needed than there is. */
bool scaling_knows(const Scaling *scaling, const ScalingRule *rule);

/* Workers wanted, where as many are there. */
int64_t scaling_keep(const ScalingRule *rule, int64_t wanted, int64_t there, bool knows);

/* Workers for so many slots, where one has worker_slots of them (0: unknown, taken for 1). */
int64_t scaling_workers(const ScalingRule *rule, double slots, int64_t worker_slots);

/* Workers for so many slots of each lane at once, where one has on average so many of its own for
 * each lane and so many that all share: each lane takes its own first, and what is beyond that is
 * shared. A lane that such workers do not serve is left out; all 0: unknown, one shared. */
int64_t scaling_workers_all(const ScalingRule *rule, const double slots[LANE_N_],
                            const double reserved[LANE_N_], double shared);

#endif
