/* ModelCall: one call from admission to its record. Not for other folders.
 *
 * Life: read, admitted (held), sent, answered, settled and recorded (once), freed. It lives on the
 * fiber that made it and on task->calls until it returns. Only that fiber touches it, save
 * for abort.
 */
#ifndef GANTRY_GATEWAY_GATEWAY_CALL_H
#define GANTRY_GATEWAY_GATEWAY_CALL_H

#include "gateway/gateway_private.h"
#include "logic/request_info.h"

#define CALL_MESSAGE_MAX 512

/* An outcome inside the gateway: call->problem says what to answer. */
#define CALL_E_PROBLEM 100

typedef enum { CHARGE_NOTHING, CHARGE_USAGE, CHARGE_HOLD } Charge;

typedef struct {
    ListNode node; /* on task->calls */
    GatewayTask *task;
    const GatewayRequest *request;
    const GatewayReply *reply;
    Arena arena; /* the request as read, names for the record */
    RequestInfo info;
    const GatewayProvider *provider;
    const Price *price;
    CapVerdict verdict;
    bool held; /* verdict.hold is reserved and not settled yet */
    Buf body;  /* the request as sent, when it was edited */
    HttpAbort abort;
    HttpCall *upstream;
    int64_t started_us; /* clock_mono_us */
    GatewayCall record;

    bool begun;             /* the answer's head was given to reply */
    bool gone;              /* the reader has left */
    int64_t drain_until_ms; /* when gone */
    size_t drained_bytes;

    Problem problem;
    const char *param;
    char message[CALL_MESSAGE_MAX]; /* for the agent and the record */
} ModelCall;

/* Notes what to answer; returns CALL_E_PROBLEM. */
int call_problem(ModelCall *call, Problem problem, const char *param, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* gateway_admit.c: reads and checks the request, chooses provider and price, reserves the worst
 * case. Returns 0 (held), CALL_E_PROBLEM, HTTP_E_GONE, -ECANCELED. */
MUST_CHECK int call_admit_wait(ModelCall *call);

/* gateway_settle.c: settles the hold, counts, and makes the record durable. To be called once for
 * an admitted call, before the end of its answer is given away. Returns 0 or the sink's error, with
 * call->problem set. Goes through even when the fiber is cancelled. */
MUST_CHECK int call_close_wait(ModelCall *call, GatewayOutcome outcome, Charge charge);
/* As call_close_wait, for what ended with r (a negative errno, HTTP_CALL_E_END or HTTP_CALL_E_CUT)
 * without a complete answer; sets call->problem. */
MUST_CHECK int call_fail_wait(ModelCall *call, int r);
/* Copies names into the record. */
void call_note_tools(ModelCall *call, const Str *names, size_t n);
void call_note_model(ModelCall *call, Str model);

/* gateway_reply.c: the answer. After one of them has failed, call->gone is set and nothing more is
 * sent. */
void reply_problem_wait(ModelCall *call);
void reply_plain_wait(ModelCall *call, int status, Str body);
void reply_stream_wait(ModelCall *call, Str bytes); /* begins the answer when need be */
void reply_stream_end_wait(ModelCall *call);
void reply_stream_fail_wait(ModelCall *call, int64_t sequence); /* an error event, and the end */

/* gateway_stream.c, gateway_plain.c: forward the answer of call->upstream, settle, record. Return
 * 0, GATEWAY_E_CUT or a negative errno. */
MUST_CHECK int call_stream_wait(ModelCall *call);
MUST_CHECK int call_plain_wait(ModelCall *call);
MUST_CHECK int call_error_wait(ModelCall *call); /* of a status other than 2xx */

#endif
