/* Imported prices, as the entries of LiteLLM's list that they were read from (logic/price.h says
 * what they mean). Every import moves a revision that never repeats, so that who holds a copy knows
 * whether it is the last. Functions run inside a store job. */
#ifndef GANTRY_STORE_PRICE_STORE_H
#define GANTRY_STORE_PRICE_STORE_H

#include "codec/json.h"
#include "store/db.h"

#define PRICE_LIST_BYTES_MAX ((size_t)16 << 20) /* of all entries */

typedef struct {
    Str model;
    Str entry; /* a JSON object */
} PriceEntry;

/* Puts entries in place of those of the same models, or (replace) of all. Returns 0 with the new
 * revision, PRICE_E_FULL (there would be more entries, or bytes of them, than there may be: nothing
 * changes), -errno. */
#define PRICE_E_FULL 1
MUST_CHECK int price_put(Db *db, const PriceEntry *entries, size_t n, bool replace, int64_t now_ms,
                         int64_t *ret_revision);

/* 0: nothing was ever imported. Returns 0 or -errno. */
MUST_CHECK int price_revision(Db *db, int64_t *ret);

/* Appends all entries as one object keyed by model, in the order of the models. Returns 0, -ENOMEM
 * (out is full), -errno. */
MUST_CHECK int price_entries_write(Db *db, Buf *out);

/* Whether there is an entry of that model: 0, -ENOENT, -errno. */
MUST_CHECK int price_exists(Db *db, Str model);

#endif
