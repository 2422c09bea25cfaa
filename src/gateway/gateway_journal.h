/* The journal for tool calls: what a tool returned to an earlier attempt of the task is returned
 * again, so that it is not called, and does not do its work, twice.
 *
 *     ToolReplay replay;
 *     int r = gateway_tool_replay_wait(task, tool, args, args_text, &arena, &replay);
 *     if (r == GATEWAY_E_LIVE) {
 *         ... call the tool ...
 *         r = gateway_tool_record_wait(task, &replay, tool, status, type, body);
 *     }
 *     if (r == 0) ... answer ...
 */
#ifndef GANTRY_GATEWAY_GATEWAY_JOURNAL_H
#define GANTRY_GATEWAY_GATEWAY_JOURNAL_H

#include "gateway/gateway.h"

typedef struct {
    uint8_t key[SHA256_BYTES];
    int64_t status;
    Str content_type, body;
} ToolReplay;

/* The next call of tool with these arguments in the attempt; text is what args was parsed from. On
 * a fiber of the gateway's loop. Returns 0 (*ret is what it returned, in arena; it counts against
 * no cap again), GATEWAY_E_LIVE (call it; ret->key is set), -ESTALE (the lease is no longer ours),
 * -ECANCELED, other -errno: the journal cannot be read, and the tool must not be called. */
#define GATEWAY_E_LIVE 4
MUST_CHECK int gateway_tool_replay_wait(GatewayTask *task, Str tool, const Json *args, Str text,
                                        Arena *arena, ToolReplay *ret);

/* Of a shadow: what the production task that it repeats was given for the same call, in the order
 * of its calls. call: as set by gateway_tool_replay_wait. ret NULL: it is only passed by. Returns
 * 0, GATEWAY_E_LIVE (production made no such call), -errno: it cannot be known. */
MUST_CHECK int gateway_tool_twin_wait(GatewayTask *task, const ToolReplay *call, Arena *arena,
                                      ToolReplay *ret);

/* Makes what the tool returned durable, to be called before it is given to the agent. replay: as
 * set by gateway_tool_replay_wait. Returns 0 (also when nothing is recorded for this task),
 * -ESTALE, -errno: it must not be given to the agent. Goes through when the fiber is cancelled. */
MUST_CHECK int gateway_tool_record_wait(GatewayTask *task, const ToolReplay *replay, Str tool,
                                        int64_t status, Str content_type, Str body);

#endif
