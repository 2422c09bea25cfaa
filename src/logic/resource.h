/* Resource: what the programs of one task may use of a machine, and whether they use more.
 *
 * Memory, CPU time and processes are counted over a program and everything it has started that can
 * be told to be its own: who is in its session, and who descends from one that is. Pure; any
 * thread.
 */
#ifndef GANTRY_LOGIC_RESOURCE_H
#define GANTRY_LOGIC_RESOURCE_H

#include "codec/json.h"

#define RESOURCE_BYTES_MAX (INT64_C(1) << 40) /* of memory and directories */

typedef enum {
    RESOURCE_NONE,
    RESOURCE_MEMORY,
    RESOURCE_CPU,
    RESOURCE_PROCESSES,
    RESOURCE_FILES,
    RESOURCE_OUTPUT,
    RESOURCE_SCRATCH,
    RESOURCE_N_
} Resource;

/* 0: no limit of its own. */
typedef struct {
    int64_t memory_bytes;  /* of all its processes together, what they share once; no files */
    int64_t cpu_seconds;   /* of all its processes together */
    int64_t processes;     /* at a time */
    int64_t files;         /* open descriptors of each process */
    int64_t output_bytes;  /* of the result */
    int64_t scratch_bytes; /* of the attempt's own directory, and of open files without a name */
} ResourceLimits;

/* What is used now; CPU time of processes that live. */
typedef struct {
    int64_t memory_bytes, cpu_ms, processes, scratch_bytes;
} ResourceUse;

/* The member of spec.limits: "memoryBytes"; RESOURCE_NONE: "". */
const char *resource_name(Resource resource);

int64_t resource_limit(const ResourceLimits *limits, Resource resource);

/* The first resource of which more is used than may be. */
Resource resource_over(const ResourceLimits *limits, const ResourceUse *use);

/* Reads the members of spec.limits that there are. Returns 0, -EINVAL (not whole numbers above 0),
 * *ret untouched. */
MUST_CHECK int resource_limits_read(const Json *v, ResourceLimits *ret);

/* Writes the limits that there are as members of the object that is open. */
void resource_limits_write(JsonOut *out, const ResourceLimits *limits);

/* A process of the machine. */
typedef struct {
    int pid, parent, group, session;
    int64_t memory_bytes, cpu_ms;
    bool root; /* it belongs to it, too, whatever its session */
    bool own;  /* out */
} ResourceProcess;

/* Finds who belongs to the session, who is a root and who descends from these, and adds them up.
 * Sorts by pid. */
ResourceUse resource_sum(ResourceProcess *processes, size_t n, int session);

#endif
