/* Queue: durable tasks, claimed by workers under leases and fencing tokens.
 *
 * Promises: a submitted task survives a crash; at most one attempt of it runs with a valid fence;
 * exactly one end is recorded for each run. Every change is one store transaction, and what waits
 * in memory (claimers, watchers) is woken after its commit.
 *
 * Functions ending in _wait run on a fiber of any loop; one Queue serves them all. Its memory is
 * guarded by a mutex that is never held across a wait. Texts passed in must stay until the function
 * returns. Where a positive outcome or -errno comes back, diag has the text for the client.
 */
#ifndef GANTRY_QUEUE_QUEUE_H
#define GANTRY_QUEUE_QUEUE_H

#include "logic/budget.h"
#include "logic/cache_policy.h"
#include "logic/scaling.h"
#include "logic/waits.h"
#include "logic/worker_counts.h"
#include "store/account_store.h"
#include "store/agent_store.h"
#include "store/call_store.h"
#include "store/escalation_store.h"
#include "store/family_store.h"
#include "store/journal_store.h"
#include "store/log_store.h"
#include "store/schedule_store.h"
#include "store/score_store.h"
#include "store/session_store.h"
#include "store/shadow_store.h"
#include "store/store.h"
#include "store/task_store.h"
#include "store/tool_store.h"
#include "store/version_store.h"
#include "store/worker_store.h"

typedef struct Queue Queue;

/* Positive outcomes; each function lists the ones it gives. */
enum {
    QUEUE_E_FULL = 1,     /* the lane holds its maximum of queued tasks: 429 */
    QUEUE_E_KEY_REUSED,   /* the idempotency key belongs to another request: 422 */
    QUEUE_E_NO_AGENT,     /* no such agent */
    QUEUE_E_AGENT_NEEDED, /* the agent was left out, and there is not exactly one */
    QUEUE_E_NO_VERSION,   /* no such version of the agent, or nothing deployed */
    QUEUE_E_NO_TASK,      /* no such task */
    QUEUE_E_STATE,        /* the task's state does not allow this */
    QUEUE_E_STALE,        /* fence and task do not belong together any more: stop working on it */
    QUEUE_E_NO_WORKER,    /* the worker is unknown, lost or stopped: it must register again */
    QUEUE_E_NO_BUDGET,    /* no such budget */
    QUEUE_E_SWITCHED_OFF, /* a flag forbids tasks of this agent, version, tenant or user */
    QUEUE_E_SCHEDULES,    /* there are SCHEDULES_MAX of them */
    QUEUE_E_ESCALATIONS,  /* the task has asked ESCALATIONS_MAX times */
    QUEUE_E_NO_WEBHOOK,   /* no such webhook, or no such disabled endpoint */
    QUEUE_E_NO_RECORDING, /* the task's journal has no such recording, or not its request */
    QUEUE_E_SCORES,       /* the task has been scored by too many names */
    QUEUE_E_ACCOUNTS,     /* the tenant has its maximum of accounts: 402 */
    QUEUE_E_SHADOW,       /* a shadow must not start what really writes */
    QUEUE_E_LATE,         /* the task's deadline has passed: 422 */
};

/* Where time comes from; tests give their own. */
typedef struct {
    int64_t (*real_ms)(void *ctx); /* calendar: records, runAt */
    int64_t (*mono_ms)(void *ctx); /* monotonic: leases */
    void *ctx;
} QueueClock;

#define QUEUE_ANY (-1) /* a limit that is none, where 0 stands for a default */

typedef struct {
    int64_t queued_max[LANE_N_];        /* tasks waiting in a lane; 0: 1,000,000 */
    int64_t aging_ms;                   /* see logic/lane.h; 0: 30,000 */
    int64_t wait_objective_ms[LANE_N_]; /* late beyond; 0: 1 s, 10 s, 10 min */
    int64_t agent_tasks_max;        /* running at a time, where its manifest says nothing; 0: any */
    int64_t tenant_tasks_max;       /* running at a time, of each tenant that has a name; 0: any */
    int64_t session_tasks_max;      /* under way, where its agent's manifest says nothing; 0: 1 */
    int64_t lease_ms;               /* of a worker; 0: 10,000 */
    int64_t accounts_max;           /* of a tenant; 0: 100,000 */
    int64_t log_bytes_max;          /* log text kept a task; 0: 1 MiB */
    int64_t followers_max;          /* at a time; 0: 1,000 */
    int64_t key_kept_ms;            /* idempotency keys are remembered this long; 0: 48 hours */
    int64_t tasks_kept_ms;          /* after their end, at least key_kept_ms; 0: for ever */
    int64_t journal_bytes_max;      /* of recordings kept a task; 0: 32 MiB */
    int64_t journal_recordings_max; /* a task; 0: 2000 */
    int64_t journal_kept_ms;        /* how long after a task has come to rest; 0: 7 days */
    int64_t spend_kept_ms;          /* hourly sums of spend; 0: 400 days */
    int64_t state_keys_max;         /* of a session; 0: 1000 */
    int64_t state_bytes_max;        /* of a session's keys and values; 0: 16 MiB */
    int64_t state_value_bytes_max;  /* of one value; 0: 256 KiB */
    int64_t state_kept_ms;          /* how long after a session's last write; 0: 30 days */

    /* Writes the body of a task's webhook (JSON) when it has come to rest; pure, called on a store
     * thread with all parts of the task. NULL: bodies are left empty, for who delivers to fill. */
    void (*webhook_body)(Buf *out, const Task *task, int64_t now_ms);
    FamilyBounds family;       /* zeros: FAMILY_BOUNDS_DEFAULT */
    const BudgetRule *budgets; /* of the configuration, copied; see ledger.h */
    size_t budgets_n;
    const QueueClock *clock; /* NULL: sys/clock.h; must outlive the queue */
    ScalingRule scaling;     /* all zero: SCALING_RULE_DEFAULT */
    LaneConfig worker_slots; /* of a worker, while there is none to ask; all 0: 1 */
} QueueOptions;

/* On a plain thread, before its users start. Requeues what embedded workers of an earlier process
 * held (that process is dead, or the store's lock would not be ours) and gives remote workers a new
 * lease. Borrows store. Returns 0 or -errno with diag. */
MUST_CHECK int queue_open(Store *store, const QueueOptions *options, Queue **ret);

/* Nobody may be waiting in it. NULL is accepted. */
void queue_close(Queue *queue);
DEFINE_FREEP(Queue, queue_close)

/* The calendar as deadlines reckon with it: records, run_at, deadlines of tasks. It follows a clock
 * that is set when deadlines have been moved (queue_calendar_wait), so whoever compares with one
 * asks within the job: a clock that is set between the two ends no task. Less than a second off. */
int64_t queue_now_ms(const Queue *queue);

/* With the defaults filled in. */
const QueueOptions *queue_options(const Queue *queue);

/* The store it was opened on, for read functions of store/. */
Store *queue_store(const Queue *queue);

/* --- clients ---------------------------------------------------------------------------------- */

#define IDEMPOTENCY_KEY_BYTES_MAX 255

typedef struct {
    Str agent;      /* empty: the only one */
    Str version_id; /* empty: what the agent routes to; whole id */
    Uuid parent_id; /* zero: none */
    Uuid shadow_of; /* as in TaskRow: then it is in no session's order */
    Lane lane;
    int64_t run_at_ms;     /* calendar; 0 or past: now */
    int64_t time_limit_ms; /* from its first start; 0: unlimited */
    int64_t due_at_ms;     /* calendar; ends it in whatever state; 0: none */
    Str input;             /* JSON */
    Str metadata, limits;  /* JSON objects or empty */
    Str session_id, user_id, tenant_id, webhook_url, traceparent;
    Str idempotency_key; /* empty: none */
    Str fingerprint;     /* digest of the request the key stands for */
} TaskNew;

/* What a submitter is told. */
typedef struct {
    Uuid id;
    TaskState state;
    Lane lane;
    bool existing; /* the idempotency key had led to this task before */
    char agent[AGENT_NAME_BYTES_MAX + 1];
    char version_id[VERSION_ID_LEN + 1];
} TaskSummary;

/* Returns 0 once the task is durable (or was, under the same key), QUEUE_E_FULL,
 * QUEUE_E_KEY_REUSED, QUEUE_E_NO_AGENT, QUEUE_E_AGENT_NEEDED, QUEUE_E_NO_VERSION,
 * QUEUE_E_SWITCHED_OFF, QUEUE_E_LATE, -EAGAIN (store overloaded), -ENOSPC, -errno. */
MUST_CHECK int queue_submit_wait(Queue *queue, const TaskNew *task, TaskSummary *ret);

/* Queued or escalated: canceled at once. Running: its worker is told, and *ret_state stays
 * TASK_RUNNING. Ended: QUEUE_E_STATE. by: who or what asked ("user", "rollback"). Also
 * QUEUE_E_NO_TASK, -errno. */
MUST_CHECK int queue_cancel_wait(Queue *queue, Uuid id, Str by, TaskState *ret_state);

/* Ends the tasks that a rollback has marked and that do not run (rollout_kill). One that is left
 * over ends when it would start. Returns 0 or -errno. */
MUST_CHECK int queue_end_killed_wait(Queue *queue);

/* Queues an ended task again (failed, timed_out, canceled or escalated) as it is: the same version,
 * history kept, failures forgotten, its client's deadline when that has passed too. fresh: what
 * models and tools answered before is not served to it again. Returns 0, QUEUE_E_NO_TASK,
 * QUEUE_E_STATE (not ended, or succeeded), QUEUE_E_FULL, -errno. */
MUST_CHECK int queue_retry_wait(Queue *queue, Uuid id, bool fresh);

/* The same for many, a part at a time: those that fit, newest first, as far as one look goes. One
 * whose lane is full does not hold up those of other lanes. */
typedef struct {
    DeadFilter filter;
    int64_t below_seq; /* as in task_dead: where to go on; INT64_MAX: from the newest */
    int64_t max;       /* no more than so many, at least 1 */
    bool fresh, dry_run;
} RetryMany;

typedef struct {
    int64_t retried, skipped; /* skipped: sub-agents, and what went on meanwhile */
    int64_t below_seq;        /* for the next part; 0: there is nothing more */
    int64_t left_below_seq;   /* below this one some found no place in their lanes; 0: none */
    unsigned full_lanes; /* those, as bits: with diag. The next part had better leave them out */
} RetriedMany;

/* All of a part in one commit, so that whoever goes on behind it, or begins anew, queues none
 * twice. Returns 0, -ENOSPC, -errno. */
MUST_CHECK int queue_retry_many_wait(Queue *queue, const RetryMany *ask, RetriedMany *ret);

/* parts: TASK_PART_... Texts live in arena. Returns 0, QUEUE_E_NO_TASK, -ENOMEM, -errno. */
MUST_CHECK int queue_get_wait(Queue *queue, Uuid id, unsigned parts, Arena *arena, Task *ret);

/* As task_list: 0, -EINVAL (cursor), -ENOMEM, -errno. */
MUST_CHECK int queue_list_wait(Queue *queue, const TaskFilter *filter, Arena *arena, TaskPage *ret);

#define TASK_SCORE_NAME_BYTES_MAX 64
#define TASK_SCORE_COMMENT_BYTES_MAX 2000

typedef struct {
    Uuid id;
    int64_t fence;  /* of the attempt that says so; 0: anybody */
    Uuid worker_id; /* of that attempt, as in TaskRef */
    Str name;       /* who or what judged; not empty */
    double value;   /* 0 (useless) to 1 (perfect) */
    Str comment;    /* may be empty */
} TaskScore;

/* Keeps what somebody thinks of a task, whatever its state; the same name again replaces what it
 * said before, and the same value again changes nothing. *ret_quality: the task's
 * quality now, the mean over names once its graders are heard, else NaN; it counts for the time at
 * which the task came to rest. Returns 0, QUEUE_E_NO_TASK, QUEUE_E_STALE (not held under that
 * fence), QUEUE_E_SCORES, -errno. */
MUST_CHECK int queue_score_wait(Queue *queue, const TaskScore *score, double *ret_quality);

/* Whether it is a grader's name: nobody else may score by it. */
static inline bool score_name_is_grader(Str name)
{
    return str_starts_with(name, STR(SCORE_OF_GRADER));
}

/* What a grader said of a task. */
typedef struct {
    Str grader;   /* its name */
    double value; /* 0..1; NaN: it could not tell */
    bool held;    /* it was not asked, for want of money or room; value is NaN */
    double weight;
    Str comment; /* may be empty */
} Grade;

/* All that is to be said of a task that waits to be graded (store/grade_store.h); agent to
 * finished_at_ms as they were read. */
typedef struct {
    int64_t seq;
    Uuid id;
    Str agent, version_id;
    int64_t finished_at_ms;
    const Grade *grades;
    size_t n;
} TaskGrades;

/* Keeps them all, as scores by the names "grader:NAME", and the tasks wait no longer; one that did
 * not wait any more is left as it is. Returns 0 or -errno. */
MUST_CHECK int queue_grade_wait(Queue *queue, const TaskGrades *tasks, size_t n);

/* Why a queued task does not run, and when it may. */
typedef enum { PLACE_SLOT, PLACE_SESSION, PLACE_TIME, PLACE_N_ } PlaceKind;
const char *place_kind_name(PlaceKind kind); /* "slot", "session", "time" */

#define PLACE_COUNT_MAX 10000

typedef struct {
    bool queued;         /* else the rest says nothing */
    PlaceKind kind;      /* what it waits for */
    int64_t place;       /* slot: among its tenant's tasks of the lane that wait for one, from 1;
                       * session: among the tasks of its session that have not ended, from 1; at
                       * most PLACE_COUNT_MAX are counted; time: 0 */
    int64_t expected_ms; /* until it starts; time: at least; -1: nobody knows */
} TaskPlace;

/* Of a task as it was read; it may have moved on since. Reads a bounded number of rows. Returns 0
 * or -errno. */
MUST_CHECK int queue_place_wait(Queue *queue, const Task *task, TaskPlace *ret);

/* Seconds after which the lane, when it is full now, may have room; any thread. */
int64_t queue_retry_after_s(Queue *queue, Lane lane);

/* Watching: take a mark, read the task, then wait for the mark to move. The mark moves after every
 * committed change of the task (also new log lines and calls), and sometimes for nothing: read
 * again. queue_watch_wait returns 0 when it moved, -ETIMEDOUT, -ECANCELED. */
uint64_t queue_watch_mark(Queue *queue, Uuid id);
MUST_CHECK int queue_watch_wait(Queue *queue, Uuid id, uint64_t mark, int64_t deadline_ms);

/* Who follows a task over a long time takes one of followers_max places first. False: none is left,
 * which is counted. */
bool queue_follow_begin(Queue *queue);
void queue_follow_end(Queue *queue);

/* Waits until the task has ended, then reads it. When deadline_ms (clock_mono_ms) passes first it
 * is read as it is: look at its state. Returns 0, QUEUE_E_NO_TASK, -ENOMEM, -ECANCELED, -errno. */
MUST_CHECK int queue_end_wait(Queue *queue, Uuid id, unsigned parts, int64_t deadline_ms,
                              Arena *arena, Task *ret);

/* --- workers ---------------------------------------------------------------------------------- */

typedef struct {
    Uuid id; /* made by the worker, new at each of its starts */
    Str name;
    WorkerKind kind;
    Str slots; /* JSON object describing its slots, for people */
} WorkerNew;

/* Starts the lease. Returns 0 or -errno. */
MUST_CHECK int queue_register_wait(Queue *queue, const WorkerNew *worker);

/* No more claims for this worker; it is told on its next heartbeat, which is asked for at once.
 * Returns 0, QUEUE_E_NO_WORKER, -errno. */
MUST_CHECK int queue_drain_wait(Queue *queue, Uuid worker_id);

/* The worker leaves: what it still holds is released. Returns 0, QUEUE_E_NO_WORKER, -errno. */
MUST_CHECK int queue_leave_wait(Queue *queue, Uuid worker_id);

/* How a worker is told of its tasks at the moment they are durably its own, before the fiber that
 * claims runs again: that has to be woken first, which takes as long as all the rest of a look. */
typedef struct {
    void *ctx;
    /* On the claim's fiber; must not wait. Makes ready to tell of the tasks, which may still be
     * undone; replaces what was made before. False: it cannot be told in this way. */
    bool (*make)(void *ctx, const Task *tasks, size_t n);
    void (*send)(void *ctx); /* tells; the store thread's, while the claim's fiber is parked */
    bool stands;             /* set by queue_claim_wait: what it returns is what was made last */
} ClaimAnswer;

/* What a worker could run now. */
typedef struct {
    Uuid worker_id;
    LaneConfig slots;
    LaneUse use;         /* what it runs already */
    ClaimAnswer *answer; /* NULL: the caller tells */
} Claim;

#define CLAIM_TASKS_MAX 256

/* Claims as many ready tasks as there are free slots and limits allow, at most CLAIM_TASKS_MAX, in
 * the order of logic/lane.h and logic/line.h: waits until there is at least one. deadline_ms is
 * clock_mono_ms time. The tasks, as tasks_to_start reads them, live in arena; those that do not fit
 * stay queued. Returns 0 with *ret_n >= 1, -ETIMEDOUT, -ECANCELED (nothing was claimed),
 * QUEUE_E_NO_WORKER (also when it drains), -ENOMEM (one task alone is too big for arena),
 * -errno. */
MUST_CHECK int queue_claim_wait(Queue *queue, const Claim *claim, int64_t deadline_ms, Arena *arena,
                                Task **ret, size_t *ret_n);

typedef struct {
    Uuid id;
    int64_t fence;  /* TASK_FENCE_ACCOUNT: id is an account's, no task's */
    Uuid worker_id; /* who says that it holds it: stale where another does; zero: not looked at */
} TaskRef;
#define TASK_FENCE_ACCOUNT 0

typedef enum {
    HOLD_CANCEL, /* somebody asked to cancel it: stop, then finish as canceled */
    HOLD_STALE,  /* it is not this worker's any more: stop, report nothing */
} HoldReason;

typedef struct {
    TaskRef task;
    HoldReason reason;
} HoldStop;

typedef struct {
    HoldStop *stops; /* in arena */
    size_t stops_n;
    bool draining;
    int64_t cache_revision;  /* of purges of response caches: report when it has moved */
    int64_t prices_revision; /* of imported prices (store/price_store.h), likewise */
    int64_t flags_revision;  /* of the flags (store/flag_store.h): fetch them when it has moved */
    uint64_t budget_epoch;   /* moves when rules of budgets change: ask anew which apply */
    bool budget_wanted;      /* others wait for what this worker holds of a budget: return it */
    size_t released;         /* tasks it was given and never got: queued again just now */
    uint64_t mark;           /* for queue_signal_wait */
} HeartbeatReply;
#define HEARTBEAT_NO_MARK UINT64_MAX /* of an older control plane, which tells none */

/* A call that a worker has in flight, or whose record was not taken yet. */
typedef struct {
    Str call_id;
    TaskRef task;
    int64_t attempt;
    int64_t at_ms; /* when it began */
    Str provider, model;
    CapHold charge; /* what was held for it, or what it cost, where that was known */
} BudgetHold;

/* Calls of a task that its worker has in flight, as its last heartbeat told; one that has ended
 * since may be among them. Texts that are too long are cut. */
#define BEGUN_CALLS_MAX 16
typedef struct {
    char id[64], provider[64], model[128];
    int64_t attempt, at_ms;
} BegunCall;
typedef struct {
    BegunCall calls[BEGUN_CALLS_MAX];
    size_t n;
} BegunCalls;

/* Any thread, from memory. Who watches the task is woken when there are new ones. */
void queue_calls_begun(Queue *queue, Uuid worker_id, Uuid task_id, BegunCalls *ret);

#define BUDGET_HOLDS_MAX 16384
#define HEARTBEAT_TASKS_MAX 4096

/* What a worker has. */
typedef struct {
    const TaskRef *held; /* at most HEARTBEAT_TASKS_MAX */
    size_t held_n;
    const BudgetHold *calls; /* in flight, at most BUDGET_HOLDS_MAX */
    size_t calls_n;
    const WorkerCounts *counts; /* since its start; NULL: as told before */
} Heartbeat;

/* Renews the worker's lease and compares what it holds with the store. Tasks the store has for this
 * worker but held lacks (the answer to its claim was lost) are released half a lease after they
 * were claimed, at least a second: a fresh claim may still be on its way to it. Should the lease
 * end, the calls that it has told of last and that were never recorded are recorded as lost and
 * charged in full, to their tasks too. Returns 0, QUEUE_E_NO_WORKER, -ENOMEM, -errno. */
MUST_CHECK int queue_heartbeat_wait(Queue *queue, Uuid worker_id, const Heartbeat *beat,
                                    Arena *arena, HeartbeatReply *ret);

/* What the worker has told of itself last, since this process began; false: nothing. Any thread. */
bool queue_worker_counts(Queue *queue, Uuid worker_id, WorkerCounts *ret);

/* Waits until there is a reason to heartbeat before its time (a cancel, a drain): 0 when the mark
 * moved (perhaps for nothing), -ETIMEDOUT, -ECANCELED. */
MUST_CHECK int queue_signal_wait(Queue *queue, Uuid worker_id, uint64_t mark, int64_t deadline_ms);

/* Asks every worker for a heartbeat now: something has changed that all have to know. */
void queue_signal_workers(Queue *queue);

/* --- response caches, which are the workers' -------------------------------------------------- */

/* Has every worker forget such responses. Returns 0 once that is durable; they do so within a
 * heartbeat. -errno. */
MUST_CHECK int queue_cache_purge_wait(Queue *queue, const CachePurge *purge, int64_t *ret_revision);

/* What a worker has to forget. */
typedef struct {
    int64_t revision;
    CachePurge *purges; /* in order */
    size_t n;
} CacheNews;

/* Takes in what a worker says of its cache, and tells the purges it has not seen; texts live in
 * arena. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int queue_cache_report_wait(Queue *queue, Uuid worker_id, const CacheFigures *figures,
                                       int64_t seen, Arena *arena, CacheNews *ret);

/* What the worker said last, since this process began; false: nothing. Any thread. */
bool queue_cache_figures(Queue *queue, Uuid worker_id, CacheFigures *ret);

/* --- the end of an attempt -------------------------------------------------------------------- */

typedef struct {
    TaskRef task;
    TaskOutcome outcome; /* not LOST: that is for the queue to say */
    Str result;          /* JSON; empty: none. Dropped when the task is queued again */
    Str error_code, error_detail;
    Str stopped_by;         /* "budget", "cap", ...; may be empty */
    Str sandbox;            /* isolation tier of the attempt; may be empty */
    int64_t retry_after_ms; /* retryable, released: not before; 0: no wish */
    TaskUsage usage;        /* on top of what queue_calls_add recorded */
    TaskConduct conduct;
} TaskFinish;

/* Records the end of an attempt once: state, result, usage, attempt and webhook in one transaction.
 * ret_state (may be NULL): the task's new state, TASK_QUEUED when it will be tried again. A task
 * whose cancel was requested is not tried again. Returns 0, QUEUE_E_STALE (also for a repeated
 * report: nothing was changed), -errno (report again). */
MUST_CHECK int queue_finish_wait(Queue *queue, const TaskFinish *finish, TaskState *ret_state);

#define FINISH_TASKS_MAX 256

/* What became of one of several reports. */
typedef struct {
    int outcome;     /* 0, QUEUE_E_STALE */
    TaskState state; /* as ret_state, when outcome is 0 */
} TaskFinished;

/* Records the ends of n attempts (at most FINISH_TASKS_MAX) in one transaction, each as if it were
 * alone: a stale one leaves the others as they are, and of two for one attempt the second is stale.
 * Returns 0 (see ret, one for each), -errno (nothing was recorded: report again). */
MUST_CHECK int queue_finish_many_wait(Queue *queue, const TaskFinish *finishes, size_t n,
                                      TaskFinished *ret);

/* Records LLM calls of a running attempt with what they were answered, adds their usage to the task
 * and their cost to the budgets, from the slices of call.worker_id, in one transaction; calls whose
 * call_id the task has already are left out. Under load they wait for others, for as long as is
 * little beside what they took. A journal that is full keeps no more, which is not an error.
 * Returns 0, QUEUE_E_STALE (calls with an id are recorded all the same, without their answers: they
 * were paid for), -errno. */
MUST_CHECK int queue_calls_add_wait(Queue *queue, TaskRef task, const Call *calls, size_t calls_n);

/* The account that calls of the owner are recorded on when they belong to no task; made when it is
 * new. The owner's texts may be empty and have at most BUDGET_KEY_BYTES_MAX. With its id and
 * TASK_FENCE_ACCOUNT queue_calls_add_wait and queue_holds_wait book on it. Returns 0,
 * QUEUE_E_ACCOUNTS (a new one, and the tenant has accounts_max; counted and said in diag),
 * -errno. */
MUST_CHECK int queue_account_wait(Queue *queue, const BudgetOwner *owner, Uuid *ret);
/* Accounts as account_list has them. */
MUST_CHECK int queue_accounts_wait(Queue *queue, Str tenant, size_t max, Arena *arena,
                                   Account **ret, size_t *ret_n);

/* Keeps recordings that belong to no LLM call: what tools returned. Each once by its call_id.
 * Returns as above. */
MUST_CHECK int queue_journal_add_wait(Queue *queue, TaskRef task, const JournalNew *recordings,
                                      size_t n);

/* The recordings of a running task that its attempt may be served, numbered above after, at most
 * max; then the answer of one, as kept, and its request. What they return lives in arena. Return 0,
 * QUEUE_E_STALE, QUEUE_E_NO_RECORDING, -ENOMEM, -errno. */
MUST_CHECK int queue_journal_list_wait(Queue *queue, TaskRef task, int64_t after, size_t max,
                                       Arena *arena, JournalRow **ret, size_t *ret_n);
MUST_CHECK int queue_journal_answer_wait(Queue *queue, TaskRef task, int64_t n, Arena *arena,
                                         JournalRow *ret_row, JournalBytes *ret);
/* Whether a response of that id was an answer to the tenant whose task (or account) it is, in any
 * of its tasks. Returns 0 (it was), QUEUE_E_STALE, QUEUE_E_NO_RECORDING, -errno. */
MUST_CHECK int queue_response_owned_wait(Queue *queue, TaskRef task, Str response_id);
/* Of a shadow: the same of the production task that it repeats. */
MUST_CHECK int queue_twin_list_wait(Queue *queue, TaskRef task, int64_t after, size_t max,
                                    Arena *arena, JournalRow **ret, size_t *ret_n);
MUST_CHECK int queue_twin_answer_wait(Queue *queue, TaskRef task, int64_t n, Arena *arena,
                                      JournalRow *ret_row, JournalBytes *ret);
MUST_CHECK int queue_journal_request_wait(Queue *queue, TaskRef task, int64_t n, Buf *out);

/* Records calls of tools of a running attempt, each once by its id, and adds those that count to
 * the task's usage, in one transaction. Returns 0, QUEUE_E_STALE, -errno. */
MUST_CHECK int queue_tools_add_wait(Queue *queue, TaskRef task, const ToolRecord *records,
                                    size_t n);

/* Appends log lines, in the order of their numbers; those up to the last one that is there were
 * sent before. Past the task's limit the first lines and the last stay, those between are left out
 * and counted, and a line in their place says how many (logic/log_bound.h). ret_left_out (may be
 * NULL): lines that this call left out, whenever they came. Returns 0, QUEUE_E_STALE, -errno. */
MUST_CHECK int queue_logs_append_wait(Queue *queue, TaskRef task, const TaskLogLine *lines,
                                      size_t lines_n, size_t *ret_left_out);

/* --- questions to people ---------------------------------------------------------------------- */

#define ESCALATION_TIMEOUT_MS_MAX (INT64_C(365) * 24 * 3600 * 1000)

typedef struct {
    uint8_t key[SHA256_BYTES]; /* what tells this question from others of the task */
    int64_t occurrence;        /* of that key in the attempt, from 1 */
    Str question;              /* text */
    Str context;               /* JSON for the person, or empty */
    Str fallback;              /* JSON: the answer when nobody gives one; empty: the task fails */
    int64_t timeout_ms;        /* until then */
} EscalationAsk;

typedef struct {
    EscalationState state;
    Str answer; /* JSON: ANSWERED, DEFAULTED */
    Str by;     /* who answered; may be empty */
} EscalationReply;

/* Asks what a running task wants to know of a person, once however often its attempts ask. PENDING:
 * end the attempt as escalated; the task is queued again when there is an answer, and its next
 * attempt gets that here. What is read lives in arena. Returns 0, QUEUE_E_STALE,
 * QUEUE_E_ESCALATIONS, -ENOMEM, -errno. */
MUST_CHECK int queue_escalate_wait(Queue *queue, TaskRef task, const EscalationAsk *ask,
                                   Arena *arena, EscalationReply *ret);

/* Answers what a task asks, with JSON; a task that is escalated is queued again, past the bound of
 * its lane. ret_state: what the task is now. Returns 0, QUEUE_E_NO_TASK, QUEUE_E_STATE (it asks
 * nothing), -errno. */
MUST_CHECK int queue_resolve_wait(Queue *queue, Uuid id, Str answer, Str by, TaskState *ret_state);

/* --- state of sessions ------------------------------------------------------------------------ */

#define STATE_KEY_BYTES_MAX 200
#define STATE_TYPE_BYTES_MAX 100

typedef enum { STATE_GET, STATE_LIST, STATE_PUT, STATE_DELETE, STATE_WHAT_N_ } StateWhat;

/* For StateAsk.if_version, beside a version: whatever is there, something, nothing. */
enum { STATE_ANY = -1, STATE_PRESENT = -2, STATE_ABSENT = 0 };

typedef struct {
    StateWhat what;
    Str key;                 /* all but STATE_LIST */
    Str value, content_type; /* STATE_PUT */
    int64_t if_version;      /* writes: only if that is there */
} StateAsk;

typedef enum {
    STATE_OK,
    STATE_NONE,      /* there is nothing under that key */
    STATE_MISMATCH,  /* something else is there than was expected; row.version says what */
    STATE_FULL,      /* the session has as many keys or bytes as it may have */
    STATE_TOO_LARGE, /* the value has more bytes than one may have */
    STATE_OUTCOME_N_
} StateOutcome;

typedef struct {
    StateOutcome outcome;
    bool created;   /* STATE_PUT: there was nothing under that key */
    StateRow row;   /* STATE_GET: with its value; writes: the version that is there now */
    StateRow *rows; /* STATE_LIST: by key, without values */
    size_t rows_n;
} StateReply;

/* Reads or changes what is kept for the session of a running task: of its tenant, agent and
 * session_id, or of the task alone when it has none. A write is durable once this returns. Versions
 * are never given out twice in a session. What is read lives in arena. Returns 0 (see outcome),
 * QUEUE_E_STALE, -ENOMEM, -errno. */
MUST_CHECK int queue_state_wait(Queue *queue, TaskRef task, const StateAsk *ask, Arena *arena,
                                StateReply *ret);

/* --- sub-agents: tasks that running tasks start ----------------------------------------------- */

#define CHILD_KEY_BYTES_MAX (IDEMPOTENCY_KEY_BYTES_MAX + 8)
#define CHILD_FINGERPRINT_BYTES 32

typedef struct {
    Str key;         /* by which a later attempt of the parent finds this child again */
    Str fingerprint; /* digest of the request the key stands for */
    Str agent;       /* empty: the parent's; that one runs the parent's version */
    Str input;       /* JSON */
    Str metadata;    /* JSON object or empty */
    int64_t time_limit_ms;
    int64_t remaining_ms; /* until the parent's deadline: the child's is not later; 0: none */
    int64_t due_ms;       /* until its own, as of a client; 0: none but its parent's */
    FamilyAmount offered; /* what the parent lends, which nothing else can spend meanwhile */
    bool find_only;       /* nothing is left to lend: one that is not there is not started */
} ChildNew;

#define CHILD_NONE_STATUS 499 /* of a refusal: there is none, and it was only to be found */

/* Why there is no child, in words for the agent that asked. */
typedef struct {
    int status;       /* as of HTTP; 0: it was not refused */
    const char *code; /* literal */
} ChildRefusal;

typedef struct {
    TaskSummary task;
    FamilyAmount allotted; /* at most what was offered */
    ChildRefusal refusal;  /* with diag */
} ChildStarted;

/* Starts a child of a running task, or finds the one that was started under this key: then nothing
 * of what was offered is taken, and allotted is what that one has. It inherits lane, user, tenant,
 * place in the queue and trace. Returns 0 (look at refusal), QUEUE_E_STALE, -errno. */
MUST_CHECK int queue_child_wait(Queue *queue, TaskRef parent, const ChildNew *child,
                                ChildStarted *ret);

/* The children of a running task, as soon as their number of ended ones is not seen any more, at
 * the latest at deadline_ms. Rows live in arena. Returns 0, QUEUE_E_STALE, -ECANCELED, -ENOMEM,
 * -errno. */
MUST_CHECK int queue_children_wait(Queue *queue, TaskRef parent, int64_t seen, int64_t deadline_ms,
                                   Arena *arena, FamilyRow **ret, size_t *ret_n);
int64_t children_ended(const FamilyRow *rows, size_t n);

/* A child of a running task, with all parts. Returns 0, QUEUE_E_STALE, QUEUE_E_NO_TASK (none of
 * its), -ENOMEM, -errno. */
MUST_CHECK int queue_child_get_wait(Queue *queue, TaskRef parent, Uuid id, Arena *arena, Task *ret);

/* Cancels such a child and all below it, as queue_cancel_wait; one that has ended is left as it is.
 * Returns 0, QUEUE_E_STALE, QUEUE_E_NO_TASK, -errno. */
MUST_CHECK int queue_child_cancel_wait(Queue *queue, TaskRef parent, Uuid id);

/* --- shadows: tasks that repeat production's, unseen ------------------------------------------ */

/* A shadow to be started: behind everything else, without webhook, session or budget of its own. */
typedef struct {
    int64_t task_seq;      /* production's */
    Str version_id;        /* whole id, of the same agent: which repeats it */
    int64_t allotted_nusd; /* what it may spend, with all it starts */
} ShadowNew;

#define SHADOWS_MAX 64 /* a call */

/* Starts them for pairs of a rollout that are chosen (store/shadow_store.h), each once; what is
 * gone or started meanwhile is left out. *ret_n: how many were started. Returns 0, -ENOMEM,
 * -errno. */
MUST_CHECK int queue_shadows_start_wait(Queue *queue, int64_t rollout_seq, const ShadowNew *news,
                                        size_t n, size_t *ret_n);

/* Stops what goes on of a rollout's shadows, at most SHADOWS_MAX pairs: those that are dropped, and
 * when it is past its shadow all, whose pairs are then dropped.
 * *ret_n: how many pairs were there. Returns 0 or -errno. */
MUST_CHECK int queue_shadows_stop_wait(Queue *queue, int64_t rollout_seq, size_t *ret_n);

/* --- webhooks --------------------------------------------------------------------------------- */

/* The mark moves after each commit that put a webhook into the outbox, so that its delivery can
 * begin at once. queue_webhook_wait is as queue_watch_wait. */
uint64_t queue_webhook_mark(Queue *queue);
MUST_CHECK int queue_webhook_wait(Queue *queue, uint64_t mark, int64_t deadline_ms);

/* Sends a webhook again that was delivered or given up, under its id, as if it were new. Returns 0,
 * QUEUE_E_NO_WEBHOOK, QUEUE_E_STATE (it is pending, or its endpoint disabled), -errno. */
MUST_CHECK int queue_webhook_again_wait(Queue *queue, Str webhook_id);

/* The same for those that were given up: of a url (empty: any), since then (Unix time). Those of
 * disabled endpoints are left. Returns 0 or -errno. */
MUST_CHECK int queue_webhooks_again_wait(Queue *queue, Str url, int64_t since_ms, int64_t *ret_n);

/* Lets webhooks be sent to an endpoint that has answered 410. Returns 0, QUEUE_E_NO_WEBHOOK (it
 * was not disabled), -errno. */
MUST_CHECK int queue_webhook_enable_wait(Queue *queue, Str url);

/* --- schedules -------------------------------------------------------------------------------- */

/* Sets a schedule, whose cron is one (logic/cron.h) and is read in its zone (sys/zone.h), empty:
 * that of the process; what is there of that name is replaced. queue_tick_wait fires it, once for
 * each of its times. ret: as it is kept, texts in arena. Returns 0, QUEUE_E_NO_AGENT,
 * QUEUE_E_SCHEDULES, -ENOMEM, -errno. */
MUST_CHECK int queue_schedule_put_wait(Queue *queue, const Schedule *schedule, Arena *arena,
                                       Schedule *ret);

/* --- controller ------------------------------------------------------------------------------- */

/* Once a second, by one fiber: takes tasks from workers whose lease ran out, ends tasks far past
 * their deadline, wakes claimers for tasks that became ready, forgets old idempotency keys and what
 * is older than it is to be kept. Bounded work a call. Returns 0 or -errno. */
MUST_CHECK int queue_tick_wait(Queue *queue);

/* --- figures ---------------------------------------------------------------------------------- */

typedef struct {
    int64_t queued, running;
    int64_t oldest_ready_at_ms; /* of queued tasks; INT64_MAX: none. Only queue_stats_wait */
    uint64_t submitted, refused_full, claimed;
    uint64_t ended[TASK_STATE_N_];       /* by final state, or escalated */
    uint64_t ran, ran_ms;                /* attempts ended, and how long they took together */
    uint64_t late;                       /* attempts begun after longer than the objective */
    WaitsFigures waits;                  /* of late; for the first attempts and those after */
    double arrivals_per_s, starts_per_s; /* of late, as of the last tick */
    int64_t service_ms;                  /* what an attempt takes, likewise; 0: unknown */
    double slots_wanted;                 /* see logic/scaling.h */
    bool slots_known;                    /* scaling_knows */
    uint64_t retried;                    /* attempts after which the task was queued again, */
    uint64_t lost, released;             /* of these: with the worker, given back by it */
} QueueLaneStats;

typedef struct {
    QueueLaneStats lane[LANE_N_];
    /* calls of tools that workers reported: ran and went well, ran and did not, were not run */
    uint64_t tools_ok, tools_failed, tools_refused, tools_ms;
    /* sub-agents: started, found again, refused for a bound of families */
    uint64_t children_started, children_found, children_refused[FAMILY_GROWTH_N_];
    uint64_t stale;       /* reports refused for their fence */
    uint64_t claims_lost; /* tasks claimed that never reached their worker */
    uint64_t log_lines_left_out, log_bytes_left_out; /* of tasks' logs, for log_bytes_max */
    uint64_t journal_recordings, journal_bytes;      /* kept since start, as stored */
    uint64_t journal_dropped;                   /* not kept because the task's journal was full, */
    uint64_t journal_closed;                    /* journals that became full, */
    uint64_t journal_purged;                    /* recordings deleted after their time */
    uint64_t tasks_purged, rows_purged;         /* deleted after their time; rows of all tables */
    uint64_t schedules_fired, schedules_missed; /* times: a task each, passed over by policy, */
    uint64_t schedules_skipped;                 /* while the task of the last one went on, */
    uint64_t schedules_failed;                  /* without a task: see last_error */
    uint64_t graded, grades_failed;             /* tasks, and of graders that could not tell */
    uint64_t grades_held;                       /* for want of a judge's money, or room */
    uint64_t escalations[ESCALATION_STATE_N_];  /* asked (PENDING), and how they ended */
    uint64_t state_reads, state_writes;         /* of sessions; writes that were made, */
    uint64_t state_mismatches, state_refused;   /* that met another version, had no room */
    uint64_t state_purged;                      /* sessions and values deleted after their time */
    uint64_t accounts_refused;                  /* for accounts_max */
    uint64_t refused_disk;  /* tasks not taken because the disk is nearly full */
    uint64_t limited;       /* lines passed over at a limit, by claims */
    uint64_t session_waits; /* tasks that waited for others of their session, and do no more */
    /* for want of room: questions of a task, schedules, names that score a task */
    uint64_t escalations_refused, schedules_refused, scores_refused;
    uint64_t claimers;                     /* waiting for a task */
    uint64_t watchers;                     /* waiting for a change */
    uint64_t followers, followers_refused; /* of tasks; for followers_max */
} QueueStats;

/* Any thread, from memory; counts since start but for queued and running. */
void queue_stats(Queue *queue, QueueStats *ret);

/* The same with oldest_ready_at_ms, read from an index. Returns 0 or -errno. */
MUST_CHECK int queue_stats_wait(Queue *queue, QueueStats *ret);

#endif
