#include "worker/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FILES_MAX 65536 /* open ones of all processes; more are not looked at */
#define UNLINKED_MAX 4096

bool proc_text(int pid, const char *name, char text[PROC_TEXT_MAX])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, PROC_TEXT_MAX - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = '\0';
    return true;
}

/* --- memory ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t own, other; /* other: files and shared memory */
} Memory;

static Memory memory_of(int pid)
{
    char text[PROC_TEXT_MAX];
    long long resident, other;
    int64_t page_bytes = sysconf(_SC_PAGESIZE);
    if (!proc_text(pid, "statm", text)) return (Memory){ 0 };
    if (sscanf(text, "%*d %lld %lld", &resident, &other) != 2) return (Memory){ 0 };
    return (Memory){ MAX(resident - other, 0) * page_bytes, other * page_bytes };
}

/* "NAME:   123 kB" at the start of a line; -1: it is not there. */
static int64_t line_bytes(int pid, const char *file, const char *name)
{
    char text[PROC_TEXT_MAX];
    if (!proc_text(pid, file, text)) return -1;
    const char *at = strstr(text, name);
    return at ? strtoll(at + strlen(name), NULL, 10) * 1024 : -1;
}

/* Shared memory that it has touched. */
static int64_t shared_of(int pid)
{
    return MAX(line_bytes(pid, "status", "\nRssShmem:"), 0);
}

/* Its part of that, where others have touched the same. The kernel goes through all its pages for
 * this. */
static int64_t shared_part_of(int pid)
{
    int64_t bytes = line_bytes(pid, "smaps_rollup", "\nPss_Shmem:");
    return bytes >= 0 ? bytes : shared_of(pid);
}

/* Exact only where it matters: between the most that one of them has and the sum of all. */
static int64_t shared_bytes(const ResourceProcess *processes, size_t n, int64_t enough)
{
    int64_t sum = 0, most = 0, parts = 0;
    for (size_t i = 0; i < n; i++) {
        if (!processes[i].own) continue;
        int64_t bytes = shared_of(processes[i].pid);
        most = MAX(most, bytes);
        sum += bytes;
    }
    if (sum <= enough) return sum;
    if (most > enough) return most;
    for (size_t i = 0; i < n; i++)
        if (processes[i].own) parts += shared_part_of(processes[i].pid);
    return parts;
}

int64_t proc_memory_bytes(const ResourceProcess *processes, size_t n, int64_t enough)
{
    Memory all = { 0 };
    for (size_t i = 0; i < n; i++) {
        if (!processes[i].own) continue;
        Memory memory = memory_of(processes[i].pid);
        all.own += memory.own;
        all.other += memory.other;
    }
    if (all.own > enough || all.own + all.other <= enough) return all.own;
    return all.own + shared_bytes(processes, n, enough - all.own);
}

/* --- files ------------------------------------------------------------------------------------ */

typedef struct {
    dev_t device;
    uint64_t seen[UNLINKED_MAX];
    size_t seen_n, files;
    int64_t bytes;
} Unlinked;

static bool is_new(Unlinked *all, uint64_t inode)
{
    for (size_t i = 0; i < all->seen_n; i++)
        if (all->seen[i] == inode) return false;
    if (all->seen_n == UNLINKED_MAX) return false;
    all->seen[all->seen_n++] = inode;
    return true;
}

/* As the kernel knows it: a file elsewhere, on a network, is not asked for. */
static void file_add(Unlinked *all, int dir, const char *name)
{
    struct statx st;
    if (statx(dir, name, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_NLINK | STATX_INO | STATX_BLOCKS,
              &st) != 0)
        return;
    if (!S_ISREG(st.stx_mode) || st.stx_nlink != 0) return;
    if (makedev(st.stx_dev_major, st.stx_dev_minor) != all->device) return;
    if (is_new(all, st.stx_ino)) all->bytes += (int64_t)st.stx_blocks * 512;
}

static void files_add(Unlinked *all, int pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *entry; all->files < FILES_MAX && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        file_add(all, dirfd(dir), entry->d_name);
        all->files++;
    }
    closedir(dir);
}

int64_t proc_unlinked_bytes(const ResourceProcess *processes, size_t n, dev_t device)
{
    Unlinked *all = xcalloc(1, sizeof *all);
    all->device = device;
    for (size_t i = 0; i < n; i++)
        if (processes[i].own) files_add(all, processes[i].pid);
    int64_t bytes = all->bytes;
    free(all);
    return bytes;
}
