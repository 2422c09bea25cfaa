/* ToolCall: one call of a tool, as its sources see it. Private to tool.c, tool_once.c, mcp.c and
 * tool_subagent.c. */
#ifndef GANTRY_WORKER_TOOL_CALL_H
#define GANTRY_WORKER_TOOL_CALL_H

#include "worker/tool.h"

typedef struct ToolOnce ToolOnce; /* see tool_once.h */

typedef struct {
    Run *run;
    const ToolAsk *ask;
    const Tool *tool; /* NULL: there is none of that name */
    Arena *arena;
    Str arguments; /* compact JSON: what was checked */
    const Json *args;
    int64_t began_ms; /* clock_mono_ms */
    bool counted;     /* against the cap, by itself */
    bool started;     /* the tool may have done something */
    ToolOnce *once;   /* NULL: is not looked for */
    ToolResult result;
} ToolCall;

/* Sets the result to an error; the words are for the model. Returns 0, -ENOMEM with diag. */
int tool_problem(ToolCall *call, ToolOutcome outcome, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Sets the result to what the tool gave. Returns 0, -ENOMEM with diag. */
int tool_answer(ToolCall *call, Str text);

/* tool_subagent.c: has another agent do it, as a task below this one. Returns 0, -ECANCELED,
 * -ENOMEM. */
MUST_CHECK int tool_subagent_wait(ToolCall *call);
/* Such a call was answered from the journal: the next of the same arguments is another one. */
void tool_subagent_replayed(ToolCall *call);

/* Appends the trace and the headers that the tool declares to fields, which have room for
 * TOOL_HEADERS_MAX + 1 more. Returns 0, -EACCES, -ENOENT, -ENOMEM; with diag. */
MUST_CHECK int tool_headers(ToolCall *call, HttpClientField *fields, size_t *n);
/* Sets the result for an http_fetch_wait that returned r. Returns 0, -ECANCELED, -ENOMEM. */
int tool_http_failed(ToolCall *call, int r);

#endif
