/* A whole system in one process for worker tests: store, queue, simulated provider, gateway,
 * worker, all on one loop in a directory of its own. Everything runs on fibers, so checks are
 * those of check.h. */
#ifndef GANTRY_TESTS_WORKER_BENCH_H
#define GANTRY_TESTS_WORKER_BENCH_H

#include "tests/unit/sys_harness.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/diag.h"
#include "check.h"
#include "codec/tar.h"
#include "gateway/sim.h"
#include "store/artifact_store.h"
#include "store/package.h"
#include "sys/clock.h"
#include "temp_dir.h"
#include "worker/worker.h"

#define BENCH_PATIENCE_MS 20000 /* a test that needs longer hangs */

typedef struct Bench Bench;
struct Bench {
    int (*scenario)(Bench *b);
    void (*configure)(Bench *b, WorkerOptions *options); /* may be NULL */
    int64_t lease_ms;
    uint16_t model_port; /* of a scripted provider; 0: the simulator's */

    TempDir dir;
    char worker_dir[300];
    Arena arena; /* of the scenario */
    Store *store;
    Queue *queue;
    Sim *sim;
    char sim_openai[64], sim_anthropic[64];
    GatewayProvider providers[2];
    GatewayRoute routes[2];
    PriceTable prices;
    GatewayConfig config;
    Gateway *gateway;
    HttpClient *client;
    WorkerLink *link;
    WorkerHost *worker;
    FiberRef ticker, runner;
    int worker_result; /* of worker_run_wait; 77 while it works */
};

/* How much longer things may take under a sanitizer, as the test runner says. */
static inline int64_t bench_slower(void)
{
    int64_t times = 1;
    return str_to_i64(str_of(getenv("GANTRY_TEST_SLOWER")), &times) == 0 ? MAX(times, 1) : 1;
}

/* --- versions --------------------------------------------------------------------------------- */

typedef struct {
    const char *path, *text;
} BenchFile;

typedef struct {
    Version version;
    Str agent;
    int64_t now_ms;
    RetryPolicy retry;
} BenchDeploy;

static inline int bench_deploy_job(Db *db, void *arg)
{
    BenchDeploy *job = arg;
    CLEANUP(buf_deinit) Buf settings = { 0 };
    buf_init(&settings, 4096);
    JsonOut out = json_out(&settings);
    json_out_object(&out);
    json_out_key(&out, "retry");
    agent_retry_write(&out, &job->retry);
    json_out_object_end(&out);
    int r = agent_ensure(db, job->agent, job->now_ms);
    if (r == 0) r = agent_set_settings(db, job->agent, buf_str(&settings));
    if (r == 0) r = version_insert(db, &job->version);
    if (r == VERSION_E_EXISTS) r = 0;
    return r == 0 ? routing_set(db, job->agent, job->version.id, job->now_ms) : r;
}

static inline int bench_file_cmp(const void *a, const void *b)
{
    return strcmp(((const BenchFile *)a)->path, ((const BenchFile *)b)->path);
}

static inline void bench_pack(const BenchFile *files, size_t n, Buf *out)
{
    TarOut *tar = xcalloc(1, sizeof *tar);
    BenchFile *sorted = xcalloc(n, sizeof *sorted);
    memcpy(sorted, files, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, bench_file_cmp);
    tar_out_init(tar, out);
    for (size_t i = 0; i < n; i++) {
        TarEntry entry = { .path = str_of(sorted[i].path), .type = TAR_FILE, .mode = 0755 };
        if (!CHECK(tar_out_file(tar, &entry, str_of(sorted[i].text)) == 0)) break;
    }
    CHECK(tar_out_end(tar) == 0);
    free(sorted);
    free(tar);
}

/* Deploys a version made of files, agent.yaml among them. Returns its id (in the bench's arena). */
static inline Str bench_deploy_files(Bench *b, const BenchFile *files, size_t n)
{
    Package *package = xcalloc(1, sizeof *package);
    CLEANUP(freep) Package *owner = package;
    CLEANUP(buf_deinit) Buf upload = { 0 }, code = { 0 };
    ArtifactDigest digest = { 0 };
    buf_init(&upload, 1 << 20);
    buf_init(&code, 1 << 20);
    bench_pack(files, n, &upload);
    int r = package_read(&b->arena, buf_str(&upload), NULL, 1, &code, package);
    for (size_t i = 0; r != 0 && i < package->issues_n; i++)
        fprintf(stderr, "%.*s\n", STR_ARG(package->issues[i].issue.message));
    if (!CHECK(r == 0)) return STR_NULL;
    if (package->has_code) CHECK(artifact_put(b->dir.path, buf_str(&code), STR_NULL, &digest) == 0);
    BenchDeploy job = {
        .agent = package->spec.name,
        .now_ms = clock_real_ms(),
        .retry = package->spec.retry,
        .version = { .id = arena_str(&b->arena, str_of(package->version_id)),
                     .agent = package->spec.name,
                     .components = package->components,
                     .manifest = STR("{}"),
                     .artifact = str_of(digest.hex),
                     .created_at_ms = clock_real_ms() },
    };
    CHECK_INT(store_call_wait(b->store, bench_deploy_job, &job), 0);
    (void)owner;
    return job.version.id;
}

/* An agent `a` of one script run by `interpreter`; spec: further lines of its spec, indented. */
static inline Str bench_deploy(Bench *b, const char *interpreter, const char *script,
                               const char *spec)
{
    Str yaml = arena_printf(&b->arena,
                            "apiVersion: gantry/v1\nkind: Agent\nmetadata: {name: a}\nspec:\n"
                            "  runtime: process\n  command: [%s, script]\n"
                            "  retry: {maxAttempts: 3, backoff: {initial: 10ms, max: 20ms}}\n%s",
                            interpreter, spec);
    BenchFile files[] = { { "agent.yaml", yaml.ptr }, { "script", script } };
    return bench_deploy_files(b, files, ARRAY_N(files));
}

/* --- tasks ------------------------------------------------------------------------------------ */

static inline Uuid bench_submit(Bench *b, const char *input, const char *limits)
{
    TaskNew new = { .agent = STR("a"),
                    .lane = LANE_NORMAL,
                    .input = str_of(input),
                    .limits = str_of(limits),
                    .session_id = STR("session-1"),
                    .traceparent = STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") };
    TaskSummary summary = { 0 };
    int r = queue_submit_wait(b->queue, &new, &summary);
    if (r != 0) fprintf(stderr, "submit: %s\n", diag_text_or(r));
    CHECK_INT(r, 0);
    return summary.id;
}

static inline Task bench_get(Bench *b, Uuid id)
{
    Task task = { 0 };
    CHECK_INT(queue_get_wait(b->queue, id, TASK_PART_RESULT, &b->arena, &task), 0);
    return task;
}

static inline Task bench_end(Bench *b, Uuid id)
{
    Task task = { 0 };
    CHECK_INT(queue_end_wait(b->queue, id, TASK_PART_RESULT, deadline_after(BENCH_PATIENCE_MS),
                             &b->arena, &task),
              0);
    CHECK(task_state_ended(task.state));
    return task;
}

static inline Task bench_run(Bench *b, const char *input)
{
    return bench_end(b, bench_submit(b, input, NULL));
}

/* Waits until the task runs in its attempt. */
static inline void bench_running(Bench *b, Uuid id)
{
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (bench_get(b, id).state != TASK_RUNNING && clock_mono_ms() < deadline_ms)
        fiber_sleep_wait(5);
    CHECK_INT(bench_get(b, id).state, TASK_RUNNING);
}

typedef struct {
    int64_t task_seq;
    Arena *arena;
    Str text;
} BenchLogJob;

static inline int bench_log_job(Db *db, void *arg)
{
    BenchLogJob *job = arg;
    TaskLogCursor after = { 0 };
    TaskLogLine *lines;
    size_t n;
    Buf text;
    buf_init(&text, 1 << 20);
    int r;
    do {
        r = task_log_list(db, job->task_seq, after, job->arena, &lines, &n);
        for (size_t i = 0; r == 0 && i < n; i++) {
            buf_printf(&text, "%.*s\n", STR_ARG(lines[i].text));
            after = (TaskLogCursor){ lines[i].attempt, lines[i].seq };
        }
    } while (r == 0 && n == TASK_LOG_LIST_MAX);
    job->text = arena_printf(job->arena, "%.*s", STR_ARG(buf_str(&text)));
    buf_deinit(&text);
    return r;
}

/* All its log lines. */
static inline Str bench_log(Bench *b, Uuid id)
{
    BenchLogJob job = { .task_seq = bench_get(b, id).seq, .arena = &b->arena, .text = STR("") };
    CHECK_INT(store_read_wait(b->store, bench_log_job, &job), 0);
    return job.text;
}

/* Waits until the log contains part; returns what stands behind it. */
static inline Str bench_log_until(Bench *b, Uuid id, const char *part)
{
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    ptrdiff_t at = -1;
    Str log = STR_NULL;
    while (at < 0 && clock_mono_ms() < deadline_ms) {
        log = bench_log(b, id);
        at = str_find(log, str_of(part));
        if (at < 0) fiber_sleep_wait(10);
    }
    if (!CHECK(at >= 0)) return STR_NULL;
    return str_skip(log, (size_t)at + strlen(part));
}

/* --- processes -------------------------------------------------------------------------------- */

static inline bool bench_is_dead(pid_t pid)
{
    char path[64], text[256] = "";
    if (kill(pid, 0) != 0) return true;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f) return true;
    if (!fgets(text, sizeof text, f)) text[0] = '\0';
    fclose(f);
    const char *paren = strrchr(text, ')');
    return !paren || paren[2] == 'Z'; /* dead; whoever inherited it has yet to reap */
}

static inline void bench_dies(pid_t pid)
{
    int64_t deadline_ms = deadline_after(BENCH_PATIENCE_MS);
    while (!bench_is_dead(pid) && clock_mono_ms() < deadline_ms) fiber_sleep_wait(10);
    CHECK(bench_is_dead(pid));
}

/* --- life ------------------------------------------------------------------------------------- */

static inline int bench_ticker(void *arg)
{
    Bench *b = arg;
    while (fiber_sleep_wait(30) == 0)
        if (queue_tick_wait(b->queue) == -ECANCELED) break;
    return 0;
}

static inline int bench_runner(void *arg)
{
    Bench *b = arg;
    b->worker_result = worker_run_wait(b->worker);
    return 0;
}

static inline void bench_models(Bench *b)
{
    uint16_t port = b->model_port ? b->model_port : sim_port(b->sim);
    snprintf(b->sim_openai, sizeof b->sim_openai, "http://127.0.0.1:%u/v1", port);
    snprintf(b->sim_anthropic, sizeof b->sim_anthropic, "http://127.0.0.1:%u", port);
    b->providers[0] = (GatewayProvider){ .name = "sim",
                                         .protocol = GATEWAY_OPENAI,
                                         .base_url = b->sim_openai,
                                         .key = "sk-must-not-leak",
                                         .simulated = true };
    b->providers[1] = (GatewayProvider){ .name = "sim",
                                         .protocol = GATEWAY_ANTHROPIC,
                                         .base_url = b->sim_anthropic,
                                         .key = "sk-must-not-leak",
                                         .simulated = true };
    b->routes[0] = (GatewayRoute){ .match = "sim/*", .provider = 0 };
    b->routes[1] = (GatewayRoute){ .match = "sim/*", .provider = 1 };
    price_table_init(&b->prices, &b->arena);
    b->config = (GatewayConfig){ .providers = b->providers,
                                 .providers_n = 2,
                                 .routes = b->routes,
                                 .routes_n = 2,
                                 .prices = &b->prices };
}

static inline WorkerOptions bench_options(Bench *b)
{
    WorkerOptions options = {
        .link = b->link,
        .gateway = b->gateway,
        .models = &b->config,
        .client = b->client,
        .name = "bench",
        .slots = { .reserved = { 1, 2, 1 }, .shared = 2 },
        .dir = b->worker_dir,
        .grace_ms = 500,
        .cgroups = true,
        .output_bytes_max = 256 * 1024,
        .log_bytes_max = 64 * 1024,
    };
    if (b->configure) b->configure(b, &options);
    return options;
}

static inline void bench_worker_start(Bench *b)
{
    WorkerOptions options = bench_options(b);
    b->worker_result = 77;
    int r = worker_open_wait(&options, &b->worker);
    if (r != 0) fprintf(stderr, "worker: %s\n", diag_text_or(r));
    if (!CHECK(r == 0)) return;
    CHECK_INT(fiber_spawn("runner", bench_runner, b, &b->runner), 0);
}

static inline void bench_worker_stop(Bench *b)
{
    if (!b->worker) return;
    worker_kill(b->worker);
    fiber_join_wait(b->runner, NULL);
    worker_free(TAKE(b->worker));
}

static inline void bench_task_json(JsonOut *out, const Task *task, unsigned flags)
{
    CHECK_INT(flags, LINK_TASK_JSON_FLAGS);
    json_out_object(out);
    json_out_kcstr(out, "status", task_state_name(task->state));
    json_out_kraw(out, "result", task->result.len ? task->result : STR("null"));
    json_out_object_end(out);
}

static inline int bench_main(void *arg)
{
    Bench *b = arg;
    b->client = http_client_new();
    CHECK_INT(sim_open(0, &b->sim), 0);
    bench_models(b);
    b->gateway = gateway_new(&b->config);
    b->link = link_local_new(&(LinkLocalOptions){
        .queue = b->queue, .lease_ms = b->lease_ms, .task_json = bench_task_json });
    CHECK_INT(fiber_spawn("ticker", bench_ticker, b, &b->ticker), 0);
    bench_worker_start(b);
    if (b->worker) b->scenario(b);
    bench_worker_stop(b);
    fiber_cancel(b->ticker);
    fiber_join_wait(b->ticker, NULL);
    link_free(b->link);
    gateway_free(b->gateway);
    sim_close_wait(b->sim, deadline_after(1000));
    http_client_free(b->client);
    return 0;
}

/* Runs the scenario; asserts that no check failed. */
static inline void bench_with(Bench b)
{
    signal(SIGPIPE, SIG_IGN); /* as the program does */
    temp_dir_init(&b.dir);
    snprintf(b.worker_dir, sizeof b.worker_dir, "%s/worker", b.dir.path);
    arena_init(&b.arena, 256 << 20);
    QueueOptions options = { .lease_ms = b.lease_ms };
    assert_int_equal(store_open(&(StoreOptions){ .path = b.dir.path }, &b.store), 0);
    assert_int_equal(artifact_store_init(b.dir.path), 0);
    assert_int_equal(queue_open(b.store, &options, &b.queue), 0);
    harness_run(bench_main, &b);
    queue_close(b.queue);
    store_close(b.store);
    arena_deinit(&b.arena);
    temp_dir_deinit(&b.dir);
    check_none();
}

static inline void bench(int (*scenario)(Bench *b))
{
    bench_with((Bench){ .scenario = scenario, .lease_ms = 3000 });
}

#endif
