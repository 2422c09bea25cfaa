/* The life of the HTTP server: opening, counting, too many connections, draining, closing. */
#include "http_fixture.h"

#include "base/diag.h"

#define HOST "Host: h\r\n"

/* /wait answers once the test lets it; /stuck never does. */
static int handle(HttpReq *req, void *ctx)
{
    Fixture *fx = ctx;
    int r = 0;
    if (str_eq(req->path, STR("/hello"))) return http_reply_wait(req, 200, NULL, STR("hello"));
    atomic_store(&fx->entered, true);
    bool stuck = str_eq(req->path, STR("/stuck"));
    while (r == 0 && (stuck || !atomic_load(&fx->release))) r = fiber_sleep_wait(5);
    atomic_store(&fx->result, r);
    return r == 0 ? http_reply_wait(req, 200, NULL, STR("waited")) : r;
}

static void wait_entered(Fixture *fx)
{
    for (int i = 0; i < 2000 && !atomic_load(&fx->entered); i++) usleep(10000);
    assert_true(atomic_load(&fx->entered));
}

static int open_twice(void *arg)
{
    Fixture *fx = arg;
    HttpServer *second;
    HttpServerOptions taken = { .port = fx->port }, bad = { .address = "localhost" };
    int r = http_server_open(&taken, handle, fx, &second);
    bool named = strstr(diag_text(), "Address already in use") != NULL;
    if (r != -EADDRINUSE || !named) return -1;
    r = http_server_open(&bad, handle, fx, &second);
    return r == -EINVAL ? 0 : -2;
}

static int open_twice_fiber(void *arg)
{
    Fixture *fx = arg;
    atomic_store(&fx->result, open_twice(arg));
    return 0;
}

static void test_open_fails(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    fixture_start(&fx, handle);
    fiber_spawn_on(fx.loop, "second", open_twice_fiber, &fx);
    assert_int_equal(fixture_result(&fx), 0);
    fixture_stop(&fx);
}

static void expect_hello(int fd, Answer *a)
{
    client_send(fd, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(a, fd, false);
    assert_str_equal(answer_body(a), STR("hello"));
}

static void wait_open(const Fixture *fx, int64_t n)
{
    for (int i = 0; i < 2000 && fixture_stats(fx).open_connections != n; i++) usleep(10000);
    assert_int_equal(fixture_stats(fx).open_connections, n);
}

static void test_too_many_connections(void **state)
{
    (void)state;
    Fixture fx = { .options.connections_max = 2 };
    ANSWER a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
    fixture_start(&fx, handle);
    int first = client_open(&fx);
    CLIENT second = client_open(&fx);
    expect_hello(first, &a);
    expect_hello(second, &b);
    CLIENT third = client_open(&fx);
    client_send(third, STR("GET /hello HTTP/1.1\r\n" HOST "\r\n"));
    answer_read(&c, third, false);
    assert_int_equal(c.status, 503);
    assert_true(client_closed(third));
    assert_int_equal(fixture_stats(&fx).refused_connections, 1);
    expect_hello(second, &b); /* the others go on */
    close(first);
    wait_open(&fx, 1);
    CLIENT fourth = client_open(&fx);
    expect_hello(fourth, &d);
    assert_int_equal(fixture_stats(&fx).connections, 3);
    fixture_stop(&fx);
}

/* Beyond those that are told so there are those that are only closed: a flood costs few fibers. */
static void test_flood_of_connections(void **state)
{
    (void)state;
    enum { N = 200 };
    Fixture fx = { .options.connections_max = 1 };
    ANSWER a = { 0 };
    int fds[N], told = 0;
    fixture_start(&fx, handle);
    CLIENT first = client_open(&fx);
    expect_hello(first, &a);
    for (int i = 0; i < N; i++) fds[i] = client_open(&fx);
    for (int i = 0; i < N; i++) {
        ANSWER refused = { 0 };
        answer_read(&refused, fds[i], false);
        assert_true(refused.status == 503 || refused.status == 0);
        told += refused.status == 503;
    }
    assert_in_range(told, 1, N - 1);
    assert_int_equal(fixture_stats(&fx).refused_connections, N);
    expect_hello(first, &a);
    for (int i = 0; i < N; i++) close(fds[i]);
    fixture_stop(&fx);
}

static void test_drain(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 }, b = { 0 };
    fixture_start(&fx, handle);
    CLIENT idle = client_open(&fx);
    expect_hello(idle, &a);
    CLIENT busy = client_open(&fx);
    client_send(busy, STR("GET /wait HTTP/1.1\r\n" HOST "\r\n"));
    wait_entered(&fx);
    fixture_drain(&fx);
    fixture_drain(&fx);
    assert_true(client_closed(idle));
    atomic_store(&fx.release, true);
    answer_read(&b, busy, false);
    assert_str_equal(answer_body(&b), STR("waited"));
    assert_str_equal(answer_field(&b, "Connection"), STR("close"));
    assert_true(client_closed(busy));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(fx.port) };
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), -1);
    close(fd);
    fixture_stop(&fx);
}

/* A caller that is cancelled itself does not wait: what is busy is cut. */
static void test_cancelled_close_cuts(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    CLIENT fd = client_open(&fx);
    client_send(fd, STR("GET /stuck HTTP/1.1\r\n" HOST "\r\n"));
    wait_entered(&fx);
    fixture_stop(&fx);
    assert_int_equal(atomic_load(&fx.result), -ECANCELED);
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 0);
}

/* A second server on the fixture's loop, closed by a fiber of its own. */
typedef struct {
    Fixture *fx;
    HttpServer *server;
    int64_t within_ms;
} Closing;

static int close_fiber(void *arg)
{
    Closing *closing = arg;
    http_server_close_wait(closing->server, deadline_after(closing->within_ms));
    sem_post(&closing->fx->closed);
    return 0;
}

static int open_fiber(void *arg)
{
    Closing *closing = arg;
    HttpServerOptions options = { 0 };
    int r = http_server_open(&options, handle, closing->fx, &closing->server);
    assert(r == 0);
    sem_post(&closing->fx->closed);
    return 0;
}

/* Asks the second server and starts to close it while the handler runs. */
static int ask_and_close(Closing *closing, Str request)
{
    fiber_spawn_on(closing->fx->loop, "open", open_fiber, closing);
    sem_wait(&closing->fx->closed);
    Fixture second = { .port = http_server_port(closing->server) };
    int fd = client_open(&second);
    client_send(fd, request);
    wait_entered(closing->fx);
    fiber_spawn_on(closing->fx->loop, "close", close_fiber, closing);
    return fd;
}

static void test_close_waits(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    Closing closing = { .fx = &fx, .within_ms = CLIENT_LIMIT_MS };
    CLIENT fd = ask_and_close(&closing, STR("GET /wait HTTP/1.1\r\n" HOST "\r\n"));
    usleep(50000);
    assert_int_equal(sem_trywait(&fx.closed), -1);
    atomic_store(&fx.release, true);
    answer_read(&a, fd, false);
    assert_str_equal(answer_body(&a), STR("waited"));
    assert_str_equal(answer_field(&a, "Connection"), STR("close"));
    sem_wait(&fx.closed);
    fixture_stop(&fx);
}

static void test_close_deadline_cuts(void **state)
{
    (void)state;
    Fixture fx = { 0 };
    ANSWER a = { 0 };
    fixture_start(&fx, handle);
    Closing closing = { .fx = &fx, .within_ms = 100 };
    CLIENT fd = ask_and_close(&closing, STR("GET /stuck HTTP/1.1\r\n" HOST "\r\n"));
    sem_wait(&fx.closed);
    assert_int_equal(fixture_result(&fx), -ECANCELED);
    answer_read(&a, fd, false);
    assert_int_equal(a.status, 0);
    fixture_stop(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_fails),           cmocka_unit_test(test_too_many_connections),
        cmocka_unit_test(test_flood_of_connections), cmocka_unit_test(test_drain),
        cmocka_unit_test(test_cancelled_close_cuts), cmocka_unit_test(test_close_waits),
        cmocka_unit_test(test_close_deadline_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
