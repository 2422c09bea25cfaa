/* dev, serve, worker, sim: the long-running processes. One Program wires the parts together; its
 * main loop holds the worker, the gateway, webhooks and the controller, further loops the API. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "api/api.h"
#include "base/diag.h"
#include "cli/client.h"
#include "cli/config.h"
#include "cli/upload.h"
#include "cli/verbs.h"
#include "gateway/sim.h"
#include "observe/task_json.h"
#include "observe/webhook.h"
#include "queue/ledger.h"
#include "rollout/anchors.h"
#include "rollout/control.h"
#include "rollout/drift_watch.h"
#include "rollout/grading.h"
#include "rollout/ingest.h"
#include "rollout/preflight.h"
#include "rollout/serving.h"
#include "rollout/shadow.h"
#include "store/artifact_store.h"
#include "store/call_store.h"
#include "store/worker_store.h"
#include "sys/clock.h"
#include "sys/process.h"
#include "sys/signals.h"
#include "worker/log_file.h"
#include "worker/worker.h"

#define TICK_MS 1000
#define CLOSE_MS 5000 /* what connections and deliveries get to end in when everything else has */

typedef struct Program Program;

/* A loop of the API, with its own listener on the shared port. */
typedef struct {
    Program *program;
    Loop *loop;
    HttpServer *server;
} ApiLoop;

struct Program {
    const Invocation *in;
    ConfigMode mode;
    Config config;
    WebhookSecrets *webhook_secrets;
    Store *store;
    Queue *queue;
    Metrics *metrics;
    ApiServer *api;
    ApiLoop *loops;
    size_t loops_n;
    uint16_t port;
    int64_t api_close_ms; /* until when the loops' connections get to end */
    /* on the main loop */
    Loop *main;
    Signals *signals;
    Sim *sim;
    HttpClient *client;
    Gateway *gateway;
    WorkerLink *link;
    WorkerHost *worker;
    Front *front;
    Webhooks *webhooks;
    Breakers *webhook_breakers;
    RateBoard *board;
    WatchConfig watch; /* for drift */
    FiberRef ticker, checker, grader, runner;
    bool runner_ended, draining;
    int status;
};

/* --- API loops -------------------------------------------------------------------------------- */

static HttpServerOptions server_options(const Program *p)
{
    const Config *c = &p->config;
    size_t body_max = MAX(api_body_bytes_max(p->api), (size_t)c->body_bytes_max);
    if (p->front) body_max = MAX(body_max, GATEWAY_REQUEST_BYTES_MAX);
    return (HttpServerOptions){ .address = c->address,
                                .port = p->port,
                                .shared = true,
                                .limits = { .head_bytes_max = (size_t)c->head_bytes_max,
                                            .fields_max = (size_t)c->fields_max,
                                            .target_bytes_max = (size_t)c->target_bytes_max },
                                .own = true,
                                .body_bytes_max = body_max,
                                .connections_max = (size_t)c->connections_max,
                                .header_timeout_ms = c->header_timeout_ms,
                                .body_timeout_ms = c->body_timeout_ms,
                                .idle_timeout_ms = c->idle_timeout_ms,
                                .write_timeout_ms = c->write_timeout_ms };
}

static int api_loop_open(void *arg)
{
    ApiLoop *a = arg;
    HttpServerOptions options = server_options(a->program);
    int r = http_server_open(&options, api_handler, a->program->api, &a->server);
    if (r < 0) LOG_ERROR("cannot serve", LOG_CSTR("why", diag_text_or(r)));
    return r;
}

static int api_loop_drain(void *arg)
{
    ApiLoop *a = arg;
    if (a->server) http_server_drain(a->server);
    return 0;
}

static int api_loop_close(void *arg)
{
    ApiLoop *a = arg;
    if (a->server) http_server_close_wait(a->server, a->program->api_close_ms);
    a->server = NULL;
    return 0;
}

static void nobody(Stream *stream, void *ctx)
{
    (void)ctx;
    stream_close(stream);
}

/* Loops share the port, which would let a second server on this machine share it too: so it is
 * asked for alone first. Port 0 becomes a free one. */
static int port_probe(Program *p)
{
    CLEANUP(listener_closep) Listener *listener = NULL;
    int r = listener_open(p->config.address, (uint16_t)p->config.port, false, nobody, NULL,
                          &listener);
    if (r < 0) return r;
    p->port = listener_port(listener);
    return 0;
}

static int listen_refused(const Program *p, int r)
{
    const char *fix = r == -EADDRINUSE ? "; is another gantry there? --port N listens elsewhere, "
                                         "0 at any free port"
                      : r == -EACCES   ? "; --port N listens elsewhere: ports below 1024 are root's"
                                       : "";
    return diag_set(r, "cannot listen on %s:%u: %s%s", p->config.address,
                    p->port ? p->port : (unsigned)p->config.port, strerror(-r), fix);
}

static int api_start_wait(Program *p)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = p->config.loops ? (size_t)p->config.loops : (size_t)MAX(cores, 1);
    int r = port_probe(p);
    if (r < 0) return listen_refused(p, r);
    ApiOptions options = { .queue = p->queue,
                           .metrics = p->metrics,
                           .gateway = p->mode == CONFIG_DEV ? &p->config.gateway : NULL,
                           .preflight = &p->config.gateway,
                           .webhook_guard = &p->config.webhook_guard,
                           .webhook_secrets = p->webhook_secrets,
                           .keys = (const uint8_t(*)[SHA256_BYTES])p->config.keys,
                           .keys_n = p->config.keys_n,
                           .dev = p->mode == CONFIG_DEV,
                           .public_url = str_of(p->config.public_url),
                           .front = p->front,
                           .board = p->board,
                           .lease_ms = p->config.lease_ms,
                           .body_bytes_max = (size_t)p->config.body_bytes_max };
    if ((r = api_new(&options, &p->api)) < 0) return r;
    api_set_deploying(p->api, p->mode == CONFIG_DEV); /* before anybody can ask */
    p->loops = xcalloc(n, sizeof *p->loops);
    for (; p->loops_n < n && r >= 0; p->loops_n++) {
        ApiLoop *a = &p->loops[p->loops_n];
        *a = (ApiLoop){ .program = p, .loop = loop_new("api") };
        loop_start_thread(a->loop);
        metrics_add_loop(p->metrics, a->loop);
        r = loop_call_wait(a->loop, "open server", api_loop_open, a);
        if (r == 0) metrics_add_server(p->metrics, a->server);
    }
    if (r < 0) return listen_refused(p, r);
    return 0;
}

static void api_stop_wait(Program *p)
{
    for (size_t i = 0; i < p->loops_n; i++)
        loop_call_wait(p->loops[i].loop, "drain server", api_loop_drain, &p->loops[i]);
    p->api_close_ms = deadline_after(CLOSE_MS); /* for all of them: one is closed after the other */
    for (size_t i = 0; i < p->loops_n; i++) {
        ApiLoop *a = &p->loops[i];
        metrics_remove(p->metrics, a->server);
        metrics_remove(p->metrics, a->loop);
        loop_call_wait(a->loop, "close server", api_loop_close, a);
        loop_stop(a->loop);
        loop_join(a->loop);
        loop_free(a->loop);
    }
    free(p->loops);
    p->loops = NULL;
    p->loops_n = 0;
    api_free(TAKE(p->api));
}

/* --- parts of the main loop ------------------------------------------------------------------- */

#define SAY_AGAIN_MS 10000

/* Says what a tick could not do, now and then: a disk that is full stays so for a while. */
static void tick_result(int64_t *quiet_ms, const char *what, int r)
{
    if (r >= 0 || r == -ECANCELED || clock_mono_ms() < *quiet_ms) return;
    *quiet_ms = deadline_after(SAY_AGAIN_MS);
    LOG_ERROR(what, LOG_CSTR("why", diag_text_or(r)));
}

static int ticker_fiber(void *arg)
{
    Program *p = arg;
    int64_t quiet_ms[7] = { 0 };
    while (fiber_sleep_wait(TICK_MS) == 0) {
        tick_result(&quiet_ms[0], "controller tick failed", queue_tick_wait(p->queue));
        tick_result(&quiet_ms[1], "rollouts were not ticked",
                    control_tick_all_wait(p->queue, queue_now_ms(p->queue), NULL));
        tick_result(&quiet_ms[2], "shadows were not gone on with",
                    shadow_tick_all_wait(p->queue, queue_now_ms(p->queue)));
        int r = ingest_wait(p->store, NULL);
        tick_result(&quiet_ms[3], "tasks were not rolled up", r);
        if (r == 0)
            tick_result(&quiet_ms[4], "days were not looked at",
                        drift_watch_wait(p->store, &p->watch, clock_real_ms(), NULL));
        tick_result(&quiet_ms[5], "versions that drain were not looked at",
                    serving_tick_wait(p->store, clock_real_ms()));
        tick_result(&quiet_ms[6], "events were not published",
                    control_publish_wait(p->queue, p->config.receivers, p->config.receivers_n,
                                         clock_real_ms()));
    }
    return 0;
}

/* Apart from the ticks: a provider that does not answer holds up nothing but checks. */
static int checker_fiber(void *arg)
{
    Program *p = arg;
    PreflightOptions options = { p->queue, &p->config.gateway };
    while (fiber_sleep_wait(TICK_MS) == 0) {
        int r = preflight_stale_wait(&options, queue_now_ms(p->queue));
        if (r < 0 && r != -ECANCELED)
            LOG_ERROR("rollouts were not checked", LOG_CSTR("why", diag_text_or(r)));
    }
    return 0;
}

/* Apart from the controller, which must not wait for it. */
static int grader_fiber(void *arg)
{
    Program *p = arg;
    while (fiber_sleep_wait(TICK_MS) == 0) {
        int r = grading_wait(p->queue, clock_real_ms(), NULL);
        if (r < 0 && r != -ECANCELED)
            LOG_ERROR("tasks were not graded", LOG_CSTR("why", diag_text_or(r)));
        r = anchors_wait(p->queue, &p->watch, clock_real_ms(), NULL);
        if (r < 0 && r != -ECANCELED)
            LOG_ERROR("anchors were not judged", LOG_CSTR("why", diag_text_or(r)));
    }
    return 0;
}

static int runner_fiber(void *arg)
{
    Program *p = arg;
    int r = worker_run_wait(p->worker);
    p->runner_ended = true;
    if (r < 0 && r != -ECANCELED) {
        LOG_ERROR("worker ended", LOG_CSTR("why", diag_text_or(r)));
        p->status = r == -EACCES ? EXIT_NOT_AUTHORISED : EXIT_FAILED;
        if (r == -EACCES) fail(0, "give the server's key with --key or GANTRY_API_KEY");
    }
    if (p->mode == CONFIG_SERVE && r == 0 && !p->draining) { /* somebody has drained it */
        LOG_WARN("model calls are taken no more at this port, until the server is started again");
        return 0;
    }
    kill(getpid(), SIGTERM); /* what main waits for */
    return r;
}

/* A control plane on the same machine is Gantry's own, too. */
static void server_deny(Program *p)
{
    Url url;
    if (url_parse(&p->config.arena, str_of(p->in->server), &url) < 0) return;
    bool here = str_eq(url.host, STR("localhost")) ||
                (url.host_is_addr && addr_class(url.addr, NULL, 0) == ADDR_LOOPBACK);
    if (here) addr_guard_listens(url.port, true);
}

static int worker_start_wait(Program *p)
{
    Str dir = arena_printf(&p->config.arena, "%s/worker", p->config.data);
    const char *name = p->mode == CONFIG_WORKER  ? flag(p->in, "name")
                       : p->mode == CONFIG_SERVE ? "serve"
                                                 : "dev";
    p->client = http_client_new();
    p->gateway = gateway_new(&p->config.gateway);
    if (p->metrics) metrics_add_gateway(p->metrics, p->gateway);
    if (p->mode == CONFIG_WORKER) server_deny(p);
    if (p->mode == CONFIG_WORKER)
        p->link = link_http_new(
            &(LinkHttpOptions){ .client = p->client, .url = p->in->server, .key = p->in->key });
    else
        p->link = link_local_new(&(LinkLocalOptions){ .queue = p->queue,
                                                      .lease_ms = p->config.lease_ms,
                                                      .board = p->board,
                                                      .task_json = task_json });
    WorkerOptions options = { .link = p->link,
                              .gateway = p->gateway,
                              .models = &p->config.gateway,
                              .client = p->client,
                              .name = name,
                              .slots = p->config.lanes,
                              .front = p->front,
                              .front_only = p->mode == CONFIG_SERVE,
                              .dir = dir.ptr,
                              .grace_ms = p->config.grace_ms,
                              .stuck_ms = p->config.stuck_ms,
                              .cgroups = p->config.cgroups,
                              .log_bytes_max = (size_t)p->config.log_bytes_max,
                              .node_path = getenv("GANTRY_NODE_PATH"),
                              .path = getenv("GANTRY_AGENT_PATH"),
                              .guard = &p->config.tool_guard };
    int r = worker_open_wait(&options, &p->worker);
    if (r == 0 && p->metrics) metrics_add_worker(p->metrics, p->worker);
    return r < 0 ? r : fiber_spawn("worker", runner_fiber, p, &p->runner);
}

static void worker_stop_wait(Program *p)
{
    fiber_cancel(p->runner);
    fiber_join_wait(p->runner, NULL);
    if (p->metrics && p->gateway) metrics_remove(p->metrics, p->gateway);
    if (p->metrics && p->worker) metrics_remove(p->metrics, p->worker);
    worker_free(TAKE(p->worker));
    link_free(TAKE(p->link));
    gateway_free(TAKE(p->gateway));
    http_client_free(TAKE(p->client));
}

static int webhooks_start_here(Program *p)
{
    const Config *config = &p->config;
    size_t host_max = (size_t)config->webhook_concurrent_per_host;
    int r = webhooks_start(&(WebhookOptions){ .queue = p->queue,
                                              .secrets = p->webhook_secrets,
                                              .guard = &config->webhook_guard,
                                              .breakers = p->webhook_breakers,
                                              .concurrent_max = (size_t)config->webhook_concurrent,
                                              .host_concurrent_max = host_max },
                           &p->webhooks);
    if (r == 0) metrics_add_webhooks(p->metrics, p->webhooks);
    return r;
}

/* --- banner and first deployment -------------------------------------------------------------- */

static const char *url_of(Program *p)
{
    bool six = strchr(p->config.address, ':') != NULL;
    Str url = arena_printf(&p->config.arena, "http://%s%s%s:%u", six ? "[" : "", p->config.address,
                           six ? "]" : "", p->port);
    return url.ptr ? url.ptr : "";
}

/* Uploads the directories through the API like any client, and routes to what came of them. */
static int deploy_dirs_wait(Program *p)
{
    Invocation in = *p->in;
    Client client = { .in = &in, .http = http_client_new() };
    int status = EXIT_OK;
    in.server = url_of(p); /* which wants a key where GANTRY_API_KEY gives it one */
    arena_init(&client.arena, (size_t)1 << 30);
    for (int i = 0; i < p->in->args_n && status == EXIT_OK; i++) {
        Deployed deployed;
        const char *dir = p->in->args[i];
        status = upload_and_route_wait(&client, dir, true, &deployed);
        if (status != EXIT_OK) break;
        if (deployed.left) {
            fprintf(stderr,
                    "  Agent     %.*s stays where it is: %.12s, from %s, %s. `gantry deploy %.*s "
                    "%.12s --strategy immediate` brings it\n",
                    STR_ARG(deployed.agent), deployed.version_id.ptr, dir, deployed.left,
                    STR_ARG(deployed.agent), deployed.version_id.ptr);
            continue;
        }
        Str was = str_sub(deployed.before, 0, 12);
        fprintf(stderr, "  Agent     %.*s@%.12s%s%.*s%s  from %s\n", STR_ARG(deployed.agent),
                deployed.version_id.ptr, was.len ? " (was " : "", STR_ARG(was),
                was.len            ? ")"
                : deployed.changed ? ""
                                   : " (unchanged)",
                dir);
    }
    http_client_free(client.http);
    arena_deinit(&client.arena);
    return status;
}

/* The limit on all spend a day, wherever it was set. */
static void banner_budget_wait(Program *p)
{
    char usd[MONEY_TEXT_MAX];
    Budget budget;
    BudgetScope day = { .period = BUDGET_DAY };
    if (queue_budget_get_wait(p->queue, &day, &budget) != 0) return;
    Str text = str_of(money_text(budget.limit, usd));
    while (text.len > 3 && text.ptr[text.len - 1] == '0' && text.ptr[text.len - 3] != '.')
        text.len--;
    fprintf(stderr, "  Budget    $%.*s/day hard cap (gantry budget set day USD)\n", STR_ARG(text));
}

static void banner_wait(Program *p)
{
    const char *url = url_of(p);
    fprintf(stderr,
            "gantry %s  %s\n  API       %s      Metrics /metrics   API description /openapi.json\n",
            GANTRY_VERSION,
            p->mode == CONFIG_DEV ? "dev mode, NOT for production (loopback only)"
                                  : "control plane",
            url);
    fprintf(stderr, "  Data      %s/gantry.db\n", p->config.data);
    if (p->config.front_keys_n)
        fprintf(stderr, "  Callers   model calls at /v1/ for %zu key%s of tenants\n",
                p->config.front_keys_n, p->config.front_keys_n == 1 ? "" : "s");
    if (p->mode != CONFIG_DEV) return;
    fprintf(stderr, "  Model     %.*s\n", STR_ARG(config_models_text(&p->config)));
    banner_budget_wait(p);
    if (!p->config.webhook_secret.len)
        fprintf(stderr, "  Webhooks  signed with the secret in %s/webhook-secret\n",
                p->config.data);
}

static void banner_worker(const Program *p)
{
    fprintf(stderr, "gantry %s  worker for %s\n", GANTRY_VERSION, p->in->server);
    if (p->config.gateway.providers_n == 0)
        fprintf(stderr,
                "  Model     NONE: calls of models fail until OPENAI_API_KEY, ANTHROPIC_API_KEY, "
                "OPENAI_BASE_URL or `providers` names one; --sim simulates them\n");
}

/* --- the life of a process -------------------------------------------------------------------- */

/* Callers of models need a gateway here: `gantry serve` has one when it knows such callers. */
static void front_start(Program *p)
{
    const Config *c = &p->config;
    if (p->mode == CONFIG_DEV || (p->mode == CONFIG_SERVE && c->front_keys_n > 0))
        p->front = front_new(p->main, c->front_keys, c->front_keys_n, 0);
    if (p->front) metrics_add_front(p->metrics, p->front);
}

static int start_wait(Program *p)
{
    int r = 0;
    front_start(p);
    bool gateway = p->mode != CONFIG_SERVE || p->front;
    if (p->mode == CONFIG_DEV || (p->mode == CONFIG_WORKER && flag_given(p->in, "sim")))
        r = sim_open(0, &p->sim);
    if (r == 0 && gateway) r = config_add_providers(&p->config, p->sim ? sim_port(p->sim) : 0);
    if (r == 0 && p->mode != CONFIG_WORKER) r = api_start_wait(p);
    if (r == 0 && p->mode != CONFIG_WORKER) r = webhooks_start_here(p);
    if (r == 0 && p->mode != CONFIG_WORKER)
        r = fiber_spawn("controller", ticker_fiber, p, &p->ticker);
    if (r == 0 && p->mode != CONFIG_WORKER)
        r = fiber_spawn("preflights", checker_fiber, p, &p->checker);
    if (r == 0 && p->mode != CONFIG_WORKER) r = fiber_spawn("grader", grader_fiber, p, &p->grader);
    if (r == 0 && gateway) r = worker_start_wait(p);
    return r;
}

/* A worker drains by SIGHUP, too, however often it comes: the kernel sends it when the supervisor
 * was killed, once for each of its threads. Not where nobody is to hear it (nohup). */
static Signals *signals_of(const Program *p)
{
    static const int watched[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction now;
    bool hangs_up = p->mode == CONFIG_WORKER && sigaction(SIGHUP, NULL, &now) == 0 &&
                    now.sa_handler != SIG_IGN;
    return signals_open(watched, hangs_up ? 3 : 2);
}

/* The first signal drains, the second kills. Returns when nothing runs any more. */
static void run_wait(Program *p)
{
    signals_wait(p->signals, DEADLINE_NONE);
    p->draining = true;
    bool works = p->worker && !p->runner_ended;
    if (p->api && works) api_set_leaving(p->api);
    if (p->api && !works) api_set_draining(p->api, true);
    if (!works) return;
    fprintf(stderr, "\ngantry: draining: running tasks finish; once more to stop them at once\n");
    worker_drain(p->worker);
    int64_t deadline_ms = p->config.drain_ms ? deadline_after(p->config.drain_ms) : DEADLINE_NONE;
    while (!p->runner_ended) {
        int r = signals_wait(p->signals, deadline_ms);
        if (p->runner_ended) break;
        if (r == SIGHUP) continue;
        fprintf(stderr, "gantry: %s: stopping what runs; it is queued again\n",
                r == -ETIMEDOUT ? "the drain takes too long" : "told twice");
        worker_kill(p->worker);
        fiber_join_wait(p->runner, NULL);
    }
    if (p->api) api_set_draining(p->api, true); /* whoever waited for a task here was told */
}

static void stop_wait(Program *p)
{
    if (p->worker || p->gateway) worker_stop_wait(p);
    fiber_cancel(p->checker);
    fiber_join_wait(p->checker, NULL);
    fiber_cancel(p->ticker);
    fiber_cancel(p->grader);
    fiber_join_wait(p->ticker, NULL);
    fiber_join_wait(p->grader, NULL);
    if (p->webhooks) metrics_remove(p->metrics, p->webhooks);
    webhooks_stop_wait(TAKE(p->webhooks), deadline_after(CLOSE_MS));
    api_stop_wait(p);
    if (p->front) metrics_remove(p->metrics, p->front);
    front_free(TAKE(p->front));
    sim_close_wait(TAKE(p->sim), deadline_after(CLOSE_MS));
    signals_close(TAKE(p->signals));
}

static int main_fiber(void *arg)
{
    Program *p = arg;
    p->main = loop_here();
    p->signals = signals_of(p);
    if (p->metrics) metrics_add_loop(p->metrics, p->main);
    int r = start_wait(p);
    if (r < 0) p->status = fail(EXIT_FAILED, "%s", diag_text_or(r));
    if (r == 0 && p->mode != CONFIG_WORKER) banner_wait(p);
    if (r == 0 && p->mode == CONFIG_DEV) p->status = deploy_dirs_wait(p);
    if (r == 0 && p->mode == CONFIG_DEV) api_set_deploying(p->api, false);
    if (r == 0 && p->status == EXIT_OK) {
        if (p->mode == CONFIG_DEV) fprintf(stderr, "  Ctrl-C drains, twice kills\n");
        if (p->mode == CONFIG_WORKER) banner_worker(p);
        run_wait(p);
    }
    stop_wait(p);
    if (p->metrics) metrics_remove(p->metrics, p->main);
    loop_stop(p->main);
    return 0;
}

#define DISK_BYTES_TO_OPEN ((uint64_t)1 << 20)

/* Why the data cannot be used, with what helps. */
static int data_refused(const Program *p, int r)
{
    char why[DIAG_BYTES_MAX];
    const char *fix = NULL, *data = p->config.data;
    struct statvfs fs;
    bool full = statvfs(data, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < DISK_BYTES_TO_OPEN;
    snprintf(why, sizeof why, "%s", diag_text_or(r));
    if (r == -ENOSPC || (r == -EIO && full))
        fix = "the disk is full: free space, or name another directory with --data";
    else if (r == -EACCES || r == -EROFS)
        fix = "let this user write there, or name another directory with --data";
    else if (r == -EIO)
        fix = "the database or its disk is damaged: put a backup in its place, or name another "
              "directory with --data";
    return fix ? diag_set(r, "%s (%s): %s", why, data, fix) : r;
}

/* What agents were asked and answered is nobody else's to read. */
static int make_dir(const char *path)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return 0;
    return diag_set(-errno, "cannot make the data directory %s: %s", path, strerror(errno));
}

typedef struct {
    Arena arena;
    int64_t now_ms;
    CallUse *uses;
    size_t n;
} RecentJob;

static int recent_job(Db *db, void *arg)
{
    RecentJob *job = arg;
    return call_recent(db, job->now_ms - RATE_SPAN_MS, &job->arena, &job->uses, &job->n);
}

/* A restart does not make room at the providers. */
static int board_seed(Program *p)
{
    RecentJob job = { .now_ms = clock_real_ms() };
    arena_init(&job.arena, 1 << 20);
    int r = store_read(p->store, recent_job, &job);
    for (size_t i = 0; r == 0 && i < job.n; i++) {
        const CallUse *use = &job.uses[i];
        RateAmounts used = { .v = { [RATE_REQUESTS] = use->calls,
                                    [RATE_TOKENS] = use->tokens,
                                    [RATE_INPUT] = use->input_tokens,
                                    [RATE_OUTPUT] = use->output_tokens } };
        rate_board_seed(p->board, use->provider, use->model, &used,
                        MAX(job.now_ms - use->newest_at_ms, 0));
    }
    arena_deinit(&job.arena);
    return r;
}

/* Remote workers that may still have shares from an earlier life of this server. */
static int remote_job(Db *db, void *arg)
{
    Uuid id;
    int r = worker_next_of(db, WORKER_REMOTE, &id);
    *(bool *)arg = r == 0;
    return r == -ENOENT ? 0 : r;
}

static int board_open(Program *p)
{
    static const BreakerPolicy policy = { .window_ms = 60000,
                                          .calls_min = 5,
                                          .error_percent = 50,
                                          .slow_percent = 0,
                                          .slow_ms = 60000,
                                          .open_ms = 10000,
                                          .open_max_ms = 300000,
                                          .probes = 1 };
    bool remote = false;
    int r = store_read(p->store, remote_job, &remote);
    if (r < 0) return r;
    p->webhook_breakers = breakers_new("webhook", &policy, 0);
    p->board = rate_board_new(p->config.lease_ms, !remote);
    rate_board_add_breakers(p->board, p->webhook_breakers);
    metrics_add_board(p->metrics, p->board);
    return board_seed(p);
}

static void lane_options(const Config *config, QueueOptions *options)
{
    for (Lane lane = 0; lane < LANE_N_; lane++) {
        int64_t own = config->lane_queued_max[lane];
        options->queued_max[lane] = own > 0 ? own : config->queued_tasks_max;
        options->wait_objective_ms[lane] = config->wait_objective_ms[lane];
        options->worker_slots.reserved[lane] = config->lanes.reserved[lane];
    }
    options->worker_slots.shared = config->lanes.shared;
    options->aging_ms = config->aging_ms;
    options->scaling = config->scaling;
    options->agent_tasks_max = config->agent_tasks_max;
    options->tenant_tasks_max = config->tenant_tasks_max;
    options->session_tasks_max = config->session_tasks_max > 0 ? config->session_tasks_max
                                                               : QUEUE_ANY;
}

static int open_services(Program *p)
{
    int r = make_dir(p->config.data);
    if (r == 0 && p->mode == CONFIG_WORKER) return 0;
    if (r == 0)
        r = store_open(&(StoreOptions){ .path = p->config.data,
                                        .reserve_bytes = p->config.disk_reserve_bytes },
                       &p->store);
    if (r == 0) r = artifact_store_init(p->config.data);
    WebhookSecretOptions secrets = { .secret = p->config.webhook_secret,
                                     .previous = p->config.webhook_previous,
                                     .data_dir = p->config.data };
    if (r == 0) r = webhook_secrets_open(&secrets, &p->webhook_secrets);
    if (r < 0) return data_refused(p, r);
    QueueOptions options = { .webhook_body = webhook_body,
                             .budgets = p->config.budgets,
                             .budgets_n = p->config.budgets_n,
                             .family = p->config.family,
                             .lease_ms = p->config.lease_ms,
                             .accounts_max = p->config.accounts_max,
                             .log_bytes_max = p->config.log_bytes_max,
                             .followers_max = p->config.followers_max,
                             .journal_bytes_max = p->config.journal_bytes_max,
                             .journal_recordings_max = p->config.journal_recordings_max,
                             .state_keys_max = p->config.state_keys_max,
                             .state_bytes_max = p->config.state_bytes_max,
                             .state_value_bytes_max = p->config.state_value_bytes_max,
                             .state_kept_ms = p->config.state_kept_ms,
                             .tasks_kept_ms = p->config.tasks_kept_ms,
                             .key_kept_ms = p->config.keys_kept_ms,
                             .journal_kept_ms = p->config.journal_kept_ms,
                             .spend_kept_ms = p->config.spend_kept_ms };
    lane_options(&p->config, &options);
    if ((r = queue_open(p->store, &options, &p->queue)) < 0) return r;
    p->metrics = metrics_new(p->queue);
    CLEANUP(freep) CusumWork *work = xcalloc(1, sizeof(*work));
    watch_configure(&p->watch, (double)p->config.drift_false_alarm_ms / 86400000, work);
    return board_open(p);
}

static void close_services(Program *p)
{
    metrics_free(TAKE(p->metrics));
    rate_board_free(TAKE(p->board));
    breakers_free(TAKE(p->webhook_breakers));
    webhook_secrets_free(TAKE(p->webhook_secrets));
    queue_close(TAKE(p->queue));
    store_close(TAKE(p->store));
}

static int override_number(const char *text, const char *name, int64_t max, int64_t *slot)
{
    if (!text) return EXIT_OK;
    if (str_to_i64(str_of(text), slot) == 0 && *slot >= 0 && *slot <= max) return EXIT_OK;
    return fail(EXIT_USAGE, "--%s must be a number up to %" PRId64 ", not `%s`", name, max, text);
}

static int load_config(Program *p)
{
    config_init(&p->config, p->mode);
    int r = config_load(&p->config, flag(p->in, "config"));
    if (r < 0)
        return fail(EXIT_FAILED, "the configuration is not usable%s%s", diag_text()[0] ? ": " : "",
                    diag_text());
    if (flag(p->in, "data")) {
        p->config.data = arena_cstr(&p->config.arena, str_of(flag(p->in, "data")));
        if (!p->config.data) return fail(EXIT_USAGE, "--data is too long");
    }
    LogLevel level = LOG_INFO_;
    if (log_level_from(str_of(p->config.log_level), &level) < 0) return EXIT_USAGE;
    log_setup(level, strcmp(p->config.log_format, "json") == 0 ? LOG_JSON : LOG_LOGFMT);
    const char *file = flag(p->in, "log-file") ? flag(p->in, "log-file") : p->config.log_file;
    if (*file && strcmp(file, "-") != 0 && log_file_take_log(file, LOG_FILE_BYTES_MAX) < 0)
        return fail(EXIT_FAILED, "%s", diag_text_or(-EIO));
    Url url;
    if (p->mode == CONFIG_WORKER && url_parse(&p->config.arena, str_of(p->in->server), &url) < 0)
        return fail(EXIT_USAGE, "--server %s: %s", p->in->server, diag_text());
    if (p->mode == CONFIG_WORKER) return EXIT_OK;
    return override_number(flag(p->in, "port"), "port", 65535, &p->config.port);
}

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0;
}

/* Everything that forbids starting, said at once. */
static int preflight(const Program *p)
{
    int status = EXIT_OK;
    const Config *c = &p->config;
    uint8_t addr[16];
    if (p->mode != CONFIG_WORKER && inet_pton(AF_INET, c->address, addr) != 1 &&
        inet_pton(AF_INET6, c->address, addr) != 1)
        return fail(EXIT_FAILED, "server.address must be a number such as 127.0.0.1, not `%s`",
                    c->address);
    if (p->mode == CONFIG_SERVE && c->keys_n == 0)
        status = fail(
            EXIT_FAILED,
            "`gantry serve` needs an API key: set auth.keys in the configuration, or GANTRY_API_KEY; `gantry dev` needs none");
    if (p->mode == CONFIG_SERVE && c->key_short)
        status = fail(EXIT_FAILED,
                      "GANTRY_API_KEY is too short to be secret: take `openssl rand -hex 24`");
    if (p->mode == CONFIG_DEV && !is_loopback(c->address))
        status = fail(
            EXIT_FAILED,
            "dev mode binds loopback only, not %s: use `gantry serve`, or leave server.address out",
            c->address);
    if (p->mode == CONFIG_SERVE && !is_loopback(c->address) && !c->behind_proxy)
        status = fail(
            EXIT_FAILED,
            "%s is not loopback and this server speaks no TLS: put a TLS proxy before it and set server.behindProxy: true",
            c->address);
    return status;
}

static int program_run(const Invocation *in, ConfigMode mode)
{
    Program *p = xcalloc(1, sizeof *p);
    p->in = in;
    p->mode = mode;
    signal(SIGPIPE, SIG_IGN);
    process_files_raise();
    process_hide(); /* the keys of models and of the API are in its environment */
    int status = load_config(p);
    if (status == EXIT_OK) status = preflight(p);
    int r = status == EXIT_OK ? open_services(p) : 0;
    if (r < 0) status = fail(EXIT_FAILED, "%s", diag_text_or(r));
    if (status == EXIT_OK) {
        Loop *loop = loop_new("main");
        fiber_spawn_on(loop, "main", main_fiber, p);
        loop_run(loop);
        loop_free(loop);
        status = p->status;
    }
    close_services(p);
    log_file_leave_log();
    config_deinit(&p->config);
    free(p);
    return status;
}

int dev_run(const Invocation *in)
{
    return program_run(in, CONFIG_DEV);
}

int serve_run(const Invocation *in)
{
    return program_run(in, CONFIG_SERVE);
}

int worker_run(const Invocation *in)
{
    return program_run(in, CONFIG_WORKER);
}

int config_dump_run(const Invocation *in)
{
    Config config;
    CLEANUP(buf_deinit) Buf text = { 0 };
    config_init(&config, CONFIG_SERVE);
    buf_init(&text, 1 << 20);
    int r = config_load(&config, flag(in, "config"));
    if (r == 0) r = config_add_providers(&config, 0);
    if (r == 0) {
        if (in->output == OUTPUT_TABLE) config_dump(&config, &text);
        else config_dump_json(&config, &text);
        fputs(text.ptr, stdout);
        if (in->output != OUTPUT_TABLE) putchar('\n');
    }
    config_deinit(&config);
    return r == 0 ? EXIT_OK
                  : fail(EXIT_FAILED, "the configuration is not usable%s%s",
                         diag_text()[0] ? ": " : "", diag_text());
}

/* --- sim -------------------------------------------------------------------------------------- */

typedef struct {
    int64_t port;
    int status;
} SimProgram;

static int sim_fiber(void *arg)
{
    SimProgram *s = arg;
    static const int watched[] = { SIGINT, SIGTERM };
    Sim *sim = NULL;
    Signals *signals = signals_open(watched, ARRAY_N(watched));
    int r = sim_open((uint16_t)s->port, &sim);
    if (r < 0) s->status = fail(EXIT_FAILED, "%s", diag_text_or(r));
    else {
        printf("http://127.0.0.1:%u\n", sim_port(sim));
        fflush(stdout);
        fprintf(
            stderr,
            "gantry: a SIMULATED model speaks OpenAI at /v1/chat/completions and Anthropic at /v1/messages\n");
        signals_wait(signals, DEADLINE_NONE);
    }
    sim_close_wait(sim, deadline_after(CLOSE_MS));
    signals_close(signals);
    loop_stop(loop_here());
    return 0;
}

int sim_run(const Invocation *in)
{
    SimProgram s = { .port = 7071 };
    int status = override_number(flag(in, "port"), "port", 65535, &s.port);
    if (status != EXIT_OK) return status;
    signal(SIGPIPE, SIG_IGN);
    Loop *loop = loop_new("sim");
    fiber_spawn_on(loop, "sim", sim_fiber, &s);
    loop_run(loop);
    loop_free(loop);
    return s.status;
}
