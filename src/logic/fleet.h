/* Fleet: which worker processes a supervisor starts, and which it drains.
 *
 * More are started at once, though at most as many as there are; one is drained at a time, the one
 * that has least to do, and the next only after a while. Those of an earlier generation are
 * replaced: they are drained once as many of the present one work as are wanted. Pure; whoever
 * holds it guards it. Starts zeroed.
 */
#ifndef GANTRY_LOGIC_FLEET_H
#define GANTRY_LOGIC_FLEET_H

#include "base/common.h"

#define FLEET_MAX 256      /* members wanted */
#define FLEET_REST_MS 1000 /* after a member that ended by itself; doubles */
#define FLEET_REST_MS_MAX 60000
#define FLEET_START_TIMES 4   /* a member may take as often FleetRule.hung_ms to start */
#define FLEET_STABLE_MS 60000 /* without such an end the rest is short again */

typedef struct {
    int64_t min, max;      /* members that are not being drained */
    int64_t down_every_ms; /* between two drains */
    int64_t hung_ms;       /* away from the control plane, and it is taken for hung */
} FleetRule;

typedef enum { MEMBER_STARTING, MEMBER_WORKING, MEMBER_DRAINING } MemberState;

typedef struct {
    MemberState state;
    int64_t generation;
    int64_t started_ms;
    int64_t running;   /* tasks, as the control plane last said */
    int64_t missed_ms; /* since when each answer of the control plane has lacked it; 0: none */
} FleetMember;

typedef struct {
    int64_t generation;
    int64_t drained_at_ms;
    int64_t failures; /* in a row */
    int64_t failed_at_ms, rest_until_ms;
} Fleet;

typedef struct {
    int64_t start; /* so many */
    int64_t drain; /* index of a member, or -1 */
} FleetPlan;

/* What is to be done now, where so many members are wanted. It is taken to be done. */
FleetPlan fleet_plan(Fleet *fleet, const FleetRule *rule, const FleetMember *members, size_t n,
                     int64_t wanted, int64_t now_ms);

/* Takes in whether the control plane lists a member among the workers that have a lease. Whether it
 * is taken for hung: it lives, but was not there for too long. One that starts works once it is
 * there. */
MUST_CHECK bool fleet_look(const FleetRule *rule, FleetMember *member, bool listed, int64_t now_ms);

/* The control plane did not answer: nobody is to blame, and the time begins anew. */
void fleet_unseen(FleetMember *member);

/* A member ended that was not told to, or could not be started. */
void fleet_failed(Fleet *fleet, int64_t now_ms);

/* Members from now on replace those before. */
void fleet_replace(Fleet *fleet);

#endif
