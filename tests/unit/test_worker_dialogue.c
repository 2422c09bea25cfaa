#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "worker/dialogue.h"

typedef struct {
    Arena arena;
    Spec spec;
    Dialogue dialogue;
    Buf buf;
} Talk;

static const Json *parsed(Talk *t, const char *text)
{
    const Json *v = NULL;
    assert_int_equal(json_parse(&t->arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static int setup(void **state)
{
    Talk *t = xcalloc(1, sizeof *t);
    arena_init(&t->arena, 16 << 20);
    buf_init(&t->buf, 1 << 20);
    Tool *tool = ARENA_NEW(&t->arena, Tool);
    *tool = (Tool){ .name = STR("look"),
                    .description = STR("Looks."),
                    .input_schema = parsed(t, "{\"type\":\"object\"}") };
    t->spec = (Spec){
        .prompt_text = STR("Be \"kind\"."),
        .model = STR("m-1"),
        .memory_window = 20,
        .tools = { .items = tool, .n = 1 },
        .sampling = parsed(t, "{\"temperature\":0.5,\"topP\":0.9,\"maxOutputTokens\":64,"
                              "\"stop\":[\"END\"]}"),
    };
    t->dialogue = (Dialogue){ .spec = &t->spec, .input = STR("hello"), .cap_member = "max_tokens" };
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    Talk *t = *state;
    arena_deinit(&t->arena);
    buf_deinit(&t->buf);
    free(t);
    return 0;
}

static void assert_request(Talk *t, Api api, const char *want)
{
    buf_clear(&t->buf);
    assert_int_equal(dialogue_request(&t->dialogue, api, &t->buf), 0);
    assert_string_equal(t->buf.ptr, want);
}

static DialogueTurn *answer(Talk *t, Api api, const char *body)
{
    CLEANUP(arena_deinit) Arena scratch = { 0 };
    DialogueTurn *turn = NULL;
    arena_init(&scratch, 1 << 20);
    assert_int_equal(dialogue_answer(&t->dialogue, api, &t->arena, &scratch, str_of(body), &turn),
                     0);
    assert_non_null(turn);
    return turn;
}

#define CHAT_HEAD                                                                                \
    "{\"model\":\"m-1\",\"temperature\":0.5,\"top_p\":0.9,\"stop\":[\"END\"],\"max_tokens\":64," \
    "\"messages\":[{\"role\":\"system\",\"content\":\"Be \\\"kind\\\".\"},"                      \
    "{\"role\":\"user\",\"content\":\"hello\"}"
#define CHAT_TAIL                                                                          \
    "],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"description\":" \
    "\"Looks.\",\"parameters\":{\"type\":\"object\"}}}]}"

static void test_chat(void **state)
{
    Talk *t = *state;
    assert_request(t, API_CHAT, CHAT_HEAD CHAT_TAIL);
    DialogueTurn *turn = answer(
        t, API_CHAT,
        "{\"choices\":[{\"finish_reason\":\"tool_calls\",\"message\":{\"content\":null,"
        "\"tool_calls\":[{\"id\":\"c1\",\"function\":{\"name\":\"look\","
        "\"arguments\":\"{\\\"a\\\":1}\"}},"
        "{\"id\":\"c2\",\"function\":{\"name\":\"look\",\"arguments\":\"not json\"}}]}}]}");
    assert_int_equal(turn->calls_n, 2);
    assert_int_equal(turn->text.len, 0);
    assert_false(turn->cut);
    assert_string_equal(turn->calls[0].arguments.ptr, "{\"a\":1}");
    turn->calls[0].result = STR("42");
    turn->calls[1].result = STR("bad \"arguments\"");
    assert_request(
        t, API_CHAT,
        CHAT_HEAD
        ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
        "{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"look\","
        "\"arguments\":\"{\\\"a\\\":1}\"}},{\"id\":\"c2\",\"type\":\"function\",\"function\":"
        "{\"name\":\"look\",\"arguments\":\"not json\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"42\"},"
        "{\"role\":\"tool\",\"tool_call_id\":\"c2\","
        "\"content\":\"bad \\\"arguments\\\"\"}" CHAT_TAIL);
    turn = answer(
        t, API_CHAT,
        "{\"choices\":[{\"finish_reason\":\"length\",\"message\":{\"content\":\"so\"}}]}");
    assert_int_equal(turn->calls_n, 0);
    assert_string_equal(turn->text.ptr, "so");
    assert_true(turn->cut);
}

#define MESSAGES_HEAD                                                             \
    "{\"model\":\"m-1\",\"max_tokens\":64,\"temperature\":0.5,\"top_p\":0.9,"     \
    "\"stop_sequences\":[\"END\"],\"system\":\"Be \\\"kind\\\".\",\"messages\":[" \
    "{\"role\":\"user\",\"content\":\"hello\"}"
#define MESSAGES_TAIL                                                              \
    "],\"tools\":[{\"name\":\"look\",\"description\":\"Looks.\",\"input_schema\":" \
    "{\"type\":\"object\"}}]}"

static void test_messages(void **state)
{
    Talk *t = *state;
    assert_request(t, API_MESSAGES, MESSAGES_HEAD MESSAGES_TAIL);
    DialogueTurn *turn = answer(
        t, API_MESSAGES,
        "{\"stop_reason\":\"tool_use\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"hm\"},"
        "{\"type\":\"text\",\"text\":\"Let me \"},{\"type\":\"text\",\"text\":\"see.\"},"
        "{\"type\":\"tool_use\",\"id\":\"u1\",\"name\":\"look\",\"input\":{\"a\": [1]}},"
        "{\"type\":\"tool_use\",\"id\":\"u2\",\"name\":\"look\"}]}");
    assert_string_equal(turn->text.ptr, "Let me see.");
    assert_int_equal(turn->calls_n, 2);
    assert_string_equal(turn->calls[0].arguments.ptr, "{\"a\":[1]}");
    assert_string_equal(turn->calls[1].arguments.ptr, "{}");
    turn->calls[0].result = STR("42");
    turn->calls[1].result = STR("no");
    turn->calls[1].is_error = true;
    assert_request(
        t, API_MESSAGES,
        MESSAGES_HEAD
        ",{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"Let me see.\"},"
        "{\"type\":\"tool_use\",\"id\":\"u1\",\"name\":\"look\",\"input\":{\"a\":[1]}},"
        "{\"type\":\"tool_use\",\"id\":\"u2\",\"name\":\"look\",\"input\":{}}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"u1\","
        "\"content\":\"42\"},{\"type\":\"tool_result\",\"tool_use_id\":\"u2\",\"content\":\"no\","
        "\"is_error\":true}]}" MESSAGES_TAIL);
}

/* Old turns leave whole, so that no result is sent without its call; the latest always stays. */
static void test_window(void **state)
{
    Talk *t = *state;
    t->spec.memory_window = 5;
    for (int i = 0; i < 6; i++) {
        char body[300];
        snprintf(
            body, sizeof body,
            "{\"choices\":[{\"message\":{\"content\":\"turn %d\",\"tool_calls\":[{\"id\":\"c%d\","
            "\"function\":{\"name\":\"look\",\"arguments\":\"{}\"}}]}}]}",
            i, i);
        answer(t, API_CHAT, body)->calls[0].result = STR("r");
    }
    for (int window = 0; window <= 20; window++) {
        size_t messages = 0, results = 0;
        t->spec.memory_window = window;
        buf_clear(&t->buf);
        assert_int_equal(dialogue_request(&t->dialogue, API_CHAT, &t->buf), 0);
        const Json *v = parsed(t, t->buf.ptr);
        for (JsonIter it = json_iter(json_get(v, "messages")); json_next(&it); messages++)
            results += str_eq(json_str(json_get(it.value, "role")), STR("tool"));
        messages--; /* the system prompt is not one */
        assert_int_equal(messages, 1 + 2 * results);
        assert_true(messages <= (size_t)MAX(window, 3)); /* the input, one answer, one result */
        assert_true(results == 6 || messages + 2 > (size_t)window); /* no fewer than may be */
        assert_true(str_find(buf_str(&t->buf), STR("turn 5")) >= 0);
        assert_true(str_find(buf_str(&t->buf), STR("hello")) >= 0);
    }
}

static void test_what_is_no_answer(void **state)
{
    static const char *const bad[] = {
        "", "[]", "{}", "{\"choices\":[]}", "{\"choices\":[{}]}", "<html>"
    };
    Talk *t = *state;
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        CLEANUP(arena_deinit) Arena scratch = { 0 };
        DialogueTurn *turn = NULL;
        arena_init(&scratch, 1 << 20);
        for (int api = 0; api < 2; api++) {
            int r = dialogue_answer(&t->dialogue, api ? API_CHAT : API_MESSAGES, &t->arena,
                                    &scratch, str_of(bad[i]), &turn);
            assert_int_equal(r, -EINVAL);
            assert_true(diag_text()[0] != '\0');
        }
    }
    assert_int_equal(t->dialogue.turns_n, 0);
}

static void test_error_texts(void **state)
{
    Talk *t = *state;
    assert_true(
        str_eq(dialogue_error(&t->arena, STR("{\"error\":{\"message\":\"no\"}}")), STR("no")));
    assert_true(str_eq(dialogue_error(&t->arena, STR("{\"error\":\"why\"}")), STR("why")));
    assert_int_equal(dialogue_error(&t->arena, STR("<html>")).len, 0);
}

static void test_a_full_buffer_is_an_error(void **state)
{
    Talk *t = *state;
    CLEANUP(buf_deinit) Buf small = { 0 };
    buf_init(&small, 50);
    assert_int_equal(dialogue_request(&t->dialogue, API_CHAT, &small), -ENOMEM);
}

#define TALK_TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TALK_TEST(test_chat),        TALK_TEST(test_messages),
        TALK_TEST(test_window),      TALK_TEST(test_what_is_no_answer),
        TALK_TEST(test_error_texts), TALK_TEST(test_a_full_buffer_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
