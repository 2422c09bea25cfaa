#include "base/diag.h"
#include "codec/tar_internal.h"

#define ENTRIES_MAX 20000
#define BYTES_MAX (UINT64_C(256) << 20)
#define EXTENSION_BYTES_MAX 65536 /* of one pax header or GNU long name */

typedef enum {
    AT_HEADER,
    AT_CONTENTS,  /* of a file */
    AT_EXTENSION, /* a pax header or long name, gathered in extension */
    AT_PADDING,
    AT_END_TWO, /* one zero block was seen */
    AT_END,     /* only zeros may follow */
} TarState;

/* A path that is taken. */
typedef struct {
    TarType type;
    bool implied; /* a directory that stood in another entry's path only */
} Node;

/* A value from an extension, for the next entry. */
typedef struct {
    bool set;
    size_t len;
    char text[TAR_PATH_MAX];
} Override;

struct TarIn {
    Arena *arena;
    TarLimits limits;
    TarHandler handler;
    Map nodes;
    uint64_t bytes; /* contents of all files so far */
    int failure;    /* what ended the reading, or 0 */
    TarState state;
    uint64_t left;       /* bytes of the current contents or extension */
    size_t pad;          /* and zeros behind them */
    char extension_type; /* 'x', 'g', 'L', 'K' */
    Buf extension;
    Override path, link;
    bool has_size;
    uint64_t size; /* from pax, when has_size */
    size_t block_len;
    union {
        TarHeader header;
        char bytes[TAR_BLOCK_BYTES];
    } block;
};

TarIn *tar_in_new(Arena *arena, const TarLimits *limits, const TarHandler *handler, uint64_t seed)
{
    TarIn *t = ARENA_NEW(arena, TarIn);
    if (!t) return NULL;
    if (limits) t->limits = *limits;
    if (t->limits.entries_max == 0) t->limits.entries_max = ENTRIES_MAX;
    if (t->limits.bytes_max == 0) t->limits.bytes_max = BYTES_MAX;
    if (t->limits.file_bytes_max == 0) t->limits.file_bytes_max = BYTES_MAX;
    t->arena = arena;
    t->handler = *handler;
    map_init(&t->nodes, seed);
    buf_init(&t->extension, EXTENSION_BYTES_MAX);
    return t;
}

void tar_in_free(TarIn *t)
{
    if (!t) return;
    map_deinit(&t->nodes);
    buf_deinit(&t->extension);
}

static int refuse(const char *why)
{
    return diag_set(-EINVAL, "the archive %s", why);
}

static int refuse_path(Str path, const char *why)
{
    return diag_set(-EINVAL, "the archive's entry \"%.*s\" %s", (int)MIN(path.len, 200),
                    path.ptr ? path.ptr : "", why);
}

/* --- fields ----------------------------------------------------------------------------------- */

static Str field_text(const char *field, size_t size)
{
    return str_make(field, strnlen(field, size));
}

/* Octal digits, maybe spaces before them, NUL or space behind; GNU's binary form is refused (it is
 * for sizes beyond any limit). */
static int field_octal(const char *field, size_t size, uint64_t *ret)
{
    uint64_t value = 0;
    size_t i = 0, digits = 0;
    while (i < size && field[i] == ' ') i++;
    for (; i < size && field[i] >= '0' && field[i] <= '7'; i++, digits++)
        value = value << 3 | (uint64_t)(field[i] - '0');
    if (digits == 0 || digits > 12) return -EINVAL;
    if (i < size && field[i] != '\0' && field[i] != ' ') return -EINVAL;
    *ret = value;
    return 0;
}

static bool is_zero_block(const char *block)
{
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
        if (block[i]) return false;
    return true;
}

/* --- the tree --------------------------------------------------------------------------------- */

/* Takes path, which lives in the arena, for a node that must be new. */
static int node_add(TarIn *t, Str path, Node node)
{
    if (t->nodes.n >= t->limits.entries_max)
        return diag_set(-E2BIG, "the archive has over %zu entries", t->limits.entries_max);
    Node *kept = ARENA_NEW(t->arena, Node);
    if (!kept) return diag_set(-ENOMEM, "the archive needs too much memory");
    *kept = node;
    void *before = map_put(&t->nodes, path, kept);
    assert(!before);
    return 0;
}

/* Makes sure that everything above path is a directory. */
static int parents_add(TarIn *t, Str path)
{
    for (size_t i = 0; i < path.len; i++) {
        if (path.ptr[i] != '/') continue;
        Str parent = str_sub(path, 0, i);
        const Node *node = map_get(&t->nodes, parent);
        if (node && node->type != TAR_DIR)
            return refuse_path(path, "lies below something that is not a directory");
        int r = node ? 0 : node_add(t, parent, (Node){ .type = TAR_DIR, .implied = true });
        if (r < 0) return r;
    }
    return 0;
}

/* Enters e into the tree, if it may be there; e->path is then in the arena. */
static int tree_add(TarIn *t, TarEntry *e)
{
    Node *node = map_get(&t->nodes, e->path);
    if (node) {
        if (!node->implied || e->type != TAR_DIR) return refuse_path(e->path, "comes twice");
        node->implied = false; /* its parents are there since it was implied */
        return 0;
    }
    e->path = arena_str(t->arena, e->path);
    if (!e->path.ptr) return diag_set(-ENOMEM, "the archive needs too much memory");
    int r = parents_add(t, e->path);
    return r < 0 ? r : node_add(t, e->path, (Node){ .type = e->type });
}

/* --- extensions ------------------------------------------------------------------------------- */

static int override_set(Override *o, Str value)
{
    if (value.len > sizeof o->text) return refuse("has a path that is too long");
    if (value.len) memcpy(o->text, value.ptr, value.len);
    o->len = value.len;
    o->set = true;
    return 0;
}

static int pax_apply(TarIn *t, Str key, Str value)
{
    bool is_path = str_eq(key, STR("path")), is_link = str_eq(key, STR("linkpath"));
    bool is_size = str_eq(key, STR("size"));
    if (str_starts_with(key, STR("GNU.sparse."))) return refuse("holds a sparse file");
    if (!is_path && !is_link && !is_size) return 0;
    if (t->extension_type == 'g') return refuse("gives all entries one path or size");
    if (is_path) return override_set(&t->path, value);
    if (is_link) return override_set(&t->link, value);
    if (str_to_u64(value, &t->size) < 0) return refuse("has a malformed size in a pax header");
    t->has_size = true;
    return 0;
}

/* Records "LENGTH key=value\n" (POSIX.1-2017, pax, "pax Header Block"). */
static int pax_read(TarIn *t, Str records)
{
    while (records.len > 0) {
        Str digits, key;
        uint64_t len;
        bool found;
        (void)str_split(str_sub(records, 0, 21), ' ', &digits, &found);
        bool ok = found && str_to_u64(digits, &len) == 0 && len > digits.len + 1 &&
                  len <= records.len;
        if (!ok || records.ptr[len - 1] != '\n') return refuse("has a malformed pax header");
        Str rest = str_sub(records, digits.len + 1, len - digits.len - 2);
        Str value = str_split(rest, '=', &key, &found);
        if (!found || key.len == 0) return refuse("has a malformed pax header");
        int r = pax_apply(t, key, value);
        if (r < 0) return r;
        records = str_skip(records, len);
    }
    return 0;
}

/* The whole extension has been read. */
static int extension_end(TarIn *t)
{
    Str text = buf_str(&t->extension);
    if (t->extension_type == 'x' || t->extension_type == 'g') return pax_read(t, text);
    if (text.len > 0 && text.ptr[text.len - 1] == '\0') text.len--;
    return override_set(t->extension_type == 'L' ? &t->path : &t->link, text);
}

static int extension_begin(TarIn *t, char type, uint64_t bytes)
{
    if (bytes > EXTENSION_BYTES_MAX) return refuse("has a pax header or name that is too long");
    buf_clear(&t->extension);
    t->extension_type = type;
    t->left = bytes;
    t->pad = tar_padding(bytes);
    t->state = bytes > 0 ? AT_EXTENSION : AT_HEADER;
    return bytes > 0 ? 0 : extension_end(t);
}

/* --- entries ---------------------------------------------------------------------------------- */

static int type_of(char type, TarType *ret)
{
    switch (type) {
    case '0':
    case '\0': *ret = TAR_FILE; return 0;
    case '5': *ret = TAR_DIR; return 0;
    case '2': *ret = TAR_SYMLINK; return 0;
    case '1': return refuse("holds a hard link");
    case '3':
    case '4':
    case '6': return refuse("holds a device or fifo");
    default: return refuse("holds an entry of an unknown type");
    }
}

/* The path as written: from an extension, or prefix and name. room has space for both. */
static Str path_read(const TarIn *t, char *room)
{
    const TarHeader *h = &t->block.header;
    Str name = field_text(h->name, sizeof h->name), prefix = STR_NULL;
    if (t->path.set) return str_make(t->path.text, t->path.len);
    if (h->magic[5] == '\0') prefix = field_text(h->prefix, sizeof h->prefix); /* not GNU's */
    if (prefix.len == 0) return name;
    memcpy(room, prefix.ptr, prefix.len);
    room[prefix.len] = '/';
    if (name.len) memcpy(room + prefix.len + 1, name.ptr, name.len);
    return str_make(room, prefix.len + 1 + name.len);
}

/* Drops what tar(1) adds: "./" in front, for directories also "/" at the end. */
static Str path_trim(Str path, bool is_dir)
{
    while (str_starts_with(path, STR("./"))) path = str_skip(path, 2);
    if (is_dir && path.len > 1 && path.ptr[path.len - 1] == '/') path.len--;
    return path;
}

static int bytes_check(TarIn *t, const TarEntry *e)
{
    if (e->type != TAR_FILE && e->bytes > 0) return refuse_path(e->path, "cannot have contents");
    if (e->bytes > t->limits.file_bytes_max)
        return diag_set(-EFBIG, "the archive's entry \"%.*s\" is over %" PRIu64 " bytes",
                        (int)MIN(e->path.len, 200), e->path.ptr, t->limits.file_bytes_max);
    if (e->bytes > t->limits.bytes_max - t->bytes)
        return diag_set(-EFBIG, "the archive's files are over %" PRIu64 " bytes",
                        t->limits.bytes_max);
    t->bytes += e->bytes;
    return 0;
}

static int entry_admit(TarIn *t, TarEntry *e)
{
    int r = tar_path_check(e->path);
    if (r == 0 && e->type == TAR_SYMLINK) r = tar_link_check(e->path, e->link);
    if (r == 0) r = bytes_check(t, e);
    return r < 0 ? r : tree_add(t, e);
}

static int entry_begin(TarIn *t, char type, uint64_t bytes, unsigned mode)
{
    const TarHeader *h = &t->block.header;
    char room[sizeof h->prefix + 1 + sizeof h->name];
    TarEntry e = { .bytes = t->has_size ? t->size : bytes, .mode = mode & 0777 };
    int r = type_of(type, &e.type);
    if (r < 0) return r;
    Str written = path_read(t, room);
    e.path = path_trim(written, e.type == TAR_DIR);
    if (e.type == TAR_SYMLINK)
        e.link = t->link.set ? str_make(t->link.text, t->link.len)
                             : field_text(h->link, sizeof h->link);
    /* "./" is the root itself, which is there anyway */
    bool is_root = e.type == TAR_DIR && written.len > 0 &&
                   (e.path.len == 0 || str_eq(e.path, STR(".")));
    if (!is_root || e.bytes > 0) r = entry_admit(t, &e);
    if (r < 0) return r;
    t->path.set = t->link.set = t->has_size = false;
    t->left = e.bytes;
    t->pad = tar_padding(e.bytes);
    t->state = e.bytes > 0 ? AT_CONTENTS : AT_HEADER;
    return is_root || !t->handler.entry ? 0 : t->handler.entry(t->handler.context, &e);
}

static bool is_extension(char type)
{
    return type == 'x' || type == 'g' || type == 'L' || type == 'K';
}

/* POSIX's magic and version, or GNU's older "ustar  ". */
static bool is_ustar(const TarHeader *h)
{
    return memcmp(h->magic, "ustar", 5) == 0 &&
           (memcmp(&h->magic[5], "\0", 1) == 0
                ? memcmp(h->version, "00", 2) == 0
                : memcmp(&h->magic[5], " ", 1) == 0 && memcmp(h->version, " ", 2) == 0);
}

static int header_read(TarIn *t)
{
    const TarHeader *h = &t->block.header;
    uint64_t checksum, bytes, mode;
    if (is_zero_block(t->block.bytes)) {
        if (t->path.set || t->link.set || t->has_size) return refuse("ends behind a pax header");
        t->state = AT_END_TWO;
        return 0;
    }
    if (!is_ustar(h)) return refuse("is not in ustar, pax or GNU format");
    if (field_octal(h->checksum, sizeof h->checksum, &checksum) < 0 || checksum != tar_checksum(h))
        return refuse("has a header whose checksum is wrong");
    if (field_octal(h->size, sizeof h->size, &bytes) < 0 ||
        field_octal(h->mode, sizeof h->mode, &mode) < 0)
        return refuse("has a header with a malformed number");
    if (is_extension(h->type)) return extension_begin(t, h->type, bytes);
    return entry_begin(t, h->type, bytes, (unsigned)(mode & 07777));
}

/* --- feeding ---------------------------------------------------------------------------------- */

/* Gathers a block and acts on it when it is whole. */
static int block_take(TarIn *t, Str *bytes)
{
    size_t n = MIN(bytes->len, TAR_BLOCK_BYTES - t->block_len);
    memcpy(t->block.bytes + t->block_len, bytes->ptr, n);
    *bytes = str_skip(*bytes, n);
    t->block_len += n;
    if (t->block_len < TAR_BLOCK_BYTES) return 0;
    t->block_len = 0;
    if (t->state == AT_HEADER) return header_read(t);
    if (!is_zero_block(t->block.bytes)) return refuse("goes on behind its end");
    t->state = AT_END;
    return 0;
}

static int contents_take(TarIn *t, Str *bytes)
{
    Str chunk = str_sub(*bytes, 0, (size_t)MIN((uint64_t)bytes->len, t->left));
    *bytes = str_skip(*bytes, chunk.len);
    t->left -= chunk.len;
    bool whole = t->left == 0;
    if (t->state == AT_EXTENSION) {
        if (!buf_add(&t->extension, chunk)) return diag_set(-ENOMEM, "no memory for a pax header");
        if (whole) t->state = AT_PADDING;
        return whole ? extension_end(t) : 0;
    }
    if (whole) t->state = AT_PADDING;
    return t->handler.data ? t->handler.data(t->handler.context, chunk) : 0;
}

static void padding_take(TarIn *t, Str *bytes)
{
    size_t n = MIN(bytes->len, t->pad);
    *bytes = str_skip(*bytes, n);
    t->pad -= n;
    if (t->pad == 0) t->state = AT_HEADER;
}

static int step(TarIn *t, Str *bytes)
{
    switch (t->state) {
    case AT_CONTENTS:
    case AT_EXTENSION: return contents_take(t, bytes);
    case AT_PADDING: padding_take(t, bytes); return 0;
    case AT_HEADER:
    case AT_END_TWO:
    case AT_END: return block_take(t, bytes);
    }
    assert(false);
    return -EINVAL;
}

int tar_in_feed(TarIn *t, Str bytes)
{
    while (bytes.len > 0 && t->failure == 0) t->failure = step(t, &bytes);
    return t->failure;
}

int tar_in_end(TarIn *t)
{
    if (t->failure) return t->failure;
    if (t->state != AT_END || t->block_len > 0) t->failure = refuse("is cut short");
    return t->failure;
}
