/* Calls over TLS: libcurl's handshake and records, our messages. */
#include "tests/unit/sys_harness.h"

#include "base/diag.h"
#include "net/http_client.h"
#include "sys/clock.h"
#include "tests/unit/check.h"
#include "tests/unit/tls_server.h"

#define BIG_BYTES (3 * 1024 * 1024)

typedef struct {
    TlsServer server;
    HttpClient *client;
    void (*body_wait)(void *rig);
} Rig;

static void tls_send(SSL *ssl, const char *bytes, size_t n)
{
    while (n) {
        int sent = SSL_write(ssl, bytes, (int)MIN(n, 16000));
        if (sent <= 0) return;
        bytes += sent;
        n -= (size_t)sent;
    }
}

static void tls_sends(SSL *ssl, const char *text)
{
    tls_send(ssl, text, strlen(text));
}

static void big_body(SSL *ssl)
{
    char *bytes = malloc(BIG_BYTES);
    for (size_t i = 0; i < BIG_BYTES; i++) bytes[i] = (char)(i * 7 + i / 251);
    char head[96];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BIG_BYTES);
    tls_sends(ssl, head);
    tls_send(ssl, bytes, BIG_BYTES);
    free(bytes);
}

/* One request as far as its body's length says; false at the end of the connection. */
static bool read_request(SSL *ssl, char *head, size_t head_max, size_t *ret_body)
{
    static char into[65536];
    size_t n = 0;
    Str end = STR_NULL;
    while (n < head_max - 1) {
        int got = SSL_read(ssl, head + n, (int)(head_max - 1 - n));
        if (got <= 0) return false;
        n += (size_t)got;
        head[n] = '\0';
        ptrdiff_t at = str_find(str_make(head, n), STR("\r\n\r\n"));
        if (at >= 0) {
            end = str_skip(str_make(head, n), (size_t)at + 4);
            break;
        }
    }
    const char *length = strstr(head, "Content-Length: ");
    size_t body = length ? strtoul(length + 16, NULL, 10) : 0, have = end.len;
    while (have < body) {
        int got = SSL_read(ssl, into, sizeof into);
        if (got <= 0) return false;
        have += (size_t)got;
    }
    *ret_body = body;
    return true;
}

static void serve(TlsServer *server, SSL *ssl)
{
    (void)server;
    char head[8192], answer[128];
    size_t body;
    while (read_request(ssl, head, sizeof head, &body)) {
        if (strstr(head, "/big")) big_body(ssl);
        else if (strstr(head, "/dribble")) {
            Str all = STR(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
            for (size_t i = 0; i < all.len; i++) tls_send(ssl, all.ptr + i, 1);
        } else if (strstr(head, "/cut")) {
            tls_sends(ssl, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
            return; /* without so much as a close_notify */
        } else if (strstr(head, "/until-close")) {
            tls_sends(ssl, "HTTP/1.1 200 OK\r\n\r\nhello");
            SSL_shutdown(ssl);
            return;
        } else {
            snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n%08zu",
                     body);
            tls_sends(ssl, answer);
        }
    }
}

static int rig_main(void *arg)
{
    Rig *rig = arg;
    rig->client = http_client_new();
    rig->body_wait(rig);
    http_client_free(rig->client);
    return 0;
}

static void rig_run(void (*body_wait)(void *rig), bool trusted, bool stall)
{
    Rig rig = { .body_wait = body_wait, .server = { .serve = serve, .stall = stall } };
    char path[] = "/tmp/gantry-test-ca-XXXXXX";
    close(mkstemp(path));
    tls_open(&rig.server);
    tls_write_certificate(&rig.server, path);
    if (trusted) setenv("SSL_CERT_FILE", path, 1);
    else unsetenv("SSL_CERT_FILE");
    harness_run(rig_main, &rig);
    unsetenv("SSL_CERT_FILE");
    tls_close(&rig.server);
    unlink(path);
    check_none();
}

typedef struct {
    int opened, ended;
    size_t bytes;
    bool right; /* what /big sends, as far as it came */
    char text[16];
    char diag[DIAG_BYTES_MAX];
} Got;

static Got call_wait(Rig *rig, const char *path, Str body)
{
    char url[128];
    snprintf(url, sizeof url, "https://127.0.0.1:%u%s", rig->server.port, path);
    HttpCallOptions options = { .url = str_of(url),
                                .body = body,
                                .deadline_ms = deadline_after(20000) };
    Got got = { .right = true };
    HttpCall *call = NULL;
    diag_clear();
    got.opened = http_call_open_wait(rig->client, &options, &call);
    Str piece;
    while (got.opened == 0 && (got.ended = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0) {
        for (size_t i = 0; i < piece.len; i++, got.bytes++) {
            if (got.bytes < sizeof got.text - 1) got.text[got.bytes] = piece.ptr[i];
            got.right &= piece.ptr[i] == (char)(got.bytes * 7 + got.bytes / 251);
        }
    }
    str_copy(got.diag, sizeof got.diag, str_of(diag_text()));
    http_call_free(call);
    return got;
}

static void calls_wait(void *arg)
{
    Rig *rig = arg;
    char *big = calloc(1, BIG_BYTES);
    for (int i = 0; i < 3; i++) {
        Got got = call_wait(rig, "/small", STR_NULL);
        CHECK_INT(got.opened, 0);
        CHECK_STR(str_of(got.text), STR("00000000"));
        got = call_wait(rig, "/dribble", STR_NULL);
        CHECK_INT(got.ended, HTTP_CALL_E_END);
        CHECK_STR(str_of(got.text), STR("hello"));
        got = call_wait(rig, "/big", STR_NULL);
        CHECK_INT(got.ended, HTTP_CALL_E_END);
        CHECK_INT(got.bytes, BIG_BYTES);
        CHECK(got.right);
        got = call_wait(rig, "/small", str_make(big, BIG_BYTES));
        CHECK_STR(str_of(got.text), STR("03145728"));
    }
    free(big);
    CHECK_INT(atomic_load(&rig->server.connections), 1); /* all over one connection */
    Got got = call_wait(rig, "/cut", STR_NULL);
    CHECK_INT(got.opened, 0);
    CHECK_INT(got.ended, HTTP_CALL_E_CUT);
    got = call_wait(rig, "/until-close", STR_NULL);
    CHECK_INT(got.ended, HTTP_CALL_E_END);
    CHECK_STR(str_of(got.text), STR("hello"));
    CHECK_INT(call_wait(rig, "/small", STR_NULL).opened, 0); /* on a new connection, unasked */
}

static void test_calls(void **state)
{
    (void)state;
    rig_run(calls_wait, true, false);
}

static void untrusted_wait(void *arg)
{
    Got got = call_wait(arg, "/small", STR("secret"));
    CHECK_INT(got.opened, -EPROTO);
    CHECK_HAS(str_of(got.diag), "certificate");
}

static void test_untrusted_certificate(void **state)
{
    (void)state;
    rig_run(untrusted_wait, false, false);
}

/* A handshake that never goes on ends by the connect timeout. */
static void stall_wait(void *arg)
{
    Rig *rig = arg;
    char url[128];
    snprintf(url, sizeof url, "https://127.0.0.1:%u/", rig->server.port);
    HttpAbort abort = { 0 };
    HttpCallOptions options = { .url = str_of(url), .connect_timeout_ms = 100, .abort = &abort };
    HttpCall *call = NULL;
    CHECK_INT(http_call_open_wait(rig->client, &options, &call), -ETIMEDOUT);
    CHECK(!abort.sent);
}

static void test_stalled_handshake(void **state)
{
    (void)state;
    rig_run(stall_wait, true, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_untrusted_certificate),
        cmocka_unit_test(test_stalled_handshake),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
