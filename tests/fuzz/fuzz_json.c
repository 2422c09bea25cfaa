/* What the parser accepts survives: being written, canonical form (its own canonical form), and
 * editing, which changes one member and nothing else. What it refuses it refuses with a place. */
#include "base/diag.h"
#include "codec/json.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES ((size_t)256 << 20)
#define BUF_BYTES ((size_t)64 << 20)

static const Json *parsed_with(Arena *arena, Str text, const JsonLimits *limits)
{
    const Json *v = NULL;
    JsonError error = { .message = NULL };
    int r = json_parse(arena, text, limits, &v, &error);
    if (r == 0) return v;
    assert(r == -EINVAL && error.message && error.offset <= text.len);
    assert(error.line >= 1 && error.column >= 1 && error.column <= error.offset + 1);
    return NULL;
}

static const Json *parsed(Arena *arena, Str text)
{
    return parsed_with(arena, text, NULL);
}

static void check_written(Arena *arena, const Json *v, const JsonLimits *limits)
{
    CLEANUP(buf_deinit) Buf text = { .max = BUF_BYTES };
    JsonOut out = json_out(&text);
    json_out_value(&out, v);
    assert(json_out_ok(&out) && out.depth == 0);
    const Json *again = parsed_with(arena, buf_str(&text), limits);
    assert(again && json_eq(v, again) && json_eq(again, v));
}

/* Integral reals from 2^53 to 10^21 come out as integers that then have no canonical form. */
static void check_canonical(Arena *arena, const Json *v)
{
    CLEANUP(buf_deinit) Buf once = { .max = BUF_BYTES };
    CLEANUP(buf_deinit) Buf twice = { .max = BUF_BYTES };
    int r = json_canonical(v, &once);
    assert(r == 0 || r == -EINVAL);
    if (r < 0) return;
    const Json *again = parsed(arena, buf_str(&once));
    assert(again && json_type(again) != JSON_ABSENT);
    r = json_canonical(again, &twice);
    assert(r == 0 || (r == -EINVAL && strstr(diag_text(), "no canonical form")));
    assert(r < 0 || str_eq(buf_str(&once), buf_str(&twice)));
}

static void check_set(Arena *arena, Str text, const Json *v, Str key)
{
    CLEANUP(buf_deinit) Buf changed = { .max = BUF_BYTES };
    int r = json_member_set(text, key, STR("[\"new\"]"), &changed);
    assert(r == 0);
    JsonLimits one_more = { .members_max = JSON_MEMBERS_DEFAULT + 1 };
    const Json *after = NULL;
    r = json_parse(arena, buf_str(&changed), &one_more, &after, NULL);
    assert(r == 0 && json_len(after) == json_len(v) + !json_get_str(v, key));
    for (JsonIter it = json_iter(after); json_next(&it);) {
        if (str_eq(it.key, key)) assert(str_eq(json_str(json_at(it.value, 0)), STR("new")));
        else assert(json_eq(it.value, json_get_str(v, it.key)));
    }
}

/* The first members, and one that is not there. */
static void check_edits(Arena *arena, Str text, const Json *v)
{
    int left = 4;
    for (JsonIter it = json_iter(v); json_next(&it) && left-- > 0;) {
        Str member, value;
        int r = json_member_span(text, it.key, &member, &value);
        assert(r == 0 && member.ptr >= text.ptr && value.ptr > member.ptr);
        assert(value.ptr + value.len == member.ptr + member.len);
        assert(member.ptr + member.len <= text.ptr + text.len);
        const Json *alone = parsed(arena, value);
        assert(alone && json_eq(alone, it.value));
        check_set(arena, text, v, it.key);
    }
    check_set(arena, text, v, STR("no such \"key\""));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_deinit) Arena arena = { .max = ARENA_BYTES };
    Str text = str_make((const char *)data, size);
    const Json *v = parsed(&arena, text);
    if (!v) return 0;
    check_written(&arena, v, NULL);
    check_canonical(&arena, v);
    if (json_type(v) == JSON_OBJECT) check_edits(&arena, text, v);
    JsonLimits prices = { .numbers_as_text = true };
    const Json *as_text = parsed_with(&arena, text, &prices);
    assert(as_text);
    check_written(&arena, as_text, &prices);
    return 0;
}
