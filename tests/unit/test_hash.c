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

/* SHA-1 of a text that fits one block; its first 64 bits. Nothing but this needs it. */
static uint64_t sha1_begin(Str text)
{
    uint32_t w[80] = { 0 }, h[5] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0 };
    assert_true(text.len < 56);
    for (size_t i = 0; i <= text.len; i++)
        w[i / 4] |= (i < text.len ? (uint32_t)(uint8_t)text.ptr[i] : 0x80U) << (24 - 8 * (i % 4));
    w[15] = (uint32_t)text.len * 8;
    for (int i = 16; i < 80; i++) {
        uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
        w[i] = x << 1 | x >> 31;
    }
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                     : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                              : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = (a << 5 | a >> 27) + f + e + w[i];
        e = d, d = c, c = b << 30 | b >> 2, b = a, a = next;
    }
    return (uint64_t)(h[0] + a) << 32 | (h[1] + b);
}

/* LaunchDarkly's: 60 bits of a SHA-1 as a share. Gantry buckets by murmur3; this is for comparison
 * with who moves from there. */
static void test_launchdarkly(void **state)
{
    (void)state;
    assert_int_equal(sha1_begin(STR("abc")), UINT64_C(0xa9993e364706816a));
    const Json *group = vectors("bucketing", "launchdarkly");
    for (JsonIter it = json_iter(json_get(group, "vectors")); json_next(&it);) {
        char text[64];
        int n = snprintf(text, sizeof(text), "hashKey.saltyA.%s",
                         json_str(json_get(it.value, "user")).ptr);
        double share = (double)(sha1_begin(str_make(text, (size_t)n)) >> 4) / 0xfffffffffffffffp0;
        assert_near(share, vectors_f64(it.value, "value"), vectors_tolerance(group));
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
        cmocka_unit_test(test_murmur3),      cmocka_unit_test(test_murmur3_of_others),
        cmocka_unit_test(test_launchdarkly), cmocka_unit_test(test_pair),
        cmocka_unit_test(test_xxh64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
