/* How the connection that writes appends to the write-ahead log: SQLite hands the log over in two
 * pieces a page, each a system call of its own; here the pieces of a commit are gathered and
 * written at once, before the page that ends it is said to be written. So whoever reads finds there
 * what SQLite takes to be there. The file is longer than what is in it: it is filled ahead with
 * zeros, where there is room, for a commit that makes it longer takes twice the time.
 */
#ifndef GANTRY_STORE_LOG_VFS_H
#define GANTRY_STORE_LOG_VFS_H

struct sqlite3;

/* Registers it, not as the default, over the default VFS of this moment. Only while no connection
 * of its kind is open. Returns its name for sqlite3_open_v2, or NULL without memory. */
const char *log_vfs_use(void);

/* Calls fn once, within the next sync of the connection's log, while the disk is at work where the
 * system lets it be set to work before it is waited for. fn NULL: does not. */
void log_vfs_meanwhile(struct sqlite3 *handle, void (*fn)(void *arg), void *arg);

#endif
