/* What the simulator of the queue is made of: virtual time, messages, a store, processes. The rules
 * it plays are those of src/logic; what stands around them here is as plain as it can be. */
#ifndef GANTRY_TESTS_QUEUE_WORLD_H
#define GANTRY_TESTS_QUEUE_WORLD_H

#include "logic/attempt.h"
#include "logic/escalation.h"
#include "logic/family.h"
#include "logic/lease.h"
#include "logic/line.h"
#include "logic/slots.h"
#include "random.h"

#define ROWS_MAX 40
#define ORDERS_MAX 16
#define TENANTS_N 4 /* 0: nobody's */
#define AGENTS_N 2
#define SESSIONS_N 3 /* 0: none */
#define LINES_N (TENANTS_N * AGENTS_N)
#define KIDS_MAX 3 /* that a task wants to start */
#define FAMILY_BOUNDS ((FamilyBounds){ .depth_max = 2, .children_max = 2, .members_max = 5 })
#define LEASES_MAX 48
#define IDS_MAX 1024
#define WORKERS_MAX 4
#define RUNS_MAX 8 /* of a worker */
#define SUSPENDED_MAX 4
#define EVENTS_MAX 2048
#define MSGS_MAX 1024
#define JOBS_MAX 512
#define PARKED_MAX (4 * WORKERS_MAX * SLOTS_CLAIMS_MAX)
#define FENCES_MAX 8192
#define SERIALS_MAX 32768
#define CALENDAR_MS INT64_C(1750000000000) /* what it shows when a run begins */
#define DAY_MS INT64_C(86400000)
#define CALENDAR_SET_MS 1000
#define ASTRAY_MAX 2
#define QUESTION_MS(w) (4 * (w)->lease_ms) /* that a person has to answer */
#define OVERDUE_GRACE_MS 60000

/* A rule that is broken on purpose: the simulator must find out. */
typedef enum {
    NOTHING_BROKEN,
    TOKEN_IGNORED,    /* a report is taken whatever token it carries */
    TOKEN_KEPT,       /* an attempt that follows another has the token of that one */
    KEY_FORGOTTEN,    /* a request that is sent again makes another task */
    BODY_FORGOTTEN,   /* the same key with another body is taken for the same request */
    ACK_BEFORE,       /* a submission is answered before it is durable */
    CHARGED_AGAIN,    /* a call that is reported twice is charged twice */
    LOSS_UNCOUNTED,   /* losses are not counted */
    EXPIRY_FORGOTTEN, /* what a lost worker had stays with it */
    ORPHAN_FORGOTTEN, /* what a worker was never told of stays with it */
    CLAIM_DROPPED,    /* a worker gives up its claims at once when another was lost */
    CALENDAR_TRUSTED, /* deadlines and waits stay where they are when the calendar is set */
    WAITS_LEFT,       /* deadlines move with it, waits for another attempt do not */
    CALENDAR_RACED,   /* jobs look at the calendar, which may have been set since they were begun */
    LEASE_BY_CALENDAR, /* leases run out by the calendar */
    LEASE_FROM_ANSWER, /* a worker counts its lease from the answer, not from when it asked */
    SLOT_LEAKED,       /* the slot of an attempt that is stopped is not given back */
    CANCEL_FORGOTTEN,  /* a task that is to be cancelled is tried again */
    DEADLINE_AGAIN,    /* a task has its time again with each attempt */
    STOPPED_STARTS,    /* what was cancelled while it waited is started */
    BACKOFF_FORGOTTEN, /* what has failed is tried again at once */
    SESSION_FORGOTTEN, /* tasks of a session run beside each other */
    SESSION_LAST,      /* those of a session that wait go on from the last */
    SESSION_STUCK,     /* a task that is stopped in its place keeps it */
    SESSION_EARLY,     /* a task that waits for another attempt gives up its place */
    DUE_UNASKED,       /* a task whose time has come does not look at its session */
    TENANT_UNCHARGED,  /* what a tenant uses is not counted */
    LINE_JUMPED,       /* the first line is served, whoever has used least */
    LIMIT_FORGOTTEN,   /* limits of tenants and agents are not looked at */
    LIMIT_ON_KIDS,     /* they keep sub-agents from those that wait for them */
    KID_AGAIN,         /* a sub-agent that is asked for again is another one */
    KID_UNBOUND,       /* its deadline is its own */
    KID_LATE_ASK,      /* it has what its parent had left when it asked */
    BOUNDS_FORGOTTEN,  /* a family grows as it likes */
    TREE_LEFT,         /* a task is cancelled, what it has started is not */
    KIDS_GO_ON,        /* a task ends, what it has started goes on */
    SLOT_KEPT,         /* a task that waits for its sub-agents keeps its slot */
    RESUMED_EARLY,     /* it goes on when the first of them has ended */
    DEFAULT_FORGOTTEN, /* a question nobody answers fails the task, default or not */
    ANSWER_MISSED,     /* an answer that is faster than the end of the attempt is not seen */
    ASKED_AGAIN,       /* a later attempt asks anew */
    TIME_ASKED,        /* the time a person needs is taken from the task's */
    CLIENT_WAITS,      /* and from the deadline of its client it is not */
    CLIENT_LEFT,       /* the deadline of its client stays where it is when the calendar is set */
    RULE_N_
} Rule;

/* --- the store -------------------------------------------------------------------------------- */

typedef struct {
    int64_t id, fence;
} Ref;

typedef struct {
    int64_t id;
    TaskState state;
    Lane lane;
    int64_t attempt, failures, losses, fence;
    int64_t ready_ms, started_ms, ended_ms, limit_ms, deadline_ms; /* by the calendar */
    int64_t client_ms; /* the deadline of its client, by the calendar; 0: none */
    Gate gate;
    bool cancel, recorded; /* recorded: this attempt has told of new calls */
    int lease;             /* holder */
    int key, body;
    uint64_t calls; /* a bit each */
    int charged;
    int tenant, agent, session; /* 0: none; agents are numbered from 0 */
    int64_t session_max;        /* 0: it takes no part */
    int64_t parent, root;       /* 0: none; its own */
    int kid_key;                /* that its parent knows it by; -1: no longer */
    int64_t depth, children, members;
    bool asks, asked; /* it wants to know something; there is a question */
    bool fallback;    /* which has a default answer */
    EscalationState question;
    int64_t expires_ms; /* of it, by the calendar */

    /* what the simulator knows by itself */
    int64_t ended_n;                    /* attempts */
    int64_t failed_n, lost_n;           /* since the last retry by hand */
    int results;                        /* likewise */
    int lives;                          /* retries by hand */
    int astray;                         /* times it was claimed for nothing while all was calm */
    int64_t first_ms, start_ms, end_ms; /* monotonic: starts and ends of attempts */
    int64_t due_ms;                     /* monotonic: after a failure, not before */
    int64_t run_at_ms;
    int64_t asked_ms, rests_ms, answered_in_ms; /* monotonic: when it asked a person, since when it
                                                   waits, and for how long it has */
    int asked_n;                                /* questions since the last retry by hand */
    int kids;                                   /* that it wants to start */
    int64_t bound_ms;                           /* monotonic: its parent's time; 0: no limit */
    int64_t client_over_ms;                     /* monotonic: its client's; 0: no limit */
    int64_t cancelled_ms;                       /* monotonic */
    int64_t entered;                            /* when it took its place in its session */
} Row;

typedef enum { HOLDER_ACTIVE, HOLDER_DRAINING, HOLDER_LOST, HOLDER_STOPPED } HolderState;

/* A worker under one registration. */
typedef struct {
    HolderState state;
    int id;
    int64_t expires_ms; /* steady */
    int worker;
    unsigned epoch;
} Holder;

typedef struct {
    Row rows[ROWS_MAX];
    int rows_n;
    int leases_n, lease_last;
    int64_t fence;
    Holder leases[LEASES_MAX];
} Disk;

/* --- messages --------------------------------------------------------------------------------- */

typedef enum {
    MSG_SUBMIT,
    MSG_CANCEL,
    MSG_RETRY,
    MSG_RESOLVE,
    MSG_REGISTER,
    MSG_CLAIM,
    MSG_BEAT,
    MSG_CALL,
    MSG_CHILD, /* a run starts a sub-agent */
    MSG_KIDS,  /* it wants to know which have ended */
    MSG_ASK,   /* it has a question to a person */
    MSG_FINISH,
    MSG_DRAIN,
    MSG_LEAVE,
    MSG_GONE,     /* a worker no longer waits for the answer to a claim */
    MSG_TICK,     /* of the server itself */
    MSG_CALENDAR, /* likewise: it was set */
} MsgKind;

typedef enum {
    SAID_OK,
    SAID_NOTHING_YET, /* a claim found no task */
    SAID_STALE,
    SAID_NO_WORKER,
    SAID_REFUSED,
    SAID_TROUBLE, /* nothing was done */
} Said;

/* One of several things in a message. */
typedef struct {
    Ref ref;
    int attempt;
    TaskOutcome outcome;    /* a report */
    int64_t retry_after_ms; /* likewise */
    int64_t remaining_ms;   /* a task that is given; INT64_MAX: no deadline */
    Lane lane;
    Said said;
    bool cancel; /* in the answer to a heartbeat */
    bool asks;   /* a task that is given */
    int kids;    /* likewise */
} Item;

typedef struct {
    MsgKind kind;
    int worker; /* -1: a client */
    unsigned epoch;
    int serial; /* its answer has the same */
    int order;  /* of a client */
    int lease;
    LaneConfig slots;
    int call; /* or the key of a sub-agent */
    EscalationState question;
    int64_t id, ms;
    int64_t fence; /* of a heartbeat: claims up to there have arrived; how far they have gone */
    int released;  /* in its answer */
    Said said;
    int n;
    bool draining;
    Item items[RUNS_MAX];
} Msg;

/* --- processes -------------------------------------------------------------------------------- */

typedef enum {
    RUN_NONE,
    RUN_GOES,
    RUN_SUSPENDED, /* it waits for its sub-agents */
    RUN_CALLS,
    RUN_FORKS,
    RUN_ASKS,
    RUN_ENDS,
    RUN_REPORTS
} RunStage;

typedef struct {
    RunStage stage;
    unsigned gen;
    Ref ref;
    Lane lane;
    Item end;
    int64_t until_ms; /* its deadline */
    int calls_left, call;
    int kids_left, kid;     /* to start; the key of the next */
    int64_t kids[KIDS_MAX]; /* that it waits for */
    int kids_n, kids_ended;
    int64_t remaining_ms; /* when it first asked for the sub-agent that it asks for */
    bool asks;
    int serial; /* of what it has sent and waits for */
    int64_t delay_ms;
} SimRun;

typedef struct {
    bool alive, embedded, draining, registered;
    unsigned epoch;
    bool deaf; /* while it is cut off: it is heard, and hears nothing */
    int64_t stopped_until_ms, cut_until_ms;
    int lease;
    Lease held;
    Slots slots;
    int claims[SLOTS_CLAIMS_MAX]; /* serials, 0: none under way */
    int register_serial, beat_serial, leave_serial;
    int64_t register_asked_ms, beat_asked_ms;
    SimRun runs[RUNS_MAX];
} SimWorker;

typedef struct {
    bool up, committing;
    unsigned epoch;
    int64_t stopped_until_ms;
    int64_t known_ms;    /* what the calendar is ahead of monotonic time, as deadlines know it */
    int64_t undo_ms;     /* of it, in the batch */
    int64_t steady_ms;   /* makes steady time */
    int jobs[JOBS_MAX];  /* messages */
    int batch[JOBS_MAX]; /* likewise */
    int jobs_n, batch_n;
    bool ready;   /* the batch has made a task ready */
    bool changed; /* it has changed rows */
    struct {
        int msg;
        int64_t until_ms;
    } parked[PARKED_MAX];
    int parked_n;
    LaneTurns turns;
    double spent_ms[LANE_N_][TENANTS_N]; /* what the simulator knows by itself */
    int64_t spent_at_ms[LANE_N_][TENANTS_N];
    FenceMarks fences;
} SimServer;

typedef enum { ORDER_NEW, ORDER_SENT, ORDER_TAKEN, ORDER_REFUSED, ORDER_UNKNOWN } OrderStage;

/* What a client wants. */
typedef struct {
    OrderStage stage;
    MsgKind wish;  /* SUBMIT, then perhaps CANCEL or RETRY */
    int key, body; /* key 0: none */
    Lane lane;
    int tenant, agent, session, kids;
    bool asks, fallback;
    int64_t run_at_ms, limit_ms, id;
    int64_t client_ms; /* from its submission on; 0: no deadline */
    int serial;
    bool cancels, retries, settled;
    int cancelled_life; /* -1: it was not */
    int sent;
} Order;

typedef struct {
    int64_t at_ms;
    uint64_t order;
    int what, who;
    unsigned epoch;
    int arg;
} Event;

typedef struct {
    uint64_t tasks, attempts, messages, commits, torn, events;
    uint64_t lost, doubled, late, stale, zombies, orphans, expired, resumed, late_ends, late_asking;
    uint64_t unanswered, defaulted, answered_fast, stalls;
    uint64_t kids, kids_found, too_deep, too_wide, too_large, suspended, crowded, trees;
    uint64_t held, admitted, limited, passed, backoff_ms, backoff_most_ms;
    uint64_t crashes, kills, stops, cuts, drains, fulls, sets, same_key, other_body;
    uint64_t ended[TASK_STATE_N_];
    double years;
} Tally;

typedef struct {
    uint64_t seed;
    Rule broken;
    const char *why, *file;
    int line;
    Random random;
    Tally tally;

    int64_t now_ms;
    int64_t calendar_ms; /* ahead of monotonic time */
    int64_t latest_ms;   /* that the calendar has shown */
    int64_t ambush_ms;   /* by which it is set just after the next look at it */
    int64_t lease_ms, tick_ms, hop_ms, calm_ms, bound_ms;
    bool calm;
    bool full, low;        /* the disk */
    int lose, twice, slow; /* in thousand messages */
    RetryPolicy retry;
    int workers_n, orders_n, serials;
    int64_t tenant_most, agent_most[AGENTS_N], session_most; /* 0: any number */
    int64_t entries;                                         /* into sessions */
    int64_t ids;
    uint8_t started[FENCES_MAX / 8];  /* tokens under which a worker has begun */
    uint8_t hung_up[SERIALS_MAX / 8]; /* requests whose answer nobody waits for, as is known */
    uint64_t calls_told[IDS_MAX];     /* calls of a task whose report was taken, a bit each */

    int64_t alone_ms[ROWS_MAX]; /* since when nobody runs what should run */

    Disk disk, kept; /* as the writer sees it; as it is after a crash */
    SimServer server;
    SimWorker workers[WORKERS_MAX];
    Order orders[ORDERS_MAX];

    /* from here on nothing is cleared between runs, but what turns_clear does */
    uint64_t tenant_keys[TENANTS_N], kind_keys[LINES_N]; /* names_make */
    Fair used[LANE_N_];                                  /* the server's, in memory */
    FairCosts costs[LANE_N_];
    Event events[EVENTS_MAX];
    int events_n;
    uint64_t pushed;
    Msg msgs[MSGS_MAX];
    int msgs_free[MSGS_MAX], msgs_free_n;
} World;

#define BREAKS(w, rule) ((w)->broken == (rule))

/* The run ends with the event in which it has failed; the first thing that fell counts. */
static inline bool must(World *w, bool holds, const char *what, const char *file, int line)
{
    if (holds || w->why) return holds;
    w->why = what;
    w->file = file;
    w->line = line;
    return false;
}
#define MUST_HOLD(condition) must(w, (condition), #condition, __FILE__, __LINE__)
#define MUST(condition) ((void)must(w, (condition), #condition, __FILE__, __LINE__))

/* --- chance and time -------------------------------------------------------------------------- */

static int64_t upto(World *w, int64_t most)
{
    return random_range(&w->random, 0, most);
}

static bool chance(World *w, int in_thousand)
{
    return upto(w, 999) < in_thousand;
}

typedef enum {
    EV_REQUEST, /* the first ones are the server's, and wait while it is stopped */
    EV_COMMIT,
    EV_TICK,
    EV_SERVER_LAST_ = EV_TICK,
    EV_ANSWER,
    EV_SERVER_UP,
    EV_FAULT,
    EV_FULL_OVER,
    EV_CALM,
    EV_ORDER,
    EV_ORDER_TIMEOUT,
    EV_WORKER_FIRST_, /* those from here on are a worker's, and wait while it is stopped */
    EV_BOOT = EV_WORKER_FIRST_,
    EV_REGISTER,
    EV_BEAT,
    EV_LEASE,
    EV_CLAIM,
    EV_STEP,
    EV_FLUSH,
    EV_TIMEOUT,
    EV_RENEW,
    EV_HEARD, /* an answer, as EV_ANSWER */
} What;

static bool sooner(const Event *a, const Event *b)
{
    return a->at_ms < b->at_ms || (a->at_ms == b->at_ms && a->order < b->order);
}

static void event_put(World *w, const Event *event)
{
    int at = w->events_n;
    if (!MUST_HOLD(at < EVENTS_MAX)) return;
    w->events_n++;
    while (at > 0 && sooner(event, &w->events[(at - 1) / 2])) {
        w->events[at] = w->events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    w->events[at] = *event;
}

static Event event_take(World *w)
{
    Event first = w->events[0], last = w->events[--w->events_n];
    int at = 0;
    for (;;) {
        int next = 2 * at + 1;
        if (next >= w->events_n) break;
        if (next + 1 < w->events_n && sooner(&w->events[next + 1], &w->events[next])) next++;
        if (!sooner(&w->events[next], &last)) break;
        w->events[at] = w->events[next];
        at = next;
    }
    w->events[at] = last;
    return first;
}

static void after(World *w, int64_t ms, What what, int who, int arg)
{
    unsigned epoch = who >= 0 ? w->workers[who].epoch : w->server.epoch;
    Event event = { w->now_ms + MAX(ms, 0), ++w->pushed, (int)what, who, epoch, arg };
    event_put(w, &event);
}

static int64_t calendar(const World *w)
{
    return CALENDAR_MS + w->now_ms + w->calendar_ms;
}

/* --- messages --------------------------------------------------------------------------------- */

static int msg_new(World *w, const Msg *m)
{
    if (!MUST_HOLD(w->msgs_free_n > 0)) w->msgs_free_n++;
    int at = w->msgs_free[--w->msgs_free_n];
    size_t used = offsetof(Msg, items) + (size_t)m->n * sizeof(Item);
    memcpy(&w->msgs[at], m, used);
    return at;
}

static void msg_free(World *w, int at)
{
    w->msgs_free[w->msgs_free_n++] = at;
}

static int64_t delay_of(World *w)
{
    int64_t usual_ms = 1 + upto(w, w->hop_ms);
    if (w->calm || !chance(w, w->slow)) return usual_ms;
    w->tally.late++;
    return upto(w, chance(w, 100) ? 4 * w->lease_ms : w->lease_ms);
}

static bool is_local(const World *w, const Msg *m)
{
    return m->worker >= 0 && w->workers[m->worker].embedded;
}

static bool is_cut(const World *w, const Msg *m, What what)
{
    if (m->worker < 0 || w->workers[m->worker].cut_until_ms <= w->now_ms) return false;
    return what == EV_HEARD || !w->workers[m->worker].deaf;
}

/* Only what may be asked twice is doubled; TCP takes care of the rest. */
static void carry(World *w, const Msg *m, What what)
{
    bool asks_once = m->kind == MSG_SUBMIT && w->orders[m->order].key == 0;
    w->tally.messages++;
    if (is_local(w, m)) {
        after(w, 0, what, what == EV_HEARD ? m->worker : -1, msg_new(w, m));
        return;
    }
    if (is_cut(w, m, what) || (!w->calm && chance(w, w->lose))) {
        w->tally.lost++;
        return;
    }
    int copies = !w->calm && !asks_once && chance(w, w->twice) ? 2 : 1;
    w->tally.doubled += copies == 2;
    for (int i = 0; i < copies; i++)
        after(w, delay_of(w), what, what == EV_HEARD ? m->worker : -1, msg_new(w, m));
}

static void answer(World *w, const Msg *m)
{
    bool own = m->kind == MSG_FINISH && m->worker < 0; /* it gives back what it could not give */
    if (m->kind == MSG_TICK || m->kind == MSG_CALENDAR || own) return;
    carry(w, m, m->worker >= 0 ? EV_HEARD : EV_ANSWER);
}

#endif
