#include "worker/fs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/tar.h"
#include "logic/manifest.h"
#include "sys/entropy.h"

#define UNPACK_ARENA_BYTES_MAX ((size_t)32 << 20)
#define REMOVE_DEPTH_MAX 32
#define REMOVE_MOVES_MAX 1000000 /* of somebody who makes directories as fast as they go */

static void fd_closep(int *fd)
{
    if (*fd >= 0) close(*fd);
}

static int fail(const char *what, const char *path)
{
    int r = -errno;
    return diag_set(r, "cannot %s %s: %s", what, path, strerror(-r));
}

/* --- making ----------------------------------------------------------------------------------- */

/* Makes the parents of path below the directory at. */
static int parents_make(int at, const char *path, mode_t mode)
{
    char part[FS_PATH_MAX];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        if (!str_copy(part, sizeof part, str_make(path, (size_t)(slash - path))))
            return diag_set(-ENAMETOOLONG, "path too long: %s", path);
        if (mkdirat(at, part, mode) != 0 && errno != EEXIST) return fail("make", part);
    }
    return 0;
}

int fs_dir_make(const char *path)
{
    int r = parents_make(AT_FDCWD, path, 0700);
    if (r < 0) return r;
    return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : fail("make", path);
}

static int write_all(int fd, Str bytes, const char *path)
{
    while (bytes.len) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno != EINTR) return fail("write", path);
        if (n > 0) bytes = str_skip(bytes, (size_t)n);
    }
    return 0;
}

static int root_open(const char *root)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? fail("open", root) : fd;
}

int fs_write(const char *root, Str path, Str content)
{
    char name[MANIFEST_PATH_BYTES_MAX + 1];
    assert(agent_path_ok(path));
    CLEANUP(fd_closep) int dir = root_open(root);
    if (dir < 0) return dir;
    str_copy(name, sizeof name, path);
    int r = parents_make(dir, name, 0755);
    if (r < 0) return r;
    if (unlinkat(dir, name, 0) != 0 && errno != ENOENT) return fail("replace", name);
    CLEANUP(fd_closep)
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    if (fd < 0) return fail("make", name);
    return write_all(fd, content, name);
}

/* --- unpacking -------------------------------------------------------------------------------- */

typedef struct {
    int root;
    int file; /* being written, -1: none */
    char path[TAR_PATH_MAX + 1];
} Unpack;

static void unpack_deinit(Unpack *u)
{
    fd_closep(&u->file);
    fd_closep(&u->root);
}

/* The reader has checked that nothing lies below a file or a symlink, and that no path leaves the
 * tree; into an empty directory that makes plain path names safe. */
static int on_entry(void *ctx, const TarEntry *entry)
{
    Unpack *u = ctx;
    char link[TAR_PATH_MAX + 1];
    fd_closep(&u->file);
    u->file = -1;
    if (!str_copy(u->path, sizeof u->path, entry->path)) return -ENAMETOOLONG;
    int r = parents_make(u->root, u->path, 0755);
    if (r < 0) return r;
    switch (entry->type) {
    case TAR_DIR:
        return mkdirat(u->root, u->path, 0755) == 0 || errno == EEXIST ? 0 : fail("make", u->path);
    case TAR_SYMLINK:
        if (!str_copy(link, sizeof link, entry->link)) return -ENAMETOOLONG;
        return symlinkat(link, u->root, u->path) == 0 ? 0 : fail("make", u->path);
    case TAR_FILE: break;
    }
    u->file = openat(u->root, u->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                     entry->mode & 0100 ? 0555 : 0444);
    return u->file < 0 ? fail("make", u->path) : 0;
}

static int on_data(void *ctx, Str chunk)
{
    Unpack *u = ctx;
    assert(u->file >= 0);
    return write_all(u->file, chunk, u->path);
}

int fs_unpack(const char *root, Str tar)
{
    CLEANUP(unpack_deinit) Unpack u = { .root = root_open(root), .file = -1 };
    if (u.root < 0) return u.root;
    CLEANUP(arena_deinit) Arena arena = { 0 };
    arena_init(&arena, UNPACK_ARENA_BYTES_MAX);
    TarHandler handler = { .context = &u, .entry = on_entry, .data = on_data };
    CLEANUP(tar_in_freep) TarIn *in = tar_in_new(&arena, NULL, &handler, entropy_u64());
    if (!in) return diag_set(-ENOMEM, "no memory to unpack into %s", root);
    int r = tar_in_feed(in, tar);
    return r < 0 ? r : tar_in_end(in);
}

/* --- whole trees ------------------------------------------------------------------------------ */

typedef struct {
    int fd;
    DIR *stream;
} OpenDir;

static void dir_close(OpenDir *d)
{
    if (d->stream) closedir(d->stream);
    else if (d->fd >= 0) close(d->fd);
}

static int dir_open(int at, const char *name, OpenDir *ret)
{
    ret->fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (ret->fd < 0) return -errno;
    ret->stream = fdopendir(ret->fd);
    return ret->stream ? 0 : -errno;
}

/* Next name but "." and "..", NULL at the end. */
static const char *dir_next(OpenDir *d)
{
    struct dirent *e;
    do e = readdir(d->stream);
    while (e && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0));
    return e ? e->d_name : NULL;
}

/* A removal under way. Neither the stack nor the descriptors it needs depend on how deep a tree an
 * agent left: what lies too deep is moved up to the top first, and removed in the next round. */
typedef struct {
    int top; /* the first directory that was opened */
    size_t moved_n;
} Removal;

static int remove_at(Removal *removal, int at, const char *name, int depth);

static int move_up(Removal *removal, int at, const char *name)
{
    char to[32];
    snprintf(to, sizeof to, ".deep-%016" PRIx64, entropy_u64());
    if (renameat(at, name, removal->top, to) != 0) return fail("move", name);
    removal->moved_n++;
    return 0;
}

static int remove_children(Removal *removal, OpenDir *d, int depth)
{
    const char *child;
    int r = 0;
    rewinddir(d->stream);
    while (r == 0 && (child = dir_next(d))) r = remove_at(removal, d->fd, child, depth + 1);
    return r;
}

static int remove_content(Removal *removal, int at, const char *name, int depth)
{
    CLEANUP(dir_close) OpenDir d = { .fd = -1 };
    int r = dir_open(at, name, &d);
    if (r < 0) return diag_set(r, "cannot open %s: %s", name, strerror(-r));
    fchmod(d.fd, 0700);
    if (depth > 0) return remove_children(removal, &d, depth);
    removal->top = d.fd;
    size_t moved_n;
    do {
        moved_n = removal->moved_n;
        r = remove_children(removal, &d, depth);
    } while (r == 0 && removal->moved_n > moved_n && removal->moved_n < REMOVE_MOVES_MAX);
    return r;
}

/* Recursion is bounded by REMOVE_DEPTH_MAX and runs on a pool thread's large stack. */
static int remove_at(Removal *removal, int at, const char *name, int depth)
{
    if (unlinkat(at, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return fail("remove", name);
    fchmodat(at, name, 0700, AT_SYMLINK_NOFOLLOW); /* best effort: opening it tells */
    if (depth == REMOVE_DEPTH_MAX) return move_up(removal, at, name);
    int r = remove_content(removal, at, name, depth);
    if (r < 0) return r;
    if (unlinkat(at, name, AT_REMOVEDIR) == 0) return 0;
    return fail("remove", name);
}

int fs_remove(const char *path)
{
    Removal removal = { .top = -1 };
    return remove_at(&removal, AT_FDCWD, path, 0);
}

static int protect_at(int at, const char *name, int depth)
{
    const char *child;
    CLEANUP(dir_close) OpenDir d = { .fd = -1 };
    int r = dir_open(at, name, &d);
    if (r == -ENOTDIR || r == -ELOOP) return 0; /* a file or a symlink */
    if (r < 0) return diag_set(r, "cannot open %s: %s", name, strerror(-r));
    if (depth >= FS_DEPTH_MAX) return diag_set(-ELOOP, "%s lies too deep", name);
    while (r == 0 && (child = dir_next(&d))) r = protect_at(d.fd, child, depth + 1);
    if (r == 0 && fchmod(d.fd, 0555) != 0) return fail("protect", name);
    return r;
}

int fs_protect(const char *root)
{
    int r = protect_at(AT_FDCWD, root, 0);
    if (r < 0) return r;
    CLEANUP(fd_closep) int dir = root_open(root);
    if (dir < 0) return dir;
    return syncfs(dir) == 0 ? 0 : fail("sync", root);
}
