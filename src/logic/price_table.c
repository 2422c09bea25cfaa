#include "base/diag.h"
#include "logic/glob.h"
#include "logic/price.h"

#pragma GCC poison float double /* money is whole numbers */

#define KEY_BYTES_MAX 512

/* --- the built-in list ---------------------------------------------------------------------- */

/* Thousandths of a USD a million tokens, as pico-USD a token: 2500 is 2.50 USD a million. */
#define MILLI(n) (INT64_C(1000) * (n))
/* Anthropic's ratios: a write of 5 minutes costs 1.25 times the input, one of an hour twice it. */
#define CLAUDE(in, read, out)                                                             \
    {                                                                                     \
        MILLI(in), MILLI(out), MILLI(read), MILLI(in) * 5 / 4, 2 * MILLI(in), MILLI(out), \
            MILLI(in), MILLI(out), MILLI(in), MILLI(out)                                  \
    }
#define GPT(in, read, out)                                                               \
    {                                                                                    \
        MILLI(in), MILLI(out), MILLI(read), MILLI(in), MILLI(in), MILLI(out), MILLI(in), \
            MILLI(out), MILLI(in), MILLI(out)                                            \
    }
#define ABOVE(tokens, rates) .tiers = { { tokens, rates } }, .tiers_n = 1
/* 10 USD a thousand, whatever is read */
#define SEARCH .search = { 10000000000, 10000000000, 10000000000, 10000000000 }

/* The providers' public list prices of spring 2026 for their standard service. Ids with a date, or
 * those that Anthropic gives no date and does not move. */
/* clang-format off */
static const Price builtin[] = {
    { STR("claude-3-5-haiku-20241022"), CLAUDE(800, 80, 4000),
      SEARCH, .input_max = 200000, .output_max = 8192 },
    { STR("claude-3-7-sonnet-20250219"), CLAUDE(3000, 300, 15000),
      SEARCH, .input_max = 200000, .output_max = 64000 },
    { STR("claude-3-haiku-20240307"),
      { MILLI(250), MILLI(1250), MILLI(30), MILLI(300), MILLI(500), MILLI(1250), MILLI(250),
        MILLI(1250), MILLI(250), MILLI(1250) },
      .input_max = 200000, .output_max = 4096 },
    { STR("claude-haiku-4-5-20251001"), CLAUDE(1000, 100, 5000),
      SEARCH, .input_max = 200000, .output_max = 64000 },
    { STR("claude-opus-4-1-20250805"), CLAUDE(15000, 1500, 75000),
      SEARCH, .input_max = 200000, .output_max = 32000 },
    { STR("claude-opus-4-20250514"), CLAUDE(15000, 1500, 75000),
      SEARCH, .input_max = 200000, .output_max = 32000 },
    { STR("claude-opus-4-5-20251101"), CLAUDE(5000, 500, 25000),
      SEARCH, .input_max = 200000, .output_max = 64000 },
    { STR("claude-opus-4-6"), CLAUDE(5000, 500, 25000),
      SEARCH, .input_max = 1000000, .output_max = 128000 },
    { STR("claude-opus-4-7"), CLAUDE(5000, 500, 25000),
      SEARCH, .input_max = 1000000, .output_max = 128000 },
    { STR("claude-sonnet-4-20250514"), CLAUDE(3000, 300, 15000),
      ABOVE(200000, CLAUDE(6000, 600, 22500)),
      SEARCH, .input_max = 1000000, .output_max = 64000 },
    { STR("claude-sonnet-4-5-20250929"), CLAUDE(3000, 300, 15000),
      ABOVE(200000, CLAUDE(6000, 600, 22500)),
      SEARCH, .input_max = 1000000, .output_max = 64000 },
    { STR("claude-sonnet-4-6"), CLAUDE(3000, 300, 15000),
      SEARCH, .input_max = 1000000, .output_max = 64000 },
    { STR("gpt-3.5-turbo-0125"), GPT(500, 500, 1500), .input_max = 16385, .output_max = 4096 },
    { STR("gpt-4-turbo-2024-04-09"), GPT(10000, 10000, 30000),
      .input_max = 128000, .output_max = 4096 },
    { STR("gpt-4.1-2025-04-14"), GPT(2000, 500, 8000), .input_max = 1047576, .output_max = 32768 },
    { STR("gpt-4.1-mini-2025-04-14"), GPT(400, 100, 1600),
      .input_max = 1047576, .output_max = 32768 },
    { STR("gpt-4.1-nano-2025-04-14"), GPT(100, 25, 400),
      .input_max = 1047576, .output_max = 32768 },
    { STR("gpt-4o-2024-05-13"), GPT(5000, 5000, 15000), .input_max = 128000, .output_max = 4096 },
    { STR("gpt-4o-2024-08-06"), GPT(2500, 1250, 10000), .input_max = 128000, .output_max = 16384 },
    { STR("gpt-4o-2024-11-20"), GPT(2500, 1250, 10000), .input_max = 128000, .output_max = 16384 },
    { STR("gpt-4o-mini-2024-07-18"), GPT(150, 75, 600), .input_max = 128000, .output_max = 16384 },
    { STR("gpt-5-2025-08-07"), GPT(1250, 125, 10000), .input_max = 400000, .output_max = 128000 },
    { STR("gpt-5-mini-2025-08-07"), GPT(250, 25, 2000), .input_max = 400000, .output_max = 128000 },
    { STR("gpt-5-nano-2025-08-07"), GPT(50, 5, 400), .input_max = 400000, .output_max = 128000 },
    { STR("gpt-5.1-2025-11-13"), GPT(1250, 125, 10000), .input_max = 400000, .output_max = 128000 },
    { STR("gpt-5.2-2025-12-11"), GPT(1750, 175, 14000), .input_max = 400000, .output_max = 128000 },
    { STR("gpt-5.4-2026-03-05"), GPT(2500, 250, 15000),
      ABOVE(272000, GPT(5000, 500, 22500)),
      .input_max = 1050000, .output_max = 128000 },
    { STR("gpt-5.4-mini-2026-03-17"), GPT(750, 75, 4500),
      .input_max = 400000, .output_max = 128000 },
    { STR("gpt-5.4-nano-2026-03-17"), GPT(200, 20, 1250),
      .input_max = 400000, .output_max = 128000 },
    { STR("o1-2024-12-17"), GPT(15000, 7500, 60000), .input_max = 200000, .output_max = 100000 },
    { STR("o3-2025-04-16"), GPT(2000, 500, 8000), .input_max = 200000, .output_max = 100000 },
    { STR("o3-mini-2025-01-31"), GPT(1100, 550, 4400), .input_max = 200000, .output_max = 100000 },
    { STR("o4-mini-2025-04-16"), GPT(1100, 275, 4400), .input_max = 200000, .output_max = 100000 },
    { STR("sim/*"), GPT(500, 125, 2000),
      .input_max = 128000, .output_max = 16384, .fictitious = true },
    { STR("sim/large*"), GPT(2500, 625, 10000),
      .input_max = 128000, .output_max = 16384, .fictitious = true },
    { STR("sim/small*"), GPT(100, 25, 400),
      .input_max = 128000, .output_max = 16384, .fictitious = true },
    { STR("text-embedding-3-large"), GPT(130, 130, 0), .input_max = 300000 },
    { STR("text-embedding-3-small"), GPT(20, 20, 0), .input_max = 300000 },
};
/* clang-format on */

int64_t price_image_tokens(const Price *price)
{
    /* Of the longest sides and the finest detail that the maker takes, with its factor. */
    static const struct {
        Str prefix;
        int64_t tokens;
    } families[] = {
        { STR("gpt-4o-mini"), 48169 },                          /* 2833 + 8 tiles of 5667 */
        { STR("chatgpt-4o"), 24600 },  { STR("gpt-4"), 24600 }, /* 10,000 patches times 2.46 */
        { STR("gpt-5"), 24600 },       { STR("o1"), 24600 },     { STR("o3"), 24600 },
        { STR("o4"), 24600 },          { STR("claude-"), 6640 }, /* 2576 x 1932 / 750 */
        { STR("sim/"), 24600 }
    };
    if (price->image_tokens_max > 0) return price->image_tokens_max;
    Str model = price->model;
    if (!price->fictitious)
        for (ptrdiff_t at; (at = str_find_char(model, '/')) >= 0;)
            model = str_skip(model, (size_t)at + 1);
    ptrdiff_t dot = str_find(model, STR("anthropic.")); /* "us.anthropic.claude-..." */
    if (dot >= 0) model = str_skip(model, (size_t)dot + strlen("anthropic."));
    for (size_t i = 0; i < ARRAY_N(families); i++)
        if (str_starts_with(model, families[i].prefix)) return families[i].tokens;
    return 0;
}

/* --- look-up -------------------------------------------------------------------------------- */

static bool is_pattern(const Price *price)
{
    Str model = price->model;
    return model.len > 0 && model.ptr[model.len - 1] == '*';
}

/* Place of model among the table's entries, or where it belongs; *ret_found tells which. */
static size_t table_place(const PriceTable *table, Str model, bool *ret_found)
{
    assert(table->n <= table->cap);
    size_t low = 0, high = table->n;
    *ret_found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = str_cmp(table->sorted[middle]->model, model);
        if (order == 0) {
            *ret_found = true;
            return middle;
        }
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

static const Price *find_in_table(const PriceTable *table, Str model)
{
    bool found;
    size_t i = table_place(table, model, &found);
    return found ? table->sorted[i] : NULL;
}

static const Price *find_builtin(const PriceTable *table, Str model)
{
    (void)table;
    for (size_t i = 0; i < ARRAY_N(builtin); i++)
        if (str_eq(builtin[i].model, model)) return &builtin[i];
    return NULL;
}

typedef const Price *(*FindFn)(const PriceTable *table, Str model);

/* By id, by provider and id, by what follows the provider in the id. */
static const Price *find_exact(FindFn find, const PriceTable *table, Str provider, Str model)
{
    const Price *price = find(table, model);
    if (price || str_empty(provider)) return price;
    char key[KEY_BYTES_MAX];
    size_t prefix = provider.len + 1;
    if (prefix + model.len > sizeof key) return NULL;
    memcpy(key, provider.ptr, provider.len);
    key[provider.len] = '/';
    memcpy(key + prefix, model.ptr, model.len);
    price = find(table, str_make(key, prefix + model.len));
    if (price || !str_starts_with(model, str_make(key, prefix))) return price;
    return find(table, str_skip(model, prefix));
}

/* The longer of best and price, if it is a pattern that the model matches. */
static const Price *longer(const Price *best, const Price *price, Str model)
{
    assert(price->base.input >= 0);
    if (!is_pattern(price) || (best && best->model.len >= price->model.len)) return best;
    return glob_match(price->model, model) ? price : best;
}

static const Price *find_pattern(const PriceTable *table, Str model)
{
    const Price *best = NULL;
    for (; table; table = table->below)
        for (size_t i = 0; table->patterns_n && i < table->n; i++)
            best = longer(best, table->sorted[i], model);
    for (size_t i = 0; i < ARRAY_N(builtin); i++) best = longer(best, &builtin[i], model);
    return best;
}

const Price *price_find(const PriceTable *table, Str provider, Str model)
{
    if (str_empty(model)) return NULL;
    const Price *price = NULL;
    for (const PriceTable *layer = table; layer && !price; layer = layer->below)
        price = find_exact(find_in_table, layer, provider, model);
    if (!price) price = find_exact(find_builtin, table, provider, model);
    if (!price) price = find_pattern(table, model);
    return price;
}

const Price *price_at(const PriceTable *table, size_t i)
{
    for (; table; table = table->below) {
        assert(table->n <= PRICE_ENTRIES_MAX);
        if (i < table->n) return table->sorted[i];
        i -= table->n;
    }
    return i < ARRAY_N(builtin) ? &builtin[i] : NULL;
}

/* --- adding --------------------------------------------------------------------------------- */

void price_table_init(PriceTable *table, Arena *arena)
{
    assert(arena);
    *table = (PriceTable){ .arena = arena };
}

/* least: PRICE_UNSET, or 0 where input and output must be there. */
static bool rates_ok(const PriceRates *rates, int64_t least)
{
    const int64_t all[] = { rates->cached,      rates->write_5m,    rates->write_1h,
                            rates->reasoning,   rates->audio_input, rates->audio_output,
                            rates->image_input, rates->image_output };
    for (size_t i = 0; i < ARRAY_N(all); i++)
        if (all[i] < PRICE_UNSET || all[i] > PRICE_RATE_MAX) return false;
    return rates->input >= least && rates->input <= PRICE_RATE_MAX && rates->output >= least &&
           rates->output <= PRICE_RATE_MAX;
}

static bool tiers_ok(const PriceTier *tiers, size_t n)
{
    if (n > PRICE_TIERS_MAX) return false;
    for (size_t i = 0; i < n; i++) {
        if (tiers[i].above <= (i ? tiers[i - 1].above : 0)) return false;
        if (!rates_ok(&tiers[i].rates, PRICE_UNSET)) return false;
    }
    return true;
}

static bool fees_ok(const Price *p)
{
    const int64_t fees[] = { p->search[SEARCH_UNKNOWN],
                             p->search[SEARCH_LOW],
                             p->search[SEARCH_MEDIUM],
                             p->search[SEARCH_HIGH],
                             p->file_search,
                             p->code_session,
                             p->request,
                             p->second,
                             p->image };
    for (size_t i = 0; i < ARRAY_N(fees); i++)
        if (fees[i] < 0 || fees[i] > 2 * PRICE_FEE_MAX) return false;
    for (size_t i = 0; i < REGION_N_; i++)
        if (p->uplift[i] < 0 || p->uplift[i] > PRICE_UPLIFT_MAX) return false;
    return p->input_max >= 0 && p->output_max >= 0 && p->image_tokens_max >= 0;
}

static int price_check(const Price *price)
{
    Str model = price->model;
    if (str_empty(model) || model.len > KEY_BYTES_MAX || str_find_char(model, '\0') >= 0)
        return diag_set(-EINVAL, "a price needs a model id of 1 to %d bytes", KEY_BYTES_MAX);
    if (!rates_ok(&price->base, 0) || !tiers_ok(price->tiers, price->tiers_n))
        return diag_set(-EINVAL,
                        "price of %.*s: a rate is missing, negative or above 1 USD a token",
                        STR_ARG(model));
    if (!fees_ok(price))
        return diag_set(-EINVAL, "price of %.*s: a number is negative or absurd", STR_ARG(model));
    return 0;
}

static int table_grow(PriceTable *table)
{
    if (table->n >= PRICE_ENTRIES_MAX)
        return diag_set(-ENOSPC, "the price table is full (%d entries)", PRICE_ENTRIES_MAX);
    if (table->n < table->cap) return 0;
    size_t cap = table->cap ? 2 * table->cap : 64;
    const Price **grown = arena_realloc(table->arena, table->sorted, table->cap * sizeof *grown,
                                        cap * sizeof *grown);
    if (!grown) return -ENOMEM;
    table->sorted = grown;
    table->cap = cap;
    return 0;
}

int price_table_add(PriceTable *table, const Price *price)
{
    int r = price_check(price);
    if (r != 0) return r;
    bool found;
    size_t place = table_place(table, price->model, &found);
    if (!found && (r = table_grow(table)) != 0) return r;
    Price *copy = ARENA_NEW(table->arena, Price);
    if (!copy) return -ENOMEM;
    *copy = *price;
    copy->model = arena_str(table->arena, price->model);
    if (!copy->model.ptr) return -ENOMEM;
    for (Service i = 0; i < SERVICE_N_; i++) {
        if (!price->others[i]) continue;
        PriceSchedule *other = ARENA_NEW(table->arena, PriceSchedule);
        if (!other) return -ENOMEM;
        *other = *price->others[i];
        copy->others[i] = other;
    }
    price_fill(copy);
    if (!found) {
        const Price **at = table->sorted + place;
        memmove(at + 1, at, (table->n - place) * sizeof *at);
        table->n++;
        table->patterns_n += is_pattern(copy);
    }
    table->sorted[place] = copy;
    assert(table->n <= table->cap && table->n <= PRICE_ENTRIES_MAX);
    return 0;
}
