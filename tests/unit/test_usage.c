#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "logic/usage.h"

static Arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static const Json *parsed(const char *text)
{
    const Json *v = NULL;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static Answer answer(Api api, int64_t n, const char *text)
{
    Answer a;
    answer_read(api, parsed(text), n, &a);
    return a;
}

/* Feeds the events (name, data, ..., NULL) and returns the final state. */
static StreamState streamed(Api api, int64_t n, const char *const *events)
{
    StreamState s;
    stream_init(&s, api, n);
    for (; *events; events += 2) {
        assert_int_equal(stream_feed(&s, &arena, str_of(events[0]), str_of(events[1]), NULL), 0);
        arena_clear(&arena);
    }
    return s;
}
#define STREAMED(api, n, ...) streamed(api, n, (const char *const[]){ __VA_ARGS__, NULL })

static void expect_counts(const Usage *u, int64_t input, int64_t output)
{
    assert_true(u->valid);
    assert_int_equal(u->input_tokens, input);
    assert_int_equal(u->output_tokens, output);
}

/* --- plain answers, by the providers' documentation ----------------------------------------- */

static void test_chat_plain(void **state)
{
    (void)state;
    Answer a = answer(
        API_CHAT, 1,
        "{\"id\":\"c\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
        "\"assistant\",\"content\":\"Hi\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":"
        "1117,\"completion_tokens\":346,\"total_tokens\":1463,\"prompt_tokens_details\":{"
        "\"cached_tokens\":1024,\"cache_write_tokens\":64,\"audio_tokens\":0},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":320}}}");
    expect_counts(&a.usage, 1117, 346);
    assert_int_equal(a.usage.cached_tokens, 1024);
    assert_int_equal(a.usage.cache_write_5m_tokens, 64);
    assert_int_equal(a.usage.reasoning_tokens, 320);
    assert_false(a.usage.shrunk || a.usage.malformed || a.error);
    assert_true(a.complete);
    assert_string_equal(a.finish_reason, "stop");
    assert_int_equal(a.usage.tool_calls, 0);
}

static void test_chat_plain_with_tools_and_choices(void **state)
{
    (void)state;
    const char *text =
        "{\"choices\":[{\"index\":0,\"finish_reason\":\"tool_calls\",\"message\":{\"tool_calls\":["
        "{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},"
        "{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}},"
        "{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}},"
        "{\"index\":1,\"finish_reason\":null,\"message\":{\"function_call\":{\"name\":\"old\"}}}],"
        "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}";
    Answer a = answer(API_CHAT, 2, text);
    assert_int_equal(a.usage.tool_calls, 3);
    assert_int_equal(a.tool_names_n, 3);
    assert_true(str_eq(a.tool_names[0], STR("f")));
    assert_true(str_eq(a.tool_names[1], STR("g")));
    assert_true(str_eq(a.tool_names[2], STR("old")));
    assert_false(a.complete); /* one of two choices has not ended */
    assert_true(answer(API_CHAT, 1, text).complete);
}

static void test_responses_plain(void **state)
{
    (void)state;
    Answer a = answer(
        API_RESPONSES, 1,
        "{\"id\":\"r\",\"status\":\"completed\",\"error\":null,\"output\":[{\"type\":\"reasoning\"},"
        "{\"type\":\"function_call\",\"id\":\"fc_1\",\"call_id\":\"call_1\",\"name\":\"look\"},"
        "{\"type\":\"web_search_call\",\"id\":\"ws_1\"},{\"type\":\"message\"}],\"usage\":{"
        "\"input_tokens\":36,\"input_tokens_details\":{\"cached_tokens\":5},\"output_tokens\":87,"
        "\"output_tokens_details\":{\"reasoning_tokens\":40},\"total_tokens\":123}}");
    expect_counts(&a.usage, 36, 87);
    assert_int_equal(a.usage.cached_tokens, 5);
    assert_int_equal(a.usage.reasoning_tokens, 40);
    assert_int_equal(a.usage.tool_calls, 2);
    assert_true(str_eq(a.tool_names[0], STR("look")));
    assert_true(str_eq(a.tool_names[1], STR("web_search")));
    assert_true(a.complete && !a.error);
    assert_string_equal(a.finish_reason, "completed");
    a = answer(
        API_RESPONSES, 1,
        "{\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}}");
    assert_true(a.complete);
    assert_string_equal(a.finish_reason, "max_output_tokens");
    assert_false(a.usage.valid);
    a = answer(API_RESPONSES, 1, "{\"status\":\"failed\",\"error\":{\"message\":\"boom\"}}");
    assert_true(a.error && !a.complete);
    assert_string_equal(a.error_text, "boom");
    assert_false(answer(API_RESPONSES, 1, "{\"status\":\"in_progress\"}").complete);
}

static void test_messages_plain(void **state)
{
    (void)state;
    Answer a = answer(
        API_MESSAGES, 1,
        "{\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},{\"type\":\"tool_use\","
        "\"id\":\"toolu_1\",\"name\":\"weather\",\"input\":{}},{\"type\":\"server_tool_use\",\"id\":"
        "\"srvtoolu_1\",\"name\":\"web_search\"}],\"stop_reason\":\"tool_use\",\"usage\":{"
        "\"input_tokens\":21,\"cache_creation_input_tokens\":188086,\"cache_read_input_tokens\":1000,"
        "\"cache_creation\":{\"ephemeral_5m_input_tokens\":188000,\"ephemeral_1h_input_tokens\":86},"
        "\"output_tokens\":393,\"server_tool_use\":{\"web_search_requests\":2}}}");
    expect_counts(&a.usage, 21 + 188086 + 1000, 393);
    assert_int_equal(a.usage.cached_tokens, 1000);
    assert_int_equal(a.usage.cache_write_5m_tokens, 188000);
    assert_int_equal(a.usage.cache_write_1h_tokens, 86);
    assert_int_equal(a.usage.server_calls[SERVER_WEB_SEARCH], 2);
    assert_int_equal(a.usage.tool_calls, 2);
    assert_string_equal(a.finish_reason, "tool_use");
    assert_true(a.complete);
    a = answer(
        API_MESSAGES, 1,
        "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}");
    assert_true(a.error && !a.complete && !a.usage.valid);
    assert_string_equal(a.error_text, "Overloaded");
}

static void test_writes_without_a_duration_are_the_dearer_kind(void **state)
{
    (void)state;
    Answer a = answer(API_MESSAGES, 1,
                      "{\"usage\":{\"input_tokens\":1,\"output_tokens\":1,"
                      "\"cache_creation_input_tokens\":100,\"cache_read_input_tokens\":null}}");
    assert_int_equal(a.usage.cache_write_1h_tokens, 100);
    assert_int_equal(a.usage.input_tokens, 101);
    assert_false(a.usage.malformed);
    a = answer(
        API_MESSAGES, 1,
        "{\"usage\":{\"input_tokens\":1,\"output_tokens\":1,\"cache_creation_input_tokens\":100,"
        "\"cache_creation\":{\"ephemeral_5m_input_tokens\":30}}}");
    assert_int_equal(a.usage.cache_write_5m_tokens, 30);
    assert_int_equal(a.usage.cache_write_1h_tokens, 70);
}

static void test_embeddings(void **state)
{
    (void)state;
    Answer a = answer(
        API_EMBEDDINGS, 1,
        "{\"object\":\"list\",\"data\":[],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    expect_counts(&a.usage, 8, 0);
    assert_true(a.complete);
    assert_false(answer(API_EMBEDDINGS, 1, "{}").complete);
}

static void test_uncertain_counts(void **state)
{
    (void)state;
    assert_false(answer(API_CHAT, 1, "{\"usage\":null}").usage.valid);
    assert_false(answer(API_CHAT, 1, "{\"usage\":{}}").usage.valid);
    assert_false(answer(API_CHAT, 1, "[]").usage.valid);
    assert_false(answer(API_CHAT, 1, "{\"usage\":{\"prompt_tokens\":5}}").usage.valid);
    Usage u = answer(API_CHAT, 1, "{\"usage\":{\"prompt_tokens\":5,\"total_tokens\":12}}").usage;
    expect_counts(&u, 5, 7);
    /* nonsense is absent, and said so */
    u = answer(API_CHAT, 1, "{\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":1}}").usage;
    assert_true(!u.valid && u.malformed);
    u = answer(API_CHAT, 1, "{\"usage\":{\"prompt_tokens\":\"5\",\"completion_tokens\":1}}").usage;
    assert_true(!u.valid && u.malformed);
    u = answer(API_CHAT, 1, "{\"usage\":{\"prompt_tokens\":1.5,\"completion_tokens\":1}}").usage;
    assert_true(!u.valid && u.malformed);
    u = answer(API_CHAT, 1, "{\"usage\":{\"prompt_tokens\":1e30,\"completion_tokens\":1}}").usage;
    assert_true(!u.valid && u.malformed);
    u = answer(API_CHAT, 1,
               "{\"usage\":{\"prompt_tokens\":9223372036854775807,\"completion_tokens\":1}}")
            .usage;
    assert_true(!u.valid && u.malformed);
    /* parts beyond their totals stand beside them */
    u = answer(
            API_CHAT, 1,
            "{\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"prompt_tokens_details\":{"
            "\"cached_tokens\":30},\"completion_tokens_details\":{\"reasoning_tokens\":50}}}")
            .usage;
    expect_counts(&u, 40, 55);
    assert_true(u.malformed);
}

/* --- chat streams: one test for each shape of usage seen in the wild ------------------------ */

#define TEXT "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":null}]}"
#define STOP "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}"
#define USAGE "\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":10,\"total_tokens\":29}"

static void expect_settled(const StreamState *s, int64_t input, int64_t output)
{
    assert_int_equal(s->phase, STREAM_COMPLETE);
    assert_true(stream_settles(s));
    expect_counts(&s->usage, input, output);
}

static void test_shape_of_the_specification(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "", STOP, "", "{\"choices\":[]," USAGE "}", "",
                             "[DONE]");
    expect_settled(&s, 19, 10);
    assert_true(s.done_marker && s.usage_is_final);
    assert_string_equal(s.finish_reason, "stop");
}

static void test_shape_empty_delta(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "", STOP, "",
                             "{\"choices\":[{\"index\":0,\"delta\":{}}]," USAGE "}", "", "[DONE]");
    expect_settled(&s, 19, 10);
}

static void test_shape_choice_without_delta(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "", STOP, "",
                             "{\"choices\":[{\"index\":0}]," USAGE "}", "", "[DONE]");
    expect_settled(&s, 19, 10);
}

static void test_shape_on_the_finish_chunk(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_CHAT, 1, "", TEXT, "",
        "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]," USAGE "}");
    expect_settled(&s, 19, 10); /* no [DONE] needed */
    assert_false(s.done_marker);
}

static void test_shape_after_finish_reason(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "", STOP, "",
                             "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]," USAGE
                             "}");
    expect_settled(&s, 19, 10);
}

static void test_shape_on_every_chunk_zero_until_last(void **state)
{
    (void)state;
#define ZERO "\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}"
    StreamState s = STREAMED(
        API_CHAT, 1, "", "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]," ZERO "}", "",
        "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]," ZERO "}", "",
        "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]," USAGE "}", "",
        "[DONE]");
    expect_settled(&s, 19, 10);
    assert_false(s.usage.shrunk);
}

static void test_shape_on_finish_then_repeated(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_CHAT, 1, "", TEXT, "",
        "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]," USAGE "}", "",
        "{\"choices\":[]," USAGE "}", "", "[DONE]");
    expect_settled(&s, 19, 10); /* once, not twice */
    assert_false(s.usage.shrunk);
}

static void test_shape_explicit_zero(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "", STOP, "", "{\"choices\":[]," ZERO "}", "",
                             "[DONE]");
    expect_settled(&s, 0, 0);
}

static void test_null_usage_is_no_usage(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", "{\"choices\":[],\"usage\":null}", "", STOP, "",
                             "[DONE]");
    assert_int_equal(s.phase, STREAM_COMPLETE);
    assert_false(s.usage.valid);
    assert_false(stream_settles(&s));
}

static void test_running_counts_without_a_last_one_do_not_settle(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_CHAT, 1, "", "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]," USAGE "}",
        "", STOP);
    assert_int_equal(s.phase, STREAM_COMPLETE);
    assert_true(s.usage.valid);
    assert_false(stream_settles(&s));
}

static void test_shrinking_counts_keep_the_dearer(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_CHAT, 1, "", STOP, "",
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":50,"
        "\"prompt_tokens_details\":{\"cached_tokens\":80}}}",
        "",
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":60,"
        "\"prompt_tokens_details\":{\"cached_tokens\":20}}}");
    expect_settled(&s, 100, 60);
    assert_int_equal(s.usage.cached_tokens, 20); /* a discount: less of it is dearer */
    assert_true(s.usage.shrunk);
}

/* --- chat streams: ends --------------------------------------------------------------------- */

static void test_chat_cut(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "", "[DONE]");
    assert_int_equal(s.phase, STREAM_OPEN); /* [DONE] without a finish_reason completes nothing */
    assert_false(stream_settles(&s));
    s = STREAMED(API_CHAT, 1, "", TEXT, "", "{\"choices\":[]," USAGE "}");
    assert_int_equal(s.phase, STREAM_OPEN);
    assert_false(stream_settles(&s));
}

static void test_chat_all_choices_must_finish(void **state)
{
    (void)state;
    StreamState s;
    stream_init(&s, API_CHAT, 3);
    const char *events[] = { "{\"choices\":[{\"index\":2,\"finish_reason\":\"stop\"}]}",
                             "{\"choices\":[{\"index\":2,\"finish_reason\":\"stop\"}]}",
                             "{\"choices\":[{\"index\":1,\"finish_reason\":\"length\"}]}",
                             "{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}" };
    for (size_t i = 0; i < ARRAY_N(events); i++) {
        assert_int_equal(s.phase, STREAM_OPEN);
        StreamNote note;
        assert_int_equal(stream_feed(&s, &arena, STR(""), str_of(events[i]), &note), 0);
        assert_int_equal(note.terminal, i == 3);
    }
    assert_int_equal(s.phase, STREAM_COMPLETE);
    assert_string_equal(s.finish_reason, "stop");
}

static void test_chat_errors(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_CHAT, 1, "", TEXT, "",
                             "{\"error\":{\"message\":\"upstream died\"}}", "", "[DONE]");
    assert_int_equal(s.phase, STREAM_FAILED);
    assert_string_equal(s.error_text, "upstream died");
    s = STREAMED(
        API_CHAT, 1, "",
        "{\"choices\":[{\"index\":0,\"finish_reason\":\"error\",\"error\":{\"message\":\"m\"}}]}");
    assert_int_equal(s.phase, STREAM_FAILED);
    s = STREAMED(API_CHAT, 1, "", "{\"error\":\"just text\"}");
    assert_string_equal(s.error_text, "just text");
    s = STREAMED(API_CHAT, 1, "", TEXT, "", "<html>", "", STOP, "", "{\"choices\":[]," USAGE "}");
    assert_int_equal(s.bad_events, 1);
    assert_int_equal(s.events, 4);
    expect_settled(&s, 19, 10);
}

static void test_chat_tool_calls_by_fragments(void **state)
{
    (void)state;
#define CALL(inner) "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[" inner "]}}]}"
    StreamState s = STREAMED(
        API_CHAT, 1, "",
        CALL("{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}"), "",
        CALL("{\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\"\"}}"), "",
        CALL("{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}"), "",
        CALL(
            "{\"index\":1,\"function\":{\"arguments\":\"{}\"}},{\"index\":0,\"function\":{\"arguments\":\":1}\"}}"));
    assert_int_equal(s.usage.tool_calls, 2);
    /* the id on every fragment; the id late; no ids at all; every call at index 0 */
    s = STREAMED(API_CHAT, 1, "", CALL("{\"index\":0,\"id\":\"a\"}"), "",
                 CALL("{\"index\":0,\"id\":\"a\"}"));
    assert_int_equal(s.usage.tool_calls, 1);
    s = STREAMED(API_CHAT, 1, "", CALL("{\"index\":0,\"function\":{\"name\":\"f\"}}"), "",
                 CALL("{\"index\":0,\"id\":\"a\"}"), "", CALL("{\"index\":0,\"id\":\"a\"}"));
    assert_int_equal(s.usage.tool_calls, 1);
    s = STREAMED(API_CHAT, 1, "", CALL("{\"index\":0,\"function\":{\"name\":\"f\"}}"), "",
                 CALL("{\"index\":0,\"function\":{\"arguments\":\"{}\"}}"), "",
                 CALL("{\"index\":1,\"function\":{\"name\":\"f\"}}"));
    assert_int_equal(s.usage.tool_calls, 2);
    s = STREAMED(API_CHAT, 1, "", CALL("{\"index\":0,\"id\":\"a\"}"), "",
                 CALL("{\"index\":0,\"id\":\"b\"}"));
    assert_int_equal(s.usage.tool_calls, 2);
    /* the same index in another choice is another call */
    s = STREAMED(API_CHAT, 2, "",
                 "{\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0}]}},"
                 "{\"index\":1,\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}");
    assert_int_equal(s.usage.tool_calls, 2);
}

static void test_chat_many_tool_calls(void **state)
{
    (void)state;
    StreamState s;
    stream_init(&s, API_CHAT, 1);
    for (int i = 0; i < 3 * USAGE_CALLS_MAX; i++) {
        char data[256];
        int len = snprintf(data, sizeof data, CALL("{\"index\":%d,\"id\":\"c%d\"}"), i, i);
        assert_int_equal(stream_feed(&s, &arena, STR(""), str_make(data, (size_t)len), NULL), 0);
        len = snprintf(data, sizeof data, CALL("{\"index\":%d,\"function\":{\"arguments\":\"x\"}}"),
                       i);
        assert_int_equal(stream_feed(&s, &arena, STR(""), str_make(data, (size_t)len), NULL), 0);
        arena_clear(&arena);
    }
    assert_int_equal(s.usage.tool_calls, 3 * USAGE_CALLS_MAX);
}

static void test_chat_notes(void **state)
{
    (void)state;
    StreamState s;
    stream_init(&s, API_CHAT, 1);
    StreamNote note;
    assert_int_equal(stream_feed(&s, &arena, STR(""), STR(TEXT), &note), 0);
    assert_true(str_eq(note.text, STR("Hi")));
    assert_false(note.usage_only || note.terminal || note.cut);
    assert_non_null(note.json);
    assert_int_equal(
        stream_feed(&s, &arena, STR(""),
                    STR(CALL("{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\"}}")), &note),
        0);
    assert_int_equal(note.tool_names_n, 1);
    assert_true(str_eq(note.tool_names[0], STR("f")));
    assert_int_equal(stream_feed(&s, &arena, STR(""), STR(STOP), &note), 0);
    assert_true(note.terminal && !note.usage_only);
    assert_int_equal(stream_feed(&s, &arena, STR(""), STR("{\"choices\":[]," USAGE "}"), &note), 0);
    assert_true(note.usage_only && !note.terminal);
    assert_int_equal(stream_feed(&s, &arena, STR(""),
                                 STR("{\"choices\":[{\"index\":0,\"delta\":{}}]," USAGE "}"),
                                 &note),
                     0);
    assert_true(note.usage_only);
    assert_int_equal(stream_feed(&s, &arena, STR(""), STR("[DONE]"), &note), 0);
    assert_true(s.done_marker && !note.cut && !note.json);
}

static void test_a_full_arena_spoils_one_event_only(void **state)
{
    (void)state;
    StreamState s;
    stream_init(&s, API_CHAT, 1);
    Arena tiny;
    arena_init(&tiny, 16);
    assert_int_equal(stream_feed(&s, &tiny, STR(""), STR(TEXT), NULL), -ENOMEM);
    arena_deinit(&tiny);
    assert_int_equal(s.bad_events, 1);
    assert_int_equal(stream_feed(&s, &arena, STR(""), STR(STOP), NULL), 0);
    assert_int_equal(s.phase, STREAM_COMPLETE);
}

/* --- Responses ------------------------------------------------------------------------------ */

#define R_USAGE "\"usage\":{\"input_tokens\":7,\"output_tokens\":9,\"total_tokens\":16}"

static void test_responses_stream(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_RESPONSES, 1, "response.created",
        "{\"type\":\"response.created\",\"response\":{\"usage\":null}}",
        "response.output_item.added",
        "{\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"type\":\"function_call\","
        "\"id\":\"fc\",\"call_id\":\"call\",\"name\":\"f\"}}",
        "response.function_call_arguments.delta",
        "{\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{}\"}",
        "response.output_item.done",
        "{\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"function_call\","
        "\"id\":\"fc\",\"call_id\":\"call\",\"name\":\"f\"}}",
        "response.completed",
        "{\"type\":\"response.completed\",\"response\":{\"status\":\"completed\"," R_USAGE "}}");
    expect_settled(&s, 7, 9);
    assert_int_equal(s.usage.tool_calls, 1);
    assert_string_equal(s.finish_reason, "completed");
}

static void test_responses_other_ends(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_RESPONSES, 1, "",
        "{\"type\":\"response.incomplete\",\"response\":{\"status\":\"incomplete\","
        "\"incomplete_details\":{\"reason\":\"content_filter\"}," R_USAGE "}}");
    expect_settled(&s, 7, 9);
    assert_string_equal(s.finish_reason, "content_filter");
    s = STREAMED(
        API_RESPONSES, 1, "",
        "{\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":"
        "\"server_error\",\"message\":\"no luck\"}," R_USAGE "}}");
    assert_int_equal(s.phase, STREAM_FAILED);
    assert_string_equal(s.error_text, "no luck");
    assert_true(stream_settles(&s)); /* the provider's own final count */
    s = STREAMED(API_RESPONSES, 1, "", "{\"type\":\"error\",\"code\":\"x\",\"message\":\"bad\"}");
    assert_int_equal(s.phase, STREAM_FAILED);
    assert_string_equal(s.error_text, "bad");
    assert_false(stream_settles(&s));
    s = STREAMED(API_RESPONSES, 1, "", "{\"type\":\"response.output_text.done\"}");
    assert_int_equal(s.phase, STREAM_OPEN);
    StreamNote note;
    assert_int_equal(stream_feed(&s, &arena, STR(""),
                                 STR("{\"type\":\"response.output_text.delta\",\"delta\":\"x\"}"),
                                 &note),
                     0);
    assert_true(str_eq(note.text, STR("x")));
}

/* --- Anthropic ------------------------------------------------------------------------------ */

#define M_START                                                                                \
    "{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,"                 \
    "\"cache_creation_input_tokens\":10,\"cache_creation\":{\"ephemeral_5m_input_tokens\":10," \
    "\"ephemeral_1h_input_tokens\":0},\"cache_read_input_tokens\":5,\"output_tokens\":8}}}"
#define M_DELTA \
    "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}"

static void test_messages_stream(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_MESSAGES, 1, "message_start", M_START, "content_block_start",
        "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}",
        "ping", "{\"type\":\"ping\"}", "content_block_delta",
        "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}",
        "content_block_start",
        "{\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":"
        "\"toolu_1\",\"name\":\"f\",\"input\":{}}}",
        "message_delta", M_DELTA, "message_stop", "{\"type\":\"message_stop\"}");
    expect_settled(&s, 40, 3); /* the placeholder 8 does not count */
    assert_int_equal(s.usage.cached_tokens, 5);
    assert_int_equal(s.usage.cache_write_5m_tokens, 10);
    assert_int_equal(s.usage.cache_write_1h_tokens, 0);
    assert_int_equal(s.usage.tool_calls, 1);
    assert_false(s.usage.shrunk);
    assert_string_equal(s.finish_reason, "end_turn");
}

static void test_messages_delta_may_repeat_and_raise_counts(void **state)
{
    (void)state;
    StreamState s = STREAMED(
        API_MESSAGES, 1, "", M_START, "",
        "{\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":50}}", "",
        "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"input_tokens\":30,"
        "\"cache_read_input_tokens\":null,\"output_tokens\":90,\"server_tool_use\":{\"web_search_requests\":1}}}",
        "", "{\"type\":\"message_stop\"}");
    expect_settled(&s, 45, 90); /* cumulative: 50 is not added to 90 */
    assert_int_equal(s.usage.server_calls[SERVER_WEB_SEARCH], 1);
    assert_false(s.usage.shrunk || s.usage.malformed);
}

static void test_messages_cut_and_failed(void **state)
{
    (void)state;
    StreamState s = STREAMED(API_MESSAGES, 1, "", M_START, "", M_DELTA);
    assert_int_equal(s.phase, STREAM_OPEN); /* message_stop is the marker, stop_reason is not */
    assert_false(stream_settles(&s));
    s = STREAMED(
        API_MESSAGES, 1, "", M_START, "error",
        "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}");
    assert_int_equal(s.phase, STREAM_FAILED);
    assert_string_equal(s.error_text, "Overloaded");
    s = STREAMED(API_MESSAGES, 1, "error", "not json");
    assert_int_equal(s.phase, STREAM_FAILED);
    s = STREAMED(API_MESSAGES, 1, "", M_START, "",
                 "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}", "",
                 "{\"type\":\"message_stop\"}");
    assert_int_equal(s.phase, STREAM_COMPLETE);
    assert_false(stream_settles(&s)); /* the output was never counted */
    s = STREAMED(API_MESSAGES, 1, "", M_DELTA, "message_stop", "{}");
    assert_int_equal(s.phase, STREAM_COMPLETE); /* by the event's name alone */
}

/* Ends that clients would take for whole answers. */
static void test_an_end_of_nothing(void **state)
{
    (void)state;
    static const struct {
        Api api;
        const char *data;
    } ends[] = { { API_CHAT, "[DONE]" },
                 { API_MESSAGES, "{\"type\":\"message_stop\"}" },
                 { API_RESPONSES, "{\"type\":\"response.completed\"}" },
                 { API_RESPONSES, "{\"type\":\"response.completed\",\"response\":null}" } };
    for (size_t i = 0; i < ARRAY_N(ends); i++) {
        CLEANUP(arena_deinit) Arena scratch;
        StreamNote note;
        StreamState s;
        arena_init(&scratch, 1 << 20);
        stream_init(&s, ends[i].api, 1);
        assert_int_equal(stream_feed(&s, &scratch, STR(""), str_of(ends[i].data), &note), 0);
        assert_true(note.cut && !note.terminal);
        assert_int_equal(s.phase, STREAM_OPEN);
    }
    StreamState s = STREAMED(
        API_RESPONSES, 1, "",
        "{\"type\":\"response.completed\",\"response\":{\"status\":\"failed\",\"error\":{"
        "\"message\":\"no luck\"}}}");
    assert_int_equal(s.phase, STREAM_FAILED);
    assert_string_equal(s.error_text, "no luck");
    s = STREAMED(API_RESPONSES, 1, "",
                 "{\"type\":\"response.completed\",\"response\":{\"status\":\"completed\"}}");
    assert_int_equal(s.phase, STREAM_COMPLETE);
    assert_false(stream_settles(&s)); /* the whole hold is charged */
}

/* What decides the rates besides the counts. */
static void test_words_and_server_tools(void **state)
{
    (void)state;
    Answer a = answer(API_CHAT, 1,
                      "{\"choices\":[{\"finish_reason\":\"stop\",\"message\":{}}],"
                      "\"service_tier\":\"flex\",\"usage\":{\"prompt_tokens\":5,"
                      "\"completion_tokens\":2,\"total_tokens\":17,\"prompt_tokens_details\":"
                      "{\"image_tokens\":3}}}");
    assert_int_equal(a.usage.service, SERVICE_FLEX);
    assert_int_equal(a.usage.image_input_tokens, 3);
    assert_int_equal(a.usage.output_tokens, 12); /* thinking that only the total has */

    a = answer(API_MESSAGES, 1,
               "{\"content\":[],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":5,"
               "\"output_tokens\":2,\"service_tier\":\"standard\",\"speed\":\"fast\","
               "\"inference_geo\":\"us\",\"server_tool_use\":{\"web_fetch_requests\":4}}}");
    assert_int_equal(a.usage.service, SERVICE_FAST);
    assert_int_equal(a.usage.region, REGION_US);
    assert_int_equal(a.usage.server_calls[SERVER_FETCH], 4);

    a = answer(API_RESPONSES, 1,
               "{\"status\":\"completed\",\"service_tier\":\"priority\",\"output\":["
               "{\"type\":\"web_search_call\",\"id\":\"a\"},{\"type\":\"web_search_call\","
               "\"id\":\"b\"},{\"type\":\"file_search_call\",\"id\":\"c\"},{\"type\":"
               "\"code_interpreter_call\",\"id\":\"d\"},{\"type\":\"function_call\","
               "\"call_id\":\"e\",\"name\":\"f\"}],\"usage\":{\"input_tokens\":5,"
               "\"output_tokens\":2,\"total_tokens\":7}}");
    assert_int_equal(a.usage.service, SERVICE_PRIORITY);
    assert_int_equal(a.usage.server_calls[SERVER_WEB_SEARCH], 2);
    assert_int_equal(a.usage.server_calls[SERVER_FILE_SEARCH], 1);
    assert_int_equal(a.usage.server_calls[SERVER_CODE], 1);
    assert_int_equal(a.usage.tool_calls, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_plain),
        cmocka_unit_test(test_chat_plain_with_tools_and_choices),
        cmocka_unit_test(test_responses_plain),
        cmocka_unit_test(test_messages_plain),
        cmocka_unit_test(test_writes_without_a_duration_are_the_dearer_kind),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_uncertain_counts),
        cmocka_unit_test(test_shape_of_the_specification),
        cmocka_unit_test(test_shape_empty_delta),
        cmocka_unit_test(test_shape_choice_without_delta),
        cmocka_unit_test(test_shape_on_the_finish_chunk),
        cmocka_unit_test(test_shape_after_finish_reason),
        cmocka_unit_test(test_shape_on_every_chunk_zero_until_last),
        cmocka_unit_test(test_shape_on_finish_then_repeated),
        cmocka_unit_test(test_shape_explicit_zero),
        cmocka_unit_test(test_null_usage_is_no_usage),
        cmocka_unit_test(test_running_counts_without_a_last_one_do_not_settle),
        cmocka_unit_test(test_shrinking_counts_keep_the_dearer),
        cmocka_unit_test(test_chat_cut),
        cmocka_unit_test(test_chat_all_choices_must_finish),
        cmocka_unit_test(test_chat_errors),
        cmocka_unit_test(test_chat_tool_calls_by_fragments),
        cmocka_unit_test(test_chat_many_tool_calls),
        cmocka_unit_test(test_chat_notes),
        cmocka_unit_test(test_a_full_arena_spoils_one_event_only),
        cmocka_unit_test(test_responses_stream),
        cmocka_unit_test(test_responses_other_ends),
        cmocka_unit_test(test_messages_stream),
        cmocka_unit_test(test_messages_delta_may_repeat_and_raise_counts),
        cmocka_unit_test(test_messages_cut_and_failed),
        cmocka_unit_test(test_an_end_of_nothing),
        cmocka_unit_test(test_words_and_server_tools),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
