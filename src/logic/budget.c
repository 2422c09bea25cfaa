#include "logic/budget.h"

#include "base/diag.h"

/* --- scopes ----------------------------------------------------------------------------------- */

static const char *const kind_names[BUDGET_KIND_N_] = {
    [BUDGET_ALL] = "", [BUDGET_AGENT] = "agent", [BUDGET_TENANT] = "tenant", [BUDGET_USER] = "user"
};

static const char *const window_names[BUDGET_PERIOD_N_][BUDGET_UNIT_N_] = {
    [BUDGET_DAY] = { "day", "day-tokens" },
    [BUDGET_MONTH] = { "month", "month-tokens" },
};

static size_t put(char *out, size_t at, Str text)
{
    assert(at + text.len < BUDGET_SCOPE_TEXT_MAX);
    if (text.len) memcpy(out + at, text.ptr, text.len);
    return at + text.len;
}

char *budget_scope_text(const BudgetScope *scope, char out[BUDGET_SCOPE_TEXT_MAX])
{
    size_t n = 0;
    assert(scope->kind < BUDGET_KIND_N_ && scope->key.len <= BUDGET_KEY_BYTES_MAX);
    assert((scope->kind == BUDGET_ALL) == str_empty(scope->key));
    if (scope->kind != BUDGET_ALL) {
        n = put(out, n, str_of(kind_names[scope->kind]));
        n = put(out, n, STR(":"));
        n = put(out, n, scope->key);
        n = put(out, n, STR(":"));
    }
    n = put(out, n, str_of(window_names[scope->period][scope->unit]));
    out[n] = '\0';
    return out;
}

static bool window_from(Str text, BudgetScope *ret)
{
    for (int period = 0; period < BUDGET_PERIOD_N_; period++)
        for (int unit = 0; unit < BUDGET_UNIT_N_; unit++)
            if (str_eq(text, str_of(window_names[period][unit]))) {
                ret->period = (BudgetPeriod)period;
                ret->unit = (BudgetUnit)unit;
                return true;
            }
    return false;
}

/* What stands before the last colon, or everything. */
static Str before_last(Str text, Str *ret_last)
{
    size_t at = text.len;
    while (at > 0 && text.ptr[at - 1] != ':') at--;
    *ret_last = str_skip(text, at);
    return at > 0 ? str_sub(text, 0, at - 1) : STR_NULL;
}

static int kind_from(Str name, BudgetKind *ret)
{
    for (int kind = BUDGET_AGENT; kind < BUDGET_KIND_N_; kind++)
        if (str_eq(name, str_of(kind_names[kind]))) {
            *ret = (BudgetKind)kind;
            return 0;
        }
    return -EINVAL;
}

int budget_scope_from(Str text, BudgetScope *ret)
{
    Str window, kind;
    Str rest = before_last(text, &window);
    bool qualified = window.len < text.len;
    BudgetScope scope = { .kind = BUDGET_ALL };
    bool ok = window_from(window, &scope);
    if (ok && qualified) {
        scope.key = str_split(rest, ':', &kind, NULL);
        ok = kind_from(kind, &scope.kind) == 0 && scope.key.len > 0 &&
             scope.key.len <= BUDGET_KEY_BYTES_MAX;
    }
    if (!ok)
        return diag_set(-EINVAL, "a budget is `day` or `month`, of all or as agent:NAME:day, "
                                 "tenant:NAME:month, user:NAME:day-tokens (NAME `*`: of each)");
    *ret = scope;
    return 0;
}

int budget_scope_cmp(const BudgetScope *a, const BudgetScope *b)
{
    if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
    if (a->period != b->period) return a->period < b->period ? -1 : 1;
    if (a->unit != b->unit) return a->unit < b->unit ? -1 : 1;
    return str_cmp(a->key, b->key);
}

/* --- rules ------------------------------------------------------------------------------------ */

static const BudgetRule *rule_find(const BudgetRule *rules, size_t n, const BudgetScope *scope)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = budget_scope_cmp(&rules[middle].scope, scope);
        if (order == 0) return &rules[middle];
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return NULL;
}

size_t budget_rules_of(const BudgetRule *rules, size_t n, const BudgetOwner *owner,
                       BudgetRule ret[BUDGET_SCOPES_MAX])
{
    const Str keys[BUDGET_KIND_N_] = {
        [BUDGET_AGENT] = owner->agent, [BUDGET_TENANT] = owner->tenant, [BUDGET_USER] = owner->user
    };
    size_t found = 0;
    for (int i = 0; i < BUDGET_SCOPES_MAX && n > 0; i++) {
        BudgetScope own = { .kind = (BudgetKind)(i / (BUDGET_PERIOD_N_ * BUDGET_UNIT_N_)),
                            .period = (BudgetPeriod)(i / BUDGET_UNIT_N_ % BUDGET_PERIOD_N_),
                            .unit = (BudgetUnit)(i % BUDGET_UNIT_N_) };
        own.key = keys[own.kind];
        if (own.kind != BUDGET_ALL && str_empty(own.key)) continue;
        BudgetScope each = own;
        if (own.kind != BUDGET_ALL) each.key = STR("*");
        const BudgetRule *rule = rule_find(rules, n, &own);
        if (!rule) rule = rule_find(rules, n, &each);
        if (rule) ret[found++] = (BudgetRule){ own, rule->limit };
    }
    return found;
}

/* --- slices ----------------------------------------------------------------------------------- */

int64_t budget_outstanding(const BudgetSlice *slice)
{
    assert(slice->granted >= slice->returned && slice->returned >= 0 && slice->settled >= 0);
    return MAX(slice->granted - slice->returned - slice->settled, 0);
}

static int64_t amount(const CapHold *hold, BudgetUnit unit)
{
    return unit == BUDGET_USD ? hold->nusd : hold->tokens;
}

/* --- the control plane's side ----------------------------------------------------------------- */

/* While plenty is left one grant serves many calls: at most this part of the rest, */
#define AHEAD_PART 16
/* and at most so many calls of the size that is asked for, beside those known to wait. */
#define AHEAD_CALLS 64

/* On top of what is wanted, whole calls of its size, so that no slice keeps a useless rest. */
static int64_t look_ahead(int64_t rest, int64_t want, int64_t more)
{
    if (want <= 0 || rest <= 0) return 0;
    int64_t most = money_add(MAX(more, 0), want > INT64_MAX / AHEAD_CALLS ? 0 : want * AHEAD_CALLS);
    return MIN(rest / AHEAD_PART, most) / want * want;
}

static bool exhausted(int64_t limit, int64_t settled, int64_t min)
{
    return money_add(settled, min) > limit;
}

/* What the asker gets in one scope; -1: it has to wait. */
static int64_t grant_in(const BudgetAccount *a, const BudgetNeed *need)
{
    assert(a->ahead >= 0 && a->unseen >= 0 && a->leased >= a->unseen);
    int64_t min = amount(&need->min, a->unit), good = amount(&need->good, a->unit);
    int64_t want = amount(&need->want, a->unit);
    assert(min >= 0 && min <= good && good <= want);
    int64_t rest = a->limit - money_add(a->settled, a->leased);
    int64_t mine = rest - MIN(a->ahead, INT64_MAX / 2); /* without what is unseen */
    bool alone = a->leased == a->unseen && a->ahead == 0;
    if (mine + a->unseen >= want) {
        int64_t lacks = MAX(want - a->unseen, 0);
        return lacks + look_ahead(mine - lacks, want, amount(&need->more, a->unit));
    }
    if (mine + a->unseen >= good || (alone && mine + a->unseen >= min)) return MAX(mine, 0);
    return -1;
}

BudgetVerdict budget_decide(const BudgetAccount *accounts, size_t n, const BudgetNeed *need,
                            int64_t ret_grants[], size_t *ret_by)
{
    for (size_t i = 0; i < n; i++)
        if (exhausted(accounts[i].limit, accounts[i].settled,
                      amount(&need->min, accounts[i].unit))) {
            *ret_by = i;
            return BUDGET_EXHAUSTED;
        }
    for (size_t i = 0; i < n; i++) {
        ret_grants[i] = grant_in(&accounts[i], need);
        if (ret_grants[i] >= 0) continue;
        *ret_by = i;
        return BUDGET_WAIT;
    }
    return BUDGET_GRANT;
}

int64_t budget_turn_ms(Lane lane, int64_t since_ms)
{
    static const int64_t behind_ms[LANE_N_] = {
        [LANE_CRITICAL] = 0, [LANE_NORMAL] = 15000, [LANE_LOW] = 60000
    };
    assert(lane < LANE_N_);
    return since_ms + behind_ms[lane];
}

/* --- the worker's side ------------------------------------------------------------------------ */

int64_t budget_free(const BudgetPurse *p)
{
    return p->slice.granted - p->slice.returned - p->slice.settled - p->reserved;
}

CapHold budget_room(BudgetPurse *const *purses, size_t n)
{
    CapHold room = { .tokens = CAP_NONE, .nusd = CAP_NONE };
    for (size_t i = 0; i < n; i++) {
        int64_t *slot = purses[i]->unit == BUDGET_USD ? &room.nusd : &room.tokens;
        *slot = MIN(*slot, MAX(budget_free(purses[i]), 0));
    }
    return room;
}

bool budget_reserve(BudgetPurse *const *purses, size_t n, const CapHold *hold)
{
    CapHold room = budget_room(purses, n);
    assert(hold->tokens >= 0 && hold->nusd >= 0);
    if (hold->tokens > room.tokens || hold->nusd > room.nusd) return false;
    for (size_t i = 0; i < n; i++) purses[i]->reserved += amount(hold, purses[i]->unit);
    return true;
}

void budget_settle(BudgetPurse *const *purses, size_t n, const CapHold *hold, const CapHold *actual)
{
    assert(actual->tokens >= 0 && actual->nusd >= 0);
    for (size_t i = 0; i < n; i++) {
        BudgetPurse *p = purses[i];
        assert(p->reserved >= amount(hold, p->unit));
        p->reserved -= amount(hold, p->unit);
        p->slice.settled = money_add(p->slice.settled, amount(actual, p->unit));
    }
}

int64_t budget_give_back(BudgetPurse *p)
{
    int64_t back = MAX(budget_free(p), 0);
    p->slice.returned += back;
    assert(p->slice.returned <= p->slice.granted);
    return back;
}

void budget_hear(BudgetPurse *p, int64_t granted, int64_t limit, int64_t settled_all)
{
    p->slice.granted = MAX(p->slice.granted, granted);
    p->limit = limit;
    p->settled_all = settled_all;
}

bool budget_exhausted(BudgetPurse *const *purses, size_t n, const CapHold *min, size_t *ret_by)
{
    for (size_t i = 0; i < n; i++) {
        const BudgetPurse *p = purses[i];
        if (!exhausted(p->limit, p->settled_all, amount(min, p->unit))) continue;
        *ret_by = i;
        return true;
    }
    return false;
}

static bool fits(const CapHold *hold, const CapHold *room)
{
    return hold->tokens <= room->tokens && hold->nusd <= room->nusd;
}

BudgetVerdict budget_try(BudgetPurse *const *purses, size_t n, const BudgetNeed *need,
                         BudgetVerdict answer, CapHold *ret_room, size_t *ret_by)
{
    CapHold room = budget_room(purses, n);
    bool granted = answer == BUDGET_GRANT && fits(&need->min, &room);
    if (granted || fits(&need->want, &room)) {
        *ret_room = room;
        return BUDGET_GRANT;
    }
    bool refused = answer == BUDGET_EXHAUSTED && budget_exhausted(purses, n, &need->min, ret_by);
    return refused ? BUDGET_EXHAUSTED : BUDGET_WAIT;
}

int64_t budget_settled_ppm(BudgetPurse *const *purses, size_t n)
{
    int64_t most = 0;
    for (size_t i = 0; i < n; i++) {
        const BudgetPurse *p = purses[i];
        __int128 ppm = (__int128)p->settled_all * 1000000 / MAX(p->limit, 1);
        most = MAX(most, ppm > INT64_MAX ? INT64_MAX : (int64_t)ppm);
    }
    return most;
}
