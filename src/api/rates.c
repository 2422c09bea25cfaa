/* Rate limits and breakers of all workers; and what a worker tells of them. */
#include "api/rates.h"

#include <stdlib.h>

#include "base/diag.h"
#include "base/log.h"
#include "codec/time_text.h"
#include "gateway/rate_board.h"
#include "store/worker_store.h"
#include "sys/clock.h"
#include "worker/wire.h"

#define LIMITS_SHOWN_MAX 1024
#define BREAKERS_SHOWN_MAX 2048

static const Member rates_members[] = {
    { "limits", MEMBER_ARRAY, true, "What the worker knows of each limit, and wants of it", NULL },
    { "breakers", MEMBER_ARRAY, true, "Its breakers", NULL },
    { "stats", MEMBER_ARRAY, true, "What it has counted", NULL },
};
const BodySpec rates_body = { .name = "WorkerRatesRequest",
                              .members = rates_members,
                              .n = ARRAY_N(rates_members),
                              .required = true,
                              .large = true };

/* --- limits ----------------------------------------------------------------------------------- */

static void out_or_null(JsonOut *out, const char *key, int64_t v)
{
    json_out_key(out, key);
    if (v) json_out_i64(out, v);
    else json_out_null(out);
}

static void unit_write(JsonOut *out, const BoardLimit *limit, RateUnit unit)
{
    json_out_object(out);
    json_out_kcstr(out, "unit", rate_unit_name(unit));
    out_or_null(out, "limit", limit->in_force[unit]);
    out_or_null(out, "configured", limit->limit.configured.v[unit]);
    out_or_null(out, "learned", limit->limit.learned.v[unit]);
    json_out_ki64(out, "used", limit->limit.used.v[unit]);
    json_out_object_end(out);
}

static void limit_write(JsonOut *out, const BoardLimit *limit)
{
    json_out_object(out);
    json_out_kcstr(out, "provider", limit->limit.provider);
    json_out_key(out, "model");
    if (limit->limit.model[0]) json_out_str(out, str_of(limit->limit.model));
    else json_out_null(out);
    json_out_ki64(out, "workers", limit->workers);
    json_out_key(out, "perMinute");
    json_out_array(out);
    for (RateUnit unit = 0; unit < RATE_N_; unit++) unit_write(out, limit, unit);
    json_out_array_end(out);
    out_or_null(out, "concurrent", limit->limit.concurrent_limit);
    json_out_ki64(out, "inFlight", limit->limit.in_flight);
    json_out_ki64(out, "waiting", limit->limit.waiting_all);
    json_out_key(out, "waitingByLane");
    json_out_object(out);
    for (int lane = 0; lane < LANE_N_; lane++)
        json_out_ki64(out, lane_name((Lane)lane), limit->limit.waiting[lane]);
    json_out_object_end(out);
    json_out_ki64(out, "blockedMs", limit->limit.blocked_ms);
    json_out_ki64(out, "throttled", (int64_t)limit->limit.throttled);
    json_out_object_end(out);
}

int limits_get_run_wait(ApiCall *call)
{
    RateBoard *board = call->api->options.board;
    CLEANUP(freep) BoardLimit *list = xcalloc(LIMITS_SHOWN_MAX, sizeof *list);
    size_t n = board ? rate_board_limits(board, list, LIMITS_SHOWN_MAX) : 0;
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "limits");
    json_out_array(&json.out);
    for (size_t i = 0; i < n; i++) limit_write(&json.out, &list[i]);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- breakers --------------------------------------------------------------------------------- */

static void rate_write(JsonOut *out, const char *key, int64_t part, int64_t whole)
{
    json_out_key(out, key);
    if (whole > 0) json_out_f64(out, (double)part / (double)whole);
    else json_out_null(out);
}

static void time_or_null(JsonOut *out, const char *key, bool known, int64_t at_ms)
{
    json_out_key(out, key);
    char text[TIME_TEXT_MAX];
    if (known) json_out_str(out, str_of(time_format(at_ms, text)));
    else json_out_null(out);
}

static void breaker_write(JsonOut *out, const BoardBreaker *shown, int64_t now_ms)
{
    const BreakerInfo *b = &shown->breaker;
    bool open = b->state == BREAKER_OPEN;
    json_out_object(out);
    json_out_kcstr(out, "kind", b->kind);
    json_out_kcstr(out, "name", b->name);
    json_out_kcstr(out, "state", breaker_state_name(b->state));
    if (b->heard) json_out_kbool(out, "heard", true);
    json_out_key(out, "workerId");
    if (shown->worker[0]) json_out_str(out, str_of(shown->worker));
    else json_out_null(out);
    json_out_ki64(out, "calls", b->counts.calls);
    rate_write(out, "errorRate", b->counts.errors, b->counts.calls);
    rate_write(out, "slowRate", b->counts.slow, b->counts.calls);
    time_or_null(out, "changedAt", true, b->since_real_ms);
    time_or_null(out, "openedAt", open, b->since_real_ms);
    time_or_null(out, "nextProbeAt", open, now_ms + b->next_probe_ms);
    json_out_ki64(out, "probes", b->probes_out);
    json_out_ki64(out, "trips", (int64_t)b->trips);
    json_out_ki64(out, "refused", (int64_t)b->refused);
    json_out_object_end(out);
}

int breakers_get_run_wait(ApiCall *call)
{
    RateBoard *board = call->api->options.board;
    CLEANUP(freep) BoardBreaker *list = xcalloc(BREAKERS_SHOWN_MAX, sizeof *list);
    size_t n = board ? rate_board_breakers(board, list, BREAKERS_SHOWN_MAX) : 0;
    int64_t now_ms = clock_real_ms();
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    json_out_object(&json.out);
    json_out_key(&json.out, "breakers");
    json_out_array(&json.out);
    for (size_t i = 0; i < n; i++) breaker_write(&json.out, &list[i], now_ms);
    json_out_array_end(&json.out);
    json_out_object_end(&json.out);
    return api_json_wait(call, 200, &json);
}

/* --- workers ---------------------------------------------------------------------------------- */

typedef struct {
    Uuid id;
    WorkerState state;
} StateJob;

static int state_job(Db *db, void *arg)
{
    StateJob *job = arg;
    return worker_state(db, job->id, &job->state);
}

/* A worker whose lease is over gets no share under its old name. */
static int check_worker_wait(ApiCall *call, Uuid id)
{
    StateJob job = { .id = id };
    int r = store_read_wait(queue_store(call->api->options.queue), state_job, &job);
    if (r == -ENOENT || (r == 0 && job.state > WORKER_DRAINING)) {
        diag_set(0, "the worker is unknown, lost or stopped");
        return api_queue_fail_wait(call, QUEUE_E_NO_WORKER);
    }
    return r < 0 ? api_fail_wait(call, r) : 0;
}

static void tell(ApiCall *call, Uuid id, const RateTelling *telling, GatewayShare *ret)
{
    char name[UUID_TEXT_MAX];
    int r = rate_board_tell(call->api->options.board, str_of(uuid_text(id, name)), telling, ret);
    if (r < 0) LOG_WARN("a worker gets no share", LOG_CSTR("why", diag_text_or(r)));
}

int worker_rates_run_wait(ApiCall *call)
{
    Uuid id;
    Str text;
    const Json *body;
    RateTelling telling;
    RateBoard *board = call->api->options.board;
    int r = api_worker_id_wait(call, &id);
    if (r == 0) r = api_body_wait(call, &text, &body);
    if (r == 0) r = check_worker_wait(call, id);
    if (r != 0) return r;
    r = wire_telling_read(&call->req->arena, body, &telling);
    if (r == -EINVAL) return api_problem_wait(call, 400, "member_invalid", "%s", diag_text());
    GatewayShare *shares = ARENA_ARRAY(&call->req->arena, GatewayShare, GATEWAY_LIMITS_MAX);
    if (r < 0 || !shares) return api_fail_wait(call, -ENOMEM);
    if (board) tell(call, id, &telling, shares);
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    wire_shares_write(&json.out, board ? rate_board_ttl_ms(board) : 0, shares, telling.limits_n);
    return api_json_wait(call, 200, &json);
}
