#include "base/log.h"
#include "gateway/gateway_call.h"

/* Whether another model could do better: not when the request itself is at fault. */
static bool is_worth_another(const CallFailure *failure)
{
    if (failure->outcome == GATEWAY_STOPPED) return false;
    if (failure->status == 0) return true;
    return failure->status == 408 || failure->status == 409 || failure->status == 429 ||
           failure->status >= 500;
}

int call_next_wait(ModelCall *call, const CallFailure *failure)
{
    const CallTarget *next = call->target + 1;
    if (call->gone || task_past_deadline(call->task) || !is_worth_another(failure) ||
        next == call->targets + call->targets_n)
        return CALL_E_PROBLEM;
    LOG_INFO("fallback", LOG_STR("from", call->target->model), LOG_STR("to", next->model));
    call->target = next;
    return 0;
}
