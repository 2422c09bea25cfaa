/* Requests: what comes out does not depend on how the bytes are cut, and what is accepted is
 * clean. */
#include "codec/http1.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/http1_transcript.h"

static const Http1Limits limits[] = {
    { 0 },
    { .head_bytes_max = 100, .fields_max = 4, .target_bytes_max = 16, .chunk_ext_bytes_max = 12 },
    { .allow_connect = true },
};

/* Nothing of a head that was accepted could be read as something else further on. */
static void check_head(const Http1Head *head)
{
    assert(http1_name_ok(head->method) && head->target.len > 0 && head->path.len > 0);
    for (size_t i = 0; i < head->target.len; i++) {
        unsigned char c = (unsigned char)head->target.ptr[i];
        assert(c > 0x20 && c < 0x7f && c != '#');
    }
    assert(head->version_1_0 || head->host.len > 0);
    assert(!head->chunked || head->content_length == 0);
    for (size_t i = 0; i < head->fields_n; i++) {
        assert(http1_name_ok(head->fields[i].name) && http1_value_ok(head->fields[i].value));
        assert(str_find_char(head->fields[i].name, '_') < 0);
    }
}

static void check_first(const Http1Limits *use, Str bytes)
{
    Arena arena;
    Http1Parser parser;
    Str piece;
    size_t used;
    arena_init(&arena, 1 << 20);
    http1_parser_init(&parser, use);
    if (http1_parse(&parser, &arena, bytes, &used, &piece) == HTTP1_HEAD) check_head(&parser.head);
    assert(used <= bytes.len);
    arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    const Http1Limits *use = &limits[data[0] % ARRAY_N(limits)];
    Str bytes = str_make((const char *)data + 1, size - 1);
    uint64_t seed = fuzz_seed(data, size);
    Buf whole, cut;
    check_first(use, bytes);
    buf_init(&whole, 1 << 24);
    buf_init(&cut, 1 << 24);
    transcript(&whole, use, bytes, SIZE_MAX / 2, 0);
    transcript(&cut, use, bytes, 1 + (size_t)(seed >> 40) % 40, seed);
    assert(str_eq(buf_str(&whole), buf_str(&cut)));
    buf_deinit(&whole);
    buf_deinit(&cut);
    return 0;
}
