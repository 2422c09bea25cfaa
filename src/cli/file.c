#include "cli/file.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"

#define READ_PIECE_BYTES 65536

static int read_all(int fd, Buf *buf, size_t max)
{
    for (;;) {
        char *room = buf_reserve(buf, MIN((size_t)READ_PIECE_BYTES, max + 1 - buf->len));
        if (!room) return -ENOMEM;
        ssize_t n = read(fd, room, MIN((size_t)READ_PIECE_BYTES, max + 1 - buf->len));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) return 0;
        buf_added(buf, (size_t)n);
        if (buf->len > max) return -EFBIG;
    }
}

int file_read(Arena *arena, const char *path, size_t max, Str *ret)
{
    CLEANUP(buf_deinit) Buf buf = { 0 };
    bool standard = strcmp(path, "-") == 0;
    buf_init(&buf, max + 1);
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return diag_set(-errno, "cannot read %s: %s", path, strerror(errno));
    int r = read_all(fd, &buf, max);
    if (!standard) close(fd);
    if (r == -EFBIG) return diag_set(r, "%s is larger than %zu bytes", path, max);
    if (r < 0) return diag_set(r, "cannot read %s: %s", path, strerror(-r));
    *ret = arena_str(arena, buf_str(&buf));
    return ret->ptr ? 0 : diag_set(-ENOMEM, "no memory for %s", path);
}

int file_write(const char *path, Str bytes, unsigned mode, bool force)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (force ? O_TRUNC : O_EXCL), (mode_t)mode);
    if (fd < 0) return diag_set(-errno, "cannot write %s: %s", path, strerror(errno));
    int r = 0;
    while (bytes.len && r == 0) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno != EINTR) r = -errno;
        if (n > 0) bytes = str_skip(bytes, (size_t)n);
    }
    if (close(fd) != 0 && r == 0) r = -errno;
    return r < 0 ? diag_set(r, "cannot write %s: %s", path, strerror(-r)) : 0;
}
