#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/http1_answer.h"

#define HEAD_MAX 512

typedef struct {
    int taken;  /* http1_answer_take, the last one */
    int closed; /* http1_answer_close, 1: not called */
    size_t used;
    Http1Answer answer;
    Buf body;
} Took;

/* The bytes in pieces of step, then the end of the connection unless the message was complete. */
static Took take(const char *bytes, size_t step, bool head)
{
    Took t = { .closed = 1 };
    Str rest = str_of(bytes);
    buf_init(&t.body, 1 << 20);
    http1_answer_init(&t.answer, HEAD_MAX, head);
    while (t.taken == 0 && !t.answer.ended && !str_empty(rest)) {
        size_t used;
        Str piece = str_sub(rest, 0, step);
        t.taken = http1_answer_take(&t.answer, piece, &t.body, &used);
        if (t.taken == 0) {
            t.used += used;
            rest = str_skip(rest, used);
            assert_true(t.answer.ended || used == piece.len);
        }
    }
    if (t.taken == 0 && !t.answer.ended) t.closed = http1_answer_close(&t.answer);
    return t;
}

static void took_deinit(Took *t)
{
    http1_answer_deinit(&t->answer);
    buf_deinit(&t->body);
}

typedef struct {
    const char *bytes;
    int taken, closed;
    int status;
    const char *body;
    bool keep;
    size_t left; /* bytes behind the message */
} Want;

#define OK "HTTP/1.1 200 OK\r\n"

static const Want wants[] = {
    { OK "Content-Length: 5\r\n\r\nhello", 0, 1, 200, "hello", true, 0 },
    { OK "Content-Length: 5\r\n\r\nhelloHTTP", 0, 1, 200, "hello", true, 4 },
    { OK "Content-Length: 0\r\n\r\n", 0, 1, 200, "", true, 0 },
    { "HTTP/1.1 204 No Content\r\n\r\n", 0, 1, 204, "", true, 0 },
    { "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 0, 1, 304, "", true, 0 },
    { OK "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: r\r\n\r\n", 0, 1,
      200, "hello", true, 0 },
    { OK "Connection: close\r\nContent-Length: 5\r\n\r\nhello", 0, 1, 200, "hello", false, 0 },
    { OK "\r\nhello", 0, 0, 200, "hello", false, 0 },
    { "HTTP/1.0 200 OK\r\n\r\nhello", 0, 0, 200, "hello", false, 0 },
    { "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 0, 1, 200, "hello", false, 0 },
    { "HTTP/1.1 100 Continue\r\nX: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" OK
      "Content-Length: 2\r\n\r\nhi",
      0, 1, 200, "hi", true, 0 },
    { "HTTP/1.1 529 \r\nContent-Length: 0\r\n\r\n", 0, 1, 529, "", true, 0 },
    { "HTTP/1.1 199 X\r\nContent-Length: 5\r\n\r\n" OK "Content-Length: 2\r\n\r\nhi", 0, 1, 200,
      "hi", true, 0 },
    /* cut */
    { "", 0, -ECONNRESET, 0, "", false, 0 },
    { OK "Content-Le", 0, -ECONNRESET, 0, "", false, 0 },
    { "HTTP/1.1 100 Continue\r\n\r\n", 0, -ECONNRESET, 0, "", false, 0 },
    { OK "Content-Length: 9\r\n\r\nhello", 0, -ECONNRESET, 200, "hello", false, 0 },
    { OK "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 0, -ECONNRESET, 200, "hello", false,
      0 },
    { OK "Transfer-Encoding: chunked\r\n\r\n9\r\nhello", 0, -ECONNRESET, 200, "hello", false, 0 },
    /* not an answer, or one with two readings */
    { "hello, this is no HTTP\n", -EPROTO, 1, 0, "", false, 0 },
    { "HTTP/2.0 200 OK\r\n\r\n", -EPROTO, 1, 0, "", false, 0 },
    { "HTTP/1.1 700 x\r\nContent-Length: 2\r\n\r\n{}", -EPROTO, 1, 0, "", false, 0 },
    { "HTTP/1.1 099 x\r\nContent-Length: 2\r\n\r\n{}", -EPROTO, 1, 0, "", false, 0 },
    { OK "Content-Length: x9\r\n\r\nhello", -EPROTO, 1, 0, "", false, 0 },
    { OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", -EPROTO, 1, 0, "", false, 0 },
    { OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", -EPROTO, 1, 0, "", false, 0 },
    { OK "X: a\r\n folded\r\n\r\n", -EPROTO, 1, 0, "", false, 0 },
    { "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", -EPROTO, 1,
      0, "", false, 0 },
    { OK "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", -EPROTO, 1, 200, "hello", false,
      0 },
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(wants); i++) {
        const Want *want = &wants[i];
        for (size_t step = 1; step <= 64; step = step == 1 ? 7 : step == 7 ? 64 : 65) {
            diag_clear();
            CLEANUP(took_deinit) Took t = take(want->bytes, step, false);
            if (t.taken != want->taken || t.closed != want->closed)
                print_error("for %s in steps of %zu: %s\n", want->bytes, step, diag_text());
            assert_int_equal(t.taken, want->taken);
            assert_int_equal(t.closed, want->closed);
            assert_int_equal(t.answer.head_done ? t.answer.status : 0, want->status);
            assert_true(str_eq(buf_str(&t.body), str_of(want->body)));
            assert_int_equal(t.answer.ended, want->taken == 0 && want->closed >= 0);
            if (t.taken < 0 || t.closed < 0) assert_true(diag_text()[0] != '\0');
            else assert_int_equal(t.answer.keep, want->keep);
            if (t.answer.ended) assert_int_equal(strlen(want->bytes) - t.used, want->left);
        }
    }
}

static void test_fields(void **state)
{
    (void)state;
    const char *bytes = "HTTP/1.1 103 Early\r\nX-Early: 1\r\n\r\n" OK
                        "X-One: a\r\nx-one:  b \r\nX-Empty:\r\nContent-Length: 0\r\n\r\n";
    for (size_t step = 1; step < 100; step += 13) {
        CLEANUP(took_deinit) Took t = take(bytes, step, false);
        assert_int_equal(t.answer.fields_n, 4);
        assert_true(str_eq(http1_answer_field(&t.answer, STR("X-ONE")), STR("a")));
        assert_true(str_eq(t.answer.fields[1].name, STR("x-one")));
        assert_true(str_eq(t.answer.fields[1].value, STR("b")));
        assert_true(str_empty(http1_answer_field(&t.answer, STR("X-Empty"))));
        assert_true(str_empty(http1_answer_field(&t.answer, STR("X-Early"))));
    }
}

static void test_head_request(void **state)
{
    (void)state;
    CLEANUP(took_deinit) Took t = take(OK "Content-Length: 5\r\n\r\n", 100, true);
    assert_true(t.answer.ended && t.answer.keep);
}

/* Heads, trailers and empty answers before the answer have one limit. */
static void test_limits(void **state)
{
    (void)state;
    char big[4096];
    const char *const begins[] = { OK "X: ", "HTTP/1.1 103 Early\r\nX: ",
                                   OK "Transfer-Encoding: chunked\r\n\r\n0\r\nT: " };
    for (size_t i = 0; i < ARRAY_N(begins); i++) {
        snprintf(big, sizeof big, "%s%0*d\r\n\r\n", begins[i], HEAD_MAX, 0);
        CLEANUP(took_deinit) Took t = take(big, 16, false);
        assert_int_equal(t.taken, -EPROTO);
    }
    snprintf(big, sizeof big, OK "X: %0*d\r\nContent-Length: 0\r\n\r\n", HEAD_MAX - 60, 0);
    CLEANUP(took_deinit) Took t = take(big, 16, false);
    assert_int_equal(t.taken, 0);
    assert_true(t.answer.ended);
}

static void test_many_fields(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf bytes;
    buf_init(&bytes, 1 << 20);
    (void)buf_add(&bytes, STR(OK));
    for (int i = 0; i < HTTP1_ANSWER_FIELDS_MAX + 2; i++) (void)buf_add(&bytes, STR("a:b\r\n"));
    Http1Answer answer;
    size_t used;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 16);
    http1_answer_init(&answer, 1 << 20, false);
    assert_int_equal(http1_answer_take(&answer, buf_str(&bytes), &body, &used), -EPROTO);
    http1_answer_deinit(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_head_request), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_many_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
