/* Gateway: the only door between an agent and language models.
 *
 * A GatewayTask is made for every running task, with a listener of its own on loopback: the socket
 * says which task calls, so there is no key to leak. Every model call is admitted against the
 * task's caps (the worst case is reserved), sent upstream with the provider's key, settled by the
 * usage the provider reports (the whole reservation when it reports none), and recorded durably
 * before its last byte reaches the agent. Nothing passes without admission.
 *
 * Invariants: settled + reserved never passes a cap; a call is settled once; a stream that was cut
 * upstream never ends like a complete one; the client's keys never go upstream and the provider's
 * never come down. Response bytes are passed on unchanged and in order.
 *
 * Threads: a GatewayConfig is read-only and shared. A Gateway, its tasks and its calls belong to
 * one loop. Counters (gateway_stats.h) may be read from any thread.
 */
#ifndef GANTRY_GATEWAY_GATEWAY_H
#define GANTRY_GATEWAY_GATEWAY_H

#include "base/buf.h"
#include "gateway/gateway_config.h"
#include "gateway/gateway_problem.h"
#include "logic/budget.h"
#include "logic/cap.h"
#include "logic/family.h"
#include "logic/lane.h"
#include "logic/tools.h"
#include "logic/usage.h"
#include "net/http_client.h"
#include "net/http_server.h"
#include "store/journal_store.h"

/* --- one a loop ------------------------------------------------------------------------------- */

typedef struct Gateway Gateway;
typedef struct FlagSet FlagSet; /* logic/flag.h */

/* config must outlive it. On this thread's loop. */
Gateway *gateway_new(const GatewayConfig *config);

/* What a gateway asks of the control plane, whatever lies between; the worker's link implements it.
 * Functions run on a fiber of the gateway's loop; each may be NULL: the gateway then does without.
 */
typedef struct {
    void *ctx;
    /* Gives back and asks for slices of budgets (logic/budget.h); waits up to wait_ms for an answer
     * other than BUDGET_WAIT. The answer lives in arena and in ask. Returns 0, -ECANCELED, or what
     * went wrong (ask again later). NULL: there are no budgets. */
    int (*grants_wait)(void *ctx, const BudgetAsk *ask, int64_t wait_ms, Arena *arena,
                       BudgetAnswer *ret);
} GatewayControl;
/* control must outlive the gateway's tasks; NULL: none. On its loop. */
void gateway_set_control(Gateway *gateway, const GatewayControl *control);
/* Forgets cached responses. Returns how many. On its loop. */
size_t gateway_cache_purge(Gateway *gateway, const CachePurge *purge);
/* Any thread. */
CacheFigures gateway_cache_figures(const Gateway *gateway);
/* What a heartbeat told of budgets: the epoch of their rules, and whether others wait for what this
 * gateway holds of them. On its loop; never waits. */
void gateway_budget_beat(Gateway *gateway, uint64_t epoch, bool wanted);
/* The worker has another lease: budgets granted under the one before are not its any more. */
void gateway_budget_reset(Gateway *gateway);
/* Ends what is being asked of the control plane, before control goes away. Waits even for a
 * cancelled fiber. */
void gateway_budget_close_wait(Gateway *gateway);

/* No task may be open. NULL is accepted. On its loop. */
void gateway_free(Gateway *gateway);
DEFINE_FREEP(Gateway, gateway_free)

/* What operators have switched on and off (logic/flag.h), for all tasks. Borrowed until the next
 * call; NULL: nothing is switched off. Calls on their way to what is off now end with 403, and
 * their holds settle as those of a stopped task do. On its loop; never waits. */
void gateway_set_flags(Gateway *gateway, const FlagSet *flags);

/* Takes imported prices over, in place of those there were: entries is an object keyed by model as
 * price_import reads it. Calls under way keep the prices they began with. Returns 0, or -EINVAL or
 * -ENOMEM: the old ones stay. On a fiber of its loop. */
MUST_CHECK int gateway_set_prices_wait(Gateway *gateway, Str entries);
/* What to look prices up in, until the next of them is set. */
const PriceTable *gateway_prices(const Gateway *gateway);

/* --- what happened: the record of a call ------------------------------------------------------ */

typedef enum {
    GATEWAY_COMPLETE,  /* the provider said it was finished */
    GATEWAY_CUT,       /* ended, failed or was malformed after bytes: the whole hold is charged */
    GATEWAY_UPSTREAM,  /* the provider answered an error: nothing is charged */
    GATEWAY_UNREACHED, /* no connection: nothing is charged */
    GATEWAY_TIMEOUT,   /* nothing in time: the whole hold is charged */
    GATEWAY_STOPPED,   /* the task was stopped meanwhile: charged by usage, else the whole hold */
    GATEWAY_REFUSED,   /* never sent: no limit or no upstream lets it; nothing is charged */
    GATEWAY_OUTCOME_N_
} GatewayOutcome;
const char *gateway_outcome_name(GatewayOutcome outcome); /* "complete", ... */

#define GATEWAY_TOOL_NAMES_MAX 32

/* An answer as the agent was sent it, whole. */
typedef struct {
    int status;
    char content_type[64];
    bool streamed;
    bool overflow; /* it was larger than is kept: body is not whole */
    Buf body;
} Recording;

/* One upstream attempt of a call. The Strs live while the sink runs. */
typedef struct {
    char id[37]; /* UUIDv7 */
    Str task_id, agent, version_id;
    Str response_id; /* of Responses: what later requests may name; empty: none */
    Str request_id;  /* that the agent was told in x-request-id; empty: none */
    Str upstream_id; /* that the provider told likewise; empty: none */
    int64_t attempt;
    Api api;
    Str provider;
    Str model;      /* as asked */
    Str model_used; /* as the provider named it; empty if it did not */
    Str finish;     /* finish_reason or stop_reason of the provider; empty if none came */
    bool streamed;
    bool simulated;
    bool client_gone; /* the agent left before the end; it was drained and billed */
    int status;       /* HTTP status of the answer to the agent */
    GatewayOutcome outcome;
    Usage usage;           /* what was reported; tool_calls as counted in the answer */
    bool full_hold;        /* usage was missing or uncertain: the whole hold is charged */
    CapHold hold, charged; /* tokens and nano-USD: reserved, booked */
    Str tool_names[GATEWAY_TOOL_NAMES_MAX]; /* tools the answer calls, in order; the first so many
                                             */
    size_t tool_names_n;
    int64_t started_real_ms; /* Unix time */
    int64_t ttfb_us;         /* to the first body byte; -1: none came */
    int64_t duration_us;
    Str error;               /* why it did not complete; empty otherwise */
    int64_t tries;           /* which attempt of the agent's call this was; 1: the first */
    bool degraded;           /* answered by another model than the agent asked for */
    const char *degraded_by; /* why this is not the answer it would be with money and providers to
                              * choose: "cache", "model", "fallback", "hold" (it came late); NULL:
                              * it is, or there is none */
    bool replayed;           /* answered from the journal: nothing was sent */
    bool cached;             /* answered from the cache: nothing was sent */
    const Recording *answer; /* as the agent was sent it; NULL: not whole, or not wanted */
    const JournalNew *recording; /* to be made durable with the record; NULL: none */
    bool replay_missed;          /* recordings were left to replay, none of them of this call */
} GatewayCall;

/* What a task asks of its journal: recordings of its earlier attempts. */
typedef enum { JOURNAL_LIST, JOURNAL_ANSWER, JOURNAL_REQUEST, JOURNAL_OWNS } JournalWhat;
typedef struct {
    JournalWhat what;
    int64_t n; /* LIST: recordings numbered above it; else the number of the one */
    bool twin; /* LIST, ANSWER, of a shadow: of the production task that it repeats */
    Str id;    /* OWNS: a response's; whether the task's tenant was given it */
} JournalAsk;

#define JOURNAL_PAGE_MAX 500 /* rows of a LIST: when there are as many, ask again */
#define JOURNAL_REQUEST_MAX ((size_t)1 << 20) /* larger requests are not kept, their digest is */
#define JOURNAL_ANSWER_MAX ((size_t)8 << 20)  /* larger answers, compressed, are not kept */

typedef struct {
    JournalRow *rows; /* LIST: n, call_id, key, kind and complete are set */
    size_t rows_n;
    JournalRow row; /* ANSWER: status, content_type, streamed are set */
    JournalBytes answer;
    Str request; /* REQUEST */
} JournalReply;

/* Where records go: the worker's. The functions run on the call's fiber. */
typedef struct {
    /* Makes the record durable; the end of the answer is sent only after it returned 0. -ESTALE:
     * the lease is no longer ours: the call fails and the task stops. Other negative values: the
     * call fails. Cannot be abandoned: a cancelled caller still waits for it. */
    int (*call_record_wait)(void *ctx, const GatewayCall *call);
    /* May be NULL. Makes the reservation durable before anything is sent (what is known then is
     * set: id to hold), so that a crash charges it. Returns as above, or -EAGAIN: not this call,
     * which may be made again, and nothing is the matter with others. */
    int (*call_hold_wait)(void *ctx, const GatewayCall *call);
    void *ctx;
    /* May be NULL: nothing is recorded or replayed. What it returns lives in arena. Returns 0,
     * -ENOENT (no such recording, or its request was not kept), -ESTALE, other -errno. */
    int (*journal_wait)(void *ctx, const JournalAsk *ask, Arena *arena, JournalReply *ret);
    /* Makes a tool's result durable, once by its call_id. Returns as call_record_wait. */
    int (*journal_add_wait)(void *ctx, const JournalNew *recording);
    /* May be NULL. Whether the task's tenant was given what ask (OWNS) names, by any of its tasks.
     * Returns 0, -ENOENT, other -errno. */
    int (*state_wait)(void *ctx, const JournalAsk *ask, Arena *arena, JournalReply *ret);
    /* May be NULL. A line for the task's own log. Never waits. */
    void (*note)(void *ctx, const char *text);
} GatewaySink;

/* --- one a running task ----------------------------------------------------------------------- */

typedef struct GatewayTask GatewayTask;

typedef struct {
    Str task_id, agent, version_id; /* copied, as everything here */
    int64_t attempt;
    Str model; /* for GET /v1/models and /gantry/v1/task; empty: the models that there are */
    const Str *fallbacks;
    size_t fallbacks_n;
    CapLimits limits;    /* of the task, over all its attempts */
    CapHold call_max;    /* of each call by itself; 0: none */
    CapState spent;      /* by earlier attempts; started_ms (clock_mono_ms) is when wall_ms began */
    int64_t deadline_ms; /* clock_mono_ms; 0: none */
    Str traceparent;     /* sent upstream; empty: none */
    Lane lane;           /* in which its calls wait for each other */
    Str user_id, tenant_id, session_id; /* empty: none */
    const Str *tools;                   /* names declared by the version */
    size_t tools_n;
    /* What the version declares, which requests are held against; outlives the task. NULL: the
     * version has no tools file, so nothing is. */
    const ToolSet *declared;
    const GatewaySink *sink; /* required; lives longer than the task */
    bool listen;             /* a listener of its own; false: in-process calls only */
    /* Handles paths under /gantry/v1/ other than /gantry/v1/task (state, tasks, escalate, ...). It
     * reads bodies of at most GATEWAY_DOOR_BYTES_MAX, for which room was taken. */
    HttpHandler door;
    void *door_ctx;
    /* It repeats a production task, unseen: no budget but that of everything is charged, and no
     * response is shared with others. */
    bool shadow;
    /* A call begins (ends) to wait for what the task has lent; may be NULL. Must not wait. */
    void (*on_lent_wait)(void *ctx, bool begins);
} GatewayTaskOptions;

/* On the gateway's loop. Returns 0 or -errno with diag (no listener). */
MUST_CHECK int gateway_task_open(Gateway *gateway, const GatewayTaskOptions *options,
                                 GatewayTask **ret);

/* The listener on 127.0.0.1; 0 when there is none. */
uint16_t gateway_task_port(const GatewayTask *task);
/* "http://127.0.0.1:PORT/v1" for OPENAI_BASE_URL, "http://127.0.0.1:PORT" for ANTHROPIC_BASE_URL;
 * live as long as the task. "" without a listener. */
const char *gateway_task_openai_url(const GatewayTask *task);
const char *gateway_task_anthropic_url(const GatewayTask *task);

/* The door has read the body of a request (GatewayTaskOptions.door): what was taken for it beyond
 * so many bytes is free for others. */
void gateway_door_read(GatewayTask *task, const HttpReq *req, size_t bytes);

/* A key that names the task where a socket does not; random, for this attempt only. Lives as long
 * as the task. */
#define GATEWAY_TASK_KEY_PREFIX "gantry-task-"
#define GATEWAY_TASK_KEY_MAX (sizeof GATEWAY_TASK_KEY_PREFIX + 64)
const char *gateway_task_key(const GatewayTask *task);
/* The open task that has the key, or NULL. */
GatewayTask *gateway_task_by_key(const Gateway *gateway, Str key);

typedef enum {
    GATEWAY_STOP_NONE,
    GATEWAY_STOP_CANCELLED, /* somebody cancelled the task */
    GATEWAY_STOP_DRAINED,   /* the worker is going away */
    GATEWAY_STOP_STALE,     /* the lease is no longer ours */
    GATEWAY_STOP_AWAY,      /* as drained, for callers that may come again: 503 */
    GATEWAY_STOP_FINISHED,  /* the agent has ended */
    GATEWAY_STOP_N_
} GatewayStop;

/* Refuses further calls (403, not retryable, unless it says otherwise). Those in flight are ended,
 * settle and are recorded; with GATEWAY_STOP_FINISHED they are read to their end instead, for their
 * usage. The first reason stays, but any other overrides FINISHED. Never waits. */
void gateway_task_stop(GatewayTask *task, GatewayStop reason);

typedef struct {
    CapState caps;     /* settled and reserved, earlier attempts included */
    Usage usage;       /* reported in this attempt, summed */
    int64_t cost_nusd; /* booked in this attempt, whole holds included */
    int64_t calls;     /* sent upstream in this attempt */
    int64_t calls_refused;
    CapReason stopped_by; /* the first cap that refused a call, else CAP_BY_NOTHING */
    /* CAP_BY_BUDGET: "budget:" and the budget's scope; empty else */
    char stopped_by_budget[BUDGET_SCOPE_TEXT_MAX + 8];
    GatewayStop stop;
} GatewayTotals;
void gateway_task_totals(const GatewayTask *task, GatewayTotals *ret);

/* What the flags say of this task: whether it may go on, whether it may use the tool; and appends
 * {"key":value,...}, what its agent reads. */
bool gateway_task_on(const GatewayTask *task);
bool gateway_task_tool_on(const GatewayTask *task, Str tool);
void gateway_task_flags(const GatewayTask *task, JsonOut *out);

/* Admits the call of a tool that is about to be run. One that a model's answer asked for was
 * counted with the answer; there are as many of these as answers of this attempt asked for, and
 * what is beyond, or was not asked for, is counted here: *ret_counted. So never more calls are made
 * than were counted, nor than the cap allows. Returns 0 or GATEWAY_E_CAP with diag: do not make
 * it. */
#define GATEWAY_E_CAP 1
MUST_CHECK int gateway_task_count_tool(GatewayTask *task, bool asked, bool *ret_counted);
/* Such a call was not made: an earlier attempt's result is given. */
void gateway_task_tool_replayed(GatewayTask *task, bool asked);

/* What of its caps the task lends to tasks that it starts (logic/family.h): nothing else can spend
 * it until it comes back. All of it has to be back before the task is closed. */
FamilyAmount gateway_task_left(const GatewayTask *task);
void gateway_task_lend(GatewayTask *task, const FamilyAmount *amount);
void gateway_task_lend_end(GatewayTask *task, const FamilyAmount *lent, const FamilyAmount *spent);
/* Something was refused to the task because of this cap: see GatewayTotals.stopped_by. */
void gateway_task_capped(GatewayTask *task, CapReason reason);

/* Stops the task (FINISHED) and waits for its calls to settle, at most until deadline_ms: then they
 * are ended. Afterwards the totals are final. Waits even when the caller is cancelled. */
void gateway_task_settle_wait(GatewayTask *task, int64_t deadline_ms);

/* Stops the task (FINISHED), waits for its calls to settle, at most until deadline_ms
 * (clock_mono_ms): then they are ended. Closes the listener, frees. Waits even when the caller is
 * cancelled. NULL is accepted. */
void gateway_task_close_wait(GatewayTask *task, int64_t deadline_ms);

/* --- a call without a socket ------------------------------------------------------------------ */

typedef struct {
    Api api;
    Str body;                /* JSON, as the client sent it; lives until the call returns */
    Str anthropic_version;   /* header of that name; empty: 2023-06-01 */
    Str anthropic_beta;      /* passed on when not empty */
    int64_t timeout_ms;      /* the client's patience, bounds all waiting; 0: unknown */
    int64_t read_timeout_ms; /* and with silence; does not bound streams, which have heartbeats */
    bool retry;              /* the client says that it has asked before */
    Str client_key;          /* Idempotency-Key: calls that have the same are one; empty: none */
    Str request_id;          /* that errors tell; empty: the attempt's id */
} GatewayRequest;

typedef struct {
    const char *name;
    Str value;
} GatewayField;

/* Where the answer goes. Each returns 0, HTTP_E_GONE (the reader left: the call is drained and
 * settled all the same) or a negative errno, treated alike. */
typedef struct {
    /* streamed: more than one write may follow; else exactly one or none. */
    int (*start_wait)(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                      bool streamed);
    int (*write_wait)(void *ctx, Str bytes);
    int (*end_wait)(void *ctx); /* not called when the answer was cut */
    bool (*gone)(void *ctx);    /* may be NULL */
    void *ctx;
} GatewayReply;

/* On a fiber of the gateway's loop. Admits, sends, forwards, settles, records. Returns 0 when an
 * answer was given, whatever its status (refusals and provider errors are answers too), HTTP_E_GONE
 * when the reader left, GATEWAY_E_CUT when the answer was given up unfinished (an error event or an
 * error status said so), -ESTALE when the lease is no longer ours, -ECANCELED. */
#define GATEWAY_E_CUT 3
MUST_CHECK int gateway_call_wait(GatewayTask *task, const GatewayRequest *request,
                                 const GatewayReply *reply);

/* --- a call that came in elsewhere ------------------------------------------------------------ */

/* A request of HTTP to one of the routes for models, read by whoever has its connection. */
typedef struct {
    Str method, path;
    Str body;                              /* whole */
    Str anthropic_version, anthropic_beta; /* several fields of the latter are joined */
    Str request_id;
    int64_t timeout_ms, read_timeout_ms; /* as in GatewayRequest */
    bool retry;                          /* likewise */
    Str client_key;
    Arena *arena; /* for what the answer is made of */
} GatewayHttp;

#define GATEWAY_REQUEST_BYTES_MAX (32u * 1024 * 1024)
#define GATEWAY_DOOR_BYTES_MAX ((size_t)8 << 20)

/* All of it but the body. */
void gateway_http_read(HttpReq *req, GatewayHttp *ret);

/* The answer to a request on its own connection; state lives as long. */
typedef struct {
    HttpReq *req;
    int status;
    const char *content_type;
    bool streamed, written;
} GatewayHttpReply;
GatewayReply gateway_http_reply(GatewayHttpReply *state, HttpReq *req);

/* Does for the task what its listener does with such a request. On a fiber of the gateway's loop.
 * Returns 0 (answered, or nobody was there any more), HTTP_E_GONE, -errno. */
MUST_CHECK int gateway_serve_wait(GatewayTask *task, const GatewayHttp *http,
                                  const GatewayReply *reply);

/* Answers with an error in the shape of the API that the path belongs to. Any loop. Returns what
 * reply did. */
int gateway_problem_wait(const GatewayHttp *http, const GatewayReply *reply, Problem problem,
                         const char *message);

/* A reply kept in memory, for the builtin agent and for tests. */
typedef struct {
    int status;
    bool ended;
    Buf body; /* -EMSGSIZE from write when full */
} GatewayMemory;
void gateway_memory_init(GatewayMemory *memory, size_t max);
void gateway_memory_deinit(GatewayMemory *memory);
GatewayReply gateway_memory_reply(GatewayMemory *memory);

#endif
