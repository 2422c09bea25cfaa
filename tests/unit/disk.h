/* A disk in memory, under SQLite, that can lose its power and fail.
 *
 * All that is done to files is written down in order. From that, an image is what a disk may hold
 * when the power fails at some point: what was synced, of the writes since then any part, in
 * sectors, in any order, some of them garbage; of names made and removed since the directory was
 * synced, the first few. As SQLite does, it takes for granted that a write changes no byte beside
 * those it writes (powersafe overwrite). After a sync that failed, what it was to keep is never
 * kept, even if a later one succeeds: so Linux does it.
 *
 * What is written down lies in memory that a child process shares with its parent, who makes images
 * from it when the child has died of its disk.
 */
#ifndef GANTRY_TESTS_DISK_H
#define GANTRY_TESTS_DISK_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <sqlite3.h>

#include "base/str.h"
#include "tests/unit/random.h"

#define DISK_SECTOR 512
#define DISK_NAMES 3 /* the database, its write-ahead log, its rollback journal */
#define DISK_FILES_MAX 128
#define DISK_HANDLES_MAX 16
#define DISK_ENTRIES_MAX (1 << 18)
#define DISK_SHARED_BYTES ((size_t)512 << 20)
#define DISK_SHM_REGIONS 16

typedef enum {
    DISK_CREATE, /* file gets the name */
    DISK_DELETE, /* the name goes */
    DISK_DIR_SYNC,
    DISK_WRITE,
    DISK_TRUNCATE,
    DISK_SYNC,
    DISK_SYNC_FAILED,
} DiskWhat;

typedef struct {
    DiskWhat what;
    int file, name;
    int64_t at; /* or the new size */
    size_t n;
    const uint8_t *bytes;
} DiskEntry;

typedef struct {
    uint8_t *bytes;
    size_t n, cap;
} DiskFile;

/* What is on a disk: names and the files they lead to. */
typedef struct {
    DiskFile files[DISK_FILES_MAX];
    int files_n;
    int names[DISK_NAMES]; /* -1: none */
} DiskState;

/* Calls that can be made to fail. */
typedef enum {
    DISK_FAULT_NONE,
    DISK_FAULT_OPEN,
    DISK_FAULT_READ,
    DISK_FAULT_WRITE,
    DISK_FAULT_SHORT, /* a write, half of which is done */
    DISK_FAULT_FULL,  /* likewise: there is no room for the rest */
    DISK_FAULT_SYNC,
    DISK_FAULT_TRUNCATE,
    DISK_FAULT_DELETE,
    DISK_FAULT_SHM,
    DISK_FAULT_N_
} DiskFault;

static const char *const disk_fault_names[DISK_FAULT_N_] = {
    "none", "open", "read", "write", "short", "full", "sync", "truncate", "delete", "shm",
};

static const int disk_fault_codes[DISK_FAULT_N_] = {
    [DISK_FAULT_OPEN] = SQLITE_CANTOPEN,
    [DISK_FAULT_READ] = SQLITE_IOERR_READ,
    [DISK_FAULT_WRITE] = SQLITE_IOERR_WRITE,
    [DISK_FAULT_SHORT] = SQLITE_IOERR_WRITE,
    [DISK_FAULT_FULL] = SQLITE_FULL,
    [DISK_FAULT_SYNC] = SQLITE_IOERR_FSYNC,
    [DISK_FAULT_TRUNCATE] = SQLITE_IOERR_WRITE,
    [DISK_FAULT_DELETE] = SQLITE_IOERR_DELETE,
    [DISK_FAULT_SHM] = SQLITE_IOERR_SHMSIZE,
};

typedef struct DiskHandle DiskHandle;

/* What a child shares with its parent. */
typedef struct {
    size_t entries_n;
    size_t calls[DISK_FAULT_N_]; /* of each kind so far */
    size_t failed;               /* calls that were made to fail */
    size_t bytes_used;           /* of the memory behind this */
    DiskEntry entries[DISK_ENTRIES_MAX];
} DiskLog;

static struct {
    pthread_mutex_t lock;
    DiskState now;
    DiskLog *log;
    DiskHandle *open[DISK_HANDLES_MAX];
    void *shm[DISK_SHM_REGIONS];

    bool sync_less; /* synchronous=FULL is turned into NORMAL, on the sly */
    DiskFault fault;
    size_t fault_nth, fault_calls; /* the first that fails, from 1; and how many do */
} disk = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- states ----------------------------------------------------------------------------------- */

static inline void disk_file_resize(DiskFile *file, size_t n)
{
    if (n > file->cap) {
        file->cap = MAX(n, 2 * file->cap);
        file->bytes = xrealloc(file->bytes, file->cap);
    }
    if (n > file->n) memset(file->bytes + file->n, 0, n - file->n);
    file->n = n;
}

static inline void disk_file_write(DiskFile *file, size_t at, const uint8_t *bytes, size_t n)
{
    if (at + n > file->n) disk_file_resize(file, at + n);
    if (n) memcpy(file->bytes + at, bytes, n);
}

static inline void disk_state_init(DiskState *state)
{
    *state = (DiskState){ 0 };
    for (int i = 0; i < DISK_NAMES; i++) state->names[i] = -1;
}

static inline void disk_state_deinit(DiskState *state)
{
    for (int i = 0; i < state->files_n; i++) free(state->files[i].bytes);
    disk_state_init(state);
}

static inline int disk_file_new(DiskState *state)
{
    assert(state->files_n < DISK_FILES_MAX);
    return state->files_n++;
}

/* Of the files that have a name; ret is empty. */
static inline void disk_state_copy(const DiskState *state, DiskState *ret)
{
    disk_state_init(ret);
    for (int i = 0; i < DISK_NAMES; i++) {
        if (state->names[i] < 0) continue;
        const DiskFile *from = &state->files[state->names[i]];
        ret->names[i] = disk_file_new(ret);
        disk_file_write(&ret->files[ret->names[i]], 0, from->bytes, from->n);
    }
}

/* --- the log ---------------------------------------------------------------------------------- */

/* Memory that children share; it is there until disk_insert. */
static inline void *disk_shared_alloc(size_t n)
{
    DiskLog *log = disk.log;
    size_t at = (log->bytes_used + 15) & ~(size_t)15;
    if (sizeof *log + at + n > DISK_SHARED_BYTES) DIE("the log of the disk is full");
    log->bytes_used = at + n;
    return (uint8_t *)(log + 1) + at;
}

static inline void disk_note(DiskEntry entry, const void *bytes)
{
    if (bytes) entry.bytes = memcpy(disk_shared_alloc(entry.n), bytes, entry.n);
    if (disk.log->entries_n == DISK_ENTRIES_MAX) DIE("the log of the disk is full");
    disk.log->entries[disk.log->entries_n++] = entry;
}

/* How much has been done to the disk so far. */
static inline size_t disk_position(void)
{
    pthread_mutex_lock(&disk.lock);
    size_t n = disk.log->entries_n;
    pthread_mutex_unlock(&disk.lock);
    return n;
}

/* Begins anew with what is in state, all of it durable. Nothing is open. */
static inline void disk_insert(const DiskState *state)
{
    if (!disk.log) {
        disk.log = mmap(NULL, DISK_SHARED_BYTES, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (disk.log == MAP_FAILED) DIE("no memory for the disk");
    }
    for (int i = 0; i < DISK_HANDLES_MAX; i++) assert(!disk.open[i]);
    disk_state_deinit(&disk.now);
    disk_state_copy(state, &disk.now);
    memset(disk.log, 0, offsetof(DiskLog, entries));
}

/* --- images ----------------------------------------------------------------------------------- */

/* How much of what was not synced is there: */
typedef enum {
    IMAGE_ALL,     /* the process died, not the machine */
    IMAGE_NONE,    /* nothing was written out by itself */
    IMAGE_PREFIX,  /* in order, up to somewhere within a write */
    IMAGE_WRITES,  /* some of the writes */
    IMAGE_SECTORS, /* some of the sectors */
    IMAGE_GARBAGE, /* the same, and some have other bytes */
    IMAGE_N_
} ImageKind;

typedef struct {
    Random *random;
    ImageKind kind;
    size_t torn; /* IMAGE_PREFIX: the entry that was under way */
} ImageRule;

static inline bool image_coin(ImageRule *rule)
{
    return random_next(rule->random) & 1;
}

/* Whether a write that was not synced left anything, and whether its sectors go separate ways. */
static inline bool image_keeps(ImageRule *rule, size_t i, bool *ret_split)
{
    *ret_split = rule->kind >= IMAGE_SECTORS || (rule->kind == IMAGE_PREFIX && i == rule->torn);
    if (rule->kind == IMAGE_NONE) return false;
    if (rule->kind == IMAGE_PREFIX) return i <= rule->torn;
    return rule->kind == IMAGE_WRITES ? image_coin(rule) : true;
}

static inline void image_sectors(ImageRule *rule, const DiskEntry *e, DiskFile *file)
{
    uint8_t garbage[DISK_SECTOR];
    size_t at = (size_t)e->at, end = at + e->n;
    while (at < end) {
        size_t next = MIN(end, (at / DISK_SECTOR + 1) * DISK_SECTOR);
        const uint8_t *bytes = e->bytes + (at - (size_t)e->at);
        if (rule->kind == IMAGE_GARBAGE && random_next(rule->random) % 4 == 0) {
            for (size_t i = 0; i < sizeof garbage; i++)
                garbage[i] = (uint8_t)random_next(rule->random);
            bytes = garbage;
        }
        if (image_coin(rule)) disk_file_write(file, at, bytes, next - at);
        at = next;
    }
}

static inline void image_apply(ImageRule *rule, const DiskEntry *e, size_t i, bool durable,
                               DiskFile *file)
{
    bool split = false;
    if (!durable && !image_keeps(rule, i, &split)) return;
    if (e->what == DISK_TRUNCATE) {
        if (!split || image_coin(rule)) disk_file_resize(file, (size_t)e->at);
    } else if (split) {
        image_sectors(rule, e, file);
    } else {
        disk_file_write(file, (size_t)e->at, e->bytes, e->n);
    }
}

/* durable[i]: entry i is there whatever happens, when the power fails before entry cut. */
static inline void image_durable(size_t cut, bool *durable)
{
    DiskWhat next[DISK_FILES_MAX]; /* how the next sync of the file went; WRITE: there was none */
    bool dir = false;
    for (int i = 0; i < DISK_FILES_MAX; i++) next[i] = DISK_WRITE;
    for (size_t i = cut; i-- > 0;) {
        const DiskEntry *e = &disk.log->entries[i];
        if (e->what == DISK_DIR_SYNC) dir = true;
        else if (e->what == DISK_SYNC || e->what == DISK_SYNC_FAILED) next[e->file] = e->what;
        else durable[i] = e->what < DISK_DIR_SYNC ? dir : next[e->file] == DISK_SYNC;
    }
}

/* What the disk may hold when the power fails after cut entries of its log, which began with base.
 * ret is empty. */
static inline void disk_image(const DiskState *base, size_t cut, ImageKind kind, Random *random,
                              DiskState *ret)
{
    size_t first_open = cut;
    bool *durable = xcalloc(cut + 1, sizeof *durable);
    image_durable(cut, durable);
    for (size_t i = cut; i-- > 0;)
        if (!durable[i] && disk.log->entries[i].what >= DISK_WRITE) first_open = i;
    ImageRule rule = { .random = random, .kind = kind };
    rule.torn = (size_t)random_range(random, (int64_t)first_open, (int64_t)cut);
    size_t names_end = kind == IMAGE_ALL ? cut : rule.torn;
    if (kind == IMAGE_NONE) names_end = 0;
    disk_state_copy(base, ret);
    for (size_t i = 0; i < cut; i++) {
        const DiskEntry *e = &disk.log->entries[i];
        bool named = durable[i] || i < names_end;
        while (e->what == DISK_CREATE && e->file >= ret->files_n) (void)disk_file_new(ret);
        if (e->what == DISK_CREATE && named) ret->names[e->name] = e->file;
        if (e->what == DISK_DELETE && named) ret->names[e->name] = -1;
        if (e->what == DISK_WRITE || e->what == DISK_TRUNCATE)
            image_apply(&rule, e, i, durable[i], &ret->files[e->file]);
    }
    free(durable);
}

/* --- SQLite's view: files --------------------------------------------------------------------- */

struct DiskHandle {
    sqlite3_file base;
    int file, name;
    int lock; /* SQLITE_LOCK_... */
    bool entry_synced, shm;
    unsigned shm_shared, shm_exclusive; /* of the locks of shared memory */
};

static inline DiskHandle *disk_handle(sqlite3_file *file)
{
    return (DiskHandle *)file;
}

/* Counts a call; whether it has to fail. The lock is held. */
static inline bool disk_fails(DiskFault fault)
{
    size_t n = ++disk.log->calls[fault];
    if (disk.fault != fault || n < disk.fault_nth || n - disk.fault_nth >= disk.fault_calls)
        return false;
    disk.log->failed++;
    return true;
}

static inline int disk_name_of(const char *path)
{
    if (str_ends_with(str_of(path), STR("-wal"))) return 1;
    if (str_ends_with(str_of(path), STR("-journal"))) return 2;
    if (str_ends_with(str_of(path), STR(".db"))) return 0;
    DIE("SQLite opens %s", path);
}

static int disk_close(sqlite3_file *file)
{
    pthread_mutex_lock(&disk.lock);
    for (int i = 0; i < DISK_HANDLES_MAX; i++)
        if (disk.open[i] == disk_handle(file)) disk.open[i] = NULL;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

static int disk_read(sqlite3_file *file, void *bytes, int n, sqlite3_int64 at)
{
    pthread_mutex_lock(&disk.lock);
    const DiskFile *f = &disk.now.files[disk_handle(file)->file];
    size_t have = (size_t)at < f->n ? MIN((size_t)n, f->n - (size_t)at) : 0;
    bool fails = disk_fails(DISK_FAULT_READ);
    if (have) memcpy(bytes, f->bytes + at, have);
    pthread_mutex_unlock(&disk.lock);
    if (fails) return disk_fault_codes[DISK_FAULT_READ];
    memset((uint8_t *)bytes + have, 0, (size_t)n - have);
    return have == (size_t)n ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int disk_write(sqlite3_file *file, const void *bytes, int n, sqlite3_int64 at)
{
    static const DiskFault ways[] = { DISK_FAULT_WRITE, DISK_FAULT_SHORT, DISK_FAULT_FULL };
    DiskHandle *h = disk_handle(file);
    int code = SQLITE_OK;
    size_t done = (size_t)n;
    pthread_mutex_lock(&disk.lock);
    for (size_t i = 0; i < ARRAY_N(ways); i++) {
        if (!disk_fails(ways[i])) continue;
        code = disk_fault_codes[ways[i]];
        done = ways[i] == DISK_FAULT_WRITE ? 0 : done / 2;
    }
    DiskEntry e = { .what = DISK_WRITE, .file = h->file, .at = at, .n = done };
    if (done) disk_note(e, bytes);
    if (done) disk_file_write(&disk.now.files[h->file], (size_t)at, bytes, done);
    pthread_mutex_unlock(&disk.lock);
    return code;
}

static int disk_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    DiskHandle *h = disk_handle(file);
    pthread_mutex_lock(&disk.lock);
    bool fails = disk_fails(DISK_FAULT_TRUNCATE);
    DiskEntry e = { .what = DISK_TRUNCATE, .file = h->file, .at = size };
    if (!fails) disk_note(e, NULL);
    if (!fails) disk_file_resize(&disk.now.files[h->file], (size_t)size);
    pthread_mutex_unlock(&disk.lock);
    return fails ? disk_fault_codes[DISK_FAULT_TRUNCATE] : SQLITE_OK;
}

/* The first sync of a file that this handle made, and that is not the database, syncs the directory
 * too, as SQLite's own does; the database's name is the store's to make durable. */
static int disk_sync(sqlite3_file *file, int flags)
{
    (void)flags;
    DiskHandle *h = disk_handle(file);
    pthread_mutex_lock(&disk.lock);
    bool fails = disk_fails(DISK_FAULT_SYNC);
    disk_note((DiskEntry){ .what = fails ? DISK_SYNC_FAILED : DISK_SYNC, .file = h->file }, NULL);
    if (!fails && !h->entry_synced) disk_note((DiskEntry){ .what = DISK_DIR_SYNC }, NULL);
    h->entry_synced = h->entry_synced || !fails;
    pthread_mutex_unlock(&disk.lock);
    return fails ? disk_fault_codes[DISK_FAULT_SYNC] : SQLITE_OK;
}

static int disk_file_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    pthread_mutex_lock(&disk.lock);
    *ret = (sqlite3_int64)disk.now.files[disk_handle(file)->file].n;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

/* The highest lock on the database that another handle has. */
static inline int disk_others_lock(const DiskHandle *h)
{
    int highest = SQLITE_LOCK_NONE;
    for (int i = 0; i < DISK_HANDLES_MAX; i++)
        if (disk.open[i] && disk.open[i] != h && disk.open[i]->name == h->name)
            highest = MAX(highest, disk.open[i]->lock);
    return highest;
}

static int disk_lock(sqlite3_file *file, int level)
{
    DiskHandle *h = disk_handle(file);
    pthread_mutex_lock(&disk.lock);
    int others = disk_others_lock(h), rc = SQLITE_OK;
    if (level == SQLITE_LOCK_SHARED) rc = others >= SQLITE_LOCK_PENDING ? SQLITE_BUSY : SQLITE_OK;
    else if (others >= SQLITE_LOCK_RESERVED) rc = SQLITE_BUSY;
    else if (level == SQLITE_LOCK_EXCLUSIVE && others >= SQLITE_LOCK_SHARED) rc = SQLITE_BUSY;
    if (rc == SQLITE_OK) h->lock = MAX(h->lock, level);
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static int disk_unlock(sqlite3_file *file, int level)
{
    pthread_mutex_lock(&disk.lock);
    disk_handle(file)->lock = level;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

static int disk_check_reserved(sqlite3_file *file, int *ret)
{
    pthread_mutex_lock(&disk.lock);
    *ret = disk_others_lock(disk_handle(file)) >= SQLITE_LOCK_RESERVED;
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

/* Turns "PRAGMA synchronous = FULL" into NORMAL, and says FULL when asked, if so wished. */
static int disk_file_control(sqlite3_file *file, int op, void *arg)
{
    (void)file;
    char **pragma = arg;
    if (op != SQLITE_FCNTL_PRAGMA || !disk.sync_less) return SQLITE_NOTFOUND;
    if (sqlite3_stricmp(pragma[1], "synchronous") != 0) return SQLITE_NOTFOUND;
    if (!pragma[2]) {
        pragma[0] = sqlite3_mprintf("2");
        return SQLITE_OK;
    }
    memcpy(pragma[2], "1", 2);
    return SQLITE_NOTFOUND;
}

static int disk_sector_size(sqlite3_file *file)
{
    (void)file;
    return 4096;
}

static int disk_characteristics(sqlite3_file *file)
{
    (void)file;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

/* --- SQLite's view: shared memory ------------------------------------------------------------- */

static int disk_shm_map(sqlite3_file *file, int i, int size, int extend, void volatile **ret)
{
    assert(i < DISK_SHM_REGIONS);
    pthread_mutex_lock(&disk.lock);
    bool fails = disk_fails(DISK_FAULT_SHM);
    disk_handle(file)->shm = true;
    if (!fails && !disk.shm[i] && extend) disk.shm[i] = xcalloc(1, (size_t)size);
    *ret = fails ? NULL : disk.shm[i];
    pthread_mutex_unlock(&disk.lock);
    return fails ? disk_fault_codes[DISK_FAULT_SHM] : SQLITE_OK;
}

static int disk_shm_lock(sqlite3_file *file, int first, int n, int flags)
{
    DiskHandle *h = disk_handle(file);
    unsigned bits = ((1u << n) - 1) << first, shared = 0, exclusive = 0;
    pthread_mutex_lock(&disk.lock);
    for (int i = 0; i < DISK_HANDLES_MAX; i++) {
        if (!disk.open[i] || disk.open[i] == h) continue;
        shared |= disk.open[i]->shm_shared;
        exclusive |= disk.open[i]->shm_exclusive;
    }
    if (!(flags & SQLITE_SHM_SHARED)) exclusive |= shared;
    int rc = flags & SQLITE_SHM_LOCK && exclusive & bits ? SQLITE_BUSY : SQLITE_OK;
    if (flags & SQLITE_SHM_UNLOCK) {
        h->shm_shared &= ~bits;
        h->shm_exclusive &= ~bits;
    } else if (rc == SQLITE_OK) {
        *(flags & SQLITE_SHM_SHARED ? &h->shm_shared : &h->shm_exclusive) |= bits;
    }
    pthread_mutex_unlock(&disk.lock);
    return rc;
}

static void disk_shm_barrier(sqlite3_file *file)
{
    (void)file;
    pthread_mutex_lock(&disk.lock);
    pthread_mutex_unlock(&disk.lock);
}

static int disk_shm_unmap(sqlite3_file *file, int remove)
{
    (void)remove;
    bool used = false;
    pthread_mutex_lock(&disk.lock);
    disk_handle(file)->shm = false;
    for (int i = 0; i < DISK_HANDLES_MAX; i++) used = used || (disk.open[i] && disk.open[i]->shm);
    for (int i = 0; i < DISK_SHM_REGIONS && !used; i++) {
        free(disk.shm[i]);
        disk.shm[i] = NULL;
    }
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

/* --- SQLite's view: names --------------------------------------------------------------------- */

static const sqlite3_io_methods disk_methods = {
    .iVersion = 2,
    .xClose = disk_close,
    .xRead = disk_read,
    .xWrite = disk_write,
    .xTruncate = disk_truncate,
    .xSync = disk_sync,
    .xFileSize = disk_file_size,
    .xLock = disk_lock,
    .xUnlock = disk_unlock,
    .xCheckReservedLock = disk_check_reserved,
    .xFileControl = disk_file_control,
    .xSectorSize = disk_sector_size,
    .xDeviceCharacteristics = disk_characteristics,
    .xShmMap = disk_shm_map,
    .xShmLock = disk_shm_lock,
    .xShmBarrier = disk_shm_barrier,
    .xShmUnmap = disk_shm_unmap,
};

static inline int disk_find(int name, int flags)
{
    if (disk.now.names[name] >= 0) return SQLITE_OK;
    if (!(flags & SQLITE_OPEN_CREATE)) return SQLITE_CANTOPEN;
    disk.now.names[name] = disk_file_new(&disk.now);
    disk_note((DiskEntry){ .what = DISK_CREATE, .file = disk.now.names[name], .name = name }, NULL);
    return SQLITE_OK;
}

static int disk_open(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags,
                     int *ret_flags)
{
    (void)vfs;
    DiskHandle *h = disk_handle(file);
    int name = path ? disk_name_of(path) : -1, i = 0;
    assert(path); /* temporary files are kept in memory */
    *h = (DiskHandle){ .name = name };
    pthread_mutex_lock(&disk.lock);
    bool existed = disk.now.names[name] >= 0;
    int rc = disk_fails(DISK_FAULT_OPEN) ? SQLITE_CANTOPEN : disk_find(name, flags);
    if (rc == SQLITE_OK) {
        while (disk.open[i]) i++;
        assert(i < DISK_HANDLES_MAX);
        disk.open[i] = h;
        h->base.pMethods = &disk_methods;
        h->file = disk.now.names[name];
        h->entry_synced = existed || name == 0;
    }
    pthread_mutex_unlock(&disk.lock);
    if (ret_flags) *ret_flags = flags;
    return rc;
}

static int disk_delete(sqlite3_vfs *vfs, const char *path, int sync_dir)
{
    (void)vfs;
    int name = disk_name_of(path);
    pthread_mutex_lock(&disk.lock);
    bool fails = disk_fails(DISK_FAULT_DELETE), there = disk.now.names[name] >= 0;
    if (!fails && there) {
        disk.now.names[name] = -1;
        disk_note((DiskEntry){ .what = DISK_DELETE, .name = name }, NULL);
        if (sync_dir) disk_note((DiskEntry){ .what = DISK_DIR_SYNC }, NULL);
    }
    pthread_mutex_unlock(&disk.lock);
    if (fails) return disk_fault_codes[DISK_FAULT_DELETE];
    return there ? SQLITE_OK : SQLITE_IOERR_DELETE_NOENT;
}

/* An empty log counts as none: so SQLite's own says it. */
static int disk_access(sqlite3_vfs *vfs, const char *path, int flags, int *ret)
{
    (void)vfs;
    int name = disk_name_of(path);
    pthread_mutex_lock(&disk.lock);
    int file = disk.now.names[name];
    *ret = file >= 0 && (flags != SQLITE_ACCESS_EXISTS || disk.now.files[file].n > 0);
    pthread_mutex_unlock(&disk.lock);
    return SQLITE_OK;
}

static int disk_full_path(sqlite3_vfs *vfs, const char *path, int n, char *ret)
{
    (void)vfs;
    return str_copy(ret, (size_t)n, str_of(path)) ? SQLITE_OK : SQLITE_CANTOPEN;
}

/* Every database that this process opens from now on is on the disk. */
static inline void disk_install(void)
{
    static sqlite3_vfs vfs;
    vfs = *sqlite3_vfs_find(NULL);
    vfs.zName = "disk";
    vfs.szOsFile = sizeof(DiskHandle);
    vfs.xOpen = disk_open;
    vfs.xDelete = disk_delete;
    vfs.xAccess = disk_access;
    vfs.xFullPathname = disk_full_path;
    if (sqlite3_vfs_register(&vfs, 1) != SQLITE_OK) DIE("cannot register the disk");
    disk_state_init(&disk.now);
}

#endif
