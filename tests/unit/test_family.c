#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/family.h"

static const CapLimits limits = {
    .tokens = 1000, .tool_calls = 5, .usd_nusd = 900, .wall_ms = CAP_NONE
};

static void expect(const FamilyAmount *found, int64_t tokens, int64_t nusd, int64_t tool_calls)
{
    assert_int_equal(found->tokens, tokens);
    assert_int_equal(found->nusd, nusd);
    assert_int_equal(found->tool_calls, tool_calls);
}

static void test_what_is_left(void **state)
{
    (void)state;
    CapState s = {
        .settled_tokens = 100, .reserved_tokens = 50, .settled_nusd = 1000, .tool_calls = 2
    };
    FamilyAmount left = family_left(&limits, &s);
    expect(&left, 850, 0, 3);
    CapLimits none = { CAP_NONE, CAP_NONE, CAP_NONE, CAP_NONE };
    left = family_left(&none, &s);
    expect(&left, CAP_NONE, CAP_NONE, CAP_NONE);
}

static void test_allots_what_is_asked_or_half(void **state)
{
    (void)state;
    FamilyAmount left = { 851, 100, 1 }, asked = FAMILY_UNLIMITED, given;
    assert_int_equal(family_allot(&left, &asked, &given), CAP_BY_NOTHING);
    expect(&given, 426, 50, 1);
    asked = (FamilyAmount){ 10, 5000, 0 };
    assert_int_equal(family_allot(&left, &asked, &given), CAP_BY_NOTHING);
    expect(&given, 10, 100, 0);
    left = FAMILY_UNLIMITED;
    assert_int_equal(family_allot(&left, &asked, &given), CAP_BY_NOTHING);
    expect(&given, 10, 5000, 0);
    asked = FAMILY_UNLIMITED;
    assert_int_equal(family_allot(&left, &asked, &given), CAP_BY_NOTHING);
    expect(&given, CAP_NONE, CAP_NONE, CAP_NONE);
    left = (FamilyAmount){ 0, 100, 1 };
    assert_int_equal(family_allot(&left, &asked, &given), CAP_BY_TOKENS);
    left = (FamilyAmount){ 5, 0, 1 };
    assert_int_equal(family_allot(&left, &asked, &given), CAP_BY_USD);
}

static void test_lends_and_takes_back(void **state)
{
    (void)state;
    CapLimits l = limits;
    CapState s = { .settled_tokens = 100, .tool_calls = 1 };
    FamilyAmount lent = { 400, 300, 3 }, spent = { 150, 300, 1 };
    family_lend(&l, &s, &lent);
    FamilyAmount left = family_left(&l, &s);
    expect(&left, 500, 600, 1);
    assert_int_equal(s.in_flight, 1);
    family_return(&l, &s, &lent, &spent);
    left = family_left(&l, &s);
    expect(&left, 750, 600, 3);
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(s.settled_tokens, 250);
    assert_int_equal(s.reserved_tokens, 0);
}

/* A model may ask for more tools at once than are left: that stays on the books. */
static void test_books_more_than_was_lent(void **state)
{
    (void)state;
    CapLimits l = limits;
    CapState s = { 0 };
    FamilyAmount a = { 500, 500, 4 }, b = { 100, 100, 1 }, much = { 600, 500, 9 }, none = { 0 };
    family_lend(&l, &s, &a);
    family_lend(&l, &s, &b);
    family_return(&l, &s, &a, &much);
    family_return(&l, &s, &b, &none);
    FamilyAmount left = family_left(&l, &s);
    expect(&left, 400, 400, 0);
    assert_int_equal(cap_admit_tool(&l, &s, 0).kind, CAP_REFUSE);
}

static void test_charges(void **state)
{
    (void)state;
    FamilyMember m = {
        .open = true, .allotted = { 500, 400, 3 }, .own = { 10, 20, 1 }, .kids = { 5, 6, 1 }
    };
    FamilyAmount charge = family_charge(&m);
    expect(&charge, 500, 400, 3);
    m.open = false;
    charge = family_charge(&m);
    expect(&charge, 15, 26, 2);
}

static void test_bounds(void **state)
{
    (void)state;
    FamilyBounds b = { .depth_max = 2, .children_max = 3, .members_max = 5 };
    assert_int_equal(family_may_grow(&b, 1, 2, 4), FAMILY_MAY_GROW);
    assert_int_equal(family_may_grow(&b, 2, 0, 1), FAMILY_TOO_DEEP);
    assert_int_equal(family_may_grow(&b, 0, 3, 4), FAMILY_TOO_WIDE);
    assert_int_equal(family_may_grow(&b, 0, 0, 5), FAMILY_TOO_LARGE);
}

static void test_a_child_has_its_parents_time(void **state)
{
    (void)state;
    assert_int_equal(family_deadline_ms(0, 0, 1000), 0);
    assert_int_equal(family_deadline_ms(0, 500, 1000), 1500);
    assert_int_equal(family_deadline_ms(1400, 0, 1000), 1400);
    assert_int_equal(family_deadline_ms(1600, 500, 1000), 1500);
    assert_int_equal(family_deadline_ms(1400, 500, 1000), 1400); /* it asked a while ago */
    assert_int_equal(family_deadline_ms(0, INT64_MAX, 1000), INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_left),
        cmocka_unit_test(test_allots_what_is_asked_or_half),
        cmocka_unit_test(test_lends_and_takes_back),
        cmocka_unit_test(test_books_more_than_was_lent),
        cmocka_unit_test(test_charges),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_a_child_has_its_parents_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
