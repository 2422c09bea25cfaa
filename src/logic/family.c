#include "logic/family.h"

/* --- amounts ---------------------------------------------------------------------------------- */

static int64_t held(int64_t amount)
{
    return amount == CAP_NONE ? 0 : amount;
}

FamilyAmount family_hold(const FamilyAmount *a)
{
    return (FamilyAmount){ held(a->tokens), held(a->nusd), held(a->tool_calls) };
}

FamilyAmount family_sum(const FamilyAmount *a, const FamilyAmount *b)
{
    return (FamilyAmount){ money_add(a->tokens, b->tokens), money_add(a->nusd, b->nusd),
                           money_add(a->tool_calls, b->tool_calls) };
}

FamilyAmount family_difference(const FamilyAmount *a, const FamilyAmount *b)
{
    return (FamilyAmount){ a->tokens - b->tokens, a->nusd - b->nusd,
                           a->tool_calls - b->tool_calls };
}

FamilyAmount family_least(const FamilyAmount *a, const FamilyAmount *b)
{
    return (FamilyAmount){ MIN(a->tokens, b->tokens), MIN(a->nusd, b->nusd),
                           MIN(a->tool_calls, b->tool_calls) };
}

static int64_t below(int64_t limit, int64_t spent)
{
    return limit == CAP_NONE ? CAP_NONE : MAX(limit - spent, 0);
}

FamilyAmount family_left(const CapLimits *limits, const CapState *state)
{
    return (FamilyAmount){
        .tokens = below(limits->tokens, money_add(state->settled_tokens, state->reserved_tokens)),
        .nusd = below(limits->usd_nusd, money_add(state->settled_nusd, state->reserved_nusd)),
        .tool_calls = below(limits->tool_calls, state->tool_calls),
    };
}

/* --- lending ---------------------------------------------------------------------------------- */

/* Bounded, so that those of many can be summed. */
static int64_t share(int64_t left, int64_t asked)
{
    if (asked == CAP_NONE && left == CAP_NONE) return CAP_NONE;
    int64_t wish = asked == CAP_NONE ? left - left / 2 : MIN(asked, left);
    return MIN(wish, CAP_CALL_MAX);
}

CapReason family_allot(const FamilyAmount *left, const FamilyAmount *asked, FamilyAmount *ret)
{
    *ret = (FamilyAmount){ share(left->tokens, asked->tokens), share(left->nusd, asked->nusd),
                           share(left->tool_calls, asked->tool_calls) };
    if (ret->tokens == 0) return CAP_BY_TOKENS;
    if (ret->nusd == 0) return CAP_BY_USD;
    return CAP_BY_NOTHING;
}

void family_lend(CapLimits *limits, CapState *state, const FamilyAmount *amount)
{
    FamilyAmount hold = family_hold(amount);
    assert(hold.tokens >= 0 && hold.nusd >= 0 && hold.tool_calls >= 0);
    state->reserved_tokens = money_add(state->reserved_tokens, hold.tokens);
    state->reserved_nusd = money_add(state->reserved_nusd, hold.nusd);
    state->in_flight++;
    if (limits->tool_calls != CAP_NONE) limits->tool_calls -= hold.tool_calls;
}

void family_return(CapLimits *limits, CapState *state, const FamilyAmount *lent,
                   const FamilyAmount *spent)
{
    FamilyAmount hold = family_hold(lent);
    CapHold held_was = { hold.tokens, hold.nusd }, used = { spent->tokens, spent->nusd };
    (void)cap_settle(state, &held_was, &used, 0);
    if (limits->tool_calls != CAP_NONE)
        limits->tool_calls += hold.tool_calls - spent->tool_calls; /* below 0: nothing is left */
}

FamilyAmount family_charge(const FamilyMember *m)
{
    return m->open ? m->allotted : family_sum(&m->own, &m->kids);
}

/* --- bounds ----------------------------------------------------------------------------------- */

FamilyGrowth family_may_grow(const FamilyBounds *bounds, int64_t depth, int64_t children,
                             int64_t members)
{
    if (depth >= bounds->depth_max) return FAMILY_TOO_DEEP;
    if (children >= bounds->children_max) return FAMILY_TOO_WIDE;
    if (members >= bounds->members_max) return FAMILY_TOO_LARGE;
    return FAMILY_MAY_GROW;
}

int64_t family_deadline_ms(int64_t parent_at_ms, int64_t remaining_ms, int64_t now_ms)
{
    int64_t at_ms;
    assert(parent_at_ms >= 0 && remaining_ms >= 0);
    if (remaining_ms == 0) return parent_at_ms;
    if (__builtin_add_overflow(now_ms, remaining_ms, &at_ms)) at_ms = INT64_MAX;
    return parent_at_ms ? MIN(parent_at_ms, at_ms) : at_ms;
}
