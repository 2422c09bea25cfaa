/* Server-sent events: an incremental splitter and writers (WHATWG HTML, section 9.2).
 *
 * The splitter cuts a stream into pieces whose raw bytes, put together, are the stream: a proxy can
 * forward each piece unchanged and still look at every event. The pieces are the same however the
 * stream was cut into chunks. A piece is an event block with its blank line, or a comment or blank
 * line between events (so that keep-alives pass at once). Lines end in CR, LF or CRLF.
 */
#ifndef GANTRY_CODEC_SSE_H
#define GANTRY_CODEC_SSE_H

#include "base/buf.h"

#define SSE_EVENT_BYTES_MAX (16 * 1024 * 1024) /* the default */
#define SSE_ID_BYTES_MAX 1024                  /* longer ids are ignored */

/* All Strs are valid until the next call with the same parser, and only as long as the input is. */
typedef struct {
    Str raw;          /* the exact bytes, terminator included */
    Str event;        /* the event's name as sent; empty means "message" */
    Str data;         /* data lines joined with LF */
    Str id;           /* the last event id of the stream so far (it outlives its event) */
    bool has_id;      /* this piece set it */
    int64_t retry_ms; /* this piece's retry, or -1 */
} SsePiece;

typedef enum {
    SSE_MORE,  /* all input used, no piece complete: feed what follows */
    SSE_EVENT, /* an event to dispatch */
    SSE_OTHER, /* bytes that are no event: a comment, a blank line, a block without data */
    SSE_CUT,   /* after sse_end: raw is a block that was never finished; not an event */
    SSE_END,   /* after sse_end: nothing is left */
} SseResult;

typedef struct {
    Buf held;   /* the start of a piece that came in more than one chunk */
    Buf joined; /* data of several lines */
    Buf id;
    size_t event_bytes_max;
    size_t piece_bytes; /* of the piece in progress */
    uint8_t bom;        /* bytes of a byte order mark matched, BOM_DONE when past the start */
    bool first;         /* no piece was returned yet: it may begin with the mark */
    bool returned;      /* held belongs to the piece returned last */
    bool line_started;  /* the line in progress has a byte */
    bool line_comment;  /* it begins with ':' */
    bool block;         /* the piece in progress has a field line */
    bool cr;            /* the last byte was a CR that may have a LF behind it */
    bool bare_cr;       /* the stream uses CR alone */
    bool skip_lf;       /* the next byte belongs to a line end if it is a LF */
    bool skipped_lf;    /* the piece in progress begins with such a LF */
    bool ended;
} SseParser;

/* event_bytes_max bounds a piece and so memory; 0: SSE_EVENT_BYTES_MAX. Allocates nothing yet. */
void sse_init(SseParser *parser, size_t event_bytes_max);
void sse_deinit(SseParser *parser);

/* Takes the next piece from the front of *input, which shrinks by what was used. Call it until
 * SSE_MORE, then with the next chunk. *ret is set for SSE_EVENT and SSE_OTHER (SSE_CUT: raw only).
 * Returns an SseResult, -EMSGSIZE (a piece beyond event_bytes_max) or -ENOMEM; after either the
 * parser is of no more use. */
MUST_CHECK int sse_next(SseParser *parser, Str *input, SsePiece *ret);

/* The stream has ended: sse_next with an empty input yields what is left, then SSE_CUT or
 * SSE_END. */
void sse_end(SseParser *parser);

/* --- writing ---------------------------------------------------------------------------------- */

/* Appends an event. event and id may be empty (left out). Returns 0, -EINVAL (a CR, LF or NUL in
 * event or id: nothing is appended), -ENOMEM (buf full). Line ends in data become separate
 * lines. */
MUST_CHECK int sse_add_event(Buf *buf, Str event, Str id, Str data);

/* Appends ": text" and a blank line; line ends in text become spaces. False when buf is full. */
bool sse_add_comment(Buf *buf, Str text);

#endif
