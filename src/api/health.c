/* Probes, metrics, and what a browser or a tool asks first. */
#include "api/health.h"

#include "base/diag.h"
#include "observe/signals.h"
#include "observe/task_json.h"
#include "sys/clock.h"

#define METRICS_BYTES_MAX ((size_t)16 << 20)
#define SIGNALS_MEMORY_MAX ((size_t)128 << 20)
#define WINDOW_MAX_MS (INT64_C(30) * 24 * 60 * 60 * 1000)
#define WINDOW_DEFAULT_MS (60 * 60 * 1000)

/* --- probes ----------------------------------------------------------------------------------- */

const Param readyz_params[] = {
    { "verbose", "string", "Says how each check went" },
    { 0 },
};

/* Answers as long as this loop turns: a store in trouble is no reason to be killed. */
int livez_run_wait(ApiCall *call)
{
    return api_reply_wait(call, 200, "text/plain; charset=utf-8", STR("ok\n"));
}

static int nothing_job(Db *db, void *arg)
{
    (void)db, (void)arg;
    return 0;
}

static int store_check_wait(ApiCall *call)
{
    return store_read_wait(queue_store(call->api->options.queue), nothing_job, NULL);
}

static int serving_check_wait(ApiCall *call)
{
    if (atomic_load(&call->api->deploying)) return diag_set(-EAGAIN, "agents are being deployed");
    bool ends = atomic_load(&call->api->draining) || atomic_load(&call->api->leaving);
    return ends ? diag_set(-ESHUTDOWN, "draining") : 0;
}

static const struct {
    const char *name;
    int (*run_wait)(ApiCall *call);
} checks[] = {
    { "serving", serving_check_wait },
    { "store", store_check_wait },
};

int readyz_run_wait(ApiCall *call)
{
    bool ready = true, verbose;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 4096);
    http_query(call->req, "verbose", &verbose);
    for (size_t i = 0; i < ARRAY_N(checks); i++) {
        int r = checks[i].run_wait(call);
        if (r == -ECANCELED) return r;
        if (r < 0) ready = false;
        if (r < 0) buf_printf(&text, "[-]%s: %s\n", checks[i].name, diag_text_or(r));
        else if (verbose) buf_printf(&text, "[+]%s ok\n", checks[i].name);
    }
    buf_add(&text, ready ? STR("ok\n") : STR("not ready\n"));
    return api_reply_wait(call, ready ? 200 : 503, "text/plain; charset=utf-8", buf_str(&text));
}

int readyz_check_run_wait(ApiCall *call)
{
    for (size_t i = 0; i < ARRAY_N(checks); i++) {
        if (!str_eq(call->params[0], str_of(checks[i].name))) continue;
        int r = checks[i].run_wait(call);
        if (r == 0) return api_reply_wait(call, 200, "text/plain; charset=utf-8", STR("ok\n"));
        if (r == -ECANCELED) return r;
        return api_problem_wait(call, 503, "not_ready", "%s: %s", checks[i].name, diag_text_or(r));
    }
    return api_problem_wait(call, 404, "check_not_found",
                            "there is no such check; /readyz?verbose lists them");
}

/* --- metrics ---------------------------------------------------------------------------------- */

int metrics_run_wait(ApiCall *call)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, METRICS_BYTES_MAX);
    OmFormat format = om_format_from_accept(http_header(call->req, "accept"));
    int r = metrics_write_wait(call->api->options.metrics, format, &text);
    if (r < 0) return api_fail_wait(call, r);
    return api_reply_wait(call, 200, om_content_type(format), buf_str(&text));
}

const Param signals_params[] = {
    { "agent", "string", "Only versions of this agent" },
    { "window", "string", "How far back to look, such as 1h (the default); at most 30d" },
    { 0 },
};

static int signals_reply_wait(ApiCall *call, const SignalsQuery *query, const Signals *signals)
{
    CLEANUP(api_json_deinit) ApiJson json = { 0 };
    api_json(&json, API_JSON_BYTES_MAX);
    JsonOut *out = &json.out;
    json_out_object(out);
    json_out_ki64(out, "windowSeconds", query->window_ms / 1000);
    json_out_key(out, "versions");
    json_out_array(out);
    for (size_t i = 0; i < signals->n; i++) signals_json(out, signals->versions[i], query->now_ms);
    json_out_array_end(out);
    json_out_kbool(out, "truncated", signals->truncated);
    json_out_object_end(out);
    return api_json_wait(call, 200, &json);
}

int signals_run_wait(ApiCall *call)
{
    SignalsQuery query = { .agent = api_param(call, "agent"), .now_ms = clock_real_ms() };
    int r = api_param_duration_wait(call, "window", WINDOW_MAX_MS, WINDOW_DEFAULT_MS,
                                    &query.window_ms);
    if (r != 0) return r;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, SIGNALS_MEMORY_MAX);
    Signals signals;
    r = signals_collect_wait(call->api->options.queue, &query, &arena, &signals);
    return r < 0 ? api_fail_wait(call, r) : signals_reply_wait(call, &query, &signals);
}

/* --- documents -------------------------------------------------------------------------------- */

int openapi_run_wait(ApiCall *call)
{
    return api_reply_wait(call, 200, "application/json", call->api->openapi);
}

static const char root_page[] =
    "<!doctype html>\n"
    "<html lang=\"en\">\n"
    "<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<title>Gantry</title>\n"
    "<h1>Gantry " GANTRY_VERSION "</h1>\n"
    "<p>Runs AI agents: versions, a durable queue, a gateway to language models.\n"
    "<h2>Look</h2>\n"
    "<ul>\n"
    "<li><a href=\"api/agents\">Agents</a> and <a href=\"api/metrics/versions\">how their versions "
    "do</a>\n"
    "<li><a href=\"api/tasks\">Tasks</a>, the <a href=\"api/queue\">queue</a> and its "
    "<a href=\"api/workers\">workers</a>\n"
    "<li><a href=\"metrics\">Metrics</a> for Prometheus, and whether it is "
    "<a href=\"readyz?verbose\">ready</a>\n"
    "<li><a href=\"openapi.json\">openapi.json</a>: every route, for people and programs\n"
    "</ul>\n"
    "<h2>Try</h2>\n"
    "<pre>curl -H 'Content-Type: application/json' -d '{\"input\":\"hello\"}' "
    "%.*s/agent/execute\n"
    "gantry run AGENT \"hello\"</pre>\n"
    "</html>\n";

/* How the reader has come here, if that is a plain host and port: it stands in the page. */
static Str root_host(const HttpReq *req)
{
    Str host = http_header(req, "host");
    for (size_t i = 0; i < host.len; i++) {
        char c = host.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '-' || c == ':' || c == '[' || c == ']';
        if (!plain) return STR("localhost:7070");
    }
    return str_empty(host) ? STR("localhost:7070") : host;
}

int root_run_wait(ApiCall *call)
{
    http_header_add(call->req, "Content-Security-Policy", STR("default-src 'none'"));
    http_header_add(call->req, "X-Content-Type-Options", STR("nosniff"));
    Str page = arena_printf(&call->req->arena, root_page, STR_ARG(root_host(call->req)));
    if (!page.ptr) return api_fail_wait(call, -ENOMEM);
    return api_reply_wait(call, 200, "text/html; charset=utf-8", page);
}
