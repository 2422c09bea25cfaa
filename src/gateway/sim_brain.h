/* What the simulator answers: rules that look at the words of a request and make something useful
 * of them. Not a language model, and it does not claim to be one. Pure and deterministic. */
#ifndef GANTRY_GATEWAY_SIM_BRAIN_H
#define GANTRY_GATEWAY_SIM_BRAIN_H

#include "gateway/sim_request.h"

#define SIM_CALLS_MAX 4

typedef struct {
    Str name;
    Str arguments; /* JSON object */
} SimCall;

typedef struct {
    Str text; /* empty when tools are called */
    SimCall calls[SIM_CALLS_MAX];
    size_t calls_n;
} SimThought;

/* The assistant: calls a tool that fits the user's words, or answers (from tool results, by
 * classification, summary, extraction, or with what the prompt says on the matter). Returns 0 or
 * -ENOMEM. */
MUST_CHECK int sim_think(Arena *arena, const SimRequest *request, SimThought *ret);

/* One call of the first tool offered (or the forced one), whatever was said. calls_n is 0 when
 * there is none. Returns 0 or -ENOMEM. */
MUST_CHECK int sim_think_tool(Arena *arena, const SimRequest *request, SimThought *ret);

/* Filler text of about that many tokens. */
Str sim_ramble(Arena *arena, int64_t tokens);

#endif
