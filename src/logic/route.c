#include "logic/route.h"

#include <string.h>

#include "codec/hash.h"

int32_t route_bucket(Str salt, Str unit)
{
    uint64_t h = hash_murmur3_32_pair(salt, unit, 0);
    return (int32_t)(h * ROUTE_BUCKETS >> 32);
}

static Str of_tenant(Str tenant, Str id, char text[ROUTE_UNIT_MAX])
{
    size_t n = MIN(tenant.len, ROUTE_UNIT_MAX - 1), rest = MIN(id.len, ROUTE_UNIT_MAX - n - 1);
    memcpy(text, tenant.ptr, n);
    text[n] = '\n';
    memcpy(text + n + 1, id.ptr, rest);
    return str_make(text, n + 1 + rest);
}

Str route_unit(const RouteWho *who, RouteBy by, RouteUnit *ret_kind, char text[ROUTE_UNIT_MAX])
{
    bool alone = by == ROUTE_BY_TASK;
    assert(!str_empty(who->task));
    const struct {
        RouteUnit kind;
        Str id;
    } choices[] = {
        { UNIT_TENANT, by == ROUTE_BY_TENANT ? who->tenant : STR_NULL },
        { UNIT_USER, by == ROUTE_BY_USER ? who->user : STR_NULL },
        { UNIT_SESSION, alone ? STR_NULL : who->session },
        { UNIT_USER, alone ? STR_NULL : who->user },
        { UNIT_TASK, who->task },
    };
    size_t i = 0;
    while (str_empty(choices[i].id)) i++;
    *ret_kind = choices[i].kind;
    bool own = *ret_kind == UNIT_SESSION || *ret_kind == UNIT_USER;
    return own && !str_empty(who->tenant) ? of_tenant(who->tenant, choices[i].id, text)
                                          : choices[i].id;
}

/* Whether a ramp may still take a unit that is on control. */
static bool may_ramp(RouteUnit kind)
{
    return kind == UNIT_USER || kind == UNIT_TENANT;
}

RouteDecision route_decide(const RouteRule *rule, RouteUnit kind, Str unit,
                           const RouteBefore *before)
{
    assert(rule->weight_bp >= 0 && rule->weight_bp <= ROUTE_BUCKETS);
    RouteDecision d = { .arm = ARM_CONTROL, .pi = (double)rule->weight_bp / ROUTE_BUCKETS };
    bool stays = !before->known && before->live && rule->weight_bp < ROUTE_BUCKETS;
    assert(!stays || kind == UNIT_SESSION);
    if (rule->rolled_back) return d;
    if (before->known) d.arm = before->arm;
    if ((!before->known && !stays) || (d.arm == ARM_CONTROL && may_ramp(kind)))
        d.arm = route_bucket(rule->salt, unit) < rule->weight_bp ? ARM_CANARY : ARM_CONTROL;
    d.counts = !before->known && !stays && rule->weight_bp > 0 && rule->weight_bp < ROUTE_BUCKETS;
    d.persist = !before->known || d.arm != before->arm;
    return d;
}
