#include "worker/log_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "base/log.h"
#include "sys/clock.h"

#define NAME_BYTES_MAX (FS_PATH_MAX + 16)

static int file_open(LogFile *log)
{
    struct stat st;
    log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->fd < 0) return diag_set(-errno, "cannot open %s: %s", log->path, strerror(errno));
    log->open = true;
    if (log->alone && flock(log->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        log_file_close(log);
        return diag_set(-EBUSY, "another process logs to %s", log->path);
    }
    log->bytes = fstat(log->fd, &st) == 0 ? st.st_size : 0;
    return 0;
}

int log_file_open(LogFile *log, const char *path, int64_t bytes_max)
{
    assert(!log->open && bytes_max > 0);
    if (!str_copy(log->path, sizeof log->path, str_of(path))) return -ENAMETOOLONG;
    log->bytes_max = bytes_max;
    return file_open(log);
}

static void file_renew(LogFile *log)
{
    log_file_close(log);
    if (file_open(log) < 0) LOG_WARN("log lost", LOG_CSTR("why", diag_text_or(-EIO)));
}

/* What cannot be renamed is written to on. */
static void turn_over(LogFile *log)
{
    char from[NAME_BYTES_MAX], to[NAME_BYTES_MAX];
    for (int i = LOG_FILES_MAX - 1; i > 0; i--) {
        snprintf(to, sizeof to, "%s.%d", log->path, i);
        if (i > 1) snprintf(from, sizeof from, "%s.%d", log->path, i - 1);
        else snprintf(from, sizeof from, "%s", log->path);
        if (rename(from, to) != 0 && errno != ENOENT)
            LOG_WARN("cannot turn over a log", LOG_CSTR("file", from));
    }
    file_renew(log);
}

/* Somebody has removed it. */
static bool is_unlinked(const LogFile *log)
{
    struct stat st;
    return fstat(log->fd, &st) == 0 && st.st_nlink == 0;
}

void log_file_add(LogFile *log, Str text)
{
    if (log->open && is_unlinked(log)) file_renew(log);
    if (log->open && log->bytes > 0 && log->bytes + (int64_t)text.len > log->bytes_max)
        turn_over(log);
    while (log->open && text.len) {
        ssize_t n = write(log->fd, text.ptr, text.len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        log->bytes += n;
        text = str_sub(text, (size_t)n, SIZE_MAX);
    }
    log->dropped += (int64_t)text.len;
}

typedef struct {
    LogFile *log;
    Str text;
} AddJob;

static int add_job(void *arg)
{
    AddJob *job = arg;
    log_file_add(job->log, job->text);
    return 0;
}

void log_file_init(LogFile *log)
{
    cond_init(&log->written);
}

void log_file_add_wait(LogFile *log, Str text)
{
    fiber_shield();
    while (log->writing) cond_wait(&log->written, DEADLINE_NONE);
    log->writing = true;
    (void)work_wait(add_job, &(AddJob){ log, text });
    log->writing = false;
    cond_signal(&log->written);
    fiber_unshield();
}

void log_file_close(LogFile *log)
{
    if (!log->open) return;
    close(log->fd);
    log->open = false;
}

/* --- of this process -------------------------------------------------------------------------- */

static pthread_mutex_t own_mutex = PTHREAD_MUTEX_INITIALIZER;
static LogFile own;

static bool own_add(Str line)
{
    pthread_mutex_lock(&own_mutex);
    int64_t dropped = own.dropped;
    log_file_add(&own, line);
    bool all = own.dropped == dropped;
    pthread_mutex_unlock(&own_mutex);
    return all;
}

int log_file_take_log(const char *path, int64_t bytes_max)
{
    own = (LogFile){ .alone = true };
    int r = log_file_open(&own, path, bytes_max);
    if (r == 0) log_to(own_add);
    return r;
}

void log_file_leave_log(void)
{
    log_to(NULL);
    log_file_close(&own);
}

/* --- a directory of them ---------------------------------------------------------------------- */

typedef struct {
    char *name;
    struct timespec at;
} Found;

static int by_age(const void *a, const void *b)
{
    const Found *x = a, *y = b;
    if (x->at.tv_sec != y->at.tv_sec) return x->at.tv_sec < y->at.tv_sec ? 1 : -1;
    return (x->at.tv_nsec < y->at.tv_nsec) - (x->at.tv_nsec > y->at.tv_nsec);
}

int log_files_prune(const char *dir, size_t keep)
{
    Found *found = NULL;
    size_t n = 0;
    DIR *files = opendir(dir);
    if (!files) return diag_set(-errno, "cannot read %s: %s", dir, strerror(errno));
    for (struct dirent *entry; (entry = readdir(files)) != NULL;) {
        struct stat st;
        if (fstatat(dirfd(files), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (!S_ISREG(st.st_mode)) continue;
        found = xrealloc(found, (n + 1) * sizeof *found);
        found[n++] = (Found){ xstrdup(entry->d_name), st.st_mtim };
    }
    if (n > 1) qsort(found, n, sizeof *found, by_age);
    for (size_t i = 0; i < n; i++) {
        if (i >= keep && unlinkat(dirfd(files), found[i].name, 0) != 0)
            LOG_WARN("cannot remove a log", LOG_CSTR("file", found[i].name));
        free(found[i].name);
    }
    free(found);
    closedir(files);
    return 0;
}
