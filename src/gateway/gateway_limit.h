/* What the gateway waits for before it sends: room in the rate limits of the provider and of the
 * model, and a breaker that lets it through. Not for other folders. On the gateway's loop; what
 * other threads read is behind a lock. */
#ifndef GANTRY_GATEWAY_GATEWAY_LIMIT_H
#define GANTRY_GATEWAY_GATEWAY_LIMIT_H

#include "gateway/gateway_config.h"
#include "logic/rate.h"
#include "net/breakers.h"
#include "sys/fiber.h"

typedef struct Limits Limits;
typedef struct LimitModel LimitModel;

/* More models share what is left of their provider. */
#define LIMIT_MODELS_MAX 256

/* config must outlive it. */
Limits *limits_new(const GatewayConfig *config);
/* Nothing may wait. NULL is accepted. */
void limits_free(Limits *limits);

/* An attempt's right to be sent. Zeroed: none is held. */
typedef struct {
    RateWaiter waiter;
    LimitModel *model; /* NULL: none */
    Cond *wake;        /* of who waits */
    BreakerTicket ticket;
    int64_t granted_us; /* clock_mono_us */
} CallPermit;

#endif
