#include "net/http_client.h"

#include <stdlib.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/list.h"
#include "codec/http1_answer.h"
#include "net/dial.h"
#include "sys/clock.h"

#define CONNECT_TIMEOUT_DEFAULT_MS 10000
#define IDLE_TIMEOUT_DEFAULT_MS 600000
#define HEADER_BYTES_DEFAULT (256 * 1024)
#define BODY_AHEAD_BYTES (64 * 1024)
#define REQUEST_HEAD_BYTES_MAX (256 * 1024)
#define POOL_CONNECTIONS_MAX 512
#define POOL_IDLE_MS_MAX 110000
#define READS_IN_A_ROW_MAX 8 /* then others get their turn */

/* A connection and where it leads. While it is idle it is on its client's list. */
typedef struct {
    ListNode node;
    HttpClient *client;
    DialConn *dial;
    int64_t idle_since_ms;
    uint16_t port;
    bool https;
    bool used; /* it has carried a message before */
    char host[];
} Conn;

struct HttpClient {
    List idle; /* of Conn, the last used first */
    size_t idle_n;
    size_t calls_n;
    char scratch[BODY_AHEAD_BYTES]; /* what was just read; not kept across a wait */
};

/* A fiber waiting for something to happen to its call. */
typedef struct {
    Op op;
    HttpCall *call;
} CallWait;

/* Owned by the loop's thread; the caller's fiber does all of the work. */
struct HttpCall {
    HttpClient *client;
    Conn *conn; /* NULL before it is dialled and once the answer is complete */
    const AddrGuard *guard;
    HttpAbort *abort;
    Arena arena; /* the URL, and why the answer ended early */
    Url url;
    bool idempotent; /* may be sent again on a connection that turns out to be dead */

    Buf head; /* of the request */
    Str body;
    size_t sent;         /* of both */
    bool sending;        /* waits to write */
    int64_t deadline_ms; /* DEADLINE_NONE: none */
    int64_t connect_timeout_ms, idle_timeout_ms;
    int64_t progress_ms; /* when a byte last moved; 0 before the connection is there */

    Http1Answer answer;
    bool received;       /* a byte of the answer has come */
    Buf filling, handed; /* the body: what came in, what the caller reads */
    int reads;           /* since the fiber last waited */
    int failure;         /* -errno: the answer will not become complete */
    Str failure_text;

    bool aborted;
    CallWait *waiter;
};

/* --- connections ------------------------------------------------------------------------------ */

HttpClient *http_client_new(void)
{
    HttpClient *client = xmalloc(sizeof *client);
    list_init(&client->idle);
    client->idle_n = client->calls_n = 0;
    return client;
}

static void conn_free(Conn *conn)
{
    if (!conn) return;
    dial_free(conn->dial);
    free(conn);
}

static Conn *idle_oldest(HttpClient *client)
{
    return list_empty(&client->idle) ? NULL : CONTAINER_OF(client->idle.prev, Conn, node);
}

static void idle_remove(Conn *conn)
{
    list_remove(&conn->node);
    conn->client->idle_n--;
}

void http_client_free(HttpClient *client)
{
    if (!client) return;
    assert(client->calls_n == 0);
    for (Conn *conn; (conn = idle_oldest(client));) {
        idle_remove(conn);
        conn_free(conn);
    }
    free(client);
}

/* An idle connection has nothing to say: it was closed, or breaks the protocol. */
static void on_idle_event(void *ctx)
{
    Conn *conn = ctx;
    idle_remove(conn);
    conn_free(conn);
}

static void idle_add(Conn *conn)
{
    HttpClient *client = conn->client;
    conn->idle_since_ms = clock_mono_ms();
    conn->used = true;
    dial_notify(conn->dial, on_idle_event, conn);
    dial_watch(conn->dial, false);
    list_push_front(&client->idle, &conn->node);
    if (++client->idle_n <= POOL_CONNECTIONS_MAX) return;
    Conn *oldest = idle_oldest(client);
    idle_remove(oldest);
    conn_free(oldest);
}

static bool leads_to(const Conn *conn, const Url *url)
{
    return conn->port == url->port && conn->https == url->https &&
           str_eq(str_of(conn->host), url->host);
}

/* Servers close what was quiet for long: that is not waited for. */
static void idle_expire(HttpClient *client)
{
    int64_t since_ms = clock_mono_ms() - POOL_IDLE_MS_MAX;
    for (Conn *conn; (conn = idle_oldest(client)) && conn->idle_since_ms < since_ms;) {
        idle_remove(conn);
        conn_free(conn);
    }
}

/* An idle connection to that place, or NULL. */
static Conn *idle_take(HttpClient *client, const Url *url)
{
    idle_expire(client);
    LIST_EACH (&client->idle, node) {
        Conn *conn = CONTAINER_OF(node, Conn, node);
        if (!leads_to(conn, url)) continue;
        idle_remove(conn);
        char byte; /* what it has to say unasked would be taken for the next answer */
        if (dial_read(conn->dial, &byte, 1) == -EAGAIN) return conn;
        conn_free(conn);
    }
    return NULL;
}

static Conn *conn_new(HttpCall *call)
{
    const Url *url = &call->url;
    DialOptions options = { .url = url,
                            .guard = call->guard,
                            .connect_timeout_ms = call->connect_timeout_ms };
    DialConn *dial = dial_new(&options);
    if (!dial) return NULL;
    Conn *conn = xcalloc(1, sizeof *conn + url->host.len + 1);
    conn->client = call->client;
    conn->dial = dial;
    conn->port = url->port;
    conn->https = url->https;
    memcpy(conn->host, url->host.ptr, url->host.len);
    return conn;
}

/* --- preparing a call ------------------------------------------------------------------------- */

static bool is_named(const HttpCallOptions *options, const char *name)
{
    for (size_t i = 0; i < options->fields_n; i++)
        if (str_eq_nocase(str_of(options->fields[i].name), str_of(name))) return true;
    return false;
}

static int add_fields(HttpCall *call, const HttpCallOptions *options)
{
    for (size_t i = 0; i < options->fields_n; i++) {
        Str name = str_of(options->fields[i].name), value = options->fields[i].value;
        if (!http1_name_ok(name) || !http1_value_ok(value))
            return diag_set(-EINVAL, "the header field \"%.*s\" cannot be sent", STR_ARG(name));
        if (!str_empty(value)) http1_add_field(&call->head, name, value);
        else if (buf_add(&call->head, name)) buf_add(&call->head, STR(":\r\n"));
    }
    if (!is_named(options, "user-agent"))
        http1_add_field(&call->head, STR("User-Agent"), STR("gantry/" GANTRY_VERSION));
    if (!is_named(options, "accept")) http1_add_field(&call->head, STR("Accept"), STR("*/*"));
    return 0;
}

static int make_head(HttpCall *call, const HttpCallOptions *options)
{
    const Url *url = &call->url;
    bool with_body = call->body.len > 0 || str_eq(options->method, STR("POST"));
    Str method = options->method;
    if (str_empty(method)) method = with_body ? STR("POST") : STR("GET");
    if (!http1_name_ok(method)) return diag_set(-EINVAL, "the method cannot be sent");
    call->idempotent = !with_body && (str_eq(method, STR("GET")) || str_eq(method, STR("HEAD")));
    http1_answer_init(&call->answer,
                      options->header_bytes_max ? options->header_bytes_max : HEADER_BYTES_DEFAULT,
                      str_eq(method, STR("HEAD")));
    Str parts[] = { method,     STR(" "),
                    url->path,  str_empty(url->query) ? STR("") : STR("?"),
                    url->query, STR(" HTTP/1.1\r\nHost: "),
                    url->host };
    for (size_t i = 0; i < ARRAY_N(parts); i++) buf_add(&call->head, parts[i]);
    if (!url->port_default) http1_add_port(&call->head, url->port);
    buf_add(&call->head, STR("\r\n"));
    int r = add_fields(call, options);
    if (r < 0) return r;
    if (with_body) http1_add_content_length(&call->head, call->body.len);
    return http1_add_head_end(&call->head) && !call->head.failed
               ? 0
               : diag_set(-EINVAL, "the head of the request is too large");
}

static int call_prepare(HttpCall *call, const HttpCallOptions *options)
{
    int r = url_parse(&call->arena, options->url, &call->url);
    if (r == 0 && options->guard) r = addr_guard_check_url(options->guard, &call->url);
    return r == 0 ? make_head(call, options) : r;
}

static int64_t or_default(int64_t ms, int64_t standard_ms)
{
    return ms ? ms : standard_ms;
}

static int call_new(HttpClient *client, const HttpCallOptions *options, HttpCall **ret)
{
    HttpCall *call = xcalloc(1, sizeof *call);
    call->client = client;
    call->guard = options->guard;
    call->abort = options->abort;
    call->body = options->body;
    call->deadline_ms = or_default(options->deadline_ms, DEADLINE_NONE);
    call->connect_timeout_ms = or_default(options->connect_timeout_ms, CONNECT_TIMEOUT_DEFAULT_MS);
    call->idle_timeout_ms = or_default(options->idle_timeout_ms, IDLE_TIMEOUT_DEFAULT_MS);
    arena_init(&call->arena, 16 * URL_BYTES_MAX);
    buf_init(&call->head, REQUEST_HEAD_BYTES_MAX);
    buf_init(&call->filling, BODY_AHEAD_BYTES);
    buf_init(&call->handed, BODY_AHEAD_BYTES);
    client->calls_n++;
    if (call->abort) {
        assert(!call->abort->call);
        call->abort->call = call;
        call->aborted = call->abort->aborted;
    }
    int r = call_prepare(call, options);
    if (r < 0) http_call_free(call);
    else *ret = call;
    return r;
}

void http_call_free(HttpCall *call)
{
    if (!call) return;
    assert(!call->waiter && call->client->calls_n > 0);
    conn_free(call->conn);
    if (call->abort) call->abort->call = NULL;
    call->client->calls_n--;
    http1_answer_deinit(&call->answer);
    arena_deinit(&call->arena);
    buf_deinit(&call->head);
    buf_deinit(&call->filling);
    buf_deinit(&call->handed);
    free(call);
}

/* --- waiting ---------------------------------------------------------------------------------- */

static void call_wake(HttpCall *call)
{
    CallWait *wait = call->waiter;
    if (!wait) return;
    call->waiter = NULL;
    op_done(&wait->op, 0);
}

/* Nobody waits: the event is for later, and would come again and again. */
static void on_call_event(void *ctx)
{
    HttpCall *call = ctx;
    if (call->waiter) call_wake(call);
    else if (dial_state(call->conn->dial) == DIAL_OPEN) dial_unwatch(call->conn->dial);
}

void http_abort(HttpAbort *abort)
{
    abort->aborted = true;
    HttpCall *call = abort->call;
    if (!call) return;
    call->aborted = true;
    call_wake(call);
}

static void cancel_wait(Op *op, int code)
{
    CallWait *wait = CONTAINER_OF(op, CallWait, op);
    wait->call->waiter = NULL;
    op_done(op, code);
}

static int64_t idle_deadline(const HttpCall *call)
{
    if (!call->progress_ms) return DEADLINE_NONE; /* the connect timeout runs */
    return call->progress_ms + call->idle_timeout_ms;
}

/* Parks until something happened to the call. Returns 0, -ETIMEDOUT, -ECANCELED, -ECONNABORTED. */
static int call_wait(HttpCall *call, int64_t deadline_ms)
{
    assert(!call->waiter && call->conn);
    if (call->aborted) return diag_set(-ECONNABORTED, "the call was stopped");
    if (dial_state(call->conn->dial) == DIAL_OPEN) dial_watch(call->conn->dial, call->sending);
    deadline_ms = MIN(deadline_ms, call->deadline_ms);
    CallWait wait = { .call = call };
    op_init(&wait.op, cancel_wait);
    call->waiter = &wait;
    call->reads = 0;
    int r = op_wait(&wait.op, MIN(deadline_ms, idle_deadline(call)));
    assert(!call->waiter);
    if (r != -ETIMEDOUT) return r;
    if (clock_mono_ms() >= deadline_ms)
        return diag_set(-ETIMEDOUT, "no complete answer before the deadline");
    return diag_set(-ETIMEDOUT, "nothing came for %" PRId64 " ms", call->idle_timeout_ms);
}

/* --- receiving -------------------------------------------------------------------------------- */

static int fail(HttpCall *call, int code)
{
    call->failure = code;
    call->failure_text = arena_str(&call->arena, str_of(diag_text_or(code)));
    return code;
}

/* The answer is complete: its connection is free for the next call. */
static void ended(HttpCall *call, bool clean)
{
    Conn *conn = TAKE(call->conn);
    bool reusable = clean && call->answer.keep && !call->guard &&
                    call->sent == call->head.len + call->body.len;
    if (reusable) idle_add(conn);
    else conn_free(conn);
}

/* Takes in what has arrived. Returns 0, -EAGAIN (nothing), or the -errno that ends the answer. */
static int receive(HttpCall *call)
{
    size_t room = call->filling.max - call->filling.len, used = 0;
    assert(room > 0 && !call->answer.ended && call->failure == 0);
    char *scratch = call->client->scratch;
    ssize_t n = dial_read(call->conn->dial, scratch, MIN(room, sizeof call->client->scratch));
    if (n == -EAGAIN) return -EAGAIN;
    if (n < 0)
        return fail(call, diag_set(-ECONNRESET, call->answer.head_done
                                                    ? "the connection was reset within the answer"
                                                    : "the connection was reset before an answer "
                                                      "came"));
    call->progress_ms = loop_now_ms(loop_here());
    call->received |= n > 0;
    int r = n > 0 ? http1_answer_take(&call->answer, str_make(scratch, (size_t)n), &call->filling,
                                      &used)
                  : http1_answer_close(&call->answer);
    if (r < 0) return fail(call, r);
    if (call->answer.ended) ended(call, n > 0 && used == (size_t)n);
    return 0;
}

/* Waits for the next bytes and takes them in. Returns 0, or a negative errno; call->failure is set
 * when it is the answer's. */
static int receive_wait(HttpCall *call, int64_t deadline_ms)
{
    if (++call->reads > READS_IN_A_ROW_MAX) {
        call->reads = 0;
        if (fiber_yield_wait() < 0) return -ECANCELED;
        if (call->aborted) return diag_set(-ECONNABORTED, "the call was stopped");
        if (clock_mono_ms() >= MIN(deadline_ms, call->deadline_ms))
            return diag_set(-ETIMEDOUT, "no complete answer before the deadline");
    }
    int r = dial_may_read(call->conn->dial) ? receive(call) : -EAGAIN;
    while (r == -EAGAIN) {
        r = call_wait(call, deadline_ms);
        if (r < 0) return r;
        r = receive(call);
    }
    return r;
}

/* --- sending ---------------------------------------------------------------------------------- */

static int connect_wait(HttpCall *call, bool fresh)
{
    if (!fresh && !call->guard) call->conn = idle_take(call->client, &call->url);
    if (!call->conn) call->conn = conn_new(call);
    if (!call->conn) return diag_set(-ENOMEM, "no memory for a connection");
    DialConn *dial = call->conn->dial;
    dial_notify(dial, on_call_event, call);
    while (dial_state(dial) == DIAL_CONNECTING) {
        int r = call_wait(call, DEADLINE_NONE);
        if (r < 0) return r;
    }
    if (dial_state(dial) == DIAL_FAILED) return dial_result(dial);
    if (call->aborted) return diag_set(-ECONNABORTED, "the call was stopped");
    call->progress_ms = clock_mono_ms(); /* from now on silence is measured */
    if (call->abort) call->abort->sent = true;
    return 0;
}

static ssize_t send_some(HttpCall *call)
{
    Str head = str_skip(buf_str(&call->head), MIN(call->sent, call->head.len));
    size_t body_sent = call->sent > call->head.len ? call->sent - call->head.len : 0;
    return dial_write(call->conn->dial, head, str_skip(call->body, body_sent));
}

/* A server may answer, and refuse, before it has read all of a request: then the rest is not sent.
 */
static int send_wait(HttpCall *call)
{
    size_t whole = call->head.len + call->body.len;
    while (call->sent < whole && !call->answer.head_done) {
        ssize_t n = send_some(call);
        if (n > 0) {
            call->sent += (size_t)n;
            call->progress_ms = loop_now_ms(loop_here());
            continue;
        }
        if (n != -EAGAIN) return -ECONNRESET; /* what it said before that is still to be read */
        call->sending = true;
        int r = call_wait(call, DEADLINE_NONE);
        if (r == 0) r = receive(call);
        if (r < 0 && r != -EAGAIN && !call->answer.head_done) return r;
    }
    call->sending = false;
    return 0;
}

/* Whether nothing of the request can have been acted on, or may be again: the kept connection was
 * dead before it was used. */
static bool can_redial(const HttpCall *call, int r)
{
    return r == -ECONNRESET && call->conn && call->conn->used && !call->received &&
           (call->sent == 0 || call->idempotent);
}

static int exchange_wait(HttpCall *call)
{
    int r = send_wait(call);
    if (r < 0 && (r != -ECONNRESET || call->failure || call->sent == 0)) return r;
    while (!call->answer.head_done) {
        r = receive_wait(call, DEADLINE_NONE);
        if (r < 0 && !call->answer.head_done) return r; /* else the body ends with it */
    }
    return 0;
}

static int redial_wait(HttpCall *call)
{
    conn_free(TAKE(call->conn));
    call->sent = 0;
    call->failure = 0;
    call->sending = false;
    int r = connect_wait(call, true);
    return r == 0 ? exchange_wait(call) : r;
}

int http_call_open_wait(HttpClient *client, const HttpCallOptions *options, HttpCall **ret)
{
    CLEANUP(http_call_freep) HttpCall *call = NULL;
    int r = call_new(client, options, &call);
    if (r == 0) r = connect_wait(call, false);
    if (r == 0) r = exchange_wait(call);
    if (can_redial(call, r)) r = redial_wait(call);
    if (r == -ECONNRESET && str_empty(str_of(diag_text())))
        diag_set(r, "the connection was closed before an answer came");
    if (call && call->abort) call->abort->served = http1_answer_status(&call->answer) / 100 == 2;
    if (r == 0) *ret = TAKE(call);
    return r;
}

/* --- reading ---------------------------------------------------------------------------------- */

int http_call_status(const HttpCall *call)
{
    return call->answer.status;
}

Str http_call_field(const HttpCall *call, const char *name)
{
    return http1_answer_field(&call->answer, str_of(name));
}

bool http_call_field_at(const HttpCall *call, size_t i, Str *ret_name, Str *ret_value)
{
    if (i >= call->answer.fields_n) return false;
    *ret_name = call->answer.fields[i].name;
    *ret_value = call->answer.fields[i].value;
    return true;
}

int http_call_read_wait(HttpCall *call, int64_t deadline_ms, Str *ret)
{
    buf_clear(&call->handed);
    call->progress_ms = loop_now_ms(loop_here()); /* while nobody reads, silence is not theirs */
    while (call->filling.len == 0) {
        if (call->answer.ended) return HTTP_CALL_E_END;
        if (call->failure) return diag_set(HTTP_CALL_E_CUT, "%.*s", STR_ARG(call->failure_text));
        int r = receive_wait(call, deadline_ms);
        if (r < 0 && !call->failure) return r;
    }
    Buf full = call->filling;
    call->filling = call->handed;
    call->handed = full;
    *ret = buf_str(&call->handed);
    return 0;
}

/* --- whole answers ---------------------------------------------------------------------------- */

static int read_all_wait(HttpCall *call, size_t body_max, Buf *body)
{
    Str piece;
    int r;
    while ((r = http_call_read_wait(call, DEADLINE_NONE, &piece)) == 0) {
        if (piece.len > body_max - body->len)
            return diag_set(-EMSGSIZE, "the answer is larger than %zu bytes", body_max);
        if (!buf_add(body, piece)) return -ENOMEM;
    }
    return r;
}

int http_fetch_wait(HttpClient *client, const HttpCallOptions *options, size_t body_max,
                    Arena *arena, HttpResponse *ret)
{
    CLEANUP(http_call_freep) HttpCall *call = NULL;
    int r = http_call_open_wait(client, options, &call);
    if (r < 0) return r;
    CLEANUP(buf_deinit) Buf body;
    buf_init(&body, body_max);
    r = read_all_wait(call, body_max, &body);
    if (r != HTTP_CALL_E_END) return r;
    HttpResponse response = { .status = http_call_status(call) };
    response.content_type = arena_str(arena, http_call_field(call, "content-type"));
    response.retry_after = arena_str(arena, http_call_field(call, "retry-after"));
    response.body = arena_str(arena, buf_str(&body));
    if (!response.content_type.ptr || !response.retry_after.ptr || !response.body.ptr)
        return -ENOMEM;
    *ret = response;
    return 0;
}
