/* A gateway between a client and the simulator (or a scripted stub), all on loopback, for tests. */
#ifndef GANTRY_TESTS_GATEWAY_RIG_H
#define GANTRY_TESTS_GATEWAY_RIG_H

#include "tests/unit/sys_harness.h"

#include <signal.h>

#include "base/diag.h"
#include "gateway/gateway.h"
#include "gateway/gateway_stats.h"
#include "gateway/sim.h"
#include "sys/clock.h"
#include "tests/unit/check.h"
#include "tests/unit/stub_server.h"

#define RIG_CALLS_MAX 2048
#define RIG_KEY "sk-provider-secret-0123456789"
#define RIG_AGENT_KEY "sk-agent-dummy"

typedef struct {
    GatewayCall call;
    char model[64], model_used[64], finish[32], error[256], tools[256], upstream_id[64];
} RigCall;

typedef struct {
    Stub stub;
    Sim *sim;
    Gateway *gateway;
    GatewayTask *task;
    HttpClient *client; /* the agent's */
    Arena arena;        /* prices */
    PriceTable prices;
    Price stub_price;
    GatewayProvider providers[4];
    GatewayRoute routes[8];
    GatewayConfig config;
    GatewaySink sink;
    GatewayTaskOptions options; /* of the next task */
    char urls[4][64];
    void (*configure)(void *rig); /* before the gateway is made; NULL: nothing */
    void (*body_wait)(void *rig);

    RigCall *calls; /* what the sink got */
    size_t calls_n;
    size_t holds_n;
    int64_t record_delay_ms; /* the sink takes so long */
    int record_result;       /* and returns this */
    int hold_result;
    bool recording; /* it is at it */
} Rig;

/* --- the sink --------------------------------------------------------------------------------- */

static inline int rig_record_wait(void *ctx, const GatewayCall *call)
{
    Rig *rig = ctx;
    rig->recording = true;
    if (rig->record_delay_ms) fiber_sleep_wait(rig->record_delay_ms);
    rig->recording = false;
    if (rig->record_result < 0) return rig->record_result;
    if (!CHECK(rig->calls_n < RIG_CALLS_MAX)) return -ENOSPC;
    RigCall *to = &rig->calls[rig->calls_n++];
    to->call = *call;
    str_copy(to->model, sizeof to->model, call->model);
    str_copy(to->model_used, sizeof to->model_used, call->model_used);
    str_copy(to->finish, sizeof to->finish, call->finish);
    str_copy(to->error, sizeof to->error, call->error);
    str_copy(to->upstream_id, sizeof to->upstream_id, call->upstream_id);
    to->tools[0] = '\0';
    for (size_t i = 0; i < call->tool_names_n; i++) {
        size_t at = strlen(to->tools);
        snprintf(to->tools + at, sizeof to->tools - at, "%s%.*s", i ? "," : "",
                 STR_ARG(call->tool_names[i]));
    }
    return 0;
}

static inline int rig_hold_wait(void *ctx, const GatewayCall *call)
{
    Rig *rig = ctx;
    CHECK(call->id[0] && call->hold.tokens > 0);
    rig->holds_n++;
    return rig->hold_result;
}

/* The newest record; asserts nothing about its being there. */
static inline const RigCall *rig_last(const Rig *rig)
{
    static const RigCall none;
    return rig->calls_n ? &rig->calls[rig->calls_n - 1] : &none;
}

/* --- life ------------------------------------------------------------------------------------- */

static inline void rig_provider(Rig *rig, size_t i, GatewayProtocol protocol, const char *name,
                                uint16_t port)
{
    snprintf(rig->urls[i], sizeof rig->urls[i], "http://127.0.0.1:%u%s", port,
             protocol == GATEWAY_OPENAI ? "/v1" : "");
    rig->providers[i] = (GatewayProvider){ .name = name,
                                           .protocol = protocol,
                                           .base_url = rig->urls[i],
                                           .key = RIG_KEY,
                                           .timeout_ms = 20000,
                                           .simulated = strcmp(name, "sim") == 0 };
}

static inline void rig_config(Rig *rig)
{
    arena_init(&rig->arena, 1 << 20);
    price_table_init(&rig->prices, &rig->arena);
    /* 1 micro-USD a token in, 2 out: easy to add up */
    rig->stub_price = (Price){ .model = STR("stub"), .base = PRICE_RATES_UNSET };
    rig->stub_price.base.input = 1000000;
    rig->stub_price.base.output = 2000000;
    rig->stub_price.base.cached = 100000;
    price_fill(&rig->stub_price);
    rig_provider(rig, 0, GATEWAY_OPENAI, "sim", sim_port(rig->sim));
    rig_provider(rig, 1, GATEWAY_ANTHROPIC, "sim", sim_port(rig->sim));
    rig_provider(rig, 2, GATEWAY_OPENAI, "stub", rig->stub.port);
    rig_provider(rig, 3, GATEWAY_ANTHROPIC, "stub", rig->stub.port);
    rig->providers[2].default_price = rig->providers[3].default_price = &rig->stub_price;
    rig->routes[0] = (GatewayRoute){ .match = "sim/*", .provider = 0 };
    rig->routes[1] = (GatewayRoute){ .match = "sim/*", .provider = 1 };
    rig->routes[2] = (GatewayRoute){ .match = "stub*", .provider = 2 };
    rig->routes[3] = (GatewayRoute){ .match = "stub*", .provider = 3 };
    rig->routes[4] = (GatewayRoute){ .match = "unpriced*", .provider = 0 };
    rig->routes[5] = (GatewayRoute){ .match = "gpt-4o-mini-2024-07-18", .provider = 0 };
    rig->config = (GatewayConfig){ .providers = rig->providers,
                                   .providers_n = 4,
                                   .routes = rig->routes,
                                   .routes_n = 6,
                                   .prices = &rig->prices,
                                   .breaker = BREAKER_POLICY_DEFAULT };
    rig->config.breaker.error_percent = 0; /* tests that want one say so */
}

static const CapLimits rig_no_limits = { CAP_NONE, CAP_NONE, CAP_NONE, CAP_NONE };

/* A task with these limits in place of the one there was. */
static inline void rig_task_wait(Rig *rig, CapLimits limits)
{
    gateway_task_close_wait(rig->task, deadline_after(5000));
    rig->task = NULL;
    rig->options.limits = limits;
    rig->options.spent.started_ms = clock_mono_ms();
    CHECK_INT(gateway_task_open(rig->gateway, &rig->options, &rig->task), 0);
}

static inline int rig_main(void *arg)
{
    Rig *rig = arg;
    CHECK_INT(sim_open(0, &rig->sim), 0);
    rig_config(rig);
    rig->sink = (GatewaySink){ rig_record_wait, rig_hold_wait, rig };
    rig->options = (GatewayTaskOptions){
        .task_id = STR("0192f3aa-0000-7000-8000-000000000001"),
        .agent = STR("support"),
        .version_id = STR("9f3ac21d0b7e"),
        .attempt = 1,
        .model = STR("sim/assistant"),
        .traceparent = STR("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        .sink = &rig->sink,
        .listen = true,
    };
    rig->client = http_client_new();
    if (rig->configure) rig->configure(rig);
    rig->gateway = gateway_new(&rig->config);
    rig_task_wait(rig, rig_no_limits);
    rig->body_wait(rig);
    http_client_free(rig->client); /* the agent's connections go first */
    gateway_task_close_wait(rig->task, deadline_after(5000));
    gateway_free(rig->gateway);
    sim_close_wait(rig->sim, deadline_after(5000));
    return 0;
}

static inline void rig_run_configured(void (*configure)(void *rig), void (*body_wait)(void *rig),
                                      StubFn stub, void *stub_ctx)
{
    Rig *rig = calloc(1, sizeof *rig);
    rig->calls = calloc(RIG_CALLS_MAX, sizeof *rig->calls);
    rig->configure = configure;
    rig->body_wait = body_wait;
    signal(SIGPIPE, SIG_IGN);
    stub_open(&rig->stub, stub, stub_ctx);
    harness_run(rig_main, rig);
    stub_close(&rig->stub);
    arena_deinit(&rig->arena);
    free(rig->calls);
    free(rig);
    check_none();
}

static inline void rig_run_with(void (*body_wait)(void *rig), StubFn stub, void *stub_ctx)
{
    rig_run_configured(NULL, body_wait, stub, stub_ctx);
}

static inline StubEnd rig_no_stub(StubRequest *request, void *ctx)
{
    (void)request, (void)ctx;
    return STUB_CLOSE;
}

static inline void rig_run(void (*body_wait)(void *rig))
{
    rig_run_with(body_wait, rig_no_stub, NULL);
}

/* --- the agent -------------------------------------------------------------------------------- */

typedef struct {
    int opened, ended; /* http_call_open_wait, the last http_call_read_wait */
    int status;
    Buf body;
    char type[64], retry[16], cost[32], simulated[8], task[64], version[32], cache[8], all[4096];
} Reply;

static inline void reply_deinit(Reply *reply)
{
    buf_deinit(&reply->body);
}

static inline Str reply_str(const Reply *reply)
{
    return buf_str(&reply->body);
}

static inline void reply_heads(Reply *reply, const HttpCall *call)
{
    str_copy(reply->type, sizeof reply->type, http_call_field(call, "content-type"));
    str_copy(reply->retry, sizeof reply->retry, http_call_field(call, "x-should-retry"));
    str_copy(reply->cost, sizeof reply->cost, http_call_field(call, "x-gantry-cost-usd"));
    str_copy(reply->simulated, sizeof reply->simulated,
             http_call_field(call, "x-gantry-simulated"));
    str_copy(reply->task, sizeof reply->task, http_call_field(call, "x-gantry-task"));
    str_copy(reply->version, sizeof reply->version, http_call_field(call, "x-gantry-version"));
    str_copy(reply->cache, sizeof reply->cache, http_call_field(call, "x-gantry-cache"));
    Str name, value;
    for (size_t i = 0; http_call_field_at(call, i, &name, &value); i++) {
        size_t at = strlen(reply->all);
        snprintf(reply->all + at, sizeof reply->all - at, "%.*s: %.*s\n", STR_ARG(name),
                 STR_ARG(value));
    }
}

static inline size_t rig_url(const Rig *rig, const char *path, char out[256])
{
    return (size_t)snprintf(out, 256, "http://127.0.0.1:%u%s", gateway_task_port(rig->task), path);
}

/* As an SDK would: keys and all. */
static inline Reply rig_method_wait(Rig *rig, Str method, const char *path, Str body)
{
    char url[256];
    HttpClientField fields[] = { { "content-type", STR("application/json") },
                                 { "authorization", STR("Bearer " RIG_AGENT_KEY) },
                                 { "x-api-key", STR(RIG_AGENT_KEY) },
                                 { "openai-organization", STR("org-agent") },
                                 { "cookie", STR("agent=cookie") },
                                 { "anthropic-version", STR("2023-06-01") },
                                 { "anthropic-beta", STR("some-beta") },
                                 { "anthropic-beta", STR("other-beta") } };
    bool messages = strncmp(path, "/v1/messages", 12) == 0;
    HttpCallOptions options = { .method = method,
                                .url = str_make(url, rig_url(rig, path, url)),
                                .fields = fields,
                                .fields_n = messages ? 8 : 5,
                                .body = body,
                                .idle_timeout_ms = 20000 };
    Reply reply = { .status = 0 };
    buf_init(&reply.body, 256u * 1024 * 1024);
    HttpCall *call = NULL;
    reply.opened = http_call_open_wait(rig->client, &options, &call);
    if (reply.opened < 0) return reply;
    reply.status = http_call_status(call);
    reply_heads(&reply, call);
    Str piece;
    while ((reply.ended = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0) {
        bool terminal = str_find(piece, STR("[DONE]")) >= 0 ||
                        str_find(piece, STR("message_stop")) >= 0;
        if (terminal) CHECK(!rig->recording); /* never before the record is durable */
        buf_add(&reply.body, piece);
    }
    http_call_free(call);
    return reply;
}

/* body "" is a GET. */
static inline Reply rig_request_wait(Rig *rig, const char *path, Str body)
{
    return rig_method_wait(rig, STR_NULL, path, body);
}

static inline Reply rig_post_wait(Rig *rig, Api api, const char *body)
{
    static const char *const paths[API_N_] = { "/v1/chat/completions", "/v1/responses",
                                               "/v1/messages", "/v1/embeddings" };
    return rig_request_wait(rig, paths[api], str_of(body));
}

/* {"model":MODEL,...,"messages" or "input":[{"role":"user","content":TEXT}]} with members put in
 * between. */
static inline Reply rig_say_wait(Rig *rig, Api api, const char *model, bool stream,
                                 const char *members, const char *text)
{
    Buf body;
    buf_init(&body, 8 * 1024 * 1024);
    buf_printf(&body, "{\"model\":\"%s\",%s%s\"%s\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
               model, stream ? "\"stream\":true," : "", members,
               api == API_RESPONSES ? "input" : "messages", text);
    Reply reply = rig_post_wait(rig, api, body.ptr);
    buf_deinit(&body);
    return reply;
}

static inline const char *rig_cap(Api api)
{
    return api == API_MESSAGES ? "\"max_tokens\":400," : "";
}

/* Until n calls of the task have been sent. */
static inline void rig_sent_wait(const Rig *rig, int64_t n)
{
    GatewayTotals totals = { .calls = 0 };
    for (int i = 0; i < 2000 && totals.calls < n; i++) {
        fiber_sleep_wait(5);
        gateway_task_totals(rig->task, &totals);
    }
    CHECK_INT(totals.calls, n);
}

/* Nothing is reserved any more, and what was spent is within the caps. */
static inline GatewayTotals rig_totals(const Rig *rig)
{
    GatewayTotals totals;
    gateway_task_totals(rig->task, &totals);
    CHECK_INT(totals.caps.in_flight, 0);
    CHECK_INT(totals.caps.reserved_tokens, 0);
    CHECK_INT(totals.caps.reserved_nusd, 0);
    CHECK(totals.caps.settled_tokens <= rig->options.limits.tokens);
    CHECK(totals.caps.settled_nusd <= rig->options.limits.usd_nusd);
    return totals;
}

#endif
