#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "base/diag.h"
#include "worker/wire.h"

typedef struct {
    Arena arena;
    Buf buf;
    JsonOut out;
} Wire;

static int setup(void **state)
{
    Wire *w = xcalloc(1, sizeof *w);
    arena_init(&w->arena, 1 << 20);
    buf_init(&w->buf, 1 << 20);
    w->out = json_out(&w->buf);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    Wire *w = *state;
    arena_deinit(&w->arena);
    buf_deinit(&w->buf);
    free(w);
    return 0;
}

static const Json *written(Wire *w)
{
    const Json *v = NULL;
    assert_true(json_out_ok(&w->out));
    assert_int_equal(json_parse(&w->arena, buf_str(&w->buf), NULL, &v, NULL), 0);
    return v;
}

static const Json *parsed(Wire *w, const char *text)
{
    const Json *v = NULL;
    assert_int_equal(json_parse(&w->arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static void assert_str(Str got, const char *want)
{
    assert_true(str_eq(got, str_of(want)));
}

static const Uuid id_1 = { { 1, 2, 3, 4, 5, 6, 0x77, 8, 0x99, 10, 11, 12, 13, 14, 15, 16 } };
static const Uuid id_2 = { { 9, 2, 3, 4, 5, 6, 0x77, 8, 0x99, 10, 11, 12, 13, 14, 15, 16 } };

static void test_task(void **state)
{
    Wire *w = *state;
    LinkTask task = {
        .ref = { id_1, 77 },
        .attempt = 2,
        .agent = STR("support"),
        .version_id = STR("9f3a"),
        .lane = LANE_LOW,
        .input = STR("{\"big\":12345678901234567890123}"),
        .limits = STR("{\"usdPerTask\":\"0.10\"}"),
        .session_id = STR("s-1"),
        .remaining_ms = LINK_NO_DEADLINE,
        .ran_ms = 4321,
        .spent = { .input_tokens = 5, .charged_tokens = 8, .tool_calls = 3, .cost_nusd = 99 },
    };
    LinkTask got;
    wire_task_write(&w->out, &task);
    assert_int_equal(wire_task_read(&w->arena, written(w), &got), 0);
    assert_true(uuid_eq(got.ref.id, id_1));
    assert_int_equal(got.ref.fence, 77);
    assert_int_equal(got.attempt, 2);
    assert_int_equal(got.lane, LANE_LOW);
    assert_str(got.agent, "support");
    assert_str(got.version_id, "9f3a");
    assert_str(got.input, "{\"big\":12345678901234567890123}"); /* no digit is lost */
    assert_str(got.limits, "{\"usdPerTask\":\"0.10\"}");
    assert_str(got.session_id, "s-1");
    assert_int_equal(got.metadata.len + got.user_id.len + got.tenant_id.len, 0);
    assert_true(got.remaining_ms == LINK_NO_DEADLINE && !got.given);
    assert_int_equal(got.ran_ms, 4321);
    assert_int_equal(got.spent.input_tokens, 5);
    assert_int_equal(got.spent.charged_tokens, 8);
    assert_int_equal(got.spent.tool_calls, 3);
    assert_int_equal(got.spent.cost_nusd, 99);
}

static void test_task_remaining(void **state)
{
    (void)state;
    Task task = { .started_at_ms = 1000, .deadline_at_ms = 5000, .ran_ms = 77 };
    assert_int_equal(link_task_from(&task).ran_ms, 77);
    assert_int_equal(link_task_from(&task).remaining_ms, 4000);
    assert_false(link_task_from(&task).given);
    task.due_at_ms = 6000; /* its own limit comes first */
    assert_false(link_task_from(&task).given);
    task.due_at_ms = 5000;
    assert_true(link_task_from(&task).given);
    task.deadline_at_ms = task.due_at_ms = 0;
    assert_true(link_task_from(&task).remaining_ms == LINK_NO_DEADLINE);
    assert_false(link_task_from(&task).given);
}

static void test_task_given(void **state)
{
    Wire *w = *state;
    LinkTask got, task = { .ref = { id_1, 77 },
                           .agent = STR("a"),
                           .version_id = STR("9f3a"),
                           .input = STR("1"),
                           .remaining_ms = 5,
                           .given = true };
    wire_task_write(&w->out, &task);
    assert_int_equal(wire_task_read(&w->arena, written(w), &got), 0);
    assert_true(got.given);
    assert_int_equal(got.remaining_ms, 5);
}

static void test_task_refused(void **state)
{
    static const char *const bad[] = {
        "{\"fence\":1,\"agent\":\"a\",\"versionId\":\"b\",\"lane\":\"low\"}",
        "{\"taskId\":\"01020304-0506-7708-990a-0b0c0d0e0f10\",\"agent\":\"a\",\"versionId\":\"b\"}",
        ("{\"taskId\":\"01020304-0506-7708-990a-0b0c0d0e0f10\",\"fence\":1,\"agent\":\"a\","
         "\"versionId\":\"b\",\"lane\":\"middle\"}"),
        "{\"taskId\":\"01020304-0506-7708-990a-0b0c0d0e0f10\",\"fence\":1,\"lane\":\"low\"}",
        "[]",
    };
    Wire *w = *state;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        LinkTask task;
        assert_int_equal(wire_task_read(&w->arena, parsed(w, bad[i]), &task), -EINVAL);
        assert_true(diag_text()[0] != '\0');
    }
}

static void test_slots(void **state)
{
    Wire *w = *state;
    LaneConfig slots = { .reserved = { 1, 2, 3 }, .shared = 4 }, got;
    wire_slots_write(&w->out, &slots);
    assert_int_equal(wire_slots_read(written(w), &got), 0);
    assert_memory_equal(&got, &slots, sizeof got);
    assert_int_equal(wire_slots_read(parsed(w, "{\"critical\":1,\"normal\":1,\"low\":1}"), &got),
                     -EINVAL);
    const char *negative = "{\"critical\":1,\"normal\":-1,\"low\":1,\"shared\":0}";
    assert_int_equal(wire_slots_read(parsed(w, negative), &got), -EINVAL);
}

static void test_heartbeat(void **state)
{
    Wire *w = *state;
    TaskRef held[] = { { id_1, 5 }, { id_2, 6 } };
    HoldStop stops[] = { { { id_2, 6 }, HOLD_CANCEL }, { { id_1, 5 }, HOLD_STALE } };
    HeartbeatReply beat = { .stops = stops, .stops_n = 2, .draining = true, .released = 3 }, got;
    wire_beat_write(&w->out, &beat);
    assert_int_equal(wire_beat_read(&w->arena, written(w), held, 2, &got), 0);
    assert_true(got.draining);
    assert_int_equal(got.released, 3);
    assert_int_equal(got.stops_n, 2);
    assert_int_equal(got.stops[0].task.fence, 6);
    assert_int_equal(got.stops[0].reason, HOLD_CANCEL);
    assert_int_equal(got.stops[1].task.fence, 5);
    assert_int_equal(got.stops[1].reason, HOLD_STALE);
    /* tasks that were not held are none of this worker's business */
    assert_int_equal(wire_beat_read(&w->arena, written(w), held, 0, &got), 0);
    assert_int_equal(got.stops_n, 0);
}

static void test_finish(void **state)
{
    Wire *w = *state;
    TaskFinish finish = {
        .task = { id_1, 5 },
        .outcome = TASK_OUTCOME_FAILED_RETRYABLE,
        .result = STR("[1.50,\"x\"]"),
        .error_code = STR("agent_failed"),
        .error_detail = STR("line 1\nline \"2\""),
        .stopped_by = STR("usdPerTask"),
        .retry_after_ms = 1500,
        .usage = { .tool_calls = 7 },
        .conduct = { .known = true,
                     .fingerprint = UINT64_C(0xfedcba9876543210),
                     .tools = STR("3 orders\n1 send mail\n") },
    };
    TaskFinish got;
    wire_finish_write(&w->out, &finish);
    assert_int_equal(wire_finish_read(&w->arena, written(w), &got), 0);
    assert_int_equal(got.task.fence, 5);
    assert_int_equal(got.outcome, TASK_OUTCOME_FAILED_RETRYABLE);
    assert_str(got.error_code, "agent_failed");
    assert_str(got.error_detail, "line 1\nline \"2\"");
    assert_str(got.stopped_by, "usdPerTask");
    assert_int_equal(got.retry_after_ms, 1500);
    assert_int_equal(got.usage.tool_calls, 7);
    assert_true(got.conduct.known);
    assert_int_equal(got.conduct.fingerprint, UINT64_C(0xfedcba9876543210));
    assert_str(got.conduct.tools, "3 orders\n1 send mail\n");
    assert_true(got.result.len > 0);
}

static void test_many_finishes(void **state)
{
    Wire *w = *state;
    TaskFinish one = { .task = { id_1, 5 } }, two = { .task = { id_1, 6 } }, got;
    const TaskFinish *list[] = { &one, &two };
    const int said[] = { 204, 409 };
    int read[2] = { 0 };
    wire_finishes_write(&w->out, list, 2);
    const Json *tasks = json_get(written(w), "tasks");
    assert_int_equal(json_len(tasks), 2);
    assert_int_equal(wire_finish_read(&w->arena, json_at(tasks, 1), &got), 0);
    assert_int_equal(got.task.fence, 6);

    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_finished_write(&w->out, said, 2);
    const Json *answer = written(w);
    assert_int_equal(wire_finished_read(answer, read, 2), 0);
    assert_int_equal(read[0], 204);
    assert_int_equal(read[1], 409);
    assert_int_equal(wire_finished_read(answer, read, 1), -EINVAL); /* not about what was asked */
    assert_int_equal(wire_finished_read(tasks, read, 2), -EINVAL);
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_finished_write(&w->out, &(int){ 0 }, 1);
    assert_int_equal(wire_finished_read(written(w), read, 1), -EINVAL);
}

static void test_a_worker_cannot_report_lost(void **state)
{
    Wire *w = *state;
    TaskFinish finish = { .task = { id_1, 5 }, .outcome = TASK_OUTCOME_LOST }, got;
    wire_finish_write(&w->out, &finish);
    assert_int_equal(wire_finish_read(&w->arena, written(w), &got), -EINVAL);
}

static void test_line(void **state)
{
    Wire *w = *state;
    TaskLogLine line = { .seq = 3, .at_ms = 1700000000123, .stream = TASK_LOG_STDERR };
    TaskLogLine got;
    line.text = STR("tab\there");
    wire_line_write(&w->out, &line);
    assert_int_equal(wire_line_read(written(w), &got), 0);
    assert_int_equal(got.seq, 3);
    assert_true(got.at_ms == 1700000000123);
    assert_int_equal(got.stream, TASK_LOG_STDERR);
    assert_str(got.text, "tab\there");
    assert_int_equal(got.left_out_n, 0);
    line.left_out_n = 5;
    line.left_out_bytes = 77;
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_line_write(&w->out, &line);
    assert_int_equal(wire_line_read(written(w), &got), 0);
    assert_int_equal(got.left_out_n, 5);
    assert_int_equal(got.left_out_bytes, 77);
    const char *odd =
        "{\"seq\":1,\"at\":\"2026-01-01T00:00:00Z\",\"stream\":\"radio\",\"text\":\"\"}";
    assert_int_equal(wire_line_read(parsed(w, odd), &got), -EINVAL);
}

static void test_call(void **state)
{
    Wire *w = *state;
    GatewayCall call = {
        .id = "0192f300-0000-7000-8000-000000000000",
        .attempt = 2,
        .api = API_MESSAGES,
        .provider = STR("anthropic"),
        .model = STR("claude-x"),
        .streamed = true,
        .cached = true,
        .degraded_by = "fallback",
        .request_id = STR("r-1"),
        .upstream_id = STR("req_9"),
        .status = 200,
        .outcome = GATEWAY_COMPLETE,
        .usage = { .input_tokens = 10,
                   .output_tokens = 20,
                   .cached_tokens = 3,
                   .reasoning_tokens = 4,
                   .tool_calls = 2 },
        .charged = { .tokens = 30, .nusd = 1234 },
        .started_real_ms = 1700000000123,
        .duration_us = 1500000,
    };
    Call row = call_from_gateway(&call), got;
    wire_call_write(&w->out, &call);
    assert_int_equal(wire_call_read(&w->arena, written(w), &got), 0);
    assert_str(got.call_id, call.id);
    assert_str(row.call_id, call.id);
    assert_str(got.request_id, "r-1");
    assert_str(row.request_id, "r-1");
    assert_str(got.upstream_id, "req_9");
    assert_str(row.upstream_id, "req_9");
    assert_int_equal(got.attempt, row.attempt);
    assert_true(got.at_ms == row.at_ms && got.at_ms == 1700000000123);
    assert_int_equal(got.duration_ms, 1500);
    assert_str(got.provider, "anthropic");
    assert_str(got.model, "claude-x");
    assert_str(got.protocol, "anthropic");
    assert_str(got.outcome, "ok");
    assert_true(got.streamed && got.cached);
    assert_true(str_eq(got.degraded, STR("fallback")));
    assert_int_equal(got.status, 200);
    assert_int_equal(got.input_tokens, 10);
    assert_int_equal(got.output_tokens, 20);
    assert_int_equal(got.cached_tokens, 3);
    assert_int_equal(got.reasoning_tokens, 4);
    assert_int_equal(got.cost_nusd, 1234);
    assert_true(got.tool_calls == 2 && row.tool_calls == 2);
    assert_true(got.charged_tokens == 30 && row.charged_tokens == 30);
    /* money is never guessed */
    const char *free =
        "{\"model\":\"m\",\"outcome\":\"ok\",\"startedAt\":\"2026-01-01T00:00:00Z\"}";
    assert_int_equal(wire_call_read(&w->arena, parsed(w, free), &got), -EINVAL);
}

static JournalNew recording(void)
{
    JournalNew rec = {
        .kind = REPLAY_MODEL,
        .name = STR("chat"),
        .call_id = STR("c-1"),
        .at_ms = 1700000000123,
        .status = 200,
        .content_type = STR("text/event-stream"),
        .streamed = true,
        .complete = true,
        .answer = { .bytes = STR("\x1f\x8b\0\xff"), .gzip = true, .n = 90 },
        .request = { .rest = { .bytes = STR("rest"), .n = 4 },
                     .base = STR("c-0"),
                     .share = { 10, 2 },
                     .n = 16 },
    };
    memset(rec.key, 0xab, sizeof rec.key);
    return rec;
}

static void check_recording(const JournalNew *got)
{
    JournalNew rec = recording();
    assert_int_equal(got->kind, REPLAY_MODEL);
    assert_str(got->name, "chat");
    assert_str(got->call_id, "c-1");
    assert_memory_equal(got->key, rec.key, sizeof rec.key);
    assert_true(got->at_ms == rec.at_ms && got->status == 200);
    assert_str(got->content_type, "text/event-stream");
    assert_true(got->streamed && got->complete && got->answer.gzip && !got->request.rest.gzip);
    assert_true(str_eq(got->answer.bytes, rec.answer.bytes) && got->answer.n == 90);
    assert_true(str_eq(got->request.rest.bytes, rec.request.rest.bytes));
    assert_str(got->request.base, "c-0");
    assert_int_equal(got->request.share.prefix, 10);
    assert_int_equal(got->request.share.suffix, 2);
    assert_int_equal(got->request.n, 16);
}

static void test_recording(void **state)
{
    Wire *w = *state;
    JournalNew rec = recording();
    GatewayCall call = { .id = "0192f300-0000-7000-8000-000000000000",
                         .provider = STR("p"),
                         .model = STR("m"),
                         .recording = &rec,
                         .replay_missed = true };
    Call got;
    wire_call_write(&w->out, &call);
    assert_int_equal(wire_call_read(&w->arena, written(w), &got), 0);
    assert_true(got.replay_missed && !got.replayed);
    assert_non_null(got.recording);
    check_recording(got.recording);
}

/* What is read is what was written, less one member, or with one that is not what it should be. */
static void test_recording_refused(void **state)
{
    Wire *w = *state;
    static const char *const bad[] = {
        "{}",
        "{\"name\":\"chat\"}",
        "{\"name\":\"chat\",\"kind\":\"other\"}",
        "{\"name\":\"chat\",\"kind\":\"tool\",\"at\":\"2026-01-01T00:00:00Z\",\"key\":\"ab\"}",
        "{\"name\":\"chat\",\"kind\":\"tool\",\"at\":\"2026-01-01T00:00:00Z\",\"key\":"
        "\"abababababababababababababababababababababababababababababababab\",\"answer\":"
        "{\"bytes\":1,\"data\":\"not base64!\"}}",
        "{\"name\":\"chat\",\"kind\":\"tool\",\"at\":\"2026-01-01T00:00:00Z\",\"key\":"
        "\"abababababababababababababababababababababababababababababababab\",\"answer\":"
        "{\"bytes\":0,\"data\":\"\"},\"request\":{\"bytes\":4,\"prefix\":-1}}",
    };
    JournalNew got;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(wire_recording_read(&w->arena, parsed(w, bad[i]), &got), -EINVAL);
}

static void test_journal(void **state)
{
    Wire *w = *state;
    JournalRow rows[2] = { { .n = 1, .kind = REPLAY_TOOL, .complete = true },
                           { .n = 7, .call_id = STR("c-7") } };
    JournalReply reply = { .rows = rows, .rows_n = 2 }, got;
    JournalAsk ask = { .what = JOURNAL_LIST };
    memset(rows[1].key, 9, sizeof rows[1].key);
    wire_journal_write(&w->out, &ask, &reply);
    assert_int_equal(wire_journal_read(&w->arena, written(w), &ask, &got), 0);
    assert_int_equal(got.rows_n, 2);
    assert_true(got.rows[0].kind == REPLAY_TOOL && got.rows[0].complete);
    assert_true(got.rows[1].n == 7 && got.rows[1].key[31] == 9 && !got.rows[1].complete);
    assert_true(str_eq(got.rows[1].call_id, STR("c-7")) && str_empty(got.rows[0].call_id));

    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    ask.what = JOURNAL_ANSWER;
    reply = (JournalReply){ .row = { .n = 7, .status = 200, .content_type = STR("t/x") },
                            .answer = { .bytes = STR("a\0b"), .n = 3 } };
    wire_journal_write(&w->out, &ask, &reply);
    assert_int_equal(wire_journal_read(&w->arena, written(w), &ask, &got), 0);
    assert_true(got.row.status == 200 && !got.row.streamed && got.answer.n == 3);
    assert_str(got.row.content_type, "t/x");
    assert_true(str_eq(got.answer.bytes, STR("a\0b")));

    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    ask.what = JOURNAL_REQUEST;
    reply = (JournalReply){ .request = STR("{\"a\":\"\\u0001\"}") };
    wire_journal_write(&w->out, &ask, &reply);
    assert_int_equal(wire_journal_read(&w->arena, written(w), &ask, &got), 0);
    assert_true(str_eq(got.request, reply.request));
    assert_int_equal(wire_journal_read(&w->arena, parsed(w, "{}"), &ask, &got), -EINVAL);
    ask.what = JOURNAL_LIST;
    assert_int_equal(wire_journal_read(&w->arena, parsed(w, "{}"), &ask, &got), -EINVAL);
}

static GatewayLimit some_limit(void)
{
    GatewayLimit limit = { .provider = "openai",
                           .model = "gpt",
                           .configured = { { 500, 0, 0, 0 } },
                           .learned = { { 400, 20000, 0, 0 } },
                           .used = { { 3, 99, 60, 39 } },
                           .concurrent_limit = 8,
                           .in_flight = 2,
                           .waiting = { 1, 2, 3 },
                           .waiting_all = 6,
                           .blocked_ms = 1500,
                           .silent_ms = 700,
                           .throttled = 4 };
    for (int unit = 0; unit < LIMIT_UNITS; unit++)
        limit.asks[unit] = (ShareAsk){ 10 + unit, 20, 30, 40, { 1, 2, INT64_MAX / 4 } };
    return limit;
}

static void test_rates(void **state)
{
    Wire *w = *state;
    GatewayLimit limit = some_limit();
    BreakerInfo breaker = { .kind = "tool",
                            .name = "mcp:files",
                            .state = BREAKER_HALF_OPEN,
                            .counts = { 9, 5, 1 },
                            .since_real_ms = 1767225600000,
                            .next_probe_ms = 7,
                            .probes_out = 1,
                            .trips = 2,
                            .refused = 33 };
    RateTelling told = { .limits = &limit, .limits_n = 1, .breakers = &breaker, .breakers_n = 1 },
                got;
    told.stats.waiting[LANE_LOW] = 6;
    told.stats.heartbeats = 77;
    wire_telling_write(&w->out, &told);
    assert_int_equal(wire_telling_read(&w->arena, written(w), &got), 0);
    assert_int_equal(got.limits_n, 1);
    assert_memory_equal(&got.limits[0], &limit, sizeof limit);
    assert_int_equal(got.breakers_n, 1);
    assert_string_equal(got.breakers[0].kind, "tool");
    assert_string_equal(got.breakers[0].name, "mcp:files");
    assert_int_equal(got.breakers[0].state, BREAKER_HALF_OPEN);
    assert_int_equal(got.breakers[0].counts.errors, 5);
    assert_int_equal(got.breakers[0].refused, 33);
    assert_memory_equal(&got.stats, &told.stats, sizeof got.stats);
}

static void test_shares(void **state)
{
    Wire *w = *state;
    GatewayLimit limit = some_limit();
    RateTelling told = { .limits = &limit, .limits_n = 1 };
    GatewayShare share = { .v = { 5, 6, 7, 8, INT64_MAX / 4 }, .learned = { { 9, 0, 1, 2 } } }, got;
    share.silent_ms = 1234;
    share.open_ms = 77;
    int64_t ttl_ms;
    wire_shares_write(&w->out, 10000, &share, 1);
    assert_int_equal(wire_shares_read(written(w), &told, &got, &ttl_ms), 0);
    assert_int_equal(ttl_ms, 10000);
    assert_string_equal(got.provider, "openai");
    assert_string_equal(got.model, "gpt");
    assert_memory_equal(got.v, share.v, sizeof share.v);
    assert_memory_equal(got.learned.v, share.learned.v, sizeof share.learned.v);
    assert_int_equal(got.silent_ms, 1234);
    assert_int_equal(got.open_ms, 77);
    const char *old = "{\"ttlMs\":1,\"shares\":[[1,2,3,4,5]]}"; /* of an older control plane */
    assert_int_equal(wire_shares_read(parsed(w, old), &told, &got, &ttl_ms), 0);
    assert_int_equal(got.silent_ms, 0);
    assert_int_equal(got.open_ms, 0);
    static const char *const bad[] = { "{}",
                                       "{\"ttlMs\":1,\"shares\":[[1,2,3,4,5]],\"openMs\":[-1]}",
                                       "{\"ttlMs\":1,\"shares\":[[1,2,3,4,5]],\"known\":[[1]]}",
                                       "{\"ttlMs\":-1,\"shares\":[[1,2,3,4,5]]}",
                                       "{\"ttlMs\":1,\"shares\":[]}",
                                       "{\"ttlMs\":1,\"shares\":[[1,2,3,4]]}",
                                       "{\"ttlMs\":1,\"shares\":[[1,2,3,4,\"5\"]]}" };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(wire_shares_read(parsed(w, bad[i]), &told, &got, &ttl_ms), -EINVAL);
}

static void test_rates_refused(void **state)
{
    Wire *w = *state;
    static const char *const bad[] = {
        "{}",
        "{\"limits\":[],\"breakers\":[]}",
        "{\"limits\":[],\"breakers\":[],\"stats\":[1]}",
        "{\"limits\":{},\"breakers\":[],\"stats\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
        "{\"limits\":[{}],\"breakers\":[],\"stats\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
        "{\"limits\":[],\"breakers\":[{\"kind\":\"other\"}],"
        "\"stats\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
        "{\"limits\":[],\"breakers\":[{\"kind\":\"tool\",\"state\":\"ajar\"}],"
        "\"stats\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
        "{\"limits\":[],\"breakers\":[{\"kind\":\"tool\",\"state\":\"open\",\"name\":\"a\\u0000b\"}],"
        "\"stats\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
    };
    RateTelling got;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(wire_telling_read(&w->arena, parsed(w, bad[i]), &got), -EINVAL);
}

#define WIRE_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

static void test_cache(void **state)
{
    Wire *w = *state;
    CacheFigures figures = { 1, 2, 3, 4, 5, 6, 7, 8, 9 }, got;
    int64_t seen;
    wire_cache_write(&w->out, &figures, 12);
    wire_cache_read(written(w), &got, &seen);
    assert_int_equal(seen, 12);
    assert_memory_equal(&got, &figures, sizeof got);
    wire_cache_read(parsed(w, "{\"seen\":-3,\"bytes\":-1,\"hits\":\"x\"}"), &got, &seen);
    assert_int_equal(seen | got.bytes | (int64_t)got.hits, 0);

    CachePurge purges[] = { { .by_agent = true, .agent = STR("a") },
                            { .by_tenant = true, .tenant = STR("") },
                            { .by_tenant = false } };
    CacheNews news = { 7, purges, 3 }, read;
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_news_write(&w->out, &news);
    assert_int_equal(wire_news_read(&w->arena, written(w), &read), 0);
    assert_int_equal(read.revision, 7);
    assert_int_equal(read.n, 3);
    assert_true(read.purges[0].by_agent && !read.purges[0].by_tenant);
    assert_str(read.purges[0].agent, "a");
    assert_true(read.purges[1].by_tenant && !read.purges[1].by_agent);
    assert_true(!read.purges[2].by_tenant && !read.purges[2].by_agent);
    assert_int_equal(wire_news_read(&w->arena, parsed(w, "{\"revision\":1}"), &read), -EINVAL);
    assert_int_equal(wire_news_read(&w->arena, parsed(w, "{\"purges\":[]}"), &read), -EINVAL);
}

static void test_state(void **state)
{
    Wire *w = *state;
    TaskRef ref = { id_1, 7 }, read_ref;
    StateAsk ask = { .what = STATE_PUT,
                     .key = STR("k"),
                     .value = { "a\0b", 3 },
                     .content_type = STR("x/y"),
                     .if_version = 5 },
             got;
    wire_state_ask_write(&w->out, ref, &ask);
    const Json *v = written(w);
    assert_int_equal(wire_ref_read(v, &read_ref), 0);
    assert_int_equal(read_ref.fence, 7);
    assert_int_equal(wire_state_ask_read(&w->arena, v, &got), 0);
    assert_int_equal(got.what, STATE_PUT);
    assert_int_equal(got.if_version, 5);
    assert_true(str_eq(got.value, ask.value) && str_eq(got.content_type, ask.content_type));

    StateRow rows[] = { { .key = STR("a"), .version = 1, .updated_at_ms = 1000 },
                        { .key = STR("b"), .version = 2, .bytes = 9 } };
    StateReply reply = { .outcome = STATE_MISMATCH,
                         .created = true,
                         .row = { .version = 3, .value = { "a\0b", 3 } },
                         .rows = rows,
                         .rows_n = 2 },
               read;
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_state_reply_write(&w->out, &reply);
    assert_int_equal(wire_state_reply_read(&w->arena, written(w), &read), 0);
    assert_int_equal(read.outcome, STATE_MISMATCH);
    assert_true(read.created && read.row.version == 3 && str_eq(read.row.value, reply.row.value));
    assert_int_equal(read.rows_n, 2);
    assert_str(read.rows[1].key, "b");
    assert_int_equal(read.rows[0].updated_at_ms, 1000);
}

static void test_state_refused(void **state)
{
    Wire *w = *state;
    static const char *const bad[] = {
        "{}",
        "{\"what\":\"steal\",\"key\":\"k\"}",
        "{\"what\":\"get\"}",
        "{\"what\":\"get\",\"key\":\"\"}",
        "{\"what\":\"put\",\"key\":\"k\",\"value\":\"!\"}",
        "{\"what\":\"put\",\"key\":\"k\",\"contentType\":\"a\\r\\nb\"}",
        "{\"what\":\"put\",\"key\":\"k\",\"ifVersion\":-3}",
    };
    StateAsk ask;
    StateReply reply;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(wire_state_ask_read(&w->arena, parsed(w, bad[i]), &ask), -EINVAL);
    assert_int_equal(wire_state_reply_read(&w->arena, parsed(w, "{}"), &reply), -EINVAL);
    assert_int_equal(wire_state_reply_read(&w->arena, parsed(w, "{\"outcome\":\"ok\"}"), &reply),
                     -EINVAL);
}

#define PRINT "0123456789abcdef0123456789abcdef"

static void test_child(void **state)
{
    Wire *w = *state;
    TaskRef ref = { .id = { { 1, 2 } }, .fence = 7 }, ref_read;
    ChildNew child = { .key = STR("k"),
                       .fingerprint = STR(PRINT),
                       .agent = STR("a"),
                       .input = STR("{\"q\":1.5}"),
                       .time_limit_ms = 5,
                       .remaining_ms = 6,
                       .due_ms = 4,
                       .offered = { 10, CAP_NONE, 3 },
                       .find_only = true },
             got;
    wire_child_new_write(&w->out, ref, &child);
    const Json *v = written(w);
    assert_int_equal(wire_ref_read(v, &ref_read), 0);
    assert_int_equal(ref_read.fence, 7);
    assert_int_equal(wire_child_new_read(&w->arena, v, &got), 0);
    assert_str(got.key, "k");
    assert_str(got.fingerprint, PRINT);
    assert_str(got.agent, "a");
    assert_str(got.input, "{\"q\":1.5}");
    assert_int_equal(got.metadata.len, 0);
    assert_int_equal(got.time_limit_ms, 5);
    assert_int_equal(got.remaining_ms, 6);
    assert_int_equal(got.due_ms, 4);
    assert_true(got.find_only);
    assert_memory_equal(&got.offered, &child.offered, sizeof got.offered);
}

static void test_child_started(void **state)
{
    Wire *w = *state;
    LinkChild child = { .id = { { 9 } },
                        .state = TASK_RUNNING,
                        .existing = true,
                        .agent = STR("a"),
                        .version_id = STR("v"),
                        .allotted = { 1, 2, CAP_NONE } },
              got;
    wire_child_write(&w->out, &child);
    assert_int_equal(wire_child_read(written(w), &got), 0);
    assert_true(uuid_eq(got.id, child.id) && got.existing && got.status == 0);
    assert_int_equal(got.state, TASK_RUNNING);
    assert_memory_equal(&got.allotted, &child.allotted, sizeof got.allotted);
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    child = (LinkChild){ .status = 422, .code = STR("c"), .detail = STR("d") };
    wire_child_write(&w->out, &child);
    assert_int_equal(wire_child_read(written(w), &got), 0);
    assert_int_equal(got.status, 422);
    assert_str(got.code, "c");
    assert_str(got.detail, "d");
}

static void test_children(void **state)
{
    Wire *w = *state;
    FamilyRow rows[] = { { .id = { { 1 } },
                           .state = TASK_SUCCEEDED,
                           .agent = STR("a"),
                           .allotted = { 1, 2, 3 },
                           .charged = { 4, 5, 6 } },
                         { .id = { { 2 } }, .state = TASK_QUEUED, .agent = STR("b") } };
    FamilyRow *got;
    size_t n;
    wire_children_write(&w->out, rows, 2);
    assert_int_equal(wire_children_read(&w->arena, written(w), &got, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(got[0].state, TASK_SUCCEEDED);
    assert_int_equal(got[0].charged.nusd, 5);
    assert_int_equal(got[1].state, TASK_QUEUED);
    static const char *const bad[] = {
        "{}", "{\"children\":{}}", "{\"children\":[{}]}",
        ("{\"children\":[{\"taskId\":\"01234567-89ab-cdef-0123-456789abcdef\","
         "\"status\":\"queued\",\"allotted\":{\"tokens\":-1}}]}")
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(wire_children_read(&w->arena, parsed(w, bad[i]), &got, &n), -EINVAL);
}

static void test_escalation(void **state)
{
    Wire *w = *state;
    TaskRef ref = { id_1, 7 };
    EscalationAsk ask = { .key = { 1, 2 },
                          .occurrence = 3,
                          .question = STR("may I?"),
                          .context = STR("{\"a\":1}"),
                          .fallback = STR("null"),
                          .timeout_ms = 5 },
                  got;
    wire_escalation_ask_write(&w->out, ref, &ask);
    assert_int_equal(wire_escalation_ask_read(&w->arena, written(w), &got), 0);
    assert_memory_equal(got.key, ask.key, sizeof got.key);
    assert_true(got.occurrence == 3 && got.timeout_ms == 5);
    assert_str(got.question, "may I?");
    assert_str(got.context, "{\"a\":1}");
    assert_str(got.fallback, "null"); /* a default, and none, are told apart */
    ask.fallback = ask.context = STR_NULL;
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_escalation_ask_write(&w->out, ref, &ask);
    assert_int_equal(wire_escalation_ask_read(&w->arena, written(w), &got), 0);
    assert_true(got.fallback.len == 0 && got.context.len == 0);

    EscalationReply reply = { ESCALATION_ANSWERED, STR("[1]"), STR("ada") }, read;
    buf_clear(&w->buf);
    w->out = json_out(&w->buf);
    wire_escalation_reply_write(&w->out, &reply);
    assert_int_equal(wire_escalation_reply_read(&w->arena, written(w), &read), 0);
    assert_int_equal(read.state, ESCALATION_ANSWERED);
    assert_str(read.answer, "[1]");
    assert_str(read.by, "ada");
}

#define HEX64 "0102030405060708091011121314151617181920212223242526272829303132"

static void test_escalation_refused(void **state)
{
    Wire *w = *state;
    static const char *const bad[] = {
        "{}",
        "{\"key\":\"00\",\"question\":\"q\",\"occurrence\":1,\"timeoutMs\":1}",
        "{\"key\":\"" HEX64 "\",\"question\":\"\",\"occurrence\":1,\"timeoutMs\":1}",
        "{\"key\":\"" HEX64 "\",\"question\":\"q\",\"occurrence\":0,\"timeoutMs\":1}",
        "{\"key\":\"" HEX64 "\",\"question\":\"q\",\"occurrence\":1,\"timeoutMs\":0}",
        "{\"key\":\"" HEX64 "\",\"question\":\"q\",\"occurrence\":1,\"timeoutMs\":99999999999}",
    };
    EscalationAsk ask;
    EscalationReply reply;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(wire_escalation_ask_read(&w->arena, parsed(w, bad[i]), &ask), -EINVAL);
    assert_int_equal(wire_escalation_reply_read(&w->arena, parsed(w, "{\"state\":\"x\"}"), &reply),
                     -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WIRE_TEST(test_task),
        WIRE_TEST(test_task_remaining),
        WIRE_TEST(test_task_given),
        WIRE_TEST(test_task_refused),
        WIRE_TEST(test_slots),
        WIRE_TEST(test_heartbeat),
        WIRE_TEST(test_finish),
        WIRE_TEST(test_many_finishes),
        WIRE_TEST(test_a_worker_cannot_report_lost),
        WIRE_TEST(test_rates),
        WIRE_TEST(test_rates_refused),
        WIRE_TEST(test_shares),
        WIRE_TEST(test_line),
        WIRE_TEST(test_call),
        WIRE_TEST(test_recording),
        WIRE_TEST(test_recording_refused),
        WIRE_TEST(test_journal),
        WIRE_TEST(test_cache),
        WIRE_TEST(test_state),
        WIRE_TEST(test_state_refused),
        WIRE_TEST(test_child),
        WIRE_TEST(test_child_started),
        WIRE_TEST(test_children),
        WIRE_TEST(test_escalation),
        WIRE_TEST(test_escalation_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
