/* Tripwire: what ends a rollout at once, without statistics.
 *
 *   budget      a few of the canary's tasks each cost many times what nearly all of the stable
 *               version's cost, or were stopped by their own caps on money or tokens while none of
 *               the stable version's was
 *   sandbox     a few of the canary's attempts were ended because they used more of the machine
 *               than their limits allow, and none of the stable version's was
 *   crash loop  the canary's last attempts all crashed, and most of what ended of the stable
 *               version since the first of these crashes did not: it is not the world around them.
 *               Too little of the stable version is waited for, unless it has none to come, or the
 *               crashes go on for several times as many. A worker that dies counts once, whatever
 *               ran there
 *
 * All look at the last tasks of each version only, so they cost the same whatever has been. They
 * act on what cannot be chance for a version that works; everything else is for logic/evidence.h.
 * Pure; any thread.
 */
#ifndef GANTRY_LOGIC_TRIPWIRE_H
#define GANTRY_LOGIC_TRIPWIRE_H

#include "logic/rollout.h"
#include "logic/task.h"

#define TRIPWIRE_TASKS 64        /* looked at, of each version */
#define TRIPWIRE_ATTEMPTS 64     /* the same */
#define TRIPWIRE_DEEP_TASKS 2048 /* whose attempts are looked at while the canary crashes */
#define TRIPWIRE_RUNAWAYS 3      /* tasks that ran away */
#define TRIPWIRE_COST_FACTOR 10
#define TRIPWIRE_CRASHES 10
#define TRIPWIRE_LIMITS 3
#define TRIPWIRE_CONTROL_MIN 4 /* attempts of the stable version that say anything */
#define TRIPWIRE_PATIENCE 4    /* times as many crashes as are needed, while these are awaited */

typedef struct {
    int64_t cost_factor; /* of the 99.5th percentile of the stable version; 0: off */
    int64_t crashes;     /* attempts in a row; 0: off */
    int64_t limits;      /* attempts that reached a limit on memory, CPU time, ...; 0: off */
} TripwirePlan;

/* The last of a version, newest first. */
typedef struct {
    int64_t cost_nusd[TRIPWIRE_TASKS];
    bool capped[TRIPWIRE_TASKS]; /* stopped by its cap on money or tokens */
    size_t tasks_n;
    TaskOutcome attempts[TRIPWIRE_ATTEMPTS]; /* ended ones; lost ones once a worker */
    bool limited[TRIPWIRE_ATTEMPTS];         /* of these */
    int64_t ended_ms[TRIPWIRE_ATTEMPTS];     /* the same */
    size_t attempts_n;
} TripwireTail;

/* What ended of the stable version since the first crash of the canary's streak. */
typedef struct {
    int64_t attempts, crashes; /* of those that say anything */
    bool goes_on;              /* it still gets tasks, so more is to come */
} TripwireMeanwhile;

/* When the first of the crashes ended that the canary's attempts end with; INT64_MAX: they are too
 * few, so that nothing of the stable version has to be looked at. */
int64_t tripwire_crashes_since(const TripwirePlan *plan, const TripwireTail *canary);

/* cost_cap_nusd: that percentile. */
Tripwire tripwire_look(const TripwirePlan *plan, const TripwireTail *canary,
                       const TripwireTail *control, const TripwireMeanwhile *meanwhile,
                       int64_t cost_cap_nusd);

#endif
