/* Lease: for how long a worker may go on without an answer. It counts from when the worker asked,
 * which is the earliest the control plane can count from: so a worker that lives stops before its
 * tasks are given to others. Pure; belongs to one worker.
 */
#ifndef GANTRY_LOGIC_LEASE_H
#define GANTRY_LOGIC_LEASE_H

#include "base/common.h"

#define LEASE_EVERY_LEAST_MS 10

typedef struct {
    int64_t lease_ms;
    int64_t every_ms; /* from one heartbeat to the next */
    int64_t until_ms; /* monotonic: from then on it is over */
} Lease;

/* heartbeat_ms: what was asked for; it is a third of the lease at most. asked_ms: when that was
 * sent whose answer gave the lease. */
Lease lease_begin(int64_t lease_ms, int64_t heartbeat_ms, int64_t asked_ms);

/* A heartbeat that was sent at asked_ms has been answered. */
void lease_renew(Lease *lease, int64_t asked_ms);

bool lease_is_over(const Lease *lease, int64_t now_ms);

#endif
