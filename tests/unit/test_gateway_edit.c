#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "gateway/gateway_edit.h"
#include "gateway/gateway_problem.h"

/* --- edits ------------------------------------------------------------------------------------ */

static void check_edit(Api api, const char *body, Edits edits, const char *want)
{
    Arena arena;
    const Json *json;
    RequestInfo info;
    RequestFault fault;
    arena_init(&arena, 1 << 20);
    assert_int_equal(json_parse(&arena, str_of(body), NULL, &json, NULL), 0);
    assert_int_equal(request_info_read(&arena, api, json, &info, &fault), 0);
    CLEANUP(buf_deinit) Buf scratch;
    buf_init(&scratch, strlen(body) + 1024);
    Str got;
    assert_int_equal(body_edit(str_of(body), &info, &edits, &scratch, &got), 0);
    char text[2048];
    str_copy(text, sizeof text, got);
    assert_string_equal(text, want);
    if (strcmp(body, want) == 0) assert_ptr_equal(got.ptr, body); /* nothing was copied */
    assert_int_equal(json_parse(&arena, got, NULL, &json, NULL), 0);
    arena_deinit(&arena);
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"\\u00e9 \"}]"

static void test_model(void **state)
{
    (void)state;
    check_edit(API_CHAT, "{\"n\":1, \"model\" : \"m\", " MESSAGES "}",
               (Edits){ .model = STR("other/\"m\"") },
               "{\"n\":1, \"model\" : \"other/\\\"m\\\"\", " MESSAGES "}");
}

static void test_nothing_to_edit(void **state)
{
    (void)state;
    check_edit(API_CHAT, "{ \"model\":\"m\", " MESSAGES " }", (Edits){ 0 },
               "{ \"model\":\"m\", " MESSAGES " }");
    /* an embedding has no output to cap */
    check_edit(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":\"x\"}", (Edits){ .out_cap = 5 },
               "{\"model\":\"m\",\"input\":\"x\"}");
}

static void test_output_cap(void **state)
{
    (void)state;
    Edits edits = { .out_cap = 77 };
    check_edit(API_CHAT, "{\"model\":\"m\", \"max_tokens\" : 4e3 ," MESSAGES "}", edits,
               "{\"model\":\"m\", \"max_tokens\" : 77 ," MESSAGES "}");
    check_edit(API_CHAT, "{\"max_completion_tokens\":900,\"model\":\"m\"," MESSAGES "}", edits,
               "{\"max_completion_tokens\":77,\"model\":\"m\"," MESSAGES "}");
    check_edit(API_CHAT, "{\"model\":\"m\"," MESSAGES "}", edits,
               "{\"max_completion_tokens\":77,\"model\":\"m\"," MESSAGES "}");
    check_edit(API_MESSAGES, "{\"model\":\"m\",\"max_tokens\":500," MESSAGES "}", edits,
               "{\"model\":\"m\",\"max_tokens\":77," MESSAGES "}");
    check_edit(API_RESPONSES, "{\"model\":\"m\",\"input\":\"x\"}", edits,
               "{\"max_output_tokens\":77,\"model\":\"m\",\"input\":\"x\"}");
    edits.cap_member = "max_tokens";
    check_edit(API_CHAT, "{\"model\":\"m\"," MESSAGES "}", edits,
               "{\"max_tokens\":77,\"model\":\"m\"," MESSAGES "}");
    /* a server that overlooks the client's member gets the cap in its own as well */
    check_edit(API_CHAT, "{\"model\":\"m\",\"max_completion_tokens\":500," MESSAGES "}", edits,
               "{\"max_tokens\":77,\"model\":\"m\",\"max_completion_tokens\":77," MESSAGES "}");
    edits.out_cap = 0;
    check_edit(API_CHAT, "{\"model\":\"m\",\"max_completion_tokens\":500," MESSAGES "}", edits,
               "{\"max_tokens\":500,\"model\":\"m\",\"max_completion_tokens\":500," MESSAGES "}");
    check_edit(API_CHAT, "{\"model\":\"m\",\"max_tokens\":500," MESSAGES "}", edits,
               "{\"model\":\"m\",\"max_tokens\":500," MESSAGES "}");
}

static void test_include_usage(void **state)
{
    (void)state;
    Edits edits = { .include_usage = true };
    check_edit(
        API_CHAT, "{\"model\":\"m\",\"stream\":true," MESSAGES "}", edits,
        "{\"stream_options\":{\"include_usage\":true},\"model\":\"m\",\"stream\":true," MESSAGES
        "}");
    check_edit(API_CHAT, "{\"model\":\"m\",\"stream_options\":{\"a\":[1, 2]}," MESSAGES "}", edits,
               "{\"model\":\"m\",\"stream_options\":{\"include_usage\":true,\"a\":[1, 2]}," MESSAGES
               "}");
    check_edit(API_CHAT,
               "{\"model\":\"m\",\"stream_options\":{\"include_usage\":false}," MESSAGES "}", edits,
               "{\"model\":\"m\",\"stream_options\":{\"include_usage\":true}," MESSAGES "}");
    check_edit(API_CHAT, "{\"model\":\"m\",\"stream_options\":null," MESSAGES "}", edits,
               "{\"model\":\"m\",\"stream_options\":{\"include_usage\":true}," MESSAGES "}");
}

static void test_no_tools(void **state)
{
    (void)state;
    Edits edits = { .no_tools = true };
    check_edit(API_CHAT, "{\"model\":\"m\",\"tool_choice\":\"required\"," MESSAGES "}", edits,
               "{\"model\":\"m\",\"tool_choice\":\"none\"," MESSAGES "}");
    check_edit(API_MESSAGES, "{\"model\":\"m\",\"max_tokens\":5," MESSAGES "}", edits,
               "{\"tool_choice\":{\"type\":\"none\"},\"model\":\"m\",\"max_tokens\":5," MESSAGES
               "}");
    check_edit(
        API_CHAT, "{\"model\":\"m\",\"functions\":[{\"name\":\"f\"}]," MESSAGES "}", edits,
        "{\"function_call\":\"none\",\"model\":\"m\",\"functions\":[{\"name\":\"f\"}]," MESSAGES
        "}");
    /* all at once */
    edits = (Edits){ .out_cap = 3, .include_usage = true, .no_tools = true };
    check_edit(API_CHAT, "{\"model\":\"m\"," MESSAGES "}", edits,
               "{\"tool_choice\":\"none\",\"stream_options\":{\"include_usage\":true},"
               "\"max_completion_tokens\":3,\"model\":\"m\"," MESSAGES "}");
}

static void test_edit_without_room(void **state)
{
    (void)state;
    RequestInfo info = { .api = API_CHAT };
    Edits edits = { .out_cap = 3 };
    CLEANUP(buf_deinit) Buf scratch;
    buf_init(&scratch, 8);
    Str got = STR("untouched");
    assert_int_equal(body_edit(STR("{\"model\":\"m\"}"), &info, &edits, &scratch, &got), -ENOMEM);
    assert_true(str_eq(got, STR("untouched")));
}

/* --- problems --------------------------------------------------------------------------------- */

static void check_body(Problem problem, Api api, const char *param, const char *want)
{
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 4096);
    assert_true(problem_body(&out, problem, api, STR("a \"b\""), param, STR("r1")));
    assert_string_equal(out.ptr, want);
}

static void test_problem_bodies(void **state)
{
    (void)state;
    check_body(
        PROBLEM_CAP, API_CHAT, NULL,
        "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"insufficient_quota\",\"param\":null,"
        "\"code\":\"budget_exceeded\"}}");
    check_body(
        PROBLEM_CAP, API_RESPONSES, NULL,
        "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"insufficient_quota\",\"param\":null,"
        "\"code\":\"budget_exceeded\"}}");
    check_body(
        PROBLEM_CAP, API_MESSAGES, NULL,
        "{\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"a \\\"b\\\"\"},"
        "\"request_id\":\"r1\"}");
    check_body(
        PROBLEM_INVALID, API_CHAT, "model",
        "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"invalid_request_error\",\"param\":"
        "\"model\",\"code\":\"invalid_request\"}}");
}

static void test_problem_statuses(void **state)
{
    (void)state;
    static const struct {
        int status;
        bool final; /* told not to be tried again, where the status alone does not say so */
    } want[PROBLEM_N_] = {
        [PROBLEM_INVALID] = { 400, false },    [PROBLEM_TOO_LARGE] = { 413, false },
        [PROBLEM_PATH] = { 404, false },       [PROBLEM_METHOD] = { 405, false },
        [PROBLEM_MODEL] = { 404, false },      [PROBLEM_PRICE] = { 400, false },
        [PROBLEM_CAP] = { 402, true },         [PROBLEM_STOPPED] = { 403, true },
        [PROBLEM_TOOL] = { 403, true },        [PROBLEM_SWITCHED_OFF] = { 403, true },
        [PROBLEM_QUEUED] = { 429, false },     [PROBLEM_BREAKER] = { 503, true },
        [PROBLEM_UNREACHABLE] = { 502, true }, [PROBLEM_TIMEOUT] = { 504, true },
        [PROBLEM_INTERNAL] = { 500, false },   [PROBLEM_KEY] = { 401, true },
        [PROBLEM_ROLE] = { 403, true },        [PROBLEM_AWAY] = { 503, false },
        [PROBLEM_UNRECORDED] = { 500, true },  [PROBLEM_STATE] = { 403, true },
    };
    for (int p = PROBLEM_NONE + 1; p < PROBLEM_N_; p++) {
        assert_int_equal(problem_status((Problem)p), want[p].status);
        assert_int_equal(problem_is_final((Problem)p), want[p].final);
    }
}

static void check_event(Api api, const char *want)
{
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 4096);
    assert_true(problem_event(&out, PROBLEM_UNREACHABLE, api, STR("cut\noff"), 7));
    assert_string_equal(out.ptr, want);
}

static void test_problem_events(void **state)
{
    (void)state;
    check_event(
        API_CHAT,
        "data: {\"error\":{\"message\":\"cut\\noff\",\"type\":\"server_error\",\"param\":null,"
        "\"code\":\"upstream_error\"}}\n\n");
    check_event(API_MESSAGES,
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\","
                "\"message\":\"cut\\noff\"}}\n\n");
    check_event(
        API_RESPONSES,
        "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_error\",\"message\":"
        "\"cut\\noff\",\"param\":null,\"error\":{\"type\":\"server_error\",\"code\":"
        "\"upstream_error\",\"message\":\"cut\\noff\",\"param\":null},\"sequence_number\":7}\n\n");
}

static void test_pins_service(void **state)
{
    (void)state;
    static const struct {
        Api api;
        Service service;
        const char *url;
        bool rates, pins;
    } want[] = {
        { API_CHAT, SERVICE_UNKNOWN, "https://api.openai.com/v1", false, true },
        { API_RESPONSES, SERVICE_UNKNOWN, "https://eu.api.openai.com:443/v1", false, true },
        { API_CHAT, SERVICE_UNKNOWN, "https://api.openai.com", false, true },
        { API_CHAT, SERVICE_PRIORITY, "https://api.openai.com/v1", true, false },
        { API_CHAT, SERVICE_UNKNOWN, "http://127.0.0.1:8000/v1", false, false },
        { API_CHAT, SERVICE_UNKNOWN, "http://127.0.0.1:8000/v1", true, true },
        { API_CHAT, SERVICE_UNKNOWN, "https://notapi.openai.com/v1", false, false },
        { API_CHAT, SERVICE_UNKNOWN, "https://api.openai.com.example.org/v1", false, false },
        { API_EMBEDDINGS, SERVICE_UNKNOWN, "https://api.openai.com/v1", true, false },
        { API_MESSAGES, SERVICE_UNKNOWN, "https://api.anthropic.com", true, false },
    };
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        RequestInfo info = { .api = want[i].api, .service = want[i].service };
        assert_int_equal(edit_pins_service(&info, str_of(want[i].url), want[i].rates),
                         want[i].pins);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pins_service),      cmocka_unit_test(test_model),
        cmocka_unit_test(test_nothing_to_edit),   cmocka_unit_test(test_output_cap),
        cmocka_unit_test(test_include_usage),     cmocka_unit_test(test_no_tools),
        cmocka_unit_test(test_edit_without_room), cmocka_unit_test(test_problem_bodies),
        cmocka_unit_test(test_problem_statuses),  cmocka_unit_test(test_problem_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
