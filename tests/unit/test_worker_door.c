/* Tools called by agents at their own door: real processes, a real listener. */
#include "worker_bench.h"

#include "logic/flag.h"
#include "store/flag_store.h"
#include "store/tool_store.h"
#include "stub_server.h"

/* The agent: call(name, arguments, id) gives [status, code or outcome, result or detail]. */
#define AGENT                                                                             \
    "import json, sys, os, time, urllib.request, urllib.error\n"                          \
    "base = os.environ['GANTRY_URL'] + '/gantry/v1/tools/'\n"                             \
    "heads = {}\n"                                                                        \
    "def call(name, arguments=None, id=None, method='POST', raw=None):\n"                 \
    "    global heads\n"                                                                  \
    "    body = raw if raw is not None else b'' if arguments is None else "               \
    "json.dumps(arguments).encode()\n"                                                    \
    "    req = urllib.request.Request(base + name, body, method=method)\n"                \
    "    if id: req.add_header('gantry-call-id', id)\n"                                   \
    "    try:\n"                                                                          \
    "        with urllib.request.urlopen(req) as r: heads, a = r.headers, json.load(r)\n" \
    "        return [200, a['outcome'], a['result']]\n"                                   \
    "    except urllib.error.HTTPError as e:\n"                                           \
    "        heads, a = e.headers, json.load(e)\n"                                        \
    "        return [e.code, a['code'], a['detail']]\n"                                   \
    "def said(text): print(text, file=sys.stderr, flush=True)\n"

#define TOOLS                                                                                 \
    "[{\"name\":\"upper\",\"description\":\"Shouts\",\"inputSchema\":{\"type\":\"object\","   \
    "\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]},"               \
    "\"deny\":[{\"text\":\"rm *\"}],\"source\":{\"command\":[\"python3\",\"upper.py\"]}},"    \
    "{\"name\":\"fail\",\"description\":\"Fails\",\"source\":{\"command\":[\"python3\","      \
    "\"fail.py\"]}},"                                                                         \
    "{\"name\":\"slow\",\"description\":\"Is slow\",\"timeout\":\"300ms\",\"source\":"        \
    "{\"command\":[\"sleep\",\"60\"]}},"                                                      \
    "{\"name\":\"long\",\"description\":\"Takes long\",\"source\":{\"command\":[\"python3\"," \
    "\"long.py\"]}},"                                                                         \
    "{\"name\":\"big\",\"description\":\"Says much\",\"outputBytesMax\":1000,\"source\":"     \
    "{\"command\":[\"python3\",\"big.py\"]}},"                                                \
    "{\"name\":\"own\",\"description\":\"Of the agent\"}%s]"

static void deploy(Bench *b, const char *script, const char *spec, const char *more_tools)
{
    Str tools = arena_printf(&b->arena, TOOLS, more_tools);
    Str yaml = arena_printf(&b->arena,
                            "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                            "  runtime: process\n  command: [python3, script]\n"
                            "  tools: tools.json\n%s",
                            spec);
    Str agent = arena_printf(&b->arena, "%s%s", AGENT, script);
    BenchFile files[] = {
        { "agent.yaml", yaml.ptr },
        { "script", agent.ptr },
        { "tools.json", tools.ptr },
        { "upper.py", "import json, sys\n"
                      "a = json.load(sys.stdin)\n"
                      "print(json.dumps({'said': a['text'].upper()}))\n" },
        { "fail.py", "import json, sys\n"
                     "print('no such thing', file=sys.stderr)\n"
                     "sys.exit(json.load(sys.stdin).get('code', 3))\n" },
        { "long.py", "import os, sys, time\n"
                     "print('tool runs', os.getpid(), file=sys.stderr, flush=True)\n"
                     "time.sleep(60)\n" },
        { "big.py", "print('x' * 5000)\n" },
        { "note.py", "import json, sys\n"
                     "a = json.load(sys.stdin)\n"
                     "open(a['path'], 'a').write(a['text'] + '\\n')\n"
                     "print('noted', a['text'])\n" },
        { "hold.sh", "touch $TMPDIR/$$\nexec sleep 60\n" },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
}

static void expect(const Task *task, const char *result)
{
    CHECK_INT(task->state, TASK_SUCCEEDED);
    CHECK_STR(task->result, str_of(result));
}

/* --- calls ------------------------------------------------------------------------------------ */

static int calls_scenario(Bench *b)
{
    deploy(b,
           "print(json.dumps([call('upper', {'text': 'hi'}), call('fail', {}), call('slow', {}),\n"
           "  call('big')[:2]]))\n",
           "", "");
    Task task = bench_run(b, "1");
    expect(&task, "[[200, \"ok\", {\"said\": \"HI\"}], "
                  "[200, \"error\", \"the tool ended with exit code 3\\nno such thing\"], "
                  "[200, \"timeout\", \"the tool did not finish within 300 ms\"], "
                  "[200, \"too_large\"]]");
    CHECK_INT(task.usage.tool_calls, 4);
    return 0;
}

static void test_calls(void **state)
{
    (void)state;
    bench(calls_scenario);
}

static int refused_scenario(Bench *b)
{
    deploy(b,
           "print(json.dumps([call('none', {})[:2], call('own', {})[:2], call('upper', {})[:2],\n"
           "  call('upper', raw=b'{')[:2], call('upper', raw=b'[]')[:2],\n"
           "  call('upper', {'text': 'rm -rf'})[:2], call('upper', method='PUT')[:2],\n"
           "  call('up%2Fper', {})[:2], call('upper', {'text': 'x' * 2000000})[:2],\n"
           "  call('upper', {'text': 'x'}, 'i' * 300)[:2]]))\n",
           "", "");
    Task task = bench_run(b, "1");
    expect(&task, "[[404, \"tool_not_declared\"], [409, \"tool_of_agent\"], "
                  "[422, \"arguments_invalid\"], [422, \"arguments_invalid\"], "
                  "[422, \"arguments_invalid\"], [403, \"tool_denied\"], "
                  "[405, \"method_not_allowed\"], [404, \"tool_not_declared\"], "
                  "[413, \"body_too_large\"], [400, \"call_id_invalid\"]]");
    CHECK_INT(task.usage.tool_calls, 0); /* nothing was run */
    return 0;
}

static void test_refused(void **state)
{
    (void)state;
    bench(refused_scenario);
}

/* --- counting --------------------------------------------------------------------------------- */

static int cap_scenario(Bench *b)
{
    deploy(b,
           "out = [call('upper', {'text': str(i)})[:2] for i in range(4)]\n"
           "print(json.dumps([out, heads['x-should-retry']]))\n",
           "  limits: {toolCallsPerTask: 3}\n", "");
    Task task = bench_run(b, "1");
    expect(&task,
           "[[[200, \"ok\"], [200, \"ok\"], [200, \"ok\"], [402, \"cap_reached\"]], \"false\"]");
    CHECK_INT(task.usage.tool_calls, 3);
    CHECK_STR(task.stopped_by, STR("toolCallsPerTask"));
    return 0;
}

static void test_cap(void **state)
{
    (void)state;
    bench(cap_scenario);
}

/* The model asks for one call; the agent makes it under the model's id. It counts once, however
 * often it is asked for; one under an id of which no model spoke counts as one of the agent's. */
static int asked_scenario(Bench *b)
{
    deploy(
        b,
        "body = {'model': 'sim/loop', 'messages': [{'role': 'user', 'content': 'go'}], 'tools':\n"
        "  [{'type': 'function', 'function': {'name': 'upper', 'description': 'Shouts',\n"
        "    'parameters': {'type': 'object', 'properties': {'text': {'type': 'string'}},\n"
        "    'required': ['text']}}}]}\n"
        "req = urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions',\n"
        "  json.dumps(body).encode())\n"
        "asked = json.load(urllib.request.urlopen(req))['choices'][0]['message']['tool_calls']\n"
        "id = asked[0]['id']\n"
        "def spent(): return json.load(urllib.request.urlopen(\n"
        "  os.environ['GANTRY_URL'] + '/gantry/v1/task'))['spent']['toolCalls']\n"
        "def upper(id): return call('upper', {'text': 'a'}, id)[:2] + [spent()]\n"
        "print(json.dumps([len(asked), spent(), upper(id), upper(id), upper('x'), upper('y')]))\n",
        "  limits: {toolCallsPerTask: 2}\n", "");
    Task task = bench_run(b, "1");
    expect(&task, "[1, 1, [200, \"ok\", 1], [200, \"ok\", 1], [200, \"ok\", 2], "
                  "[402, \"cap_reached\", 2]]");
    CHECK_INT(task.usage.tool_calls, 2);
    return 0;
}

static void test_asked_for_by_a_model(void **state)
{
    (void)state;
    bench(asked_scenario);
}

/* --- breakers, flags -------------------------------------------------------------------------- */

static int breaker_scenario(Bench *b)
{
    deploy(b,
           "for i in range(10): assert call('fail', {'code': 75})[1] == 'trouble'\n"
           "opened = call('fail', {'code': 0})\n"
           "print(json.dumps([opened[:2], int(heads['Retry-After']) > 0,\n"
           "  call('upper', {'text': 'x'})[:2]]))\n",
           "", "");
    Task task = bench_run(b, "1");
    expect(&task, "[[503, \"breaker_open\"], true, [200, \"ok\"]]");
    CHECK_INT(task.usage.tool_calls, 11); /* what the breaker kept back does not count */
    BreakersStats stats;
    breakers_stats(worker_breakers(b->worker), &stats);
    CHECK_INT(stats.by_state[BREAKER_OPEN], 1);
    return 0;
}

static void test_breaker(void **state)
{
    (void)state;
    bench(breaker_scenario);
}

static int flag_job(Db *db, void *arg)
{
    int64_t revision;
    return flag_put(db, STR("tool:up*"), str_of(arg), clock_real_ms(), &revision);
}

static int flag_scenario(Bench *b)
{
    char off[] = "{\"value\":false}";
    deploy(b,
           "first = call('upper', {'text': 'x'})[:2]\n"
           "said('ready')\n"
           "began = time.monotonic()\n"
           "while call('upper', {'text': 'x'})[0] == 200: time.sleep(0.01)\n"
           "print(json.dumps([first, call('upper', {'text': 'x'})[:2],\n"
           "  time.monotonic() - began]))\n",
           "  limits: {toolCallsPerTask: 10000}\n", "");
    Uuid id = bench_submit(b, "1", NULL);
    bench_log_until(b, id, "ready");
    CHECK_INT(store_call_wait(b->store, flag_job, off), 0);
    queue_signal_workers(b->queue);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK(str_starts_with(task.result, STR("[[200, \"ok\"], [403, \"switched_off\"], 0.")));
    return 0;
}

static void test_switched_off_while_it_runs(void **state)
{
    (void)state;
    bench(flag_scenario);
}

/* --- HTTP ------------------------------------------------------------------------------------- */

static StubEnd service(StubRequest *request, void *ctx)
{
    char head[256];
    (void)ctx;
    bool broken = str_find(request->body, STR("break")) >= 0;
    Str body = broken ? STR("down") : request->body;
    snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n",
             broken ? "500 Oh" : "200 OK", body.len);
    stub_sends(request, head);
    stub_send(request, body);
    return STUB_KEEP;
}

static Stub stub;

static int http_scenario(Bench *b)
{
    Str tool = arena_printf(&b->arena,
                            ",{\"name\":\"web\",\"description\":\"Is far\",\"source\":{\"http\":"
                            "{\"url\":\"http://127.0.0.1:%u/x\"}}}",
                            stub.port);
    deploy(b, "print(json.dumps([call('web', {'a': 1}), call('web', {'break': 1})]))\n", "",
           tool.ptr);
    Task task = bench_run(b, "1");
    expect(&task,
           "[[200, \"ok\", {\"a\": 1}], [200, \"trouble\", \"the tool answered HTTP 500: down\"]]");
    return 0;
}

static int guarded_scenario(Bench *b)
{
    Str tool = arena_printf(&b->arena,
                            ",{\"name\":\"web\",\"description\":\"Is far\",\"source\":{\"http\":"
                            "{\"url\":\"http://127.0.0.1:%u/x\"}}}",
                            stub.port);
    int before = atomic_load(&stub.requests);
    deploy(b, "print(json.dumps(call('web', {'a': 1})[:2]))\n", "", tool.ptr);
    Task task = bench_run(b, "1");
    expect(&task, "[200, \"trouble\"]");
    CHECK_INT(atomic_load(&stub.requests), before); /* the guard let nothing through */
    return 0;
}

static AddrGuard loopback;

static void allow_loopback(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->guard = &loopback;
}

static void test_http(void **state)
{
    (void)state;
    CHECK_INT(addr_guard_allow(&loopback, STR("127.0.0.0/8")), 0);
    stub_open(&stub, service, NULL);
    bench_with((Bench){ .scenario = http_scenario, .configure = allow_loopback, .lease_ms = 3000 });
    bench(guarded_scenario);
    stub_close(&stub);
}

/* --- ends ------------------------------------------------------------------------------------- */

/* A tool that runs when its task is cancelled, or when its agent has ended, is ended too. */
static int cancel_scenario(Bench *b)
{
    TaskState was;
    deploy(b,
           "import threading\n"
           "if json.load(sys.stdin)['input'] == 'leave':\n"
           "    threading.Thread(target=call, args=('long',), daemon=True).start()\n"
           "    time.sleep(1)\n"
           "else: call('long')\n",
           "", "");
    Uuid id = bench_submit(b, "\"stay\"", NULL);
    pid_t pid = (pid_t)strtol(bench_log_until(b, id, "tool runs ").ptr, NULL, 10);
    CHECK_INT(queue_cancel_wait(b->queue, id, STR("test"), &was), 0);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_CANCELED);
    bench_dies(pid);

    id = bench_submit(b, "\"leave\"", NULL);
    pid = (pid_t)strtol(bench_log_until(b, id, "tool runs ").ptr, NULL, 10);
    task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    bench_dies(pid);
    return 0;
}

static void test_ends_with_its_task(void **state)
{
    (void)state;
    bench(cancel_scenario);
}

typedef struct {
    int64_t task_seq;
    Arena *arena;
    ToolRecord *records;
    size_t n;
} RecordsJob;

static int records_job(Db *db, void *arg)
{
    RecordsJob *job = arg;
    return tool_record_list(db, job->task_seq, job->arena, &job->records, &job->n);
}

static int records_scenario(Bench *b)
{
    deploy(b, "call('upper', {'text': 'x'}); call('none'); call('fail', {})\n", "", "");
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    RecordsJob job = { .task_seq = task.seq, .arena = &b->arena };
    CHECK_INT(store_read_wait(b->store, records_job, &job), 0);
    if (!CHECK(job.n == 3)) return 0;
    static const char *const expected[3][3] = { { "upper", "command", "ok" },
                                                { "none", "none", "not_declared" },
                                                { "fail", "command", "error" } };
    for (size_t i = 0; i < 3; i++) {
        CHECK_STR(job.records[i].name, str_of(expected[i][0]));
        CHECK_STR(job.records[i].source, str_of(expected[i][1]));
        CHECK_STR(job.records[i].outcome, str_of(expected[i][2]));
        CHECK_INT(job.records[i].attempt, 1);
        CHECK_INT(job.records[i].counted, i != 1);
        CHECK(job.records[i].duration_ms >= 0 && job.records[i].at_ms > 0);
    }
    CHECK_INT(job.records[0].bytes, 13);
    QueueStats stats;
    queue_stats(b->queue, &stats);
    CHECK_INT(stats.tools_ok, 1);
    CHECK_INT(stats.tools_failed, 1);
    CHECK_INT(stats.tools_refused, 1);
    return 0;
}

static void test_recorded(void **state)
{
    (void)state;
    bench(records_scenario);
}

/* Several begin within a millisecond. */
static int order_scenario(Bench *b)
{
    deploy(b, "for i in range(40): call('n%d' % i)\n", "", "");
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    RecordsJob job = { .task_seq = task.seq, .arena = &b->arena };
    CHECK_INT(store_read_wait(b->store, records_job, &job), 0);
    if (!CHECK(job.n == 40)) return 0;
    for (size_t i = 0; i < job.n; i++) {
        char name[24];
        snprintf(name, sizeof name, "n%zu", i);
        CHECK_STR(job.records[i].name, str_of(name));
    }
    return 0;
}

static void test_recorded_in_order(void **state)
{
    (void)state;
    bench(order_scenario);
}

/* --- the journal ------------------------------------------------------------------------------ */

/* The tool does its work for the first attempt; the second is given what the first one was. Then it
 * asks for something else, and that is run. */
static int replay_scenario(Bench *b)
{
    char input[512], effects[400], text[64] = "";
    snprintf(effects, sizeof effects, "%s/effects", b->dir.path);
    snprintf(input, sizeof input, "\"%s\"", effects);
    deploy(
        b,
        "given = json.load(sys.stdin)\n"
        "out = [call('note', {'path': given['input'], 'text': 'a'}), heads['x-gantry-replayed'],\n"
        "  call('fail', {})[:2], heads['x-gantry-replayed']]\n"
        "if given['attempt'] == 1: sys.exit(75)\n"
        "out += [call('note', {'path': given['input'], 'text': 'b'}), heads['x-gantry-replayed']]\n"
        "print(json.dumps(out))\n",
        "  retry: {maxAttempts: 3, backoff: {initial: 10ms, max: 20ms}}\n"
        "  limits: {toolCallsPerTask: 3}\n",
        ",{\"name\":\"note\",\"description\":\"Notes\",\"source\":{\"command\":[\"python3\","
        "\"note.py\"]}}");
    Task task = bench_run(b, input);
    expect(&task, "[[200, \"ok\", \"noted a\"], \"1\", [200, \"error\"], \"1\", "
                  "[200, \"ok\", \"noted b\"], null]");
    CHECK_INT(task.attempt, 2);
    CHECK_INT(task.usage.tool_calls, 3);
    FILE *f = fopen(effects, "r");
    if (!CHECK(f != NULL)) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    CHECK_STR(str_of(text), STR("a\nb\n"));
    RecordsJob job = { .task_seq = task.seq, .arena = &b->arena };
    CHECK_INT(store_read_wait(b->store, records_job, &job), 0);
    if (!CHECK(job.n == 5)) return 0;
    for (size_t i = 0; i < 5; i++) {
        CHECK_INT(job.records[i].replayed, i == 2 || i == 3);
        CHECK_INT(job.records[i].counted, i != 2 && i != 3);
    }
    return 0;
}

static void test_replayed(void **state)
{
    (void)state;
    bench(replay_scenario);
}

/* The model's answer is served again, and what it asked for was counted with it: also when nothing
 * came of it the first time. */
static int asked_again_scenario(Bench *b)
{
    deploy(b,
           "given = json.load(sys.stdin)\n"
           "body = {'model': 'sim/loop', 'stream': given['input'], 'messages':\n"
           "  [{'role': 'user', 'content': 'go'}], 'tools':\n"
           "  [{'type': 'function', 'function': {'name': 'upper', 'description': 'Shouts',\n"
           "    'parameters': {'type': 'object', 'properties': {'text': {'type': 'string'}},\n"
           "    'required': ['text']}}}]}\n"
           "req = urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions',\n"
           "  json.dumps(body).encode())\n"
           "answer = urllib.request.urlopen(req)\n"
           "answer.read()\n"
           "if given['attempt'] == 1: sys.exit(75)\n"
           "print(json.dumps([answer.headers['x-gantry-replayed'],\n"
           "  call('upper', {'text': 'a'}, 'id')[:2], call('upper', {'text': 'b'}, 'no')[:2]]))\n",
           "  retry: {maxAttempts: 3, backoff: {initial: 10ms, max: 20ms}}\n"
           "  limits: {toolCallsPerTask: 1}\n",
           "");
    for (int stream = 0; stream < 2; stream++) {
        Task task = bench_run(b, stream ? "true" : "false");
        expect(&task, "[\"1\", [200, \"ok\"], [402, \"cap_reached\"]]");
        CHECK_INT(task.usage.tool_calls, 1);
    }
    return 0;
}

static void test_asked_for_again(void **state)
{
    (void)state;
    bench(asked_again_scenario);
}

/* --- once ------------------------------------------------------------------------------------- */

/* What was sent before a call of `upper` has been read when that has been answered. */
#define LEAVES                                                                            \
    "import http.client\n"                                                                \
    "def send(id):\n"                                                                     \
    "    c = http.client.HTTPConnection(base.split('/')[2])\n"                            \
    "    c.request('POST', '/gantry/v1/tools/wait', json.dumps({'dir': home}),\n"         \
    "              {'gantry-call-id': id} if id else {})\n"                               \
    "    return c\n"                                                                      \
    "def begun(n):\n"                                                                     \
    "    while len([x for x in os.listdir(home) if x[0] == 'b']) < n: time.sleep(0.01)\n" \
    "def ends(c):\n"                                                                      \
    "    assert call('upper', {'text': 'x'})[0] == 200\n"                                 \
    "    open(home + '/end', 'w').close()\n"                                              \
    "    r = c.getresponse()\n"                                                           \
    "    return [r.status, json.load(r)['result'], r.headers['x-gantry-replayed']]\n"     \
    "home = os.environ['TMPDIR']\n"

#define WAIT_TOOL                                                                                \
    ",{\"name\":\"wait\",\"description\":\"Waits\",\"source\":{\"command\":[\"python3\",\"-c\"," \
    "\"import json,os,sys,time\\nd=json.load(sys.stdin)['dir']\\nopen(d+'/b%d'%os.getpid(),"     \
    "'w').close()\\nwhile not os.path.exists(d+'/end'): time.sleep(0.01)\\nprint('done')\"]}}"

/* Its client leaves, and asks again: while the tool runs, and when it is done. */
static int once_scenario(Bench *b)
{
    deploy(b,
           LEAVES
           "c = send('id')\n"
           "begun(1)\n"
           "c.close()\n"
           "c = send('id')\n"
           "out = [call('upper', {'text': 'x'}, 'id')[:2], heads['x-should-retry'], ends(c),\n"
           "  call('wait', {'dir': home}, 'id'), call('wait', {'dir': '/'}, 'id')[:2]]\n"
           "begun(1)\n"
           "print(json.dumps(out + [len([x for x in os.listdir(home) if x[0] == 'b'])]))\n",
           "", WAIT_TOOL);
    Task task = bench_run(b, "1");
    expect(&task, "[[409, \"call_id_taken\"], \"false\", [200, \"done\", \"1\"], "
                  "[200, \"ok\", \"done\"], [409, \"call_id_taken\"], 1]");
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.tools_repeated, 2);
    CHECK_INT(stats.tools_clashed, 2);
    return 0;
}

/* Without an id an equal call is another one, unless the first one's client has left; then the
 * first who asks takes its place. */
static int no_id_scenario(Bench *b)
{
    deploy(b,
           LEAVES "first = send(None)\n"
                  "begun(1)\n"
                  "other = send(None)\n"
                  "begun(2)\n"
                  "first.close()\n"
                  "again = send(None)\n"
                  "out = [ends(again), ends(other)]\n"
                  "print(json.dumps(out + [len([x for x in os.listdir(home) if x[0] == 'b'])]))\n",
           "", WAIT_TOOL);
    Task task = bench_run(b, "1");
    expect(&task, "[[200, \"done\", \"1\"], [200, \"done\", null], 2]");
    CHECK_INT(task.usage.tool_calls, 4);
    return 0;
}

/* Nor is one made twice whose client left and comes back when it is done; who got the result and
 * asks again asks for another one. */
static int owed_scenario(Bench *b)
{
    deploy(b,
           LEAVES "first = send(None)\n"
                  "begun(1)\n"
                  "first.close()\n"
                  "open(home + '/end', 'w').close()\n"
                  "time.sleep(0.3)\n"
                  "out = [ends(send(None)), ends(send(None))]\n"
                  "print(json.dumps(out + [len([x for x in os.listdir(home) if x[0] == 'b'])]))\n",
           "", WAIT_TOOL);
    Task task = bench_run(b, "1");
    expect(&task, "[[200, \"done\", \"1\"], [200, \"done\", null], 2]");
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.tools_repeated, 1);
    CHECK_INT(stats.tools_clashed, 0);
    return 0;
}

/* Nor one whose client came back and left again before it was done. */
static int owed_again_scenario(Bench *b)
{
    deploy(b,
           LEAVES "first = send(None)\n"
                  "begun(1)\n"
                  "for i in range(2):\n"
                  "    first.close()\n"
                  "    call('upper', {'text': 'x'})\n"
                  "    first = send(None)\n"
                  "    call('upper', {'text': 'x'})\n"
                  "first.close()\n"
                  "call('upper', {'text': 'x'})\n"
                  "open(home + '/end', 'w').close()\n"
                  "time.sleep(0.3)\n"
                  "out = [ends(send(None)), ends(send(None))]\n"
                  "print(json.dumps(out + [len([x for x in os.listdir(home) if x[0] == 'b'])]))\n",
           "", WAIT_TOOL);
    Task task = bench_run(b, "1");
    expect(&task, "[[200, \"done\", \"1\"], [200, \"done\", null], 2]");
    return 0;
}

/* What is remembered has an end: of many the oldest are made again, of large results only that
 * they were there is known. */
static int forgotten_scenario(Bench *b)
{
    Str tools = arena_printf(&b->arena,
                             ",{\"name\":\"web\",\"description\":\"Is far\",\"source\":{\"http\":"
                             "{\"url\":\"http://127.0.0.1:%u/x\"}}},{\"name\":\"huge\","
                             "\"description\":\"x\",\"outputBytesMax\":2000000,\"source\":{"
                             "\"command\":[\"python3\",\"-c\",\"print('x' * 1500000)\"]}}",
                             stub.port);
    int before = atomic_load(&stub.requests);
    deploy(b,
           "for i in range(65): call('web', {'i': i}, 'id%d' % i)\n"
           "out = []\n"
           "for i in (64, 1, 0): out += [call('web', {'i': i}, 'id%d' % i)[0]]\n"
           "print(json.dumps(out + [call('huge', {}, 'h')[:2], call('huge', {}, 'h')[:2],\n"
           "  call('web', {'i': 0}, 'id0')[:2]]))\n",
           "  limits: {toolCallsPerTask: 100}\n", tools.ptr);
    Task task = bench_run(b, "1");
    expect(&task, "[200, 200, 200, [200, \"ok\"], [409, \"call_result_lost\"], "
                  "[200, \"ok\"]]");
    CHECK_INT(atomic_load(&stub.requests) - before, 66); /* the first one twice */
    return 0;
}

static void test_once(void **state)
{
    (void)state;
    bench(once_scenario);
    bench(no_id_scenario);
    bench(owed_scenario);
    bench(owed_again_scenario);
    stub_open(&stub, service, NULL);
    bench_with(
        (Bench){ .scenario = forgotten_scenario, .configure = allow_loopback, .lease_ms = 3000 });
    stub_close(&stub);
}

/* What is not worth a row each is not recorded without end. */
static int many_scenario(Bench *b)
{
    deploy(
        b,
        "for i in range(1010): call('none')\nprint(json.dumps(call('upper', {'text': 'x'})[1]))\n",
        "  limits: {secondsPerTask: 120}\n", "");
    Task task = bench_run(b, "1");
    expect(&task, "\"ok\"");
    CHECK_INT(task.usage.tool_calls, 1);
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.tools_not_recorded, 10);
    CHECK_INT(stats.tools[TOOL_OUTCOME_UNKNOWN], 1010);
    return 0;
}

static void test_records_have_a_limit(void **state)
{
    (void)state;
    bench(many_scenario);
}

static int crowd_scenario(Bench *b)
{
    deploy(
        b,
        "import threading\n"
        "for i in range(32): threading.Thread(target=call, args=('hold',), daemon=True).start()\n"
        "while len(os.listdir(os.environ['TMPDIR'])) < 32: time.sleep(0.02)\n"
        "print(json.dumps(call('upper', {'text': 'x'})[:2]))\n",
        "",
        ",{\"name\":\"hold\",\"description\":\"Holds on\",\"source\":{\"command\":[\"sh\","
        "\"hold.sh\"]}}");
    Task task = bench_run(b, "1");
    expect(&task, "[429, \"too_many_calls\"]");
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.tools_crowded, 1);
    return 0;
}

static void test_many_at_a_time(void **state)
{
    (void)state;
    bench(crowd_scenario);
}

/* --- scores, and what is noted of an attempt -------------------------------------------------- */

#define SCORE                                                                           \
    "def score(body, method='POST'):\n"                                                 \
    "    req = urllib.request.Request(os.environ['GANTRY_URL'] + '/gantry/v1/score',\n" \
    "                                 body, method=method)\n"                           \
    "    try:\n"                                                                        \
    "        with urllib.request.urlopen(req) as r: return r.status\n"                  \
    "    except urllib.error.HTTPError as e: return [e.code, json.load(e)['code']]\n"

static int score_scenario(Bench *b)
{
    deploy(b,
           SCORE "print(json.dumps([score(b'{\"value\":0.25}'),\n"
                 "  score(b'{\"value\":0.5,\"comment\":\"meh\"}'),\n"
                 "  score(b'{\"name\":\"tests\",\"value\":1}'), score(b'{\"value\":2}'),\n"
                 "  score(b'{\"value\":1,\"valeu\":1}'), score(b'[1'), score(b'x' * 20000),\n"
                 "  score(b'{}', 'PUT')]))\n",
           "", "");
    Task task = bench_run(b, "1");
    expect(&task, "[204, 204, 204, [400, \"body_invalid\"], [400, \"body_invalid\"], "
                  "[400, \"body_invalid\"], [413, \"body_too_large\"], "
                  "[405, \"method_not_allowed\"]]");
    CHECK(task.quality == 0.75); /* the mean of "agent" and "tests" */
    CHECK_HAS(bench_log(b, task.id), "scored agent=0.5: meh");
    return 0;
}

static void test_score(void **state)
{
    (void)state;
    bench(score_scenario);
}

typedef struct {
    Arena *arena;
    int64_t seq;
    bool known;
    int64_t fingerprint;
    Str tools;
} Conducted;

static int conducted_job(Db *db, void *arg)
{
    Conducted *c = arg;
    DbStmt *s = db_stmt(db, "SELECT fingerprint, tools FROM task WHERE seq = ?1");
    db_bind_i64(s, 1, c->seq);
    int r = db_step(s);
    if (r != DB_E_ROW) return r < 0 ? r : -ENOENT;
    c->known = !db_is_null(s, 0);
    c->fingerprint = db_i64(s, 0);
    c->tools = db_str_dup(s, 1, c->arena);
    db_reset(s);
    return 0;
}

static Conducted conducted(Bench *b, const char *input)
{
    Conducted c = { .arena = &b->arena, .seq = bench_run(b, input).seq };
    CHECK_INT(store_read_wait(b->store, conducted_job, &c), 0);
    CHECK(c.known);
    return c;
}

/* Like conduct has the same fingerprint; another tool, or a tool that fails, another one. */
static int conduct_scenario(Bench *b)
{
    deploy(b,
           "what = json.load(sys.stdin)['input']\n"
           "call('upper', {'text': str(what)})\n"
           "if what > 1: call('upper', {'text': 'more'})\n"
           "if what > 2: call('fail', {'code': what - 3})\n"
           "print('all right')\n",
           "", "");
    Conducted one = conducted(b, "1"), again = conducted(b, "0"), more = conducted(b, "2");
    CHECK_STR(one.tools, STR("1 upper\n"));
    CHECK_INT(one.fingerprint, again.fingerprint);
    CHECK_STR(more.tools, STR("2 upper\n"));
    CHECK(more.fingerprint != one.fingerprint);
    Conducted fine = conducted(b, "3"), failed = conducted(b, "4");
    CHECK_STR(fine.tools, STR("2 upper\n1 fail\n"));
    CHECK_STR(failed.tools, fine.tools);
    CHECK(failed.fingerprint != fine.fingerprint);
    return 0;
}

static void test_conduct(void **state)
{
    (void)state;
    bench(conduct_scenario);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cap),
        cmocka_unit_test(test_asked_for_by_a_model),
        cmocka_unit_test(test_breaker),
        cmocka_unit_test(test_switched_off_while_it_runs),
        cmocka_unit_test(test_http),
        cmocka_unit_test(test_ends_with_its_task),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_recorded_in_order),
        cmocka_unit_test(test_replayed),
        cmocka_unit_test(test_asked_for_again),
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_records_have_a_limit),
        cmocka_unit_test(test_many_at_a_time),
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_conduct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
