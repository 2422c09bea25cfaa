/* Room for the bytes of requests: what does not fit waits, and is refused when that takes long. */
#include "tests/unit/gateway_rig.h"

static atomic_bool open_gate;

static StubEnd gated(StubRequest *request, void *ctx)
{
    (void)ctx;
    for (int i = 0; i < 20000 && !atomic_load(&open_gate); i++) stub_sleep_ms(1);
    static const char body[] =
        "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"ok\"},"
        "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,"
        "\"total_tokens\":4}}";
    char text[512];
    snprintf(text, sizeof text,
             "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             sizeof body - 1, body);
    stub_sends(request, text);
    return STUB_CLOSE;
}

typedef struct {
    Rig *rig;
    Reply reply;
    FiberRef fiber;
} Caller;

static int caller_main(void *arg)
{
    Caller *caller = arg;
    char text[3001];
    memset(text, 'a', 3000);
    text[3000] = '\0';
    caller->reply = rig_say_wait(caller->rig, API_CHAT, "stub", false, "", text);
    return 0;
}

static void caller_begin(Caller *caller, Rig *rig)
{
    *caller = (Caller){ .rig = rig };
    CHECK_INT(fiber_spawn("caller", caller_main, caller, &caller->fiber), 0);
}

static int caller_end(Caller *caller)
{
    CHECK_INT(fiber_join_wait(caller->fiber, NULL), 0);
    int status = caller->reply.status;
    reply_deinit(&caller->reply);
    return status;
}

typedef struct {
    uint64_t room_waited, room_refused;
    int64_t request_bytes;
} RoomStats;

static RoomStats stats_of(const Rig *rig)
{
    GatewayStats *stats = calloc(1, sizeof *stats); /* too large for the stack */
    gateway_stats(rig->gateway, stats);
    RoomStats ret = { .room_waited = stats->room_waited,
                      .room_refused = stats->room_refused,
                      .request_bytes = stats->request_bytes };
    free(stats);
    return ret;
}

static void waited_until(const Rig *rig, uint64_t n)
{
    for (int i = 0; i < 4000 && stats_of(rig).room_waited < n; i++) fiber_sleep_wait(5);
    CHECK_INT(stats_of(rig).room_waited, n);
}

/* A client has its answer a moment before the room is given back. */
static void empty_until(const Rig *rig)
{
    for (int i = 0; i < 4000 && stats_of(rig).request_bytes; i++) fiber_sleep_wait(5);
    CHECK_INT(stats_of(rig).request_bytes, 0);
}

static void configure_task(void *arg)
{
    Rig *rig = arg;
    rig->config.request_bytes_task_max = 4000;
}

static void configure_all(void *arg)
{
    Rig *rig = arg;
    rig->config.request_bytes_max = 4000;
}

/* The second one is refused, and says what to do; when the first has gone there is room. */
static void refused_wait(void *arg)
{
    Rig *rig = arg;
    Caller first;
    rig->config.request_wait_ms = 50;
    caller_begin(&first, rig);
    rig_sent_wait(rig, 1);
    CHECK(stats_of(rig).request_bytes > 3000);
    char text[3001];
    memset(text, 'b', 3000);
    text[3000] = '\0';
    CLEANUP(reply_deinit) Reply second = rig_say_wait(rig, API_CHAT, "stub", false, "", text);
    CHECK_INT(second.status, 429);
    CHECK_HAS(reply_str(&second), "rate_limit_exceeded");
    CHECK_HAS(reply_str(&second), "waiting.bytesPerTask");
    CHECK_HAS(str_of(second.all), "retry-after: 1\n");
    CLEANUP(reply_deinit) Reply small = rig_request_wait(rig, "/v1/models", STR(""));
    CHECK_INT(small.status, 200);
    CHECK_INT(stats_of(rig).room_refused, 1);
    atomic_store(&open_gate, true);
    CHECK_INT(caller_end(&first), 200);
    empty_until(rig);
    CLEANUP(reply_deinit) Reply third = rig_say_wait(rig, API_CHAT, "stub", false, "", text);
    CHECK_INT(third.status, 200);
    empty_until(rig);
    CHECK_INT(stats_of(rig).room_waited, 1);
    CHECK_INT(rig_totals(rig).calls, 2);
}

static void test_refused(void **state)
{
    (void)state;
    atomic_store(&open_gate, false);
    rig_run_configured(configure_task, refused_wait, gated, NULL);
    atomic_store(&open_gate, false);
    rig_run_configured(configure_all, refused_wait, gated, NULL);
}

/* Those that wait are served one after the other; one whose client leaves is forgotten. */
static void served_wait(void *arg)
{
    Rig *rig = arg;
    Caller callers[4];
    caller_begin(&callers[0], rig);
    rig_sent_wait(rig, 1);
    for (uint64_t i = 1; i < ARRAY_N(callers); i++) {
        caller_begin(&callers[i], rig);
        waited_until(rig, i);
    }
    CHECK_INT(atomic_load(&rig->stub.requests), 1);
    fiber_cancel(callers[1].fiber);
    fiber_join_wait(callers[1].fiber, NULL);
    reply_deinit(&callers[1].reply);
    atomic_store(&open_gate, true);
    CHECK_INT(caller_end(&callers[0]), 200);
    CHECK_INT(caller_end(&callers[2]), 200);
    CHECK_INT(caller_end(&callers[3]), 200);
    empty_until(rig);
    CHECK_INT(stats_of(rig).room_refused, 0);
}

static void test_served(void **state)
{
    (void)state;
    atomic_store(&open_gate, false);
    rig_run_configured(configure_task, served_wait, gated, NULL);
}

/* What a task fills keeps no other task waiting. */
static void others_wait(void *arg)
{
    Rig *rig = arg;
    Caller first, second, other;
    GatewayTask *own = rig->task;
    caller_begin(&first, rig);
    rig_sent_wait(rig, 1);
    caller_begin(&second, rig);
    waited_until(rig, 1);
    CHECK_INT(gateway_task_open(rig->gateway, &rig->options, &rig->task), 0);
    caller_begin(&other, rig);
    rig_sent_wait(rig, 1); /* of the other's */
    CHECK_INT(stats_of(rig).room_waited, 1);
    atomic_store(&open_gate, true);
    CHECK_INT(caller_end(&first), 200);
    CHECK_INT(caller_end(&second), 200);
    CHECK_INT(caller_end(&other), 200);
    gateway_task_close_wait(own, deadline_after(5000));
}

static void test_others(void **state)
{
    (void)state;
    atomic_store(&open_gate, false);
    rig_run_configured(configure_task, others_wait, gated, NULL);
}

/* --- what is asked of the worker --- */

static int door(HttpReq *req, void *ctx)
{
    Str body;
    const Rig *rig = ctx;
    int64_t taken = stats_of(rig).request_bytes;
    int r = http_body_wait(req, GATEWAY_DOOR_BYTES_MAX, &body);
    if (r == 0 && body.len > 1000) { /* as if the rest had not come */
        gateway_door_read(rig->task, req, body.len - 1000);
        CHECK_INT(stats_of(rig).request_bytes, taken - 1000);
    }
    return r == 0 ? http_reply_wait(req, 200, "text/plain", STR("kept")) : r;
}

static Reply put_wait(Rig *rig, Str body)
{
    return rig_method_wait(rig, STR("PUT"), "/gantry/v1/state/k", body);
}

/* Its bodies need room like those of model calls; what has none is not kept waiting. */
static void door_wait(void *arg)
{
    Rig *rig = arg;
    Caller first;
    char text[3000];
    memset(text, 'd', sizeof text);
    rig->config.request_wait_ms = 50;
    rig->options.door = door;
    rig->options.door_ctx = rig;
    rig_task_wait(rig, rig_no_limits);
    CLEANUP(reply_deinit) Reply alone = put_wait(rig, str_make(text, sizeof text));
    CHECK_INT(alone.status, 200);
    empty_until(rig);
    caller_begin(&first, rig);
    rig_sent_wait(rig, 1);
    CLEANUP(reply_deinit) Reply refused = put_wait(rig, str_make(text, sizeof text));
    CHECK_INT(refused.status, 429);
    CHECK_HAS(reply_str(&refused), "\"code\":\"too_many_bytes\"");
    CHECK_HAS(str_of(refused.all), "Retry-After: 1\n");
    CHECK_INT(stats_of(rig).room_refused, 1);
    CLEANUP(reply_deinit) Reply get = rig_request_wait(rig, "/gantry/v1/state/k", STR(""));
    CHECK_INT(get.status, 200);
    atomic_store(&open_gate, true);
    CHECK_INT(caller_end(&first), 200);
    empty_until(rig);
    CLEANUP(reply_deinit) Reply again = put_wait(rig, str_make(text, sizeof text));
    CHECK_INT(again.status, 200);
    empty_until(rig);
}

static void test_door(void **state)
{
    (void)state;
    atomic_store(&open_gate, false);
    rig_run_configured(configure_task, door_wait, gated, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_served),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_door),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
