/* What comes in: requests, bodies, limits and timeouts of the HTTP server. */
#include "http_fixture.h"

#include <stdio.h>

#define HOST "Host: h\r\n"

static int handle(HttpReq *req, void *ctx)
{
    Fixture *fx = ctx;
    Str body;
    int r;
    if (str_eq(req->path, STR("/skip"))) return http_reply_wait(req, 200, NULL, STR("skipped"));
    if (str_eq(req->path, STR("/late"))) {
        r = http_reply_start_wait(req, 200, NULL);
        if (r == 0) r = http_body_wait(req, 0, &body);
        if (r == 0) r = http_write_wait(req, body);
        return r == 0 ? http_end_wait(req) : r;
    }
    r = http_body_wait(req, str_eq(req->path, STR("/small")) ? 10 : 0, &body);
    atomic_store(&fx->result, r);
    if (r != 0) return r;
    Str text = arena_printf(&req->arena, "%.*s %.*s?%.*s %.*s", STR_ARG(req->method),
                            STR_ARG(req->path), STR_ARG(req->query), STR_ARG(body));
    return http_reply_wait(req, 200, "text/plain", text);
}

static void test_request(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    client_ask(&fx, "GET /a/b?c=d HTTP/1.1\r\n" HOST "\r\n", &a);
    assert_int_equal(a.status, 200);
    assert_true(a.complete);
    assert_str_equal(answer_body(&a), STR("GET /a/b?c=d "));
    assert_int_equal(fixture_stats(&fx).requests, 1);
    fixture_stop(&fx);
}

static void test_keep_alive(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    for (int i = 0; i < 5; i++) {
        client_send(fd, STR("POST /x HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nhi"));
        answer_read(&a, fd, false);
        assert_str_equal(answer_body(&a), STR("POST /x? hi"));
        assert_true(str_empty(answer_field(&a, "Connection")));
    }
    client_send(fd, STR("GET /y HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"));
    answer_read(&a, fd, false);
    assert_str_equal(answer_field(&a, "Connection"), STR("close"));
    assert_true(client_closed(fd));
    assert_int_equal(fixture_stats(&fx).connections, 1);
    assert_int_equal(fixture_stats(&fx).requests, 6);
    fixture_stop(&fx);
}

static void test_keep_alive_1_0(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    answer_read(&a, fd, false);
    assert_str_equal(answer_field(&a, "Connection"), STR("keep-alive"));
    client_send(fd, STR("GET /y HTTP/1.0\r\n\r\n"));
    answer_read(&a, fd, false);
    assert_str_equal(answer_field(&a, "Connection"), STR("close"));
    assert_true(client_closed(fd));
    fixture_stop(&fx);
}

/* Many requests in one write, then the same a few bytes at a time: the answers come in order. */
static void test_pipelining(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    CLEANUP(buf_deinit) Buf all = { 0 };
    buf_init(&all, 1 << 20);
    for (int i = 0; i < 1000; i++) {
        buf_printf(&all, "POST /%d HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n", i);
        buf_printf(&all, "1\r\nx\r\n2;e=f\r\nyz\r\n0\r\nT: v\r\n\r\n");
    }
    for (size_t step = 1 << 20; step > 0; step = step > 7 ? 7 : 0) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        size_t limit = step == 7 ? all.len / 20 : all.len;
        for (size_t at = 0; at < limit; at += step)
            client_send(fd, str_sub(buf_str(&all), at, step));
        for (int i = 0; i < (step == 7 ? 50 : 1000); i++) {
            char want[64];
            snprintf(want, sizeof want, "POST /%d? xyz", i);
            answer_read(&a, fd, false);
            assert_str_equal(answer_body(&a), str_of(want));
        }
    }
    fixture_stop(&fx);
}

static void test_large_bodies(void **state)
{
    (void)state;
    Fixture fx = { .options.body_bytes_max = 3 << 20 };
    CLEANUP(buf_deinit) Buf body = { 0 };
    fixture_start(&fx, handle);
    buf_init(&body, 4 << 20);
    for (int i = 0; i < 300000; i++) buf_printf(&body, "%08d\n", i);
    for (int chunked = 0; chunked < 2; chunked++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        char head[128];
        snprintf(head, sizeof head, "POST / HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n",
                 body.len);
        client_send(fd, chunked
                            ? STR("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n")
                            : str_of(head));
        for (size_t at = 0; at < body.len; at += 100000) {
            Str part = str_sub(buf_str(&body), at, 100000);
            snprintf(head, sizeof head, "%zx\r\n", part.len);
            if (chunked) client_send(fd, str_of(head));
            client_send(fd, part);
            if (chunked) client_send(fd, STR("\r\n"));
        }
        if (chunked) client_send(fd, STR("0\r\n\r\n"));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 200);
        assert_int_equal(a.body_len, body.len + strlen("POST /? "));
        Str echo = str_sub(buf_str(&a.bytes), a.used - body.len, body.len);
        assert_true(str_eq(echo, buf_str(&body)));
    }
    fixture_stop(&fx);
}

/* What the parser refuses (the vectors are in test_http1.c) is answered, counted, and ends the
 * connection, pipelined requests behind it included. */
static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        { "GET / HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "POST / HTTP/1.1\r\n" HOST
          "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n" HOST
          "\r\n",
          400 },
        { "GET  / HTTP/1.1\r\n" HOST "\r\n", 400 },
        { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400 },
        { "\x16\x03\x01\x02\x01\x01", 400 },
        { "POST / HTTP/1.1\r\n" HOST "Expect: tea\r\nContent-Length: 1\r\n\r\nx", 417 },
        { "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nx\r\n", 400 },
        { "POST / HTTP/1.1\r\n" HOST
          "Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n",
          400 },
    };
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        client_send(fd, str_of(cases[i].request));
        answer_read(&a, fd, false);
        if (a.status != cases[i].status) print_error("%s", cases[i].request);
        assert_int_equal(a.status, cases[i].status);
        assert_str_equal(answer_field(&a, "Connection"), STR("close"));
        assert_str_equal(answer_field(&a, "Content-Type"), STR("application/problem+json"));
        assert_int_equal(answer_rest(&a).len, 0);
        assert_true(client_closed(fd));
        assert_int_equal(fixture_stats(&fx).bad_requests, i + 1);
    }
    fixture_stop(&fx);
}

static void test_head_limits(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        { "GET /12345678901 HTTP/1.1\r\n" HOST "\r\n", 414 },
        { "GET / HTTP/1.1\r\n" HOST "A: 1\r\nB: 2\r\nC: 3\r\n\r\n", 431 },
        { "GET / HTTP/1.1\r\n" HOST
          "A: 123456789012345678901234567890123456789012345678901234567890\r\n\r\n",
          431 },
    };
    Fixture fx = { .options.limits = {
                       .head_bytes_max = 80, .fields_max = 3, .target_bytes_max = 11 } };
    fixture_start(&fx, handle);
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        ANSWER a = { 0 };
        client_ask(&fx, cases[i].request, &a);
        assert_int_equal(a.status, cases[i].status);
        assert_int_equal(fixture_stats(&fx).headers_too_large, i + 1);
    }
    ANSWER a = { 0 };
    client_ask(&fx, "GET /1234567890 HTTP/1.1\r\n" HOST "A: 1\r\nB: 2\r\n\r\n", &a);
    assert_int_equal(a.status, 200);
    fixture_stop(&fx);
}

/* A body of the limit passes, a byte more is 413: announced or not, by the server's or the
 * handler's. */
static void test_body_limits(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 20\r\n\r\n12345678901234567890", 200 },
        { "POST / HTTP/1.1\r\n" HOST "Content-Length: 21\r\n\r\n123456789012345678901", 413 },
        { "POST / HTTP/1.1\r\n" HOST
          "Transfer-Encoding: chunked\r\n\r\n14\r\n12345678901234567890\r\n0\r\n\r\n",
          200 },
        { "POST / HTTP/1.1\r\n" HOST
          "Transfer-Encoding: chunked\r\n\r\n14\r\n12345678901234567890\r\n1\r\nx\r\n0\r\n\r\n",
          413 },
        { "POST /small HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\n1234567890", 200 },
        { "POST /small HTTP/1.1\r\n" HOST "Content-Length: 11\r\n\r\n12345678901", 413 },
        { "POST /small HTTP/1.1\r\n" HOST
          "Transfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n",
          413 },
    };
    Fixture fx = { .options.body_bytes_max = 20 };
    uint64_t refused = 0;
    fixture_start(&fx, handle);
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        client_send(fd, str_of(cases[i].request));
        client_send(fd, STR("GET /next HTTP/1.1\r\n" HOST "\r\n"));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, cases[i].status);
        refused += a.status == 413;
        assert_int_equal(fixture_stats(&fx).body_too_large, refused);
        answer_read(&a, fd, false); /* what was not read is skipped, and the connection goes on */
        assert_str_equal(answer_body(&a), STR("GET /next? "));
    }
    fixture_stop(&fx);
}

static void test_request_memory(void **state)
{
    (void)state;
    Fixture fx = { .options = { .request_memory_max = 100000, .limits.head_bytes_max = 1000 } };
    ANSWER a = { 0 };
    CLEANUP(buf_deinit) Buf request = { 0 };
    fixture_start(&fx, handle);
    buf_init(&request, 1 << 20);
    buf_printf(&request, "POST / HTTP/1.1\r\n" HOST "Content-Length: 150000\r\n\r\n%0150000d", 1);
    client_ask(&fx, request.ptr, &a);
    assert_int_equal(a.status, 500);
    assert_int_equal(fixture_result(&fx), -ENOMEM);
    fixture_stop(&fx);
}

/* Bodies that no handler read: small ones are skipped, large ones end the connection, and the
 * answer still arrives whole. */
static void test_unread_body(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    CLEANUP(buf_deinit) Buf request = { 0 };
    buf_init(&request, 4 << 20);
    for (int large = 0; large < 2; large++) {
        int bytes = large ? 2000000 : 200000;
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        buf_clear(&request);
        buf_printf(&request, "POST /skip HTTP/1.1\r\n" HOST "Content-Length: %d\r\n\r\n%0*d", bytes,
                   bytes, 1);
        buf_printf(&request, "GET /next HTTP/1.1\r\n" HOST "\r\n");
        client_send(fd, buf_str(&request));
        answer_read(&a, fd, false);
        assert_str_equal(answer_body(&a), STR("skipped"));
        assert_str_equal(answer_field(&a, "Connection"), large ? STR("close") : STR(""));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, large ? 0 : 200);
    }
    fixture_stop(&fx);
}

static void test_continue(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    for (int i = 0; i < 2; i++) {
        client_send(fd, STR("POST /x HTTP/1.1\r\n" HOST
                            "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 100);
        client_send(fd, STR("hi"));
        answer_read(&a, fd, false);
        assert_str_equal(answer_body(&a), STR("POST /x? hi"));
    }
    client_send(
        fd, STR("POST /y HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi"));
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 200); /* the body was there: nothing to ask for */
    fixture_stop(&fx);
}

/* A client that was not told to go on may send the body or not: that connection cannot be used
 * again. */
static void test_no_continue(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        int status;
    } cases[] = {
        { "POST /skip HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", 200 },
        { "POST /small HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 11\r\n\r\n",
          413 },
    };
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        client_send(fd, str_of(cases[i].request));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, cases[i].status);
        assert_str_equal(answer_field(&a, "Connection"), STR("close"));
        assert_true(client_closed(fd));
    }
    fixture_stop(&fx);
}

static void test_body_read_late(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    client_ask(&fx, "POST /late HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nlate", &a);
    assert_true(a.complete);
    assert_str_equal(answer_body(&a), STR("late"));
    fixture_stop(&fx);
}

/* Sends a byte every few milliseconds, for as long as the server takes it. */
static void dribble(int fd, Str bytes)
{
    char c;
    for (size_t i = 0; i < bytes.len; i++) {
        if (recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) >= 0) return; /* answered, or closed */
        client_send(fd, str_sub(bytes, i, 1));
        usleep(10000);
    }
}

static Fixture quick(void)
{
    return (Fixture){
        .options = { .header_timeout_ms = 150, .body_timeout_ms = 150, .idle_timeout_ms = 150 }
    };
}

/* Bytes that came at once do not buy time for the others. */
static void test_body_total(void **state)
{
    (void)state;
    Fixture fx = { .options = { .body_total_ms = 300 } };
    ANSWER a = { 0 };
    static const char bytes[50000] = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("POST /x HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n"));
    client_send(fd, str_make(bytes, sizeof bytes));
    dribble(fd, str_make(bytes, 2000));
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 408);
    assert_int_equal(fixture_stats(&fx).timeouts, 1);
    fixture_stop(&fx);
}

static void test_header_timeout(void **state)
{
    (void)state;
    Fixture fx = quick();
    fixture_start(&fx, handle);
    for (int slow = 0; slow < 2; slow++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        client_send(fd, STR("GET / HTTP/1.1\r\nHo"));
        if (slow)
            dribble(fd,
                    STR("st: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 408);
        assert_true(client_closed(fd));
        assert_int_equal(fixture_stats(&fx).timeouts, slow + 1);
    }
    fixture_stop(&fx);
}

/* Later heads have their time from their first byte. */
static void test_header_timeout_later(void **state)
{
    (void)state;
    Fixture fx = { .options = { .header_timeout_ms = 150 } };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET / HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(&a, fd, false);
    usleep(300000);
    client_send(fd, STR("GET /2 HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 200);
    client_send(fd, STR("GET /3 HTTP/1.1\r\n"));
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 408);
    fixture_stop(&fx);
}

static void test_idle_timeout(void **state)
{
    (void)state;
    Fixture fx = quick();
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT silent = client_open(&fx);
    assert_true(client_closed(silent));
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET / HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 200);
    assert_true(client_closed(fd));
    assert_int_equal(fixture_stats(&fx).timeouts, 0);
    fixture_stop(&fx);
}

static void test_body_timeout(void **state)
{
    (void)state;
    static const char *const heads[] = {
        "POST / HTTP/1.1\r\n" HOST "Content-Length: 1000\r\n\r\nx",
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3e8\r\nx",
    };
    Fixture fx = quick();
    uint64_t timeouts = 0;
    fixture_start(&fx, handle);
    for (size_t i = 0; i < 2 * ARRAY_N(heads); i++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        char bytes[500];
        memset(bytes, 'x', sizeof bytes);
        client_send(fd, str_of(heads[i / 2]));
        if (i % 2) dribble(fd, str_make(bytes, sizeof bytes)); /* progress, but too slow */
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 408);
        assert_int_equal(fixture_result(&fx), -ETIMEDOUT);
        assert_true(client_closed(fd));
        assert_int_equal(fixture_stats(&fx).timeouts, ++timeouts);
    }
    fixture_stop(&fx);
}

static void test_client_leaves_in_body(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    int fd = client_open(&fx);
    client_send(fd, STR("POST / HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\nhal"));
    close(fd);
    assert_int_equal(fixture_result(&fx), HTTP_E_GONE);
    fixture_stop(&fx);
}

/* A client may close its side when it has asked, and still read the answer. */
static void test_half_close(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n"));
    shutdown(fd, SHUT_WR);
    answer_read(&a, fd, false);
    assert_str_equal(answer_body(&a), STR("GET /1? "));
    answer_read(&a, fd, false);
    assert_str_equal(answer_body(&a), STR("GET /2? "));
    assert_true(client_closed(fd));
    fixture_stop(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_keep_alive_1_0),
        cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_large_bodies),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_head_limits),
        cmocka_unit_test(test_body_limits),
        cmocka_unit_test(test_request_memory),
        cmocka_unit_test(test_unread_body),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_no_continue),
        cmocka_unit_test(test_body_read_late),
        cmocka_unit_test(test_body_total),
        cmocka_unit_test(test_header_timeout),
        cmocka_unit_test(test_header_timeout_later),
        cmocka_unit_test(test_idle_timeout),
        cmocka_unit_test(test_body_timeout),
        cmocka_unit_test(test_client_leaves_in_body),
        cmocka_unit_test(test_half_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
