/* What there is to see of a gateway's rate limits and breakers, for /api/limits, /api/breakers and
 * /metrics. Any thread. */
#ifndef GANTRY_GATEWAY_GATEWAY_LIMITS_H
#define GANTRY_GATEWAY_GATEWAY_LIMITS_H

#include "gateway/gateway.h"
#include "logic/rate.h"
#include "net/breakers.h"

/* The breakers of models, by "PROVIDER/MODEL". */
Breakers *gateway_breakers(const Gateway *gateway);

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
    int64_t blocked_ms; /* the provider asked for silence for so much longer */
    uint64_t throttled; /* answers that said we were too fast */
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

#endif
