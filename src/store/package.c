#include "store/package_private.h"

#include <stdlib.h>

#include "base/diag.h"
#include "codec/gzip.h"
#include "codec/yaml.h"
#include "logic/version.h"

#define ENTRIES_MAX_DEFAULT 20000
#define BYTES_MAX_DEFAULT ((size_t)128 << 20)
#define HEADER_BYTES_MAX 2048 /* of an entry in an archive, about */

/* An upload while it is read. Texts and lists live in arena. */
typedef struct {
    Arena *arena;
    PackageLimits limits;
    PackageEntries entries; /* directories too */
    Buf contents;           /* of all files, one after the other */
    PackageIgnore ignore;
    Package *package;
} Reading;

static void reading_deinit(Reading *in)
{
    buf_deinit(&in->contents);
}

/* --- entries ---------------------------------------------------------------------------------- */

PackageLimits package_limits_filled(const PackageLimits *limits)
{
    PackageLimits filled = limits ? *limits : (PackageLimits){ 0 };
    if (filled.entries_max == 0) filled.entries_max = ENTRIES_MAX_DEFAULT;
    if (filled.bytes_max == 0) filled.bytes_max = BYTES_MAX_DEFAULT;
    return filled;
}

int package_entries_add(PackageEntries *list, Arena *arena, const TarEntry *entry, size_t contents)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 64;
        PackageEntry *items = arena_realloc(arena, list->items, list->cap * sizeof *items,
                                            cap * sizeof *items);
        if (!items) return diag_set(-ENOMEM, "too many files");
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = (PackageEntry){ .tar = *entry, .contents = contents };
    return 0;
}

static int entry_cmp(const void *a, const void *b)
{
    return str_cmp(((const PackageEntry *)a)->tar.path, ((const PackageEntry *)b)->tar.path);
}

void package_entries_sort(PackageEntries *list)
{
    if (list->n > 0) qsort(list->items, list->n, sizeof *list->items, entry_cmp);
}

bool package_leaves_out(const PackageIgnore *ignore, Str path, bool is_dir)
{
    if (str_eq(path, STR(PACKAGE_MANIFEST)) || str_eq(path, STR(PACKAGE_IGNORE))) return false;
    return package_ignored(ignore, path, is_dir);
}

/* The entry at path, or NULL. The list is sorted. */
static const PackageEntry *entry_find(const PackageEntries *list, Str path)
{
    PackageEntry key = { .tar.path = path };
    if (list->n == 0) return NULL;
    return bsearch(&key, list->items, list->n, sizeof key, entry_cmp);
}

static Str entry_contents(const Reading *in, const PackageEntry *entry)
{
    return str_sub(buf_str(&in->contents), entry->contents, entry->tar.bytes);
}

/* --- unpacking -------------------------------------------------------------------------------- */

static int on_entry(void *context, const TarEntry *entry)
{
    Reading *in = context;
    TarEntry kept = *entry;
    kept.path = arena_str(in->arena, entry->path);
    kept.link = arena_str(in->arena, entry->link);
    if (!kept.path.ptr || !kept.link.ptr) return diag_set(-ENOMEM, "too many files");
    return package_entries_add(&in->entries, in->arena, &kept, in->contents.len);
}

static int on_data(void *context, Str chunk)
{
    Reading *in = context;
    return buf_add(&in->contents, chunk) ? 0 : diag_set(-ENOMEM, "no memory for the files");
}

static int tar_read(Reading *in, Str tar, uint64_t seed)
{
    TarLimits limits = { .entries_max = in->limits.entries_max,
                         .bytes_max = in->limits.bytes_max,
                         .file_bytes_max = in->limits.bytes_max };
    TarHandler handler = { .context = in, .entry = on_entry, .data = on_data };
    CLEANUP(tar_in_freep) TarIn *reader = tar_in_new(in->arena, &limits, &handler, seed);
    if (!reader) return diag_set(-ENOMEM, "no memory for the archive");
    int r = tar_in_feed(reader, tar);
    return r < 0 ? r : tar_in_end(reader);
}

static int upload_unpack(Reading *in, Str upload, uint64_t seed)
{
    if (!str_starts_with(upload, STR("\x1f\x8b"))) return tar_read(in, upload, seed);
    CLEANUP(buf_deinit) Buf tar;
    buf_init(&tar, in->limits.bytes_max + in->limits.entries_max * HEADER_BYTES_MAX);
    int r = gzip_decompress(upload, &tar);
    return r < 0 ? r : tar_read(in, buf_str(&tar), seed);
}

/* The one directory that holds everything, with its slash, when agent.yaml is in it and not at the
 * top: that is how people pack a directory from outside. Else empty. */
static Str common_dir(const PackageEntries *list)
{
    if (list->n == 0 || entry_find(list, STR(PACKAGE_MANIFEST))) return STR_NULL;
    Str first = list->items[0].tar.path, name;
    str_split(first, '/', &name, NULL);
    Str dir = STR_NULL;
    for (size_t i = 0; i < list->n; i++) {
        Str path = list->items[i].tar.path;
        if (!str_starts_with(path, name)) return STR_NULL;
        if (path.len == name.len) continue;
        if (path.ptr[name.len] != '/') return STR_NULL;
        Str rest = str_skip(path, name.len + 1);
        if (str_eq(rest, STR(PACKAGE_MANIFEST))) dir = str_sub(path, 0, name.len + 1);
    }
    return dir;
}

/* Keeps what lies below dir ("" or with a final slash), under the paths that are left. */
static void entries_enter(PackageEntries *list, Str dir)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->n; i++) {
        PackageEntry entry = list->items[i];
        if (!str_starts_with(entry.tar.path, dir) || entry.tar.path.len == dir.len) continue;
        entry.tar.path = str_skip(entry.tar.path, dir.len);
        list->items[kept++] = entry;
    }
    list->n = kept;
}

/* --- findings --------------------------------------------------------------------------------- */

static void issue_put(Package *package, Str file, const Issue *issue)
{
    if (package->issues_n == PACKAGE_ISSUES_MAX) return;
    package->issues[package->issues_n++] = (PackageIssue){ .file = file, .issue = *issue };
}

/* Where a member of agent.yaml stands; without memory for that the finding has no place. */
static void issue_place(Arena *arena, Str manifest, Issue *issue)
{
    const Json *doc;
    YamlMarks *marks;
    CLEANUP(buf_deinit) Buf pointer = { 0 };
    buf_init(&pointer, 1024);
    buf_printf(&pointer, "/%.*s", STR_ARG(issue->path));
    for (size_t i = 0; i < pointer.len; i++)
        if (pointer.ptr[i] == '.') pointer.ptr[i] = '/';
    if (yaml_parse(arena, manifest, &doc, &marks) != 0) return;
    (void)yaml_mark(marks, buf_str(&pointer), &issue->line, &issue->column);
}

static int issue_say(Reading *in, Str file, Str path, Str message)
{
    if (!message.ptr) return -ENOMEM;
    Issue issue = { .path = path, .message = message };
    if (str_eq(file, STR(PACKAGE_MANIFEST))) issue_place(in->arena, in->package->manifest, &issue);
    issue_put(in->package, file, &issue);
    return PACKAGE_E_INVALID;
}

void package_warn(Arena *arena, Package *package, Str member, Str message)
{
    Issue issue = { .warning = true, .path = member, .message = message };
    issue_place(arena, package->manifest, &issue);
    issue_put(package, STR(PACKAGE_MANIFEST), &issue);
}

/* The diag of a failure as a finding; other failures are passed on. */
static int issue_of(Reading *in, int r, Str file, Str path)
{
    if (r != -EINVAL && r != -E2BIG && r != -EFBIG) return r;
    return issue_say(in, file, path, arena_str(in->arena, str_of(diag_text_or(r))));
}

/* --- the files that matter -------------------------------------------------------------------- */

static int ignore_read(Reading *in)
{
    const PackageEntry *entry = entry_find(&in->entries, STR(PACKAGE_IGNORE));
    Str text = STR_NULL;
    if (entry && entry->tar.type == TAR_FILE) text = entry_contents(in, entry);
    if (text.len > PACKAGE_IGNORE_BYTES_MAX)
        return issue_say(in, STR(PACKAGE_IGNORE), STR_NULL, STR("is too long"));
    int r = package_ignore_parse(in->arena, text, &in->ignore);
    return r < 0 ? issue_of(in, r, STR(PACKAGE_IGNORE), STR_NULL) : 0;
}

static int manifest_read(Reading *in)
{
    const PackageEntry *entry = entry_find(&in->entries, STR(PACKAGE_MANIFEST));
    if (!entry || entry->tar.type != TAR_FILE)
        return issue_say(in, STR_NULL, STR_NULL,
                         STR("the archive has no agent.yaml at its top (nor in a single directory "
                             "that holds everything)"));
    Package *package = in->package;
    package->manifest = arena_str(in->arena, entry_contents(in, entry));
    ManifestError *errors = ARENA_ARRAY(in->arena, ManifestError, PACKAGE_ISSUES_MAX);
    if (!package->manifest.ptr || !errors) return diag_set(-ENOMEM, "agent.yaml is too large");
    size_t n = 0;
    int r = manifest_parse(in->arena, package->manifest, &package->spec, errors, PACKAGE_ISSUES_MAX,
                           &n);
    for (size_t i = 0; r >= 0 && i < n; i++) issue_put(package, STR(PACKAGE_MANIFEST), &errors[i]);
    return r == MANIFEST_E_INVALID ? PACKAGE_E_INVALID : r;
}

/* The text of a file that the manifest names in member. */
static int named_read(Reading *in, Str path, Str member, size_t max, Str *ret)
{
    const PackageEntry *entry = entry_find(&in->entries, path);
    if (!entry)
        return issue_say(in, STR(PACKAGE_MANIFEST), member,
                         arena_printf(in->arena, "%.*s is not in the archive", STR_ARG(path)));
    if (entry->tar.type != TAR_FILE)
        return issue_say(in, STR(PACKAGE_MANIFEST), member,
                         arena_printf(in->arena, "%.*s is not a regular file", STR_ARG(path)));
    if (entry->tar.bytes > max)
        return issue_say(in, path, STR_NULL,
                         arena_printf(in->arena, "has more than %zu bytes", max));
    *ret = arena_str(in->arena, entry_contents(in, entry));
    return ret->ptr ? 0 : diag_set(-ENOMEM, "%.*s is too large", STR_ARG(path));
}

static int prompt_read(Reading *in)
{
    Package *package = in->package;
    Str path = package->spec.prompt;
    if (str_empty(path)) return 0;
    int r = named_read(in, path, STR("spec.prompt"), PACKAGE_PROMPT_BYTES_MAX, &package->prompt);
    if (r == 0 && !str_is_utf8(package->prompt))
        return issue_say(in, path, STR_NULL, STR("is not UTF-8 text"));
    return r;
}

static int tools_read(Reading *in)
{
    Package *package = in->package;
    Str path = package->spec.tools, text;
    if (str_empty(path)) return 0;
    int r = named_read(in, path, STR("spec.tools"), TOOLS_BYTES_MAX, &text);
    if (r != 0) return r;
    Issue *issues = ARENA_ARRAY(in->arena, Issue, PACKAGE_ISSUES_MAX);
    if (!issues) return diag_set(-ENOMEM, "%.*s is too large", STR_ARG(path));
    size_t n = 0;
    r = tools_parse(in->arena, text, &package->tools, issues, PACKAGE_ISSUES_MAX, &n);
    for (size_t i = 0; r >= 0 && i < n; i++) issue_put(package, path, &issues[i]);
    if (r != 0) return r == TOOLS_E_INVALID ? PACKAGE_E_INVALID : r;
    const Tool *lost = tools_without_source(&package->tools);
    if (package->spec.runtime != RUNTIME_BUILTIN || !lost) return 0;
    return issue_say(in, path, STR_NULL,
                     arena_printf(in->arena,
                                  "tool %.*s has no `source`, and a builtin agent has no code "
                                  "of its own to run it",
                                  STR_ARG(lost->name)));
}

/* --- the code archive ------------------------------------------------------------------------- */

static bool is_apart(const Package *package, Str path)
{
    return str_eq(path, STR(PACKAGE_MANIFEST)) || str_eq(path, STR(PACKAGE_IGNORE)) ||
           (package->spec.prompt.len && str_eq(path, package->spec.prompt)) ||
           (package->spec.tools.len && str_eq(path, package->spec.tools));
}

/* "" for ".", else spec.code with one slash behind it; in the arena. */
static Str code_dir(const Reading *in)
{
    Str code = in->package->spec.code;
    if (str_eq(code, STR("."))) return STR("");
    while (str_ends_with(code, STR("/"))) code.len--;
    return arena_printf(in->arena, "%.*s/", STR_ARG(code));
}

/* Leaves the entries that belong into the code archive, under the paths that they have there. */
static int code_choose(Reading *in)
{
    Str dir = code_dir(in);
    if (!dir.ptr) return diag_set(-ENOMEM, "no memory");
    size_t kept = 0, below = 0;
    for (size_t i = 0; i < in->entries.n; i++) {
        PackageEntry entry = in->entries.items[i];
        Str path = entry.tar.path;
        bool is_dir = entry.tar.type == TAR_DIR;
        if (!str_starts_with(path, dir) &&
            !(is_dir && path.len + 1 == dir.len && str_starts_with(dir, path)))
            continue;
        below++;
        if (is_dir || is_apart(in->package, path) || package_ignored(&in->ignore, path, false))
            continue;
        entry.tar.path = str_skip(path, dir.len);
        in->entries.items[kept++] = entry;
    }
    in->entries.n = kept;
    if (below > 0) return 0;
    return issue_say(in, STR(PACKAGE_MANIFEST), STR("spec.code"),
                     STR("there is no such directory in the archive"));
}

static int code_pack(Reading *in, Buf *code)
{
    int r = code_choose(in);
    if (r != 0) return r;
    TarOut tar;
    tar_out_init(&tar, code);
    for (size_t i = 0; r == 0 && i < in->entries.n; i++) {
        const PackageEntry *entry = &in->entries.items[i];
        Str contents = entry_contents(in, entry);
        if (entry->tar.type == TAR_FILE) r = tar_out_file(&tar, &entry->tar, contents);
        else r = tar_out_entry(&tar, &entry->tar);
        if (r == -EINVAL) return issue_of(in, r, entry->tar.path, STR_NULL);
    }
    return r == 0 ? tar_out_end(&tar) : r;
}

static int identify(Reading *in, const Buf *code, size_t code_from)
{
    Package *package = in->package;
    Str digest = STR("");
    if (package->has_code) {
        sha256_hex(str_skip(buf_str(code), code_from), package->code_digest);
        digest = arena_printf(in->arena, "sha256:%s", package->code_digest);
        if (!digest.ptr) return -ENOMEM;
    }
    CLEANUP(buf_deinit) Buf components;
    buf_init(&components, VERSION_COMPONENTS_BYTES_MAX);
    CLEANUP(arena_deinit) Arena scratch;
    arena_init(&scratch, (size_t)20 * VERSION_COMPONENTS_BYTES_MAX);
    int r = version_components(&scratch, &package->spec, package->prompt, &package->tools, digest,
                               &components);
    if (r < 0) return issue_of(in, r, STR_NULL, STR_NULL);
    package->components = arena_str(in->arena, buf_str(&components));
    if (!package->components.ptr) return diag_set(-ENOMEM, "the components are too large");
    version_id(package->components, package->version_id);
    return 0;
}

/* --- together --------------------------------------------------------------------------------- */

/* A finding must not hide those of other files: remembers it and goes on. Other failures stop. */
static bool goes_on(int r, bool *invalid)
{
    if (r == PACKAGE_E_INVALID) *invalid = true;
    return r >= 0;
}

static int reading_run(Reading *in, Buf *code)
{
    bool invalid = false;
    int r = ignore_read(in);
    if (!goes_on(r, &invalid)) return r;
    if ((r = manifest_read(in)) != 0) return r;
    if (!goes_on(r = prompt_read(in), &invalid)) return r;
    if (!goes_on(r = tools_read(in), &invalid)) return r;
    if (invalid) return PACKAGE_E_INVALID;
    size_t code_from = code->len;
    in->package->has_code = !str_empty(in->package->spec.code);
    if (in->package->has_code && (r = code_pack(in, code)) != 0) return r;
    return identify(in, code, code_from);
}

int package_read(Arena *arena, Str upload, const PackageLimits *limits, uint64_t seed, Buf *code,
                 Package *ret)
{
    memset(ret, 0, sizeof *ret);
    CLEANUP(reading_deinit)
    Reading in = { .arena = arena, .limits = package_limits_filled(limits), .package = ret };
    buf_init(&in.contents, in.limits.bytes_max);
    int r = upload_unpack(&in, upload, seed);
    if (r == -EINVAL) return issue_of(&in, r, STR_NULL, STR_NULL);
    if (r < 0) return r;
    package_entries_sort(&in.entries);
    entries_enter(&in.entries, common_dir(&in.entries));
    r = reading_run(&in, code);
    return r == PACKAGE_E_INVALID ? diag_set(r, "the archive is not a valid agent") : r;
}
