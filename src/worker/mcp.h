/* Mcp: calls tools at MCP servers, over streamable HTTP or over the pipes of a command.
 *
 * A server is greeted by initialize (2025-11-25 and before); one that knows no such method is
 * spoken to without a session (2026-07-28). Before every call the server's list is read: a tool
 * whose description or schema is not the one that the version declares, byte for byte, is not
 * called. A session belongs to one attempt of one task, so nothing of one task reaches another
 * through a server that keeps state; how many a worker has at a time is bounded.
 *
 * Private to worker/. On the worker's loop.
 */
#ifndef GANTRY_WORKER_MCP_H
#define GANTRY_WORKER_MCP_H

#include "worker/tool_call.h"

#define MCP_SESSIONS_MAX 256    /* of a worker */
#define MCP_RUN_SESSIONS_MAX 16 /* of a run */

/* Sets call->result. On a fiber. Returns 0, -ECANCELED, -ENOMEM with diag. */
MUST_CHECK int mcp_tool_wait(ToolCall *call);

/* Whether two tools are called at the same server. */
bool mcp_same_server(const Tool *a, const Tool *b);

/* Says goodbye to the servers of the run, whose calls have ended, and ends its commands. */
void mcp_close_wait(Run *run);

#endif
