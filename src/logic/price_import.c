#include <stdio.h>

#include "base/diag.h"
#include "codec/json.h"
#include "logic/price.h"

/* The member as pico-USD, PRICE_UNSET when it is absent or not a decimal number >= 0 (some entries
 * hold text or null). */
static int64_t rate_of(const Json *entry, const char *key)
{
    int64_t rate;
    Str text = json_number_text(json_get(entry, key));
    if (money_from_text(text, PUSD_PER_USD, &rate) != 0 || rate > PRICE_RATE_MAX)
        return PRICE_UNSET;
    return rate;
}

/* A count of tokens, 0 when it is not known. */
static int64_t tokens_of(const Json *entry, const char *key)
{
    int64_t n;
    Str text = json_number_text(json_get(entry, key));
    return money_from_text(text, 1, &n) == 0 && n < INT64_C(1000000000) ? n : 0;
}

static PriceRates rates_base(const Json *e)
{
    return (PriceRates){
        .input = rate_of(e, "input_cost_per_token"),
        .output = rate_of(e, "output_cost_per_token"),
        .cached = rate_of(e, "cache_read_input_token_cost"),
        .write_5m = rate_of(e, "cache_creation_input_token_cost"),
        .write_1h = rate_of(e, "cache_creation_input_token_cost_above_1hr"),
        .reasoning = rate_of(e, "output_cost_per_reasoning_token"),
        .audio_input = rate_of(e, "input_cost_per_audio_token"),
        .audio_output = rate_of(e, "output_cost_per_audio_token"),
    };
}

/* The dearer of what is held and the member with the tier's suffix. */
static void tier_raise(int64_t *rate, const Json *e, const char *key, const char *suffix)
{
    char name[128];
    (void)snprintf(name, sizeof name, "%s%s", key, suffix);
    *rate = MAX(*rate, rate_of(e, name));
}

/* Of several tiers the lowest threshold with the dearest rates. */
static void tiers_read(Price *price, const Json *e)
{
    static const struct {
        int64_t above;
        const char *suffix;
    } tiers[] = { { 128000, "_above_128k_tokens" },
                  { 200000, "_above_200k_tokens" },
                  { 272000, "_above_272k_tokens" },
                  { 512000, "_above_512k_tokens" } };
    PriceRates t = PRICE_RATES_UNSET;
    for (size_t i = 0; i < ARRAY_N(tiers); i++) {
        const char *suffix = tiers[i].suffix;
        int64_t input = PRICE_UNSET, output = PRICE_UNSET;
        tier_raise(&input, e, "input_cost_per_token", suffix);
        tier_raise(&output, e, "output_cost_per_token", suffix);
        if (input == PRICE_UNSET && output == PRICE_UNSET) continue;
        if (price->tier_above == 0) price->tier_above = tiers[i].above;
        t.input = MAX(t.input, input);
        t.output = MAX(t.output, output);
        tier_raise(&t.cached, e, "cache_read_input_token_cost", suffix);
        tier_raise(&t.write_5m, e, "cache_creation_input_token_cost", suffix);
        tier_raise(&t.write_1h, e, "cache_creation_input_token_cost_above_1hr", suffix);
    }
    price->tier = t;
}

/* Some models list tiers only: the dearest of them stands for all. */
static void tiered_list_read(PriceRates *base, const Json *e)
{
    for (JsonIter it = json_iter(json_get(e, "tiered_pricing")); json_next(&it);) {
        PriceRates r = rates_base(it.value);
        base->input = MAX(base->input, r.input);
        base->output = MAX(base->output, r.output);
        base->cached = MAX(base->cached, r.cached);
        base->reasoning = MAX(base->reasoning, r.reasoning);
    }
}

static int64_t search_fee(const Json *e)
{
    const Json *sizes = json_get(e, "search_context_cost_per_query");
    int64_t fee = 0;
    fee = MAX(fee, rate_of(sizes, "search_context_size_low"));
    fee = MAX(fee, rate_of(sizes, "search_context_size_medium"));
    return MAX(fee, rate_of(sizes, "search_context_size_high"));
}

/* What the entry says of a model that is asked with tokens; false when it is none. */
static bool entry_read(Str model, const Json *e, Price *ret)
{
    static const Str modes[] = { STR("chat"), STR("completion"), STR("responses"),
                                 STR("embedding") };
    Str mode = json_str(json_get(e, "mode"));
    bool known = false;
    for (size_t i = 0; i < ARRAY_N(modes); i++) known |= str_eq(mode, modes[i]);
    if (!known || str_find_char(model, '*') >= 0) return false;

    Price p = { .model = model, .base = rates_base(e), .web_search = search_fee(e) };
    tiered_list_read(&p.base, e);
    tiers_read(&p, e);
    bool embedding = str_eq(mode, STR("embedding"));
    if (embedding && p.base.output == PRICE_UNSET) p.base.output = 0;
    if (p.base.input == PRICE_UNSET || p.base.output == PRICE_UNSET) return false;
    assert(p.tier_above == 0 || p.tier.input != PRICE_UNSET || p.tier.output != PRICE_UNSET);
    p.output_max = tokens_of(e, "max_output_tokens");
    if (p.output_max == 0) p.output_max = tokens_of(e, "max_tokens");
    /* An embedding request holds many texts; the bound is of each. */
    p.input_max = embedding ? 0 : tokens_of(e, "max_input_tokens");
    *ret = p;
    return true;
}

int price_import(PriceTable *table, Arena *scratch, Str text, PriceImport *ret)
{
    *ret = (PriceImport){ 0 };
    const JsonLimits limits = { .members_max = PRICE_ENTRIES_MAX, .numbers_as_text = true };
    const Json *root;
    int r = json_parse(scratch, text, &limits, &root, NULL);
    if (r != 0) return r;
    if (json_type(root) != JSON_OBJECT)
        return diag_set(-EINVAL, "a price list must be an object keyed by model, found %s",
                        json_type_name(json_type(root)));
    for (JsonIter it = json_iter(root); json_next(&it);) {
        Price price;
        bool usable = entry_read(it.key, it.value, &price);
        r = usable ? price_table_add(table, &price) : 0;
        if (r == -ENOSPC || r == -ENOMEM) return r;
        if (usable && r == 0) {
            ret->imported++;
            continue;
        }
        assert(r == 0 || r == -EINVAL);
        if (ret->skipped++ == 0) str_copy(ret->first_skipped, sizeof ret->first_skipped, it.key);
    }
    return 0;
}
