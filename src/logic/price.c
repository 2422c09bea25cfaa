#include "logic/price.h"

/* What a token of each kind costs at most. */
typedef struct {
    int64_t input, output;
} DearestRates;

static int64_t or_else(int64_t rate, int64_t otherwise)
{
    return rate == PRICE_UNSET ? otherwise : rate;
}

static void fill_rates(PriceRates *r)
{
    r->cached = or_else(r->cached, r->input);
    r->write_5m = or_else(r->write_5m, r->input);
    int64_t twice = r->write_5m > r->input ? MAX(r->write_5m, 2 * r->input) : r->input;
    r->write_1h = or_else(r->write_1h, twice);
    r->reasoning = or_else(r->reasoning, r->output);
    r->audio_input = or_else(r->audio_input, r->input);
    r->audio_output = or_else(r->audio_output, r->output);
}

void price_fill(Price *price)
{
    assert(price->base.input >= 0 && price->base.output >= 0);
    fill_rates(&price->base);
    if (price->tier_above == 0) {
        price->tier = price->base;
        return;
    }
    assert(price->tier_above > 0);
    const PriceRates *base = &price->base;
    PriceRates *tier = &price->tier;
    tier->input = or_else(tier->input, base->input);
    tier->output = or_else(tier->output, base->output);
    /* A kind whose rate above the tier is not known costs what its plain token does there. */
    tier->cached = or_else(tier->cached, MAX(base->cached, tier->input));
    tier->write_5m = or_else(tier->write_5m, MAX(base->write_5m, tier->input));
    tier->write_1h = or_else(tier->write_1h, MAX(base->write_1h, 2 * tier->input));
    tier->reasoning = or_else(tier->reasoning, MAX(base->reasoning, tier->output));
    tier->audio_input = or_else(tier->audio_input, MAX(base->audio_input, tier->input));
    tier->audio_output = or_else(tier->audio_output, MAX(base->audio_output, tier->output));
}

int price_from_usd_per_million(Str text, int64_t *ret_pusd)
{
    return money_from_text(text, PUSD_PER_USD / 1000000, ret_pusd);
}

/* Adds n tokens at a rate. Both fit 63 bits, so sums of a few products fit 127. */
static void add(__int128 *sum, int64_t n, int64_t rate)
{
    assert(n >= 0 && rate >= 0);
    *sum += (__int128)n * rate;
}

int64_t price_cost(const Price *price, const Usage *usage)
{
    assert(price->tier_above >= 0 && price->web_search >= 0);
    bool above = price->tier_above > 0 && usage->input_tokens > price->tier_above;
    const PriceRates *rate = above ? &price->tier : &price->base;
    int64_t input_parts = usage->cached_tokens + usage->cache_write_5m_tokens +
                          usage->cache_write_1h_tokens + usage->audio_input_tokens;
    int64_t output_parts = usage->reasoning_tokens + usage->audio_output_tokens;
    __int128 sum = 0;
    add(&sum, MAX(usage->input_tokens - input_parts, 0), rate->input);
    add(&sum, usage->cached_tokens, rate->cached);
    add(&sum, usage->cache_write_5m_tokens, rate->write_5m);
    add(&sum, usage->cache_write_1h_tokens, rate->write_1h);
    add(&sum, usage->audio_input_tokens, rate->audio_input);
    add(&sum, MAX(usage->output_tokens - output_parts, 0), rate->output);
    add(&sum, usage->reasoning_tokens, rate->reasoning);
    add(&sum, usage->audio_output_tokens, rate->audio_output);
    add(&sum, usage->web_searches, price->web_search);
    return money_nusd_from_pusd(sum);
}

static DearestRates dearest_of(const PriceRates *r, const PriceTerms *terms)
{
    DearestRates d = { .input = MAX(r->input, r->cached), .output = MAX(r->output, r->reasoning) };
    if (terms->cache_write) d.input = MAX(d.input, MAX(r->write_5m, r->write_1h));
    if (terms->audio) {
        d.input = MAX(d.input, r->audio_input);
        d.output = MAX(d.output, r->audio_output);
    }
    return d;
}

/* Input above the tier may turn out to be below it, where rates could be higher by mistake. */
static DearestRates dearest(const Price *price, int64_t in_ub, const PriceTerms *terms)
{
    DearestRates d = dearest_of(&price->base, terms);
    if (price->tier_above == 0 || in_ub <= price->tier_above) return d;
    DearestRates tier = dearest_of(&price->tier, terms);
    assert(tier.input >= 0 && tier.output >= 0);
    return (DearestRates){ MAX(d.input, tier.input), MAX(d.output, tier.output) };
}

int64_t price_hold(const Price *price, int64_t in_ub, int64_t out_ub, const PriceTerms *terms)
{
    DearestRates rate = dearest(price, in_ub, terms);
    __int128 sum = 0;
    add(&sum, in_ub, rate.input);
    add(&sum, out_ub, rate.output);
    add(&sum, terms->web_searches, price->web_search);
    return money_nusd_from_pusd(sum);
}

int64_t price_output_affordable(const Price *price, int64_t in_ub, const PriceTerms *terms,
                                int64_t budget_nusd)
{
    DearestRates rate = dearest(price, in_ub, terms);
    __int128 fixed = 0;
    add(&fixed, in_ub, rate.input);
    add(&fixed, terms->web_searches, price->web_search);
    assert(budget_nusd >= 0);
    __int128 left = (__int128)budget_nusd * (PUSD_PER_USD / NUSD_PER_USD) - fixed;
    if (left < 0) return 0;
    if (rate.output == 0) return INT64_MAX;
    __int128 n = left / rate.output;
    assert(n >= 0);
    return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}
