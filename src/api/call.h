/* ApiCall: one request, as handlers see it, and how they read and answer.
 *
 * A handler returns what an answering function returned, or a negative errno that nobody has
 * answered yet (the dispatcher does). The reading functions return 0 to go on; API_E_REPLIED means
 * that they have answered with a problem: return it.
 */
#ifndef GANTRY_API_CALL_H
#define GANTRY_API_CALL_H

#include <stdatomic.h>

#include "api/api.h"
#include "codec/json.h"
#include "codec/url.h"
#include "codec/uuid.h"

typedef struct Route Route;

struct ApiServer {
    ApiOptions options; /* zeros replaced; texts and keys are copies */
    Str public_host;    /* of public_url, lower case; may be empty */
    Str openapi;        /* the document */
    Arena arena;        /* the copies */
    _Atomic bool draining, leaving, deploying;
    _Atomic size_t uploads; /* being worked on */
};

typedef struct {
    ApiServer *api;
    HttpReq *req;
    const Route *route;
    Str params[URL_PARAMS_MAX]; /* of the path, decoded */
} ApiCall;

#define API_E_REPLIED 100

/* --- answering -------------------------------------------------------------------------------- */

/* A problem; code is a stable word, the text says what to do about it. Returns API_E_REPLIED, or
 * the negative errno of the write. */
int api_problem_wait(ApiCall *call, int status, const char *code, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

/* The answer for a negative errno of a service: 503 for -EAGAIN, 507 for -ENOSPC, else 500 and a
 * line in the log. -ECANCELED is returned as it is. */
int api_fail_wait(ApiCall *call, int r);

/* The answer for a positive outcome of the queue or a negative errno; diag has the detail. The
 * second also says when to come again, where that lane is full. */
int api_queue_fail_wait(ApiCall *call, int r);
int api_lane_fail_wait(ApiCall *call, int r, Lane lane);

/* Something that answers by writing JSON: begun with api_json, ended with api_json_wait. */
typedef struct {
    Buf buf;
    JsonOut out;
} ApiJson;
void api_json(ApiJson *json, size_t max);
void api_json_deinit(ApiJson *json); /* for CLEANUP */
/* Sends it; 507 when the text did not fit. */
int api_json_wait(ApiCall *call, int status, ApiJson *json);

/* Makes the same answer, to be sent as net/http_server.h says; the text did fit. */
void api_json_make(ApiCall *call, int status, const ApiJson *json, HttpReady *ret);

#define API_JSON_BYTES_MAX ((size_t)64 << 20)

/* Whole answer of any type, with Cache-Control: no-store. */
int api_reply_wait(ApiCall *call, int status, const char *type, Str body);

/* --- reading ---------------------------------------------------------------------------------- */

/* The body as its BodySpec says: read, parsed, members checked. *ret_text is the text without outer
 * blanks ("{}" for an empty one that is allowed). */
MUST_CHECK int api_body_wait(ApiCall *call, Str *ret_text, const Json **ret);

/* The body as it is, up to max bytes; 413 beyond. */
MUST_CHECK int api_bytes_wait(ApiCall *call, size_t max, Str *ret);

/* The media type of the request in lower case without parameters; empty when there is none. */
Str api_content_type(ApiCall *call);

/* Query parameters of the route (declared, so present at most once). */
Str api_param(ApiCall *call, const char *name); /* empty when absent */
/* Whole number within min..max; otherwise when absent. */
MUST_CHECK int api_param_i64_wait(ApiCall *call, const char *name, int64_t min, int64_t max,
                                  int64_t otherwise, int64_t *ret);
/* "30s"; more than max_ms counts as max_ms. */
MUST_CHECK int api_param_duration_wait(ApiCall *call, const char *name, int64_t max_ms,
                                       int64_t otherwise, int64_t *ret_ms);

/* The first path parameter as a task's or worker's id. */
MUST_CHECK int api_task_id_wait(ApiCall *call, Uuid *ret);
MUST_CHECK int api_worker_id_wait(ApiCall *call, Uuid *ret);

/* --- waiting ---------------------------------------------------------------------------------- */

/* Whether a wait should end now: the client left, or the process drains. */
bool api_wait_over(const ApiCall *call);

/* The next moment to look again: at most a second away and not beyond deadline_ms. */
int64_t api_wait_step(int64_t deadline_ms);

/* --- handlers, by file ------------------------------------------------------------------------ */

int execute_run_wait(ApiCall *call);

int task_get_run_wait(ApiCall *call);
int task_list_run_wait(ApiCall *call);
int task_cancel_run_wait(ApiCall *call);
int task_retry_run_wait(ApiCall *call);
int schedule_list_run_wait(ApiCall *call);
int schedule_get_run_wait(ApiCall *call);
int schedule_put_run_wait(ApiCall *call);
int schedule_delete_run_wait(ApiCall *call);
int task_retry_many_run_wait(ApiCall *call);
int task_resolve_run_wait(ApiCall *call);
int worker_escalate_run_wait(ApiCall *call);
int task_score_run_wait(ApiCall *call);
int task_events_run_wait(ApiCall *call);
int task_timeline_run_wait(ApiCall *call);
int task_logs_run_wait(ApiCall *call);
int task_journal_run_wait(ApiCall *call);
int task_recording_run_wait(ApiCall *call);

int agent_list_run_wait(ApiCall *call);
int version_list_run_wait(ApiCall *call);
int version_create_run_wait(ApiCall *call);
int version_get_run_wait(ApiCall *call);
int version_diff_run_wait(ApiCall *call);
int version_artifact_run_wait(ApiCall *call);

int rollout_create_run_wait(ApiCall *call);
int rollout_list_run_wait(ApiCall *call);
int rollout_get_run_wait(ApiCall *call);
int rollout_ticks_run_wait(ApiCall *call);
int rollout_observations_run_wait(ApiCall *call);
int rollout_shadow_run_wait(ApiCall *call);
int event_list_run_wait(ApiCall *call);
int rollout_promote_run_wait(ApiCall *call);
int rollout_gate_run_wait(ApiCall *call);
int rollout_pause_run_wait(ApiCall *call);
int rollout_resume_run_wait(ApiCall *call);
int rollout_abort_run_wait(ApiCall *call);
int rollback_run_wait(ApiCall *call);
int routing_get_run_wait(ApiCall *call);

int queue_get_run_wait(ApiCall *call);
int scaling_get_run_wait(ApiCall *call);
int worker_list_run_wait(ApiCall *call);
int worker_get_run_wait(ApiCall *call);
int worker_register_run_wait(ApiCall *call);
int worker_drain_run_wait(ApiCall *call);
int worker_claim_run_wait(ApiCall *call);
int worker_signal_run_wait(ApiCall *call);
int worker_heartbeat_run_wait(ApiCall *call);
int worker_finish_run_wait(ApiCall *call);
int worker_finish_many_run_wait(ApiCall *call);
int worker_score_run_wait(ApiCall *call);
int worker_calls_run_wait(ApiCall *call);
int worker_tools_run_wait(ApiCall *call);
int worker_journal_run_wait(ApiCall *call);
int worker_recordings_run_wait(ApiCall *call);
int worker_logs_run_wait(ApiCall *call);
int worker_state_run_wait(ApiCall *call);
int worker_leave_run_wait(ApiCall *call);
int worker_child_run_wait(ApiCall *call);
int worker_children_run_wait(ApiCall *call);
int worker_child_get_run_wait(ApiCall *call);
int worker_child_cancel_run_wait(ApiCall *call);
int worker_grants_run_wait(ApiCall *call);
int worker_holds_run_wait(ApiCall *call);

int budget_list_run_wait(ApiCall *call);
int budget_get_run_wait(ApiCall *call);
int budget_put_run_wait(ApiCall *call);

int price_list_run_wait(ApiCall *call);
int price_import_run_wait(ApiCall *call);
int price_entries_run_wait(ApiCall *call);
int spend_run_wait(ApiCall *call);

int limits_get_run_wait(ApiCall *call);
int breakers_get_run_wait(ApiCall *call);
int worker_rates_run_wait(ApiCall *call);
int model_call_run_wait(ApiCall *call);
int account_list_run_wait(ApiCall *call);
int flag_list_run_wait(ApiCall *call);
int flag_get_run_wait(ApiCall *call);
int cache_get_run_wait(ApiCall *call);
int cache_purge_run_wait(ApiCall *call);
int worker_cache_run_wait(ApiCall *call);
int flag_put_run_wait(ApiCall *call);
int flag_delete_run_wait(ApiCall *call);
int ofrep_one_run_wait(ApiCall *call);
int ofrep_all_run_wait(ApiCall *call);

int webhook_list_run_wait(ApiCall *call);
int webhook_replay_run_wait(ApiCall *call);
int webhooks_replay_run_wait(ApiCall *call);
int webhook_endpoints_run_wait(ApiCall *call);
int webhook_enable_run_wait(ApiCall *call);
int webhook_rotate_run_wait(ApiCall *call);

int signals_run_wait(ApiCall *call);
int alarm_list_run_wait(ApiCall *call);
int alarm_acknowledge_run_wait(ApiCall *call);
int metrics_run_wait(ApiCall *call);
int livez_run_wait(ApiCall *call);
int readyz_run_wait(ApiCall *call);
int readyz_check_run_wait(ApiCall *call);
int openapi_run_wait(ApiCall *call);
int root_run_wait(ApiCall *call);

#endif
