/* Directories of the worker: unpacking code, scratch space, removing both.
 *
 * Everything here blocks on files: call it through work_wait. Removing never follows a symlink,
 * whatever an agent left behind.
 */
#ifndef GANTRY_WORKER_FS_H
#define GANTRY_WORKER_FS_H

#include "base/buf.h"

#define FS_PATH_MAX 4096
#define FS_DEPTH_MAX 200 /* deeper trees are not protected */

/* Makes the directory and its parents (mode 0700) unless they are there. 0 or -errno with diag. */
MUST_CHECK int fs_dir_make(const char *path);

/* Removes a file or a directory with all it holds, however deep, write protection or not. Nothing
 * there is fine. 0 or -errno with diag. */
MUST_CHECK int fs_remove(const char *path);

/* Unpacks tar into the directory root, which must exist and be empty: files 0444 or 0555,
 * directories writable until fs_protect. 0 or -errno with diag. */
MUST_CHECK int fs_unpack(const char *root, Str tar);

/* Writes root/path (checked by agent_path_ok; parents are made), in place of what is there: a file
 * of mode 0444. 0 or -errno with diag. */
MUST_CHECK int fs_write(const char *root, Str path, Str content);

/* Takes write permission from root and the directories in it, and makes it all durable. */
MUST_CHECK int fs_protect(const char *root);

#endif
