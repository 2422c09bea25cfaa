#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/base64.h"
#include "tests/unit/random.h"

/* RFC 4648 section 10, and what needs the last two characters. */
static const struct {
    const char *bytes, *text;
} vectors[] = {
    { "", "" },
    { "f", "Zg==" },
    { "fo", "Zm8=" },
    { "foo", "Zm9v" },
    { "foob", "Zm9vYg==" },
    { "fooba", "Zm9vYmE=" },
    { "foobar", "Zm9vYmFy" },
    { "\xfb\xff\xbf", "+/+/" },
};

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(vectors); i++) {
        char text[BASE64_TEXT_MAX(6)], bytes[BASE64_BYTES_MAX(8)];
        size_t n = 99;
        assert_int_equal(base64_encode(text, str_of(vectors[i].bytes)), strlen(vectors[i].text));
        assert_string_equal(text, vectors[i].text);
        assert_int_equal(base64_decode(str_of(text), bytes, &n), 0);
        assert_int_equal(n, strlen(vectors[i].bytes));
        assert_memory_equal(bytes, vectors[i].bytes, n);
    }
}

static void test_decode_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "Z",    "Zg",    "Zg=",  "Zm9vY", "====", "Z===",   "Zg==Zg==",  "Zg=a",       "=Zg=",
        "Zm 9", "Zm9\n", "-_-_", "Zh==",  "Zm9=", "Zm9v\n", "Zm9vZg=\0", "Zm\xc3\xb6",
    };
    char out[16];
    size_t n = 77;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(base64_decode(str_of(bad[i]), out, &n), -EINVAL);
    assert_int_equal(base64_decode(STR("Zm9\0"), out, &n), -EINVAL);
    assert_int_equal(n, 77);
}

static void test_round_trip(void **state)
{
    (void)state;
    Random random = { 1 };
    for (size_t len = 0; len < 70; len++) {
        uint8_t bytes[70], back[BASE64_BYTES_MAX(96)];
        char text[BASE64_TEXT_MAX(70)];
        size_t n;
        for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)random_next(&random);
        size_t text_len = base64_encode(text, str_make((const char *)bytes, len));
        assert_int_equal(text_len, BASE64_TEXT_MAX(len) - 1);
        assert_int_equal(base64_decode(str_make(text, text_len), back, &n), 0);
        assert_int_equal(n, len);
        assert_memory_equal(bytes, back, len);
    }
}

static void test_add(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 12);
    assert_int_equal(base64_add(&buf, STR("foobar")), 0);
    assert_int_equal(base64_add(&buf, STR("foo")), 0);
    assert_true(str_eq(buf_str(&buf), STR("Zm9vYmFyZm9v")));
    assert_int_equal(base64_add(&buf, STR("x")), -ENOMEM);
    assert_true(str_eq(buf_str(&buf), STR("Zm9vYmFyZm9v")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_decode_refuses),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_add),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
