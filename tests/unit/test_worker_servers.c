/* Server agents that the worker starts: one that is sick is replaced, one that nobody wants ends,
 * and there are no more than there may be. */
#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "worker/servers.h"
#include "worker_bench.h"

static const char agent_yaml[] =
    "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\n"
    "spec: {runtime: server, command: [python3, agent.py], code: ., retry: {maxAttempts: 1}}\n";

/* Says who it is. In the directory that its input names: sick makes its pings bad, started.NAME
 * says that a task is in it, and NAME lets that go. */
static const char agent_py[] =
    "import http.server, json, os, subprocess, time\n"
    "box = None\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    protocol_version = 'HTTP/1.1'\n"
    "    def reply(self, status, value):\n"
    "        text = json.dumps(value).encode()\n"
    "        self.send_response(status)\n"
    "        self.send_header('Content-Length', str(len(text)))\n"
    "        self.end_headers()\n"
    "        self.wfile.write(text)\n"
    "    def do_GET(self):\n"
    "        sick = box and os.path.exists(box + '/sick')\n"
    "        self.reply(500 if sick else 200, {'status': 'Healthy'})\n"
    "    def do_POST(self):\n"
    "        global box\n"
    "        given = json.loads(self.rfile.read(int(self.headers['Content-Length'])))['input']\n"
    "        box, hold = given['box'], given.get('hold')\n"
    "        if hold == 'for ever': time.sleep(1000)\n"
    "        if hold == 'die':\n"
    "            subprocess.Popen(['sleep', '1'])\n" /* it has the pipes */
    "            os._exit(3)\n"
    "        end = time.monotonic() + (2 if hold == 'computing' else 0)\n"
    "        while time.monotonic() < end: pass\n"
    "        if hold == 'computing': hold = None\n"
    "        if hold:\n"
    "            open(box + '/started.' + hold, 'w').close()\n"
    "            while not os.path.exists(box + '/' + hold): time.sleep(0.01)\n"
    "        self.reply(200, os.getpid())\n"
    "    def log_message(self, *args): pass\n"
    "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler)"
    ".serve_forever()\n";

/* note makes it another version. */
static void deploy(Bench *b, const char *note)
{
    BenchFile files[] = { { "agent.py", agent_py },
                          { "agent.yaml", agent_yaml },
                          { "note", note } };
    bench_deploy_files(b, files, ARRAY_N(files));
}

static const char *in_box(Bench *b, const char *name)
{
    return arena_printf(&b->arena, "%s/%s", b->dir.path, name).ptr;
}

static void make_file(Bench *b, const char *name)
{
    FILE *f = fopen(in_box(b, name), "w");
    CHECK(f != NULL);
    if (f) fclose(f);
}

static void file_wait(Bench *b, const char *name)
{
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (access(in_box(b, name), F_OK) != 0 && clock_mono_ms() < deadline_ms) fiber_sleep_wait(5);
    CHECK(access(in_box(b, name), F_OK) == 0);
}

static Uuid submit(Bench *b, const char *hold)
{
    Str input = arena_printf(&b->arena, "{\"box\":\"%s\",\"hold\":%s}", b->dir.path, hold);
    TaskNew new = { .agent = STR("a"), .lane = LANE_NORMAL, .input = input };
    TaskSummary summary = { 0 };
    CHECK_INT(queue_submit_wait(b->queue, &new, &summary), 0);
    return summary.id;
}

static pid_t pid_by(Bench *b, Uuid id)
{
    int64_t pid = 0;
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(str_to_i64(task.result, &pid), 0);
    return (pid_t)pid;
}

static WorkerStats stats_of(Bench *b)
{
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    return stats;
}

static void look_often(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->servers = (ServersOptions){ .ping_ms = 50 };
}

static int sick(Bench *b)
{
    deploy(b, "");
    pid_t first = pid_by(b, submit(b, "null"));
    CHECK_INT(pid_by(b, submit(b, "null")), first);
    make_file(b, "sick");
    bench_dies(first);
    CHECK_INT(unlink(in_box(b, "sick")), 0);
    pid_t second = pid_by(b, submit(b, "null"));
    CHECK(second != first);
    CHECK(stats_of(b).servers_failed >= 1);
    CHECK_INT(stats_of(b).servers_started, 2);
    return 0;
}

static void test_a_sick_one_is_replaced(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = sick, .configure = look_often, .lease_ms = 3000 });
}

/* The first one that it finds, twice. */
static int port_twice(uint16_t *ret)
{
    static uint16_t first;
    static int calls;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0);
    CHECK_INT(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    close(fd);
    if (calls++ == 0) first = ntohs(at.sin_port);
    *ret = calls <= 2 ? first : ntohs(at.sin_port);
    return 0;
}

static void find_twice(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->servers = (ServersOptions){ .port_find = port_twice };
}

/* A free port is nobody's until its server listens: another that was given the same would be asked
 * in its place, and answer. */
static int own_ports(Bench *b)
{
    deploy(b, "one");
    pid_t first = pid_by(b, submit(b, "null"));
    deploy(b, "two");
    CHECK(pid_by(b, submit(b, "null")) != first);
    CHECK_INT(stats_of(b).servers_started, 2);
    CHECK_INT(stats_of(b).servers_failed, 0);
    return 0;
}

static void test_each_has_its_own_port(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = own_ports, .configure = find_twice });
}

static size_t logs_n(Bench *b)
{
    char path[400];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/logs", b->worker_dir);
    DIR *dir = opendir(path);
    CHECK(dir != NULL);
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) n += e->d_name[0] != '.';
    if (dir) closedir(dir);
    return n;
}

/* Of versions that nobody runs any more, while the worker lives. */
static int old_logs(Bench *b)
{
    char path[400];
    for (size_t i = 0; i < SERVER_LOGS_KEPT + 10; i++) {
        snprintf(path, sizeof path, "%s/logs/old-%zu.log", b->worker_dir, i);
        FILE *f = fopen(path, "w");
        CHECK(f != NULL);
        if (f) fclose(f);
    }
    deploy(b, "");
    pid_by(b, submit(b, "null"));
    CHECK_INT(logs_n(b), SERVER_LOGS_KEPT);
    return 0;
}

static void test_old_logs_go(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = old_logs });
}

/* Who comes while its keeper still waits for the last words of a dead one waits for the next. */
static int dead(Bench *b)
{
    deploy(b, "");
    pid_t first = pid_by(b, submit(b, "null"));
    Uuid last = submit(b, "\"die\"");
    bench_dies(first);
    CHECK(pid_by(b, submit(b, "null")) != first);
    Task task = bench_end(b, last);
    CHECK_STR(task.error_code, STR("agent_unreachable"));
    CHECK_HAS(task.error_detail, "exit code 3");
    return 0;
}

static void test_a_dead_one_gets_no_tasks(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = dead, .lease_ms = 3000 });
}

static void tire_soon(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->servers = (ServersOptions){ .idle_ms = 100 };
}

static int unwanted(Bench *b)
{
    deploy(b, "");
    Uuid held = submit(b, "\"go\"");
    file_wait(b, "started.go");
    fiber_sleep_wait(300); /* longer than it may be idle: it is not */
    make_file(b, "go");
    pid_t pid = pid_by(b, held);
    bench_dies(pid);
    CHECK(pid_by(b, submit(b, "null")) != pid);
    CHECK_INT(stats_of(b).servers_failed, 0);
    return 0;
}

static void test_an_unwanted_one_ends(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = unwanted, .configure = tire_soon, .lease_ms = 3000 });
}

static void watch(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->stuck_ms = 1000;
    options->servers = (ServersOptions){ .ping_ms = 100 };
}

/* A task that does nothing is ended, though its server answers pings; one for which it computes is
 * not. */
static int stuck(Bench *b)
{
    deploy(b, "");
    pid_t pid = pid_by(b, submit(b, "\"computing\""));
    CHECK_INT(stats_of(b).stuck, 0);
    Task task = bench_end(b, submit(b, "\"for ever\""));
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("stuck"));
    CHECK_INT(stats_of(b).stuck, 1);
    CHECK_INT(pid_by(b, submit(b, "null")), pid);
    return 0;
}

static void test_a_task_that_does_nothing_ends(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = stuck, .configure = watch, .lease_ms = 3000 });
}

static void have_one(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->servers = (ServersOptions){ .max = 1 };
}

static int crowded(Bench *b)
{
    deploy(b, "1");
    Uuid held = submit(b, "\"go\"");
    file_wait(b, "started.go");
    deploy(b, "2");
    Task task = bench_end(b, submit(b, "null"));
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_HAS(task.error_detail, "at work already");
    CHECK_INT(stats_of(b).servers_crowded, 1);
    make_file(b, "go");
    pid_t first = pid_by(b, held);
    CHECK(pid_by(b, submit(b, "null")) != first); /* in its place */
    bench_dies(first);
    CHECK_INT(stats_of(b).servers_crowded, 1);
    return 0;
}

static void test_no_more_than_there_may_be(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = crowded, .configure = have_one, .lease_ms = 3000 });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_sick_one_is_replaced),
        cmocka_unit_test(test_each_has_its_own_port),
        cmocka_unit_test(test_old_logs_go),
        cmocka_unit_test(test_a_dead_one_gets_no_tasks),
        cmocka_unit_test(test_an_unwanted_one_ends),
        cmocka_unit_test(test_no_more_than_there_may_be),
        cmocka_unit_test(test_a_task_that_does_nothing_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
