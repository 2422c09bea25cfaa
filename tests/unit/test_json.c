#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "base/diag.h"
#include "codec/json.h"

#define ARENA_BYTES ((size_t)64 << 20)

/* Parses, and returns what json_parse did. The arena is emptied first. */
static int parse(Arena *arena, Str text, const Json **ret)
{
    arena_clear(arena);
    return json_parse(arena, text, NULL, ret, NULL);
}

static const Json *parsed(Arena *arena, Str text)
{
    const Json *v = NULL;
    assert_int_equal(json_parse(arena, text, NULL, &v, NULL), 0);
    assert_non_null(v);
    return v;
}

/* --- what is JSON ----------------------------------------------------------------------------- */

#define S(literal)                      \
    {                                   \
        "" literal, sizeof(literal) - 1 \
    }

static void test_accepts(void **state)
{
    (void)state;
    static const Str good[] = {
        S("null"),
        S("true"),
        S("false"),
        S("0"),
        S("-0"),
        S("-0.0"),
        S("1"),
        S("-1"),
        S("1e5"),
        S("1E+5"),
        S("1.5e-5"),
        S("0.1"),
        S("123456789012345678"),
        S("\"\""),
        S("\"a\""),
        S("[]"),
        S("{}"),
        S(" [ ] "),
        S("\t\r\n {\"a\" : 1 } \n"),
        S("[1,2,3]"),
        S("[[],{}]"),
        S("{\"a\":{\"b\":[null]}}"),
        S("{\"\":0}"),
        S("{\"a\":1,\"A\":2}"),
        S("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
        S("\"\\u0000\""),
        S("\"\\ud834\\udd1e\""),
        S("\"\\uFFFF\""),
        S("\"\xc3\xa9\""),
        S("\"\xe2\x82\xac\""),
        S("\"\xf0\x9f\x98\x80\""),
        S("\"\xed\x9f\xbf\""),
        S("\"\xee\x80\x80\""),
        S("\"\xf4\x8f\xbf\xbf\""),
        S("\"\x7f\""),
        S("1e400"),
        S("-1e400"),
        S("1e-400"),
        S("18446744073709551616"),
        S("[0.1234567890123456789012345678901234567890]"),
    };
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    arena_init(&arena, ARENA_BYTES);
    for (size_t i = 0; i < ARRAY_N(good); i++) {
        if (parse(&arena, good[i], &v) == 0) continue;
        print_error("refused: %.*s (%s)\n", STR_ARG(good[i]), diag_text());
        fail();
    }
}

static void test_refuses(void **state)
{
    (void)state;
    static const Str bad[] = {
        S(""),
        S(" "),
        S("\n"),
        S("nul"),
        S("nulll"),
        S("True"),
        S("NaN"),
        S("Infinity"),
        S("-Infinity"),
        S("undefined"),
        S("+1"),
        S("-"),
        S("01"),
        S("-01"),
        S("00"),
        S("1."),
        S(".5"),
        S("-.5"),
        S("1e"),
        S("1e+"),
        S("1.e5"),
        S("0x10"),
        S("1_000"),
        S("1 2"),
        S("[1"),
        S("[1,]"),
        S("[,1]"),
        S("[1,,2]"),
        S("[1 2]"),
        S("]"),
        S("[}"),
        S("{"),
        S("{]"),
        S("{\"a\"}"),
        S("{\"a\":}"),
        S("{\"a\":1,}"),
        S("{,}"),
        S("{a:1}"),
        S("{'a':1}"),
        S("{1:1}"),
        S("{\"a\" 1}"),
        S("{\"a\":1 \"b\":2}"),
        S("{\"a\"::1}"),
        S("\""),
        S("\"a"),
        S("'a'"),
        S("\"\\x41\""),
        S("\"\\u12\""),
        S("\"\\u12g4\""),
        S("\"\\ud800\""),
        S("\"\\ud800a\""),
        S("\"\\ud800\\u0041\""),
        S("\"\\udc00\""),
        S("\"\\ud800\\ud800\""),
        S("\"\\\""),
        S("\"\n\""),
        S("\"\t\""),
        S("\"\x00\""),
        S("\"\x1f\""),
        S("[1]x"),
        S("{} {}"),
        S("[]\0"),
        S("\0"),
        S("// c\n1"),
        S("/* c */1"),
        S("[1]//"),
        S("\xef\xbb\xbf{}"),
        S("\"\xff\""),
        S("\"\x80\""),
        S("\"\xc0\xaf\""),
        S("\"\xe0\x80\xaf\""),
        S("\"\xed\xa0\x80\""),
        S("\"\xf4\x90\x80\x80\""),
        S("\"\xc3\""),
        S("\"\xe2\x82\""),
        S("\"\xf0\x9f\x98\""),
        S("\xa0[]"),
        S("[\x0b]"),
        S("[\x0c]"),
        S("\xfe\xff\x00[\x00]"),
        S("[1e1"),
        S("{\"a\":1"),
        S("[\"a\",\n"),
        S("[tru]"),
    };
    CLEANUP(arena_deinit) Arena arena;
    const Json *v = NULL;
    arena_init(&arena, ARENA_BYTES);
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        if (parse(&arena, bad[i], &v) == -EINVAL) continue;
        print_error("number %zu not refused: %.*s\n", i, STR_ARG(bad[i]));
        fail();
    }
    assert_null(v);
}

static void test_errors_say_where(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    JsonError e;
    arena_init(&arena, ARENA_BYTES);
    assert_int_equal(json_parse(&arena, STR("{\n \"a\": x}"), NULL, &v, &e), -EINVAL);
    assert_int_equal(e.offset, 8);
    assert_int_equal(e.line, 2);
    assert_int_equal(e.column, 7);
    assert_non_null(strstr(diag_text(), "line 2 column 7: "));
    assert_non_null(strstr(diag_text(), e.message));

    assert_int_equal(json_parse(&arena, STR("{\"a\":1,\n\"\xc3\xa9\":2,  \"a\":3}"), NULL, &v, &e),
                     -EINVAL);
    assert_int_equal(e.line, 2);
    assert_int_equal(e.column, 10); /* of the second "a", in bytes */
    assert_string_equal(diag_text(), "line 2 column 10: the same key twice in one object");

    assert_int_equal(json_parse(&arena, STR_NULL, NULL, &v, &e), -EINVAL);
    assert_string_equal(diag_text(), "line 1 column 1: the text is empty");
}

/* --- depth ------------------------------------------------------------------------------------ */

static Str nested(Buf *buf, size_t depth, const char *open, const char *middle, const char *close)
{
    buf_clear(buf);
    for (size_t i = 0; i < depth; i++) buf_add(buf, str_of(open));
    buf_add(buf, str_of(middle));
    for (size_t i = 0; i < depth; i++) buf_add(buf, str_of(close));
    return buf_str(buf);
}

static void test_depth(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v;
    JsonError e;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&buf, 1 << 20);
    assert_int_equal(parse(&arena, nested(&buf, 64, "[", "1", "]"), &v), 0);
    assert_int_equal(parse(&arena, nested(&buf, 64, "{\"a\":", "1", "}"), &v), 0);
    assert_int_equal(parse(&arena, nested(&buf, 65, "{\"a\":", "1", "}"), &v), -EINVAL);
    nested(&buf, 65, "[", "\"]]]\\\"]\"", "]");
    assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &v, &e), -EINVAL);
    assert_string_equal(e.message, "nested too deeply");
    assert_int_equal(e.offset, 64);

    JsonLimits two = { .depth_max = 2 };
    assert_int_equal(json_parse(&arena, STR("[[1],{\"[\":[]}]"), &two, &v, &e), -EINVAL);
    assert_int_equal(e.offset, 10);
    assert_int_equal(json_parse(&arena, STR("[[1],{\"[\":1}]"), &two, &v, NULL), 0);
}

static void test_siblings_are_not_depth(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&buf, 1 << 20);
    buf_add(&buf, STR("[[]"));
    for (int i = 0; i < 1000; i++) buf_add(&buf, STR(",[{\"a\":[]}]"));
    buf_add(&buf, STR("]"));
    assert_int_equal(parse(&arena, buf_str(&buf), &v), 0);
    assert_int_equal(json_len(v), 1001);
}

/* Ten million brackets are refused without a deep stack and within the memory promised. */
static void test_brackets_without_end(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v;
    JsonError e;
    size_t n = 10000000;
    buf_init(&buf, 2 * n);
    memset(buf_reserve(&buf, 2 * n), '[', 2 * n);
    buf_added(&buf, 2 * n);
    arena_init(&arena, 13 * n + 4096);
    assert_int_equal(json_parse(&arena, str_sub(buf_str(&buf), 0, n), NULL, &v, &e), -EINVAL);
    assert_int_equal(e.offset, 64);
    memset(buf.ptr + n, ']', n);
    arena_clear(&arena);
    arena.max *= 2;
    assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &v, &e), -EINVAL);
    assert_int_equal(e.offset, 64);
}

/* --- duplicate keys and member counts --------------------------------------------------------- */

static void test_duplicate_keys(void **state)
{
    (void)state;
    static const Str bad[] = {
        S("{\"a\":1,\"a\":1}"),
        S("{\"a\":1,\"\\u0061\":2}"),
        S("{\"\":1,\"\":2}"),
        S("{\"\xe2\x82\xac\":1,\"\\u20AC\":2}"),
        S("{\"/\":1,\"\\/\":2}"),
        S("{\"\\ud83d\\ude00\":1,\"\xf0\x9f\x98\x80\":2}"),
        S("{\"\\u0000\":1,\"\\u0000\":2}"),
        S("[{\"x\":{\"k\":1,\"b\":{},\"k\":[]}}]"),
        S("{\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0,\"4\":0}"),
    };
    static const Str good[] = {
        S("{\"a\":{\"a\":{\"a\":1}}}"),
        S("[{\"a\":1},{\"a\":1}]"),
        S("{\"\\u0000\":1,\"\":2,\"\\u0000\\u0000\":3}"),
        S("{\"\xc3\xa9\":1,\"e\xcc\x81\":2}"), /* looks equal, is not: nothing is normalised */
        S("{\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0,\"44\":0}"),
    };
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    arena_init(&arena, ARENA_BYTES);
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        assert_int_equal(parse(&arena, bad[i], &v), -EINVAL);
        assert_non_null(strstr(diag_text(), "the same key twice"));
    }
    for (size_t i = 0; i < ARRAY_N(good); i++) assert_int_equal(parse(&arena, good[i], &v), 0);
}

/* An object of n members in a shuffled order; twice is the number of one that comes again. */
static Str wide_object(Buf *buf, size_t n, size_t twice)
{
    buf_clear(buf);
    buf_add(buf, STR("{"));
    for (size_t i = 0; i < n; i++) buf_printf(buf, "\"k%zu\":%zu,", i * 7919 % n, i);
    buf_printf(buf, "\"k%zu\":0}", twice);
    return buf_str(buf);
}

static void test_members_max(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v;
    JsonError e;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&buf, 1 << 20);
    assert_int_equal(parse(&arena, wide_object(&buf, JSON_MEMBERS_DEFAULT - 1, 123456), &v), 0);
    assert_int_equal(json_len(v), JSON_MEMBERS_DEFAULT);
    assert_int_equal(parse(&arena, wide_object(&buf, JSON_MEMBERS_DEFAULT, 123456), &v), -EINVAL);
    assert_non_null(strstr(diag_text(), "too many members"));
    JsonLimits limits = { .members_max = 2 };
    assert_int_equal(json_parse(&arena, STR("[1,2,3,{\"a\":1,\"b\":2}]"), &limits, &v, &e), 0);
    assert_int_equal(json_parse(&arena, STR("{\"a\":1,\"b\":2,\"c\":3}"), &limits, &v, &e),
                     -EINVAL);
    assert_int_equal(e.offset, 1);
}

static void test_duplicate_at_every_place_of_a_wide_object(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&buf, 1 << 20);
    for (size_t n = 1; n < 40; n++) { /* both ways of checking, whatever runs they sort */
        assert_int_equal(parse(&arena, wide_object(&buf, n, n), &v), 0);
        for (size_t twice = 0; twice < n; twice++)
            assert_int_equal(parse(&arena, wide_object(&buf, n, twice), &v), -EINVAL);
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The least CPU time of three parses. */
static double parse_cost(Arena *arena, Str text)
{
    JsonLimits limits = { .members_max = 1000000 };
    double least = 1e9;
    const Json *v;
    for (int i = 0; i < 3; i++) {
        arena_clear(arena);
        double from = cpu_seconds();
        assert_int_equal(json_parse(arena, text, &limits, &v, NULL), 0);
        least = MIN(least, cpu_seconds() - from);
    }
    return least;
}

/* 200,000 keys against 10,000: 20 times the work, some 30 times the time; quadratic it were 400. */
static void test_wide_objects_are_not_quadratic(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf small, large;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&small, 1 << 20);
    buf_init(&large, 8 << 20);
    double small_cost = parse_cost(&arena, wide_object(&small, 10000, 10000));
    double large_cost = parse_cost(&arena, wide_object(&large, 200000, 200000));
    assert_true(large_cost < small_cost * 150);
}

/* --- memory ----------------------------------------------------------------------------------- */

/* 13 times the text and a little: enough for any text, and less is refused without harm. */
static void test_memory_is_bounded_by_the_text(void **state)
{
    (void)state;
    static const char *const items[] = { "1,",    "\"\",",      "[],",
                                         "{},",   "[1,1],",     "1.5,",
                                         "null,", "{\"a\":1},", "\", , , {{[[::\"," };
    for (size_t i = 0; i < ARRAY_N(items); i++) {
        CLEANUP(arena_deinit) Arena arena;
        CLEANUP(buf_deinit) Buf buf;
        const Json *v;
        buf_init(&buf, 1 << 20);
        buf_add(&buf, STR("["));
        for (int n = 0; n < 50000; n++) buf_add(&buf, str_of(items[i]));
        buf_add(&buf, STR("0]"));
        arena_init(&arena, 13 * buf.len + 8192);
        assert_int_equal(json_parse(&arena, buf_str(&buf), NULL, &v, NULL), 0);
        assert_int_equal(json_len(v), 50001);
    }
}

static void test_every_quota_below_fails_cleanly(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf;
    const Json *v = NULL;
    size_t refused = 0;
    buf_init(&buf, 1 << 20);
    wide_object(&buf, 100, 100);
    for (size_t quota = 0; quota < 13 * buf.len; quota += 64) {
        CLEANUP(arena_deinit) Arena arena;
        arena_init(&arena, quota);
        int r = json_parse(&arena, buf_str(&buf), NULL, &v, NULL);
        assert_true(r == 0 || r == -ENOMEM);
        refused += r != 0;
    }
    assert_true(refused > 10);
}

/* --- numbers ---------------------------------------------------------------------------------- */

static void test_number_types(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        JsonType type;
    } numbers[] = {
        { "0", JSON_INT },
        { "-1", JSON_INT },
        { "9223372036854775807", JSON_INT },
        { "9223372036854775808", JSON_INT },
        { "18446744073709551615", JSON_INT },
        { "18446744073709551616", JSON_BIG }, /* 2^64 */
        { "-9223372036854775808", JSON_INT },
        { "-9223372036854775809", JSON_BIG },
        { "1.0", JSON_REAL },
        { "1e2", JSON_REAL },
        { "-0.0", JSON_REAL },
        { "1.7976931348623157e308", JSON_REAL },
        { "1e400", JSON_BIG },
        { "-1e400", JSON_BIG },
        { "1e-400", JSON_REAL },
        { "123456789012345678901234567890", JSON_BIG },
    };
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    for (size_t i = 0; i < ARRAY_N(numbers); i++) {
        const Json *v = parsed(&arena, str_of(numbers[i].text));
        assert_int_equal(json_type(v), numbers[i].type);
        if (numbers[i].type == JSON_BIG)
            assert_true(str_eq(json_number_text(v), str_of(numbers[i].text)));
        else assert_true(str_empty(json_number_text(v)));
    }
}

static void test_i64(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int r;
        int64_t value;
    } numbers[] = {
        { "0", 0, 0 },
        { "-0", 0, 0 },
        { "4294967297", 0, 4294967297 },
        { "9223372036854775807", 0, INT64_MAX },
        { "-9223372036854775808", 0, INT64_MIN },
        { "9223372036854775808", -ERANGE, 0 },
        { "18446744073709551615", -ERANGE, 0 },
        { "18446744073709551616", -ERANGE, 0 },
        { "-9223372036854775809", -ERANGE, 0 },
        { "1e2", 0, 100 },
        { "3.0", 0, 3 },
        { "-0.0", 0, 0 },
        { "9007199254740992.0", 0, INT64_C(9007199254740992) },
        { "-9007199254740992.0", 0, INT64_C(-9007199254740992) },
        { "9007199254740994.0", -ERANGE, 0 },
        { "1e18", -ERANGE, 0 },
        { "1e300", -ERANGE, 0 },
        { "0.5", -EINVAL, 0 },
        { "1e-400", 0, 0 },
        { "1e400", -EINVAL, 0 },
        { "\"1\"", -EINVAL, 0 },
        { "true", -EINVAL, 0 },
        { "null", -EINVAL, 0 },
        { "[1]", -EINVAL, 0 },
    };
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    for (size_t i = 0; i < ARRAY_N(numbers); i++) {
        int64_t got = 77;
        const Json *v = parsed(&arena, str_of(numbers[i].text));
        assert_int_equal(json_i64(v, &got), numbers[i].r);
        assert_int_equal(got, numbers[i].r == 0 ? numbers[i].value : 77);
        assert_int_equal(json_i64_or(v, 77), got);
    }
    int64_t got = 77;
    assert_int_equal(json_i64(NULL, &got), -EINVAL);
    assert_int_equal(got, 77);
}

static void test_f64(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    assert_true(json_f64_or(parsed(&arena, STR("0.25")), 9) == 0.25);
    assert_true(json_f64_or(parsed(&arena, STR("-3")), 9) == -3);
    assert_true(json_f64_or(parsed(&arena, STR("18446744073709551615")), 9) ==
                18446744073709551615.0);
    assert_true(json_f64_or(parsed(&arena, STR("1e400")), 9) == 9);
    assert_true(json_f64_or(parsed(&arena, STR("\"1\"")), 9) == 9);
    assert_true(json_f64_or(NULL, 9) == 9);
}

static void test_numbers_as_text(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    int64_t i;
    JsonLimits limits = { .numbers_as_text = true };
    Str text = STR("{\"price\":0.00000015,\"long\":0.1000000000000000000001,\"n\":12,\"z\":-0}");
    arena_init(&arena, ARENA_BYTES);
    assert_int_equal(json_parse(&arena, text, &limits, &v, NULL), 0);
    assert_true(str_eq(json_number_text(json_get(v, "price")), STR("0.00000015")));
    assert_true(str_eq(json_number_text(json_get(v, "long")), STR("0.1000000000000000000001")));
    assert_true(str_eq(json_number_text(json_get(v, "z")), STR("-0")));
    assert_int_equal(json_type(json_get(v, "n")), JSON_BIG);
    assert_int_equal(json_i64(json_get(v, "n"), &i), 0);
    assert_int_equal(i, 12);
    assert_int_equal(json_parse(&arena, STR("[01]"), &limits, &v, NULL), -EINVAL);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_reading(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    const Json *v = parsed(&arena,
                           STR("{\"s\":\"a\\u0000b\",\"t\":true,\"n\":null,\"a\":[1,[2,2],\"x\"],"
                               "\"k\\u0000ey\":1,\"o\":{}}"));
    assert_true(str_eq(json_str(json_get(v, "s")), STR("a\0b")));
    assert_true(json_bool(json_get(v, "t"), false));
    assert_int_equal(json_type(json_get(v, "n")), JSON_NULL);
    assert_int_equal(json_type(json_get(v, "none")), JSON_ABSENT);
    assert_true(str_eq(json_str(json_at(json_get(v, "a"), 2)), STR("x")));
    assert_null(json_at(json_get(v, "a"), 3));
    assert_int_equal(json_i64_or(json_get_str(v, STR("k\0ey")), 0), 1);
    assert_null(json_get(v, "k"));
    assert_int_equal(json_len(v), 6);
    assert_int_equal(json_len(json_get(v, "a")), 3);
}

static void test_reading_what_is_absent_or_of_another_type(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    const Json *others[] = { NULL, parsed(&arena, STR("1")), parsed(&arena, STR("1e999")),
                             parsed(&arena, STR("[true]")) };
    for (size_t i = 0; i < ARRAY_N(others); i++) {
        assert_null(json_get(others[i], "a"));
        assert_null(json_get_str(others[i], STR_NULL));
        assert_true(str_empty(json_str(others[i])));
        assert_true(json_bool(others[i], true));
        assert_false(json_bool(others[i], false));
    }
    for (size_t i = 0; i < 3; i++) {
        assert_null(json_at(others[i], 0));
        assert_int_equal(json_len(others[i]), 0);
        JsonIter it = json_iter(others[i]);
        assert_false(json_next(&it));
    }
}

static void test_iteration(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf seen;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&seen, 1000);
    const Json *v = parsed(&arena, STR("{\"z\":[[1,2],3,{\"q\":4}],\"a\":{},\"m\":[]}"));
    for (JsonIter it = json_iter(v); json_next(&it);) {
        buf_printf(&seen, "%.*s:%zu(", STR_ARG(it.key), json_len(it.value));
        for (JsonIter in = json_iter(it.value); json_next(&in);) {
            assert_true(str_empty(in.key));
            buf_printf(&seen, "%s,", json_type_name(json_type(in.value)));
        }
        buf_add(&seen, STR(")"));
    }
    assert_string_equal(seen.ptr, "z:3(an array,an integer,an object,)a:0()m:0()");
}

static void test_type_names(void **state)
{
    (void)state;
    for (JsonType t = JSON_ABSENT; t <= JSON_OBJECT; t++)
        assert_true(strlen(json_type_name(t)) > 3);
}

/* --- equality --------------------------------------------------------------------------------- */

static bool equal(Arena *arena, const char *a, const char *b)
{
    const Json *x = parsed(arena, str_of(a)), *y = parsed(arena, str_of(b));
    assert_true(json_eq(x, x) && json_eq(y, y));
    assert_int_equal(json_eq(x, y), json_eq(y, x));
    return json_eq(x, y);
}

static void test_eq(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, ARENA_BYTES);
    assert_true(equal(&arena, "{\"a\":[1,{\"b\":null}],\"c\":\"x\"}",
                      " { \"c\" : \"\\u0078\", \"a\": [1, {\"b\":null} ] }"));
    assert_true(equal(&arena, "1.5", "15e-1"));
    assert_true(equal(&arena, "1e400", "1e400"));
    assert_true(equal(&arena, "-5", "-5"));
    assert_true(equal(&arena, "-0", "0"));
    assert_false(equal(&arena, "-0.0", "0.0"));
    assert_false(equal(&arena, "1", "1.0"));
    assert_false(equal(&arena, "-1", "18446744073709551615")); /* the same 64 bits */
    assert_false(equal(&arena, "1e400", "10e399"));
    assert_false(equal(&arena, "\"1\"", "1"));
    assert_false(equal(&arena, "true", "false"));
    assert_false(equal(&arena, "null", "false"));
    assert_false(equal(&arena, "[]", "{}"));
    assert_false(equal(&arena, "[1,2]", "[2,1]"));
    assert_false(equal(&arena, "[1]", "[1,1]"));
    assert_false(equal(&arena, "{\"a\":1}", "{\"a\":2}"));
    assert_false(equal(&arena, "{\"a\":1,\"b\":2}", "{\"b\":1,\"a\":2}"));
    assert_false(equal(&arena, "{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":2}"));
    assert_false(equal(&arena, "{\"a\":1}", "{\"a\":1,\"b\":2}"));
    assert_true(json_eq(NULL, NULL));
    assert_false(json_eq(NULL, parsed(&arena, STR("null"))));
}

static void test_eq_of_wide_objects_in_another_order(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf a, b;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    buf_add(&a, STR("{\"first\":0"));
    buf_add(&b, STR("{\"first\":0"));
    for (int i = 0; i < 5000; i++) buf_printf(&a, ",\"%d\":%d", i, i);
    for (int i = 5000; i-- > 0;) buf_printf(&b, ",\"%d\":%d", i, i);
    buf_add(&a, STR("}"));
    buf_add(&b, STR("}"));
    assert_true(equal(&arena, a.ptr, b.ptr));
    char *digit = strstr(b.ptr, ":4321,");
    digit[4] = '2';
    assert_false(equal(&arena, a.ptr, b.ptr));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_errors_say_where),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_siblings_are_not_depth),
        cmocka_unit_test(test_brackets_without_end),
        cmocka_unit_test(test_duplicate_keys),
        cmocka_unit_test(test_members_max),
        cmocka_unit_test(test_duplicate_at_every_place_of_a_wide_object),
        cmocka_unit_test(test_wide_objects_are_not_quadratic),
        cmocka_unit_test(test_memory_is_bounded_by_the_text),
        cmocka_unit_test(test_every_quota_below_fails_cleanly),
        cmocka_unit_test(test_number_types),
        cmocka_unit_test(test_i64),
        cmocka_unit_test(test_f64),
        cmocka_unit_test(test_numbers_as_text),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_reading_what_is_absent_or_of_another_type),
        cmocka_unit_test(test_iteration),
        cmocka_unit_test(test_type_names),
        cmocka_unit_test(test_eq),
        cmocka_unit_test(test_eq_of_wide_objects_in_another_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
