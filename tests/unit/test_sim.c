/* The simulator's server by itself. What it answers is in test_sim_brain.c, its misbehaviour as the
 * gateway meets it in test_gateway_faults.c. */
#include "tests/unit/sys_harness.h"

#include <signal.h>

#include "base/diag.h"
#include "codec/json.h"
#include "gateway/sim.h"
#include "net/http_client.h"
#include "sys/clock.h"
#include "tests/unit/check.h"

typedef struct {
    Sim *sim;
    HttpClient *client;
    Arena arena;
    void (*body_wait)(void *rig);
} Rig;

static int rig_main(void *arg)
{
    Rig *rig = arg;
    CHECK_INT(sim_open(0, &rig->sim), 0);
    rig->client = http_client_new();
    arena_init(&rig->arena, 16 << 20);
    rig->body_wait(rig);
    http_client_free(rig->client);
    sim_close_wait(rig->sim, deadline_after(100));
    arena_deinit(&rig->arena);
    return 0;
}

static void rig_run(void (*body_wait)(void *rig))
{
    Rig rig = { .body_wait = body_wait };
    signal(SIGPIPE, SIG_IGN);
    harness_run(rig_main, &rig);
    check_none();
}

static HttpResponse fetch_wait(Rig *rig, const char *method, const char *path, const char *body)
{
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%u%s", sim_port(rig->sim), path);
    HttpCallOptions options = { .method = str_of(method),
                                .url = str_of(url),
                                .body = str_of(body) };
    HttpResponse response = { .status = 0 };
    CHECK_INT(http_fetch_wait(rig->client, &options, 1 << 20, &rig->arena, &response), 0);
    return response;
}

#define SAY(model, text) \
    "{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]}"

static void routes_wait(void *arg)
{
    Rig *rig = arg;
    HttpResponse got = fetch_wait(rig, "GET", "/v1/models", "");
    CHECK_INT(got.status, 200);
    CHECK_HAS(got.body, "{\"id\":\"sim/echo\",\"object\":\"model\"");
    CHECK_INT(fetch_wait(rig, "GET", "/nothing", "").status, 404);
    CHECK_INT(fetch_wait(rig, "GET", "/v1/messages", "").status, 404);
    CHECK_INT(fetch_wait(rig, "POST", "/v1/chat/completions", "{").status, 400);
    CHECK_INT(fetch_wait(rig, "POST", "/v1/messages", SAY("m", "x")).status,
              400); /* no max_tokens */
    got = fetch_wait(rig, "POST", "/v1/chat/completions",
                     SAY("sim/fail", "[[sim status=503 retry-after=7]]"));
    CHECK_INT(got.status, 503);
    CHECK_STR(got.retry_after, STR("7"));
    got = fetch_wait(rig, "POST", "/v1/chat/completions", SAY("sim/html", "x"));
    CHECK_INT(got.status, 502);
    CHECK_STR(got.content_type, STR("text/html"));
}

static void test_routes(void **state)
{
    (void)state;
    rig_run(routes_wait);
}

static void stats_wait(void *arg)
{
    Rig *rig = arg;
    SimStats stats;
    CHECK_INT(fetch_wait(rig, "POST", "/v1/chat/completions", SAY("sim/echo", "eight by")).status,
              200);
    CHECK_INT(fetch_wait(rig, "POST", "/v1/chat/completions", SAY("sim/overload", "x")).status,
              529);
    HttpResponse got = fetch_wait(rig, "GET", "/sim/stats", "");
    CHECK_STR(
        got.body,
        STR("{\"calls\":1,\"failures\":1,\"inputTokens\":6,\"outputTokens\":2,\"toolCalls\":0,"
            "\"aborted\":0,\"open\":1}")); /* the one that asks */
    sim_stats(rig->sim, &stats);
    CHECK_INT(stats.calls, 1);
    CHECK_INT(stats.output_tokens, 2);
    CHECK_INT(fetch_wait(rig, "POST", "/sim/reset", "").status, 204);
    sim_stats(rig->sim, &stats);
    CHECK_INT(stats.calls + stats.failures + stats.input_tokens + stats.output_tokens, 0);
}

static void test_stats(void **state)
{
    (void)state;
    rig_run(stats_wait);
}

/* A reader that leaves is noticed, a delay is kept, and what hangs does not stop it closing. */
static void patience_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    HttpCall *call = NULL;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/v1/chat/completions", sim_port(rig->sim));
    int64_t before_ms = clock_mono_ms();
    CHECK_INT(fetch_wait(rig, "POST", "/v1/chat/completions", SAY("sim/slow", "[[sim delay=40]] x"))
                  .status,
              200);
    CHECK(clock_mono_ms() - before_ms >= 40);

    HttpCallOptions options = { .url = str_of(url),
                                .body = STR(SAY("sim/hang", "x")),
                                .idle_timeout_ms = 30 };
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), -ETIMEDOUT);
    SimStats stats = { .aborted = 0 };
    for (int i = 0; i < 100 && !stats.aborted; i++) {
        fiber_sleep_wait(5);
        sim_stats(rig->sim, &stats);
    }
    CHECK_INT(stats.aborted, 1);

    options.body = STR(
        "{\"model\":\"sim/stall\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    Str piece;
    CHECK_INT(http_call_read_wait(call, DEADLINE_NONE, &piece), 0);
    sim_stats(rig->sim, &stats);
    CHECK_INT(stats.open, 1);
    sim_close_wait(TAKE(rig->sim), deadline_after(20));
    int r;
    while ((r = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0) {
    }
    CHECK_INT(r, HTTP_CALL_E_CUT);
    http_call_free(call);
}

static void test_patience(void **state)
{
    (void)state;
    rig_run(patience_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_patience),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
