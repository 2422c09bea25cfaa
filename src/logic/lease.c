#include "logic/lease.h"

Lease lease_begin(int64_t lease_ms, int64_t heartbeat_ms, int64_t asked_ms)
{
    assert(lease_ms > 0);
    int64_t every_ms = MAX(MIN(heartbeat_ms, lease_ms / 3), LEASE_EVERY_LEAST_MS);
    return (Lease){ .lease_ms = lease_ms, .every_ms = every_ms, .until_ms = asked_ms + lease_ms };
}

void lease_renew(Lease *lease, int64_t asked_ms)
{
    lease->until_ms = MAX(lease->until_ms, asked_ms + lease->lease_ms);
}

bool lease_is_over(const Lease *lease, int64_t now_ms)
{
    return now_ms >= lease->until_ms;
}
