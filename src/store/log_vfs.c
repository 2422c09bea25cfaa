#include "store/log_vfs.h"

#include <assert.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include "base/common.h"

#define LOG_BYTES_MAX 0x1ffff /* at once: SQLite's own files take no more */
#define FRAME_HEAD_BYTES 24   /* https://sqlite.org/fileformat2.html#the_write_ahead_log */
#define FILL_BYTES_MIN (64 << 10)
#define FILL_BYTES_MAX (2 << 20)
#define FILL_PIECE_BYTES (64 << 10)
#define DISK_BLOCK_BYTES 4096

typedef struct LogFile {
    sqlite3_file file; /* first: SQLite's pointer is ours */
    sqlite3_file *under;
    char *bytes; /* to be written at offset */
    int n;
    sqlite3_int64 offset;
    bool committing;              /* the page to come ends a transaction */
    sqlite3_int64 filled;         /* so far the file was written, with frames or with zeros */
    int fd;                       /* of the same file, to name it to the system; -1: none */
    void (*meanwhile)(void *arg); /* or NULL; see log_vfs_meanwhile */
    void *meanwhile_arg;
} LogFile;

#define UNDER_OFFSET ((sizeof(LogFile) + 15) / 16 * 16)

static sqlite3_vfs log_vfs, *base;

/* A sync of a file that has grown keeps its length and its blocks too, which costs more than half
 * of it, in time and in CPU: so the log grows seldom and by much, by zeros, as much again as is in
 * it up to a bound. Zeros are no frame: a log that is read after a crash ends before them. That
 * there is no room for them is no fault: frames are still written as ever. */
static void fill_ahead(LogFile *f, sqlite3_int64 end)
{
    static const char zeros[FILL_PIECE_BYTES];
    sqlite3_int64 more = MAX(FILL_BYTES_MIN, MIN(end, FILL_BYTES_MAX));
    sqlite3_int64 stop = (end + more) / DISK_BLOCK_BYTES * DISK_BLOCK_BYTES, at = end;
    f->filled = stop;
    for (int n; at < stop; at += n) {
        n = (int)MIN(stop - at, FILL_PIECE_BYTES);
        if (f->under->pMethods->xWrite(f->under, zeros, n, at) != SQLITE_OK) return;
    }
}

/* Bytes that could not be written are forgotten: SQLite undoes their transaction, and the next one
 * writes over them. */
static int flush(LogFile *f)
{
    int n = f->n;
    sqlite3_int64 end = f->offset + n;
    f->n = 0;
    if (n == 0) return SQLITE_OK;
    int rc = f->under->pMethods->xWrite(f->under, f->bytes, n, f->offset);
    if (rc == SQLITE_OK && end > f->filled) fill_ahead(f, end);
    return rc;
}

static int log_close(sqlite3_file *file)
{
    LogFile *f = (LogFile *)file;
    int rc = flush(f), closed = f->under->pMethods->xClose(f->under);
    if (f->fd >= 0) close(f->fd);
    free(f->bytes);
    return rc != SQLITE_OK ? rc : closed;
}

static int log_read(sqlite3_file *file, void *out, int n, sqlite3_int64 offset)
{
    LogFile *f = (LogFile *)file;
    int rc = flush(f);
    return rc != SQLITE_OK ? rc : f->under->pMethods->xRead(f->under, out, n, offset);
}

/* The head of a frame holds the size of the database after a commit, or zeros before it. */
static bool is_commit_head(const void *bytes, int n)
{
    return n == FRAME_HEAD_BYTES && memcmp((const char *)bytes + 4, "\0\0\0", 4) != 0;
}

static int log_write(sqlite3_file *file, const void *bytes, int n, sqlite3_int64 offset)
{
    LogFile *f = (LogFile *)file;
    assert(n <= LOG_BYTES_MAX); /* a page at most */
    bool follows = offset == f->offset + f->n && n <= LOG_BYTES_MAX - f->n;
    int rc = follows ? SQLITE_OK : flush(f);
    if (rc != SQLITE_OK) return rc;
    if (f->n == 0) f->offset = offset;
    memcpy(f->bytes + f->n, bytes, (size_t)n);
    f->n += n;
    bool ends = f->committing;
    f->committing = is_commit_head(bytes, n);
    return ends ? flush(f) : SQLITE_OK;
}

static int log_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    LogFile *f = (LogFile *)file;
    int rc = flush(f);
    f->filled = MIN(f->filled, size);
    return rc != SQLITE_OK ? rc : f->under->pMethods->xTruncate(f->under, size);
}

/* That what was written is sent to the disk beforehand is for speed alone: whether it is there, and
 * whether that failed, says the sync that follows. */
static void do_meanwhile(LogFile *f)
{
    void (*fn)(void *arg) = f->meanwhile;
    if (!fn) return;
    if (f->fd >= 0) (void)sync_file_range(f->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    f->meanwhile = NULL;
    fn(f->meanwhile_arg);
}

static int log_sync(sqlite3_file *file, int flags)
{
    LogFile *f = (LogFile *)file;
    int rc = flush(f);
    if (rc != SQLITE_OK) return rc;
    do_meanwhile(f);
    return f->under->pMethods->xSync(f->under, flags);
}

static int log_file_size(sqlite3_file *file, sqlite3_int64 *ret)
{
    LogFile *f = (LogFile *)file;
    int rc = flush(f);
    return rc != SQLITE_OK ? rc : f->under->pMethods->xFileSize(f->under, ret);
}

static int log_lock(sqlite3_file *file, int lock)
{
    LogFile *f = (LogFile *)file;
    return f->under->pMethods->xLock(f->under, lock);
}

static int log_unlock(sqlite3_file *file, int lock)
{
    LogFile *f = (LogFile *)file;
    return f->under->pMethods->xUnlock(f->under, lock);
}

static int log_check_reserved(sqlite3_file *file, int *ret)
{
    LogFile *f = (LogFile *)file;
    return f->under->pMethods->xCheckReservedLock(f->under, ret);
}

static int log_control(sqlite3_file *file, int op, void *argument)
{
    LogFile *f = (LogFile *)file;
    int rc = flush(f);
    return rc != SQLITE_OK ? rc : f->under->pMethods->xFileControl(f->under, op, argument);
}

static int log_sector_size(sqlite3_file *file)
{
    LogFile *f = (LogFile *)file;
    return f->under->pMethods->xSectorSize(f->under);
}

static int log_characteristics(sqlite3_file *file)
{
    LogFile *f = (LogFile *)file;
    return f->under->pMethods->xDeviceCharacteristics(f->under);
}

static const sqlite3_io_methods log_methods = {
    .iVersion = 1, /* no shared memory and no mapping: those are asked of the database's file */
    .xClose = log_close,
    .xRead = log_read,
    .xWrite = log_write,
    .xTruncate = log_truncate,
    .xSync = log_sync,
    .xFileSize = log_file_size,
    .xLock = log_lock,
    .xUnlock = log_unlock,
    .xCheckReservedLock = log_check_reserved,
    .xFileControl = log_control,
    .xSectorSize = log_sector_size,
    .xDeviceCharacteristics = log_characteristics,
};

static int log_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                    int *ret_flags)
{
    (void)vfs;
    if (!(flags & SQLITE_OPEN_WAL)) return base->xOpen(base, name, file, flags, ret_flags);
    LogFile *f = (LogFile *)file;
    *f = (LogFile){ .under = (sqlite3_file *)((char *)file + UNDER_OFFSET) };
    f->under->pMethods = NULL;
    int rc = base->xOpen(base, name, f->under, flags, ret_flags);
    if (rc == SQLITE_OK) rc = f->under->pMethods->xFileSize(f->under, &f->filled);
    if (rc == SQLITE_OK && !(f->bytes = malloc(LOG_BYTES_MAX))) rc = SQLITE_NOMEM;
    if (rc == SQLITE_OK) f->fd = open(name, O_RDONLY | O_CLOEXEC);
    if (rc == SQLITE_OK) f->file.pMethods = &log_methods;
    else if (f->under->pMethods) f->under->pMethods->xClose(f->under);
    return rc;
}

void log_vfs_meanwhile(sqlite3 *handle, void (*fn)(void *arg), void *arg)
{
    LogFile *f = NULL;
    int rc = sqlite3_file_control(handle, NULL, SQLITE_FCNTL_JOURNAL_POINTER, &f);
    if (rc != SQLITE_OK || !f || f->file.pMethods != &log_methods) return; /* not a log, yet */
    f->meanwhile = fn;
    f->meanwhile_arg = arg;
}

const char *log_vfs_use(void)
{
    sqlite3_vfs *now = sqlite3_vfs_find(NULL);
    if (now && now == base) return log_vfs.zName;
    if (base) sqlite3_vfs_unregister(&log_vfs);
    base = now;
    if (!base) return NULL;
    log_vfs = *base;
    log_vfs.zName = "gantry-log";
    log_vfs.pNext = NULL;
    log_vfs.szOsFile = (int)UNDER_OFFSET + base->szOsFile;
    log_vfs.xOpen = log_open;
    return sqlite3_vfs_register(&log_vfs, 0) == SQLITE_OK ? log_vfs.zName : NULL;
}
