/* Store: the one thread that writes, and group commit.
 *
 * Writes are jobs. The store thread runs every job that waits inside ONE transaction, a savepoint
 * each, commits, then wakes the callers; the next batch forms while the commit runs. Nothing is
 * acknowledged before its commit. Reads without a freshness guarantee newer than the last commit
 * run on a read-only connection of another thread.
 *
 * SQLite: WAL, synchronous=FULL, exactly one connection that writes and checkpoints (the packaged
 * versions have a WAL-reset bug with two); a lock file keeps a second process out.
 */
#ifndef GANTRY_STORE_STORE_H
#define GANTRY_STORE_STORE_H

#include "store/db.h"

typedef struct Store Store;

/* A job: runs on a store thread. Returns 0 (its changes are kept), a positive outcome or -errno
 * (its changes are undone; other jobs of the batch are not affected). It must not wait, and must
 * not touch what a loop owns except through arg, whose owner is parked meanwhile. */
typedef int (*StoreFn)(Db *db, void *arg);

typedef struct {
    const char *path;        /* directory for the database and the artifacts; created if absent */
    size_t batch_jobs_max;   /* jobs a transaction; 0: 512 */
    size_t waiting_jobs_max; /* more answer -EAGAIN; 0: 65536 */
    int64_t reserve_bytes;   /* see store_room_low; 0: none is kept */
    int64_t pages_max;       /* size of the database in 4 KiB pages, -ENOSPC beyond; 0: the disk */
    int64_t wal_pages;       /* of log after which it is moved into the database; 0: 16384 */
} StoreOptions;

/* Opens, locks, migrates. Returns 0, -EBUSY (another process has it), -EPROTO (written by a newer
 * program), -errno; diag says what to do. */
MUST_CHECK int store_open(const StoreOptions *options, Store **ret);

/* Runs what still waits, checkpoints, closes. No caller may be waiting. NULL is accepted. */
void store_close(Store *store);
DEFINE_FREEP(Store, store_close)

/* On a fiber. Runs fn in the next transaction and returns its result once that is durable; or
 * -EAGAIN (too many jobs wait), -ENOSPC (disk full: the job is undone). diag set by fn is carried
 * over. Cannot be abandoned: a cancelled caller still gets the result. */
MUST_CHECK int store_call_wait(Store *store, StoreFn fn, void *arg);

/* Jobs of one kind that write to the same rows, and are better run together. all runs those of a
 * batch, args[i] of n callers; it returns 0 when everything is as if each had been run by one and
 * had returned 0. Else it is undone, and each is run by one as a job of its own. done (may be NULL)
 * runs for each on the store thread when that is durable or undone, before any caller of the batch
 * is told: what it wakes need not wait for them. It must not wait, and has no database. meanwhile
 * (may be NULL) likewise, between all and done, where there is one job in the batch: while the disk
 * writes what that has changed, which may yet be undone. */
typedef struct {
    StoreFn one;
    int (*all)(Db *db, void *const *args, size_t n);
    void (*meanwhile)(void *arg);
    void (*done)(void *arg, int result);
} StoreMany;

/* As store_call_wait, together with the others of the batch that are of this kind. */
MUST_CHECK int store_many_wait(Store *store, const StoreMany *many, void *arg);

/* The same for who is not in a hurry: under load, while nobody else is, it is committed at most
 * slack_us later, with those that have come by then. */
MUST_CHECK int store_many_late_wait(Store *store, const StoreMany *many, void *arg,
                                    int64_t slack_us);

/* On a fiber. Runs fn on the read-only connection; it sees every commit acknowledged before the
 * call. Returns fn's result. */
MUST_CHECK int store_read_wait(Store *store, StoreFn fn, void *arg);

/* On a plain thread that has no loop (start-up, tests): the same, blocking. */
MUST_CHECK int store_call(Store *store, StoreFn fn, void *arg);
MUST_CHECK int store_read(Store *store, StoreFn fn, void *arg);

/* Whether less than the reserve is left on the disk (or of pages_max), as seen a moment ago. Who
 * would add work then should not, so that what is under way can be recorded to its end. Any
 * thread. */
bool store_room_low(const Store *store);

/* The directory given to store_open. */
const char *store_path(const Store *store);

typedef struct {
    uint64_t commits, jobs, jobs_failed, reads;
    uint64_t refused_full; /* -EAGAIN */
    uint64_t disk_full;    /* batches undone by -ENOSPC */
    int64_t room_bytes;    /* left, as seen a moment ago; INT64_MAX without a reserve */
    uint64_t batch_jobs_peak;
    int64_t commit_us_total;
} StoreStats;
void store_stats(const Store *store, StoreStats *ret); /* any thread */

#endif
