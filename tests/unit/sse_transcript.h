/* What the splitter makes of some bytes, as one line of text: the same for every cut. Asserts
 * that the raw pieces put together are the input. */
#ifndef GANTRY_TESTS_SSE_TRANSCRIPT_H
#define GANTRY_TESTS_SSE_TRANSCRIPT_H

#include "codec/sse.h"

static inline void transcript_text(Buf *out, const char *name, Str text)
{
    buf_printf(out, " %s=", name);
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (c == '\n') buf_add(out, STR("\\n"));
        else if (c == '\r') buf_add(out, STR("\\r"));
        else if (c < 0x20) buf_printf(out, "\\x%02x", c);
        else buf_add_char(out, (char)c);
    }
}

static inline void transcript_piece(Buf *out, int r, const SsePiece *piece, bool raw)
{
    if (r == SSE_END) return;
    buf_add(out, r == SSE_EVENT ? STR("EVENT") : r == SSE_OTHER ? STR("OTHER") : STR("CUT"));
    if (raw) transcript_text(out, "raw", piece->raw);
    if (piece->event.len) transcript_text(out, "event", piece->event);
    if (r == SSE_EVENT) transcript_text(out, "data", piece->data);
    if (piece->id.len || piece->has_id)
        transcript_text(out, piece->has_id ? "id" : "last", piece->id);
    if (piece->retry_ms >= 0) buf_printf(out, " retry=%" PRId64, piece->retry_ms);
    buf_add(out, STR("; "));
}

/* Feeds bytes, step at a time (with a seed: 1 to step, at random). Each chunk is copied to
 * memory of its own, so that a sanitizer sees any look beyond it. raw: show the pieces' bytes
 * too. */
static inline void transcript(Buf *out, size_t max, Str bytes, size_t step, uint64_t seed, bool raw)
{
    SseParser parser;
    SsePiece piece;
    size_t at = 0, raw_at = 0;
    bool random = seed != 0;
    int r = SSE_MORE;
    sse_init(&parser, max);
    while (r == SSE_MORE) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        size_t n = MIN(bytes.len - at, random ? 1 + (size_t)(seed >> 33) % step : step);
        char *chunk = xmalloc(n + 1);
        if (n) memcpy(chunk, bytes.ptr + at, n);
        chunk = xrealloc(chunk, n ? n : 1);
        Str input = { chunk, n };
        at += n;
        if (n == 0) sse_end(&parser);
        while ((r = sse_next(&parser, &input, &piece)) > SSE_MORE && r < SSE_CUT) {
            assert(str_eq(piece.raw, str_sub(bytes, raw_at, piece.raw.len)) && piece.raw.len > 0);
            raw_at += piece.raw.len;
            transcript_piece(out, r, &piece, raw);
        }
        assert(r < 0 || input.len == 0);
        if (r == SSE_CUT) raw_at += piece.raw.len;
        if (r == SSE_CUT || r == SSE_END) transcript_piece(out, r, &piece, raw);
        freep(&chunk);
    }
    if (r < 0) buf_printf(out, "error %d", r);
    else assert(raw_at == bytes.len);
    sse_deinit(&parser);
}

#endif
