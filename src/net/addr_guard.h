/* AddrGuard: which network addresses outbound calls may reach (rules: codec/addr.h).
 *
 * Every address a name resolves to is checked, and the very socket address again when it is opened.
 */
#ifndef GANTRY_NET_ADDR_GUARD_H
#define GANTRY_NET_ADDR_GUARD_H

#include "codec/addr.h"
#include "codec/url.h"

#define ADDR_GUARD_CIDRS_MAX 64

typedef struct {
    AddrCidr allow[ADDR_GUARD_CIDRS_MAX]; /* operator's exceptions to the deny list */
    size_t allow_n;
    bool https_only;
} AddrGuard;

/* Adds "10.0.0.0/8" to the exceptions. Returns 0, -EINVAL with diag, -ENOBUFS when full. */
MUST_CHECK int addr_guard_allow(AddrGuard *guard, Str cidr);

/* Whether the address may be called. Returns 0 or -EACCES with diag naming address and class. */
MUST_CHECK int addr_guard_check(const AddrGuard *guard, Addr addr);

/* What can be said before any name is looked up: the scheme, and a host that is an address. Returns
 * 0 or -EACCES with diag. */
MUST_CHECK int addr_guard_check_url(const AddrGuard *guard, const Url *url);

#endif
