#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/hex.h"

static void test_encode(void **state)
{
    (void)state;
    char out[HEX_TEXT_MAX(4)];
    hex_encode(out, "\x00\x0f\xa5\xff", 4);
    assert_string_equal(out, "000fa5ff");
    hex_encode(out, "", 0);
    assert_string_equal(out, "");
}

static void test_decode(void **state)
{
    (void)state;
    uint8_t out[4] = { 9, 9, 9, 9 };
    assert_int_equal(hex_decode(STR("000FA5fF"), out, 4), 0);
    assert_memory_equal(out, "\x00\x0f\xa5\xff", 4);
    assert_int_equal(hex_decode(STR_NULL, out, 0), 0);
}

static void test_decode_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = { "000fa5f",  "000fa5ff0", "000fa5ff00", "",
                                       "000fa5fg", "00 0fa5f",  "0x0fa5ff",   "000fa5f\xff" };
    uint8_t out[4] = { 7, 7, 7, 7 };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(hex_decode(str_of(bad[i]), out, 4), -EINVAL);
    assert_memory_equal(out, "\7\7\7\7", 4); /* untouched */
}

static void test_every_byte(void **state)
{
    (void)state;
    uint8_t bytes[256], back[256];
    char text[HEX_TEXT_MAX(256)];
    for (size_t i = 0; i < 256; i++) bytes[i] = (uint8_t)i;
    hex_encode(text, bytes, 256);
    assert_int_equal(hex_decode(str_of(text), back, 256), 0);
    assert_memory_equal(bytes, back, 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_decode_refuses),
        cmocka_unit_test(test_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
