/* Prices: pico-USD a token, and what a call costs.
 *
 * A table holds entries from configuration and imports. Below it lies a short built-in list of
 * well-known models by dated id, and the simulator's models with a fictitious price, so that
 * demonstrations show money: a million tokens of "sim/..." cost 0.50 USD in, 0.125 cached, 2.00
 * out; "sim/small..." a fifth of that, "sim/large..." five times that. A model without an entry has
 * no price: the gateway refuses it.
 *
 * Pure; a table belongs to one thread, or is no longer changed once it is shared.
 */
#ifndef GANTRY_LOGIC_PRICE_H
#define GANTRY_LOGIC_PRICE_H

#include "base/arena.h"
#include "base/money.h"
#include "logic/usage.h"

/* Pico-USD for one token of each kind. */
typedef struct {
    int64_t input;
    int64_t output;
    int64_t cached;   /* input read from the provider's cache */
    int64_t write_5m; /* input written to it */
    int64_t write_1h;
    int64_t reasoning; /* output that is thinking */
    int64_t audio_input;
    int64_t audio_output;
} PriceRates;

typedef struct {
    Str model; /* the entry's key; ends in `*`: a pattern */
    PriceRates base;
    int64_t tier_above; /* input tokens beyond which the whole call is billed at tier; 0: none */
    PriceRates tier;
    int64_t web_search; /* pico-USD a search of the provider's; 0: unknown, so refused */
    int64_t input_max;  /* tokens; 0: unknown */
    int64_t output_max; /* tokens; 0: unknown */
    bool fictitious;
} Price;

#define PRICE_UNSET (-1)
#define PRICE_RATES_UNSET                                                                        \
    ((PriceRates){ PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, \
                   PRICE_UNSET, PRICE_UNSET })
#define PRICE_ENTRIES_MAX 20000
#define PRICE_RATE_MAX INT64_C(1000000000000) /* 1 USD a token: more is a mistake */

typedef struct {
    Arena *arena;
    const Price **sorted; /* by model */
    size_t n, cap;
} PriceTable;

/* An empty table (the built-in list lies below it); entries are copied into the arena. */
void price_table_init(PriceTable *table, Arena *arena);

/* Adds or replaces an entry. Rates may be PRICE_UNSET, except input and output (embeddings: output
 * 0), see price_fill. Returns 0, -EINVAL with diag (a rate or bound out of range, no model),
 * -ENOSPC (PRICE_ENTRIES_MAX), -ENOMEM. */
MUST_CHECK int price_table_add(PriceTable *table, const Price *price);

/* The price of model as provider sells it ("openai"; may be empty), or NULL: the entry with that
 * id; else "provider/id"; else, when the id begins with "provider/", the rest of it; in that order
 * in the table, then in the built-in list, then the longest pattern of either. */
const Price *price_find(const PriceTable *table, Str provider, Str model);

/* The i-th entry for listings, the table's own first; NULL beyond the last. */
const Price *price_at(const PriceTable *table, size_t i);

/* Makes every PRICE_UNSET explicit, never cheaper than it may be: cached, write_5m and audio cost
 * as plain tokens, write_1h as plain ones or, where writing is dearer, twice that, reasoning as
 * output, the tier at least as its base. */
void price_fill(Price *price);

/* "0.15" USD a million tokens to pico-USD a token, rounded up. 0, -EINVAL, -ERANGE. */
MUST_CHECK int price_from_usd_per_million(Str text, int64_t *ret_pusd);

/* What the call cost, in nano-USD rounded up once:
 *   each part (cached, written, audio, reasoning) at its rate, the rest of input and of output at
 *   the plain ones, searches by the piece;
 * all at the tier's rates when input is above tier_above. Parts beyond their totals count in full.
 * Saturates at INT64_MAX. */
int64_t price_cost(const Price *price, const Usage *usage);

/* What makes a call dearer than its plain tokens. */
typedef struct {
    bool cache_write;     /* input may be written to the provider's cache at a rate of its own */
    bool audio;           /* input or output may be audio */
    int64_t web_searches; /* at most this many */
} PriceTerms;

/* The most the call can cost, in nano-USD: all input at the dearest input rate that may apply, all
 * output at the dearest output rate. Saturates at INT64_MAX. For every usage
 * within in_ub, out_ub and terms, price_cost <= price_hold. */
int64_t price_hold(const Price *price, int64_t in_ub, int64_t out_ub, const PriceTerms *terms);

/* The most output tokens that a hold of at most budget_nusd allows for in_ub input tokens; 0 when
 * not even the input fits. price_hold of the result is <= budget_nusd, of the result + 1 it is not
 * (unless output is free: INT64_MAX). */
int64_t price_output_affordable(const Price *price, int64_t in_ub, const PriceTerms *terms,
                                int64_t budget_nusd);

typedef struct {
    size_t imported;
    size_t skipped;          /* another mode, no token price, numbers out of range */
    char first_skipped[128]; /* model, for the report; "" */
} PriceImport;

/* Adds what LiteLLM's model_prices_and_context_window.json says of models with mode chat,
 * completion, responses and embedding: an object keyed by model, USD a token as decimal text taken
 * exactly and rounded up below a pico-USD; sample_spec and what has no input price are skipped. Of
 * several above-Nk tiers the lowest threshold with the highest rates is kept: never under-charged.
 * scratch is needed for 13 times the text. Returns 0, -EINVAL with diag (not such a file; nothing
 * was added), -ENOSPC or -ENOMEM (what fitted was added). */
MUST_CHECK int price_import(PriceTable *table, Arena *scratch, Str text, PriceImport *ret);

#endif
