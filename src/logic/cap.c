#include "logic/cap.h"

/* --- what fits ------------------------------------------------------------------------------ */

/* Room below a limit beside what is spent. Without a limit it is a bound on one call (two million
 * USD), so that thousands of holds can still be summed. */
static int64_t room(int64_t limit, int64_t spent)
{
    assert(limit >= 0 && spent >= 0);
    if (limit == CAP_NONE) return CAP_CALL_MAX;
    return MAX(limit - spent, 0);
}

/* The output cap, a choice, that fits beside what is spent; -1 when not even the input does. */
typedef struct {
    int64_t out;
    CapReason by; /* what keeps it from being more; CAP_BY_NOTHING: it is all that is wanted */
} CapFit;

static int64_t times_of(const CapCall *call)
{
    assert(call->times >= 0 && call->times <= CAP_TIMES_MAX);
    return MAX(call->times, 1);
}

static CapFit fit(const CapLimits *limits, const CapCall *call, const PriceLine *price,
                  int64_t want, CapHold spent)
{
    int64_t tokens = room(limits->tokens, spent.tokens) / times_of(call);
    if (tokens < call->in_ub) return (CapFit){ -1, CAP_BY_TOKENS };
    int64_t by_tokens = (tokens - call->in_ub) / call->n;
    int64_t nusd = room(limits->usd_nusd, spent.nusd) / times_of(call);
    if (want <= by_tokens && price_line_hold(price, want * call->n) <= nusd)
        return (CapFit){ want, CAP_BY_NOTHING };
    if (price_line_hold(price, 0) > nusd) return (CapFit){ -1, CAP_BY_USD };

    int64_t by_usd = price_line_affords(price, nusd) / call->n;
    if (by_tokens <= by_usd) return (CapFit){ by_tokens, CAP_BY_TOKENS };
    return (CapFit){ by_usd, CAP_BY_USD };
}

/* Output caps of a call, each a choice: what it should get, the least that is of use, and the least
 * that is worth sending while waiting could bring more. */
typedef struct {
    int64_t want, least, good;
} CapWish;

static CapWish wish_of(const CapCall *call)
{
    if (call->no_output) return (CapWish){ 0 };
    int64_t unknown = call->out_cap > 0 ? call->out_cap : CAP_OUT_UNKNOWN;
    int64_t most = call->out_max > 0 ? call->out_max : unknown;
    CapWish w = { .want = call->out_cap > 0 ? MIN(call->out_cap, most) : most };
    w.least = MIN(call->out_min > 0 ? call->out_min : CAP_OUT_MIN_DEFAULT, w.want);
    w.good = MIN(call->out_good > 0 ? call->out_good : CAP_OUT_GOOD_DEFAULT, w.want);
    w.good = MAX(w.good, w.least);
    return w;
}

/* --- admission ------------------------------------------------------------------------------ */

static CapVerdict refuse(CapReason reason)
{
    return (CapVerdict){ .kind = CAP_REFUSE, .reason = reason };
}

static bool out_of_time(const CapLimits *limits, const CapState *state, int64_t now_ms)
{
    return limits->wall_ms != CAP_NONE && now_ms - state->started_ms >= limits->wall_ms;
}

/* Of an output that fits, so that both products are within a limit, or within CAP_CALL_MAX. */
static CapHold hold_of(const CapCall *call, const PriceLine *price, int64_t out)
{
    return (CapHold){ .tokens = (call->in_ub + out * call->n) * times_of(call),
                      .nusd = price_line_hold(price, out * call->n) * times_of(call) };
}

static CapVerdict admit(CapState *state, const CapLimits *limits, const CapCall *call,
                        const PriceLine *price, int64_t out, int64_t want)
{
    CapVerdict v = {
        .kind = CAP_ADMIT,
        .hold = hold_of(call, price, out),
        .out_cap = out,
        .clamped = out < MAX(want, call->out_cap),
        .tools_spent = call->has_tools && state->tool_calls >= limits->tool_calls,
    };
    state->reserved_tokens += v.hold.tokens;
    state->reserved_nusd = money_add(state->reserved_nusd, v.hold.nusd);
    state->in_flight++;
    assert(v.hold.tokens <= room(limits->tokens, state->settled_tokens));
    assert(v.hold.nusd <= room(limits->usd_nusd, state->settled_nusd));
    return v;
}

/* Whether the call may go ahead now, and with what output. Reserves nothing. */
static CapVerdict look(const CapLimits *limits, const CapState *state, const CapCall *call,
                       const PriceLine *price, int64_t now_ms, CapWish *ret_wish, CapFit *ret_now)
{
    assert(call->n >= 1 && call->in_ub >= 0);
    if (out_of_time(limits, state, now_ms)) return refuse(CAP_BY_SECONDS);
    if (state->tool_calls > limits->tool_calls) return refuse(CAP_BY_TOOL_CALLS);

    CapWish wish = wish_of(call);
    CapHold settled = { state->settled_tokens, state->settled_nusd };
    CapHold taken = { settled.tokens + state->reserved_tokens,
                      money_add(settled.nusd, state->reserved_nusd) };
    CapFit ever = fit(limits, call, price, wish.want, settled);
    if (ever.out < wish.least) return refuse(ever.by);
    CapFit now = fit(limits, call, price, wish.want, taken);
    assert(now.out <= ever.out);
    *ret_wish = wish;
    *ret_now = now;
    if (now.out < wish.least || (now.out < wish.good && now.out < ever.out)) {
        assert(state->in_flight > 0);
        return (CapVerdict){ .kind = CAP_WAIT, .reason = now.by };
    }
    return (CapVerdict){ .kind = CAP_ADMIT };
}

CapVerdict cap_admit(const CapLimits *limits, CapState *state, const CapCall *call, int64_t now_ms)
{
    CapHold all = { .tokens = CAP_NONE, .nusd = CAP_NONE };
    return cap_admit_within(limits, state, call, &all, now_ms);
}

CapVerdict cap_admit_within(const CapLimits *limits, CapState *state, const CapCall *call,
                            const CapHold *most, int64_t now_ms)
{
    CapWish wish;
    CapFit now;
    PriceLine price = price_line(call->price, call->in_ub, &call->terms);
    CapVerdict v = look(limits, state, call, &price, now_ms, &wish, &now);
    if (v.kind != CAP_ADMIT) return v;
    CapLimits within = { .tokens = most->tokens, .usd_nusd = most->nusd };
    CapFit fits = fit(&within, call, &price, now.out, (CapHold){ 0 });
    if (fits.out < wish.least) return (CapVerdict){ .kind = CAP_WAIT, .reason = fits.by };
    return admit(state, limits, call, &price, fits.out, wish.want);
}

CapVerdict cap_look(const CapLimits *limits, const CapState *state, const CapCall *call,
                    int64_t now_ms, CapNeed *ret)
{
    CapWish wish;
    CapFit now;
    PriceLine price = price_line(call->price, call->in_ub, &call->terms);
    CapVerdict v = look(limits, state, call, &price, now_ms, &wish, &now);
    if (v.kind != CAP_ADMIT) return v;
    *ret = (CapNeed){ .min = hold_of(call, &price, wish.least),
                      .good = hold_of(call, &price, MIN(wish.good, now.out)),
                      .want = hold_of(call, &price, now.out) };
    return v;
}

CapVerdict cap_admit_tool(const CapLimits *limits, CapState *state, int64_t now_ms)
{
    if (out_of_time(limits, state, now_ms)) return refuse(CAP_BY_SECONDS);
    if (state->tool_calls >= limits->tool_calls) return refuse(CAP_BY_TOOL_CALLS);
    state->tool_calls++;
    return (CapVerdict){ .kind = CAP_ADMIT };
}

/* --- settlement ----------------------------------------------------------------------------- */

void cap_release(CapState *state, const CapHold *hold)
{
    assert(state->in_flight > 0);
    assert(state->reserved_tokens >= hold->tokens && state->reserved_nusd >= hold->nusd);
    state->reserved_tokens -= hold->tokens;
    state->reserved_nusd -= hold->nusd;
    state->in_flight--;
}

bool cap_settle(CapState *state, const CapHold *hold, const CapHold *actual, int64_t tool_calls)
{
    assert(actual->tokens >= 0 && actual->nusd >= 0 && tool_calls >= 0);
    cap_release(state, hold);
    state->settled_tokens = money_add(state->settled_tokens, actual->tokens);
    state->settled_nusd = money_add(state->settled_nusd, actual->nusd);
    state->tool_calls = money_add(state->tool_calls, tool_calls);
    return actual->tokens <= hold->tokens && actual->nusd <= hold->nusd;
}

void cap_charge_full(CapState *state, const CapHold *hold)
{
    bool within = cap_settle(state, hold, hold, 0);
    assert(within);
}

/* --- the rest ------------------------------------------------------------------------------- */

const char *cap_reason_name(CapReason reason)
{
    static const char *const names[CAP_BY_N_] = {
        [CAP_BY_NOTHING] = "",
        [CAP_BY_TOKENS] = "tokensPerTask",
        [CAP_BY_TOOL_CALLS] = "toolCallsPerTask",
        [CAP_BY_USD] = "usdPerTask",
        [CAP_BY_SECONDS] = "secondsPerTask",
        [CAP_BY_BUDGET] = "budget",
    };
    assert(reason < CAP_BY_N_);
    return names[reason];
}

/* Tokens never outnumber the bytes of text they stand for; 16 a message and 1024 for tools cover
 * what providers wrap around it. */
static int64_t times_up(int64_t times, int64_t hold, int64_t actual)
{
    if (actual <= hold) return times;
    if (hold <= 0) return CAP_TIMES_MAX;
    int64_t each = hold / times; /* what should have been held; hold is a multiple of it */
    return MIN((actual - 1) / MAX(each, 1) + 1, CAP_TIMES_MAX);
}

int64_t cap_times(int64_t times, const CapHold *hold, const CapHold *actual)
{
    assert(times >= 1 && times <= CAP_TIMES_MAX);
    return MAX(times_up(times, hold->tokens, actual->tokens),
               times_up(times, hold->nusd, actual->nusd));
}

int64_t request_in_ub(int64_t body_bytes, int64_t messages, int64_t tool_prompts, bool has_media,
                      int64_t input_max)
{
    assert(body_bytes >= 0 && messages >= 0 && tool_prompts >= 0 && input_max >= 0);
    int64_t most = input_max > 0 ? input_max : INT64_MAX;
    if (has_media) return most;
    int64_t bound = body_bytes + 16 * messages + 1024 * tool_prompts;
    return MIN(bound, most);
}
