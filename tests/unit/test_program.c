#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "logic/program.h"
#include "random.h"

typedef struct {
    ProgramState from;
    ProgramEvent event;
    ProgramState to;
    ProgramAction action;
} Cell;

static const Cell cells[] = {
    { PROGRAM_NEW, PROGRAM_ON_STARTED, PROGRAM_RUNNING, PROGRAM_DO_NOTHING },
    { PROGRAM_NEW, PROGRAM_ON_FAILED, PROGRAM_DONE, PROGRAM_DO_NOTHING },
    { PROGRAM_RUNNING, PROGRAM_ON_EXIT, PROGRAM_READING, PROGRAM_DO_NOTHING },
    { PROGRAM_RUNNING, PROGRAM_ON_LATE, PROGRAM_ASKED, PROGRAM_DO_ASK },
    { PROGRAM_RUNNING, PROGRAM_ON_STOP, PROGRAM_ASKED, PROGRAM_DO_ASK },
    { PROGRAM_RUNNING, PROGRAM_ON_STOP_NOW, PROGRAM_KILLED, PROGRAM_DO_KILL },
    { PROGRAM_RUNNING, PROGRAM_ON_FLOOD, PROGRAM_KILLED, PROGRAM_DO_KILL },
    { PROGRAM_ASKED, PROGRAM_ON_EXIT, PROGRAM_CUT, PROGRAM_DO_SWEEP },
    { PROGRAM_ASKED, PROGRAM_ON_LATE, PROGRAM_KILLED, PROGRAM_DO_KILL },
    { PROGRAM_ASKED, PROGRAM_ON_STOP_NOW, PROGRAM_KILLED, PROGRAM_DO_KILL },
    { PROGRAM_ASKED, PROGRAM_ON_FLOOD, PROGRAM_KILLED, PROGRAM_DO_KILL },
    { PROGRAM_KILLED, PROGRAM_ON_EXIT, PROGRAM_CUT, PROGRAM_DO_SWEEP },
    { PROGRAM_KILLED, PROGRAM_ON_LATE, PROGRAM_CUT, PROGRAM_DO_ABANDON },
    { PROGRAM_READING, PROGRAM_ON_READ, PROGRAM_SWEEPING, PROGRAM_DO_SWEEP },
    { PROGRAM_READING, PROGRAM_ON_LATE, PROGRAM_SWEEPING, PROGRAM_DO_SWEEP },
    { PROGRAM_SWEEPING, PROGRAM_ON_SWEPT, PROGRAM_DONE, PROGRAM_DO_NOTHING },
    { PROGRAM_CUT, PROGRAM_ON_SWEPT, PROGRAM_EMPTYING, PROGRAM_DO_NOTHING },
    { PROGRAM_EMPTYING, PROGRAM_ON_READ, PROGRAM_DONE, PROGRAM_DO_NOTHING },
    { PROGRAM_EMPTYING, PROGRAM_ON_LATE, PROGRAM_DONE, PROGRAM_DO_NOTHING },
};

/* Every state and every event. Where nothing is given, nothing may happen. */
static void test_table(void **state)
{
    (void)state;
    for (int from = 0; from < PROGRAM_STATE_N_; from++)
        for (int event = 0; event < PROGRAM_EVENT_N_; event++) {
            Program program = { .state = (ProgramState)from };
            Cell expected = { .to = (ProgramState)from, .action = PROGRAM_DO_NOTHING };
            for (size_t i = 0; i < ARRAY_N(cells); i++)
                if ((int)cells[i].from == from && (int)cells[i].event == event) expected = cells[i];
            assert_int_equal(program_step(&program, (ProgramEvent)event), expected.action);
            assert_int_equal(program.state, expected.to);
        }
}

/* Time alone ends every program, wherever it is, and what it has left with it. */
static void test_time_ends_it(void **state)
{
    (void)state;
    Program program = { .state = PROGRAM_NEW };
    assert_int_equal(program_step(&program, PROGRAM_ON_STARTED), PROGRAM_DO_NOTHING);
    assert_int_equal(program_step(&program, PROGRAM_ON_LATE), PROGRAM_DO_ASK);
    assert_int_equal(program_step(&program, PROGRAM_ON_LATE), PROGRAM_DO_KILL);
    assert_true(program_lives(&program));
    assert_int_equal(program_step(&program, PROGRAM_ON_LATE), PROGRAM_DO_ABANDON);
    assert_false(program_lives(&program));
    assert_int_equal(program_step(&program, PROGRAM_ON_SWEPT), PROGRAM_DO_NOTHING);
    assert_int_equal(program_step(&program, PROGRAM_ON_LATE), PROGRAM_DO_NOTHING);
    assert_int_equal(program.state, PROGRAM_DONE);
}

/* Whatever happens: it is asked and killed only while it lives, asked once, swept exactly once and
 * only when it lives no more, and never lives again. */
static void test_walks(void **state)
{
    (void)state;
    Random random = { .state = 1 };
    for (int walk = 0; walk < 5000; walk++) {
        Program program = { .state = PROGRAM_NEW };
        int asked = 0, killed = 0, swept = 0;
        bool lived = false;
        for (int step = 0; step < 40; step++) {
            bool lives = program_lives(&program);
            ProgramEvent event = (ProgramEvent)random_range(&random, 0, PROGRAM_EVENT_N_ - 1);
            ProgramAction action = program_step(&program, event);
            bool sweeps = action == PROGRAM_DO_SWEEP || action == PROGRAM_DO_ABANDON;
            asked += action == PROGRAM_DO_ASK;
            killed += action == PROGRAM_DO_KILL;
            swept += sweeps;
            assert_true(lives || (action != PROGRAM_DO_ASK && action != PROGRAM_DO_KILL));
            assert_true(!sweeps || !program_lives(&program));
            assert_true(!program_lives(&program) || !lived || lives);
            lived |= program_lives(&program);
        }
        assert_true(asked <= 1 && killed <= 1 && swept <= 1);
        assert_true(program.state != PROGRAM_DONE || swept == lived);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_time_ends_it),
        cmocka_unit_test(test_walks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
