/* Memory: what a builtin agent's session has said so far, kept under a key of Gantry's own
 * (door_state.h). Of each task that succeeded there is what was asked and what was answered; of the
 * oldest there is nothing any more once memory.window messages are kept. A task without a session,
 * or a window of 0, remembers nothing.
 *
 * A task that is run again does not find what it said itself, and says it once. Private to worker/.
 */
#ifndef GANTRY_WORKER_MEMORY_H
#define GANTRY_WORKER_MEMORY_H

#include "worker/dialogue.h"
#include "worker/run.h"

#define MEMORY_KEY "gantry.memory"

/* Reads it into dialogue->past, which lives in the run's arena. On a fiber. Returns 0, -ECANCELED
 * (the run is stopped), -ENOMEM, -errno. */
MUST_CHECK int memory_load_wait(Run *run, Dialogue *dialogue);

/* Adds what the task was asked and has answered. That it could not be kept is said in the task's
 * log, and is no failure. Returns 0, -ECANCELED. */
MUST_CHECK int memory_save_wait(Run *run, const Dialogue *dialogue, Str answer);

#endif
