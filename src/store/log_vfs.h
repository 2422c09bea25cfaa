/* How the connection that writes appends to the write-ahead log: SQLite hands the log over in two
 * pieces a page, each a system call of its own; here the pieces of a commit are gathered and
 * written at once, before the page that ends it is said to be written. So whoever reads finds there
 * what SQLite takes to be there. The file is longer than what is in it: it is filled ahead with
 * zeros, where there is room, for a commit that makes it longer takes twice the time. And the sync
 * of a commit can be left to another thread, while the next transaction runs.
 */
#ifndef GANTRY_STORE_LOG_VFS_H
#define GANTRY_STORE_LOG_VFS_H

#include <stdbool.h>

struct sqlite3;
typedef struct LogFile LogFile;

/* Registers it, not as the default, over the default VFS of this moment. Only while no connection
 * of its kind is open. Returns its name for sqlite3_open_v2, or NULL without memory. */
const char *log_vfs_use(void);

/* Calls fn once, within the next sync of the connection's log, while the disk is at work where the
 * system lets it be set to work before it is waited for. fn NULL: does not. */
void log_vfs_meanwhile(struct sqlite3 *handle, void (*fn)(void *arg), void *arg);

/* The log of a connection of this kind, which it has until it is closed; NULL: it has none (yet).
 * On the connection's thread, as log_sync_later. */
LogFile *log_of(struct sqlite3 *handle);

/* While this is so a commit returns, and is seen by others, before it is durable: that it is when
 * log_sync_owed has returned. The sync of the log's head is not left. To be so within a commit
 * only: a checkpoint needs its syncs, and not every one can be told from a commit's. */
void log_sync_later(LogFile *log, bool later);

/* Makes durable what has been committed before the call. On one thread at a time, which may be
 * another than the connection's. Returns SQLite's code. */
int log_sync_owed(LogFile *log);

#endif
