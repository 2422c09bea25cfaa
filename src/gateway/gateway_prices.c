#include "gateway/gateway_prices.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "gateway/gateway_private.h"

#define LIST_ARENA_BYTES_MAX ((size_t)256 << 20)

struct PriceList {
    int refs;
    Arena arena;
    PriceTable imported;
    PriceTable all; /* the configured entries, with .imported below */
};

PriceList *price_list_ref(PriceList *list)
{
    if (list) list->refs++;
    return list;
}

void price_list_unref(PriceList *list)
{
    if (!list) return;
    assert(list->refs > 0);
    if (--list->refs > 0) return;
    arena_deinit(&list->arena);
    free(list);
}

const PriceTable *price_list_table(const PriceList *list, const PriceTable *configured)
{
    return list ? &list->all : configured;
}

int gateway_set_prices(Gateway *gateway, Str entries)
{
    Arena scratch;
    PriceImport result = { 0 };
    PriceList *list = xcalloc(1, sizeof *list);
    list->refs = 1;
    arena_init(&list->arena, LIST_ARENA_BYTES_MAX);
    arena_init(&scratch, LIST_ARENA_BYTES_MAX + GATEWAY_JSON_FACTOR * entries.len);
    price_table_init(&list->imported, &list->arena);
    int r = price_import(&list->imported, &scratch, entries, &result);
    arena_deinit(&scratch);
    if (r < 0) {
        price_list_unref(list);
        return r;
    }
    list->all = *gateway->config->prices;
    list->all.below = &list->imported;
    price_list_unref(gateway->prices);
    gateway->prices = list;
    LOG_INFO("prices taken over", LOG_INT("entries", (int64_t)result.imported));
    return 0;
}

const PriceTable *gateway_prices(const Gateway *gateway)
{
    return price_list_table(gateway->prices, gateway->config->prices);
}
