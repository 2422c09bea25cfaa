/* Worker: claims tasks, runs agents, reports what became of them.
 *
 * A slot is taken before a task is claimed for it, so nothing claimed ever waits. Each attempt has
 * a fiber that supervises and one that runs the agent; heartbeats have a fiber of their own and do
 * not depend on how long a run takes. The end of an attempt is reported once, again and again until
 * the control plane took it or the lease is lost; a worker whose lease is lost stops what it runs
 * and reports nothing.
 *
 * An attempt runs as its version's runtime says: `process` (run_process.c), `builtin`
 * (run_builtin.c), `server` (run_server.c). README.md says what the agent finds around it.
 *
 * A WorkerHost belongs to one loop, which is also the gateway's. worker_stats may be called from
 * any thread, everything else from the loop.
 */
#ifndef GANTRY_WORKER_WORKER_H
#define GANTRY_WORKER_WORKER_H

#include "logic/resource.h"
#include "net/breakers.h"
#include "worker/front.h"
#include "worker/link.h"

/* (`Worker` is the row in the store.) */
typedef struct WorkerHost WorkerHost;

/* Server agents that the worker starts itself. */
typedef struct {
    int64_t idle_ms;  /* unwanted for so long, a server ends; 0: 10 minutes */
    int64_t ping_ms;  /* between pings of one that is ready; 0: 5000 */
    int64_t start_ms; /* until it must be healthy; 0: 30,000 */
    size_t max;       /* at a time; 0: 64 */
    /* Finds a TCP port of loopback that nobody listens on. Returns 0 or -errno with diag; NULL: the
     * system's choice. */
    int (*port_find)(uint16_t *ret);
} ServersOptions;

typedef struct {
    WorkerLink *link;            /* borrowed, as all pointers here */
    Gateway *gateway;            /* of this loop */
    const GatewayConfig *models; /* what the gateway was made with */
    HttpClient *client;          /* of this loop: http tools and server agents */
    const char *name;            /* NULL: the host's name */
    LaneConfig slots;            /* lane_config_ok(), at most HEARTBEAT_TASKS_MAX in all */
    const char *dir;  /* versions and scratch; made if absent, used by one worker at a time */
    int64_t grace_ms; /* between SIGTERM and SIGKILL; 0: 5000 */
    int64_t stuck_ms; /* an agent that does nothing for so long is ended; 0: never */
    size_t output_bytes_max; /* of an agent's stdout; 0: 8 MiB */
    size_t log_bytes_max;    /* kept of an attempt's log; 0: 1 MiB */
    size_t versions_max;     /* unpacked at the same time; 0: 64 */
    int64_t suspended_max;   /* tasks that wait for others without a slot; 0: 16 a slot; beyond
                              * it they are given back, to be claimed anew */
    const char *path;        /* PATH of agents; NULL: the usual directories */
    const char *node_path;   /* NODE_PATH of agents; NULL: unset */
    ServersOptions servers;  /* server agents that it starts itself */
    Front *front;            /* of this loop; what it has for callers of models; NULL: none */
    bool front_only;         /* claims nothing: slots are not looked at */
    bool cgroups;            /* programs get some, where that is possible: see group.h */
    const AddrGuard *guard;  /* what http tools may reach; NULL: public addresses only */
} WorkerOptions;

/* Takes the directory (a lock file in it) and clears what an earlier process left there. On a
 * fiber. Options are copied. Returns 0, -EBUSY (another worker uses the directory), -EINVAL
 * (slots), -errno; with diag. */
MUST_CHECK int worker_open_wait(const WorkerOptions *options, WorkerHost **ret);

/* Registers and works until worker_drain or worker_kill has been obeyed, or the control plane asked
 * it to drain and nothing runs any more; then leaves. A control plane that does not answer is asked
 * for ever. Returns 0, -ECANCELED (as if killed), -EACCES (the key was refused at the start). */
MUST_CHECK int worker_run_wait(WorkerHost *worker);

/* Tells the control plane, and claims nothing any more once it knows; what runs is finished, then
 * worker_run_wait returns. On a fiber or in a callback of the loop. */
void worker_drain(WorkerHost *worker);

/* Ends what runs at once, by SIGKILL where it is a process, and gives the tasks back as released.
 */
void worker_kill(WorkerHost *worker);

/* After worker_run_wait, or instead of it. NULL is accepted. */
void worker_free(WorkerHost *worker);
DEFINE_FREEP(WorkerHost, worker_free)

typedef struct {
    char id[UUID_TEXT_MAX]; /* "" before it is registered */
    LaneConfig slots;
    int64_t running[LANE_N_];
    bool draining;
    uint64_t started;
    uint64_t ended[TASK_OUTCOME_N_];
    uint64_t stale; /* attempts whose end nobody wanted any more */
    uint64_t stuck; /* attempts ended because they did nothing any more */
    uint64_t leases_lost;
    uint64_t heartbeats_failed;
    uint64_t outputs_too_large;
    uint64_t servers_started, servers_failed; /* server agents */
    uint64_t servers_crowded;         /* attempts for which there was no room for their server */
    uint64_t limits_hit[RESOURCE_N_]; /* limits of a version that ended an agent or a tool */
    uint64_t log_lines_dropped;
    uint64_t tool_calls, tool_errors; /* that ran; of these, that did not go well */
    uint64_t tools[TOOL_OUTCOME_N_];
    uint64_t tool_us;
    uint64_t tools_crowded;       /* refused: too many under way in their task */
    uint64_t tools_repeated;      /* asked for again: given the result of the first call */
    uint64_t tools_clashed;       /* refused: their id is another call's, or its result is lost */
    int64_t suspended;            /* tasks that wait for sub-agents, without a slot */
    uint64_t suspensions;         /* such waits so far, */
    uint64_t suspensions_refused; /* and tasks given back instead: too many wait */
    uint64_t claims_renewed;      /* times claims were given up: their answers were lost */
    uint64_t children_crowded;    /* refused: too many requests about sub-agents in a task */
    uint64_t cgroups_failed;      /* programs started without, though there are some */
    uint64_t mcp_crowded;         /* refused: too many MCP sessions of the task or the worker */
    uint64_t tools_not_recorded;  /* calls that the timeline has no row of */
    uint64_t versions_fetched;
} WorkerStats;

/* The breakers of tool sources; live as long as the worker. */
Breakers *worker_breakers(const WorkerHost *worker);

/* Any thread. */
void worker_stats(const WorkerHost *worker, WorkerStats *ret);

#endif
