#include "tests/unit/sys_harness.h"

#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>

#include "base/diag.h"
#include "net/http_client.h"
#include "sys/clock.h"
#include "tests/unit/check.h"
#include "tests/unit/stub_server.h"

#define BIG_BYTES (3 * 1024 * 1024)

/* --- the peer --------------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    const char *answer;
    StubEnd end;
} Scripted;

static const Scripted scripted[] = {
    { "/length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-One: a\r\nx-one: b\r\n\r\nhello",
      STUB_KEEP },
    { "/empty", "HTTP/1.1 204 No Content\r\n\r\n", STUB_KEEP },
    { "/zero", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", STUB_KEEP },
    { "/chunked",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: r\r\n\r\n",
      STUB_KEEP },
    { "/close", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", STUB_CLOSE },
    { "/http10", "HTTP/1.0 200 OK\r\n\r\nhello", STUB_CLOSE },
    { "/continue",
      "HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
      STUB_KEEP },
    { "/error", "HTTP/1.1 529 Overloaded\r\nContent-Length: 5\r\n\r\nhello", STUB_KEEP },
    { "/redirect", "HTTP/1.1 302 Found\r\nLocation: /length\r\nContent-Length: 5\r\n\r\nhello",
      STUB_KEEP },
    { "/gzip", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
      STUB_KEEP },
    { "/short-length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", STUB_CLOSE },
    { "/reset-length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", STUB_RESET },
    { "/short-chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
      STUB_CLOSE },
    { "/cut-chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", STUB_CLOSE },
    { "/bad-chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
      STUB_CLOSE },
    { "/nothing", "", STUB_CLOSE },
    { "/half-head", "HTTP/1.1 200 OK\r\nContent-Le", STUB_CLOSE },
    { "/reset", "", STUB_RESET },
    { "/http09", "hello, this is no HTTP\n", STUB_CLOSE },
    { "/bad-length", "HTTP/1.1 200 OK\r\nContent-Length: x9\r\n\r\nhello", STUB_CLOSE },
};

static void answer_big_head(StubRequest *request)
{
    stub_sends(request, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 400; i++)
        stub_sends(request, "X-Fill: 0123456789012345678901234567890123456789\r\n");
    stub_sends(request, "Content-Length: 0\r\n\r\n");
}

static void answer_big_body(StubRequest *request)
{
    char *bytes = malloc(BIG_BYTES);
    for (size_t i = 0; i < BIG_BYTES; i++) bytes[i] = (char)(i * 7 + i / 251);
    char head[128];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BIG_BYTES);
    stub_sends(request, head);
    stub_send(request, str_make(bytes, BIG_BYTES));
    free(bytes);
}

static void answer_dribble(StubRequest *request, int pause_ms)
{
    Str all = STR("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    for (size_t i = 0; i < all.len; i++) {
        stub_send(request, str_sub(all, i, 1));
        stub_sleep_ms(pause_ms);
    }
}

static void answer_echo(StubRequest *request)
{
    char head[128];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n",
             request->head.len + request->body.len);
    stub_sends(request, head);
    stub_send(request, str_make(request->bytes, request->len));
}

/* Until the other side has had enough. */
static StubEnd stall(StubRequest *request)
{
    struct pollfd fd = { .fd = request->fd, .events = POLLRDHUP };
    poll(&fd, 1, 20000);
    return STUB_CLOSE;
}

static StubEnd answer(StubRequest *request, void *ctx)
{
    (void)ctx;
    for (size_t i = 0; i < ARRAY_N(scripted); i++) {
        if (!str_eq(request->path, str_of(scripted[i].path))) continue;
        stub_sends(request, scripted[i].answer);
        if (scripted[i].end == STUB_RESET) stub_sleep_ms(100); /* let the bytes be read first */
        return scripted[i].end;
    }
    if (str_eq(request->path, STR("/big-head"))) answer_big_head(request);
    else if (str_eq(request->path, STR("/big"))) answer_big_body(request);
    else if (str_eq(request->path, STR("/dribble"))) answer_dribble(request, 1);
    else if (str_eq(request->path, STR("/drip"))) answer_dribble(request, 10);
    else if (str_starts_with(request->path, STR("/echo"))) answer_echo(request);
    else if (str_eq(request->path, STR("/stall-head"))) return stall(request);
    else if (str_eq(request->path, STR("/stall-body"))) {
        stub_sends(request, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
        return stall(request);
    } else if (str_eq(request->path, STR("/endless"))) {
        stub_sends(request, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n");
        char bytes[65536] = { 0 };
        while (send(request->fd, bytes, sizeof bytes, MSG_NOSIGNAL) > 0) {
        }
        return STUB_CLOSE;
    }
    return STUB_KEEP;
}

/* --- the harness ------------------------------------------------------------------------------ */

typedef struct {
    Stub stub;
    HttpClient *client;
    void (*body_wait)(void *rig);
} Rig;

static int rig_main(void *arg)
{
    Rig *rig = arg;
    rig->client = http_client_new();
    rig->body_wait(rig);
    http_client_free(rig->client);
    return 0;
}

static void rig_run(void (*body_wait)(void *rig))
{
    Rig rig = { .body_wait = body_wait };
    stub_open(&rig.stub, answer, NULL);
    harness_run(rig_main, &rig);
    stub_close(&rig.stub);
    check_none();
}

static Str rig_url(const Rig *rig, const char *path, char out[128])
{
    snprintf(out, 128, "http://127.0.0.1:%u%s", rig->stub.port, path);
    return str_of(out);
}

typedef struct {
    int opened; /* http_call_open_wait */
    int ended;  /* the last http_call_read_wait */
    int status;
    size_t bytes;
    char text[64];
    char diag[DIAG_BYTES_MAX];
} Got;

static Got get_wait(Rig *rig, HttpCallOptions options)
{
    Got got = { 0 };
    HttpCall *call = NULL;
    diag_clear();
    got.opened = http_call_open_wait(rig->client, &options, &call);
    if (got.opened == 0) {
        got.status = http_call_status(call);
        Str piece;
        while ((got.ended = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0) {
            size_t room = sizeof got.text - 1 - MIN(got.bytes, sizeof got.text - 1);
            memcpy(got.text + MIN(got.bytes, sizeof got.text - 1), piece.ptr, MIN(room, piece.len));
            got.bytes += piece.len;
        }
    }
    str_copy(got.diag, sizeof got.diag, str_of(diag_text()));
    http_call_free(call);
    return got;
}

static Got get_path_wait(Rig *rig, const char *path)
{
    char url[128];
    return get_wait(rig, (HttpCallOptions){ .url = rig_url(rig, path, url) });
}

/* --- bodies ----------------------------------------------------------------------------------- */

static void bodies_wait(void *arg)
{
    static const struct {
        const char *path;
        int status, ended;
        const char *text;
    } want[] = {
        { "/length", 200, HTTP_CALL_E_END, "hello" },
        { "/empty", 204, HTTP_CALL_E_END, "" },
        { "/zero", 200, HTTP_CALL_E_END, "" },
        { "/chunked", 200, HTTP_CALL_E_END, "hello" },
        { "/close", 200, HTTP_CALL_E_END, "hello" },
        { "/http10", 200, HTTP_CALL_E_END, "hello" },
        { "/continue", 200, HTTP_CALL_E_END, "hello" },
        { "/error", 529, HTTP_CALL_E_END, "hello" },
        { "/redirect", 302, HTTP_CALL_E_END, "hello" },
        { "/gzip", 200, HTTP_CALL_E_END, "hello" },
        { "/dribble", 200, HTTP_CALL_E_END, "hello" },
        { "/short-length", 200, HTTP_CALL_E_CUT, "hello" },
        { "/reset-length", 200, HTTP_CALL_E_CUT, "hello" },
        { "/short-chunked", 200, HTTP_CALL_E_CUT, "hello" },
        { "/cut-chunk", 200, HTTP_CALL_E_CUT, "hello" },
        { "/bad-chunk", 200, HTTP_CALL_E_CUT, "hello" },
    };
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        Got got = get_path_wait(arg, want[i].path);
        bool ok = CHECK_INT(got.opened, 0) && CHECK_INT(got.status, want[i].status) &&
                  CHECK_INT(got.ended, want[i].ended) &&
                  CHECK_STR(str_of(got.text), str_of(want[i].text)) &&
                  (want[i].ended != HTTP_CALL_E_CUT || CHECK(got.diag[0]));
        if (!ok) fprintf(stderr, "  for %s: %s\n", want[i].path, got.diag);
    }
}

static void test_bodies(void **state)
{
    (void)state;
    rig_run(bodies_wait);
}

static void failures_wait(void *arg)
{
    static const struct {
        const char *path;
        int opened;
    } want[] = {
        { "/nothing", -ECONNRESET }, { "/half-head", -ECONNRESET }, { "/reset", -ECONNRESET },
        { "/http09", -EPROTO },      { "/bad-length", -EPROTO },
    };
    for (size_t i = 0; i < ARRAY_N(want); i++) {
        Got got = get_path_wait(arg, want[i].path);
        if (!CHECK_INT(got.opened, want[i].opened) || !CHECK(got.diag[0]))
            fprintf(stderr, "  for %s: %s\n", want[i].path, got.diag);
    }
}

static void test_failures_before_the_head(void **state)
{
    (void)state;
    rig_run(failures_wait);
}

/* --- the request ------------------------------------------------------------------------------ */

static void request_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    HttpClientField fields[] = { { "Authorization", STR("Bearer k") }, { "X-Empty", STR("") } };
    HttpCallOptions options = { .url = rig_url(rig, "/echo?a=b", url),
                                .fields = fields,
                                .fields_n = 2 };
    Arena arena;
    arena_init(&arena, 1 << 20);
    HttpResponse got;
    CHECK_INT(http_fetch_wait(rig->client, &options, 65536, &arena, &got), 0);
    CHECK(str_starts_with(got.body, STR("GET /echo?a=b HTTP/1.1\r\n")));
    CHECK_HAS(got.body, "\r\nAuthorization: Bearer k\r\n");
    CHECK_HAS(got.body, "\r\nX-Empty:\r\n");
    CHECK_HAS(got.body, "\r\nUser-Agent: gantry/");

    options.body = STR("{\"a\":1}");
    CHECK_INT(http_fetch_wait(rig->client, &options, 65536, &arena, &got), 0);
    CHECK(str_starts_with(got.body, STR("POST /echo?a=b HTTP/1.1\r\n")));
    CHECK_HAS(got.body, "\r\nContent-Length: 7\r\n");
    CHECK_HAS(got.body, "\r\n\r\n{\"a\":1}");
    CHECK(str_find(got.body, STR("Expect")) < 0);
    CHECK(str_find(got.body, STR("Content-Type")) < 0);
    CHECK(str_find(got.body, STR("Accept-Encoding")) < 0);

    options.method = STR("PUT");
    CHECK_INT(http_fetch_wait(rig->client, &options, 65536, &arena, &got), 0);
    CHECK(str_starts_with(got.body, STR("PUT /echo")));

    options.method = STR("DELETE");
    options.body = STR_NULL;
    CHECK_INT(http_fetch_wait(rig->client, &options, 65536, &arena, &got), 0);
    CHECK(str_starts_with(got.body, STR("DELETE /echo")));

    char *big = calloc(1, BIG_BYTES);
    memset(big, 'x', BIG_BYTES);
    options.method = STR_NULL;
    options.body = str_make(big, BIG_BYTES);
    CHECK_INT(http_fetch_wait(rig->client, &options, 100, &arena, &got), -EMSGSIZE);
    arena_deinit(&arena);
    arena_init(&arena, 3 * BIG_BYTES);
    CHECK_INT(http_fetch_wait(rig->client, &options, 2 * BIG_BYTES, &arena, &got), 0);
    CHECK(str_ends_with(got.body, options.body));
    CHECK(str_find(got.body, STR("Expect")) < 0);
    arena_deinit(&arena);
    free(big);
}

static void test_request(void **state)
{
    (void)state;
    rig_run(request_wait);
}

static void fields_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    HttpCall *call = NULL;
    HttpCallOptions options = { .url = rig_url(rig, "/length", url) };
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    CHECK_STR(http_call_field(call, "X-ONE"), STR("a"));
    CHECK_STR(http_call_field(call, "x-two"), STR(""));
    Str name, value;
    CHECK(http_call_field_at(call, 2, &name, &value));
    CHECK_STR(name, STR("x-one"));
    CHECK_STR(value, STR("b"));
    CHECK(!http_call_field_at(call, 3, &name, &value));
    http_call_free(call); /* unread: fine too */

    options.url = rig_url(rig, "/continue", url);
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    CHECK_STR(http_call_field(call, "x-early"), STR(""));
    http_call_free(call);

    options.url = rig_url(rig, "/big-head", url);
    options.header_bytes_max = 8192;
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), -EPROTO);
    options.header_bytes_max = 0;
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    CHECK(http_call_field_at(call, 400, &name, &value));
    http_call_free(call);
}

static void test_response_fields(void **state)
{
    (void)state;
    rig_run(fields_wait);
}

static void refused_wait(void *arg)
{
    Rig *rig = arg;
    static const char *const bad[] = { "ftp://127.0.0.1/x",   "http://127.0.0.1:0/",
                                       "http://u@127.0.0.1/", "http://127.0.0.1/a b",
                                       "file:///etc/passwd",  "",
                                       "http://0177.0.0.1/",  "//127.0.0.1/" };
    for (size_t i = 0; i < ARRAY_N(bad); i++)
        CHECK_INT(get_wait(rig, (HttpCallOptions){ .url = str_of(bad[i]) }).opened, -EINVAL);
    char url[128];
    HttpClientField fields[] = { { "X", STR("a\r\nY: b") } };
    HttpCallOptions options = { .url = rig_url(rig, "/echo", url),
                                .fields = fields,
                                .fields_n = 1 };
    CHECK_INT(get_wait(rig, options).opened, -EINVAL);
    fields[0] = (HttpClientField){ "X: a\r\nY", STR("b") };
    CHECK_INT(get_wait(rig, options).opened, -EINVAL);
    CHECK_INT(atomic_load(&rig->stub.requests), 0);

    int fd = socket(AF_INET, SOCK_STREAM, 0); /* a port that nobody listens on */
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    CHECK(bind(fd, (struct sockaddr *)&at, size) == 0);
    getsockname(fd, (struct sockaddr *)&at, &size);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    Got got = get_wait(rig, (HttpCallOptions){ .url = str_of(url) });
    CHECK_INT(got.opened, -ECONNREFUSED);
    CHECK(got.diag[0]);
    close(fd);
    got = get_wait(rig, (HttpCallOptions){ .url = STR("http://no-such-name.invalid/") });
    CHECK_INT(got.opened, -EHOSTUNREACH);
    CHECK_HAS(str_of(got.diag), "no-such-name.invalid");
    got = get_wait(rig,
                   (HttpCallOptions){ .url = rig_url(rig, "/length", url), .method = STR("GET") });
    CHECK_INT(got.opened, 0);
    snprintf(url, sizeof url, "https://127.0.0.1:%u/", rig->stub.port); /* speaks no TLS */
    got = get_wait(rig,
                   (HttpCallOptions){ .url = str_of(url), .deadline_ms = deadline_after(300) });
    CHECK(got.opened == -EPROTO || got.opened == -ETIMEDOUT || got.opened == -ECONNRESET);
}

static void test_refused(void **state)
{
    (void)state;
    rig_run(refused_wait);
}

/* --- the guard -------------------------------------------------------------------------------- */

static void guard_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    AddrGuard guard = { 0 };
    HttpCallOptions options = { .url = rig_url(rig, "/length", url), .guard = &guard };
    CHECK_INT(get_wait(rig, options).opened, -EACCES);

    /* a name says nothing: only the socket's address counts */
    char named[128];
    snprintf(named, sizeof named, "http://localhost:%u/length", rig->stub.port);
    options.url = str_of(named);
    Got got = get_wait(rig, options);
    CHECK_INT(got.opened, -EACCES);
    CHECK_HAS(str_of(got.diag), "may not be called");

    /* not even when an unguarded call has left a connection to it */
    CHECK_INT(get_wait(rig, (HttpCallOptions){ .url = options.url }).opened, 0);
    CHECK_INT(get_wait(rig, options).opened, -EACCES);
    int connections = atomic_load(&rig->stub.connections);

    CHECK_INT(addr_guard_allow(&guard, STR("127.0.0.0/8")), 0);
    options.url = rig_url(rig, "/length", url);
    CHECK_INT(get_wait(rig, options).opened, 0);
    CHECK_INT(get_wait(rig, options).opened, 0);
    CHECK_INT(atomic_load(&rig->stub.connections), connections + 2); /* nothing is shared */

    /* exceptions are called in any way, others by https alone and where it is served */
    guard.https_only = guard.ports_only = true;
    guard.section = "webhooks";
    CHECK_INT(get_wait(rig, options).opened, 0);
    options.url = STR("http://169.254.169.254/latest/meta-data");
    guard = (AddrGuard){ 0 };
    CHECK_INT(addr_guard_allow(&guard, STR("0.0.0.0/0")), 0);
    CHECK_INT(get_wait(rig, options).opened, -EACCES);
    /* a public address that is this machine's */
    uint8_t public[4] = { 9, 9, 9, 9 };
    guard = (AddrGuard){ 0 };
    CHECK_INT(addr_guard_check(&guard, addr_v4(public)), 0);
    CHECK_INT(addr_guard_deny(&guard, addr_v4(public)), 0);
    CHECK_INT(addr_guard_check(&guard, addr_v4(public)), -EACCES);
    CHECK_HAS(str_of(diag_text()), "this machine's own");
    CHECK_INT(addr_guard_allow(&guard, STR("9.9.9.0/24")), 0);
    CHECK_INT(addr_guard_check(&guard, addr_v4(public)), 0);
    while (guard.own_n < ADDR_GUARD_OWN_MAX) CHECK_INT(addr_guard_deny(&guard, addr_v4(public)), 0);
    CHECK_INT(addr_guard_deny(&guard, addr_v4(public)), -ENOBUFS);
    guard = (AddrGuard){ 0 };
    CHECK_INT(addr_guard_deny_own(&guard), 0);
    CHECK_INT(addr_guard_allow(&guard, STR("10.0.0.0/33")), -EINVAL);
    CHECK_INT(addr_guard_allow(&guard, STR("ten")), -EINVAL);
    while (guard.allow_n < ADDR_GUARD_CIDRS_MAX) CHECK_INT(addr_guard_allow(&guard, STR("::1")), 0);
    CHECK_INT(addr_guard_allow(&guard, STR("::1")), -ENOBUFS);
}

static int check_url(const AddrGuard *guard, const char *text)
{
    Url url;
    CLEANUP(arena_deinit) Arena arena;
    arena_init(&arena, 4096);
    assert_int_equal(url_parse(&arena, str_of(text), &url), 0);
    return addr_guard_check_url(guard, &url);
}

/* By https on its port, and otherwise as the operator says. */
static void test_ways(void **state)
{
    (void)state;
    AddrGuard guard = { .https_only = true, .ports_only = true };
    assert_int_equal(check_url(&guard, "https://a.example/"), 0);
    assert_int_equal(check_url(&guard, "https://9.9.9.9/"), 0);
    static const char *const refused[] = { "http://a.example/", "https://a.example:8443/",
                                           "http://9.9.9.9/", "https://9.9.9.9:80/",
                                           "http://a.example:443/" };
    for (size_t i = 0; i < ARRAY_N(refused); i++)
        assert_int_equal(check_url(&guard, refused[i]), -EACCES);
    assert_string_equal(diag_text(), "only https URLs may be called");
    guard.section = "webhooks";
    assert_int_equal(check_url(&guard, "http://a.example/"), -EACCES);
    assert_non_null(strstr(diag_text(), "webhooks.allowHttp"));
    assert_int_equal(addr_guard_allow_port(&guard, 8443), 0);
    assert_int_equal(check_url(&guard, "https://a.example:8443/"), 0);
    assert_int_equal(check_url(&guard, "https://9.9.9.9:8443/"), 0);
    assert_int_equal(check_url(&guard, "http://a.example:8443/"), -EACCES);
    assert_int_equal(check_url(&guard, "https://9.9.9.9:8444/"), -EACCES);
    assert_non_null(strstr(diag_text(), "webhooks.ports"));
    guard.https_only = false;
    assert_int_equal(check_url(&guard, "http://a.example/"), 0);
    assert_int_equal(check_url(&guard, "http://9.9.9.9:443/"), -EACCES);

    /* of a name that may be an exception nothing is said before it is looked up */
    guard.https_only = true;
    assert_int_equal(addr_guard_allow(&guard, STR("10.0.0.0/8")), 0);
    assert_int_equal(check_url(&guard, "http://a.example:99/"), 0);
    assert_int_equal(check_url(&guard, "http://10.1.1.1:99/"), 0);
    assert_int_equal(check_url(&guard, "http://9.9.9.9/"), -EACCES);
    uint8_t other[4] = { 9, 9, 9, 9 };
    assert_int_equal(addr_guard_check_port(&guard, addr_v4(other), 443, true), 0);
    assert_int_equal(addr_guard_check_port(&guard, addr_v4(other), 80, false), -EACCES);
    assert_int_equal(addr_guard_check_port(&guard, addr_v4(other), 99, true), -EACCES);

    assert_int_equal(addr_guard_allow_port(&guard, 0), -EINVAL);
    assert_int_equal(addr_guard_allow_port(&guard, 65536), -EINVAL);
    while (guard.ports_n < ADDR_GUARD_PORTS_MAX)
        assert_int_equal(addr_guard_allow_port(&guard, 1), 0);
    assert_int_equal(addr_guard_allow_port(&guard, 1), -ENOBUFS);
}

/* A port of this process is refused whatever is allowed, at every address of the machine. */
static void own_port_wait(void *arg)
{
    Rig *rig = arg;
    char url[128], any[128];
    AddrGuard guard = { 0 };
    HttpCallOptions options = { .url = rig_url(rig, "/length", url), .guard = &guard };
    CHECK_INT(addr_guard_allow(&guard, STR("127.0.0.0/8")), 0);
    CHECK_INT(addr_guard_allow(&guard, STR("0.0.0.0/8")), 0);
    CHECK_INT(get_wait(rig, options).opened, 0);
    addr_guard_listens(rig->stub.port, true);
    addr_guard_listens(rig->stub.port, true);
    addr_guard_listens(rig->stub.port, false); /* another one does */
    int connections = atomic_load(&rig->stub.connections);
    static const char *const hosts[] = { "127.0.0.1", "127.9.9.9", "localhost", "0.0.0.0" };
    for (size_t i = 0; i < ARRAY_N(hosts); i++) {
        snprintf(any, sizeof any, "http://%s:%u/length", hosts[i], rig->stub.port);
        options.url = str_of(any);
        Got got = get_wait(rig, options);
        CHECK_INT(got.opened, -EACCES);
        if (i != 2) CHECK_HAS(str_of(got.diag), "Gantry's own"); /* that may be ::1, not allowed */
    }
    uint8_t elsewhere[4] = { 9, 9, 9, 9 };
    CHECK_INT(addr_guard_check_port(&guard, addr_v4(elsewhere), rig->stub.port, false), 0);
    CHECK_INT(atomic_load(&rig->stub.connections), connections);
    addr_guard_listens(rig->stub.port, false);
    options.url = rig_url(rig, "/length", url);
    CHECK_INT(get_wait(rig, options).opened, 0);
}

static void test_own_port(void **state)
{
    (void)state;
    rig_run(own_port_wait);
}

/* --- names that change their addresses -------------------------------------------------------- */

typedef int (*GetAddrInfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* What flip.test is at each look-up: this process's resolver, libcurl's too. */
static const char *const flips[][2] = {
    { "127.0.0.2", NULL },        /* stands for a public address: nobody listens there */
    { "127.0.0.1", NULL },        /* flipped */
    { "127.0.0.2", "127.0.0.1" }, /* both: the second is not fallen back to */
    { "127.0.0.1", "127.0.0.2" },
};
static atomic_int lookups;

int resolve(const char *name, const char *service, const struct addrinfo *hints,
            struct addrinfo **ret) __asm__("getaddrinfo") __attribute__((visibility("default")));

int resolve(const char *name, const char *service, const struct addrinfo *hints,
            struct addrinfo **ret)
{
    GetAddrInfo real = (GetAddrInfo)(uintptr_t)dlsym(RTLD_NEXT, "getaddrinfo");
    if (!name || strcmp(name, "flip.test") != 0) return real(name, service, hints, ret);
    const char *const *answer = flips[atomic_fetch_add(&lookups, 1) % (int)ARRAY_N(flips)];
    int r = real(answer[0], service, hints, ret);
    struct addrinfo *last = r == 0 ? *ret : NULL;
    while (last && last->ai_next) last = last->ai_next;
    if (last && answer[1]) r = real(answer[1], service, hints, &last->ai_next);
    return r;
}

/* The address that is checked is the one that is connected to: a name is looked up once a call. */
static void flip_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    AddrGuard guard = { 0 };
    snprintf(url, sizeof url, "http://flip.test:%u/length", rig->stub.port);
    HttpCallOptions options = { .url = str_of(url), .guard = &guard };
    CHECK_INT(addr_guard_allow(&guard, STR("127.0.0.2/32")), 0);
    static const int expected[] = { -ECONNREFUSED, -EACCES, -EACCES, -EACCES };
    for (int i = 0; i < 2 * (int)ARRAY_N(expected); i++) {
        CHECK_INT(get_wait(rig, options).opened, expected[i % (int)ARRAY_N(expected)]);
        CHECK_INT(atomic_load(&lookups), i + 1);
    }
    CHECK_INT(atomic_load(&rig->stub.connections), 0);
}

static void test_names_that_flip(void **state)
{
    (void)state;
    rig_run(flip_wait);
}

static void test_guard(void **state)
{
    (void)state;
    rig_run(guard_wait);
}

/* --- time ------------------------------------------------------------------------------------- */

static void timeouts_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    Got got = get_wait(
        rig, (HttpCallOptions){ .url = rig_url(rig, "/stall-head", url), .idle_timeout_ms = 200 });
    CHECK_INT(got.opened, -ETIMEDOUT);
    CHECK_HAS(str_of(got.diag), "nothing came for 200 ms");
    got = get_wait(rig, (HttpCallOptions){ .url = rig_url(rig, "/stall-head", url),
                                           .deadline_ms = deadline_after(100) });
    CHECK_INT(got.opened, -ETIMEDOUT);
    CHECK_HAS(str_of(got.diag), "deadline");
    got = get_wait(
        rig, (HttpCallOptions){ .url = rig_url(rig, "/stall-body", url), .idle_timeout_ms = 200 });
    CHECK_INT(got.ended, -ETIMEDOUT);
    CHECK_STR(str_of(got.text), STR("hello"));
    got = get_wait(rig, (HttpCallOptions){ .url = rig_url(rig, "/stall-body", url),
                                           .deadline_ms = deadline_after(200) });
    CHECK_INT(got.ended, -ETIMEDOUT);
    CHECK_STR(str_of(got.text), STR("hello"));
    /* longer in all than its idle timeout */
    got = get_wait(rig,
                   (HttpCallOptions){ .url = rig_url(rig, "/drip", url), .idle_timeout_ms = 400 });
    CHECK_INT(got.ended, HTTP_CALL_E_END);

    /* a read with a deadline of its own may be repeated */
    HttpCall *call = NULL;
    Str piece;
    HttpCallOptions options = { .url = rig_url(rig, "/stall-body", url) };
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    CHECK_INT(http_call_read_wait(call, DEADLINE_NONE, &piece), 0);
    CHECK_INT(http_call_read_wait(call, deadline_after(10), &piece), -ETIMEDOUT);
    CHECK_INT(http_call_read_wait(call, deadline_after(10), &piece), -ETIMEDOUT);
    http_call_free(call);
}

static void test_timeouts(void **state)
{
    (void)state;
    rig_run(timeouts_wait);
}

/* A listener whose queue is full never completes a handshake. */
static void connect_timeout_wait(void *arg)
{
    Rig *rig = arg;
    int listener = socket(AF_INET, SOCK_STREAM, 0), fill[8];
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    CHECK(bind(listener, (struct sockaddr *)&at, size) == 0 && listen(listener, 0) == 0);
    getsockname(listener, (struct sockaddr *)&at, &size);
    for (size_t i = 0; i < ARRAY_N(fill); i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fill[i], (struct sockaddr *)&at, size);
    }
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    Got got = get_wait(rig, (HttpCallOptions){ .url = str_of(url), .connect_timeout_ms = 50 });
    CHECK_INT(got.opened, -ETIMEDOUT);
    CHECK(got.diag[0]);
    for (size_t i = 0; i < ARRAY_N(fill); i++) close(fill[i]);
    close(listener);
}

static void test_connect_timeout(void **state)
{
    (void)state;
    rig_run(connect_timeout_wait);
}

/* --- connections ------------------------------------------------------------------------------ */

static void reuse_wait(void *arg)
{
    Rig *rig = arg;
    for (int i = 0; i < 20; i++)
        CHECK_INT(get_path_wait(rig, i % 2 ? "/length" : "/chunked").ended, HTTP_CALL_E_END);
    CHECK_INT(atomic_load(&rig->stub.connections), 1);

    /* the server closes; the next call opens another, unasked */
    CHECK_INT(get_path_wait(rig, "/close").ended, HTTP_CALL_E_END);
    CHECK_INT(get_path_wait(rig, "/length").ended, HTTP_CALL_E_END);
    CHECK_INT(atomic_load(&rig->stub.connections), 2);
}

static void test_reuse(void **state)
{
    (void)state;
    rig_run(reuse_wait);
}

/* A server that takes a request on a kept connection and closes may have acted on it: a body is not
 * sent a second time. */
static void no_resend_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    CHECK_INT(get_path_wait(rig, "/length").ended, HTTP_CALL_E_END);
    int before = atomic_load(&rig->stub.requests);
    Got got = get_wait(
        rig, (HttpCallOptions){ .url = rig_url(rig, "/nothing", url), .body = STR("pay") });
    CHECK_INT(got.opened, -ECONNRESET);
    CHECK_INT(atomic_load(&rig->stub.requests), before + 1);
}

static void test_body_is_sent_once(void **state)
{
    (void)state;
    rig_run(no_resend_wait);
}

typedef struct {
    Rig *rig;
    int i;
    int64_t bytes;
    int *ended_n;
    Cond *ended;
} Worker;

static int worker_main(void *arg)
{
    Worker *w = arg;
    static const char *const paths[] = { "/length", "/chunked", "/dribble", "/big", "/close" };
    for (int k = 0; k < 3; k++) {
        Got got = get_path_wait(w->rig, paths[(w->i + k) % 5]);
        CHECK_INT(got.opened, 0);
        CHECK_INT(got.ended, HTTP_CALL_E_END);
        w->bytes += (int64_t)got.bytes;
    }
    (*w->ended_n)++;
    cond_signal(w->ended);
    return 0;
}

static void concurrent_wait(void *arg)
{
    enum { N = 200 };
    static Worker workers[N];
    int ended_n = 0;
    Cond ended;
    cond_init(&ended);
    for (int i = 0; i < N; i++) {
        workers[i] = (Worker){ .rig = arg, .i = i, .ended_n = &ended_n, .ended = &ended };
        CHECK_INT(fiber_spawn("worker", worker_main, &workers[i], NULL), 0);
    }
    while (ended_n < N) CHECK_INT(cond_wait(&ended, DEADLINE_NONE), 0);
    int64_t bytes = 0;
    for (int i = 0; i < N; i++) bytes += workers[i].bytes;
    CHECK_INT(bytes, (int64_t)N * 3 / 5 * (4 * 5 + BIG_BYTES));
}

static void test_concurrent(void **state)
{
    (void)state;
    rig_run(concurrent_wait);
}

/* --- back-pressure ---------------------------------------------------------------------------- */

static void slow_reader_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    HttpCall *call = NULL;
    HttpCallOptions options = { .url = rig_url(rig, "/big", url), .idle_timeout_ms = 400 };
    if (!CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0)) return;
    size_t seen = 0, largest = 0;
    bool same = true;
    int r;
    Str piece;
    fiber_sleep_wait(
        500); /* longer than the idle timeout: the reader's own slowness is not idleness */
    while ((r = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0) {
        for (size_t i = 0; i < piece.len; i++, seen++)
            same &= piece.ptr[i] == (char)(seen * 7 + seen / 251);
        largest = MAX(largest, piece.len);
        if (seen < BIG_BYTES / 8) fiber_sleep_wait(2);
    }
    CHECK_INT(r, HTTP_CALL_E_END);
    CHECK_INT(http_call_read_wait(call, DEADLINE_NONE, &piece), HTTP_CALL_E_END);
    CHECK_INT(seen, BIG_BYTES);
    CHECK(same);
    CHECK(largest <= 64 * 1024);
    http_call_free(call);

    /* what nobody reads is bounded, and dropped with the call */
    options.url = rig_url(rig, "/endless", url);
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), 0);
    fiber_sleep_wait(50);
    CHECK_INT(http_call_read_wait(call, DEADLINE_NONE, &piece), 0);
    CHECK(piece.len <= 64 * 1024);
    http_call_free(call);
}

static void test_slow_reader(void **state)
{
    (void)state;
    rig_run(slow_reader_wait);
}

/* --- cancelling and stopping ------------------------------------------------------------------ */

typedef struct {
    Rig *rig;
    const char *path;
    HttpAbort *abort;
    Got got;
} Victim;

static int victim_main(void *arg)
{
    Victim *v = arg;
    char url[128];
    Str text = str_starts_with(str_of(v->path), STR("http")) ? str_of(v->path)
                                                             : rig_url(v->rig, v->path, url);
    v->got = get_wait(v->rig,
                      (HttpCallOptions){ .url = text, .abort = v->abort, .body = STR("x") });
    return 0;
}

static const char *const victim_paths[] = { "/stall-head", "/stall-body",
                                            "/endless",    "/big",
                                            "/length",     "http://no-such-name.invalid/" };

static void cancel_wait(void *arg)
{
    for (size_t i = 0; i < ARRAY_N(victim_paths); i++) {
        for (int after_ms = -1; after_ms <= 30; after_ms += after_ms < 3 ? 1 : 9) {
            Victim v = { .rig = arg, .path = victim_paths[i] };
            FiberRef ref;
            CHECK_INT(fiber_spawn("victim", victim_main, &v, &ref), 0);
            if (after_ms >= 0) CHECK_INT(fiber_sleep_wait(after_ms), 0);
            fiber_cancel(ref);
            CHECK_INT(fiber_join_wait(ref, NULL), 0);
            bool cancelled = v.got.opened == -ECANCELED || v.got.ended == -ECANCELED;
            bool ended = v.got.ended == HTTP_CALL_E_END || v.got.opened == -EHOSTUNREACH;
            CHECK(cancelled || ended);
            if (i < 3) CHECK(cancelled);
        }
    }
}

static void test_cancel(void **state)
{
    (void)state;
    rig_run(cancel_wait);
}

static void abort_wait(void *arg)
{
    for (size_t i = 0; i < 3; i++) {
        for (int after_ms = -1; after_ms <= 30; after_ms += 10) {
            HttpAbort abort = { 0 };
            Victim v = { .rig = arg, .path = victim_paths[i], .abort = &abort };
            FiberRef ref;
            CHECK_INT(fiber_spawn("victim", victim_main, &v, &ref), 0);
            if (after_ms >= 0) CHECK_INT(fiber_sleep_wait(after_ms), 0);
            http_abort(&abort);
            CHECK_INT(fiber_join_wait(ref, NULL), 0);
            CHECK(v.got.opened == -ECONNABORTED || v.got.ended == -ECONNABORTED);
            CHECK(!abort.call);
            if (after_ms < 0) CHECK(!abort.sent);
            if (after_ms >= 20) CHECK(abort.sent);
        }
    }
}

static void test_abort(void **state)
{
    (void)state;
    rig_run(abort_wait);
}

/* A loop that stops cancels its fibers; what they had open must be gone when it returns. */
static int stopped_main(void *arg)
{
    Rig *rig = arg;
    rig->client = http_client_new();
    for (int i = 0; i < 3; i++) {
        static Victim victims[3];
        victims[i] = (Victim){ .rig = rig, .path = victim_paths[i] };
        CHECK_INT(fiber_spawn("victim", victim_main, &victims[i], NULL), 0);
    }
    fiber_sleep_wait(20);
    return 0;
}

static void test_loop_stop(void **state)
{
    (void)state;
    Rig rig = { 0 };
    stub_open(&rig.stub, answer, NULL);
    HarnessMain m = { stopped_main, &rig };
    Loop *loop = loop_new("test");
    fiber_spawn_on(loop, "main", harness_main, &m);
    loop_run(loop);
    http_client_free(rig.client);
    loop_free(loop);
    stub_close(&rig.stub);
    check_none();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_failures_before_the_head),
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_response_fields),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_own_port),
        cmocka_unit_test(test_names_that_flip),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_connect_timeout),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_body_is_sent_once),
        cmocka_unit_test(test_concurrent),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_loop_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
