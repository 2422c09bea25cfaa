/* The splitter: the same pieces for every cut, their bytes together the input (transcript
 * asserts it), and what the writer makes of an event reads back. An id that a client gives back is
 * one of ours, which is written as it was read, or nothing. */
#include "codec/sse.h"
#include "logic/task_cursor.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/sse_transcript.h"

static void check_written(Str data)
{
    Buf buf;
    SseParser parser;
    SsePiece piece;
    buf_init(&buf, 1 << 24);
    sse_init(&parser, 1 << 24);
    int r = sse_add_event(&buf, STR("e"), STR("1"), data);
    Str input = buf_str(&buf);
    assert(r == 0 && sse_next(&parser, &input, &piece) == SSE_EVENT && input.len == 0);
    assert(str_find_char(data, '\r') >= 0 || str_eq(piece.data, data));
    sse_deinit(&parser);
    buf_deinit(&buf);
}

static void check_id(Str id)
{
    TaskCursor cursor;
    char text[TASK_CURSOR_TEXT_SIZE];
    if (task_cursor_parse(id, &cursor) == 0)
        assert(str_eq(str_of(task_cursor_text(&cursor, text)), id));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Str bytes = str_make((const char *)data, size);
    uint64_t seed = fuzz_seed(data, size);
    size_t max = seed & 2 ? 0 : 32;
    Buf whole, cut;
    buf_init(&whole, 1 << 24);
    buf_init(&cut, 1 << 24);
    transcript(&whole, max, bytes, SIZE_MAX / 2, 0, true);
    transcript(&cut, max, bytes, 1 + (size_t)(seed >> 40) % 20, seed, true);
    assert(str_eq(buf_str(&whole), buf_str(&cut)));
    check_written(bytes);
    check_id(bytes);
    buf_deinit(&whole);
    buf_deinit(&cut);
    return 0;
}
