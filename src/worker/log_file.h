/* LogFile: what a process writes, in files that are turned over before they grow too large.
 *
 * PATH is written to; when it is full it becomes PATH.1, that PATH.2, and so on; the last one is
 * dropped. Everything but log_file_add_wait blocks on files: call it through work_wait, one call at
 * a time.
 */
#ifndef GANTRY_WORKER_LOG_FILE_H
#define GANTRY_WORKER_LOG_FILE_H

#include "sys/fiber.h"
#include "worker/fs.h"

#define LOG_FILE_BYTES_MAX (INT64_C(4) << 20)
#define LOG_FILES_MAX 4 /* with the one that is written to */

/* Zeroed before log_file_open. */
typedef struct {
    char path[FS_PATH_MAX];
    int64_t bytes_max;
    int64_t bytes;
    int64_t dropped; /* bytes that could not be written */
    int fd;          /* valid while open */
    bool open;
    bool alone;   /* no other process may have it open as such */
    bool writing; /* log_file_add_wait, on the pool */
    Cond written;
} LogFile;

/* Of a zeroed one, before log_file_add_wait. */
void log_file_init(LogFile *log);

/* Appends to what is there. bytes_max: of a file. Returns 0 or -errno with diag. */
MUST_CHECK int log_file_open(LogFile *log, const char *path, int64_t bytes_max);

/* What cannot be written (the disk is full) is counted and dropped. A file that was removed is made
 * anew. */
void log_file_add(LogFile *log, Str text);

/* The same on the pool, for fibers of one loop: one writes at a time. Waits even for a cancelled
 * caller. */
void log_file_add_wait(LogFile *log, Str text);

/* Harmless when it is not open. */
void log_file_close(LogFile *log);

/* The log of this process (base/log.h) goes to PATH from now on instead of stderr, which only gets
 * what the file does not take. At start, before other threads; given back by log_file_leave_log.
 * Returns 0, -EBUSY (another process logs there), -errno; with diag. */
MUST_CHECK int log_file_take_log(const char *path, int64_t bytes_max);
void log_file_leave_log(void);

/* Removes all but the latest files of a directory. Returns 0 or -errno with diag. */
MUST_CHECK int log_files_prune(const char *dir, size_t keep);

#endif
