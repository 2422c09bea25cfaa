/* Agents that do nothing any more are ended; those that do anything at all are not. */
#include "worker_bench.h"

#include "worker/allowance.h"

/* Long enough for a machine under load to start Python in. */
#define STUCK_MS INT64_C(3000)

static void watch(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->stuck_ms = STUCK_MS;
}

static void with_watch(int (*scenario)(Bench *b))
{
    bench_with((Bench){ .scenario = scenario, .configure = watch, .lease_ms = 3000 });
}

static int hangs(Bench *b)
{
    /* it waits for something that never comes; a timer goes on and on, as in an event loop */
    bench_deploy(b, "sh",
                 "exec python3 -c 'import time\n"
                 "while True:\n"
                 "    t = time.process_time()\n"
                 "    while time.process_time() - t < 0.005: pass\n"
                 "    time.sleep(1)'\n",
                 "");
    Uuid id = bench_submit(b, "1", NULL);
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (bench_get(b, id).attempt < 2 && clock_mono_ms() < deadline_ms) fiber_sleep_wait(20);
    Task task = bench_get(b, id);
    CHECK(task.attempt >= 2); /* it is tried again */
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK(stats.stuck >= 1);
    TaskState state;
    CHECK_INT(queue_cancel_wait(b->queue, id, STR("test"), &state), 0);
    CHECK_INT(bench_end(b, id).state, TASK_CANCELED);
    return 0;
}

static void test_hangs(void **state)
{
    (void)state;
    with_watch(hangs);
}

/* Each does one thing only, for longer than the agent above was let be. */
static int busy(Bench *b)
{
    static const char *const scripts[] = {
        "while [ $i -lt $n ]; do i=$((i+1)); echo here >&2; sleep 0.1; done\n", /* logs */
        ("setsid sh -c 'end=$(($(date +%s) + '$n' / 10)); while [ $(date +%s) -lt $end ]; do :; "
         "done' > /dev/null 2>&1 & wait\n"), /* waits for one outside its group */
    };
    for (size_t i = 0; i < ARRAY_N(scripts); i++) {
        Str text = arena_printf(&b->arena, "i=0; n=%d\n%secho 1\n", (int)(STUCK_MS * 15 / 1000),
                                scripts[i]);
        bench_deploy(b, "sh", text.ptr, "");
        Task task = bench_run(b, "1");
        CHECK_INT(task.state, TASK_SUCCEEDED);
        CHECK_INT(task.attempt, 1);
    }
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.stuck, 0);
    return 0;
}

static void test_busy(void **state)
{
    (void)state;
    with_watch(busy);
}

/* CPU time is that of the session, whoever of it uses it. */
static void test_session_cpu(void **state)
{
    (void)state;
    assert_int_equal(allowance_cpu_ms(-1), 0);
    int64_t before = allowance_cpu_ms(getsid(0)), after = before;
    for (int i = 0; i < 100000 && after == before; i++) {
        for (volatile int k = 0; k < 1000000; k++) {
        }
        after = allowance_cpu_ms(getsid(0));
    }
    assert_true(after != before); /* less when one of them has ended */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hangs),
        cmocka_unit_test(test_busy),
        cmocka_unit_test(test_session_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
