#include "worker/stuck.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "sys/clock.h"
#include "worker/run.h"
#include "worker/servers.h"

#define LOOKS 4 /* in the time after which it is taken for hung */
#define LOOK_MS_MIN 20
#define SERVER_CPU_SHARE 100 /* of the time one part in so many is no more than pings */
#define STAT_BYTES_MAX 1024

/* --- /proc ------------------------------------------------------------------------------------ */

/* The fields after the name, which may hold anything: state, ppid, pgrp, ..., utime (14th of all),
 * stime. */
static int64_t stat_cpu(const char *text, int pgid)
{
    const char *after = strrchr(text, ')');
    long group = 0;
    unsigned long user = 0, system = 0;
    if (!after || sscanf(after + 1, " %*c %*d %ld %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &group,
                         &user, &system) != 3)
        return 0;
    return group == pgid ? (int64_t)(user + system) : 0;
}

static int64_t process_cpu(const char *pid, int pgid)
{
    char path[64], text[STAT_BYTES_MAX];
    if (snprintf(path, sizeof path, "/proc/%s/stat", pid) >= (int)sizeof path) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = '\0';
    return stat_cpu(text, pgid);
}

int64_t stuck_group_cpu(int pgid)
{
    int64_t sum = 0;
    DIR *proc = opendir("/proc");
    if (!proc) return 0;
    for (struct dirent *entry; (entry = readdir(proc)) != NULL;)
        if (isdigit((unsigned char)entry->d_name[0])) sum += process_cpu(entry->d_name, pgid);
    closedir(proc);
    return sum;
}

typedef struct {
    int pgid;
    int64_t ticks;
} CpuJob;

static int cpu_job(void *arg)
{
    CpuJob *job = arg;
    job->ticks = stuck_group_cpu(job->pgid);
    return 0;
}

/* --- looking ---------------------------------------------------------------------------------- */

static void look_later(Run *run, int64_t now_ms)
{
    run->stuck.look_at_ms = now_ms + MAX(run->host->stuck_ms / LOOKS, LOOK_MS_MIN);
}

void stuck_begin(Run *run)
{
    int64_t now_ms = clock_mono_ms();
    run->stuck = (Stuck){ .look_at_ms = INT64_MAX, .active_at_ms = now_ms, .seen_at_ms = now_ms };
    if (run->host->stuck_ms > 0) look_later(run, now_ms);
}

static bool changed(int64_t *seen, int64_t now)
{
    bool moved = *seen != now;
    *seen = now;
    return moved;
}

/* What can be seen without leaving the loop. */
static bool is_active(Run *run)
{
    GatewayTotals totals;
    bool seen = run->process || run->server;
    if (!run->gateway || !seen || run->door_calls_n > 0) return true;
    ServerSigns signs = run->server ? server_signs(run->server->server) : (ServerSigns){ 0 };
    if (changed(&run->stuck.wrote, signs.wrote) || signs.busy) return true;
    gateway_task_totals(run->gateway, &totals);
    bool calls = changed(&run->stuck.calls, totals.calls + totals.calls_refused);
    bool lines = changed(&run->stuck.lines, run->log.seq);
    bool tools = changed(&run->stuck.tools, run->tool_records);
    return calls || lines || tools || totals.caps.in_flight > 0;
}

/* Whether the processes have used CPU time since the last look; of a server, more than a little. */
static bool is_computing(Run *run, int64_t now_ms, int64_t ticks)
{
    int64_t used = ticks - run->stuck.cpu_ticks, ms = now_ms - run->stuck.seen_at_ms;
    run->stuck.cpu_ticks = ticks;
    run->stuck.seen_at_ms = now_ms;
    if (!run->server) return used != 0;
    return used < 0 || used * 1000 / sysconf(_SC_CLK_TCK) > ms / SERVER_CPU_SHARE;
}

bool stuck_look_wait(Run *run)
{
    bool active = is_active(run);
    CpuJob job = { .pgid = run->process ? process_pid(run->process) : 0 };
    if (run->server) job.pgid = server_signs(run->server->server).pid;
    if (job.pgid > 0) (void)work_wait(cpu_job, &job);
    int64_t now_ms = clock_mono_ms();
    active |= is_computing(run, now_ms, job.ticks);
    if (active) run->stuck.active_at_ms = now_ms;
    look_later(run, now_ms);
    return now_ms - run->stuck.active_at_ms >= run->host->stuck_ms;
}
