#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/diag.h"
#include "codec/url.h"

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

static void test_accepted(void **state)
{
    (void)state;
    static const struct {
        const char *text, *canonical, *host;
        uint16_t port;
    } cases[] = {
        { "http://a", "http://a/", "a", 80 },
        { "https://a", "https://a/", "a", 443 },
        { "HTTPS://Api.Example.COM/v1", "https://api.example.com/v1", "api.example.com", 443 },
        { "https://a.example.:8443/x", "https://a.example:8443/x", "a.example", 8443 },
        { "http://a:80/", "http://a/", "a", 80 },
        { "http://a:443/", "http://a:443/", "a", 443 },
        { "http://a:65535?q", "http://a:65535/?q", "a", 65535 },
        { "http://a?q=1#frag", "http://a/?q=1", "a", 80 },
        { "http://a/b#", "http://a/b", "a", 80 },
        { "http://a/%41/../b;c,d!$&'()*+=:@~-._?x[]=|/?",
          "http://a/%41/../b;c,d!$&'()*+=:@~-._?x[]=|/?", "a", 80 },
        { "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1", "127.0.0.1", 8000 },
        { "http://[::1]/", "http://[::1]/", "[::1]", 80 },
        { "http://[2001:DB8:0:0:0:0:0:1]:8080/x", "http://[2001:db8::1]:8080/x", "[2001:db8::1]",
          8080 },
        { "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "[::ffff:7f00:1]", 80 },
        { "http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example",
          80 },
        { "http://1a/", "http://1a/", "1a", 80 },
        { "http://1.2.3.4a/", "http://1.2.3.4a/", "1.2.3.4a", 80 },
        { "http://0xg/", "http://0xg/", "0xg", 80 },
        { "http://12.example/", "http://12.example/", "12.example", 80 },
        { "http://a--b.c-d/", "http://a--b.c-d/", "a--b.c-d", 80 },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Url url, again;
        if (url_parse(&arena, str_of(cases[i].text), &url) != 0)
            fail_msg("%s: %s", cases[i].text, diag_text());
        Str text = url_text(&arena, &url);
        assert_string_equal(text.ptr, cases[i].canonical);
        assert_true(str_eq(url.host, str_of(cases[i].host)));
        assert_int_equal(url.port, cases[i].port);
        assert_int_equal(url_parse(&arena, text, &again), 0);
        assert_true(str_eq(url_text(&arena, &again), text));
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "a",
        "/",
        "//a/",
        "a:80",
        "http:",
        "http:/",
        "http:/a",
        "http:a",
        "http://",
        "http:///",
        "http:///a",
        " http://a/",
        "http://a/ ",
        "http://a b/",
        "http://a/b c",
        "http://a/\t",
        "http://a\n/",
        "http://a/\n",
        "ftp://a/",
        "file:///etc/passwd",
        "gopher://a/",
        "javascript:x",
        "httpx://a/",
        "unix://a/",
        "h\xc5\xbftp://a/",
        "http://u@a/",
        "http://u:p@a/",
        "http://@a/",
        "http://a@/",
        "http://a.example@evil/",
        "http://a:80@evil/",
        "http://a\\@evil/",
        "http://a/b\\c",
        "http://a\\/",
        "http:\\\\a/",
        "http://a#@evil/\x01",
        "http://%61/",
        "http://a%2e/",
        "http://a%00.evil/",
        "http://[%3a%3a1]/",
        "http://a%/",
        "http://[::1%25eth0]/",
        "http://[::1%eth0]/",
        "http://[fe80::1%1]/",
        "http://-a/",
        "http://a-/",
        "http://a.-b/",
        "http://a_b/",
        "http://a..b/",
        "http://.a/",
        "http://./",
        "http://../",
        "http://a../",
        "http://*.a/",
        "http://a,b/",
        "http://a;b/",
        "http://a!/",
        "http://\xc3\xa4/",
        "http://\xef\xbd\x81/",
        "http://0/",
        "http://1/",
        "http://2130706433/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://0x/",
        "http://0X7F.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.01/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3.4../",
        "http://a.1/",
        "http://a.0x1/",
        "http://a.08/",
        "http://1.2.3.4./",
        "http://[]/",
        "http://[::1/",
        "http://::1/",
        "http://[1.2.3.4]/",
        "http://[a]/",
        "http://[::1]a/",
        "http://[::1]]/",
        "http://[[::1]]/",
        "http://a[::1]/",
        "http://[::1]:/",
        "http://[::1].a/",
        "http://a:/",
        "http://a:0/",
        "http://a:65536/",
        "http://a:99999999999/",
        "http://a:-1/",
        "http://a:+80/",
        "http://a:080/",
        "http://a:8 0/",
        "http://a:80:80/",
        "http://a:http/",
        "http://:80/",
        "http://a/%",
        "http://a/%4",
        "http://a/%4g",
        "http://a/?%",
        "http://a/#%",
        "http://a/\"",
        "http://a/<",
        "http://a/>",
        "http://a/`",
        "http://a/{b}",
        "http://a/^",
        "http://a/\x7f",
        "http://a/\xc3\xa4",
        "http://a/#\x01",
        "http://a/#a#b",
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        Url url;
        diag_clear();
        if (url_parse(&arena, str_of(bad[i]), &url) != -EINVAL) fail_msg("accepted: %s", bad[i]);
        assert_true(strlen(diag_text()) > 0);
    }
}

static void test_nul(void **state)
{
    (void)state;
    static const Str bad[] = { { "http://a\0.b/", 12 }, { "http://a/\0", 10 },
                               { "http://a/?\0", 11 },  { "http://a/#\0", 11 },
                               { "http\0://a/", 10 },   { "http://a:8\0/", 12 } };
    Url url;
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(url_parse(&arena, bad[i], &url), -EINVAL);
}

static void test_addresses(void **state)
{
    (void)state;
    Url url;
    assert_int_equal(url_parse(&arena, STR("http://10.1.2.3/"), &url), 0);
    assert_true(url.host_is_addr && url.addr.bits == 32 && url.addr.bytes[0] == 10);
    assert_int_equal(url_parse(&arena, STR("http://[::1]/"), &url), 0);
    assert_true(url.host_is_addr && url.addr.bits == 128 && url.addr.bytes[15] == 1);
    assert_int_equal(url_parse(&arena, STR("http://localhost/"), &url), 0);
    assert_false(url.host_is_addr);
}

/* A label of 63 bytes and a name of 253 pass, one more does not; the same for the whole text. */
static void test_lengths(void **state)
{
    (void)state;
    Url url;
    char text[URL_BYTES_MAX + 2];
    for (int n = 63; n <= 64; n++) {
        Str label = arena_printf(&arena, "http://%0*da.example/", n - 1, 0);
        assert_int_equal(url_parse(&arena, label, &url), n == 63 ? 0 : -EINVAL);
    }
    Str four = arena_printf(&arena, "http://%062da.%062da.%062da.%060da/", 0, 0, 0, 0);
    assert_int_equal(url_parse(&arena, four, &url), 0);
    assert_int_equal(url.host.len, 253);
    four = arena_printf(&arena, "http://%062da.%062da.%062da.%061da/", 0, 0, 0, 0);
    assert_int_equal(url_parse(&arena, four, &url), -EINVAL);
    memset(text, 'a', sizeof text);
    memcpy(text, "http://a/", 9);
    assert_int_equal(url_parse(&arena, str_make(text, URL_BYTES_MAX), &url), 0);
    assert_int_equal(url_parse(&arena, str_make(text, URL_BYTES_MAX + 1), &url), -EINVAL);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    int failed = 0;
    for (size_t max = 0; max < 1000; max += 8) {
        Arena small;
        Url url;
        arena_init(&small, max);
        int r = url_parse(&small, STR("https://a.example/a/long/path?and=query"), &url);
        assert_true(r == 0 || r == -ENOMEM);
        failed += r != 0;
        if (r == 0 && !url_text(&small, &url).ptr) failed++;
        arena_deinit(&small);
    }
    assert_in_range(failed, 2, 100);
}

static void test_join(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        { "https://a/v1", "/chat", "https://a/v1/chat" },
        { "https://a/v1/", "/chat", "https://a/v1/chat" },
        { "https://a", "/chat", "https://a/chat" },
        { "https://a/", "/chat", "https://a/chat" },
        { "https://a/v1?k=1", "/chat", "https://a/v1/chat?k=1" },
        { "https://a/v1", "/chat?x=2", "https://a/v1/chat?x=2" },
        { "https://a/v1/?k=1#f", "/chat?x=2", "https://a/v1/chat?k=1&x=2" },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++)
        assert_string_equal(url_join(&arena, str_of(cases[i][0]), str_of(cases[i][1])).ptr,
                            cases[i][2]);
}

static void test_decode(void **state)
{
    (void)state;
    Str out;
    assert_int_equal(url_decode(&arena, STR("a%20b+c%2F%e2%82%ac"), false, &out), 0);
    assert_string_equal(out.ptr, "a b+c/\xe2\x82\xac");
    assert_int_equal(url_decode(&arena, STR("a+b%2B"), true, &out), 0);
    assert_string_equal(out.ptr, "a b+");
    assert_int_equal(url_decode(&arena, STR(""), true, &out), 0);
    assert_int_equal(out.len, 0);
    static const char *const bad[] = {
        "%", "%4", "a%", "%4g", "%g4", "%%41", "%00", "a%00b", "% 41"
    };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        assert_int_equal(url_decode(&arena, str_of(bad[i]), true, &out), -EINVAL);
}

static void test_encode(void **state)
{
    (void)state;
    char all[255];
    CLEANUP(buf_deinit) Buf buf = { 0 };
    Str back;
    for (size_t i = 0; i < sizeof all; i++) all[i] = (char)(i + 1);
    buf_init(&buf, 1000);
    assert_true(url_encode(&buf, str_make(all, sizeof all)));
    assert_int_equal(url_decode(&arena, buf_str(&buf), true, &back), 0);
    assert_true(str_eq(back, str_make(all, sizeof all)));
    buf_clear(&buf);
    assert_true(url_encode(&buf, STR("aZ09-._~ /?&=+%\xff")));
    assert_string_equal(buf.ptr, "aZ09-._~%20%2F%3F%26%3D%2B%25%FF");
    CLEANUP(buf_deinit) Buf tiny = { 0 };
    buf_init(&tiny, 3);
    assert_true(url_encode(&tiny, STR("/")));
    assert_false(url_encode(&tiny, STR("a")));
}

static void test_query(void **state)
{
    (void)state;
    Str query = STR("a=1&&b=x+y%20z&%63=3&d&e=&a=2&bad=%zz&f=a=b"), out;
    static const char *const cases[][2] = { { "a", "1" }, { "b", "x y z" }, { "c", "3" },
                                            { "d", "" },  { "e", "" },      { "f", "a=b" } };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        assert_int_equal(url_query_find(&arena, query, str_of(cases[i][0]), &out), 0);
        assert_string_equal(out.ptr, cases[i][1]);
    }
    assert_int_equal(url_query_find(&arena, query, STR("bad"), &out), -EINVAL);
    assert_int_equal(url_query_find(&arena, query, STR("A"), &out), -ENOENT);
    assert_int_equal(url_query_find(&arena, query, STR("aa"), &out), -ENOENT);
    assert_int_equal(url_query_find(&arena, STR(""), STR("a"), &out), -ENOENT);
    assert_int_equal(url_query_find(&arena, STR("%=1&a%=2"), STR("a"), &out), -ENOENT);
}

static void test_path_segments(void **state)
{
    (void)state;
    static const char *const cases[][2] = { { "/a/b", "a|b|" }, { "/", "|" },
                                            { "/a/", "a||" },   { "//", "||" },
                                            { "/%2F", "%2F|" }, { "", "" },
                                            { "*", "" } };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        char got[64] = "";
        size_t n = 0;
        Str rest = str_of(cases[i][0]), segment;
        while (url_path_next(&rest, &segment)) {
            memcpy(got + n, segment.ptr, segment.len);
            n += segment.len;
            got[n++] = '|';
        }
        assert_string_equal(got, cases[i][1]);
    }
}

static void test_path_match(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *path, *first, *second;
        int n;
    } cases[] = {
        { "/", "/", NULL, NULL, 0 },
        { "/a", "/a", NULL, NULL, 0 },
        { "/a", "/a/", NULL, NULL, -ENOENT },
        { "/a/", "/a", NULL, NULL, -ENOENT },
        { "/a", "/b", NULL, NULL, -ENOENT },
        { "/a", "/A", NULL, NULL, -ENOENT },
        { "/a", "/%61", NULL, NULL, -ENOENT },
        { "/a", "/aa", NULL, NULL, -ENOENT },
        { "/a/{id}", "/a/7", "7", NULL, 1 },
        { "/a/{id}", "/a/", NULL, NULL, -ENOENT },
        { "/a/{id}", "/a", NULL, NULL, -ENOENT },
        { "/a/{id}", "/a/7/b", NULL, NULL, -ENOENT },
        { "/a/{id}/b/{x}", "/a/7%2F/b/8", "7%2F", "8", 2 },
        { "/a/{id}/b", "/a/7/c", NULL, NULL, -ENOENT },
        { "/s/{key...}", "/s/a/b/", "a/b/", NULL, 1 },
        { "/s/{key...}", "/s/a", "a", NULL, 1 },
        { "/s/{key...}", "/s/", NULL, NULL, -ENOENT },
        { "/s/{key...}", "/s", NULL, NULL, -ENOENT },
        { "/{a}/{key...}", "/x//y", "x", "/y", 2 },
        { "/a", "*", NULL, NULL, -ENOENT },
        { "/a", "", NULL, NULL, -ENOENT },
    };
    for (size_t i = 0; i < ARRAY_N(cases); i++) {
        Str params[URL_PARAMS_MAX];
        int n = url_path_match(cases[i].pattern, str_of(cases[i].path), params);
        if (n != cases[i].n) fail_msg("%s and %s: %d", cases[i].pattern, cases[i].path, n);
        if (n > 0) assert_true(str_eq(params[0], str_of(cases[i].first)));
        if (n > 1) assert_true(str_eq(params[1], str_of(cases[i].second)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nul),           cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_lengths),       cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_join),          cmocka_unit_test(test_decode),
        cmocka_unit_test(test_encode),        cmocka_unit_test(test_query),
        cmocka_unit_test(test_path_segments), cmocka_unit_test(test_path_match),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
