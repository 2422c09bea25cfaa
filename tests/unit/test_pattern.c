#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/pattern.h"
#include "logic/rng.h"
#include "vectors.h"

static PatternTask task;

static uint64_t fingerprint_of(const char *const *tokens)
{
    pattern_begin(&task);
    for (; *tokens; tokens++) pattern_token(&task, str_of(*tokens));
    return pattern_end(&task, STR_NULL);
}

static void test_fingerprints(void **state)
{
    (void)state;
    const Json *v = vectors("responsePattern", "simhash");
    PatternCounts counts = { 0 };
    for (JsonIter it = json_iter(json_get(v, "tasks")); json_next(&it);) {
        const char *tokens[16] = { NULL };
        size_t n = 0;
        for (JsonIter t = json_iter(json_get(it.value, "tokens")); json_next(&t);)
            tokens[n++] = json_str(t.value).ptr;
        uint64_t fp = fingerprint_of(tokens);
        assert_int_equal(fp, strtoull(json_str(json_get(it.value, "fp")).ptr, NULL, 16));
        assert_int_equal(task.grams, json_i64_or(json_get(it.value, "ngrams"), -1));
        pattern_count(&counts, fp, 1);
    }
    double rpv = pattern_variance(counts.ones, counts.n, PATTERN_BITS);
    assert_near(rpv, vectors_f64(v, "rpv"), 1e-9);
    assert_near(rpv * PATTERN_BITS, vectors_f64(v, "meanPairwiseHamming"), 1e-9);
}

static void test_variance(void **state)
{
    (void)state;
    const Json *v = vectors("responsePattern", "rpv4");
    int64_t ones[4] = { 0 }, n = 0;
    for (JsonIter it = json_iter(json_get(v, "fingerprints")); json_next(&it); n++)
        for (size_t b = 0; b < 4; b++) ones[b] += json_str(it.value).ptr[3 - b] == '1';
    for (size_t b = 0; b < 4; b++)
        assert_int_equal(ones[b], json_i64_or(json_at(json_get(v, "countsBit0First"), b), -1));
    assert_near(pattern_variance(ones, n, 4), vectors_f64(v, "rpv"), 1e-12);
    assert_near(pattern_variance(ones, 1, 4), 0, 0);
}

static void test_shift(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("responsePattern", "patternShift")); json_next(&it);) {
        int64_t ones[8];
        double q[8];
        size_t bits = json_len(json_get(it.value, "c"));
        for (size_t b = 0; b < bits; b++) {
            ones[b] = json_i64_or(json_at(json_get(it.value, "c"), b), -1);
            q[b] = json_f64_or(json_at(json_get(it.value, "q"), b), NAN);
        }
        int64_t n = json_i64_or(json_get(it.value, "n"), 0);
        assert_near(pattern_shift(ones, n, q, bits), vectors_f64(it.value, "value"), 1e-9);
    }
}

static void test_merging(void **state)
{
    (void)state;
    PatternCounts all = { 0 }, part[3] = { 0 };
    Rng rng = rng_seeded(3);
    for (int i = 0; i < 3000; i++) {
        uint64_t fp = rng_next(&rng);
        pattern_count(&all, fp, 1);
        pattern_count(&part[i % 3], fp, 1);
    }
    PatternCounts merged = { 0 };
    for (int i = 0; i < 3; i++) pattern_merge(&merged, &part[i]);
    assert_memory_equal(&all, &merged, sizeof(all));
    assert_near(pattern_variance(all.ones, all.n, PATTERN_BITS), 0.5, 0.01); /* unrelated */
    double q[PATTERN_BITS];
    pattern_shares(&all, q);
    assert_near(pattern_shift(part[0].ones, part[0].n, q, PATTERN_BITS), 0, 1e-3);
}

/* --- tokens of texts ------------------------------------------------------------------------- */

static uint64_t fingerprint_of_text(const char *text)
{
    Arena scratch;
    arena_init(&scratch, 1 << 20);
    pattern_begin(&task);
    pattern_text(&task, &scratch, str_of(text));
    uint64_t fp = pattern_end(&task, STR("stop"));
    arena_deinit(&scratch);
    return fp;
}

/* The text gives the same fingerprint as its tokens written out; NULL ends them. */
static void check_text(const char *text, const char *const *tokens)
{
    const char *all[16] = { NULL };
    size_t n = 0;
    while (tokens[n]) {
        all[n] = tokens[n];
        n++;
    }
    all[n] = "fin:stop";
    if (fingerprint_of_text(text) != fingerprint_of(all)) fail_msg("other tokens for: %s", text);
}
#define TOKENS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_texts(void **state)
{
    (void)state;
    check_text("", (const char *const[]){ NULL });
    check_text("x", TOKENS("text:0"));
    check_text("plain words, no more", TOKENS("text:4"));
    check_text("- a\n- b", TOKENS("text:2", "md:list"));
    check_text("text\n 12. twelfth", TOKENS("text:4", "md:list"));
    check_text("3.14 is no list", TOKENS("text:3"));
    check_text("```c\n- no list\n# no heading\n```", TOKENS("text:4", "md:code"));
    check_text("|a|b|\n|--|:-:|\n|1|2|", TOKENS("text:4", "md:table"));
    check_text("## Title\n- a\n```\nx\n```\n",
               TOKENS("text:4", "md:list", "md:code", "md:heading"));
    check_text("#hashtag", TOKENS("text:3"));
    check_text("I can\xe2\x80\x99t help with that.", TOKENS("text:4", "refusal"));
    check_text("I\xe2\x80\x99m sorry, but no.", TOKENS("text:4", "refusal"));
    check_text("{\"b\":1,\"a\":[2]}", TOKENS("text:3", "json:f0e49786"));
    check_text(" {\"a\":0, \"b\":\"\"} ", TOKENS("text:4", "json:f0e49786")); /* same keys */
    check_text("{\"a\":0, \"b\":}", TOKENS("text:3"));
    check_text("[1]", TOKENS("text:1"));
}

static void test_tools(void **state)
{
    (void)state;
    pattern_begin(&task);
    pattern_tool(&task, STR("sql"), true);
    pattern_tool(&task, STR("sql"), false);
    uint64_t fp = pattern_end(&task, STR("stop"));
    assert_int_equal(fp, fingerprint_of(TOKENS("tool:sql:err", "tool:sql", "fin:stop")));
}

/* A task without end keeps its fingerprint and counts as cut; a loop adds no new grams. */
static void test_limits(void **state)
{
    (void)state;
    pattern_begin(&task);
    for (int i = 0; i < 10000; i++) pattern_tool(&task, STR("same"), false);
    assert_false(task.cut);
    assert_in_range(task.grams, 1, 10);
    pattern_begin(&task);
    for (int i = 0; i < 10000; i++) {
        char name[200];
        memset(name, 'x', sizeof(name)); /* longer than a token may be, different at its start */
        int n = snprintf(name, 16, "tool%d", i);
        name[n] = 'x';
        pattern_tool(&task, str_make(name, sizeof(name)), i % 2);
    }
    assert_true(task.cut);
    assert_int_equal(task.grams, PATTERN_GRAMS_MAX);
    (void)pattern_end(&task, STR("an end reason that is far longer than any provider has ever "
                                 "thought of giving to a finished answer of a model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fingerprints), cmocka_unit_test(test_variance),
        cmocka_unit_test(test_shift),        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_texts),        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
