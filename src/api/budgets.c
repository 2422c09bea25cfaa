/* Budgets, for people; and what workers hold of them. */
#include "api/budgets.h"

#include <stdio.h>

#include "base/diag.h"
#include "observe/task_json.h"
#include "queue/ledger.h"
#include "sys/clock.h"
#include "sys/zone.h"
#include "worker/wire.h"

#define LIST_ARENA_MAX ((size_t)64 << 20)
#define GRANTS_WAIT_MAX_MS 20000
#define LIMIT_MAX (INT64_MAX / 4)

static const Member budget_members[] = {
    { "limitUsd", MEMBER_STRING, false, "USD as a decimal, for budgets in USD; null: as configured",
      NULL },
    { "limitTokens", MEMBER_INTEGER, false, "For budgets in tokens; null: as configured", NULL },
};
const BodySpec budget_body = { .name = "BudgetRequest",
                               .members = budget_members,
                               .n = ARRAY_N(budget_members),
                               .required = true };

static const Member grants_members[] = {
    { "asks", MEMBER_BOOLEAN, true, "Whether slices are asked for, or only returned", NULL },
    { "agent", MEMBER_STRING, false, "Whose calls", NULL },
    { "tenant", MEMBER_STRING, false, "Whose calls", NULL },
    { "user", MEMBER_STRING, false, "Whose calls", NULL },
    { "lane", MEMBER_STRING, true, "Whose turn it is", NULL },
    { "waitedMs", MEMBER_INTEGER, false, "So far", NULL },
    { "waitMs", MEMBER_INTEGER, false, "How long the answer may take, at most 20 s", NULL },
    { "min", MEMBER_OBJECT, true, "{nusd, tokens} of the least useful call", NULL },
    { "good", MEMBER_OBJECT, true, "... of one not worth waiting longer for", NULL },
    { "want", MEMBER_OBJECT, true, "... of the whole call", NULL },
    { "more", MEMBER_OBJECT, true, "... of those behind it", NULL },
    { "slices", MEMBER_ARRAY, true, "[{scope, startMs, granted, returned}], totals", NULL },
};
const BodySpec grants_body = { .name = "WorkerGrantsRequest",
                               .members = grants_members,
                               .n = ARRAY_N(grants_members),
                               .required = true,
                               .large = true };

static const Member holds_members[] = {
    { "workerId", MEMBER_STRING, true, "The worker that is dead", NULL },
    { "holds", MEMBER_ARRAY, true, "Calls it had in flight", NULL },
};
const BodySpec holds_body = { .name = "WorkerHoldsRequest",
                              .members = holds_members,
                              .n = ARRAY_N(holds_members),
                              .required = true,
                              .large = true };

/* --- for people ------------------------------------------------------------------------------- */

static void amount_write(JsonOut *out, const char *name, const char *suffix, BudgetUnit unit,
                         int64_t amount)
{
    char key[48], usd[MONEY_TEXT_MAX];
    snprintf(key, sizeof key, "%s%s", name, suffix);
    if (unit == BUDGET_TOKENS) {
        json_out_ki64(out, key, amount);
        return;
    }
    json_out_kcstr(out, key, money_text(amount, usd));
    snprintf(key, sizeof key, "%sNusd", name);
    json_out_ki64(out, key, amount);
}

static void budget_write(JsonOut *out, const Budget *b)
{
    char text[BUDGET_SCOPE_TEXT_MAX];
    const char *suffix = b->scope.unit == BUDGET_USD ? "Usd" : "Tokens";
    json_out_object(out);
    json_out_kcstr(out, "scope", budget_scope_text(&b->scope, text));
    json_out_kcstr(out, "unit", b->scope.unit == BUDGET_USD ? "usd" : "tokens");
    json_out_kbool(out, "limited", b->limited);
    json_out_key(out, "source");
    if (!b->limited) json_out_null(out);
    else json_out_str(out, b->from_api ? STR("api") : STR("config"));
    if (b->limited) amount_write(out, "limit", suffix, b->scope.unit, b->limit);
    amount_write(out, "settled", suffix, b->scope.unit, b->settled);
    amount_write(out, "reserved", suffix, b->scope.unit, b->leased);
    if (b->limited)
        amount_write(out, "remaining", suffix, b->scope.unit,
                     MAX(b->limit - money_add(b->settled, b->leased), 0));
    json_out_ktime(out, "from", b->start_ms);
    json_out_ktime(out, "until", b->end_ms);
    json_out_object_end(out);
}

int budget_list_run_wait(ApiCall *call)
{
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    Budget *budgets;
    size_t n;
    arena_init(&arena, LIST_ARENA_MAX);
    int r = queue_budgets_wait(call->api->options.queue, &arena, &budgets, &n);
    if (r < 0) return api_fail_wait(call, r);
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_kcstr(&json.out, "timeZone", zone_name());
    json_out_key(&json.out, "budgets");
    json_out_array(&json.out);
    for (size_t i = 0; i < n; i++) budget_write(&json.out, &budgets[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

static int scope_of_wait(ApiCall *call, BudgetScope *ret)
{
    if (budget_scope_from(call->params[0], ret) == 0 && str_is_utf8(ret->key)) return 0;
    return api_problem_wait(call, 400, "scope_invalid", "%s", diag_text());
}

/* any: also what no rule limits. */
static int budget_answer_wait(ApiCall *call, const BudgetScope *scope, bool any)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    Budget budget;
    int r = queue_budget_get_wait(call->api->options.queue, scope, &budget);
    if (r == QUEUE_E_NO_BUDGET && !any)
        return api_problem_wait(call, 404, "budget_not_found", "no budget limits that");
    if (r < 0) return api_fail_wait(call, r);
    api_json(&json, API_JSON_BYTES_MAX);
    budget_write(&json.out, &budget);
    return api_json_wait(call, 200, &json);
}

int budget_get_run_wait(ApiCall *call)
{
    BudgetScope scope;
    int r = scope_of_wait(call, &scope);
    return r != 0 ? r : budget_answer_wait(call, &scope, false);
}

/* The limit to set; BUDGET_AS_CONFIGURED for null. */
static int limit_of_wait(ApiCall *call, const BudgetScope *scope, const Json *body, int64_t *ret)
{
    bool usd = scope->unit == BUDGET_USD;
    const char *key = usd ? "limitUsd" : "limitTokens";
    const Json *other = json_get(body, usd ? "limitTokens" : "limitUsd");
    const Json *limit = json_get(body, key);
    *ret = BUDGET_AS_CONFIGURED;
    if (json_type(other) != JSON_ABSENT || json_type(limit) == JSON_ABSENT)
        return api_problem_wait(call, 400, "member_invalid", "this budget has a `%s` and no other",
                                key);
    if (json_type(limit) == JSON_NULL) return 0;
    int r = usd ? money_from_text(json_str(limit), NUSD_PER_USD, ret) : json_i64(limit, ret);
    if (r == 0 && *ret >= 0 && *ret <= LIMIT_MAX) return 0;
    return api_problem_wait(call, 400, "member_invalid",
                            usd ? "`%s` is to be USD as a decimal, such as \"12.50\""
                                : "`%s` is to be a whole number of tokens",
                            key);
}

int budget_put_run_wait(ApiCall *call)
{
    BudgetScope scope;
    Str text;
    const Json *body;
    int64_t limit;
    int r = scope_of_wait(call, &scope);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r == 0) r = limit_of_wait(call, &scope, body, &limit);
    if (r != 0) return r;
    r = queue_budget_set_wait(call->api->options.queue, &scope, limit);
    if (r == QUEUE_E_NO_BUDGET)
        return api_problem_wait(call, 404, "budget_not_found", "that budget was not set here");
    if (r == QUEUE_E_FULL)
        return api_problem_wait(call, 409, "too_many_budgets", "%s", diag_text());
    if (r < 0) return api_fail_wait(call, r);
    return budget_answer_wait(call, &scope, true);
}

/* --- for workers ------------------------------------------------------------------------------ */

static int wire_problem_wait(ApiCall *call, int r)
{
    if (r == -ENOMEM) return api_fail_wait(call, r);
    return api_problem_wait(call, 400, "member_invalid", "%s", diag_text());
}

/* Waits a second at a time, so that a worker that went away is granted nothing. */
static int grants_wait(ApiCall *call, Uuid id, const BudgetAsk *ask, int64_t deadline_ms,
                       BudgetAnswer *ret)
{
    BudgetAsk again = *ask;
    int64_t began_ms = clock_mono_ms();
    for (;;) {
        again.waited_ms = ask->waited_ms + clock_mono_ms() - began_ms;
        int r = queue_grants_wait(call->api->options.queue, id, &again, api_wait_step(deadline_ms),
                                  &call->req->arena, ret);
        if (r != 0 || ret->verdict != BUDGET_WAIT) return r;
        if (http_gone(call->req) || api_wait_over(call) || clock_mono_ms() >= deadline_ms) return 0;
    }
}

int worker_grants_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    BudgetAsk ask;
    BudgetAnswer answer;
    int64_t wait_ms;
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    if ((r = wire_ask_read(&call->req->arena, body, &ask, &wait_ms)) < 0)
        return wire_problem_wait(call, r);
    r = grants_wait(call, id, &ask, deadline_after(MIN(wait_ms, GRANTS_WAIT_MAX_MS)), &answer);
    if (r != 0) return api_queue_fail_wait(call, r);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_answer_write(&json.out, &answer);
    return api_json_wait(call, 200, &json);
}

int worker_holds_run_wait(ApiCall *call)
{
    Uuid id, dead;
    Str text;
    const Json *body;
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r != 0) return r;
    const Json *list = json_get(body, "holds");
    if (uuid_from_text(json_str(json_get(body, "workerId")), &dead) < 0 || uuid_eq(id, dead))
        return api_problem_wait(call, 400, "member_invalid", "`workerId` is to be another worker");
    const BudgetHold *holds;
    size_t n;
    if ((r = wire_holds_read(&call->req->arena, list, &holds, &n)) < 0)
        return wire_problem_wait(call, r);
    r = queue_holds_wait(call->api->options.queue, id, dead, holds, n);
    return r != 0 ? api_queue_fail_wait(call, r) : api_reply_wait(call, 204, NULL, STR(""));
}
