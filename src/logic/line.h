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

#endif
