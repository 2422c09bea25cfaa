/* Lines: which waiting task of a lane is next.
 *
 * The tasks of one tenant for one agent that could start now stand in one line, those that became
 * ready first in front. The tenant that has used least lately comes first (logic/fair.h); its own
 * tasks start in the order in which they became ready. Lines at a limit of their agent or tenant
 * are passed over. Before a task comes to stand in a line it may have to wait for others of its
 * session. Pure; any thread.
 */
#ifndef GANTRY_LOGIC_LINE_H
#define GANTRY_LOGIC_LINE_H

#include "logic/fair.h"

typedef struct {
    uint64_t tenant, kind;    /* fair_key(tenant), fair_key_pair(tenant, agent) */
    double used_ms;           /* by the tenant in this lane */
    int64_t ready_at_ms, seq; /* of the first task */
    bool closed;              /* no task is left, or none may start */
} Line;

/* The line whose first task is next; n when all are closed. */
size_t line_next(const Line *lines, size_t n);

/* A task of lines[at] starts: what it will cost is its tenant's. */
void line_started(Line *lines, size_t n, size_t at, Fair *fair, double cost_ms, int64_t now_ms);

/* The longest wait in lines that are not closed; -1 without any. */
int64_t lines_waited_ms(const Line *lines, size_t n, int64_t now_ms);

/* Whether one more task may run or stand in line where admitted do, of at most most; 0: any
 * number. For a session admitted are those that wait for nothing but a slot, that run, that wait
 * for another attempt, or for a person. */
static inline bool line_admits(int64_t admitted, int64_t most)
{
    return most == 0 || admitted < most;
}

/* What keeps a queued task from its line. The numbers are those of the store. */
typedef enum {
    GATE_OPEN = 0,
    GATE_LATER = 1,     /* its time has not come: another attempt, or a start that was asked for */
    GATE_SCHEDULED = 2, /* likewise, and it takes its place in its session only then */
    GATE_SESSION = 3,   /* behind others of its session */
    GATE_SHADOW = 4,    /* it repeats a production task: behind all that is open */
} Gate;

/* The gate of a task that comes, or that comes again after it was at rest. later: its time has not
 * come; most: how many of its session may be admitted, 0: it takes no part; admitted: how many are
 * beside it. */
static inline Gate gate_of(bool later, int64_t admitted, int64_t most)
{
    if (later) return most == 0 ? GATE_LATER : GATE_SCHEDULED;
    return line_admits(admitted, most) ? GATE_OPEN : GATE_SESSION;
}

/* The gate of a task that is to be tried again: it keeps its place in its session. */
static inline Gate gate_of_retry(bool later)
{
    return later ? GATE_LATER : GATE_OPEN;
}

#endif
