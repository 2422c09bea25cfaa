#include "gateway/gateway_prices.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "gateway/gateway_private.h"
#include "sys/fiber.h"

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

typedef struct {
    PriceList *list;
    Str entries;
    PriceImport result;
} Reading;

/* On the thread pool: a whole list takes longer than a loop may be busy. */
static int read_list(void *arg)
{
    Reading *reading = arg;
    CLEANUP(arena_deinit) Arena scratch;
    arena_init(&scratch, LIST_ARENA_BYTES_MAX + GATEWAY_JSON_FACTOR * reading->entries.len);
    return price_import(&reading->list->imported, &scratch, reading->entries, &reading->result);
}

int gateway_set_prices_wait(Gateway *gateway, Str entries)
{
    PriceList *list = xcalloc(1, sizeof *list);
    list->refs = 1;
    arena_init(&list->arena, LIST_ARENA_BYTES_MAX);
    price_table_init(&list->imported, &list->arena);
    Reading reading = { .list = list, .entries = entries };
    int r = work_wait(read_list, &reading);
    if (r < 0) {
        price_list_unref(list);
        return r;
    }
    list->all = *gateway->config->prices;
    list->all.below = &list->imported;
    price_list_unref(gateway->prices);
    gateway->prices = list;
    excess_clear(gateway); /* they may be right now */
    LOG_INFO("prices taken over", LOG_INT("entries", (int64_t)reading.result.imported));
    return 0;
}

const PriceTable *gateway_prices(const Gateway *gateway)
{
    return price_list_table(gateway->prices, gateway->config->prices);
}
