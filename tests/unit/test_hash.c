#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/hash.h"
#include "vectors.h"

static uint64_t hex(const Json *v)
{
    return strtoull(json_str(v).ptr, NULL, 16);
}

static void check_murmur(const Json *table, uint32_t seed)
{
    for (JsonIter it = json_iter(table); json_next(&it);)
        assert_int_equal(hash_murmur3_32(it.key, seed), hex(it.value));
}

static void test_murmur3(void **state)
{
    (void)state;
    check_murmur(vectors("bucketing", "murmur3", "vectors"), 0);
    check_murmur(vectors("bucketing", "murmur3Seeded", "vectors"), 0x9747b28c);
}

/* Unleash's normalised values: the same hash under another seed. */
static void test_murmur3_of_others(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("bucketing", "unleash", "vectors")); json_next(&it);) {
        char text[64];
        int n = snprintf(text, sizeof(text), "%s:%s", json_str(json_get(it.value, "group")).ptr,
                         json_str(json_get(it.value, "id")).ptr);
        uint32_t seed = (uint32_t)json_i64_or(json_get(it.value, "seed"), 0);
        assert_int_equal(hash_murmur3_32(str_make(text, (size_t)n), seed) % 100 + 1,
                         json_i64_or(json_get(it.value, "value"), -1));
    }
}

/* However the text is cut in two, the pair is the text with a NUL between. */
static void test_pair(void **state)
{
    (void)state;
    const char text[] = "rollout-1\0session-0\0and more";
    Str whole = str_make(text, sizeof(text) - 1);
    for (size_t i = 0; i < whole.len; i++) {
        if (text[i] != '\0') continue;
        uint32_t pair = hash_murmur3_32_pair(str_sub(whole, 0, i), str_skip(whole, i + 1), 7);
        assert_int_equal(pair, hash_murmur3_32(whole, 7));
    }
    assert_int_equal(hash_murmur3_32_pair(STR_NULL, STR_NULL, 0), hash_murmur3_32(STR("\0"), 0));
}

static void test_xxh64(void **state)
{
    (void)state;
    const Json *table = vectors("responsePattern", "xxh64", "vectors");
    for (JsonIter it = json_iter(table); json_next(&it);)
        assert_int_equal(hash_xxh64(it.key), hex(it.value));
    assert_int_equal(hash_xxh64(STR_NULL), hash_xxh64(STR("")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_murmur3),
        cmocka_unit_test(test_murmur3_of_others),
        cmocka_unit_test(test_pair),
        cmocka_unit_test(test_xxh64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
