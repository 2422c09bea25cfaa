/* Conduct: what an agent does in an attempt, for the signals of its version: which tools it calls,
 * and the shape of it all as a fingerprint (logic/pattern.h).
 *
 * In order of occurrence: tools that models' answers call, tools the agent calls by itself, tools
 * that fail, the text of the result; at the end how the last model call finished. Replayed answers
 * count like those that were paid for: what matters is what the agent does. Private to worker/;
 * belongs to a run.
 */
#ifndef GANTRY_WORKER_CONDUCT_H
#define GANTRY_WORKER_CONDUCT_H

#include "gateway/gateway.h"
#include "logic/rollup.h"
#include "store/task_store.h"
#include "store/tool_store.h"

typedef struct {
    PatternTask *pattern; /* NULL: nothing was noted yet */
    Buf names;            /* of tools, NUL after each */
    int64_t calls[ROLLUP_TOOLS_MAX];
    size_t tools_n;
    char finish[ANSWER_REASON_MAX];
} Conduct;

void conduct_init(Conduct *conduct);
void conduct_deinit(Conduct *conduct);

/* A call that was answered completely; others change nothing. */
void conduct_model(Conduct *conduct, const GatewayCall *call);

/* A call of a tool that is over. */
void conduct_tool(Conduct *conduct, const ToolRecord *record);

/* What the agent says at its end. */
void conduct_text(Conduct *conduct, Str text);

/* The end, told once. outcome: of the attempt, which ends the pattern where no model was called.
 * The text lives in arena; calls of more than ROLLUP_TOOLS_MAX tools are left out. */
TaskConduct conduct_end(Conduct *conduct, const char *outcome, Arena *arena);

#endif
