#include "sys/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/diag.h"

#define PROC_BYTES_MAX ((size_t)1 << 20)
#define FILE_PATH_MAX (CGROUP_PATH_MAX + 64)
#define LOCK_TRIES 60
#define LOCK_PAUSE_MS 50
#define END_MS_MAX 2000
#define PAUSE_US 100 /* between two looks at who has been sent SIGKILL, twice as long each time */
#define PAUSE_US_MAX 16000

#if defined(__SANITIZE_THREAD__)
#define CLONES false /* the sanitizer must know of a fork */
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CLONES false
#endif
#endif
#ifndef CLONES
#define CLONES true
#endif

/* --- files ------------------------------------------------------------------------------------ */

static int file_write(const char *dir, const char *name, const char *text)
{
    char path[FILE_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return r;
}

/* The text, to be freed; NULL: it cannot be read. */
static char *proc_read(const char *path, Str *ret)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    char *text = xcalloc(1, PROC_BYTES_MAX);
    size_t len = 0;
    for (ssize_t n; (n = read(fd, text + len, PROC_BYTES_MAX - len)) > 0;) len += (size_t)n;
    close(fd);
    *ret = str_make(text, len);
    return text;
}

/* --- where ------------------------------------------------------------------------------------ */

/* Of `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS... - TYPE SOURCE OPTIONS`: what of the hierarchy is
 * mounted where. Names that are written with escapes are not looked for. */
static bool mount_read(Str line, Str *ret_root, Str *ret_point)
{
    if (str_find(line, STR(" - cgroup2 ")) < 0) return false;
    for (int i = 0; i < 4; i++) line = str_split(line, ' ', ret_root, NULL);
    str_split(line, ' ', ret_point, NULL);
    return str_starts_with(*ret_root, STR("/")) && str_starts_with(*ret_point, STR("/")) &&
           str_find_char(*ret_root, '\\') < 0 && str_find_char(*ret_point, '\\') < 0;
}

/* "" for the topmost. */
static Str path_trim(Str path)
{
    return str_ends_with(path, STR("/")) ? str_sub(path, 0, path.len - 1) : path;
}

static bool is_below(Str path, Str root)
{
    return str_starts_with(path, root) && (path.len == root.len || path.ptr[root.len] == '/');
}

int cgroup_find(Str mountinfo, Str cgroup, char ret[CGROUP_PATH_MAX])
{
    Str own = STR_NULL, line, root, point;
    while (cgroup.len && !str_starts_with(own, STR("0::")))
        cgroup = str_split(cgroup, '\n', &own, NULL);
    if (!str_starts_with(own, STR("0::/")) || str_find(own, STR("/..")) >= 0) return -ENOENT;
    own = path_trim(str_skip(own, 3));
    while (mountinfo.len) {
        mountinfo = str_split(mountinfo, '\n', &line, NULL);
        if (!mount_read(line, &root, &point) || !is_below(own, path_trim(root))) continue;
        Str rest = str_skip(own, path_trim(root).len);
        int n = snprintf(ret, CGROUP_PATH_MAX, "%.*s%.*s", STR_ARG(path_trim(point)),
                         STR_ARG(rest));
        return n < CGROUP_PATH_MAX ? 0 : -ENAMETOOLONG;
    }
    return -ENOENT;
}

static int own_find(char ret[CGROUP_PATH_MAX])
{
    Str mountinfo = STR_NULL, cgroup = STR_NULL;
    CLEANUP(freep) char *mounts = proc_read("/proc/self/mountinfo", &mountinfo);
    CLEANUP(freep) char *groups = proc_read("/proc/self/cgroup", &cgroup);
    return mounts && groups ? cgroup_find(mountinfo, cgroup, ret) : -ENOENT;
}

/* As systemd says. */
static bool is_delegated(const char *path)
{
    char value[8] = "";
    return getxattr(path, "user.delegate", value, sizeof value - 1) > 0 && value[0] == '1';
}

/* Controllers are for the groups below one that has no process itself, which is not this process's
 * own. Where systemd keeps it in a group below the one it has delegated, that one is it. */
static void parent_take(char path[CGROUP_PATH_MAX])
{
    char parent[CGROUP_PATH_MAX];
    str_copy(parent, sizeof parent, str_of(path));
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent) return;
    *slash = '\0';
    if (is_delegated(parent)) *strrchr(path, '/') = '\0';
}

/* --- ends ------------------------------------------------------------------------------------- */

int cgroup_remove(const char *path)
{
    return rmdir(path) == 0 || errno == ENOENT ? 0 : -errno;
}

/* With those that programs have made in it themselves. keeps: but not the group itself. */
static int tree_remove(const char *path, bool keeps)
{
    char *paths[] = { (char *)path, NULL };
    int r = 0;
    FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    if (!walk) return -errno;
    for (FTSENT *e; (e = fts_read(walk)) != NULL;) {
        if (e->fts_info != FTS_DP || (keeps && e->fts_level == 0)) continue;
        int removed = cgroup_remove(e->fts_accpath);
        if (removed < 0) r = removed;
    }
    fts_close(walk);
    return r;
}

static int tree_end(const char *path, bool keeps)
{
    struct timespec pause = { .tv_nsec = PAUSE_US * 1000L };
    int64_t waited_us = 0;
    int r;
    for (;;) {
        r = file_write(path, "cgroup.kill", "1");
        if (r == 0) r = tree_remove(path, keeps);
        if (r != -EBUSY || waited_us >= END_MS_MAX * 1000) return r;
        nanosleep(&pause, NULL);
        waited_us += pause.tv_nsec / 1000;
        pause.tv_nsec = MIN(2 * pause.tv_nsec, PAUSE_US_MAX * 1000L);
    }
}

int cgroup_end(const char *path)
{
    int r = cgroup_remove(path);
    return r == -EBUSY ? tree_end(path, false) : r;
}

/* --- opening ---------------------------------------------------------------------------------- */

static int trial(const char *base)
{
    char path[CGROUP_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/trial", base);
    int r = cgroup_make(path, 0);
    if (r < 0) return r;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pid_t pid = fd < 0 ? -errno : cgroup_fork(fd);
    if (pid == 0) _exit(EXIT_SUCCESS);
    if (fd >= 0) close(fd);
    if (pid > 0) waitpid(pid, NULL, 0);
    int ended = cgroup_end(path); /* who has been waited for may be in it for a moment */
    return pid < 0 ? pid : ended;
}

int cgroup_place(const char *name, char ret[CGROUP_BASE_MAX])
{
    char own[CGROUP_PATH_MAX];
    int r = own_find(own);
    if (r < 0) return diag_set(r, "no hierarchy of version 2 is mounted");
    parent_take(own);
    int n = snprintf(ret, CGROUP_BASE_MAX, "%s/%s", own, name);
    return n < CGROUP_BASE_MAX ? 0 : diag_set(-ENAMETOOLONG, "%s is too long", own);
}

/* A group that is locked is only removed by who has locked it. -EAGAIN: another has, or it is none
 * any more. */
static int lock(const char *path, int *ret)
{
    struct stat locked, found;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? -EAGAIN : -errno;
    bool mine = flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &locked) == 0 &&
                stat(path, &found) == 0 && locked.st_ino == found.st_ino;
    if (mine) *ret = fd;
    else close(fd);
    return mine ? 0 : -EAGAIN;
}

/* For a moment another may have it, to remove it. */
static int base_make(const char *path, int *ret)
{
    struct timespec pause = { .tv_nsec = LOCK_PAUSE_MS * 1000000L };
    int r = -EAGAIN;
    for (int i = 0; r == -EAGAIN && i < LOCK_TRIES; i++) {
        if (i > 0) nanosleep(&pause, NULL);
        if (mkdir(path, 0700) != 0 && errno != EEXIST) return -errno;
        r = lock(path, ret);
    }
    if (r == 0 && (r = tree_end(path, true)) < 0) {
        (void)cgroup_remove(path);
        close(*ret);
        if (r == -ENOENT) r = -EOPNOTSUPP; /* no cgroup.kill */
    }
    return r;
}

/* A kernel object each, that nobody else removes, and perhaps programs. */
static void others_end(const char *above)
{
    DIR *dir = opendir(above);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[CGROUP_PATH_MAX + sizeof e->d_name];
        int fd;
        snprintf(path, sizeof path, "%s/%s", above, e->d_name);
        if (!str_starts_with(str_of(e->d_name), STR(CGROUP_PREFIX)) || lock(path, &fd) < 0)
            continue;
        cgroup_end(path);
        close(fd);
    }
    closedir(dir);
}

int cgroup_open(const char *path, int *ret_lock)
{
    char above[CGROUP_PATH_MAX];
    str_copy(above, sizeof above, str_of(path));
    *strrchr(above, '/') = '\0';
    if (is_delegated(above)) (void)file_write(above, "cgroup.subtree_control", "+pids");
    int r = base_make(path, ret_lock);
    if (r == -EOPNOTSUPP) return diag_set(r, "the kernel has no cgroup.kill (Linux 5.14)");
    if (r < 0) return diag_set(r, "cannot make %s: %s", path, strerror(-r));
    (void)file_write(path, "cgroup.subtree_control", "+pids"); /* it may have no controllers */
    r = trial(path);
    others_end(above);
    if (r == 0) return 0;
    cgroup_end(path);
    close(*ret_lock);
    return diag_set(r, "cannot start programs below %s: %s", path, strerror(-r));
}

/* --- groups ----------------------------------------------------------------------------------- */

int cgroup_make(const char *path, int64_t tasks_max)
{
    if (mkdir(path, 0700) != 0) return -errno;
    return tasks_max > 0 ? cgroup_bound(path, tasks_max) : 0;
}

int cgroup_bound(const char *path, int64_t tasks_max)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, tasks_max);
    int r = file_write(path, "pids.max", text);
    return r == -ENOENT ? 0 : r;
}

/* To write to cgroup.procs takes many times as long: it waits for an RCU grace period. */
static pid_t clone_into(int group)
{
    struct clone_args args = { .flags = CLONE_INTO_CGROUP,
                               .exit_signal = SIGCHLD,
                               .cgroup = (unsigned long long)group };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    return pid < 0 ? -errno : pid;
}

static void procs_join(int group)
{
    int fd = openat(group, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) return;
    close(fd);
}

pid_t cgroup_fork(int group)
{
    if (group >= 0 && CLONES) return clone_into(group);
    pid_t pid = fork();
    if (pid == 0 && group >= 0) procs_join(group);
    return pid < 0 ? -errno : pid;
}
