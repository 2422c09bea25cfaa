/* tar: a deterministic writer for what we hash, a strict reader for what others upload.
 *
 * Both are without I/O: the writer appends to a Buf which the caller may empty at any time, the
 * reader is fed bytes in pieces of any size. Same entries, same bytes, on every machine: no time,
 * owner or group is ever written, modes are 0644 or 0755, entries are sorted.
 */
#ifndef GANTRY_CODEC_TAR_H
#define GANTRY_CODEC_TAR_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/map.h"

#define TAR_BLOCK_BYTES 512
#define TAR_PATH_MAX 4096 /* bytes of a path or link target */
#define TAR_DEPTH_MAX 64  /* components of a path */

typedef enum {
    TAR_FILE,
    TAR_DIR,
    TAR_SYMLINK,
} TarType;

typedef struct {
    Str path;       /* relative, '/' between components, no "." or "..", no '/' at the end */
    Str link;       /* target of a symlink, else empty */
    uint64_t bytes; /* contents of a file, else 0 */
    TarType type;
    unsigned mode; /* reader: permission bits (07777 & ~07000); writer: only 0100 matters, for files
                    */
} TarEntry;

/* Whether path may name an entry: as TarEntry.path says, 1 to TAR_PATH_MAX bytes, no NUL, at most
 * TAR_DEPTH_MAX components. Returns 0 or -EINVAL with diag. */
MUST_CHECK int tar_path_check(Str path);

/* Whether a symlink at path (valid) may point to link: it is relative, ".." stands only at its
 * start, and so often at most that the target stays below the root. Together with "nothing lies
 * below a symlink" this keeps every chain of links inside the tree. Returns 0 or -EINVAL, diag. */
MUST_CHECK int tar_link_check(Str path, Str link);

/* --- writing ---------------------------------------------------------------------------------- */

/* Owned by one thread; lives on the stack of its user (about 4 kB). */
typedef struct {
    Buf *out;
    uint64_t left; /* contents still to be given for the current file */
    size_t pad;    /* zero bytes after them */
    size_t last_len;
    char last[TAR_PATH_MAX]; /* path of the last entry: they must ascend */
} TarOut;

/* Starts an archive that is appended to out. */
void tar_out_init(TarOut *tar, Buf *out);

/* Adds an entry's headers; entries come in strictly ascending byte order of path. A regular file's
 * contents follow by tar_out_data, entry->bytes in all. ustar, and a pax header before it only for
 * what ustar cannot hold: a path that does not split into 155 and 100 bytes, a link over 100 bytes,
 * 8 GiB or more. Returns 0, -EINVAL (path, link, order, or the previous file is incomplete; diag),
 * -ENOMEM (out full). */
MUST_CHECK int tar_out_entry(TarOut *tar, const TarEntry *entry);

/* Adds contents of the current file. Returns 0, -EINVAL (more than its size), -ENOMEM. */
MUST_CHECK int tar_out_data(TarOut *tar, Str bytes);

/* tar_out_entry and all of the contents; entry->bytes is taken from contents. */
MUST_CHECK int tar_out_file(TarOut *tar, const TarEntry *entry, Str contents);

/* Ends the archive with exactly two zero blocks (not padded to a record of 20, as tar(1) does).
 * Returns 0, -EINVAL (last file incomplete), -ENOMEM. */
MUST_CHECK int tar_out_end(TarOut *tar);

/* --- reading ---------------------------------------------------------------------------------- */

/* 0 stands for the default of each. */
typedef struct {
    size_t entries_max;      /* entries and the directories their paths imply: 20,000 */
    uint64_t bytes_max;      /* contents of all files: 256 MiB */
    uint64_t file_bytes_max; /* contents of one file: 256 MiB */
} TarLimits;

/* What the reader calls. Anything but 0 stops the reader, which returns it. Strs are valid during
 * the call. Either may be NULL. */
typedef struct {
    void *context;
    int (*entry)(void *context, const TarEntry *entry);
    int (*data)(void *context, Str chunk); /* contents of the last entry, in order */
} TarHandler;

typedef struct TarIn TarIn;

/* A reader; it lives in arena and keeps every path there, so the arena's quota bounds it. seed
 * (from entropy) keys its table of paths. NULL when the arena is full. tar_in_free when done. */
MUST_CHECK TarIn *tar_in_new(Arena *arena, const TarLimits *limits, const TarHandler *handler,
                             uint64_t seed);

/* Frees the table. NULL is accepted. */
void tar_in_free(TarIn *tar);
DEFINE_FREEP(TarIn, tar_in_free)

/* Takes the next bytes. Accepts ustar, pax (path, linkpath, size; the rest is ignored), GNU long
 * names ('L', 'K'), files, directories and symlinks; "./" before a path is dropped, and the root
 * itself passed over. Refuses hard links, devices, fifos, sparse files, any path or link that the
 * checks above refuse, a path that comes twice, anything below a file or a symlink, a checksum that
 * does not match, bytes other than zero after the end. Returns 0, -EINVAL (malformed or refused),
 * -E2BIG (entries_max), -EFBIG (bytes), -ENOMEM (arena), or what the handler returned; with diag.
 * After a failure the reader only repeats it. */
MUST_CHECK int tar_in_feed(TarIn *tar, Str bytes);

/* The input is over. Returns 0, or -EINVAL when it ended before the two zero blocks (diag), or the
 * earlier failure. */
MUST_CHECK int tar_in_end(TarIn *tar);

#endif
