/* Flags on their way to the agents of a worker. */
#include "worker_bench.h"

#include "logic/flag.h"
#include "store/flag_store.h"

typedef struct {
    Str key, definition;
    int64_t revision;
} PutJob;

static int put_job(Db *db, void *arg)
{
    PutJob *job = arg;
    return flag_put(db, job->key, job->definition, clock_real_ms(), &job->revision);
}

static void flag_put_wait(Bench *b, const char *key, const char *definition)
{
    PutJob job = { .key = str_of(key), .definition = str_of(definition) };
    CHECK_INT(store_call_wait(b->store, put_job, &job), 0);
    queue_signal_workers(b->queue);
}

#define SHOW_FLAGS                                          \
    "import json, sys, os, time, urllib.request\n"          \
    "given = json.load(sys.stdin)['flags']\n"               \
    "url = os.environ['GANTRY_URL'] + '/gantry/v1/flags'\n" \
    "def read(): return json.load(urllib.request.urlopen(url))\n"

static int given_scenario(Bench *b)
{
    flag_put_wait(b, "a", "{\"value\":1,\"rules\":[{\"agents\":[\"a\"],\"value\":2}]}");
    flag_put_wait(b, "tool:x", "{\"value\":false}");
    bench_deploy(b, "python3", SHOW_FLAGS "print(json.dumps([given, read()]))\n", "");
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("[{\"a\": 2}, {\"a\": 2}]"));
    return 0;
}

static void test_given_to_agents(void **state)
{
    (void)state;
    bench(given_scenario);
}

/* A running agent sees the change, at the next heartbeat at the latest: they come at once. */
static int change_scenario(Bench *b)
{
    bench_deploy(b, "python3",
                 SHOW_FLAGS "print('ready', file=sys.stderr, flush=True)\n"
                            "while not read().get('go'): time.sleep(0.02)\n"
                            "print(json.dumps(given))\n",
                 "");
    Uuid id = bench_submit(b, "1", NULL);
    bench_log_until(b, id, "ready");
    int64_t began_ms = clock_mono_ms();
    flag_put_wait(b, "go", "{\"value\":true}");
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("{}"));
    CHECK(clock_mono_ms() - began_ms < 1000 * bench_slower());
    return 0;
}

static void test_changed_while_it_runs(void **state)
{
    (void)state;
    bench(change_scenario);
}

static int kill_scenario(Bench *b)
{
    bench_deploy(b, "python3",
                 SHOW_FLAGS "print('ready', file=sys.stderr, flush=True)\ntime.sleep(60)\n", "");
    Uuid id = bench_submit(b, "1", NULL);
    bench_log_until(b, id, "ready");
    Uuid waits[6]; /* more than there are slots */
    for (size_t i = 0; i < ARRAY_N(waits); i++) waits[i] = bench_submit(b, "1", NULL);
    flag_put_wait(b, "tasks", "{\"value\":true,\"rules\":[{\"agents\":[\"a\"],\"value\":false}]}");
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_CANCELED);
    CHECK_STR(task.error_code, STR("switched_off"));
    for (size_t i = 0; i < ARRAY_N(waits); i++) {
        task = bench_end(b, waits[i]);
        CHECK_INT(task.state, TASK_CANCELED);
        CHECK_STR(task.error_code, STR("switched_off"));
    }
    TaskNew new = { .agent = STR("a"), .lane = LANE_NORMAL, .input = STR("1") };
    TaskSummary summary;
    CHECK_INT(queue_submit_wait(b->queue, &new, &summary), QUEUE_E_SWITCHED_OFF);
    flag_put_wait(b, "tasks", "{\"value\":true}");
    CHECK_INT(queue_submit_wait(b->queue, &new, &summary), 0);
    bench_log_until(b, summary.id, "ready");
    return 0;
}

static void test_tasks_switched_off(void **state)
{
    (void)state;
    bench(kill_scenario);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_given_to_agents),
        cmocka_unit_test(test_changed_while_it_runs),
        cmocka_unit_test(test_tasks_switched_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
