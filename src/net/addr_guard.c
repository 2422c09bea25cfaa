#include "net/addr_guard.h"

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

int addr_guard_check(const AddrGuard *guard, Addr addr)
{
    AddrClass class = addr_class(addr, guard->allow, guard->allow_n);
    if (addr_class_ok(class)) return 0;
    char text[ADDR_TEXT_MAX];
    addr_text(addr, text);
    return diag_set(-EACCES, "%s is %s and may not be called", text, addr_class_text(class));
}

int addr_guard_check_url(const AddrGuard *guard, const Url *url)
{
    if (guard->https_only && !url->https) return diag_set(-EACCES, "only https URLs may be called");
    return url->host_is_addr ? addr_guard_check(guard, url->addr) : 0;
}
