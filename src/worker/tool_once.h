/* ToolOnce: calls of tools that a client makes again within an attempt, its first answer having
 * been lost or waited for too long: the tool has run, or runs, and must not run twice.
 *
 * A call is the same when its client gave the same id. Without an id it is the same as an equal one
 * whose client has left, be it under way or done: what is equal, while both clients wait, is two
 * calls, and what was given its result is not given it again.
 *
 * TOOL_ONCE_MAX calls with an id, or whose client had left, are remembered when they are done; of
 * the oldest, whose texts do not fit into TOOL_ONCE_BYTES_MAX, only that they were made. Private to
 * tool.c and run.c; on the worker's loop.
 */
#ifndef GANTRY_WORKER_TOOL_ONCE_H
#define GANTRY_WORKER_TOOL_ONCE_H

#include "worker/tool_call.h"

#define TOOL_ONCE_MAX 64
#define TOOL_ONCE_BYTES_MAX ((size_t)1 << 20)

/* call: checked, and of a client. Returns 0 (it is to be run, and call->once given to
 * tool_once_done), TOOL_E_AGAIN (call->result is what the same call was given; waits for it to
 * end), TOOL_E_OTHER, TOOL_E_LOST (see tool.h), -ECANCELED, -ENOMEM, or the error of the call. */
#define TOOL_E_AGAIN 3
MUST_CHECK int tool_once_wait(ToolCall *call);

/* The call has ended, with r of tool_run_wait. Never waits. */
void tool_once_done(ToolCall *call, int r);

/* All calls have ended: forgets them. */
void tool_once_close(Run *run);

#endif
