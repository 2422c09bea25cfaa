#include "logic/resource.h"

#include <stdlib.h>

static const struct {
    const char *name;
    size_t at;
} resources[RESOURCE_N_] = {
    [RESOURCE_NONE] = { "", 0 },
    [RESOURCE_MEMORY] = { "memoryBytes", offsetof(ResourceLimits, memory_bytes) },
    [RESOURCE_CPU] = { "cpuSeconds", offsetof(ResourceLimits, cpu_seconds) },
    [RESOURCE_PROCESSES] = { "processes", offsetof(ResourceLimits, processes) },
    [RESOURCE_FILES] = { "files", offsetof(ResourceLimits, files) },
    [RESOURCE_OUTPUT] = { "outputBytes", offsetof(ResourceLimits, output_bytes) },
    [RESOURCE_SCRATCH] = { "scratchBytes", offsetof(ResourceLimits, scratch_bytes) },
};

const char *resource_name(Resource resource)
{
    assert(resource < RESOURCE_N_);
    return resources[resource].name;
}

int64_t resource_limit(const ResourceLimits *limits, Resource resource)
{
    assert(resource > RESOURCE_NONE && resource < RESOURCE_N_);
    return *(const int64_t *)((const char *)limits + resources[resource].at);
}

static bool is_over(int64_t used, int64_t limit)
{
    return limit > 0 && used > limit;
}

Resource resource_over(const ResourceLimits *limits, const ResourceUse *use)
{
    if (is_over(use->memory_bytes, limits->memory_bytes)) return RESOURCE_MEMORY;
    if (is_over(use->processes, limits->processes)) return RESOURCE_PROCESSES;
    if (is_over(use->cpu_ms / 1000, limits->cpu_seconds)) return RESOURCE_CPU;
    if (is_over(use->scratch_bytes, limits->scratch_bytes)) return RESOURCE_SCRATCH;
    return RESOURCE_NONE;
}

int resource_limits_read(const Json *v, ResourceLimits *ret)
{
    ResourceLimits limits = { 0 };
    for (int i = RESOURCE_NONE + 1; i < RESOURCE_N_; i++) {
        const Json *member = json_get(v, resources[i].name);
        int64_t *limit = (int64_t *)((char *)&limits + resources[i].at);
        if (member && (json_i64(member, limit) < 0 || *limit < 1)) return -EINVAL;
    }
    *ret = limits;
    return 0;
}

void resource_limits_write(JsonOut *out, const ResourceLimits *limits)
{
    for (int i = RESOURCE_NONE + 1; i < RESOURCE_N_; i++) {
        int64_t limit = resource_limit(limits, (Resource)i);
        if (limit > 0) json_out_ki64(out, resources[i].name, limit);
    }
}

/* --- who belongs to whom ---------------------------------------------------------------------- */

static int by_pid(const void *a, const void *b)
{
    const ResourceProcess *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

static bool parent_own(const ResourceProcess *processes, size_t n, int parent)
{
    ResourceProcess key = { .pid = parent };
    const ResourceProcess *found = bsearch(&key, processes, n, sizeof key, by_pid);
    return found && found->own;
}

/* A child mostly has a higher number than its parent, so that one pass finds nearly all. */
static bool mark(ResourceProcess *processes, size_t n, int session)
{
    bool more = false;
    for (size_t i = 0; i < n; i++) {
        ResourceProcess *p = &processes[i];
        if (p->own || (p->session != session && !parent_own(processes, n, p->parent))) continue;
        p->own = more = true;
    }
    return more;
}

ResourceUse resource_sum(ResourceProcess *processes, size_t n, int session)
{
    ResourceUse use = { 0 };
    if (n > 1) qsort(processes, n, sizeof *processes, by_pid);
    for (size_t i = 0; i < n; i++) processes[i].own = processes[i].root;
    while (mark(processes, n, session)) continue;
    for (size_t i = 0; i < n; i++) {
        if (!processes[i].own) continue;
        use.memory_bytes += processes[i].memory_bytes;
        use.cpu_ms += processes[i].cpu_ms;
        use.processes++;
    }
    return use;
}
