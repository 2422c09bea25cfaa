/* WorkerLink: how a worker talks to the control plane, whatever lies between.
 *
 * Two implementations: in the same process on the Queue (link_local.c), and over HTTP to `gantry
 * serve` (link_http.c). A link serves one worker and belongs to that worker's loop. Nothing in it
 * tries twice: who reports decides how long it is worth trying.
 *
 * Every function runs on a fiber. Beside what it lists it returns -ECANCELED and other -errno with
 * diag: the control plane could not be asked, or had trouble of its own; ask again later.
 */
#ifndef GANTRY_WORKER_LINK_H
#define GANTRY_WORKER_LINK_H

#include "gateway/gateway.h"
#include "gateway/rate_board.h"
#include "net/http_client.h"
#include "queue/ledger.h"
#include "queue/queue.h"

typedef struct WorkerLink WorkerLink;

enum {
    LINK_E_STALE = 1,  /* task and fence do not belong together any more: stop, report nothing */
    LINK_E_NO_WORKER,  /* the worker is unknown, lost or stopped: register again */
    LINK_E_REFUSED,    /* will never be accepted as it is (too large, malformed); diag says why */
    LINK_E_NO_VERSION, /* no such version, or its code is gone */
    LINK_E_NO_RECORDING,
    LINK_E_NO_CHILD, /* the task has started no such task */
};

/* What became of a call of a tool. */
typedef enum {
    TOOL_OUTCOME_OK,
    TOOL_OUTCOME_FAILED,    /* the tool said so */
    TOOL_OUTCOME_TROUBLE,   /* something is wrong around it: not reached, killed, HTTP 5xx */
    TOOL_OUTCOME_TIMEOUT,   /* over its timeout */
    TOOL_OUTCOME_TOO_LARGE, /* it gave more than its outputBytesMax */
    TOOL_OUTCOME_CHANGED,   /* its server describes it otherwise than the version */
    TOOL_OUTCOME_UNKNOWN,   /* the version declares none of that name */
    TOOL_OUTCOME_OF_AGENT,  /* it has no source: the agent runs it itself */
    TOOL_OUTCOME_ARGUMENTS, /* do not fit its schema */
    TOOL_OUTCOME_DENIED,    /* by its rules */
    TOOL_OUTCOME_OFF,       /* by a flag */
    TOOL_OUTCOME_CAP,       /* toolCallsPerTask or secondsPerTask is reached */
    TOOL_OUTCOME_OPEN,      /* the breaker of its source is open */
    TOOL_OUTCOME_N_
} ToolOutcome;

/* What a worker says of itself. */
typedef struct {
    const char *name; /* for people */
    LaneConfig slots;
} LinkWorker;

/* What it is told. */
typedef struct {
    char worker_id[UUID_TEXT_MAX];
    int64_t lease_ms;     /* without a heartbeat for so long, its tasks are given to others */
    int64_t heartbeat_ms; /* how often to report, at most lease_ms / 3 */
} LinkLease;

#define LINK_NO_DEADLINE INT64_MAX

/* An attempt to run. */
typedef struct {
    TaskRef ref;
    int64_t attempt;
    Str agent, version_id;
    Lane lane;
    Str input;            /* JSON */
    Str limits, metadata; /* JSON objects or empty */
    Str session_id, user_id, tenant_id, traceparent;
    int64_t remaining_ms; /* until the task's deadline, may be negative; LINK_NO_DEADLINE: none */
    bool given;           /* it is the one that the task's client gave */
    TaskUsage spent;      /* by earlier attempts */
    int64_t ran_ms;       /* likewise: how long they ran, without the time between them */
    bool shadow;          /* it repeats a production task: nothing outside may change by it */
} LinkTask;

/* A child that was started or found, or why not: then status is set. */
typedef struct {
    Uuid id;
    TaskState state;
    bool existing;
    Str agent, version_id;
    FamilyAmount allotted;
    int status; /* as of HTTP */
    Str code, detail;
} LinkChild;

/* What there is to know of a version. */
typedef struct {
    Str id;         /* 64 hex digits */
    Str components; /* canonical JSON, see logic/version.h */
    Str artifact;   /* SHA-256 of its packed code, 64 hex digits; empty: no code */
} LinkVersion;

/* What the flags are (logic/flag.h). */
typedef struct {
    const FlagSet *set;
    int64_t revision; /* 0: none was ever set */
} LinkFlags;

typedef struct {
    /* Starts a lease under a new id, which the link keeps for all that follows. */
    int (*register_wait)(WorkerLink *link, const LinkWorker *worker, LinkLease *ret);

    /* Claims tasks for the free slots: waits up to wait_ms until there is one, then takes as many
     * as are ready and fit. *ret_n may be 0. They live in arena. Returns 0, LINK_E_NO_WORKER (also
     * while the worker drains). */
    int (*claim_wait)(WorkerLink *link, const LaneConfig *free, int64_t wait_ms, Arena *arena,
                      LinkTask **ret, size_t *ret_n);

    /* Renews the lease; *ret names what to stop. Returns 0, LINK_E_NO_WORKER. */
    int (*heartbeat_wait)(WorkerLink *link, const Heartbeat *beat, Arena *arena,
                          HeartbeatReply *ret);

    /* Waits for a reason to heartbeat before its time: 0, -ETIMEDOUT. mark: of the last reply. */
    int (*signal_wait)(WorkerLink *link, uint64_t mark, int64_t deadline_ms);

    /* Reads all flags; they live in arena. To be called when a heartbeat's answer has another
     * revision than the flags that are known. */
    int (*flags_wait)(WorkerLink *link, Arena *arena, LinkFlags *ret);

    /* Appends the imported prices to out, as an object of entries keyed by model. To be called when
     * a heartbeat's answer has another revision than the prices that are known. */
    int (*prices_wait)(WorkerLink *link, Buf *out);

    /* Says how this worker's response cache does, and reads what it is to forget since seen; texts
     * live in arena. To be called when a heartbeat's answer has another cache revision than was
     * seen, and now and then. Returns 0, LINK_E_NO_WORKER. */
    int (*cache_wait)(WorkerLink *link, const CacheFigures *figures, int64_t seen, Arena *arena,
                      CacheNews *ret);
    /* Tells of rate limits and breakers, and learns the worker's shares, for *ret_ttl_ms from when
     * it was asked; ret: as many as telling->limits. *ret_ttl_ms 0: nothing is shared, all is its
     * own. Returns 0, LINK_E_NO_WORKER. */
    int (*rates_wait)(WorkerLink *link, const RateTelling *telling, GatewayShare *ret,
                      int64_t *ret_ttl_ms);

    /* Records the end of an attempt. Idempotent by fence: a repetition is LINK_E_STALE. Returns 0,
     * LINK_E_STALE, LINK_E_REFUSED. */
    int (*finish_wait)(WorkerLink *link, const TaskFinish *finish);

    /* Records model calls durably, each once by its id. payer_id: under whose lease their
     * money was set aside, which may be an earlier one of this link; zero: the one it has now.
     * Returns 0, LINK_E_STALE, LINK_E_REFUSED. */
    int (*calls_wait)(WorkerLink *link, TaskRef task, Uuid payer_id, const GatewayCall *calls,
                      size_t calls_n);

    /* Records calls of tools durably, each once by its id, and counts those that count by
     * themselves. Returns 0, LINK_E_STALE, LINK_E_REFUSED. */
    int (*tools_wait)(WorkerLink *link, TaskRef task, const ToolRecord *records, size_t n);

    /* How good the agent says its work is; score->fence is the attempt's. Returns 0, LINK_E_STALE,
     * LINK_E_REFUSED (it has been scored by too many names). */
    int (*score_wait)(WorkerLink *link, const TaskScore *score);

    /* Reads recordings of the task's earlier attempts. Returns 0, LINK_E_STALE,
     * LINK_E_NO_RECORDING. */
    int (*journal_wait)(WorkerLink *link, TaskRef task, const JournalAsk *ask, Arena *arena,
                        JournalReply *ret);

    /* Records what a tool returned durably, once by its call_id. Returns 0, LINK_E_STALE,
     * LINK_E_REFUSED. */
    int (*journal_add_wait)(WorkerLink *link, TaskRef task, const JournalNew *recording);

    /* Reads or changes what is kept for the task's session; what is read lives in arena. Returns 0
     * (see ret->outcome), LINK_E_STALE, LINK_E_REFUSED. */
    int (*state_wait)(WorkerLink *link, TaskRef task, const StateAsk *ask, Arena *arena,
                      StateReply *ret);

    /* Puts a question to a person, once, or learns the answer, which lives in arena. Returns 0 (see
     * ret->state), LINK_E_STALE, LINK_E_REFUSED (too many). */
    int (*escalate_wait)(WorkerLink *link, TaskRef task, const EscalationAsk *ask, Arena *arena,
                         EscalationReply *ret);

    /* Gives back and asks for slices of budgets; see GatewayControl. Also LINK_E_NO_WORKER. */
    int (*grants_wait)(WorkerLink *link, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                       BudgetAnswer *ret);

    /* The account of calls without a task (queue_account_wait). NULL: there are none here. */
    int (*account_wait)(WorkerLink *link, const BudgetOwner *owner, Uuid *ret);

    /* Tells what a worker that is dead had in flight (its list was found). Returns 0,
     * LINK_E_NO_WORKER (this one), LINK_E_REFUSED. */
    int (*holds_wait)(WorkerLink *link, Uuid dead_id, const BudgetHold *holds, size_t n);

    /* Starts a child of the task, or finds it again; see queue_child_wait. detail of a refusal
     * lives in arena. Returns 0 (also when it was refused), LINK_E_STALE, LINK_E_REFUSED. */
    int (*child_start_wait)(WorkerLink *link, TaskRef task, const ChildNew *child, Arena *arena,
                            LinkChild *ret);

    /* The task's children, once other than seen of them have ended or after wait_ms; in arena.
     * Returns 0, LINK_E_STALE. */
    int (*children_wait)(WorkerLink *link, TaskRef task, int64_t seen, int64_t wait_ms,
                         Arena *arena, FamilyRow **ret, size_t *ret_n);

    /* A child as clients see a task (JSON), in arena. Returns 0, LINK_E_STALE, LINK_E_NO_CHILD. */
    int (*child_wait)(WorkerLink *link, TaskRef task, Uuid child, Arena *arena, Str *ret);

    /* Cancels a child and what it has started. Returns 0, LINK_E_STALE, LINK_E_NO_CHILD. */
    int (*child_cancel_wait)(WorkerLink *link, TaskRef task, Uuid child);

    /* Appends log lines; seq counts from 1 in the attempt. Returns 0, LINK_E_STALE, LINK_E_REFUSED.
     */
    int (*logs_wait)(WorkerLink *link, TaskRef task, const TaskLogLine *lines, size_t lines_n);

    /* Describes a version; texts live in arena. Returns 0, LINK_E_NO_VERSION. */
    int (*version_wait)(WorkerLink *link, Str version_id, Arena *arena, LinkVersion *ret);

    /* Appends the version's packed code to out, as stored: a tar, perhaps gzipped. The digest is
     * not checked. Returns 0, LINK_E_NO_VERSION, -EFBIG (more than out takes). */
    int (*artifact_wait)(WorkerLink *link, const LinkVersion *version, Buf *out);

    /* Says that the worker drains: claims end, the one under way, too. Returns 0,
     * LINK_E_NO_WORKER. */
    int (*drain_wait)(WorkerLink *link);

    /* Says goodbye: what is still held is released. Returns 0, LINK_E_NO_WORKER. */
    int (*leave_wait)(WorkerLink *link);

    void (*free)(WorkerLink *link);
} WorkerLinkOps;

struct WorkerLink {
    const WorkerLinkOps *ops;
};

typedef struct {
    Queue *queue;
    int64_t lease_ms; /* the queue's; 0: its default, 10,000 */
    RateBoard *board; /* borrowed; NULL: nothing is shared */
    /* Writes a task as clients see it (observe/task_json.h); needed to read children. */
    void (*task_json)(JsonOut *out, const Task *task, unsigned flags);
} LinkLocalOptions;
/* What task_json is given for flags: the result was read, so one that is not there is null. */
#define LINK_TASK_JSON_FLAGS 2u

/* A link to the queue in this process; artifacts come from its store's directory. Borrows the
 * queue. */
WorkerLink *link_local_new(const LinkLocalOptions *options);

typedef struct {
    HttpClient *client; /* of the same loop; borrowed */
    const char *url;    /* of `gantry serve`, without a final slash */
    const char *key;    /* API key with the scope "worker"; NULL: none is sent */
    int64_t timeout_ms; /* of a request, beyond what it asks the server to wait; 0: 10,000 */
} LinkHttpOptions;

/* A link over HTTP (wire.h). Copies url and key. */
WorkerLink *link_http_new(const LinkHttpOptions *options);

/* No call may be under way. NULL is accepted. On its loop. */
void link_free(WorkerLink *link);
DEFINE_FREEP(WorkerLink, link_free)

#endif
