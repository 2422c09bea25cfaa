#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "codec/json.h"

static void test_structure(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 1000);
    JsonOut out = json_out(&buf);
    json_out_object(&out);
    json_out_kstr(&out, "s", STR("x"));
    json_out_kcstr(&out, "c", NULL);
    json_out_ki64(&out, "i", INT64_MIN);
    json_out_kbool(&out, "t", true);
    json_out_kbool(&out, "f", false);
    json_out_kraw(&out, "r", STR("{\"a\": 1}"));
    json_out_key_str(&out, STR("a\0b"));
    json_out_array(&out);
    json_out_array(&out);
    json_out_array_end(&out);
    json_out_null(&out);
    json_out_object(&out);
    json_out_object_end(&out);
    json_out_i64(&out, 7);
    json_out_str(&out, STR(""));
    json_out_array_end(&out);
    json_out_kval(&out, "absent", NULL);
    json_out_object_end(&out);
    assert_true(json_out_ok(&out));
    assert_int_equal(out.depth, 0);
    assert_string_equal(buf.ptr, "{\"s\":\"x\",\"c\":\"\",\"i\":-9223372036854775808,\"t\":true,"
                                 "\"f\":false,\"r\":{\"a\": 1},\"a\\u0000b\":[[],null,{},7,\"\"],"
                                 "\"absent\":null}");
}

static void test_scalar_alone(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 100);
    JsonOut out = json_out(&buf);
    json_out_bool(&out, true);
    assert_string_equal(buf.ptr, "true");
}

static void test_deepest(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    buf_init(&buf, 1000);
    arena_init(&arena, 1 << 20);
    JsonOut out = json_out(&buf);
    for (int i = 0; i < 64; i++) json_out_array(&out);
    json_out_i64(&out, 1);
    json_out_i64(&out, 2);
    for (int i = 0; i < 64; i++) json_out_array_end(&out);
    assert_true(json_out_ok(&out));
    assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &v, NULL), 0);
}

static const char *escaped(Buf *buf, Str s)
{
    buf_clear(buf);
    JsonOut out = json_out(buf);
    json_out_str(&out, s);
    return buf->ptr;
}

static void test_escapes(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 1000);
    assert_string_equal(escaped(&buf, STR("\b\t\n\f\r\"\\/")), "\"\\b\\t\\n\\f\\r\\\"\\\\/\"");
    assert_string_equal(escaped(&buf, STR("\x01\x1f\x7f\0")), "\"\\u0001\\u001f\x7f\\u0000\"");
    assert_string_equal(escaped(&buf, STR("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z")),
                        "\"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\"");
    assert_string_equal(escaped(&buf, STR_NULL), "\"\"");
}

#define BAD "\xef\xbf\xbd" /* U+FFFD */

static void test_bytes_that_are_not_utf8(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 1000);
    assert_string_equal(escaped(&buf, STR("\xff")), "\"" BAD "\"");
    assert_string_equal(escaped(&buf, STR("a\x80z")), "\"a" BAD "z\"");
    assert_string_equal(escaped(&buf, STR("\xc0\xaf")), "\"" BAD BAD "\"");         /* overlong */
    assert_string_equal(escaped(&buf, STR("\xe0\x80\xaf")), "\"" BAD BAD BAD "\""); /* overlong */
    assert_string_equal(escaped(&buf, STR("\xed\xa0\x80")), "\"" BAD BAD BAD "\""); /* surrogate */
    assert_string_equal(escaped(&buf, STR("\xf4\x90\x80\x80")), "\"" BAD BAD BAD BAD "\"");
    assert_string_equal(escaped(&buf, STR("\xc3")), "\"" BAD "\"");         /* cut short */
    assert_string_equal(escaped(&buf, STR("\xe2\x82")), "\"" BAD BAD "\""); /* cut short */
    assert_string_equal(escaped(&buf, STR("\xe2\x82z")), "\"" BAD BAD "z\"");
}

/* Every sequence of two or three bytes: what comes out is always JSON. */
static void test_any_bytes_give_valid_json(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    buf_init(&buf, 1000);
    arena_init(&arena, 1 << 20);
    static const unsigned char thirds[] = { 'a', 0x80, 0x9f, 0xbf, 0xc2, 0xff };
    for (unsigned i = 0; i < 65536 * ARRAY_N(thirds); i++) {
        char s[3] = { (char)(i >> 8), (char)i, (char)thirds[i >> 16] };
        escaped(&buf, str_make(s, 3));
        arena_clear(&arena);
        assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &v, NULL), 0);
    }
}

static void test_reals(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *text;
    } reals[] = {
        { 0.1, "0.1" },        { 100, "100" },
        { -0.0, "0" },         { 1e21, "1e+21" },
        { NAN, "null" },       { INFINITY, "null" },
        { -INFINITY, "null" }, { 1.0 / 3, "0.3333333333333333" },
    };
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 100);
    for (size_t i = 0; i < ARRAY_N(reals); i++) {
        buf_clear(&buf);
        JsonOut out = json_out(&buf);
        json_out_f64(&out, reals[i].v);
        assert_string_equal(buf.ptr, reals[i].text);
    }
}

/* Values written keep type, order and number text. */
static void test_value(void **state)
{
    (void)state;
    static const char *const compact[] = {
        "{\"z\":[1,-2,18446744073709551615,-9223372036854775808],\"a\":{\"b\":null,\"\":true}}",
        "[1.0,-0.0,0.1,1.5e300,123456789012345678901234567890,1e400,18446744073709551616]",
        "\"\\u0000\\\"\xe2\x82\xac\"",
        "[]",
        "{}",
        "false",
    };
    CLEANUP(buf_deinit) Buf buf;
    CLEANUP(arena_deinit) Arena arena;
    buf_init(&buf, 1000);
    arena_init(&arena, 1 << 20);
    for (size_t i = 0; i < ARRAY_N(compact); i++) {
        const Json *v, *again;
        assert_int_equal(json_parse(&arena, str_of(compact[i]), NULL, &v, NULL), 0);
        buf_clear(&buf);
        JsonOut out = json_out(&buf);
        json_out_value(&out, v);
        assert_string_equal(buf.ptr, compact[i]);
        assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &again, NULL), 0);
        assert_true(json_eq(v, again));
    }
}

/* A value as deep as may be, inside of what is being written. */
static void test_deep_value_inside_containers(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text, buf;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    buf_init(&text, 1000);
    buf_init(&buf, 1000);
    arena_init(&arena, 1 << 20);
    for (int i = 0; i < 64; i++) buf_add(&text, STR("["));
    for (int i = 0; i < 64; i++) buf_add(&text, STR("]"));
    assert_int_equal(json_parse(&arena, buf_str(&text), NULL, &v, NULL), 0);
    JsonOut out = json_out(&buf);
    json_out_object(&out);
    json_out_kval(&out, "a", v);
    json_out_kval(&out, "b", v);
    json_out_object_end(&out);
    assert_int_equal(buf.len, 2 * (128 + 4) + 3);
}

static void write_all(JsonOut *out, const Json *v)
{
    json_out_object(out);
    json_out_kstr(out, "string", STR("\x01\xff text"));
    json_out_kval(out, "value", v);
    json_out_key(out, "list");
    json_out_array(out);
    json_out_f64(out, 0.5);
    json_out_null(out);
    json_out_array_end(out);
    json_out_kraw(out, "raw", STR("[]"));
    json_out_object_end(out);
}

/* Whatever the maximum: what fits is a prefix, failure sticks, nothing smaller sneaks in after. */
static void test_every_maximum(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf whole;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    buf_init(&whole, 1000);
    arena_init(&arena, 1 << 20);
    assert_int_equal(
        json_parse(&arena, STR("{\"k\":[true,1.5,{\"x\":\"y\"}],\"l\":{}}"), NULL, &v, NULL), 0);
    JsonOut out = json_out(&whole);
    write_all(&out, v);
    assert_true(json_out_ok(&out));
    for (size_t max = 0; max <= whole.len; max++) {
        CLEANUP(buf_deinit) Buf buf;
        buf_init(&buf, max);
        out = json_out(&buf);
        write_all(&out, v);
        assert_int_equal(out.depth, 0);
        assert_int_equal(json_out_ok(&out), max == whole.len);
        if (buf.len > 0) assert_memory_equal(buf.ptr, whole.ptr, buf.len);
    }
}

/* Several bytes are looked at at once. */
static void test_escape_anywhere(void **state)
{
    char text[50], want[60];
    (void)state;
    memset(text, 'a', sizeof text);
    for (size_t n = 1; n <= sizeof text; n++)
        for (size_t at = 0; at < n; at++) {
            CLEANUP(buf_deinit) Buf buf;
            buf_init(&buf, 100);
            text[at] = '\n';
            JsonOut out = json_out(&buf);
            json_out_str(&out, str_make(text, n));
            text[at] = 'a';
            snprintf(want, sizeof want, "\"%.*s\\n%.*s\"", (int)at, text, (int)(n - at - 1), text);
            assert_string_equal(buf.ptr, want);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_scalar_alone),
        cmocka_unit_test(test_deepest),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_escape_anywhere),
        cmocka_unit_test(test_bytes_that_are_not_utf8),
        cmocka_unit_test(test_any_bytes_give_valid_json),
        cmocka_unit_test(test_reals),
        cmocka_unit_test(test_value),
        cmocka_unit_test(test_deep_value_inside_containers),
        cmocka_unit_test(test_every_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
