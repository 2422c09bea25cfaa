/* The pure parts of observe/: trace context, the JSON of a task. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "observe/task_json.h"
#include "observe/trace_context.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define PARENT "b7ad6b7169203331"

static void test_traceparent(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
    } rows[] = {
        { "00-" TRACE "-" PARENT "-01", true },
        { "00-" TRACE "-" PARENT "-00", true },
        { "00-" TRACE "-" PARENT "-ff", true },
        { "cc-" TRACE "-" PARENT "-01", true },
        { "cc-" TRACE "-" PARENT "-01-more", true },
        { "", false },
        { "00-" TRACE "-" PARENT "-01-more", false },
        { "cc-" TRACE "-" PARENT "-01more", false },
        { "ff-" TRACE "-" PARENT "-01", false },
        { "00-" TRACE "-" PARENT "-1", false },
        { "00-" TRACE "-" PARENT "-0g", false },
        { "0-" TRACE "-" PARENT "-001", false },
        { "00_" TRACE "-" PARENT "-01", false },
        { "00-" TRACE "_" PARENT "-01", false },
        { "00-0AF7651916CD43DD8448EB211C80319C-" PARENT "-01", false },
        { "00-00000000000000000000000000000000-" PARENT "-01", false },
        { "00-" TRACE "-0000000000000000-01", false },
    };
    for (size_t i = 0; i < ARRAY_N(rows); i++)
        if (traceparent_ok(str_of(rows[i].text)) != rows[i].ok) fail_msg("%s", rows[i].text);
}

static void test_traceparent_continued_or_made(void **state)
{
    (void)state;
    uint8_t random[TRACEPARENT_RANDOM_BYTES] = { 0 };
    char out[TRACEPARENT_MAX];
    traceparent_continue(STR("cc-" TRACE "-" PARENT "-ff-x"), random, out);
    assert_string_equal(out, "00-" TRACE "-" PARENT "-03");
    traceparent_continue(STR("00-" TRACE "-" PARENT "-00"), random, out);
    assert_string_equal(out, "00-" TRACE "-" PARENT "-00");
    traceparent_continue(STR("nonsense"), random, out); /* even of no randomness it is valid */
    assert_true(traceparent_ok(str_of(out)));
    for (size_t i = 0; i < sizeof random; i++) random[i] = (uint8_t)(0x10 + i);
    traceparent_continue(STR(""), random, out);
    assert_string_equal(out, "00-1111121314151617"
                             "18191a1b1c1d1e1f-2121222324252627-03");
}

static void assert_json(const Task *task, unsigned flags, const char *want)
{
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 65536);
    JsonOut out = json_out(&text);
    task_json(&out, task, flags);
    assert_true(json_out_ok(&out));
    assert_string_equal(text.ptr, want);
}

#define ID "01020304-0506-0708-090a-0b0c0d0e0f10"
#define HEAD "{\"taskId\":\"" ID "\",\"status\":"
#define NO_USAGE                                                                         \
    "\"usage\":{\"inputTokens\":0,\"outputTokens\":0,\"cachedTokens\":0,\"llmCalls\":0," \
    "\"toolCalls\":0,\"replayedCalls\":0,\"cachedCalls\":0,\"degradedCalls\":0},\"costUsd\":\"0.000000000\",\"costNusd\":0,"

static Task some_task(void)
{
    Task task = { .agent = STR("a"), .version_id = STR("v"), .lane = LANE_LOW, .quality = NAN };
    for (uint8_t i = 0; i < 16; i++) task.id.bytes[i] = (uint8_t)(i + 1);
    task.created_at_ms = 1;
    return task;
}

static void test_task_json(void **state)
{
    (void)state;
    Task task = some_task();
    task.state = TASK_RUNNING;
    task.attempt = 2;
    task.started_at_ms = 1000;
    task.cancel_requested = true;
    task.session_id = STR("s\"");
    assert_json(&task, TASK_JSON_RESULT,
                HEAD "\"running\",\"agent\":\"a\",\"versionId\":\"v\",\"priority\":\"low\","
                     "\"attempt\":2,\"createdAt\":\"1970-01-01T00:00:00.001Z\","
                     "\"startedAt\":\"1970-01-01T00:00:01.000Z\",\"finishedAt\":null,"
                     "\"cancelRequested\":true," NO_USAGE "\"quality\":null,"
                     "\"sessionId\":\"s\\\"\"}");
    task = some_task();
    task.state = TASK_SUCCEEDED;
    task.finished_at_ms = 2000;
    task.quality = 0.5;
    task.result = STR("{\"x\":1.50}");
    task.metadata = STR("{\"m\":1}");
    assert_json(&task, TASK_JSON_RESULT,
                HEAD "\"succeeded\",\"agent\":\"a\",\"versionId\":\"v\",\"priority\":\"low\","
                     "\"attempt\":0,\"createdAt\":\"1970-01-01T00:00:00.001Z\",\"startedAt\":null,"
                     "\"finishedAt\":\"1970-01-01T00:00:02.000Z\","
                     "\"result\":{\"x\":1.50}," NO_USAGE "\"quality\":0.5,\"metadata\":{\"m\":1}}");
    assert_json(&task, TASK_JSON_BRIEF,
                HEAD "\"succeeded\",\"agent\":\"a\",\"versionId\":\"v\",\"priority\":\"low\","
                     "\"attempt\":0,\"createdAt\":\"1970-01-01T00:00:00.001Z\",\"startedAt\":null,"
                     "\"finishedAt\":\"1970-01-01T00:00:02.000Z\","
                     "\"resultTruncated\":true," NO_USAGE "\"quality\":0.5}");
}

/* A result that is not there is null when it was looked for, and not mentioned otherwise. */
static void test_task_without_a_result(void **state)
{
    (void)state;
    Task task = some_task();
    CLEANUP(buf_deinit) Buf text;
    task.state = TASK_SUCCEEDED;
    for (unsigned flags = 0; flags <= TASK_JSON_RESULT; flags += TASK_JSON_RESULT) {
        buf_init(&text, 65536);
        JsonOut out = json_out(&text);
        task_json(&out, &task, flags);
        bool there = str_find(buf_str(&text), STR("\"result\":null")) >= 0;
        assert_int_equal(there, flags == TASK_JSON_RESULT);
        buf_deinit(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traceparent),
        cmocka_unit_test(test_traceparent_continued_or_made),
        cmocka_unit_test(test_task_json),
        cmocka_unit_test(test_task_without_a_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
