/* Wire forms of the simulator's answers: plain bodies and stream events of both protocols. Pure.
 * Not for other folders. */
#ifndef GANTRY_GATEWAY_SIM_WIRE_H
#define GANTRY_GATEWAY_SIM_WIRE_H

#include "gateway/sim_brain.h"
#include "gateway/sim_mode.h"

#define SIM_ID_MAX 48

/* A thought, fitted to the output cap and billed. */
typedef struct {
    const SimRequest *request;
    SimMode mode;
    SimThought thought;
    char id[SIM_ID_MAX];
    Str model;                           /* as the answer names it */
    bool cut_short;                      /* by the output cap */
    int64_t input_tokens, output_tokens; /* all choices */
    int64_t cached_tokens, reasoning_tokens;
} SimAnswer;

/* Cuts the thought to the cap, counts tokens (directives cached= and reasoning= too), makes the id.
 * Returns 0 or -ENOMEM. */
MUST_CHECK int sim_answer(Arena *arena, const SimRequest *request, SimAnswer *ret);

/* Appends the body of a plain answer. */
void sim_wire_plain(const SimAnswer *answer, Buf *out);

/* The events of a streamed answer, to be sent in order. Faults of the stream's grammar are in it;
 * breaking off and falling silent are the sender's business. *ret lives in the arena. Returns how
 * many there are, 0 when the arena is full. */
size_t sim_wire_stream(Arena *arena, const SimAnswer *answer, Str **ret);

/* sim_responses.c: a Responses request as one of chat; *ret lives in the arena. Returns 0, -EINVAL
 * with diag, -ENOMEM. */
MUST_CHECK int sim_responses_request(Arena *arena, Str text, Str *ret);
/* Appends the body of a chat answer as one of Responses. False when that is too large. */
bool sim_responses_plain(Str chat, Buf *out);
/* Puts the pieces of a chat stream into events of Responses, in place. Returns how many there are,
 * 0 when they are too large. */
size_t sim_responses_stream(Arena *arena, Str *pieces, size_t n);

/* Appends an error body for status, in the API's form. */
void sim_wire_error(Api api, int status, bool quota, Str message, Buf *out);

/* Appends the answer to an embeddings request. */
void sim_wire_embeddings(const SimAnswer *answer, const Json *body, Buf *out);

#endif
