/* What happens to a task, moment by moment, as JSON: for its timeline and for who follows it. */
#ifndef GANTRY_API_MOMENTS_H
#define GANTRY_API_MOMENTS_H

#include "codec/json.h"

/* Of two that are in the same millisecond, the one that stands first comes first. */
typedef enum {
    MOMENT_SUBMITTED,
    MOMENT_ATTEMPT_STARTED,
    MOMENT_CALL,
    MOMENT_TOOL,
    MOMENT_CHILD_STARTED,
    MOMENT_CHILD_FINISHED,
    MOMENT_LOG,
    MOMENT_ASKED,
    MOMENT_ATTEMPT_FINISHED,
    MOMENT_ANSWERED,
    MOMENT_FINISHED,
    MOMENT_WEBHOOK,
    MOMENT_N_
} MomentKind;

/* of: what it is about, by its kind: a Task (SUBMITTED, FINISHED), Attempt, Call, ToolRecord,
 * FamilyRow, TaskLogLine, Escalation or Webhook. */
typedef struct {
    int64_t at_ms;
    MomentKind kind;
    const void *of;
} Moment;

const char *moment_name(MomentKind kind);

/* {"at", "type", ...} */
void moment_write(JsonOut *out, const Moment *moment);

#endif
