#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "logic/schema.h"

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

static const Json *parsed(const char *text)
{
    const Json *v = NULL;
    if (json_parse(&arena, str_of(text), NULL, &v, NULL) != 0)
        fail_msg("%s: %s", text, diag_text());
    return v;
}

static void accepts(const char *schema, const char *value)
{
    Issue issues[4];
    IssueList list;
    issue_list_init(&list, &arena, issues, 4, NULL, NULL);
    const Json *s = parsed(schema);
    schema_check(s, NULL, &list);
    if (list.errors) fail_msg("%s: %s", schema, issues[0].message.ptr);
    SchemaError error;
    if (schema_validate(s, parsed(value), &error) != 0)
        fail_msg("%s refuses %s: %s: %s", schema, value, error.path, error.message);
}

static void refuses(const char *schema, const char *value, const char *path, const char *message)
{
    SchemaError error = { 0 };
    if (schema_validate(parsed(schema), parsed(value), &error) != SCHEMA_E_INVALID)
        fail_msg("%s accepts %s", schema, value);
    assert_string_equal(error.path, path);
    assert_string_equal(error.message, message);
    assert_int_equal(schema_validate(parsed(schema), parsed(value), NULL), SCHEMA_E_INVALID);
}

static void broken(const char *schema, const char *path, const char *message)
{
    Issue issues[4];
    IssueList list;
    issue_list_init(&list, &arena, issues, 4, NULL, NULL);
    schema_check(parsed(schema), NULL, &list);
    assert_true(list.errors > 0);
    Buf where;
    buf_init(&where, 1000);
    buf_add(&where, issues[0].path);
    buf_add_char(&where, ' ');
    assert_true(str_starts_with(buf_str(&where), str_of(path)));
    buf_deinit(&where);
    if (!strstr(issues[0].message.ptr, message)) fail_msg("%s", issues[0].message.ptr);
}

static void test_types(void **state)
{
    (void)state;
    accepts("true", "1");
    accepts("{}", "null");
    refuses("false", "1", "", "is not allowed");
    accepts("{\"type\":\"null\"}", "null");
    accepts("{\"type\":\"boolean\"}", "false");
    accepts("{\"type\":\"string\"}", "\"\"");
    accepts("{\"type\":\"array\"}", "[]");
    accepts("{\"type\":\"object\"}", "{}");
    accepts("{\"type\":\"integer\"}", "5");
    accepts("{\"type\":\"integer\"}", "5.0");
    accepts("{\"type\":\"integer\"}", "1e3");
    accepts("{\"type\":\"integer\"}", "123456789012345678901234567890");
    accepts("{\"type\":\"number\"}", "5");
    accepts("{\"type\":\"number\"}", "5.5");
    accepts("{\"type\":[\"string\",\"null\"]}", "null");
    refuses("{\"type\":\"integer\"}", "5.5", "", "expected type integer, found a number");
    refuses("{\"type\":\"string\"}", "5", "", "expected type string, found an integer");
    refuses("{\"type\":[\"string\",\"null\"]}", "[]", "",
            "expected type string or null, found an array");
    refuses("{\"type\":\"object\"}", "null", "", "expected type object, found null");
}

static void test_constants(void **state)
{
    (void)state;
    accepts("{\"enum\":[\"a\",1,null]}", "null");
    accepts("{\"enum\":[1]}", "1.0");
    accepts("{\"const\":{\"a\":[1,2]}}", "{\"a\":[1,2]}");
    refuses("{\"enum\":[\"a\",\"b\"]}", "\"c\"", "", "is not one of the values allowed: a, b");
    refuses("{\"enum\":[1]}", "2", "", "is not one of the values allowed");
    refuses("{\"const\":\"x\"}", "\"y\"", "", "is not the one value allowed");
    refuses("{\"enum\":[0]}", "false", "", "is not one of the values allowed");
}

static void test_numbers(void **state)
{
    (void)state;
    accepts("{\"minimum\":1,\"maximum\":3}", "1");
    accepts("{\"minimum\":1,\"maximum\":3}", "3");
    accepts("{\"exclusiveMinimum\":1.5}", "1.6");
    accepts("{\"multipleOf\":5}", "-10");
    accepts("{\"minimum\":9007199254740993}", "9007199254740993");
    refuses("{\"minimum\":9007199254740993}", "9007199254740992", "",
            "must be at least 9.00719925474099e+15");
    refuses("{\"minimum\":1}", "0.999", "", "must be at least 1");
    refuses("{\"maximum\":3}", "4", "", "must be at most 3");
    refuses("{\"exclusiveMinimum\":1}", "1", "", "must be more than 1");
    refuses("{\"exclusiveMaximum\":1}", "1", "", "must be less than 1");
    refuses("{\"multipleOf\":5}", "11", "", "must be a multiple of 5");
    refuses("{\"multipleOf\":5}", "5.5", "", "must be a multiple of 5");
    accepts("{\"minimum\":10}", "\"text\""); /* a rule for numbers says nothing of text */
}

static void test_strings(void **state)
{
    (void)state;
    accepts("{\"minLength\":2,\"maxLength\":2}", "\"\xc3\xa9\xe2\x82\xac\""); /* two characters */
    refuses("{\"minLength\":3}", "\"\xc3\xa9\xe2\x82\xac\"", "",
            "must have at least 3 characters, found 2");
    refuses("{\"maxLength\":1}", "\"ab\"", "", "must have at most 1 characters, found 2");
    accepts("{\"pattern\":\"^a+$\"}", "\"aaa\"");
    refuses("{\"pattern\":\"^a+$\"}", "\"aab\"", "", "does not match the pattern ^a+$");
}

static void test_arrays(void **state)
{
    (void)state;
    accepts("{\"items\":{\"type\":\"integer\"}}", "[1,2,3]");
    refuses("{\"items\":{\"type\":\"integer\"}}", "[1,\"x\"]", "[1]",
            "expected type integer, found a string");
    accepts("{\"prefixItems\":[{\"type\":\"string\"}],\"items\":{\"type\":\"integer\"}}",
            "[\"a\",1]");
    refuses("{\"prefixItems\":[{\"type\":\"string\"}],\"items\":false}", "[\"a\",1]", "[1]",
            "is not allowed");
    refuses("{\"minItems\":1}", "[]", "", "must have at least 1 elements, found 0");
    refuses("{\"maxItems\":1}", "[1,2]", "", "must have at most 1 elements, found 2");
    accepts("{\"uniqueItems\":true}", "[1,\"1\",true,{\"a\":1},{\"a\":2}]");
    refuses("{\"uniqueItems\":true}", "[1,2,1.0]", "", "elements 0 and 2 are the same");
}

static void test_objects(void **state)
{
    (void)state;
#define ORDER                                                                                   \
    "{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"string\"},\"lines\":{\"type\":"    \
    "\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"count\":{\"type\":\"integer\"," \
    "\"minimum\":1}}}}},\"required\":[\"id\"],\"additionalProperties\":false}"
    accepts(ORDER, "{\"id\":\"x\",\"lines\":[{\"count\":1},{}]}");
    refuses(ORDER, "{}", "", "`id` is missing");
    refuses(ORDER, "{\"id\":1}", "id", "expected type string, found an integer");
    refuses(ORDER, "{\"id\":\"x\",\"lines\":[{},{\"count\":0}]}", "lines[1].count",
            "must be at least 1");
    refuses(ORDER, "{\"id\":\"x\",\"linse\":[]}", "linse",
            "is not a member that is allowed: did you mean `lines`?");
    refuses(ORDER, "{\"id\":\"x\",\"zzz\":[]}", "zzz", "is not a member that is allowed");
    accepts("{\"additionalProperties\":{\"type\":\"integer\"}}", "{\"a\":1}");
    refuses("{\"additionalProperties\":{\"type\":\"integer\"}}", "{\"a\":\"1\"}", "a",
            "expected type integer, found a string");
    refuses("{\"minProperties\":1}", "{}", "", "must have at least 1 members, found 0");
    refuses("{\"maxProperties\":0}", "{\"a\":1}", "", "must have at most 0 members, found 1");
}

static void test_combinations(void **state)
{
    (void)state;
    accepts("{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", "1");
    refuses("{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", "[]", "",
            "fits none of the 2 alternatives");
    refuses("{\"anyOf\":[{\"type\":\"string\"}]}", "[]", "",
            "expected type string, found an array");
    accepts("{\"oneOf\":[{\"minimum\":5},{\"maximum\":3}]}", "6");
    refuses("{\"oneOf\":[{\"minimum\":5},{\"maximum\":9}]}", "6", "",
            "fits several of the 2 alternatives, and must fit one");
    refuses("{\"oneOf\":[{\"minimum\":5},{\"maximum\":3}]}", "4", "",
            "fits none of the 2 alternatives, and must fit one");
    refuses("{\"allOf\":[{\"minimum\":1},{\"maximum\":3}]}", "4", "", "must be at most 3");
    accepts("{\"not\":{\"type\":\"null\"}}", "4");
    refuses("{\"not\":{\"type\":\"null\"}}", "null", "", "fits the schema under `not`");
    accepts("{\"unheardOf\":1,\"title\":\"x\",\"format\":\"email\"}", "4");
}

static void test_references(void **state)
{
    (void)state;
#define TREE                                                                              \
    "{\"$ref\":\"#/$defs/node\",\"$defs\":{\"node\":{\"type\":\"object\","                \
    "\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/node\"}}" \
    "}}}}"
    accepts(TREE, "{\"kids\":[{\"kids\":[]},{}]}");
    refuses(TREE, "{\"kids\":[{\"kids\":[1]}]}", "kids[0].kids[0]",
            "expected type object, found an integer");
    /* a reference to itself ends, and does not fit, under `not` neither */
    refuses("{\"$ref\":\"#\"}", "1", "", "is too large or nested too deeply to be checked");
    refuses("{\"not\":{\"$ref\":\"#\"}}", "1", "", "fits the schema under `not`");
    refuses("{\"anyOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"}]}", "1", "",
            "fits none of the 2 alternatives");
}

static void test_deep_values_end(void **state)
{
    (void)state;
    char value[128];
    memset(value, '[', 60);
    memset(value + 60, ']', 60);
    value[120] = '\0';
    refuses("{\"items\":{\"$ref\":\"#\"}}", value,
            "[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]",
            "is too large or nested too deeply to be checked");
    accepts("{\"items\":{\"$ref\":\"#\"}}", "[[[[[[[[]]]]]]]]");
}

static void test_many_unique_elements_end(void **state)
{
    (void)state;
    Buf b;
    buf_init(&b, 1 << 20);
    buf_add(&b, STR("[0"));
    for (int i = 1; i < 5000; i++) buf_printf(&b, ",%d", i);
    buf_add(&b, STR("]"));
    refuses("{\"uniqueItems\":true}", b.ptr, "", "is too large to be checked");
    buf_deinit(&b);
}

static void test_broken_schemas(void **state)
{
    (void)state;
    broken("5", "", "expected a schema (an object or a boolean), found an integer");
    broken("{\"type\":\"strnig\"}", "type", "did you mean `string`?");
    broken("{\"type\":[\"string\",\"any\"]}", "type[1]", "expected null, boolean");
    broken("{\"type\":5}", "type", "expected null, boolean");
    broken("{\"properties\":{\"a\":{\"type\":\"x\"}}}", "properties.a.type", "expected null");
    broken("{\"properties\":[]}", "properties", "expected an object of schemas");
    broken("{\"required\":\"a\"}", "required", "expected an array of strings");
    broken("{\"required\":[1]}", "required[0]", "expected a string");
    broken("{\"items\":[{}]}", "items", "prefixItems");
    broken("{\"items\":5}", "items", "expected a schema");
    broken("{\"enum\":[]}", "enum", "at least one value");
    broken("{\"anyOf\":{}}", "anyOf", "at least one schema");
    broken("{\"anyOf\":[1]}", "anyOf[0]", "expected a schema");
    broken("{\"minLength\":-1}", "minLength", "0 or more");
    broken("{\"maximum\":\"1\"}", "maximum", "expected a number");
    broken("{\"multipleOf\":0.5}", "multipleOf", "1 or more");
    broken("{\"uniqueItems\":1}", "uniqueItems", "expected a boolean");
    broken("{\"pattern\":\"(a|b)\"}", "pattern", "pattern has a group, which is not supported");
    broken("{\"pattern\":5}", "pattern", "expected a string");
    broken("{\"$ref\":\"#/$defs/x\"}", "$ref", "is not there");
    broken("{\"$ref\":\"other.json\"}", "$ref", "is not there");
    broken("{\"patternProperties\":{},\"additionalProperties\":false}", "patternProperties",
           "not supported");
    Buf b;
    buf_init(&b, 1 << 16);
    for (int i = 0; i < 40; i++) buf_add(&b, STR("{\"not\":"));
    buf_add(&b, STR("{}"));
    for (int i = 0; i < 40; i++) buf_add(&b, STR("}"));
    broken(b.ptr, "not.not", "nested more than 32 deep");
    buf_deinit(&b);
}

/* --- patterns ------------------------------------------------------------------------------- */

static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool matches;
    } cases[] = {
        { "", "", true },
        { "", "x", true },
        { "b", "abc", true },
        { "^b", "abc", false },
        { "c$", "abc", true },
        { "b$", "abc", false },
        { "^abc$", "abc", true },
        { "^$", "", true },
        { "^$", "a", false },
        { "^a.c$", "abc", true },
        { "^a.c$", "a\nc", false },
        { "^a.c$",
          "a\xe2\x82\xac"
          "c",
          true }, /* one character, not three */
        { "^a*$", "", true },
        { "^a*b$", "aaab", true },
        { "^a+$", "", false },
        { "^a?b$", "ab", true },
        { "^a?b$", "aab", false },
        { "^a{3}$", "aaa", true },
        { "^a{3}$", "aaaa", false },
        { "^a{2,}$", "aaaa", true },
        { "^a{2,3}$", "aaaa", false },
        { "^a{0}b$", "b", true },
        { "^a*?b$", "aab", true },
        { "^[a-c]+$", "abcabc", true },
        { "^[a-c]+$", "abd", false },
        { "^[^a-c]+$", "xyz", true },
        { "^[^a-c]+$", "xaz", false },
        { "^[\\d_-]+$", "12_-3", true },
        { "^[-a]+$", "-a", true },
        { "^[\\]x]+$", "]x]", true },
        { "^[.*+]$", "*", true },
        { "^[\xc3\xa0-\xc3\xbc]$", "\xc3\xa9", true },
        { "^\\d{4}-\\d{2}-\\d{2}$", "2026-01-02", true },
        { "^\\d{4}-\\d{2}-\\d{2}$", "2026-1-02", false },
        { "^\\w+@\\w+\\.\\w+$", "me@example.org", true },
        { "^\\w+@\\w+\\.\\w+$", "me@exampleXorg", false },
        { "^\\S+\\s\\S+$", "two words", true },
        { "^\\D\\W$", "a!", true },
        { "\\$\\^\\.\\*", "a$^.*b", true },
        { "^\\t\\n$", "\t\n", true },
        { "^.*.*.*x$", "aaaaax", true },
        { "a}", "a}", true },
        { "^\\/a$", "/a", true },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        int r = schema_pattern(str_of(cases[i].pattern), str_of(cases[i].text));
        if (r != (cases[i].matches ? 0 : SCHEMA_E_INVALID))
            fail_msg("%s on %s: %d", cases[i].pattern, cases[i].text, r);
    }
    assert_int_equal(schema_pattern(STR("^a\0b$"), STR("a\0b")), 0);
}

static void test_patterns_outside_the_subset(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "(a)",     "a|b",   "*a",    "a**",   "+",          "a{",      "a{x}",    "a{3,2}",
        "a{1001}", "[a",    "[c-a]", "a\\",   "\\bword",    "\\1",     "\\u0041", "a^b",
        "a$b",     "(?=a)", "[\\b]", "a{,3}", "\\\xc3\xa9", "a\\p{L}",
    };
    for (size_t i = 0; i < ARRAY_N(patterns); i++)
        if (schema_pattern(str_of(patterns[i]), STR("")) != -EINVAL) fail_msg("%s", patterns[i]);
    char many[100];
    for (int i = 0; i < 99; i++) many[i] = "a*?"[i % 3];
    assert_int_equal(schema_pattern(str_make(many, 96), STR("a")), 0);
    assert_int_equal(schema_pattern(str_make(many, 99), STR("a")), -EINVAL);
    char big[SCHEMA_PATTERN_BYTES_MAX + 1];
    memset(big, 'a', sizeof big);
    assert_int_equal(schema_pattern(str_make(big, sizeof big), STR("a")), -EINVAL);
    assert_int_equal(schema_pattern(STR("\\\0"), STR("a")), 0 + SCHEMA_E_INVALID);
}

static void test_patterns_end(void **state)
{
    (void)state;
    static char text[2000];
    memset(text, 'a', sizeof text);
    assert_int_equal(schema_pattern(STR("^a*a*a*a*a*a*a*a*b$"), str_make(text, sizeof text)),
                     SCHEMA_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_constants),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_combinations),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_deep_values_end),
        cmocka_unit_test(test_many_unique_elements_end),
        cmocka_unit_test(test_broken_schemas),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_patterns_outside_the_subset),
        cmocka_unit_test(test_patterns_end),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
