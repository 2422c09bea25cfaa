#include "codec/sse.h"

#define BOM_TEXT STR("\xef\xbb\xbf")
#define BOM_DONE 3

void sse_init(SseParser *parser, size_t event_bytes_max)
{
    if (event_bytes_max == 0) event_bytes_max = SSE_EVENT_BYTES_MAX;
    *parser = (SseParser){ .event_bytes_max = event_bytes_max, .first = true };
    buf_init(&parser->held, event_bytes_max);
    buf_init(&parser->joined, event_bytes_max);
    buf_init(&parser->id, SSE_ID_BYTES_MAX);
}

void sse_deinit(SseParser *parser)
{
    buf_deinit(&parser->held);
    buf_deinit(&parser->joined);
    buf_deinit(&parser->id);
}

void sse_end(SseParser *parser)
{
    parser->ended = true;
}

/* --- finding the end of a piece --------------------------------------------------------------- */

/* The line in progress is over. Returns whether its end is the end of the piece: it does for a
 * blank line, and for a comment that stands outside a block. */
static bool line_end(SseParser *p)
{
    bool blank = !p->line_started;
    bool comment = p->line_comment;
    p->line_started = p->line_comment = false;
    if (blank) return true;
    if (comment) return !p->block;
    p->block = true;
    return false;
}

/* A byte order mark is not part of the first line. Returns whether c may still belong to one. */
static bool bom_match(SseParser *p, char c)
{
    if (c == BOM_TEXT.ptr[p->bom]) {
        p->bom++;
        return true;
    }
    if (p->bom > 0) p->line_started = true; /* what looked like a mark was text */
    p->bom = BOM_DONE;
    return false;
}

/* Bytes before the first CR or LF. */
static size_t line_length(Str s)
{
    const char *lf = memchr(s.ptr, '\n', s.len);
    size_t n = lf ? (size_t)(lf - s.ptr) : s.len;
    const char *cr = memchr(s.ptr, '\r', n);
    return cr ? (size_t)(cr - s.ptr) : n;
}

/* s begins with a byte that is part of the line in progress. Returns how many are. */
static size_t line_run(SseParser *p, Str s)
{
    size_t n = line_length(s);
    assert(n > 0);
    if (!p->line_started) p->line_comment = s.ptr[0] == ':';
    p->line_started = true;
    return n;
}

/* One step over s (not empty): *ret_n bytes are used, the result says whether the piece ends behind
 * them. A CR is only judged with the byte behind it, so that CRLF is never torn, unless the stream
 * has shown that it uses CR alone: then a block is complete at once, and a LF that follows counts
 * as the start of the next piece. */
static bool scan_step(SseParser *p, Str s, size_t *ret_n)
{
    char c = s.ptr[0];
    *ret_n = 1;
    if (p->cr) {
        p->cr = false;
        if (c == '\n') return line_end(p);
        p->bare_cr = true;
        *ret_n = 0;
        return line_end(p);
    }
    if (p->skip_lf) {
        p->skip_lf = false;
        if (c == '\n') return false;
    }
    if (p->bom < BOM_DONE && bom_match(p, c)) return false;
    if (c == '\n') return line_end(p);
    if (c == '\r') {
        if (!p->bare_cr) {
            p->cr = true;
            return false;
        }
        p->skip_lf = true;
        return line_end(p);
    }
    *ret_n = line_run(p, s);
    return false;
}

/* Scans input to the end of the piece in progress. *ret_n bytes belong to it; true when it ends. */
static bool scan(SseParser *p, Str input, size_t *ret_n)
{
    size_t used = 0;
    bool end = false;
    while (!end && used < input.len) {
        size_t n;
        end = scan_step(p, str_skip(input, used), &n);
        used += n;
    }
    *ret_n = used;
    return end;
}

/* --- reading a piece -------------------------------------------------------------------------- */

/* Takes a line off the front of *rest, without its CR, LF or CRLF. */
static Str take_line(Str *rest)
{
    size_t n = line_length(*rest);
    Str line = str_sub(*rest, 0, n);
    size_t end = n < rest->len ? n + 1 : n;
    if (n + 1 < rest->len && rest->ptr[n] == '\r' && rest->ptr[n + 1] == '\n') end++;
    *rest = str_skip(*rest, end);
    return line;
}

/* data lines are joined with LF; a single one is lent as it stands in raw. */
static int add_data(SseParser *p, SsePiece *piece, Str value, size_t lines)
{
    if (lines == 0) {
        piece->data = value;
        return 0;
    }
    if (lines == 1) buf_add(&p->joined, piece->data);
    buf_add_char(&p->joined, '\n');
    if (!buf_add(&p->joined, value)) return -ENOMEM;
    piece->data = buf_str(&p->joined);
    return 0;
}

static int set_id(SseParser *p, SsePiece *piece, Str value)
{
    if (value.len > SSE_ID_BYTES_MAX || str_find_char(value, '\0') >= 0) return 0;
    buf_clear(&p->id);
    if (!buf_add(&p->id, value)) return -ENOMEM;
    piece->has_id = true;
    return 0;
}

static void set_retry(SsePiece *piece, Str value)
{
    int64_t ms;
    bool digits = value.len > 0 && value.ptr[0] != '-';
    if (digits && str_to_i64(value, &ms) == 0) piece->retry_ms = ms;
}

/* One field line (never a comment). *lines counts the data lines of the block so far. */
static int read_field(SseParser *p, SsePiece *piece, Str line, size_t *lines)
{
    Str name;
    Str value = str_split(line, ':', &name, NULL);
    if (value.len > 0 && value.ptr[0] == ' ') value = str_skip(value, 1);
    if (str_eq(name, STR("data"))) return add_data(p, piece, value, (*lines)++);
    if (str_eq(name, STR("id"))) return set_id(p, piece, value);
    if (str_eq(name, STR("event"))) piece->event = value;
    if (str_eq(name, STR("retry"))) set_retry(piece, value);
    return 0;
}

/* Fills piece from its raw bytes. Returns SSE_EVENT, SSE_OTHER or -ENOMEM. */
static int read_piece(SseParser *p, SsePiece *piece, Str raw, bool leading_lf)
{
    size_t lines = 0;
    *piece = (SsePiece){ .raw = raw, .retry_ms = -1 };
    buf_clear(&p->joined);
    if (leading_lf && raw.len > 0 && raw.ptr[0] == '\n') raw = str_skip(raw, 1);
    if (p->first && str_starts_with(raw, BOM_TEXT)) raw = str_skip(raw, BOM_TEXT.len);
    p->first = false;
    while (raw.len > 0) {
        Str line = take_line(&raw);
        if (line.len == 0 || line.ptr[0] == ':') continue;
        int r = read_field(p, piece, line, &lines);
        if (r < 0) return r;
    }
    piece->id = buf_str(&p->id);
    return lines > 0 ? SSE_EVENT : SSE_OTHER;
}

/* --- pieces ----------------------------------------------------------------------------------- */

/* Bytes of input that belong to the piece go to held. */
static int hold(SseParser *p, Str part)
{
    if (part.len > 0 && !buf_add(&p->held, part)) return -ENOMEM;
    return 0;
}

/* The piece's raw bytes are complete; tail is its end in the input. */
static int finish(SseParser *p, Str tail, SsePiece *ret)
{
    Str raw = tail;
    bool leading_lf = p->skipped_lf;
    if (p->held.len > 0) {
        int r = hold(p, tail);
        if (r < 0) return r;
        raw = buf_str(&p->held);
        p->returned = true;
    }
    p->piece_bytes = 0;
    p->block = false;
    p->skipped_lf = p->skip_lf;
    return read_piece(p, ret, raw, leading_lf);
}

/* Nothing follows: what is left is a piece that a final CR ended, bytes that mean nothing, or a
 * block cut off, which is no event. */
static int drain(SseParser *p, SsePiece *ret)
{
    if (p->held.len == 0) return SSE_END;
    bool complete = p->cr && line_end(p);
    p->cr = false;
    if (complete || (!p->block && !p->line_started)) return finish(p, STR_NULL, ret);
    *ret = (SsePiece){ .raw = buf_str(&p->held), .retry_ms = -1 };
    p->returned = true;
    return SSE_CUT;
}

int sse_next(SseParser *parser, Str *input, SsePiece *ret)
{
    size_t n;
    if (parser->returned) {
        buf_clear(&parser->held);
        parser->returned = false;
    }
    if (input->len == 0) return parser->ended ? drain(parser, ret) : SSE_MORE;
    assert(!parser->ended);
    bool end = scan(parser, *input, &n);
    Str part = str_sub(*input, 0, n);
    *input = str_skip(*input, n);
    parser->piece_bytes += n;
    if (parser->piece_bytes > parser->event_bytes_max) return -EMSGSIZE;
    if (end) return finish(parser, part, ret);
    int r = hold(parser, part);
    return r < 0 ? r : SSE_MORE;
}

/* --- writing ---------------------------------------------------------------------------------- */

static bool one_line(Str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.ptr[i] == '\r' || s.ptr[i] == '\n' || s.ptr[i] == '\0') return false;
    return true;
}

static void add_line(Buf *buf, Str field, Str value)
{
    buf_add(buf, field);
    buf_add(buf, STR(": "));
    buf_add(buf, value);
    buf_add_char(buf, '\n');
}

/* Whether text ends in a line end: then an empty line stands behind it. */
static bool ends_line(Str text)
{
    return text.len > 0 && (text.ptr[text.len - 1] == '\n' || text.ptr[text.len - 1] == '\r');
}

int sse_add_event(Buf *buf, Str event, Str id, Str data)
{
    if (!one_line(event) || !one_line(id)) return -EINVAL;
    bool last_empty = data.len == 0 || ends_line(data);
    if (event.len > 0) add_line(buf, STR("event"), event);
    if (id.len > 0) add_line(buf, STR("id"), id);
    while (data.len > 0) add_line(buf, STR("data"), take_line(&data));
    if (last_empty) add_line(buf, STR("data"), STR(""));
    buf_add_char(buf, '\n');
    return buf->failed ? -ENOMEM : 0;
}

bool sse_add_comment(Buf *buf, Str text)
{
    buf_add(buf, STR(": "));
    while (text.len > 0) {
        buf_add(buf, take_line(&text));
        if (text.len > 0) buf_add_char(buf, ' ');
    }
    buf_add(buf, STR("\n\n"));
    return !buf->failed;
}
