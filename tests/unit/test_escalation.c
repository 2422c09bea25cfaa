#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/escalation.h"

static void test_its_time_is_over(void **state)
{
    (void)state;
    assert_int_equal(escalation_overtime(TASK_ESCALATED, true), ESCALATION_DEFAULTED);
    assert_int_equal(escalation_overtime(TASK_ESCALATED, false), ESCALATION_EXPIRED);
    assert_int_equal(escalation_overtime(TASK_RUNNING, true), ESCALATION_DEFAULTED);
    assert_int_equal(escalation_overtime(TASK_QUEUED, false), ESCALATION_EXPIRED);
    assert_int_equal(escalation_overtime(TASK_CANCELED, true), ESCALATION_CLOSED);
}

static void test_what_follows(void **state)
{
    (void)state;
    assert_int_equal(escalation_effect(TASK_ESCALATED, ESCALATION_ANSWERED), ESCALATION_RESUMES);
    assert_int_equal(escalation_effect(TASK_ESCALATED, ESCALATION_DEFAULTED), ESCALATION_RESUMES);
    assert_int_equal(escalation_effect(TASK_ESCALATED, ESCALATION_EXPIRED), ESCALATION_FAILS);
    assert_int_equal(escalation_effect(TASK_ESCALATED, ESCALATION_CLOSED),
                     ESCALATION_CHANGES_NOTHING);
    assert_int_equal(escalation_effect(TASK_RUNNING, ESCALATION_ANSWERED),
                     ESCALATION_CHANGES_NOTHING); /* its attempt is about to ask */
    assert_int_equal(escalation_effect(TASK_FAILED, ESCALATION_CLOSED), ESCALATION_CHANGES_NOTHING);
}

/* An attempt that ends to wait does not wait for what is settled already. */
static void test_at_rest(void **state)
{
    (void)state;
    EscalationState answered = ESCALATION_ANSWERED, expired = ESCALATION_EXPIRED;
    EscalationState pending = ESCALATION_PENDING;
    assert_int_equal(escalation_at_rest(&pending, true), ESCALATION_CHANGES_NOTHING);
    assert_int_equal(escalation_at_rest(&answered, true), ESCALATION_CHANGES_NOTHING);
    assert_int_equal(escalation_at_rest(&answered, false), ESCALATION_RESUMES);
    assert_int_equal(escalation_at_rest(&expired, false), ESCALATION_FAILS);
    assert_int_equal(escalation_at_rest(NULL, false), ESCALATION_CHANGES_NOTHING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_its_time_is_over),
        cmocka_unit_test(test_what_follows),
        cmocka_unit_test(test_at_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
