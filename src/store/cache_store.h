/* What operators have asked to be forgotten of cached responses. The caches are the workers', in
 * memory: they hear of a new revision with their heartbeats and read what they have missed.
 * Functions run inside a store job. */
#ifndef GANTRY_STORE_CACHE_STORE_H
#define GANTRY_STORE_CACHE_STORE_H

#include "logic/cache_policy.h"
#include "store/db.h"

#define CACHE_PURGES_KEPT 64

/* Returns 0 with the new revision, -errno. */
MUST_CHECK int cache_purge_add(Db *db, const CachePurge *purge, int64_t now_ms,
                               int64_t *ret_revision);

/* Of the last purge; 0: none ever. */
MUST_CHECK int cache_revision(Db *db, int64_t *ret);

/* The purges after seen, oldest first; texts live in arena. When some of them are not kept any more
 * that is one purge of everything. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int cache_purges_after(Db *db, int64_t seen, Arena *arena, CachePurge **ret,
                                  size_t *ret_n);

#endif
