#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/http1.h"

static void test_head(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 1000);
    assert_true(http1_add_status(&buf, 404));
    assert_true(http1_add_field(&buf, STR("X-Name"), STR("a value\t\xc3\xa4")));
    assert_true(http1_add_field(&buf, STR("empty"), STR_NULL));
    assert_true(http1_add_content_length(&buf, 0));
    assert_true(http1_add_content_length(&buf, UINT64_MAX));
    assert_true(http1_add_chunked(&buf));
    assert_true(http1_add_head_end(&buf));
    assert_string_equal(buf.ptr, "HTTP/1.1 404 Not Found\r\n"
                                 "X-Name: a value\t\xc3\xa4\r\n"
                                 "empty: \r\n"
                                 "Content-Length: 0\r\n"
                                 "Content-Length: 18446744073709551615\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n");
}

static void test_status(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *line;
    } cases[] = {
        { 100, "HTTP/1.1 100 Continue\r\n" },
        { 200, "HTTP/1.1 200 OK\r\n" },
        { 507, "HTTP/1.1 507 Insufficient Storage\r\n" },
        { 999, "HTTP/1.1 999 \r\n" },
        { 418, "HTTP/1.1 418 \r\n" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        CLEANUP(buf_deinit) Buf buf = { 0 };
        buf_init(&buf, 100);
        assert_true(http1_add_status(&buf, cases[i].status));
        assert_string_equal(buf.ptr, cases[i].line);
    }
}

static void test_full(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 8);
    assert_false(http1_add_status(&buf, 200));
    assert_false(http1_add_field(&buf, STR("a"), STR("1234567")));
    assert_true(buf.failed);
}

static void test_names(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        char name[] = { 'a', (char)c };
        bool token = c > 0x20 && c < 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", c);
        assert_int_equal(http1_name_ok(str_make(name, 2)), token);
    }
    assert_false(http1_name_ok(STR("")));
}

static void test_values(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        char value[] = { 'a', (char)c };
        bool ok = c == '\t' || (c >= 0x20 && c != 0x7f);
        assert_int_equal(http1_value_ok(str_make(value, 2)), ok);
    }
    assert_true(http1_value_ok(STR("")));
}

/* Several bytes are looked at at once. */
static void test_values_of_any_length(void **state)
{
    char value[50];
    (void)state;
    memset(value, 'a', sizeof value);
    for (size_t n = 1; n <= sizeof value; n++) {
        assert_true(http1_value_ok(str_make(value, n)));
        for (size_t at = 0; at < sizeof value; at++) {
            value[at] = '\n';
            assert_int_equal(http1_value_ok(str_make(value, n)), at >= n);
            value[at] = 'a';
        }
    }
}

static void test_chunk_line(void **state)
{
    (void)state;
    char line[HTTP1_CHUNK_LINE_MAX];
    assert_true(str_eq(http1_chunk_line(1, line), STR("1\r\n")));
    assert_true(str_eq(http1_chunk_line(0xdef0, line), STR("def0\r\n")));
    assert_true(str_eq(http1_chunk_line(SIZE_MAX, line), STR("ffffffffffffffff\r\n")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),       cmocka_unit_test(test_status),
        cmocka_unit_test(test_full),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_values),     cmocka_unit_test(test_values_of_any_length),
        cmocka_unit_test(test_chunk_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
