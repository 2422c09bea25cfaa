/* Prices: pico-USD a token, and what a call costs.
 *
 * A table holds entries from configuration; below it may lie an imported one, and below that a
 * short built-in list of well-known models by dated id, and the simulator's models with a
 * fictitious price, so that demonstrations show money: a million tokens of "sim/..." cost 0.50 USD
 * in, 0.125 cached, 2.00 out; "sim/small..." a fifth of that, "sim/large..." five times that. A
 * model without an entry has no price: the gateway refuses it.
 *
 * Pure, without floating point; a table belongs to one thread, or is no longer changed once it is
 * shared.
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
    int64_t audio_input, audio_output;
    int64_t image_input, image_output;
} PriceRates;

#define PRICE_UNSET (-1)
#define PRICE_RATES_UNSET                                                                        \
    ((PriceRates){ PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, \
                   PRICE_UNSET, PRICE_UNSET, PRICE_UNSET, PRICE_UNSET })
#define PRICE_TIERS_MAX 8

/* The rates of a whole call whose input is larger than above tokens. */
typedef struct {
    int64_t above;
    PriceRates rates;
} PriceTier;

typedef struct {
    PriceRates base;
    PriceTier tiers[PRICE_TIERS_MAX]; /* by above, rising */
    size_t tiers_n;
} PriceSchedule;

#define PRICE_UPLIFT_ONE INT64_C(1000000) /* millionths: 1 */

typedef struct {
    Str model;                        /* the entry's key; ends in `*`: a pattern */
    PriceRates base;                  /* of the usual service */
    PriceTier tiers[PRICE_TIERS_MAX]; /* by above, rising */
    size_t tiers_n;
    const PriceSchedule *others[SERVICE_N_]; /* of other services; NULL: not known */
    int64_t uplift[REGION_N_];               /* factor on tokens, in millionths; 0: none */
    int64_t search[SEARCH_N_];               /* pico-USD a web search; [SEARCH_UNKNOWN] the dearest;
                                              * 0: unknown, so refused */
    int64_t file_search;                     /* pico-USD a call; 0: unknown */
    int64_t code_session;                    /* pico-USD; 0: unknown */
    int64_t request;                         /* pico-USD a call, beside its tokens */
    int64_t second;                          /* pico-USD a second that the call takes */
    int64_t image;                           /* pico-USD an image of the input, beside its tokens */
    int64_t image_tokens_max; /* billed for an image at most; 0: see price_image_tokens */
    int64_t input_max;        /* tokens; 0: unknown */
    int64_t output_max;       /* tokens; 0: unknown */
    bool media_unpriced;      /* media cost something that is not here */
    bool fictitious;
} Price;

#define PRICE_ENTRIES_MAX 20000
#define PRICE_RATE_MAX INT64_C(1000000000000)   /* 1 USD a token: more is a mistake */
#define PRICE_FEE_MAX INT64_C(1000000000000000) /* 1000 USD a piece */
#define PRICE_UPLIFT_MAX (10 * PRICE_UPLIFT_ONE)

typedef struct PriceTable PriceTable;
struct PriceTable {
    Arena *arena;
    const PriceTable *below; /* looked into next; NULL: the built-in list is */
    const Price **sorted;    /* by model */
    size_t n, cap;
    size_t patterns_n; /* of n */
};

/* An empty table (the built-in list lies below it); entries are copied into the arena. */
void price_table_init(PriceTable *table, Arena *arena);

/* Adds or replaces an entry. Rates may be PRICE_UNSET, except input and output (embeddings: output
 * 0), see price_fill. Returns 0, -EINVAL with diag (a rate or bound out of range, no model),
 * -ENOSPC (PRICE_ENTRIES_MAX), -ENOMEM. */
MUST_CHECK int price_table_add(PriceTable *table, const Price *price);

/* The price of model as provider sells it ("openai"; may be empty), or NULL: the entry with that
 * id; else "provider/id"; else, when the id begins with "provider/", the rest of it; in that order
 * in the table, then in those below, then in the built-in list, then the longest pattern of any. */
const Price *price_find(const PriceTable *table, Str provider, Str model);

/* The i-th entry for listings, the table's own first, then those below, then the built-in list,
 * hidden ones too; NULL beyond the last. */
const Price *price_at(const PriceTable *table, size_t i);

/* Makes every PRICE_UNSET explicit, never cheaper than it may be: cached, write_5m, audio and
 * images cost as plain tokens, write_1h as plain ones or, where writing is dearer, twice that,
 * reasoning as output; a tier, or another service, at least as what it departs from. */
void price_fill(Price *price);
/* The same for the rates of another service, from those of the price, which are filled. */
void price_fill_service(const Price *price, PriceSchedule *service);

/* The tier above so many tokens, made (unset) and put in its place when there is none; NULL when
 * there is no room. */
PriceTier *price_tier(PriceTier tiers[PRICE_TIERS_MAX], size_t *n, int64_t above);

/* Tokens that one image is billed as at most: the price's own bound, else that of the family of
 * models; 0: not known. */
int64_t price_image_tokens(const Price *price);

/* "0.15" USD a million tokens to pico-USD a token, rounded up. 0, -EINVAL, -ERANGE. */
MUST_CHECK int price_from_usd_per_million(Str text, int64_t *ret_pusd);
/* The other way, exactly and without zeros at the end: "0.15". Returns out. */
char *price_usd_per_million(int64_t pusd, char out[MONEY_TEXT_MAX]);

/* What makes a call dearer than its plain tokens. */
typedef struct {
    bool cache_write;      /* input may be written to the provider's cache at a rate of its own */
    bool media;            /* input or output may be audio, images or others */
    int64_t images;        /* of the input, at most; without media there are no other media */
    int64_t server_uses;   /* calls of the provider's own tools, all together, at most */
    unsigned server_tools; /* which: 1 << ServerTool */
    SearchSize search_size;
    Service service; /* asked for; UNKNOWN: the standard one */
    Region region;   /* asked for; UNKNOWN: any that the price knows */
    int64_t seconds; /* the call may take */
} PriceTerms;

/* Whether a hold can be made for terms. Returns NULL, or what has no price: "service_tier",
 * "region", "media", "images", "tools" (the names of terms, for messages). */
const char *price_lacks(const Price *price, const PriceTerms *terms);

/* What the call cost, in nano-USD rounded up once:
 *   tokens of each kind at its rate, each token once, those of no kind at the plain rates, all at
 *   the highest tier that the input exceeds, of the service that was reported (else asked for),
 *   times the region's factor; the provider's tools by the piece, images, the call itself and its
 *   seconds (terms.images, terms.seconds) where they cost.
 * What cannot be told counts as the dearer case: parts that overlap, parts beyond their totals, a
 * service whose rates are not known. Saturates at INT64_MAX. */
int64_t price_cost(const Price *price, const Usage *usage, const PriceTerms *terms);

/* What a call can cost at most, by its output: something fixed, and so much a token. In
 * attousd. */
typedef struct {
    __int128 fixed_atto;
    bool fixed_full; /* more than fits */
    int64_t output_rate, factor;
} PriceLine;

PriceLine price_line(const Price *price, int64_t in_ub, const PriceTerms *terms);

/* As price_hold and price_output_affordable, for those who ask more than once. */
int64_t price_line_hold(const PriceLine *line, int64_t out_ub);
int64_t price_line_affords(const PriceLine *line, int64_t budget_nusd);

/* The most the call can cost, in nano-USD: all input at the dearest input rate that may apply, all
 * output at the dearest output rate. Saturates at INT64_MAX. For every usage within in_ub, out_ub
 * and terms, price_cost <= price_hold. */
int64_t price_hold(const Price *price, int64_t in_ub, int64_t out_ub, const PriceTerms *terms);

/* The most output tokens that a hold of at most budget_nusd allows for in_ub input tokens; 0 when
 * not even the input fits. price_hold of the result is <= budget_nusd, of the result + 1 it is not
 * (unless output is free: INT64_MAX). */
int64_t price_output_affordable(const Price *price, int64_t in_ub, const PriceTerms *terms,
                                int64_t budget_nusd);

/* Appends the price as the API shows it: USD a million tokens and USD a piece as decimal text. */
void price_write(JsonOut *out, const Price *price, const char *source);

/* --- price_import.c --------------------------------------------------------------------------- */

typedef struct {
    size_t imported;
    size_t skipped;          /* another mode, no price, only zeros, numbers out of range */
    char first_skipped[128]; /* model, for the report; "" */
} PriceImport;

/* Reads one entry of LiteLLM's model_prices_and_context_window.json, a JSON object whose numbers
 * were parsed as text: USD a token, taken exactly and rounded up below a pico-USD. Schedules of
 * other services are made in arena. Returns 0, PRICE_E_SKIP (a pattern, another mode than chat,
 * completion, responses and embedding, no price, nothing but zeros, a number that is none or out of
 * range), -ENOMEM. */
#define PRICE_E_SKIP 1
MUST_CHECK int price_entry_read(Arena *arena, Str model, const Json *entry, Price *ret);

/* Writes the members of an entry that price_entry_read reads, and only those, in their order. */
void price_entry_write(const Json *entry, JsonOut *out);

/* Adds the usable entries of such a file: an object keyed by model. scratch is needed for 13 times
 * the text. Returns 0, -EINVAL with diag (not such a file; nothing was added), -ENOSPC or -ENOMEM
 * (what fitted was added). */
MUST_CHECK int price_import(PriceTable *table, Arena *scratch, Str text, PriceImport *ret);

#endif
