#include "gateway/gateway_excess.h"

#include <stdlib.h>

#include "gateway/gateway_private.h"
#include "logic/request_info.h"

struct Excesses {
    struct {
        const GatewayProvider *provider;
        char model[REQUEST_MODEL_BYTES_MAX + 1];
        int64_t times;
    } list[EXCESS_MODELS_MAX];
    size_t n;
    int64_t others; /* of those that found no room */
};

/* Its place in the list, or the list's end. */
static size_t place_of(const Excesses *all, const GatewayProvider *provider, Str model)
{
    size_t i = 0;
    while (i < all->n &&
           (all->list[i].provider != provider || !str_eq(str_of(all->list[i].model), model)))
        i++;
    return i;
}

int64_t excess_times(const Gateway *gateway, const GatewayProvider *provider, Str model)
{
    const Excesses *all = gateway->excesses;
    if (!all) return 1;
    size_t i = place_of(all, provider, model);
    return i < all->n ? all->list[i].times : all->others;
}

int64_t excess_note(Gateway *gateway, const GatewayProvider *provider, Str model,
                    const CapHold *hold, const CapHold *charged)
{
    int64_t times = cap_times(excess_times(gateway, provider, model), hold, charged);
    Excesses *all = gateway->excesses;
    if (!all) {
        all = gateway->excesses = xcalloc(1, sizeof *all);
        all->others = 1;
    }
    size_t i = place_of(all, provider, model);
    if (i == EXCESS_MODELS_MAX) return all->others = MAX(all->others, times);
    if (i == all->n) {
        all->list[all->n].provider = provider;
        str_copy(all->list[all->n++].model, sizeof all->list->model, model);
    }
    return all->list[i].times = times;
}

void excess_clear(Gateway *gateway)
{
    free(TAKE(gateway->excesses));
}
