/* Breaker: when to stop calling what does not answer, and when to try it again.
 *
 *   closed ──too many errors or slow calls──> open ──its time is over──> half-open
 *     ^                                        ^                            │
 *     └───────────── enough probes succeeded ──┼────────────────────────────┤
 *                                              └── a probe failed ──────────┘
 *
 * Closed counts the calls of a sliding window; half-open lets a few probes through and refuses the
 * rest. Each trip in a row opens it for twice as long, with jitter, so that many processes do not
 * come back at once. A result that arrives after the state has changed says nothing about the new
 * state and is ignored.
 *
 * What another breaker of the same thing has seen is a hint: while the other is open a closed one
 * needs fewer bad calls to open, and without a good call in its window lets only probes through
 * until they have succeeded. So one machine whose own network is broken stops nobody else.
 *
 * Pure: time (a clock that does not run backwards) and random bits are arguments. The state belongs
 * to one owner at a time.
 */
#ifndef GANTRY_LOGIC_BREAKER_H
#define GANTRY_LOGIC_BREAKER_H

#include "base/common.h"

typedef enum { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_N_ } BreakerState;
const char *breaker_state_name(BreakerState state); /* "closed", "open", "half-open" */

typedef struct {
    int64_t window_ms;     /* the calls of the last so long count */
    int64_t calls_min;     /* fewer say nothing */
    int64_t error_percent; /* trips when so many or more fail, 1..100; 0: errors never trip */
    int64_t slow_percent;  /* trips when so many or more are slow, 1..100; 0: never */
    int64_t slow_ms;       /* a call that takes so long is slow */
    int64_t open_ms;       /* of the first trip; the next in a row take twice as long, ... */
    int64_t open_max_ms;   /* ... up to this */
    int64_t probes;        /* at a time in half-open, and so many must succeed in a row */
} BreakerPolicy;

/* 30 s, 10 calls, half of them failed or four fifths slower than a minute; 5 s to 2 min; 2. */
#define BREAKER_POLICY_DEFAULT               \
    ((BreakerPolicy){ .window_ms = 30000,    \
                      .calls_min = 10,       \
                      .error_percent = 50,   \
                      .slow_percent = 80,    \
                      .slow_ms = 60000,      \
                      .open_ms = 5000,       \
                      .open_max_ms = 120000, \
                      .probes = 2 })

#define BREAKER_BUCKETS 10

typedef struct {
    int64_t calls, errors, slow;
} BreakerCounts;

typedef struct {
    BreakerState state;
    uint64_t epoch;        /* one higher at every change of state */
    int64_t since_ms;      /* of the state */
    int64_t until_ms;      /* open: no call before */
    bool heard;            /* open because another is */
    int64_t wary_until_ms; /* another is open until then; calls since it was heard of: */
    int64_t wary_calls, wary_errors;
    int64_t trips_in_row; /* since it last held for open_max_ms */
    int64_t probes_out, probes_ok;
    int64_t probed_at_ms; /* the newest probe */
    uint64_t trips, refused;
    int64_t bucket_no; /* the newest bucket: time / bucket length */
    BreakerCounts buckets[BREAKER_BUCKETS];
} Breaker;

/* Every value in its range: window, calls_min, open_ms, probes at least 1, percents 0..100. */
bool breaker_policy_ok(const BreakerPolicy *policy);

/* Closed, nothing counted. */
void breaker_init(Breaker *breaker, int64_t now_ms);

/* The right to make one call; what came of it goes to breaker_done, once. */
typedef struct {
    uint64_t epoch;
    bool probe;
} BreakerPermit;

/* Whether a call may be made now. False counts a refusal; ask again at breaker_next_ms. */
MUST_CHECK bool breaker_ask(Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms,
                            BreakerPermit *ret);

/* Whether breaker_ask would say yes; changes nothing. */
bool breaker_would(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms);

/* The earliest time at which another answer is possible without a result coming in; now_ms when a
 * call may be made. */
int64_t breaker_next_ms(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms);

typedef enum {
    BREAKER_GOOD,
    BREAKER_BAD,
    BREAKER_UNTOLD, /* says nothing: not sent, cancelled, or the caller's own fault */
} BreakerResult;

/* random: 64 uniform bits. */
void breaker_done(Breaker *breaker, const BreakerPolicy *policy, BreakerPermit permit,
                  BreakerResult result, int64_t duration_ms, int64_t now_ms, uint64_t random);

/* Another breaker of the same thing is open for so much longer by what it has seen itself; 0: none
 * is. */
void breaker_hear(Breaker *breaker, const BreakerPolicy *policy, int64_t open_ms, int64_t now_ms);

/* For how much longer it is open by what it has seen itself; 0: it is not. */
int64_t breaker_own_open_ms(const Breaker *breaker, int64_t now_ms);

/* What the window holds at now_ms. */
BreakerCounts breaker_counts(const Breaker *breaker, const BreakerPolicy *policy, int64_t now_ms);

#endif
