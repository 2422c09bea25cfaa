/* Models whose calls cost more than was held for them, by their provider and name as asked for:
 * until prices are read again, or the process ends, their calls hold a multiple. The gateway's
 * loop. */
#ifndef GANTRY_GATEWAY_GATEWAY_EXCESS_H
#define GANTRY_GATEWAY_GATEWAY_EXCESS_H

#include "gateway/gateway.h"
#include "logic/cap.h"

#define EXCESS_MODELS_MAX 64

typedef struct Excesses Excesses;

/* What to hold for a call of model: so many times what it should need, 1 where nothing is known. Of
 * models that found no room among EXCESS_MODELS_MAX, the most that any of them took. */
int64_t excess_times(const Gateway *gateway, const GatewayProvider *provider, Str model);

/* A call that held hold was charged more. Returns what its model's calls hold from now on. */
int64_t excess_note(Gateway *gateway, const GatewayProvider *provider, Str model,
                    const CapHold *hold, const CapHold *charged);

/* Forgets all of them. */
void excess_clear(Gateway *gateway);

#endif
