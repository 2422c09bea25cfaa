/* What there is to see of a gateway's rate limits and breakers, for /api/limits, /api/breakers and
 * /metrics; and its shares of limits that other workers work under too. Any thread, but for what
 * says otherwise. */
#ifndef GANTRY_GATEWAY_GATEWAY_LIMITS_H
#define GANTRY_GATEWAY_GATEWAY_LIMITS_H

#include "gateway/gateway.h"
#include "logic/rate.h"
#include "logic/share.h"
#include "net/breakers.h"

/* The breakers of models, by "PROVIDER/MODEL". */
Breakers *gateway_breakers(const Gateway *gateway);

/* What is shared out: the units of a rate, and calls at the same time. */
#define LIMIT_CONCURRENT RATE_N_
#define LIMIT_UNITS (RATE_N_ + 1)

/* A provider as a whole, or one of its models. */
typedef struct {
    char provider[96];
    char model[96];         /* "": the provider as a whole */
    RateAmounts configured; /* a minute; 0: none */
    RateAmounts learned;    /* from the provider's answers; 0: nothing */
    RateAmounts used;       /* in the last minute, calls in flight by their estimate */
    int64_t concurrent_limit, in_flight;
    int64_t waiting[LANE_N_]; /* of the provider; 0 in its models */
    int64_t waiting_all;
    int64_t blocked_ms; /* the provider asked for silence for so much longer: */
    int64_t silent_ms;  /* it asked this worker */
    int64_t open_ms;    /* the model's breaker is open for so much longer by what it saw here */
    uint64_t throttled; /* answers that said we were too fast */
    ShareAsk asks[LIMIT_UNITS];
} GatewayLimit;

#define GATEWAY_LIMITS_MAX 512 /* as many as there ever are */

/* Writes at most max of them, providers before their models; returns how many. */
size_t gateway_limits_list(const Gateway *gateway, GatewayLimit *ret, size_t max);

typedef struct {
    uint64_t waiting[LANE_N_];  /* now */
    uint64_t waited[LANE_N_];   /* calls that had to */
    uint64_t waited_us;         /* all of them together */
    uint64_t queue_full;        /* refused: too many waited already */
    uint64_t overdue;           /* refused: no room before the client's deadline */
    uint64_t throttled;         /* answers of providers that said we were too fast */
    uint64_t retries;           /* attempts made again at the same model */
    uint64_t retries_exhausted; /* not made for want of retry budget */
    uint64_t fallbacks;         /* attempts at another model */
    uint64_t models_full;       /* calls of models beyond those that are counted one by one */
    uint64_t heartbeats;
} GatewayLimitStats;
void gateway_limit_stats(const Gateway *gateway, GatewayLimitStats *ret);

/* --- shares ----------------------------------------------------------------------------------- */

typedef struct {
    char provider[96];
    char model[96];         /* "": the provider as a whole */
    int64_t v[LIMIT_UNITS]; /* of what has no limit: anything */
    RateAmounts learned;    /* what any of those who share was told; 0: nothing */
    int64_t silent_ms;      /* the provider asked one of them for silence for so much longer */
    int64_t open_ms;        /* the model's breaker is open with one of the others for so long */
} GatewayShare;

/* While it shares, what has a limit needs a share to be sent. On its loop. */
void gateway_set_sharing(Gateway *gateway, bool sharing);
/* Its shares until then (clock_mono_ms), and what else the others know; what is not named keeps
 * what it has. On its loop. */
void gateway_take_shares(Gateway *gateway, const GatewayShare *shares, size_t n, int64_t until_ms);
/* Waits until there is something to tell: a call lacks a share, the provider has asked for silence.
 * Returns 0, -ETIMEDOUT, -ECANCELED. On a fiber of its loop. */
int gateway_lack_wait(Gateway *gateway, int64_t deadline_ms);

#endif
