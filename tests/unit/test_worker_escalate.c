/* Questions to people at the agent's door: a real agent that is run again with the answer. */
#include "worker_bench.h"

/* ask(body) gives [status, answer or code, source]; chat() one model call. */
#define AGENT                                                                               \
    "import json, os, sys, urllib.request, urllib.error\n"                                  \
    "def post(url, body):\n"                                                                \
    "    raw = body if isinstance(body, bytes) else json.dumps(body).encode()\n"            \
    "    return urllib.request.urlopen(urllib.request.Request(url, raw))\n"                 \
    "def ask(body):\n"                                                                      \
    "    try:\n"                                                                            \
    "        with post(os.environ['GANTRY_URL'] + '/gantry/v1/escalate', body) as r:\n"     \
    "            a = json.load(r)\n"                                                        \
    "            return [r.status, a['answer'], a['source']]\n"                             \
    "    except urllib.error.HTTPError as e: return [e.code, json.load(e)['code'], None]\n" \
    "def chat():\n"                                                                         \
    "    post(os.environ['OPENAI_BASE_URL'] + '/chat/completions', {'model': 'sim/echo',\n" \
    "         'messages': [{'role': 'user', 'content': 'hello'}]}).read()\n"

static void deploy(Bench *b, const char *script)
{
    Str text = arena_printf(&b->arena, "%s%s", AGENT, script);
    bench_deploy(b, "python3", text.ptr, "");
}

static Task await_state(Bench *b, Uuid id, TaskState state)
{
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (bench_get(b, id).state != state && clock_mono_ms() < deadline_ms) fiber_sleep_wait(5);
    Task task = bench_get(b, id);
    CHECK_INT(task.state, state);
    return task;
}

static void resolve(Bench *b, Uuid id, const char *answer)
{
    TaskState state;
    CHECK_INT(queue_resolve_wait(b->queue, id, str_of(answer), STR("ada"), &state), 0);
}

static int answered(Bench *b)
{
    deploy(b, "chat()\n"
              "one = ask({'question': 'may I?', 'context': {'amount': 7}})\n"
              "chat()\n"
              "two = ask({'question': 'may I?', 'context': {'amount': 7}})\n"
              "print(json.dumps([one, two]))\n");
    Uuid id = bench_submit(b, "1", NULL);
    await_state(b, id, TASK_ESCALATED);
    WorkerStats stats;
    do {
        fiber_sleep_wait(2);
        worker_stats(b->worker, &stats);
    } while (stats.running[LANE_NORMAL] > 0); /* its slot is free */
    resolve(b, id, "{\"ok\":1}");
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (bench_get(b, id).attempt < 2 && clock_mono_ms() < deadline_ms) fiber_sleep_wait(5);
    await_state(b, id, TASK_ESCALATED);
    resolve(b, id, "\"go\"");
    Task task = bench_end(b, id);
    CHECK_STR(task.result, STR("[[200, {\"ok\": 1}, \"person\"], [200, \"go\", \"person\"]]"));
    CHECK_INT(task.attempt, 3);
    CHECK_INT(task.failures, 0);
    CHECK_INT(task.usage.llm_calls, 2); /* the others were replayed */
    CHECK_INT(task.usage.replayed_calls, 3);
    return 0;
}

static void test_answered(void **state)
{
    (void)state;
    bench(answered);
}

/* Numbers that have no canonical form tell questions apart all the same, and are kept. */
static int large_number(Bench *b)
{
    deploy(b, "print(json.dumps([ask({'question': 'which?', 'context': {'order': n}})\n"
              "  for n in (1234567890123456789, 1234567890123456790)]))\n");
    Uuid id = bench_submit(b, "1", NULL);
    await_state(b, id, TASK_ESCALATED);
    resolve(b, id, "{\"order\":1234567890123456789}");
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (bench_get(b, id).attempt < 2 && clock_mono_ms() < deadline_ms) fiber_sleep_wait(5);
    await_state(b, id, TASK_ESCALATED);
    resolve(b, id, "2");
    Task task = bench_end(b, id);
    CHECK_STR(task.result, STR("[[200, {\"order\": 1234567890123456789}, \"person\"],"
                               " [200, 2, \"person\"]]"));
    return 0;
}

static void test_large_number(void **state)
{
    (void)state;
    bench(large_number);
}

static int refused(Bench *b)
{
    deploy(b, "print(json.dumps([ask(b'{'), ask({}), ask({'question': ''}), ask({'question': 7}),\n"
              "  ask({'question': 'x' * 10001}), ask({'question': 'x', 'timeout': 'soon'}),\n"
              "  ask({'question': 'x', 'timeout': '400d'}), ask({'question': 'x', 'id': ''}),\n"
              "  ask({'question': 'x', 'defualt': 1})]))\n");
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    for (int i = 0; i < 9; i++) {
        ptrdiff_t at = str_find(task.result, STR("[422, \"escalation_invalid\", null]"));
        if (!CHECK(at >= 0)) break;
        task.result = str_skip(task.result, (size_t)at + 1);
    }
    return 0;
}

static void test_refused(void **state)
{
    (void)state;
    bench(refused);
}

/* By its id a question is known whatever else it says; the default comes when nobody answers. */
static int defaulted(Bench *b)
{
    deploy(b, "import time\n"
              "print(json.dumps(ask({'question': 'at %f?' % time.time(), 'id': 'refund-7',\n"
              "  'timeout': '50ms', 'default': False})))\n");
    Task task = bench_run(b, "1");
    CHECK_STR(task.result, STR("[200, false, \"default\"]"));
    CHECK_INT(task.attempt, 2);

    deploy(b, "print(json.dumps(ask({'question': 'now?', 'timeout': '50ms'})))\n");
    task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("escalation_unanswered"));
    return 0;
}

static void test_nobody_answers(void **state)
{
    (void)state;
    bench(defaulted);
}

/* One that does not listen to SIGTERM and goes on is ended all the same. */
static int deaf(Bench *b)
{
    deploy(b, "import signal, time\n"
              "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
              "try: answer = ask({'question': 'may I?'})\n"
              "except Exception: time.sleep(60)\n"
              "print(json.dumps(answer))\n");
    Uuid id = bench_submit(b, "1", NULL);
    await_state(b, id, TASK_ESCALATED);
    resolve(b, id, "1");
    CHECK_STR(bench_end(b, id).result, STR("[200, 1, \"person\"]"));
    return 0;
}

static void test_deaf(void **state)
{
    (void)state;
    bench(deaf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answered), cmocka_unit_test(test_large_number),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_nobody_answers),
        cmocka_unit_test(test_deaf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
