#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec/hash.h"
#include "logic/route.h"
#include "vectors.h"

static void test_buckets(void **state)
{
    (void)state;
    for (JsonIter it = json_iter(vectors("bucketing", "own", "vectors")); json_next(&it);) {
        Str salt = STR("rollout-1"), unit = json_str(json_get(it.value, "unit"));
        assert_int_equal(hash_murmur3_32_pair(salt, unit, 0),
                         strtoull(json_str(json_get(it.value, "h")).ptr, NULL, 16));
        assert_int_equal(route_bucket(salt, unit), json_i64_or(json_get(it.value, "bucket"), -1));
    }
    for (JsonIter it = json_iter(vectors("bucketing", "ownOtherSalt", "vectors")); json_next(&it);)
        assert_int_equal(route_bucket(json_str(json_get(it.value, "salt")),
                                      json_str(json_get(it.value, "unit"))),
                         json_i64_or(json_get(it.value, "bucket"), -1));
}

static RouteDecision fresh(const char *salt, int32_t weight_bp, const char *unit)
{
    RouteRule rule = { .salt = str_of(salt), .weight_bp = weight_bp };
    return route_decide(&rule, UNIT_SESSION, str_of(unit), &(RouteBefore){ 0 });
}

/* The share of a weight, and that raising it only adds units. */
static void test_shares_and_nesting(void **state)
{
    (void)state;
    static bool in[100000];
    for (JsonIter it = json_iter(vectors("bucketing", "ownShare", "vectors")); json_next(&it);) {
        int32_t weight = (int32_t)json_i64_or(json_get(it.value, "weightBp"), 0);
        int64_t canaries = 0;
        for (int i = 0; i < 100000; i++) {
            char unit[32];
            snprintf(unit, sizeof(unit), "session-%d", i);
            bool canary = fresh("rollout-1", weight, unit).arm == ARM_CANARY;
            assert_true(canary || !in[i]);
            in[i] = canary;
            canaries += canary;
        }
        assert_int_equal(canaries, json_i64_or(json_get(it.value, "canary"), -1));
    }
}

static void test_ends_of_the_scale(void **state)
{
    (void)state;
    for (int i = 0; i < 2000; i++) {
        char unit[32];
        snprintf(unit, sizeof(unit), "u%d", i);
        RouteDecision none = fresh("r", 0, unit), all = fresh("r", ROUTE_BUCKETS, unit);
        assert_int_equal(none.arm, ARM_CONTROL);
        assert_int_equal(all.arm, ARM_CANARY);
        assert_false(none.counts || all.counts); /* there is nobody to compare with */
    }
}

static void test_units(void **state)
{
    (void)state;
    RouteUnit kind;
    char text[ROUTE_UNIT_MAX];
    RouteWho who = { .session = STR("s"), .user = STR("u"), .tenant = STR("t"), .task = STR("k") };
    assert_true(str_eq(route_unit(&who, ROUTE_BY_SESSION, &kind, text), STR("t\ns")) &&
                kind == UNIT_SESSION);
    assert_true(str_eq(route_unit(&who, ROUTE_BY_TENANT, &kind, text), STR("t")) &&
                kind == UNIT_TENANT);
    assert_true(str_eq(route_unit(&who, ROUTE_BY_USER, &kind, text), STR("t\nu")) &&
                kind == UNIT_USER);
    assert_true(str_eq(route_unit(&who, ROUTE_BY_TASK, &kind, text), STR("k")) &&
                kind == UNIT_TASK);
    who.session = STR_NULL;
    assert_true(str_eq(route_unit(&who, ROUTE_BY_SESSION, &kind, text), STR("t\nu")) &&
                kind == UNIT_USER);
    who.user = STR_NULL;
    assert_true(str_eq(route_unit(&who, ROUTE_BY_SESSION, &kind, text), STR("k")) &&
                kind == UNIT_TASK);
    who.tenant = STR_NULL; /* asked for, but there is none */
    assert_true(str_eq(route_unit(&who, ROUTE_BY_TENANT, &kind, text), STR("k")) &&
                kind == UNIT_TASK);
}

/* session-2 lies in bucket 1295 of rollout-1. */
static void test_what_was_given_stays(void **state)
{
    (void)state;
    RouteRule rule = { .salt = STR("rollout-1"), .weight_bp = 500 };
    Str unit = STR("session-2");
    RouteDecision d = route_decide(&rule, UNIT_SESSION, unit, &(RouteBefore){ 0 });
    assert_true(d.arm == ARM_CONTROL && d.counts && d.persist);
    assert_near(d.pi, 0.05, 0);

    rule.weight_bp = 2500; /* a ramp passes its bucket: a session stays, a user moves */
    RouteBefore control = { .known = true, .arm = ARM_CONTROL, .pi = 0.05 };
    d = route_decide(&rule, UNIT_SESSION, unit, &control);
    assert_true(d.arm == ARM_CONTROL && !d.counts && !d.persist);
    d = route_decide(&rule, UNIT_USER, unit, &control);
    assert_true(d.arm == ARM_CANARY && !d.counts && d.persist);

    RouteBefore live = { .live = true }; /* was in the middle of something when it was first seen */
    d = route_decide(&rule, UNIT_SESSION, unit, &live);
    assert_true(d.arm == ARM_CONTROL && !d.counts && d.persist);
    rule.weight_bp = ROUTE_BUCKETS;
    d = route_decide(&rule, UNIT_SESSION, unit, &live);
    assert_true(d.arm == ARM_CANARY && !d.counts && d.persist);

    rule.weight_bp = 100; /* lowered below its bucket: nobody flips back */
    RouteBefore canary = { .known = true, .arm = ARM_CANARY, .pi = 0.25 };
    for (RouteUnit kind = UNIT_SESSION; kind <= UNIT_TASK; kind++) {
        d = route_decide(&rule, kind, unit, &canary);
        assert_true(d.arm == ARM_CANARY && !d.counts && !d.persist);
    }
    rule.rolled_back = true; /* this they do */
    rule.weight_bp = 0;
    for (RouteUnit kind = UNIT_SESSION; kind <= UNIT_TASK; kind++) {
        d = route_decide(&rule, kind, unit, &canary);
        assert_true(d.arm == ARM_CONTROL && !d.counts && !d.persist);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets),
        cmocka_unit_test(test_shares_and_nesting),
        cmocka_unit_test(test_ends_of_the_scale),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_what_was_given_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
