#include "logic/price.h"

#include <stdio.h>

#pragma GCC poison float double /* money is whole numbers */

/* Sums are of attousd: pico-USD times millionths of a factor. */
#define ATTO_PER_PICO PRICE_UPLIFT_ONE
#define ATTO_PER_NANO INT64_C(1000000000)
#define ALL_SERVICES ((1u << SERVICE_N_) - 1)

/* --- filling -------------------------------------------------------------------------------- */

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
    r->image_input = or_else(r->image_input, r->input);
    r->image_output = or_else(r->image_output, r->output);
}

/* A kind that had no rate of its own has none here either; one that had costs what its plain token
 * does here, and no less than there. */
static int64_t departed(int64_t rate, int64_t plain, int64_t from, int64_t from_plain)
{
    if (rate != PRICE_UNSET) return rate;
    return from == from_plain ? plain : MAX(from, plain);
}

/* Rates that depart from others. */
static void fill_from(PriceRates *r, const PriceRates *from)
{
    r->input = or_else(r->input, from->input);
    r->output = or_else(r->output, from->output);
    r->cached = departed(r->cached, r->input, from->cached, from->input);
    r->write_5m = departed(r->write_5m, r->input, from->write_5m, from->input);
    int64_t hour = from->write_1h > from->input ? 2 * r->input : r->input;
    r->write_1h = departed(r->write_1h, hour, from->write_1h, from->input);
    r->reasoning = departed(r->reasoning, r->output, from->reasoning, from->output);
    r->audio_input = departed(r->audio_input, r->input, from->audio_input, from->input);
    r->audio_output = departed(r->audio_output, r->output, from->audio_output, from->output);
    r->image_input = departed(r->image_input, r->input, from->image_input, from->input);
    r->image_output = departed(r->image_output, r->output, from->image_output, from->output);
}

static void fill_tiers(const PriceRates *base, PriceTier *tiers, size_t n)
{
    const PriceRates *from = base;
    for (size_t i = 0; i < n; from = &tiers[i++].rates) fill_from(&tiers[i].rates, from);
}

void price_fill(Price *price)
{
    assert(price->base.input >= 0 && price->base.output >= 0);
    assert(price->tiers_n <= PRICE_TIERS_MAX);
    fill_rates(&price->base);
    fill_tiers(&price->base, price->tiers, price->tiers_n);
}

/* The dearer of each. */
static void rates_raise(PriceRates *r, const PriceRates *with)
{
    r->input = MAX(r->input, with->input);
    r->output = MAX(r->output, with->output);
    r->cached = MAX(r->cached, with->cached);
    r->write_5m = MAX(r->write_5m, with->write_5m);
    r->write_1h = MAX(r->write_1h, with->write_1h);
    r->reasoning = MAX(r->reasoning, with->reasoning);
    r->audio_input = MAX(r->audio_input, with->audio_input);
    r->audio_output = MAX(r->audio_output, with->audio_output);
    r->image_input = MAX(r->image_input, with->image_input);
    r->image_output = MAX(r->image_output, with->image_output);
}

static const PriceRates *rates_at(const PriceRates *base, const PriceTier *tiers, size_t n,
                                  int64_t input)
{
    const PriceRates *at = base;
    for (size_t i = 0; i < n && input > tiers[i].above; i++) at = &tiers[i].rates;
    return at;
}

void price_fill_service(const Price *price, PriceSchedule *service)
{
    assert(service->tiers_n <= PRICE_TIERS_MAX);
    fill_from(&service->base, &price->base);
    fill_tiers(&service->base, service->tiers, service->tiers_n);
    /* Where the usual service gets dearer with the input, this one does too: at least as dear. */
    for (size_t i = 0; i < price->tiers_n; i++) {
        const PriceTier *usual = &price->tiers[i];
        PriceTier *at = price_tier(service->tiers, &service->tiers_n, usual->above);
        if (!at) { /* no room: the last tier takes it in */
            rates_raise(&service->tiers[PRICE_TIERS_MAX - 1].rates, &usual->rates);
            continue;
        }
        if (at->rates.input != PRICE_UNSET) continue; /* its own */
        size_t nth = (size_t)(at - service->tiers);
        at->rates = nth ? service->tiers[nth - 1].rates : service->base;
        rates_raise(&at->rates, &usual->rates);
    }
}

PriceTier *price_tier(PriceTier tiers[PRICE_TIERS_MAX], size_t *n, int64_t above)
{
    size_t i = 0;
    while (i < *n && tiers[i].above < above) i++;
    if (i < *n && tiers[i].above == above) return &tiers[i];
    if (*n == PRICE_TIERS_MAX) return NULL;
    memmove(&tiers[i + 1], &tiers[i], (*n - i) * sizeof *tiers);
    (*n)++;
    tiers[i] = (PriceTier){ above, PRICE_RATES_UNSET };
    return &tiers[i];
}

/* --- text ----------------------------------------------------------------------------------- */

int price_from_usd_per_million(Str text, int64_t *ret_pusd)
{
    return money_from_text(text, PUSD_PER_USD / 1000000, ret_pusd);
}

char *price_usd_per_million(int64_t pusd, char out[MONEY_TEXT_MAX])
{
    const int64_t one = PUSD_PER_USD / 1000000;
    assert(pusd >= 0);
    size_t n = (size_t)snprintf(out, MONEY_TEXT_MAX, "%" PRId64 ".%06" PRId64, pusd / one,
                                pusd % one);
    while (out[n - 1] == '0') out[--n] = '\0';
    if (out[n - 1] == '.') out[--n] = '\0';
    return out;
}

/* --- sums ----------------------------------------------------------------------------------- */

typedef struct {
    __int128 atto;
    bool full; /* more than fits: INT64_MAX nano-USD and above */
} Sum;

/* n of something at a rate, times a factor in millionths. */
static void add(Sum *sum, int64_t n, int64_t rate, int64_t factor)
{
    assert(n >= 0 && rate >= 0 && factor > 0);
    __int128 product;
    sum->full |= __builtin_mul_overflow((__int128)n * rate, (__int128)factor, &product) ||
                 __builtin_add_overflow(sum->atto, product, &sum->atto);
}

static void add_fee(Sum *sum, int64_t n, int64_t fee)
{
    add(sum, n, fee, ATTO_PER_PICO);
}

static int64_t sum_nusd(const Sum *sum)
{
    if (sum->full) return INT64_MAX;
    assert(sum->atto >= 0);
    __int128 nusd = sum->atto / ATTO_PER_NANO + (sum->atto % ATTO_PER_NANO != 0);
    return nusd > INT64_MAX ? INT64_MAX : (int64_t)nusd;
}

/* --- what applies --------------------------------------------------------------------------- */

static bool is_usual(Service service)
{
    return service == SERVICE_UNKNOWN || service == SERVICE_STANDARD;
}

static bool is_known(const Price *price, Service service)
{
    return is_usual(service) || price->others[service];
}

/* The services, as bits, whose rates may be a service's: its own; for those that are sold at a
 * discount else the usual ones; else any. */
static unsigned services_of(const Price *price, Service service)
{
    assert(service < SERVICE_N_);
    if (is_usual(service)) return 1u << SERVICE_STANDARD;
    if (is_known(price, service)) return 1u << service;
    if (service == SERVICE_FLEX || service == SERVICE_BATCH) return 1u << SERVICE_STANDARD;
    return ALL_SERVICES;
}

static int64_t uplift_dearest(const Price *price)
{
    int64_t most = PRICE_UPLIFT_ONE;
    for (size_t i = 0; i < REGION_N_; i++) most = MAX(most, price->uplift[i]);
    return most;
}

static int64_t uplift_of(const Price *price, Region region)
{
    assert(region < REGION_N_);
    if (region == REGION_OTHER) return uplift_dearest(price);
    return MAX(price->uplift[region], PRICE_UPLIFT_ONE);
}

static int64_t fee_of(const Price *price, ServerTool tool, SearchSize size)
{
    switch (tool) {
    case SERVER_WEB_SEARCH: return price->search[size];
    case SERVER_FILE_SEARCH: return price->file_search;
    case SERVER_CODE: return price->code_session;
    default: return 0;
    }
}

static void add_once(Sum *sum, const Price *price, const PriceTerms *terms)
{
    add_fee(sum, 1, price->request);
    add_fee(sum, terms->images, price->image);
    add_fee(sum, terms->seconds, price->second);
}

const char *price_lacks(const Price *price, const PriceTerms *terms)
{
    const PriceRates *r = &price->base;
    bool discount = terms->service == SERVICE_FLEX || terms->service == SERVICE_BATCH;
    bool geo = terms->region == REGION_US || terms->region == REGION_EU;
    bool costs = r->input || r->image_input || price->tiers_n;
    if (!discount && !is_known(price, terms->service)) return "service_tier";
    if (terms->region == REGION_OTHER || (geo && !price->uplift[terms->region])) return "region";
    if (terms->media && price->media_unpriced) return "media";
    if (terms->images > 0 && costs && !price_image_tokens(price)) return "images";
    for (ServerTool tool = 0; tool < SERVER_N_; tool++) {
        if (!(terms->server_tools & 1u << tool) || tool == SERVER_FETCH) continue;
        if (fee_of(price, tool, terms->search_size) == 0) return "tools";
    }
    return NULL;
}

/* --- costs ---------------------------------------------------------------------------------- */

typedef struct {
    int64_t n, rate;
} Part;

#define PARTS_MAX 5

/* Each of total tokens once: the dearest parts first, what is left at the plain rate. */
static void add_parts(Sum *sum, int64_t total, Part *parts, size_t n, int64_t plain, int64_t factor)
{
    assert(n <= PARTS_MAX);
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k > 0 && parts[k].rate > parts[k - 1].rate; k--) {
            Part swap = parts[k];
            parts[k] = parts[k - 1];
            parts[k - 1] = swap;
        }
    for (size_t i = 0; i < n; i++) {
        int64_t taken = MIN(parts[i].n, total);
        add(sum, taken, parts[i].rate, factor);
        total -= taken;
    }
    add(sum, total, plain, factor);
}

static void add_input(Sum *sum, const Usage *u, const PriceRates *r, int64_t factor)
{
    int64_t audio = r->audio_input == r->input ? 0 : u->audio_input_tokens;
    int64_t image = r->image_input == r->input ? 0 : u->image_input_tokens;
    int64_t media = money_add(audio, image);
    /* What was read from the cache may have been the dearer media: it is text only beyond them. */
    Part parts[] = { { MAX(u->cached_tokens - media, 0), r->cached },
                     { u->cache_write_5m_tokens, r->write_5m },
                     { u->cache_write_1h_tokens, r->write_1h },
                     { audio, r->audio_input },
                     { image, r->image_input } };
    int64_t written = money_add(u->cache_write_5m_tokens, u->cache_write_1h_tokens);
    int64_t total = MAX(u->input_tokens, MAX(media, money_add(u->cached_tokens, written)));
    add_parts(sum, total, parts, ARRAY_N(parts), r->input, factor);
}

static void add_output(Sum *sum, const Usage *u, const PriceRates *r, int64_t factor)
{
    Part parts[] = { { u->reasoning_tokens, r->reasoning },
                     { u->audio_output_tokens, r->audio_output },
                     { u->image_output_tokens, r->image_output } };
    int64_t media = money_add(u->audio_output_tokens, u->image_output_tokens);
    int64_t total = MAX(u->output_tokens, MAX(media, u->reasoning_tokens));
    add_parts(sum, total, parts, ARRAY_N(parts), r->output, factor);
}

static Sum cost_in_service(const Price *price, Service service, const Usage *u,
                           const PriceTerms *terms)
{
    const PriceSchedule *other = price->others[service];
    const PriceRates *r = other ? rates_at(&other->base, other->tiers, other->tiers_n,
                                           u->input_tokens)
                                : rates_at(&price->base, price->tiers, price->tiers_n,
                                           u->input_tokens);
    Region region = u->region == REGION_UNKNOWN ? terms->region : u->region;
    int64_t factor = uplift_of(price, region);
    Sum sum = { 0 };
    add_input(&sum, u, r, factor);
    add_output(&sum, u, r, factor);
    add_once(&sum, price, terms);
    for (ServerTool tool = 0; tool < SERVER_N_; tool++)
        add_fee(&sum, u->server_calls[tool], fee_of(price, tool, terms->search_size));
    return sum;
}

int64_t price_cost(const Price *price, const Usage *usage, const PriceTerms *terms)
{
    Service service = usage->service == SERVICE_UNKNOWN ? terms->service : usage->service;
    unsigned services = services_of(price, service);
    int64_t most = 0;
    for (Service i = SERVICE_STANDARD; i < SERVICE_N_; i++) {
        if (!(services & 1u << i) || !is_known(price, i)) continue;
        Sum sum = cost_in_service(price, i, usage, terms);
        most = MAX(most, sum_nusd(&sum));
    }
    return most;
}

/* --- holds ---------------------------------------------------------------------------------- */

/* What a token of each kind costs at most. */
typedef struct {
    int64_t input, output;
} Dearest;

static void dearest_take(Dearest *d, const PriceRates *r, const PriceTerms *terms)
{
    d->input = MAX(d->input, MAX(r->input, r->cached));
    d->output = MAX(d->output, MAX(r->output, r->reasoning));
    if (terms->cache_write) d->input = MAX(d->input, MAX(r->write_5m, r->write_1h));
    if (terms->media || terms->images > 0) d->input = MAX(d->input, r->image_input);
    if (!terms->media) return;
    d->input = MAX(d->input, r->audio_input);
    d->output = MAX(d->output, MAX(r->audio_output, r->image_output));
}

/* Input above a tier may turn out to be below it, where rates could be higher by mistake. */
static void dearest_of(Dearest *d, const PriceRates *base, const PriceTier *tiers, size_t n,
                       int64_t in_ub, const PriceTerms *terms)
{
    dearest_take(d, base, terms);
    for (size_t i = 0; i < n && in_ub > tiers[i].above; i++)
        dearest_take(d, &tiers[i].rates, terms);
}

/* A provider may fall back to its usual service. */
static Dearest dearest(const Price *price, int64_t in_ub, const PriceTerms *terms)
{
    unsigned services = services_of(price, terms->service);
    Dearest d = { 0 };
    dearest_of(&d, &price->base, price->tiers, price->tiers_n, in_ub, terms);
    for (Service i = 0; i < SERVICE_N_; i++) {
        const PriceSchedule *other = price->others[i];
        if (other && services & 1u << i)
            dearest_of(&d, &other->base, other->tiers, other->tiers_n, in_ub, terms);
    }
    return d;
}

static int64_t hold_factor(const Price *price, const PriceTerms *terms)
{
    return terms->region == REGION_UNKNOWN ? uplift_dearest(price)
                                           : uplift_of(price, terms->region);
}

/* All but the output. */
static Sum hold_fixed(const Price *price, int64_t in_ub, int64_t rate, int64_t factor,
                      const PriceTerms *terms)
{
    int64_t fee = 0;
    for (ServerTool tool = 0; tool < SERVER_N_; tool++)
        if (terms->server_tools & 1u << tool)
            fee = MAX(fee, fee_of(price, tool, terms->search_size));
    Sum sum = { 0 };
    add(&sum, in_ub, rate, factor);
    add_fee(&sum, terms->server_uses, fee);
    add_once(&sum, price, terms);
    return sum;
}

PriceLine price_line(const Price *price, int64_t in_ub, const PriceTerms *terms)
{
    Dearest rate = dearest(price, in_ub, terms);
    int64_t factor = hold_factor(price, terms);
    Sum fixed = hold_fixed(price, in_ub, rate.input, factor, terms);
    return (PriceLine){ .fixed_atto = fixed.atto,
                        .fixed_full = fixed.full,
                        .output_rate = rate.output,
                        .factor = factor };
}

int64_t price_line_hold(const PriceLine *line, int64_t out_ub)
{
    Sum sum = { .atto = line->fixed_atto, .full = line->fixed_full };
    add(&sum, out_ub, line->output_rate, line->factor);
    return sum_nusd(&sum);
}

int64_t price_line_affords(const PriceLine *line, int64_t budget_nusd)
{
    assert(budget_nusd >= 0);
    __int128 budget = (__int128)budget_nusd * ATTO_PER_NANO;
    if (line->fixed_full || line->fixed_atto > budget) return 0;
    if (line->output_rate == 0) return INT64_MAX;
    __int128 n = (budget - line->fixed_atto) / ((__int128)line->output_rate * line->factor);
    assert(n >= 0);
    return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

int64_t price_hold(const Price *price, int64_t in_ub, int64_t out_ub, const PriceTerms *terms)
{
    PriceLine line = price_line(price, in_ub, terms);
    return price_line_hold(&line, out_ub);
}

int64_t price_output_affordable(const Price *price, int64_t in_ub, const PriceTerms *terms,
                                int64_t budget_nusd)
{
    PriceLine line = price_line(price, in_ub, terms);
    return price_line_affords(&line, budget_nusd);
}
