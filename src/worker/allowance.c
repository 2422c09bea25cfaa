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
#define STAT_BYTES_MAX 1024
#define ENVIRON_BYTES_MAX ((size_t)256 << 10)
#define KILL_ROUNDS 20  /* a program may start others faster than one look ends them */
#define DYING_MS_MAX 16 /* between two looks at who has been sent SIGKILL and is not gone yet */

typedef struct {
    AllowanceWatch *watch;
    ResourceProcess *processes;
    size_t n, room;
    int64_t ms;    /* that the look took */
    Resource over; /* what it has found */
} Look;

/* --- /proc ------------------------------------------------------------------------------------ */

static bool proc_read(const char *pid, const char *name, char text[STAT_BYTES_MAX])
{
    char path[64];
    if (snprintf(path, sizeof path, "/proc/%s/%s", pid, name) >= (int)sizeof path) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, STAT_BYTES_MAX - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = '\0';
    return true;
}

/* The fields after the name, which may hold anything: state, ppid, pgrp, session, ..., utime (14th
 * of all), stime, and those of children that were waited for. */
static bool process_read(const char *pid, ResourceProcess *ret)
{
    char text[STAT_BYTES_MAX], state;
    long ticks = sysconf(_SC_CLK_TCK);
    unsigned long user, system;
    long waited_user, waited_system, threads;
    int parent, session;
    if (!proc_read(pid, "stat", text)) return false;
    const char *after = strrchr(text, ')');
    if (!after ||
        sscanf(after + 1, " %c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld %*d %*d %ld",
               &state, &parent, &session, &user, &system, &waited_user, &waited_system,
               &threads) != 8)
        return false;
    if (state == 'X' || (state == 'Z' && threads <= 1)) return false; /* others may go on */
    int64_t all = (int64_t)(user + system) + waited_user + waited_system;
    *ret = (ResourceProcess){
        .pid = (int)strtol(pid, NULL, 10),
        .parent = parent,
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
        look->n += process_read(entry->d_name, &look->processes[look->n]);
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
    const char *mark;
    size_t mark_len;
    bool starts;   /* the mark is how a variable begins */
    char *environ; /* of one process */
    int *sent;     /* who was sent SIGKILL in the last round, in order */
    size_t sent_n;
} EndJob;

static bool is_marked(EndJob *job, int pid)
{
    char path[64];
    size_t len = 0;
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool ours = fstat(fd, &st) == 0 && st.st_uid == geteuid();
    for (ssize_t n; ours && (n = read(fd, job->environ + len, ENVIRON_BYTES_MAX - len)) > 0;)
        len += (size_t)n;
    close(fd);
    for (const char *at = job->environ, *end = at + len; at < end;) {
        size_t n = strnlen(at, (size_t)(end - at));
        bool long_enough = job->starts ? n > job->mark_len : n == job->mark_len;
        if (long_enough && memcmp(at, job->mark, job->mark_len) == 0) return true;
        at += n + 1;
    }
    return false;
}

/* Whether it was found now and is to end. */
static bool is_found(EndJob *job, const ResourceProcess *p)
{
    return p->own || (job->mark && p->pid != getpid() && is_marked(job, p->pid));
}

static int by_number(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* How many were found, and how many of them for the first time. */
static size_t end_round(EndJob *job, size_t *ret_fresh)
{
    Look *look = &job->look;
    processes_read(look);
    resource_sum(look->processes, look->n, look->watch->session);
    int *found = xcalloc(look->n + 1, sizeof *found);
    size_t found_n = 0;
    *ret_fresh = 0;
    for (size_t i = 0; i < look->n; i++) {
        const ResourceProcess *p = &look->processes[i];
        if (!is_found(job, p) || kill(p->pid, SIGKILL) != 0) continue;
        found[found_n++] = p->pid;
        *ret_fresh += !job->sent_n ||
                      !bsearch(&p->pid, job->sent, job->sent_n, sizeof *found, by_number);
    }
    free(job->sent);
    job->sent = found;
    job->sent_n = found_n;
    return found_n;
}

/* Whoever starts others is chased without a pause; who only has to die gets time for it, which on a
 * machine under load is better than looking on. */
static int end_job(void *arg)
{
    EndJob *job = arg;
    struct timespec pause = { .tv_nsec = 1000000 };
    size_t fresh;
    if (job->mark) job->environ = xcalloc(1, ENVIRON_BYTES_MAX);
    for (int round = 0; round < KILL_ROUNDS && end_round(job, &fresh) > 0; round++) {
        if (fresh > 0) continue;
        nanosleep(&pause, NULL);
        pause.tv_nsec = MIN(2 * pause.tv_nsec, DYING_MS_MAX * 1000000L);
    }
    free(job->environ);
    free(job->sent);
    free(job->look.processes);
    return 0;
}

void allowance_end_wait(int session, const char *mark)
{
    AllowanceWatch watch = { .session = session > 0 ? session : -1 };
    EndJob job = { .look = { .watch = &watch }, .mark = mark, .mark_len = mark ? strlen(mark) : 0 };
    fiber_shield();
    (void)work_wait(end_job, &job);
    fiber_unshield();
}

void allowance_end_before(const char *dir)
{
    static const char *const homes[] = { "tasks", "servers" };
    AllowanceWatch watch = { .session = -1 };
    for (size_t i = 0; i < ARRAY_N(homes); i++) {
        char mark[PATH_MAX + 16];
        int n = snprintf(mark, sizeof mark, "HOME=%s/%s/", dir, homes[i]);
        assert(n > 0 && n < (int)sizeof mark);
        EndJob job = { .look = { .watch = &watch }, .mark = mark, .mark_len = (size_t)n };
        job.starts = true;
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
        if (r == 0 && look_judge(&look)) allowance_end_wait(watch->session, NULL);
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
