/* What goes out: answers of the HTTP server, whole and streamed, to clients of every kind. */
#include "http_fixture.h"

#include <pthread.h>
#include <stdio.h>

#define HOST "Host: h\r\n"

static int stream(HttpReq *req, int pieces)
{
    int r = http_reply_start_wait(req, 200, "text/event-stream");
    for (int i = 0; i < pieces && r == 0; i++) {
        char piece[16];
        snprintf(piece, sizeof piece, "<%d>", i);
        r = http_write_wait(req, str_of(piece));
        if (r == 0) r = http_write_wait(req, STR_NULL); /* must not end it */
    }
    return r;
}

/* Writes until the client takes no more; counts what was taken. */
static int flood(HttpReq *req, Fixture *fx, size_t total)
{
    static char bytes[100000];
    int r = http_reply_start_wait(req, 200, NULL);
    while (r == 0 && atomic_load(&fx->written) < total) {
        r = http_write_wait(req, str_make(bytes, sizeof bytes));
        if (r == 0) atomic_fetch_add(&fx->written, sizeof bytes);
    }
    int again = r ? http_write_wait(req, STR("x")) : 0;
    assert(again == r); /* a broken answer stays broken */
    if (r == 0) r = http_end_wait(req);
    atomic_store(&fx->result, r);
    return 0;
}

static int fields(HttpReq *req)
{
    bool found, none;
    Str a = http_query(req, "a", &found), b = http_query(req, "b", &none);
    char value[16];
    if (!found || none || b.len > 0) return -EINVAL;
    http_header_add(req, "X-Query", a);
    http_header_add(req, "X-Token", http_header(req, "x-token"));
    http_header_add(req, "X-Missing", http_header(req, "nothing"));
    for (int i = 3; i < 32; i++) {
        snprintf(value, sizeof value, "%d", i);
        http_header_add(req, "X-Many", str_of(value));
    }
    return http_reply_wait(req, 201, "text/plain", STR("made"));
}

static int large_field(HttpReq *req)
{
    Str value = arena_printf(&req->arena, "%020000d", 0);
    http_header_add(req, "X-First", value);
    http_header_add(req, "X-Second", value); /* beyond what there is room for */
    http_header_add(req, "X-Third", STR("3"));
    http_header_add(req, "X-Request-Id", STR("of-another")); /* instead of the server's */
    return http_reply_wait(req, 200, NULL, STR(""));
}

static int gone(HttpReq *req, Fixture *fx)
{
    assert(!http_gone(req));
    atomic_store(&fx->entered, true);
    int r = http_gone_wait(req, deadline_after(CLIENT_LIMIT_MS));
    if (!http_gone(req)) r = -EINVAL;
    atomic_store(&fx->result, r);
    return 0;
}

static int large(HttpReq *req)
{
    Buf text;
    buf_init(&text, 4 << 20);
    for (int i = 0; i < 300000; i++) buf_printf(&text, "%08d\n", i);
    int r = http_reply_wait(req, 200, NULL, buf_str(&text));
    buf_deinit(&text);
    return r;
}

static void *send_ready(void *arg)
{
    http_reply_send(arg);
    return NULL;
}

/* Made, and sent by another thread if that is said; another one is made and dropped before. */
static int ready(HttpReq *req, size_t bytes, bool elsewhere)
{
    HttpReady answer;
    pthread_t thread;
    char *body = arena_alloc(&req->arena, bytes);
    memset(body, 'x', bytes);
    http_header_add(req, "X-Dropped", STR("1"));
    http_reply_make(req, 500, "text/html", STR("dropped"), &answer);
    http_reply_drop(req);
    http_header_add(req, "X-Kept", STR("1"));
    http_reply_make(req, 200, "text/plain", str_make(body, bytes), &answer);
    bool sends = elsewhere && pthread_create(&thread, NULL, send_ready, &answer) == 0;
    if (sends) pthread_join(thread, NULL);
    bool small = answer.body.len < 1000;
    if (answer.sent != (sends && small ? answer.head.len + answer.body.len : 0)) return -EINVAL;
    return http_reply_rest_wait(req, &answer);
}

static int handle(HttpReq *req, void *ctx)
{
    Fixture *fx = ctx;
    if (str_eq(req->path, STR("/ready"))) return ready(req, 5, false);
    if (str_eq(req->path, STR("/ready-elsewhere"))) return ready(req, 5, true);
    if (str_eq(req->path, STR("/ready-large"))) return ready(req, 100000, true);
    if (str_eq(req->path, STR("/hello")))
        return http_reply_wait(req, 200, "text/plain", STR("hello"));
    if (str_eq(req->path, STR("/empty"))) return http_reply_wait(req, 200, NULL, STR_NULL);
    if (str_eq(req->path, STR("/204"))) return http_reply_wait(req, 204, NULL, STR_NULL);
    if (str_eq(req->path, STR("/304"))) return http_reply_wait(req, 304, NULL, STR("not sent"));
    if (str_eq(req->path, STR("/fields"))) return fields(req);
    if (str_eq(req->path, STR("/large-field"))) return large_field(req);
    if (str_eq(req->path, STR("/large"))) return large(req);
    if (str_eq(req->path, STR("/flood"))) return flood(req, fx, SIZE_MAX);
    if (str_eq(req->path, STR("/flood20"))) return flood(req, fx, 20000000);
    if (str_eq(req->path, STR("/gone"))) return gone(req, fx);
    if (str_eq(req->path, STR("/nothing"))) return 0;
    if (str_eq(req->path, STR("/fail"))) return -EIO;
    if (str_eq(req->path, STR("/half"))) return stream(req, 2);
    if (str_eq(req->path, STR("/half-fail"))) return stream(req, 2) == 0 ? -EIO : 0;
    if (str_eq(req->path, STR("/problem")))
        return http_problem_wait(req, 404, "agent_not_found", "no agent \"%s\"\n\x01", "a\xff");
    if (str_eq(req->path, STR("/close"))) http_close_after(req);
    int r = stream(req, 3);
    return r == 0 ? http_end_wait(req) : r;
}

static void test_whole(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    char id[37] = "";
    for (int i = 0; i < 2; i++) {
        client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "X-Request-Id: mine\r\n\r\n"));
        answer_read(&a, fd, false);
        assert_true(str_starts_with(a.head, STR("HTTP/1.1 200 OK\r\n")));
        assert_str_equal(answer_field(&a, "Content-Type"), STR("text/plain"));
        assert_str_equal(answer_field(&a, "Content-Length"), STR("5"));
        assert_str_equal(answer_body(&a), STR("hello"));
        Str given = answer_field(&a, "x-request-id");
        assert_int_equal(given.len, 36);
        assert_false(str_eq(given, str_of(id))); /* each its own */
        str_copy(id, sizeof id, given);
    }
    fixture_stop(&fx);
}

/* An answer that is made first is as any other, whoever sends it. */
static void test_ready(void **state)
{
    (void)state;
    static const char *const targets[] = { "ready", "ready-elsewhere", "ready-large" };
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    for (int i = 0; i < 6; i++) {
        char request[100];
        snprintf(request, sizeof request, "%s /%s HTTP/1.1\r\n" HOST "\r\n", i < 3 ? "GET" : "HEAD",
                 targets[i % 3]);
        client_send(fd, str_of(request));
        client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
        answer_read(&a, fd, i >= 3);
        assert_int_equal(a.status, 200);
        assert_str_equal(answer_field(&a, "Content-Type"), STR("text/plain"));
        assert_str_equal(answer_field(&a, "Content-Length"), i % 3 == 2 ? STR("100000") : STR("5"));
        assert_str_equal(answer_field(&a, "X-Kept"), STR("1"));
        assert_int_equal(answer_field(&a, "X-Dropped").len, 0);
        assert_int_equal(a.body_len, i >= 3 ? 0 : i == 2 ? 100000 : 5);
        answer_read(&a, fd, false);
        assert_str_equal(answer_body(&a), STR("hello"));
    }
    fixture_stop(&fx);
}

static void test_without_body(void **state)
{
    (void)state;
    static const struct {
        const char *request, *length;
        int status;
    } cases[] = {
        { "GET /empty HTTP/1.1\r\n" HOST "\r\n", "0", 200 },
        { "GET /204 HTTP/1.1\r\n" HOST "\r\n", "", 204 },
        { "GET /304 HTTP/1.1\r\n" HOST "\r\n", "", 304 },
        { "HEAD /hello HTTP/1.1\r\n" HOST "\r\n", "5", 200 },
        { "HEAD /stream HTTP/1.1\r\n" HOST "\r\n", "", 200 },
    };
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        client_send(fd, str_of(cases[i].request));
        client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
        answer_read(&a, fd, cases[i].request[0] == 'H');
        assert_int_equal(a.status, cases[i].status);
        assert_str_equal(answer_field(&a, "Content-Length"), str_of(cases[i].length));
        answer_read(&a, fd, false); /* nothing stands between the two */
        assert_str_equal(answer_body(&a), STR("hello"));
    }
    fixture_stop(&fx);
}

static void test_streamed(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    for (int i = 0; i < 2; i++) {
        client_send(fd, STR("GET /stream HTTP/1.1\r\n" HOST "\r\n"));
        answer_read(&a, fd, false);
        assert_true(a.complete);
        assert_str_equal(answer_field(&a, "Transfer-Encoding"), STR("chunked"));
        assert_str_equal(answer_body(&a), STR("<0><1><2>"));
    }
    fixture_stop(&fx);
}

static void test_streamed_to_1_0(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    client_ask(&fx, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &a);
    assert_str_equal(answer_field(&a, "Transfer-Encoding"), STR(""));
    assert_str_equal(answer_field(&a, "Connection"), STR("close"));
    assert_str_equal(answer_body(&a), STR("<0><1><2>"));
    fixture_stop(&fx);
}

static void test_close_after(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /close HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(&a, fd, false);
    assert_true(a.complete);
    assert_str_equal(answer_field(&a, "Connection"), STR("close"));
    assert_true(client_closed(fd));
    fixture_stop(&fx);
}

static void test_fields(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /fields?a=x+%C3%A4&b=%zz HTTP/1.1\r\n" HOST "X-TOKEN:  t \r\n\r\n"));
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 201);
    assert_str_equal(answer_field(&a, "X-Query"), STR("x \xc3\xa4"));
    assert_str_equal(answer_field(&a, "X-Token"), STR("t"));
    assert_true(str_find(a.head, STR("X-Missing: \r\n")) > 0);
    assert_true(str_find(a.head, STR("X-Many: 3\r\nX-Many: 4\r\n")) > 0);
    assert_true(str_find(a.head, STR("X-Many: 31\r\n")) > 0);
    client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(&a, fd, false);
    assert_true(str_find(a.head, STR("X-")) < 0); /* not those of the answer before */
    fixture_stop(&fx);
}

static void test_fields_too_large(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    client_ask(&fx, "GET /large-field HTTP/1.1\r\n" HOST "\r\n", &a);
    assert_int_equal(a.status, 200);
    assert_int_equal(answer_field(&a, "X-First").len, 20000);
    assert_str_equal(answer_field(&a, "X-Second"), STR(""));
    assert_str_equal(answer_field(&a, "X-Third"), STR("3"));
    assert_str_equal(answer_field(&a, "x-request-id"), STR("of-another"));
    fixture_stop(&fx);
}

static void test_problem(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    client_ask(&fx, "GET /problem HTTP/1.1\r\n" HOST "\r\n", &a);
    assert_int_equal(a.status, 404);
    assert_str_equal(answer_field(&a, "Content-Type"), STR("application/problem+json"));
    char want[512];
    snprintf(want, sizeof want,
             "{\"type\":\"about:blank\",\"title\":\"Not Found\",\"status\":404,"
             "\"detail\":\"no agent \\\"a\xef\xbf\xbd\\\"\\n\\u0001\",\"code\":\"agent_not_found\","
             "\"requestId\":\"%.*s\"}",
             STR_ARG(answer_field(&a, "x-request-id")));
    assert_str_equal(answer_body(&a), str_of(want));
    fixture_stop(&fx);
}

/* A handler that answers nothing is answered for; one that stops in the middle is cut. */
static void test_undone(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    for (int i = 0; i < 2; i++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        client_send(fd, i ? STR("GET /fail HTTP/1.1\r\n" HOST "\r\n")
                          : STR("GET /nothing HTTP/1.1\r\n" HOST "\r\n"));
        client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 500);
        assert_true(str_find(answer_body(&a), STR("\"code\":\"internal_error\"")) > 0);
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 200);
    }
    for (int i = 0; i < 2; i++) {
        ANSWER a = { 0 };
        CLIENT fd = client_open(&fx);
        client_send(fd, i ? STR("GET /half HTTP/1.1\r\n" HOST "\r\n")
                          : STR("GET /half-fail HTTP/1.1\r\n" HOST "\r\n"));
        client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
        answer_read(&a, fd, false);
        assert_int_equal(a.status, 200);
        assert_str_equal(answer_body(&a), STR("<0><1>"));
        assert_false(a.complete);
        assert_int_equal(answer_rest(&a).len, 0);
    }
    fixture_stop(&fx);
}

static void error_body(HttpReq *req, int status, const char *detail, Buf *body,
                       const char **content_type, void *ctx)
{
    (void)ctx;
    *content_type = "text/plain";
    buf_printf(body, "%d %s %.*s", status, detail, STR_ARG(req->path));
}

static void test_error_body(void **state)
{
    (void)state;
    Fixture fx = { .options.error_body = error_body };
    fixture_start(&fx, handle);
    ANSWER a = { 0 }, b = { 0 };
    client_ask(&fx, "GET / HTTP/1.1\r\n\r\n", &a);
    assert_int_equal(a.status, 400);
    assert_str_equal(answer_field(&a, "Content-Type"), STR("text/plain"));
    assert_str_equal(answer_body(&a), STR("400 Host is missing "));
    client_ask(&fx, "GET /fail HTTP/1.1\r\n" HOST "\r\n", &b);
    assert_str_equal(answer_body(&b), STR("500 the request could not be handled /fail"));
    fixture_stop(&fx);
}

static void test_large(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    client_ask(&fx, "GET /large HTTP/1.1\r\n" HOST "\r\n", &a);
    assert_true(a.complete);
    assert_int_equal(a.body_len, 2700000);
    for (int i = 0; i < 300000; i += 997) {
        char want[16];
        snprintf(want, sizeof want, "%08d\n", i);
        assert_memory_equal(a.bytes.ptr + a.used - 2700000 + i * 9, want, 9);
    }
    fixture_stop(&fx);
}

/* Waits until the handler has written no more for a while; returns how much it has. */
static size_t written_settle(Fixture *fx)
{
    size_t before = 0, now;
    for (int still = 0; still < 20;) {
        usleep(10000);
        now = atomic_load(&fx->written);
        still = now == before && now > 0 ? still + 1 : 0;
        before = now;
    }
    return before;
}

/* A client that does not read holds its handler back; nothing is piled up for it beyond the
 * sockets. */
static void test_back_pressure(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /flood20 HTTP/1.1\r\n" HOST "\r\n"));
    size_t held = written_settle(&fx);
    assert_in_range(held, 1, 19000000);
    assert_int_equal(atomic_load(&fx.result), RESULT_NONE);
    answer_read(&a, fd, false);
    assert_true(a.complete);
    assert_int_equal(a.body_len, 20000000);
    assert_int_equal(fixture_result(&fx), 0);
    assert_int_equal(fixture_stats(&fx).write_stalls, 0);
    fixture_stop(&fx);
}

static void test_write_stall(void **state)
{
    (void)state;
    Fixture fx = { .options.write_timeout_ms = 150 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /flood HTTP/1.1\r\n" HOST "\r\n"));
    assert_int_equal(fixture_result(&fx), -ETIMEDOUT);
    assert_int_equal(fixture_stats(&fx).write_stalls, 1);
    fixture_stop(&fx);
}

static void test_client_leaves(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    int fd = client_open(&fx);
    char some[1000];
    client_send(fd, STR("GET /flood HTTP/1.1\r\n" HOST "\r\n"));
    assert_true(client_read(fd, some, sizeof some, CLIENT_LIMIT_MS) > 0);
    close(fd);
    assert_int_equal(fixture_result(&fx), HTTP_E_GONE);
    fixture_stop(&fx);
}

static void test_gone(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    int fd = client_open(&fx);
    client_send(fd, STR("GET /gone HTTP/1.1\r\n" HOST "\r\n"));
    for (int i = 0; i < 1000 && !atomic_load(&fx.entered); i++) usleep(10000);
    close(fd);
    assert_int_equal(fixture_result(&fx), 0);
    fixture_stop(&fx);
}

static void test_status_text(void **state)
{
    (void)state;
    assert_string_equal(http_status_text(404), "Not Found");
    assert_string_equal(http_status_text(299), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),           cmocka_unit_test(test_ready),
        cmocka_unit_test(test_without_body),    cmocka_unit_test(test_streamed),
        cmocka_unit_test(test_streamed_to_1_0), cmocka_unit_test(test_close_after),
        cmocka_unit_test(test_fields),          cmocka_unit_test(test_fields_too_large),
        cmocka_unit_test(test_problem),         cmocka_unit_test(test_undone),
        cmocka_unit_test(test_error_body),      cmocka_unit_test(test_large),
        cmocka_unit_test(test_back_pressure),   cmocka_unit_test(test_write_stall),
        cmocka_unit_test(test_client_leaves),   cmocka_unit_test(test_gone),
        cmocka_unit_test(test_status_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
