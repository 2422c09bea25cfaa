/* The gateway is the only one that repeats what failed: agents are told not to, so attempts are not
 * multiplied. */
#include "base/log.h"
#include "codec/json.h"
#include "gateway/gateway_call.h"
#include "logic/retry.h"
#include "sys/entropy.h"

#define RETRY_INITIAL_MS 500
#define RETRY_MAX_MS 8000

/* --- what may be repeated --------------------------------------------------------------------- */

/* A 429 that says that the account has no money: waiting does not help. */
static bool is_quota(ModelCall *call, const CallFailure *failure)
{
    const Json *body = NULL;
    if (failure->status != 429 || str_empty(failure->body)) return false;
    if (json_parse(&call->arena, failure->body, NULL, &body, NULL) < 0) return false;
    const Json *error = json_get(body, "error");
    return str_eq(json_str(json_get(error, "code")), STR("insufficient_quota")) ||
           str_eq(json_str(json_get(error, "type")), STR("insufficient_quota")) ||
           str_eq(json_str(json_get(error, "type")), STR("billing_error"));
}

/* The provider's own word, where it gives one. */
static bool is_forbidden(const ModelCall *call)
{
    return call->upstream &&
           str_eq_nocase(http_call_field(call->upstream, "x-should-retry"), STR("false"));
}

/* Nobody would read another attempt's answer, or it would be too late. What is recorded is kept for
 * the agent's next try. */
static bool is_for_nobody(const ModelCall *call)
{
    const GatewayReply *reply = call->reply;
    if (call->gone) return true;
    if (call->journaled) return false;
    return (reply->gone && reply->gone(reply->ctx)) || clock_mono_ms() >= call_deadline_ms(call);
}

/* Whether another attempt could do better: not when the request itself is at fault, and a redirect
 * would lead there again. */
static bool is_worth_another(ModelCall *call, const CallFailure *failure)
{
    if (failure->outcome == GATEWAY_STOPPED || task_past_deadline(call->task)) return false;
    if (is_for_nobody(call)) return false;
    bool answered = failure->outcome == GATEWAY_UPSTREAM && call->upstream;
    return !answered || retry_status_may(http_call_status(call->upstream));
}

static bool tries_left(const ModelCall *call)
{
    return call->target_tries <= call->target->provider->retries_max;
}

static const CallTarget *target_next(const ModelCall *call)
{
    const CallTarget *next = call->target + 1, *end = call->targets + call->targets_n;
    while (next < end - 1 && call_target_open(call, next)) next++;
    return next < end ? next : NULL;
}

bool call_can_retry(const ModelCall *call)
{
    return !call->answering && !call->gone && !task_past_deadline(call->task) &&
           call->task->totals.stop == GATEWAY_STOP_NONE && (tries_left(call) || target_next(call));
}

/* --- when ------------------------------------------------------------------------------------- */

static int64_t again_at_ms(ModelCall *call, const CallFailure *failure)
{
    int64_t initial_ms = call->task->gateway->config->retry_initial_ms;
    RetryPolicy policy = { .attempts_max = call->target->provider->retries_max + 1,
                           .initial_ms = initial_ms ? initial_ms : RETRY_INITIAL_MS,
                           .factor_milli = 2000,
                           .max_ms = RETRY_MAX_MS };
    if (failure->status == 429) return call_blocked_until_ms(call); /* one wait for all */
    return deadline_after(retry_delay_ms(&policy, MAX(call->target_tries, 1), entropy_u64(),
                                         MAX(call->upstream_wish_ms, 0)));
}

/* Until then, or the model is switched off; the reader is kept company meanwhile. Returns 0,
 * CALL_E_PROBLEM (it cannot go on) or -ECANCELED. */
static int back_off_wait(ModelCall *call, int64_t until_ms)
{
    while (clock_mono_ms() < until_ms) {
        int r = call_pause_wait(call, &call->wake, until_ms);
        if (r == -ECANCELED) return r;
        if (r == HTTP_E_GONE || call->task->totals.stop != GATEWAY_STOP_NONE) return CALL_E_PROBLEM;
        if (call_flags_moved(call) && call_check_switches(call) != 0) return 0; /* no use waiting */
    }
    return 0;
}

/* --- the decision ----------------------------------------------------------------------------- */

static int give_up(ModelCall *call)
{
    call->no_retry = true;
    return CALL_E_PROBLEM;
}

/* It may wait for one of its models to answer again. What was sent counts as a retry. */
static bool is_to_be_held(ModelCall *call, const CallFailure *failure)
{
    if (!call->degrade.hold || call->unhealthy != DEGRADE_HOLD) return false;
    if (failure->unsent) return call->problem == PROBLEM_BREAKER;
    if (is_quota(call, failure) || is_forbidden(call)) return false;
    return call->held_sent++ < call->target->provider->retries_max && call_retry_spend(call);
}

static int fall_back(ModelCall *call, const CallFailure *failure)
{
    const CallTarget *next = target_next(call);
    if (!next) {
        call_degrade(call);
        call_degrade_unhealthy(call); /* breakers may have opened since the plan */
        next = target_next(call);
    }
    if (!next) return is_to_be_held(call, failure) ? CALL_E_HELD : give_up(call);
    LOG_INFO("fallback", LOG_STR("from", call->target->model), LOG_STR("to", next->model));
    call_note_fallback(call);
    call->target = next;
    call->target_tries = 0;
    return 0;
}

/* The same model once more, if there is a point in it. */
static bool is_for_same(ModelCall *call, const CallFailure *failure, int64_t at_ms)
{
    return !failure->unsent && tries_left(call) && at_ms < call_deadline_ms(call) &&
           !call_target_open(call, call->target) && !is_quota(call, failure) &&
           !is_forbidden(call) && call_retry_spend(call);
}

int call_next_wait(ModelCall *call, const CallFailure *failure)
{
    if (!is_worth_another(call, failure)) return give_up(call);
    int64_t at_ms = again_at_ms(call, failure);
    if (!is_for_same(call, failure, at_ms)) return fall_back(call, failure);
    LOG_INFO("model call again", LOG_STR("model", call->target->model),
             LOG_INT("status", failure->status),
             LOG_CSTR("outcome", gateway_outcome_name(failure->outcome)),
             LOG_INT("inMs", MAX(at_ms - clock_mono_ms(), 0)));
    return back_off_wait(call, at_ms);
}
