/* The worker with real processes: agents that do well, fail, hang, flood and are stopped. */
#include <sys/wait.h>

#include "store/worker_store.h"
#include "worker/group.h"
#include "worker_bench.h"

/* --- results ---------------------------------------------------------------------------------- */

static int results(Bench *b)
{
    bench_deploy(b, "sh", "cat > /dev/null; echo '  {\"answer\": [1.0, 42]} '", "");
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("{\"answer\": [1.0, 42]}"));
    CHECK_INT(task.attempt, 1);

    bench_deploy(b, "sh", "echo 'plain \"text\"'; exit 0", ""); /* stdin is never read */
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("\"plain \\\"text\\\"\""));

    bench_deploy(b, "sh", "exit 0", "");
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.result.len, 0);

    bench_deploy(b, "sh", "printf '{\"a\":1,\"a\":2}'", ""); /* not JSON as we mean it */
    task = bench_run(b, "null");
    CHECK_STR(task.result, STR("\"{\\\"a\\\":1,\\\"a\\\":2}\""));
    return 0;
}

static void test_results(void **state)
{
    (void)state;
    bench(results);
}

/* --- what an agent sees ----------------------------------------------------------------------- */

static int input(Bench *b)
{
    bench_deploy(b, "cat", "", "");
    Str version = bench_deploy_files(
        b,
        (BenchFile[]){ { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\n"
                                       "spec: {runtime: process, command: [cat]}\n" } },
        1);
    Uuid id = bench_submit(
        b, "{\"q\":12345678901234567890123}",
        "{\"tokensPerTask\":1000,\"usdPerTask\":\"0.25\",\"secondsPerTask\":9999}");
    Task task = bench_end(b, id);
    char text[UUID_TEXT_MAX];
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_HAS(task.result, "\"input\":{\"q\":12345678901234567890123}");
    CHECK_HAS(task.result, uuid_text(id, text));
    CHECK_HAS(task.result, version.ptr);
    CHECK_HAS(task.result, "\"agent\":\"a\"");
    CHECK_HAS(task.result, "\"attempt\":1");
    CHECK_HAS(task.result, "\"sessionId\":\"session-1\",\"userId\":null,\"flags\":{}");
    /* the task's limits count where they are lower */
    CHECK_HAS(task.result, "\"limits\":{\"tokensPerTask\":1000,\"toolCallsPerTask\":40,"
                           "\"secondsPerTask\":600,\"usdPerTask\":\"0.250000000\"}");
    CHECK_HAS(task.result, "\"deadline\":\"20");
    return 0;
}

static void test_input(void **state)
{
    (void)state;
    bench(input);
}

static int environment(Bench *b)
{
    setenv("OPENAI_API_KEY", "sk-secret-of-the-worker", 1);
    setenv("LD_PRELOAD_NOT", "inherited", 1);
    BenchFile files[] = {
        { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                        "  command: [sh, script]\n  prompt: prompts/p.md\n  tools: tools.json\n"
                        "  model: sim/small\n" },
        { "prompts/p.md", "Be kind." },
        { "tools.json", "[{\"name\":\"look\",\"effect\":\"read\"}]" },
        { "script", "env | sort; cat \"$GANTRY_PROMPT_FILE\"; echo; cat tools.json; echo; pwd;"
                    "touch \"$HOME/x\" \"$TMPDIR/y\" && echo scratch-ok" },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
    Uuid id = bench_submit(b, "null", NULL);
    Task task = bench_end(b, id);
    char text[UUID_TEXT_MAX];
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_HAS(task.result, "ANTHROPIC_API_KEY=gantry-task-");
    CHECK_HAS(task.result, "\\nANTHROPIC_BASE_URL=http://127.0.0.1:");
    CHECK_HAS(task.result, "OPENAI_API_KEY=gantry-task-");
    CHECK_HAS(task.result, "\\nOPENAI_BASE_URL=http://127.0.0.1:");
    CHECK_HAS(task.result, "/v1\\nPATH=/usr/local");
    CHECK_HAS(task.result, "GANTRY_MODEL=sim/small\\nGANTRY_PROMPT_FILE=/");
    CHECK_HAS(task.result, "GANTRY_URL=http://127.0.0.1:");
    CHECK_HAS(task.result, "LANG=C.UTF-8");
    CHECK_HAS(task.result, "TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-");
    CHECK_HAS(task.result, "Be kind.");
    CHECK_HAS(task.result, "scratch-ok");
    CHECK_HAS(task.result, "look");
    CHECK_HAS(task.result, uuid_text(id, text));
    CHECK(str_find(task.result, STR("secret")) < 0);
    CHECK(str_find(task.result, STR("inherited")) < 0);
    CHECK(str_find(task.result, STR("sk-must-not-leak")) < 0);
    CHECK(str_find(task.result, STR("NODE_PATH")) < 0);
    return 0;
}

static void test_environment(void **state)
{
    (void)state;
    bench(environment);
}

/* --- failures --------------------------------------------------------------------------------- */

static int again(Bench *b)
{
    bench_deploy(b, "python3",
                 "import json, sys\n"
                 "task = json.load(sys.stdin)\n"
                 "if task['attempt'] < 3: sys.exit(75)\n"
                 "print(json.dumps({'attempt': task['attempt']}))\n",
                 "");
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_INT(task.attempt, 3);
    CHECK_STR(task.result, STR("{\"attempt\": 3}"));

    bench_deploy(b, "sh", "echo always >&2; exit 75", "");
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_INT(task.attempt, 3);
    return 0;
}

static void test_exit_75_is_tried_again(void **state)
{
    (void)state;
    bench(again);
}

static int failure(Bench *b)
{
    bench_deploy(b, "sh", "echo first >&2; echo 'last words' >&2; exit 3", "");
    Uuid id = bench_submit(b, "null", NULL);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_INT(task.attempt, 1); /* not worth another */
    CHECK_STR(task.error_code, STR("agent_failed"));
    CHECK_HAS(task.error_detail, "exit code 3");
    CHECK_HAS(task.error_detail, "last words");
    CHECK_HAS(bench_log(b, id), "first\nlast words\n");

    bench_deploy(b, "sh", "kill -SEGV $$", "");
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("agent_killed"));
    CHECK_HAS(task.error_detail, "SIGSEGV");

    bench_deploy(b, "no-such-program", "", "");
    task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("command_not_found"));
    CHECK_HAS(task.error_detail, "no-such-program");
    return 0;
}

static void test_failures_say_why(void **state)
{
    (void)state;
    bench(failure);
}

static void make_impatient(Bench *b, WorkerOptions *options)
{
    (void)b;
    options->servers.start_ms = 200;
}

static int server_command(Bench *b)
{
    bench_deploy_files(
        b,
        (BenchFile[]){ { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\n"
                                       "spec: {runtime: server, command: [cat], code: .,"
                                       " retry: {maxAttempts: 1}}\n" } },
        1);
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("agent_unreachable"));
    CHECK_HAS(task.error_detail, "did not answer GET /ping");
    return 0;
}

static void test_a_server_that_does_not_answer(void **state)
{
    (void)state;
    bench_with(
        (Bench){ .scenario = server_command, .configure = make_impatient, .lease_ms = 3000 });
}

/* --- stopping --------------------------------------------------------------------------------- */

static pid_t pid_in_log(Bench *b, Uuid id)
{
    Str line = bench_log_until(b, id, "pid ");
    int64_t pid = 0;
    str_split(line, '\n', &line, NULL);
    CHECK(str_to_i64(line, &pid) == 0 && pid > 1);
    return pid > 1 ? (pid_t)pid : -1;
}

static int timeout(Bench *b)
{
    /* the grandchild ignores SIGTERM; its parent does too and is killed after the grace period */
    bench_deploy(b, "sh",
                 "trap '' TERM; sh -c 'trap \"\" TERM; sleep 1000' & echo \"pid $!\" >&2; wait",
                 "  limits: {secondsPerTask: 1}\n");
    Uuid id = bench_submit(b, "null", NULL);
    pid_t grandchild = pid_in_log(b, id);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_TIMED_OUT);
    CHECK_STR(task.stopped_by, STR("secondsPerTask"));
    CHECK_STR(task.error_code, STR("time_limit"));
    bench_dies(grandchild);
    return 0;
}

/* Its time is one for all attempts. */
static int timeout_again(Bench *b)
{
    bench_deploy(b, "sh", "sleep 0.8; exit 75", "  limits: {secondsPerTask: 1}\n");
    Task task = bench_end(b, bench_submit(b, "null", NULL));
    CHECK_INT(task.state, TASK_TIMED_OUT);
    CHECK_STR(task.error_code, STR("time_limit"));
    CHECK_STR(task.stopped_by, STR("secondsPerTask"));
    CHECK(task.attempt <= 2 && task.ran_ms >= 900);
    return 0;
}

static void test_timeout_over_attempts(void **state)
{
    (void)state;
    bench(timeout_again);
}

static void test_timeout_kills_the_group(void **state)
{
    (void)state;
    bench(timeout);
}

static int graceful(Bench *b)
{
    bench_deploy(b, "python3",
                 "import signal, sys, time\n"
                 "def stop(*_):\n"
                 "    print('asked to stop', file=sys.stderr, flush=True)\n"
                 "    sys.exit(0)\n"
                 "signal.signal(signal.SIGTERM, stop)\n"
                 "print('ready', file=sys.stderr, flush=True)\n"
                 "time.sleep(1000)\n",
                 "");
    Uuid id = bench_submit(b, "null", NULL);
    bench_log_until(b, id, "ready");
    int64_t began_ms = clock_mono_ms();
    TaskState now;
    CHECK_INT(queue_cancel_wait(b->queue, id, STR("user"), &now), 0);
    CHECK_INT(now, TASK_RUNNING);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_CANCELED);
    CHECK(clock_mono_ms() - began_ms < 1000 * bench_slower()); /* the promise */
    CHECK_HAS(bench_log(b, id), "asked to stop");
    return 0;
}

static void test_cancel_is_graceful_and_quick(void **state)
{
    (void)state;
    bench(graceful);
}

typedef struct {
    Uuid id;
    WorkerState state;
} WorkerAsk;

static int state_job(Db *db, void *arg)
{
    WorkerAsk *ask = arg;
    return worker_state(db, ask->id, &ask->state);
}

/* What the worker claims before the control plane knows that it drains is run. */
static void drain_known_wait(Bench *b)
{
    WorkerStats stats;
    WorkerAsk ask = { .state = WORKER_ACTIVE };
    worker_stats(b->worker, &stats);
    CHECK_INT(uuid_from_text(str_of(stats.id), &ask.id), 0);
    while (ask.state == WORKER_ACTIVE) {
        fiber_sleep_wait(2);
        CHECK_INT(store_call_wait(queue_store(b->queue), state_job, &ask), 0);
    }
    CHECK_INT(ask.state, WORKER_DRAINING);
}

static int drain(Bench *b)
{
    bench_deploy(b, "sh", "echo ready >&2; read line; sleep 0.3; echo done", "");
    Uuid first = bench_submit(b, "null", NULL);
    bench_log_until(b, first, "ready");
    worker_drain(b->worker);
    drain_known_wait(b);
    Uuid second = bench_submit(b, "null", NULL);
    CHECK_INT(bench_end(b, first).state, TASK_SUCCEEDED); /* what runs is finished */
    fiber_join_wait(b->runner, NULL);
    CHECK_INT(b->worker_result, 0);
    CHECK_INT(bench_get(b, second).state, TASK_QUEUED); /* nothing new is begun */
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK(stats.draining);
    CHECK_INT(stats.started, 1);
    CHECK_INT(stats.ended[TASK_OUTCOME_SUCCEEDED], 1);
    worker_free(TAKE(b->worker));
    bench_worker_start(b); /* the directory is free again, and the next worker does the rest */
    CHECK_INT(bench_end(b, second).state, TASK_SUCCEEDED);
    return 0;
}

static void test_drain(void **state)
{
    (void)state;
    bench(drain);
}

static int drain_by_queue(Bench *b)
{
    WorkerStats stats;
    Uuid id;
    worker_stats(b->worker, &stats);
    while (!stats.id[0]) {
        fiber_sleep_wait(5);
        worker_stats(b->worker, &stats);
    }
    CHECK_INT(uuid_from_text(str_of(stats.id), &id), 0);
    CHECK_INT(queue_drain_wait(b->queue, id), 0);
    fiber_join_wait(b->runner, NULL);
    CHECK_INT(b->worker_result, 0);
    return 0;
}

static void test_drain_asked_by_the_control_plane(void **state)
{
    (void)state;
    bench(drain_by_queue);
}

static int killed(Bench *b)
{
    bench_deploy(b, "sh", "trap '' TERM; echo \"pid $$\" >&2; while :; do sleep 1; done", "");
    Uuid id = bench_submit(b, "null", NULL);
    pid_t pid = pid_in_log(b, id);
    worker_drain(b->worker);
    worker_kill(b->worker);
    fiber_join_wait(b->runner, NULL);
    bench_dies(pid);
    Task task = bench_get(b, id);
    CHECK_INT(task.state, TASK_QUEUED); /* given back, not failed */
    CHECK_INT(task.failures, 0);
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.ended[TASK_OUTCOME_RELEASED], 1);
    return 0;
}

static void test_kill_releases(void **state)
{
    (void)state;
    bench(killed);
}

/* --- what an agent may do to us --------------------------------------------------------------- */

static int stdout_flood(Bench *b)
{
    bench_deploy(b, "sh", "yes", "");
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_STR(task.error_code, STR("output_too_large"));
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.outputs_too_large, 1);
    return 0;
}

static void test_output_limit(void **state)
{
    (void)state;
    bench(stdout_flood);
}

static int stderr_flood(Bench *b)
{
    bench_deploy(
        b, "sh",
        "head -c 20000 /dev/zero | tr '\\0' x >&2; echo >&2; echo 'after the long line' >&2;"
        "yes | head -n 100000 >&2; echo 'never lost' >&2; echo fine",
        "");
    Uuid id = bench_submit(b, "null", NULL);
    Task task = bench_end(b, id);
    CHECK_INT(task.state, TASK_SUCCEEDED);
    CHECK_STR(task.result, STR("\"fine\""));
    Str log = bench_log(b, id);
    CHECK(log.len > 8000 && log.len < 70 * 1024);
    CHECK_HAS(log, "x\nafter the long line\ny\n"); /* cut, and the next line is whole */
    CHECK_HAS(log, "left out here");
    CHECK_HAS(log, "y\ny\nnever lost\n");
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK(stats.log_lines_dropped > 10000);
    return 0;
}

static void test_log_limits(void **state)
{
    (void)state;
    bench(stderr_flood);
}

static int unread_stdin(Bench *b)
{
    size_t n = 1 << 20;
    char *big = xmalloc(n + 3);
    memset(big, 'x', n + 2);
    big[0] = big[n + 1] = '"';
    big[n + 2] = '\0';
    bench_deploy(b, "sh", "echo not interested", "");
    CHECK_STR(bench_run(b, big).result, STR("\"not interested\""));
    bench_deploy(b, "sh", "exec <&-; sleep 0.2; echo closed it", "");
    CHECK_STR(bench_run(b, big).result, STR("\"closed it\""));
    bench_deploy(b, "python3", "import sys; print(len(sys.stdin.read()) > 1 << 20)", "");
    CHECK_STR(bench_run(b, big).result, STR("\"True\""));
    free(big);
    return 0;
}

static void test_stdin_not_read(void **state)
{
    (void)state;
    bench(unread_stdin);
}

static int closed_stdout(Bench *b)
{
    bench_deploy(b, "sh", "echo early; exec >&- 2>&-; sleep 0.3; exit 0", "");
    CHECK_STR(bench_run(b, "null").result, STR("\"early\""));
    bench_deploy(b, "sh", "exec >&- 2>&-; sleep 1000", "  limits: {secondsPerTask: 1}\n");
    CHECK_INT(bench_run(b, "null").state, TASK_TIMED_OUT);
    return 0;
}

static void test_closed_stdout(void **state)
{
    (void)state;
    bench(closed_stdout);
}

static int escaped(Bench *b)
{
    /* in a session of its own, so out of the group's reach, with our pipes still open */
    int64_t pid = 0;
    bench_deploy(
        b, "sh",
        "setsid sleep 1000 & pid=$!; session=\n"
        "while [ \"$session\" != $pid ]; do read _ _ _ _ _ session _ < /proc/$pid/stat; done\n"
        "echo $pid\n",
        "");
    CHECK(str_to_i64(bench_run(b, "null").result, &pid) == 0 && pid > 1);
    bench_dies((pid_t)pid); /* not waited for, but ended with the agent */
    return 0;
}

/* Its output is cut off while it runs. */
static int escaped_too_large(Bench *b)
{
    int64_t pid = 0;
    bench_deploy(b, "sh",
                 "setsid sleep 1000 > /dev/null 2>&1 & echo \"pid $! \" >&2\n"
                 "sleep 0.1; exec head -c 9000000 /dev/zero\n",
                 "");
    Uuid id = bench_submit(b, "null", NULL);
    CHECK_STR(bench_end(b, id).error_code, STR("output_too_large"));
    Str log = bench_log(b, id);
    const char *at = log.len ? memmem(log.ptr, log.len, "pid ", 4) : NULL;
    CHECK(at && (pid = strtol(at + 4, NULL, 10)) > 1);
    bench_dies((pid_t)pid);
    return 0;
}

/* What a worker that was killed has left behind in the directory of this one, and what has not. */
static pid_t left[3];

static void left_behind(Bench *b, WorkerOptions *options)
{
    static const char *const homes[] = { "tasks/t/home", "servers/s/home", "tasks-of-others/home" };
    (void)options;
    for (size_t i = 0; i < ARRAY_N(left); i++) {
        char home[400];
        snprintf(home, sizeof home, "HOME=%s/%s", b->worker_dir, homes[i]);
        left[i] = fork();
        if (left[i] == 0)
            execle("/bin/sleep", "sleep", "1000", (char *)NULL, (char *[]){ home, NULL });
        if (left[i] == 0) _exit(1);
        char path[64], text[400];
        snprintf(path, sizeof path, "/proc/%d/environ", (int)left[i]);
        for (bool begun = false; !begun;) { /* with that environment */
            FILE *f = fopen(path, "r");
            size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
            text[n] = '\0';
            begun = strcmp(text, home) == 0;
            if (f) fclose(f);
        }
    }
}

/* Each process starts another in a session of its own and is gone; in the end by itself, if nobody
 * ends it. */
static const char comet[] =
    "import os, sys, time\n"
    "track = os.open(os.environ['HOME'] + '/../../../track', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
    "if os.fork():\n"
    "    while os.fstat(track).st_size < 20: time.sleep(0.001)\n"
    "    print('begun', flush=True)\n"
    "    os._exit(0)\n"
    "os.closerange(0, 3)\n"
    "for _ in range(8000):\n"
    "    os.write(track, b'.')\n"
    "    if os.fork(): os._exit(0)\n"
    "    os.setsid()\n"
    "    time.sleep(0.0005)\n";

static bool cgroups_here(void)
{
    char name[64], base[CGROUP_BASE_MAX];
    snprintf(name, sizeof name, "gantry.test-%d", (int)getpid());
    int lock;
    if (cgroup_place(name, base) < 0 || cgroup_open(base, &lock) < 0) return false;
    close(lock);
    return cgroup_end(base) == 0;
}

static off_t track_size(const Bench *b)
{
    struct stat st;
    char path[400];
    snprintf(path, sizeof path, "%s/track", b->worker_dir);
    return stat(path, &st) == 0 ? st.st_size : -1;
}

/* Nobody goes on starting others. */
static void comet_has_ended(const Bench *b)
{
    off_t size = track_size(b);
    CHECK(size >= 20 && size < 8000);
    fiber_sleep_wait(50);
    CHECK_INT(track_size(b), size);
}

static int comet_of_agent(Bench *b)
{
    bench_deploy(b, "python3", comet, "");
    CHECK_STR(bench_run(b, "null").result, STR("\"begun\""));
    comet_has_ended(b);
    return 0;
}

static void test_comet_of_an_agent(void **state)
{
    (void)state;
    if (!cgroups_here()) skip();
    bench(comet_of_agent);
}

/* It is found all the same. */
static int left_its_cgroup(Bench *b)
{
    char base[CGROUP_BASE_MAX], script[CGROUP_PATH_MAX + 300];
    int64_t pid = 0;
    if (!CHECK_INT(group_place(b->worker_dir, base), 0)) return 0;
    snprintf(script, sizeof script,
             "import os, subprocess\n"
             "child = subprocess.Popen(['sleep', '1000'], start_new_session=True, env={},\n"
             "                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,\n"
             "                         stderr=subprocess.DEVNULL)\n"
             "open('%s/cgroup.procs', 'w').write(str(child.pid))\n"
             "print(child.pid, flush=True)\n"
             "os._exit(0)\n",
             base);
    bench_deploy(b, "python3", script, "");
    CHECK(str_to_i64(bench_run(b, "null").result, &pid) == 0 && pid > 1);
    bench_dies((pid_t)pid);
    return 0;
}

static void test_a_process_that_left_its_cgroup(void **state)
{
    (void)state;
    if (!cgroups_here()) skip();
    bench(left_its_cgroup);
}

/* Where no more groups can be made, programs do without, which is counted. */
static int no_more_groups(Bench *b)
{
    char base[CGROUP_BASE_MAX], path[CGROUP_PATH_MAX];
    WorkerStats stats;
    if (!CHECK_INT(group_place(b->worker_dir, base), 0)) return 0;
    snprintf(path, sizeof path, "%s/cgroup.max.descendants", base);
    FILE *file = fopen(path, "w");
    if (!CHECK(file != NULL)) return 0;
    fputs("0", file);
    CHECK_INT(fclose(file), 0);
    bench_deploy(b, "sh", "echo without", "");
    CHECK_STR(bench_run(b, "null").result, STR("\"without\""));
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.cgroups_failed, 1);
    return 0;
}

static void test_no_more_groups(void **state)
{
    (void)state;
    if (!cgroups_here()) skip();
    bench(no_more_groups);
}

static int left_by_another(Bench *b)
{
    (void)b;
    bench_dies(left[0]);
    bench_dies(left[1]);
    CHECK(!bench_is_dead(left[2]));
    kill(left[2], SIGKILL);
    for (size_t i = 0; i < ARRAY_N(left); i++) waitpid(left[i], NULL, 0);
    return 0;
}

static void test_a_process_that_left_the_group(void **state)
{
    (void)state;
    bench(escaped);
    bench(escaped_too_large);
}

static void test_what_a_killed_worker_left(void **state)
{
    (void)state;
    bench_with((Bench){ .scenario = left_by_another, .configure = left_behind, .lease_ms = 3000 });
}

/* --- the rest --------------------------------------------------------------------------------- */

static int many(Bench *b)
{
    Uuid ids[24];
    bench_deploy(b, "sh", "cat > /dev/null; echo $GANTRY_TASK_ID", "");
    for (size_t i = 0; i < ARRAY_N(ids); i++) ids[i] = bench_submit(b, "null", NULL);
    for (size_t i = 0; i < ARRAY_N(ids); i++) {
        char text[UUID_TEXT_MAX], quoted[UUID_TEXT_MAX + 2];
        snprintf(quoted, sizeof quoted, "\"%s\"", uuid_text(ids[i], text));
        CHECK_STR(bench_end(b, ids[i]).result, str_of(quoted));
    }
    WorkerStats stats;
    worker_stats(b->worker, &stats);
    CHECK_INT(stats.ended[TASK_OUTCOME_SUCCEEDED], ARRAY_N(ids));
    CHECK_INT(stats.versions_fetched, 1);
    return 0;
}

static void test_many_tasks_of_one_version(void **state)
{
    (void)state;
    bench(many);
}

static int scratch_left(Bench *b)
{
    char path[400];
    bench_deploy(b, "sh",
                 "mkdir -p $HOME/deep/er; echo x > $HOME/deep/er/f; chmod 0 $HOME/deep;"
                 "ln -s / $TMPDIR/root; echo $HOME",
                 "");
    Task task = bench_run(b, "null");
    CHECK_HAS(task.result, "/tasks/");
    worker_drain(b->worker);
    fiber_join_wait(b->runner, NULL);
    snprintf(path, sizeof path, "%s/tasks", b->worker_dir);
    CHECK_INT(rmdir(path), 0); /* nothing is left in it */
    return 0;
}

static void test_scratch_is_removed(void **state)
{
    (void)state;
    bench(scratch_left);
}

/* Directories cost more than the rest of a small task: they are made for programs only. */
static int scratch_of_programs(Bench *b)
{
    char path[400];
    BenchFile files[] = {
        { "agent.yaml", "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                        "  runtime: builtin\n  prompt: p.md\n  model: sim/echo\n" },
        { "p.md", "Be kind." },
    };
    bench_deploy_files(b, files, ARRAY_N(files));
    CHECK_INT(bench_run(b, "\"hi\"").state, TASK_SUCCEEDED);
    snprintf(path, sizeof path, "%s/tasks", b->worker_dir);
    CHECK_INT(rmdir(path), 0);
    CHECK_INT(symlink("/dev/null", path), 0); /* now none can be made there */
    CHECK_INT(bench_run(b, "\"hi\"").state, TASK_SUCCEEDED);
    bench_deploy(b, "sh", "echo ok", "");
    Task task = bench_run(b, "null");
    CHECK_INT(task.state, TASK_FAILED);
    CHECK_INT(task.attempt, 3); /* another worker, or a later time, may do better */
    CHECK_STR(task.error_code, STR("worker_trouble"));
    CHECK_HAS(task.error_detail, "cannot make ");
    return 0;
}

static void test_scratch_is_for_programs(void **state)
{
    (void)state;
    bench(scratch_of_programs);
}

static int in_use(Bench *b)
{
    WorkerOptions options = bench_options(b);
    WorkerHost *second = NULL;
    CHECK_INT(worker_open_wait(&options, &second), -EBUSY);
    CHECK_HAS(str_of(diag_text()), b->worker_dir);
    options.slots = (LaneConfig){ .reserved = { 1, 0, 1 } };
    CHECK_INT(worker_open_wait(&options, &second), -EINVAL);
    return 0;
}

static void test_one_worker_a_directory(void **state)
{
    (void)state;
    bench(in_use);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_input),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_exit_75_is_tried_again),
        cmocka_unit_test(test_failures_say_why),
        cmocka_unit_test(test_a_server_that_does_not_answer),
        cmocka_unit_test(test_timeout_kills_the_group),
        cmocka_unit_test(test_timeout_over_attempts),
        cmocka_unit_test(test_cancel_is_graceful_and_quick),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_asked_by_the_control_plane),
        cmocka_unit_test(test_kill_releases),
        cmocka_unit_test(test_output_limit),
        cmocka_unit_test(test_log_limits),
        cmocka_unit_test(test_stdin_not_read),
        cmocka_unit_test(test_closed_stdout),
        cmocka_unit_test(test_a_process_that_left_the_group),
        cmocka_unit_test(test_comet_of_an_agent),
        cmocka_unit_test(test_a_process_that_left_its_cgroup),
        cmocka_unit_test(test_no_more_groups),
        cmocka_unit_test(test_what_a_killed_worker_left),
        cmocka_unit_test(test_many_tasks_of_one_version),
        cmocka_unit_test(test_scratch_is_removed),
        cmocka_unit_test(test_scratch_is_for_programs),
        cmocka_unit_test(test_one_worker_a_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
