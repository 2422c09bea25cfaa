/* Program: the life of a program that is run to its end, as one transition table: an agent's
 * process, a tool's.
 *
 *   new ──started──> running ──exit──> reading ──read──> sweeping ──swept──> done
 *    │                  │ stop, late                                          ^
 *    │ failed           v                                                     │
 *    │                asked ──exit──> cut ──swept──> emptying ──read──────────┤
 *    │                  │ late         ^                                      │
 *    │                  v              │                                      │
 *    │                killed ──exit────┘                                      │
 *    └────────────────────────────────────────────────────────────────────────┘
 *
 * Each state has a time of its own after which it is late; whoever runs the program keeps it. One
 * that ends by itself is read first, for what it left may write its last words; of one that is made
 * to end nobody wants to hear anything but what stands in its pipes. Pure. Starts zeroed.
 */
#ifndef GANTRY_LOGIC_PROGRAM_H
#define GANTRY_LOGIC_PROGRAM_H

#include "base/common.h"

typedef enum {
    PROGRAM_NEW,
    PROGRAM_RUNNING,
    PROGRAM_ASKED,    /* to end, by SIGTERM */
    PROGRAM_KILLED,   /* the kernel has not ended it yet */
    PROGRAM_READING,  /* it ended by itself; its pipes are read */
    PROGRAM_SWEEPING, /* what it has left is ended */
    PROGRAM_CUT,      /* likewise, of one that was made to end */
    PROGRAM_EMPTYING, /* what is in its pipes is read */
    PROGRAM_DONE,
    PROGRAM_STATE_N_
} ProgramState;

typedef enum {
    PROGRAM_ON_STARTED,
    PROGRAM_ON_FAILED,   /* it could not be started */
    PROGRAM_ON_EXIT,     /* the program itself; what it has started may go on */
    PROGRAM_ON_LATE,     /* the time of the state is over */
    PROGRAM_ON_STOP,     /* it is to end */
    PROGRAM_ON_STOP_NOW, /* likewise, without grace */
    PROGRAM_ON_FLOOD,    /* it has written more than it may */
    PROGRAM_ON_READ,     /* its pipes are at their ends */
    PROGRAM_ON_SWEPT,
    PROGRAM_EVENT_N_
} ProgramEvent;

typedef enum {
    PROGRAM_DO_NOTHING,
    PROGRAM_DO_ASK,     /* SIGTERM to its group */
    PROGRAM_DO_KILL,    /* SIGKILL to all that can be found of it */
    PROGRAM_DO_SWEEP,   /* SIGKILL to what it has left */
    PROGRAM_DO_ABANDON, /* likewise, and say that it does not end */
} ProgramAction;

typedef struct {
    ProgramState state;
} Program;

/* What is to be done. An event that means nothing in the state changes nothing. */
MUST_CHECK ProgramAction program_step(Program *program, ProgramEvent event);

/* Whether it has been started and has not been seen to end. */
bool program_lives(const Program *program);

#endif
