#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/tar.h"
#include "store/package_private.h"

/* Quota for paths: entries_max of them, a few hundred bytes each on average. */
#define WALK_MEMORY_MAX ((size_t)64 << 20)

typedef struct {
    Arena arena;
    PackageLimits limits;
    PackageIgnore ignore;
    int root_fd;
    PackageEntries dirs; /* still to be read; path "" is the root */
    PackageEntries kept;
    size_t seen;
    size_t bytes;
} Walk;

static void walk_deinit(Walk *walk)
{
    if (walk->root_fd >= 0) close(walk->root_fd);
    arena_deinit(&walk->arena);
}

static void closep(int *fd)
{
    if (*fd >= 0) close(*fd);
}

static void closedirp(DIR **dir)
{
    if (*dir) closedir(*dir);
}

/* Reads exactly size bytes of the file to the end of out. */
static int file_read(int fd, size_t size, Str path, Buf *out)
{
    while (size > 0) {
        size_t piece = MIN(size, (size_t)1 << 20);
        char *at = buf_reserve(out, piece);
        if (!at) return -ENOMEM;
        ssize_t n = read(fd, at, piece);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return diag_set(-errno, "%.*s: %s", STR_ARG(path), strerror(errno));
        if (n == 0) return diag_set(-EIO, "%.*s changed while it was read", STR_ARG(path));
        buf_added(out, (size_t)n);
        size -= (size_t)n;
    }
    return 0;
}

/* The whole of a regular file below root, -ENOENT without diag when there is none. */
static int small_file_read(int root_fd, const char *path, size_t max, Buf *out)
{
    CLEANUP(closep) int fd = openat(root_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return -ENOENT;
    if (fd < 0) return diag_set(-errno, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0) return diag_set(-errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return diag_set(-EINVAL, "%s is not a regular file", path);
    if ((size_t)st.st_size > max) return diag_set(-EFBIG, "%s has more than %zu bytes", path, max);
    return file_read(fd, (size_t)st.st_size, str_of(path), out);
}

static int ignore_read(Walk *walk)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, PACKAGE_IGNORE_BYTES_MAX);
    int r = small_file_read(walk->root_fd, PACKAGE_IGNORE, PACKAGE_IGNORE_BYTES_MAX, &text);
    if (r < 0 && r != -ENOENT) return r;
    Str kept = arena_str(&walk->arena, buf_str(&text));
    if (!kept.ptr) return -ENOMEM;
    r = package_ignore_parse(&walk->arena, kept, &walk->ignore);
    return r == -EINVAL || r == -E2BIG ? diag_prefix(r, "%s", PACKAGE_IGNORE) : r;
}

static int link_read(Walk *walk, TarEntry *entry)
{
    char *target = arena_alloc(&walk->arena, TAR_PATH_MAX + 1);
    if (!target) return -ENOMEM;
    ssize_t n = readlinkat(walk->root_fd, entry->path.ptr, target, TAR_PATH_MAX + 1);
    if (n < 0) return diag_set(-errno, "%.*s: %s", STR_ARG(entry->path), strerror(errno));
    entry->link = str_make(target, (size_t)n);
    int r = tar_link_check(entry->path, entry->link);
    return r < 0 ? diag_prefix(r, "%.*s", STR_ARG(entry->path)) : 0;
}

/* Decides about one path. */
static int walk_entry(Walk *walk, Str path)
{
    int r = tar_path_check(path);
    if (r < 0) return diag_prefix(r, "%.*s", STR_ARG(path));
    struct stat st;
    if (fstatat(walk->root_fd, path.ptr, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return diag_set(-errno, "%.*s: %s", STR_ARG(path), strerror(errno));
    if (package_leaves_out(&walk->ignore, path, S_ISDIR(st.st_mode))) return 0;
    if (++walk->seen > walk->limits.entries_max)
        return diag_set(-E2BIG, "more than %zu files and directories (see %s)",
                        walk->limits.entries_max, PACKAGE_IGNORE);

    TarEntry entry = { .path = path, .mode = st.st_mode & 0777 };
    if (S_ISDIR(st.st_mode)) return package_entries_add(&walk->dirs, &walk->arena, &entry, 0);
    if (S_ISLNK(st.st_mode)) {
        entry.type = TAR_SYMLINK;
        if ((r = link_read(walk, &entry)) < 0) return r;
    } else if (!S_ISREG(st.st_mode)) {
        return diag_set(-EINVAL, "%.*s is neither a file, a directory nor a symlink",
                        STR_ARG(path));
    }
    return package_entries_add(&walk->kept, &walk->arena, &entry, 0);
}

static int walk_dir(Walk *walk, Str dir)
{
    const char *name = str_empty(dir) ? "." : dir.ptr;
    int fd = openat(walk->root_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    CLEANUP(closedirp) DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream) {
        int r = diag_set(-errno, "%s: %s", name, strerror(errno));
        if (fd >= 0) close(fd);
        return r;
    }
    for (;;) {
        errno = 0;
        struct dirent *item = readdir(stream);
        if (!item) return errno ? diag_set(-errno, "%s: %s", name, strerror(errno)) : 0;
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0) continue;
        Str path = arena_printf(&walk->arena, "%.*s%s%s", STR_ARG(dir), str_empty(dir) ? "" : "/",
                                item->d_name);
        if (!path.ptr) return -ENOMEM;
        int r = walk_entry(walk, path);
        if (r < 0) return r;
    }
}

static int walk_file(Walk *walk, TarOut *tar, TarEntry *entry)
{
    CLEANUP(closep)
    int fd = openat(walk->root_fd, entry->path.ptr, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        return diag_set(-errno, "%.*s: %s", STR_ARG(entry->path), strerror(errno));
    if (!S_ISREG(st.st_mode))
        return diag_set(-EIO, "%.*s changed while it was read", STR_ARG(entry->path));
    entry->bytes = (uint64_t)st.st_size;
    if (entry->bytes > walk->limits.bytes_max - walk->bytes)
        return diag_set(-EFBIG, "more than %zu bytes in all (see %s)", walk->limits.bytes_max,
                        PACKAGE_IGNORE);
    walk->bytes += entry->bytes;
    CLEANUP(buf_deinit) Buf contents;
    buf_init(&contents, entry->bytes);
    int r = file_read(fd, entry->bytes, entry->path, &contents);
    return r < 0 ? r : tar_out_file(tar, entry, buf_str(&contents));
}

static int walk_write(Walk *walk, Buf *out)
{
    package_entries_sort(&walk->kept);
    TarOut tar;
    tar_out_init(&tar, out);
    for (size_t i = 0; i < walk->kept.n; i++) {
        TarEntry *entry = &walk->kept.items[i].tar;
        int r = entry->type == TAR_FILE ? walk_file(walk, &tar, entry) : tar_out_entry(&tar, entry);
        if (r < 0) return r;
    }
    return tar_out_end(&tar);
}

int package_from_dir(const char *dir, const PackageLimits *limits, Buf *out)
{
    CLEANUP(walk_deinit) Walk walk = { .limits = package_limits_filled(limits), .root_fd = -1 };
    arena_init(&walk.arena, WALK_MEMORY_MAX);
    walk.root_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (walk.root_fd < 0) return diag_set(-errno, "%s: %s", dir, strerror(errno));
    if (faccessat(walk.root_fd, PACKAGE_MANIFEST, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
        return diag_set(-ENOENT, "%s has no %s", dir, PACKAGE_MANIFEST);
    int r = ignore_read(&walk);
    if (r < 0) return r;
    r = walk_dir(&walk, STR(""));
    while (r == 0 && walk.dirs.n > 0) r = walk_dir(&walk, walk.dirs.items[--walk.dirs.n].tar.path);
    return r < 0 ? r : walk_write(&walk, out);
}
