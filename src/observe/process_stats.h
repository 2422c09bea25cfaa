/* What the kernel says of this process. */
#ifndef GANTRY_OBSERVE_PROCESS_STATS_H
#define GANTRY_OBSERVE_PROCESS_STATS_H

#include "base/common.h"

typedef struct {
    int64_t resident_bytes;
    int64_t virtual_bytes;
    int64_t open_fds, max_fds; /* -1: unknown */
    double cpu_seconds;
} ProcessStats;

/* Reads /proc: through work_wait or on a plain thread. What cannot be read is 0 (fds: -1). */
void process_stats(ProcessStats *ret);

#endif
