/* Answers: what comes out does not depend on how the bytes are cut. */
#include "codec/http1_answer.h"
#include "tests/fuzz/fuzz.h"

typedef struct {
    int taken, closed;
    Http1Answer answer;
    Buf body;
} Took;

static void take(Took *t, Str bytes, size_t step, bool head)
{
    size_t used;
    t->taken = t->closed = 0;
    buf_init(&t->body, 1 << 22);
    http1_answer_init(&t->answer, 1 << 22, head);
    while (t->taken == 0 && !t->answer.ended && bytes.len > 0) {
        Str piece = str_sub(bytes, 0, step);
        t->taken = http1_answer_take(&t->answer, piece, &t->body, &used);
        if (t->taken < 0) break;
        assert(used <= piece.len && (t->answer.ended || used == piece.len));
        bytes = str_skip(bytes, used);
    }
    if (t->taken == 0 && !t->answer.ended) t->closed = http1_answer_close(&t->answer);
}

static void check_same(const Took *a, const Took *b)
{
    assert(a->taken == b->taken && a->closed == b->closed);
    assert(a->answer.head_done == b->answer.head_done && a->answer.ended == b->answer.ended);
    assert(str_eq(buf_str(&a->body), buf_str(&b->body)));
    if (!a->answer.head_done) return;
    assert(a->answer.status == b->answer.status && a->answer.fields_n == b->answer.fields_n);
    assert(a->answer.keep == b->answer.keep);
    for (size_t i = 0; i < a->answer.fields_n; i++) {
        assert(str_eq(a->answer.fields[i].name, b->answer.fields[i].name));
        assert(str_eq(a->answer.fields[i].value, b->answer.fields[i].value));
    }
}

static void took_deinit(Took *t)
{
    http1_answer_deinit(&t->answer);
    buf_deinit(&t->body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    Str bytes = str_make((const char *)data + 1, size - 1);
    uint64_t seed = fuzz_seed(data, size);
    Took whole, cut;
    take(&whole, bytes, SIZE_MAX / 2, data[0] & 1);
    take(&cut, bytes, 1 + (size_t)(seed >> 40) % 40, data[0] & 1);
    check_same(&whole, &cut);
    took_deinit(&whole);
    took_deinit(&cut);
    return 0;
}
