#include "gateway/sim.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "gateway/sim_wire.h"
#include "net/http_server.h"
#include "sys/clock.h"

#define BODY_BYTES_MAX (16u * 1024 * 1024)
#define REQUEST_MEMORY_MAX (512u * 1024 * 1024)
#define ANSWER_BYTES_MAX (128u * 1024 * 1024)
#define SILENCE_MS 600000
#define DELAY_MAX_MS 600000
#define HUGE_BYTES (20u * 1024 * 1024)

struct Sim {
    HttpServer *server;
    atomic_uint_fast64_t calls, failures, input_tokens, output_tokens, tool_calls, aborted, open;
};

/* --- counters --------------------------------------------------------------------------------- */

static void bill(Sim *sim, const SimAnswer *answer)
{
    atomic_fetch_add(&sim->calls, 1);
    atomic_fetch_add(&sim->input_tokens, (uint64_t)answer->input_tokens);
    atomic_fetch_add(&sim->output_tokens, (uint64_t)answer->output_tokens);
    atomic_fetch_add(&sim->tool_calls, answer->thought.calls_n * (uint64_t)answer->request->n);
}

void sim_stats(const Sim *sim, SimStats *ret)
{
    *ret = (SimStats){
        .calls = atomic_load(&sim->calls),
        .failures = atomic_load(&sim->failures),
        .input_tokens = atomic_load(&sim->input_tokens),
        .output_tokens = atomic_load(&sim->output_tokens),
        .tool_calls = atomic_load(&sim->tool_calls),
        .aborted = atomic_load(&sim->aborted),
        .open = atomic_load(&sim->open),
    };
}

void sim_reset(Sim *sim)
{
    atomic_store(&sim->calls, 0);
    atomic_store(&sim->failures, 0);
    atomic_store(&sim->input_tokens, 0);
    atomic_store(&sim->output_tokens, 0);
    atomic_store(&sim->tool_calls, 0);
    atomic_store(&sim->aborted, 0);
}

/* --- sending ---------------------------------------------------------------------------------- */

static int error_wait(Sim *sim, HttpReq *req, Api api, int status, bool quota, const char *message)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 64 * 1024);
    atomic_fetch_add(&sim->failures, 1);
    sim_wire_error(api, status, quota, str_of(message), &body);
    return http_reply_wait(req, status, "application/json", buf_str(&body));
}

/* As long as the reader has patience. */
static int silence_wait(HttpReq *req)
{
    int r = http_gone_wait(req, deadline_after(SILENCE_MS));
    return r == -ECANCELED ? r : HTTP_E_GONE;
}

static int write_wait(HttpReq *req, const SimAnswer *answer, Str bytes)
{
    size_t step = answer->mode.faults & SIM_DRIBBLE ? 1 : bytes.len;
    int r = 0;
    while (r == 0 && bytes.len) {
        r = http_write_wait(req, str_sub(bytes, 0, step));
        bytes = str_skip(bytes, step);
    }
    return r;
}

static int huge_wait(HttpReq *req)
{
    char line[4096];
    memset(line, 'x', sizeof line);
    int r = http_write_wait(req, STR("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\""));
    for (size_t sent = 0; r == 0 && sent < HUGE_BYTES; sent += sizeof line)
        r = http_write_wait(req, str_make(line, sizeof line));
    return r;
}

static int error_event_wait(HttpReq *req, Api api)
{
    if (api == API_RESPONSES)
        return http_write_wait(
            req,
            STR("event: error\ndata: {\"type\":\"error\",\"code\":\"overloaded\",\"message\":"
                "\"Overloaded (simulated)\",\"param\":null,\"error\":{\"type\":\"server_error\",\"code\":\"overloaded\",\"message\":\"Overloaded (simulated)\",\"param\":null},\"sequence_number\":99}\n\n"));
    return http_write_wait(
        req,
        api == API_MESSAGES
            ? STR("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
                  "\"message\":\"Overloaded (simulated)\"}}\n\n")
            : STR("data: {\"error\":{\"message\":\"Overloaded (simulated)\",\"type\":\"server_error\","
                  "\"param\":null,\"code\":\"overloaded\"}}\n\n"));
}

/* What goes wrong half way. Returns 0 to go on, 1 to end cleanly, else what ends the handler. */
static int midway_wait(HttpReq *req, const SimAnswer *answer, Str next)
{
    unsigned faults = answer->mode.faults;
    int r = 0;
    if (faults & SIM_BAD_UTF8)
        return http_write_wait(req, STR("data: {\"text\":\"\xc3\x28\xff\"}\n\n"));
    if (faults & SIM_HUGE) r = huge_wait(req);
    else if (faults & SIM_CUT) r = http_write_wait(req, str_sub(next, 0, next.len / 2));
    else if (faults & SIM_STALL) return silence_wait(req);
    else if (faults & SIM_ERROR_EVENT) {
        r = error_event_wait(req, answer->request->api);
        return r == 0 ? 1 : r;
    } else return 0;
    return r == 0 ? HTTP_E_GONE : r; /* not ended: the reader sees it cut */
}

static int pieces_wait(HttpReq *req, const SimAnswer *answer, const Str *pieces, size_t n)
{
    int64_t pause_ms = MIN(sim_directive_i64(answer->request, "per-token", 0), DELAY_MAX_MS);
    for (size_t i = 0; i < n; i++) {
        int r = i == n / 2 ? midway_wait(req, answer, pieces[i]) : 0;
        if (r == 1) return 0;
        if (r == 0) r = write_wait(req, answer, pieces[i]);
        if (r == 0 && pause_ms > 0) r = fiber_sleep_wait(pause_ms);
        if (r != 0) return r;
    }
    return answer->mode.faults & SIM_LEFT_OPEN ? silence_wait(req) : 0;
}

static int stream_wait(HttpReq *req, const SimAnswer *answer)
{
    Str *pieces;
    size_t n = sim_wire_stream(&req->arena, answer, &pieces);
    if (n == 0) return diag_set(-ENOMEM, "the simulated answer is too large");
    int r = http_reply_start_wait(req, 200, "text/event-stream; charset=utf-8");
    if (r == 0) r = pieces_wait(req, answer, pieces, n);
    return r == 0 ? http_end_wait(req) : r;
}

/* A plain body in two halves, for what goes wrong between them. */
static int halves_wait(HttpReq *req, const SimAnswer *answer, Str body)
{
    unsigned faults = answer->mode.faults;
    int r = http_reply_start_wait(req, 200, "application/json");
    if (r == 0) r = write_wait(req, answer, str_sub(body, 0, body.len / 2));
    if (r == 0 && faults & SIM_STALL) r = silence_wait(req);
    if (r == 0 && faults & SIM_CUT) r = HTTP_E_GONE;
    if (r == 0) r = write_wait(req, answer, str_skip(body, body.len / 2));
    if (r == 0 && faults & SIM_LEFT_OPEN) r = silence_wait(req);
    return r == 0 ? http_end_wait(req) : r;
}

static int plain_wait(HttpReq *req, const SimAnswer *answer)
{
    unsigned faults = answer->mode.faults;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, ANSWER_BYTES_MAX);
    if (faults & SIM_BAD_UTF8)
        (void)buf_add(
            &body,
            STR("{\"choices\":[{\"message\":\"\xc3\x28\xff\"}],\"output\":[],\"content\":[]}"));
    else if (faults & SIM_ERROR_EVENT)
        sim_wire_error(answer->request->api, 529, false, STR("Overloaded (simulated)"), &body);
    else sim_wire_plain(answer, &body);
    if (body.failed) return diag_set(-ENOMEM, "the simulated answer is too large");
    if (faults & (SIM_CUT | SIM_STALL | SIM_LEFT_OPEN | SIM_DRIBBLE))
        return halves_wait(req, answer, buf_str(&body));
    return http_reply_wait(req, 200, "application/json", buf_str(&body));
}

/* --- answering -------------------------------------------------------------------------------- */

static void add_heads(HttpReq *req, const SimAnswer *answer)
{
    Str retry_after;
    http_header_add(req, "x-gantry-simulated", STR("1"));
    http_header_add(req, answer->request->api == API_MESSAGES ? "request-id" : "x-request-id",
                    str_of(answer->id));
    if (!sim_directive(answer->request, "retry-after", &retry_after))
        retry_after = answer->mode.status == 429 ? STR("1") : STR_NULL;
    if (!str_empty(retry_after) && http1_value_ok(retry_after))
        http_header_add(req, "retry-after", retry_after);
}

static int status_wait(Sim *sim, HttpReq *req, const SimAnswer *answer)
{
    bool quota = answer->mode.faults & SIM_QUOTA;
    if (answer->mode.faults & SIM_HTML) {
        atomic_fetch_add(&sim->failures, 1);
        return http_reply_wait(req, answer->mode.status, "text/html",
                               STR("<html><body><h1>Bad gateway</h1>(simulated)</body></html>\n"));
    }
    return error_wait(sim, req, answer->request->api, answer->mode.status, quota,
                      quota ? "You exceeded your current quota (simulated)"
                            : "This failure was asked for (simulated)");
}

static int answer_wait(Sim *sim, HttpReq *req, const SimAnswer *answer)
{
    unsigned faults = answer->mode.faults;
    if (answer->mode.delay_ms > 0) {
        int r = fiber_sleep_wait(MIN(answer->mode.delay_ms, DELAY_MAX_MS));
        if (r < 0) return r;
    }
    if (faults & SIM_HANG) return silence_wait(req);
    if (answer->mode.status) return status_wait(sim, req, answer);
    bill(sim, answer);
    if (faults & SIM_EMPTY) return http_reply_wait(req, 200, "application/json", STR_NULL);
    if (faults & SIM_GARBAGE)
        return http_reply_wait(req, 200, "text/plain", STR("I am no JSON.\n"));
    return answer->request->stream ? stream_wait(req, answer) : plain_wait(req, answer);
}

static int embeddings_wait(Sim *sim, HttpReq *req, const SimAnswer *answer, Str text)
{
    const Json *body = NULL;
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, ANSWER_BYTES_MAX);
    if (json_parse(&req->arena, text, NULL, &body, NULL) < 0) return -ENOMEM;
    bill(sim, answer);
    sim_wire_embeddings(answer, body, &out);
    return http_reply_wait(req, 200, "application/json", buf_str(&out));
}

static int model_wait(Sim *sim, HttpReq *req, Api api)
{
    Str text;
    SimRequest *request = ARENA_NEW(&req->arena, SimRequest);
    SimAnswer *answer = ARENA_NEW(&req->arena, SimAnswer);
    int r = http_body_wait(req, BODY_BYTES_MAX, &text);
    if (r == HTTP_E_TOO_LARGE)
        return error_wait(sim, req, api, 400, false, "The request is too large");
    if (r != 0 || !request || !answer) return r;
    diag_clear();
    if (api == API_RESPONSES) r = sim_responses_request(&req->arena, text, &text);
    if (r == 0)
        r = sim_request_read(&req->arena, api == API_RESPONSES ? API_CHAT : api, text, request);
    if (r == 0) request->api = api;
    if (r == -EINVAL) return error_wait(sim, req, api, 400, false, diag_text());
    if (r == 0) r = sim_answer(&req->arena, request, answer);
    if (r < 0) return error_wait(sim, req, api, 500, false, "The simulator is out of memory");
    add_heads(req, answer);
    if (api == API_EMBEDDINGS && !answer->mode.status) r = embeddings_wait(sim, req, answer, text);
    else r = answer_wait(sim, req, answer);
    if (http_gone(req)) atomic_fetch_add(&sim->aborted, 1);
    return r > 0 ? 0 : r;
}

/* What messages with this body would be billed as input. */
static int count_wait(Sim *sim, HttpReq *req)
{
    Str text;
    CLEANUP(buf_deinit) Buf body, out;
    SimRequest *request = ARENA_NEW(&req->arena, SimRequest);
    buf_init(&body, BODY_BYTES_MAX + 64);
    buf_init(&out, 256);
    int r = http_body_wait(req, BODY_BYTES_MAX, &text);
    if (r != 0 || !request) return r;
    diag_clear();
    const Json *json = NULL;
    r = json_parse(&req->arena, text, NULL, &json, NULL);
    if (r == 0 && json_type(json) != JSON_OBJECT) r = diag_set(-EINVAL, "an object is needed");
    if (r == 0) r = json_member_set(text, STR("max_tokens"), STR("1"), &body);
    if (r == 0) r = sim_request_read(&req->arena, API_MESSAGES, buf_str(&body), request);
    if (r < 0) return error_wait(sim, req, API_MESSAGES, 400, false, diag_text_or(r));
    JsonOut count = json_out(&out);
    json_out_object(&count);
    json_out_ki64(&count, "input_tokens", request->input_tokens);
    json_out_object_end(&count);
    return http_reply_wait(req, 200, "application/json", buf_str(&out));
}

/* --- routes ----------------------------------------------------------------------------------- */

static int models_wait(HttpReq *req)
{
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 64 * 1024);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_kcstr(&out, "object", "list");
    json_out_key(&out, "data");
    json_out_array(&out);
    for (size_t i = 0; sim_mode_at(i); i++) {
        char name[64];
        snprintf(name, sizeof name, "sim/%s", sim_mode_at(i)->name);
        json_out_object(&out);
        json_out_kcstr(&out, "id", name);
        json_out_kcstr(&out, "object", "model");
        json_out_ki64(&out, "created", 0);
        json_out_kcstr(&out, "owned_by", "sim");
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    json_out_object_end(&out);
    return http_reply_wait(req, 200, "application/json", buf_str(&body));
}

static int stats_wait(const Sim *sim, HttpReq *req)
{
    SimStats stats;
    sim_stats(sim, &stats);
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, 4096);
    JsonOut out = json_out(&body);
    json_out_object(&out);
    json_out_ki64(&out, "calls", (int64_t)stats.calls);
    json_out_ki64(&out, "failures", (int64_t)stats.failures);
    json_out_ki64(&out, "inputTokens", (int64_t)stats.input_tokens);
    json_out_ki64(&out, "outputTokens", (int64_t)stats.output_tokens);
    json_out_ki64(&out, "toolCalls", (int64_t)stats.tool_calls);
    json_out_ki64(&out, "aborted", (int64_t)stats.aborted);
    json_out_ki64(&out, "open", (int64_t)stats.open);
    json_out_object_end(&out);
    return http_reply_wait(req, 200, "application/json", buf_str(&body));
}

static int reset_wait(Sim *sim, HttpReq *req)
{
    sim_reset(sim);
    return http_reply_wait(req, 204, NULL, STR_NULL);
}

static int route_wait(Sim *sim, HttpReq *req)
{
    if (str_eq(req->method, STR("POST"))) {
        if (str_eq(req->path, STR("/v1/chat/completions"))) return model_wait(sim, req, API_CHAT);
        if (str_eq(req->path, STR("/v1/messages"))) return model_wait(sim, req, API_MESSAGES);
        if (str_eq(req->path, STR("/v1/responses"))) return model_wait(sim, req, API_RESPONSES);
        if (str_eq(req->path, STR("/v1/messages/count_tokens"))) return count_wait(sim, req);
        if (str_eq(req->path, STR("/v1/embeddings"))) return model_wait(sim, req, API_EMBEDDINGS);
        if (str_eq(req->path, STR("/sim/reset"))) return reset_wait(sim, req);
    } else if (str_eq(req->method, STR("GET"))) {
        if (str_eq(req->path, STR("/v1/models"))) return models_wait(req);
        if (str_eq(req->path, STR("/sim/stats"))) return stats_wait(sim, req);
    }
    return error_wait(sim, req, API_CHAT, 404, false, "The simulator has no such route");
}

static int on_request(HttpReq *req, void *ctx)
{
    Sim *sim = ctx;
    atomic_fetch_add(&sim->open, 1);
    int r = route_wait(sim, req);
    atomic_fetch_sub(&sim->open, 1);
    return r > 0 ? 0 : r;
}

/* --- life ------------------------------------------------------------------------------------- */

int sim_open(uint16_t port, Sim **ret)
{
    Sim *sim = xcalloc(1, sizeof *sim);
    HttpServerOptions options = {
        .address = "127.0.0.1",
        .port = port,
        .body_bytes_max = BODY_BYTES_MAX,
        .request_memory_max = REQUEST_MEMORY_MAX,
    };
    int r = http_server_open(&options, on_request, sim, &sim->server);
    if (r < 0) free(sim);
    else *ret = sim;
    return r;
}

uint16_t sim_port(const Sim *sim)
{
    return http_server_port(sim->server);
}

void sim_close_wait(Sim *sim, int64_t deadline_ms)
{
    if (!sim) return;
    http_server_close_wait(sim->server, deadline_ms);
    free(sim);
}
