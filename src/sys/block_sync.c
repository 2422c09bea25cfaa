#include "sys/block_sync.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/str.h"

struct BlockSync {
    int fd;
    int clean_fd; /* of the directory: on the same file system, and hardly ever changed */
};

#define WRITE_AND_WAIT \
    (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)

/* The kernel says so itself; any other answer, and none, is a no. */
static bool has_no_journal(dev_t dev)
{
    char path[PATH_MAX], link[PATH_MAX], said[16] = "";
    (void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(dev), minor(dev));
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n <= 0) return false;
    link[n] = '\0';
    int len = snprintf(path, sizeof path, "/sys/fs/ext4/%s/journal_task", basename(link));
    if (len < 0 || (size_t)len >= sizeof path) return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    n = read(fd, said, sizeof said - 1);
    close(fd);
    return n > 0 && str_eq(str_trim(str_make(said, (size_t)n)), STR("<none>"));
}

/* ext4 writes over the blocks that a file has where they are. Without a journal nothing else has to
 * be on the disk before or with them, and a sync of any file flushes the disk. */
static bool is_fit(const BlockSync *s)
{
    struct statfs fs;
    struct stat file, clean;
    if (fstatfs(s->fd, &fs) != 0 || fs.f_type != EXT4_SUPER_MAGIC) return false;
    if (fstat(s->fd, &file) != 0 || fstat(s->clean_fd, &clean) != 0) return false;
    return S_ISREG(file.st_mode) && file.st_dev == clean.st_dev && has_no_journal(file.st_dev);
}

BlockSync *block_sync_open(const char *path)
{
    char parent[PATH_MAX];
    if (!str_copy(parent, sizeof parent, str_of(path))) return NULL;
    BlockSync *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->fd = open(path, O_RDWR | O_CLOEXEC);
    s->clean_fd = open(dirname(parent), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool fit = s->fd >= 0 && s->clean_fd >= 0 && is_fit(s);
    if (fit && block_sync(s, 0, 1) == 0) return s; /* they may be forbidden to this process */
    block_sync_close(s);
    return NULL;
}

int block_sync(BlockSync *s, int64_t at, int64_t n)
{
    assert(at >= 0 && n > 0); /* 0 would be up to the end */
    if (sync_file_range(s->fd, at, n, WRITE_AND_WAIT) != 0) return -errno;
    return fdatasync(s->clean_fd) == 0 ? 0 : -errno;
}

void block_sync_close(BlockSync *s)
{
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    if (s->clean_fd >= 0) close(s->clean_fd);
    free(s);
}
