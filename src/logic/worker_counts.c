#include "logic/worker_counts.h"

static const char *const names[WORKER_COUNT_N_] = {
    [WORKER_COUNT_ATTEMPTS] = "attempts",
    [WORKER_COUNT_SUSPENDED] = "suspended",
    [WORKER_COUNT_SUSPENSIONS] = "suspensions",
    [WORKER_COUNT_SUSPENSIONS_REFUSED] = "suspensionsRefused",
    [WORKER_COUNT_STUCK] = "stuck",
    [WORKER_COUNT_STALE] = "stale",
    [WORKER_COUNT_LEASES_LOST] = "leasesLost",
    [WORKER_COUNT_HEARTBEATS_FAILED] = "heartbeatsFailed",
    [WORKER_COUNT_CLAIMS_RENEWED] = "claimsRenewed",
    [WORKER_COUNT_LIMIT_MEMORY] = "limitMemory",
    [WORKER_COUNT_LIMIT_CPU] = "limitCpu",
    [WORKER_COUNT_LIMIT_PROCESSES] = "limitProcesses",
    [WORKER_COUNT_LIMIT_FILES] = "limitFiles",
    [WORKER_COUNT_LIMIT_SCRATCH] = "limitScratch",
    [WORKER_COUNT_LIMIT_OUTPUT] = "limitOutput",
    [WORKER_COUNT_SERVERS_STARTED] = "serversStarted",
    [WORKER_COUNT_SERVERS_FAILED] = "serversFailed",
    [WORKER_COUNT_SERVERS_CROWDED] = "serversCrowded",
    [WORKER_COUNT_TOOL_CALLS] = "toolCalls",
    [WORKER_COUNT_TOOL_ERRORS] = "toolErrors",
    [WORKER_COUNT_TOOLS_CROWDED] = "toolsCrowded",
    [WORKER_COUNT_TOOLS_REPEATED] = "toolsRepeated",
    [WORKER_COUNT_TOOLS_CLASHED] = "toolsClashed",
    [WORKER_COUNT_CHILDREN_CROWDED] = "childrenCrowded",
    [WORKER_COUNT_CGROUPS_FAILED] = "cgroupsFailed",
    [WORKER_COUNT_MCP_CROWDED] = "mcpCrowded",
    [WORKER_COUNT_VERSIONS_FETCHED] = "versionsFetched",
    [WORKER_COUNT_LOG_LINES_DROPPED] = "logLinesDropped",
};

const char *worker_count_name(WorkerCount count)
{
    assert(count < WORKER_COUNT_N_);
    return names[count];
}

void worker_counts_write(JsonOut *out, const WorkerCounts *counts)
{
    json_out_object(out);
    for (size_t i = 0; i < WORKER_COUNT_N_; i++)
        if (counts->v[i]) json_out_ki64(out, names[i], counts->v[i]);
    json_out_object_end(out);
}

WorkerCounts worker_counts_read(const Json *v)
{
    WorkerCounts counts;
    for (size_t i = 0; i < WORKER_COUNT_N_; i++)
        counts.v[i] = MAX(json_i64_or(json_get(v, names[i]), 0), 0);
    return counts;
}
