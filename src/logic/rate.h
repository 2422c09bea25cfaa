/* Rate limits: what may still be sent to a provider this minute, and who is next.
 *
 * A Rate counts what was sent under one limit (a provider's, or a model's) in a sliding window that
 * is a little longer than a minute, so that no 60 seconds ever hold more than the limit, wherever
 * the provider lets its minute begin and however long the way there takes. What a call will use is
 * booked when it is admitted and corrected when the truth is known: what was over-estimated comes
 * free, what was under-estimated stays booked. A call that is larger than the limit goes alone.
 *
 * A RateQueue is the calls that wait for one provider: by lane, each lane with a handicap instead
 * of a rank, so that whoever waits long enough is first. A call that does not fit yet keeps those
 * behind it from what it waits for, and from nothing else.
 *
 * Pure: times are of a clock that does not run backwards. A Rate and its queue belong to one owner.
 */
#ifndef GANTRY_LOGIC_RATE_H
#define GANTRY_LOGIC_RATE_H

#include "base/list.h"
#include "logic/lane.h"

typedef enum { RATE_REQUESTS, RATE_TOKENS, RATE_INPUT, RATE_OUTPUT, RATE_N_ } RateUnit;
const char *rate_unit_name(RateUnit unit); /* "requests", "tokens", "inputTokens", "outputTokens" */

/* Of each unit so many; as a limit: a minute, and 0 is none. */
typedef struct {
    int64_t v[RATE_N_];
} RateAmounts;

/* A call of so many tokens. */
RateAmounts rate_amounts(int64_t input_tokens, int64_t output_tokens);

#define RATE_WINDOW_MS 60000
#define RATE_BUCKET_MS 500
/* The minute, the bucket it begins in, and half a second for a slow way to the provider. */
#define RATE_BUCKETS (RATE_WINDOW_MS / RATE_BUCKET_MS + 2)
#define RATE_SPAN_MS (RATE_BUCKETS * RATE_BUCKET_MS) /* what is taken is free again by then */
#define RATE_BLOCK_MAX_MS 600000 /* a provider that asks for more silence than that is not heeded */
#define RATE_NEVER INT64_MAX

typedef struct {
    int64_t newest_no; /* bucket: time / RATE_BUCKET_MS */
    int64_t sum;       /* of all buckets */
    int64_t buckets[RATE_BUCKETS];
} RateWindow;

/* What the provider counts beyond our own window (others use the same key); shrinks evenly. */
typedef struct {
    int64_t amount, from_ms, until_ms;
} RateOthers;

typedef struct {
    RateAmounts limit;        /* as configured */
    RateAmounts learned;      /* as the provider told; 0: it did not */
    int64_t concurrent_limit; /* 0: none */
    bool shared;              /* others work under the same limits: no more than these shares */
    RateAmounts share;
    int64_t concurrent_share;
    int64_t share_until_ms; /* after that they are nothing */
    RateWindow windows[RATE_N_];
    RateOthers others[RATE_N_];
    int64_t in_flight;
    int64_t blocked_until_ms; /* the provider asked for silence: */
    int64_t silent_until_ms;  /* of us, in an answer */
    size_t waiting;           /* in the queue */
    uint64_t throttled;       /* answers that said we were too fast */
    uint64_t closed_in;       /* private: the pass in which it was full */
} Rate;

void rate_init(Rate *rate, const RateAmounts *limit, int64_t concurrent_limit);

/* The limit in force: the lower of configured and learned; 0: none. */
int64_t rate_limit(const Rate *rate, RateUnit unit);

/* What counts of our own at now_ms; and with what others use of the provider's. */
int64_t rate_own(const Rate *rate, RateUnit unit, int64_t now_ms);
int64_t rate_used(const Rate *rate, RateUnit unit, int64_t now_ms);

/* When `need` fits if nothing else is sent meanwhile: now_ms when it does now, RATE_NEVER when a
 * call must end first, or the share is too small. */
int64_t rate_fits_at_ms(const Rate *rate, const RateAmounts *need, int64_t now_ms);

/* Whether it is the share that stands in the way: a larger one would let `need` through sooner. */
bool rate_lacks_share(const Rate *rate, const RateAmounts *need, int64_t now_ms);

/* Books a call, also one that does not fit. */
void rate_take(Rate *rate, const RateAmounts *need, int64_t now_ms);

/* Corrects what was taken at taken_at_ms to what was really used, and ends the call. */
void rate_settle(Rate *rate, const RateAmounts *taken, int64_t taken_at_ms,
                 const RateAmounts *actual, int64_t now_ms);

/* --- what providers tell ---------------------------------------------------------------------- */

/* -1: not told. */
typedef struct {
    int64_t limit[RATE_N_], remaining[RATE_N_], reset_ms[RATE_N_]; /* reset: from now */
    int64_t retry_after_ms;
    bool retry_after_exact; /* private: it came in milliseconds, which win */
} RateReport;
#define RATE_REPORT_NONE                            \
    ((RateReport){ .limit = { -1, -1, -1, -1 },     \
                   .remaining = { -1, -1, -1, -1 }, \
                   .reset_ms = { -1, -1, -1, -1 },  \
                   .retry_after_ms = -1 })

/* Takes one field of an answer's head into the report; others are ignored, and so is what cannot be
 * read. x-ratelimit-{limit,remaining,reset}-{requests,tokens} (resets as 1s, 6m0s, 12ms, seconds or
 * Unix time), anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,
 * reset} (RFC 3339), retry-after-ms, retry-after (seconds or an HTTP date; the milliseconds win).
 * Times to come are within 0..RATE_BLOCK_MAX_MS. */
void rate_report_field(RateReport *report, Str name, Str value, int64_t now_real_ms);

/* Applies it: limits are learned, what others used is taken into account. */
void rate_learn(Rate *rate, const RateReport *report, int64_t now_ms);

/* Silence until then (at most RATE_BLOCK_MAX_MS from now): the provider refused a call. */
void rate_block(Rate *rate, int64_t until_ms, int64_t now_ms);
/* Likewise, of others who work under the same limits. */
void rate_block_heard(Rate *rate, int64_t until_ms, int64_t now_ms);
/* What others were told of limits, where nothing was told to us. */
void rate_learn_heard(Rate *rate, const RateAmounts *learned);

/* --- waiting ---------------------------------------------------------------------------------- */

/* A call of this lane goes before one of a higher lane that came so much later. */
#define RATE_HANDICAP_NORMAL_MS 10000
#define RATE_HANDICAP_LOW_MS 30000
#define RATE_SCOPES_MAX 2

typedef struct {
    ListNode node; /* private */
    Lane lane;
    Rate *rates[RATE_SCOPES_MAX]; /* all must have room; [0] is shared by the whole queue */
    size_t rates_n;
    RateAmounts need;
    int64_t rank_ms;     /* private: its place */
    bool admitted;       /* out */
    int64_t taken_at_ms; /* out, for rate_settle */
} RateWaiter;

typedef struct {
    List waiting; /* first to go first */
    size_t n, n_max;
    size_t by_lane[LANE_N_];
    uint64_t refused_full;
    uint64_t pass; /* private */
} RateQueue;

void rate_queue_init(RateQueue *queue, size_t n_max);

/* Waits from now on; false when n_max wait already (counted). lane, rates and need are set. */
MUST_CHECK bool rate_queue_join(RateQueue *queue, RateWaiter *waiter, int64_t now_ms);

/* No longer waits. Harmless when it does not. */
void rate_queue_leave(RateQueue *queue, RateWaiter *waiter);

/* Admits all that may go now: books them in their rates, takes them off the queue, sets admitted
 * and puts them on ret in their order (by .node, as members of nothing else). *ret_next_ms: when to
 * look again without anything having ended; RATE_NEVER. */
void rate_queue_admit(RateQueue *queue, int64_t now_ms, List *ret, int64_t *ret_next_ms);

/* Ends an admitted call: corrects all its rates. */
void rate_waiter_settle(RateWaiter *waiter, const RateAmounts *actual, int64_t now_ms);

/* --- how long answers get --------------------------------------------------------------------- */

/* Providers count an output cap that a request names, and otherwise what is generated: then the
 * highest of the recent answers, a quarter added, is a better guess than all a model could say. */
typedef struct {
    int64_t high; /* decays */
    int64_t seen;
} RateOutput;
#define RATE_OUTPUT_SEEN_MIN 8 /* before that: the upper bound */

void rate_output_note(RateOutput *output, int64_t tokens);
int64_t rate_output_guess(const RateOutput *output, int64_t upper_bound);

#endif
