#include <stdio.h>

#include "base/diag.h"
#include "codec/json.h"
#include "logic/price.h"

#pragma GCC poison float double /* money is whole numbers */

#define TOKENS_MAX INT64_C(1000000000)

/* --- what an entry's members mean ----------------------------------------------------------- */

/* Rates: PREFIX[_above_Nk_tokens][_SERVICE]. Longer prefixes of another come first. */
static const struct {
    const char *prefix;
    size_t offset; /* in PriceRates */
} rate_members[] = {
    { "input_cost_per_token", offsetof(PriceRates, input) },
    { "output_cost_per_token", offsetof(PriceRates, output) },
    { "cache_read_input_token_cost", offsetof(PriceRates, cached) },
    { "cache_creation_input_token_cost_above_1hr", offsetof(PriceRates, write_1h) },
    { "cache_creation_input_token_cost", offsetof(PriceRates, write_5m) },
    { "output_cost_per_reasoning_token", offsetof(PriceRates, reasoning) },
    { "input_cost_per_audio_token", offsetof(PriceRates, audio_input) },
    { "cache_creation_input_audio_token_cost", offsetof(PriceRates, audio_input) },
    { "output_cost_per_audio_token", offsetof(PriceRates, audio_output) },
    { "input_cost_per_image_token", offsetof(PriceRates, image_input) },
    { "output_cost_per_image_token", offsetof(PriceRates, image_output) },
};

static const struct {
    const char *suffix;
    Service service;
} service_suffixes[] = { { "", SERVICE_STANDARD },
                         { "_flex", SERVICE_FLEX },
                         { "_priority", SERVICE_PRIORITY },
                         { "_batches", SERVICE_BATCH },
                         { "_fast", SERVICE_FAST } };

/* The others that are read, by one function or the other below. */
static const char *const other_members[] = {
    "mode",
    "litellm_provider",
    "max_tokens",
    "max_input_tokens",
    "max_output_tokens",
    "tiered_pricing",
    "search_context_cost_per_query",
    "file_search_cost_per_1k_calls",
    "code_interpreter_cost_per_session",
    "input_cost_per_query",
    "input_cost_per_request",
    "input_cost_per_second",
    "output_cost_per_second",
    "input_cost_per_image",
    "output_cost_per_image",
    "regional_processing_uplift_multiplier_eu",
    "regional_processing_uplift_multiplier_us",
    "provider_specific_entry",
    "deprecation_date",
};

/* Words in the names of costs that only media have. */
static const char *const media_words[] = {
    "image", "audio", "video", "character", "page", "pixel"
};

typedef struct {
    size_t offset; /* in PriceRates */
    int64_t above; /* tokens; 0: none */
    Service service;
} RateMember;

/* Reads "_above_200k_tokens" off *rest. */
static bool above_read(Str *rest, int64_t *ret)
{
    *ret = 0;
    if (!str_starts_with(*rest, STR("_above_"))) return true;
    Str number, after = str_split(str_skip(*rest, strlen("_above_")), 'k', &number, NULL);
    int64_t thousands;
    if (!str_starts_with(after, STR("_tokens")) || str_to_i64(number, &thousands) != 0)
        return false;
    if (thousands < 1 || thousands > TOKENS_MAX / 1000) return false;
    *ret = thousands * 1000;
    *rest = str_skip(after, strlen("_tokens"));
    return true;
}

static bool rate_member(Str key, RateMember *ret)
{
    for (size_t i = 0; i < ARRAY_N(rate_members); i++) {
        Str prefix = str_of(rate_members[i].prefix);
        if (!str_starts_with(key, prefix)) continue;
        Str rest = str_skip(key, prefix.len);
        RateMember m = { .offset = rate_members[i].offset };
        if (!above_read(&rest, &m.above)) continue;
        for (size_t k = 0; k < ARRAY_N(service_suffixes); k++) {
            if (!str_eq(rest, str_of(service_suffixes[k].suffix))) continue;
            m.service = service_suffixes[k].service;
            *ret = m;
            return true;
        }
    }
    return false;
}

static bool other_member(Str key)
{
    for (size_t i = 0; i < ARRAY_N(other_members); i++)
        if (str_eq(key, str_of(other_members[i]))) return true;
    return false;
}

static bool names_media(Str key)
{
    if (str_find(key, STR("cost")) < 0 || str_starts_with(key, STR("cache_read_"))) return false;
    for (size_t i = 0; i < ARRAY_N(media_words); i++)
        if (str_find(key, str_of(media_words[i])) >= 0) return true;
    return false;
}

/* --- numbers -------------------------------------------------------------------------------- */

/* An entry as it is read. */
typedef struct {
    const Json *entry;
    PriceSchedule schedules[SERVICE_N_]; /* [SERVICE_STANDARD]: the usual one */
    bool seen[SERVICE_N_];
    bool bad; /* a number is none, or is out of range: nothing of the entry can be trusted */
} Reading;

/* The value as a decimal times scale, rounded up; PRICE_UNSET when it is absent or null. */
static int64_t number(Reading *rd, const Json *v, int64_t scale, int64_t most)
{
    JsonType type = json_type(v);
    if (type == JSON_ABSENT || type == JSON_NULL) return PRICE_UNSET;
    int64_t n = PRICE_UNSET;
    if (money_from_text(json_number_text(v), scale, &n) == 0 && n <= most) return n;
    rd->bad = true;
    return PRICE_UNSET;
}

static int64_t fee(Reading *rd, const char *key)
{
    return MAX(number(rd, json_get(rd->entry, key), PUSD_PER_USD, PRICE_FEE_MAX), 0);
}

/* A bound; those that are no number (some are text) are not known. */
static int64_t tokens_of(const Json *entry, const char *key)
{
    int64_t n;
    Str text = json_number_text(json_get(entry, key));
    return money_from_text(text, 1, &n) == 0 && n < TOKENS_MAX ? n : 0;
}

/* --- rates ---------------------------------------------------------------------------------- */

/* Keeps the dearer of two that say the same. */
static void rate_take(Reading *rd, const RateMember *m, const Json *v)
{
    int64_t rate = number(rd, v, PUSD_PER_USD, PRICE_RATE_MAX);
    if (rate == PRICE_UNSET) return;
    PriceSchedule *s = &rd->schedules[m->service];
    rd->seen[m->service] = true;
    PriceRates *rates = &s->base;
    if (m->above > 0) {
        PriceTier *tier = price_tier(s->tiers, &s->tiers_n, m->above);
        if (!tier) {
            rd->bad = true;
            return;
        }
        rates = &tier->rates;
    }
    int64_t *slot = (int64_t *)((char *)rates + m->offset);
    *slot = MAX(*slot, rate);
}

static void rates_read(Reading *rd, const Json *members, int64_t above)
{
    for (JsonIter it = json_iter(members); json_next(&it);) {
        RateMember m;
        if (!rate_member(it.key, &m)) continue;
        m.above = MAX(m.above, above);
        rate_take(rd, &m, it.value);
    }
}

/* [{"range": [0, 32000], ...}, ...]: the rates of a call whose input is in the range. One without a
 * range may be any. */
static void tiered_read(Reading *rd)
{
    for (JsonIter it = json_iter(json_get(rd->entry, "tiered_pricing")); json_next(&it);) {
        const Json *from = json_at(json_get(it.value, "range"), 0);
        rates_read(rd, it.value, MAX(number(rd, from, 1, TOKENS_MAX), 0));
    }
}

/* Some list tiers only: the lowest stands for what is below it too. */
static void lowest_tier_is_base(PriceSchedule *s)
{
    if (s->tiers_n == 0) return;
    const PriceRates *lowest = &s->tiers[0].rates;
    if (s->base.input == PRICE_UNSET) s->base.input = lowest->input;
    if (s->base.output == PRICE_UNSET) s->base.output = lowest->output;
}

/* --- the rest ------------------------------------------------------------------------------- */

static void searches_read(Reading *rd, Price *p)
{
    static const char *const keys[SEARCH_N_] = { [SEARCH_LOW] = "search_context_size_low",
                                                 [SEARCH_MEDIUM] = "search_context_size_medium",
                                                 [SEARCH_HIGH] = "search_context_size_high" };
    const Json *sizes = json_get(rd->entry, "search_context_cost_per_query");
    for (SearchSize i = SEARCH_LOW; i < SEARCH_N_; i++) {
        int64_t cost = number(rd, json_get(sizes, keys[i]), PUSD_PER_USD, PRICE_FEE_MAX);
        p->search[i] = MAX(cost, 0);
        p->search[SEARCH_UNKNOWN] = MAX(p->search[SEARCH_UNKNOWN], p->search[i]);
    }
    for (SearchSize i = SEARCH_LOW; i < SEARCH_N_; i++)
        if (p->search[i] == 0) p->search[i] = p->search[SEARCH_UNKNOWN];
}

static void fees_read(Reading *rd, Price *p)
{
    searches_read(rd, p);
    int64_t thousand = fee(rd, "file_search_cost_per_1k_calls");
    p->file_search = thousand / 1000 + (thousand % 1000 != 0);
    p->code_session = fee(rd, "code_interpreter_cost_per_session");
    p->request = fee(rd, "input_cost_per_query") + fee(rd, "input_cost_per_request");
    if (json_type(json_get(rd->entry, "input_cost_per_image_token")) == JSON_ABSENT)
        p->image = fee(rd, "input_cost_per_image");
}

/* Where tokens have a price, one by the second is another way to say it. */
static bool seconds_read(Reading *rd, Price *p)
{
    p->second = fee(rd, "input_cost_per_second") + fee(rd, "output_cost_per_second");
    if (p->second == 0 && p->request == 0) return false;
    p->base.input = MAX(p->base.input, 0);
    p->base.output = MAX(p->base.output, 0);
    return true;
}

/* Factors below one are taken for one. */
static void uplift_read(Reading *rd, Price *p)
{
    static const struct {
        Region region;
        const char *key, *specific;
    } regions[] = { { REGION_EU, "regional_processing_uplift_multiplier_eu", "eu" },
                    { REGION_US, "regional_processing_uplift_multiplier_us", "us" } };
    const Json *specific = json_get(rd->entry, "provider_specific_entry");
    for (size_t i = 0; i < ARRAY_N(regions); i++) {
        const Json *v[] = { json_get(rd->entry, regions[i].key),
                            json_get(specific, regions[i].specific) };
        for (size_t k = 0; k < ARRAY_N(v); k++) {
            int64_t factor = number(rd, v[k], PRICE_UPLIFT_ONE, PRICE_UPLIFT_MAX);
            if (factor == PRICE_UNSET) continue;
            int64_t *held = &p->uplift[regions[i].region];
            *held = MAX(*held, MAX(factor, PRICE_UPLIFT_ONE));
        }
    }
}

static void media_read(Reading *rd, Price *p)
{
    for (JsonIter it = json_iter(rd->entry); json_next(&it);) {
        RateMember m;
        int64_t cost;
        bool known = other_member(it.key) || rate_member(it.key, &m);
        if (known || !names_media(it.key)) continue;
        Str text = json_number_text(it.value);
        p->media_unpriced |= money_from_text(text, PUSD_PER_USD, &cost) != 0 || cost > 0;
    }
    /* By the image that comes out: nobody knows how many before. */
    if (fee(rd, "output_cost_per_image") > 0 &&
        json_type(json_get(rd->entry, "output_cost_per_image_token")) == JSON_ABSENT)
        p->media_unpriced = true;
}

/* {"fast": 6.0}: all rates times six. */
static void fast_read(Reading *rd, const Price *p)
{
    const Json *specific = json_get(rd->entry, "provider_specific_entry");
    int64_t factor = number(rd, json_get(specific, "fast"), PRICE_UPLIFT_ONE, PRICE_UPLIFT_MAX);
    if (factor == PRICE_UNSET || rd->seen[SERVICE_FAST]) return;
    PriceSchedule *s = &rd->schedules[SERVICE_FAST];
    s->base = p->base;
    memcpy(s->tiers, p->tiers, sizeof s->tiers);
    s->tiers_n = p->tiers_n;
    for (size_t i = 0; i <= s->tiers_n; i++) {
        PriceRates *rates = i == 0 ? &s->base : &s->tiers[i - 1].rates;
        for (size_t k = 0; k < sizeof *rates / sizeof(int64_t); k++) {
            int64_t *rate = (int64_t *)rates + k;
            __int128 times = (__int128)*rate * MAX(factor, PRICE_UPLIFT_ONE);
            times = times / PRICE_UPLIFT_ONE + (times % PRICE_UPLIFT_ONE != 0);
            rd->bad |= times > PRICE_RATE_MAX;
            *rate = times > PRICE_RATE_MAX ? PRICE_RATE_MAX : (int64_t)times;
        }
    }
    rd->seen[SERVICE_FAST] = true;
}

static int services_keep(Reading *rd, Arena *arena, Price *p)
{
    for (Service i = 0; i < SERVICE_N_; i++) {
        if (i == SERVICE_STANDARD || !rd->seen[i]) continue;
        PriceSchedule *kept = ARENA_NEW(arena, PriceSchedule);
        if (!kept) return -ENOMEM;
        *kept = rd->schedules[i];
        price_fill_service(p, kept);
        p->others[i] = kept;
    }
    return 0;
}

/* --- entries -------------------------------------------------------------------------------- */

static bool mode_is_served(Str mode)
{
    static const Str modes[] = { STR("chat"), STR("completion"), STR("responses"),
                                 STR("embedding") };
    for (size_t i = 0; i < ARRAY_N(modes); i++)
        if (str_eq(mode, modes[i])) return true;
    return false;
}

static void bounds_read(const Json *e, bool embedding, Price *p)
{
    p->output_max = tokens_of(e, "max_output_tokens");
    if (p->output_max == 0) p->output_max = tokens_of(e, "max_tokens");
    /* An embedding request holds many texts; the bound is of each. */
    p->input_max = embedding ? 0 : tokens_of(e, "max_input_tokens");
}

/* A list has zero for what it does not know: only the operator can say that a model is free. What
 * is billed by the call, the second or the image has zeros for tokens. */
static bool costs_nothing(const Price *p)
{
    return p->base.input == 0 && p->base.output == 0 && p->tiers_n == 0 && p->request == 0 &&
           p->second == 0 && p->image == 0;
}

int price_entry_read(Arena *arena, Str model, const Json *entry, Price *ret)
{
    Reading rd = { .entry = entry };
    Str mode = json_str(json_get(entry, "mode"));
    if (!mode_is_served(mode) || str_empty(model) || str_find_char(model, '*') >= 0)
        return PRICE_E_SKIP;
    for (size_t i = 0; i < SERVICE_N_; i++) rd.schedules[i].base = PRICE_RATES_UNSET;
    rates_read(&rd, entry, 0);
    tiered_read(&rd);
    PriceSchedule *usual = &rd.schedules[SERVICE_STANDARD];
    lowest_tier_is_base(usual);

    bool embedding = str_eq(mode, STR("embedding"));
    Price p = { .model = model, .base = usual->base, .tiers_n = usual->tiers_n };
    memcpy(p.tiers, usual->tiers, sizeof p.tiers);
    if (embedding && p.base.output == PRICE_UNSET) p.base.output = 0;
    fees_read(&rd, &p);
    bool tokens = p.base.input != PRICE_UNSET && p.base.output != PRICE_UNSET;
    if (!tokens && !seconds_read(&rd, &p)) return PRICE_E_SKIP;
    uplift_read(&rd, &p);
    media_read(&rd, &p);
    bounds_read(entry, embedding, &p);
    price_fill(&p);
    fast_read(&rd, &p);
    if (rd.bad || costs_nothing(&p)) return PRICE_E_SKIP;
    int r = services_keep(&rd, arena, &p);
    if (r == 0) *ret = p;
    return r;
}

void price_entry_write(const Json *entry, JsonOut *out)
{
    json_out_object(out);
    for (JsonIter it = json_iter(entry); json_next(&it);) {
        RateMember m;
        if (!other_member(it.key) && !rate_member(it.key, &m) && !names_media(it.key)) continue;
        json_out_key_str(out, it.key);
        json_out_value(out, it.value);
    }
    json_out_object_end(out);
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
        r = price_entry_read(scratch, it.key, it.value, &price);
        if (r == 0) r = price_table_add(table, &price);
        if (r == -ENOSPC || r == -ENOMEM) return r;
        if (r == 0) {
            ret->imported++;
            continue;
        }
        assert(r == PRICE_E_SKIP || r == -EINVAL);
        if (ret->skipped++ == 0) str_copy(ret->first_skipped, sizeof ret->first_skipped, it.key);
    }
    return 0;
}
