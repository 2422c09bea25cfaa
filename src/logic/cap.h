/* Caps: the hard limits of one task (tokens, tool calls, money, time), by reservation.
 *
 * Before a call its worst case is held; afterwards the truth is settled, once. While actual spend
 * is within its hold, settled + reserved never passes a limit. A call is refused only when the
 * smallest useful one does not fit beside what is settled; if only holds of calls in flight stand
 * in the way, it waits. Sub-agents share their parent's CapState. Pure; the state belongs to one
 * fiber at a time.
 */
#ifndef GANTRY_LOGIC_CAP_H
#define GANTRY_LOGIC_CAP_H

#include "logic/price.h"

#define CAP_NONE INT64_MAX              /* no limit */
#define CAP_CALL_MAX (INT64_MAX / 4096) /* of one call: two million USD */
#define CAP_OUT_MIN_DEFAULT 16
#define CAP_OUT_GOOD_DEFAULT 256

typedef struct {
    int64_t tokens;
    int64_t tool_calls;
    int64_t usd_nusd;
    int64_t wall_ms; /* from started_ms */
} CapLimits;

typedef struct {
    int64_t started_ms;
    int64_t settled_tokens, settled_nusd, tool_calls;
    int64_t reserved_tokens, reserved_nusd;
    int64_t in_flight; /* calls admitted and not yet settled */
} CapState;

/* What one call reserves. */
typedef struct {
    int64_t tokens;
    int64_t nusd;
} CapHold;

/* The call that asks. */
typedef struct {
    const Price *price;
    int64_t in_ub;    /* request_in_ub() */
    int64_t out_cap;  /* the client's, 0: none */
    int64_t out_max;  /* the model's, 0: unknown (then the client's cap, else CAP_OUT_UNKNOWN) */
    int64_t n;        /* choices, >= 1 */
    int64_t out_min;  /* smallest useful output cap a choice; 0: CAP_OUT_MIN_DEFAULT */
    int64_t out_good; /* with others in flight wait, rather than clamp below this; 0: default */
    int64_t times;    /* what is held is so many times what it should be; 0: once */
    bool no_output;   /* embeddings and the like: nothing to clamp, out is 0 */
    bool has_tools;
    PriceTerms terms;
} CapCall;

#define CAP_OUT_UNKNOWN 16384
#define CAP_TIMES_MAX 1000000

typedef enum { CAP_ADMIT, CAP_WAIT, CAP_REFUSE } CapKind;
typedef enum {
    CAP_BY_NOTHING,
    CAP_BY_TOKENS,
    CAP_BY_TOOL_CALLS,
    CAP_BY_USD,
    CAP_BY_SECONDS,
    CAP_BY_BUDGET, /* of many tasks, see logic/budget.h; never of these functions */
    CAP_BY_N_
} CapReason;

typedef struct {
    CapKind kind;
    CapReason reason; /* CAP_REFUSE, CAP_WAIT: what stands in the way */
    CapHold hold;     /* CAP_ADMIT: already reserved in the state */
    int64_t out_cap;  /* CAP_ADMIT: the output cap to send, a choice; 0 with no_output */
    bool clamped;     /* out_cap is below what the client (or the model) would have had */
    bool tools_spent; /* CAP_ADMIT: no tool call is left; send it so that it can make none */
} CapVerdict;

/* Decides and, on CAP_ADMIT, reserves in *state. CAP_WAIT only while state->in_flight > 0. At
 * exactly the cap of tool calls a model call still goes through (an answer must be possible), with
 * tools_spent; beyond it is refused. */
CapVerdict cap_admit(const CapLimits *limits, CapState *state, const CapCall *call, int64_t now_ms);

/* As cap_admit, for a hold of at most most; CAP_WAIT, perhaps with nothing in flight, when that is
 * less than the least useful call needs. */
CapVerdict cap_admit_within(const CapLimits *limits, CapState *state, const CapCall *call,
                            const CapHold *most, int64_t now_ms);

/* Decides as cap_admit and reserves nothing. On CAP_ADMIT *ret is what the call would hold: for the
 * least useful output, for the least that is worth sending while waiting could bring more, and for
 * all it may have beside the caps. */
typedef struct {
    CapHold min, good, want;
} CapNeed;
CapVerdict cap_look(const CapLimits *limits, const CapState *state, const CapCall *call,
                    int64_t now_ms, CapNeed *ret);

/* Whether a tool may be run now; counts it. CAP_ADMIT or CAP_REFUSE (tool calls, seconds). A call
 * id that was counted from a model's answer must not be counted here again. */
CapVerdict cap_admit_tool(const CapLimits *limits, CapState *state, int64_t now_ms);

/* Ends a call, exactly once an admitted hold. cap_settle books what was really used and returns
 * false when that was more than the hold: it is booked all the same, raise an alarm. cap_release
 * books nothing (the provider never saw the call); cap_charge_full books the whole hold (usage
 * unknown). */
bool cap_settle(CapState *state, const CapHold *hold, const CapHold *actual, int64_t tool_calls);
void cap_release(CapState *state, const CapHold *hold);
void cap_charge_full(CapState *state, const CapHold *hold);

/* The limit to name in an error: "tokensPerTask", "toolCallsPerTask", "usdPerTask",
 * "secondsPerTask". */
const char *cap_reason_name(CapReason reason);

/* How many times hold, which was itself times what should have been held, it takes to cover actual:
 * at least times, at most CAP_TIMES_MAX. A bound that did not hold once is not trusted again. */
int64_t cap_times(int64_t times, const CapHold *hold, const CapHold *actual);

/* Most input tokens a request can bill: min(body_bytes + 16 a message + 1024 a tool_prompt (see
 * RequestInfo), input_max). With media or hidden input the bytes say nothing: input_max. An
 * input_max of 0 is unknown: then no bound from it, and with media INT64_MAX (which no limit
 * admits). */
int64_t request_in_ub(int64_t body_bytes, int64_t messages, int64_t tool_prompts, bool has_media,
                      int64_t input_max);

#endif
