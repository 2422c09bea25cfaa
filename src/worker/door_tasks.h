/* Sub-agents at the door.
 *
 *   POST /gantry/v1/tasks           starts a task of this or another agent
 *     body     {"input",...} with "agent" (left out: this one, in this version), "metadata",
 *              "limits" {"tokensPerTask","toolCallsPerTask","secondsPerTask","usdPerTask"},
 *              "deadline" (a time, or a duration from now; its parent's holds in any case)
 *     header   Idempotency-Key: an attempt that comes after a crash gets the same task for the same
 *              key; without one, for the same body (the n-th time it is sent)
 *     202      {"taskId","status","agent","versionId","statusUrl","parentTaskId","limits"};
 *              Idempotent-Replayed: true when it was there already
 *     else     402 cap_reached, 404 agent_not_found, 422 subagents_too_deep, subagents_too_many,
 *              key_reused, deadline_passed, 403 switched_off, 429 queue_full, 400 member_...
 *   GET  /gantry/v1/tasks/{id}      such a task as clients see it; ?wait=30s: held until it ends;
 *                                   429 too_many_waits
 *   POST /gantry/v1/tasks/{id}/cancel
 *
 * Private to worker/. On the worker's loop.
 */
#ifndef GANTRY_WORKER_DOOR_TASKS_H
#define GANTRY_WORKER_DOOR_TASKS_H

#include "worker/run.h"

#define DOOR_TASKS_PATH "/gantry/v1/tasks"
#define DOOR_WAITS_MAX 160 /* of a run at a time */

/* Answers a request whose path is that or below. On a fiber. Returns as an HttpHandler. */
MUST_CHECK int door_tasks_wait(Run *run, HttpReq *req);

#endif
