#include "worker/servers.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/url.h"
#include "logic/warm.h"
#include "sys/clock.h"
#include "worker/allowance.h"
#include "worker/group.h"
#include "worker/log_file.h"

#define IDLE_MS_DEFAULT 600000
#define PING_MS_DEFAULT 5000
#define START_MS_DEFAULT 30000
#define SICK_PING_MS 500
#define START_PING_MS 50
#define PORT_TRIES 64
#define PING_TIMEOUT_MS 3000
#define PING_BYTES_MAX 65536
#define KILL_WAIT_MS 5000
#define REASON_WAIT_MS 1000 /* for the end of one whose answer broke off, if it ends */
#define GONE_WAIT_MS 30000  /* for the keeper to say why one has ended that is being ended */
#define LAST_WORDS_MS 500   /* for what is in the pipes after its end */
#define REASON_BYTES_MAX 1024
#define WORDS_BYTES_MAX 512 /* the last ones */
#define ENV_MAX 16

typedef struct {
    Server *server;
    Stream *stream;
    Buf line; /* not yet ended */
    bool ended;
    FiberRef fiber;
} Pipe;

struct Server {
    ListNode node;
    Servers *owner;
    char id[VERSION_ID_LEN + 1];
    VersionUse *version; /* held while it is kept */
    Warm warm;
    uint64_t fails; /* so far */
    char reason[REASON_BYTES_MAX];
    char words[WORDS_BYTES_MAX]; /* the end of what it wrote last */
    int64_t wrote;               /* bytes, in all its lives */
    char scratch[FS_PATH_MAX], url[64];
    char group[CGROUP_PATH_MAX];
    uint16_t port;
    int64_t started_ms, used_ms, pinged_ms; /* clock_mono_ms */
    bool busy;                              /* HealthyBusy: works on something of its own */
    bool given_up;                          /* another needs its place */

    size_t refs; /* runs that have it or wait for it */
    List uses;   /* those that have it */
    size_t uses_n;
    Run *only; /* while refs is 1 */
    int64_t cpu_seen_ms;
    ServerUse *cpu_user; /* of them, the one that used too much CPU time */
    Process *process;
    ProcessExit how;
    bool exited;
    ResourceLimits limits;
    AllowanceWatch watch;
    Resource over;               /* what has ended it last, with state and uses_n at that time */
    bool over_early, over_crowd; /* it was starting; several had it */
    LogFile log;
    Pipe out, err;
    FiberRef keeper, waiter, watcher;
    Cond changed;
};

struct Servers {
    RunHost *host;
    ServersOptions options;
    List list;
    size_t n;
    bool closing;
    Cond changed; /* one has gone */
};

static int port_find(uint16_t *ret);

Servers *servers_new(RunHost *host, const ServersOptions *o)
{
    Servers *all = xcalloc(1, sizeof *all);
    all->host = host;
    all->options = (ServersOptions){ .idle_ms = o->idle_ms ? o->idle_ms : IDLE_MS_DEFAULT,
                                     .ping_ms = o->ping_ms ? o->ping_ms : PING_MS_DEFAULT,
                                     .start_ms = o->start_ms ? o->start_ms : START_MS_DEFAULT,
                                     .max = o->max ? o->max : SERVERS_MAX,
                                     .port_find = o->port_find ? o->port_find : port_find };
    list_init(&all->list);
    cond_init(&all->changed);
    return all;
}

Str server_url(const Server *s)
{
    return str_of(s->url);
}

ServerSigns server_signs(const Server *s)
{
    return (ServerSigns){ .wrote = s->wrote,
                          .busy = s->busy,
                          .pid = s->process && !s->exited ? process_pid(s->process) : 0 };
}

Resource server_blame(const ServerUse *use, Str text)
{
    const Server *s = use->server;
    if (!use->alone) return RESOURCE_NONE;
    Resource over = allowance_blame(&s->watch, 0, EXIT_FAILURE, text);
    if (!over) over = allowance_blame(&s->watch, 0, EXIT_FAILURE, str_of(s->words));
    if (over) atomic_fetch_add(&s->owner->host->counters.limits_hit[over], 1);
    return over;
}

static bool is_kept(const Server *s)
{
    return s->warm.state == WARM_READY || s->warm.state == WARM_SICK;
}

/* It has ended or is being ended for what it used, and its keeper has yet to see to it. */
static bool is_gone(const Server *s)
{
    return is_kept(s) && (s->exited || s->watch.over);
}

ServerFault server_fault_wait(ServerUse *use)
{
    Server *s = use->server;
    uint64_t fails = s->fails;
    int64_t soon_ms = deadline_after(REASON_WAIT_MS), late_ms = deadline_after(GONE_WAIT_MS);
    while (is_kept(s) && s->fails == fails &&
           cond_wait(&s->changed, is_gone(s) ? late_ms : soon_ms) == 0)
        continue;
    if (is_kept(s) && s->fails == fails)
        return (ServerFault){ .over = server_blame(use, STR_NULL) };
    bool other = s->over_early || (s->over == RESOURCE_CPU && s->cpu_user != use);
    return (ServerFault){ .why = str_of(s->reason),
                          .over = other ? RESOURCE_NONE : s->over,
                          .crowd = s->over == RESOURCE_CPU ? !use->alone : s->over_crowd };
}

/* --- what it writes --------------------------------------------------------------------------- */

/* Lines of a server that has one task belong to that. */
static void lines_tell(Pipe *pipe, Str text)
{
    Server *s = pipe->server;
    while (text.len) {
        bool ended;
        Str part;
        text = str_split(text, '\n', &part, &ended);
        buf_add(&pipe->line, str_sub(part, 0, LOG_LINE_BYTES_MAX - pipe->line.len));
        if (!ended) break;
        if (s->refs == 1 && s->only)
            task_log_add(&s->only->log, TASK_LOG_STDERR, buf_str(&pipe->line));
        buf_clear(&pipe->line);
    }
}

/* The end of what it wrote. */
static void words_keep(Server *s, Str text)
{
    size_t room = WORDS_BYTES_MAX - 1, have = strlen(s->words);
    if (text.len > room) text = str_sub(text, text.len - room, room);
    size_t drop = have + text.len > room ? have + text.len - room : 0;
    memmove(s->words, s->words + drop, have - drop);
    memcpy(s->words + have - drop, text.ptr, text.len);
    s->words[have - drop + text.len] = '\0';
}

static int pipe_main(void *arg)
{
    Pipe *pipe = arg;
    Server *s = pipe->server;
    Str got;
    int r;
    while ((r = stream_fill_wait(pipe->stream, 0, DEADLINE_NONE, &got)) == 0) {
        lines_tell(pipe, got);
        words_keep(s, got);
        s->wrote += (int64_t)got.len;
        log_file_add_wait(&s->log, got);
        stream_consume(pipe->stream, got.len);
        if (fiber_yield_wait() < 0) break;
    }
    pipe->ended = true;
    cond_broadcast(&s->changed);
    return r;
}

static int pipe_start(Server *s, Pipe *pipe, Stream *stream)
{
    *pipe = (Pipe){ .server = s, .stream = stream };
    buf_init(&pipe->line, LOG_LINE_BYTES_MAX);
    return fiber_spawn("server's output", pipe_main, pipe, &pipe->fiber);
}

static void pipe_end_wait(Pipe *pipe)
{
    fiber_cancel(pipe->fiber);
    fiber_join_wait(pipe->fiber, NULL);
    buf_deinit(&pipe->line);
    *pipe = (Pipe){ 0 };
}

/* --- its process ------------------------------------------------------------------------------ */

/* A port that nobody has now. */
static int port_find(uint16_t *ret)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return diag_set(-errno, "no socket: %s", strerror(errno));
    int r = bind(fd, (struct sockaddr *)&addr, len) != 0 ||
                    getsockname(fd, (struct sockaddr *)&addr, &len) != 0
                ? -errno
                : 0;
    close(fd);
    *ret = ntohs(addr.sin_port);
    return r < 0 ? diag_set(r, "no port is free: %s", strerror(-r)) : 0;
}

static bool port_is_given(const Server *s, uint16_t port)
{
    LIST_EACH (&s->owner->list, node) {
        const Server *other = CONTAINER_OF(node, Server, node);
        if (other != s && other->port == port) return true;
    }
    return false;
}

/* Nor is another server about to have it: who comes first would answer for both. */
static int port_choose(Server *s)
{
    uint16_t port = 0;
    int r = 0;
    s->port = 0;
    for (int i = 0; r == 0 && s->port == 0 && i < PORT_TRIES; i++) {
        r = s->owner->options.port_find(&port);
        if (r == 0 && !port_is_given(s, port)) s->port = port;
    }
    return r == 0 && s->port == 0 ? diag_set(-EADDRINUSE, "no port is free") : r;
}

typedef struct {
    Arena *arena;
    const char **items;
    size_t n;
    bool failed;
} Env;

PRINTF_LIKE(2, 3) static void env_add(Env *env, const char *fmt, ...)
{
    char text[FS_PATH_MAX + 64];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    assert(env->n + 1 < ENV_MAX);
    env->items[env->n] = n > 0 && n < (int)sizeof text ? arena_cstr(env->arena, str_of(text))
                                                       : NULL;
    env->failed |= !env->items[env->n++];
}

static int env_make(Server *s, Arena *arena, const char *const **ret)
{
    const RunHost *host = s->owner->host;
    const Spec *spec = &s->version->spec;
    Env env = { .arena = arena, .items = ARENA_ARRAY(arena, const char *, ENV_MAX) };
    if (!env.items) return -ENOMEM;
    env_add(&env, "PATH=%s", host->path);
    env_add(&env, "LANG=C.UTF-8");
    env_add(&env, "HOME=%s/home", s->scratch);
    env_add(&env, "TMPDIR=%s/tmp", s->scratch);
    env_add(&env, "PORT=%u", (unsigned)s->port);
    env_add(&env, "GANTRY_PORT=%u", (unsigned)s->port);
    env_add(&env, "PYTHONUNBUFFERED=1");
    if (spec->model.len) env_add(&env, "GANTRY_MODEL=%.*s", STR_ARG(spec->model));
    if (spec->prompt_path.len)
        env_add(&env, "GANTRY_PROMPT_FILE=%s/%.*s", s->version->dir, STR_ARG(spec->prompt_path));
    if (host->node_path) env_add(&env, "NODE_PATH=%s", host->node_path);
    *ret = env.items;
    return env.failed ? -ENOMEM : 0;
}

/* Each version has its own, and there are ever more of them. */
static int log_open(Server *s)
{
    char path[FS_PATH_MAX + 128];
    snprintf(path, sizeof path, "%s/logs/%.*s-%.12s.log", s->owner->host->dir,
             STR_ARG(s->version->spec.agent), s->id);
    int r = log_file_open(&s->log, path, LOG_FILE_BYTES_MAX);
    if (r < 0) return r;
    snprintf(path, sizeof path, "%s/logs", s->owner->host->dir);
    if (log_files_prune(path, SERVER_LOGS_KEPT) < 0)
        LOG_WARN("logs are not pruned", LOG_CSTR("why", diag_text()));
    return 0;
}

/* Its directories and its log. */
static int prepare_job(void *arg)
{
    Server *s = arg;
    char path[FS_PATH_MAX + 8];
    int r = fs_remove(s->scratch);
    snprintf(path, sizeof path, "%s/home", s->scratch);
    if (r == 0) r = fs_dir_make(path);
    snprintf(path, sizeof path, "%s/tmp", s->scratch);
    if (r == 0) r = fs_dir_make(path);
    return r == 0 && !s->log.open ? log_open(s) : r;
}

static int remove_job(void *arg)
{
    Server *s = arg;
    log_file_close(&s->log);
    return fs_remove(s->scratch);
}

static int waiter_main(void *arg)
{
    Server *s = arg;
    int r = process_exit_wait(s->process, DEADLINE_NONE, &s->how);
    if (r == 0) s->exited = true;
    cond_broadcast(&s->changed);
    return r;
}

/* CPU time is a limit of tasks, not of the server: what it uses is divided among those it has. */
static bool cpu_over(void *arg, int64_t cpu_ms)
{
    Server *s = arg;
    int64_t used_ms = MAX(cpu_ms - s->cpu_seen_ms, 0), max_ms = s->limits.cpu_seconds * 1000;
    s->cpu_seen_ms = cpu_ms;
    LIST_EACH (&s->uses, node) {
        ServerUse *use = CONTAINER_OF(node, ServerUse, node);
        use->cpu_ms += used_ms / (int64_t)s->uses_n;
        if (use->cpu_ms > max_ms && !s->cpu_user) s->cpu_user = use;
    }
    return s->cpu_user != NULL;
}

static int watcher_main(void *arg)
{
    Server *s = arg;
    return allowance_watch_wait(&s->watch);
}

static int process_start_wait(Server *s)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    const Spec *spec = &s->version->spec;
    ProcessOptions options = { .cwd = s->version->dir };
    arena_init(&arena, 1 << 20);
    const char **argv = ARENA_ARRAY(&arena, const char *, spec->command_n + 1);
    if (!argv) return -ENOMEM;
    for (size_t i = 0; i < spec->command_n; i++)
        if (!(argv[i] = arena_cstr(&arena, spec->command[i]))) return -ENOMEM;
    options.argv = argv;
    int r = env_make(s, &arena, &options.env);
    ResourceLimits limits = s->limits;
    limits.cpu_seconds = 0; /* the kernel does not know which task it is for */
    allowance_of_process(&limits, &options);
    if (r < 0) return r;
    group_of_server_wait(s->owner->host, s->id, &s->limits, s->group);
    options.cgroup = s->group;
    r = process_spawn(&options, &s->process);
    if (r < 0) group_leave_wait(s->group);
    return r;
}

static int fibers_start(Server *s)
{
    int r = fiber_spawn("server's exit", waiter_main, s, &s->waiter);
    if (r == 0) r = pipe_start(s, &s->out, process_stdout(s->process));
    if (r == 0) r = pipe_start(s, &s->err, process_stderr(s->process));
    s->watch = (AllowanceWatch){ .limits = &s->limits,
                                 .session = process_pid(s->process),
                                 .scratch = s->scratch,
                                 .homes = s->owner->host->dir,
                                 .cgroup = s->group,
                                 .cpu_over = cpu_over,
                                 .ctx = s };
    s->cpu_seen_ms = 0;
    if (r == 0 && allowance_watched(&s->limits))
        r = fiber_spawn("server's limits", watcher_main, s, &s->watcher);
    return r;
}

/* What it has found can be read afterwards. */
static void watch_end_wait(Server *s)
{
    fiber_shield();
    fiber_cancel(s->watcher);
    fiber_join_wait(s->watcher, NULL);
    fiber_unshield();
}

/* What it has started ends with it, wherever that has moved: its home is in the environment. */
static void sweep_wait(const Server *s, int session)
{
    char mark[FS_PATH_MAX + 16];
    snprintf(mark, sizeof mark, "HOME=%s/home", s->scratch);
    allowance_end_wait(s->group, session, mark, s->owner->host->dir);
}

/* Everything of the process is gone afterwards, and all that it has started. */
static void process_end_wait(Server *s)
{
    bool started = s->process != NULL;
    fiber_shield();
    watch_end_wait(s);
    fiber_cancel(s->waiter);
    fiber_join_wait(s->waiter, NULL);
    if (started) {
        pipe_end_wait(&s->out);
        pipe_end_wait(&s->err);
    }
    process_free(TAKE(s->process));
    if (started) sweep_wait(s, 0);
    s->exited = false;
    fiber_unshield();
}

/* --- its life --------------------------------------------------------------------------------- */

static void reason_exit(Server *s)
{
    Str words = str_trim(str_of(s->words));
    s->over = allowance_blame(&s->watch, s->how.signal, s->how.exit_code, words);
    s->over_early = s->warm.state == WARM_STARTING;
    s->over_crowd = s->uses_n > 1;
    if (s->over)
        snprintf(s->reason, sizeof s->reason,
                 "the server was ended: it used more than limits.%s in agent.yaml allows%s",
                 resource_name(s->over), s->over == RESOURCE_CPU ? ", for another task" : "");
    else if (s->how.signal)
        snprintf(s->reason, sizeof s->reason, "the server was killed by signal %d%s%.*s",
                 s->how.signal, words.len ? "\n" : "", STR_ARG(words));
    else
        snprintf(s->reason, sizeof s->reason, "the server ended with exit code %d%s%.*s",
                 s->how.exit_code, words.len ? "\n" : "", STR_ARG(words));
    if (s->over) atomic_fetch_add(&s->owner->host->counters.limits_hit[s->over], 1);
}

static void step_wait(Server *s, WarmEvent event);

static void start_wait(Server *s)
{
    s->exited = false;
    s->words[0] = s->reason[0] = '\0';
    s->how = (ProcessExit){ 0 };
    s->watch = (AllowanceWatch){ .limits = &s->limits };
    s->over = RESOURCE_NONE;
    s->cpu_user = NULL;
    s->started_ms = clock_mono_ms();
    int r = port_choose(s);
    if (r == 0) r = work_wait(prepare_job, s);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%u", (unsigned)s->port);
    if (r == 0) r = process_start_wait(s);
    if (r == 0) r = fibers_start(s);
    if (r == 0) {
        atomic_fetch_add(&s->owner->host->counters.servers_started, 1);
        return;
    }
    snprintf(s->reason, sizeof s->reason, "the server could not be started: %s", diag_text_or(r));
    process_end_wait(s);
    step_wait(s, WARM_ON_EXIT);
}

static void step_wait(Server *s, WarmEvent event)
{
    WarmState before = s->warm.state;
    int64_t rest_ms = s->warm.rest_until_ms;
    WarmAction action = warm_step(&s->warm, event, clock_mono_ms());
    bool failed = s->warm.rest_until_ms != rest_ms;
    s->fails += failed;
    if (failed) atomic_fetch_add(&s->owner->host->counters.servers_failed, 1);
    if (before != s->warm.state)
        LOG_INFO("server agent", LOG_STR("agent", s->version->spec.agent),
                 LOG_STR("version", str_make(s->id, 12)),
                 LOG_CSTR("state", warm_state_name(s->warm.state)), LOG_CSTR("why", s->reason));
    cond_broadcast(&s->changed);
    if (action == WARM_DO_END) process_signal(s->process, SIGTERM);
    if (action == WARM_DO_START) start_wait(s);
}

/* Asks it how it is. Returns 0 (well), 1 (not), -ECANCELED. */
static int ping_wait(Server *s)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    HttpResponse response;
    const Json *v;
    s->pinged_ms = clock_mono_ms();
    arena_init(&arena, PING_BYTES_MAX * 20);
    HttpCallOptions options = { .url = url_join(&arena, str_of(s->url), STR("/ping")),
                                .deadline_ms = deadline_after(PING_TIMEOUT_MS),
                                .idle_timeout_ms = PING_TIMEOUT_MS };
    if (!options.url.ptr) return 1;
    int r = http_fetch_wait(s->owner->host->client, &options, PING_BYTES_MAX, &arena, &response);
    if (r == -ECANCELED) return r;
    if (r != 0 || response.status != 200) return 1;
    if (json_parse(&arena, response.body, NULL, &v, NULL) < 0) return 1;
    Str status = json_str(json_get(v, "status"));
    s->busy = str_eq(status, STR("HealthyBusy"));
    return s->busy || str_eq(status, STR("Healthy")) ? 0 : 1;
}

static void exit_wait(Server *s)
{
    int64_t deadline_ms = deadline_after(LAST_WORDS_MS);
    while (!(s->out.ended && s->err.ended) && cond_wait(&s->changed, deadline_ms) == 0) continue;
    watch_end_wait(s);
    if (s->warm.state != WARM_ENDING) reason_exit(s);
    process_end_wait(s);
    step_wait(s, WARM_ON_EXIT);
}

/* Sleeps until something has changed. -ETIMEDOUT: nothing has. */
static int change_wait(Server *s, int64_t deadline_ms)
{
    if (s->exited || s->owner->closing) return 0;
    return cond_wait(&s->changed, deadline_ms);
}

static int starting_wait(Server *s)
{
    int64_t until_ms = s->started_ms + s->owner->options.start_ms;
    if (clock_mono_ms() >= until_ms) {
        snprintf(s->reason, sizeof s->reason,
                 "the server did not answer GET /ping at port $PORT within %" PRId64 " ms",
                 s->owner->options.start_ms);
        step_wait(s, WARM_ON_LATE);
        return 0;
    }
    int r = ping_wait(s);
    if (r < 0) return r;
    if (r == 0 && !s->exited) {
        s->used_ms = clock_mono_ms();
        step_wait(s, WARM_ON_PING_OK);
        return 0;
    }
    r = change_wait(s, deadline_after(START_PING_MS));
    return r == -ETIMEDOUT ? 0 : r;
}

static bool is_idle(const Server *s)
{
    bool long_unused = clock_mono_ms() - s->used_ms >= s->owner->options.idle_ms;
    return s->refs == 0 && !s->busy && (long_unused || s->given_up);
}

/* Ready or sick: asked now and then, however often tasks come and go. */
static int kept_wait(Server *s)
{
    const ServersOptions *o = &s->owner->options;
    int64_t ping_ms = s->pinged_ms + (s->warm.state == WARM_SICK ? SICK_PING_MS : o->ping_ms);
    if (is_idle(s)) {
        step_wait(s, WARM_ON_IDLE);
        return 0;
    }
    if (clock_mono_ms() < ping_ms) {
        int r = change_wait(s, MIN(ping_ms, deadline_after(o->idle_ms)));
        return r == -ETIMEDOUT ? 0 : r;
    }
    int r = ping_wait(s);
    if (r < 0) return r;
    if (r > 0 && is_gone(s)) return 0; /* no wonder */
    if (r > 0) str_copy(s->reason, sizeof s->reason, STR("the server does not answer GET /ping"));
    step_wait(s, r == 0 ? WARM_ON_PING_OK : WARM_ON_PING_BAD);
    return 0;
}

static int ending_wait(Server *s)
{
    int64_t deadline_ms = deadline_after(s->owner->host->grace_ms);
    while (!s->exited && cond_wait(&s->changed, deadline_ms) == 0) continue;
    if (s->exited) return 0; /* what is left is looked for then */
    sweep_wait(s, process_pid(s->process));
    process_signal(s->process, SIGKILL);
    deadline_ms = deadline_after(KILL_WAIT_MS);
    while (!s->exited && cond_wait(&s->changed, deadline_ms) == 0) continue;
    if (!s->exited) LOG_ERROR("a process does not end", LOG_INT("pid", process_pid(s->process)));
    s->exited = true;
    return 0;
}

static int resting_wait(Server *s)
{
    int r = change_wait(s, s->warm.rest_until_ms);
    if (r == -ETIMEDOUT) step_wait(s, WARM_ON_RESTED);
    return r == -ETIMEDOUT ? 0 : r;
}

static bool is_running(const Server *s)
{
    return s->warm.state != WARM_OFF && s->warm.state != WARM_RESTING;
}

static int live_wait(Server *s)
{
    if (s->exited && is_running(s)) {
        exit_wait(s);
        return 0;
    }
    if (s->owner->closing && !s->warm.drained) step_wait(s, WARM_ON_DRAIN);
    switch (s->warm.state) {
    case WARM_OFF: step_wait(s, WARM_ON_WANTED); return 0;
    case WARM_STARTING: return starting_wait(s);
    case WARM_READY:
    case WARM_SICK: return kept_wait(s);
    case WARM_ENDING: return ending_wait(s);
    case WARM_RESTING: return resting_wait(s);
    case WARM_STATE_N_: break;
    }
    return -EINVAL;
}

static bool is_wanted(const Server *s)
{
    return s->refs > 0 && !s->owner->closing;
}

/* As long as it runs, or somebody wants it. A rest is kept even if nobody does. Returns 0 or a
 * negative errno (nobody will start it again). */
static int keep_wait(Server *s)
{
    int r = 0;
    while (r == 0 && (s->warm.state != WARM_OFF || is_wanted(s))) {
        if (s->warm.state == WARM_RESTING && s->given_up && s->refs == 0) break;
        r = live_wait(s);
    }
    fiber_shield();
    process_end_wait(s);
    if (s->scratch[0] && work_wait(remove_job, s) < 0) LOG_WARN("cannot remove scratch space");
    fiber_unshield();
    return r;
}

/* It is found until it is off the list: who has come while it was cleaned up after has it start
 * once more. */
static int keeper_main(void *arg)
{
    Server *s = arg;
    Servers *all = s->owner;
    while (keep_wait(s) == 0 && is_wanted(s)) continue;
    fiber_shield();
    while (s->refs > 0) cond_wait(&s->changed, DEADLINE_NONE); /* the loop ends: they are stopped */
    fiber_unshield();
    version_unref(all->host->versions, s->version);
    list_remove(&s->node);
    all->n--;
    free(s);
    cond_broadcast(&all->changed);
    return 0;
}

/* --- finding it ------------------------------------------------------------------------------- */

static Server *server_find(Servers *all, Str id)
{
    LIST_EACH (&all->list, node) {
        Server *s = CONTAINER_OF(node, Server, node);
        if (str_eq(str_of(s->id), id)) return s;
    }
    return NULL;
}

/* The version is there: the run holds it. */
static int server_new_wait(Servers *all, Run *run, Server **ret)
{
    VersionUse *version;
    int r = version_ref_wait(all->host->versions, run->task.version_id, &version);
    if (r != 0) return r < 0 ? r : diag_set(-EIO, "the version has gone");
    Server *s = server_find(all, str_of(version->id)); /* another was faster */
    if (s) {
        version_unref(all->host->versions, version);
        *ret = s;
        return 0;
    }
    s = xcalloc(1, sizeof *s);
    s->owner = all;
    s->version = version;
    s->limits = version->spec.resources;
    s->limits.output_bytes = 0; /* of tasks, not of their server */
    str_copy(s->id, sizeof s->id, str_of(version->id));
    snprintf(s->scratch, sizeof s->scratch, "%s/servers/%s", all->host->dir, s->id);
    list_init(&s->uses);
    cond_init(&s->changed);
    log_file_init(&s->log);
    s->refs = 1; /* for as long as its keeper has not begun */
    list_push_back(&all->list, &s->node);
    all->n++;
    r = fiber_spawn("server agent", keeper_main, s, &s->keeper);
    s->refs = 0;
    *ret = s;
    if (r == 0) return 0;
    list_remove(&s->node);
    all->n--;
    version_unref(all->host->versions, version);
    free(s);
    return r;
}

static int ready_wait(Server *s)
{
    uint64_t fails = s->fails + is_gone(s); /* that one has ended before it came */
    while (s->warm.state != WARM_READY || is_gone(s)) {
        if (s->fails > fails) return diag_set(SERVER_E_DOWN, "%s", s->reason);
        int r = cond_wait(&s->changed, DEADLINE_NONE);
        if (r < 0) return r;
    }
    return 0;
}

/* The one that nobody wants for the longest time; NULL: all are wanted. */
static Server *server_unwanted(Servers *all)
{
    Server *found = NULL;
    LIST_EACH (&all->list, node) {
        Server *s = CONTAINER_OF(node, Server, node);
        if (s->refs == 0 && !s->busy && (!found || s->used_ms < found->used_ms)) found = s;
    }
    return found;
}

static int room_wait(Servers *all)
{
    while (all->n >= all->options.max) {
        Server *s = server_unwanted(all);
        if (!s) {
            atomic_fetch_add(&all->host->counters.servers_crowded, 1);
            return diag_set(SERVER_E_DOWN, "%zu server agents are at work already", all->n);
        }
        s->given_up = true;
        cond_broadcast(&s->changed);
        int r = cond_wait(&all->changed, DEADLINE_NONE);
        if (r < 0) return r;
    }
    return 0;
}

static void ref_end(Server *s, Run *run)
{
    assert(s->refs > 0);
    s->refs--;
    s->used_ms = clock_mono_ms();
    if (s->only == run) s->only = NULL;
    cond_broadcast(&s->changed);
}

/* What it wrote before the first has come is not of its doing. */
static void use_begin(Server *s, Run *run, ServerUse *use)
{
    *use = (ServerUse){ .server = s, .run = run, .alone = s->uses_n == 0 };
    if (use->alone) s->words[0] = '\0';
    LIST_EACH (&s->uses, node) CONTAINER_OF(node, ServerUse, node)->alone = false;
    list_push_back(&s->uses, &use->node);
    s->uses_n++;
    run->server = use;
}

int server_ref_wait(Servers *all, Run *run, ServerUse *ret, ServerFault *ret_fault)
{
    *ret_fault = (ServerFault){ 0 };
    Server *s = server_find(all, str_of(run->version->id));
    int r = s ? 0 : room_wait(all);
    if (!s && r == 0) r = server_new_wait(all, run, &s);
    if (r != 0) return r;
    s->refs++;
    s->given_up = false;
    s->only = run;
    r = ready_wait(s);
    if (r == SERVER_E_DOWN && s->over_early) ret_fault->over = s->over;
    if (r == 0) use_begin(s, run, ret);
    else ref_end(s, run);
    return r;
}

void server_unref(ServerUse *use)
{
    Server *s = use->server;
    if (s->cpu_user == use) s->cpu_user = NULL;
    use->run->server = NULL;
    list_remove(&use->node);
    s->uses_n--;
    ref_end(s, use->run);
}

void servers_close_wait(Servers *all)
{
    if (!all) return;
    all->closing = true;
    LIST_EACH (&all->list, node) cond_broadcast(&CONTAINER_OF(node, Server, node)->changed);
    fiber_shield();
    while (all->n > 0) cond_wait(&all->changed, DEADLINE_NONE);
    fiber_unshield();
    free(all);
}
