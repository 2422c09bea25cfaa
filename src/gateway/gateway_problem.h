/* Problems: what the gateway itself answers in place of a model, in the shape of the API that was
 * called, so that SDKs raise the right error and retry only what is worth it. Pure. */
#ifndef GANTRY_GATEWAY_GATEWAY_PROBLEM_H
#define GANTRY_GATEWAY_GATEWAY_PROBLEM_H

#include "base/buf.h"
#include "logic/protocol.h"

typedef enum {
    PROBLEM_NONE,
    PROBLEM_INVALID,      /* the request itself */
    PROBLEM_TOO_LARGE,    /* its body */
    PROBLEM_PATH,         /* no such route */
    PROBLEM_METHOD,       /* the route has others */
    PROBLEM_MODEL,        /* no provider for the model */
    PROBLEM_PRICE,        /* its price is unknown */
    PROBLEM_CAP,          /* a cap of the task is reached */
    PROBLEM_STOPPED,      /* the task may make no more calls */
    PROBLEM_TOOL,         /* it offers a tool that the version does not declare like that */
    PROBLEM_STATE,        /* it names what its provider keeps, and its tenant was not given */
    PROBLEM_SWITCHED_OFF, /* a flag forbids it */
    PROBLEM_QUEUED,       /* waited too long for reserved spend */
    PROBLEM_BREAKER,      /* the provider failed too often lately: it is not asked */
    PROBLEM_UNREACHABLE,  /* no answer from the provider, or a broken one */
    PROBLEM_TIMEOUT,      /* none in time */
    PROBLEM_INTERNAL,     /* ours */
    PROBLEM_UNRECORDED, /* likewise, and its answer was paid for: asked again, it would be twice */
    PROBLEM_KEY,        /* no key, or none that is accepted */
    PROBLEM_ROLE,       /* the key is for other things */
    PROBLEM_AWAY,       /* nobody takes calls now: starting, ending, too many at once */
    PROBLEM_N_
} Problem;

int problem_status(Problem problem);
/* Whether "x-should-retry: false" belongs to it. */
bool problem_is_final(Problem problem);

/* Appends the body of an error answer: OpenAI's or, for API_MESSAGES, Anthropic's error object.
 * param may be NULL; request_id may be empty. False when out is full. */
bool problem_body(Buf *out, Problem problem, Api api, Str message, const char *param,
                  Str request_id);

/* Appends the event that ends a stream in failure. sequence is the next sequence_number of a
 * Responses stream. False when out is full. */
bool problem_event(Buf *out, Problem problem, Api api, Str message, int64_t sequence);

#endif
