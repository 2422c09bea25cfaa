/* TaskCursor: how much of what happened to a task somebody has been told, as the id of an event.
 *
 * What is recorded of a task is kept in several lists, each of which only grows at its end: what a
 * cursor keeps is a place in each of them. So whoever comes back with the id of the last event that
 * it has seen is told what came after it, once, whatever process answers.
 *
 * As text: the state ("1-running"), and behind a dot a letter and a number for each list that is
 * not at its start: "1-running.b1c4711m1n12".
 */
#ifndef GANTRY_LOGIC_TASK_CURSOR_H
#define GANTRY_LOGIC_TASK_CURSOR_H

#include "base/str.h"

#define TASK_CURSOR_STATE_SIZE 40
#define TASK_CURSOR_TEXT_SIZE 320

typedef enum {
    TASK_CURSOR_BEGUN,        /* attempts, by their number */
    TASK_CURSOR_ENDED,        /* likewise */
    TASK_CURSOR_CALL,         /* calls of models, by their id */
    TASK_CURSOR_TOOL,         /* calls of tools, as they were recorded */
    TASK_CURSOR_LINE_ATTEMPT, /* lines of the log that workers told: attempt, number */
    TASK_CURSOR_LINE,
    TASK_CURSOR_NOTE_ATTEMPT, /* those that the control plane added */
    TASK_CURSOR_NOTE,
    TASK_CURSOR_CHILD,     /* sub-agents, as they were started */
    TASK_CURSOR_CHILD_END, /* as they ended */
    TASK_CURSOR_ASKED,     /* questions to people, by their id */
    TASK_CURSOR_ANSWERED,  /* up to this one all have ended */
    TASK_CURSOR_N_
} TaskCursorPlace;

/* Zeros: nothing was told. */
typedef struct {
    char state[TASK_CURSOR_STATE_SIZE]; /* the state told last: letters, digits, '-', '_' */
    int64_t at[TASK_CURSOR_N_];
} TaskCursor;

/* Returns ret. */
char *task_cursor_text(const TaskCursor *cursor, char ret[TASK_CURSOR_TEXT_SIZE]);

/* Of a text that a client gives: 0, or -EINVAL (none of ours; *ret is zeroed). */
MUST_CHECK int task_cursor_parse(Str text, TaskCursor *ret);

#endif
