/* HTTP/1.1 answers as a client reads them, without I/O: bytes in, head and body out.
 *
 * On llhttp with no lenient flag. Informational answers (1xx) are skipped, 101 is an error: nothing
 * asks for an upgrade. Trailers are dropped. The outcome is the same however the bytes are cut.
 * No thread owns it; it belongs to one call.
 */
#ifndef GANTRY_CODEC_HTTP1_ANSWER_H
#define GANTRY_CODEC_HTTP1_ANSWER_H

#include "base/buf.h"
#include "codec/http1.h"

#define HTTP1_ANSWER_FIELDS_MAX 1000

typedef struct {
    int status;         /* from head_done on, as all of the head */
    Http1Field *fields; /* in order of arrival; borrow from text */
    size_t fields_n;
    bool head_done;
    bool ended; /* the message is complete */
    bool keep;  /* with ended: the connection can carry another message */

    /* --- private --- */
    Buf text; /* the head's names and values */
    Buf list; /* of Http1Field */
    Buf *body;
    size_t head_bytes, head_bytes_max;
    size_t name_at, value_at; /* of the field in progress, in text */
    bool no_body;
    int result;
    const char *reason;
    _Alignas(8) unsigned char llhttp[HTTP1_LLHTTP_BYTES];
} Http1Answer;

/* head: the request was HEAD, so no body follows whatever the answer's head says. Heads larger than
 * head_bytes_max, and trailers, are refused. */
void http1_answer_init(Http1Answer *answer, size_t head_bytes_max, bool head);
void http1_answer_deinit(Http1Answer *answer);

/* Consumes input; what of it is body is appended to body, which must have room for all of it.
 * Stops at the end of the message (answer->ended): *ret_used tells how much belonged to it. Returns
 * 0, -EPROTO with diag (this is no HTTP/1.1 answer, or its head is too large), -ENOMEM. After an
 * error it takes no more. */
MUST_CHECK int http1_answer_take(Http1Answer *answer, Str input, Buf *body, size_t *ret_used);

/* The peer has closed the connection. Returns 0 when that is how the message ends (answer->ended is
 * set then), or -ECONNRESET with diag. */
MUST_CHECK int http1_answer_close(Http1Answer *answer);

/* The status that has come so far, of a head that may not be complete; 0: none. */
int http1_answer_status(const Http1Answer *answer);

/* First field of that name (case ignored), or the empty Str. */
Str http1_answer_field(const Http1Answer *answer, Str name);

#endif
