#include "worker/group.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/diag.h"
#include "base/log.h"

/* A bound for what starts others faster than anybody looks, far above what a version is allowed:
 * the kernel counts threads too, and only says that there can be no more. */
#define TASKS_TIMES 4
#define TASKS_MAX_LEAST INT64_C(4096)

/* --- of the worker ---------------------------------------------------------------------------- */

int group_place(const char *dir, char ret[CGROUP_BASE_MAX])
{
    struct stat st;
    char name[64];
    if (stat(dir, &st) != 0) return diag_set(-errno, "cannot find %s", dir);
    snprintf(name, sizeof name, CGROUP_PREFIX "%jx-%jx", (uintmax_t)st.st_dev,
             (uintmax_t)st.st_ino);
    return cgroup_place(name, ret);
}

int group_open(const char *dir, bool wanted, char ret[CGROUP_BASE_MAX])
{
    int lock = -1;
    int r = wanted ? group_place(dir, ret) : 1;
    if (r == 0) r = cgroup_open(ret, &lock);
    if (r == 0) {
        LOG_INFO("programs get cgroups", LOG_CSTR("below", ret));
        return lock;
    }
    ret[0] = '\0';
    LOG_INFO("programs get no cgroups",
             LOG_CSTR("why", r > 0 ? "worker.cgroups is false" : diag_text_or(r)));
    return -1;
}

/* --- of a program ----------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    int64_t tasks_max;
} MakeJob;

static int make_job(void *arg)
{
    const MakeJob *job = arg;
    return cgroup_make(job->path, job->tasks_max);
}

static void make_wait(RunHost *host, const ResourceLimits *limits, char path[CGROUP_PATH_MAX])
{
    MakeJob job = { .path = path };
    if (limits->processes > 0)
        job.tasks_max = MAX(TASKS_TIMES * limits->processes, TASKS_MAX_LEAST);
    int r = work_wait(make_job, &job);
    if (r == 0) return;
    atomic_fetch_add(&host->counters.cgroups_failed, 1);
    LOG_WARN("a program gets no cgroup", LOG_CSTR("path", path), LOG_CSTR("why", strerror(-r)));
    path[0] = '\0';
}

static void path_of_run(const Run *run, int64_t number, char ret[CGROUP_PATH_MAX])
{
    snprintf(ret, CGROUP_PATH_MAX, "%s/%s-%" PRId64 ".%" PRId64, run->host->cgroup, run->id,
             run->task.ref.fence, number);
}

void group_of_run_wait(Run *run, char ret[CGROUP_PATH_MAX])
{
    ret[0] = '\0';
    if (!run->host->cgroup[0]) return;
    path_of_run(run, run->groups_n++, ret);
    make_wait(run->host, &run->version->spec.resources, ret);
}

void group_of_server_wait(RunHost *host, const char *server_id, const ResourceLimits *limits,
                          char ret[CGROUP_PATH_MAX])
{
    ret[0] = '\0';
    if (!host->cgroup[0]) return;
    snprintf(ret, CGROUP_PATH_MAX, "%s/server-%s", host->cgroup, server_id);
    make_wait(host, limits, ret);
}

/* --- ends ------------------------------------------------------------------------------------- */

static int leave_job(void *arg)
{
    return cgroup_remove(arg);
}

void group_leave_wait(const char *group)
{
    if (group[0]) (void)work_wait(leave_job, (void *)group); /* who is in it stays */
}

static int end_job(void *arg)
{
    const Run *run = arg;
    char path[CGROUP_PATH_MAX];
    for (int64_t i = 0; i < run->groups_n; i++) {
        path_of_run(run, i, path);
        cgroup_end(path);
    }
    return 0;
}

void group_end_run_wait(Run *run)
{
    if (run->groups_n) (void)work_wait(end_job, run);
}
