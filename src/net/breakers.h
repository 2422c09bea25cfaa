/* Breakers: a set of circuit breakers by name (a provider's model, a tool source, a host).
 *
 * Made as they are asked for; bounded: beyond the maximum the one not asked for the longest goes,
 * closed ones first, so that new names cannot make an open one forgotten. Any thread; nothing here
 * waits.
 */
#ifndef GANTRY_NET_BREAKERS_H
#define GANTRY_NET_BREAKERS_H

#include "base/str.h"
#include "logic/breaker.h"

typedef struct Breakers Breakers;

#define BREAKER_NAME_MAX 256 /* with a NUL; longer names share their beginning's breaker */
#define BREAKERS_MAX_DEFAULT 256

/* kind ("model", "tool", "webhook"): shown; borrowed, a literal. policy is copied; NULL: the
 * default. max 0: BREAKERS_MAX_DEFAULT. */
Breakers *breakers_new(const char *kind, const BreakerPolicy *policy, size_t max);
/* NULL is accepted. */
void breakers_free(Breakers *breakers);
DEFINE_FREEP(Breakers, breakers_free)

/* The right to make one call. Its result must be told, once; harmless when the breaker has been
 * forgotten meanwhile. Zeroed: none. */
typedef struct {
    uint64_t id; /* of the breaker, never reused; 0: none */
    size_t slot;
    BreakerPermit permit;
} BreakerTicket;

/* Whether a call may be made now. Returns true with *ret, or false: it is open until
 * *ret_next_ms (clock_mono_ms; may be NULL), when it can be asked again. */
MUST_CHECK bool breakers_ask(Breakers *breakers, Str name, BreakerTicket *ret,
                             int64_t *ret_next_ms);

/* Whether breakers_ask would say yes; makes nothing and counts nothing. */
bool breakers_would(Breakers *breakers, Str name);

/* Tells the result of a call, and clears the ticket. duration_ms: how long it took to answer. A
 * ticket of none is ignored. */
void breakers_done(Breakers *breakers, BreakerTicket *ticket, BreakerResult result,
                   int64_t duration_ms);

/* Another process's breaker of that name is open for so much longer by what it has seen; 0: none
 * is. See logic/breaker.h. */
void breakers_hear(Breakers *breakers, Str name, int64_t open_ms);

/* For how much longer it is open by what was seen here. */
int64_t breakers_own_open_ms(Breakers *breakers, Str name);

typedef struct {
    char name[BREAKER_NAME_MAX];
    const char *kind;
    BreakerState state;
    bool heard;              /* open to probes, because another process's is open */
    BreakerCounts counts;    /* of the window */
    int64_t since_real_ms;   /* of the state; Unix time */
    int64_t next_probe_ms;   /* from now; 0 unless open */
    int64_t probes_out;      /* half-open: under way */
    uint64_t trips, refused; /* so far */
} BreakerInfo;

/* Writes at most max of them, by name; returns how many. */
size_t breakers_list(Breakers *breakers, BreakerInfo *ret, size_t max);

typedef struct {
    size_t by_state[BREAKER_N_];
    uint64_t trips, refused, forgotten; /* forgotten: for want of room */
} BreakersStats;
void breakers_stats(Breakers *breakers, BreakersStats *ret);

#endif
