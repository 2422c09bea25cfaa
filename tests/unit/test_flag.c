#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "codec/murmur3.h"
#include "logic/flag.h"

static Arena arena;

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

static const Json *json(const char *text)
{
    const Json *v;
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &v, NULL), 0);
    return v;
}

static Flag flag(const char *key, const char *definition)
{
    Flag f;
    FlagFault fault = { { 0 }, { 0 } };
    if (flag_parse(&arena, str_of(key), json(definition), &f, &fault) != 0)
        fail_msg("%s: %s", fault.member, fault.message);
    return f;
}

static void refused(const char *key, const char *definition, const char *member)
{
    Flag f = { .rules_n = 77 };
    FlagFault fault = { { 0 }, { 0 } };
    assert_int_equal(flag_parse(&arena, str_of(key), json(definition), &f, &fault), FLAG_E_INVALID);
    assert_int_equal(f.rules_n, 77);
    assert_string_equal(fault.member, member);
    assert_true(fault.message[0]);
}

static const FlagContext alice = { .agent = STR("support"),
                                   .version_id = STR("9f3ac21d0b7e4411"),
                                   .tenant_id = STR("acme"),
                                   .user_id = STR("alice"),
                                   .task_id = STR("0192f3aa") };
static const FlagContext bob = { .agent = STR("triage"),
                                 .version_id = STR("1c88e04aa9120000"),
                                 .user_id = STR("bob"),
                                 .task_id = STR("0192f3ab") };

/* --- buckets ---------------------------------------------------------------------------------- */

static void test_murmur3_vectors(void **state)
{
    (void)state;
    assert_int_equal(murmur3_32(STR(""), 0), 0);
    assert_int_equal(murmur3_32(STR(""), 1), 0x514e28b7);
    assert_int_equal(murmur3_32(STR("a"), 0), 0x3c2569b2);
    assert_int_equal(murmur3_32(STR("test"), 0), 0xba6bd213);
    assert_int_equal(murmur3_32(STR("hello"), 0), 0x248bfa47);
    assert_int_equal(murmur3_32(STR("hello, world"), 0), 0x149bbb7f);
    assert_int_equal(murmur3_32(STR("The quick brown fox jumps over the lazy dog"), 0), 0x2e4ff723);
}

static void test_buckets_are_even(void **state)
{
    (void)state;
    char unit[32];
    int below = 0;
    for (int i = 0; i < 20000; i++) {
        snprintf(unit, sizeof unit, "user-%d", i);
        uint32_t bucket = murmur3_bucket(STR("salt"), str_of(unit));
        assert_true(bucket < BUCKETS);
        below += bucket < 2500;
    }
    assert_in_range(below, 4700, 5300); /* 5000, and five deviations of 61 */
    /* salt and unit do not run into one another */
    assert_int_not_equal(murmur3_bucket(STR("ab"), STR("c")), murmur3_bucket(STR("a"), STR("bc")));
}

static void test_buckets_of_long_texts(void **state)
{
    (void)state;
    static char text[5000];
    memset(text, 'x', sizeof text);
    Str whole = str_make(text, sizeof text);
    assert_true(murmur3_bucket(whole, whole) < BUCKETS);
    assert_int_equal(murmur3_bucket(STR("s"), whole), murmur3_bucket(STR("s"), str_skip(whole, 9)));
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_keys(void **state)
{
    (void)state;
    static const char *const good[] = {
        "a",           "new-search", "a.b_c",
        "Z9",          "tool:x",     "tool:re*",
        "model:sim/*", "tasks",      "model:gpt-4o-mini-2024-07-18"
    };
    static const char *const bad[] = { "",         ".a",  "a b", "tool:",    "model:",
                                       "tool:a b", "a/b", "a:b", "\xc3\xa9", "tool:a\x7f" };
    for (size_t i = 0; i < ARRAY_N(good); i++) assert_true(flag_key_ok(str_of(good[i])));
    for (size_t i = 0; i < ARRAY_N(bad); i++) assert_false(flag_key_ok(str_of(bad[i])));
    char longest[FLAG_KEY_BYTES_MAX + 1];
    memset(longest, 'k', sizeof longest);
    assert_true(flag_key_ok(str_make(longest, FLAG_KEY_BYTES_MAX)));
    assert_false(flag_key_ok(str_make(longest, FLAG_KEY_BYTES_MAX + 1)));
}

static void test_refused_definitions(void **state)
{
    (void)state;
    refused("a b", "{\"value\":true}", "key");
    refused("k", "[]", "");
    refused("k", "{}", "value");
    refused("k", "{\"value\":null}", "value");
    refused("k", "{\"value\":{}}", "value");
    refused("k", "{\"value\":18446744073709551616}", "value");
    refused("k", "{\"value\":1,\"colour\":2}", "");
    refused("k", "{\"value\":1,\"description\":7}", "description");
    refused("k", "{\"value\":1,\"rules\":{}}", "rules");
    refused("k", "{\"value\":1,\"rules\":[7]}", "rules[0].");
    refused("k", "{\"value\":1,\"rules\":[{}]}", "rules[0].value");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":1},{\"value\":true}]}", "rules[1].value");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"x\":1}]}", "rules[0].");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"users\":\"a\"}]}", "rules[0].users");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"users\":[]}]}", "rules[0].users");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"users\":[1]}]}", "rules[0].users");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"versions\":[\"9f3ac21\"]}]}",
            "rules[0].versions");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"percent\":100.5}]}", "rules[0].percent");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"percent\":\"5\"}]}", "rules[0].percent");
    refused("k", "{\"value\":1,\"rules\":[{\"value\":2,\"by\":\"moon\"}]}", "rules[0].by");
    refused("tool:x", "{\"value\":\"off\"}", "value");
    refused("tasks", "{\"value\":1}", "value");
}

static void test_too_many_rules(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 20);
    for (int n = FLAG_RULES_MAX; n <= FLAG_RULES_MAX + 1; n++) {
        buf_clear(&text);
        buf_printf(&text, "{\"value\":1,\"rules\":[");
        for (int i = 0; i < n; i++) buf_printf(&text, "%s{\"value\":2}", i ? "," : "");
        buf_printf(&text, "]}");
        if (n == FLAG_RULES_MAX) assert_int_equal(flag("k", text.ptr).rules_n, n);
        else refused("k", text.ptr, "rules");
    }
}

static void test_long_lists(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 20);
    for (int n = FLAG_LIST_MAX; n <= FLAG_LIST_MAX + 1; n++) {
        buf_clear(&text);
        buf_printf(&text, "{\"value\":1,\"rules\":[{\"value\":2,\"users\":[");
        for (int i = 0; i < n; i++) buf_printf(&text, "%s\"u%d\"", i ? "," : "", i);
        buf_printf(&text, "]}]}");
        if (n == FLAG_LIST_MAX) assert_int_equal(flag("k", text.ptr).rules_n, 1);
        else refused("k", text.ptr, "rules[0].users");
    }
}

/* --- deciding --------------------------------------------------------------------------------- */

static void expect(const Flag *f, const FlagContext *c, const char *value, FlagReason reason,
                   int rule)
{
    FlagAnswer answer = flag_eval(f, c);
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1024);
    JsonOut out = json_out(&text);
    json_out_value(&out, answer.value);
    assert_string_equal(text.ptr, value);
    assert_int_equal(answer.reason, reason);
    assert_int_equal(answer.rule, rule);
}

static void test_first_rule_that_fits(void **state)
{
    (void)state;
    Flag f = flag("k", "{\"value\":\"old\",\"rules\":["
                       "{\"users\":[\"carol\",\"alice\"],\"agents\":[\"triage\"],\"value\":\"a\"},"
                       "{\"tenants\":[\"acme\"],\"versions\":[\"9f3ac21d\"],\"value\":\"b\"},"
                       "{\"users\":[\"alice\"],\"value\":\"c\"}]}");
    expect(&f, &alice, "\"b\"", FLAG_TARGETED, 1);
    expect(&f, &bob, "\"old\"", FLAG_DEFAULT, -1);
    Flag plain = flag("k", "{\"value\":2.5}");
    expect(&plain, &alice, "2.5", FLAG_STATIC, -1);
    Flag all = flag("k", "{\"value\":1,\"rules\":[{\"value\":2.5}]}");
    expect(&all, &bob, "2.5", FLAG_TARGETED, 0);
}

static void test_percentages_only_add(void **state)
{
    (void)state;
    char unit[32], text[128];
    int before = 0;
    static bool was[2000];
    memset(was, 0, sizeof was);
    for (int percent = 0; percent <= 100; percent += 25) {
        snprintf(text, sizeof text, "{\"value\":false,\"rules\":[{\"percent\":%d,\"value\":true}]}",
                 percent);
        Flag f = flag("ramp", text);
        int on = 0;
        for (int i = 0; i < 2000; i++) {
            snprintf(unit, sizeof unit, "u%d", i);
            FlagContext c = { .user_id = str_of(unit) };
            bool now = json_bool(flag_eval(&f, &c).value, false);
            assert_true(now || !was[i]); /* a unit that had it keeps it */
            was[i] = now;
            on += now;
        }
        assert_true(on >= before);
        assert_in_range(on, percent * 20 - 120 < 0 ? 0 : percent * 20 - 120, percent * 20 + 120);
        before = on;
    }
    assert_int_equal(before, 2000);
}

static void test_units(void **state)
{
    (void)state;
    Flag all = flag("k",
                    "{\"value\":0,\"rules\":[{\"percent\":100,\"by\":\"tenant\",\"value\":1}]}");
    expect(&all, &alice, "1", FLAG_SPLIT, 0);
    expect(&all, &bob, "0", FLAG_DEFAULT, -1); /* has no tenant */
    /* the session comes before the user, the user before the task */
    Flag half = flag("k", "{\"value\":0,\"rules\":[{\"percent\":50,\"value\":1}]}");
    for (int i = 0; i < 50; i++) {
        char session[16], user[16];
        snprintf(session, sizeof session, "s%d", i);
        snprintf(user, sizeof user, "u%d", i);
        FlagContext both = { .session_id = str_of(session),
                             .user_id = str_of(user),
                             .task_id = STR("t") };
        FlagContext one = { .session_id = str_of(session), .task_id = STR("other") };
        assert_int_equal(flag_eval(&half, &both).rule, flag_eval(&half, &one).rule);
        FlagContext u = { .user_id = str_of(user), .task_id = STR("t") };
        FlagContext v = { .user_id = str_of(user), .task_id = STR("other") };
        assert_int_equal(flag_eval(&half, &u).rule, flag_eval(&half, &v).rule);
    }
}

/* --- sets ------------------------------------------------------------------------------------- */

static FlagSet set_of(const char *text)
{
    FlagSet set;
    assert_int_equal(flags_parse(&arena, json(text), &set), 0);
    return set;
}

static void test_switches(void **state)
{
    (void)state;
    FlagSet set = set_of(
        "[{\"key\":\"tool:refund*\",\"value\":true,\"rules\":[{\"tenants\":[\"acme\"],"
        "\"value\":false}]},{\"key\":\"model:gpt-*\",\"value\":false},"
        "{\"key\":\"tasks\",\"value\":true,\"rules\":[{\"users\":[\"bob\"],"
        "\"value\":false}]},{\"key\":\"tool\",\"value\":false}]");
    assert_false(flags_tool_on(&set, &alice, STR("refund_order")));
    assert_true(flags_tool_on(&set, &bob, STR("refund_order")));
    assert_true(flags_tool_on(&set, &alice, STR("lookup")));
    assert_false(flags_model_on(&set, &bob, STR("gpt-4o")));
    assert_true(flags_model_on(&set, &bob, STR("claude-x")));
    assert_true(flags_tasks_on(&set, &alice));
    assert_false(flags_tasks_on(&set, &bob));
    assert_true(flags_tool_on(NULL, &alice, STR("x")) && flags_model_on(NULL, &alice, STR("x")) &&
                flags_tasks_on(NULL, &alice));
}

static void test_written_for_agents(void **state)
{
    (void)state;
    FlagSet set = set_of("[{\"key\":\"a\",\"value\":true},{\"key\":\"tool:x\",\"value\":false},"
                         "{\"key\":\"b\",\"value\":\"x\",\"rules\":[{\"users\":[\"bob\"],\"value\":"
                         "\"y\"}]},{\"key\":\"c\",\"value\":1.5},{\"key\":\"bad key\",\"value\":1},"
                         "{\"key\":\"later\",\"value\":1,\"invented\":1}]");
    assert_int_equal(set.n, 4);
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1024);
    JsonOut out = json_out(&text);
    flags_write(&out, &set, &bob);
    assert_string_equal(text.ptr, "{\"a\":true,\"b\":\"y\",\"c\":1.5}");
    buf_clear(&text);
    out = json_out(&text);
    flags_write(&out, NULL, &bob);
    assert_string_equal(text.ptr, "{}");
    assert_non_null(flags_find(&set, STR("b")));
    assert_null(flags_find(&set, STR("z")));
}

static void test_written_again(void **state)
{
    (void)state;
    static const char full[] =
        "{\"value\":\"old\",\"rules\":[{\"agents\":[\"a\"],\"users\":[\"u\"],\"tenants\":[\"t\"],"
        "\"versions\":[\"9f3ac21d\"],\"percent\":12.34,\"by\":\"user\",\"value\":\"new\"}],"
        "\"description\":\"why\"}";
    Flag f = flag("k", full);
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1024);
    JsonOut out = json_out(&text);
    flag_write(&out, &f);
    assert_string_equal(text.ptr, full);
}

static void test_sets_have_a_limit(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text;
    FlagSet set;
    buf_init(&text, 1 << 20);
    buf_add_char(&text, '[');
    for (int i = 0; i <= FLAGS_MAX; i++)
        buf_printf(&text, "%s{\"key\":\"k%d\",\"value\":1}", i ? "," : "", i);
    buf_add_char(&text, ']');
    assert_int_equal(flags_parse(&arena, json(text.ptr), &set), -EINVAL);
    assert_int_equal(flags_parse(&arena, json("{}"), &set), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_murmur3_vectors),
        cmocka_unit_test(test_buckets_are_even),
        cmocka_unit_test(test_buckets_of_long_texts),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_refused_definitions),
        cmocka_unit_test(test_too_many_rules),
        cmocka_unit_test(test_long_lists),
        cmocka_unit_test(test_first_rule_that_fits),
        cmocka_unit_test(test_percentages_only_add),
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_switches),
        cmocka_unit_test(test_written_for_agents),
        cmocka_unit_test(test_written_again),
        cmocka_unit_test(test_sets_have_a_limit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
