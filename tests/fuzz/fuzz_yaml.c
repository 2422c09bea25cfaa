/* YAML either gives a tree within the limits, in which every mark lies inside the text, or an error
 * with a message; JSON that is also YAML gives the same tree by both parsers. */
#include "base/diag.h"
#include "codec/yaml.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES ((size_t)512 << 20)

static size_t lines_n(Str text)
{
    size_t n = 1;
    for (size_t i = 0; i < text.len; i++) n += text.ptr[i] == '\n' || text.ptr[i] == '\r';
    return n;
}

static void check_mark(const YamlMarks *marks, Str pointer, Str text)
{
    size_t line = 0, column = 0;
    bool found = yaml_mark(marks, pointer, &line, &column);
    assert(found || pointer.len > 0);
    assert(line >= 1 && line <= lines_n(text) + 2 && column >= 1 && column <= text.len + 2);
}

static void check_marks(const YamlMarks *marks, const Json *v, Str text)
{
    CLEANUP(buf_deinit) Buf pointer = { .max = 1 << 20 };
    size_t i = 0;
    check_mark(marks, STR(""), text);
    for (JsonIter it = json_iter(v); json_next(&it) && i < 50; i++) {
        buf_clear(&pointer);
        if (json_type(v) == JSON_OBJECT) buf_printf(&pointer, "/%.*s", STR_ARG(it.key));
        else buf_printf(&pointer, "/%zu", i);
        check_mark(marks, buf_str(&pointer), text);
        buf_add(&pointer, STR("/0/x~1~0"));
        check_mark(marks, buf_str(&pointer), text);
    }
}

/* Of the trees that both readings make; YAML takes fewer texts than JSON, and reads -0 alike. */
static void check_against_json(Arena *arena, Str text, const Json *yaml)
{
    const Json *json;
    if (json_parse(arena, text, NULL, &json, NULL) < 0) return;
    assert(json_eq(json, yaml));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(arena_deinit) Arena arena = { .max = ARENA_BYTES };
    Str text = str_make((const char *)data, size);
    const Json *v = NULL;
    YamlMarks *marks = NULL;
    diag_clear();
    int r = yaml_parse(&arena, text, &v, &marks);
    if (r < 0) {
        assert(r == -EINVAL || r == -EFBIG);
        assert(diag_text()[0] != '\0');
        return 0;
    }
    check_marks(marks, v, text);
    check_against_json(&arena, text, v);
    return 0;
}
