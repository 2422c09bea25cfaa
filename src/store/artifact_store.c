#include "store/artifact_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/digest.h"
#include "codec/hex.h"
#include "sys/entropy.h"

#define ARTIFACTS "artifacts"
#define BLOBS ARTIFACTS "/blobs/sha256"
#define OCI_LAYOUT "{\"imageLayoutVersion\":\"1.0.0\"}"

static int fail(int r, const char *what, const char *path)
{
    assert(r < 0);
    return diag_set(r, "cannot %s %s: %s", what, path, strerror(-r));
}

static void fd_closep(int *fd)
{
    if (*fd >= 0) close(*fd);
}

static int path_of(const char *data_dir, const char *name, char out[ARTIFACT_PATH_MAX])
{
    int n = snprintf(out, ARTIFACT_PATH_MAX, "%s/%s", data_dir, name);
    if (n > 0 && n < ARTIFACT_PATH_MAX) return 0;
    return diag_set(-ENAMETOOLONG, "%s: path too long", data_dir);
}

static int sync_dir(const char *data_dir, const char *name)
{
    char path[ARTIFACT_PATH_MAX];
    int r = path_of(data_dir, name, path);
    if (r != 0) return r;
    CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) != 0 ? fail(-errno, "sync", path) : 0;
}

static int write_all(int fd, Str bytes, const char *path)
{
    while (bytes.len > 0) {
        ssize_t n = write(fd, bytes.ptr, bytes.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(-errno, "write", path);
        bytes = str_skip(bytes, (size_t)n);
    }
    return fsync(fd) == 0 ? 0 : fail(-errno, "sync", path);
}

/* Writes a file that appears whole or not at all. The caller syncs its directory. */
static int file_put(const char *path, Str bytes)
{
    char tmp[ARTIFACT_PATH_MAX + 32];
    snprintf(tmp, sizeof tmp, "%s.%016" PRIx64 ".tmp", path, entropy_u64());
    CLEANUP(fd_closep) int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return fail(-errno, "create", tmp);
    int r = write_all(fd, bytes, tmp);
    if (r == 0 && rename(tmp, path) != 0) r = fail(-errno, "rename to", path);
    if (r != 0) unlink(tmp);
    return r;
}

int artifact_store_init(const char *data_dir)
{
    static const char *const dirs[] = { ARTIFACTS, ARTIFACTS "/blobs", BLOBS };
    char path[ARTIFACT_PATH_MAX];
    for (size_t i = 0; i < ARRAY_N(dirs); i++) {
        int r = path_of(data_dir, dirs[i], path);
        if (r != 0) return r;
        if (mkdir(path, 0700) != 0 && errno != EEXIST) return fail(-errno, "make", path);
    }
    int r = path_of(data_dir, ARTIFACTS "/oci-layout", path);
    if (r == 0 && access(path, F_OK) != 0) r = file_put(path, STR(OCI_LAYOUT));
    if (r == 0) r = sync_dir(data_dir, ARTIFACTS "/blobs");
    if (r == 0) r = sync_dir(data_dir, ARTIFACTS);
    return r != 0 ? r : sync_dir(data_dir, ".");
}

int artifact_path(const char *data_dir, Str hex, char out[ARTIFACT_PATH_MAX])
{
    uint8_t digest[SHA256_BYTES];
    char name[sizeof BLOBS + ARTIFACT_HEX_LEN + 1], lower[HEX_TEXT_MAX(SHA256_BYTES)];
    if (hex_decode(hex, digest, sizeof digest) != 0)
        return diag_set(-EINVAL, "an artifact is named by %d hex digits", ARTIFACT_HEX_LEN);
    hex_encode(lower, digest, sizeof digest);
    snprintf(name, sizeof name, "%s/%s", BLOBS, lower);
    return path_of(data_dir, name, out);
}

int artifact_put(const char *data_dir, Str bytes, Str expected, ArtifactDigest *ret)
{
    ArtifactDigest digest;
    char path[ARTIFACT_PATH_MAX];
    sha256_hex(bytes, digest.hex);
    if (!str_empty(expected) && !str_eq_nocase(expected, str_of(digest.hex)))
        return diag_set(-EBADMSG, "the artifact's digest is %s, not %.*s", digest.hex,
                        STR_ARG(expected));
    int r = artifact_path(data_dir, str_of(digest.hex), path);
    if (r == 0 && access(path, F_OK) != 0) r = file_put(path, bytes);
    /* also when the file was there: its directory may not be synced yet by who put it */
    if (r == 0) r = sync_dir(data_dir, BLOBS);
    if (r != 0) return r;
    *ret = digest;
    return 0;
}

/* Appends the whole file. */
static int file_get(const char *path, Buf *out)
{
    struct stat st;
    CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) return fail(-errno, "open", path);
    size_t left = (size_t)st.st_size;
    if (left > out->max - out->len)
        return diag_set(-EFBIG, "%s has more than %zu bytes", path, out->max - out->len);
    char *room = buf_reserve(out, left);
    if (!room) return -ENOMEM;
    while (left > 0) {
        ssize_t n = read(fd, room, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail(-errno, "read", path);
        if (n == 0) break; /* cut short: the digest will tell */
        buf_added(out, (size_t)n);
        room += n;
        left -= (size_t)n;
    }
    return 0;
}

int artifact_get(const char *data_dir, Str hex, Buf *out)
{
    char path[ARTIFACT_PATH_MAX], digest[SHA256_HEX_MAX];
    size_t before = out->len;
    int r = artifact_path(data_dir, hex, path);
    if (r == 0) r = file_get(path, out);
    if (r != 0) return r;
    sha256_hex(str_skip(buf_str(out), before), digest);
    if (str_eq_nocase(str_of(digest), hex)) return 0;
    return diag_set(-EBADMSG, "%s is damaged: its digest is %s", path, digest);
}
