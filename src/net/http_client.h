/* HTTP/1.1 client, driven by the loop, used by fibers.
 *
 * Connections are libcurl's work (dial.h): names, addresses, TLS. What goes over them is ours: a
 * request is one write and an answer one read where it can be, because every model call passes
 * here. One client a loop: it keeps connections alive and reuses them. No redirects, no proxy, http
 * and https only.
 */
#ifndef GANTRY_NET_HTTP_CLIENT_H
#define GANTRY_NET_HTTP_CLIENT_H

#include "base/arena.h"
#include "net/addr_guard.h"
#include "sys/fiber.h"

typedef struct HttpClient HttpClient;
typedef struct HttpCall HttpCall;

typedef struct {
    const char *name;
    Str value;
} HttpClientField;

/* Lets another fiber of the loop end a call, also while it is being opened. Zeroed at first; must
 * outlive the call. */
typedef struct {
    HttpCall *call; /* private */
    bool aborted;
    bool sent;   /* out: a connection was made, so the server may have seen the request */
    bool served; /* out: an answer of success had begun, though its head may not have come whole */
} HttpAbort;

/* The call's pending and later waits return -ECONNABORTED. Harmless when it has ended; a call
 * opened with it afterwards fails at once. */
void http_abort(HttpAbort *abort);

typedef struct {
    Str method; /* default GET, POST when there is a body */
    Str url;
    const HttpClientField *fields; /* Host, Content-Length, Transfer-Encoding are set by the client
                                    */
    size_t fields_n;
    Str body;                   /* must live until the call is freed */
    int64_t connect_timeout_ms; /* 0: 10 s */
    int64_t idle_timeout_ms;    /* without a byte received after the request was sent; 0: 600 s */
    int64_t deadline_ms;        /* clock_mono_ms; 0: none */
    size_t header_bytes_max;    /* 0: 256 KiB */
    const AddrGuard *guard;     /* NULL: any address. Guarded calls share no connection */
    HttpAbort *abort;           /* may be NULL */
} HttpCallOptions;

/* On this thread's loop. */
HttpClient *http_client_new(void);
/* No call may be open. NULL is accepted. */
void http_client_free(HttpClient *client);

/* Sends the request and waits for the head of the answer (1xx skipped). Returns 0 with *ret,
 * or with diag: -EHOSTUNREACH (name or address), -ECONNREFUSED, -ECONNRESET (also: closed before a
 * head), -ETIMEDOUT, -EACCES (the guard refused the address), -EPROTO (not HTTP, TLS trouble, head
 * too large), -ECANCELED, -ECONNABORTED (http_abort), -EINVAL (bad URL or field), -ENOMEM. A
 * request of which a byte was sent is never sent twice, but for a GET on a kept connection that
 * turned out to be dead. */
MUST_CHECK int http_call_open_wait(HttpClient *client, const HttpCallOptions *options,
                                   HttpCall **ret);

int http_call_status(const HttpCall *call);
/* First field of that name (case ignored), or the empty Str. Lives as long as the call. */
Str http_call_field(const HttpCall *call, const char *name);
/* i-th field in order of arrival, false beyond the last. */
bool http_call_field_at(const HttpCall *call, size_t i, Str *ret_name, Str *ret_value);

/* Next bytes of the body, at most 64 KiB buffered ahead (then the sender is slowed). *ret is valid
 * until the next call on this HttpCall. Returns 0, HTTP_CALL_E_END (complete as the framing says),
 * HTTP_CALL_E_CUT (ended before that, with diag), -ETIMEDOUT, -ECANCELED, -ECONNABORTED. Content
 * encodings are not asked for and not decoded. */
#define HTTP_CALL_E_END 1
#define HTTP_CALL_E_CUT 2
int http_call_read_wait(HttpCall *call, int64_t deadline_ms, Str *ret);

/* Drops the call; an unfinished one closes its connection. Never waits. NULL is accepted. */
void http_call_free(HttpCall *call);
DEFINE_FREEP(HttpCall, http_call_free)

/* open + read all + free: body of at most body_max bytes into the arena. Returns 0,
 * HTTP_CALL_E_CUT, -EMSGSIZE when it is larger, and what those return. */
typedef struct {
    int status;
    Str content_type;
    Str retry_after;
    Str body;
} HttpResponse;
MUST_CHECK int http_fetch_wait(HttpClient *client, const HttpCallOptions *options, size_t body_max,
                               Arena *arena, HttpResponse *ret);

#endif
