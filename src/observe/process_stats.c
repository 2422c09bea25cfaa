#include "observe/process_stats.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static void memory_read(ProcessStats *ret)
{
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return;
    long pages, resident;
    if (fscanf(file, "%ld %ld", &pages, &resident) == 2) {
        ret->virtual_bytes = (int64_t)pages * sysconf(_SC_PAGESIZE);
        ret->resident_bytes = (int64_t)resident * sysconf(_SC_PAGESIZE);
    }
    fclose(file);
}

static int64_t fds_count(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) return -1;
    int64_t n = 0;
    for (struct dirent *item; (item = readdir(dir));) n += item->d_name[0] != '.';
    closedir(dir);
    return n - 1; /* the one we read with */
}

static double seconds(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

void process_stats(ProcessStats *ret)
{
    *ret = (ProcessStats){ .max_fds = -1 };
    memory_read(ret);
    ret->open_fds = fds_count();
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= INT64_MAX)
        ret->max_fds = (int64_t)limit.rlim_cur;
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        ret->cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
}
