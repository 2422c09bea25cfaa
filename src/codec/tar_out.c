#include <stdio.h>

#include "base/diag.h"
#include "codec/tar_internal.h"

/* --- rules for paths -------------------------------------------------------------------------- */

static int path_fail(Str path, const char *why)
{
    return diag_set(-EINVAL, "the path \"%.*s\" %s", (int)MIN(path.len, 200),
                    path.ptr ? path.ptr : "", why);
}

int tar_path_check(Str path)
{
    bool more = true;
    size_t depth = 0;
    Str rest = path, part;
    if (path.len == 0) return path_fail(path, "is empty");
    if (path.len > TAR_PATH_MAX) return path_fail(path, "is too long");
    if (path.ptr[0] == '/') return path_fail(path, "is absolute");
    if (str_find_char(path, '\0') >= 0) return path_fail(path, "contains a NUL byte");
    while (more) {
        rest = str_split(rest, '/', &part, &more);
        if (part.len == 0) return path_fail(path, "has an empty part");
        if (str_eq(part, STR(".")) || str_eq(part, STR("..")))
            return path_fail(path, "contains . or ..");
        if (++depth > TAR_DEPTH_MAX) return path_fail(path, "is nested too deeply");
    }
    return 0;
}

static size_t slashes_n(Str path)
{
    size_t n = 0;
    for (size_t i = 0; i < path.len; i++) n += path.ptr[i] == '/';
    return n;
}

int tar_link_check(Str path, Str link)
{
    size_t up_max = slashes_n(path), up = 0; /* directories between the link and the root */
    bool more = true, down = false;
    Str rest = link, part;
    if (link.len == 0 || link.len > TAR_PATH_MAX || str_find_char(link, '\0') >= 0)
        return path_fail(path, "is a link with a malformed target");
    if (link.ptr[0] == '/') return path_fail(path, "is a link to an absolute path");
    while (more) {
        rest = str_split(rest, '/', &part, &more);
        if (part.len == 0 || str_eq(part, STR("."))) continue;
        if (!str_eq(part, STR(".."))) {
            down = true;
            continue;
        }
        if (down) return path_fail(path, "is a link with .. behind a name");
        if (++up > up_max) return path_fail(path, "is a link that leaves the tree");
    }
    return 0;
}

/* --- headers ---------------------------------------------------------------------------------- */

unsigned tar_checksum(const TarHeader *header)
{
    const unsigned char *p = (const unsigned char *)header;
    size_t from = offsetof(TarHeader, checksum), to = from + sizeof header->checksum;
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof *header; i++) sum += i >= from && i < to ? ' ' : p[i];
    return sum;
}

/* Digits that fill the field up to its final NUL. */
static void octal_put(char *field, size_t size, uint64_t value)
{
    field[size - 1] = '\0';
    for (size_t i = size - 1; i-- > 0; value >>= 3) field[i] = (char)('0' + (value & 7));
    assert(value == 0);
}

static void text_put(char *field, size_t size, Str text)
{
    memcpy(field, text.ptr, MIN(size, text.len));
}

/* Adds a header whose every byte follows from these arguments. */
static void header_add(Buf *out, Str prefix, Str name, Str link, char type, unsigned mode,
                       uint64_t bytes)
{
    TarHeader h = { .type = type, .magic = "ustar", .version = { '0', '0' } };
    if (prefix.len) text_put(h.prefix, sizeof h.prefix, prefix);
    if (link.len) text_put(h.link, sizeof h.link, link);
    text_put(h.name, sizeof h.name, name);
    octal_put(h.mode, sizeof h.mode, mode);
    octal_put(h.uid, sizeof h.uid, 0);
    octal_put(h.gid, sizeof h.gid, 0);
    octal_put(h.size, sizeof h.size, bytes);
    octal_put(h.mtime, sizeof h.mtime, 0);
    octal_put(h.devmajor, sizeof h.devmajor, 0);
    octal_put(h.devminor, sizeof h.devminor, 0);
    octal_put(h.checksum, sizeof h.checksum - 1, tar_checksum(&h)); /* six digits, NUL, space */
    h.checksum[sizeof h.checksum - 1] = ' ';
    buf_add(out, str_make((const char *)&h, sizeof h));
}

/* Splits path at a slash so that both parts fit their fields; false when none does. */
static bool path_split(Str path, Str *ret_prefix, Str *ret_name)
{
    const TarHeader *h = NULL;
    *ret_prefix = STR_NULL;
    *ret_name = path;
    if (path.len <= sizeof h->name) return true;
    /* the first slash behind which at most a name is left; the last byte may be a directory's */
    for (size_t i = path.len - sizeof h->name - 1; i + 1 < path.len && i <= sizeof h->prefix; i++) {
        if (path.ptr[i] != '/' || i == 0) continue;
        *ret_prefix = str_sub(path, 0, i);
        *ret_name = str_skip(path, i + 1);
        return true;
    }
    return false;
}

/* "LENGTH key=value\n", where the length counts its own digits. */
static void pax_record_add(Buf *out, const char *key, Str value)
{
    size_t rest = strlen(key) + value.len + 3, len = rest + 1;
    for (size_t limit = 10; len >= limit; limit *= 10) len++; /* each further digit is one more */
    buf_printf(out, "%zu %s=", len, key);
    buf_add(out, value);
    buf_add_char(out, '\n');
}

static void padding_add(Buf *out, size_t n)
{
    static const char zeros[TAR_BLOCK_BYTES];
    assert(n <= sizeof zeros);
    buf_add(out, str_make(zeros, n));
}

/* --- writing ---------------------------------------------------------------------------------- */

void tar_out_init(TarOut *tar, Buf *out)
{
    tar->out = out;
    tar->left = 0;
    tar->pad = 0;
    tar->last_len = 0;
}

static int written(const TarOut *tar)
{
    return tar->out->failed ? diag_set(-ENOMEM, "the archive is over %zu bytes", tar->out->max) : 0;
}

static int entry_check(const TarOut *tar, const TarEntry *e)
{
    int r = tar_path_check(e->path);
    if (r == 0 && e->type == TAR_SYMLINK) r = tar_link_check(e->path, e->link);
    if (r < 0) return r;
    assert(e->type == TAR_FILE || e->bytes == 0);
    if (tar->left > 0) return path_fail(e->path, "comes before the last file is complete");
    if (str_cmp(str_make(tar->last, tar->last_len), e->path) >= 0)
        return path_fail(e->path, "is out of order");
    return 0;
}

/* The pax header that says what ustar cannot, if there is such. path as in the header. */
static void pax_add(Buf *out, Str path, bool split, const TarEntry *e)
{
    Buf records;
    char size[24];
    buf_init(&records, 3 * TAR_PATH_MAX);
    if (!split) pax_record_add(&records, "path", path);
    if (e->link.len > sizeof((TarHeader *)NULL)->link)
        pax_record_add(&records, "linkpath", e->link);
    snprintf(size, sizeof size, "%" PRIu64, e->bytes);
    if (e->bytes > TAR_SIZE_OCTAL_MAX) pax_record_add(&records, "size", str_of(size));
    if (records.len > 0) {
        header_add(out, STR_NULL, STR("PaxHeader"), STR_NULL, 'x', 0644, records.len);
        buf_add(out, buf_str(&records));
        padding_add(out, tar_padding(records.len));
    }
    if (records.failed) out->failed = true;
    buf_deinit(&records);
}

int tar_out_entry(TarOut *tar, const TarEntry *e)
{
    static const char types[] = { [TAR_FILE] = '0', [TAR_DIR] = '5', [TAR_SYMLINK] = '2' };
    char room[TAR_PATH_MAX + 1];
    Str path = e->path, prefix, name;
    int r = entry_check(tar, e);
    if (r < 0) return r;
    if (e->type == TAR_DIR) {
        memcpy(room, path.ptr, path.len);
        room[path.len] = '/';
        path = str_make(room, path.len + 1);
    }
    bool split = path_split(path, &prefix, &name);
    pax_add(tar->out, path, split, e);
    bool executable = e->type != TAR_FILE || (e->mode & 0100);
    header_add(tar->out, prefix, name, e->type == TAR_SYMLINK ? e->link : STR_NULL, types[e->type],
               executable ? 0755 : 0644, e->bytes > TAR_SIZE_OCTAL_MAX ? 0 : e->bytes);
    memcpy(tar->last, e->path.ptr, e->path.len);
    tar->last_len = e->path.len;
    tar->left = e->bytes;
    tar->pad = tar_padding(e->bytes);
    return written(tar);
}

int tar_out_data(TarOut *tar, Str bytes)
{
    if (bytes.len > tar->left) return diag_set(-EINVAL, "a file grew while it was archived");
    if (bytes.len == 0) return 0;
    buf_add(tar->out, bytes);
    tar->left -= bytes.len;
    if (tar->left == 0) padding_add(tar->out, tar->pad);
    return written(tar);
}

int tar_out_file(TarOut *tar, const TarEntry *entry, Str contents)
{
    TarEntry e = *entry;
    assert(e.type == TAR_FILE);
    e.bytes = contents.len;
    int r = tar_out_entry(tar, &e);
    return r < 0 ? r : tar_out_data(tar, contents);
}

int tar_out_end(TarOut *tar)
{
    if (tar->left > 0) return diag_set(-EINVAL, "the last file of the archive is incomplete");
    padding_add(tar->out, TAR_BLOCK_BYTES);
    padding_add(tar->out, TAR_BLOCK_BYTES);
    return written(tar);
}
