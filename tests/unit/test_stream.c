#include "tests/unit/sys_harness.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "sys/clock.h"
#include "sys/stream.h"

/* What the fibers observed; the test asserts on it afterwards. */
typedef struct {
    Stream *server;
    Stream *client;
    Cond accepted;
    int r[8];
    size_t n;
    char text[64];
} Pair;

static void on_accept(Stream *stream, void *ctx)
{
    Pair *pair = ctx;
    pair->server = stream;
    cond_signal(&pair->accepted);
}

/* Two connected streams over a real listener. */
static int pair_open_wait(Pair *pair)
{
    CLEANUP(listener_closep) Listener *listener = NULL;
    cond_init(&pair->accepted);
    int r = listener_open("127.0.0.1", 0, false, on_accept, pair, &listener);
    if (r < 0) return r;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(listener_port(listener)) };
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0) return -errno;
    if ((r = stream_open(fd, &pair->client)) < 0) return r;
    while (!pair->server)
        if ((r = cond_wait(&pair->accepted, clock_mono_ms() + 2000)) < 0) return r;
    return 0;
}

static void pair_close(Pair *pair)
{
    stream_close(pair->client);
    stream_close(pair->server);
}

static int echo_main(void *arg)
{
    Pair *pair = arg;
    Str got, pieces[2] = { STR("hello, "), STR("world") };
    pair->r[0] = pair_open_wait(pair);
    pair->r[1] = stream_write_wait(pair->client, pieces, 2, deadline_after(1000));
    pair->r[2] = stream_fill_wait(pair->server, 11, deadline_after(1000), &got);
    str_copy(pair->text, sizeof pair->text, got);
    stream_consume(pair->server, got.len);
    pair->r[3] = stream_shutdown_wait(pair->client, deadline_after(1000));
    pair->r[4] = stream_fill_wait(pair->server, 0, deadline_after(1000), &got);
    pair->n = got.len;
    pair->r[5] = stream_peer_gone(pair->server);
    pair_close(pair);
    return 0;
}

static void test_write_read_and_end(void **state)
{
    (void)state;
    Pair pair = { 0 };
    harness_run(echo_main, &pair);
    assert_int_equal(pair.r[0], 0);
    assert_int_equal(pair.r[1], 0);
    assert_int_equal(pair.r[2], 0);
    assert_string_equal(pair.text, "hello, world");
    assert_int_equal(pair.r[3], 0);
    assert_int_equal(pair.r[4], STREAM_E_EOF);
    assert_int_equal(pair.n, 0);
    assert_true(pair.r[5]);
}

static int timeout_main(void *arg)
{
    Pair *pair = arg;
    Str got, piece = STR("late");
    pair->r[0] = pair_open_wait(pair);
    pair->r[1] = stream_fill_wait(pair->server, 0, deadline_after(20), &got);
    stream_write_wait(pair->client, &piece, 1, DEADLINE_NONE);
    pair->r[2] = stream_fill_wait(pair->server, 0, deadline_after(1000), &got);
    pair->r[3] = stream_gone_wait(pair->server, deadline_after(20));
    pair_close(pair);
    return 0;
}

static void test_read_timeout_keeps_the_stream(void **state)
{
    (void)state;
    Pair pair = { 0 };
    harness_run(timeout_main, &pair);
    assert_int_equal(pair.r[1], -ETIMEDOUT);
    assert_int_equal(pair.r[2], 0);
    assert_int_equal(pair.r[3], -ETIMEDOUT);
}

#define FLOOD_BYTES (64 * 1024 * 1024)

static int flood_main(void *arg)
{
    Pair *pair = arg;
    Str got;
    char *flood = calloc(1, FLOOD_BYTES);
    pair->r[0] = pair_open_wait(pair);
    Str piece = { flood, FLOOD_BYTES };
    /* nobody consumes at the other end: the write must stall, the reader's buffer stay bounded */
    pair->r[1] = stream_write_wait(pair->client, &piece, 1, deadline_after(100));
    free(flood); /* the bytes are ours again although they were not all sent */
    pair->r[2] = stream_write_wait(pair->client, &piece, 1, deadline_after(100));
    pair->r[3] = stream_fill_wait(pair->server, 0, deadline_after(100), &got);
    while (pair->r[3] == 0)
        pair->r[3] = stream_fill_wait(pair->server, got.len, deadline_after(100), &got);
    pair->n = stream_peek(pair->server).len;
    pair_close(pair);
    return 0;
}

static void test_back_pressure_and_write_timeout(void **state)
{
    (void)state;
    Pair pair = { 0 };
    harness_run(flood_main, &pair);
    assert_int_equal(pair.r[1], -ETIMEDOUT);
    assert_int_equal(pair.r[2], -EPIPE);
    assert_int_equal(pair.r[3], -ENOBUFS);
    assert_int_equal(pair.n, STREAM_READ_BYTES_MAX);
}

static int read_for_ever(void *arg)
{
    Pair *pair = arg;
    Str got;
    pair->r[1] = stream_fill_wait(pair->server, 0, DEADLINE_NONE, &got);
    return 0;
}

static int closed_main(void *arg)
{
    Pair *pair = arg;
    FiberRef reader;
    pair->r[0] = pair_open_wait(pair);
    if (fiber_spawn("reader", read_for_ever, pair, &reader) != 0) return 1;
    fiber_yield_wait();
    pair_close(pair);
    return fiber_join_wait(reader, NULL);
}

static void test_close_wakes_the_reader(void **state)
{
    (void)state;
    Pair pair = { 0 };
    harness_run(closed_main, &pair);
    assert_int_equal(pair.r[1], -ECANCELED);
}

static int taken_main(void *arg)
{
    Pair *pair = arg;
    CLEANUP(listener_closep) Listener *first = NULL;
    Listener *second = NULL;
    pair->r[0] = listener_open("127.0.0.1", 0, false, on_accept, pair, &first);
    pair->r[1] = listener_open("127.0.0.1", listener_port(first), false, on_accept, pair, &second);
    str_copy(pair->text, sizeof pair->text, str_of(diag_text()));
    pair->r[2] = listener_open("not an address", 1, false, on_accept, pair, &second);
    return 0;
}

static void test_listener_errors_name_the_address(void **state)
{
    (void)state;
    Pair pair = { 0 };
    harness_run(taken_main, &pair);
    assert_int_equal(pair.r[0], 0);
    assert_int_equal(pair.r[1], -EADDRINUSE);
    assert_non_null(strstr(pair.text, "cannot listen on 127.0.0.1:"));
    assert_int_equal(pair.r[2], -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_read_and_end),
        cmocka_unit_test(test_read_timeout_keeps_the_stream),
        cmocka_unit_test(test_back_pressure_and_write_timeout),
        cmocka_unit_test(test_close_wakes_the_reader),
        cmocka_unit_test(test_listener_errors_name_the_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
