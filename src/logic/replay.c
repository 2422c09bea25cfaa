#include "logic/replay.h"

#include "base/diag.h"

#define EXCERPT_BEFORE 24
#define EXCERPT_AFTER 40

const char *replay_kind_name(ReplayKind kind)
{
    assert(kind < REPLAY_KIND_N_);
    return kind == REPLAY_MODEL ? "model" : "tool";
}

int replay_kind_from(Str name, ReplayKind *ret)
{
    for (int i = 0; i < REPLAY_KIND_N_; i++) {
        if (!str_eq(name, str_of(replay_kind_name((ReplayKind)i)))) continue;
        *ret = (ReplayKind)i;
        return 0;
    }
    return -EINVAL;
}

/* --- keys ------------------------------------------------------------------------------------- */

/* Members that say who asks, or how the answer is to be delivered, not what is asked. */
static const char *const ignored[] = { "user", "metadata", "stream_options", "prompt_cache_key",
                                       "safety_identifier" };

void replay_marks_deinit(ReplayMarks *marks)
{
    while (marks->n > 0) sha256_deinit(&marks->at[--marks->n]);
}

static Str part(Str text, size_t i)
{
    return str_sub(text, i * REPLAY_MARK_BYTES, REPLAY_MARK_BYTES);
}

/* How many marks of the known form are also marks of text. */
static size_t marks_shared(const ReplayKnown *known, Str route, Str text)
{
    size_t n = 0, max = text.len / REPLAY_MARK_BYTES;
    if (!known || !str_eq(known->route, route)) return 0;
    assert(known->marks->n <= known->form.len / REPLAY_MARK_BYTES);
    max = MIN(max, known->marks->n);
    while (n < max && str_eq(part(known->form, n), part(text, n))) n++;
    return n;
}

static void digest_begin(Sha256 *sha, Str domain, Str name)
{
    sha256_init(sha);
    sha256_add(sha, domain);
    sha256_add(sha, name);
    sha256_add(sha, STR("\n"));
}

static void digest(Str domain, Str name, Str text, uint8_t ret[SHA256_BYTES])
{
    Sha256 sha;
    digest_begin(&sha, domain, name);
    sha256_add(&sha, text);
    sha256_end(&sha, ret);
}

/* As digest. Marks are set on the way, and those of known are taken over where text is the same. */
static void digest_marked(Str domain, Str name, Str text, const ReplayKnown *known,
                          ReplayMarks *marks, uint8_t ret[SHA256_BYTES])
{
    Sha256 sha = { 0 };
    size_t shared = marks_shared(known, name, text), all = text.len / REPLAY_MARK_BYTES;
    assert(marks->n == 0);
    for (; marks->n < shared; marks->n++) {
        marks->at[marks->n] = (Sha256){ 0 };
        sha256_copy(&marks->at[marks->n], &known->marks->at[marks->n]);
    }
    if (shared) sha256_copy(&sha, &marks->at[shared - 1]);
    else digest_begin(&sha, domain, name);
    for (; marks->n < MIN(all, REPLAY_MARKS_MAX); marks->n++) {
        sha256_add(&sha, part(text, marks->n));
        marks->at[marks->n] = (Sha256){ 0 };
        sha256_copy(&marks->at[marks->n], &sha);
    }
    sha256_add(&sha, str_skip(text, marks->n * REPLAY_MARK_BYTES));
    sha256_end(&sha, ret);
}

/* The canonical form, or raw when there is none. */
static Str form(const Json *v, const Json *const *without, size_t n, Str raw, Buf *canonical)
{
    assert(canonical->len == 0);
    if (json_canonical_without(v, without, n, canonical) == 0) return buf_str(canonical);
    buf_clear(canonical);
    diag_clear();
    return raw;
}

void replay_model_key(Str route, const Json *body, Str raw, const ReplayMask *mask,
                      const ReplayKnown *known, Buf *canonical, ReplayMarks *marks,
                      uint8_t ret[SHA256_BYTES])
{
    const Json *without[ARRAY_N(ignored) + REPLAY_MASK_MAX];
    size_t n = 0, mask_n = mask ? MIN(mask->n, REPLAY_MASK_MAX) : 0;
    for (size_t i = 0; i < ARRAY_N(ignored) + mask_n; i++) {
        const Json *v = i < ARRAY_N(ignored)
                            ? json_get(body, ignored[i])
                            : json_pointer(body, mask->pointers[i - ARRAY_N(ignored)]);
        if (v && v != body) without[n++] = v;
    }
    Str text = form(body, without, n, raw, canonical);
    if (canonical->len > 0) digest_marked(STR("model\n"), route, text, known, marks, ret);
    else digest(STR("model\n"), route, text, ret);
}

void replay_tool_key(Str tool, const Json *args, Str raw, Buf *canonical, uint8_t ret[SHA256_BYTES])
{
    digest(STR("tool\n"), tool, form(args, NULL, 0, raw, canonical), ret);
}

/* --- an attempt ------------------------------------------------------------------------------- */

static bool is_of(const ReplayEntry *entry, ReplayKind kind, const uint8_t key[SHA256_BYTES])
{
    return !entry->passed && entry->kind == kind && memcmp(entry->key, key, SHA256_BYTES) == 0;
}

static ReplayEntry *find(Replay *replay, ReplayKind kind, const uint8_t key[SHA256_BYTES],
                         bool complete)
{
    for (size_t i = 0; i < replay->n; i++) {
        ReplayEntry *entry = &replay->entries[i];
        if (is_of(entry, kind, key) && entry->complete == complete) return entry;
    }
    return NULL;
}

static const ReplayEntry *first_left(const Replay *replay, ReplayKind kind)
{
    for (size_t i = 0; i < replay->n; i++)
        if (!replay->entries[i].passed && replay->entries[i].kind == kind)
            return &replay->entries[i];
    return NULL;
}

int replay_next(Replay *replay, ReplayKind kind, const uint8_t key[SHA256_BYTES],
                const ReplayEntry **ret)
{
    ReplayEntry *entry = find(replay, kind, key, true);
    if (entry) {
        entry->passed = true;
        replay->hits++;
        *ret = entry;
        return 0;
    }
    *ret = NULL;
    if (!first_left(replay, kind)) return REPLAY_E_END;
    replay->misses++;
    entry = find(replay, kind, key, false);
    if (entry) {
        entry->passed = true;
        return REPLAY_E_INCOMPLETE;
    }
    *ret = first_left(replay, kind);
    return REPLAY_E_DIFFERS;
}

/* --- differences ------------------------------------------------------------------------------ */

static size_t common_prefix(Str a, Str b)
{
    size_t n = MIN(a.len, b.len), i = 0;
    while (n - i >= 4096 && memcmp(a.ptr + i, b.ptr + i, 4096) == 0) i += 4096;
    while (n - i >= 64 && memcmp(a.ptr + i, b.ptr + i, 64) == 0) i += 64;
    while (i < n && a.ptr[i] == b.ptr[i]) i++;
    return i;
}

static size_t common_suffix(Str a, Str b)
{
    const char *a_end = a.ptr + a.len, *b_end = b.ptr + b.len;
    size_t n = MIN(a.len, b.len), i = 0;
    while (n - i >= 64 && memcmp(a_end - i - 64, b_end - i - 64, 64) == 0) i += 64;
    while (i < n && a_end[-1 - (ptrdiff_t)i] == b_end[-1 - (ptrdiff_t)i]) i++;
    return i;
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The bytes around offset, whole characters only. */
static void excerpt(Str text, size_t offset, char out[REPLAY_EXCERPT_MAX])
{
    size_t from = offset > EXCERPT_BEFORE ? offset - EXCERPT_BEFORE : 0;
    size_t to = MIN(text.len, offset + EXCERPT_AFTER);
    while (from < to && is_continuation(text.ptr[from])) from++;
    while (to < text.len && to > from && is_continuation(text.ptr[to])) to--;
    Str part = str_sub(text, from, to - from);
    str_copy(out, REPLAY_EXCERPT_MAX, str_is_utf8(part) ? part : STR("(not text)"));
}

ReplayDiff replay_diff(Str expected, Str came)
{
    ReplayDiff diff = { .offset = common_prefix(expected, came) };
    excerpt(expected, diff.offset, diff.expected);
    excerpt(came, diff.offset, diff.came);
    return diff;
}

/* --- what requests have in common ------------------------------------------------------------- */

ReplayShare replay_share(Str base, Str text)
{
    ReplayShare share = { .prefix = common_prefix(base, text) };
    share.suffix = common_suffix(str_skip(base, share.prefix), str_skip(text, share.prefix));
    return share;
}

Str replay_rest(Str text, ReplayShare share)
{
    assert(share.prefix <= text.len && share.suffix <= text.len - share.prefix);
    return str_sub(text, share.prefix, text.len - share.prefix - share.suffix);
}

int replay_join(Str base, ReplayShare share, Str rest, Buf *out)
{
    if (share.prefix > base.len || share.suffix > base.len - share.prefix)
        return diag_set(-EINVAL, "the request this one was kept against is another one");
    buf_add(out, str_sub(base, 0, share.prefix));
    buf_add(out, rest);
    return buf_add(out, str_skip(base, base.len - share.suffix)) && !out->failed ? 0 : -ENOMEM;
}
