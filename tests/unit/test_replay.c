#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "logic/replay.h"
#include "tests/unit/random.h"

typedef struct {
    uint8_t bytes[SHA256_BYTES];
    char canonical[1024];
} Key;

static Key key_of(const char *route, const char *text, const ReplayMask *mask)
{
    Arena arena;
    Buf canonical;
    Key key = { .canonical = "" };
    const Json *body;
    arena_init(&arena, 1 << 20);
    buf_init(&canonical, 1000);
    assert_int_equal(json_parse(&arena, str_of(text), NULL, &body, NULL), 0);
    ReplayMarks marks = { .n = 0 };
    replay_model_key(str_of(route), body, str_of(text), mask, NULL, &canonical, &marks, key.bytes);
    assert_int_equal(marks.n, 0);
    if (canonical.len) str_copy(key.canonical, sizeof key.canonical, buf_str(&canonical));
    buf_deinit(&canonical);
    arena_deinit(&arena);
    return key;
}

static bool same(Key a, Key b)
{
    return memcmp(a.bytes, b.bytes, SHA256_BYTES) == 0;
}

/* --- keys ------------------------------------------------------------------------------------- */

static void test_what_is_asked_makes_the_key(void **state)
{
    (void)state;
    Key key = key_of("chat", "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", NULL);
    assert_string_equal(key.canonical, "{\"messages\":[{\"role\":\"user\"}],\"model\":\"m\"}");
    assert_true(
        same(key, key_of("chat", " {\"messages\": [{\"role\":\"user\"}],\"model\":\"m\" }", NULL)));
    assert_false(same(
        key, key_of("responses", "{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]}", NULL)));
    assert_false(
        same(key, key_of("chat", "{\"model\":\"n\",\"messages\":[{\"role\":\"user\"}]}", NULL)));
}

static void test_who_asks_does_not(void **state)
{
    (void)state;
    Key key = key_of("chat", "{\"model\":\"m\"}", NULL);
    assert_true(same(key, key_of("chat",
                                 "{\"user\":\"u\",\"model\":\"m\",\"metadata\":{\"a\":1},"
                                 "\"stream_options\":{\"include_usage\":true},"
                                 "\"prompt_cache_key\":\"k\",\"safety_identifier\":\"s\"}",
                                 NULL)));
    /* further down these are the caller's own words */
    assert_false(same(key_of("chat", "{\"tools\":[{\"user\":\"a\"}]}", NULL),
                      key_of("chat", "{\"tools\":[{\"user\":\"b\"}]}", NULL)));
}

static void test_masks(void **state)
{
    (void)state;
    Str pointers[] = { STR("/messages/0/content"), STR("/absent"), STR("") };
    ReplayMask mask = { pointers, 3 };
    const char *early = "{\"messages\":[{\"content\":\"at 10:00\"},{\"content\":\"hi\"}]}";
    const char *late = "{\"messages\":[{\"content\":\"at 10:05\"},{\"content\":\"hi\"}]}";
    const char *other = "{\"messages\":[{\"content\":\"at 10:00\"},{\"content\":\"ho\"}]}";
    assert_false(same(key_of("chat", early, NULL), key_of("chat", late, NULL)));
    assert_true(same(key_of("chat", early, &mask), key_of("chat", late, &mask)));
    assert_false(same(key_of("chat", early, &mask), key_of("chat", other, &mask)));
}

static void test_more_masks_than_are_looked_at(void **state)
{
    (void)state;
    Str pointers[REPLAY_MASK_MAX + 1];
    for (size_t i = 0; i < REPLAY_MASK_MAX; i++) pointers[i] = STR("/absent");
    pointers[REPLAY_MASK_MAX] = STR("/a");
    ReplayMask mask = { pointers, REPLAY_MASK_MAX + 1 };
    assert_true(same(key_of("chat", "{\"a\":1}", NULL), key_of("chat", "{\"a\":1}", &mask)));
    pointers[REPLAY_MASK_MAX - 1] = STR("/a");
    assert_true(same(key_of("chat", "{}", NULL), key_of("chat", "{\"a\":1}", &mask)));
}

/* RFC 8785 has no form for these; the bytes themselves do. */
static void test_no_canonical_form(void **state)
{
    (void)state;
    const char *big = "{\"seed\":12345678901234567890123}";
    Key key = key_of("chat", big, NULL);
    assert_string_equal(key.canonical, "");
    assert_true(same(key, key_of("chat", big, NULL)));
    assert_false(same(key, key_of("chat", "{\"seed\":12345678901234567890124}", NULL)));
    assert_string_equal(key_of("chat", "{\"seed\":9007199254740993}", NULL).canonical, "");
}

static void test_form_that_does_not_fit(void **state)
{
    (void)state;
    char text[2100] = "{\"a\":\"";
    memset(text + 6, 'x', 2000);
    memcpy(text + 2006, "\"}", 3);
    Key key = key_of("chat", text, NULL);
    assert_string_equal(key.canonical, "");
    assert_true(same(key, key_of("chat", text, NULL)));
}

static void test_tool_keys(void **state)
{
    (void)state;
    Arena arena;
    Buf canonical;
    const Json *args;
    uint8_t tool[SHA256_BYTES], other[SHA256_BYTES], model[SHA256_BYTES];
    arena_init(&arena, 1 << 16);
    buf_init(&canonical, 1000);
    Str text = STR("{\"user\":\"u\"}");
    assert_int_equal(json_parse(&arena, text, NULL, &args, NULL), 0);
    replay_tool_key(STR("mail"), args, text, &canonical, tool);
    assert_string_equal(canonical.ptr, "{\"user\":\"u\"}"); /* nothing is left out of arguments */
    buf_clear(&canonical);
    replay_tool_key(STR("post"), args, text, &canonical, other);
    buf_clear(&canonical);
    ReplayMarks marks = { .n = 0 };
    replay_model_key(STR("mail"), args, text, NULL, NULL, &canonical, &marks, model);
    assert_memory_not_equal(tool, other, SHA256_BYTES);
    assert_memory_not_equal(tool, model, SHA256_BYTES);
    buf_deinit(&canonical);
    arena_deinit(&arena);
}

/* A digested request, and what is known of it. */
typedef struct {
    Arena arena;
    Buf canonical;
    ReplayMarks marks;
    const char *route;
    uint8_t key[SHA256_BYTES];
} Digested;

#define FORM_MAX ((REPLAY_MARKS_MAX + 2) * REPLAY_MARK_BYTES)

static void digested_init(Digested *d, const char *route, const char *text, const Digested *before)
{
    const Json *body;
    arena_init(&d->arena, 8 << 20);
    buf_init(&d->canonical, FORM_MAX);
    d->marks.n = 0;
    d->route = route;
    assert_int_equal(json_parse(&d->arena, str_of(text), NULL, &body, NULL), 0);
    ReplayKnown known = { 0 };
    if (before)
        known = (ReplayKnown){ str_of(before->route), buf_str(&before->canonical), &before->marks };
    replay_model_key(str_of(route), body, str_of(text), NULL, before ? &known : NULL, &d->canonical,
                     &d->marks, d->key);
}

static void digested_deinit(Digested *d)
{
    replay_marks_deinit(&d->marks);
    buf_deinit(&d->canonical);
    arena_deinit(&d->arena);
}

/* A request whose form has n bytes; from byte `from` on it differs from others. */
static char *long_request(size_t n, size_t from, char differs)
{
    char *text = malloc(n + 1);
    memset(text, 'x', n);
    memcpy(text, "{\"a\":\"", 6);
    if (from < n - 2) memset(text + from, differs, n - 2 - from);
    memcpy(text + n - 2, "\"}", 3);
    return text;
}

/* What is known of the request before changes no key, wherever they part. */
static void test_a_key_does_not_depend_on_the_one_before(void **state)
{
    (void)state;
    Random random = { 17 };
    for (int i = 0; i < 60; i++) {
        size_t n = (size_t)random_range(&random, 10, i % 10 ? 60000 : FORM_MAX - 2);
        size_t m = (size_t)random_range(&random, 10, i % 10 ? 60000 : FORM_MAX - 2);
        char *first = long_request(n, n, 'x');
        char *second = long_request(m, (size_t)random_range(&random, 6, 70000), 'y');
        const char *route = i % 5 ? "chat" : "messages";
        Digested a, b, alone;
        digested_init(&a, "chat", first, NULL);
        digested_init(&b, route, second, &a);
        digested_init(&alone, route, second, NULL);
        assert_memory_equal(b.key, alone.key, SHA256_BYTES);
        assert_int_equal(b.marks.n, alone.marks.n);
        assert_int_equal(b.marks.n, MIN(m / REPLAY_MARK_BYTES, REPLAY_MARKS_MAX));
        digested_deinit(&a); /* its marks are its own */
        digested_init(&a, route, first, &b);
        Digested again;
        digested_init(&again, route, first, NULL);
        assert_memory_equal(a.key, again.key, SHA256_BYTES);
        digested_deinit(&again);
        digested_deinit(&a);
        digested_deinit(&b);
        digested_deinit(&alone);
        free(first);
        free(second);
    }
}

/* --- an attempt ------------------------------------------------------------------------------- */

static ReplayEntry entry(int64_t n, char key, ReplayKind kind, bool complete)
{
    ReplayEntry e = { .n = n, .kind = kind, .complete = complete };
    memset(e.key, key, sizeof e.key);
    return e;
}

static int next_of(Replay *replay, ReplayKind kind, char key, int64_t *ret_n)
{
    uint8_t bytes[SHA256_BYTES];
    const ReplayEntry *found;
    memset(bytes, key, sizeof bytes);
    int r = replay_next(replay, kind, bytes, &found);
    *ret_n = found ? found->n : 0;
    return r;
}

#define EXPECT(replay, kind, key, r, found)                   \
    do {                                                      \
        int64_t n_;                                           \
        assert_int_equal(next_of(replay, kind, key, &n_), r); \
        assert_int_equal(n_, found);                          \
    } while (0)

static void test_served_in_order(void **state)
{
    (void)state;
    ReplayEntry entries[] = { entry(1, 'a', REPLAY_MODEL, true), entry(2, 'b', REPLAY_MODEL, true),
                              entry(3, 'a', REPLAY_MODEL, true), entry(4, 'a', REPLAY_TOOL, true) };
    Replay replay = { .entries = entries, .n = ARRAY_N(entries) };
    EXPECT(&replay, REPLAY_MODEL, 'b', 0, 2); /* beside each other: another order */
    EXPECT(&replay, REPLAY_MODEL, 'a', 0, 1);
    EXPECT(&replay, REPLAY_MODEL, 'c', REPLAY_E_DIFFERS, 3);
    EXPECT(&replay, REPLAY_MODEL, 'a', 0, 3);
    EXPECT(&replay, REPLAY_MODEL, 'a', REPLAY_E_END, 0);
    EXPECT(&replay, REPLAY_TOOL, 'a', 0, 4); /* tools are counted apart */
    EXPECT(&replay, REPLAY_TOOL, 'a', REPLAY_E_END, 0);
    assert_int_equal(replay.hits, 4);
    assert_int_equal(replay.misses, 1);
}

static void test_incomplete_is_a_miss(void **state)
{
    (void)state;
    ReplayEntry entries[] = { entry(1, 'a', REPLAY_MODEL, false), entry(2, 'a', REPLAY_MODEL, true),
                              entry(3, 'b', REPLAY_MODEL, false) };
    Replay replay = { .entries = entries, .n = ARRAY_N(entries) };
    EXPECT(&replay, REPLAY_MODEL, 'a', 0, 2); /* the second try had an answer */
    EXPECT(&replay, REPLAY_MODEL, 'b', REPLAY_E_INCOMPLETE, 0);
    EXPECT(&replay, REPLAY_MODEL, 'b', REPLAY_E_DIFFERS, 1);
    EXPECT(&replay, REPLAY_MODEL, 'a', REPLAY_E_INCOMPLETE, 0);
    EXPECT(&replay, REPLAY_MODEL, 'a', REPLAY_E_END, 0);
    assert_int_equal(replay.hits, 1);
    assert_int_equal(replay.misses, 3);
}

static void test_no_recordings(void **state)
{
    (void)state;
    Replay replay = { .n = 0 };
    EXPECT(&replay, REPLAY_MODEL, 'a', REPLAY_E_END, 0);
    assert_int_equal(replay.hits + replay.misses, 0);
}

/* --- differences ------------------------------------------------------------------------------ */

static void test_diff(void **state)
{
    (void)state;
    ReplayDiff diff = replay_diff(STR("{\"now\":\"10:00\"}"), STR("{\"now\":\"10:05\"}"));
    assert_int_equal(diff.offset, 12);
    assert_string_equal(diff.expected, "{\"now\":\"10:00\"}");
    assert_string_equal(diff.came, "{\"now\":\"10:05\"}");
    diff = replay_diff(STR("abc"), STR("abcd"));
    assert_int_equal(diff.offset, 3);
    assert_string_equal(diff.expected, "abc");
    diff = replay_diff(STR(""), STR("x"));
    assert_int_equal(diff.offset, 0);
    assert_string_equal(diff.expected, "");
    assert_string_equal(diff.came, "x");
}

static void test_diff_keeps_characters_whole(void **state)
{
    (void)state;
    char a[301] = "", b[301] = "";
    for (int i = 0; i < 100; i++) memcpy(a + 3 * (size_t)i, "\xe2\x82\xac", 3);
    memcpy(b, a, sizeof b);
    b[151] = '\x83'; /* within a character */
    ReplayDiff diff = replay_diff(str_make(a, 300), str_make(b, 300));
    assert_int_equal(diff.offset, 151);
    assert_true(diff.expected[0] == '\xe2' && str_is_utf8(str_of(diff.expected)));
    assert_true(str_is_utf8(str_of(diff.came)));
    assert_true(strlen(diff.expected) > 50);
    diff = replay_diff(STR("\xff\xfe"), STR("\xff\xfd"));
    assert_string_equal(diff.came, "(not text)");
}

/* --- what requests have in common ------------------------------------------------------------- */

static void check_share(Str base, Str text, size_t rest_max)
{
    Buf out;
    buf_init(&out, text.len + 1);
    ReplayShare share = replay_share(base, text);
    Str rest = replay_rest(text, share);
    assert_true(rest.len <= rest_max);
    assert_true(share.prefix + share.suffix <= MIN(base.len, text.len));
    assert_int_equal(replay_join(base, share, rest, &out), 0);
    assert_int_equal(out.len, text.len);
    if (text.len) assert_memory_equal(out.ptr, text.ptr, text.len);
    buf_deinit(&out);
}

static void test_share(void **state)
{
    (void)state;
    check_share(STR("{\"messages\":[1,2],\"model\":\"m\"}"),
                STR("{\"messages\":[1,2,3,4],\"model\":\"m\"}"), 4);
    check_share(STR("same"), STR("same"), 0);
    check_share(STR(""), STR("all"), 3);
    check_share(STR("gone"), STR(""), 0);
    check_share(STR("aaaa"), STR("aaaaaa"), 2);
    check_share(STR("aaaaaa"), STR("aaaa"), 0);
}

static void test_share_random(void **state)
{
    (void)state;
    Random seed = { 0x7e91a };
    char a[400], b[400];
    for (int round = 0; round < 20000; round++) {
        size_t a_len = random_next(&seed) % sizeof a, b_len = random_next(&seed) % sizeof b;
        for (size_t i = 0; i < sizeof a; i++) a[i] = "ab"[random_next(&seed) % 64 == 0];
        for (size_t i = 0; i < sizeof b; i++) b[i] = "ab"[random_next(&seed) % 64 == 0];
        check_share(str_make(a, a_len), str_make(b, b_len), b_len);
    }
}

static void test_join_refuses_another_base(void **state)
{
    (void)state;
    Buf out;
    buf_init(&out, 100);
    assert_int_equal(replay_join(STR("short"), (ReplayShare){ 4, 2 }, STR(""), &out), -EINVAL);
    assert_int_equal(replay_join(STR("short"), (ReplayShare){ 6, 0 }, STR(""), &out), -EINVAL);
    assert_int_equal(replay_join(STR("short"), (ReplayShare){ 1, SIZE_MAX }, STR(""), &out),
                     -EINVAL);
    buf_deinit(&out);
    buf_init(&out, 4);
    assert_int_equal(replay_join(STR("short"), (ReplayShare){ 3, 2 }, STR("x"), &out), -ENOMEM);
    buf_deinit(&out);
}

static void test_kind_names(void **state)
{
    (void)state;
    ReplayKind kind;
    for (int i = 0; i < REPLAY_KIND_N_; i++) {
        assert_int_equal(replay_kind_from(str_of(replay_kind_name((ReplayKind)i)), &kind), 0);
        assert_int_equal(kind, i);
    }
    assert_int_equal(replay_kind_from(STR("other"), &kind), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_asked_makes_the_key),
        cmocka_unit_test(test_who_asks_does_not),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_more_masks_than_are_looked_at),
        cmocka_unit_test(test_no_canonical_form),
        cmocka_unit_test(test_form_that_does_not_fit),
        cmocka_unit_test(test_tool_keys),
        cmocka_unit_test(test_a_key_does_not_depend_on_the_one_before),
        cmocka_unit_test(test_served_in_order),
        cmocka_unit_test(test_incomplete_is_a_miss),
        cmocka_unit_test(test_no_recordings),
        cmocka_unit_test(test_diff),
        cmocka_unit_test(test_diff_keeps_characters_whole),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_share_random),
        cmocka_unit_test(test_join_refuses_another_base),
        cmocka_unit_test(test_kind_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
