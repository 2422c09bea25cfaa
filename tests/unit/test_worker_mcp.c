/* Tools of MCP servers: a scripted server over HTTP, and one in Python over pipes. */
#include "worker_bench.h"

#include "stub_server.h"
#include "worker/mcp.h"

#define SCHEMA "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}}}"

/* --- the server ------------------------------------------------------------------------------- */

typedef enum {
    SPEAKS_JSON,
    SPEAKS_SSE,
    SPEAKS_STATELESS,
    FORGETS,     /* each session, once */
    FORGETS_ALL, /* sessions as soon as they are made */
    CHANGES,     /* the description, after the first call */
    RENAMES,     /* has no such tool */
    DOUBLES,     /* has two of the name */
    PAGES,       /* the tool is on the third page */
    PAGES_ON,    /* without end */
    FAILS,       /* isError */
    REFUSES,     /* a JSON-RPC error */
    HANGS,       /* in the call */
    CUTS,        /* the event stream, before the answer */
    FLOODS,      /* more than the tool's outputBytesMax */
    BABBLES,     /* no JSON */
    OLD,         /* speaks a version that nobody knows */
} Mode;

typedef struct {
    Mode mode;
    pthread_mutex_t lock;
    int calls, lists, greetings, goodbyes, cancelled, answers, sessions;
    char seen[8192]; /* heads of the last call of the tool */
} Server;

static Server server = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void server_reset(Mode mode)
{
    pthread_mutex_lock(&server.lock);
    server.mode = mode;
    server.calls = server.lists = server.greetings = server.goodbyes = 0;
    server.cancelled = server.answers = server.sessions = 0;
    server.seen[0] = '\0';
    pthread_mutex_unlock(&server.lock);
}

static int id_of(Str body)
{
    ptrdiff_t at = str_find(body, STR("\"id\":"));
    return at < 0 ? -1 : (int)strtol(body.ptr + at + 5, NULL, 10);
}

static bool has(Str body, const char *part)
{
    return str_find(body, str_of(part)) >= 0;
}

static void reply(StubRequest *r, const char *status, const char *type, const char *more,
                  const char *body)
{
    char head[512];
    snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n",
             status, type, more, strlen(body));
    stub_sends(r, head);
    stub_sends(r, body);
}

/* As JSON, or as an event among others. */
static void answer(StubRequest *r, const char *more, int id, const char *result)
{
    static char body[300000];
    if (server.mode == SPEAKS_SSE) {
        snprintf(
            body, sizeof body,
            "id: 1\ndata: \n\n: hello\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":"
            "\"notifications/message\",\"params\":{}}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"s1\","
            "\"method\":\"ping\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":%d,\ndata: %s}\n\n",
            id, result);
        reply(r, "200 OK", "text/event-stream", more, body);
        return;
    }
    snprintf(body, sizeof body, "{\"jsonrpc\":\"2.0\",\"id\":%d,%s}", id, result);
    reply(r, "200 OK", "application/json; charset=utf-8", more, body);
}

static void on_list(StubRequest *r, int id)
{
    const char *description = server.mode == CHANGES && server.calls > 0 ? "Shouts!" : "Shouts";
    char result[4096], tool[1024];
    server.lists++;
    snprintf(tool, sizeof tool,
             "{\"name\":\"%s\",\"title\":\"T\",\"description\":\"%s\",\"inputSchema\":%s}",
             server.mode == RENAMES ? "other" : "far", description, SCHEMA);
    bool early = server.mode == PAGES && !has(r->body, "\"p2\"");
    if (early || server.mode == PAGES_ON)
        snprintf(result, sizeof result,
                 "\"result\":{\"tools\":[{\"name\":\"x\"}],\"nextCursor\":\"%s\"}",
                 has(r->body, "\"p1\"") ? "p2" : "p1");
    else
        snprintf(result, sizeof result, "\"result\":{\"tools\":[%s%s%s]}", tool,
                 server.mode == DOUBLES ? "," : "", server.mode == DOUBLES ? tool : "");
    answer(r, "", id, result);
}

static StubEnd on_call(StubRequest *r, int id)
{
    static char big[200000];
    server.calls++;
    str_copy(server.seen, sizeof server.seen, r->head);
    if (server.mode == CUTS) {
        stub_sends(r, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: wait\n\n");
        return STUB_CLOSE;
    }
    if (server.mode == FLOODS) {
        memset(big, 'x', sizeof big - 1);
        static char result[210000];
        snprintf(result, sizeof result,
                 "\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"%s\"}]}", big);
        answer(r, "", id, result);
    } else if (server.mode == FAILS) {
        answer(
            r, "", id,
            "\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"no such order\"}],\"isError\":true}");
    } else if (server.mode == REFUSES) {
        answer(r, "", id, "\"error\":{\"code\":-32602,\"message\":\"bad text\"}");
    } else if (server.mode == BABBLES) {
        reply(r, "200 OK", "application/json", "", "hello");
    } else {
        answer(
            r, "", id,
            "\"result\":{\"resultType\":\"complete\",\"content\":[{\"type\":\"text\",\"text\":\"HI\"}]}");
    }
    return STUB_KEEP;
}

static bool session_ok(const StubRequest *r)
{
    char current[32];
    if (server.mode == SPEAKS_STATELESS) return str_empty(stub_field(r, "mcp-session-id"));
    snprintf(current, sizeof current, "s-%d", server.sessions);
    return str_eq(stub_field(r, "mcp-session-id"), str_of(current)) && server.mode != FORGETS_ALL;
}

static StubEnd serve(StubRequest *r)
{
    int id = id_of(r->body);
    char more[64];
    if (str_starts_with(r->line, STR("DELETE"))) {
        server.goodbyes++;
        reply(r, "204 No Content", "text/plain", "", "");
    } else if (has(r->body, "\"initialize\"")) {
        server.greetings++;
        server.sessions++;
        snprintf(more, sizeof more, "Mcp-Session-Id: s-%d\r\n", server.sessions);
        if (server.mode == SPEAKS_STATELESS)
            reply(r, "404 Not Found", "application/json", "",
                  "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"no\"}}");
        else
            answer(r, more, id,
                   server.mode == OLD
                       ? "\"result\":{\"protocolVersion\":\"1999-01-01\"}"
                       : "\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{}}");
    } else if (!session_ok(r)) {
        reply(r, "404 Not Found", "text/plain", "", "no such session");
    } else if (id < 0 || has(r->body, "\"result\"") || has(r->body, "\"s1\"")) {
        server.cancelled += has(r->body, "notifications/cancelled");
        server.answers += has(r->body, "\"s1\"");
        reply(r, "202 Accepted", "text/plain", "", "");
    } else if (server.mode == FORGETS && server.lists == 0) {
        server.lists++;
        server.sessions++;
        reply(r, "404 Not Found", "text/plain", "", "no such session");
    } else if (has(r->body, "\"tools/list\"")) {
        on_list(r, id);
    } else {
        return on_call(r, id);
    }
    return STUB_KEEP;
}

static StubEnd on_request(StubRequest *r, void *ctx)
{
    Server *s = ctx;
    if (s->mode == HANGS && has(r->body, "\"tools/call\""))
        while (!atomic_load(&r->stub->closing) && s->mode == HANGS) stub_sleep_ms(5);
    pthread_mutex_lock(&s->lock);
    StubEnd end = serve(r);
    pthread_mutex_unlock(&s->lock);
    return end;
}

static Stub stub;

/* --- the agent -------------------------------------------------------------------------------- */

#define AGENT                                                                         \
    "import json, sys, os, urllib.request, urllib.error, threading\n"                 \
    "base = os.environ['GANTRY_URL'] + '/gantry/v1/tools/'\n"                         \
    "def call(name='far', arguments={'text': 'hi'}):\n"                               \
    "    req = urllib.request.Request(base + name, json.dumps(arguments).encode())\n" \
    "    try:\n"                                                                      \
    "        with urllib.request.urlopen(req) as r: a = json.load(r)\n"               \
    "        return [200, a['outcome'], a['result']]\n"                               \
    "    except urllib.error.HTTPError as e:\n"                                       \
    "        a = json.load(e)\n"                                                      \
    "        return [e.code, a['code'], a['detail']]\n"

/* A server over pipes; behaves as its argument says. */
#define PIPE_SERVER                                                                    \
    "import json, sys, time, os\n"                                                     \
    "mode = sys.argv[1]\n"                                                             \
    "print('server runs', os.getpid(), file=sys.stderr, flush=True)\n"                 \
    "print('a line of log', flush=True)\n"                                             \
    "def say(v): print(json.dumps(v), flush=True)\n"                                   \
    "n = 0\n"                                                                          \
    "for line in sys.stdin:\n"                                                         \
    "    m = json.loads(line)\n"                                                       \
    "    if 'method' not in m or 'id' not in m: continue\n"                            \
    "    if m['method'] == 'initialize':\n"                                            \
    "        r = {'protocolVersion': '2025-11-25', 'capabilities': {'tools': {}},\n"   \
    "             'serverInfo': {'name': 's', 'version': '1'}}\n"                      \
    "    elif m['method'] == 'tools/list':\n"                                          \
    "        say({'jsonrpc': '2.0', 'id': 'p', 'method': 'ping'})\n"                   \
    "        r = {'tools': [{'name': 'far', 'description': 'Shouts', 'inputSchema':\n" \
    "             json.loads('" SCHEMA "')}]}\n"                                       \
    "    else:\n"                                                                      \
    "        n += 1\n"                                                                 \
    "        if mode == 'dies': sys.exit(1)\n"                                         \
    "        if mode == 'hangs' and n == 1: time.sleep(60)\n"                          \
    "        for i in range(45 if mode == 'tells' else 0):\n"                          \
    "            say({'jsonrpc': '2.0', 'method': 'notifications/message',\n"          \
    "                 'params': {'data': [0] * 300000}})\n"                            \
    "        text = m['params']['arguments']['text'].upper() + str(n)\n"               \
    "        r = {'content': [{'type': 'text', 'text': text}]}\n"                      \
    "    say({'jsonrpc': '2.0', 'id': m['id'], 'result': r})\n"

static void deploy_source(Bench *b, const char *script, const char *source, const char *more)
{
    Str tools = arena_printf(&b->arena,
                             "[{\"name\":\"far\",\"description\":\"Shouts\",\"inputSchema\":%s%s,"
                             "\"source\":{\"mcp\":%s}}]",
                             SCHEMA, more, source);
    Str agent = arena_printf(&b->arena, "%s%s", AGENT, script);
    BenchFile files[] = {
        { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                        "  runtime: process\n  command: [python3, script]\n  tools: tools.json\n" },
        { "script", agent.ptr },
        { "tools.json", tools.ptr },
        { "server.py", PIPE_SERVER },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
}

static void deploy(Bench *b, const char *script, const char *more)
{
    Str source = arena_printf(&b->arena,
                              "{\"url\":\"http://127.0.0.1:%u/mcp\",\"headers\":{\"authorization\":"
                              "{\"env\":\"GANTRY_TOOL_KEY\"}}}",
                              stub.port);
    deploy_source(b, script, source.ptr, more);
}

static void run_expect(Bench *b, const char *result)
{
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, str_of(result));
}

static AddrGuard loopback;

static void allow_loopback(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->guard = &loopback;
}

static void with_server(Mode mode, int (*scenario)(Bench *b))
{
    if (loopback.allow_n == 0) CHECK_INT(addr_guard_allow(&loopback, STR("127.0.0.0/8")), 0);
    setenv("GANTRY_TOOL_KEY", "Bearer t0ken", 1);
    server_reset(mode);
    stub_open(&stub, on_request, &server);
    bench_with((Bench){ .scenario = scenario, .configure = allow_loopback, .lease_ms = 3000 });
    stub_close(&stub);
}

/* --- over HTTP -------------------------------------------------------------------------------- */

static int once_scenario(Bench *b)
{
    deploy(b, "print(json.dumps([call(), call()]))\n", "");
    run_expect(b, "[[200, \"ok\", \"HI\"], [200, \"ok\", \"HI\"]]");
    CHECK_INT(server.calls, 2);
    CHECK_INT(server.greetings, 1);
    CHECK(strstr(server.seen, "Bearer t0ken") != NULL);
    return 0;
}

static void test_json(void **state)
{
    (void)state;
    with_server(SPEAKS_JSON, once_scenario);
    CHECK_INT(server.lists, 2); /* before every call */
    CHECK_INT(server.goodbyes, 1);
    CHECK(strstr(server.seen, "2025-06-18") && strstr(server.seen, "s-1"));
    check_none();
}

static void test_events(void **state)
{
    (void)state;
    with_server(SPEAKS_SSE, once_scenario);
    CHECK(server.answers > 0); /* its pings */
    CHECK_INT(server.goodbyes, 1);
    check_none();
}

static void test_without_a_session(void **state)
{
    (void)state;
    with_server(SPEAKS_STATELESS, once_scenario);
    CHECK(strstr(server.seen, "2026-07-28") && strstr(server.seen, "tools/call") &&
          strstr(server.seen, ": far"));
    CHECK_INT(server.goodbyes, 0);
    check_none();
}

static int forget_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()))\n", "");
    run_expect(b, "[200, \"ok\", \"HI\"]");
    CHECK_INT(server.calls, 1);
    CHECK_INT(server.greetings, 2);
    return 0;
}

static void test_forgotten_session(void **state)
{
    (void)state;
    with_server(FORGETS, forget_scenario);
}

static int forget_all_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()))\n", "");
    run_expect(
        b,
        "[200, \"trouble\", \"the tool could not be reached: the server forgets its sessions\"]");
    CHECK_INT(server.calls, 0);
    return 0;
}

static void test_forgetful_server(void **state)
{
    (void)state;
    with_server(FORGETS_ALL, forget_all_scenario);
}

/* --- the rug ---------------------------------------------------------------------------------- */

static int change_scenario(Bench *b)
{
    deploy(b, "print(json.dumps([call()[:2], call(), call()[:2]]))\n", "");
    run_expect(
        b, "[[200, \"ok\"], [403, \"tool_changed\", \"the tool has changed since the version was "
           "made, and was not called: its description differs from byte 6 on\"], "
           "[403, \"tool_changed\"]]");
    CHECK_INT(server.calls, 1);
    return 0;
}

static void test_changed_tool(void **state)
{
    (void)state;
    with_server(CHANGES, change_scenario);
}

static int blocked_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()[:2]))\n", "");
    run_expect(b, "[403, \"tool_changed\"]");
    CHECK_INT(server.calls, 0);
    return 0;
}

static void test_vanished_and_doubled_tools(void **state)
{
    (void)state;
    with_server(RENAMES, blocked_scenario);
    with_server(DOUBLES, blocked_scenario);
}

static int pages_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()[:2]))\n", "");
    run_expect(b, "[200, \"ok\"]");
    CHECK_INT(server.lists, 3);
    return 0;
}

static int endless_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()))\n", "");
    run_expect(b,
               "[200, \"trouble\", \"the tool could not be reached: the server's list of tools has "
               "more than 64 pages\"]");
    CHECK_INT(server.calls, 0);
    return 0;
}

static void test_pages(void **state)
{
    (void)state;
    with_server(PAGES, pages_scenario);
    with_server(PAGES_ON, endless_scenario);
}

/* --- troubles --------------------------------------------------------------------------------- */

static const char *expected;

static int trouble_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()))\n", ",\"timeout\":\"400ms\",\"outputBytesMax\":100000");
    run_expect(b, expected);
    return 0;
}

static void trouble(Mode mode, const char *result)
{
    expected = result;
    with_server(mode, trouble_scenario);
}

static void test_troubles(void **state)
{
    (void)state;
    trouble(FAILS, "[200, \"error\", \"no such order\"]");
    trouble(REFUSES, "[200, \"error\", \"the server answered error -32602: bad text\"]");
    trouble(CUTS,
            "[200, \"trouble\", \"the tool could not be reached: the server ended its answer too "
            "early\"]");
    trouble(FLOODS, "[200, \"too_large\", \"the tool gave more than 100000 bytes\"]");
    trouble(
        BABBLES,
        "[200, \"trouble\", \"the tool could not be reached: the server's answer is not JSON\"]");
    trouble(OLD, "[200, \"trouble\", \"the tool could not be reached: the server speaks version "
                 "\\\"1999-01-01\\\" of MCP, which is not known here\"]");
}

static void test_timeout(void **state)
{
    (void)state;
    trouble(HANGS, "[200, \"timeout\", \"the tool did not finish within 400 ms\"]");
    CHECK_INT(server.cancelled, 1); /* the server was told */
    check_none();
}

static int guarded_scenario(Bench *b)
{
    deploy(b, "print(json.dumps(call()[:2]))\n", "");
    run_expect(b, "[200, \"trouble\"]");
    CHECK_INT(server.greetings, 0);
    return 0;
}

static void test_guard(void **state)
{
    (void)state;
    server_reset(SPEAKS_JSON);
    stub_open(&stub, on_request, &server);
    bench(guarded_scenario);
    stub_close(&stub);
}

/* A task has connections to so many servers and no more. */
static int many_scenario(Bench *b)
{
    Str tools = STR("["),
        yaml = STR("apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                   "  command: [python3, script]\n  tools: tools.json\n");
    for (int i = 0; i <= MCP_RUN_SESSIONS_MAX; i++)
        tools = arena_printf(
            &b->arena,
            "%.*s%s{\"name\":\"t%d\",\"description\":\"Shouts\",\"inputSchema\":%s,"
            "\"source\":{\"mcp\":{\"url\":\"http://127.0.0.1:%u/mcp?n=%d\",\"tool\":"
            "\"far\"}}}",
            STR_ARG(tools), i ? "," : "", i, SCHEMA, stub.port, i);
    tools = arena_printf(&b->arena, "%.*s]", STR_ARG(tools));
    Str agent = arena_printf(&b->arena,
                             "%sprint(json.dumps([[call('t%%d' %% i)[1] for i in range(%d)],"
                             " call('t%d'), call('t0')[1]]))\n",
                             AGENT, MCP_RUN_SESSIONS_MAX, MCP_RUN_SESSIONS_MAX);
    BenchFile files[] = { { "agent.yaml", yaml.ptr },
                          { "script", agent.ptr },
                          { "tools.json", tools.ptr } };
    bench_deploy_files(b, files, ARRAY_N(files));
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK(str_ends_with(task.result,
                        STR("\"ok\"], [200, \"trouble\", \"the tool could not be reached: "
                            "there are too many connections to MCP servers\"], \"ok\"]")));
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.mcp_crowded, 1);
    return 0;
}

static void test_many_servers(void **state)
{
    (void)state;
    with_server(SPEAKS_STATELESS, many_scenario);
}

/* --- over pipes ------------------------------------------------------------------------------- */

static int pipe_scenario(Bench *b)
{
    deploy_source(b,
                  "out = []\n"
                  "def one(): out.append(call()[2])\n"
                  "threads = [threading.Thread(target=one) for i in range(5)]\n"
                  "for t in threads: t.start()\n"
                  "for t in threads: t.join()\n"
                  "print(json.dumps(sorted(out)))\n",
                  "{\"command\":[\"python3\",\"server.py\",\"well\"]}", "");
    Uuid id = bench_submit(b, "1", NULL);
    pid_t pid = (pid_t)strtol(bench_log_until(b, id, "server runs ").ptr, NULL, 10);
    Task task = bench_end(b, id);
    CHECK_STR(task.result, STR("[\"HI1\", \"HI2\", \"HI3\", \"HI4\", \"HI5\"]"));
    bench_dies(pid); /* with its task */
    return 0;
}

static void test_pipes(void **state)
{
    (void)state;
    bench(pipe_scenario);
}

/* However much a server tells before it answers, nothing of it is kept. */
static int pipe_tells_scenario(Bench *b)
{
    deploy_source(b, "print(json.dumps(call()))\n",
                  "{\"command\":[\"python3\",\"server.py\",\"tells\"]}", ",\"timeout\":\"5m\"");
    run_expect(b, "[200, \"ok\", \"HI1\"]");
    return 0;
}

static void test_pipes_tell_much(void **state)
{
    (void)state;
    bench(pipe_tells_scenario);
}

static int pipe_trouble_scenario(Bench *b)
{
    deploy_source(b, "print(json.dumps([call(), call()[:2]]))\n",
                  "{\"command\":[\"python3\",\"server.py\",\"dies\"]}", "");
    run_expect(b, "[[200, \"trouble\", \"the tool could not be reached: the server has ended\"], "
                  "[200, \"trouble\"]]");
    /* one that hangs is started anew */
    deploy_source(b, "print(json.dumps([call()[:2], call()[:2]]))\n",
                  "{\"command\":[\"python3\",\"server.py\",\"hangs\"]}", ",\"timeout\":\"2s\"");
    run_expect(b, "[[200, \"timeout\"], [200, \"timeout\"]]");
    deploy_source(b, "print(json.dumps(call()[:2]))\n", "{\"command\":[\"no-such-program\"]}", "");
    run_expect(b, "[200, \"trouble\"]");
    return 0;
}

static void test_pipe_troubles(void **state)
{
    (void)state;
    bench(pipe_trouble_scenario);
}

/* Tools of one server share a breaker, which no other server has. */
static int pipe_breaker_scenario(Bench *b)
{
    static const char *const servers[] = { "one", "one", "two" };
    Str tools = STR("[");
    for (int i = 0; i < 3; i++)
        tools = arena_printf(&b->arena,
                             "%.*s%s{\"name\":\"t%d\",\"inputSchema\":%s,\"source\":{\"mcp\":"
                             "{\"command\":[\"no-such-program\",\"%s\"],\"tool\":\"far\"}}}",
                             STR_ARG(tools), i ? "," : "", i, SCHEMA, servers[i]);
    tools = arena_printf(&b->arena, "%.*s]", STR_ARG(tools));
    Str agent = arena_printf(
        &b->arena,
        "%sfor i in range(10): assert call('t%%d' %% (i %% 2))[1] == 'trouble'\n"
        "print(json.dumps([call('t%%d' %% i)[1] for i in range(3)]))\n",
        AGENT);
    BenchFile files[] = {
        { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                        "  command: [python3, script]\n  tools: tools.json\n" },
        { "script", agent.ptr },
        { "tools.json", tools.ptr },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
    run_expect(b, "[\"breaker_open\", \"breaker_open\", \"trouble\"]");
    BreakerInfo list[8];
    size_t n = breakers_list(worker_breakers(b->worker), list, ARRAY_N(list));
    CHECK(n == 2 && strcmp(list[0].name, "a/t0") == 0 && strcmp(list[1].name, "a/t2") == 0);
    return 0;
}

static void test_pipe_breaker(void **state)
{
    (void)state;
    bench(pipe_breaker_scenario);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_without_a_session),
        cmocka_unit_test(test_forgotten_session),
        cmocka_unit_test(test_forgetful_server),
        cmocka_unit_test(test_changed_tool),
        cmocka_unit_test(test_vanished_and_doubled_tools),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_troubles),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_many_servers),
        cmocka_unit_test(test_pipes),
        cmocka_unit_test(test_pipes_tell_much),
        cmocka_unit_test(test_pipe_troubles),
        cmocka_unit_test(test_pipe_breaker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
