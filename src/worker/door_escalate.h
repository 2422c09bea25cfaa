/* The door's route of questions to people.
 *
 *   POST /gantry/v1/escalate  {"question","context","timeout","default","id"}
 *     200 {"answer":JSON,"by":TEXT or null,"source":"person"|"default"} once there is an answer
 *
 * Until then there is no answer to the request: the attempt ends as escalated, and the next one,
 * which begins when somebody has answered, asks again and gets it. So that it is the same question,
 * it is to be the same body, the nth time in the attempt, or to have the same id. 409
 * escalation_unanswered: nobody did in time, and there is no default. 429 too_many_escalations.
 * Private to worker/. On the worker's loop.
 */
#ifndef GANTRY_WORKER_DOOR_ESCALATE_H
#define GANTRY_WORKER_DOOR_ESCALATE_H

#include "worker/run.h"

#define DOOR_ESCALATE_PATH "/gantry/v1/escalate"
#define ESCALATE_BYTES_MAX ((size_t)256 << 10)
#define ESCALATE_TIMEOUT_DEFAULT_MS (INT64_C(7) * 24 * 3600 * 1000)

/* Answers such a request. On its fiber. */
MUST_CHECK int door_escalate_wait(Run *run, HttpReq *req);

#endif
