/* What the store asks of a database engine, beside the statements of store/db.h. Only store/ uses
 * it. A Db belongs to one thread at a time.
 */
#ifndef GANTRY_STORE_DB_ENGINE_H
#define GANTRY_STORE_DB_ENGINE_H

#include "store/db.h"

/* Opens (and creates) the database in dir as the connection that writes and checkpoints; a second
 * one in the process is a programming error and ends it. pages_max: 0, or the most 4 KiB pages.
 * wal_pages: 0, or how long the log may grow. Returns 0 or -errno with diag. */
MUST_CHECK int db_open_writer(const char *dir, int64_t pages_max, int64_t wal_pages, Db **ret);

/* A connection that can neither write nor checkpoint. The writer must be open, and close last. */
MUST_CHECK int db_open_reader(const char *dir, Db **ret);

/* NULL is accepted. */
void db_close(Db *db);
DEFINE_FREEP(Db, db_close)

/* Transactions, and one level of savepoints in them. All return 0 or -errno; db_commit undoes the
 * transaction when it fails. */
MUST_CHECK int db_begin(Db *db);
MUST_CHECK int db_commit(Db *db);
/* As db_commit; calls fn in between, at most once, while the disk writes. */
MUST_CHECK int db_commit_while(Db *db, void (*fn)(void *arg), void *arg);
bool db_wrote(const Db *db); /* the last commit, by the connection that writes: to the disk */
void db_rollback(Db *db);
MUST_CHECK int db_savepoint(Db *db);
MUST_CHECK int db_savepoint_keep(Db *db);
MUST_CHECK int db_savepoint_undo(Db *db);

/* The first failure since db_begin that spoils the whole transaction: -ENOSPC, -EIO, -ENOMEM; 0 if
 * there was none. */
int db_failure(const Db *db);

/* What the failure was, until the next db_begin; "" if there was none. */
const char *db_failure_text(const Db *db);

/* Gives up the rows of every statement that a job left open. */
void db_reset_open(Db *db);

/* Runs several statements of SQL, rows ignored. Returns 0 or -errno with diag. */
MUST_CHECK int db_script(Db *db, const char *sql);

/* Between transactions, on the writer: moves the log into the database when it has grown enough.
 * Returns 0 or -errno. */
MUST_CHECK int db_checkpoint_if_due(Db *db);

/* Between transactions: bytes of pages that the database may still grow by (INT64_MAX: as many as
 * the disk has), and of pages in it that are free. Returns 0 or -errno. */
MUST_CHECK int db_room(Db *db, int64_t *ret_growth, int64_t *ret_free);

/* For a log line and the tests: whether this SQLite (as sqlite3_libversion_number) has the fix of
 * the WAL-reset bug (https://sqlite.org/wal.html#walresetbug). */
bool db_wal_reset_fixed(int sqlite_version_number);

#endif
