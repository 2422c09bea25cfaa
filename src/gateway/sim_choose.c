#include "gateway/sim_private.h"

/* Words that speak for a category, beside those of its name. */
static const struct {
    const char *category, *words;
} lexicon[] = {
    { "billing", "invoice charge charged refund payment paid pay card price pricing subscription "
                 "receipt twice money bill billed cost euro dollar plan renewal vat" },
    { "payment", "invoice charge refund paid pay card receipt bill declined" },
    { "refund", "refund money back return charged twice" },
    { "bug", "error crash crashes broken fails failing exception bug stack trace 500 404 freeze "
             "stuck blank wrong work working loading slow timeout white screen" },
    { "technical", "error crash broken fails exception bug install update slow api timeout" },
    { "feature", "feature add wish support nice request suggestion improve dark mode export "
                 "integrate integration allow option idea roadmap" },
    { "account", "account login log password sign email username locked access two factor 2fa "
                 "profile delete reset user" },
    { "shipping", "delivery deliver package parcel tracking shipped ship courier arrive arrived "
                  "address order late" },
    { "delivery", "delivery package parcel tracking shipped courier arrived late" },
    { "order", "order purchase bought item delivery" },
    { "sales", "buy quote pricing demo trial upgrade licence license seats enterprise" },
    { "security", "security breach phishing leak vulnerability hacked stolen suspicious" },
    { "spam", "winner free money click prize offer viagra lottery crypto unsubscribe" },
    { "positive", "love great excellent good happy thanks thank perfect amazing awesome nice "
                  "helpful fast best" },
    { "negative", "hate terrible bad awful angry worst broken disappointed useless unacceptable "
                  "slow never refund" },
    { "high", "urgent urgently asap immediately down outage critical production emergency blocked "
              "cannot lost" },
    { "urgent", "urgent urgently asap immediately down outage critical production emergency" },
    { "critical", "down outage critical production emergency lost breach" },
    { "low", "whenever someday minor cosmetic typo suggestion wish nice question curious" },
    { "question", "how what where when why which can question wondering explain" },
    { "complaint", "complaint unacceptable disappointed angry terrible worst" },
};

/* What is left when nothing speaks for another. */
static bool is_fallback(Str option)
{
    static const char *const names[] = { "other",  "general", "neutral", "normal",
                                         "medium", "none",    "unknown", "misc" };
    for (size_t i = 0; i < ARRAY_N(names); i++)
        if (sim_find_nocase(option, str_of(names[i])) >= 0) return true;
    return false;
}

static int64_t weight(const SimMind *mind, Str option)
{
    int64_t sum = 4 * (int64_t)sim_words_shared(mind->words, option);
    for (size_t i = 0; i < ARRAY_N(lexicon); i++)
        if (sim_find_nocase(option, str_of(lexicon[i].category)) >= 0)
            sum += (int64_t)sim_words_shared(mind->words, str_of(lexicon[i].words));
    return sum;
}

static size_t best_of(const SimMind *mind, const Str *options, size_t n)
{
    size_t best = 0;
    int64_t best_weight = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t w = weight(mind, options[i]);
        if (w > best_weight) best = i, best_weight = w;
    }
    for (size_t i = 0; i < n && best_weight == 0; i++)
        if (is_fallback(options[i])) return i;
    return best;
}

Str sim_choose(const SimMind *mind, const Str *options, size_t n)
{
    assert(n > 0);
    size_t best = best_of(mind, options, n);
    /* told to be wrong for so many texts in a hundred: to show what a worse version looks like */
    int64_t wrong = sim_directive_i64(mind->request, "wrong", 0);
    uint64_t h = sim_hash(mind->text);
    if ((int64_t)(h % 100) < wrong && n > 1) best = (best + 1 + (size_t)(h / 100 % (n - 1))) % n;
    return options[best];
}
