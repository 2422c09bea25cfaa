/* Sim: a simulated model provider, for development, demos and tests. Not a language model.
 *
 * An HTTP server on loopback that speaks both protocols (POST /v1/chat/completions, /v1/messages,
 * /v1/embeddings, GET /v1/models), streaming and not, calls tools, reports usage and can be told to
 * misbehave. The same request always gets the same answer, ids included. Every answer carries the
 * header x-gantry-simulated: 1 and, where the protocol has one, the fingerprint "sim". It keeps no
 * payloads and logs none.
 *
 * What it does follows from the model name, or from a directive in the last user message or the
 * system prompt: [[sim mode=fail status=529 retry-after=2]]. README.md lists modes and keys.
 *
 * Lives on the loop that opened it.
 */
#ifndef GANTRY_GATEWAY_SIM_H
#define GANTRY_GATEWAY_SIM_H

#include "base/common.h"

typedef struct Sim Sim;

/* Listens on 127.0.0.1:port (0: any). Returns 0 or -errno with diag. */
MUST_CHECK int sim_open(uint16_t port, Sim **ret);
uint16_t sim_port(const Sim *sim);

/* Stops, waits for requests under way until deadline_ms (clock_mono_ms), frees. NULL is accepted.
 */
void sim_close_wait(Sim *sim, int64_t deadline_ms);

/* What it billed since start or the last POST /sim/reset; GET /sim/stats gives the same as JSON
 * ({"calls","failures","inputTokens","outputTokens","toolCalls","aborted","open"}). A call counts
 * once its usage is fixed, whether or not the reader stayed. Any thread. */
typedef struct {
    uint64_t calls;    /* answered with a model's answer, cut ones included */
    uint64_t failures; /* answered with an error status */
    uint64_t input_tokens, output_tokens;
    uint64_t tool_calls;
    uint64_t aborted; /* the reader left early */
    uint64_t open;
} SimStats;
void sim_stats(const Sim *sim, SimStats *ret);
void sim_reset(Sim *sim);

#endif
