#include "base/diag.h"
#include "codec/time_text.h"
#include "codec/url.h"
#include "sys/clock.h"
#include "worker/servers.h"

#define PING_BYTES_MAX 65536
#define PING_TIMEOUT_MS 10000

/* Nobody answered, or it says it cannot now: another attempt may find it well. */
static int unreachable(Run *run, const char *what, int r)
{
    return run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "agent_unreachable", "%s: %s", what,
                    diag_text_or(r));
}

static int request_wait(Run *run, Str base, const char *path, Str body, int64_t deadline_ms,
                        size_t body_max, Arena *arena, HttpResponse *ret)
{
    HttpClientField fields[5] = {
        { "content-type", STR("application/json") },
        { "x-gantry-task", str_of(run->id) },
    };
    size_t n = 2;
    if (run->task.traceparent.len)
        fields[n++] = (HttpClientField){ "traceparent", run->task.traceparent };
    if (!run->version->spec.url.len) { /* of this task: the server has others, too */
        const char *door = gateway_task_anthropic_url(run->gateway);
        fields[n++] = (HttpClientField){ "x-gantry-url", str_of(door) };
        fields[n++] = (HttpClientField){ "x-gantry-key", str_of(gateway_task_key(run->gateway)) };
    }
    HttpCallOptions options = {
        .url = url_join(arena, base, str_of(path)),
        .fields = fields,
        .fields_n = n,
        .body = body,
        .deadline_ms = deadline_ms,
        .idle_timeout_ms = run->limits.wall_ms, /* the supervisor has the clock */
    };
    if (!options.url.ptr) return -ENOMEM;
    return http_fetch_wait(run->host->client, &options, body_max, arena, ret);
}

static bool is_healthy(Arena *arena, const HttpResponse *response)
{
    const Json *v;
    if (response->status != 200 || json_parse(arena, response->body, NULL, &v, NULL) < 0)
        return false;
    Str status = json_str(json_get(v, "status"));
    return str_eq(status, STR("Healthy")) || str_eq(status, STR("HealthyBusy"));
}

/* Before a version's server is used first. *ret_ok tells whether it may be; else run->end is
 * set. */
static int ping_wait(Run *run, bool *ret_ok)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    HttpResponse response;
    *ret_ok = run->version->pinged;
    if (*ret_ok) return 0;
    arena_init(&arena, PING_BYTES_MAX * 20);
    int r = request_wait(run, run->version->spec.url, "/ping", STR_NULL,
                         deadline_after(PING_TIMEOUT_MS), PING_BYTES_MAX, &arena, &response);
    if (r == -ECANCELED || r == -ENOMEM) return r;
    if (r != 0) return unreachable(run, "GET /ping", r);
    if (!is_healthy(&arena, &response))
        return run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "agent_unreachable",
                        "GET /ping: HTTP %d and no healthy status", response.status);
    *ret_ok = run->version->pinged = true;
    return 0;
}

static int answer_wait(Run *run, ServerUse *use, const HttpResponse *response)
{
    int status = response->status;
    if (status >= 200 && status <= 299) return run_succeed_wait(run, response->body, false);
    Resource over = use && status >= 500 ? server_blame(use, response->body) : RESOURCE_NONE;
    if (over) return run_fail_limit(run, over, false, str_sub(response->body, 0, 2000));
    run_fail(run,
             retry_status_may(status) ? TASK_OUTCOME_FAILED_RETRYABLE : TASK_OUTCOME_FAILED_FINAL,
             "agent_failed", "POST /invocations: HTTP %d: %.*s", status,
             STR_ARG(str_sub(response->body, 0, 2000)));
    int64_t after_ms = time_retry_after_ms(response->retry_after, clock_real_ms());
    run->end.retry_after_ms = MIN(after_ms, RETRY_AFTER_MAX_MS);
    return 0;
}

static int broken_off_wait(Run *run, ServerUse *use, int r)
{
    Str what = arena_str(&run->arena, str_of(diag_text_or(r)));
    ServerFault fault = use ? server_fault_wait(use) : (ServerFault){ 0 };
    if (fault.over) return run_fail_limit(run, fault.over, fault.crowd, STR_NULL);
    return run_fail(run, TASK_OUTCOME_FAILED_RETRYABLE, "agent_unreachable",
                    "POST /invocations: %.*s%s%.*s", STR_ARG(what), fault.why.len ? ": " : "",
                    STR_ARG(fault.why));
}

/* base: where the server is. use: of one of this worker; NULL: it runs elsewhere. */
static int invoke_wait(Run *run, Str base, ServerUse *use)
{
    CLEANUP(arena_deinit) Arena arena = { 0 };
    CLEANUP(buf_deinit) Buf input = { 0 };
    HttpResponse response;
    size_t output_max = run_output_max(run);
    arena_init(&arena, output_max * 3 + PING_BYTES_MAX);
    buf_init(&input, RUN_ARENA_BYTES_MAX);
    int r = run_input(run, &input);
    if (r < 0) return r;
    r = request_wait(run, base, "/invocations", buf_str(&input), 0, output_max, &arena, &response);
    if (r == -ECANCELED || r == -ENOMEM) return r;
    if (r == -EMSGSIZE) {
        atomic_fetch_add(&run->host->counters.outputs_too_large, 1);
        run_fail(run, TASK_OUTCOME_FAILED_FINAL, "output_too_large",
                 "the agent answered more than %zu bytes", output_max);
        run->end.stopped_by = resource_name(RESOURCE_OUTPUT);
        return 0;
    }
    if (r != 0) {
        run->version->pinged = false;
        return broken_off_wait(run, use, r);
    }
    return answer_wait(run, use, &response);
}

static int own_wait(Run *run)
{
    ServerUse use;
    ServerFault fault;
    int r = server_ref_wait(run->host->servers, run, &use, &fault);
    if (r == SERVER_E_DOWN && fault.over)
        return run_fail_limit(run, fault.over, false, str_of(diag_text()));
    if (r == SERVER_E_DOWN) return unreachable(run, "the agent's server is down", r);
    if (r < 0) return r;
    r = invoke_wait(run, server_url(use.server), &use);
    server_unref(&use);
    return r;
}

int run_server_wait(Run *run)
{
    bool ok;
    if (!run->version->spec.url.len) return own_wait(run);
    int r = ping_wait(run, &ok);
    return r < 0 || !ok ? r : invoke_wait(run, run->version->spec.url, NULL);
}
