#include "worker/allowance.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "sys/cgroup.h"
#include "sys/clock.h"
#include "sys/fiber.h"
#include "sys/loop.h"
#include "worker/proc.h"

#define LOOK_MS 100
#define MEMORY_MAPPED_BYTES (INT64_C(512) << 20) /* stacks of threads, heaps kept in reserve */
#define LOOK_SHARE 5    /* of the time at most one part in so many is spent looking */
#define SCRATCH_LOOKS 5 /* the directory is walked at one look of so many */
#define SCRATCH_FILES_MAX 100000
#define PROCESSES_MAX 32768 /* more are not looked at */
#define ENVIRON_BYTES_MAX ((size_t)256 << 10)
#define CHASE_ROUNDS 1000 /* a program may start others faster than one look ends them */
#define KILL_ROUNDS 20    /* in which who was sent SIGKILL has not ended */
#define HOME_BYTES_MAX (PATH_MAX + 16)
#define DYING_MS_MAX 16 /* between two looks at who has been sent SIGKILL and is not gone yet */

typedef struct {
    AllowanceWatch *watch;
    ResourceProcess *processes;
    size_t n, room;
    int64_t ms;    /* that the look took */
    Resource over; /* what it has found */
} Look;

/* --- /proc ------------------------------------------------------------------------------------ */

/* The fields after the name, which may hold anything: state, ppid, pgrp, session, ..., utime (14th
 * of all), stime, and those of children that were waited for. */
static bool process_read(int pid, ResourceProcess *ret)
{
    char text[PROC_TEXT_MAX], state;
    long ticks = sysconf(_SC_CLK_TCK);
    unsigned long user, system;
    long waited_user, waited_system, threads;
    int parent, group, session;
    if (!proc_text(pid, "stat", text)) return false;
    const char *after = strrchr(text, ')');
    if (!after ||
        sscanf(after + 1, " %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld %*d %*d %ld",
               &state, &parent, &group, &session, &user, &system, &waited_user, &waited_system,
               &threads) != 9)
        return false;
    if (state == 'Z' && parent == getpid()) process_stray_reap(pid);
    if (state == 'X' || (state == 'Z' && threads <= 1)) return false; /* others may go on */
    int64_t all = (int64_t)(user + system) + waited_user + waited_system;
    *ret = (ResourceProcess){
        .pid = pid,
        .parent = parent,
        .group = group,
        .session = session,
        .cpu_ms = all * 1000 / ticks,
    };
    return true;
}

static void processes_read(Look *look)
{
    DIR *proc = opendir("/proc");
    look->n = 0;
    if (!proc) return;
    for (struct dirent *entry; (entry = readdir(proc)) != NULL && look->n < PROCESSES_MAX;) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        if (look->n == look->room) {
            look->room = look->room ? 2 * look->room : 256;
            look->processes = xrealloc(look->processes, look->room * sizeof *look->processes);
        }
        int pid = (int)strtol(entry->d_name, NULL, 10);
        look->n += process_read(pid, &look->processes[look->n]);
    }
    closedir(proc);
}

/* --- the directory ---------------------------------------------------------------------------- */

/* What lies below the directory, on the disk; it may change meanwhile. */
static int64_t directory_bytes(const char *path, int64_t enough)
{
    char *paths[] = { (char *)path, NULL };
    int64_t sum = 0, files = 0;
    FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    if (!walk) return 0;
    for (FTSENT *e; sum <= enough && files < SCRATCH_FILES_MAX && (e = fts_read(walk)) != NULL;) {
        if (e->fts_info == FTS_DP || e->fts_info == FTS_NS || e->fts_info == FTS_ERR) continue;
        sum += (int64_t)e->fts_statp->st_blocks * 512;
        files++;
    }
    fts_close(walk);
    return sum;
}

/* What nobody finds there any more is on the disk as long as it is open. */
static int64_t scratch_bytes(const Look *look)
{
    const AllowanceWatch *w = look->watch;
    struct stat st;
    int64_t sum = directory_bytes(w->scratch, w->limits->scratch_bytes);
    if (stat(w->scratch, &st) != 0) return sum;
    return sum + proc_unlinked_bytes(look->processes, look->n, st.st_dev);
}

/* --- looking ---------------------------------------------------------------------------------- */

static void tree_look(Look *look)
{
    AllowanceWatch *w = look->watch;
    processes_read(look);
    int64_t scratch_bytes = w->use.scratch_bytes;
    w->use = resource_sum(look->processes, look->n, w->session);
    w->use.scratch_bytes = scratch_bytes;
    if (w->limits->memory_bytes > 0)
        w->use.memory_bytes = proc_memory_bytes(look->processes, look->n, w->limits->memory_bytes);
}

int64_t allowance_cpu_ms(int session)
{
    Look look = { .n = 0 };
    processes_read(&look);
    ResourceUse use = resource_sum(look.processes, look.n, session);
    free(look.processes);
    return use.cpu_ms;
}

/* --- ending it -------------------------------------------------------------------------------- */

typedef struct {
    Look look;
    const char *cgroup;
    const char *mark;  /* NULL: none */
    const char *homes; /* NULL: those of an earlier worker are looked for, among all processes */
    bool starts;       /* the mark is how a variable begins */
    bool chases;       /* there are such as start others all the time: they are stopped first */
    char *environ;     /* of one process */
    size_t environ_len;
    int *sent; /* who was sent a signal in the last round, in order */
    size_t sent_n;
} EndJob;

static void environ_read(EndJob *job, int pid)
{
    char path[64];
    job->environ_len = 0;
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    bool ours = fstat(fd, &st) == 0 && st.st_uid == geteuid();
    size_t len = 0;
    for (ssize_t n; ours && (n = read(fd, job->environ + len, ENVIRON_BYTES_MAX - len)) > 0;)
        len += (size_t)n;
    close(fd);
    job->environ_len = len;
}

static bool environ_has(const EndJob *job, Str variable, bool starts)
{
    for (const char *at = job->environ, *end = at + job->environ_len; at < end;) {
        Str have = str_make(at, strnlen(at, (size_t)(end - at)));
        if (starts ? str_starts_with(have, variable) : str_eq(have, variable)) return true;
        at += have.len + 1;
    }
    return false;
}

static const char *const homes_below[] = { "tasks", "servers" };

static void home_mark(char text[HOME_BYTES_MAX], const char *dir, size_t which)
{
    int n = snprintf(text, HOME_BYTES_MAX, "HOME=%s/%s/", dir, homes_below[which]);
    assert(n > 0 && n < HOME_BYTES_MAX);
}

static bool is_at_home(const EndJob *job)
{
    char mark[HOME_BYTES_MAX];
    for (size_t i = 0; job->homes[0] && i < ARRAY_N(homes_below); i++) {
        home_mark(mark, job->homes, i);
        if (environ_has(job, str_of(mark), true)) return true;
    }
    return false;
}

/* Whether it is to end, by itself and not for what it descends from. */
static bool is_root(EndJob *job, int pid, int parent)
{
    bool stray = job->homes && parent == getpid() && process_is_stray(pid);
    if (pid == getpid() || (!stray && !job->mark)) return false;
    environ_read(job, pid);
    if (job->mark && environ_has(job, str_of(job->mark), job->starts)) return true;
    return stray && !is_at_home(job);
}

/* All that this process has started, and that has started, are below it. */
static void others_drop(Look *look)
{
    size_t kept = 0;
    for (size_t i = 0; i < look->n; i++)
        look->processes[i].root = look->processes[i].pid == getpid();
    resource_sum(look->processes, look->n, -1);
    for (size_t i = 0; i < look->n; i++) {
        if (!look->processes[i].own || look->processes[i].root) continue;
        look->processes[kept++] = look->processes[i];
    }
    look->n = kept;
}

static void end_look(EndJob *job)
{
    Look *look = &job->look;
    processes_read(look);
    if (job->homes) others_drop(look);
    for (size_t i = 0; i < look->n; i++) {
        ResourceProcess *p = &look->processes[i];
        p->root = is_root(job, p->pid, p->parent);
    }
    resource_sum(look->processes, look->n, look->watch->session);
}

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static bool is_fresh(const EndJob *job, int pid)
{
    return !job->sent_n || !bsearch(&pid, job->sent, job->sent_n, sizeof pid, by_number);
}

/* How many were found, and how many of them for the first time. */
static size_t end_round(EndJob *job, int signal, size_t *ret_fresh)
{
    const Look *look = &job->look;
    end_look(job);
    int *found = xcalloc(look->n + 1, sizeof *found);
    size_t found_n = 0;
    *ret_fresh = 0;
    for (size_t i = 0; i < look->n; i++) {
        const ResourceProcess *p = &look->processes[i];
        if (!p->own || p->pid == getpid()) continue;
        bool gone = kill(p->pid, signal) != 0;
        if (gone && errno != ESRCH) continue;
        bool fresh = gone || is_fresh(job, p->pid); /* it may have started another before */
        if (fresh && job->chases && job->homes && p->group != getpgid(0)) kill(-p->group, SIGKILL);
        found[found_n++] = p->pid;
        *ret_fresh += fresh;
    }
    free(job->sent);
    job->sent = found;
    job->sent_n = found_n;
    return found_n;
}

/* Whoever starts others all the time is chased without a pause: its group is killed at once, and
 * who has left that is stopped until no more come, for who is killed makes room for others. Who
 * only has to die gets time for it, which on a machine under load is better than looking on. */
static int end_job(void *arg)
{
    EndJob *job = arg;
    struct timespec pause = { .tv_nsec = 1000000 };
    job->environ = xcalloc(1, ENVIRON_BYTES_MAX);
    int signal = SIGKILL;
    if (job->cgroup[0]) cgroup_end(job->cgroup); /* whoever has left it is looked for, too */
    for (int round = 0, waits = 0; round < CHASE_ROUNDS && waits < KILL_ROUNDS; round++) {
        size_t fresh;
        if (end_round(job, signal, &fresh) == 0) break;
        job->chases |= fresh > 0 && round > 0;
        bool dying = fresh == 0 && signal == SIGKILL;
        signal = job->chases && fresh > 0 ? SIGSTOP : SIGKILL;
        if (!dying) continue;
        waits++;
        nanosleep(&pause, NULL);
        pause.tv_nsec = MIN(2 * pause.tv_nsec, DYING_MS_MAX * 1000000L);
    }
    for (size_t i = 0; i < job->sent_n; i++) kill(job->sent[i], SIGKILL); /* none stays stopped */
    free(job->environ);
    free(job->sent);
    free(job->look.processes);
    return 0;
}

void allowance_end_wait(const char *cgroup, int session, const char *mark, const char *homes)
{
    AllowanceWatch watch = { .session = session > 0 ? session : -1 };
    EndJob job = { .look = { .watch = &watch }, .cgroup = cgroup, .mark = mark, .homes = homes };
    assert(homes);
    fiber_shield();
    (void)work_wait(end_job, &job);
    fiber_unshield();
}

static int sweep_job(void *arg)
{
    EndJob *job = arg;
    bool ended = job->cgroup[0] && cgroup_end(job->cgroup) == 0;
    job->cgroup = "";
    return ended && !process_has_strays() ? 0 : end_job(job);
}

void allowance_sweep_wait(const char *cgroup, const char *mark, const char *homes)
{
    AllowanceWatch watch = { .session = -1 };
    EndJob job = { .look = { .watch = &watch }, .cgroup = cgroup, .mark = mark, .homes = homes };
    fiber_shield();
    (void)work_wait(sweep_job, &job);
    fiber_unshield();
}

void allowance_end_before(const char *dir)
{
    AllowanceWatch watch = { .session = -1 };
    for (size_t i = 0; i < ARRAY_N(homes_below); i++) {
        char mark[HOME_BYTES_MAX];
        home_mark(mark, dir, i);
        EndJob job = { .look = { .watch = &watch }, .cgroup = "", .mark = mark, .starts = true };
        (void)end_job(&job);
    }
}

/* --- when it is too much ---------------------------------------------------------------------- */

static bool needs_tree(const ResourceLimits *l)
{
    return l->memory_bytes > 0 || l->cpu_seconds > 0 || l->processes > 0;
}

static int look_job(void *arg)
{
    Look *look = arg;
    AllowanceWatch *w = look->watch;
    int64_t begun_ms = clock_mono_ms();
    bool walks = w->scratch && w->limits->scratch_bytes > 0 && w->looks++ % SCRATCH_LOOKS == 0;
    if (walks || needs_tree(w->limits)) tree_look(look);
    if (walks) w->use.scratch_bytes = scratch_bytes(look);
    ResourceUse use = w->use;
    if (w->cpu_over) use.cpu_ms = 0;
    look->over = resource_over(w->limits, &use);
    look->ms = clock_mono_ms() - begun_ms;
    return 0;
}

static bool look_judge(const Look *look)
{
    AllowanceWatch *w = look->watch;
    w->over = look->over;
    bool judges = !w->over && w->cpu_over && w->limits->cpu_seconds;
    if (judges && w->cpu_over(w->ctx, w->use.cpu_ms)) w->over = RESOURCE_CPU;
    return w->over != RESOURCE_NONE;
}

bool allowance_watched(const ResourceLimits *limits)
{
    return needs_tree(limits) || limits->scratch_bytes > 0;
}

int allowance_watch_wait(AllowanceWatch *watch)
{
    Look look = { .watch = watch };
    int r = 0;
    while (r == 0 && !watch->over) {
        r = fiber_sleep_wait(MAX(LOOK_MS, look.ms * LOOK_SHARE));
        if (r == 0) r = work_wait(look_job, &look);
        if (r == 0 && look_judge(&look))
            allowance_end_wait(watch->cgroup, watch->session, NULL, watch->homes);
    }
    free(look.processes);
    return r;
}

/* What the kernel keeps, of each process. Memory only roughly: programs map more than they use, so
 * it only stops what grows faster than anybody looks. */
void allowance_of_process(const ResourceLimits *limits, ProcessOptions *options)
{
    options->files_max = limits->files;
    options->cpu_seconds_max = limits->cpu_seconds;
    options->file_bytes_max = limits->scratch_bytes;
    if (limits->memory_bytes > 0)
        options->memory_bytes_max = 2 * limits->memory_bytes + MEMORY_MAPPED_BYTES;
}

/* --- afterwards ------------------------------------------------------------------------------- */

static bool says(Str text, const char *words)
{
    size_t n = strlen(words);
    for (size_t i = 0; i + n <= text.len; i++)
        if (strncasecmp(text.ptr + i, words, n) == 0) return true;
    return false;
}

Resource allowance_blame(const AllowanceWatch *watch, int signal, int exit_code, Str last_words)
{
    const ResourceLimits *limits = watch->limits;
    if (watch->over) return watch->over;
    if (limits->cpu_seconds > 0 && signal == SIGXCPU) return RESOURCE_CPU;
    if (limits->scratch_bytes > 0 && signal == SIGXFSZ) return RESOURCE_SCRATCH;
    if (exit_code == EX_TEMPFAIL) return RESOURCE_NONE; /* words may be about something else */
    bool large = says(last_words, "file too large") || says(last_words, "file size limit exceeded");
    if (limits->scratch_bytes > 0 && large) return RESOURCE_SCRATCH;
    bool full = says(last_words, "too many open files");
    return limits->files > 0 && full ? RESOURCE_FILES : RESOURCE_NONE;
}
