/* Slices of budgets, between a worker and the control plane. */
#include "base/diag.h"
#include "codec/time_text.h"
#include "worker/wire.h"

static const char *const verdict_names[BUDGET_VERDICT_N_] = {
    [BUDGET_GRANT] = "grant", [BUDGET_WAIT] = "wait", [BUDGET_EXHAUSTED] = "exhausted"
};

static int missing(const char *name)
{
    return diag_set(-EINVAL, "`%s` is missing or not what it should be", name);
}

static int count_read(const Json *v, const char *key, int64_t *ret)
{
    int64_t n;
    if (json_i64(json_get(v, key), &n) < 0 || n < 0) return missing(key);
    *ret = n;
    return 0;
}

static void hold_write(JsonOut *out, const char *key, const CapHold *hold)
{
    json_out_key(out, key);
    json_out_object(out);
    json_out_ki64(out, "nusd", hold->nusd);
    json_out_ki64(out, "tokens", hold->tokens);
    json_out_object_end(out);
}

static int hold_read(const Json *v, const char *key, CapHold *ret)
{
    const Json *hold = json_get(v, key);
    int r = count_read(hold, "nusd", &ret->nusd);
    if (r == 0) r = count_read(hold, "tokens", &ret->tokens);
    if (r == 0 && (ret->nusd > INT64_MAX / 4 || ret->tokens > INT64_MAX / 4)) r = missing(key);
    return r;
}

static void scope_write(JsonOut *out, const BudgetScope *scope, int64_t start_ms)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    json_out_kcstr(out, "scope", budget_scope_text(scope, text));
    json_out_ki64(out, "startMs", start_ms);
}

static int scope_read(const Json *v, BudgetScope *ret, int64_t *ret_start_ms)
{
    int r = budget_scope_from(json_str(json_get(v, "scope")), ret);
    if (r == 0 && str_eq(ret->key, STR("*"))) r = missing("scope");
    return r == 0 ? count_read(v, "startMs", ret_start_ms) : r;
}

/* --- questions -------------------------------------------------------------------------------- */

void wire_ask_write(JsonOut *out, const BudgetAsk *ask, int64_t wait_ms)
{
    json_out_object(out);
    json_out_kbool(out, "asks", ask->asks);
    json_out_kstr(out, "agent", ask->owner.agent);
    json_out_kstr(out, "tenant", ask->owner.tenant);
    json_out_kstr(out, "user", ask->owner.user);
    json_out_kcstr(out, "lane", lane_name(ask->lane));
    json_out_ki64(out, "waitedMs", ask->waited_ms);
    json_out_ki64(out, "waitMs", wait_ms);
    hold_write(out, "min", &ask->need.min);
    hold_write(out, "good", &ask->need.good);
    hold_write(out, "want", &ask->need.want);
    hold_write(out, "more", &ask->need.more);
    json_out_key(out, "slices");
    json_out_array(out);
    for (size_t i = 0; i < ask->notes_n; i++) {
        json_out_object(out);
        scope_write(out, &ask->notes[i].scope, ask->notes[i].start_ms);
        json_out_ki64(out, "granted", ask->notes[i].granted);
        json_out_ki64(out, "returned", ask->notes[i].returned);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

static bool within(const CapHold *a, const CapHold *b)
{
    return a->nusd <= b->nusd && a->tokens <= b->tokens;
}

static int need_read(const Json *v, BudgetNeed *ret)
{
    int r = hold_read(v, "min", &ret->min);
    if (r == 0) r = hold_read(v, "good", &ret->good);
    if (r == 0) r = hold_read(v, "want", &ret->want);
    if (r == 0) r = hold_read(v, "more", &ret->more);
    if (r == 0 && !(within(&ret->min, &ret->good) && within(&ret->good, &ret->want)))
        r = diag_set(-EINVAL, "`min`, `good`, `want` are not in order");
    return r;
}

static int notes_read(Arena *arena, const Json *list, BudgetAsk *ask)
{
    if (json_len(list) > BUDGET_NOTES_MAX) return missing("slices");
    BudgetNote *notes = ARENA_ARRAY(arena, BudgetNote, json_len(list) + 1);
    if (!notes) return -ENOMEM;
    for (JsonIter it = json_iter(list); json_next(&it);) {
        BudgetNote *note = &notes[ask->notes_n++];
        int r = scope_read(it.value, &note->scope, &note->start_ms);
        if (r == 0) r = count_read(it.value, "granted", &note->granted);
        if (r == 0) r = count_read(it.value, "returned", &note->returned);
        if (r != 0) return r;
    }
    ask->notes = notes;
    return 0;
}

static int owner_read(const Json *v, BudgetOwner *ret)
{
    ret->agent = json_str(json_get(v, "agent"));
    ret->tenant = json_str(json_get(v, "tenant"));
    ret->user = json_str(json_get(v, "user"));
    bool ok = ret->agent.len <= BUDGET_KEY_BYTES_MAX && ret->tenant.len <= BUDGET_KEY_BYTES_MAX &&
              ret->user.len <= BUDGET_KEY_BYTES_MAX;
    return ok ? 0 : missing("agent, tenant, user");
}

int wire_ask_read(Arena *arena, const Json *v, BudgetAsk *ret, int64_t *ret_wait_ms)
{
    BudgetAsk ask = { .asks = json_bool(json_get(v, "asks"), false) };
    int r = owner_read(v, &ask.owner);
    if (r == 0) r = lane_from(json_str(json_get(v, "lane")), &ask.lane);
    if (r == 0) r = need_read(v, &ask.need);
    if (r == 0) r = notes_read(arena, json_get(v, "slices"), &ask);
    if (r != 0) return r;
    ask.waited_ms = MIN(MAX(json_i64_or(json_get(v, "waitedMs"), 0), 0), INT64_C(86400000));
    *ret_wait_ms = MAX(json_i64_or(json_get(v, "waitMs"), 0), 0);
    *ret = ask;
    return 0;
}

/* --- answers ---------------------------------------------------------------------------------- */

void wire_answer_write(JsonOut *out, const BudgetAnswer *answer)
{
    json_out_object(out);
    json_out_kcstr(out, "verdict", verdict_names[answer->verdict]);
    json_out_ki64(out, "by", (int64_t)answer->by);
    json_out_ki64(out, "epoch", (int64_t)answer->epoch);
    json_out_ki64(out, "nowMs", answer->now_ms);
    json_out_key(out, "slices");
    json_out_array(out);
    for (size_t i = 0; i < answer->told_n; i++) {
        const BudgetTold *told = &answer->told[i];
        json_out_object(out);
        scope_write(out, &told->scope, told->start_ms);
        json_out_ki64(out, "endMs", told->end_ms);
        json_out_ki64(out, "limit", told->limit);
        json_out_ki64(out, "settled", told->settled);
        json_out_ki64(out, "granted", told->granted);
        json_out_ki64(out, "returned", told->returned);
        json_out_ki64(out, "spent", told->spent);
        json_out_kbool(out, "applies", told->applies);
        json_out_object_end(out);
    }
    json_out_array_end(out);
    json_out_object_end(out);
}

static int told_read(const Json *v, BudgetTold *ret)
{
    int r = scope_read(v, &ret->scope, &ret->start_ms);
    if (r == 0) r = count_read(v, "endMs", &ret->end_ms);
    if (r == 0) r = count_read(v, "limit", &ret->limit);
    if (r == 0) r = count_read(v, "settled", &ret->settled);
    if (r == 0) r = count_read(v, "granted", &ret->granted);
    /* a server of before that leaves them out */
    ret->returned = MIN(MAX(json_i64_or(json_get(v, "returned"), 0), 0), ret->granted);
    ret->spent = MAX(json_i64_or(json_get(v, "spent"), 0), 0);
    ret->applies = json_bool(json_get(v, "applies"), false);
    return r;
}

int wire_answer_read(Arena *arena, const Json *v, BudgetAnswer *ret)
{
    const Json *list = json_get(v, "slices");
    BudgetAnswer answer = { .verdict = BUDGET_VERDICT_N_ };
    int64_t by = 0, epoch = 0;
    for (int i = 0; i < BUDGET_VERDICT_N_; i++)
        if (str_eq(json_str(json_get(v, "verdict")), str_of(verdict_names[i])))
            answer.verdict = (BudgetVerdict)i;
    if (answer.verdict == BUDGET_VERDICT_N_) return missing("verdict");
    int r = count_read(v, "by", &by);
    if (r == 0) r = count_read(v, "epoch", &epoch);
    if (r == 0) r = count_read(v, "nowMs", &answer.now_ms);
    answer.told = ARENA_ARRAY(arena, BudgetTold, json_len(list) + 1);
    if (!answer.told) return -ENOMEM;
    for (JsonIter it = json_iter(list); r == 0 && json_next(&it);)
        r = told_read(it.value, &answer.told[answer.told_n++]);
    if (r != 0) return r;
    answer.by = (size_t)by;
    answer.epoch = (uint64_t)epoch;
    *ret = answer;
    return 0;
}

/* --- holds ------------------------------------------------------------------------------------ */

void wire_hold_write(JsonOut *out, const BudgetHold *hold)
{
    json_out_object(out);
    json_out_kstr(out, "callId", hold->call_id);
    wire_ref_write(out, hold->task);
    json_out_ki64(out, "attempt", hold->attempt);
    json_out_ki64(out, "atMs", hold->at_ms);
    json_out_kstr(out, "provider", hold->provider);
    json_out_kstr(out, "model", hold->model);
    hold_write(out, "charge", &hold->charge);
    json_out_object_end(out);
}

int wire_hold_read(const Json *v, BudgetHold *ret)
{
    BudgetHold hold = { .call_id = json_str(json_get(v, "callId")),
                        .provider = json_str(json_get(v, "provider")),
                        .model = json_str(json_get(v, "model")) };
    if (hold.call_id.len == 0 || hold.call_id.len > 64) return missing("callId");
    int r = wire_ref_read(v, &hold.task);
    if (r == 0) r = count_read(v, "attempt", &hold.attempt);
    if (r == 0) r = count_read(v, "atMs", &hold.at_ms);
    if (r == 0 && hold.at_ms > TIME_MS_MAX) r = missing("atMs");
    if (r == 0) r = hold_read(v, "charge", &hold.charge);
    if (r == 0) *ret = hold;
    return r;
}

int wire_holds_read(Arena *arena, const Json *list, const BudgetHold **ret, size_t *ret_n)
{
    size_t n = 0;
    int r = 0;
    if (json_len(list) > BUDGET_HOLDS_MAX)
        return diag_set(-EINVAL, "`holds` has more than %d elements", BUDGET_HOLDS_MAX);
    BudgetHold *holds = ARENA_ARRAY(arena, BudgetHold, json_len(list) + 1);
    if (!holds) return -ENOMEM;
    for (JsonIter it = json_iter(list); r == 0 && json_next(&it);)
        r = wire_hold_read(it.value, &holds[n++]);
    if (r != 0) return r;
    *ret = holds;
    *ret_n = n;
    return 0;
}
