#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/diag.h"
#include "codec/json.h"
#include "tests/unit/random.h"

/* --- numbers ---------------------------------------------------------------------------------- */

/* RFC 8785 appendix B, the ends of ECMAScript's four layouts, and values at powers of two where the
 * shortest digits printf finds are not the nearest. */
static const struct {
    uint64_t bits;
    const char *text;
} numbers[] = {
    { 0x0000000000000000, "0" },
    { 0x8000000000000000, "0" },
    { 0x0000000000000001, "5e-324" },
    { 0x8000000000000001, "-5e-324" },
    { 0x7fefffffffffffff, "1.7976931348623157e+308" },
    { 0xffefffffffffffff, "-1.7976931348623157e+308" },
    { 0x4340000000000000, "9007199254740992" },
    { 0xc340000000000000, "-9007199254740992" },
    { 0x4430000000000000, "295147905179352830000" },
    { 0x44b52d02c7e14af5, "9.999999999999997e+22" },
    { 0x44b52d02c7e14af6, "1e+23" },
    { 0x44b52d02c7e14af7, "1.0000000000000001e+23" },
    { 0x444b1ae4d6e2ef4e, "999999999999999700000" },
    { 0x444b1ae4d6e2ef4f, "999999999999999900000" },
    { 0x444b1ae4d6e2ef50, "1e+21" },
    { 0x3eb0c6f7a0b5ed8c, "9.999999999999997e-7" },
    { 0x3eb0c6f7a0b5ed8d, "0.000001" },
    { 0x41b3de4355555553, "333333333.3333332" },
    { 0x41b3de4355555554, "333333333.33333325" },
    { 0x41b3de4355555555, "333333333.3333333" },
    { 0x41b3de4355555556, "333333333.3333334" },
    { 0x41b3de4355555557, "333333333.33333343" },
    { 0xbecbf647612f3696, "-0.0000033333333333333333" },
    { 0x43143ff3c1cb0959, "1424953923781206.2" },
    { 0x0060000000000000, "7.120236347223045e-307" },
    { 0x3ff0000000000000, "1" },
    { 0x4024000000000000, "10" },
    { 0x3fe0000000000000, "0.5" },
    { 0xbff8000000000000, "-1.5" },
    { 0x0010000000000000, "2.2250738585072014e-308" }, /* the least normal */
    { 0x000fffffffffffff, "2.225073858507201e-308" },  /* the greatest subnormal */
    { 0x433fffffffffffff, "9007199254740991" },
    { 0x4202a05f20000000, "10000000000" },
};

static double from_bits(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static void test_number_format(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(numbers); i++) {
        char text[JSON_NUMBER_TEXT_MAX];
        size_t n = json_number_format(from_bits(numbers[i].bits), text);
        assert_string_equal(text, numbers[i].text);
        assert_int_equal(n, strlen(text));
    }
}

static void test_layout_by_power_of_ten(void **state)
{
    (void)state;
    static const struct {
        double v;
        const char *text;
    } layouts[] = {
        { 1e20, "100000000000000000000" },
        { 1.5e20, "150000000000000000000" },
        { 1.5e21, "1.5e+21" },
        { 123456.789, "123456.789" },
        { 1e-6, "0.000001" },
        { 1.25e-6, "0.00000125" },
        { 1e-7, "1e-7" },
        { 1.25e-7, "1.25e-7" },
        { 1e100, "1e+100" },
        { 1e-100, "1e-100" },
        { 12e22, "1.2e+23" },
        { 100.5, "100.5" },
        { 1.005, "1.005" },
        { 0.05, "0.05" },
    };
    for (size_t i = 0; i < ARRAY_N(layouts); i++) {
        char text[JSON_NUMBER_TEXT_MAX];
        json_number_format(layouts[i].v, text);
        assert_string_equal(text, layouts[i].text);
    }
}

/* Whatever the bits, the text is JSON and reads back as the same double. */
static void test_numbers_read_back(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    Random random = { 11 };
    arena_init(&arena, 1 << 20);
    for (int i = 0; i < 200000; i++) {
        char text[JSON_NUMBER_TEXT_MAX];
        const Json *v;
        uint64_t bits = random_next(&random);
        if ((bits >> 52 & 0x7ff) == 0x7ff) continue; /* infinities and NaN */
        size_t n = json_number_format(from_bits(bits), text);
        arena_clear(&arena);
        assert_int_equal(json_parse(&arena, str_make(text, n), NULL, &v, NULL), 0);
        if (json_type(v) == JSON_BIG) /* written as an integer, and too long for one */
            assert_true(fabs(from_bits(bits)) >= 0x1p63 && fabs(from_bits(bits)) < 1e21);
        else assert_true(json_f64_or(v, 0) == from_bits(bits));
    }
}

/* --- texts ------------------------------------------------------------------------------------ */

static int canonical(Str text, Buf *buf)
{
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    arena_init(&arena, 32 << 20);
    assert_int_equal(json_parse(&arena, text, NULL, &v, NULL), 0);
    buf_clear(buf);
    return json_canonical(v, buf);
}

static void check_canonical(Str text, Str want)
{
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 1 << 20);
    assert_int_equal(canonical(text, &buf), 0);
    if (!str_eq(buf_str(&buf), want)) print_error("got  %s\nwant %s\n", buf.ptr, want.ptr);
    assert_true(str_eq(buf_str(&buf), want));
    assert_int_equal(canonical(want, &buf), 0); /* and is its own canonical form */
    assert_true(str_eq(buf_str(&buf), want));
}

/* RFC 8785 section 3.2.2. */
static void test_rfc_sample(void **state)
{
    (void)state;
    check_canonical(
        STR("{\n"
            "  \"numbers\": [333333333.33333329, 1E30, 4.50,\n"
            "              2e-3, 0.000000000000000000000000001],\n"
            "  \"string\": \"\\u20ac$\\u000F\\u000aA'\\u0042\\u0022\\u005c\\\\\\\"\\/\",\n"
            "  \"literals\": [null, true, false]\n"
            "}"),
        STR("{\"literals\":[null,true,false],"
            "\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],"
            "\"string\":\"\xe2\x82\xac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"));
}

/* RFC 8785 section 3.2.3: order by UTF-16 code unit puts the emoji (d83d de00) before U+FB33. */
static void test_rfc_sorting(void **state)
{
    (void)state;
    check_canonical(
        STR("{\"\\u20ac\": \"Euro Sign\", \"\\r\": \"Carriage Return\",\n"
            "\"\\ufb33\": \"Hebrew Letter Dalet With Dagesh\", \"1\": \"One\",\n"
            "\"\\ud83d\\ude00\": \"Emoji: Grinning Face\", \"\\u0080\": \"Control\",\n"
            "\"\\u00f6\": \"Latin Small Letter O With Diaeresis\"}"),
        STR("{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\xc2\x80\":\"Control\","
            "\"\xc3\xb6\":\"Latin Small Letter O With Diaeresis\","
            "\"\xe2\x82\xac\":\"Euro Sign\",\"\xf0\x9f\x98\x80\":\"Emoji: Grinning Face\","
            "\"\xef\xac\xb3\":\"Hebrew Letter Dalet With Dagesh\"}"));
}

/* The files that the RFC's author publishes beside it. */
static void test_published_files(void **state)
{
    (void)state;
    check_canonical(
        STR("[\n  56,\n  {\n    \"d\": true,\n    \"10\": null,\n    \"1\": [ ]\n  }\n]"),
        STR("[56,{\"1\":[],\"10\":null,\"d\":true}]"));
    check_canonical(STR("{\"peach\":\"This sorting order\",\"p\xc3\xa9"
                        "ch\xc3\xa9\":\"is wrong according to French\","
                        "\"p\xc3\xaa"
                        "che\":\"but canonicalization MUST\",\"sin\":\"ignore locale\"}"),
                    STR("{\"peach\":\"This sorting order\",\"p\xc3\xa9"
                        "ch\xc3\xa9\":\"is wrong according to French\","
                        "\"p\xc3\xaa"
                        "che\":\"but canonicalization MUST\",\"sin\":\"ignore locale\"}"));
    check_canonical(STR("{\"1\": {\"f\": {\"f\": \"hi\",\"F\": 5} ,\"\\n\": 56.0},\n"
                        "\"10\": { }, \"\": \"empty\", \"a\": { },\n"
                        "\"111\": [ {\"e\": \"yes\",\"E\": \"no\" } ], \"A\": { }}"),
                    STR("{\"\":\"empty\",\"1\":{\"\\n\":56,\"f\":{\"F\":5,\"f\":\"hi\"}},\"10\":{},"
                        "\"111\":[{\"E\":\"no\",\"e\":\"yes\"}],\"A\":{},\"a\":{}}"));
    check_canonical(STR("{\"Unnormalized Unicode\":\"A\\u030a\"}"),
                    STR("{\"Unnormalized Unicode\":\"A\xcc\x8a\"}"));
    check_canonical(
        STR("{\"\\u20ac\": \"Euro Sign\", \"\\r\": \"Carriage Return\",\n"
            "\"\\u000a\": \"Newline\", \"1\": \"One\", \"\\u0080\": \"Control\\u007f\",\n"
            "\"\\ud83d\\ude02\": \"Smiley\", \"\\u00f6\": \"O With Diaeresis\",\n"
            "\"\\ufb33\": \"Dalet\", \"</script>\": \"Browser Challenge\"}"),
        STR("{\"\\n\":\"Newline\",\"\\r\":\"Carriage Return\",\"1\":\"One\","
            "\"</script>\":\"Browser Challenge\",\"\xc2\x80\":\"Control\x7f\","
            "\"\xc3\xb6\":\"O With Diaeresis\",\"\xe2\x82\xac\":\"Euro Sign\","
            "\"\xf0\x9f\x98\x82\":\"Smiley\",\"\xef\xac\xb3\":\"Dalet\"}"));
}

static void test_key_order(void **state)
{
    (void)state;
    check_canonical(STR("{\"ab\":1,\"a\":2,\"\":3,\"b\":4,\"aa\":5,\"B\":6,\"a\\u0000\":7}"),
                    STR("{\"\":3,\"B\":6,\"a\":2,\"a\\u0000\":7,\"aa\":5,\"ab\":1,\"b\":4}"));
    /* d7ff, d800 dc00, dbff dfff, e000, ffff; and a pair inside a key */
    check_canonical(STR("{\"\\uffff\":1,\"\\ue000\":2,\"\\udbff\\udfff\":3,\"\\ud800\\udc00\":4,"
                        "\"\\ud7ff\":5,\"x\\ue000\":6,\"x\\ud800\\udc00\":7}"),
                    STR("{\"x\xf0\x90\x80\x80\":7,\"x\xee\x80\x80\":6,\"\xed\x9f\xbf\":5,"
                        "\"\xf0\x90\x80\x80\":4,\"\xf4\x8f\xbf\xbf\":3,\"\xee\x80\x80\":2,"
                        "\"\xef\xbf\xbf\":1}"));
}

static void test_escapes(void **state)
{
    (void)state;
    check_canonical(
        STR("\"\\u0000\\u0001\\b\\t\\n\\u000b\\f\\r\\u001F \\\"\\/\\\\\\u007f\\u2028\""),
        STR("\"\\u0000\\u0001\\b\\t\\n\\u000b\\f\\r\\u001f \\\"/\\\\\x7f\xe2\x80\xa8\""));
}

static void test_integers(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    buf_init(&buf, 1000);
    check_canonical(STR("[9007199254740991,-9007199254740991,-0,-0.0,0e5,1e2,1.0]"),
                    STR("[9007199254740991,-9007199254740991,0,0,0,100,1]"));
    static const char *const refused[] = { "9007199254740992",     "-9007199254740992",
                                           "9223372036854775808",  "-9223372036854775808",
                                           "18446744073709551615", "18446744073709551616",
                                           "[[{\"a\":1e400}]]",    "-1e400" };
    for (size_t i = 0; i < ARRAY_N(refused); i++) {
        assert_int_equal(canonical(str_of(refused[i]), &buf), -EINVAL);
        assert_non_null(strstr(diag_text(), "no canonical form"));
    }
}

/* The bug this replaces: sorting with a list of keys that filters every depth, so that temperature
 * 0 and temperature 2 hash alike. */
static void test_nested_values_matter(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf a, b;
    buf_init(&a, 1000);
    buf_init(&b, 1000);
    assert_int_equal(canonical(STR("{\"sampling\":{\"temperature\":0},\"model\":\"m\"}"), &a), 0);
    assert_int_equal(canonical(STR("{\"model\":\"m\",\"sampling\":{\"temperature\":2}}"), &b), 0);
    assert_string_equal(a.ptr, "{\"model\":\"m\",\"sampling\":{\"temperature\":0}}");
    assert_string_equal(b.ptr, "{\"model\":\"m\",\"sampling\":{\"temperature\":2}}");
}

/* A wide object inside of wide objects: the stack of keys grows while it is in use. */
static void test_wide_and_deep(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text, want, buf;
    buf_init(&text, 1 << 20);
    buf_init(&want, 1 << 20);
    buf_init(&buf, 1 << 20);
    for (int depth = 0; depth < 10; depth++) {
        buf_add(&text, STR("{\"m\":"));
        for (int i = 100; i < 300; i++)
            buf_printf(&want, "%s\"a%d\":%d", i > 100 ? "," : "{", i, i);
        buf_add(&want, STR(",\"m\":"));
    }
    buf_add(&text, STR("1"));
    buf_add(&want, STR("1"));
    for (int depth = 0; depth < 10; depth++) {
        for (int i = 0; i < 200; i++) buf_printf(&text, ",\"a%d\":%d", 299 - i, 299 - i);
        buf_add(&text, STR("}"));
        buf_add(&want, STR("}"));
    }
    assert_int_equal(canonical(buf_str(&text), &buf), 0);
    assert_string_equal(buf.ptr, want.ptr);
}

static void test_output_full(void **state)
{
    (void)state;
    Str text = STR("{\"b\":[1,2.5,\"\\n\"],\"a\":{\"x\":null}}");
    for (size_t max = 0; max <= text.len; max++) {
        CLEANUP(buf_deinit) Buf buf;
        buf_init(&buf, max);
        assert_int_equal(canonical(text, &buf), max < text.len ? -ENOMEM : 0);
    }
}

static void test_appends(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v;
    arena_init(&arena, 1 << 16);
    buf_init(&buf, 100);
    buf_add(&buf, STR("before "));
    assert_int_equal(json_parse(&arena, STR("[ 1 ]"), NULL, &v, NULL), 0);
    assert_int_equal(json_canonical(v, &buf), 0);
    assert_string_equal(buf.ptr, "before [1]");
}

/* --- left out --------------------------------------------------------------------------------- */

static void check_without(const char *text, const char *const *pointers, size_t n,
                          const char *expected)
{
    Arena arena;
    Buf out;
    const Json *v, *without[8];
    arena_init(&arena, 1 << 20);
    buf_init(&out, 1 << 20);
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &v, NULL), 0);
    for (size_t i = 0; i < n; i++) {
        without[i] = json_pointer(v, str_of(pointers[i]));
        assert_non_null(without[i]);
    }
    assert_int_equal(json_canonical_without(v, without, n, &out), 0);
    assert_string_equal(out.ptr, expected);
    buf_deinit(&out);
    arena_deinit(&arena);
}

static void test_without(void **state)
{
    (void)state;
    const char *text = "{\"b\":[1,2,{\"c\":3,\"d\":4}],\"a\":\"x\",\"m/n~\":5}";
    check_without(text, NULL, 0, "{\"a\":\"x\",\"b\":[1,2,{\"c\":3,\"d\":4}],\"m/n~\":5}");
    check_without(text, (const char *[]){ "/a", "/b/2/c" }, 2,
                  "{\"b\":[1,2,{\"d\":4}],\"m/n~\":5}");
    check_without(text, (const char *[]){ "/b/0", "/m~1n~0" }, 2,
                  "{\"a\":\"x\",\"b\":[2,{\"c\":3,\"d\":4}]}");
    check_without(text, (const char *[]){ "/a", "/b", "/m~1n~0" }, 3, "{}");
    check_without("[[1],2]", (const char *[]){ "/0", "/1" }, 2, "[]");
}

static void test_pointer(void **state)
{
    (void)state;
    static const char *const none[] = { "a",  "/b/9", "/b/01", "/b/-", "/b/x", "/a/0",
                                        "/~", "/~2a", "/b/-1", "/c",   "/b/",  "/0" };
    char lengthy[400];
    Arena arena;
    const Json *v;
    arena_init(&arena, 1 << 20);
    assert_int_equal(json_parse(&arena, STR("{\"a\":1,\"b\":[7,8],\"\":{\"\":3}}"), NULL, &v, NULL),
                     0);
    assert_ptr_equal(json_pointer(v, STR("")), v);
    assert_int_equal(json_i64_or(json_pointer(v, STR("/a")), 0), 1);
    assert_int_equal(json_i64_or(json_pointer(v, STR("/b/1")), 0), 8);
    assert_int_equal(json_len(json_pointer(v, STR("/"))), 1);
    memset(lengthy, 'a', sizeof lengthy);
    lengthy[0] = '/';
    assert_null(json_pointer(v, str_make(lengthy, sizeof lengthy)));
    assert_int_equal(json_i64_or(json_pointer(v, STR("//")), 0), 3);
    for (size_t i = 0; i < ARRAY_N(none); i++) assert_null(json_pointer(v, str_of(none[i])));
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_number_format),     cmocka_unit_test(test_layout_by_power_of_ten),
        cmocka_unit_test(test_numbers_read_back), cmocka_unit_test(test_rfc_sample),
        cmocka_unit_test(test_rfc_sorting),       cmocka_unit_test(test_published_files),
        cmocka_unit_test(test_key_order),         cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_integers),          cmocka_unit_test(test_nested_values_matter),
        cmocka_unit_test(test_wide_and_deep),     cmocka_unit_test(test_output_full),
        cmocka_unit_test(test_appends),           cmocka_unit_test(test_without),
        cmocka_unit_test(test_pointer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
