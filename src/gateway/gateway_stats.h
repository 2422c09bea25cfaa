/* Gateway counters, for /metrics. One set a gateway (so one a loop): readers add them up. */
#ifndef GANTRY_GATEWAY_GATEWAY_STATS_H
#define GANTRY_GATEWAY_GATEWAY_STATS_H

#include "gateway/gateway.h"

#define GATEWAY_STATS_MODELS_MAX 128 /* more are counted under "other" */
#define GATEWAY_MODEL_NAME_MAX 96

typedef enum {
    GATEWAY_REFUSED_CAP,     /* 402 */
    GATEWAY_REFUSED_PRICE,   /* 400: unknown price */
    GATEWAY_REFUSED_ROUTE,   /* 404: no provider for the model */
    GATEWAY_REFUSED_INVALID, /* 400, 404, 405: the request itself */
    GATEWAY_REFUSED_STOPPED, /* 403 */
    GATEWAY_REFUSED_TOOL,    /* 403: offers a tool that its version does not declare like that */
    GATEWAY_REFUSED_OFF,     /* 403: switched off by a flag */
    GATEWAY_REFUSED_QUEUED,  /* 429: waited too long for reserved spend */
    GATEWAY_REFUSED_BREAKER, /* 503: its breaker is open, and there is no fallback */
    GATEWAY_REFUSED_LARGE,   /* 413: it, or its body, is too large to be read */
    GATEWAY_REFUSED_STATE,   /* 403: names what its provider keeps, and its tenant was not given */
    GATEWAY_REFUSED_AWAY,    /* 503: the reservation cannot be made just now */
    GATEWAY_REFUSED_FAILED,  /* 500: ours, or the call could not be recorded */
    GATEWAY_REFUSED_N_
} GatewayRefused;
const char *gateway_refused_name(GatewayRefused refused);

/* What is given up for want of money or of a provider that is well. */
typedef enum {
    GATEWAY_DEGRADED_CACHE,    /* looked up in the cache though the agent has not opted in */
    GATEWAY_DEGRADED_MODEL,    /* planned for a smaller model */
    GATEWAY_DEGRADED_HOLD,     /* held back: the low lane */
    GATEWAY_DEGRADED_FALLBACK, /* answered by another model: the one asked for did not */
    GATEWAY_DEGRADED_REFUSE,   /* refused: none of its models answers just now */
    GATEWAY_DEGRADED_N_
} GatewayDegraded;
const char *gateway_degraded_name(GatewayDegraded degraded); /* "cache", "model", ... */

typedef struct {
    char provider[GATEWAY_MODEL_NAME_MAX];
    char model[GATEWAY_MODEL_NAME_MAX];
    uint64_t calls[GATEWAY_OUTCOME_N_];
    uint64_t input_tokens, output_tokens, cached_tokens;
    uint64_t cost_nusd;
    uint64_t duration_us; /* sum */
} GatewayModelStats;

typedef struct {
    size_t models_n;
    GatewayModelStats models[GATEWAY_STATS_MODELS_MAX + 1];
    uint64_t refused[GATEWAY_REFUSED_N_];
    uint64_t degraded[GATEWAY_DEGRADED_N_];
    uint64_t waited;        /* calls that queued for reserved spend */
    uint64_t clamped;       /* calls whose output cap was lowered */
    uint64_t disarmed;      /* calls sent with tool_choice "none": toolCallsPerTask is reached */
    uint64_t usage_missing; /* calls charged their whole hold for want of usage */
    uint64_t over_hold;     /* calls that cost more than was held */
    uint64_t tools_removed; /* taken out of requests */
    uint64_t
        state_forgotten;     /* ids of what providers keep, of which only the last are remembered */
    uint64_t translated;     /* attempts in another API than the agent's */
    uint64_t untranslatable; /* models refused or passed over: the request does not fit their API */
    uint64_t untranslated;   /* answers that could not be put in the agent's: too large, or odd */
    uint64_t replayed;       /* calls answered from the journal, or with another call's answer: */
    uint64_t attached;       /* those that followed one that was still going */
    uint64_t undelivered;    /* recorded answers whose client had left before their end */
    uint64_t redelivered; /* of them, and of those with a client's key: given when it came back */
    uint64_t
        undelivered_dropped; /* forgotten: more of a task waited for their clients than are kept */
    uint64_t cache_joined;   /* calls that waited for the answer to the same call, and got it */
    uint64_t replayed_tools; /* tool calls answered from the journal */
    uint64_t replay_misses;  /* calls made although recordings were left to replay */
    uint64_t not_recorded;   /* answers that were too large for the journal */
    /* At listeners of tasks that have ended: connections beyond the 256 of a task; requests that
     * were malformed, too large or not sent in time; answers that were not read in time. */
    uint64_t listener_refused, listener_bad, listener_stalls;
    uint64_t room_waited;  /* requests that waited for room for their bytes */
    uint64_t room_refused; /* and got none in time */
    CacheFigures cache;
    int64_t in_flight;
    int64_t request_bytes; /* of requests that are here */
    int64_t tasks_open;
} GatewayStats;

/* Any thread. Large: not on a fiber's stack. */
void gateway_stats(const Gateway *gateway, GatewayStats *ret);

#endif
