/* Imported prices of a gateway: a list that is replaced whole while calls go on. A call keeps the
 * list it began with, so that what was held and what is settled have the same price. Not for other
 * folders; everything belongs to the gateway's loop. */
#ifndef GANTRY_GATEWAY_GATEWAY_PRICES_H
#define GANTRY_GATEWAY_GATEWAY_PRICES_H

#include "logic/price.h"

typedef struct PriceList PriceList;

/* NULL is accepted by all of them, and stands for no imported prices. */
PriceList *price_list_ref(PriceList *list);
void price_list_unref(PriceList *list);
/* What to look prices up in: those of the configuration, below them the imported ones. */
const PriceTable *price_list_table(const PriceList *list, const PriceTable *configured);

#endif
