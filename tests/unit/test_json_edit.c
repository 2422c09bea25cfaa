#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/json.h"
#include "tests/unit/random.h"

/* --- finding ---------------------------------------------------------------------------------- */

static void check_span(Str text, Str key, const char *member, const char *value)
{
    Str got_member, got_value;
    assert_int_equal(json_member_span(text, key, &got_member, &got_value), 0);
    assert_true(str_eq(got_member, str_of(member)));
    assert_true(str_eq(got_value, str_of(value)));
    assert_true(got_member.ptr >= text.ptr && got_member.ptr < text.ptr + text.len); /* in place */
}

static void test_span(void **state)
{
    (void)state;
    Str text = STR(" { \"a\" :1 ,\"b\":  \"x\\\"},{\" , \"c\":[1,{\"a\":2},\"]\"],\n"
                   "\"d\":{\"c\":[]}\t,\"e\":-1.5e+3, \"f\":null,\"\":true} ");
    check_span(text, STR("a"), "\"a\" :1", "1");
    check_span(text, STR("b"), "\"b\":  \"x\\\"},{\"", "\"x\\\"},{\"");
    check_span(text, STR("c"), "\"c\":[1,{\"a\":2},\"]\"]", "[1,{\"a\":2},\"]\"]");
    check_span(text, STR("d"), "\"d\":{\"c\":[]}", "{\"c\":[]}");
    check_span(text, STR("e"), "\"e\":-1.5e+3", "-1.5e+3");
    check_span(text, STR("f"), "\"f\":null", "null");
    check_span(text, STR(""), "\"\":true", "true");
}

static void test_span_of_backslashes(void **state)
{
    (void)state;
    Str text = STR(
        "{\"a\":\"\\\\\",\"b\":\"\\\\\\\"\",\"c\":\"\\\"\\\\\\\"\\\\\",\"d\":[\"\\\\\"]}");
    check_span(text, STR("b"), "\"b\":\"\\\\\\\"\"", "\"\\\\\\\"\"");
    check_span(text, STR("c"), "\"c\":\"\\\"\\\\\\\"\\\\\"", "\"\\\"\\\\\\\"\\\\\"");
    check_span(text, STR("d"), "\"d\":[\"\\\\\"]", "[\"\\\\\"]");
}

static void test_span_of_escaped_keys(void **state)
{
    (void)state;
    Str text = STR("{\"\\u0073tream\":1,\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":2,\"\\ud83d\\ude00\":3,"
                   "\"\\u20AC\":4,\"\\u00e9\":5,\"\\u0000\":6,\"\xe2\x82\xac\xe2\x82\xac\":7}");
    check_span(text, STR("stream"), "\"\\u0073tream\":1", "1");
    check_span(text, STR("\"\\/\b\f\n\r\t"), "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\":2", "2");
    check_span(text, STR("\xf0\x9f\x98\x80"), "\"\\ud83d\\ude00\":3", "3");
    check_span(text, STR("\xe2\x82\xac"), "\"\\u20AC\":4", "4");
    check_span(text, STR("\xc3\xa9"), "\"\\u00e9\":5", "5");
    check_span(text, STR("\0"), "\"\\u0000\":6", "6");
    check_span(text, STR("\xe2\x82\xac\xe2\x82\xac"), "\"\xe2\x82\xac\xe2\x82\xac\":7", "7");
}

static void test_span_of_what_is_not_there(void **state)
{
    (void)state;
    Str member = STR("untouched"), value = STR("untouched");
    static const char *const texts[] = {
        "{}", " { } ", "{\"ab\":1}", "{\"x\":{\"a\":1}}", "{\"x\":\"a\"}", "{\"\\u0061b\":1,\"\":2}"
    };
    for (size_t i = 0; i < ARRAY_N(texts); i++)
        assert_int_equal(json_member_span(str_of(texts[i]), STR("a"), &member, &value), -ENOENT);
    assert_true(str_eq(member, STR("untouched")) && str_eq(value, STR("untouched")));
}

/* --- changing --------------------------------------------------------------------------------- */

static void check_set(const char *text, Str key, const char *value, const char *want)
{
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 1000);
    assert_int_equal(json_member_set(str_of(text), key, str_of(value), &out), 0);
    assert_string_equal(out.ptr, want);
}

static void test_set(void **state)
{
    (void)state;
    check_set("{\"a\":1}", STR("a"), "[2]", "{\"a\":[2]}");
    check_set(" {\"x\" : 0,\"a\" :\t1 , \"b\":2}\n", STR("a"), "true",
              " {\"x\" : 0,\"a\" :\ttrue , \"b\":2}\n");
    check_set("{\"\\u0061\":{\"a\":1}}", STR("a"), "\"\"", "{\"\\u0061\":\"\"}");
    check_set("{}", STR("a"), "1", "{\"a\":1}");
    check_set(" { } ", STR("a"), "1", " {\"a\":1 } ");
    check_set("{\"b\":2}", STR("a"), "1", "{\"a\":1,\"b\":2}");
    check_set("{ \n\"b\":2}", STR("q\"\n"), "1", "{\"q\\\"\\n\":1, \n\"b\":2}");
    check_set("{\"n\":1e400,\"m\":0.10}", STR("a"), "1", "{\"a\":1,\"n\":1e400,\"m\":0.10}");
}

static void test_set_when_full(void **state)
{
    (void)state;
    static const char *const texts[] = { "{\"a\":1}", "{\"b\":1}", "{}" };
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        CLEANUP(buf_deinit) Buf whole;
        buf_init(&whole, 1000);
        assert_int_equal(json_member_set(str_of(texts[i]), STR("a"), STR("[1,2]"), &whole), 0);
        for (size_t max = 0; max < whole.len; max++) {
            CLEANUP(buf_deinit) Buf out;
            buf_init(&out, max);
            assert_int_equal(json_member_set(str_of(texts[i]), STR("a"), STR("[1,2]"), &out),
                             -ENOMEM);
        }
    }
}

/* --- both, against the parser ----------------------------------------------------------------- */

static void random_value(Random *random, Buf *out, int depth)
{
    static const char *const scalars[] = { "0",    "-1.5e3",         "null", "true",
                                           "\"\"", "\"\\\"]}{[,:\"", "[]",   "{ }" };
    int64_t kind = random_range(random, 0, depth > 3 ? 7 : 9);
    if (kind < 8) {
        buf_printf(out, " %s ", scalars[kind]);
        return;
    }
    buf_add(out, kind == 8 ? STR("[") : STR("{"));
    for (int64_t i = 0, n = random_range(random, 1, 4); i < n; i++) {
        if (i > 0) buf_add(out, STR(","));
        if (kind == 9) buf_printf(out, "\"k%" PRId64 "\" :", i);
        random_value(random, out, depth + 1);
    }
    buf_add(out, kind == 8 ? STR("]") : STR("}"));
}

/* Each member of random objects is found where the parser sees it, and setting it changes it and
 * nothing else. */
static void test_random_objects(void **state)
{
    (void)state;
    Random random = { 21 };
    for (int round = 0; round < 3000; round++) {
        CLEANUP(arena_deinit) Arena arena;
        CLEANUP(buf_deinit) Buf text, changed;
        const Json *v, *after;
        arena_init(&arena, 1 << 20);
        buf_init(&text, 1 << 16);
        buf_init(&changed, 1 << 16);
        int64_t n = random_range(&random, 0, 5), chosen = random_range(&random, 0, 5);
        buf_add(&text, STR("{"));
        for (int64_t i = 0; i < n; i++) {
            buf_printf(&text, "%s\"k%" PRId64 "\":", i > 0 ? "," : "", i);
            random_value(&random, &text, 0);
        }
        buf_add(&text, STR("}"));
        char key[] = { 'k', (char)('0' + chosen), '\0' };
        assert_int_equal(json_parse(&arena, buf_str(&text), NULL, &v, NULL), 0);
        Str member, value;
        int r = json_member_span(buf_str(&text), str_of(key), &member, &value);
        assert_int_equal(r, chosen < n ? 0 : -ENOENT);
        if (r == 0) {
            const Json *alone;
            assert_int_equal(json_parse(&arena, value, NULL, &alone, NULL), 0);
            assert_true(json_eq(alone, json_get(v, key)));
        }
        assert_int_equal(json_member_set(buf_str(&text), str_of(key), STR("\"new\""), &changed), 0);
        assert_int_equal(json_parse(&arena, buf_str(&changed), NULL, &after, NULL), 0);
        assert_int_equal(json_len(after), json_len(v) + (chosen >= n));
        Buf dropped;
        const Json *left;
        buf_init(&dropped, 1 << 16);
        assert_int_equal(json_member_drop(buf_str(&text), str_of(key), &dropped), 0);
        assert_int_equal(json_parse(&arena, buf_str(&dropped), NULL, &left, NULL), 0);
        assert_int_equal(json_len(left), json_len(v) - (chosen < n));
        assert_null(json_get(left, key));
        for (JsonIter it = json_iter(left); json_next(&it);)
            assert_true(json_eq(it.value, json_get_str(v, it.key)));
        buf_deinit(&dropped);
        for (JsonIter it = json_iter(after); json_next(&it);) {
            if (str_eq(it.key, str_of(key))) assert_true(str_eq(json_str(it.value), STR("new")));
            else assert_true(json_eq(it.value, json_get_str(v, it.key)));
        }
    }
}

static void expect_dropped(const char *text, const char *key, const char *expected)
{
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 1024);
    assert_int_equal(json_member_drop(str_of(text), str_of(key), &out), 0);
    assert_string_equal(out.ptr, expected);
}

static void test_drop(void **state)
{
    (void)state;
    expect_dropped("{\"a\":1,\"b\":[2,{}],\"c\":3}", "a", "{\"b\":[2,{}],\"c\":3}");
    expect_dropped("{\"a\":1,\"b\":[2,{}],\"c\":3}", "b", "{\"a\":1,\"c\":3}");
    expect_dropped("{\"a\":1 , \"c\" : 3 }", "c", "{\"a\":1 }");
    expect_dropped(" { \"a\" : 1 } ", "a", " {} ");
    expect_dropped("{\"a\":1}", "z", "{\"a\":1}");
    expect_dropped("{}", "z", "{}");
    expect_dropped("{\"\\u0061\":1,\"b\":\"a\"}", "a", "{\"b\":\"a\"}");
    Buf small;
    buf_init(&small, 3);
    assert_int_equal(json_member_drop(STR("{\"a\":1,\"b\":2}"), STR("a"), &small), -ENOMEM);
    buf_deinit(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_span),
        cmocka_unit_test(test_span_of_backslashes),
        cmocka_unit_test(test_span_of_escaped_keys),
        cmocka_unit_test(test_span_of_what_is_not_there),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_set_when_full),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_random_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
