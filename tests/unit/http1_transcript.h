/* What a parser makes of some bytes, as one line of text: for tests and fuzzing, where the same
 * bytes cut differently must give the same line. */
#ifndef GANTRY_TESTS_HTTP1_TRANSCRIPT_H
#define GANTRY_TESTS_HTTP1_TRANSCRIPT_H

#include "codec/http1.h"

static inline void transcript_head(Buf *out, const Http1Head *head)
{
    buf_printf(out, "%.*s path=%.*s", STR_ARG(head->method), STR_ARG(head->path));
    if (head->query.len) buf_printf(out, " query=%.*s", STR_ARG(head->query));
    if (head->host.len) buf_printf(out, " host=%.*s", STR_ARG(head->host));
    for (size_t i = 0; i < head->fields_n; i++)
        buf_printf(out, " [%.*s=%.*s]", STR_ARG(head->fields[i].name),
                   STR_ARG(head->fields[i].value));
    if (head->chunked) buf_printf(out, " chunked");
    if (head->content_length) buf_printf(out, " length=%" PRIu64, head->content_length);
    if (head->version_1_0) buf_printf(out, " 1.0");
    if (!head->keep_alive) buf_printf(out, " close");
    if (head->expect_continue) buf_printf(out, " continue");
    buf_printf(out, "; ");
}

/* Feeds bytes, step at a time (with a seed: 1 to step, at random), over as many pipelined
 * messages as there are. The pieces of a body are put together. */
static inline void transcript(Buf *out, const Http1Limits *limits, Str bytes, size_t step,
                              uint64_t seed)
{
    Arena arena;
    Http1Parser parser;
    Buf body;
    arena_init(&arena, 1 << 20);
    buf_init(&body, 1 << 20);
    http1_parser_init(&parser, limits);
    bool failed = false, random = seed != 0;
    size_t shown = MIN(step, bytes.len), at = 0;
    for (;;) {
        Str piece;
        size_t used;
        Http1Event event = http1_parse(&parser, &arena, str_sub(bytes, at, shown - at), &used,
                                       &piece);
        at += used;
        assert(at <= shown);
        if (event == HTTP1_HEAD) transcript_head(out, &parser.head);
        if (event == HTTP1_BODY) {
            assert(piece.len > 0 && piece.ptr >= bytes.ptr &&
                   piece.ptr + piece.len <= bytes.ptr + at);
            buf_add(&body, piece);
        }
        if (event == HTTP1_END) {
            buf_printf(out, "body=%.*s END ", STR_ARG(buf_str(&body)));
            buf_clear(&body);
            arena_clear(&arena);
            bool last = !parser.head.keep_alive;
            http1_parser_reset(&parser);
            assert(http1_parser_idle(&parser));
            if (last) break;
        }
        if (event == HTTP1_ERROR) {
            failed = true;
            buf_printf(out, "body=%.*s ERROR %d %s", STR_ARG(buf_str(&body)), parser.status,
                       parser.reason);
            break;
        }
        if (event != HTTP1_MORE) continue;
        assert(at == shown);
        if (shown == bytes.len) break;
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        shown = MIN(bytes.len, shown + (random ? 1 + (size_t)(seed >> 33) % step : step));
    }
    if (!failed) buf_printf(out, "left=%zu", bytes.len - at);
    buf_deinit(&body);
    arena_deinit(&arena);
}

#endif
