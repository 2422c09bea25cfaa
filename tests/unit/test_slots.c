#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/slots.h"
#include "random.h"

static const LaneConfig usual = { .reserved = { 1, 2, 1 }, .shared = 2 };

static void test_one_claim_covers_all_lanes(void **state)
{
    (void)state;
    Slots slots;
    LaneConfig free_slots, more;
    slots_init(&slots, &usual);
    int claim = slots_promise(&slots, &free_slots);
    assert_true(claim >= 0);
    assert_int_equal(lane_slots(&free_slots), 6);
    assert_int_equal(slots_promise(&slots, &more), -1);
    slots_promise_end(&slots, claim);
    assert_true(slots_promise(&slots, &more) >= 0);
    assert_int_equal(lane_slots(&more), 6);
}

static void test_own_slots_are_taken_before_shared_ones(void **state)
{
    (void)state;
    Slots slots;
    LaneConfig free_slots;
    slots_init(&slots, &usual);
    int claim = slots_promise(&slots, &free_slots);
    for (int i = 0; i < 4; i++) assert_true(slots_take(&slots, claim, LANE_NORMAL));
    assert_false(slots_take(&slots, claim, LANE_NORMAL)); /* others' reserved slots are not lent */
    assert_true(slots_take(&slots, claim, LANE_CRITICAL));
    assert_false(slots_take(&slots, claim, LANE_CRITICAL));
    assert_true(slots_take(&slots, claim, LANE_LOW));
    slots_promise_end(&slots, claim);
    assert_int_equal(slots_running(&slots), 6);
    assert_int_equal(slots_promise(&slots, &free_slots), -1);
}

static void test_a_full_lane_that_frees_up_gets_its_own_claim(void **state)
{
    (void)state;
    Slots slots;
    LaneConfig first, second;
    slots_init(&slots, &usual);
    int a = slots_promise(&slots, &first);
    for (int i = 0; i < 4; i++) assert_true(slots_take(&slots, a, LANE_NORMAL));
    slots_promise_end(&slots, a);

    a = slots_promise(&slots, &first); /* waits for critical and low */
    assert_true(a >= 0);
    assert_int_equal(first.reserved[LANE_NORMAL] + first.shared, 0);
    slots_release(&slots, LANE_NORMAL); /* a shared slot: of use to every lane */
    int b = slots_promise(&slots, &second);
    assert_true(b >= 0 && b != a);
    assert_int_equal(second.shared, 1);
    assert_int_equal(lane_slots(&second), 1);
    assert_true(slots_take(&slots, b, LANE_CRITICAL));
    assert_false(slots_take(&slots, b, LANE_LOW)); /* that slot was promised to the other claim */
    assert_true(slots_take(&slots, a, LANE_LOW));
}

static void test_release_frees_the_shared_slot_first(void **state)
{
    (void)state;
    Slots slots;
    LaneConfig free_slots;
    slots_init(&slots, &usual);
    int claim = slots_promise(&slots, &free_slots);
    for (int i = 0; i < 3; i++) assert_true(slots_take(&slots, claim, LANE_NORMAL));
    slots_promise_end(&slots, claim);
    slots_release(&slots, LANE_NORMAL);
    assert_int_equal(slots.free.shared, 2);
    assert_int_equal(slots.free.reserved[LANE_NORMAL], 0);
    slots_release(&slots, LANE_NORMAL);
    assert_int_equal(slots.free.reserved[LANE_NORMAL], 1);
}

/* Random life: never more running than slots, and no free slot that a lane could use is left
 * without a claim. The invariant itself is asserted by slots.c. */
static void test_random_life(void **state)
{
    (void)state;
    Random random = { 7 };
    for (int round = 0; round < 200; round++) {
        LaneConfig config = { .reserved = { random_range(&random, 0, 3),
                                            random_range(&random, 0, 3),
                                            random_range(&random, 0, 3) },
                              .shared = random_range(&random, 1, 3) };
        Slots slots;
        bool open[SLOTS_CLAIMS_MAX] = { false };
        int suspended[LANE_N_] = { 0 };
        slots_init(&slots, &config);
        for (int step = 0; step < 200; step++) {
            LaneConfig got;
            Lane lane = (Lane)random_range(&random, 0, LANE_N_ - 1);
            int i = (int)random_range(&random, 0, SLOTS_CLAIMS_MAX - 1);
            switch (random_range(&random, 0, 5)) {
            case 0:
                if ((i = slots_promise(&slots, &got)) >= 0) open[i] = true;
                break;
            case 1:
                if (open[i] && !slots_take(&slots, i, lane))
                    assert_int_equal(slots.promised[i].shared + slots.promised[i].reserved[lane],
                                     0);
                break;
            case 2:
                if (open[i]) slots_promise_end(&slots, i);
                open[i] = false;
                break;
            case 3:
                if (slots.running[lane] && suspended[lane] < 5) {
                    slots_suspend(&slots, lane);
                    suspended[lane]++;
                }
                break;
            case 4:
                if (suspended[lane]) {
                    slots_resume(&slots, lane);
                    suspended[lane]--;
                }
                break;
            default:
                if (slots.running[lane]) slots_release(&slots, lane);
            }
            for (int l = 0; l < LANE_N_; l++)
                assert_true(slots.running[l] - slots.over[l] <= config.reserved[l] + config.shared);
            assert_true(slots_running(&slots) <= lane_slots(&config) + slots_beyond(&slots));
            assert_true(slots_beyond(&slots) <= 15);
        }
    }
}

/* Who waits for others gives its slot to one of them, even if it is the only one. */
static void test_a_suspended_task_frees_its_slot(void **state)
{
    (void)state;
    Slots slots;
    LaneConfig one = { .shared = 1 }, free_slots;
    slots_init(&slots, &one);
    int claim = slots_promise(&slots, &free_slots);
    assert_true(slots_take(&slots, claim, LANE_LOW));
    slots_promise_end(&slots, claim);
    assert_int_equal(slots_promise(&slots, &free_slots), -1);
    slots_suspend(&slots, LANE_LOW);
    assert_int_equal(slots_running(&slots), 0);
    assert_int_equal(slots_beyond(&slots), 1);
    claim = slots_promise(&slots, &free_slots);
    assert_true(slots_take(&slots, claim, LANE_LOW));
    slots_promise_end(&slots, claim);
    slots_release(&slots, LANE_LOW);
    slots_resume(&slots, LANE_LOW);
    assert_int_equal(slots_beyond(&slots), 0);
    assert_int_equal(slots_promise(&slots, &free_slots), -1);
}

/* Who goes on does not wait for a slot; the next that comes free is its own. */
static void test_who_goes_on_has_the_next_slot(void **state)
{
    (void)state;
    Slots slots;
    LaneConfig one = { .reserved = { 0, 1, 0 }, .shared = 1 }, free_slots;
    slots_init(&slots, &one);
    int claim = slots_promise(&slots, &free_slots);
    assert_true(slots_take(&slots, claim, LANE_NORMAL));
    assert_true(slots_take(&slots, claim, LANE_LOW));
    slots_suspend(&slots, LANE_LOW);
    slots_promise_end(&slots, claim);
    claim = slots_promise(&slots, &free_slots);
    assert_true(slots_take(&slots, claim, LANE_NORMAL)); /* into the shared slot */
    slots_promise_end(&slots, claim);
    slots_resume(&slots, LANE_LOW);
    assert_int_equal(slots_running(&slots), 3);
    assert_int_equal(slots_beyond(&slots), 1);
    slots_release(&slots, LANE_NORMAL);
    assert_int_equal(slots_beyond(&slots), 0);
    assert_int_equal(slots_promise(&slots, &free_slots), -1);
    /* a claim that brings nothing gives its slots to who has none */
    slots_release(&slots, LANE_NORMAL);
    claim = slots_promise(&slots, &free_slots);
    assert_true(claim >= 0);
    slots_suspend(&slots, LANE_LOW);
    int other = slots_promise(&slots, &free_slots);
    slots_resume(&slots, LANE_LOW);
    assert_int_equal(slots_beyond(&slots), 1);
    slots_promise_end(&slots, other >= 0 ? other : claim);
    assert_int_equal(slots_beyond(&slots), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_claim_covers_all_lanes),
        cmocka_unit_test(test_own_slots_are_taken_before_shared_ones),
        cmocka_unit_test(test_a_full_lane_that_frees_up_gets_its_own_claim),
        cmocka_unit_test(test_release_frees_the_shared_slot_first),
        cmocka_unit_test(test_a_suspended_task_frees_its_slot),
        cmocka_unit_test(test_who_goes_on_has_the_next_slot),
        cmocka_unit_test(test_random_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
