/* What the gateway's files share. Not for other folders. Everything belongs to the gateway's loop
 * but for the counters. */
#ifndef GANTRY_GATEWAY_GATEWAY_PRIVATE_H
#define GANTRY_GATEWAY_GATEWAY_PRIVATE_H

#include <stdatomic.h>

#include "base/list.h"
#include "base/map.h"
#include "codec/uuid.h"
#include "gateway/gateway.h"
#include "gateway/gateway_excess.h"
#include "gateway/gateway_limit.h"
#include "gateway/gateway_prices.h"
#include "gateway/gateway_problem.h"
#include "gateway/gateway_stats.h"
#include "gateway/purse.h"
#include "logic/flag.h"
#include "sys/clock.h"

#define GATEWAY_ANSWER_BYTES_MAX (64u * 1024 * 1024)
#define GATEWAY_ERROR_BYTES_MAX (1024u * 1024)
#define GATEWAY_RECORDING_BYTES_MAX GATEWAY_ANSWER_BYTES_MAX
#define GATEWAY_EVENT_BYTES_MAX (8u * 1024 * 1024)
#define GATEWAY_JSON_FACTOR 13 /* memory json_parse may take for a byte of text */

/* After the agent has left, its call is read on so long and so far for the usage. */
#define GATEWAY_DRAIN_MS 60000
#define GATEWAY_DRAIN_BYTES (16 * 1024 * 1024)
/* A stream that has said it is finished may stay silent so long before [DONE] or its end. */
#define GATEWAY_TAIL_MS 10000
#define TIMEOUT_DEFAULT_MS 600000  /* of a call, when the provider has none */
#define GATEWAY_PATIENCE_MS 600000 /* of a client that does not say */

/* Written by the loop, read by any thread; names are set before models_n counts them. */
typedef struct {
    char provider[GATEWAY_MODEL_NAME_MAX];
    char model[GATEWAY_MODEL_NAME_MAX];
    atomic_uint_fast64_t calls[GATEWAY_OUTCOME_N_];
    atomic_uint_fast64_t input_tokens, output_tokens, cached_tokens, cost_nusd, duration_us;
} ModelCounters;

/* Responses that are kept, see gateway_cache.c. Counters are read by any thread. */
typedef struct {
    Map entries;
    List used;   /* least recently used first */
    Map flights; /* ModelCall by key: one of each that is at its provider */
    Cond landed; /* one of them has ended */
    atomic_uint_fast64_t joined;
    atomic_uint_fast64_t hits, misses, stored, evicted, expired, too_large, purged;
    atomic_int_fast64_t bytes, entries_n;
} Cache;

/* See gateway_room.c. Counters are read by any thread. */
typedef struct {
    List waiters; /* for room, in turn */
    uint64_t looks;
    atomic_int_fast64_t bytes; /* of requests that are here */
    atomic_uint_fast64_t waited, refused;
} Room;

/* Ids of what providers keep, and the tenants that were given them; the oldest are forgotten. */
#define GIVEN_IDS_MAX 32768
typedef struct {
    Map ids;
    List oldest; /* first */
    size_t n;
} GivenIds;

struct Gateway {
    const GatewayConfig *config;
    const GatewayControl *control; /* NULL: none */
    HttpClient *client;
    Uuid7Gen ids;
    atomic_size_t models_n;
    ModelCounters models[GATEWAY_STATS_MODELS_MAX + 1]; /* the last one is "other" */
    atomic_uint_fast64_t refused[GATEWAY_REFUSED_N_];
    atomic_uint_fast64_t degraded[GATEWAY_DEGRADED_N_];
    atomic_uint_fast64_t waited, clamped, disarmed, usage_missing, over_hold;
    atomic_int_fast64_t in_flight, tasks_open;
    Cache cache;
    Room room;
    GivenIds given;
    atomic_uint_fast64_t state_forgotten;
    atomic_uint_fast64_t listener_refused, listener_bad, listener_stalls;
    atomic_uint_fast64_t tools_removed;
    atomic_uint_fast64_t translated, untranslatable, untranslated;
    Purse *purse;
    const FlagSet *flags;  /* NULL: none */
    uint64_t flags_n;      /* times they were set */
    List tasks;            /* GatewayTask.node: the open ones */
    struct Limits *limits; /* gateway_limit.h */
    atomic_uint_fast64_t replayed, replayed_tools, replay_misses, attached, not_recorded;
    atomic_uint_fast64_t undelivered, redelivered, undelivered_dropped;
    PriceList *prices;  /* imported; NULL: none */
    Excesses *excesses; /* NULL: none */
};

/* An answer of this attempt that its client did not wait for, or that was asked for under a key of
 * the client's own. */
#define UNDELIVERED_MAX \
    64 /* of a task; then the oldest is forgotten, and bought again if need be */
typedef struct {
    uint8_t key[SHA256_BYTES];
    uint8_t client_key[SHA256_BYTES]; /* digest of the client's own; zero: none */
    int64_t n;                        /* of the recording; 0: not known yet, */
    char call_id[37];                 /* but by the call that made it */
} Undelivered;

/* What a task has been answered before, and what its next recordings are kept against. */
typedef struct {
    bool on;
    const ReplayMask *mask; /* NULL: none */
    enum { REPLAY_UNREAD, REPLAY_READING, REPLAY_READ } state;
    Cond read;     /* state moved */
    Replay replay; /* entries in arena */
    Replay twin;   /* likewise, of the production task that this one repeats */
    bool twin_read;
    Arena arena;
    bool differed;    /* the first difference was told */
    Buf base;         /* the request of the newest recording of this attempt */
    Api base_api;     /* its route, */
    char base_id[37]; /* its call_id */
    ReplayMarks base_marks;
    int base_chain;           /* requests that are kept against one another, up to it */
    Undelivered *undelivered; /* oldest first; NULL: none yet */
    size_t undelivered_n;
} TaskJournal;

struct GatewayTask {
    ListNode node; /* on gateway->tasks */
    Gateway *gateway;
    Arena arena; /* what the options pointed at */
    GatewayTaskOptions options;
    int64_t wall_deadline_ms; /* by limits.wall_ms and deadline_ms; DEADLINE_NONE */
    GatewayTotals totals;     /* .caps is the state that admits */
    PurseOwner *owner;        /* whose budgets it spends */
    int64_t settled_ppm;      /* of the tightest budget that applies, in millionths, at least */
    DegradeStep step;         /* that its calls are at */
    bool refusal_told;        /* a call that a limit refused stands in the timeline */
    int64_t lent_n;           /* tasks that it has lent to; among totals.caps.in_flight */
    int64_t tools_asked;      /* by answers of this attempt, and not run yet */
    int64_t tools_run;        /* by all attempts; earlier ones by what was counted */
    List calls;               /* ModelCall.node: all that have not returned */
    List counts;              /* CountFlight.node: counting of tokens at a provider */
    TaskJournal journal;
    Cond changed;       /* a call settled or returned, or the task was stopped */
    HttpServer *server; /* NULL: in-process calls only */
    char openai_url[48], anthropic_url[48];
    char key[GATEWAY_TASK_KEY_MAX];
    List visits;          /* Visit.node: requests that came in elsewhere */
    List door_visits;     /* DoorVisit.node: those that the worker serves */
    size_t request_bytes; /* of its requests that are here */
    uint64_t room_look;   /* of gateway_room.c */
};

/* On the stack of the fiber that serves it. */
typedef struct {
    ListNode node;
    FiberRef fiber;
} Visit;

/* Likewise. */
typedef struct {
    ListNode node;
    const HttpReq *req;
    size_t room; /* that it has taken */
} DoorVisit;

/* On the stack of the fiber that has a provider count tokens. */
typedef struct {
    ListNode node;
    HttpAbort abort;
    Str model;
} CountFlight;

/* A call begins, or ends, to wait for what was lent. Never waits. */
void task_lent_wait(GatewayTask *task, bool begins);

/* gateway_room.c: takes room for n bytes of a request of the task's, until room_give; waits for it
 * as long as the client may (0: does not say). Returns 0, GATEWAY_E_NO_ROOM (not in time, or the
 * task was stopped), HTTP_E_GONE, -ECANCELED. */
#define GATEWAY_E_NO_ROOM 5
MUST_CHECK int room_take_wait(GatewayTask *task, size_t n, int64_t patience_ms,
                              const GatewayReply *reply);
void room_give(GatewayTask *task, size_t n);

/* gateway_stats.c */
void stats_refused(Gateway *gateway, Problem problem);
void stats_call(Gateway *gateway, const GatewayCall *call);

/* gateway_degrade.c */
void stats_degraded(Gateway *gateway, GatewayDegraded degraded);

/* gateway_cache.c */
void cache_init(Cache *cache, uint64_t seed);
void cache_deinit(Cache *cache);
/* gateway_boundary.c */
bool task_model_on(const GatewayTask *task, Str model);

/* gateway_journal.c */
void journal_open(GatewayTask *task);
void journal_close(GatewayTask *task);

/* gateway_state.c */
void given_init(GivenIds *given, uint64_t seed);
void given_deinit(GivenIds *given);
/* The first thing that a request names and may not, member NULL: there is none. Returns 0 or a
 * negative errno: it could not be looked up. */
typedef struct {
    const char *member; /* where it stands */
    Str id;             /* in the document */
} StateName;
MUST_CHECK int task_check_state_wait(GatewayTask *task, Api api, const Json *body, StateName *ret);
void state_name_text(const StateName *name, char *out, size_t n);

/* gateway_http.c: the task's listener */
MUST_CHECK int task_listen(GatewayTask *task);
/* A request to the task, and where its answer goes. */
typedef struct {
    GatewayTask *task;
    const GatewayHttp *http;
    const GatewayReply *reply;
} TaskAsk;

/* gateway_limit.c: requests that cost nothing and are no calls, but count for the provider: waits
 * until one may be sent. Returns 0 (limits_done is owed), CALL_E_PROBLEM (*ret_problem and its text
 * say why not), HTTP_E_GONE, -ECANCELED. */
MUST_CHECK int limits_enter_wait(const TaskAsk *ask, const GatewayProvider *provider, Str model,
                                 CallPermit *ret, Problem *ret_problem, const char **ret_text);
/* What came of it: the answer's status, 0: none came, -1: it was given up. retry_after: the
 * answer's field. */
void limits_done(GatewayTask *task, CallPermit *permit, int status, Str retry_after);
/* gateway_reply.c: overwrites the provider's key with asterisks in what it said, as when it quotes
 * what it was sent: agents must not learn it. Returns whether it was there. */
bool key_mask(const GatewayProvider *provider, char *text, size_t n);
/* Answer with a whole JSON document (and a field more of the head, or NULL), or a problem. Return
 * what the reply did, or -ENOMEM. */
int ask_answer_wait(const TaskAsk *ask, int status, const GatewayField *field, Str body);
int ask_json_wait(const TaskAsk *ask, JsonOut *out, Buf *body);
int ask_problem_wait(const TaskAsk *ask, Problem problem, const char *message);

/* gateway_models.c: GET /v1/models, GET /v1/models/{id}, POST /v1/messages/count_tokens */
int task_models_wait(const TaskAsk *ask);
int task_model_wait(const TaskAsk *ask);
int task_count_tokens_wait(const TaskAsk *ask);

/* gateway_call.c: ends what the calls of the task wait for upstream, and what counts */
void calls_abort(GatewayTask *task);
/* lets those that wait for their turn look at the task again */
void calls_wake(GatewayTask *task);

/* gateway_task.c */
/* An earlier attempt's answer is served, which asks for n tools: they were counted then. */
void task_note_asked_again(GatewayTask *task, int64_t n);
bool task_past_deadline(const GatewayTask *task);
/* Notes the first cap that refused. */
void task_note_cap(GatewayTask *task, CapReason reason);
const char *task_stop_text(GatewayStop stop);
Problem task_stop_problem(GatewayStop stop);

#endif
