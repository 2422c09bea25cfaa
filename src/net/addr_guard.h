/* AddrGuard: which network addresses outbound calls may reach (rules: codec/addr.h).
 *
 * Every address a name resolves to is checked, and the very socket address again when it is opened.
 */
#ifndef GANTRY_NET_ADDR_GUARD_H
#define GANTRY_NET_ADDR_GUARD_H

#include <sys/socket.h>

#include "codec/addr.h"
#include "codec/url.h"

#define ADDR_GUARD_CIDRS_MAX 64
#define ADDR_GUARD_OWN_MAX 64
#define ADDR_GUARD_PORTS_MAX 32

typedef struct {
    AddrCidr allow[ADDR_GUARD_CIDRS_MAX]; /* operator's exceptions to the deny list */
    size_t allow_n;
    Addr own
        [ADDR_GUARD_OWN_MAX]; /* this machine's: public or not, what listens there is not for all */
    size_t own_n;

    /* of all but the exceptions, which the operator knows */
    bool https_only;
    bool ports_only; /* none but 443, 80 of plain http, and these */
    uint16_t ports[ADDR_GUARD_PORTS_MAX];
    size_t ports_n;
    const char *section; /* of the configuration, for messages: "webhooks"; NULL: none is named */
} AddrGuard;

/* Of an IPv4 or IPv6 socket address. */
Addr addr_from_sockaddr(const struct sockaddr *sa);
uint16_t port_from_sockaddr(const struct sockaddr *sa);

/* Adds "10.0.0.0/8" to the exceptions. Returns 0, -EINVAL with diag, -ENOBUFS when full. */
MUST_CHECK int addr_guard_allow(AddrGuard *guard, Str cidr);

/* Denies a public address that is this machine's, unless an exception has it. Returns 0, -ENOBUFS
 * with diag. */
MUST_CHECK int addr_guard_deny(AddrGuard *guard, Addr addr);

/* Denies those of this machine's interfaces as they are now. Returns 0, -ENOBUFS (not all found
 * room) or -errno, with diag. */
MUST_CHECK int addr_guard_deny_own(AddrGuard *guard);

/* Whether the address may be called. Returns 0 or -EACCES with diag naming address and class. */
MUST_CHECK int addr_guard_check(const AddrGuard *guard, Addr addr);

/* Adds a port to those that may be called. Returns 0, -EINVAL or -ENOBUFS with diag. */
MUST_CHECK int addr_guard_allow_port(AddrGuard *guard, int64_t port);

/* Whether that port of the address may be called, by https or plain http: as addr_guard_check and
 * by https_only and ports_only; but never, whatever is allowed, a port on which this process
 * listens for others (addr_guard_listens). */
MUST_CHECK int addr_guard_check_port(const AddrGuard *guard, Addr addr, uint16_t port, bool https);

/* This process begins (ends) to listen on a port, at whatever address of the machine. Counted; any
 * thread. */
void addr_guard_listens(uint16_t port, bool begins);

/* What can be said before any name is looked up: of a host that is an address everything; of a name
 * its scheme and port, unless there are exceptions of which it might be one. Returns 0 or -EACCES
 * with diag. */
MUST_CHECK int addr_guard_check_url(const AddrGuard *guard, const Url *url);

#endif
