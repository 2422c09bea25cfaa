#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/gzip.h"
#include "tests/unit/random.h"

/* "hello\n", as gzip(1) of another machine packs it with -n. */
#define HELLO                                                                      \
    STR("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\x00" \
        "\x20\x30\x3a\x36\x06\x00\x00\x00")

static void test_round_trip(void **state)
{
    (void)state;
    static const size_t sizes[] = { 0, 1, 65535, 65536, 65537, 1000000 };
    CLEANUP(buf_deinit) Buf bytes, packed, back;
    Random random = { 31 };
    buf_init(&bytes, 1 << 20);
    buf_init(&packed, 2 << 20);
    buf_init(&back, 1 << 20);
    for (size_t i = 0; i < 2 * ARRAY_N(sizes); i++) {
        size_t n = sizes[i / 2];
        buf_clear(&bytes);
        buf_clear(&packed);
        buf_clear(&back);
        char *p = buf_reserve(&bytes, n);
        for (size_t j = 0; j < n; j++) p[j] = i % 2 ? (char)random_next(&random) : 'a';
        buf_added(&bytes, n);
        assert_int_equal(gzip_compress(buf_str(&bytes), &packed), 0);
        assert_int_equal(gzip_decompress(buf_str(&packed), &back), 0);
        assert_true(str_eq(buf_str(&bytes), buf_str(&back)));
    }
}

static void test_header_is_the_same_everywhere(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf a, b;
    buf_init(&a, 1000);
    buf_init(&b, 1000);
    assert_int_equal(gzip_compress(STR("some text"), &a), 0);
    assert_int_equal(gzip_compress(STR("some text"), &b), 0);
    assert_true(str_eq(buf_str(&a), buf_str(&b)));
    /* deflate, no flags, mtime 0, system unknown (RFC 1952 section 2.3) */
    assert_memory_equal(a.ptr, "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", 10);
}

static void test_reads_what_others_write(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 1000);
    buf_add(&out, STR("before "));
    assert_int_equal(gzip_decompress(HELLO, &out), 0);
    assert_string_equal(out.ptr, "before hello\n");
}

static void test_damage_is_found(void **state)
{
    (void)state;
    Str hello = HELLO;
    for (size_t i = 0; i < hello.len; i++) {
        char bytes[64];
        if (i >= 4 && i <= 9) continue; /* mtime, extra flags, system: free */
        memcpy(bytes, hello.ptr, hello.len);
        bytes[i] = (char)(bytes[i] ^ (i == 17 ? 0x01 : 0x20)); /* 17: bits behind the end */
        CLEANUP(buf_deinit) Buf out;
        buf_init(&out, 1000);
        assert_int_equal(gzip_decompress(str_make(bytes, hello.len), &out), -EINVAL);
    }
}

static void test_every_truncation_is_found(void **state)
{
    (void)state;
    Str hello = HELLO;
    for (size_t n = 0; n < hello.len; n++) {
        CLEANUP(buf_deinit) Buf out;
        buf_init(&out, 1000);
        assert_int_equal(gzip_decompress(str_sub(hello, 0, n), &out), -EINVAL);
        assert_non_null(strstr(diag_text(), "cut short"));
    }
}

static void test_nothing_may_follow(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf twice, out;
    buf_init(&twice, 1000);
    buf_init(&out, 1000);
    buf_add(&twice, HELLO);
    buf_add(&twice, HELLO);
    assert_int_equal(gzip_decompress(buf_str(&twice), &out), -EINVAL);
    assert_non_null(strstr(diag_text(), "data follows"));
    buf_clear(&out);
    assert_int_equal(gzip_decompress(str_sub(buf_str(&twice), 0, HELLO.len + 1), &out), -EINVAL);
}

static void test_other_formats(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 1000);
    assert_int_equal(gzip_decompress(STR("\x78\x9c\x03\x00\x00\x00\x00\x01"), &out),
                     -EINVAL); /* zlib */
    assert_int_equal(gzip_decompress(STR("PK\3\4and so on"), &out), -EINVAL);
    assert_int_equal(gzip_decompress(STR("{\"json\":1}"), &out), -EINVAL);
    assert_int_equal(out.len, 0);
}

/* What unpacks to exactly the maximum passes; one byte more does not, at any maximum. */
static void test_maximum(void **state)
{
    (void)state;
    static const size_t sizes[] = { 1, 6, 1000, 65535, 65536, 65537, 200000 };
    for (size_t i = 0; i < ARRAY_N(sizes); i++) {
        CLEANUP(buf_deinit) Buf bytes, packed, exact, less;
        size_t n = sizes[i];
        buf_init(&bytes, n);
        memset(buf_reserve(&bytes, n), 'z', n);
        buf_added(&bytes, n);
        buf_init(&packed, n + 1000);
        buf_init(&exact, n);
        buf_init(&less, n - 1);
        assert_int_equal(gzip_compress(buf_str(&bytes), &packed), 0);
        assert_int_equal(gzip_decompress(buf_str(&packed), &exact), 0);
        assert_true(str_eq(buf_str(&bytes), buf_str(&exact)));
        assert_int_equal(gzip_decompress(buf_str(&packed), &less), -EFBIG);
        assert_true(less.len <= n - 1);
    }
}

/* 64 MiB of zeros in 64 kB: stopped at the maximum. */
static void test_bomb(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf zeros, packed, out;
    size_t n = (size_t)64 << 20;
    buf_init(&zeros, n);
    memset(buf_reserve(&zeros, n), 0, n);
    buf_added(&zeros, n);
    buf_init(&packed, 1 << 20);
    buf_init(&out, 100000);
    assert_int_equal(gzip_compress(buf_str(&zeros), &packed), 0);
    assert_true(packed.len < n / 900);
    assert_int_equal(gzip_decompress(buf_str(&packed), &out), -EFBIG);
    assert_non_null(strstr(diag_text(), "100000 bytes"));
    assert_true(out.len <= out.max && out.cap <= out.max + 1);
}

static void test_compress_when_full(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf whole;
    buf_init(&whole, 1000);
    assert_int_equal(gzip_compress(STR("some text, some text"), &whole), 0);
    for (size_t max = 0; max <= whole.len; max++) {
        CLEANUP(buf_deinit) Buf out;
        buf_init(&out, max);
        assert_int_equal(gzip_compress(STR("some text, some text"), &out),
                         max < whole.len ? -ENOMEM : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_header_is_the_same_everywhere),
        cmocka_unit_test(test_reads_what_others_write),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_every_truncation_is_found),
        cmocka_unit_test(test_nothing_may_follow),
        cmocka_unit_test(test_other_formats),
        cmocka_unit_test(test_maximum),
        cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_compress_when_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
