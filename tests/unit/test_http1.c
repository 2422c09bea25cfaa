#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "codec/http1.h"
#include "http1_transcript.h"

#define HOST "Host: h\r\n"
#define EMPTY "left=0"

/* The transcript must be want however the bytes are cut. */
static void expect_with(const Http1Limits *limits, Str bytes, const char *want)
{
    const size_t steps[] = { SIZE_MAX / 2, 1, 2, 3, 7, 64 };
    for (size_t i = 0; i < ARRAY_N(steps); i++) {
        CLEANUP(buf_deinit) Buf got = { 0 };
        buf_init(&got, 1 << 20);
        transcript(&got, limits, bytes, steps[i], 0);
        if (strcmp(got.ptr, want) != 0)
            print_error("in steps of %zu:\n%.*s\n", steps[i], STR_ARG(bytes));
        assert_string_equal(got.ptr, want);
    }
}

static void expect(const char *bytes, const char *want)
{
    expect_with(NULL, str_of(bytes), want);
}

/* Refused with this status, at the same byte and for the same reason however the bytes are cut. */
static void expect_refused(const Http1Limits *limits, Str bytes, int status, const char *name)
{
    CLEANUP(buf_deinit) Buf whole = { 0 };
    char want[32];
    buf_init(&whole, 1 << 20);
    snprintf(want, sizeof want, "ERROR %d ", status);
    transcript(&whole, limits, bytes, SIZE_MAX / 2, 0);
    bool ok = str_find(buf_str(&whole), str_of(want)) >= 0 &&
              str_find(buf_str(&whole), STR("END")) < 0;
    if (!ok) print_error("%s: %s\n", name, whole.ptr);
    assert_true(ok);
    expect_with(limits, bytes, whole.ptr);
}

static void test_plain(void **state)
{
    (void)state;
    expect("GET / HTTP/1.1\r\n" HOST "\r\n", "GET path=/ host=h [Host=h]; body= END " EMPTY);
    expect("GET /a/b?c=d?e HTTP/1.1\r\n" HOST "X: \t y z \t\r\nEmpty:\r\n\r\n",
           "GET path=/a/b query=c=d?e host=h [Host=h] [X=y z] [Empty=]; body= END " EMPTY);
    expect("OPTIONS * HTTP/1.1\r\n" HOST "\r\n",
           "OPTIONS path=* host=h [Host=h]; body= END " EMPTY);
    expect("\r\nPUT //x HTTP/1.1\r\n" HOST "\r\n",
           "PUT path=//x host=h [Host=h]; body= END " EMPTY);
    expect("GET / HTTP/1.1\r\nhOST: [::1]:80\r\nn: \x80\xff\r\n\r\n",
           "GET path=/ host=[::1]:80 [hOST=[::1]:80] [n=\x80\xff]; body= END " EMPTY);
    expect("GET / HTTP/1.1\r\nHo", "left=0");
    expect("", "left=0");
}

static void test_methods(void **state)
{
    (void)state;
    static const char *const good[] = {
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"
    };
    static const char *const bad[] = { "TRACE", "SOURCE",   "PROPFIND", "QUERY",
                                       "PURGE", "M-SEARCH", "get",      "GETT",
                                       "G",     "DESCRIBE", "FLUSH" };
    char text[128], want[128];
    for (size_t i = 0; i < ARRAY_N(good); i++) {
        snprintf(text, sizeof text, "%s /x HTTP/1.1\r\n" HOST "\r\n", good[i]);
        snprintf(want, sizeof want, "%s path=/x host=h [Host=h]; body= END " EMPTY, good[i]);
        expect(text, want);
    }
    for (size_t i = 0; i < ARRAY_N(bad); i++) {
        snprintf(text, sizeof text, "%s /x HTTP/1.1\r\n" HOST "\r\n", bad[i]);
        expect_refused(NULL, str_of(text), 400, bad[i]);
    }
}

static void test_bodies(void **state)
{
    (void)state;
    expect("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello",
           "POST path=/ host=h [Host=h] [Content-Length=5] length=5; body=hello END " EMPTY);
    expect("POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n",
           "POST path=/ host=h [Host=h] [Content-Length=0]; body= END " EMPTY);
    expect("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhel",
           "POST path=/ host=h [Host=h] [Content-Length=5] length=5; left=0");
    expect(
        "POST / HTTP/1.1\r\n" HOST
        "Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n6;a=b;c\r\n world\r\n0\r\n\r\n",
        "POST path=/ host=h [Host=h] [Transfer-Encoding=Chunked] chunked; body=hello world END " EMPTY);
    expect(
        "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n00000000000000Aa;x=\"y\"\r\n"
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
        "0123456789012345678901234567890123456789012345678901234567890123456789\r\n0\r\nX: y\r\nZ:\r\n\r\n",
        "POST path=/ host=h [Host=h] [Transfer-Encoding=chunked] chunked; body="
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
        "0123456789012345678901234567890123456789012345678901234567890123456789 END " EMPTY);
}

static void test_pipelining(void **state)
{
    (void)state;
    expect("GET /1 HTTP/1.1\r\n" HOST "\r\nPOST /2 HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nab"
           "POST /3 HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
           "GET /4 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\nGET /5",
           "GET path=/1 host=h [Host=h]; body= END "
           "POST path=/2 host=h [Host=h] [Content-Length=2] length=2; body=ab END "
           "POST path=/3 host=h [Host=h] [Transfer-Encoding=chunked] chunked; body=x END "
           "GET path=/4 host=h [Host=h] [Connection=close] close; body= END left=6");
}

static void test_keep_alive(void **state)
{
    (void)state;
    expect("GET / HTTP/1.0\r\n\r\n", "GET path=/ 1.0 close; body= END " EMPTY);
    expect("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
           "GET path=/ [Connection=Keep-Alive] 1.0; body= END " EMPTY);
    expect("GET / HTTP/1.1\r\n" HOST "Connection: x, Close\r\n\r\n",
           "GET path=/ host=h [Host=h] [Connection=x, Close] close; body= END " EMPTY);
}

static void test_expect(void **state)
{
    (void)state;
    expect(
        "POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
        "POST path=/ host=h [Host=h] [Expect=100-Continue] [Content-Length=1] length=1 continue; body=x END " EMPTY);
    expect("POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n\r\n",
           "POST path=/ host=h [Host=h] [Expect=100-continue]; body= END " EMPTY);
    expect(
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        "POST path=/ [Expect=100-continue] [Content-Length=1] length=1 1.0 close; body=x END " EMPTY);
    expect("POST / HTTP/1.1\r\n" HOST "Expect: coffee\r\nContent-Length: 1\r\n\r\nx",
           "body= ERROR 417 the only expectation supported is 100-continue");
}

static void test_absolute_target(void **state)
{
    (void)state;
    expect("GET http://h/p?q HTTP/1.1\r\n" HOST "\r\n",
           "GET path=/p query=q host=h [Host=h]; body= END " EMPTY);
    expect("GET HTTP://H?q HTTP/1.1\r\n" HOST "\r\n",
           "GET path=/ query=q host=h [Host=h]; body= END " EMPTY);
    expect("GET https://h:1 HTTP/1.0\r\n\r\n", "GET path=/ host=h:1 1.0 close; body= END " EMPTY);
}

static void test_connect(void **state)
{
    (void)state;
    const Http1Limits proxy = { .allow_connect = true };
    expect_with(
        &proxy,
        STR("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nConnection: close\r\n\r\n\x16"),
        "CONNECT path=a.example:443 host=a.example:443 [Host=a.example:443] [Connection=close] close; "
        "body= END left=1");
    expect_refused(&proxy, STR("CONNECT a:1 HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx"), 400,
                   "body");
    expect_refused(&proxy, STR("CONNECT /a HTTP/1.1\r\n" HOST "\r\n"), 400, "path");
    expect_refused(&proxy, STR("CONNECT u@a:1 HTTP/1.1\r\n" HOST "\r\n"), 400, "user");
}

/* Each of these is two readings waiting to happen: one of ours and one of somebody in front of us.
 */
static const struct {
    const char *name, *bytes;
} refused[] = {
    { "no host", "GET / HTTP/1.1\r\n\r\n" },
    { "two hosts", "GET / HTTP/1.1\r\n" HOST HOST "\r\n" },
    { "empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n" },
    { "host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n" },
    { "host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n" },
    { "host with blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n" },
    { "host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n" },
    { "host port not a number", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n" },
    { "host port empty", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n" },
    { "host bracket open", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n" },
    { "host zone", "GET / HTTP/1.1\r\nHost: [::1%25x]\r\n\r\n" },
    { "host text behind bracket", "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n" },
    { "length and encoding", "POST / HTTP/1.1\r\n" HOST
                             "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "encoding and length", "POST / HTTP/1.1\r\n" HOST
                             "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" },
    { "two lengths",
      "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" },
    { "length list", "POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\nhello" },
    { "length signed", "POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\nhello" },
    { "length negative", "POST / HTTP/1.1\r\n" HOST "Content-Length: -5\r\n\r\nhello" },
    { "length empty", "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n" },
    { "length hexadecimal", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\nhello" },
    { "length overflow",
      "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551621\r\n\r\nhello" },
    { "encoding on 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "encoding list",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" },
    { "encoding split", "POST / HTTP/1.1\r\n" HOST
                        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "encoding twice",
      "POST / HTTP/1.1\r\n" HOST
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { "encoding empty", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n0\r\n\r\n" },
    { "encoding identity", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n" },
    { "encoding quoted",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" },
    { "encoding chunked and other",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" },
    { "encoding vertical tab",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" },
    { "obs-fold", "GET / HTTP/1.1\r\n" HOST "X: a\r\n b\r\n\r\n" },
    { "obs-fold of length", "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n 5\r\n\r\nhello" },
    { "blank before colon", "GET / HTTP/1.1\r\n" HOST "X : a\r\n\r\n" },
    { "blank before name", "GET / HTTP/1.1\r\n Host: h\r\n\r\n" },
    { "no colon", "GET / HTTP/1.1\r\n" HOST "X\r\n\r\n" },
    { "empty name", "GET / HTTP/1.1\r\n" HOST ": x\r\n\r\n" },
    { "bare LF", "GET / HTTP/1.1\n"
                 "Host: h\n\n" },
    { "bare LF in fields", "GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n" },
    { "bare CR in value", "GET / HTTP/1.1\r\n" HOST "X: a\rb\r\n\r\n" },
    { "bare LF ends head", "GET / HTTP/1.1\r\n" HOST "\n" },
    { "control byte in value", "GET / HTTP/1.1\r\n" HOST "X: a\x01\r\n\r\n" },
    { "DEL in value", "GET / HTTP/1.1\r\n" HOST "X: a\x7f\r\n\r\n" },
    { "control byte in name", "GET / HTTP/1.1\r\n" HOST "X\x01: a\r\n\r\n" },
    { "high byte in name", "GET / HTTP/1.1\r\n" HOST "X\xc3\xa4: a\r\n\r\n" },
    { "version 0.9", "GET / HTTP/0.9\r\n" HOST "\r\n" },
    { "version 1.2", "GET / HTTP/1.2\r\n" HOST "\r\n" },
    { "version 2.0", "GET / HTTP/2.0\r\n" HOST "\r\n" },
    { "version 1.10", "GET / HTTP/1.10\r\n" HOST "\r\n" },
    { "version lower case", "GET / http/1.1\r\n" HOST "\r\n" },
    { "no version", "GET /\r\n" HOST "\r\n" },
    { "another protocol", "GET / RTSP/1.0\r\n" HOST "\r\n" },
    { "ICE", "SOURCE / ICE/1.0\r\n" HOST "\r\n" },
    { "text behind version", "GET / HTTP/1.1 x\r\n" HOST "\r\n" },
    { "blank behind version", "GET / HTTP/1.1 \r\n" HOST "\r\n" },
    { "two blanks behind method", "GET  / HTTP/1.1\r\n" HOST "\r\n" },
    { "two blanks behind target", "GET /  HTTP/1.1\r\n" HOST "\r\n" },
    { "tab behind method", "GET\t/ HTTP/1.1\r\n" HOST "\r\n" },
    { "blank before method", " GET / HTTP/1.1\r\n" HOST "\r\n" },
    { "blank in target", "GET /a b HTTP/1.1\r\n" HOST "\r\n" },
    { "no target", "GET HTTP/1.1\r\n" HOST "\r\n" },
    { "two empty lines", "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n" },
    { "bare LF before", "\nGET / HTTP/1.1\r\n" HOST "\r\n" },
    { "bare CR before", "\rGET / HTTP/1.1\r\n" HOST "\r\n" },
    { "fragment", "GET /a#b HTTP/1.1\r\n" HOST "\r\n" },
    { "high byte in target", "GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n" },
    { "control byte in target", "GET /\x01 HTTP/1.1\r\n" HOST "\r\n" },
    { "DEL in target", "GET /\x7f HTTP/1.1\r\n" HOST "\r\n" },
    { "target without slash", "GET a HTTP/1.1\r\n" HOST "\r\n" },
    { "star for GET", "GET * HTTP/1.1\r\n" HOST "\r\n" },
    { "other scheme", "GET ftp://h/ HTTP/1.1\r\n" HOST "\r\n" },
    { "user in target", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n" },
    { "user and password in target", "GET http://u:p@h/ HTTP/1.1\r\nHost: u:p@h\r\n\r\n" },
    { "authority is not host", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n" },
    { "authority empty", "GET http:/// HTTP/1.1\r\nHost: h\r\n\r\n" },
    { "authority port differs", "GET http://h:81/ HTTP/1.1\r\nHost: h\r\n\r\n" },
    { "connect", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n" },
    { "preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" },
    { "upgrade", "GET / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" },
    { "upgrade without connection", "GET / HTTP/1.1\r\n" HOST "Upgrade: h2c\r\n\r\n" },
    { "chunk size empty",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n\r\nx\r\n0\r\n\r\n" },
    { "chunk size text", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n" },
    { "chunk size signed",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n" },
    { "chunk size 0x",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n" },
    { "chunk size blank behind",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n" },
    { "chunk size 17 digits",
      "POST / HTTP/1.1\r\n" HOST
      "Transfer-Encoding: chunked\r\n\r\n00000000000000001\r\nx\r\n0\r\n\r\n" },
    { "chunk size overflow",
      "POST / HTTP/1.1\r\n" HOST
      "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nx\r\n0\r\n\r\n" },
    { "chunk line bare LF",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n" },
    { "chunk extension with bare LF",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n" },
    { "chunk extension with CR",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\nx\r\n0\r\n\r\n" },
    { "chunk without end",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nxy0\r\n\r\n" },
    { "chunk ended by LF",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\n0\r\n\r\n" },
    { "length in trailer", "POST / HTTP/1.1\r\n" HOST
                           "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n" },
    { "encoding in trailer",
      "POST / HTTP/1.1\r\n" HOST
      "Transfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n" },
    { "last chunk ended by LF",
      "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\n\n" },
    { "TLS", "\x16\x03\x01\x02\x01\x01" },
    { "text", "hello there\r\n\r\n" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_N(refused); i++)
        expect_refused(NULL, str_of(refused[i].bytes), 400, refused[i].name);
}

static void test_nul(void **state)
{
    (void)state;
    expect_refused(NULL, STR("GET /\0 HTTP/1.1\r\n" HOST "\r\n"), 400, "in target");
    expect_refused(NULL, STR("GET / HTTP/1.1\r\n" HOST "X: \0\r\n\r\n"), 400, "in value");
    expect_refused(NULL, STR("GET / HTTP/1.1\r\nHost: h\0\r\n\r\n"), 400, "in host");
    expect_refused(NULL, STR("G\0ET / HTTP/1.1\r\n" HOST "\r\n"), 400, "in method");
}

static void test_dropped(void **state)
{
    (void)state;
    expect("GET / HTTP/1.1\r\n" HOST "X_Forwarded_For: me\r\nA: b\r\nContent_Length: 7\r\n\r\n",
           "GET path=/ host=h [Host=h] [A=b]; body= END " EMPTY);
}

/* Each limit passes what is exactly as large, and refuses a byte more. */
static void test_head_limit(void **state)
{
    (void)state;
    Str bytes = STR("GET / HTTP/1.1\r\n" HOST "X: yyyyyyyyy\r\n\r\n");
    Http1Limits limits = { .head_bytes_max = bytes.len };
    expect_with(&limits, bytes, "GET path=/ host=h [Host=h] [X=yyyyyyyyy]; body= END " EMPTY);
    limits.head_bytes_max--;
    expect_refused(&limits, bytes, 431, "head");
}

static void test_trailer_limit(void **state)
{
    (void)state;
    Str bytes = STR(
        "PUT / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n"
        "X: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n\r\n");
    Http1Limits limits = { .head_bytes_max = 77 };
    expect_with(&limits, bytes,
                "PUT path=/ host=h [Host=h] [Transfer-Encoding=chunked] chunked; body= END " EMPTY);
    limits.head_bytes_max--;
    expect_refused(&limits, bytes, 431, "trailers");
}

static void test_fields_limit(void **state)
{
    (void)state;
    Str bytes = STR("GET / HTTP/1.1\r\n" HOST "A: 1\r\nB_C: 2\r\n\r\n");
    Http1Limits limits = { .fields_max = 3 };
    expect_with(&limits, bytes, "GET path=/ host=h [Host=h] [A=1]; body= END " EMPTY);
    limits.fields_max--;
    expect_refused(&limits, bytes, 431, "fields"); /* dropped ones count */
}

static void test_target_limit(void **state)
{
    (void)state;
    Str bytes = STR("GET /2345678 HTTP/1.1\r\n" HOST "\r\n");
    Http1Limits limits = { .target_bytes_max = 8 };
    expect_with(&limits, bytes, "GET path=/2345678 host=h [Host=h]; body= END " EMPTY);
    limits.target_bytes_max--;
    expect_refused(&limits, bytes, 414, "target");
    Str endless = STR("GET /234567890123456789012345678901234567890123456789");
    expect_refused(&limits, endless, 414, "line without end");
}

static void test_chunk_ext_limit(void **state)
{
    (void)state;
    Str bytes = STR("PUT / HTTP/1.1\r\n" HOST
                    "Transfer-Encoding: chunked\r\n\r\n1;a=23\r\nx\r\n1;b=23\r\ny\r\n0\r\n\r\n");
    Http1Limits limits = { .chunk_ext_bytes_max = 10 };
    expect_with(
        &limits, bytes,
        "PUT path=/ host=h [Host=h] [Transfer-Encoding=chunked] chunked; body=xy END " EMPTY);
    limits.chunk_ext_bytes_max--;
    expect_refused(&limits, bytes, 400, "extensions of two chunks");
    Str endless = STR(
        "PUT / HTTP/1.1\r\n" HOST
        "Transfer-Encoding: chunked\r\n\r\n1;a=0123456789012345678901234567890123456789");
    expect_refused(&limits, endless, 400, "extension without end");
}

/* The defaults, with heads larger than any block that names and values are first stored in. */
static void test_large(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) Buf bytes = { 0 };
    CLEANUP(buf_deinit) Buf want = { 0 };
    buf_init(&bytes, 1 << 20);
    buf_init(&want, 1 << 20);
    buf_printf(&bytes, "GET /%08191d HTTP/1.1\r\n" HOST, 0);
    buf_printf(&want, "GET path=/%08191d host=h [Host=h]", 0);
    for (int i = 0; i < 99; i++) {
        buf_printf(&bytes, "Name-%d: %0555d\r\n", i, i);
        buf_printf(&want, " [Name-%d=%0555d]", i, i);
    }
    buf_printf(&bytes, "\r\n");
    buf_printf(&want, "; body= END left=0");
    assert_in_range(bytes.len, 60000, 65536);
    expect_with(NULL, buf_str(&bytes), want.ptr);
}

/* An arena that is too small is an answerable error, wherever memory runs out. */
static void test_out_of_memory(void **state)
{
    (void)state;
    Str bytes = STR("GET /12345678901234567890 HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\n\r\n");
    int refused_n = 0;
    for (size_t max = 0; max < 3000; max += 16) {
        Arena arena;
        Http1Parser parser;
        Str piece;
        size_t used;
        arena_init(&arena, max);
        http1_parser_init(&parser, NULL);
        Http1Event event = http1_parse(&parser, &arena, bytes, &used, &piece);
        refused_n += event == HTTP1_ERROR;
        if (event == HTTP1_ERROR) assert_int_equal(parser.status, 500);
        else assert_int_equal(event, HTTP1_HEAD);
        arena_deinit(&arena);
    }
    assert_in_range(refused_n, 2, 100);
}

static void test_after_error(void **state)
{
    (void)state;
    Arena arena;
    Http1Parser parser;
    Str piece;
    size_t used;
    arena_init(&arena, 10000);
    http1_parser_init(&parser, NULL);
    assert_int_equal(http1_parse(&parser, &arena, STR("nonsense\r\n\r\n"), &used, &piece),
                     HTTP1_ERROR);
    Str good = STR("GET / HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(http1_parse(&parser, &arena, good, &used, &piece), HTTP1_ERROR);
    assert_int_equal(used, 0);
    http1_parser_reset(&parser);
    assert_int_equal(http1_parse(&parser, &arena, good, &used, &piece), HTTP1_HEAD);
    assert_int_equal(used, good.len);
    assert_int_equal(http1_parse(&parser, &arena, STR(""), &used, &piece), HTTP1_END);
    arena_deinit(&arena);
}

static void test_field_lookup(void **state)
{
    (void)state;
    Http1Field fields[] = { { STR("Accept"), STR("a") },
                            { STR("ACCEPT"), STR("b") },
                            { STR("E"), STR("") } };
    Http1Head head = { .fields = fields, .fields_n = ARRAY_N(fields) };
    bool found;
    assert_true(str_eq(http1_field(&head, STR("accept"), &found), STR("a")));
    assert_true(found);
    assert_true(str_empty(http1_field(&head, STR("e"), &found)));
    assert_true(found);
    assert_true(str_empty(http1_field(&head, STR("x"), &found)));
    assert_false(found);
    assert_true(str_empty(http1_field(&head, STR("x"), NULL)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),           cmocka_unit_test(test_methods),
        cmocka_unit_test(test_bodies),          cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_keep_alive),      cmocka_unit_test(test_expect),
        cmocka_unit_test(test_absolute_target), cmocka_unit_test(test_connect),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_nul),
        cmocka_unit_test(test_dropped),         cmocka_unit_test(test_head_limit),
        cmocka_unit_test(test_trailer_limit),   cmocka_unit_test(test_fields_limit),
        cmocka_unit_test(test_target_limit),    cmocka_unit_test(test_chunk_ext_limit),
        cmocka_unit_test(test_large),           cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_after_error),     cmocka_unit_test(test_field_lookup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
