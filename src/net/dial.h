/* Dial: outbound connections, made by libcurl and used by HTTP calls.
 *
 * libcurl looks names up, tries addresses, checks each against the guard, and shakes TLS hands with
 * certificates verified. Bytes of a plain connection then go straight over its socket, those of TLS
 * through libcurl. A DialConn belongs to its loop; events are told to whoever holds it, by a
 * callback that may store and wake and nothing else.
 */
#ifndef GANTRY_NET_DIAL_H
#define GANTRY_NET_DIAL_H

#include "codec/url.h"
#include "net/addr_guard.h"
#include "sys/loop.h"

typedef struct DialConn DialConn;

typedef struct {
    const Url *url;         /* where to: scheme, host and port; not needed after dial_new */
    const AddrGuard *guard; /* NULL: any address; must outlive the dialling */
    int64_t connect_timeout_ms;
} DialOptions;

typedef enum {
    DIAL_CONNECTING,
    DIAL_OPEN,
    DIAL_FAILED, /* dial_result says why */
} DialState;

/* Begins to connect. on_event(ctx) is called when the state changes, and later when what dial_watch
 * asked for is there. Returns NULL when memory is out. */
DialConn *dial_new(const DialOptions *options);
void dial_notify(DialConn *conn, void (*on_event)(void *ctx), void *ctx);

DialState dial_state(const DialConn *conn);
/* Of a failed one, with diag: -EHOSTUNREACH (name or address), -ECONNREFUSED, -ETIMEDOUT, -EACCES
 * (the guard refused the address), -EPROTO (TLS), -ENOMEM. */
int dial_result(const DialConn *conn);

/* Asks for on_event when bytes can be read, or written too. A closed connection can be read. Stays
 * until it is asked for otherwise. */
void dial_watch(DialConn *conn, bool write_too);
/* No more events. */
void dial_unwatch(DialConn *conn);

/* Never wait. Return the number of bytes, 0 (read: the peer has closed), -EAGAIN, -ECONNRESET or
 * another -errno. dial_write sends head, then body, as one piece where it can. */
ssize_t dial_read(DialConn *conn, char *into, size_t n);
ssize_t dial_write(DialConn *conn, Str head, Str body);

/* Whether there may be bytes that no event will tell of: read until -EAGAIN first. */
bool dial_may_read(const DialConn *conn);

/* Closes, whatever the state. NULL is accepted. */
void dial_free(DialConn *conn);
DEFINE_FREEP(DialConn, dial_free)

#endif
