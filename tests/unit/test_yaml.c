#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "base/diag.h"
#include "codec/yaml.h"

#define ARENA_BYTES ((size_t)64 << 20)

/* That text parses, to the same tree as json. */
static void check_tree(const char *text, const char *json)
{
    CLEANUP(arena_deinit) Arena arena;
    CLEANUP(buf_deinit) Buf buf;
    const Json *got = NULL;
    arena_init(&arena, ARENA_BYTES);
    buf_init(&buf, 1 << 20);
    int r = yaml_parse(&arena, str_of(text), &got, NULL);
    if (r < 0) print_error("refused: %s\n%s\n", text, diag_text());
    assert_int_equal(r, 0);
    JsonOut out = json_out(&buf);
    json_out_value(&out, got);
    assert_string_equal(buf.ptr, json);
}

/* That text is refused with a diagnosis that begins with want. */
static void check_refused(const char *text, int code, const char *want)
{
    CLEANUP(arena_deinit) Arena arena;
    const Json *got = NULL;
    YamlMarks *marks = NULL;
    arena_init(&arena, ARENA_BYTES);
    diag_clear();
    assert_int_equal(yaml_parse(&arena, str_of(text), &got, &marks), code);
    if (strncmp(diag_text(), want, strlen(want)) != 0)
        print_error("%s\ngot  %s\nwant %s\n", text, diag_text(), want);
    assert_int_equal(strncmp(diag_text(), want, strlen(want)), 0);
    assert_true(got == NULL && marks == NULL);
}

static void test_structure(void **state)
{
    (void)state;
    check_tree("a: 1\nb:\n  - x\n  - y: 2\n    z: []\nc: {}\n",
               "{\"a\":1,\"b\":[\"x\",{\"y\":2,\"z\":[]}],\"c\":{}}");
    check_tree("- - 1\n  - 2\n-\n- {a: [b, c]}\n", "[[1,2],null,{\"a\":[\"b\",\"c\"]}]");
    check_tree("{\"json\": [1, 2.5, null, true, \"x\"]}", "{\"json\":[1,2.5,null,true,\"x\"]}");
    check_tree("just text\n", "\"just text\"");
    check_tree("--- # comment\na: 1 # more\n...\n", "{\"a\":1}");
    check_tree("\xef\xbb\xbf"
               "a: 1\r\nb: 2\r\n",
               "{\"a\":1,\"b\":2}");
    check_tree("? k\n: v\n", "{\"k\":\"v\"}");
}

static void test_empty(void **state)
{
    (void)state;
    check_tree("", "null");
    check_tree("\n\n", "null");
    check_tree("# nothing\n", "null");
    check_tree("---\n", "null");
}

static void test_plain_scalars(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *json;
    } scalars[] = {
        { "0", "0" },
        { "-0", "0" },
        { "12", "12" },
        { "-12.50", "-12.5" },
        { "1e3", "1000.0" },
        { "1E-2", "0.01" },
        { "18446744073709551616", "18446744073709551616" },
        { "1e999", "1e999" },
        { "true", "true" },
        { "True", "true" },
        { "TRUE", "true" },
        { "false", "false" },
        { "False", "false" },
        { "FALSE", "false" },
        { "null", "null" },
        { "Null", "null" },
        { "NULL", "null" },
        { "~", "null" },
        /* and what stays text */
        { "no", "\"no\"" },
        { "yes", "\"yes\"" },
        { "on", "\"on\"" },
        { "Off", "\"Off\"" },
        { "y", "\"y\"" },
        { "tRUE", "\"tRUE\"" },
        { "nULL", "\"nULL\"" },
        { "010", "\"010\"" },
        { "0o10", "\"0o10\"" },
        { "0x1f", "\"0x1f\"" },
        { "-01", "\"-01\"" },
        { "+1", "\"+1\"" },
        { ".5", "\".5\"" },
        { "5.", "\"5.\"" },
        { "1.e5", "\"1.e5\"" },
        { "1e", "\"1e\"" },
        { "1e+", "\"1e+\"" },
        { "--1", "\"--1\"" },
        { "1_000", "\"1_000\"" },
        { "1,000", "\"1,000\"" },
        { "190:20:30", "\"190:20:30\"" },
        { "2026-01-02", "\"2026-01-02\"" },
        { "2026-01-02T03:04:05Z", "\"2026-01-02T03:04:05Z\"" },
        { ".inf", "\".inf\"" },
        { ".NaN", "\".NaN\"" },
        { "1.2.3", "\"1.2.3\"" },
        { "5m", "\"5m\"" },
        { "a b  c", "\"a b  c\"" },
        { "http://x/y#z", "\"http://x/y#z\"" },
    };
    for (size_t i = 0; i < ARRAY_N(scalars); i++) {
        char text[64], want[64];
        snprintf(text, sizeof text, "k: %s\n", scalars[i].yaml);
        snprintf(want, sizeof want, "{\"k\":%s}", scalars[i].json);
        check_tree(text, want);
    }
}

static void test_quoted_scalars_are_strings(void **state)
{
    (void)state;
    check_tree("[\"1\", 'true', \"null\", '~', \"\", '', !!str 1, ! 2]",
               "[\"1\",\"true\",\"null\",\"~\",\"\",\"\",\"1\",\"2\"]");
    check_tree("a: 'it''s'\nb: \"\\t\\\"\\\\\\u20ac\\x41\\0\"\n",
               "{\"a\":\"it's\",\"b\":\"\\t\\\"\\\\\xe2\x82\xac"
               "A\\u0000\"}");
    check_tree("a: \"\\ud83d\\ude00\"\n", "{\"a\":\"\xf0\x9f\x98\x80\"}");
    check_tree("a: |\n  1\n  x\nb: >-\n  p\n  q\nc: |+\n  k\n\n",
               "{\"a\":\"1\\nx\\n\",\"b\":\"p q\",\"c\":\"k\\n\\n\"}");
    check_tree("a: |\n  true\n", "{\"a\":\"true\\n\"}");
}

/* More pieces than libfyaml's first table of them holds, and breaks that only some YAML has. */
static void test_scalars_in_many_pieces(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text, want;
    buf_init(&text, 1 << 16);
    buf_init(&want, 1 << 16);
    buf_add(&text, STR("? '"));
    buf_add(&want, STR("{\""));
    for (int i = 0; i < 200; i++) buf_add(&text, STR("x''")), buf_add(&want, STR("x'"));
    buf_add(&text, STR("'\n: \""));
    buf_add(&want, STR("\":\""));
    for (int i = 0; i < 200; i++)
        buf_add(&text, STR("x\\t\\u00e9\xe2\x80\xa8")),
            buf_add(&want, STR("x\\t\xc3\xa9\xe2\x80\xa8"));
    buf_add(&text, STR("\"\n"));
    buf_add(&want, STR("\"}"));
    check_tree(text.ptr, want.ptr);
    check_tree("a: |+\n  x\n\n   \xe2\x80\xa9\n \n", "{\"a\":\"x\\n\\n \xe2\x80\xa9\\n\\n\"}");
}

static void test_keys(void **state)
{
    (void)state;
    check_tree("1: a\ntrue: b\n~: c\n'q': d\n? >\n  e\n: f\n",
               "{\"1\":\"a\",\"true\":\"b\",\"~\":\"c\",\"q\":\"d\",\"e\\n\":\"f\"}");
    check_tree("'<<': 1\n", "{\"<<\":1}");
    check_refused("? [a]\n: 1\n", -EINVAL, "line 1 column 3: a key must be a scalar");
    check_refused("{a: 1, {b: 2}: 3}\n", -EINVAL, "line 1 column 8: a key must be a scalar");
    check_refused("<<: {a: 1}\n", -EINVAL, "line 1 column 1: merge keys (<<) are not supported");
    check_refused("&k a: 1\n", -EINVAL, "line 1 column 4: an anchor on a key");
    check_refused("a: &x b\n*x : 1\n", -EINVAL, "line 2 column ");
}

static void test_duplicate_keys(void **state)
{
    (void)state;
    check_refused("a: 1\nb: 2\na: 3\n", -EINVAL,
                  "line 3 column 1: the same key twice in one object");
    check_refused("a: 1\n\"a\": 2\n", -EINVAL, "line 2 column 1: the same key twice");
    check_refused("x:\n  - k: 1\n    l: 2\n    k: 3\n", -EINVAL,
                  "line 4 column 5: the same key twice");
    check_refused("{a: 1, 'a': 2}\n", -EINVAL, "line 1 column 8: the same key twice");
    check_refused("p: {\xc3\xa9: 1, \xc3\xa9: 2}\n", -EINVAL,
                  "line 1 column 11: the same key twice");
    check_tree("a: {a: {a: 1}}\n", "{\"a\":{\"a\":{\"a\":1}}}");
}

static void test_refusals(void **state)
{
    (void)state;
    check_refused("a:\n\tb: 1\n", -EINVAL, "line 2 column 1: tab");
    check_refused("a: 1\n---\nb: 2\n", -EINVAL, "line 2 column 1: a second document");
    check_refused("a: 1\n...\n---\nb: 2\n", -EINVAL, "line 3 column 1: a second document");
    check_refused("a: [1, 2\n", -EINVAL, "line 2 column 1: ");
    check_refused("a: b: c\n", -EINVAL, "line 1 column 5: ");
    check_refused("a: 'x\n", -EINVAL, "line 1 column ");
    check_refused("a: \"\\q\"\n", -EINVAL, "line 1 column ");
    check_refused("a: @x\n", -EINVAL, "line 1 column 4: ");
    check_refused("a: \"\\ud83d\"\n", -EINVAL, "line 1 column ");
    check_refused("a: !!int 1\n", -EINVAL, "line 1 column 10: tags other than !!str");
    check_refused("a: !!map {b: 1}\n", -EINVAL, "line 1 column 10: tags other than !!str");
    check_refused("a: !mine x\n", -EINVAL, "line 1 column 10: tags other than !!str");
    check_refused("%YAML 1.1\n---\na: 1\n", -EINVAL, "line 1 column 1: ");
    check_refused("a: 1\n...\n%TAG ! x\n---\nb: 1\n", -EINVAL, "line 3 column 1: ");
    check_refused("a: \xff\n", -EINVAL, "not UTF-8");
    check_refused("a: \x01\n", -EINVAL, "not UTF-8");
    check_refused("\xff\xfe"
                  "a",
                  -EINVAL, "not UTF-8");
}

/* libfyaml would like to print its errors itself. */
static void test_errors_are_not_printed(void **state)
{
    (void)state;
    int ends[2], kept = dup(STDERR_FILENO);
    char printed[64];
    fflush(stderr);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    close(ends[1]);
    check_refused("a: [1, 2\nb: }\n", -EINVAL, "line 2 column ");
    check_refused("a: &\n", -EINVAL, "line 1 column ");
    fflush(stderr);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    assert_int_equal(read(ends[0], printed, sizeof printed), 0);
    close(ends[0]);
}

/* --- aliases ---------------------------------------------------------------------------------- */

static void test_aliases(void **state)
{
    (void)state;
    check_tree("a: &x {k: [1, 2]}\nb: *x\nc: [*x, &y z, *y]\n",
               "{\"a\":{\"k\":[1,2]},\"b\":{\"k\":[1,2]},\"c\":[{\"k\":[1,2]},\"z\",\"z\"]}");
    check_tree("- &a 1\n- *a\n- &a 2\n- *a\n", "[1,1,2,2]"); /* the last one of a name holds */
    check_tree("- &a\n- *a\n", "[null,null]");
    check_refused("a: *x\nb: &x 1\n", -EINVAL, "line 1 column 4: an alias without its anchor");
    check_refused("a: &x [1, *x]\n", -EINVAL, "line 1 column 11: an alias inside");
}

/* Ten aliases of ten aliases of ...: refused by the count, long before the memory is used. */
static void test_alias_bombs(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, 1 << 16);
    buf_add(&text, STR("- &a0 x\n"));
    for (int i = 1; i < 10; i++) {
        buf_printf(&text, "- &a%d [", i);
        for (int j = 0; j < 10; j++) buf_printf(&text, "*a%d,", i - 1);
        buf_add(&text, STR("]\n"));
    }
    check_refused(text.ptr, -EFBIG, "over 100000 nodes");

    buf_clear(&text); /* few nodes, many bytes */
    buf_add(&text, STR("- &a "));
    for (int i = 0; i < 50000; i++) buf_add_char(&text, 'x');
    for (int i = 0; i < 400; i++) buf_add(&text, STR("\n- *a"));
    check_refused(text.ptr, -EFBIG, "over 16777216 bytes");

    buf_clear(&text); /* deep rather than wide */
    buf_add(&text, STR("- &a0 x\n"));
    for (int i = 1; i < 80; i++) buf_printf(&text, "- &a%d [*a%d]\n", i, i - 1);
    check_refused(text.ptr, -EINVAL, "line 65 column 9: nested too deeply");

    buf_clear(&text);
    for (int i = 0; i < 257; i++) buf_printf(&text, "- &a%d x\n", i);
    check_refused(text.ptr, -EINVAL, "line 257 column 9: too many anchors");
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_depth(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text, json;
    buf_init(&text, 1000);
    buf_init(&json, 1000);
    for (int i = 0; i < 64; i++) buf_add(&text, STR("- "));
    for (int i = 0; i < 64; i++) buf_add(&json, STR("["));
    buf_add(&text, STR("1"));
    buf_add(&json, STR("1"));
    for (int i = 0; i < 64; i++) buf_add(&json, STR("]"));
    check_tree(text.ptr, json.ptr);
    buf_clear(&text);
    for (int i = 0; i < 65; i++) buf_add(&text, STR("- "));
    check_refused(text.ptr, -EINVAL, "line 1 column 129: nested too deeply");
}

static void test_size(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf text;
    buf_init(&text, YAML_BYTES_MAX + 1);
    while (text.len < YAML_BYTES_MAX) buf_add_char(&text, '\n');
    check_tree(text.ptr, "null");
    buf_add_char(&text, '\n');
    check_refused(text.ptr, -EFBIG, "YAML over 262144 bytes");
}

static void test_every_quota_below_fails_cleanly(void **state)
{
    (void)state;
    Str text = STR("a: &x [1, two, {three: 3}]\nb: *x\nc: {d: {e: f}}\n");
    size_t refused = 0;
    for (size_t quota = 0; quota < 40000; quota += 128) {
        CLEANUP(arena_deinit) Arena arena;
        const Json *v;
        YamlMarks *marks;
        arena_init(&arena, quota);
        int r = yaml_parse(&arena, text, &v, &marks);
        assert_true(r == 0 || r == -ENOMEM);
        refused += r != 0;
        if (quota > 30000) assert_int_equal(r, 0);
    }
    assert_true(refused > 10);
}

/* --- marks ------------------------------------------------------------------------------------ */

static const char manifest[] = "# an agent\n"
                               "name: x\n"
                               "spec:\n"
                               "  limits:\n"
                               "    usdPerTask: 0.5\n"
                               "    'timeout': 5m\n"
                               "  tools:\n"
                               "    - name: a\n"
                               "      args: [p, {q: 1}]\n"
                               "    - name: b\n"
                               "  \"a/b~c\": 1\n"
                               "  \xc3\xa9: 1\n"
                               "copy: &c {k: v}\n"
                               "other: [*c, \"z\"]\n";

static void check_mark(const YamlMarks *marks, const char *pointer, bool found, size_t line,
                       size_t column)
{
    size_t got_line, got_column;
    assert_int_equal(yaml_mark(marks, str_of(pointer), &got_line, &got_column), found);
    if (got_line != line || got_column != column)
        print_error("%s: %zu:%zu, not %zu:%zu\n", pointer, got_line, got_column, line, column);
    assert_true(got_line == line && got_column == column);
}

static void test_marks(void **state)
{
    (void)state;
    CLEANUP(arena_deinit) Arena arena;
    const Json *v;
    YamlMarks *marks;
    arena_init(&arena, ARENA_BYTES);
    assert_int_equal(yaml_parse(&arena, str_of(manifest), &v, &marks), 0);
    check_mark(marks, "", true, 2, 1);
    check_mark(marks, "/name", true, 2, 1);
    check_mark(marks, "/spec", true, 3, 1);
    check_mark(marks, "/spec/limits/usdPerTask", true, 5, 5);
    check_mark(marks, "/spec/limits/timeout", true, 6, 5);
    check_mark(marks, "/spec/tools/0", true, 8, 7);
    check_mark(marks, "/spec/tools/0/args/0", true, 9, 14);
    check_mark(marks, "/spec/tools/0/args/1/q", true, 9, 18);
    check_mark(marks, "/spec/tools/1/name", true, 10, 7);
    check_mark(marks, "/spec/a~1b~0c", true, 11, 3);
    check_mark(marks, "/spec/\xc3\xa9", true, 12, 3);
    check_mark(marks, "/other/0", true, 14, 9);
    check_mark(marks, "/other/1", true, 14, 13);
    /* what is not there: its nearest parent */
    check_mark(marks, "/missing", false, 2, 1);
    check_mark(marks, "/spec/limits/missing/deeper", false, 4, 3);
    check_mark(marks, "/spec/tools/2", false, 7, 3);
    check_mark(marks, "/spec/tools/x/name", false, 7, 3);
    check_mark(marks, "/spec/tools/-1", false, 7, 3);
    check_mark(marks, "/name/0", false, 2, 1);
    check_mark(marks, "/other/0/k", false, 14, 9); /* the alias stands for all of it */
    check_mark(marks, "/spec/", false, 3, 1);
    check_mark(marks, "spec", false, 2, 1); /* no pointer */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_plain_scalars),
        cmocka_unit_test(test_quoted_scalars_are_strings),
        cmocka_unit_test(test_scalars_in_many_pieces),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_duplicate_keys),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_errors_are_not_printed),
        cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_alias_bombs),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_every_quota_below_fails_cleanly),
        cmocka_unit_test(test_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
