#include <stdio.h>

#include "codec/json.h"
#include "logic/price.h"

static void rate_write(JsonOut *out, const char *key, int64_t pusd)
{
    char text[MONEY_TEXT_MAX];
    json_out_kcstr(out, key, price_usd_per_million(pusd, text));
}

/* Pico-USD as USD, exactly. */
static void fee_write(JsonOut *out, const char *key, int64_t pusd)
{
    char text[MONEY_TEXT_MAX];
    if (pusd == 0) return;
    size_t n = (size_t)snprintf(text, sizeof text, "%" PRId64 ".%012" PRId64, pusd / PUSD_PER_USD,
                                pusd % PUSD_PER_USD);
    while (text[n - 1] == '0' && text[n - 2] != '.') text[--n] = '\0';
    json_out_kcstr(out, key, text);
}

/* Kinds that cost what their plain tokens do are left out. */
static void rates_write(JsonOut *out, const PriceRates *r)
{
    const struct {
        const char *key;
        int64_t rate, plain;
    } kinds[] = { { "cacheReadUsdPerMillion", r->cached, r->input },
                  { "cacheWriteUsdPerMillion", r->write_5m, r->input },
                  { "cacheWrite1hUsdPerMillion", r->write_1h, r->input },
                  { "reasoningUsdPerMillion", r->reasoning, r->output },
                  { "audioInputUsdPerMillion", r->audio_input, r->input },
                  { "audioOutputUsdPerMillion", r->audio_output, r->output },
                  { "imageInputUsdPerMillion", r->image_input, r->input },
                  { "imageOutputUsdPerMillion", r->image_output, r->output } };
    rate_write(out, "inputUsdPerMillion", r->input);
    rate_write(out, "outputUsdPerMillion", r->output);
    for (size_t i = 0; i < ARRAY_N(kinds); i++)
        if (kinds[i].rate != kinds[i].plain) rate_write(out, kinds[i].key, kinds[i].rate);
}

static void tiers_write(JsonOut *out, const PriceTier *tiers, size_t n)
{
    if (n == 0) return;
    json_out_key(out, "tiers");
    json_out_array(out);
    for (size_t i = 0; i < n; i++) {
        json_out_object(out);
        json_out_ki64(out, "aboveTokens", tiers[i].above);
        rates_write(out, &tiers[i].rates);
        json_out_object_end(out);
    }
    json_out_array_end(out);
}

static void services_write(JsonOut *out, const Price *price)
{
    static const char *const names[SERVICE_N_] = { [SERVICE_FLEX] = "flex",
                                                   [SERVICE_PRIORITY] = "priority",
                                                   [SERVICE_BATCH] = "batch",
                                                   [SERVICE_FAST] = "fast" };
    bool any = false;
    for (Service i = 0; i < SERVICE_N_; i++) {
        const PriceSchedule *s = price->others[i];
        if (!s) continue;
        if (!any) json_out_key(out, "services"), json_out_object(out);
        any = true;
        json_out_key(out, names[i]);
        json_out_object(out);
        rates_write(out, &s->base);
        tiers_write(out, s->tiers, s->tiers_n);
        json_out_object_end(out);
    }
    if (any) json_out_object_end(out);
}

static void factors_write(JsonOut *out, const Price *price)
{
    static const char *const names[REGION_N_] = { [REGION_US] = "us", [REGION_EU] = "eu" };
    bool any = false;
    for (Region i = 0; i < REGION_N_; i++) {
        if (!names[i] || price->uplift[i] == 0) continue;
        if (!any) json_out_key(out, "regionFactors"), json_out_object(out);
        any = true;
        rate_write(out, names[i], price->uplift[i]);
    }
    if (any) json_out_object_end(out);
}

static void fees_write(JsonOut *out, const Price *price)
{
    fee_write(out, "webSearchLowUsd", price->search[SEARCH_LOW]);
    fee_write(out, "webSearchMediumUsd", price->search[SEARCH_MEDIUM]);
    fee_write(out, "webSearchHighUsd", price->search[SEARCH_HIGH]);
    fee_write(out, "fileSearchUsd", price->file_search);
    fee_write(out, "codeSessionUsd", price->code_session);
    fee_write(out, "requestUsd", price->request);
    fee_write(out, "secondUsd", price->second);
    fee_write(out, "imageUsd", price->image);
}

void price_write(JsonOut *out, const Price *price, const char *source)
{
    int64_t image = price_image_tokens(price);
    json_out_object(out);
    json_out_kstr(out, "model", price->model);
    json_out_kcstr(out, "source", source);
    rates_write(out, &price->base);
    tiers_write(out, price->tiers, price->tiers_n);
    services_write(out, price);
    factors_write(out, price);
    fees_write(out, price);
    if (image) json_out_ki64(out, "imageTokensMax", image);
    if (price->input_max) json_out_ki64(out, "maxInputTokens", price->input_max);
    if (price->output_max) json_out_ki64(out, "maxOutputTokens", price->output_max);
    if (price->media_unpriced) json_out_kbool(out, "mediaUnpriced", true);
    if (price->fictitious) json_out_kbool(out, "fictitious", true);
    json_out_object_end(out);
}
