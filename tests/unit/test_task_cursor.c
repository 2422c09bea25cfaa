/* Ids of a task's events: what is written is read back, and nothing else is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "logic/task_cursor.h"

static void test_written(void **state)
{
    (void)state;
    char text[TASK_CURSOR_TEXT_SIZE];
    TaskCursor c = { 0 }, got;
    assert_string_equal(task_cursor_text(&c, text), "");
    assert_int_equal(task_cursor_parse(STR(""), &got), 0);
    assert_memory_equal(&c, &got, sizeof c);
    str_copy(c.state, sizeof c.state, STR("1-timed_out-cancel"));
    assert_string_equal(task_cursor_text(&c, text), "1-timed_out-cancel");
    c.at[TASK_CURSOR_BEGUN] = 1;
    c.at[TASK_CURSOR_LINE] = 12;
    assert_string_equal(task_cursor_text(&c, text), "1-timed_out-cancel.b1n12");
    assert_int_equal(task_cursor_parse(str_of(text), &got), 0);
    assert_memory_equal(&c, &got, sizeof c);
    for (size_t i = 0; i < TASK_CURSOR_N_; i++) c.at[i] = INT64_MAX - (int64_t)i;
    memset(c.state, 'x', sizeof c.state - 1); /* the longest there is */
    task_cursor_text(&c, text);
    assert_int_equal(task_cursor_parse(str_of(text), &got), 0);
    assert_memory_equal(&c, &got, sizeof c);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        ".",
        "1-running.",
        "1-running.b",
        "1-running.b0",
        "1-running.b01",
        "b1 ",
        "é",
        "1-running.n1b1",
        "1-running.b1b1",
        "1-running.b-1",
        "a.z1",
        "a.b1.c1",
        "a.b99999999999999999999",
        "A",
        "a\n",
        "a.b1 ",
        "1234567890123456789012345678901234567890",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TaskCursor zero = { 0 }, got;
        memset(&got, 7, sizeof got);
        if (task_cursor_parse(str_of(bad[i]), &got) != -EINVAL) fail_msg("%s", bad[i]);
        assert_memory_equal(&zero, &got, sizeof got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("task_cursor", tests, NULL, NULL);
}
