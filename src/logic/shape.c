#include "logic/shape.h"

#include <stdio.h>

#include "base/diag.h"
#include "base/money.h"
#include "codec/duration.h"

#define SHOWN_BYTES_MAX 48
#define NAMES_MAX 32
#define WORDS_BYTES_MAX 256

/* --- messages ------------------------------------------------------------------------------- */

/* A short value as it may stand in a message: a kind, or the text of a scalar. */
static const char *shown(const Json *v, char out[SHOWN_BYTES_MAX + 16])
{
    char number[JSON_NUMBER_TEXT_MAX];
    Str text = json_str(v);
    switch (json_type(v)) {
    case JSON_STRING:
        (void)snprintf(out, SHOWN_BYTES_MAX + 16, "`%.*s%s", (int)MIN(text.len, SHOWN_BYTES_MAX),
                       text.ptr, text.len > SHOWN_BYTES_MAX ? "…`" : "`");
        return out;
    case JSON_BOOL: return json_bool(v, false) ? "true" : "false";
    case JSON_INT:
    case JSON_REAL:
        json_number_format(json_f64_or(v, 0), number);
        (void)snprintf(out, SHOWN_BYTES_MAX + 16, "the number %s", number);
        return out;
    default: return json_type_name(json_type(v));
    }
}

void shape_expected(IssueList *issues, const IssuePath *path, const Json *v, const char *expected)
{
    char text[SHOWN_BYTES_MAX + 16];
    issue_error(issues, path, "expected %s, found %s", expected, shown(v, text));
}

/* Where text is wanted, YAML may have read a number or a boolean: say how to write it. */
static void expected_text(IssueList *issues, const IssuePath *path, const Json *v,
                          const char *expected)
{
    char text[SHOWN_BYTES_MAX + 16];
    JsonType type = json_type(v);
    bool scalar = type == JSON_INT || type == JSON_REAL || type == JSON_BOOL;
    issue_error(issues, path, "expected %s, found %s%s", expected, shown(v, text),
                scalar ? " (put it in quotes)" : "");
}

static const char *kind_name(ShapeKind kind)
{
    static const char *const names[] = {
        [SHAPE_STR] = "a string",
        [SHAPE_STRS] = "an array of strings",
        [SHAPE_INT] = "a whole number",
        [SHAPE_NUMBER] = "a number",
        [SHAPE_MONEY] = "an amount in USD such as \"0.50\"",
        [SHAPE_DURATION] = "a duration such as 500ms, 30s or 1h30m",
        [SHAPE_WORD] = "a word",
        [SHAPE_OBJECT] = "an object",
        [SHAPE_OBJECTS] = "an array of objects",
        [SHAPE_MAP] = "an object",
        [SHAPE_JSON] = "a value",
    };
    assert((size_t)kind < ARRAY_N(names));
    return names[kind];
}

/* "one of a, b, c", or the only word there is. */
static const char *word_list(const ShapeMember *m, char out[WORDS_BYTES_MAX])
{
    size_t len = m->words[1] ? (size_t)snprintf(out, WORDS_BYTES_MAX, "one of ") : 0;
    for (size_t i = 0; m->words[i] && len < WORDS_BYTES_MAX; i++)
        len += (size_t)snprintf(out + len, WORDS_BYTES_MAX - len, "%s%s", i > 0 ? ", " : "",
                                m->words[i]);
    return out;
}

/* --- unknown and missing members ------------------------------------------------------------ */

static const ShapeMember *member_find(const ShapeMember *members, size_t n, Str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(name, str_of(members[i].name))) return &members[i];
    return NULL;
}

static void unknown_member(IssueList *issues, const IssuePath *path, Str name,
                           const ShapeMember *members, size_t n)
{
    Str names[NAMES_MAX];
    assert(n <= NAMES_MAX);
    for (size_t i = 0; i < n; i++) names[i] = str_of(members[i].name);
    Str near = issue_nearest(name, names, n);
    Str cut = str_sub(name, 0, SHOWN_BYTES_MAX);
    if (!str_empty(near)) {
        issue_error(issues, path, "unknown member `%.*s`: did you mean `%.*s`?", STR_ARG(cut),
                    STR_ARG(near));
        return;
    }
    char known[384] = "";
    size_t len = 0;
    for (size_t i = 0; i < n && len < sizeof known; i++)
        len += (size_t)snprintf(known + len, sizeof known - len, "%s%s", i > 0 ? ", " : "",
                                members[i].name);
    issue_error(issues, path, "unknown member `%.*s`: known are %s", STR_ARG(cut), known);
}

/* --- values --------------------------------------------------------------------------------- */

static void *place_of(void *ret, const ShapeMember *m)
{
    assert(ret);
    return m->offset == SHAPE_NOWHERE ? NULL : (char *)ret + m->offset;
}

static bool has_nul(Str s)
{
    return str_find_char(s, '\0') >= 0;
}

static bool read_str(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *m,
                     Str *ret)
{
    Str s = json_str(v);
    assert(m->least >= 0 && m->least <= m->most);
    if (json_type(v) != JSON_STRING) {
        expected_text(issues, path, v, kind_name(m->kind));
    } else if (has_nul(s)) {
        issue_error(issues, path, "must not contain NUL");
    } else if (s.len < (size_t)m->least) {
        issue_error(issues, path, "must not be empty");
    } else if (s.len > (size_t)m->most) {
        issue_error(issues, path, "must be at most %" PRId64 " bytes long, found %zu", m->most,
                    s.len);
    } else {
        if (ret) *ret = s;
        return true;
    }
    return false;
}

static bool read_strs(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *m,
                      ShapeStrs *ret)
{
    size_t n = json_len(v);
    if (json_type(v) != JSON_ARRAY) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    if (n < (size_t)m->least || n > (size_t)m->most) {
        issue_error(issues, path, "must have %" PRId64 " to %" PRId64 " elements, found %zu",
                    m->least, m->most, n);
        return false;
    }
    static const ShapeMember element = { .kind = SHAPE_STR, .least = 1, .most = 4096 };
    Str *items = ARENA_ARRAY(issues->arena, Str, n + 1);
    if (!items) issues->failed = true;
    bool ok = items != NULL;
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        ok &= read_str(issues, &at, it.value, &element, items ? &items[i] : NULL);
    }
    if (ok && ret) *ret = (ShapeStrs){ items, n };
    return ok;
}

static bool read_int(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *m,
                     int64_t *ret)
{
    int64_t n;
    assert(m->least <= m->most);
    int r = json_i64(v, &n);
    if (r == -EINVAL) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    if (r != 0 || n < m->least || n > m->most) {
        issue_error(issues, path, "must be between %" PRId64 " and %" PRId64, m->least, m->most);
        return false;
    }
    if (ret) *ret = n;
    return true;
}

static bool is_number(const Json *v)
{
    return json_type(v) == JSON_INT || json_type(v) == JSON_REAL;
}

static bool read_number(IssueList *issues, const IssuePath *path, const Json *v,
                        const ShapeMember *m, double *ret)
{
    double x = json_f64_or(v, 0);
    if (!is_number(v)) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    if (x < (double)m->least / 1000 || x > (double)m->most / 1000) {
        issue_error(issues, path, "must be between %g and %g", (double)m->least / 1000,
                    (double)m->most / 1000);
        return false;
    }
    if (ret) *ret = x;
    return true;
}

/* A number is taken by its shortest decimal text, so 0.50 and "0.50" are the same amount. */
static bool read_money(IssueList *issues, const IssuePath *path, const Json *v,
                       const ShapeMember *m, int64_t *ret)
{
    char text[JSON_NUMBER_TEXT_MAX];
    Str amount = json_str(v);
    if (is_number(v)) amount = str_make(text, json_number_format(json_f64_or(v, 0), text));
    int64_t nusd;
    int r = money_from_text(amount, NUSD_PER_USD, &nusd);
    if (r == -EINVAL) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    if (r != 0 || nusd < m->least || nusd > m->most) {
        char most[MONEY_TEXT_MAX];
        issue_error(issues, path, "must be above 0 and at most %s USD", money_text(m->most, most));
        return false;
    }
    if (ret) *ret = nusd;
    return true;
}

static bool read_duration(IssueList *issues, const IssuePath *path, const Json *v,
                          const ShapeMember *m, int64_t *ret)
{
    int64_t ms;
    assert(m->least >= 0 && m->least <= m->most);
    int r = json_type(v) == JSON_STRING ? duration_parse(json_str(v), &ms) : -EINVAL;
    if (r == -EINVAL) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    if (r != 0 || ms < m->least || ms > m->most) {
        char least[DURATION_TEXT_MAX], most[DURATION_TEXT_MAX];
        issue_error(issues, path, "must be between %s and %s", duration_format(m->least, least),
                    duration_format(m->most, most));
        return false;
    }
    if (ret) *ret = ms;
    return true;
}

static bool read_word(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *m,
                      int *ret)
{
    Str words[NAMES_MAX], word = json_str(v);
    size_t n = 0;
    for (; m->words[n]; n++) {
        assert(n < NAMES_MAX);
        words[n] = str_of(m->words[n]);
        if (json_type(v) != JSON_STRING || !str_eq(word, words[n])) continue;
        if (ret) *ret = (int)n;
        return true;
    }
    char text[SHOWN_BYTES_MAX + 16], list[WORDS_BYTES_MAX];
    Str near = issue_nearest(word, words, n);
    issue_error(issues, path, "expected %s, found %s%s%.*s%s", word_list(m, list), shown(v, text),
                str_empty(near) ? "" : ": did you mean `", STR_ARG(near),
                str_empty(near) ? "" : "`?");
    return false;
}

static bool read_objects(IssueList *issues, const IssuePath *path, const Json *v,
                         const ShapeMember *m)
{
    size_t n = json_len(v);
    assert(m->members && m->least >= 0 && m->least <= m->most);
    if (json_type(v) != JSON_ARRAY) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    if (n < (size_t)m->least || n > (size_t)m->most) {
        issue_error(issues, path, "must have %" PRId64 " to %" PRId64 " elements, found %zu",
                    m->least, m->most, n);
        return false;
    }
    size_t i = 0;
    for (JsonIter it = json_iter(v); json_next(&it); i++) {
        IssuePath at = ISSUE_INDEX(path, i);
        shape_read(issues, &at, it.value, m->members, m->members_n, NULL);
    }
    return true;
}

static void read_member(IssueList *issues, const IssuePath *path, const Json *v,
                        const ShapeMember *m, void *ret);

static bool read_map(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *m)
{
    assert(m->members && m->members_n == 1);
    if (json_type(v) != JSON_OBJECT) {
        shape_expected(issues, path, v, kind_name(m->kind));
        return false;
    }
    for (JsonIter it = json_iter(v); json_next(&it);) {
        IssuePath at = ISSUE_KEY(path, it.key);
        if (has_nul(it.key) || str_empty(it.key))
            issue_error(issues, &at, "a name must not be empty or contain NUL");
        read_member(issues, &at, it.value, &m->members[0], NULL);
    }
    return true;
}

/* ret is the struct. True when the value is of the right kind and within its range. */
static bool read_value(IssueList *issues, const IssuePath *path, const Json *v,
                       const ShapeMember *m, void *ret)
{
    void *place = ret ? place_of(ret, m) : NULL;
    switch (m->kind) {
    case SHAPE_STR: return read_str(issues, path, v, m, place);
    case SHAPE_STRS: return read_strs(issues, path, v, m, place);
    case SHAPE_INT: return read_int(issues, path, v, m, place);
    case SHAPE_NUMBER: return read_number(issues, path, v, m, place);
    case SHAPE_MONEY: return read_money(issues, path, v, m, place);
    case SHAPE_DURATION: return read_duration(issues, path, v, m, place);
    case SHAPE_WORD: return read_word(issues, path, v, m, place);
    case SHAPE_OBJECT:
        shape_read(issues, path, v, m->members, m->members_n, ret);
        return json_type(v) == JSON_OBJECT;
    case SHAPE_OBJECTS: return read_objects(issues, path, v, m);
    case SHAPE_MAP: return read_map(issues, path, v, m);
    case SHAPE_JSON:
        if (place) *(const Json **)place = v;
        return true;
    }
    assert(false);
    return false;
}

static void read_member(IssueList *issues, const IssuePath *path, const Json *v,
                        const ShapeMember *m, void *ret)
{
    if (read_value(issues, path, v, m, ret) && m->rule) m->rule(issues, path, v);
}

void shape_read(IssueList *issues, const IssuePath *path, const Json *v, const ShapeMember *members,
                size_t members_n, void *ret)
{
    if (json_type(v) != JSON_OBJECT) {
        shape_expected(issues, path, v, kind_name(SHAPE_OBJECT));
        return;
    }
    for (JsonIter it = json_iter(v); json_next(&it);) {
        IssuePath at = ISSUE_KEY(path, it.key.ptr ? it.key : STR(""));
        const ShapeMember *m = member_find(members, members_n, it.key);
        if (m) read_member(issues, &at, it.value, m, ret);
        else unknown_member(issues, &at, it.key, members, members_n);
    }
    for (size_t i = 0; i < members_n; i++) {
        if (!members[i].required || json_get(v, members[i].name)) continue;
        char words[WORDS_BYTES_MAX];
        const ShapeMember *m = &members[i];
        IssuePath at = ISSUE_KEY(path, str_of(m->name));
        issue_error(issues, &at, "missing: expected %s",
                    m->kind == SHAPE_WORD ? word_list(m, words) : kind_name(m->kind));
    }
}
