/* Properties of price arithmetic over random prices, requests and answers. A failing seed is
 * printed; PRICE_SEED=n runs that one alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "logic/price.h"
#include "tests/unit/random.h"

#define SEEDS 30000

static uint64_t seed; /* of what runs */

#define HOLDS(condition)                                                                \
    do {                                                                                \
        if (!(condition)) fail_msg("PRICE_SEED=%" PRIu64 ": not %s", seed, #condition); \
    } while (0)

/* --- whole numbers of any size, as a person would with pencil and paper ----------------------- */

#define LIMBS 16

typedef struct {
    uint32_t v[LIMBS]; /* the lowest first */
} Big;

static Big big_of(uint64_t n)
{
    return (Big){ { (uint32_t)n, (uint32_t)(n >> 32) } };
}

static Big big_add(Big a, Big b)
{
    uint64_t carry = 0;
    for (size_t i = 0; i < LIMBS; i++) {
        carry += (uint64_t)a.v[i] + b.v[i];
        a.v[i] = (uint32_t)carry;
        carry >>= 32;
    }
    assert_int_equal(carry, 0);
    return a;
}

static Big big_times(Big a, uint64_t n)
{
    Big low = { 0 }, high = { 0 };
    uint64_t carry = 0, carry_high = 0;
    for (size_t i = 0; i < LIMBS; i++) {
        carry += (uint64_t)a.v[i] * (uint32_t)n;
        low.v[i] = (uint32_t)carry;
        carry >>= 32;
        if (i + 1 == LIMBS) break;
        carry_high += (uint64_t)a.v[i] * (n >> 32);
        high.v[i + 1] = (uint32_t)carry_high;
        carry_high >>= 32;
    }
    return big_add(low, high);
}

/* Up to the next whole number; what does not fit is INT64_MAX. */
static int64_t big_over(Big a, uint32_t by)
{
    uint64_t rest = 0;
    for (size_t i = LIMBS; i-- > 0;) {
        rest = rest << 32 | a.v[i];
        a.v[i] = (uint32_t)(rest / by);
        rest %= by;
    }
    if (rest) a = big_add(a, big_of(1));
    for (size_t i = 2; i < LIMBS; i++)
        if (a.v[i]) return INT64_MAX;
    uint64_t n = (uint64_t)a.v[1] << 32 | a.v[0];
    return n > INT64_MAX ? INT64_MAX : (int64_t)n;
}

/* --- random things ---------------------------------------------------------------------------- */

static bool coin(Random *r)
{
    return random_next(r) & 1;
}

/* Of all sizes alike, so that the ends are met too. */
static int64_t any(Random *r, int64_t most)
{
    int64_t n = (int64_t)(random_next(r) >> 1);
    n >>= random_range(r, 0, 62);
    return n > most ? most : n;
}

static int64_t rate_or_unset(Random *r)
{
    return coin(r) ? PRICE_UNSET : any(r, PRICE_RATE_MAX);
}

static PriceRates random_rates(Random *r)
{
    PriceRates rates;
    for (size_t i = 0; i < sizeof rates / sizeof(int64_t); i++)
        ((int64_t *)&rates)[i] = rate_or_unset(r);
    return rates;
}

typedef struct {
    Price price;
    PriceSchedule others[SERVICE_N_];
} RandomPrice;

static void random_price(Random *r, RandomPrice *ret)
{
    Price *p = &ret->price;
    *p = (Price){ .model = STR("m"), .base = random_rates(r) };
    p->base.input = any(r, PRICE_RATE_MAX);
    p->base.output = any(r, PRICE_RATE_MAX);
    for (int i = (int)random_range(r, -3, PRICE_TIERS_MAX + 2); i > 0; i--) {
        PriceTier *tier = price_tier(p->tiers, &p->tiers_n, random_range(r, 1, 4000));
        if (tier) tier->rates = random_rates(r);
    }
    price_fill(p);
    for (Service s = SERVICE_FLEX; s < SERVICE_OTHER; s++) {
        if (coin(r)) continue;
        PriceSchedule *other = &ret->others[s];
        *other = (PriceSchedule){ .base = random_rates(r) };
        for (int i = (int)random_range(r, -3, 4); i > 0; i--)
            price_tier(other->tiers, &other->tiers_n, random_range(r, 1, 4000))->rates =
                random_rates(r);
        price_fill_service(p, other);
        p->others[s] = other;
    }
    for (Region i = REGION_US; i <= REGION_EU; i++)
        if (coin(r)) p->uplift[i] = random_range(r, 1, PRICE_UPLIFT_MAX);
    for (SearchSize i = SEARCH_LOW; i < SEARCH_N_; i++) {
        p->search[i] = any(r, PRICE_FEE_MAX);
        p->search[SEARCH_UNKNOWN] = MAX(p->search[SEARCH_UNKNOWN], p->search[i]);
    }
    p->file_search = any(r, PRICE_FEE_MAX);
    p->code_session = any(r, PRICE_FEE_MAX);
    if (coin(r)) p->request = any(r, PRICE_FEE_MAX);
    if (coin(r)) p->second = any(r, PRICE_FEE_MAX);
    if (coin(r)) p->image = any(r, PRICE_FEE_MAX);
}

static PriceTerms random_terms(Random *r)
{
    return (PriceTerms){ .cache_write = coin(r),
                         .media = coin(r),
                         .images = random_range(r, 0, 3),
                         .server_uses = random_range(r, 0, 5),
                         .server_tools = (unsigned)random_range(r, 0, (1 << SERVER_N_) - 1),
                         .search_size = (SearchSize)random_range(r, 0, SEARCH_N_ - 1),
                         .service = (Service)random_range(r, 0, SERVICE_N_ - 1),
                         .region = (Region)random_range(r, 0, REGION_N_ - 1),
                         .seconds = random_range(r, 0, 600) };
}

/* A part of a total, often all or nothing of it. */
static int64_t part(Random *r, int64_t total)
{
    if (random_range(r, 0, 3) == 0) return coin(r) ? total : 0;
    return random_range(r, 0, total);
}

/* Whatever an answer may say within the terms and the bounds; parts may overlap. */
static Usage random_usage(Random *r, const PriceTerms *terms, int64_t in_ub, int64_t out_ub)
{
    Usage u = { .input_tokens = part(r, in_ub), .output_tokens = part(r, out_ub) };
    int64_t in = coin(r) ? u.input_tokens : in_ub; /* parts beyond their total too */
    u.cached_tokens = part(r, in);
    if (terms->cache_write) {
        u.cache_write_5m_tokens = part(r, in - u.cached_tokens);
        u.cache_write_1h_tokens = part(r, in - u.cached_tokens - u.cache_write_5m_tokens);
    }
    if (terms->media) u.audio_input_tokens = part(r, in);
    if (terms->media || terms->images) u.image_input_tokens = part(r, in - u.audio_input_tokens);
    u.reasoning_tokens = part(r, out_ub);
    if (terms->media) {
        u.audio_output_tokens = part(r, out_ub);
        u.image_output_tokens = part(r, out_ub - u.audio_output_tokens);
    }
    int64_t uses = terms->server_uses;
    for (ServerTool i = 0; i < SERVER_N_; i++) {
        if (!(terms->server_tools & 1u << i)) continue;
        u.server_calls[i] = part(r, uses);
        uses -= u.server_calls[i];
    }
    if (coin(r)) u.service = coin(r) ? SERVICE_STANDARD : terms->service;
    if (coin(r)) u.region = terms->region;
    if (terms->region == REGION_UNKNOWN) u.region = (Region)random_range(r, 0, REGION_N_ - 1);
    return u;
}

static void each_seed(void (*body)(Random *r))
{
    const char *one = getenv("PRICE_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 0;
    for (seed = first; seed < (one ? first + 1 : SEEDS); seed++) {
        Random r = { seed };
        body(&r);
    }
}

/* --- properties ------------------------------------------------------------------------------- */

static RandomPrice made;

static void cost_within_hold(Random *r)
{
    random_price(r, &made);
    PriceTerms terms = random_terms(r);
    int64_t in_ub = any(r, coin(r) ? 5000 : INT64_C(1000000000000));
    int64_t out_ub = any(r, coin(r) ? 5000 : INT64_C(1000000000000));
    Usage u = random_usage(r, &terms, in_ub, out_ub);
    int64_t cost = price_cost(&made.price, &u, &terms);
    HOLDS(cost >= 0);
    HOLDS(cost <= price_hold(&made.price, in_ub, out_ub, &terms));
}

static void test_cost_never_passes_the_hold(void **state)
{
    (void)state;
    each_seed(cost_within_hold);
}

static void hold_grows(Random *r)
{
    random_price(r, &made);
    PriceTerms terms = random_terms(r), more = terms;
    int64_t in = any(r, INT64_MAX / 2), out = any(r, INT64_MAX / 2);
    int64_t hold = price_hold(&made.price, in, out, &terms);
    HOLDS(hold <= price_hold(&made.price, in + any(r, 10000), out, &terms));
    HOLDS(hold <= price_hold(&made.price, in, out + any(r, 10000), &terms));
    switch (random_range(r, 0, 7)) {
    case 0: more.cache_write = true; break;
    case 1: more.media = true; break;
    case 2: more.images++; break;
    case 3: more.server_uses++; break;
    case 4: more.server_tools |= 1u << SERVER_CODE; break;
    case 5: more.search_size = SEARCH_UNKNOWN; break;
    case 6: more.region = REGION_UNKNOWN; break;
    case 7: more.seconds++; break;
    }
    HOLDS(hold <= price_hold(&made.price, in, out, &more));
}

static void test_hold_grows_with_everything(void **state)
{
    (void)state;
    each_seed(hold_grows);
}

/* More of anything costs no less: output always; input where longer input is not cheaper. */
static void cost_grows(Random *r)
{
    random_price(r, &made);
    Price *p = &made.price;
    if (coin(r)) p->tiers_n = 0;
    else
        for (size_t i = 0; i < p->tiers_n; i++) {
            int64_t *at = (int64_t *)&p->tiers[i].rates;
            const int64_t *from = (const int64_t *)(i ? &p->tiers[i - 1].rates : &p->base);
            for (size_t k = 0; k < sizeof(PriceRates) / sizeof *at; k++)
                at[k] = MAX(at[k], from[k]);
        }
    PriceTerms terms = random_terms(r);
    terms.service = SERVICE_STANDARD;
    terms.media = false; /* which cached tokens were media is guessed, tier by tier */
    terms.images = 0;
    Usage u = random_usage(r, &terms, 5000, 5000), more = u;
    if (coin(r)) more.output_tokens += random_range(r, 0, 5000);
    else more.input_tokens += random_range(r, 0, 5000);
    more.server_calls[SERVER_WEB_SEARCH] += random_range(r, 0, 3);
    u.service = more.service = SERVICE_STANDARD;
    HOLDS(price_cost(p, &u, &terms) <= price_cost(p, &more, &terms));
}

static void test_cost_grows(void **state)
{
    (void)state;
    each_seed(cost_grows);
}

static void affordable_is_exact(Random *r)
{
    random_price(r, &made);
    PriceTerms terms = random_terms(r);
    int64_t in_ub = any(r, 100000), budget = any(r, INT64_MAX - 1);
    int64_t n = price_output_affordable(&made.price, in_ub, &terms, budget);
    if (price_hold(&made.price, in_ub, 0, &terms) > budget) {
        HOLDS(n == 0);
        return;
    }
    if (n == INT64_MAX) {
        HOLDS(price_hold(&made.price, in_ub, INT64_MAX, &terms) <= budget ||
              budget > INT64_MAX / 2);
        return;
    }
    HOLDS(price_hold(&made.price, in_ub, n, &terms) <= budget);
    HOLDS(price_hold(&made.price, in_ub, n + 1, &terms) > budget);
}

static void test_affordable_output_is_exact(void **state)
{
    (void)state;
    each_seed(affordable_is_exact);
}

/* The same sum with big numbers, for answers whose parts do not overlap: to the nano-USD, and
 * saturated where it does not fit. */
static void cost_equals_big(Random *r)
{
    random_price(r, &made);
    const Price *p = &made.price;
    PriceTerms terms = { .region = (Region)random_range(r, REGION_GLOBAL, REGION_EU) };
    int64_t part_max = any(r, INT64_C(200000000000)) + 1;
    Usage u = { .cached_tokens = any(r, part_max), .reasoning_tokens = any(r, part_max) };
    if (coin(r)) u.cache_write_5m_tokens = any(r, part_max);
    if (coin(r)) u.cache_write_1h_tokens = any(r, part_max);
    int64_t plain_in = any(r, part_max), plain_out = any(r, part_max);
    u.input_tokens = u.cached_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens + plain_in;
    u.output_tokens = u.reasoning_tokens + plain_out;
    const PriceRates *rates = &p->base;
    for (size_t i = 0; i < p->tiers_n; i++)
        if (u.input_tokens > p->tiers[i].above) rates = &p->tiers[i].rates;
    const struct {
        int64_t n, rate;
    } parts[] = { { plain_in, rates->input },
                  { u.cached_tokens, rates->cached },
                  { u.cache_write_5m_tokens, rates->write_5m },
                  { u.cache_write_1h_tokens, rates->write_1h },
                  { plain_out, rates->output },
                  { u.reasoning_tokens, rates->reasoning } };
    int64_t factor = MAX(p->uplift[terms.region], PRICE_UPLIFT_ONE);
    Big sum = big_times(big_of((uint64_t)p->request), PRICE_UPLIFT_ONE);
    for (size_t i = 0; i < ARRAY_N(parts); i++) {
        Big tokens = big_times(big_of((uint64_t)parts[i].n), (uint64_t)parts[i].rate);
        sum = big_add(sum, big_times(tokens, (uint64_t)factor));
    }
    HOLDS(price_cost(p, &u, &terms) == big_over(sum, 1000000000));
}

static void test_cost_equals_big_numbers(void **state)
{
    (void)state;
    each_seed(cost_equals_big);
}

static void test_nothing_overflows(void **state)
{
    (void)state;
    Price p = { .model = STR("m"),
                .base = PRICE_RATES_UNSET,
                .uplift = { [REGION_EU] = PRICE_UPLIFT_MAX },
                .request = PRICE_FEE_MAX,
                .second = PRICE_FEE_MAX,
                .image = PRICE_FEE_MAX };
    p.base.input = p.base.output = PRICE_RATE_MAX;
    price_fill(&p);
    PriceTerms terms = { .region = REGION_EU,
                         .server_uses = INT64_MAX,
                         .server_tools = UINT32_MAX,
                         .images = INT64_MAX,
                         .seconds = INT64_MAX };
    Usage u = { .input_tokens = INT64_MAX,
                .output_tokens = INT64_MAX,
                .cached_tokens = INT64_MAX,
                .cache_write_5m_tokens = INT64_MAX,
                .cache_write_1h_tokens = INT64_MAX,
                .audio_input_tokens = INT64_MAX,
                .image_input_tokens = INT64_MAX,
                .reasoning_tokens = INT64_MAX,
                .audio_output_tokens = INT64_MAX,
                .image_output_tokens = INT64_MAX };
    for (size_t i = 0; i < SERVER_N_; i++) u.server_calls[i] = INT64_MAX;
    assert_int_equal(price_cost(&p, &u, &terms), INT64_MAX);
    assert_int_equal(price_hold(&p, INT64_MAX, INT64_MAX, &terms), INT64_MAX);
    assert_int_equal(price_output_affordable(&p, INT64_MAX, &terms, INT64_MAX), 0);
}

/* --- decimal text ----------------------------------------------------------------------------- */

/* A number as a list may write it: "0.000003", "3e-06", "2.50E+0", "1234567". */
static void random_decimal(Random *r, char out[96])
{
    size_t n = 0;
    for (int64_t i = random_range(r, 1, coin(r) ? 3 : 12); i > 0; i--)
        out[n++] = (char)('0' + random_range(r, 0, 9));
    size_t start = 0; /* JSON has no leading zeros */
    while (start + 1 < n && out[start] == '0') start++;
    memmove(out, out + start, n -= start);
    if (coin(r)) {
        out[n++] = '.';
        for (int64_t i = random_range(r, 1, 20); i > 0; i--)
            out[n++] = (char)('0' + random_range(r, 0, 9));
    }
    out[n] = '\0';
    if (coin(r))
        (void)snprintf(out + n, 8, "%c%s%d", coin(r) ? 'e' : 'E',
                       coin(r)   ? "-"
                       : coin(r) ? "+"
                                 : "",
                       (int)random_range(r, 0, 20));
}

/* The digits, shifted by the exponent and the scale on a wide strip of paper, rounded up. -1: more
 * than most. */
static int64_t decimal_by_hand(const char *text, int scale, int64_t most)
{
    enum { POINT = 100, WIDTH = 200 };
    char strip[WIDTH];
    int before = (int)strcspn(text, ".eE");
    const char *e = strpbrk(text, "eE");
    long exponent = e ? strtol(e + 1, NULL, 10) : 0;
    memset(strip, '0', sizeof strip);
    long at = POINT - before - exponent - scale;
    for (const char *c = text; *c && c != e; c++)
        if (*c != '.') strip[at++] = *c;
    bool rest = false;
    for (int i = POINT; i < WIDTH; i++) rest |= strip[i] != '0';
    Big n = { 0 };
    for (int i = 0; i < POINT; i++)
        n = big_add(big_times(n, 10), big_of((uint64_t)(strip[i] - '0')));
    if (rest) n = big_add(n, big_of(1));
    int64_t value = big_over(n, 1);
    return value > most ? -1 : value;
}

static Arena arena;

/* A text is taken exactly, rounded up below a pico-USD, or its entry is refused whole. */
static void import_is_exact(Random *r)
{
    static const char *const members[] = { "input_cost_per_token",
                                           "cache_read_input_token_cost",
                                           "cache_creation_input_token_cost",
                                           "cache_creation_input_token_cost_above_1hr",
                                           "output_cost_per_reasoning_token",
                                           "input_cost_per_audio_token",
                                           "output_cost_per_image_token",
                                           "input_cost_per_query" };
    char numbers[ARRAY_N(members)][96], text[2048];
    size_t n = (size_t)snprintf(text, sizeof text,
                                "{\"m\":{\"mode\":\"chat\",\"output_cost_per_token\":0");
    bool fits = true;
    int64_t want[ARRAY_N(members)];
    for (size_t i = 0; i < ARRAY_N(members); i++) {
        random_decimal(r, numbers[i]);
        bool is_fee = i + 1 == ARRAY_N(members);
        want[i] = decimal_by_hand(numbers[i], 12, is_fee ? PRICE_FEE_MAX : PRICE_RATE_MAX);
        fits &= want[i] >= 0;
        n += (size_t)snprintf(text + n, sizeof text - n, ",\"%s\":%s", members[i], numbers[i]);
    }
    (void)snprintf(text + n, sizeof text - n, "}}");
    PriceTable table;
    PriceImport result;
    arena_clear(&arena);
    price_table_init(&table, &arena);
    HOLDS(price_import(&table, &arena, str_of(text), &result) == 0);
    HOLDS(result.imported == fits && result.skipped == !fits);
    if (!fits) return;
    const Price *p = table.sorted[0];
    const int64_t got[] = { p->base.input,        p->base.cached,    p->base.write_5m,
                            p->base.write_1h,     p->base.reasoning, p->base.audio_input,
                            p->base.image_output, p->request };
    for (size_t i = 0; i < ARRAY_N(members); i++) HOLDS(got[i] == want[i]);
}

static void test_import_is_exact(void **state)
{
    (void)state;
    arena_init(&arena, 1 << 20);
    each_seed(import_is_exact);
    arena_deinit(&arena);
}

static void text_and_back(Random *r)
{
    char out[MONEY_TEXT_MAX];
    int64_t rate = any(r, PRICE_RATE_MAX), back;
    HOLDS(price_from_usd_per_million(str_of(price_usd_per_million(rate, out)), &back) == 0);
    HOLDS(back == rate);
}

static void test_text_and_back(void **state)
{
    (void)state;
    char out[MONEY_TEXT_MAX];
    assert_string_equal(price_usd_per_million(150000, out), "0.15");
    assert_string_equal(price_usd_per_million(15000000, out), "15");
    assert_string_equal(price_usd_per_million(0, out), "0");
    assert_string_equal(price_usd_per_million(1, out), "0.000001");
    each_seed(text_and_back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost_never_passes_the_hold),
        cmocka_unit_test(test_hold_grows_with_everything),
        cmocka_unit_test(test_cost_grows),
        cmocka_unit_test(test_affordable_output_is_exact),
        cmocka_unit_test(test_cost_equals_big_numbers),
        cmocka_unit_test(test_nothing_overflows),
        cmocka_unit_test(test_import_is_exact),
        cmocka_unit_test(test_text_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
