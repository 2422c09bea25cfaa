#include "logic/warm.h"

static const char *const names[WARM_STATE_N_] = { "off",  "starting", "ready",
                                                  "sick", "ending",   "resting" };

typedef struct {
    bool known;
    WarmState next;
    WarmAction action;
    bool fails;
} Row;

#define STAYS(state)                        \
    {                                       \
        true, state, WARM_DO_NOTHING, false \
    }
#define GOES(next)                         \
    {                                      \
        true, next, WARM_DO_NOTHING, false \
    }
#define STARTS                                    \
    {                                             \
        true, WARM_STARTING, WARM_DO_START, false \
    }
#define ENDS                                  \
    {                                         \
        true, WARM_ENDING, WARM_DO_END, false \
    }
#define FAILS                                     \
    {                                             \
        true, WARM_RESTING, WARM_DO_NOTHING, true \
    }

/* What is not here means nothing. A server that is ended for its failing fails when it exits: see
 * warm_step. */
static const Row rows[WARM_STATE_N_][WARM_EVENT_N_] = {
    [WARM_OFF] = { [WARM_ON_WANTED] = STARTS, [WARM_ON_DRAIN] = STAYS(WARM_OFF) },
    [WARM_STARTING] = { [WARM_ON_PING_OK] = GOES(WARM_READY),
                        [WARM_ON_LATE] = ENDS,
                        [WARM_ON_EXIT] = FAILS,
                        [WARM_ON_DRAIN] = ENDS },
    [WARM_READY] = { [WARM_ON_PING_OK] = STAYS(WARM_READY),
                     [WARM_ON_PING_BAD] = GOES(WARM_SICK),
                     [WARM_ON_EXIT] = FAILS,
                     [WARM_ON_IDLE] = ENDS,
                     [WARM_ON_DRAIN] = ENDS },
    [WARM_SICK] = { [WARM_ON_PING_OK] = GOES(WARM_READY),
                    [WARM_ON_PING_BAD] = STAYS(WARM_SICK),
                    [WARM_ON_LATE] = ENDS,
                    [WARM_ON_EXIT] = FAILS,
                    [WARM_ON_IDLE] = ENDS,
                    [WARM_ON_DRAIN] = ENDS },
    [WARM_ENDING] = { [WARM_ON_EXIT] = GOES(WARM_OFF), [WARM_ON_DRAIN] = STAYS(WARM_ENDING) },
    [WARM_RESTING] = { [WARM_ON_RESTED] = GOES(WARM_OFF), [WARM_ON_DRAIN] = GOES(WARM_OFF) },
};

const char *warm_state_name(WarmState state)
{
    assert(state < WARM_STATE_N_);
    return names[state];
}

static void rest(Warm *warm, int64_t now_ms)
{
    int64_t rest_ms = WARM_REST_MS;
    for (int64_t i = 0; i < warm->failures && rest_ms < WARM_REST_MS_MAX; i++) rest_ms *= 2;
    warm->failures++;
    warm->rest_until_ms = now_ms + MIN(rest_ms, WARM_REST_MS_MAX);
}

/* Three pings that were answered badly are as good as none that was answered in time. */
static WarmEvent counted(Warm *warm, WarmEvent event)
{
    if (event == WARM_ON_PING_OK) warm->bad_pings = 0;
    if (event != WARM_ON_PING_BAD || (warm->state != WARM_READY && warm->state != WARM_SICK))
        return event;
    return ++warm->bad_pings >= WARM_BAD_PINGS ? WARM_ON_LATE : event;
}

WarmAction warm_step(Warm *warm, WarmEvent event, int64_t now_ms)
{
    assert(warm->state < WARM_STATE_N_ && event < WARM_EVENT_N_);
    event = counted(warm, event);
    const Row *row = &rows[warm->state][event];
    warm->drained |= event == WARM_ON_DRAIN;
    if (!row->known || (row->action == WARM_DO_START && warm->drained)) return WARM_DO_NOTHING;
    bool failing = event == WARM_ON_LATE;
    if (row->next == WARM_READY && warm->state == WARM_STARTING) warm->ready_at_ms = now_ms;
    if (warm->state == WARM_READY && now_ms - warm->ready_at_ms >= WARM_STABLE_MS)
        warm->failures = 0;
    if (row->fails || failing) rest(warm, now_ms);
    if (row->action == WARM_DO_START) warm->bad_pings = 0;
    warm->state = row->next;
    /* ended for its failing, it rests as if it had exited by itself */
    if (event == WARM_ON_EXIT && row->next == WARM_OFF && warm->rest_until_ms > now_ms &&
        !warm->drained)
        warm->state = WARM_RESTING;
    return row->action;
}
