/* Price files from anybody: whatever a file says, it is refused whole, or every entry taken has
 * rates, tiers and fees within bounds; a hold on it covers what a call may cost; and what is kept
 * of an entry reads back as the same price. */
#include "base/diag.h"
#include "codec/json.h"
#include "logic/price.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES ((size_t)64 << 20)

static void check_rates(const PriceRates *rates)
{
    for (size_t i = 0; i < sizeof *rates / sizeof(int64_t); i++) {
        int64_t rate = ((const int64_t *)rates)[i];
        assert(rate >= 0 && rate <= 2 * PRICE_RATE_MAX); /* an hour's write may be made twice */
    }
}

static void check_tiers(const PriceRates *base, const PriceTier *tiers, size_t n)
{
    check_rates(base);
    assert(n <= PRICE_TIERS_MAX);
    for (size_t i = 0; i < n; i++) {
        assert(tiers[i].above > (i ? tiers[i - 1].above : 0));
        check_rates(&tiers[i].rates);
    }
}

static void check_costs(const Price *p, uint64_t seed)
{
    int64_t in = (int64_t)(seed % 1000003), out = (int64_t)(seed / 1000003 % 65537);
    PriceTerms terms = { .cache_write = seed & 1,
                         .media = seed & 2,
                         .service = (Service)(seed >> 8 & 7) % SERVICE_N_,
                         .server_uses = 1,
                         .server_tools = seed >> 12 & 31,
                         .images = seed >> 20 & 3,
                         .seconds = seed >> 24 & 63 };
    Usage u = { .input_tokens = in,
                .output_tokens = out,
                .cached_tokens = in / 3,
                .cache_write_1h_tokens = seed & 1 ? in / 3 : 0,
                .audio_input_tokens = seed & 2 ? in : 0,
                .reasoning_tokens = out / 2 };
    int64_t hold = price_hold(p, in, out, &terms), cost = price_cost(p, &u, &terms);
    assert(cost >= 0 && cost <= hold);
    if (hold < INT64_MAX) assert(price_output_affordable(p, in, &terms, hold) >= out);
}

static bool same(const Price *a, const Price *b)
{
    for (Service i = 0; i < SERVICE_N_; i++) {
        if (!a->others[i] != !b->others[i]) return false;
        if (a->others[i] && memcmp(a->others[i], b->others[i], sizeof *a->others[i]) != 0)
            return false;
    }
    return str_eq(a->model, b->model) && memcmp(&a->base, &b->base, sizeof a->base) == 0 &&
           memcmp(a->tiers, b->tiers, sizeof a->tiers) == 0 && a->tiers_n == b->tiers_n &&
           memcmp(a->search, b->search, sizeof a->search) == 0 && a->request == b->request &&
           a->second == b->second && a->file_search == b->file_search &&
           a->code_session == b->code_session && a->image == b->image &&
           memcmp(a->uplift, b->uplift, sizeof a->uplift) == 0 &&
           a->media_unpriced == b->media_unpriced && a->input_max == b->input_max &&
           a->output_max == b->output_max;
}

/* What the store keeps of an entry means the same. */
static void check_kept(Arena *arena, Str model, const Json *entry, const Price *price)
{
    static const JsonLimits limits = { .members_max = PRICE_ENTRIES_MAX, .numbers_as_text = true };
    CLEANUP(buf_deinit) Buf text = { .max = 1 << 22 };
    JsonOut out = json_out(&text);
    price_entry_write(entry, &out);
    if (!json_out_ok(&out)) return;
    const Json *again;
    Price back;
    int r = json_parse(arena, buf_str(&text), &limits, &again, NULL);
    if (r == -ENOMEM) return;
    assert(r == 0);
    r = price_entry_read(arena, model, again, &back);
    assert(r == -ENOMEM || (r == 0 && same(price, &back)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const JsonLimits limits = { .members_max = PRICE_ENTRIES_MAX, .numbers_as_text = true };
    CLEANUP(arena_deinit) Arena arena = { .max = ARENA_BYTES };
    Str text = str_make((const char *)data, size);
    PriceTable table;
    PriceImport result;
    price_table_init(&table, &arena);
    int r = price_import(&table, &arena, text, &result);
    assert(r <= 0 && (r == 0 || table.n == 0 || r == -ENOMEM || r == -ENOSPC));
    if (r != 0) return 0;
    assert(table.n <= result.imported && (result.skipped == 0 || size > 0));
    uint64_t seed = fuzz_seed(data, size);
    for (size_t i = 0; i < table.n; i++) {
        const Price *p = table.sorted[i];
        check_tiers(&p->base, p->tiers, p->tiers_n);
        for (Service k = 0; k < SERVICE_N_; k++)
            if (p->others[k])
                check_tiers(&p->others[k]->base, p->others[k]->tiers, p->others[k]->tiers_n);
        assert(price_find(&table, STR_NULL, p->model) == p);
        check_costs(p, seed);
    }
    const Json *root;
    if (json_parse(&arena, text, &limits, &root, NULL) != 0) return 0;
    for (JsonIter it = json_iter(root); json_next(&it);) {
        Price price;
        if (price_entry_read(&arena, it.key, it.value, &price) == 0)
            check_kept(&arena, it.key, it.value, &price);
    }
    return 0;
}
