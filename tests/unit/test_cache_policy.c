#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "logic/cache_policy.h"

static const char chat[] = "{\"model\":\"m\",\"temperature\":0.20,\"messages\":[{\"role\":\"user\","
                           "\"content\":\"hello\"}]}";

static Arena arena;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 16 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_deinit(&arena);
    return 0;
}

static const Json *parse(const char *text)
{
    const Json *v = NULL;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static CacheQuestion ask(Api api, const char *body)
{
    return (CacheQuestion){ .tenant = STR("acme"),
                            .agent = STR("support"),
                            .version_id = STR("9f3ac21d0b7e"),
                            .api = api,
                            .target_api = api,
                            .provider = STR("openai"),
                            .model = STR("m"),
                            .body = parse(body) };
}

static CacheKey key_of(CacheQuestion question)
{
    CacheKey key;
    Buf scratch;
    buf_init(&scratch, 1 << 20);
    assert_int_equal(cache_key(&question, &scratch, &key), 0);
    buf_deinit(&scratch);
    return key;
}

static bool same(CacheQuestion a, CacheQuestion b)
{
    CacheKey x = key_of(a), y = key_of(b);
    return memcmp(x.bytes, y.bytes, sizeof x.bytes) == 0;
}

static void test_key_ignores_how_json_is_written(void **state)
{
    (void)state;
    const char *again = " { \"messages\" : [ {\"content\":\"h\\u0065llo\", \"role\":\"user\"} ],"
                        "\"temperature\":2e-1, \"model\":\"m\" } ";
    assert_true(same(ask(API_CHAT, chat), ask(API_CHAT, again)));
    /* false is what an absent stream means */
    assert_true(same(ask(API_CHAT, "{\"model\":\"m\",\"stream\":false}"),
                     ask(API_CHAT, "{\"model\":\"m\"}")));
}

static void test_key_counts_every_part(void **state)
{
    (void)state;
    CacheQuestion first = ask(API_CHAT, chat);
    CacheQuestion others[] = { first, first, first, first, first, first, first, first, first };
    others[0].tenant = STR("other");
    others[1].agent = STR("sales");
    others[2].version_id = STR("1c88e04aa912");
    others[3].provider = STR("azure");
    others[4].model = STR("small");
    others[5].target_api = API_MESSAGES;
    others[6].stream = true;
    others[7].anthropic_version = STR("2024-01-01");
    others[8].anthropic_beta = STR("long-context");
    assert_true(same(first, first));
    for (size_t i = 0; i < ARRAY_N(others); i++) {
        assert_false(same(first, others[i]));
        for (size_t k = 0; k < i; k++) assert_false(same(others[k], others[i]));
    }
}

/* Bytes that move from one part to the next make another key. */
static void test_key_frames_its_parts(void **state)
{
    (void)state;
    CacheQuestion a = ask(API_CHAT, chat), b = a;
    a.tenant = STR("ab"), a.agent = STR("c");
    b.tenant = STR("a"), b.agent = STR("bc");
    assert_false(same(a, b));
    a.anthropic_version = STR("x"), a.anthropic_beta = STR("");
    b = a;
    b.anthropic_version = STR(""), b.anthropic_beta = STR("x");
    assert_false(same(a, b));
    assert_false(same(ask(API_CHAT, "{\"a\":\"b\",\"c\":\"d\"}"),
                      ask(API_CHAT, "{\"a\":\"b\\\",\\\"c\\\":\\\"d\"}")));
}

static void test_key_counts_every_byte_of_the_request(void **state)
{
    (void)state;
    static const char *const others[] = {
        "{\"model\":\"m\",\"temperature\":0.3,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}",
        "{\"model\":\"m\",\"temperature\":0.2,\"messages\":[{\"role\":\"user\",\"content\":\"hellp\"}]}",
        "{\"model\":\"m\",\"temperature\":0.2,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
        "\"seed\":1}",
        "{\"model\":\"m\",\"temperature\":0.2,\"messages\":[{\"role\":\"user\",\"content\":\"hello\","
        "\"cache_control\":{\"type\":\"ephemeral\"}}]}",
        "{\"model\":\"m\",\"temperature\":0.2,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
        "\"n\":2}",
        "{\"model\":\"m\",\"temperature\":0.2,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
        "\"stream_options\":{\"include_usage\":true}}",
    };
    for (size_t i = 0; i < ARRAY_N(others); i++)
        assert_false(same(ask(API_CHAT, chat), ask(API_CHAT, others[i])));
}

static void test_key_leaves_out_who_asks(void **state)
{
    (void)state;
    static const char *const names[] = { "user", "safety_identifier", "prompt_cache_key",
                                         "prompt_cache_retention" };
    char with[256];
    for (size_t i = 0; i < ARRAY_N(names); i++) {
        snprintf(with, sizeof with, "{\"model\":\"m\",\"%s\":\"u-1\",\"messages\":[]}", names[i]);
        const char *without = "{\"model\":\"m\",\"messages\":[]}";
        assert_true(same(ask(API_CHAT, with), ask(API_CHAT, without)));
        assert_true(same(ask(API_EMBEDDINGS, with), ask(API_EMBEDDINGS, without)));
        /* the Responses API repeats them in its answer: another user must not be shown them */
        assert_false(same(ask(API_RESPONSES, with), ask(API_RESPONSES, without)));
        assert_false(same(ask(API_MESSAGES, with), ask(API_MESSAGES, without)));
    }
    const char *user = "{\"model\":\"m\",\"metadata\":{\"user_id\":\"u\"},\"messages\":[]}";
    assert_true(
        same(ask(API_MESSAGES, user), ask(API_MESSAGES, "{\"model\":\"m\",\"messages\":[]}")));
    assert_false(
        same(ask(API_RESPONSES, user), ask(API_RESPONSES, "{\"model\":\"m\",\"messages\":[]}")));
}

static void test_no_key_without_a_canonical_form(void **state)
{
    (void)state;
    CacheKey key;
    Buf scratch, body;
    buf_init(&scratch, 1 << 20);
    CacheQuestion big = ask(API_CHAT, "{\"seed\":9007199254740993}");
    assert_int_equal(cache_key(&big, &scratch, &key), -EINVAL);
    big = ask(API_CHAT, "{\"seed\":1e999}");
    assert_int_equal(cache_key(&big, &scratch, &key), -EINVAL);
    buf_init(&body, 1 << 20);
    for (int i = 0; i <= CACHE_MEMBERS_MAX; i++) buf_printf(&body, "%c\"m%d\":1", i ? ',' : '{', i);
    buf_add(&body, STR("}"));
    big = ask(API_CHAT, body.ptr);
    assert_int_equal(cache_key(&big, &scratch, &key), -EINVAL);
    buf_deinit(&scratch);
    buf_init(&scratch, 4); /* too small for the text */
    big = ask(API_CHAT, chat);
    assert_int_equal(cache_key(&big, &scratch, &key), -ENOMEM);
    buf_deinit(&scratch);
    buf_deinit(&body);
}

static bool request_ok(Api api, const char *text)
{
    RequestInfo info;
    RequestFault fault;
    const Json *body = parse(text);
    assert_int_equal(request_info_read(&arena, api, body, &info, &fault), 0);
    return cache_request_ok(&info, body);
}

static void test_requests(void **state)
{
    (void)state;
    assert_true(request_ok(API_CHAT, chat));
    assert_true(request_ok(API_CHAT, "{\"model\":\"m\",\"n\":3,\"messages\":[]}"));
    assert_true(request_ok(API_CHAT, "{\"model\":\"m\",\"store\":false,\"messages\":[]}"));
    assert_false(request_ok(API_CHAT, "{\"model\":\"m\",\"store\":true,\"messages\":[]}"));
    assert_true(request_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"hi\"}"));
    assert_false(request_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"hi\",\"store\":true}"));
    assert_false(request_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"hi\","
                                           "\"previous_response_id\":\"resp_1\"}"));
    assert_false(request_ok(API_RESPONSES, "{\"model\":\"m\",\"input\":\"hi\","
                                           "\"conversation\":\"conv_1\"}"));
    assert_false(request_ok(API_MESSAGES, "{\"model\":\"m\",\"max_tokens\":0,\"messages\":[]}"));
    assert_false(request_ok(
        API_MESSAGES, "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[],\"tools\":[{\"type\":"
                      "\"web_search_20250305\",\"name\":\"web_search\",\"max_uses\":1}]}"));
    assert_true(request_ok(
        API_MESSAGES, "{\"model\":\"m\",\"max_tokens\":9,\"messages\":[],\"system\":[{\"type\":"
                      "\"text\",\"text\":\"x\",\"cache_control\":{\"type\":\"ephemeral\"}}]}"));
    assert_true(request_ok(API_EMBEDDINGS, "{\"model\":\"m\",\"input\":\"hi\"}"));
}

static void test_who_opted_in(void **state)
{
    (void)state;
    static const char *const agents[] = { "support", "faq-*" };
    CacheConfig config = { .agents = agents, .agents_n = 2 };
    assert_true(cache_is_on(&config, STR("support"), false));
    assert_true(cache_is_on(&config, STR("faq-de"), false));
    assert_false(cache_is_on(&config, STR("sales"), false));
    assert_true(cache_is_on(&config, STR("sales"), true));
    assert_int_equal(cache_ttl_ms(&config), CACHE_TTL_MS_DEFAULT);
    assert_int_equal(cache_bytes_max(&config), CACHE_BYTES_MAX_DEFAULT);
    config.bytes_max = -1;
    assert_int_equal(cache_bytes_max(&config), 0);
    assert_false(cache_is_on(&config, STR("support"), true));
}

static void test_answers(void **state)
{
    (void)state;
    CacheConfig config = { .bytes_max = 8000 };
    CacheAnswer good = {
        .status = 200, .complete = true, .whole = true, .as_asked = true, .bytes = 1000
    };
    assert_int_equal(cache_answer_fate(&config, &good), CACHE_KEEP);
    CacheAnswer bad[] = { good, good, good, good, good };
    bad[0].status = 201;
    bad[1].status = 429;
    bad[2].complete = false;
    bad[3].as_asked = false;
    bad[4].encoded = true;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(cache_answer_fate(&config, &bad[i]), CACHE_UNFIT);
    good.bytes = 1001;
    assert_int_equal(cache_answer_fate(&config, &good), CACHE_TOO_LARGE);
    good.bytes = 10, good.whole = false;
    assert_int_equal(cache_answer_fate(&config, &good), CACHE_TOO_LARGE);
}

static void test_tool_calls_of_a_hit_count(void **state)
{
    (void)state;
    CapLimits limits = { CAP_NONE, 3, CAP_NONE, CAP_NONE };
    CapState caps = { .tool_calls = 2 };
    assert_true(cache_hit_fits(&limits, &caps, 0));
    assert_true(cache_hit_fits(&limits, &caps, 1));
    assert_true(cache_hit_fits(&limits, &caps, 5)); /* as a fresh answer might */
    caps.tool_calls = 3;
    assert_true(cache_hit_fits(&limits, &caps, 0));
    assert_false(cache_hit_fits(&limits, &caps, 1));
    caps.tool_calls = 4;
    assert_false(cache_hit_fits(&limits, &caps, 0)); /* a fresh call would be refused */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_key_ignores_how_json_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_counts_every_part, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_frames_its_parts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_counts_every_byte_of_the_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_key_leaves_out_who_asks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_key_without_a_canonical_form, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
        cmocka_unit_test(test_who_opted_in),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_tool_calls_of_a_hit_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
