/* Lease: who may still speak for a running task.
 *
 * Two timers: the lease, renewed by heartbeats, finds a worker that died; the limit finds a run
 * that hangs. A token, one higher at every claim, fences: whoever writes must hold the task's
 * current token. The attempt number is not fit for that, because a released task runs again under
 * the same number.
 *
 * All times on one clock of the caller's; it must not run backwards. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_LEASE_H
#define GANTRY_LOGIC_LEASE_H

#include "base/common.h"

#define LEASE_TTL_DEFAULT_MS 15000
#define LEASE_TTL_MIN_MS 1000

typedef struct {
    int64_t token;
    int64_t renewed_at_ms; /* claim or last heartbeat */
    int64_t ttl_ms;
    int64_t limit_at_ms; /* the run must be over by then; 0: no limit */
} Lease;

typedef enum {
    LEASE_HELD,    /* nothing to do */
    LEASE_RUN_OUT, /* still alive but over its limit: stop it, outcome timed_out */
    LEASE_LOST,    /* no heartbeat in time: outcome lost; wins over LEASE_RUN_OUT */
} LeaseState;

/* What holds at now_ms. A lease is lost at renewed_at_ms + ttl_ms, not before. */
LeaseState lease_state(const Lease *lease, int64_t now_ms);

/* When to look again: the earlier of the two ends. */
int64_t lease_check_at_ms(const Lease *lease);

/* When the holder should renew: a third of the ttl after the last time, so that two heartbeats may
 * fail. */
int64_t lease_renew_at_ms(const Lease *lease);

/* Renews. Returns 0; LEASE_E_STALE for another token or when it was already lost at now_ms, and
 * then changes nothing: the holder must stop at once. */
#define LEASE_E_STALE 1
MUST_CHECK int lease_renew(Lease *lease, int64_t token, int64_t now_ms);

#endif
