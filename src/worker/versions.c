#include "worker/versions.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/digest.h"
#include "codec/gzip.h"
#include "sys/clock.h"
#include "sys/entropy.h"

#define COMPONENTS_ARENA_BYTES_MAX ((size_t)128 << 20)

typedef struct {
    VersionUse use; /* first: what users hold */
    ListNode node;  /* on Versions.list, least recently used first */
    Arena arena;
    LinkVersion link_version;
    size_t refs;   /* users, and who waits for the fetch */
    bool fetching; /* by one of the waiting */
    bool ready;
    Cond fetched;
} Entry;

struct Versions {
    WorkerLink *link;
    char *dir;
    size_t max;
    List list;
    size_t n;
    atomic_uint_fast64_t fetched;
};

Versions *versions_new(WorkerLink *link, const char *dir, size_t max)
{
    Versions *v = xcalloc(1, sizeof *v);
    assert(dir[0] == '/' && max > 0);
    v->link = link;
    v->dir = xstrdup(dir);
    v->max = max;
    list_init(&v->list);
    return v;
}

static void entry_free(Versions *v, Entry *e)
{
    assert(e->refs == 0 && !e->fetching);
    list_remove(&e->node);
    v->n--;
    arena_deinit(&e->arena);
    free(e);
}

void versions_free(Versions *v)
{
    if (!v) return;
    LIST_EACH (&v->list, node) entry_free(v, CONTAINER_OF(node, Entry, node));
    free(v->dir);
    free(v);
}

uint64_t versions_fetched(const Versions *v)
{
    return atomic_load(&v->fetched);
}

static Entry *entry_find(Versions *v, Str id)
{
    LIST_EACH (&v->list, node) {
        Entry *e = CONTAINER_OF(node, Entry, node);
        if (str_eq(str_of(e->use.id), id)) return e;
    }
    return NULL;
}

static Entry *entry_new(Versions *v, Str id)
{
    Entry *e = xcalloc(1, sizeof *e);
    str_copy(e->use.id, sizeof e->use.id, id);
    snprintf(e->use.dir, sizeof e->use.dir, "%s/%s", v->dir, e->use.id);
    arena_init(&e->arena, COMPONENTS_ARENA_BYTES_MAX);
    cond_init(&e->fetched);
    list_push_back(&v->list, &e->node);
    v->n++;
    return e;
}

/* --- unpacking, on the pool ------------------------------------------------------------------- */

typedef struct {
    Entry *entry;
    Str packed; /* empty: no code */
} UnpackJob;

/* The digest is of the tar: compressed bytes may differ between releases of the compressor. */
static int code_unpack(const Entry *e, Str packed, const char *dir)
{
    char hex[SHA256_HEX_MAX];
    CLEANUP(buf_deinit) Buf tar = { 0 };
    buf_init(&tar, ARTIFACT_BYTES_MAX);
    if (str_starts_with(packed, STR("\x1f\x8b"))) {
        int r = gzip_decompress(packed, &tar);
        if (r < 0) return r;
        packed = buf_str(&tar);
    }
    if (!str_eq(str_of(sha256_hex(packed, hex)), e->link_version.artifact))
        return diag_set(-EBADMSG, "the code of version %.12s is not what its digest says",
                        e->use.id);
    return fs_unpack(dir, packed);
}

static int tree_fill(const Entry *e, Str packed, const char *dir)
{
    const Spec *spec = &e->use.spec;
    int r = fs_dir_make(dir);
    if (r == 0 && packed.len) r = code_unpack(e, packed, dir);
    if (r == 0 && spec->prompt_path.len) r = fs_write(dir, spec->prompt_path, spec->prompt_text);
    if (r == 0 && spec->tools_path.len) r = fs_write(dir, spec->tools_path, spec->tools_text);
    return r == 0 ? fs_protect(dir) : r;
}

/* Under a name of its own until it is complete: what has the version's name can be trusted. */
static int unpack_job(void *arg)
{
    UnpackJob *job = arg;
    char dir[FS_PATH_MAX + 32];
    snprintf(dir, sizeof dir, "%s.%016" PRIx64, job->entry->use.dir, entropy_u64());
    int r = fs_remove(job->entry->use.dir); /* left by a removal that failed half-way */
    if (r == 0) r = tree_fill(job->entry, job->packed, dir);
    if (r == 0 && rename(dir, job->entry->use.dir) != 0)
        r = diag_set(-errno, "cannot rename %s: %s", dir, strerror(errno));
    if (r != 0 && fs_remove(dir) < 0) LOG_WARN("cannot remove a tree", LOG_CSTR("dir", dir));
    return r;
}

static int remove_job(void *arg)
{
    return fs_remove(arg);
}

/* --- fetching --------------------------------------------------------------------------------- */

static int code_fetch_wait(Versions *v, Entry *e)
{
    CLEANUP(buf_deinit) Buf packed = { 0 };
    buf_init(&packed, ARTIFACT_BYTES_MAX);
    if (e->link_version.artifact.len) {
        int r = v->link->ops->artifact_wait(v->link, &e->link_version, &packed);
        if (r != 0) return r;
    }
    UnpackJob job = { e, buf_str(&packed) };
    return work_wait(unpack_job, &job);
}

static int spec_fetch_wait(Versions *v, Entry *e)
{
    int r = v->link->ops->version_wait(v->link, str_of(e->use.id), &e->arena, &e->link_version);
    return r == 0 ? spec_read(&e->arena, e->link_version.components, &e->use.spec) : r;
}

static int entry_fetch_wait(Versions *v, Entry *e)
{
    int64_t began_ms = clock_mono_ms();
    arena_clear(&e->arena); /* of an earlier try */
    e->use.pinged = false;
    int r = spec_fetch_wait(v, e);
    if (r == 0) r = code_fetch_wait(v, e);
    if (r != 0) return r;
    atomic_fetch_add(&v->fetched, 1);
    LOG_INFO("version fetched", LOG_STR("version", str_make(e->use.id, 12)),
             LOG_INT("ms", clock_mono_ms() - began_ms));
    return 0;
}

/* Waits until the version is there; whoever comes first fetches it. When that fails the next one
 * tries for itself. */
static int entry_ready_wait(Versions *v, Entry *e)
{
    while (!e->ready && e->fetching) {
        int r = cond_wait(&e->fetched, DEADLINE_NONE);
        if (r < 0) return r;
    }
    if (e->ready) return 0;
    assert(!e->fetching && e->refs > 0);
    e->fetching = true;
    int r = entry_fetch_wait(v, e);
    e->fetching = false;
    e->ready = r == 0;
    cond_broadcast(&e->fetched);
    return r;
}

/* While its tree is being removed an entry looks like one being fetched: who wants it waits, and
 * then fetches it anew. */
static void evict_wait(Versions *v)
{
    LIST_EACH (&v->list, node) {
        Entry *e = CONTAINER_OF(node, Entry, node);
        if (v->n <= v->max || e->refs > 0) continue;
        e->refs++;
        e->fetching = true;
        e->ready = false;
        int r = work_wait(remove_job, e->use.dir);
        if (r < 0) LOG_WARN("cannot remove a version", LOG_CSTR("why", diag_text_or(r)));
        e->fetching = false;
        cond_broadcast(&e->fetched);
        if (--e->refs == 0) entry_free(v, e);
        return; /* the list may have changed meanwhile */
    }
}

int version_ref_wait(Versions *v, Str id, VersionUse **ret)
{
    if (id.len != VERSION_ID_LEN) return diag_set(-EINVAL, "not a version id: %.*s", STR_ARG(id));
    Entry *e = entry_find(v, id);
    if (!e) e = entry_new(v, id);
    list_remove(&e->node);
    list_push_back(&v->list, &e->node);
    e->refs++;
    int r = entry_ready_wait(v, e);
    if (r != 0) {
        e->refs--;
        if (e->refs == 0 && !e->ready) entry_free(v, e);
        return r;
    }
    if (v->n > v->max) evict_wait(v);
    *ret = &e->use;
    return 0;
}

void version_unref(Versions *v, VersionUse *use)
{
    Entry *e = CONTAINER_OF(use, Entry, use);
    (void)v;
    assert(e->refs > 0 && e->ready);
    e->refs--;
}
