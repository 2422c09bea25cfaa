/* WorkerCounts: what a worker has counted since its start, as it tells the control plane with its
 * heartbeats.
 *
 * The one that reads may know other counts than the one that writes: names decide, unknown ones are
 * skipped, missing ones are 0. Pure.
 */
#ifndef GANTRY_LOGIC_WORKER_COUNTS_H
#define GANTRY_LOGIC_WORKER_COUNTS_H

#include "codec/json.h"

typedef enum {
    WORKER_COUNT_ATTEMPTS,
    WORKER_COUNT_SUSPENDED, /* now; all others only grow */
    WORKER_COUNT_SUSPENSIONS,
    WORKER_COUNT_SUSPENSIONS_REFUSED,
    WORKER_COUNT_STUCK,
    WORKER_COUNT_STALE,
    WORKER_COUNT_LEASES_LOST,
    WORKER_COUNT_HEARTBEATS_FAILED,
    WORKER_COUNT_CLAIMS_RENEWED,
    WORKER_COUNT_LIMIT_MEMORY,
    WORKER_COUNT_LIMIT_CPU,
    WORKER_COUNT_LIMIT_PROCESSES,
    WORKER_COUNT_LIMIT_FILES,
    WORKER_COUNT_LIMIT_SCRATCH,
    WORKER_COUNT_LIMIT_OUTPUT,
    WORKER_COUNT_SERVERS_STARTED,
    WORKER_COUNT_SERVERS_FAILED,
    WORKER_COUNT_SERVERS_CROWDED,
    WORKER_COUNT_TOOL_CALLS,
    WORKER_COUNT_TOOL_ERRORS,
    WORKER_COUNT_TOOLS_CROWDED,
    WORKER_COUNT_TOOLS_REPEATED,
    WORKER_COUNT_TOOLS_CLASHED,
    WORKER_COUNT_CHILDREN_CROWDED,
    WORKER_COUNT_CGROUPS_FAILED,
    WORKER_COUNT_MCP_CROWDED,
    WORKER_COUNT_VERSIONS_FETCHED,
    WORKER_COUNT_LOG_LINES_DROPPED,
    WORKER_COUNT_N_
} WorkerCount;

typedef struct {
    int64_t v[WORKER_COUNT_N_];
} WorkerCounts;

/* "limitMemory", the member of the JSON object. */
const char *worker_count_name(WorkerCount count);

/* The counts that are not 0, as an object. */
void worker_counts_write(JsonOut *out, const WorkerCounts *counts);

/* What is no number of at least 0 counts as 0. */
WorkerCounts worker_counts_read(const Json *v);

#endif
