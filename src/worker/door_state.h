/* The door's routes of state: what an agent keeps in its session.
 *
 *   GET    /gantry/v1/state         {"keys":[{"key","etag","bytes","contentType","updatedAt"}]}
 *   GET    /gantry/v1/state/{key}   the value as it was put, with ETag; If-None-Match: 304
 *   PUT    /gantry/v1/state/{key}   any bytes and Content-Type; {"key","etag"}, 201 when it is new
 *   DELETE /gantry/v1/state/{key}   204
 *
 * If-Match: ETAG or *, and If-None-Match: *, make a write conditional: 412 when something else is
 * there. 404 state_absent, 413 value_too_large, 507 state_full, 403 key_reserved (keys of Gantry's
 * own, which begin with "gantry."). Private to worker/. On the worker's loop.
 */
#ifndef GANTRY_WORKER_DOOR_STATE_H
#define GANTRY_WORKER_DOOR_STATE_H

#include "worker/run.h"

#define DOOR_STATE_PATH "/gantry/v1/state"
#define STATE_KEY_RESERVED "gantry."

/* Answers a request whose path is DOOR_STATE_PATH or below it. On its fiber. */
MUST_CHECK int door_state_wait(Run *run, HttpReq *req);

/* Asks for the run's session, again and again while the control plane is away, for some time; a
 * conditional write once only, for it may have been made. What is read lives in arena. Returns 0
 * (see ret->outcome), -ECANCELED (the run is stopped), -errno. */
MUST_CHECK int run_state_wait(Run *run, const StateAsk *ask, Arena *arena, StateReply *ret);

#endif
