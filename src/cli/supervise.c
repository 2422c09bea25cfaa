/* supervise: keeps as many worker processes on this machine as the lanes need. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "cli/client.h"
#include "cli/verbs.h"
#include "codec/duration.h"
#include "codec/url.h"
#include "logic/fleet.h"
#include "sys/clock.h"
#include "sys/entropy.h"
#include "sys/process.h"
#include "sys/signals.h"
#include "worker/allowance.h"
#include "worker/group.h"
#include "worker/log_file.h"

#define TICK_MS 500
#define ANSWER_MS 5000    /* a control plane that says nothing must not make it deaf */
#define TICK_AWAY_MS 3000 /* while the control plane does not answer */
#define MAX_DEFAULT 4
#define DOWN_EVERY_MS_DEFAULT 10000
#define HUNG_MS_DEFAULT 30000
#define WORDS_MS 500 /* for the last words of a worker that has ended */
#define ENV_BYTES_MAX ((size_t)4 << 20)
#define NAME_BYTES_MAX 100
#define NAME_GIVEN_BYTES_MAX 84
#define MEMBERS_MAX (2 * FLEET_MAX)

typedef struct Supervisor Supervisor;

/* A worker process. */
typedef struct {
    ListNode node;
    Supervisor *owner;
    int64_t number; /* of its directory and name, 1.. */
    char name[NAME_BYTES_MAX + 16];
    FleetMember state;
    Process *process;
    LogFile log;
    FiberRef out, err;
    int reading; /* of these, those that still read */
    Cond read;
    bool hung, listed;
} Member;

struct Supervisor {
    Client *client;
    const char *dir;
    int lock; /* of dir */
    char name[NAME_BYTES_MAX];
    char program[FS_PATH_MAX];
    FleetRule rule;
    Fleet fleet;
    List members;
    size_t n;
    int64_t wanted; /* as the control plane last said */
    bool ending;
};

/* --- what a worker writes --------------------------------------------------------------------- */

static int copy_wait(Member *m, Stream *stream)
{
    Str got;
    int r;
    while ((r = stream_fill_wait(stream, 0, DEADLINE_NONE, &got)) == 0) {
        log_file_add_wait(&m->log, got);
        stream_consume(stream, got.len);
    }
    assert(m->reading > 0);
    m->reading--;
    cond_signal(&m->read);
    return r;
}

static int out_main(void *arg)
{
    Member *m = arg;
    return copy_wait(m, process_stdout(m->process));
}

static int err_main(void *arg)
{
    Member *m = arg;
    return copy_wait(m, process_stderr(m->process));
}

/* --- a worker's life -------------------------------------------------------------------------- */

/* Whether a worker uses the directory: one that a supervisor has left which was killed. */
static bool is_held(const Supervisor *s, int64_t number)
{
    char path[FS_PATH_MAX + 40];
    snprintf(path, sizeof path, "%s/worker-%" PRId64 "/lock", s->dir, number);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return false;
    bool held = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

static int64_t number_free(const Supervisor *s)
{
    for (int64_t number = 1;; number++) {
        bool taken = false;
        LIST_EACH (&s->members, node) taken |= CONTAINER_OF(node, Member, node)->number == number;
        /* asked last: one that is just starting would find its own lock held */
        if (!taken && !is_held(s, number)) return number;
    }
}

/* This process's, so that models' keys and settings are the worker's too. */
static const char *const *env_make(const Supervisor *s, Arena *arena)
{
    size_t n = 0, k = 0;
    const char *key = s->client->in->key;
    while (environ[n]) n++;
    const char **env = ARENA_ARRAY(arena, const char *, n + 2);
    if (!env) return NULL;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "GANTRY_API_KEY=", 15) != 0) env[k++] = environ[i];
    if (key) env[k++] = arena_printf(arena, "GANTRY_API_KEY=%s", key).ptr;
    env[k] = NULL;
    return env;
}

static int process_start(Member *m)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    const Invocation *in = m->owner->client->in;
    struct rlimit files;
    char data[FS_PATH_MAX + 32];
    /* what a worker logs is read from its pipe; a file of the configuration would be all
     * workers' */
    const char *argv[16] = { m->owner->program, "worker", "--server",   in->server, "--data", data,
                             "--name",          m->name,  "--log-file", "-" };
    size_t n = 10;
    snprintf(data, sizeof data, "%s/worker-%" PRId64, m->owner->dir, m->number);
    if (flag(in, "config")) {
        argv[n++] = "--config";
        argv[n++] = flag(in, "config");
    }
    if (flag_given(in, "sim")) argv[n++] = "--sim";
    arena_init(&arena, ENV_BYTES_MAX);
    ProcessOptions options = { .argv = argv,
                               .env = env_make(m->owner, &arena),
                               .death_signal = SIGHUP }; /* its tasks go on to their ends */
    if (!options.env) return diag_set(-ENOMEM, "the environment is too large");
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        options.files_max = (int64_t)MIN(files.rlim_cur, (rlim_t)INT64_MAX);
    return process_spawn(&options, &m->process);
}

static int log_job(void *arg)
{
    Member *m = arg;
    char path[FS_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/worker-%" PRId64 ".log", m->owner->dir, m->number);
    int r = fs_dir_make(m->owner->dir);
    return r == 0 ? log_file_open(&m->log, path, LOG_FILE_BYTES_MAX) : r;
}

/* Why it ended is often said last. */
static void member_words_wait(Member *m)
{
    int64_t deadline_ms = deadline_after(WORDS_MS);
    while (m->reading > 0 && cond_wait(&m->read, deadline_ms) == 0) continue;
}

static void member_free_wait(Member *m)
{
    fiber_cancel(m->out);
    fiber_cancel(m->err);
    fiber_join_wait(m->out, NULL);
    fiber_join_wait(m->err, NULL);
    process_free(m->process);
    log_file_close(&m->log);
    list_remove(&m->node);
    m->owner->n--;
    free(m);
}

static void member_start_wait(Supervisor *s)
{
    Member *m = xcalloc(1, sizeof *m);
    m->owner = s;
    m->number = number_free(s);
    m->state = (FleetMember){ .generation = s->fleet.generation, .started_ms = clock_mono_ms() };
    snprintf(m->name, sizeof m->name, "%s-%" PRId64, s->name, m->number);
    log_file_init(&m->log);
    cond_init(&m->read);
    list_push_back(&s->members, &m->node);
    s->n++;
    int r = work_wait(log_job, m);
    if (r == 0) r = process_start(m);
    if (r == 0) r = fiber_spawn("worker's stdout", out_main, m, &m->out);
    if (r == 0) m->reading++;
    if (r == 0) r = fiber_spawn("worker's stderr", err_main, m, &m->err);
    if (r == 0) m->reading++;
    if (r == 0) {
        LOG_INFO("worker started", LOG_CSTR("name", m->name),
                 LOG_INT("pid", process_pid(m->process)));
        return;
    }
    LOG_ERROR("worker not started", LOG_CSTR("why", diag_text_or(r)));
    fleet_failed(&s->fleet, clock_mono_ms());
    member_free_wait(m);
}

static void member_drain(Member *m)
{
    LOG_INFO("worker told to drain", LOG_CSTR("name", m->name));
    m->state.state = MEMBER_DRAINING;
    process_signal(m->process, SIGTERM);
}

/* What agents of one that was killed have left behind. */
static void member_sweep_wait(const Member *m)
{
    char dir[FS_PATH_MAX + 32], group[CGROUP_BASE_MAX];
    snprintf(dir, sizeof dir, "%s/worker-%" PRId64, m->owner->dir, m->number);
    if (group_place(dir, group) < 0) group[0] = '\0';
    allowance_end_wait(group, 0, NULL, "");
}

static void members_reap_wait(Supervisor *s)
{
    LIST_EACH (&s->members, node) {
        Member *m = CONTAINER_OF(node, Member, node);
        ProcessExit how = { 0 };
        if (process_exit_wait(m->process, clock_mono_ms(), &how) != 0) continue;
        bool asked = m->state.state == MEMBER_DRAINING && !m->hung;
        if (!asked && !(how.exit_code == 0 && how.signal == 0)) {
            LOG_ERROR("worker ended by itself", LOG_CSTR("name", m->name),
                      LOG_INT("exitCode", how.exit_code), LOG_INT("signal", how.signal));
            fleet_failed(&s->fleet, clock_mono_ms());
        } else {
            LOG_INFO("worker ended", LOG_CSTR("name", m->name));
        }
        member_words_wait(m);
        member_sweep_wait(m);
        member_free_wait(m);
    }
}

/* --- what is wanted --------------------------------------------------------------------------- */

static Member *member_find(Supervisor *s, Str name)
{
    LIST_EACH (&s->members, node) {
        Member *m = CONTAINER_OF(node, Member, node);
        if (str_eq(str_of(m->name), name)) return m;
    }
    return NULL;
}

static int get_wait(Supervisor *s, const char *path, ClientAnswer *ret)
{
    ClientRequest q = { .method = "GET", .path = str_of(path), .timeout_ms = ANSWER_MS };
    int r = client_request_wait(s->client, &q, ret);
    if (r == EXIT_NOT_AUTHORISED) return -EACCES;
    return r == EXIT_OK && ret->json ? 0 : -EIO;
}

/* Which of them work, and which drain; *ret_others: workers elsewhere. */
static int workers_read_wait(Supervisor *s, int64_t *ret_others)
{
    ClientAnswer answer;
    int r = get_wait(s, "/api/workers", &answer);
    if (r < 0) return r;
    *ret_others = 0;
    LIST_EACH (&s->members, node) CONTAINER_OF(node, Member, node)->listed = false;
    for (JsonIter it = json_iter(json_get(answer.json, "workers")); json_next(&it);) {
        Member *m = member_find(s, json_str(json_get(it.value, "name")));
        bool remote = str_eq(json_str(json_get(it.value, "kind")), STR("remote"));
        Str state = json_str(json_get(it.value, "state"));
        bool active = str_eq(state, STR("active"));
        if (!remote || !(active || str_eq(state, STR("draining")))) continue;
        if (!m) {
            *ret_others += active;
            continue;
        }
        m->listed = true;
        if (!active) m->state.state = MEMBER_DRAINING; /* an operator has told it to */
        m->state.running = json_i64_or(json_get(it.value, "running"), 0);
    }
    return 0;
}

/* One that lives but has no lease, though the control plane answers, is ended. */
static void member_look(Member *m)
{
    if (!fleet_look(&m->owner->rule, &m->state, m->listed, clock_mono_ms()) || m->hung) return;
    LOG_ERROR("worker hangs: killed", LOG_CSTR("name", m->name),
              LOG_INT("pid", process_pid(m->process)));
    m->hung = true;
    process_signal(m->process, SIGKILL);
}

static int members_look_wait(Supervisor *s, int64_t *ret_others)
{
    arena_clear(&s->client->arena);
    int r = workers_read_wait(s, ret_others);
    LIST_EACH (&s->members, node) {
        Member *m = CONTAINER_OF(node, Member, node);
        if (r == 0) member_look(m);
        else fleet_unseen(&m->state);
    }
    return r;
}

/* Some of an earlier generation are there still. */
static bool is_replacing(const Supervisor *s)
{
    bool old = false;
    LIST_EACH (&s->members, node)
        old |= CONTAINER_OF(node, Member, node)->state.generation != s->fleet.generation;
    return old;
}

/* What all lanes need together, for they share slots; each answer has it. Without an answer the
 * last one holds. A control plane that has not looked for long wants as many as there are: those
 * that take the place of others are no reason for more. */
static int wanted_read_wait(Supervisor *s)
{
    ClientAnswer answer;
    int64_t others = 0;
    int r = members_look_wait(s, &others);
    if (r == 0) r = get_wait(s, "/api/scaling/normal", &answer);
    if (r != 0) return r;
    int64_t all = json_i64_or(json_get(answer.json, "desiredWorkersAll"), 0);
    bool more = all > json_i64_or(json_get(answer.json, "workers"), 0) || !is_replacing(s);
    s->wanted = more ? all - others : MIN(all - others, s->wanted);
    return 0;
}

static void plan_wait(Supervisor *s)
{
    FleetMember states[MEMBERS_MAX];
    Member *members[MEMBERS_MAX];
    size_t n = 0;
    LIST_EACH (&s->members, node) {
        members[n] = CONTAINER_OF(node, Member, node);
        states[n] = members[n]->state;
        if (++n == MEMBERS_MAX) break;
    }
    FleetPlan plan = fleet_plan(&s->fleet, &s->rule, states, n, s->wanted, clock_mono_ms());
    if (plan.drain >= 0) member_drain(members[plan.drain]);
    for (int64_t i = 0; i < plan.start; i++) member_start_wait(s);
}

/* --- life ------------------------------------------------------------------------------------- */

static void end_begin(Supervisor *s)
{
    fprintf(stderr, "gantry: draining %zu workers; once more to stop what they run\n", s->n);
    s->ending = true;
    LIST_EACH (&s->members, node) member_drain(CONTAINER_OF(node, Member, node));
}

/* Returns 0, -ECANCELED, or -EACCES: the key was never taken, so no worker's would be. */
static int live_wait(Supervisor *s, Signals *signals)
{
    bool heard = false;
    int64_t next_ms = clock_mono_ms(), others;
    while (!s->ending || s->n > 0) {
        int r = signals_wait(signals, s->ending ? deadline_after(TICK_MS / 10) : next_ms);
        if (r == SIGHUP) fleet_replace(&s->fleet);
        else if (r > 0) end_begin(s); /* a second time, too: the workers stop what they run */
        else if (r != -ETIMEDOUT) return r;
        members_reap_wait(s);
        if (clock_mono_ms() < next_ms) continue;
        r = s->ending ? members_look_wait(s, &others) : wanted_read_wait(s);
        if (r == -EACCES && !heard && s->n == 0) return -EACCES;
        heard |= r == 0;
        if (!s->ending) plan_wait(s);
        next_ms = deadline_after(r == 0 ? TICK_MS : TICK_AWAY_MS);
    }
    return 0;
}

static int number_of(const Invocation *in, const char *name, int64_t otherwise, int64_t *ret)
{
    const char *text = flag(in, name);
    *ret = otherwise;
    if (!text) return 0;
    if (str_to_i64(str_of(text), ret) == 0 && *ret >= 0 && *ret <= FLEET_MAX) return 0;
    fprintf(stderr, "gantry: --%s must be a number from 0 to %d\n", name, FLEET_MAX);
    return -EINVAL;
}

static int duration_of(const Invocation *in, const char *name, int64_t otherwise_ms, int64_t *ret)
{
    const char *text = flag(in, name);
    *ret = otherwise_ms;
    if (!text || duration_parse(str_of(text), ret) == 0) return 0;
    fprintf(stderr, "gantry: --%s: %s\n", name, diag_text_or(-EINVAL));
    return -EINVAL;
}

static int rule_read(const Invocation *in, FleetRule *ret)
{
    if (number_of(in, "min", 1, &ret->min) < 0) return -EINVAL;
    if (number_of(in, "max", MAX(MAX_DEFAULT, ret->min), &ret->max) < 0) return -EINVAL;
    if (duration_of(in, "down-every", DOWN_EVERY_MS_DEFAULT, &ret->down_every_ms) < 0 ||
        duration_of(in, "hung-after", HUNG_MS_DEFAULT, &ret->hung_ms) < 0)
        return -EINVAL;
    ret->hung_ms = MAX(ret->hung_ms, 1000);
    if (ret->max >= ret->min && ret->max > 0) return 0;
    fprintf(stderr, "gantry: --max must be at least 1 and not less than --min\n");
    return -EINVAL;
}

static int program_find(char out[FS_PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, FS_PATH_MAX - 1);
    if (n <= 0) return diag_set(-errno, "cannot find this program: %s", strerror(errno));
    out[n] = '\0';
    return 0;
}

/* Of no other supervisor, for workers are told apart by it: another may have been given the same
 * name, on another machine too. */
static int name_make(Supervisor *s)
{
    const char *given = flag(s->client->in, "name");
    char host[256] = "";
    if (given && strlen(given) > NAME_GIVEN_BYTES_MAX) {
        fprintf(stderr, "gantry: --name has at most %d bytes\n", NAME_GIVEN_BYTES_MAX);
        return -EINVAL;
    }
    if (gethostname(host, sizeof host - 1) != 0 || !host[0]) memcpy(host, "supervised", 11);
    unsigned token = (unsigned)(entropy_u64() & 0xffffff);
    if (given) snprintf(s->name, sizeof s->name, "%s-%06x", given, token);
    else snprintf(s->name, sizeof s->name, "%.60s-%d", host, (int)getpid());
    return 0;
}

/* Workers of two supervisors would want the same directories. */
static int dir_lock_job(void *arg)
{
    Supervisor *s = arg;
    char path[FS_PATH_MAX + 16];
    int r = fs_dir_make(s->dir);
    if (r < 0) return r;
    snprintf(path, sizeof path, "%s/supervisor.lock", s->dir);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock < 0) return diag_set(-errno, "cannot open %s: %s", path, strerror(errno));
    if (flock(s->lock, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno != EWOULDBLOCK) return diag_set(-errno, "cannot lock %s: %s", path, strerror(errno));
    return diag_set(-EBUSY, "another supervisor uses %s: give each a --data of its own", s->dir);
}

static int ready_wait(Supervisor *s)
{
    int r = program_find(s->program);
    if (r == 0) r = work_wait(dir_lock_job, s);
    if (r < 0) fprintf(stderr, "gantry: %s\n", diag_text_or(r));
    return r;
}

static void supervisor_free(Supervisor *s)
{
    if (!s) return;
    if (s->lock >= 0) close(s->lock);
    free(s);
}
DEFINE_FREEP(Supervisor, supervisor_free)

static int supervise_body(Client *client)
{
    static const int watched[] = { SIGINT, SIGTERM, SIGHUP };
    CLEANUP(supervisor_freep) Supervisor *s = xcalloc(1, sizeof *s);
    log_setup(LOG_INFO_, LOG_LOGFMT);
    s->client = client;
    s->lock = -1;
    s->dir = flag(client->in, "data") ? flag(client->in, "data") : "gantry-workers";
    list_init(&s->members);
    Url url;
    if (url_parse(&client->arena, str_of(client->in->server), &url) < 0)
        return fail(EXIT_USAGE, "--server %s: %s", client->in->server, diag_text());
    if (name_make(s) < 0 || rule_read(client->in, &s->rule) < 0) return EXIT_USAGE;
    if (ready_wait(s) < 0) return EXIT_FAILED;
    Signals *signals = signals_open(watched, ARRAY_N(watched));
    fprintf(stderr, "gantry: %" PRId64 " to %" PRId64 " workers for %s\n", s->rule.min, s->rule.max,
            client->in->server);
    int r = live_wait(s, signals);
    signals_close(signals);
    if (r == -EACCES) return EXIT_NOT_AUTHORISED;
    return r < 0 ? EXIT_FAILED : EXIT_OK;
}

int supervise_run(const Invocation *in)
{
    const char *file = flag(in, "log-file");
    signal(SIGPIPE, SIG_IGN);
    process_files_raise();
    process_hide(); /* the keys of models and of the API are in its environment */
    process_adopt();
    if (file && log_file_take_log(file, LOG_FILE_BYTES_MAX) < 0) {
        fprintf(stderr, "gantry: %s\n", diag_text_or(-EIO));
        return EXIT_FAILED;
    }
    int status = client_main(in, supervise_body);
    log_file_leave_log();
    return status;
}
