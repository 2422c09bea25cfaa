/* Run: one attempt of a task, from its claim to the one report of its end.
 *
 * Two fibers: the supervisor keeps the clock, obeys stops, settles and reports; the runner does
 * what the version's runtime says (run_process.c, run_builtin.c, run_server.c). Stopping cancels
 * the runner only. Private to worker/; belongs to the worker's loop.
 */
#ifndef GANTRY_WORKER_RUN_H
#define GANTRY_WORKER_RUN_H

#include <stdatomic.h>

#include "logic/program.h"
#include "net/breakers.h"
#include "store/tool_store.h"
#include "sys/cgroup.h"
#include "sys/process.h"
#include "worker/conduct.h"
#include "worker/holds.h"
#include "worker/stuck.h"
#include "worker/task_log.h"
#include "worker/versions.h"

#define RUN_ARENA_BYTES_MAX ((size_t)256 << 20)
#define RUN_DETAIL_BYTES_MAX 4096

/* Counted by runs, read by any thread. */
typedef struct {
    atomic_uint_fast64_t started, stale, outputs_too_large, log_lines_dropped;
    atomic_uint_fast64_t stuck; /* ended because they did nothing any more */
    atomic_uint_fast64_t tool_outcomes[TOOL_OUTCOME_N_];
    atomic_uint_fast64_t tool_us;        /* spent by those that ran */
    atomic_uint_fast64_t tools_crowded;  /* refused: DOOR_CALLS_MAX under way */
    atomic_uint_fast64_t tools_repeated; /* asked for again, and given the same result */
    atomic_uint_fast64_t
        tools_clashed; /* refused: their id is another call's, or its result lost */
    atomic_uint_fast64_t children_crowded;    /* refused: DOOR_WAITS_MAX under way */
    atomic_uint_fast64_t suspensions;         /* slots given back by runs that wait */
    atomic_uint_fast64_t suspensions_refused; /* given back whole: too many wait already */
    atomic_uint_fast64_t cgroups_failed;      /* programs started without, though there are some */
    atomic_uint_fast64_t mcp_crowded;         /* refused: too many MCP sessions */
    atomic_uint_fast64_t tools_not_recorded;  /* beyond RUN_TOOL_RECORDS_MAX */
    atomic_uint_fast64_t servers_started, servers_failed, servers_crowded;
    atomic_uint_fast64_t limits_hit[RESOURCE_N_]; /* by agents and tools */
    atomic_uint_fast64_t ended[TASK_OUTCOME_N_];
} RunCounters;

typedef struct Run Run;

/* Tasks that the run has started; see children.h. */
typedef struct {
    List list;
    size_t open_n;
    int64_t ended_n;
    struct ChildCount *counts; /* of bodies: no more than there are children and recordings */
    size_t counts_n;
    size_t starts; /* under way; none that the control plane has not answered is on the list */
    size_t waits;  /* under way for them */
    FiberRef watcher;
    bool watching, closed;
} RunChildren;

/* What the worker lends to its runs. */
typedef struct RunHost {
    WorkerLink *link;
    Gateway *gateway;
    const GatewayConfig *models;
    HttpClient *client;
    Versions *versions;
    struct Servers *servers; /* those that it has started itself */
    const AddrGuard *guard;
    Breakers *breakers;                    /* of tool sources */
    void (*flags_doubted_wait)(void *ctx); /* reads the flags anew; on a run's fiber */
    /* A run waits for tasks it has started (goes on): its slot is free for another meanwhile. */
    void (*suspend)(void *ctx, Run *run);
    void (*resume)(void *ctx, Run *run);
    bool (*may_suspend)(void *ctx); /* else a run that is suspended is stopped */
    void *ctx;
    Holds *holds;                 /* calls in flight */
    Uuid worker_id;               /* of the lease that the worker has, or had last */
    const char *dir;              /* absolute */
    char cgroup[CGROUP_BASE_MAX]; /* see group.h */
    const char *path, *node_path;
    int64_t grace_ms;
    int64_t stuck_ms; /* see stuck.h; 0: never */
    size_t output_bytes_max, log_bytes_max;
    size_t mcp_sessions_n; /* of all runs */
    bool torn_down;        /* the loop ends: reports are tried once */
    RunCounters counters;
} RunHost;

/* Why a run was stopped before its end. */
typedef enum {
    RUN_GOING,
    RUN_CANCELED,     /* somebody cancelled the task */
    RUN_ESCALATED,    /* a person is asked; it goes on in another attempt */
    RUN_CROWDED,      /* too many wait for sub-agents: released, for a while */
    RUN_SWITCHED_OFF, /* a flag says that such tasks must not run */
    RUN_STUCK,        /* it does nothing any more */
    RUN_TIMED_OUT,    /* over its wall clock */
    RUN_KILLED,       /* the worker goes away: released */
    RUN_STALE,        /* no longer ours: nothing is reported */
} RunStop;

/* What a runner found. Texts live in the run's arena, code and stopped_by are literals. */
typedef struct {
    TaskOutcome outcome;
    Str result; /* JSON, or empty */
    const char *code;
    Str detail;
    const char *stopped_by;
    int64_t retry_after_ms;
} RunEnd;

struct Run {
    ListNode node; /* on the worker's list */
    RunHost *host;
    void (*on_end)(Run *run, void *ctx); /* the last thing it does; frees nothing of the run */
    void *on_end_ctx;

    LinkTask task;  /* in arena */
    Uuid worker_id; /* under whose lease it runs, and its calls set money aside */
    Arena arena;
    char id[UUID_TEXT_MAX];
    FiberRef supervisor, runner;
    Cond changed; /* the runner ended, or set the deadline */
    Stuck stuck;
    bool runner_ended;
    RunStop stop;
    RunEnd end;
    Conduct conduct;
    TaskConduct conducted; /* once it has ended */

    VersionUse *version;
    CapLimits limits;
    int64_t started_ms;        /* clock_mono_ms */
    int64_t deadline_ms;       /* likewise; DEADLINE_NONE until the limits are known */
    int64_t deadline_at_ms;    /* Unix time */
    bool deadline_given;       /* by the task's client: no limit of its own is reached before */
    char scratch[FS_PATH_MAX]; /* where its programs have their home; run_scratch_wait makes it */
    bool scratch_used, scratch_made;
    TaskLog log;
    GatewayTask *gateway;
    GatewaySink sink;
    Process *process;         /* the agent's, while it runs */
    Program *life;            /* of the process; see child.c */
    bool tools_started;       /* some programs of tools */
    int64_t groups_n;         /* cgroups that were to be made */
    size_t tools_n;           /* calls of tools under way */
    Uuid7Gen tool_ids;        /* in the order in which they began */
    struct ServerUse *server; /* that it is in, one of this worker's; see servers.h */

    List mcp_sessions; /* see mcp.h */
    size_t mcp_sessions_n;
    uint8_t asked[ESCALATIONS_MAX][SHA256_BYTES]; /* keys of questions of this attempt */
    size_t asked_n;
    List tools_once; /* see tool_once.h */
    List door_calls; /* under way; see door.h */
    size_t door_calls_n;
    size_t door_tasks_n; /* of these: about sub-agents, which mostly wait */
    bool door_closed;
    RunChildren children;
    bool suspended;        /* its slot is given back */
    int64_t tool_records;  /* of this attempt */
    int64_t tools_counted; /* of these, what the control plane was told to count */
};

/* Starts the attempt; task is copied. Returns 0, -ENOMEM, -EAGAIN (no fiber): nothing was
 * started. */
MUST_CHECK int run_start(RunHost *host, const LinkTask *task, void (*on_end)(Run *, void *),
                         void *ctx, Run **ret);

/* Stops the attempt; it ends soon after. A stronger reason replaces a weaker one. Never waits. */
void run_stop(Run *run, RunStop why);

/* --- for the runtimes ------------------------------------------------------------------------- */

/* Each runs the agent to its end and sets run->end. Returns 0, -ECANCELED (stopped), or -errno with
 * diag for troubles of the worker: those are tried again. */
MUST_CHECK int run_process_wait(Run *run);
MUST_CHECK int run_builtin_wait(Run *run);
MUST_CHECK int run_server_wait(Run *run);

/* Makes the record of a tool call durable; beyond RUN_TOOL_RECORDS_MAX only what counts is. On a
 * fiber. Returns 0 or -ECANCELED: the lease is lost, the run is being stopped. */
#define RUN_TOOL_RECORDS_MAX 1000
MUST_CHECK int run_record_tool_wait(Run *run, const ToolRecord *record);

/* Sets run->end to a failure; the detail is formatted. Returns 0. */
int run_fail(Run *run, TaskOutcome outcome, const char *code, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* Sets run->end: the agent has used more than this limit of its version allows, which is named.
 * crowd: other tasks had a part in it, so another attempt may find room. last_words: may be empty.
 * Returns 0. */
int run_fail_limit(Run *run, Resource over, bool crowd, Str last_words);

/* Of the agent's result: as its version says, or as the worker allows. */
size_t run_output_max(const Run *run);

/* Sets run->end to success. The result is text itself when that is JSON, else text as a JSON
 * string; nothing when it is empty. objects_only: numbers, strings and the like count as text.
 * Surrounding white space is dropped. Returns 0, -ENOMEM with diag. */
MUST_CHECK int run_succeed_wait(Run *run, Str text, bool objects_only);

/* The object that an agent is given. Returns 0 or -ENOMEM. */
MUST_CHECK int run_input(Run *run, Buf *out);

/* Makes the home and the directory for temporary files of the run's programs, unless they are
 * there. On a fiber, also several at a time. Returns 0, -ECANCELED, or another -errno with diag,
 * never -ENOENT or -EACCES, which tell of a program that cannot be started. */
MUST_CHECK int run_scratch_wait(Run *run);

/* The environment of a child, built from scratch: in arena, NULL-terminated. models: with the
 * gateway's addresses, for the agent; without, for a tool. Returns 0 or -ENOMEM. */
MUST_CHECK int run_env(const Run *run, Arena *arena, bool models, const char *const **ret);

#endif
