/* Streams, from one model API to another: event by event. */
#include "tests/unit/translate_fixture.h"

#include <stdlib.h>

#include "codec/sse.h"

static TranslateStream *stream;
static StreamState *upstream;

static int setup(void **state)
{
    stream = calloc(1, sizeof *stream);
    upstream = calloc(1, sizeof *upstream);
    return fixture_setup(state);
}

static int teardown(void **state)
{
    free(stream);
    free(upstream);
    return fixture_teardown(state);
}

typedef struct {
    const char *event, *data;
} Event;

static void begin(Api from, Api to, bool include_usage)
{
    translate_stream_init(stream, from, to, include_usage, 1700000000);
    stream_init(upstream, from, 1);
}

static void feed(const Event *events, size_t n, Buf *out)
{
    for (size_t i = 0; i < n; i++) {
        StreamNote note;
        Str data = quoted(events[i].data);
        assert_int_equal(stream_feed(upstream, &fixture, str_of(events[i].event), data, &note), 0);
        assert_int_equal(translate_stream_feed(stream, str_of(events[i].event), note.json, out), 0);
    }
}

/* The whole of it: as the gateway would, the end only when the upstream's was good. */
static Str translated(Api from, Api to, bool include_usage, const Event *events, size_t n)
{
    Buf out;
    buf_init(&out, 1 << 20);
    begin(from, to, include_usage);
    feed(events, n, &out);
    if (upstream->phase == STREAM_COMPLETE)
        assert_int_equal(translate_stream_finish(stream, &upstream->usage, &out), 0);
    translate_stream_deinit(stream);
    return kept(&out);
}

static void expect_events(Str got, const Event *want, size_t n)
{
    SseParser sse;
    sse_init(&sse, 0);
    SsePiece piece;
    for (size_t i = 0; i < n; i++) {
        if (sse_next(&sse, &got, &piece) != SSE_EVENT) fail_msg("only %zu of %zu events", i, n);
        if (!str_eq(piece.event, str_of(want[i].event)))
            fail_msg("event %zu is %.*s", i, STR_ARG(piece.raw));
        if (str_eq(piece.data, STR("[DONE]"))) assert_string_equal(want[i].data, "[DONE]");
        else expect_json(piece.data, want[i].data);
    }
    if (sse_next(&sse, &got, &piece) == SSE_EVENT) fail_msg("more: %.*s", STR_ARG(piece.raw));
    sse_deinit(&sse);
}

#define EXPECT(from, to, usage, events, want) \
    expect_events(translated(from, to, usage, events, ARRAY_N(events)), want, ARRAY_N(want))

/* --- messages to chat ------------------------------------------------------------------------- */

static const Event messages_events[] = {
    { "message_start",
      "{'type':'message_start','message':{'id':'msg_1','type':'message','role':'assistant','model':"
      "'claude','content':[],'usage':{'input_tokens':10,'cache_read_input_tokens':100,"
      "'cache_creation_input_tokens':3,'output_tokens':1}}}" },
    { "content_block_start",
      "{'type':'content_block_start','index':0,'content_block':{'type':'thinking','thinking':''}}" },
    { "content_block_delta",
      "{'type':'content_block_delta','index':0,'delta':{'type':'thinking_delta','thinking':'hm'}}" },
    { "content_block_stop", "{'type':'content_block_stop','index':0}" },
    { "ping", "{'type':'ping'}" },
    { "content_block_start",
      "{'type':'content_block_start','index':1,'content_block':{'type':'text','text':''}}" },
    { "content_block_delta",
      "{'type':'content_block_delta','index':1,'delta':{'type':'text_delta','text':'Let me '}}" },
    { "content_block_delta",
      "{'type':'content_block_delta','index':1,'delta':{'type':'text_delta','text':'see.'}}" },
    { "content_block_stop", "{'type':'content_block_stop','index':1}" },
    { "content_block_start",
      "{'type':'content_block_start','index':2,'content_block':{'type':'tool_use','id':'toolu_1',"
      "'name':'look','input':{}}}" },
    { "content_block_delta",
      "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta','partial_json':"
      "'{\\'x\\'' }}" },
    { "content_block_delta",
      "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta','partial_json':"
      "':1}'}}" },
    { "content_block_stop", "{'type':'content_block_stop','index':2}" },
    { "content_block_start",
      "{'type':'content_block_start','index':3,'content_block':{'type':'tool_use','id':'toolu_2',"
      "'name':'list','input':{}}}" },
    { "content_block_stop", "{'type':'content_block_stop','index':3}" },
    { "message_delta",
      "{'type':'message_delta','delta':{'stop_reason':'tool_use','stop_sequence':null},'usage':{"
      "'output_tokens':20}}" },
    { "message_stop", "{'type':'message_stop'}" },
};

#define CHUNK(delta, finish)                                                                    \
    {                                                                                           \
        "", "{'id':'chatcmpl-1','object':'chat.completion.chunk','created':1700000000,'model':" \
            "'claude','choices':[{'index':0,'delta':" delta ",'finish_reason':" finish "}]}"    \
    }

static void test_messages_to_chat(void **state)
{
    (void)state;
    static const Event want[] = {
        CHUNK("{'role':'assistant','content':''}", "null"),
        CHUNK("{'content':'Let me '}", "null"),
        CHUNK("{'content':'see.'}", "null"),
        CHUNK(
            "{'tool_calls':[{'index':0,'id':'toolu_1','type':'function','function':{'name':'look',"
            "'arguments':''}}]}",
            "null"),
        CHUNK("{'tool_calls':[{'index':0,'function':{'arguments':'{\\'x\\''}}]}", "null"),
        CHUNK("{'tool_calls':[{'index':0,'function':{'arguments':':1}'}}]}", "null"),
        CHUNK(
            "{'tool_calls':[{'index':1,'id':'toolu_2','type':'function','function':{'name':'list',"
            "'arguments':''}}]}",
            "null"),
        CHUNK("{'tool_calls':[{'index':1,'function':{'arguments':'{}'}}]}", "null"),
        CHUNK("{}", "'tool_calls'"),
        { "", "[DONE]" },
    };
    EXPECT(API_MESSAGES, API_CHAT, false, messages_events, want);
}

/* The usage chunk comes for who asked for it, and only for them; before it stands null. */
static void test_include_usage(void **state)
{
    (void)state;
    Str with = translated(API_MESSAGES, API_CHAT, true, messages_events, ARRAY_N(messages_events));
    Str without = translated(API_MESSAGES, API_CHAT, false, messages_events,
                             ARRAY_N(messages_events));
    assert_true(str_find(without, STR("usage")) < 0);
    assert_true(str_find(with, STR("\"finish_reason\":null}],\"usage\":null}")) > 0);
    Str usage = quoted("'choices':[],'usage':{'prompt_tokens':113,'completion_tokens':20,"
                       "'total_tokens':133,'prompt_tokens_details':{'cached_tokens':100,"
                       "'cache_write_tokens':3},'completion_tokens_details':{'reasoning_tokens':0}"
                       "}}\n\ndata: [DONE]\n\n");
    assert_true(str_ends_with(with, usage));
}

/* --- chat to messages ------------------------------------------------------------------------- */

#define FROM(rest) "{'id':'chatcmpl-7','model':'gpt'," rest "}"

/* Two calls whose fragments alternate: the second waits, blocks come one after the other. */
static const Event chat_events[] = {
    { "", FROM("'choices':[{'index':0,'delta':{'role':'assistant','content':''}}]") },
    { "", FROM("'choices':[{'index':0,'delta':{'content':'So '}}],'usage':null") },
    { "", FROM("'choices':[{'index':0,'delta':{'content':'be it'}}]") },
    { "", FROM("'choices':[{'index':0,'delta':{'tool_calls':[{'index':0,'id':'call_a','type':"
               "'function','function':{'name':'f','arguments':''}}]}}]") },
    { "", FROM("'choices':[{'index':0,'delta':{'tool_calls':[{'index':1,'id':'call_b','function':{"
               "'name':'g','arguments':'{\\'q\\':'}}]}}]") },
    { "", FROM("'choices':[{'index':0,'delta':{'tool_calls':[{'index':0,'function':{'arguments':"
               "'{\\'p\\':1}'}}]}}]") },
    { "", FROM("'choices':[{'index':0,'delta':{'tool_calls':[{'index':1,'function':{'arguments':"
               "'2}'}}]}}]") },
    { "", FROM("'choices':[{'index':0,'delta':{},'finish_reason':'tool_calls'}]") },
    { "", FROM("'choices':[],'usage':{'prompt_tokens':113,'completion_tokens':20,"
               "'prompt_tokens_details':{'cached_tokens':100}}") },
    { "", "[DONE]" },
};

static const Event messages_begin = {
    "message_start",
    "{'type':'message_start','message':{'id':'msg_7','type':'message','role':'assistant','model':"
    "'gpt','content':[],'stop_reason':null,'stop_sequence':null,'usage':{'input_tokens':0,"
    "'cache_creation_input_tokens':0,'cache_read_input_tokens':0,'output_tokens':0}}}"
};

static void test_chat_to_messages(void **state)
{
    (void)state;
    const Event want[] = {
        messages_begin,
        { "content_block_start",
          "{'type':'content_block_start','index':0,'content_block':{'type':'text','text':''}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':'So '}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':'be it'}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':0}" },
        { "content_block_start",
          "{'type':'content_block_start','index':1,'content_block':{'type':'tool_use','id':'call_a',"
          "'name':'f','input':{}}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':1,'delta':{'type':'input_json_delta',"
          "'partial_json':'{\\'p\\':1}'}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':1}" },
        { "content_block_start",
          "{'type':'content_block_start','index':2,'content_block':{'type':'tool_use','id':'call_b',"
          "'name':'g','input':{}}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta',"
          "'partial_json':'{\\'q\\':2}'}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':2}" },
        { "message_delta",
          "{'type':'message_delta','delta':{'stop_reason':'tool_use','stop_sequence':null},'usage':{"
          "'input_tokens':13,'cache_creation_input_tokens':0,'cache_read_input_tokens':100,"
          "'output_tokens':20}}" },
        { "message_stop", "{'type':'message_stop'}" },
    };
    EXPECT(API_CHAT, API_MESSAGES, false, chat_events, want);
}

/* A text begins at once, and nothing of the end comes before the end is known to be good. */
static void test_no_end_before_the_end(void **state)
{
    (void)state;
    Buf out;
    buf_init(&out, 1 << 20);
    begin(API_CHAT, API_MESSAGES, false);
    feed(chat_events, 2, &out);
    assert_true(str_find(buf_str(&out), STR("\"text\":\"So \"")) > 0);
    feed(chat_events + 2, 7, &out);
    assert_true(str_find(buf_str(&out), STR("stop_reason\":\"")) < 0);
    assert_true(str_find(buf_str(&out), STR("message_stop")) < 0);
    buf_deinit(&out);
    translate_stream_deinit(stream);
}

/* However far it came before it was cut, there is no mark of an end in it. */
static void test_cut_anywhere(void **state)
{
    (void)state;
    static const Str ends[] = { STR("[DONE]"), STR("message_stop"), STR("\"finish_reason\":\""),
                                STR("response.completed"), STR("stop_reason\":\"") };
    for (Api to = API_CHAT; to <= API_MESSAGES; to++) {
        for (size_t n = 0; n <= ARRAY_N(messages_events); n++) {
            if (to == API_MESSAGES) continue;
            Str text = translated(API_MESSAGES, to, true, messages_events, n);
            for (size_t i = 0; i < ARRAY_N(ends) && n < ARRAY_N(messages_events); i++)
                assert_true(str_find(text, ends[i]) < 0);
        }
    }
}

/* --- Responses -------------------------------------------------------------------------------- */

static void test_messages_to_responses(void **state)
{
    (void)state;
    Str text = translated(API_MESSAGES, API_RESPONSES, false, messages_events,
                          ARRAY_N(messages_events));
    static const char *const want[] = {
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    };
    SseParser sse;
    sse_init(&sse, 0);
    SsePiece piece = { .retry_ms = 0 };
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        assert_int_equal(sse_next(&sse, &text, &piece), SSE_EVENT);
        assert_true(str_eq(piece.event, str_of(want[i])));
        const Json *data = parsed(piece.data);
        assert_true(str_eq(json_str(json_get(data, "type")), str_of(want[i])));
        assert_int_equal(json_i64_or(json_get(data, "sequence_number"), -1), i);
    }
    const Json *response = json_get(parsed(piece.data), "response");
    const Json *usage = json_get(response, "usage");
    assert_int_equal(json_i64_or(json_get(usage, "input_tokens"), -1), 113);
    assert_int_equal(json_i64_or(json_get(usage, "total_tokens"), -1), 133);
    assert_true(str_eq(json_str(json_get(response, "status")), STR("completed")));
    const Json *output = json_get(response, "output");
    assert_int_equal(json_len(output), 3);
    assert_true(str_eq(json_str(json_get(json_at(output, 1), "arguments")), STR("{\"x\":1}")));
    assert_true(str_eq(json_str(json_get(json_at(output, 2), "arguments")), STR("{}")));
    assert_int_equal(translate_stream_sequence(stream), ARRAY_N(want));
    sse_deinit(&sse);
}

static const Event responses_events[] = {
    { "response.created", "{'type':'response.created','response':{'id':'resp_5','model':'gpt'}}" },
    { "response.output_item.added",
      "{'type':'response.output_item.added','output_index':0,'item':{'type':'reasoning'}}" },
    { "response.output_text.delta",
      "{'type':'response.output_text.delta','output_index':1,'content_index':0,'delta':'Hi'}" },
    { "response.output_text.done",
      "{'type':'response.output_text.done','output_index':1,'content_index':0,'text':'Hi'}" },
    { "response.output_item.added",
      "{'type':'response.output_item.added','output_index':2,'item':{'type':'function_call','id':"
      "'fc_1','call_id':'call_1','name':'f','arguments':''}}" },
    { "response.output_item.done",
      "{'type':'response.output_item.done','output_index':2,'item':{'type':'function_call','id':"
      "'fc_1','call_id':'call_1','name':'f','arguments':'{\\'a\\':1}'}}" },
    { "response.completed",
      "{'type':'response.completed','response':{'id':'resp_5','status':'completed','usage':{"
      "'input_tokens':9,'output_tokens':8,'output_tokens_details':{'reasoning_tokens':4}}}}" },
};

static void test_responses_to_messages(void **state)
{
    (void)state;
    const Event want[] = {
        { "message_start",
          "{'type':'message_start','message':{'id':'msg_5','type':'message','role':'assistant',"
          "'model':'gpt','content':[],'stop_reason':null,'stop_sequence':null,'usage':{"
          "'input_tokens':0,'cache_creation_input_tokens':0,'cache_read_input_tokens':0,"
          "'output_tokens':0}}}" },
        { "content_block_start",
          "{'type':'content_block_start','index':0,'content_block':{'type':'text','text':''}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':0,'delta':{'type':'text_delta','text':'Hi'}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':0}" },
        { "content_block_start",
          "{'type':'content_block_start','index':1,'content_block':{'type':'tool_use','id':'call_1',"
          "'name':'f','input':{}}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':1,'delta':{'type':'input_json_delta',"
          "'partial_json':'{\\'a\\':1}'}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':1}" },
        { "message_delta",
          "{'type':'message_delta','delta':{'stop_reason':'tool_use','stop_sequence':null},'usage':{"
          "'input_tokens':9,'cache_creation_input_tokens':0,'cache_read_input_tokens':0,"
          "'output_tokens':8,'output_tokens_details':{'thinking_tokens':4}}}" },
        { "message_stop", "{'type':'message_stop'}" },
    };
    EXPECT(API_RESPONSES, API_MESSAGES, false, responses_events, want);
}

/* --- odd streams ------------------------------------------------------------------------------ */

static void test_odd_chat(void **state)
{
    (void)state;
    /* without ids, with the name late, a text after a call, no arguments */
    static const Event events[] = {
        { "", "not json" },
        { "", FROM("'choices':[]") },
        { "", FROM("'choices':[{'index':1,'delta':{'content':'of another choice'}}]") },
        { "", FROM("'choices':[{'delta':{'tool_calls':[{'function':{}}]}}]") },
        { "", FROM("'choices':[{'delta':{'tool_calls':[{'index':0,'function':{'name':'f'}}]}}]") },
        { "", FROM("'choices':[{'delta':{'content':'after'}}]") },
        { "", FROM("'choices':[{'delta':{},'finish_reason':'stop'}]") },
    };
    static const Event want[] = {
        { "message_start",
          "{'type':'message_start','message':{'id':'msg_7','type':'message','role':'assistant',"
          "'model':'gpt','content':[],'stop_reason':null,'stop_sequence':null,'usage':{"
          "'input_tokens':0,'cache_creation_input_tokens':0,'cache_read_input_tokens':0,"
          "'output_tokens':0}}}" },
        { "content_block_start",
          "{'type':'content_block_start','index':0,'content_block':{'type':'tool_use','id':"
          "'call_0_chatcmpl-7','name':'f','input':{}}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':0}" },
        { "content_block_start",
          "{'type':'content_block_start','index':1,'content_block':{'type':'text','text':''}}" },
        { "content_block_delta",
          "{'type':'content_block_delta','index':1,'delta':{'type':'text_delta','text':'after'}}" },
        { "content_block_stop", "{'type':'content_block_stop','index':1}" },
        { "message_delta",
          "{'type':'message_delta','delta':{'stop_reason':'tool_use','stop_sequence':null},'usage':{"
          "'input_tokens':0,'cache_creation_input_tokens':0,'cache_read_input_tokens':0,"
          "'output_tokens':0}}" },
        { "message_stop", "{'type':'message_stop'}" },
    };
    EXPECT(API_CHAT, API_MESSAGES, false, events, want);
}

#define CALL(id, name, arguments)                                                                \
    FROM("'choices':[{'delta':{'tool_calls':[{'index':0,'id':'" id "','function':{'name':'" name \
         "','arguments':'" arguments "'}}]}}]")
/* Some servers number no calls, or all of them 0, and tell them apart by their ids alone; others
 * say id and name with every piece. */
static void test_calls_of_one_index(void **state)
{
    (void)state;
    static const Event events[] = {
        { "", CALL("x:1", "f", "{") },
        { "", CALL("x:1", "f", "}") },
        { "", CALL("b", "f", "[") },
        { "", FROM("'choices':[{'delta':{'tool_calls':[{'function':{'arguments':']'}}]}}]") },
        { "", FROM("'choices':[{'delta':{},'finish_reason':'tool_calls'}]") },
    };
    Str got = translated(API_CHAT, API_RESPONSES, false, events, ARRAY_N(events));
    assert_true(str_find(got, STR("\"arguments\":\"{}\"")) >= 0);
    assert_true(str_find(got, STR("\"call_id\":\"b\",\"name\":\"f\",\"arguments\":\"[]\"")) >= 0);
    assert_true(str_find(got, STR("\"output_index\":2")) < 0);
}

static void test_stops(void **state)
{
    (void)state;
    static const struct {
        const char *stop, *finish;
    } stops[] = { { "max_tokens", "length" },
                  { "refusal", "content_filter" },
                  { "stop_sequence", "stop" },
                  { "pause_turn", "length" } };
    for (size_t i = 0; i < ARRAY_N(stops); i++) {
        const Event events[] = {
            { "message_start", "{'type':'message_start','message':{'id':'msg_1','model':'c'}}" },
            { "message_delta",
              arena_printf(&fixture,
                           "{'type':'message_delta','delta':{'stop_reason':'%s','stop_sequence':"
                           "'x'},'usage':{'output_tokens':1}}",
                           stops[i].stop)
                  .ptr },
            { "message_stop", "{'type':'message_stop'}" },
        };
        Str text = translated(API_MESSAGES, API_CHAT, false, events, ARRAY_N(events));
        Str want = arena_printf(&fixture, "\"finish_reason\":\"%s\"", stops[i].finish);
        if (str_find(text, want) < 0) fail_msg("%.*s", STR_ARG(text));
    }
}

/* --- bounds ----------------------------------------------------------------------------------- */

static int feed_one(const char *data, Buf *out)
{
    return translate_stream_feed(stream, STR(""), parsed(quoted(data)), out);
}

static void test_too_many_items(void **state)
{
    (void)state;
    Buf out;
    buf_init(&out, 1 << 20);
    begin(API_CHAT, API_MESSAGES, false);
    int r = 0;
    for (int i = 0; i <= TRANSLATE_ITEMS_MAX; i++) {
        assert_int_equal(r, 0);
        Str data = arena_printf(&fixture,
                                "{'id':'c','choices':[{'delta':{'tool_calls':[{'index':%d,'id':"
                                "'c%d','function':{'name':'f','arguments':'{}'}}]}}]}",
                                i, i);
        r = feed_one(data.ptr, &out);
    }
    assert_int_equal(r, -EMSGSIZE);
    translate_stream_deinit(stream);
    buf_deinit(&out);
}

/* A Responses client gets the whole at the end: it is kept up to a bound. A chat client's is not
 * kept. */
static void test_too_much_to_keep(void **state)
{
    (void)state;
    char *long_text = malloc(1 << 20);
    memset(long_text, 'x', (1 << 20) - 1);
    long_text[(1 << 20) - 1] = '\0';
    Buf data;
    buf_init(&data, 2 << 20);
    buf_printf(&data, "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"%s\"}}",
               long_text);
    for (Api to = API_CHAT; to <= API_RESPONSES; to++) {
        begin(API_MESSAGES, to, false);
        Buf out;
        buf_init(&out, 64 << 20);
        assert_int_equal(feed_one("{'type':'content_block_start','index':0,'content_block':{'type':"
                                  "'text'}}",
                                  &out),
                         0);
        CLEANUP(arena_deinit) Arena scratch = { .max = 64 << 20 };
        const Json *v;
        assert_int_equal(json_parse(&scratch, buf_str(&data), NULL, &v, NULL), 0);
        int r = 0;
        for (int i = 0; i < 9; i++) {
            assert_int_equal(r, 0);
            r = translate_stream_feed(stream, STR(""), v, &out);
        }
        assert_int_equal(r, to == API_CHAT ? 0 : -EMSGSIZE);
        translate_stream_deinit(stream);
        buf_deinit(&out);
    }
    buf_deinit(&data);
    free(long_text);
}

static void test_out_is_full(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 6000; bytes += 97) {
        Buf out;
        buf_init(&out, bytes);
        begin(API_MESSAGES, API_RESPONSES, false);
        int r = 0;
        for (size_t i = 0; r == 0 && i < ARRAY_N(messages_events); i++)
            r = translate_stream_feed(stream, str_of(messages_events[i].event),
                                      parsed(quoted(messages_events[i].data)), &out);
        if (r == 0) r = translate_stream_finish(stream, &upstream->usage, &out);
        assert_true(r == 0 || r == -ENOMEM);
        translate_stream_deinit(stream);
        buf_deinit(&out);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_messages_to_chat),      TEST(test_include_usage),
        TEST(test_chat_to_messages),      TEST(test_no_end_before_the_end),
        TEST(test_cut_anywhere),          TEST(test_messages_to_responses),
        TEST(test_responses_to_messages), TEST(test_odd_chat),
        TEST(test_calls_of_one_index),    TEST(test_stops),
        TEST(test_too_many_items),        TEST(test_too_much_to_keep),
        TEST(test_out_is_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
