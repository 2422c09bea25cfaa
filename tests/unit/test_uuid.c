#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/uuid.h"
#include "tests/unit/random.h"

static void random_fill(Random *random, uint8_t out[UUID7_RANDOM_BYTES])
{
    for (size_t i = 0; i < UUID7_RANDOM_BYTES; i++) out[i] = (uint8_t)random_next(random);
}

/* RFC 9562, appendix A.6: rand_a 0xcc3, rand_b 0x18c4dc0c0c07398f. */
static void test_rfc_vector(void **state)
{
    (void)state;
    const uint8_t random[UUID7_RANDOM_BYTES] = { 0x0c, 0xc3, 0x18, 0xc4, 0xdc,
                                                 0x0c, 0x0c, 0x07, 0x39, 0x8f };
    char text[UUID_TEXT_MAX];
    Uuid id = uuid7_make(INT64_C(0x017f22e279b0), random);
    assert_string_equal(uuid_text(id, text), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    assert_int_equal(uuid7_ms(id), INT64_C(0x017f22e279b0));
}

static void test_version_and_variant_whatever_the_random_bits(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte += 255) {
        uint8_t random[UUID7_RANDOM_BYTES];
        memset(random, byte, sizeof random);
        Uuid id = uuid7_make((INT64_C(1) << 48) - 1, random);
        assert_int_equal(id.bytes[6] >> 4, 7);
        assert_int_equal(id.bytes[8] >> 6, 2);
        assert_int_equal(uuid7_ms(id), (INT64_C(1) << 48) - 1);
    }
}

static void test_text(void **state)
{
    (void)state;
    Uuid lower, upper;
    char text[UUID_TEXT_MAX];
    assert_int_equal(uuid_from_text(STR("0192f3aa-bbcc-7dde-8eff-001122334455"), &lower), 0);
    assert_int_equal(uuid_from_text(STR("0192F3AA-BBCC-7DDE-8EFF-001122334455"), &upper), 0);
    assert_true(uuid_eq(lower, upper));
    assert_string_equal(uuid_text(upper, text), "0192f3aa-bbcc-7dde-8eff-001122334455");
}

static void test_text_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "0192f3aabbcc7dde8eff001122334455",
        "0192f3aa-bbcc-7dde-8eff-00112233445",
        "0192f3aa-bbcc-7dde-8eff-0011223344556",
        "0192f3aa-bbcc-7dde-8eff_001122334455",
        "0192f3a-abbcc-7dde-8eff-001122334455",
        "{192f3aa-bbcc-7dde-8eff-00112233445}",
        "0192f3aa-bbcc-7dde-8eff-00112233445g",
    };
    Uuid id = { { 1 } };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(uuid_from_text(str_of(bad[i]), &id), -EINVAL);
    assert_true(uuid_eq(id, (Uuid){ { 1 } }));
}

static void test_zero(void **state)
{
    (void)state;
    Uuid id;
    assert_int_equal(uuid_from_text(STR("00000000-0000-0000-0000-000000000000"), &id), 0);
    assert_true(uuid_is_zero(id));
    id.bytes[15] = 1;
    assert_false(uuid_is_zero(id));
    assert_true(uuid_cmp(id, (Uuid){ { 0 } }) > 0);
}

/* Random clocks, among them steps back and many ids within one millisecond. */
static void test_ids_grow_strictly(void **state)
{
    (void)state;
    Random random = { 7 };
    Uuid7Gen gen = { 0 };
    Uuid last = { { 0 } };
    int64_t now_ms = 1767323045678;
    for (int i = 0; i < 100000; i++) {
        uint8_t bits[UUID7_RANDOM_BYTES];
        random_fill(&random, bits);
        if (random_range(&random, 0, 999) == 0) now_ms += random_range(&random, -50, 100);
        Uuid id = uuid7_next(&gen, now_ms, bits);
        assert_true(uuid_cmp(id, last) > 0);
        assert_int_equal(id.bytes[6] >> 4, 7);
        last = id;
    }
}

/* The counter starts below 2^11, so one millisecond has room for at least 2048 ids. */
static void test_a_millisecond_overflows_into_the_next(void **state)
{
    (void)state;
    uint8_t bits[UUID7_RANDOM_BYTES];
    Uuid7Gen gen = { 0 };
    memset(bits, 0xff, sizeof bits);
    for (int i = 0; i <= 2048; i++) assert_int_equal(uuid7_ms(uuid7_next(&gen, 5000, bits)), 5000);
    assert_int_equal(uuid7_ms(uuid7_next(&gen, 5000, bits)), 5001);
    assert_int_equal(uuid7_ms(uuid7_next(&gen, 5000, bits)), 5001); /* stays ahead */
    assert_int_equal(uuid7_ms(uuid7_next(&gen, 5002, bits)), 5002); /* and is caught up with */
}

static void test_random_bits_are_fresh_within_a_millisecond(void **state)
{
    (void)state;
    uint8_t ones[UUID7_RANDOM_BYTES], zeros[UUID7_RANDOM_BYTES] = { 0 };
    Uuid7Gen gen = { 0 };
    memset(ones, 0xff, sizeof ones);
    Uuid a = uuid7_next(&gen, 1, ones), b = uuid7_next(&gen, 1, zeros);
    assert_memory_equal(a.bytes + 9, "\xff\xff\xff\xff\xff\xff\xff", 7);
    assert_memory_equal(b.bytes + 9, "\0\0\0\0\0\0\0", 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc_vector),
        cmocka_unit_test(test_version_and_variant_whatever_the_random_bits),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_refuses),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_ids_grow_strictly),
        cmocka_unit_test(test_a_millisecond_overflows_into_the_next),
        cmocka_unit_test(test_random_bits_are_fresh_within_a_millisecond),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
