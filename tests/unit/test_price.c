#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/diag.h"
#include "logic/price.h"

static Arena arena;
static PriceTable table;
static const PriceTerms plain = { 0 };

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 64 << 20);
    price_table_init(&table, &arena);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static Price simple(const char *model, int64_t input, int64_t output)
{
    Price p = { .model = str_of(model), .base = PRICE_RATES_UNSET };
    p.base.input = input;
    p.base.output = output;
    return p;
}

static void add(const Price *p)
{
    if (price_table_add(&table, p) != 0) fail_msg("%s", diag_text());
}

/* --- costs ---------------------------------------------------------------------------------- */

static void test_openai_cost(void **state)
{
    (void)state;
    const Price *p = price_find(&table, STR("openai"), STR("gpt-4o-mini-2024-07-18"));
    assert_non_null(p);
    Usage u = {
        .input_tokens = 1117, .cached_tokens = 1024, .output_tokens = 346, .reasoning_tokens = 320
    };
    /* 93 x 0.15 + 1024 x 0.075 + 346 x 0.60 USD a million */
    assert_int_equal(price_cost(p, &u, &plain), 298350);
    u = (Usage){ 0 };
    assert_int_equal(price_cost(p, &u, &plain), 0);
    u.input_tokens = 1;
    assert_int_equal(price_cost(p, &u, &plain), 150);
}

static void test_anthropic_cost(void **state)
{
    (void)state;
    const Price *p = price_find(&table, STR("anthropic"), STR("claude-sonnet-4-6"));
    assert_non_null(p);
    Usage u = { .input_tokens = 1000 + 2000 + 300 + 40,
                .cached_tokens = 2000,
                .cache_write_5m_tokens = 300,
                .cache_write_1h_tokens = 40,
                .output_tokens = 500,
                .server_calls = { [SERVER_WEB_SEARCH] = 3 } };
    /* 1000 x 3 + 2000 x 0.30 + 300 x 3.75 + 40 x 6 + 500 x 15 a million, 3 searches at a cent */
    assert_int_equal(price_cost(p, &u, &plain),
                     3000000 + 600000 + 1125000 + 240000 + 7500000 + 30000000);
}

static void test_long_context_costs_more(void **state)
{
    (void)state;
    const Price *p = price_find(&table, STR("anthropic"), STR("claude-sonnet-4-5-20250929"));
    Usage u = { .input_tokens = 200000, .output_tokens = 10 };
    assert_int_equal(price_cost(p, &u, &plain), 200000 * 3000 + 10 * 15000);
    u.input_tokens = 200001;
    assert_int_equal(price_cost(p, &u, &plain), INT64_C(200001) * 6000 + 10 * 22500);
}

static void test_rounds_up_once(void **state)
{
    (void)state;
    Price p = simple("m", 1, 1); /* a millionth of a cent: far below a nano-USD */
    price_fill(&p);
    Usage u = { .input_tokens = 1, .output_tokens = 1 };
    assert_int_equal(price_cost(&p, &u, &plain), 1);
    u = (Usage){ .input_tokens = 500, .output_tokens = 500 };
    assert_int_equal(price_cost(&p, &u, &plain), 1);
    u.output_tokens = 501;
    assert_int_equal(price_cost(&p, &u, &plain), 2);
}

static void test_parts_beyond_totals_count_in_full(void **state)
{
    (void)state;
    Price p = simple("m", 1000, 1000);
    p.base.cached = 100;
    price_fill(&p);
    Usage u = {
        .input_tokens = 10, .cached_tokens = 30, .output_tokens = 5, .reasoning_tokens = 50
    };
    assert_int_equal(price_cost(&p, &u, &plain), 3 + 50);
}

static void test_saturates(void **state)
{
    (void)state;
    Price p = simple("m", PRICE_RATE_MAX, PRICE_RATE_MAX);
    price_fill(&p);
    PriceTerms none = { 0 };
    assert_int_equal(price_hold(&p, INT64_MAX, INT64_MAX, &none), INT64_MAX);
    Usage u = { .input_tokens = INT64_C(1000000000000), .output_tokens = INT64_C(1000000000000) };
    assert_int_equal(price_cost(&p, &u, &plain), INT64_MAX);
}

static void test_unset_rates_are_never_cheaper(void **state)
{
    (void)state;
    Price p = simple("m", 100, 400);
    price_fill(&p);
    assert_int_equal(p.base.cached, 100);
    assert_int_equal(p.base.write_5m, 100);
    assert_int_equal(p.base.write_1h, 100);
    assert_int_equal(p.base.reasoning, 400);
    assert_int_equal(p.base.audio_input, 100);
    assert_int_equal(p.base.audio_output, 400);
    p = simple("m", 100, 400);
    p.base.write_5m = 125;
    p.base.cached = 0;
    price_tier(p.tiers, &p.tiers_n, 1000)->rates.input = 200;
    price_fill(&p);
    assert_int_equal(p.base.cached, 0); /* said to be free */
    assert_int_equal(p.base.write_1h, 200);
    assert_int_equal(p.tiers[0].rates.output, 400);
    assert_int_equal(p.tiers[0].rates.cached, 200);
    assert_int_equal(p.tiers[0].rates.write_5m, 200);
    assert_int_equal(p.tiers[0].rates.write_1h, 400);
}

/* --- holds ---------------------------------------------------------------------------------- */

static void test_hold_is_the_worst_case(void **state)
{
    (void)state;
    Price p = simple("m", 1000, 4000);
    p.base.write_5m = 1250;
    p.base.write_1h = 2000;
    p.base.reasoning = 5000;
    p.base.audio_input = 9000;
    p.search[SEARCH_UNKNOWN] = 7000;
    price_fill(&p);
    PriceTerms terms = { 0 };
    assert_int_equal(price_hold(&p, 10, 10, &terms), 10 + 50);
    terms.cache_write = true;
    assert_int_equal(price_hold(&p, 10, 10, &terms), 20 + 50);
    terms.media = true;
    assert_int_equal(price_hold(&p, 10, 10, &terms), 90 + 50);
    terms.server_uses = 2;
    terms.server_tools = 1u << SERVER_WEB_SEARCH;
    assert_int_equal(price_hold(&p, 10, 10, &terms), 90 + 50 + 14);
    price_tier(p.tiers, &p.tiers_n, 9)->rates = p.base;
    p.tiers[0].rates.output = 8000;
    assert_int_equal(price_hold(&p, 9, 10, &terms), 81 + 50 + 14);
    assert_int_equal(price_hold(&p, 10, 10, &terms), 90 + 80 + 14);
}

static void test_affordable_output(void **state)
{
    (void)state;
    Price p = simple("m", 1000, 4000);
    price_fill(&p);
    assert_int_equal(price_output_affordable(&p, 10, &plain, 9), 0);
    assert_int_equal(price_output_affordable(&p, 10, &plain, 10), 0);
    assert_int_equal(price_output_affordable(&p, 10, &plain, 17), 1);
    assert_int_equal(price_output_affordable(&p, 10, &plain, 18), 2);
    Price free_model = simple("m", 0, 0);
    price_fill(&free_model);
    assert_int_equal(price_output_affordable(&free_model, 100, &plain, 0), INT64_MAX);
}

/* --- the table ------------------------------------------------------------------------------ */

static void test_lookup_order(void **state)
{
    (void)state;
    Price p = simple("acme/large", 1, 1);
    add(&p);
    p = simple("tiny", 2, 2);
    add(&p);
    p = simple("llama*", 3, 3);
    add(&p);
    p = simple("llama-3*", 4, 4);
    add(&p);
    assert_int_equal(price_find(&table, STR(""), STR("tiny"))->base.input, 2);
    assert_int_equal(price_find(&table, STR("acme"), STR("large"))->base.input, 1);
    assert_int_equal(price_find(&table, STR("acme"), STR("acme/tiny"))->base.input, 2);
    assert_null(price_find(&table, STR("other"), STR("large")));
    assert_null(price_find(&table, STR("other"), STR("acme/tiny")));
    assert_int_equal(price_find(&table, STR("x"), STR("llama-2"))->base.input, 3);
    assert_int_equal(price_find(&table, STR("x"), STR("llama-3-8b"))->base.input, 4);
    assert_null(price_find(&table, STR(""), STR("")));
    assert_null(
        price_find(&table, STR("openai"), STR("gpt-4o"))); /* a floating alias has no price */
    p = simple("gpt-4o-mini-2024-07-18", 77, 77);
    add(&p); /* the table comes before the built-in list */
    assert_int_equal(price_find(&table, STR("openai"), STR("gpt-4o-mini-2024-07-18"))->base.input,
                     77);
    assert_int_equal(
        price_find(&table, STR("openai"), STR("openai/gpt-4o-mini-2024-07-18"))->base.input, 77);
}

static void test_simulated_models_cost_pretend_money(void **state)
{
    (void)state;
    const Price *p = price_find(&table, STR("sim"), STR("sim/echo"));
    assert_true(p && p->fictitious);
    assert_int_equal(p->base.input, 500000);
    assert_int_equal(p->base.output, 2000000);
    assert_int_equal(p->base.cached, 125000);
    assert_int_equal(price_find(&table, STR("sim"), STR("sim/small-1"))->base.input, 100000);
    assert_int_equal(price_find(&table, STR("sim"), STR("sim/large"))->base.input, 2500000);
}

static void test_every_builtin_is_whole(void **state)
{
    (void)state;
    PriceTable empty;
    price_table_init(&empty, &arena);
    size_t n = 0;
    const Price *p;
    for (; (p = price_at(&empty, n)); n++) {
        assert_true(p->base.input > 0 && p->base.output >= 0);
        assert_true(p->base.cached > 0 && p->base.cached <= p->base.input);
        assert_true(p->base.write_5m >= p->base.input && p->base.write_1h >= p->base.write_5m);
        assert_true(p->input_max > 0);
        assert_true(p->tiers_n == 0 || (p->tiers[0].rates.input > p->base.input &&
                                        p->tiers[0].rates.output > p->base.output));
        assert_ptr_equal(price_find(&empty, STR("nobody"), p->model), p);
    }
    assert_true(n > 30);
}

static void test_adding(void **state)
{
    (void)state;
    for (int i = 0; i < 3000; i++) { /* in an order that is neither up nor down */
        char name[32];
        (void)snprintf(name, sizeof name, "bulk-%d", (i * 7919) % 3000);
        Price p = simple(name, i, i);
        add(&p);
    }
    for (int i = 0; i < 3000; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "bulk-%d", (i * 7919) % 3000);
        assert_int_equal(price_find(&table, STR(""), str_of(name))->base.input, i);
    }
    for (size_t i = 1; i < table.n; i++)
        assert_true(str_cmp(table.sorted[i - 1]->model, table.sorted[i]->model) < 0);
    size_t n = table.n;
    Price again = simple("bulk-7", 9999, 1);
    add(&again);
    assert_int_equal(table.n, n);
    assert_int_equal(price_find(&table, STR(""), STR("bulk-7"))->base.input, 9999);
}

static void test_refuses_nonsense(void **state)
{
    (void)state;
    Price p = simple("", 1, 1);
    assert_int_equal(price_table_add(&table, &p), -EINVAL);
    p = simple("m", PRICE_UNSET, 1);
    assert_int_equal(price_table_add(&table, &p), -EINVAL);
    p = simple("m", 1, PRICE_RATE_MAX + 1);
    assert_int_equal(price_table_add(&table, &p), -EINVAL);
    p = simple("m", 1, 1);
    p.base.cached = -2;
    assert_int_equal(price_table_add(&table, &p), -EINVAL);
    p = simple("m", 1, 1);
    p.output_max = -1;
    assert_int_equal(price_table_add(&table, &p), -EINVAL);
    p = simple("m", 1, 1);
    p.model = STR("a\0b");
    assert_int_equal(price_table_add(&table, &p), -EINVAL);
}

static void test_full_table(void **state)
{
    (void)state;
    Arena big;
    arena_init(&big, 256 << 20);
    PriceTable full;
    price_table_init(&full, &big);
    char name[32];
    for (int i = 0; i < PRICE_ENTRIES_MAX; i++) {
        (void)snprintf(name, sizeof name, "%08d", i);
        Price p = simple(name, 1, 1);
        assert_int_equal(price_table_add(&full, &p), 0);
    }
    Price p = simple("one-more", 1, 1);
    assert_int_equal(price_table_add(&full, &p), -ENOSPC);
    p = simple("00000007", 5, 5);
    assert_int_equal(price_table_add(&full, &p), 0); /* replacing needs no room */
    arena_deinit(&big);
    Arena tiny;
    arena_init(&tiny, 100);
    price_table_init(&full, &tiny);
    assert_int_equal(price_table_add(&full, &p), -ENOMEM);
    arena_deinit(&tiny);
}

static void test_usd_per_million(void **state)
{
    (void)state;
    int64_t pusd;
    assert_int_equal(price_from_usd_per_million(STR("0.15"), &pusd), 0);
    assert_int_equal(pusd, 150000);
    assert_int_equal(price_from_usd_per_million(STR("0.075"), &pusd), 0);
    assert_int_equal(pusd, 75000);
    assert_int_equal(price_from_usd_per_million(STR("0.0000001"), &pusd), 0);
    assert_int_equal(pusd, 1);
    assert_int_equal(price_from_usd_per_million(STR("15"), &pusd), 0);
    assert_int_equal(pusd, 15000000);
    assert_int_equal(price_from_usd_per_million(STR("-1"), &pusd), -EINVAL);
    assert_int_equal(price_from_usd_per_million(STR("cheap"), &pusd), -EINVAL);
}

/* --- import --------------------------------------------------------------------------------- */

static const char list[] =
    "{\"sample_spec\":{\"mode\":\"one of chat\",\"input_cost_per_token\":0.0,\"max_tokens\":\"text\"},"
    "\"i-small\":{\"mode\":\"chat\",\"litellm_provider\":\"openai\",\"input_cost_per_token\":1.5e-07,"
    "\"output_cost_per_token\":6e-07,\"cache_read_input_token_cost\":7.5e-08,\"max_input_tokens\":128000,"
    "\"max_output_tokens\":16384,\"max_tokens\":16384,\"supports_vision\":true},"
    "\"i-claude\":{\"mode\":\"chat\",\"input_cost_per_token\":3e-06,\"output_cost_per_token\":1.5e-05,"
    "\"cache_creation_input_token_cost\":3.75e-06,\"cache_creation_input_token_cost_above_1hr\":6e-06,"
    "\"cache_read_input_token_cost\":3e-07,\"input_cost_per_token_above_200k_tokens\":6e-06,"
    "\"output_cost_per_token_above_200k_tokens\":2.25e-05,\"cache_creation_input_token_cost_above_200k_tokens\":"
    "7.5e-06,\"cache_read_input_token_cost_above_200k_tokens\":6e-07,\"max_tokens\":64000,"
    "\"search_context_cost_per_query\":{\"search_context_size_low\":0.01,\"search_context_size_high\":0.02}},"
    "\"i-embed\":{\"mode\":\"embedding\",\"input_cost_per_token\":2e-08,\"output_cost_per_token\":0.0,"
    "\"max_input_tokens\":8191},"
    "\"i-two-tiers\":{\"mode\":\"responses\",\"input_cost_per_token\":1e-06,\"output_cost_per_token\":2e-06,"
    "\"input_cost_per_token_above_128k_tokens\":2e-06,\"input_cost_per_token_above_272k_tokens\":4e-06},"
    "\"i-listed\":{\"mode\":\"chat\",\"tiered_pricing\":[{\"input_cost_per_token\":1e-07,\"output_cost_per_token\":"
    "2e-07,\"range\":[0,32000]},{\"input_cost_per_token\":3e-07,\"output_cost_per_token\":9e-07}]},"
    "\"i-dust\":{\"mode\":\"completion\",\"input_cost_per_token\":1e-13,\"output_cost_per_token\":0},"
    "\"i-audio\":{\"mode\":\"chat\",\"input_cost_per_token\":2.5e-06,\"output_cost_per_token\":1e-05,"
    "\"input_cost_per_audio_token\":4e-05,\"output_cost_per_audio_token\":8e-05},"
    "\"x-image\":{\"mode\":\"image_generation\",\"output_cost_per_image\":0.04},"
    "\"x-free\":{\"mode\":\"chat\",\"max_tokens\":100},"
    "\"x-text\":{\"mode\":\"chat\",\"input_cost_per_token\":\"0.1\",\"output_cost_per_token\":1},"
    "\"x-dear\":{\"mode\":\"chat\",\"input_cost_per_token\":2.0,\"output_cost_per_token\":1},"
    "\"x-minus\":{\"mode\":\"chat\",\"input_cost_per_token\":-1e-6,\"output_cost_per_token\":1e-6},"
    "\"x/*\":{\"mode\":\"chat\",\"input_cost_per_token\":0.0,\"output_cost_per_token\":0.0},"
    "\"x-zero\":{\"mode\":\"chat\",\"input_cost_per_token\":0.0,\"output_cost_per_token\":0},"
    "\"i-call\":{\"mode\":\"chat\",\"input_cost_per_token\":0.0,\"output_cost_per_token\":0,"
    "\"input_cost_per_query\":0.01},"
    "\"x-number\":5}";

static void test_import(void **state)
{
    (void)state;
    PriceImport result;
    if (price_import(&table, &arena, str_of(list), &result) != 0) fail_msg("%s", diag_text());
    assert_int_equal(result.imported, 8);
    assert_int_equal(result.skipped, 9);
    assert_null(price_find(&table, STR(""), STR("x-zero"))); /* zero stands for unknown */
    assert_string_equal(result.first_skipped, "sample_spec");

    const Price *p = price_find(&table, STR(""), STR("i-small"));
    assert_int_equal(p->base.input, 150000);
    assert_int_equal(p->base.output, 600000);
    assert_int_equal(p->base.cached, 75000); /* 7.5e-08, to the pico-USD */
    assert_int_equal(p->input_max, 128000);
    assert_int_equal(p->output_max, 16384);
    assert_int_equal(p->tiers_n, 0);

    p = price_find(&table, STR(""), STR("i-claude"));
    assert_int_equal(p->base.write_5m, 3750000);
    assert_int_equal(p->base.write_1h, 6000000);
    assert_int_equal(p->tiers[0].above, 200000);
    assert_int_equal(p->tiers[0].rates.input, 6000000);
    assert_int_equal(p->tiers[0].rates.output, 22500000);
    assert_int_equal(p->tiers[0].rates.cached, 600000);
    assert_int_equal(p->tiers[0].rates.write_5m, 7500000);
    assert_int_equal(p->tiers[0].rates.write_1h, 12000000);
    assert_int_equal(p->output_max, 64000);
    assert_int_equal(p->search[SEARCH_LOW], INT64_C(10000000000));
    assert_int_equal(p->search[SEARCH_MEDIUM], INT64_C(20000000000)); /* not said: the dearest */
    assert_int_equal(p->search[SEARCH_HIGH], INT64_C(20000000000));

    p = price_find(&table, STR(""), STR("i-embed"));
    assert_int_equal(p->base.input, 20000);
    assert_int_equal(p->base.output, 0);
    assert_int_equal(p->input_max, 0); /* a bound of each text, not of the request */

    p = price_find(&table, STR(""), STR("i-two-tiers"));
    assert_int_equal(p->tiers[0].above, 128000);
    assert_int_equal(p->tiers[0].rates.input, 2000000);
    assert_int_equal(p->tiers[0].rates.output, 2000000);
    assert_int_equal(p->tiers[1].above, 272000);
    assert_int_equal(p->tiers[1].rates.input, 4000000);
    assert_int_equal(p->tiers[1].rates.output, 2000000);

    p = price_find(&table, STR(""), STR("i-listed"));
    assert_int_equal(p->base.input, 300000); /* one has no range: it may be any */
    assert_int_equal(p->base.output, 900000);
    assert_int_equal(price_find(&table, STR(""), STR("i-dust"))->base.input, 1); /* rounded up */
    assert_int_equal(price_find(&table, STR(""), STR("i-audio"))->base.audio_output, 80000000);
    assert_null(price_find(&table, STR(""), STR("x-text")));
}

static Price entry(const char *members)
{
    static const JsonLimits limits = { .numbers_as_text = true };
    Str text = arena_printf(&arena, "{\"mode\":\"chat\",%s}", members);
    const Json *v;
    Price p;
    if (json_parse(&arena, text, &limits, &v, NULL) != 0) fail_msg("%s", diag_text());
    assert_int_equal(price_entry_read(&arena, STR("m"), v, &p), 0);
    return p;
}

#define TOKENS "\"input_cost_per_token\":1e-06,\"output_cost_per_token\":4e-06"

static void test_services(void **state)
{
    (void)state;
    Price p = entry(TOKENS
                    ",\"input_cost_per_token_priority\":2e-06,"
                    "\"output_cost_per_token_priority\":8e-06,"
                    "\"input_cost_per_token_flex\":5e-07,\"output_cost_per_token_flex\":2e-06,"
                    "\"input_cost_per_token_above_200k_tokens\":3e-06,"
                    "\"input_cost_per_token_above_200k_tokens_priority\":5e-06,"
                    "\"input_cost_per_token_above_32k_tokens\":1.5e-06,"
                    "\"cache_read_input_token_cost_flex\":1e-08");
    const PriceSchedule *priority = p.others[SERVICE_PRIORITY], *flex = p.others[SERVICE_FLEX];
    assert_true(priority && flex && !p.others[SERVICE_BATCH]);
    assert_int_equal(p.tiers_n, 2);
    assert_int_equal(p.tiers[0].above, 32000);
    assert_int_equal(flex->base.cached, 10000);
    assert_int_equal(priority->tiers_n, 2);
    assert_int_equal(priority->tiers[0].rates.input, 2000000); /* its own, dearer than usual */
    assert_int_equal(priority->tiers[1].rates.input, 5000000);
    assert_int_equal(flex->tiers[1].rates.input, 3000000); /* not said: the usual one */

    Usage u = { .input_tokens = 1000, .output_tokens = 1000 };
    PriceTerms terms = { .service = SERVICE_FLEX };
    assert_int_equal(price_cost(&p, &u, &terms), 500000 + 2000000);
    assert_int_equal(price_cost(&p, &u, &plain), 1000000 + 4000000);
    assert_int_equal(price_hold(&p, 1000, 1000, &terms), 5000000); /* it may fall back */
    u.service = SERVICE_PRIORITY; /* what the provider says counts */
    assert_int_equal(price_cost(&p, &u, &terms), 2000000 + 8000000);
    u.service = SERVICE_FAST; /* rates that nobody knows: the dearest that are known */
    assert_int_equal(price_cost(&p, &u, &terms), 2000000 + 8000000);
    u.service = SERVICE_BATCH; /* sold at a discount: the usual ones */
    assert_int_equal(price_cost(&p, &u, &terms), 1000000 + 4000000);
}

static void test_factors(void **state)
{
    (void)state;
    Price p = entry(TOKENS ",\"regional_processing_uplift_multiplier_eu\":1.1,"
                           "\"provider_specific_entry\":{\"us\":1.25,\"fast\":6.0}");
    Usage u = { .input_tokens = 10, .output_tokens = 1 };
    PriceTerms terms = { .region = REGION_EU };
    assert_int_equal(price_cost(&p, &u, &terms), 15400);
    terms.region = REGION_GLOBAL;
    assert_int_equal(price_cost(&p, &u, &terms), 14000);
    terms.region = REGION_UNKNOWN;
    assert_int_equal(price_cost(&p, &u, &terms), 14000);
    assert_int_equal(price_hold(&p, 10, 1, &terms), 17500); /* an account may be set to it */
    u.region = REGION_US;
    assert_int_equal(price_cost(&p, &u, &terms), 17500);
    assert_int_equal(p.others[SERVICE_FAST]->base.output, 24000000);
}

static void test_fees(void **state)
{
    (void)state;
    Price p = entry(TOKENS
                    ",\"file_search_cost_per_1k_calls\":2.5,"
                    "\"code_interpreter_cost_per_session\":0.03,\"input_cost_per_query\":0.005,"
                    "\"input_cost_per_image\":0.001,\"search_context_cost_per_query\":"
                    "{\"search_context_size_low\":0.03,\"search_context_size_medium\":0.035,"
                    "\"search_context_size_high\":0.05}");
    PriceTerms terms = { .search_size = SEARCH_LOW, .images = 2 };
    Usage u = { .server_calls = { [SERVER_WEB_SEARCH] = 1,
                                  [SERVER_FILE_SEARCH] = 2,
                                  [SERVER_CODE] = 1,
                                  [SERVER_FETCH] = 9 } };
    assert_int_equal(price_cost(&p, &u, &terms),
                     5000000 + 2 * 1000000 + 30000000 + 2 * 2500000 + 30000000);
    terms.server_uses = 4;
    terms.server_tools = 1u << SERVER_WEB_SEARCH | 1u << SERVER_CODE;
    assert_int_equal(price_hold(&p, 0, 0, &terms), 5000000 + 2 * 1000000 + 4 * 30000000);
    terms.search_size = SEARCH_HIGH;
    assert_int_equal(price_hold(&p, 0, 0, &terms), 5000000 + 2 * 1000000 + 4 * 50000000);
    p = entry("\"input_cost_per_second\":0.0001,\"output_cost_per_second\":0.0002");
    terms = (PriceTerms){ .seconds = 10 };
    assert_int_equal(price_hold(&p, 1000, 1000, &terms), 3000000);
    p = entry(TOKENS ",\"input_cost_per_second\":0.0001"); /* another way to say it */
    assert_int_equal(price_hold(&p, 0, 0, &terms), 0);
}

static void test_tier_list(void **state)
{
    (void)state;
    Price p = entry("\"tiered_pricing\":[{\"range\":[0,32000],\"input_cost_per_token\":1e-07,"
                    "\"output_cost_per_token\":2e-07},{\"range\":[3.2e4,128000.0],"
                    "\"input_cost_per_token\":3e-07,\"output_cost_per_token\":9e-07}]");
    assert_int_equal(p.base.input, 100000);
    assert_int_equal(p.tiers_n, 1);
    assert_int_equal(p.tiers[0].above, 32000);
    assert_int_equal(p.tiers[0].rates.output, 900000);
}

static void test_what_has_no_price(void **state)
{
    (void)state;
    Price p = entry(TOKENS);
    assert_null(price_lacks(&p, &plain));
    const struct {
        const char *lacks;
        PriceTerms terms;
    } want[] = {
        { "service_tier", { .service = SERVICE_PRIORITY } },
        { "service_tier", { .service = SERVICE_OTHER } },
        { NULL, { .service = SERVICE_FLEX } },
        { "region", { .region = REGION_US } },
        { NULL, { .region = REGION_GLOBAL } },
        { NULL, { .media = true } },
        { "images", { .images = 1 } },
        { "tools", { .server_tools = 1u << SERVER_WEB_SEARCH } },
        { "tools", { .server_tools = 1u << SERVER_OTHER } },
        { NULL, { .server_tools = 1u << SERVER_FETCH } },
    };
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        const char *lacks = price_lacks(&p, &want[i].terms);
        if (want[i].lacks) assert_string_equal(lacks, want[i].lacks);
        else assert_null(lacks);
    }
    PriceTerms images = { .images = 1 }, media = { .media = true };
    p.image_tokens_max = 1000;
    assert_null(price_lacks(&p, &images));
    p = entry(TOKENS ",\"input_cost_per_audio_per_second\":0.001");
    assert_string_equal(price_lacks(&p, &media), "media");
    p = entry(TOKENS ",\"input_cost_per_video_per_second\":0.0");
    assert_null(price_lacks(&p, &media));
    assert_int_equal(price_image_tokens(price_find(&table, STR(""), STR("gpt-4o-mini-2024-07-18"))),
                     48169);
    Price named = { .model = STR("bedrock/us.anthropic.claude-x") };
    assert_int_equal(price_image_tokens(&named), 6640);
}

/* A table below another: between its exact entries and the built-in list. */
static void test_layers(void **state)
{
    (void)state;
    PriceTable below, above;
    price_table_init(&below, &arena);
    price_table_init(&above, &arena);
    above.below = &below;
    Price p = simple("gpt-4o-mini-2024-07-18", 5, 5);
    assert_int_equal(price_table_add(&below, &p), 0);
    p = simple("both", 6, 6);
    assert_int_equal(price_table_add(&below, &p), 0);
    p = simple("both", 7, 7);
    assert_int_equal(price_table_add(&above, &p), 0);
    p = simple("gpt*", 8, 8);
    assert_int_equal(price_table_add(&above, &p), 0);
    assert_int_equal(price_find(&above, STR(""), STR("gpt-4o-mini-2024-07-18"))->base.input, 5);
    assert_int_equal(price_find(&above, STR(""), STR("both"))->base.input, 7);
    assert_int_equal(price_find(&above, STR(""), STR("gpt-9"))->base.input, 8);
    assert_ptr_equal(price_at(&above, 2), below.sorted[0]);
    assert_non_null(price_at(&above, 4));
}

static void test_import_of_something_else(void **state)
{
    (void)state;
    PriceImport result;
    size_t n = table.n;
    assert_int_equal(price_import(&table, &arena, STR("[1]"), &result), -EINVAL);
    assert_non_null(strstr(diag_text(), "found an array"));
    assert_int_equal(price_import(&table, &arena, STR("{\"a\":"), &result), -EINVAL);
    assert_int_equal(price_import(&table, &arena, STR("{\"a\":1,\"a\":2}"), &result), -EINVAL);
    assert_int_equal(table.n, n);
    assert_int_equal(price_import(&table, &arena, STR("{}"), &result), 0);
    assert_int_equal(result.imported + result.skipped, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_openai_cost),
        cmocka_unit_test(test_anthropic_cost),
        cmocka_unit_test(test_long_context_costs_more),
        cmocka_unit_test(test_rounds_up_once),
        cmocka_unit_test(test_parts_beyond_totals_count_in_full),
        cmocka_unit_test(test_saturates),
        cmocka_unit_test(test_unset_rates_are_never_cheaper),
        cmocka_unit_test(test_hold_is_the_worst_case),
        cmocka_unit_test(test_affordable_output),
        cmocka_unit_test(test_lookup_order),
        cmocka_unit_test(test_simulated_models_cost_pretend_money),
        cmocka_unit_test(test_every_builtin_is_whole),
        cmocka_unit_test(test_adding),
        cmocka_unit_test(test_refuses_nonsense),
        cmocka_unit_test(test_full_table),
        cmocka_unit_test(test_usd_per_million),
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_services),
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_fees),
        cmocka_unit_test(test_tier_list),
        cmocka_unit_test(test_what_has_no_price),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_import_of_something_else),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
