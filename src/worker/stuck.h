/* Stuck: a task whose agent does nothing any more. It makes no call of a model or a tool, asks
 * nothing at its door, logs nothing, and nothing it has started uses more CPU time than a timer or
 * pings take, for so long that it is taken for hung. What it waits for at Gantry counts as doing
 * something. In a server that this worker has started, what that writes and computes counts for all
 * its tasks; those that run elsewhere cannot be seen. A builtin agent does something while
 * a call of it is under way; each has a time of its own. Private to worker/.
 */
#ifndef GANTRY_WORKER_STUCK_H
#define GANTRY_WORKER_STUCK_H

#include "base/common.h"

typedef struct Run Run;

/* What was seen at the last look. */
typedef struct {
    int64_t look_at_ms;   /* clock_mono_ms; INT64_MAX: never */
    int64_t active_at_ms; /* something had happened since the look before */
    int64_t cpu_ms;       /* at that time */
    int64_t calls, lines, tools, wrote;
} Stuck;

/* Begins to watch; on the run's loop. */
void stuck_begin(Run *run);

/* Looks, and says when to look again. Whether it has done nothing for RunHost.stuck_ms. On a fiber
 * of the run. */
bool stuck_look_wait(Run *run);

#endif
