#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "logic/fleet.h"
#include "random.h"

static const FleetRule rule = { .min = 1, .max = 8, .down_every_ms = 10000 };

static void test_table(void **state)
{
    (void)state;
    static const struct {
        int64_t wanted;
        const char *members; /* s, w, d: of this generation; S, W: of an earlier one */
        int64_t start, drain;
    } rows[] = {
        { 0, "", 1, -1 },
        { 5, "", 1, -1 }, /* the least; one is tried first */
        { 5, "w", 1, -1 },
        { 5, "ww", 2, -1 },
        { 5, "www", 2, -1 },
        { 5, "ss", 2, -1 },
        { 99, "wwwwww", 2, -1 },
        { 99, "wwwwwwww", 0, -1 },
        { 3, "www", 0, -1 },
        { 2, "www", 0, 2 },
        { 0, "w", 0, -1 },
        { 0, "wsd", 0, 1 },
        { 3, "wwd", 1, -1 },
        { 2, "wwd", 0, -1 },
        { 2, "WW", 1, -1 },
        { 2, "WWw", 1, -1 }, /* replaced: first the new ones */
        { 2, "WWws", 0, -1 },
        { 2, "WWww", 0, 0 },
        { 2, "dWww", 0, 1 },
        { 1, "Www", 0, 0 }, /* the old one goes first */
        { 8, "dddddddddddddddd", 0, -1 },
        { 8, "WWWWWWWWWWWWWWWW", 0, 0 }, /* replaced twice: there is no room for new ones yet */
    };
    for (size_t i = 0; i < ARRAY_N(rows); i++) {
        FleetMember members[16];
        size_t n = strlen(rows[i].members);
        for (size_t k = 0; k < n; k++) {
            char c = rows[i].members[k];
            members[k] = (FleetMember){
                .state = c == 'd'               ? MEMBER_DRAINING
                         : c == 's' || c == 'S' ? MEMBER_STARTING
                                                : MEMBER_WORKING,
                .generation = c >= 'a' ? 1 : 0,
                .started_ms = (int64_t)k,
            };
        }
        Fleet fleet = { .generation = 1 };
        FleetPlan plan = fleet_plan(&fleet, &rule, members, n, rows[i].wanted, 100000);
        assert_int_equal(plan.start, rows[i].start);
        assert_int_equal(plan.drain, rows[i].drain);
    }
}

static void test_who_has_least_to_do_is_drained(void **state)
{
    (void)state;
    FleetMember members[] = { { .state = MEMBER_WORKING, .started_ms = 1, .running = 3 },
                              { .state = MEMBER_WORKING, .started_ms = 2, .running = 1 },
                              { .state = MEMBER_WORKING, .started_ms = 3, .running = 1 },
                              { .state = MEMBER_WORKING, .started_ms = 4, .running = 2 } };
    Fleet fleet = { 0 };
    assert_int_equal(fleet_plan(&fleet, &rule, members, 4, 3, 100000).drain, 2);
    members[1].running = 0;
    assert_int_equal(fleet_plan(&fleet, &rule, members, 4, 3, 200000).drain, 1);
}

static void test_one_after_another(void **state)
{
    (void)state;
    FleetMember members[4] = { { .state = MEMBER_WORKING },
                               { .state = MEMBER_WORKING },
                               { .state = MEMBER_WORKING },
                               { .state = MEMBER_WORKING } };
    Fleet fleet = { 0 };
    assert_int_equal(fleet_plan(&fleet, &rule, members, 4, 1, 5000).drain, 3);
    members[3].state = MEMBER_DRAINING;
    assert_int_equal(fleet_plan(&fleet, &rule, members, 4, 1, 14999).drain, -1);
    assert_int_equal(fleet_plan(&fleet, &rule, members, 4, 1, 15000).drain, 2);
}

static void test_rests_after_failures(void **state)
{
    (void)state;
    Fleet fleet = { 0 };
    int64_t now_ms = 1000000;
    for (int64_t rest_ms = FLEET_REST_MS; rest_ms < FLEET_REST_MS_MAX; rest_ms *= 2) {
        fleet_failed(&fleet, now_ms);
        assert_int_equal(fleet_plan(&fleet, &rule, NULL, 0, 1, now_ms + rest_ms - 1).start, 0);
        assert_int_equal(fleet_plan(&fleet, &rule, NULL, 0, 1, now_ms + rest_ms).start, 1);
        now_ms += rest_ms;
    }
    fleet_failed(&fleet, now_ms);
    assert_int_equal(fleet.rest_until_ms - now_ms, FLEET_REST_MS_MAX);
    now_ms += FLEET_REST_MS_MAX + FLEET_STABLE_MS;
    fleet_failed(&fleet, now_ms);
    assert_int_equal(fleet.rest_until_ms - now_ms, FLEET_REST_MS);
}

/* Members come up, drain and die as they like: bounds are kept, and what is wanted is reached. */
static void test_walks(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        Random random = { .state = seed };
        FleetMember members[2 * FLEET_MAX];
        size_t n = 0;
        Fleet fleet = { 0 };
        int64_t now_ms = 1000, wanted = 0;
        for (int step = 0; step < 400; step++) {
            bool calm = step >= 250; /* then nothing more is wanted or fails */
            now_ms += calm ? 11000 : random_range(&random, 0, 3000);
            if (!calm && random_range(&random, 0, 9) == 0) wanted = random_range(&random, 0, 20);
            if (!calm && random_range(&random, 0, 39) == 0) fleet_replace(&fleet);
            for (size_t i = 0; i < n; i++) {
                bool dies = !calm && random_range(&random, 0, 49) == 0;
                bool ends = members[i].state == MEMBER_DRAINING && random_range(&random, 0, 3) == 0;
                if (members[i].state == MEMBER_STARTING) members[i].state = MEMBER_WORKING;
                if (dies && members[i].state != MEMBER_DRAINING) fleet_failed(&fleet, now_ms);
                if (dies || ends) members[i--] = members[--n];
            }
            FleetPlan plan = fleet_plan(&fleet, &rule, members, n, wanted, now_ms);
            if (plan.drain >= 0) {
                assert_int_not_equal(members[plan.drain].state, MEMBER_DRAINING);
                members[plan.drain].state = MEMBER_DRAINING;
            }
            for (int64_t i = 0; i < plan.start; i++)
                members[n++] = (FleetMember){ MEMBER_STARTING, fleet.generation, now_ms, 0 };
            assert_true((int64_t)n <= 2 * rule.max);
        }
        int64_t working = 0;
        for (size_t i = 0; i < n; i++) {
            working += members[i].state == MEMBER_WORKING;
            assert_true(members[i].state == MEMBER_DRAINING ||
                        members[i].generation == fleet.generation);
        }
        if (working != MIN(MAX(wanted, rule.min), rule.max))
            print_error("seed %llu\n", (unsigned long long)seed);
        assert_int_equal(working, MIN(MAX(wanted, rule.min), rule.max));
    }
}

/* Only answers that lack a member speak against it. */
static void test_hung(void **state)
{
    (void)state;
    static const FleetRule brisk = { .min = 1, .max = 8, .hung_ms = 1000 };
    FleetMember m = { .state = MEMBER_STARTING, .started_ms = 1 };
    assert_false(fleet_look(&brisk, &m, false, 10));
    assert_false(fleet_look(&brisk, &m, false, 10 + FLEET_START_TIMES * 1000 - 1));
    assert_true(fleet_look(&brisk, &m, false, 10 + FLEET_START_TIMES * 1000));
    assert_false(fleet_look(&brisk, &m, true, 5000));
    assert_int_equal(m.state, MEMBER_WORKING);
    assert_false(fleet_look(&brisk, &m, false, 50000)); /* nobody has looked in between */
    assert_false(fleet_look(&brisk, &m, false, 50999));
    fleet_unseen(&m);
    assert_false(fleet_look(&brisk, &m, false, 60000));
    assert_false(fleet_look(&brisk, &m, true, 60900));
    assert_false(fleet_look(&brisk, &m, false, 61000));
    assert_true(fleet_look(&brisk, &m, false, 62000));
    m = (FleetMember){ .state = MEMBER_DRAINING };
    assert_false(fleet_look(&brisk, &m, true, 1000)); /* however long it drains */
    assert_int_equal(m.state, MEMBER_DRAINING);
    assert_false(fleet_look(&brisk, &m, false, 2000));
    assert_true(fleet_look(&brisk, &m, false, 3000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_who_has_least_to_do_is_drained),
        cmocka_unit_test(test_one_after_another),
        cmocka_unit_test(test_rests_after_failures),
        cmocka_unit_test(test_hung),
        cmocka_unit_test(test_walks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
