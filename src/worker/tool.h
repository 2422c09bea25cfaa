/* Tool: runs a declared tool of a version for its agent. Private to worker/.
 *
 * One path for the builtin agent and for agents that ask at their own door (door.h): flags, the
 * arguments against schema and rules, the circuit breaker of the tool's source, the cap of tool
 * calls, the call, and its record in the task's timeline, durable before the result is given.
 *
 * A `command` runs as the agent's own processes do, but without the models' addresses: arguments on
 * stdin, result on stdout. An `http` tool is called with the arguments as JSON body, or as query
 * for GET, HEAD and DELETE; the address guard applies, and redirects are not followed. An `mcp`
 * tool is called at its server (mcp.h), as long as the server still describes it as the version
 * does. A header whose value is taken from the environment may name only variables beginning with
 * GANTRY_TOOL_: a version must not be able to send the worker's other secrets somewhere.
 *
 * Whatever goes wrong with a tool is an answer for the model, never an error of the run.
 */
#ifndef GANTRY_WORKER_TOOL_H
#define GANTRY_WORKER_TOOL_H

#include "worker/run.h"

#define TOOL_ENV_PREFIX "GANTRY_TOOL_"
#define TOOL_GRACE_MS 1000

typedef struct {
    Str name;
    Str arguments; /* JSON text; empty: {} */
    Str call_id;   /* by which an answer of a model asked for it, and so counted it; else empty */
    const HttpReq *client; /* who may ask again; NULL: nobody does */
} ToolAsk;

const char *tool_outcome_name(ToolOutcome outcome); /* "ok", "error", ... */
bool tool_outcome_ran(ToolOutcome outcome);         /* the tool was started */

/* How a call was answered. In a shadow nothing that writes is called: production's result for the
 * same call is given again, else the tool only tries (dryRun), else a stub that says what it is. */
typedef enum {
    TOOL_MODE_USUAL, /* not in a shadow, or not answered */
    TOOL_MODE_LIVE,
    TOOL_MODE_PRODUCTION,
    TOOL_MODE_DRY_RUN,
    TOOL_MODE_STUB,
    TOOL_MODE_N_
} ToolMode;
const char *tool_mode_name(ToolMode mode); /* "", "live", "production", "dry_run", "stub" */

typedef struct {
    Str text; /* the result, or what went wrong in words for the model; in arena */
    bool is_error;
    bool replayed; /* what an earlier attempt, or the same call before, was given */
    ToolMode mode;
    ToolOutcome outcome;
    int64_t again_ms; /* TOOL_OUTCOME_OPEN: when to ask again (clock_mono_ms) */
} ToolResult;

/* On a fiber. Returns 0, TOOL_E_OTHER (a client's id names another call of this attempt),
 * TOOL_E_LOST (the call was made, its result is not kept), -ECANCELED (stopped, or the lease is
 * lost), -ENOMEM with diag. What a client asks for again is no call of its own: it is not counted,
 * and not in the timeline. */
#define TOOL_E_OTHER 1
#define TOOL_E_LOST 2
MUST_CHECK int tool_run_wait(Run *run, const ToolAsk *ask, Arena *arena, ToolResult *ret);

#endif
