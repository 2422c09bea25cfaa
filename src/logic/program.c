#include "logic/program.h"

typedef struct {
    bool known;
    ProgramState next;
    ProgramAction action;
} Row;

#define GOES(next, action)                        \
    {                                             \
        true, PROGRAM_##next, PROGRAM_DO_##action \
    }

/* What is not here means nothing. */
static const Row rows[PROGRAM_STATE_N_][PROGRAM_EVENT_N_] = {
    [PROGRAM_NEW] = { [PROGRAM_ON_STARTED] = GOES(RUNNING, NOTHING),
                      [PROGRAM_ON_FAILED] = GOES(DONE, NOTHING) },
    [PROGRAM_RUNNING] = { [PROGRAM_ON_EXIT] = GOES(READING, NOTHING),
                          [PROGRAM_ON_LATE] = GOES(ASKED, ASK),
                          [PROGRAM_ON_STOP] = GOES(ASKED, ASK),
                          [PROGRAM_ON_STOP_NOW] = GOES(KILLED, KILL),
                          [PROGRAM_ON_FLOOD] = GOES(KILLED, KILL) },
    [PROGRAM_ASKED] = { [PROGRAM_ON_EXIT] = GOES(CUT, SWEEP),
                        [PROGRAM_ON_LATE] = GOES(KILLED, KILL),
                        [PROGRAM_ON_STOP_NOW] = GOES(KILLED, KILL),
                        [PROGRAM_ON_FLOOD] = GOES(KILLED, KILL) },
    [PROGRAM_KILLED] = { [PROGRAM_ON_EXIT] = GOES(CUT, SWEEP),
                         [PROGRAM_ON_LATE] = GOES(CUT, ABANDON) },
    [PROGRAM_READING] = { [PROGRAM_ON_READ] = GOES(SWEEPING, SWEEP),
                          [PROGRAM_ON_LATE] = GOES(SWEEPING, SWEEP) },
    [PROGRAM_SWEEPING] = { [PROGRAM_ON_SWEPT] = GOES(DONE, NOTHING) },
    [PROGRAM_CUT] = { [PROGRAM_ON_SWEPT] = GOES(EMPTYING, NOTHING) },
    [PROGRAM_EMPTYING] = { [PROGRAM_ON_READ] = GOES(DONE, NOTHING),
                           [PROGRAM_ON_LATE] = GOES(DONE, NOTHING) },
};

ProgramAction program_step(Program *program, ProgramEvent event)
{
    assert(program->state < PROGRAM_STATE_N_ && event < PROGRAM_EVENT_N_);
    const Row *row = &rows[program->state][event];
    if (!row->known) return PROGRAM_DO_NOTHING;
    program->state = row->next;
    return row->action;
}

bool program_lives(const Program *program)
{
    return program->state == PROGRAM_RUNNING || program->state == PROGRAM_ASKED ||
           program->state == PROGRAM_KILLED;
}
