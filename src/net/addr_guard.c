#include "net/addr_guard.h"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/diag.h"

int addr_guard_allow(AddrGuard *guard, Str cidr)
{
    assert(guard->allow_n <= ADDR_GUARD_CIDRS_MAX);
    AddrCidr parsed;
    if (addr_cidr_from_text(str_trim(cidr), &parsed) < 0)
        return diag_set(-EINVAL, "\"%.*s\" is not an address range such as 10.0.0.0/8",
                        STR_ARG(cidr));
    if (guard->allow_n == ADDR_GUARD_CIDRS_MAX)
        return diag_set(-ENOBUFS, "more than %d address ranges are allowed", ADDR_GUARD_CIDRS_MAX);
    guard->allow[guard->allow_n++] = parsed;
    return 0;
}

Addr addr_from_sockaddr(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return addr_v4((const uint8_t *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr);
    return addr_v6((const uint8_t *)&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
}

uint16_t port_from_sockaddr(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)(const void *)sa)->sin_port);
    return ntohs(((const struct sockaddr_in6 *)(const void *)sa)->sin6_port);
}

int addr_guard_deny(AddrGuard *guard, Addr addr)
{
    if (guard->own_n == ADDR_GUARD_OWN_MAX)
        return diag_set(-ENOBUFS, "more than %d addresses are denied", ADDR_GUARD_OWN_MAX);
    guard->own[guard->own_n++] = addr;
    return 0;
}

int addr_guard_deny_own(AddrGuard *guard)
{
    struct ifaddrs *all;
    int r = 0;
    if (getifaddrs(&all) < 0) return diag_set(-errno, "the addresses of this machine: %m");
    for (const struct ifaddrs *i = all; i && r == 0; i = i->ifa_next) {
        if (!i->ifa_addr) continue;
        if (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6) continue;
        Addr addr = addr_from_sockaddr(i->ifa_addr);
        if (addr_class(addr, NULL, 0) != ADDR_PUBLIC) continue; /* denied as they are */
        r = addr_guard_deny(guard, addr);
    }
    freeifaddrs(all);
    return r;
}

int addr_guard_allow_port(AddrGuard *guard, int64_t port)
{
    if (port < 1 || port > UINT16_MAX)
        return diag_set(-EINVAL, "a port is a number from 1 to %d", UINT16_MAX);
    if (guard->ports_n == ADDR_GUARD_PORTS_MAX)
        return diag_set(-ENOBUFS, "more than %d ports are allowed", ADDR_GUARD_PORTS_MAX);
    guard->ports[guard->ports_n++] = (uint16_t)port;
    return 0;
}

static bool is_own(const AddrGuard *guard, Addr addr)
{
    for (size_t i = 0; i < guard->own_n; i++)
        if (addr_eq(guard->own[i], addr)) return true;
    return false;
}

int addr_guard_check(const AddrGuard *guard, Addr addr)
{
    AddrClass class = addr_class(addr, guard->allow, guard->allow_n);
    bool own = class == ADDR_PUBLIC && is_own(guard, addr);
    if (addr_class_ok(class) && !own) return 0;
    char text[ADDR_TEXT_MAX];
    addr_text(addr, text);
    return diag_set(-EACCES, "%s is %s and may not be called", text,
                    own ? "this machine's own" : addr_class_text(class));
}

/* --- own listeners ---------------------------------------------------------------------------- */

static atomic_ushort listening[UINT16_MAX + 1]; /* how often, by port */

void addr_guard_listens(uint16_t port, bool begins)
{
    if (begins) atomic_fetch_add(&listening[port], 1);
    else atomic_fetch_sub(&listening[port], 1);
}

static bool is_interface(Addr addr)
{
    struct ifaddrs *all;
    bool found = false;
    if (getifaddrs(&all) < 0) return true; /* not known: the safe side */
    for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr) continue;
        if (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6) continue;
        found = addr_eq(addr_from_sockaddr(i->ifa_addr), addr);
    }
    freeifaddrs(all);
    return found;
}

static bool port_ok(const AddrGuard *guard, uint16_t port, bool https)
{
    bool ok = !guard->ports_only || port == (https ? 443 : 80);
    for (size_t i = 0; i < guard->ports_n; i++) ok |= guard->ports[i] == port;
    return ok;
}

/* Of what is no exception. */
static int check_way(const AddrGuard *guard, uint16_t port, bool https)
{
    char hint[128] = "";
    bool http_ok = https || !guard->https_only;
    if (http_ok && port_ok(guard, port, https)) return 0;
    if (guard->section)
        snprintf(hint, sizeof hint, " (see %s.%s, and %s.allow for single addresses)",
                 guard->section, http_ok ? "ports" : "allowHttp", guard->section);
    if (!http_ok) return diag_set(-EACCES, "only https URLs may be called%s", hint);
    return diag_set(-EACCES, "port %u may not be called%s", (unsigned)port, hint);
}

static bool is_exception(const AddrGuard *guard, Addr addr)
{
    return addr_class(addr, guard->allow, guard->allow_n) == ADDR_ALLOWED;
}

int addr_guard_check_port(const AddrGuard *guard, Addr addr, uint16_t port, bool https)
{
    char text[ADDR_TEXT_MAX];
    int r = addr_guard_check(guard, addr);
    if (r == 0 && !is_exception(guard, addr)) r = check_way(guard, port, https);
    if (r < 0 || atomic_load(&listening[port]) == 0) return r;
    AddrClass class = addr_class(addr, NULL, 0);
    /* unspecified, which is among the reserved ones, is this machine to Linux */
    bool here = class == ADDR_LOOPBACK || class == ADDR_RESERVED || is_interface(addr);
    if (!here) return 0;
    addr_text(addr, text);
    return diag_set(-EACCES, "%s, port %u, is Gantry's own and may not be called", text,
                    (unsigned)port);
}

int addr_guard_check_url(const AddrGuard *guard, const Url *url)
{
    if (url->host_is_addr) return addr_guard_check_port(guard, url->addr, url->port, url->https);
    return guard->allow_n > 0 ? 0 : check_way(guard, url->port, url->https);
}
