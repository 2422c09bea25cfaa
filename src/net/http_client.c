#include "net/http_client.h"

#include <stdlib.h>
#include <sys/socket.h>

#include <curl/curl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <uv.h>

#include "base/buf.h"
#include "base/diag.h"
#include "codec/http1.h"
#include "sys/clock.h"

#define CONNECT_TIMEOUT_DEFAULT_MS 10000
#define IDLE_TIMEOUT_DEFAULT_MS 600000
#define HEADER_BYTES_DEFAULT (256 * 1024)
#define BODY_AHEAD_BYTES (64 * 1024)
#define POOL_CONNECTIONS_MAX 512L

struct HttpClient {
    CURLM *multi;
    uv_loop_t *uv;
    uv_timer_t *timer; /* freed in its close callback */
    size_t calls_n;
};

/* A socket libcurl wants watched. */
typedef struct {
    uv_poll_t poll;
    HttpClient *client;
    curl_socket_t fd;
} Watch;

typedef struct {
    Str name, value;
} HeadField;

/* A fiber waiting for something to happen to its call. */
typedef struct {
    Op op;
    HttpCall *call;
} CallWait;

/* Owned by the loop's thread: libcurl's callbacks write to it, the caller's fiber reads. */
struct HttpCall {
    HttpClient *client;
    CURL *easy;
    struct curl_slist *request_fields;
    const AddrGuard *guard;
    HttpAbort *abort;
    Arena arena; /* the URL and the head of the answer */

    Str body;
    size_t body_sent;
    int64_t deadline_ms; /* DEADLINE_NONE: none */
    int64_t idle_timeout_ms;
    int64_t progress_ms; /* when a byte last moved; 0 before the connection is there */

    int status;
    bool head_done;
    bool head_too_large;
    size_t head_bytes, head_bytes_max;
    HeadField *fields;
    size_t fields_n, fields_cap;

    Buf filling, handed; /* the body: what libcurl adds to, what the caller reads */
    bool paused;

    bool done;
    CURLcode result;
    bool refused; /* by the guard */
    bool aborted;
    char error[CURL_ERROR_SIZE];
    char refusal[DIAG_BYTES_MAX];
    CallWait *waiter;
};

/* --- libcurl on the loop ---------------------------------------------------------------------- */

static void call_wake(HttpCall *call)
{
    CallWait *wait = call->waiter;
    if (!wait) return;
    call->waiter = NULL;
    op_done(&wait->op, 0);
}

static void collect_done(HttpClient *client)
{
    CURLMsg *msg;
    int left;
    while ((msg = curl_multi_info_read(client->multi, &left))) {
        if (msg->msg != CURLMSG_DONE) continue;
        HttpCall *call = NULL;
        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        assert(call && call->easy == msg->easy_handle);
        call->done = true;
        call->result = msg->data.result;
        call_wake(call);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    Watch *watch = CONTAINER_OF(poll, Watch, poll);
    HttpClient *client = watch->client; /* watch may be closed by the call below */
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
    int running;
    curl_multi_socket_action(client->multi, watch->fd, flags, &running);
    collect_done(client);
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(CONTAINER_OF((uv_poll_t *)(void *)handle, Watch, poll));
}

static Watch *watch_new(HttpClient *client, curl_socket_t fd)
{
    Watch *watch = xmalloc(sizeof *watch);
    watch->client = client;
    watch->fd = fd;
    if (uv_poll_init_socket(client->uv, &watch->poll, fd) == 0) return watch;
    free(watch);
    return NULL;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    (void)easy;
    HttpClient *client = ctx;
    Watch *watch = socket_ctx;
    if (what == CURL_POLL_REMOVE) {
        if (watch) uv_close((uv_handle_t *)&watch->poll, on_watch_closed);
        curl_multi_assign(client->multi, fd, NULL);
        return 0;
    }
    if (!watch) {
        watch = watch_new(client, fd);
        if (!watch) return -1;
        curl_multi_assign(client->multi, fd, watch);
    }
    int events = 0;
    if (what & CURL_POLL_IN) events |= UV_READABLE;
    if (what & CURL_POLL_OUT) events |= UV_WRITABLE;
    return uv_poll_start(&watch->poll, events, on_poll) == 0 ? 0 : -1;
}

static void on_timeout(uv_timer_t *timer)
{
    HttpClient *client = timer->data;
    int running;
    curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect_done(client);
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *ctx)
{
    (void)multi;
    HttpClient *client = ctx;
    if (timeout_ms < 0) uv_timer_stop(client->timer);
    else uv_timer_start(client->timer, on_timeout, (uint64_t)timeout_ms, 0);
    return 0;
}

static void curl_start(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) DIE("libcurl cannot be initialised");
}

HttpClient *http_client_new(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, curl_start);
    HttpClient *client = xcalloc(1, sizeof *client);
    client->uv = loop_uv(loop_here());
    client->timer = xmalloc(sizeof *client->timer);
    uv_timer_init(client->uv, client->timer);
    client->timer->data = client;
    client->multi = curl_multi_init();
    if (!client->multi) DIE("out of memory for libcurl");
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, POOL_CONNECTIONS_MAX);
    return client;
}

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle);
}

void http_client_free(HttpClient *client)
{
    if (!client) return;
    assert(client->calls_n == 0);
    curl_multi_cleanup(client->multi); /* gives its sockets back through on_socket */
    uv_close((uv_handle_t *)client->timer, on_timer_closed);
    free(client);
}

/* --- libcurl's callbacks for one call --------------------------------------------------------- */

static size_t on_send(char *out, size_t size, size_t n, void *ctx)
{
    HttpCall *call = ctx;
    size_t bytes = MIN(size * n, call->body.len - call->body_sent);
    if (bytes) memcpy(out, call->body.ptr + call->body_sent, bytes);
    call->body_sent += bytes;
    call->progress_ms = clock_mono_ms();
    return bytes;
}

static bool head_reset(HttpCall *call, Str line)
{
    Str code = str_sub(str_skip(line, (size_t)MAX(str_find_char(line, ' ') + 1, 0)), 0, 3);
    int64_t status;
    if (str_to_i64(code, &status) < 0) return false;
    call->status = (int)status;
    call->fields_n = 0;
    return true;
}

static bool head_add(HttpCall *call, Str line)
{
    ptrdiff_t colon = str_find_char(line, ':');
    if (colon <= 0) return true; /* a folded or broken line: nothing that is looked for */
    if (call->fields_n == call->fields_cap) {
        size_t cap = MAX(32, call->fields_cap * 2);
        HeadField *grown = arena_realloc(&call->arena, call->fields,
                                         call->fields_cap * sizeof *grown, cap * sizeof *grown);
        if (!grown) return false;
        call->fields = grown;
        call->fields_cap = cap;
    }
    Str copy = arena_str(&call->arena, line);
    if (!copy.ptr) return false;
    call->fields[call->fields_n++] = (HeadField){ .name = str_sub(copy, 0, (size_t)colon),
                                                  .value = str_trim(
                                                      str_skip(copy, (size_t)colon + 1)) };
    return true;
}

/* One line of a head, or of the trailers, which count but are dropped. */
static size_t on_head(char *bytes, size_t size, size_t n, void *ctx)
{
    HttpCall *call = ctx;
    Str line = str_make(bytes, size * n);
    call->progress_ms = clock_mono_ms();
    call->head_bytes += line.len;
    if (call->head_bytes > call->head_bytes_max) {
        call->head_too_large = true;
        return 0;
    }
    if (call->head_done) return line.len;
    if (str_starts_with(line, STR("HTTP/"))) return head_reset(call, line) ? line.len : 0;
    if (!str_empty(str_trim(line))) return head_add(call, line) ? line.len : 0;
    if (call->status < 200) return line.len; /* the answer proper is still to come */
    call->head_done = true;
    call_wake(call);
    return line.len;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *ctx)
{
    HttpCall *call = ctx;
    Str piece = str_make(bytes, size * n);
    call->progress_ms = clock_mono_ms();
    if (call->filling.len + piece.len > BODY_AHEAD_BYTES) {
        call->paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (!buf_add(&call->filling, piece)) return 0;
    call_wake(call);
    return piece.len;
}

static Addr addr_from_sockaddr(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return addr_v4((const uint8_t *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr);
    return addr_v6((const uint8_t *)&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
}

/* The last word on where a connection goes: the address is the one that is connected to. After one
 * refusal no other answer of the same name is tried. */
static curl_socket_t on_open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
{
    (void)purpose;
    HttpCall *call = ctx;
    if (call->refused || (address->family != AF_INET && address->family != AF_INET6))
        return CURL_SOCKET_BAD;
    if (call->guard && addr_guard_check(call->guard, addr_from_sockaddr(&address->addr)) < 0) {
        call->refused = true;
        str_copy(call->refusal, sizeof call->refusal, str_of(diag_text()));
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* The connection is there; from now on silence is measured. */
static int on_connected(void *ctx, char *ip, char *local_ip, int port, int local_port)
{
    (void)ip, (void)local_ip, (void)port, (void)local_port;
    HttpCall *call = ctx;
    call->progress_ms = clock_mono_ms();
    if (call->abort) call->abort->sent = true;
    call_wake(call); /* to wait on with the idle timeout */
    return CURL_PREREQFUNC_OK;
}

/* --- preparing a call ------------------------------------------------------------------------- */

/* Everything that must hold for every request, whoever makes it. */
static unsigned set_policy(CURL *easy)
{
    unsigned bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
    bad |= curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
#if LIBCURL_VERSION_NUM >= 0x075500
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    bad |= curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* a call dropped during its look-up must not wait for the resolver's thread */
    bad |= curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
#endif
    return bad;
}

static unsigned set_callbacks(CURL *easy, HttpCall *call)
{
    unsigned bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    bad |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->error);
    bad |= curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_head);
    bad |= curl_easy_setopt(easy, CURLOPT_HEADERDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
    bad |= curl_easy_setopt(easy, CURLOPT_READDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected);
    bad |= curl_easy_setopt(easy, CURLOPT_PREREQDATA, call);
    return bad;
}

/* The body goes out through on_send and not as POSTFIELDS: then libcurl cannot rewind it, and so
 * never sends a request again that a server may already have acted on (and billed). */
static unsigned set_method(CURL *easy, const HttpCallOptions *options, Arena *arena)
{
    bool with_body = options->body.len > 0 || str_eq(options->method, STR("POST"));
    Str method = options->method;
    if (str_empty(method)) method = with_body ? STR("POST") : STR("GET");
    if (with_body) {
        unsigned bad = curl_easy_setopt(easy, CURLOPT_POST, 1L);
        bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)options->body.len);
        if (str_eq(method, STR("POST"))) return bad;
        return bad | curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, arena_cstr(arena, method));
    }
    if (str_eq(method, STR("HEAD"))) return curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    if (str_eq(method, STR("GET"))) return curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, arena_cstr(arena, method));
}

/* libcurl's way to write a field: "Name: value", "Name;" when empty, "Name:" to leave its own out.
 */
static bool field_push(HttpCall *call, Str line)
{
    struct curl_slist *longer = line.ptr ? curl_slist_append(call->request_fields, line.ptr) : NULL;
    if (longer) call->request_fields = longer;
    return longer != NULL;
}

static int set_fields(HttpCall *call, const HttpCallOptions *options)
{
    bool has_type = false, has_agent = false;
    for (size_t i = 0; i < options->fields_n; i++) {
        Str name = str_of(options->fields[i].name), value = options->fields[i].value;
        if (!http1_name_ok(name) || !http1_value_ok(value))
            return diag_set(-EINVAL, "the header field \"%.*s\" cannot be sent", STR_ARG(name));
        has_type |= str_eq_nocase(name, STR("content-type"));
        has_agent |= str_eq_nocase(name, STR("user-agent"));
        Str line = str_empty(value)
                       ? arena_printf(&call->arena, "%.*s;", STR_ARG(name))
                       : arena_printf(&call->arena, "%.*s: %.*s", STR_ARG(name), STR_ARG(value));
        if (!field_push(call, line)) return -ENOMEM;
    }
    bool ok = field_push(call, STR("Expect:"));
    if (!has_type) ok = ok && field_push(call, STR("Content-Type:"));
    if (!has_agent) ok = ok && field_push(call, STR("User-Agent: gantry/" GANTRY_VERSION));
    if (curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->request_fields) != CURLE_OK)
        ok = false;
    return ok ? 0 : -ENOMEM;
}

/* The URL that libcurl gets is the canonical text of what was checked. */
static int set_url(HttpCall *call, const HttpCallOptions *options)
{
    Url url;
    int r = url_parse(&call->arena, options->url, &url);
    if (r < 0) return r;
    if (options->guard) {
        r = addr_guard_check_url(options->guard, &url);
        if (r < 0) return r;
    }
    const char *text = arena_cstr(&call->arena, url_text(&call->arena, &url));
    if (!text || curl_easy_setopt(call->easy, CURLOPT_URL, text) != CURLE_OK) return -ENOMEM;
    return 0;
}

static int call_prepare(HttpCall *call, const HttpCallOptions *options)
{
    if (!call->easy) return -ENOMEM;
    int r = set_url(call, options);
    if (r < 0) return r;
    int64_t connect_ms = options->connect_timeout_ms ? options->connect_timeout_ms
                                                     : CONNECT_TIMEOUT_DEFAULT_MS;
    unsigned bad = set_policy(call->easy) | set_callbacks(call->easy, call);
    bad |= set_method(call->easy, options, &call->arena);
    bad |= curl_easy_setopt(call->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_ms);
    if (options->guard) { /* a pooled connection may have been opened under other rules */
        bad |= curl_easy_setopt(call->easy, CURLOPT_FRESH_CONNECT, 1L);
        bad |= curl_easy_setopt(call->easy, CURLOPT_FORBID_REUSE, 1L);
    }
    if (bad) return diag_set(-ENOMEM, "libcurl refused an option");
    return set_fields(call, options);
}

static int call_new(HttpClient *client, const HttpCallOptions *options, HttpCall **ret)
{
    HttpCall *call = xcalloc(1, sizeof *call);
    call->client = client;
    call->easy = curl_easy_init();
    call->guard = options->guard;
    call->abort = options->abort;
    call->body = options->body;
    call->deadline_ms = options->deadline_ms ? options->deadline_ms : DEADLINE_NONE;
    call->idle_timeout_ms = options->idle_timeout_ms ? options->idle_timeout_ms
                                                     : IDLE_TIMEOUT_DEFAULT_MS;
    call->head_bytes_max = options->header_bytes_max ? options->header_bytes_max
                                                     : HEADER_BYTES_DEFAULT;
    arena_init(&call->arena, 8 * call->head_bytes_max + 16 * URL_BYTES_MAX);
    buf_init(&call->filling, BODY_AHEAD_BYTES);
    buf_init(&call->handed, BODY_AHEAD_BYTES);
    client->calls_n++;
    if (call->abort) {
        assert(!call->abort->call);
        call->abort->call = call;
        call->aborted = call->abort->aborted;
    }
    int r = call_prepare(call, options);
    if (r == 0 && curl_multi_add_handle(client->multi, call->easy) != CURLM_OK) r = -ENOMEM;
    if (r < 0) http_call_free(call);
    else *ret = call;
    return r;
}

void http_call_free(HttpCall *call)
{
    if (!call) return;
    assert(!call->waiter && call->client->calls_n > 0);
    if (call->easy) {
        curl_multi_remove_handle(call->client->multi, call->easy); /* harmless when it is not in */
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->request_fields);
    if (call->abort) call->abort->call = NULL;
    call->client->calls_n--;
    arena_deinit(&call->arena);
    buf_deinit(&call->filling);
    buf_deinit(&call->handed);
    free(call);
}

/* --- waiting ---------------------------------------------------------------------------------- */

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
    if (!call->progress_ms) return DEADLINE_NONE; /* libcurl's connect timeout runs */
    return call->progress_ms + call->idle_timeout_ms;
}

/* Parks until something happened to the call. Returns 0, -ETIMEDOUT, -ECANCELED, -ECONNABORTED. */
static int call_wait(HttpCall *call, int64_t deadline_ms)
{
    assert(!call->waiter && !call->done);
    if (call->aborted) return diag_set(-ECONNABORTED, "the call was stopped");
    deadline_ms = MIN(deadline_ms, call->deadline_ms);
    CallWait wait = { .call = call };
    op_init(&wait.op, cancel_wait);
    call->waiter = &wait;
    int r = op_wait(&wait.op, MIN(deadline_ms, idle_deadline(call)));
    assert(!call->waiter);
    if (r != -ETIMEDOUT) return r;
    int64_t now_ms = clock_mono_ms();
    if (now_ms >= deadline_ms)
        return diag_set(-ETIMEDOUT, "no complete answer before the deadline");
    if (now_ms < idle_deadline(call)) return 0; /* bytes moved meanwhile without waking us */
    return diag_set(-ETIMEDOUT, "nothing came for %" PRId64 " ms", call->idle_timeout_ms);
}

static const char *result_text(const HttpCall *call)
{
    return call->error[0] ? call->error : curl_easy_strerror(call->result);
}

static int connect_failed(const HttpCall *call)
{
    long os_errno = 0;
    curl_easy_getinfo(call->easy, CURLINFO_OS_ERRNO, &os_errno);
    if (call->refused) return diag_set(-EACCES, "%s", call->refusal);
    return diag_set(os_errno == ECONNREFUSED ? -ECONNREFUSED : -EHOSTUNREACH, "%s",
                    result_text(call));
}

/* Why there is no head. */
static int open_failed(const HttpCall *call)
{
    if (call->head_too_large)
        return diag_set(-EPROTO, "the head of the answer is larger than %zu bytes",
                        call->head_bytes_max);
    switch (call->result) {
    case CURLE_OK: /* the connection ended within the head */
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_SEND_FAIL_REWIND:
        return diag_set(-ECONNRESET, "the connection was closed before an answer came");
    case CURLE_COULDNT_CONNECT: return connect_failed(call);
    case CURLE_COULDNT_RESOLVE_HOST: return diag_set(-EHOSTUNREACH, "%s", result_text(call));
    case CURLE_OPERATION_TIMEDOUT: return diag_set(-ETIMEDOUT, "%s", result_text(call));
    case CURLE_URL_MALFORMAT: return diag_set(-EINVAL, "%s", result_text(call));
    case CURLE_OUT_OF_MEMORY: return diag_set(-ENOMEM, "%s", result_text(call));
    default: return diag_set(-EPROTO, "%s", result_text(call));
    }
}

int http_call_open_wait(HttpClient *client, const HttpCallOptions *options, HttpCall **ret)
{
    CLEANUP(http_call_freep) HttpCall *call = NULL;
    int r = call_new(client, options, &call);
    if (r < 0) return r;
    while (!call->head_done && !call->done) {
        r = call_wait(call, DEADLINE_NONE);
        if (r < 0) return r;
    }
    if (!call->head_done) return open_failed(call);
    *ret = TAKE(call);
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------- */

int http_call_status(const HttpCall *call)
{
    return call->status;
}

Str http_call_field(const HttpCall *call, const char *name)
{
    for (size_t i = 0; i < call->fields_n; i++)
        if (str_eq_nocase(call->fields[i].name, str_of(name))) return call->fields[i].value;
    return STR_NULL;
}

bool http_call_field_at(const HttpCall *call, size_t i, Str *ret_name, Str *ret_value)
{
    if (i >= call->fields_n) return false;
    *ret_name = call->fields[i].name;
    *ret_value = call->fields[i].value;
    return true;
}

static void resume(HttpCall *call)
{
    if (!call->paused || call->done) return;
    call->paused = false; /* before: libcurl delivers what it held back from within, and may pause
                             again */
    call->progress_ms = clock_mono_ms();
    curl_easy_pause(call->easy, CURLPAUSE_CONT);
}

int http_call_read_wait(HttpCall *call, int64_t deadline_ms, Str *ret)
{
    buf_clear(&call->handed);
    while (call->filling.len == 0) {
        if (call->done && call->result == CURLE_OK) return HTTP_CALL_E_END;
        if (call->done) return diag_set(HTTP_CALL_E_CUT, "%s", result_text(call));
        int r = call_wait(call, deadline_ms);
        if (r < 0) return r;
    }
    Buf full = call->filling;
    call->filling = call->handed;
    call->handed = full;
    resume(call);
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
    HttpResponse response = { .status = call->status };
    response.content_type = arena_str(arena, http_call_field(call, "content-type"));
    response.retry_after = arena_str(arena, http_call_field(call, "retry-after"));
    response.body = arena_str(arena, buf_str(&body));
    if (!response.content_type.ptr || !response.retry_after.ptr || !response.body.ptr)
        return -ENOMEM;
    *ret = response;
    return 0;
}
