/* State at the agent's door: a real agent, a real listener; and what a builtin agent remembers. */
#include "worker_bench.h"

/* call(method, key, body, headers) gives [status, code or body, etag]. */
#define AGENT                                                                   \
    "import json, os, sys, urllib.request, urllib.error\n"                      \
    "base = os.environ['GANTRY_URL'] + '/gantry/v1/state'\n"                    \
    "def call(method, key='', body=None, **heads):\n"                           \
    "    req = urllib.request.Request(base + key, body, method=method)\n"       \
    "    for k, v in heads.items(): req.add_header(k.replace('_', '-'), v)\n"   \
    "    try:\n"                                                                \
    "        with urllib.request.urlopen(req) as r:\n"                          \
    "            return [r.status, r.read().decode(), r.headers.get('ETag')]\n" \
    "    except urllib.error.HTTPError as e:\n"                                 \
    "        raw = e.read()\n"                                                  \
    "        return [e.code, json.loads(raw)['code'] if raw else '', e.headers.get('ETag')]\n"

static Task run_agent(Bench *b, const char *script)
{
    Str text = arena_printf(&b->arena, "%s%s", AGENT, script);
    bench_deploy(b, "python3", text.ptr, "");
    Task task = bench_run(b, "1");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    return task;
}

static int routes(Bench *b)
{
    Task task = run_agent(
        b,
        "made = call('PUT', '/a%2Fb', b'{}', Content_Type='application/json')\n"
        "got = call('GET', '/a%2Fb')\n"
        "listed = json.loads(call('GET')[1])['keys']\n"
        "print(json.dumps([made[0], json.loads(made[1])['key'], got[0], got[1], got[2] == made[2],\n"
        "  call('GET', '/a%2Fb', If_None_Match=got[2])[0], [k['key'] for k in listed],\n"
        "  listed[0]['contentType'], call('GET', '/none')[:2], call('DELETE', '/a%2Fb')[0],\n"
        "  call('GET', '/a%2Fb')[0]]))\n");
    CHECK_STR(task.result,
              STR("[201, \"a/b\", 200, \"{}\", true, 304, [\"a/b\"], \"application/json\", "
                  "[404, \"state_absent\"], 204, 404]"));
    return 0;
}

static void test_routes(void **state)
{
    (void)state;
    bench(routes);
}

static int conditions(Bench *b)
{
    Task task = run_agent(
        b,
        "one = call('PUT', '/k', b'1', If_None_Match='*')\n"
        "two = call('PUT', '/k', b'2', If_Match=one[2])\n"
        "late = call('PUT', '/k', b'3', If_Match=one[2])\n"
        "print(json.dumps([one[0], two[0], late[0], late[1], late[2] == two[2],\n"
        "  call('PUT', '/k', b'x', If_None_Match='*')[:2], call('PUT', '/n', b'', If_Match='*')[:2],\n"
        "  call('DELETE', '/k', If_Match=one[2])[:2], call('PUT', '/k', b'', If_Match='7')[:2],\n"
        "  call('PUT', '/k', b'', If_Match='*', If_None_Match='*')[:2], call('GET', '/k')[1]]))\n");
    CHECK_STR(task.result,
              STR("[201, 200, 412, \"precondition_failed\", true, [412, \"precondition_failed\"], "
                  "[412, \"precondition_failed\"], [412, \"precondition_failed\"], "
                  "[400, \"precondition_invalid\"], [400, \"precondition_invalid\"], \"2\"]"));
    return 0;
}

static void test_conditions(void **state)
{
    (void)state;
    bench(conditions);
}

static int refusals(Bench *b)
{
    Task task = run_agent(
        b, "print(json.dumps([call('POST', '/k', b'')[:2], call('PUT', '', b'')[:2],\n"
           "  call('PUT', '/gantry.memory', b'')[:2], call('GET', '/' + 'k' * 201)[:2],\n"
           "  call('GET', '/%0A')[:2], call('PUT', '/k', b'x' * 300000)[:2],\n"
           "  call('PUT', '/k', b'', Content_Type='x' * 101)[:2]]))\n");
    CHECK_STR(task.result,
              STR("[[405, \"method_not_allowed\"], [405, \"method_not_allowed\"], "
                  "[403, \"key_reserved\"], [400, \"key_invalid\"], [400, \"key_invalid\"], "
                  "[413, \"value_too_large\"], "
                  "[400, \"content_type_invalid\"]]"));
    return 0;
}

static void test_refusals(void **state)
{
    (void)state;
    bench(refusals);
}

/* A failed attempt leaves what it kept to the next one. */
static int attempts(Bench *b)
{
    Task task = run_agent(b, "seen = call('GET', '/n')\n"
                             "n = int(seen[1]) if seen[0] == 200 else 0\n"
                             "call('PUT', '/n', str(n + 1).encode())\n"
                             "if n < 2: sys.exit(75)\n"
                             "print(n)\n");
    CHECK_INT(task.attempt, 3);
    CHECK_STR(task.result, STR("2"));
    return 0;
}

static void test_attempts(void **state)
{
    (void)state;
    bench(attempts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_attempts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
