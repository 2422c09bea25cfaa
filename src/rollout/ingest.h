/* Ingest: puts the news of tasks into the rollups of their versions, each once.
 *
 * News are read, merged and deleted in one transaction (store/rollup_store.h), at most
 * INGEST_NEWS_MAX of at most INGEST_CELLS_MAX versions and minutes at a time: memory is bounded and
 * the store's thread is not held up. What a task cost is spread over those that it is merged with.
 */
#ifndef GANTRY_ROLLOUT_INGEST_H
#define GANTRY_ROLLOUT_INGEST_H

#include "store/store.h"

#define INGEST_NEWS_MAX 512
#define INGEST_CELLS_MAX 32

typedef struct {
    int64_t news; /* taken in */
    bool more;    /* there may be more */
} IngestDone;

/* One helping; a store job, arg: IngestDone. */
int ingest_job(Db *db, void *arg);

/* On a fiber. Takes in everything that waited when it was called, and perhaps more. ret_news (may
 * be NULL): how many. Returns 0 or -errno with diag. */
MUST_CHECK int ingest_wait(Store *store, int64_t *ret_news);

#endif
