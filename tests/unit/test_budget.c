#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/budget.h"

static void test_scope_texts(void **state)
{
    (void)state;
    static const char *const good[] = { "day",
                                        "month",
                                        "day-tokens",
                                        "agent:support:day",
                                        "tenant:acme:month",
                                        "user:*:day-tokens",
                                        "user:a:b:c:month-tokens",
                                        "user:day:day" };
    static const char *const bad[] = { "",        "days",        "agent:day",  "agent::day",
                                       ":day",    "day:day",     "team:a:day", "agent:a:",
                                       "agent:a", "user:x:week", "agent" };
    char text[BUDGET_SCOPE_TEXT_MAX], long_text[BUDGET_KEY_BYTES_MAX + 20];
    BudgetScope scope;
    for (size_t i = 0; i < ARRAY_N(good); i++) {
        assert_int_equal(budget_scope_from(str_of(good[i]), &scope), 0);
        assert_string_equal(budget_scope_text(&scope, text), good[i]);
    }
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(budget_scope_from(str_of(bad[i]), &scope), -EINVAL);
    for (size_t over = 0; over < 2; over++) {
        size_t n = BUDGET_KEY_BYTES_MAX + over;
        memcpy(long_text, "user:", 5);
        memset(long_text + 5, 'k', n);
        memcpy(long_text + 5 + n, ":day", 4);
        assert_int_equal(budget_scope_from(str_make(long_text, n + 9), &scope), over ? -EINVAL : 0);
    }
}

static void test_rules_of_an_owner(void **state)
{
    (void)state;
    const BudgetRule rules[] = {
        { { BUDGET_ALL, BUDGET_DAY, BUDGET_USD, STR_NULL }, 50 },
        { { BUDGET_AGENT, BUDGET_DAY, BUDGET_USD, STR("*") }, 10 },
        { { BUDGET_AGENT, BUDGET_DAY, BUDGET_USD, STR("support") }, 20 },
        { { BUDGET_TENANT, BUDGET_MONTH, BUDGET_USD, STR("acme") }, 30 },
        { { BUDGET_USER, BUDGET_DAY, BUDGET_TOKENS, STR("*") }, 40 },
    };
    for (size_t i = 1; i < ARRAY_N(rules); i++)
        assert_true(budget_scope_cmp(&rules[i - 1].scope, &rules[i].scope) < 0);
    BudgetRule got[BUDGET_SCOPES_MAX];
    BudgetOwner all = { STR("support"), STR("acme"), STR("u1") };
    assert_int_equal(budget_rules_of(rules, ARRAY_N(rules), &all, got), 4);
    assert_int_equal(got[0].limit, 50);
    assert_int_equal(got[1].limit, 20);
    assert_int_equal(got[2].limit, 30);
    assert_int_equal(got[3].limit, 40);
    assert_true(str_eq(got[3].scope.key, STR("u1")));
    BudgetOwner other = { .agent = STR("sales") };
    assert_int_equal(budget_rules_of(rules, ARRAY_N(rules), &other, got), 2);
    assert_int_equal(got[1].limit, 10);
    assert_true(str_eq(got[1].scope.key, STR("sales")));
    assert_int_equal(budget_rules_of(NULL, 0, &all, got), 0);
}

static BudgetNeed needs(int64_t min, int64_t good, int64_t want)
{
    return (
        BudgetNeed){ .min = { .nusd = min }, .good = { .nusd = good }, .want = { .nusd = want } };
}

static BudgetVerdict decide(BudgetAccount a, BudgetNeed need, int64_t *ret_grant)
{
    size_t by = 0;
    return budget_decide(&a, 1, &need, ret_grant, &by);
}

static void test_grants_exactly_when_tight(void **state)
{
    (void)state;
    int64_t grant;
    BudgetAccount a = { .limit = 137, .settled = 130, .leased = 6 };
    assert_int_equal(decide(a, needs(1, 1, 1), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 1);
    a.leased = 7;
    assert_int_equal(decide(a, needs(1, 1, 1), &grant), BUDGET_WAIT);
    a.settled = 137;
    a.leased = 0;
    assert_int_equal(decide(a, needs(1, 1, 1), &grant), BUDGET_EXHAUSTED);
    /* a limit that was lowered below what is set aside */
    a = (BudgetAccount){ .limit = 10, .settled = 5, .leased = 90 };
    assert_int_equal(decide(a, needs(1, 1, 1), &grant), BUDGET_WAIT);
    a.limit = 0;
    assert_int_equal(decide(a, needs(0, 0, 0), &grant), BUDGET_EXHAUSTED);
}

static void test_looks_ahead_while_plenty_is_left(void **state)
{
    (void)state;
    int64_t grant;
    BudgetAccount a = { .limit = 1000000 };
    assert_int_equal(decide(a, needs(7, 7, 7), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 7 + 64 * 7);
    a.limit = 160;
    assert_int_equal(decide(a, needs(7, 7, 7), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 14); /* whole calls only */
    a.limit = 110;
    assert_int_equal(decide(a, needs(7, 7, 7), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 7);
}

static void test_less_than_wanted(void **state)
{
    (void)state;
    int64_t grant;
    BudgetAccount a = { .limit = 100, .settled = 20, .leased = 30 };
    assert_int_equal(decide(a, needs(10, 50, 80), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 50); /* good enough */
    assert_int_equal(decide(a, needs(10, 51, 80), &grant), BUDGET_WAIT);
    a.settled = 50;
    a.leased = 0; /* there will not be more */
    assert_int_equal(decide(a, needs(10, 51, 80), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 50);
    assert_int_equal(decide(a, needs(51, 60, 80), &grant), BUDGET_EXHAUSTED);
}

static void test_those_ahead_and_the_unseen(void **state)
{
    (void)state;
    int64_t grant;
    BudgetAccount a = { .limit = 100, .settled = 20, .ahead = 60 };
    assert_int_equal(decide(a, needs(10, 10, 10), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 10);
    assert_int_equal(decide(a, needs(10, 30, 30), &grant), BUDGET_WAIT);
    /* the answer with its 80 was lost: it is not kept from having them by itself */
    a = (BudgetAccount){ .limit = 100, .settled = 20, .leased = 80, .unseen = 80 };
    assert_int_equal(decide(a, needs(10, 70, 80), &grant), BUDGET_GRANT);
    assert_int_equal(grant, 0);
}

static void test_all_or_nothing(void **state)
{
    (void)state;
    BudgetAccount accounts[2] = { { .limit = 100 },
                                  { .unit = BUDGET_TOKENS, .limit = 100, .leased = 95 } };
    BudgetNeed need = { .min = { 10, 10 }, .good = { 10, 10 }, .want = { 10, 10 } };
    int64_t grants[2];
    size_t by = 9;
    assert_int_equal(budget_decide(accounts, 2, &need, grants, &by), BUDGET_WAIT);
    assert_int_equal(by, 1);
    accounts[0].settled = 91;
    assert_int_equal(budget_decide(accounts, 2, &need, grants, &by), BUDGET_EXHAUSTED);
    assert_int_equal(by, 0);
}

static void test_turns(void **state)
{
    (void)state;
    assert_true(budget_turn_ms(LANE_CRITICAL, 10000) < budget_turn_ms(LANE_NORMAL, 0));
    assert_true(budget_turn_ms(LANE_NORMAL, 0) < budget_turn_ms(LANE_CRITICAL, 20000)); /* ages */
    assert_true(budget_turn_ms(LANE_LOW, 0) < budget_turn_ms(LANE_CRITICAL, 60001));
}

static void test_purse(void **state)
{
    (void)state;
    BudgetPurse money = { .unit = BUDGET_USD }, tokens = { .unit = BUDGET_TOKENS };
    BudgetPurse *both[] = { &money, &tokens };
    CapHold hold = { 30, 300 }, used = { 10, 100 }, dear = { 90, 900 };
    assert_false(budget_reserve(both, 2, &hold));
    budget_hear(&money, 1000, 5000, 1000);
    budget_hear(&tokens, 50, 100, 0);
    assert_true(budget_reserve(both, 2, &hold));
    assert_int_equal(budget_room(both, 2).tokens, 20);
    assert_int_equal(budget_room(both, 2).nusd, 700);
    assert_int_equal(budget_room(both, 1).tokens, CAP_NONE);
    assert_false(budget_reserve(both, 2, &hold));
    budget_settle(both, 2, &hold, &used);
    assert_int_equal(budget_free(&money), 900);
    assert_int_equal(budget_give_back(&money), 900);
    assert_int_equal(budget_give_back(&money), 0);
    budget_hear(&money, 900, 5000, 1000); /* an old answer */
    assert_int_equal(money.slice.granted, 1000);
    assert_int_equal(budget_settled_ppm(both, 2), 200000);
    /* what cost more than was held stays booked, and leaves nothing to give back */
    assert_true(budget_reserve(both, 1, &(CapHold){ 0, 0 }));
    budget_settle(both, 1, &(CapHold){ 0, 0 }, &dear);
    assert_int_equal(budget_free(&money), -900);
    assert_int_equal(budget_give_back(&money), 0);
    assert_int_equal(budget_room(both, 1).nusd, 0);
    assert_int_equal(budget_outstanding(&money.slice), 0);
}

static void test_try(void **state)
{
    (void)state;
    BudgetPurse money = { .unit = BUDGET_USD };
    BudgetPurse *one[] = { &money };
    BudgetNeed need = needs(10, 50, 80);
    CapHold room;
    size_t by;
    assert_int_equal(budget_try(one, 1, &need, BUDGET_WAIT, &room, &by), BUDGET_WAIT);
    budget_hear(&money, 20, 100, 0);
    assert_int_equal(budget_try(one, 1, &need, BUDGET_WAIT, &room, &by), BUDGET_WAIT);
    assert_int_equal(budget_try(one, 1, &need, BUDGET_GRANT, &room, &by), BUDGET_GRANT);
    assert_int_equal(room.nusd, 20);
    assert_int_equal(budget_try(one, 1, &need, BUDGET_EXHAUSTED, &room, &by), BUDGET_WAIT);
    budget_hear(&money, 20, 100, 91);
    assert_int_equal(budget_try(one, 1, &need, BUDGET_EXHAUSTED, &room, &by), BUDGET_EXHAUSTED);
    assert_int_equal(budget_try(one, 0, &need, BUDGET_WAIT, &room, &by), BUDGET_GRANT);
    assert_int_equal(room.nusd, CAP_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scope_texts),
        cmocka_unit_test(test_rules_of_an_owner),
        cmocka_unit_test(test_grants_exactly_when_tight),
        cmocka_unit_test(test_looks_ahead_while_plenty_is_left),
        cmocka_unit_test(test_less_than_wanted),
        cmocka_unit_test(test_those_ahead_and_the_unseen),
        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_purse),
        cmocka_unit_test(test_try),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
