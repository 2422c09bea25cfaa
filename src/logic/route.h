/* Route: which version a new task gets while a rollout is on.
 *
 * Order: a version named by the caller, then what the unit was given before, then the hash. The
 * unit is the session, else the user, else the task itself; by configuration the user or the tenant
 * comes first, or nothing but the task counts. The hash is salted with the rollout's id, so it is
 * the same on every replica, raising the weight only adds units, and the next rollout draws anew.
 *
 * A session keeps its arm as long as the rollout lasts. One that is in the middle of something when
 * the rollout first sees it stays where it is, with control, and in no statistics: which do so is
 * settled before any of them is assigned, so the arms stay alike. Where all goes to the canary it
 * goes too. A user or tenant lives longer than a ramp: it may go from control to canary when the
 * weight reaches its bucket (never back), and counts in the statistics with its first assignment
 * only. A rollback overrides everything but a named version. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_ROUTE_H
#define GANTRY_LOGIC_ROUTE_H

#include "base/str.h"

#define ROUTE_BUCKETS 10000
#define ROUTE_LIVE_MS (INT64_C(60) * 60 * 1000) /* so long a session that keeps something is live */

typedef enum { ARM_CONTROL, ARM_CANARY } Arm;

typedef enum { UNIT_SESSION, UNIT_USER, UNIT_TENANT, UNIT_TASK } RouteUnit;

/* (murmur3_32(salt, NUL, unit) * 10000) >> 32: 0..9999. */
int32_t route_bucket(Str salt, Str unit);

/* What is known of the task; empty: absent. */
typedef struct {
    Str session, user, tenant;
    Str task; /* never empty */
} RouteWho;

/* What is kept together: a session, else a user, else a task is a unit by itself; all that a user,
 * or a tenant, does (as before where it is not known); or every task stands alone. */
typedef enum {
    ROUTE_BY_SESSION,
    ROUTE_BY_USER,
    ROUTE_BY_TENANT,
    ROUTE_BY_TASK,
    ROUTE_BY_N_
} RouteBy;

/* The unit of a task. Sessions and users are their tenant's: "tenant\nsession", if there is one. In
 * text, which is cut off where it is full, or borrowed from who. */
#define ROUTE_UNIT_MAX 512
Str route_unit(const RouteWho *who, RouteBy by, RouteUnit *ret_kind, char text[ROUTE_UNIT_MAX]);

typedef struct {
    Str salt;          /* the rollout's id */
    int32_t weight_bp; /* 0..10000 */
    bool rolled_back;  /* everything to control */
} RouteRule;

/* What the unit got at first sight in this rollout. */
typedef struct {
    bool known;
    Arm arm;
    double pi; /* the canary's probability then */
    bool live; /* not known, and a session that has work under way or has just kept something */
} RouteBefore;

typedef struct {
    Arm arm;
    double pi;    /* of this decision */
    bool counts;  /* its outcome belongs to the statistics: first sight, not pinned, 0 < pi < 1 */
    bool persist; /* the arm is new and has to be stored */
} RouteDecision;

/* A task whose version nobody named. */
RouteDecision route_decide(const RouteRule *rule, RouteUnit kind, Str unit,
                           const RouteBefore *before);

#endif
