#include "gateway/gateway_call.h"

#include <stdlib.h>

/* --- life ------------------------------------------------------------------------------------- */

static ModelCall *call_new(GatewayTask *task, const GatewayRequest *request,
                           const GatewayReply *reply)
{
    ModelCall *call = xcalloc(1, sizeof *call);
    call->task = task;
    call->asked = call->request = request;
    call->reply = reply;
    call->started_us = clock_mono_us();
    call->prices = price_list_ref(task->gateway->prices);
    /* the request, then its answer, as documents */
    arena_init(&call->arena, GATEWAY_JSON_FACTOR * request->body.len + 256u * 1024 * 1024);
    buf_init(&call->recording.body, GATEWAY_RECORDING_BYTES_MAX);
    cond_init(&call->wake);
    cond_init(&call->grown);
    list_push_back(&task->calls, &call->node);
    return call;
}

static void call_free(ModelCall *call)
{
    assert(!call->held && !call->upstream && !call->permit.model && !call->flying);
    assert(call->followers == 0);
    buf_deinit(&call->recording.body);
    buf_deinit(&call->canonical);
    replay_marks_deinit(&call->marks);
    list_remove(&call->node);
    cond_broadcast(&call->task->changed); /* who closes the task may wait for this call */
    arena_deinit(&call->arena);
    price_list_unref(call->prices);
    free(call);
}

void calls_abort(GatewayTask *task)
{
    LIST_EACH (&task->calls, node) http_abort(&CONTAINER_OF(node, ModelCall, node)->abort);
    LIST_EACH (&task->counts, node) http_abort(&CONTAINER_OF(node, CountFlight, node)->abort);
}

void calls_wake(GatewayTask *task)
{
    LIST_EACH (&task->calls, node) cond_broadcast(&CONTAINER_OF(node, ModelCall, node)->wake);
}

/* --- the call --------------------------------------------------------------------------------- */

/* Whether the timeline tells of a refusal. Of those by limits the first one of an attempt does: an
 * agent that asks on and on writes no row each time. */
static bool refusal_is_told(ModelCall *call)
{
    GatewayTask *task = call->task;
    if (call->problem == PROBLEM_BREAKER) return call->unhealthy != DEGRADE_NONE;
    if (call->problem != PROBLEM_CAP || task->refusal_told || call->targets_n == 0) return false;
    task->refusal_told = true;
    return true;
}

static int refuse_wait(ModelCall *call, int r)
{
    if (r != CALL_E_PROBLEM) return r;
    bool told = refusal_is_told(call);
    if (call->over_budget || (told && call->problem == PROBLEM_BREAKER))
        stats_degraded(call->task->gateway, GATEWAY_DEGRADED_REFUSE);
    if (told) {
        r = call_close_refused_wait(call);
        if (r != 0) reply_problem_wait(call);
        if (r != 0) return r;
    }
    call->task->totals.calls_refused++;
    stats_refused(call->task->gateway, call->problem);
    reply_problem_wait(call);
    return 0;
}

/* All that could answer have failed: the agent gets what the last one said. */
static int give_up_wait(ModelCall *call, const CallFailure *failure)
{
    if (failure->status >= 400) reply_error_wait(call, failure->status, failure->body);
    else reply_problem_wait(call);
    if (failure->outcome == GATEWAY_CUT) return GATEWAY_E_CUT;
    return failure->outcome == GATEWAY_STOPPED && fiber_cancelled() ? -ECANCELED : 0;
}

static int attempts_wait(ModelCall *call)
{
    for (;;) {
        CallFailure failure = { 0 };
        int r = call_attempt_wait(call, &failure);
        if (r == CALL_E_FLAGS || r == CALL_E_FLIGHT) {
            call_attempt_clear(call);
            r = r == CALL_E_FLAGS ? call_replan(call) : call_cache_join_wait(call);
            if (r == 0) continue;
            if (r == CALL_E_ANSWERED) return 0;
        }
        if (r == CALL_E_PROBLEM) return refuse_wait(call, r);
        if (r != ATTEMPT_E_FAILED) return r;
        r = call_next_wait(call, &failure);
        if (r == CALL_E_HELD) {
            call_attempt_clear(call);
            call->tries -= failure.unsent;
            r = call_hold_wait(call);
            if (r == 0) continue;
            return r == CALL_E_ANSWERED ? 0 : refuse_wait(call, r);
        }
        if (r == CALL_E_PROBLEM && failure.unsent) return refuse_wait(call, r);
        if (r == CALL_E_PROBLEM) return give_up_wait(call, &failure);
        if (r < 0) return r;
        call_attempt_clear(call);
    }
}

static int run_wait(ModelCall *call)
{
    int r = call_read(call);
    if (r == 0) r = call_check_tools(call);
    if (r == 0) r = call_replay_wait(call);
    if (r == 0) r = call_check_state_wait(call);
    if (r == 0) r = call_know_budgets_wait(call);
    if (r == 0) r = call_plan(call);
    if (r == 0) r = call_cache_wait(call);
    if (r == 0) r = call_hold_wait(call);
    if (r == CALL_E_ANSWERED) return 0;
    if (r != 0) return refuse_wait(call, r);
    if (call_is_degraded_by(call, GATEWAY_DEGRADED_MODEL))
        stats_degraded(call->task->gateway, GATEWAY_DEGRADED_MODEL);
    return attempts_wait(call);
}

int gateway_call_wait(GatewayTask *task, const GatewayRequest *request, const GatewayReply *reply)
{
    assert(request->api < API_N_ && reply->start_wait && reply->write_wait && reply->end_wait);
    ModelCall *call = call_new(task, request, reply);
    int r = run_wait(call);
    call_journal_end_wait(call);
    call_attempt_clear(call);
    if (r < 0 && r != -ESTALE && r != -ECANCELED) r = GATEWAY_E_CUT; /* the answer said why */
    if (r >= 0 && call->gone) r = fiber_cancelled() ? -ECANCELED : HTTP_E_GONE;
    call_free(call);
    return r;
}

/* --- a reply in memory ------------------------------------------------------------------------ */

static int memory_start_wait(void *ctx, int status, const GatewayField *fields, size_t fields_n,
                             bool streamed)
{
    (void)fields, (void)fields_n, (void)streamed;
    GatewayMemory *memory = ctx;
    memory->status = status;
    return 0;
}

static int memory_write_wait(void *ctx, Str bytes)
{
    GatewayMemory *memory = ctx;
    return buf_add(&memory->body, bytes) ? 0 : -EMSGSIZE;
}

static int memory_end_wait(void *ctx)
{
    GatewayMemory *memory = ctx;
    memory->ended = true;
    return 0;
}

void gateway_memory_init(GatewayMemory *memory, size_t max)
{
    *memory = (GatewayMemory){ .status = 0 };
    buf_init(&memory->body, max);
}

void gateway_memory_deinit(GatewayMemory *memory)
{
    buf_deinit(&memory->body);
}

GatewayReply gateway_memory_reply(GatewayMemory *memory)
{
    return (GatewayReply){ .start_wait = memory_start_wait,
                           .write_wait = memory_write_wait,
                           .end_wait = memory_end_wait,
                           .ctx = memory };
}
