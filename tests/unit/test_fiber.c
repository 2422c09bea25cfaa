#include "tests/unit/sys_harness.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/diag.h"
#include "sys/clock.h"

static char trace[256];

static void note(const char *s)
{
    size_t n = strlen(trace);
    assert(n + strlen(s) < sizeof trace);
    memcpy(trace + n, s, strlen(s) + 1);
}

static int setup(void **state)
{
    (void)state;
    trace[0] = '\0';
    return 0;
}

static int child_ab(void *arg)
{
    note(arg);
    fiber_yield_wait();
    note(arg);
    return 7;
}

static int main_yield(void *arg)
{
    int *result = arg;
    FiberRef a, b;
    if (fiber_spawn("a", child_ab, "a", &a) != 0 || fiber_spawn("b", child_ab, "b", &b) != 0)
        return 1;
    note("m");
    fiber_join_wait(a, result);
    fiber_join_wait(b, NULL);
    note("e");
    return fiber_join_wait(a, NULL); /* ended long ago: at once */
}

static void test_order_and_join(void **state)
{
    (void)state;
    int result = 0;
    harness_run(main_yield, &result);
    assert_string_equal(trace, "mababe");
    assert_int_equal(result, 7);
}

static int sleeper(void *arg)
{
    fiber_sleep_wait((int64_t)(intptr_t)arg);
    char c[2] = { (char)('0' + (intptr_t)arg / 10), 0 };
    note(c);
    return 0;
}

static int main_sleep(void *arg)
{
    FiberRef f[4];
    static const intptr_t ms[4] = { 30, 10, 40, 20 };
    (void)arg;
    for (int i = 0; i < 4; i++)
        if (fiber_spawn("sleeper", sleeper, (void *)ms[i], &f[i]) != 0) return 1;
    for (int i = 0; i < 4; i++) fiber_join_wait(f[i], NULL);
    return 0;
}

static void test_timers_fire_in_order(void **state)
{
    (void)state;
    int64_t began_ms = clock_mono_ms();
    harness_run(main_sleep, NULL);
    assert_string_equal(trace, "1234");
    assert_true(clock_mono_ms() - began_ms >= 40);
}

static int sleep_for_ever(void *arg)
{
    int *r = arg;
    r[0] = fiber_sleep_wait(1000000);
    r[1] = fiber_sleep_wait(1000000); /* every later wait too */
    fiber_shield();
    r[2] = fiber_sleep_wait(1); /* but for a shielded one */
    fiber_unshield();
    r[3] = fiber_yield_wait();
    return 0;
}

static int main_cancel(void *arg)
{
    FiberRef f;
    if (fiber_spawn("sleeper", sleep_for_ever, arg, &f) != 0) return 1;
    fiber_yield_wait();
    fiber_cancel(f);
    fiber_join_wait(f, NULL);
    fiber_cancel(f); /* it has ended: harmless */
    return 0;
}

static void test_cancel(void **state)
{
    (void)state;
    int r[4] = { 1, 1, 1, 1 };
    harness_run(main_cancel, r);
    assert_int_equal(r[0], -ECANCELED);
    assert_int_equal(r[1], -ECANCELED);
    assert_int_equal(r[2], 0);
    assert_int_equal(r[3], -ECANCELED);
}

static void test_stop_cancels_every_fiber(void **state)
{
    (void)state;
    int r[4] = { 1, 1, 1, 1 };
    Loop *loop = loop_new("test");
    fiber_spawn_on(loop, "sleeper", sleep_for_ever, r);
    loop_start_thread(loop);
    usleep(20000);
    loop_stop(loop);
    loop_join(loop);
    loop_free(loop);
    assert_int_equal(r[0], -ECANCELED);
}

typedef struct {
    Cond cond;
    int result[3];
} CondTest;

static int cond_user(void *arg)
{
    CondTest *t = arg;
    static int who;
    int i = who++ % 3;
    t->result[i] = cond_wait(&t->cond, i == 1 ? clock_mono_ms() + 10 : DEADLINE_NONE);
    return 0;
}

static int main_cond(void *arg)
{
    CondTest *t = arg;
    FiberRef f[3];
    cond_init(&t->cond);
    for (int i = 0; i < 3; i++)
        if (fiber_spawn("waiter", cond_user, t, &f[i]) != 0) return 1;
    fiber_sleep_wait(30); /* the second times out */
    cond_signal(&t->cond);
    fiber_join_wait(f[0], NULL);
    cond_signal(&t->cond); /* goes to the third, not to the one that left */
    fiber_join_wait(f[2], NULL);
    return 0;
}

static void test_cond(void **state)
{
    (void)state;
    CondTest t = { .result = { 1, 1, 1 } };
    harness_run(main_cond, &t);
    assert_int_equal(t.result[0], 0);
    assert_int_equal(t.result[1], -ETIMEDOUT);
    assert_int_equal(t.result[2], 0);
}

static int slow_work(void *arg)
{
    (void)arg;
    usleep(1000);
    return diag_set(-EDOM, "from the pool");
}

static int main_work(void *arg)
{
    char *text = arg;
    int r = work_wait(slow_work, NULL);
    str_copy(text, DIAG_BYTES_MAX, str_of(r == -EDOM ? diag_text() : "?"));
    return 0;
}

static void test_work_carries_diag(void **state)
{
    (void)state;
    char text[DIAG_BYTES_MAX] = "";
    harness_run(main_work, text);
    assert_string_equal(text, "from the pool");
}

typedef struct {
    LoopMsg msg;
    int number, *expected;
    bool *in_order;
} Posted;

static void on_posted(LoopMsg *msg)
{
    Posted *p = CONTAINER_OF(msg, Posted, msg);
    if (p->number != (*p->expected)++) *p->in_order = false;
}

static int main_idle(void *arg)
{
    int *expected = arg;
    while (*expected < 10000)
        if (fiber_sleep_wait(1) < 0) return 0;
    loop_stop(loop_here());
    return 0;
}

static void test_mailbox_keeps_order(void **state)
{
    (void)state;
    static Posted posted[10000];
    int expected = 0;
    bool in_order = true;
    Loop *loop = loop_new("test");
    fiber_spawn_on(loop, "idle", main_idle, &expected);
    loop_start_thread(loop);
    for (int i = 0; i < 10000; i++) {
        posted[i] = (Posted){
            .msg.run = on_posted, .number = i, .expected = &expected, .in_order = &in_order
        };
        loop_post(loop, &posted[i].msg);
    }
    loop_join(loop);
    loop_free(loop);
    assert_int_equal(expected, 10000);
    assert_true(in_order);
}

static int nothing(void *arg)
{
    (*(int *)arg)++;
    return fiber_yield_wait();
}

static int main_many(void *arg)
{
    for (int round = 0; round < 20; round++) {
        FiberRef f[500];
        for (int i = 0; i < 500; i++)
            if (fiber_spawn("one of many", nothing, arg, &f[i]) != 0) return 1;
        for (int i = 0; i < 500; i++) fiber_join_wait(f[i], NULL);
    }
    return 0;
}

static void test_many_fibers_reuse_stacks(void **state)
{
    (void)state;
    int n = 0;
    harness_run(main_many, &n);
    assert_int_equal(n, 10000);
}

static int hog(void *arg)
{
    (void)arg;
    usleep(60000);
    return 0;
}

static void test_watchdog_counts_slow_slices(void **state)
{
    (void)state;
    Loop *loop = loop_new("test");
    fiber_spawn_on(loop, "hog", hog, NULL);
    loop_start_thread(loop);
    usleep(100000);
    loop_stop(loop);
    loop_join(loop);
    assert_int_equal(loop_slow_slices(loop), 1);
    loop_free(loop);
}

typedef struct {
    LoopMsg msg;
    Loop *loop;
} LastWord;

static void last_word_run(LoopMsg *msg)
{
    loop_stop(CONTAINER_OF(msg, LastWord, msg)->loop);
}

static void *last_word_main(void *arg)
{
    LastWord *word = arg;
    loop_post(word->loop, &word->msg);
    return NULL;
}

/* What is posted may end the loop while the thread that posts is still inside. */
static void test_freed_by_what_is_posted(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        LastWord word = { .msg.run = last_word_run, .loop = loop_new("short") };
        loop_start_thread(word.loop);
        assert_int_equal(pthread_create(&thread, NULL, last_word_main, &word), 0);
        loop_join(word.loop);
        loop_free(word.loop);
        pthread_join(thread, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_order_and_join, setup),
        cmocka_unit_test_setup(test_timers_fire_in_order, setup),
        cmocka_unit_test_setup(test_cancel, setup),
        cmocka_unit_test_setup(test_stop_cancels_every_fiber, setup),
        cmocka_unit_test_setup(test_cond, setup),
        cmocka_unit_test_setup(test_work_carries_diag, setup),
        cmocka_unit_test_setup(test_mailbox_keeps_order, setup),
        cmocka_unit_test_setup(test_freed_by_what_is_posted, setup),
        cmocka_unit_test_setup(test_many_fibers_reuse_stacks, setup),
        cmocka_unit_test_setup(test_watchdog_counts_slow_slices, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
