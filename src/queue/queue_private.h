/* What the files of queue/ share. */
#ifndef GANTRY_QUEUE_QUEUE_PRIVATE_H
#define GANTRY_QUEUE_QUEUE_PRIVATE_H

#include <pthread.h>

#include "base/list.h"
#include "base/map.h"
#include "logic/attempt.h"
#include "queue/ledger.h"
#include "queue/queue.h"
#include "store/line_store.h"
#include "store/retention_store.h"
#include "store/rollout_store.h"
#include "store/rollup_store.h"

#define TASK_MARKS_N \
    1024 /* powers of two: several tasks share a mark, which wakes some for nothing */
#define WORKER_MARKS_N 64
#define END_TASKS_MAX 256 /* tasks one job takes from a worker */

typedef struct Claimer Claimer; /* a fiber that waits for a task */

/* A number that moves when something has changed, and the fibers that wait for that. */
typedef struct {
    uint64_t value;
    List waiters;
} Mark;

#define WANTED_MAX 256 /* workers that are to return what they hold; more are told later */

/* A rule, and where it is from. */
typedef struct {
    BudgetRule *list; /* sorted by budget_scope_cmp */
    size_t n;
    Arena arena;
} RuleList;

typedef struct {
    RuleList config; /* of the configuration; never changes */
    RuleList rules;  /* in force; the store thread's */
    Map in_flight;   /* what workers have told of, by their ids; the store thread's */

    /* under the queue's lock */
    uint64_t epoch;
    List askers;
    uint64_t asked; /* numbers them */
    Uuid wanted[WANTED_MAX];
    size_t wanted_n;
    LedgerStats stats;
} Ledger;
#define WORKER_REPORTS_MAX 512 /* likewise */
typedef struct {
    Uuid worker_id; /* zero: free */
    int64_t at_ms;
    WorkerCounts counts;
} WorkerReport;

#define CACHE_REPORTS_MAX 512 /* workers; beyond that the oldest is forgotten */
typedef struct {
    Uuid worker_id; /* zero: free */
    int64_t at_ms;
    CacheFigures figures;
} CacheReport;

typedef struct KnownTasks KnownTasks;
typedef struct JournalPlaces JournalPlaces;

#define TENANT_BYTES_MAX 256

/* The line at which a look at very many lines ended; without an agent: it reached all. */
typedef struct {
    char tenant[TENANT_BYTES_MAX + 1], agent[AGENT_NAME_BYTES_MAX + 1];
} LineCursor;

/* Whose turn it is. The store thread's; not kept over a restart. What an undone job has changed
 * here stays, which is harmless. */
typedef struct {
    LaneTurns turns;
    Fair used[LANE_N_];         /* by tenant */
    FairCosts costs[LANE_N_];   /* by tenant and agent */
    LineCursor cursor[LANE_N_]; /* behind these the next look begins */
} Turns;

struct Queue {
    Store *store;
    QueueOptions options; /* defaults filled in */
    QueueClock clock;
    _Atomic int64_t calendar_ms; /* real less monotonic time, as deadlines reckon with it */
    int64_t steady_base_ms;      /* makes steady time from monotonic time */
    Uuid7Gen ids;                /* the store thread's */
    KnownTasks *known;           /* the store thread's */
    Turns *turns;                /* likewise */
    ClockSets sets;              /* likewise; others read it under the lock */
    int64_t aged_at_ms;          /* likewise: see queue_ages */
    JournalPlaces *places;       /* the store's reading thread's */
    int64_t purge_at_ms;         /* the ticking fiber's */
    int64_t schedules_looked_ms; /* likewise: calendar_ms when schedules were last looked at */
    RetentionWalk retention;     /* likewise */
    int64_t retention_at_ms;     /* likewise: when to begin the next walk */

    pthread_mutex_t lock; /* guards what follows; never held across a wait */
    QueueStats stats;
    uint64_t ready_mark;   /* moves when a task may have become ready */
    bool limited[LANE_N_]; /* the last look passed over tasks at a limit */
    Waits waits[LANE_N_];
    Scaling scaling[LANE_N_];
    LinesWaiting waiting[LANE_N_]; /* at the last tick */
    List claimers;                 /* waiting for a task, in order of arrival */
    Mark tasks[TASK_MARKS_N];
    Mark workers[WORKER_MARKS_N];
    Mark webhooks;
    Ledger ledger;
    CacheReport caches[CACHE_REPORTS_MAX];
    WorkerReport reports[WORKER_REPORTS_MAX];
    FenceMarks fences;
};

/* --- time ------------------------------------------------------------------------------------- */

/* What the calendar is ahead of monotonic time now. */
int64_t queue_calendar_ms(const Queue *queue);

/* As the calendar when the queue was opened, and monotonic from there: leases, so that a clock that
 * is set does not end them all. */
int64_t queue_steady_ms(const Queue *queue);

/* When the calendar was set since: moves the deadlines of tasks along, which are spans of time to
 * those who run them. Before jobs that look at deadlines; cheap. Returns 0 or -errno. */
MUST_CHECK int queue_calendar_wait(Queue *queue);

/* Inside a job: whether what is old by the calendar may be deleted. Not for six hours after the
 * calendar was set a day ahead: that may be a mistake, and what is gone (what a month has cost,
 * keys) is gone.
 */
bool queue_ages(const Queue *queue);

/* --- what a job changed, told to memory after its commit -------------------------------------- */

#define TOUCHED_MAX 32

/* Tasks that changed beside the ones a job is about, and workers that are to heartbeat for it. More
 * than there is room for: all are woken, which is too many but never too few. */
typedef struct {
    Uuid tasks[TOUCHED_MAX], workers[TOUCHED_MAX];
    size_t tasks_n, workers_n;
} Touched;

typedef struct {
    int queued[LANE_N_], running[LANE_N_]; /* changes of the counts */
    unsigned ready[LANE_N_];               /* tasks that were queued: claimers to wake */
    unsigned claimed[LANE_N_], retried[LANE_N_], lost[LANE_N_], released[LANE_N_];
    unsigned ended[LANE_N_][TASK_STATE_N_];
    unsigned ran[LANE_N_]; /* attempts ended, and how long they took */
    int64_t ran_ms[LANE_N_];
    unsigned stale;
    unsigned session_waits;
    bool webhook;
    Touched touched;
} Effects;

/* Any thread, without the lock. */
void queue_apply(Queue *queue, const Effects *effects);

/* One more of queue->stats. Any thread, without the lock. */
void queue_count(Queue *queue, uint64_t *counter);

void touch_task(Effects *effects, Uuid id);
void touch_worker(Effects *effects, Uuid id);

/* Moves the mark of a task or a worker. */
void queue_task_changed(Queue *queue, Uuid id);

/* Runs a job that records what a running attempt does, and wakes who watches the task. Returns what
 * the job does; QUEUE_E_STALE is counted. */
MUST_CHECK int queue_record_wait(Queue *queue, TaskRef task, StoreFn fn, void *job);
void queue_worker_signal(Queue *queue, Uuid id);
uint64_t queue_signal_mark(Queue *queue, Uuid worker_id);

/* Room on the disk for one more task: 0 or -ENOSPC with diag. */
MUST_CHECK int queue_room(Queue *queue);

/* A place in the lane for one more queued task. Returns 0 or QUEUE_E_FULL with diag. */
MUST_CHECK int queue_reserve(Queue *queue, Lane lane);

/* Counts a task that was not taken in because of what these two have said; only then: who asks
 * again for one that was taken in before is answered all the same. Any thread, without the lock. */
void queue_refused(Queue *queue, Lane lane, int r);
void queue_unreserve(Queue *queue, Lane lane);

/* The reserved place holds a committed task now; claimed: the same commit has given it away. */
void queue_submitted(Queue *queue, Lane lane, bool claimed);

/* --- families (family.c) ---------------------------------------------------------------------- */

/* Inside a job: the task of head has ended. Its parent gets back what was not spent; what it has
 * started and is not done is stopped. Cheap for tasks without relatives. */
MUST_CHECK int family_ended(const Queue *queue, Db *db, const TaskHead *head, int64_t now_ms,
                            Effects *effects);

/* Inside a job: stops every task below this one: at once what waits, by its worker what runs. */
MUST_CHECK int family_stop(const Queue *queue, Db *db, const TaskHead *head, Str by, int64_t now_ms,
                           Effects *effects);

/* Inside a job: an ended task turns out to have used more. */
MUST_CHECK int family_late(Db *db, int64_t task_seq, const TaskUsage *usage);

/* --- budgets (ledger.c) ----------------------------------------------------------------------- */

/* At opening, on a plain thread. */
MUST_CHECK int ledger_open(Queue *queue);
void ledger_close(Queue *queue);

/* The start of the day, as budgets count days. */
int64_t ledger_day_ms(int64_t at_ms);

/* Inside a job: books what recorded calls of the owner, that began in the day of at_ms and were
 * reported by the worker, have cost. */
MUST_CHECK int ledger_settle(Queue *queue, Db *db, const BudgetOwner *owner, Uuid worker_id,
                             int64_t at_ms, const CapHold *spent);

/* Inside a job: of such calls less was not spent after all, and again will be settled next. */
MUST_CHECK int ledger_refund(Queue *queue, Db *db, const BudgetOwner *owner, Uuid worker_id,
                             int64_t at_ms, const CapHold *less, const CapHold *again);

/* Somebody who waits for a budget may get it now, or never. Any thread, without the lock. */
void ledger_changed(Queue *queue);

/* Likewise, after jobs that booked calls: wakes only those for whom too much is spent now. */
void ledger_settled(Queue *queue);

/* Fills in what a heartbeat tells of budgets. */
void ledger_beat(Queue *queue, Uuid worker_id, HeartbeatReply *reply);

/* Inside a job, now and then: adds up what workers that are gone have spent, forgets old windows
 * and old sums of spend. */
MUST_CHECK int ledger_purge(Queue *queue, Db *db, int64_t now_ms);

/* Inside a job. Returns 0, QUEUE_E_NO_WORKER with diag, -errno. */
MUST_CHECK int worker_lives(Db *db, Uuid id);

/* --- calls in flight (in_flight.c), all inside jobs ------------------------------------------- */

/* A worker that lives tells what it has in flight; it replaces what it told before. Without memory
 * for it, it is known of no call. */
void in_flight_keep(Queue *queue, Uuid worker_id, const BudgetHold *holds, size_t n);

/* The lease ends: what the worker told last and was never recorded is lost. Comes before the end of
 * its attempts, for their totals. Nothing is forgotten, for the job may be undone. */
MUST_CHECK int in_flight_lose(Queue *queue, Db *db, Uuid worker_id);

/* Now and then: forgets what workers had that are gone. */
MUST_CHECK int in_flight_purge(Queue *queue, Db *db);

void in_flight_deinit(Map *workers);

/* Records a call as lost and charges it in full, unless it is recorded already. */
MUST_CHECK int hold_lose(Queue *queue, Db *db, Uuid worker_id, const BudgetHold *hold);
/* --- claiming (claim.c) ----------------------------------------------------------------------- */

/* A claim: what it asks for, and what one look at the store has found. */
typedef struct {
    Queue *queue;
    const Claim *claim;
    Arena *arena;
    int64_t now_ms;
    Task *tasks; /* in arena */
    size_t n, room;
    size_t read;    /* behind the n: tasks that are likely to come next, as they are in the store */
    size_t written; /* of the n: in the store, too */
    int64_t fence, fences_left;
    bool more;                /* the look did not reach all lines */
    int64_t next_ready_at_ms; /* when n is 0: the earliest task to come, INT64_MAX: none */
    Effects effects;
    Uuid late[CLAIM_TASKS_MAX]; /* tasks this look has ended: their deadline had passed */
    size_t late_n;
} ClaimJob;

/* One look, inside a job. Returns 0, QUEUE_E_NO_WORKER, -errno. */
MUST_CHECK int claim_look(Db *db, ClaimJob *job);

/* One look, inside a job, for a task that is about to be inserted, where nothing else waits that
 * might have to start before it: it is inserted as started, which is less to write. Returns 0 with
 * its seq, -ENOENT (it is not inserted: insert it, then look), QUEUE_E_NO_WORKER, -errno. */
MUST_CHECK int claim_new(Db *db, ClaimJob *job, const TaskRow *row, int64_t *ret_seq);

/* What a look has found is durable. Any thread, without the lock. */
void claim_looked(const ClaimJob *job);

/* --- submitting (clients.c) ------------------------------------------------------------------- */

typedef struct {
    Queue *queue;
    const TaskNew *task;
    int64_t now_ms;
    TaskSummary summary;
    int64_t seq; /* of the new task */

    /* of the agent's rollout; seq 0: none, or the version was given */
    RolloutRouting rollout;
    RolloutUnit unit;
    bool unit_is_new; /* or has a new arm: it has to be stored */
    char unit_text[ROUTE_UNIT_MAX], id_text[UUID_TEXT_MAX]; /* the unit's */

    bool plain;       /* no version was asked for, and neither a rollout nor a flag had a say */
    Claimer *claimer; /* taken for this task; see claimer_take */
    bool looked;      /* for that one, in the same transaction */
    bool claimed;     /* the task has been given to some claimer there */
} SubmitJob;

/* Inside a job: the agent and version of a new task, with what may refuse it; then the task. Return
 * as queue_submit_wait. */
MUST_CHECK int submit_choose(Db *db, SubmitJob *job, Arena *arena);
MUST_CHECK int submit_insert(Db *db, SubmitJob *job);

/* --- whose turn it is (lines.c) --------------------------------------------------------------- */

#define LINES_MAX 128         /* lines of a lane that one look compares */
#define LINES_PROBES_MAX 1024 /* lines of a lane that it reads for that */
#define PERMITS_MAX 1536      /* limits that a look compares with, a third for each lane */

#define LINE_AHEAD_MAX 64 /* of one line, read at a time */

/* What may still be started of an agent or a tenant. */
typedef struct {
    uint64_t key;
    int64_t left;
} Permit;

typedef struct {
    LineHead head;
    size_t agent, tenant; /* its permits */
    bool child;           /* at a limit, which holds otherwise for who was started by another */
} LinePlace;

/* One look of a claim at what waits. On a store thread's stack, inside a job. */
typedef struct {
    const Queue *queue;
    const Claim *claim;
    int64_t now_ms;
    int64_t steady_ms; /* of what was used, which a clock that is set neither forgets nor keeps */
    int64_t back_since_ms; /* as clock_back_since_ms */
    LaneUse use;
    LaneHead heads[LANE_N_];
    Line lines[LANE_N_][LINES_MAX];
    LinePlace places[LANE_N_][LINES_MAX];
    size_t n[LANE_N_];
    Permit permits[PERMITS_MAX];
    size_t permits_n;
    unsigned limited[LANE_N_]; /* lines passed over at a limit */
    bool more;                 /* there are lines that it did not reach */
    Arena arena;

    Lane lane; /* the task chosen */
    size_t at;
    LineSpot ahead[LINE_AHEAD_MAX]; /* those of its line that are next: ahead_at up to ahead_n */
    size_t ahead_at, ahead_n;
    Lane ahead_lane;
    size_t ahead_of; /* that line */
} Choice;

/* Looks. choice_deinit in any case. Returns 0 or -errno. */
MUST_CHECK int choice_init(Choice *choice, Db *db, const Queue *queue, const Claim *claim,
                           int64_t now_ms);
void choice_deinit(Choice *choice);

/* Whether there is nothing that could start, now or when something else ends. */
bool choice_empty(const Choice *choice);

/* Adds a line to those found. Returns 0 or -errno. */
MUST_CHECK int choice_offer(Choice *choice, Db *db, Lane lane, const LineHead *head);

/* The task that should start next; 0: none. It may have ended since it was found. */
int64_t choice_next(Choice *choice);

/* Tasks ended meanwhile: what was read ahead is read anew. */
void choice_forget(Choice *choice);

/* Those that come after it in its line, as far as they were read ahead, at most max: how many. */
size_t choice_ahead(const Choice *choice, int64_t *ret_seqs, size_t max);

/* It was started (or, not started, ended instead). Returns 0 or -errno. */
MUST_CHECK int choice_made(Choice *choice, Db *db, bool started);

/* --- figures over time (tick.c) --------------------------------------------------------------- */

/* Takes the first look at arrivals, starts and ends, from which they are counted; ticks take
 * others. Blocks; without the lock. Returns 0 or -errno. */
MUST_CHECK int rates_begin(Queue *queue);

/* --- waiting ---------------------------------------------------------------------------------- */

uint64_t mark_read(Queue *queue, const Mark *mark);

/* With the lock. */
void mark_move(Mark *mark);

/* Returns 0 when the mark is not seen any more, -ETIMEDOUT, -ECANCELED. */
MUST_CHECK int mark_wait(Queue *queue, Mark *mark, uint64_t seen, int64_t deadline_ms);

#define CLAIMER_LOOKED 1

/* Parks a claimer that can take tasks of the lanes until one may be ready. seen: ready_mark before
 * it looked. Returns as mark_wait; CLAIMER_LOOKED: who has submitted a task has looked for it
 * meanwhile, *job has what was found, and claim_looked has told. */
MUST_CHECK int claimer_wait(Queue *queue, const bool lanes[LANE_N_], uint64_t seen,
                            int64_t deadline_ms, ClaimJob *job);

/* Takes the claimer that has waited longest for tasks of the lane; NULL: none waits. It stays
 * parked, and its job is the caller's, until it is given back: looked: a transaction that is
 * durable now has looked for it. Any thread. */
Claimer *claimer_take(Queue *queue, Lane lane);
ClaimJob *claimer_job(Claimer *claimer);
void claimer_give(Claimer *claimer, bool looked);

/* The claimer's job has tasks that are not durable yet, and nothing writes to it until then: its
 * fiber may make the answer meanwhile, which claimer_give then sends. */
void claimer_found(Claimer *claimer);

/* Wakes up to n claimers that can take tasks of the lane. */
void claimers_wake(Queue *queue, Lane lane, unsigned n);
void claimers_wake_all(Queue *queue);

/* --- inside jobs ------------------------------------------------------------------------------ */

/* How an attempt ended, for task_conclude. */
typedef struct {
    TaskOutcome outcome;
    int64_t now_ms;
    uint64_t random;
    int64_t retry_after_ms;
    Str error_code, error_detail, stopped_by, sandbox, result;
    TaskUsage usage;
    TaskConduct conduct;
    bool blameless; /* LOST, but it says nothing about the task: not counted as its loss */
} Conclusion;

/* Records the end of a running attempt: what logic/task.h says becomes of the task, the attempt,
 * the usage, the result and the webhook. Returns 0 or -errno. */
MUST_CHECK int task_conclude(const Queue *queue, Db *db, const TaskHead *head,
                             const Conclusion *conclusion, Effects *effects, TaskState *ret_state);

/* The same for many in one job, which costs less: ends from which nothing else follows are gathered
 * and written together, and all of them before what comes next could see that they are not yet.
 * Lives inside the job, without rows and heads at first; endings_write comes last. Return 0 or
 * -errno. endings_held: of the first of n reports, as task_held; the tasks of those behind it are
 * read with it. */
typedef struct {
    size_t n;
    TaskEnding rows[TASK_ENDINGS_MAX];

    size_t heads_at, heads_n; /* read and not used: true until something is written */
    TaskHead heads[TASK_HEADS_MAX];
} Endings;
MUST_CHECK int endings_held(Endings *endings, Db *db, const TaskFinish *finishes, size_t n,
                            TaskHead *ret);
MUST_CHECK int endings_add(Endings *endings, const Queue *queue, Db *db, const TaskHead *head,
                           const Conclusion *conclusion, Effects *effects, TaskState *ret_state);
MUST_CHECK int endings_write(Endings *endings, Db *db);

/* Ends a task that does not run. Returns 0 or -errno. */
MUST_CHECK int task_conclude_idle(const Queue *queue, Db *db, const TaskHead *head, TaskState state,
                                  Str error_code, Str by, int64_t now_ms, Effects *effects);

/* Cancels a task on behalf of `by`: at once, or by its worker, with all below it. Returns 0,
 * QUEUE_E_STATE with diag (it has ended), -errno. */
MUST_CHECK int task_cancel_for(const Queue *queue, Db *db, const TaskHead *head, Str by,
                               int64_t now_ms, Effects *effects);

/* The same for one whose deadline has passed. */
MUST_CHECK int task_conclude_late(const Queue *queue, Db *db, const TaskHead *head, int64_t now_ms,
                                  Effects *effects);

/* The task's quality becomes the mean of its scores; its version's changes with it. Returns 0 or
 * -errno. */
MUST_CHECK int score_changed(Db *db, const TaskHead *head);

/* A line of the task's log, as far as there is room. Returns 0 or -errno. */
MUST_CHECK int score_log(const Queue *queue, Db *db, const TaskHead *head, Str text,
                         int64_t now_ms);

/* Says so; returns QUEUE_E_STALE. */
int task_stale(void);

/* Whether it is that worker who holds it by its own words. */
bool ref_is_of(TaskRef ref, Uuid worker_id);

/* The running task of a reference: 0, QUEUE_E_STALE, -errno. */
MUST_CHECK int task_held(Db *db, TaskRef ref, TaskHead *ret);

/* What was kept of recordings; told to memory after the commit. */
typedef struct {
    unsigned recordings, dropped, closed;
    size_t bytes;
} JournalKept;

/* Keeps a recording of the running attempt, unless the journal is full. fill, last: as in
 * journal_add. Returns 0 or -errno. */
MUST_CHECK int journal_keep(const Queue *queue, Db *db, const JournalOf *of,
                            const JournalNew *recording, JournalFill *fill, JournalLast *last,
                            JournalKept *kept);
/* Where recordings were found when one was asked for last; the store's reading thread's. */
JournalPlaces *journal_places_new(void);
void journal_places_free(JournalPlaces *all);

/* Any thread, without the lock. */
void journal_apply(Queue *queue, Uuid task_id, const JournalKept *kept);
/* Submits what schedules are due. */
MUST_CHECK int schedules_tick_wait(Queue *queue);
/* Ends questions that nobody has answered in time. */
MUST_CHECK int escalations_tick_wait(Queue *queue);

/* Likewise, of sessions. */
/* Some of what is older than it is to be kept is deleted; by the ticking fiber. */
MUST_CHECK int retention_tick_wait(Queue *queue);
void states_purged(Queue *queue, int64_t n);
void journal_purged(Queue *queue, int64_t recordings);

/* Records calls of the task, in whatever state it is, or of the account; each once by its id, with
 * their recordings, usage and cost (book.c). Returns 0, -ENOENT (there is no such task or account),
 * -errno. */
MUST_CHECK int calls_book(Queue *queue, Db *db, TaskRef task, const Call *calls, size_t n,
                          JournalKept *kept);

/* What is remembered of tasks that call often; the store thread's. */
KnownTasks *known_tasks_new(void);
void known_tasks_free(KnownTasks *tasks);
void known_tasks_forget(KnownTasks *tasks, Uuid id);

/* The i-th of many random numbers made from one. */
uint64_t random_draw(uint64_t seed, uint64_t i);

/* Inside a job that ends many running tasks, read before: the one of head as it is now, for its
 * parent may have ended before it, and has asked it to stop then. Returns 0 or -errno. */
MUST_CHECK int task_as_now(Db *db, TaskHead *head);

/* Ends the attempts a worker holds, at most END_TASKS_MAX of them. */
typedef struct {
    const Queue *queue;
    TaskOutcome outcome; /* LOST or RELEASED */
    bool blameless;      /* LOST: with the server, which is no fault of the tasks */
    int64_t now_ms;
    uint64_t random;
    bool more;               /* out: there are more */
    Uuid ids[END_TASKS_MAX]; /* out: the tasks */
    size_t ids_n;
    Effects effects;
} EndAll;
MUST_CHECK int worker_end_all(Db *db, Uuid worker_id, EndAll *all);

/* Tells memory about it. */
void queue_apply_all(Queue *queue, const EndAll *all);

#endif
