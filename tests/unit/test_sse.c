#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/sse.h"
#include "sse_transcript.h"

static void expect_with(size_t max, bool raw, Str bytes, const char *want)
{
    const size_t steps[] = { SIZE_MAX / 2, 1, 2, 3, 5, 11, 64 };
    for (size_t i = 0; i < ARRAY_N(steps); i++) {
        CLEANUP(buf_deinit) Buf got = { 0 };
        buf_init(&got, 1 << 20);
        buf_add(&got, STR(""));
        transcript(&got, max, bytes, steps[i], 0, raw);
        if (strcmp(got.ptr, want) != 0)
            print_error("in steps of %zu:\n%.*s\n", steps[i], STR_ARG(bytes));
        assert_string_equal(got.ptr, want);
    }
}

static void expect(Str bytes, const char *want)
{
    expect_with(0, false, bytes, want);
}

static void expect_raw(Str bytes, const char *want)
{
    expect_with(0, true, bytes, want);
}

/* The cases of the standard's own tests for this format, restated. */
static void test_fields(void **state)
{
    (void)state;
    expect(STR("data:a\n\n"), "EVENT data=a; ");
    expect(STR("data: a\n\n"), "EVENT data=a; ");
    expect(STR("data:  a \n\n"), "EVENT data= a ; ");
    expect(STR("data:\ta\n\n"), "EVENT data=\\x09a; ");
    expect(STR("data\n\n"), "EVENT data=; ");
    expect(STR("data:\n\n"), "EVENT data=; ");
    expect(STR("data\ndata\n\n"), "EVENT data=\\n; ");
    expect(STR("data:a\ndata\ndata: b\n\n"), "EVENT data=a\\n\\nb; ");
    expect(STR("data:a:b:c\n\n"), "EVENT data=a:b:c; ");
    expect(STR("data:a\0b\n\n"), "EVENT data=a\\x00b; ");
    expect(STR("event: x\ndata: a\n\n"), "EVENT event=x data=a; ");
    expect(STR("event: x\nevent: y\ndata: a\n\ndata: b\n\n"),
           "EVENT event=y data=a; EVENT data=b; ");
    expect(STR("event: x\nevent:\ndata: a\n\n"), "EVENT data=a; ");
    expect(STR("event: x\n\ndata: a\n\n"), "OTHER event=x; EVENT data=a; ");
    expect(STR("data:a\nother: x\nDATA: b\n data: c\ndata : d\ndataa\n\n"), "EVENT data=a; ");
    expect(STR("data: \xe2\x82\xac\xff\n\n"), "EVENT data=\xe2\x82\xac\xff; ");
}

static void test_line_ends(void **state)
{
    (void)state;
    expect(STR("data:a\r\n\r\ndata:b\r\n\r\n"), "EVENT data=a; EVENT data=b; ");
    expect(STR("data:a\r\rdata:b\r\r"), "EVENT data=a; EVENT data=b; ");
    expect(STR("data:a\rdata:b\ndata:c\r\ndata:d\r\r"), "EVENT data=a\\nb\\nc\\nd; ");
    expect(STR("data:a\n\r\ndata:b\r\n\n"), "EVENT data=a; EVENT data=b; ");
    expect(STR("data:a\r\n\ndata:b\n\rdata:c\n\n"), "EVENT data=a; EVENT data=b; EVENT data=c; ");
    expect(STR("data:a\n\n\n\ndata:b\n\n"), "EVENT data=a; OTHER; OTHER; EVENT data=b; ");
}

static void test_byte_order_mark(void **state)
{
    (void)state;
    expect_raw(STR("\xef\xbb\xbf"
                   "data:a\n\n"),
               "EVENT raw=\xef\xbb\xbf"
               "data:a\\n\\n data=a; ");
    expect_raw(STR("\xef\xbb\xbf:c\n"), "OTHER raw=\xef\xbb\xbf:c\\n; ");
    expect_raw(STR("\xef\xbb\xbf\n"), "OTHER raw=\xef\xbb\xbf\\n; ");
    expect(STR("\xef\xbb\xbf\xef\xbb\xbf"
               "data:a\n\ndata:b\n\n"),
           "OTHER; EVENT data=b; ");
    expect(STR("data:a\n\n\xef\xbb\xbf"
               "data:b\n\n"),
           "EVENT data=a; OTHER; ");
    expect(STR("\xef\xbb"
               "data:a\n\ndata:b\n\n"),
           "OTHER; EVENT data=b; ");
    expect(STR("\xef"
               ":a\n\n"),
           "OTHER; ");
    expect(STR("\xef\xbb\xbf"), "OTHER; ");
}

static void test_ids(void **state)
{
    (void)state;
    expect(STR("id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n"),
           "EVENT data=a id=1; EVENT data=b last=1; EVENT data=c id=; ");
    expect(STR("id: 1\n\ndata: a\n\n"), "OTHER id=1; EVENT data=a last=1; ");
    expect(STR("id: 1\0\ndata: a\n\n"), "EVENT data=a; ");
    CLEANUP(buf_deinit) Buf text = { 0 };
    buf_init(&text, 4000);
    buf_printf(&text, "id: %01025d\ndata: a\n\n", 0);
    expect(buf_str(&text), "EVENT data=a; ");
}

static void test_retry(void **state)
{
    (void)state;
    expect(STR("retry: 1500\n\n"), "OTHER retry=1500; ");
    expect(STR("retry: 0\ndata: a\n\n"), "EVENT data=a retry=0; ");
    expect(STR("retry: -1\nretry: 1x\nretry: +1\nretry:\nretry: 1 \nretry: 1.5\n"
               "retry: 99999999999999999999\ndata: a\n\n"),
           "EVENT data=a; ");
}

/* Comments between events pass at once; inside a block they stay with it. */
static void test_comments(void **state)
{
    (void)state;
    expect_raw(
        STR(": ping\n\n:\ndata: a\n: in\n\n: out\n"),
        "OTHER raw=: ping\\n; OTHER raw=\\n; OTHER raw=:\\n; EVENT raw=data: a\\n: in\\n\\n data=a; "
        "OTHER raw=: out\\n; ");
    expect_raw(STR(": ping\r\n\r\ndata: a\r\n\r\n"),
               "OTHER raw=: ping\\r\\n; OTHER raw=\\r\\n; EVENT raw=data: a\\r\\n\\r\\n data=a; ");
}

/* CRLF is not torn apart, and where CR is used alone nothing waits for a LF. */
static void test_raw_of_cr(void **state)
{
    (void)state;
    expect_raw(STR("data:a\r\n\r\ndata:b\r\n\r\n"),
               "EVENT raw=data:a\\r\\n\\r\\n data=a; EVENT raw=data:b\\r\\n\\r\\n data=b; ");
    expect_raw(STR("data:a\r\rdata:b\r\r"),
               "EVENT raw=data:a\\r\\r data=a; EVENT raw=data:b\\r\\r data=b; ");
    expect_raw(
        STR("data:a\rx\r\n\r\ndata:b\r\n\r\n"),
        "EVENT raw=data:a\\rx\\r\\n\\r data=a; EVENT raw=\\ndata:b\\r\\n\\r data=b; OTHER raw=\\n; ");
}

static void test_bare_cr_is_prompt(void **state)
{
    (void)state;
    SseParser parser;
    SsePiece piece;
    Str input = STR("data:a\r\r");
    sse_init(&parser, 0);
    assert_int_equal(sse_next(&parser, &input, &piece), SSE_EVENT);
    assert_int_equal(input.len, 0);
    sse_deinit(&parser);
}

static void test_end(void **state)
{
    (void)state;
    expect_raw(STR(""), "");
    expect_raw(STR("data: a"), "CUT raw=data: a; ");
    expect_raw(STR("data: a\n"), "CUT raw=data: a\\n; ");
    expect_raw(STR("id: 7\ndata: a\r"), "CUT raw=id: 7\\ndata: a\\r; ");
    expect_raw(STR("data: a\n\nd"), "EVENT raw=data: a\\n\\n data=a; CUT raw=d; ");
    expect_raw(STR("data: a\r\n\r"), "EVENT raw=data: a\\r\\n\\r data=a; ");
    expect_raw(STR(":c\r"), "OTHER raw=:c\\r; ");
    expect_raw(STR(":c"), "CUT raw=:c; ");
}

/* A piece of exactly the limit passes, a byte more does not, wherever the chunks end. */
static void test_limit(void **state)
{
    (void)state;
    expect_with(16, false, STR("data: 12345678\n\ndata: 1\n\n"),
                "EVENT data=12345678; EVENT data=1; ");
    expect_with(16, false, STR("data: 1\n\ndata: 123456789\n\n"), "EVENT data=1; error -90");
    expect_with(16, false, STR("data:12345678901"), "CUT; ");
    expect_with(16, false, STR("data:123456789012"), "error -90");
    expect_with(16, false, STR("data:1\ndata\ndata:2"), "error -90");
}

/* Pieces that lie whole in a chunk are lent from it, not copied. */
static void test_no_copy(void **state)
{
    (void)state;
    SseParser parser;
    SsePiece piece;
    Str text = STR("event: e\ndata: a\n\n"), input = text;
    sse_init(&parser, 0);
    assert_int_equal(sse_next(&parser, &input, &piece), SSE_EVENT);
    assert_ptr_equal(piece.raw.ptr, text.ptr);
    assert_ptr_equal(piece.data.ptr, text.ptr + 15);
    assert_null(parser.held.ptr);
    sse_deinit(&parser);
}

static void expect_written(Str event, Str id, Str data, const char *want)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 1000);
    assert_int_equal(sse_add_event(&buf, event, id, data), 0);
    assert_string_equal(buf.ptr, want);
}

static void test_writing(void **state)
{
    (void)state;
    expect_written(STR(""), STR(""), STR("a"), "data: a\n\n");
    expect_written(STR("e"), STR("7"), STR("a"), "event: e\nid: 7\ndata: a\n\n");
    expect_written(STR(""), STR(""), STR(""), "data: \n\n");
    expect_written(STR(""), STR(""), STR("a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
    expect_written(STR(""), STR(""), STR("a\n"), "data: a\ndata: \n\n");
    expect_written(STR(""), STR(""), STR("\n\n"), "data: \ndata: \ndata: \n\n");
}

static void test_writing_refuses(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 20);
    assert_int_equal(sse_add_event(&buf, STR("a\nb"), STR(""), STR("x")), -EINVAL);
    assert_int_equal(sse_add_event(&buf, STR("a\rb"), STR(""), STR("x")), -EINVAL);
    assert_int_equal(sse_add_event(&buf, STR(""), STR("a\0b"), STR("x")), -EINVAL);
    assert_int_equal(buf.len, 0);
    assert_int_equal(sse_add_event(&buf, STR(""), STR(""), STR("12345678901234567890")), -ENOMEM);
}

static void test_comment(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf buf = { 0 };
    buf_init(&buf, 24);
    assert_true(sse_add_comment(&buf, STR("ping")));
    assert_true(sse_add_comment(&buf, STR("a\r\nb\nc")));
    assert_string_equal(buf.ptr, ": ping\n\n: a b c\n\n");
    assert_false(sse_add_comment(&buf, STR("no room left")));
}

/* What is written reads back. */
static void test_round_trip(void **state)
{
    (void)state;
    static const Str datas[] = { { "", 0 },   { "\n", 1 },    { "a\nb", 3 },
                                 { " a", 2 }, { "a\n\n", 3 }, { ":a", 2 } };
    for (size_t i = 0; i < ARRAY_N(datas); i++) {
        CLEANUP(buf_deinit) Buf buf = { 0 };
        SseParser parser;
        SsePiece piece;
        buf_init(&buf, 1000);
        sse_init(&parser, 0);
        assert_int_equal(sse_add_event(&buf, STR("n"), STR("i"), datas[i]), 0);
        Str input = buf_str(&buf);
        assert_int_equal(sse_next(&parser, &input, &piece), SSE_EVENT);
        assert_true(str_eq(piece.data, datas[i]) && str_eq(piece.event, STR("n")) &&
                    str_eq(piece.id, STR("i")));
        sse_deinit(&parser);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_line_ends),
        cmocka_unit_test(test_byte_order_mark),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_retry),
        cmocka_unit_test(test_comments),
        cmocka_unit_test(test_raw_of_cr),
        cmocka_unit_test(test_bare_cr_is_prompt),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_no_copy),
        cmocka_unit_test(test_writing),
        cmocka_unit_test(test_writing_refuses),
        cmocka_unit_test(test_comment),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
