/* Tasks, their payloads, results and attempts: the rows behind the queue. Functions run inside a
 * store job. Rules (who may claim, when to try again) live in queue/ and logic/, not here. Unless
 * they say more, functions return 0 or -errno with diag.
 */
#ifndef GANTRY_STORE_TASK_STORE_H
#define GANTRY_STORE_TASK_STORE_H

#include "codec/uuid.h"
#include "logic/task.h"
#include "store/db.h"
#include "store/escalation_store.h"
#include "store/journal_store.h"
#include "store/page.h"

typedef struct {
    int64_t input_tokens, output_tokens, cached_tokens; /* as reported */
    int64_t charged_tokens; /* against the cap: whole holds where nothing was reported */
    int64_t llm_calls, tool_calls, replayed_calls;
    int64_t cached_calls;   /* answered from the response cache */
    int64_t degraded_calls; /* not answered as they would be with money and providers to choose */
    int64_t cost_nusd;
} TaskUsage;

/* Which of the longer texts a read fetches besides the row. */
enum {
    TASK_PART_PAYLOAD = 1, /* input, metadata, limits */
    TASK_PART_RESULT = 2,
    TASK_PART_QUESTION = 4, /* what an escalated task asks */
};

typedef struct {
    int64_t seq; /* order of submission */
    Uuid id;
    Uuid parent_id; /* the task that started this one; zero: none */
    Uuid shadow_of; /* the production task that it repeats, unseen; zero: it is one itself */
    Str agent, version_id;
    Lane lane;
    TaskState state;
    int64_t attempt;  /* of the run that goes on or was last; 0 before the first claim */
    int64_t failures; /* attempts that failed, since submission or the last retry by hand */
    int64_t losses;   /* attempts lost with their worker, likewise */
    int64_t fence;    /* the token of the last claim; 0 before, and tried again by hand */
    Uuid worker_id;   /* holder while running, the last one after; zero: none yet */
    int64_t created_at_ms, ready_at_ms;
    int64_t started_at_ms;  /* of the last attempt, 0: never */
    int64_t ran_ms;         /* how long the ended ones ran, since the last retry by hand */
    int64_t finished_at_ms; /* 0: not ended */
    int64_t time_limit_ms;  /* from its first start; 0: unlimited */
    int64_t
        deadline_at_ms; /* first start + limit, due_at_ms when that is earlier; no attempt starts
                             * at or after it; 0: none */
    int64_t due_at_ms;  /* its client's deadline, which holds in every state; 0: none */
    bool cancel_requested;
    Str session_id, user_id, tenant_id, webhook_url, traceparent;
    Str error_code, error_detail; /* empty when it succeeded */
    Str stopped_by;               /* what ended it early ("budget", "user", ...); may be empty */
    TaskUsage usage;
    double quality;   /* 0..1, NaN: not scored */
    int64_t children; /* that it has started */

    /* parts: empty unless asked for */
    Str input;           /* JSON */
    Str metadata;        /* JSON object, or empty */
    Str limits;          /* JSON object overriding the version's limits, or empty */
    Str result;          /* JSON, or empty */
    Escalation question; /* question.question is empty: it asks nothing */
} Task;

/* What task_insert takes: agent and version_id must exist. */
typedef struct {
    Uuid id, parent_id;
    Str agent, version_id;
    Lane lane;
    int64_t created_at_ms;
    int64_t ready_at_ms;   /* earliest start */
    int64_t time_limit_ms; /* 0: unlimited */
    int64_t due_at_ms;     /* 0: none; also its deadline until it starts */
    Str input, metadata, limits;
    Str session_id, user_id, tenant_id, webhook_url, traceparent;
    int64_t session_max; /* tasks of its session that may be under way; 0: any number */
    Uuid shadow_of;      /* zero: it is a production task */
} TaskRow;

/* A shadow that repeats no task in particular: one that another has started, as production's has
 * not. */
extern const Uuid shadow_no_twin;

MUST_CHECK int task_insert(Db *db, const TaskRow *row, int64_t *ret_seq);
/* The same for n of them at once, in this order. None has a session_max. */
MUST_CHECK int task_insert_many(Db *db, const TaskRow *rows, size_t n, int64_t *seqs);

/* Texts live in arena. Returns 0, -ENOENT, -ENOMEM (arena full), -errno. */
MUST_CHECK int task_get(Db *db, Uuid id, unsigned parts, Arena *arena, Task *ret);
MUST_CHECK int task_get_by_seq(Db *db, int64_t seq, unsigned parts, Arena *arena, Task *ret);

/* Several that may be started, which costs less than one by one: those of the *n that come before
 * the first which is not there or does not fit. *n becomes their number. With their payloads, but
 * without what the start of an attempt does not ask for: failures, losses, the worker and times of
 * the attempt before, webhook, parent and children, error and quality. Returns as task_get_by_seq
 * of the first. */
#define TASKS_TO_START_MAX 64
MUST_CHECK int tasks_to_start(Db *db, const int64_t *seqs, size_t *n, Arena *arena, Task *ret);

/* The few columns rules are decided by. */
typedef struct {
    int64_t seq;
    Uuid id;
    Lane lane;
    TaskState state;
    int64_t attempt, failures, losses, fence;
    int64_t started_at_ms, time_limit_ms, deadline_at_ms, due_at_ms;
    Uuid worker_id;
    bool cancel_requested;
    bool has_webhook;
    Uuid parent_id;        /* zero: none */
    int64_t children;      /* that it has started */
    int64_t session_max;   /* as in TaskRow */
    bool shadow;           /* it repeats a production task, unseen */
    uint64_t tenant, kind; /* as in logic/line.h */
} TaskHead;

/* Returns 0, -ENOENT, -errno. */
MUST_CHECK int task_head(Db *db, Uuid id, TaskHead *ret);
MUST_CHECK int task_head_by_seq(Db *db, int64_t seq, TaskHead *ret);

/* Those of n tasks, which costs less than one by one; all zero where there is no such task. Returns
 * 0 or -errno. */
#define TASK_HEADS_MAX 64
MUST_CHECK int task_heads(Db *db, const Uuid *ids, size_t n, TaskHead *ret);

/* --- claiming --------------------------------------------------------------------------------- */

/* count new fences, the last of which is returned: greater than any before, for ever. */
MUST_CHECK int fence_take(Db *db, int64_t count, int64_t *ret_last);
/* The greatest so far. */
MUST_CHECK int fence_last(Db *db, int64_t *ret);

/* queued -> running, in *task alone (as read in this job, its deadline not passed): next attempt,
 * fence, worker and deadline set. */
void task_start(Task *task, Uuid worker_id, int64_t fence, int64_t now_ms);

/* The task of a row that is not inserted yet, as tasks_to_start would read it: for task_start.
 * Returns 0 or -ENOMEM. */
MUST_CHECK int task_of_row(const TaskRow *row, Arena *arena, Task *ret);

/* task_insert of a row whose gate is open, and task_started of the task made from it, in one. Sets
 * its seq. */
MUST_CHECK int task_insert_started(Db *db, const TaskRow *row, Task *task);

/* Writes what task_start has changed, in the same job: n different tasks, which cost less together.
 * More than one: all of them from open lines. */
MUST_CHECK int task_started(Db *db, const Task *tasks, size_t n);

/* --- ending ----------------------------------------------------------------------------------- */

/* What the agent did in an attempt, for its version's signals. */
typedef struct {
    bool known;           /* else nobody looked */
    uint64_t fingerprint; /* logic/pattern.h */
    Str tools;            /* its calls by tool, as tool_use_add writes them; may be empty */
} TaskConduct;

#define TASK_CONDUCT_TOOLS_MAX 8192 /* bytes */

typedef struct {
    TaskNext next;       /* new state, counts and time; its error code is not looked at */
    TaskOutcome outcome; /* of the attempt */
    int64_t now_ms;
    Str error_code, error_detail; /* of the attempt, and of the task when it is not queued again */
    Str stopped_by;               /* empty: what is there stays */
    Str sandbox;     /* isolation tier the attempt ran under, recorded with it; may be empty */
    TaskUsage usage; /* added to the task's */
    TaskConduct conduct;
    Str result; /* stored when the task ends or escalates; may be empty */
} TaskEnd;

/* running -> end->next.state, the attempt's row written, the result stored. head: as read in this
 * job. */
MUST_CHECK int task_end(Db *db, const TaskHead *head, const TaskEnd *end);

/* The same for several at a time, which costs less than one by one: all come to an end, none was
 * lost, and no task is there twice. */
#define TASK_ENDINGS_MAX 64
typedef struct {
    TaskHead head;
    TaskEnd end;
} TaskEnding;
MUST_CHECK int task_end_many(Db *db, const TaskEnding *endings, size_t n);

/* queued or escalated -> state, an end, without an attempt. */
MUST_CHECK int task_stop(Db *db, int64_t seq, TaskState state, Str error_code, Str stopped_by,
                         int64_t now_ms);

/* It would have asked a person. */
MUST_CHECK int task_count_escalation(Db *db, int64_t seq);

/* Marks a running task. */
MUST_CHECK int task_request_cancel(Db *db, int64_t seq, Str stopped_by);

/* escalated -> queued, behind others of its session: all it has stays; its deadline moves by what
 * the calendar did meanwhile, even backwards, but not beyond its client's. */
MUST_CHECK int task_resume(Db *db, int64_t seq, int64_t now_ms);

/* At rest -> queued, behind others of its session: failures, losses, deadline, error, result and
 * quality are cleared, its client's deadline when that has passed; history and usage stay. */
MUST_CHECK int task_restart(Db *db, int64_t seq, int64_t now_ms);

/* --- running tasks ---------------------------------------------------------------------------- */

/* Running tasks of a worker after seq, at most *n; *n becomes their number. */
MUST_CHECK int task_running_of(Db *db, Uuid worker_id, int64_t after_seq, TaskHead *heads,
                               size_t *n);

/* Running tasks whose deadline passed before ms, at most *n. */
MUST_CHECK int task_overdue(Db *db, int64_t ms, TaskHead *heads, size_t *n);

/* Queued tasks whose deadline passed at ms or before, and escalated ones whose client's did, at
 * most *n, of each the latest first. Each may end before its turn, with another of them. */
MUST_CHECK int task_late(Db *db, int64_t ms, int64_t *seqs, size_t *n);

/* Moves the deadlines of all tasks that are queued or running by ms, which may be negative, those
 * of their clients and of the clients of escalated ones, and the times before which those that have
 * run are not tried again. Walks the partial indexes: for a
 * clock that was set. */
MUST_CHECK int task_move_deadlines(Db *db, int64_t ms);

/* Number of tasks queued and running in each lane. Walks the partial indexes: for start-up. */
MUST_CHECK int task_counts(Db *db, int64_t ret_queued[LANE_N_], int64_t ret_running[LANE_N_]);

/* --- during a run ----------------------------------------------------------------------------- */

MUST_CHECK int task_add_usage(Db *db, int64_t seq, const TaskUsage *usage);

/* How far a task's calls have got. */
typedef struct {
    JournalFill journal;
    int64_t last_id; /* see call_insert */
} TaskCalls;

/* The same for a task that runs under the fence and whose calls have got as far as was says: is is
 * put in its place. Returns 0, -ENOENT (it is not so: what was is known from may have been undone),
 * -errno. */
MUST_CHECK int task_add_usage_held(Db *db, int64_t seq, int64_t fence, const TaskUsage *usage,
                                   const TaskCalls *was, const TaskCalls *is);

/* Of whom and of what a task is. */
typedef struct {
    int64_t seq, attempt;
    Str agent, version_id, tenant_id, user_id;
    JournalFill journal;
    int64_t last_call_id; /* see call_insert */
    bool shadow;
    Uuid worker_id; /* zero: it does not run, or is an account */
} TaskFacts;

/* Texts live in arena. fence: the task runs under it; 0: in any state. Returns 0, -ENOENT, -ENOMEM,
 * -errno. */
MUST_CHECK int task_facts(Db *db, Uuid id, int64_t fence, Arena *arena, TaskFacts *ret);

/* Bytes of log kept so far for the task, and lines dropped for the limit. */
MUST_CHECK int task_log_usage(Db *db, int64_t seq, int64_t *ret_bytes, int64_t *ret_dropped);
MUST_CHECK int task_set_log_usage(Db *db, int64_t seq, int64_t bytes, int64_t dropped);

/* quality in 0..1; NaN: none. Returns 0, -ENOENT, -errno. */
MUST_CHECK int task_set_quality(Db *db, Uuid id, double quality);

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct {
    int state;      /* a TaskState, -1: any */
    int lane;       /* a Lane, -1: any */
    Str agent;      /* empty: any */
    Str version_id; /* empty: any; whole id */
    bool shadows;   /* shadows alone; else none of them */
    Str cursor;     /* empty: from the newest */
    size_t limit;   /* 0: PAGE_ROWS_DEFAULT */
} TaskFilter;

typedef struct {
    Task *tasks; /* newest first, without parts */
    size_t n;
    PageCursor next;
} TaskPage;

/* Looks at a bounded number of rows: a page may hold fewer than limit tasks, even none, and still
 * have a next cursor. Returns 0, -EINVAL (cursor), -ENOMEM, -errno. */
MUST_CHECK int task_list(Db *db, const TaskFilter *filter, Arena *arena, TaskPage *ret);

/* Which of the tasks that ended without success. */
typedef struct {
    int state;                         /* TASK_FAILED, _TIMED_OUT or _CANCELED; -1: the first two */
    Str agent, version_id, error_code; /* empty: any */
    int64_t since_ms;                  /* submitted from then on */
    unsigned lanes_not;                /* without those of these lanes, as bits */
} DeadFilter;

#define DEAD_TASKS_MAX 64
#define DEAD_SCAN_MAX 10000 /* rows that one look goes through */
typedef struct {
    int64_t seqs[DEAD_TASKS_MAX];
    size_t n;
    int64_t below_seq; /* where the next look goes on, and may find more; 0: there is no more */
} DeadTasks;

/* Those below below_seq, newest first, as far as one look goes: at most max (1 to DEAD_TASKS_MAX),
 * which may be none though there are more. Sub-agents are among them, shadows are not. Returns 0 or
 * -errno. */
MUST_CHECK int task_dead(Db *db, const DeadFilter *filter, int64_t below_seq, size_t max,
                         DeadTasks *ret);

typedef struct {
    int64_t attempt, fence;
    Uuid worker_id;
    int64_t started_at_ms, finished_at_ms; /* finished 0: goes on */
    Str outcome, error_code, error_detail, sandbox;
} Attempt;

#define ATTEMPT_LIST_MAX 1000

/* The attempts of a task in order. Returns 0, -ENOMEM, -errno. */
MUST_CHECK int attempt_list(Db *db, int64_t task_seq, Arena *arena, Attempt **ret, size_t *ret_n);

/* Likewise those after that one, at most max. */
MUST_CHECK int attempt_list_after(Db *db, int64_t task_seq, int64_t after, size_t max, Arena *arena,
                                  Attempt **ret, size_t *ret_n);

#endif
