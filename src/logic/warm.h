/* Warm: the life of a server that is started for its tasks and kept, as one transition table.
 *
 *   off ──wanted──> starting ──ping ok──> ready <──ping ok── sick
 *    ^                 │ exit, too late     │ └──ping bad──> sick ──bad again──┐
 *    │                 v                    │ idle, drain      (three in all)  │
 *    ├──rested── resting <──exit────────────┼──────────────────────────────────┤
 *    └──────────── exit ── ending <─────────┘<─────────────────────────────────┘
 *
 * Pure; whoever holds it guards it. Starts zeroed.
 */
#ifndef GANTRY_LOGIC_WARM_H
#define GANTRY_LOGIC_WARM_H

#include "base/common.h"

#define WARM_BAD_PINGS 3 /* in a row end a server that was ready */
#define WARM_REST_MS 500 /* after the first failure; twice as long after each further one */
#define WARM_REST_MS_MAX 30000
#define WARM_STABLE_MS 30000 /* ready for so long, earlier failures are forgotten */

typedef enum {
    WARM_OFF,
    WARM_STARTING, /* its program runs, it has not answered yet */
    WARM_READY,
    WARM_SICK,    /* was ready; gets no task until it answers again */
    WARM_ENDING,  /* told to end */
    WARM_RESTING, /* failed: not started again before its rest is over */
    WARM_STATE_N_
} WarmState;

typedef enum {
    WARM_ON_WANTED,   /* a task waits for it */
    WARM_ON_PING_OK,  /* Healthy or HealthyBusy */
    WARM_ON_PING_BAD, /* no answer, or another one */
    WARM_ON_LATE,     /* it should have answered by now */
    WARM_ON_EXIT,     /* its program ended, or could not be started */
    WARM_ON_RESTED,
    WARM_ON_IDLE,  /* nobody has needed it for long */
    WARM_ON_DRAIN, /* the worker ends */
    WARM_EVENT_N_
} WarmEvent;

typedef enum {
    WARM_DO_NOTHING,
    WARM_DO_START, /* start its program */
    WARM_DO_END,   /* SIGTERM, after its grace SIGKILL */
} WarmAction;

typedef struct {
    WarmState state;
    bool drained;      /* not to be started again */
    int64_t bad_pings; /* in a row */
    int64_t failures;  /* in a row: exits nobody asked for, and starts that came to nothing */
    int64_t ready_at_ms;
    int64_t rest_until_ms;
} Warm;

const char *warm_state_name(WarmState state); /* "starting" */

/* What is to be done. An event that means nothing in the state changes nothing. */
MUST_CHECK WarmAction warm_step(Warm *warm, WarmEvent event, int64_t now_ms);

#endif
