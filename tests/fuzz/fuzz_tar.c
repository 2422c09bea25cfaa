/* The reader of uploads, gzip before tar. Whatever comes in, what it lets through is a safe tree:
 * sound paths, no way out by links, contents as long as announced; cut anywhere it reads the same;
 * and written again, in order, it reads back. */
#include <stdio.h>

#include "base/diag.h"
#include "codec/gzip.h"
#include "codec/tar.h"
#include "tests/fuzz/fuzz.h"

#define ENTRIES_MAX 200
#define BYTES_MAX 65536

typedef struct {
    Buf seen; /* a transcript: to compare one reading with another */
    uint64_t left;
    size_t entries;
    uint64_t bytes;
} Seen;

static int on_entry(void *context, const TarEntry *e)
{
    Seen *s = context;
    int r = tar_path_check(e->path);
    assert(r == 0 && s->left == 0);
    if (e->type == TAR_SYMLINK) r = tar_link_check(e->path, e->link);
    assert(r == 0 && (e->type == TAR_SYMLINK) == (e->link.len > 0));
    assert(e->mode <= 0777 && (e->type == TAR_FILE || e->bytes == 0));
    s->left = e->bytes;
    s->bytes += e->bytes;
    assert(++s->entries <= ENTRIES_MAX && s->bytes <= BYTES_MAX);
    buf_printf(&s->seen, "\n%d %o %zu %zu:", (int)e->type, e->mode, e->path.len, e->link.len);
    buf_add(&s->seen, e->path);
    buf_add(&s->seen, e->link);
    return 0;
}

static int on_data(void *context, Str chunk)
{
    Seen *s = context;
    assert(chunk.len > 0 && chunk.len <= s->left);
    s->left -= chunk.len;
    buf_add(&s->seen, chunk);
    return 0;
}

static int read_in(Str archive, size_t step, Seen *seen)
{
    CLEANUP(arena_deinit) Arena arena = { .max = 64 << 20 };
    TarLimits limits = { .entries_max = ENTRIES_MAX, .bytes_max = BYTES_MAX };
    TarHandler handler = { seen, on_entry, on_data };
    CLEANUP(tar_in_freep) TarIn *tar = tar_in_new(&arena, &limits, &handler, 1);
    int r = 0;
    assert(tar);
    *seen = (Seen){ .seen = { .max = 16 << 20 } };
    for (size_t at = 0; at < archive.len && r == 0; at += step)
        r = tar_in_feed(tar, str_sub(archive, at, step));
    if (r == 0) r = tar_in_end(tar);
    assert(r <= 0 && (r == 0 || diag_text()[0] != '\0'));
    assert(r < 0 || seen->left == 0);
    return r;
}

static void check_read(Str archive, size_t step)
{
    Seen whole = { .left = 0 }, cut = whole;
    int a = read_in(archive, SIZE_MAX / 2, &whole), b = read_in(archive, step, &cut);
    assert(a == b && whole.entries == cut.entries);
    assert(str_eq(buf_str(&whole.seen), buf_str(&cut.seen)));
    buf_deinit(&whole.seen);
    buf_deinit(&cut.seen);
}

/* Gives every header the checksum it should have, without which most mutations end at once. */
static void checksums_mend(Buf *archive)
{
    for (size_t at = 0; at + TAR_BLOCK_BYTES <= archive->len; at += TAR_BLOCK_BYTES) {
        char *h = archive->ptr + at, text[8];
        unsigned sum = 0;
        if (memcmp(h + 257, "ustar", 5) != 0) continue;
        memset(h + 148, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK_BYTES; i++) sum += (unsigned char)h[i];
        snprintf(text, sizeof text, "%06o", sum & 0777777);
        memcpy(h + 148, text, 7);
    }
}

/* The bytes as one file of an archive. */
static void check_written(Str bytes)
{
    CLEANUP(buf_deinit) Buf archive = { .max = 1 << 20 };
    TarEntry e = { .path = str_sub(bytes, 0, 300), .mode = 0755 };
    TarOut tar;
    Seen seen = { .left = 0 };
    tar_out_init(&tar, &archive);
    Str contents = str_sub(bytes, 0, BYTES_MAX);
    if (tar_out_file(&tar, &e, contents) < 0) return; /* no path: then nothing was written */
    int r = tar_out_end(&tar);
    assert(r == 0);
    r = read_in(buf_str(&archive), SIZE_MAX / 2, &seen);
    assert(r == 0 && seen.entries == 1 && seen.bytes == contents.len);
    buf_deinit(&seen.seen);
}

static void check_packed(Str bytes)
{
    CLEANUP(buf_deinit) Buf packed = { .max = 4 << 20 };
    CLEANUP(buf_deinit) Buf back = { .max = bytes.len };
    int r = gzip_compress(bytes, &packed);
    assert(r == 0);
    r = gzip_decompress(buf_str(&packed), &back);
    assert(r == 0 && str_eq(buf_str(&back), bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buf_deinit) Buf unpacked = { .max = 1 << 20 };
    Str bytes = str_make((const char *)data, size);
    size_t step = 1 + (size_t)(fuzz_seed(data, size) % 1000);
    int r = gzip_decompress(bytes, &unpacked);
    assert(r == 0 || r == -EINVAL || r == -EFBIG);
    assert(unpacked.len <= unpacked.max);
    CLEANUP(buf_deinit) Buf archive = { .max = 2 << 20 };
    buf_add(&archive, r == 0 ? buf_str(&unpacked) : bytes);
    check_read(buf_str(&archive), step);
    checksums_mend(&archive);
    check_read(buf_str(&archive), step);
    check_written(bytes);
    check_packed(bytes);
    return 0;
}
