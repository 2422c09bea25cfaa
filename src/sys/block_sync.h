/* Makes bytes of a file durable that were written over blocks which it has already, without what a
 * sync of the whole file does beside that. Where a file system has no journal (ext4 as images of
 * microVMs are made) fdatasync writes the file's inode with every sync that follows a new time of
 * change, between the bytes and the flush of the disk: a third of the time of a small commit.
 */
#ifndef GANTRY_SYS_BLOCK_SYNC_H
#define GANTRY_SYS_BLOCK_SYNC_H

#include "base/common.h"

typedef struct BlockSync BlockSync;

/* For the file at path, which exists. NULL where this is not known to be as safe and to be worth
 * it: sync the whole file then, as ever. */
BlockSync *block_sync_open(const char *path);

/* The bytes [at, at + n), all of them written before at some time, and kept then with a sync of the
 * whole file. Blocks its thread, like fdatasync. Returns 0, or -errno: what the disk holds is then
 * unknown, as after an fdatasync that failed. */
MUST_CHECK int block_sync(BlockSync *s, int64_t at, int64_t n);

/* NULL is accepted. */
void block_sync_close(BlockSync *s);

#endif
