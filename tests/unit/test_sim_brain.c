#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/diag.h"
#include "gateway/sim_mode.h"
#include "gateway/sim_text.h"
#include "gateway/sim_wire.h"

static Arena arena;
static SimRequest request;
static SimAnswer answer;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 64 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

/* What the simulator says to a system prompt and a user text (chat), with members put in. */
static const char *say(const char *members, const char *system, const char *user)
{
    Buf body;
    buf_init(&body, 1 << 20);
    JsonOut out = json_out(&body);
    json_out_array(&out);
    for (int i = 0; i < 2; i++) {
        json_out_object(&out);
        json_out_kcstr(&out, "role", i ? "user" : "system");
        json_out_kcstr(&out, "content", i ? user : system);
        json_out_object_end(&out);
    }
    json_out_array_end(&out);
    Str text = arena_printf(&arena, "{\"model\":\"sim/assistant\",%s\"messages\":%.*s}", members,
                            STR_ARG(buf_str(&body)));
    buf_deinit(&body);
    assert_int_equal(sim_request_read(&arena, API_CHAT, text, &request), 0);
    assert_int_equal(sim_answer(&arena, &request, &answer), 0);
    return arena_cstr(&arena, answer.thought.text);
}

static void says_part(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("no \"%s\" in \"%s\"", part, text);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_reads_openai(void **state)
{
    (void)state;
    Str body = STR(
        "{\"model\":\"sim/x\",\"stream\":true,\"max_tokens\":9,\"max_completion_tokens\":7,\"n\":2,"
        "\"messages\":[{\"role\":\"developer\",\"content\":\"be [[sim delay=5]] brief\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"image_url\"},"
        "{\"type\":\"text\",\"text\":\"two [[sim mode=echo delay=9]]\"}]},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"function\":{\"name\":"
        "\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"42\"}]}");
    assert_int_equal(sim_request_read(&arena, API_CHAT, body, &request), 0);
    assert_true(request.stream && !request.include_usage);
    assert_int_equal(request.out_cap, 7);
    assert_int_equal(request.n, 2);
    assert_true(str_eq(request.system, STR("be  brief")));
    assert_true(str_eq(request.user, STR("one\ntwo")));
    assert_int_equal(request.items_n, 4);
    assert_int_equal(request.turn, 2);
    assert_int_equal(request.items[2].kind, SIM_CALL);
    assert_true(str_eq(request.items[3].text, STR("42")));
    assert_int_equal(sim_directive_i64(&request, "delay", 0), 9); /* the last one counts */
    assert_int_equal(sim_directive_i64(&request, "absent", 3), 3);
    assert_int_equal(sim_mode(&request).content, SIM_BY_ECHO);
    assert_true(request.input_tokens > 10 && request.input_tokens < (int64_t)body.len);
}

static void test_reads_anthropic(void **state)
{
    (void)state;
    Str body = STR(
        "{\"model\":\"sim/x\",\"max_tokens\":9,\"system\":[{\"type\":\"text\",\"text\":\"S\"}],"
        "\"tools\":[{\"name\":\"f\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\"}}],"
        "\"tool_choice\":{\"type\":\"tool\",\"name\":\"f\"},"
        "\"messages\":[{\"role\":\"user\",\"content\":\"ask\"},{\"role\":\"assistant\",\"content\":["
        "{\"type\":\"text\",\"text\":\"ok\"},{\"type\":\"tool_use\",\"name\":\"f\",\"input\":{}}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t\",\"content\":["
        "{\"type\":\"text\",\"text\":\"42\"}]}]}]}");
    assert_int_equal(sim_request_read(&arena, API_MESSAGES, body, &request), 0);
    assert_true(str_eq(request.system, STR("S")));
    assert_true(str_eq(request.user, STR("ask"))); /* a tool's result is no word of the user's */
    assert_int_equal(request.items_n, 4);
    assert_int_equal(request.turn, 1);
    assert_int_equal(request.tools_n, 1);
    assert_true(request.tools_must && str_eq(request.tool_forced, STR("f")));
    assert_true(str_eq(request.items[3].text, STR("42")));
}

static void test_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{",
        "{}",
        "{\"model\":\"m\"}",
        "{\"model\":\"m\",\"messages\":[]}",
        "{\"model\":\"m\",\"messages\":[1]}",
        "{\"model\":\"m\",\"n\":9,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
        "{\"model\":\"m\",\"max_tokens\":-1,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(sim_request_read(&arena, API_CHAT, str_of(bad[i]), &request), -EINVAL);
    assert_int_equal(
        sim_request_read(
            &arena, API_MESSAGES,
            STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"),
            &request),
        -EINVAL); /* max_tokens is required there */
}

static void check_mode(const char *model, const char *directives, const char *want)
{
    SimRequest r = { .model = str_of(model), .directives = str_of(directives), .hash = 150 };
    assert_string_equal(sim_mode(&r).name, want);
}

static void test_modes(void **state)
{
    (void)state;
    check_mode("sim/assistant", "", "assistant");
    check_mode("sim/fail", "", "fail");
    check_mode("sim/small", "", "assistant");
    check_mode("sim/small-echo", "", "echo");
    check_mode("sim/large-echo-2025-01-01", "", "echo");
    check_mode("sim/rate-limit", "", "rate-limit");
    check_mode("sim/no-usage-1", "", "no-usage");
    check_mode("sim/failing", "", "assistant");
    check_mode("gpt-4o-mini-2024-07-18", "", "assistant");
    check_mode("gpt-4o-mini-2024-07-18", "mode=stall", "stall");
    check_mode("sim/fail", "mode=nonsense", "assistant");
    check_mode("sim/fail", "rate=51", "fail"); /* the hash says 50 */
    check_mode("sim/fail", "rate=50", "assistant");
    SimRequest r = { .model = STR("sim/fail"), .directives = STR("status=503 delay=7") };
    assert_int_equal(sim_mode(&r).status, 503);
    assert_int_equal(sim_mode(&r).delay_ms, 7);
    r.directives = STR("status=200");
    assert_int_equal(sim_mode(&r).status, 500);
}

/* --- text ------------------------------------------------------------------------------------- */

static void test_text(void **state)
{
    (void)state;
    const SimWords *words = sim_words(&arena, STR("The charged invoices: getOrder_status"));
    assert_int_equal(words->n,
                     4); /* charged, invoices, order, status; "the" and "get" say nothing */
    assert_true(sim_words_has(words, sim_word_hash(STR("Invoice"))));
    assert_true(sim_words_has(words, sim_word_hash(STR("charges"))));
    assert_false(sim_words_has(words, sim_word_hash(STR("the"))));
    assert_int_equal(sim_words_shared(words, STR("an invoice, an invoice, and an ORDER")), 2);
    Str sentences[8];
    assert_int_equal(sim_sentences(STR("One. Two 3.5 is!  \nThree"), sentences, 8), 3);
    assert_true(str_eq(sentences[1], STR("Two 3.5 is!")));
    assert_true(str_eq(sim_cut(STR("a\xc3\xa9z"), 2), STR("a")));
    assert_true(str_eq(sim_cut(STR("a\xc3\xa9z"), 3), STR("a\xc3\xa9")));
    assert_int_equal(sim_find_nocase(STR("xJSON"), STR("json")), 1);
}

/* --- thinking --------------------------------------------------------------------------------- */

static void test_classifies(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        { "I was charged twice for my subscription, please refund one of them.", "billing" },
        { "The app crashes with an error 500 when I open the report.", "bug" },
        { "It would be nice if you could add dark mode.", "feature" },
        { "I cannot log in, my password is not accepted.", "account" },
    };
    static const char *const prompts[] = {
        "You sort support mail. Answer with one of: billing, bug, feature, account.",
        "Classify the message into: billing | bug | feature | account",
        "Categories:\n- billing\n- bug\n- feature\n- account\n\nReply with the category only.",
        "Answer with one of \"billing\", \"bug\", \"feature\" or \"account\".",
    };
    for (size_t p = 0; p < ARRAY_N(prompts); p++)
        for (size_t i = 0; i < ARRAY_N(cases); i++)
            assert_string_equal(say("", prompts[p], cases[i].text), cases[i].want);
    assert_string_equal(
        say("", "Sentiment: one of positive, negative, neutral.", "I love it, thanks!"),
        "positive");
    assert_string_equal(
        say("", "Sentiment: one of positive, negative, neutral.", "The parcel has a lid."),
        "neutral");
}

static void test_classifies_wrongly_on_request(void **state)
{
    (void)state;
    int wrong = 0;
    for (int i = 0; i < 200; i++) {
        char text[128];
        snprintf(text, sizeof text, "Invoice %d was charged twice", i);
        wrong += strcmp(say("", "[[sim wrong=30]] one of: billing, bug, feature", text),
                        "billing") != 0;
    }
    assert_in_range(wrong, 35, 90);
}

static void test_summarises(void **state)
{
    (void)state;
    const char *text =
        "Solar panels cover the roof of the town hall. The weather was mild on Tuesday. The "
        "panels on the roof will save the town money. A dog barked. Nobody minded.";
    const char *got = say("", "Summarise the text in two sentences.", text);
    says_part(got, "Solar panels cover the roof");
    says_part(got, "save the town money");
    assert_null(strstr(got, "dog"));
    got = say("", "Write a summary as 3 bullets.", text);
    says_part(got, "- Solar panels");
    assert_true(strlen(got) < strlen(text));
}

static void test_answers_from_the_prompt(void **state)
{
    (void)state;
    const char *prompt =
        "You are a help desk. The office opens at nine on weekdays. Returns are free within 30 days. "
        "Shipping to Norway takes five days.";
    says_part(say("", prompt, "How long does shipping to Norway take?"), "five days");
    says_part(say("", prompt, "When does the office open?"), "opens at nine");
    says_part(say("", "", "Hello"), "How can I help");
    says_part(say("", "", "Zebras wander."), "simulated");
}

static void test_json(void **state)
{
    (void)state;
    assert_string_equal(say("\"response_format\":{\"type\":\"json_object\"},",
                            "one of: billing, bug", "The app shows an error."),
                        "{\"category\":\"bug\"}");
    says_part(
        say("",
            "Reply in JSON: {\"category\": \"billing|bug\", \"summary\": \"...\"}. category is one of: "
            "billing, bug",
            "My card was charged twice."),
        "{\"category\":\"billing\",\"summary\":\"My card was charged twice.\"}");
    const char *got = say(
        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{"
        "\"type\":\"object\",\"required\":[\"urgency\",\"amount\",\"email\",\"tags\",\"ok\"],"
        "\"properties\":{\"urgency\":{\"type\":\"string\",\"enum\":[\"low\",\"high\"]},\"amount\":{"
        "\"type\":\"number\"},\"email\":{\"type\":\"string\"},\"tags\":{\"type\":\"array\",\"items\":{"
        "\"enum\":[\"invoice\",\"other\"]}},\"ok\":{\"const\":true},\"never\":{\"type\":"
        "\"string\"}}}}},",
        "Extract.", "Urgent! Invoice over $12.50, write to ann@example.com immediately.");
    assert_string_equal(
        got, "{\"urgency\":\"high\",\"amount\":12.50,\"email\":\"ann@example.com\",\"tags\":["
             "\"invoice\"],\"ok\":true}");
    says_part(say("", "Return JSON with keys: title, priority and confidence.",
                  "The server is down, urgent!"),
              "\"priority\":\"high\",\"confidence\":0.9}");
}

/* --- tools ------------------------------------------------------------------------------------ */

#define TOOL(name, description, properties)                                                     \
    "{\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"description\":\"" description \
    "\",\"parameters\":{\"type\":\"object\",\"properties\":{" properties                        \
    "},\"required\":[\"a\"]}}}"

static const char tools_json[] =
    "\"tools\":["
    "{\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"description\":\"Weather in a city\","
    "\"parameters\":{\"type\":\"object\",\"required\":[\"city\"],\"properties\":{\"city\":{\"type\":\"string\"},"
    "\"unit\":{\"type\":\"string\",\"enum\":[\"celsius\",\"fahrenheit\"]}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"lookup_order\",\"description\":\"Find an order\",\"parameters\":"
    "{\"type\":\"object\",\"required\":[\"order_id\"],\"properties\":{\"order_id\":{\"type\":\"string\"}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"refund_order\",\"description\":\"Give money back\","
    "\"parameters\":{\"type\":\"object\",\"required\":[\"order_id\",\"amount\",\"reason\"],\"properties\":{"
    "\"order_id\":{\"type\":\"string\"},\"amount\":{\"type\":\"integer\"},\"reason\":{\"type\":\"string\"}}}}}],";

static void calls(const char *user, const char *name, const char *arguments)
{
    say(tools_json, "You are an assistant.", user);
    if (!name) {
        assert_int_equal(answer.thought.calls_n, 0);
        return;
    }
    assert_int_equal(answer.thought.calls_n, 1);
    char text[1024];
    str_copy(text, sizeof text, answer.thought.calls[0].name);
    assert_string_equal(text, name);
    str_copy(text, sizeof text, answer.thought.calls[0].arguments);
    assert_string_equal(text, arguments);
}

static void test_calls_tools(void **state)
{
    (void)state;
    calls("What is the weather in Oslo?", "get_weather", "{\"city\":\"Oslo\"}");
    calls("Weather for Bergen in fahrenheit, unit please", "get_weather",
          "{\"city\":\"Bergen\",\"unit\":\"fahrenheit\"}");
    calls("Where is my order A-1234?", "lookup_order", "{\"order_id\":\"A-1234\"}");
    calls(
        "Please refund order #4711 with 25 euros: it arrived broken.", "refund_order",
        "{\"order_id\":\"#4711\",\"amount\":25,\"reason\":\"Please refund order #4711 with 25 euros: it arrived "
        "broken.\"}");
    calls("Thank you, that is all.", NULL, NULL);
    say("\"tool_choice\":\"none\",\"tools\":[" TOOL("go", "", "") "],", "", "go now");
    assert_int_equal(answer.thought.calls_n, 0);
    say("\"tool_choice\":\"required\",\"tools\":[" TOOL("go", "", "") "],", "", "nothing fits");
    assert_int_equal(answer.thought.calls_n, 1);
    say("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"ping\"}}],", "", "ping it");
    assert_true(str_eq(answer.thought.calls[0].arguments, STR("{}")));
}

/* A tool is called once; then its result is quoted. */
static void test_uses_results(void **state)
{
    (void)state;
    Str body = arena_printf(
        &arena,
        "{\"model\":\"m\",%s\"messages\":[{\"role\":\"user\",\"content\":\"Where is my order A-1?\"},{\"role\":"
        "\"assistant\",\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"lookup_order\",\"arguments\":\"{}\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"{\\\"status\\\":\\\"shipped\\\",\\\"days\\\":2}\"}]}",
        tools_json);
    assert_int_equal(sim_request_read(&arena, API_CHAT, body, &request), 0);
    assert_int_equal(sim_answer(&arena, &request, &answer), 0);
    assert_int_equal(answer.thought.calls_n, 0);
    char text[256];
    str_copy(text, sizeof text, answer.thought.text);
    assert_string_equal(text, "According to lookup_order: status: shipped, days: 2");
}

/* --- the output cap --------------------------------------------------------------------------- */

static void test_keeps_the_cap(void **state)
{
    (void)state;
    say("\"max_tokens\":3,", "", "Hello");
    assert_true(answer.cut_short);
    assert_int_equal(answer.output_tokens, 3);
    assert_int_equal(answer.thought.text.len, 12);
    say("\"max_tokens\":12,", "", "[[sim mode=loop]] x");
    assert_int_equal(answer.output_tokens, sim_tokens(answer.thought.text.len));
    Str long_call = STR("Please refund order #4711 with 25 euros");
    char members[4096];
    snprintf(members, sizeof members, "\"max_tokens\":20,%s", tools_json);
    say(members, "", arena_cstr(&arena, long_call));
    assert_true(answer.cut_short && answer.thought.calls_n == 1);
    assert_int_equal(answer.output_tokens, 20);
    say("\"max_tokens\":50,\"n\":3,", "", "[[sim mode=ramble reasoning=10 cached=4]] x");
    assert_int_equal(answer.output_tokens, 150);
    assert_int_equal(answer.reasoning_tokens, 30);
    assert_int_equal(answer.cached_tokens, 4);
    assert_int_equal(answer.thought.text.len, 160);
    int64_t before = sim_tokens(strlen(say("", "", "Hello")));
    say("", "", "[[sim pad=40]] Hello");
    assert_in_range(answer.output_tokens, before + 40, before + 42);
}

/* --- the wire --------------------------------------------------------------------------------- */

/* The pieces of a stream say what the plain answer says. */
static void test_stream_equals_plain(void **state)
{
    (void)state;
    static const char *const texts[] = { "Hello",
                                         "[[sim mode=echo]] æøå, 日本語 and \\\"quotes\\\"",
                                         "Where is my order A-1?" };
    for (size_t i = 0; i < ARRAY_N(texts); i++) {
        say(tools_json, "", texts[i]);
        Str *pieces, all = STR("");
        size_t n = sim_wire_stream(&arena, &answer, &pieces);
        assert_true(n > 2);
        for (size_t k = 0; k + 1 < n; k++) {
            const Json *json;
            assert_int_equal(
                json_parse(&arena, str_trim(str_skip(pieces[k], 6)), NULL, &json, NULL), 0);
            const Json *delta = json_get(json_at(json_get(json, "choices"), 0), "delta");
            Str part = json_str(json_get(delta, "content"));
            if (!part.len)
                part = json_str(json_get(
                    json_get(json_at(json_get(delta, "tool_calls"), 0), "function"), "arguments"));
            all = arena_printf(&arena, "%.*s%.*s", STR_ARG(all), STR_ARG(part));
        }
        assert_true(str_eq(pieces[n - 1], STR("data: [DONE]\n\n")));
        assert_true(str_eq(all, answer.thought.calls_n ? answer.thought.calls[0].arguments
                                                       : answer.thought.text));
    }
}

static void test_same_request_same_answer(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf first;
    CLEANUP(buf_deinit) Buf second;
    buf_init(&first, 65536);
    buf_init(&second, 65536);
    say(tools_json, "one of: a, b", "Where is my order A-1?");
    sim_wire_plain(&answer, &first);
    say(tools_json, "one of: a, b", "Where is my order A-1?");
    sim_wire_plain(&answer, &second);
    assert_true(str_eq(buf_str(&first), buf_str(&second)));
    buf_clear(&second);
    say(tools_json, "one of: a, b", "Where is my order A-2?");
    sim_wire_plain(&answer, &second);
    assert_false(str_eq(buf_str(&first), buf_str(&second)));
}

/* Whatever is asked, the answer is JSON; texts of all kinds are cut out of a few pieces. */
static void test_never_fails(void **state)
{
    (void)state;
    static const char *const bits[] = { "summarise in 2 bullets: ",
                                        "one of: a, b. ",
                                        "JSON with keys: x, y ",
                                        "{\"k\":",
                                        "order #12 ",
                                        "[[sim ",
                                        "]]",
                                        "\n- ",
                                        "é",
                                        "日",
                                        ".",
                                        "\"",
                                        "\\",
                                        "refund ",
                                        "weather in Oslo ",
                                        "categories: ",
                                        "",
                                        "12.5",
                                        "a@b.c",
                                        " or " };
    uint64_t seed = 7;
    for (int i = 0; i < 3000; i++) {
        char texts[2][512] = { "", "" };
        for (int k = 0; k < 12; k++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            char *to = texts[k % 2];
            size_t at = strlen(to);
            snprintf(to + at, sizeof texts[0] - at, "%s", bits[(seed >> 33) % ARRAY_N(bits)]);
        }
        const Json *json;
        CLEANUP(buf_deinit) Buf body;
        buf_init(&body, 1 << 20);
        say(i % 2 ? tools_json : "", texts[0], texts[1]);
        sim_wire_plain(&answer, &body);
        assert_int_equal(json_parse(&arena, buf_str(&body), NULL, &json, NULL), 0);
        for (size_t c = 0; c < answer.thought.calls_n; c++)
            assert_int_equal(
                json_parse(&arena, answer.thought.calls[c].arguments, NULL, &json, NULL), 0);
        arena_clear(&arena);
    }
}

static void test_embeddings(void **state)
{
    (void)state;
    Str body = STR(
        "{\"model\":\"m\",\"input\":[\"red apples\",\"a red apple\",\"steam engine\"],\"dimensions\":256}");
    const Json *json;
    assert_int_equal(json_parse(&arena, body, NULL, &json, NULL), 0);
    assert_int_equal(sim_request_read(&arena, API_EMBEDDINGS, body, &request), 0);
    answer = (SimAnswer){ .request = &request, .input_tokens = request.input_tokens };
    CLEANUP(buf_deinit) Buf out;
    buf_init(&out, 1 << 20);
    sim_wire_embeddings(&answer, json, &out);
    assert_int_equal(json_parse(&arena, buf_str(&out), NULL, &json, NULL), 0);
    double dot[2] = { 0, 0 }, length = 0;
    const Json *data = json_get(json, "data");
    for (size_t d = 0; d < 256; d++) {
        double v[3];
        for (size_t i = 0; i < 3; i++)
            v[i] = json_f64_or(json_at(json_get(json_at(data, i), "embedding"), d), 9);
        dot[0] += v[0] * v[1];
        dot[1] += v[0] * v[2];
        length += v[0] * v[0];
    }
    assert_true(length > 0.999 && length < 1.001);
    assert_true(dot[0] > 0.9 && dot[1] < 0.5);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_reads_openai),
        TEST(test_reads_anthropic),
        TEST(test_refuses),
        TEST(test_modes),
        TEST(test_text),
        TEST(test_classifies),
        TEST(test_classifies_wrongly_on_request),
        TEST(test_summarises),
        TEST(test_answers_from_the_prompt),
        TEST(test_json),
        TEST(test_calls_tools),
        TEST(test_uses_results),
        TEST(test_keeps_the_cap),
        TEST(test_stream_equals_plain),
        TEST(test_same_request_same_answer),
        TEST(test_never_fails),
        TEST(test_embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
