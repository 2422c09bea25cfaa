/* Door: what an agent may ask of Gantry on its task's listener, beside models.
 *
 *   POST /gantry/v1/tools/{name}   calls a declared tool
 *     body     the arguments, a JSON object (or nothing)
 *     header   gantry-call-id: the id by which the model asked for it. Such a call was counted
 *              against toolCallsPerTask with the model's answer; one without is counted here.
 *              The same id again within the attempt: the same call, which is not made again
 *     200      {"result":JSON or text,"isError":bool,"outcome":WORD}; isError: what went wrong with
 *              the tool, for the model to read
 *     else     a problem (RFC 9457) with code: 404 tool_not_declared, 409 tool_of_agent,
 *              call_id_taken or call_result_lost, 422 arguments_invalid, 403 tool_denied,
 *              switched_off or tool_changed, 402 cap_reached, 503 breaker_open, 429
 *              too_many_calls
 *
 *   /gantry/v1/state...            see door_state.h
 *   /gantry/v1/tasks...            sub-agents, see door_tasks.h
 *   POST /gantry/v1/score         says how good the agent finds its work
 *     body     {"value":0..1,"name","comment"}; name: "agent" when left out; the same name again
 *              replaces what it said
 *     204      kept
 *     else     400 body_invalid, 422 scores_full (by too many names), 503 not_recorded: try again
 *   /gantry/v1/escalate            see door_escalate.h
 *
 * Before any of it is asked here, the gateway may have answered 429 too_many_bytes: see
 * GatewayTaskOptions.door.
 *
 * Private to worker/. On the worker's loop.
 */
#ifndef GANTRY_WORKER_DOOR_H
#define GANTRY_WORKER_DOOR_H

#include "worker/run.h"

#define DOOR_CALLS_MAX 32 /* of a run at a time */
#define DOOR_CALL_ID_HEADER "gantry-call-id"

/* The HttpHandler for GatewayTaskOptions.door; ctx is the Run. */
int door_handler(HttpReq *req, void *ctx);

/* For routes: as http_body_wait; the gateway is told how much of its room the body has taken. */
MUST_CHECK int door_body_wait(Run *run, HttpReq *req, size_t max, Str *ret);

/* Ends the calls that are under way, and waits for them; there are no more. On a fiber. */
void door_close_wait(Run *run);

/* Ends the calls that are under way. Never waits. */
void door_cancel(Run *run);

#endif
