#include "logic/lease.h"

/* a + b for times: a far end stays the far end. */
static int64_t time_add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t lost_at_ms(const Lease *lease)
{
    assert(lease->ttl_ms > 0);
    return time_add(lease->renewed_at_ms, lease->ttl_ms);
}

LeaseState lease_state(const Lease *lease, int64_t now_ms)
{
    if (now_ms >= lost_at_ms(lease)) return LEASE_LOST;
    if (lease->limit_at_ms != 0 && now_ms >= lease->limit_at_ms) return LEASE_RUN_OUT;
    return LEASE_HELD;
}

int64_t lease_check_at_ms(const Lease *lease)
{
    int64_t lost = lost_at_ms(lease);
    return lease->limit_at_ms != 0 ? MIN(lost, lease->limit_at_ms) : lost;
}

int64_t lease_renew_at_ms(const Lease *lease)
{
    assert(lease->ttl_ms > 0);
    return time_add(lease->renewed_at_ms, lease->ttl_ms / 3);
}

int lease_renew(Lease *lease, int64_t token, int64_t now_ms)
{
    if (token != lease->token || lease_state(lease, now_ms) == LEASE_LOST) return LEASE_E_STALE;
    /* Heartbeats may overtake each other: an older one must not shorten the lease. */
    lease->renewed_at_ms = MAX(lease->renewed_at_ms, now_ms);
    assert(lease_state(lease, now_ms) != LEASE_LOST);
    return 0;
}
