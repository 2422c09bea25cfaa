/* Spec: what a version's components say about running it. Pure; any thread. */
#ifndef GANTRY_WORKER_SPEC_H
#define GANTRY_WORKER_SPEC_H

#include "logic/cap.h"
#include "logic/manifest.h"
#include "logic/tools.h"

/* Everything lives in the arena it was read into. */
typedef struct {
    Str agent;
    Runtime runtime;
    const Str *command; /* argv */
    size_t command_n;
    Str url;
    Str prompt_path; /* empty: no prompt */
    Str prompt_text;
    Str tools_path; /* empty: no tools */
    Str tools_text; /* JSON array */
    ToolSet tools;
    Str model;
    const Str *fallbacks;
    size_t fallbacks_n;
    const Json *sampling; /* an object */
    int64_t memory_window;
    CapLimits limits;
    ResourceLimits resources;
} Spec;

/* Reads components (canonical JSON, see logic/version.h). Returns 0, -EINVAL (not components, or of
 * a newer schema), -ENOMEM (24 times the text is enough); with diag. */
MUST_CHECK int spec_read(Arena *arena, Str components, Spec *ret);

/* The limits of one task: those of its version, or what the task itself asked for where that is
 * less. limits_json as submitted (an object, or empty): numbers, money also as text. ran_ms: what
 * earlier attempts have used of its time; remaining_ms: until the task's deadline. Returns
 * 0, -EINVAL with diag. */
MUST_CHECK int spec_task_limits(const Spec *spec, Str limits_json, int64_t ran_ms,
                                int64_t remaining_ms, CapLimits *ret);

#endif
