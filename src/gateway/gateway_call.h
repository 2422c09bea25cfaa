/* ModelCall: a call of the agent's, from its request to its answer. Not for other folders.
 *
 * Life: read, planned (which models could answer), then one attempt after the other until one
 * answers: held, sent, answered, settled and recorded (once an attempt). It lives on the fiber that
 * made it and on task->calls until it returns. Only that fiber touches it, save for abort.
 */
#ifndef GANTRY_GATEWAY_GATEWAY_CALL_H
#define GANTRY_GATEWAY_GATEWAY_CALL_H

#include "gateway/gateway_limit.h"
#include "gateway/gateway_private.h"
#include "logic/request_info.h"

#define CALL_MESSAGE_MAX 512
/* The model asked for, a smaller one, 8 fallbacks of the version, 8 of the route. */
#define CALL_TARGETS_MAX 18

/* Outcomes inside the gateway. */
#define CALL_E_PROBLEM 100  /* call->problem says what to answer */
#define CALL_E_ANSWERED 101 /* the agent has its answer: nothing more to do */
#define CALL_E_FLIGHT 104   /* the same is being asked already: call_cache_join_wait */
#define CALL_E_FLAGS 103    /* flags have changed while it waited: call_replan */
#define CALL_E_HELD 105     /* none of its models may be asked: call_hold_wait */

typedef enum { CHARGE_NOTHING, CHARGE_USAGE, CHARGE_HOLD } Charge;

typedef enum { CALL_CACHE_OFF, CALL_CACHE_MISS, CALL_CACHE_HIT } CallCache;

/* A model that could answer the call. */
typedef struct {
    const GatewayProvider *provider;
    const Price *price;
    PriceTerms terms; /* what makes it dearer; of call_check_terms */
    Str model;
    Api api;                 /* spoken upstream; not the agent's: the call is translated */
    const RequestInfo *info; /* the request as the target is asked it: the agent's own, */
    Str body;                /* or translated */
    bool degraded;           /* not the model that the agent asked for */
    const char *degraded_by; /* likewise: "model" or "fallback"; NULL: it is */
} CallTarget;

typedef struct ModelCall ModelCall;
struct ModelCall {
    ListNode node; /* on task->calls */
    GatewayTask *task;
    const GatewayRequest *asked;   /* as the agent sent it */
    const GatewayRequest *request; /* asked, or checked */
    GatewayRequest checked;        /* asked without tools that it must not offer */
    const GatewayReply *reply;
    Arena arena; /* the request as read, names for the record */
    RequestInfo info;
    PriceList *prices;      /* that were imported when it began */
    const Json *json;       /* the request's body */
    const Json *asked_json; /* of what the agent sent */
    int64_t started_us;     /* clock_mono_us */

    CallTarget targets[CALL_TARGETS_MAX]; /* in order of preference */
    size_t targets_n;
    const CallTarget *target; /* of the attempt; NULL before the plan */
    DegradeStep step;         /* that the plan was made at, */
    DegradeStep unhealthy;    /* that its models' breakers alone would have it at, */
    DegradeAction degrade;    /* and what that means for this call */
    bool was_held;            /* it was held back */
    bool over_budget;         /* a budget refused it: the ladder's last step */
    int64_t held_sent;        /* so often after an attempt that was sent */

    /* the attempt */
    int64_t tries;            /* which one, from 1; 0 before the first */
    int64_t target_tries;     /* sent to this target */
    int64_t upstream_wish_ms; /* Retry-After of the last answer; -1: none */
    CallPermit permit;        /* the right to be sent */
    Cond wake;                /* it was admitted, or should look at the task again */
    CapVerdict verdict;
    bool held; /* verdict.hold is reserved and not settled yet, in caps and in purse */
    PurseHold purse;
    int64_t reserved_real_ms; /* when: it decides in which window of budgets it counts */
    Buf body;                 /* the request as sent, when it was edited */
    HttpAbort abort;
    uint64_t flags_seen; /* Gateway.flags_n that it was checked and planned by */
    bool switched_off;   /* aborted because a flag says so */
    HttpCall *upstream;
    GatewayCall record;

    /* the answer */
    bool doubtful;          /* it is passed on, and is none to give to others */
    bool unreadable;        /* likewise, nor to this task again */
    bool begun;             /* its head was given to reply */
    bool answering;         /* and some of the provider's answer: no other attempt from here on */
    int64_t heartbeat_ms;   /* the last one; 0: none yet */
    bool streamed;          /* begun, as a stream */
    bool gone;              /* the reader has left, and is sent nothing more */
    bool left;              /* it had left before the end of the answer went out */
    int64_t drain_until_ms; /* when gone */
    size_t drained_bytes;
    bool keep_answer;    /* set before the first attempt: the record is to have the answer */
    Recording recording; /* of the attempt that answers */
    CallCache cache;
    CacheKey cache_key; /* of targets[0]; unless CALL_CACHE_OFF */
    bool flying;        /* it is in cache->flights */
    bool joined;        /* it has waited for another's answer: once is enough */

    /* the journal */
    bool journaled;                   /* key is set, and the answer is to be recorded */
    uint8_t key[SHA256_BYTES];        /* logic/replay.h */
    uint8_t client_key[SHA256_BYTES]; /* digest of the client's own; zero: none */
    Buf canonical;                    /* what was digested; empty: not known */
    ReplayMarks marks;                /* of it */
    bool replay_missed;               /* not told with a record yet */
    size_t shown;                     /* bytes of recording that a follower may be given */
    size_t followers;                 /* calls that are answered with this one's answer */
    bool over, answered;              /* the call has ended; with a whole answer */
    const ModelCall *leader;          /* whose answer it is being given; NULL: none */
    bool taken;                       /* a follower was given its answer whole */
    int64_t served_n;                 /* the recording it was answered with; 0: none */
    Cond grown;                       /* shown grew, or it is over */

    Problem problem;
    int retry_after_s; /* to tell with the problem; 0: nothing */
    bool no_retry;     /* the agent is told not to try again: the gateway has */
    const char *param;
    char message[CALL_MESSAGE_MAX]; /* for the agent and the record */
};

/* Notes what to answer; returns CALL_E_PROBLEM. */
int call_problem(ModelCall *call, Problem problem, const char *param, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* gateway_admit.c: reads and checks the request. Returns 0 or CALL_E_PROBLEM. */
MUST_CHECK int call_read(ModelCall *call);
/* What would cost more than tokens, without a bound, is refused: no reservation could hold it.
 * Sets target->terms. Returns 0 or CALL_E_PROBLEM. */
MUST_CHECK int call_check_terms(ModelCall *call, CallTarget *target);
/* Whether the usual service has to be asked for in words: an account may be set to a dearer one. */
bool call_pins_service(const CallTarget *target);
/* Reserves the worst case of an attempt at call->target; while only reserved spend stands in the
 * way it waits for that to be settled. Returns 0 (held), CALL_E_PROBLEM, HTTP_E_GONE, -ECANCELED.
 */
MUST_CHECK int call_admit_wait(ModelCall *call);

/* gateway_boundary.c: holds the request's tools against the version's; takes them out or refuses,
 * as the configuration says. Returns 0 (call->request may be another) or CALL_E_PROBLEM. */
MUST_CHECK int call_check_tools(ModelCall *call);
/* Notes which tools an answer as the agent was sent it calls, and how it ended. Returns how many
 * calls there are. */
int64_t recording_note(ModelCall *call, const Recording *recording);
/* Whether flags let the task, and call->target if it is known, go on: 0 or CALL_E_PROBLEM. */
MUST_CHECK int call_check_switches(ModelCall *call);
/* Whether flags have changed since the call was planned: who waits then returns CALL_E_FLAGS. */
bool call_flags_moved(const ModelCall *call);
/* Checks tools and plans anew, by the flags there are now; nothing may be held. Returns 0 or
 * CALL_E_PROBLEM. */
MUST_CHECK int call_replan(ModelCall *call);

/* gateway_plan.c: fills call->targets: the model asked for, then its fallbacks. Returns 0 (there is
 * at least one) or CALL_E_PROBLEM. */
MUST_CHECK int call_plan(ModelCall *call);
/* The route that the model asked for takes: in the agent's API if there is one. NULL: none. */
const GatewayRoute *call_route(const ModelCall *call);
/* The target that a model would be, not degraded. Returns 0 or a value to pass the model over for,
 * then perhaps with call->problem set. */
MUST_CHECK int call_plan_resolve(ModelCall *call, Str model, CallTarget *ret);

/* gateway_translate.c: the API in which target->provider is asked what was asked in another. */
Api api_spoken(const CallTarget *target, Api asked);
bool call_is_translated(const ModelCall *call);
/* Sets target->info and target->body, translated if target->api is not the agent's. Returns 0 or
 * CALL_E_PROBLEM (it cannot be translated). */
MUST_CHECK int call_translate_request(ModelCall *call, CallTarget *target);
/* Appends to out the answer of the target's, in the agent's API. Returns 0 or CALL_E_PROBLEM. */
MUST_CHECK int call_translate_answer(ModelCall *call, const Json *body, Buf *out);
/* An error of the provider's in the agent's API; in the call's arena, empty if that is full. */
Str call_translate_error(ModelCall *call, int status, Str body);

/* gateway_degrade.c: what is left of the task's budgets decides what the call gives up, so they
 * must be known: asks once, when they are not. Returns 0 or -ECANCELED. */
MUST_CHECK int call_know_budgets_wait(ModelCall *call);
/* gateway_degrade.c: sets call->step and call->degrade by what is left of the task's budgets. */
void call_degrade(ModelCall *call);
/* Then takes the call further down when the breaker of its first target is open; the small model
 * becomes the last of its targets when no other may be asked. */
void call_degrade_unhealthy(ModelCall *call);
/* Whether call->target stands in for the model asked for, and for that reason. */
bool call_is_degraded_by(const ModelCall *call, GatewayDegraded reason);
/* With only the model asked for planned: puts a smaller one before it, where there is one. */
void call_plan_smaller(ModelCall *call);
/* Holds the call back while call->degrade says so, then plans it anew and looks it up again.
 * Nothing may be held for it in caps and budgets.
 * Returns 0, CALL_E_PROBLEM, CALL_E_ANSWERED, HTTP_E_GONE or -ECANCELED. */
MUST_CHECK int call_hold_wait(ModelCall *call);

/* gateway_cache.c: answers from the cache when the agent (or its budget) wants that and the answer
 * is there. Returns CALL_E_ANSWERED, 0 (go on) or the sink's error (answered). */
MUST_CHECK int call_cache_wait(ModelCall *call);
/* What is asked once at a time: a call that could be answered from the cache waits while the same
 * call is at its provider. Before call->target is asked: returns 0 (the call flies now, or is none
 * that the cache could answer) or CALL_E_FLIGHT; nothing may be held then. */
MUST_CHECK int call_cache_fly(ModelCall *call);
/* Waits for the other call. Returns CALL_E_ANSWERED, 0 (make the call: the other's answer was none
 * to keep, or takes too long), HTTP_E_GONE, -ECANCELED or the sink's error (answered). */
MUST_CHECK int call_cache_join_wait(ModelCall *call);
/* Its attempt has ended, and its answer is kept if it is to be. Harmless when it does not fly. */
void call_cache_land(ModelCall *call);
/* Keeps the recording of an attempt that is recorded as complete, when it is worth it. */
void call_cache_keep(ModelCall *call);

/* gateway_journal.c: answers from the journal what an earlier attempt was answered, or with the
 * answer of an equal call whose reader has left, be that call still going or over. Returns
 * CALL_E_ANSWERED, 0 (make the call; it is recorded when call->journaled is set now),
 * CALL_E_PROBLEM or a negative errno (answered). */
MUST_CHECK int call_replay_wait(ModelCall *call);
/* Notes that followers may be given all that was recorded so far. */
void call_journal_show(ModelCall *call);
/* The call has ended: lets its followers go, and waits for them. */
void call_journal_end_wait(ModelCall *call);

/* gateway_undelivered.c: whether it is the call that is known by these keys, and has one of the
 * client's own. */
bool call_is_same(const ModelCall *call, const uint8_t key[SHA256_BYTES],
                  const uint8_t client_key[SHA256_BYTES]);
bool call_has_client_key(const ModelCall *call);
/* Remembers the answer of a call that has ended, if it is recorded and its client did not take it,
 * or may ask for it again by its own key. */
void undelivered_keep(ModelCall *call);
/* Forgets the oldest answer that is waiting for the same call; false: there is none. */
bool undelivered_take(ModelCall *call, Undelivered *ret);
/* It could not be served after all. */
void undelivered_put_back(ModelCall *call, const Undelivered *taken);

/* gateway_state.c: whether all that the request names at its provider was given to its tenant.
 * Returns 0, CALL_E_PROBLEM or -ECANCELED. */
MUST_CHECK int call_check_state_wait(ModelCall *call);
/* Notes what an answer, or an event of it, gives; api: that it is in. */
void call_note_state(ModelCall *call, Api api, const Json *doc);
void recording_note_state(ModelCall *call, const Recording *recording);

/* The recording that goes with a record, and what it points into. */
typedef struct {
    JournalNew recording;
    Buf answer, request; /* compressed */
    char base_id[37];
    bool against_base;
} Journaled;
/* Sets call->record.recording when there is one to be kept. */
void call_journal_begin_wait(ModelCall *call, Journaled *journaled);
/* recorded: the record is durable. */
void call_journal_done(ModelCall *call, Journaled *journaled, bool recorded);

/* gateway_attempt.c: begins the record of what call->target is asked. */
void call_record_begin(ModelCall *call);
/* Makes one attempt at call->target: admits, sends, and answers the agent when it can. Returns 0 or
 * the error the call ends with once the agent has its answer (or has left); CALL_E_PROBLEM when it
 * was refused (nothing was sent, nothing answered); CALL_E_FLAGS and CALL_E_FLIGHT likewise;
 * ATTEMPT_E_FAILED when the provider failed before a byte of its answer was given away: *ret says
 * how, call->problem what to answer, and call->upstream still has the head of an error answer. */
#define ATTEMPT_E_FAILED 102
typedef struct {
    GatewayOutcome outcome; /* as recorded */
    int status;             /* of the provider's error answer; 0: none came */
    Str body;               /* of it, in the call's arena; may be empty */
    bool unsent;            /* it was not even asked: no room in time, or its breaker is open */
} CallFailure;
MUST_CHECK int call_attempt_wait(ModelCall *call, CallFailure *ret);
/* Whether the answer came compressed, which is not asked for: nobody here could read it. */
bool call_is_encoded(const ModelCall *call);
/* Drops what belongs to the last attempt; it must be settled. */
void call_attempt_clear(ModelCall *call);

/* gateway_retry.c: what to do after a failed attempt; waits as long as it should be waited.
 * Returns 0 when there is to be another attempt, at call->target, else CALL_E_PROBLEM (give up),
 * CALL_E_HELD or -ECANCELED. */
MUST_CHECK int call_next_wait(ModelCall *call, const CallFailure *failure);

/* Whether a failed attempt would be followed by another one, retry budget permitting. */
bool call_can_retry(const ModelCall *call);

/* gateway_limit.c: until when the call may wait (clock_mono_ms): the client's patience, the task's
 * time. */
int64_t call_deadline_ms(const ModelCall *call);
/* Waits on cond, sending heartbeats to a reader of a stream. Returns 0 (signalled, or time to look
 * around), -ETIMEDOUT (until_ms has passed), HTTP_E_GONE, -ECANCELED. */
MUST_CHECK int call_pause_wait(ModelCall *call, Cond *cond, int64_t until_ms);
/* Waits for the right to send to call->target. Returns 0, CALL_E_PROBLEM, HTTP_E_GONE, -ECANCELED.
 */
MUST_CHECK int call_permit_wait(ModelCall *call);
/* The head of the answer is there: what it says of limits is taken in. */
void call_permit_answered(ModelCall *call);
/* The attempt is over (record.outcome is set). */
void call_permit_done(ModelCall *call, Charge charge);
/* It was not made. Harmless without a permit. */
void call_permit_drop(ModelCall *call);
/* For gateway_retry.c: the retry budget of the target's provider, whether a target's breaker is
 * open, until when the provider of call->target asked for silence. */
void call_retry_earn(ModelCall *call);
MUST_CHECK bool call_retry_spend(ModelCall *call);
bool call_target_open(const ModelCall *call, const CallTarget *target);
int64_t call_blocked_until_ms(ModelCall *call);
void call_note_fallback(ModelCall *call);

/* gateway_settle.c: a call that no model was asked: makes it known, so that the task's timeline has
 * it. Returns as call_close_wait. */
MUST_CHECK int call_close_refused_wait(ModelCall *call);
/* gateway_settle.c: settles the hold, counts, and makes the record durable. To be called once for
 * an admitted attempt, before the end of its answer is given away. Returns 0 or the sink's error,
 * with call->problem set. Goes through even when the fiber is cancelled. */
MUST_CHECK int call_close_wait(ModelCall *call, GatewayOutcome outcome, Charge charge);
/* As call_close_wait, for an answer that was got earlier and is given again: nothing is held,
 * nothing is charged, nothing was sent. Tool calls in record.usage count: the agent will make
 * them. */
MUST_CHECK int call_close_served_wait(ModelCall *call);
/* As call_close_wait, for what ended with r (a negative errno, HTTP_CALL_E_END or HTTP_CALL_E_CUT)
 * without a complete answer; sets call->problem. */
MUST_CHECK int call_fail_wait(ModelCall *call, int r);
/* Copies names into the record. */
void call_note_tools(ModelCall *call, const Str *names, size_t n);
void call_note_model(ModelCall *call, Str model);

/* gateway_reply.c: the answer. After one of them has failed, call->gone is set and nothing more is
 * sent. An answer that was begun as a stream already ends with an error event where it would have
 * been a problem or a plain error. */
void reply_problem_wait(ModelCall *call);
/* Whether its reader has left before the end of the answer goes out, which may seem to arrive all
 * the same. */
bool call_has_left(ModelCall *call);
/* Whether something the provider said has its key in it: agents must not learn it. */
bool call_quotes_key(const ModelCall *call, Str value);
void reply_heartbeat_wait(ModelCall *call); /* begins a stream when need be; a comment */
void reply_plain_wait(ModelCall *call, int status, Str body);
void reply_error_wait(ModelCall *call, int status, Str body); /* the provider's own error answer */
void reply_stream_wait(ModelCall *call, Str bytes); /* begins the answer when need be; recorded */
void reply_follow_wait(ModelCall *call, const Recording *recording, Str bytes); /* another's */
void reply_follow_end_wait(ModelCall *call);
void reply_stream_end_wait(ModelCall *call, Str tail); /* tail: the last bytes, recorded already */
void reply_stream_fail_wait(ModelCall *call, int64_t sequence); /* an error event, and the end */
/* Answers with a recording; a field more of the head may be given (NULL: none). When a heartbeat
 * has begun the answer already, recording must be a stream. */
void reply_recording_wait(ModelCall *call, const Recording *recording, const GatewayField *field);
/* gateway_reply.c: adds to call->recording what the agent is about to be sent. */
void recording_begin(ModelCall *call, int status, bool streamed);
void recording_add(ModelCall *call, Str bytes);
void recording_clear(ModelCall *call);

/* gateway_stream.c, gateway_plain.c: forward the answer of call->upstream, settle, record. Return
 * 0, GATEWAY_E_CUT or a negative errno. */
MUST_CHECK int call_stream_wait(ModelCall *call);
MUST_CHECK int call_plain_wait(ModelCall *call);
/* Takes an answer with a status other than 2xx in, settles, records. Returns ATTEMPT_E_FAILED or
 * the sink's error. */
MUST_CHECK int call_error_wait(ModelCall *call, CallFailure *ret);

#endif
