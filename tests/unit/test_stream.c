#include "tests/unit/sys_harness.h"

#include <arpa/inet.h>
#include <pthread.h>
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

static void *send_elsewhere(void *arg)
{
    const Str pieces[] = { STR("from "), STR_NULL, STR("another thread") };
    Pair *pair = arg;
    pair->n = stream_send_now(pair->r[6], pieces, 3);
    return NULL;
}

/* Sends from a thread of its own, until the kernel takes no more, and when the other side is
 * gone. */
static int send_main(void *arg)
{
    static char bytes[1 << 20];
    const Str much = str_make(bytes, sizeof bytes);
    pthread_t thread;
    Pair *pair = arg;
    Str got;
    pair->r[0] = pair_open_wait(pair);
    pair->r[6] = stream_fd(pair->client);
    pair->r[1] = pthread_create(&thread, NULL, send_elsewhere, pair);
    pair->r[1] |= pthread_join(thread, NULL);
    pair->r[2] = stream_fill_wait(pair->server, 18, deadline_after(5000), &got);
    str_copy(pair->text, sizeof pair->text, got);
    while (stream_send_now(pair->r[6], &much, 1) > 0) continue;
    stream_close(TAKE(pair->server));
    pair->r[3] = stream_gone_wait(pair->client, deadline_after(5000));
    pair->r[4] = (int)stream_send_now(pair->r[6], &much, 1);
    pair->r[5] = stream_write_wait(pair->client, &much, 1, deadline_after(5000));
    pair_close(pair);
    return 0;
}

static void test_send_from_elsewhere(void **state)
{
    (void)state;
    Pair pair = { 0 };
    harness_run(send_main, &pair);
    assert_int_equal(pair.r[0], 0);
    assert_true(pair.r[6] >= 0);
    assert_int_equal(pair.r[1], 0);
    assert_int_equal(pair.n, 19);
    assert_int_equal(pair.r[2], 0);
    assert_string_equal(pair.text, "from another thread");
    assert_int_equal(pair.r[3], 0);
    assert_int_equal(pair.r[4], 0);
    assert_true(pair.r[5] < 0); /* who writes next finds out */
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

#define STRAIGHT_BYTES 100000

typedef struct {
    Pair pair;
    char out[STRAIGHT_BYTES], sent[STRAIGHT_BYTES];
    size_t n;
    int end, cancelled;
} Straight;

static int straight_writer(void *arg)
{
    Straight *t = arg;
    Str piece = { t->sent + 5, STRAIGHT_BYTES - 5 };
    return stream_write_wait(t->pair.client, &piece, 1, deadline_after(5000));
}

static int straight_main(void *arg)
{
    Straight *t = arg;
    Pair *pair = &t->pair;
    FiberRef writer;
    Str got, first = { t->sent, 5 }, last = STR("last");
    size_t n;
    pair->r[0] = pair_open_wait(pair);
    pair->r[1] = stream_write_wait(pair->client, &first, 1, deadline_after(5000));
    pair->r[2] = stream_fill_wait(pair->server, 4, deadline_after(5000), &got);
    pair->r[3] = stream_read_wait(pair->server, t->out, 3, DEADLINE_NONE, &n); /* of the buffer */
    t->n = n;
    if (fiber_spawn("writer", straight_writer, t, &writer) != 0) return 1;
    while (t->n < STRAIGHT_BYTES && pair->r[4] == 0) {
        pair->r[4] = stream_read_wait(pair->server, t->out + t->n, STRAIGHT_BYTES - t->n,
                                      deadline_after(5000), &n);
        t->n += n;
    }
    pair->r[5] = fiber_join_wait(writer, NULL);
    /* what comes after one that has given up is no longer written there */
    pair->r[6] = stream_read_wait(pair->server, t->out, 4, deadline_after(10), &n);
    (void)stream_write_wait(pair->client, &last, 1, deadline_after(5000));
    pair->r[7] = stream_fill_wait(pair->server, 3, deadline_after(5000), &got);
    str_copy(pair->text, sizeof pair->text, got);
    stream_consume(pair->server, got.len);
    stream_close(TAKE(pair->client));
    t->end = stream_read_wait(pair->server, t->out, 4, deadline_after(5000), &n);
    pair->n = n;
    pair_close(pair);
    return 0;
}

static void test_read_straight_into_place(void **state)
{
    (void)state;
    Straight *t = calloc(1, sizeof *t);
    for (size_t i = 0; i < STRAIGHT_BYTES; i++) t->sent[i] = (char)(i * 7 + i / 251);
    harness_run(straight_main, t);
    assert_int_equal(t->end, STREAM_E_EOF);
    for (int i = 0; i < 6; i++) assert_int_equal(t->pair.r[i], 0);
    assert_int_equal(t->n, STRAIGHT_BYTES);
    assert_memory_equal(t->out, t->sent, STRAIGHT_BYTES);
    assert_int_equal(t->pair.r[6], -ETIMEDOUT);
    assert_int_equal(t->pair.r[7], 0);
    assert_string_equal(t->pair.text, "last");
    assert_int_equal(t->pair.n, 0);
    free(t);
}

static int cancelled_reader(void *arg)
{
    Straight *t = arg;
    t->cancelled = stream_read_wait(t->pair.server, t->out, sizeof t->out, DEADLINE_NONE, &t->n);
    return 0;
}

static int cancelled_main(void *arg)
{
    Straight *t = arg;
    FiberRef reader;
    Str got, late = STR("late");
    t->pair.r[0] = pair_open_wait(&t->pair);
    if (fiber_spawn("reader", cancelled_reader, t, &reader) != 0) return 1;
    fiber_yield_wait();
    fiber_cancel(reader);
    (void)stream_write_wait(t->pair.client, &late, 1, deadline_after(5000));
    (void)fiber_join_wait(reader, NULL);
    t->pair.r[2] = stream_fill_wait(t->pair.server, 3, deadline_after(5000), &got);
    str_copy(t->pair.text, sizeof t->pair.text, got);
    pair_close(&t->pair);
    return 0;
}

static void test_a_cancelled_read_leaves_its_place(void **state)
{
    (void)state;
    Straight *t = calloc(1, sizeof *t);
    harness_run(cancelled_main, t);
    assert_int_equal(t->cancelled, -ECANCELED);
    assert_int_equal(t->pair.r[2], 0);
    assert_string_equal(t->pair.text, "late");
    assert_int_equal(t->out[0], 0);
    free(t);
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
        cmocka_unit_test(test_send_from_elsewhere),
        cmocka_unit_test(test_read_timeout_keeps_the_stream),
        cmocka_unit_test(test_back_pressure_and_write_timeout),
        cmocka_unit_test(test_read_straight_into_place),
        cmocka_unit_test(test_a_cancelled_read_leaves_its_place),
        cmocka_unit_test(test_close_wakes_the_reader),
        cmocka_unit_test(test_listener_errors_name_the_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
