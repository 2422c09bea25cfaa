/* Tool: runs a declared tool of a version for its agent. Private to worker/.
 *
 * A `command` runs as the agent's own processes do, but without the models' addresses: arguments on
 * stdin, result on stdout. An `http` tool is called with the arguments as JSON body, or as query
 * for GET, HEAD and DELETE; the address guard applies, and redirects are not followed. A header
 * whose value is taken from the environment may name only variables beginning with GANTRY_TOOL_: a
 * version must not be able to send the worker's other secrets somewhere.
 *
 * Whatever goes wrong with a tool is an answer for the model, never an error of the run.
 */
#ifndef GANTRY_WORKER_TOOL_H
#define GANTRY_WORKER_TOOL_H

#include "worker/run.h"

#define TOOL_ENV_PREFIX "GANTRY_TOOL_"
#define TOOL_GRACE_MS 1000

typedef struct {
    Str text; /* the result, or what went wrong in words for the model; in arena */
    bool is_error;
} ToolResult;

/* Checks arguments (JSON text; empty: {}) against the tool's schema and rules, runs it, and logs
 * what it took. On a fiber of the run's. Returns 0, -ECANCELED, -ENOMEM with diag. */
MUST_CHECK int tool_run_wait(Run *run, Str name, Str arguments, Arena *arena, ToolResult *ret);

#endif
