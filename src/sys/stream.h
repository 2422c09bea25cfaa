/* Streams: TCP connections, Unix sockets and pipes for fibers, and listeners.
 *
 * A Stream belongs to the loop it was made on. At most one fiber reads and one writes at a time.
 * Reading goes on in the background into a bounded buffer (back-pressure: it pauses when full).
 */
#ifndef GANTRY_SYS_STREAM_H
#define GANTRY_SYS_STREAM_H

#include "base/str.h"
#include "sys/fiber.h"

typedef struct Stream Stream;

#define STREAM_READ_BYTES_MAX (16 * 1024) /* the default read buffer */

/* Takes ownership of fd (non-blocking is set): a connected socket or a pipe end. */
MUST_CHECK int stream_open(int fd, Stream **ret);

/* Closes at once; a pending _wait of another fiber returns -ECANCELED. NULL is accepted. Memory is
 * freed when libuv has let go. */
void stream_close(Stream *stream);
DEFINE_FREEP(Stream, stream_close)

/* Makes *ret all bytes that are there and not consumed. Waits until there are more than have bytes
 * (0: any): a parser that could not go on with n bytes asks for more than n. Returns 0,
 * STREAM_E_EOF when the peer has finished (*ret is the rest, at most have bytes), -ENOBUFS when the
 * buffer is full, -ETIMEDOUT, -ECANCELED, or -errno. The bytes are valid until stream_consume or
 * the next wait. */
#define STREAM_E_EOF 1
int stream_fill_wait(Stream *stream, size_t have, int64_t deadline_ms, Str *ret);

/* Reads up to n > 0 bytes into out: those that are buffered, or, when there are none, what comes
 * next, without a copy in between. Returns 0 with *ret_n > 0, STREAM_E_EOF, -ETIMEDOUT, -ECANCELED
 * or -errno, all of which leave out to the caller. */
int stream_read_wait(Stream *stream, char *out, size_t n, int64_t deadline_ms, size_t *ret_n);

/* Bytes there without waiting (may be none). */
Str stream_peek(const Stream *stream);

/* Drops n bytes from the front. */
void stream_consume(Stream *stream, size_t n);

/* True once the peer closed or reset (what was read before stays readable). */
bool stream_peer_gone(const Stream *stream);

/* Waits until the peer is gone or cancelled: for watching a client while its answer is made.
 * Returns 0 when gone, -ETIMEDOUT, -ECANCELED. Data arriving meanwhile is buffered. */
int stream_gone_wait(Stream *stream, int64_t deadline_ms);

/* Writes everything, tried directly first. Returns 0, -ETIMEDOUT (partly written: close it),
 * -EPIPE, -ECONNRESET, -ECANCELED, or -errno. Up to 8 pieces, sent in order. */
int stream_write_wait(Stream *stream, const Str *pieces, size_t pieces_n, int64_t deadline_ms);

/* The descriptor, for stream_send_now; -1 once the stream is closing. */
int stream_fd(const Stream *stream);

/* Writes what the kernel takes without waiting: how many bytes. Any thread, while the fiber that
 * owns the stream is parked on something else, with nothing that it has written still on its way. A
 * failure is left for whoever writes next to find. Up to 8 pieces. */
size_t stream_send_now(int fd, const Str *pieces, size_t pieces_n);

/* Half-close: the peer sees end of file. Returns as stream_write_wait. */
int stream_shutdown_wait(Stream *stream, int64_t deadline_ms);

/* --- listeners -------------------------------------------------------------------------------- */

typedef struct Listener Listener;

/* Called on the loop for each connection; owns stream. Typically spawns a fiber. */
typedef void (*ListenerFn)(Stream *stream, void *ctx);

/* Listens on a numeric address ("127.0.0.1", "::1") and port (0: any), SO_REUSEPORT when shared.
 * Returns 0 or -errno with diag ("cannot listen on 127.0.0.1:7070: Address already in use"). */
MUST_CHECK int listener_open(const char *address, uint16_t port, bool shared, ListenerFn fn,
                             void *ctx, Listener **ret);
uint16_t listener_port(const Listener *listener);
/* Stops accepting and frees; NULL is accepted. */
void listener_close(Listener *listener);
DEFINE_FREEP(Listener, listener_close)

#endif
